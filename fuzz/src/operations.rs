//! A sequence of calls, with verbs of the pools that fail, drivers that die and disks that go.
//!
//! Owns: what an answer means for what comes next. Never: takes an answer for right that the model does not allow.
//!
//! A code that says "over" must be true: nothing of the call may be left. One that says "ask again" leaves it open, so the same call is made
//! again, now without a fault, and then must end as if nothing had befallen it. After every call all that is listed, promised
//! and written is compared with the model.

mod aim;
mod calls;
mod model;
mod plan;
mod view;
mod world;

use std::collections::BTreeMap;

use arbitrary::Unstructured;
use rockpool::proto::csi;
use tonic::{Code, Status};

use self::aim::pick;
use self::calls::{Answer, Wanted};
use self::model::{Asked, Cut, Group, Life, Model, Object, Volume};
use self::plan::{Call, MOST, Step, Then, Which};
use self::view::View;
use self::world::World;
use crate::faulty::Fault;

/// Codes that say nothing about the outcome.
const OPEN: [Code; 2] = [Code::Unavailable, Code::Aborted];
/// How often a call without a fault may be made until it has an answer.
const TRIES: usize = 3;

/// Makes the calls, one after the other.
///
/// # Panics
/// Where an answer, or what is there, is not what the model says.
pub fn check(data: &[u8]) {
    let mut bytes = Unstructured::new(data);
    let mut run = Run { world: World::new(), model: Model::default() };
    for _ in 0..MOST {
        if bytes.is_empty() {
            break;
        }
        let Ok(step) = bytes.arbitrary::<Step>() else { break };
        run.step(step);
    }
    run.end();
}

struct Run {
    world: World,
    model: Model,
}

impl Run {
    fn step(&mut self, step: Step) {
        match step.call {
            Call::Restart => self.world.restart(),
            Call::Pull(which) => self.world.pull(which),
            Call::Plug(which) => self.world.plug(which),
            Call::Write { volume, block, byte } => return self.write(volume, block, byte),
            Call::List(size) => return self.world.check_pages(&self.model, size),
            Call::Capacity => return self.world.check_capacity(&self.model),
            Call::Create(_)
            | Call::Delete(_)
            | Call::Expand { .. }
            | Call::Cut { .. }
            | Call::DeleteCut(_)
            | Call::Group { .. }
            | Call::DeleteGroup { .. }
            | Call::Restore { .. }
            | Call::Purge(_) => {
                if let Some(wanted) = self.wanted(step.call) {
                    self.call(&wanted, step.mishap);
                }
            }
        }
        self.world.check(&self.model);
    }

    /// One call until its outcome is known.
    fn call(&mut self, wanted: &Wanted, mishap: Option<(Which, Fault, Then)>) {
        let reasons = self.reasons(wanted);
        self.world.arm(mishap.map(|(which, fault, _)| (which, fault)));
        let answer = self.world.send(&self.model, wanted);
        let (fired, died) = self.world.disarm();
        match &answer {
            Ok(answer) => {
                assert!(reasons.is_empty(), "{wanted:?} is OK, want {reasons:?}");
                self.apply(wanted, answer);
            }
            Err(status) if OPEN.contains(&status.code()) => {
                let away = self.world.any_away();
                assert!(fired || away, "{wanted:?}: nothing befell it, but: {status:?}");
                let restarts = died || mishap.is_some_and(|(.., then)| then == Then::Restart);
                let found = (fired && restarts).then(|| self.restart());
                if fired {
                    self.finish(wanted, &reasons);
                }
                if let Some((before, found)) = found {
                    let is_whole = found == before || found == View::of(&self.model);
                    assert!(is_whole, "{wanted:?}: the start finished a part of it: {found:?} of {before:?}");
                }
            }
            Err(status) => {
                let code = status.code();
                // Where no pool is asked for, one that is away may be passed over for one that has no room.
                let excused = self.world.any_away() && matches!(wanted, Wanted::Create { .. });
                assert!(
                    fired || excused || reasons.contains(&code),
                    "{wanted:?}: {code:?}, want {reasons:?}: {status:?}"
                );
            }
        }
        assert!(!died || answer.is_err(), "{wanted:?}: a dead driver answers");
        if died && answer.is_err_and(|status| !OPEN.contains(&status.code())) {
            panic!("{wanted:?}: a dead driver says that it is over");
        }
    }

    /// What was there before the driver starts anew, and what it finds: an interrupted call was done, or never made.
    fn restart(&mut self) -> (View, View) {
        let before = View::of(&self.model);
        self.world.restart();
        (before, self.world.look())
    }

