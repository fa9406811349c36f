//! The programs that make, check and enlarge filesystems.
//!
//! Owns: their pinned options and what their exit codes mean. Never: takes an option from a caller, lets a newer program
//! choose features that an older kernel cannot mount, or repairs more than a journal replay and what is safe (`-p`).

use std::ffi::OsStr;
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use super::FsKind;
use crate::error::{Error, Result};
use crate::os::process::{self, DEADLINE};

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
/// How long a check or an offline growth may take: both read all metadata of the volume.
const CHECK_DEADLINE: Duration = Duration::from_secs(3600);
/// The most characters of a check's findings that an error repeats.
const MOST_SAID: usize = 300;

/// Makes the filesystem of a volume directly in its image file, before that is attached. Whatever is in there is gone.
/// The caller syncs the file.
pub fn make(kind: FsKind, image: &Path, uuid: &str, label: Option<&str>) -> Result<()> {
    match kind {
        FsKind::Ext4 => make_ext4(image, uuid, label),
        // The log is pinned, since it would grow with the volume and is allocated at once.
        FsKind::Xfs => make_xfs(image, &["-f", "-l", "size=64m"], uuid, label),
    }
}

/// Makes the filesystem of a pool: xfs with reflink. Without force: mkfs.xfs refuses what it recognises, too.
pub fn make_pool_filesystem(device: &Path, uuid: &str, label: Option<&str>) -> Result<()> {
    make_xfs(device, &[], uuid, label)
}

/// Enlarges an unmounted ext4 to its device, after the full check that this needs: it replays the journal and repairs what is
/// safe. More damage than that is [`Error::Corrupt`].
pub(super) fn resize_ext4(device: &Path) -> Result<()> {
    const WHAT: &str = "failed to grow the ext4 filesystem";
    check_ext4(device)?;
    let ended = process::run_within("resize2fs", &[device], WHAT, CHECK_DEADLINE)?;
    match ended.code {
        0 => Ok(()),
        _ => Err(Error::Program { what: WHAT.to_owned(), said: ended.said }),
    }
}

fn make_ext4(image: &Path, uuid: &str, label: Option<&str>) -> Result<()> {
    let mut arguments = vec!["-F", "-q", "-b", "4096", "-I", "256", "-i", "16384", "-m", "0"];
    arguments.extend(["-E", EXT4_EXTENDED, "-O", EXT4_FEATURES, "-U", uuid]);
    if let Some(label) = label {
        arguments.extend(["-L", label]);
    }
    mkfs("mke2fs", &arguments, image)
}

fn make_xfs(at: &Path, options: &[&str], uuid: &str, label: Option<&str>) -> Result<()> {
    let metadata = format!("{XFS_METADATA},uuid={uuid}");
    let mut arguments = vec!["-q", "-K", "-s", "size=4096", "-b", "size=4096", "-m", &metadata];
    arguments.extend(["-i", "size=512,sparse=1", "-n", "ftype=1"]);
    arguments.extend(options);
    arguments.extend(newer_xfs_features_off()?.iter().map(String::as_str));
    if let Some(label) = label {
        arguments.extend(["-L", label]);
    }
    mkfs("mkfs.xfs", &arguments, at)
}

fn mkfs(program: &str, arguments: &[&str], at: &Path) -> Result<()> {
    let mut all: Vec<&OsStr> = arguments.iter().map(OsStr::new).collect();
    all.push(at.as_os_str());
    match process::run(program, &all, "failed to make a filesystem") {
        Ok(_) => Ok(()),
        Err(Error::Program { what, said }) if said.contains("No space left on device") => {
            Err(Error::Full(format!("{what}: {said}")))
        }
        Err(error) => Err(error),
    }
}

/// Options for what only a newer mkfs.xfs knows: it lists its features when it is called without any argument.
fn newer_xfs_features_off() -> Result<&'static [String]> {
    static OPTIONS: OnceLock<Vec<String>> = OnceLock::new();
    if let Some(known) = OPTIONS.get() {
        return Ok(known);
    }
    let what = "failed to ask mkfs.xfs for its features";
    let usage = process::run_within::<&str>("mkfs.xfs", &[], what, DEADLINE)?;
    Ok(OPTIONS.get_or_init(|| switched_off(&usage.errors)))
}

fn switched_off(usage: &str) -> Vec<String> {
    let known = XFS_NEWER.iter().filter(|(_, feature)| usage.contains(&format!("{feature}=0|1")));
    known.flat_map(|(option, feature)| [(*option).to_owned(), format!("{feature}=0")]).collect()
}

/// Repairs of an unmounted ext4 what can be repaired without asking anybody. e2fsck's exit code is a sum: 1 repaired, 2 repaired but reboot, 4 damage left, 8 and more it could not work.
pub fn check_ext4(device: &Path) -> Result<()> {
    const WHAT: &str = "failed to check the ext4 filesystem";
    let ended = process::run_within(
        "e2fsck",
        &["-f".as_ref(), "-p".as_ref(), device.as_os_str()],
        WHAT,
        CHECK_DEADLINE,
    )?;
    match ended.code {
        // Clean, or repaired.
        0 | 1 => Ok(()),
        code if code & !7 == 0 => Err(Error::Corrupt(format!(
            "the ext4 filesystem has damage that needs an operator: {}",
            findings(&ended.output)
        ))),
        _ => Err(Error::Program {
            what: WHAT.to_owned(),
            said: if ended.said.is_empty() { findings(&ended.output) } else { ended.said },
        }),
    }
}

/// The end of what a check printed, on one line.
fn findings(output: &str) -> String {
    let line = output.split_whitespace().collect::<Vec<_>>().join(" ");
    let skip = line.chars().count().saturating_sub(MOST_SAID);
    line.chars().skip(skip).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_of_a_newer_mkfs_are_switched_off_and_unknown_ones_not_named() {
        let newer = "[-i perblock=n|size=num,sparse=0|1,nrext64=0|1,exchange=0|1]\n[-n size=num,ftype=0|1,parent=0|1]";
        assert_eq!(switched_off(newer), ["-i", "nrext64=0", "-i", "exchange=0", "-n", "parent=0"]);
        assert!(switched_off("[-m crc=0|1]").is_empty());
    }
}
