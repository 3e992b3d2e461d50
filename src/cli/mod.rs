//! The command line: parses arguments, loads files, and turns results into exit codes.
//!
//! Exit codes: 0 success, 1 failure while running (of `check`: something is missing), 2 the command line or a file is wrong and nothing was changed.

mod control;
pub mod policy;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::daemon::control_socket::protocol::Request;
use crate::daemon::{self, EXIT_BAD_INPUT, config::Config, engine::Accelerate, source::Source};

/// Mobile IPv6 on the host, for virtual machines that move.
///
/// Without a subcommand it runs the mobile-node daemon: it registers the guests of the policy file with their home agent under
/// IPsec, carries their packets in an IPv6-in-IPv6 tunnel, and shows them their home network.
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(flatten)]
    run: RunArguments,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Args)]
struct RunArguments {
    /// The policy file: home agent, guests, protection, security associations
    #[arg(long, value_name = "FILE")]
    ipsec: Option<PathBuf>,
    /// Settings of the daemon itself; everything has a default
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// How packets are moved: off, super-packet, ebpf or auto; stronger than the settings
    #[arg(long, value_name = "HOW")]
    accelerate: Option<Accelerate>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the home-agent role: accept registrations and tunnel for the guests that are away
    HomeAgent(RunArguments),
    /// Try, without changing anything, whether this machine can run Kagemusha: packets are sent in network namespaces of its own
    Check {
        /// Also check this policy file and that its algorithms are there
        #[arg(long, value_name = "FILE")]
        ipsec: Option<PathBuf>,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Show guests, bindings, security associations and counters of the running daemon
    Status(control::Shown),
    /// Show what happens, live
    Watch(control::Shown),
    /// Have the running daemon read its policy file again, like SIGHUP: all of it is taken, or nothing
    Reload(control::Daemon),
    /// Speak for a guest from now on, whoever did so before
    Attach(control::OneGuest),
    /// Stop speaking for a guest, without de-registration: its binding is left to its next host, unless it goes home
    Detach(control::Leaving),
    /// Have everything in place for a guest that is expected, silently
    Prepare(control::OneGuest),
    /// Hand sequence numbers of security associations to the next host
    #[command(subcommand)]
    Sa(control::SaCommand),
    /// Work with policy files
    #[command(subcommand)]
    Policy(policy::PolicyCommand),
}

/// Runs the program.
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // `--help` and `--version` come this way as well, with exit code 0.
            let code = if error.use_stderr() { EXIT_BAD_INPUT } else { 0 };
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    // Before any key is read.
    if let Err(error) = daemon::sys::forbid_core_dumps() {
        eprintln!("warning: core dumps of this process stay possible, and it may hold keys: {error}");
    }
    match arguments.command {
        None => run(arguments.run, daemon::Role::MobileNode),
        Some(Command::HomeAgent(run_arguments)) => run(run_arguments, daemon::Role::HomeAgent),
        Some(Command::Check { ipsec, json }) => {
            daemon::check::run(ipsec.as_deref(), json).unwrap_or_else(|error| policy::tell_policy_error(&error))
        }
        Some(Command::Status(shown)) => control::status(&shown),
        Some(Command::Watch(shown)) => control::watch(&shown),
        Some(Command::Reload(daemon)) => control::command(&daemon, &Request::Reload),
        Some(Command::Attach(one)) => control::attach(one),
        Some(Command::Detach(one)) => control::detach(one),
        Some(Command::Prepare(one)) => control::prepare(one),
        Some(Command::Sa(command)) => command.run(),
        Some(Command::Policy(command)) => command.run(),
    }
}

fn run(arguments: RunArguments, role: daemon::Role) -> ExitCode {
    let Some(ipsec) = arguments.ipsec else {
        eprintln!(
            "error: --ipsec FILE is missing: the policy file names the home agent and the guests (see policies/)"
        );
        return ExitCode::from(EXIT_BAD_INPUT);
    };
    let mut config = match arguments.config.as_deref().map_or_else(|| Ok(Config::default()), Config::load) {
        Ok(config) => config,
        Err(error) => return bad_input(&error.to_string()),
    };
    let policy = match daemon::keys::load_policy(role, &ipsec) {
        Ok(policy) => policy,
        Err(error) => return policy::tell_policy_error(&error),
    };
    let loaded = config.clone();
    if let Some(accelerate) = arguments.accelerate {
        config.accelerate = accelerate;
    }
    daemon::start(policy, Source { role, policy: ipsec, config: arguments.config, loaded, settings: config })
}

fn bad_input(message: &str) -> ExitCode {
    eprintln!("error: {message}");
    ExitCode::from(EXIT_BAD_INPUT)
}
