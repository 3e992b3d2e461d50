//! Single values: texts and numbers of the file become addresses, prefixes, interface names, lifetimes.

use std::net::Ipv6Addr;
use std::path::PathBuf;
use std::time::Duration;

use super::AttachMode;
use crate::ipsec::Esp;
use crate::vocabulary::{MacAddress, ParseVocabularyError, Prefix};

/// What is wrong with a value, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wrong {
    pub(super) message: String,
    pub(super) help: String,
}

impl Wrong {
    pub(super) fn new(message: impl Into<String>, help: impl Into<String>) -> Self {
        Self { message: message.into(), help: help.into() }
    }
}

/// An address that a node can have and be reached at from other links.
pub(super) fn unicast_address(text: &str) -> Result<Ipv6Addr, Wrong> {
    let help = "write one global address such as 2001:db8:2000::10, without a prefix length or a zone";
    let Ok(address) = text.parse::<Ipv6Addr>() else {
        return Err(Wrong::new(format!("expected an IPv6 address, got {text:?}"), help));
    };
    let kind = if address.is_unspecified() {
        "the unspecified address"
    } else if address.is_loopback() {
        "the loopback address"
    } else if address.is_multicast() {
        "a multicast address"
    } else if address.is_unicast_link_local() {
        "a link-local address"
    } else if address.to_ipv4_mapped().is_some() {
        "an IPv4-mapped address"
    } else {
        return Ok(address);
    };
    Err(Wrong::new(format!("expected a unicast address of more than link-local scope, got {kind} {address}"), help))
}

/// The prefix of a home link.
pub(super) fn home_link(text: &str) -> Result<Prefix, Wrong> {
    let prefix = text.parse::<Prefix>().map_err(|error| {
        let help = match &error {
            ParseVocabularyError::HostBits { canonical, .. } => format!("write {canonical}"),
            _ => "write the prefix of the home link with its length, such as 2001:db8:2000::/64".to_owned(),
        };
        Wrong::new(error.to_string(), help)
    })?;
    let help = "write the one prefix of the link that the guests have their home addresses on; nearly always a /64";
    if !(16..=126).contains(&prefix.length()) {
        return Err(Wrong::new(
            format!("expected a prefix of 16 to 126 bits, got {} bits: no one link", prefix.length()),
            help,
        ));
    }
    if prefix.address().is_multicast() || prefix.address().is_unicast_link_local() {
        return Err(Wrong::new(format!("expected a prefix of global unicast addresses, got {prefix}"), help));
    }
    Ok(prefix)
}

/// The name of a network interface: 1 to 15 octets (`IFNAMSIZ` of `linux/if.h` less the final zero), as `dev_valid_name` of the
/// kernel wants it.
pub(super) fn interface(text: &str) -> Result<String, Wrong> {
    let help = "`ip -brief link` lists the interfaces";
    if text.is_empty() || text.len() > 15 {
        return Err(Wrong::new(
            format!("expected an interface name of 1 to 15 octets, got {text:?} of {} octets", text.len()),
            help,
        ));
    }
    let refused = |c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control();
    if text == "." || text == ".." || text.contains(refused) {
        let message = format!("expected an interface name without '/', ':' and white space, got {text:?}");
        return Err(Wrong::new(message, help));
    }
    Ok(text.to_owned())
}

/// The address of one network card.
pub(super) fn mac(text: &str) -> Result<MacAddress, Wrong> {
    let help = "write the address of the network card, as `ip -brief link` shows it";
    let mac: MacAddress = text.parse().map_err(|error: ParseVocabularyError| Wrong::new(error.to_string(), help))?;
    if mac.is_multicast() {
        return Err(Wrong::new(
            format!("expected the MAC address of one network card, got the group address {mac}"),
            help,
        ));
    }
    if mac == MacAddress([0; 6]) {
        return Err(Wrong::new("expected the MAC address of one network card, got zeros", help));
    }
    Ok(mac)
}

/// A link-local address of the pseudo home network's router.
pub(super) fn link_local(text: &str) -> Result<Ipv6Addr, Wrong> {
    let wrong = || {
        Wrong::new(
            format!("expected a link-local address in fe80::/64, got {text:?}"),
            "leave it out for fe80::1, or write the address of the router at home",
        )
    };
    let address: Ipv6Addr = text.parse().map_err(|_| wrong())?;
    let prefix = Prefix::of(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 64);
    if prefix.contains(address) && address != prefix.address() { Ok(address) } else { Err(wrong()) }
}

/// The name of a guest.
pub(super) fn guest_name(text: &str) -> Result<String, Wrong> {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if !text.is_empty() && text.len() <= 64 && text.chars().all(good) {
        return Ok(text.to_owned());
    }
    Err(Wrong::new(
        format!("expected a name of 1 to 64 letters, digits, '.', '_' and '-', got {text:?}"),
        "the name is for you: it stands in logs, in `status`, and in commands",
    ))
}

/// The name of a host, as `uname -n` shows it.
pub(super) fn host_name(text: &str) -> Result<String, Wrong> {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if !text.is_empty() && text.len() <= 64 && text.chars().all(good) {
        return Ok(text.to_owned());
    }
    Err(Wrong::new(
        format!("expected a host name of 1 to 64 letters, digits, '.', '_' and '-', got {text:?}"),
        "write the name that `uname -n` shows on that host",
    ))
}

/// Where a socket is: `sun_path` of unix(7) holds 107 octets.
pub(super) fn socket_path(text: &str) -> Result<PathBuf, Wrong> {
    let path = PathBuf::from(text);
    if path.is_absolute() && text.len() < 108 && !text.contains('\0') {
        return Ok(path);
    }
    Err(Wrong::new(
        format!("expected an absolute path of at most 107 octets, got {text:?}"),
        "name the socket as QEMU's -qmp unix:PATH,server=on,wait=off does",
    ))
}

