//! What the policy layer knows about the sources of keys: their form and what can be wrong with one. Reading them is the shell's work.

use std::fmt;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::ipsec::{AssociationKey, SecretKey};

/// Where keys come from.
pub trait KeySource {
    /// Reads the key file at `path`, which is the path of the policy file with the relative path of the key file put in place
    /// of its last component.
    ///
    /// # Errors
    /// When there is no such file, when others than its owner may read it, or when it does not hold hexadecimal digits.
    fn read_key(&self, path: &Path) -> Result<SecretKey, KeyError>;

    /// Reads the credential `name`, one that the service manager gave to this process (`LoadCredential=` of systemd.exec(5)). `name` has
    /// the form of a file name.
    ///
    /// # Errors
    /// When there are no credentials or not this one, when it is not as private as it should be, or when it does not hold hexadecimal digits.
    fn read_credential(&self, name: &str) -> Result<SecretKey, KeyError> {
        let _ = name;
        Err(KeyError::NoCredentials)
    }

    /// Whether a key may stand in the policy file itself: it may when the file is as private as a key file has to be.
    ///
    /// # Errors
    /// Why it may not.
    fn judge_policy_file(&self) -> Result<(), KeyError> {
        Err(KeyError::NotRegular)
    }

    /// The name of this machine, when the policy is to be used on it: a security association that names another host is refused
    /// then. None: the policy is only looked at.
    fn host_name(&self) -> Option<String> {
        None
    }
}

/// Why a source gave no key. No variant holds any part of the content.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// There is no such file.
    #[error("there is no such file")]
    Missing,
    /// The system refused.
    #[error("it cannot be read: {0}")]
    Unreadable(String),
    /// A directory, a device, a pipe.
    #[error("it is not a regular file")]
    NotRegular,
    /// Group or others have access.
    #[error("its mode is {mode:04o}, so others than its owner have access; expected 0600 or stricter")]
    Permissive {
        /// Permission bits.
        mode: u32,
    },
    /// It belongs to someone who is neither root nor who runs this.
    #[error("it belongs to user {owner}; expected root or user {expected}, who runs this")]
    ForeignOwner {
        /// Owner of the file.
        owner: u32,
        /// Effective user id.
        expected: u32,
    },
    /// No key is that long.
    #[error("it holds more than {limit} octets; expected one key as hexadecimal digits")]
    TooLarge {
        /// The limit in octets.
        limit: usize,
    },
    /// Nobody gave credentials to this process.
    #[error("this process has no credentials: $CREDENTIALS_DIRECTORY is not set to an absolute path")]
    NoCredentials,
    /// Its text is not a key.
    #[error(transparent)]
    Text(#[from] KeyTextError),
}

/// Where a key comes from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum KeyOrigin {
    /// A file: its path, as [`KeySource::read_key`] gets it.
    File(PathBuf),
    /// A credential of the service manager: its name, as [`KeySource::read_credential`] gets it.
    Credential(String),
    /// The policy file itself.
    Inline,
}

impl fmt::Display for KeyOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "key file {}", path.display()),
            Self::Credential(name) => write!(f, "credential {name}"),
            Self::Inline => f.write_str("the key in this file"),
        }
    }
}

impl KeyError {
    /// What to do about it, for a key of the policy file `policy_file`.
    pub fn help(&self, origin: &KeyOrigin, policy_file: &str) -> String {
        match origin {
            KeyOrigin::File(path) => self.help_with_file(&path.display().to_string(), policy_file),
            KeyOrigin::Credential(name) => self.help_with_credential(name),
            KeyOrigin::Inline => self.help_with_inline_key(policy_file),
        }
    }

    fn help_with_file(&self, path: &str, policy_file: &str) -> String {
        match self {
            Self::Missing => {
                format!(
                    "make it with `kagemusha policy keygen {policy_file}`, or copy the one of the other side: both need the same key"
                )
            }
            Self::Unreadable(_) => format!("run as the owner of the file, and see `ls -l {path}`"),
            Self::NotRegular => "name a regular file that holds the key as hexadecimal digits".to_owned(),
            Self::Permissive { .. } => format!("chmod 600 {path}; if others may have read it, make a new key"),
            Self::ForeignOwner { .. } => format!("chown root {path}"),
            Self::NoCredentials | Self::TooLarge { .. } | Self::Text(_) => format!(
                "the file holds the key as hexadecimal digits and nothing else; without {path}, \
                 `kagemusha policy keygen {policy_file}` writes a new one"
            ),
        }
    }

    fn help_with_credential(&self, name: &str) -> String {
        match self {
            Self::NoCredentials | Self::Missing => format!(
                "give it to the service: LoadCredentialEncrypted={name} (or LoadCredential={name}:/path/of/the/key), and try a policy by hand \
                 with `systemd-run --pty --property=LoadCredential={name}:/path/of/the/key kagemusha policy check …`; or take key_file"
            ),
            Self::Unreadable(_) => "run as the user of the service that the credential was given to".to_owned(),
            Self::NotRegular | Self::Permissive { .. } | Self::ForeignOwner { .. } => {
                "credentials come from the service manager, which keeps them from others: do not set $CREDENTIALS_DIRECTORY by hand".to_owned()
            }
            Self::TooLarge { .. } | Self::Text(_) => format!(
                "the credential holds the key as hexadecimal digits and nothing else; `kagemusha policy keygen` shows how to make {name}"
            ),
        }
    }

