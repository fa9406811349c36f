//! What is really there: mounts, loop devices, the tree of the pool and its records, read past the driver.
//!
//! Owns: reading them. Never: asks the driver, or judges.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rockpool::os::file::Access;
use rockpool::os::loopdev::{self, Backing, Found};
use rockpool::os::mount::{self, Mount};
use serde_json::Value;

use crate::Outcome;
use crate::node::Node;
use crate::orders::From;

/// One record as it lies on the disk.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) kind: String,
    pub(crate) name: String,
    pub(crate) ready: bool,
    pub(crate) phase: String,
    pub(crate) size: i64,
    /// What it takes of the budget.
    pub(crate) promise: i64,
    /// What it was copied from.
    pub(crate) from: Option<From>,
}

impl Record {
    /// Whether it was deleted and is kept for a while.
    pub(crate) fn is_kept(&self) -> bool {
        self.phase.starts_with("{\"retained\"")
    }

    /// Whether a growth of it was interrupted.
    pub(crate) fn is_growing(&self) -> bool {
        self.phase.starts_with("{\"growing\"")
    }
}

/// How old a pool is, noted beside its records as long as something is kept there.
const CLOCK: &str = "clock";

/// A file, among those of several pools.
pub(crate) type Inode = (u64, u64);

/// All there is.
pub(crate) struct Facts {
    pub(crate) mounts: Vec<Mount>,
    /// The devices on images of the pools.
    pub(crate) loops: BTreeMap<Inode, Vec<Found>>,
    /// Name, inode and length of what lies in `volumes`.
    pub(crate) volumes: BTreeMap<String, (Inode, i64)>,
    pub(crate) snapshots: BTreeSet<String>,
    pub(crate) tmp: Vec<String>,
    /// What lies where nothing of a pool lies.
    pub(crate) strange: Vec<String>,
    pub(crate) records: BTreeMap<String, Record>,
    /// Volumes whose content is on its way from another node: of each there is a part in `tmp` at most, which stays until its create
    /// is asked for again or it is deleted.
    pub(crate) receiving: BTreeMap<String, Record>,
    pub(crate) unreadable: Vec<String>,
    /// What the cuts take that were made for copies on other nodes: they stay for ten minutes where their node did not hear that
    /// the copy is whole, and are nobody's else.
    pub(crate) lent: i64,
}

/// What lies in the root of a pool.
const OURS: [&str; 9] =
    ["pool.json", "lock", "volumes", "snapshots", "tmp", "records", "projects", "spare", "lost+found"];

impl Facts {
    /// As of now; the drivers should be idle.
    pub(crate) fn of(node: &Node) -> Outcome<Facts> {
        Facts::at(&node.kubelet(), &node.pools())
    }

    /// The same of a node that somebody else has started.
    pub(crate) fn at<P: AsRef<Path>>(kubelet: &Path, pools: &[P]) -> Outcome<Facts> {
        let mut facts = Facts {
            mounts: mount::table()?,
            loops: BTreeMap::new(),
            volumes: BTreeMap::new(),
            snapshots: BTreeSet::new(),
            tmp: Vec::new(),
            strange: Vec::new(),
            records: BTreeMap::new(),
            receiving: BTreeMap::new(),
            unreadable: Vec::new(),
            lent: 0,
        };
        facts.mounts.retain(|mount| mount.point.starts_with(kubelet));
        let loops = loopdev::all()?;
        for pool in pools {
            facts.add(pool.as_ref(), &loops)?;
        }
        let Facts { records, snapshots, lent, .. } = &mut facts;
        records.retain(|id, record| {
            let is_lent = record.phase.starts_with("{\"lent\"");
            if is_lent {
                snapshots.remove(id);
                *lent += record.promise;
            }
            !is_lent
        });
        (facts.receiving, facts.records) = std::mem::take(records)
            .into_iter()
            .partition(|(_, record)| record.phase.starts_with("{\"receiving\""));
        facts.tmp.retain(|name| !facts.receiving.keys().any(|id| *name == format!("{id}.part")));
        Ok(facts)
    }

