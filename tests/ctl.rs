//! `rockpool ctl` against a driver that is not ours: no ControllerGetVolume, no stage, pages of two, wants secrets.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a test makes its own files, runs the program, and fails by panicking"
)]

use std::path::Path;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};

use rockpool::proto::csi::{
    self, controller_server as controller, identity_server as identity, node_server as node,
};
use tempfile::TempDir;
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status};

type Reply<T> = Result<Response<T>, Status>;

/// The foreign driver. What it is asked is kept, to be compared.
#[derive(Clone, Default)]
struct Foreign {
    published: Arc<Mutex<Vec<csi::NodePublishVolumeRequest>>>,
}

#[tonic::async_trait]
impl identity::Identity for Foreign {
    async fn get_plugin_info(
        &self,
        _: Request<csi::GetPluginInfoRequest>,
    ) -> Reply<csi::GetPluginInfoResponse> {
        let info = csi::GetPluginInfoResponse {
            name: "foreign.example".into(),
            vendor_version: "7".into(),
            manifest: Default::default(),
        };
        Ok(Response::new(info))
    }

    async fn get_plugin_capabilities(
        &self,
        _: Request<csi::GetPluginCapabilitiesRequest>,
    ) -> Reply<csi::GetPluginCapabilitiesResponse> {
        Ok(Response::new(csi::GetPluginCapabilitiesResponse::default()))
    }

    async fn probe(&self, _: Request<csi::ProbeRequest>) -> Reply<csi::ProbeResponse> {
        Ok(Response::new(csi::ProbeResponse { ready: Some(false) }))
    }
}

