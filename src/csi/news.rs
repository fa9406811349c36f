//! What a node tells the controllers of itself: the Link service of `proto/news.proto`.
//!
//! Owns: when something is told, and that it is told once: each stream has all of it first and then what has changed. Never:
//! waits for a pool that does not answer: what was known of it last, or nothing, is told then, as GetCapacity does.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status, async_trait};

use crate::engine::{Engine, Key, PoolIndex, PoolView, Room};
use crate::error::{Error, Result};
use crate::model::{Access, Named, PoolId, name_hash};
use crate::proto::link::link_server::Link;
use crate::proto::link::{self as wire, News, WatchRequest};

use super::bridge::ask_each;
use super::{Reply, Services};

/// The shortest time between two messages: what happens at once is told at once, what goes on is told in bunches.
const PAUSE: Duration = Duration::from_millis(200);
/// The longest: capacity is at most two seconds old (issue 5), the time for asking the pools included.
const BEAT: Duration = Duration::from_millis(1200);
/// How long the pools are waited for.
const PATIENCE: Duration = Duration::from_millis(500);

type Told = std::result::Result<News, Status>;

#[async_trait]
impl Link for Services {
    type WatchStream = ReceiverStream<Told>;

    async fn watch(&self, _: Request<WatchRequest>) -> Reply<Self::WatchStream> {
        // Before that, no name that it could tell of would be all of them.
        self.engine()?;
        let (tell, told) = mpsc::channel(1);
        tokio::spawn(tell_on(Arc::clone(&self.plugin.engine), tell));
        Ok(ReceiverStream::new(told).into())
    }
}

/// Tells of everything, for as long as somebody listens.
async fn tell_on(engine: Arc<Engine>, tell: mpsc::Sender<Told>) {
    let mut said = Said::default();
    let mut questions = Questions::new(&engine);
    loop {
        let begun = Instant::now();
        let seen = engine.changes();
        let pools = questions.ask(&engine).await;
        let news = said.news(pools, names(&engine));
        if tell.send(Ok(news)).await.is_err() {
            return;
        }
        loop {
            tokio::select! {
                () = tell.closed() => return,
                () = tokio::time::sleep(PAUSE) => {}
            }
            if engine.changes() != seen || begun.elapsed() + PAUSE > BEAT {
                break;
            }
        }
    }
}

/// What one stream has told.
#[derive(Default)]
struct Said {
    sequence: u64,
    pools: BTreeMap<String, wire::Pool>,
    names: BTreeSet<u64>,
}

impl Said {
    /// What is new.
    fn news(&mut self, mut pools: Vec<wire::Pool>, taken: Vec<(u64, PoolId)>) -> News {
        self.sequence += 1;
        // As of the same moment: none of a pool that is gone may seem to be elsewhere.
        for pool in pools.iter_mut().filter(|pool| pool.gone) {
            let id = pool.id.parse().ok();
            let own = taken.iter().filter(|(_, of)| Some(*of) == id).map(|(hash, _)| *hash);
            pool.names = own.collect::<BTreeSet<u64>>().into_iter().collect();
        }
        let names: BTreeSet<u64> = taken.into_iter().map(|(hash, _)| hash).collect();
        let taken = names.difference(&self.names).copied().collect();
        let freed = self.names.difference(&names).copied().collect();
        self.names = names;
        let is_new = |pool: &wire::Pool| self.pools.get(&pool.name) != Some(pool);
        let pools: Vec<wire::Pool> = pools.into_iter().filter(is_new).collect();
        self.pools.extend(pools.iter().map(|pool| (pool.name.clone(), pool.clone())));
        News { sequence: self.sequence, pools, taken, freed }
    }
}

/// The names that are taken, and the pools where they are.
fn names(engine: &Engine) -> Vec<(u64, PoolId)> {
    let mut names = Vec::new();
    engine.each_name(|key, pool| {
        let hash = match key {
            Key::VolumeName(name) => Some(name_hash(Named::Volume, name)),
            Key::SnapshotName(name) => Some(name_hash(Named::Snapshot, name)),
            Key::GroupName(name) => Some(name_hash(Named::Group, name)),
            Key::Object(_) | Key::Turn(_) => None,
        };
        names.extend(hash.map(|hash| (hash, pool)));
    });
    names
}

