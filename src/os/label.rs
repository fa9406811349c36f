//! Labels: short notes of ours on a file or directory, as extended attributes that only root sees.
//!
//! Owns: reading and writing them on an open file or directory. Never: follows a path.

use std::os::fd::AsFd;

use rustix::fs::XattrFlags;
use rustix::io::Errno;

use crate::error::{Error, Result};

/// Puts a label on a file, like `trusted.rockpool.kind`. Durable with the next sync of the file; a clone does not inherit it.
///
/// # Errors
/// `Unsupported` where the filesystem has no extended attributes.
pub fn set(of: impl AsFd, name: &str, value: &[u8]) -> Result<()> {
    rustix::fs::fsetxattr(of, name, value, XattrFlags::empty()).map_err(|error| match error {
        Errno::OPNOTSUPP => Error::Unsupported("this filesystem has no extended attributes".to_owned()),
        other => Error::host(format!("failed to label a file with {name}"), other.into()),
    })
}

/// Whether a file has this label, whatever its value.
pub fn has(of: impl AsFd, name: &str) -> Result<bool> {
    let mut nothing: [u8; 0] = [];
    match rustix::fs::fgetxattr(of, name, &mut nothing[..]) {
        Ok(_) => Ok(true),
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(false),
        Err(error) => Err(Error::host(format!("failed to read the label {name} of a file"), error.into())),
    }
}

/// The value of a label, of at most 64 bytes; `None` where there is no such label.
pub fn read(of: impl AsFd, name: &str) -> Result<Option<Vec<u8>>> {
    let mut value = [0; 64];
    match rustix::fs::fgetxattr(of, name, &mut value[..]) {
        Ok(length) => Ok(Some(value[..length].to_vec())),
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(None),
        Err(error) => Err(Error::host(format!("failed to read the label {name} of a file"), error.into())),
    }
}
