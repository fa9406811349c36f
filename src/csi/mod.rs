//! The wire: CSI on one side, the engine on the other.
//!
//! Owns: every check that needs only the request (`checked` for whole calls; `parse`, `capability`, `class` for their parts), the
//! code of every failure (`status`), what is advertised (`offers`), how records look to a CO (`describe`), page tokens
//! (`tokens`), and the bridge to the engine's threads (`bridge`). What CSI cannot say is `admin`, and to controllers `news`, built
//! on the same parts. Never: knows pool kinds, programs or mounts; prints a secret, a mount flag or a value of a volume context.
//!
//! A handler checks fields in the order of the contract: what is advertised, required fields and their form, ids, ranges.
//! Then it hands the engine a checked request, as a change (`Lane::run`) or a question (`bridge::ask`).

pub(crate) mod admin;
mod bridge;
pub mod call;
mod capability;
pub mod checked;
mod class;
mod controller;
mod describe;
mod diagnose;
mod groups;
mod health;
mod identity;
mod metadata;
mod news;
mod node;
pub mod offers;
mod parse;
pub mod recent;
mod snapshots;
pub mod status;
pub mod tokens;
pub mod transfer;
mod volumes;

use std::sync::Arc;

use tonic::{Request, Response, Status};

use crate::engine::Engine;
use crate::engine::workers::Workers;
use crate::error::{Error, Result};
use crate::model::{Features, NodeId, ObjectId};
use crate::proto::admin::{self as wire, admin_server::AdminServer};
use crate::proto::csi;
use crate::proto::csi::controller_server::ControllerServer;
use crate::proto::csi::group_controller_server::GroupControllerServer;
use crate::proto::csi::identity_server::IdentityServer;
use crate::proto::csi::node_server::NodeServer;
use crate::proto::csi::snapshot_metadata_server::SnapshotMetadataServer;
use crate::proto::link::link_server::LinkServer;

use self::bridge::Lane;
use self::call::CallId;

/// What a handler answers.
pub(crate) type Reply<T> = std::result::Result<Response<T>, Status>;

/// A request without its envelope; the log learns the id or name that it is about.
pub(crate) fn noted<T>(request: Request<T>, id: impl FnOnce(&T) -> &str) -> T {
    CallId::note(&request, id(request.get_ref()));
    request.into_inner()
}

/// The names under which this process appears to a CO.
#[derive(Clone, Debug)]
pub struct About {
    /// The driver's name, like `csi.rockpool.dev`.
    pub driver_name: String,
    /// This node's id, and the value of the topology key.
    pub node_id: String,
    /// How many volumes the node takes; zero leaves that to the CO.
    pub max_volumes: i64,
}

impl About {
    /// Checks the names against the limits of the standard.
    ///
    /// # Errors
    /// `Invalid` with what is wrong.
    pub fn check(&self) -> Result<()> {
        check_driver_name(&self.driver_name)?;
        self.node_id.parse::<NodeId>()?;
        if self.max_volumes < 0 {
            return Err(Error::invalid("max volumes", self.max_volumes, "want 0 (no limit) or more"));
        }
        Ok(())
    }
}

/// Checks a driver's name against the limits of the standard (GetPluginInfo).
///
/// # Errors
/// `Invalid` with what is wrong.
pub fn check_driver_name(name: &str) -> Result<()> {
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphabetic());
    let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.');
    if name.len() > 63 || !edge(name.chars().next()) || !edge(name.chars().last()) || !name.chars().all(inner)
    {
        let want = "want at most 63 letters, digits, `-` and `.`, with a letter at both ends";
        return Err(Error::invalid("driver name", name, want));
    }
    Ok(())
}

/// All that a job needs to know.
struct Plugin {
    engine: Arc<Engine>,
    about: About,
    features: Features,
}

/// The methods that change something, each with its running jobs.
#[derive(Default)]
struct Lanes {
    create_volume: Lane<csi::CreateVolumeResponse>,
    delete_volume: Lane<csi::DeleteVolumeResponse>,
    expand_volume: Lane<csi::ControllerExpandVolumeResponse>,
    create_snapshot: Lane<csi::CreateSnapshotResponse>,
    delete_snapshot: Lane<csi::DeleteSnapshotResponse>,
    create_group: Lane<csi::CreateVolumeGroupSnapshotResponse>,
    delete_group: Lane<csi::DeleteVolumeGroupSnapshotResponse>,
    stage: Lane<csi::NodeStageVolumeResponse>,
    unstage: Lane<csi::NodeUnstageVolumeResponse>,
    publish: Lane<csi::NodePublishVolumeResponse>,
    unpublish: Lane<csi::NodeUnpublishVolumeResponse>,
    expand_node: Lane<csi::NodeExpandVolumeResponse>,
    restore: Lane<wire::RestoreResponse>,
    purge: Lane<wire::PurgeResponse>,
    repair: Lane<wire::RepairResponse>,
    diagnose: Lane<wire::DiagnoseResponse>,
    take: Lane<transfer::Arrival>,
}

/// Every CSI service of a node, ready to be put on a socket. Clones share their running jobs, so that a retry over another
/// connection or socket joins too.
#[derive(Clone)]
pub struct Services {
    plugin: Arc<Plugin>,
    lanes: Arc<Lanes>,
}

