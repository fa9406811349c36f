//! Small lives, written down: what the exhaustive parts break at every step.
//!
//! Owns: the acts and the lives. An act says what must hold after it, so it can be tried again after any fault, as a caller does.

use std::sync::PoisonError;

use crate::Outcome;
use crate::content::Sync;
use crate::lifecycle::size;
use crate::model::{Is, Volume};
use crate::node::Ground;
use crate::wire::PATIENT;
use crate::world::World;

/// The volumes of a life, by what they are.
const A: usize = 0;
const B: usize = 1;
const RAW: usize = 2;
const XFS: usize = 7;
/// How many names a life needs.
pub(crate) const VOLUMES: usize = 8;

/// One act. Numbers are those of volumes and snapshots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    Make(usize),
    /// A volume from a snapshot.
    Restore(usize, usize),
    /// A volume from a volume.
    Twin(usize, usize),
    Use(usize),
    Write(usize, usize),
    Verify(usize),
    Leave(usize),
    Remove(usize),
    /// A volume that is kept for a while when it is deleted.
    MakeKept(usize),
    /// Its delete.
    Keep(usize),
    /// What is kept becomes again what it was.
    Undelete(usize),
    /// What is kept goes for good.
    Purge(usize),
    /// The filesystem of a volume at rest says that the kernel met errors in it: stage checks it first.
    Ail(usize),
    Grow(usize),
    Cut(usize, usize),
    Forget(usize),
    /// A group snapshot of two volumes.
    Group(usize, usize),
    Disband,
    /// SIGTERM and a new start.
    Restart,
    /// The superblock is overwritten: stage must refuse it and leave it as it is.
    Spoil(usize),
    /// Somebody unmounts a target and puts a file there: unpublish must leave it.
    Squat(usize),
    /// A process keeps a file open in the target.
    Busy(usize),
    /// A process keeps a file open where it is staged.
    BusyStaging(usize),
    /// A delete while it is used.
    RemoveUsed(usize),
    /// The same create several times at once.
    Storm(usize),
    /// A second driver is started on the same pool, and gives up.
    Second(usize),
    /// The same create once more, which changes nothing.
    Again(usize),
    /// The same name with another size, which is refused.
    Other(usize),
    /// A delete of its earlier life arrives late.
    Late(usize),
    /// The power goes after everything was answered.
    Dark,
    /// No fsync succeeds or reaches the disk while a volume is made; then the power goes, before the disk is well again.
    Unflushed(usize),
    /// The driver ends, and its pool is unmounted under the volumes that are in use; the next one mounts it anew.
    Remount,
}

/// A life.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Life {
    pub(crate) name: &'static str,
    /// The first driver is killed at this step; the life goes on with the next one.
    pub(crate) debris: Option<&'static str>,
    pub(crate) acts: &'static [Act],
    /// Whether it needs snapshots.
    pub(crate) copies: bool,
    /// Whether it needs images.
    pub(crate) images: bool,
    /// Whether it needs directories.
    pub(crate) directories: bool,
}

use Act::*;

const fn life(name: &'static str, acts: &'static [Act]) -> Life {
    Life { name, debris: None, acts, copies: false, images: false, directories: false }
}

const fn after(name: &'static str, debris: &'static str, acts: &'static [Act]) -> Life {
    Life { name, debris: Some(debris), acts, copies: false, images: false, directories: false }
}

impl Life {
    const fn images(mut self) -> Life {
        self.images = true;
        self
    }

    const fn copies(mut self) -> Life {
        self.copies = true;
        self
    }

    const fn directories(mut self) -> Life {
        self.directories = true;
        self
    }

    /// Whether a ground can live it.
    pub(crate) fn fits(&self, ground: Ground) -> bool {
        (!self.copies || ground.copies())
            && (!self.images || ground != Ground::Directory)
            && (!self.directories || ground == Ground::Directory)
    }
}

const SIMPLE: &[Act] = &[Make(A), Use(A), Write(A, 0), Verify(A), Leave(A), Remove(A)];

