//! The services of a node that a test moves by hand: what it holds is in memory, and how it answers is what the test says.

use std::collections::{BTreeMap, BTreeSet};
use std::future::pending;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use tonic::{Request, Response, Status, async_trait};

use super::fake::Fake;
use crate::csi::tokens::{List, cut};
use crate::model::{Named, PoolId, SnapshotId, TOPOLOGY_KEY, VolumeId, name_hash};
use crate::proto::csi::controller_server::Controller;
use crate::proto::csi::group_controller_server::GroupController;
use crate::proto::csi::{self, *};

type Reply<T> = Result<Response<T>, Status>;

/// What a node holds.
#[derive(Default)]
pub(in crate::cluster) struct Store {
    /// By id, with the name.
    pub(in crate::cluster) volumes: Mutex<BTreeMap<VolumeId, String>>,
    /// By id, with the volume that each was cut from.
    pub(in crate::cluster) snapshots: Mutex<BTreeMap<SnapshotId, String>>,
    /// The calls that came, as `method id`.
    pub(in crate::cluster) asked: Mutex<Vec<String>>,
    /// What every call that changes something answers.
    pub(in crate::cluster) refusal: Mutex<Option<Status>>,
    /// Whether calls that change something never end.
    pub(in crate::cluster) hung: Mutex<bool>,
    /// Whether it tells at once which names it takes.
    pub(in crate::cluster) silent: Mutex<bool>,
    /// Whether it knows transfers.
    pub(in crate::cluster) travels: Mutex<bool>,
    /// The names of the volumes that it has begun to take from other nodes.
    pub(in crate::cluster) taking: Mutex<BTreeSet<String>>,
    /// How often it was told to send something.
    pub(in crate::cluster) given: Mutex<u64>,
    /// Whether what could be copied from it is gone.
    pub(in crate::cluster) has_no_source: Mutex<bool>,
    /// What it says of what it has made that is not so.
    pub(in crate::cluster) lie: Mutex<Option<Lie>>,
    counter: AtomicUsize,
}

/// What a node says of a volume that it is not to say.
#[derive(Clone, Copy, Debug)]
pub(in crate::cluster) enum Lie {
    /// It is in this pool.
    Pool(&'static str),
    /// It is to be used on this node.
    Place(&'static str),
}

impl Fake {
    /// Notes a call, and answers it as the test wants.
    async fn change(&self, method: &str, id: &str) -> Result<(), Status> {
        self.store.asked.lock().unwrap().push(format!("{method} {id}"));
        let hung = *self.store.hung.lock().unwrap();
        if hung {
            pending::<()>().await;
        }
        self.store.refusal.lock().unwrap().clone().map_or(Ok(()), Err)
    }

    /// The calls since the last question.
    pub(in crate::cluster) fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.store.asked.lock().unwrap())
    }

    pub(in crate::cluster) fn refuse(&self, status: Option<Status>) {
        *self.store.refusal.lock().unwrap() = status;
    }

    pub(in crate::cluster) fn hang(&self) {
        *self.store.hung.lock().unwrap() = true;
    }

    pub(in crate::cluster) fn lie(&self, lie: Option<Lie>) {
        *self.store.lie.lock().unwrap() = lie;
    }

    /// From now on nobody hears which names it takes.
    pub(in crate::cluster) fn keep_names(&self) {
        *self.store.silent.lock().unwrap() = true;
    }

    /// Eight bytes that only this node makes.
    fn random(&self) -> [u8; 8] {
        let n = self.store.counter.fetch_add(1, Ordering::Relaxed);
        u64::try_from(n + 1).unwrap().to_be_bytes()
    }

    /// Holds a volume.
    pub(in crate::cluster) fn hold(&self, pool: &str, number: u8) -> VolumeId {
        let id = VolumeId::new(pool.parse::<PoolId>().unwrap(), [number; 8]);
        self.store.volumes.lock().unwrap().insert(id, format!("volume {number}"));
        id
    }

    /// Holds a snapshot of a volume.
    pub(in crate::cluster) fn hold_cut(&self, of: VolumeId, number: u8) -> SnapshotId {
        let id = SnapshotId::new(of.pool(), [number; 8]);
        self.store.snapshots.lock().unwrap().insert(id, of.to_string());
        id
    }

