//! The driver over two disks that fail when they are told to, and the comparison with the model.
//!
//! Owns: the life of the driver: when it dies, when it starts anew, when a disk is away. Never: decides what should be there.

use rockpool::model::{Bytes, PoolId, VolumeId};
use rockpool::proto::csi;
use tempfile::TempDir;

use super::Outcome;
use super::calls::{self, Wanted};
use super::model::{BLOCK, Life, Model, Object, POOLS, Volume, size};
use super::plan::Which;
use super::view::View;
use crate::faulty::{Disk, Fault};
use crate::node::{Node, sim};

/// The driver and what it stands on.
pub(super) struct World {
    node: Option<Node>,
    disks: [Disk; 2],
    directory: TempDir,
}

impl World {
    pub(super) fn new() -> World {
        let directory = tempfile::Builder::new().prefix("operations-").tempdir().expect("a directory");
        std::fs::create_dir(directory.path().join("kubelet")).expect("a directory");
        let disk = |which: Which| {
            let number = u8::try_from(which.index()).expect("there are two");
            let home = directory.path().join(which.name());
            Disk::new(PoolId::new([0xf0 + number; 6]), size(POOLS[which.index()]), &home)
        };
        let disks = [disk(Which::Fast), disk(Which::Small)];
        let mut world = World { node: None, disks, directory };
        world.start();
        world
    }

    fn start(&mut self) {
        let disks = self.disks.clone();
        disks.iter().for_each(Disk::revive);
        let pools = [Which::Fast, Which::Small].map(|which| sim(which.name(), size(POOLS[which.index()])));
        let opener = move |setup: &rockpool::pool::Setup| disks[usize::from(setup.name == "small")].open();
        let node = Node::start(self.directory.path(), pools.into(), Box::new(opener));
        self.node = Some(node.expect("a disk that is away keeps nobody from starting"));
    }

    /// The driver ends, or is dead already, and starts anew. While it has never seen a disk it must not list: collectors delete
    /// what is not listed. Then the disk comes back.
    pub(super) fn restart(&mut self) {
        self.node.take().into_iter().for_each(Node::stop);
        self.start();
        if !self.any_away() {
            return;
        }
        let wire = &mut self.node.as_mut().expect("it runs").wire;
        let list: Result<csi::ListVolumesResponse, _> =
            wire.ask("csi.v1.Controller/ListVolumes", &csi::ListVolumesRequest::default());
        assert!(
            list.is_err_and(|status| status.code() == tonic::Code::Unavailable),
            "a list that is too short"
        );
        self.plug(Which::Fast);
        self.plug(Which::Small);
    }

    pub(super) fn end(mut self) {
        self.node.take().into_iter().for_each(Node::stop);
    }

    fn node(&self) -> &Node {
        self.node.as_ref().expect("it runs")
    }

    pub(super) fn send(&mut self, model: &Model, wanted: &Wanted) -> Outcome {
        let fast = self.disks[0].id().to_string();
        let answer = calls::send(&mut self.node.as_mut().expect("it runs").wire, model, &fast, wanted);
        let about = match wanted {
            Wanted::Delete(n) | Wanted::Expand(n, ..) => Some(model.volumes[*n].pool),
            Wanted::DeleteCut(n) => Some(model.cuts[*n].pool),
            Wanted::DeleteGroup(n, _) => Some(model.pool_of(Object::Group(*n))),
            Wanted::Restore(object, _) | Wanted::Purge(object) => Some(model.pool_of(*object)),
            Wanted::Create { .. } | Wanted::Cut { .. } | Wanted::Group { .. } => None,
        };
        let away = about.is_some_and(|pool| self.disks[pool].is_away());
        assert!(!away || answer.is_err(), "{wanted:?} is OK on a pool that is away");
        answer
    }

    pub(super) fn arm(&self, fault: Option<(Which, Fault)>) {
        if let Some((which, fault)) = fault {
            self.disks[which.index()].arm(Some(fault));
        }
    }

    /// No fault waits any more. Whether one has struck, and whether the driver died of it.
    pub(super) fn disarm(&self) -> (bool, bool) {
        let fired = self.disks.iter().any(Disk::fired);
        let died = self.disks.iter().any(Disk::died);
        self.disks.iter().for_each(|disk| disk.arm(None));
        (fired, died)
    }

    pub(super) fn any_away(&self) -> bool {
        self.disks.iter().any(Disk::is_away)
    }

