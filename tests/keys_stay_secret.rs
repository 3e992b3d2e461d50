//! No output of the program has any part of a key: the program itself is run, with keys that the test knows, through all commands that look at a
//! policy, through mistakes of all kinds around keys, and as a daemon, with its log wide open.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

use std::fs::{self, Permissions};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use kagemusha::ipsec::SecretKey;

/// The key files of `policies/ha.toml`.
const NAMES: [&str; 4] = ["vm1-to-ha.enc", "vm1-to-ha.auth", "ha-to-vm1.enc", "ha-to-vm1.auth"];

/// 32 octets that nothing else has, another for each name.
fn key(name: &str) -> Vec<u8> {
    let seed = name.bytes().fold(0x9e37_79b9_u32, |hash, octet| (hash ^ u32::from(octet)).wrapping_mul(0x0100_0193));
    let mut state = seed | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_be_bytes()[1]
    };
    (0..32).map(|_| next()).collect()
}

fn digits(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

/// The first part of a key that an output has: four octets, in hexadecimal, as a list of numbers, or as they are.
fn found(output: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(output).to_lowercase();
    let numbers: String =
        text.split(|c: char| !c.is_ascii_digit()).filter(|n| !n.is_empty()).collect::<Vec<_>>().join(",");
    for name in NAMES {
        for four in key(name).windows(4) {
            let list = four.iter().map(u8::to_string).collect::<Vec<_>>().join(",");
            let listed = format!(",{numbers},").contains(&format!(",{list},"));
            let raw = output.windows(4).any(|window| window == four);
            if text.contains(&digits(four)) || listed || raw {
                return Some(format!("{name}: {}", digits(four)));
            }
        }
    }
    None
}

struct Place(tempfile::TempDir);

impl Place {
    /// Key files and credentials.
    fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        for directory in ["keys", "credentials"] {
            fs::create_dir(place.path(directory)).unwrap();
            for name in NAMES {
                place.write(&format!("{directory}/{name}"), &digits(&key(name)), 0o600);
            }
        }
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str, mode: u32) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        path
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kagemusha"));
        command.args(arguments).env("KAGEMUSHA_LOG", "trace").env("RUST_BACKTRACE", "full");
        command.env("CREDENTIALS_DIRECTORY", self.path("credentials")).current_dir(self.0.path());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs it to its end; gives the exit code and all that it said.
    fn run(&self, arguments: &[&str]) -> (Option<i32>, Vec<u8>) {
        let output = self.command(arguments).output().unwrap();
        (output.status.code(), [output.stdout, output.stderr].concat())
    }

    fn is_silent(&self, arguments: &[&str], expected: Option<i32>) {
        let (code, output) = self.run(arguments);
        let text = String::from_utf8_lossy(&output);
        assert_eq!(found(&output), None, "{arguments:?} shows a key:\n{text}");
        assert!(!text.is_empty(), "{arguments:?} says nothing");
        if expected.is_some() {
            assert_eq!(code, expected, "{arguments:?}:\n{text}");
        }
    }
}

fn policy() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("policies/ha.toml")).unwrap()
}

/// The policy with its keys in the file itself.
fn inline() -> String {
    let with = |text: String, name: &&str| {
        text.replace(&format!("key_file = \"keys/{name}\""), &format!("key = \"{}\"", digits(&key(name))))
    };
    NAMES.iter().fold(policy(), with)
}

const LOOKS: [&[&str]; 7] = [
    &["policy", "check"],
    &["policy", "show"],
    &["policy", "keygen"],
    &["policy", "export", "--to", "mip6d"],
    &["policy", "export", "--to", "setkey"],
    &["policy", "export", "--to", "ip-xfrm"],
    &["check", "--ipsec"],
];

#[test]
fn the_test_itself_sees_keys() {
    let place = Place::new();
    place.write("ha.toml", &policy(), 0o644);
    let (code, output) = place.run(&["policy", "export", "--to", "ip-xfrm", "--with-keys", "ha.toml"]);
    assert!(code == Some(0) && found(&output).is_some());
    assert!(found(format!("{:?}", key(NAMES[0])).as_bytes()).is_some());
    assert!(found(format!("{:#?}", key(NAMES[1])).as_bytes()).is_some());
}

#[test]
fn looking_at_a_policy_shows_no_key() {
    let place = Place::new();
    place.write("files.toml", &policy(), 0o644);
    place.write(
        "credentials.toml",
        &policy()
            .replace("key_file = \"keys/", "key = { credential = \"")
            .replace(".enc\"", ".enc\" }")
            .replace(".auth\"", ".auth\" }"),
        0o644,
    );
    place.write("inline.toml", &inline(), 0o600);
    for file in ["files.toml", "credentials.toml", "inline.toml"] {
        for look in LOOKS {
            let arguments = [look, &[file]].concat();
            // Whether this machine can run it, and setkey can say it, does not matter here.
            let expected = if look[0] == "check" || look.contains(&"setkey") { None } else { Some(0) };
            place.is_silent(&arguments, expected);
        }
        place.is_silent(&["policy", "export", "--to", "swanctl", file], None);
    }
    // All of them say the same, and another file says other keys.
    place.is_silent(&["policy", "diff", "files.toml", "inline.toml"], Some(0));
    place.is_silent(&["policy", "diff", "files.toml", "credentials.toml"], Some(0));
    place.write("keys/other", &digits(&key("other")), 0o600);
    place.write("other.toml", &policy().replace("keys/vm1-to-ha.enc", "keys/other"), 0o644);
    place.is_silent(&["policy", "diff", "inline.toml", "other.toml"], Some(1));
    let (_, output) = place.run(&["policy", "check", "inline.toml"]);
    let warned = String::from_utf8_lossy(&output).matches("stands in the policy file itself").count();
    assert_eq!(warned, 4, "a warning for each key in the file");
}

