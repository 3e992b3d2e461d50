//! Which kernel a run is on, as the user says it.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// What `--kernel` takes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) enum Choice {
    /// That of the machine itself: nodes are its network namespaces, and nothing is booted.
    Running,
    /// 6.1, the kernel of Debian 12.
    Debian12,
    /// 6.12, the kernel of Debian 13.
    #[default]
    Debian13,
    /// Whatever is the newest in Debian.
    Newest,
    /// 6.1, 6.12 and the newest.
    All,
    /// A Debian package of a kernel, downloaded as the machine's own apt knows it.
    Package(String),
    /// A kernel image, or a Debian package with one, as a file.
    File(PathBuf),
}

impl FromStr for Choice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "running" => Ok(Self::Running),
            "6.1" => Ok(Self::Debian12),
            "6.12" => Ok(Self::Debian13),
            "newest" => Ok(Self::Newest),
            "all" => Ok(Self::All),
            path if path.contains('/') || PathBuf::from(path).is_file() => Ok(Self::File(path.into())),
            name if name.starts_with("linux-") => Ok(Self::Package(name.to_owned())),
            other => Err(format!(
                "{other:?} is none of running, 6.1, 6.12, newest, all, a package (linux-image-…) and a file (with a / in it)"
            )),
        }
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Running => f.write_str("running"),
            Self::Debian12 => f.write_str("6.1"),
            Self::Debian13 => f.write_str("6.12"),
            Self::Newest => f.write_str("newest"),
            Self::All => f.write_str("all"),
            Self::Package(name) => f.write_str(name),
            Self::File(path) => path.display().fmt(f),
        }
    }
}

impl Choice {
    /// The single kernels that it stands for. The one with all scenarios comes first.
    pub(crate) fn each(&self) -> Vec<Self> {
        match self {
            Self::All => vec![Self::Debian13, Self::Debian12, Self::Newest],
            one => vec![one.clone()],
        }
    }

    /// A name for a directory and a column.
    pub(crate) fn label(&self) -> String {
        match self {
            Self::File(path) => path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            other => other.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_files_and_packages_are_told_apart() {
        for name in ["running", "6.1", "6.12", "newest", "all", "linux-image-6.12-cloud-amd64", "/boot/vmlinuz"] {
            assert_eq!(name.parse::<Choice>().unwrap().to_string(), name);
        }
        assert_eq!("/nonexistent".parse(), Ok(Choice::File("/nonexistent".into())));
        assert!("6.13".parse::<Choice>().unwrap_err().contains("newest"));
        assert_eq!(Choice::All.each().len(), 3);
        assert_eq!(Choice::default(), Choice::Debian13);
    }
}