    /// What is in one pool.
    fn add(&mut self, pool: &Path, loops: &[(Backing, Found)]) -> Outcome<()> {
        let device = std::fs::metadata(pool)?.dev();
        for (backing, found) in loops.iter().filter(|(backing, _)| backing.device == device) {
            self.loops.entry((device, backing.inode)).or_default().push(*found);
        }
        for (name, path) in names(&pool.join("volumes"))? {
            let Ok(stat) = std::fs::symlink_metadata(path) else { continue };
            let length = i64::try_from(stat.len()).unwrap_or(i64::MAX);
            self.volumes.insert(name, ((stat.dev(), stat.ino()), length));
        }
        let (records, unreadable, strange) = records(&pool.join("records"))?;
        self.records.extend(records);
        self.unreadable.extend(unreadable);
        self.strange.extend(strange);
        let foreign = names(pool)?.into_iter().map(|(name, _)| name);
        self.strange.extend(foreign.filter(|name| !OURS.contains(&name.as_str())));
        self.snapshots.extend(names(&pool.join("snapshots"))?.into_iter().map(|(name, _)| name));
        self.tmp.extend(names(&pool.join("tmp"))?.into_iter().map(|(name, _)| name));
        Ok(())
    }

    /// The mounts at exactly this path.
    pub(crate) fn mounts_at(&self, path: &Path) -> Vec<&Mount> {
        self.mounts.iter().filter(|mount| mount.point == path).collect()
    }

    /// The devices on a volume's image that can be written.
    pub(crate) fn writable_loops(&self, id: &str) -> Vec<Found> {
        let inode = self.volumes.get(id).map(|(inode, _)| *inode);
        let loops = inode.and_then(|inode| self.loops.get(&inode)).cloned().unwrap_or_default();
        loops.into_iter().filter(|found| found.access == Access::ReadWrite).collect()
    }

    /// The sum of all promises.
    pub(crate) fn promised(&self) -> i64 {
        self.records.values().chain(self.receiving.values()).map(|record| record.promise).sum::<i64>()
            + self.lent
    }
}

fn names(dir: &Path) -> Outcome<Vec<(String, PathBuf)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(|error| format!("{}: {error}", dir.display()))? {
        let entry = entry?;
        found.push((entry.file_name().to_string_lossy().into_owned(), entry.path()));
    }
    Ok(found)
}

type Read = (BTreeMap<String, Record>, Vec<String>, Vec<String>);

fn records(dir: &Path) -> Outcome<Read> {
    let (mut records, mut unreadable, mut strange) = (BTreeMap::new(), Vec::new(), Vec::new());
    for (name, path) in names(dir)? {
        if name == CLOCK {
            continue;
        }
        if name.starts_with('.') {
            strange.push(format!("records/{name}"));
            continue;
        }
        match std::fs::read(&path).ok().and_then(|bytes| parse(&bytes)) {
            Some(record) => drop(records.insert(name, record)),
            None => unreadable.push(name),
        }
    }
    Ok((records, unreadable, strange))
}

fn parse(bytes: &[u8]) -> Option<Record> {
    let whole: Value = serde_json::from_slice(bytes).ok()?;
    let (kind, body) = whole.get("body")?.get("record")?.as_object()?.iter().next()?;
    let number = |key: &str| body.get(key).and_then(Value::as_i64).unwrap_or(0);
    let phase = body.get("phase")?;
    let to = phase.get("growing").and_then(|growing| growing.get("to")).and_then(Value::as_i64);
    let size = number("size");
    let promise = match kind.as_str() {
        "volume" => size.max(to.unwrap_or(0)),
        "snapshot" => number("held"),
        _ => 0,
    };
    let source = |kind: &str| body.get("source").is_some_and(|source| source.get(kind).is_some());
    let from =
        if source("volume") { Some(From::Volume) } else { source("snapshot").then_some(From::Snapshot) };
    Some(Record {
        kind: kind.clone(),
        name: body.get("name")?.as_str()?.to_owned(),
        ready: phase == "ready",
        phase: phase.to_string(),
        size,
        promise,
        from,
    })
}
