//! Opening pools, finding those that were away, and regular upkeep.
//!
//! Owns: the way from a configured pool to an open one whose records are read and whose interrupted work is finished.
//! Never: gives up on a pool that is away, or lets it keep the others from serving.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use crate::engine::clock::Clocks;
use crate::engine::notes::Notes;
use crate::engine::store::Store;
use crate::engine::workers::Workers;
use crate::engine::{Engine, EngineConfig, PoolConfig, Slot, State};
use crate::error::{Error, Result, chain, quoted};
use crate::model::{ObjectId, PoolId};
use crate::os::file::real_path;
use crate::pool::{Found, Pool};

impl Engine {
    /// Opens what is configured and finishes what was interrupted. A pool that is away is looked for again later.
    ///
    /// # Errors
    /// Whatever an operator must mend: a pool held by another process, one that is not what its configuration says.
    pub fn open(config: EngineConfig) -> Result<Engine> {
        let notes = Notes::open(&config.state_dir)?;
        let engine = Engine::new(config.pools, config.kubelet_root, notes);
        for slot in &engine.pools {
            match engine.connect(slot) {
                Ok(()) => {}
                // A disk that fails is not the operator's to mend in the configuration: the other pools serve.
                Err(error @ (Error::Unavailable(_) | Error::Host { .. } | Error::Corrupt(_))) => {
                    let why = chain(&error);
                    tracing::warn!(
                        pool = slot.name(),
                        why,
                        "a pool is away; it is looked for again and again"
                    );
                    slot.set(State::Away(why, None));
                }
                Err(error) => return Err(error),
            }
        }
        engine.ready.store(true, Ordering::Release);
        Ok(engine)
    }

