//! The auditor alone, on pools that somebody else's driver has open, like those of a cluster's nodes: what must hold there while nobody
//! works, whatever was asked for before.

use std::time::{Duration, Instant};

use rockpool::os::loopdev::{Found, Lifetime};
use rockpool::os::mount;
use serde_json::json;

use crate::Outcome;
use crate::audit::{MOMENT, stray_devices, unsound};
use crate::facts::{Facts, Record};
use crate::options::Options;
use crate::report::Report;

pub(crate) fn part(options: &Options, report: &mut Report) -> Outcome<()> {
    let began = Instant::now();
    let (facts, violations) = loop {
        let facts = Facts::at(&options.kubelet, &options.pools)?;
        let mut wrong = unsound(&facts, true, |_, record| record.is_kept());
        wrong.extend(stray_devices(&facts));
        wrong.extend(left_attached(&facts)?);
        wrong.extend(facts.receiving.keys().map(|id| format!("{id} is on its way though nobody works")));
        if wrong.is_empty() || began.elapsed() > MOMENT {
            break (facts, wrong);
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    let count = |kind: &str| facts.records.values().filter(|record: &&Record| record.kind == kind).count();
    println!(
        "pools: {} volumes, {} snapshots, {} groups, {} mounts, {} devices, {} bytes promised, {} violations",
        count("volume"),
        count("snapshot"),
        count("group"),
        facts.mounts.len(),
        facts.loops.len(),
        facts.promised(),
        violations.len()
    );
    report.add(json!({ "part": "pools", "violations": violations.len() }), violations);
    Ok(())
}

/// Devices that would have gone with the mount of their filesystem, and are there without one.
fn left_attached(facts: &Facts) -> Outcome<Vec<String>> {
    let mounts = mount::table()?;
    let idle = |found: &&Found| {
        found.lifetime == Lifetime::Autoclear
            && !mounts.iter().any(|mount| mount.device == found.device.device)
    };
    let all = facts.loops.values().flatten();
    Ok(all.filter(idle).map(|found| format!("a device without a mount: {found:?}")).collect())
}
