//! Notes about mounts: what the mount table cannot say.
//!
//! Owns: one small file per staged or published path, with the boot and the mount it is about; where either differs the
//! note means nothing. A container that is started anew has other ids for the same mounts: there a note is about what shows the same,
//! and says so from then on. Never: decides whether something is mounted (the mount table does), or keeps a mount flag in clear
//! text (they may hold secrets): only a checksum of them, which is enough to tell a retry from another request.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::engine::{Capability, Mode, Writes};
use crate::error::{Error, Result, chain};
use crate::model::{Asked, VolumeId};
use crate::os::file::{Dir, Kept, Lock, Purpose};
use crate::os::mount::{self, Mounted};

/// The directory of the notes, below the state directory.
const FOLDER: &str = "mounts";
/// The lock of whoever drops notes of others, beside it.
const LOCK: &str = "mounts.lock";
/// No note is larger.
const NOTE_BYTES: usize = 16 * 1024;

/// The notes of this node, in the state directory.
pub(super) struct Notes {
    /// Opened anew each time, since threads with different tables of open files ask. None: nothing is noted, for one who
    /// only looks at pools.
    folder: Option<PathBuf>,
    boot: String,
    /// The mount of `/`, which is another one in each container.
    root: u64,
    /// Held by the only driver that uses this state directory. Another one may begin while that still serves, and must not
    /// take what it is just writing for debris.
    alone: Mutex<Option<Kept<Lock>>>,
}

/// What was asked for at one path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Note {
    /// The volume that was asked for.
    pub(super) volume: VolumeId,
    /// The path it is about.
    path: PathBuf,
    boot: String,
    mount: u64,
    /// What was mounted, and where the mount's id means something. An older release did not note it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    shows: Option<Shows>,
    /// Everything that must be the same in a retry.
    pub(super) wish: Wish,
}

/// What a mount shows, whichever container looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Shows {
    /// The mount of `/` in the container that wrote the note.
    root: u64,
    device: u64,
    inode: u64,
    rdev: u64,
}

/// What a note is to the mount at its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fit {
    /// It is about another one.
    None,
    /// It is about this one.
    Same,
    /// It is about this one, by the id that another container has for it.
    Elsewhere,
}

/// What a retry must ask for again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Wish {
    /// Who may use it.
    pub(super) mode: Mode,
    block: bool,
    writes: Writes,
    flags: u32,
    step: Step,
}

/// By which call a volume came to a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Step {
    /// NodeStageVolume.
    Staged,
    /// NodePublishVolume.
    Published,
}

impl Wish {
    /// What NodeStageVolume asked for.
    pub(super) fn staged(capability: &Capability) -> Wish {
        Wish::new(capability, Writes::Allowed, Step::Staged)
    }

    /// What NodePublishVolume asked for.
    pub(super) fn published(capability: &Capability, writes: Writes) -> Wish {
        Wish::new(capability, writes, Step::Published)
    }

    /// Whether it came from NodeStageVolume.
    pub(super) fn is_staged(&self) -> bool {
        self.step == Step::Staged
    }

    fn new(capability: &Capability, writes: Writes, step: Step) -> Wish {
        let flags = capability.flags.iter().fold(0, |sum, flag| {
            let sum = crc32c::crc32c_append(sum, flag.as_bytes());
            crc32c::crc32c_append(sum, &[0])
        });
        Wish { mode: capability.mode, block: capability.asked == Asked::Block, writes, flags, step }
    }

    /// In what it differs from another one, in words.
    pub(super) fn difference(&self, asked: &Wish) -> Option<&'static str> {
        let differs = [
            (self.step != asked.step, "the other of stage and publish"),
            (self.block != asked.block, "another access type"),
            (self.mode != asked.mode, "another access mode"),
            (self.writes != asked.writes, "another readonly"),
            (self.flags != asked.flags, "other mount_flags"),
        ];
        differs.into_iter().find_map(|(differs, what)| differs.then_some(what))
    }
}