    fn shown(&self, id: &VolumeId, name: &str) -> csi::Volume {
        let segments = [(TOPOLOGY_KEY.to_owned(), self.name().to_owned())].into();
        csi::Volume {
            volume_id: id.to_string(),
            capacity_bytes: 1 << 30,
            volume_context: [("name".to_owned(), name.to_owned())].into(),
            accessible_topology: vec![Topology { segments }],
            ..Default::default()
        }
    }

    pub(super) fn own_pool(&self) -> PoolId {
        self.news().pools.values().find_map(|pool| pool.id.parse().ok()).unwrap()
    }

    fn elsewhere(&self, asked: Option<&TopologyRequirement>) -> bool {
        let requisite = asked.map(|asked| &asked.requisite).filter(|nodes| !nodes.is_empty());
        requisite.is_some_and(|nodes| !nodes.iter().any(|node| node.segments[TOPOLOGY_KEY] == self.name()))
    }
}

fn shown_cut(id: &SnapshotId, of: &str) -> csi::Snapshot {
    let (snapshot_id, source_volume_id) = (id.to_string(), of.to_owned());
    csi::Snapshot { snapshot_id, source_volume_id, ready_to_use: true, ..Default::default() }
}

/// What comes behind a token, and at most so much of it.
fn page<I: Ord + std::str::FromStr + Copy + std::fmt::Display, T: Clone>(
    list: List,
    all: &BTreeMap<I, T>,
    token: &str,
    max: i32,
) -> Result<(Vec<(I, T)>, String), Status> {
    let after: Option<I> = list.cursor(token)?;
    let max = match usize::try_from(max).unwrap() {
        0 => usize::MAX,
        max => max,
    };
    let later = all.iter().filter(|(id, _)| after.is_none_or(|after| **id > after));
    let mut page: Vec<(I, T)> = later.take(max.saturating_add(1)).map(|(id, it)| (*id, it.clone())).collect();
    let token = cut(list, &mut page, max, |(id, _)| *id);
    Ok((page, token))
}

#[async_trait]
impl Controller for Fake {
    async fn create_volume(&self, request: Request<CreateVolumeRequest>) -> Reply<CreateVolumeResponse> {
        let request = request.into_inner();
        self.change("create", &request.name).await?;
        let mut volumes = self.store.volumes.lock().unwrap();
        let found = volumes.iter().find(|(_, name)| **name == request.name).map(|(id, _)| *id);
        if self.elsewhere(request.accessibility_requirements.as_ref()) {
            let code = if found.is_some() { Status::already_exists } else { Status::resource_exhausted };
            return Err(code(format!("not on {}", self.name())));
        }
        let id = found.unwrap_or_else(|| VolumeId::new(self.own_pool(), self.random()));
        volumes.insert(id, request.name.clone());
        drop(volumes);
        if !*self.store.silent.lock().unwrap() {
            self.take(name_hash(Named::Volume, &request.name));
        }
        let mut volume = self.shown(&id, &request.name);
        let lie = *self.store.lie.lock().unwrap();
        match lie {
            Some(Lie::Pool(pool)) => {
                volume.volume_id = VolumeId::new(pool.parse().unwrap(), self.random()).to_string();
            }
            Some(Lie::Place(node)) => {
                volume.accessible_topology[0].segments.insert(TOPOLOGY_KEY.to_owned(), node.to_owned());
            }
            None => {}
        }
        Ok(CreateVolumeResponse { volume: Some(volume) }.into())
    }

    async fn delete_volume(&self, request: Request<DeleteVolumeRequest>) -> Reply<DeleteVolumeResponse> {
        let id = request.into_inner().volume_id;
        self.change("delete", &id).await?;
        self.store.volumes.lock().unwrap().remove(&id.parse::<VolumeId>().unwrap());
        Ok(DeleteVolumeResponse {}.into())
    }

    async fn validate_volume_capabilities(
        &self,
        request: Request<ValidateVolumeCapabilitiesRequest>,
    ) -> Reply<ValidateVolumeCapabilitiesResponse> {
        self.change("validate", &request.into_inner().volume_id).await?;
        Ok(ValidateVolumeCapabilitiesResponse {
            message: format!("by {}", self.name()),
            ..Default::default()
        }
        .into())
    }

