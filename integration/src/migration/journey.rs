//! The journey of every migration scenario: home, site 1, site 2, home, while a correspondent goes on talking to the guest.

use std::net::Ipv6Addr;
use std::time::Duration;

use super::traffic::{Carried, Pinger, Terminal, Transfer};
use crate::failure::{Outcome, ensure};
use crate::scenario::Lab;

/// From one echo request to the next.
pub(crate) const PING_INTERVAL: Duration = Duration::from_millis(10);

/// All that goes on with a guest at a time: from outside the home network a transfer, from the home link an echo and a ping.
pub(crate) struct Conversation {
    transfer: Transfer,
    terminal: Terminal,
    pub(crate) pinger: Pinger,
}

impl Conversation {
    /// Begins it. `pause`: see [`Transfer::start`].
    pub(crate) fn begin(lab: &Lab, guest: Ipv6Addr, pause: u8) -> Outcome<Self> {
        Ok(Self {
            transfer: Transfer::start(&lab.net.far, guest, pause)?,
            terminal: Terminal::start(&lab.net.cn, guest)?,
            pinger: Pinger::start(&lab.net.cn, guest, PING_INTERVAL)?,
        })
    }

    /// Ends it: both connections are still the ones of the beginning, and every octet was right.
    pub(crate) fn end(self, lab: &Lab) -> Outcome {
        let probes = self.pinger.end(Duration::from_secs(1))?;
        let (transfer, terminal) = (self.transfer.end()?, self.terminal.end()?);
        let lost = probes.iter().filter(|probe| probe.round_trip.is_none()).count();
        let connection = |name: &str, carried: &Carried| {
            format!("{name}: {} octets, stood still for at most {:.2} s", carried.octets, carried.longest_stop.as_secs_f64())
        };
        lab.step(&format!(
            "one TCP connection throughout; {}; {}; {lost} of {} echo requests lost",
            connection("transfer", &transfer),
            connection("echo", &terminal),
            probes.len()
        ));
        ensure(transfer.octets > 0 && terminal.octets > 0, || "nothing was carried".into())?;
        ensure(probes.iter().rev().take(20).any(|probe| probe.round_trip.is_some()), || {
            "at the end nothing is answered any more".into()
        })
    }
}
