//! One daemon per network namespace: two would take each other's objects in the kernel for leftovers.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

/// Why this process is not the one.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is another.
    #[error(
        "another kagemusha runs in this network namespace (it holds {0}): stop it first, or run this one in a namespace of its own"
    )]
    Taken(PathBuf),
    /// The lock file cannot be made.
    #[error("cannot make {path}: {source}; give a writable state_directory")]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// Held while the daemon runs; the kernel gives it back when the process ends, however that happens.
#[derive(Debug)]
pub struct Claim {
    _lock: Flock<File>,
}

/// Claims the network namespace of this process.
///
/// # Errors
/// Another process has claimed it, or the lock file cannot be made in `state_directory`.
pub fn claim(state_directory: &Path) -> Result<Claim, Error> {
    let namespace = fs::metadata("/proc/self/ns/net").map(|namespace| namespace.ino());
    let namespace = namespace.map_err(|source| Error::Io { path: "/proc/self/ns/net".into(), source })?;
    claim_namespace(state_directory, namespace)
}

fn claim_namespace(state_directory: &Path, namespace: u64) -> Result<Claim, Error> {
    let path = state_directory.join(format!("namespace-{namespace}.lock"));
    let failed = |source| Error::Io { path: path.clone(), source };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(state_directory).map_err(failed)?;
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path).map_err(failed)?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Claim { _lock: lock }),
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => Err(Error::Taken(path)),
        Err((_, error)) => Err(failed(error.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_has_one_daemon_at_a_time() {
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path().join("state");
        let first = claim_namespace(&state, 1).unwrap();
        assert!(matches!(claim_namespace(&state, 1), Err(Error::Taken(_))));
        claim_namespace(&state, 2).unwrap();
        drop(first);
        claim_namespace(&state, 1).unwrap();
    }
}
