//! The look at a cluster: which objects have to do with a claim.
//!
//! Owns: what is read, in which order, and that it is only read. Never: judges; takes what it may not read for what is not there:
//! that is left out, and said. Who does not answer at all ends the look.

use std::time::Duration;

use serde_json::{Value, json};

use super::facts::{Facts, List, Look, Source, name_of, text, uses};
use crate::cluster::kubernetes::{Fault, Kubernetes};
use crate::config::Endpoint;
use crate::ctl::cluster;
use crate::ctl::failure::{Failure, Outcome};
use crate::model::Time;

/// So many objects are read at once.
const PAGE: usize = 500;
const STORAGE: &str = "/apis/storage.k8s.io/v1";
const SNAPSHOTS: &str = "/apis/snapshot.storage.k8s.io/v1";
/// What of a node matters here: most of it is images.
const OF_NODES: [&str; 5] =
    ["/metadata/name", "/metadata/labels", "/spec/unschedulable", "/spec/taints", "/status/conditions"];

/// Which claim, of which driver.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) driver: String,
    /// Where the driver is installed.
    pub(super) release: Release,
}

/// Where the driver's own objects are looked for.
#[derive(Debug)]
pub(super) enum Release {
    /// In this namespace.
    In(String),
    /// In all; where that is forbidden, in the pod's own, if this is a pod.
    Anywhere(Option<String>),
}

/// Whether it can be the name of an object: what comes from outside must not become another path.
pub(super) fn is_name(text: &str) -> bool {
    let is_part = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-' || c == b'.';
    let inner = |c: u8| c.is_ascii_alphanumeric();
    let ends = text.bytes().next().is_some_and(inner) && text.bytes().last().is_some_and(inner);
    text.len() <= 253 && ends && text.bytes().all(is_part)
}

/// A kind of objects.
struct Kind {
    group: &'static str,
    name: &'static str,
    /// What a person calls them.
    what: &'static str,
}

/// Reads one thing after another.
struct Reader<'a> {
    api: &'a Kubernetes,
    left_out: Vec<String>,
}

/// Looks at everything that has to do with the claim.
///
/// # Errors
/// Where the claim may not be read, or the API server does not answer.
pub(super) async fn look(
    api: &Kubernetes,
    asked: Asked,
    controller: Option<(&Endpoint, Duration)>,
) -> Outcome<Facts> {
    let mut reader = Reader { api, left_out: Vec::new() };
    let path = format!("{}/{}", claims(&asked.namespace), asked.name);
    let claim = match api.get(&path).await {
        Ok(claim) => Look::There(claim),
        Err(Fault::Refused(404, _)) => Look::Missing,
        Err(fault) => return Err(Failure::Other(format!("failed to look at the claim: {fault}"))),
    };
    let own = || i64::try_from(Time::now().millis() / 1000).unwrap_or(i64::MAX);
    let now = api.clock().await.unwrap_or_else(own);
    let Asked { namespace, name, driver, release } = asked;
    let mut facts = Facts { namespace, name, driver, now, claim, ..Facts::default() };
    if facts.claim == Look::Missing {
        reader.around_nothing(&mut facts).await?;
    } else {
        reader.around(&mut facts).await?;
        if text(facts.claim(), "/status/phase") != "Bound" {
            reader.of_driver(&mut facts, &release).await?;
        }
        reader.events(&mut facts).await?;
        if let Some((endpoint, timeout)) = controller {
            reader.of_controller(&mut facts, endpoint, timeout).await;
        }
    }
    facts.left_out = reader.left_out;
    Ok(facts)
}

fn claims(namespace: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/persistentvolumeclaims")
}

/// Where a kind of object lies: of one namespace, or of all.
fn place(group: &str, namespace: Option<&str>, kind: &str) -> String {
    namespace.map_or_else(
        || format!("{group}/{kind}"),
        |namespace| format!("{group}/namespaces/{namespace}/{kind}"),
    )
}

