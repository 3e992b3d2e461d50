//! `kagemusha policy export`, `import` and `diff`: what the administrator of the other side has and needs.

use std::fmt::Write as _;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write as _};
use std::net::Ipv6Addr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use zeroize::Zeroizing;

use super::{RoleArgument, tell_report};
use crate::daemon::keys::{self, Keys, PolicyFileError};
use crate::ipsec::SecretKey;
use crate::policy::exchange::{self, Comparison, ExportError, Format, GuestDetails, Import, Side};
use crate::policy::{self, KeyError, KeySource, Report, Role};
use crate::vocabulary::Prefix;

/// No configuration file is longer, in octets.
const FILE_LIMIT: u64 = 16 << 20;

/// Forms by their names on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum FormatArgument {
    /// The `IPsecPolicySet` of umip's mip6d.conf.
    Mip6d,
    /// sa.conf for `setkey -f`.
    Setkey,
    /// A script of `ip xfrm state add` and `ip xfrm policy add`.
    IpXfrm,
    /// strongSwan's swanctl.conf, which cannot hold manual keys: tells so.
    Swanctl,
}

impl From<FormatArgument> for Format {
    fn from(argument: FormatArgument) -> Self {
        match argument {
            FormatArgument::Mip6d => Self::Mip6d,
            FormatArgument::Setkey => Self::Setkey,
            FormatArgument::IpXfrm => Self::IpXfrm,
            FormatArgument::Swanctl => Self::Swanctl,
        }
    }
}

/// Arguments of `policy export`.
#[derive(Debug, clap::Args)]
pub struct ExportArguments {
    /// The policy file of this side.
    file: PathBuf,
    /// What to write.
    #[arg(long, value_name = "FORM")]
    to: FormatArgument,
    /// Write the keys themselves; otherwise the names of their files.
    #[arg(long)]
    with_keys: bool,
    /// A new file, mode 0600; otherwise standard output.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Whose policy it is; by default the file tells.
    #[arg(long)]
    role: Option<RoleArgument>,
}

/// Arguments of `policy import`.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("from").required(true).multiple(true))]
pub struct ImportArguments {
    /// umip's mip6d.conf, of either side.
    #[arg(long, value_name = "FILE", group = "from")]
    mip6d: Option<PathBuf>,
    /// Security associations in the syntax of setkey.
    #[arg(long, value_name = "FILE", group = "from")]
    sa: Option<PathBuf>,
    /// Security associations as `ip xfrm state` shows them, or as `ip xfrm state add` takes them.
    #[arg(long, value_name = "FILE", group = "from")]
    xfrm: Option<PathBuf>,
    /// The policy file to write; key files go into `keys/` beside it. Nothing is overwritten.
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
    /// Whose policy it becomes.
    #[arg(long, default_value = "mobile-node")]
    role: RoleArgument,
    /// The home agent, when there is no mip6d.conf.
    #[arg(long, value_name = "ADDRESS")]
    home_agent: Option<Ipv6Addr>,
    /// The home link; by default as mip6d.conf says, or the /64 of the home agent.
    #[arg(long, value_name = "PREFIX")]
    home_link: Option<Prefix>,
    /// The interface on the home link, for a home agent.
    #[arg(long, value_name = "NAME")]
    interface: Option<String>,
    /// The host whose the security associations to the home agent are; by default this one.
    #[arg(long, value_name = "NAME")]
    host: Option<String>,
    /// What is known of a guest, such as 2001:db8:2000::10,name=vm1,mac=52:54:00:00:00:10,bridge=br-home.
    #[arg(long, value_name = "ADDRESS,…")]
    guest: Vec<GuestArgument>,
}

/// Arguments of `policy diff`.
#[derive(Debug, clap::Args)]
pub struct DiffArguments {
    /// A policy file of ours, an mip6d.conf, an sa.conf, or the output of `ip xfrm state`.
    first: PathBuf,
    /// The other side: one or more of these.
    #[arg(required = true)]
    second: Vec<PathBuf>,
}

/// `ADDRESS,name=…,mac=…,bridge=…`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct GuestArgument(GuestDetails);

