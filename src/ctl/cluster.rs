//! `ctl nodes` and `ctl pool`: what a controller knows of its cluster.

use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use tonic::transport::Channel;

use super::Ctl;
use super::answer::{Answer, Table, amount};
use super::driver;
use super::failure::{Failure, Outcome};
use super::moved::{self, Moved};
use crate::config::Endpoint;
use crate::proto::admin;
use admin::cluster_client::ClusterClient;

/// Nodes.
#[derive(Args, Debug)]
pub(super) struct Nodes {
    /// The same as `-o json`.
    #[arg(long)]
    pub(super) json: bool,
}

/// What to do with pools.
#[derive(Subcommand, Debug)]
pub(super) enum Verb {
    /// List the pools of the cluster: where they are, or that they are lost.
    List {
        /// The same as `-o json`.
        #[arg(long)]
        json: bool,
    },
    /// Declare a pool lost, for good: volumes in it can be deleted, and do not exist otherwise.
    Forget {
        /// Its id, as `ctl pool list` shows it.
        #[arg(value_name = "POOL")]
        pool: String,
    },
    /// Let the PersistentVolumes of a pool that was moved to another node follow it, by your own rights; says what it would do.
    Moved(Moved),
    /// Take that back, and forget what was deleted in it meanwhile.
    Recall {
        /// Its id.
        #[arg(value_name = "POOL")]
        pool: String,
    },
}

impl Verb {
    pub(super) fn is_json(&self) -> bool {
        matches!(self, Verb::List { json: true })
    }
}

pub(super) async fn nodes(mut controller: ClusterClient<Channel>) -> Outcome<Answer> {
    let answer = controller.list_nodes(admin::ListNodesRequest {}).await;
    let answer = answer.map_err(Failure::of("ListNodes"))?.into_inner();
    let mut table = Table::new(&["NODE", "STATE", "FOR", "VERSION", "POOLS", "NOTE"]);
    for node in &answer.nodes {
        let time = if node.connected_seconds > 0 { node.connected_seconds } else { node.away_seconds };
        table.push([
            node.id.clone(),
            node.standing.clone(),
            format!("{time} s"),
            node.version.clone(),
            node.pools.join(","),
            note(node, answer.roster_known).to_owned(),
        ]);
    }
    let counts = answer.refused.iter().map(|(reason, count)| format!("refused {count} times: {reason}"));
    let last = answer.recent.iter().take(5).map(|one| {
        format!("refused {} s ago: {} from {}: {}", one.seconds_ago, one.reason, one.from, one.message)
    });
    let notes = counts.chain(last).collect();
    let recent: Vec<Value> = answer.recent.iter().map(refused_json).collect();
    let list: Vec<Value> = answer.nodes.iter().map(node_json).collect();
    let json = json!({
        "nodes": list,
        "refused": answer.refused,
        "recently_refused": recent,
        "roster_known": answer.roster_known,
    });
    Ok(Answer::new(table, json).noting(notes))
}

/// The nodes and the pools that a controller knows, as `-o json` shows them.
pub(super) async fn told(endpoint: &Endpoint, timeout: Duration) -> Outcome<(Vec<Value>, Vec<Value>)> {
    let mut controller = driver::cluster(endpoint, timeout).await?;
    let nodes = controller.list_nodes(admin::ListNodesRequest {}).await;
    let nodes = nodes.map_err(Failure::of("ListNodes"))?.into_inner().nodes;
    let pools = controller.list_cluster_pools(admin::ListClusterPoolsRequest {}).await;
    let pools = pools.map_err(Failure::of("ListClusterPools"))?.into_inner().pools;
    Ok((nodes.iter().map(node_json).collect(), pools.iter().map(pool_json).collect()))
}

fn note(node: &admin::ClusterNode, roster_known: bool) -> &'static str {
    match (node.gone, node.expected, roster_known) {
        (true, _, _) => "no longer exists",
        (false, false, true) => "not expected",
        (false, true, _) | (false, false, false) => "",
    }
}

