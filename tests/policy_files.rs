//! Policy files as people write them: the reference policies of `policies/`, the good ones of `tests/policies/good/`, and one bad
//! one for each mistake in `tests/policies/bad/`, whose message is a snapshot in `tests/policies/snapshots/`.
//!
//! After a change of messages: `INSTA_UPDATE=always cargo test --test policy_files`, and read the difference.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

use std::collections::BTreeMap;
use std::net::Ipv6Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kagemusha::ipsec::{Encryption, Esp, Integrity, SecretKey, Transform};
use kagemusha::policy::{
    self, KeyError, KeySource, Policy, Port, Protection, Report, Role, RouterPolicy, UplinkPolicy, parse_key_text,
};

/// Keys by the name of their file: what can be wrong with one, or a key of the right length that is another for each path.
struct Keys;

impl KeySource for Keys {
    fn read_key(&self, path: &Path) -> Result<SecretKey, KeyError> {
        let name = path.file_name().unwrap().to_string_lossy();
        let stem = name.split('.').next().unwrap();
        match stem {
            "missing" => return Err(KeyError::Missing),
            "directory" => return Err(KeyError::NotRegular),
            "readable" => return Err(KeyError::Permissive { mode: 0o644 }),
            "foreign" => return Err(KeyError::ForeignOwner { owner: 1001, expected: 1000 }),
            "unreadable" => return Err(KeyError::Unreadable("Permission denied (os error 13)".to_owned())),
            "large" => return Err(KeyError::TooLarge { limit: 1024 }),
            "empty" => return Ok(parse_key_text(b"0x\n")?),
            "odd" => return Ok(parse_key_text(b"0x00010\n")?),
            "base64" => return Ok(parse_key_text(b"AAECAwQFBgc=\n")?),
            _ => {}
        }
        let length = match (stem, name.rsplit('.').next().unwrap()) {
            ("short", _) => 15,
            ("saltless", _) => 16,
            ("sha1", _) | (_, "sha1") => 20,
            (_, "gcm") => 36,
            (_, "3des") => 24,
            (_, "md5") => 16,
            (_, "sha384") => 48,
            (_, "sha512") => 64,
            (_, "des") => 8,
            _ => 32,
        };
        Ok(SecretKey::new(key_octets(if stem.starts_with("copy-") { "copy" } else { &name }, length)))
    }

    fn host_name(&self) -> Option<String> {
        Some("host-a".to_owned())
    }
}

