//! Policy files, key files and credentials: reading them with the care that keys need, and writing new keys.

use std::fmt;
use std::fs::{DirBuilder, Metadata, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use ring::rand::{SecureRandom, SystemRandom};
use zeroize::Zeroizing;

use crate::ipsec::SecretKey;
use crate::policy::{self, KeyError, KeySource, Policy, Report, Role};

/// No key file is longer, in octets; generous for white space around a key.
const KEY_FILE_LIMIT: usize = 1024;

/// No policy file is longer, in octets; room for some ten thousand guests.
const POLICY_FILE_LIMIT: u64 = 16 << 20;

/// Why a policy file gave no policy. Every case is the user's to mend, exit code 2.
#[derive(Debug, thiserror::Error)]
pub enum PolicyFileError {
    /// The system refused.
    #[error("policy file {file}: it cannot be read: {error}; expected a readable TOML file such as policies/ha.toml")]
    Unreadable {
        /// The file.
        file: String,
        /// What the system said.
        error: io::Error,
    },
    /// A directory, a device, a pipe.
    #[error("policy file {file}: it is not a regular file; expected a TOML file such as policies/ha.toml")]
    NotRegular {
        /// The file.
        file: String,
    },
    /// Longer than any policy.
    #[error(
        "policy file {file}: it is longer than {POLICY_FILE_LIMIT} octets; expected a TOML file such as policies/ha.toml"
    )]
    TooLarge {
        /// The file.
        file: String,
    },
    /// Not a text.
    #[error("policy file {file}: octet {offset} is not UTF-8; a TOML file is UTF-8 text")]
    NotUtf8 {
        /// The file.
        file: String,
        /// Where, from 0.
        offset: usize,
    },
    /// The text is no valid policy.
    #[error("{0}")]
    Invalid(#[from] Report),
}

/// The text of a policy file. It may hold keys, so it is wiped when dropped.
#[derive(Debug)]
pub struct PolicyText {
    text: Secret,
    /// Whether the file is as private as a key file.
    private: Result<(), KeyError>,
}

/// A text that `Debug` does not show.
struct Secret(Zeroizing<String>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "({} octets)", self.0.len())
    }
}

impl std::ops::Deref for PolicyText {
    type Target = str;

    fn deref(&self) -> &str {
        &self.text.0
    }
}

/// Reads the text of a policy file.
///
/// # Errors
/// When it cannot be read, or is no text.
pub fn read_policy_text(file: &Path) -> Result<PolicyText, PolicyFileError> {
    let name = || file.display().to_string();
    let unreadable = |error| PolicyFileError::Unreadable { file: name(), error };
    // A pipe without a writer must not make us wait.
    let handle = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(file).map_err(unreadable)?;
    let metadata = handle.metadata().map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(PolicyFileError::NotRegular { file: name() });
    }
    let private = judge(&metadata, nix::unistd::geteuid().as_raw(), 0o077);
    // Room at once, with one octet to see that it has grown meanwhile: a vector that grows leaves copies of what it held.
    let room = usize::try_from(metadata.len().min(POLICY_FILE_LIMIT)).unwrap_or(0) + 1;
    let mut octets = Zeroizing::new(vec![0; room]);
    let read = read_up_to(&handle, &mut octets).map_err(unreadable)?;
    if read == room {
        let limit = u64::try_from(read).is_ok_and(|read| read > POLICY_FILE_LIMIT);
        let error = || io::Error::other("it grew while it was read");
        return Err(if limit { PolicyFileError::TooLarge { file: name() } } else { unreadable(error()) });
    }
    octets.truncate(read);
    match String::from_utf8(std::mem::take(&mut *octets)) {
        Ok(text) => Ok(PolicyText { text: Secret(Zeroizing::new(text)), private }),
        Err(error) => {
            let offset = error.utf8_error().valid_up_to();
            drop(Zeroizing::new(error.into_bytes()));
            Err(PolicyFileError::NotUtf8 { file: name(), offset })
        }
    }
}

