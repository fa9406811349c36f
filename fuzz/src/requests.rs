//! The bytes of one request, to any method, as tonic would take them from a socket.
//!
//! Owns: what holds before and after. Never: lets one input leave something for the next.
//!
//! An input is a byte that chooses the method, and the bytes of its request. Ids are random, so an input says
//! `v1.aaaaaaaaaaaa.000000000000000N` for the volume with the number N; snapshots and groups likewise. A path below kubelet's
//! directory begins with [`ROOT`].

pub mod message;
mod method;
mod scene;

use std::cell::RefCell;

use prost::Message;
use rockpool::proto::admin::{PurgeRequest, PurgeResponse};
use rockpool::proto::csi::*;
use tonic::Code;

use self::method::{Effect, METHODS, Method, check_table};
use self::scene::Scene;

/// What stands for kubelet's directory: as many bytes as may stand in its place, so that lengths stay right.
pub const ROOT: &str = "/kubelet////////////////////////////////////////////////////////////////";

/// Every method by its path, in the order in which inputs number them.
pub const METHODS_BY_PATH: [&str; METHODS.len()] = {
    let mut paths = [""; METHODS.len()];
    let mut n = 0;
    while n < paths.len() {
        paths[n] = METHODS[n].path;
        n += 1;
    }
    paths
};

thread_local! {
    static SCENE: RefCell<Option<Scene>> = const { RefCell::new(None) };
}

/// Sends one request, and looks at what it did.
///
/// # Panics
/// Where the answer or what is left breaks the contract.
pub fn check(data: &[u8]) {
    let Some((choice, bytes)) = data.split_first() else { return };
    let method = &METHODS[usize::from(*choice) % METHODS.len()];
    SCENE.with_borrow_mut(|scene| {
        let here = scene.get_or_insert_with(|| {
            check_table();
            Scene::new()
        });
        let bytes = here.filled_in(bytes);
        if !here.send(method, &bytes) {
            // It is not what it was, as was asked for.
            scene.take().into_iter().for_each(Scene::end);
        }
    });
}

impl Scene {
    /// Whether all is as it was.
    fn send(&mut self, method: &Method, bytes: &[u8]) -> bool {
        let answer = self.node.wire.send(method.path, bytes);
        if !(method.decodes)(bytes) {
            // tonic's own code for bytes that are no message.
            let code = answer.expect_err("it was taken though it does not decode").code();
            assert_eq!(code, Code::Internal, "{}", method.path);
            self.check_untouched(method);
            return true;
        }
        match answer {
            Err(status) => {
                let (code, text) = (status.code(), status.message());
                assert!(method.codes.contains(&code), "{} answers {code:?}: {text}", method.path);
                self.check_untouched(method);
                true
            }
            Ok(answer) => {
                match method.effect {
                    Effect::Never => panic!("{} cannot be OK here", method.path),
                    Effect::Reads => self.check_told(method, bytes, &answer),
                    Effect::Makes => self.unmake(method, bytes, &answer),
                    Effect::Changes => return self.check_changed(method, bytes, &answer),
                }
                self.check_untouched(method);
                true
            }
        }
    }

    fn check_untouched(&self, method: &Method) {
        assert!(self.node.state() == self.before, "{} left something behind", method.path);
        if method.path.contains("Node/") {
            assert_eq!(self.tree(), self.tree, "{} touched a path", method.path);
        }
    }

    fn check_told(&mut self, method: &Method, bytes: &[u8], answer: &[u8]) {
        match method.path {
            "csi.v1.Controller/ListVolumes" => {
                let request = ListVolumesRequest::decode(bytes).expect("it decodes");
                self.check_volumes(&request, &ListVolumesResponse::decode(answer).expect("an answer"));
            }
            "csi.v1.Controller/ListSnapshots" => {
                let request = ListSnapshotsRequest::decode(bytes).expect("it decodes");
                self.check_snapshots(&request, &ListSnapshotsResponse::decode(answer).expect("an answer"));
            }
            "csi.v1.Controller/GetCapacity" => {
                let room = GetCapacityResponse::decode(answer).expect("an answer");
                let (most, least) = (room.maximum_volume_size, room.minimum_volume_size);
                assert!(room.available_capacity >= 0 && room.available_capacity <= self.free());
                assert!(most.is_some_and(|most| (0..=room.available_capacity).contains(&most)), "{room:?}");
                assert!(least.is_some_and(|least| least >= 0), "{room:?}");
            }
            "csi.v1.Controller/ValidateVolumeCapabilities" => {
                let request = ValidateVolumeCapabilitiesRequest::decode(bytes).expect("it decodes");
                let answer = ValidateVolumeCapabilitiesResponse::decode(answer).expect("an answer");
                assert_eq!(answer.confirmed.is_some(), answer.message.is_empty());
                let Some(confirmed) = answer.confirmed else { return };
                assert!(confirmed.volume_context == request.volume_context);
                assert!(confirmed.volume_capabilities == request.volume_capabilities);
                assert!(confirmed.parameters == request.parameters);
            }
            _ => {}
        }
    }

