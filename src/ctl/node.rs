//! `ctl node`: the node that the driver runs on.

use clap::Subcommand;
use serde_json::json;

use super::answer::{Answer, Table, places, places_json, word};
use super::driver::Driver;
use super::failure::{Failure, Outcome};
use super::plugin::words;
use crate::proto::csi;
use csi::node_service_capability::rpc::Type as Rpc;

/// What to ask.
#[derive(Subcommand, Debug)]
pub(super) enum Verb {
    /// Its id, its place and how many volumes it takes.
    Info,
    /// What its node service advertises.
    Capabilities,
    /// What is wrong with its storage as a whole.
    Health,
}

pub(super) async fn run(driver: &Driver, verb: &Verb) -> Outcome<Answer> {
    match verb {
        Verb::Info => info(driver).await,
        Verb::Capabilities => {
            let list = words::<Rpc>(&driver.node_capabilities().await?, |rpc| rpc.as_str_name());
            let mut table = Table::new(&["CAPABILITY"]);
            list.iter().for_each(|one| table.push([one.clone()]));
            Ok(Answer::new(table, json!({ "node": list })))
        }
        Verb::Health => health(driver).await,
    }
}

async fn info(driver: &Driver) -> Outcome<Answer> {
    let answer = driver.node().node_get_info(csi::NodeGetInfoRequest {}).await;
    let info = answer.map_err(Failure::of("NodeGetInfo"))?.into_inner();
    let most = match info.max_volumes_per_node {
        0 => "no limit known".to_owned(),
        most => most.to_string(),
    };
    let topology: Vec<csi::Topology> = info.accessible_topology.into_iter().collect();
    let table = Table::of_one([
        ("NODE", info.node_id.clone()),
        ("TOPOLOGY", places(&topology)),
        ("MAX VOLUMES", most),
    ]);
    let json = json!({
        "node_id": info.node_id,
        "max_volumes_per_node": info.max_volumes_per_node,
        "accessible_topology": places_json(&topology).get(0),
    });
    Ok(Answer::new(table, json))
}

async fn health(driver: &Driver) -> Outcome<Answer> {
    driver.need_node(Rpc::GetStorageHealth).await?;
    let request = csi::NodeGetStorageHealthRequest { secrets: driver.secrets() };
    let answer = driver.node().node_get_storage_health(request).await;
    let problems = answer.map_err(Failure::of("NodeGetStorageHealth"))?.into_inner().backend_health;
    let mut table = Table::new(&["STATUS", "REASON", "MESSAGE"]);
    let mut list = Vec::new();
    for problem in &problems {
        let status = word(problem.status, |e: csi::StorageHealthErrorType| e.as_str_name());
        list.push(json!({ "status": status, "reason": problem.reason, "message": problem.message }));
        table.push([status, problem.reason.clone(), problem.message.clone()]);
    }
    if problems.is_empty() {
        table.push(["healthy".into(), String::new(), String::new()]);
    }
    Ok(Answer::new(table, json!({ "backend_health": list })))
}