    pub(super) fn pull(&mut self, which: Which) {
        self.disks[which.index()].set_away(true);
    }

    /// Puts a disk back, and waits until it is used again. One that took no change is passed over until it is looked at.
    pub(super) fn plug(&mut self, which: Which) {
        let disk = &self.disks[which.index()];
        disk.set_away(false);
        self.node().reconnect(|engine| {
            let pool = &engine.pools()[which.index()];
            pool.away.is_none() && pool.read_only.is_none()
        });
    }

    pub(super) fn pool_of(&self, volume: &str) -> usize {
        let id: VolumeId = volume.parse().expect("an id");
        self.disks.iter().position(|disk| disk.id() == id.pool()).expect("a pool of ours")
    }

    pub(super) fn write(&self, volume: &Volume, block: u8, byte: u8) {
        let id: VolumeId = volume.id.parse().expect("an id");
        let at = u64::from(block) * BLOCK;
        let written = self.disks[volume.pool].sim.write(&id, at, &[byte]);
        assert!(written.is_ok(), "what was promised to {id} is not there: {written:?}");
    }

    pub(super) fn is_restored(&self, model: &Model, object: Object) -> bool {
        let id = model.id(object);
        !self.node().engine.retained().iter().any(|one| one.id.to_string() == id)
    }

    /// Everything is as the model says. What is on a disk that is away is looked at when it is back.
    pub(super) fn check(&mut self, model: &Model) {
        if self.any_away() {
            return;
        }
        assert_eq!(self.look(), View::of(model), "what is there, and what should be");
        model.volumes.iter().filter(|one| one.life == Life::Here).for_each(|volume| self.check_bytes(volume));
    }

    /// All that is there, with no disk away.
    pub(super) fn look(&mut self) -> View {
        for which in [Which::Fast, Which::Small] {
            // It may not have been noticed yet that a disk is back.
            self.plug(which);
        }
        View::shown(&self.node().check_rest(), &self.disks)
    }

    fn check_bytes(&self, volume: &Volume) {
        let id: VolumeId = volume.id.parse().expect("an id");
        let read = |block: u8| self.disks[volume.pool].sim.read(&id, u64::from(block) * BLOCK, 1);
        for (block, byte) in &volume.content {
            assert_eq!(read(*block).expect("it was written"), [*byte], "{id}: block {block}");
        }
        let blank = (0..=u8::MAX).find(|block| !volume.content.contains_key(block));
        blank
            .into_iter()
            .for_each(|block| assert_eq!(read(block).expect("it is there"), [0], "{id}: {block}"));
    }

    /// Pages of any size are the whole list, each entry once.
    pub(super) fn check_pages(&mut self, model: &Model, max: u8) {
        if self.any_away() {
            return;
        }
        let mut request = csi::ListVolumesRequest { max_entries: i32::from(max % 5), ..Default::default() };
        let mut ids = Vec::new();
        loop {
            let wire = &mut self.node.as_mut().expect("it runs").wire;
            let page: csi::ListVolumesResponse =
                wire.ask("csi.v1.Controller/ListVolumes", &request).expect("every pool is here");
            assert!(request.max_entries == 0 || page.entries.len() <= usize::from(max % 5));
            ids.extend(
                page.entries.into_iter().filter_map(|entry| entry.volume).map(|volume| volume.volume_id),
            );
            if page.next_token.is_empty() {
                break;
            }
            request.starting_token = page.next_token;
        }
        let here = model.volumes.iter().filter(|one| one.life == Life::Here);
        let mut right: Vec<String> = here.map(|one| one.id.clone()).collect();
        right.sort();
        assert_eq!(ids, right);
    }

    /// What can still be made is all that is not promised.
    pub(super) fn check_capacity(&mut self, model: &Model) {
        if self.any_away() {
            return;
        }
        for which in [Which::Fast, Which::Small] {
            self.plug(which);
            let parameters = [("pool".to_owned(), which.name().to_owned())].into();
            let request = csi::GetCapacityRequest { parameters, ..Default::default() };
            let wire = &mut self.node.as_mut().expect("it runs").wire;
            let room: csi::GetCapacityResponse =
                wire.ask("csi.v1.Controller/GetCapacity", &request).expect("every pool is here");
            let free = Bytes::new(model.free(which.index()));
            assert_eq!(room.available_capacity, free.as_i64(), "{}", which.name());
        }
    }
}
