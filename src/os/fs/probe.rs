//! What lies on a device or in an image file, read from the bytes themselves.
//!
//! Owns: superblocks and the signatures of others. Never: writes, runs a program, or takes a failed read for emptiness.

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::os::file;

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const BLOCK: usize = 4096;
/// How many places between start and end are sampled for old data.
const SAMPLES: u64 = 256;

/// What was recognised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// An ext4 filesystem.
    Ext4 {
        /// Its UUID, in lower case.
        uuid: String,
        /// What the superblock says about its size.
        size_bytes: u64,
        /// Whether it was unmounted cleanly and has no known error.
        clean: bool,
        /// Whether the kernel met an error in it, and nobody checked it since.
        errors: bool,
    },
    /// An XFS filesystem.
    Xfs {
        /// Its UUID, in lower case.
        uuid: String,
        /// What the superblock says about its size.
        size_bytes: u64,
    },
    /// Only zeros in the first and the last MiB. That is no permission to format anything.
    Empty,
    /// Something else; the text says what, as far as it is known.
    Foreign(String),
}

/// Whether a device or file may be taken for a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Emptiness {
    /// Zeros wherever any filesystem or volume manager keeps its marks, and nobody uses it.
    Empty,
    /// Something is there.
    NotEmpty {
        /// What it is, as far as it is known.
        what: String,
        /// Where, in bytes from the start.
        at: u64,
    },
    /// The kernel says that it is mounted or otherwise in use.
    InUse(String),
}

/// What lies in an open device or image file.
pub fn probe(file: &File) -> Result<Found> {
    file::ask_device(file)?;
    let head = read(file, 0, BLOCK)?;
    if let Some(found) = xfs(&head).or_else(|| ext4(&head)) {
        return Ok(found);
    }
    let size = size_of(file)?;
    if let Some((what, _)) = signature(file, size)? {
        return Ok(Found::Foreign(what));
    }
    for (from, to) in [(0, MIB.min(size)), (size.saturating_sub(MIB), size)] {
        if let Some(at) = first_data(file, from, to)? {
            return Ok(Found::Foreign(format!("unknown data at byte {at}")));
        }
    }
    Ok(Found::Empty)
}

/// Whether `file`, of `size` bytes, can be made a pool without destroying anything: zeros at both ends, at the places of
/// all signatures and backup superblocks, in samples between, and no user of the device.
pub fn provably_empty(file: &File, size: u64) -> Result<Emptiness> {
    if let Some(user) = user_of(file)? {
        return Ok(Emptiness::InUse(user));
    }
    match probe(file)? {
        Found::Ext4 { uuid, .. } => {
            return Ok(Emptiness::NotEmpty { what: format!("an ext4 filesystem (UUID {uuid})"), at: KIB });
        }
        Found::Xfs { uuid, .. } => {
            return Ok(Emptiness::NotEmpty { what: format!("an XFS filesystem (UUID {uuid})"), at: 0 });
        }
        Found::Foreign(_) | Found::Empty => {}
    }
    if let Some((what, at)) = signature(file, size)? {
        return Ok(Emptiness::NotEmpty { what, at });
    }
    let mut ranges = vec![(0, (4 * MIB).min(size)), (size.saturating_sub(4 * MIB), size)];
    ranges.extend(backups(size).into_iter().map(|at| (at, (at + BLOCK as u64).min(size))));
    for (from, to) in ranges {
        if let Some(at) = first_data(file, from, to)? {
            return Ok(Emptiness::NotEmpty { what: "unknown data".to_owned(), at });
        }
    }
    Ok(Emptiness::Empty)
}

/// Where others keep second copies of their superblocks, and evenly spaced samples.
fn backups(size: u64) -> Vec<u64> {
    let block = BLOCK as u64;
    // ext4 keeps copies in groups 1, 3, 5, 7 and their powers, for blocks of 1, 2 and 4 KiB.
    let ext4 = [1u64, 3, 5, 7, 9, 25, 27, 49]
        .into_iter()
        .flat_map(|group| [group * 8192 * KIB + KIB, group * 16384 * 2 * KIB, group * 32768 * 4 * KIB]);
    // btrfs keeps copies at 64 MiB and 256 GiB, xfs one at the start of each of usually four groups.
    let others = [64 * MIB, 256 * KIB * MIB, size / 4, size / 2, size / 4 * 3];
    let samples = (1..SAMPLES).map(|sample| size / SAMPLES * sample);
    ext4.chain(others).chain(samples).map(|at| at / block * block).filter(|at| *at < size).collect()
}

