//! The load: TCP streams, small UDP packets in a closed loop, and one packet to and fro. Threads of this program inside the nodes,
//! so that nothing has to be started in the moment of measuring.

use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::socket::{MsgFlags, MultiHeaders, recvmmsg, sendmmsg};
use socket2::SockRef;

use super::cpu::{Cpus, pin_this_thread};
use super::path::{CORRESPONDENT, Path};
use crate::failure::{Failure, Outcome, While};
use crate::node::Node;

/// Longest that anything waits for the other side.
const PATIENCE: Duration = Duration::from_secs(3);
/// Octets of a small packet's payload.
const SMALL: usize = 32;
/// Small packets per system call.
const BATCH: usize = 64;
/// Small packets under way at most: below the 256 places of a veth ring, so that none is lost for want of room.
const WINDOW: u64 = 192;
/// After how many packets the receiver says how far it is.
const REPORT_EVERY: u64 = 64;

/// Something running in both nodes; ends when it is stopped.
pub(super) struct Load {
    stop: Arc<AtomicBool>,
    /// Octets or packets that have arrived.
    arrived: Arc<AtomicU64>,
    threads: Vec<JoinHandle<Outcome>>,
}

impl Load {
    /// What has arrived so far.
    pub(super) fn arrived(&self) -> u64 {
        self.arrived.load(Relaxed)
    }

    /// Ends it; the first failure of a thread is told.
    pub(super) fn stop(self) -> Outcome {
        self.stop.store(true, Relaxed);
        // All of them have ended before the first failure is told.
        let results: Vec<_> = self.threads.into_iter().map(|thread| thread.join()).collect();
        results.into_iter().try_for_each(|result| match result {
            Ok(result) => result,
            Err(_) => Err(Failure::new("a thread of the load has panicked")),
        })
    }
}

/// The thread's name tells a profiler what it is for.
fn in_node<T: Send + 'static>(
    node: &Node,
    name: &'static str,
    cpus: Cpus,
    work: impl FnOnce() -> Outcome<T> + Send + 'static,
) -> Outcome<JoinHandle<Outcome<T>>> {
    node.run(move || {
        std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            pin_this_thread(cpus)?;
            work()
        })
    })?
    .during(|| format!("the thread {name}"))
}

fn here(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))
}

fn there(port: u16) -> Outcome<SocketAddr> {
    let address: Ipv6Addr = CORRESPONDENT.parse().during(|| CORRESPONDENT.to_owned())?;
    Ok(SocketAddr::from((address, port)))
}

fn ended(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{BrokenPipe, ConnectionRefused, ConnectionReset, NotConnected, TimedOut, WouldBlock};
    matches!(error.kind(), BrokenPipe | ConnectionRefused | ConnectionReset | NotConnected | TimedOut | WouldBlock)
}

/// What TCP goes by: Linux's own default, whatever this machine's is. One that paces by the delays it measures, as BBR, measures the tunnels' delays.
pub(super) fn congestion_control() -> &'static str {
    let file = "/proc/sys/net/ipv4/tcp_available_congestion_control";
    let has_cubic = std::fs::read_to_string(file).is_ok_and(|all| all.split_whitespace().any(|name| name == "cubic"));
    // Reno is in every kernel.
    if has_cubic { "cubic" } else { "reno" }
}

