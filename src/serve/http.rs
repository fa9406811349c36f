//! Health and metrics over HTTP, for kubelet's probes and for Prometheus.
//!
//! Owns: `/healthz`, `/readyz` and `/metrics`, on a thread and a runtime of their own: what has come to a standstill elsewhere is
//! what they are asked about. Never: changes anything, or shows what only operators may see.
//!
//! - `/healthz` makes a new connection to the CSI socket and calls Probe: it fails where nothing answers, which a restart cures. A
//!   pool that is away or a start that takes long is an answer: no restart cures that.
//! - `/readyz` fails, with the reason, also where Probe says that the start is not over, and where the process itself is not ready.
//!   A pool that is away is no reason here either: one dead disk would stop the rollout of a whole cluster.
//!
//! Silence keeps no prober out: a connection answers one request and ends, and where all places are taken the oldest that has
//! asked nothing makes room for the next.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::error::Error as _;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::{Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use prometheus_client::registry::Registry;
use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tonic::transport::Uri;

use super::STACK;
use crate::config::Endpoint;
use crate::error::{Error, Result, chain};
use crate::metrics::Format;
use crate::proto::csi::ProbeRequest;
use crate::proto::csi::identity_client::IdentityClient;

/// So many are served at once: a probe, a scrape, and somebody who looks.
const AT_ONCE: usize = 32;
/// A conversation, from its connection to the end of its answer.
const LONGEST: Duration = Duration::from_secs(10);
/// What Probe gets; kubelet waits no longer.
const PROBE: Duration = Duration::from_secs(3);
/// After a failure to accept.
const PAUSE: Duration = Duration::from_millis(100);
const TEXT: &str = "text/plain; charset=utf-8";

/// What is shown.
pub struct Pages {
    /// The CSI socket of this process.
    pub endpoint: Endpoint,
    /// What `/metrics` shows.
    pub metrics: Registry,
    /// What keeps this process from being ready, beside a start that is not over; none: nothing.
    pub unready: Box<dyn Fn() -> Option<String> + Send + Sync>,
}

/// What came of a call of Probe.
enum Probed {
    /// It answers, be it that its pools are ill.
    Answered,
    Starting,
    /// Nobody has said anything.
    Unanswered(String),
}

