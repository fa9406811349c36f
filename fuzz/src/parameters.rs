//! Parameters of classes, contexts of volumes, topologies: refused if and only if the documentation says so.
//!
//! Owns: a second reading of what docs say about them. Never: takes a code for right because the program gave it.

mod input;

use std::cell::RefCell;
use std::collections::BTreeMap;

use arbitrary::{Arbitrary, Unstructured};
use rockpool::model::{Bytes, RETAIN_DELETED, Retention, TOPOLOGY_KEY};
use rockpool::pool;
use rockpool::proto::admin::{ListRetainedRequest, ListRetainedResponse, PurgeRequest, PurgeResponse};
use rockpool::proto::csi::*;
use tempfile::TempDir;
use tonic::{Code, Status};

use self::input::{Call, Input};
use crate::node::{NODE, Node, State, sim};
use crate::requests::message;

const KUBERNETES: &str = "csi.storage.k8s.io/";
const FSTYPE: &str = "csi.storage.k8s.io/fstype";
const NAMES: [&str; 3] =
    ["csi.storage.k8s.io/pvc/name", "csi.storage.k8s.io/pvc/namespace", "csi.storage.k8s.io/pv/name"];
const PROVISIONER: &str = "storage.kubernetes.io/csiProvisionerIdentity";
const MAP_MAX: usize = 4096;
/// In every secret.
const SECRET: &str = "hush-5ecret";
/// In values, which nobody may read again where they are those of a context.
const CANARY: &str = "c0ntext-v4lue";

type Map = BTreeMap<String, String>;

thread_local! {
    static STAGE: RefCell<Option<Stage>> = const { RefCell::new(None) };
}

/// A node with a volume to cut and to ask about.
struct Stage {
    node: Node,
    before: State,
    volume: String,
    directory: TempDir,
}

/// Makes one call with the maps of the input.
///
/// # Panics
/// Where it is answered otherwise than the documentation says.
pub fn check(data: &[u8]) {
    let Ok(input) = Input::arbitrary_take_rest(Unstructured::new(data)) else { return };
    // The fuzzer learns the texts that are compared; what is said anyway is no secret.
    if data.windows(SECRET.len()).any(|bytes| bytes == SECRET.as_bytes()) {
        return;
    }
    STAGE.with_borrow_mut(|stage| {
        let stage = stage.get_or_insert_with(Stage::new);
        let map = input.map();
        if map.keys().any(|key| key.contains(CANARY)) {
            return;
        }
        match &input.call {
            Call::Create(fs, places) => {
                stage.create(&map, fs.text(), places.as_ref().map(input::Places::wire))
            }
            Call::Cut(places) => stage.cut(&map, places.as_ref().map(input::Places::wire)),
            Call::Group => stage.group(&map),
            Call::Capacity(fs, place) => {
                stage.capacity(
                    &map,
                    fs.as_ref().map(input::Fs::text),
                    place.as_ref().map(input::Place::wire),
                );
            }
            Call::Validate => stage.validate(&map),
            Call::Publish => stage.publish(&map),
        }
        let after = stage.node.check_rest();
        assert_eq!(after, stage.before, "the call left something");
    });
}

/// What a class means, or nothing where it must be refused.
fn class(map: &Map) -> Option<Class<'_>> {
    let total: usize = map.iter().map(|(key, value)| key.len() + value.len()).sum();
    let fine = |(key, value): (&String, &String)| match key.as_str() {
        "pool" => !value.is_empty(),
        "allocation" => ["sparse", "reserved"].contains(&value.as_str()),
        "placement" => ["spread", "pack"].contains(&value.as_str()),
        RETAIN_DELETED => value.parse::<Retention>().is_ok(),
        "reportNodeGoneAfter" => value.parse::<Retention>().is_ok_and(|time| time.seconds() > 0),
        FSTYPE => ["", "ext4", "xfs"].contains(&value.as_str()),
        other => other.starts_with(KUBERNETES),
    };
    let fs = map.get(FSTYPE).map_or("", String::as_str);
    (total <= MAP_MAX && map.iter().all(fine))
        .then_some(Class { pool: map.get("pool").map(String::as_str), fs })
}

struct Class<'a> {
    pool: Option<&'a str>,
    fs: &'a str,
}

impl Class<'_> {
    fn pool_exists(&self) -> bool {
        self.pool.is_none_or(|pool| ["fast", "small"].contains(&pool))
    }

    /// Whether a capability for a filesystem, or block, goes with the class's own.
    fn agrees(&self, fs: Option<&str>) -> bool {
        fs.is_none_or(|fs| fs.is_empty() || self.fs.is_empty() || fs == self.fs)
    }
}

