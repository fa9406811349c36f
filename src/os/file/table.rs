//! Tables of open files: which threads share their descriptors.
//!
//! Owns: giving a thread a table of its own, and the rule that what was opened in one table is used and closed there only.
//! Never: moves a descriptor from one table to another.
//!
//! A thread that hangs in the kernel on a dead disk cannot be killed, and keeps its whole table of open files open, even
//! after its process was killed: locks, sockets, everything. So the threads that touch a pool have a table that holds that
//! pool's files and nothing else. A descriptor is a number that means something in its own table only: elsewhere it is
//! closed, or somebody else's file. [`Kept`] watches over that.
//!
//! Nor may a signal meet such a thread: its handler would wake the runtime by a descriptor of the process, which is not the
//! runtime's here, and the wish to end would be lost. The kernel gives a signal to any thread that does not hold it back.

use std::cell::Cell;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::thread::UnshareFlags;

use crate::error::{Error, Result};
use crate::os::descriptors::close_all_but;

/// Standard input, output and error, which a log goes to.
const STANDARD: [i32; 3] = [0, 1, 2];

static NEXT: AtomicU32 = AtomicU32::new(1);

thread_local! {
    static HERE: Cell<Table> = const { Cell::new(Table::PROCESS) };
}

/// A table of open files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Table(u32);

impl Table {
    /// The one that the process began with.
    pub const PROCESS: Table = Table(0);

    /// That of the calling thread.
    pub fn here() -> Table {
        HERE.get()
    }

    /// Another one, for a thread to begin.
    pub fn another() -> Table {
        Table(NEXT.fetch_add(1, Ordering::Relaxed))
    }

    /// Makes it that of the calling thread, with nothing open but the standard three. To be called before the thread opens
    /// anything; threads that it starts share its table and [`join`](Table::join) it.
    ///
    /// # Errors
    /// Where the kernel has no memory for it; the thread then stays where it was, and only its name has changed.
    #[expect(unsafe_code, reason = "rustix leaves it to the caller what the descriptors of a table mean")]
    pub fn begin(self) -> Result<()> {
        HERE.set(self);
        hold_back_signals();
        // SAFETY: this thread has opened nothing that it could use afterwards, and closes nothing but its own copies.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::FILES) }
            .map_err(|error| Error::host("failed to get a table of open files", error.into()))?;
        close_all_but(&STANDARD);
        Ok(())
    }

    /// Says that a thread that has this table started the calling one.
    pub fn join(self) {
        HERE.set(self);
    }
}

/// Leaves the signals that a runtime waits for to other threads. What the calling thread starts does the same, programs included:
/// those end by SIGKILL, as at their deadline.
#[expect(unsafe_code, reason = "rustix has no mask of signals for threads")]
fn hold_back_signals() {
    // SAFETY: a set of signals is plain integers and lives across the calls, which take signals that there are.
    unsafe {
        let mut held = std::mem::zeroed::<libc::sigset_t>();
        libc::sigemptyset(&raw mut held);
        libc::sigaddset(&raw mut held, libc::SIGTERM);
        libc::sigaddset(&raw mut held, libc::SIGINT);
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const held, std::ptr::null_mut());
    }
}

/// Something that holds descriptors, bound to the table in which it was made: out of reach elsewhere, and never closed
/// elsewhere. What is left when its table's last thread ends, the kernel closes.
#[derive(Debug)]
pub struct Kept<T> {
    /// None only while it is dropped.
    value: Option<T>,
    table: Table,
}

impl<T> Kept<T> {
    /// Something that was made on this thread.
    pub fn new(value: T) -> Kept<T> {
        Kept { value: Some(value), table: Table::here() }
    }

    /// The thing itself; `None` on a thread with another table, where its descriptors would be somebody else's files.
    pub fn get(&self) -> Option<&T> {
        self.value.as_ref().filter(|_| self.table == Table::here())
    }
}

impl<T> Drop for Kept<T> {
    fn drop(&mut self) {
        let value = self.value.take();
        if self.table != Table::here() {
            std::mem::forget(value);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;
    use std::sync::Arc;
    use std::thread::spawn;

    use super::*;
    use crate::os::file::{Dir, program_path};
    use crate::os::process;

    /// Does something on a thread that begins a table.
    fn apart<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
        let work = move || {
            Table::another().begin().unwrap();
            work()
        };
        spawn(work).join().unwrap()
    }

    #[test]
    fn a_table_of_its_own_begins_empty_and_is_shared_by_those_started_from_it() {
        let ours = tempfile::tempfile().unwrap();
        let number = ours.as_raw_fd();
        apart(move || {
            let open = || std::fs::read_dir("/proc/thread-self/fd").unwrap().count();
            assert_eq!(open(), STANDARD.len() + 1, "the listing itself is one");
            let file = tempfile::tempfile().unwrap();
            assert!(file.as_raw_fd() <= number, "nothing else was open");
            let table = Table::here();
            let seen = spawn(move || {
                table.join();
                (Table::here(), std::fs::read_dir("/proc/thread-self/fd").unwrap().count())
            });
            assert_eq!(seen.join().unwrap(), (table, STANDARD.len() + 2));
        });
        assert!(ours.metadata().is_ok());
        assert_eq!(Table::here(), Table::PROCESS);
    }

    #[test]
    fn a_wish_to_end_meets_no_thread_there() {
        let held = || {
            let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
            let mask = status.lines().find_map(|line| line.strip_prefix("SigBlk:")).unwrap();
            let mask = u64::from_str_radix(mask.trim(), 16).unwrap();
            [libc::SIGTERM, libc::SIGINT].map(|signal| (mask >> (signal - 1)) & 1 == 1)
        };
        assert_eq!(apart(move || (held(), spawn(held).join().unwrap())), ([true; 2], [true; 2]));
        assert_eq!(held(), [false; 2], "somebody has to hear it");
    }

    #[test]
    fn a_program_started_there_reaches_an_open_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().to_owned();
        let text = apart(move || {
            let file = Dir::open(&path).unwrap().create("file").unwrap();
            std::io::Write::write_all(&mut &file, b"reached").unwrap();
            process::run("cat", &[program_path(&file)], "failed to read").unwrap()
        });
        assert_eq!(text, "reached");
    }

    #[test]
    fn what_is_kept_is_neither_reached_nor_closed_elsewhere() {
        let file = tempfile::tempfile().unwrap();
        let number = file.as_raw_fd();
        let kept = Arc::new(Kept::new(file));
        let there = Arc::clone(&kept);
        let reached = spawn(move || {
            Table::another().begin().unwrap();
            // A stranger with the same number.
            let strangers: Vec<_> = (0..=number).map(|_| tempfile::tempfile().unwrap()).collect();
            let reached = there.get().is_some();
            drop(there);
            (reached, strangers.iter().all(|stranger| stranger.metadata().is_ok()))
        });
        assert_eq!(reached.join().unwrap(), (false, true));
        let Some(kept) = Arc::into_inner(kept) else { panic!("the other thread is done with it") };
        let moved = spawn(move || {
            Table::another().begin().unwrap();
            drop(kept);
        });
        moved.join().unwrap();
        let still_open = std::fs::read_link(format!("/proc/self/fd/{number}")).is_ok();
        assert!(still_open, "it was closed by a thread that has it not");
    }
}
