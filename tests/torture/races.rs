//! Every pair of mutating calls on one volume, raced: what comes of it must be explainable as one after the other.
//!
//! Owns: the sequential model of one volume and its snapshot, and the search for an order that explains two answers and what is
//! there afterwards. ABORTED says that nothing was done; what says "unknown" may have been done or not.

use std::path::{Path, PathBuf};

use rockpool::proto::csi;
use serde_json::json;
use tonic::Code;

use crate::Outcome;
use crate::breaks::Stage;
use crate::facts::Facts;
use crate::grounds::on_each;
use crate::lifecycle::size;
use crate::node::Ground;
use crate::options::Options;
use crate::report::Report;
use crate::requests::{self, Shape, Spot};
use crate::wire::{Answer, PATIENT, Wire};
use crate::world::World;

const MIB: i64 = 1 << 20;

/// A volume, as far as races matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct State {
    exists: bool,
    /// Whether it has the id that the callers know; a volume that was made during the race has another.
    known: bool,
    staged: bool,
    published: bool,
    size: i64,
    cut: bool,
    known_cut: bool,
}

/// A mutating call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    Create,
    CreateOther,
    Delete,
    Stage,
    Unstage,
    Publish,
    Unpublish,
    Expand,
    Snapshot,
    Forget,
}

const CALLS: [Call; 10] = [
    Call::Create,
    Call::CreateOther,
    Call::Delete,
    Call::Stage,
    Call::Unstage,
    Call::Publish,
    Call::Unpublish,
    Call::Expand,
    Call::Snapshot,
    Call::Forget,
];

const NAME: &str = "raced";
const CUT: &str = "raced-cut";

/// The one volume that is raced for, and its ids as the caller knows them.
struct Object<'a> {
    world: &'a World,
    shape: Shape,
    spot: Spot,
    id: String,
    cut: String,
}

/// All grounds, side by side.
pub(crate) async fn part(options: &Options, report: &mut Report) -> Outcome<()> {
    let part = |base: PathBuf, ground, options| async move { ground_part(&base, ground, &options).await };
    on_each(options, part, |ground, (races, pairs, violations)| {
        println!("races {}: {races} of {pairs} pairs, {} violations", ground.name(), violations.len());
        let part = json!({
            "part": "races", "ground": ground.name(), "races": races, "pairs": pairs, "violations": violations.len(),
        });
        report.add(part, violations);
    })
    .await
}

async fn ground_part(base: &Path, ground: Ground, options: &Options) -> Outcome<(usize, usize, Vec<String>)> {
    let stage = Stage::new(base, (ground, &options.plain), Vec::new()).await?;
    let world = &stage.world;
    world.node.start().await?;
    let shape = ground.shape(0);
    let mut object =
        Object { world, shape, spot: world.node.spot(NAME)?, id: String::new(), cut: String::new() };
    let (mut races, mut pairs) = (0, 0);
    let began = std::time::Instant::now();
    while began.elapsed() < options.lasts && world.violations().is_empty() {
        pairs = 0;
        for begin in starts(shape, ground) {
            for (number, one) in CALLS.iter().enumerate() {
                for two in &CALLS[number..] {
                    let copies = [one, two].iter().any(|call| matches!(call, Call::Snapshot | Call::Forget));
                    if copies && !ground.copies() {
                        continue;
                    }
                    object.race(begin, *one, *two).await?;
                    (races, pairs) = (races + 1, pairs + 1);
                }
            }
        }
    }
    object.reset().await?;
    world.node.terminate()?;
    Ok((races, pairs, world.violations()))
}

fn starts(shape: Shape, ground: Ground) -> Vec<State> {
    let absent = State {
        exists: false,
        known: false,
        staged: false,
        published: false,
        size: 0,
        cut: false,
        known_cut: false,
    };
    let there = State { exists: true, known: true, size: size(shape), ..absent };
    let staged = State { staged: true, ..there };
    let published = State { published: true, ..staged };
    let mut all = vec![absent, there, staged, published];
    if ground.copies() {
        all.push(State { cut: true, known_cut: true, ..there });
    }
    all
}

