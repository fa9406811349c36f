//! Serving gRPC on a unix socket, or on a connection that we dialled: binding, limits, one line a call, and an end in bounded time.
//!
//! Owns: [`Socket`], [`Linked`], [`Http`], the limits, the log and the signals. Never: knows what is served.
//!
//! # `:authority`
//! Clients of a unix socket send `localhost` (grpc-go, tonic, so kubelet, the sidecars and csi-sanity), or none: both
//! work. A raw or %-encoded socket path or an empty value (clients on old versions of the gRPC C core) is refused by the
//! HTTP/2 library as a malformed request, by RST_STREAM with PROTOCOL_ERROR; the connection and the process live on. At the
//! registration socket kubelet itself is such a client: there it is put right (`authority`).

mod authority;
mod calls;
mod http;
mod log;
mod socket;

use std::convert::Infallible;
use std::future::Future;
use std::time::Duration;

use ::http::HeaderValue;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{UnixListener, UnixStream};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::transport::server::Connected;

use self::authority::Localhost;
use self::calls::{CallLayer, Limits};
pub use self::http::{Http, Pages};
pub use self::log::{LogFormat, LogLevel, start as start_log};
pub use self::socket::{Socket, Witness};
use crate::error::{Error, Result, chain};
use crate::model::NodeId;

/// How many calls are taken at once.
#[derive(Clone, Copy, Debug)]
pub struct Width {
    /// On one connection; more wait for their turn.
    streams: u32,
    /// On all together; more are refused.
    calls: usize,
}

impl Width {
    /// Of a node: its pools do a few at a time.
    pub const NODE: Width = Width { streams: 64, calls: 256 };
    /// Of a controller: most of its calls wait for nodes, and those that wait for one that hangs must not keep the others from
    /// being asked.
    pub const CLUSTER: Width = Width { streams: 1024, calls: 4096 };

    fn limits(self) -> Limits {
        Limits { at_once: self.calls, ..Limits::default() }
    }
}

/// Callers may give up on so many calls at once. A flood would be answered with ENHANCE_YOUR_CALM, which Go clients
/// read as RESOURCE_EXHAUSTED; only root can reach the socket, so the limit may be generous.
const RESETS: usize = 4096;
/// The headers of one call.
const HEADERS: u32 = 16 << 10;
/// Calls that still run when the process is told to end get this long.
const DRAIN: Duration = Duration::from_secs(10);
/// Of a thread that serves or keeps up. Address space, not memory: what is not touched costs nothing, and a debug build with musl
/// overflowed a quarter of it.
pub const STACK: usize = 1 << 20;
/// After a failure to accept, above all for want of file descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// The wish of the process to end, for everything that serves.
#[derive(Clone, Debug)]
pub struct Stop(watch::Receiver<bool>);

impl Stop {
    /// Waits for SIGTERM or SIGINT from now on. To be called before anything is bound, so that no signal is missed.
    ///
    /// # Errors
    /// Where the handlers cannot be set up.
    pub fn on_signals() -> Result<Stop> {
        let failed = |error| Error::host("failed to wait for signals", error);
        let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
        let (tell, stop) = watch::channel(false);
        tokio::spawn(async move {
            let name = first(&mut terminate, &mut interrupt).await;
            tracing::info!(signal = name, "stopping");
            let _ = tell.send(true);
        });
        Ok(Stop(stop))
    }

    /// Returns when the process is to end.
    pub async fn wanted(&self) {
        // A sender that is gone means an end as well.
        let _ = self.0.clone().wait_for(|stop| *stop).await;
    }
}

impl From<watch::Receiver<bool>> for Stop {
    /// A wish that becomes true at another's word.
    fn from(stop: watch::Receiver<bool>) -> Self {
        Stop(stop)
    }
}

async fn first(terminate: &mut Signal, interrupt: &mut Signal) -> &'static str {
    tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    }
}

/// Serves `routes` until `stop` returns: then nothing new is accepted, the socket's file goes, and calls that still run get
/// ten seconds. Dropping the future ends it at once.
///
/// # Errors
/// Where the socket cannot be handed to the runtime.
pub async fn serve(
    socket: Socket,
    routes: Routes,
    width: Width,
    stop: impl Future<Output = ()>,
) -> Result<()> {
    serve_over(socket, routes, width, stop, |stream| stream).await
}

/// The same to kubelet's plugin manager, which calls a socket by its path.
///
/// # Errors
/// As `serve`.
pub async fn serve_by_path(
    socket: Socket,
    routes: Routes,
    width: Width,
    stop: impl Future<Output = ()>,
) -> Result<()> {
    serve_over(socket, routes, width, stop, Localhost::new).await
}

