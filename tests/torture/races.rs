//! Every pair of mutating calls on one volume, raced: what comes of it must be explainable as one after the other.
//!
//! Owns: how two calls meet, many times each: at once, one a little later, or one given up and the other asked for at once,
//! as a caller does who changed its mind. What an answer and an order mean is `orders`.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rockpool::proto::csi;
use serde_json::json;

use crate::Outcome;
use crate::breaks::Stage;
use crate::chance::Chance;
use crate::facts::{Facts, Record};
use crate::grounds::on_each;
use crate::lifecycle::size;
use crate::node::Ground;
use crate::options::Options;
use crate::orders::{CALLS, Call, From, MIB, Said, State, Told, explained, starts};
use crate::progress;
use crate::report::{self, Report};
use crate::requests::{self, Origin, Shape, Spot};
use crate::wire::{Answer, PATIENT, Wire};
use crate::world::World;

/// More than any pool holds.
const TOO_MUCH: i64 = 1 << 60;
/// So many of a hundred races have a caller who gives up.
const GIVEN_UP: usize = 35;
const SOONEST: Duration = Duration::from_micros(50);
/// Longer than any race.
const KEPT: &[(&str, &str)] = &[("retainDeleted", "1h")];
const LATEST: Duration = Duration::from_millis(25);

/// A volume that is raced for, and its ids as the caller knows them.
struct Object<'a> {
    world: &'a World,
    shape: Shape,
    name: String,
    cut_name: String,
    copy_name: String,
    spot: Spot,
    id: String,
    cut: String,
    /// The parameters of the volume.
    parameters: &'static [(&'static str, &'static str)],
}

/// One race, but for chance.
#[derive(Clone, Copy, Debug)]
struct Pair {
    begin: State,
    one: Call,
    two: Call,
}

/// What is raced on one ground, and how far it is.
struct Races<'a> {
    world: &'a World,
    pairs: Vec<Pair>,
    rounds: usize,
    seed: u64,
    ends: Instant,
    next: AtomicUsize,
    done: AtomicUsize,
}

/// What came of a ground.
struct Sum {
    races: usize,
    pairs: usize,
    seed: u64,
    seconds: f64,
    violations: Vec<String>,
}

/// All grounds, side by side.
pub(crate) async fn part(options: &Options, report: &mut Report) -> Outcome<()> {
    let part = |base: PathBuf, ground, options| async move { ground_part(&base, ground, &options).await };
    on_each(options, part, |ground, sum| {
        let Sum { races, pairs, seed, seconds, violations } = sum;
        let name = ground.name();
        let times = races / pairs.max(1);
        println!(
            "races {name}: {races} races in {seconds:.0} s, seed {seed}: each of {pairs} pairs at least {times} times, {} violations",
            violations.len()
        );
        let part = json!({
            "part": "races", "ground": name, "seed": seed, "seconds": seconds, "races": races, "pairs": pairs,
            "times_each": times, "violations": violations.len(),
        });
        report.add(part, violations);
    })
    .await
}

async fn ground_part(base: &Path, ground: Ground, options: &Options) -> Outcome<Sum> {
    let began = Instant::now();
    let stage = Stage::new(base, (ground, &options.plain), Vec::new()).await?;
    let world = &stage.world;
    world.node.start().await?;
    let races = Races {
        world,
        pairs: pairs(ground),
        rounds: options.rounds,
        seed: options.seed,
        ends: began + options.lasts,
        next: AtomicUsize::new(0),
        done: AtomicUsize::new(0),
    };
    progress::expect("races", races.pairs.len() * races.rounds);
    // Volumes that are raced for side by side.
    let (a, b, c, d) = tokio::join!(races.run(0), races.run(1), races.run(2), races.run(3));
    for error in [a, b, c, d].into_iter().filter_map(Result::err) {
        world.violation(format!("the races could not go on: {error}"));
    }
    report::keep_log(options, world)?;
    world.node.terminate()?;
    let (races, pairs) = (races.done.into_inner(), races.pairs.len());
    let seconds = began.elapsed().as_secs_f64();
    Ok(Sum { races, pairs, seed: options.seed, seconds, violations: world.violations() })
}

/// Every pair of calls from every state.
fn pairs(ground: Ground) -> Vec<Pair> {
    let mut all = Vec::new();
    for begin in starts(ground.shape(0), ground) {
        for (number, one) in CALLS.iter().enumerate() {
            let others = CALLS[number..].iter().map(|two| Pair { begin, one: *one, two: *two });
            let others = others.filter(|pair| ground.copies() || !(pair.one.copies() || pair.two.copies()));
            // What is kept is no matter of anybody else.
            all.extend(others.filter(|pair| begin.keeps == (pair.one.undoes() || pair.two.undoes())));
        }
    }
    all
}

