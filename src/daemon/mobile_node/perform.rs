//! What the signaling engine wants done: binding updates leave, tunnels are taken into use and given up.

use std::net::Ipv6Addr;
use std::time::Instant;

use super::Runner;
use crate::signaling::mobile_node::{Binding, Output};
use crate::tunnel::Carrier;
use crate::vocabulary::GuestId;

impl Runner {
    pub(super) fn perform(&mut self, output: Output, now: Instant) {
        match output {
            Output::Secure { generation, guest, care_of } => {
                match care_of {
                    Some(care_of) => self.bindings.0.insert(guest, care_of),
                    None => self.bindings.0.remove(&guest),
                };
                self.arriving.remove(&guest);
                self.listen_at_home(guest, care_of);
                self.asked.push((guest, generation));
                self.stale = true;
            }
            Output::Transmit { after: _, guest, sequence, source, destination, message } => {
                // On disk before it leaves, so that no restart uses it twice. What cannot be written is not sent, as if it were lost on
                // the way: the retransmission has a number of its own and tries again.
                let ledger = self.kernel.ledger();
                let kept = ledger.spend(source).and_then(|()| ledger.keep_binding_sequence(source, sequence));
                if let Err(error) = kept {
                    tracing::error!(guest = self.name(guest), home_address = %source, "binding update not sent: {error}");
                    return;
                }
                tracing::debug!(guest = self.name(guest), "binding update {sequence} to {destination}");
                // Success does not say that a packet left: without an SA the kernel drops it in silence. Only an acknowledgement tells.
                if let Err(error) = self.socket.send(source, destination, &message) {
                    tracing::warn!(
                        guest = self.name(guest),
                        home_address = %source,
                        "binding update not sent, the kernel refuses it: {error}"
                    );
                }
                self.unreserved.insert(guest);
                self.take_by(guest, destination);
                let after = self.since_arrival(guest);
                let text = format!("binding update {sequence} to {destination}");
                self.herald.tell(self.roster.get(guest), "binding-update", &text, after);
            }
            Output::Binding { guest, binding } => self.set_carrier(guest, binding),
            Output::Event { guest, event } => self.on_event(guest, event, now),
        }
    }

    /// From now on the home agent may send by the tunnel that it has been asked for.
    fn take_by(&mut self, guest: GuestId, home_agent: Ipv6Addr) {
        let speaks = self.attachments.get(&guest).is_some_and(|attachment| attachment.state().speaks());
        let care_of = self.engine.state(guest).and_then(|view| view.care_of);
        let Some(care_of) = care_of.filter(|_| speaks && !self.returning.contains(&guest)) else { return };
        let carrier = Carrier { care_of, home_agent };
        if self.carriers.get(&guest) != Some(&carrier) {
            self.arriving.insert(guest, carrier);
            self.stale = true;
        }
    }

    fn set_carrier(&mut self, guest: GuestId, binding: Option<Binding>) {
        match binding {
            Some(Binding { care_of, home_agent, .. }) => {
                self.carriers.insert(guest, Carrier { care_of, home_agent });
                self.arriving.retain(|other, carrier| *other != guest || carrier.care_of != care_of);
            }
            None => {
                self.carriers.remove(&guest);
            }
        }
        self.stale = true;
    }
}
