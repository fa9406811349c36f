//! The life of a volume: make, remove, grow, copy. Each call is judged by what must be there.

use std::time::Duration;

use rockpool::proto::csi;
use tonic::Code;

use crate::model::{Cut, Intent, Is, Slot, Slots, Snapshot, Volume};
use crate::requests::{self, Origin, Shape, Spot};
use crate::wire::{Answer, PATIENT};
use crate::world::{World, outcome};

const MIB: i64 = 1 << 20;

/// The size of a new volume.
pub(crate) fn size(shape: Shape) -> i64 {
    match shape {
        Shape::Directory | Shape::Block => MIB,
        Shape::Ext4 => 16 * MIB,
        Shape::Xfs => 300 * MIB,
    }
}

/// NodeExpandVolume, where it is published.
pub(crate) fn expand_node(id: &str, shape: Shape, spot: &Spot) -> csi::NodeExpandVolumeRequest {
    csi::NodeExpandVolumeRequest {
        volume_id: id.to_owned(),
        volume_path: requests::text(&spot.target),
        staging_target_path: requests::text(&spot.staging),
        volume_capability: Some(shape.capability()),
        ..Default::default()
    }
}

/// What a new volume is made from, by the model.
pub(crate) struct Parent {
    pub(crate) origin: Origin,
    pub(crate) size: i64,
    pub(crate) slots: Slots,
}

impl World {
    /// Makes a volume that is not there, or tries again.
    pub(crate) async fn make(&self, volume: &mut Volume, from: Option<Parent>, patience: Duration) {
        if volume.request.is_none() {
            let wanted = from.as_ref().map_or(size(volume.shape), |from| from.size.max(size(volume.shape)));
            let slots = from.as_ref().map_or_else(Slots::blank, |from| from.slots.clone());
            let mut request =
                requests::create(&volume.name, (volume.shape, wanted), from.map(|from| from.origin));
            self.node.arrange(&mut request);
            (volume.request, volume.slots) = (Some(request), slots);
        }
        let Some(request) = volume.request.clone() else { return };
        let answer = self.node.wire.create(request, patience).await;
        self.made(volume, answer);
    }

    /// Judges an answer to CreateVolume.
    pub(crate) fn made(&self, volume: &mut Volume, answer: Answer<csi::CreateVolumeResponse>) {
        volume.note(format!("create {}", outcome(&answer)));
        match answer {
            Answer::Done(answer) => {
                let Some(made) = answer.volume else {
                    self.violation(format!("CreateVolume answers no volume: {}", volume.story()));
                    return;
                };
                if volume.past.contains(&made.volume_id) {
                    self.violation(format!("an old id came back: {} {}", made.volume_id, volume.story()));
                }
                let another = volume.exists == Is::Yes && volume.id.as_ref() != Some(&made.volume_id);
                if another && !self.node.may_be_twice(&volume.name) {
                    self.violation(format!(
                        "another id {} for the same name: {}",
                        made.volume_id,
                        volume.story()
                    ));
                }
                if volume.exists != Is::Yes {
                    volume.present(made.volume_id, made.capacity_bytes);
                }
            }
            Answer::Open(..) if volume.exists == Is::Yes => {}
            Answer::Open(..) => {
                (volume.exists, volume.intent) = (Is::Maybe, Intent::Make);
                if volume.is_twin() {
                    // Its source may be written before the retry, which then cuts it anew.
                    volume.slots.0.iter_mut().for_each(Slot::torn);
                }
            }
            Answer::Refused(code, message) => {
                let copied = volume.request.as_ref().is_some_and(|r| r.volume_content_source.is_some());
                // A retry may find its source removed, or grown beyond what the first try asked for.
                let source_changed = [Code::NotFound, Code::OutOfRange].contains(&code);
                let source_gone = copied && volume.exists == Is::Maybe && source_changed;
                let no_copies = copied && !self.node.ground.copies() && code == Code::FailedPrecondition
                    || copied && code == Code::InvalidArgument && !self.node.ground.copies();
                if !source_gone && !no_copies {
                    self.unjustified("CreateVolume", volume, code, &message);
                }
                if volume.exists != Is::Yes {
                    volume.gone();
                }
            }
        }
    }

