//! The command line: what can be typed, and what it becomes.
//!
//! Owns: the words and defaults of every mode; each flag can also come from the environment. Never: does the work.

mod pool;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand};
use clap_complete::Shell;

use self::pool::PoolVerb;
use crate::config::{self, Endpoint};
use crate::csi::About;
use crate::ctl::{self, Ctl};
use crate::engine::{EngineConfig, Files};
use crate::error::{Result, chain};
use crate::serve::{LogFormat, LogLevel};
use crate::standalone::{self, Standalone};

/// Where the pool file lies unless a flag says otherwise.
pub const CONFIG: &str = "/etc/rockpool/config.toml";
/// Where the driver keeps notes unless a flag says otherwise.
const STATE_DIR: &str = "/var/lib/rockpool";

/// Storage that is local to a node, for Kubernetes, Nomad and anything else that speaks CSI.
#[derive(Parser, Debug)]
#[command(name = "rockpool", version, propagate_version = true, max_term_width = 110)]
pub struct Cli {
    #[command(subcommand)]
    mode: Mode,
}

/// What to be.
#[derive(Subcommand, Debug)]
enum Mode {
    /// Serve every CSI service of this machine on one unix socket.
    Standalone(StandaloneFlags),
    /// Prepare pools and look at them.
    #[command(subcommand)]
    Pool(PoolVerb),
    /// Look at the configuration.
    #[command(subcommand)]
    Config(ConfigVerb),
    /// Speak CSI to any driver's socket by hand.
    Ctl(Box<Ctl>),
    /// Print the completions of a shell, like `source <(rockpool completions bash)`.
    Completions {
        /// For which shell.
        shell: Shell,
    },
}

/// What to do with the configuration.
#[derive(Subcommand, Debug)]
enum ConfigVerb {
    /// Say everything that is wrong with a pool file; exit code 1 where something is.
    Check {
        #[command(flatten)]
        file: ConfigFile,
    },
}

/// The pool file.
#[derive(Args, Clone, Debug)]
pub struct ConfigFile {
    /// The pool file.
    #[arg(long, env = "ROCKPOOL_CONFIG", value_name = "FILE", default_value = CONFIG)]
    pub config: PathBuf,
}

/// Flags of `rockpool standalone`, as typed.
#[derive(Args, Debug)]
struct StandaloneFlags {
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

    /// This node's name as the orchestrator knows it; without it the host name.
    #[arg(long, env = "ROCKPOOL_NODE_ID", value_name = "NODE")]
    node_id: Option<String>,

    /// Kubelet's directory (or the client directory of another orchestrator): staging and target paths must lie below it.
    #[arg(long, env = "ROCKPOOL_KUBELET_ROOT", value_name = "DIR", default_value = "/var/lib/kubelet")]
    kubelet_root: PathBuf,

    /// Where notes about mounts are kept.
    #[arg(long, env = "ROCKPOOL_STATE_DIR", value_name = "DIR", default_value = STATE_DIR)]
    state_dir: PathBuf,

    /// The driver's name: it ends up in every object that refers to a volume.
    #[arg(long, env = "ROCKPOOL_DRIVER_NAME", value_name = "NAME", default_value = "csi.rockpool.dev")]
    driver_name: String,

    /// Register with kubelet in this directory, like /var/lib/kubelet/plugins_registry; without it no registration.
    #[arg(long, env = "ROCKPOOL_KUBELET_REGISTRATION_DIR", value_name = "DIR")]
    kubelet_registration_dir: Option<PathBuf>,

    /// The most volumes that may be published on this node; 0: no limit.
    #[arg(long, env = "ROCKPOOL_MAX_VOLUMES", value_name = "N", default_value_t = 0)]
    max_volumes: u32,

    /// How log lines are written.
    #[arg(long, env = "ROCKPOOL_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,

    /// From which level on there is a log line.
    #[arg(long, env = "ROCKPOOL_LOG_LEVEL", value_enum, default_value_t = LogLevel::Info)]
    log_level: LogLevel,
}

impl StandaloneFlags {
    /// As meant.
    fn check(&self) -> Result<Standalone> {
        let node_id = self.node_id.clone().unwrap_or_else(config::host_name);
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
        Ok(Standalone {
            endpoint: self.endpoint.clone(),
            admin: config::admin_endpoint(self.admin_endpoint.as_deref(), &state_dir)?,
            about,
            registration_socket,
            engine: EngineConfig {
                kubelet_root: config::kubelet_root(&self.kubelet_root)?,
                state_dir,
                pools: config::read(&self.file.config)?,
                files: Files::Apart,
            },
        })
    }
}

/// Does what was typed.
pub fn run(cli: Cli) -> ExitCode {
    let outcome = match cli.mode {
        Mode::Ctl(ctl) => return ctl::run(&ctl),
        Mode::Standalone(flags) => flags.check().and_then(|config| {
            crate::serve::start_log(flags.log_format, flags.log_level);
            standalone::run(config)
        }),
        Mode::Pool(verb) => pool::run(&verb),
        Mode::Config(ConfigVerb::Check { file }) => check(&file),
        Mode::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "rockpool", &mut script);
            ctl::answer::print_text(&script)
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("rockpool: {}", chain(&error));
            ExitCode::FAILURE
        }
    }
}

fn check(file: &ConfigFile) -> Result<()> {
    let pools = config::read(&file.config)?;
    let names: Vec<&str> = pools.iter().map(|pool| pool.setup.name.as_str()).collect();
    println!("{}: good: {} ({})", file.config.display(), names.join(", "), names.len());
    Ok(())
}
