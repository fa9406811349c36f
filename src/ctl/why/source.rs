//! What is wrong with the source of a claim that is to be a copy.
//!
//! Owns: snapshot, its content, the claim that is copied, and where their volume lies. Never: looks at who has room.

use serde_json::Value;

use super::facts::{Facts, List, Look, homes, name_of, quantity, text};
use super::judge::{Cause, names, said};
use crate::error::quoted;
use crate::model::{Bytes, SnapshotId};

/// What keeps the copy from being made; nothing for a claim without a source.
pub(super) fn wrong(facts: &Facts) -> Vec<Cause> {
    let Some((kind, name, namespace)) = facts.origin() else { return Vec::new() };
    let whole = format!("{namespace}/{name}");
    let found = match kind {
        "VolumeSnapshot" => unready_snapshot(facts, &whole),
        "PersistentVolumeClaim" => unready_claim(facts, &whole),
        _ => return Vec::new(),
    };
    found.map_or_else(
        || [smaller(facts, kind, &whole), other_mode(facts, kind, &whole)].into_iter().flatten().collect(),
        |one| vec![one],
    )
}

/// What does not exist, or is about to.
fn missing(what: String) -> Option<Cause> {
    let fix = "Make the claim anew with another source: that of a claim cannot be changed.";
    Some(Cause::wrong("source-missing", what, fix))
}

fn unready_snapshot(facts: &Facts, whole: &str) -> Option<Cause> {
    let of = format!("Claim {} is to be restored from VolumeSnapshot {whole}", facts.title());
    let snapshot = match &facts.source.snapshot {
        Look::Unseen => return None,
        Look::Missing => return missing(format!("{of}, which does not exist.")),
        Look::There(snapshot) => snapshot,
    };
    let driver = text(facts.source.content.there().unwrap_or(&Value::Null), "/spec/driver");
    if !driver.is_empty() && driver != facts.driver {
        let (theirs, ours) = (quoted(driver), quoted(&facts.driver));
        let what = format!("{of}, which the driver {theirs} has made: {ours} cannot read it.");
        let fix = "Make the claim anew with a class of that driver.";
        return Some(Cause::wrong("source-other-driver", what, fix));
    }
    if !text(snapshot, "/metadata/deletionTimestamp").is_empty() {
        return missing(format!("{of}, which is being deleted."));
    }
    let bound = text(snapshot, "/status/boundVolumeSnapshotContentName");
    if !bound.is_empty() && facts.source.content == Look::Missing {
        return missing(format!(
            "{of}, whose VolumeSnapshotContent {bound} is gone, and with it the way to its data."
        ));
    }
    if snapshot["status"]["readyToUse"] == true { None } else { Some(unfinished(facts, snapshot, &of)) }
}

/// It is not ready: it fails, or takes its time.
fn unfinished(facts: &Facts, snapshot: &Value, of: &str) -> Cause {
    let objects = [Some(snapshot), facts.source.content.there()].into_iter().flatten();
    let mut errors = objects.map(|object| text(object, "/status/error/message"));
    if let Some(error) = errors.find(|error| !error.is_empty()) {
        let what = format!("{of}, which cannot be made: {}.", said(error));
        let fix = "Mend that, and the snapshotter tries again by itself; the claim follows.";
        return Cause::wrong("source-not-ready", what, fix);
    }
    let fix = "The claim follows by itself; if that takes long, look at the snapshot-controller and at the container `snapshotter` of the controller's pods.";
    Cause::waits("source-not-ready", format!("{of}, which is not ready yet."), fix)
}

fn unready_claim(facts: &Facts, whole: &str) -> Option<Cause> {
    let of = format!("Claim {} is to be a clone of claim {whole}", facts.title());
    let claim = match &facts.source.claim {
        Look::Unseen => return None,
        Look::Missing => return missing(format!("{of}, which does not exist.")),
        Look::There(claim) => claim,
    };
    if !text(claim, "/metadata/deletionTimestamp").is_empty() {
        return missing(format!("{of}, which is being deleted."));
    }
    let phase = text(claim, "/status/phase");
    if phase != "Bound" {
        let what = format!("{of}, which is {phase} itself, so there is nothing to copy yet.");
        let fix = format!("See to that one first: rockpool ctl why {whole}. This one follows by itself.");
        return Some(Cause::wrong("source-not-ready", what, fix));
    }
    let driver = facts.source.volume.there().map_or("", |volume| text(volume, "/spec/csi/driver"));
    if facts.source.volume.there().is_some() && driver != facts.driver {
        let what = format!("{of}, whose volume is not of {}.", quoted(&facts.driver));
        return Some(Cause::wrong("source-other-driver", what, "Copy the data with a pod that mounts both."));
    }
    None
}

