//! What a disk holds, and what it has not made durable yet.
//!
//! Owns: the bytes, the writes since the last flush with what they replaced, and what of them a power cut leaves. Never: knows
//! who asks.
//!
//! A disk with a cache may write back what it likes in any order, and owes nothing but this: what was answered before a flush
//! that was answered is there. So a write changes the bytes at once, is remembered, and is forgotten at a flush. A power cut
//! undoes everything that is remembered, the newest first, and does again what it is chosen to leave, the oldest first.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};

use rustix::fs::{FallocateFlags, SeekFrom};
use rustix::io::Errno;

use crate::chance::Chance;

/// What a disk writes whole or not at all.
const SECTOR: usize = 512;
/// How much is remembered, in bytes: beyond that the disk has written back the oldest by itself.
const CACHE: usize = 64 << 20;
/// A longer run of zeros is remembered in pieces.
const PIECE: u64 = 1 << 20;
/// So many of a hundred writes that a power cut leaves are left in part.
const TORN: usize = 25;

/// What a power cut takes of the writes since the last flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Loss {
    /// Each of them.
    All,
    /// About every second one; of the others some are torn.
    Half,
    /// All but the last one, which overtook them.
    AllButLast,
}

/// What power cuts came to.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Toll {
    pub(crate) cuts: u64,
    /// Writes that are gone, that are there, and that are there in part.
    pub(crate) lost: u64,
    pub(crate) kept: u64,
    pub(crate) torn: u64,
}

/// One change of the bytes.
struct Write {
    at: u64,
    old: Vec<u8>,
    /// None for zeros.
    new: Option<Vec<u8>>,
}

impl Write {
    fn held(&self) -> usize {
        self.old.len() + self.new.as_ref().map_or(0, Vec::len)
    }

    fn new_bytes(&self) -> Vec<u8> {
        self.new.clone().unwrap_or_else(|| vec![0; self.old.len()])
    }
}

/// The bytes of a disk, in a file without a name.
pub(crate) struct Medium {
    file: File,
    unflushed: VecDeque<Write>,
    /// The bytes that `unflushed` holds.
    held: usize,
}

impl Medium {
    /// An empty disk whose bytes take their room from this file.
    pub(crate) fn new(file: File) -> Medium {
        Medium { file, unflushed: VecDeque::new(), held: 0 }
    }

    /// How long it is, and how much of it is written, in bytes.
    pub(crate) fn size(&self) -> io::Result<(u64, u64)> {
        let stat = self.file.metadata()?;
        Ok((stat.len(), stat.blocks() * 512))
    }

    /// Makes it so long.
    pub(crate) fn resize(&self, length: u64) -> io::Result<()> {
        self.file.set_len(length)
    }

    /// What is there, as far as it is that long.
    pub(crate) fn read(&self, at: u64, length: usize) -> io::Result<Vec<u8>> {
        let end =
            self.file.metadata()?.len().min(at.saturating_add(u64::try_from(length).unwrap_or(u64::MAX)));
        let mut bytes = vec![0; usize::try_from(end.saturating_sub(at)).unwrap_or(0)];
        self.file.read_exact_at(&mut bytes, at)?;
        Ok(bytes)
    }

    /// Writes, but durable it is only after a flush.
    pub(crate) fn write(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        if is_zero(bytes) {
            return self.zero(at, u64::try_from(bytes.len()).unwrap_or(0));
        }
        let mut old = vec![0; bytes.len()];
        let there = self.read(at, bytes.len())?;
        old[..there.len()].copy_from_slice(&there);
        self.file.write_all_at(bytes, at)?;
        self.remember(Write { at, old, new: Some(bytes.to_vec()) });
        Ok(())
    }

    /// The same with zeros; where nothing was ever written, nothing changes.
    pub(crate) fn zero(&mut self, at: u64, length: u64) -> io::Result<()> {
        let (mut at, end) = (at, self.file.metadata()?.len().min(at.saturating_add(length)));
        while let Some(from) = self.next(SeekFrom::Data(at))?.filter(|from| *from < end) {
            let to = self.next(SeekFrom::Hole(from))?.unwrap_or(end).min(end).min(from + PIECE);
            let old = self.read(from, usize::try_from(to - from).unwrap_or(0))?;
            self.clear(from, to - from)?;
            self.remember(Write { at: from, old, new: None });
            at = to;
        }
        Ok(())
    }

    /// How many writes a power cut could take.
    pub(crate) fn at_risk(&self) -> usize {
        self.unflushed.len()
    }

    /// All that was written is durable.
    pub(crate) fn flush(&mut self) {
        self.unflushed.clear();
        self.held = 0;
    }

    /// Takes away from what was not flushed what a power cut takes.
    pub(crate) fn lose(&mut self, loss: Loss, chance: &mut Chance) -> io::Result<Toll> {
        let writes = std::mem::take(&mut self.unflushed);
        self.held = 0;
        for write in writes.iter().rev() {
            self.put(write.at, &write.old)?;
        }
        let mut toll = Toll { cuts: 1, ..Toll::default() };
        let last = writes.len().saturating_sub(1);
        for (number, write) in writes.iter().enumerate() {
            let kept = match loss {
                Loss::All => false,
                Loss::Half => chance.percent(50),
                Loss::AllButLast => number == last,
            };
            if !kept {
                toll.lost += 1;
            } else if loss == Loss::Half && chance.percent(TORN) {
                toll.torn += 1;
                let sectors = write.new_bytes();
                for (number, sector) in sectors.chunks(SECTOR).enumerate().filter(|_| chance.percent(50)) {
                    self.put(write.at + u64::try_from(number * SECTOR).unwrap_or(0), sector)?;
                }
            } else {
                toll.kept += 1;
                self.put(write.at, &write.new_bytes())?;
            }
        }
        Ok(toll)
    }

    fn remember(&mut self, write: Write) {
        self.held += write.held();
        self.unflushed.push_back(write);
        while self.held > CACHE {
            self.held -= self.unflushed.pop_front().map_or(self.held, |oldest| oldest.held());
        }
    }

    fn put(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        if is_zero(bytes) {
            return self.clear(at, u64::try_from(bytes.len()).unwrap_or(0));
        }
        self.file.write_all_at(bytes, at)
    }

    /// Zeros that take no room.
    fn clear(&self, at: u64, length: u64) -> io::Result<()> {
        if length > 0 {
            let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            rustix::fs::fallocate(&self.file, hole, at, length)?;
        }
        Ok(())
    }

    /// Where the next data or the next hole begins.
    fn next(&self, from: SeekFrom) -> io::Result<Option<u64>> {
        match rustix::fs::seek(&self.file, from) {
            Ok(at) => Ok(Some(at)),
            Err(Errno::NXIO) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}
