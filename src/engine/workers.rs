//! The threads on which a pool's work runs.
//!
//! Owns: a few threads a pool, the queue before them, the table of open files that they alone have, and the look that shows
//! whether they answer. Never: shares them between pools: a hung disk takes its own threads and nothing else.
//!
//! A thread in a table of its own (`os::file::Table`) must not wake what waits outside: to wake the runtime is to write to a
//! descriptor of the process, and the number may be another file here. So its answers are posted, and one thread of the
//! process hands them over.
//!
//! | thread | does |
//! |---|---|
//! | the first | begins the table, starts a worker, then only looks: opens the pool, and later sees whether it is still there. While no worker can be had, refuses what waits |
//! | up to eight workers | the jobs; one that takes a job starts another one where none is idle, since nobody outside the table can |

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, mpsc};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::error::{Error, Result, chain, quoted};
use crate::os::file::Table;
use crate::os::thread::Thread;

/// Workers a pool may have. They are started when work waits and stay.
const THREADS: usize = 8;
/// Jobs that may wait. More would only make callers wait past their deadlines.
const QUEUE: usize = 512;
/// Enough for the deepest verb; the default of 2 MiB would be charged for nothing.
const STACK_BYTES: usize = 512 * 1024;
/// A look that takes longer has met a disk that hangs, or one with very many records to read.
const SILENCE: Duration = Duration::from_secs(5);
/// When all workers are at it for so long, and none begins or ends anything, no further call waits for them.
const STUCK: Duration = Duration::from_secs(10);

/// What waits for a worker.
type Job = Box<dyn FnOnce(Turn) + Send>;
/// A look, or an answer on its way.
type Deed = Box<dyn FnOnce() + Send>;

/// What became of the wait for a worker.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Turn {
    /// Here is one.
    Come,
    /// There will be none, for this reason.
    Refused(String),
}

/// Hands answers over, in the table of the process.
static POST: OnceLock<mpsc::Sender<Deed>> = OnceLock::new();

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    look: Option<Deed>,
    /// Since when there is a look that is not over.
    looking: Option<Instant>,
    has_first: bool,
    /// The one that looks, once it is there.
    first: Option<Thread>,
    workers: usize,
    idle: usize,
    /// When each of the jobs that run now was begun, and by whom.
    begun: Vec<(Instant, Thread)>,
    /// When a job was last begun or ended.
    moved: Option<Instant>,
    closed: bool,
}

struct Shared {
    name: String,
    table: Table,
    queue: Mutex<Queue>,
    work: Condvar,
    look: Condvar,
    /// How large the stack of a worker is, in bytes; a test asks for more than there is.
    stack: AtomicUsize,
}

/// The threads of one pool.
pub struct Workers {
    shared: Arc<Shared>,
}

impl Workers {
    /// With the open files of the process. No threads yet; `name` is what they are called in `top`.
    pub(crate) fn new(name: &str) -> Self {
        Workers::with(name, Table::PROCESS)
    }

    /// With a table of open files of their own.
    ///
    /// # Errors
    /// Where the thread that hands over their answers cannot be started.
    pub(crate) fn apart(name: &str) -> Result<Self> {
        start_post()?;
        Ok(Workers::with(name, Table::another()))
    }

    fn with(name: &str, table: Table) -> Self {
        let (queue, work, look) = (Mutex::default(), Condvar::new(), Condvar::new());
        let stack = AtomicUsize::new(STACK_BYTES);
        Workers { shared: Arc::new(Shared { name: name.to_owned(), table, queue, work, look, stack }) }
    }

