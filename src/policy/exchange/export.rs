//! What the administrator of the other side installs, from our policy.

use std::fmt::{self, Write as _};

use zeroize::Zeroizing;

use super::{algorithms, typeless};
use crate::ipsec::{AssociationLifetime, Encryption, Esp, Integrity, SecretKey, SecurityAssociation};
use crate::policy::{GuestPolicy, KeyOrigin, KeyPaths, Policy, Role, key_text};

/// Packets in the replay window of the side that receives.
const REPLAY_WINDOW: u32 = 32;

/// The widest window that a Linux kernel takes over PF_KEY, in packets.
const PLAIN_WINDOW: u32 = 32;

/// Octets that the text for one security association does not exceed; reserved, so that no copy of a key stays behind when the
/// text grows.
const LONGEST_ASSOCIATION: usize = 2048;

/// A form to export to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// The `IPsecPolicySet` of umip's `mip6d.conf`.
    Mip6d,
    /// `sa.conf` for `setkey -f`.
    Setkey,
    /// A script of `ip xfrm state add` and `ip xfrm policy add`.
    IpXfrm,
    /// strongSwan's `swanctl.conf`.
    Swanctl,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Mip6d => "mip6d",
            Self::Setkey => "setkey",
            Self::IpXfrm => "ip-xfrm",
            Self::Swanctl => "swanctl",
        })
    }
}

/// Why a policy cannot be said in a form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExportError {
    /// strongSwan negotiates every key by IKE.
    #[error(
        "swanctl.conf cannot hold this policy: strongSwan has no security associations with manual keys, it makes each by IKE, \
         which Kagemusha does not speak; take `--to ip-xfrm`"
    )]
    ManualKeys,
    /// `setkey` has no word for an algorithm or a parameter.
    #[error("guest {guest}: setkey cannot say {what} on Linux{why}; take `--to ip-xfrm`")]
    Unspeakable {
        /// Name of the guest.
        guest: String,
        /// The algorithm or parameter.
        what: &'static str,
        /// More about it, or nothing.
        why: &'static str,
    },
    /// There is nothing to install.
    #[error("no guest of this policy has protection, so there is nothing to install on the other side")]
    Unprotected,
}

/// The text of a form for the other side of `policy`. Without `with_keys` it names the key files instead of the keys; `paths` are
/// those of [`crate::policy::load_with_key_paths`]. The text is wiped when dropped.
///
/// # Errors
/// When the form cannot say it.
pub fn export(
    policy: &Policy,
    paths: &[KeyPaths],
    format: Format,
    with_keys: bool,
) -> Result<Zeroizing<String>, ExportError> {
    if format == Format::Swanctl {
        return Err(ExportError::ManualKeys);
    }
    let associations: usize = policy.guests.iter().map(|guest| guest.protection.associations().len()).sum();
    let exporter = Exporter { policy, paths, format, with_keys };
    // A home agent of umip needs a security policy for guests without protection, too, on some kernels.
    if associations == 0 && (format == Format::Setkey || exporter.other() == Role::MobileNode) {
        return Err(ExportError::Unprotected);
    }
    let mut text = Zeroizing::new(String::with_capacity(4096 + associations * LONGEST_ASSOCIATION));
    exporter.head(&mut text);
    for guest in &policy.guests {
        exporter.guest(&mut text, guest)?;
    }
    if format == Format::IpXfrm {
        text.push_str("END\n");
    }
    Ok(text)
}

struct Exporter<'a> {
    policy: &'a Policy,
    paths: &'a [KeyPaths],
    format: Format,
    with_keys: bool,
}

