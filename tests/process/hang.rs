//! A disk that hangs: its own pool waits, and nothing else, not even after the driver was killed in the middle of it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::harness::{Driver, LONG, PROGRAM, Place, eventually, in_time, until};

/// A pool in a file, on a filesystem that can be made to hang, and one that has nothing to do with it.
struct Pools<'a> {
    place: &'a Place,
    ground: PathBuf,
}

impl<'a> Pools<'a> {
    fn new(place: &'a Place) -> Pools<'a> {
        let (image, ground) = (place.path("ground.img"), place.path("ground"));
        std::fs::File::create(&image).unwrap().set_len(1 << 30).unwrap();
        std::fs::create_dir(&ground).unwrap();
        run(Command::new("mkfs.ext4").arg("-q").arg(&image));
        run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&ground));
        let pools = Pools { place, ground };
        std::fs::remove_file(place.path("config.toml")).unwrap();
        let size = ["--size", "400MiB", "--sparse"];
        run(pools
            .command("init", "stuck")
            .args(["--kind", "image"])
            .args(size)
            .arg("--file")
            .arg(pools.ground.join("pool.img"))
            .arg("--mount-parent")
            .arg(place.path("pools")));
        run(pools
            .command("init", "fine")
            .args(["--kind", "image"])
            .args(size)
            .arg("--file")
            .arg(place.path("fine.img"))
            .arg("--mount-parent")
            .arg(place.path("pools")));
        pools
    }

    fn command(&self, verb: &str, name: &str) -> Command {
        let mut command = Command::new(PROGRAM);
        command.args(["pool", verb, name]).arg("--config").arg(self.place.path("config.toml"));
        command
    }

    /// Whatever is to be written to the disk of the pool `stuck` now waits.
    fn hang(&self) -> Hang {
        run(Command::new("fsfreeze").arg("-f").arg(&self.ground));
        Hang(self.ground.clone())
    }
}

/// A disk that hangs until this is dropped. To be declared after every driver on it, since locals go in reverse order: none
/// ends before.
struct Hang(PathBuf);

impl Drop for Hang {
    fn drop(&mut self) {
        let _ = Command::new("fsfreeze").arg("-u").arg(&self.0).output();
    }
}

/// A call that may take for ever, ended with the test.
pub(crate) struct Call(Child);

impl Drop for Call {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn run(command: &mut Command) {
    let done = command.output().unwrap();
    assert!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr));
}

pub(crate) fn call(place: &Place, words: &[&str]) -> Call {
    let mut command = Command::new(PROGRAM);
    command.arg("ctl").arg("--endpoint").arg(place.socket()).args(words);
    Call(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
}

/// A call that must be answered within a second, with this word in what it says. What the program itself takes here is no part
/// of that.
pub(crate) fn soon(place: &Place, words: &[&str], said: &str) -> Output {
    let begun = Instant::now();
    assert!(place.ctl(&["plugin", "info"]).status.success());
    let here = begun.elapsed().min(Duration::from_secs(2));
    let done = in_time(Duration::from_secs(1) + here, || place.ctl(words));
    let all = String::from_utf8_lossy(&[&done.stdout[..], &done.stderr].concat()).into_owned();
    assert!(all.contains(said), "{words:?}: {all}");
    done
}

/// The states of a process's threads, as in `ps`.
fn states(driver: &Driver) -> Vec<char> {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", driver.child.id())).unwrap();
    let stats = tasks.flatten().filter_map(|task| std::fs::read_to_string(task.path().join("stat")).ok());
    stats.filter_map(|stat| stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next())).collect()
}

/// How many threads the pool `stuck` has.
fn threads(driver: &Driver) -> usize {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", driver.child.id())).unwrap();
    let names = tasks.flatten().filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok());
    names.filter(|name| name.trim() == "stuck").count()
}

/// What the process itself has open, apart from what its pools' threads have.
fn open_files(driver: &Driver) -> Vec<PathBuf> {
    let files = std::fs::read_dir(format!("/proc/{}/fd", driver.child.id())).unwrap();
    files.flatten().filter_map(|file| std::fs::read_link(file.path()).ok()).collect()
}

const ON_STUCK: [&str; 2] = ["--parameter", "pool=stuck"];
const ON_FINE: [&str; 2] = ["--parameter", "pool=fine"];

