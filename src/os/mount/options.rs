//! The one allow-list of mount options that a CSI caller may ask for.
//!
//! Owns: which words are accepted, for which filesystem, and how each becomes a typed kernel parameter. Never: passes an
//! option string on, or repeats a value: what callers put into `mount_flags` is never logged, so messages say its position,
//! and the key only where everybody knows it.

use std::fmt;

use rustix::mount::MountAttrFlags;

use crate::error::{Error, Result, quoted};

/// The most flags that one request may carry.
const MOST_FLAGS: usize = 32;
/// The most bytes that all flags of one request may have together.
const MOST_BYTES: usize = 4096;
/// Options that other drivers allow and people therefore try. None is allowed here unless `MountOption` says so.
const KNOWN: [&str; 31] = [
    "async",
    "atime",
    "barrier",
    "bind",
    "commit",
    "context",
    "data",
    "defaults",
    "dev",
    "discard",
    "errors",
    "exec",
    "gid",
    "loop",
    "logbsize",
    "logdev",
    "mode",
    "nobarrier",
    "nouuid",
    "offset",
    "prjquota",
    "quota",
    "rbind",
    "remount",
    "rw",
    "strictatime",
    "suid",
    "uid",
    "uquota",
    "usrquota",
    "x-systemd.automount",
];
/// The longest time that ext4 may keep data in memory before a commit, in seconds.
const MOST_COMMIT: u8 = 60;

/// One accepted mount option; its value can only be one that the allow-list knows.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MountOption(Word);

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Word {
    ReadOnly,
    NoAtime,
    RelAtime,
    NoDirAtime,
    Discard,
    NoExec,
    NoSuid,
    NoDev,
    Sync,
    DirSync,
    LazyTime,
    DataOrdered,
    Commit(u8),
    LogBufferKib(u16),
    NoUuid,
    ProjectQuota,
}

/// What the kernel is told about one option when a filesystem is mounted.
pub(super) enum Parameter {
    /// Says nothing to the filesystem: the option belongs to the mount.
    OfTheMount,
    /// A word.
    Flag(&'static str),
    /// A key and its value.
    Text(&'static str, String),
}

impl MountOption {
    /// One flag as a caller wrote it, for the filesystem `fs` ("ext4" or "xfs"; anything else gets the common ones only).
    ///
    /// # Errors
    /// What would be right; the flag itself is not repeated.
    fn parse(text: &str, fs: &str) -> std::result::Result<MountOption, &'static str> {
        if text.contains(',') || text.chars().any(char::is_control) {
            return Err("want one option each, without commas or control characters");
        }
        if let Some(word) = common(text) {
            return Ok(MountOption(word));
        }
        let (key, value) = text.split_once('=').unwrap_or((text, ""));
        match (key, fs) {
            ("data", "ext4") if value == "ordered" => Ok(MountOption(Word::DataOrdered)),
            ("data", "ext4") => Err("only data=ordered is allowed"),
            ("commit", "ext4") => number(value)
                .and_then(|seconds| u8::try_from(seconds).ok())
                .filter(|seconds| (1..=MOST_COMMIT).contains(seconds))
                .map(|seconds| MountOption(Word::Commit(seconds)))
                .ok_or("commit must be 1 to 60 seconds"),
            ("logbsize", "xfs") => log_buffer(value)
                .map(|kib| MountOption(Word::LogBufferKib(kib)))
                .ok_or("logbsize must be 32k, 64k, 128k or 256k"),
            ("data" | "commit", _) => Err("data and commit are for ext4 volumes only"),
            ("logbsize", _) => Err("logbsize is for xfs volumes only"),
            _ => Err(
                "it is not on the list of allowed options (ro, noatime, relatime, nodiratime, discard, noexec, nosuid, \
                 nodev, sync, dirsync, lazytime; ext4: data=ordered, commit; xfs: logbsize)",
            ),
        }
    }

    /// All flags of one request: checked, sorted, each once, and not contradicting each other.
    pub fn parse_all(texts: &[String], fs: &str) -> Result<Vec<MountOption>> {
        let bytes: usize = texts.iter().map(String::len).sum();
        if bytes > MOST_BYTES {
            return Err(Error::Invalid(format!(
                "mount_flags: {bytes} bytes in all, at most {MOST_BYTES} are allowed"
            )));
        }
        if texts.len() > MOST_FLAGS {
            return Err(Error::Invalid(format!(
                "mount_flags: {} flags, at most {MOST_FLAGS} are allowed",
                texts.len()
            )));
        }
        let one = |(n, text): (usize, &String)| {
            MountOption::parse(text, fs)
                .map_err(|want| Error::Invalid(format!("mount_flags[{n}]{}: {want}", shown(text))))
        };
        let mut options = texts.iter().enumerate().map(one).collect::<Result<Vec<_>>>()?;
        options.sort_unstable();
        options.dedup();
        for pair in options.windows(2) {
            let (one, other) = (pair[0].key(), pair[1].key());
            let clash = one == other || (one, other) == ("noatime", "relatime");
            if clash && !planted!("flags-contradict") {
                return Err(Error::Invalid(format!(
                    "mount_flags: `{one}` and `{other}` contradict each other"
                )));
            }
        }
        Ok(options)
    }

    /// Nothing on the mount can be run.
    pub fn no_exec() -> MountOption {
        MountOption(Word::NoExec)
    }

    /// Lets an xfs clone mount beside its origin, which has the same UUID. No caller can ask for it.
    pub fn no_uuid() -> MountOption {
        MountOption(Word::NoUuid)
    }

    /// Lets an xfs enforce the sizes of directories. No caller can ask for it.
    pub fn project_quota() -> MountOption {
        MountOption(Word::ProjectQuota)
    }

    /// The option that makes the whole filesystem read-only.
    pub fn read_only() -> MountOption {
        MountOption(Word::ReadOnly)
    }

    /// Whether this is `ro`.
    pub fn is_read_only(self) -> bool {
        self.0 == Word::ReadOnly
    }

    /// The option's name, without its value: fit for messages.
    pub fn key(self) -> &'static str {
        match self.0 {
            Word::ReadOnly => "ro",
            Word::NoAtime => "noatime",
            Word::RelAtime => "relatime",
            Word::NoDirAtime => "nodiratime",
            Word::Discard => "discard",
            Word::NoExec => "noexec",
            Word::NoSuid => "nosuid",
            Word::NoDev => "nodev",
            Word::Sync => "sync",
            Word::DirSync => "dirsync",
            Word::LazyTime => "lazytime",
            Word::DataOrdered => "data",
            Word::Commit(_) => "commit",
            Word::LogBufferKib(_) => "logbsize",
            Word::NoUuid => "nouuid",
            Word::ProjectQuota => "prjquota",
        }
    }

