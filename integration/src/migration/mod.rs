//! Live migration in the lab: guests that move between hosts while others talk to them.
//!
//! ```text
//!  image ── kernel and initramfs of a QEMU guest, made from Debian packages (outer side)
//!  guest ── what runs inside: services for the peers, and a report of what the guest sees (`world`)
//!  sites ── the home host and the two foreign ones, each with a bridge of the same name; guests that are namespaces
//!  beside ── the QEMU processes of a guest, beside the lab's machine (outer side)
//!  machine, port, qmp, hypervisor ── what is done with them, inside
//!  traffic ── what the correspondent does meanwhile: a transfer, an echo, a ping
//!  policy ── the policies of all hosts, for any number of guests
//! ```

pub(crate) mod beside;
pub(crate) mod chart;
pub(crate) mod crowd;
pub(crate) mod demo;
pub(crate) mod guest;
pub(crate) mod hypervisor;
pub(crate) mod image;
pub(crate) mod journey;
pub(crate) mod machine;
pub(crate) mod policy;
pub(crate) mod port;
pub(crate) mod qmp;
pub(crate) mod sites;
pub(crate) mod stage;
pub(crate) mod traffic;
pub(crate) mod world;
