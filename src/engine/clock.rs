//! A pool's own clock: how long drivers have had the pool open.
//!
//! Owns: the file `clock` among the pool's records, which holds that time in seconds. What is kept after its deletion is
//! counted by it and by nothing else. The time of day may jump by years, and so may the clocks since boot of a container;
//! this one adds up what passed within each process, so nothing is ever purged early. While no driver runs it stands still,
//! and a driver that is killed loses what passed since the last note: both keep things longer, never shorter.
//! Never: decides what is purged.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, chain};
use crate::model::{Age, PoolId};
use crate::os::file::Dir;

/// Its name in the directory of the records, where no record can have it.
const FILE: &str = "clock";
/// The file is never larger.
const MOST: usize = 256;

/// The clocks of the pools that are or were open.
#[derive(Default)]
pub(super) struct Clocks {
    clocks: Mutex<HashMap<PoolId, Clock>>,
}

/// One pool's clock.
struct Clock {
    /// What it showed when this process began to count.
    base: Age,
    begun: Instant,
    /// What the file says.
    noted: Option<Age>,
}

#[derive(Serialize, Deserialize)]
struct Note {
    seconds: Age,
}

impl Clocks {
    /// Starts a pool's clock where it stood; `least` is a moment that surely has passed, for a clock whose file is lost.
    pub(super) fn open(&self, pool: PoolId, home: Option<&Dir>, least: Age) {
        let noted = match home.map_or(Ok(None), read) {
            Ok(noted) => noted,
            Err(error) => {
                tracing::warn!(%pool, error = chain(&error), "a pool's clock is lost; what it keeps is kept longer");
                None
            }
        };
        // A pool that comes back within this process goes on, or starts where its file says, whichever is later.
        let base = noted.unwrap_or_default().max(least).max(self.now(pool));
        self.lock().insert(pool, Clock { base, begun: Instant::now(), noted });
    }

    /// What a pool's clock shows; zero for one that was never open.
    pub(super) fn now(&self, pool: PoolId) -> Age {
        self.lock().get(&pool).map_or(Age::default(), Clock::now)
    }

    /// Notes what the clock shows, durably. What is noted already is not written again.
    ///
    /// # Errors
    /// Those of the disk; the clock goes on all the same.
    pub(super) fn note(&self, pool: PoolId, home: Option<&Dir>) -> Result<()> {
        let now = self.now(pool);
        let noted = self.lock().get(&pool).and_then(|clock| clock.noted);
        let Some(home) = home.filter(|_| noted != Some(now)) else { return Ok(()) };
        let text = serde_json::to_vec(&Note { seconds: now })
            .map_err(|error| Error::Corrupt(format!("failed to encode a pool's clock: {error}")))?;
        home.sub("records")?.replace(FILE, &text)?;
        if let Some(clock) = self.lock().get_mut(&pool) {
            clock.noted = Some(now);
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<PoolId, Clock>> {
        self.clocks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Clock {
    fn now(&self) -> Age {
        Age::new(self.base.seconds().saturating_add(self.begun.elapsed().as_secs()))
    }
}

fn read(home: &Dir) -> Result<Option<Age>> {
    let Some(bytes) = home.sub("records")?.read(FILE, MOST)? else { return Ok(None) };
    let note: Note = serde_json::from_slice(&bytes)
        .map_err(|error| Error::Corrupt(format!("the file `{FILE}` cannot be read: {error}")))?;
    Ok(Some(note.seconds))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods, reason = "the test makes its own files")]

    use super::*;

    fn home() -> (tempfile::TempDir, Dir, PoolId) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("records")).unwrap();
        let home = Dir::open(dir.path()).unwrap();
        (dir, home, PoolId::new([7; 6]))
    }

    #[test]
    fn a_clock_goes_on_where_it_was_noted() {
        let (_dir, home, pool) = home();
        let first = Clocks::default();
        first.open(pool, Some(&home), Age::new(1000));
        first.note(pool, Some(&home)).unwrap();
        let second = Clocks::default();
        second.open(pool, Some(&home), Age::default());
        assert!((1000..1100).contains(&second.now(pool).seconds()), "{:?}", second.now(pool));
    }

    #[test]
    fn a_clock_counts_what_passes() {
        let begun = Instant::now().checked_sub(std::time::Duration::from_secs(90)).unwrap();
        let clock = Clock { base: Age::new(1000), begun, noted: None };
        assert!((1090..1190).contains(&clock.now().seconds()), "{:?}", clock.now());
    }

    #[test]
    fn a_lost_or_torn_clock_starts_where_the_records_say_and_not_earlier() {
        let (dir, home, pool) = home();
        for torn in [None, Some(""), Some("{\"seconds\":"), Some("{\"seconds\":-5}"), Some("[]")] {
            if let Some(text) = torn {
                std::fs::write(dir.path().join("records/clock"), text).unwrap();
            }
            let clocks = Clocks::default();
            clocks.open(pool, Some(&home), Age::new(500));
            assert!((500..600).contains(&clocks.now(pool).seconds()), "{torn:?}");
        }
    }

    #[test]
    fn a_pool_that_comes_back_does_not_turn_its_clock_back() {
        let (_dir, home, pool) = home();
        let clocks = Clocks::default();
        clocks.open(pool, Some(&home), Age::new(1000));
        clocks.open(pool, Some(&home), Age::new(5));
        assert!(clocks.now(pool) >= Age::new(1000));
    }
}
