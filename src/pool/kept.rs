//! The copies of records that an object carries: its own from before it gets its name until it goes, and, a member of a group
//! snapshot, that of its group.
//!
//! Owns: where the copies are and how they are made to fit. Never: looks into one, or follows what the bytes tell themselves, as
//! their size.

use std::os::fd::AsFd;

use crate::error::{Error, Result};
use crate::model::Record;
use crate::os::label;

/// What carries its own: nobody but root sees it, and no clone inherits it.
const RECORD: &str = "trusted.rockpool.record";
/// What carries that of its group.
const GROUP: &str = "trusted.rockpool.group";

/// Makes an object carry a record of this generation, in place of the one before; durable with the next sync of the object. Where only that
/// fits, without parameters and claim; a filesystem that has no extended attributes gets none.
pub(super) fn keep(of: impl AsFd, record: &Record, generation: u64) -> Result<()> {
    let name = match record {
        Record::Volume(_) | Record::Snapshot(_) => RECORD,
        Record::Group(_) => GROUP,
    };
    let put = |record: &Record| label::set(of.as_fd(), name, record.encode(generation)?.as_bytes());
    match put(record) {
        // Too long for this filesystem, or no room at all; the second try tells.
        Err(Error::Full(_)) => put(&record.lean()),
        Err(Error::Unsupported(_)) => Ok(()),
        outcome => outcome,
    }
}

/// What an object carries of itself.
pub(super) fn kept(of: impl AsFd) -> Result<Option<Vec<u8>>> {
    label::read(of, RECORD)
}

/// What an object carries of its group.
pub(super) fn kept_of_group(of: impl AsFd) -> Result<Option<Vec<u8>>> {
    label::read(of, GROUP)
}
