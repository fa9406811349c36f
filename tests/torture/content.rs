//! What a workload writes: bytes that say themselves which they are, and whether they are whole.
//!
//! Owns: the form of a slot (magic, seed, length, checksum, then bytes that follow from the seed), and reading and writing one
//! in a file or at a place of a raw device. A seed is used once in a run, so it names volume, slot and version.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::chance::Chance;

const MAGIC: &[u8; 8] = b"rp-slot1";
const HEAD: usize = 32;
const PAGE: usize = 4096;
/// A slot of a raw device, in bytes; a file is at most as long.
const SLOT: usize = 64 * 1024;

/// What a slot holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// No file; zeros on a raw device.
    Absent,
    /// The bytes of this seed, whole.
    Seed(u64),
    /// Not known, or not whole.
    Any,
}

/// Where a slot lies.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    /// A file in a mounted volume.
    File(PathBuf),
    /// A part of a raw device.
    Device(PathBuf, u64),
}

/// Whether a write is made durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sync {
    /// By fsync, of the directory too.
    Yes,
    /// Not at all.
    No,
}

fn bytes(seed: u64) -> Vec<u8> {
    let mut chance = Chance::new(seed, 1);
    let length = PAGE * (1 + chance.below(SLOT / PAGE));
    let mut body = Vec::with_capacity(length);
    body.extend_from_slice(MAGIC);
    body.extend_from_slice(&seed.to_le_bytes());
    body.extend_from_slice(&u64::try_from(length).unwrap_or(0).to_le_bytes());
    body.extend_from_slice(&[0; 8]);
    while body.len() < length {
        body.extend_from_slice(&chance.next().to_le_bytes());
    }
    let sum = crc32c::crc32c(&body[HEAD..]);
    body[24..28].copy_from_slice(&sum.to_le_bytes());
    body
}

/// What bytes are: they must be exactly those that follow from the seed they name.
fn recognise(found: &[u8]) -> Content {
    if found.len() < HEAD || &found[..8] != MAGIC {
        return if found.iter().all(|byte| *byte == 0) { Content::Absent } else { Content::Any };
    }
    let number = |from: usize| {
        let mut eight = [0; 8];
        eight.copy_from_slice(&found[from..from + 8]);
        u64::from_le_bytes(eight)
    };
    let seed = number(8);
    let want = bytes(seed);
    if found.len() >= want.len() && found[..want.len()] == want { Content::Seed(seed) } else { Content::Any }
}

/// Writes the bytes of a seed.
pub(crate) fn write(place: &Place, seed: u64, sync: Sync) -> io::Result<()> {
    let bytes = bytes(seed);
    match place {
        Place::File(path) => {
            let file = OpenOptions::new().write(true).create(true).truncate(true).open(path)?;
            file.write_all_at(&bytes, 0)?;
            if sync == Sync::Yes {
                file.sync_all()?;
                File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()?;
            }
        }
        Place::Device(path, at) => {
            let device = OpenOptions::new().write(true).open(path)?;
            device.write_all_at(&bytes, *at)?;
            if sync == Sync::Yes {
                device.sync_all()?;
            }
        }
    }
    Ok(())
}

/// What is there.
pub(crate) fn read(place: &Place) -> io::Result<Content> {
    let mut found = Vec::new();
    match place {
        Place::File(path) => match File::open(path) {
            Ok(mut file) => file.read_to_end(&mut found)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Content::Absent),
            Err(error) => return Err(error),
        },
        Place::Device(path, at) => {
            found.resize(SLOT, 0);
            File::open(path)?.read_exact_at(&mut found, *at)?;
            return Ok(recognise(&found));
        }
    };
    // An empty file is one that was being written.
    Ok(if found.is_empty() { Content::Any } else { recognise(&found) })
}

/// Where the slots of a volume lie.
pub(crate) fn place(target: &Path, raw: bool, slot: usize) -> Place {
    if raw {
        let at = u64::try_from(slot * SLOT).unwrap_or(0);
        Place::Device(target.to_owned(), at)
    } else {
        Place::File(target.join(format!("slot-{slot}")))
    }
}
