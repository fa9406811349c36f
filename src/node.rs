//! `rockpool standalone` and `rockpool node`: the process that has the pools.
//!
//! Owns: the order of a start and of an end, and which service is served where. Never: binds or dials before the pools are open:
//! what is misconfigured never answers.
//!
//! | | the CSI socket | the operators' socket | connections to controllers |
//! |---|---|---|---|
//! | `standalone` | all of CSI | Admin | – |
//! | `node` | Identity, Node | Admin | Controller, GroupController, SnapshotMetadata, Link, Transfers |

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tonic::service::Routes;

use crate::cluster::link::node::{Dialer, Pace as Dialling, Wanted, Welcomed};
use crate::cluster::link::{Keys, NodeFiles, Proof, Timing};
use crate::cluster::transfer::{Terms, Transfers};
use crate::config::{Admin, Endpoint};
use crate::csi::{About, Services};
use crate::engine::{Engine, EngineConfig};
use crate::error::{Error, Result};
use crate::kubelet::{Pace, Registrar};
use crate::metrics::{Sources, of_node};
use crate::model::Features;
use crate::os::rights;
use crate::serve::{Http, Linked, Pages, STACK, Socket, Stop, Width, serve};

/// What it was told, checked.
#[derive(Clone, Debug)]
pub struct Node {
    /// Where CSI is served.
    pub endpoint: Endpoint,
    /// Where operators are served.
    pub admin: Admin,
    /// The names under which it appears.
    pub about: About,
    /// The socket for registration with kubelet; none: no registration.
    pub registration_socket: Option<PathBuf>,
    /// Where health and metrics are served over HTTP; none: nowhere.
    pub http: Option<SocketAddr>,
    /// Whether metrics tell of each volume.
    pub volume_metrics: bool,
    /// For the engine.
    pub engine: EngineConfig,
    /// Where the engine has no pool: what in the pool file says so.
    pub poolless: Option<String>,
    /// What is advertised; none: what the kinds of its own pools can do.
    pub offered: Option<Features>,
    /// The controllers that serve the cluster; none: this process serves all of CSI itself.
    pub controllers: Option<Controllers>,
}

/// Where the controllers are, and how they and this node prove themselves.
#[derive(Clone, Debug)]
pub struct Controllers {
    /// `HOST:PORT`, each for all its addresses.
    pub at: Vec<String>,
    /// The name in their certificates.
    pub name: String,
    /// What this node proves itself with, and whom it trusts.
    pub files: NodeFiles,
    /// How volumes come from other nodes and go to them.
    pub transfers: Terms,
}

/// The runtime only moves messages; the work is done on the pools' own threads.
const THREADS: usize = 1;
/// For what blocks: names that are looked up, and the log.
const BLOCKING: usize = 2;
/// How often pools that vanished or came back are looked for.
const LOOK: Duration = Duration::from_secs(5);
/// How often it is counted how many volumes are ill, and how full pools are.
const HEALTH: Duration = Duration::from_secs(60);
/// How often what is kept after its deletion is looked after.
const EXPIRE: Duration = Duration::from_secs(60);
/// How often pools are tended.
const TEND: Duration = Duration::from_secs(3600);
/// What still runs on the runtime when everything has ended.
const LAST: Duration = Duration::from_millis(200);

/// Opens the pools, serves until a signal, and drains.
///
/// # Errors
/// Whatever keeps it from serving.
pub fn run(config: Node) -> Result<()> {
    let begun = Instant::now();
    if let Err(error) = rights::give_up() {
        tracing::warn!(%error, "failed to give up rights that are not needed; going on with them");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(THREADS)
        .max_blocking_threads(BLOCKING)
        .thread_stack_size(STACK)
        .enable_all()
        .build()
        .map_err(|error| Error::host("failed to start the runtime", error))?;
    let served = runtime.block_on(async {
        let stop = Stop::on_signals()?;
        let terms = config.controllers.as_ref().map(|controllers| controllers.transfers.clone());
        let dialer = config.controllers.map(|controllers| dialer(controllers, &config.about)).transpose()?;
        let dialer = dialer.map(Arc::new);
        let http = config.http.map(Http::bind).transpose()?;
        if let Some(why) = config.poolless {
            tracing::warn!(node = config.about.node_id, why, "this node has no pool");
        }
        let engine = Engine::open(config.engine)?;
        upkeep(&engine)?;
        let offered = config.offered.unwrap_or_else(|| engine.features());
        let services = Services::offering(Arc::clone(&engine), config.about.clone(), offered)?;
        let transfers = terms.map(|terms| Transfers::new(services.clone(), terms));
        let admin = admin(&config.admin)?;
        let admin_at = admin.as_ref().map_or_else(|| "off".to_owned(), |(at, _)| at.to_string());
        let socket = Socket::bind(config.endpoint.path())?;
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            driver = config.about.driver_name,
            node = config.about.node_id,
            endpoint = %config.endpoint,
            admin = admin_at,
            start_ms = begun.elapsed().as_millis(),
            "serving"
        );
        // What hears the same signal and has to end before the process does.
        let mut beside = JoinSet::new();
        let registered = config.registration_socket.is_some().then(Arc::<AtomicBool>::default);
        if let (Some(socket), Some(registered)) = (config.registration_socket, registered.clone()) {
            let (driver, endpoint) = (config.about.driver_name.clone(), config.endpoint.clone());
            let registrar = Registrar { driver, endpoint, socket, pace: Pace::default(), registered };
            beside.spawn(registrar.run(stop.clone()));
        }
        if let Some(http) = http {
            let transfers = transfers.as_ref().map(|transfers| (transfers.refusals(), transfers.counts()));
            let (engine, dialer) = (Arc::downgrade(&engine), dialer.clone());
            let sources =
                Sources { engine, registered, dialer, transfers, each_volume: config.volume_metrics };
            http.serve(pages(config.endpoint.clone(), sources))?;
        }
        let routes = if dialer.is_some() { own_routes(&services) } else { all_routes(&services) };
        if let (Some(dialer), Some(transfers)) = (dialer, transfers) {
            beside.spawn(dial(dialer, linked(&services, &transfers, &config.about)?, stop.clone()));
        }
        let csi = serve(socket, routes, Width::NODE, stop.wanted());
        let operators = async {
            match admin {
                Some((_, socket)) => {
                    serve(socket, Routes::new(services.admin()), Width::NODE, stop.wanted()).await
                }
                None => Ok(()),
            }
        };
        let served = tokio::try_join!(csi, operators).map(drop);
        if served.is_err() {
            // No signal has come that would end it.
            beside.abort_all();
        }
        while beside.join_next().await.is_some() {}
        served
    });
    runtime.shutdown_timeout(LAST);
    tracing::info!("stopped");
    served
}

