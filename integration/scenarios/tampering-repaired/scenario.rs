//! See `README.md`.

use std::time::Instant;

use crate::node::Node;
use crate::prelude::*;

pub(crate) const SCENARIO: Scenario = Scenario {
    name: "tampering-repaired",
    readme: include_str!("README.md"),
    peer: Peer::None,
    // Not for tshark: numbers reserved for an association that was deleted are left out, which it takes for lost packets.
    well_formed: false,
    run,
};

/// Time for a repair. The aim is 100 ms; a system call of the lab's kernel takes many times as long as on a machine.
const REPAIR: Duration = Duration::from_millis(500);

fn run(lab: &Lab) -> Outcome {
    let net = &lab.net;
    let mut foreign = lab.watch(FOREIGN)?;
    let home_agent = lab.start_home_agent(policies::ESP_HOME_AGENT)?;
    let mobile_node = lab.start_mobile_node(&net.host, policies::ESP_HOST)?;
    protected_registration(&mut foreign, CARE_OF, GUEST, SPIS, FIRST_REGISTRATION)?;
    lab.wait_for_router(&net.guest)?;

    let mut slowest = Duration::ZERO;
    let mut repaired = 0;
    for (node, daemon) in [(&net.host, &mobile_node), (&net.ha, &home_agent)] {
        for object in objects(node)? {
            node.ip(&object.deletion)?;
            let deleted = Instant::now();
            while !object.is_there(node)? {
                ensure(deleted.elapsed() < REPAIR, || {
                    format!(
                        "{} has not put back within {REPAIR:?}: {}\n{}",
                        node.name(),
                        object.deletion,
                        daemon.tail()
                    )
                })?;
                std::thread::sleep(Duration::from_millis(2));
            }
            slowest = slowest.max(deleted.elapsed());
            repaired += 1;
        }
        ensure(daemon.log().contains("changed by others"), || "the repair is not in the log".into())?;
    }
    lab.step(&format!("{repaired} objects deleted and put back, the slowest after {} ms", slowest.as_millis()));
    ensure(repaired >= 14, || format!("only {repaired} objects found"))?;

    lab.step("the host moves: everything is as it was");
    let mut foreign2 = lab.watch(FOREIGN2)?;
    net.move_host()?;
    protected_registration(&mut foreign2, CARE_OF_AFTER_MOVE, GUEST, SPIS, SOON)?;
    lab.ping(&net.guest, CORRESPONDENT)?;
    lab.ping(&net.cn, GUEST)?;
    lab.end([mobile_node, home_agent])?;
    lab.no_readable_mobility_header()
}

/// An association or a policy, by the words of `ip xfrm`.
struct Object {
    kind: &'static str,
    /// First line of its dump, and for a policy the line with its direction.
    name: String,
    deletion: String,
}

impl Object {
    fn is_there(&self, node: &Node) -> Outcome<bool> {
        Ok(names(self.kind, &dump(self.kind, node)?).contains(&self.name))
    }
}

fn dump(kind: &str, node: &Node) -> Outcome<String> {
    match kind {
        "state" => node.command("ip", &["xfrm", "state", "list", "nokeys"]),
        _ => node.command("ip", &["xfrm", "policy", "list"]),
    }
}

/// The first two lines of each entry of a dump, without what changes.
fn names(kind: &str, dump: &str) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    let mut lines = dump.lines().peekable();
    while let Some(line) = lines.next() {
        if line.starts_with(char::is_whitespace) {
            continue;
        }
        let second = lines.peek().map(|line| line.trim()).unwrap_or_default();
        let second = match kind {
            "state" => second.split(" reqid").next().unwrap_or_default(),
            _ => second,
        };
        names.push(format!("{} {second}", line.trim()));
    }
    names
}

/// What is deleted: all but policies of sockets.
fn objects(node: &Node) -> Outcome<Vec<Object>> {
    let mut objects = Vec::new();
    for kind in ["state", "policy"] {
        for name in names(kind, &dump(kind, node)?) {
            if name.contains("socket") {
                continue;
            }
            let words: Vec<&str> = name.split_whitespace().collect();
            let deletion = match kind {
                "state" => {
                    let spi = words.iter().position(|word| *word == "spi").and_then(|at| words.get(at + 1));
                    let spi = spi.map(|spi| format!(" spi {spi}")).unwrap_or_default();
                    let [_, source, _, destination, _, protocol, ..] = words[..] else { continue };
                    format!("xfrm state delete src {source} dst {destination} proto {protocol}{spi}")
                }
                _ => {
                    let direction = words.iter().position(|word| *word == "dir").and_then(|at| words.get(at + 1));
                    let selector: Vec<_> = words.iter().take_while(|word| **word != "dir").copied().collect();
                    let selector = selector.join(" ").replace("mobility-header", "135");
                    format!("xfrm policy delete dir {} {selector}", direction.copied().unwrap_or("out"))
                }
            };
            objects.push(Object { kind, name, deletion });
        }
    }
    Ok(objects)
}
