//! Debian's kernels by an apt configuration of the lab's own: its own lists and its own cache, signatures verified, nothing
//! installed, and whatever release the machine itself has.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::failure::{Failure, Outcome, While, ensure};

/// The keys that Debian signs its releases with.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Which packages apt looks at.
pub(crate) struct Apt {
    /// None: as the machine itself is configured.
    own: Option<PathBuf>,
}

impl Apt {
    /// As the machine itself is configured.
    pub(crate) fn of_the_machine() -> Self {
        Self { own: None }
    }

    /// Debian's `suite` and its security updates, below `directory`, from where the machine gets its own packages.
    pub(crate) fn of_suite(directory: &Path, suite: &str) -> Outcome<Self> {
        let archives = archives(&index_targets()?)?;
        let key = KEYRING;
        ensure(Path::new(key).exists(), || format!("{key} is missing: apt-get install debian-archive-keyring"))?;
        let mut sources = format!("deb [signed-by={key}] {} {suite} main\n", archives.main);
        if let Some(security) = archives.security.filter(|_| suite != "unstable") {
            sources.push_str(&format!("deb [signed-by={key}] {security} {suite}-security main\n"));
        }
        for part in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(directory.join(part)).during(|| directory.display().to_string())?;
        }
        fs::write(directory.join("sources.list"), sources)?;
        let at = |name: &str| directory.join(name).display().to_string();
        let configuration = format!(
            "Dir::Etc::sourcelist \"{}\";\nDir::Etc::sourceparts \"/dev/null\";\nDir::Etc::preferences \"/dev/null\";\n\
             Dir::Etc::preferencesparts \"/dev/null\";\nDir::State::lists \"{}\";\nDir::Cache \"{}\";\n\
             Acquire::Languages \"none\";\nAcquire::IndexTargets::deb::DEP-11::DefaultEnabled \"false\";\n",
            at("sources.list"),
            at("lists"),
            at("cache")
        );
        let file = directory.join("apt.conf");
        fs::write(&file, configuration).during(|| file.display().to_string())?;
        let apt = Self { own: Some(file) };
        apt.update()?;
        Ok(apt)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.stdin(Stdio::null()).env("DEBIAN_FRONTEND", "noninteractive").env("LC_ALL", "C.UTF-8");
        if let Some(file) = &self.own {
            command.env("APT_CONFIG", file);
        }
        command
    }

    fn update(&self) -> Outcome {
        let output = self.command("apt-get").args(["update", "--quiet"]).output().during(|| "apt-get".into())?;
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        // It ends with 0 when it has fetched nothing, too.
        ensure(output.status.success() && !error.contains("Failed to fetch"), || {
            format!("apt-get update failed; is there a network? {}", last_line(&error))
        })
    }

    /// A package of a kernel, or one that depends on one, and the packages that hold its parts: since 7.0 Debian has a kernel
    /// and its modules in packages of their own.
    pub(crate) fn with_parts(&self, package: &str) -> Outcome<Vec<String>> {
        let mut all = vec![package.to_owned()];
        let mut next = 0;
        while let Some(name) = all.get(next).cloned() {
            next += 1;
            let output = self.command("apt-cache").args(["depends", &name]).output().during(|| "apt-cache".into())?;
            ensure(output.status.success() && !output.stdout.is_empty(), || {
                format!("apt knows no package {name}; `apt-cache search linux-image` shows which there are")
            })?;
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            for part in parts(&text) {
                if !all.contains(&part) {
                    all.push(part);
                }
            }
        }
        Ok(all)
    }

    /// Downloads packages into `directory`.
    pub(crate) fn download(&self, directory: &Path, packages: &[String]) -> Outcome<Vec<PathBuf>> {
        fs::create_dir_all(directory).during(|| directory.display().to_string())?;
        let mut command = self.command("apt-get");
        // The sandbox user of apt may not be allowed to write there; what is downloaded is verified all the same.
        command.args(["download", "--quiet", "--option", "APT::Sandbox::User=root"]).args(packages);
        let output = command.current_dir(directory).output().during(|| "apt-get".into())?;
        ensure(output.status.success(), || {
            format!("apt-get download {}: {}", packages.join(" "), last_line(&String::from_utf8_lossy(&output.stderr)))
        })?;
        let files = fs::read_dir(directory)?.flatten().map(|entry| entry.path());
        Ok(files.filter(|path| path.extension().is_some_and(|kind| kind == "deb")).collect())
    }
}

fn last_line(text: &str) -> &str {
    text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it has not said why")
}

/// The packages that hold a kernel's parts among those that `apt-cache depends` names.
fn parts(depends: &str) -> Vec<String> {
    let named = depends.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
    let holds = |name: &&str| {
        ["linux-image-", "linux-binary-", "linux-modules-", "linux-base-"].iter().any(|kind| name.starts_with(kind))
    };
    named.filter(holds).map(str::to_owned).collect()
}

/// Where the machine's own apt gets Debian's packages from.
#[derive(Debug, PartialEq, Eq)]
struct Archives {
    main: String,
    security: Option<String>,
}

fn index_targets() -> Outcome<String> {
    let format = "$(ORIGIN) $(CODENAME) $(REPO_URI)";
    let query = || -> Outcome<String> {
        let output = Command::new("apt-get").args(["indextargets", "--format", format]).output();
        Ok(String::from_utf8_lossy(&output.during(|| "apt-get".into())?.stdout).into_owned())
    };
    let text = query()?;
    if archives(&text).is_ok() {
        return Ok(text);
    }
    // A fresh machine has no package lists.
    Apt::of_the_machine().update()?;
    query()
}

fn archives(targets: &str) -> Outcome<Archives> {
    let find = |wanted: bool| {
        targets.lines().find_map(|line| {
            let mut words = line.split(' ');
            let (origin, codename, address) = (words.next()?, words.next()?, words.next()?);
            let security = codename.ends_with("-security");
            (origin == "Debian" && security == wanted).then(|| address.to_owned())
        })
    };
    let main = find(false).ok_or_else(|| {
        Failure::new("apt on this machine gets no packages from Debian: name a kernel by --kernel FILE")
    })?;
    Ok(Archives { main, security: find(true) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_of_a_kernel_are_found() {
        let meta = "linux-image-cloud-amd64\n  Depends: linux-base-cloud-amd64\n  Depends: linux-image-7.2.13-amd64\n";
        assert_eq!(parts(meta), ["linux-base-cloud-amd64", "linux-image-7.2.13-amd64"]);
        let image = "x\n  PreDepends: linux-base\n |Depends: dracut\n  Depends: linux-binary-7.2\n  Depends: linux-modules-7.2\n";
        assert_eq!(parts(image), ["linux-binary-7.2", "linux-modules-7.2"]);
    }

    #[test]
    fn debians_archives_are_those_of_the_machine() {
        let text = "Google cloud http://a/\nDebian trixie-security http://s/\nDebian trixie http://m/\n";
        let expected = Archives { main: "http://m/".into(), security: Some("http://s/".into()) };
        assert_eq!(archives(text).unwrap(), expected);
        assert!(archives("Ubuntu noble http://u/\n").unwrap_err().to_string().contains("--kernel FILE"));
    }
}
