//! Words of the command line that several commands share, and the CSI messages they become.
//!
//! Owns: KEY=VALUE pairs, volume capabilities and the secrets file. Never: talks to a driver.

use std::collections::BTreeMap;
use std::path::Path;

use clap::{Args, ValueEnum};

use super::failure::{Failure, Outcome};
use crate::model::Bytes;
use crate::proto::csi;
use csi::volume_capability::{AccessMode, AccessType, BlockVolume, MountVolume, access_mode};

/// One `KEY=VALUE`.
pub(super) type Pair = (String, String);

/// Reads `KEY=VALUE`; the value may hold further equal signs.
pub(super) fn pair(text: &str) -> Result<Pair, String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        Some(_) | None => Err("want KEY=VALUE".to_owned()),
    }
}

/// Pairs as a map; a later one wins.
pub(super) fn map(pairs: &[Pair]) -> BTreeMap<String, String> {
    pairs.iter().cloned().collect()
}

/// Reads a size: `4096`, `20GiB`.
pub(super) fn bytes(text: &str) -> Result<Bytes, String> {
    let size: Bytes = text.parse().map_err(|error: crate::error::Error| error.to_string())?;
    if size.get() > i64::MAX.unsigned_abs() {
        return Err(format!("want at most {} bytes: CSI carries no larger size", i64::MAX));
    }
    Ok(size)
}

/// A size range, absent where neither end is given.
pub(super) fn range(size: Option<Bytes>, limit: Option<Bytes>) -> Option<csi::CapacityRange> {
    let end = |bytes: Option<Bytes>| bytes.map_or(0, Bytes::as_i64);
    (size.is_some() || limit.is_some())
        .then(|| csi::CapacityRange { required_bytes: end(size), limit_bytes: end(limit) })
}

/// How many may use the volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Mode {
    /// One workload on one node (SINGLE_NODE_WRITER).
    Writer,
    /// One node, only reading (SINGLE_NODE_READER_ONLY).
    Reader,
    /// One workload on one node, told apart from several (SINGLE_NODE_SINGLE_WRITER).
    SingleWriter,
    /// Several workloads on one node (SINGLE_NODE_MULTI_WRITER).
    MultiWriter,
    /// Several nodes, only reading (MULTI_NODE_READER_ONLY).
    ManyReaders,
    /// Several nodes, one of them writing (MULTI_NODE_SINGLE_WRITER).
    ManyOneWriter,
    /// Several nodes writing (MULTI_NODE_MULTI_WRITER).
    ManyWriters,
}

impl Mode {
    fn wire(self) -> access_mode::Mode {
        match self {
            Mode::Writer => access_mode::Mode::SingleNodeWriter,
            Mode::Reader => access_mode::Mode::SingleNodeReaderOnly,
            Mode::SingleWriter => access_mode::Mode::SingleNodeSingleWriter,
            Mode::MultiWriter => access_mode::Mode::SingleNodeMultiWriter,
            Mode::ManyReaders => access_mode::Mode::MultiNodeReaderOnly,
            Mode::ManyOneWriter => access_mode::Mode::MultiNodeSingleWriter,
            Mode::ManyWriters => access_mode::Mode::MultiNodeMultiWriter,
        }
    }
}

/// How a volume is to be used.
#[derive(Args, Debug)]
pub(super) struct Use {
    /// A filesystem of this type; without it the driver's default.
    #[arg(long, value_name = "TYPE", conflicts_with = "block")]
    pub(super) fs: Option<String>,

    /// A raw block device instead of a filesystem.
    #[arg(long)]
    pub(super) block: bool,

    /// Who may use it.
    #[arg(long, value_enum, default_value_t = Mode::Writer)]
    pub(super) mode: Mode,

    /// A mount option; may be given several times.
    #[arg(long = "mount-flag", value_name = "FLAG", conflicts_with = "block")]
    pub(super) mount_flags: Vec<String>,
}

impl Use {
    /// As a CSI volume capability.
    pub(super) fn capability(&self) -> csi::VolumeCapability {
        let access = if self.block {
            AccessType::Block(BlockVolume {})
        } else {
            AccessType::Mount(MountVolume {
                fs_type: self.fs.clone().unwrap_or_default(),
                mount_flags: self.mount_flags.clone(),
                volume_mount_group: String::new(),
            })
        };
        csi::VolumeCapability {
            access_type: Some(access),
            access_mode: Some(AccessMode { mode: self.mode.wire().into() }),
        }
    }

    /// Whether the driver must tell one writer from several to understand it.
    pub(super) fn tells_writers_apart(&self) -> bool {
        matches!(self.mode, Mode::SingleWriter | Mode::MultiWriter)
    }
}

/// Reads the secrets file. Its text never enters a message.
pub(super) fn read_secrets(path: &Path) -> Outcome<BTreeMap<String, String>> {
    let refused = |why: String| Failure::Usage(format!("--secrets-file {}: {why}", path.display()));
    let text =
        std::fs::read_to_string(path).map_err(|error| refused(format!("failed to read it: {error}")))?;
    let lines = text.lines().enumerate().map(|(number, line)| (number + 1, line.trim()));
    lines
        .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
        .map(|(number, line)| pair(line).map_err(|why| refused(format!("line {number}: {why}"))))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_may_hold_equal_signs_and_be_empty_but_a_key_may_not() {
        assert_eq!(pair("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert_eq!(pair("a="), Ok(("a".into(), String::new())));
        assert!(pair("=b").is_err() && pair("ab").is_err());
    }

    #[test]
    fn a_size_is_sent_as_typed_or_refused() {
        assert_eq!(bytes("9223372036854775807").unwrap().as_i64(), i64::MAX);
        for text in ["9223372036854775808", "8388608T", "18446744073709551615"] {
            assert!(bytes(text).unwrap_err().contains("at most 9223372036854775807"), "{text}");
        }
    }

    #[test]
    fn no_size_is_no_range() {
        assert!(range(None, None).is_none());
        let range = range(Some(Bytes::GIB), None).unwrap();
        assert_eq!((range.required_bytes, range.limit_bytes), (1 << 30, 0));
    }
}