/// Loads the policy file of a role, with its keys.
///
/// # Errors
/// When the file or a key file cannot be read, or the policy is not valid; the error is fit to be shown.
pub fn load_policy(role: Role, file: &Path) -> Result<Policy, PolicyFileError> {
    let text = read_policy_text(file)?;
    let name = file.display().to_string();
    let load = match role {
        Role::MobileNode => policy::load_mobile_node,
        Role::HomeAgent => policy::load_home_agent,
    };
    Ok(load(&name, &text, &Keys::of(&text))?)
}

/// The keys of one policy: in files, regular ones, with no access for group and others, that belong to root or to who runs this; in
/// credentials of the service manager; or in the policy file itself, when that is as private.
#[derive(Debug, Clone)]
pub struct Keys {
    policy_file: Result<(), KeyError>,
    /// `$CREDENTIALS_DIRECTORY`.
    credentials: Option<PathBuf>,
}

impl Keys {
    /// Those of this policy file.
    pub fn of(text: &PolicyText) -> Self {
        Self { policy_file: text.private.clone(), ..Self::of_no_file() }
    }

    /// Those of a policy that is no file on disk, and so may hold no key itself.
    pub fn of_no_file() -> Self {
        let directory = std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from);
        let credentials = directory.filter(|directory| directory.is_absolute());
        Self { policy_file: Err(KeyError::NotRegular), credentials }
    }
}

impl KeySource for Keys {
    fn read_key(&self, path: &Path) -> Result<SecretKey, KeyError> {
        read_key_file(path, 0o077, 0)
    }

    fn read_credential(&self, name: &str) -> Result<SecretKey, KeyError> {
        let directory = self.credentials.as_ref().ok_or(KeyError::NoCredentials)?;
        // systemd lets the user of a service in by an access list, which shows as a right of the group to read.
        read_key_file(&directory.join(name), 0o037, libc::O_NOFOLLOW)
    }

    fn judge_policy_file(&self) -> Result<(), KeyError> {
        self.policy_file.clone()
    }

    fn host_name(&self) -> Option<String> {
        host_name()
    }
}

/// The name of this machine.
pub fn host_name() -> Option<String> {
    std::fs::read_to_string("/proc/sys/kernel/hostname").ok().map(|name| name.trim().to_owned())
}

/// Reads a key from a file that gives none of the rights of `forbidden`.
fn read_key_file(path: &Path, forbidden: u32, flags: i32) -> Result<SecretKey, KeyError> {
    let flags = flags | libc::O_NONBLOCK | libc::O_NOCTTY;
    let open = OpenOptions::new().read(true).custom_flags(flags).open(path);
    // All is asked of the open file, so that nobody can put another in its place in between.
    let file = open.map_err(|error| key_error(&error))?;
    let metadata = file.metadata().map_err(|error| key_error(&error))?;
    judge(&metadata, nix::unistd::geteuid().as_raw(), forbidden)?;
    let mut text = Zeroizing::new([0; KEY_FILE_LIMIT + 1]);
    let length = read_up_to(file, &mut text[..]).map_err(|error| key_error(&error))?;
    if length > KEY_FILE_LIMIT {
        return Err(KeyError::TooLarge { limit: KEY_FILE_LIMIT });
    }
    Ok(policy::parse_key_text(&text[..length])?)
}

fn judge(metadata: &Metadata, user: u32, forbidden: u32) -> Result<(), KeyError> {
    if !metadata.is_file() {
        return Err(KeyError::NotRegular);
    }
    let mode = metadata.mode() & 0o7777;
    if mode & forbidden != 0 {
        return Err(KeyError::Permissive { mode });
    }
    judge_owner(metadata.uid(), user)
}

fn judge_owner(owner: u32, user: u32) -> Result<(), KeyError> {
    if owner == 0 || owner == user { Ok(()) } else { Err(KeyError::ForeignOwner { owner, expected: user }) }
}

