//! What many kernels lack, over CSI with the real program: project quota, and online growth of ext4.
//!
//! `make test-guest` runs these under a stock Debian kernel with scratch disks. Elsewhere they say SKIP.

#![allow(clippy::disallowed_methods, reason = "the test makes its own files and runs programs")]

mod rig;

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rig::{Driver, MIB, Power, Published, as_workload, df, disk, fill, in_the_guest, run, tell};

/// Fills a volume as a user without any power; returns the bytes that went in and what stopped it.
fn fill_as_workload(at: &Path, name: &str, mebibytes: u64) -> (u64, String) {
    let ended =
        as_workload(at, &format!("LC_ALL=C dd if=/dev/zero of={name} bs=1M count={mebibytes} conv=fsync"));
    let written = std::fs::metadata(at.join(name)).expect("a file in the volume").len();
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert_eq!(ended.status.success(), written == mebibytes * MIB, "{said}");
    let reason = said.lines().next().and_then(|line| line.rsplit(": ").next()).unwrap_or_default();
    (written, reason.to_owned())
}

/// The whole promise of a directory volume, by a workload that may not do anything else.
fn sizes_are_enforced(driver: &Driver, filesystem: &str, refusal: &str) {
    let small = driver.volume("small", 32 * MIB, "");
    let other = driver.volume("other", 32 * MIB, "");
    for volume in [&small, &other] {
        run(Command::new("chown").arg("1000").arg(&volume.target));
    }
    assert_ne!(small.project(), other.project(), "two volumes share a project");
    assert_ne!(small.project(), 0, "a volume without a project");

    assert_eq!(df(&small.target), 32);
    let (written, reason) = fill_as_workload(&small.target, "data", 100);
    assert!((31 * MIB..=32 * MIB).contains(&written), "{written} bytes fit into 32 MiB");
    assert_eq!(reason, refusal);
    let (total, used) = small.stats();
    assert_eq!(total, 32 * MIB);
    assert!((31 * MIB..=32 * MIB).contains(&used), "{used} bytes are used");

    // The neighbour has its own limit, untouched.
    let (total, used_by_other) = other.stats();
    assert_eq!(total, 32 * MIB);
    assert!(used_by_other < MIB, "{used_by_other} bytes are used in an empty volume");
    let (into_other, _) = fill_as_workload(&other.target, "data", 20);
    assert_eq!(into_other, 20 * MIB, "a full neighbour takes room");

    small.grow(64 * MIB);
    assert_eq!(df(&small.target), 64);
    assert_eq!(small.stats().0, 64 * MIB);
    let (more, reason) = fill_as_workload(&small.target, "more", 100);
    assert!((31 * MIB..=32 * MIB).contains(&more), "{more} more bytes fit after growing by 32 MiB");
    assert_eq!(reason, refusal);
    assert_eq!(df(&other.target), 32, "the neighbour grew, too");
    tell(&format!(
        "figure: {filesystem}: of 100 MiB {written} bytes went into 32 MiB ({refusal}), stats said {used}; \
         grown to 64 MiB, {more} more; projects {} and {}",
        small.project(),
        other.project()
    ));

    for volume in [small, other] {
        volume.take_off();
        volume.delete();
    }
}

#[test]
fn a_directory_volume_on_xfs_cannot_grow_beyond_its_size() {
    if !in_the_guest("a_directory_volume_on_xfs_cannot_grow_beyond_its_size") {
        return;
    }
    let driver = Driver::start("directory", &["--device", &disk(0)], Power::Full);
    sizes_are_enforced(&driver, "xfs", "No space left on device");

    // On xfs also root is held back.
    let volume = driver.volume("for-root", 16 * MIB, "");
    let (written, stopped) = fill(&volume.target.join("data"), 100 * MIB);
    assert!((15 * MIB..=16 * MIB).contains(&written), "root wrote {written} bytes into 16 MiB");
    assert_eq!(stopped, Some(ErrorKind::StorageFull));
    volume.take_off();
    volume.delete();
}

/// An ext4 with project quota, as an operator prepares one, mounted until dropped.
struct Prepared(tempfile::TempDir);

