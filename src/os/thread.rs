//! Threads, and whether they get on.
//!
//! Owns: the time that a thread has run, by the kernel's own account. Never: starts, stops or waits for one.
//!
//! A thread that gets on runs again and again, be it to wait for its disk once more; one that hangs does not run at all. To ask is
//! to read `/proc`, which waits for no disk.

use std::path::Path;

use rustix::thread::Pid;

/// A thread of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thread(Pid);

impl Thread {
    /// The calling one.
    pub fn here() -> Thread {
        Thread(rustix::thread::gettid())
    }

    /// For how long it has run, in nanoseconds; `None` where it has ended, or the kernel does not tell.
    pub fn ran(self) -> Option<u64> {
        ran(&Path::new("/proc/self/task").join(self.0.as_raw_nonzero().to_string()))
    }
}

/// For how long all threads of a process have run, in nanoseconds. One that has ended is counted no more, which is a change as well.
pub(super) fn ran_in_all(process: &Path) -> u64 {
    let threads = std::fs::read_dir(process.join("task")).into_iter().flatten().flatten();
    threads.filter_map(|thread| ran(&thread.path())).fold(0, u64::saturating_add)
}

fn ran(thread: &Path) -> Option<u64> {
    let text = std::fs::read_to_string(thread.join("schedstat")).ok()?;
    text.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    #[test]
    fn one_that_waits_has_not_run_and_one_that_runs_has() {
        let (tell, told) = mpsc::channel();
        let (go_on, wait) = mpsc::channel::<()>();
        let waiting = std::thread::spawn(move || {
            tell.send(Thread::here()).unwrap();
            let _ = wait.recv();
        });
        let (it, me) = (told.recv().unwrap(), Thread::here());
        assert_ne!(it, me);
        // It is about to wait, if it does not yet.
        std::thread::sleep(Duration::from_millis(200));
        let (before, mine) = (it.ran().unwrap(), me.ran().unwrap());
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!(it.ran(), Some(before));
        assert!(me.ran().unwrap() > mine);
        drop(go_on);
        waiting.join().unwrap();
        while it.ran().is_some() {
            std::thread::yield_now();
        }
    }
}
