//! Canaries: secrets, tokens, values of contexts and mount flags go through every call that takes them, calls that must
//! fail included, and are found nowhere afterwards: not in a log, an error, a record, a note or a bundle.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::Path;

use rockpool::proto::csi::controller_client::ControllerClient;
use rockpool::proto::csi::group_controller_client::GroupControllerClient;
use rockpool::proto::csi::node_client::NodeClient;
use rockpool::proto::csi::snapshot_metadata_client::SnapshotMetadataClient;
use rockpool::proto::csi::volume_capability::{AccessMode, AccessType, MountVolume, access_mode};
use rockpool::proto::csi::*;
use tonic::transport::{Channel, Endpoint};
use tonic::{Response, Status};

use crate::harness::Place;
use crate::pools::Pool;

/// Every planted value has it in common.
const CANARY: &str = "kanarienvogel";

type Map = BTreeMap<String, String>;

/// What the maps and ids of a round of calls are.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Round {
    /// All is well.
    Good,
    /// The volume does not exist, its id is of our form.
    Unknown,
    /// The id is no id.
    Malformed,
    /// No capability, which every call needs that has one.
    Bare,
    /// Mount flags and a context that are refused, with canaries in them.
    Refused,
    /// Maps beyond the limit.
    Oversized,
}

fn map(round: Round, pairs: &[(&str, &str)]) -> Map {
    let mut map: Map =
        pairs.iter().map(|(key, value)| ((*key).to_owned(), format!("{CANARY}-{value}"))).collect();
    if round == Round::Oversized {
        map.insert("large".into(), CANARY.repeat(500));
    }
    map
}

fn secrets(round: Round) -> Map {
    map(round, &[("password", "secret"), ("key", "secret key")])
}

fn context(round: Round) -> Map {
    let mut context = map(
        round,
        &[
            ("csi.storage.k8s.io/serviceAccount.tokens", "token"),
            ("csi.storage.k8s.io/pod.name", "pod"),
            ("storage.kubernetes.io/csiProvisionerIdentity", "identity"),
            ("anything", "context"),
        ],
    );
    let pool = if round == Round::Refused { format!("{CANARY}-pool") } else { "fast".to_owned() };
    context.insert("pool".into(), pool);
    context
}

fn capability(round: Round) -> Option<VolumeCapability> {
    let flags = if round == Round::Refused {
        vec![format!("password={CANARY}-flag")]
    } else {
        vec!["noatime".into()]
    };
    let mount = MountVolume { fs_type: String::new(), mount_flags: flags, volume_mount_group: String::new() };
    let access_mode = Some(AccessMode { mode: access_mode::Mode::SingleNodeWriter.into() });
    let capability = VolumeCapability { access_type: Some(AccessType::Mount(mount)), access_mode };
    (round != Round::Bare).then_some(capability)
}

/// A client of everything, and what the driver said.
struct Caller {
    channel: Channel,
    staging: String,
    target: String,
    said: Vec<String>,
    refused: usize,
}

impl Caller {
    async fn new(place: &Place) -> Caller {
        let endpoint = Endpoint::from_shared(format!("unix://{}", place.socket().display())).unwrap();
        let channel = endpoint.connect().await.unwrap();
        let path = |name: &str| place.path("kubelet").join(name).display().to_string();
        std::fs::create_dir_all(path("staging")).unwrap();
        Caller { channel, staging: path("staging"), target: path("target"), said: Vec::new(), refused: 0 }
    }

    fn hear<T: Debug>(&mut self, answer: Result<Response<T>, Status>) -> Option<T> {
        match answer {
            Ok(answer) => {
                self.said.push(format!("{:?}", answer.get_ref()));
                Some(answer.into_inner())
            }
            Err(status) => {
                self.refused += 1;
                self.said.push(format!("{status:?}"));
                None
            }
        }
    }