    async fn list_volumes(&self, request: Request<ListVolumesRequest>) -> Reply<ListVolumesResponse> {
        let request = request.into_inner();
        self.change("list", &request.starting_token).await?;
        let volumes = self.store.volumes.lock().unwrap();
        let (page, next_token) = page(List::Volumes, &volumes, &request.starting_token, request.max_entries)?;
        let entry = |(id, name): &(VolumeId, String)| list_volumes_response::Entry {
            volume: Some(self.shown(id, name)),
            status: None,
        };
        Ok(ListVolumesResponse { entries: page.iter().map(entry).collect(), next_token }.into())
    }

    async fn controller_get_volume(
        &self,
        request: Request<ControllerGetVolumeRequest>,
    ) -> Reply<ControllerGetVolumeResponse> {
        let id = request.into_inner().volume_id;
        self.change("get", &id).await?;
        let there = self.store.volumes.lock().unwrap().contains_key(&id.parse::<VolumeId>().unwrap());
        if !there {
            return Err(Status::not_found("volume_id: there is none"));
        }
        let volume = Some(self.shown(&id.parse().unwrap(), ""));
        Ok(ControllerGetVolumeResponse { volume, status: None }.into())
    }

    async fn controller_expand_volume(
        &self,
        request: Request<ControllerExpandVolumeRequest>,
    ) -> Reply<ControllerExpandVolumeResponse> {
        self.change("expand", &request.into_inner().volume_id).await?;
        Ok(ControllerExpandVolumeResponse { capacity_bytes: 7, node_expansion_required: true }.into())
    }

    async fn create_snapshot(
        &self,
        request: Request<CreateSnapshotRequest>,
    ) -> Reply<CreateSnapshotResponse> {
        let request = request.into_inner();
        self.change("cut", &request.name).await?;
        if !self.store.volumes.lock().unwrap().contains_key(&request.source_volume_id.parse().unwrap()) {
            return Err(Status::unavailable("its pool is not here"));
        }
        let lie = *self.store.lie.lock().unwrap();
        let pool = if let Some(Lie::Pool(pool)) = lie { pool.parse().unwrap() } else { self.own_pool() };
        let id = SnapshotId::new(pool, self.random());
        self.store.snapshots.lock().unwrap().insert(id, request.source_volume_id.clone());
        Ok(CreateSnapshotResponse { snapshot: Some(shown_cut(&id, &request.source_volume_id)) }.into())
    }

    async fn delete_snapshot(
        &self,
        request: Request<DeleteSnapshotRequest>,
    ) -> Reply<DeleteSnapshotResponse> {
        self.change("delete-cut", &request.into_inner().snapshot_id).await?;
        Ok(DeleteSnapshotResponse {}.into())
    }

    async fn list_snapshots(&self, request: Request<ListSnapshotsRequest>) -> Reply<ListSnapshotsResponse> {
        let request = request.into_inner();
        self.change("list-cuts", &request.starting_token).await?;
        let all = self.store.snapshots.lock().unwrap();
        let meant = |id: &SnapshotId, of: &String| {
            (request.snapshot_id.is_empty() || request.snapshot_id == id.to_string())
                && (request.source_volume_id.is_empty() || request.source_volume_id == *of)
        };
        let meant: BTreeMap<SnapshotId, String> =
            all.iter().filter(|(id, of)| meant(id, of)).map(|(id, of)| (*id, of.clone())).collect();
        let (page, next_token) = page(List::Snapshots, &meant, &request.starting_token, request.max_entries)?;
        let entry = |(id, of): &(SnapshotId, String)| list_snapshots_response::Entry {
            snapshot: Some(shown_cut(id, of)),
        };
        Ok(ListSnapshotsResponse { entries: page.iter().map(entry).collect(), next_token }.into())
    }

    async fn get_snapshot(&self, request: Request<GetSnapshotRequest>) -> Reply<GetSnapshotResponse> {
        let id = request.into_inner().snapshot_id;
        self.change("get-cut", &id).await?;
        Ok(GetSnapshotResponse { snapshot: Some(shown_cut(&id.parse().unwrap(), "")) }.into())
    }