impl Reader<'_> {
    /// Where there is no claim: what may be meant, and what may have kept it from being made.
    async fn around_nothing(&mut self, facts: &mut Facts) -> Outcome<()> {
        let namespace = format!("/api/v1/namespaces/{}", facts.namespace);
        facts.namespace_object = self.one(&namespace, "the namespace").await?;
        let here = self.list(&claims(&facts.namespace), "", "the namespace's claims", Some).await?;
        let selector = format!("&fieldSelector=metadata.name={}", facts.name);
        let wanted = facts.name.clone();
        let is_namesake = move |claim: Value| (name_of(&claim) == wanted).then_some(claim);
        let all = "/api/v1/persistentvolumeclaims";
        let there = self.list(all, &selector, "claims of other namespaces", is_namesake).await?;
        facts.namesakes = here.into_iter().chain(there).flatten().collect();
        let quotas = place("/api/v1", Some(&facts.namespace), "resourcequotas");
        facts.quotas = self.list(&quotas, "", "ResourceQuotas", Some).await?;
        self.events(facts).await
    }

    /// What the claim is, where it is, and who uses it.
    async fn around(&mut self, facts: &mut Facts) -> Outcome<()> {
        facts.classes = self.list(&format!("{STORAGE}/storageclasses"), "", "StorageClasses", Some).await?;
        facts.volume = self.volume_of(&facts.claim, "the PersistentVolume").await?;
        facts.nodes = self.list("/api/v1/nodes", "", "Nodes", |node| Some(trimmed(&node))).await?;
        facts.csi_nodes = self.list(&format!("{STORAGE}/csinodes"), "", "CSINodes", Some).await?;
        let name = facts.name.clone();
        let using = move |pod: Value| uses(&pod, &name).then_some(pod);
        let pods = place("/api/v1", Some(&facts.namespace), "pods");
        facts.pods = self.list(&pods, "", "the namespace's pods", using).await?;
        Ok(())
    }

    /// What makes volumes, and where it could.
    async fn of_driver(&mut self, facts: &mut Facts, release: &Release) -> Outcome<()> {
        let driver = facts.driver.clone();
        facts.csi_driver = self.one(&format!("{STORAGE}/csidrivers/{driver}"), "the CSIDriver").await?;
        let kind = Kind { group: STORAGE, name: "csistoragecapacities", what: "CSIStorageCapacities" };
        let selector = format!("&labelSelector=csi.storage.k8s.io/drivername={driver}");
        facts.capacities = self.own(release, &kind, &selector, |_| true).await?;
        // As the provisioner makes a name of a lease of it.
        let lease: String = driver.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        let kind =
            Kind { group: "/apis/coordination.k8s.io/v1", name: "leases", what: "the provisioner's Lease" };
        let selector = format!("&fieldSelector=metadata.name={lease}");
        facts.leases = self.own(release, &kind, &selector, |object| name_of(object) == lease).await?;
        let kind = Kind { group: "/api/v1", name: "pods", what: "the controllers' pods" };
        let selector =
            "&labelSelector=app.kubernetes.io/name=rockpool,app.kubernetes.io/component=controller";
        let is_controller =
            |pod: &Value| pod["metadata"]["labels"]["app.kubernetes.io/component"] == "controller";
        facts.controllers = self.own(release, &kind, selector, is_controller).await?;
        facts.source = self.source(facts).await?;
        Ok(())
    }

    /// Objects of the driver, wherever it may be installed.
    async fn own(
        &mut self,
        release: &Release,
        kind: &Kind,
        selector: &str,
        wanted: impl Fn(&Value) -> bool,
    ) -> Outcome<List> {
        let keep = |object: Value| wanted(&object).then_some(object);
        let first = if let Release::In(namespace) = release { Some(namespace.as_str()) } else { None };
        let before = self.left_out.len();
        let found = self.list(&place(kind.group, first, kind.name), selector, kind.what, keep).await?;
        let (None, Release::Anywhere(Some(own))) = (&found, release) else { return Ok(found) };
        self.left_out.truncate(before);
        self.list(&place(kind.group, Some(own), kind.name), selector, kind.what, keep).await
    }

    /// What the claim is to be a copy of.
    async fn source(&mut self, facts: &Facts) -> Outcome<Source> {
        let mut source = Source::default();
        let Some((kind, name, namespace)) = facts.origin() else { return Ok(source) };
        if kind == "PersistentVolumeClaim" {
            source.claim = self.below(&claims(namespace), name, "the claim that is copied").await?;
        } else if kind == "VolumeSnapshot" {
            let path = place(SNAPSHOTS, Some(namespace), "volumesnapshots");
            source.snapshot = self.below(&path, name, "the VolumeSnapshot").await?;
            let snapshot = source.snapshot.there().unwrap_or(&Value::Null);
            let content = text(snapshot, "/status/boundVolumeSnapshotContentName");
            let path = format!("{SNAPSHOTS}/volumesnapshotcontents");
            source.content = self.below(&path, content, "the VolumeSnapshotContent").await?;
            let of = text(snapshot, "/spec/source/persistentVolumeClaimName");
            source.claim = self.below(&claims(namespace), of, "the snapshot's claim").await?;
        }
        source.volume = self.volume_of(&source.claim, "the source's PersistentVolume").await?;
        Ok(source)
    }

    async fn volume_of(&mut self, claim: &Look, what: &str) -> Outcome<Look> {
        let name = text(claim.there().unwrap_or(&Value::Null), "/spec/volumeName");
        self.below("/api/v1/persistentvolumes", name, what).await
    }

    /// The Events that have to do with the claim.
    async fn events(&mut self, facts: &mut Facts) -> Outcome<()> {
        let path = place("/api/v1", Some(&facts.namespace), "events");
        let about: &Facts = facts;
        let events = self.list(&path, "", "Events", |event| concerns(&event, about).then_some(event)).await?;
        facts.events = events;
        Ok(())
    }

    /// What a controller knows, if it answers: without it there is less to say, and still enough.
    async fn of_controller(&mut self, facts: &mut Facts, endpoint: &Endpoint, timeout: Duration) {
        match cluster::told(endpoint, timeout).await {
            Ok((nodes, pools)) => (facts.told_nodes, facts.told_pools) = (Some(nodes), Some(pools)),
            Err(failure) => {
                self.left_out.push(format!("what a controller knows of nodes and pools: {failure}"))
            }
        }
    }

    /// An object below a path, by a name that an object gave: what cannot be one names nothing.
    async fn below(&mut self, path: &str, name: &str, what: &str) -> Outcome<Look> {
        if is_name(name) { self.one(&format!("{path}/{name}"), what).await } else { Ok(Look::Missing) }
    }

    async fn one(&mut self, path: &str, what: &str) -> Outcome<Look> {
        match self.api.get(path).await {
            Ok(object) => Ok(Look::There(object)),
            Err(Fault::Refused(404, _)) => Ok(Look::Missing),
            Err(fault) => self.unless_away(what, fault).map(|()| Look::Unseen),
        }
    }

    /// All of a list, page by page, as far as `keep` wants it.
    async fn list(
        &mut self,
        path: &str,
        selector: &str,
        what: &str,
        mut keep: impl FnMut(Value) -> Option<Value>,
    ) -> Outcome<List> {
        let (mut found, mut next) = (Vec::new(), String::new());
        loop {
            let page = self.api.get::<Value>(&format!("{path}?limit={PAGE}&continue={next}{selector}")).await;
            let mut page = match page {
                Ok(page) => page,
                // No such kind in this cluster.
                Err(Fault::Refused(404, _)) => return Ok(Some(found)),
                Err(fault) => return self.unless_away(what, fault).map(|()| None),
            };
            if let Some(items) = page["items"].as_array_mut() {
                found.extend(items.drain(..).filter_map(&mut keep));
            }
            next = text(&page, "/metadata/continue").to_owned();
            if next.is_empty() {
                return Ok(Some(found));
            }
        }
    }

    /// Notes what may not be read.
    fn unless_away(&mut self, what: &str, fault: Fault) -> Outcome<()> {
        match fault {
            Fault::Refused(..) => {
                self.left_out.push(format!("{what}: {fault}"));
                Ok(())
            }
            Fault::Away(_) => Err(Failure::Other(format!("failed to look at {what}: {fault}"))),
        }
    }
}

