//! The auditor: compares all that is really there with the model, after every fault, while nobody works.
//!
//! Owns: the rules. Never: changes anything but what it learns about what was in doubt.
//!
//! Records = objects; nothing unfinished, temporary or strange; each mount shows its volume and no other, none twice; one device
//! for a mounted image, none without a mount (autoclear); lists at any page size = what must be there; the ledger = the sum of
//! what the records promise, never above the budget; the driver holds a bounded number of descriptors and threads.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rockpool::os::fs;
use rockpool::os::mount::Mount;
use rockpool::proto::csi;
use tonic::Code;

use crate::Outcome;
use crate::chance::Chance;
use crate::facts::{Facts, Inode, Record};
use crate::model::{Group, Is, Snapshot, Volume};
use crate::requests::Shape;
use crate::wire::{Answer, PATIENT};
use crate::world::World;

/// What the pool's filesystem takes for itself, more or less, times the overcommit.
const SLACK: i64 = 12 << 20;
const MOST_DESCRIPTORS: usize = 80;
const MOST_THREADS: usize = 40;
/// So many more an idle driver may hold than at its start: what it keeps open from then on.
const FEW: usize = 4;
/// The kernel takes a moment to clear a device after its last user, which may be a program of a driver that was killed; and a
/// controller is so far behind its nodes at most.
pub(crate) const MOMENT: Duration = Duration::from_secs(3);

/// What a process holds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Held {
    pid: u32,
    descriptors: usize,
    threads: usize,
}