/// `streams` TCP streams from the guest to the correspondent.
pub(super) fn tcp(path: &Path, streams: usize, cpus: Cpus) -> Outcome<Load> {
    let (stop, arrived) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let listener = path.correspondent.run(|| TcpListener::bind(here(0)))?.during(|| "listening".into())?;
    let port = listener.local_addr()?.port();
    let mut threads = vec![];
    for _ in 0..streams {
        let stop_sender = Arc::clone(&stop);
        let destination = there(port)?;
        let mut stream = path
            .guest
            .run(move || TcpStream::connect_timeout(&destination, PATIENCE))?
            .during(|| format!("{}: connecting through the tunnel", path.variant.name()))?;
        SockRef::from(&stream)
            .set_tcp_congestion(congestion_control().as_bytes())
            .during(|| "TCP_CONGESTION".into())?;
        let (mut accepted, _) = listener.accept()?;
        let arrived = Arc::clone(&arrived);
        stream.set_write_timeout(Some(PATIENCE))?;
        accepted.set_read_timeout(Some(PATIENCE))?;
        threads.push(in_node(&path.correspondent, "tcp-arrives", cpus, move || {
            let mut buffer = vec![0; 256 * 1024];
            loop {
                match accepted.read(&mut buffer) {
                    Ok(0) => return Ok(()),
                    Ok(length) => arrived.fetch_add(length as u64, Relaxed),
                    Err(error) if ended(&error) => return Ok(()),
                    Err(error) => return Err(error.into()),
                };
            }
        })?);
        threads.push(in_node(&path.guest, "tcp-leaves", cpus, move || {
            let buffer = vec![0x4b; 128 * 1024];
            while !stop_sender.load(Relaxed) {
                match stream.write(&buffer) {
                    Ok(_) => {}
                    Err(error) if ended(&error) => break,
                    Err(error) => return Err(error.into()),
                }
            }
            // What is still queued does not count any more.
            let _ = stream.shutdown(std::net::Shutdown::Both);
            Ok(())
        })?);
    }
    Ok(Load { stop, arrived, threads })
}

/// Small UDP packets from the guest to the correspondent, never more than [`WINDOW`] under way.
pub(super) fn small_packets(path: &Path, cpus: Cpus) -> Outcome<Load> {
    let (stop, arrived) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let receiver = path.correspondent.run(|| UdpSocket::bind(here(0)))?.during(|| "a receiver".into())?;
    let destination = there(receiver.local_addr()?.port())?;
    let sender = path.guest.run(move || {
        let sender = UdpSocket::bind(here(0))?;
        sender.connect(destination)?;
        Ok::<_, std::io::Error>(sender)
    })?;
    let sender = sender.during(|| "a sender".into())?;
    receiver.set_read_timeout(Some(Duration::from_millis(20)))?;
    sender.set_read_timeout(Some(Duration::from_millis(20)))?;
    let (stop_receiver, counted) = (Arc::clone(&stop), Arc::clone(&arrived));
    let receive = in_node(&path.correspondent, "small-arrives", cpus, move || {
        // Woken by each packet it would take each alone, and its coming and going would be most of what is measured.
        crate::sys::wait_for_others()?;
        receive_small(&receiver, &stop_receiver, &counted)
    })?;
    let stop_sender = Arc::clone(&stop);
    let send = in_node(&path.guest, "small-leaves", cpus, move || send_small(&sender, &stop_sender))?;
    Ok(Load { stop, arrived, threads: vec![receive, send] })
}

