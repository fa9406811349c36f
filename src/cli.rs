//! The command line: what can be typed, and what it becomes.
//!
//! Owns: the words and defaults of every mode; each flag can also come from the environment. Never: does the work.

mod link;
mod modes;
mod pool;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand};
use clap_complete::Shell;

use self::modes::{ControllerFlags, LinkedFlags, NodeFlags};
use self::pool::PoolVerb;
use crate::config::{self, Here};
use crate::controller;
use crate::ctl::{self, Ctl};
use crate::error::{Result, chain, quoted};
use crate::node::{self, Node};

/// Where the pool file lies unless a flag says otherwise.
pub const CONFIG: &str = "/etc/rockpool/config.toml";

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
    Standalone(NodeFlags),
    /// Serve this machine's volumes to kubelet on a unix socket, and its pools to the cluster's controllers.
    Node(LinkedFlags),
    /// Serve the CSI of a cluster on one unix socket: each call goes to the node that it concerns. Has no pools.
    Controller(ControllerFlags),
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

        #[command(flatten)]
        here: HereFlags,
    },
}

/// As which node the pool file is read.
#[derive(Args, Clone, Debug)]
pub struct HereFlags {
    /// This node's name as the orchestrator knows it; without it the host name.
    #[arg(long, env = config::NODE_ID, value_name = "NODE")]
    node_id: Option<String>,

    /// A label of this node, for the `[[override]]` entries of the pool file; once or more.
    #[arg(long, env = config::NODE_LABELS, value_name = "KEY=VALUE", value_delimiter = ',')]
    node_label: Vec<String>,
}

impl HereFlags {
    /// As meant.
    fn check(&self) -> Result<Here> {
        Here::new(self.node_id.clone().unwrap_or_else(config::host_name), &self.node_label)
    }
}

/// The pool file.
#[derive(Args, Clone, Debug)]
pub struct ConfigFile {
    /// The pool file.
    #[arg(long, env = "ROCKPOOL_CONFIG", value_name = "FILE", default_value = CONFIG)]
    pub config: PathBuf,
}

/// Does what was typed.
pub fn run(cli: Cli) -> ExitCode {
    let outcome = match cli.mode {
        Mode::Ctl(ctl) => return ctl::run(&ctl),
        Mode::Standalone(flags) => flags.check().and_then(|config| serve(&flags, config)),
        Mode::Node(flags) => flags.check().and_then(|config| serve(&flags.node, config)),
        Mode::Controller(flags) => flags.check().and_then(|config| {
            flags.log.start();
            controller::run(config)
        }),
        Mode::Pool(verb) => pool::run(&verb),
        Mode::Config(ConfigVerb::Check { file, here }) => check(&file, &here),
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

fn serve(flags: &NodeFlags, config: Node) -> Result<()> {
    flags.log.start();
    node::run(config)
}

fn check(file: &ConfigFile, here: &HereFlags) -> Result<()> {
    let here = here.check()?;
    let pools = config::read_as(&file.config, &here)?;
    let names: Vec<&str> = pools.all.iter().map(|pool| pool.setup.name.as_str()).collect();
    let said = match pools.why_none() {
        Some(why) => format!("no pool on node {}: {why}", quoted(&here.node)),
        None => names.join(", "),
    };
    println!("{}: good: {said} ({})", file.config.display(), names.len());
    Ok(())
}