async fn serve_over<IO>(
    socket: Socket,
    routes: Routes,
    width: Width,
    stop: impl Future<Output = ()>,
    over: impl Fn(UnixStream) -> IO + Send + 'static,
) -> Result<()>
where
    IO: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
{
    let (listener, name) = socket.into_parts();
    let listener = UnixListener::from_std(listener)
        .map_err(|error| Error::host("failed to take over the socket", error))?;
    let (accepted, connections) = mpsc::channel(16);
    let accepting = tokio::spawn(accept(listener, accepted));
    let (tell, told) = tokio::sync::oneshot::channel::<()>();
    let calls = CallLayer::new(width.limits());
    let server = limited(width).layer(calls.clone()).add_routes(routes).serve_with_incoming_shutdown(
        ReceiverStream::new(connections).map(move |stream| Ok::<_, Infallible>(over(stream))),
        async {
            let _ = told.await;
        },
    );
    let mut server = std::pin::pin!(server);
    tokio::select! {
        ended = &mut server => ended.map_err(|error| Error::Unavailable(format!("the server ended: {}", chain(&error))))?,
        () = stop => {}
    }
    accepting.abort();
    drop(name);
    let _ = tell.send(());
    drained(server, &calls).await;
    Ok(())
}

/// What is served to controllers, on connections that this node has dialled.
#[derive(Clone)]
pub struct Linked {
    calls: CallLayer,
    routes: Routes,
    /// So long nothing is heard before the controller is asked whether it is there.
    ask: Duration,
}

impl Linked {
    /// These routes, with the node's mark beside every answer. All connections share their limits. A controller that says nothing
    /// for `ask` is asked for a sign of life: it does not ask a node that goes on speaking, and may have nothing to say for hours.
    pub fn new(routes: Routes, node: &NodeId, ask: Duration) -> Linked {
        let calls = CallLayer::new(Width::NODE.limits());
        // Its characters are those of a header.
        let calls = match HeaderValue::from_str(node.as_str()) {
            Ok(mark) => calls.marked(mark),
            Err(_) => calls,
        };
        Linked { calls, routes, ask }
    }

    /// Serves one connection until it is gone, or until `stop` returns: then the controller hears that it is to call no more,
    /// and calls that still run get ten seconds.
    pub async fn serve<IO>(
        self,
        connection: IO,
        gone: impl Future<Output = ()>,
        stop: impl Future<Output = ()>,
    ) where
        IO: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
    {
        let (tell, told) = tokio::sync::oneshot::channel::<()>();
        // No other ever comes; but the end of the stream of connections would be taken for the wish to drain.
        let only = tokio_stream::once(Ok::<_, Infallible>(connection)).chain(tokio_stream::pending());
        let server = limited(Width::NODE)
            .http2_keepalive_interval(Some(self.ask))
            // Who does not answer is let go by the connection itself (`link::Alive`), for which every byte is an answer.
            .http2_keepalive_timeout(Some(Duration::from_secs(3600)))
            .layer(self.calls.clone())
            .add_routes(self.routes)
            .serve_with_incoming_shutdown(only, async {
                let _ = told.await;
            });
        let mut server = std::pin::pin!(server);
        tokio::select! {
            _ = &mut server => return,
            () = gone => {}
            () = stop => {}
        }
        let _ = tell.send(());
        drained(server, &self.calls).await;
    }
}

/// A server with the limits that hold everywhere.
fn limited(width: Width) -> Server {
    Server::builder()
        .max_concurrent_streams(width.streams)
        .http2_max_pending_accept_reset_streams(Some(RESETS))
        .http2_max_local_error_reset_streams(Some(RESETS))
        .http2_max_header_list_size(HEADERS)
        .http2_keepalive_interval(Some(Duration::from_secs(60)))
}

/// Waits for a server that was told to end, and for the calls that still run, but no longer than they get.
async fn drained<T>(server: impl Future<Output = T>, calls: &CallLayer) {
    tokio::select! {
        _ = server => {}
        () = quiet(calls) => {}
        () = tokio::time::sleep(DRAIN) => {
            tracing::warn!(seconds = DRAIN.as_secs(), "calls still run after the time for draining; they are left behind");
        }
    }
}

/// Returns when no call runs. Connections alone are not waited for: a peer that is silent or hangs would decide when we end.
async fn quiet(calls: &CallLayer) {
    loop {
        // What was answered a moment ago is still on its way.
        tokio::time::sleep(PAUSE).await;
        if calls.is_quiet() {
            return;
        }
    }
}

/// Accepts for ever. tonic's own loop would spin where the process has no file descriptor left.
async fn accept(listener: UnixListener, accepted: mpsc::Sender<UnixStream>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) if allowed(&stream) => {
                if accepted.send(stream).await.is_err() {
                    return;
                }
            }
            Ok((stream, _)) => {
                tracing::warn!(
                    uid = stream.peer_cred().ok().map(|peer| peer.uid()),
                    "refused a connection of another user"
                );
            }
            Err(error) => {
                tracing::warn!(%error, "failed to accept a connection");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Root and ourselves. The mode of the socket says so already; this also holds where somebody has changed it.
fn allowed(stream: &UnixStream) -> bool {
    let ours = rustix::process::geteuid().as_raw();
    stream.peer_cred().is_ok_and(|peer| peer.uid() == 0 || peer.uid() == ours)
}
