//! See `README.md`.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use crate::failure::{Failure, While};
use crate::node::Node;
use crate::prelude::*;

pub(crate) const SCENARIO: Scenario =
    Scenario { name: "control-socket", readme: include_str!("README.md"), peer: Peer::None, well_formed: true, run };

fn run(lab: &Lab) -> Outcome {
    let net = &lab.net;
    let mut foreign = lab.watch(FOREIGN)?;
    let home_agent = lab.start_home_agent(policies::ESP_HOME_AGENT)?;
    let mobile_node = lab.start_mobile_node(&net.host, policies::ESP_HOST_12S)?;
    protected_registration(&mut foreign, CARE_OF, GUEST, SPIS, FIRST_REGISTRATION)?;
    lab.wait_for_router(&net.guest)?;
    lab.ping(&net.cn, GUEST)?;

    shows_all_but_keys(lab)?;
    commands(lab)?;
    sequences(lab)?;
    bad_company(lab)?;

    lab.end([mobile_node, home_agent])?;
    lab.no_readable_mobility_header()
}

fn shows_all_but_keys(lab: &Lab) -> Outcome {
    let net = &lab.net;
    lab.step("status of both sides, for people and for programs");
    lab.wait_for_status(&net.host, "vm1 2001:db8:2000::10: bound", SOON)?;
    lab.wait_for_status(&net.ha, "vm1 2001:db8:2000::10: bound", SOON)?;
    let mut all = String::new();
    for node in [&net.host, &net.ha] {
        let text = lab.command(node, &["status"])?;
        for expected in ["spi 0x3e8 reqid 1, aes-cbc, hmac-sha256-128, sequence number", "2001:db8:3000::3, bound for"]
        {
            ensure(text.contains(expected), || format!("no {expected:?} in the status of {}:\n{text}", node.name()))?;
        }
        all.push_str(&text);
        let json = lab.command(node, &["status", "--json"])?;
        let value: serde_json::Value = serde_json::from_str(&json).during(|| "status --json".into())?;
        ensure(value["guests"][0]["state"] == "bound", || format!("status --json: {json}"))?;
        all.push_str(&json);
        all.push_str(&lab.command(node, &["sa", "export"])?);
    }
    for entry in std::fs::read_dir(lab.directory.join("keys")).during(|| "keys".into())?.flatten() {
        let key = std::fs::read_to_string(entry.path()).during(|| "a key".into())?;
        let key = key.trim().trim_start_matches("0x");
        ensure(key.len() >= 32 && !all.contains(key), || format!("the key {} is shown", entry.path().display()))?;
    }
    Ok(())
}

fn commands(lab: &Lab) -> Outcome {
    let net = &lab.net;
    lab.step("detach: no refresh and no de-registration; attach: registered again");
    lab.command(&net.host, &["detach", "vm1"])?;
    let silent = lab.watch(FOREIGN)?;
    lab.wait_for_status(&net.host, "vm1 2001:db8:2000::10: departed (detached)", SOON)?;
    std::thread::sleep(QUIET);
    silent.must_not_have_seen("a binding update after detach", |packet| {
        is_protected_update(packet, CARE_OF, GUEST, SPIS.0)
    })?;
    lab.wait_for_status(&net.ha, "vm1 2001:db8:2000::10: bound", SOON)?;
    let mut foreign = lab.watch(FOREIGN)?;
    lab.command(&net.host, &["prepare", "vm1"])?;
    // The guest goes on asking for a router, and is seen.
    protected_registration(&mut foreign, CARE_OF, GUEST, SPIS, SOON).or_else(|_| {
        lab.command(&net.host, &["attach", "vm1"])?;
        protected_registration(&mut foreign, CARE_OF, GUEST, SPIS, SOON)
    })?;
    lab.wait_for_status(&net.host, "vm1 2001:db8:2000::10: bound", SOON)?;
    lab.ping_until_answered(&net.cn, GUEST, SOON)?;
    let refusal = lab.refused_command(&net.host, &["attach", "vm9"])?;
    ensure(refusal.contains("vm9") && refusal.contains("vm1"), || format!("attach vm9: {refusal}"))?;
    let refusal = lab.refused_command(&net.ha, &["attach", "vm1"])?;
    ensure(refusal.contains("home agent"), || format!("attach at the home agent: {refusal}"))
}

/// What is wrong, how an export is made so, and what the refusal says of it.
type Damage = (&'static str, fn(&mut serde_json::Value), &'static str);

