//! Resolving the `[[guest.security_association]]` of a guest, and its keys.

use std::collections::HashMap;
use std::fmt;
use std::net::Ipv6Addr;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::Spanned;

use super::Role;
use super::keys::KeyFile;
use super::resolve::Resolver;
use super::schema;
use super::syntax::nearest;
use super::value::{self, Wrong};
use crate::ipsec::{AssociationKey, Encryption, Integrity, SecretKey, SecurityAssociation, Transform};

/// IP protocol number of ESP.
const ESP: u8 = 50;

/// Packets in the replay window of an inbound SA unless the file says otherwise.
const DEFAULT_REPLAY_WINDOW: u32 = 32;

/// The two directions of a registration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Toward {
    HomeAgent,
    Guest,
}

impl Toward {
    fn from_name(name: &str) -> Result<Self, Wrong> {
        match name {
            "to-home-agent" => Ok(Self::HomeAgent),
            "to-guest" => Ok(Self::Guest),
            _ => Err(Wrong::new(
                format!("expected \"to-home-agent\" or \"to-guest\", got {name:?}"),
                "the direction is the one of the packets: binding updates go to-home-agent, acknowledgements to-guest; it is \
                 the same in the files of both sides",
            )),
        }
    }

    /// Whether packets of this direction come in on the machine of `role`.
    fn is_inbound(self, role: Role) -> bool {
        matches!((self, role), (Self::HomeAgent, Role::HomeAgent) | (Self::Guest, Role::MobileNode))
    }
}

impl fmt::Display for Toward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::HomeAgent => "to-home-agent",
            Self::Guest => "to-guest",
        })
    }
}

/// What a key is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Encryption(Encryption),
    Integrity(Integrity),
}

impl Purpose {
    fn name(self) -> &'static str {
        match self {
            Self::Encryption(algorithm) => algorithm.name(),
            Self::Integrity(algorithm) => algorithm.name(),
        }
    }

    fn salt_octets(self) -> usize {
        match self {
            Self::Encryption(algorithm) => algorithm.salt_octets(),
            Self::Integrity(_) => 0,
        }
    }

    fn generated_octets(self) -> usize {
        match self {
            Self::Encryption(algorithm) => algorithm.generated_key_octets(),
            Self::Integrity(algorithm) => algorithm.key_octets(),
        }
    }

    fn accepts(self, octets: usize) -> bool {
        match self {
            Self::Encryption(algorithm) => algorithm.key_octets().contains(&octets),
            Self::Integrity(algorithm) => algorithm.key_octets() == octets,
        }
    }

    /// Accepted lengths in words.
    fn lengths(self) -> String {
        match self {
            Self::Integrity(algorithm) => algorithm.key_octets().to_string(),
            Self::Encryption(algorithm) => {
                let lengths: Vec<String> = algorithm.key_octets().iter().map(usize::to_string).collect();
                let words = lengths.join(", ");
                let words = words.rsplit_once(", ").map_or(words.clone(), |(all, last)| format!("{all} or {last}"));
                match algorithm.salt_octets() {
                    0 => words,
                    salt => format!("{words} (the key, then {salt} octets of salt)"),
                }
            }
        }
    }

    fn is_counter_mode(self) -> bool {
        matches!(self, Self::Encryption(algorithm) if algorithm.is_counter_mode())
    }
}

/// The keys that the file used already, for finding that one is used again.
#[derive(Default)]
pub(super) struct UsedKeys {
    by_path: HashMap<PathBuf, Use>,
    /// By the SHA-256 of the key without its salt, which only moves the counters: the keys themselves need not stay here.
    by_digest: HashMap<Vec<u8>, Use>,
}

/// A use of a key, and where it stood.
#[derive(Clone)]
struct Use {
    purpose: Purpose,
    span: Range<usize>,
}

impl UsedKeys {
    /// Notes a use; gives the earlier one of the same key, and whether it was by the same path. `secret` is none when key
    /// files are not read.
    fn note(&mut self, path: &Path, secret: Option<&SecretKey>, this: Use) -> Option<(Use, bool)> {
        let octets = secret.map(SecretKey::expose);
        let octets = octets.and_then(|octets| octets.get(..octets.len().checked_sub(this.purpose.salt_octets())?));
        let digest = octets.map(|octets| ring::digest::digest(&ring::digest::SHA256, octets).as_ref().to_vec());
        let by_path = self.by_path.get(path).cloned();
        let by_digest = digest.as_ref().and_then(|digest| self.by_digest.get(digest).cloned());
        self.by_path.entry(path.to_owned()).or_insert_with(|| this.clone());
        if let Some(digest) = digest {
            self.by_digest.entry(digest).or_insert(this);
        }
        by_path.map(|earlier| (earlier, true)).or(by_digest.map(|earlier| (earlier, false)))
    }
}

