//! A configured pool: its threads, and what is known of it.
//!
//! Owns: the one handle to the open pool, which stays with the pool's threads, and what others may know without asking the
//! disk. Never: lets another thread reach the pool, whose descriptors mean something in its threads' table only.

use std::sync::{Arc, Mutex, PoisonError, RwLock};

use crate::engine::workers::Workers;
use crate::engine::{Files, PoolConfig};
use crate::error::{Error, Result, chain, of_pool, quoted};
use crate::model::{Bytes, Features, PoolId};
use crate::os::file::Kept;
use crate::os::thread::Thread;
use crate::pool::{Pool, Usage};

/// A configured pool, present or not.
pub(super) struct Slot {
    pub(super) config: PoolConfig,
    pub(super) workers: Workers,
    state: RwLock<State>,
    known: RwLock<Option<Known>>,
    /// Why it takes no changes, though it is open, as a look or a verb last saw it.
    refusal: RwLock<Option<String>>,
    /// Held while it is tended.
    pub(super) tending: Mutex<()>,
    /// Who looks for the doctor at this moment.
    examiner: Mutex<Option<Thread>>,
    /// What was wrong at the last regular look; none before the first.
    seen: RwLock<Seen>,
}

/// What the regular looks last saw in a pool; none: there was no look since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Volumes that are ill, those not counted that are only degraded.
    pub unhealthy: Option<usize>,
    /// Bytes without a record, records without bytes, and files of others.
    pub orphans: Option<usize>,
}

/// Whether a configured pool can be used.
pub(super) enum State {
    /// It is open.
    Open(PoolId, Kept<Arc<dyn Pool>>),
    /// It is away; `Engine::reconnect` looks for it again.
    Away(Away),
}

/// What is known of a pool that is away.
#[derive(Clone)]
pub(super) struct Away {
    /// The reason.
    pub(super) why: String,
    /// Its id, if it was here before.
    pub(super) id: Option<PoolId>,
    /// Whether it was here before, and its disk surely is not any more.
    pub(super) gone: bool,
}

/// What a look or a verb last saw.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) features: Features,
    /// What may be promised in all, in bytes.
    pub(super) budget: Bytes,
    /// What could be promised if nobody else took of the place, in bytes.
    pub(super) most: Bytes,
    /// How full it was.
    pub(super) usage: Usage,
}

impl Away {
    /// It may be here still.
    pub(super) fn new(why: impl Into<String>, id: Option<PoolId>) -> Away {
        Away { why: why.into(), id, gone: false }
    }
}

impl Slot {
    pub(super) fn new(config: PoolConfig, files: Files) -> Result<Slot> {
        let workers = match files {
            Files::Apart => Workers::apart(&config.setup.name)?,
            Files::Shared => Workers::new(&config.setup.name),
        };
        let state = RwLock::new(State::Away(Away::new("it is being opened", None)));
        Ok(Slot {
            config,
            workers,
            state,
            known: RwLock::default(),
            refusal: RwLock::default(),
            tending: Mutex::default(),
            examiner: Mutex::default(),
            seen: RwLock::default(),
        })
    }

    pub(super) fn name(&self) -> &str {
        &self.config.setup.name
    }

    pub(super) fn id(&self) -> Option<PoolId> {
        match &*self.state.read().unwrap_or_else(PoisonError::into_inner) {
            State::Open(id, _) => Some(*id),
            State::Away(away) => away.id,
        }
    }

    /// The open pool. To be called on its threads.
    pub(super) fn open(&self) -> Result<Arc<dyn Pool>> {
        match &*self.state.read().unwrap_or_else(PoisonError::into_inner) {
            State::Open(_, pool) => pool.get().map(Arc::clone).ok_or_else(|| {
                // It was opened between the choice of the threads and now.
                Error::Unavailable(format!("pool {} has only just come; ask again", quoted(self.name())))
            }),
            State::Away(away) => Err(self.away(&away.why)),
        }
    }

    /// Whether it was here, and its disk surely is not any more.
    pub(super) fn is_gone(&self) -> bool {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        matches!(&*state, State::Away(away) if away.gone)
    }