/// When a guest is attached.
pub(super) fn attach_mode(text: &str) -> Result<AttachMode, Wrong> {
    match text {
        "always" => Ok(AttachMode::Always),
        "when-seen" => Ok(AttachMode::WhenSeen),
        "on-command" => Ok(AttachMode::OnCommand),
        other => Err(Wrong::new(
            format!("expected \"always\", \"when-seen\" or \"on-command\", got {other:?}"),
            "write \"when-seen\" for a guest that comes and goes by live migration; \"always\" is the default",
        )),
    }
}

/// A binding lifetime in seconds (RFC 6275 §6.1.7: 16 bits in units of 4 seconds).
pub(super) fn lifetime(seconds: i64) -> Result<Duration, Wrong> {
    match u64::try_from(seconds) {
        Ok(good @ 4..=262_140) if good % 4 == 0 => Ok(Duration::from_secs(good)),
        Ok(near @ 5..=262_140) => Err(Wrong::new(
            format!("expected a multiple of 4 seconds, the unit of the wire (RFC 6275 §6.1.7), got {seconds}"),
            format!("write {} or {}", near / 4 * 4, (near / 4 * 4 + 4).min(262_140)),
        )),
        _ => Err(Wrong::new(
            format!("expected 4 to 262140 seconds, got {seconds}"),
            "a short lifetime means more binding updates, a long one a long memory of a host that failed; 600 is usual",
        )),
    }
}

/// An SPI (RFC 4303 §2.1 reserves 0 to 255).
pub(super) fn spi(number: i64) -> Result<u32, Wrong> {
    u32::try_from(number).ok().filter(|spi| *spi > 255).ok_or_else(|| {
        Wrong::new(
            format!("expected an SPI from 256 to 4294967295 (RFC 4303 §2.1 reserves the numbers below), got {number}"),
            "write a number of your choice that both sides use, such as 0x3e8",
        )
    })
}

/// A reqid.
pub(super) fn reqid(number: i64) -> Result<u32, Wrong> {
    u32::try_from(number).ok().filter(|reqid| *reqid > 0).ok_or_else(|| {
        Wrong::new(
            format!("expected a reqid from 1 to 4294967295, got {number}"),
            "the reqid ties a security association to its policy on this machine; 0 would tie it to any",
        )
    })
}

/// A replay window in packets.
pub(super) fn replay_window(packets: i64) -> Result<u32, Wrong> {
    u32::try_from(packets).ok().filter(|packets| *packets <= Esp::WIDEST_WINDOW).ok_or_else(|| {
        Wrong::new(
            format!("expected a replay window of 0 to {} packets, got {packets}", Esp::WIDEST_WINDOW),
            "leave it out for 32; 0 lets replays in",
        )
    })
}

/// A limit of an SA, in octets, packets or seconds.
pub(super) fn limit(number: i64, unit: &str) -> Result<u64, Wrong> {
    u64::try_from(number).ok().filter(|number| *number > 0).ok_or_else(|| {
        Wrong::new(
            format!("expected a number of {unit} from 1 on, got {number}"),
            "leave it out for no limit; a security association that ends at once is none",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_has_an_absolute_path_that_fits() {
        assert_eq!(socket_path("/run/qemu/vm1.qmp"), Ok(PathBuf::from("/run/qemu/vm1.qmp")));
        for wrong in ["", "vm1.qmp", &format!("/{}", "x".repeat(107)), "/run/\0"] {
            assert!(socket_path(wrong).unwrap_err().help.contains("-qmp"), "{wrong:?}");
        }
    }

    #[test]
    fn attachment_has_three_modes() {
        let read = |text| attach_mode(text).unwrap();
        assert_eq!(read("always"), AttachMode::Always);
        assert_eq!(read("when-seen"), AttachMode::WhenSeen);
        assert_eq!(read("on-command"), AttachMode::OnCommand);
        assert!(attach_mode("sometimes").unwrap_err().message.contains("\"when-seen\""));
    }

    #[test]
    fn lifetimes_fit_the_wire() {
        assert_eq!(lifetime(600), Ok(Duration::from_secs(600)));
        assert_eq!(lifetime(262_140), Ok(Duration::from_secs(262_140)));
        assert_eq!(lifetime(602).unwrap_err().help, "write 600 or 604");
        assert_eq!(lifetime(262_139).unwrap_err().help, "write 262136 or 262140");
        for bad in [i64::MIN, -4, 0, 1, 2, 3, 262_141, 262_144, i64::MAX] {
            assert!(lifetime(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn numbers_have_their_ranges() {
        assert_eq!((spi(256), spi(0xffff_ffff)), (Ok(256), Ok(0xffff_ffff)));
        assert!([-1, 0, 255, 1 << 32].into_iter().all(|bad| spi(bad).is_err()));
        assert!(reqid(1).is_ok() && reqid(0).is_err() && reqid(1 << 32).is_err() && reqid(-1).is_err());
        assert!(replay_window(0).is_ok() && replay_window(4096).is_ok() && replay_window(4097).is_err());
        assert!(limit(1, "packets").is_ok() && limit(0, "packets").is_err() && limit(-1, "packets").is_err());
    }

    #[test]
    fn names_the_kernel_takes() {
        assert!(interface("br-home").is_ok() && interface("a23456789012345").is_ok());
        for bad in ["", "a234567890123456", "..", ".", "a/b", "a b", "a:1", "a\nb"] {
            assert!(interface(bad).is_err(), "{bad:?}");
        }
    }
}