impl Prepared {
    fn ext4(disk: &str) -> Prepared {
        run(Command::new("mkfs.ext4")
            .args(["-q", "-O", "quota,project", "-E", "quotatype=prjquota"])
            .arg(disk));
        let at = tempfile::tempdir().expect("a mount point");
        run(Command::new("mount").args(["-o", "prjquota", disk]).arg(at.path()));
        Prepared(at)
    }
}

impl Drop for Prepared {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).output();
    }
}

#[test]
fn a_directory_volume_on_a_prepared_ext4_cannot_grow_beyond_its_size() {
    if !in_the_guest("a_directory_volume_on_a_prepared_ext4_cannot_grow_beyond_its_size") {
        return;
    }
    let prepared = Prepared::ext4(&disk(1));
    let at = prepared.0.path().to_str().expect("a path in UTF-8");
    let driver = Driver::start("directory", &["--directory", at], Power::Full);
    sizes_are_enforced(&driver, "ext4", "Disk quota exceeded");

    // Documented: on ext4 whoever has CAP_SYS_RESOURCE is not held back.
    let volume = driver.volume("for-root", 16 * MIB, "");
    assert_eq!(fill(&volume.target.join("data"), 40 * MIB), (40 * MIB, None));
    volume.take_off();
    volume.delete();
}

/// A pool in a sparse file of the guest's memory.
fn in_a_file(dir: &tempfile::TempDir) -> String {
    dir.path().join("pool.xfs").to_str().expect("a path in UTF-8").to_owned()
}

#[test]
fn whoever_owns_a_file_can_take_it_out_of_the_quota() {
    if !in_the_guest("whoever_owns_a_file_can_take_it_out_of_the_quota") {
        return;
    }
    let dir = tempfile::tempdir().expect("a place for the pool");
    let place = ["--file", &in_a_file(&dir), "--size", "400MiB", "--sparse"];
    let driver = Driver::start("directory", &place, Power::Full);
    let volume = driver.volume("escape", 16 * MIB, "");
    run(Command::new("chown").arg("1000").arg(&volume.target));
    // Documented, since the kernel allows it: the owner moves a directory to project 0, which has no limit.
    let bound = as_workload(&volume.target, "mkdir in && dd if=/dev/zero of=in/data bs=1M count=40");
    assert!(!bound.status.success(), "40 MiB went into a volume of 16 MiB");
    let escaped = as_workload(
        &volume.target,
        "rm in/data && chattr -p 0 in && dd if=/dev/zero of=in/data bs=1M count=40 conv=fsync",
    );
    let said = String::from_utf8_lossy(&escaped.stderr);
    assert!(escaped.status.success(), "the escape that the documentation describes is gone: {said}");
    // The driver's figures do not see it: they are those of the project.
    let (total, used) = volume.stats();
    assert!(total == 16 * MIB && used < MIB, "{used} of {total} bytes are used");
    tell(&format!("figure: after `chattr -p 0` 40 MiB lie in 16 MiB, and stats say {used} bytes"));
    volume.take_off();
    volume.delete();
}

/// Block `number` of the file that is written while the filesystem grows.
fn block(number: u64) -> Vec<u8> {
    number.to_le_bytes().repeat(512)
}

/// Writes one synced block after the other until told to stop; counts them in `written`.
fn keep_writing(path: &Path, written: &AtomicU64, stop: &AtomicBool) {
    let file = File::create(path).expect("a file in the volume");
    while !stop.load(Ordering::Relaxed) {
        let number = written.load(Ordering::Relaxed);
        file.write_all_at(&block(number), number * 4096).expect("a write while it grows");
        file.sync_data().expect("a sync while it grows");
        written.store(number + 1, Ordering::Relaxed);
    }
}

