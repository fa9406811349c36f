//! A PersistentVolume as JSON: what it says, and the same on another node.
//!
//! Owns: the names of its fields. Never: asks anybody.

use serde_json::{Value, json};

use crate::model::{NodeId, TOPOLOGY_KEY};

/// The field that says what becomes of the data when it is deleted, and the value that keeps them.
pub(super) const POLICY: &str = "persistentVolumeReclaimPolicy";
pub(super) const RETAIN: &str = "Retain";

pub(super) fn name_of(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

pub(super) fn uid_of(object: &Value) -> &str {
    object["metadata"]["uid"].as_str().unwrap_or_default()
}

pub(super) fn claim_of(object: &Value) -> String {
    let part = |name: &str| object["spec"]["claimRef"][name].as_str();
    part("namespace")
        .zip(part("name"))
        .map_or_else(String::new, |(namespace, name)| format!("{namespace}/{name}"))
}

/// Whether a rule names nodes as the provisioner does. One by another operator means something else.
fn is_place(rule: &Value) -> bool {
    rule["key"] == TOPOLOGY_KEY && rule["operator"] == "In"
}

/// The nodes that it names.
pub(super) fn nodes_of(object: &Value) -> Vec<&str> {
    let terms =
        object["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"].as_array().into_iter().flatten();
    let rules = terms.flat_map(|term| term["matchExpressions"].as_array().into_iter().flatten());
    let values =
        rules.filter(|rule| is_place(rule)).flat_map(|rule| rule["values"].as_array().into_iter().flatten());
    values.filter_map(Value::as_str).collect()
}

fn rules_mut(object: &mut Value) -> impl Iterator<Item = &mut Value> {
    let terms =
        object.pointer_mut("/spec/nodeAffinity/required/nodeSelectorTerms").and_then(Value::as_array_mut);
    let rules =
        terms.into_iter().flatten().filter_map(|term| term.get_mut("matchExpressions")?.as_array_mut());
    rules.flatten()
}

/// The same on another node, and without what only the server sets.
pub(super) fn anew(mut object: Value, node: &NodeId) -> Value {
    for part in ["uid", "resourceVersion", "creationTimestamp", "generation", "managedFields", "selfLink"] {
        object["metadata"].as_object_mut().into_iter().for_each(|metadata| drop(metadata.remove(part)));
    }
    object.as_object_mut().into_iter().for_each(|object| drop(object.remove("status")));
    (object["apiVersion"], object["kind"]) = (json!("v1"), json!("PersistentVolume"));
    for rule in rules_mut(&mut object).filter(|rule| is_place(rule)) {
        rule["values"] = json!([node.as_str()]);
    }
    object
}
