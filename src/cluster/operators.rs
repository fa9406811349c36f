//! What a controller tells operators, and takes from them: the Cluster service of `proto/admin.proto`.
//!
//! Owns: how nodes, pools and refusals look to `rockpool ctl`. Never: decides what an answer to CSI is: that is the router's.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tonic::{Request, async_trait};

use super::link::controller::{Desk, REASONS};
use super::lost::Declared;
use super::news::{Seen, Standing};
use super::router::Router;
use crate::csi::{Reply, noted};
use crate::error::{Error, Result};
use crate::model::{NodeId, PoolId};
use crate::proto::admin;
use crate::proto::admin::cluster_server::{Cluster, ClusterServer};

/// The services for operators of one controller.
#[derive(Clone)]
pub struct Operators {
    router: Router,
    desk: Arc<Desk>,
}

impl Operators {
    /// Those of the controller with this router and this desk.
    pub fn new(router: Router, desk: Arc<Desk>) -> Operators {
        Operators { router, desk }
    }

    /// The Cluster service.
    pub fn cluster(&self) -> ClusterServer<Operators> {
        ClusterServer::new(self.clone())
    }

    fn node(&self, node: &NodeId, seen: Option<&Seen>, expected: bool) -> admin::ClusterNode {
        let link = self.desk.links().of(node);
        let standing = match seen.map(|seen| (seen.standing, seen.heard)) {
            Some((Standing::Told, _)) => "connected",
            Some((Standing::Untold, _)) => "connecting",
            Some((Standing::Away, _)) => "away",
            None => "never",
        };
        admin::ClusterNode {
            id: node.to_string(),
            standing: standing.to_owned(),
            expected,
            gone: seen.is_none_or(|seen| seen.standing == Standing::Away)
                && self.router.roster().is_gone(node),
            version: link.as_ref().map(|link| link.version.clone()).unwrap_or_default(),
            connected_seconds: link.map_or(0, |link| seconds(link.since.elapsed())),
            away_seconds: seen.filter(|seen| seen.standing == Standing::Away).map_or(0, away),
            pools: seen.map(|seen| seen.pools.keys().cloned().collect()).unwrap_or_default(),
        }
    }

    fn pool(&self, id: PoolId, declared: Option<&Declared>) -> admin::ClusterPool {
        let known = self.router.known();
        let (here, announcers) = (known.here(id), known.announcers(id));
        let told = announcers.iter().filter_map(|node| known.node(node));
        let mut told = told.flat_map(|seen| {
            seen.pools.iter().map(|(name, pool)| (name.clone(), pool.clone())).collect::<Vec<_>>()
        });
        let told = told.rfind(|(_, pool)| pool.id == Some(id));
        let is_lost = declared.is_some_and(|declared| !declared.returned) && known.present(id).is_empty();
        let state = match here.len() {
            _ if is_lost => "lost",
            _ if known.is_twice(id) => "twice",
            0 => "away",
            _ => "here",
        };
        let deleted = declared.map(|declared| declared.deleted.iter().cloned().collect()).unwrap_or_default();
        let (name, pool) = told.unzip();
        admin::ClusterPool {
            id: id.to_string(),
            name: name.unwrap_or_default(),
            nodes: if here.is_empty() { announcers } else { here }.iter().map(NodeId::to_string).collect(),
            state: state.to_owned(),
            why: match declared.filter(|_| is_lost) {
                Some(declared) => declared.why.clone(),
                // Where it came back after all, why it was given up says nothing any more.
                None => pool.as_ref().and_then(|pool| pool.away.clone()).unwrap_or_default(),
            },
            promised_bytes: pool.as_ref().map_or(0, |pool| pool.promised.as_i64()),
            budget_bytes: pool.as_ref().map_or(0, |pool| pool.budget.as_i64()),
            deleted,
        }
    }
}