fn receive_small(socket: &UdpSocket, stop: &AtomicBool, arrived: &AtomicU64) -> Outcome {
    // The address comes with the first packet; the rest need none.
    let mut buffers = [[0u8; SMALL]; BATCH];
    let mut first = [0; SMALL];
    let source = loop {
        match socket.recv_from(&mut first) {
            Ok((_, source)) => break source,
            Err(error) if ended(&error) && !stop.load(Relaxed) => {}
            Err(error) if ended(&error) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    };
    socket.connect(source)?;
    let (mut total, mut told) = (1u64, 0u64);
    let mut headers = MultiHeaders::<()>::preallocate(BATCH, None);
    while !stop.load(Relaxed) {
        let mut slices: Vec<[IoSliceMut<'_>; 1]> = buffers.iter_mut().map(|buffer| [IoSliceMut::new(buffer)]).collect();
        let received = recvmmsg(socket.as_raw_fd(), &mut headers, slices.iter_mut(), MsgFlags::MSG_WAITFORONE, None);
        match received {
            Ok(messages) => total += messages.count() as u64,
            // A sender that has ended already refuses the last report.
            Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EINTR | nix::errno::Errno::ECONNREFUSED) => {}
            Err(error) => return Err(error.into()),
        }
        arrived.store(total, Relaxed);
        if total - told >= REPORT_EVERY {
            // A lost report is made good by the next.
            let _ = socket.send(&total.to_ne_bytes());
            told = total;
        }
    }
    Ok(())
}

fn send_small(socket: &UdpSocket, stop: &AtomicBool) -> Outcome {
    let payload = [0x4b; SMALL];
    let slices = [[IoSlice::new(&payload)]; BATCH];
    let mut headers = MultiHeaders::<()>::preallocate(BATCH, None);
    let (mut sent, mut arrived) = (0u64, 0u64);
    while !stop.load(Relaxed) {
        if sent - arrived + BATCH as u64 <= WINDOW {
            match sendmmsg(socket.as_raw_fd(), &mut headers, &slices, [None; BATCH], [], MsgFlags::empty()) {
                Ok(results) => sent += results.count() as u64,
                Err(nix::errno::Errno::ENOBUFS | nix::errno::Errno::EAGAIN | nix::errno::Errno::ECONNREFUSED) => {}
                Err(error) => return Err(error.into()),
            }
            continue;
        }
        let mut report = [0; 8];
        match socket.recv(&mut report) {
            Ok(_) => arrived = arrived.max(u64::from_ne_bytes(report)).min(sent),
            // What has not come by now is lost; both sides count from here.
            Err(error) if ended(&error) => arrived = sent,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// One packet to and fro.
#[derive(Debug, Clone, Copy)]
pub(super) struct RoundTrips {
    /// Microseconds.
    pub(super) median: f64,
    /// The same, of one in a hundred.
    pub(super) late: f64,
    /// Mean difference between one and the next (the jitter of RFC 3550 §6.4.1, without its smoothing), in microseconds.
    pub(super) jitter: f64,
}

/// Measures round trips for `time`.
pub(super) fn round_trips(path: &Path, cpus: Cpus, time: Duration) -> Outcome<RoundTrips> {
    let stop = Arc::new(AtomicBool::new(false));
    let echo = path.correspondent.run(|| UdpSocket::bind(here(0)))?.during(|| "an echo".into())?;
    let destination = there(echo.local_addr()?.port())?;
    echo.set_read_timeout(Some(Duration::from_millis(100)))?;
    let stop_echo = Arc::clone(&stop);
    let answering = in_node(&path.correspondent, "echo", cpus, move || {
        let mut buffer = [0; 64];
        while !stop_echo.load(Relaxed) {
            if let Ok((length, source)) = echo.recv_from(&mut buffer) {
                echo.send_to(&buffer[..length], source)?;
            }
        }
        Ok(())
    })?;
    let asking = in_node(&path.guest, "asks", cpus, move || {
        let socket = UdpSocket::bind(here(0))?;
        socket.connect(destination)?;
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        let (begin, mut times, mut buffer) = (Instant::now(), vec![], [0; 64]);
        while begin.elapsed() < time {
            let sent = Instant::now();
            socket.send(&[0x4b; 56])?;
            if socket.recv(&mut buffer).is_ok() {
                times.push(sent.elapsed().as_secs_f64() * 1e6);
            }
        }
        Ok(times)
    })?;
    let times = asking.join().map_err(|_| Failure::new("the asking thread has panicked"))?;
    stop.store(true, Relaxed);
    answering.join().map_err(|_| Failure::new("the echo has panicked"))??;
    let mut times = times?;
    // The first ones find caches cold and neighbours unknown.
    times.drain(..times.len().min(5));
    summary(times).ok_or_else(|| Failure::new(format!("{}: no packet came back", path.variant.name())))
}

fn summary(times: Vec<f64>) -> Option<RoundTrips> {
    let differences: f64 = times.windows(2).map(|pair| (pair[0] - pair[1]).abs()).sum();
    let jitter = differences / times.len().saturating_sub(1).max(1) as f64;
    let mut sorted = times;
    sorted.sort_by(f64::total_cmp);
    let at = |share: f64| sorted.get((sorted.len() as f64 * share) as usize).copied();
    Some(RoundTrips { median: at(0.5)?, late: at(0.99)?, jitter })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips_are_summed_up() {
        assert!(summary(vec![]).is_none());
        let times = summary((1..=100).rev().map(f64::from).collect()).unwrap();
        assert_eq!((times.median, times.late, times.jitter), (51.0, 100.0, 1.0));
        assert_eq!(summary(vec![7.0]).unwrap().jitter, 0.0);
    }
}