#[test]
fn a_disk_that_hangs_keeps_nothing_else_waiting_not_even_after_a_kill() {
    let place = Place::new();
    let pools = Pools::new(&place);
    let mut driver = place.start();
    let create = |name: &'static str, on: [&'static str; 2]| {
        ["volume", "create", name, "--size", "16MiB", on[0], on[1]]
    };
    let made = place.ask(&create("a", ON_STUCK));
    let a = made["volume_id"].as_str().unwrap();
    place.ask(&create("b", ON_FINE));
    let of_pools = |path: &PathBuf| path.starts_with(place.path("pools"));
    let open = open_files(&driver);
    assert!(!open.iter().any(of_pools), "the pools' files are open in the process: {open:?}");

    let mut second;
    let hang = pools.hang();
    let _expand = call(&place, &["volume", "expand", a, "--size", "32MiB"]);
    eventually("a thread hangs", || states(&driver).contains(&'D'));
    soon(&place, &["plugin", "probe"], "");
    assert!(soon(&place, &create("c", ON_FINE), "").status.success());
    soon(&place, &["volume", "delete", a], "ABORTED");
    soon(&place, &["volume", "list"], a);
    // As many as there are threads: then no thread is left that could say who works on what.
    let waiting: Vec<_> = (0..8)
        .map(|n| {
            call(&place, &["volume", "create", &format!("w{n}"), "--size", "16MiB", ON_STUCK[0], ON_STUCK[1]])
        })
        .collect();
    // One looks, eight work; the last is started when all before have work.
    eventually("all threads are taken", || threads(&driver) == 9);
    soon(&place, &["volume", "delete", a], "ABORTED");
    soon(&place, &["plugin", "probe"], "");
    assert!(soon(&place, &create("d", ON_FINE), "").status.success());
    // Its own pool is found to hang, and what is in the other is told all the same.
    let roots = std::fs::read_dir(place.path("pools")).unwrap().map(|entry| entry.unwrap().path());
    let stray = roots
        .filter(|root| root.to_string_lossy().contains("fine"))
        .map(|root| root.join("stray"))
        .next()
        .unwrap();
    std::fs::write(&stray, "").unwrap();
    let begun = Instant::now();
    let found = place.ctl(&["doctor", "--json"]);
    let told: serde_json::Value = serde_json::from_slice(&found.stdout).unwrap();
    let of = |pool: &str| {
        let told = told["findings"].as_array().unwrap().iter().filter(|one| one["pool"] == pool);
        told.map(|one| one["code"].as_str().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!((of("stuck"), of("fine")), (vec!["RP-POOL-SILENT"], vec!["RP-FOREIGN-FILE"]), "{found:?}");
    assert!(begun.elapsed() < LONG, "{:?}", begun.elapsed());
    println!("a pool that hangs was told of after {} ms", begun.elapsed().as_millis());
    std::fs::remove_file(&stray).unwrap();
    let room = |on: [&str; 2]| {
        let asked = [&["-o", "json", "capacity"], &on[..]].concat();
        let said: serde_json::Value = serde_json::from_slice(&place.ctl(&asked).stdout).unwrap();
        said["available_capacity"].as_i64().unwrap()
    };
    // A disk that has kept calls waiting for so long is not chosen.
    std::thread::sleep(Duration::from_secs(6));
    let all = room(["--parameter", "csi.storage.k8s.io/fstype=ext4"]);
    assert!(room(ON_STUCK) == 0 && room(ON_FINE) > 0 && all > 0, "{all}");
    assert!(soon(&place, &["volume", "create", "e", "--size", "16MiB"], "").status.success());

    driver.signal(Signal::KILL);
    drop(waiting);
    let killed = Instant::now();
    second = place.start();
    assert!(place.ctl(&create("f", ON_FINE)).status.success(), "{}", second.log());
    let served = killed.elapsed();
    assert!(served < Duration::from_secs(10), "{served:?} after the kill:\n{}", second.log());
    println!("the other pool was served {} ms after the kill", served.as_millis());
    assert!(driver.child.try_wait().unwrap().is_none(), "the first driver has ended: nothing hung");
    assert_eq!(room(ON_STUCK), 0, "nor is there room in one that was never open");
    soon(&place, &create("g", ON_STUCK), "UNAVAILABLE");
    soon(&place, &["volume", "delete", a], "stuck");
    soon(&place, &["volume", "list"], "UNAVAILABLE");
    let found = soon(&place, &["doctor", "--json"], "RP-POOL-AWAY");
    assert_eq!(
        found.status.code(),
        Some(4),
        "the other pool and the host are looked at all the same: {found:?}"
    );

    drop(hang);
    driver.ends();
    until(&mut second, "the pool is back", LONG, || place.ctl(&["volume", "delete", a]).status.success());
    soon(&place, &["plugin", "probe"], "");
}

#[test]
fn a_pool_that_hangs_at_the_start_says_so_and_the_others_serve() {
    let place = Place::new();
    let pools = Pools::new(&place);
    let mut driver;
    let hang = pools.hang();
    driver = place.start();
    // It serves before it says so.
    until(&mut driver, "it says how long it took", LONG, || {
        std::fs::read_to_string(place.path("log")).unwrap().contains("start_ms=")
    });
    let log = driver.log();
    let took: u64 =
        log.split_once("start_ms=").unwrap().1.split_whitespace().next().unwrap().parse().unwrap();
    assert!(took < 5000, "as long as it waits where no pool works: {log}");
    assert!(states(&driver).contains(&'D'), "nothing hangs: {}", driver.log());
    assert!(
        soon(&place, &["volume", "create", "a", "--size", "16MiB", ON_FINE[0], ON_FINE[1]], "")
            .status
            .success()
    );
    let refused =
        soon(&place, &["volume", "create", "b", "--size", "16MiB", ON_STUCK[0], ON_STUCK[1]], "UNAVAILABLE");
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("`stuck`") && said.contains("being opened"), "{said}");
    soon(&place, &["volume", "list"], "UNAVAILABLE");
    drop(hang);
    until(&mut driver, "the pool is open", LONG, || {
        place.ctl(&["volume", "create", "b", "--size", "16MiB", ON_STUCK[0], ON_STUCK[1]]).status.success()
    });
    let made = place.ask(&["volume", "create", "b", "--size", "16MiB", ON_STUCK[0], ON_STUCK[1]]);
    soon(&place, &["volume", "list"], made["volume_id"].as_str().unwrap());
}

