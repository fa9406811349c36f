//! The controller's end of the link: it listens, and lets in who proves which node it is.
//!
//! Owns: the port, the proof, and the words of a refusal. Never: believes what a node says of itself; calls a node that was
//! not let in.
//!
//! Until the welcome a connection costs a place among few (`HALFWAY`) and five seconds at most, so that who has no
//! certificate can keep nobody out for long.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::hello::{Fault, receive, send};
pub use super::refused::REASONS;
use super::refused::{Refusals, Refused};
use super::{Instance, Keys, Line, Link, Links, NEWEST, OLDEST, Timing, identity, shown};
use crate::cluster::auth::Tokens;
use crate::model::NodeId;
use crate::proto::link::refusal::Reason;
use crate::proto::link::{Hello, Welcome};

/// So many connections at once may be on their way to a welcome.
const HALFWAY: usize = 256;
/// The headers of one answer.
const HEADERS: u32 = 16 << 10;
/// So many bytes of an answer may be under way. A connection keeps what its longest frame took, in HTTP/2 and in TLS: with 1,000 nodes a
/// list of everything left 30 MiB behind. A long answer takes one round trip for each of these instead.
const WINDOW: u32 = 3_900;
/// After a failure to accept, above all for want of file descriptors.
const PAUSE: Duration = Duration::from_millis(100);
/// So long is read, and thrown away, what a refused peer still sends: a reset would destroy the words of the refusal.
const LINGER: Duration = Duration::from_secs(1);
/// So long after a token has ended its link may go on: its node has had a new one for long, or is not what it was.
const GRACE: Duration = Duration::from_secs(300);
/// So long the calls of such a link may take to end.
const LAST: Duration = Duration::from_secs(60);

/// Where nodes come in.
pub struct Desk {
    driver: String,
    instance: Instance,
    keys: Keys<ServerConfig>,
    tokens: Option<Arc<Tokens>>,
    timing: Timing,
    links: Arc<Links>,
    refused: Refusals,
    grace: Duration,
}

/// A node that is who it says.
struct Proven {
    node: NodeId,
    instance: Instance,
    attempt: u64,
    version: String,
    protocol: u32,
    /// When what it proved itself with ends; a certificate counts for as long as the connection.
    until: Option<Instant>,
}

impl Desk {
    /// A desk of the driver of this name.
    pub fn new(driver: String, keys: Keys<ServerConfig>, timing: Timing) -> Desk {
        let (instance, links, refused) = (Instance::random(), Arc::default(), Refusals::default());
        Desk { driver, instance, keys, tokens: None, timing, links, refused, grace: GRACE }
    }

    /// The same, where a token proves a node as well.
    pub fn with_tokens(self, tokens: Arc<Tokens>) -> Desk {
        Desk { tokens: Some(tokens), ..self }
    }

    /// The same, where a link ends as soon as its token.
    #[cfg(test)]
    pub(super) fn strict(self) -> Desk {
        Desk { grace: Duration::ZERO, ..self }
    }

    /// Who is connected.
    pub fn links(&self) -> &Arc<Links> {
        &self.links
    }

    /// Lets everybody go: each connection ends when the calls that run on it have ended. To be called when nobody is let in
    /// any more.
    pub fn part(&self) {
        self.links.clear();
    }

    /// How often somebody was refused for one of `REASONS`.
    pub fn refused(&self, reason: &str) -> u64 {
        self.refused.of(reason)
    }

    /// The last who were refused, the newest first: how long ago, from where, why, and in words.
    pub fn recently_refused(&self) -> Vec<(Duration, String, &'static str, String)> {
        self.refused.recent()
    }

    /// Looks at the files again at the next connection, however soon that is.
    #[cfg(test)]
    pub(super) fn forget_look(&self) {
        self.keys.forget_look();
    }

