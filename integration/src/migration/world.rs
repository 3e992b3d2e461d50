//! What a guest sees of its network: this must be the same before and after a move.

use std::process::Command;

use crate::failure::{Outcome, While};

/// Addresses, routes, the link, and the router's link-layer address, as the calling thread's network namespace has them.
/// Counters, ages and the order of the kernel's tables are left out.
pub(crate) fn look() -> Outcome<String> {
    let read = |path: &str| std::fs::read_to_string(path).during(|| path.to_owned());
    let mut lines = Vec::new();
    for line in read("/proc/thread-self/net/if_inet6")?.lines() {
        lines.push(format!("address {line}"));
    }
    for line in read("/proc/thread-self/net/ipv6_route")?.lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        // Destination, source, next hop, metric; reference count and use count are left out; flags, interface.
        if let [destination, length, _, _, next_hop, metric, _, _, flags, interface] = fields.as_slice() {
            // Whether it has a lifetime (RTF_EXPIRES of linux/ipv6_route.h) is an age, too.
            let flags = u32::from_str_radix(flags, 16).during(|| line.to_owned())? & !0x0040_0000;
            lines.push(format!(
                "route {destination}/{length} via {next_hop} metric {metric} flags {flags:08x} dev {interface}"
            ));
        }
    }
    lines.sort();
    for what in ["address", "mtu", "operstate", "carrier_changes"] {
        lines.push(format!("link {what} {}", read(&format!("/sys/class/net/eth0/{what}"))?.trim_end()));
    }
    let neighbours = Command::new("ip").args(["-6", "neigh", "show", "dev", "eth0"]).output().during(|| "ip".into())?;
    let neighbours = String::from_utf8_lossy(&neighbours.stdout).into_owned();
    lines.extend(routers(&neighbours));
    Ok(lines.join("\n"))
}

/// The routers of a neighbour cache, by the link-local addresses that routes lead to (RFC 4861 §6.3.4), with their link-layer addresses and without
/// their reachability. That the home agent is a router too a guest knows where it has heard so.
fn routers(neighbours: &str) -> Vec<String> {
    let mut routers: Vec<String> = neighbours
        .lines()
        .filter(|line| line.starts_with("fe80:") && line.contains(" router "))
        .map(|line| {
            let words: Vec<&str> = line.split_whitespace().take_while(|word| *word != "router").collect();
            format!("router {}", words.join(" "))
        })
        .collect();
    routers.sort();
    routers
}

/// The lines that differ, for a failure.
pub(crate) fn difference(before: &str, after: &str) -> String {
    let gone =
        before.lines().filter(|line| !after.lines().any(|other| other == *line)).map(|line| format!("\n  - {line}"));
    let new =
        after.lines().filter(|line| !before.lines().any(|other| other == *line)).map(|line| format!("\n  + {line}"));
    gone.chain(new).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_routers_reachability_is_no_change_but_its_address_is() {
        let stale = routers(
            "fe80::1 lladdr 02:4b:47:4d:53:01 router STALE\n2001:db8::2 lladdr 02:00:00:00:00:02 router REACHABLE",
        );
        let reachable = routers("fe80::1 lladdr 02:4b:47:4d:53:01 router REACHABLE");
        assert_eq!(stale, reachable);
        assert_ne!(stale, routers("fe80::1 lladdr 02:4b:47:4d:53:02 router REACHABLE"));
    }

    #[test]
    fn a_difference_tells_what_went_and_what_came() {
        assert_eq!(difference("a\nb", "a\nc"), "\n  - b\n  + c");
        assert_eq!(difference("a", "a"), "");
    }
}
