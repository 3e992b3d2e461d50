//! The commands that talk to a running daemon.

use std::fmt::Write as _;
use std::io::{self, Read, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::bad_input;
use crate::daemon::config::Config;
use crate::daemon::control_socket;
use crate::daemon::control_socket::client::{self, Error};
use crate::daemon::control_socket::protocol::{Event, Guest, Reply, Request, Sequences, Status};

/// Which daemon.
#[derive(Debug, Args)]
pub(super) struct Daemon {
    /// The control socket; default: that of this network namespace in the runtime directory
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Settings of the daemon, which may name another runtime directory
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// A guest of a daemon.
#[derive(Debug, Args)]
pub(super) struct OneGuest {
    /// Its name in the policy
    guest: String,
    #[command(flatten)]
    daemon: Daemon,
}

/// A guest that leaves this host.
#[derive(Debug, Args)]
pub(super) struct Leaving {
    /// It goes home: de-register it, so that the home agent intercepts nothing for it any more
    #[arg(long)]
    home: bool,
    #[command(flatten)]
    one: OneGuest,
}

/// A daemon, for people or for programs.
#[derive(Debug, Args)]
pub(super) struct Shown {
    /// As JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    daemon: Daemon,
}

/// `kagemusha sa`.
#[derive(Debug, Subcommand)]
pub(super) enum SaCommand {
    /// Write how far sequence numbers and replay windows have come, for the next host; keys are no part of it
    Export {
        /// Names of guests; default: all
        guests: Vec<String>,
        /// Where to; default: standard output
        #[arg(long, value_name = "FILE")]
        output: Option<PathBuf>,
        #[command(flatten)]
        daemon: Daemon,
    },
    /// Go on where another host has stopped; what goes backwards or is not in the policy is refused as a whole
    Import {
        /// What that host has exported; `-`: standard input
        file: PathBuf,
        #[command(flatten)]
        daemon: Daemon,
    },
}

/// `kagemusha status`.
pub(super) fn status(shown: &Shown) -> ExitCode {
    with_answer(&shown.daemon, &Request::Status, |reply| match reply {
        Reply::Status(status) if shown.json => print_json(&status),
        Reply::Status(status) => print(&describe(&status)),
        _ => unexpected(),
    })
}

/// `kagemusha reload`, `attach`, `detach`, `prepare`.
pub(super) fn command(daemon: &Daemon, request: &Request) -> ExitCode {
    with_answer(daemon, request, |reply| match reply {
        Reply::Done(text) => print(&format!("{text}\n")),
        _ => unexpected(),
    })
}

/// `kagemusha attach`.
pub(super) fn attach(one: OneGuest) -> ExitCode {
    command(&one.daemon, &Request::Attach { guest: one.guest })
}

/// `kagemusha detach`.
pub(super) fn detach(leaving: Leaving) -> ExitCode {
    command(&leaving.one.daemon, &Request::Detach { guest: leaving.one.guest, home: leaving.home })
}

/// `kagemusha prepare`.
pub(super) fn prepare(one: OneGuest) -> ExitCode {
    command(&one.daemon, &Request::Prepare { guest: one.guest })
}

/// `kagemusha watch`.
pub(super) fn watch(shown: &Shown) -> ExitCode {
    let path = match socket(&shown.daemon) {
        Ok(path) => path,
        Err(code) => return code,
    };
    let mut answers = match client::send(&path, &Request::Watch) {
        Ok(answers) => answers,
        Err(error) => return failed(&error),
    };
    loop {
        let printed = match answers.next_answer() {
            Ok(Some(Reply::Event(event))) if shown.json => print_json(&event),
            Ok(Some(Reply::Event(event))) => print(&describe_event(&event)),
            Ok(Some(Reply::Missed(missed))) if shown.json => print_json(&Reply::Missed(missed)),
            Ok(Some(Reply::Missed(missed))) => print(&format!("… {missed} events were missed\n")),
            Ok(Some(_)) => continue,
            Ok(None) => {
                eprintln!("the daemon has ended");
                return ExitCode::SUCCESS;
            }
            Err(error) => return failed(&error),
        };
        // A reader that has gone ends it.
        if printed != ExitCode::SUCCESS {
            return ExitCode::SUCCESS;
        }
    }
}

impl SaCommand {
    /// Runs it.
    pub(super) fn run(self) -> ExitCode {
        match self {
            Self::Export { guests, output, daemon } => {
                with_answer(&daemon, &Request::SaExport { guests }, |reply| match (reply, &output) {
                    (Reply::Sequences(sequences), None) => print_json(&sequences),
                    (Reply::Sequences(sequences), Some(file)) => write_json(file, &sequences),
                    _ => unexpected(),
                })
            }
            Self::Import { file, daemon } => {
                let sequences = match read_sequences(&file) {
                    Ok(sequences) => sequences,
                    Err(message) => return bad_input(&format!("{}: {message}", file.display())),
                };
                command(&daemon, &Request::SaImport { sequences })
            }
        }
    }
}

fn read_sequences(file: &Path) -> Result<Sequences, String> {
    let reader: Box<dyn Read> = if file == Path::new("-") {
        Box::new(io::stdin())
    } else {
        Box::new(std::fs::File::open(file).map_err(|error| error.to_string())?)
    };
    let mut text = String::new();
    reader.take(control_socket::REQUEST_LIMIT).read_to_string(&mut text).map_err(|error| error.to_string())?;
    serde_json::from_str(&text).map_err(|error| format!("this is not what `kagemusha sa export` writes: {error}"))
}

fn socket(daemon: &Daemon) -> Result<PathBuf, ExitCode> {
    if let Some(path) = &daemon.socket {
        return Ok(path.clone());
    }
    let config = daemon.config.as_deref().map_or_else(|| Ok(Config::default()), Config::load);
    let config = config.map_err(|error| bad_input(&error.to_string()))?;
    control_socket::path(&config.runtime_directory).map_err(|error| bad_input(&format!("/proc/self/ns/net: {error}")))
}

fn with_answer(daemon: &Daemon, request: &Request, show: impl FnOnce(Reply) -> ExitCode) -> ExitCode {
    match socket(daemon).map(|path| client::ask(&path, request)) {
        Ok(Ok(reply)) => show(reply),
        Ok(Err(error)) => failed(&error),
        Err(code) => code,
    }
}

fn failed(error: &Error) -> ExitCode {
    eprintln!("error: {error}");
    ExitCode::FAILURE
}

fn unexpected() -> ExitCode {
    eprintln!("error: the daemon has answered something else: is it of another version?");
    ExitCode::FAILURE
}

fn print(text: &str) -> ExitCode {
    let mut output = io::stdout().lock();
    match output.write_all(text.as_bytes()).and_then(|()| output.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn print_json(value: &impl serde::Serialize) -> ExitCode {
    match serde_json::to_string(value) {
        Ok(text) => print(&format!("{text}\n")),
        Err(error) => bad_input(&error.to_string()),
    }
}

fn write_json(file: &Path, value: &impl serde::Serialize) -> ExitCode {
    let text = serde_json::to_string(value).map_err(io::Error::other);
    match text.and_then(|text| std::fs::write(file, text + "\n")) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => bad_input(&format!("{}: {error}", file.display())),
    }
}

/// The status for people.
fn describe(status: &Status) -> String {
    let mut text = String::new();
    let Status { role, version, running_for, generation, repairs, tier, .. } = status;
    let _ = writeln!(text, "{role} (version {version}), running for {}", duration(*running_for as f64));
    if let Some(address) = status.home_agent {
        let _ = writeln!(text, "  home agent       {address}");
    }
    match (&status.interface, status.care_of, &status.without_care_of) {
        (Some(interface), Some(care_of), _) => drop(writeln!(text, "  care-of address  {care_of} on {interface}")),
        (Some(interface), None, None) => drop(writeln!(text, "  home link        {interface}")),
        (_, _, Some(why)) => drop(writeln!(text, "  care-of address  none: {why}")),
        _ => {}
    }
    let _ =
        writeln!(text, "  kernel state     generation {generation}, {repairs} objects put right, packets in {tier}");
    for guest in &status.guests {
        describe_guest(&mut text, guest);
    }
    if !status.counters.is_empty() {
        text.push_str("\ncounters\n");
        let _ = status.counters.iter().try_for_each(|(name, count)| writeln!(text, "  {count:>12}  {name}"));
    }
    if !status.troubles.is_empty() {
        text.push_str("\nlast troubles\n");
        status.troubles.iter().for_each(|event| text.push_str(&format!("  {}", describe_event(event))));
    }
    text
}

fn describe_guest(text: &mut String, guest: &Guest) {
    let registration = guest.registration.as_deref().filter(|registration| *registration != guest.state);
    let registration = registration.map_or(String::new(), |registration| format!(" ({registration})"));
    let _ = writeln!(text, "\n{} {}: {}{registration}", guest.name, guest.home_address, guest.state);
    if let Some(port) = &guest.port {
        let _ = writeln!(text, "  port             {port}");
    }
    if let Some(care_of) = guest.care_of {
        let expires = guest.expires_in.map_or("not bound".to_owned(), |left| format!("bound for {}", duration(left)));
        let _ = writeln!(text, "  care-of address  {care_of}, {expires}");
    }
    if let Some(sequence) = guest.sequence {
        let _ = writeln!(text, "  binding update   sequence number {sequence}");
    }
    if let Some(hint) = &guest.unanswered {
        let _ = writeln!(text, "  unanswered       {hint}");
    }
    if let Some(status) = &guest.refused {
        let _ = writeln!(text, "  refused          {status}");
    }
    if let Some(next) = &guest.next {
        let _ = writeln!(text, "  next             {} in {}", next.what, duration(next.within));
    }
    for sa in &guest.associations {
        let sequence = sa.sequence.map_or("NOT IN THE KERNEL".to_owned(), |number| format!("sequence number {number}"));
        let (direction, spi, reqid, algorithms) = (&sa.direction, sa.spi, sa.reqid, &sa.algorithms);
        let lifetime = sa.lifetime.as_ref().map_or(String::new(), |limit| format!(", ends after {limit}"));
        let soon = if sa.ends_soon.is_some() { ": ENDS SOON, NEW KEYS ARE DUE" } else { "" };
        let _ = writeln!(
            text,
            "  SA {direction:<3}           spi {spi:#x} reqid {reqid}, {algorithms}, {sequence}{lifetime}{soon}"
        );
    }
    for (name, count) in &guest.counters {
        let _ = writeln!(text, "  {count:>12}  {name}");
    }
}

/// Seconds as people say them.
fn duration(seconds: f64) -> String {
    match seconds {
        short if short < 10.0 => format!("{short:.1} s"),
        minutes if minutes < 600.0 => format!("{minutes:.0} s"),
        hours if hours < 36_000.0 => format!("{:.0} min", hours / 60.0),
        long => format!("{:.0} h", long / 3600.0),
    }
}

/// An event as a line. Times of day are of UTC.
fn describe_event(event: &Event) -> String {
    let (seconds, milliseconds) = (event.at / 1000 % 86_400, event.at % 1000);
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let after = event.after.map_or(String::new(), |after| format!("+{after:.2} ms"));
    let mark = if event.trouble { '!' } else { ' ' };
    let guest = event.guest.as_deref().unwrap_or("-");
    format!(
        "{hours:02}:{minutes:02}:{seconds:02}.{milliseconds:03} {mark} {guest:<12} {after:>12}  {:<16} {}\n",
        event.what, event.text
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::control_socket::protocol::{Association, Next};

    #[test]
    fn a_status_is_read_at_a_glance() {
        let home_address = "2001:db8:2000::10".parse().unwrap();
        let guest = Guest {
            registration: Some("refreshing".to_owned()),
            care_of: Some("2001:db8:3000::3".parse().unwrap()),
            expires_in: Some(571.2),
            sequence: Some(9),
            unanswered: Some("no answer: XfrmInPolBlock +2".to_owned()),
            next: Some(Next { within: 3.25, what: "retransmit the refresh".to_owned() }),
            associations: vec![Association {
                direction: "out".to_owned(),
                spi: 0x3e8,
                reqid: 1,
                algorithms: "aes-cbc, hmac-sha256-128".to_owned(),
                sequence: None,
                lifetime: None,
                ends_soon: None,
            }],
            counters: [("tunnel: packets in".to_owned(), 41), ("tunnel: not carried: not bound".to_owned(), 1)].into(),
            ..Guest::new("vm1", home_address, "bound")
        };
        let trouble = Event {
            at: 3_661_005,
            what: "repaired".to_owned(),
            guest: None,
            home_address: None,
            text: "changed by others".to_owned(),
            trouble: true,
            after: None,
        };
        let status = Status {
            role: "mobile-node".to_owned(),
            version: "1".to_owned(),
            running_for: 7_300,
            tier: "user space".to_owned(),
            guests: vec![guest],
            troubles: vec![trouble],
            ..Status::default()
        };
        insta::assert_snapshot!(describe(&status), @r"
        mobile-node (version 1), running for 122 min
          kernel state     generation 0, 0 objects put right, packets in user space

        vm1 2001:db8:2000::10: bound (refreshing)
          care-of address  2001:db8:3000::3, bound for 571 s
          binding update   sequence number 9
          unanswered       no answer: XfrmInPolBlock +2
          next             retransmit the refresh in 3.2 s
          SA out           spi 0x3e8 reqid 1, aes-cbc, hmac-sha256-128, NOT IN THE KERNEL
                     1  tunnel: not carried: not bound
                    41  tunnel: packets in

        last troubles
          01:01:01.005 ! -                          repaired         changed by others
        ");
    }
}
