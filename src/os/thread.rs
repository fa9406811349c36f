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

/// A kernel that keeps no `schedstat` counts at least ticks and switches: one that gets on is switched to again and again.
fn ran(thread: &Path) -> Option<u64> {
    let read = |name: &str| std::fs::read_to_string(thread.join(name)).ok();
    let exact = |text: String| text.split_whitespace().next()?.parse().ok().filter(|ran| *ran > 0);
    read("schedstat")
        .and_then(exact)
        .or_else(|| Some(ticked(&read("stat")?)?.saturating_add(switched(&read("status")?))))
}

/// The ticks of 10 ms in its `stat`, as nanoseconds.
fn ticked(stat: &str) -> Option<u64> {
    // Its name may hold anything, but ends at the last bracket.
    let (_, fields) = stat.rsplit_once(") ")?;
    let times = fields.split(' ').skip(11).take(2).map(str::parse::<u64>);
    Some(times.sum::<Result<u64, _>>().ok()?.saturating_mul(10_000_000))
}

/// How often it was switched to, as `status` says.
fn switched(status: &str) -> u64 {
    let counts = status.lines().filter_map(|line| {
        let (key, count) = line.split_once(':')?;
        key.ends_with("ctxt_switches").then(|| count.trim().parse::<u64>().ok()).flatten()
    });
    counts.sum()
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    #[test]
    fn where_the_kernel_keeps_no_schedstat_its_ticks_and_switches_tell() {
        let thread = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| std::fs::write(thread.path().join(name), text).unwrap();
        assert_eq!(ran(thread.path()), None, "it has ended");
        put("schedstat", "0 0 0\n");
        put("stat", "7 (a) b) S 1 7 7 0 -1 64 1 0 0 0 30 4 0 0 20 0 1 0 5 6 7\n");
        put("status", "Name:\ta) b\nvoluntary_ctxt_switches:\t5\nnonvoluntary_ctxt_switches:\t6\n");
        assert_eq!(ran(thread.path()), Some(340_000_011));
        put("schedstat", "1234 0 1\n");
        assert_eq!(ran(thread.path()), Some(1234));
    }

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
