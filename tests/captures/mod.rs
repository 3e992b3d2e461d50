//! Reads the captures in `tests/data`.

use std::path::{Path, PathBuf};

/// The captures, by directory and name.
pub(crate) const CAPTURES: [&str; 9] = [
    "umip-plain/home",
    "umip-plain/fore",
    "umip-plain/fore2",
    "umip-esp/home",
    "umip-esp/fore",
    "umip-esp/fore2",
    "host-side/home",
    "host-side/link",
    "host-side/link2",
];

fn path(name: &str, extension: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name).with_extension(extension)
}

/// The frames of a capture: the classic format, little-endian, Ethernet.
pub(crate) fn frames(name: &str) -> Vec<Vec<u8>> {
    let path = path(name, "pcap");
    let file = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let word = |at: usize| u32::from_le_bytes(file[at..at + 4].try_into().unwrap());
    assert_eq!((word(0), word(20)), (0xa1b2_c3d4, 1), "{}: not a classic Ethernet capture", path.display());
    let mut frames = Vec::new();
    let mut at = 24;
    while at < file.len() {
        let (captured, length) = (word(at + 8) as usize, word(at + 12) as usize);
        assert_eq!(captured, length, "{}: frames were cut", path.display());
        frames.push(file[at + 16..at + 16 + captured].to_vec());
        at += 16 + captured;
    }
    frames
}

/// What tcpdump says of each frame.
pub(crate) fn tcpdump(name: &str) -> Vec<String> {
    let path = path(name, "tcpdump");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.lines().map(str::to_owned).collect()
}

/// The frames of all captures, each with the name of its capture and its number there from 1.
pub(crate) fn all_frames() -> Vec<(String, Vec<u8>)> {
    let of = |name: &str| {
        let numbered = frames(name).into_iter().zip(1..);
        numbered.map(|(frame, n)| (format!("{name} frame {n}"), frame)).collect::<Vec<_>>()
    };
    CAPTURES.iter().flat_map(|name| of(name)).collect()
}
