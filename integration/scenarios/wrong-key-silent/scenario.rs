//! See `README.md`.

use crate::prelude::*;

pub(crate) const SCENARIO: Scenario =
    // Not for tshark: it has both keys of the same SPI.
    Scenario {
        name: "wrong-key-silent",
        readme: include_str!("README.md"),
        peer: Peer::None,
        well_formed: false,
        run,
    };

fn run(lab: &Lab) -> Outcome {
    let net = &lab.net;
    let mut foreign = lab.watch(FOREIGN)?;
    let whole_foreign = foreign.clone();
    let home_agent = lab.start_home_agent(policies::ESP_HOME_AGENT)?;
    let other_key = policies::ESP_HOST.replace("keys/vm1-to-ha.auth", "keys/another.auth");
    let mobile_node = lab.start_mobile_node(&net.host, &other_key)?;

    let update = |packet: &Packet| is_protected_update(packet, CARE_OF, GUEST, SPIS.0);
    let mut times = Vec::new();
    for attempt in 1..=3 {
        lab.step(&format!("binding update {attempt}"));
        times.push(foreign.must_see("a protected binding update", FIRST_REGISTRATION, update)?.time);
    }
    let gaps: Vec<f64> = times.windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64()).collect();
    // A slow machine sends the first one late, which makes the first time shorter (RFC 6275 §11.8: 1.5 s, then twice as long).
    ensure(gaps[1] > 2.0 && gaps[1] > 1.5 * gaps[0], || format!("repeated after {gaps:.2?} s"))?;
    let errors = net.ha.read("/proc/thread-self/net/xfrm_stat")?;
    ensure(
        errors.lines().any(|line| line.starts_with("XfrmInStateProtoError") && !line.trim_end().ends_with("\t0")),
        || format!("the home agent's kernel has refused nothing:\n{errors}"),
    )?;

    // It cannot de-register either, and has to end all the same.
    lab.end([mobile_node, home_agent])?;
    whole_foreign.must_not_have_seen("an answer of the home agent", |packet| {
        packet.addresses().next().is_some_and(|(source, _)| source == HOME_AGENT)
    })?;
    whole_foreign.must_not_have_seen("data in the tunnel", |packet| packet.addresses().count() > 1)?;
    lab.no_readable_mobility_header()
}
