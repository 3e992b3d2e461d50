//! The arrows between the layers (`ARCHITECTURE.md`), and what the pure ones may not touch.

use super::source::{NamedPath, Source, find_words, line_of, paths};

/// A layer, and those it may know.
const LAYERS: [(&str, &[&str]); 10] = [
    ("vocabulary", &[]),
    ("wire", &["vocabulary"]),
    ("ipsec", &["wire", "vocabulary"]),
    ("policy", &["ipsec", "wire", "vocabulary"]),
    ("signaling", BELOW_ENGINES),
    ("home_network", BELOW_ENGINES),
    ("tunnel", BELOW_ENGINES),
    ("kernel_state", BELOW_ENGINES),
    ("daemon", &["signaling", "home_network", "tunnel", "kernel_state", "policy", "ipsec", "wire", "vocabulary"]),
    (
        "cli",
        &["daemon", "signaling", "home_network", "tunnel", "kernel_state", "policy", "ipsec", "wire", "vocabulary"],
    ),
];

const BELOW_ENGINES: &[&str] = &["policy", "ipsec", "wire", "vocabulary"];

/// The layers that may do I/O.
const SHELL: [&str; 2] = ["daemon", "cli"];

/// Crates that no pure layer may name.
const IMPURE_CRATES: [&str; 13] = [
    "tokio",
    "nix",
    "libc",
    "rand",
    "getrandom",
    "ring",
    "socket2",
    "futures",
    "rtnetlink",
    "netlink_sys",
    "netlink_packet_core",
    "netlink_packet_route",
    "netlink_packet_xfrm",
];

/// Modules and items of the standard library that no pure layer may name.
const IMPURE_STD: [&[&str]; 11] = [
    &["std", "fs"],
    &["std", "io"],
    &["std", "env"],
    &["std", "process"],
    &["std", "thread"],
    &["std", "os"],
    &["std", "net", "UdpSocket"],
    &["std", "net", "TcpStream"],
    &["std", "net", "TcpListener"],
    &["std", "net", "ToSocketAddrs"],
    &["std", "time", "SystemTime"],
];

/// Names that give a clock away however they were imported.
const CLOCKS: [&str; 3] = ["Instant::now", "SystemTime::now", "SystemTime::UNIX_EPOCH"];

/// The modules of the path `src/a/b.rs`: `["a", "b"]`. Empty for the crate's root.
fn modules(path: &str) -> Vec<&str> {
    let inner = path.trim_start_matches("src/").trim_end_matches(".rs");
    let mut modules: Vec<&str> = inner.split('/').collect();
    if matches!(modules.last(), Some(&("mod" | "lib" | "main"))) {
        modules.pop();
    }
    modules
}

fn layer_named(named: &NamedPath, modules: &[&str]) -> Option<String> {
    let segments = &named.segments;
    match segments.first()?.as_str() {
        "crate" | "kagemusha" => segments.get(1).cloned(),
        "super" => {
            let supers = segments.iter().take_while(|segment| *segment == "super").count();
            if supers == modules.len() { segments.get(supers).cloned() } else { None }
        }
        _ => None,
    }
}

/// Edges that the map does not have. Tests are code as well: what needs two engines belongs into `tests/`.
pub(crate) fn arrows(source: &Source) -> Vec<(usize, String)> {
    let modules = modules(&source.path);
    let Some(layer) = modules.first() else { return Vec::new() };
    let Some((_, allowed)) = LAYERS.iter().find(|(name, _)| name == layer) else {
        return vec![(
            1,
            format!("`{layer}` is not a layer: ARCHITECTURE.md and tests/tidy_rules/layers.rs must know it"),
        )];
    };
    let mut wrong = Vec::new();
    for named in paths(&source.code) {
        let Some(other) = layer_named(&named, &modules) else { continue };
        if other == *layer || allowed.contains(&other.as_str()) {
            continue;
        }
        wrong.push((
            named.line,
            format!("layer `{layer}` may not know `{other}`, but names {}", named.segments.join("::")),
        ));
    }
    wrong
}

