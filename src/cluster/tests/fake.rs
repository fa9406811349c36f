//! A node that a test moves by hand.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::service::Routes;
use tonic::{Request, Response, Status};

use super::store::Store;
use crate::proto::csi::controller_server::ControllerServer;
use crate::proto::csi::group_controller_server::GroupControllerServer;
use crate::proto::link::link_server::{Link, LinkServer};
use crate::proto::link::transfers_server::TransfersServer;
use crate::proto::link::{News, Pool, Room, WatchRequest};

/// Clones are the same node.
#[derive(Clone)]
pub(in crate::cluster) struct Fake {
    name: String,
    news: Arc<Mutex<Telling>>,
    pub(in crate::cluster) store: Arc<Store>,
}

/// What it tells.
#[derive(Default)]
pub(in crate::cluster) struct Telling {
    pub(in crate::cluster) pools: BTreeMap<String, Pool>,
    names: BTreeSet<u64>,
    /// With the number of the last message of each.
    streams: Vec<(u64, mpsc::UnboundedSender<Result<News, Status>>)>,
    /// How many streams were begun.
    pub(in crate::cluster) begun: usize,
    /// Whether a stream begins with nothing.
    pub(in crate::cluster) mute: bool,
}

impl Telling {
    fn tell(&mut self, news: &News) {
        self.streams.retain_mut(|(last, stream)| {
            *last += 1;
            stream.send(Ok(News { sequence: *last, ..news.clone() })).is_ok()
        });
    }
}

/// A pool that is there and read, with room for this many GiB.
pub(in crate::cluster) fn pool(name: &str, id: &str, gib: i64) -> Pool {
    let room = |access: &str| Room {
        access: access.to_owned(),
        allocation: "sparse".to_owned(),
        available_bytes: gib << 30,
        minimum_bytes: 1 << 20,
    };
    Pool {
        name: name.to_owned(),
        id: id.to_owned(),
        kind: "sim".to_owned(),
        promised_bytes: (100 - gib) << 30,
        budget_bytes: 100 << 30,
        rooms: vec![room("ext4"), room("block")],
        ..Pool::default()
    }
}

impl Fake {
    pub(in crate::cluster) fn new(name: &str) -> Fake {
        Fake { name: name.to_owned(), news: Arc::default(), store: Arc::default() }
    }

    /// One with a pool named `main` of this id.
    pub(in crate::cluster) fn with_pool(name: &str, id: &str) -> Fake {
        let fake = Fake::new(name);
        fake.tell(pool("main", id, 50));
        fake
    }

    pub(in crate::cluster) fn name(&self) -> &str {
        &self.name
    }

    pub(in crate::cluster) fn routes(&self) -> Routes {
        Routes::new(LinkServer::new(self.clone()))
            .add_service(ControllerServer::new(self.clone()))
            .add_service(GroupControllerServer::new(self.clone()))
            .add_service(TransfersServer::new(self.clone()))
    }

    pub(in crate::cluster) fn news(&self) -> MutexGuard<'_, Telling> {
        self.news.lock().unwrap()
    }

    /// Has this pool from now on.
    pub(in crate::cluster) fn tell(&self, pool: Pool) {
        let mut news = self.news();
        news.pools.insert(pool.name.clone(), pool.clone());
        news.tell(&News { pools: vec![pool], ..News::default() });
    }

    /// Has a name from now on.
    pub(in crate::cluster) fn take(&self, hash: u64) {
        let mut news = self.news();
        news.names.insert(hash);
        news.tell(&News { taken: vec![hash], ..News::default() });
    }

    /// Has it no longer.
    pub(in crate::cluster) fn free(&self, hash: u64) {
        let mut news = self.news();
        news.names.remove(&hash);
        news.tell(&News { freed: vec![hash], ..News::default() });
    }

    /// Is a node without any pool from now on, for those who ask anew.
    pub(in crate::cluster) fn lose_pools(&self) {
        self.news().pools.clear();
    }

    /// Loses a message on the way.
    pub(in crate::cluster) fn skip(&self) {
        self.news().streams.iter_mut().for_each(|(last, _)| *last += 1);
    }

    /// Ends all streams.
    pub(in crate::cluster) fn hang_up(&self) {
        self.news().streams.clear();
    }
}

#[tonic::async_trait]
impl Link for Fake {
    type WatchStream = UnboundedReceiverStream<Result<News, Status>>;

    async fn watch(&self, _: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let (tell, told) = mpsc::unbounded_channel();
        let mut news = self.news();
        news.begun += 1;
        let mut last = 0;
        if !news.mute {
            last = 1;
            let all = News {
                sequence: 1,
                pools: news.pools.values().cloned().collect(),
                taken: news.names.iter().copied().collect(),
                freed: vec![],
            };
            tell.send(Ok(all)).unwrap();
        }
        news.streams.push((last, tell));
        Ok(UnboundedReceiverStream::new(told).into())
    }
}
