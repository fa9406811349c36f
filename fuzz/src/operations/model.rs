//! What must be there, by the answers so far.
//!
//! Owns: a small second implementation of what calls do to names, sizes, bytes and promises. Never: asks the program.

use std::collections::BTreeMap;

use rockpool::model::Bytes;
use tonic::Code::{
    self, AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, OutOfRange, ResourceExhausted,
};

/// How large the pools are, in MiB.
pub(super) const POOLS: [u64; 2] = [96, 40];
/// The size that nobody asked for.
const DEFAULT: u64 = 1024;
/// Blocks that are written are so large.
pub(super) const BLOCK: u64 = 4096;
const MIB: u64 = 1 << 20;

/// What was written, by the number of the block.
pub(super) type Content = BTreeMap<u8, u8>;

/// Whether an object is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Life {
    Here,
    /// Deleted, and kept for an operator.
    Kept,
    Gone,
}

#[derive(Clone, Debug)]
pub(super) struct Volume {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) pool: usize,
    pub(super) mib: u64,
    /// The size that it was asked for, where that was rounded up; else the same.
    pub(super) wanted: u64,
    pub(super) asked: Asked,
    pub(super) content: Content,
    pub(super) life: Life,
}

/// What CreateVolume is compared by.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Asked {
    pub(super) is_block: bool,
    pub(super) parameters: BTreeMap<String, String>,
    pub(super) from: Option<Origin>,
}

/// A source by its place among all volumes or all snapshots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    Volume(usize),
    Snapshot(usize),
    /// One that never was.
    Nothing,
}

#[derive(Clone, Debug)]
pub(super) struct Cut {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) pool: usize,
    pub(super) of: usize,
    pub(super) mib: u64,
    pub(super) is_block: bool,
    pub(super) is_kept: bool,
    pub(super) content: Content,
    pub(super) group: Option<usize>,
    pub(super) life: Life,
}

#[derive(Clone, Debug)]
pub(super) struct Group {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) of: Vec<usize>,
    pub(super) members: Vec<usize>,
    pub(super) is_kept: bool,
    pub(super) life: Life,
}

/// All that ever was.
#[derive(Clone, Debug, Default)]
pub(super) struct Model {
    pub(super) volumes: Vec<Volume>,
    pub(super) cuts: Vec<Cut>,
    pub(super) groups: Vec<Group>,
}

/// What a call must answer: OK where nothing speaks against it, else one of these.
pub(super) type Reasons = Vec<Code>;

impl Cut {
    pub(super) fn held(&self) -> u64 {
        self.content.len() as u64 * BLOCK
    }
}

impl Model {
    /// The volume that has a name.
    pub(super) fn named(&self, name: &str) -> Option<usize> {
        self.volumes.iter().position(|volume| volume.life == Life::Here && volume.name == name)
    }

    pub(super) fn cut_named(&self, name: &str) -> Option<usize> {
        self.cuts
            .iter()
            .position(|cut| self.cut_life(cut) == Life::Here && cut.group.is_none() && cut.name == name)
    }

    pub(super) fn group_named(&self, name: &str) -> Option<usize> {
        self.groups.iter().position(|group| group.life == Life::Here && group.name == name)
    }

    /// A member goes and stays with its group.
    pub(super) fn cut_life(&self, cut: &Cut) -> Life {
        cut.group.map_or(cut.life, |group| self.groups[group].life)
    }

    /// What a pool has promised, in bytes.
    pub(super) fn promised(&self, pool: usize) -> u64 {
        let volumes = self.volumes.iter().filter(|one| one.pool == pool && one.life != Life::Gone);
        let cuts = self.cuts.iter().filter(|one| one.pool == pool && self.cut_life(one) != Life::Gone);
        volumes.map(|one| one.mib * MIB).sum::<u64>() + cuts.map(Cut::held).sum::<u64>()
    }

    pub(super) fn free(&self, pool: usize) -> u64 {
        POOLS[pool] * MIB - self.promised(pool)
    }

