//! The doctor: what is there, what should be, what differs, and how it is mended.
//!
//! Owns: the findings about pools and host (`look`), their names (`code`), and what mends them (`mend`). Never: reports what
//! a call is working on just now (each suspect is looked at again under its claim), or deletes what nobody named.

mod code;
mod look;
mod mend;

use std::path::PathBuf;

pub use self::code::{Code, Weight};
use crate::engine::{Engine, Slot};
use crate::error::{Error, Result, chain};
use crate::model::{Bytes, ObjectId, VolumeId};
use crate::os::fs;
use crate::pool::{Exposed, Pool};

/// One thing that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Its name for scripts and documents.
    pub code: Code,
    /// The pool it is about by name; none: the host.
    pub pool: Option<String>,
    /// What it is about: an id, a file, a device, a program.
    pub object: Option<String>,
    /// A sentence for people.
    pub what: String,
    /// What mends it: a command, or what to do by hand.
    pub repair: String,
}

/// A finding, and what `mend` would do about it.
struct Case {
    finding: Finding,
    fix: Option<Fix>,
    /// What can be done in place of that, at the word of who asks for the repair of this code.
    instead: Option<(Code, Fix)>,
}

/// What can be done without losing anything that anybody was promised, or at somebody's word.
#[derive(Clone, Debug)]
enum Fix {
    /// Delete the bytes of what has no record.
    Remove(ObjectId),
    /// Make a record anew that cannot be read.
    Rebuild(ObjectId),
    /// Forget the record of what has no bytes.
    Forget(ObjectId),
    /// Finish or undo what was interrupted.
    Settle(ObjectId),
    /// Remove what an interrupted verb left under a temporary name.
    Clear(String),
    /// Detach a device.
    LetGo(Exposed),
    /// Unmount what is mounted there.
    Unmount(PathBuf),
    /// Make object and record agree about the size.
    Resize(VolumeId, Bytes),
}

impl Case {
    /// As the repair of this code sees it.
    fn under(mut self, code: Code) -> Option<Case> {
        if self.finding.code != code {
            let (_, fix) = self.instead.take().filter(|(other, _)| *other == code)?;
            self.fix = Some(fix);
        }
        Some(self)
    }
}

/// One of the doctor's looks at a pool that is there.
type Check = fn(&Engine, &Slot, &dyn Pool) -> Result<Vec<Case>>;

impl Engine {
    /// What is wrong with one pool. Runs on that pool's threads.
    ///
    /// # Errors
    /// `NotFound` for a name that no pool has.
    pub fn diagnose(&self, pool: &str) -> Result<Vec<Finding>> {
        let slot = self.patient(pool)?;
        Ok(self.cases(slot).into_iter().map(|case| case.finding).collect())
    }

    /// What is wrong with a pool that is not even to be asked: it is away, or its disk does not answer. Asks no disk.
    pub fn out_of_reach(&self, pool: &str) -> Option<Finding> {
        let slot = self.patient(pool).ok()?;
        slot.trouble().map(|error| look::away(slot, &error).finding)
    }

    /// What is wrong with a pool that was asked and did not answer.
    ///
    /// # Errors
    /// As `diagnose`.
    pub fn unanswered(&self, pool: &str, error: &Error) -> Result<Finding> {
        Ok(look::away(self.patient(pool)?, error).finding)
    }

    /// What the host lacks.
    pub fn diagnose_host(&self) -> Vec<Finding> {
        let mut found: Vec<Finding> = fs::missing_programs().iter().map(missing_program).collect();
        if !fs::grows_ext4_in_use() {
            found.push(Finding {
                code: Code::NoSysResource,
                pool: None,
                object: None,
                what: "this process lacks CAP_SYS_RESOURCE: an ext4 volume in use does not grow before its next stage"
                    .to_owned(),
                repair: "run the driver with CAP_SYS_RESOURCE; xfs volumes grow in use without it".to_owned(),
            });
        }
        found
    }

    /// Does what mends the findings of one code in one pool, or the one about `object`; answers what was done. Runs on that
    /// pool's threads.
    ///
    /// # Errors
    /// `Invalid` where something would be deleted that nobody named; `Precondition` for what has to be done by hand.
    pub fn mend(&self, pool: &str, code: Code, object: Option<&str>) -> Result<Vec<String>> {
        let slot = self.patient(pool)?;
        let mut cases: Vec<Case> = self.cases(slot).into_iter().filter_map(|case| case.under(code)).collect();
        if code.deletes() && object.is_none() && !cases.is_empty() {
            let names: Vec<_> = cases.iter().filter_map(|case| case.finding.object.clone()).collect();
            return Err(Error::Invalid(format!(
                "object is missing: {code} deletes, so want the one that is to go: {}",
                names.join(", ")
            )));
        }
        cases.retain(|case| object.is_none() || case.finding.object.as_deref() == object);
        let pool = slot.open()?;
        let mend = |case: &Case| match &case.fix {
            Some(fix) => self.apply(pool.as_ref(), fix),
            None => Err(Error::Precondition(format!("{code} is mended by hand: {}", case.finding.repair))),
        };
        cases.iter().map(mend).collect()
    }

    /// A pool that is looked at, whether or not it can be used.
    fn patient(&self, name: &str) -> Result<&Slot> {
        self.pools.iter().find(|slot| slot.name() == name).ok_or_else(|| {
            let names: Vec<_> = self.pools.iter().map(|slot| slot.name()).collect();
            Error::NotFound(format!("pool `{name}`: want one of {}", names.join(", ")))
        })
    }

    fn cases(&self, slot: &Slot) -> Vec<Case> {
        let pool = match slot.open().and_then(|pool| pool.present().map(|()| pool)) {
            Ok(pool) => pool,
            Err(error) => return vec![look::away(slot, &error)],
        };
        let checks: [Check; 5] =
            [Engine::differences, Engine::exposures, Engine::promises, Engine::ailments, Engine::lacks];
        let mut cases = Vec::new();
        cases.extend(pool.writable().err().map(|error| look::read_only(slot, &error)));
        for check in checks {
            match check(self, slot, pool.as_ref()) {
                Ok(some) => cases.extend(some),
                Err(error) => cases.push(look::failed(slot, &chain(&error))),
            }
        }
        // Some checks see the same from two sides.
        let mut seen = std::collections::HashSet::new();
        cases.retain(|case| {
            seen.insert((case.finding.code, case.finding.object.clone(), case.finding.what.clone()))
        });
        cases.sort_by(|a, b| (a.finding.code, &a.finding.object).cmp(&(b.finding.code, &b.finding.object)));
        cases
    }
}

fn missing_program(missing: &fs::Missing) -> Finding {
    Finding {
        code: Code::ProgramMissing,
        pool: None,
        object: Some(missing.program.to_owned()),
        what: format!("the program {} is not installed: {}", missing.program, missing.cost),
        repair: format!("install the package {}", missing.package),
    }
}