    async fn create(&mut self, round: Round, name: &str) -> Option<Volume> {
        let request = CreateVolumeRequest {
            name: name.into(),
            capacity_range: Some(CapacityRange { required_bytes: 32 << 20, limit_bytes: 0 }),
            volume_capabilities: capability(round).into_iter().collect(),
            secrets: secrets(round),
            ..Default::default()
        };
        let answer = ControllerClient::new(self.channel.clone()).create_volume(request).await;
        self.hear(answer)?.volume
    }

    #[allow(clippy::needless_update, reason = "some of these messages have no other field")]
    /// Every call about a volume that takes a secret or a context, in the order of a life.
    async fn use_volume(&mut self, round: Round, id: &str) {
        let (secrets, context) = (secrets(round), context(round));
        let (staging, target) = (self.staging.clone(), self.target.clone());
        let (volume_id, publish_context) = (id.to_owned(), map(round, &[("device", "publish context")]));
        let capability = capability(round);
        let mut controller = ControllerClient::new(self.channel.clone());
        let mut node = NodeClient::new(self.channel.clone());
        macro_rules! say {
            ($client:ident . $method:ident, $request:ident { $($field:ident $(: $value:expr)?),* $(,)? }) => {{
                let request = $request { volume_id: volume_id.clone(), $($field $(: $value)?,)* ..Default::default() };
                let answer = $client.$method(request).await;
                self.hear(answer);
            }};
        }
        say!(
            controller.validate_volume_capabilities,
            ValidateVolumeCapabilitiesRequest {
                secrets: secrets.clone(),
                volume_context: context.clone(),
                volume_capabilities: capability.clone().into_iter().collect(),
                parameters: map(round, &[("anything", "parameter")]),
            }
        );
        say!(
            controller.controller_publish_volume,
            ControllerPublishVolumeRequest {
                secrets: secrets.clone(),
                volume_context: context.clone(),
                node_id: "node-1".into(),
            }
        );
        say!(
            controller.controller_unpublish_volume,
            ControllerUnpublishVolumeRequest { secrets: secrets.clone() }
        );
        say!(
            controller.controller_modify_volume,
            ControllerModifyVolumeRequest {
                secrets: secrets.clone(),
                mutable_parameters: map(round, &[("iops", "mutable")]),
            }
        );
        say!(
            controller.controller_get_volume_health,
            ControllerGetVolumeHealthRequest { secrets: secrets.clone() }
        );
        say!(
            node.node_stage_volume,
            NodeStageVolumeRequest {
                staging_target_path: staging.clone(),
                publish_context: publish_context.clone(),
                secrets: secrets.clone(),
                volume_context: context.clone(),
                volume_capability: capability.clone(),
            }
        );
        say!(
            node.node_publish_volume,
            NodePublishVolumeRequest {
                staging_target_path: staging.clone(),
                target_path: target.clone(),
                publish_context,
                secrets: secrets.clone(),
                volume_context: context.clone(),
                volume_capability: capability.clone(),
            }
        );
        let range = Some(CapacityRange { required_bytes: 48 << 20, limit_bytes: 0 });
        say!(
            controller.controller_expand_volume,
            ControllerExpandVolumeRequest {
                secrets: secrets.clone(),
                capacity_range: range,
                volume_capability: capability.clone(),
            }
        );
        say!(
            node.node_expand_volume,
            NodeExpandVolumeRequest {
                secrets: secrets.clone(),
                volume_path: target.clone(),
                staging_target_path: staging.clone(),
                volume_capability: capability.clone(),
            }
        );
        say!(node.node_get_volume_stats, NodeGetVolumeStatsRequest { volume_path: target.clone() });
        self.cut(round, id).await;
        say!(node.node_unpublish_volume, NodeUnpublishVolumeRequest { target_path: target.clone() });
        say!(node.node_unstage_volume, NodeUnstageVolumeRequest { staging_target_path: staging.clone() });
    }