    /// What the filesystem is told.
    pub(super) fn parameter(self) -> Parameter {
        match self.0 {
            Word::NoAtime | Word::RelAtime | Word::NoDirAtime | Word::NoExec | Word::NoSuid | Word::NoDev => {
                Parameter::OfTheMount
            }
            Word::ReadOnly
            | Word::Discard
            | Word::Sync
            | Word::DirSync
            | Word::LazyTime
            | Word::NoUuid
            | Word::ProjectQuota => Parameter::Flag(self.key()),
            Word::DataOrdered => Parameter::Text("data", "ordered".to_owned()),
            Word::Commit(seconds) => Parameter::Text("commit", seconds.to_string()),
            Word::LogBufferKib(kib) => Parameter::Text("logbsize", format!("{kib}k")),
        }
    }

    /// What the mount is told.
    pub(super) fn attribute(self) -> MountAttrFlags {
        match self.0 {
            Word::ReadOnly => MountAttrFlags::MOUNT_ATTR_RDONLY,
            Word::NoAtime => MountAttrFlags::MOUNT_ATTR_NOATIME,
            Word::NoDirAtime => MountAttrFlags::MOUNT_ATTR_NODIRATIME,
            Word::NoExec => MountAttrFlags::MOUNT_ATTR_NOEXEC,
            Word::NoSuid => MountAttrFlags::MOUNT_ATTR_NOSUID,
            Word::NoDev => MountAttrFlags::MOUNT_ATTR_NODEV,
            // Relative is what a mount does anyway: its bits are zero.
            Word::RelAtime
            | Word::Discard
            | Word::Sync
            | Word::DirSync
            | Word::LazyTime
            | Word::DataOrdered
            | Word::Commit(_)
            | Word::LogBufferKib(_)
            | Word::NoUuid
            | Word::ProjectQuota => MountAttrFlags::empty(),
        }
    }

    /// Whether the option says when access times are written.
    pub(super) fn sets_access_time(self) -> bool {
        matches!(self.0, Word::NoAtime | Word::RelAtime)
    }
}

/// Shows the key only: a value may never reach a log, not even by `{:?}`.
impl fmt::Debug for MountOption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.key())
    }
}

