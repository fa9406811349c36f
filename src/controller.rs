//! `rockpool controller`: the process that has no pools, and serves one CSI socket for all nodes.
//!
//! Owns: the order of a start and of an end. Never: keeps anything on disk but which pools were declared lost, and that only where
//! there is no Kubernetes: what else it knows, its nodes have told it.

mod book;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::ServerConfig;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tonic::service::Routes;

use crate::cluster::audit::{self, Audit};
use crate::cluster::auth::Tokens;
use crate::cluster::kubernetes::Kubernetes;
use crate::cluster::link::controller::Desk;
use crate::cluster::link::{ControllerFiles, Keys, Timing};
use crate::cluster::lost::{ConfigMap, Keeper, Lost};
use crate::cluster::operators::Operators;
use crate::cluster::roster::{Roster, Source};
use crate::cluster::router::{Ground, Patience, Router};
use crate::config::{Admin, Endpoint};
use crate::error::{Error, Result, chain};
use crate::metrics::of_controller;
use crate::model::Features;
use crate::node;
use crate::serve::{Http, Pages, STACK, Socket, Stop, Width, serve};

/// What it was told, checked.
#[derive(Clone, Debug)]
pub struct Controller {
    /// Where CSI is served.
    pub endpoint: Endpoint,
    /// Where nodes dial in.
    pub listen: SocketAddr,
    /// Where health and metrics are served over HTTP; none: nowhere.
    pub http: Option<SocketAddr>,
    /// The driver's name.
    pub driver: String,
    /// What the pools of the cluster can do: what is advertised, before any node is there.
    pub features: Features,
    /// What it proves itself with to nodes, and whom it trusts.
    pub files: ControllerFiles,
    /// Who knows what nodes cannot tell.
    pub around: Around,
    /// Where operators are served.
    pub admin: Admin,
}

/// Who knows which nodes there are and which pools are lost.
#[derive(Clone, Debug)]
pub enum Around {
    /// The Kubernetes API, which also knows whose tokens are whose.
    Kubernetes(InKubernetes),
    /// Files, or nobody.
    Files {
        /// Which nodes there are.
        nodes: Option<PathBuf>,
        /// Which pools are lost.
        lost: Option<PathBuf>,
    },
}

/// What the Kubernetes API is asked about.
#[derive(Clone, Debug)]
pub struct InKubernetes {
    /// Where the driver's own objects are.
    pub namespace: String,
    /// The ServiceAccount of its nodes.
    pub account: String,
    /// The ConfigMap that says which pools are lost.
    pub configmap: Option<String>,
    /// After which the pools of a deleted node are lost.
    pub grace: Duration,
    /// What is compared and told there.
    pub audit: audit::Terms,
}

/// One for the sidecars, one for a handshake that takes long.
const THREADS: usize = 2;
/// What still runs on the runtime when everything has ended.
const LAST: Duration = Duration::from_millis(200);

