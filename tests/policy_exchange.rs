//! Policies from and to what other implementations are configured with: the files of `tests/data/exchange/`, bad ones in
//! `tests/exchange/bad/` with their messages as snapshots, and random policies that go out and come back.
//!
//! After a change of messages: `INSTA_UPDATE=always cargo test --test policy_exchange`, and read the difference.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

use std::collections::HashMap;
use std::net::Ipv6Addr;
use std::path::{Path, PathBuf};

use kagemusha::ipsec::{Encryption, Esp, Integrity, SecretKey, Transform};
use kagemusha::policy::exchange::{self, ExportError, Format, GuestDetails, Import, Imported, Side};
use kagemusha::policy::{self, KeyError, KeySource, Policy, Report, Role};
use proptest::prelude::*;

fn read(file: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap()
}

fn data(name: &str) -> String {
    read(&format!("tests/data/exchange/{name}"))
}

fn snapshots() -> insta::Settings {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("exchange/snapshots");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings
}

/// Keys by the path of their file.
#[derive(Default)]
struct Keys(HashMap<PathBuf, SecretKey>);

impl KeySource for Keys {
    fn read_key(&self, path: &Path) -> Result<SecretKey, KeyError> {
        self.0.get(path).cloned().ok_or(KeyError::Missing)
    }
}

fn details(role: Role) -> Import {
    Import {
        role,
        home_agent: None,
        home_link: None,
        interface: None,
        host: Some("host-a".to_owned()),
        guests: Vec::new(),
    }
}

fn guest(address: &str, name: &str, n: usize) -> GuestDetails {
    GuestDetails {
        home_address: address.parse().unwrap(),
        name: Some(name.to_owned()),
        mac: Some(format!("52:54:00:00:01:{n:02x}")),
        port: Some(("bridge", "br-home".to_owned())),
    }
}

fn load(role: Role, imported: &Imported) -> Policy {
    let keys = Keys(imported.keys.iter().cloned().collect());
    let load = if role == Role::HomeAgent { policy::load_home_agent } else { policy::load_mobile_node };
    load("imported.toml", &imported.text, &keys).unwrap_or_else(|report| panic!("{report}\n{}", imported.text))
}

fn merged(sides: impl IntoIterator<Item = Result<Side, Report>>) -> Side {
    let mut all = Side::default();
    for side in sides {
        all.merge(side.unwrap_or_else(|report| panic!("{report}")));
    }
    all
}

fn setkey_side() -> Side {
    merged([
        exchange::parse_mip6d("umip-ha.conf", &data("umip-ha.conf")),
        exchange::parse_setkey("sa.conf", &data("sa.conf")),
    ])
}

#[test]
fn the_reference_home_agent_becomes_a_policy() {
    let address = "2001:db8:2000::10";
    let with_guest = Import { guests: vec![guest(address, "vm1", 1)], ..details(Role::MobileNode) };
    let imported = exchange::import(&setkey_side(), &with_guest).unwrap();
    assert!(imported.open.is_empty(), "{:?}", imported.open);
    snapshots().bind(|| insta::assert_snapshot!("umip-ha", imported.text));
    let policy = load(Role::MobileNode, &imported);
    let associations = policy.guests[0].protection.associations();
    assert_eq!(associations.iter().map(|one| one.key.spi).collect::<Vec<_>>(), [1000, 1001]);
    for one in associations {
        let Transform::Esp(Esp { encryption, integrity, .. }) = &one.transform else { panic!() };
        let octets: Vec<u8> = (0..20).collect();
        assert_eq!((encryption.0, encryption.1.expose()), (Encryption::AesCbc, &octets[..16]));
        assert_eq!(integrity.as_ref().map(|(one, key)| (*one, key.expose())), Some((Integrity::HmacSha1, &octets[..])));
    }
    // The same from the kernels of all three nodes, which tell the home agent by their Mobile IPv6 states.
    for state in ["ha-state.txt", "mn-state.txt", "host-state.txt"] {
        let side = merged([exchange::parse_xfrm(state, &data(state))]);
        let from_kernel = exchange::import(&side, &with_guest).unwrap_or_else(|report| panic!("{state}: {report}"));
        let from_kernel = load(Role::MobileNode, &from_kernel);
        assert_eq!(from_kernel.guests[0].protection, policy.guests[0].protection, "{state}");
        assert_eq!(exchange::compare(&setkey_side(), &side).differences, [], "{state}");
    }
}

