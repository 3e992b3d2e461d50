//! Where packets are tried: network namespaces that go away with the threads that made them, joined by a cable.

use std::fs::File;
use std::future::Future;
use std::io::{self, IoSliceMut};
use std::net::Ipv6Addr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use netlink_packet_route::address::{AddressAttribute, AddressFlags};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use rtnetlink::{LinkUnspec, LinkVeth, RouteMessageBuilder};
use tokio::runtime::Runtime;

use crate::daemon::netlink::route;
use crate::daemon::ports::{self, EthernetLink};
use crate::daemon::{clock, statistics, tap};
use crate::ipsec::Statistics;
use crate::vocabulary::Prefix;

/// Least and longest that a packet is waited for.
const PATIENCE: (Duration, Duration) = (Duration::from_millis(1500), Duration::from_secs(8));
/// Between two looks at what no descriptor tells.
const TICK: Duration = Duration::from_millis(20);

/// How long a packet is waited for on a machine that took so long to try all objects. Between two namespaces it takes a hundredth of that; but
/// a machine may be emulated, or have other things to do.
pub(super) fn patience(trial: Duration) -> Duration {
    (trial * 5).clamp(PATIENCE.0, PATIENCE.1)
}

/// A network namespace, seen from a thread that is in it.
pub(super) struct Ground {
    runtime: Runtime,
    client: route::Client,
    namespace: Arc<File>,
}

impl Ground {
    /// Puts the calling thread into a new network namespace, for good, and sets its loopback link up.
    pub(super) fn break_new() -> Result<Self, String> {
        unshare(CloneFlags::CLONE_NEWNET).map_err(|error| format!("{error}; run the check as root (CAP_SYS_ADMIN)"))?;
        let failed = |what: &'static str| move |error: io::Error| format!("{what}: {error}");
        let namespace = File::open("/proc/thread-self/ns/net").map_err(failed("/proc/thread-self/ns/net"))?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(failed("an event loop"))?;
        let client = runtime.block_on(async { route::Client::open() }).map_err(|error| error.to_string())?;
        let ground = Self { runtime, client, namespace: Arc::new(namespace) };
        ground.set_up("lo")?;
        Ok(ground)
    }

    pub(super) fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.runtime.block_on(future)
    }

    pub(super) fn handle(&self) -> &rtnetlink::Handle {
        self.client.handle()
    }

    /// A cable from here to another namespace.
    fn join(&self, here: &str, there: &str, other: &File) -> Result<(), String> {
        self.done("a cable (veth; `modprobe veth`, CONFIG_VETH)", async {
            let links = self.handle().link();
            links.add(LinkVeth::new(here, there).build()).execute().await?;
            let moved = LinkUnspec::new_with_name(there).setns_by_fd(other.as_raw_fd()).build();
            self.handle().link().set(moved).execute().await
        })?;
        self.set_up(here)
    }

    pub(super) fn set_up(&self, link: &str) -> Result<(), String> {
        self.block_on(self.client.set_up(link)).map_err(|error| format!("{link}: {error}"))
    }

    pub(super) fn link(&self, name: &str) -> Result<EthernetLink, String> {
        self.block_on(ports::ethernet_link(self.handle(), name)).map_err(|error| error.to_string())
    }

    /// An address that is in use at once, without duplicate address detection.
    pub(super) fn address(&self, index: u32, address: Ipv6Addr, length: u8) -> Result<(), String> {
        let mut request = self.handle().address().add(index, address.into(), length);
        request.message_mut().attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        self.done("an address", request.execute())
    }

    pub(super) fn route(&self, interface: u32, to: Prefix) -> Result<(), String> {
        let route = RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(to.address(), to.length());
        let route = route.output_interface(interface).build();
        self.done("a route", self.handle().route().add(route).execute())
    }

    /// Makes the namespace a router.
    pub(super) fn forward(&self) -> Result<(), String> {
        let path = "/proc/sys/net/ipv6/conf/all/forwarding";
        std::fs::write(path, "1").map_err(|error| format!("{path}: {error}; mount /proc/sys writable"))
    }

    fn done(&self, what: &str, request: impl Future<Output = Result<(), rtnetlink::Error>>) -> Result<(), String> {
        self.block_on(request).map_err(|error| format!("{what} cannot be made: {}", route::Error::from(error)))
    }
}