impl FromStr for GuestArgument {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = text.split(',');
        let address = parts.next().unwrap_or("");
        let home_address = address.parse().map_err(|_| format!("expected a home address, got {address:?}"))?;
        let mut details = GuestDetails { home_address, name: None, mac: None, port: None };
        for part in parts {
            match part.split_once('=') {
                Some(("name", value)) => details.name = Some(value.to_owned()),
                Some(("mac", value)) => details.mac = Some(value.to_owned()),
                Some(("bridge", value)) => details.port = Some(("bridge", value.to_owned())),
                Some(("tap", value)) => details.port = Some(("tap", value.to_owned())),
                _ => return Err(format!("expected name=, mac=, bridge= or tap=, got {part:?}")),
            }
        }
        Ok(Self(details))
    }
}

/// Why a command did not succeed.
#[derive(Debug, thiserror::Error)]
pub(super) enum ExchangeError {
    /// Our own policy is not valid.
    #[error(transparent)]
    Policy(#[from] PolicyFileError),
    /// The form cannot say it.
    #[error(transparent)]
    Export(#[from] ExportError),
    /// A file could not be read.
    #[error("{file} cannot be read: {reason}", file = file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// Why.
        reason: String,
    },
    /// A file is there already, or could not be written. Nothing of this command stays behind.
    #[error("{file} cannot be written: {reason}; nothing was changed", file = file.display())]
    Write {
        /// The file.
        file: PathBuf,
        /// Why.
        reason: String,
    },
}

impl From<Report> for ExchangeError {
    fn from(report: Report) -> Self {
        Self::Policy(PolicyFileError::Invalid(report))
    }
}

impl ExchangeError {
    /// Writes it to standard error. Gives the exit code: 1 when the system refused to write, otherwise 2.
    pub(super) fn tell(&self) -> std::process::ExitCode {
        match self {
            Self::Policy(error) => super::tell_policy_error(error),
            Self::Write { .. } => {
                let _ = writeln!(io::stderr(), "error: {self}");
                std::process::ExitCode::FAILURE
            }
            _ => {
                tell_report(&format!("error: {self}\n"));
                std::process::ExitCode::from(crate::daemon::EXIT_BAD_INPUT)
            }
        }
    }
}

/// Keys of a policy that is looked at, and not used on this host.
struct AnyHost(Keys);

impl KeySource for AnyHost {
    fn read_key(&self, path: &Path) -> Result<SecretKey, KeyError> {
        self.0.read_key(path)
    }

    fn read_credential(&self, name: &str) -> Result<SecretKey, KeyError> {
        self.0.read_credential(name)
    }

