//! Algorithms and keys of a security association: `encryption = { … }` and `integrity = { … }`.

use std::collections::HashMap;
use std::net::Ipv6Addr;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::Spanned;

use super::keys::{KeyFile, KeyPaths};
use super::resolve::Resolver;
use super::schema;
use super::syntax::nearest;
use super::value::Wrong;
use crate::ipsec::{AssociationKey, Encryption, Integrity, SecretKey, Standing};

/// Algorithms with their keys.
pub(super) type Keying = ((Encryption, SecretKey), Option<(Integrity, SecretKey)>);

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

impl Resolver<'_> {
    /// Algorithms and keys; none after errors, and when key files are not read.
    /// Also the paths of the keys, of an SA that is still to be named.
    pub(super) fn keying(
        &mut self,
        table: &Spanned<schema::Association>,
        key: &str,
        words: &str,
    ) -> (Option<Keying>, KeyPaths) {
        self.legacy_allowed = table.get_ref().legacy.as_ref().is_some_and(|field| *field.get_ref());
        let nobody =
            AssociationKey { source: Ipv6Addr::UNSPECIFIED, destination: Ipv6Addr::UNSPECIFIED, protocol: 0, spi: 0 };
        let mut paths = KeyPaths { association: nobody, host: None, encryption: None, integrity: None };
        let keying = self.algorithms(table, key, words, &mut paths);
        (keying, paths)
    }

    fn algorithms(
        &mut self,
        table: &Spanned<schema::Association>,
        key: &str,
        words: &str,
        paths: &mut KeyPaths,
    ) -> Option<Keying> {
        let (span, fields) = (table.span(), table.get_ref());
        let (encryption_key, integrity_key) = (format!("{key}.encryption"), format!("{key}.integrity"));
        let example = "{ algorithm = \"aes-cbc\", key_file = \"keys/vm1-to-ha.enc\" }";
        let encryption_table = self.required(&fields.encryption, &span, &encryption_key, example);
        let encryption =
            encryption_table.and_then(|table| self.encryption(table, &encryption_key, words, &mut paths.encryption));
        let integrity =
            fields.integrity.as_ref().map(|table| self.integrity(table, &integrity_key, words, &mut paths.integrity));
        let (algorithm, encryption_secret) = encryption?;
        match (&fields.integrity, algorithm.is_aead()) {
            (None, false) => {
                let message =
                    format!("`integrity` is missing: {} alone lets anyone change what it hides", algorithm.name());
                let diagnostic = self.at(span, &integrity_key, message);
                let help = "add: integrity = { algorithm = \"hmac-sha256-128\", key_file = \"keys/vm1-to-ha.auth\" }, or take \
                            aes-gcm-16 or chacha20-poly1305, which protect integrity themselves";
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
        path: &mut Option<PathBuf>,
    ) -> Option<(Encryption, Option<SecretKey>)> {
        let algorithm_key = format!("{key}.algorithm");
        let field = self.required(&table.get_ref().algorithm, &table.span(), &algorithm_key, "\"aes-cbc\"")?;
        let known = Encryption::ALL.map(Encryption::name);
        let algorithm = self.judged(field, &algorithm_key, |name| {
            Encryption::from_name(name).ok_or_else(|| unknown_algorithm("an encryption", name, &known))
        })?;
        self.standing(field, &algorithm_key, algorithm.standing(), "aes-cbc, aes-gcm-16 or chacha20-poly1305");
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
        if algorithm.generated_key_octets() == 0 {
            if let Some(field) = &table.get_ref().key_file {
                let message = format!("{} has no key", algorithm.name());
                let diagnostic = self.at(field.span(), &format!("{key}.key_file"), message);
                self.error(diagnostic.help("take key_file out here"));
            }
            return Some((algorithm, Some(SecretKey::new(Vec::new()))));
        }
        Some((algorithm, self.secret(table, key, (Purpose::Encryption(algorithm), words), path)))
    }

    fn integrity(
        &mut self,
        table: &Spanned<schema::Algorithm>,
        key: &str,
        words: &str,
        path: &mut Option<PathBuf>,
    ) -> Option<(Integrity, Option<SecretKey>)> {
        let algorithm_key = format!("{key}.algorithm");
        let field = self.required(&table.get_ref().algorithm, &table.span(), &algorithm_key, "\"hmac-sha256-128\"")?;
        let known = Integrity::ALL.map(Integrity::name);
        let algorithm = self.judged(field, &algorithm_key, |name| {
            Integrity::from_name(name).ok_or_else(|| unknown_algorithm("an integrity", name, &known))
        })?;
        self.standing(field, &algorithm_key, algorithm.standing(), "hmac-sha256-128");
        Some((algorithm, self.secret(table, key, (Purpose::Integrity(algorithm), words), path)))
    }

    /// Says what there is to say against an algorithm (RFC 8221 §5, §6); without `legacy = true` a legacy one is an error.
    fn standing(&mut self, field: &Spanned<String>, key: &str, standing: Standing, better: &str) {
        let name = field.get_ref();
        match standing {
            Standing::Good => {}
            Standing::Discouraged => {
                let diagnostic = self.at(field.span(), key, format!("{name} is for peers that have nothing better"));
                self.warn(diagnostic.help(format!("take {better} where the home agent can")));
            }
            Standing::Legacy if self.legacy_allowed => {
                let diagnostic =
                    self.at(field.span(), key, format!("{name} protects little; legacy = true lets it in"));
                self.warn(
                    diagnostic.help(format!("take {better}, and legacy = true out, as soon as the home agent can")),
                );
            }
            Standing::Legacy => {
                let message = format!("{name} protects little, and is refused without the switch `legacy = true`");
                let diagnostic = self.at(field.span(), key, message);
                let help = format!(
                    "take {better}; for a home agent that has nothing else, add `legacy = true` to this \
                     [[guest.security_association]]"
                );
                self.error(diagnostic.help(help));
            }
        }
    }

    /// The key in the file that `key_file` names; `place` gets its path.
    fn secret(
        &mut self,
        table: &Spanned<schema::Algorithm>,
        key: &str,
        (purpose, words): (Purpose, &str),
        place: &mut Option<PathBuf>,
    ) -> Option<SecretKey> {
        let key = format!("{key}.key_file");
        let field = self.required(&table.get_ref().key_file, &table.span(), &key, "\"keys/vm1-to-ha.key\"")?;
        let file_name = self.source.name.clone();
        let path = self.judged(field, &key, |text| key_path(&file_name, text))?;
        *place = Some(path.clone());
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
