//! A second opinion: tshark reads every capture of the run and must have nothing to say against any packet.

use std::net::Ipv6Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread::JoinHandle;

use crate::craft::checksum;
use crate::failure::{Failure, Outcome, While, ensure};
use crate::topology::{HOME, SEGMENT, SEGMENT2};

/// What tshark found in some captures.
#[derive(Debug, Default)]
pub(crate) struct Opinion {
    pub(crate) captures: usize,
    /// Mobility headers it has decoded, those under ESP among them.
    pub(crate) mobility_headers: usize,
    /// Mobility headers it has decrypted with the keys of the run and whose ICV it has verified.
    pub(crate) decrypted: usize,
    /// What is wrong, with the capture and the frame.
    pub(crate) complaints: Vec<String>,
}

/// `PI_WARN` of Wireshark's `epan/proto.h`.
const WARNING: u32 = 6 << 20;

/// Of `tcp.completeness`, which adds up as a capture is read: `TCP_COMPLETENESS_FIN` of Wireshark's `packet-tcp.h`.
const FIN_SEEN: u8 = 0x10;

/// Between several values of a field.
const BETWEEN: char = '|';

/// Warnings and errors, but for requests that nobody has answered: scenarios ask in vain on purpose.
const WARNINGS: &str = "_ws.expert.severity >= 6291456 && !icmpv6.resp_not_found";

/// Reads captures on a thread of its own, while the next scenario runs.
pub(crate) struct Oracle {
    directories: mpsc::Sender<PathBuf>,
    thread: JoinHandle<Outcome<Opinion>>,
}

impl Oracle {
    /// Begins to wait for directories of scenarios. `offloads`: what guests and correspondents send is captured in front of their network cards.
    pub(crate) fn start(offloads: bool) -> Self {
        let (directories, receiver) = mpsc::channel::<PathBuf>();
        let thread = std::thread::spawn(move || {
            let mut opinion = Opinion::default();
            receiver.iter().try_for_each(|directory| read_all(&directory, offloads, &mut opinion))?;
            Ok(opinion)
        });
        Self { directories, thread }
    }

    /// Has the captures of a scenario read, which must be complete.
    pub(crate) fn ask(&self, directory: PathBuf) {
        // If the thread has ended early, its error comes out at the end.
        let _ = self.directories.send(directory);
    }

    /// What it thinks of all of them.
    pub(crate) fn conclude(self) -> Outcome<Opinion> {
        drop(self.directories);
        self.thread.join().unwrap_or_else(|_| Err(Failure::new("the thread that reads captures panicked")))
    }
}

/// Reads every capture of a scenario that holds a packet.
fn read_all(directory: &Path, offloads: bool, opinion: &mut Opinion) -> Outcome {
    let mut captures = Vec::new();
    for entry in std::fs::read_dir(directory).during(|| directory.display().to_string())?.flatten() {
        let path = entry.path();
        if path.extension().is_some_and(|extension| extension == "pcap") && entry.metadata()?.len() > 24 {
            captures.push(path);
        }
    }
    captures.sort();
    captures.iter().try_for_each(|capture| read(capture, offloads, opinion).during(|| capture.display().to_string()))
}

