//! The flags of the modes that serve.
//!
//! Owns: their words, and what they mean together. Never: opens anything.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;

use super::link::{ClusterFlags, ControllerKeys, NodeKeys};
use super::{ConfigFile, HereFlags};
use crate::cluster::transfer::Terms;
use crate::config::{self, Admin, Endpoint};
use crate::controller::{Around, Controller};
use crate::csi::{About, check_driver_name};
use crate::engine::{EngineConfig, Files};
use crate::error::{Error, Result};
use crate::model::Features;
use crate::node::{Controllers, Node};
use crate::pool::Kind;
use crate::serve::{LogFormat, LogLevel, start_log};

/// Where the driver keeps notes unless a flag says otherwise.
pub(super) const STATE_DIR: &str = "/var/lib/rockpool";
/// The driver's name unless a flag says otherwise.
const DRIVER_NAME: &str = "csi.rockpool.dev";
/// The name in the controllers' certificates unless a flag says otherwise.
const CONTROLLER_NAME: &str = "rockpool-controller";

/// How the log looks.
#[derive(Args, Debug)]
pub(super) struct LogFlags {
    /// How log lines are written.
    #[arg(long, env = "ROCKPOOL_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,

    /// From which level on there is a log line.
    #[arg(long, env = "ROCKPOOL_LOG_LEVEL", value_enum, default_value_t = LogLevel::Info)]
    log_level: LogLevel,
}

impl LogFlags {
    /// From here on there are log lines.
    pub(super) fn start(&self) {
        start_log(self.log_format, self.log_level);
    }
}

/// Where health and metrics are.
#[derive(Args, Clone, Debug)]
pub(super) struct HttpFlags {
    /// Serve /healthz, /readyz and /metrics over HTTP here; without it nowhere.
    #[arg(long, env = "ROCKPOOL_HTTP_LISTEN", value_name = "ADDRESS:PORT")]
    http_listen: Option<String>,
}

impl HttpFlags {
    /// As meant.
    fn check(&self) -> Result<Option<SocketAddr>> {
        self.http_listen.as_deref().map(|text| address("--http-listen", text, 9808)).transpose()
    }
}

/// An address to listen on.
fn address(flag: &'static str, text: &str, usual: u16) -> Result<SocketAddr> {
    let want = format!("want ADDRESS:PORT, like [::]:{usual} for all addresses");
    text.parse().map_err(|_| Error::invalid(flag, text, want))
}

/// What is advertised in a cluster.
#[derive(Args, Clone, Debug)]
pub(super) struct OfferFlags {
    /// The kinds of pools in the cluster, the same on every node and controller: what they can do is advertised by each,
    /// whichever pools it has or knows of.
    #[arg(
        long,
        env = "ROCKPOOL_POOL_KINDS",
        value_name = "KIND",
        value_delimiter = ',',
        default_value = "image,directory"
    )]
    pool_kinds: Vec<Kind>,
}

impl OfferFlags {
    /// What any of them can do.
    fn features(&self) -> Result<Features> {
        let kinds = self.pool_kinds.iter().map(|kind| kind.features());
        kinds.reduce(Features::union).ok_or_else(|| {
            Error::Invalid("--pool-kinds is empty: want `image`, `directory` or both".to_owned())
        })
    }
}

/// Flags of a process that has pools.
#[derive(Args, Debug)]
pub(super) struct NodeFlags {
    #[command(flatten)]
    file: ConfigFile,

    /// The socket to serve on.
    #[arg(
        long,
        env = "CSI_ENDPOINT",
        value_name = "ENDPOINT",
        default_value = "unix:///run/rockpool/csi.sock"
    )]
    endpoint: Endpoint,

    /// The socket for `rockpool ctl retained` and `doctor`: a path, or `off`; without it admin/admin.sock in the state directory.
    #[arg(long, env = "ROCKPOOL_ADMIN_ENDPOINT", value_name = "ENDPOINT")]
    admin_endpoint: Option<String>,

    #[command(flatten)]
    here: HereFlags,

    /// Kubelet's directory (or the client directory of another orchestrator): staging and target paths must lie below it.
    #[arg(long, env = "ROCKPOOL_KUBELET_ROOT", value_name = "DIR", default_value = "/var/lib/kubelet")]
    kubelet_root: PathBuf,

    /// Where notes about mounts are kept.
    #[arg(long, env = "ROCKPOOL_STATE_DIR", value_name = "DIR", default_value = STATE_DIR)]
    state_dir: PathBuf,

    /// The driver's name: it ends up in every object that refers to a volume.
    #[arg(long, env = "ROCKPOOL_DRIVER_NAME", value_name = "NAME", default_value = DRIVER_NAME)]
    driver_name: String,

    /// Register with kubelet in this directory, like /var/lib/kubelet/plugins_registry; without it no registration.
    #[arg(long, env = "ROCKPOOL_KUBELET_REGISTRATION_DIR", value_name = "DIR")]
    kubelet_registration_dir: Option<PathBuf>,

    /// The most volumes that may be published on this node; 0: no limit.
    #[arg(long, env = "ROCKPOOL_MAX_VOLUMES", value_name = "N", default_value_t = 0)]
    max_volumes: u32,

    #[command(flatten)]
    http: HttpFlags,

    /// Metrics of each volume, too, with its id and claim as labels: a row for each, which monitoring has to take.
    #[arg(long, env = "ROCKPOOL_VOLUME_METRICS")]
    volume_metrics: bool,

    #[command(flatten)]
    pub(super) log: LogFlags,
}

