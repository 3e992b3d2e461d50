//! Tells what happens: to the log, to the clients that watch, and of troubles the last ones to those who ask for the status.

use std::collections::VecDeque;
use std::time::Duration;

use super::clock;
use super::control_socket::ControlSocket;
use super::control_socket::protocol::Event;
use super::kernel::Kernel;
use super::netlink::Expiry;
use super::roster::Roster;
use crate::policy::GuestPolicy;

/// Troubles that are remembered.
const TROUBLES: usize = 16;

/// How much something is to be heard in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weight {
    /// Only by who looks for it.
    Detail,
    /// By everybody.
    News,
    /// Somebody should do something.
    Trouble,
}

impl Weight {
    /// Of an event that is a trouble, or not.
    pub fn of(is_trouble: bool) -> Self {
        if is_trouble { Self::Trouble } else { Self::News }
    }
}

/// See the module.
#[derive(Debug)]
pub struct Herald {
    /// Where requests come from; none when there is no control socket.
    pub control: Option<ControlSocket>,
    troubles: VecDeque<Event>,
}

impl Herald {
    /// A herald for the clients of a socket.
    pub fn new(control: Option<ControlSocket>) -> Self {
        Self { control, troubles: VecDeque::new() }
    }

    /// The last troubles, the newest last.
    pub fn troubles(&self) -> Vec<Event> {
        self.troubles.iter().cloned().collect()
    }

    /// Something about a guest that nobody has to look at. `after` is the time since the guest was seen.
    pub fn tell(&mut self, guest: Option<&GuestPolicy>, what: &str, text: &str, after: Option<Duration>) {
        self.send(guest, what, text, false, after);
    }

    /// Something that somebody should look at.
    pub fn warn(&mut self, guest: Option<&GuestPolicy>, what: &str, text: &str) {
        self.send(guest, what, text, true, None);
    }

    /// Writes to the log and tells.
    pub fn announce(
        &mut self,
        guest: Option<&GuestPolicy>,
        weight: Weight,
        what: &str,
        text: &str,
        after: Option<Duration>,
    ) {
        let home_address = guest.map(|guest| tracing::field::display(guest.home_address));
        let name = guest.map(|guest| guest.name.as_str());
        match weight {
            Weight::Detail => tracing::debug!(guest = name, home_address, "{text}"),
            Weight::News => tracing::info!(guest = name, home_address, "{text}"),
            Weight::Trouble => tracing::warn!(guest = name, home_address, "{text}"),
        }
        self.send(guest, what, text, weight == Weight::Trouble, after);
    }

    /// Announces what became of a reload, and gives it back.
    pub fn reloaded(&mut self, outcome: Result<String, String>) -> Result<String, String> {
        match &outcome {
            Ok(text) => {
                let text = format!("the policy was read again: {text}");
                self.announce(None, Weight::News, "reloaded", &text, None);
            }
            Err(text) => {
                let text = format!("the policy stays as it was: {text}");
                self.announce(None, Weight::Trouble, "reload-refused", &text, None);
            }
        }
        outcome
    }

    /// The lifetime of an SA has ended, or ends soon.
    pub fn expired(&mut self, kernel: &mut Kernel, roster: &Roster, expiry: Expiry) {
        let Some((home_address, text)) = kernel.expired(expiry) else { return };
        let what = if expiry.hard { "sa-ended" } else { "sa-ends-soon" };
        self.announce(roster.at(home_address), Weight::Trouble, what, &text, None);
    }

    fn send(&mut self, guest: Option<&GuestPolicy>, what: &str, text: &str, trouble: bool, after: Option<Duration>) {
        let event = Event {
            at: u64::try_from(clock::wall_clock().as_millis()).unwrap_or(u64::MAX),
            what: what.to_owned(),
            guest: guest.map(|guest| guest.name.clone()),
            home_address: guest.map(|guest| guest.home_address),
            text: text.to_owned(),
            trouble,
            after: after.map(|after| after.as_secs_f64() * 1000.0),
        };
        if trouble {
            if self.troubles.len() == TROUBLES {
                self.troubles.pop_front();
            }
            self.troubles.push_back(event.clone());
        }
        if let Some(control) = &self.control {
            control.tell(event);
        }
    }

    /// Waits for a request; for ever without a socket.
    ///
    /// Cancel safe.
    pub async fn asked(&mut self) -> super::control_socket::Asked {
        match &mut self.control {
            Some(control) => control.next().await,
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_troubles_are_remembered() {
        let mut herald = Herald::new(None);
        for number in 0..TROUBLES + 3 {
            herald.warn(None, "test", &number.to_string());
            herald.tell(None, "test", "fine", None);
        }
        let troubles = herald.troubles();
        assert_eq!((troubles.len(), troubles[0].text.as_str()), (TROUBLES, "3"));
    }
}
