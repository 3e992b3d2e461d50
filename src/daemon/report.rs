//! Counters written to the log: at the end, and on SIGUSR1.

use crate::home_network;
use crate::tunnel::{Counters, Reason};

/// The tunnel's counters that are not zero.
pub fn tunnel(counters: &Counters) {
    tracing::info!(
        into_packets = counters.into_packets(),
        into_octets = counters.into_octets(),
        out_packets = counters.out_packets(),
        out_octets = counters.out_octets(),
        "counters: tunnel"
    );
    for reason in Reason::ALL.iter().copied().filter(|reason| counters.get(*reason) > 0) {
        tracing::info!(packets = counters.get(reason), "counters: tunnel not carried: {reason}");
    }
}

/// The counters of frames that never became data.
pub fn frames(counters: &home_network::Counters) {
    for reason in home_network::Reason::ALL.iter().copied().filter(|reason| counters.get(*reason) > 0) {
        tracing::info!(frames = counters.get(reason), "counters: port not carried: {reason}");
    }
}
