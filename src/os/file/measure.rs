//! What a directory holds, counted by walking it.
//!
//! A tenant chose the content: so there is a limit of time and of depth, nothing is opened but directories, names are
//! read as they come and never collected, and no symlink is followed and no mount crossed.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, FileType, RawDir, SeekFrom, StatxFlags};

use super::{Dir, host, tree};
use crate::error::Result;

/// How deep the walk goes: it holds one descriptor a level.
const DEPTH: usize = 256;

/// What was counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Measured {
    /// The bytes that are allocated.
    pub bytes: u64,
    /// The entries, the directory itself included.
    pub inodes: u64,
    /// Whether that is all: false where the time was over or the tree deeper than 256 levels.
    pub whole: bool,
}

/// A directory on the way down and where to go on reading in it.
struct Level {
    fd: OwnedFd,
    position: u64,
}

impl Dir {
    /// Counts what lies in this directory, for at most this long. What vanishes meanwhile is not counted; a file with
    /// several names counts once a name.
    pub fn measure(&self, time: Duration) -> Result<Measured> {
        let until = Instant::now() + time;
        let failed = |e| host(format!("failed to measure `{}`", self.path().display()), e);
        let own = rustix::fs::fstat(&self.fd).map_err(failed)?;
        let mut sum =
            Measured { bytes: blocks(u64::try_from(own.st_blocks).unwrap_or(0)), inodes: 1, whole: true };
        let root = tree::descend(&self.fd, c".").map_err(failed)?;
        let mut levels = vec![Level { fd: root, position: 0 }];
        while let Some(level) = levels.last_mut() {
            match read(level, until, &mut sum).map_err(failed)? {
                Some(below) if levels.len() < DEPTH => levels.push(Level { fd: below, position: 0 }),
                Some(_) => sum.whole = false,
                None => drop(levels.pop()),
            }
        }
        Ok(sum)
    }
}

/// Counts from where it stopped until the next directory, which it answers, or the end.
fn read(level: &mut Level, until: Instant, sum: &mut Measured) -> rustix::io::Result<Option<OwnedFd>> {
    let mut buffer = [MaybeUninit::uninit(); 8 * 1024];
    rustix::fs::seek(&level.fd, SeekFrom::Start(level.position))?;
    let mut entries = RawDir::new(level.fd.as_fd(), &mut buffer);
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        if Instant::now() > until {
            sum.whole = false;
            return Ok(None);
        }
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
        let Ok(stat) = rustix::fs::statx(&level.fd, name, flags, StatxFlags::BASIC_STATS) else { continue };
        sum.inodes += 1;
        sum.bytes = sum.bytes.saturating_add(blocks(stat.stx_blocks));
        if FileType::from_raw_mode(stat.stx_mode.into()) == FileType::Directory
            && let Ok(below) = tree::descend(&level.fd, name)
        {
            level.position = entry.next_entry_cookie();
            return Ok(Some(below));
        }
    }
    Ok(None)
}

fn blocks(count: u64) -> u64 {
    count.saturating_mul(512)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::os::mount::scene::clear;
    use crate::os::process::run;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn all_that_lies_in_a_directory_is_counted_and_nothing_else() {
        let temp = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("large"), vec![1; 1 << 20]).unwrap();
        let dir = Dir::open(temp.path()).unwrap();
        let empty = dir.measure(MINUTE).unwrap();
        assert_eq!((empty.inodes, empty.whole), (1, true));
        fs::create_dir_all(temp.path().join("a/b/c")).unwrap();
        symlink(outside.path(), temp.path().join("a/link")).unwrap();
        fs::write(temp.path().join("a/b/file"), vec![1; 256 << 10]).unwrap();
        // More names than one read of the directory gives, with directories among them.
        for number in 0..2000 {
            match number % 100 {
                0 => fs::create_dir(temp.path().join(format!("a/directory-{number}"))).unwrap(),
                _ => drop(fs::File::create(temp.path().join(format!("a/file-{number}"))).unwrap()),
            }
        }
        let full = dir.measure(MINUTE).unwrap();
        assert_eq!((full.inodes, full.whole), (1 + 3 + 1 + 1 + 2000, true));
        assert!((256 << 10..1 << 20).contains(&full.bytes), "{full:?}");
        assert_eq!(dir.measure(MINUTE).unwrap(), full, "a second walk starts anew");
    }

    #[test]
    fn a_mount_is_not_entered() {
        let temp = tempfile::tempdir().unwrap();
        let (bound, elsewhere) = (temp.path().join("measured/bound"), temp.path().join("elsewhere"));
        fs::create_dir_all(&bound).unwrap();
        fs::create_dir_all(elsewhere.join("more")).unwrap();
        run("mount", &["--bind".as_ref(), elsewhere.as_os_str(), bound.as_os_str()], "failed to bind")
            .unwrap();
        let measured = Dir::open(&temp.path().join("measured")).and_then(|dir| dir.measure(MINUTE));
        clear(&bound);
        assert_eq!(measured.unwrap().inodes, 2);
    }

    #[test]
    fn a_deep_or_endless_tree_is_counted_in_part() {
        let temp = tempfile::tempdir().unwrap();
        let mut below = Dir::open(temp.path()).unwrap();
        for _ in 0..DEPTH + 10 {
            below = below.make_dir("d", 0o700).unwrap();
        }
        let dir = Dir::open(temp.path()).unwrap();
        let deep = dir.measure(MINUTE).unwrap();
        assert_eq!((deep.inodes, deep.whole), (1 + DEPTH as u64, false));
        assert!(!dir.measure(Duration::ZERO).unwrap().whole);
    }
}