    /// Every call about snapshots and groups.
    async fn cut(&mut self, round: Round, id: &str) {
        let mut controller = ControllerClient::new(self.channel.clone());
        let mut groups = GroupControllerClient::new(self.channel.clone());
        let mut metadata = SnapshotMetadataClient::new(self.channel.clone());
        let request = CreateSnapshotRequest {
            name: format!("cut-{round:?}"),
            source_volume_id: id.into(),
            secrets: secrets(round),
            parameters: if round == Round::Refused {
                map(round, &[("anything", "parameter")])
            } else {
                Map::new()
            },
            ..Default::default()
        };
        let answer = controller.create_snapshot(request).await;
        let cut =
            self.hear(answer).and_then(|made| made.snapshot).map_or(id.to_owned(), |made| made.snapshot_id);
        let one = GetSnapshotRequest { snapshot_id: cut.clone(), secrets: secrets(round) };
        let answer = controller.get_snapshot(one).await;
        self.hear(answer);
        let list = ListSnapshotsRequest {
            secrets: secrets(round),
            starting_token: "no".into(),
            ..Default::default()
        };
        let answer = controller.list_snapshots(list).await;
        self.hear(answer);
        let allocated = GetMetadataAllocatedRequest {
            snapshot_id: cut.clone(),
            secrets: secrets(round),
            ..Default::default()
        };
        let answer = metadata.get_metadata_allocated(allocated).await.map(|stream| stream.map(|_| ()));
        self.hear(answer);
        let delta = GetMetadataDeltaRequest { secrets: secrets(round), ..Default::default() };
        let answer = metadata.get_metadata_delta(delta).await.map(|stream| stream.map(|_| ()));
        self.hear(answer);
        let group = CreateVolumeGroupSnapshotRequest {
            name: format!("group-{round:?}"),
            source_volume_ids: vec![id.into()],
            secrets: secrets(round),
            ..Default::default()
        };
        let answer = groups.create_volume_group_snapshot(group).await;
        let group = self.hear(answer).and_then(|made| made.group_snapshot).unwrap_or_default();
        let members: Vec<String> = group.snapshots.iter().map(|one| one.snapshot_id.clone()).collect();
        let get = GetVolumeGroupSnapshotRequest {
            group_snapshot_id: group.group_snapshot_id.clone(),
            snapshot_ids: members.clone(),
            secrets: secrets(round),
        };
        let answer = groups.get_volume_group_snapshot(get).await;
        self.hear(answer);
        let delete = DeleteVolumeGroupSnapshotRequest {
            group_snapshot_id: group.group_snapshot_id,
            snapshot_ids: members,
            secrets: secrets(round),
        };
        let answer = groups.delete_volume_group_snapshot(delete).await;
        self.hear(answer);
        let answer = controller
            .delete_snapshot(DeleteSnapshotRequest { snapshot_id: cut, secrets: secrets(round) })
            .await;
        self.hear(answer);
    }

    async fn delete(&mut self, round: Round, id: &str) {
        let request = DeleteVolumeRequest { volume_id: id.into(), secrets: secrets(round) };
        let answer = ControllerClient::new(self.channel.clone()).delete_volume(request).await;
        self.hear(answer);
    }

    /// All that is wrong with a volume is said as well.
    async fn listen(&mut self) {
        let mut controller = ControllerClient::new(self.channel.clone());
        let list = ControllerListVolumeHealthRequest { secrets: secrets(Round::Good), ..Default::default() };
        let answer = controller.controller_list_volume_health(list).await;
        self.hear(answer);
        let mut node = NodeClient::new(self.channel.clone());
        let health = NodeGetStorageHealthRequest { secrets: secrets(Round::Good) };
        let answer = node.node_get_storage_health(health).await;
        self.hear(answer);
    }
}

