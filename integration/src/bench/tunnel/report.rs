//! Everything that was measured, as it is written.

use std::collections::BTreeMap;

use serde::Serialize;

use super::cpu;
use super::load;
use super::memory::Memory;
use super::path::{KernelTunnel, Path};
use super::sample::Sample;
use super::shaped::Shaped;
use super::variant::Variant;
use crate::failure::Outcome;

/// See the module.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) kernel: String,
    pub(super) cpus: usize,
    /// `ip6tnl` or `seg6`.
    pub(super) kernel_tunnel: String,
    /// Of TCP.
    pub(super) congestion_control: &'static str,
    pub(super) seconds: f64,
    /// What each engine says about itself.
    pub(super) descriptions: BTreeMap<Variant, String>,
    /// What could not be measured here, and why.
    pub(super) skipped: BTreeMap<Variant, String>,
    pub(super) failures: Vec<String>,
    pub(super) samples: Vec<Sample>,
    pub(super) shaped: Vec<Shaped>,
    pub(super) memory: Vec<Memory>,
    /// What the engines have counted at both ends, in words.
    pub(super) counters: Vec<String>,
}

impl Report {
    pub(super) fn new(kernel_tunnel: Option<KernelTunnel>) -> Outcome<Self> {
        let kernel_tunnel = match kernel_tunnel {
            Some(KernelTunnel::Ip6tnl) => "ip6tnl",
            Some(KernelTunnel::Seg6) => "seg6, one segment, no routing header",
            None => "none",
        };
        Ok(Self {
            kernel: nix::sys::utsname::uname()?.release().to_string_lossy().into_owned(),
            cpus: cpu::count(),
            kernel_tunnel: kernel_tunnel.to_owned(),
            congestion_control: load::congestion_control(),
            seconds: 0.0,
            descriptions: BTreeMap::new(),
            skipped: BTreeMap::new(),
            failures: vec![],
            samples: vec![],
            shaped: vec![],
            memory: vec![],
            counters: vec![],
        })
    }

    /// Asks every end what it has counted `under` some circumstances.
    pub(super) fn counters(&mut self, paths: &mut [Path], under: &str) -> Outcome {
        for path in paths {
            let variant = path.variant.name();
            for (place, end) in ["host", "home agent"].into_iter().zip(&mut path.ends) {
                let counted = end.counters()?;
                if !counted.is_empty() {
                    self.counters.push(format!("{under}: {variant} at the {place}: {counted}"));
                }
            }
        }
        Ok(())
    }
}
