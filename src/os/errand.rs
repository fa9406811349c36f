//! This program once more, for an errand from which it may never come back.
//!
//! Owns: a child's start and answer, and the look whether it gets on. Never: waits for one that hangs with its disk: it is killed
//! by its id and left behind, since a process in such a call ends when the disk answers, and not before.
//!
//! Nothing of the child's is ours: not its table of open files, so it alone holds what it locks, and not its standard error, so
//! that nobody who reads ours waits for one that hangs.

use std::ffi::OsStr;
use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::os::thread::ran_in_all;

/// What a child is at.
#[derive(Debug)]
pub struct Errand {
    child: Child,
    answer: Receiver<std::io::Result<Vec<u8>>>,
    begun: Instant,
    /// When it was last seen to have run, and for how long by then.
    moved: (Instant, u64),
    /// Whether it has ended or was left behind.
    over: bool,
}

/// What became of an errand.
#[derive(Debug)]
pub enum Outcome {
    /// All that the child printed.
    Answer(Vec<u8>),
    /// It did nothing for so long, and was left behind.
    Silent,
    /// It is at work.
    Busy,
}

impl Errand {
    /// Starts this program with these arguments and nothing of our environment.
    ///
    /// # Errors
    /// Where no process can be had.
    pub fn begin<A: AsRef<OsStr>>(arguments: &[A]) -> Result<Errand> {
        let failed = |error| Error::host("failed to start this program once more", error);
        let mut child = Command::new("/proc/self/exe")
            .args(arguments)
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(failed)?;
        let Some(mut output) = child.stdout.take() else {
            return Err(failed(std::io::ErrorKind::Other.into()));
        };
        let (tell, answer) = mpsc::channel();
        let listen = move || {
            let mut bytes = Vec::new();
            // Nobody may listen any more.
            let _ = tell.send(output.read_to_end(&mut bytes).map(|_| bytes));
        };
        let now = Instant::now();
        let errand = Errand { child, answer, begun: now, moved: (now, 0), over: false };
        std::thread::Builder::new().name("errand".to_owned()).spawn(listen).map_err(failed)?;
        Ok(errand)
    }

    /// Waits so long for its end. A child that has not run at all for `patience` is killed and left behind.
    ///
    /// # Errors
    /// Where what it said cannot be read.
    pub fn wait(&mut self, time: Duration, patience: Duration) -> Result<Outcome> {
        match self.answer.recv_timeout(time) {
            Ok(Ok(bytes)) => {
                self.over = true;
                // It has closed its output, so it is about to end.
                let _ = self.child.wait();
                return Ok(Outcome::Answer(bytes));
            }
            Ok(Err(error)) => return Err(Error::host("failed to read what an errand came to", error)),
            Err(RecvTimeoutError::Disconnected) => {
                return Err(Error::Unavailable("nobody listens to an errand".to_owned()));
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
        let ran = ran_in_all(&Path::new("/proc").join(self.child.id().to_string()));
        if ran != self.moved.1 {
            self.moved = (Instant::now(), ran);
        }
        if self.moved.0.elapsed() < patience {
            return Ok(Outcome::Busy);
        }
        self.leave();
        Ok(Outcome::Silent)
    }

    /// For how long it has been at it.
    pub fn age(&self) -> Duration {
        self.begun.elapsed()
    }

    fn leave(&mut self) {
        if !std::mem::replace(&mut self.over, true) {
            // Not waited for: it may hang for as long as its disk.
            let _ = self.child.kill();
        }
    }
}

impl Drop for Errand {
    fn drop(&mut self) {
        self.leave();
    }
}
