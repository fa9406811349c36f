//! Every pair of mutating calls on one volume, raced: what comes of it must be explainable as one after the other.
//!
//! Owns: how two calls meet, many times each: at once, one a little later, or one given up and the other asked for at once,
//! as a caller does who changed its mind. What an answer and an order mean is `orders`, what is raced for is `raced`.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::Outcome;
use crate::breaks::Stage;
use crate::chance::Chance;
use crate::grounds::on_each;
use crate::node::Ground;
use crate::options::Options;
use crate::orders::{CALLS, Call, Said, State, Told, explained, starts};
use crate::progress;
use crate::raced::Object;
use crate::report::{self, Report};
use crate::requests::{self, Origin, Shape};
use crate::wire::{Answer, PATIENT};
use crate::world::World;

/// More than any pool holds.
const TOO_MUCH: i64 = 1 << 60;
/// So many of a hundred races have a caller who gives up.
const GIVEN_UP: usize = 35;
const SOONEST: Duration = Duration::from_micros(50);
/// Longer than any race.
const KEPT: &[(&str, &str)] = &[("retainDeleted", "1h")];
const LATEST: Duration = Duration::from_millis(25);

/// One race, but for chance.
#[derive(Clone, Copy, Debug)]
struct Pair {
    shape: Shape,
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

/// Every pair of calls from every state of a volume of the usual shape, and of a raw one where there is such.
fn pairs(ground: Ground) -> Vec<Pair> {
    let mut all = pairs_of(ground.shape(0), ground);
    if ground != Ground::Directory {
        all.extend(pairs_of(Shape::Block, ground));
    }
    all
}

fn pairs_of(shape: Shape, ground: Ground) -> Vec<Pair> {
    let mut all = Vec::new();
    for begin in starts(shape, ground) {
        for (number, one) in CALLS.iter().enumerate() {
            let others = CALLS[number..].iter().map(|two| Pair { shape, begin, one: *one, two: *two });
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
        let mut object = Object::new(self.world, format!("raced-{lane}"))?;
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
        self.shape = pair.shape;
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
        if !explained(pair.begin, &told, end, pair.shape) {
            self.world.violation(format!(
                "no order explains {told:?} on {:?} from {:?} to {end:?}: {}",
                pair.shape, pair.begin, self.id
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
}
