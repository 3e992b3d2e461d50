//! Archives of the form that the kernel takes an initramfs in.

/// A cpio archive of the form "newc" (Documentation/driver-api/early-userspace/buffer-format.rst of the kernel).
#[derive(Default)]
pub(crate) struct Archive {
    bytes: Vec<u8>,
    entries: u32,
    known: std::collections::BTreeSet<String>,
}

impl Archive {
    /// A directory, once.
    pub(crate) fn directory(&mut self, name: &str) {
        if self.known.insert(name.to_owned()) {
            self.entry(name, 0o040_755, &[]);
        }
    }

    /// A directory and all above it.
    pub(crate) fn directories(&mut self, name: &str) {
        let ends = name.match_indices('/').map(|(at, _)| at).chain([name.len()]);
        ends.collect::<Vec<_>>().into_iter().for_each(|end| self.directory(name.get(..end).unwrap_or_default()));
    }

    /// A file, once.
    pub(crate) fn file(&mut self, name: &str, permissions: u32, content: &[u8]) {
        if self.known.insert(name.to_owned()) {
            self.entry(name, 0o100_000 | permissions, content);
        }
    }

    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.entries += 1;
        let (size, name_size) = (content.len(), name.len() + 1);
        // inode, mode, user, group, links, time, size, device twice, special device twice, length of the name, checksum
        let header = format!(
            "070701{:08x}{mode:08x}{:08x}{:08x}{:08x}{:08x}{size:08x}{:08x}{:08x}{:08x}{:08x}{name_size:08x}{:08x}",
            self.entries, 0, 0, 1, 0, 0, 0, 0, 0, 0
        );
        self.bytes.extend(header.as_bytes());
        self.bytes.extend(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    /// All of it.
    pub(crate) fn end(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_is_what_cpio_reads() {
        let mut archive = Archive::default();
        archive.directories("lib/deep");
        archive.directories("lib");
        archive.file("lib/deep/one", 0o644, b"hello");
        let bytes = archive.end();
        assert_eq!(bytes.len() % 4, 0);
        let text = String::from_utf8_lossy(&bytes);
        assert_eq!(text.matches("070701").count(), 4, "two directories, a file, the end");
        // Header of 110 octets, name with its zero, padding to 4.
        let file = text.find("lib/deep/one").unwrap();
        assert_eq!(file % 4, 110 % 4);
        assert_eq!(&text[file + 14..file + 19], "hello");
    }
}
