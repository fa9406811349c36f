//! Frozen filesystems that cannot stay frozen.
//!
//! Owns: the process that freezes and thaws. Never: leaves a filesystem frozen for longer than [`LIMIT`], whatever becomes
//! of the driver.
//!
//! The kernel thaws nothing when a freezer dies, and every writer then hangs. So the driver itself freezes nothing: a child
//! does, which is forked for this one freeze, needs no memory of its own, and ignores every signal that can be ignored.
//!
//! Freeze                                              Repair
//!  1. fork; only the child's socket and the roots stay  A. no child, no freeze
//!     open in it
//!  2. the child freezes one root after the other, and   B. it died: the driver thaws
//!     says so                                           C. the driver died: as 3
//!  3. it waits until the driver's end of the socket     D. the driver is killed: the kernel closes that end
//!     closes, but no longer than the limit              E. the driver is stopped or hangs: the limit
//!  4. it thaws, says of each whether it was frozen      F. it died: the driver thaws
//!     still, and ends

use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions, waitpid};
use rustix::time::Timespec;

use super::{Thawed, freeze_once, thaw_once};
use crate::error::{Error, Result, chain};
use crate::os::descriptors::close_all_but;

/// The longest time that a freeze lasts.
const LIMIT: Duration = Duration::from_secs(5);
/// A child that says nothing for longer hangs with its disk; it thaws when the disk lets it.
const PATIENCE: Duration = Duration::from_secs(6);

/// Children that had not ended when their freeze was over; they are waited for at the next one.
static LEFT: Mutex<Vec<Pid>> = Mutex::new(Vec::new());

/// How often a freeze, or all that was to be frozen together, took longer than the limit, so that what was cut does not count.
static LATE: AtomicU64 = AtomicU64::new(0);

/// How often that was so in this process.
pub fn late() -> u64 {
    LATE.load(Ordering::Relaxed)
}

/// Filesystems that are frozen until this is thawed or dropped, the process dies, or five seconds are over.
#[must_use = "dropping it thaws at once"]
#[derive(Debug)]
pub struct Frozen {
    members: Vec<Member>,
    /// How many of them the child has frozen.
    frozen: usize,
    /// None once it is over.
    freezer: Option<Freezer>,
}

/// A filesystem by its name for messages and its root directory.
pub type Member = (String, OwnedFd);

/// The child.
#[derive(Debug)]
struct Freezer {
    pid: Pid,
    socket: UnixStream,
    hangs: bool,
}

impl Frozen {
    /// Freezes all of them, or none.
    ///
    /// # Errors
    /// `Busy` where one is frozen already, `Unsupported` where it cannot be, `Unavailable` where it took too long or no
    /// process could be had that thaws it again; `StillFrozen` where it is not known that all is thawed again.
    pub fn begin(members: Vec<Member>) -> Result<Frozen> {
        Frozen::begin_for(members, LIMIT)
    }

    pub(super) fn begin_for(members: Vec<Member>, limit: Duration) -> Result<Frozen> {
        let failed = |error| Error::Unavailable(format!("failed to start the process that freezes: {error}"));
        reap();
        let (socket, theirs) = UnixStream::pair().map_err(failed)?;
        socket.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
        let pid = fork(&members, &theirs, limit).map_err(failed)?;
        // The child's alone from now on, so that its death is seen.
        drop(theirs);
        let mut begun = Frozen { members, frozen: 0, freezer: Some(Freezer { pid, socket, hangs: false }) };
        let Err(cause) = begun.hear_of_all() else { return Ok(begun) };
        match begun.end() {
            Err(Error::StillFrozen(why)) => Err(Error::StillFrozen(format!("{}; {why}", chain(&cause)))),
            Ok(_) | Err(_) => Err(cause),
        }
    }

    /// Thaws all. Says whether every one of them was frozen until now: only then was everything since `begin` one cut.
    /// Again: nothing is left to thaw.
    ///
    /// # Errors
    /// `Unavailable` where the limit was over before, `StillFrozen` where a filesystem does not thaw, or nobody says that it did; all
    /// others are thawed anyway.
    pub fn thaw(&mut self) -> Result<Thawed> {
        self.end()
    }

