//! A disk that lies and loses: a file below a loop device whose writes a power cut takes back where they were not flushed, that
//! fails or hangs when it is told to.
//!
//! Owns: the mount of a filesystem with one file, `disk`, the threads that serve it, and their end. Never: touches anything that
//! lies on the disk: whoever serves it would wait for himself.
//!
//! It is made, attached and mounted like any other file; a loop device on it hands every write and every flush through. Its
//! threads hold the connection to the kernel in a table of open files of their own: when the program is killed, they end, the
//! connection ends with them, and whatever waits for the disk gets an error, also where other threads of the program hang on it.
//! What hangs is put aside, and keeps no thread.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rockpool::os::file::{Access, Table};
use rockpool::os::loopdev::{self, Attach, Discard, Lifetime};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;

use crate::host::run;

#[path = "disk/medium.rs"]
mod medium;
#[path = "disk/server.rs"]
mod server;
#[path = "disk/state.rs"]
mod state;

use medium::Medium;
pub(crate) use medium::{Loss, Toll};
use server::Server;
use state::State;
pub(crate) use state::{Call, Mood};

/// What goes wrong is told to a person.
type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;
/// Something to be done where the descriptors of the disk are open.
type Job = Box<dyn FnOnce(&mut State) + Send>;

/// The kernel lets go of a loop device a moment after its last user.
const MOMENT: Duration = Duration::from_secs(5);

/// A disk. It goes when this is dropped; what is mounted from it must go before.
pub(crate) struct Disk {
    dir: PathBuf,
    /// None only while it is dropped.
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Disk {
    /// Whether this kernel has what it takes.
    pub(crate) fn is_possible() -> bool {
        std::fs::OpenOptions::new().read(true).write(true).open("/dev/fuse").is_ok()
    }

    /// A disk whose file appears in this directory, which is made; its bytes lie unnamed beside that directory.
    pub(crate) fn new(dir: &Path, seed: u64) -> Outcome<Disk> {
        std::fs::create_dir_all(dir)?;
        let (told, begun) = channel();
        let (jobs, asked) = channel();
        let at = dir.to_owned();
        let thread = std::thread::Builder::new()
            .name("disk".to_owned())
            .spawn(move || serve(&at, seed, &told, &asked))?;
        begun.recv()??;
        Ok(Disk { dir: dir.to_owned(), jobs: Some(jobs), thread: Some(thread) })
    }

    /// Its file, which is there once somebody made it.
    pub(crate) fn file(&self) -> PathBuf {
        self.dir.join(server::NAME)
    }

    /// Mounts the filesystem that its file holds, through a loop device that goes with the mount.
    pub(crate) fn mount(&self, kind: &str, at: &Path) -> Outcome<()> {
        let file = std::fs::OpenOptions::new().read(true).write(true).open(self.file())?;
        let want =
            Attach { access: Access::ReadWrite, lifetime: Lifetime::Autoclear, discard: Discard::Allow };
        let attached = loopdev::attach(&file, want)?;
        run(Command::new("mount").args(["-t", kind]).arg(attached.device.path()).arg(at)).map(drop)
    }

    /// Whether no loop device shows its file any more.
    pub(crate) fn is_free(&self) -> Outcome<bool> {
        let Ok(file) = std::fs::metadata(self.file()) else { return Ok(true) };
        Ok(loopdev::find(file.dev(), file.ino())?.is_empty())
    }

    /// How it takes calls of a kind from now on; what was put aside of them is taken up again.
    pub(crate) fn set(&self, call: Call, mood: Mood) {
        self.ask(move |state| state.set(call, mood));
    }

    /// It takes all calls as a disk should.
    pub(crate) fn heal(&self) {
        for call in Call::ALL {
            self.set(call, Mood::Serves);
        }
    }

    /// How many calls of a kind hang.
    pub(crate) fn hanging(&self, call: Call) -> usize {
        self.ask(move |state| state.hanging(call)).unwrap_or(0)
    }

    /// From some writes on that are not flushed, everything hangs until the power is cut: there is something to lose then.
    /// Whether it came to that in this time.
    pub(crate) fn stall(&self, within: Duration) -> bool {
        self.ask(State::stall);
        let began = Instant::now();
        loop {
            let stalled = self.ask(|state| state.is_stalled()).unwrap_or(false);
            if stalled || began.elapsed() > within {
                return stalled;
            }
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    /// The power is cut, and is back at once: what has the file open gets errors for ever, and whoever opens it anew sees what
    /// was flushed, and of the rest what the cut leaves.
    pub(crate) fn cut(&self, loss: Loss) -> Outcome<Toll> {
        Ok(self.ask(move |state| state.cut(loss)).ok_or("the disk is not served any more")??)
    }

    /// What all cuts came to.
    pub(crate) fn toll(&self) -> Toll {
        self.ask(|state| state.toll()).unwrap_or_default()
    }

    /// None where nobody serves it any more.
    fn ask<T: Send + 'static>(&self, job: impl FnOnce(&mut State) -> T + Send + 'static) -> Option<T> {
        let (tell, told) = channel();
        let job: Job = Box::new(move |state| drop(tell.send(job(state))));
        self.jobs.as_ref()?.send(job).ok()?;
        told.recv().ok()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Whatever still waits for it is told that it is gone.
        for call in Call::ALL {
            self.set(call, Mood::Fails(100));
        }
        let began = Instant::now();
        let mut gone = unmount(&self.dir, UnmountFlags::empty());
        while !gone && began.elapsed() < MOMENT {
            std::thread::sleep(Duration::from_millis(10));
            gone = unmount(&self.dir, UnmountFlags::empty());
        }
        if !gone {
            // Breaks the connection: nobody can wait for it after that.
            eprintln!("the disk in {} is still in use", self.dir.display());
            unmount(&self.dir, UnmountFlags::FORCE);
            unmount(&self.dir, UnmountFlags::DETACH);
        }
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // It says itself what went wrong.
            let _ = thread.join();
        }
    }
}

/// Whether it is not mounted any more.
fn unmount(dir: &Path, how: UnmountFlags) -> bool {
    matches!(rustix::mount::unmount(dir, how), Ok(()) | Err(Errno::INVAL | Errno::NOENT))
}

/// The disk's thread: everything that it opens stays with it and with those that it starts.
fn serve(dir: &Path, seed: u64, told: &Sender<Outcome<()>>, jobs: &Receiver<Job>) {
    let begun = begin(dir, seed);
    let (state, session) = match begun {
        Ok(begun) => begun,
        Err(error) => return drop(told.send(Err(error))),
    };
    drop(told.send(Ok(())));
    for job in jobs {
        job(&mut state.lock().unwrap_or_else(PoisonError::into_inner));
    }
    if let Err(error) = session.join() {
        eprintln!("the disk in {}: {error}", dir.display());
    }
}

fn begin(dir: &Path, seed: u64) -> Outcome<(Arc<Mutex<State>>, fuser::BackgroundSession)> {
    Table::another().begin()?;
    let beside = dir.parent().ok_or("a disk needs a directory beside it")?;
    let state = State::new(Medium::new(tempfile::tempfile_in(beside)?), seed);
    let state = Arc::new(Mutex::new(state));
    let session = fuser::Session::new(Server::new(Arc::clone(&state)), dir, &server::config())?;
    Ok((state, session.spawn()?))
}