#[test]
fn a_mobile_node_of_umip_becomes_a_policy_of_either_role() {
    let side = merged([
        exchange::parse_mip6d("umip-mn.conf", &data("umip-mn.conf")),
        exchange::parse_xfrm("mn-state.txt", &data("mn-state.txt")),
    ]);
    for role in [Role::MobileNode, Role::HomeAgent] {
        let details = Import { guests: vec![guest("2001:db8:2000::10", "vm1", 1)], ..details(role) };
        let policy = load(role, &exchange::import(&side, &details).unwrap());
        assert_eq!(policy.home_agent.address, "2001:db8:2000::1".parse::<Ipv6Addr>().unwrap());
        assert_eq!(policy.guests[0].protection.associations().len(), 2);
    }
    let plain = merged([exchange::parse_mip6d("umip-mn-plain.conf", &data("umip-mn-plain.conf"))]);
    let imported = exchange::import(&plain, &details(Role::MobileNode)).unwrap();
    assert!(imported.text.contains("protect = \"none\"") && imported.keys.is_empty());
    assert_eq!(imported.open, ["guest.vm1.mac: fill it in", "guest.vm1.port: fill it in"]);
}

#[test]
fn every_algorithm_and_key_form_of_setkey() {
    let side = merged([
        exchange::parse_mip6d("two-guests.conf", &data("two-guests.conf")),
        exchange::parse_setkey("sa-of-old.conf", &data("sa-of-old.conf")),
    ]);
    let imported = exchange::import(&side, &details(Role::HomeAgent)).unwrap();
    snapshots().bind(|| insta::assert_snapshot!("of-old", imported.text));
    let policy = load(Role::HomeAgent, &imported);
    assert_eq!(policy.home_agent.interface.as_deref(), Some("eth1"));
    assert_eq!(policy.home_agent.maximum_lifetime.as_secs(), 600);
    let parts =
        policy.guests.iter().flat_map(|guest| guest.protection.associations()).map(|one| match &one.transform {
            Transform::Esp(Esp { encryption, integrity, replay_window, .. }) => {
                (encryption.0.name(), integrity.as_ref().unwrap().0.name(), *replay_window)
            }
            Transform::RouteOptimization { .. } => panic!(),
        });
    assert_eq!(
        parts.collect::<Vec<_>>(),
        [
            ("3des-cbc", "hmac-md5-96", 16),
            ("des-cbc", "hmac-sha1-96", 0),
            ("null", "hmac-sha256-96", 32),
            ("aes-cbc", "hmac-sha512-256", 0),
        ]
    );
    let text_key = policy.guests[0].protection.associations()[0].transform.clone();
    let Transform::Esp(Esp { encryption, .. }) = text_key else { panic!() };
    assert_eq!(encryption.1.expose(), b"this is a key of 24 oct.");
}

/// A kernel's own words for every algorithm there is.
#[test]
fn every_algorithm_of_the_kernel() {
    let side = merged([exchange::parse_xfrm("states", &data("all-algorithms-state.txt"))]);
    assert_eq!(side.associations.len(), 12);
    let details = Import { home_agent: Some("2001:db8:2000::1".parse().unwrap()), ..details(Role::HomeAgent) };
    let policy = load(Role::HomeAgent, &exchange::import(&side, &details).unwrap());
    let (mut encryption, mut integrity) = (Vec::new(), Vec::new());
    for association in policy.guests.iter().flat_map(|guest| guest.protection.associations()) {
        let Transform::Esp(Esp { encryption: one, integrity: other, .. }) = &association.transform else { panic!() };
        encryption.push(one.0);
        integrity.extend(other.as_ref().map(|other| other.0));
    }
    assert!(Encryption::ALL.iter().all(|one| encryption.contains(one)), "{encryption:?}");
    assert!(Integrity::ALL.iter().filter(|one| integrity.contains(one)).count() >= 5, "{integrity:?}");
}

/// What a policy of `policies/` tells the other side, with the names of key files instead of the keys.
fn told(file: &str, format: Format) -> Result<String, ExportError> {
    let text = read(&format!("policies/{file}"));
    let role = policy::role_of(&text);
    let names = policy::key_files(role, file, &text).unwrap_or_else(|report| panic!("{report}"));
    // One key serves one purpose.
    let key = |(number, one): (usize, policy::KeyFile)| (one.path, SecretKey::new(vec![number as u8; one.octets]));
    let keys = Keys(names.into_iter().enumerate().map(key).collect());
    let (policy, paths) =
        policy::load_with_key_paths(role, file, &text, &keys).unwrap_or_else(|report| panic!("{report}"));
    exchange::export(&policy, &paths, format, false).map(|text| text.to_string())
}

