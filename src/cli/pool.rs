//! `rockpool pool`: prepare pools and look at them, also while a driver runs on them.
//!
//! Owns: the words of the command line and what is shown. Never: takes a pool's lock, which a running driver holds.

mod show;

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::ConfigFile;
use crate::config;
use crate::engine::PoolConfig;
use crate::error::{Error, Result};
use crate::model::{Bytes, Retention};
use crate::pool::prepare::{self, MOUNT_PARENT, Place, Request};
use crate::pool::{Kind, Quota, check_name};

/// What to do.
#[derive(Subcommand, Debug)]
pub(super) enum PoolVerb {
    /// Make a pool of something that is provably empty, and add it to the pool file.
    Init(Init),
    /// List the pools of the pool file.
    List {
        #[command(flatten)]
        look: show::Look,
    },
    /// Show one pool: its size, what is promised and used, what it can do, and why it cannot do the rest.
    Show {
        /// The pool.
        name: String,
        #[command(flatten)]
        look: show::Look,
    },
    /// Unmount a pool in a file or on a device; the driver mounts it again when it starts.
    Unmount {
        /// The pool.
        name: String,
        #[command(flatten)]
        file: ConfigFile,
    },
}

/// A pool to be made.
#[derive(Args, Debug)]
pub(super) struct Init {
    /// Its name in the pool file and in StorageClasses.
    name: String,

    /// Its kind: `image` (a file a volume) or `directory` (a directory a volume).
    #[arg(long, value_parser = kind)]
    kind: Kind,

    #[command(flatten)]
    place: Where,

    /// How large the file becomes, like 20GiB.
    #[arg(long, requires = "file", value_parser = size)]
    size: Option<Bytes>,

    /// The file takes its space only when it is written; the pool then promises no more than its host has free.
    #[arg(long, requires = "file")]
    sparse: bool,

    /// `none`: a directory pool whose sizes are not enforced, where the filesystem has no project quota.
    #[arg(long, value_parser = quota, default_value = "project")]
    quota: Quota,

    /// A pool in a file or on a device is mounted below this directory.
    #[arg(long, value_name = "DIR", default_value = MOUNT_PARENT)]
    mount_parent: PathBuf,

    /// Leave it unmounted in the end: the driver mounts it where its own pool file says.
    #[arg(long, conflicts_with = "directory")]
    unmount: bool,

    #[command(flatten)]
    config: ConfigFile,
}

/// Where it is to lie.
#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
struct Where {
    /// On this block device, which must be empty.
    #[arg(long, value_name = "DEV")]
    device: Option<PathBuf>,

    /// In this directory, which must be empty.
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,

    /// In this file, which must not exist.
    #[arg(long, requires = "size")]
    file: Option<PathBuf>,
}

fn kind(text: &str) -> std::result::Result<Kind, String> {
    text.parse().map_err(|error: Error| error.to_string())
}

fn size(text: &str) -> std::result::Result<Bytes, String> {
    text.parse().map_err(|error: Error| error.to_string())
}

fn quota(text: &str) -> std::result::Result<Quota, String> {
    match text {
        "project" => Ok(Quota::Project),
        "none" => Ok(Quota::None),
        _ => Err("want `project` (enforced) or `none` (sizes are not enforced)".to_owned()),
    }
}

pub(super) fn run(verb: &PoolVerb) -> Result<()> {
    match verb {
        PoolVerb::Init(init) => init.run(),
        PoolVerb::List { look } => look.list(),
        PoolVerb::Show { name, look } => look.show(name),
        PoolVerb::Unmount { name, file } => {
            let pool = named(file, name)?;
            prepare::unmount(&pool.setup)?;
            println!("pool {name}: unmounted");
            Ok(())
        }
    }
}

/// One pool of the file.
fn named(file: &ConfigFile, name: &str) -> Result<PoolConfig> {
    let pools = config::read(&file.config)?;
    let names: Vec<String> = pools.iter().map(|pool| pool.setup.name.clone()).collect();
    let found = pools.into_iter().find(|pool| pool.setup.name == name);
    found.ok_or_else(|| {
        let has = if names.is_empty() { "no pool for this node".to_owned() } else { names.join(", ") };
        let want = format!("{} has {has}", file.config.display());
        Error::invalid("pool", name, want)
    })
}

impl Init {
    fn run(&self) -> Result<()> {
        let request = self.request()?;
        let file = &self.config.config;
        // Before anything is made: a pool that cannot be added would be a pool that nobody uses.
        config::rehearse(file, &self.draft(&request))?;
        config::refuse_unwritable(file)?;
        let setup = prepare::prepare(&request)?;
        let place = setup.path.display().to_string();
        let pool = PoolConfig { setup, ..self.draft(&request) };
        config::add(file, &pool).map_err(|error| {
            let why = crate::error::chain(&error);
            let entry = config::entry(file, &pool).unwrap_or_default();
            Error::Precondition(format!(
                "the pool is made, at {place}, but failed to add it to {}: {why}; add it yourself:\n\n{entry}",
                file.display()
            ))
        })?;
        if self.unmount {
            prepare::unmount(&pool.setup).map_err(|error| {
                let why = crate::error::chain(&error);
                Error::Precondition(format!(
                    "the pool is made and added to {}, and stays mounted at {place}: {why}",
                    file.display()
                ))
            })?;
            println!("pool {}: ready, not mounted, added to {}", self.name, file.display());
        } else {
            println!("pool {}: ready at {place}, added to {}", self.name, file.display());
        }
        Ok(())
    }

    fn request(&self) -> Result<Request> {
        check_name(&self.name).map_err(|want| Error::invalid("NAME", &self.name, want))?;
        if self.kind == Kind::Sim {
            let hint =
                "want `image` or `directory`: a pool of kind `sim` lies in memory, write its entry by hand";
            return Err(Error::invalid("--kind", "sim", hint));
        }
        if self.kind != Kind::Directory && self.quota == Quota::None {
            let hint = "only a directory pool can go without: want --kind directory, or no --quota";
            return Err(Error::invalid("--quota", "none", hint));
        }
        let place = match (&self.place.device, &self.place.directory, &self.place.file) {
            (Some(device), _, _) => Place::Device(config::directory("--device", device)?),
            (None, Some(directory), _) => Place::Directory(config::directory("--directory", directory)?),
            (None, None, Some(file)) => Place::File {
                path: config::directory("--file", file)?,
                size: self.size.unwrap_or(Bytes::ZERO),
                sparse: self.sparse,
            },
            (None, None, None) => {
                return Err(Error::Invalid("want one of --device, --directory and --file".to_owned()));
            }
        };
        Ok(Request {
            name: self.name.clone(),
            kind: self.kind,
            place,
            quota: self.quota,
            mount_parent: config::directory("--mount-parent", &self.mount_parent)?,
        })
    }

    /// The entry as far as it is known before the pool is made.
    fn draft(&self, request: &Request) -> PoolConfig {
        let (path, file, device) = match &request.place {
            Place::Device(device) => (request.mount_parent.join("new"), None, Some(device.clone())),
            Place::Directory(directory) => (directory.clone(), None, None),
            Place::File { path, .. } => (request.mount_parent.join("new"), Some(path.clone()), None),
        };
        let setup = crate::pool::Setup {
            name: self.name.clone(),
            kind: self.kind,
            path,
            file,
            device,
            quota: self.quota,
            size: None,
        };
        PoolConfig { setup, overcommit: 1.0, reserve: 0.05, retain: Retention::NONE }
    }
}
