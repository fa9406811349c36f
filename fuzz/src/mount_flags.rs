//! Mount flags: only what is on the list gets through, and nothing of a refused one is repeated.
//!
//! Owns: the list, written a second time from docs. Never: mounts.

use arbitrary::{Arbitrary, Unstructured};
use rockpool::error::Error;
use rockpool::model::{Asked, Filesystem};
use rockpool::os::mount::MountOption;

/// In a flag that nobody may ever read again.
const CANARY: &str = "c4n4ry-8c1f";
/// What both filesystems take.
const COMMON: [&str; 11] = [
    "ro",
    "noatime",
    "relatime",
    "nodiratime",
    "discard",
    "noexec",
    "nosuid",
    "nodev",
    "sync",
    "dirsync",
    "lazytime",
];
/// Beginnings of flags that are nearly right.
const KEYS: [&str; 12] = [
    "data=ordered",
    "commit=",
    "logbsize=",
    "data=",
    "nouuid",
    "prjquota",
    "barrier=",
    "context=",
    "uid=",
    "rw,",
    "errors=",
    "logdev=",
];

/// The flags of one request.
#[derive(Arbitrary, Debug)]
struct Input<'a> {
    fs: u8,
    flags: Vec<Flag<'a>>,
}

#[derive(Arbitrary, Debug)]
enum Flag<'a> {
    Common(u8),
    Keyed(u8, &'a str),
    Commit(u16),
    LogBuffer(u32, bool),
    Any(&'a str),
    Canary(&'a str),
}

impl Flag<'_> {
    fn text(&self) -> String {
        match self {
            Flag::Common(n) => COMMON[usize::from(*n) % COMMON.len()].to_owned(),
            Flag::Keyed(n, value) => format!("{}{value}", KEYS[usize::from(*n) % KEYS.len()]),
            Flag::Commit(seconds) => format!("commit={seconds}"),
            Flag::LogBuffer(size, kib) => format!("logbsize={size}{}", if *kib { "k" } else { "" }),
            Flag::Any(text) => (*text).to_owned(),
            Flag::Canary(text) => format!("{text}{CANARY}"),
        }
    }
}

/// Reads flags, for each filesystem and for none.
///
/// # Panics
/// Where a flag is taken that should not be, or the other way round, or is told.
pub fn check(data: &[u8]) {
    let Ok(input) = Input::arbitrary_take_rest(Unstructured::new(data)) else { return };
    let flags: Vec<String> = input.flags.iter().map(Flag::text).collect();
    let fs = ["ext4", "xfs", "directory", ""][usize::from(input.fs) % 4];
    let read = MountOption::parse_all(&flags, fs);
    assert_eq!(read.is_ok(), allowed(&flags, fs), "{fs} {flags:?}: {read:?}");
    match &read {
        Ok(options) => {
            assert!(options.is_sorted_by(|one, other| one < other), "{options:?} has one twice");
            let mut keys: Vec<&str> = flags.iter().map(|flag| key(flag)).collect();
            keys.sort_unstable();
            keys.dedup();
            let mut told: Vec<String> = options.iter().map(|option| format!("{option:?}")).collect();
            told.sort_unstable();
            assert_eq!(told, keys, "an option more or less, or one that tells its value");
        }
        Err(error) => silent(error),
    }
    for (asked, right) in [
        (Asked::Mount(Some(Filesystem::Ext4)), allowed(&flags, "ext4")),
        (Asked::Mount(Some(Filesystem::Xfs)), allowed(&flags, "xfs")),
        (Asked::Mount(None), allowed(&flags, "ext4") || allowed(&flags, "xfs")),
        (Asked::Block, flags.is_empty()),
    ] {
        let taken = asked.allows(&flags);
        assert_eq!(taken.is_ok(), right, "{asked:?} {flags:?}");
        taken.err().iter().for_each(silent);
    }
}

fn silent(error: &Error) {
    assert!(matches!(error, Error::Invalid(_)), "{error:?}");
    let said = error.to_string();
    assert!(!said.contains("c4n4ry") && !said.contains(char::is_control), "{said:?}");
}

fn key(flag: &str) -> &str {
    flag.split_once('=').map_or(flag, |(key, _)| key)
}

/// At most 32 flags and 4 KiB, each on the list, none twice with different values, not both ways of access times.
fn allowed(flags: &[String], fs: &str) -> bool {
    let total: usize = flags.iter().map(String::len).sum();
    let clash = |one: &String, other: &String| {
        (key(one) == key(other) && meant(one) != meant(other)) || (one == "noatime" && other == "relatime")
    };
    flags.len() <= 32
        && total <= 4096
        && flags.iter().all(|flag| listed(flag, fs))
        && !flags.iter().any(|one| flags.iter().any(|other| clash(one, other)))
}

/// A value as the kernel takes it: sizes of xfs's log buffers in bytes.
fn meant(flag: &str) -> String {
    match flag.strip_prefix("logbsize=") {
        Some(size) => match size.strip_suffix('k') {
            Some(kib) => format!("{}", kib.parse::<u64>().unwrap_or(0) * 1024),
            None => size.to_owned(),
        },
        None => flag.to_owned(),
    }
}

fn listed(flag: &str, fs: &str) -> bool {
    let sizes = ["32k", "64k", "128k", "256k", "32768", "65536", "131072", "262144"];
    COMMON.contains(&flag)
        || (fs == "ext4" && flag == "data=ordered")
        || (fs == "ext4" && (1..=60).any(|seconds| flag == format!("commit={seconds}")))
        || (fs == "xfs" && sizes.iter().any(|size| flag == format!("logbsize={size}")))
}
