//! Algorithms and keys of a security association: `encryption = { … }` and `integrity = { … }`.

use std::collections::HashMap;
use std::net::Ipv6Addr;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::Spanned;

use super::keys::{KeyError, KeyFile, KeyOrigin, KeyPaths, OtherKey};
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
    by_origin: HashMap<KeyOrigin, Use>,
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
    /// Notes a use; gives the earlier one of the same key, and whether it had the same origin. `secret` is none when keys are not
    /// read.
    fn note(&mut self, origin: &KeyOrigin, secret: Option<&SecretKey>, this: Use) -> Option<(Use, bool)> {
        let octets = secret.map(SecretKey::expose);
        let octets = octets.and_then(|octets| octets.get(..octets.len().checked_sub(this.purpose.salt_octets())?));
        let digest = octets.map(|octets| ring::digest::digest(&ring::digest::SHA256, octets).as_ref().to_vec());
        // Each key in the policy file is one of its own, whatever it is.
        let named = *origin != KeyOrigin::Inline;
        let by_origin = self.by_origin.get(origin).filter(|_| named).cloned();
        let by_digest = digest.as_ref().and_then(|digest| self.by_digest.get(digest).cloned());
        self.by_origin.entry(origin.clone()).or_insert_with(|| this.clone());
        if let Some(digest) = digest {
            self.by_digest.entry(digest).or_insert(this);
        }
        by_origin.map(|earlier| (earlier, true)).or(by_digest.map(|earlier| (earlier, false)))
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
        self.host_at_hand = table.get_ref().host.as_ref().map(|field| field.get_ref().clone());
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
        origin: &mut Option<KeyOrigin>,
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
            let fields = table.get_ref();
            let given = [
                ("key_file", fields.key_file.as_ref().map(Spanned::span)),
                ("key", fields.key.as_ref().map(Spanned::span)),
            ];
            for (name, span) in given.into_iter().filter_map(|(name, span)| Some((name, span?))) {
                let message = format!("{} has no key", algorithm.name());
                let diagnostic = self.at(span, &format!("{key}.{name}"), message);
                self.error(diagnostic.help(format!("take {name} out here")));
            }
            return Some((algorithm, Some(SecretKey::new(Vec::new()))));
        }
        Some((algorithm, self.secret(table, key, (Purpose::Encryption(algorithm), words), origin)))
    }

    fn integrity(
        &mut self,
        table: &Spanned<schema::Algorithm>,
        key: &str,
        words: &str,
        origin: &mut Option<KeyOrigin>,
    ) -> Option<(Integrity, Option<SecretKey>)> {
        let algorithm_key = format!("{key}.algorithm");
        let field = self.required(&table.get_ref().algorithm, &table.span(), &algorithm_key, "\"hmac-sha256-128\"")?;
        let known = Integrity::ALL.map(Integrity::name);
        let algorithm = self.judged(field, &algorithm_key, |name| {
            Integrity::from_name(name).ok_or_else(|| unknown_algorithm("an integrity", name, &known))
        })?;
        self.standing(field, &algorithm_key, algorithm.standing(), "hmac-sha256-128");
        Some((algorithm, self.secret(table, key, (Purpose::Integrity(algorithm), words), origin)))
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

    /// The key of an algorithm; `place` gets its origin.
    fn secret(
        &mut self,
        table: &Spanned<schema::Algorithm>,
        key: &str,
        (purpose, words): (Purpose, &str),
        place: &mut Option<KeyOrigin>,
    ) -> Option<SecretKey> {
        let (key, span, origin) = self.origin(table, key)?;
        *place = Some(origin.clone());
        let secret = match self.read(table, &origin) {
            None => None,
            Some(Ok(secret)) => self.right_length(secret, &span, &key, purpose, &origin),
            Some(Err(error)) => {
                self.no_key(&error, &span, &key, &origin);
                None
            }
        };
        let this = Use { purpose, span: span.clone() };
        match self.used_keys.note(&origin, secret.as_ref(), this.clone()) {
            Some((earlier, same_origin)) => {
                self.key_is_used_again(&this, &earlier, same_origin.then_some(&origin), &key)
            }
            None => {
                let (purpose, octets) = (format!("{} of {words}", purpose.name()), purpose.generated_octets());
                let host = self.host_at_hand.clone();
                match &origin {
                    KeyOrigin::File(path) => self.key_files.push(KeyFile { path: path.clone(), purpose, octets, host }),
                    _ => self.other_keys.push(OtherKey { origin: origin.clone(), purpose, octets }),
                }
            }
        }
        if origin == KeyOrigin::Inline && secret.is_some() {
            let message =
                "the key stands in the policy file itself: whoever reads, prints, copies or backs up this file has it";
            let diagnostic = self.at(span, &key, message);
            self.warn(diagnostic.help("write it into a file of its own with mode 0600, name that with key_file, and make new keys on both sides"));
        }
        secret
    }

    /// Where the key of an algorithm comes from, with the key path and the place of the field that says so.
    fn origin(&mut self, table: &Spanned<schema::Algorithm>, key: &str) -> Option<(String, Range<usize>, KeyOrigin)> {
        let fields = table.get_ref();
        let file_key = format!("{key}.key_file");
        let Some(field) = &fields.key else {
            let field = self.required(&fields.key_file, &table.span(), &file_key, "\"keys/vm1-to-ha.key\"")?;
            let file_name = self.source.name.clone();
            let path = self.judged(field, &file_key, |text| key_path(&file_name, text))?;
            return Some((file_key, field.span(), KeyOrigin::File(path)));
        };
        let key = format!("{key}.key");
        if let Some(file) = &fields.key_file {
            let diagnostic =
                self.at(field.span(), &key, "there are both `key` and `key_file`; a key comes from one place");
            let diagnostic = diagnostic.label("one").related(file.span(), "and another");
            self.error(diagnostic.help("take one of them out"));
            return None;
        }
        match field.get_ref() {
            schema::Key::Inline(_) => Some((key, field.span(), KeyOrigin::Inline)),
            schema::Key::Credential(table) => {
                let key = format!("{key}.credential");
                let name = self.required(&table.credential, &field.span(), &key, "\"vm1-to-ha.key\"")?;
                let judged = self.judged(name, &key, |text| credential_name(text))?;
                Some((key, name.span(), KeyOrigin::Credential(judged)))
            }
        }
    }

    /// The key itself; none when keys are not read.
    fn read(&self, table: &Spanned<schema::Algorithm>, origin: &KeyOrigin) -> Option<Result<SecretKey, KeyError>> {
        let keys = self.keys?;
        Some(match (origin, table.get_ref().key.as_ref().map(Spanned::get_ref)) {
            (KeyOrigin::File(path), _) => keys.read_key(path),
            (KeyOrigin::Credential(name), _) => keys.read_credential(name),
            (KeyOrigin::Inline, Some(schema::Key::Inline(read))) => {
                keys.judge_policy_file().and_then(|()| Ok(read.clone()?))
            }
            (KeyOrigin::Inline, _) => return None,
        })
    }

    fn no_key(&mut self, error: &KeyError, span: &Range<usize>, key: &str, origin: &KeyOrigin) {
        let message = match (origin, error) {
            (KeyOrigin::Inline, KeyError::Text(error)) => format!("{origin}: {error}"),
            (KeyOrigin::Inline, error) => format!("a key may not stand in this file: {error}"),
            (KeyOrigin::Credential(_), KeyError::Missing) => format!("{origin}: this process was not given it"),
            _ => format!("{origin}: {error}"),
        };
        let diagnostic = self.at(span.clone(), key, message);
        let help = error.help(origin, &self.source.name);
        self.error(diagnostic.help(help));
    }

    fn right_length(
        &mut self,
        secret: SecretKey,
        span: &Range<usize>,
        key: &str,
        purpose: Purpose,
        origin: &KeyOrigin,
    ) -> Option<SecretKey> {
        let found = secret.length();
        if !purpose.accepts(found) {
            let (name, lengths) = (purpose.name(), purpose.lengths());
            let message = format!("{origin} holds {found} octets; {name} takes {lengths}");
            let diagnostic = self.at(span.clone(), key, message);
            let help = match origin {
                KeyOrigin::File(path) => format!(
                    "remove {} on both sides, make it with `kagemusha policy keygen {}`, and copy it",
                    path.display(),
                    self.source.name
                ),
                _ => format!("make a new one for both sides, as `kagemusha policy keygen {}` shows", self.source.name),
            };
            self.error(diagnostic.help(help));
            return None;
        }
        if secret.expose().windows(2).all(|pair| pair[0] == pair[1]) {
            let diagnostic = self.at(span.clone(), key, format!("{origin} holds one octet over and over: no secret"));
            self.warn(diagnostic.help("make a random key with `kagemusha policy keygen`"));
        }
        Some(secret)
    }

    /// A key of a counter mode serves one SA, and no key serves both encryption and integrity. Others may be shared, with a
    /// warning.
    fn key_is_used_again(&mut self, used: &Use, first: &Use, same: Option<&KeyOrigin>, key: &str) {
        let how = match same {
            Some(KeyOrigin::Credential(_)) => "the same credential is",
            Some(_) => "the same key file is",
            None => "the same key, from another place, is",
        };
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

/// The name of a credential: what systemd.exec(5) takes, which is the name of a file.
fn credential_name(text: &str) -> Result<String, Wrong> {
    let usable = |octet: u8| octet.is_ascii_graphic() && octet != b'/' && octet != b':';
    if text.is_empty() || text.len() > 255 || text == "." || text == ".." || !text.bytes().all(usable) {
        let help = "the name is the one before the colon in LoadCredential=NAME:/path, such as \"vm1-to-ha.key\"";
        return Err(Wrong::new(format!("expected the name of a credential, got {text:?}"), help));
    }
    Ok(text.to_owned())
}

/// The path of a key file: relative paths begin at the directory of the policy file.
fn key_path(policy_file: &str, text: &str) -> Result<PathBuf, Wrong> {
    let help = "keys do not stand here: write the path of a file that holds the key, relative to this file, such as \
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
