//! Who was not let in where a volume is to come: the count and the log.
//!
//! Owns: the reasons, and how many lines of the log strangers may fill. Never: decides who is let in, or repeats a secret.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Every reason for which a connection is refused, in the order in which they are counted.
pub const REASONS: [&str; 6] = ["tls", "broken", "slow", "malformed", "secret", "other-volume"];

/// So many refusals have a line of their own in the log within `EVERY`.
const LINES: u32 = 10;
const EVERY: Duration = Duration::from_secs(60);

/// Why one was refused.
#[derive(Debug)]
pub(super) struct Refused {
    /// One of `REASONS`.
    pub(super) reason: &'static str,
    pub(super) why: String,
}

impl Refused {
    pub(super) fn new(reason: &'static str, why: impl Into<String>) -> Refused {
        Refused { reason, why: why.into() }
    }

    /// A handshake that failed, or that nobody finished.
    pub(super) fn tls(error: &io::Error) -> Refused {
        let is_tls = error.get_ref().is_some_and(|cause| cause.is::<rustls::Error>());
        Refused::new(if is_tls { "tls" } else { "broken" }, format!("TLS failed: {error}"))
    }
}

/// How often connections were refused, by reason.
#[derive(Debug, Default)]
pub struct Refusals {
    counts: [AtomicU64; REASONS.len()],
    lines: Mutex<Lines>,
}

#[derive(Debug, Default)]
struct Lines {
    since: Option<Instant>,
    told: u32,
    untold: u64,
}

impl Lines {
    /// Whether there is a line for one more: how many have had none since the last one.
    fn next(&mut self, now: Instant) -> Option<u64> {
        if self.since.is_none_or(|since| now.duration_since(since) >= EVERY) {
            (self.since, self.told) = (Some(now), 0);
        }
        if self.told == LINES {
            self.untold += 1;
            return None;
        }
        self.told += 1;
        Some(std::mem::take(&mut self.untold))
    }
}

impl Refusals {
    /// Counts one, and says so in the log, unless that is full of them already.
    pub(super) fn note(&self, volume: &str, from: SocketAddr, refused: &Refused) {
        let Refused { reason, why } = refused;
        if let Some(place) = REASONS.iter().position(|known| known == reason) {
            self.counts[place].fetch_add(1, Ordering::Relaxed);
        }
        let line = self.lines.lock().unwrap_or_else(PoisonError::into_inner).next(Instant::now());
        match line {
            Some(untold) => {
                tracing::warn!(volume, %from, reason, error = why, untold, "refused a connection of a transfer");
            }
            None => {
                tracing::debug!(volume, %from, reason, error = why, "turned a connection of a transfer away")
            }
        }
    }

    /// How often somebody was refused for one of `REASONS`.
    pub fn of(&self, reason: &str) -> u64 {
        let place = REASONS.iter().position(|known| *known == reason);
        place.map_or(0, |place| self.counts[place].load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_cannot_fill_the_log() {
        let (mut lines, begun) = (Lines::default(), Instant::now());
        let told = (0..1000).filter(|_| lines.next(begun).is_some()).count();
        assert_eq!(told, LINES as usize);
        let soon = begun + EVERY - Duration::from_secs(1);
        assert_eq!(lines.next(soon), None);
        assert_eq!(
            lines.next(begun + EVERY),
            Some(1000 - u64::from(LINES) + 1),
            "it says how many had no line"
        );
        assert_eq!(lines.next(begun + EVERY), Some(0));
    }

    #[test]
    fn each_reason_has_its_count() {
        let (refusals, from) = (Refusals::default(), SocketAddr::from(([127, 0, 0, 1], 9)));
        for reason in REASONS {
            refusals.note("v1.a.b", from, &Refused::new(reason, "why"));
            refusals.note("v1.a.b", from, &Refused::new(reason, "why"));
        }
        assert!(REASONS.iter().all(|reason| refusals.of(reason) == 2));
        assert_eq!(refusals.of("whatever"), 0);
    }
}