/// All lives.
pub(crate) const LIVES: &[Life] = &[
    life("a volume lives", SIMPLE),
    life("a name is used again", &[Make(A), Remove(A), Make(A), Use(A), Verify(A), Leave(A), Remove(A)]),
    life("a raw volume lives", &[Make(RAW), Use(RAW), Write(RAW, 1), Verify(RAW), Leave(RAW), Remove(RAW)])
        .images(),
    life("an xfs volume lives", &[Make(XFS), Use(XFS), Write(XFS, 0), Verify(XFS), Leave(XFS), Remove(XFS)])
        .copies(),
    life("a volume grows at rest", &[Make(A), Grow(A), Use(A), Write(A, 0), Verify(A), Leave(A), Remove(A)]),
    life(
        "a raw volume grows in use",
        &[Make(RAW), Use(RAW), Write(RAW, 0), Grow(RAW), Verify(RAW), Leave(RAW), Remove(RAW)],
    )
    .images(),
    life(
        "an xfs volume grows in use",
        &[Make(XFS), Use(XFS), Write(XFS, 0), Grow(XFS), Verify(XFS), Leave(XFS), Remove(XFS)],
    )
    .copies(),
    life(
        "a driver restarts midway",
        &[Make(A), Use(A), Write(A, 0), Restart, Verify(A), Leave(A), Restart, Remove(A)],
    ),
    life(
        "a snapshot outlives its volume",
        &[
            Make(A),
            Use(A),
            Write(A, 0),
            Cut(A, 0),
            Write(A, 0),
            Leave(A),
            Remove(A),
            Restore(B, 0),
            Use(B),
            Verify(B),
            Leave(B),
            Remove(B),
            Forget(0),
        ],
    )
    .copies(),
    life(
        "a clone goes its own way",
        &[
            Make(A),
            Use(A),
            Write(A, 1),
            Twin(B, A),
            Write(A, 1),
            Use(B),
            Verify(B),
            Write(B, 1),
            Verify(A),
            Leave(B),
            Remove(B),
            Verify(A),
            Leave(A),
            Remove(A),
        ],
    )
    .copies(),
    life(
        "a group is cut and removed",
        &[
            Make(A),
            Make(B),
            Use(A),
            Use(B),
            Write(A, 0),
            Write(B, 0),
            Group(A, B),
            Write(A, 0),
            Verify(A),
            Verify(B),
            Disband,
            Leave(A),
            Leave(B),
            Remove(A),
            Remove(B),
        ],
    )
    .copies(),
    life(
        "two volumes side by side",
        &[
            Make(A),
            Make(B),
            Use(A),
            Use(B),
            Write(A, 0),
            Write(B, 0),
            Verify(A),
            Leave(A),
            Remove(A),
            Verify(B),
            Leave(B),
            Remove(B),
        ],
    ),
    life(
        "a volume is deleted by mistake",
        &[
            MakeKept(A),
            Use(A),
            Write(A, 0),
            Leave(A),
            Keep(A),
            Undelete(A),
            Use(A),
            Verify(A),
            Leave(A),
            Keep(A),
            Purge(A),
        ],
    ),
    life(
        "a filesystem with errors is checked",
        &[Make(A), Use(A), Write(A, 0), Leave(A), Ail(A), Use(A), Verify(A), Leave(A), Remove(A)],
    )
    .images(),
    after("after a kill in create", "create: bytes made#1", SIMPLE),
    after("after a kill before the object is placed", "object: filled#1", SIMPLE).images(),
    after("after a kill before the directory is placed", "directory: synced#1", SIMPLE).directories(),
    after("after a kill while a record is written", "replace: written#2", SIMPLE),
    after("after a kill in delete", "delete: condemned#1", &[Make(A), Remove(A)]),
    after("after a kill with the bytes gone", "destroy: bytes gone#1", &[Make(A), Remove(A)]),
    after(
        "after a kill while a directory is removed",
        "directory: moved away#1",
        &[Make(A), Use(A), Write(A, 0), Leave(A), Remove(A)],
    )
    .directories(),
    after("after a kill in expand", "expand: recorded#1", &[Make(A), Grow(A), Use(A), Leave(A), Remove(A)]),
    after(
        "after a kill with the image longer",
        "image: longer#1",
        &[Make(A), Grow(A), Use(A), Leave(A), Remove(A)],
    )
    .images(),
    after("after a kill in snapshot", "snapshot: cut#1", &[Make(A), Cut(A, 0), Forget(0), Remove(A)])
        .copies(),
    after(
        "after a kill in a frozen group",
        "group: frozen#1",
        &[
            Make(A),
            Make(B),
            Use(A),
            Use(B),
            Group(A, B),
            Write(A, 0),
            Disband,
            Leave(A),
            Leave(B),
            Remove(A),
            Remove(B),
        ],
    )
    .copies(),
    after(
        "after a kill in stage",
        "stage: mounted out of sight#1",
        &[Make(A), Use(A), Write(A, 0), Leave(A), Remove(A)],
    )
    .images(),
];

