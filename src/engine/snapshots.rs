//! Snapshots: cut, delete, look up.
//!
//! Owns: the order of record and cut, and what a retry may find. Never: freezes; a single cut is one moment by itself,
//! and the pool writes out first what the mounted filesystem holds back.
//!
//! A snapshot's promise is known only at its cut, so the budget is checked then, and a cut that breaks it is undone.

use std::sync::Arc;

use crate::engine::health::refuse_cut_short;
use crate::engine::retained::Fate;
use crate::engine::store::Record;
use crate::engine::{Engine, Key};
use crate::error::{Error, Result, quoted};
use crate::model::{
    Bytes, CreateSnapshot, GroupId, ObjectId, Offer, Parameters, Phase, PoolId, Snapshot, SnapshotId, Time,
    Volume, becomes,
};
use crate::os::file::random;
use crate::pool::Pool;

impl Engine {
    /// The snapshot with this id, cut and with its whole group.
    ///
    /// # Errors
    /// `NotFound`; `Unavailable` where its pool is away or its record cannot be read.
    pub fn snapshot(&self, id: &SnapshotId) -> Result<Arc<Snapshot>> {
        let whole = self.store.snapshot(id).filter(|snapshot| self.store.is_whole(snapshot));
        let snapshot = whole.ok_or_else(|| self.absent(ObjectId::Snapshot(*id)))?;
        self.refuse_away(id.pool())?;
        Ok(snapshot)
    }

    /// The pool on whose threads a snapshot is cut: that of its volume. But an unfinished cut of the same name goes first,
    /// where it lies.
    pub fn pool_of_cut(&self, want: &CreateSnapshot) -> PoolId {
        let found = self.store.named(&Key::SnapshotName(want.name.clone()));
        let unfinished = found.filter(|found| found.phase() != Phase::Ready);
        unfinished.map_or(want.source.pool(), |found| found.id().pool())
    }

    /// A snapshot as asked for, cut now or by an earlier call of the same name.
    ///
    /// # Errors
    /// `Conflict` where the name is taken by a cut of another volume, `NotFound` for the volume, `Full`, `Unsupported`,
    /// `Busy`; after each of them nothing is left. `Unavailable` where the outcome is open.
    pub fn create_snapshot(&self, want: &CreateSnapshot) -> Result<Arc<Snapshot>> {
        let name = Key::SnapshotName(want.name.clone());
        let mut claim =
            self.store.claim(std::slice::from_ref(&name), &[Key::Object(ObjectId::Volume(want.source))])?;
        if let Some(Record::Snapshot(found)) = self.store.named(&name) {
            if found.phase == Phase::Ready {
                return already(found, want);
            }
            claim.extend(&[Key::Object(ObjectId::Snapshot(found.id))])?;
            let lay_in = found.id.pool();
            let record = Record::Snapshot(found);
            let pool = self.writable_for(&record)?;
            self.settle(&claim, pool.as_ref(), &record)?;
            refuse_elsewhere(lay_in, want.source.pool(), &want.name)?;
        }
        self.store.refuse_quarantined(&name)?;
        let volume = self.volume(&want.source)?;
        let slot = self.slot_of(volume.id.pool()).ok_or_else(|| self.absent(ObjectId::Volume(volume.id)))?;
        let (pool, budget) = slot.ready()?;
        refuse_without_snapshots(pool.as_ref(), slot.name())?;
        refuse_cut_short(pool.as_ref(), ObjectId::Volume(volume.id), volume.size)?;
        let snapshot = begun(pool.as_ref(), &volume, Some(&want.name), None, &want.parameters)?;
        claim.extend(&[Key::Object(ObjectId::Snapshot(snapshot.id))])?;
        let creating = Record::Snapshot(Arc::new(snapshot.clone()));
        self.store.put(&claim, creating.clone())?;
        step!("snapshot: recorded");
        let cut = pool.snapshot(&snapshot).and_then(|held| {
            let ready =
                Arc::new(Snapshot { phase: Phase::Ready, held, created: Time::now(), ..snapshot.clone() });
            step!("snapshot: cut");
            self.store.admit(&claim, Record::Snapshot(Arc::clone(&ready)), budget)?;
            step!("snapshot: ready");
            Ok(ready)
        });
        // What a cut takes is known when it is made.
        let more = Bytes::ZERO;
        cut.map_err(|cause| self.named_full(slot, more, self.undo(&claim, pool.as_ref(), &creating, cause)))
    }

