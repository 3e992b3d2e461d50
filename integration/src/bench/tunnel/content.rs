//! Flows whose every octet is known at both ends: TCP streams and UDP packets between a guest and the correspondent.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::hostile::next;
use crate::failure::{Failure, Outcome, While, ensure};

/// Octets made at once; a multiple of a word.
const CHUNK: usize = 64 * 1024;
/// Longest that one read or write may wait: the kernel's retransmissions double up to here under bad luck.
const PATIENCE: Duration = Duration::from_secs(20);
/// UDP packets are this long at most, and one is sent each time.
const LONGEST: u64 = 1400;
const PACE: Duration = Duration::from_micros(300);

/// The word at `index` of a flow.
fn word(flow: u64, index: u64) -> u64 {
    let mixed = (flow << 48 ^ index).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed ^ mixed >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9)
}

fn fill(flow: u64, offset: u64, octets: &mut [u8]) {
    for (index, to) in (offset / 8..).zip(octets.chunks_mut(8)) {
        to.copy_from_slice(&word(flow, index).to_le_bytes()[..to.len()]);
    }
}

/// Sends a stream of `octets` (a multiple of 8).
pub(super) fn send_stream(flow: u64, mut stream: TcpStream, octets: u64) -> Outcome {
    stream.set_write_timeout(Some(PATIENCE))?;
    let (mut buffer, mut offset) = (vec![0; CHUNK], 0);
    while offset < octets {
        let length = (octets - offset).min(CHUNK as u64) as usize;
        fill(flow, offset, &mut buffer[..length]);
        stream.write_all(&buffer[..length]).during(|| format!("stream {flow} after {offset} octets"))?;
        offset += length as u64;
    }
    stream.shutdown(std::net::Shutdown::Write)?;
    Ok(())
}

/// Receives it: exactly those octets, in order.
pub(super) fn receive_stream(flow: u64, listener: &TcpListener, octets: u64, arrived: &AtomicU64) -> Outcome {
    let (mut stream, _) = listener.accept()?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let (mut buffer, mut expected, mut offset) = (vec![0; CHUNK], vec![0; CHUNK + 8], 0);
    loop {
        let length = stream.read(&mut buffer).during(|| format!("stream {flow} after {offset} octets"))?;
        if length == 0 {
            return ensure(offset == octets, || format!("stream {flow} ended after {offset} of {octets} octets"));
        }
        let skipped = (offset % 8) as usize;
        fill(flow, offset - skipped as u64, &mut expected[..(skipped + length).next_multiple_of(8)]);
        ensure(buffer[..length] == expected[skipped..skipped + length], || {
            format!("stream {flow}: other octets than were sent, between {offset} and {}", offset + length as u64)
        })?;
        offset += length as u64;
        arrived.fetch_add(length as u64, Relaxed);
    }
}

/// Sends packets until it is told to stop; how many.
pub(super) fn send_packets(flow: u64, socket: &UdpSocket, to: SocketAddr, stop: &AtomicBool) -> Outcome<u64> {
    let (mut chance, mut number) = (flow | 1 << 32, 0);
    while !stop.load(Relaxed) {
        let mut packet = vec![0; 16 + (next(&mut chance) % (LONGEST - 16)) as usize];
        fill(flow, number << 16, &mut packet);
        packet[..8].copy_from_slice(&flow.to_le_bytes());
        packet[8..16].copy_from_slice(&number.to_le_bytes());
        // An error tells of an earlier packet: the path has become narrower.
        let _ = socket.send_to(&packet, to);
        number += 1;
        std::thread::sleep(PACE);
    }
    Ok(number)
}

/// Receives them: of this flow alone, each as it was sent; how many.
pub(super) fn receive_packets(flow: u64, socket: &UdpSocket, stop: &AtomicBool, arrived: &AtomicU64) -> Outcome<u64> {
    socket.set_read_timeout(Some(Duration::from_millis(100)))?;
    let (mut buffer, mut expected, mut count) = (vec![0; 65_536], vec![0; 65_536], 0);
    loop {
        let length = match socket.recv(&mut buffer) {
            Ok(length) => length,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                if stop.load(Relaxed) {
                    return Ok(count);
                }
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        let words =
            buffer.get(..length).and_then(|packet| packet.first_chunk::<16>()).map(|head| head.as_chunks::<8>().0);
        let Some([whose, number]) = words.map(|words| [words[0], words[1]].map(u64::from_le_bytes)) else {
            return Err(Failure::new(format!("packets {flow}: one of {length} octets")));
        };
        ensure(whose == flow, || format!("packets {flow}: one of flow {whose}"))?;
        fill(flow, number << 16, &mut expected[..length]);
        ensure(buffer[16..length] == expected[16..length], || {
            format!("packets {flow}: number {number} has other octets than were sent")
        })?;
        count += 1;
        arrived.fetch_add(length as u64, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_does_not_depend_on_how_it_is_cut_and_flows_differ() {
        let (mut whole, mut part) = ([0; 64], [0; 24]);
        fill(3, 0, &mut whole);
        fill(3, 16, &mut part);
        assert_eq!(whole[16..40], part);
        fill(4, 16, &mut part);
        assert_ne!(whole[16..40], part);
    }
}