/// Octets that only this name has, and that no other text has.
fn key_octets(name: &str, length: usize) -> Vec<u8> {
    let mut state: u32 =
        name.bytes().fold(0x811c_9dc5, |hash, octet| (hash ^ u32::from(octet)).wrapping_mul(0x0100_0193));
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    (0..length).map(|_| next()).collect()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(file: &str) -> String {
    std::fs::read_to_string(root().join(file)).unwrap()
}

/// The role that a file is for, by its name.
fn role_of_file(file: &str) -> Role {
    let name = file.rsplit('/').next().unwrap();
    if name.starts_with("home-agent") { Role::HomeAgent } else { Role::MobileNode }
}

fn try_load(file: &str) -> Result<Policy, Report> {
    match role_of_file(file) {
        Role::HomeAgent => policy::load_home_agent(file, &read(file), &Keys),
        Role::MobileNode => policy::load_mobile_node(file, &read(file), &Keys),
    }
}

fn load(file: &str) -> Policy {
    assert_eq!(policy::role_of(&read(file)), role_of_file(file), "{file}");
    try_load(file).unwrap_or_else(|report| panic!("{report}"))
}

/// The TOML files of a directory, relative to the root of the package.
fn files(directory: &str) -> Vec<String> {
    let entries = std::fs::read_dir(root().join(directory)).unwrap();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    files.sort();
    files.iter().map(|path| path.strip_prefix(root()).unwrap().to_string_lossy().into_owned()).collect()
}

fn snapshots() -> insta::Settings {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("policies/snapshots");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings
}

#[test]
fn every_mistake_has_its_own_message() {
    let files = files("tests/policies/bad");
    assert!(files.len() >= 30);
    let mut seen: BTreeMap<Vec<String>, &String> = BTreeMap::new();
    for file in &files {
        let report = try_load(file).map(|_| ()).expect_err(file);
        let text = report.to_string();
        assert!(!report.diagnostics().is_empty());
        for one in report.diagnostics() {
            assert_eq!(one.file(), file);
            let place = format!("{file}:{}:{}", one.line(), one.column());
            assert!(text.contains(&place), "{place} is not in\n{text}");
            let line = read(file).lines().count();
            assert!((1..=line.max(1)).contains(&one.line()), "{place}");
            assert!(one.help.as_ref().is_some_and(|help| !help.is_empty()), "no help in\n{text}");
        }
        // The words themselves, without the name of the file and the quoted source, which differ anyway.
        let words: Vec<String> = report.diagnostics().iter().map(ToString::to_string).collect();
        if let Some(other) = seen.insert(words, file) {
            panic!("{file} and {other} have the same message:\n{text}");
        }
        assert!(!text.contains("000102030405060708090a0b0c0d0e0f") && !text.contains("Zm9y"), "a key in\n{text}");
        let name = Path::new(file).file_stem().unwrap().to_string_lossy().into_owned();
        snapshots().bind(|| insta::assert_snapshot!(name, text));
    }
}

#[test]
fn many_mistakes_are_told_at_once() {
    let report = try_load("tests/policies/bad/many-mistakes.toml").unwrap_err();
    let keys: Vec<&str> = report.diagnostics().iter().map(|one| one.key.as_str()).collect();
    assert_eq!(
        keys,
        [
            "home_agent.address",
            "guest.vm1.mac",
            "guest.vm1.protect.home-registration.reqid.to_guest",
            "guest.vm1.security_association[0].spi",
            "guest.vm1.security_association[1].encryption.key_file",
        ]
    );
}

#[test]
fn good_files_load() {
    let mut warnings = String::new();
    for file in files("tests/policies/good").iter().chain(&files("policies")) {
        for warning in &load(file).warnings {
            warnings.push_str(&format!("{warning}\n"));
        }
    }
    snapshots().bind(|| insta::assert_snapshot!("warnings-of-good-files", warnings));
}

#[test]
fn both_sides_have_the_same_security_associations() {
    let host = load("policies/ha.toml");
    let home_agent = load("policies/home-agent.toml");
    let [there, back] = host.guests[0].protection.associations() else { panic!("{host:?}") };
    let [there_too, back_too] = home_agent.guests[0].protection.associations() else { panic!("{home_agent:?}") };
    assert_eq!((there.key, back.key), (there_too.key, back_too.key));
    let (agent, home): (Ipv6Addr, Ipv6Addr) =
        ("2001:db8:2000::1".parse().unwrap(), "2001:db8:2000::10".parse().unwrap());
    assert_eq!((there.key.source, there.key.destination, there.key.protocol, there.key.spi), (home, agent, 50, 0x3e8));
    assert_eq!((back.key.source, back.key.destination, back.key.protocol, back.key.spi), (agent, home, 50, 0x3e9));
    let parts = |transform: &Transform| match transform.clone() {
        Transform::Esp(Esp { reqid, encryption, integrity, replay_window, .. }) => {
            assert_eq!(encryption.0, Encryption::AesCbc);
            assert_eq!(integrity.as_ref().unwrap().0, Integrity::HmacSha256);
            (reqid, replay_window, encryption.1, integrity.unwrap().1)
        }
        other => panic!("{other:?}"),
    };
    let [there, back, there_too, back_too] = [there, back, there_too, back_too].map(|one| parts(&one.transform));
    assert_eq!((&there.2, &there.3), (&there_too.2, &there_too.3));
    assert_eq!((&back.2, &back.3), (&back_too.2, &back_too.3));
    // The window is the receiver's: of acknowledgements the host, of updates the home agent.
    assert_eq!([there.0, back.0, there_too.0, back_too.0], [1, 2, 1, 2]);
    assert_eq!([there.1, back.1, there_too.1, back_too.1], [0, 32, 32, 0]);
    assert_eq!(there.2.expose(), key_octets("vm1-to-ha.enc", 32));
}

#[test]
fn both_sides_name_the_same_key_files() {
    let names = |file: &str| {
        let files = policy::key_files(role_of_file(file), file, &read(file)).unwrap();
        files.into_iter().map(|key| (key.path, key.octets)).collect::<Vec<_>>()
    };
    assert_eq!(names("policies/ha.toml"), names("policies/home-agent.toml"));
    assert_eq!(names("policies/ha.toml")[0], (PathBuf::from("policies/keys/vm1-to-ha.enc"), 32));
    // Key files are not read for their names.
    assert_eq!(
        names("tests/policies/bad/key-file-missing.toml")[0].0,
        Path::new("tests/policies/bad/keys/missing.enc")
    );
    assert_eq!(names("tests/policies/good/aes-gcm.toml")[0].1, 36);
}

#[test]
fn every_field_arrives() {
    let policy = load("tests/policies/good/everything.toml");
    assert!(policy.home_agent.key_management_mobility);
    let care_of_address = Some("2001:db8:3000::3".parse().unwrap());
    assert_eq!(policy.uplink, UplinkPolicy { interface: Some("eth0".to_owned()), care_of_address });
    let guest = &policy.guests[0];
    assert_eq!(guest.lifetime, Duration::from_secs(120));
    let attachment = guest.attachment.as_ref().unwrap();
    assert_eq!(attachment.port, Port::Tap("tap0".to_owned()));
    let router = RouterPolicy {
        link_local: "fe80::2:1".parse().unwrap(),
        mac: "02:00:00:00:00:01".parse().unwrap(),
        autonomous: true,
    };
    assert_eq!(attachment.router, router);
    // To the home agent first, whatever the order in the file.
    let spis: Vec<u32> = guest.protection.associations().iter().map(|one| one.key.spi).collect();
    assert_eq!(spis, [0x3e8, 0x3e9]);

    let policy = load("tests/policies/good/home-agent-everything.toml");
    assert_eq!(policy.home_agent.interface.as_deref(), Some("eth0"));
    assert_eq!(policy.home_agent.maximum_lifetime, Duration::from_secs(420));
    assert!(!policy.home_agent.detect_duplicates && policy.guests[0].attachment.is_none());

    let policy = load("tests/policies/good/home-agent-two-hosts.toml");
    let spis: Vec<u32> = policy.guests[0].protection.associations().iter().map(|one| one.key.spi).collect();
    assert_eq!(spis, [0x3e8, 0x3ea, 0x3e9]);

    let policy = load("tests/policies/good/many-guests.toml");
    assert_eq!(policy.guests[2].protection, Protection::NONE);
}

#[test]
fn policies_are_shown_without_keys() {
    let shown: Vec<String> = ["policies/ha.toml", "policies/home-agent.toml", "tests/policies/good/everything.toml"]
        .iter()
        .map(|file| format!("## {file}\n{}", kagemusha::cli::policy::show(&load(file))))
        .collect();
    snapshots().bind(|| insta::assert_snapshot!("shown-policies", shown.join("\n")));
}

/// Many guests take no long time, and many mistakes no long message.
#[test]
fn a_thousand_guests() {
    let mut text = "[home_agent]\naddress = \"2001:db8:2000::1\"\nhome_link = \"2001:db8:2000::/64\"\n".to_owned();
    let guest = read("policies/ha.toml").split_once("\n[[guest]]").unwrap().1.to_owned();
    for n in 0..1000 {
        let guest = guest.replace("vm1", &format!("vm{n}")).replace("2000::10", &format!("2000::1:{n:x}"));
        let guest = guest.replace("00:00:10", &format!("{:02x}:{:02x}:10", n / 256, n % 256));
        text.push_str(&format!("[[guest]]{}", guest.replace("0x3e8", &(1000 + n).to_string())));
    }
    let policy = policy::load_mobile_node("any.toml", &text, &Keys).unwrap_or_else(|report| panic!("{report}"));
    assert_eq!(policy.guests.len(), 1000);
    let report = policy::load_mobile_node("any.toml", &text.replace("keys/", "keys/missing."), &Keys).unwrap_err();
    assert_eq!(report.diagnostics().len(), 4000);
    let shown = report.to_string();
    assert!(shown.ends_with("  … and 3980 more\n") && shown.lines().count() < 300, "{shown}");
}

/// A whole policy in `Debug`, and all its warnings, hold no four octets of any of its keys.
#[test]
fn no_key_in_debug() {
    for file in files("tests/policies/good") {
        let policy = load(&file);
        let shown = format!("{policy:?} {policy:#?}").to_lowercase();
        for association in policy.guests.iter().flat_map(|guest| guest.protection.associations()) {
            let Transform::Esp(Esp { encryption, integrity, .. }) = &association.transform else { panic!("{file}") };
            for key in [Some(&encryption.1), integrity.as_ref().map(|(_, key)| key)].into_iter().flatten() {
                for four in key.expose().windows(4) {
                    let hexadecimal: String = four.iter().map(|octet| format!("{octet:02x}")).collect();
                    let decimal = format!("{}, {}, {}, {}", four[0], four[1], four[2], four[3]);
                    let lines = format!("{},\n", four[0]);
                    assert!(!shown.contains(&hexadecimal) && !shown.contains(&decimal), "{file}: a key is shown");
                    assert!(!shown.lines().any(|line| line.trim() == lines.trim()), "{file}: a key is shown by lines");
                }
            }
        }
    }
}
