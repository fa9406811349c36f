//! `ctl volume attach|stage|publish` and back: a volume on the node where it is used.
//!
//! Owns: the steps that kubelet would do around the calls, like making the directories. Never: mounts anything.

use std::collections::BTreeMap;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use tonic::{Code, Status};

use super::answer::{Answer, Table, amount, health, pairs, present, size, word};
use super::args::{Pair, Use, bytes, map, pair, range};
use super::driver::Driver;
use super::failure::{Failure, Outcome};
use super::volume::find;
use crate::model::Bytes;
use crate::proto::csi;
use csi::controller_service_capability::rpc::Type as ControllerRpc;
use csi::node_service_capability::rpc::Type as Rpc;
use csi::volume_usage::Unit;

/// What to do.
#[derive(Subcommand, Debug)]
pub(super) enum Verb {
    /// Attach a volume to a node, where the driver has that step (ControllerPublishVolume).
    Attach(Attach),
    /// Detach it (ControllerUnpublishVolume).
    Detach {
        /// Its id.
        id: String,
        /// From this node; without it from all.
        #[arg(long)]
        node: Option<String>,
    },
    /// Make it ready on this node, at a staging directory.
    Stage(Stage),
    /// Show it to a workload, at a target path.
    Publish(Publish),
    /// Take it away from a target path.
    Unpublish {
        /// Its id.
        id: String,
        /// Where it is published.
        #[arg(long, value_name = "PATH")]
        target: PathBuf,
    },
    /// Take it from its staging directory.
    Unstage {
        /// Its id.
        id: String,
        /// Where it is staged.
        #[arg(long, value_name = "DIR")]
        staging: PathBuf,
    },
    /// How full it is.
    Stats {
        /// Its id.
        id: String,
        /// Where it is published or staged.
        #[arg(long)]
        path: PathBuf,
        /// Where it is staged.
        #[arg(long, value_name = "DIR")]
        staging: Option<PathBuf>,
    },
    /// Grow its filesystem after `volume expand`.
    NodeExpand(NodeExpand),
}

/// A volume to be attached.
#[derive(Args, Debug)]
pub(super) struct Attach {
    /// Its id.
    id: String,
    /// To this node, as `node info` names it.
    #[arg(long)]
    node: String,
    /// Only for reading.
    #[arg(long)]
    readonly: bool,
    /// A part of its volume context; without any, the driver is asked for it.
    #[arg(long = "volume-context", value_name = "KEY=VALUE", value_parser = pair)]
    context: Vec<Pair>,
    #[command(flatten)]
    usage: Use,
}

/// A volume to be staged.
#[derive(Args, Debug)]
pub(super) struct Stage {
    /// Its id.
    id: String,
    /// The staging directory; made where it is missing.
    #[arg(long, value_name = "DIR")]
    staging: PathBuf,
    #[command(flatten)]
    contexts: Contexts,
    #[command(flatten)]
    usage: Use,
}

/// A volume to be published.
#[derive(Args, Debug)]
pub(super) struct Publish {
    /// Its id.
    id: String,
    /// Where the workload will see it; its parent directory is made where it is missing.
    #[arg(long, value_name = "PATH")]
    target: PathBuf,
    /// Where it is staged; needed where the driver has that step.
    #[arg(long, value_name = "DIR")]
    staging: Option<PathBuf>,
    /// Only for reading.
    #[arg(long)]
    readonly: bool,
    #[command(flatten)]
    contexts: Contexts,
    #[command(flatten)]
    usage: Use,
}

/// What earlier calls answered, handed on.
#[derive(Args, Debug)]
pub(super) struct Contexts {
    /// A part of its volume context; without any, the driver is asked for it.
    #[arg(long = "volume-context", value_name = "KEY=VALUE", value_parser = pair)]
    volume: Vec<Pair>,
    /// A part of what `volume attach` answered.
    #[arg(long = "publish-context", value_name = "KEY=VALUE", value_parser = pair)]
    publish: Vec<Pair>,
}

/// A filesystem to be grown.
#[derive(Args, Debug)]
pub(super) struct NodeExpand {
    /// Its id.
    id: String,
    /// Where it is published or staged.
    #[arg(long)]
    path: PathBuf,
    /// Where it is staged.
    #[arg(long, value_name = "DIR")]
    staging: Option<PathBuf>,
    /// At least this large.
    #[arg(long, value_parser = bytes)]
    size: Option<Bytes>,
    #[command(flatten)]
    usage: Use,
}

/// Whose health.
#[derive(Args, Debug)]
pub(super) struct Health {
    /// A volume; without it all that have something wrong.
    pub(super) id: Option<String>,
    /// Ask the node where it is used, not the controller.
    #[arg(long, requires = "id")]
    node: bool,
    /// Where it is published on the node.
    #[arg(long, requires = "node")]
    path: Option<PathBuf>,
    /// Where it is staged on the node.
    #[arg(long, requires = "node", value_name = "DIR")]
    staging: Option<PathBuf>,
}

