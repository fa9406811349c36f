//! What one look at a cluster has found about a claim: objects of Kubernetes as plain JSON.
//!
//! Owns: where in them things are written. Never: asks anybody, or says what is wrong.

use std::collections::BTreeSet;

use prost_types::Timestamp;
use serde_json::Value;

use crate::model::{Bytes, TOPOLOGY_KEY};

/// One object.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) enum Look {
    /// As it is.
    There(Value),
    /// It does not exist, or nothing names one.
    Missing,
    /// It may not be read, or nobody had to look.
    #[default]
    Unseen,
}

/// Many; none where they may not be read.
pub(super) type List = Option<Vec<Value>>;

/// Everything that was looked at.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts {
    pub(super) namespace: String,
    pub(super) name: String,
    /// Our own name.
    pub(super) driver: String,
    /// Seconds since 1970, for the API server.
    pub(super) now: i64,
    pub(super) claim: Look,
    /// The namespace of the claim, looked at where there is no claim.
    pub(super) namespace_object: Look,
    /// Where there is no claim: those of its namespace, and those of its name in others.
    pub(super) namesakes: Vec<Value>,
    pub(super) classes: List,
    /// The object that says what Kubernetes may expect of the driver.
    pub(super) csi_driver: Look,
    /// The volume that the claim names.
    pub(super) volume: Look,
    pub(super) nodes: List,
    pub(super) csi_nodes: List,
    /// How much can be made where, in every class of the driver.
    pub(super) capacities: List,
    /// Those that use the claim.
    pub(super) pods: List,
    /// Of the claim, its pods and its source, and what names the claim.
    pub(super) events: List,
    pub(super) source: Source,
    pub(super) quotas: List,
    /// Which provisioner leads.
    pub(super) leases: List,
    /// The controller's pods.
    pub(super) controllers: List,
    /// What a controller says of its nodes, and of its pools.
    pub(super) told_nodes: List,
    pub(super) told_pools: List,
    /// What could not be looked at, and why.
    pub(super) left_out: Vec<String>,
}

/// Where the content of the claim is to come from.
#[derive(Clone, Debug, Default)]
pub(super) struct Source {
    pub(super) snapshot: Look,
    pub(super) content: Look,
    /// The claim that is copied, or of which the snapshot was taken.
    pub(super) claim: Look,
    /// That one's volume.
    pub(super) volume: Look,
}

impl Look {
    pub(super) fn there(&self) -> Option<&Value> {
        match self {
            Look::There(object) => Some(object),
            Look::Missing | Look::Unseen => None,
        }
    }
}

/// The text at a path, empty where there is none.
pub(super) fn text<'a>(object: &'a Value, path: &str) -> &'a str {
    object.pointer(path).and_then(Value::as_str).unwrap_or_default()
}

/// The list at a path.
pub(super) fn list<'a>(object: &'a Value, path: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    object.pointer(path).and_then(Value::as_array).into_iter().flatten()
}

/// The texts of the list at a path.
pub(super) fn texts<'a>(object: &'a Value, path: &str) -> Vec<&'a str> {
    list(object, path).filter_map(Value::as_str).collect()
}

pub(super) fn name_of(object: &Value) -> &str {
    text(object, "/metadata/name")
}

/// An annotation or label, whose key may hold slashes.
pub(super) fn mark<'a>(object: &'a Value, field: &str, key: &str) -> Option<&'a str> {
    object["metadata"][field][key].as_str()
}

/// The object of that name.
pub(super) fn named<'a>(list: &'a List, name: &str) -> Option<&'a Value> {
    list.iter().flatten().find(|object| name_of(object) == name)
}

/// A condition of a status.
pub(super) fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    list(object, "/status/conditions").find(|condition| condition["type"] == kind)
}

/// When something was written down, in seconds since 1970.
pub(super) fn moment(text: &str) -> Option<i64> {
    text.parse::<Timestamp>().ok().map(|time| time.seconds)
}

