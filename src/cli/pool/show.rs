//! `rockpool pool list` and `show`: pools as configuration and disk tell of them.
//!
//! Owns: what an operator sees. Never: needs the driver to run or to stand still.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Value, json};

use super::super::modes::STATE_DIR;
use super::{ConfigFile, named};
use crate::config;
use crate::ctl::Format;
use crate::ctl::answer::{Table, print};
use crate::engine::PoolConfig;
use crate::engine::fences::told;
use crate::engine::store::{Tally, tally};
use crate::error::{Result, chain};
use crate::model::{Bytes, Features, Offer, Retention};
use crate::pool::{Kind, Quota, Visit, visit};

/// What stands wherever the size of a volume would be a promise that nobody keeps.
const NOT_ENFORCED: &str = "not enforced";

/// Where to look, and how to print it.
#[derive(Args, Debug)]
pub(in crate::cli) struct Look {
    #[command(flatten)]
    file: ConfigFile,

    /// How to print it.
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    output: Format,

    /// The state directory of the driver, where it says of which pools the disk failed.
    #[arg(long, env = "ROCKPOOL_STATE_DIR", value_name = "DIR", default_value = STATE_DIR)]
    state_dir: PathBuf,

    /// Kubelet's directory: a directory pool on the same filesystem is told of.
    #[arg(long, env = "ROCKPOOL_KUBELET_ROOT", value_name = "DIR", default_value = "/var/lib/kubelet")]
    kubelet_root: PathBuf,
}

/// A pool with what could be seen of it.
struct Seen {
    config: PoolConfig,
    here: std::result::Result<(Visit, Tally), String>,
    /// Why it takes no changes: its state in one word, and the reason.
    refuses: Option<(&'static str, String)>,
}

impl Seen {
    fn of(config: PoolConfig, state_dir: &Path) -> Seen {
        let here = visit(&config.setup).and_then(|pool| {
            let tally = tally(pool.id, &pool.root)?;
            Ok((pool, tally))
        });
        let refuses = here.as_ref().ok().and_then(|(pool, _)| {
            let fenced = told(state_dir, pool.id).map(|why| ("fenced", why));
            fenced.or_else(|| pool.read_only.clone().map(|why| ("read-only", why)))
        });
        Seen { config, here: here.map_err(|error| chain(&error)), refuses }
    }

    /// What the pool can do, as far as it can be seen.
    fn features(&self) -> Features {
        self.here
            .as_ref()
            .map_or_else(|_| self.config.setup.kind.features(), |(pool, _)| pool.features.clone())
    }

    fn state(&self) -> &'static str {
        match (&self.here, self.config.setup.kind) {
            (Ok(_), _) => self.refuses.as_ref().map_or("here", |(state, _)| *state),
            (Err(_), Kind::Sim) => "in memory",
            (Err(_), Kind::Image | Kind::Directory) => "away",
        }
    }

    /// Why it cannot be used, or not be changed.
    fn why(&self) -> Option<&String> {
        self.here.as_ref().err().or(self.refuses.as_ref().map(|(_, why)| why))
    }

    /// A cell of what is only known of a pool that is here.
    fn cell(&self, of: impl Fn(&Visit, &Tally) -> String) -> String {
        self.here.as_ref().map(|(pool, tally)| of(pool, tally)).unwrap_or_default()
    }

    /// How long what is deleted is kept, and how much is.
    fn retains(&self) -> String {
        let by_default = match self.config.retain {
            Retention::NONE => "not at all, unless a class says so".to_owned(),
            some => format!("for {some}, unless a class says otherwise"),
        };
        match self.here.as_ref().map_or(Bytes::ZERO, |(_, tally)| tally.retained) {
            Bytes::ZERO => by_default,
            kept => format!("{by_default}; {kept} of what is promised are kept now"),
        }
    }

    fn json(&self) -> Value {
        let setup = &self.config.setup;
        let seen = self.here.as_ref().ok();
        json!({
            "name": setup.name,
            "kind": setup.kind.name(),
            "state": self.state(),
            "why": self.why(),
            "id": seen.map(|(pool, _)| pool.id.to_string()),
            "path": setup.path,
            "file": setup.file,
            "device": setup.device,
            "size_bytes": seen.map(|(pool, _)| pool.total.get()),
            "used_bytes": seen.map(|(pool, _)| pool.used.get()),
            "promised_bytes": seen.map(|(_, tally)| tally.promised.get()),
            "retained_bytes": seen.map(|(_, tally)| tally.retained.get()),
            "objects": seen.map(|(_, tally)| tally.objects),
            "unreadable_records": seen.map(|(_, tally)| tally.unreadable),
            "overcommit": self.config.overcommit,
            "reserve": self.config.reserve,
            "size_enforced": setup.quota != Quota::None,
            "features": offers(&self.features()).into_iter().map(|(name, offer)| (name.to_owned(), offer_json(offer)))
                .collect::<serde_json::Map<String, Value>>(),
        })
    }
}

