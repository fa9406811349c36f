//! Registration with a kubelet of our own: it dials the registration socket as kubelet does, and answers as it may.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a test makes its own files, and fails by panicking"
)]

use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rockpool::kubelet::{Pace, Registrar};
use rockpool::proto::csi;
use rockpool::proto::csi::identity_server::{Identity, IdentityServer};
use rockpool::proto::registration::registration_client::RegistrationClient;
use rockpool::proto::registration::{InfoRequest, PluginInfo, RegistrationStatus};
use rockpool::serve::{Socket, Stop, Width, serve};
use tempfile::TempDir;
use tonic::service::Routes;
use tonic::{Request, Response, Status};

/// The least of a driver: kubelet's first question is answered by the registrar, ours by this.
struct Driver;

#[tonic::async_trait]
impl Identity for Driver {
    async fn get_plugin_info(
        &self,
        _: Request<csi::GetPluginInfoRequest>,
    ) -> Result<Response<csi::GetPluginInfoResponse>, Status> {
        Ok(Response::new(csi::GetPluginInfoResponse::default()))
    }

    async fn get_plugin_capabilities(
        &self,
        _: Request<csi::GetPluginCapabilitiesRequest>,
    ) -> Result<Response<csi::GetPluginCapabilitiesResponse>, Status> {
        Ok(Response::new(csi::GetPluginCapabilitiesResponse::default()))
    }

    async fn probe(&self, _: Request<csi::ProbeRequest>) -> Result<Response<csi::ProbeResponse>, Status> {
        Ok(Response::new(csi::ProbeResponse::default()))
    }
}

/// A node's directories, with a registrar at work in them.
struct Node {
    dir: TempDir,
    /// What is told of it to those who ask whether the driver is ready.
    registered: Arc<AtomicBool>,
    stop: tokio::sync::watch::Sender<bool>,
    registering: tokio::task::JoinHandle<()>,
}

/// More than a busy machine needs to ask and to say yes.
const LONG: Duration = Duration::from_secs(5);

impl Node {
    fn start() -> Node {
        Node::start_with(LONG)
    }

    /// With a registrar that waits so long for kubelet.
    fn start_with(answer: Duration) -> Node {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("plugins_registry")).unwrap();
        let pace = Pace {
            answer,
            pause: Duration::from_millis(20),
            longest: Duration::from_millis(80),
            look: Duration::from_millis(10),
        };
        let registered = Arc::<AtomicBool>::default();
        let registrar = Registrar {
            driver: "csi.rockpool.dev".into(),
            endpoint: dir.path().join("csi.sock").to_str().unwrap().parse().unwrap(),
            socket: dir.path().join("plugins_registry/csi.rockpool.dev-reg.sock"),
            pace,
            registered: Arc::clone(&registered),
        };
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let registering = tokio::spawn(registrar.run(Stop::from(stopped)));
        Node { dir, registered, stop, registering }
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("plugins_registry/csi.rockpool.dev-reg.sock")
    }

    /// The driver begins to answer.
    fn serve_csi(&self) {
        let socket = Socket::bind(&self.dir.path().join("csi.sock")).unwrap();
        let mut stopped = self.stop.subscribe();
        tokio::spawn(serve(socket, Routes::new(IdentityServer::new(Driver)), Width::NODE, async move {
            let _ = stopped.wait_for(|stop| *stop).await;
        }));
    }

    async fn ask(&self) -> PluginInfo {
        client(&self.socket()).await.get_info(InfoRequest {}).await.unwrap().into_inner()
    }

    async fn notify(&self, plugin_registered: bool) {
        let error = if plugin_registered { String::new() } else { "no room in CSINode".to_owned() };
        let status = RegistrationStatus { plugin_registered, error };
        client(&self.socket()).await.notify_registration_status(status).await.unwrap();
    }

    /// Waits for a socket that is not `old`; answers its inode.
    async fn appears(&self, old: u64) -> u64 {
        let path = self.socket();
        until("the registration socket appears", || inode(&path).filter(|new| *new != old)).await
    }
}

/// Inode numbers come back, so the time of the change is part of it.
fn inode(path: &Path) -> Option<u64> {
    let found = std::fs::symlink_metadata(path).ok()?;
    Some(found.ino().rotate_left(32) ^ found.ctime_nsec().unsigned_abs() ^ found.ctime().unsigned_abs())
}

async fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "in vain: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

async fn client(path: &Path) -> RegistrationClient<tonic::transport::Channel> {
    RegistrationClient::connect(format!("unix://{}", path.display())).await.unwrap()
}