fn common(text: &str) -> Option<Word> {
    Some(match text {
        "ro" => Word::ReadOnly,
        "noatime" => Word::NoAtime,
        "relatime" => Word::RelAtime,
        "nodiratime" => Word::NoDirAtime,
        "discard" => Word::Discard,
        "noexec" => Word::NoExec,
        "nosuid" => Word::NoSuid,
        "nodev" => Word::NoDev,
        "sync" => Word::Sync,
        "dirsync" => Word::DirSync,
        "lazytime" => Word::LazyTime,
        _ => return None,
    })
}

/// A plain decimal number: no sign, no blanks, no leading zero, since the kernel would read that as octal.
fn number(text: &str) -> Option<u32> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
    plain.then(|| text.parse().ok()).flatten()
}

/// The size of xfs's log buffers in KiB, from bytes or with a `k`.
fn log_buffer(text: &str) -> Option<u16> {
    let kib = match text.strip_suffix('k') {
        Some(kib) => number(kib)?,
        None => number(text).filter(|bytes| bytes.is_multiple_of(1024))? / 1024,
    };
    matches!(kib, 32 | 64 | 128 | 256).then(|| u16::try_from(kib).ok()).flatten()
}

/// How a message repeats a refused flag: by the key where every manual knows it, else not at all, since a word that nobody
/// knows may be the secret itself.
fn shown(text: &str) -> String {
    let key = text.split_once('=').map_or(text, |(key, _)| key);
    if KNOWN.contains(&key) { format!(" {}", quoted(key)) } else { String::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_listed_option_is_accepted_where_it_belongs() {
        let both = [
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
        for word in both {
            for fs in ["ext4", "xfs"] {
                assert_eq!(MountOption::parse(word, fs).unwrap().key(), word);
            }
        }
        for word in ["data=ordered", "commit=1", "commit=60"] {
            MountOption::parse(word, "ext4").unwrap();
            MountOption::parse(word, "xfs").unwrap_err();
        }
        for word in ["logbsize=32k", "logbsize=256k", "logbsize=65536"] {
            MountOption::parse(word, "xfs").unwrap();
            MountOption::parse(word, "ext4").unwrap_err();
        }
    }

    #[test]
    fn hostile_options_are_refused_and_their_values_not_repeated() {
        let hostile = [
            "",
            " ro",
            "ro ",
            "RO",
            "rw",
            "exec",
            "suid",
            "dev",
            "loop",
            "nobarrier",
            "nouuid",
            "ro,suid",
            "ro\0",
            "ro\n",
            "ro=s3cret",
            "noatime=s3cret",
            "x-s3cret=s3cret",
            "s3cret",
            "ro,s3cret",
            "context=s3cret",
            "data=s3cret",
            "data",
            "commit",
            "commit=",
            "commit=0",
            "commit=61",
            "commit=05",
            "commit=+5",
            "commit=-1",
            "commit=5s3cret",
            "commit=99999999999",
            "logbsize=16k",
            "logbsize=512k",
            "logbsize=48k",
            "logbsize=k",
            "logbsize=32769",
            "logbsize=32K",
            "uid=0",
            "journal_path=/etc",
            "init_itable",
            "norecovery",
            "errors=panic",
            "é",
        ];
        for fs in ["ext4", "xfs", "", "btrfs"] {
            for text in hostile {
                let error = MountOption::parse_all(&["ro".to_owned(), text.to_owned()], fs).unwrap_err();
                assert!(matches!(error, Error::Invalid(_)), "{text:?}");
                let said = error.to_string();
                assert!(said.starts_with("mount_flags[1]"), "{said}");
                assert!(!said.contains("s3cret") && !said.contains('\n') && !said.contains('\0'), "{said}");
            }
        }
        let said = MountOption::parse_all(&["suid".to_owned()], "xfs").unwrap_err().to_string();
        assert!(said.starts_with("mount_flags[0] `suid`: "), "{said}");
    }

    #[test]
    fn the_whole_list_is_limited_sorted_and_free_of_contradictions() {
        let list = |words: &[&str]| {
            MountOption::parse_all(&words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>(), "ext4")
        };
        assert_eq!(list(&["noexec", "ro", "noexec"]).unwrap(), list(&["ro", "noexec"]).unwrap());
        list(&["noatime", "relatime"]).unwrap_err();
        list(&["commit=5", "commit=6"]).unwrap_err();
        assert_eq!(list(&["commit=5", "commit=5"]).unwrap().len(), 1);
        list(&["ro"; 32]).unwrap();
        list(&["ro"; 33]).unwrap_err();
        let said = list(&["x".repeat(4097).as_str()]).unwrap_err().to_string();
        assert!(said.contains("4097 bytes"), "{said}");
        assert_eq!(format!("{:?}", list(&["commit=42"]).unwrap()), "[commit]");
    }
}
