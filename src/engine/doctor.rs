//! The doctor: what is there, what should be, what differs, and how it is mended.
//!
//! Owns: the findings about pools (`look`) and host (`host`), their names (`code`), and what mends them (`mend`). Never: reports or mends
//! what a call is working on just now, or deletes what nobody named.
//!
//! A look takes no claim, so it may see the middle of a call. What it suspects is a finding only if the same look shows it
//! again while its claim is held, and a repair is the same once more: the claim, that one look, and then the act.

mod code;
mod generations;
mod host;
mod look;
mod mend;

#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::path::PathBuf;
use std::time::Duration;

pub use self::code::{Code, Weight};
use crate::engine::store::Record;
use crate::engine::{Engine, Key, PoolIndex, Slot, recover};
use crate::error::{Error, Result, chain, quoted};
use crate::model::{Bytes, ObjectId, VolumeId};
use crate::pool::{Exposed, Pool};

/// Whoever looks and does not run at all for so long hangs with the disk.
pub const SILENT_AFTER: Duration = Duration::from_secs(10);

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

impl Finding {
    /// About a pool that was asked, and who looked did not run for `SILENT_AFTER`.
    pub fn silent(pool: &str) -> Finding {
        let what = format!(
            "pool {} does not answer: the look at it did not move for {} s; its disk hangs",
            quoted(pool),
            SILENT_AFTER.as_secs()
        );
        let repair = "look into the kernel log and mend its disk; whoever hangs with it ends when it answers";
        Finding {
            code: Code::PoolSilent,
            pool: Some(pool.to_owned()),
            object: None,
            what,
            repair: repair.to_owned(),
        }
    }
}

/// A finding, and what `mend` would do about it.
struct Case {
    finding: Finding,
    fix: Option<Fix>,
    /// What can be done in place of that, at the word of who asks for the repair of this code.
    instead: Option<(Code, Fix)>,
}

/// What can be done without losing anything that anybody was promised, or at somebody's word.
#[derive(Clone, Debug, PartialEq)]
enum Fix {
    /// Delete the bytes of what has no record.
    Remove(ObjectId),
    /// Make a record anew that cannot be read.
    Rebuild(ObjectId),
    /// Forget the record of what has no bytes.
    Forget(ObjectId),
    /// Finish or undo what was interrupted.
    Settle(Record),
    /// Remove what an interrupted verb left under a temporary name.
    Clear(String),
    /// Detach a device.
    LetGo(Exposed),
    /// Unmount what shows a volume.
    Unmount(Shows),
    /// Make object and record agree about the size.
    Resize(VolumeId, Bytes),
    /// Write a record once more as it is in memory, whose file is not what was written.
    Rewrite(ObjectId),
    /// Make a record anew that is older than its copy.
    Renew(ObjectId),
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

/// Mounts at one place that show a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Shows {
    volume: VolumeId,
    point: PathBuf,
    /// By their ids.
    mounts: Vec<u64>,
    /// Whether its bytes are nowhere else.
    last: bool,
}

impl Fix {
    /// What it is about, where a call could be about the same.
    fn subject(&self) -> Option<ObjectId> {
        match self {
            Fix::Remove(id) | Fix::Rebuild(id) | Fix::Forget(id) | Fix::Rewrite(id) | Fix::Renew(id) => {
                Some(*id)
            }
            Fix::Settle(record) => Some(record.id()),
            Fix::Clear(name) => name.strip_prefix("tmp/").and_then(|name| name.parse().ok()),
            Fix::LetGo(Exposed { volume, .. })
            | Fix::Unmount(Shows { volume, .. })
            | Fix::Resize(volume, _) => Some(ObjectId::Volume(*volume)),
        }
    }

    /// What must be claimed for it.
    fn keys(&self) -> Vec<Key> {
        match self {
            Fix::Settle(record) => recover::keys(record),
            Fix::Remove(_)
            | Fix::Rebuild(_)
            | Fix::Forget(_)
            | Fix::Clear(_)
            | Fix::LetGo(_)
            | Fix::Unmount(_)
            | Fix::Resize(..)
            | Fix::Rewrite(_)
            | Fix::Renew(_) => self.subject().map(Key::Object).into_iter().collect(),
        }
    }