fn wait_for_blocks(written: &AtomicU64, more: u64) {
    let (until, end) = (written.load(Ordering::Relaxed) + more, Instant::now() + Duration::from_secs(30));
    while written.load(Ordering::Relaxed) < until {
        assert!(Instant::now() < end, "the writer is stuck");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn all_blocks_are_there(path: &Path, blocks: u64) {
    let content = std::fs::read(path).expect("the file in the volume");
    assert_eq!(content.len() as u64, blocks * 4096);
    for (number, found) in (0..).zip(content.chunks(4096)) {
        assert!(found == block(number), "block {number} is damaged");
    }
}

/// Its filesystem, while nothing is mounted, as e2fsck sees it without touching it.
fn the_filesystem_is_clean(volume: &Published<'_>) {
    run(Command::new("e2fsck").args(["-f", "-n"]).arg(volume.image()));
}

#[test]
fn an_ext4_volume_grows_while_it_is_mounted_and_written() {
    if !in_the_guest("an_ext4_volume_grows_while_it_is_mounted_and_written") {
        return;
    }
    let driver = Driver::start("image", &["--device", &disk(2)], Power::Full);
    let volume = driver.volume("online", 64 * MIB, "ext4");
    let before = volume.stats().0;
    assert!(before <= 64 * MIB, "{before} bytes in a volume of 64 MiB");

    let (written, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let path = volume.target.join("journal");
    let during = std::thread::scope(|scope| {
        scope.spawn(|| keep_writing(&path, &written, &stop));
        // Whatever fails in here must end the writer, or the scope never ends.
        let grown = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            wait_for_blocks(&written, 20);
            let from = written.load(Ordering::Relaxed);
            volume.grow(256 * MIB);
            let during = written.load(Ordering::Relaxed) - from;
            wait_for_blocks(&written, 20);
            during
        }));
        stop.store(true, Ordering::Relaxed);
        grown.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    let after = volume.stats().0;
    assert!(after > 200 * MIB && after <= 256 * MIB, "{after} bytes after growing to 256 MiB");
    assert!(during > 0, "nothing was written while it grew");
    let blocks = written.load(Ordering::Relaxed);
    assert_eq!(fill(&volume.target.join("data"), 150 * MIB), (150 * MIB, None));
    all_blocks_are_there(&path, blocks);
    tell(&format!(
        "figure: ext4 grew from {before} to {after} bytes; {during} of {blocks} synced blocks were written meanwhile"
    ));

    // From the disk, not from the page cache.
    volume.take_off();
    the_filesystem_is_clean(&volume);
    volume.put_on();
    all_blocks_are_there(&path, blocks);
    volume.take_off();
    volume.delete();
}

#[test]
fn without_the_power_to_grow_a_mounted_ext4_it_grows_at_the_next_stage() {
    if !in_the_guest("without_the_power_to_grow_a_mounted_ext4_it_grows_at_the_next_stage") {
        return;
    }
    let dir = tempfile::tempdir().expect("a place for the pool");
    let place = ["--file", &in_a_file(&dir), "--size", "400MiB", "--sparse"];
    let driver = Driver::start("image", &place, Power::NoSysResource);
    let volume = driver.volume("later", 64 * MIB, "ext4");
    let before = volume.stats().0;
    let path = volume.target.join("data");
    assert_eq!(fill(&path, 8 * MIB), (8 * MIB, None));

    // As often as a CO likes to ask.
    for _ in 0..2 {
        let refused = volume.try_grow(128 * MIB).expect_err("it grew without the power to");
        assert_eq!(refused.code(), tonic::Code::FailedPrecondition, "{refused:?}");
        assert!(refused.message().contains("CAP_SYS_RESOURCE"), "{refused:?}");
    }
    assert_eq!(volume.stats().0, before);

    volume.take_off();
    volume.put_on();
    let after = volume.stats().0;
    assert!(after > 100 * MIB && after <= 128 * MIB, "{after} bytes after growing to 128 MiB");
    assert_eq!(volume.expand_on_node(128 * MIB).expect("it has grown already"), 128 * MIB);
    assert!(std::fs::read(&path).expect("the file in the volume") == vec![7; 8 << 20], "the file is damaged");
    tell(&format!(
        "figure: without CAP_SYS_RESOURCE ext4 stayed at {before} bytes, and had {after} at the next stage"
    ));

    volume.take_off();
    the_filesystem_is_clean(&volume);
    volume.delete();
}
