//! User-Mode Linux: a kernel with all the lab needs as an ordinary process.

use std::ffi::OsString;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::failure::{Outcome, While, ensure};

/// Modules of Debian's package user-mode-linux.
pub(crate) const MODULES: &str = "/usr/lib/uml/modules";

/// Names the directory of the run to init: the kernel hands variables it does not know to init's environment.
pub(crate) const RUN_VARIABLE: &str = "KAGEMUSHA_LAB_RUN";

/// The program, where it is installed.
pub(crate) fn program() -> Option<&'static Path> {
    Some(Path::new("/usr/bin/linux.uml")).filter(|path| path.exists() && Path::new(MODULES).exists())
}

const MEMORY_MEGABYTES: u64 = 1024;

/// The command that boots it with the lab's own program as init. `scratch` is a short-lived directory; its own name and
/// that of the run may hold anything, the kernel only sees links to them.
pub(crate) fn command(program: &Path, lab: &Path, run: &Path, scratch: &Path) -> Outcome<Command> {
    let (init, link) = (scratch.join("init"), scratch.join("run"));
    symlink(lab, &init).during(|| init.display().to_string())?;
    symlink(run, &link).during(|| link.display().to_string())?;
    ensure(!scratch.to_string_lossy().contains(char::is_whitespace), || {
        format!("{}: a kernel command line cannot hold white space; set TMPDIR", scratch.display())
    })?;
    let parameter = |key: &str, value: &Path| {
        let mut parameter = OsString::from(key);
        parameter.push("=");
        parameter.push(value);
        parameter
    };
    let mut command = Command::new(program);
    command
        .arg(format!("mem={MEMORY_MEGABYTES}M"))
        .args(["rootfstype=hostfs", "rootflags=/", "rw", "quiet", "con=null", "con0=fd:0,fd:1"])
        .arg(parameter("uml_dir", scratch))
        .arg(parameter("init", &init))
        .arg(parameter(RUN_VARIABLE, &link))
        .env("TMPDIR", memory_directory(scratch))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    Ok(command)
}

/// Where its memory may lie as a file: a tmpfs if one is large enough, otherwise next to the run.
fn memory_directory(fallback: &Path) -> PathBuf {
    let roomy = |path: &str| {
        nix::sys::statvfs::statvfs(path).is_ok_and(|status| {
            let free = status.blocks_available() * status.fragment_size();
            // Two of them may run.
            free > (2 * (MEMORY_MEGABYTES + 64)) << 20
                && !status.flags().contains(nix::sys::statvfs::FsFlags::ST_NOEXEC)
        })
    };
    ["/dev/shm", "/tmp"].into_iter().find(|path| roomy(path)).map_or_else(|| fallback.to_owned(), PathBuf::from)
}