/// Who uses a block device: opening it exclusively fails while it, or a partition of it, is mounted or part of something.
fn user_of(file: &File) -> Result<Option<String>> {
    let kind =
        file.metadata().map_err(|error| Error::host("failed to look at the device", error))?.file_type();
    if !kind.is_block_device() {
        return Ok(None);
    }
    let flags = OFlags::RDONLY | OFlags::EXCL | OFlags::CLOEXEC;
    match rustix::fs::open(crate::os::file::program_path(file), flags, Mode::empty()) {
        Ok(_) => Ok(None),
        Err(Errno::BUSY) => Ok(Some("it is mounted, or part of a RAID, volume group or mapping".to_owned())),
        Err(error) => Err(Error::host("failed to open the device exclusively", error.into())),
    }
}

fn xfs(head: &[u8]) -> Option<Found> {
    if !head.starts_with(b"XFSB") || head.len() < 120 {
        return None;
    }
    let block = u32::from_be_bytes(array(head, 4)?);
    let blocks = u64::from_be_bytes(array(head, 8)?);
    Some(Found::Xfs { uuid: uuid(array(head, 32)?), size_bytes: blocks.saturating_mul(block.into()) })
}

/// The ext4 superblock lies 1 KiB into the device.
fn ext4(head: &[u8]) -> Option<Found> {
    const EXTENTS: u32 = 0x40;
    const JOURNAL_DEVICE: u32 = 0x8;
    const NEEDS_RECOVERY: u32 = 0x4;
    const WIDE: u32 = 0x80;
    let sb = head.get(1024..2048)?;
    let u16_at = |at| array(sb, at).map(u16::from_le_bytes);
    let u32_at = |at| array(sb, at).map(u32::from_le_bytes);
    if u16_at(0x38)? != 0xEF53 {
        return None;
    }
    let features = u32_at(0x60)?;
    if features & JOURNAL_DEVICE != 0 {
        return Some(Found::Foreign("the journal of an ext3 or ext4 filesystem".to_owned()));
    }
    if features & EXTENTS == 0 {
        return Some(Found::Foreign("an ext2 or ext3 filesystem".to_owned()));
    }
    let high = if features & WIDE == 0 { 0 } else { u32_at(0x150)? };
    let blocks = u64::from(u32_at(0x4)?) | u64::from(high) << 32;
    let size_bytes = blocks.saturating_mul(KIB.checked_shl(u32_at(0x18)?).unwrap_or(0));
    // State: bit 0 is "unmounted cleanly", bit 1 "errors were found".
    let state = u16_at(0x3A)?;
    let (clean, errors) = (state & 3 == 1 && features & NEEDS_RECOVERY == 0, state & 2 != 0);
    Some(Found::Ext4 { uuid: uuid(array(sb, 0x68)?), size_bytes, clean, errors })
}

/// The size in blocks and the block size that a superblock at the start of `head` claims; for growing.
pub(super) fn size_in(head: &[u8]) -> Option<u64> {
    match xfs(head).or_else(|| ext4(head))? {
        Found::Ext4 { size_bytes, .. } | Found::Xfs { size_bytes, .. } => Some(size_bytes),
        Found::Empty | Found::Foreign(_) => None,
    }
}

/// One mark of somebody else: where, which bytes, and whose.
type Mark = (u64, &'static [u8], &'static str);

const MARKS: &[Mark] = &[
    (0, b"LUKS\xba\xbe", "a LUKS encrypted device"),
    (64 * KIB + 64, b"_BHRfS_M", "a btrfs filesystem"),
    (1024, b"\x10\x20\xf5\xf2", "an F2FS filesystem"),
    (0, b"hsqs", "a squashfs filesystem"),
    (32 * KIB + 1, b"CD001", "an ISO 9660 filesystem"),
    (4096, b"\xfc\x4e\x2b\xa9", "a Linux RAID member"),
    (0, b"\xfc\x4e\x2b\xa9", "a Linux RAID member"),
    (
        4096 + 24,
        b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81",
        "a bcache or bcachefs device",
    ),
    (4096 - 10, b"SWAPSPACE2", "swap space"),
    (4096 - 10, b"SWAP-SPACE", "swap space"),
    (64 * KIB - 10, b"SWAPSPACE2", "swap space"),
    (3, b"NTFS    ", "an NTFS filesystem"),
    (3, b"EXFAT   ", "an exFAT filesystem"),
    (82, b"FAT32   ", "a FAT filesystem"),
    (54, b"FAT16   ", "a FAT filesystem"),
    (54, b"FAT12   ", "a FAT filesystem"),
    (64 * KIB + 52, b"ReIsEr", "a ReiserFS filesystem"),
    (32 * KIB, b"JFS1", "a JFS filesystem"),
    (0, b"bluestore block device", "a Ceph OSD"),
    (512, b"EFI PART", "a GPT partition table"),
    (4096, b"EFI PART", "a GPT partition table"),
];