    /// Removes a volume that nobody uses.
    pub(crate) async fn remove(&self, volume: &mut Volume, patience: Duration) {
        let answer = self.node.wire.delete(requests::delete(&volume.id()), patience).await;
        self.removed(volume, answer);
    }

    /// Judges an answer to DeleteVolume.
    pub(crate) fn removed(&self, volume: &mut Volume, answer: Answer<csi::DeleteVolumeResponse>) {
        volume.note(format!("delete {}", outcome(&answer)));
        match answer {
            Answer::Done(_) => volume.gone(),
            Answer::Open(..) => (volume.exists, volume.intent) = (Is::Maybe, Intent::Remove),
            Answer::Refused(code, message) => self.unjustified("DeleteVolume", volume, code, &message),
        }
    }

    /// Asks to remove a volume that is in use: it must be refused and stay.
    pub(crate) async fn remove_used(&self, volume: &mut Volume) {
        let answer = self.node.wire.delete(requests::delete(&volume.id()), PATIENT).await;
        volume.note(format!("delete while used {}", outcome(&answer)));
        match answer {
            Answer::Refused(Code::FailedPrecondition, _) | Answer::Open(..) => {}
            Answer::Refused(code, message) => self.unjustified("DeleteVolume in use", volume, code, &message),
            Answer::Done(_) => {
                self.violation(format!("DeleteVolume of a used volume says OK: {}", volume.story()));
                (volume.exists, volume.intent) = (Is::Maybe, Intent::Remove);
            }
        }
    }

    /// A delete of an earlier life that arrives late: it must change nothing.
    pub(crate) async fn remove_past(&self, volume: &mut Volume) {
        let Some(past) = volume.past.last().cloned() else { return };
        let answer = self.node.wire.delete(requests::delete(&past), PATIENT).await;
        volume.note(format!("late delete of {past} {}", outcome(&answer)));
        if let Answer::Refused(code, message) = answer {
            self.unjustified("DeleteVolume of a past id", volume, code, &message);
        }
    }

    /// The same name with another size: a conflict.
    pub(crate) async fn make_other(&self, volume: &mut Volume) {
        let Some(mut request) = volume.request.clone() else { return };
        let more = volume.size.1 + 64 * MIB;
        request.capacity_range = Some(csi::CapacityRange { required_bytes: more, limit_bytes: 0 });
        let answer = self.node.wire.create(request, PATIENT).await;
        volume.note(format!("create another {}", outcome(&answer)));
        match answer {
            Answer::Refused(Code::AlreadyExists, _) | Answer::Open(..) => {}
            Answer::Refused(code, message) => {
                self.unjustified("CreateVolume of a taken name", volume, code, &message)
            }
            Answer::Done(_) => {
                self.violation(format!("a taken name was given again: {}", volume.story()));
            }
        }
    }

    /// Grows a volume.
    pub(crate) async fn grow(&self, volume: &mut Volume, patience: Duration) {
        let wanted = volume.size.1.max(volume.size.0 + 4 * MIB);
        let request = csi::ControllerExpandVolumeRequest {
            volume_id: volume.id(),
            capacity_range: Some(csi::CapacityRange { required_bytes: wanted, limit_bytes: 0 }),
            volume_capability: Some(volume.shape.capability()),
            ..Default::default()
        };
        let answer = self.node.wire.expand(request, patience).await;
        volume.note(format!("expand to {wanted} {}", outcome(&answer)));
        match answer {
            Answer::Done(answer) => {
                if answer.capacity_bytes < wanted {
                    self.violation(format!("grown to {} only: {}", answer.capacity_bytes, volume.story()));
                }
                volume.size = (answer.capacity_bytes, answer.capacity_bytes);
                if volume.published == Is::Yes {
                    self.grow_node(volume, patience).await;
                }
            }
            Answer::Open(..) => volume.size.1 = wanted,
            Answer::Refused(code, message) => {
                self.unjustified("ControllerExpandVolume", volume, code, &message)
            }
        }
    }

