//! Pools that no driver has, each looked into by a process of its own.
//!
//! Owns: how this program is sent there, and what it brings back. Never: touches a pool's disk itself: where that hangs, a process
//! hangs with it, and it alone holds that pool's lock, for no longer than it looks.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use super::answer::say;
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
    /// No pool, but what of the host is asked about in these words.
    Host(Vec<OsString>),
}

/// What came back.
pub(super) enum Told {
    /// What it printed.
    Said(Value),
    /// Nothing: the pool's disk does not answer.
    Silent,
    /// It failed or was killed, for this reason.
    Died(String),
}

/// What is said in addition where not one process comes back.
pub(super) const ALL_SILENT: &str = "none that was asked answers, so it may not be their disks: a loop device of this host whose file lies on a server or \
     disk that hangs has the same effect";

impl Subject {
    /// An entry of a pool file.
    pub(super) fn listed(file: &Path, name: &str) -> Subject {
        Subject { name: name.to_owned(), place: Place::Listed(file.to_owned()) }
    }

    /// The pool in a directory, under whatever name.
    pub(super) fn directory(path: &Path, name: &str) -> Subject {
        Subject { name: name.to_owned(), place: Place::Directory(path.to_owned()) }
    }

    /// The host's own devices and mounts, asked about in these words.
    pub(super) fn host(words: Vec<OsString>) -> Subject {
        Subject { name: "host".to_owned(), place: Place::Host(words) }
    }

    /// What it is, in a sentence.
    pub(super) fn whom(&self) -> String {
        match self.place {
            Place::Listed(_) | Place::Directory(_) => format!("pool {}", quoted(&self.name)),
            Place::Host(_) => "the host".to_owned(),
        }
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
            Place::Host(_) => Err(Error::NotFound("the host is no pool".to_owned())),
        }
    }

    fn words(&self, verb: &[&str]) -> Vec<OsString> {
        let whereabouts = match &self.place {
            Place::Listed(file) => vec!["--config".into(), file.into()],
            Place::Directory(path) => vec!["--pool".into(), path.into()],
            Place::Host(words) => words.clone(),
        };
        let begin = ["ctl", "--output", "json"].iter().chain(verb).map(OsString::from);
        begin.chain(whereabouts).chain(["--errand".into(), self.name.as_str().into()]).collect()
    }
}

/// Sends one process for each pool, all at once, and waits for every one that gets on; one that dies keeps no other from being told.
pub(super) fn send(subjects: &[Subject], verb: &[&str]) -> Vec<(Subject, Told)> {
    let begin = |subject: &Subject| match Errand::begin(&subject.words(verb)) {
        Ok(errand) => (subject.clone(), Some(errand), None),
        Err(error) => (subject.clone(), None, Some(Told::Died(chain(&error)))),
    };
    let mut sent: Vec<_> = subjects.iter().map(begin).collect();
    let mut next = STILL;
    while sent.iter().any(|(_, _, told)| told.is_none()) {
        let mut late = false;
        for (subject, errand, told) in &mut sent {
            let (Some(errand), None) = (errand, &told) else { continue };
            *told = match errand.wait(PAUSE, SILENT_AFTER) {
                Ok(errand::Outcome::Answer(text)) => Some(heard(&text)),
                Ok(errand::Outcome::Died(why)) => Some(Told::Died(why)),
                Ok(errand::Outcome::Silent) => Some(Told::Silent),
                Ok(errand::Outcome::Busy) => None,
                Err(error) => Some(Told::Died(chain(&error))),
            };
            if told.is_none() && errand.age() >= next {
                still(&subject.whom(), errand.age());
                late = true;
            }
        }
        if late {
            next += STILL;
        }
    }
    sent.into_iter().filter_map(|(subject, _, told)| Some((subject, told?))).collect()
}

/// Says that somebody is still at it.
pub(super) fn still(whom: &str, since: Duration) {
    say(&format!("{whom}: still at it, after {} s", since.as_secs()));
}

fn heard(text: &[u8]) -> Told {
    match serde_json::from_slice(text) {
        Ok(said) => Told::Said(said),
        Err(error) => Told::Died(format!("what it said cannot be read: {error}")),
    }
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
