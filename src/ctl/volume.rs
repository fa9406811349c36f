//! `ctl volume`: volumes, apart from their use on a node, which is in `staging`.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::answer::{Answer, Table, Verdict, health, pairs, places, places_json, present, size};
use super::args::{Pair, Use, bytes, map, pair, range};
use super::driver::{Driver, PAGE};
use super::failure::{Failure, Outcome};
use super::staging;
use crate::error::quoted;
use crate::model::Bytes;
use crate::proto::csi;
use csi::controller_service_capability::rpc::Type as Rpc;
use csi::volume_content_source::{SnapshotSource, Type as SourceType, VolumeSource};

/// What to do.
#[derive(Subcommand, Debug)]
pub(super) enum Verb {
    /// Make a volume, blank or from a snapshot or another volume.
    Create(Create),
    /// Remove a volume; one that is gone already is no failure.
    Delete {
        /// Its id.
        id: String,
    },
    /// Show one volume.
    Get {
        /// Its id.
        id: String,
    },
    /// List all volumes.
    List {
        /// Ask for so many at once; all pages are followed.
        #[arg(long, value_name = "N", default_value_t = PAGE, value_parser = clap::value_parser!(i32).range(1..))]
        page_size: i32,
    },
    /// Grow a volume; says whether `volume node-expand` has to follow.
    Expand(Expand),
    /// Ask whether a volume can be used so; exit code 1 where it cannot.
    Validate(Validate),
    /// What is wrong with one volume, or with all.
    Health(staging::Health),
    #[command(flatten)]
    Staging(staging::Verb),
}

/// A volume to be made.
#[derive(Args, Debug)]
pub(super) struct Create {
    /// The name: the same name again answers the same volume.
    name: String,
    /// At least this large, like 20GiB; without it the driver's default.
    #[arg(long, value_parser = bytes)]
    size: Option<Bytes>,
    /// At most this large.
    #[arg(long, value_parser = bytes, value_name = "SIZE")]
    limit: Option<Bytes>,
    /// A StorageClass parameter.
    #[arg(long = "parameter", value_name = "KEY=VALUE", value_parser = pair)]
    parameters: Vec<Pair>,
    /// Start with what this snapshot holds.
    #[arg(long, value_name = "SNAPSHOT", conflicts_with = "from_volume")]
    from_snapshot: Option<String>,
    /// Start with what this volume holds.
    #[arg(long, value_name = "VOLUME")]
    from_volume: Option<String>,
    /// In the place with these labels.
    #[arg(long = "topology", value_name = "KEY=VALUE", value_parser = pair)]
    topology: Vec<Pair>,
    #[command(flatten)]
    usage: Use,
}

/// A volume to be grown.
#[derive(Args, Debug)]
pub(super) struct Expand {
    /// Its id.
    id: String,
    /// At least this large.
    #[arg(long, value_parser = bytes)]
    size: Bytes,
    /// At most this large.
    #[arg(long, value_parser = bytes, value_name = "SIZE")]
    limit: Option<Bytes>,
    #[command(flatten)]
    usage: Use,
}

/// A use to be judged.
#[derive(Args, Debug)]
pub(super) struct Validate {
    /// Its id.
    id: String,
    /// A StorageClass parameter that it must have been made with.
    #[arg(long = "parameter", value_name = "KEY=VALUE", value_parser = pair)]
    parameters: Vec<Pair>,
    /// A part of its volume context.
    #[arg(long = "volume-context", value_name = "KEY=VALUE", value_parser = pair)]
    context: Vec<Pair>,
    #[command(flatten)]
    usage: Use,
}

pub(super) async fn run(driver: &Driver, verb: &Verb) -> Outcome<Answer> {
    match verb {
        Verb::Create(asked) => create(driver, asked).await,
        Verb::Delete { id } => {
            driver.need_controller(Rpc::CreateDeleteVolume).await?;
            let request = csi::DeleteVolumeRequest { volume_id: id.clone(), secrets: driver.secrets() };
            driver.controller().delete_volume(request).await.map_err(Failure::of("DeleteVolume"))?;
            Ok(Answer::done("deleted volume", id))
        }
        Verb::Get { id } => {
            let (volume, nodes) = find(driver, id).await?;
            Ok(one(&volume, &nodes))
        }
        Verb::List { page_size } => Ok(many(&list(driver, *page_size).await?)),
        Verb::Expand(asked) => expand(driver, asked).await,
        Verb::Validate(asked) => validate(driver, asked).await,
        Verb::Health(asked) => match &asked.id {
            Some(id) => staging::health_of(driver, id, asked).await,
            None => all_health(driver).await,
        },
        Verb::Staging(verb) => staging::run(driver, verb).await,
    }
}