    /// Whether the calling thread is one of those that may reach the open pool.
    pub(super) fn is_here(&self) -> bool {
        self.workers.is_here()
    }

    /// Notes that the calling thread looks for the doctor, until what this answers is dropped.
    pub(super) fn examining(&self) -> Examining<'_> {
        *self.examiner.lock().unwrap_or_else(PoisonError::into_inner) = Some(Thread::here());
        Examining(self)
    }

    /// For how long those have run on whom a look of the doctor waits, in nanoseconds; `None` where that is not known.
    pub(super) fn ran(&self) -> Option<u64> {
        let examiner = *self.examiner.lock().unwrap_or_else(PoisonError::into_inner);
        examiner.map_or_else(|| self.workers.ran(), Thread::ran)
    }

    /// Whether it is known to be away, and nobody is about to find out more for so long that its disk may hang.
    pub(super) fn is_surely_away(&self) -> bool {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        matches!(&*state, State::Away(..)) && self.workers.silence().is_none()
    }

    /// Why it cannot be used, as far as is known without asking the disk.
    pub(super) fn trouble(&self) -> Option<Error> {
        let silence = self.workers.silence();
        let silent = silence.map(|silence| format!("its disk has not answered for {} s", silence.as_secs()));
        match (&*self.state.read().unwrap_or_else(PoisonError::into_inner), silent) {
            (State::Open(..), None) => None,
            (State::Open(..), Some(silent)) => Some(self.away(&silent)),
            (State::Away(away), None) => Some(self.away(&away.why)),
            (State::Away(away), Some(silent)) => Some(self.away(&format!("{}; {silent}", away.why))),
        }
    }

    fn away(&self, why: &str) -> Error {
        Error::Unavailable(of_pool(self.name(), why))
    }

    /// Takes a new state; answers the one before.
    pub(super) fn set(&self, state: State) -> State {
        std::mem::replace(&mut *self.state.write().unwrap_or_else(PoisonError::into_inner), state)
    }

    /// Notes whether it takes changes, for those who cannot ask.
    pub(super) fn note_refusal(&self, writable: Result<()>) {
        let refusal = writable.err().map(|error| chain(&error));
        *self.refusal.write().unwrap_or_else(PoisonError::into_inner) = refusal;
    }

    /// Why it takes no changes, though it can be read, as was last seen.
    pub(super) fn refusal(&self) -> Option<String> {
        self.refusal.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes what a regular look has seen.
    pub(super) fn note_seen(&self, change: impl FnOnce(&mut Seen)) {
        change(&mut self.seen.write().unwrap_or_else(PoisonError::into_inner));
    }

    /// What regular looks last saw.
    pub(super) fn seen(&self) -> Seen {
        *self.seen.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was last seen of it; none before it was ever open.
    pub(super) fn known(&self) -> Option<Known> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What may be promised in all, in bytes; looked up now, and noted for those who cannot ask.
    pub(super) fn budget(&self, pool: &dyn Pool) -> Result<Bytes> {
        let usage = pool.usage()?;
        let budget = self.share_of(usage.total.less(usage.foreign));
        let most = self.share_of(usage.total);
        let known = Known { features: pool.features(), budget, most, usage };
        *self.known.write().unwrap_or_else(PoisonError::into_inner) = Some(known);
        Ok(budget)
    }

    /// What may be promised where so much is there.
    pub(super) fn share_of(&self, there: Bytes) -> Bytes {
        let share = (1.0 - self.config.reserve) * self.config.overcommit;
        there.scaled(share).round_down(crate::model::UNIT)
    }

    /// The open pool, ready for changes, with what may be promised on it.
    pub(super) fn ready(&self) -> Result<(Arc<dyn Pool>, Bytes)> {
        let pool = self.open()?;
        if let Err(error) = pool.writable() {
            self.note_refusal(pool.writable());
            return Err(error);
        }
        let budget = self.budget(pool.as_ref())?;
        Ok((pool, budget))
    }
}

/// A look of the doctor, as long as it takes.
pub(super) struct Examining<'a>(&'a Slot);

impl Drop for Examining<'_> {
    fn drop(&mut self) {
        *self.0.examiner.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}
