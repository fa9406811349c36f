//! The node's end of the link: it dials every controller, for ever, and serves on what it dialled.
//!
//! Owns: which addresses are dialled, and when again. Never: listens, or says who it is to anybody but a controller that has
//! proven itself.
//!
//! A name stands for as many controllers as it has addresses; it is looked up again and again, since they come and go. Each
//! address has a task of its own. Two addresses can lead to one controller (a host with IPv4 and IPv6): a node says which
//! controllers it is connected to, and one of them refuses a second connection, or the two would push each other out in turn.

use std::collections::{BTreeSet, HashMap};
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::hello::{Fault, receive, send};
use super::{Alive, Gone, Instance, Keys, NEWEST, OLDEST, Timing, jittered, reason_name, shown};
use crate::error::{Error, Result};
use crate::model::NodeId;
use crate::proto::link::refusal::Reason;
use crate::proto::link::{Hello, Welcome};

/// How patient dialling is.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// The pause before the first attempt after a loss; it doubles from time to time.
    pub pause: Duration,
    /// The longest pause: a controller that restarts has its nodes back soon after that.
    pub longest: Duration,
    /// The longest pause after a refusal, which somebody has to mend.
    pub refused: Duration,
    /// How often names are looked up.
    pub look: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Pace {
            pause: Duration::from_millis(200),
            longest: Duration::from_secs(4),
            refused: Duration::from_secs(30),
            look: Duration::from_secs(5),
        }
    }
}

/// What dialling needs to know.
pub struct Wanted {
    /// Who dials.
    pub node: NodeId,
    /// The driver's name.
    pub driver: String,
    /// Where controllers are: `host:port`, each for all its addresses.
    pub controllers: Vec<String>,
    /// The name in the controllers' certificates.
    pub controller_name: String,
    /// What the node proves itself with, and whom it trusts.
    pub keys: Keys<ClientConfig>,
    /// The file of its token, where that is the proof.
    pub token: Option<PathBuf>,
    /// How long what may take.
    pub timing: Timing,
    /// How patient it is.
    pub pace: Pace,
}

/// Keeps a node connected.
pub struct Dialer {
    pub(super) wanted: Wanted,
    name: ServerName<'static>,
    instance: Instance,
    attempts: AtomicU64,
    met: Mutex<Met>,
}

/// What is known of the controllers.
struct Met {
    /// For what the names stand, in their order.
    names: Vec<Name>,
    /// The controllers with a connection, and by which address.
    served: HashMap<Instance, SocketAddr>,
}

/// A name as it was last looked up.
#[derive(Clone, Default)]
struct Name {
    addresses: BTreeSet<SocketAddr>,
    failed: bool,
}

impl Met {
    /// All addresses for which the names stand.
    fn addresses(&self) -> BTreeSet<SocketAddr> {
        self.names.iter().flat_map(|name| name.addresses.iter().copied()).collect()
    }
}

/// That a controller is served by an address; until it is dropped, or another address takes its place.
pub(super) struct Serving<'a> {
    dialer: &'a Dialer,
    controller: Instance,
    address: SocketAddr,
}

impl Drop for Serving<'_> {
    fn drop(&mut self) {
        let mut met = self.dialer.met();
        if met.served.get(&self.controller) == Some(&self.address) {
            met.served.remove(&self.controller);
        }
    }
}

/// A connection on which a controller waits for its calls to be served.
pub struct Welcomed<S> {
    /// The connection.
    pub stream: Alive<TlsStream<S>>,
    /// Tells when it is gone.
    pub gone: Gone,
    /// The controller's process.
    pub controller: Instance,
    /// The version of its program.
    pub version: String,
    /// The token with which it was made.
    pub(super) token: String,
}

/// Why there is no connection.
#[derive(Debug)]
pub(super) enum Unmet {
    /// The controller has refused this node: somebody has to mend that.
    Refused(String),
    /// Nobody was there, or what was there is no controller of ours.
    Failed(String),
    /// The controller is connected by another address.
    Twice,
}