impl World {
    /// Audits; the violations are in the world's list.
    pub(crate) async fn audit(&self, chance: &mut Chance) -> Outcome<()> {
        self.counts.audits.fetch_add(1, Ordering::Relaxed);
        let volumes = self.all_volumes().await;
        let snapshots = self.all_snapshots().await;
        let group = self.group.lock().await;
        let volumes: Vec<&Volume> = volumes.iter().map(|volume| &**volume).collect();
        let snapshots: Vec<&Snapshot> = snapshots.iter().map(|snapshot| &**snapshot).collect();
        let began = Instant::now();
        let (facts, wrong) = loop {
            let facts = Facts::of(&self.node)?;
            let mut wrong = self.objects(&facts);
            wrong.extend(underway(&facts, &volumes));
            wrong.extend(self.mounts(&facts, &volumes));
            wrong.extend(self.devices(&facts, &volumes));
            if wrong.is_empty() || began.elapsed() > MOMENT {
                break (facts, wrong);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        wrong.into_iter().for_each(|what| self.violation(what));
        self.presence(&facts, &volumes, &snapshots, &group);
        self.lists(&facts, chance).await;
        self.room(&facts).await;
        self.ledger().await?;
        self.process();
        for call in self.node.wire.hung() {
            self.violation(format!("{call} was not answered within {PATIENT:?}"));
        }
        for what in self.node.wire.meanwhile.wrong() {
            self.violation(what);
        }
        volumes.iter().for_each(|volume| self.not_frozen(volume));
        Ok(())
    }

    /// Records and objects, in both directions.
    fn objects(&self, facts: &Facts) -> Vec<String> {
        let of_files = self.node.ground.name() != "directory";
        let mut wrong = unsound(facts, of_files, |id, record| self.may_be_kept(id, record));
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for (id, _) in kept.iter().filter(|(_, is)| **is == Is::Yes) {
            if !facts.records.get(id).is_some_and(Record::is_kept) {
                wrong.push(format!("{id} was deleted and is not kept"));
            }
        }
        wrong
    }

    /// Whether a record is of what was deleted and is kept, as far as the answers tell.
    fn may_be_kept(&self, id: &str, record: &Record) -> bool {
        record.is_kept() && self.kept.lock().unwrap_or_else(PoisonError::into_inner).contains_key(id)
    }

    /// Each mount shows its volume, none is missing or doubled, and there is no other.
    fn mounts(&self, facts: &Facts, volumes: &[&Volume]) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut known = BTreeSet::new();
        for volume in volumes {
            let staging = match volume.shape {
                Shape::Block => volume.spot.staging.join("device"),
                Shape::Directory | Shape::Ext4 | Shape::Xfs => volume.spot.staging.clone(),
            };
            for (path, is) in [(staging, volume.staged), (volume.spot.target.clone(), volume.published)] {
                let there = facts.mounts_at(&path);
                let right = match is {
                    Is::No => there.is_empty(),
                    Is::Maybe => there.len() <= 1,
                    Is::Yes => there.len() == 1,
                };
                if !right {
                    wrong.push(format!("{} mounts at {}: {}", there.len(), path.display(), volume.story()));
                }
                for mount in there {
                    if !shows(facts, mount, volume) {
                        wrong.push(format!(
                            "{} shows something else: {mount:?}: {}",
                            path.display(),
                            volume.story()
                        ));
                    }
                }
                known.insert(path);
            }
        }
        for mount in &facts.mounts {
            if !known.contains(&mount.point) {
                wrong.push(format!("a mount of nobody's at {}", mount.point.display()));
            }
        }
        wrong
    }

    /// What must hold while no driver runs: a filesystem's device goes with its last mount, whoever died. The next start would
    /// let go of it, but there may be none.
    pub(crate) async fn audit_dead(&self) -> Outcome<()> {
        let volumes = self.all_volumes().await;
        let began = Instant::now();
        loop {
            let facts = Facts::of(&self.node)?;
            let left: Vec<_> = volumes.iter().filter(|volume| is_left_attached(&facts, volume)).collect();
            if left.is_empty() {
                return Ok(());
            }
            if began.elapsed() > MOMENT {
                let story = left.iter().map(|volume| volume.story()).collect::<Vec<_>>().join("; ");
                self.violation(format!("a device without a mount and without a driver: {story}"));
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// One device for what is used, none for what is not.
    fn devices(&self, facts: &Facts, volumes: &[&Volume]) -> Vec<String> {
        let mut wrong = stray_devices(facts);
        for volume in volumes {
            let Some(id) = &volume.id else { continue };
            let loops = facts.writable_loops(id);
            if loops.len() > 1 {
                wrong.push(format!("{} devices on one image: {}", loops.len(), volume.story()));
            }
            if is_left_attached(facts, volume) {
                wrong.push(format!("a device without a mount: {}", volume.story()));
            }
            if volume.shape == Shape::Block && volume.staged == Is::No && !loops.is_empty() {
                wrong.push(format!("a device of a volume that is not staged: {}", volume.story()));
            }
        }
        wrong
    }

    /// What must be on record is, and nothing else.
    fn presence(&self, facts: &Facts, volumes: &[&Volume], snapshots: &[&Snapshot], group: &Group) {
        for volume in volumes {
            let there: Vec<_> = of_name(facts, "volume", &volume.name);
            self.present((&volume.name, volume.exists), volume.id.as_deref(), &there, &volume.story());
            if let (Some(record), Is::Yes) =
                (there.first().and_then(|id| facts.records.get(*id)), volume.exists)
                && !(volume.size.0..=volume.size.1).contains(&record.size)
            {
                self.violation(format!("{} bytes, not {:?}: {}", record.size, volume.size, volume.story()));
            }
        }
        for snapshot in snapshots {
            let there: Vec<_> = of_name(facts, "snapshot", &snapshot.name);
            let story = format!("{:?}", snapshot.of);
            self.present((&snapshot.name, snapshot.exists), snapshot.id.as_deref(), &there, &story);
        }
        let there: Vec<_> = of_name(facts, "group", &group.name);
        let exists = group.exists.unwrap_or(Is::No);
        self.present((&group.name, exists), group.id.as_deref(), &there, "");
        let members =
            facts.records.iter().filter(|(id, record)| record.kind == "snapshot" && **id == record.name);
        let members = members.count();
        let right = match exists {
            Is::No => members == 0,
            Is::Maybe => true,
            Is::Yes => members == group.members.len(),
        };
        if !right {
            self.violation(format!("{members} members of groups, the group is {exists:?}"));
        }
    }

    fn present(&self, (name, exists): (&str, Is), id: Option<&str>, there: &[&String], story: &str) {
        let right = match (exists, id) {
            (Is::No, _) => there.is_empty(),
            (Is::Maybe, None) => there.len() <= 1,
            (Is::Maybe, Some(id)) => there.iter().all(|found| *found == id),
            (Is::Yes, Some(id)) => there.len() == 1 && there[0] == id,
            (Is::Yes, None) => false,
        };
        if !right {
            self.violation(format!("{name} is {exists:?}, on record are {there:?}: {story}"));
        }
    }

    /// ListVolumes and ListSnapshots, page by page, say what the records say.
    async fn lists(&self, facts: &Facts, chance: &mut Chance) {
        for kind in ["volume", "snapshot"] {
            let size = i32::try_from(1 + chance.below(facts.records.len() + 2)).unwrap_or(1);
            let Some(listed) = self.listed(kind, size).await else { continue };
            let unique: BTreeSet<&String> = listed.iter().collect();
            let ready = facts.records.iter().filter(|(_, record)| record.kind == kind && !record.is_kept());
            let want: BTreeSet<&String> = ready.map(|(id, _)| id).collect();
            let mut odd: Vec<_> = unique.symmetric_difference(&want).collect();
            if odd.iter().any(|id| facts.receiving.contains_key(**id)) {
                // What was on its way may have come since.
                let since = Facts::of(&self.node).map(|since| since.records).unwrap_or_default();
                odd.retain(|id| !facts.receiving.contains_key(**id) || !since.contains_key(**id));
            }
            if unique.len() != listed.len() || !odd.is_empty() {
                self.violation(format!(
                    "{kind}s listed by {size}: {} of {}, odd: {odd:?}",
                    listed.len(),
                    want.len()
                ));
            }
        }
    }

    /// Every id of a list while nobody works: a pool that is here is listed. None only where there is no such list, which must
    /// be said.
    pub(crate) async fn listed(&self, kind: &str, size: i32) -> Option<Vec<String>> {
        let began = Instant::now();
        loop {
            match self.list(kind, size).await {
                Answer::Done(ids) => return Some(ids),
                Answer::Refused(Code::Unimplemented, _)
                    if kind == "snapshot" && !self.node.ground.copies() =>
                {
                    return None;
                }
                Answer::Open(..) if began.elapsed() < PATIENT => {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                other @ (Answer::Refused(..) | Answer::Open(..)) => {
                    self.violation(format!("no list of {kind}s while nobody works: {other:?}"));
                    return None;
                }
            }
        }
    }

    /// Every id of a list, in its order.
    pub(crate) async fn list(&self, kind: &str, max_entries: i32) -> Answer<Vec<String>> {
        let mut ids = Vec::new();
        let mut starting_token = String::new();
        loop {
            let page = if kind == "volume" {
                let request = csi::ListVolumesRequest { max_entries, starting_token };
                self.node.wire.list(request, PATIENT).await.map(|page| {
                    let ids = page.entries.into_iter().filter_map(|entry| Some(entry.volume?.volume_id));
                    (ids.collect::<Vec<_>>(), page.next_token)
                })
            } else {
                let request = csi::ListSnapshotsRequest { max_entries, starting_token, ..Default::default() };
                self.node.wire.list_snapshots(request, PATIENT).await.map(|page| {
                    let ids = page.entries.into_iter().filter_map(|entry| Some(entry.snapshot?.snapshot_id));
                    (ids.collect::<Vec<_>>(), page.next_token)
                })
            };
            let (page, next) = match page {
                Answer::Done(page) => page,
                Answer::Refused(code, message) => return Answer::Refused(code, message),
                Answer::Open(code, message) => return Answer::Open(code, message),
            };
            ids.extend(page);
            if next.is_empty() {
                return Answer::Done(ids);
            }
            starting_token = next;
        }
    }

    /// What is offered and what is promised never exceed the budget.
    async fn room(&self, facts: &Facts) {
        let (began, promised) = (Instant::now(), facts.promised());
        let budget = i64::try_from(self.budget.load(Ordering::Relaxed)).unwrap_or(i64::MAX);
        loop {
            let Some(available) = self.available().await else { return };
            if available + promised <= budget + slack(self) {
                return;
            }
            // A controller answers from what it was told last.
            if began.elapsed() > MOMENT {
                self.violation(format!("{available} are available and {promised} promised of {budget}"));
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// What the drivers count as promised is what the records promise, to the byte.
    async fn ledger(&self) -> Outcome<()> {
        let began = Instant::now();
        loop {
            let want = Facts::of(&self.node)?.promised();
            let told = self.node.wire.promised(PATIENT).await;
            if matches!(&told, Answer::Done(promised) if *promised == want) {
                return Ok(());
            }
            if began.elapsed() > MOMENT {
                self.violation(format!("the records promise {want} bytes, the driver says {told:?}"));
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// GetCapacity, while nobody works.
    pub(crate) async fn available(&self) -> Option<i64> {
        let began = Instant::now();
        loop {
            match self.node.wire.capacity(PATIENT).await {
                Answer::Done(answer) => return Some(answer.available_capacity),
                Answer::Open(..) if began.elapsed() < PATIENT => {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                other @ (Answer::Refused(..) | Answer::Open(..)) => {
                    self.violation(format!("no capacity while nobody works: {other:?}"));
                    return None;
                }
            }
        }
    }

    /// Nothing is frozen while nobody works: its writers would hang for ever.
    fn not_frozen(&self, volume: &Volume) {
        if volume.published != Is::Yes || !matches!(volume.shape, Shape::Ext4 | Shape::Xfs) {
            return;
        }
        let thawed = std::fs::File::open(&volume.spot.target).ok().map(|root| fs::thaw(&root));
        if let Some(Ok(fs::Thawed::Now)) = thawed {
            self.violation(format!("it was left frozen: {}", volume.story()));
        }
    }

    /// What the processes hold.
    fn process(&self) {
        for held in self.node.pids().into_iter().map(held_by) {
            if held.descriptors > MOST_DESCRIPTORS || held.threads > MOST_THREADS {
                self.violation(format!("a driver holds {held:?}"));
            }
        }
    }

    /// What the process that runs now holds.
    pub(crate) fn held(&self) -> Option<Held> {
        self.node.pids().into_iter().map(held_by).next()
    }

    /// Nothing is noted any more, and the process holds what it held at its start: to be asked while there is nothing, and nobody
    /// works.
    pub(crate) fn nothing_kept(&self, at_start: Option<Held>) {
        for folder in ["mounts", "freezes"] {
            let notes =
                std::fs::read_dir(self.node.own("state").join(folder)).into_iter().flatten().flatten();
            for note in notes {
                let said = std::fs::read_to_string(note.path()).unwrap_or_default();
                self.violation(format!("a note is left in state/{folder}: {said}"));
            }
        }
        let (Some(begun), Some(held)) = (at_start, self.held()) else { return };
        if held.pid == begun.pid && held.descriptors > begun.descriptors + FEW {
            self.violation(format!("the driver began with {begun:?} and holds {held:?} with nothing to do"));
        }
    }
}

/// What a process holds.
fn held_by(pid: u32) -> Held {
    let entries = |path: &Path| std::fs::read_dir(path).into_iter().flatten().flatten();
    let threads: Vec<_> = entries(Path::new(&format!("/proc/{pid}/task"))).collect();
    // The threads of each pool have tables of their own, of which the one of the process shows nothing.
    let descriptors =
        threads.iter().map(|thread| entries(&thread.path().join("fd")).count()).max().unwrap_or(0);
    Held { pid, descriptors, threads: threads.len() }
}

/// How much all pools together may take for themselves.
pub(crate) fn slack(world: &World) -> i64 {
    SLACK * i64::try_from(world.node.pools().len()).unwrap_or(1)
}

fn of_name<'a>(facts: &'a Facts, kind: &str, name: &str) -> Vec<&'a String> {
    let is = |record: &Record| record.kind == kind && record.name == name && !record.is_kept();
    let all = facts.records.iter().chain(&facts.receiving);
    all.filter(|(_, record)| is(record)).map(|(id, _)| id).collect()
}

/// What is on its way stays so only while the answer to its create, or to its delete, is open.
fn underway(facts: &Facts, volumes: &[&Volume]) -> Vec<String> {
    let wanted = |id: &String, record: &Record| {
        let is_it = |of: &&&Volume| of.name == record.name && of.id.as_ref().is_none_or(|known| known == id);
        volumes.iter().filter(is_it).any(|of| of.exists == Is::Maybe)
    };
    let left = facts.receiving.iter().filter(|(id, record)| !wanted(id, record));
    left.map(|(id, record)| format!("{id} ({}) is on its way and nobody asks for it", record.name)).collect()
}

/// Whether a volume with a filesystem has a device that no mount uses.
fn is_left_attached(facts: &Facts, volume: &Volume) -> bool {
    let loops = volume.id.as_deref().map(|id| facts.writable_loops(id)).unwrap_or_default();
    let used = |device| facts.mounts.iter().any(|mount| mount.device == device);
    matches!(volume.shape, Shape::Ext4 | Shape::Xfs)
        && !loops.is_empty()
        && !loops.iter().any(|found| used(found.device.device))
}

/// Whether a mount shows this volume, told by the device and inode behind it.
fn shows(facts: &Facts, mount: &Mount, volume: &Volume) -> bool {
    let Some(id) = &volume.id else { return volume.exists == Is::Maybe };
    match volume.shape {
        Shape::Directory => mount.root.ends_with(id),
        Shape::Ext4 | Shape::Xfs => {
            facts.writable_loops(id).iter().any(|found| found.device.device == mount.device)
        }
        Shape::Block => facts.writable_loops(id).iter().any(|found| {
            mount.kind == "devtmpfs" && mount.root == Path::new(&format!("/loop{}", found.device.number))
        }),
    }
}

/// What is wrong with a pool in which nobody works, whatever was asked for: records and objects, in both directions. Where volumes are
/// files, each is as long as its record says.
pub(crate) fn unsound(
    facts: &Facts,
    of_files: bool,
    may_be_kept: impl Fn(&str, &Record) -> bool,
) -> Vec<String> {
    let mut wrong = Vec::new();
    for name in &facts.unreadable {
        wrong.push(format!("record {name} cannot be read"));
    }
    for name in facts.tmp.iter().map(|name| format!("tmp/{name}")).chain(facts.strange.iter().cloned()) {
        wrong.push(format!("{name} is left in the pool"));
    }
    for (id, record) in &facts.records {
        if !record.ready && !may_be_kept(id, record) {
            wrong.push(format!("record {id} ({}) is {} though nobody works", record.name, record.phase));
        }
        let there = match record.kind.as_str() {
            "volume" => facts.volumes.contains_key(id),
            "snapshot" => facts.snapshots.contains(id),
            _ => true,
        };
        if !there {
            wrong.push(format!("record {id} ({}) has no bytes", record.name));
        }
        if let Some((_, length)) = facts.volumes.get(id)
            && of_files
            && *length != record.size
        {
            wrong.push(format!(
                "{id} ({}) is {length} bytes long, its record says {}",
                record.name, record.size
            ));
        }
    }
    for id in facts.volumes.keys().chain(&facts.snapshots) {
        if !facts.records.contains_key(id) {
            wrong.push(format!("{id} has no record"));
        }
    }
    wrong
}

/// Devices on images that are gone.
pub(crate) fn stray_devices(facts: &Facts) -> Vec<String> {
    let inodes: BTreeSet<Inode> = facts.volumes.values().map(|(inode, _)| *inode).collect();
    let strays = facts.loops.iter().filter(|(inode, _)| !inodes.contains(inode));
    strays.map(|(_, loops)| format!("a loop device on an image that is gone: {loops:?}")).collect()
}
