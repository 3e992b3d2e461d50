//! Tells what happens: to the log, to the clients that watch, and of troubles the last ones to those who ask for the status.

use std::collections::VecDeque;
use std::net::Ipv6Addr;
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

/// What the log has not been told yet.
#[derive(Debug)]
struct Line {
    weight: Weight,
    guest: Option<(String, Ipv6Addr)>,
    text: String,
}

impl Line {
    fn write(self) {
        let home_address = self.guest.as_ref().map(|(_, home_address)| tracing::field::display(home_address));
        let (guest, text) = (self.guest.as_ref().map(|(name, _)| name.as_str()), self.text);
        match self.weight {
            Weight::Detail => tracing::debug!(guest, home_address, "{text}"),
            Weight::News => tracing::info!(guest, home_address, "{text}"),
            Weight::Trouble => tracing::warn!(guest, home_address, "{text}"),
        }
    }
}

/// See the module.
#[derive(Debug)]
pub struct Herald {
    /// Where requests come from; none when there is no control socket.
    pub control: Option<ControlSocket>,
    troubles: VecDeque<Event>,
    /// In order. Somebody may wait for what is to be sent; nobody waits for the log.
    unwritten: Vec<Line>,
}

impl Drop for Herald {
    fn drop(&mut self) {
        self.write();
    }
}

impl Herald {
    /// A herald for the clients of a socket.
    pub fn new(control: Option<ControlSocket>) -> Self {
        Self { control, troubles: VecDeque::new(), unwritten: Vec::new() }
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

    /// Tells, and the log with the next [`Herald::write`].
    pub fn announce(
        &mut self,
        guest: Option<&GuestPolicy>,
        weight: Weight,
        what: &str,
        text: &str,
        after: Option<Duration>,
    ) {
        let who = guest.map(|guest| (guest.name.clone(), guest.home_address));
        self.unwritten.push(Line { weight, guest: who, text: text.to_owned() });
        self.send(guest, what, text, weight == Weight::Trouble, after);
    }

    /// Writes to the log what was announced. For when all that cannot wait is done.
    pub fn write(&mut self) {
        self.unwritten.drain(..).for_each(Line::write);
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