impl Look {
    pub(super) fn list(&self) -> Result<()> {
        let seen: Vec<Seen> = config::read(&self.file.config)?
            .into_iter()
            .map(|pool| Seen::of(pool, &self.state_dir))
            .collect();
        let mut table =
            Table::new(&["NAME", "KIND", "STATE", "SIZE", "USED", "PROMISED", "VOLUME SIZES", "PATH"]);
        for one in &seen {
            let setup = &one.config.setup;
            table.push([
                setup.name.clone(),
                setup.kind.name().to_owned(),
                one.state().to_owned(),
                one.cell(|pool, _| pool.total.to_string()),
                one.cell(|pool, _| pool.used.to_string()),
                one.cell(|_, tally| tally.promised.to_string()),
                enforced(setup.quota).to_owned(),
                setup.path.display().to_string(),
            ]);
        }
        let list: Vec<Value> = seen.iter().map(Seen::json).collect();
        print(&table, &json!({ "pools": list }), self.output)
    }

    pub(super) fn show(&self, name: &str) -> Result<()> {
        let seen = Seen::of(named(&self.file, name)?, &self.state_dir);
        let (config, setup) = (&seen.config, &seen.config.setup);
        let mut table = Table::new(&["NAME", &setup.name]);
        let mut line = |name: &str, value: String| {
            if !value.is_empty() {
                table.push([name.to_owned(), value]);
            }
        };
        let path =
            |path: &Option<PathBuf>| path.as_ref().map_or_else(String::new, |p| p.display().to_string());
        line("KIND", setup.kind.name().to_owned());
        line(
            "STATE",
            seen.why().map_or_else(|| seen.state().to_owned(), |why| format!("{}: {why}", seen.state())),
        );
        line("ID", seen.cell(|pool, _| pool.id.to_string()));
        line("PATH", setup.path.display().to_string());
        line("FILE", path(&setup.file));
        line("DEVICE", path(&setup.device));
        line("SIZE", seen.cell(|pool, _| pool.total.to_string()));
        line("USED", seen.cell(|pool, _| format!("{} by whomever, as the filesystem counts", pool.used)));
        line(
            "PROMISED",
            seen.cell(|_, tally| format!("{} to {} volumes and snapshots", tally.promised, tally.objects)),
        );
        line(
            "MAY BE PROMISED",
            format!("{} times the size, less a reserve of {} %", config.overcommit, config.reserve * 100.0),
        );
        line("VOLUME SIZES", enforced(setup.quota).to_owned());
        line("RETAINS DELETED", seen.retains());
        line(
            "RECORDS",
            seen.cell(|_, tally| match tally.unreadable {
                0 => String::new(),
                some => format!("{some} cannot be read; the driver's log names them"),
            }),
        );
        line("NOTE", self.kubelet_note(&seen));
        let features = seen.features();
        let filesystems: Vec<&str> = features.filesystems.iter().map(|fs| fs.name()).collect();
        line("FILESYSTEMS", filesystems.join(", "));
        for (name, offer) in offers(&features) {
            line(
                &name.to_uppercase().replace('_', " "),
                match offer {
                    Offer::Yes => "yes".to_owned(),
                    Offer::No(why) => format!("no: {why}"),
                },
            );
        }
        print(&table, &seen.json(), self.output)
    }

    /// Kubelet's clean-up and evictions do not know that a pool shares their filesystem: docs/decisions/0002.
    fn kubelet_note(&self, seen: &Seen) -> String {
        let device = |path: &PathBuf| std::fs::metadata(path).ok().map(|found| found.dev());
        let setup = &seen.config.setup;
        let shared = setup.kind == Kind::Directory
            && device(&setup.path).is_some_and(|d| device(&self.kubelet_root) == Some(d));
        if !shared {
            return String::new();
        }
        let root = self.kubelet_root.display();
        format!(
            "it shares a filesystem with {root}: a full pool evicts pods; a file or device of its own is better"
        )
    }
}

fn enforced(quota: Quota) -> &'static str {
    match quota {
        Quota::Project => "enforced",
        Quota::None => NOT_ENFORCED,
    }
}

/// All offers by name, in the order in which people look for them.
fn offers(features: &Features) -> [(&'static str, &Offer); 5] {
    [
        ("block", &features.block),
        ("size_limit", &features.size_limit),
        ("snapshots", &features.snapshots),
        ("groups", &features.groups),
        ("reserved", &features.reserved),
    ]
}

fn offer_json(offer: &Offer) -> Value {
    match offer {
        Offer::Yes => json!({ "offered": true }),
        Offer::No(why) => json!({ "offered": false, "why": why }),
    }
}