/// Every call of a service that this driver does not serve.
macro_rules! unserved {
    ($($name:ident($request:ident) -> $response:ident;)*) => {
        $(
            fn $name<'a, 'f>(&'a self, _: Request<csi::$request>)
                -> std::pin::Pin<Box<dyn Future<Output = Reply<csi::$response>> + Send + 'f>>
            where
                'a: 'f,
                Self: 'f,
            {
                Box::pin(async { Err(Status::unimplemented("not here")) })
            }
        )*
    };
}

#[tonic::async_trait]
impl controller::Controller for Foreign {
    async fn controller_get_capabilities(
        &self,
        _: Request<csi::ControllerGetCapabilitiesRequest>,
    ) -> Reply<csi::ControllerGetCapabilitiesResponse> {
        use csi::controller_service_capability::{Rpc, Type, rpc};
        let known = [rpc::Type::CreateDeleteVolume, rpc::Type::ListVolumes].map(i32::from);
        // 11 was withdrawn and 4711 is of a standard to come: neither may confuse us.
        let all = known.into_iter().chain([11, 4711]);
        let capabilities = all
            .map(|number| csi::ControllerServiceCapability {
                r#type: Some(Type::Rpc(Rpc { r#type: number })),
            })
            .collect();
        Ok(Response::new(csi::ControllerGetCapabilitiesResponse { capabilities }))
    }

    async fn create_volume(
        &self,
        request: Request<csi::CreateVolumeRequest>,
    ) -> Reply<csi::CreateVolumeResponse> {
        let request = request.into_inner();
        if request.secrets.get("user").map(String::as_str) != Some("a=b") {
            return Err(Status::unauthenticated("no secret, no volume"));
        }
        let volume = csi::Volume {
            volume_id: format!("id of {}", request.name),
            capacity_bytes: request.capacity_range.map_or(0, |range| range.required_bytes),
            ..Default::default()
        };
        Ok(Response::new(csi::CreateVolumeResponse { volume: Some(volume) }))
    }

    async fn delete_volume(&self, _: Request<csi::DeleteVolumeRequest>) -> Reply<csi::DeleteVolumeResponse> {
        Err(Status::failed_precondition("volume is in use"))
    }

    async fn list_volumes(
        &self,
        request: Request<csi::ListVolumesRequest>,
    ) -> Reply<csi::ListVolumesResponse> {
        let from: usize = request.into_inner().starting_token.parse().unwrap_or(0);
        let entries = (from..5).take(2).map(|n| csi::list_volumes_response::Entry {
            volume: Some(csi::Volume {
                volume_id: format!("v{n}"),
                capacity_bytes: 1 << 30,
                volume_context: [("share".to_owned(), n.to_string())].into(),
                ..Default::default()
            }),
            status: None,
        });
        let next_token = if from + 2 < 5 { (from + 2).to_string() } else { String::new() };
        Ok(Response::new(csi::ListVolumesResponse { entries: entries.collect(), next_token }))
    }

    unserved! {
        controller_publish_volume(ControllerPublishVolumeRequest) -> ControllerPublishVolumeResponse;
        controller_unpublish_volume(ControllerUnpublishVolumeRequest) -> ControllerUnpublishVolumeResponse;
        validate_volume_capabilities(ValidateVolumeCapabilitiesRequest) -> ValidateVolumeCapabilitiesResponse;
        controller_list_volume_health(ControllerListVolumeHealthRequest) -> ControllerListVolumeHealthResponse;
        controller_get_volume_health(ControllerGetVolumeHealthRequest) -> ControllerGetVolumeHealthResponse;
        get_capacity(GetCapacityRequest) -> GetCapacityResponse;
        create_snapshot(CreateSnapshotRequest) -> CreateSnapshotResponse;
        delete_snapshot(DeleteSnapshotRequest) -> DeleteSnapshotResponse;
        list_snapshots(ListSnapshotsRequest) -> ListSnapshotsResponse;
        get_snapshot(GetSnapshotRequest) -> GetSnapshotResponse;
        controller_expand_volume(ControllerExpandVolumeRequest) -> ControllerExpandVolumeResponse;
        controller_get_volume(ControllerGetVolumeRequest) -> ControllerGetVolumeResponse;
        controller_modify_volume(ControllerModifyVolumeRequest) -> ControllerModifyVolumeResponse;
    }
}

#[tonic::async_trait]
impl node::Node for Foreign {
    async fn node_get_capabilities(
        &self,
        _: Request<csi::NodeGetCapabilitiesRequest>,
    ) -> Reply<csi::NodeGetCapabilitiesResponse> {
        Ok(Response::new(csi::NodeGetCapabilitiesResponse::default()))
    }

    async fn node_publish_volume(
        &self,
        request: Request<csi::NodePublishVolumeRequest>,
    ) -> Reply<csi::NodePublishVolumeResponse> {
        self.published.lock().unwrap().push(request.into_inner());
        Ok(Response::new(csi::NodePublishVolumeResponse {}))
    }

    unserved! {
        node_stage_volume(NodeStageVolumeRequest) -> NodeStageVolumeResponse;
        node_unstage_volume(NodeUnstageVolumeRequest) -> NodeUnstageVolumeResponse;
        node_unpublish_volume(NodeUnpublishVolumeRequest) -> NodeUnpublishVolumeResponse;
        node_get_volume_stats(NodeGetVolumeStatsRequest) -> NodeGetVolumeStatsResponse;
        node_get_volume_health(NodeGetVolumeHealthRequest) -> NodeGetVolumeHealthResponse;
        node_get_storage_health(NodeGetStorageHealthRequest) -> NodeGetStorageHealthResponse;
        node_expand_volume(NodeExpandVolumeRequest) -> NodeExpandVolumeResponse;
        node_get_info(NodeGetInfoRequest) -> NodeGetInfoResponse;
    }
}

/// A running foreign driver; it ends with the runtime that this holds.
struct Running {
    dir: TempDir,
    driver: Foreign,
    _runtime: tokio::runtime::Runtime,
}

impl Running {
    fn start() -> Running {
        let dir = tempfile::tempdir().unwrap();
        let driver = Foreign::default();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let _guard = runtime.enter();
        let listener = UnixListener::bind(dir.path().join("csi.sock")).unwrap();
        let server = tonic::transport::Server::builder()
            .add_service(identity::IdentityServer::new(driver.clone()))
            .add_service(controller::ControllerServer::new(driver.clone()))
            .add_service(node::NodeServer::new(driver.clone()))
            .serve_with_incoming(UnixListenerStream::new(listener));
        runtime.spawn(server);
        drop(_guard);
        Running { dir, driver, _runtime: runtime }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn ctl(&self, words: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rockpool"));
        command.arg("ctl").args(words).env_remove("CSI_ENDPOINT");
        command.env("CSI_ENDPOINT", format!("unix://{}", self.path().join("csi.sock").display()));
        command.output().unwrap()
    }
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn json(output: &Output) -> serde_json::Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {} {}", out(output), err(output)))
}

#[test]
fn all_pages_are_followed() {
    let running = Running::start();
    let listed = json(&running.ctl(&["-o", "json", "volume", "list", "--page-size", "2"]));
    let ids: Vec<_> =
        listed["volumes"].as_array().unwrap().iter().map(|v| v["volume_id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["v0", "v1", "v2", "v3", "v4"]);
    let table = out(&running.ctl(&["volume", "list"]));
    assert_eq!(table.lines().count(), 6, "{table}");
    assert!(table.lines().nth(1).unwrap().starts_with("v0  1 GiB"), "{table}");
}

#[test]
fn a_driver_without_get_volume_is_asked_for_its_list() {
    let running = Running::start();
    let found = json(&running.ctl(&["volume", "get", "v3", "-o", "json"]));
    assert_eq!(found["volume_context"]["share"], "3");
    let missing = running.ctl(&["volume", "get", "v9"]);
    assert_eq!(code(&missing), 15, "{}", err(&missing));
    assert!(err(&missing).contains("NOT_FOUND"), "{}", err(&missing));
}

#[test]
fn what_a_driver_lacks_is_said_by_name() {
    let running = Running::start();
    let lacking = running.ctl(&["capacity"]);
    assert_eq!(code(&lacking), 22);
    assert!(
        err(&lacking).contains("UNIMPLEMENTED") && err(&lacking).contains("GET_CAPACITY"),
        "{}",
        err(&lacking)
    );
    let staged = running.ctl(&["volume", "stage", "v1", "--staging", "/nowhere"]);
    assert_eq!(code(&staged), 22);
    assert!(err(&staged).contains("STAGE_UNSTAGE_VOLUME"), "{}", err(&staged));
    assert!(!Path::new("/nowhere").exists());
}

#[test]
fn a_volume_is_published_without_a_stage_and_with_the_context_that_the_driver_tells() {
    let running = Running::start();
    let target = running.path().join("pod/mount");
    let done =
        running.ctl(&["volume", "publish", "v2", "--target", target.to_str().unwrap(), "--mode", "reader"]);
    assert_eq!(code(&done), 0, "{}", err(&done));
    let published = running.driver.published.lock().unwrap();
    assert_eq!(published[0].volume_context["share"], "2");
    assert_eq!(published[0].staging_target_path, "");
    assert!(target.parent().unwrap().is_dir() && !target.exists(), "only the parent is the caller's to make");
}

#[test]
fn secrets_come_from_a_file_and_are_never_printed() {
    let running = Running::start();
    let refused = running.ctl(&["volume", "create", "x"]);
    assert_eq!(code(&refused), 26, "{}", err(&refused));
    let file = running.path().join("secrets");
    std::fs::write(&file, "# of the backend\nuser = nobody\nuser=a=b\n").unwrap();
    let file = file.to_str().unwrap();
    let made = running.ctl(&["volume", "create", "x", "--size", "2Gi", "--secrets-file", file, "-o", "json"]);
    assert_eq!(code(&made), 0, "{}", err(&made));
    assert_eq!(
        (json(&made)["volume_id"].as_str(), json(&made)["capacity_bytes"].as_i64()),
        (Some("id of x"), Some(2 << 30))
    );
    std::fs::write(file, "hunter2\n").unwrap();
    let wrong = running.ctl(&["volume", "list", "--secrets-file", file]);
    assert_eq!(code(&wrong), 2);
    assert!(err(&wrong).contains("line 1") && !err(&wrong).contains("hunter2"), "{}", err(&wrong));
}

#[test]
fn exit_codes_tell_refusals_apart() {
    let running = Running::start();
    let refused = running.ctl(&["volume", "delete", "v1"]);
    assert_eq!(code(&refused), 19);
    assert_eq!(err(&refused), "rockpool ctl: DeleteVolume: FAILED_PRECONDITION: volume is in use\n");
    let not_ready = running.ctl(&["plugin", "probe"]);
    assert_eq!((code(&not_ready), out(&not_ready).as_str()), (1, "READY  not yet\n"));
    assert_eq!(code(&running.ctl(&["volume", "frobnicate"])), 2);
    assert_eq!(code(&running.ctl(&["volume", "create", "x", "--size", "many"])), 2);
    let nobody = running.ctl(&["--endpoint", "/run/there-is-no-such.sock", "plugin", "info"]);
    assert_eq!(code(&nobody), 24, "{}", err(&nobody));
    assert_eq!(err(&nobody).matches("No such file").count(), 1, "a cause is said once: {}", err(&nobody));
}

#[test]
fn unknown_capabilities_are_shown_by_number() {
    let running = Running::start();
    let shown = json(&running.ctl(&["plugin", "capabilities", "-o", "json"]));
    let list: Vec<_> = shown["controller"].as_array().unwrap().iter().map(|c| c.as_str().unwrap()).collect();
    assert_eq!(list, ["CREATE_DELETE_VOLUME", "LIST_VOLUMES", "11", "4711"]);
}
