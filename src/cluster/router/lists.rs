//! Lists over all nodes, in one order: that of the ids, which begin with their pool.
//!
//! The pools are walked in ascending order from the cursor, and of each only what lies in it is taken, from its node. So a
//! token is an id as on a node: it needs no memory, and is good on every controller and after every restart. Never: leaves a
//! pool out: who collects garbage takes for deleted what is not listed.

use std::collections::{BTreeSet, VecDeque};
use std::fmt::Display;
use std::future::Future;
use std::str::FromStr;

use tokio::task::JoinHandle;
use tokio::time::Instant;
use tonic::Status;

use super::Router;
use super::forward::{Failed, controller};
use crate::cluster::news::{Pool, Standing};
use crate::csi::Reply;
use crate::csi::call::RequestId;
use crate::csi::checked::snapshots::{self, Filter};
use crate::csi::checked::{Page, health, volumes};
use crate::csi::tokens::{List, cut};
use crate::error::{Error, Result};
use crate::model::{NodeId, PoolId, SnapshotId, VolumeId};
use crate::proto::csi;

/// A page holds no more entries, whatever was asked for.
const LONGEST: usize = 10_000;
/// And no more bytes but for its last entry: a client takes 4 MiB.
const LARGEST: usize = 3 << 20;
/// So many pools are asked at once, and so many before it is known how much is in one.
const AHEAD: usize = 16;
const FIRST: usize = 4;
/// So many volumes of one pool are listed at once.
const PART: usize = 1_000;

/// What stands in a list.
trait Entry: prost::Message + Send + 'static {
    type Id: Id;
    /// Its id, if it is one of ours.
    fn id(&self) -> Option<Self::Id>;
}

/// An id that begins with a pool.
trait Id: Copy + Ord + Display + FromStr + Send + 'static {
    fn pool(&self) -> PoolId;
    /// Behind it come those of the pool. (It could be one itself, and would be left out; but ids are random.)
    fn first(pool: PoolId) -> Self;
}

impl Id for VolumeId {
    fn pool(&self) -> PoolId {
        VolumeId::pool(self)
    }

    fn first(pool: PoolId) -> Self {
        VolumeId::new(pool, [0; 8])
    }
}

impl Id for SnapshotId {
    fn pool(&self) -> PoolId {
        SnapshotId::pool(self)
    }

    fn first(pool: PoolId) -> Self {
        SnapshotId::new(pool, [0; 8])
    }
}

impl Entry for csi::list_volumes_response::Entry {
    type Id = VolumeId;

    fn id(&self) -> Option<VolumeId> {
        self.volume.as_ref()?.volume_id.parse().ok()
    }
}

impl Entry for csi::list_snapshots_response::Entry {
    type Id = SnapshotId;

    fn id(&self) -> Option<SnapshotId> {
        self.snapshot.as_ref()?.snapshot_id.parse().ok()
    }
}

impl Entry for csi::VolumeHealth {
    type Id = VolumeId;

    fn id(&self) -> Option<VolumeId> {
        self.volume_id.parse().ok()
    }
}

/// What a node is asked: behind which token, and how many.
struct Ask {
    node: NodeId,
    starting_token: String,
    max_entries: i32,
}

/// Entries of one node, and whether there are more.
type Part<E> = std::result::Result<(Vec<E>, String), Failed>;

/// A pool that is being asked; the question ends with whoever waits for it.
struct Asked<E>(JoinHandle<std::result::Result<Vec<E>, Status>>);

impl<E> Drop for Asked<E> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Router {
    pub(super) async fn page_of_volumes(
        &self,
        request: &csi::ListVolumesRequest,
        until: Instant,
    ) -> Reply<csi::ListVolumesResponse> {
        let page = volumes::list(request)?;
        let fetch = move |router: Router, Ask { node, starting_token, max_entries }| async move {
            let request = csi::ListVolumesRequest { max_entries, starting_token };
            let call = |line| async move { controller(line).list_volumes(request).await };
            let part = router.forward(&node, until, call).await?;
            Ok((part.entries, part.next_token))
        };
        let (entries, next_token) = self.walk(List::Volumes, page, fetch).await?;
        Ok(csi::ListVolumesResponse { entries, next_token }.into())
    }