#[test]
fn the_other_side_of_the_reference_policies() {
    let mut all = String::new();
    for file in ["ha.toml", "ha-unprotected.toml", "home-agent.toml"] {
        for format in [Format::Mip6d, Format::IpXfrm] {
            all.push_str(&format!("## {file} --to {format}\n{}\n", told(file, format).unwrap()));
        }
    }
    snapshots().bind(|| insta::assert_snapshot!("reference-policies", all));
    assert_eq!(told("ha-unprotected.toml", Format::Setkey), Err(ExportError::Unprotected));
    assert_eq!(told("home-agent-unprotected.toml", Format::Mip6d), Err(ExportError::Unprotected));
}

/// The program itself: exit codes, modes, and files that are there already.
#[test]
fn the_commands_overwrite_nothing() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).display().to_string();
    let run = |arguments: &[&str]| {
        let output =
            std::process::Command::new(env!("CARGO_BIN_EXE_kagemusha")).arg("policy").args(arguments).output().unwrap();
        (
            output.status.code().unwrap(),
            String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap(),
        )
    };
    let root = env!("CARGO_MANIFEST_DIR");
    let source = |name: &str| format!("{root}/tests/data/exchange/{name}");
    let (mip6d, sa, policy) = (source("umip-ha.conf"), source("sa.conf"), path("ha.toml"));
    let guest = "2001:db8:2000::10,name=vm1,mac=52:54:00:00:00:10,bridge=br-home";
    let import = ["import", "--mip6d", &mip6d, "--sa", &sa, "--output", &policy, "--guest", guest];
    let (code, shown) = run(&import);
    assert_eq!(code, 0, "{shown}");
    assert!(!shown.contains("000102"), "{shown}");
    for key in std::fs::read_dir(path("keys")).unwrap().map(|entry| entry.unwrap()) {
        assert_eq!(key.metadata().unwrap().permissions().mode() & 0o7777, 0o600, "{key:?}");
    }
    assert_eq!(run(&["check", &policy]).0, 0);
    let before = std::fs::read(path("keys/vm1-to-ha.enc")).unwrap();
    assert_eq!(run(&import).0, 1);
    // A key file that is there stops it as well, and takes back what was written before.
    let other = path("other.toml");
    assert_eq!(run(&["import", "--mip6d", &mip6d, "--sa", &sa, "--output", &other]).0, 1);
    assert!(!Path::new(&other).exists());
    assert_eq!(std::fs::read(path("keys/vm1-to-ha.enc")).unwrap(), before);
    assert_eq!(run(&["diff", &policy, &mip6d, &sa]).0, 0);
    assert_eq!(run(&["diff", &policy, &source("all-algorithms-state.txt")]).0, 1);
    assert_eq!(run(&["diff", &policy, &path("none")]).0, 2);
    assert_eq!(run(&["export", &policy, "--to", "swanctl"]).0, 2);
    let (code, shown) = run(&["export", &policy, "--to", "setkey"]);
    assert!(code == 0 && !shown.contains("000102"), "{shown}");
    let exported = path("out.conf");
    let export = ["export", &policy, "--to", "setkey", "--with-keys", "--output", &exported];
    assert_eq!(run(&export).0, 0);
    assert_eq!(std::fs::metadata(&exported).unwrap().permissions().mode() & 0o7777, 0o600);
    assert_eq!(run(&export).0, 1);
    assert_eq!(run(&["diff", &policy, &exported]).0, 0);
}

#[test]
fn every_mistake_has_its_place_and_no_key() {
    for (name, parse) in [
        ("classes.conf", exchange::parse_mip6d as fn(&str, &str) -> Result<Side, Report>),
        ("syntax.conf", exchange::parse_mip6d),
        ("words.sa", exchange::parse_setkey),
        ("states.xfrm", exchange::parse_xfrm),
    ] {
        let file = format!("tests/exchange/bad/{name}");
        let report = parse(&file, &read(&file)).map(|_| ()).expect_err(name);
        let text = report.to_string();
        for one in report.diagnostics() {
            assert!(text.contains(&format!("{file}:{}:{}", one.line(), one.column())), "{one:?}");
            assert!(one.help.as_ref().is_some_and(|help| !help.is_empty()), "{one:?}");
        }
        for key in ["000102", "secret", "04050607"] {
            assert!(!text.to_lowercase().contains(key), "a key in\n{text}");
        }
        snapshots().bind(|| insta::assert_snapshot!(name, text));
    }
}

