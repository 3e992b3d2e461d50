//! What a guest and a correspondent exchange in a run by tiers wherever a scenario shows that one reaches the other: TCP, both ways at once, with
//! segmentation offload at both ends, as virtual network cards have it. An echo alone would not show what super-packets carry.

use std::io::{Read, Write};
use std::net::{Ipv6Addr, Shutdown, SocketAddrV6, TcpListener, TcpStream};
use std::time::Duration;

use crate::failure::{Failure, Outcome, While, ensure};
use crate::migration::guest::pattern;
use crate::node::Node;

/// Octets each way.
const OCTETS: u64 = 384 << 10;
/// An emulated machine beside others needs its time.
const PATIENCE: Duration = Duration::from_secs(60);

/// From `node` to the node that has `address`, and back. Every octet is compared.
pub(crate) fn exchange(node: &Node, to: &Node, address: Ipv6Addr) -> Outcome {
    let listener = to.run(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)))??;
    let there = SocketAddrV6::new(address, listener.local_addr()?.port(), 0, 0).into();
    let what = || format!("{} and {} exchange {OCTETS} octets", node.name(), to.name());
    let near = node.run(move || TcpStream::connect_timeout(&there, PATIENCE))?.during(what)?;
    let (far, _) = listener.accept()?;
    for stream in [&near, &far] {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
    }
    // A socket stays in the namespace that it was made in, whoever uses it.
    std::thread::scope(|scope| {
        let all = [&near, &far].map(|stream| (scope.spawn(|| send(stream)), scope.spawn(|| receive(stream))));
        let ended = all.into_iter().flat_map(|(sender, receiver)| [sender.join(), receiver.join()]);
        // All are waited for before the first failure is told.
        let ended: Vec<_> = ended.collect();
        ended.into_iter().try_for_each(|end| end.map_err(|_| Failure::new("a thread of the exchange panicked"))?)
    })
    .during(what)
}

fn send(mut stream: &TcpStream) -> Outcome {
    let octets: Vec<u8> = (0..OCTETS).map(pattern).collect();
    stream.write_all(&octets)?;
    stream.shutdown(Shutdown::Write)?;
    Ok(())
}

fn receive(mut stream: &TcpStream) -> Outcome {
    let (mut buffer, mut received) = (vec![0; 1 << 16], 0);
    loop {
        let length = stream.read(&mut buffer).during(|| format!("after {received} octets"))?;
        if length == 0 {
            return ensure(received == OCTETS, || format!("the stream has ended after {received} octets"));
        }
        let right = (received..).zip(buffer.iter().take(length)).all(|(at, octet)| *octet == pattern(at));
        ensure(right, || format!("a wrong octet after {received}"))?;
        received += length as u64;
    }
}
