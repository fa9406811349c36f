//! The doctor's look at records that somebody put in place of newer ones: from a backup, or by hand.
//!
//! Owns: what is compared, a record's file with what is in memory and a record with the copy that its object carries, and the
//! sentences. Never: changes anything, or takes a copy that is older than its record for a finding: most are.

use super::look::{case, fixable};
use super::{Case, Code, Fix};
use crate::engine::{Engine, Slot};
use crate::error::Result;
use crate::model::Phase;
use crate::model::record::{Unreadable, Written};
use crate::pool::Pool;

impl Engine {
    /// Whether every record is the last one that was written.
    pub(super) fn generations(&self, slot: &Slot, pool: &dyn Pool) -> Result<Vec<Case>> {
        let mut cases = Vec::new();
        for known in self.store.whole(pool.id()) {
            let id = known.record.id();
            // Without a driver the file is all that is known.
            let file = if self.ready() { self.store.on_disk(id)? } else { None };
            cases.extend(file.and_then(|file| other_file(slot, &known, file)));
            // One that does not answer hides no other.
            let copy = self.newer_copy(pool, id).ok().flatten();
            cases.extend(copy.map(|copy| older(slot, &known, &copy)));
        }
        Ok(cases)
    }
}

/// A file that is not what the driver wrote.
fn other_file(slot: &Slot, known: &Written, file: std::result::Result<Written, Unreadable>) -> Option<Case> {
    let (id, wrote) = (known.record.id(), known.generation);
    let by_newer = matches!(file, Err(Unreadable::Newer(_)));
    let found = match file {
        Ok(file) if file == *known => return None,
        Ok(file) if file.generation == wrote => "it says something else under the same generation".to_owned(),
        Ok(file) => format!("it is of generation {}", file.generation),
        Err(why) => format!("it cannot be read: {why}"),
    };
    let what = format!(
        "the file of the record of {id} is not what the driver wrote, generation {wrote}: {found}; the driver goes by what it wrote \
         until it is started again"
    );
    let subject = Some(id.to_string());
    if by_newer {
        let by_hand = "stop this driver, and start the release that wrote the file";
        return Some(case(Code::RecordOutdated, slot, subject, what, by_hand));
    }
    Some(fixable(Code::RecordOutdated, slot, subject, what, Fix::Rewrite(id)))
}

/// A record that is older than its copy.
fn older(slot: &Slot, known: &Written, copy: &Written) -> Case {
    let id = known.record.id();
    let what = format!(
        "the record of {id} is of generation {}, {}, and the copy with its bytes of generation {}, {}: somebody brought back an older \
         record",
        known.generation,
        says(known.record.phase()),
        copy.generation,
        says(copy.record.phase())
    );
    fixable(Code::RecordOutdated, slot, Some(id.to_string()), what, Fix::Renew(id))
}

pub(super) fn says(phase: Phase) -> &'static str {
    match phase {
        Phase::Retained { .. } => "deleted and kept",
        Phase::Creating
        | Phase::Receiving { .. }
        | Phase::Lent { .. }
        | Phase::Ready
        | Phase::Growing { .. }
        | Phase::Deleting => "in use",
    }
}