/// How long an object of this class is kept after its deletion.
fn kept(map: &Map) -> u64 {
    map.get(RETAIN_DELETED).and_then(|text| text.parse().ok()).map_or(0, Retention::seconds)
}

/// The code that a requirement leads to, if any.
fn reach(asked: Option<&TopologyRequirement>) -> Option<Code> {
    let asked = asked?;
    let node = |place: &Topology| match place.segments.iter().collect::<Vec<_>>()[..] {
        [(key, node)] if key == TOPOLOGY_KEY => Some(node.clone()),
        _ => None,
    };
    let requisite: Option<Vec<String>> = asked.requisite.iter().map(node).collect();
    let preferred: Option<Vec<String>> = asked.preferred.iter().map(node).collect();
    let (Some(requisite), Some(preferred)) = (requisite, preferred) else {
        return Some(Code::InvalidArgument);
    };
    let nowhere = requisite.is_empty() && preferred.is_empty();
    let strange = !requisite.is_empty() && preferred.iter().any(|node| !requisite.contains(node));
    if nowhere || strange {
        return Some(Code::InvalidArgument);
    }
    let here = requisite.is_empty() || requisite.iter().any(|node| node == NODE);
    (!here).then_some(Code::ResourceExhausted)
}

/// OK if and only if nothing speaks against it, else a code that is among the reasons.
fn judge<T>(answer: &Result<T, Status>, reasons: &[Code], what: &str) {
    match answer {
        Ok(_) => assert!(reasons.is_empty(), "{what}: it was taken, want {reasons:?}"),
        Err(status) => {
            let (code, text) = (status.code(), status.message());
            assert!(reasons.contains(&code), "{what}: {code:?}, want one of {reasons:?}: {text}");
            assert!(!text.contains(SECRET), "{what}: it tells a secret: {text}");
        }
    }
}

fn secrets() -> Map {
    [("password".to_owned(), SECRET.to_owned())].into()
}

impl Stage {
    fn new() -> Stage {
        let directory = tempfile::Builder::new().prefix("parameters-").tempdir().expect("a directory");
        std::fs::create_dir_all(directory.path().join("kubelet")).expect("a directory");
        let pools = vec![sim("fast", Bytes::GIB.times(100)), sim("small", Bytes::GIB)];
        let mut node = Node::start(directory.path(), pools, Box::new(pool::open)).expect("it starts");
        let made: CreateVolumeResponse = node
            .wire
            .ask("csi.v1.Controller/CreateVolume", &message::create("stage", 1 << 30, ""))
            .expect("a volume");
        let volume = made.volume.expect("a volume").volume_id;
        let before = node.check_rest();
        Stage { node, before, volume, directory }
    }

    fn create(&mut self, map: &Map, fs: &str, places: Option<TopologyRequirement>) {
        let mut request = message::create("new", 1 << 30, fs);
        (request.parameters, request.secrets) = (map.clone(), secrets());
        let mut reasons: Vec<Code> = reach(places.as_ref()).into_iter().collect();
        request.accessibility_requirements = places;
        let asked = (fs != "block").then_some(fs);
        if class(map).is_none_or(|class| !class.pool_exists() || !class.agrees(asked)) {
            reasons.push(Code::InvalidArgument);
        }
        let answer = self.node.wire.ask("csi.v1.Controller/CreateVolume", &request);
        judge(&answer, &reasons, "create");
        let Ok(CreateVolumeResponse { volume: Some(made) }) = answer else { return };
        self.check_retries(&request, &made);
        let delete = DeleteVolumeRequest { volume_id: made.volume_id.clone(), ..Default::default() };
        let deleted: Result<DeleteVolumeResponse, _> =
            self.node.wire.ask("csi.v1.Controller/DeleteVolume", &delete);
        deleted.expect("what was made can be deleted");
        self.purge(&made.volume_id, kept(map));
    }