#[test]
fn who_looks_without_a_driver_tells_of_the_pool_that_hangs_and_holds_no_other() {
    let place = Place::new();
    let pools = Pools::new(&place);
    let driver;
    let (config, to) = (place.path("config.toml"), place.path("bundle.tar"));
    let hang = pools.hang();
    let begin = |words: &[&str]| {
        let mut command = Command::new(PROGRAM);
        command
            .args(["ctl", "--admin-endpoint"])
            .arg(place.admin_socket())
            .args(words)
            .arg("--config")
            .arg(&config);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        (Instant::now(), child)
    };
    let end = |(begun, child): (Instant, Child)| {
        // Whoever is left behind with the disk must not keep the reader waiting, either.
        let done = child.wait_with_output().unwrap();
        assert!(begun.elapsed() < LONG, "{:?}", begun.elapsed());
        done
    };
    let doctor = begin(&["doctor", "--json"]);
    let pid = doctor.1.id();
    let sent = || std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let hangs = |pid: &str| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('D'))
    };
    let alone = |all: &str| all.split_whitespace().count() == 1 && hangs(all.trim());
    eventually("one looks at the pool that hangs, and none at the other", || alone(&sent()));
    driver = place.start();
    let made = place.ctl(&["volume", "create", "a", "--size", "16MiB", ON_FINE[0], ON_FINE[1]]);
    assert!(made.status.success(), "{made:?}: {}", driver.log());
    let bundle = begin(&["support-bundle", "--to", to.to_str().unwrap()]);
    let done = end(doctor);
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    let told: serde_json::Value = serde_json::from_str(&said).unwrap();
    let told = told["findings"].as_array().unwrap();
    let of = |pool: &str| {
        told.iter()
            .filter(|one| one["pool"] == pool)
            .map(|one| one["code"].as_str().unwrap())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        (of("stuck"), of("fine"), done.status.code()),
        (vec!["RP-POOL-SILENT"], vec![], Some(4)),
        "{said}"
    );
    let done = end(bundle);
    assert!(done.status.success(), "{done:?}");
    let packed = Command::new("tar").arg("-tf").arg(&to).output().unwrap();
    let packed = String::from_utf8_lossy(&packed.stdout).into_owned();
    assert!(packed.contains("pools/fine/records.json") && !packed.contains("pools/stuck/"), "{packed}");
    drop(hang);
}

#[test]
fn a_look_that_is_killed_is_a_failure_of_its_pool_and_the_others_are_told() {
    let place = Place::new();
    let pools = Pools::new(&place);
    let fine = place.path("pools").read_dir().unwrap().flatten().map(|pool| pool.path());
    let fine = fine.into_iter().find(|pool| pool.to_string_lossy().contains("fine")).unwrap();
    std::fs::write(fine.join("volumes/notes.txt"), "shopping").unwrap();
    let hang = pools.hang();
    let config = place.path("config.toml");
    let mut command = Command::new(PROGRAM);
    command.args(["ctl", "doctor", "--json", "--config"]).arg(&config);
    let doctor = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let pid = doctor.id();
    let sent = || std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let mut hanging = None;
    eventually("one looks at the pool that hangs, and none at the other", || {
        let all = sent();
        let mut all = all.split_whitespace();
        hanging = all.next().and_then(|pid| pid.parse().ok()).and_then(Pid::from_raw);
        hanging.is_some() && all.next().is_none()
    });
    kill_process(hanging.unwrap(), Signal::KILL).unwrap();
    drop(hang);
    let done = doctor.wait_with_output().unwrap();
    let (told, said) = (String::from_utf8(done.stdout).unwrap(), String::from_utf8(done.stderr).unwrap());
    assert!(told.contains("RP-FOREIGN-FILE") && told.contains("notes.txt"), "the other pool: {told}{said}");
    assert!(said.contains("pool `stuck`: the look at it broke off: signal: 9"), "{said}");
    assert_eq!(done.status.code(), Some(1), "{told}{said}");
}

#[test]
fn the_files_of_a_pool_close_with_its_driver() {
    let place = Place::new();
    let _pools = Pools::new(&place);
    for _ in 0..3 {
        let mut driver = place.start();
        assert!(place.ctl(&["plugin", "probe"]).status.success(), "{}", driver.log());
        driver.signal(Signal::TERM);
        assert!(driver.ends().success());
    }
    assert!(Path::new(&place.path("pools")).exists());
}