pub(super) async fn run(driver: &Driver, verb: &Verb) -> Outcome<Answer> {
    match verb {
        Verb::Attach(asked) => attach(driver, asked).await,
        Verb::Detach { id, node } => {
            driver.need_controller(ControllerRpc::PublishUnpublishVolume).await?;
            let request = csi::ControllerUnpublishVolumeRequest {
                volume_id: id.clone(),
                node_id: node.clone().unwrap_or_default(),
                secrets: driver.secrets(),
            };
            let answer = driver.controller().controller_unpublish_volume(request).await;
            answer.map_err(Failure::of("ControllerUnpublishVolume"))?;
            Ok(Answer::done("detached volume", id))
        }
        Verb::Stage(asked) => stage(driver, asked).await,
        Verb::Publish(asked) => publish(driver, asked).await,
        Verb::Unpublish { id, target } => {
            let request = csi::NodeUnpublishVolumeRequest {
                volume_id: id.clone(),
                target_path: utf8(target, "--target")?,
            };
            driver.node().node_unpublish_volume(request).await.map_err(Failure::of("NodeUnpublishVolume"))?;
            Ok(Answer::done("unpublished volume", id))
        }
        Verb::Unstage { id, staging } => unstage(driver, id, staging).await,
        Verb::Stats { id, path, staging } => stats(driver, id, path, staging.as_deref()).await,
        Verb::NodeExpand(asked) => node_expand(driver, asked).await,
    }
}

/// The volume context for a call: as given, else as the driver tells it, else empty. Not every socket can tell.
pub(super) async fn context(driver: &Driver, id: &str, given: &[Pair]) -> Outcome<BTreeMap<String, String>> {
    if !given.is_empty() {
        return Ok(map(given));
    }
    match find(driver, id).await {
        Ok((volume, _)) => Ok(volume.volume_context),
        Err(failure) if matches!(failure.code(), Some(Code::NotFound | Code::Unimplemented)) => {
            Ok(BTreeMap::new())
        }
        Err(failure) => Err(failure),
    }
}

async fn attach(driver: &Driver, asked: &Attach) -> Outcome<Answer> {
    driver.need_controller(ControllerRpc::PublishUnpublishVolume).await?;
    let request = csi::ControllerPublishVolumeRequest {
        volume_id: asked.id.clone(),
        node_id: asked.node.clone(),
        volume_capability: Some(asked.usage.capability()),
        readonly: asked.readonly,
        secrets: driver.secrets(),
        volume_context: context(driver, &asked.id, &asked.context).await?,
    };
    let answer = driver.controller().controller_publish_volume(request).await;
    let context = answer.map_err(Failure::of("ControllerPublishVolume"))?.into_inner().publish_context;
    let table = Table::of_one([("ID", asked.id.clone()), ("PUBLISH CONTEXT", pairs(&context))]);
    Ok(Answer::new(table, json!({ "volume_id": asked.id, "publish_context": context })))
}

async fn stage(driver: &Driver, asked: &Stage) -> Outcome<Answer> {
    driver.need_node(Rpc::StageUnstageVolume).await?;
    let request = csi::NodeStageVolumeRequest {
        volume_id: asked.id.clone(),
        publish_context: map(&asked.contexts.publish),
        staging_target_path: utf8(&asked.staging, "--staging")?,
        volume_capability: Some(asked.usage.capability()),
        secrets: driver.secrets(),
        volume_context: context(driver, &asked.id, &asked.contexts.volume).await?,
    };
    let made = make_directories(&asked.staging)?;
    let staged = driver.node().node_stage_volume(request).await;
    staged.map_err(|status| refused("NodeStageVolume", status, &made))?;
    Ok(Answer::done("staged volume", &asked.id))
}

async fn unstage(driver: &Driver, id: &str, staging: &Path) -> Outcome<Answer> {
    driver.need_node(Rpc::StageUnstageVolume).await?;
    let path = utf8(staging, "--staging")?;
    let request = csi::NodeUnstageVolumeRequest { volume_id: id.to_owned(), staging_target_path: path };
    driver.node().node_unstage_volume(request).await.map_err(Failure::of("NodeUnstageVolume"))?;
    // Who made the directory removes it. Only an empty one goes, and one that is gone already is fine.
    let _ = std::fs::remove_dir(staging);
    Ok(Answer::done("unstaged volume", id))
}

async fn publish(driver: &Driver, asked: &Publish) -> Outcome<Answer> {
    let staged = driver.node_can(Rpc::StageUnstageVolume).await?;
    if staged && asked.staging.is_none() {
        let text = "--staging is missing: this driver stages volumes, want the directory of `volume stage`";
        return Err(Failure::Usage(text.into()));
    }
    let request = csi::NodePublishVolumeRequest {
        volume_id: asked.id.clone(),
        publish_context: map(&asked.contexts.publish),
        staging_target_path: maybe_utf8(asked.staging.as_deref(), "--staging")?,
        target_path: utf8(&asked.target, "--target")?,
        volume_capability: Some(asked.usage.capability()),
        readonly: asked.readonly,
        secrets: driver.secrets(),
        volume_context: context(driver, &asked.id, &asked.contexts.volume).await?,
    };
    let made = asked.target.parent().map_or_else(|| Ok(Vec::new()), make_directories)?;
    let published = driver.node().node_publish_volume(request).await;
    published.map_err(|status| refused("NodePublishVolume", status, &made))?;
    Ok(Answer::done("published volume", &asked.id))
}

