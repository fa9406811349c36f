//! The threads on which a pool's work runs.
//!
//! Owns: a few threads a pool and the queue before them. Never: shares them between pools: a hung disk takes its own
//! threads and nothing else.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use crate::error::{Error, Result, quoted};

/// Threads a pool may have. They are started when work waits and stay.
const THREADS: usize = 8;
/// Jobs that may wait. More would only make callers wait past their deadlines.
const QUEUE: usize = 512;
/// Enough for the deepest verb; the default of 2 MiB would be charged for nothing.
const STACK_BYTES: usize = 512 * 1024;

type Job = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    threads: usize,
    idle: usize,
    closed: bool,
}

struct Shared {
    queue: Mutex<Queue>,
    wake: Condvar,
}

/// The threads of one pool.
pub struct Workers {
    name: String,
    shared: Arc<Shared>,
}

impl Workers {
    /// No threads yet; `name` is what they are called in `top`.
    pub(crate) fn new(name: &str) -> Self {
        let shared = Arc::new(Shared { queue: Mutex::default(), wake: Condvar::new() });
        Workers { name: name.to_owned(), shared }
    }

    /// Runs `job` on one of the threads. It runs to its end whether or not anybody waits for the answer; a job that
    /// panics drops the sender.
    ///
    /// # Errors
    /// `Unavailable` when too many jobs wait already.
    pub fn run<T, F>(&self, job: F) -> Result<oneshot::Receiver<T>>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        let (answer, wait) = oneshot::channel();
        let mut queue = self.shared.lock();
        if queue.jobs.len() >= QUEUE {
            return Err(Error::Unavailable(format!(
                "{QUEUE} calls wait for pool {} already; is its disk slow? ask again later",
                quoted(&self.name)
            )));
        }
        queue.jobs.push_back(Box::new(move || {
            // Nobody may wait any more: that is no reason not to have done it.
            drop(answer.send(job()));
        }));
        if queue.idle < queue.jobs.len() && queue.threads < THREADS {
            self.start(&mut queue)?;
        }
        self.shared.wake.notify_one();
        Ok(wait)
    }

    fn start(&self, queue: &mut Queue) -> Result<()> {
        let shared = Arc::clone(&self.shared);
        let thread = std::thread::Builder::new()
            .name(self.name.chars().take(15).collect())
            .stack_size(STACK_BYTES)
            .spawn(move || shared.work());
        match thread {
            Ok(_) => queue.threads += 1,
            Err(_) if queue.threads > 0 => {} // The ones there are will come to it.
            Err(error) => {
                queue.jobs.pop_back();
                return Err(Error::Unavailable(format!("failed to start a thread: {error}")));
            }
        }
        Ok(())
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        loop {
            let mut queue = self.lock();
            let job = loop {
                if let Some(job) = queue.jobs.pop_front() {
                    break job;
                }
                if queue.closed {
                    return;
                }
                queue.idle += 1;
                queue = self.wake.wait(queue).unwrap_or_else(PoisonError::into_inner);
                queue.idle -= 1;
            };
            drop(queue);
            // The panic was printed by the hook; the dropped sender tells the caller, the dropped claim frees the object.
            drop(catch_unwind(AssertUnwindSafe(job)));
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.wake.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;

    #[test]
    fn jobs_run_side_by_side_and_outlive_their_caller() {
        let workers = Workers::new("test");
        let barrier = Arc::new(Barrier::new(3));
        for _ in 0..2 {
            let barrier = Arc::clone(&barrier);
            drop(workers.run(move || barrier.wait()).unwrap());
        }
        barrier.wait();
    }

    #[test]
    fn a_panic_ends_the_job_and_not_the_thread() {
        let workers = Workers::new("test");
        let broken = workers.run(|| panic!("on purpose")).unwrap();
        assert!(broken.blocking_recv().is_err());
        for _ in 0..THREADS * 2 {
            assert_eq!(workers.run(|| 7).unwrap().blocking_recv().unwrap(), 7);
        }
    }

    #[test]
    fn a_stuck_disk_fills_its_own_queue_and_then_says_so() {
        let workers = Workers::new("stuck");
        let gate = Arc::new(Barrier::new(THREADS + 1));
        for _ in 0..THREADS {
            let gate = Arc::clone(&gate);
            drop(workers.run(move || gate.wait()).unwrap());
        }
        let refused = (0..=QUEUE + THREADS).find_map(|_| workers.run(|| ()).err());
        assert!(matches!(refused, Some(Error::Unavailable(_))), "{refused:?}");
        gate.wait();
    }
}
