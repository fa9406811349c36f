//! How the acts of a life are done: what each needs first, and what others do to the node.

use std::os::unix::fs::FileExt;
use std::process::Command;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rockpool::os::mount;
use rockpool::proto::csi;

use crate::Outcome;
use crate::host::run;
use crate::lifecycle::{Parent, size};
use crate::model::{Is, Volume};
use crate::requests::{self, Origin};
use crate::straits::Tracer;
use crate::wire::{Answer, PATIENT};
use crate::world::World;

/// The first bytes of a filesystem, its superblock among them.
const HEAD: usize = 64 * 1024;
const SECONDS: usize = 25;
const MOMENT: Duration = Duration::from_millis(25);

impl World {
    pub(crate) async fn attempt_use(&self, volume: &mut Volume) {
        if volume.exists == Is::Yes && volume.staged != Is::Yes {
            self.stage(volume, PATIENT).await;
        }
        if volume.staged == Is::Yes && volume.published != Is::Yes {
            self.publish(volume, PATIENT).await;
        }
    }

    pub(crate) async fn attempt_leave(&self, volume: &mut Volume) {
        if volume.published != Is::No {
            self.unpublish(volume, PATIENT).await;
        }
        if volume.staged != Is::No && volume.published == Is::No {
            self.unstage(volume, PATIENT).await;
        }
    }

    pub(crate) async fn attempt_restore(&self, number: usize, from: usize) {
        let snapshot = self.snapshots[from].lock().await;
        let (Some(id), Some(of)) = (snapshot.id.clone(), &snapshot.of) else { return };
        let from = Parent { origin: Origin::Snapshot(id), size: of.size, slots: snapshot.slots.copied() };
        self.make(&mut *self.volumes[number].lock().await, Some(from), PATIENT).await;
    }

    pub(crate) async fn attempt_clone(&self, number: usize, of: usize) {
        let source = self.volumes[of].lock().await;
        let Some(id) = source.id.clone() else { return };
        let from = Parent { origin: Origin::Volume(id), size: source.size.1, slots: source.slots.copied() };
        self.make(&mut *self.volumes[number].lock().await, Some(from), PATIENT).await;
    }

    pub(crate) async fn attempt_group(&self, one: usize, two: usize) {
        let mut group = self.group.lock().await;
        let sources = vec![self.volumes[one].lock().await.id(), self.volumes[two].lock().await.id()];
        let name = group.name.clone();
        let request =
            csi::CreateVolumeGroupSnapshotRequest { name, source_volume_ids: sources, ..Default::default() };
        match self.node.wire.group(request, PATIENT).await {
            Answer::Done(answer) => {
                let made = answer.group_snapshot.unwrap_or_default();
                if made.snapshots.len() != 2 || !made.ready_to_use {
                    self.violation(format!("a group of {} snapshots", made.snapshots.len()));
                }
                group.members = made.snapshots.into_iter().map(|snapshot| snapshot.snapshot_id).collect();
                (group.exists, group.id) = (Some(Is::Yes), Some(made.group_snapshot_id));
            }
            Answer::Open(..) => group.exists = Some(Is::Maybe),
            Answer::Refused(code, message) => self.refused("CreateVolumeGroupSnapshot", code, &message),
        }
    }

    pub(crate) async fn attempt_disband(&self) {
        let mut group = self.group.lock().await;
        let request = csi::DeleteVolumeGroupSnapshotRequest {
            group_snapshot_id: group.id.clone().unwrap_or_default(),
            snapshot_ids: group.members.clone(),
            ..Default::default()
        };
        match self.node.wire.disband(request, PATIENT).await {
            Answer::Done(_) => {
                (group.exists, group.id) = (Some(Is::No), None);
                group.members.clear();
            }
            Answer::Open(..) => group.exists = Some(Is::Maybe),
            Answer::Refused(code, message) => self.refused("DeleteVolumeGroupSnapshot", code, &message),
        }
    }

    /// Unstage while a process holds the staged directory: it must not say OK while the mount stays.
    pub(crate) async fn attempt_busy_staging(&self, volume: &mut Volume) -> Outcome<()> {
        self.unpublish(volume, PATIENT).await;
        let held = std::fs::File::open(&volume.spot.staging)?;
        let answer = self.node.wire.unstage(requests::unstage(&volume.id(), &volume.spot), PATIENT).await;
        let mounted = mount::table()?.iter().any(|mount| mount.point == volume.spot.staging);
        drop(held);
        if matches!(answer, Answer::Done(_)) || !mounted {
            self.violation(format!(
                "unstage of a busy volume: {answer:?}, mounted: {mounted}: {}",
                volume.story()
            ));
        }
        Ok(())
    }

