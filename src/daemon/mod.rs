//! The shell: the only layer with tokio, sockets, netlink, files, clocks and randomness.
//!
//! [`start`] runs a role. Its event loop ([`mobile_node`], [`home_agent`]) joins the pure engines with the kernel's state ([`kernel`], [`reconcile`],
//! [`netlink`]), the sockets ([`mobility_socket`], [`tunnel_socket`], [`packet_socket`]; ancillary data by RFC 3542 §6 in [`control`]), the ports of the
//! guests ([`ports`], [`tap`]) and the store ([`sequences`], [`store`]). Packets go through threads of their own ([`packet_path`]). [`check`] tries
//! without changing anything; [`keys`] reads policy and key files.

pub mod attention;
pub mod check;
pub mod clock;
pub mod config;
pub mod control;
pub mod control_socket;
#[cfg(feature = "ebpf")]
pub mod ebpf;
pub mod engine;
pub mod esp_tunnel;
pub mod floor;
pub mod handover;
pub mod herald;
pub mod home_agent;
pub mod instance;
pub mod kernel;
pub mod keys;
pub mod mobile_node;
pub mod mobility_socket;
pub mod netlink;
pub mod pace;
pub mod packet_path;
pub mod packet_socket;
pub mod ports;
pub mod qmp;
pub mod raw_socket;
pub mod reconcile;
pub mod report;
pub mod roster;
pub mod sequences;
pub mod shared;
pub mod signals;
pub mod source;
pub mod statistics;
pub mod store;
pub mod sys;
pub mod tap;
pub mod tunnel_socket;

use std::io;
use std::path::Path;
use std::process::ExitCode;

use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{fmt, registry};

use crate::policy::Policy;
use config::{Config, LogFormat};
use control_socket::ControlSocket;
use source::Source;

pub use crate::policy::Role;

/// Exit code for a wrong command line or file; nothing was changed.
pub const EXIT_BAD_INPUT: u8 = 2;

/// Why a role cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel's IPsec or routing state.
    #[error(transparent)]
    Kernel(#[from] reconcile::Error),
    /// A port of the policy.
    #[error(transparent)]
    Port(#[from] ports::Error),
    /// Sequence numbers and their store.
    #[error(transparent)]
    Sequences(#[from] sequences::Error),
    /// A socket, device, thread or handler.
    #[error("cannot open {what}: {source}{}", hint(source))]
    Socket {
        /// What was to be opened.
        what: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// Not enough privileges.
    #[error("{} {} missing: run as root, or give the service that privilege (systemd: AmbientCapabilities=)", .0.join(" and "), if .0.len() == 1 { "is" } else { "are" })]
    Privileges(Vec<&'static str>),
    /// A thread that panicked.
    #[error(
        "a thread of the packet path has ended unexpectedly: this is a bug, please report the messages before this one"
    )]
    Thread,
    /// Another daemon.
    #[error(transparent)]
    Instance(#[from] instance::Error),
    /// The packet path of a home agent has ended.
    #[error("the packet path has ended, see the message before this one: start again")]
    Lost,
    /// Something of ours is still there.
    #[error(
        "not everything could be taken down, see the messages before this one; starting and stopping again tries it again"
    )]
    LeftBehind,
    /// A home agent that does not forward.
    #[error("this machine does not forward IPv6: a home agent must (sysctl -w net.ipv6.conf.all.forwarding=1)")]
    NotForwarding,
    /// A host that does not forward, with guests whose data the kernel has to put into ESP tunnels.
    #[error(
        "this machine does not forward IPv6, which the class {} needs: sysctl -w net.ipv6.conf.all.forwarding=1 (and \
         accept_ra=2 on an uplink that is configured by router advertisements), or have Linux 6.17",
        crate::ipsec::Class::TunnelPayload
    )]
    NotForwardingForGuests,
}

impl Error {
    fn socket(what: &'static str, source: io::Error) -> Self {
        Self::Socket { what, source }
    }
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => "; run as root or with CAP_NET_ADMIN and CAP_NET_RAW",
        _ => "; `kagemusha check` tells what this machine lacks",
    }
}

/// Runs a role until a signal ends it; returns the exit code of the process.
pub fn start(policy: Policy, source: Source) -> ExitCode {
    let config = &source.settings;
    if let Err(error) = start_log(config) {
        eprintln!("error: the setting `log` (or the environment variable KAGEMUSHA_LOG) is not a filter: {error}");
        return ExitCode::from(EXIT_BAD_INPUT);
    }
    for warning in &policy.warnings {
        tracing::warn!("{warning}");
    }
    match run(policy, source) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(policy: Policy, source: Source) -> Result<(), Error> {
    let (role, config) = (source.role, source.settings.clone());
    // One thread: the packet path has its own, and nothing here waits long.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| Error::socket("an event loop", source))?;
    let directory = config.state_directory.join(match role {
        Role::MobileNode => "mobile-node",
        Role::HomeAgent => "home-agent",
    });
    // A kernel without /proc tells by what it refuses.
    if let Ok(status) = std::fs::read_to_string("/proc/self/status") {
        let missing = check::missing_capabilities(&status);
        if !missing.is_empty() {
            return Err(Error::Privileges(missing));
        }
    }
    let _claim = instance::claim(&config.state_directory)?;
    let store = store::Store::open(&directory).map_err(sequences::Error::from)?;
    let ledger = sequences::Ledger::open(store, &policy)?;
    runtime.block_on(async {
        let control = open_control_socket(&config)?;
        let start = mobile_node::Start { policy, ledger, source, control };
        match role {
            Role::MobileNode => mobile_node::run(start).await,
            Role::HomeAgent => home_agent::run(start).await,
        }
    })
}

/// Guests are carried without commands, too: a socket that cannot be made is told, and no reason to stop.
fn open_control_socket(config: &Config) -> Result<Option<ControlSocket>, Error> {
    let failed = |source| Error::socket("/proc/self/ns/net", source);
    let path = control_socket::path(&config.runtime_directory).map_err(failed)?;
    match ControlSocket::open(&path) {
        Ok(socket) => Ok(Some(socket)),
        Err(error) => {
            tracing::warn!(path = %path.display(), "no control socket: {error}; `kagemusha status` and the other commands do not work");
            Ok(None)
        }
    }
}

fn start_log(config: &Config) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let filter: Targets = match std::env::var("KAGEMUSHA_LOG") {
        Ok(filter) => filter.parse()?,
        Err(_) => config.log.parse()?,
    };
    // A reader of the log that goes away must not end the daemon: reporting that to the same place would panic.
    let layer = fmt::layer().with_writer(io::stderr).log_internal_errors(false);
    match config.log_format {
        LogFormat::Text => registry().with(filter).with(layer.with_target(false).with_ansi(false)).try_init()?,
        LogFormat::Json => registry().with(filter).with(layer.json()).try_init()?,
    }
    Ok(())
}

/// Whether the kernel's own IPv6-in-IPv6 receiver is loaded, see [`crate::kernel_state::Site::tunnel6_loaded`].
fn tunnel6_loaded() -> bool {
    Path::new("/sys/module/tunnel6").exists()
}

fn require_forwarding() -> Result<(), Error> {
    // A kernel without /proc tells by what it does.
    if tap::forwards().unwrap_or(true) { Ok(()) } else { Err(Error::NotForwarding) }
}