/// A size as Kubernetes writes it, `10Gi`, `1.5G`, `1e9`; rounded up to bytes.
pub(super) fn quantity(text: &str) -> Option<Bytes> {
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (digits, unit) = text.split_at(split);
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if whole.is_empty() && fraction.is_empty() || whole.len() + fraction.len() > 24 {
        return None;
    }
    let number: u128 = format!("{whole}{fraction}").parse().ok()?;
    let below = 10_u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let (times, parts) = unit_of(unit)?;
    let bytes = number.checked_mul(times)?.div_ceil(below.checked_mul(parts)?);
    u64::try_from(bytes).ok().map(Bytes::new)
}

/// What a unit multiplies by, and what it divides by.
fn unit_of(unit: &str) -> Option<(u128, u128)> {
    let binary = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"].iter().zip(1..).find(|(name, _)| **name == unit);
    if let Some((_, power)) = binary {
        return Some((1024_u128.pow(power), 1));
    }
    let decimal = ["k", "M", "G", "T", "P", "E"].iter().zip(1..).find(|(name, _)| **name == unit);
    if let Some((_, power)) = decimal {
        return Some((1000_u128.pow(power), 1));
    }
    match unit {
        "" => Some((1, 1)),
        "m" => Some((1, 1_000)),
        "u" => Some((1, 1_000_000)),
        "n" => Some((1, 1_000_000_000)),
        _ => {
            let power: i32 = unit.strip_prefix(['e', 'E'])?.parse().ok()?;
            let much = 10_u128.checked_pow(power.unsigned_abs())?;
            Some(if power < 0 { (1, much) } else { (much, 1) })
        }
    }
}

impl Facts {
    /// The claim; null where there is none.
    pub(super) fn claim(&self) -> &Value {
        self.claim.there().unwrap_or(&Value::Null)
    }