    /// Lets nodes in until the future is dropped. Connections that were let in stay.
    pub async fn listen(self: Arc<Self>, listener: TcpListener) {
        let halfway = Arc::new(Semaphore::new(HALFWAY));
        loop {
            // Whoever waits in the kernel's queue meanwhile takes nothing of ours.
            let Ok(place) = Arc::clone(&halfway).acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, from)) => {
                    let desk = Arc::clone(&self);
                    tokio::spawn(async move {
                        // Calls are small and wait for each other.
                        let _ = stream.set_nodelay(true);
                        desk.meet(stream, &from.to_string()).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "failed to accept a connection of a node");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    /// Lets one in, or says why not: to it, to the log, and to the count.
    pub(super) async fn meet<S>(&self, stream: S, from: &str)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let outcome = tokio::time::timeout(self.timing.handshake, self.welcome(stream)).await;
        let refused = match outcome {
            Ok(Ok(())) => return,
            Ok(Err(refused)) => refused,
            Err(_) => {
                let message = format!("no hello within {} ms", self.timing.handshake.as_millis());
                Refused::silent("slow", message)
            }
        };
        let counted = self.refused.count(from, &refused);
        let (reason, error) = (refused.reason, refused.message);
        if counted {
            tracing::warn!(from, reason, error, "refused a node");
        } else {
            tracing::debug!(from, reason, error, "turned a node away");
        }
    }

    async fn welcome<S>(&self, stream: S) -> Result<(), Refused>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let acceptor = TlsAcceptor::from(self.keys.now());
        let mut stream = match acceptor.accept(stream).into_fallible().await {
            Ok(stream) => stream,
            Err((error, stream)) => {
                linger(stream);
                return Err(Refused::tls(&error));
            }
        };
        let judged = match receive::<Hello>(&mut stream).await {
            Ok(hello) => {
                let named = self.named(&stream);
                self.judge(&hello, named).await
            }
            Err(Fault::Malformed(why)) => Err(Refused::new(Reason::Malformed, why)),
            Err(Fault::Broken(error)) => return Err(Refused::broken(&error)),
        };
        let sent = send(&mut stream, &self.answer(judged.as_ref())).await;
        let proven = match judged {
            Ok(proven) => proven,
            Err(refused) => {
                linger(stream);
                return Err(refused);
            }
        };
        sent.map_err(|error| Refused::broken(&error))?;
        self.link(stream, proven).await
    }

    fn answer(&self, judged: Result<&Proven, &Refused>) -> Welcome {
        Welcome {
            protocol: judged.map_or(0, |proven| proven.protocol),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            instance: self.instance.0.to_vec(),
            refusal: judged.err().and_then(Refused::refusal),
        }
    }

    /// Whether it is who it says, and speaks what we speak. `named` is the node that its certificate names, if it has one.
    async fn judge(&self, hello: &Hello, named: Option<Named>) -> Result<Proven, Refused> {
        let protocol = NEWEST.min(hello.newest);
        if protocol < OLDEST.max(hello.oldest) {
            let text = format!(
                "the node {} speaks versions {} to {} of the link, the controller {} speaks {OLDEST} to {NEWEST}: upgrade \
                 the older one",
                shown(&hello.version),
                hello.oldest,
                hello.newest,
                env!("CARGO_PKG_VERSION")
            );
            return Err(Refused::new(Reason::Version, text));
        }
        if hello.driver != self.driver {
            let text = format!(
                "it is a node of the driver {}: want `{}`, set --driver-name to the same on both",
                shown(&hello.driver),
                self.driver
            );
            return Err(Refused::new(Reason::Driver, text));
        }
        let claimed: NodeId =
            hello.node.parse().map_err(|error| Refused::new(Reason::Malformed, format!("{error}")))?;
        let instance = Instance::read(&hello.instance).ok_or_else(|| {
            let text = format!("its instance has {} bytes: want 16", hello.instance.len());
            Refused::new(Reason::Malformed, text)
        })?;
        let (node, until, proof) = self.proven(hello, named).await?;
        if node != claimed {
            let text = format!("it says that it is node {claimed}, its {proof} says {node}");
            return Err(Refused::new(Reason::OtherNode, text));
        }
        // A node may not have noticed yet that its connection has ended.
        let is_linked = |link: Link| link.instance == instance && !link.line.is_closed();
        if hello.connected.iter().any(|connected| *connected == self.instance.0)
            && self.links.of(&node).is_some_and(is_linked)
        {
            let text = format!("node {node} is connected by another address");
            return Err(Refused::new(Reason::Already, text));
        }
        if self.links.is_stale(&node, instance, hello.attempt) {
            let text = format!("node {node} has made a newer connection meanwhile");
            return Err(Refused::new(Reason::Stale, text));
        }
        let version = hello.version.clone();
        Ok(Proven { node, instance, attempt: hello.attempt, version, protocol, until })
    }

