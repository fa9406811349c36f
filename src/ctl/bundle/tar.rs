//! Files in one file: a tar archive, as POSIX describes it.
//!
//! Owns: the header of a plain file, which is all that a bundle needs: that saves a dependency, and another one to compress
//! what is small. Never: reads an archive.

use serde_json::Value;

const BLOCK: usize = 512;

/// An archive in memory.
#[derive(Default)]
pub(super) struct Tar {
    bytes: Vec<u8>,
}

impl Tar {
    /// Adds a file. Names are ours, of ASCII and less than 100 bytes.
    pub(super) fn add(&mut self, name: &str, content: &[u8]) {
        let mut header = [0_u8; BLOCK];
        let mut put = |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
        put(0, name);
        put(100, "0000600\0");
        put(108, "0000000\0");
        put(116, "0000000\0");
        put(124, &format!("{:011o}\0", content.len()));
        put(136, "00000000000\0");
        put(156, "0");
        put(257, "ustar\x0000");
        // The checksum is taken with blanks in its own place.
        put(148, "        ");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.bytes.extend(header);
        self.bytes.extend(content);
        self.bytes.resize(self.bytes.len().next_multiple_of(BLOCK), 0);
    }

    /// Adds a file of JSON.
    pub(super) fn add_json(&mut self, name: &str, value: &Value) {
        self.add(name, format!("{value:#}\n").as_bytes());
    }

    /// The whole archive.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.bytes.resize(self.bytes.len() + 2 * BLOCK, 0);
        self.bytes
    }
}
