//! What must survive a restart: binding update sequence numbers, written before they are used, and how far the outbound ESP sequence
//! numbers have come. One small TOML file per home address, replaced as a whole.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::net::Ipv6Addr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Why the store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The directory or a file could not be read or written.
    #[error(
        "cannot {action} {path}: {source}; sequence numbers must be kept across restarts, give a writable state_directory"
    )]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A file is there but is not what this program writes.
    #[error(
        "{path} is not a state file of this program: {source}; remove it only if the home agent's binding has expired"
    )]
    Malformed {
        /// Which file.
        path: PathBuf,
        /// What the parser said.
        source: toml::de::Error,
    },
}

/// What is kept for one home address.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Record {
    /// A binding update sequence number that none has gone beyond (mobile node).
    pub last_sequence: u16,
    /// The last binding update sequence number accepted (home agent); none: none ever was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accepted_sequence: Option<u16>,
    /// For each outbound SPI (as hexadecimal text) an ESP sequence number that no packet has gone beyond.
    pub output_sequence: BTreeMap<String, u64>,
    /// For each inbound SPI the highest ESP sequence number received when the daemon last left.
    pub input_sequence: BTreeMap<String, u64>,
}

/// A directory of records.
#[derive(Debug, Clone)]
pub struct Store {
    directory: PathBuf,
}

impl Store {
    /// Opens the store, making its directory (mode 0700) when it is missing.
    ///
    /// # Errors
    /// When the directory cannot be made or written to.
    pub fn open(directory: &Path) -> Result<Self, Error> {
        let failed = |source| Error::Io { action: "make the state directory", path: directory.to_owned(), source };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed)?;
        let store = Self { directory: directory.to_owned() };
        let probe = store.directory.join(".writable");
        store.write_file(&probe, b"", true)?;
        fs::remove_file(&probe).map_err(failed)?;
        Ok(store)
    }

    fn path(&self, home_address: Ipv6Addr) -> PathBuf {
        self.directory.join(format!("{home_address}.toml"))
    }

    /// Reads the record of a home address; an empty one where nothing was written yet.
    ///
    /// # Errors
    /// When a file is there and cannot be read or understood: going on from 0 would repeat sequence numbers.
    pub fn load(&self, home_address: Ipv6Addr) -> Result<Record, Error> {
        let path = self.path(home_address);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Record::default()),
            Err(source) => return Err(Error::Io { action: "read", path, source }),
        };
        toml::from_str(&text).map_err(|source| Error::Malformed { path, source })
    }

    /// Writes the record of a home address; when this returns, it survives a crash of the machine.
    ///
    /// # Errors
    /// When it cannot be written; the old record is still there then.
    pub fn save(&self, home_address: Ipv6Addr, record: &Record) -> Result<(), Error> {
        self.write(home_address, record, true)
    }

    /// Writes the record of a home address without waiting for the disk; when this returns, it survives the end of this process, however that
    /// happens, and a crash of the machine some seconds later.
    ///
    /// # Errors
    /// When it cannot be written; the old record is still there then.
    pub fn save_soon(&self, home_address: Ipv6Addr, record: &Record) -> Result<(), Error> {
        self.write(home_address, record, false)
    }

    fn write(&self, home_address: Ipv6Addr, record: &Record, durable: bool) -> Result<(), Error> {
        let path = self.path(home_address);
        let text = toml::to_string(record).map_err(|e| Error::Io {
            action: "encode",
            path: path.clone(),
            source: io::Error::other(e),
        })?;
        let temporary = self.directory.join(format!(".{home_address}.new"));
        self.write_file(&temporary, text.as_bytes(), durable)?;
        let failed = |source| Error::Io { action: "replace", path: path.clone(), source };
        fs::rename(&temporary, &path).map_err(failed)?;
        if durable { File::open(&self.directory).and_then(|d| d.sync_all()).map_err(failed) } else { Ok(()) }
    }

    fn write_file(&self, path: &Path, content: &[u8], durable: bool) -> Result<(), Error> {
        let failed = |source| Error::Io { action: "write", path: path.to_owned(), source };
        let mut file =
            fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path).map_err(failed)?;
        file.write_all(content).and_then(|()| if durable { file.sync_all() } else { Ok(()) }).map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_saved_is_loaded_by_the_next_process() {
        let directory = tempfile::tempdir().unwrap();
        let home: Ipv6Addr = "2001:db8:2000::10".parse().unwrap();
        let store = Store::open(&directory.path().join("state")).unwrap();
        assert_eq!(store.load(home).unwrap(), Record::default());
        let record =
            Record { last_sequence: 65535, output_sequence: [("0x3e8".to_owned(), 70000)].into(), ..Record::default() };
        store.save(home, &record).unwrap();
        assert_eq!(Store::open(&directory.path().join("state")).unwrap().load(home).unwrap(), record);
    }

    #[test]
    fn a_damaged_record_is_an_error_and_not_zero() {
        let directory = tempfile::tempdir().unwrap();
        let home: Ipv6Addr = "2001:db8:2000::10".parse().unwrap();
        fs::write(directory.path().join("2001:db8:2000::10.toml"), "last_sequence = 70000").unwrap();
        let error = Store::open(directory.path()).unwrap().load(home).unwrap_err();
        assert!(error.to_string().contains("2001:db8:2000::10.toml"), "{error}");
    }
}