/// A TUN of this namespace without addresses, up.
pub(super) fn tun(ground: &Ground, name: &str, mtu: u32) -> Result<tap::Device, String> {
    let failed = |error: io::Error| format!("the TUN {name} cannot be made: {error}");
    let device = tap::Device::tun(name).map_err(failed)?;
    tap::no_link_local(name).map_err(failed)?;
    ground.block_on(ports::bring_up(ground.handle(), name, mtu)).map_err(|error| error.to_string())?;
    Ok(device)
}

pub(super) fn index_of(name: &str) -> Result<u32, String> {
    nix::net::if_::if_nametoindex(name).map_err(|error| format!("{name}: {error}"))
}

/// The IPsec counters of the calling thread's namespace; none are counted without `CONFIG_XFRM_STATISTICS`.
pub(super) fn counted() -> Statistics {
    statistics::read().unwrap_or_default()
}

/// Gives the ground back, unless something was built on it.
type GroundJob = Box<dyn FnOnce(Ground) -> Option<Ground> + Send>;

/// A namespace with its thread, where something is to be built.
pub(super) struct Plot {
    namespace: Arc<File>,
    jobs: mpsc::Sender<GroundJob>,
    thread: JoinHandle<()>,
}

impl Plot {
    /// Makes the namespace.
    pub(super) fn clear() -> Result<Self, String> {
        let (jobs, queue) = mpsc::channel::<GroundJob>();
        let (made, began) = mpsc::sync_channel(1);
        let body = move || match Ground::break_new() {
            Ok(ground) => {
                let _ = made.send(Ok(Arc::clone(&ground.namespace)));
                let mut ground = Some(ground);
                while let (Some(here), Ok(job)) = (ground.take(), queue.recv()) {
                    ground = job(here);
                }
            }
            Err(error) => drop(made.send(Err(error))),
        };
        let thread = thread::Builder::new().name("stage".to_owned()).spawn(body);
        let thread = thread.map_err(|error| format!("a thread: {error}"))?;
        let namespace = began.recv().map_err(|_| ENDED.to_owned())??;
        Ok(Self { namespace, jobs, thread })
    }

    /// Has something done to the ground.
    fn prepare(&self, job: impl FnOnce(&Ground) -> Result<(), String> + Send + 'static) -> Result<(), String> {
        let (done, result) = mpsc::sync_channel(1);
        let job: GroundJob = Box::new(move |ground| {
            let _ = done.send(job(&ground));
            Some(ground)
        });
        self.jobs.send(job).map_err(|_| ENDED.to_owned())?;
        result.recv().map_err(|_| ENDED.to_owned())?
    }