/// A page: its status, its type, its text.
type Page = (StatusCode, &'static str, String);

/// A bound port. Bound before anything is opened, so that a port that is taken is said at once.
pub struct Http(TcpListener);

impl Http {
    /// Binds the port.
    ///
    /// # Errors
    /// Where it cannot be had.
    pub fn bind(address: SocketAddr) -> Result<Http> {
        let failed = |error| Error::host(format!("--http-listen: failed to listen on {address}"), error);
        let listener = TcpListener::bind(address).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        Ok(Http(listener))
    }

    /// Serves for as long as the process lives.
    ///
    /// # Errors
    /// Where the thread cannot be started.
    pub fn serve(self, pages: Pages) -> Result<()> {
        let failed = |error| Error::host("failed to serve health and metrics", error);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let listener = {
            let _entered = runtime.enter();
            tokio::net::TcpListener::from_std(self.0).map_err(failed)?
        };
        let thread = std::thread::Builder::new().name("http".to_owned()).stack_size(STACK);
        let started = thread.spawn(move || runtime.block_on(accept(listener, Arc::new(pages))));
        started.map(drop).map_err(failed)
    }
}

async fn accept(listener: tokio::net::TcpListener, pages: Arc<Pages>) {
    let mut places = VecDeque::new();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                make_room(&mut places);
                let (pages, has_asked) = (Arc::clone(&pages), Arc::<AtomicBool>::default());
                let talk = pages.converse(stream, Arc::clone(&has_asked));
                // Who is slow or silent loses its place, and nothing else.
                let task = tokio::spawn(async move { drop(tokio::time::timeout(LONGEST, talk).await) });
                places.push_back(Place { task: task.abort_handle(), has_asked });
            }
            Err(error) => {
                tracing::warn!(%error, "failed to accept a connection for health or metrics");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Somebody who is served.
struct Place {
    task: AbortHandle,
    has_asked: Arc<AtomicBool>,
}

/// Where all places are taken, the oldest that has asked nothing is dropped; where all have asked, the oldest.
fn make_room(places: &mut VecDeque<Place>) {
    places.retain(|place| !place.task.is_finished());
    if places.len() < AT_ONCE {
        return;
    }
    let silent = places.iter().position(|place| !place.has_asked.load(Ordering::Relaxed));
    if let Some(place) = places.remove(silent.unwrap_or_default()) {
        place.task.abort();
    }
}

impl Pages {
    /// Answers one request; `has_asked` says that it is there.
    async fn converse(self: Arc<Self>, stream: TcpStream, has_asked: Arc<AtomicBool>) {
        let answer = service_fn(|request: Request<Incoming>| {
            has_asked.store(true, Ordering::Relaxed);
            let pages = Arc::clone(&self);
            async move { Ok::<_, Infallible>(written(pages.page(&request).await)) }
        });
        // The conversation as a whole has its time.
        let connection = http1::Builder::new()
            .keep_alive(false)
            .header_read_timeout(None)
            .serve_connection(TokioIo::new(stream), answer);
        // Whoever asks and goes away has not harmed anybody.
        let _ = connection.await;
    }

    async fn page<B>(&self, request: &Request<B>) -> Page {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return (StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET\n".to_owned());
        }
        match request.uri().path() {
            "/healthz" => self.health().await,
            "/readyz" => self.readiness().await,
            "/metrics" => self.metrics(Format::wanted(request.headers().get(header::ACCEPT))),
            _ => (StatusCode::NOT_FOUND, TEXT, "want /healthz, /readyz or /metrics\n".to_owned()),
        }
    }

    async fn health(&self) -> Page {
        match self.probe().await {
            Probed::Unanswered(why) => bad(&why),
            Probed::Starting | Probed::Answered => good(),
        }
    }

    async fn readiness(&self) -> Page {
        match self.probe().await {
            Probed::Unanswered(why) => bad(&why),
            Probed::Starting => bad("still starting"),
            Probed::Answered => (self.unready)().map_or_else(good, |why| bad(&why)),
        }
    }

    fn metrics(&self, format: Format) -> Page {
        match format.write(&self.metrics) {
            Ok(text) => (StatusCode::OK, format.kind(), text),
            Err(_) => bad("the metrics cannot be written"),
        }
    }

    /// What Probe says over a connection of its own.
    async fn probe(&self) -> Probed {
        let silent = |why: String| Probed::Unanswered(format!("the CSI socket does not answer: {why}"));
        let asked = async {
            let socket = tonic::transport::Endpoint::from_shared(self.endpoint.to_string())?
                .origin(Uri::from_static("http://localhost"));
            let channel = socket.connect().await?;
            Ok::<_, tonic::transport::Error>(IdentityClient::new(channel).probe(ProbeRequest {}).await)
        };
        match tokio::time::timeout(PROBE, asked).await {
            Err(_) => silent(format!("nothing within {} s", PROBE.as_secs())),
            Ok(Err(error)) => silent(chain(&error)),
            // Absent is ready, says the standard.
            Ok(Ok(Ok(said))) if !said.get_ref().ready.unwrap_or(true) => Probed::Starting,
            // A status with a cause was made at this end, of a connection that broke.
            Ok(Ok(Err(status))) if status.source().is_some() => silent(chain(&status)),
            Ok(Ok(Ok(_) | Err(_))) => Probed::Answered,
        }
    }
}

fn good() -> Page {
    (StatusCode::OK, TEXT, "ok\n".to_owned())
}

fn bad(why: &str) -> Page {
    (StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("{why}\n"))
}

fn written((status, kind, text): Page) -> Response<String> {
    let mut response = Response::new(text);
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    response
}
