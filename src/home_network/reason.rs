//! Why a frame was not carried, and what the pseudo home network counts.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

macro_rules! reasons {
    ($($(#[$doc:meta])+ $variant:ident = $name:literal,)+) => {
        /// Why a frame came to nothing. Most are what a link is full of; the names of [`Reason::name`] are stable:
        /// metrics use them.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Reason {
            $($(#[$doc])+ $variant,)+
        }

        impl Reason {
            /// Every reason, in the order of its index.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The stable name in kebab case.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }
        }
    };
}

reasons! {
    /// Shorter than an Ethernet header, or an IPv6 packet or message whose fields contradict each other.
    Malformed = "malformed",
    /// The source MAC address is no guest's on this port.
    UnknownMac = "unknown-mac",
    /// To the MAC address of another guest on this port, which the bridge delivers.
    ForSibling = "for-sibling",
    /// The source address is not this guest's home address (or, on the link, a link-local address).
    ForeignSource = "foreign-source",
    /// ARP: there is no IPv4 here.
    Arp = "arp",
    /// IPv4.
    Ipv4 = "ipv4",
    /// A VLAN tag.
    Vlan = "vlan",
    /// Any other protocol.
    OtherProtocol = "other-protocol",
    /// Multicast other than neighbor discovery and listener reports.
    Multicast = "multicast",
    /// A multicast listener report or done: nobody forwards multicast here.
    MulticastListenerReport = "multicast-listener-report",
    /// To a link-local address, and not something the router answers.
    LinkLocal = "link-local",
    /// To a loopback, unspecified or IPv4-mapped address.
    BadDestination = "bad-destination",
    /// Data of a guest that is configured here but not attached now.
    NotAttached = "not-attached",
    /// A duplicate address detection probe: silence says that the address is free.
    DuplicateAddressDetection = "duplicate-address-detection",
    /// A neighbor solicitation for an address on this port, which its owner answers.
    OnPortTarget = "on-port-target",
    /// A neighbor advertisement.
    NeighborAdvertisement = "neighbor-advertisement",
    /// A router advertisement or redirect from a guest.
    GuestAsRouter = "guest-as-router",
    /// Reverse ARP: it only announces a guest.
    Rarp = "rarp",
    /// The event loop is behind; what matters is asked again.
    QueueFull = "queue-full",
}

impl Reason {
    /// How many there are.
    pub const COUNT: usize = Self::ALL.len();

    /// Its position in [`Reason::ALL`].
    pub fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What one port counts. The packet path and the network share it.
#[derive(Debug)]
pub struct Counters {
    reasons: [AtomicU64; Reason::COUNT],
    pub(super) router_advertisements: AtomicU64,
    pub(super) neighbor_advertisements: AtomicU64,
    pub(super) echo_replies: AtomicU64,
}

impl Default for Counters {
    fn default() -> Self {
        let zero = || AtomicU64::new(0);
        Self {
            reasons: [const { AtomicU64::new(0) }; Reason::COUNT],
            router_advertisements: zero(),
            neighbor_advertisements: zero(),
            echo_replies: zero(),
        }
    }
}

impl Counters {
    /// Counts one frame that came to nothing.
    pub fn count(&self, reason: Reason) {
        if let Some(counter) = self.reasons.get(reason.index()) {
            counter.fetch_add(1, Relaxed);
        }
    }

    /// Frames that came to nothing for this reason.
    pub fn get(&self, reason: Reason) -> u64 {
        self.reasons.get(reason.index()).map_or(0, |counter| counter.load(Relaxed))
    }

    /// Every number with its stable name.
    pub fn all(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        let sent = [
            ("router-advertisements-sent", self.router_advertisements.load(Relaxed)),
            ("neighbor-advertisements-sent", self.neighbor_advertisements.load(Relaxed)),
            ("echo-replies-sent", self.echo_replies.load(Relaxed)),
        ];
        sent.into_iter().chain(Reason::ALL.iter().map(|reason| (reason.name(), self.get(*reason))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn names_are_distinct_kebab_case() {
        let names: HashSet<_> = Reason::ALL.iter().map(|reason| reason.name()).collect();
        assert_eq!(names.len(), Reason::COUNT);
        for (index, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(reason.index(), index);
            assert!(
                reason.name().bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'),
                "{reason}"
            );
        }
    }

    #[test]
    fn each_reason_has_its_own_number() {
        let counters = Counters::default();
        counters.count(Reason::Arp);
        counters.count(Reason::Rarp);
        counters.count(Reason::Rarp);
        let seen: Vec<_> = counters.all().filter(|(_, n)| *n > 0).collect();
        assert_eq!(seen, [("arp", 1), ("rarp", 2)]);
    }
}
