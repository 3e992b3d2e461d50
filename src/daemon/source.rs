//! Where the policy came from, so that it can be read again.

use std::path::PathBuf;

use super::config::Config;
use super::{config, keys};
use crate::policy::{Policy, Role};

/// The files of a daemon.
#[derive(Debug, Clone)]
pub struct Source {
    /// The role, which stays.
    pub role: Role,
    /// The policy file.
    pub policy: PathBuf,
    /// The settings file.
    pub config: Option<PathBuf>,
    /// What the settings file said at the start.
    pub loaded: Config,
    /// The settings in force: those of the file, and stronger ones of the command line.
    pub settings: Config,
}

/// Why the files were not taken. All of them are in force as they were read before.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The policy.
    #[error("{0}")]
    Policy(#[from] keys::PolicyFileError),
    /// The settings.
    #[error("{0}")]
    Settings(#[from] config::Error),
    /// Other settings.
    #[error("settings cannot change while the daemon runs: restart it, or put {0} back as it was")]
    NeedsRestart(PathBuf),
}

impl Source {
    /// Reads all files again. Nothing is changed by it.
    ///
    /// # Errors
    /// One of them is not valid, or the settings are others.
    pub fn read(&self) -> Result<Policy, Error> {
        if let Some(file) = &self.config
            && Config::load(file)? != self.loaded
        {
            return Err(Error::NeedsRestart(file.clone()));
        }
        Ok(keys::load_policy(self.role, &self.policy)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_files_are_good_or_none_counts() {
        let directory = tempfile::tempdir().unwrap();
        let (policy, config) = (directory.path().join("ha.toml"), directory.path().join("settings.toml"));
        std::fs::write(&policy, include_str!("../../policies/ha-unprotected.toml")).unwrap();
        std::fs::write(&config, "log = \"info\"\n").unwrap();
        let source = Source {
            role: Role::MobileNode,
            policy: policy.clone(),
            config: Some(config.clone()),
            loaded: Config::load(&config).unwrap(),
            settings: Config::load(&config).unwrap(),
        };
        assert!(source.read().is_ok());
        std::fs::write(&config, "log = \"debug\"\n").unwrap();
        assert!(source.read().unwrap_err().to_string().contains("settings.toml"));
        std::fs::write(&config, "log = \"info\"\n").unwrap();
        std::fs::write(&policy, "[home_agent]\naddress = \"nowhere\"\n").unwrap();
        assert!(source.read().unwrap_err().to_string().contains("nowhere"));
    }
}
