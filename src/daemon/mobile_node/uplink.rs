//! Movement detection: the route to the home agent tells the uplink and the care-of address, and the kernel the path MTU.

use std::fmt;
use std::net::Ipv6Addr;
use std::os::fd::AsFd;
use std::time::Instant;

use super::Runner;
use crate::daemon::netlink::route::Uplink;
use crate::daemon::packet_socket::{Filter, PacketSocket};
use crate::daemon::{raw_socket, sys};
use crate::policy::Policy;
use crate::tunnel::Carrier;
use crate::vocabulary::{GuestId, Prefix};

/// Why guests cannot be registered from here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Unfit {
    /// There is no route.
    NoRoute,
    /// It leads over another interface than the policy wants.
    OtherInterface { found: String, wanted: String },
    /// The host is on the home link.
    AtHome { uplink: Uplink, care_of: Ipv6Addr, home_link: Prefix },
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRoute => f.write_str("there is no usable route to the home agent: waiting for one"),
            Self::OtherInterface { found, wanted } => write!(
                f,
                "the route to the home agent leads over {found}, but the policy wants the uplink {wanted}: waiting for one there"
            ),
            Self::AtHome { uplink, care_of, home_link } => write!(
                f,
                "the address of this host towards the home agent, {care_of}, is of the home link {home_link}: nothing is registered \
                 from here, and guests that come to port = {{ bridge = {:?} }} are de-registered",
                uplink.name
            ),
        }
    }
}

/// The care-of address of an uplink.
fn care_of_address(policy: &Policy, uplink: &Uplink) -> Ipv6Addr {
    policy.uplink.care_of_address.unwrap_or(uplink.source)
}

/// What of a route to the home agent can be used.
fn judge(policy: &Policy, found: Option<Uplink>) -> Result<Uplink, Unfit> {
    let uplink = found.ok_or(Unfit::NoRoute)?;
    if let Some(wanted) = policy.uplink.interface.as_ref().filter(|wanted| **wanted != uplink.name) {
        return Err(Unfit::OtherInterface { found: uplink.name, wanted: wanted.clone() });
    }
    let (care_of, home_link) = (care_of_address(policy, &uplink), policy.home_agent.home_link);
    if home_link.contains(care_of) {
        return Err(Unfit::AtHome { uplink, care_of, home_link });
    }
    Ok(uplink)
}

impl Runner {
    pub(super) fn care_of_address(&self) -> Option<Ipv6Addr> {
        Some(care_of_address(self.roster.policy(), self.uplink.as_ref()?))
    }

    /// Looks where the home agent is now. Whether the uplink is another one than before, or has another name or MTU.
    pub(super) async fn look_at_uplink(&mut self, now: Instant) -> bool {
        let found = match self.kernel.route().route_to(self.roster.policy().home_agent.address).await {
            Ok(found) => found,
            // Not knowing is no reason to let go of what works.
            Err(error) => {
                tracing::warn!("cannot look up the route to the home agent: {error}");
                return false;
            }
        };
        let before = self.care_of_address();
        let (uplink, unfit) = match judge(self.roster.policy(), found) {
            Ok(uplink) => (Some(uplink), None),
            Err(unfit) => (None, Some(unfit)),
        };
        if unfit != self.unfit {
            match &unfit {
                Some(unfit @ Unfit::AtHome { .. }) => tracing::info!("{unfit}"),
                Some(unfit) => {
                    tracing::warn!("{unfit}");
                    self.herald.warn(None, "no-uplink", &unfit.to_string());
                }
                None => {}
            }
            self.unfit = unfit;
        }
        let at_home = match &self.unfit {
            Some(Unfit::AtHome { uplink, .. }) => Some(uplink.clone()),
            _ => None,
        };
        let changed = uplink != self.uplink;
        let other_link = uplink.as_ref().map(|uplink| uplink.index) != self.uplink.as_ref().map(|uplink| uplink.index);
        self.uplink = uplink;
        if other_link || self.routed_packets.is_none() {
            self.open_routed_packets();
        }
        let home_changed = self.look_at_home_link(at_home, now).await;
        if !changed {
            self.stale |= home_changed;
            return home_changed;
        }
        self.path_mtus.clear();
        let care_of = self.care_of_address();
        if care_of != before {
            if let (Some(uplink), Some(care_of)) = (&self.uplink, care_of) {
                let text = format!("on the foreign link {}, care-of address {care_of}", uplink.name);
                tracing::info!("{text}");
                self.herald.tell(None, "moved", &text, None);
            }
            for guest in self.roster.ids() {
                self.engine.care_of_changed(*guest, care_of, now);
            }
        }
        self.stale = true;
        true
    }

