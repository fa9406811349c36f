//! The names of findings.
//!
//! Owns: every code and how much it weighs. A name once published never means anything else;
//! `docs/doctor.md` explains each, and a test compares. Never: looks at anything.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};

/// What a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Code {
    /// A configured pool cannot be used.
    PoolAway,
    /// A pool was asked and does not answer.
    PoolSilent,
    /// A pool does not answer, or its filesystem gave up.
    PoolFailed,
    /// A pool takes no changes.
    PoolReadOnly,
    /// A record cannot be read.
    RecordQuarantined,
    /// A record that is gone, and can be made anew from a copy.
    RecordLost,
    /// A record that somebody put in place of a newer one.
    RecordOutdated,
    /// A record without bytes.
    ObjectMissing,
    /// An object that was deleted while a device shows it: that holds the last of its bytes.
    ObjectDeleted,
    /// An object that is shorter or longer than its record says.
    SizeWrong,
    /// A mounted volume's filesystem gave up.
    FilesystemFailed,
    /// Bytes without a record.
    OrphanObject,
    /// An unfinished record that nobody works on.
    Interrupted,
    /// What an interrupted verb left under a temporary name.
    StrayTemporary,
    /// A device that shows a volume to nobody.
    LeftoverDevice,
    /// A mount of a volume that is not there.
    LeftoverMount,
    /// More is promised than can be kept.
    CapacityShort,
    /// Hardly anything is free.
    PoolNearlyFull,
    /// An image in very many pieces.
    ImageFragmented,
    /// Anything else that the pool's health says.
    Unhealthy,
    /// A program that is needed is not installed.
    ProgramMissing,
    /// What is mounted below kubelet's directory is not seen by others, or the directory is missing.
    KubeletRoot,
    /// What Rockpool never made lies in the pool.
    ForeignFile,
    /// No snapshots and clones: the filesystem shares no blocks.
    NoReflink,
    /// Sizes of directories are not enforced.
    NoQuota,
    /// A device goes through the page cache.
    NoDirectIo,
    /// ext4 in use does not grow.
    NoSysResource,
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Weight {
    /// Good to know.
    Notice,
    /// Somebody should look.
    Warning,
    /// Something does not work, or data is at stake.
    Error,
}

impl Code {
    /// Every code.
    pub const ALL: [Code; 27] = [
        Code::PoolAway,
        Code::PoolSilent,
        Code::PoolFailed,
        Code::PoolReadOnly,
        Code::RecordQuarantined,
        Code::RecordLost,
        Code::RecordOutdated,
        Code::ObjectMissing,
        Code::ObjectDeleted,
        Code::SizeWrong,
        Code::FilesystemFailed,
        Code::OrphanObject,
        Code::Interrupted,
        Code::StrayTemporary,
        Code::LeftoverDevice,
        Code::LeftoverMount,
        Code::CapacityShort,
        Code::PoolNearlyFull,
        Code::ImageFragmented,
        Code::Unhealthy,
        Code::ProgramMissing,
        Code::KubeletRoot,
        Code::ForeignFile,
        Code::NoReflink,
        Code::NoQuota,
        Code::NoDirectIo,
        Code::NoSysResource,
    ];

    /// As it is printed, documented and typed.
    pub fn name(self) -> &'static str {
        match self {
            Code::PoolAway => "RP-POOL-AWAY",
            Code::PoolSilent => "RP-POOL-SILENT",
            Code::PoolFailed => "RP-POOL-FAILED",
            Code::PoolReadOnly => "RP-POOL-READ-ONLY",
            Code::RecordQuarantined => "RP-RECORD-QUARANTINED",
            Code::RecordLost => "RP-RECORD-LOST",
            Code::RecordOutdated => "RP-RECORD-OUTDATED",
            Code::ObjectMissing => "RP-OBJECT-MISSING",
            Code::ObjectDeleted => "RP-OBJECT-DELETED",
            Code::SizeWrong => "RP-SIZE-WRONG",
            Code::FilesystemFailed => "RP-FILESYSTEM-FAILED",
            Code::OrphanObject => "RP-ORPHAN-OBJECT",
            Code::Interrupted => "RP-INTERRUPTED",
            Code::StrayTemporary => "RP-STRAY-TEMPORARY",
            Code::LeftoverDevice => "RP-LEFTOVER-DEVICE",
            Code::LeftoverMount => "RP-LEFTOVER-MOUNT",
            Code::CapacityShort => "RP-CAPACITY-SHORT",
            Code::PoolNearlyFull => "RP-POOL-NEARLY-FULL",
            Code::ImageFragmented => "RP-IMAGE-FRAGMENTED",
            Code::Unhealthy => "RP-UNHEALTHY",
            Code::ProgramMissing => "RP-PROGRAM-MISSING",
            Code::KubeletRoot => "RP-KUBELET-ROOT",
            Code::ForeignFile => "RP-FOREIGN-FILE",
            Code::NoReflink => "RP-NO-REFLINK",
            Code::NoQuota => "RP-NO-QUOTA",
            Code::NoDirectIo => "RP-NO-DIRECT-IO",
            Code::NoSysResource => "RP-NO-SYS-RESOURCE",
        }
    }

    /// How bad it is.
    pub fn weight(self) -> Weight {
        match self {
            Code::PoolAway
            | Code::PoolSilent
            | Code::PoolFailed
            | Code::PoolReadOnly
            | Code::RecordQuarantined
            | Code::RecordLost
            | Code::RecordOutdated
            | Code::ObjectMissing
            | Code::ObjectDeleted
            | Code::SizeWrong
            | Code::FilesystemFailed => Weight::Error,
            Code::OrphanObject
            | Code::Interrupted
            | Code::StrayTemporary
            | Code::LeftoverDevice
            | Code::LeftoverMount
            | Code::CapacityShort
            | Code::PoolNearlyFull
            | Code::ImageFragmented
            | Code::Unhealthy
            | Code::ProgramMissing
            | Code::KubeletRoot => Weight::Warning,
            Code::ForeignFile | Code::NoReflink | Code::NoQuota | Code::NoDirectIo | Code::NoSysResource => {
                Weight::Notice
            }
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Code {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        Code::ALL.into_iter().find(|code| code.name() == text).ok_or_else(|| {
            let names: Vec<_> = Code::ALL.iter().map(|code| code.name()).collect();
            Error::invalid("code", text, format!("want one of {}", names.join(", ")))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the operator's guide says about.
    const GUIDE: &str = include_str!("../../../docs/doctor.md");

    #[test]
    fn every_code_is_documented_and_every_documented_code_exists() {
        let told: Vec<&str> = GUIDE.lines().filter_map(|line| line.strip_prefix("### ")).collect();
        for code in Code::ALL {
            assert_eq!(
                told.iter().filter(|name| **name == code.name()).count(),
                1,
                "{code} in docs/doctor.md"
            );
            assert_eq!(code.name().parse::<Code>().unwrap(), code);
        }
        for name in told {
            name.parse::<Code>().unwrap();
        }
    }

    #[test]
    fn no_code_is_left_out_of_the_list() {
        let mut sorted = Code::ALL;
        sorted.sort();
        assert!(sorted.windows(2).all(|pair| pair[0] != pair[1]), "a code twice");
        // Each arm of `name` is one line with its text.
        let named = include_str!("code.rs")
            .lines()
            .filter(|line| line.trim_start().starts_with("Code::") && line.contains("=> \"RP-"));
        assert_eq!(named.count(), Code::ALL.len());
    }
}
