//! What is still to be told, and when: the work queue.
//!
//! Owns: that each finding is told once while it lasts, again after a while, and after a failure with a growing pause; and that all
//! together never flood the API server. Never: writes anything.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use super::finding::{Finding, Key};

/// How often something may be told.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rate {
    /// Between two times that the same is told.
    pub(super) again: Duration,
    /// So many Events at once, and how long each of them then takes to be free once more.
    pub(super) burst: u32,
    pub(super) refill: Duration,
    /// The pause after a failure; each further one doubles it.
    pub(super) retry: Duration,
}

impl Default for Rate {
    /// Ten a minute, and fifty at once.
    fn default() -> Self {
        let refill = Duration::from_secs(6);
        Rate { again: Duration::from_secs(600), burst: 50, refill, retry: Duration::from_secs(5) }
    }
}

/// The longest pause after failures.
const LONGEST: Duration = Duration::from_secs(300);

/// What is to be told.
pub(super) struct Queue {
    rate: Rate,
    entries: BTreeMap<Key, Entry>,
    /// Time in which Events are free: as much as the burst takes, at most.
    saved: Duration,
    filled: Instant,
    dropped: u64,
}

struct Entry {
    finding: Finding,
    due: Instant,
    told: u32,
    failed: u32,
    /// Whether it lasts; else it is only remembered.
    is_found: bool,
}

impl Queue {
    pub(super) fn new(rate: Rate, now: Instant) -> Queue {
        Queue { rate, entries: BTreeMap::new(), saved: rate.refill * rate.burst, filled: now, dropped: 0 }
    }

    /// So many Events were not told, since there were too many.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped
    }

    /// What is found now. What is new is due at once; what was told and is back before its next turn waits for that, so that what comes and
    /// goes is not told each time, unless it was told that it is over. News is told, whether it is found again or not.
    pub(super) fn keep(&mut self, findings: Vec<Finding>, now: Instant) {
        let over = findings.iter().filter(|finding| finding.is_news());
        let over: BTreeSet<String> = over.map(|finding| finding.subject.clone()).collect();
        // That it was well again for a moment is no news any more.
        let ill = findings.iter().filter(|finding| finding.is_illness());
        let ill: BTreeSet<String> = ill.map(|finding| finding.subject.clone()).collect();
        self.entries.retain(|key, entry| !entry.finding.is_news() || !ill.contains(&key.1));
        let mut found: BTreeMap<Key, Finding> =
            findings.into_iter().map(|finding| (finding.key(), finding)).collect();
        self.entries.retain(|key, entry| {
            let again = found.remove(key);
            entry.is_found = again.is_some() || entry.finding.is_news();
            if let Some(finding) = again {
                entry.finding = finding;
            }
            entry.is_found || (entry.told > 0 && entry.due > now && !over.contains(&key.1))
        });
        let new = |finding| Entry { finding, due: now, told: 0, failed: 0, is_found: true };
        self.entries.extend(found.into_iter().map(|(key, finding)| (key, new(finding))));
    }

    /// Forgets everything: somebody else tells.
    pub(super) fn clear(&mut self) {
        self.entries.clear();
    }

    /// What is to be told next, if anything is now: what was never told comes first, of that what is no one of many. Of many of one kind,
    /// those are left out until their next turn for which there is no room.
    pub(super) fn next(&mut self, now: Instant) -> Option<Finding> {
        let most = self.rate.refill * self.rate.burst;
        self.saved = self.saved.saturating_add(now - self.filled).min(most);
        self.filled = now;
        let due = self.entries.iter_mut().filter(|(_, entry)| entry.is_found && entry.due <= now);
        if self.saved >= self.rate.refill {
            let order = |key: &Key, entry: &Entry| {
                (entry.told > 0, entry.finding.is_one_of_many(), entry.told, key.clone())
            };
            let (_, entry) = due.min_by_key(|(key, entry)| order(key, entry))?;
            self.saved -= self.rate.refill;
            return Some(entry.finding.clone());
        }
        for (_, entry) in due.filter(|(_, entry)| entry.finding.is_one_of_many()) {
            entry.due = now + self.rate.again;
            self.dropped += 1;
        }
        None
    }

    /// It was told.
    pub(super) fn told(&mut self, key: &Key, now: Instant) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        if entry.finding.is_news() {
            self.entries.remove(key);
        } else {
            (entry.told, entry.failed, entry.due) = (entry.told + 1, 0, now + self.rate.again);
        }
    }

    /// It could not be told.
    pub(super) fn failed(&mut self, key: &Key, now: Instant) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        let pause = self.rate.retry.saturating_mul(1 << entry.failed.min(16)).min(LONGEST);
        (entry.failed, entry.due) = (entry.failed + 1, now + pause);
    }
}
