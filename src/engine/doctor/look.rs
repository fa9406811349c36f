//! The doctor's eyes.
//!
//! Owns: what is compared with what, and the sentences. Never: changes anything.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;

use super::generations::says;
use super::{Case, Code, Finding, Fix, Shows};
use crate::engine::mounts::volume_in;
use crate::engine::store::Record;
use crate::engine::{Engine, Slot};
use crate::error::{Error, Result, chain, quoted};
use crate::model::record::Unreadable;
use crate::model::{Bytes, ObjectId, Offer, Phase, PoolId, Volume, VolumeId};
use crate::os::file::{self, Dir};
use crate::os::mount::{self, Of, Seat};
use crate::pool::{Exposed, Found, Kind, Pool, Problem};

/// What the pool's health says that the doctor sees for itself, with more about it.
const SEEN_ANYWAY: [&str; 4] = ["ImageMissing", "DirectoryMissing", "ImageTruncated", "PoolReadOnly"];

impl Engine {
    /// Records against objects, in both directions.
    pub(super) fn differences(&self, slot: &Slot, pool: &dyn Pool) -> Result<Vec<Case>> {
        let mut cases: Vec<Case> = Vec::new();
        let mut sizes: BTreeMap<ObjectId, Bytes> = BTreeMap::new();
        for found in pool.scan()? {
            match found {
                Found::Volume(id, size) => drop(sizes.insert(ObjectId::Volume(id), size)),
                Found::Snapshot(id, size) => drop(sizes.insert(ObjectId::Snapshot(id), size)),
                Found::Debris(name) => cases.extend(self.debris(slot, &name)),
                Found::Foreign(name) => cases.push(foreign(slot, &name)),
            }
        }
        if let Some(home) = pool.home().filter(|_| !self.ready()) {
            cases.extend(temporaries(slot, &home.sub("records")?)?);
        }
        for (id, size) in &sizes {
            cases.extend(self.object(slot, pool, *id, *size));
        }
        for id in self.store.lost_groups(pool.id()) {
            let what =
                format!("members of {id} are there, and no record of it: nobody can use or delete them");
            cases.push(self.unrecorded(slot, pool, ObjectId::Group(id), what));
        }
        let mut lost = self.store.finished(pool.id());
        lost.retain(|id| !sizes.contains_key(id));
        if !lost.is_empty() {
            // What a device still shows is not lost yet: `exposures` tells of it.
            let shown: HashSet<_> =
                pool.exposed()?.iter().map(|shown| ObjectId::Volume(shown.volume)).collect();
            lost.retain(|id| !shown.contains(id));
        }
        cases.extend(lost.into_iter().map(|id| missing(slot, id)));
        let interrupted = self.store.interrupted(pool.id());
        // What is being received goes on when its source does, and goes by itself when nobody asks for it any more.
        let stuck = interrupted.iter().filter(|record| !matches!(record.phase(), Phase::Receiving { .. }));
        cases.extend(stuck.map(|record| self.interrupted(slot, record)));
        cases.extend(self.quarantined(slot, pool.id()));
        Ok(cases)
    }

    /// One object: has it a record, and of its size?
    fn object(&self, slot: &Slot, pool: &dyn Pool, id: ObjectId, size: Bytes) -> Option<Case> {
        if self.store.quarantined(id).is_some() {
            return None; // Its record is there, if unreadable: that is the finding.
        }
        match self.store.record(id) {
            None => {
                let what = format!("{id} has {size} in the pool and no record: nobody can use or delete it");
                Some(self.unrecorded(slot, pool, id, what))
            }
            Some(Record::Volume(volume)) if volume.phase.is_whole() && volume.size != size => {
                Some(wrong_size(slot, &volume, size))
            }
            Some(Record::Snapshot(snapshot)) if snapshot.phase.is_whole() && size < snapshot.size => {
                let (is, was) = (size.get(), snapshot.size.get());
                let what =
                    format!("snapshot {id} has {is} bytes, its record says {was}: somebody cut it off");
                let by_hand = "bring the file back from a copy, or delete the snapshot: what is restored from it lacks its end";
                Some(case(Code::SizeWrong, slot, Some(id.to_string()), what, by_hand))
            }
            Some(_) => None,
        }
    }