    /// The node that is proven, until when, and by what. A token counts where it is sent, and the certificate beside it too: one
    /// good proof does not make up for a bad one.
    async fn proven(
        &self,
        hello: &Hello,
        named: Option<Named>,
    ) -> Result<(NodeId, Option<Instant>, &'static str), Refused> {
        let unproven = |why: &str| Refused::new(Reason::Unproven, why.to_owned());
        let named = named.transpose().map_err(|why| unproven(&why))?;
        if hello.token.is_empty() {
            return named.map(|node| (node, None, "certificate")).ok_or_else(|| match self.tokens {
                Some(_) => unproven("it has sent neither a token nor a certificate"),
                None => unproven("it has sent no certificate"),
            });
        }
        let tokens = self.tokens.as_ref().ok_or_else(|| {
            unproven("it has sent a token, and this controller takes none: --kubernetes is not set")
        })?;
        let proof = tokens.node_of(&hello.token).await?;
        match named {
            Some(node) if node != proof.node => {
                let text = format!("its certificate says that it is {node}, its token says {}", proof.node);
                Err(Refused::new(Reason::OtherNode, text))
            }
            _ => Ok((proof.node, Some(proof.until), "token")),
        }
    }

    /// The node that the verified certificate names; none where there is no certificate.
    fn named<S>(&self, stream: &TlsStream<S>) -> Option<Named> {
        let (_, session) = stream.get_ref();
        let certificate = session.peer_certificates().and_then(<[_]>::first)?;
        Some(identity::node_of(certificate, &self.driver))
    }

    /// From here on the controller is the client.
    async fn link<S>(&self, stream: TlsStream<S>, proven: Proven) -> Result<(), Refused>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(self.timing.ping)
            .keep_alive_timeout(self.timing.pong)
            // Most nodes are idle most of the time, and must be known to be there all the same.
            .keep_alive_while_idle(true)
            .initial_stream_window_size(WINDOW)
            .max_header_list_size(HEADERS)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| Refused::silent("broken", crate::error::chain(&error)))?;
        let Proven { node, instance, attempt, version, protocol, until } = proven;
        let (since, line) = (Instant::now(), Line::new(sender));
        let link = Link { node, instance, attempt, version, protocol, since, line };
        self.joined(link, until, connection)
    }

    /// Keeps a link until its connection ends.
    fn joined(
        &self,
        link: Link,
        until: Option<Instant>,
        connection: impl Future<Output = hyper::Result<()>> + Send + 'static,
    ) -> Result<(), Refused> {
        let (node, instance, attempt) = (link.node.clone(), link.instance, link.attempt);
        let (version, protocol) = (link.version.clone(), link.protocol);
        let Ok(before) = self.links.add(link) else {
            let message = format!("node {node} has made a newer connection meanwhile");
            return Err(Refused::new(Reason::Stale, message));
        };
        let other = before.as_ref().filter(|before| before.instance != instance && !before.line.is_closed());
        if let Some(other) = other {
            tracing::warn!(%node, ?instance, other = ?other.instance, "another process of this node is still connected and is let go: does a second machine say that it is this node?");
        }
        let replaces = before.map(|before| before.instance);
        tracing::info!(%node, ?instance, attempt, version = shown(&version), protocol, ?replaces, "a node is connected");
        // Weak: a link keeps its connection open, and this task must not keep the link.
        let links = Arc::downgrade(&self.links);
        let grace = self.grace;
        tokio::spawn(async move {
            let forget =
                || links.upgrade().into_iter().for_each(|links| links.remove(&node, instance, attempt));
            let mut connection = pin!(connection);
            let ended = tokio::select! {
                ended = &mut connection => Some(ended),
                () = over(until.map(|until| until + grace)) => None,
            };
            forget();
            let ended = match ended {
                Some(ended) => ended,
                None => {
                    tracing::warn!(%node, ?instance, attempt, "a node's token has ended, and no newer one has come; it is let go");
                    // Nothing new is sent over it, and what runs may end.
                    tokio::time::timeout(LAST, connection).await.unwrap_or(Ok(()))
                }
            };
            let error = ended.err().map(|error| crate::error::chain(&error));
            tracing::info!(%node, ?instance, attempt, error, "the connection to a node has ended");
        });
        Ok(())
    }
}

/// The node that a certificate names, or why it names none.
type Named = Result<NodeId, String>;

async fn over(until: Option<Instant>) {
    match until {
        Some(until) => tokio::time::sleep_until(until).await,
        None => std::future::pending().await,
    }
}

/// Reads on for a moment, so that what was said last arrives.
fn linger<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(mut stream: S) {
    tokio::spawn(async move {
        let _ = stream.shutdown().await;
        let mut thrown_away = [0; 1024];
        let read_on = async { while matches!(stream.read(&mut thrown_away).await, Ok(1..)) {} };
        let _ = tokio::time::timeout(LINGER, read_on).await;
    });
}