/// Lives in which somebody else does what he should not.
pub(crate) const TRICKS: &[Life] = &[
    life(
        "a superblock is overwritten",
        &[Make(A), Use(A), Write(A, 0), Leave(A), Spoil(A), Use(A), Verify(A), Leave(A), Remove(A)],
    )
    .images(),
    life("a squatter in a target", &[Make(A), Use(A), Squat(A), Leave(A), Remove(A)]),
    life(
        "a busy target",
        &[
            Make(A),
            Use(A),
            Write(A, 0),
            Busy(A),
            Verify(A),
            BusyStaging(A),
            Verify(A),
            RemoveUsed(A),
            Verify(A),
            Leave(A),
            Remove(A),
        ],
    ),
    life(
        "storms",
        &[
            Storm(A),
            Remove(A),
            Storm(A),
            Remove(A),
            Storm(B),
            Storm(A),
            Remove(A),
            Remove(B),
            Storm(RAW),
            Remove(RAW),
        ],
    ),
    life("a second driver", &[Second(A), Make(A), Use(A), Write(A, 0), Verify(A), Leave(A), Remove(A)]),
    life(
        "a name is asked for again",
        &[
            Make(A),
            Remove(A),
            Make(A),
            Late(A),
            Restart,
            Again(A),
            Other(A),
            Use(A),
            Verify(A),
            Leave(A),
            Remove(A),
        ],
    ),
    life(
        "answered, and then dark",
        &[
            Make(A),
            Dark,
            Use(A),
            Write(A, 0),
            Dark,
            Verify(A),
            Leave(A),
            Grow(A),
            Dark,
            Use(A),
            Verify(A),
            Leave(A),
            Remove(A),
            Dark,
        ],
    ),
    life(
        "a disk that fails, and then dark",
        // Nothing but the driver itself syncs a raw volume: a program that makes a filesystem would tell of the error.
        &[Unflushed(RAW), Make(RAW), Use(RAW), Write(RAW, 0), Verify(RAW), Leave(RAW), Remove(RAW)],
    )
    .images(),
    life(
        "a pool is mounted anew below its volumes",
        &[
            Make(A),
            Make(RAW),
            Use(A),
            Use(RAW),
            Write(A, 0),
            Write(RAW, 1),
            Remount,
            Verify(A),
            Verify(RAW),
            Leave(A),
            Leave(RAW),
            Remove(A),
            Remove(RAW),
        ],
    )
    .copies(),
    life(
        "cut, and then dark",
        &[
            Make(A),
            Use(A),
            Write(A, 0),
            Cut(A, 0),
            Dark,
            Restore(B, 0),
            Dark,
            Use(B),
            Verify(B),
            Leave(B),
            Remove(B),
            Forget(0),
            Remove(A),
            Dark,
        ],
    )
    .copies(),
    life(
        "a cut of unsynced bytes",
        &[
            Make(A),
            Use(A),
            Write(A, 2),
            Cut(A, 0),
            Restore(B, 0),
            Use(B),
            Verify(B),
            Leave(B),
            Remove(B),
            Leave(A),
            Remove(A),
            Forget(0),
        ],
    )
    .copies(),
];