    /// What has no record: where a copy of that is carried, it can be made anew.
    fn unrecorded(&self, slot: &Slot, pool: &dyn Pool, id: ObjectId, what: String) -> Case {
        let subject = Some(id.to_string());
        let Ok(Some(copy)) = self.carried(pool, id) else {
            return fixable(Code::OrphanObject, slot, subject, what, Fix::Remove(id));
        };
        let what = format!("{what}; a copy of the record is there: it was {}", says(copy.record.phase()));
        let mut case = fixable(Code::RecordLost, slot, subject, what, Fix::Rebuild(id));
        case.finding.repair = format!(
            "rockpool ctl doctor --repair {} --object {id} makes the record anew; --repair {} --object {id} deletes all that is there of it",
            Code::RecordLost,
            Code::OrphanObject
        );
        case.instead = Some((Code::OrphanObject, Fix::Remove(id)));
        case
    }

    fn debris(&self, slot: &Slot, name: &str) -> Option<Case> {
        let id: Option<ObjectId> = name
            .strip_prefix("tmp/")
            .and_then(|name| name.strip_suffix(".part").unwrap_or(name).parse().ok());
        match id {
            // Of an interrupted record, whose settling removes it.
            Some(id) if self.store.record(id).is_some_and(|record| !record.phase().is_whole()) => None,
            Some(_) => Some(stray(slot, name)),
            // A driver that serves has removed what others left, and is writing this itself.
            None => (!self.ready()).then(|| stray(slot, name)),
        }
    }

    fn interrupted(&self, slot: &Slot, record: &Record) -> Case {
        let subject = Some(record.id().to_string());
        if matches!(record, Record::Group(_)) && !self.freezes.are_known() {
            // Undone without a thaw, nobody would ever thaw its volumes.
            let what = format!("{} was interrupted; its volumes may be frozen", record.id());
            let by_hand = "start the driver: it alone knows what it froze, thaws that, and finishes or undoes the group";
            return case(Code::Interrupted, slot, subject, what, by_hand);
        }
        let what = format!("{} was interrupted while it was {}", record.id(), doing(record.phase()));
        fixable(Code::Interrupted, slot, subject, what, Fix::Settle(record.clone()))
    }

    fn quarantined(&self, slot: &Slot, pool: PoolId) -> Vec<Case> {
        let all = self.store.quarantine().into_iter().filter(|(id, _)| id.pool() == pool);
        all.map(|(id, bad)| {
            let what = format!("the record of {id} cannot be read, so the object cannot be used: {}", bad.why);
            let subject = Some(id.to_string());
            match (bad.why, bad.copy) {
                // Not by name: a finding goes into bug reports.
                (Unreadable::Damaged(_), Some(copy)) => {
                    let what = format!("{what}; its bytes carry a copy: it was {}", says(copy.phase()));
                    fixable(Code::RecordQuarantined, slot, subject, what, Fix::Rebuild(id))
                }
                (Unreadable::Damaged(_), None) | (Unreadable::Newer(_), _) => {
                    let by_hand = "keep the file; a newer schema wants a newer Rockpool, a torn one a backup of the file in `records`";
                    case(Code::RecordQuarantined, slot, subject, what, by_hand)
                }
            }
        })
        .collect()
    }

