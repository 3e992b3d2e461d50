//! Whether machines can use the processor's own virtualisation. A `/dev/kvm` that exists and fails is common, so only a guest that comes up
//! proves it: it is tried once after each start of this machine.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use super::image::Image;
use super::last_words::last_words;
use super::machine::{Boot, CONSOLE, Machine, TRIAL};
use crate::failure::{Failure, Outcome, While};
use crate::job::LINE;

/// How QEMU executes a machine's code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Accelerator {
    /// On the processor itself.
    Kvm,
    /// By translation: slower by a factor of ten or more, and everywhere.
    Tcg,
}

/// With KVM a machine is up after one or two seconds.
const TRIAL_TIME: Duration = Duration::from_secs(20);

impl Accelerator {
    /// Options of QEMU.
    pub(crate) fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Kvm => &["-accel", "kvm", "-cpu", "host"],
            Self::Tcg => &["-accel", "tcg,thread=multi,tb-size=256", "-cpu", "max,la57=off"],
        }
    }

    /// For messages.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Kvm => "KVM",
            Self::Tcg => "TCG",
        }
    }

    /// The best that works, tried with `image`; what was found out is kept in `cache` until this machine starts again.
    pub(crate) fn find(image: &Image, lab: &Path, cache: &Path) -> Outcome<Self> {
        if fs::OpenOptions::new().read(true).write(true).open("/dev/kvm").is_err() {
            return Ok(Self::Tcg);
        }
        let start = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let note = cache.join("kvm");
        let known = fs::read_to_string(&note).unwrap_or_default();
        match known.strip_prefix(start.as_str()).map(str::trim).filter(|_| !start.is_empty()) {
            Some("works") => return Ok(Self::Kvm),
            Some(why) if !why.is_empty() => {
                println!("KVM was tried before: {why}. Machines are emulated (TCG).");
                return Ok(Self::Tcg);
            }
            _ => {}
        }
        println!("Trying KVM");
        let (found, text) = match try_kvm(image, lab, cache) {
            Ok(()) => (Self::Kvm, "works".to_owned()),
            Err(failure) => {
                let why = format!("/dev/kvm is there, and no guest comes up with it, for {failure}");
                println!("{why}. Machines are emulated (TCG).");
                (Self::Tcg, why)
            }
        };
        fs::write(&note, format!("{start}{text}\n")).during(|| note.display().to_string())?;
        Ok(found)
    }
}

fn try_kvm(image: &Image, lab: &Path, cache: &Path) -> Outcome {
    let logs = cache.join("kvm-trial");
    fs::create_dir_all(&logs).during(|| logs.display().to_string())?;
    let (accelerator, run) = (Accelerator::Kvm, Path::new(TRIAL));
    let mut machine = Machine::boot(&Boot { image, accelerator, lab, run, logs: &logs, devices: &[], append: "" })?;
    let (output, mut error) = machine.streams()?;
    let (line, lines) = mpsc::channel();
    std::thread::spawn(move || {
        let mut text = String::new();
        // Its own end, or ours, ends it.
        let _ = BufReader::new(output).read_line(&mut text);
        let _ = line.send(text);
    });
    let text = lines.recv_timeout(TRIAL_TIME).unwrap_or_default();
    drop(machine);
    if text.starts_with(LINE.trim_end()) {
        return Ok(());
    }
    let mut complaint = String::new();
    let _ = error.read_to_string(&mut complaint);
    let console = fs::read(logs.join(CONSOLE)).unwrap_or_default();
    // QEMU shows all registers after what it has to say.
    let first = complaint.lines().next().unwrap_or_default();
    Err(Failure::new(last_words(&String::from_utf8_lossy(&console), first)))
}