fn trimmed(node: &Value) -> Value {
    let mut kept = json!({ "metadata": {}, "spec": {}, "status": {} });
    for place in OF_NODES {
        let (parent, field) = place.rsplit_once('/').unwrap_or_default();
        let parent = kept.pointer_mut(parent);
        if let Some((parent, value)) = parent.zip(node.pointer(place)) {
            parent[field] = value.clone();
        }
    }
    kept
}

/// Whether an Event is about the claim, who uses it, where it comes from, or says its name.
fn concerns(event: &Value, facts: &Facts) -> bool {
    let (kind, name) = (text(event, "/involvedObject/kind"), text(event, "/involvedObject/name"));
    let is_origin = facts.origin().is_some_and(|(of, origin, _)| of == kind && origin == name);
    let is_claim = kind == "PersistentVolumeClaim" && name == facts.name;
    let is_user = match &facts.pods {
        Some(pods) => pods.iter().any(|pod| name_of(pod) == name),
        // Nobody knows which they are; only these say anything about storage.
        None => ["FailedScheduling", "FailedMount", "FailedMapVolume"].contains(&text(event, "/reason")),
    };
    let volume = text(facts.claim(), "/spec/volumeName");
    let message = text(event, "/message");
    let says = |name: &str| !name.is_empty() && has_word(message, name);
    is_claim || is_origin || kind == "Pod" && is_user || says(&facts.name) || says(volume)
}