fn impure(named: &NamedPath, layer: &str) -> bool {
    let segments: Vec<&str> = named.segments.iter().map(String::as_str).collect();
    let digests = ["ipsec", "policy"].contains(&layer)
        && matches!(segments[..], ["ring", "digest" | "hmac" | "constant_time", ..]);
    if digests {
        return false;
    }
    let standard = IMPURE_STD.iter().any(|item| segments.starts_with(item));
    let glob = matches!(segments[..], ["std", "*"] | ["std", "net" | "time", "*"]);
    IMPURE_CRATES.contains(&segments[0]) || standard || glob
}

/// I/O, clocks, randomness and async in a pure layer. Tests may do as they like.
pub(crate) fn purity(source: &Source) -> Vec<(usize, String)> {
    let modules = modules(&source.path);
    let Some(layer) = modules.first().filter(|layer| !SHELL.contains(layer)) else { return Vec::new() };
    let code = &source.production;
    let mut wrong = Vec::new();
    for named in paths(code) {
        if impure(&named, layer) {
            wrong.push((named.line, format!("the pure layer `{layer}` may not name {}", named.segments.join("::"))));
        }
    }
    for word in ["async", "await"].iter().chain(&CLOCKS) {
        let lines = find_words(code, word).map(|at| line_of(code, at));
        wrong.extend(lines.map(|line| (line, format!("the pure layer `{layer}` may not use {word}"))));
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(rule: fn(&Source) -> Vec<(usize, String)>, path: &str, text: &str) -> usize {
        rule(&Source::new(path, text)).len()
    }

    #[test]
    fn forbidden_arrows_are_found() {
        for (path, text) in [
            ("src/vocabulary/link.rs", "use crate::wire::Error;"),
            ("src/wire/ipv6.rs", "use crate::{vocabulary::Prefix, policy::Policy};"),
            ("src/ipsec/mod.rs", "use crate::policy::Policy;"),
            ("src/signaling/mobile_node.rs", "use crate::tunnel::Table;"),
            ("src/tunnel/table.rs", "fn f(x: crate::home_network::Guest) {}"),
            ("src/kernel_state/diff.rs", "use super::super::signaling::MobileNode;"),
            ("src/kernel_state/mod.rs", "use super::daemon::netlink;"),
            ("src/policy/mod.rs", "use kagemusha::kernel_state::compile;"),
            ("src/daemon/mod.rs", "use crate::cli::run;"),
            ("src/tunnel/table.rs", "#[cfg(test)]\nmod tests { use crate::signaling::Output; }"),
            ("src/attic/mod.rs", "fn f() {}"),
        ] {
            assert_eq!(count(arrows, path, text), 1, "{path}: {text}");
        }
        for (path, text) in [
            ("src/policy/mod.rs", "use crate::{ipsec::Selector, wire::ipv6, vocabulary::Prefix};"),
            ("src/tunnel/mod.rs", "use crate::tunnel::table; use super::wire::tunnel;"),
            (
                "src/signaling/mobile_node.rs",
                "use super::home_network; // crate::tunnel\nlet x = \"crate::tunnel::y\";",
            ),
            ("src/cli/mod.rs", "use crate::daemon::run;"),
            ("src/main.rs", "use kagemusha::cli;"),
        ] {
            assert_eq!(count(arrows, path, text), 0, "{path}: {text}");
        }
    }

    #[test]
    fn input_and_output_in_a_pure_layer_are_found() {
        for text in [
            "use std::fs;",
            "use std::{net::{Ipv6Addr, UdpSocket}};",
            "fn f() { std::fs::read(p); }",
            "use std::time::{Duration, SystemTime};",
            "fn f() { Instant::now() }",
            "use tokio::sync::mpsc;",
            "use nix::sys::socket;",
            "fn f() -> libc::c_int { 0 }",
            "use ring::rand::SystemRandom;",
            "use netlink_sys::Socket;",
            "async fn f() {}",
            "use std::*;",
        ] {
            assert_eq!(count(purity, "src/policy/mod.rs", text), 1, "{text}");
            assert_eq!(count(purity, "src/daemon/mod.rs", text), 0, "{text}");
        }
        for text in [
            "use std::net::Ipv6Addr; use std::time::{Duration, Instant};",
            "use ring::digest;",
            "#[cfg(test)]\nmod tests { fn now() { std::time::Instant::now() } }",
            "fn f() {} // tokio::spawn",
        ] {
            assert_eq!(count(purity, "src/policy/mod.rs", text), 0, "{text}");
        }
        assert_eq!(count(purity, "src/wire/mod.rs", "use ring::digest;"), 1);
    }
}
