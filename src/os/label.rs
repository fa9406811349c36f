//! Labels: short notes of ours on a file or directory, as extended attributes that only root sees.
//!
//! Owns: reading and writing them on an open file or directory. Never: follows a path.

use std::os::fd::AsFd;

use rustix::fs::XattrFlags;
use rustix::io::Errno;

use crate::error::{Error, Result};

/// Most labels are shorter, in bytes.
const USUAL: usize = 4096;
/// No filesystem has longer ones, in bytes.
const LARGEST: usize = 64 << 10;

/// Puts a label on a file, like `trusted.rockpool.kind`. Durable with the next sync of the file; a clone does not inherit it.
///
/// # Errors
/// `Unsupported` where the filesystem has no extended attributes, `Full` where it has no room for this one.
pub fn set(of: impl AsFd, name: &str, value: &[u8]) -> Result<()> {
    rustix::fs::fsetxattr(of, name, value, XattrFlags::empty()).map_err(|error| match error {
        Errno::OPNOTSUPP => Error::Unsupported("this filesystem has no extended attributes".to_owned()),
        Errno::TOOBIG => Error::Full(format!("{name} is {} bytes: more than a label can hold", value.len())),
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

/// The value of a label; `None` where there is no such label.
pub fn read(of: impl AsFd, name: &str) -> Result<Option<Vec<u8>>> {
    let sized = |size: usize| {
        let mut value = vec![0; size];
        let length = rustix::fs::fgetxattr(of.as_fd(), name, &mut value[..])?;
        value.truncate(length);
        Ok(value)
    };
    let read = sized(USUAL).or_else(|error| if error == Errno::RANGE { sized(LARGEST) } else { Err(error) });
    match read {
        Ok(value) => Ok(Some(value)),
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(None),
        Err(error) => Err(Error::host(format!("failed to read the label {name} of a file"), error.into())),
    }
}
