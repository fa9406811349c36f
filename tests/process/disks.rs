//! Disks that do not answer, or answer with errors, while the rest of their pool's host is well: reads, writes, flushes.

use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tempfile::TempDir;

use crate::disk::{Call, Disk, Mood};
use crate::hang::{call, soon};
use crate::harness::{Driver, PROGRAM, Place, until};
use crate::host::run;

const ON_BAD: [&str; 2] = ["--parameter", "pool=bad"];
const ON_FINE: [&str; 2] = ["--parameter", "pool=fine"];
const UNAVAILABLE: i32 = 24;
const INTERNAL: i32 = 23;
const SOON: Duration = Duration::from_secs(5);
const BACK: Duration = Duration::from_secs(30);

/// A disk that can be told to misbehave. To be declared before the place whose pool lies on it, since locals go in reverse order.
struct Below {
    disk: Disk,
    _dir: TempDir,
}

impl Below {
    /// None, and says so, where it cannot be had.
    fn new() -> Option<Below> {
        if !Disk::is_possible() {
            let thread = std::thread::current();
            println!("\nSKIP rust::{}: needs /dev/fuse", thread.name().unwrap_or_default());
            return None;
        }
        let dir = tempfile::Builder::new().prefix("rp").tempdir().unwrap();
        Some(Below { disk: Disk::new(&dir.path().join("below"), 1).unwrap(), _dir: dir })
    }

    /// A pool on it and one in a plain file, both mounted.
    fn pools(&self, place: &Place) {
        std::fs::remove_file(place.path("config.toml")).unwrap();
        for (name, file) in [("bad", self.disk.file()), ("fine", place.path("fine.img"))] {
            let mut init = pool(place, "init", name);
            init.args(["--kind", "image", "--size", "400MiB", "--sparse"]).arg("--file").arg(file);
            run(init.arg("--mount-parent").arg(place.path("pools"))).unwrap();
        }
    }
}

/// Makes the disk well again when this is dropped. To be declared after every driver: none ends before.
struct Healing<'a>(&'a Disk);

impl Drop for Healing<'_> {
    fn drop(&mut self) {
        self.0.heal();
    }
}

fn pool(place: &Place, verb: &str, name: &str) -> Command {
    let mut command = Command::new(PROGRAM);
    command.args(["pool", verb, name]).arg("--config").arg(place.path("config.toml"));
    command
}

fn create<'a>(name: &'a str, on: [&'a str; 2]) -> [&'a str; 7] {
    ["volume", "create", name, "--size", "16MiB", on[0], on[1]]
}