    /// A cable between two of them, up at both ends.
    pub(super) fn cable(
        (here, name): (&Self, &'static str),
        (there, other): (&Self, &'static str),
    ) -> Result<(), String> {
        let namespace = Arc::clone(&there.namespace);
        here.prepare(move |ground| ground.join(name, other, &namespace))?;
        there.prepare(move |ground| ground.set_up(other))
    }

    /// Builds a node there.
    pub(super) fn build<S: 'static>(
        self,
        make: impl FnOnce(Ground) -> Result<S, String> + Send + 'static,
    ) -> Result<Node<S>, String> {
        let (jobs, queue) = mpsc::channel::<Job<S>>();
        let (made, began) = mpsc::sync_channel(1);
        let build: GroundJob = Box::new(move |ground| {
            match make(ground) {
                Ok(mut state) => {
                    let _ = made.send(Ok(()));
                    queue.into_iter().for_each(|job| job(&mut state));
                }
                Err(error) => drop(made.send(Err(error))),
            }
            None
        });
        self.jobs.send(build).map_err(|_| ENDED.to_owned())?;
        let node = Node { jobs: Some(jobs), thread: Some(self.thread) };
        began.recv().map_err(|_| ENDED.to_owned())??;
        Ok(node)
    }
}

type Job<S> = Box<dyn FnOnce(&mut S) + Send>;

/// A node of the stage: a thread in a namespace of its own, and what it has there.
pub(super) struct Node<S> {
    jobs: Option<mpsc::Sender<Job<S>>>,
    thread: Option<JoinHandle<()>>,
}

impl<S: 'static> Node<S> {
    /// Has something done there.
    pub(super) fn run<T: Send + 'static>(&self, job: impl FnOnce(&mut S) -> T + Send + 'static) -> Result<T, String> {
        let (done, result) = mpsc::sync_channel(1);
        let job: Job<S> = Box::new(move |state| drop(done.send(job(state))));
        let sent = self.jobs.as_ref().is_some_and(|jobs| jobs.send(job).is_ok());
        if !sent {
            return Err(ENDED.to_owned());
        }
        result.recv().map_err(|_| ENDED.to_owned())
    }
}

const ENDED: &str = "a thread of the check has ended unexpectedly: report this";

impl<S> Drop for Node<S> {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Looks again and again, whenever one of `sources` has something and now and then anyway, until `look` gives something or the time is over.
pub(super) fn until<T>(
    sources: &[BorrowedFd<'_>],
    patience: Duration,
    mut look: impl FnMut() -> Option<T>,
) -> Option<T> {
    let deadline = clock::now() + patience;
    loop {
        if let Some(found) = look() {
            return Some(found);
        }
        let left = deadline.saturating_duration_since(clock::now()).min(TICK);
        if left.is_zero() {
            return None;
        }
        let mut ready: Vec<_> = sources.iter().map(|source| PollFd::new(source.as_fd(), PollFlags::POLLIN)).collect();
        let time = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
        // An error shows when `look` reads.
        let _ = poll(&mut ready, time);
    }
}

/// Reads one frame or packet that has come to a device of ours, of which nobody else reads.
pub(super) fn take(device: &tap::Device, octets: &mut [u8]) -> Option<usize> {
    // Reading without waiting is beyond TUN and TAP of older kernels (6.1).
    let mut ready = [PollFd::new(device.as_fd(), PollFlags::POLLIN)];
    let has_come = poll(&mut ready, PollTimeout::ZERO).is_ok_and(|ready| ready > 0);
    if !has_come { None } else { device.read_parts(&mut [IoSliceMut::new(octets)]).ok() }
}

/// When the wait for a packet that was seen on the link may end before its time: the kernel has counted one that it did not let pass.
#[derive(Debug)]
pub(super) struct Hopeless {
    since: Option<Instant>,
    grace: Duration,
}

impl Hopeless {
    /// A fifth of the patience is left to a packet that is on its way all the same.
    pub(super) fn after(patience: Duration) -> Self {
        Self { since: None, grace: patience / 5 }
    }

    /// Whether nothing is to be waited for any more.
    pub(super) fn is_so(&mut self, seen: bool, before: &Statistics) -> bool {
        if !seen || self.since.is_none() && counted().since(before).is_empty() {
            return false;
        }
        let now = clock::now();
        now.saturating_duration_since(*self.since.get_or_insert(now)) >= self.grace
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_machine_is_waited_for() {
        let milliseconds = Duration::from_millis;
        assert_eq!(patience(milliseconds(40)), milliseconds(1500));
        assert_eq!(patience(milliseconds(800)), milliseconds(4000));
        assert_eq!(patience(milliseconds(60_000)), milliseconds(8000));
    }
}
