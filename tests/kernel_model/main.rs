//! The wanted kernel state and the plans for it, in a model of the kernel.
//!
//! The model is a [`machine`]: SPD, SAD with sequence numbers and replay windows, links, addresses, routes and rules, and the [`path`] of a packet
//! through them as Linux goes it, of each kind that there is ([`kernel`]); a [`host`] is a machine with a daemon on it that makes plans, takes them step by step, is killed and starts again.
//! [`plans`] checks single plans, [`lives`] whole lives of a host and its home agent (random, with proptest), and [`exploration`] every life of a
//! small size (with stateright).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, unreachable_pub)]

mod cast;
mod damage;
mod exploration;
mod fingerprint;
mod host;
mod kernel;
mod lives;
mod machine;
mod mutants;
mod pair;
mod path;
mod plans;
mod wire;
