//! The hook for libvirt: what it says to kagemusha, in the order in which libvirt calls it; and that it never stands in a domain's way.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

const HOOK: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/libvirt/hooks/qemu");

/// A kagemusha that notes what it is told, and fails when it is told of `unknown`.
fn fake(directory: &Path) -> String {
    let program = directory.join("kagemusha");
    let log = directory.join("log");
    let script = format!("#!/bin/sh\necho \"$1 $3\" >>{}\n[ \"$3\" != unknown ]\n", log.display());
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    program.to_str().unwrap().to_owned()
}

/// Calls the hook for each operation; everything it has said.
fn said(guest: &str, operations: &[&str]) -> String {
    let directory = tempfile::tempdir().unwrap();
    let program = fake(directory.path());
    for operation in operations {
        let output = call(directory.path(), &program, guest, operation);
        assert!(output.status.success(), "{operation}: {output:?}");
        assert!(output.stdout.is_empty(), "{operation}: what is printed would replace the domain's XML: {output:?}");
    }
    fs::read_to_string(directory.path().join("log")).unwrap_or_default()
}

fn call(directory: &Path, program: &str, guest: &str, operation: &str) -> Output {
    let mut command = Command::new(HOOK);
    command.args([guest, operation, "begin", "-"]).env("KAGEMUSHA", program);
    command.env("KAGEMUSHA_COMING", directory.join("coming")).output().unwrap()
}

#[test]
fn a_domain_that_boots_is_attached_and_one_that_migrates_is_only_expected() {
    assert_eq!(said("vm1", &["prepare", "start", "started"]), "prepare vm1\nattach vm1\n");
    let arrival = ["migrate", "prepare", "start", "started"];
    assert_eq!(said("vm1", &arrival), "prepare vm1\nprepare vm1\n", "it will announce itself");
    let failed = ["migrate", "prepare", "start", "started", "stopped", "release", "prepare", "start", "started"];
    assert_eq!(said("vm1", &failed), "prepare vm1\nprepare vm1\ndetach vm1\nprepare vm1\nattach vm1\n");
    assert_eq!(said("vm1", &["migrate", "stopped", "started"]), "prepare vm1\ndetach vm1\nattach vm1\n");
}

#[test]
fn nothing_keeps_a_domain_from_running() {
    assert_eq!(said("unknown", &["prepare", "started"]), "prepare unknown\nattach unknown\n");
    assert_eq!(said("--help", &["prepare"]), "prepare --help\n");
    for odd in ["../etc/passwd", "", "..", "a/b"] {
        assert_eq!(said(odd, &["migrate", "started", "stopped"]), "", "{odd:?}");
    }
    let directory = tempfile::tempdir().unwrap();
    let output = call(directory.path(), "/nonexistent/kagemusha", "vm1", "prepare");
    assert!(output.status.success() && output.stdout.is_empty(), "{output:?}");
}