fn read(capture: &Path, offloads: bool, opinion: &mut Opinion) -> Outcome {
    let name = capture.parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy().into_owned();
    let link = capture.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let fields = [
        "frame.number",
        "frame.protocols",
        "ipv6.src",
        "ipv6.dst",
        "ipv6.opt.mipv6.home_address",
        "ipv6.routing.mipv6.home_address",
        "esp.icv_good",
        "esp.contained_data",
        "mip6.mhtype",
        "_ws.expert.severity",
        "_ws.expert.message",
        "tcp.completeness",
    ];
    // One run of tshark for both questions: it takes longer to start than to read.
    for line in tshark(capture, &format!("mipv6 || esp || ({WARNINGS})"), &fields)? {
        let columns: Vec<&str> = line.split('\t').collect();
        let [
            frame,
            protocols,
            source,
            destination,
            option,
            routing,
            icv_good,
            contained,
            kind,
            severities,
            messages,
            completeness,
        ] = columns[..]
        else {
            continue;
        };
        let complain = |what: &str| format!("{name} {link}: frame {frame}: {what}");
        let seen = completeness.rsplit(BETWEEN).next().and_then(|seen| seen.parse::<u8>().ok()).unwrap_or_default();
        // There, and nowhere in the tunnel or behind it, a checksum may still have to be filled in.
        let unfinished = offloads
            && [SEGMENT, SEGMENT2, HOME].contains(&link.as_str())
            && protocols.starts_with("eth:ethertype:ipv6:tcp");
        let (quoted, guessed) = (protocols.contains("icmpv6:ipv6"), protocols.contains(":tcp:"));
        let context = Context { quoted, closed: seen & FIN_SEEN != 0, unfinished, guessed };
        for (severity, message) in severities.split(BETWEEN).zip(messages.split(BETWEEN)) {
            let warns = severity.parse().is_ok_and(|severity: u32| severity >= WARNING);
            if warns && !context.excuses(message) {
                opinion.complaints.push(complain(&format!("{message} ({protocols})")));
            }
        }
        if !kind.is_empty() {
            opinion.mobility_headers += 1;
        }
        match icv_good {
            // Mobile prefix discovery goes under ESP as well.
            "1" if protocols.ends_with(":esp:icmpv6") => {}
            "1" if kind.is_empty() => opinion.complaints.push(complain("no mobility header in the decrypted ESP")),
            "1" => {
                opinion.decrypted += 1;
                // The Home Address option and the type 2 routing header stand for the home address (RFC 6275 §6.1.1).
                let pick = |home: &str, outer: &str| if home.is_empty() { outer } else { home }.parse::<Ipv6Addr>();
                if let (Ok(source), Ok(destination)) = (pick(option, source), pick(routing, destination))
                    && checksum(source, destination, 135, &octets(contained)) != 0
                {
                    opinion.complaints.push(complain("the checksum of the mobility header under ESP is wrong"));
                }
            }
            "0" => opinion.complaints.push(complain("the ICV of the ESP is wrong")),
            _ => {}
        }
    }
    opinion.captures += 1;
    Ok(())
}

/// What else is known of a packet that tshark warns of.
struct Context {
    /// An ICMPv6 error quotes it.
    quoted: bool,
    /// Both ends have closed the connection.
    closed: bool,
    /// It is captured in front of a network card that fills in checksums.
    unfinished: bool,
    /// There is something in TCP, which nodes here exchange as plain octets, whatever protocol tshark takes it for.
    guessed: bool,
}

impl Context {
    /// Whether a packet like this is right in spite of the warning.
    fn excuses(&self, message: &str) -> bool {
        let is_checksum = message.starts_with("Bad checksum");
        // A sender may skip numbers, and does after a restart; it must not use one again.
        let skipped = message.starts_with("Wrong Sequence Number") && message.ends_with("missing");
        // A receiver reports what came twice (RFC 2883): so it is after a loss that was none.
        let repeated = message.starts_with("D-SACK Sequence");
        // What an ICMPv6 error quotes is the kernel's own copy, whose checksum a network card may have had to fill in still; and it is there once more.
        let again = is_checksum || message.starts_with("Wrong Sequence Number");
        // An emulated network card writes zero as all ones.
        let zero = message.starts_with("TCP Checksum 0xffff instead of 0x0000");
        // What comes again after both ends have closed is answered with a reset. Whoever uses a connection looks for resets itself.
        let reset = message.starts_with("Connection reset");
        skipped
            || repeated
            || zero
            || (self.quoted && again)
            || (self.closed && reset)
            || (self.unfinished && is_checksum)
            || (self.guessed && !is_checksum)
    }
}

/// Fields of the frames that a display filter selects, one frame a line.
fn tshark(capture: &Path, filter: &str, fields: &[&str]) -> Outcome<Vec<String>> {
    let directory = capture.parent().unwrap_or(capture);
    let mut command = Command::new("tshark");
    // The directory of the scenario is its configuration: there is the table of the keys.
    command.env("WIRESHARK_CONFIG_DIR", directory).arg("-n").arg("-r").arg(capture).args([
        "-Y",
        filter,
        "-T",
        "fields",
        "-E",
        &format!("aggregator={BETWEEN}"),
    ]);
    for preference in [
        "esp.enable_encryption_decode:TRUE",
        "esp.enable_authentication_check:TRUE",
        "udp.check_checksum:TRUE",
        "tcp.check_checksum:TRUE",
        // What was lost on the way, or came twice, makes no packet wrong.
        "tcp.analyze_sequence_numbers:FALSE",
        "tcp.desegment_tcp_streams:FALSE",
    ] {
        command.args(["-o", preference]);
    }
    fields.iter().for_each(|field| {
        command.args(["-e", field]);
    });
    let output = command.stdin(Stdio::null()).output().during(|| "tshark".into())?;
    ensure(output.status.success(), || format!("tshark: {}", String::from_utf8_lossy(&output.stderr).trim_end()))?;
    Ok(String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect())
}

fn octets(hexadecimal: &str) -> Vec<u8> {
    let digits: Vec<u8> = hexadecimal.chars().filter_map(|c| c.to_digit(16)).map(|digit| digit as u8).collect();
    digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}
