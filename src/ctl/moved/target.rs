//! Whether a pool can have moved to a node: asked before anything is done.
//!
//! Owns: what Kubernetes and a controller are asked about it. Never: changes anything.

use std::time::Duration;

use serde_json::Value;

use super::super::answer::say;
use super::super::driver;
use super::super::failure::{Failure, Outcome};
use super::{Move, asked};
use crate::cluster::kubernetes::Fault;
use crate::config::Endpoint;
use crate::error::quoted;
use crate::proto::admin::{ClusterPool, ListClusterPoolsRequest};

/// Refuses a node that cannot have the pool; answers whether a controller has confirmed that it has. Where none was named, it is said
/// that nobody was asked.
pub(super) async fn check(run: &Move, controller: Option<&Endpoint>, timeout: Duration) -> Outcome<bool> {
    refuse_without_driver(run).await?;
    let Some(controller) = controller else {
        let how = "with --admin-endpoint of a controller it is, and `rockpool ctl pool list` there shows it";
        say(&format!("whether pool {} is on {} was not checked: {how}", run.pool, run.node));
        return Ok(false);
    };
    let mut controller = driver::cluster(controller, timeout).await?;
    let answer = controller.list_cluster_pools(ListClusterPoolsRequest {}).await;
    if answer.as_ref().is_err_and(|status| status.code() == tonic::Code::Unimplemented) {
        say(&format!(
            "whether pool {} is on {} was not checked: at --admin-endpoint is no controller",
            run.pool, run.node
        ));
        return Ok(false);
    }
    let pools = answer.map_err(Failure::of("ListClusterPools"))?.into_inner().pools;
    refuse_elsewhere(run, pools.iter().find(|pool| pool.id == run.pool.to_string()))?;
    Ok(true)
}

/// A node that does not exist, or lacks the driver, would leave the volumes nowhere.
async fn refuse_without_driver(run: &Move) -> Outcome<()> {
    let path = format!("/apis/storage.k8s.io/v1/csinodes/{}", run.node);
    let node: Value = match run.api.get(&path).await {
        Err(Fault::Refused(404, _)) => Value::Null,
        answer => answer.map_err(asked("look at the node"))?,
    };
    let drivers = node["spec"]["drivers"].as_array().into_iter().flatten();
    if drivers.into_iter().any(|driver| driver["name"] == run.driver.as_str()) {
        return Ok(());
    }
    let driver = quoted(&run.driver);
    Err(refused(run, &format!("want a node where the driver {driver} is registered")))
}

/// So would one that has the driver, and not the pool.
fn refuse_elsewhere(run: &Move, pool: Option<&ClusterPool>) -> Outcome<()> {
    let is_there = |pool: &ClusterPool| pool.state == "here" && pool.nodes == [run.node.as_str()];
    if pool.is_some_and(is_there) {
        return Ok(());
    }
    let seen = pool.map_or_else(
        || "is not known".to_owned(),
        |pool| match (pool.state.as_str(), pool.nodes.join(" and ")) {
            ("here" | "twice", nodes) => format!("is on {nodes}"),
            (state, nodes) if nodes.is_empty() => format!("is {state}"),
            (state, nodes) => format!("is {state}, and was on {nodes}"),
        },
    );
    Err(refused(run, &format!("the controller says that pool {} {seen}", run.pool)))
}

fn refused(run: &Move, why: &str) -> Failure {
    Failure::Usage(format!("--node {}: {why}; nothing was done", run.node))
}
