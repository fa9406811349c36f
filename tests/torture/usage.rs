//! The use of a volume: stage, publish, write, verify, and back. Each call is judged by what must be there.

use std::fs::File;
use std::time::Duration;

use rockpool::os::mount;
use rockpool::proto::csi;
use std::sync::atomic::Ordering;
use tonic::Code;

use crate::content::{self, Content, Sync};
use crate::meanwhile::Io;
use crate::model::{Intent, Is, Volume};
use crate::requests::{self, Shape};
use crate::wire::{Answer, PATIENT};
use crate::world::{World, outcome};

/// How long a workload's file system may take.
const DISK: Duration = Duration::from_secs(30);

impl World {
    pub(crate) async fn stage(&self, volume: &mut Volume, patience: Duration) {
        let request = requests::stage(&volume.id(), volume.shape, &volume.spot);
        let answer = self.node.wire.stage(request, patience).await;
        volume.note(format!("stage {}", outcome(&answer)));
        match answer {
            Answer::Done(_) => volume.staged = Is::Yes,
            Answer::Open(..) if volume.staged == Is::Yes => {}
            Answer::Open(..) => volume.staged = Is::Maybe,
            Answer::Refused(code, message) => self.unjustified("NodeStageVolume", volume, code, &message),
        }
    }

    pub(crate) async fn publish(&self, volume: &mut Volume, patience: Duration) {
        let request = requests::publish(&volume.id(), volume.shape, &volume.spot);
        let answer = self.node.wire.publish(request, patience).await;
        self.published(volume, answer);
    }

    /// Judges an answer to NodePublishVolume.
    pub(crate) fn published(&self, volume: &mut Volume, answer: Answer<csi::NodePublishVolumeResponse>) {
        volume.note(format!("publish {}", outcome(&answer)));
        match answer {
            Answer::Done(_) => {
                volume.published = Is::Yes;
                let target = &volume.spot.target;
                let shown = mount::table().unwrap_or_default();
                let count = shown.iter().filter(|mount| mount.point == *target).count();
                if count != 1 {
                    self.violation(format!("published, and {count} mounts are there: {}", volume.story()));
                }
            }
            Answer::Open(..) if volume.published == Is::Yes => {}
            Answer::Open(..) => volume.published = Is::Maybe,
            Answer::Refused(code, message) => self.unjustified("NodePublishVolume", volume, code, &message),
        }
    }

    pub(crate) async fn unpublish(&self, volume: &mut Volume, patience: Duration) {
        let request = requests::unpublish(&volume.id(), &volume.spot);
        let answer = self.node.wire.unpublish(request, patience).await;
        volume.note(format!("unpublish {}", outcome(&answer)));
        match answer {
            Answer::Done(_) => {
                volume.published = Is::No;
                if std::fs::symlink_metadata(&volume.spot.target).is_ok() {
                    self.violation(format!("unpublished, and the target is there: {}", volume.story()));
                }
            }
            Answer::Open(..) => volume.published = Is::Maybe,
            Answer::Refused(code, message) => {
                self.unjustified("NodeUnpublishVolume", volume, code, &message);
                volume.published = Is::Maybe;
            }
        }
    }

    pub(crate) async fn unstage(&self, volume: &mut Volume, patience: Duration) {
        let request = requests::unstage(&volume.id(), &volume.spot);
        let answer = self.node.wire.unstage(request, patience).await;
        volume.note(format!("unstage {}", outcome(&answer)));
        match answer {
            Answer::Done(_) => {
                volume.staged = Is::No;
                if std::fs::read_dir(&volume.spot.staging).is_ok_and(|mut entries| entries.next().is_some()) {
                    self.violation(format!("unstaged, and something is there: {}", volume.story()));
                }
            }
            Answer::Open(..) => volume.staged = Is::Maybe,
            Answer::Refused(code, message) => {
                self.unjustified("NodeUnstageVolume", volume, code, &message);
                volume.staged = Is::Maybe;
            }
        }
    }

    /// Unstage while published: refused.
    pub(crate) async fn unstage_used(&self, volume: &mut Volume) {
        let answer = self.node.wire.unstage(requests::unstage(&volume.id(), &volume.spot), PATIENT).await;
        volume.note(format!("unstage while used {}", outcome(&answer)));
        match answer {
            Answer::Refused(Code::FailedPrecondition, _) | Answer::Open(..) => {}
            Answer::Refused(code, message) => {
                self.unjustified("NodeUnstageVolume in use", volume, code, &message)
            }
            Answer::Done(_) => {
                self.violation(format!(
                    "NodeUnstageVolume of a published volume says OK: {}",
                    volume.story()
                ));
            }
        }
    }