    /// Whether bytes or the memory of them go that somebody may want, so that they must be named.
    fn deletes(&self) -> bool {
        match self {
            // The copy may say that it is deleted, and kept no longer.
            Fix::Remove(_) | Fix::Forget(_) | Fix::Renew(_) => true,
            Fix::LetGo(shown) => !shown.there,
            Fix::Unmount(shows) => shows.last,
            Fix::Rebuild(_) | Fix::Settle(_) | Fix::Clear(_) | Fix::Resize(..) | Fix::Rewrite(_) => false,
        }
    }
}

/// What became of the findings that were to be mended, a line each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mended {
    /// What was done.
    pub done: Vec<String>,
    /// What was tried in vain.
    pub failed: Vec<String>,
}

/// One of the doctor's looks at a pool that is there: what it sees at this moment, calls at work included.
type Check = fn(&Engine, &Slot, &dyn Pool) -> Result<Vec<Case>>;

const CHECKS: [Check; 6] = [
    Engine::differences,
    Engine::generations,
    Engine::exposures,
    Engine::promises,
    Engine::ailments,
    Engine::lacks,
];

/// The look that finds it; none for what the opening of a pool shows, or the host.
fn check_of(code: Code) -> Option<Check> {
    match code {
        Code::PoolAway
        | Code::PoolSilent
        | Code::PoolReadOnly
        | Code::ProgramMissing
        | Code::KubeletRoot
        | Code::NoSysResource => None,
        Code::RecordQuarantined
        | Code::RecordLost
        | Code::ObjectMissing
        | Code::SizeWrong
        | Code::OrphanObject
        | Code::Interrupted
        | Code::StrayTemporary
        | Code::ForeignFile => Some(Engine::differences),
        Code::RecordOutdated => Some(Engine::generations),
        Code::ObjectDeleted | Code::LeftoverDevice | Code::LeftoverMount | Code::NoDirectIo => {
            Some(Engine::exposures)
        }
        Code::CapacityShort => Some(Engine::promises),
        Code::PoolFailed
        | Code::FilesystemFailed
        | Code::PoolNearlyFull
        | Code::ImageFragmented
        | Code::Unhealthy => Some(Engine::ailments),
        Code::NoReflink | Code::NoQuota => Some(Engine::lacks),
    }
}

impl Engine {
    /// What is wrong with one pool. Runs on that pool's threads.
    ///
    /// # Errors
    /// `NotFound` for a name that no pool has.
    pub fn diagnose(&self, pool: &str) -> Result<Vec<Finding>> {
        let slot = self.patient(pool)?;
        let _looks = slot.examining();
        Ok(self.cases(slot, &CHECKS).into_iter().map(|case| case.finding).collect())
    }

    /// What is wrong with a pool that is not even to be asked, since it is away. Asks no disk.
    pub fn out_of_reach(&self, pool: &str) -> Option<Finding> {
        let slot = self.patient(pool).ok().filter(|slot| slot.is_surely_away())?;
        slot.trouble().map(|error| look::away(slot, &error).finding)
    }

    /// For how long those have run on whom a look at a pool, or without a name at the host, waits, in nanoseconds: it hangs if
    /// they do not run at all. `None` where that is not known. Asks no disk.
    pub fn ran(&self, pool: &str) -> Option<u64> {
        if pool.is_empty() { self.host.ran() } else { self.patient(pool).ok()?.ran() }
    }

    /// What is wrong with a pool that was asked and did not answer.
    ///
    /// # Errors
    /// As `diagnose`.
    pub fn unanswered(&self, pool: &str, error: &Error) -> Result<Finding> {
        Ok(look::away(self.patient(pool)?, error).finding)
    }

