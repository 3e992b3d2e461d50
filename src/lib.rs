//! Kagemusha: Mobile IPv6 (RFC 6275) on the host, for virtual machines that move.
//!
//! A guest that was live-migrated to another network keeps its IPv6 address: the host registers the home address with a home agent
//! under IPsec, carries the guest's packets in an IPv6-in-IPv6 tunnel, and shows the guest a pseudo home network. The same crate has the home-agent role.
//!
//! # Layers
//! ```text
//! cli ─► daemon ─► { signaling  home_network  tunnel  kernel_state } ─► { policy  ipsec } ─► wire ─► vocabulary
//!         │                 pure: no I/O, no clock, no async, no unsafe
//!         └─ the only place with tokio, sockets, netlink, files, real time and randomness
//! ```
//! A layer knows those to its right; the four in the first braces do not know each other. A test (`tests/tidy.rs`) keeps the arrows.
//!
//! | layer | what it is | RFCs |
//! |---|---|---|
//! | [`vocabulary`] | small values that all layers speak of | RFC 6275 §6.1.7 (lifetime, sequence number) |
//! | [`mod@wire`] | octets to values and back; never panics | RFC 8200, RFC 4443, RFC 4861, RFC 6275 §6, RFC 2473 |
//! | [`ipsec`] | security associations and policies as values | RFC 4301, RFC 4303 |
//! | [`policy`] | the policy file, judged and resolved | RFC 3776 §3.1 |
//! | [`signaling`] | binding updates and acknowledgements, both roles | RFC 6275 §9.5, §10.3, §11.7, §11.8 |
//! | [`home_network`] | what the guest sees instead of its home link | RFC 4861 §6.2, §7.2 |
//! | [`tunnel`] | packets into and out of the tunnel | RFC 2473, RFC 6040, RFC 6275 §10.4.5 |
//! | [`kernel_state`] | what the kernel shall hold, and how to get there | RFC 4301 §4.4 |
//! | [`daemon`] | the shell: event loops, sockets, netlink, files | RFC 3542 |
//! | [`cli`] | arguments and exit codes | |
//!
//! # How it works together
//! * **Pure core, thin shell.** A state machine has `handle_…(input, now)`, `poll_output()`, `poll_timeout()` and `handle_timeout(now)`; time and
//!   randomness are arguments. [`signaling::MobileNode`], [`signaling::HomeAgent`] and [`home_network::PseudoHomeNetwork`] are of this kind.
//! * **The kernel's state is desired state.** [`kernel_state::compile()`] says what shall be there, [`kernel_state::diff`] how to get from what is to that,
//!   [`daemon::reconcile`] does it and reads it back.
//! * **A generation fence joins the two.** A binding update waits until the [`vocabulary::Generation`] of kernel state that protects it is in force.
//! * **The packet path never enters the signaling engine.** It reads an immutable [`tunnel::Table`] that is swapped as a whole.
//!
//! `ARCHITECTURE.md` is the longer map, `SECURITY.md` says what is promised and which test shows it.

pub mod cli;
pub mod daemon;
pub mod home_network;
pub mod ipsec;
pub mod kernel_state;
pub mod policy;
pub mod signaling;
pub mod tunnel;
pub mod vocabulary;
pub mod wire;