    /// Waits until each is frozen. On an error the end thaws what is.
    fn hear_of_all(&mut self) -> Result<()> {
        let Some(freezer) = &mut self.freezer else { return Ok(()) };
        for (name, _) in &self.members {
            let outcome = freezer.hear().map_err(|error| {
                freezer.hangs = error.kind() == ErrorKind::WouldBlock;
                Error::Unavailable(format!("{name}: failed to hear from the process that freezes: {error}"))
            })?;
            outcome.map_err(|errno| refused(name, errno))?;
            self.frozen += 1;
        }
        Ok(())
    }

    fn end(&mut self) -> Result<Thawed> {
        let Some(mut freezer) = self.freezer.take() else { return Ok(Thawed::Now) };
        // Fails where the child is gone, which the answer shows as well.
        let _ = freezer.socket.shutdown(Shutdown::Write);
        let told = freezer.hear_the_end(self.frozen);
        freezer.leave();
        match told {
            Ok(outcomes) => all(outcomes),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
                tracing::warn!("the process that freezes has died; the driver thaws by itself");
                // The one that it was just freezing may be frozen as well.
                let ours = self.members.iter().take(self.frozen + 1);
                let outcomes: Vec<_> = ours.map(|(_, root)| thaw_once(root)).collect();
                all(outcomes.into_iter().take(self.frozen).collect())
            }
            Err(error) => Err(Error::StillFrozen(format!("failed to hear that all is thawed: {error}"))),
        }
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            tracing::error!(error = chain(&error), "failed to thaw");
        }
    }
}

impl Freezer {
    /// The next thing that the child says.
    fn hear(&mut self) -> io::Result<rustix::io::Result<()>> {
        let mut code = [0; 4];
        self.socket.read_exact(&mut code)?;
        Ok(match i32::from_ne_bytes(code) {
            0 => Ok(()),
            errno => Err(Errno::from_raw_os_error(errno)),
        })
    }

    /// Why it thawed, and what became of each that was frozen.
    fn hear_the_end(&mut self, frozen: usize) -> io::Result<Vec<rustix::io::Result<()>>> {
        if self.hangs {
            return Err(ErrorKind::WouldBlock.into());
        }
        (0..=frozen).map(|_| self.hear()).collect()
    }

    /// Waits for its end, unless it hangs.
    fn leave(mut self) {
        let ended = !self.hangs && self.socket.read(&mut [0]).is_ok_and(|count| count == 0);
        if ended && waitpid(Some(self.pid), WaitOptions::empty()).is_ok() {
            return;
        }
        LEFT.lock().unwrap_or_else(PoisonError::into_inner).push(self.pid);
    }
}

/// What the thaws of all come to; the first of them is the reason for it.
fn all(outcomes: Vec<rustix::io::Result<()>>) -> Result<Thawed> {
    let resists = |errno: &Errno| ![Errno::INVAL, Errno::TIMEDOUT].contains(errno);
    if let Some(errno) = outcomes.iter().filter_map(|outcome| outcome.err()).find(resists) {
        return Err(Error::StillFrozen(format!("failed to thaw a filesystem: {errno}")));
    }
    let mut thawed = Thawed::Now;
    for outcome in outcomes {
        match outcome {
            Ok(()) => {}
            Err(Errno::TIMEDOUT) => {
                LATE.fetch_add(1, Ordering::Relaxed);
                return Err(Error::Unavailable(format!(
                    "all was thawed again after {} s, before the cut was done, which therefore does not count; ask again",
                    LIMIT.as_secs()
                )));
            }
            Err(_) => thawed = Thawed::WasNot,
        }
    }
    Ok(thawed)
}

