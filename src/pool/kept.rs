//! The copy of a record that its object carries, from before it gets its name until it goes.
//!
//! Owns: where the copy is and how it is made to fit. Never: changes it later: what may change since, the size, the bytes
//! tell themselves.

use std::os::fd::AsFd;

use crate::error::{Error, Result};
use crate::model::Record;
use crate::os::label;

/// What carries it: nobody but root sees it, and no clone inherits it.
const RECORD: &str = "trusted.rockpool.record";

/// Makes an object carry its record; durable with the next sync of the object. Where only that fits, without parameters and
/// claim; a filesystem that has no extended attributes gets none.
pub(super) fn keep(of: impl AsFd, record: &Record) -> Result<()> {
    let put = |record: &Record| label::set(of.as_fd(), RECORD, record.encode(1)?.as_bytes());
    match put(record) {
        // Too long for this filesystem, or no room at all; the second try tells.
        Err(Error::Full(_)) => put(&record.lean()),
        Err(Error::Unsupported(_)) => Ok(()),
        outcome => outcome,
    }
}

/// What an object carries.
pub(super) fn kept(of: impl AsFd) -> Result<Option<Vec<u8>>> {
    label::read(of, RECORD)
}
