//! The auditor alone, on pools that somebody else's driver has open, like those of a cluster's nodes: what must hold there while nobody
//! works, whatever was asked for before.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rockpool::os::loopdev::{Found, Lifetime};
use rockpool::os::mount::{self, Mount};
use serde_json::json;

use crate::Outcome;
use crate::audit::{MOMENT, stray_devices, unsound};
use crate::facts::{Facts, Record};
use crate::options::Options;
use crate::report::Report;

pub(crate) fn part(options: &Options, report: &mut Report) -> Outcome<()> {
    if !options.kubelet.is_dir() {
        return Err(format!(
            "--kubelet {} is no directory: want that of the node's kubelet",
            options.kubelet.display()
        )
        .into());
    }
    let began = Instant::now();
    let (facts, mounts, notes, violations) = loop {
        let facts = Facts::at(&options.kubelet, &options.pools)?;
        let mounts = mounts(&facts)?;
        let notes = notes()?;
        let mut wrong = unsound(&facts, true, |_, record| record.is_kept());
        wrong.extend(stray_devices(&facts));
        wrong.extend(left_attached(&facts, &mounts));
        if mounts.is_empty() {
            wrong.extend(
                notes.iter().map(|note| format!("{} is left though nothing is mounted", note.display())),
            );
        }
        wrong.extend(facts.receiving.keys().map(|id| format!("{id} is on its way though nobody works")));
        if wrong.is_empty() || began.elapsed() > MOMENT {
            break (facts, mounts, notes, wrong);
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    let count = |kind: &str| facts.records.values().filter(|record: &&Record| record.kind == kind).count();
    println!(
        "pools: {} volumes, {} snapshots, {} groups, {} mounts, {} devices, {} notes, {} bytes promised, {} violations",
        count("volume"),
        count("snapshot"),
        count("group"),
        mounts.len(),
        facts.loops.len(),
        notes.len(),
        facts.promised(),
        violations.len()
    );
    violations.iter().for_each(|what| println!("VIOLATION {what}"));
    report.add(json!({ "part": "pools", "violations": violations.len() }), violations);
    Ok(())
}

/// The mounts of volumes, wherever they are: those of the devices on images of the pools, and of their device nodes. Beside them those
/// below kubelet's directory, whatever they show.
fn mounts(facts: &Facts) -> Outcome<Vec<Mount>> {
    let of_pools = |mount: &Mount| {
        facts.loops.values().flatten().any(|found| {
            let node = format!("/loop{}", found.device.number);
            mount.device == found.device.device
                || (mount.kind == "devtmpfs" && mount.root == Path::new(&node))
        })
    };
    let mut all = mount::table()?;
    all.retain(|mount| of_pools(mount) || facts.mounts.iter().any(|known| known.id == mount.id));
    Ok(all)
}

/// The driver's notes about mounts and freezes, in its state directory.
fn notes() -> Outcome<Vec<PathBuf>> {
    let state = std::env::var_os("ROCKPOOL_STATE_DIR")
        .map_or_else(|| PathBuf::from("/var/lib/rockpool"), PathBuf::from);
    if !state.is_dir() {
        return Err(format!(
            "ROCKPOOL_STATE_DIR {} is no directory: want that of the driver",
            state.display()
        )
        .into());
    }
    let mut found = Vec::new();
    for folder in
        ["mounts", "freezes"].map(|name| state.join(name)).into_iter().filter(|folder| folder.exists())
    {
        for note in std::fs::read_dir(folder)? {
            found.push(note?.path());
        }
    }
    Ok(found)
}

/// Devices that would have gone with the mount of their filesystem, and are there without one.
fn left_attached(facts: &Facts, mounts: &[Mount]) -> Vec<String> {
    let idle = |found: &&Found| {
        found.lifetime == Lifetime::Autoclear
            && !mounts.iter().any(|mount| mount.device == found.device.device)
    };
    let all = facts.loops.values().flatten();
    all.filter(idle).map(|found| format!("a device without a mount: {found:?}")).collect()
}