/// One question at a time to each pool: where a disk hangs, only that one waits for it.
struct Questions(Vec<(PoolIndex, Arc<AtomicBool>)>);

/// That a question is on its way; until it was answered or came to nothing.
struct OnItsWay(Arc<AtomicBool>);

impl Drop for OnItsWay {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl Questions {
    fn new(engine: &Engine) -> Questions {
        Questions(engine.indexes().map(|index| (index, Arc::default())).collect())
    }

    /// What every pool is like, in the operator's order.
    async fn ask(&mut self, engine: &Arc<Engine>) -> Vec<wire::Pool> {
        let (mut questions, mut waiting) = (Vec::new(), Vec::new());
        for (index, asked) in &self.0 {
            let is_free = !asked.swap(true, Ordering::AcqRel);
            waiting.push(!is_free);
            if is_free {
                let (engine_there, index, on_its_way) =
                    (Arc::clone(engine), *index, OnItsWay(Arc::clone(asked)));
                questions.push((engine.workers_at(index), move || {
                    let _on_its_way = on_its_way;
                    engine_there.rooms(index)
                }));
            }
        }
        let mut answers = ask_each(questions, PATIENCE).await.into_iter();
        let rooms: Vec<Result<Vec<Room>>> = waiting
            .into_iter()
            .map(|waiting| {
                if waiting {
                    Err(still_asked())
                } else {
                    answers.next().unwrap_or_else(|| Err(still_asked()))
                }
            })
            .collect();
        let pools = engine.pools().into_iter().zip(&self.0).zip(rooms);
        pools
            .map(|((view, (index, _)), rooms)| {
                let rooms = rooms.unwrap_or_else(|error| engine.rooms_unasked(*index, &error));
                shown(view, !engine.has_read(*index), &rooms)
            })
            .collect()
    }
}

fn still_asked() -> Error {
    Error::Unavailable("the last question has not been answered yet".to_owned())
}

fn shown(pool: PoolView, unread: bool, rooms: &[Room]) -> wire::Pool {
    wire::Pool {
        name: pool.name,
        id: pool.id.map_or_else(String::new, |id| id.to_string()),
        kind: pool.config.setup.kind.name().to_owned(),
        away: pool.away.unwrap_or_default(),
        unread,
        promised_bytes: pool.promised.as_i64(),
        budget_bytes: pool.budget.as_i64(),
        rooms: rooms.iter().map(shown_room).collect(),
        gone: pool.gone,
        names: Vec::new(),
        read_only: pool.read_only.unwrap_or_default(),
        quarantined_records: pool.quarantined,
    }
}

fn shown_room(room: &Room) -> wire::Room {
    wire::Room {
        access: match room.access {
            Access::Mount { fs } => fs.name().to_owned(),
            Access::Block => "block".to_owned(),
        },
        allocation: room.allocation.name().to_owned(),
        available_bytes: room.capacity.available.as_i64(),
        minimum_bytes: room.capacity.minimum.as_i64(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{EngineConfig, Files, PoolConfig};
    use crate::model::{Bytes, Retention};
    use crate::pool::{Kind, Quota, Setup};

    #[test]
    fn why_a_pool_cannot_be_changed_and_what_of_it_cannot_be_read_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let (name, path) = ("fast".to_owned(), directory.path().to_owned());
        let size = Some(Bytes::GIB);
        let setup = Setup { name, kind: Kind::Sim, path, file: None, device: None, quota: Quota::None, size };
        let pools = vec![PoolConfig { setup, overcommit: 1.0, reserve: 0.0, retain: Retention::NONE }];
        let (kubelet_root, state_dir) = (directory.path().to_owned(), directory.path().join("state"));
        let engine =
            Engine::open(EngineConfig { pools, kubelet_root, state_dir, files: Files::Apart }).unwrap();
        let view = engine.pools().remove(0);
        let well = shown(view.clone(), false, &[]);
        assert_eq!((well.read_only.as_str(), well.quarantined_records), ("", 0));
        let ill = PoolView { read_only: Some("an I/O error".to_owned()), quarantined: 2, ..view };
        let ill = shown(ill, false, &[]);
        assert_eq!((ill.read_only.as_str(), ill.quarantined_records), ("an I/O error", 2));
    }
}