    /// The same call again, now that nothing befalls it, ends as if nothing had.
    fn finish(&mut self, wanted: &Wanted, reasons: &[Code]) {
        // What is restored already cannot be restored again.
        if let Wanted::Restore(object, name) = wanted
            && reasons.is_empty()
            && self.world.is_restored(&self.model, *object)
        {
            return self.apply(wanted, &Answer::Name(name.clone()));
        }
        for _ in 0..TRIES {
            match self.world.send(&self.model, wanted) {
                Ok(answer) => {
                    assert!(reasons.is_empty(), "{wanted:?} is OK at last, want {reasons:?}");
                    return self.apply(wanted, &answer);
                }
                Err(status) if OPEN.contains(&status.code()) => {
                    if self.world.any_away() {
                        self.world.plug(Which::Fast);
                        self.world.plug(Which::Small);
                    }
                }
                Err(status) => {
                    assert!(
                        reasons.contains(&status.code()),
                        "{wanted:?} at last: {status:?}, want {reasons:?}"
                    );
                    return;
                }
            }
        }
        panic!("{wanted:?}: it never ends");
    }

    /// What speaks against a call.
    fn reasons(&self, wanted: &Wanted) -> Vec<Code> {
        let model = &self.model;
        match wanted {
            Wanted::Create { name, asked, pool, mib, limit } => {
                model.create(name, asked, *pool, (*mib, *limit)).0
            }
            Wanted::Delete(_) => vec![],
            Wanted::Expand(volume, mib, limit) => model.expand(*volume, *mib, *limit).0,
            Wanted::Cut { name, of, is_kept } => model.cut(name, *of, *is_kept),
            Wanted::DeleteCut(cut) => model.delete_cut(*cut),
            Wanted::Group { name, of, is_kept } => model.group(name, of, *is_kept),
            Wanted::DeleteGroup(group, with_others) => model.delete_group(*group, *with_others),
            Wanted::Restore(object, name) => model.restore(*object, name),
            Wanted::Purge(object) => model.purge(*object),
        }
    }

    /// What an answer says is there from now on.
    fn apply(&mut self, wanted: &Wanted, answer: &Answer) {
        match (wanted, answer) {
            (Wanted::Create { name, asked, pool, mib, limit }, Answer::Volume(made)) => {
                let (_, size) = self.model.create(name, asked, *pool, (*mib, *limit));
                self.created(name, asked, (*mib, size), made);
            }
            (Wanted::Delete(volume), _) => {
                let one = &mut self.model.volumes[*volume];
                if one.life == Life::Here {
                    one.life = if one.asked.parameters.contains_key("retainDeleted") {
                        Life::Kept
                    } else {
                        Life::Gone
                    };
                }
            }
            (Wanted::Expand(volume, mib, limit), Answer::Size(bytes)) => {
                let (_, size) = self.model.expand(*volume, *mib, *limit);
                assert_eq!(*bytes, model::size(size).as_i64(), "{wanted:?}");
                let one = &mut self.model.volumes[*volume];
                if size > one.mib {
                    (one.mib, one.wanted) = (size, size);
                }
            }
            (Wanted::Cut { name, of, is_kept }, Answer::Cut(made)) => self.cut(name, *of, *is_kept, made),
            (Wanted::DeleteCut(cut), _) => {
                let one = &mut self.model.cuts[*cut];
                if one.group.is_none() && one.life == Life::Here {
                    one.life = if one.is_kept { Life::Kept } else { Life::Gone };
                }
            }
            (Wanted::Group { name, of, is_kept }, Answer::Group(made)) => {
                self.grouped(name, of, *is_kept, made)
            }
            (Wanted::DeleteGroup(group, _), _) => {
                let one = &mut self.model.groups[*group];
                if one.life == Life::Here {
                    one.life = if one.is_kept { Life::Kept } else { Life::Gone };
                }
            }
            (Wanted::Restore(object, name), Answer::Name(told)) => {
                assert_eq!(name, told);
                match object {
                    Object::Volume(n) => {
                        (self.model.volumes[*n].life, self.model.volumes[*n].name) =
                            (Life::Here, name.clone())
                    }
                    Object::Cut(n) => {
                        (self.model.cuts[*n].life, self.model.cuts[*n].name) = (Life::Here, name.clone())
                    }
                    Object::Group(n) => {
                        (self.model.groups[*n].life, self.model.groups[*n].name) = (Life::Here, name.clone())
                    }
                }
            }
            (Wanted::Purge(object), _) => match object {
                Object::Volume(n) => self.model.volumes[*n].life = Life::Gone,
                Object::Cut(n) if self.model.cuts[*n].group.is_none() => {
                    self.model.cuts[*n].life = Life::Gone
                }
                Object::Cut(_) => {}
                Object::Group(n) => self.model.groups[*n].life = Life::Gone,
            },
            (_, answer) => panic!("{wanted:?} answers {answer:?}"),
        }
    }

