//! Questions to a disk that may never answer.
//!
//! Owns: the threads that ask. Never: lets a hung disk take more than a few of them, or keep a caller waiting.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;

/// A disk that lets so many questions hang is not asked again until one is answered.
const MOST_ASKING: usize = 16;

/// Asks with a time limit.
#[derive(Debug)]
pub(super) struct Patience {
    limit: Duration,
    asking: Arc<AtomicUsize>,
}

/// Counts one question as long as it is asked.
struct Asking(Arc<AtomicUsize>);

impl Patience {
    /// Waits so long for an answer.
    pub(super) fn new(limit: Duration) -> Self {
        Patience { limit, asking: Arc::default() }
    }

    /// The answer, unless it takes too long; the thread that asks goes when it is answered after all.
    pub(super) fn ask<T: Send + 'static>(&self, question: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let asking = Asking::one_more(&self.asking)?;
        let (answer, answered) = mpsc::channel();
        let asked = std::thread::Builder::new().name("health".to_owned()).spawn(move || {
            // The caller may have gone.
            let _ = answer.send(question());
            drop(asking);
        });
        // Without a thread there is no answer, either.
        asked.ok()?;
        answered.recv_timeout(self.limit).ok()
    }
}

impl Asking {
    fn one_more(count: &Arc<AtomicUsize>) -> Option<Asking> {
        let asking = count.fetch_add(1, Ordering::Relaxed);
        let counted = Asking(Arc::clone(count));
        (asking < MOST_ASKING).then_some(counted)
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_that_hangs_is_given_up_and_soon_not_asked_again() {
        let patience = Patience::new(Duration::from_millis(20));
        assert_eq!(Patience::new(Duration::from_secs(60)).ask(|| 42), Some(42));
        let (release, held) = mpsc::channel::<()>();
        let held = Arc::new(std::sync::Mutex::new(held));
        for _ in 0..MOST_ASKING {
            let held = Arc::clone(&held);
            assert!(patience.ask(move || held.lock().unwrap().recv().is_ok()).is_none());
        }
        let patient = Patience { limit: Duration::from_secs(60), asking: Arc::clone(&patience.asking) };
        assert_eq!(patient.ask(|| 42), None, "not even asked");
        drop(release);
        while patience.asking.load(Ordering::Relaxed) > 0 {
            std::thread::yield_now();
        }
        assert_eq!(patient.ask(|| 42), Some(42));
    }
}