impl World {
    /// Whether what an act is for holds.
    pub(crate) async fn holds(&self, act: Act) -> bool {
        let is = |volume: &Volume, exists| volume.exists == exists && !volume.in_doubt();
        match act {
            Make(v) | MakeKept(v) | Undelete(v) | Storm(v) | Restore(v, _) | Twin(v, _) => {
                is(&*self.volumes[v].lock().await, Is::Yes)
            }
            Use(v) => self.volumes[v].lock().await.published == Is::Yes,
            Leave(v) => {
                let volume = self.volumes[v].lock().await;
                (volume.staged, volume.published) == (Is::No, Is::No)
            }
            Remove(v) | Keep(v) => is(&*self.volumes[v].lock().await, Is::No),
            Purge(_) => self.kept.lock().unwrap_or_else(PoisonError::into_inner).is_empty(),
            Grow(v) => {
                let volume = self.volumes[v].lock().await;
                volume.size.0 > size(volume.shape) && volume.size.0 == volume.size.1
            }
            Cut(_, s) => self.snapshots[s].lock().await.exists == Is::Yes,
            Forget(s) => self.snapshots[s].lock().await.exists == Is::No,
            Group(..) => self.group.lock().await.exists == Some(Is::Yes),
            Disband => self.group.lock().await.exists.unwrap_or(Is::No) == Is::No,
            Write(..) | Verify(_) | Restart | Spoil(_) | Squat(_) | Busy(_) | BusyStaging(_)
            | RemoveUsed(_) | Second(_) | Again(_) | Other(_) | Late(_) | Dark | Unflushed(_) | Remount
            | Ail(_) => false,
        }
    }

    /// Tries an act once, with what it needs before it.
    pub(crate) async fn attempt(&self, act: Act) -> Outcome<()> {
        match act {
            Make(v) => self.make(&mut *self.volumes[v].lock().await, None, PATIENT).await,
            Storm(v) => self.storm(&mut *self.volumes[v].lock().await).await,
            Restore(v, s) => self.attempt_restore(v, s).await,
            Twin(v, of) => self.attempt_clone(v, of).await,
            Use(v) => self.attempt_use(&mut *self.volumes[v].lock().await).await,
            Leave(v) => self.attempt_leave(&mut *self.volumes[v].lock().await).await,
            Remove(v) => {
                let mut volume = self.volumes[v].lock().await;
                self.attempt_leave(&mut volume).await;
                if (volume.staged, volume.published) == (Is::No, Is::No) && volume.id.is_some() {
                    self.remove(&mut volume, PATIENT).await;
                }
            }
            MakeKept(v) => self.attempt_make_kept(&mut *self.volumes[v].lock().await).await,
            Keep(v) => self.attempt_keep(&mut *self.volumes[v].lock().await).await,
            Undelete(v) => self.attempt_undelete(&mut *self.volumes[v].lock().await).await,
            Purge(v) => self.attempt_purge(&mut *self.volumes[v].lock().await).await,
            Ail(v) => self.attempt_ailing(&mut *self.volumes[v].lock().await)?,
            Grow(v) => self.grow(&mut *self.volumes[v].lock().await, PATIENT).await,
            Cut(v, s) => {
                let mut volume = self.volumes[v].lock().await;
                self.cut(&mut *self.snapshots[s].lock().await, (v, &mut *volume), PATIENT).await;
            }
            Forget(s) => self.forget(&mut *self.snapshots[s].lock().await, PATIENT).await,
            Group(one, two) => self.attempt_group(one, two).await,
            Disband => self.attempt_disband().await,
            Write(v, slot) => {
                let mut volume = self.volumes[v].lock().await;
                self.attempt_use(&mut volume).await;
                if volume.published == Is::Yes {
                    // The last slot is the one that nobody syncs.
                    let sync = if slot == 2 { Sync::No } else { Sync::Yes };
                    self.write(&mut volume, slot, sync).await;
                }
            }
            Verify(v) => {
                let mut volume = self.volumes[v].lock().await;
                self.attempt_use(&mut volume).await;
                if volume.published == Is::Yes {
                    self.verify(&mut volume).await;
                }
            }
            Spoil(v) => self.attempt_spoiled(&mut *self.volumes[v].lock().await).await?,
            Squat(v) => self.attempt_squatted(&mut *self.volumes[v].lock().await).await?,
            BusyStaging(v) => self.attempt_busy_staging(&mut *self.volumes[v].lock().await).await?,
            Busy(v) => self.unpublish_busy(&mut *self.volumes[v].lock().await).await,
            RemoveUsed(v) => self.remove_used(&mut *self.volumes[v].lock().await).await,
            Second(v) => self.attempt_beside_another(v).await?,
            Again(v) => self.make(&mut *self.volumes[v].lock().await, None, PATIENT).await,
            Other(v) => self.make_other(&mut *self.volumes[v].lock().await).await,
            Late(v) => self.remove_past(&mut *self.volumes[v].lock().await).await,
            // Whoever runs the life does these.
            Restart | Dark | Unflushed(_) | Remount => {}
        }
        Ok(())
    }
}