    fn created(&mut self, name: &str, asked: &Asked, (wanted, mib): (u64, u64), made: &csi::Volume) {
        assert_eq!(made.capacity_bytes, model::size(mib).as_i64(), "{name}: its size");
        if let Some(have) = self.model.named(name) {
            return assert_eq!(self.model.volumes[have].id, made.volume_id, "a name has another volume");
        }
        let pool = self.world.pool_of(&made.volume_id);
        assert!(mib * (1 << 20) <= self.model.free(pool), "{name} breaks a promise");
        let content = asked
            .from
            .and_then(|from| self.model.origin(from))
            .map_or_else(BTreeMap::new, |(content, ..)| content);
        let old = self.model.volumes.iter().any(|volume| volume.id == made.volume_id);
        assert!(!old, "{}: an id is used again", made.volume_id);
        let (id, name, asked) = (made.volume_id.clone(), name.to_owned(), asked.clone());
        let wanted = if wanted == 0 { mib } else { wanted };
        self.model.volumes.push(Volume { id, name, pool, mib, wanted, asked, content, life: Life::Here });
    }

    fn cut(&mut self, name: &str, of: usize, is_kept: bool, made: &csi::Snapshot) {
        assert!(made.ready_to_use && made.group_snapshot_id.is_empty());
        if let Some(have) = self.model.cut_named(name) {
            return assert_eq!(self.model.cuts[have].id, made.snapshot_id, "a name has another snapshot");
        }
        let cut = self.cut_of(made, name, of, is_kept);
        self.model.cuts.push(cut);
    }

    fn cut_of(&self, made: &csi::Snapshot, name: &str, of: usize, is_kept: bool) -> Cut {
        let volume = &self.model.volumes[of];
        assert_eq!(
            (&made.source_volume_id, made.size_bytes),
            (&volume.id, model::size(volume.wanted).as_i64())
        );
        Cut {
            id: made.snapshot_id.clone(),
            name: name.to_owned(),
            pool: volume.pool,
            of,
            mib: volume.mib,
            is_block: volume.asked.is_block,
            is_kept,
            content: volume.content.clone(),
            group: None,
            life: Life::Here,
        }
    }

    fn grouped(&mut self, name: &str, of: &[usize], is_kept: bool, made: &csi::VolumeGroupSnapshot) {
        assert!(made.ready_to_use && made.snapshots.len() == of.len());
        if let Some(have) = self.model.group_named(name) {
            return assert_eq!(
                self.model.groups[have].id, made.group_snapshot_id,
                "a name has another group"
            );
        }
        let group = self.model.groups.len();
        let mut members = Vec::new();
        for snapshot in &made.snapshots {
            let source = of.iter().find(|n| self.model.volumes[**n].id == snapshot.source_volume_id);
            let cut = self.cut_of(
                snapshot,
                &snapshot.snapshot_id,
                *source.expect("of one that was asked for"),
                is_kept,
            );
            members.push(self.model.cuts.len());
            self.model.cuts.push(Cut { group: Some(group), ..cut });
        }
        let (id, name, of) = (made.group_snapshot_id.clone(), name.to_owned(), of.to_vec());
        self.model.groups.push(Group { id, name, of, members, is_kept, life: Life::Here });
    }

    /// A workload writes where its volume is: what was promised is there.
    fn write(&mut self, volume: u8, block: u8, byte: u8) {
        let Some(one) = pick(volume, self.model.volumes.len()).map(|n| &mut self.model.volumes[n]) else {
            return;
        };
        if one.life == Life::Here {
            self.world.write(one, block, byte);
            one.content.insert(block, byte);
        }
    }

    /// All disks are back, and what is there can be removed until nothing is left.
    fn end(mut self) {
        self.world.plug(Which::Fast);
        self.world.plug(Which::Small);
        let all = [self.model.volumes.len(), self.model.cuts.len(), self.model.groups.len()];
        let deletes = (0..all[2])
            .map(|n| Wanted::DeleteGroup(n, false))
            .chain((0..all[1]).filter(|n| self.model.cuts[*n].group.is_none()).map(Wanted::DeleteCut))
            .chain((0..all[0]).map(Wanted::Delete))
            .collect::<Vec<_>>();
        let objects = (0..all[2]).map(Object::Group).chain((0..all[1]).map(Object::Cut));
        let objects = objects.chain((0..all[0]).map(Object::Volume)).map(Wanted::Purge);
        for wanted in deletes.into_iter().chain(objects.collect::<Vec<_>>()) {
            self.call(&wanted, None);
        }
        self.world.check(&self.model);
        self.world.end();
    }
}

/// What became of a call.
type Outcome = Result<Answer, Status>;