#[tokio::test]
async fn kubelet_finds_the_socket_only_once_csi_answers_and_it_goes_at_the_end() {
    let node = Node::start();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!node.socket().exists(), "the registration socket was there before the CSI socket");
    node.serve_csi();
    node.appears(0).await;
    let found = std::fs::symlink_metadata(node.socket()).unwrap();
    assert!(found.file_type().is_socket());
    assert_eq!(found.permissions().mode() & 0o777, 0o600);
    let info = node.ask().await;
    assert_eq!((info.r#type.as_str(), info.name.as_str()), ("CSIPlugin", "csi.rockpool.dev"));
    assert_eq!(info.endpoint, node.dir.path().join("csi.sock").to_str().unwrap());
    assert_eq!(info.supported_versions, ["1.0.0"]);
    assert!(!node.registered.load(Ordering::Relaxed), "kubelet has not said yes yet");
    node.notify(true).await;
    assert!(node.registered.load(Ordering::Relaxed));
    node.stop.send(true).unwrap();
    tokio::time::timeout(Duration::from_secs(30), node.registering).await.unwrap().unwrap();
    assert_eq!(std::fs::read_dir(node.dir.path().join("plugins_registry")).unwrap().count(), 0);
}

#[tokio::test]
async fn a_registered_socket_stays_as_it_is() {
    let node = Node::start();
    node.serve_csi();
    let first = node.appears(0).await;
    node.ask().await;
    node.notify(true).await;
    tokio::time::sleep(LONG + Duration::from_secs(1)).await;
    assert_eq!(inode(&node.socket()), Some(first), "kubelet would deregister us for a new socket");
}

#[tokio::test]
async fn a_refusal_makes_the_socket_again() {
    let node = Node::start();
    node.serve_csi();
    let first = node.appears(0).await;
    node.ask().await;
    node.notify(false).await;
    node.appears(first).await;
    node.ask().await;
    node.notify(true).await;
    assert!(!node.registering.is_finished(), "mounts are in use while kubelet says no");
}

#[tokio::test]
async fn a_silent_kubelet_gets_a_new_socket_to_notice() {
    let node = Node::start_with(Duration::from_millis(400));
    node.serve_csi();
    let first = node.appears(0).await;
    node.appears(first).await;
}

#[tokio::test]
async fn a_socket_that_was_removed_comes_back() {
    let node = Node::start();
    node.serve_csi();
    let first = node.appears(0).await;
    node.ask().await;
    node.notify(true).await;
    std::fs::remove_file(node.socket()).unwrap();
    node.appears(first).await;
    assert!(!node.registered.load(Ordering::Relaxed), "kubelet forgets a driver whose socket goes");
}

/// As the gRPC library of Go does it for kubelet 1.36, byte by byte: `:authority` is the path of the socket, percent-encoded, which no client
/// here could be brought to say.
#[tokio::test]
async fn kubelet_calls_the_socket_by_its_path() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let node = Node::start();
    node.serve_csi();
    node.appears(0).await;
    let mut stream = tokio::net::UnixStream::connect(node.socket()).await.unwrap();
    let path = node.socket().to_str().unwrap().replace('/', "%2F");
    let mut block = Vec::new();
    for (name, value) in [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/pluginregistration.Registration/GetInfo"),
        (":authority", &path),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ] {
        assert!(value.len() < 127, "a length of one byte");
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).unwrap());
            block.extend_from_slice(text.as_bytes());
        }
    }
    let frame = |kind: u8, flags: u8, stream: u8, payload: &[u8]| {
        let header = [0, 0, u8::try_from(payload.len()).unwrap(), kind, flags, 0, 0, 0, stream];
        [&header[..], payload].concat()
    };
    let mut sent = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    sent.extend(frame(4, 0, 0, &[]));
    let (first, rest) = block.split_at(50);
    sent.extend(frame(1, 0, 1, first));
    sent.extend(frame(9, 4, 1, rest));
    sent.extend(frame(0, 1, 1, &[0; 5]));
    stream.write_all(&sent).await.unwrap();
    let mut heard = Vec::new();
    let name = b"csi.rockpool.dev";
    let answered = tokio::time::timeout(LONG, async {
        while !heard.windows(name.len()).any(|part| part == name) {
            assert!(stream.read_buf(&mut heard).await.unwrap() > 0, "it hung up: {heard:?}");
        }
    });
    answered.await.unwrap_or_else(|_| panic!("no answer, but {heard:?}"));
}