    /// An uplink can vanish while this is done: the next look tries again.
    fn open_routed_packets(&mut self) {
        self.routed_packets = None;
        let Some(uplink) = &self.uplink else { return };
        let opened = PacketSocket::open(uplink.index, Filter::Type2RoutingHeader);
        match opened.and_then(|socket| Ok((sys::watch(socket.as_fd())?, socket))) {
            Ok((watch, socket)) => self.routed_packets = Some((socket, watch)),
            Err(error) => tracing::warn!(
                interface = uplink.name,
                "packets of the home agent itself cannot be received for the guests: {error}; trying again"
            ),
        }
    }

    /// A packet did not fit.
    pub(super) fn path_is_narrow(&mut self, guest: GuestId, mtu: u32) {
        if self.path_mtus.insert(guest, mtu) != Some(mtu) {
            tracing::info!(guest = self.name(guest), "the path to the home agent takes packets of {mtu} octets");
            self.stale = true;
        }
    }

    /// The kernel forgets a path MTU after some minutes (`net.ipv6.route.mtu_expires`), and the guests may try larger packets then
    /// (RFC 8201 §4).
    pub(super) fn look_at_path_mtus(&mut self) {
        let current = |guest: &GuestId, known: u32| match self.carriers.get(guest) {
            Some(Carrier { care_of, home_agent }) => raw_socket::path_mtu(*care_of, *home_agent).unwrap_or(known),
            None => known,
        };
        let seen: Vec<_> =
            self.path_mtus.iter().map(|(guest, known)| (*guest, *known, current(guest, *known))).collect();
        let mut changed = false;
        for (guest, _, mtu) in seen.into_iter().filter(|(_, known, mtu)| known != mtu) {
            tracing::info!(guest = self.name(guest), "the path to the home agent takes packets of {mtu} octets now");
            self.path_mtus.insert(guest, mtu);
            changed = true;
        }
        if changed {
            self.stale = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipsec::SecretKey;
    use crate::policy::{KeyError, KeySource, load_mobile_node};

    struct NoKeys;

    impl KeySource for NoKeys {
        fn read_key(&self, path: &std::path::Path) -> Result<SecretKey, KeyError> {
            panic!("an unprotected policy names {}", path.display())
        }
    }

    fn uplink(name: &str, source: &str) -> Option<Uplink> {
        Some(Uplink { index: 2, name: name.to_owned(), source: source.parse().unwrap(), mtu: 1500 })
    }

    #[test]
    fn a_route_is_judged() {
        let text = include_str!("../../../policies/ha-unprotected.toml");
        let mut policy = load_mobile_node("ha-unprotected.toml", text, &NoKeys).unwrap();
        assert!(judge(&policy, uplink("eth0", "2001:db8:3000::3")).is_ok());
        assert_eq!(judge(&policy, None), Err(Unfit::NoRoute));
        let home = judge(&policy, uplink("eth0", "2001:db8:2000::3")).unwrap_err();
        assert!(home.to_string().contains("2001:db8:2000::3") && matches!(home, Unfit::AtHome { .. }));
        policy.uplink.interface = Some("eth1".to_owned());
        let other = judge(&policy, uplink("eth0", "2001:db8:3000::3")).unwrap_err();
        assert!(other.to_string().contains("over eth0") && other.to_string().contains("uplink eth1"), "{other}");
    }
}
