//! Settings of the daemon itself (`--config FILE`); the policy file alone suffices to run.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::engine::Accelerate;

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("cannot read the settings file {path}: {source}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not what it should be; the message carries line and column.
    #[error("{path}: {source}")]
    Parse {
        /// Which file.
        path: PathBuf,
        /// What the parser says.
        source: toml::de::Error,
    },
}

/// Form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// The settings, all with defaults.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where sequence numbers are kept across restarts. Default `/var/lib/kagemusha`.
    pub state_directory: PathBuf,
    /// Where the control socket is. Default `/run/kagemusha`.
    pub runtime_directory: PathBuf,
    /// What is logged, in the syntax of `tracing-subscriber`'s `Targets`. Default `info`; the environment variable `KAGEMUSHA_LOG` overrides it.
    pub log: String,
    /// `text` or `json`.
    pub log_format: LogFormat,
    /// Which tier of the tunnel engine is tried first: `off`, `super-packet`, `ebpf` or `auto`.
    pub accelerate: Accelerate,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            state_directory: "/var/lib/kagemusha".into(),
            runtime_directory: "/run/kagemusha".into(),
            log: "info".to_owned(),
            log_format: LogFormat::Text,
            accelerate: Accelerate::Auto,
        }
    }
}

impl Config {
    /// Reads a settings file.
    ///
    /// # Errors
    /// When it cannot be read or has anything unknown or ill-formed in it.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let text = std::fs::read_to_string(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
        toml::from_str(&text).map_err(|source| Error::Parse { path: path.to_owned(), source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_settings_are_refused_with_their_line() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, "log = \"debug\"\nstate_dir = \"/x\"\n").unwrap();
        let message = Config::load(file.path()).unwrap_err().to_string();
        assert!(message.contains("line 2") && message.contains("state_directory"), "{message}");
        std::fs::write(&file, "log = \"debug\"\nlog_format = \"json\"\nstate_directory = \"/x\"\n").unwrap();
        assert_eq!(Config::load(file.path()).unwrap().log_format, LogFormat::Json);
    }
}
