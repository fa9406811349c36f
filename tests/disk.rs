//! The disk that other tests cut the power of, let fail and let hang: does it do so?
//!
//! Owns: the proof that its power cuts tell a right program from a wrong one. Never: starts a driver.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a test makes its own files and mounts, and fails by panicking"
)]

#[allow(dead_code, reason = "each program uses a part of it")]
#[path = "support/chance.rs"]
mod chance;
#[allow(dead_code, reason = "each program uses a part of it")]
#[path = "support/disk.rs"]
mod disk;
#[path = "support/host.rs"]
mod host;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use chance::Chance;
use disk::{Call, Disk, Loss, Mood};
use rustix::fs::FallocateFlags;
use tempfile::TempDir;

const UPDATES: usize = 200;
const CUTS: usize = 30;
const RECORDS: u64 = 40;
const PATIENCE: Duration = Duration::from_secs(20);
const LOSSES: [Loss; 3] = [Loss::All, Loss::Half, Loss::AllButLast];

/// A disk in a directory of its own, and a place to mount it at.
struct Rig {
    disk: Option<Disk>,
    dir: TempDir,
}

impl Rig {
    /// None, and says so, where it cannot be had.
    fn new() -> Option<Rig> {
        if !rustix::process::geteuid().is_root() || !Disk::is_possible() {
            let thread = std::thread::current();
            let name = thread.name().unwrap_or_default();
            let line = format!("\nSKIP rust::disk::{name}: needs root and /dev/fuse\n");
            std::io::stderr().write_all(line.as_bytes()).unwrap();
            return None;
        }
        let dir = tempfile::Builder::new().prefix("rp").tempdir().unwrap();
        std::fs::create_dir(dir.path().join("mounted")).unwrap();
        let disk = Disk::new(&dir.path().join("below"), 1).unwrap();
        Some(Rig { disk: Some(disk), dir })
    }

    fn disk(&self) -> &Disk {
        self.disk.as_ref().unwrap()
    }

    fn make(&self, length: u64) -> File {
        let file =
            OpenOptions::new().read(true).write(true).create_new(true).open(self.disk().file()).unwrap();
        file.set_len(length).unwrap();
        file
    }

    fn open(&self) -> File {
        OpenOptions::new().read(true).write(true).open(self.disk().file()).unwrap()
    }

    fn mounted(&self) -> PathBuf {
        self.dir.path().join("mounted")
    }