/// How much must be asked for a copy. Of a claim as much as it asked for itself: what it has may be that, rounded up.
fn size(facts: &Facts, kind: &str) -> Option<Bytes> {
    if kind == "VolumeSnapshot" {
        return quantity(text(facts.source.snapshot.there()?, "/status/restoreSize"));
    }
    quantity(text(facts.source.claim.there()?, "/spec/resources/requests/storage"))
}

fn smaller(facts: &Facts, kind: &str, whole: &str) -> Option<Cause> {
    let (size, asked) = (size(facts, kind)?, facts.asked()?);
    if asked >= size {
        return None;
    }
    let has = if kind == "VolumeSnapshot" { "has" } else { "asked for" };
    let what = format!(
        "Claim {} asks for {asked}, and {kind} {whole}, of which it is to be a copy, {has} {size}: a copy cannot be smaller.",
        facts.title()
    );
    Some(Cause::wrong(
        "smaller-than-source",
        what,
        format!("Make it anew with {size} or more: a claim that is not bound cannot ask for another size."),
    ))
}

fn other_mode(facts: &Facts, kind: &str, whole: &str) -> Option<Cause> {
    let mode = |object: &Value, field: &str| match text(object, field) {
        "" => "Filesystem".to_owned(),
        mode => mode.to_owned(),
    };
    let have = if kind == "VolumeSnapshot" {
        text(facts.source.content.there()?, "/spec/sourceVolumeMode").to_owned()
    } else {
        mode(facts.source.claim.there()?, "/spec/volumeMode")
    };
    let want = mode(facts.claim(), "/spec/volumeMode");
    if have.is_empty() || have == want {
        return None;
    }
    let what = format!(
        "Claim {} asks for the volumeMode {want}, and {kind} {whole}, of which it is to be a copy, is {have}: a node never mounts what a workload may have made up, nor hands a filesystem out raw.",
        facts.title()
    );
    Some(Cause::wrong("volume-mode", what, format!("Make it anew with volumeMode {have}.")))
}

/// The nodes where the source lies, as far as that is known.
pub(super) fn lies_on(facts: &Facts) -> Vec<String> {
    if let Some(volume) = facts.source.volume.there() {
        return homes(volume).into_iter().map(str::to_owned).collect();
    }
    let content = facts.source.content.there().unwrap_or(&Value::Null);
    let id: Option<SnapshotId> = text(content, "/status/snapshotHandle").parse().ok();
    let pool = id.map(|id| id.pool().to_string());
    pool.map(|pool| nodes_of_pool(&facts.told_pools, &pool)).unwrap_or_default()
}

fn nodes_of_pool(pools: &List, id: &str) -> Vec<String> {
    let pool = pools.iter().flatten().find(|pool| pool["id"] == id);
    let nodes = pool.and_then(|pool| pool["nodes"].as_array()).into_iter().flatten();
    nodes.filter_map(|node| node.as_str().map(str::to_owned)).collect()
}

/// The source lies where the volume cannot be, and no copy of it can be had elsewhere.
pub(super) fn elsewhere(facts: &Facts, message: &str) -> Option<Cause> {
    let (kind, name, namespace) = facts.origin()?;
    if !message.contains("volume_content_source lies on node") {
        return None;
    }
    let lies = lies_on(facts);
    let lies = if lies.is_empty() { "another node".to_owned() } else { format!("node {}", names(&lies)) };
    let chosen = facts.selected_node().map_or_else(String::new, |node| format!(" ({node} at last)"));
    let class = facts.class().map_or("", name_of);
    let why = if facts.waits_for_a_pod() {
        format!(
            "its class {} lets the scheduler choose a node for the pod first, which knows nothing of sources, and it chose another{chosen}",
            quoted(class)
        )
    } else {
        "the volume may not be made there".to_owned()
    };
    let what = format!(
        "Claim {} is to be a copy of {kind} {namespace}/{name}, which lies on {lies}; but {why}, where no copy can be made: {}.",
        facts.title(),
        said(message)
    );
    let fix = "Make it anew with a class of the same parameters and volumeBindingMode Immediate: the volume is made beside its source then, and the pod follows it; or pin the pod to that node.";
    Some(Cause::wrong("source-elsewhere", what, fix))
}
