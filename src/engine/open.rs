//! Opening pools, finding those that were away, and regular upkeep.
//!
//! Owns: the way from a configured pool to an open one whose records are read and whose interrupted work is finished.
//! Never: gives up on a pool that is away, or lets it keep the others from serving: all of it runs on the pools' own threads.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use crate::engine::clock::Clocks;
use crate::engine::fences::Fences;
use crate::engine::freezes::Freezes;
use crate::engine::notes::Notes;
use crate::engine::receive::Journeys;
use crate::engine::recover::Recoveries;
use crate::engine::slot::{Away, Slot, State};
use crate::engine::store::Store;
use crate::engine::workers::Workers;
use crate::engine::{Engine, EngineConfig, Files, Opener, PoolConfig, PoolIndex, spare};
use crate::error::{Error, Result, chain, of_pool, quoted};
use crate::model::PoolId;
use crate::os::file::{Kept, real_path};
use crate::pool::{Pool, Severity};

/// How long the start waits for any pool at all.
const FIRST: Duration = Duration::from_secs(5);
/// How long it then waits for the others: who has a pool that works need not wait for one that does not.
const OTHERS: Duration = Duration::from_millis(600);
/// How long it waits for another process to let go of a pool.
const HELD: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(50);
/// How long an end waits for the threads of a pool to close it.
const CLOSING: Duration = Duration::from_secs(1);

/// What became of the first attempt to open a pool.
type Attempt = (usize, Option<Error>);

impl Engine {
    /// Opens what is configured and finishes what was interrupted. A pool that is away is looked for again later, and one
    /// that takes too long comes when it is ready.
    ///
    /// # Errors
    /// Whatever an operator must mend: a pool held by another process, one that is not what its configuration says.
    pub fn open(config: EngineConfig) -> Result<Arc<Engine>> {
        Engine::open_with(config, Box::new(crate::pool::open))
    }

    /// The same over pools that the caller opens in its own way: where a test breaks their verbs, or keeps one in memory from
    /// one start to the next.
    ///
    /// # Errors
    /// As `open`.
    pub fn open_with(config: EngineConfig, opener: Opener) -> Result<Arc<Engine>> {
        let notes = Notes::open(&config.state_dir)?;
        let told = (notes, Fences::open(&config.state_dir)?, Freezes::open(&config.state_dir)?);
        let mut engine = Engine::new(config.pools, config.kubelet_root, told, config.files)?;
        engine.opener = opener;
        engine.sweep_notes();
        let engine = Arc::new(engine);
        engine.open_all()?;
        // Whoever had the pools has let go of them, and of the notes. Nothing was mounted meanwhile: nobody is served yet.
        if !engine.notes.are_ours() {
            engine.sweep_notes();
        }
        if let Some(found) = engine.kubelet_trouble() {
            tracing::warn!(code = found.code.name(), "{}; {}", found.what, found.repair);
        }
        engine.ready.store(true, Ordering::Release);
        Ok(engine)
    }

    /// Opens pools for one who looks and mends while no driver runs: nothing is mounted, swept away or finished. It never
    /// becomes ready, so it serves nothing, and every thread may call it. What lies in the memory of a driver is passed over.
    ///
    /// # Errors
    /// `Busy` at once for a pool that a driver holds. Whatever else keeps one pool from being read is a finding about it, and
    /// hides no other.
    pub fn examine(pools: Vec<PoolConfig>) -> Result<Engine> {
        let told = (Notes::none(), Fences::none(), Freezes::unknown());
        let pools = pools.into_iter().filter(|pool| pool.setup.kind.lasts()).collect();
        let engine = Engine::new(pools, PathBuf::new(), told, Files::Shared)?;
        for slot in &engine.pools {
            let read = crate::pool::examine(&slot.config.setup)
                .and_then(|pool| engine.read(slot, pool.as_ref()).map(|()| pool));
            match read {
                Ok(pool) => slot.set(State::Open(pool.id(), Kept::new(pool))),
                Err(Error::Busy(why)) => return Err(Error::Busy(of_pool(slot.name(), &why))),
                Err(error) => slot.set(State::Away(Away::new(chain(&error), None))),
            };
        }
        Ok(engine)
    }