/// Whether a text names an object, and not only one whose name begins or ends the same.
pub(super) fn has_word(text: &str, word: &str) -> bool {
    let part = |c: char| c.is_ascii_alphanumeric() || c == '-';
    text.match_indices(word)
        .any(|(at, _)| !text[..at].ends_with(part) && !text[at + word.len()..].starts_with(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_can_be_a_name_becomes_a_path() {
        for name in ["data", "data-web-0", "csi.rockpool.dev", "0"] {
            assert!(is_name(name), "{name}");
        }
        for name in ["", "..", "a/b", "a?b", "A", "a b", "-a", "a.", &"x".repeat(254)] {
            assert!(!is_name(name), "{name}");
        }
    }

    #[test]
    fn a_longer_name_is_another_one() {
        assert!(has_word("create Claim data-web-1 for Pod web-1", "data-web-1"));
        assert!(has_word("persistentvolumeclaim \"data\" not found", "data"));
        assert!(!has_word("create Claim data-web-10 for Pod web-10", "data-web-1"));
        assert!(!has_word("waiting for old-data", "data"));
    }

    #[test]
    fn of_a_node_only_what_matters_is_kept() {
        let node = json!({
            "metadata": { "name": "n1", "labels": { "a": "b" }, "managedFields": [1] },
            "spec": { "unschedulable": true },
            "status": { "images": [1], "conditions": [{ "type": "Ready", "status": "True" }] },
        });
        let kept = json!({
            "metadata": { "name": "n1", "labels": { "a": "b" } },
            "spec": { "unschedulable": true },
            "status": { "conditions": [{ "type": "Ready", "status": "True" }] },
        });
        assert_eq!(trimmed(&node), kept);
    }
}