    /// Devices and mounts that show a volume to nobody, or one that is not there.
    pub(super) fn exposures(&self, slot: &Slot, pool: &dyn Pool) -> Result<Vec<Case>> {
        let mut cases = Vec::new();
        for shown in pool.exposed()? {
            let seats = mount::seats(Of::Loop(shown.number))?;
            let alive = self.alive(&shown.volume);
            if !shown.there && (alive || self.is_retained(&shown.volume)) {
                cases.push(deleted_in_use(slot, &shown, &seats));
            } else if seats.is_empty() && (shown.stays || !alive) {
                cases.push(leftover_device(slot, &shown));
            } else if !alive {
                cases.extend(leftover_mounts(slot, &shown.volume, seats, !shown.there));
            }
            if !shown.direct {
                let what = format!(
                    "{} of volume {} goes through the page cache: its data is cached twice, and O_DIRECT of a workload is none",
                    shown.path.display(),
                    shown.volume
                );
                let by_hand = "keep the pool on a filesystem with direct I/O, then stage the volume again";
                cases.push(case(Code::NoDirectIo, slot, Some(shown.volume.to_string()), what, by_hand));
            }
        }
        if let Some(home) = pool.home() {
            let device = home.identity()?.device;
            let mut shown: BTreeMap<VolumeId, Vec<Seat>> = BTreeMap::new();
            for seat in mount::seats(Of::Filesystem(device))? {
                let volume = volume_in(&seat.root).filter(|id| id.pool() == pool.id() && !self.alive(id));
                volume.into_iter().for_each(|id| shown.entry(id).or_default().push(seat.clone()));
            }
            for (id, seats) in shown {
                cases.extend(leftover_mounts(slot, &id, seats, false));
            }
        }
        Ok(cases)
    }

    /// Whether a volume is there for CSI.
    fn alive(&self, id: &VolumeId) -> bool {
        let usable = |volume: &Volume| matches!(volume.phase, Phase::Ready | Phase::Growing { .. });
        self.store.volume(id).is_some_and(|volume| usable(&volume))
            || self.store.quarantined(ObjectId::Volume(*id)).is_some()
    }

    /// Whether a volume is deleted, and kept for a while.
    fn is_retained(&self, id: &VolumeId) -> bool {
        self.store.volume(id).is_some_and(|volume| matches!(volume.phase, Phase::Retained { .. }))
    }

    /// Whether what is promised can be kept.
    pub(super) fn promises(&self, slot: &Slot, pool: &dyn Pool) -> Result<Vec<Case>> {
        let (budget, promised) = (slot.budget(pool)?, self.store.promised(pool.id()));
        if promised <= budget {
            return Ok(Vec::new());
        }
        let usage = pool.usage()?;
        let what = format!(
            "{promised} are promised, and only {budget} can be: of {} others take {}; {} of the promises are deleted and kept",
            usage.total,
            usage.foreign,
            self.store.retained_bytes(pool.id())
        );
        let by_hand = "remove what does not belong to the pool, purge what is kept (`rockpool ctl retained list`), delete \
                       volumes, or make the pool larger; nothing new is promised until then";
        Ok(vec![case(Code::CapacityShort, slot, None, what, by_hand)])
    }

    /// What the pool's own health says.
    pub(super) fn ailments(&self, slot: &Slot, pool: &dyn Pool) -> Result<Vec<Case>> {
        let found = pool.health_of_all(&self.store.volumes_of(pool.id())).into_iter();
        let own = found.filter(|(_, problem)| !SEEN_ANYWAY.contains(&problem.reason));
        Ok(own.map(|(id, problem)| ailment(slot, id, &problem)).collect())
    }

    /// What the place of the pool cannot do, and what that costs.
    pub(super) fn lacks(&self, slot: &Slot, pool: &dyn Pool) -> Result<Vec<Case>> {
        let (best, here) = (pool.kind().features(), pool.features());
        let mut cases = Vec::new();
        if let (Offer::Yes, Offer::No(why)) = (&best.snapshots, &here.snapshots) {
            let what = format!("no snapshots, clones and restores: {why}");
            let by_hand = "move the pool to xfs with reflink (`rockpool pool init` makes it so)";
            cases.push(case(Code::NoReflink, slot, None, what, by_hand));
        }
        if let (Kind::Directory, Offer::No(why)) = (pool.kind(), &here.size_limit) {
            let what = format!("a volume may grow beyond its size and fill the pool: {why}");
            let by_hand =
                "mount the filesystem with project quota and remove `quota = \"none\"`, or use an image pool";
            cases.push(case(Code::NoQuota, slot, None, what, by_hand));
        }
        Ok(cases)
    }
}

