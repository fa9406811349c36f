//! Places to break on purpose: the named steps of every verb, and planted bugs, for `tests/torture`.
//!
//! Owns: what happens at a step (the process stops itself, so that the tester can kill it or cut its power exactly there) and
//! which bug is planted. Never: exists in a build without the feature `torture`: then `step!` is nothing and `planted!` is
//! `false`, and not even the names are in the program.
//!
//! | variable | meaning |
//! |---|---|
//! | `ROCKPOOL_STEP` | `NAME#N`: stop when this step is reached for the Nth time |
//! | `ROCKPOOL_STEP_LOG` | a file that gets a line for each step reached |
//! | `ROCKPOOL_PLANTED` | the bug that is planted |

/// What a verb has just done; names are `verb: what holds now`.
macro_rules! step {
    ($name:literal) => {
        #[cfg(feature = "torture")]
        $crate::faults::reach($name);
    };
}

/// Whether this bug is planted.
macro_rules! planted {
    ($name:literal) => {{
        #[cfg(feature = "torture")]
        let planted = $crate::faults::is_planted($name);
        #[cfg(not(feature = "torture"))]
        let planted = false;
        planted
    }};
}

#[cfg(feature = "torture")]
pub(crate) use armed::{is_planted, reach};

#[cfg(feature = "torture")]
mod armed {
    use std::collections::HashMap;
    use std::fs::OpenOptions;
    use std::io::Write;
    use std::path::PathBuf;
    use std::sync::{Mutex, OnceLock, PoisonError};

    use rustix::process::{Signal, getpid, kill_process};

    struct Plan {
        stop: String,
        /// Opened anew for each line: the threads of different pools have different tables of open files.
        log: Option<PathBuf>,
        counts: Mutex<HashMap<&'static str, u32>>,
    }

    static PLAN: OnceLock<Option<Plan>> = OnceLock::new();
    static PLANTED: OnceLock<String> = OnceLock::new();

    fn plan() -> Option<Plan> {
        let log = std::env::var_os("ROCKPOOL_STEP_LOG").map(PathBuf::from);
        let stop = std::env::var("ROCKPOOL_STEP").unwrap_or_default();
        (log.is_some() || !stop.is_empty()).then(|| Plan { stop, log, counts: Mutex::default() })
    }

    pub(crate) fn reach(step: &'static str) {
        let Some(plan) = PLAN.get_or_init(plan) else { return };
        let count = {
            let mut counts = plan.counts.lock().unwrap_or_else(PoisonError::into_inner);
            let count = counts.entry(step).or_default();
            *count += 1;
            *count
        };
        let reached = format!("{step}#{count}");
        let log =
            plan.log.as_ref().and_then(|log| OpenOptions::new().create(true).append(true).open(log).ok());
        if let Some(mut log) = log {
            // Whoever reads it misses the line and says so.
            let _ = log.write_all(format!("{reached}\n").as_bytes());
        }
        if plan.stop == reached {
            // Whoever waits for it sees a process that hangs, and says so.
            let _ = kill_process(getpid(), Signal::STOP);
            // The stop reaches one thread before another: this one goes no further in any case.
            loop {
                std::thread::park();
            }
        }
    }

    pub(crate) fn is_planted(bug: &str) -> bool {
        PLANTED.get_or_init(|| std::env::var("ROCKPOOL_PLANTED").unwrap_or_default()) == bug
    }
}
