//! All that is there, as the services, the records and the disks show it, and as the model has it.
//!
//! Owns: what is compared. Never: the bytes of volumes, of which the model knows a few.

use std::collections::{BTreeMap, BTreeSet};

use rockpool::model::{Bytes, Phase, Record};
use rockpool::pool::{Found, Pool};

use super::model::{Life, Model, size};
use crate::faulty::Disk;
use crate::node::State;

/// Everything at rest.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct View {
    /// Volumes that are listed, with their names and sizes.
    volumes: BTreeMap<String, (String, Bytes)>,
    /// Snapshots that are listed, with their sizes and what they hold.
    cuts: BTreeMap<String, (Bytes, Bytes)>,
    /// What is deleted and kept; members stay with their group.
    kept: BTreeSet<String>,
    /// What each pool has promised.
    promised: Vec<Bytes>,
    /// Whatever has a record.
    records: BTreeSet<String>,
    /// Whatever has bytes, with its size.
    objects: BTreeMap<String, Bytes>,
}

impl View {
    /// What a node shows, and what lies on its disks.
    ///
    /// # Panics
    /// Where a file is no record of something whole.
    pub(super) fn shown(state: &State, disks: &[Disk]) -> View {
        let volumes = state.volumes.iter().map(|one| (one.id.to_string(), (one.name.clone(), one.size)));
        let cuts = state.snapshots.iter().map(|one| (one.id.to_string(), (one.size, one.held)));
        let mut view = View {
            volumes: volumes.collect(),
            cuts: cuts.collect(),
            kept: state.retained.iter().map(|(id, ..)| id.to_string()).collect(),
            promised: state.promised.clone(),
            ..View::default()
        };
        for disk in disks {
            view.records.extend(recorded(disk));
            let found = disk.sim.scan().expect("it lies in memory");
            view.objects.extend(found.into_iter().map(|found| match found {
                Found::Volume(id, size) => (id.to_string(), size),
                Found::Snapshot(id, size) => (id.to_string(), size),
                Found::Debris(name) | Found::Foreign(name) => panic!("{name:?} in memory"),
            }));
        }
        view
    }

    /// What the model has.
    pub(super) fn of(model: &Model) -> View {
        let cut_is = |life: Life| model.cuts.iter().filter(move |one| model.cut_life(one) == life);
        let volumes = model.volumes.iter().filter(|one| one.life == Life::Here);
        let cuts = cut_is(Life::Here).map(|one| (one.id.clone(), (size(one.mib), Bytes::new(one.held()))));
        let left = model.volumes.iter().filter(|one| one.life != Life::Gone);
        let left: BTreeMap<String, Bytes> = left
            .map(|one| (&one.id, one.mib))
            .chain(cut_is(Life::Here).chain(cut_is(Life::Kept)).map(|one| (&one.id, one.mib)))
            .map(|(id, mib)| (id.clone(), size(mib)))
            .collect();
        let groups = model.groups.iter().filter(|one| one.life != Life::Gone).map(|one| one.id.clone());
        View {
            volumes: volumes.map(|one| (one.id.clone(), (one.name.clone(), size(one.mib)))).collect(),
            cuts: cuts.collect(),
            kept: kept(model),
            promised: (0..2).map(|pool| Bytes::new(model.promised(pool))).collect(),
            records: left.keys().cloned().chain(groups).collect(),
            objects: left,
        }
    }
}

/// The ids of the records on a disk, each of something whole.
fn recorded(disk: &Disk) -> Vec<String> {
    let files =
        std::fs::read_dir(disk.records()).expect("a directory").map(|file| file.expect("an entry").path());
    let mut ids = Vec::new();
    for file in files {
        let name = file.file_name().and_then(|name| name.to_str()).expect("names are ours").to_owned();
        if name == "clock" {
            continue;
        }
        let written = Record::decode(&name, &std::fs::read(&file).expect("it was listed"));
        let phase = written.expect("what was written is read").record.phase();
        assert!(
            matches!(phase, Phase::Ready | Phase::Retained { .. }),
            "{name} is left {phase:?} on its disk"
        );
        ids.push(name);
    }
    ids
}

/// The ids of what is deleted and kept.
fn kept(model: &Model) -> BTreeSet<String> {
    let volumes = model.volumes.iter().filter(|one| one.life == Life::Kept).map(|one| &one.id);
    let cuts = model.cuts.iter().filter(|one| one.group.is_none() && one.life == Life::Kept);
    let groups = model.groups.iter().filter(|one| one.life == Life::Kept).map(|one| &one.id);
    volumes.chain(cuts.map(|one| &one.id)).chain(groups).cloned().collect()
}