    /// The same again is the same volume, also where the sidecar names other objects or the class no placement; what else
    /// differs is a conflict.
    fn check_retries(&mut self, request: &CreateVolumeRequest, made: &Volume) {
        if let Some(pool) = request.parameters.get("pool") {
            assert_eq!(made.volume_context.get("pool"), Some(pool));
        }
        let mut again = request.clone();
        for key in NAMES.into_iter().chain(["placement", "reportNodeGoneAfter"]) {
            again.parameters.remove(key);
        }
        let answer: CreateVolumeResponse =
            self.node.wire.ask("csi.v1.Controller/CreateVolume", &again).expect("the same call again");
        assert!(answer.volume.as_ref() == Some(made), "a retry is answered otherwise");
        let Some(key) = again.parameters.keys().next().cloned() else { return };
        again.parameters.remove(&key);
        let answer: Result<CreateVolumeResponse, _> =
            self.node.wire.ask("csi.v1.Controller/CreateVolume", &again);
        // Without the class's filesystem the capability asks for whatever the volume has.
        judge(&answer, &[Code::AlreadyExists], &format!("again without {key:?}"));
    }

    fn cut(&mut self, map: &Map, places: Option<TopologyRequirement>) {
        let mut reasons: Vec<Code> = reach(places.as_ref()).into_iter().collect();
        if !snapshot_class(map) {
            reasons.push(Code::InvalidArgument);
        }
        let request = CreateSnapshotRequest {
            source_volume_id: self.volume.clone(),
            name: "cut".into(),
            secrets: secrets(),
            parameters: map.clone(),
            accessibility_requirements: places,
        };
        let answer = self.node.wire.ask("csi.v1.Controller/CreateSnapshot", &request);
        judge(&answer, &reasons, "cut");
        let Ok(CreateSnapshotResponse { snapshot: Some(made) }) = answer else { return };
        let delete = DeleteSnapshotRequest { snapshot_id: made.snapshot_id.clone(), ..Default::default() };
        let deleted: Result<DeleteSnapshotResponse, _> =
            self.node.wire.ask("csi.v1.Controller/DeleteSnapshot", &delete);
        deleted.expect("what was cut can be deleted");
        self.purge(&made.snapshot_id, kept(map));
    }

    fn group(&mut self, map: &Map) {
        let reasons = if group_class(map) { vec![] } else { vec![Code::InvalidArgument] };
        let request = CreateVolumeGroupSnapshotRequest {
            name: "group".into(),
            source_volume_ids: vec![self.volume.clone()],
            secrets: secrets(),
            parameters: map.clone(),
        };
        let answer = self.node.wire.ask("csi.v1.GroupController/CreateVolumeGroupSnapshot", &request);
        judge(&answer, &reasons, "group");
        let Ok(CreateVolumeGroupSnapshotResponse { group_snapshot: Some(made) }) = answer else { return };
        let delete = DeleteVolumeGroupSnapshotRequest {
            group_snapshot_id: made.group_snapshot_id.clone(),
            snapshot_ids: made.snapshots.iter().map(|member| member.snapshot_id.clone()).collect(),
            secrets: secrets(),
        };
        let deleted: Result<DeleteVolumeGroupSnapshotResponse, _> =
            self.node.wire.ask("csi.v1.GroupController/DeleteVolumeGroupSnapshot", &delete);
        deleted.expect("what was cut can be deleted");
        self.purge(&made.group_snapshot_id, kept(map));
    }

    /// What is kept is kept for as long as it was asked for, and goes when it is purged.
    fn purge(&mut self, id: &str, kept: u64) {
        let list: ListRetainedResponse = self
            .node
            .wire
            .ask("rockpool.admin.v1.Admin/ListRetained", &ListRetainedRequest {})
            .expect("a list");
        let found = list.retained.iter().find(|one| one.id == id);
        assert_eq!(found.is_some(), kept > 0, "{id} is to be kept for {kept} s");
        let Some(found) = found else { return };
        let left = u64::try_from(found.seconds_left).expect("a time");
        assert!(left <= kept && left + 60 >= kept, "{left} s are left of {kept}");
        let purge = PurgeRequest { id: id.to_owned() };
        let purged: Result<PurgeResponse, _> = self.node.wire.ask("rockpool.admin.v1.Admin/Purge", &purge);
        purged.expect("what is kept can be purged");
    }

