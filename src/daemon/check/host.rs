//! What can be seen without trying: privileges, settings, devices, interfaces.

use std::fs::{self, OpenOptions};
use std::io;
use std::net::Ipv6Addr;
use std::path::Path;

use nix::net::if_::if_nametoindex;
use nix::unistd::{AccessFlags, access};
use socket2::{Domain, Protocol, Socket, Type};

use super::verdict::Finding;
use crate::daemon::esp_tunnel;
use crate::daemon::netlink::route::{self, Uplink};
use crate::policy::{Policy, Role};

/// `CAP_NET_ADMIN` and `CAP_NET_RAW` (`linux/capability.h`).
const CAPABILITIES: [(u32, &str, &str); 2] =
    [(12, "CAP_NET_ADMIN", "IPsec, links and routes"), (13, "CAP_NET_RAW", "mobility headers and the tunnel")];
const SETTINGS: &str = "/proc/sys/net/ipv6/conf";

pub(super) fn findings(role: Role, policy: Option<&Policy>) -> Vec<Finding> {
    let mut findings = privileges(&fs::read_to_string("/proc/self/status").unwrap_or_default());
    findings.extend([
        raw_socket("raw socket for mobility headers (protocol 135)", Domain::IPV6, libc::IPPROTO_MH),
        raw_socket("raw socket for the tunnel (protocol 41)", Domain::IPV6, libc::IPPROTO_IPV6),
        tun(),
    ]);
    if role == Role::HomeAgent {
        findings.push(raw_socket("packet socket for the home link", Domain::PACKET, 0));
    }
    let uplink = policy.filter(|_| role == Role::MobileNode).and_then(|policy| match find_uplink(policy) {
        Ok(uplink) => {
            let text = format!("route to the home agent by {}, care-of address {}", uplink.name, uplink.source);
            findings.push(Finding::ok(text));
            Some(uplink.name)
        }
        Err(finding) => {
            findings.push(finding);
            None
        }
    });
    findings.extend(policy.into_iter().flat_map(interfaces));
    findings.extend(settings(role, uplink.as_deref(), Path::new(SETTINGS)));
    if policy.is_some_and(esp_tunnel::is_wanted) {
        findings.push(forwarding_for_guests(Path::new(SETTINGS)));
    }
    findings
}

/// The kernel forwards what guests send into its ESP tunnels.
fn forwarding_for_guests(root: &Path) -> Finding {
    let subject = "IPv6 forwarding, for the class tunnel-payload";
    let all = fs::read_to_string(root.join("all/forwarding")).is_ok_and(|value| value.trim() != "0");
    // Of single interfaces since Linux 6.17.
    if all || root.join("default/force_forwarding").exists() {
        return Finding::ok(subject);
    }
    let remedy = "`sysctl -w net.ipv6.conf.all.forwarding=1`, with accept_ra=2 on an uplink that is configured by router advertisements";
    Finding::missing(subject, remedy)
}

/// The capabilities that a process with this `/proc/self/status` lacks.
pub(in crate::daemon) fn missing_capabilities(status: &str) -> Vec<&'static str> {
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    CAPABILITIES.iter().filter(|(bit, ..)| effective & (1 << bit) == 0).map(|(_, name, _)| *name).collect()
}

fn privileges(status: &str) -> Vec<Finding> {
    let missing = missing_capabilities(status);
    let judge = |(_, name, purpose): (u32, &str, &str)| {
        let subject = format!("privilege {name} ({purpose})");
        match missing.contains(&name) {
            true => Finding::missing(
                subject,
                "run as root, or give the service this capability (systemd: AmbientCapabilities=)",
            ),
            false => Finding::ok(subject),
        }
    };
    CAPABILITIES.into_iter().map(judge).collect()
}

fn raw_socket(subject: &str, domain: Domain, protocol: i32) -> Finding {
    match Socket::new(domain, Type::RAW, Some(Protocol::from(protocol))) {
        Ok(_) => Finding::ok(subject),
        Err(error) => Finding::missing(subject, format!("{error}; CAP_NET_RAW and a kernel with IPv6 are needed")),
    }
}

fn tun() -> Finding {
    let subject = "/dev/net/tun (taps of guests, tunnel of a home agent)";
    match OpenOptions::new().read(true).write(true).open("/dev/net/tun") {
        Ok(_) => Finding::ok(subject),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            Finding::missing(subject, format!("{error}; run it as root, or as a user who may open it"))
        }
        Err(error) => Finding::missing(
            subject,
            format!("{error}; `modprobe tun`, or in a container let the device in; the kernel needs CONFIG_TUN"),
        ),
    }
}

fn find_uplink(policy: &Policy) -> Result<Uplink, Finding> {
    let home_agent = policy.home_agent.address;
    let subject = format!("route to the home agent {home_agent}");
    let remedy = "there is none with a global source address now; the daemon would wait for one";
    match route_to(home_agent) {
        Ok(Some(uplink)) => Ok(uplink),
        Ok(None) => Err(Finding::warning(subject, remedy)),
        Err(error) => Err(Finding::missing(subject, error)),
    }
}

fn route_to(destination: Ipv6Addr) -> Result<Option<Uplink>, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    runtime.block_on(async { route::Client::open()?.route_to(destination).await }).map_err(|e| e.to_string())
}