fn sequences(lab: &Lab) -> Outcome {
    let host = &lab.net.host;
    lab.step("sequence numbers: exported, imported again, and refused when they go backwards");
    let file = lab.directory.join("sequences.json");
    let path = file.to_string_lossy().into_owned();
    // A binding update in between makes the export an older one, rightly refused.
    wait_until("an export that is imported again", SOON, || {
        lab.command(host, &["sa", "export", "--output", &path])?;
        Ok(host.try_command(&lab.kagemusha.to_string_lossy(), &["sa", "import", &path])?.status.success())
    })?;
    let text = std::fs::read_to_string(&file).during(|| path.clone())?;
    let mut value: serde_json::Value = serde_json::from_str(&text).during(|| "sa export".into())?;
    let outbound = value["guests"][0]["associations"].as_array().into_iter().flatten();
    let number = outbound.filter_map(|sa| sa["sequence"].as_u64()).max().unwrap_or_default();
    ensure(number > 1_000_000, || format!("the outbound SA is not at the clock's number: {text}"))?;
    let changes: [Damage; 3] = [
        ("an older number", |v| v["guests"][0]["associations"][0]["sequence"] = 1.into(), "go back"),
        ("an unknown SA", |v| v["guests"][0]["associations"][0]["spi"] = 999.into(), "not in this host's policy"),
        (
            "an unknown guest",
            |v| v["guests"][0]["home_address"] = "2001:db8:2000::99".into(),
            "not in this host's policy",
        ),
    ];
    for (what, change, expected) in changes {
        let mut changed = value.clone();
        // All else would move on: nothing of it may.
        changed["guests"][0]["binding_update"] = 30_000.into();
        change(&mut changed);
        std::fs::write(&file, changed.to_string()).during(|| path.clone())?;
        let refusal = lab.refused_command(host, &["sa", "import", &path])?;
        ensure(refusal.contains(expected), || format!("{what}: {refusal}"))?;
    }
    let status = lab.command(host, &["status"])?;
    ensure(!status.contains("sequence number 30000"), || format!("half of an import was taken:\n{status}"))?;

    lab.step("numbers far ahead are taken, and the home agent accepts what goes on from there");
    if let Some(associations) = value["guests"][0]["associations"].as_array_mut() {
        for sa in associations.iter_mut().filter(|sa| sa["sequence"].as_u64() == Some(number)) {
            sa["sequence"] = (number + 5_000).into();
        }
    }
    std::fs::write(&file, value.to_string()).during(|| path.clone())?;
    let mut foreign = lab.watch(FOREIGN)?;
    lab.command(host, &["sa", "import", &path])?;
    protected_registration(&mut foreign, CARE_OF, GUEST, SPIS, FIRST_REGISTRATION)?;
    let status = lab.command(host, &["status", "--json"])?;
    let status: serde_json::Value = serde_json::from_str(&status).during(|| "status --json".into())?;
    let associations = status["guests"][0]["associations"].as_array().into_iter().flatten();
    let out = associations.filter(|sa| sa["direction"] == "out").filter_map(|sa| sa["sequence"].as_u64()).max();
    ensure(out > Some(number + 5_000), || format!("not gone on: {status}"))
}

fn bad_company(lab: &Lab) -> Outcome {
    let net = &lab.net;
    let path = socket(&net.host)?;
    lab.step("a user that may not ask hears nothing, even where the directory would let it");
    let (open, text) = (path.clone(), path.display().to_string());
    net.host.run(move || -> Outcome {
        let mode = std::fs::metadata(&open).during(|| "the socket".into())?.permissions().mode() & 0o777;
        ensure(mode == 0o600, || format!("the socket has mode {mode:o}"))?;
        std::fs::set_permissions(&open, PermissionsExt::from_mode(0o666)).during(|| "the socket".into())?;
        let directory = open.parent().map(std::path::Path::to_owned).unwrap_or_default();
        std::fs::set_permissions(directory, PermissionsExt::from_mode(0o755)).during(|| "its directory".into())
    })??;
    let program = lab.kagemusha.to_string_lossy().into_owned();
    let output = net
        .host
        .try_command("setpriv", &["--reuid", "65534", "--clear-groups", &program, "status", "--socket", &text])?;
    ensure(!output.status.success() && output.stdout.is_empty(), || "another user was answered".into())?;

    lab.step("clients that are silent, deaf, or talk nonsense without end");
    let mut foreign = lab.watch(FOREIGN)?;
    let company = path.clone();
    let clients = net.host.run(move || -> Outcome<Vec<UnixStream>> {
        let connect = || UnixStream::connect(&company).during(|| "the socket".into());
        let mut clients = (0..6).map(|_| connect()).collect::<Outcome<Vec<_>>>()?;
        for _ in 0..4 {
            let mut deaf = connect()?;
            deaf.write_all(b"{\"request\":\"watch\"}\n").during(|| "watch".into())?;
            clients.push(deaf);
        }
        Ok(clients)
    })??;
    net.host.run(move || {
        for _ in 0..20 {
            if let Ok(mut stream) = UnixStream::connect(&path) {
                let _ = stream.set_write_timeout(Some(Duration::from_millis(200)));
                let _ = (0..64).try_for_each(|_| stream.write_all(&[b'['; 65_536]));
                let _ = stream.write_all(b"\n");
                let _ = stream.set_read_timeout(Some(Duration::from_millis(200)));
                let _ = stream.read(&mut [0; 4096]);
            }
        }
    })?;
    protected_registration(&mut foreign, CARE_OF, GUEST, SPIS, FIRST_REGISTRATION)?;
    lab.ping(&net.cn, GUEST)?;
    lab.wait_for_status(&net.host, "vm1 2001:db8:2000::10: bound", SOON)?;
    drop(clients);
    Ok(())
}

/// The control socket of the daemon in a node.
fn socket(node: &Node) -> Outcome<PathBuf> {
    let found = node.run(|| {
        let entries = std::fs::read_dir("/run/kagemusha")?;
        Ok::<_, std::io::Error>(entries.flatten().map(|entry| entry.path()).find(|path| path.extension().is_some()))
    })??;
    found.ok_or_else(|| Failure::new("no control socket"))
}