impl Notes {
    /// None at all, for a look at pools without a node.
    pub(super) fn none() -> Notes {
        Notes { folder: None, boot: String::new(), root: 0, alone: Mutex::default() }
    }

    /// The notes below `state_dir`, which is made if need be.
    pub(super) fn open(state_dir: &Path) -> Result<Notes> {
        let folder = state_dir.join(FOLDER);
        Dir::make_path(&folder, 0o700)?;
        let (boot, root) = (mount::boot_id()?, mount::root_mount()?);
        Ok(Notes { folder: Some(folder), boot, root, alone: Mutex::default() })
    }

    /// Drops the notes that are void: of another boot, or of a mount that is not what `now` finds at its path. Such a note
    /// stays where it could not be forgotten, and any of which nobody can tell. Those that another container has written become
    /// this one's. Changes nothing while another process uses the same state directory.
    pub(super) fn sweep(&self, now: impl Fn(&Path) -> There) {
        match self.claim() {
            Ok(true) => {}
            Ok(false) => {
                return tracing::warn!(
                    "another process uses the state directory; its notes about mounts are kept as they are"
                );
            }
            Err(error) => {
                return tracing::warn!(
                    error = chain(&error),
                    "failed to claim the notes about mounts; they are kept as they are"
                );
            }
        }
        let swept = self.dir().and_then(|dir| {
            let Some(dir) = dir else { return Ok(()) };
            // One that resists keeps none of the others.
            let swept = dir.names()?.into_iter().map(|name| self.sweep_one(&dir, &name, &now));
            swept.fold(Ok(()), Result::and)
        });
        if let Err(error) = swept {
            tracing::warn!(
                error = chain(&error),
                "failed to look through the notes about mounts; what could not be read, dropped or taken over stays as it is"
            );
        }
    }

    fn sweep_one(&self, dir: &Dir, name: &OsString, now: &impl Fn(&Path) -> There) -> Result<()> {
        // What cannot be read now may be right; what is no note is none.
        let Some(bytes) = dir.read(name, NOTE_BYTES)? else { return Ok(()) };
        let Some(note) = parse(&bytes).filter(|note| note.boot == self.boot) else {
            return dir.remove_unsynced(name);
        };
        match now(&note.path) {
            There::Unknown => Ok(()),
            There::Nothing => dir.remove_unsynced(name),
            There::Mounted(mounted) => match self.fit(&note, &mounted) {
                Fit::Same => Ok(()),
                Fit::None => dir.remove_unsynced(name),
                Fit::Elsewhere => self.write(note.volume, &note.path, &mounted, note.wish.clone()),
            },
        }
    }

    /// Claims the notes for this process until it ends; false while another one has them.
    ///
    /// # Errors
    /// Those of the host.
    fn claim(&self) -> Result<bool> {
        let mut alone = self.alone.lock().unwrap_or_else(PoisonError::into_inner);
        if alone.is_some() {
            return Ok(true);
        }
        let Some(beside) = self.folder.as_deref().and_then(Path::parent) else { return Ok(true) };
        match Dir::open(beside)?.lock(LOCK, Purpose::Serve) {
            Ok(lock) => *alone = Some(Kept::new(lock)),
            // Of another container it cannot be seen whether it lives.
            Err(Error::Busy(_) | Error::Unavailable(_)) => return Ok(false),
            Err(error) => return Err(error),
        }
        Ok(true)
    }

