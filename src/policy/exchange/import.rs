//! A policy file of ours, with its key files, from what another implementation is configured with.

use std::fmt::Write as _;
use std::net::Ipv6Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::side::{Found, Mode, Place, Registration, Side};
use super::{Diagnostic, Report, Source, fingerprint};
use crate::ipsec::{AssociationLifetime, Class, Esp, Limits, SecretKey, Standing, Toward};
use crate::policy::{self, KeyError, KeySource, Reqids, Role, Warning};
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
        let mut out: Vec<Registration> = Vec::new();
        for found in &self.side.associations {
            let key = found.association.key;
            if key.destination != home_agent || out.iter().any(|one| one.home_address == key.source) {
                continue;
            }
            let mut reqids: [Vec<u32>; 2] = [Vec::new(), Vec::new()];
            let mut tunnel = false;
            for other in &self.side.associations {
                let ends = (other.association.key.source, other.association.key.destination);
                let way = if ends == (key.source, home_agent) {
                    0
                } else if ends == (home_agent, key.source) {
                    1
                } else {
                    continue;
                };
                tunnel |= other.mode == Mode::Tunnel;
                let reqid = other.association.reqid().unwrap_or(0);
                if !reqids[way].contains(&reqid) {
                    reqids[way].push(reqid);
                }
            }
            if tunnel || reqids.iter().any(|all| all.len() > 1) {
                let message =
                    format!("the security associations of {} serve several classes of protection", key.source);
                let help = "give mip6d.conf too (--mip6d): its IPsecPolicy lines say which reqids serve which class";
                self.error(found.place.as_ref(), "guest", message, help);
                continue;
            }
            // Without the way back it is told below which one is missing.
            let [to_home_agent, to_guest] = reqids.map(|all| all.first().copied().unwrap_or(0));
            out.push(Registration {
                home_agent,
                home_address: key.source,
                home_link: self.details.home_link.unwrap_or(Prefix::of(home_agent, 64)),
                name: None,
                classes: [(Class::HomeRegistration, Reqids { to_home_agent, to_guest })].into(),
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
        if one.classes.is_empty() {
            return "protect = \"none\"\n".to_owned();
        }
        let mut text = String::new();
        for (class, reqids) in &one.classes {
            let Reqids { to_home_agent, to_guest } = reqids;
            let _ = writeln!(text, "\n[guest.protect.{class}]");
            let _ = writeln!(text, "reqid = {{ to_home_agent = {to_home_agent}, to_guest = {to_guest} }}");
        }
        for (class, reqids) in &one.classes {
            for toward in Toward::BOTH {
                let service =
                    Service { class: *class, toward, reqid: reqids.toward(toward), several: one.classes.len() > 1 };
                self.service(&mut text, &name, one, service);
            }
        }
        text
    }

    /// The SAs of one class and direction.
    fn service(&mut self, text: &mut String, name: &str, one: &Registration, service: Service) {
        let Service { class, toward, reqid, several } = service;
        let ends = |guest: Ipv6Addr| match toward {
            Toward::HomeAgent => (guest, one.home_agent),
            Toward::Guest => (one.home_agent, guest),
        };
        let (source, destination) = ends(one.home_address);
        let side = self.side;
        let between = |found: &&Found| {
            let key = found.association.key;
            let same = found.association.reqid() == Some(reqid);
            // A tunnel ends at the care-of address while there is a binding.
            let home_agent_end = if toward == Toward::HomeAgent { key.destination } else { key.source };
            if class.is_tunnel() && same && found.mode == Mode::Tunnel && home_agent_end == one.home_agent {
                return true;
            }
            (key.source, key.destination) == (source, destination) && (same || !several)
        };
        let all: Vec<&Found> = side.associations.iter().filter(between).collect();
        let good: Vec<&Found> = all.iter().copied().filter(|found| self.fits(found, service)).collect();
        let key = format!("guest.{name}.security_association");
        if all.is_empty() {
            let of = if several { format!(" for {} (reqid {reqid})", class.umip_name()) } else { String::new() };
            let message = format!("there is no security association from {source} to {destination}{of}");
            let help = "give the file of security associations too: --sa sa.conf, or --xfrm with the output of `ip xfrm state`";
            self.error(one.place.as_ref(), &key, message, help);
        }
        let only_one = self.details.role == Role::MobileNode || toward == Toward::Guest;
        if let (Some(second), true) = (good.get(1), only_one) {
            let of = if several { format!(" for {}", class.umip_name()) } else { String::new() };
            let message = format!("there is another security association from {source} to {destination}{of}");
            let help = "a sender has one: leave only the one of this host in the file";
            self.error(second.place.as_ref(), &key, message, help);
        }
        for found in &good {
            self.association(text, name, service, found, good.len() > 1);
        }
    }

    /// Whether a policy can hold an SA; otherwise it is told why not.
    fn fits(&mut self, found: &Found, service: Service) -> bool {
        let place = found.place.as_ref();
        let spi = found.association.key.spi;
        let Some(esp) = found.esp() else { return false };
        let (umip, right) = (service.class.umip_name(), service.class.mode().name());
        if found.mode.known() != Some(service.class.mode()) {
            let message = format!("SPI {spi:#x} is in {} mode; {umip} is protected in {right} mode", found.mode.name());
            let help = format!(
                "make it with -m {right} (setkey) or mode {right} (ip) on both sides, or name the class that it serves"
            );
            self.error(place, "mode", message, help);
        } else if esp.reqid != service.reqid {
            let message = format!(
                "SPI {spi:#x} has the reqid {}; the policy for these packets wants {}",
                esp.reqid, service.reqid
            );
            let help = format!("correct -u (setkey) or reqid (ip), or the numbers of IPsecPolicy {umip} UseESP");
            self.error(place, "reqid", message, help);
        } else if esp.reqid == 0 {
            let message = format!("SPI {spi:#x} has no reqid");
            self.error(place, "reqid", message, "give it one, with -u (setkey) or reqid (ip), on both sides");
        } else if !esp.encryption.0.is_aead() && esp.integrity.is_none() {
            let message = format!("SPI {spi:#x} encrypts without protecting integrity");
            self.error(place, "integrity", message, "add an integrity algorithm with its key on both sides");
        } else {
            return true;
        }
        false
    }

    fn association(&mut self, text: &mut String, name: &str, service: Service, found: &Found, many: bool) {
        let Some(esp) = found.esp() else { return };
        let Esp { encryption, integrity, replay_window, .. } = esp;
        let (class, toward) = (service.class, service.toward);
        let spi = found.association.key.spi;
        text.push_str("\n[[guest.security_association]]\n");
        if service.several {
            let _ = writeln!(text, "class = \"{class}\"");
        }
        let _ = writeln!(text, "direction = \"{toward}\"\nspi = {spi:#x}");
        let to_home_agent = toward == Toward::HomeAgent;
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
        let owner = if service.several { format!("{name}-{class}") } else { name.to_owned() };
        let stem = match (to_home_agent, many) {
            (true, true) => format!("{owner}-{spi:x}-to-ha"),
            (true, false) => format!("{owner}-to-ha"),
            (false, _) => format!("ha-to-{owner}"),
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
        if esp.extended_sequence_numbers {
            text.push_str("esn = true\n");
        }
        // The receiver's; that of the other side, and one of 0, is none to keep.
        let inbound = to_home_agent == (self.details.role == Role::HomeAgent);
        if (inbound || esp.extended_sequence_numbers) && *replay_window > 0 && *replay_window != 32 {
            let _ = writeln!(text, "replay_window = {replay_window}");
        }
        lifetime(text, &esp.lifetime);
    }

    fn key_file(&mut self, path: String, secret: &SecretKey) -> String {
        self.keys.push((PathBuf::from(&path), secret.clone()));
        path
    }
}

/// What a security association is for.
#[derive(Clone, Copy)]
struct Service {
    class: Class,
    toward: Toward,
    reqid: u32,
    /// Whether the guest has other classes too.
    several: bool,
}

fn lifetime(text: &mut String, lifetime: &AssociationLifetime) {
    if lifetime.is_unlimited() {
        return;
    }
    let limits = |limits: &Limits| {
        let all = [("bytes", limits.bytes), ("packets", limits.packets), ("seconds", limits.seconds)];
        let said = all.into_iter().filter_map(|(unit, limit)| limit.map(|limit| format!("{unit} = {limit}")));
        said.collect::<Vec<_>>().join(", ")
    };
    let both = [("soft", limits(&lifetime.soft)), ("hard", limits(&lifetime.hard))];
    let said = both.into_iter().filter(|(_, limits)| !limits.is_empty());
    let words: Vec<String> = said.map(|(name, limits)| format!("{name} = {{ {limits} }}")).collect();
    let _ = writeln!(text, "lifetime = {{ {} }}", words.join(", "));
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