#[async_trait]
impl Cluster for Operators {
    async fn list_nodes(&self, _: Request<admin::ListNodesRequest>) -> Reply<admin::ListNodesResponse> {
        let seen = self.router.known().nodes();
        let expected = self.router.roster().expected();
        let all: BTreeSet<NodeId> =
            seen.iter().map(|seen| seen.node.clone()).chain(expected.iter().flatten().cloned()).collect();
        let is_expected = |node: &NodeId| expected.as_ref().is_some_and(|nodes| nodes.contains(node));
        let nodes = all.iter().map(|node| {
            let seen = seen.iter().find(|seen| seen.node == *node);
            self.node(node, seen, is_expected(node))
        });
        let refused = REASONS.iter().map(|reason| (*reason, self.desk.refused(reason)));
        let refused = refused.filter(|(_, count)| *count > 0);
        Ok(admin::ListNodesResponse {
            nodes: nodes.collect(),
            refused: refused.map(|(reason, count)| (reason.to_owned(), count)).collect(),
            recent: self.desk.recently_refused().into_iter().map(shown_refusal).collect(),
            roster_known: expected.is_some(),
        }
        .into())
    }

    async fn list_cluster_pools(
        &self,
        _: Request<admin::ListClusterPoolsRequest>,
    ) -> Reply<admin::ListClusterPoolsResponse> {
        let book = self.router.lost().book();
        let all: BTreeSet<PoolId> =
            self.router.known().pools(None).into_iter().chain(book.keys().copied()).collect();
        let pools = all.into_iter().map(|id| self.pool(id, book.get(&id))).collect();
        Ok(admin::ListClusterPoolsResponse { pools }.into())
    }

    async fn forget_pool(
        &self,
        request: Request<admin::ForgetPoolRequest>,
    ) -> Reply<admin::ForgetPoolResponse> {
        let request = noted(request, |r| &r.pool);
        let pool = pool(&request.pool)?;
        let known = self.router.known();
        if let Some(node) = known.present(pool).first() {
            return Err(Error::Precondition(format!(
                "pool {pool} is not lost: node {node} has it; nothing was done. Where its disk is gone for good, take the pool out of \
                 that node's file, or add an [[override]] of that node and pool with absent = true, and restart rockpool there first"
            ))
            .into());
        }
        self.router.refuse_unheard(pool)?;
        let nodes = known.announcers(pool);
        let is_new = self.router.lost().declare(pool, "an operator has forgotten it").await?;
        tracing::warn!(%pool, is_new, ?nodes, "an operator declares a pool lost");
        Ok(admin::ForgetPoolResponse {
            already: !is_new,
            nodes: nodes.iter().map(NodeId::to_string).collect(),
            unheard: self.router.unheard().map(|seen| seen.node.to_string()).collect(),
        }
        .into())
    }

    async fn recall_pool(
        &self,
        request: Request<admin::RecallPoolRequest>,
    ) -> Reply<admin::RecallPoolResponse> {
        let request = noted(request, |r| &r.pool);
        let pool = pool(&request.pool)?;
        if !self.router.lost().withdraw(pool).await? {
            return Err(Error::NotFound(format!("pool {pool} was not declared lost")).into());
        }
        tracing::warn!(%pool, "an operator takes back that a pool is lost");
        Ok(admin::RecallPoolResponse {}.into())
    }
}

fn pool(text: &str) -> Result<PoolId> {
    text.parse().map_err(|_| {
        Error::invalid("pool", text, "want the 12 digits of its id, as `rockpool ctl pool list` shows them")
    })
}

fn shown_refusal((age, from, reason, message): (Duration, String, &'static str, String)) -> admin::Refused {
    admin::Refused { seconds_ago: seconds(age), from, reason: reason.to_owned(), message }
}

fn away(seen: &Seen) -> i64 {
    seen.blind.map_or(0, seconds)
}

fn seconds(time: Duration) -> i64 {
    i64::try_from(time.as_secs()).unwrap_or(i64::MAX)
}