/// A resolved SA and where its direction stood.
struct Resolved {
    toward: Toward,
    span: Range<usize>,
    /// None after errors, and when key files are not read.
    association: Option<SecurityAssociation>,
}

impl Resolver<'_> {
    /// The SAs of a guest, the one to the home agent first.
    pub(super) fn associations(
        &mut self,
        guest: &Range<usize>,
        fields: &schema::Guest,
        path: &str,
        (home_address, reqid): (Option<Ipv6Addr>, Option<(u32, u32)>),
    ) -> Option<Vec<SecurityAssociation>> {
        let mut found: Vec<Resolved> = Vec::new();
        let mut directions_known = true;
        for (index, table) in fields.security_association.iter().enumerate() {
            let key = format!("{path}.security_association[{index}]");
            match self.association(table, &key, home_address, reqid) {
                None => directions_known = false,
                Some(one) => {
                    if let Some(first) = found.iter().find(|earlier| earlier.toward == one.toward) {
                        let message = format!("there is another security association {} for this guest", one.toward);
                        let diagnostic = self.at(one.span.clone(), &format!("{key}.direction"), message);
                        let help = "each direction has one: with two, the kernel would be free to send with either";
                        let diagnostic = diagnostic.label("here again").related(first.span.clone(), "first here");
                        self.error(diagnostic.help(help));
                    }
                    found.push(one);
                }
            }
        }
        for toward in [Toward::HomeAgent, Toward::Guest] {
            if directions_known && !found.iter().any(|one| one.toward == toward) {
                let key = format!("{path}.security_association");
                let diagnostic = self.at(guest.clone(), &key, format!("there is no security association {toward}"));
                let help = format!(
                    "add a [[guest.security_association]] with direction = \"{toward}\"; each direction needs one"
                );
                self.error(diagnostic.help(help));
            }
        }
        found.sort_by_key(|one| one.toward == Toward::Guest);
        Some(found.into_iter().filter_map(|one| one.association).collect())
    }

    /// One SA; none when not even its direction is known.
    fn association(
        &mut self,
        table: &Spanned<schema::Association>,
        key: &str,
        home_address: Option<Ipv6Addr>,
        reqid: Option<(u32, u32)>,
    ) -> Option<Resolved> {
        let (span, fields) = (table.span(), table.get_ref());
        let direction_key = format!("{key}.direction");
        let direction = self.required(&fields.direction, &span, &direction_key, "\"to-home-agent\"");
        let toward = direction.and_then(|field| self.judged(field, &direction_key, |name| Toward::from_name(name)));
        let ends =
            self.home_agent_address.zip(home_address).zip(toward).map(|((home_agent, guest), toward)| match toward {
                Toward::HomeAgent => (guest, home_agent),
                Toward::Guest => (home_agent, guest),
            });
        let spi = self.spi(table, &format!("{key}.spi"), ends.map(|(_, destination)| destination));
        let owner = key.rsplit_once('.').map_or(key, |(guest, _)| guest).replacen('.', " ", 1);
        let words = toward.map_or_else(|| owner.clone(), |toward| format!("{owner} {toward}"));
        let keying = self.keying(table, key, &words);
        let window_key = format!("{key}.replay_window");
        let window = self.optional(&fields.replay_window, &window_key, |packets| value::replay_window(*packets));
        let (toward, direction) = (toward?, direction?);
        let inbound = toward.is_inbound(self.role);
        if let (Some(Some(0)), Some(field), true) = (window, &fields.replay_window, inbound) {
            let diagnostic = self.at(field.span(), &window_key, "replayed packets are let in");
            self.warn(diagnostic.help("leave replay_window out for a window of 32 packets"));
        }
        let association = (|| {
            let (source, destination) = ends?;
            let (to_home_agent, to_guest) = reqid?;
            let (encryption, integrity) = keying?;
            Some(SecurityAssociation {
                key: AssociationKey { source, destination, protocol: ESP, spi: spi? },
                transform: Transform::EspTransport {
                    reqid: if toward == Toward::HomeAgent { to_home_agent } else { to_guest },
                    encryption,
                    integrity,
                    replay_window: window?.unwrap_or(if inbound { DEFAULT_REPLAY_WINDOW } else { 0 }),
                },
            })
        })();
        Some(Resolved { toward, span: direction.span(), association })
    }

    fn spi(&mut self, table: &Spanned<schema::Association>, key: &str, destination: Option<Ipv6Addr>) -> Option<u32> {
        let field = self.required(&table.get_ref().spi, &table.span(), key, "0x3e8")?;
        let spi = self.judged(field, key, |number| value::spi(*number))?;
        if let Some(destination) = destination {
            let message = format!("SPI {spi:#x} is used for another security association to {destination} too");
            let help = "the receiver finds the security association by its SPI: give each one to the same address an SPI of its own";
            self.once(|seen| &mut seen.spis, (destination, spi), field.span(), key, (message, help));
        }
        Some(spi)
    }

    /// Algorithms and keys; none after errors, and when key files are not read.
    #[allow(clippy::type_complexity)]
    fn keying(
        &mut self,
        table: &Spanned<schema::Association>,
        key: &str,
        words: &str,
    ) -> Option<((Encryption, SecretKey), Option<(Integrity, SecretKey)>)> {
        let (span, fields) = (table.span(), table.get_ref());
        let (encryption_key, integrity_key) = (format!("{key}.encryption"), format!("{key}.integrity"));
        let example = "{ algorithm = \"aes-cbc\", key_file = \"keys/vm1-to-ha.enc\" }";
        let encryption_table = self.required(&fields.encryption, &span, &encryption_key, example);
        let encryption = encryption_table.and_then(|table| self.encryption(table, &encryption_key, words));
        let integrity = fields.integrity.as_ref().map(|table| self.integrity(table, &integrity_key, words));
        let (algorithm, encryption_secret) = encryption?;
        match (&fields.integrity, algorithm.is_aead()) {
            (None, false) => {
                let message =
                    format!("`integrity` is missing: {} alone lets anyone change what it hides", algorithm.name());
                let diagnostic = self.at(span, &integrity_key, message);
                let help = "add: integrity = { algorithm = \"hmac-sha256-128\", key_file = \"keys/vm1-to-ha.auth\" }, or take \
                            aes-gcm-16, which protects integrity itself";
                self.error(diagnostic.help(help));
                None
            }
            (Some(table), true) => {
                let message =
                    format!("{} protects integrity itself and goes without another algorithm", algorithm.name());
                let diagnostic = self.at(table.span(), &integrity_key, message);
                self.error(diagnostic.help("take integrity out here, or encrypt with aes-cbc"));
                None
            }
            (None, true) => Some(((algorithm, encryption_secret?), None)),
            (Some(_), false) => {
                let (integrity, integrity_secret) = integrity.flatten()?;
                Some(((algorithm, encryption_secret?), Some((integrity, integrity_secret?))))
            }
        }
    }

    fn encryption(
        &mut self,
        table: &Spanned<schema::Algorithm>,
        key: &str,
        words: &str,
    ) -> Option<(Encryption, Option<SecretKey>)> {
        let algorithm_key = format!("{key}.algorithm");
        let field = self.required(&table.get_ref().algorithm, &table.span(), &algorithm_key, "\"aes-cbc\"")?;
        let known = Encryption::ALL.map(Encryption::name);
        let algorithm = self.judged(field, &algorithm_key, |name| {
            Encryption::from_name(name).ok_or_else(|| unknown_algorithm("an encryption", name, &known))
        })?;
        if algorithm.is_counter_mode() {
            let message = format!(
                "{} has its key from a file: a start anew may repeat its counters under the same key (RFC 4106 §2)",
                algorithm.name()
            );
            let diagnostic = self.at(field.span(), &algorithm_key, message);
            self.warn(
                diagnostic.help("take aes-cbc with hmac-sha256-128, or make new keys on both sides before each start"),
            );
        }
        Some((algorithm, self.secret(table, key, Purpose::Encryption(algorithm), words)))
    }

    fn integrity(
        &mut self,
        table: &Spanned<schema::Algorithm>,
        key: &str,
        words: &str,
    ) -> Option<(Integrity, Option<SecretKey>)> {
        let algorithm_key = format!("{key}.algorithm");
        let field = self.required(&table.get_ref().algorithm, &table.span(), &algorithm_key, "\"hmac-sha256-128\"")?;
        let known = Integrity::ALL.map(Integrity::name);
        let algorithm = self.judged(field, &algorithm_key, |name| {
            Integrity::from_name(name).ok_or_else(|| unknown_algorithm("an integrity", name, &known))
        })?;
        if algorithm.is_legacy() {
            let diagnostic = self.at(
                field.span(),
                &algorithm_key,
                format!("{} is for peers that have nothing better", algorithm.name()),
            );
            self.warn(diagnostic.help("take hmac-sha256-128 where the home agent can"));
        }
        Some((algorithm, self.secret(table, key, Purpose::Integrity(algorithm), words)))
    }

    /// The key in the file that `key_file` names.
    fn secret(
        &mut self,
        table: &Spanned<schema::Algorithm>,
        key: &str,
        purpose: Purpose,
        words: &str,
    ) -> Option<SecretKey> {
        let key = format!("{key}.key_file");
        let field = self.required(&table.get_ref().key_file, &table.span(), &key, "\"keys/vm1-to-ha.key\"")?;
        let file_name = self.source.name.clone();
        let path = self.judged(field, &key, |text| key_path(&file_name, text))?;
        let secret = match self.keys {
            None => None,
            Some(keys) => match keys.read_key(&path) {
                Ok(secret) => self.right_length(secret, field, &key, purpose, &path),
                Err(error) => {
                    let diagnostic = self.at(field.span(), &key, format!("key file {}: {error}", path.display()));
                    let help = error.help(&path, &self.source.name);
                    self.error(diagnostic.help(help));
                    None
                }
            },
        };
        let this = Use { purpose, span: field.span() };
        match self.used_keys.note(&path, secret.as_ref(), this.clone()) {
            Some((earlier, same_path)) => self.key_is_used_again(&this, &earlier, same_path, &key),
            None => {
                let octets = purpose.generated_octets();
                self.key_files.push(KeyFile { path, purpose: format!("{} of {words}", purpose.name()), octets });
            }
        }
        secret
    }

    fn right_length(
        &mut self,
        secret: SecretKey,
        field: &Spanned<String>,
        key: &str,
        purpose: Purpose,
        path: &Path,
    ) -> Option<SecretKey> {
        let (path, found) = (path.display(), secret.length());
        if !purpose.accepts(found) {
            let (name, lengths) = (purpose.name(), purpose.lengths());
            let message = format!("key file {path} holds {found} octets; {name} takes {lengths}");
            let diagnostic = self.at(field.span(), key, message);
            let help = format!(
                "remove {path} on both sides, make it with `kagemusha policy keygen {}`, and copy it",
                self.source.name
            );
            self.error(diagnostic.help(help));
            return None;
        }
        if secret.expose().windows(2).all(|pair| pair[0] == pair[1]) {
            let diagnostic =
                self.at(field.span(), key, format!("key file {path} holds one octet over and over: no secret"));
            self.warn(diagnostic.help("make a random key with `kagemusha policy keygen`"));
        }
        Some(secret)
    }

    /// A key of a counter mode serves one SA, and no key serves both encryption and integrity. Others may be shared, with a
    /// warning.
    fn key_is_used_again(&mut self, used: &Use, first: &Use, same_path: bool, key: &str) {
        let how = if same_path { "the same key file is" } else { "a key file with the same key is" };
        let first_span = first.span.clone();
        let mixed = matches!(first.purpose, Purpose::Encryption(_)) != matches!(used.purpose, Purpose::Encryption(_));
        let counter_mode = first.purpose.is_counter_mode() || used.purpose.is_counter_mode();
        let message = if mixed {
            format!("{how} used for encryption and for integrity; one would weaken the other")
        } else if counter_mode {
            let name = used.purpose.name();
            format!(
                "{how} used for another security association too; two under one key of {name} give both away (RFC 4106 §2)"
            )
        } else {
            format!("{how} used for another security association too")
        };
        let diagnostic = self.at(used.span.clone(), key, message).label("here again").related(first_span, "first here");
        let diagnostic = diagnostic.help("name a key file of its own, and make it with `kagemusha policy keygen`");
        if mixed || counter_mode { self.error(diagnostic) } else { self.warn(diagnostic) }
    }
}

