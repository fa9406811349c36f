//! What is wrong with the place of a pool: told alike by every kind on a real filesystem.
//!
//! Owns: the problems of a pool as a whole, and their words. Never: looks at a volume, or waits for a disk on purpose.

use super::home::{FENCED, Home};
use super::{Problem, Severity};
use crate::error::{Error, Result, chain};
use crate::os::mount;

/// A pool with less than one part in so many free is nearly full.
const NEARLY_FULL: u64 = 20;

impl Home {
    /// What is wrong with the pool.
    pub(super) fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::from_iter(self.refusal());
        if problems.iter().all(|problem| problem.severity == Severity::Degraded) {
            problems.extend(self.check().unwrap_or_else(|error| {
                vec![Problem {
                    severity: Severity::Inaccessible,
                    reason: "PoolFailed",
                    message: chain(&error),
                }]
            }));
        }
        problems
    }

    /// What is wrong with a volume because of its pool: all of it where that cannot be used, and else what puts its bytes at risk.
    pub(super) fn problems_of_volumes(&self) -> Vec<Problem> {
        let all = self.problems();
        let unusable = all.iter().any(|problem| problem.severity == Severity::Inaccessible);
        all.into_iter().filter(|problem| unusable || problem.reason == FENCED).collect()
    }

    /// What keeps the pool from being used as it should be.
    fn refusal(&self) -> Option<Problem> {
        let problem =
            |severity, reason, error: &Error| Some(Problem { severity, reason, message: chain(error) });
        if let Err(error) = self.present() {
            problem(Severity::Inaccessible, "PoolMissing", &error)
        } else if let Err(error) = self.refuse_read_only() {
            problem(Severity::Inaccessible, "PoolReadOnly", &error)
        } else {
            // What is mounted goes on, on a disk that lost something.
            problem(Severity::Degraded, FENCED, &self.writable().err()?)
        }
    }

    fn check(&self) -> Result<Vec<Problem>> {
        let mut problems = Vec::new();
        if mount::of_device(self.root().identity()?.device)?.iter().any(|mount| mount.emergency) {
            let message =
                "the pool's filesystem gave up after an error; unmount, check and mount it again".to_owned();
            problems.push(Problem { severity: Severity::Inaccessible, reason: "PoolFailed", message });
        }
        let space = self.space()?;
        if space.free.get() < space.total.get() / NEARLY_FULL {
            let message = format!("{} of {} are free: writes are about to fail", space.free, space.total);
            problems.push(Problem { severity: Severity::Degraded, reason: "PoolNearlyFull", message });
        }
        Ok(problems)
    }
}
