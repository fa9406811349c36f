//! Pools that no driver has, each looked into by a process of its own.
//!
//! Owns: how this program is sent there, and what it brings back. Never: touches a pool's disk itself: where that hangs, a process
//! hangs with it, and it alone holds that pool's lock, for no longer than it looks.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use super::answer::say;
use super::failure::{Failure, Outcome};
use crate::config;
use crate::engine::{PoolConfig, SILENT_AFTER};
use crate::error::{Error, chain, quoted};
use crate::model::Retention;
use crate::os::errand::{self, Errand};
use crate::pool::{self, Setup};

/// How often it is said that one is still at it.
pub(super) const STILL: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(20);

/// A pool, by the way it is found.
#[derive(Clone, Debug)]
pub(super) struct Subject {
    pub(super) name: String,
    place: Place,
}

#[derive(Clone, Debug)]
enum Place {
    /// An entry of this pool file.
    Listed(PathBuf),
    /// This directory.
    Directory(PathBuf),
}

/// What came back.
pub(super) enum Told {
    /// What it printed.
    Said(Value),
    /// Nothing: the pool's disk does not answer.
    Silent,
}

impl Subject {
    /// An entry of a pool file.
    pub(super) fn listed(file: &Path, name: &str) -> Subject {
        Subject { name: name.to_owned(), place: Place::Listed(file.to_owned()) }
    }

    /// The pool in a directory, under whatever name.
    pub(super) fn directory(path: &Path, name: &str) -> Subject {
        Subject { name: name.to_owned(), place: Place::Directory(path.to_owned()) }
    }

    /// How to open it, for the process that was sent.
    ///
    /// # Errors
    /// Those of the pool file or of the disk; `NotFound` where the file has no such pool any more.
    pub(super) fn config(&self) -> crate::error::Result<PoolConfig> {
        match &self.place {
            Place::Listed(file) => {
                let found = config::read(file)?.into_iter().find(|pool| pool.setup.name == self.name);
                found.ok_or_else(|| {
                    Error::NotFound(format!("pool {}: it is not there any more", quoted(&self.name)))
                })
            }
            Place::Directory(path) => lone(path, &self.name),
        }
    }

    fn words(&self, verb: &[&str]) -> Vec<OsString> {
        let (flag, path) = match &self.place {
            Place::Listed(file) => ("--config", file),
            Place::Directory(path) => ("--pool", path),
        };
        let begin = ["ctl", "--output", "json"].iter().chain(verb).map(OsString::from);
        begin.chain([flag.into(), path.into(), "--errand".into(), self.name.as_str().into()]).collect()
    }
}

/// Sends one process for each pool, all at once, and waits for every one that gets on.
pub(super) fn send(subjects: &[Subject], verb: &[&str]) -> Outcome<Vec<(Subject, Told)>> {
    let failed = |error: Error| Failure::Other(chain(&error));
    let begin = |subject: &Subject| Ok((subject.clone(), Errand::begin(&subject.words(verb))?, None));
    let sent = subjects.iter().map(begin).collect::<crate::error::Result<Vec<_>>>();
    let mut sent = sent.map_err(failed)?;
    let mut next = STILL;
    while sent.iter().any(|(_, _, told)| told.is_none()) {
        for (subject, errand, told) in sent.iter_mut().filter(|(_, _, told)| told.is_none()) {
            *told = match errand.wait(PAUSE, SILENT_AFTER).map_err(failed)? {
                errand::Outcome::Answer(text) => Some(Told::Said(heard(subject, &text)?)),
                errand::Outcome::Silent => Some(Told::Silent),
                errand::Outcome::Busy => None,
            };
            if told.is_none() && errand.age() >= next {
                still(&format!("pool {}", quoted(&subject.name)), errand.age());
            }
        }
        if sent.iter().any(|(_, errand, told)| told.is_none() && errand.age() >= next) {
            next += STILL;
        }
    }
    Ok(sent.into_iter().filter_map(|(subject, _, told)| Some((subject, told?))).collect())
}

/// Says that somebody is still at it.
pub(super) fn still(whom: &str, since: Duration) {
    say(&format!("{whom}: still at it, after {} s", since.as_secs()));
}

fn heard(subject: &Subject, text: &[u8]) -> Outcome<Value> {
    serde_json::from_slice(text).map_err(|error| {
        Failure::Other(format!("pool {}: the look broke off: {error}", quoted(&subject.name)))
    })
}

/// A pool by its directory alone: its marker says what it is.
fn lone(directory: &Path, name: &str) -> crate::error::Result<PoolConfig> {
    let path = config::directory("--pool", directory)?;
    let kind = pool::kind_at(&path)?;
    let quota = pool::quota_at(&path)?;
    let setup = Setup { name: name.to_owned(), kind, path, file: None, device: None, quota, size: None };
    // Nobody says how much may be promised of it, so nothing is too much.
    Ok(PoolConfig { setup, overcommit: f64::INFINITY, reserve: 0.0, retain: Retention::NONE })
}
