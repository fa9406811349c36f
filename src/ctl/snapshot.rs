//! `ctl snapshot`: snapshots of one volume.

use clap::Subcommand;
use serde_json::{Value, json};

use super::answer::{Answer, Table, moment, places, places_json, present, size};
use super::args::{Pair, map, pair};
use super::driver::{Driver, PAGE};
use super::failure::{Failure, Outcome};
use crate::error::quoted;
use crate::proto::csi;
use csi::controller_service_capability::rpc::Type as Rpc;

/// What to do.
#[derive(Subcommand, Debug)]
pub(super) enum Verb {
    /// Cut a volume.
    Create {
        /// The name: the same name again answers the same snapshot.
        name: String,
        /// The volume to cut.
        #[arg(long, value_name = "VOLUME")]
        volume: String,
        /// A VolumeSnapshotClass parameter.
        #[arg(long = "parameter", value_name = "KEY=VALUE", value_parser = pair)]
        parameters: Vec<Pair>,
    },
    /// Remove a snapshot; one that is gone already is no failure.
    Delete {
        /// Its id.
        id: String,
    },
    /// Show one snapshot.
    Get {
        /// Its id.
        id: String,
    },
    /// List all snapshots, or those of one volume.
    List {
        /// Only those of this volume.
        #[arg(long, value_name = "VOLUME")]
        volume: Option<String>,
        /// Ask for so many at once; all pages are followed.
        #[arg(long, value_name = "N", default_value_t = PAGE, value_parser = clap::value_parser!(i32).range(1..))]
        page_size: i32,
    },
}

pub(super) async fn run(driver: &Driver, verb: &Verb) -> Outcome<Answer> {
    match verb {
        Verb::Create { name, volume, parameters } => {
            driver.need_controller(Rpc::CreateDeleteSnapshot).await?;
            let request = csi::CreateSnapshotRequest {
                source_volume_id: volume.clone(),
                name: name.clone(),
                secrets: driver.secrets(),
                parameters: map(parameters),
                accessibility_requirements: None,
            };
            let answer = driver.controller().create_snapshot(request).await;
            let made = answer.map_err(Failure::of("CreateSnapshot"))?.into_inner().snapshot;
            Ok(one(&present(made, "snapshot")?))
        }
        Verb::Delete { id } => {
            driver.need_controller(Rpc::CreateDeleteSnapshot).await?;
            let request = csi::DeleteSnapshotRequest { snapshot_id: id.clone(), secrets: driver.secrets() };
            driver.controller().delete_snapshot(request).await.map_err(Failure::of("DeleteSnapshot"))?;
            Ok(Answer::done("deleted snapshot", id))
        }
        Verb::Get { id } => Ok(one(&find(driver, id).await?)),
        Verb::List { volume, page_size } => {
            driver.need_controller(Rpc::ListSnapshots).await?;
            let filter = csi::ListSnapshotsRequest {
                max_entries: *page_size,
                source_volume_id: volume.clone().unwrap_or_default(),
                ..Default::default()
            };
            Ok(many(&list(driver, filter).await?))
        }
    }
}

/// One snapshot: by GetSnapshot, or by the filter of ListSnapshots where that is all there is.
async fn find(driver: &Driver, id: &str) -> Outcome<csi::Snapshot> {
    if driver.controller_can(Rpc::GetSnapshot).await? {
        let request = csi::GetSnapshotRequest { snapshot_id: id.to_owned(), secrets: driver.secrets() };
        let answer = driver.controller().get_snapshot(request).await;
        return present(answer.map_err(Failure::of("GetSnapshot"))?.into_inner().snapshot, "snapshot");
    }
    driver.need_controller(Rpc::ListSnapshots).await?;
    let filter = csi::ListSnapshotsRequest { snapshot_id: id.to_owned(), ..Default::default() };
    let found = list(driver, filter).await?.into_iter().find(|snapshot| snapshot.snapshot_id == id);
    let missing = || tonic::Status::not_found(format!("snapshot {} is not in the driver's list", quoted(id)));
    found.ok_or_else(|| Failure::of("ListSnapshots")(missing()))
}

/// All snapshots that a filter lets through, page after page.
pub(super) async fn list(driver: &Driver, filter: csi::ListSnapshotsRequest) -> Outcome<Vec<csi::Snapshot>> {
    let mut request = filter;
    request.secrets = driver.secrets();
    let mut all = Vec::new();
    loop {
        let answer = driver.controller().list_snapshots(request.clone()).await;
        let page = answer.map_err(Failure::of("ListSnapshots"))?.into_inner();
        all.extend(page.entries.into_iter().filter_map(|entry| entry.snapshot));
        if page.next_token.is_empty() {
            return Ok(all);
        }
        super::volume::no_loop(&request.starting_token, &page.next_token)?;
        request.starting_token = page.next_token;
    }
}

fn one(snapshot: &csi::Snapshot) -> Answer {
    let table = Table::of_one([
        ("ID", snapshot.snapshot_id.clone()),
        ("VOLUME", snapshot.source_volume_id.clone()),
        ("SIZE", size(snapshot.size_bytes)),
        ("CREATED", moment(snapshot.creation_time.as_ref())),
        ("READY", ready(snapshot.ready_to_use).to_owned()),
        ("GROUP", snapshot.group_snapshot_id.clone()),
        ("TOPOLOGY", places(&snapshot.accessible_topology)),
    ]);
    Answer::new(table, as_json(snapshot))
}

/// Snapshots as a list.
pub(super) fn rows(snapshots: &[csi::Snapshot]) -> Table {
    let mut table = Table::new(&["ID", "VOLUME", "SIZE", "CREATED", "READY", "GROUP"]);
    for snapshot in snapshots {
        table.push([
            snapshot.snapshot_id.clone(),
            snapshot.source_volume_id.clone(),
            size(snapshot.size_bytes),
            moment(snapshot.creation_time.as_ref()),
            ready(snapshot.ready_to_use).to_owned(),
            snapshot.group_snapshot_id.clone(),
        ]);
    }
    table
}

fn many(snapshots: &[csi::Snapshot]) -> Answer {
    let list: Vec<Value> = snapshots.iter().map(as_json).collect();
    Answer::new(rows(snapshots), json!({ "snapshots": list }))
}

/// `yes` or `not yet`.
pub(super) fn ready(ready: bool) -> &'static str {
    if ready { "yes" } else { "not yet" }
}

/// A snapshot for scripts.
pub(super) fn as_json(snapshot: &csi::Snapshot) -> Value {
    json!({
        "snapshot_id": snapshot.snapshot_id,
        "source_volume_id": snapshot.source_volume_id,
        "size_bytes": snapshot.size_bytes,
        "creation_time": moment(snapshot.creation_time.as_ref()),
        "ready_to_use": snapshot.ready_to_use,
        "group_snapshot_id": snapshot.group_snapshot_id,
        "accessible_topology": places_json(&snapshot.accessible_topology),
    })
}