/// One place, absent without labels.
pub(super) fn place(labels: &[Pair]) -> Option<csi::Topology> {
    (!labels.is_empty()).then(|| csi::Topology { segments: map(labels) })
}

/// A driver that answers the token it was given would be followed for ever.
pub(super) fn no_loop(had: &str, next: &str) -> Outcome<()> {
    if had == next {
        return Err(Failure::Other(format!(
            "the driver answers next_token {} again and again",
            quoted(next)
        )));
    }
    Ok(())
}

async fn create(driver: &Driver, asked: &Create) -> Outcome<Answer> {
    driver.need_controller(Rpc::CreateDeleteVolume).await?;
    if asked.usage.tells_writers_apart() {
        driver.need_controller(Rpc::SingleNodeMultiWriter).await?;
    }
    let source = match (&asked.from_snapshot, &asked.from_volume) {
        (Some(id), _) => Some(SourceType::Snapshot(SnapshotSource { snapshot_id: id.clone() })),
        (None, Some(id)) => {
            driver.need_controller(Rpc::CloneVolume).await?;
            Some(SourceType::Volume(VolumeSource { volume_id: id.clone() }))
        }
        (None, None) => None,
    };
    let requirement = place(&asked.topology)
        .map(|place| csi::TopologyRequirement { requisite: vec![place.clone()], preferred: vec![place] });
    let request = csi::CreateVolumeRequest {
        name: asked.name.clone(),
        capacity_range: range(asked.size, asked.limit),
        volume_capabilities: vec![asked.usage.capability()],
        parameters: map(&asked.parameters),
        secrets: driver.secrets(),
        volume_content_source: source.map(|source| csi::VolumeContentSource { r#type: Some(source) }),
        accessibility_requirements: requirement,
        mutable_parameters: Default::default(),
    };
    let answer = driver.controller().create_volume(request).await;
    let volume = answer.map_err(Failure::of("CreateVolume"))?.into_inner().volume;
    Ok(one(&present(volume, "volume")?, &[]))
}

/// One volume: by ControllerGetVolume, or out of the list where that is all there is.
pub(super) async fn find(driver: &Driver, id: &str) -> Outcome<(csi::Volume, Vec<String>)> {
    if driver.controller_can(Rpc::GetVolume).await? {
        let request = csi::ControllerGetVolumeRequest { volume_id: id.to_owned() };
        let answer = driver.controller().controller_get_volume(request).await;
        let answer = answer.map_err(Failure::of("ControllerGetVolume"))?.into_inner();
        let nodes = answer.status.map(|status| status.published_node_ids).unwrap_or_default();
        return Ok((present(answer.volume, "volume")?, nodes));
    }
    let found = list(driver, PAGE).await?.into_iter().find(|(volume, _)| volume.volume_id == id);
    let missing = || tonic::Status::not_found(format!("volume {} is not in the driver's list", quoted(id)));
    found.ok_or_else(|| Failure::of("ListVolumes")(missing()))
}

/// All volumes with the nodes that use them, page after page.
async fn list(driver: &Driver, page_size: i32) -> Outcome<Vec<(csi::Volume, Vec<String>)>> {
    driver.need_controller(Rpc::ListVolumes).await?;
    let mut request = csi::ListVolumesRequest { max_entries: page_size, starting_token: String::new() };
    let mut all = Vec::new();
    loop {
        let answer = driver.controller().list_volumes(request.clone()).await;
        let page = answer.map_err(Failure::of("ListVolumes"))?.into_inner();
        all.extend(page.entries.into_iter().filter_map(|entry| {
            let nodes = entry.status.map(|status| status.published_node_ids).unwrap_or_default();
            entry.volume.map(|volume| (volume, nodes))
        }));
        if page.next_token.is_empty() {
            return Ok(all);
        }
        no_loop(&request.starting_token, &page.next_token)?;
        request.starting_token = page.next_token;
    }
}

async fn expand(driver: &Driver, asked: &Expand) -> Outcome<Answer> {
    driver.need_controller(Rpc::ExpandVolume).await?;
    let request = csi::ControllerExpandVolumeRequest {
        volume_id: asked.id.clone(),
        capacity_range: range(Some(asked.size), asked.limit),
        secrets: driver.secrets(),
        // Only where the command line says it: a wrong guess would be refused.
        volume_capability: (asked.usage.block || asked.usage.fs.is_some()).then(|| asked.usage.capability()),
    };
    let answer = driver.controller().controller_expand_volume(request).await;
    let grown = answer.map_err(Failure::of("ControllerExpandVolume"))?.into_inner();
    let next =
        if grown.node_expansion_required { "volume node-expand, or the next stage" } else { "nothing" };
    let table = Table::of_one([
        ("ID", asked.id.clone()),
        ("SIZE", size(grown.capacity_bytes)),
        ("LEFT TO DO", next.into()),
    ]);
    let json = json!({
        "volume_id": asked.id,
        "capacity_bytes": grown.capacity_bytes,
        "node_expansion_required": grown.node_expansion_required,
    });
    Ok(Answer::new(table, json))
}

async fn validate(driver: &Driver, asked: &Validate) -> Outcome<Answer> {
    let request = csi::ValidateVolumeCapabilitiesRequest {
        volume_id: asked.id.clone(),
        volume_context: staging::context(driver, &asked.id, &asked.context).await?,
        volume_capabilities: vec![asked.usage.capability()],
        parameters: map(&asked.parameters),
        secrets: driver.secrets(),
        mutable_parameters: Default::default(),
    };
    let answer = driver.controller().validate_volume_capabilities(request).await;
    let said = answer.map_err(Failure::of("ValidateVolumeCapabilities"))?.into_inner();
    let confirmed = said.confirmed.is_some();
    let text = if confirmed { "yes" } else { "no" };
    let table = Table::of_one([("CONFIRMED", text.to_owned()), ("MESSAGE", said.message.clone())]);
    let answer = Answer::new(table, json!({ "confirmed": confirmed, "message": said.message }));
    Ok(answer.with(if confirmed { Verdict::Yes } else { Verdict::No }))
}

async fn all_health(driver: &Driver) -> Outcome<Answer> {
    driver.need_controller(Rpc::ListVolumeHealth).await?;
    let mut request = csi::ControllerListVolumeHealthRequest {
        max_entries: PAGE,
        secrets: driver.secrets(),
        ..Default::default()
    };
    let mut all = Vec::new();
    loop {
        let answer = driver.controller().controller_list_volume_health(request.clone()).await;
        let page = answer.map_err(Failure::of("ControllerListVolumeHealth"))?.into_inner();
        all.extend(page.entries);
        if page.next_token.is_empty() {
            return Ok(health(all.iter()));
        }
        no_loop(&request.starting_token, &page.next_token)?;
        request.starting_token = page.next_token;
    }
}

fn source(volume: &csi::Volume) -> (String, Value) {
    match volume.content_source.as_ref().and_then(|source| source.r#type.as_ref()) {
        Some(SourceType::Snapshot(from)) => {
            (format!("snapshot {}", from.snapshot_id), json!({ "snapshot_id": from.snapshot_id }))
        }
        Some(SourceType::Volume(from)) => {
            (format!("volume {}", from.volume_id), json!({ "volume_id": from.volume_id }))
        }
        None => (String::new(), Value::Null),
    }
}

fn as_json(volume: &csi::Volume, nodes: &[String]) -> Value {
    json!({
        "volume_id": volume.volume_id,
        "capacity_bytes": volume.capacity_bytes,
        "content_source": source(volume).1,
        "accessible_topology": places_json(&volume.accessible_topology),
        "volume_context": volume.volume_context,
        "published_node_ids": nodes,
    })
}

fn one(volume: &csi::Volume, nodes: &[String]) -> Answer {
    let table = Table::of_one([
        ("ID", volume.volume_id.clone()),
        ("SIZE", size(volume.capacity_bytes)),
        ("SOURCE", source(volume).0),
        ("TOPOLOGY", places(&volume.accessible_topology)),
        ("CONTEXT", pairs(&volume.volume_context)),
        ("NODES", nodes.join(",")),
    ]);
    Answer::new(table, as_json(volume, nodes))
}

fn many(volumes: &[(csi::Volume, Vec<String>)]) -> Answer {
    let mut table = Table::new(&["ID", "SIZE", "SOURCE", "TOPOLOGY", "NODES"]);
    for (volume, nodes) in volumes {
        table.push([
            volume.volume_id.clone(),
            size(volume.capacity_bytes),
            source(volume).0,
            places(&volume.accessible_topology),
            nodes.join(","),
        ]);
    }
    let list: Vec<Value> = volumes.iter().map(|(volume, nodes)| as_json(volume, nodes)).collect();
    Answer::new(table, json!({ "volumes": list }))
}