#[test]
fn what_does_not_fit_together_is_told() {
    let mut told = String::new();
    let ha = || exchange::parse_mip6d("umip-ha.conf", &data("umip-ha.conf"));
    let sa = data("sa.conf");
    for (what, sa) in [
        ("no way back", sa[..sa.rfind("add").unwrap()].to_owned()),
        ("another reqid", sa.replace("-u 2", "-u 3")),
        ("tunnel mode", sa.replacen("-m transport", "-m tunnel", 1)),
        ("no integrity", sa.replacen("-A hmac-sha1 0x000102030405060708090a0b0c0d0e0f10111213", "", 1)),
        (
            "a second one",
            format!("{sa}{}", sa[sa.find("add").unwrap()..sa.rfind("add").unwrap()].replace("1000", "1002")),
        ),
    ] {
        let side = merged([ha(), exchange::parse_setkey("sa.conf", &sa)]);
        let report = exchange::import(&side, &details(Role::MobileNode)).expect_err(what);
        told.push_str(&format!("## {what}\n{report}\n"));
    }
    let alone = merged([exchange::parse_setkey("sa.conf", &sa)]);
    told.push_str(&format!("## no home agent\n{}", exchange::import(&alone, &details(Role::MobileNode)).unwrap_err()));
    assert!(!told.contains("000102"), "{told}");
    snapshots().bind(|| insta::assert_snapshot!("does-not-fit", told));
}

#[test]
fn disagreements_on_one_screen() {
    let good = data("sa.conf");
    let first = setkey_side();
    let mut told = String::new();
    for (what, other) in [
        ("nothing", good.clone()),
        ("SPI and reqid", good.replace("1001 -u 2", "1003 -u 5")),
        ("a key", good.replacen("0e0f\n", "0e0e\n", 1)),
        (
            "algorithms",
            good.replacen("hmac-sha1 0x", "hmac-sha256 0x14151617 18191a1b1c1d1e1f", 0).replace(
                "hmac-sha1 0x000102030405060708090a0b0c0d0e0f10111213",
                "hmac-sha256 0x000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f",
            ),
        ),
        ("direction", good.replace("1000", "1009").replace("1001", "1000").replace("1009", "1001")),
        ("mode", good.replacen("transport", "tunnel", 1)),
        ("one missing", good[..good.rfind("add").unwrap()].to_owned()),
    ] {
        let second = merged([exchange::parse_setkey("other.conf", &other)]);
        let comparison = exchange::compare(&first, &second);
        assert_eq!(comparison.differences.is_empty(), what == "nothing");
        told.push_str(&format!("## {what}\n{comparison}\n"));
    }
    assert!(!told.contains("0x000102") && told.lines().all(|line| line.len() < 200));
    snapshots().bind(|| insta::assert_snapshot!("disagreements", told));
}

