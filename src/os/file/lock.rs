//! A lock between processes: flock on a file that says who holds it.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, OFlags};
use rustix::io::Errno;

use super::{Access, Dir, PRIVATE, one_component};
use crate::error::{Error, Result};

const PAUSE: Duration = Duration::from_millis(50);
/// Field 3 of a stat line: a process whose last thread has not ended is a zombie as well.
const STATE: usize = 0;
/// Field 22 of a stat line.
const START: usize = 19;
/// SIGKILL in a mask of signals (`ShdPnd` of proc_pid_status(5)).
const KILLED: u64 = 1 << 8;

/// A lock that is held until this is dropped, or the process dies. The file stays: removing it would let two in.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// What a lock is taken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To serve, for as long as the process lives.
    Serve,
    /// To look, for a moment, or until the disk answers.
    Look,
}

impl Purpose {
    /// As the lock file has it, after the name of the holder.
    fn word(self) -> &'static str {
        match self {
            Purpose::Serve => "serve",
            Purpose::Look => "look",
        }
    }
}

impl Dir {
    /// Takes the exclusive lock of this name at once.
    ///
    /// # Errors
    /// As `lock_within`.
    pub fn lock(&self, name: impl AsRef<OsStr>, purpose: Purpose) -> Result<Lock> {
        self.lock_within(name, Duration::ZERO, purpose)
    }

    /// Takes the exclusive lock of this name, waiting so long for its holder to go.
    ///
    /// # Errors
    /// When the time is over, naming the holder: `Busy` while it lives; `Unavailable` where it was killed and hangs in the
    /// kernel, which only its disk can end, and where it belongs to another container: whether that one lives or hangs
    /// cannot be seen from here, and a restart after a disk hung must serve the other pools. `Unavailable` as well for one who
    /// is to serve where somebody only looks: that ends by itself, and hangs with the disk of that pool alone.
    pub fn lock_within(&self, name: impl AsRef<OsStr>, wait: Duration, purpose: Purpose) -> Result<Lock> {
        let name = one_component(name.as_ref())?;
        let fd = self
            // For reading: a file that is open for writing would keep its filesystem from being remounted read-only.
            .open_beneath(name, OFlags::RDONLY | OFlags::CREATE | OFlags::NONBLOCK, PRIVATE)
            .map_err(|e| self.failed("open the lock", name, e))?;
        let file = File::from(fd);
        let started = Instant::now();
        loop {
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                Err(Errno::WOULDBLOCK) if started.elapsed() < wait => std::thread::sleep(PAUSE),
                Err(Errno::WOULDBLOCK) => {
                    return Err(refusal(self, &file, purpose));
                }
                Err(e) => return Err(self.failed("lock", name, e)),
            }
        }
        self.sign(name, purpose)?;
        Ok(Lock { _file: file })
    }

    /// Writes who we are, for the message of whoever comes second. Not synced: it means nothing after a reboot.
    fn sign(&self, name: &OsStr, purpose: Purpose) -> Result<()> {
        let mut file = match self.open_file(name, Access::ReadWrite) {
            Ok(Some(file)) => file,
            Ok(None) => return Err(Error::Unavailable(format!("the lock {} vanished", self.at(name)))),
            // On a read-only filesystem the holder stays unnamed, too.
            Err(Error::Precondition(_)) => return Ok(()),
            Err(error) => return Err(error),
        };
        let pid = std::process::id();
        let (started, command) = (start(pid).unwrap_or_default(), command(pid).unwrap_or_default());
        let text = format!("pid {pid} started {started} as {command} to {}\n", purpose.word());
        let signed = file.set_len(0).and_then(|()| file.write_all(text.as_bytes()));
        match signed {
            // On a full disk the holder stays unnamed: whoever wants to delete from it must still get in.
            Err(error) if error.kind() != ErrorKind::StorageFull => {
                Err(Error::host(format!("failed to write the lock {}", self.at(name)), error))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

/// What to say of the holder: what the lock file says, checked against the process that has this pid now.
fn refusal(dir: &Dir, file: &File, purpose: Purpose) -> Error {
    let used = |holder: &str| Error::Busy(format!("`{}` is in use by {holder}", dir.path().display()));
    let mut text = String::new();
    if file.take(256).read_to_string(&mut text).is_err() {
        return used("another process");
    }
    let mut words = text.split_whitespace();
    let (_, pid, _, started, _, name) =
        (words.next(), words.next(), words.next(), words.next(), words.next(), words.next());
    let Some(pid) = pid.and_then(|pid| pid.parse().ok()) else {
        return used("another process");
    };
    if start(pid).as_deref() != started {
        return Error::Unavailable(format!(
            "`{}` is held by a process in another container, which calls itself {} with pid {pid}; it is taken when that \
             lets go",
            dir.path().display(),
            name.unwrap_or("unknown")
        ));
    }
    let holder = format!("process {pid} ({})", command(pid).unwrap_or_default());
    // With one thread only, what was killed is no zombie while it hangs.
    let hangs = match stat(pid, STATE).as_deref() {
        Some("Z" | "X") => true,
        Some("D") => is_killed(pid),
        Some(_) | None => false,
    };
    if !hangs && purpose == Purpose::Serve && words.last() == Some(Purpose::Look.word()) {
        return Error::Unavailable(format!(
            "`{}` is looked at by {holder}; it is taken when that is over",
            dir.path().display()
        ));
    }
    if !hangs {
        return used(&holder);
    }
    Error::Unavailable(format!(
        "`{}` is held by {holder}, which was killed and hangs in a call to its disk",
        dir.path().display()
    ))
}

/// Whether SIGKILL waits for a process.
fn is_killed(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let masks =
        status.lines().filter_map(|line| line.strip_prefix("ShdPnd:").or(line.strip_prefix("SigPnd:")));
    masks.filter_map(|mask| u64::from_str_radix(mask.trim(), 16).ok()).any(|mask| mask & KILLED != 0)
}

fn command(pid: u32) -> Option<String> {
    let comm = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    Some(comm.trim().escape_debug().to_string())
}

/// When a process started, in clock ticks since boot.
fn start(pid: u32) -> Option<String> {
    stat(pid, START)
}

/// One of the words of a process's stat line after its second, which may hold anything.
fn stat(pid: u32, word: usize) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_whitespace().nth(word).map(str::to_owned)
}