impl Dialer {
    /// A dialer that has not begun.
    ///
    /// # Errors
    /// `Invalid`, naming the flag.
    pub fn new(wanted: Wanted) -> Result<Dialer> {
        let text = wanted.controller_name.clone();
        let name = ServerName::try_from(text).map_err(|_| {
            let want = "want the DNS name or address in the controllers' certificates";
            Error::invalid("--controller-name", &wanted.controller_name, want)
        })?;
        for address in &wanted.controllers {
            let parts = address.rsplit_once(':');
            if !parts.is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok()) {
                return Err(Error::invalid("--controller", address, "want HOST:PORT"));
            }
        }
        if wanted.controllers.is_empty() {
            return Err(Error::Invalid(
                "--controller is missing: want HOST:PORT of the controllers".to_owned(),
            ));
        }
        let names = vec![Name::default(); wanted.controllers.len()];
        let met = Mutex::new(Met { names, served: HashMap::new() });
        let (instance, attempts) = (Instance::random(), AtomicU64::new(0));
        Ok(Dialer { wanted, name, instance, attempts, met })
    }

    /// With how many controllers there is a connection.
    pub fn connected(&self) -> u64 {
        u64::try_from(self.met().served.len()).unwrap_or(u64::MAX)
    }

    /// Dials every controller, hands each connection to `serve` until that returns, and dials again; until `stop` returns. Then
    /// it waits for the connections, which `serve` has to end.
    pub async fn run<F>(
        self: Arc<Self>,
        serve: impl Fn(Welcomed<TcpStream>) -> F + Clone + Send + Sync + 'static,
        stop: impl Future<Output = ()>,
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        let (close, closing) = watch::channel(false);
        let mut stop = pin!(stop);
        let mut kept = JoinSet::new();
        let mut running = HashMap::new();
        'dialling: loop {
            tokio::select! {
                () = &mut stop => break,
                () = self.look_up() => {}
            }
            for address in self.met().addresses() {
                if !running.values().any(|kept| *kept == address) {
                    let keep = Arc::clone(&self).keep(address, serve.clone(), closing.clone());
                    running.insert(kept.spawn(keep).id(), address);
                }
            }
            let mut pause = pin!(tokio::time::sleep(jittered(self.wanted.pace.look)));
            loop {
                tokio::select! {
                    () = &mut stop => break 'dialling,
                    () = &mut pause => break,
                    Some(ended) = kept.join_next_with_id(), if !kept.is_empty() => {
                        // One that panicked is begun again like one that was no longer listed.
                        running.remove(&ended.map_or_else(|error| error.id(), |(id, ())| id));
                    }
                }
            }
        }
        close.send_replace(true);
        while kept.join_next().await.is_some() {}
    }

    /// Finds out for which addresses the names stand. One that cannot be looked up stands for what it stood for.
    async fn look_up(&self) {
        for (place, name) in self.wanted.controllers.iter().enumerate() {
            match tokio::net::lookup_host(name).await {
                Ok(addresses) => {
                    let name = &mut self.met().names[place];
                    (name.addresses, name.failed) = (addresses.collect(), false);
                }
                Err(error) => {
                    let failed_before = std::mem::replace(&mut self.met().names[place].failed, true);
                    if !failed_before {
                        tracing::warn!(controller = name, %error, "failed to look up the controllers; trying on");
                    }
                }
            }
        }
    }

    /// Keeps one address connected, while it is listed.
    async fn keep<F>(
        self: Arc<Self>,
        address: SocketAddr,
        serve: impl Fn(Welcomed<TcpStream>) -> F,
        mut closing: watch::Receiver<bool>,
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        let mut pause = self.wanted.pace.pause;
        let mut said = String::new();
        loop {
            let met = tokio::select! {
                () = closed(&mut closing) => return,
                met = self.dial(address, None) => met,
            };
            match met {
                Ok(welcomed) => {
                    self.attend(address, welcomed, &serve, &mut closing).await;
                    (pause, said) = (self.wanted.pace.pause, String::new());
                }
                Err(unmet) => {
                    let longest = unmet.longest_pause(&self.wanted.pace);
                    unmet.tell(address, &mut said);
                    pause = pause.saturating_mul(2).min(longest);
                }
            }
            if !self.met().addresses().contains(&address) {
                return;
            }
            tokio::select! {
                () = closed(&mut closing) => return,
                () = tokio::time::sleep(jittered(pause)) => {}
            }
        }
    }

    /// Notes that a controller is served. Of two addresses that met it at the same time the later one stays, here as there.
    pub(super) fn serving(&self, controller: Instance, address: SocketAddr) -> Serving<'_> {
        self.met().served.insert(controller, address);
        Serving { dialer: self, controller, address }
    }

    /// Dials one address; to take the place of the connection to a controller, if one is given.
    pub(super) async fn dial(
        &self,
        address: SocketAddr,
        instead: Option<Instance>,
    ) -> std::result::Result<Welcomed<TcpStream>, Unmet> {
        let attempt = async {
            let stream = TcpStream::connect(address).await.map_err(|error| failed(&error))?;
            // Answers are small and waited for.
            let _ = stream.set_nodelay(true);
            self.greet(stream, instead).await
        };
        let patience = self.wanted.timing.handshake;
        let slow = |_| Err(Unmet::Failed(format!("no welcome within {} ms", patience.as_millis())));
        tokio::time::timeout(patience, attempt).await.unwrap_or_else(slow)
    }

    /// Says who we are on a connection that is there.
    pub(super) async fn greet<S>(
        &self,
        stream: S,
        instead: Option<Instance>,
    ) -> std::result::Result<Welcomed<S>, Unmet>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let token = self.token()?;
        let connector = TlsConnector::from(self.wanted.keys.now());
        let mut stream =
            connector.connect(self.name.clone(), stream).await.map_err(|error| failed(&error))?;
        send(&mut stream, &self.hello(&token, instead)).await.map_err(|error| failed(&error))?;
        // In TLS 1.3 a client hears only here that its certificate was refused.
        let welcome: Welcome = receive(&mut stream).await.map_err(Unmet::from)?;
        if let Some(refusal) = welcome.refusal {
            let reason = refusal.reason();
            if reason == Reason::Already {
                return Err(Unmet::Twice);
            }
            let text = format!("{}: {}", reason_name(reason), shown(&refusal.message));
            // That passes by itself, and soon.
            let is_passing = reason == Reason::Busy;
            return Err(if is_passing { Unmet::Failed(text) } else { Unmet::Refused(text) });
        }
        let controller = Instance::read(&welcome.instance);
        let fits = (OLDEST..=NEWEST).contains(&welcome.protocol);
        let Some(controller) = controller.filter(|_| fits) else {
            return Err(Unmet::Failed(format!(
                "the controller {} answers with version {} of the link: want {OLDEST} to {NEWEST}",
                shown(&welcome.version),
                welcome.protocol
            )));
        };
        let (stream, gone) = Alive::new(stream, self.wanted.timing.silence);
        Ok(Welcomed { stream, gone, controller, version: welcome.version, token })
    }

    /// Looks at the files again at the next connection, however soon that is.
    #[cfg(test)]
    pub(super) fn forget_look(&self) {
        self.wanted.keys.forget_look();
    }

    fn hello(&self, token: &str, instead: Option<Instance>) -> Hello {
        let met = self.met();
        let connected = met.served.keys().filter(|controller| Some(**controller) != instead);
        Hello {
            oldest: OLDEST,
            newest: NEWEST,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            driver: self.wanted.driver.clone(),
            node: self.wanted.node.to_string(),
            instance: self.instance.0.to_vec(),
            attempt: self.attempts.fetch_add(1, Ordering::Relaxed) + 1,
            token: token.to_owned(),
            connected: connected.map(|controller| controller.0.to_vec()).collect(),
        }
    }

    fn met(&self) -> MutexGuard<'_, Met> {
        self.met.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) async fn closed(closing: &mut watch::Receiver<bool>) {
    // A sender that is gone means an end as well.
    let _ = closing.wait_for(|closing| *closing).await;
}