fn interfaces(policy: &Policy) -> Vec<Finding> {
    let ports = policy.guests.iter().filter_map(|guest| guest.attachment.as_ref()).map(|a| a.port.interface());
    let mut names: Vec<&str> = policy.home_agent.interface.iter().map(String::as_str).chain(ports).collect();
    names.extend(policy.uplink.interface.as_deref());
    names.sort_unstable();
    names.dedup();
    let judge = |name: &str| match if_nametoindex(name) {
        Ok(_) => Finding::ok(format!("interface {name}")),
        Err(_) => Finding::warning(format!("interface {name}"), "the policy names it and it is not there now"),
    };
    names.into_iter().map(judge).collect()
}

/// Sysctls that break it. `root` is a parameter for tests.
fn settings(role: Role, uplink: Option<&str>, root: &Path) -> Vec<Finding> {
    let value = |interface: &str, name: &str| -> Option<i64> {
        fs::read_to_string(root.join(interface).join(name)).ok()?.trim().parse().ok()
    };
    let mut findings = vec![];
    let mut judge = |interface: &str, name: &str, bad: &dyn Fn(i64) -> bool, wanted: &str, why: &str| {
        let subject = format!("sysctl net.ipv6.conf.{interface}.{name}");
        findings.push(match value(interface, name) {
            Some(value) if bad(value) => Finding::missing(
                subject.clone(),
                format!("it is {value}: {why}; `sysctl -w {}={wanted}`", &subject["sysctl ".len()..]),
            ),
            Some(_) => Finding::ok(subject),
            None => Finding::warning(subject, "it cannot be read"),
        });
    };
    judge("all", "disable_ipv6", &|v| v != 0, "0", "no link gets IPv6");
    for interface in ["all"].into_iter().chain(uplink) {
        if role == Role::MobileNode {
            let why = "the kernel refuses the type 2 routing header of binding acknowledgements";
            judge(interface, "accept_source_route", &|v| v < 0, "0", why);
        }
        judge(
            interface,
            "disable_policy",
            &|v| v != 0,
            "0",
            "the kernel lets messages in that IPsec should have protected",
        );
    }
    if role == Role::HomeAgent {
        judge("all", "forwarding", &|v| v == 0, "1", "a home agent forwards between its home link and its guests");
    }
    // For the link that swallows the kernel's own copy of tunnelled packets.
    if Path::new("/sys/module/tunnel6").exists() {
        let subject = "the kernel's own tunnel receiver is loaded (tunnel6): settings can be written";
        findings.push(match access(&root.join("default/disable_ipv6"), AccessFlags::W_OK) {
            Ok(()) => Finding::ok(subject),
            Err(error) => Finding::missing(
                subject,
                format!("{}: {error}; mount /proc/sys writable, or `modprobe -r ip6_tunnel tunnel6`", root.display()),
            ),
        });
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::verdict::Outcome;
    use super::*;

    #[test]
    fn capabilities_are_read_from_the_effective_set() {
        let outcomes = |status| privileges(status).into_iter().map(|f| f.outcome).collect::<Vec<_>>();
        assert_eq!(outcomes("CapInh:\t0\nCapEff:\t0000000000003000\n"), [Outcome::Ok, Outcome::Ok]);
        assert_eq!(outcomes("CapPrm:\t3000\nCapEff:\t0000000000001000\n"), [Outcome::Ok, Outcome::Missing]);
        assert_eq!(outcomes(""), [Outcome::Missing, Outcome::Missing]);
    }

    #[test]
    fn esp_tunnels_of_guests_need_forwarding() {
        let root = tempfile::tempdir().unwrap();
        for interface in ["all", "default"] {
            fs::create_dir_all(root.path().join(interface)).unwrap();
        }
        fs::write(root.path().join("all/forwarding"), "0\n").unwrap();
        assert_eq!(forwarding_for_guests(root.path()).outcome, Outcome::Missing);
        fs::write(root.path().join("default/force_forwarding"), "0\n").unwrap();
        assert_eq!(forwarding_for_guests(root.path()).outcome, Outcome::Ok);
        fs::remove_file(root.path().join("default/force_forwarding")).unwrap();
        fs::write(root.path().join("all/forwarding"), "1\n").unwrap();
        assert_eq!(forwarding_for_guests(root.path()).outcome, Outcome::Ok);
    }

    #[test]
    fn settings_that_break_it_are_named_with_their_cure() {
        let root = tempfile::tempdir().unwrap();
        let set = |interface: &str, name: &str, value: &str| {
            fs::create_dir_all(root.path().join(interface)).unwrap();
            fs::write(root.path().join(interface).join(name), value).unwrap();
        };
        for interface in ["all", "eth0", "default"] {
            for name in ["disable_ipv6", "accept_source_route", "disable_policy", "forwarding"] {
                set(interface, name, "0\n");
            }
        }
        let bad = |role, uplink| {
            let found = settings(role, uplink, root.path());
            found.into_iter().filter(|f| f.outcome != Outcome::Ok).map(|f| f.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(bad(Role::MobileNode, Some("eth0")), [""; 0]);
        assert_eq!(
            bad(Role::HomeAgent, None),
            [
                "MISSING  sysctl net.ipv6.conf.all.forwarding: it is 0: a home agent forwards between its home link and its \
              guests; `sysctl -w net.ipv6.conf.all.forwarding=1`"
            ]
        );
        set("eth0", "accept_source_route", "-1\n");
        let found = bad(Role::MobileNode, Some("eth0"));
        assert!(found.len() == 1 && found[0].contains("net.ipv6.conf.eth0.accept_source_route=0"), "{found:?}");
        assert_eq!(bad(Role::MobileNode, None), [""; 0]);
        assert_eq!(bad(Role::MobileNode, Some("eth1")).len(), 2, "what cannot be read is a warning");
    }
}
