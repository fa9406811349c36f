//! Whom a call goes to: any controller, several at once, or the node that has a volume.
//!
//! Owns: the connections to all sockets, and who asks which controller. A caller whose call was left open asks the same
//! controller again until that has answered or is dead, as a sidecar does, which has one controller: what it may still send is
//! then never behind what was asked later. Never: judges an answer, but that two controllers give the same.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tonic::Request;
use tonic::transport::Channel;

use crate::chance::Chance;
use crate::node::{CONTROLLERS, NODES};
use crate::wire::{Answer, Of};
use crate::{Outcome, requests};

/// One of two that were asked the same may be open for so long.
const OPEN: Duration = Duration::from_secs(90);
const MOMENT: Duration = Duration::from_millis(50);

/// One process, until it ends.
#[derive(Clone, Debug)]
pub(crate) struct Way {
    pub(crate) channel: Channel,
    end: usize,
    life: u64,
}

impl Way {
    /// A request as a caller with so much patience sends it: as sidecars do, it tells how long it waits.
    pub(crate) fn request<T>(request: T, patience: Duration) -> Request<T> {
        let mut request = Request::new(request);
        request.set_timeout(patience);
        request
    }
}

/// One socket.
#[derive(Debug, Default)]
struct End {
    channel: Mutex<Option<Channel>>,
    admin: Mutex<Option<Channel>>,
    /// Counts up with every process that comes or goes.
    life: AtomicU64,
}

/// The ways to all parts: the nodes first, then the controllers.
#[derive(Debug)]
pub(crate) struct Exchange {
    ends: Vec<End>,
    /// Which node has a pool.
    pools: Mutex<BTreeMap<String, usize>>,
    /// Which controller was asked last about what is still open.
    open: Mutex<HashMap<String, usize>>,
    /// So many of a hundred calls go through both controllers at once.
    twofold: AtomicUsize,
    chance: Mutex<Chance>,
    wrong: Mutex<Vec<String>>,
}

impl Default for Exchange {
    fn default() -> Self {
        Exchange {
            ends: (0..NODES + CONTROLLERS).map(|_| End::default()).collect(),
            pools: Mutex::default(),
            open: Mutex::default(),
            twofold: AtomicUsize::new(0),
            chance: Mutex::new(Chance::new(0, 3)),
            wrong: Mutex::default(),
        }
    }
}

impl Exchange {
    /// Connects to a process that was just started.
    pub(crate) async fn connect(&self, end: usize, socket: &Path, admin: Option<&Path>) -> Outcome<()> {
        let channel = requests::endpoint(socket)?.connect().await?;
        let end = &self.ends[end];
        end.life.fetch_add(1, Ordering::Relaxed);
        *lock(&end.admin) = admin
            .map(|admin| Ok::<_, tonic::transport::Error>(requests::endpoint(admin)?.connect_lazy()))
            .transpose()?;
        *lock(&end.channel) = Some(channel);
        Ok(())
    }

    /// A process has ended.
    pub(crate) fn cut(&self, end: usize) {
        self.ends[end].life.fetch_add(1, Ordering::Relaxed);
        *lock(&self.ends[end].channel) = None;
        lock(&self.open).retain(|_, asked| *asked != end);
    }

    /// A node has this pool from now on.
    pub(crate) fn has(&self, node: usize, pool: &str) {
        lock(&self.pools).insert(pool.to_owned(), node);
    }

    /// From now on so many of a hundred calls go through both controllers at once; chance comes from this seed.
    pub(crate) fn double(&self, percent: usize, seed: u64) {
        self.twofold.store(percent, Ordering::Relaxed);
        *lock(&self.chance) = Chance::new(seed, 3);
    }

    /// What two controllers answered and cannot both be, since the last question.
    pub(crate) fn wrong(&self) -> Vec<String> {
        std::mem::take(&mut lock(&self.wrong))
    }

    /// To one process, if it is there.
    pub(crate) fn to(&self, end: usize) -> Option<Way> {
        let channel = lock(&self.ends[end].channel).clone()?;
        Some(Way { channel, end, life: self.ends[end].life.load(Ordering::Relaxed) })
    }