/// A policy with guests of these algorithms, in the form of our own files, and its keys.
fn random_policy(role: Role, guests: &[(u16, [u8; 2], u32, u8)]) -> (String, Keys) {
    let mut text = "[home_agent]\naddress = \"2001:db8:2000::1\"\nhome_link = \"2001:db8:2000::/64\"\n".to_owned();
    if role == Role::HomeAgent {
        text.push_str("interface = \"eth0\"\n");
    }
    let mut keys = Keys::default();
    for (n, (address, algorithms, spi, seed)) in guests.iter().enumerate() {
        text.push_str(&format!(
            "[[guest]]\nname = \"vm{}\"\nhome_address = \"2001:db8:2000::{:x}\"\n",
            n + 1,
            address + 0x10
        ));
        if role == Role::MobileNode {
            text.push_str(&format!("mac = \"52:54:00:00:01:{n:02x}\"\nport = {{ bridge = \"br-home\" }}\n"));
        }
        let reqid = 2 * u32::from(*seed) + 1;
        text.push_str("[guest.protect.home-registration]\n");
        text.push_str(&format!("reqid = {{ to_home_agent = {reqid}, to_guest = {} }}\n", reqid + 1));
        for (direction, choice) in ["to-home-agent", "to-guest"].into_iter().zip(algorithms) {
            // Of four guests no two can have the same.
            let spi = spi % 0x001f_0000 * 8 + n as u32 * 2 + 256 + u32::from(direction == "to-guest");
            let encryption = Encryption::ALL[usize::from(*choice) % Encryption::ALL.len()];
            let integrity = Integrity::ALL[usize::from(*choice / 16) % Integrity::ALL.len()];
            text.push_str(&format!(
                "[[guest.security_association]]\ndirection = \"{direction}\"\nspi = {spi}\nlegacy = true\n"
            ));
            let mut key = |kind: &str, length: usize| {
                let path = format!("keys/{n}-{direction}.{kind}");
                let seeds = [*seed, n as u8, direction.len() as u8, kind.len() as u8];
                let digest = ring::digest::digest(&ring::digest::SHA512, &seeds);
                let octets = digest.as_ref().iter().copied().cycle().take(length).collect();
                keys.0.insert(PathBuf::from(&path), SecretKey::new(octets));
                path
            };
            if encryption.is_counter_mode() && direction == "to-home-agent" {
                text.push_str("host = \"host-a\"\n");
            }
            if encryption == Encryption::Null {
                text.push_str("encryption = { algorithm = \"null\" }\n");
            } else {
                let file = key("enc", encryption.generated_key_octets());
                text.push_str(&format!(
                    "encryption = {{ algorithm = \"{}\", key_file = \"{file}\" }}\n",
                    encryption.name()
                ));
            }
            if !encryption.is_aead() {
                let file = key("auth", integrity.key_octets());
                text.push_str(&format!(
                    "integrity = {{ algorithm = \"{}\", key_file = \"{file}\" }}\n",
                    integrity.name()
                ));
            }
        }
    }
    (text, keys)
}

fn guests() -> impl Strategy<Value = Vec<(u16, [u8; 2], u32, u8)>> {
    prop::collection::vec(any::<(u16, [u8; 2], u32, u8)>(), 1..5).prop_map(|mut guests| {
        guests.sort();
        guests.dedup_by_key(|guest| guest.0);
        // Far from the end, so that all have an address.
        guests.iter_mut().for_each(|guest| guest.0 %= 0xff00);
        guests.sort();
        guests.dedup_by_key(|guest| guest.0);
        guests
    })
}

fn role() -> impl Strategy<Value = Role> {
    prop_oneof![Just(Role::MobileNode), Just(Role::HomeAgent)]
}

/// No octets of any key, as hexadecimal digits.
fn holds_a_key(text: &str, keys: &Keys) -> bool {
    let text = text.to_lowercase();
    keys.0.values().any(|key| {
        key.expose().windows(4).any(|four| {
            let digits: String = four.iter().map(|octet| format!("{octet:02x}")).collect();
            text.contains(&digits)
        })
    })
}

