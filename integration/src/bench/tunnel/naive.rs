//! The reference from below: the original's design. A frame is read from a TAP without offloads, checked as little as can be, and
//! sent by a raw socket that adds the outer header; one system call each, one packet at a time. Here only, never in the product.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::{Ipv6Addr, SocketAddrV6};
use std::os::fd::AsFd;

use kagemusha::daemon::sys::set_tun_interface;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::end::Role;
use super::path::{CARE_OF, GUEST_MAC, HOME_AGENT, ROUTER_MAC, TAP, TUN};

const IPPROTO_IPV6: i32 = 41;
const ETHERNET: usize = 14;
const LONGEST: usize = 65_536;

/// Its threads end with the process.
pub(super) struct Naive;

impl Naive {
    pub(super) fn start(role: Role) -> io::Result<Self> {
        let (name, kind, link, near, far) = match role {
            Role::MobileNode => (TAP, libc::IFF_TAP, ETHERNET, CARE_OF, HOME_AGENT),
            Role::HomeAgent => (TUN, libc::IFF_TUN, 0, HOME_AGENT, CARE_OF),
        };
        let mut device = OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
        set_tun_interface(device.as_fd(), name, kind | libc::IFF_NO_PI)?;
        let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::from(IPPROTO_IPV6)))?;
        let [near, far] = [near, far].map(|address| address.parse().unwrap_or(Ipv6Addr::UNSPECIFIED));
        socket.bind(&SockAddr::from(SocketAddrV6::new(near, 0, 0, 0)))?;
        let (mut other, sender) = (device.try_clone()?, socket.try_clone()?);
        let to = SockAddr::from(SocketAddrV6::new(far, 0, 0, 0));
        std::thread::spawn(move || into_tunnel(&mut device, link, &sender, &to));
        std::thread::spawn(move || out_of_tunnel(&socket, link, &mut other));
        Ok(Self)
    }
}

fn into_tunnel(device: &mut File, link: usize, socket: &Socket, to: &SockAddr) {
    let mut buffer = vec![0; LONGEST];
    while let Ok(length) = device.read(&mut buffer) {
        match buffer.get(link..length) {
            // An error is a lost packet, as any other.
            Some(packet) if is_ours(&buffer, link) => drop(socket.send_to(packet, to)),
            _ => {}
        }
    }
}

fn is_ours(frame: &[u8], link: usize) -> bool {
    link == 0 || frame.get(12..14) == Some(&[0x86, 0xdd]) && frame.get(38) != Some(&0xff)
}

fn out_of_tunnel(socket: &Socket, link: usize, device: &mut File) {
    let mut header = [0; ETHERNET];
    for (field, mac) in [GUEST_MAC, ROUTER_MAC].into_iter().enumerate() {
        for (n, octet) in mac.split(':').enumerate() {
            header[6 * field + n] = u8::from_str_radix(octet, 16).unwrap_or(0);
        }
    }
    header[12..].copy_from_slice(&[0x86, 0xdd]);
    let mut frame = vec![0; ETHERNET + LONGEST];
    frame[..ETHERNET].copy_from_slice(&header);
    while let Ok(length) = (&*socket).read(&mut frame[ETHERNET..]) {
        // An error is a lost packet, as any other.
        let _ = device.write(&frame[ETHERNET - link..ETHERNET + length]);
    }
}
