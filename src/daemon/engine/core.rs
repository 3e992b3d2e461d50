//! What both ends have in common: sockets, the keeper of paths, counters, and the tier that was chosen.

use std::io;
use std::net::Ipv6Addr;
use std::sync::{Arc, OnceLock};

use super::accelerator::Accelerator;
use super::keeper::Keeper;
use super::sender::Sender;
use super::super_packet::{self, Entrance, SuperPackets};
use super::tier::{Accelerate, Tier};
use crate::daemon::tunnel_socket::TunnelSocket;
use crate::tunnel::{Counters, Egress, Ingress, Reason};
use crate::vocabulary::GuestId;

/// Guests in the first chunk; each further chunk has twice as many.
const FIRST_CHUNK: usize = 8;
/// Enough chunks for more guests than memory has room for.
const CHUNKS: usize = 24;

/// Counters of all packets, and of those of each guest. A guest that comes later gets its own when it is counted first: what
/// has been counted stays where it is, so that nobody waits for anybody.
#[derive(Debug, Default)]
pub struct Tally {
    /// Of all packets.
    pub all: Arc<Counters>,
    /// By the number of the guest.
    guests: [OnceLock<Box<[Counters]>>; CHUNKS],
}

impl Tally {
    /// The counters of one guest.
    pub fn guest(&self, guest: GuestId) -> Option<&Counters> {
        let (chunk, place) = place(guest)?;
        let make = || (0..FIRST_CHUNK << chunk).map(|_| Counters::new()).collect();
        self.guests.get(chunk)?.get_or_init(make).get(place)
    }

    fn each(&self, guest: Option<GuestId>) -> impl Iterator<Item = &Counters> {
        std::iter::once(&*self.all).chain(guest.and_then(|guest| self.guest(guest)))
    }

    /// Counts what became of a packet on its way into the tunnel.
    pub fn ingress(&self, guest: Option<GuestId>, ingress: &Ingress<'_>) {
        self.each(guest).for_each(|counters| counters.count_ingress(ingress));
    }

    /// Counts what became of a packet on its way out of the tunnel.
    pub fn egress<T>(&self, guest: Option<GuestId>, egress: &Egress<'_, T>) {
        self.each(guest).for_each(|counters| counters.count_egress(egress));
    }

    /// Counts packets not carried.
    pub fn reason(&self, guest: Option<GuestId>, reason: Reason, packets: usize) {
        for _ in 0..packets {
            self.each(guest).for_each(|counters| counters.count(reason));
        }
    }
}

/// The chunk of a guest's counters, and the place in it.
fn place(guest: GuestId) -> Option<(usize, usize)> {
    let number = guest.0.checked_add(FIRST_CHUNK)?;
    let chunk = number.ilog2() - FIRST_CHUNK.ilog2();
    Some((chunk as usize, number - (FIRST_CHUNK << chunk)))
}

/// A started engine without the device of its end.
#[derive(Debug, Clone)]
pub struct Core {
    /// The raw sockets.
    pub tunnel: Arc<TunnelSocket>,
    /// Knows the paths.
    pub keeper: Arc<Keeper>,
    /// Where whole packets go, in the super-packet tier.
    pub entrance: Option<Entrance>,
    /// What is counted.
    pub tally: Arc<Tally>,
    /// The tier that was chosen.
    pub tier: Tier,
    /// The tier and what it does here, in words.
    pub description: String,
    /// Why higher tiers are not to be had here, of those that were tried.
    pub refused: Vec<(Tier, String)>,
}

impl Core {
    /// Opens the sockets, and the highest tier up to `accelerate` that this kernel lets us have.
    ///
    /// # Errors
    /// The error of the system calls; needs `CAP_NET_ADMIN` and `CAP_NET_RAW`.
    pub fn start(accelerate: Accelerate) -> io::Result<Self> {
        let tunnel = Arc::new(TunnelSocket::open()?);
        let tally: Arc<Tally> = Arc::default();
        let mut refused = Vec::new();
        let super_packets = match accelerate.highest() {
            Tier::Portable => None,
            Tier::SuperPacket | Tier::Ebpf => match SuperPackets::open() {
                Ok(super_packets) => Some(super_packets),
                Err(error) => {
                    super_packet::close();
                    tracing::info!("no super-packets: {error}; every packet is cut in userland");
                    refused.push((Tier::SuperPacket, error.to_string()));
                    None
                }
            },
        };
        let entrance = super_packets.as_ref().map(SuperPackets::entrance);
        let (tier, description) = match entrance {
            Some(_) => (
                Tier::SuperPacket,
                format!(
                    "{}: packets up to 64 KiB are encapsulated and cut by the kernel (seg6 encap.red), the others leave by packet and raw sockets",
                    Tier::SuperPacket
                ),
            ),
            None => {
                (Tier::Portable, format!("{}: cut and joined in userland, by packet and raw sockets", Tier::Portable))
            }
        };
        tracing::info!("tunnel engine: {description}");
        let keeper = Keeper::start(Arc::clone(&tally.all), super_packets)?;
        Ok(Self { tunnel, keeper, entrance, tally, tier, description, refused })
    }

    /// Puts an accelerator in front of the threads, which receive by the raw socket from now on.
    pub fn accelerate(&mut self, accelerator: Box<dyn Accelerator>) {
        (self.tier, self.description) = (Tier::Ebpf, accelerator.description());
        self.keeper.ears().close();
        self.keeper.acceleration().begin(accelerator);
    }

    /// A way out for one thread.
    pub fn sender(&self) -> Sender {
        Sender::new(Arc::clone(&self.tunnel), Arc::clone(&self.keeper), Arc::clone(&self.tally.all))
    }
}

/// The address at `offset` of a packet: 8 its source, 24 its destination.
pub fn address_at(packet: &[u8], offset: usize) -> Option<Ipv6Addr> {
    packet.get(offset..)?.first_chunk::<16>().map(|octets| Ipv6Addr::from(*octets))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_guest_has_its_own_counters_whenever_it_comes() {
        let tally = Tally::default();
        let guests = [0, 7, 8, 9, 23, 24, 1000];
        for (count, guest) in guests.into_iter().enumerate() {
            tally.reason(Some(GuestId(guest)), Reason::NotBound, count + 1);
        }
        for (count, guest) in guests.into_iter().enumerate() {
            let counted = tally.guest(GuestId(guest)).map(|counters| counters.get(Reason::NotBound));
            assert_eq!(counted, Some(count as u64 + 1), "guest {guest}");
        }
        assert_eq!(tally.guest(GuestId(10)).map(|counters| counters.get(Reason::NotBound)), Some(0));
        assert_eq!(tally.all.get(Reason::NotBound), 28);
        assert!(tally.guest(GuestId(usize::MAX)).is_none());
    }
}