impl Exporter<'_> {
    fn other(&self) -> Role {
        match self.policy.role {
            Role::MobileNode => Role::HomeAgent,
            Role::HomeAgent => Role::MobileNode,
        }
    }

    fn head(&self, text: &mut String) {
        let other = self.other();
        match self.format {
            Format::Mip6d => {
                let (config, name) =
                    if other == Role::HomeAgent { ("HA", "home agent") } else { ("MN", "mobile node") };
                let mobility = if self.policy.home_agent.key_management_mobility { "enabled" } else { "disabled" };
                let _ = writeln!(
                    text,
                    "# Part of mip6d.conf of the {name} (NodeConfig {config}). Before mip6d starts, load the security associations"
                );
                text.push_str(
                    "# (`kagemusha policy export --to setkey`) and the policies told below; or both (`--to ip-xfrm`).\n",
                );
                let protected = self.policy.guests.iter().any(|guest| !guest.protection.is_none());
                let ipsec = if protected { "enabled" } else { "disabled" };
                let _ = writeln!(text, "UseMnHaIPsec {ipsec};\nKeyMngMobCapability {mobility};");
            }
            Format::Setkey => {
                let _ = writeln!(text, "# Security associations of the {other}: setkey -f FILE, before mip6d starts.");
            }
            Format::IpXfrm | Format::Swanctl => {
                let _ = writeln!(
                    text,
                    "#!/bin/sh\n# Security associations of the {other}, and policies that go with those of umip's mip6d; load them before it \
                     starts.\n# As a batch, so that keys stand on no command line."
                );
            }
        }
        if !self.with_keys && self.format != Format::Mip6d {
            text.push_str("# Each <KEY:FILE> stands for 0x and the content of that key file; `--with-keys` writes the keys themselves.\n");
        }
        if self.format == Format::IpXfrm {
            text.push_str("ip -batch - <<'END'\n");
        }
    }

    fn guest(&self, text: &mut String, guest: &GuestPolicy) -> Result<(), ExportError> {
        let _ = writeln!(text, "\n# guest {}", guest.name);
        if guest.protection.is_none() {
            let _ = writeln!(text, "# {} registers without protection", guest.home_address);
        } else {
            self.protection(text, guest)?;
        }
        self.typeless(text, guest);
        Ok(())
    }

    /// What umip's policies need beside them on newer kernels: commands for `ip`, in `mip6d.conf` as comments.
    fn typeless(&self, text: &mut String, guest: &GuestPolicy) {
        let lines = typeless::policies(self.policy, guest, self.other());
        let before = match self.format {
            Format::Mip6d => "# ip ",
            Format::IpXfrm => "",
            Format::Setkey | Format::Swanctl => return,
        };
        if !lines.is_empty() {
            text.push_str(typeless::PURPOSE);
        }
        for line in lines {
            let _ = writeln!(text, "{before}{line}");
        }
    }

    fn protection(&self, text: &mut String, guest: &GuestPolicy) -> Result<(), ExportError> {
        let home_agent = self.policy.home_agent.address;
        if self.format == Format::Mip6d {
            let length = self.policy.home_agent.home_link.length();
            let _ = writeln!(text, "IPsecPolicySet {{\n\tHomeAgentAddress {home_agent};");
            let _ = writeln!(text, "\tHomeAddress {}/{length};", guest.home_address);
            for (class, reqids) in &guest.protection.classes {
                let (name, to, from) = (class.umip_name(), reqids.to_home_agent, reqids.to_guest);
                let _ = writeln!(text, "\tIPsecPolicy {name} UseESP {to} {from};");
            }
            text.push_str("}\n");
            return Ok(());
        }
        let mut class = None;
        for association in guest.protection.associations() {
            let serves = association.reqid().and_then(|reqid| guest.protection.serves(reqid));
            if let Some((this, _)) = serves.filter(|(this, _)| class != Some(*this)) {
                class = Some(this);
                let _ = writeln!(text, "# {} ({this})", this.traffic());
            }
            let paths = self.paths.iter().find(|paths| paths.association == association.key);
            if let Some(host) = paths.and_then(|paths| paths.host.as_ref()) {
                let _ = writeln!(text, "# host {host}");
            }
            match self.format {
                Format::Setkey => self.setkey(text, guest, association, paths)?,
                _ => self.ip_xfrm(text, association, paths),
            }
        }
        Ok(())
    }

    /// The window of an SA on the other side: it has one where it receives. With extended sequence numbers both sides have the same.
    fn window(&self, association: &SecurityAssociation, esp: &Esp) -> u32 {
        let to_home_agent = association.key.destination == self.policy.home_agent.address;
        if esp.extended_sequence_numbers {
            esp.replay_window
        } else if to_home_agent == (self.other() == Role::HomeAgent) {
            REPLAY_WINDOW
        } else {
            0
        }
    }

    fn unknown(&self, guest: &GuestPolicy, what: &'static str) -> ExportError {
        ExportError::Unspeakable { guest: guest.name.clone(), what, why: "" }
    }

    fn setkey(
        &self,
        text: &mut String,
        guest: &GuestPolicy,
        association: &SecurityAssociation,
        paths: Option<&KeyPaths>,
    ) -> Result<(), ExportError> {
        let Some(esp) = association.transform.esp() else { return Ok(()) };
        let Esp { mode, reqid, encryption, integrity, lifetime, .. } = esp;
        let unknown = |algorithm, why| ExportError::Unspeakable { guest: guest.name.clone(), what: algorithm, why };
        let name = algorithms::setkey_encryption_name(encryption.0).ok_or_else(|| unknown(encryption.0.name(), ""))?;
        let key = association.key;
        let _ = write!(text, "add {} {} esp {:#x} -u {reqid} -m {}", key.source, key.destination, key.spi, mode.name());
        let window = self.window(association, esp);
        if window > 0 {
            let _ = write!(text, " -r {window}");
        }
        if esp.extended_sequence_numbers {
            return Err(self.unknown(guest, "extended sequence numbers"));
        }
        if window > PLAIN_WINDOW {
            return Err(self.unknown(guest, "a replay window above 32 packets"));
        }
        if lifetime.soft.packets.or(lifetime.hard.packets).is_some() {
            return Err(self.unknown(guest, "a limit of packets"));
        }
        for (option, limit) in [
            ("-ls", lifetime.soft.seconds),
            ("-lh", lifetime.hard.seconds),
            ("-bs", lifetime.soft.bytes),
            ("-bh", lifetime.hard.bytes),
        ] {
            if let Some(limit) = limit {
                let _ = write!(text, " {option} {limit}");
            }
        }
        let _ = write!(text, " -E {name}");
        if encryption.0 != Encryption::Null {
            text.push(' ');
            self.key(text, &encryption.1, paths.and_then(|paths| paths.encryption.as_ref()));
        }
        if let Some((algorithm, secret)) = integrity {
            let why = match algorithm {
                Integrity::HmacSha256 => {
                    ": it gives hmac-sha256 an ICV of 96 bits there, and the two sides would not understand each other"
                }
                _ => "",
            };
            let name = algorithms::setkey_integrity_name(*algorithm).ok_or_else(|| unknown(algorithm.name(), why))?;
            let _ = write!(text, " -A {name} ");
            self.key(text, secret, paths.and_then(|paths| paths.integrity.as_ref()));
        }
        text.push_str(" ;\n");
        Ok(())
    }

    fn ip_xfrm(&self, text: &mut String, association: &SecurityAssociation, paths: Option<&KeyPaths>) {
        let Some(esp) = association.transform.esp() else { return };
        let Esp { mode, reqid, encryption, integrity, lifetime, .. } = esp;
        let key = association.key;
        let _ = write!(text, "xfrm state add src {} dst {} proto esp spi {:#x}", key.source, key.destination, key.spi);
        let _ = write!(text, " reqid {reqid} mode {} replay-window {}", mode.name(), self.window(association, esp));
        if esp.extended_sequence_numbers {
            text.push_str(" flag esn");
        }
        let AssociationLifetime { soft, hard } = lifetime;
        for (name, limit) in [
            ("time-soft", soft.seconds),
            ("time-hard", hard.seconds),
            ("byte-soft", soft.bytes),
            ("byte-hard", hard.bytes),
            ("packet-soft", soft.packets),
            ("packet-hard", hard.packets),
        ] {
            if let Some(limit) = limit {
                let _ = write!(text, " limit {name} {limit}");
            }
        }
        let path = paths.and_then(|paths| paths.encryption.as_ref());
        match (encryption.0.icv_bits(), encryption.0) {
            (Some(bits), algorithm) => {
                let _ = write!(text, " aead {} ", algorithm.kernel_name());
                self.key(text, &encryption.1, path);
                let _ = write!(text, " {bits}");
            }
            (None, Encryption::Null) => {
                let _ = write!(text, " enc {} \"\"", Encryption::Null.kernel_name());
            }
            (None, algorithm) => {
                let _ = write!(text, " enc {} ", algorithm.kernel_name());
                self.key(text, &encryption.1, path);
            }
        }
        if let Some((algorithm, secret)) = integrity {
            let _ = write!(text, " auth-trunc {} ", algorithm.kernel_name());
            self.key(text, secret, paths.and_then(|paths| paths.integrity.as_ref()));
            let _ = write!(text, " {}", algorithm.icv_bits());
        }
        text.push('\n');
    }

    fn key(&self, text: &mut String, secret: &SecretKey, origin: Option<&KeyOrigin>) {
        if !self.with_keys {
            let _ = match origin {
                Some(KeyOrigin::File(path)) => write!(text, "<KEY:{}>", path.display()),
                Some(KeyOrigin::Credential(name)) => write!(text, "<KEY:credential {name}>"),
                Some(KeyOrigin::Inline) | None => write!(text, "<KEY:in the policy file>"),
            };
            return;
        }
        let digits = key_text(secret.expose());
        text.push_str("0x");
        text.push_str(std::str::from_utf8(&digits).unwrap_or_default().trim_end());
    }
}