    fn until_free(&self) {
        let began = Instant::now();
        while !(host::clear(&self.mounted()).is_empty() && self.disk().is_free().unwrap()) {
            assert!(began.elapsed() < PATIENCE, "it stays mounted or attached");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        host::clear(&self.mounted());
        self.disk = None;
    }
}

/// The version that a record holds; none where it is not there or not whole.
fn shown(dir: &Path, record: u64) -> Option<u64> {
    let bytes = std::fs::read(dir.join(record.to_string())).ok()?;
    let whole = bytes.len() == PAGE && bytes[8..].iter().all(|byte| *byte == b'.');
    whole.then(|| u64::from_le_bytes(bytes[..8].try_into().unwrap()))
}

/// A record made new the usual way; whether its directory is synced is what this is about.
fn update(dir: &Path, record: u64, version: u64, synced: bool) -> std::io::Result<()> {
    let mut bytes = vec![b'.'; PAGE];
    bytes[..8].copy_from_slice(&version.to_le_bytes());
    let temporary = dir.join(format!(".{record}"));
    let mut file = File::create(&temporary)?;
    file.write_all(&bytes)?;
    file.sync_all()?;
    std::fs::rename(&temporary, dir.join(record.to_string()))?;
    if synced {
        File::open(dir)?.sync_all()?;
    }
    Ok(())
}

/// Updates records, each acknowledged when it is over, while the power is cut now and then; how many cuts lost an acknowledged
/// update, of how many.
fn experiment(kind: &str, synced: bool) -> Option<(usize, usize)> {
    let rig = Rig::new()?;
    drop(rig.make(320 << 20));
    // The loop device has sectors of 4096 bytes.
    let sectors = if kind == "xfs" { ["-s", "size=4096"] } else { ["-b", "4096"] };
    host::run(Command::new(format!("mkfs.{kind}")).arg("-q").args(sectors).arg(rig.disk().file())).unwrap();
    let (mut chance, mut lossy, mut cuts, mut updates) = (Chance::new(7, 1), 0, 0, 0);
    let (mounted, version) = (rig.mounted(), AtomicU64::new(1));
    rig.disk().mount(kind, &mounted).unwrap();
    while updates < UPDATES || cuts < CUTS {
        let acknowledged = Mutex::new(BTreeMap::new());
        let lit = std::thread::scope(|scope| {
            scope.spawn(|| {
                loop {
                    let version = version.fetch_add(1, Ordering::Relaxed);
                    let record = version % RECORDS;
                    if update(&mounted, record, version, synced).is_err() {
                        break;
                    }
                    acknowledged.lock().unwrap().insert(record, version);
                }
            });
            std::thread::sleep(chance.time(Duration::from_millis(5), Duration::from_millis(50)));
            // What is acknowledged from now on was acknowledged in the dark.
            let lit = acknowledged.lock().unwrap().clone();
            rig.disk().cut(LOSSES[cuts % LOSSES.len()]).unwrap();
            lit
        });
        (cuts, updates) = (cuts + 1, updates + lit.len());
        rig.until_free();
        rig.disk().mount(kind, &mounted).unwrap();
        let lost = lit.iter().filter(|(record, version)| shown(&mounted, **record) < Some(**version));
        lossy += usize::from(lost.count() > 0);
    }
    let toll = rig.disk().toll();
    println!(
        "{kind}, directory synced: {synced}: {updates} updates, {lossy} of {cuts} cuts lost some; {toll:?}"
    );
    assert!(toll.lost > 0 && toll.kept > 0, "nothing was ever lost below: {toll:?}");
    Some((lossy, cuts))
}

#[test]
fn a_rename_without_a_sync_of_its_directory_is_lost() {
    for kind in ["ext4", "xfs"] {
        let Some((lossy, cuts)) = experiment(kind, false) else { return };
        assert!(lossy * 10 > cuts, "{kind}: only {lossy} of {cuts}");
    }
}

#[test]
fn a_rename_with_a_sync_of_its_directory_is_never_lost() {
    for kind in ["ext4", "xfs"] {
        let Some((lossy, cuts)) = experiment(kind, true) else { return };
        assert_eq!(lossy, 0, "{kind}: of {cuts}");
    }
}

const PAGE: usize = 4096;
const PAGES: usize = 4;

fn write(file: &File, page: usize, byte: u8) {
    file.write_all_at(&[byte; PAGE], (page * PAGE) as u64).unwrap();
}

/// The bytes that each page consists of.
fn pages(rig: &Rig) -> Vec<BTreeSet<u8>> {
    let mut bytes = vec![0; PAGE * PAGES];
    rig.open().read_exact_at(&mut bytes, 0).unwrap();
    bytes.chunks(PAGE).map(|page| page.iter().copied().collect()).collect()
}

#[test]
fn what_was_flushed_stays_and_of_the_rest_goes_what_the_loss_says() {
    let Some(rig) = Rig::new() else { return };
    let file = rig.make(1 << 20);
    let whole = |bytes: [u8; PAGES]| bytes.map(|byte| BTreeSet::from([byte]));
    write(&file, 0, 1);
    write(&file, 1, 1);
    file.sync_all().unwrap();
    (0..3).for_each(|page| write(&file, page, 2));
    assert_eq!(pages(&rig), whole([2, 2, 2, 0]), "what was written is read");
    rig.disk().cut(Loss::All).unwrap();
    assert_eq!(pages(&rig), whole([1, 1, 0, 0]));
    assert!(file.write_at(&[9; PAGE], 0).is_err(), "who had it open has a dead disk");
    assert!(file.sync_all().is_err(), "who had it open has a dead disk");
    let file = rig.open();
    (0..3).for_each(|page| write(&file, page, 3));
    rig.disk().cut(Loss::AllButLast).unwrap();
    assert_eq!(pages(&rig), whole([1, 1, 3, 0]));
}

#[test]
fn half_of_what_was_not_flushed_is_lost_and_some_of_it_is_torn_between_sectors() {
    let Some(rig) = Rig::new() else { return };
    drop(rig.make(1 << 20));
    let (mut lost, mut kept, mut torn) = (0, 0, 0);
    for byte in 1..=100 {
        let file = rig.open();
        (0..PAGES).for_each(|page| write(&file, page, byte));
        file.sync_all().unwrap();
        (0..PAGES).for_each(|page| write(&file, page, byte + 100));
        rig.disk().cut(Loss::Half).unwrap();
        for page in pages(&rig) {
            let (old, new) = (page.contains(&byte), page.contains(&(byte + 100)));
            assert!((old || new) && page.iter().all(|one| [byte, byte + 100].contains(one)), "{page:?}");
            lost += usize::from(!new);
            kept += usize::from(!old);
            torn += usize::from(old && new);
        }
    }
    assert!(lost > 100 && kept > 80 && torn > 5, "{lost} lost, {kept} kept, {torn} torn");
}

#[test]
fn zeros_are_lost_like_other_writes() {
    let Some(rig) = Rig::new() else { return };
    let file = rig.make(1 << 20);
    write(&file, 0, 1);
    file.sync_all().unwrap();
    let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    rustix::fs::fallocate(&file, hole, 0, 2 * PAGE as u64).unwrap();
    assert_eq!(pages(&rig)[0], BTreeSet::from([0]));
    rig.disk().cut(Loss::All).unwrap();
    assert_eq!(pages(&rig)[0], BTreeSet::from([1]));
}

#[test]
fn a_kind_of_call_fails_or_hangs_and_the_others_go_on() {
    let Some(rig) = Rig::new() else { return };
    let file = rig.make(1 << 20);
    let read = |file: &File| file.read_exact_at(&mut [0; PAGE], 0);
    let put = |file: &File| file.write_all_at(&[1; PAGE], 0);
    rig.disk().set(Call::Read, Mood::Fails(100));
    assert!(read(&file).is_err() && put(&file).is_ok() && file.sync_all().is_ok());
    rig.disk().set(Call::Read, Mood::Serves);
    rig.disk().set(Call::Write, Mood::Fails(50));
    let failed = (0..100).filter(|_| put(&file).is_err()).count();
    assert!((20..80).contains(&failed), "{failed} of 100 failed");
    rig.disk().set(Call::Write, Mood::Serves);
    rig.disk().set(Call::Flush, Mood::Fails(100));
    assert!(read(&file).is_ok() && put(&file).is_ok() && file.sync_all().is_err());
    rig.disk().set(Call::Flush, Mood::Serves);
    rig.disk().set(Call::Read, Mood::Hangs);
    let other = rig.open();
    let hanging = std::thread::spawn(move || other.read_exact_at(&mut [0; PAGE], 0));
    let began = Instant::now();
    while rig.disk().hanging(Call::Read) == 0 {
        assert!(began.elapsed() < PATIENCE, "the read does not hang");
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(put(&file).is_ok() && file.sync_all().is_ok() && !hanging.is_finished());
    rig.disk().set(Call::Read, Mood::Serves);
    hanging.join().unwrap().unwrap();
}

#[test]
fn a_disk_that_goes_takes_with_it_what_hangs() {
    let Some(mut rig) = Rig::new() else { return };
    let file = rig.make(1 << 20);
    rig.disk().set(Call::Write, Mood::Hangs);
    let hanging = std::thread::spawn(move || file.write_all_at(&[1; PAGE], 0));
    let began = Instant::now();
    while rig.disk().hanging(Call::Write) == 0 {
        assert!(began.elapsed() < PATIENCE, "the write does not hang");
        std::thread::sleep(Duration::from_millis(1));
    }
    rig.disk = None;
    assert!(hanging.join().unwrap().is_err());
}
