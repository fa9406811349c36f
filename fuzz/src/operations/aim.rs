//! What a step of the plan is about.
//!
//! Owns: how its numbers become objects of the model. Never: makes a call.

use std::collections::BTreeMap;

use super::Run;
use super::calls::Wanted;
use super::model::{Asked, Object, Origin};
use super::plan::{Call, Create, From, Which};

impl Run {
    /// A call by what the model knows; none where there is nothing that it could be about.
    pub(super) fn wanted(&self, call: Call) -> Option<Wanted> {
        let (volumes, cuts, groups) =
            (self.model.volumes.len(), self.model.cuts.len(), self.model.groups.len());
        Some(match call {
            Call::Create(create) => self.creation(create),
            Call::Delete(n) => Wanted::Delete(pick(n, volumes)?),
            Call::Expand { volume, mib, limit } => {
                let limit = limit.filter(|limit| *limit > 0).map(u64::from);
                Wanted::Expand(pick(volume, volumes)?, u64::from(mib.max(1)), limit)
            }
            Call::Cut { name, of, is_kept } => {
                Wanted::Cut { name: format!("cut-{}", name % 3), of: pick(of, volumes)?, is_kept }
            }
            Call::DeleteCut(n) => Wanted::DeleteCut(pick(n, cuts)?),
            Call::Group { name, of: [one, other], is_kept } => {
                let mut of = vec![pick(one, volumes)?];
                of.extend(pick(other, volumes).filter(|_| other != u8::MAX));
                Wanted::Group { name: format!("group-{}", name % 2), of, is_kept }
            }
            Call::DeleteGroup { group, with_others } => {
                Wanted::DeleteGroup(pick(group, groups)?, with_others)
            }
            Call::Restore { object, other_name } => {
                let object = self.model.object(object)?;
                let own = match object {
                    Object::Volume(n) => &self.model.volumes[n].name,
                    Object::Cut(n) => &self.model.cuts[n].name,
                    Object::Group(n) => &self.model.groups[n].name,
                };
                let name = if other_name { format!("again-{}", own.len() % 2) } else { own.clone() };
                Wanted::Restore(object, name)
            }
            Call::Purge(n) => Wanted::Purge(self.model.object(n)?),
            Call::Write { .. }
            | Call::List(_)
            | Call::Capacity
            | Call::Restart
            | Call::Pull(_)
            | Call::Plug(_) => return None,
        })
    }

    fn creation(&self, create: Create) -> Wanted {
        let mut parameters = BTreeMap::new();
        let mut set = |key: &str, value: &str| drop(parameters.insert(key.to_owned(), value.to_owned()));
        if let Some(pool) = create.pool {
            set("pool", pool.name());
        }
        if create.is_reserved {
            set("allocation", "reserved");
        }
        if create.is_kept {
            set("retainDeleted", "1d");
        }
        let from = create.from.map(|from| match from {
            From::Volume(n) => pick(n, self.model.volumes.len()).map_or(Origin::Nothing, Origin::Volume),
            From::Snapshot(n) => pick(n, self.model.cuts.len()).map_or(Origin::Nothing, Origin::Snapshot),
        });
        Wanted::Create {
            name: format!("volume-{}", create.name % 4),
            asked: Asked { is_block: create.is_block, parameters, from },
            pool: create.pool.map(Which::index),
            mib: u64::from(create.mib % 48),
            limit: create.limit.filter(|limit| *limit > 0).map(u64::from),
        }
    }
}

pub(super) fn pick(number: u8, of: usize) -> Option<usize> {
    usize::from(number).checked_rem(of)
}