    async fn grow_node(&self, volume: &mut Volume, patience: Duration) {
        let request = expand_node(&volume.id(), volume.shape, &volume.spot);
        let answer = self.node.wire.expand_node(request, patience).await;
        volume.note(format!("node expand {}", outcome(&answer)));
        match answer {
            Answer::Done(_) | Answer::Open(..) => {}
            // Where the process may not grow an ext4 in use, it grows at the next stage.
            Answer::Refused(Code::FailedPrecondition, _) if volume.shape == Shape::Ext4 => {}
            Answer::Refused(code, message) => self.unjustified("NodeExpandVolume", volume, code, &message),
        }
    }

    /// Cuts a snapshot of a volume, or tries again. The volume's lock is held, so nobody writes meanwhile.
    pub(crate) async fn cut(
        &self,
        snapshot: &mut Snapshot,
        (number, volume): (usize, &mut Volume),
        patience: Duration,
    ) {
        let of = snapshot.of.get_or_insert_with(|| Cut {
            number,
            id: volume.id(),
            shape: volume.shape,
            size: volume.size.1,
        });
        let source = of.id.clone();
        let same = volume.exists == Is::Yes && volume.id.as_ref() == Some(&source);
        if same {
            of.size = of.size.max(volume.size.1);
            match snapshot.exists {
                Is::No => snapshot.slots = volume.slots.copied(),
                Is::Maybe => snapshot.slots.or(&volume.slots.copied()),
                Is::Yes => {}
            }
        }
        let answer = self.node.wire.snapshot(requests::snapshot(&snapshot.name, &source), patience).await;
        volume.note(format!("snapshot {} {}", snapshot.name, outcome(&answer)));
        match answer {
            Answer::Done(answer) => {
                let cut = answer.snapshot.unwrap_or_default();
                if snapshot.exists == Is::Yes && snapshot.id.as_ref() != Some(&cut.snapshot_id) {
                    self.violation(format!("another id for {}: {}", snapshot.name, volume.story()));
                }
                if !cut.ready_to_use || cut.source_volume_id != source {
                    self.violation(format!(
                        "{} is not a cut of its source: {}",
                        snapshot.name,
                        volume.story()
                    ));
                }
                (snapshot.exists, snapshot.intent) = (Is::Yes, Intent::None);
                snapshot.id = Some(cut.snapshot_id);
            }
            Answer::Open(..) if snapshot.exists == Is::Yes => {}
            Answer::Open(..) => (snapshot.exists, snapshot.intent) = (Is::Maybe, Intent::Make),
            Answer::Refused(code, message) => {
                let lost = code == Code::NotFound && !same && snapshot.exists == Is::Maybe;
                let none = !self.node.ground.copies()
                    && matches!(code, Code::FailedPrecondition | Code::Unimplemented);
                if !lost && !none {
                    self.unjustified("CreateSnapshot", volume, code, &message);
                }
                snapshot.gone();
            }
        }
    }

    /// Removes a snapshot.
    pub(crate) async fn forget(&self, snapshot: &mut Snapshot, patience: Duration) {
        let id = snapshot.id.clone().unwrap_or_default();
        match self.node.wire.forget(requests::forget(&id), patience).await {
            Answer::Done(_) => snapshot.gone(),
            Answer::Open(..) => (snapshot.exists, snapshot.intent) = (Is::Maybe, Intent::Remove),
            Answer::Refused(code, message) => {
                self.refused(&format!("DeleteSnapshot {}", snapshot.name), code, &message);
            }
        }
    }

    /// Takes a snapshot out of doubt as far as one call can.
    pub(crate) async fn settle_snapshot(&self, snapshot: &mut Snapshot) {
        match (snapshot.intent, snapshot.of.clone()) {
            (Intent::Make, Some(of)) => {
                if let Ok(mut volume) = self.volumes[of.number].try_lock() {
                    self.cut(snapshot, (of.number, &mut *volume), PATIENT).await;
                }
            }
            (Intent::Remove, _) => self.forget(snapshot, PATIENT).await,
            (Intent::Make, None) | (Intent::None, _) => {}
        }
    }
}