    /// Does what mends the findings of one code in one pool, or the one about `object`; one that fails keeps no other from
    /// being mended. Runs on that pool's threads.
    ///
    /// # Errors
    /// `Invalid` where something would be deleted that nobody named; that of the only finding, `Precondition` where it has
    /// to be mended by hand.
    pub fn mend(&self, pool: &str, code: Code, object: Option<&str>) -> Result<Mended> {
        let slot = self.patient(pool)?;
        let cases = self.cases(slot, check_of(code).as_slice());
        let mut cases: Vec<Case> = cases.into_iter().filter_map(|case| case.under(code)).collect();
        let deletes = |case: &&Case| case.fix.as_ref().is_some_and(Fix::deletes);
        if object.is_none() && cases.iter().any(|case| deletes(&case)) {
            let names: Vec<_> =
                cases.iter().filter(deletes).filter_map(|case| case.finding.object.clone()).collect();
            return Err(Error::Invalid(format!(
                "object is missing: {code} deletes, so want the one that is to go: {}",
                names.join(", ")
            )));
        }
        cases.retain(|case| object.is_none() || case.finding.object.as_deref() == object);
        let alone = cases.len() == 1;
        let mut mended = Mended::default();
        for (object, outcome) in self.repair_all(slot, code, cases)? {
            match outcome {
                Ok(done) => mended.done.push(done),
                Err(error) if alone => return Err(error),
                Err(error) => mended.failed.push(match object {
                    Some(object) => format!("{}: {}", quoted(&object), chain(&error)),
                    None => chain(&error),
                }),
            }
        }
        Ok(mended)
    }

    /// What nobody accounts for in a pool, bytes or a record without the other, in the doctor's words; for the log. To be called
    /// on its threads. Calls at work are seen as well.
    ///
    /// # Errors
    /// Those of its disk; `Unavailable` where it is away.
    pub fn orphans(&self, index: PoolIndex) -> Result<Vec<String>> {
        let slot = &self.pools[index.0];
        let found = self.differences(slot, slot.open()?.as_ref())?.into_iter().map(|case| case.finding);
        let alone = [Code::OrphanObject, Code::RecordLost, Code::ObjectMissing, Code::ForeignFile];
        let told = found.filter(|finding| alone.contains(&finding.code));
        Ok(told.map(|finding| format!("pool {}: {}", quoted(slot.name()), finding.what)).collect())
    }

    /// A pool that is looked at, whether or not it can be used.
    fn patient(&self, name: &str) -> Result<&Slot> {
        self.pools.iter().find(|slot| slot.name() == name).ok_or_else(|| {
            let names: Vec<_> = self.pools.iter().map(|slot| slot.name()).collect();
            Error::NotFound(format!("pool {}: want one of {}", quoted(name), names.join(", ")))
        })
    }

    fn cases(&self, slot: &Slot, checks: &[Check]) -> Vec<Case> {
        let pool = match slot.open().and_then(|pool| pool.present().map(|()| pool)) {
            Ok(pool) => pool,
            Err(error) => return vec![look::away(slot, &error)],
        };
        let mut cases = Vec::new();
        cases.extend(pool.writable().err().map(|error| look::read_only(slot, &error)));
        for check in checks {
            match self.confirmed(slot, pool.as_ref(), *check) {
                Ok(some) => cases.extend(some),
                Err(error) => cases.push(look::failed(slot, &chain(&error))),
            }
        }
        // Some checks see the same from two sides.
        let mut seen = HashSet::new();
        cases.retain(|case| {
            seen.insert((case.finding.code, case.finding.object.clone(), case.finding.what.clone()))
        });
        cases.sort_by(|a, b| (a.finding.code, &a.finding.object).cmp(&(b.finding.code, &b.finding.object)));
        cases
    }

    /// What a look sees, less what a call works on: a suspect counts only if it is still one while we hold its claim.
    fn confirmed(&self, slot: &Slot, pool: &dyn Pool, check: Check) -> Result<Vec<Case>> {
        let cases = check(self, slot, pool)?;
        let suspects: HashSet<ObjectId> = cases.iter().filter_map(Case::subject).collect();
        if suspects.is_empty() {
            return Ok(cases);
        }
        let claim = |id: ObjectId| self.store.claim(&[Key::Object(id)], &[]).ok().map(|claim| (id, claim));
        let free: Vec<_> = suspects.into_iter().filter_map(claim).collect();
        let mut cases = check(self, slot, pool)?;
        cases.retain(|case| case.subject().is_none_or(|id| free.iter().any(|(held, _)| *held == id)));
        Ok(cases)
    }
}

impl Case {
    /// What of ours a call could be working on.
    fn subject(&self) -> Option<ObjectId> {
        self.fix.as_ref()?.subject()
    }
}