    async fn controller_get_volume_health(
        &self,
        request: Request<ControllerGetVolumeHealthRequest>,
    ) -> Reply<ControllerGetVolumeHealthResponse> {
        let volume_id = request.into_inner().volume_id;
        self.change("health", &volume_id).await?;
        let volume_health = Some(VolumeHealth { volume_id, ..Default::default() });
        Ok(ControllerGetVolumeHealthResponse { volume_health }.into())
    }

    /// Every volume is ill.
    async fn controller_list_volume_health(
        &self,
        request: Request<ControllerListVolumeHealthRequest>,
    ) -> Reply<ControllerListVolumeHealthResponse> {
        let request = request.into_inner();
        self.change("list-health", &request.starting_token).await?;
        let volumes = self.store.volumes.lock().unwrap();
        let (page, next_token) =
            page(List::VolumeHealth, &volumes, &request.starting_token, request.max_entries)?;
        let entry =
            |(id, _): &(VolumeId, String)| VolumeHealth { volume_id: id.to_string(), ..Default::default() };
        Ok(ControllerListVolumeHealthResponse { entries: page.iter().map(entry).collect(), next_token }
            .into())
    }

    async fn get_capacity(&self, _: Request<GetCapacityRequest>) -> Reply<GetCapacityResponse> {
        panic!("a controller asks no node for its room")
    }

    async fn controller_get_capabilities(
        &self,
        _: Request<ControllerGetCapabilitiesRequest>,
    ) -> Reply<ControllerGetCapabilitiesResponse> {
        panic!("a controller knows what it offers")
    }

    async fn controller_publish_volume(
        &self,
        _: Request<ControllerPublishVolumeRequest>,
    ) -> Reply<ControllerPublishVolumeResponse> {
        panic!("it is not offered")
    }

    async fn controller_unpublish_volume(
        &self,
        _: Request<ControllerUnpublishVolumeRequest>,
    ) -> Reply<ControllerUnpublishVolumeResponse> {
        panic!("it is not offered")
    }

    async fn controller_modify_volume(
        &self,
        _: Request<ControllerModifyVolumeRequest>,
    ) -> Reply<ControllerModifyVolumeResponse> {
        panic!("it is not offered")
    }
}

#[async_trait]
impl GroupController for Fake {
    async fn group_controller_get_capabilities(
        &self,
        _: Request<GroupControllerGetCapabilitiesRequest>,
    ) -> Reply<GroupControllerGetCapabilitiesResponse> {
        panic!("a controller knows what it offers")
    }

    async fn create_volume_group_snapshot(
        &self,
        request: Request<CreateVolumeGroupSnapshotRequest>,
    ) -> Reply<CreateVolumeGroupSnapshotResponse> {
        let request = request.into_inner();
        self.change("cut-group", &request.name).await?;
        let group_snapshot_id = format!("g1.{}.0000000000000001", self.own_pool());
        let group_snapshot = Some(VolumeGroupSnapshot { group_snapshot_id, ..Default::default() });
        Ok(CreateVolumeGroupSnapshotResponse { group_snapshot }.into())
    }

    async fn delete_volume_group_snapshot(
        &self,
        request: Request<DeleteVolumeGroupSnapshotRequest>,
    ) -> Reply<DeleteVolumeGroupSnapshotResponse> {
        self.change("delete-group", &request.into_inner().group_snapshot_id).await?;
        Ok(DeleteVolumeGroupSnapshotResponse {}.into())
    }

    async fn get_volume_group_snapshot(
        &self,
        request: Request<GetVolumeGroupSnapshotRequest>,
    ) -> Reply<GetVolumeGroupSnapshotResponse> {
        let group_snapshot_id = request.into_inner().group_snapshot_id;
        self.change("get-group", &group_snapshot_id).await?;
        let group_snapshot = Some(VolumeGroupSnapshot { group_snapshot_id, ..Default::default() });
        Ok(GetVolumeGroupSnapshotResponse { group_snapshot }.into())
    }
}

/// The names of the nodes on which a volume of this name is.
pub(in crate::cluster) fn where_is<'a>(name: &str, nodes: &[&'a Fake]) -> BTreeSet<&'a str> {
    let has = |fake: &&&Fake| fake.store.volumes.lock().unwrap().values().any(|held| held == name);
    nodes.iter().filter(has).map(|fake| fake.name()).collect()
}
