//! The maps and places of one call, near enough to right ones that some are.
//!
//! Owns: how the fuzzer's bytes become them. Never: judges one.

use std::collections::BTreeMap;

use arbitrary::Arbitrary;
use rockpool::model::TOPOLOGY_KEY;
use rockpool::proto::csi::{Topology, TopologyRequirement};

use super::CANARY;
use crate::node::NODE;

/// One call with its map.
#[derive(Arbitrary, Debug)]
pub(super) struct Input<'a> {
    pub(super) call: Call<'a>,
    pairs: Vec<(Key<'a>, Value<'a>)>,
}

#[derive(Arbitrary, Debug)]
pub(super) enum Call<'a> {
    Create(Fs, Option<Places<'a>>),
    Cut(Option<Places<'a>>),
    Group,
    Capacity(Option<Fs>, Option<Place<'a>>),
    Validate,
    Publish,
}

#[derive(Arbitrary, Debug)]
pub(super) enum Fs {
    Unsaid,
    Ext4,
    Xfs,
    Block,
}

/// `accessibility_requirements`.
#[derive(Arbitrary, Debug)]
pub(super) struct Places<'a> {
    requisite: Vec<Place<'a>>,
    preferred: Vec<Place<'a>>,
}

#[derive(Arbitrary, Debug)]
pub(super) struct Place<'a>(Vec<(Segment<'a>, Where<'a>)>);

#[derive(Arbitrary, Debug)]
enum Segment<'a> {
    Ours,
    Any(&'a str),
}

#[derive(Arbitrary, Debug)]
enum Where<'a> {
    Here,
    There(u8),
    Any(&'a str),
}

#[derive(Arbitrary, Debug)]
enum Key<'a> {
    Known(u8),
    Kubernetes(&'a str),
    Any(&'a str),
}

#[derive(Arbitrary, Debug)]
enum Value<'a> {
    Known(u8),
    Time(u32, u8),
    Long(u16),
    Canary(&'a str),
    Any(&'a str),
}

const KEYS: [&str; 13] = [
    "pool",
    "allocation",
    "retainDeleted",
    "csi.storage.k8s.io/fstype",
    "csi.storage.k8s.io/pvc/name",
    "csi.storage.k8s.io/pvc/namespace",
    "csi.storage.k8s.io/pv/name",
    "csi.storage.k8s.io/ephemeral",
    "csi.storage.k8s.io/volumesnapshot/name",
    "storage.kubernetes.io/csiProvisionerIdentity",
    "size",
    "placement",
    "reportNodeGoneAfter",
];
const VALUES: [&str; 14] = [
    "fast",
    "small",
    "sparse",
    "reserved",
    "ext4",
    "xfs",
    "",
    "0",
    "7d",
    "true",
    "slow",
    "not enforced",
    "spread",
    "pack",
];

impl Input<'_> {
    pub(super) fn map(&self) -> BTreeMap<String, String> {
        self.pairs.iter().map(|(key, value)| (key.text(), value.text())).collect()
    }
}

impl Key<'_> {
    fn text(&self) -> String {
        match self {
            Key::Known(n) => KEYS[usize::from(*n) % KEYS.len()].to_owned(),
            Key::Kubernetes(rest) => format!("csi.storage.k8s.io/{rest}"),
            Key::Any(text) => (*text).to_owned(),
        }
    }
}

impl Value<'_> {
    fn text(&self) -> String {
        match self {
            Value::Known(n) => VALUES[usize::from(*n) % VALUES.len()].to_owned(),
            Value::Time(number, unit) => {
                format!("{number}{}", ["s", "m", "h", "d", "w"][usize::from(*unit) % 5])
            }
            Value::Long(length) => "x".repeat(usize::from(*length) % 6000),
            Value::Canary(text) => format!("{text}{CANARY}"),
            Value::Any(text) => (*text).to_owned(),
        }
    }
}

impl Fs {
    pub(super) fn text(&self) -> &'static str {
        match self {
            Fs::Unsaid => "",
            Fs::Ext4 => "ext4",
            Fs::Xfs => "xfs",
            Fs::Block => "block",
        }
    }
}

impl Place<'_> {
    pub(super) fn wire(&self) -> Topology {
        let key = |segment: &Segment<'_>| match segment {
            Segment::Ours => TOPOLOGY_KEY.to_owned(),
            Segment::Any(text) => (*text).to_owned(),
        };
        let node = |node: &Where<'_>| match node {
            Where::Here => NODE.to_owned(),
            Where::There(n) => format!("node-{n}"),
            Where::Any(text) => (*text).to_owned(),
        };
        Topology { segments: self.0.iter().map(|(segment, at)| (key(segment), node(at))).collect() }
    }
}

impl Places<'_> {
    pub(super) fn wire(&self) -> TopologyRequirement {
        let wire = |places: &[Place<'_>]| places.iter().map(Place::wire).collect();
        TopologyRequirement { requisite: wire(&self.requisite), preferred: wire(&self.preferred) }
    }
}