async fn stats(driver: &Driver, id: &str, path: &Path, staging: Option<&Path>) -> Outcome<Answer> {
    driver.need_node(Rpc::GetVolumeStats).await?;
    let request = csi::NodeGetVolumeStatsRequest {
        volume_id: id.to_owned(),
        volume_path: utf8(path, "--path")?,
        staging_target_path: maybe_utf8(staging, "--staging")?,
    };
    let answer = driver.node().node_get_volume_stats(request).await;
    let usage = answer.map_err(Failure::of("NodeGetVolumeStats"))?.into_inner().usage;
    let mut table = Table::new(&["UNIT", "TOTAL", "USED", "AVAILABLE"]);
    let mut list: Vec<Value> = Vec::new();
    for one in &usage {
        let unit = word(one.unit, |known: Unit| known.as_str_name());
        let amount = |n: i64| if one.unit == i32::from(Unit::Bytes) { amount(n) } else { n.to_string() };
        table.push([unit.clone(), amount(one.total), amount(one.used), amount(one.available)]);
        list.push(json!({ "unit": unit, "total": one.total, "used": one.used, "available": one.available }));
    }
    Ok(Answer::new(table, json!({ "volume_id": id, "usage": list })))
}

async fn node_expand(driver: &Driver, asked: &NodeExpand) -> Outcome<Answer> {
    driver.need_node(Rpc::ExpandVolume).await?;
    let request = csi::NodeExpandVolumeRequest {
        volume_id: asked.id.clone(),
        volume_path: utf8(&asked.path, "--path")?,
        capacity_range: range(asked.size, None),
        staging_target_path: maybe_utf8(asked.staging.as_deref(), "--staging")?,
        // Only where the command line says it: a wrong guess would be refused.
        volume_capability: (asked.usage.block || asked.usage.fs.is_some()).then(|| asked.usage.capability()),
        secrets: driver.secrets(),
    };
    let answer = driver.node().node_expand_volume(request).await;
    let grown = answer.map_err(Failure::of("NodeExpandVolume"))?.into_inner().capacity_bytes;
    let table = Table::of_one([("ID", asked.id.clone()), ("SIZE", size(grown))]);
    Ok(Answer::new(table, json!({ "volume_id": asked.id, "capacity_bytes": grown })))
}

/// What is wrong with one volume, as the controller or the node sees it.
pub(super) async fn health_of(driver: &Driver, id: &str, asked: &Health) -> Outcome<Answer> {
    let found = if asked.node {
        driver.need_node(Rpc::GetVolumeHealth).await?;
        let request = csi::NodeGetVolumeHealthRequest {
            volume_id: id.to_owned(),
            volume_publish_path: maybe_utf8(asked.path.as_deref(), "--path")?,
            staging_target_path: maybe_utf8(asked.staging.as_deref(), "--staging")?,
        };
        let answer = driver.node().node_get_volume_health(request).await;
        answer.map_err(Failure::of("NodeGetVolumeHealth"))?.into_inner().volume_health
    } else {
        driver.need_controller(ControllerRpc::GetVolumeHealth).await?;
        let request =
            csi::ControllerGetVolumeHealthRequest { volume_id: id.to_owned(), secrets: driver.secrets() };
        let answer = driver.controller().controller_get_volume_health(request).await;
        answer.map_err(Failure::of("ControllerGetVolumeHealth"))?.into_inner().volume_health
    };
    Ok(health(std::iter::once(&present(found, "volume_health")?)))
}

/// As kubelet makes them: for root and its group; answers what was missing, the innermost first. A relative path is the
/// driver's to refuse.
fn make_directories(path: &Path) -> Outcome<Vec<PathBuf>> {
    if !path.is_absolute() {
        return Ok(Vec::new());
    }
    let missing = path.ancestors().take_while(|above| !above.exists()).map(Path::to_owned).collect();
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o750).create(path);
    made.map_err(|error| Failure::Other(format!("failed to make {}: {error}", path.display())))?;
    Ok(missing)
}

/// A call that was refused, and so the directories that were made for it go again.
fn refused(call: &'static str, status: Status, made: &[PathBuf]) -> Failure {
    // After these the driver may still be at it.
    let open =
        matches!(status.code(), Code::Cancelled | Code::DeadlineExceeded | Code::Unavailable | Code::Aborted);
    if !open {
        // Only empty ones go: where the volume is mounted in spite of the error, all above it stays.
        let _ = made.iter().try_for_each(std::fs::remove_dir);
    }
    Failure::of(call)(status)
}

fn utf8(path: &Path, flag: &str) -> Outcome<String> {
    let text = path.to_str().map(str::to_owned);
    text.ok_or_else(|| Failure::Usage(format!("{flag} {} is not UTF-8, which CSI wants", path.display())))
}

fn maybe_utf8(path: Option<&Path>, flag: &str) -> Outcome<String> {
    path.map_or_else(|| Ok(String::new()), |path| utf8(path, flag))
}