    /// A source: what it holds, where, how large, and whether it is block; nothing where it is gone.
    pub(super) fn origin(&self, from: Origin) -> Option<(Content, usize, u64, bool)> {
        match from {
            Origin::Volume(n) => {
                let one = self.volumes.get(n).filter(|one| one.life == Life::Here)?;
                Some((one.content.clone(), one.pool, one.mib, one.asked.is_block))
            }
            Origin::Snapshot(n) => {
                let one = self.cuts.get(n).filter(|one| self.cut_life(one) == Life::Here)?;
                Some((one.content.clone(), one.pool, one.mib, one.is_block))
            }
            Origin::Nothing => None,
        }
    }

    /// What speaks against a creation, and the size that it leads to.
    pub(super) fn create(
        &self,
        name: &str,
        asked: &Asked,
        pool: Option<usize>,
        (mib, limit): (u64, Option<u64>),
    ) -> (Reasons, u64) {
        if limit.is_some_and(|limit| limit < mib) {
            return (vec![OutOfRange], 0);
        }
        if let Some(have) = self.named(name).map(|n| &self.volumes[n]) {
            let holds = have.mib >= mib && limit.is_none_or(|limit| have.mib <= limit);
            return (if holds && have.asked == *asked { vec![] } else { vec![AlreadyExists] }, have.mib);
        }
        let Some(from) = asked.from else {
            let least = smallest(asked.is_block);
            let size = match (mib, limit) {
                (0, None) => DEFAULT,
                (0, Some(limit)) => DEFAULT.min(limit).max(least),
                (mib, _) => mib.max(least),
            };
            let fits = |pool: usize| size * MIB <= self.free(pool);
            let refused = limit.is_some_and(|limit| size > limit);
            return match pool {
                _ if refused => (vec![OutOfRange], size),
                Some(pool) if size > POOLS[pool] => (vec![OutOfRange], size),
                Some(pool) if !fits(pool) => (vec![ResourceExhausted], size),
                None if !(0..2).any(fits) => (vec![ResourceExhausted, OutOfRange], size),
                Some(_) | None => (vec![], size),
            };
        };
        let Some((_, lies, least, is_block)) = self.origin(from) else { return (vec![NotFound], 0) };
        let mut reasons = Vec::new();
        if is_block != asked.is_block || pool.is_some_and(|pool| pool != lies) {
            reasons.push(InvalidArgument);
        }
        let size = mib.max(least);
        if (mib > 0 && mib.max(smallest(is_block)) < least)
            || limit.is_some_and(|limit| limit < size)
            || size > POOLS[lies]
        {
            reasons.push(OutOfRange);
        } else if size * MIB > self.free(lies) {
            reasons.push(ResourceExhausted);
        }
        (reasons, size)
    }

    /// What speaks against an expansion, and the size that it leads to.
    pub(super) fn expand(&self, volume: usize, mib: u64, limit: Option<u64>) -> (Reasons, u64) {
        let bad = limit.is_some_and(|limit| limit < mib);
        let Some(have) = self.volumes.get(volume).filter(|one| one.life == Life::Here) else {
            return (if bad { vec![OutOfRange, NotFound] } else { vec![NotFound] }, 0);
        };
        let size = mib.max(have.mib);
        if bad || limit.is_some_and(|limit| size > limit) || (size > have.mib && size > POOLS[have.pool]) {
            return (vec![OutOfRange], size);
        }
        let more = (size - have.mib) * MIB;
        (if more > self.free(have.pool) { vec![ResourceExhausted] } else { vec![] }, size)
    }

    pub(super) fn cut(&self, name: &str, of: usize, is_kept: bool) -> Reasons {
        if let Some(have) = self.cut_named(name).map(|n| &self.cuts[n]) {
            return if have.of == of && have.is_kept == is_kept { vec![] } else { vec![AlreadyExists] };
        }
        match self.volumes.get(of).filter(|one| one.life == Life::Here) {
            None => vec![NotFound],
            Some(volume) => self.room_for(volume.pool, [volume]),
        }
    }