    /// Runs `job` on one of the workers. It runs to its end whether or not anybody waits for the answer; a job that
    /// panics drops the sender.
    ///
    /// # Errors
    /// As `run_then`.
    pub fn run<T, F>(&self, job: F) -> Result<oneshot::Receiver<T>>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        let (answer, wait) = oneshot::channel();
        self.run_then(job, move |outcome| {
            // Nobody may wait any more: that is no reason not to have done it.
            drop(outcome.map(|outcome| answer.send(outcome)));
        })?;
        Ok(wait)
    }

    /// Runs `job` on one of the workers to its end, and then `deliver` where whoever waits can be woken; with `Unavailable` where
    /// the job panicked, or no thread could be had for it, so that it was not begun.
    ///
    /// # Errors
    /// `Unavailable` when too many jobs wait already, or the disk does not answer.
    pub fn run_then<T, F, D>(&self, job: F, deliver: D) -> Result<()>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
        D: FnOnce(Result<T>) + Send + 'static,
    {
        let mut queue = self.shared.lock();
        self.shared.refuse(&queue)?;
        let apart = self.shared.is_apart();
        queue.jobs.push_back(Box::new(move |turn| {
            let delivery: Deed = match turn {
                Turn::Come => {
                    // The panic was printed by the hook; the dropped claim frees the object.
                    let outcome = catch_unwind(AssertUnwindSafe(job)).map_err(|_| broke_off());
                    Box::new(move || deliver(outcome))
                }
                Turn::Refused(why) => Box::new(move || {
                    drop(job);
                    deliver(Err(Error::Unavailable(why)));
                }),
            };
            if apart { post(delivery) } else { delivery() }
        }));
        let started =
            if apart { self.shared.start_first(&mut queue) } else { self.shared.start_worker(&mut queue) };
        if let Err(error) = started {
            queue.jobs.pop_back();
            return Err(error);
        }
        self.shared.work.notify_one();
        if queue.workers == 0 {
            self.shared.look.notify_one();
        }
        Ok(())
    }

    /// Runs a look at the disk on the first thread. Says whether it will: not while one is not over yet.
    ///
    /// # Errors
    /// `Unavailable` where the thread cannot be started.
    pub(crate) fn look(&self, look: impl FnOnce() + Send + 'static) -> Result<bool> {
        let mut queue = self.shared.lock();
        if queue.looking.is_some() {
            return Ok(false);
        }
        self.shared.start_first(&mut queue)?;
        queue.looking = Some(Instant::now());
        queue.look = Some(Box::new(look));
        self.shared.look.notify_one();
        Ok(true)
    }

    /// What they are called.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// Whether the calling thread has their table of open files.
    pub(crate) fn is_here(&self) -> bool {
        Table::here() == self.shared.table
    }

    /// Whether a look is not over yet.
    pub(crate) fn is_looking(&self) -> bool {
        self.shared.lock().looking.is_some()
    }

    /// For how long a look has not been answered, where that is so.
    pub(crate) fn silence(&self) -> Option<Duration> {
        self.shared.lock().silence()
    }

    /// For how long the oldest job has been running.
    pub(crate) fn at_work_for(&self) -> Duration {
        let queue = self.shared.lock();
        queue.begun.iter().map(|(since, _)| since.elapsed()).max().unwrap_or_default()
    }

    /// Why nothing new is taken at this moment, where that is so: it would wait for a disk that hangs or is slow.
    pub(crate) fn refusal(&self) -> Option<Error> {
        self.shared.refuse(&self.shared.lock()).err()
    }

    /// For how long those have run for whom a new job would wait, in nanoseconds: while a look is not answered, who looks, else all
    /// that are at work. `None` where it would wait for nobody, or the kernel does not tell.
    pub(crate) fn ran(&self) -> Option<u64> {
        let queue = self.shared.lock();
        let awaited: Vec<Thread> = match queue.silence() {
            Some(_) => queue.first.into_iter().collect(),
            None => queue.begun.iter().map(|(_, by)| *by).collect(),
        };
        drop(queue);
        awaited.into_iter().filter_map(Thread::ran).reduce(u64::saturating_add)
    }
}