    /// Whether this process has them.
    pub(super) fn are_ours(&self) -> bool {
        self.alone.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Refuses where no note can be written, before anything is mounted that needs one.
    ///
    /// # Errors
    /// Those of the host; `Precondition` where it is read-only.
    pub(super) fn refuse_unwritable(&self) -> Result<()> {
        self.dir()?.map_or(Ok(()), |dir| dir.refuse_unwritable())
    }

    /// Notes what was asked for at `path`, where `mounted` now is.
    pub(super) fn write(&self, volume: VolumeId, path: &Path, mounted: &Mounted, wish: Wish) -> Result<()> {
        let (path_of, boot, mount) = (path.to_owned(), self.boot.clone(), identity(mounted));
        let Mounted { device, inode, rdev, .. } = *mounted;
        let shows = Some(Shows { root: self.root, device, inode, rdev });
        let note = Note { volume, path: path_of, boot, mount, shows, wish };
        let text = serde_json::to_vec(&note)
            .map_err(|error| Error::Corrupt(format!("failed to encode a note about a mount: {error}")))?;
        self.dir()?.map_or(Ok(()), |dir| dir.replace_unsynced(file_name(path), &text))
    }

    /// What was asked for at `path`, if `mounted` is still what it was about.
    pub(super) fn about(&self, path: &Path, mounted: &Mounted) -> Option<Note> {
        let note = read(&self.dir().ok()??, file_name(path))?;
        let same = note.path == path && note.boot == self.boot && self.fit(&note, mounted) != Fit::None;
        same.then_some(note)
    }

    fn fit(&self, note: &Note, mounted: &Mounted) -> Fit {
        let is_here = note.shows.is_none_or(|shows| shows.root == self.root);
        if is_here && note.mount == identity(mounted) {
            return Fit::Same;
        }
        // Before Linux 6.8 the kernel uses ids again, that of `/` as well: there it shows nothing that it is the same.
        let may_be = |shows: &Shows| shows.root != self.root || mounted.unique_id.is_none();
        let seen = (mounted.device, mounted.inode, mounted.rdev);
        // Of a dead mount nobody can say what it shows.
        let same = |shows: &Shows| mounted.dead.is_none() && (shows.device, shows.inode, shows.rdev) == seen;
        if note.shows.as_ref().is_some_and(|shows| may_be(shows) && same(shows)) {
            Fit::Elsewhere
        } else {
            Fit::None
        }
    }

    /// Whether a volume is noted at any path, as far as the notes can be read.
    pub(super) fn speak_of(&self, volume: &VolumeId) -> bool {
        let Ok(Some(dir)) = self.dir() else { return false };
        let mut names = dir.names().unwrap_or_default().into_iter();
        let speaks = |note: Note| note.volume == *volume && note.boot == self.boot;
        names.any(|name| read(&dir, name).is_some_and(speaks))
    }

    fn dir(&self) -> Result<Option<Dir>> {
        self.folder.as_deref().map(Dir::open).transpose()
    }

    /// Forgets what was asked for at `path` of this volume, also where nothing is mounted there any more: a note that stays keeps
    /// the volume's device. That of another volume stays. One that cannot be forgotten is no answer to a caller whose mount is
    /// gone: it is void with its mount, and the next start drops it.
    pub(super) fn forget(&self, volume: &VolumeId, path: &Path) {
        if let Err(error) = self.drop_of(volume, path) {
            tracing::warn!(
                %volume, error = chain(&error),
                "failed to forget a note about a mount that is gone; it means nothing, and the next start drops it"
            );
        }
    }

    fn drop_of(&self, volume: &VolumeId, path: &Path) -> Result<()> {
        let Some(dir) = self.dir()? else { return Ok(()) };
        let name = file_name(path);
        match dir.read(&name, NOTE_BYTES) {
            Ok(None) => Ok(()),
            Ok(Some(bytes)) if parse(&bytes).is_some_and(|note| note.volume != *volume) => Ok(()),
            Ok(Some(_)) | Err(_) => dir.remove_unsynced(name),
        }
    }
}

/// What is at the path of a note.
pub(super) enum There {
    Mounted(Mounted),
    Nothing,
    /// It cannot be looked at.
    Unknown,
}

fn read(dir: &Dir, name: impl AsRef<std::ffi::OsStr>) -> Option<Note> {
    parse(&dir.read(name, NOTE_BYTES).ok()??)
}

fn parse(bytes: &[u8]) -> Option<Note> {
    serde_json::from_slice(bytes).ok()
}

/// The kernel uses a plain mount id again; the unique one it does not.
fn identity(mounted: &Mounted) -> u64 {
    mounted.unique_id.unwrap_or(mounted.mount_id)
}

/// Two checksums of the path: it may hold any byte, and be longer than a file name may be. The note says which path it means.
fn file_name(path: &Path) -> String {
    // A slash more or less is the same path.
    let path: PathBuf = path.components().collect();
    let bytes = path.as_os_str().as_encoded_bytes();
    let reversed: Vec<u8> = bytes.iter().rev().copied().collect();
    format!("{:08x}{:08x}", crc32c::crc32c(bytes), crc32c::crc32c(&reversed))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::file::Table;

    /// A newer release must tell a retry from another request by what an older one noted.
    #[test]
    fn the_note_of_an_older_release_is_read_and_written_again_to_the_byte() {
        let golden = include_str!("../../tests/golden/schema-1/note.json");
        let note: Note = serde_json::from_str(golden).unwrap();
        let wish = Wish {
            mode: Mode::SingleWriter,
            block: false,
            writes: Writes::Refused,
            flags: 0x1234_5678,
            step: Step::Published,
        };
        assert_eq!(
            (note.volume.to_string().as_str(), note.mount),
            ("v1.0a0102030405.0101010101010101", (1 << 32) + 1)
        );
        assert_eq!(note.wish, wish);
        assert_eq!(serde_json::to_string(&note).unwrap(), golden);
    }

    fn mounted(id: u64, inode: u64) -> Mounted {
        Mounted { device: 7, inode, rdev: 0, mount_id: 40, unique_id: Some(id), read_only: false, dead: None }
    }

    #[test]
    fn in_another_container_it_is_about_what_shows_the_same_and_in_its_own_about_that_mount_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = Path::new("/var/lib/kubelet/one");
        let volume: VolumeId = "v1.0a0102030405.0101010101010101".parse().unwrap();
        let here = Notes { root: 1, ..Notes::open(dir.path()).unwrap() };
        let capability = Capability { asked: Asked::Mount(None), mode: Mode::Writer, flags: Vec::new() };
        here.write(volume, path, &mounted(100, 2), Wish::staged(&capability)).unwrap();
        assert!(here.about(path, &mounted(100, 2)).is_some());
        assert!(here.about(path, &mounted(101, 2)).is_none(), "mounted anew by somebody else");
        let next = Notes { root: 2, ..Notes::open(dir.path()).unwrap() };
        assert!(next.about(path, &mounted(200, 2)).is_some());
        assert!(next.about(path, &mounted(200, 3)).is_none(), "something else");
        let dead = Mounted { dead: Some(std::io::ErrorKind::Other.into()), ..mounted(200, 2) };
        assert!(next.about(path, &dead).is_none(), "nobody can say what it shows");
        // From its start on it is this container's own.
        next.sweep(|_| There::Mounted(mounted(200, 2)));
        assert!(next.about(path, &mounted(200, 2)).is_some());
        assert!(next.about(path, &mounted(201, 2)).is_none(), "mounted anew by somebody else");
        drop(next);
        let last = Notes { root: 3, ..Notes::open(dir.path()).unwrap() };
        last.sweep(|_| There::Unknown);
        assert!(last.about(path, &mounted(300, 2)).is_some(), "what cannot be looked at stays");
        last.sweep(|_| There::Mounted(mounted(300, 3)));
        assert!(last.about(path, &mounted(300, 2)).is_none(), "it was dropped");
    }

    /// Whoever lets go of an engine last may be a thread of one of its pools.
    #[test]
    fn a_claim_may_end_where_other_files_are_open() {
        let dir = tempfile::tempdir().unwrap();
        let notes = Notes::open(dir.path()).unwrap();
        assert!(notes.claim().unwrap() && notes.claim().unwrap());
        assert!(!Notes::open(dir.path()).unwrap().claim().unwrap());
        let end = move || {
            Table::another().begin().unwrap();
            drop(notes);
        };
        std::thread::spawn(end).join().unwrap();
        let notes = Notes::open(dir.path()).unwrap();
        assert!(!notes.claim().unwrap(), "the process has it still");
    }
}
