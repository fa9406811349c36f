//! The command line: what can be typed, and what it becomes.
//!
//! Owns: the words and defaults of every mode; each flag can also come from the environment. Never: does the work.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand};
use clap_complete::Shell;

use crate::config;
use crate::ctl::{self, Ctl};
use crate::error::{Result, chain};

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

/// Does what was typed.
pub fn run(cli: Cli) -> ExitCode {
    let outcome = match cli.mode {
        Mode::Ctl(ctl) => return ctl::run(&ctl),
        Mode::Config(ConfigVerb::Check { file }) => check(&file),
        Mode::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "rockpool", &mut std::io::stdout());
            Ok(())
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
