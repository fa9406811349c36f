//! A disk that fails at fsync, under the real driver: strace answers its system calls with EIO.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::harness::{Driver, LONG, Place, eventually, skipped};
use crate::pools::Pool;

const UNAVAILABLE: Option<i32> = Some(24);
const INTERNAL: Option<i32> = Some(23);

/// A tracer that lets go when this is dropped.
struct Tracer(Child);

impl Tracer {
    /// Makes fsync fail in every thread of the driver, at its calls of these numbers; where a path is given, only fsyncs of it.
    fn fail(driver: &Driver, calls: &str, of: Option<&Path>) -> Tracer {
        let pid = driver.child.id().to_string();
        let mut strace = Command::new("strace");
        strace.args(["-f", "-q", "-y", "-e", "trace=fsync", "-p", &pid]).arg("-o").arg(trace(driver));
        strace.args(["-e", &format!("inject=fsync:error=EIO{calls}")]);
        if let Some(path) = of {
            strace.arg("-P").arg(path);
        }
        let tracer = Tracer(strace.stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        let threads =
            || std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().map(|thread| thread.unwrap().path());
        let traced = |thread: PathBuf| {
            let status = std::fs::read_to_string(thread.join("status")).unwrap_or_default();
            !status.contains("TracerPid:\t0")
        };
        let begun = Instant::now();
        while !threads().all(traced) {
            assert!(begun.elapsed() < LONG, "strace does not attach");
            std::thread::sleep(Duration::from_millis(5));
        }
        tracer
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        let _ = kill_process(Pid::from_child(&self.0), Signal::TERM);
        let _ = self.0.wait();
    }
}

/// Whether processes can be traced here; says why not where they cannot.
fn traces() -> bool {
    let traced = Command::new("strace").args(["-q", "-o", "/dev/null", "true"]).status();
    if traced.is_ok_and(|status| status.success()) {
        return true;
    }
    skipped("needs strace and a kernel that lets it trace");
    false
}

/// Where a tracer writes down what it saw.
fn trace(driver: &Driver) -> PathBuf {
    driver.log.with_file_name("trace")
}

fn create(place: &Place, name: &str, pool: &str) -> (Option<i32>, String) {
    let pool = format!("pool={pool}");
    let done = place.ctl(&["volume", "create", name, "--size", "64MiB", "--block", "--parameter", &pool]);
    (done.status.code(), String::from_utf8([done.stdout, done.stderr].concat()).unwrap())
}

fn names(place: &Place) -> Vec<String> {
    let listed = place.ctl(&["volume", "list", "-o", "json"]);
    let listed: Value = serde_json::from_slice(&listed.stdout).unwrap();
    listed["volumes"].as_array().unwrap().iter().map(|volume| volume["volume_id"].to_string()).collect()
}

fn shown(pool: &Pool<'_>, place: &Place) -> Value {
    let shown = pool
        .command("show", &["-o", "json"])
        .arg("--state-dir")
        .arg(place.path("state_dir"))
        .output()
        .unwrap();
    serde_json::from_slice(&shown.stdout).unwrap()
}

/// The files of the pool's objects and their records, without those that are just being written: every few seconds the driver
/// writes one to see whether it can.
fn objects(root: &Path) -> Vec<PathBuf> {
    let parts = ["volumes", "tmp", "records"].map(|part| std::fs::read_dir(root.join(part)).unwrap());
    let mut all: Vec<_> = parts.into_iter().flatten().map(|entry| entry.unwrap().path()).collect();
    all.retain(|path| !path.file_name().unwrap().to_str().unwrap().starts_with(".new."));
    all.sort();
    all
}

/// A driver with the pool `fast` in a file and `toy` in memory.
fn with_a_pool(test: impl FnOnce(&Place, &Pool<'_>, &Path)) {
    if !traces() {
        return;
    }
    let place = Place::new();
    let pool = Pool::init(&place);
    let config = std::fs::read_to_string(place.path("config.toml")).unwrap();
    place.configure(&format!("{config}\n[[pool]]\nname = \"toy\"\nkind = \"sim\"\n"));
    let root = PathBuf::from(shown(&pool, &place)["path"].as_str().unwrap());
    test(&place, &pool, &root);
}

#[test]
fn a_record_that_did_not_become_durable_is_written_again_to_another_file() {
    with_a_pool(|place, _, _| {
        let driver = place.start();
        let tracer = Tracer::fail(&driver, ":when=1", None);
        let (code, said) = create(place, "one", "fast");
        assert_eq!(code, Some(0), "{said}");
        drop(tracer);
        assert!(driver.log().contains("written once more"), "{}", driver.log());
        // An fsync of the same file would have succeeded, and meant nothing.
        let trace = std::fs::read_to_string(trace(&driver)).unwrap();
        let files = trace.lines().filter_map(|line| line.split_once("/.new.")?.1.split_once('>'));
        let files: Vec<_> = files.map(|(name, _)| name).collect();
        assert!(files.len() >= 2 && files[0] != files[1], "{trace}");
        let before = names(place);
        drop(driver);
        let _driver = place.start();
        assert_eq!((names(place), before.len()), (before, 1));
    });
}

#[test]
fn a_pool_whose_disk_makes_nothing_durable_is_fenced_and_comes_back_by_itself() {
    with_a_pool(|place, pool, root| {
        let driver = place.start();
        assert_eq!(create(place, "before", "fast").0, Some(0));
        let before = (names(place), objects(root));
        let tracer = Tracer::fail(&driver, "", None);
        let (code, said) = create(place, "one", "fast");
        assert_eq!(code, UNAVAILABLE, "{said}");
        assert!(said.contains("Input/output error") && said.contains("fast"), "{said}");
        for _ in 0..3 {
            let (code, said) = create(place, "one", "fast");
            assert_eq!(code, UNAVAILABLE, "{said}");
            assert!(said.contains("pool `fast`") && said.contains("takes no changes"), "{said}");
        }
        assert_eq!(names(place), before.0, "what is there can be listed");
        assert_eq!(create(place, "two", "toy").0, Some(0), "the other pool serves on");
        let capacity = place.ctl(&["capacity", "-o", "json", "--parameter", "pool=fast"]);
        let capacity: Value = serde_json::from_slice(&capacity.stdout).unwrap();
        assert_eq!(capacity["available_capacity"].as_i64().unwrap_or(0), 0, "{capacity}");
        eventually("pool show says fenced", || shown(pool, place)["state"] == "fenced");
        assert!(shown(pool, place)["why"].as_str().unwrap().contains("Input/output error"));
        assert_eq!(objects(root), before.1, "nothing was left");
        drop(tracer);
        eventually("the pool is back", || create(place, "one", "fast").0 == Some(0));
        assert_eq!(shown(pool, place)["state"], "here");
        assert_eq!(names(place).len(), 3);
    });
}

#[test]
fn what_a_failed_sync_of_a_directory_left_is_read_anew_and_never_made_twice() {
    // The record that begins the volume, and the one that ends it.
    for nth in [1, 2] {
        with_a_pool(|place, _, root| {
            let driver = place.start();
            let tracer = Tracer::fail(&driver, &format!(":when={nth}"), Some(&root.join("records")));
            let (code, said) = create(place, "one", "fast");
            assert_eq!(code, UNAVAILABLE, "{nth}: {said}");
            let (code, said) = create(place, "one", "fast");
            assert_eq!(code, UNAVAILABLE, "{nth}: {said}");
            drop(tracer);
            eventually("the pool is back", || create(place, "one", "fast").0 == Some(0));
            assert_eq!((names(place).len(), objects(root).len()), (1, 2), "{nth}: {:?}", objects(root));
        });
    }
}

#[test]
fn an_image_that_did_not_become_durable_is_no_volume() {
    with_a_pool(|place, _, root| {
        let driver = place.start();
        // After those of the record and of its directory.
        let tracer = Tracer::fail(&driver, ":when=3", None);
        let (code, said) = create(place, "one", "fast");
        assert_eq!(code, INTERNAL, "{said}");
        assert!(said.contains("failed to make a file durable"), "{said}");
        drop(tracer);
        assert_eq!((names(place), objects(root)), (Vec::new(), Vec::new()));
        assert_eq!(create(place, "one", "fast").0, Some(0));
    });
}