    /// Overwrites the superblock of a volume at rest, and puts it back when stage has refused it.
    pub(crate) async fn attempt_spoiled(&self, volume: &mut Volume) -> Outcome<()> {
        let image = self.node.pool().join("volumes").join(volume.id());
        let file = std::fs::OpenOptions::new().read(true).write(true).open(image)?;
        let mut good = vec![0; HEAD];
        file.read_exact_at(&mut good, 0)?;
        let mut spoiled = good.clone();
        spoiled[1024..2048].fill(0);
        file.write_all_at(&spoiled, 0)?;
        file.sync_all()?;
        let answer =
            self.node.wire.stage(requests::stage(&volume.id(), volume.shape, &volume.spot), PATIENT).await;
        let mut found = vec![0; HEAD];
        file.read_exact_at(&mut found, 0)?;
        if found != spoiled {
            self.violation(format!("stage wrote to a filesystem that it could not read: {}", volume.story()));
        }
        if let Answer::Done(_) = answer {
            self.violation(format!("stage of a filesystem that cannot be read says OK: {}", volume.story()));
            self.unstage(volume, PATIENT).await;
        }
        file.write_all_at(&good, 0)?;
        file.sync_all()?;
        Ok(())
    }

    /// Marks the filesystem of a volume at rest as one in which the kernel met errors.
    pub(crate) fn attempt_ailing(&self, volume: &mut Volume) -> Outcome<()> {
        let image = self.node.pool().join("volumes").join(volume.id());
        run(Command::new("debugfs").args(["-w", "-R", "set_super_value state 2"]).arg(image))?;
        volume.note("its filesystem has errors".to_owned());
        Ok(())
    }

    /// Unmounts a target behind the driver's back and leaves a file there, which must survive.
    pub(crate) async fn attempt_squatted(&self, volume: &mut Volume) -> Outcome<()> {
        let target = volume.spot.target.clone();
        mount::unmount_path(&target)?;
        let kept = target.join("kept");
        std::fs::write(&kept, "somebody's")?;
        let answer = self.node.wire.unpublish(requests::unpublish(&volume.id(), &volume.spot), PATIENT).await;
        if !kept.exists() {
            self.violation(format!("unpublish deleted what was not its own: {}", volume.story()));
        } else {
            std::fs::remove_file(&kept)?;
            if let Answer::Done(_) = answer {
                self.violation(format!("unpublish of a target that stays says OK: {}", volume.story()));
            }
        }
        volume.published = Is::Maybe;
        Ok(())
    }

    /// Makes a volume while every fsync fails and none reaches the disk, so that a cut of power loses all of it.
    pub(crate) async fn attempt_unflushed(&self, volume: &mut Volume) -> Outcome<()> {
        let tracer = Tracer::at(self, &["-e", "trace=fsync", "-e", "inject=fsync:error=EIO"])?;
        let request = requests::create(&volume.name, (volume.shape, size(volume.shape)), None);
        volume.request = Some(request.clone());
        let answer = self.node.wire.create(request, PATIENT).await;
        if let Answer::Refused(code, message) = &answer {
            // What may be refused when a disk fails, if nothing was done.
            volume.note(format!("refused on a disk that fails: {code:?} {message}"));
            volume.gone();
        } else {
            self.made(volume, answer);
        }
        drop(tracer);
        Ok(())
    }

    /// Makes and removes a volume while other drivers try for the same pool.
    pub(crate) async fn attempt_beside_another(&self, number: usize) -> Outcome<()> {
        let over = std::sync::atomic::AtomicBool::new(false);
        let others = async {
            for _ in 0..SECONDS {
                let mut other = self.node.program.command()?.spawn()?;
                tokio::time::sleep(MOMENT).await;
                other.kill()?;
                other.wait()?;
            }
            over.store(true, Ordering::Relaxed);
            Outcome::Ok(())
        };
        let mut volume = self.volumes[number].lock().await;
        let work = async {
            while !over.load(Ordering::Relaxed) && self.violations().is_empty() {
                match (volume.exists, volume.in_doubt()) {
                    (_, true) => self.settle(&mut volume, true).await,
                    (Is::Yes, _) => self.remove(&mut volume, PATIENT).await,
                    (_, _) => self.make(&mut volume, None, PATIENT).await,
                }
            }
        };
        tokio::join!(others, work).0
    }
}