    /// What a page holds is what follows its token, as much as was asked for, and it says whether there is more.
    fn check_volumes(&self, request: &ListVolumesRequest, answer: &ListVolumesResponse) {
        let ids = self.before.volumes.iter().map(|volume| volume.id.to_string());
        let listed = answer.entries.iter().filter_map(|entry| entry.volume.as_ref());
        let listed = listed.map(|volume| volume.volume_id.clone()).collect();
        check_page(
            "volumes",
            ids.collect(),
            listed,
            (request.max_entries, &request.starting_token),
            &answer.next_token,
        );
    }

    fn check_snapshots(&self, request: &ListSnapshotsRequest, answer: &ListSnapshotsResponse) {
        let (one, of) = (&request.snapshot_id, &request.source_volume_id);
        let wanted = self.before.snapshots.iter().filter(|snapshot| {
            (one.is_empty() || snapshot.id.to_string() == *one)
                && (of.is_empty() || snapshot.source.to_string() == *of)
        });
        let ids = wanted.map(|snapshot| snapshot.id.to_string()).collect();
        let listed = answer.entries.iter().filter_map(|entry| entry.snapshot.as_ref());
        let listed = listed.map(|snapshot| snapshot.snapshot_id.clone()).collect();
        check_page(
            "snapshots",
            ids,
            listed,
            (request.max_entries, &request.starting_token),
            &answer.next_token,
        );
    }

    /// What was made is listed as it was asked for, a retry finds it, and without it all is as it was.
    fn unmake(&mut self, method: &Method, bytes: &[u8], answer: &[u8]) {
        let again = self.node.wire.send(method.path, bytes).expect("the same call again");
        assert!(again == answer, "{}: a retry is answered otherwise", method.path);
        self.node.check_rest();
        let known = |id: &str| self.ids.iter().flatten().any(|known| known == id);
        match method.path {
            "csi.v1.Controller/CreateVolume" => {
                let request = CreateVolumeRequest::decode(bytes).expect("it decodes");
                let made = CreateVolumeResponse::decode(answer).expect("an answer").volume.expect("a volume");
                let range = request.capacity_range.unwrap_or_default();
                assert!(made.capacity_bytes >= range.required_bytes.max(1));
                assert!(range.limit_bytes == 0 || made.capacity_bytes <= range.limit_bytes);
                assert!(made.content_source == request.volume_content_source);
                if !known(&made.volume_id) {
                    self.delete_volume(&made.volume_id);
                }
            }
            "csi.v1.Controller/CreateSnapshot" => {
                let request = CreateSnapshotRequest::decode(bytes).expect("it decodes");
                let made =
                    CreateSnapshotResponse::decode(answer).expect("an answer").snapshot.expect("a snapshot");
                assert!(made.source_volume_id == request.source_volume_id && made.ready_to_use);
                if !known(&made.snapshot_id) {
                    let delete =
                        DeleteSnapshotRequest { snapshot_id: made.snapshot_id.clone(), ..Default::default() };
                    let _: DeleteSnapshotResponse = self
                        .node
                        .wire
                        .ask("csi.v1.Controller/DeleteSnapshot", &delete)
                        .expect("it can be deleted");
                    self.purge(&made.snapshot_id);
                }
            }
            _ => {
                let request = CreateVolumeGroupSnapshotRequest::decode(bytes).expect("it decodes");
                let made = CreateVolumeGroupSnapshotResponse::decode(answer).expect("an answer");
                let made = made.group_snapshot.expect("a group");
                assert!(made.ready_to_use && made.snapshots.len() == request.source_volume_ids.len());
                if !known(&made.group_snapshot_id) {
                    self.delete_group(&made);
                }
            }
        }
    }