impl Queue {
    fn silence(&self) -> Option<Duration> {
        self.looking.map(|since| since.elapsed()).filter(|silence| *silence >= SILENCE)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_apart(&self) -> bool {
        self.table != Table::PROCESS
    }

    /// Refuses what would only wait for a disk that hangs.
    fn refuse(&self, queue: &Queue) -> Result<()> {
        let name = quoted(&self.name);
        if let Some(silence) = queue.silence() {
            return Err(Error::Unavailable(format!(
                "pool {name} has not answered for {} s: its disk hangs, or its records are still being read; ask again later",
                silence.as_secs()
            )));
        }
        let stuck = queue.moved.map_or(Duration::ZERO, |moved| moved.elapsed());
        if queue.begun.len() >= THREADS && stuck >= STUCK {
            return Err(Error::Unavailable(format!(
                "all {THREADS} threads of pool {name} have been at work for {} s: its disk hangs or is slow; ask again later",
                stuck.as_secs()
            )));
        }
        if queue.jobs.len() >= QUEUE {
            return Err(Error::Unavailable(format!(
                "{QUEUE} calls wait for pool {name} already; is its disk slow? ask again later"
            )));
        }
        Ok(())
    }

    /// Makes sure that there is a first thread.
    fn start_first(self: &Arc<Self>, queue: &mut Queue) -> Result<()> {
        if !queue.has_first {
            let shared = Arc::clone(self);
            self.start(STACK_BYTES, move || shared.lead())?;
            queue.has_first = true;
        }
        Ok(())
    }

    /// Starts a worker where all are taken and there may be more. The calling thread must have the table.
    fn start_worker(self: &Arc<Self>, queue: &mut Queue) -> Result<()> {
        let wanted = if self.is_apart() { 1 } else { queue.jobs.len() };
        if queue.idle >= wanted || queue.workers >= THREADS || queue.closed {
            return Ok(());
        }
        let shared = Arc::clone(self);
        let started = self.start(self.stack.load(Ordering::Relaxed), move || {
            shared.table.join();
            shared.work();
        });
        match started {
            Ok(()) => queue.workers += 1,
            Err(_) if queue.workers > 0 => {} // The ones there are will come to it.
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn start(&self, stack: usize, life: impl FnOnce() + Send + 'static) -> Result<()> {
        let name = self.name.chars().take(15).collect();
        let thread = std::thread::Builder::new().name(name).stack_size(stack).spawn(life);
        thread.map(drop).map_err(|error| Error::Unavailable(format!("failed to start a thread: {error}")))
    }

    /// The life of the first thread.
    fn lead(self: &Arc<Self>) {
        if self.is_apart() {
            if let Err(error) = self.table.begin() {
                // It works as well, only not after a kill while the disk hangs.
                tracing::warn!(
                    pool = self.name,
                    error = chain(&error),
                    "the pool's files are not kept apart"
                );
            }
            // Before any look, which may hang. Where it fails, the next job is the reason for another try.
            let _ = self.start_worker(&mut self.lock());
        }
        let mut queue = self.lock();
        queue.first = Some(Thread::here());
        loop {
            if let Some(look) = queue.look.take() {
                drop(queue);
                drop(catch_unwind(AssertUnwindSafe(look)));
                queue = self.lock();
                queue.looking = None;
            } else if queue.closed {
                return;
            } else if self.is_apart() && queue.workers == 0 && !queue.jobs.is_empty() {
                if let Err(error) = self.start_worker(&mut queue) {
                    tracing::error!(
                        pool = self.name,
                        error = chain(&error),
                        "the pool has no thread to work on"
                    );
                    let refused = std::mem::take(&mut queue.jobs);
                    drop(queue);
                    let why = format!("nothing was begun: {}; ask again", chain(&error));
                    refused.into_iter().for_each(|job| job(Turn::Refused(why.clone())));
                    queue = self.lock();
                }
            } else {
                queue = self.look.wait(queue).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }

    /// The life of a worker.
    fn work(self: &Arc<Self>) {
        let mut queue = self.lock();
        loop {
            if let Some(job) = queue.jobs.pop_front() {
                let begun = (Instant::now(), Thread::here());
                queue.begun.push(begun);
                queue.moved = Some(begun.0);
                if self.is_apart() {
                    // An error means that there is one at least: this one.
                    let _ = self.start_worker(&mut queue);
                }
                drop(queue);
                drop(catch_unwind(AssertUnwindSafe(|| job(Turn::Come))));
                queue = self.lock();
                if let Some(at) = queue.begun.iter().position(|other| *other == begun) {
                    queue.begun.swap_remove(at);
                }
                queue.moved = Some(Instant::now());
            } else if queue.closed {
                return;
            } else {
                queue.idle += 1;
                queue = self.work.wait(queue).unwrap_or_else(PoisonError::into_inner);
                queue.idle -= 1;
            }
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.work.notify_all();
        self.shared.look.notify_all();
    }
}

/// Starts the thread that hands answers over, where there is none yet.
/// What is known of a job that ended without an answer.
pub(crate) fn broke_off() -> Error {
    Error::Unavailable(
        "the operation broke off, its outcome is unknown; send the same request again".to_owned(),
    )
}

fn start_post() -> Result<()> {
    static STARTING: Mutex<()> = Mutex::new(());
    let _one = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
    if POST.get().is_some() {
        return Ok(());
    }
    assert_eq!(Table::here(), Table::PROCESS, "it would hand over in the wrong table");
    let (sender, posted) = mpsc::channel::<Deed>();
    let life = move || posted.into_iter().for_each(|delivery| drop(catch_unwind(AssertUnwindSafe(delivery))));
    let thread = std::thread::Builder::new().name("answers".to_owned()).stack_size(STACK_BYTES).spawn(life);
    thread.map_err(|error| Error::host("failed to start the thread that hands over answers", error))?;
    // There is only one that gets here.
    let _ = POST.set(sender);
    Ok(())
}

fn post(delivery: Deed) {
    let unsent = match POST.get() {
        Some(post) => post.send(delivery).err().map(|unsent| unsent.0),
        None => Some(delivery),
    };
    // It must not even be dropped here, for that would wake somebody as well. The thread never ends, so there is none.
    std::mem::forget(unsent);
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

    #[test]
    fn a_job_for_which_no_thread_can_be_had_is_refused_and_the_next_one_is_tried_again() {
        let workers = Workers::apart("lacking").unwrap();
        // More than any process can map, so that the kernel says EAGAIN.
        workers.shared.stack.store(1 << 47, Ordering::Relaxed);
        for _ in 0..3 {
            let (tell, told) = mpsc::channel();
            workers.run_then(|| 7, move |outcome| tell.send(outcome).unwrap()).unwrap();
            let refused = told.recv_timeout(Duration::from_secs(60)).unwrap();
            let Err(Error::Unavailable(why)) = refused else { panic!("it has run: {refused:?}") };
            assert!(why.contains("nothing was begun") && why.contains("os error 11"), "{why}");
        }
        workers.shared.stack.store(STACK_BYTES, Ordering::Relaxed);
        assert_eq!(workers.run(|| 7).unwrap().blocking_recv().unwrap(), 7);
    }

    #[test]
    fn workers_apart_have_files_of_their_own_and_answer_all_the_same() {
        let workers = Workers::apart("apart").unwrap();
        let table = workers.run(Table::here).unwrap().blocking_recv().unwrap();
        assert_ne!(table, Table::PROCESS);
        let gate = Arc::new(Barrier::new(THREADS + 1));
        let tables: Vec<_> = (0..THREADS)
            .map(|_| {
                let gate = Arc::clone(&gate);
                let job = move || {
                    gate.wait();
                    Table::here()
                };
                workers.run(job).unwrap()
            })
            .collect();
        gate.wait();
        for found in tables {
            assert_eq!(found.blocking_recv().unwrap(), table, "all have the same");
        }
        let (tell, told) = mpsc::channel();
        workers.look(move || tell.send(Table::here()).unwrap()).unwrap();
        assert_eq!(told.recv().unwrap(), table);
        let (tell, told) = mpsc::channel();
        workers.run_then(|| (), move |_| tell.send(Table::here()).unwrap()).unwrap();
        assert_eq!(told.recv().unwrap(), Table::PROCESS, "who waits is woken outside");
    }

    #[test]
    fn a_look_that_hangs_refuses_all_else_after_a_while() {
        let workers = Workers::apart("hung").unwrap();
        let gate = Arc::new(Barrier::new(2));
        let hung = Arc::clone(&gate);
        let look = move || {
            hung.wait();
        };
        assert!(workers.look(look).unwrap());
        assert!(!workers.look(|| panic!("one at a time")).unwrap());
        assert_eq!(workers.run(|| 7).unwrap().blocking_recv().unwrap(), 7, "not at once");
        workers.shared.lock().looking = Instant::now().checked_sub(SILENCE);
        let refused = workers.run(|| 7);
        assert!(matches!(&refused, Err(Error::Unavailable(why)) if why.contains("`hung`")), "{refused:?}");
        gate.wait();
        while workers.silence().is_some() {
            std::thread::yield_now();
        }
        assert_eq!(workers.run(|| 7).unwrap().blocking_recv().unwrap(), 7);
    }
}
