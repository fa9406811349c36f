//! `rockpool standalone`: a process, no cluster, no network, every CSI service on one socket, operators on another.
//!
//! Owns: the order of a start and of an end. Never: binds before the pools are open: what is misconfigured never answers.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tonic::service::Routes;

use crate::config::{Admin, Endpoint};
use crate::csi::{About, Services};
use crate::engine::{Engine, EngineConfig};
use crate::error::{Error, Result};
use crate::kubelet::{Pace, Registrar};
use crate::serve::{Socket, Stop, serve};

/// What it was told, checked.
#[derive(Clone, Debug)]
pub struct Standalone {
    /// Where CSI is served.
    pub endpoint: Endpoint,
    /// Where operators are served.
    pub admin: Admin,
    /// The names under which it appears.
    pub about: About,
    /// The socket for registration with kubelet; none: no registration.
    pub registration_socket: Option<PathBuf>,
    /// For the engine.
    pub engine: EngineConfig,
}

/// The runtime only moves messages; the work is done on the pools' own threads.
const THREADS: usize = 1;
const STACK: usize = 256 << 10;
/// How often pools that vanished or came back are looked for.
const LOOK: Duration = Duration::from_secs(5);
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
pub fn run(config: Standalone) -> Result<()> {
    let begun = Instant::now();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(THREADS)
        .max_blocking_threads(THREADS)
        .thread_stack_size(STACK)
        .enable_all()
        .build()
        .map_err(|error| Error::host("failed to start the runtime", error))?;
    let served = runtime.block_on(async {
        let stop = Stop::on_signals()?;
        let engine = Engine::open(config.engine)?;
        upkeep(&engine)?;
        let services = Services::new(Arc::clone(&engine), config.about.clone())?;
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
        let registering = config.registration_socket.map(|socket| {
            let registrar = Registrar {
                driver: config.about.driver_name.clone(),
                endpoint: config.endpoint.clone(),
                socket,
                pace: Pace::default(),
            };
            tokio::spawn(registrar.run(stop.clone()))
        });
        let csi = serve(socket, routes(&services), stop.wanted());
        let operators = async {
            match admin {
                Some((_, socket)) => serve(socket, Routes::new(services.admin()), stop.wanted()).await,
                None => Ok(()),
            }
        };
        let served = tokio::try_join!(csi, operators).map(drop);
        if let Some(registering) = registering {
            if served.is_err() {
                // No signal has come that would end it.
                registering.abort();
            }
            // Else it hears the same signal; in both cases its socket has to go before the process does.
            let _ = registering.await;
        }
        served
    });
    runtime.shutdown_timeout(LAST);
    tracing::info!("stopped");
    served
}

/// The socket for operators, where there is to be one and it can be.
fn admin(wanted: &Admin) -> Result<Option<(Endpoint, Socket)>> {
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

/// Every service on one socket.
fn routes(services: &Services) -> Routes {
    Routes::new(services.identity())
        .add_service(services.controller())
        .add_service(services.group_controller())
        .add_service(services.snapshot_metadata())
        .add_service(services.node())
}

/// Threads of their own that send those of the pools off: none of them touches a disk. They end with the process.
fn upkeep(engine: &Arc<Engine>) -> Result<()> {
    every(engine, "reconnect", LOOK, |_| {}, Engine::reconnect)?;
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
