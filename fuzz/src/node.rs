//! A node over simulated pools, and what must hold on it at rest.
//!
//! Owns: its engine and services, the directories that it needs, and the sum of its promises. Never: mounts anything.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rockpool::csi::{About, Services};
use rockpool::engine::{Engine, EngineConfig, Files, Opener, PoolConfig};
use rockpool::error::Error;
use rockpool::model::{Bytes, ObjectId, Phase, Retention, Snapshot, Volume};
use rockpool::pool::{Kind, Quota, Setup};

use crate::wire::Wire;

/// The node's id.
pub const NODE: &str = "node-1";
/// How long a pool that was away may take to come back.
const BACK: Duration = Duration::from_secs(10);

/// A driver in this process.
pub struct Node {
    /// To ask what the services do not tell.
    pub engine: Arc<Engine>,
    /// To call it.
    pub wire: Wire,
}

/// All that a refused call must leave as it is.
#[derive(Debug, PartialEq)]
pub struct State {
    /// The volumes that are listed.
    pub volumes: Vec<Arc<Volume>>,
    /// The snapshots that are listed.
    pub snapshots: Vec<Arc<Snapshot>>,
    /// What is deleted and still kept, by id, with its name and promise.
    pub retained: Vec<(ObjectId, String, Bytes)>,
    /// What each pool has promised.
    pub promised: Vec<Bytes>,
}

/// A pool in memory, all of which may be promised.
pub fn sim(name: &str, size: Bytes) -> PoolConfig {
    let setup = Setup {
        name: name.to_owned(),
        kind: Kind::Sim,
        path: PathBuf::new(),
        file: None,
        device: None,
        quota: Quota::Project,
        size: Some(size),
    };
    PoolConfig { setup, overcommit: 1.0, reserve: 0.0, retain: Retention::NONE }
}

impl Node {
    /// Starts a driver with its directories below `directory`.
    ///
    /// # Errors
    /// What keeps it from starting.
    ///
    /// # Panics
    /// Where its services do not take their names.
    pub fn start(directory: &Path, pools: Vec<PoolConfig>, opener: Opener) -> Result<Node, Error> {
        let (kubelet_root, state_dir) = (directory.join("kubelet"), directory.join("state"));
        let config = EngineConfig { pools, kubelet_root, state_dir, files: Files::Shared };
        let engine = Engine::open_with(config, opener)?;
        let about = About { driver_name: "csi.rockpool.dev".into(), node_id: NODE.into(), max_volumes: 7 };
        let services = Services::new(Arc::clone(&engine), about).expect("the names are good");
        Ok(Node { engine, wire: Wire::new(&services) })
    }

    /// Ends it, and waits until no thread of it is at work any more.
    ///
    /// # Panics
    /// Where one stays at work.
    pub fn stop(self) {
        drop(self.wire);
        wait("a job keeps the engine", || Arc::strong_count(&self.engine) == 1);
    }

    /// Looks after its pools until what is there is in use.
    ///
    /// # Panics
    /// Where one does not come back.
    pub fn reconnect(&self, is_settled: impl Fn(&Engine) -> bool) {
        wait("a pool neither goes nor comes", || {
            let settled = is_settled(&self.engine);
            if !settled {
                self.engine.reconnect();
            }
            settled
        });
    }

    /// What it shows now.
    pub fn state(&self) -> State {
        let retained = self.engine.retained().into_iter().map(|one| (one.id, one.name, one.promised));
        let mut retained: Vec<_> = retained.collect();
        retained.sort();
        let listed = self.engine.listed_snapshots(None, None, usize::MAX).expect("every record can be read");
        State {
            volumes: self.engine.volumes(None, usize::MAX),
            snapshots: listed.into_iter().filter(|one| one.usable).map(|one| one.snapshot).collect(),
            retained,
            promised: self.engine.pools().iter().map(|pool| pool.promised).collect(),
        }
    }

    /// What must hold whenever no call is at work and every pool is here; answers what it shows.
    ///
    /// # Panics
    /// Where something does not.
    pub fn check_rest(&self) -> State {
        let state = self.state();
        let State { volumes, snapshots, retained, .. } = &state;
        assert!(volumes.iter().all(|volume| volume.phase == Phase::Ready), "unfinished: {volumes:?}");
        assert!(volumes.is_sorted_by_key(|volume| volume.id) && snapshots.is_sorted_by_key(|one| one.id));
        let names: HashSet<&str> = volumes.iter().map(|volume| volume.name.as_str()).collect();
        assert_eq!(names.len(), volumes.len(), "two volumes have one name: {volumes:?}");
        let names: HashSet<&str> = snapshots.iter().map(|snapshot| snapshot.name.as_str()).collect();
        assert_eq!(names.len(), snapshots.len(), "two snapshots have one name: {snapshots:?}");
        for (index, pool) in self.engine.indexes().zip(self.engine.pools()) {
            let orphans = self.engine.orphans(index).expect("the pool is here");
            assert!(orphans.is_empty(), "records and bytes differ: {orphans:?}");
            let of = |id: ObjectId| Some(id.pool()) == pool.id;
            let volumes: Bytes = volumes.iter().filter(|one| of(one.id.into())).map(|one| one.size).sum();
            let cuts: Bytes = snapshots.iter().filter(|one| of(one.id.into())).map(|one| one.held).sum();
            let kept: Bytes = retained.iter().filter(|(id, ..)| of(*id)).map(|(.., held)| *held).sum();
            let sum: Bytes = [volumes, cuts, kept].into_iter().sum();
            assert_eq!(
                (pool.promised, pool.retained),
                (sum, kept),
                "pool {}: its ledger is wrong",
                pool.name
            );
            assert!(pool.promised <= pool.budget, "pool {} promises more than it has", pool.name);
        }
        assert_eq!(self.engine.quarantine(), []);
        state
    }
}

/// Waits until something holds.
fn wait(what: &str, holds: impl Fn() -> bool) {
    let until = Instant::now() + BACK;
    while !holds() {
        assert!(Instant::now() < until, "{what}");
        std::thread::sleep(Duration::from_micros(50));
    }
}