    fn help_with_inline_key(&self, policy_file: &str) -> String {
        match self {
            Self::Permissive { .. } => format!(
                "write the path of a key file instead (key_file = …); or chmod 600 {policy_file}, and make new keys, since others may have \
                 read these"
            ),
            Self::ForeignOwner { .. } => {
                format!("write the path of a key file instead (key_file = …); or chown root {policy_file}")
            }
            Self::Text(_) => {
                "write the key as hexadecimal digits, or better the path of a key file (key_file = …)".to_owned()
            }
            _ => "write the path of a key file instead (key_file = …)".to_owned(),
        }
    }
}

/// Why a text is not a key. No variant holds any part of the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyTextError {
    /// Nothing but white space.
    #[error("it is empty; expected a key as hexadecimal digits")]
    Empty,
    /// No text at all.
    #[error("it is a number; expected hexadecimal digits in quotes")]
    Number,
    /// Half an octet.
    #[error("it holds an odd number of hexadecimal digits ({0}); expected two for each octet")]
    OddDigits(usize),
    /// Another character.
    #[error("character {position} on line {line} is not a hexadecimal digit")]
    NotHexadecimal {
        /// Line, from 1.
        line: usize,
        /// Octet in the line, from 1.
        position: usize,
    },
}

/// The key that the text of a key file holds: hexadecimal digits, `0x` before them allowed, white space before and after them
/// ignored. The text is the caller's to wipe.
///
/// # Errors
/// When the text is anything else.
pub fn parse_key_text(text: &[u8]) -> Result<SecretKey, KeyTextError> {
    let start = text.iter().take_while(|octet| octet.is_ascii_whitespace()).count();
    let end = text.len() - text[start..].iter().rev().take_while(|octet| octet.is_ascii_whitespace()).count();
    let trimmed = &text[start..end];
    let prefix = if trimmed.starts_with(b"0x") || trimmed.starts_with(b"0X") { 2 } else { 0 };
    let digits = &trimmed[prefix..];
    if digits.is_empty() {
        return Err(KeyTextError::Empty);
    }
    // Reserved at once: a vector that grows leaves copies of the key behind.
    let mut key = Zeroizing::new(Vec::with_capacity(digits.len() / 2 + 1));
    let mut high = None;
    for (index, octet) in digits.iter().enumerate() {
        let Some(digit) = char::from(*octet).to_digit(16).and_then(|digit| u8::try_from(digit).ok()) else {
            return Err(place(text, start + prefix + index));
        };
        match high.take() {
            None => high = Some(digit),
            Some(high) => key.push(high << 4 | digit),
        }
    }
    if high.is_some() {
        return Err(KeyTextError::OddDigits(digits.len()));
    }
    Ok(SecretKey::new(std::mem::take(&mut *key)))
}

fn place(text: &[u8], offset: usize) -> KeyTextError {
    let before = &text[..offset];
    let line = before.iter().filter(|octet| **octet == b'\n').count() + 1;
    let position = offset - before.iter().rposition(|octet| *octet == b'\n').map_or(0, |newline| newline + 1) + 1;
    KeyTextError::NotHexadecimal { line, position }
}

/// The text of a key file that holds `octets`; wiped when dropped.
pub fn key_text(octets: &[u8]) -> Zeroizing<Vec<u8>> {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = Zeroizing::new(Vec::with_capacity(octets.len() * 2 + 1));
    for octet in octets {
        text.push(DIGITS[usize::from(octet >> 4)]);
        text.push(DIGITS[usize::from(octet & 0xf)]);
    }
    text.push(b'\n');
    text
}

/// A key file that a policy names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyFile {
    /// Where it is, as [`KeySource::read_key`] gets it.
    pub path: PathBuf,
    /// What it is for, in words: `aes-cbc of guest vm1 to-home-agent`.
    pub purpose: String,
    /// How many octets of keying material to generate.
    pub octets: usize,
    /// The one host that encrypts with it, when the policy names one.
    pub host: Option<String>,
}

/// A key that a policy names and that is in no key file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OtherKey {
    /// Where it is: a credential, or the policy file itself.
    pub origin: KeyOrigin,
    /// As in [`KeyFile`].
    pub purpose: String,
    /// As in [`KeyFile`].
    pub octets: usize,
}

/// Where the keys of a security association of a policy came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyPaths {
    /// The association.
    pub association: AssociationKey,
    /// The host that alone encrypts with it, when the policy names one.
    pub host: Option<String>,
    /// Origin of the encryption key; none with `null`.
    pub encryption: Option<KeyOrigin>,
    /// Origin of the integrity key; none with an AEAD.
    pub integrity: Option<KeyOrigin>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn key_texts() {
        for text in ["00ff10", "0x00ff10", "0X00FF10\n", "  \n00Ff10\r\n\n"] {
            assert_eq!(parse_key_text(text.as_bytes()).unwrap().expose(), [0x00, 0xff, 0x10], "{text:?}");
        }
        for empty in ["", "\n", "0x", " 0x\n"] {
            assert_eq!(parse_key_text(empty.as_bytes()), Err(KeyTextError::Empty), "{empty:?}");
        }
        assert_eq!(parse_key_text(b"0x123\n"), Err(KeyTextError::OddDigits(3)));
        assert_eq!(parse_key_text(b"\n\n 0x00 11"), Err(KeyTextError::NotHexadecimal { line: 3, position: 6 }));
        assert_eq!(parse_key_text(b"00\n11"), Err(KeyTextError::NotHexadecimal { line: 1, position: 3 }));
    }

    proptest! {
        #[test]
        fn any_octets_come_back(octets in proptest::collection::vec(any::<u8>(), 1..100)) {
            let key = parse_key_text(&key_text(&octets)).unwrap();
            prop_assert_eq!(key.expose(), &octets[..]);
        }

        #[test]
        fn any_text_is_judged(text in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = parse_key_text(&text);
        }
    }
}