/// A pool that cannot be looked at.
pub(super) fn away(slot: &Slot, error: &Error) -> Case {
    let by_hand = "mend what the sentence says (mount its disk, free what holds it); a running driver finds it within seconds";
    case(Code::PoolAway, slot, None, chain(error), by_hand)
}

/// A pool that takes no changes.
pub(super) fn read_only(slot: &Slot, error: &Error) -> Case {
    let by_hand = "look into the kernel log; mend the disk, or mount the pool's filesystem for writing again; the driver finds it";
    case(Code::PoolReadOnly, slot, None, chain(error), by_hand)
}

/// A pool that refuses a look.
pub(super) fn failed(slot: &Slot, why: &str) -> Case {
    let by_hand =
        "look into the kernel log; then unmount, check (xfs_repair, e2fsck) and mount the pool's filesystem";
    case(Code::PoolFailed, slot, None, why.to_owned(), by_hand)
}

fn missing(slot: &Slot, id: ObjectId) -> Case {
    let what = format!("{id} has a record, but no bytes: its data is gone");
    fixable(Code::ObjectMissing, slot, Some(id.to_string()), what, Fix::Forget(id))
}

fn doing(phase: Phase) -> &'static str {
    match phase {
        Phase::Creating => "made; the repair removes what there is of it, nobody was told that it exists",
        Phase::Growing { .. } => "growing; the repair finishes that",
        Phase::Deleting => "deleted; the repair finishes that",
        Phase::Receiving { .. } => "received",
        Phase::Ready | Phase::Lent { .. } | Phase::Retained { .. } => "whole",
    }
}

fn wrong_size(slot: &Slot, volume: &Volume, found: Bytes) -> Case {
    let id = volume.id;
    let repair = if found < volume.size {
        "somebody cut it off; the repair makes it as long again, with zeros: check its filesystem then"
    } else {
        "the repair notes the real size"
    };
    let what =
        format!("volume {id} has {} bytes, its record says {}: {repair}", found.get(), volume.size.get());
    fixable(Code::SizeWrong, slot, Some(id.to_string()), what, Fix::Resize(id, found))
}

fn stray(slot: &Slot, name: &str) -> Case {
    let what = format!("{} was left by what was interrupted, and nobody was told of it", quoted(name));
    fixable(Code::StrayTemporary, slot, Some(name.to_owned()), what, Fix::Clear(name.to_owned()))
}

fn foreign(slot: &Slot, name: &str) -> Case {
    let what = format!("{} lies in the pool and was not made by Rockpool", quoted(name));
    case(Code::ForeignFile, slot, Some(name.to_owned()), what, "look what it is, and move it out of the pool")
}

/// The bytes of a volume whose image somebody deleted are there as long as the device, and no longer.
fn deleted_in_use(slot: &Slot, shown: &Exposed, seats: &[Seat]) -> Case {
    let (id, device) = (&shown.volume, shown.path.display());
    let used = match seats.first() {
        Some(seat) => format!("mounted at {}", quoted(&seat.point.to_string_lossy())),
        None => "mounted nowhere".to_owned(),
    };
    let what = format!(
        "the image of volume {id} was deleted: its bytes are behind {device} alone, which is {used}, and go with it"
    );
    let by_hand = format!(
        "let nothing unmount or detach it before its bytes are copied out (dd if={device} of=FILE bs=1M conv=sparse,fsync; what is \
         written later is not in the copy); then unstage the volume, and move the copy to volumes/{id} in the pool"
    );
    case(Code::ObjectDeleted, slot, Some(id.to_string()), what, &by_hand)
}