/// A change that was accepted, with its turn.
type Changing<R> = Box<dyn FnOnce() -> Result<R> + Send>;

impl Services {
    /// The services of `engine` under these names.
    ///
    /// # Errors
    /// `Invalid` for names that the standard forbids.
    pub fn new(engine: Arc<Engine>, about: About) -> Result<Self> {
        let features = engine.features();
        Services::offering(engine, about, features)
    }

    /// The same, which offer what pools with these features can do, whatever its own pools are. Where those lack something that
    /// is offered, the call that asks for it is refused.
    ///
    /// # Errors
    /// As `new`.
    pub fn offering(engine: Arc<Engine>, about: About, features: Features) -> Result<Self> {
        about.check()?;
        Ok(Services { plugin: Arc::new(Plugin { engine, about, features }), lanes: Arc::default() })
    }

    /// The Identity service.
    pub fn identity(&self) -> IdentityServer<Self> {
        IdentityServer::new(self.clone())
    }

    /// The Controller service.
    pub fn controller(&self) -> ControllerServer<Self> {
        ControllerServer::new(self.clone())
    }

    /// The GroupController service. It is there also where no pool has groups, and says so.
    pub fn group_controller(&self) -> GroupControllerServer<Self> {
        GroupControllerServer::new(self.clone())
    }

    /// The SnapshotMetadata service, which says that it is not offered.
    pub fn snapshot_metadata(&self) -> SnapshotMetadataServer<Self> {
        SnapshotMetadataServer::new(self.clone())
    }

    /// The Node service.
    pub fn node(&self) -> NodeServer<Self> {
        NodeServer::new(self.clone())
    }

    /// The Link service, for the controllers alone.
    pub fn link(&self) -> LinkServer<Self> {
        LinkServer::new(self.clone())
    }

    /// The Admin service, for a socket of its own.
    pub fn admin(&self) -> AdminServer<Self> {
        AdminServer::new(self.clone())
    }

    /// The engine, once its records are read; before that no list would be whole and no change safe.
    fn engine(&self) -> Result<&Engine> {
        if self.plugin.engine.ready() {
            return Ok(&self.plugin.engine);
        }
        Err(Error::Unavailable(
            "the driver is starting, its records are still being read; ask again".to_owned(),
        ))
    }

    /// The plan of a change to one object, for its lane: refused at once while another call works on it or waits to, also
    /// where that one hangs and has taken every thread.
    fn changing<'w, R>(
        &'w self,
        id: impl Into<ObjectId>,
        job: impl FnOnce() -> Result<R> + Send + 'static,
    ) -> impl FnOnce() -> Result<(&'w Workers, Changing<R>)> {
        let id = id.into();
        move || {
            let engine = self.engine()?;
            let turn = engine.turn(id)?;
            let job = move || {
                let _turn = turn;
                job()
            };
            Ok((engine.workers(id.pool()), Box::new(job) as Changing<R>))
        }
    }

    /// What a job takes along.
    fn plugin(&self) -> Arc<Plugin> {
        Arc::clone(&self.plugin)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{EngineConfig, Files};
    use crate::model::{PoolId, VolumeId};

    fn named(driver_name: &str, node_id: &str) -> About {
        About { driver_name: driver_name.to_owned(), node_id: node_id.to_owned(), max_volumes: 0 }
    }

    #[test]
    fn names_obey_the_limits_of_the_standard() {
        named("csi.rockpool.dev", "node-1.example").check().unwrap();
        named(&"d".repeat(63), &"n".repeat(63)).check().unwrap();
        for (driver, node) in [
            ("", "n"),
            ("csi.rockpool.2", "n"),
            ("-csi", "n"),
            ("csi_rockpool", "n"),
            (&"d".repeat(64), "n"),
            ("csi", ""),
            ("csi", "-n"),
            ("csi", "a/b"),
            ("csi", "ü"),
            ("csi", &"n".repeat(64)),
        ] {
            assert!(matches!(named(driver, node).check(), Err(Error::Invalid(_))), "{driver} {node}");
        }
        let negative = About { max_volumes: -1, ..named("csi", "n") };
        assert!(negative.check().is_err());
    }

    #[test]
    fn what_was_accepted_keeps_its_turn_until_it_ended() {
        let dir = tempfile::tempdir().unwrap();
        let (kubelet_root, state_dir) = (dir.path().to_owned(), dir.path().join("state"));
        let config = EngineConfig { pools: Vec::new(), kubelet_root, state_dir, files: Files::Shared };
        let services = Services::new(Engine::open(config).unwrap(), named("csi", "n")).unwrap();
        let volume = |digit: u8| VolumeId::new(PoolId::new([1; 6]), [digit; 8]);
        let accept = |id, answer| services.changing(id, move || Ok(answer))().map(|(_, job)| job);
        let stage = accept(volume(1), "staged").unwrap();
        // Its caller gives up before it has begun, and asks for the opposite.
        assert!(matches!(accept(volume(1), "unstaged").err(), Some(Error::Busy(_))));
        drop(accept(volume(2), "another volume").unwrap());
        assert_eq!(stage().unwrap(), "staged");
        drop(accept(volume(1), "what is not begun gives its turn back").unwrap());
        assert_eq!(accept(volume(1), "unstaged").unwrap()().unwrap(), "unstaged");
    }
}