impl NodeFlags {
    /// As meant.
    pub(super) fn check(&self) -> Result<Node> {
        let here = self.here.check()?;
        let node_id = here.node.clone();
        let about = About {
            driver_name: self.driver_name.clone(),
            node_id,
            max_volumes: i64::from(self.max_volumes),
        };
        about.check()?;
        let registration_socket = match &self.kubelet_registration_dir {
            Some(dir) => {
                let dir = config::directory("--kubelet-registration-dir", dir)?;
                Some(config::registration_socket(&dir, &self.driver_name)?)
            }
            None => None,
        };
        let state_dir = config::directory("--state-dir", &self.state_dir)?;
        let pools = config::read_as(&self.file.config, &here)?;
        Ok(Node {
            endpoint: self.endpoint.clone(),
            admin: config::admin_endpoint(self.admin_endpoint.as_deref(), &state_dir)?,
            about,
            registration_socket,
            http: self.http.check()?,
            volume_metrics: self.volume_metrics,
            poolless: pools.why_none(),
            engine: EngineConfig {
                kubelet_root: config::kubelet_root(&self.kubelet_root)?,
                state_dir,
                pools: pools.all,
                files: Files::Apart,
            },
            offered: None,
            controllers: None,
        })
    }
}

/// Flags of `rockpool node`.
#[derive(Args, Debug)]
pub(super) struct LinkedFlags {
    #[command(flatten)]
    pub(super) node: NodeFlags,

    /// Where the controllers are: HOST:PORT, once or more; every address that a name has is dialled.
    #[arg(
        long,
        env = "ROCKPOOL_CONTROLLER",
        value_name = "HOST:PORT",
        required = true,
        value_delimiter = ','
    )]
    controller: Vec<String>,

    /// The name in the controllers' certificates.
    #[arg(long, env = "ROCKPOOL_CONTROLLER_NAME", value_name = "NAME", default_value = CONTROLLER_NAME)]
    controller_name: String,

    /// Where other nodes reach this one, a name or an address: they send volumes there that are restored or cloned from one
    /// node to another. Without it this node takes none.
    #[arg(long, env = "ROCKPOOL_TRANSFER_ADDRESS", value_name = "HOST")]
    transfer_address: Option<String>,

    /// How many bytes this node sends to other nodes in a second, in all; 0: no limit.
    #[arg(long, env = "ROCKPOOL_TRANSFER_RATE", value_name = "BYTES", default_value_t = 0)]
    transfer_rate: u64,

    #[command(flatten)]
    offer: OfferFlags,

    #[command(flatten)]
    keys: NodeKeys,
}

impl LinkedFlags {
    /// As meant.
    pub(super) fn check(&self) -> Result<Node> {
        let address = self.transfer_address.as_deref().map(config::transfer_address).transpose()?;
        let controllers = Controllers {
            at: self.controller.clone(),
            name: self.controller_name.clone(),
            files: self.keys.check()?,
            transfers: Terms { address, rate: self.transfer_rate },
        };
        let offered = Some(self.offer.features()?);
        Ok(Node { controllers: Some(controllers), offered, ..self.node.check()? })
    }
}

/// Flags of `rockpool controller`.
#[derive(Args, Debug)]
pub(super) struct ControllerFlags {
    /// The socket to serve the sidecars on.
    #[arg(
        long,
        env = "CSI_ENDPOINT",
        value_name = "ENDPOINT",
        default_value = "unix:///run/rockpool/csi.sock"
    )]
    endpoint: Endpoint,

    /// The socket for `rockpool ctl nodes` and `pool`; without it there is none.
    #[arg(long, env = "ROCKPOOL_ADMIN_ENDPOINT", value_name = "ENDPOINT")]
    admin_endpoint: Option<Endpoint>,

    /// The address to which nodes connect.
    #[arg(long, env = "ROCKPOOL_LISTEN", value_name = "ADDRESS:PORT", default_value = "[::]:7430")]
    listen: String,

    /// The driver's name: that of its nodes.
    #[arg(long, env = "ROCKPOOL_DRIVER_NAME", value_name = "NAME", default_value = DRIVER_NAME)]
    driver_name: String,

    #[command(flatten)]
    offer: OfferFlags,

    #[command(flatten)]
    keys: ControllerKeys,

    #[command(flatten)]
    cluster: ClusterFlags,

    #[command(flatten)]
    http: HttpFlags,

    #[command(flatten)]
    pub(super) log: LogFlags,
}

impl ControllerFlags {
    /// As meant.
    pub(super) fn check(&self) -> Result<Controller> {
        let listen = address("--listen", &self.listen, 7430)?;
        check_driver_name(&self.driver_name)?;
        let around = self.cluster.check()?;
        let admin = self.admin_endpoint.clone().map_or(Admin::Off, Admin::Asked);
        Ok(Controller {
            endpoint: self.endpoint.clone(),
            listen,
            http: self.http.check()?,
            driver: self.driver_name.clone(),
            features: self.offer.features()?,
            files: self.keys.check(matches!(around, Around::Kubernetes(_)))?,
            around,
            admin,
        })
    }
}
