//! A policy file of ours, with its key files, from what another implementation is configured with.

use std::fmt::Write as _;
use std::net::Ipv6Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::side::{Found, Mode, Place, Registration, Side};
use super::{Diagnostic, Report, Source, fingerprint};
use crate::ipsec::{SecretKey, Standing, Transform};
use crate::policy::{self, KeyError, KeySource, Role, Warning};
use crate::vocabulary::Prefix;

/// What the files of the other implementation do not say.
#[derive(Debug, Clone)]
pub struct Import {
    /// Whose policy it becomes.
    pub role: Role,
    /// The home agent, when no `mip6d.conf` names it.
    pub home_agent: Option<Ipv6Addr>,
    /// The home link; none: as `mip6d.conf` says, otherwise the /64 of the home agent.
    pub home_link: Option<Prefix>,
    /// Interface of the home link (home agent).
    pub interface: Option<String>,
    /// The one host that encrypts with the security association to the home agent.
    pub host: Option<String>,
    /// What is known of single guests.
    pub guests: Vec<GuestDetails>,
}

/// Details of one guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestDetails {
    /// Its home address.
    pub home_address: Ipv6Addr,
    /// Its name.
    pub name: Option<String>,
    /// MAC address as text; judged with the policy.
    pub mac: Option<String>,
    /// The `port` of the policy file: `bridge` or `tap`, and the name.
    pub port: Option<(&'static str, String)>,
}

/// A policy to be written.
pub struct Imported {
    /// Text of the policy file.
    pub text: String,
    /// Key files by their paths, relative to the policy file's directory.
    pub keys: Vec<(PathBuf, SecretKey)>,
    /// What should be known of it.
    pub notes: Vec<Warning>,
    /// What is still to be filled in, each one line.
    pub open: Vec<String>,
}

/// Makes a policy of what `side` says. The text has gone through the same checks as any policy file; only what
/// [`Imported::open`] names is missing in it.
///
/// # Errors
/// When the side does not hold all of a policy, or says what no policy of ours can hold.
pub fn import(side: &Side, details: &Import) -> Result<Imported, Report> {
    let mut importer = Importer {
        side,
        details,
        errors: Vec::new(),
        keys: Vec::new(),
        notes: side.notes.clone(),
        open: Vec::new(),
        nowhere: side.sources.first().cloned().unwrap_or_else(|| Arc::new(Source::new("", ""))),
    };
    let registrations = importer.registrations();
    let parts: Vec<(String, String)> = registrations
        .iter()
        .enumerate()
        .map(|(index, one)| (importer.guest_head(index, one), importer.guest_rest(index, one)))
        .collect();
    if importer.errors.is_empty() && registrations.is_empty() {
        let help = "give an mip6d.conf with an IPsecPolicySet, or security associations and --home-agent ADDRESS";
        importer.error(None, "guest", "these files name no home address", help);
    }
    let Some(first) = registrations.first().filter(|_| importer.errors.is_empty()) else {
        return Err(Report::new(importer.errors));
    };
    let head = importer.head(first);
    let text = |placeholders: bool| {
        let mut text = head.clone();
        for (index, ((start, rest), one)) in parts.iter().zip(&registrations).enumerate() {
            let _ = write!(text, "{start}{}{rest}", importer.attachment(index, one, placeholders));
        }
        text
    };
    let (checked, text) = (text(true), text(false));
    let keys = ImportedKeys(&importer.keys);
    let load = match details.role {
        Role::MobileNode => policy::load_mobile_node,
        Role::HomeAgent => policy::load_home_agent,
    };
    let loaded = load("the imported policy", &checked, &keys)?;
    let warnings = loaded.warnings.into_iter().filter(|warning| !warning.key.ends_with("key_management_mobility"));
    importer.notes.extend(warnings);
    Ok(Imported { text, keys: importer.keys, notes: importer.notes, open: importer.open })
}

/// The keys as the policy is going to find them.
struct ImportedKeys<'a>(&'a [(PathBuf, SecretKey)]);

impl KeySource for ImportedKeys<'_> {
    fn read_key(&self, path: &Path) -> Result<SecretKey, KeyError> {
        self.0.iter().find(|(known, _)| known == path).map(|(_, key)| key.clone()).ok_or(KeyError::Missing)
    }
}