/// The socket for operators, where there is to be one and it can be.
pub(crate) fn admin(wanted: &Admin) -> Result<Option<(Endpoint, Socket)>> {
    let bind = |endpoint: Endpoint| Socket::bind(endpoint.path()).map(|socket| (endpoint, socket));
    match wanted {
        Admin::Off => Ok(None),
        Admin::Asked(endpoint) => bind(endpoint.clone()).map(Some),
        Admin::Usual(path) => {
            let bound = path.display().to_string().parse().and_then(bind).inspect_err(|error| {
                let error = crate::error::chain(error);
                tracing::warn!(
                    error,
                    "no socket for `rockpool ctl doctor` and its kin; --admin-endpoint sets another"
                );
            });
            Ok(bound.ok())
        }
    }
}

/// What dials the controllers.
fn dialer(controllers: Controllers, about: &About) -> Result<Dialer> {
    let token = match &controllers.files.own {
        Proof::Token(path) => Some(path.clone()),
        Proof::Certificate(_) => None,
    };
    let wanted = Wanted {
        node: about.node_id.parse()?,
        driver: about.driver_name.clone(),
        controllers: controllers.at,
        controller_name: controllers.name,
        keys: Keys::of_node(controllers.files)?,
        token,
        timing: Timing::default(),
        pace: Dialling::default(),
    };
    Dialer::new(wanted)
}

/// Serves every controller on the connection that was dialled to it, until `stop`.
async fn dial(dialer: Arc<Dialer>, linked: Linked, stop: Stop) {
    let heard = stop.clone();
    let serve = move |welcomed: Welcomed<TcpStream>| {
        let (linked, heard) = (linked.clone(), heard.clone());
        async move { linked.serve(welcomed.stream, welcomed.gone.wait(), heard.wanted()).await }
    };
    dialer.run(serve, stop.wanted()).await;
}

/// What is shown over HTTP.
fn pages(endpoint: Endpoint, sources: Sources) -> Pages {
    let registered = sources.registered.clone();
    let unready = move || {
        let missing = registered.as_ref().is_some_and(|registered| !registered.load(Ordering::Relaxed));
        missing.then(|| "kubelet has not registered the driver yet".to_owned())
    };
    Pages { endpoint, metrics: of_node(sources), unready: Box::new(unready) }
}

/// What controllers are served.
fn linked(services: &Services, transfers: &Transfers, about: &About) -> Result<Linked> {
    let routes = Routes::new(services.controller())
        .add_service(services.group_controller())
        .add_service(services.snapshot_metadata())
        .add_service(services.link())
        .add_service(transfers.service());
    Ok(Linked::new(routes, &about.node_id.parse()?, Timing::default().ping))
}

/// What concerns this node alone, for kubelet.
fn own_routes(services: &Services) -> Routes {
    Routes::new(services.identity()).add_service(services.node())
}

/// Every service of CSI.
fn all_routes(services: &Services) -> Routes {
    Routes::new(services.identity())
        .add_service(services.controller())
        .add_service(services.group_controller())
        .add_service(services.snapshot_metadata())
        .add_service(services.node())
}

/// Threads of their own that send those of the pools off: none of them touches a disk. They end with the process.
fn upkeep(engine: &Arc<Engine>) -> Result<()> {
    every(engine, "reconnect", LOOK, |_| {}, Engine::reconnect)?;
    every(engine, "health", HEALTH, |_| {}, Engine::look_after_health)?;
    every(engine, "expire", EXPIRE, Engine::expire, Engine::expire)?;
    every(engine, "tend", TEND, Engine::tell_orphans, Engine::tend)
}

/// Does `first` once and `duty` after every pause.
fn every(
    engine: &Arc<Engine>,
    name: &str,
    pause: Duration,
    first: fn(&Arc<Engine>),
    duty: fn(&Arc<Engine>),
) -> Result<()> {
    let engine = Arc::downgrade(engine);
    let thread = std::thread::Builder::new().name(name.to_owned()).stack_size(STACK);
    let started = thread.spawn(move || {
        if let Some(engine) = engine.upgrade() {
            first(&engine);
        }
        loop {
            std::thread::sleep(pause);
            match engine.upgrade() {
                Some(engine) => duty(&engine),
                None => return,
            }
        }
    });
    started.map(drop).map_err(|error| Error::host(format!("failed to start the thread `{name}`"), error))
}