    fn new(
        pools: Vec<PoolConfig>,
        kubelet_root: PathBuf,
        (notes, fences, freezes): (Notes, Fences, Freezes),
        files: Files,
    ) -> Result<Engine> {
        let pools = pools.into_iter().map(|pool| Slot::new(pool, files));
        Ok(Engine {
            pools: pools.collect::<Result<_>>()?,
            store: Store::default(),
            clocks: Clocks::default(),
            host: Workers::new("host"),
            strangers: match files {
                Files::Apart => Workers::apart("strangers")?,
                Files::Shared => Workers::new("strangers"),
            },
            real_root: real_path(&kubelet_root),
            kubelet_root,
            notes,
            fences,
            freezes,
            journeys: Journeys::default(),
            recoveries: Recoveries::default(),
            ready: AtomicBool::new(false),
            identities: Mutex::default(),
            opener: Box::new(crate::pool::open),
        })
    }

    /// Whether the start is over, so that calls that change something are taken.
    pub fn ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    /// Looks after pools that vanished or came back, each on its own threads. To be called every few seconds.
    pub fn reconnect(self: &Arc<Self>) {
        for number in 0..self.pools.len() {
            let engine = Arc::clone(self);
            if let Err(error) = self.pools[number].workers.look(move || engine.look_at(&engine.pools[number]))
            {
                tracing::warn!(
                    pool = self.pools[number].name(),
                    error = chain(&error),
                    "failed to look at a pool"
                );
            }
        }
    }

    /// Whether a look at any pool is not over yet.
    pub fn is_looking(&self) -> bool {
        self.pools.iter().any(|slot| slot.workers.is_looking())
    }

    /// Regular upkeep of every pool that is here, each on its own threads. To be called by the hour or so.
    pub fn tend(self: &Arc<Self>) {
        self.each("upkeep", |engine, index| {
            let slot = &engine.pools[index.0];
            let _alone = match slot.tending.try_lock() {
                Ok(alone) => alone,
                Err(TryLockError::Poisoned(alone)) => alone.into_inner(),
                // One that is still at it is not joined by another.
                Err(TryLockError::WouldBlock) => return Ok(()),
            };
            slot.open()?.tend()
        });
    }

    /// Says in the log what nobody accounts for, and never removes it. Calls are served meanwhile, so only what two looks
    /// find is said: in between, a volume may come or go.
    pub fn tell_orphans(self: &Arc<Self>) {
        self.each("the look for orphans", Engine::tell_orphans_of);
    }

    fn tell_orphans_of(&self, index: PoolIndex) -> Result<()> {
        let first = self.orphans(index)?;
        let again = if first.is_empty() { Vec::new() } else { self.orphans(index)? };
        let orphans: Vec<_> = in_both(first, again).collect();
        self.pools[index.0].note_seen(|seen| seen.orphans = Some(orphans.len()));
        orphans.iter().for_each(|orphan| tracing::warn!(orphan, "found what nobody accounts for"));
        Ok(())
    }

    /// Counts the volumes that are ill, and how full each pool is, for those who may not ask a disk. To be called by the minute.
    pub fn look_after_health(self: &Arc<Self>) {
        self.each("the look at the volumes", |engine, index| {
            let slot = &engine.pools[index.0];
            let pool = slot.open()?;
            slot.budget(pool.as_ref())?;
            let volumes: Vec<_> = engine.store.volumes_of(pool.id());
            let ill: BTreeSet<_> = pool
                .health_of_all(&volumes)
                .into_iter()
                .filter(|(_, problem)| problem.severity != Severity::Degraded)
                .filter_map(|(id, _)| id)
                .collect();
            slot.note_seen(|seen| seen.unhealthy = Some(ill.len()));
            // It came since the last look for them.
            if slot.seen().orphans.is_none() { engine.tell_orphans_of(index) } else { Ok(()) }
        });
    }

