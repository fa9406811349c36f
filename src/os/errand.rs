//! This program once more, for an errand from which it may never come back.
//!
//! Owns: a child's start and answer, and the look whether it gets on. Never: waits for one that hangs with its disk: it is killed
//! by its id and left behind, since a process in such a call ends when the disk answers, and not before.
//!
//! Nothing of the child's is ours: not its table of open files, so it alone holds what it locks, and not its standard error, so
//! that nobody who reads ours waits for one that hangs. Of that only the end is kept, to tell why one died.

use std::ffi::OsStr;
use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use crate::error::{Error, Result, quoted};
use crate::os::thread::ran_in_all;

/// So much of the end of what a child complains of.
const COMPLAINT: usize = 2048;
/// So long for what a child said before it ended; none but it writes there.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What a child is at.
#[derive(Debug)]
pub struct Errand {
    child: Child,
    answer: Receiver<std::io::Result<Vec<u8>>>,
    complaint: Receiver<String>,
    begun: Instant,
    /// When this process last asked after it.
    asked: Instant,
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
    /// It failed or was killed: how it ended, and what it said last.
    Died(String),
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
            .stderr(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        let (Some(mut output), Some(errors)) = (child.stdout.take(), child.stderr.take()) else {
            return Err(failed(std::io::ErrorKind::Other.into()));
        };
        let (tell, answer) = mpsc::channel();
        let listen = move || {
            let mut bytes = Vec::new();
            // Nobody may listen any more.
            let _ = tell.send(output.read_to_end(&mut bytes).map(|_| bytes));
        };
        let (complain, complaint) = mpsc::channel();
        let hear = move || {
            let _ = complain.send(last_of(errors));
        };
        let now = Instant::now();
        let errand =
            Errand { child, answer, complaint, begun: now, asked: now, moved: (now, 0), over: false };
        let start = |listen: Box<dyn FnOnce() + Send>| {
            std::thread::Builder::new().name("errand".to_owned()).spawn(listen).map_err(failed)
        };
        start(Box::new(listen))?;
        start(Box::new(hear))?;
        Ok(errand)
    }

    /// Waits so long for its end. A child that has not run at all for `patience` is killed and left behind; the time in which this
    /// process itself did not ask, since it was stopped, does not count.
    ///
    /// # Errors
    /// Where what it said cannot be read.
    pub fn wait(&mut self, time: Duration, patience: Duration) -> Result<Outcome> {
        let (unasked, now) = (self.asked.elapsed(), Instant::now());
        self.asked = now;
        if unasked > patience / 2 {
            self.moved.0 = now;
        }
        match self.answer.recv_timeout(time) {
            Ok(Ok(bytes)) => {
                self.over = true;
                // It has closed its output, so it is about to end.
                return Ok(match self.child.wait() {
                    Ok(status) if status.success() => Outcome::Answer(bytes),
                    Ok(status) => Outcome::Died(self.died(&status.to_string())),
                    Err(error) => Outcome::Died(self.died(&error.to_string())),
                });
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

    fn died(&self, how: &str) -> String {
        // It has ended, so there is no more to come.
        match self.complaint.recv_timeout(LAST_WORDS) {
            Ok(said) if !said.is_empty() => format!("{how}; it said last: {}", quoted(&said)),
            Ok(_) | Err(_) => how.to_owned(),
        }
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

/// The last lines of a stream, however long that is.
fn last_of(mut stream: impl Read) -> String {
    let (mut end, mut chunk) = (Vec::new(), [0; COMPLAINT]);
    while let Ok(count @ 1..) = stream.read(&mut chunk) {
        end.extend_from_slice(chunk.get(..count).unwrap_or_default());
        end.drain(..end.len().saturating_sub(COMPLAINT));
    }
    let text = String::from_utf8_lossy(&end);
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    // What a panic says takes three lines.
    lines.get(lines.len().saturating_sub(3)..).unwrap_or_default().join(" / ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[ignore = "what an errand of the next test does"]
    fn nothing_at_all() {
        std::thread::sleep(Duration::from_secs(60));
    }

    #[test]
    fn the_time_in_which_nobody_asked_is_no_silence() {
        let words = ["--ignored", "--exact", "os::errand::tests::nothing_at_all"];
        let mut errand = Errand::begin(&words).unwrap();
        let patience = Duration::from_secs(2);
        let ask = |errand: &mut Errand| errand.wait(Duration::from_millis(20), patience).unwrap();
        // Until it sleeps.
        while errand.age() < patience / 2 || errand.moved.0.elapsed() < Duration::from_millis(200) {
            assert!(matches!(ask(&mut errand), Outcome::Busy));
        }
        // As if this process was stopped.
        std::thread::sleep(patience * 2);
        assert!(matches!(ask(&mut errand), Outcome::Busy), "nobody asked");
        let again = Instant::now();
        while matches!(ask(&mut errand), Outcome::Busy) {}
        assert!(again.elapsed() >= patience / 2, "{:?}", again.elapsed());
        assert!(errand.over);
        // What was left behind in a call that ends is waited for by nobody else.
        let _ = errand.child.wait();
    }

    #[test]
    fn one_that_fails_has_died_and_says_why() {
        let mut errand = Errand::begin(&["--no-such-flag"]).unwrap();
        let outcome = loop {
            let outcome = errand.wait(Duration::from_millis(20), Duration::from_secs(60)).unwrap();
            if !matches!(outcome, Outcome::Busy) {
                break outcome;
            }
        };
        let Outcome::Died(why) = outcome else { panic!("{outcome:?}") };
        assert!(why.starts_with("exit status: ") && why.contains("no-such-flag"), "{why}");
    }

    #[test]
    fn of_a_complaint_the_end_is_kept_whatever_its_length() {
        assert_eq!(last_of(&b""[..]), "");
        assert_eq!(last_of(&b"one\ntwo\n\nthree\nfour\n"[..]), "two / three / four");
        let long = "x".repeat(COMPLAINT * 3) + "\nthe end";
        assert!(
            last_of(long.as_bytes()).ends_with("x / the end")
                && last_of(long.as_bytes()).len() < COMPLAINT + 8
        );
    }
}
