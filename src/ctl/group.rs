//! `ctl group`: snapshots of several volumes at one moment.

use clap::Subcommand;
use serde_json::json;

use super::answer::{Answer, moment, present};
use super::args::{Pair, map, pair};
use super::driver::Driver;
use super::failure::{Failure, Outcome};
use super::snapshot;
use crate::proto::csi;
use csi::controller_service_capability::rpc::Type as Rpc;
use csi::plugin_capability::service::Type as Service;

/// What to do.
#[derive(Subcommand, Debug)]
pub(super) enum Verb {
    /// Cut several volumes at one moment, all or none.
    Create {
        /// The name: the same name again answers the same group.
        name: String,
        /// A volume to cut; may be given several times.
        #[arg(long = "volume", value_name = "VOLUME", required = true)]
        volumes: Vec<String>,
        /// A VolumeGroupSnapshotClass parameter.
        #[arg(long = "parameter", value_name = "KEY=VALUE", value_parser = pair)]
        parameters: Vec<Pair>,
    },
    /// Remove a group and its snapshots; one that is gone already is no failure.
    Delete {
        /// Its id.
        id: String,
        /// A member; without any, the driver's list of snapshots tells them.
        #[arg(long = "snapshot", value_name = "SNAPSHOT")]
        snapshots: Vec<String>,
    },
    /// Show one group.
    Get {
        /// Its id.
        id: String,
        /// A member; without any, the driver's list of snapshots tells them.
        #[arg(long = "snapshot", value_name = "SNAPSHOT")]
        snapshots: Vec<String>,
    },
}

pub(super) async fn run(driver: &Driver, verb: &Verb) -> Outcome<Answer> {
    driver.need_service(Service::GroupControllerService).await?;
    match verb {
        Verb::Create { name, volumes, parameters } => {
            let request = csi::CreateVolumeGroupSnapshotRequest {
                name: name.clone(),
                source_volume_ids: volumes.clone(),
                secrets: driver.secrets(),
                parameters: map(parameters),
            };
            let answer = driver.group().create_volume_group_snapshot(request).await;
            let made = answer.map_err(Failure::of("CreateVolumeGroupSnapshot"))?.into_inner().group_snapshot;
            Ok(show(&present(made, "group_snapshot")?))
        }
        Verb::Delete { id, snapshots } => {
            let request = csi::DeleteVolumeGroupSnapshotRequest {
                group_snapshot_id: id.clone(),
                snapshot_ids: members(driver, id, snapshots).await?,
                secrets: driver.secrets(),
            };
            let answer = driver.group().delete_volume_group_snapshot(request).await;
            answer.map_err(Failure::of("DeleteVolumeGroupSnapshot"))?;
            Ok(Answer::done("deleted group", id))
        }
        Verb::Get { id, snapshots } => Ok(show(&find(driver, id, snapshots).await?)),
    }
}

/// The members that a call has to name: as given, else as the driver lists them. A group that is gone has none.
async fn members(driver: &Driver, id: &str, given: &[String]) -> Outcome<Vec<String>> {
    if !given.is_empty() || !driver.controller_can(Rpc::ListSnapshots).await? {
        return Ok(given.to_vec());
    }
    let all = snapshot::list(driver, Default::default()).await?;
    let ours = all.into_iter().filter(|one| one.group_snapshot_id == id);
    Ok(ours.map(|one| one.snapshot_id).collect())
}

async fn find(driver: &Driver, id: &str, snapshots: &[String]) -> Outcome<csi::VolumeGroupSnapshot> {
    let request = csi::GetVolumeGroupSnapshotRequest {
        group_snapshot_id: id.to_owned(),
        snapshot_ids: members(driver, id, snapshots).await?,
        secrets: driver.secrets(),
    };
    let answer = driver.group().get_volume_group_snapshot(request).await;
    present(
        answer.map_err(Failure::of("GetVolumeGroupSnapshot"))?.into_inner().group_snapshot,
        "group_snapshot",
    )
}

fn show(group: &csi::VolumeGroupSnapshot) -> Answer {
    let members: Vec<_> = group.snapshots.iter().map(snapshot::as_json).collect();
    let json = json!({
        "group_snapshot_id": group.group_snapshot_id,
        "creation_time": moment(group.creation_time.as_ref()),
        "ready_to_use": group.ready_to_use,
        "snapshots": members,
    });
    Answer::new(snapshot::rows(&group.snapshots), json)
}