    pub(super) async fn page_of_unhealthy(
        &self,
        request: csi::ControllerListVolumeHealthRequest,
        until: Instant,
    ) -> Reply<csi::ControllerListVolumeHealthResponse> {
        let page = health::list(&request)?;
        let fetch = move |router: Router, Ask { node, starting_token, max_entries }| {
            let mut request = request.clone();
            (request.starting_token, request.max_entries) = (starting_token, max_entries);
            async move {
                let call =
                    |line| async move { controller(line).controller_list_volume_health(request).await };
                let part = router.forward(&node, until, call).await?;
                Ok((part.entries, part.next_token))
            }
        };
        let (entries, next_token) = self.walk(List::VolumeHealth, page, fetch).await?;
        Ok(csi::ControllerListVolumeHealthResponse { entries, next_token }.into())
    }

    pub(super) async fn page_of_snapshots(
        &self,
        request: csi::ListSnapshotsRequest,
        until: Instant,
    ) -> Reply<csi::ListSnapshotsResponse> {
        let (page, filter) = snapshots::list(&request, &self.0.features)?;
        // A snapshot lies in the pool of its volume.
        let pool = match filter {
            Filter::Nothing => return Ok(csi::ListSnapshotsResponse::default().into()),
            Filter::One(snapshot, _) => Some(snapshot.pool()),
            Filter::Of(volume) => Some(volume.pool()),
            Filter::All => None,
        };
        if let Some(pool) = pool {
            if self.is_lost(pool) {
                return Ok(csi::ListSnapshotsResponse::default().into());
            }
            let call = |line| async move { controller(line).list_snapshots(request).await };
            return self.at(pool, until, call).await;
        }
        let fetch = move |router: Router, Ask { node, starting_token, max_entries }| {
            let mut request = request.clone();
            (request.starting_token, request.max_entries) = (starting_token, max_entries);
            async move {
                let call = |line| async move { controller(line).list_snapshots(request).await };
                let part = router.forward(&node, until, call).await?;
                Ok((part.entries, part.next_token))
            }
        };
        let (entries, next_token) = self.walk(List::Snapshots, page, fetch).await?;
        Ok(csi::ListSnapshotsResponse { entries, next_token }.into())
    }

    /// Every volume of one pool that its node lists: none is left out that somebody may use.
    ///
    /// # Errors
    /// Where the node cannot be asked.
    pub(in crate::cluster) async fn volumes_in(
        &self,
        pool: PoolId,
    ) -> std::result::Result<BTreeSet<VolumeId>, Status> {
        let fetch = |router: Router, Ask { node, starting_token, max_entries }| async move {
            let request = csi::ListVolumesRequest { max_entries, starting_token };
            let call = |line| async move { controller(line).list_volumes(request).await };
            let part = router.forward(&node, Instant::now() + router.0.patience.answer, call).await?;
            Ok((part.entries, part.next_token))
        };
        let (mut found, mut after) = (BTreeSet::new(), VolumeId::first(pool));
        loop {
            let part = self.of_pool(List::Volumes, pool, after, PART, fetch).await?;
            let ids: Vec<VolumeId> = part.iter().filter_map(Entry::id).collect();
            found.extend(&ids);
            let Some(last) = ids.last().filter(|_| part.len() >= PART) else { return Ok(found) };
            after = *last;
        }
    }

