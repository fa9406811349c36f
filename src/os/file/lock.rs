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

/// A lock that is held until this is dropped, or the process dies. The file stays: removing it would let two in.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Dir {
    /// Takes the exclusive lock of this name at once.
    ///
    /// # Errors
    /// `Precondition`, naming the holder, if another process or another handle of this one has it.
    pub fn lock(&self, name: impl AsRef<OsStr>) -> Result<Lock> {
        self.lock_within(name, Duration::ZERO)
    }

    /// Takes the exclusive lock of this name, waiting so long for its holder to go.
    ///
    /// # Errors
    /// `Precondition`, naming the holder, when the time is over.
    pub fn lock_within(&self, name: impl AsRef<OsStr>, wait: Duration) -> Result<Lock> {
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
                    let holder = holder(&file);
                    return Err(Error::Precondition(format!(
                        "`{}` is in use by {holder}",
                        self.path().display()
                    )));
                }
                Err(e) => return Err(self.failed("lock", name, e)),
            }
        }
        self.sign(name)?;
        Ok(Lock { _file: file })
    }

    /// Writes who we are, for the message of whoever comes second. Not synced: it means nothing after a reboot.
    fn sign(&self, name: &OsStr) -> Result<()> {
        let Some(mut file) = self.open_file(name, Access::ReadWrite)? else {
            return Err(Error::Unavailable(format!("the lock {} vanished", self.at(name))));
        };
        let pid = std::process::id();
        let (started, command) = (start(pid).unwrap_or_default(), command(pid).unwrap_or_default());
        let signed =
            file.set_len(0).and_then(|()| writeln!(file, "pid {pid} started {started} as {command}"));
        match signed {
            // On a full disk the holder stays unnamed: whoever wants to delete from it must still get in.
            Err(error) if error.kind() != ErrorKind::StorageFull => {
                Err(Error::host(format!("failed to write the lock {}", self.at(name)), error))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

/// What the lock file says about its holder, checked against the process that has this pid now.
fn holder(file: &File) -> String {
    let mut text = String::new();
    if file.take(256).read_to_string(&mut text).is_err() {
        return "another process".to_owned();
    }
    let mut words = text.split_whitespace();
    let (_, pid, _, started, _, name) =
        (words.next(), words.next(), words.next(), words.next(), words.next(), words.next());
    let Some(pid) = pid.and_then(|pid| pid.parse().ok()) else {
        return "another process".to_owned();
    };
    if start(pid).as_deref() == started {
        format!("process {pid} ({})", command(pid).unwrap_or_default())
    } else {
        format!(
            "a process in another container, which calls itself {} with pid {pid}",
            name.unwrap_or("unknown")
        )
    }
}

fn command(pid: u32) -> Option<String> {
    let comm = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    Some(comm.trim().escape_debug().to_string())
}

/// When a process started, in clock ticks since boot: field 22 of its stat line, whose field 2 may hold anything.
fn start(pid: u32) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_whitespace().nth(19).map(str::to_owned)
}
