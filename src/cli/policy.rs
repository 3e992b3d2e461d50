//! `kagemusha policy`: key files, and a look at a policy without a kernel.

mod exchange;

use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::daemon::EXIT_BAD_INPUT;
use crate::daemon::keys::{self, Keygen, PolicyFileError};
use crate::ipsec::{SecurityAssociation, Toward, UpperLayer};
use crate::policy::exchange::fingerprint;
use crate::policy::{self, GuestPolicy, KeyFile, KeyOrigin, Policy, Role};

/// Commands on policy files.
#[derive(Debug, clap::Subcommand)]
pub enum PolicyCommand {
    /// Write the key files that a policy names and that are missing. Those that are there are never touched.
    Keygen {
        /// The policy file.
        file: PathBuf,
        /// Whose policy it is; by default the file tells.
        #[arg(long)]
        role: Option<RoleArgument>,
    },
    /// Check a policy file and its key files; exit code 2 when something is wrong.
    Check {
        /// The policy file.
        file: PathBuf,
        /// Whose policy it is; by default the file tells.
        #[arg(long)]
        role: Option<RoleArgument>,
    },
    /// Show the guests, security associations and security policies of a policy file, with fingerprints of its keys.
    Show {
        /// The policy file.
        file: PathBuf,
        /// Whose policy it is; by default the file tells.
        #[arg(long)]
        role: Option<RoleArgument>,
        /// The side whose kernel is shown; by default the one whose policy it is. The two are mirror images.
        #[arg(long = "as")]
        as_role: Option<RoleArgument>,
    },
    /// Write what the administrator of the other side installs.
    Export(exchange::ExportArguments),
    /// Make a policy file, and its key files, of what umip or another home agent is configured with.
    Import(exchange::ImportArguments),
    /// Show where two sides disagree; exit code 0 when they do not, 1 when they do.
    Diff(exchange::DiffArguments),
}

/// The roles by their names on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum RoleArgument {
    /// The host that its guests are on.
    MobileNode,
    /// The home agent.
    HomeAgent,
}

impl From<RoleArgument> for Role {
    fn from(argument: RoleArgument) -> Self {
        match argument {
            RoleArgument::MobileNode => Self::MobileNode,
            RoleArgument::HomeAgent => Self::HomeAgent,
        }
    }
}

impl PolicyCommand {
    /// Does the command. Exit code 0, 1 when the system refused, or 2 when the policy is not valid.
    pub fn run(self) -> ExitCode {
        let done = match self {
            Self::Keygen { file, role } => keygen(&file, role.map(Role::from)),
            Self::Check { file, role } => check(&file, role.map(Role::from)),
            Self::Export(arguments) => return finish(exchange::export(&arguments)),
            Self::Import(arguments) => return finish(exchange::import(&arguments)),
            Self::Diff(arguments) => return differences(exchange::diff(&arguments)),
            Self::Show { file, role, as_role } => {
                let loaded = load(&file, role.map(Role::from)).map_err(Failure::from);
                loaded.map(|policy| show_as(&policy, as_role.map_or(policy.role, Role::from)))
            }
        };
        match done {
            Ok(text) => {
                // A reader that has gone away, `| head`, is no failure.
                let _ = std::io::stdout().write_all(text.as_bytes());
                ExitCode::SUCCESS
            }
            Err(failure) => failure.tell(),
        }
    }
}

/// Writes what a command gave.
fn finish<T: std::ops::Deref<Target: AsRef<[u8]>>>(done: Result<T, exchange::ExchangeError>) -> ExitCode {
    match done {
        Ok(text) => match std::io::stdout().write_all((*text).as_ref()) {
            Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => ExitCode::FAILURE,
            _ => ExitCode::SUCCESS,
        },
        Err(error) => error.tell(),
    }
}

