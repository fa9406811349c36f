//! `rockpool ctl`: the whole life of a volume by hand, against any CSI socket.
//!
//! Owns: the words of the command line, and what a person or a script reads back. Never: assumes that the driver at the
//! other end is ours: what it can do is asked first, and what it lacks is said by name. Only the nouns that CSI does not
//! know (`retained`, `transfer`, `doctor`, `support-bundle`, `nodes`, `pool`, `why`) speak to our own driver, on its admin socket, look at pools
//! themselves, or ask Kubernetes.
//!
//! Field names of `-o json` are those of the CSI messages, and exit codes follow the gRPC codes; both are stable.

pub(crate) mod answer;
mod args;
mod bundle;
mod capacity;
mod cluster;
mod doctor;
mod driver;
mod errand;
mod failure;
mod group;
mod moved;
mod node;
mod plugin;
mod retained;
mod snapshot;
mod staging;
mod transfer;
mod volume;
mod why;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};

use self::answer::Answer;
pub use self::answer::Format;
use self::driver::Driver;
use self::failure::{Failure, Outcome};
use crate::config::Endpoint;
use crate::error::Error;

/// The end of `--help`: what scripts build on.
const EXIT_CODES: &str = "\
Exit codes:
  0   done
  1   another failure; also `volume validate` (not confirmed), `plugin probe` (not ready),
      `why` (something is wrong, or it is not known why)
  2   wrong usage
  3   `doctor` found something that somebody should look at, and nothing worse
  4   `doctor` found something that does not work, or data at stake
  10 + the gRPC code where the driver refused or cannot do it:
      11 CANCELLED          13 INVALID_ARGUMENT     14 DEADLINE_EXCEEDED   15 NOT_FOUND
      16 ALREADY_EXISTS     17 PERMISSION_DENIED    18 RESOURCE_EXHAUSTED  19 FAILED_PRECONDITION
      20 ABORTED            21 OUT_OF_RANGE         22 UNIMPLEMENTED       23 INTERNAL
      24 UNAVAILABLE (also: nobody answers at the socket)
Errors are one line on stderr: the code, the driver's message, the cause.
Field names of `-o json` are those of the CSI messages.";

/// The admin socket of a driver that was told no other state directory.
const ADMIN: &str = "unix:///var/lib/rockpool/admin/admin.sock";

/// Speak CSI to any driver's socket: volumes, snapshots, groups, capacity and health by hand.
#[derive(Args, Debug)]
#[command(after_help = EXIT_CODES)]
pub struct Ctl {
    /// The driver's socket: unix:///path or a plain absolute path.
    #[arg(long, env = "CSI_ENDPOINT", global = true, value_name = "ENDPOINT")]
    endpoint: Option<Endpoint>,

    /// Our own driver's admin socket, for what CSI cannot say; without it the one in /var/lib/rockpool. `pool moved` and `why` ask only one that is named.
    #[arg(long, env = "ROCKPOOL_ADMIN_ENDPOINT", global = true, value_name = "ENDPOINT")]
    admin_endpoint: Option<Endpoint>,

    /// How to print answers.
    #[arg(short, long, value_enum, default_value_t = Format::Table, global = true)]
    output: Format,

    /// A file with the secrets that the driver wants: one KEY=VALUE a line, `#` starts a comment.
    #[arg(long, global = true, value_name = "FILE")]
    secrets_file: Option<PathBuf>,

    /// Give up on a call after this many seconds, on `doctor` after this many without a sign of life.
    #[arg(long, global = true, value_name = "SECONDS", default_value_t = 120)]
    timeout: u64,

    #[command(subcommand)]
    noun: Noun,
}

/// What it is about.
#[derive(Subcommand, Debug)]
enum Noun {
    #[command(flatten)]
    Csi(CsiNoun),
    /// The nodes of a controller: who is connected, who ought to be, who was refused (our own driver only).
    Nodes(cluster::Nodes),
    /// The pools of a cluster, and those that are lost (our own controller only).
    #[command(subcommand)]
    Pool(cluster::Verb),
    /// What was deleted and is still kept: list, restore, purge (our own driver only).
    #[command(subcommand)]
    Retained(retained::Verb),
    /// Volumes on their way from one node to another (our own driver only).
    #[command(subcommand)]
    Transfer(transfer::Verb),
    /// Say why a PersistentVolumeClaim is not bound or not used, and what would mend that: in Kubernetes, by your own rights.
    Why(why::Why),
    /// Say what is wrong with pools and host, and mend it: of a running driver, or of pools that no driver has.
    Doctor(doctor::Doctor),
    /// Write one file with all that a bug report needs, and nothing secret.
    SupportBundle(bundle::Bundle),
}