    /// What a person calls it.
    pub(super) fn title(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// How much the claim asks for.
    pub(super) fn asked(&self) -> Option<Bytes> {
        quantity(text(self.claim(), "/spec/resources/requests/storage"))
    }

    /// The class that the claim names; an empty one says that nothing is to be made for it.
    pub(super) fn class_name(&self) -> Option<&str> {
        let beta = mark(self.claim(), "annotations", "volume.beta.kubernetes.io/storage-class");
        self.claim()["spec"]["storageClassName"].as_str().or(beta)
    }

    /// The class of the claim, or that of all which name none.
    pub(super) fn class(&self) -> Option<&Value> {
        match self.class_name() {
            Some(name) => named(&self.classes, name),
            None => self.default_class(),
        }
    }

    fn default_class(&self) -> Option<&Value> {
        let is_default = |class: &&Value| {
            mark(class, "annotations", "storageclass.kubernetes.io/is-default-class") == Some("true")
        };
        let all = self.classes.iter().flatten().filter(is_default);
        // Of several Kubernetes takes the youngest.
        all.max_by_key(|class| text(class, "/metadata/creationTimestamp"))
    }

    /// Whether a volume is made only once a pod that wants it has a node.
    pub(super) fn waits_for_a_pod(&self) -> bool {
        self.class().is_some_and(|class| class["volumeBindingMode"] == "WaitForFirstConsumer")
    }

    /// The node that the scheduler has chosen for it.
    pub(super) fn selected_node(&self) -> Option<&str> {
        mark(self.claim(), "annotations", "volume.kubernetes.io/selected-node")
    }

    /// Pods that use it and have not ended.
    pub(super) fn users(&self) -> Vec<&Value> {
        let ended = |pod: &&Value| ["Succeeded", "Failed"].contains(&text(pod, "/status/phase"));
        self.pods.iter().flatten().filter(|pod| !ended(pod)).collect()
    }

    /// What the claim is to be a copy of: kind, name and namespace.
    pub(super) fn origin(&self) -> Option<(&str, &str, &str)> {
        let spec = &self.claim()["spec"];
        let source =
            ["dataSourceRef", "dataSource"].iter().map(|field| &spec[field]).find(|it| it.is_object())?;
        let other = Some(text(source, "/namespace")).filter(|other| !other.is_empty());
        Some((text(source, "/kind"), text(source, "/name"), other.unwrap_or(&self.namespace)))
    }

    /// The Events about an object, the newest first.
    pub(super) fn events_of(&self, kind: &str, object: &Value) -> Vec<&Value> {
        let (name, uid) = (name_of(object), text(object, "/metadata/uid"));
        let mut found: Vec<&Value> = self
            .events
            .iter()
            .flatten()
            .filter(|event| {
                let (about, whose) = (&event["involvedObject"], text(event, "/involvedObject/uid"));
                // One of that name which was there before has another uid.
                let is_it = uid.is_empty() || whose.is_empty() || uid == whose;
                about["kind"] == kind && about["name"] == name && is_it
            })
            .collect();
        newest_first(&mut found);
        found
    }

    /// The newest Event about the claim for one of these reasons.
    pub(super) fn newest(&self, reasons: &[&str]) -> Option<&Value> {
        let all = self.events_of("PersistentVolumeClaim", self.claim());
        all.into_iter().find(|event| reasons.contains(&text(event, "/reason")))
    }

    /// The nodes that the driver is registered on; none where that is not known.
    pub(super) fn with_driver(&self) -> Option<BTreeSet<&str>> {
        let is_ours = |driver: &Value| driver["name"] == self.driver.as_str();
        let nodes = self.csi_nodes.as_ref()?.iter();
        Some(nodes.filter(|node| list(node, "/spec/drivers").any(is_ours)).map(name_of).collect())
    }

    /// Whether it is known that a node lacks the driver.
    pub(super) fn lacks_driver(&self, node: &str) -> bool {
        self.with_driver().is_some_and(|nodes| !nodes.contains(node))
    }
}

/// When an Event was last seen, in a form that sorts.
pub(super) fn seen_at(event: &Value) -> &str {
    let places = ["/series/lastObservedTime", "/lastTimestamp", "/eventTime", "/metadata/creationTimestamp"];
    let times = places.iter().map(|place| text(event, place));
    times.into_iter().find(|time| !time.is_empty()).unwrap_or_default().trim_end_matches('Z')
}

pub(super) fn newest_first(events: &mut [&Value]) {
    events.sort_by(|one, next| seen_at(next).cmp(seen_at(one)));
}

/// Whether a pod names a claim, or was made with one of its own.
pub(super) fn uses(pod: &Value, claim: &str) -> bool {
    list(pod, "/spec/volumes").any(|volume| {
        let own = || format!("{}-{}", name_of(pod), text(volume, "/name"));
        volume["persistentVolumeClaim"]["claimName"] == claim
            || volume["ephemeral"].is_object() && own() == claim
    })
}

/// The nodes that a volume can be used on, by our own key.
pub(super) fn homes(volume: &Value) -> Vec<&str> {
    let terms = list(volume, "/spec/nodeAffinity/required/nodeSelectorTerms");
    let rules = terms.flat_map(|term| list(term, "/matchExpressions"));
    let ours = rules.filter(|rule| rule["key"] == TOPOLOGY_KEY && rule["operator"] == "In");
    ours.flat_map(|rule| texts(rule, "/values")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_as_kubernetes_writes_them() {
        for (text, bytes) in [
            ("10Gi", 10 << 30),
            ("1G", 1_000_000_000),
            ("1.5Gi", 3 << 29),
            ("1e9", 1_000_000_000),
            ("2E3", 2000),
            ("1500m", 2),
            ("0", 0),
            (".5Ki", 512),
            ("4096", 4096),
            ("2E", 2_000_000_000_000_000_000),
        ] {
            assert_eq!(quantity(text), Some(Bytes::new(bytes)), "{text}");
        }
        for text in ["", "Gi", "-1Gi", "1Xi", "99999999999999999999Ei", "1e99", "1.2.3"] {
            assert_eq!(quantity(text), None, "{text}");
        }
    }

    #[test]
    fn events_sort_by_when_they_were_last_seen() {
        let seen = |fields: Value| seen_at(&fields).to_owned();
        let old = seen(serde_json::json!({ "lastTimestamp": "2026-11-23T04:00:00Z" }));
        let micro =
            seen(serde_json::json!({ "lastTimestamp": null, "eventTime": "2026-11-23T04:00:00.500000Z" }));
        let series = serde_json::json!({ "eventTime": "2026-11-23T03:00:00.000000Z", "series": { "lastObservedTime": "2026-11-23T04:00:01.000000Z" } });
        assert!(old < micro && micro < seen(series));
    }
}