fn key_error(error: &io::Error) -> KeyError {
    match error.kind() {
        io::ErrorKind::NotFound => KeyError::Missing,
        _ if error.raw_os_error() == Some(libc::ELOOP) => KeyError::NotRegular,
        _ => KeyError::Unreadable(error.to_string()),
    }
}

/// Fills the buffer as far as the file goes; gives the octets read. (`read_to_end` would leave copies when its vector grows.)
fn read_up_to(mut file: impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(length) => filled += length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Why a key file was not written.
#[derive(Debug, thiserror::Error)]
pub enum KeygenError {
    /// A directory could not be made.
    #[error("directory {path} cannot be made: {error}", path = path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The file could not be written.
    #[error("key file {path} cannot be written: {error}", path = path.display())]
    File {
        /// The key file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// No random numbers.
    #[error("the system gives no random numbers, so no key was made")]
    NoRandomness,
}

/// What [`write_new_key`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keygen {
    /// A new key is in the file.
    Written,
    /// There was a file already; it was not touched.
    Kept,
}

/// Writes a key file with `octets` random octets, mode 0600, unless there is a file. Directories that are missing are made with
/// mode 0700.
///
/// # Errors
/// When the system refuses; no partial file stays behind.
pub fn write_new_key(path: &Path, octets: usize) -> Result<Keygen, KeygenError> {
    if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(directory);
        made.map_err(|error| KeygenError::Directory { path: directory.to_owned(), error })?;
    }
    let mut key = Zeroizing::new(vec![0; octets]);
    SystemRandom::new().fill(&mut key).map_err(|_| KeygenError::NoRandomness)?;
    // `create_new` is O_EXCL: a file that is there, and a symbolic link, are never followed nor overwritten.
    let mut file = match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(Keygen::Kept),
        Err(error) => return Err(KeygenError::File { path: path.to_owned(), error }),
    };
    let written = file.write_all(&policy::key_text(&key)).and_then(|()| file.sync_all());
    if let Err(error) = written {
        // Half a key would be kept by the next run. When this fails too, its wrong length tells.
        let _ = std::fs::remove_file(path);
        return Err(KeygenError::File { path: path.to_owned(), error });
    }
    Ok(Keygen::Written)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    fn keys(credentials: Option<&Path>) -> Keys {
        Keys { policy_file: Ok(()), credentials: credentials.map(Path::to_owned) }
    }

    fn key_file(directory: &Path, text: &[u8], mode: u32) -> PathBuf {
        let path = directory.join("key");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        path
    }

    #[test]
    fn a_key_file_is_private() {
        let directory = tempfile::tempdir().unwrap();
        for mode in [0o600, 0o400, 0o700] {
            let path = key_file(directory.path(), b"0x0102\n", mode);
            assert_eq!(keys(None).read_key(&path).unwrap().expose(), [1, 2], "{mode:o}");
            fs::remove_file(path).unwrap();
        }
        for mode in [0o640, 0o604, 0o620, 0o601, 0o777] {
            let path = key_file(directory.path(), b"0102", mode);
            assert_eq!(keys(None).read_key(&path), Err(KeyError::Permissive { mode }));
        }
    }

    #[test]
    fn a_credential_is_private() {
        let directory = tempfile::tempdir().unwrap();
        let source = keys(Some(directory.path()));
        assert_eq!(keys(None).read_credential("key"), Err(KeyError::NoCredentials));
        assert_eq!(source.read_credential("key"), Err(KeyError::Missing));
        for mode in [0o400, 0o440, 0o600] {
            let path = key_file(directory.path(), b"0x0102\n", mode);
            assert_eq!(source.read_credential("key").unwrap().expose(), [1, 2], "{mode:o}");
            fs::remove_file(path).unwrap();
        }
        for mode in [0o404, 0o460, 0o777] {
            key_file(directory.path(), b"0102", mode);
            assert_eq!(source.read_credential("key"), Err(KeyError::Permissive { mode }));
        }
        std::os::unix::fs::symlink(directory.path().join("key"), directory.path().join("link")).unwrap();
        assert_eq!(source.read_credential("link"), Err(KeyError::NotRegular));
    }

    #[test]
    fn a_policy_file_with_keys_is_private() {
        let directory = tempfile::tempdir().unwrap();
        for (mode, expected) in [(0o600, Ok(())), (0o400, Ok(())), (0o644, Err(KeyError::Permissive { mode: 0o644 }))] {
            let path = key_file(directory.path(), b"key = \"0102\"", mode);
            let text = read_policy_text(&path).unwrap();
            assert_eq!(Keys::of(&text).judge_policy_file(), expected);
            assert!(!format!("{text:?}").contains("0102"));
            fs::remove_file(path).unwrap();
        }
    }

    #[test]
    fn a_key_file_has_a_trusted_owner() {
        assert_eq!(judge_owner(0, 1000), Ok(()));
        assert_eq!(judge_owner(1000, 1000), Ok(()));
        assert_eq!(judge_owner(1001, 1000), Err(KeyError::ForeignOwner { owner: 1001, expected: 1000 }));
        assert_eq!(judge_owner(1001, 0), Err(KeyError::ForeignOwner { owner: 1001, expected: 0 }));
    }

    #[test]
    fn what_is_no_key_file() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(keys(None).read_key(&directory.path().join("none")), Err(KeyError::Missing));
        assert_eq!(keys(None).read_key(directory.path()), Err(KeyError::NotRegular));
        let pipe = directory.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRUSR).unwrap();
        assert_eq!(keys(None).read_key(&pipe), Err(KeyError::NotRegular));
        let below = key_file(directory.path(), b"01", 0o600).join("key");
        assert!(matches!(keys(None).read_key(&below), Err(KeyError::Unreadable(_))));
        let long = key_file(directory.path(), &[b'a'; KEY_FILE_LIMIT + 2], 0o600);
        assert_eq!(keys(None).read_key(&long), Err(KeyError::TooLarge { limit: KEY_FILE_LIMIT }));
        let longest = key_file(directory.path(), &[b'a'; KEY_FILE_LIMIT], 0o600);
        assert_eq!(keys(None).read_key(&longest).unwrap().length(), KEY_FILE_LIMIT / 2);
    }

    #[test]
    fn new_keys_are_private_random_and_never_overwritten() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keys/deeper/key");
        assert_eq!(write_new_key(&path, 32).unwrap(), Keygen::Written);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        assert_eq!(fs::metadata(directory.path().join("keys")).unwrap().permissions().mode() & 0o7777, 0o700);
        let key = keys(None).read_key(&path).unwrap();
        assert_eq!(key.length(), 32);
        assert_eq!(write_new_key(&path, 16).unwrap(), Keygen::Kept);
        assert!(keys(None).read_key(&path).unwrap() == key);
        let other = directory.path().join("keys/other");
        assert_eq!(write_new_key(&other, 32).unwrap(), Keygen::Written);
        assert!(keys(None).read_key(&other).unwrap() != key);
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(directory.path().join("target"), &link).unwrap();
        assert_eq!(write_new_key(&link, 32).unwrap(), Keygen::Kept);
        assert!(!directory.path().join("target").exists());
    }

    #[test]
    fn what_is_no_policy_file() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("ha.toml");
        assert!(matches!(read_policy_text(&file), Err(PolicyFileError::Unreadable { .. })));
        assert!(matches!(read_policy_text(directory.path()), Err(PolicyFileError::NotRegular { .. })));
        fs::write(&file, b"a = \"\xff\"").unwrap();
        assert!(matches!(read_policy_text(&file), Err(PolicyFileError::NotUtf8 { offset: 5, .. })));
    }
}
