//! A volume that is raced for: how it is brought to a state, called, and looked at.
//!
//! Owns: the requests of each call, and reading a state past the driver. Never: races; that is `races`.

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rockpool::proto::csi;

use crate::Outcome;
use crate::facts::{Facts, Record};
use crate::lifecycle::{expand_node, size};
use crate::orders::{Call, From, MIB, Said, State, Told};
use crate::requests::{self, Origin, Shape, Spot};
use crate::wire::{Answer, PATIENT, Wire};
use crate::world::World;

/// A volume that is raced for, and its ids as the caller knows them.
pub(crate) struct Object<'a> {
    pub(crate) world: &'a World,
    pub(crate) shape: Shape,
    pub(crate) name: String,
    pub(crate) cut_name: String,
    pub(crate) copy_name: String,
    pub(crate) spot: Spot,
    pub(crate) id: String,
    pub(crate) cut: String,
    /// The parameters of the volume.
    pub(crate) parameters: &'static [(&'static str, &'static str)],
}

impl Object<'_> {
    /// There is no such volume yet.
    pub(crate) fn new(world: &World, name: String) -> Outcome<Object<'_>> {
        let (shape, spot) = (world.node.ground.shape(0), world.node.spot(&name)?);
        let (cut_name, copy_name) = (format!("{name}-cut"), format!("{name}-copy"));
        let (id, cut) = (String::new(), String::new());
        Ok(Object { world, shape, name, cut_name, copy_name, spot, id, cut, parameters: &[] })
    }

    pub(crate) fn wire(&self) -> &Wire {
        &self.world.node.wire
    }

    /// Makes a call.
    pub(crate) async fn call(&self, call: Call, patience: Duration) -> Told {
        let began = Instant::now();
        let said = self.say(call, patience).await;
        Told { call, said, began, ended: Instant::now() }
    }

    async fn say(&self, call: Call, patience: Duration) -> Said {
        let (wire, base) = (self.wire(), size(self.shape));
        match call {
            Call::Create => Said::of(&wire.create(self.request(base), patience).await),
            Call::CreateOther => Said::of(&wire.create(self.request(base + 64 * MIB), patience).await),
            Call::Copy(from) => Said::of(&wire.create(self.copy(from), patience).await),
            Call::Restore => Said::of(&wire.restore(&self.id, patience).await),
            Call::Purge => Said::of(&wire.purge(&self.id, patience).await),
            Call::Delete => Said::of(&wire.delete(requests::delete(&self.id), patience).await),
            Call::Stage => {
                Said::of(&wire.stage(requests::stage(&self.id, self.shape, &self.spot), patience).await)
            }
            Call::Unstage => Said::of(&wire.unstage(requests::unstage(&self.id, &self.spot), patience).await),
            Call::Publish => {
                Said::of(&wire.publish(requests::publish(&self.id, self.shape, &self.spot), patience).await)
            }
            Call::Unpublish => {
                Said::of(&wire.unpublish(requests::unpublish(&self.id, &self.spot), patience).await)
            }
            Call::Expand => Said::of(&wire.expand(self.larger(), patience).await),
            Call::NodeExpand => {
                Said::of(&wire.expand_node(expand_node(&self.id, self.shape, &self.spot), patience).await)
            }
            Call::Snapshot => {
                Said::of(&wire.snapshot(requests::snapshot(&self.cut_name, &self.id), patience).await)
            }
            Call::Forget => Said::of(&wire.forget(requests::forget(&self.cut), patience).await),
        }
    }

    /// CreateVolume of the volume.
    fn request(&self, size: i64) -> csi::CreateVolumeRequest {
        let mut request = requests::create(&self.name, (self.shape, size), None);
        request
            .parameters
            .extend(self.parameters.iter().map(|(key, value)| ((*key).into(), (*value).into())));
        request
    }

    /// ControllerExpandVolume.
    fn larger(&self) -> csi::ControllerExpandVolumeRequest {
        let required_bytes = size(self.shape) + 4 * MIB;
        csi::ControllerExpandVolumeRequest {
            volume_id: self.id.clone(),
            capacity_range: Some(csi::CapacityRange { required_bytes, limit_bytes: 0 }),
            ..Default::default()
        }
    }

    /// CreateVolume of its copy.
    fn copy(&self, from: From) -> csi::CreateVolumeRequest {
        let origin = match from {
            From::Volume => Origin::Volume(self.id.clone()),
            From::Snapshot => Origin::Snapshot(self.cut.clone()),
        };
        requests::create(&self.copy_name, (self.shape, size(self.shape)), Some(origin))
    }

    fn is_mine(&self, record: &Record) -> bool {
        [&self.name, &self.cut_name, &self.copy_name].contains(&&record.name)
    }

    /// What is there.
    pub(crate) fn look(&self) -> Outcome<State> {
        let facts = Facts::of(&self.world.node)?;
        let mine: Vec<_> = facts.records.values().filter(|record| self.is_mine(record)).collect();
        let of = |name: &str| mine.iter().filter(|one| one.name == name && !one.is_kept()).count();
        let names = [&self.name, &self.cut_name, &self.copy_name];
        if names.iter().any(|name| of(name) > 1) || mine.iter().any(|one| !one.ready && !one.is_kept()) {
            self.world.violation(format!("a race left {mine:?}"));
        }
        let named =
            |name: &str| facts.records.iter().find(|(_, record)| record.name == name && !record.is_kept());
        let (volume, cut, copy) = (named(&self.name), named(&self.cut_name), named(&self.copy_name));
        let kept = facts.records.get(&self.id).filter(|record| record.is_kept());
        let mounted = |path: &Path| facts.mounts_at(path).len() == 1;
        let staged = match self.shape {
            Shape::Block => mounted(&self.spot.staging.join("device")),
            Shape::Directory | Shape::Ext4 | Shape::Xfs => mounted(&self.spot.staging),
        };
        Ok(State {
            exists: volume.is_some(),
            known: volume.is_some_and(|(id, _)| *id == self.id),
            staged,
            published: mounted(&self.spot.target),
            size: volume.map_or(0, |(_, volume)| volume.size),
            shown: self.shown(&facts, staged)?,
            cut: cut.is_some(),
            known_cut: cut.is_some_and(|(id, _)| *id == self.cut),
            copy: copy.and_then(|(_, copy)| copy.from),
            keeps: !self.parameters.is_empty(),
            kept: kept.map(|kept| kept.size),
        })
    }

    /// How many bytes of it can be used. A raw device that stays when nothing is staged shows some, too.
    fn shown(&self, facts: &Facts, staged: bool) -> Outcome<i64> {
        let loops = facts.writable_loops(&self.id);
        if loops.len() > 1 {
            self.world.violation(format!("a race left {} devices on {}", loops.len(), self.id));
        }
        let Some(found) = loops.first() else { return Ok(0) };
        if self.shape != Shape::Block && !staged {
            // It goes with the last who has it open.
            return Ok(0);
        }
        let mut device = File::open(found.device.path())?;
        if self.shape == Shape::Block {
            return Ok(i64::try_from(device.seek(SeekFrom::End(0))?)?);
        }
        // The superblock of a mounted ext4 is in the cache of its device.
        let mut head = [0; 28];
        device.read_exact_at(&mut head, 1024)?;
        let word = |at: usize| head[at..at + 4].try_into().map(u32::from_le_bytes);
        Ok(i64::from(word(4)?) << (10 + word(24)?))
    }

    /// Nothing is there.
    pub(crate) async fn reset(&mut self) -> Outcome<()> {
        let facts = Facts::of(&self.world.node)?;
        for (id, record) in facts.records.iter().filter(|(_, record)| self.is_mine(record)) {
            if record.is_kept() {
                sure(self.wire().purge(id, PATIENT).await)?;
            } else if record.kind == "volume" {
                // Its copy is used nowhere.
                if record.name == self.name {
                    sure(self.wire().unpublish(requests::unpublish(id, &self.spot), PATIENT).await)?;
                    sure(self.wire().unstage(requests::unstage(id, &self.spot), PATIENT).await)?;
                }
                sure(self.wire().delete(requests::delete(id), PATIENT).await)?;
                sure(self.wire().purge(id, PATIENT).await)?;
            } else {
                sure(self.wire().forget(requests::forget(id), PATIENT).await)?;
            }
        }
        Ok(())
    }

    /// From nothing to a state; the ids of a volume and a snapshot that are gone stay in use by late calls.
    pub(crate) async fn bring_to(&mut self, state: State) -> Outcome<()> {
        let made = sure(self.wire().create(self.request(size(self.shape)), PATIENT).await)?;
        self.id = made.volume.unwrap_or_default().volume_id;
        if self.world.node.ground.copies() {
            let cut =
                sure(self.wire().snapshot(requests::snapshot(&self.cut_name, &self.id), PATIENT).await)?;
            self.cut = cut.snapshot.unwrap_or_default().snapshot_id;
            if !state.cut {
                sure(self.wire().forget(requests::forget(&self.cut), PATIENT).await)?;
            }
        }
        if let Some(from) = state.copy {
            sure(self.wire().create(self.copy(from), PATIENT).await)?;
        }
        if !state.exists {
            sure(self.wire().delete(requests::delete(&self.id), PATIENT).await)?;
        }
        if state.staged {
            sure(self.wire().stage(requests::stage(&self.id, self.shape, &self.spot), PATIENT).await)?;
        }
        if state.published {
            sure(self.wire().publish(requests::publish(&self.id, self.shape, &self.spot), PATIENT).await)?;
        }
        if state.size > size(self.shape) {
            sure(self.wire().expand(self.larger(), PATIENT).await)?;
        }
        Ok(())
    }
}

fn sure<T>(answer: Answer<T>) -> Outcome<T> {
    match answer {
        Answer::Done(done) => Ok(done),
        Answer::Refused(code, message) | Answer::Open(code, message) => {
            Err(format!("a call on a quiet volume: {code:?} {message}").into())
        }
    }
}