#[test]
fn no_mistake_around_a_key_shows_it() {
    let place = Place::new();
    let name = NAMES[0];
    let digits_of_key = digits(&key(name));
    let field = format!("key = \"{digits_of_key}\"");
    let mistakes = [
        inline(),
        inline().replace(&field, &format!("key = \"{}\"", &digits_of_key[..63])),
        inline().replace(&field, &format!("key = \"{}\"", &digits_of_key[..40])),
        inline().replace(&field, &format!("key = \"{digits_of_key}g\"")),
        inline().replace(&field, &format!("key = \"{digits_of_key}")),
        inline().replace(&field, &format!("key = {digits_of_key}")),
        inline().replace(&field, &format!("key = 0x{}", &digits_of_key[..15])),
        inline().replace(&field, &format!("key_file = 0x{}", &digits_of_key[..15])),
        inline().replace(&field, &format!("key = [\"{digits_of_key}\"]")),
        inline().replace(&field, &format!("key = {{ credential = \"{digits_of_key}\" }}")),
        inline().replace(&field, &format!("key = {{ key = \"{digits_of_key}\" }}")),
        inline().replace(&field, &format!("key_file = \"{digits_of_key}\"")),
        inline().replace(&field, &format!("keyfile = \"{digits_of_key}\"")),
        inline().replace(&field, &format!("{field}, {field}")),
        inline().replace(&field, &format!("{field}, key_file = \"keys/{name}\"")),
        inline().replace(&field, &format!("\"{digits_of_key}\" = 1")),
        inline().replace(&field, &format!("{field}, wrong = 1 # \u{202e}{digits_of_key}\n")),
        inline().replace("spi = 0x3e8", &format!("spi = \"{digits_of_key}\"")),
        inline().replace("address = ", &format!("address = \"{digits_of_key}\" #")),
    ];
    for (number, mistake) in mistakes.iter().enumerate() {
        // The first is no mistake but for its mode.
        let file = format!("{number}.toml");
        place.write(&file, mistake, if number == 0 { 0o644 } else { 0o600 });
        place.is_silent(&["policy", "check", &file], Some(2));
        place.is_silent(&["--ipsec", &file], Some(2));
        place.is_silent(&["policy", "diff", &file, &file], Some(2));
    }
    place.write("ha.toml", &policy(), 0o644);
    let contents =
        [&digits_of_key[..63], &digits_of_key[..62], &format!("{digits_of_key} x"), &format!("\"{digits_of_key}\"")];
    for content in contents {
        for directory in ["keys", "credentials"] {
            place.write(&format!("{directory}/{name}"), content, 0o600);
        }
        let credential = format!("key = {{ credential = \"{name}\" }}");
        place.write("credential.toml", &policy().replace(&format!("key_file = \"keys/{name}\""), &credential), 0o644);
        for file in ["ha.toml", "credential.toml"] {
            place.is_silent(&["policy", "check", file], Some(2));
        }
    }
}

/// A daemon in a network of its own, until it ends or two seconds have passed: whatever this kernel lacks, it has tried to install the keys.
#[test]
fn the_log_of_a_daemon_shows_no_key() {
    let alone = Command::new("unshare").args(["--map-root-user", "--net", "true"]).status();
    if !alone.is_ok_and(|status| status.success()) {
        eprintln!(
            "SKIPPED: no network namespace of its own (`unshare --map-root-user --net`), so no daemon was started"
        );
        return;
    }
    let place = Place::new();
    place.write("ha.toml", &policy(), 0o644);
    let settings = format!("state_directory = {:?}\n", place.path("state"));
    place.write("settings.toml", &settings, 0o644);
    let daemon = place.command(&["--ipsec", "ha.toml", "--config", "settings.toml"]);
    let mut command = Command::new("unshare");
    command.args(["--map-root-user", "--net", "--kill-child"]).arg(daemon.get_program()).args(daemon.get_args());
    command.env("KAGEMUSHA_LOG", "trace").env("RUST_BACKTRACE", "full").current_dir(place.0.path());
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (mut out, mut err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let reader = std::thread::spawn(move || {
        let mut all = vec![];
        err.read_to_end(&mut all).unwrap();
        out.read_to_end(&mut all).unwrap();
        all
    });
    for _ in 0..100 {
        if child.try_wait().unwrap().is_some() {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let _ = child.kill();
    let _ = child.wait();
    let output = reader.join().unwrap();
    let text = String::from_utf8_lossy(&output);
    assert_eq!(found(&output), None, "the log shows a key:\n{text}");
    assert!(text.lines().count() > 1, "nothing was logged:\n{text}");
}

#[test]
fn a_panic_shows_no_key() {
    let (one, other) = (SecretKey::new(key(NAMES[0])), SecretKey::new(key(NAMES[1])));
    let message = std::panic::catch_unwind(|| assert_eq!(one, other)).unwrap_err();
    let message = message.downcast::<String>().unwrap();
    assert!(message.contains("SecretKey(32 octets)"), "{message}");
    assert_eq!(found(message.as_bytes()), None, "{message}");
}
