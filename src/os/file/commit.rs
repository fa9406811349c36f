//! One fsync of a directory for all who wait for one.
//!
//! Owns: who makes the next sync and who may share it. A sync covers every change that was made before it began, so who
//! arrives while one runs waits for the next one, and of all who wait one makes it. Never: counts a sync that had begun
//! before, hides a failure from any who shared it, or tries a second time.

use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};

use rustix::io::Errno;

/// What all who share a sync are told.
type Outcome = Result<(), Errno>;

/// The syncs of one directory.
#[derive(Debug, Default)]
pub(super) struct Commit {
    turn: Mutex<Turn>,
    ended: Condvar,
}

#[derive(Debug, Default)]
struct Turn {
    running: bool,
    /// The sync that has not begun.
    next: Arc<OnceLock<Outcome>>,
}

impl Commit {
    /// Runs `sync`, or shares one that began after this call did.
    pub(super) fn run(&self, sync: impl FnOnce() -> Outcome) -> Outcome {
        let mut turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let mine = Arc::clone(&turn.next);
        while turn.running {
            turn = self.ended.wait(turn).unwrap_or_else(PoisonError::into_inner);
            if let Some(outcome) = mine.get() {
                return *outcome;
            }
        }
        turn.running = true;
        turn.next = Arc::default();
        drop(turn);
        let outcome = sync();
        // Nobody else sets it: it left `next` when this one began.
        let _ = mine.set(outcome);
        let mut turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        if outcome.is_err() {
            // It may have taken along what those who wait had changed, and the kernel tells an error once.
            let _ = std::mem::take(&mut turn.next).set(outcome);
        }
        turn.running = false;
        self.ended.notify_all();
        outcome
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    /// One sync runs; `many` more are asked for meanwhile. Answers what each of those was told and how many ran in all.
    fn crowd(many: usize, first: Outcome, second: Outcome) -> (Vec<Outcome>, usize) {
        let (commit, ran) = (Commit::default(), AtomicUsize::new(0));
        let (begun, has_begun) = mpsc::channel();
        let (go_on, may_go_on) = mpsc::channel::<()>();
        let told = std::thread::scope(|scope| {
            let (commit, ran) = (&commit, &ran);
            let running = scope.spawn(move || {
                commit.run(|| {
                    begun.send(()).unwrap();
                    may_go_on.recv().unwrap();
                    ran.fetch_add(1, Ordering::SeqCst);
                    first
                })
            });
            has_begun.recv().unwrap();
            let ask = || {
                commit.run(|| {
                    ran.fetch_add(1, Ordering::SeqCst);
                    second
                })
            };
            let waiting: Vec<_> = (0..many).map(|_| scope.spawn(ask)).collect();
            // Each that has come holds the sync that it waits for.
            while Arc::strong_count(&commit.turn.lock().unwrap().next) <= many {
                std::thread::sleep(Duration::from_millis(1));
            }
            assert_eq!(ran.load(Ordering::SeqCst), 0, "two syncs ran at once");
            go_on.send(()).unwrap();
            assert_eq!(running.join().unwrap(), first);
            waiting.into_iter().map(|one| one.join().unwrap()).collect()
        });
        (told, ran.load(Ordering::SeqCst))
    }

    #[test]
    fn who_waits_shares_the_next_sync_and_not_the_one_that_runs() {
        let (told, ran) = crowd(6, Ok(()), Ok(()));
        assert_eq!(told, vec![Ok(()); 6]);
        assert_eq!(ran, 2, "six waited for one sync, which is not the one that was running");
    }

    #[test]
    fn everybody_who_shared_a_failed_sync_hears_of_it() {
        let (told, _) = crowd(6, Ok(()), Err(Errno::IO));
        assert_eq!(told, vec![Err(Errno::IO); 6]);
    }

    #[test]
    fn who_waits_for_one_that_fails_is_not_told_that_all_is_well() {
        let (told, ran) = crowd(6, Err(Errno::IO), Ok(()));
        assert_eq!((told, ran), (vec![Err(Errno::IO); 6], 1));
    }

    #[test]
    fn every_sync_covers_what_its_callers_did_before() {
        let (commit, done) = (Commit::default(), AtomicUsize::new(0));
        let durable = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..2000 {
                        let mine = done.fetch_add(1, Ordering::SeqCst) + 1;
                        let sync = || {
                            let seen = done.load(Ordering::SeqCst);
                            std::thread::yield_now();
                            durable.fetch_max(seen, Ordering::SeqCst);
                            Ok(())
                        };
                        commit.run(sync).unwrap();
                        assert!(
                            durable.load(Ordering::SeqCst) >= mine,
                            "a sync that had begun before was shared"
                        );
                    }
                });
            }
        });
    }
}