    /// No such snapshot any more; one that never was is `Ok` too, if its pool is here to say so.
    ///
    /// # Errors
    /// `Invalid` for a member of a group, which goes with its group only; `Busy` while it is being restored.
    pub fn delete_snapshot(&self, id: &SnapshotId) -> Result<()> {
        let mut claim = self.store.claim(&[Key::Object(ObjectId::Snapshot(*id))], &[])?;
        let Some(snapshot) = self.store.snapshot(id) else {
            return self.known_gone(ObjectId::Snapshot(*id));
        };
        if let Some(group) = snapshot.group {
            let kept = |phase| matches!(phase, Phase::Retained { .. });
            if self.store.group(&group).is_some_and(|group| kept(group.phase)) {
                return self.pool(id.pool()).map(drop); // Deleted with its group, for everybody but an operator.
            }
            return Err(Error::Invalid(format!(
                "snapshot_id {id} is a member of group {group}; delete the group with DeleteVolumeGroupSnapshot"
            )));
        }
        let record = Record::Snapshot(Arc::clone(&snapshot));
        let pool = self.writable_for(&record)?;
        let deleting = record.in_phase(Phase::Deleting);
        match snapshot.phase {
            Phase::Retained { .. } => return Ok(()),
            Phase::Deleting => {}
            Phase::Creating
            | Phase::Receiving { .. }
            | Phase::Lent { .. }
            | Phase::Ready
            | Phase::Growing { .. } => {
                claim.extend(&[record.name()])?;
                if self.keep(&claim, pool.as_ref(), &record)? == Fate::Kept {
                    return Ok(());
                }
                self.store.condemn(&claim, pool.as_ref(), deleting.clone())?;
                step!("snapshot delete: condemned");
            }
        }
        self.settle(&claim, pool.as_ref(), &deleting)
    }
}

/// What was unfinished under a name is undone; the cut itself runs on the threads of its own pool.
pub(super) fn refuse_elsewhere(lay_in: PoolId, belongs_in: PoolId, name: &str) -> Result<()> {
    if lay_in == belongs_in {
        return Ok(());
    }
    let name = quoted(name);
    Err(Error::Busy(format!("snapshot name {name}: an unfinished cut in another pool was undone; ask again")))
}

/// The record of a snapshot that is about to be cut, alone or as the member of a group. Nobody asks for a member by name; its
/// own id keeps it apart from every other one.
pub(super) fn begun(
    pool: &dyn Pool,
    volume: &Volume,
    name: Option<&str>,
    group: Option<GroupId>,
    parameters: &Parameters,
) -> Result<Snapshot> {
    let id = SnapshotId::new(volume.id.pool(), random()?);
    // A record that was made anew of its copy may know of an earlier size what was asked for.
    let smallest = pool.features().smallest(volume.access);
    let is_enough = |asked| becomes(asked, smallest).is_some_and(|size| size >= volume.reach());
    Ok(Snapshot {
        id,
        name: name.map_or_else(|| id.to_string(), str::to_owned),
        phase: Phase::Creating,
        source: volume.id,
        size: volume.reach(),
        asked: volume.asked_for_reach().filter(|asked| is_enough(*asked)),
        held: Bytes::ZERO,
        access: volume.access,
        fs_uuid: volume.fs_uuid,
        sector_size: volume.sector_size,
        group,
        parameters: parameters.clone(),
        claim: volume.claim.clone(),
        created: Time::now(),
    })
}

/// What to answer a retry, or another request of the same name. Other parameters are a conflict: nobody would learn
/// otherwise that they were ignored.
fn already(found: Arc<Snapshot>, want: &CreateSnapshot) -> Result<Arc<Snapshot>> {
    let conflict =
        |what: &str| Err(Error::Conflict(format!("snapshot {} exists with {what}", quoted(&want.name))));
    if found.source != want.source {
        return conflict(&format!("source_volume_id {}, not {}", found.source, want.source));
    }
    if found.group.is_some() {
        return conflict("a group, of which it is a member");
    }
    if found.parameters != want.parameters {
        return conflict("other parameters");
    }
    Ok(found)
}

pub(super) fn refuse_without_snapshots(pool: &dyn Pool, name: &str) -> Result<()> {
    match pool.features().snapshots {
        Offer::Yes => Ok(()),
        Offer::No(why) => Err(Error::Unsupported(format!("pool {} makes no snapshots: {why}", quoted(name)))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Access, Allocation, Filesystem, Source, VolumeId};
    use crate::pool::sim::SimPool;

    #[test]
    fn what_was_asked_is_believed_only_where_it_still_leads_to_the_size() {
        let pool = SimPool::new(Bytes::GIB).unwrap();
        let mut volume = Volume {
            id: VolumeId::new(pool.id(), [1; 8]),
            name: "v".to_owned(),
            phase: Phase::Ready,
            size: Bytes::MIB.times(16),
            asked: Some(Bytes::new(1)),
            access: Access::Mount { fs: Filesystem::Ext4 },
            fs_uuid: None,
            sector_size: 4096,
            allocation: Allocation::Sparse,
            source: Source::Blank,
            parameters: Parameters::new(),
            claim: None,
            created: Time::now(),
        };
        let enough =
            |volume: &Volume| begun(&pool, volume, None, None, &Parameters::new()).unwrap().enough().get();
        assert_eq!(enough(&volume), 1, "the smallest ext4 there is");
        // It has grown, and its record was made anew of a copy from before that.
        volume.size = Bytes::MIB.times(17);
        assert_eq!(enough(&volume), 17 << 20);
        let asked = Some(Bytes::new((20 << 20) - 1));
        volume.phase = Phase::Growing { to: Bytes::MIB.times(20), asked };
        assert_eq!(enough(&volume), (20 << 20) - 1, "it is cut as large as it becomes");
    }
}