fn failed(error: &io::Error) -> Unmet {
    Unmet::Failed(error.to_string())
}

impl From<Fault> for Unmet {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Malformed(why) => Unmet::Failed(format!("what answers is no controller of ours: {why}")),
            Fault::Broken(error) => {
                let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
                match cause {
                    Some(rustls::Error::AlertReceived(alert)) => Unmet::Refused(format!(
                        "it does not accept our certificate ({alert:?}): its log says why"
                    )),
                    Some(_) | None => failed(&error),
                }
            }
        }
    }
}

impl Unmet {
    fn longest_pause(&self, pace: &Pace) -> Duration {
        match self {
            Unmet::Refused(_) => pace.refused,
            Unmet::Failed(_) | Unmet::Twice => pace.longest,
        }
    }

    /// Tells the operator, once while it stays the same.
    pub(super) fn tell(&self, address: SocketAddr, said: &mut String) {
        let (what, why) = match self {
            Unmet::Refused(why) => ("the controller refused this node", why),
            Unmet::Failed(why) => ("failed to connect to the controller", why),
            Unmet::Twice => {
                tracing::debug!(%address, "two addresses lead to one controller");
                return;
            }
        };
        if why == said {
            tracing::debug!(%address, error = why, "{what}");
        } else {
            tracing::warn!(%address, error = why, "{what}; trying on");
            said.clone_from(why);
        }
    }
}