/// What a call answers and does when it has the volume for itself. `None`: OK, else the code of the refusal.
fn alone(state: State, call: Call, base: i64) -> (Option<Code>, State) {
    let other = base + 64 * MIB;
    match call {
        Call::Create if !state.exists => (None, State { exists: true, known: false, size: base, ..state }),
        Call::Create => (None, state),
        Call::CreateOther if !state.exists => {
            (None, State { exists: true, known: false, size: other, ..state })
        }
        Call::CreateOther if state.size >= other => (None, state),
        Call::CreateOther => (Some(Code::AlreadyExists), state),
        Call::Delete if !state.known => (None, state),
        Call::Delete if state.staged || state.published => (Some(Code::FailedPrecondition), state),
        Call::Delete => (None, State { exists: false, known: false, size: 0, ..state }),
        Call::Stage | Call::Publish | Call::Expand if !state.known => (Some(Code::NotFound), state),
        Call::Stage => (None, State { staged: true, ..state }),
        Call::Publish if !state.staged => (Some(Code::FailedPrecondition), state),
        Call::Publish => (None, State { published: true, ..state }),
        Call::Unpublish => (None, State { published: false, ..state }),
        Call::Unstage if state.published => (Some(Code::FailedPrecondition), state),
        Call::Unstage => (None, State { staged: false, ..state }),
        Call::Expand => (None, State { size: state.size.max(base + 4 * MIB), ..state }),
        Call::Snapshot if state.cut => (None, state),
        Call::Snapshot if !state.known => (Some(Code::NotFound), state),
        Call::Snapshot => (None, State { cut: true, known_cut: false, ..state }),
        Call::Forget if !state.known_cut => (None, state),
        Call::Forget => (None, State { cut: false, known_cut: false, ..state }),
    }
}

/// What one answer allows: that the call did its work with this answer, that it did nothing, or either.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Said {
    Done,
    Refused(Code),
    Nothing,
    Unknown,
}

impl Said {
    fn of<T>(answer: &Answer<T>) -> Said {
        match answer {
            Answer::Done(_) => Said::Done,
            Answer::Refused(code, _) => Said::Refused(*code),
            Answer::Open(Code::Aborted, _) => Said::Nothing,
            Answer::Open(..) => Said::Unknown,
        }
    }
}

/// Whether some order explains both answers and what is there in the end.
fn explained(begin: State, calls: [(Call, &Said); 2], end: State, base: i64) -> bool {
    let [first, second] = calls;
    [[first, second], [second, first]].iter().any(|order| {
        let mut states = vec![begin];
        for (call, said) in order {
            states = states.iter().flat_map(|state| steps(*state, *call, said, base)).collect();
        }
        states.contains(&end)
    })
}

fn steps(state: State, call: Call, said: &Said, base: i64) -> Vec<State> {
    let (refused, next) = alone(state, call, base);
    match (said, refused) {
        (Said::Done, None) => vec![next],
        (Said::Refused(code), Some(want)) if *code == want => vec![state],
        (Said::Done | Said::Refused(_), _) => Vec::new(),
        (Said::Nothing, _) => vec![state],
        (Said::Unknown, _) => vec![state, next],
    }
}