fn leftover_device(slot: &Slot, shown: &Exposed) -> Case {
    let (path, id) = (shown.path.display().to_string(), &shown.volume);
    let what = if shown.there {
        format!("{path} shows volume {id}, and is mounted nowhere: it keeps its space")
    } else {
        format!(
            "{path} shows volume {id}, whose image is deleted, and is mounted nowhere: its last bytes go with it"
        )
    };
    fixable(Code::LeftoverDevice, slot, Some(path), what, Fix::LetGo(shown.clone()))
}

/// A finding for each place, however many mounts are stacked there.
fn leftover_mounts(slot: &Slot, id: &VolumeId, seats: Vec<Seat>, last: bool) -> Vec<Case> {
    let mut places: BTreeMap<PathBuf, Vec<u64>> = BTreeMap::new();
    seats.into_iter().for_each(|seat| places.entry(seat.point).or_default().push(seat.id));
    let finding = |(point, mounts): (PathBuf, Vec<u64>)| {
        let shown = point.display().to_string();
        let end = if last { "; its last bytes go with the device behind it" } else { "" };
        let what = format!("{} shows volume {id}, which is not there any more{end}", quoted(&shown));
        let fix = Fix::Unmount(Shows { volume: *id, point, mounts, last });
        fixable(Code::LeftoverMount, slot, Some(shown), what, fix)
    };
    places.into_iter().map(finding).collect()
}

fn ailment(slot: &Slot, id: Option<VolumeId>, problem: &Problem) -> Case {
    let (code, by_hand) = match problem.reason {
        "PoolNearlyFull" => (Code::PoolNearlyFull, "delete volumes or what is kept, or make the pool larger"),
        "PoolFailed" | "PoolHung" => (
            Code::PoolFailed,
            "look into the kernel log; then unmount, check and mount the pool's filesystem",
        ),
        "ImageFragmented" => (
            Code::ImageFragmented,
            "copy it into a new volume while it is not used (a clone keeps the pieces); `reserved` volumes stay whole",
        ),
        "FilesystemReadOnly" | "FilesystemFailed" | "FilesystemErrors" => (
            Code::FilesystemFailed,
            "stop what uses it and stage the volume again: that mounts it anew, and checks an ext4 in which errors were met",
        ),
        _ => (Code::Unhealthy, "see the sentence; `rockpool ctl volume get` and the driver's log tell more"),
    };
    let what = match id {
        Some(id) => format!("volume {id}: {}", problem.message),
        None => problem.message.clone(),
    };
    case(code, slot, id.map(|id| id.to_string()), what, by_hand)
}

/// Temporary files of records. Only without a running driver: it may be writing one.
fn temporaries(slot: &Slot, records: &Dir) -> Result<Vec<Case>> {
    let names = records.names()?.into_iter().filter(|name| file::is_temporary(name));
    Ok(names.map(|name| stray(slot, &format!("records/{}", name.to_string_lossy()))).collect())
}

pub(super) fn case(code: Code, slot: &Slot, object: Option<String>, what: String, by_hand: &str) -> Case {
    let pool = Some(slot.name().to_owned());
    Case {
        finding: Finding { code, pool, object, what, repair: by_hand.to_owned() },
        fix: None,
        instead: None,
    }
}

pub(super) fn fixable(code: Code, slot: &Slot, object: Option<String>, what: String, fix: Fix) -> Case {
    let object_words = object.as_ref().filter(|_| fix.deletes());
    let object_words = object_words.map_or_else(String::new, |object| format!(" --object {object}"));
    let repair = format!("rockpool ctl doctor --repair {code}{object_words}");
    let pool = Some(slot.name().to_owned());
    Case { finding: Finding { code, pool, object, what, repair }, fix: Some(fix), instead: None }
}