    /// Opens pools for one who looks and mends while no driver runs: nothing is mounted, swept away or finished. It never
    /// becomes ready, so it serves nothing.
    ///
    /// # Errors
    /// As `open`; `Precondition` at once for a pool that a driver holds.
    pub fn examine(pools: Vec<PoolConfig>) -> Result<Engine> {
        let engine = Engine::new(pools, PathBuf::new(), Notes::none());
        for slot in &engine.pools {
            match crate::pool::examine(&slot.config.setup) {
                Ok(pool) => {
                    engine.read(slot, &pool)?;
                    slot.set(State::Open(pool));
                }
                Err(error @ (Error::Unavailable(_) | Error::Host { .. } | Error::Corrupt(_))) => {
                    slot.set(State::Away(chain(&error), None));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(engine)
    }

    fn new(pools: Vec<PoolConfig>, kubelet_root: PathBuf, notes: Notes) -> Engine {
        Engine {
            pools: pools.into_iter().map(Slot::new).collect(),
            store: Store::default(),
            clocks: Clocks::default(),
            host: Workers::new("host"),
            real_root: real_path(&kubelet_root),
            kubelet_root,
            notes,
            ready: AtomicBool::new(false),
        }
    }

    /// Whether the start is over, so that calls that change something are taken.
    pub fn ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    /// Looks after pools that vanished or came back. To be called every few seconds.
    pub fn reconnect(&self) {
        for slot in &self.pools {
            let lost = slot.open().ok().and_then(|pool| match pool.present() {
                Err(Error::Unavailable(why)) => Some((why, pool.id())),
                Ok(()) | Err(_) => None,
            });
            if let Some((why, id)) = lost {
                tracing::error!(pool = slot.name(), why, "a pool is gone; its volumes fail until it is back");
                slot.set(State::Away(why, Some(id)));
            } else if slot.open().is_err() {
                match self.connect(slot) {
                    Ok(()) => tracing::info!(pool = slot.name(), "a pool is back"),
                    Err(error) => slot.set(State::Away(chain(&error), slot.id())),
                }
            }
        }
    }

    /// Regular upkeep of every pool that is here. To be called by the hour or so.
    pub fn tend(&self) {
        for slot in &self.pools {
            if let Ok(pool) = slot.open()
                && let Err(error) = pool.tend()
            {
                tracing::warn!(pool = slot.name(), error = chain(&error), "upkeep failed");
            }
        }
    }

    /// What lies on the pools without a record, and records without what they describe; for the log and the operator.
    pub fn orphans(&self) -> Result<Vec<String>> {
        let mut orphans = Vec::new();
        for slot in &self.pools {
            let Ok(pool) = slot.open() else { continue };
            let mut seen = HashSet::new();
            for found in pool.scan()? {
                let id = match found {
                    Found::Volume(id, _) => ObjectId::Volume(id),
                    Found::Snapshot(id, _) => ObjectId::Snapshot(id),
                    Found::Debris(_) => continue, // Of a verb that runs now, or that `settle` will finish.
                    Found::Foreign(name) => {
                        orphans.push(format!("pool {}: {} is not ours", quoted(slot.name()), quoted(&name)));
                        continue;
                    }
                };
                seen.insert(id);
                if self.store.record(id).is_none() {
                    orphans.push(format!("pool {}: {id} has no record", quoted(slot.name())));
                }
            }
            let lost = self.store.finished(pool.id()).into_iter().filter(|id| !seen.contains(id));
            orphans.extend(
                lost.map(|id| format!("pool {}: {id} has a record, but no bytes", quoted(slot.name()))),
            );
        }
        Ok(orphans)
    }

    fn connect(&self, slot: &Slot) -> Result<()> {
        let pool = crate::pool::open(&slot.config.setup)?;
        step!("open: pool open");
        self.read(slot, &pool)?;
        if !planted!("no-recovery") {
            self.recover(pool.as_ref());
        }
        step!("open: recovered");
        slot.set(State::Open(pool));
        Ok(())
    }

    /// Reads what is on record in a pool.
    fn read(&self, slot: &Slot, pool: &Arc<dyn Pool>) -> Result<()> {
        self.refuse_twin(slot, pool.id())?;
        self.store.open(pool.id(), pool.home())?;
        step!("open: records read");
        self.clocks.open(pool.id(), pool.home(), self.store.last_retained(pool.id()));
        Ok(())
    }

    /// The same pool under two names would break the ledger.
    fn refuse_twin(&self, slot: &Slot, id: PoolId) -> Result<()> {
        let twin = self.pools.iter().find(|other| !std::ptr::eq(*other, slot) && other.id() == Some(id));
        twin.map_or(Ok(()), |twin| {
            let (one, two) = (quoted(slot.name()), quoted(twin.name()));
            Err(Error::Precondition(format!(
                "pools {one} and {two} are the same pool {id}; configure it once"
            )))
        })
    }
}

impl Slot {
    fn new(config: PoolConfig) -> Slot {
        let workers = Workers::new(&config.setup.name);
        let state = RwLock::new(State::Away("it is not open yet".to_owned(), None));
        Slot { config, workers, state }
    }

    fn set(&self, state: State) {
        *self.state.write().unwrap_or_else(PoisonError::into_inner) = state;
    }

    /// What may be promised in all, in bytes.
    pub(super) fn budget(&self, pool: &dyn Pool) -> Result<crate::model::Bytes> {
        let usage = pool.usage()?;
        Ok(self.share_of(usage.total.less(usage.foreign)))
    }

    /// What may be promised where so much is there.
    pub(super) fn share_of(&self, there: crate::model::Bytes) -> crate::model::Bytes {
        let share = (1.0 - self.config.reserve) * self.config.overcommit;
        there.scaled(share).round_down(crate::pool::UNIT)
    }

    /// The open pool of this slot, present, with what may be promised on it.
    pub(super) fn ready(&self) -> Result<(Arc<dyn Pool>, crate::model::Bytes)> {
        let pool = self.open()?;
        pool.present()?;
        let budget = self.budget(pool.as_ref())?;
        Ok((pool, budget))
    }
}