    /// To any controller.
    pub(crate) fn way(&self) -> Option<Way> {
        (NODES..NODES + CONTROLLERS).find_map(|end| self.to(end))
    }

    /// Whether it is still that process.
    pub(crate) fn lasts(&self, way: &Way) -> bool {
        way.life == self.ends[way.end].life.load(Ordering::Relaxed)
    }

    /// Where operators are served.
    pub(crate) fn admins(&self) -> Vec<Channel> {
        self.ends.iter().filter_map(|end| lock(&end.admin).clone()).collect()
    }

    /// Asks whoever answers such a call; none where nobody is there.
    pub(crate) async fn ask<T: PartialEq + Debug, F: Future<Output = Answer<T>>>(
        &self,
        of: Of<'_>,
        through: impl Fn(Way) -> F,
    ) -> Option<Answer<T>> {
        match of {
            Of::Node(volume) => {
                let pool = volume.split('.').nth(1)?;
                let node = lock(&self.pools).get(pool).copied()?;
                Some(through(self.to(node)?).await)
            }
            Of::All(_) => {
                let first = lock(&self.chance).below(CONTROLLERS);
                let way = self.to(NODES + first).or_else(|| self.way())?;
                Some(through(way).await)
            }
            Of::Any(about) => match self.ways(about) {
                (Some(one), Some(other)) => {
                    let answers =
                        tokio::join!(self.until_sure(one, &through), self.until_sure(other, &through));
                    Some(self.both(answers))
                }
                (Some(one), None) | (None, Some(one)) => {
                    let answer = through(one.clone()).await;
                    self.note(about, &one, matches!(answer, Answer::Open(..)));
                    Some(answer)
                }
                (None, None) => None,
            },
        }
    }

    /// The controllers that are asked about something.
    fn ways(&self, about: &str) -> (Option<Way>, Option<Way>) {
        if let Some(asked) = lock(&self.open).get(about) {
            return (self.to(*asked), None);
        }
        let (first, twice) = {
            let mut chance = lock(&self.chance);
            // A name that several nodes may have is given on two of them where two controllers hear of it at once.
            let twice = chance.percent(self.twofold.load(Ordering::Relaxed))
                && crate::node::home(about).is_none_or(|home| home < NODES);
            (chance.below(CONTROLLERS), twice)
        };
        let (one, other) = (self.to(NODES + first), self.to(NODES + (first + 1) % CONTROLLERS));
        // Where one is dead the other is asked.
        if one.is_some() && !twice { (one, None) } else { (one, other) }
    }

    /// A caller remembers whom it asked as long as the outcome is open.
    fn note(&self, about: &str, way: &Way, open: bool) {
        let mut asked = lock(&self.open);
        if open && self.lasts(way) {
            asked.insert(about.to_owned(), way.end);
        } else {
            asked.remove(about);
        }
    }

    /// Asks one again and again until the outcome is not open, or it is dead.
    async fn until_sure<T, F: Future<Output = Answer<T>>>(
        &self,
        way: Way,
        through: impl Fn(Way) -> F,
    ) -> Answer<T> {
        let began = Instant::now();
        loop {
            let answer = through(way.clone()).await;
            if !matches!(answer, Answer::Open(..)) || !self.lasts(&way) || began.elapsed() > OPEN {
                return answer;
            }
            tokio::time::sleep(MOMENT).await;
        }
    }

    /// What follows from what two have answered to the same.
    fn both<T: PartialEq + Debug>(&self, answers: (Answer<T>, Answer<T>)) -> Answer<T> {
        let mut wrong = lock(&self.wrong);
        match answers {
            (Answer::Done(one), Answer::Done(other)) => {
                if one != other {
                    wrong.push(format!("two controllers say two things: {one:?} and {other:?}"));
                }
                Answer::Done(one)
            }
            (Answer::Done(done), Answer::Refused(code, message))
            | (Answer::Refused(code, message), Answer::Done(done)) => {
                wrong.push(format!("one controller says {done:?}, the other {code:?} {message}"));
                Answer::Done(done)
            }
            (Answer::Open(..), sure) => sure,
            (sure, _) => sure,
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