    /// One page over all pools, and the token of the next.
    async fn walk<E: Entry, F: Future<Output = Part<E>> + Send + 'static>(
        &self,
        list: List,
        page: Page<E::Id>,
        fetch: impl Fn(Router, Ask) -> F + Clone + Send + Sync + 'static,
    ) -> std::result::Result<(Vec<E>, String), Status> {
        self.refuse_incomplete()?;
        self.refuse_unplaced()?;
        let max = page.max.min(LONGEST);
        let pools = self.0.known.pools(page.after.map(|id| id.pool())).into_iter();
        let mut pools = pools.filter(|pool| !self.is_lost(*pool));
        let (mut asked, mut found): (VecDeque<Asked<E>>, Vec<E>) = Default::default();
        let (mut bytes, mut fit, mut heard) = (0, 0, 0);
        while found.len() <= max && bytes <= LARGEST {
            // One more than the page holds says whether there is a next one.
            let wanted = max + 1 - found.len();
            while asked.len() < ahead(wanted, found.len(), heard)
                && let Some(pool) = pools.next()
            {
                let after = page.after.filter(|id| id.pool() == pool).unwrap_or_else(|| E::Id::first(pool));
                let (router, fetch) = (self.clone(), fetch.clone());
                let ask = async move { router.of_pool(list, pool, after, wanted, fetch).await };
                asked.push_back(Asked(tokio::spawn(RequestId::carried(ask))));
            }
            let Some(mut next) = asked.pop_front() else { break };
            let part = (&mut next.0).await;
            heard += 1;
            for entry in part.unwrap_or_else(|_| Err(Status::unavailable("a list broke off; ask again")))? {
                bytes += entry.encoded_len();
                fit += usize::from(bytes <= LARGEST || fit == 0);
                found.push(entry);
            }
        }
        let mut page: Vec<(Option<E::Id>, E)> = found.into_iter().map(|entry| (entry.id(), entry)).collect();
        let token =
            cut(list, &mut page, max.min(fit), |(id, _)| id.map_or_else(String::new, |id| id.to_string()));
        Ok((page.into_iter().map(|(_, entry)| entry).collect(), token))
    }

    /// Up to `wanted` entries of one pool behind an id.
    async fn of_pool<E: Entry, F: Future<Output = Part<E>> + Send>(
        &self,
        list: List,
        pool: PoolId,
        mut after: E::Id,
        wanted: usize,
        fetch: impl Fn(Router, Ask) -> F,
    ) -> std::result::Result<Vec<E>, Status> {
        let node = if list == List::VolumeHealth { self.witness(pool)? } else { self.holder(pool)? };
        let mut found = Vec::new();
        loop {
            let max_entries = i32::try_from(wanted - found.len()).unwrap_or(i32::MAX);
            let ask = Ask { node: node.clone(), starting_token: list.after(after), max_entries };
            let (entries, more) = fetch(self.clone(), ask).await?;
            let (before, mut over) = (found.len(), more.is_empty());
            for entry in entries {
                match entry.id() {
                    Some(id) if id.pool() == pool && id > after => {
                        after = id;
                        found.push(entry);
                    }
                    // Of another pool of this node, which has its turn.
                    Some(id) if id.pool() > pool => over = true,
                    id => {
                        tracing::warn!(%node, %pool, id = id.map(|id| id.to_string()), "a node listed what was not asked for")
                    }
                }
            }
            if over || found.len() >= wanted {
                found.truncate(wanted);
                return Ok(found);
            }
            if found.len() == before {
                let text = format!(
                    "node {node} says that there is more in pool {pool} and lists nothing; ask again"
                );
                return Err(Error::Unavailable(text).into());
            }
        }
    }

    /// Refuses a list that could be too short: pools may be missing of which nothing is known. Those that are known are missed
    /// where their turn comes.
    fn refuse_incomplete(&self) -> Result<()> {
        if let Some(why) = self.starting() {
            return Err(Error::Unavailable(format!("{why}; a list would not be whole, ask again")));
        }
        if let Some(seen) = self.unheard().next() {
            return Err(Error::Unavailable(format!("{seen}; a list would not be whole, ask again")));
        }
        let nodes = self.0.known.nodes();
        let is_unknown = |pool: &Pool| pool.id.is_none_or(|id| pool.unread && !self.is_lost(id));
        let unknown = nodes.iter().filter(|seen| !self.is_over(seen)).find(|seen| {
            seen.standing == Standing::Untold || seen.heard.is_none() || seen.pools.values().any(is_unknown)
        });
        unknown.map_or(Ok(()), |seen| {
            Err(Error::Unavailable(format!("{seen}; a list would not be whole, ask again")))
        })
    }
}

/// How many pools are asked at once for what is still wanted, where so many that were heard had so much: hardly more than are needed, as
/// each answers with all that is wanted.
fn ahead(wanted: usize, found: usize, heard: usize) -> usize {
    let needed = match (heard, found) {
        (0, _) => FIRST,
        (_, 0) => AHEAD,
        (heard, found) => wanted.saturating_mul(heard).div_ceil(found),
    };
    needed.min(wanted).min(AHEAD)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hardly_more_pools_are_asked_than_a_page_needs() {
        assert_eq!(ahead(501, 0, 0), FIRST, "nobody knows");
        assert_eq!(ahead(401, 100, 1), 5);
        assert_eq!(ahead(1, 500, 5), 1);
        assert_eq!(ahead(500, 1, 1), AHEAD);
        assert_eq!(ahead(500, 0, 3), AHEAD, "they are empty");
        assert_eq!(ahead(2, 0, 0), 2);
    }
}