    /// What a cut holds is promised when it is cut; one that holds nothing always fits.
    fn room_for<'a>(&self, pool: usize, of: impl IntoIterator<Item = &'a Volume>) -> Reasons {
        let held: u64 = of.into_iter().map(|volume| volume.content.len() as u64 * BLOCK).sum();
        if held > self.free(pool) { vec![ResourceExhausted] } else { vec![] }
    }

    pub(super) fn delete_cut(&self, cut: usize) -> Reasons {
        let member = self.cuts.get(cut).filter(|cut| cut.group.is_some());
        let is_here = member.is_some_and(|cut| self.cut_life(cut) == Life::Here);
        if is_here { vec![InvalidArgument] } else { vec![] }
    }

    pub(super) fn group(&self, name: &str, of: &[usize], is_kept: bool) -> Reasons {
        if of.len() == 2 && of[0] == of[1] {
            return vec![InvalidArgument];
        }
        if let Some(have) = self.group_named(name).map(|n| &self.groups[n]) {
            let (mut one, mut other) = (have.of.clone(), of.to_vec());
            one.sort_unstable();
            other.sort_unstable();
            return if one == other && have.is_kept == is_kept { vec![] } else { vec![AlreadyExists] };
        }
        let found: Option<Vec<&Volume>> =
            of.iter().map(|n| self.volumes.get(*n).filter(|one| one.life == Life::Here)).collect();
        match found.as_deref() {
            None => vec![NotFound],
            Some([one, other]) if one.pool != other.pool => vec![FailedPrecondition],
            Some(all) => self.room_for(all[0].pool, all.iter().copied()),
        }
    }

    pub(super) fn delete_group(&self, group: usize, with_others: bool) -> Reasons {
        let there = self.groups.get(group).is_some_and(|group| group.life != Life::Gone);
        if there && with_others { vec![InvalidArgument] } else { vec![] }
    }

    /// The object by its place among all: volumes, snapshots, groups.
    pub(super) fn object(&self, number: u8) -> Option<Object> {
        let all = self.volumes.len() + self.cuts.len() + self.groups.len();
        let n = usize::from(number).checked_rem(all)?;
        let (volumes, cuts) = (self.volumes.len(), self.cuts.len());
        Some(if n < volumes {
            Object::Volume(n)
        } else if n < volumes + cuts {
            Object::Cut(n - volumes)
        } else {
            Object::Group(n - volumes - cuts)
        })
    }

    pub(super) fn restore(&self, object: Object, name: &str) -> Reasons {
        let (own, taken) = match object {
            Object::Volume(n) => (self.volumes[n].life, self.named(name).is_some()),
            // Only a whole group comes back.
            Object::Cut(n) if self.cuts[n].group.is_some() => {
                let is_kept = self.cut_life(&self.cuts[n]) == Life::Kept;
                return vec![if is_kept { FailedPrecondition } else { NotFound }];
            }
            Object::Cut(n) => (self.cuts[n].life, self.cut_named(name).is_some()),
            Object::Group(n) => (self.groups[n].life, self.group_named(name).is_some()),
        };
        match own {
            Life::Kept if taken => vec![AlreadyExists],
            Life::Kept => vec![],
            Life::Here | Life::Gone => vec![NotFound],
        }
    }

    pub(super) fn purge(&self, object: Object) -> Reasons {
        let life = match object {
            Object::Volume(n) => self.volumes[n].life,
            // The record of a member does not say that its group is deleted.
            Object::Cut(n) if self.cuts[n].group.is_some() => match self.cut_life(&self.cuts[n]) {
                Life::Here | Life::Kept => Life::Here,
                Life::Gone => Life::Gone,
            },
            Object::Cut(n) => self.cuts[n].life,
            Object::Group(n) => self.groups[n].life,
        };
        if life == Life::Here { vec![FailedPrecondition] } else { vec![] }
    }

    pub(super) fn id(&self, object: Object) -> &str {
        match object {
            Object::Volume(n) => &self.volumes[n].id,
            Object::Cut(n) => &self.cuts[n].id,
            Object::Group(n) => &self.groups[n].id,
        }
    }

    pub(super) fn pool_of(&self, object: Object) -> usize {
        match object {
            Object::Volume(n) => self.volumes[n].pool,
            Object::Cut(n) => self.cuts[n].pool,
            Object::Group(n) => self.cuts[self.groups[n].members[0]].pool,
        }
    }
}

/// Something that has an id, by its place.
#[derive(Clone, Copy, Debug)]
pub(super) enum Object {
    Volume(usize),
    Cut(usize),
    Group(usize),
}

/// In MiB.
fn smallest(is_block: bool) -> u64 {
    if is_block { 1 } else { 16 }
}

pub(super) fn size(mib: u64) -> Bytes {
    Bytes::new(mib * MIB)
}
