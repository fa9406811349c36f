//! The programs that make, check and enlarge filesystems.
//!
//! Owns: their pinned options and what their exit codes mean. Never: takes an option from a caller, lets a newer program
//! choose features that an older kernel cannot mount, or repairs more than a journal replay and what is safe (`-p`).

use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use super::FsKind;
use crate::error::{Error, Result};

/// The ext4 features, from none: all of them known to Linux 4.4 and later.
const EXT4_FEATURES: &str = "none,has_journal,ext_attr,resize_inode,dir_index,filetype,extent,64bit,flex_bg,sparse_super,\
                             large_file,huge_file,dir_nlink,extra_isize,metadata_csum,metadata_csum_seed";
/// How ext4 is laid out: nothing is discarded, which would undo a preallocation, and nothing is zeroed twice.
const EXT4_EXTENDED: &str = "nodiscard,lazy_itable_init=1,lazy_journal_init=1";
/// The xfs metadata features, all known to Linux 5.10 and later.
const XFS_METADATA: &str = "crc=1,finobt=1,rmapbt=0,reflink=1,bigtime=1,inobtcount=1";
/// Features that newer versions of mkfs.xfs know and may turn on: switched off where the program knows them.
const XFS_NEWER: &[(&str, &str)] =
    &[("-i", "nrext64"), ("-i", "exchange"), ("-n", "parent"), ("-m", "metadir"), ("-m", "autofsck")];
/// The longest end of a program's words that an error repeats.
const MOST_SAID: usize = 1000;

/// What a check found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// Nothing was wrong.
    Clean,
    /// Something was, and it is repaired now.
    Repaired,
}

/// The path under which a program that we start can open a descriptor of ours.
pub fn fd_path(fd: BorrowedFd<'_>) -> PathBuf {
    PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), fd.as_raw_fd()))
}

/// Makes the filesystem of a volume directly in its image file, before that is attached. Whatever is in there is gone.
/// The caller syncs the file.
pub fn make(kind: FsKind, image: &Path, uuid: &str, label: Option<&str>) -> Result<()> {
    match kind {
        FsKind::Ext4 => make_ext4(image, uuid, label),
        FsKind::Xfs => {
            let mut command = mkfs_xfs(uuid, label);
            // The log is pinned, since it would grow with the volume and is allocated at once.
            command.args(["-f", "-l", "size=64m"]).arg(image);
            succeed(&mut command, "failed to make an xfs filesystem")
        }
    }
}

/// Makes the filesystem of a pool: xfs with reflink. Without force: mkfs.xfs refuses what it recognises, too.
pub fn make_pool_filesystem(device: &Path, uuid: &str, label: Option<&str>) -> Result<()> {
    let mut command = mkfs_xfs(uuid, label);
    command.arg(device);
    succeed(&mut command, "failed to make the filesystem of the pool")
}

/// Replays the journal and repairs what is safe, on an unmounted ext4. More damage than that is [`Error::Corrupt`].
pub fn check_ext4(device: &Path) -> Result<Check> {
    e2fsck(&["-p"], device)
}

/// Enlarges an unmounted ext4 to its device, after the full check that this needs.
pub(super) fn resize_ext4(device: &Path) -> Result<()> {
    e2fsck(&["-f", "-p"], device)?;
    let mut command = program("resize2fs");
    command.arg(device);
    succeed(&mut command, "failed to grow the ext4 filesystem")
}

fn make_ext4(image: &Path, uuid: &str, label: Option<&str>) -> Result<()> {
    let mut command = program("mke2fs");
    // The host's own configuration must not change what a volume looks like.
    command.env("MKE2FS_CONFIG", "/dev/null");
    command.args(["-F", "-q", "-b", "4096", "-I", "256", "-i", "16384", "-m", "0"]);
    command.args(["-E", EXT4_EXTENDED, "-O", EXT4_FEATURES, "-U", uuid]);
    if let Some(label) = label {
        command.args(["-L", label]);
    }
    command.arg(image);
    succeed(&mut command, "failed to make an ext4 filesystem")
}

fn mkfs_xfs(uuid: &str, label: Option<&str>) -> Command {
    let mut command = program("mkfs.xfs");
    command.args(["-q", "-K", "-s", "size=4096", "-b", "size=4096"]);
    command.arg("-m").arg(format!("{XFS_METADATA},uuid={uuid}"));
    command.args(["-i", "size=512,sparse=1", "-n", "ftype=1"]);
    for (option, feature) in XFS_NEWER {
        if xfs_usage().contains(&format!("{feature}=0|1")) {
            command.arg(option).arg(format!("{feature}=0"));
        }
    }
    if let Some(label) = label {
        command.args(["-L", label]);
    }
    command
}

/// What mkfs.xfs says about its options when it is called without any. Empty where it does not run: making will say so.
fn xfs_usage() -> &'static str {
    static USAGE: OnceLock<String> = OnceLock::new();
    USAGE.get_or_init(|| {
        program("mkfs.xfs")
            .output()
            .map(|output| String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
            .unwrap_or_default()
    })
}

/// e2fsck's exit code is a sum: 1 repaired, 2 repaired but reboot, 4 damage left, 8 and more it could not work.
fn e2fsck(options: &[&str], device: &Path) -> Result<Check> {
    let what = "failed to check the ext4 filesystem";
    let mut command = program("e2fsck");
    command.args(options).arg(device);
    let output = run(&mut command, what)?;
    match output.status.code() {
        Some(0) => Ok(Check::Clean),
        Some(1) => Ok(Check::Repaired),
        Some(code) if code & !7 == 0 => Err(Error::Corrupt(format!(
            "the ext4 filesystem has damage that needs an operator: {}",
            said(&output)
        ))),
        Some(_) | None => Err(Error::Program { what: what.to_owned(), said: said(&output) }),
    }
}

fn program(name: &str) -> Command {
    let mut command = Command::new(name);
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/sbin:/usr/bin:/sbin:/bin".into());
    command.env_clear().env("PATH", path).env("LC_ALL", "C").stdin(Stdio::null());
    command
}

fn succeed(command: &mut Command, what: &str) -> Result<()> {
    let output = run(command, what)?;
    if output.status.success() {
        return Ok(());
    }
    let said = said(&output);
    if said.contains("No space left on device") {
        return Err(Error::Full(format!("{what}: {said}")));
    }
    Err(Error::Program { what: what.to_owned(), said })
}

fn run(command: &mut Command, what: &str) -> Result<Output> {
    let name = command.get_program().to_string_lossy().into_owned();
    command.output().map_err(|error| Error::host(format!("{what}: failed to run {name}"), error))
}

/// The end of what a program printed, fit for one line.
fn said(output: &Output) -> String {
    let all = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    let text = String::from_utf8_lossy(&all);
    // mkfs.xfs prints all its options after what is wrong.
    let text = text.split("Usage:").next().unwrap_or_default();
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let skip = line.chars().count().saturating_sub(MOST_SAID);
    let end: String = line.chars().skip(skip).collect();
    if end.is_empty() { format!("it printed nothing ({})", output.status) } else { end }
}