/// Serves until a signal, and drains.
///
/// # Errors
/// Whatever keeps it from serving.
pub fn run(config: Controller) -> Result<()> {
    let begun = Instant::now();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(THREADS)
        .max_blocking_threads(1)
        .thread_stack_size(STACK)
        .enable_all()
        .build()
        .map_err(|error| Error::host("failed to start the runtime", error))?;
    let served = runtime.block_on(async {
        let stop = Stop::on_signals()?;
        let http = config.http.map(Http::bind).transpose()?;
        let keys = Keys::of_controller(config.files.clone())?;
        let (desk, ground) = found(&config, keys).await?;
        let listener = TcpListener::bind(config.listen)
            .await
            .map_err(|error| Error::host(format!("failed to listen on {}", config.listen), error))?;
        let listen = listener.local_addr().unwrap_or(config.listen);
        let roster = Arc::clone(&ground.roster);
        let api = ground.kubernetes.clone();
        let router = Router::new(ground, config.driver.clone(), config.features.clone(), Patience::default());
        let audit = audited(&config, api, &router);
        let admin = node::admin(&config.admin)?;
        let socket = Socket::bind(config.endpoint.path())?;
        if let Some(http) = http {
            let metrics = of_controller(Arc::clone(&desk), router.clone(), audit.clone());
            http.serve(Pages { endpoint: config.endpoint.clone(), metrics, unready: Box::new(|| None) })?;
        }
        // They end with the process.
        let mut beside = JoinSet::new();
        beside.spawn(Arc::clone(&desk).listen(listener));
        beside.spawn(router.clone().follow());
        beside.spawn(router.clone().tend());
        beside.spawn(roster.follow());
        if let Some(audit) = audit.clone() {
            beside.spawn(async move {
                if let Err(error) = audit.follow().await {
                    tracing::error!(error = chain(&error), "nothing is compared and told in Kubernetes");
                }
            });
        }
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            driver = config.driver,
            endpoint = %config.endpoint,
            %listen,
            start_ms = begun.elapsed().as_millis(),
            "serving"
        );
        let csi = serve(socket, routes(&router), Width::CLUSTER, stop.wanted());
        let operators = async {
            let Some((_, socket)) = admin else { return Ok(()) };
            let operators = Operators::new(router.clone(), Arc::clone(&desk));
            serve(socket, Routes::new(operators.cluster()), Width::NODE, stop.wanted()).await
        };
        let served = tokio::try_join!(csi, operators).map(drop);
        if let Some(audit) = audit {
            audit.part().await;
        }
        beside.abort_all();
        desk.part();
        served
    });
    runtime.shutdown_timeout(LAST);
    tracing::info!("stopped");
    served
}

/// What lets nodes in, and what is known without them.
async fn found(config: &Controller, keys: Keys<ServerConfig>) -> Result<(Arc<Desk>, Ground)> {
    let desk = Desk::new(config.driver.clone(), keys, Timing::default());
    let (desk, source, keeper, kubernetes): (_, _, Option<Box<dyn Keeper>>, _) = match &config.around {
        Around::Kubernetes(within) => {
            let api = Kubernetes::of_environment().await?;
            let InKubernetes { namespace, account, configmap, grace, audit: _ } = within;
            let tokens = Tokens::new(api.clone(), config.driver.clone(), namespace, account);
            let source = Source::Kubernetes(api.clone(), config.driver.clone());
            let keeper = configmap.as_ref().map(|name| ConfigMap::new(api.clone(), namespace, name));
            let keeper = keeper.map(|keeper| Box::new(keeper) as Box<dyn Keeper>);
            (desk.with_tokens(Arc::new(tokens)), Some((source, *grace)), keeper, Some(api))
        }
        Around::Files { nodes, lost } => {
            let keeper = lost.as_ref().map(|path| book::File::new(path)).transpose()?;
            let keeper = keeper.map(|keeper| Box::new(keeper) as Box<dyn Keeper>);
            (desk, nodes.clone().map(|path| (Source::File(path), Duration::ZERO)), keeper, None)
        }
    };
    if let Some((source, _)) = &source {
        source.check()?;
    }
    let ground = Ground {
        links: Arc::clone(desk.links()),
        known: Arc::default(),
        roster: Arc::new(source.map_or_else(Roster::default, |(source, grace)| Roster::new(source, grace))),
        lost: Arc::new(keeper.map_or_else(Lost::default, Lost::new)),
        kubernetes,
    };
    Ok((Arc::new(desk), ground))
}

/// What compares and tells, where there is a Kubernetes to tell.
fn audited(config: &Controller, api: Option<Kubernetes>, router: &Router) -> Option<Arc<Audit>> {
    let Around::Kubernetes(within) = &config.around else { return None };
    Some(Arc::new(Audit::new(api?, router.clone(), &config.driver, within.audit.clone())))
}

/// All of CSI but what concerns one node.
fn routes(router: &Router) -> Routes {
    Routes::new(router.identity())
        .add_service(router.controller())
        .add_service(router.group_controller())
        .add_service(router.snapshot_metadata())
}