impl Object<'_> {
    async fn race(&mut self, begin: State, one: Call, two: Call) -> Outcome<()> {
        self.reset().await?;
        self.bring_to(begin).await?;
        let (said_one, said_two) = tokio::join!(self.call(one), self.call(two));
        let end = self.look()?;
        let calls = [(one, &said_one), (two, &said_two)];
        if !explained(begin, calls, end, size(self.shape)) {
            self.world.violation(format!("no order explains {calls:?} from {begin:?} to {end:?}"));
        }
        Ok(())
    }

    fn wire(&self) -> &Wire {
        &self.world.node.wire
    }

    async fn call(&self, call: Call) -> Said {
        let (wire, base) = (self.wire(), size(self.shape));
        match call {
            Call::Create => {
                Said::of(&wire.create(requests::create(NAME, (self.shape, base), None), PATIENT).await)
            }
            Call::CreateOther => {
                let request = requests::create(NAME, (self.shape, base + 64 * MIB), None);
                Said::of(&wire.create(request, PATIENT).await)
            }
            Call::Delete => Said::of(&wire.delete(requests::delete(&self.id), PATIENT).await),
            Call::Stage => {
                Said::of(&wire.stage(requests::stage(&self.id, self.shape, &self.spot), PATIENT).await)
            }
            Call::Unstage => Said::of(&wire.unstage(requests::unstage(&self.id, &self.spot), PATIENT).await),
            Call::Publish => {
                Said::of(&wire.publish(requests::publish(&self.id, self.shape, &self.spot), PATIENT).await)
            }
            Call::Unpublish => {
                Said::of(&wire.unpublish(requests::unpublish(&self.id, &self.spot), PATIENT).await)
            }
            Call::Expand => {
                let request = csi::ControllerExpandVolumeRequest {
                    volume_id: self.id.clone(),
                    capacity_range: Some(csi::CapacityRange {
                        required_bytes: base + 4 * MIB,
                        limit_bytes: 0,
                    }),
                    ..Default::default()
                };
                Said::of(&wire.expand(request, PATIENT).await)
            }
            Call::Snapshot => Said::of(&wire.snapshot(requests::snapshot(CUT, &self.id), PATIENT).await),
            Call::Forget => Said::of(&wire.forget(requests::forget(&self.cut), PATIENT).await),
        }
    }

    /// What is there.
    fn look(&self) -> Outcome<State> {
        let facts = Facts::of(&self.world.node)?;
        let of = |kind: &str, name: &str| {
            facts.records.values().filter(|r| r.kind == kind && r.name == name).count()
        };
        if of("volume", NAME) > 1
            || of("snapshot", CUT) > 1
            || facts.records.values().any(|record| !record.ready)
        {
            self.world.violation(format!("a race left {:?}", facts.records));
        }
        let named = |kind: &str, name: &str| {
            facts.records.iter().find(|(_, record)| record.kind == kind && record.name == name)
        };
        let (volume, cut) = (named("volume", NAME), named("snapshot", CUT));
        let mounted = |path: &Path| facts.mounts_at(path).len() == 1;
        Ok(State {
            exists: volume.is_some(),
            known: volume.is_some_and(|(id, _)| *id == self.id),
            staged: mounted(&self.spot.staging),
            published: mounted(&self.spot.target),
            size: volume.map_or(0, |(_, volume)| volume.size),
            cut: cut.is_some(),
            known_cut: cut.is_some_and(|(id, _)| *id == self.cut),
        })
    }

    /// Nothing is there.
    async fn reset(&mut self) -> Outcome<()> {
        let facts = Facts::of(&self.world.node)?;
        for (id, record) in &facts.records {
            if record.kind == "volume" {
                sure(self.wire().unpublish(requests::unpublish(id, &self.spot), PATIENT).await)?;
                sure(self.wire().unstage(requests::unstage(id, &self.spot), PATIENT).await)?;
                sure(self.wire().delete(requests::delete(id), PATIENT).await)?;
            } else {
                sure(self.wire().forget(requests::forget(id), PATIENT).await)?;
            }
        }
        Ok(())
    }

    /// From nothing to a state; the ids of a volume and a snapshot that are gone stay in use by late calls.
    async fn bring_to(&mut self, state: State) -> Outcome<()> {
        let request = requests::create(NAME, (self.shape, size(self.shape)), None);
        let made = sure(self.wire().create(request, PATIENT).await)?;
        self.id = made.volume.unwrap_or_default().volume_id;
        if self.world.node.ground.copies() {
            let cut = sure(self.wire().snapshot(requests::snapshot(CUT, &self.id), PATIENT).await)?;
            self.cut = cut.snapshot.unwrap_or_default().snapshot_id;
            if !state.cut {
                sure(self.wire().forget(requests::forget(&self.cut), PATIENT).await)?;
            }
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
