//! What is really there: mounts, loop devices, the tree of the pool and its records, read past the driver.
//!
//! Owns: reading them. Never: asks the driver, or judges.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rockpool::os::file::Access;
use rockpool::os::loopdev::{self, Found};
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

/// All there is.
pub(crate) struct Facts {
    pub(crate) mounts: Vec<Mount>,
    /// The devices on images of the pool, by inode.
    pub(crate) loops: BTreeMap<u64, Vec<Found>>,
    /// Name, inode and length of what lies in `volumes`.
    pub(crate) volumes: BTreeMap<String, (u64, i64)>,
    pub(crate) snapshots: BTreeSet<String>,
    pub(crate) tmp: Vec<String>,
    /// What lies where nothing of a pool lies.
    pub(crate) strange: Vec<String>,
    pub(crate) records: BTreeMap<String, Record>,
    pub(crate) unreadable: Vec<String>,
}

impl Facts {
    /// As of now; the driver should be idle.
    pub(crate) fn of(node: &Node) -> Outcome<Facts> {
        let kubelet = node.kubelet();
        let mut mounts = mount::table()?;
        mounts.retain(|mount| mount.point.starts_with(&kubelet));
        let pool = std::fs::metadata(node.pool())?.dev();
        let mut loops: BTreeMap<u64, Vec<Found>> = BTreeMap::new();
        for (backing, found) in loopdev::all()? {
            if backing.device == pool {
                loops.entry(backing.inode).or_default().push(found);
            }
        }
        let mut volumes = BTreeMap::new();
        for (name, path) in names(&node.pool().join("volumes"))? {
            let Ok(stat) = std::fs::symlink_metadata(path) else { continue };
            volumes.insert(name, (stat.ino(), i64::try_from(stat.len()).unwrap_or(i64::MAX)));
        }
        let ours = [
            "pool.json",
            "lock",
            "volumes",
            "snapshots",
            "tmp",
            "records",
            "projects",
            "spare",
            "lost+found",
        ];
        let (records, unreadable, mut strange) = records(&node.pool().join("records"))?;
        let foreign = names(node.pool())?.into_iter().map(|(name, _)| name);
        strange.extend(foreign.filter(|name| !ours.contains(&name.as_str())));
        Ok(Facts {
            mounts,
            loops,
            volumes,
            snapshots: names(&node.pool().join("snapshots"))?.into_iter().map(|(name, _)| name).collect(),
            tmp: names(&node.pool().join("tmp"))?.into_iter().map(|(name, _)| name).collect(),
            strange,
            records,
            unreadable,
        })
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
        self.records.values().map(|record| record.promise).sum()
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