    /// Unpublish while a process holds a file open: it must not say OK, and the mount must stay.
    pub(crate) async fn unpublish_busy(&self, volume: &mut Volume) {
        // A raw device is not kept by whoever holds it open: that is the device, not its bound node.
        let Ok(held) = File::open(&volume.spot.target) else { return };
        if volume.shape == Shape::Block {
            return;
        }
        let answer = self.node.wire.unpublish(requests::unpublish(&volume.id(), &volume.spot), PATIENT).await;
        volume.note(format!("unpublish while open {}", outcome(&answer)));
        let mounted =
            mount::table().unwrap_or_default().iter().any(|mount| mount.point == volume.spot.target);
        drop(held);
        match answer {
            Answer::Open(..) if mounted => {}
            // The driver may have died after the check, before an unmount that came later.
            Answer::Open(..) => volume.published = Is::Maybe,
            Answer::Refused(code, message) => {
                self.unjustified("NodeUnpublishVolume of a busy target", volume, code, &message)
            }
            Answer::Done(_) => {
                self.violation(format!("NodeUnpublishVolume of a busy target says OK: {}", volume.story()));
                volume.published = Is::Maybe;
            }
        }
    }

    /// Writes a slot, synced in most cases.
    pub(crate) async fn write(&self, volume: &mut Volume, slot: usize, sync: Sync) {
        let seed = self.fresh_seed();
        let sync = self.node.wire.meanwhile.sync(sync);
        let place = content::place(&volume.spot.target, volume.shape == Shape::Block, slot);
        let job = tokio::task::spawn_blocking(move || content::write(&place, seed, sync));
        let done = tokio::time::timeout(DISK, job).await;
        match done {
            Ok(Ok(Ok(()))) => {
                self.counts.written.fetch_add(1, Ordering::Relaxed);
                volume.slots.0[slot].written(seed);
                if sync == Sync::Yes {
                    volume.slots.0[slot].synced();
                }
                volume.note(format!("write {slot} {sync:?} {seed:x}"));
            }
            Ok(Ok(Err(error))) => {
                volume.note(format!("write {slot} failed: {error}"));
                volume.slots.0[slot].write_failed();
                self.io_error("write", volume, &error);
            }
            Ok(Err(_)) | Err(_) => {
                volume.slots.0[slot].torn();
                self.violation(format!("a write hangs: {}", volume.story()));
            }
        }
    }

    /// A workload's I/O fails only because its disk's power was cut, or the pool lets nobody write.
    fn io_error(&self, what: &str, volume: &Volume, error: &std::io::Error) {
        if self.node.wire.meanwhile.io() == Io::MayFail {
            return;
        }
        if !self.node.is_dark() {
            self.violation(format!("a {what} failed: {error}: {}", volume.story()));
        }
    }

    /// Reads all slots.
    pub(crate) async fn verify(&self, volume: &mut Volume) {
        for slot in 0..volume.slots.0.len() {
            let place = content::place(&volume.spot.target, volume.shape == Shape::Block, slot);
            let job = tokio::task::spawn_blocking(move || content::read(&place));
            match tokio::time::timeout(DISK, job).await {
                Ok(Ok(Ok(found))) if !self.node.is_cut() => self.judge(volume, slot, found),
                Ok(Ok(Ok(_))) => {}
                Ok(Ok(Err(error))) => self.io_error("read", volume, &error),
                Ok(Err(_)) | Err(_) => self.violation(format!("a read hangs: {}", volume.story())),
            }
        }
    }

    fn judge(&self, volume: &mut Volume, slot: usize, found: Content) {
        self.counts.verified.fetch_add(1, Ordering::Relaxed);
        let slots = &mut volume.slots.0;
        let fits = match self.node.wire.meanwhile.io() {
            Io::Whole => slots[slot].accepts(found),
            Io::MayFail => slots[slot].may_show(found),
        };
        if !fits {
            let want = volume.slots.0[slot].clone();
            self.violation(format!("slot {slot} holds {found:x?}, not {want:x?}: {}", volume.story()));
            volume.slots.0[slot].torn();
        }
    }

    /// Takes a volume out of doubt as far as one call can.
    pub(crate) async fn settle(&self, volume: &mut Volume, forward: bool) {
        match (volume.published, volume.staged, volume.exists) {
            (Is::Maybe, _, _) if forward && volume.staged == Is::Yes => self.publish(volume, PATIENT).await,
            (Is::Maybe, _, _) => self.unpublish(volume, PATIENT).await,
            (_, Is::Maybe, _) if forward => self.stage(volume, PATIENT).await,
            (_, Is::Maybe, _) => self.unstage(volume, PATIENT).await,
            (_, _, Is::Maybe) => match volume.intent {
                Intent::Make => self.make(volume, None, PATIENT).await,
                Intent::Remove => self.remove(volume, PATIENT).await,
                Intent::None => self.violation(format!("in doubt without a reason: {}", volume.story())),
            },
            (_, _, _) => {}
        }
    }
}