    /// Does something with each pool that is here, on its own threads, without waiting for it.
    fn each(self: &Arc<Self>, what: &'static str, work: fn(&Engine, PoolIndex) -> Result<()>) {
        for (number, slot) in self.pools.iter().enumerate().filter(|(_, slot)| slot.trouble().is_none()) {
            let engine = Arc::clone(self);
            let job = move || {
                if let Err(error) = work(&engine, PoolIndex(number)) {
                    tracing::warn!(
                        pool = engine.pools[number].name(),
                        error = chain(&error),
                        "{what} failed"
                    );
                }
            };
            if let Err(error) = slot.workers.run_then(job, |_| ()) {
                tracing::warn!(pool = slot.name(), error = chain(&error), "{what} was left out");
            }
        }
    }

    /// Begins to open every pool, side by side, and waits until enough is known to serve.
    fn open_all(self: &Arc<Self>) -> Result<()> {
        let (tell, told) = mpsc::channel();
        let begun = Instant::now();
        for number in 0..self.pools.len() {
            self.attempt(number, tell.clone())?;
        }
        let mut limit = begun + FIRST;
        // Those that another process holds, with what is said when it does not let go.
        let mut held: HashMap<usize, Error> = HashMap::new();
        let mut open = self.pools.len();
        while open > 0 {
            let wait = if held.is_empty() { limit } else { begun + HELD };
            match told.recv_timeout(wait.saturating_duration_since(Instant::now())) {
                Ok((number, Some(error @ Error::Busy(_)))) => {
                    held.insert(number, error);
                    std::thread::sleep(PAUSE);
                    while !self.attempt(number, tell.clone())? {
                        std::thread::sleep(PAUSE);
                    }
                    continue;
                }
                Ok((number, outcome)) => {
                    held.remove(&number);
                    outcome.map_or(Ok(()), refuse_wrong)?;
                }
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
            }
            open -= 1;
            limit = limit.min(Instant::now() + OTHERS);
        }
        held.into_values().next().map_or(Ok(()), Err)
    }

    /// Tries to open a pool on its first thread, and tells what became of it; `false` where an attempt is not over yet.
    fn attempt(self: &Arc<Self>, number: usize, tell: Sender<Attempt>) -> Result<bool> {
        let engine = Arc::clone(self);
        self.pools[number].workers.look(move || {
            let slot = &engine.pools[number];
            let error = engine.connect(slot).err();
            if let Some(error) = &error {
                let why = chain(error);
                if !matches!(error, Error::Busy(_)) {
                    tracing::warn!(
                        pool = slot.name(),
                        why,
                        "a pool is away; it is looked for again and again"
                    );
                }
                slot.set(State::Away(Away::new(why, slot.id())));
            }
            // Whoever hears of it may let go of the engine, and expects it to be closed then.
            drop(engine);
            // The start may not wait any more.
            let _ = tell.send((number, error));
        })
    }

    /// Whether a pool is still here, or back.
    fn look_at(&self, slot: &Slot) {
        let Ok(pool) = slot.open() else { return self.look_for(slot) };
        let id = pool.id();
        // A disk that fails is read as far as it goes. One that was pulled fails, too, and where it was nothing is.
        let is_gone = |error: &Error| {
            matches!(error, Error::Unavailable(_)) || crate::pool::is_gone(&slot.config.setup, id)
        };
        if let Some(error) = pool.present().and_then(|()| pool.answers()).err().filter(is_gone) {
            let why = chain(&error);
            tracing::error!(pool = slot.name(), why, "a pool is gone; its volumes fail until it is back");
            drop(pool);
            return self.leave(slot, why, id);
        }
        slot.note_refusal(pool.writable());
        if self.is_mended(slot, pool.as_ref()) {
            // What is in memory may not be what is on the disk.
            drop(pool);
            self.leave(slot, "its disk takes changes again; its records are read anew".to_owned(), id);
            self.look_at(slot);
        }
    }