/// Every regular file below a directory whose bytes hold a canary; of a filesystem that gave up there is nothing to read.
/// Disk images are looked into file by file, where they are mounted.
fn holding(below: &Path, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(below).into_iter().flatten().flatten() {
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            holding(&entry.path(), found);
        } else if kind.is_file() && entry.metadata().unwrap().len() < 4 << 20 {
            let bytes = std::fs::read(entry.path()).unwrap();
            if bytes.windows(CANARY.len()).any(|window| window == CANARY.as_bytes()) {
                found.push(entry.path().display().to_string());
            }
        }
    }
}

async fn everything(place: &Place, pool: &Pool<'_>) {
    let mut caller = Caller::new(place).await;
    let volume = caller.create(Round::Good, "one").await.unwrap();
    assert_eq!(caller.refused, 0, "{:?}", caller.said);
    for round in
        [Round::Good, Round::Unknown, Round::Malformed, Round::Bare, Round::Refused, Round::Oversized]
    {
        let id = match round {
            Round::Unknown => "v1.0123456789ab.0123456789abcdef".to_owned(),
            Round::Malformed => "no such id".to_owned(),
            Round::Good | Round::Bare | Round::Refused | Round::Oversized => volume.volume_id.clone(),
        };
        if round != Round::Good {
            caller.create(round, &format!("another-{round:?}")).await;
        }
        caller.use_volume(round, &id).await;
    }
    caller.listen().await;
    let mut found = Vec::new();
    holding(&pool.root().join("records"), &mut found);
    assert!(found.is_empty() && pool.root().join("records").read_dir().unwrap().count() > 0, "{found:?}");
    let refused = caller.refused;
    assert!(refused > 40, "only {refused} calls were refused: the rounds lost their point");
    // And with a pool under which everything fails that touches a disk.
    let shut = std::process::Command::new("xfs_io")
        .args(["-x", "-c", "shutdown"])
        .arg(pool.root())
        .output()
        .unwrap();
    assert!(shut.status.success(), "{shut:?}");
    caller.create(Round::Good, "broken").await;
    caller.use_volume(Round::Good, &volume.volume_id).await;
    caller.delete(Round::Good, &volume.volume_id).await;
    caller.listen().await;
    assert!(caller.refused > refused + 5, "{:?}", &caller.said[caller.said.len() - 20..]);
    let leaks: Vec<&String> = caller.said.iter().filter(|said| said.contains(CANARY)).collect();
    assert!(leaks.is_empty(), "answers hold a canary: {leaks:#?}");
}

#[test]
fn no_secret_token_context_or_mount_flag_is_found_anywhere() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for format in ["text", "json"] {
        let place = Place::new();
        let pool = Pool::init(&place);
        pool.set(&format!("retainDeleted = \"7d\" # the password is {CANARY}"));
        let driver = place.start_with(
            place.command().env("ROCKPOOL_LOG_LEVEL", "trace").env("ROCKPOOL_LOG_FORMAT", format),
        );
        runtime.block_on(everything(&place, &pool));
        let log = place.path("log");
        let bundle = place.path("bundle.tar");
        let config = place.path("config.toml");
        let words =
            ["support-bundle", "--config", config.to_str().unwrap(), "--to", bundle.to_str().unwrap()];
        let written = place.ctl(&[&words[..], &["--log", log.to_str().unwrap()]].concat());
        assert!(written.status.success(), "{written:?}");
        let unpacked =
            std::process::Command::new("tar").arg("-xOf").arg(&bundle).arg("logs/driver.jsonl").output();
        let kept = String::from_utf8(unpacked.unwrap().stdout).unwrap();
        assert!(
            kept.contains("NodeStageVolume") && !kept.contains(CANARY),
            "what the driver keeps tells of the calls"
        );
        assert!(driver.log().contains("NodeStageVolume"), "the log tells of the calls:\n{}", driver.log());
        let mut found = Vec::new();
        holding(place.dir.path(), &mut found);
        // The only place where one may be: a comment of the operator's.
        assert_eq!(found, [config.display().to_string()], "{format}");
    }
}
