//! What the contract allows while the host is in trouble: which calls may be refused, which must not succeed, which go on.
//!
//! Owns: the allowance that is in force, and the judgement of answers by it. Never: knows how the trouble is made, or relaxes
//! what an answer means: who is refused for good must find nothing left, as ever.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tonic::Code;

use crate::content::Sync;

/// What a workload may meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Io {
    /// Reads and writes succeed.
    Whole,
    /// They may fail. What was synced stays all the same.
    MayFail,
}

/// What may be answered, by the names of the calls as the client library has them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Allowance {
    /// These calls may be refused for good with these codes.
    pub(crate) refused: &'static [(&'static [&'static str], &'static [Code])],
    /// These must not say OK: what they are about is not there.
    pub(crate) barred: &'static [&'static str],
    /// These are served all the same, and not even put off.
    pub(crate) served: &'static [&'static str],
    pub(crate) io: Io,
}

/// All calls that change something, by the names that the client library has for them.
pub(crate) const ALL_CALLS: &[&str] = &[
    "create_volume",
    "delete_volume",
    "controller_expand_volume",
    "create_snapshot",
    "delete_snapshot",
    "node_stage_volume",
    "node_unstage_volume",
    "node_publish_volume",
    "node_unpublish_volume",
    "node_expand_volume",
];
/// Those that give a workload its volume back to the node, and need no pool for it.
pub(crate) const TEARDOWN: &[&str] = &["node_unpublish_volume", "node_unstage_volume"];
/// Those that make something or make it larger.
pub(crate) const MAKES: &[&str] = &["create_volume", "create_snapshot", "controller_expand_volume"];
/// Those that give room back, or lead to it.
pub(crate) const DELETES: &[&str] =
    &["delete_volume", "delete_snapshot", "node_unpublish_volume", "node_unstage_volume"];
/// Those that must find the pool: all but [`TEARDOWN`] and the growth of what is mounted.
pub(crate) const OF_THE_POOL: &[&str] = &[
    "create_volume",
    "delete_volume",
    "controller_expand_volume",
    "create_snapshot",
    "delete_snapshot",
    "node_stage_volume",
    "node_publish_volume",
];
/// Those that write to the pool.
pub(crate) const WRITE_TO_THE_POOL: &[&str] = &[
    "create_volume",
    "delete_volume",
    "controller_expand_volume",
    "create_snapshot",
    "delete_snapshot",
    "node_stage_volume",
    "node_expand_volume",
];

/// A volume whose own filesystem gave up cannot be flushed, so no snapshot of it can be cut until it is mounted anew.
pub(crate) const GAVE_UP: (&[&str], &[Code]) = (&["create_snapshot"], &[Code::FailedPrecondition]);

/// Nothing but what is always allowed.
pub(crate) const STRICT: Allowance = Allowance { refused: &[], barred: &[], served: &[], io: Io::Whole };

/// Whether the trouble is all there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reach {
    /// It comes or goes.
    Partly,
    /// It is there, for the time of this number.
    Whole(u64),
}

/// What is in force now.
#[derive(Debug, Default)]
pub(crate) struct Meanwhile {
    now: Mutex<Option<(Allowance, Reach)>>,
    times: Mutex<u64>,
    wrong: Mutex<Vec<String>>,
    /// Calls that were given up and may run on, word by word.
    left: Mutex<HashSet<Vec<u8>>>,
}

/// When a call was made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked(Option<u64>);

impl Meanwhile {
    /// From now on this is allowed; calls may run that were made before.
    pub(crate) fn begin(&self, allowance: Allowance) {
        *lock(&self.now) = Some((allowance, Reach::Partly));
    }

    /// The trouble is all there: whoever asks from now on meets it.
    pub(crate) fn whole(&self) {
        let mut times = lock(&self.times);
        *times += 1;
        if let Some((_, reach)) = lock(&self.now).as_mut() {
            *reach = Reach::Whole(*times);
        }
    }

    /// It is about to change or to go; calls may run that met it.
    pub(crate) fn wane(&self) {
        if let Some((_, reach)) = lock(&self.now).as_mut() {
            *reach = Reach::Partly;
        }
    }

    /// It is gone, and so is every call that met it.
    pub(crate) fn end(&self) {
        *lock(&self.now) = None;
    }

    /// What was answered and must not have been, since the last question.
    pub(crate) fn wrong(&self) -> Vec<String> {
        std::mem::take(&mut lock(&self.wrong))
    }

    /// Something was answered that must never be.
    pub(crate) fn say(&self, what: String) {
        lock(&self.wrong).push(what);
    }

    /// Whether a call, by its name in the standard, may be refused with this code and these words.
    pub(crate) fn excuses(&self, call: &str, code: Code, message: &str) -> bool {
        // A volume whose own filesystem gave up is let go and staged anew, which its caller must be told.
        if code == Code::FailedPrecondition && message.contains("is broken (") && self.io() == Io::MayFail {
            return true;
        }
        let method = snake(call.split(' ').next().unwrap_or(call));
        let now = lock(&self.now);
        let refused = now.as_ref().map_or(&[][..], |(allowance, _)| allowance.refused);
        refused.iter().any(|(calls, codes)| calls.contains(&method.as_str()) && codes.contains(&code))
    }

    /// What a workload may meet.
    pub(crate) fn io(&self) -> Io {
        lock(&self.now).as_ref().map_or(Io::Whole, |(allowance, _)| allowance.io)
    }

    /// How a workload writes: where a write may be lost on its way to the disk, it asks whether it was.
    pub(crate) fn sync(&self, wanted: Sync) -> Sync {
        if self.io() == Io::MayFail { Sync::Yes } else { wanted }
    }

    /// A call was given up.
    pub(crate) fn left(&self, words: Vec<u8>) {
        lock(&self.left).insert(words);
    }

    /// To be called before a call is made. One that was given up before the trouble may have gone on, and whoever asks the same in
    /// the same words may be told what came of that.
    pub(crate) fn asked(&self, words: &[u8]) -> Asked {
        if lock(&self.left).remove(words) {
            return Asked(None);
        }
        Asked(match lock(&self.now).as_ref() {
            Some((_, Reach::Whole(time))) => Some(*time),
            Some((_, Reach::Partly)) | None => None,
        })
    }

    /// A call said OK.
    pub(crate) fn done(&self, asked: Asked, method: &str) {
        if self.allowance(asked).is_some_and(|allowance| allowance.barred.contains(&method)) {
            lock(&self.wrong).push(format!("{method} says OK about what is not there"));
        }
    }

    /// The driver answered that a call is to be made again.
    pub(crate) fn put_off(&self, asked: Asked, method: &str, message: &str) {
        if self.allowance(asked).is_some_and(|allowance| allowance.served.contains(&method)) {
            lock(&self.wrong).push(format!("{method} is put off, but it must work: {message}"));
        }
    }

    /// What was in force from the question to now, if it was all the time.
    fn allowance(&self, asked: Asked) -> Option<Allowance> {
        let (allowance, reach) = (*lock(&self.now))?;
        (reach == Reach::Whole(asked.0?)).then_some(allowance)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `CreateVolume` as `create_volume`.
fn snake(name: &str) -> String {
    let mut text = String::new();
    for letter in name.chars() {
        if letter.is_ascii_uppercase() && !text.is_empty() {
            text.push('_');
        }
        text.push(letter.to_ascii_lowercase());
    }
    text
}
