//! Adversities of the disk: for a while the one below the pool answers with errors, or not at all.
//!
//! Owns: what that disk is told to do, and that it is well again in the end. Never: kills a driver that hangs with its disk, which
//! nobody can: that is a matter of `tests/process`.

use std::fs::File;
use std::path::Path;

use tonic::Code;

use crate::Outcome;
use crate::adversity::{Adversity, Comes, Goes, Trouble};
use crate::chance::Chance;
use crate::disk::{Call, Disk, Mood};
use crate::meanwhile::{ALL_CALLS, Allowance, GAVE_UP, Io, STRICT};
use crate::world::World;

/// Whatever reads or writes may fail, and is over only where nothing was done. A workload may fail as well.
const FAILING: Allowance =
    Allowance { refused: &[(ALL_CALLS, &[Code::Internal]), GAVE_UP], io: Io::MayFail, ..STRICT };

pub(crate) fn table() -> Vec<Adversity> {
    let sick = |name, comes, lasts, allowance, impose| Adversity {
        name,
        spared: |world| world.node.below().is_none().then_some("the pool lies in a plain file"),
        comes,
        goes: Goes::Midway,
        lasts,
        allowance,
        impose,
    };
    vec![
        sick("reads of the disk fail", Comes::Synced, (50, 3000), FAILING, |world, chance| {
            Failing::at(world, Call::Read, chance)
        }),
        sick("writes to the disk fail", Comes::Synced, (50, 3000), FAILING, |world, chance| {
            Failing::at(world, Call::Write, chance)
        }),
        sick("flushes of the disk fail", Comes::Synced, (50, 3000), FAILING, |world, chance| {
            Failing::at(world, Call::Flush, chance)
        }),
        sick("the disk hangs", Comes::Midway, (200, 4000), STRICT, |world, chance| {
            Hanging::at(world, chance)
        }),
    ]
}

type Imposed<'a> = Outcome<Option<Box<dyn Trouble + 'a>>>;

fn disk(world: &World) -> Outcome<&Disk> {
    world.node.below().ok_or_else(|| "the pool lies in a plain file".into())
}

/// A disk that answers some or all calls of a kind with EIO.
struct Failing<'a>(&'a Disk);

impl<'a> Failing<'a> {
    fn at(world: &'a World, call: Call, chance: &mut Chance) -> Imposed<'a> {
        let disk = disk(world)?;
        disk.set(call, Mood::Fails([100, 100, 30, 5][chance.below(4)]));
        Ok(Some(Box::new(Failing(disk))))
    }
}

impl Trouble for Failing<'_> {
    fn end(&mut self, world: &World) -> Outcome<()> {
        self.0.heal();
        // What the kernel failed to write back it tells once, to whoever asks first.
        let _ = File::open(world.node.pool()).map(rustix::fs::syncfs);
        Ok(())
    }

    /// A filesystem that failed to write its log stays shut down until somebody mounts it anew.
    fn needs_reboot(&self, world: &World) -> bool {
        takes_changes(world.node.pool()).is_err()
    }
}

impl Drop for Failing<'_> {
    fn drop(&mut self) {
        self.0.heal();
    }
}

/// Whether a new name and what it holds become durable now.
fn takes_changes(pool: &Path) -> std::io::Result<()> {
    let tried = pool.join("tried");
    let file = File::create(&tried)?;
    file.sync_all()?;
    std::fs::remove_file(&tried)?;
    File::open(pool)?.sync_all()
}

/// A disk that answers nothing, or nothing of a kind.
struct Hanging<'a>(&'a Disk);

impl<'a> Hanging<'a> {
    fn at(world: &'a World, chance: &mut Chance) -> Imposed<'a> {
        let disk = disk(world)?;
        let all = [&Call::ALL[..], &[Call::Read], &[Call::Write], &[Call::Flush]];
        for call in all[chance.below(all.len())] {
            disk.set(*call, Mood::Hangs);
        }
        Ok(Some(Box::new(Hanging(disk))))
    }
}

impl Trouble for Hanging<'_> {
    fn may_kill(&self) -> bool {
        false
    }

    fn end(&mut self, _: &World) -> Outcome<()> {
        self.0.heal();
        Ok(())
    }
}

impl Drop for Hanging<'_> {
    fn drop(&mut self) {
        self.0.heal();
    }
}