    /// Whether a pool that is away is back, and if not, whether its disk is here at all.
    fn look_for(&self, slot: &Slot) {
        let setup = &slot.config.setup;
        let is_there = slot.id().map_or(Ok(()), |known| crate::pool::expect(setup, known));
        match is_there.and_then(|()| self.connect(slot)) {
            Ok(()) => tracing::info!(pool = slot.name(), "a pool is back"),
            Err(error) => {
                let (why, id) = (chain(&error), slot.id());
                let gone = id.is_some_and(|known| crate::pool::is_gone(setup, known));
                drop(slot.set(State::Away(Away { why, id, gone })));
            }
        }
    }

    /// Closes a pool that cannot be used as it is, and holds nothing of it any more.
    fn leave(&self, slot: &Slot, why: String, id: PoolId) {
        drop(slot.set(State::Away(Away::new(why.clone(), Some(id)))));
        self.store.let_go(id);
        // Only now: where it was, something may hang.
        if crate::pool::is_gone(&slot.config.setup, id) {
            drop(slot.set(State::Away(Away { why, id: Some(id), gone: true })));
        }
    }

    fn connect(&self, slot: &Slot) -> Result<()> {
        let pool = (self.opener)(&slot.config.setup)?;
        step!("open: pool open");
        self.read(slot, pool.as_ref())?;
        if !planted!("no-recovery") {
            self.recover(pool.as_ref());
        }
        step!("open: recovered");
        spare::keep(pool.as_ref());
        self.fences.forget(pool.id());
        slot.note_refusal(pool.writable());
        slot.set(State::Open(pool.id(), Kept::new(pool)));
        Ok(())
    }

    /// Reads what is on record in a pool.
    fn read(&self, slot: &Slot, pool: &dyn Pool) -> Result<()> {
        self.identify(slot, pool.id())?;
        self.store.open(pool.id(), pool.home())?;
        step!("open: records read");
        self.learn_names(pool);
        self.clocks.open(pool.id(), pool.home(), self.store.last_retained(pool.id()));
        slot.budget(pool).map(drop)
    }

    /// Notes the identity of a pool that is being opened, unless it is another's.
    fn identify(&self, slot: &Slot, id: PoolId) -> Result<()> {
        let _one = self.identities.lock().unwrap_or_else(PoisonError::into_inner);
        self.refuse_twin(slot, id)?;
        // Until it is read, what is known of it is as old as it was.
        let gone = slot.is_gone();
        slot.set(State::Away(Away { why: "it is being opened".to_owned(), id: Some(id), gone }));
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

/// What a second look found again. A pool whose records are lost has as many as it had volumes, so each is looked up.
fn in_both(first: Vec<String>, again: Vec<String>) -> impl Iterator<Item = String> {
    let first: HashSet<String> = first.into_iter().collect();
    again.into_iter().filter(move |orphan| first.contains(orphan))
}

/// What only an operator can mend keeps the driver from starting; a disk that fails does not: the other pools serve.
fn refuse_wrong(error: Error) -> Result<()> {
    let passes = matches!(error, Error::Unavailable(_) | Error::Host { .. } | Error::Corrupt(_));
    if passes { Ok(()) } else { Err(error) }
}

impl Drop for Engine {
    /// Closes the pools where they are open, so that another driver can have them as soon as this one is gone.
    fn drop(&mut self) {
        for slot in &self.pools {
            let State::Open(id, pool) = slot.set(State::Away(Away::new("it is closed", None))) else {
                continue;
            };
            let (tell, told) = mpsc::channel();
            let open = (pool, self.store.close(id));
            let closed = move |_| {
                let _ = tell.send(());
            };
            if slot.workers.run_then(move || drop(open), closed).is_ok() {
                // One that hangs closes with its threads.
                let _ = told.recv_timeout(CLOSING);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::in_both;

    #[test]
    fn what_comes_or_goes_between_two_looks_is_not_told() {
        let looked = |seen: &[&str]| seen.iter().map(|one| (*one).to_owned()).collect::<Vec<_>>();
        let told = in_both(looked(&["goes", "stays", "stays too"]), looked(&["comes", "stays too", "stays"]));
        assert_eq!(told.collect::<Vec<_>>(), ["stays too", "stays"]);
    }
}