    fn judge_policy_file(&self) -> Result<(), KeyError> {
        self.0.judge_policy_file()
    }
}

/// Does `policy export`. Gives what belongs on standard output.
pub(super) fn export(arguments: &ExportArguments) -> Result<Zeroizing<String>, ExchangeError> {
    let text = keys::read_policy_text(&arguments.file)?;
    let role = arguments.role.map_or_else(|| policy::role_of(&text), Role::from);
    let name = arguments.file.display().to_string();
    let (policy, paths) = policy::load_with_key_paths(role, &name, &text, &AnyHost(Keys::of(&text)))?;
    let exported = exchange::export(&policy, &paths, arguments.to.into(), arguments.with_keys)?;
    let Some(output) = &arguments.output else { return Ok(exported) };
    let mut written = Written::default();
    written.file(output, exported.as_bytes())?;
    written.keep();
    Ok(Zeroizing::new(format!("written  {}\n", output.display())))
}

/// Does `policy import`. Gives what belongs on standard output.
pub(super) fn import(arguments: &ImportArguments) -> Result<String, ExchangeError> {
    let mut side = Side::default();
    type Parse = fn(&str, &str) -> Result<Side, Report>;
    let files: [(&Option<PathBuf>, Parse); 3] = [
        (&arguments.mip6d, exchange::parse_mip6d),
        (&arguments.sa, exchange::parse_setkey),
        (&arguments.xfrm, exchange::parse_xfrm),
    ];
    for (file, parse) in files {
        if let Some(file) = file {
            side.merge(parse(&file.display().to_string(), &read_with_keys(file)?)?);
        }
    }
    let details = Import {
        role: arguments.role.into(),
        home_agent: arguments.home_agent,
        home_link: arguments.home_link,
        interface: arguments.interface.clone(),
        host: arguments.host.clone().or_else(keys::host_name),
        guests: arguments.guest.iter().map(|guest| guest.0.clone()).collect(),
    };
    let imported = exchange::import(&side, &details)?;
    let directory = arguments.output.parent().unwrap_or(Path::new(""));
    let mut written = Written::default();
    written.file(&arguments.output, imported.text.as_bytes())?;
    for (path, key) in &imported.keys {
        written.file(&directory.join(path), &policy::key_text(key.expose()))?;
    }
    let mut done = String::new();
    for path in written.keep() {
        let _ = writeln!(done, "written  {}", path.display());
    }
    for note in &imported.notes {
        let _ = writeln!(done, "warning: {note}");
    }
    for open in &imported.open {
        let _ = writeln!(done, "open:    {open}");
    }
    Ok(done)
}

/// Does `policy diff`.
pub(super) fn diff(arguments: &DiffArguments) -> Result<Comparison, ExchangeError> {
    let mut second = Side::default();
    for file in &arguments.second {
        second.merge(side(file)?);
    }
    Ok(exchange::compare(&side(&arguments.first)?, &second))
}

/// One side's file, whatever its form; a TOML file is one of ours.
fn side(file: &Path) -> Result<Side, ExchangeError> {
    let text = read_with_keys(file)?;
    let name = file.display().to_string();
    let named_so = file.extension().is_some_and(|extension| extension == "toml");
    if !named_so && toml::de::DeTable::parse(&text).is_err() {
        return Ok(exchange::parse(&name, &text)?);
    }
    // A pipe is nobody's to judge.
    let keys = keys::read_policy_text(file).map_or_else(|_| Keys::of_no_file(), |text| Keys::of(&text));
    let (policy, paths) = policy::load_with_key_paths(policy::role_of(&text), &name, &text, &AnyHost(keys))?;
    Ok(Side::of_policy(&name, &policy, &paths))
}

/// The text of a file that may hold keys; wiped when dropped, and read without copies that stay behind.
fn read_with_keys(file: &Path) -> Result<Zeroizing<String>, ExchangeError> {
    let failed = |reason: String| ExchangeError::Read { file: file.to_owned(), reason };
    let mut handle = File::open(file).map_err(|error| failed(error.to_string()))?;
    let metadata = handle.metadata().map_err(|error| failed(error.to_string()))?;
    if !metadata.is_file() && !metadata.file_type().is_dir() {
        // A pipe, as of a shell's <(ip xfrm state): of no known length.
        return read_pipe(handle).map_err(failed);
    }
    if metadata.len() > FILE_LIMIT {
        return Err(failed(format!("it is longer than {FILE_LIMIT} octets")));
    }
    let mut octets = Zeroizing::new(vec![0; usize::try_from(metadata.len()).unwrap_or(0)]);
    handle.read_exact(&mut octets).map_err(|error| failed(error.to_string()))?;
    text(octets).map_err(failed)
}

fn read_pipe(handle: File) -> Result<Zeroizing<String>, String> {
    let mut octets = Zeroizing::new(Vec::with_capacity(1 << 20));
    let read = handle.take(FILE_LIMIT + 1).read_to_end(&mut octets).map_err(|error| error.to_string())?;
    if u64::try_from(read).unwrap_or(u64::MAX) > FILE_LIMIT {
        return Err(format!("it is longer than {FILE_LIMIT} octets"));
    }
    text(octets)
}

fn text(mut octets: Zeroizing<Vec<u8>>) -> Result<Zeroizing<String>, String> {
    String::from_utf8(std::mem::take(&mut *octets)).map(Zeroizing::new).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        drop(Zeroizing::new(error.into_bytes()));
        format!("octet {at} is not UTF-8")
    })
}

/// Files that this command wrote; they go again unless all are kept.
#[derive(Default)]
struct Written {
    paths: Vec<PathBuf>,
}

impl Written {
    /// A new file of mode 0600, and its directory of mode 0700 when that is missing.
    fn file(&mut self, path: &Path, content: &[u8]) -> Result<(), ExchangeError> {
        let failed = |error: io::Error| {
            let reason = match error.kind() {
                io::ErrorKind::AlreadyExists => "there is such a file already, and nothing is overwritten".to_owned(),
                _ => error.to_string(),
            };
            ExchangeError::Write { file: path.to_owned(), reason }
        };
        if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
            DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed)?;
        }
        // `create_new` is O_EXCL: a file that is there, and a symbolic link, are never followed nor overwritten.
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
        self.paths.push(path.to_owned());
        file.write_all(content).and_then(|()| file.sync_all()).map_err(failed)
    }

    fn keep(mut self) -> Vec<PathBuf> {
        std::mem::take(&mut self.paths)
    }
}

impl Drop for Written {
    fn drop(&mut self) {
        for path in &self.paths {
            let _ = std::fs::remove_file(path);
        }
    }
}