    fn delete_volume(&mut self, id: &str) {
        let delete = DeleteVolumeRequest { volume_id: id.to_owned(), ..Default::default() };
        let _: DeleteVolumeResponse =
            self.node.wire.ask("csi.v1.Controller/DeleteVolume", &delete).expect("it can be deleted");
        self.purge(id);
    }

    fn delete_group(&mut self, made: &VolumeGroupSnapshot) {
        let delete = DeleteVolumeGroupSnapshotRequest {
            group_snapshot_id: made.group_snapshot_id.clone(),
            snapshot_ids: made.snapshots.iter().map(|member| member.snapshot_id.clone()).collect(),
            ..Default::default()
        };
        let _: DeleteVolumeGroupSnapshotResponse = self
            .node
            .wire
            .ask("csi.v1.GroupController/DeleteVolumeGroupSnapshot", &delete)
            .expect("it can be deleted");
        self.purge(&made.group_snapshot_id);
    }

    fn purge(&mut self, id: &str) {
        let purge = PurgeRequest { id: id.to_owned() };
        let _: PurgeResponse =
            self.node.wire.ask("rockpool.admin.v1.Admin/Purge", &purge).expect("it can go for good");
    }

    /// Only what the request names has changed. Whether all is as it was.
    fn check_changed(&mut self, method: &Method, bytes: &[u8], answer: &[u8]) -> bool {
        let after = self.node.check_rest();
        let unchanged = after == self.before && self.tree() == self.tree;
        match method.path {
            "csi.v1.Controller/DeleteVolume" => {
                let id = DeleteVolumeRequest::decode(bytes).expect("it decodes").volume_id;
                let rest = self.before.volumes.iter().filter(|volume| volume.id.to_string() != id);
                assert!(rest.eq(&after.volumes) && after.snapshots == self.before.snapshots);
            }
            "csi.v1.Controller/DeleteSnapshot" => {
                let id = DeleteSnapshotRequest::decode(bytes).expect("it decodes").snapshot_id;
                let rest = self.before.snapshots.iter().filter(|snapshot| snapshot.id.to_string() != id);
                assert!(rest.eq(&after.snapshots) && after.volumes == self.before.volumes);
            }
            "csi.v1.Controller/ControllerExpandVolume" => {
                let request = ControllerExpandVolumeRequest::decode(bytes).expect("it decodes");
                let range = request.capacity_range.expect("one is required");
                let size = ControllerExpandVolumeResponse::decode(answer).expect("an answer").capacity_bytes;
                assert!(
                    size >= range.required_bytes && (range.limit_bytes == 0 || size <= range.limit_bytes)
                );
                for (old, new) in self.before.volumes.iter().zip(&after.volumes) {
                    assert!(new.size >= old.size, "it shrinks");
                    assert!(new.size == old.size || new.id.to_string() == request.volume_id);
                    assert!(new.id.to_string() != request.volume_id || new.size.as_i64() == size);
                }
            }
            path if path.contains("Node/") => {
                assert!(after == self.before, "{path} changes a volume");
                // An empty target may go; nothing else.
                let gone: Vec<_> = self.tree.difference(&self.tree()).cloned().collect();
                assert!(self.tree().is_subset(&self.tree) && gone.len() <= 1, "{path}: {gone:?}");
                assert!(
                    gone.iter().all(|gone| gone.ends_with("empty") || gone.ends_with("blank")),
                    "{gone:?}"
                );
            }
            _ => {}
        }
        unchanged
    }
}

fn check_page(list: &str, all: Vec<String>, listed: Vec<String>, asked: (i32, &str), next: &str) {
    let (max, token) = asked;
    let made = |id: &str| {
        let body = format!("{list}/{id}");
        format!("{body}/{:08x}", crc32c::crc32c(body.as_bytes()))
    };
    let last = token.split('/').nth(1).unwrap_or_default();
    assert!(token.is_empty() || token == made(last), "a token that was never issued is taken: {token:?}");
    let rest: Vec<String> = all.into_iter().filter(|id| id.as_str() > last).collect();
    let most = usize::try_from(max).expect("a negative number is refused");
    let most = if most == 0 { usize::MAX } else { most };
    assert_eq!(listed, rest[..most.min(rest.len())]);
    assert_eq!(next, if rest.len() > most { made(&rest[most - 1]) } else { String::new() });
}