fn node_json(node: &admin::ClusterNode) -> Value {
    json!({
        "id": node.id,
        "standing": node.standing,
        "expected": node.expected,
        "gone": node.gone,
        "version": node.version,
        "connected_seconds": node.connected_seconds,
        "away_seconds": node.away_seconds,
        "pools": node.pools,
    })
}

fn refused_json(one: &admin::Refused) -> Value {
    json!({ "seconds_ago": one.seconds_ago, "from": one.from, "reason": one.reason, "message": one.message })
}

pub(super) async fn pool(ctl: &Ctl, timeout: Duration, verb: &Verb) -> Outcome<Answer> {
    let controller = async { driver::cluster(&ctl.admin()?, timeout).await };
    match verb {
        // It asks a controller, which may be far away, only where one was named.
        Verb::Moved(moved) => moved::run(moved, ctl.admin_endpoint.as_ref(), timeout).await,
        Verb::List { .. } => list(controller.await?).await,
        Verb::Forget { pool } => forget(controller.await?, pool).await,
        Verb::Recall { pool } => {
            let answer = controller.await?.recall_pool(admin::RecallPoolRequest { pool: pool.clone() }).await;
            answer.map_err(Failure::of("RecallPool"))?;
            Ok(Answer::done("recalled", pool))
        }
    }
}

async fn forget(mut controller: ClusterClient<Channel>, pool: &str) -> Outcome<Answer> {
    let answer = controller.forget_pool(admin::ForgetPoolRequest { pool: pool.to_owned() }).await;
    let answer = answer.map_err(Failure::of("ForgetPool"))?.into_inner();
    let note = match (answer.already, &answer.nodes[..]) {
        (true, _) => "it was declared lost before".to_owned(),
        (false, []) => "no node has told this controller of such a pool: is the id right?".to_owned(),
        (false, nodes) => format!("it was last on {}", nodes.join(", ")),
    };
    let unheard = answer.unheard.iter().map(|node| {
        format!("node {node} has told this controller nothing; should the pool be there, it is that node's again when it is back")
    });
    let json = json!({
        "done": "forgot",
        "pool": pool,
        "already": answer.already,
        "nodes": answer.nodes,
        "unheard": answer.unheard,
    });
    let table = Table::of_one([("FORGOT", pool.to_owned()), ("NOTE", note)]);
    Ok(Answer::new(table, json).noting(unheard.collect()))
}

async fn list(mut controller: ClusterClient<Channel>) -> Outcome<Answer> {
    let answer = controller.list_cluster_pools(admin::ListClusterPoolsRequest {}).await;
    let pools = answer.map_err(Failure::of("ListClusterPools"))?.into_inner().pools;
    let mut table = Table::new(&["POOL", "NAME", "STATE", "NODE", "PROMISED", "BUDGET", "NOTE"]);
    let mut notes = Vec::new();
    for pool in &pools {
        table.push([
            pool.id.clone(),
            pool.name.clone(),
            pool.state.clone(),
            pool.nodes.join(","),
            amount(pool.promised_bytes),
            amount(pool.budget_bytes),
            pool.why.clone(),
        ]);
        if pool.state != "lost" {
            let orphans = pool.deleted.iter();
            notes.extend(
                orphans.map(|id| format!("orphan: {id} was deleted while pool {} was lost", pool.id)),
            );
        }
    }
    let list: Vec<Value> = pools.iter().map(pool_json).collect();
    Ok(Answer::new(table, json!({ "pools": list })).noting(notes))
}

fn pool_json(pool: &admin::ClusterPool) -> Value {
    json!({
        "id": pool.id,
        "name": pool.name,
        "state": pool.state,
        "nodes": pool.nodes,
        "why": pool.why,
        "promised_bytes": pool.promised_bytes,
        "budget_bytes": pool.budget_bytes,
        "deleted": pool.deleted,
    })
}