fn signature(file: &File, size: u64) -> Result<Option<(String, u64)>> {
    let found = |(what, at): (&str, u64)| Some((what.to_owned(), at));
    for (at, bytes, what) in MARKS {
        if read(file, *at, bytes.len())? == *bytes {
            return Ok(found((what, *at)));
        }
    }
    for sector in 0..4 {
        let label = read(file, sector * 512, 32)?;
        if label.starts_with(b"LABELONE") && label.get(24..) == Some(b"LVM2 001") {
            return Ok(found(("an LVM physical volume", sector * 512)));
        }
    }
    if let Some(at) = zfs(file, size)? {
        return Ok(found(("a ZFS pool member", at)));
    }
    if let Some(at) = raid_at_the_end(file, size)? {
        return Ok(found(("a Linux RAID member", at)));
    }
    if size >= KIB && read(file, size / 512 * 512 - 512, 8)? == b"EFI PART" {
        return Ok(found(("the backup of a GPT partition table", size / 512 * 512 - 512)));
    }
    if read(file, 510, 2)? == [0x55, 0xAA] {
        return Ok(found(("an MBR partition table or boot sector", 510)));
    }
    if let Some(Found::Foreign(what)) = ext4(&read(file, 0, BLOCK)?) {
        return Ok(found((&what, KIB)));
    }
    Ok(None)
}

/// ZFS keeps four labels of 256 KiB, two at each end, each with a ring of uberblocks in its second half.
fn zfs(file: &File, size: u64) -> Result<Option<u64>> {
    const LABEL: u64 = 256 * KIB;
    let end = size / LABEL * LABEL;
    for label in
        [Some(0), Some(LABEL), end.checked_sub(2 * LABEL), end.checked_sub(LABEL)].into_iter().flatten()
    {
        let ring = read(file, label + LABEL / 2, 128 * 1024)?;
        for (slot, block) in (0u64..).zip(ring.chunks(1024)) {
            let magic = block.get(..8);
            if magic == Some(&0x00ba_b10c_u64.to_le_bytes()) || magic == Some(&0x00ba_b10c_u64.to_be_bytes())
            {
                return Ok(Some(label + LABEL / 2 + slot * KIB));
            }
        }
    }
    Ok(None)
}

/// Linux RAID of format 0.90 and 1.0 has its mark near the end.
fn raid_at_the_end(file: &File, size: u64) -> Result<Option<u64>> {
    let old = (size / (64 * KIB) * (64 * KIB)).checked_sub(64 * KIB);
    let new = size.checked_sub(8 * KIB).map(|at| at / 4096 * 4096);
    for at in [old, new].into_iter().flatten() {
        let magic = read(file, at, 4)?;
        if magic == 0xa92b_4efc_u32.to_le_bytes() || magic == 0xa92b_4efc_u32.to_be_bytes() {
            return Ok(Some(at));
        }
    }
    Ok(None)
}

fn first_data(file: &File, from: u64, to: u64) -> Result<Option<u64>> {
    const CHUNK: usize = 256 * 1024;
    let mut at = from;
    while at < to {
        let want = usize::try_from(to - at).unwrap_or(CHUNK).min(CHUNK);
        let bytes = read(file, at, want)?;
        if let Some(offset) = bytes.iter().position(|byte| *byte != 0) {
            return Ok(Some(at + offset as u64));
        }
        if bytes.len() < want {
            return Ok(None);
        }
        at += want as u64;
    }
    Ok(None)
}

/// Reads up to `length` bytes; fewer only at the end.
fn read(file: &File, at: u64, length: usize) -> Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    let mut done = 0;
    while done < length {
        match file.read_at(&mut bytes[done..], at + done as u64) {
            Ok(0) => break,
            Ok(more) => done += more,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Error::host(format!("failed to read at byte {at}"), error)),
        }
    }
    bytes.truncate(done);
    Ok(bytes)
}

/// The size of a device or file; a device's metadata says zero, so the end is sought.
fn size_of(mut file: &File) -> Result<u64> {
    file.seek(SeekFrom::End(0)).map_err(|error| Error::host("failed to find the size", error))
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

pub(super) fn uuid(bytes: [u8; 16]) -> String {
    use std::fmt::Write;
    let mut text = String::with_capacity(36);
    for (index, byte) in bytes.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}