fn differences(compared: Result<policy::exchange::Comparison, exchange::ExchangeError>) -> ExitCode {
    match compared {
        Ok(comparison) => {
            let _ = std::io::stdout().write_all(comparison.to_string().as_bytes());
            if comparison.differences.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => error.tell(),
    }
}

fn tell_report(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// Why a command did not succeed.
#[derive(Debug)]
enum Failure {
    Policy(PolicyFileError),
    Keygen { done: String, error: keys::KeygenError },
}

impl Failure {
    fn tell(self) -> ExitCode {
        match self {
            Self::Policy(error) => tell_policy_error(&error),
            Self::Keygen { done, error } => {
                let _ = std::io::stdout().write_all(done.as_bytes());
                let _ = writeln!(std::io::stderr(), "error: {error}");
                ExitCode::FAILURE
            }
        }
    }
}

impl From<PolicyFileError> for Failure {
    fn from(error: PolicyFileError) -> Self {
        Self::Policy(error)
    }
}

/// Writes to standard error why a policy file gave no policy, with colours on a terminal. Gives the exit code, 2.
pub fn tell_policy_error(error: &PolicyFileError) -> ExitCode {
    let mut stderr = std::io::stderr();
    let colours = stderr.is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let _ = match error {
        PolicyFileError::Invalid(report) => {
            let count = report.diagnostics().len();
            let noun = if count == 1 { "mistake" } else { "mistakes" };
            let file = report.diagnostics().first().map(policy::Diagnostic::file).unwrap_or_default();
            writeln!(stderr, "{}error: {count} {noun} in {file}; nothing was changed", report.render(colours))
        }
        other => writeln!(stderr, "error: {other}"),
    };
    ExitCode::from(EXIT_BAD_INPUT)
}

fn load(file: &Path, role: Option<Role>) -> Result<Policy, PolicyFileError> {
    let role = match role {
        Some(role) => role,
        None => policy::role_of(&keys::read_policy_text(file)?),
    };
    keys::load_policy(role, file)
}

fn keygen(file: &Path, role: Option<Role>) -> Result<String, Failure> {
    let text = keys::read_policy_text(file)?;
    let role = role.unwrap_or_else(|| policy::role_of(&text));
    let name = file.display().to_string();
    let named = policy::key_files(role, &name, &text).map_err(PolicyFileError::from)?;
    let others = policy::other_keys(role, &name, &text).map_err(PolicyFileError::from)?;
    let mut done = String::new();
    for key in &named {
        match keys::write_new_key(&key.path, key.octets) {
            Ok(keygen) => {
                let word = if keygen == Keygen::Written { "written" } else { "kept   " };
                let _ = writeln!(done, "{word}  {}  ({}, {} octets)", key.path.display(), key.purpose, key.octets);
            }
            Err(error) => return Err(Failure::Keygen { done, error }),
        }
    }
    for key in &others {
        let (origin, purpose, octets) = (&key.origin, &key.purpose, key.octets);
        let _ = writeln!(done, "not made {origin}  ({purpose}, {octets} octets)");
        if let KeyOrigin::Credential(name) = origin {
            let _ = writeln!(
                done,
                "         make it once (openssl rand -hex {octets}), and give it to the service of each side: \
                 systemd-creds encrypt --name={name} - /etc/credstore.encrypted/{name}"
            );
        }
    }
    match (named.is_empty(), others.is_empty()) {
        (true, true) => done.push_str("this policy names no keys\n"),
        (true, false) => done.push_str("The other side needs the same keys.\n"),
        (false, _) => done.push_str(&what_to_copy(role, &named)),
    }
    Ok(done)
}

/// Who needs which of the key files besides this side.
fn what_to_copy(role: Role, named: &[KeyFile]) -> String {
    let mut text = "The other side needs the same keys. Copy, on a way that nobody can read along:\n".to_owned();
    let mut receivers: Vec<(String, Vec<&Path>)> = Vec::new();
    for key in named {
        let receiver = match (role, &key.host) {
            (Role::MobileNode, _) => "the home agent".to_owned(),
            (Role::HomeAgent, Some(host)) => format!("host {host}, and to no other"),
            (Role::HomeAgent, None) => "every host that the guest can be on".to_owned(),
        };
        match receivers.iter_mut().find(|(known, _)| *known == receiver) {
            Some((_, paths)) => paths.push(&key.path),
            None => receivers.push((receiver, vec![&key.path])),
        }
    }
    for (receiver, paths) in receivers {
        let _ = writeln!(text, "  to {receiver}:");
        for path in paths {
            let _ = writeln!(text, "    {}", path.display());
        }
    }
    text
}

fn check(file: &Path, role: Option<Role>) -> Result<String, Failure> {
    let policy = load(file, role)?;
    let associations: usize = policy.guests.iter().map(|guest| guest.protection.associations().len()).sum();
    let mut text = String::new();
    for warning in &policy.warnings {
        let _ = writeln!(text, "warning: {warning}");
    }
    let _ = writeln!(
        text,
        "{}: good policy of a {} ({}, {})",
        file.display(),
        policy.role,
        counted(policy.guests.len(), "guest"),
        counted(associations, "security association"),
    );
    Ok(text)
}

fn counted(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

/// The policy as a table, keys as fingerprints.
pub fn show(policy: &Policy) -> String {
    show_as(policy, policy.role)
}

/// The same with the security policies as the kernel of `side` has them.
pub fn show_as(policy: &Policy, side: Role) -> String {
    let mut text = String::new();
    let home_agent = &policy.home_agent;
    let _ = writeln!(text, "policy of a {}", policy.role);
    let _ = writeln!(text, "  home agent  {}", home_agent.address);
    let _ = writeln!(text, "  home link   {}", home_agent.home_link);
    if let Some(interface) = &home_agent.interface {
        let _ = writeln!(text, "  interface   {interface}");
        let _ = writeln!(text, "  lifetime    at most {} s", home_agent.maximum_lifetime.as_secs());
        let detection = match (home_agent.detect_duplicates, home_agent.optimistic_detection) {
            (false, _) => "none",
            (true, false) => "before the first registration",
            (true, true) => "during the first registration",
        };
        let _ = writeln!(text, "  duplicate address detection  {detection}");
    }
    if let Some(interface) = &policy.uplink.interface {
        let _ = writeln!(text, "  uplink      {interface}");
    }
    if let Some(address) = policy.uplink.care_of_address {
        let _ = writeln!(text, "  care-of     {address}");
    }
    for guest in &policy.guests {
        show_guest(&mut text, policy, guest, side);
    }
    for warning in &policy.warnings {
        let _ = writeln!(text, "\nwarning: {warning}");
    }
    text
}

fn show_guest(text: &mut String, policy: &Policy, guest: &GuestPolicy, side: Role) {
    let _ = writeln!(text, "\nguest {}", guest.name);
    let _ = writeln!(text, "  home address  {}", guest.home_address);
    if let Some(attachment) = &guest.attachment {
        let router = attachment.router;
        let autonomous = if router.autonomous { ", autonomous prefix" } else { "" };
        let _ = writeln!(text, "  MAC address   {}", attachment.mac);
        let _ = writeln!(text, "  port          {}", attachment.port);
        let _ = writeln!(text, "  lifetime      {} s", guest.lifetime.as_secs());
        let _ = writeln!(text, "  router        {} at {}{autonomous}", router.link_local, router.mac);
    }
    if guest.protection.is_none() {
        text.push_str("  protection    NONE: binding updates go in the clear\n");
        return;
    }
    let _ = writeln!(text, "  security policies of the {side}");
    for (class, reqids) in &guest.protection.classes {
        let (home, agent) = (guest.home_address.to_string(), policy.home_agent.address.to_string());
        for toward in Toward::BOTH {
            let agent = if class.is_tunnel() { "any".to_owned() } else { agent.clone() };
            let (from, to) = match toward {
                Toward::HomeAgent => (home.clone(), agent),
                Toward::Guest => (agent, home.clone()),
            };
            let packets = packets(class.upper_layer(toward));
            let (mode, reqid) = (class.mode().name(), reqids.toward(toward));
            let sends = (toward == Toward::HomeAgent) == (side == Role::MobileNode);
            let direction = match (sends, class.is_tunnel()) {
                (true, _) => "out",
                (false, false) => "in",
                (false, true) => "in, forward",
            };
            let _ = writeln!(text, "    {direction:<11}  {packets:<38} {from} -> {to}  ESP {mode}, reqid {reqid}");
        }
    }
    text.push_str("    other mobility headers of this home address: discarded\n");
    text.push_str("  security associations\n");
    let several = guest.protection.classes.len() > 1;
    let mut last = None;
    for association in guest.protection.associations() {
        let class = association.reqid().and_then(|reqid| guest.protection.serves(reqid)).map(|(class, _)| class);
        if let Some(class) = class.filter(|_| several && class != last) {
            let _ = writeln!(text, "   {class}");
        }
        last = class;
        show_association(text, association);
    }
}

/// Protocol and type of packets, in words.
fn packets(upper_layer: UpperLayer) -> String {
    match upper_layer {
        UpperLayer::Any => "all packets".to_owned(),
        UpperLayer::Protocol(135) => "mobility headers".to_owned(),
        UpperLayer::Protocol(58) => "ICMPv6".to_owned(),
        UpperLayer::Protocol(number) => format!("protocol {number}"),
        UpperLayer::MobilityHeader(kind) => {
            let name = match kind {
                1 => "home test init",
                3 => "home test",
                5 => "binding update",
                6 => "binding acknowledgement",
                _ => "mobility header",
            };
            format!("{name} (MH type {kind})")
        }
        UpperLayer::Icmpv6(146) => "prefix solicitation (ICMPv6 type 146)".to_owned(),
        UpperLayer::Icmpv6(147) => "prefix advertisement (ICMPv6 type 147)".to_owned(),
        UpperLayer::Icmpv6(kind) => format!("ICMPv6 type {kind}"),
    }
}

fn show_association(text: &mut String, association: &SecurityAssociation) {
    let key = association.key;
    let Some(esp) = association.transform.esp() else { return };
    let (reqid, window) = (esp.reqid, esp.replay_window);
    let extended = if esp.extended_sequence_numbers { "  extended sequence numbers" } else { "" };
    let _ = writeln!(
        text,
        "    SPI {:#010x}  {} -> {}  reqid {reqid}  replay window {window}{extended}",
        key.spi, key.source, key.destination
    );
    let (algorithm, secret) = &esp.encryption;
    let _ = writeln!(text, "      encryption  {:<16} key {}", algorithm.name(), fingerprint(secret));
    if let Some((algorithm, secret)) = &esp.integrity {
        let _ = writeln!(text, "      integrity   {:<16} key {}", algorithm.name(), fingerprint(secret));
    }
    if !esp.lifetime.is_unlimited() {
        let _ = writeln!(text, "      lifetime    {}", policy::exchange::lifetime_words(&esp.lifetime));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REFERENCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/policies/ha.toml");

    fn policy_in(directory: &Path) -> PathBuf {
        let file = directory.join("ha.toml");
        std::fs::copy(REFERENCE, &file).unwrap();
        file
    }

    #[test]
    fn what_keygen_writes_is_what_check_wants() {
        let directory = tempfile::tempdir().unwrap();
        let file = policy_in(directory.path());
        let Err(Failure::Policy(PolicyFileError::Invalid(report))) = check(&file, None) else {
            panic!("keys are missing")
        };
        assert_eq!(report.diagnostics().len(), 4);
        let command = format!("`kagemusha policy keygen {}`", file.display());
        assert!(report.diagnostics().iter().all(|one| one.help.as_ref().is_some_and(|help| help.contains(&command))));
        let first = keygen(&file, None).unwrap();
        assert_eq!(first.matches("written ").count(), 4, "{first}");
        let second = keygen(&file, None).unwrap();
        assert_eq!((second.matches("written ").count(), second.matches("kept ").count()), (0, 4), "{second}");
        let good = check(&file, None).unwrap();
        assert!(good.ends_with("good policy of a mobile node (1 guest, 2 security associations)\n"), "{good}");
    }

    #[test]
    fn a_key_is_never_shown() {
        let directory = tempfile::tempdir().unwrap();
        let file = policy_in(directory.path());
        keygen(&file, None).unwrap();
        let policy = load(&file, None).unwrap();
        let shown = format!("{}{policy:?}{policy:#?}", show(&policy));
        assert!(shown.contains("SecretKey(32 octets)"));
        for entry in std::fs::read_dir(directory.path().join("keys")).unwrap() {
            let key = std::fs::read_to_string(entry.unwrap().path()).unwrap();
            let key = key.trim();
            assert_eq!(key.len(), 64);
            // Not even a part of it, in hexadecimal or as a list of octets.
            assert!((0..=56).all(|at| !shown.contains(&key[at..at + 8])));
            let octets: Vec<u8> = (0..32).map(|at| u8::from_str_radix(&key[2 * at..2 * at + 2], 16).unwrap()).collect();
            let list = format!("{:?}", &octets[..4]);
            assert!(!shown.contains(list.trim_matches(['[', ']'])));
        }
    }
}