struct Importer<'a> {
    side: &'a Side,
    details: &'a Import,
    errors: Vec<Diagnostic>,
    keys: Vec<(PathBuf, SecretKey)>,
    notes: Vec<Warning>,
    open: Vec<String>,
    /// For what is missing in all files.
    nowhere: Arc<Source>,
}

impl Importer<'_> {
    fn error(&mut self, place: Option<&Place>, key: &str, message: impl Into<String>, help: impl Into<String>) {
        let (source, span) = place.map_or((&self.nowhere, 0..0), |place| (&place.source, place.span.clone()));
        self.errors.push(Diagnostic::new(source, span, key, message).help(help));
    }

    /// From `mip6d.conf`, or from pairs of security associations.
    fn registrations(&mut self) -> Vec<Registration> {
        if !self.side.registrations.is_empty() {
            return self.side.registrations.clone();
        }
        let Some(home_agent) = self.home_agent() else { return Vec::new() };
        let reqid = |found: &Found| found.parts().map_or(0, |(reqid, ..)| reqid);
        let mut out: Vec<Registration> = Vec::new();
        for found in &self.side.associations {
            let key = found.association.key;
            if key.destination != home_agent || out.iter().any(|one| one.home_address == key.source) {
                continue;
            }
            let mut back = self.side.associations.iter().map(|back| (back, back.association.key));
            let back = back.find(|(_, back)| back.source == home_agent && back.destination == key.source);
            out.push(Registration {
                home_agent,
                home_address: key.source,
                home_link: self.details.home_link.unwrap_or(Prefix::of(home_agent, 64)),
                name: None,
                // Without the way back it is told below which one is missing.
                reqids: Some((reqid(found), back.map_or(0, |(back, _)| reqid(back)))),
                place: found.place.clone(),
            });
        }
        out
    }

    fn home_agent(&mut self) -> Option<Ipv6Addr> {
        if let Some(address) = self.details.home_agent {
            return Some(address);
        }
        if let Some((_, home_agent)) = self.side.hints.first() {
            return Some(*home_agent);
        }
        let mut many: Vec<Ipv6Addr> = Vec::new();
        for one in &self.side.associations {
            let key = one.association.key;
            let others =
                self.side.associations.iter().filter(|other| other.association.key.destination == key.destination);
            let mut others = others.map(|other| other.association.key.source);
            if others.any(|source| source != key.source) && !many.contains(&key.destination) {
                many.push(key.destination);
            }
        }
        if let [home_agent] = many[..] {
            return Some(home_agent);
        }
        let help = "say it with --home-agent ADDRESS, or give mip6d.conf as well";
        self.error(
            None,
            "home_agent.address",
            "these files do not tell which of the addresses is the home agent's",
            help,
        );
        None
    }

    fn head(&mut self, first: &Registration) -> String {
        let link = self.details.home_link.unwrap_or(first.home_link);
        let files: Vec<String> =
            self.side.files.iter().map(|file| file.chars().filter(|c| !c.is_control()).collect()).collect();
        let mut text = format!("# Policy of a {}, from {}.\n\n[home_agent]\n", self.details.role, files.join(" and "));
        let _ = writeln!(
            text,
            "address = \"{}\"\nhome_link = \"{link}\"",
            self.details.home_agent.unwrap_or(first.home_agent)
        );
        if self.side.key_management_mobility == Some(true) {
            text.push_str("key_management_mobility = true\n");
        }
        if self.details.role == Role::HomeAgent {
            let interface = self.details.interface.clone().or(self.side.interface.clone());
            let interface = interface.unwrap_or_else(|| {
                self.open.push(
                    "home_agent.interface: eth0 is written; it must be the interface on the home link".to_owned(),
                );
                "eth0".to_owned()
            });
            let _ = writeln!(text, "interface = {}", toml::Value::String(interface));
            if let Some(lifetime) = self.side.maximum_lifetime {
                let _ = writeln!(text, "maximum_lifetime = {}", lifetime.as_secs());
            }
        }
        text
    }

    fn details_of(&self, one: &Registration) -> Option<&GuestDetails> {
        self.details.guests.iter().find(|guest| guest.home_address == one.home_address)
    }

    fn name(&self, index: usize, one: &Registration) -> String {
        let name = self.details_of(one).and_then(|guest| guest.name.clone()).or(one.name.clone());
        name.unwrap_or_else(|| format!("vm{}", index + 1))
    }

    fn guest_head(&mut self, index: usize, one: &Registration) -> String {
        let name = self.name(index, one);
        if self.details.role == Role::MobileNode {
            let guest = self.details_of(one);
            let open =
                [("mac", guest.is_none_or(|g| g.mac.is_none())), ("port", guest.is_none_or(|g| g.port.is_none()))];
            let lines =
                open.into_iter().filter(|(_, open)| *open).map(|(key, _)| format!("guest.{name}.{key}: fill it in"));
            self.open.extend(lines.collect::<Vec<_>>());
        }
        format!("\n[[guest]]\nname = {}\nhome_address = \"{}\"\n", toml::Value::String(name), one.home_address)
    }

    /// Where the guest is on this host; what is not known stands in a comment, or, for checking the rest, a value.
    fn attachment(&self, index: usize, one: &Registration, placeholders: bool) -> String {
        if self.details.role == Role::HomeAgent {
            return String::new();
        }
        let guest = self.details_of(one);
        let comment = if placeholders { "" } else { "#" };
        let n = (index + 1).to_be_bytes();
        let example = format!("52:54:00:{:02x}:{:02x}:{:02x}", n[n.len() - 3], n[n.len() - 2], n[n.len() - 1]);
        let mac = match guest.and_then(|guest| guest.mac.clone()) {
            Some(mac) => format!("mac = {}\n", toml::Value::String(mac)),
            None => format!("{comment}mac = \"{example}\"\n"),
        };
        let port = match guest.and_then(|guest| guest.port.clone()) {
            Some((kind, name)) => format!("port = {{ {kind} = {} }}\n", toml::Value::String(name)),
            None => format!("{comment}port = {{ bridge = \"br-home\" }}\n"),
        };
        let lifetime = self.side.lifetime.map(|lifetime| format!("lifetime = {}\n", lifetime.as_secs()));
        format!("{mac}{port}{}", lifetime.unwrap_or_default())
    }

    fn guest_rest(&mut self, index: usize, one: &Registration) -> String {
        let name = self.name(index, one);
        let Some((to_home_agent, to_guest)) = one.reqids else { return "protect = \"none\"\n".to_owned() };
        let mut text = format!(
            "\n[guest.protect.home-registration]\nreqid = {{ to_home_agent = {to_home_agent}, to_guest = {to_guest} }}\n"
        );
        let ends = [(one.home_address, one.home_agent, to_home_agent), (one.home_agent, one.home_address, to_guest)];
        for (direction, (source, destination, reqid)) in ["to-home-agent", "to-guest"].into_iter().zip(ends) {
            let side = self.side;
            let between = |found: &&Found| {
                found.association.key.source == source && found.association.key.destination == destination
            };
            let all: Vec<&Found> = side.associations.iter().filter(between).collect();
            let good: Vec<&Found> = all.iter().copied().filter(|found| self.fits(found, reqid)).collect();
            let key = format!("guest.{name}.security_association");
            if all.is_empty() {
                let message = format!("there is no security association from {source} to {destination}");
                let help = "give the file of security associations too: --sa sa.conf, or --xfrm with the output of `ip xfrm state`";
                self.error(one.place.as_ref(), &key, message, help);
            }
            let only_one = self.details.role == Role::MobileNode || direction == "to-guest";
            if let (Some(second), true) = (good.get(1), only_one) {
                let message = format!("there is another security association from {source} to {destination}");
                let help = "a sender has one: leave only the one of this host in the file";
                self.error(second.place.as_ref(), &key, message, help);
            }
            for found in &good {
                self.association(&mut text, &name, direction, found, good.len() > 1);
            }
        }
        text
    }

    /// Whether a policy can hold an SA; otherwise it is told why not.
    fn fits(&mut self, found: &Found, reqid: u32) -> bool {
        let place = found.place.as_ref();
        let spi = found.association.key.spi;
        let Some((its, encryption, integrity, _)) = found.parts() else { return false };
        if found.mode != Mode::Transport {
            let message =
                format!("SPI {spi:#x} is in {} mode; HomeRegBinding is protected in transport mode", found.mode.name());
            let help = "the classes in tunnel mode (TunnelHomeTesting, TunnelMh, TunnelPayload) are not supported here yet: take \
                        it out on both sides";
            self.error(place, "mode", message, help);
        } else if found.extended_sequence_numbers {
            let message = format!("SPI {spi:#x} has extended sequence numbers, which are not supported here yet");
            self.error(place, "flag esn", message, "make it without `flag esn` on both sides");
        } else if its != reqid {
            let message = format!("SPI {spi:#x} has the reqid {its}; the policy for these packets wants {reqid}");
            let help = "correct -u (setkey) or reqid (ip), or the numbers of IPsecPolicy HomeRegBinding UseESP";
            self.error(place, "reqid", message, help);
        } else if reqid == 0 {
            let message = format!("SPI {spi:#x} has no reqid");
            self.error(place, "reqid", message, "give it one, with -u (setkey) or reqid (ip), on both sides");
        } else if !encryption.0.is_aead() && integrity.is_none() {
            let message = format!("SPI {spi:#x} encrypts without protecting integrity");
            self.error(place, "integrity", message, "add an integrity algorithm with its key on both sides");
        } else {
            return true;
        }
        false
    }

    fn association(&mut self, text: &mut String, name: &str, direction: &str, found: &Found, many: bool) {
        let Transform::EspTransport { encryption, integrity, replay_window, .. } = &found.association.transform else {
            return;
        };
        let spi = found.association.key.spi;
        let _ = writeln!(text, "\n[[guest.security_association]]\ndirection = \"{direction}\"\nspi = {spi:#x}");
        let to_home_agent = direction == "to-home-agent";
        let host = match (to_home_agent, many) {
            (true, true) => {
                let host = format!("host-with-{spi:#x}");
                self.open
                    .push(format!("guest.{name}: host = {host:?} is to be the name of the host that has SPI {spi:#x}"));
                Some(host)
            }
            (true, false) if self.details.role == Role::MobileNode || encryption.0.is_counter_mode() => {
                found.host.clone().or(self.details.host.clone()).filter(|_| encryption.0.is_counter_mode())
            }
            _ => None,
        };
        if let Some(host) = host {
            let _ = writeln!(text, "host = {}", toml::Value::String(host));
        }
        let stem = match (to_home_agent, many) {
            (true, true) => format!("{name}-{spi:x}-to-ha"),
            (true, false) => format!("{name}-to-ha"),
            (false, _) => format!("ha-to-{name}"),
        };
        let (algorithm, secret) = encryption;
        if secret.length() == 0 {
            let _ = writeln!(text, "encryption = {{ algorithm = \"{}\" }}", algorithm.name());
        } else {
            let file = self.key_file(format!("keys/{stem}.enc"), secret);
            let _ = writeln!(text, "encryption = {{ algorithm = \"{}\", key_file = \"{file}\" }}", algorithm.name());
        }
        let mut legacy = algorithm.standing() == Standing::Legacy;
        if let Some((algorithm, secret)) = integrity {
            legacy |= algorithm.standing() == Standing::Legacy;
            let file = self.key_file(format!("keys/{stem}.auth"), secret);
            let _ = writeln!(text, "integrity = {{ algorithm = \"{}\", key_file = \"{file}\" }}", algorithm.name());
        }
        if legacy {
            text.push_str("legacy = true\n");
        }
        // The receiver's; that of the other side, and one of 0, is none to keep.
        let inbound = to_home_agent == (self.details.role == Role::HomeAgent);
        if inbound && (1..32).contains(replay_window) {
            let _ = writeln!(text, "replay_window = {replay_window}");
        }
    }

    fn key_file(&mut self, path: String, secret: &SecretKey) -> String {
        self.keys.push((PathBuf::from(&path), secret.clone()));
        path
    }
}

impl std::fmt::Debug for Imported {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let keys = self.keys.iter().map(|(path, key)| (path, fingerprint(key)));
        f.debug_struct("Imported")
            .field("text", &self.text)
            .field("keys", &keys.collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}