impl Races<'_> {
    /// Takes races until there are none, or the time is over, or something was violated.
    async fn run(&self, lane: usize) -> Outcome<()> {
        let (name, shape) = (format!("raced-{lane}"), self.world.node.ground.shape(0));
        let spot = self.world.node.spot(&name)?;
        let (cut_name, copy_name) = (format!("{name}-cut"), format!("{name}-copy"));
        let (world, id, cut) = (self.world, String::new(), String::new());
        let mut object = Object { world, shape, name, cut_name, copy_name, spot, id, cut, parameters: &[] };
        while Instant::now() < self.ends && self.world.violations().is_empty() {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            if number >= self.pairs.len() * self.rounds {
                break;
            }
            let mut chance = Chance::new(self.seed, u64::try_from(number)?);
            object.race(self.pairs[number % self.pairs.len()], &mut chance).await?;
            self.done.fetch_add(1, Ordering::Relaxed);
            progress::one("races");
        }
        if self.world.violations().is_empty() { object.reset().await } else { Ok(()) }
    }
}

/// A moment, to less than the runtime's millisecond.
async fn pause(time: Duration) {
    let began = Instant::now();
    let whole = Duration::from_millis(u64::try_from(time.as_millis()).unwrap_or(0));
    if !whole.is_zero() {
        tokio::time::sleep(whole.saturating_sub(Duration::from_millis(1))).await;
    }
    while began.elapsed() < time {
        tokio::task::yield_now().await;
    }
}

impl Object<'_> {
    async fn race(&mut self, pair: Pair, chance: &mut Chance) -> Outcome<()> {
        self.reset().await?;
        self.parameters = if pair.begin.keeps { KEPT } else { &[] };
        self.bring_to(pair.begin).await?;
        let (first, second) = if chance.percent(50) { (pair.one, pair.two) } else { (pair.two, pair.one) };
        let later = if chance.percent(25) { Duration::ZERO } else { chance.time(SOONEST, LATEST) };
        let told = if chance.percent(GIVEN_UP) {
            let given_up = self.call(first, later.max(SOONEST)).await;
            [given_up, self.insist(second).await]
        } else {
            let late = async {
                pause(later).await;
                self.call(second, PATIENT).await
            };
            let (one, two) = tokio::join!(self.call(first, PATIENT), late);
            [one, two]
        };
        if told.iter().any(|told| told.said == Said::Unknown) {
            self.quiet().await;
        }
        let end = self.look()?;
        for what in self.wire().meanwhile.wrong() {
            self.world.violation(what);
        }
        if !explained(pair.begin, &told, end, size(self.shape)) {
            self.world.violation(format!(
                "no order explains {told:?} from {:?} to {end:?}: {}",
                pair.begin, self.id
            ));
        }
        Ok(())
    }

    /// As a caller does who is told that somebody is at it.
    async fn insist(&self, call: Call) -> Told {
        let began = Instant::now();
        loop {
            let told = self.call(call, PATIENT).await;
            if told.said != Said::Nothing || began.elapsed() > PATIENT {
                return told;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Waits until no call that was given up is at work, by calls that change nothing and need what it has.
    async fn quiet(&self) {
        let mut other = self.spot.clone();
        other.target.set_file_name("nowhere");
        let last = if self.id.ends_with('0') { '1' } else { '0' };
        let unknown = format!("{}{last}", &self.id[..self.id.len().saturating_sub(1)]);
        let too_much = |name: &str, from| requests::create(name, (self.shape, TOO_MUCH), from);
        let origin = Origin::Snapshot(self.cut.clone());
        self.passes(|| self.wire().unpublish(requests::unpublish(&self.id, &other), PATIENT)).await;
        self.passes(|| self.wire().create(too_much(&self.name, None), PATIENT)).await;
        if self.world.node.ground.copies() {
            self.passes(|| self.wire().create(too_much("nobody", Some(origin.clone())), PATIENT)).await;
            self.passes(|| self.wire().create(too_much(&self.copy_name, None), PATIENT)).await;
            self.passes(|| self.wire().snapshot(requests::snapshot(&self.cut_name, &unknown), PATIENT)).await;
        }
    }

    async fn passes<T, F: Future<Output = Answer<T>>>(&self, call: impl Fn() -> F) {
        let began = Instant::now();
        while let Answer::Open(code, message) = call().await {
            if began.elapsed() > PATIENT {
                return self.world.violation(format!("still at work after {PATIENT:?}: {code:?} {message}"));
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    fn wire(&self) -> &Wire {
        &self.world.node.wire
    }

    async fn call(&self, call: Call, patience: Duration) -> Told {
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
            Call::Expand => {
                let request = csi::ControllerExpandVolumeRequest {
                    volume_id: self.id.clone(),
                    capacity_range: Some(csi::CapacityRange {
                        required_bytes: base + 4 * MIB,
                        limit_bytes: 0,
                    }),
                    ..Default::default()
                };
                Said::of(&wire.expand(request, patience).await)
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
    fn look(&self) -> Outcome<State> {
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
        Ok(State {
            exists: volume.is_some(),
            known: volume.is_some_and(|(id, _)| *id == self.id),
            staged: mounted(&self.spot.staging),
            published: mounted(&self.spot.target),
            size: volume.map_or(0, |(_, volume)| volume.size),
            cut: cut.is_some(),
            known_cut: cut.is_some_and(|(id, _)| *id == self.cut),
            copy: copy.and_then(|(_, copy)| copy.from),
            keeps: !self.parameters.is_empty(),
            kept: kept.map(|kept| kept.size),
        })
    }

    /// Nothing is there.
    async fn reset(&mut self) -> Outcome<()> {
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
    async fn bring_to(&mut self, state: State) -> Outcome<()> {
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