fn refused(name: &str, errno: Errno) -> Error {
    match errno {
        Errno::BUSY => Error::Busy(format!("{name} is frozen already")),
        Errno::OPNOTSUPP => Error::Unsupported(format!("{name} has a filesystem that cannot be frozen")),
        Errno::TIMEDOUT => {
            LATE.fetch_add(1, Ordering::Relaxed);
            Error::Unavailable(format!(
                "{name} and those before it could not be frozen within {} s; ask again",
                LIMIT.as_secs()
            ))
        }
        other => Error::host(format!("failed to freeze {name}"), other.into()),
    }
}

/// Waits for children that have ended since.
fn reap() {
    let mut left = LEFT.lock().unwrap_or_else(PoisonError::into_inner);
    left.retain(|pid| matches!(waitpid(Some(*pid), WaitOptions::NOHANG), Ok(None)));
}

/// Starts the child. It has this process's memory as it is now, and one thread.
#[expect(unsafe_code, reason = "std starts no process without a program")]
fn fork(members: &[Member], socket: &UnixStream, limit: Duration) -> io::Result<Pid> {
    let mut keep: Vec<RawFd> = members.iter().map(|(_, root)| root.as_raw_fd()).collect();
    keep.push(socket.as_raw_fd());
    keep.sort_unstable();
    // SAFETY: a set of signals is plain integers; both sets live across the calls. Every signal is held back from before the
    // fork on, so that no handler of the driver ever runs in the child; the driver gets its own mask back.
    let before = unsafe {
        let (mut every, mut before) = std::mem::zeroed::<(libc::sigset_t, libc::sigset_t)>();
        libc::sigfillset(&raw mut every);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const every, &raw mut before);
        before
    };
    // SAFETY: other threads may hold any lock at this moment, so the child only makes system calls and never returns: it
    // neither allocates, logs nor panics.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        close_all_but(&keep);
        hold(members, socket, limit);
    }
    let outcome = if pid < 0 { Err(io::Error::last_os_error()) } else { Ok(Pid::from_raw(pid)) };
    // SAFETY: as above.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, std::ptr::null_mut()) };
    outcome.and_then(|pid| pid.ok_or_else(|| ErrorKind::Other.into()))
}

/// The child's whole life. The names of its steps show in `ps`.
#[expect(unsafe_code, reason = "the child must not run what the driver does at its exit")]
fn hold(members: &[Member], socket: &UnixStream, limit: Duration) -> ! {
    let begun = Instant::now();
    // Neither may fail; without them it works as well.
    let _ = rustix::process::setsid();
    let _ = rustix::thread::set_name(c"rockpool-freeze");
    let mut frozen = 0;
    for (_, root) in members {
        let outcome = if begun.elapsed() < limit { freeze_once(root) } else { Err(Errno::TIMEDOUT) };
        frozen += usize::from(outcome.is_ok());
        if !tell(socket, outcome) || outcome.is_err() {
            break;
        }
    }
    let _ = rustix::thread::set_name(c"rockpool-frozen");
    let reason = if is_closed_within(socket, limit.saturating_sub(begun.elapsed())) {
        Ok(())
    } else {
        Err(Errno::TIMEDOUT)
    };
    tell(socket, reason);
    for (_, root) in members.iter().take(frozen) {
        tell(socket, thaw_once(root));
    }
    // SAFETY: ends the process at once, and takes no memory along that anybody else sees.
    unsafe { libc::_exit(0) }
}

/// Whether it was heard; a driver that died hears nothing.
fn tell(mut socket: &UnixStream, outcome: rustix::io::Result<()>) -> bool {
    let code = outcome.err().map_or(0, Errno::raw_os_error);
    socket.write_all(&code.to_ne_bytes()).is_ok()
}

fn is_closed_within(socket: &UnixStream, time: Duration) -> bool {
    let time = Timespec { tv_sec: time.as_secs().cast_signed(), tv_nsec: time.subsec_nanos().into() };
    let mut waiting = [PollFd::new(socket, PollFlags::IN)];
    poll(&mut waiting, Some(&time)).is_ok_and(|ready| ready > 0)
}

#[cfg(test)]
mod tests;
