//! Serving gRPC on a unix socket: binding, limits, one line a call, and an end in bounded time.
//!
//! Owns: [`Socket`], the limits, the log and the signals. Never: knows what is served.
//!
//! # `:authority`
//! Clients of a unix socket send `localhost` (grpc-go, tonic, so kubelet, the sidecars and csi-sanity), or none: both
//! work. A raw or %-encoded socket path or an empty value (clients on old versions of the gRPC C core) is refused by the
//! HTTP/2 library as a malformed request, by RST_STREAM with PROTOCOL_ERROR; the connection and the process live on.

mod calls;
mod log;
mod socket;

use std::convert::Infallible;
use std::future::Future;
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::Routes;
use tonic::transport::Server;

use self::calls::{CallLayer, Limits};
pub use self::log::{LogFormat, LogLevel, start as start_log};
pub use self::socket::{Socket, Witness};
use crate::error::{Error, Result, chain};

/// Calls that wait on one connection for their turn.
const STREAMS: u32 = 64;
/// Callers may give up on so many calls at once. A flood would be answered with ENHANCE_YOUR_CALM, which Go clients
/// read as RESOURCE_EXHAUSTED; only root can reach the socket, so the limit may be generous.
const RESETS: usize = 4096;
/// The headers of one call.
const HEADERS: u32 = 16 << 10;
/// Calls that still run when the process is told to end get this long.
const DRAIN: Duration = Duration::from_secs(10);
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
pub async fn serve(socket: Socket, routes: Routes, stop: impl Future<Output = ()>) -> Result<()> {
    let (listener, name) = socket.into_parts();
    let listener = UnixListener::from_std(listener)
        .map_err(|error| Error::host("failed to take over the socket", error))?;
    let (accepted, connections) = mpsc::channel(16);
    let accepting = tokio::spawn(accept(listener, accepted));
    let (tell, told) = tokio::sync::oneshot::channel::<()>();
    let calls = CallLayer::new(Limits::default());
    let server = Server::builder()
        .max_concurrent_streams(STREAMS)
        .http2_max_pending_accept_reset_streams(Some(RESETS))
        .http2_max_local_error_reset_streams(Some(RESETS))
        .http2_max_header_list_size(HEADERS)
        .http2_keepalive_interval(Some(Duration::from_secs(60)))
        .layer(calls.clone())
        .add_routes(routes)
        .serve_with_incoming_shutdown(ReceiverStream::new(connections).map(Ok::<_, Infallible>), async {
            let _ = told.await;
        });
    let mut server = std::pin::pin!(server);
    tokio::select! {
        ended = &mut server => ended.map_err(|error| Error::Unavailable(format!("the server ended: {}", chain(&error))))?,
        () = stop => {}
    }
    accepting.abort();
    drop(name);
    let _ = tell.send(());
    tokio::select! {
        _ = server => {}
        () = quiet(&calls) => {}
        () = tokio::time::sleep(DRAIN) => {
            tracing::warn!(seconds = DRAIN.as_secs(), "calls still run after the time for draining; they are left behind");
        }
    }
    Ok(())
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
