//! A node and the model of it: what all parts of the torture work on.
//!
//! Owns: the names and their locks (who has a name's lock is the only one who changes it, so every answer can be judged), and
//! the list of violations.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex as Std, PoisonError};

use tokio::sync::Mutex;
use tonic::Code;

use crate::Outcome;
use crate::facts::{Facts, Record};
use crate::model::{Group, Is, Snapshot, Volume};
use crate::node::Node;
use crate::progress;
use crate::wire::Answer;

/// How much there is to do on a node.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Extent {
    pub(crate) volumes: usize,
    pub(crate) snapshots: usize,
}

/// A node and what must be on it.
pub(crate) struct World {
    pub(crate) node: Node,
    pub(crate) volumes: Vec<Mutex<Volume>>,
    pub(crate) snapshots: Vec<Mutex<Snapshot>>,
    pub(crate) group: Mutex<Group>,
    /// What was deleted and is kept, by id.
    pub(crate) kept: Std<BTreeMap<String, Is>>,
    /// What may be promised in all, as of the start.
    pub(crate) budget: AtomicU64,
    pub(crate) counts: Counts,
    violations: Std<Vec<String>>,
    seeds: AtomicU64,
    lenient: AtomicBool,
    seed: u64,
}

/// What was done.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) kills: AtomicU64,
    pub(crate) power_cuts: AtomicU64,
    /// Power cuts in which the disk lost what was not flushed.
    pub(crate) lost_writes: AtomicU64,
    pub(crate) audits: AtomicU64,
    pub(crate) verified: AtomicU64,
    pub(crate) written: AtomicU64,
}

impl World {
    /// Over this node, with names for so much.
    pub(crate) fn new(node: Node, extent: Extent, seed: u64) -> Outcome<World> {
        let ground = node.ground;
        let volume = |number: usize| -> Outcome<Mutex<Volume>> {
            let name = format!("v{number}");
            let spot = node.spot(&name)?;
            Ok(Mutex::new(Volume::new(name, ground.shape(number), spot)))
        };
        let volumes = (0..extent.volumes).map(volume).collect::<Outcome<Vec<_>>>()?;
        let snapshots = (0..extent.snapshots).map(|n| Mutex::new(Snapshot::new(format!("s{n}")))).collect();
        Ok(World {
            node,
            volumes,
            snapshots,
            kept: Std::default(),
            group: Mutex::new(Group { name: "g0".to_owned(), ..Group::default() }),
            budget: AtomicU64::new(0),
            counts: Counts::default(),
            violations: Std::default(),
            seeds: AtomicU64::new(1),
            lenient: AtomicBool::new(false),
            seed,
        })
    }

    /// Something that must never be.
    pub(crate) fn violation(&self, what: impl Into<String>) {
        let what = format!("[{} seed {}] {}", self.node.ground.name(), self.seed, what.into());
        eprintln!("VIOLATION {what}");
        progress::one("violations");
        self.violations.lock().unwrap_or_else(PoisonError::into_inner).push(what);
    }

    /// All that was found so far.
    pub(crate) fn violations(&self) -> Vec<String> {
        self.violations.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Forgets what was found.
    pub(crate) fn pardon(&self) -> Vec<String> {
        std::mem::take(&mut self.violations.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Bytes that were never written before.
    pub(crate) fn fresh_seed(&self) -> u64 {
        self.seed.wrapping_mul(1 << 32).wrapping_add(self.seeds.fetch_add(1, Ordering::Relaxed))
    }

    /// A refusal that nothing justifies but an error that was injected.
    pub(crate) fn unjustified(&self, call: &str, volume: &Volume, code: Code, message: &str) {
        if !self.lenient() && !self.node.wire.meanwhile.excuses(call, code, message) {
            return self.violation(format!("{call}: {code:?} {message}: {}", volume.story()));
        }
        // A code that says "over" must not leave work to be finished.
        let Ok(facts) = Facts::of(&self.node) else { return };
        let all = facts.records.values().chain(facts.receiving.values());
        let mut of_this_name = all.filter(|record| record.name == volume.name);
        // A growth that was left open is the matter of whoever asks for it again.
        let others = |record: &&Record| record.is_growing() && !call.starts_with("ControllerExpandVolume");
        let unfinished = of_this_name.find(|record| !record.ready && !record.is_kept() && !others(record));
        if let Some(record) = unfinished {
            let phase = &record.phase;
            self.violation(format!(
                "{call}: {code:?} {message}, and the record is {phase}: {}",
                volume.story()
            ));
        }
    }

    /// The same where no volume has a story.
    pub(crate) fn refused(&self, call: &str, code: Code, message: &str) {
        if !self.lenient() && !self.node.wire.meanwhile.excuses(call, code, message) {
            self.violation(format!("{call}: {code:?} {message}"));
        }
    }

    /// Whether errors are injected, so that a call may be refused. What a refusal says must hold all the same.
    pub(crate) fn lenient(&self) -> bool {
        self.lenient.load(Ordering::Relaxed)
    }

    /// From now on errors are injected, or not any more.
    pub(crate) fn set_lenient(&self, lenient: bool) {
        self.lenient.store(lenient, Ordering::Relaxed);
    }

    /// Everything by its lock, while nobody works.
    pub(crate) async fn all_volumes(&self) -> Vec<tokio::sync::MutexGuard<'_, Volume>> {
        let mut all = Vec::new();
        for volume in &self.volumes {
            all.push(volume.lock().await);
        }
        all
    }

    pub(crate) async fn all_snapshots(&self) -> Vec<tokio::sync::MutexGuard<'_, Snapshot>> {
        let mut all = Vec::new();
        for snapshot in &self.snapshots {
            all.push(snapshot.lock().await);
        }
        all
    }
}

/// For the story of a volume.
pub(crate) fn outcome<T>(answer: &Answer<T>) -> String {
    match answer {
        Answer::Done(_) => "OK".to_owned(),
        Answer::Refused(code, _) | Answer::Open(code, _) => format!("{code:?}"),
    }
}