    fn capacity(&mut self, map: &Map, fs: Option<&str>, place: Option<Topology>) {
        let segments = place.iter().flat_map(|place| &place.segments);
        let strange = segments.clone().any(|(key, _)| key != TOPOLOGY_KEY);
        let elsewhere = segments.clone().any(|(key, node)| key == TOPOLOGY_KEY && node != NODE);
        let class = class(map);
        let wrong = class.is_none() || strange;
        let agrees = class.as_ref().is_some_and(|class| class.agrees(fs.filter(|fs| *fs != "block")));
        let nothing = elsewhere || !agrees;
        let unknown = class.as_ref().is_some_and(|class| !class.pool_exists()) && !nothing;
        let reasons = if wrong || unknown { vec![Code::InvalidArgument] } else { vec![] };
        let request = GetCapacityRequest {
            volume_capabilities: fs.map(message::capability).into_iter().collect(),
            parameters: map.clone(),
            accessible_topology: place,
        };
        let answer: Result<GetCapacityResponse, _> =
            self.node.wire.ask("csi.v1.Controller/GetCapacity", &request);
        judge(&answer, &reasons, "capacity");
        let Ok(room) = answer else { return };
        let (fast, small) = (99 << 30, 1 << 30);
        let pool = class.and_then(|class| class.pool.map(str::to_owned));
        let want = match pool.as_deref() {
            _ if nothing => 0,
            Some("fast") => fast,
            Some(_) => small,
            None => fast + small,
        };
        assert_eq!(room.available_capacity, want, "{map:?}");
        assert!(room.maximum_volume_size.is_some_and(|size| size <= want));
    }

    fn validate(&mut self, map: &Map) {
        let total: usize = map.iter().map(|(key, value)| key.len() + value.len()).sum();
        let reasons = if total > MAP_MAX { vec![Code::InvalidArgument] } else { vec![] };
        let request = ValidateVolumeCapabilitiesRequest {
            volume_id: self.volume.clone(),
            volume_context: map.clone(),
            volume_capabilities: vec![message::capability("ext4")],
            secrets: secrets(),
            ..Default::default()
        };
        let answer: Result<ValidateVolumeCapabilitiesResponse, _> =
            self.node.wire.ask("csi.v1.Controller/ValidateVolumeCapabilities", &request);
        judge(&answer, &reasons, "validate");
        let Ok(answer) = answer else { return };
        let known = |key: &String| key == "pool" || key == PROVISIONER || key.starts_with(KUBERNETES);
        let fits = map.keys().all(known) && !contradicts(map);
        assert_eq!(answer.confirmed.is_some(), fits, "{map:?}");
        assert!(answer.message.is_empty() == fits && !answer.message.contains(CANARY), "{}", answer.message);
        if let Some(confirmed) = answer.confirmed {
            assert!(confirmed.volume_context == *map);
        }
    }

    fn publish(&mut self, map: &Map) {
        let inline = map.get("csi.storage.k8s.io/ephemeral").is_some_and(|value| value == "true");
        let wrong = inline || contradicts(map);
        // It is not staged, which is said after all that is wrong with the request.
        let reasons = [if wrong { Code::InvalidArgument } else { Code::FailedPrecondition }];
        let below = |name: &str| self.directory.path().join("kubelet").join(name).display().to_string();
        let request = NodePublishVolumeRequest {
            volume_id: self.volume.clone(),
            staging_target_path: below("staging"),
            target_path: below("target"),
            volume_capability: Some(message::capability("ext4")),
            secrets: secrets(),
            volume_context: map.clone(),
            ..Default::default()
        };
        let answer: Result<NodePublishVolumeResponse, _> =
            self.node.wire.ask("csi.v1.Node/NodePublishVolume", &request);
        judge(&answer, &reasons, "publish");
        assert!(!answer.is_err_and(|status| status.message().contains(CANARY)), "it tells a context");
    }
}

/// Whether a context says something else of us than the volume's own, `pool=fast` and nothing about its size.
fn contradicts(map: &Map) -> bool {
    map.get("pool").is_some_and(|pool| pool != "fast") || map.contains_key("size")
}

/// A group class may repeat its deletion policy, which counts for the length of the whole alone.
fn group_class(map: &Map) -> bool {
    let total: usize = map.iter().map(|(key, value)| key.len() + value.len()).sum();
    let mut rest = map.clone();
    let policy = rest.remove("deletionPolicy");
    total <= MAP_MAX
        && policy.is_none_or(|policy| policy == "Delete" || policy == "Retain")
        && snapshot_class(&rest)
}

fn snapshot_class(map: &Map) -> bool {
    let total: usize = map.iter().map(|(key, value)| key.len() + value.len()).sum();
    let fine = |(key, value): (&String, &String)| match key.as_str() {
        RETAIN_DELETED => value.parse::<Retention>().is_ok(),
        other => other.starts_with(KUBERNETES),
    };
    total <= MAP_MAX && map.iter().all(fine)
}