fn until_hangs(disk: &Disk, call: Call) {
    let begun = Instant::now();
    while disk.hanging(call) == 0 {
        assert!(begun.elapsed() < Duration::from_secs(20), "no {call:?} hangs");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn reads_that_hang_keep_nothing_else_waiting_not_even_after_a_kill() {
    let Some(below) = Below::new() else { return };
    let place = Place::new();
    below.pools(&place);
    let (mut driver, mut second): (Driver, Driver);
    let healing = Healing(&below.disk);
    driver = place.start();
    let made = place.ask(&create("a", ON_BAD));
    let a = made["volume_id"].as_str().unwrap();
    let staging = place.path("kubelet/a");
    let stage = ["volume", "stage", a, "--staging", staging.to_str().unwrap()];
    let made = place.ask(&create("b", ON_FINE));
    let (b, other) = (made["volume_id"].as_str().unwrap(), place.path("kubelet/b"));
    let at_other = ["--staging", other.to_str().unwrap()];

    below.disk.set(Call::Read, Mood::Hangs);
    let staged = call(&place, &stage);
    until_hangs(&below.disk, Call::Read);
    soon(&place, &["plugin", "probe"], "");
    assert!(soon(&place, &create("c", ON_FINE), "").status.success());
    // Also where the one that hangs has the turn to attach.
    for verb in ["stage", "unstage"] {
        let done = soon(&place, &["volume", verb, b, at_other[0], at_other[1]], "");
        assert!(done.status.success(), "{verb}: {done:?}");
    }
    soon(&place, &["volume", "delete", a], "ABORTED");
    soon(&place, &["volume", "list"], a);

    driver.signal(Signal::KILL);
    drop(staged);
    second = place.start();
    until(&mut second, "the other pool is served", SOON, || {
        place.ctl(&create("d", ON_FINE)).status.success()
    });
    assert!(driver.child.try_wait().unwrap().is_none(), "the first driver has ended: nothing hung");
    soon(&place, &["plugin", "probe"], "");
    soon(&place, &create("e", ON_BAD), "UNAVAILABLE");
    soon(&place, &["volume", "delete", a], "bad");

    drop(healing);
    driver.ends_within(BACK);
    until(&mut second, "the pool is back", BACK, || place.ctl(&stage).status.success());
    assert!(place.ctl(&["volume", "unstage", a, "--staging", staging.to_str().unwrap()]).status.success());
    assert!(place.ctl(&["volume", "delete", a]).status.success());
}

#[test]
fn a_pool_whose_reads_hang_at_the_start_says_so_and_the_others_serve() {
    let Some(below) = Below::new() else { return };
    let place = Place::new();
    below.pools(&place);
    run(&mut pool(&place, "unmount", "bad")).unwrap();
    let mut driver: Driver;
    let healing = Healing(&below.disk);
    below.disk.set(Call::Read, Mood::Hangs);
    driver = place.start();
    until_hangs(&below.disk, Call::Read);
    soon(&place, &["plugin", "probe"], "");
    assert!(soon(&place, &create("a", ON_FINE), "").status.success());
    let refused = soon(&place, &create("b", ON_BAD), "UNAVAILABLE");
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("`bad`") && said.contains("being opened"), "{said}");
    drop(healing);
    until(&mut driver, "the pool is open", BACK, || place.ctl(&create("b", ON_BAD)).status.success());
}

#[test]
fn a_disk_that_fails_is_told_of_the_others_serve_and_nothing_is_lost() {
    for failing in [Call::Read, Call::Write, Call::Flush] {
        let Some(below) = Below::new() else { return };
        let place = Place::new();
        below.pools(&place);
        let (mut driver, mut second): (Driver, Driver);
        let healing = Healing(&below.disk);
        driver = place.start();
        let made = place.ask(&create("a", ON_BAD));
        let a = made["volume_id"].as_str().unwrap();
        let staging = place.path("kubelet/a");
        let stage = ["volume", "stage", a, "--staging", staging.to_str().unwrap()];
        below.disk.set(failing, Mood::Fails(100));
        let (code, said) = place.refused(&stage);
        // A filesystem that cannot be read is an error of the volume, a pool that cannot be written one of the pool.
        assert!([INTERNAL, UNAVAILABLE].contains(&code), "{failing:?}: {code} {said}");
        if failing != Call::Read {
            let (code, said) = place.refused(&create("b", ON_BAD));
            assert_eq!(code, UNAVAILABLE, "{failing:?}: {said}");
        }
        assert!(soon(&place, &create("c", ON_FINE), "").status.success());
        soon(&place, &["plugin", "probe"], "");

        drop(healing);
        // A filesystem that shut down must be mounted anew.
        driver.signal(Signal::TERM);
        driver.ends_within(BACK);
        run(&mut pool(&place, "unmount", "bad")).unwrap();
        second = place.start();
        until(&mut second, "the pool is back", BACK, || place.ctl(&create("d", ON_BAD)).status.success());
        let listed = place.ctl(&["volume", "list", "-o", "json"]);
        let listed: serde_json::Value = serde_json::from_slice(&listed.stdout).unwrap();
        assert_eq!(listed["volumes"].as_array().unwrap().len(), 3, "{failing:?}: {listed}");
        let done = place.ctl(&stage);
        assert!(done.status.success(), "{failing:?}: {}", String::from_utf8_lossy(&done.stderr));
    }
}

/// A loop device, detached with its test.
struct Attached(String);

impl Drop for Attached {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("-d").arg(&self.0).output();
    }
}

#[test]
fn a_device_whose_file_is_served_by_nobody_any_more_keeps_no_pool_from_being_made() {
    let Some(below) = Below::new() else { return };
    std::fs::File::create(below.disk.file()).unwrap().set_len(16 << 20).unwrap();
    let shown = Command::new("losetup").args(["-f", "--show"]).arg(below.disk.file()).output().unwrap();
    assert!(shown.status.success(), "{shown:?}");
    let device = Attached(String::from_utf8(shown.stdout).unwrap().trim().to_owned());
    drop(below);
    let asked = String::from_utf8(Command::new("losetup").arg(&device.0).output().unwrap().stdout).unwrap();
    assert!(asked.contains("[]:"), "the device still tells which file it shows: {asked}");

    let place = Place::new();
    std::fs::remove_file(place.path("config.toml")).unwrap();
    let mut init = pool(&place, "init", "fine");
    init.args(["--kind", "image", "--size", "400MiB", "--sparse"]).arg("--file").arg(place.path("fine.img"));
    run(init.arg("--mount-parent").arg(place.path("pools"))).unwrap();
    let driver = place.start();
    place.ask(&create("a", ON_FINE));
    drop(driver);
    run(&mut pool(&place, "unmount", "fine")).unwrap();
}