/// What any CSI driver knows.
#[derive(Subcommand, Debug)]
enum CsiNoun {
    /// Who the driver is, what it can do, whether it is well.
    #[command(subcommand)]
    Plugin(plugin::Verb),
    /// Volumes: create, grow, delete, and their use on a node.
    #[command(subcommand)]
    Volume(volume::Verb),
    /// Snapshots of one volume.
    #[command(subcommand)]
    Snapshot(snapshot::Verb),
    /// Snapshots of several volumes at one moment.
    #[command(subcommand)]
    Group(group::Verb),
    /// The node that the driver runs on.
    #[command(subcommand)]
    Node(node::Verb),
    /// How much can still be made.
    Capacity(capacity::Capacity),
}

impl Ctl {
    /// The admin socket that was named, or else the usual one.
    fn admin(&self) -> Outcome<Endpoint> {
        let usual = || ADMIN.parse().map_err(|error: Error| Failure::Usage(error.to_string()));
        self.admin_endpoint.clone().map_or_else(usual, Ok)
    }

    fn format(&self) -> Format {
        match &self.noun {
            Noun::Doctor(doctor) if doctor.json => Format::Json,
            Noun::Nodes(nodes) if nodes.json => Format::Json,
            Noun::Pool(verb) if verb.is_json() => Format::Json,
            Noun::Nodes(_) | Noun::Pool(_) => self.output,
            Noun::Csi(_)
            | Noun::Retained(_)
            | Noun::Transfer(_)
            | Noun::Doctor(_)
            | Noun::Why(_)
            | Noun::SupportBundle(_) => self.output,
        }
    }
}

/// Runs one command and prints its answer or its failure.
pub fn run(ctl: &Ctl) -> ExitCode {
    let outcome = runtime().and_then(|runtime| runtime.block_on(answer(ctl)));
    match outcome.and_then(|answer| answer.print(ctl.format()).map(|()| answer.exit())) {
        Ok(exit) => exit,
        Err(failure) => {
            answer::say(&failure);
            failure.exit()
        }
    }
}

fn runtime() -> Outcome<tokio::runtime::Runtime> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| Failure::Other(format!("failed to start the runtime: {error}")))
}

async fn answer(ctl: &Ctl) -> Outcome<Answer> {
    let timeout = Duration::from_secs(ctl.timeout);
    match &ctl.noun {
        Noun::Csi(noun) => ask_driver(ctl, noun, timeout).await,
        Noun::SupportBundle(bundle) => bundle::run(&ctl.admin()?, timeout, bundle).await,
        Noun::Doctor(doctor) => doctor::run(&ctl.admin()?, timeout, doctor).await,
        Noun::Nodes(_) => cluster::nodes(driver::cluster(&ctl.admin()?, timeout).await?).await,
        Noun::Pool(verb) => cluster::pool(ctl, timeout, verb).await,
        // As `pool moved` it asks only a controller that was named.
        Noun::Why(why) => why::run(why, ctl.admin_endpoint.as_ref(), timeout).await,
        Noun::Transfer(verb) => transfer::run(driver::admin(&ctl.admin()?, timeout).await?, verb).await,
        Noun::Retained(verb) => retained::run(driver::admin(&ctl.admin()?, timeout).await?, verb).await,
    }
}

async fn ask_driver(ctl: &Ctl, noun: &CsiNoun, timeout: Duration) -> Outcome<Answer> {
    let endpoint = ctl.endpoint.as_ref().ok_or_else(|| {
        Failure::Usage(
            "--endpoint or CSI_ENDPOINT is missing: want the driver's socket, like unix:///run/csi.sock"
                .into(),
        )
    })?;
    let secrets = ctl.secrets_file.as_deref().map(args::read_secrets).transpose()?.unwrap_or_default();
    let driver = Driver::connect(endpoint, timeout, secrets).await?;
    match noun {
        CsiNoun::Plugin(verb) => plugin::run(&driver, verb).await,
        CsiNoun::Volume(verb) => volume::run(&driver, verb).await,
        CsiNoun::Snapshot(verb) => snapshot::run(&driver, verb).await,
        CsiNoun::Group(verb) => group::run(&driver, verb).await,
        CsiNoun::Node(verb) => node::run(&driver, verb).await,
        CsiNoun::Capacity(capacity) => capacity::run(&driver, capacity).await,
    }
}