proptest! {
    /// What is exported for the other side and imported there, or here, is the same policy.
    #[test]
    fn out_and_back(role in role(), guests in guests(), to in prop_oneof![Just(Format::Setkey), Just(Format::IpXfrm)]) {
        let (text, keys) = random_policy(role, &guests);
        let (policy, paths) = policy::load_with_key_paths(role, "p.toml", &text, &keys).unwrap_or_else(|r| panic!("{r}\n{text}"));
        let mip6d = exchange::export(&policy, &paths, Format::Mip6d, true).unwrap();
        let associations = match exchange::export(&policy, &paths, to, true) {
            Ok(associations) => associations,
            Err(ExportError::Unspeakable { .. }) if to == Format::Setkey => return Ok(()),
            Err(other) => panic!("{other}"),
        };
        let parse = if to == Format::Setkey { exchange::parse_setkey } else { exchange::parse_xfrm };
        let side = merged([exchange::parse_mip6d("mip6d.conf", &mip6d), parse("sa", &associations)]);
        let names = policy.guests.iter().enumerate().map(|(n, one)| GuestDetails {
            mac: Some(format!("52:54:00:00:01:{n:02x}")),
            ..guest(&one.home_address.to_string(), &one.name, n)
        });
        let details = Import { guests: names.collect(), interface: Some("eth0".to_owned()), ..details(role) };
        let imported = exchange::import(&side, &details).unwrap_or_else(|report| panic!("{report}"));
        let mut back = load(role, &imported);
        back.warnings.clone_from(&policy.warnings);
        prop_assert_eq!(&back, &policy);
        // Which diff sees as well, without telling a key.
        let comparison = exchange::compare(&Side::of_policy("p.toml", &policy, &paths), &side);
        prop_assert!(comparison.differences.is_empty(), "{}", comparison);
        let shown = format!("{comparison} {imported:?}");
        prop_assert!(!holds_a_key(&shown, &keys), "{}", shown);
    }

    #[test]
    fn no_key_without_with_keys(role in role(), guests in guests()) {
        let (text, keys) = random_policy(role, &guests);
        let (policy, paths) = policy::load_with_key_paths(role, "p.toml", &text, &keys).unwrap();
        for to in [Format::Mip6d, Format::Setkey, Format::IpXfrm, Format::Swanctl] {
            let shown = match exchange::export(&policy, &paths, to, false) {
                Ok(text) => text.to_string(),
                Err(error) => error.to_string(),
            };
            prop_assert!(!holds_a_key(&shown, &keys), "{}", shown);
            if to == Format::IpXfrm {
                let named = keys.0.keys().all(|path| shown.contains(&format!("<KEY:{}>", path.display())));
                prop_assert!(named, "{}", shown);
                prop_assert!(holds_a_key(&exchange::export(&policy, &paths, to, true).unwrap(), &keys) || keys.0.is_empty());
            }
        }
    }

    /// Any change of one octet of a key, an SPI or a reqid is seen.
    #[test]
    fn any_change_is_seen(guests in guests(), at in any::<prop::sample::Index>()) {
        let (text, mut keys) = random_policy(Role::MobileNode, &guests);
        let load = |text: &str, keys: &Keys| policy::load_with_key_paths(Role::MobileNode, "p.toml", text, keys).unwrap();
        let (policy, paths) = load(&text, &keys);
        let side = Side::of_policy("p.toml", &policy, &paths);
        let mut names: Vec<PathBuf> = keys.0.keys().cloned().collect();
        names.sort();
        prop_assume!(!names.is_empty());
        let name = &names[at.index(names.len())];
        let mut octets = keys.0[name].expose().to_vec();
        let octet = at.index(octets.len());
        octets[octet] ^= 1;
        keys.0.insert(name.clone(), SecretKey::new(octets));
        let (policy, paths) = load(&text, &keys);
        let comparison = exchange::compare(&side, &Side::of_policy("q.toml", &policy, &paths));
        prop_assert_eq!(comparison.differences.len(), 1);
        prop_assert!(comparison.differences[0].what.ends_with("key"));
    }

    #[test]
    fn any_text_is_judged(text in any::<String>()) {
        judge(&text);
    }

    /// Good files with pieces of others in them.
    #[test]
    fn good_files_gone_bad(which in 0usize..6, edits in prop::collection::vec((any::<prop::sample::Index>(), 0usize..30, 0usize..20), 1..6)) {
        const PIECES: [&str; 20] = [
            "{", "}", ";", "\"", "0x", "-E", "-A", "src", "dst", "add", "enc", "\n", "\t", "#", "ü", "(", ")", "esn", "99999999999", "\u{1b}",
        ];
        let name = ["umip-ha.conf", "umip-mn.conf", "sa.conf", "sa-of-old.conf", "ha-state.txt", "two-guests.conf"][which];
        let mut text: Vec<char> = data(name).chars().collect();
        for (at, cut, piece) in edits {
            let at = at.index(text.len() + 1);
            let end = (at + cut).min(text.len());
            text.splice(at..end, PIECES[piece].chars());
        }
        judge(&text.into_iter().collect::<String>());
    }
}

fn judge(text: &str) {
    let lines = text.matches('\n').count() + 1;
    for parse in [exchange::parse, exchange::parse_mip6d, exchange::parse_setkey, exchange::parse_xfrm] {
        let result = parse("any", text).and_then(|side| {
            assert!(!side.notes.iter().any(|note| note.line == 0));
            let comparison = exchange::compare(&side, &setkey_side()).to_string();
            assert!(!comparison.contains('\u{1b}'));
            exchange::import(&side, &details(Role::MobileNode))
        });
        if let Err(report) = result {
            for one in report.diagnostics().iter().filter(|one| one.file() == "any") {
                assert!((1..=lines).contains(&one.line()) && one.column() >= 1, "{one:?}");
            }
            assert!(!report.render(false).contains('\u{1b}'));
        }
    }
}