fn unknown_algorithm(kind: &str, name: &str, known: &[&str]) -> Wrong {
    let message = format!("expected {kind} algorithm, got {name:?}");
    let known_here = format!("known here: {}", known.join(", "));
    let dashed = name.replace(['_', ' '], "-");
    match nearest(&dashed, known, 1) {
        Some(nearest) => Wrong::new(message, format!("did you mean {nearest:?}? {known_here}")),
        None => Wrong::new(message, known_here),
    }
}

/// The path of a key file: relative paths begin at the directory of the policy file.
fn key_path(policy_file: &str, text: &str) -> Result<PathBuf, Wrong> {
    let help = "keys do not stand in the policy: write the path of a file that holds the key, relative to this file, such as \
                \"keys/vm1-to-ha.enc\"";
    let digits = text.strip_prefix("0x").unwrap_or(text);
    if digits.len() >= 16 && digits.bytes().all(|octet| octet.is_ascii_hexdigit()) {
        return Err(Wrong::new("expected the path of a key file, got what looks like a key itself", help));
    }
    if text.is_empty() || text.ends_with('/') || text.contains('\0') {
        return Err(Wrong::new(format!("expected the path of a key file, got {text:?}"), help));
    }
    let directory = Path::new(policy_file).parent().unwrap_or(Path::new(""));
    Ok(directory.join(text))
}
