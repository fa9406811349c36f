//! A freeze outlives neither the driver's death nor its sleep. Real mounts, the real program, real signals.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::doctor::{Way, doctor, findings};
use crate::harness::{Driver, PROGRAM, Place};
use crate::life::text;
use crate::pools::Pool;

/// So many that the cut takes long enough to be met.
const MEMBERS: usize = 16;
/// What the driver promises.
const LIMIT: Duration = Duration::from_secs(5);

/// Mounted volumes; nothing of them stays frozen.
struct Staged<'a> {
    place: &'a Place,
    volumes: Vec<(String, PathBuf)>,
}

impl<'a> Staged<'a> {
    fn new(place: &'a Place) -> Staged<'a> {
        Staged::of(place, MEMBERS, &["--size", "16MiB"])
    }

    /// So many, made with these words.
    fn of(place: &'a Place, count: usize, words: &[&str]) -> Staged<'a> {
        let mut staged = Staged { place, volumes: Vec::new() };
        for number in 0..count {
            let name = format!("v{number}");
            let made = ok(place.ctl(&[&["-o", "json", "volume", "create", &name], words].concat()));
            let made: serde_json::Value = serde_json::from_str(&made).unwrap();
            let id = made["volume_id"].as_str().unwrap().to_owned();
            let staging = place.path(&format!("kubelet/staging/{number}"));
            ok(place.ctl(&["volume", "stage", &id, "--staging", staging.to_str().unwrap()]));
            staged.volumes.push((id, staging));
        }
        staged
    }

    /// A group snapshot of all, by a program of its own.
    fn cut(&self, name: &str) -> Command {
        let mut command = Command::new(PROGRAM);
        command.arg("ctl").arg("--endpoint").arg(self.place.socket()).args(["group", "create", name]);
        for (id, _) in &self.volumes {
            command.args(["--volume", id]);
        }
        command
    }

    /// Writes to the first volume, and says so when it is done.
    fn write(&self) -> Receiver<()> {
        let (done, wait) = channel();
        let file = self.volumes[0].1.join("file");
        std::thread::spawn(move || {
            std::fs::write(file, "goes on").unwrap();
            let _ = done.send(());
        });
        wait
    }

    /// Whether the first volume is frozen, as the kernel says.
    fn is_frozen(&self) -> bool {
        let run = |how| Command::new("fsfreeze").arg(how).arg(&self.volumes[0].1).output().unwrap();
        let tried = run("-f");
        if tried.status.success() {
            ok(run("-u"));
            return false;
        }
        let said = String::from_utf8_lossy(&tried.stderr);
        assert!(said.contains("busy"), "{said}");
        true
    }

    /// Stops the driver and its freezer in the middle of a cut, and kills the freezer. Answers what waits for the cut, and what waits for a
    /// write that hangs.
    fn stop_with_its_freezer(&self, driver: &Driver) -> (std::process::Child, Receiver<()>) {
        for attempt in 0..60 {
            let mut cut = self.cut(&format!("g{attempt}"));
            let mut cut = cut.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            let mut found = None;
            while found.is_none() && cut.try_wait().unwrap().is_none() {
                found = freezer(driver);
            }
            driver.signal(Signal::STOP);
            let stopped = found.map(Stopped::new);
            if self.is_frozen() {
                kill_process(stopped.unwrap().0, Signal::KILL).unwrap();
                return (cut, self.write());
            }
            drop(stopped);
            driver.signal(Signal::CONT);
            cut.wait().unwrap();
        }
        panic!("the driver was never met with something frozen");
    }

    /// Unmounts and deletes all, and what was cut of them.
    fn remove(&self) {
        let groups = self.place.ask(&["snapshot", "list"]);
        for one in groups["snapshots"].as_array().unwrap() {
            let group = text(one, "group_snapshot_id");
            let deleted = self.place.ctl(&["group", "delete", group]);
            assert!(deleted.status.success(), "{deleted:?}");
        }
        for (id, staging) in &self.volumes {
            ok(self.place.ctl(&["volume", "unstage", id, "--staging", staging.to_str().unwrap()]));
            ok(self.place.ctl(&["volume", "delete", id]));
        }
    }

    /// Stops the driver in the middle of a cut. Answers what waits for the cut, what waits for a write that hangs, and when the
    /// cut was asked for: its freeze has not begun before, and was met long before its limit.
    fn stop_while_frozen(&self, driver: &Driver) -> (std::process::Child, Receiver<()>, Instant) {
        for attempt in 0..60 {
            let asked = Instant::now();
            let mut cut = self.cut(&format!("g{attempt}"));
            let mut cut = cut.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
            while !is_frozen(driver) && cut.try_wait().unwrap().is_none() {}
            driver.signal(Signal::STOP);
            if self.is_frozen() && asked.elapsed() < LIMIT / 2 {
                return (cut, self.write(), asked);
            }
            driver.signal(Signal::CONT);
            cut.wait().unwrap();
        }
        panic!("the driver was never met with something frozen");
    }
}

impl Drop for Staged<'_> {
    fn drop(&mut self) {
        for (_, staging) in &self.volumes {
            let _ = Command::new("fsfreeze").arg("-u").arg(staging).stderr(Stdio::null()).status();
        }
    }
}

fn ok(output: Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Whether a child of the driver says that all is frozen.
fn is_frozen(driver: &Driver) -> bool {
    freezer(driver).is_some()
}

/// The child of the driver that says that all is frozen.
fn freezer(driver: &Driver) -> Option<Pid> {
    let ours = format!(" {} ", driver.child.id());
    std::fs::read_dir("/proc").unwrap().flatten().find_map(|process| {
        let stat = std::fs::read_to_string(process.path().join("stat")).unwrap_or_default();
        let (pid, rest) = stat.split_once(" (rockpool-frozen) ")?;
        let is_ours = rest.get(1..).unwrap_or_default().starts_with(&ours);
        Pid::from_raw(pid.parse().ok().filter(|_| is_ours)?)
    })
}

/// A process that is stopped, until this is dropped.
struct Stopped(Pid);

impl Stopped {
    fn new(pid: Pid) -> Stopped {
        // It may have ended.
        let _ = kill_process(pid, Signal::STOP);
        Stopped(pid)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = kill_process(self.0, Signal::CONT);
    }
}

#[test]
fn a_killed_driver_leaves_nothing_frozen() {
    let place = Place::new();
    let _pool = Pool::init(&place);
    let mut driver = place.start();
    let staged = Staged::new(&place);
    let (mut cut, written, asked) = staged.stop_while_frozen(&driver);
    driver.signal(Signal::KILL);
    written.recv_timeout(Duration::from_secs(60)).unwrap();
    assert!(asked.elapsed() < LIMIT, "{:?}: it may have been the limit", asked.elapsed());
    driver.ends();
    assert!(!cut.wait().unwrap().success());

    // Nothing of that cut is left, and the next one is whole.
    let _driver = place.start();
    let listed = ok(place.ctl(&["-o", "json", "snapshot", "list"]));
    assert_eq!(listed.matches("\"snapshot_id\"").count() % MEMBERS, 0, "{listed}");
    ok(staged.cut("whole").output().unwrap());
}

#[test]
fn a_driver_that_sleeps_keeps_nothing_frozen_and_its_cut_does_not_count() {
    let place = Place::new();
    let _pool = Pool::init(&place);
    let driver = place.start();
    let staged = Staged::new(&place);
    let (cut, written, asked) = staged.stop_while_frozen(&driver);
    written.recv_timeout(Duration::from_secs(60)).unwrap();
    let frozen = asked.elapsed();
    assert!(frozen >= LIMIT, "{frozen:?}: something else thawed it");
    assert!(frozen < LIMIT * 2, "{frozen:?}");
    driver.signal(Signal::CONT);
    let refused = cut.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && said.contains("does not count"), "{said}");
    ok(staged.cut("whole").output().unwrap());
}

#[test]
fn a_freezer_that_sleeps_keeps_nothing_frozen_and_its_note_goes_with_the_thaw() {
    let place = Place::new();
    let _pool = Pool::init(&place);
    let driver = place.start();
    let staged = Staged::new(&place);
    for attempt in 0..60 {
        let mut cut = staged.cut(&format!("g{attempt}"));
        let mut cut = cut.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut found = None;
        while found.is_none() && cut.try_wait().unwrap().is_none() {
            found = freezer(&driver);
        }
        let stopped = found.map(Stopped::new);
        if stopped.is_none() || !staged.is_frozen() {
            drop(stopped);
            cut.wait().unwrap();
            continue;
        }
        let refused = cut.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&refused.stderr);
        assert!(!refused.status.success() && said.contains("UNAVAILABLE"), "{said}");
        assert!(!staged.is_frozen(), "nobody thaws: {said}");
        let notes = std::fs::read_dir(place.path("state_dir/freezes")).unwrap();
        assert_eq!(notes.count(), 0, "{said}");
        drop(stopped);
        ok(staged.cut("whole").output().unwrap());
        return;
    }
    panic!("the freezer was never met with something frozen");
}

#[test]
fn what_a_dead_container_left_frozen_thaws_at_the_next_start_whatever_became_of_its_record() {
    let place = Place::new();
    let pool = Pool::init(&place);
    for record_is_there in [true, false] {
        let mut driver = place.start();
        let staged = Staged::new(&place);
        // Stopped, the freezer neither thaws nor gives up; it and its driver end together.
        let (mut cut, written) = staged.stop_with_its_freezer(&driver);
        driver.signal(Signal::KILL);
        driver.ends();
        assert!(!cut.wait().unwrap().success());
        assert!(staged.is_frozen(), "a freeze outlives who froze");

        // Whoever looks while no driver runs does not know what is frozen, and must not remove the only word of it.
        let looked = doctor(&place, Way::Offline, &["--json"]);
        let found = findings(&looked);
        let of_group: Vec<_> = found.iter().filter(|one| text(one, "object").starts_with('g')).collect();
        let [group] = of_group[..] else { panic!("{found:?}") };
        let group_id = text(group, "object");
        assert!(text(group, "repair").contains("start the driver"), "{group}");
        let repaired = doctor(&place, Way::Offline, &["--repair", "RP-INTERRUPTED", "--object", group_id]);
        let said = String::from_utf8_lossy(&repaired.stderr).into_owned();
        assert!(!repaired.status.success() && said.contains("start the driver"), "{said}");
        let records = pool.root().join("records");
        assert!(records.join(group_id).exists() && staged.is_frozen());
        if !record_is_there {
            std::fs::remove_file(records.join(group_id)).unwrap();
        }

        let _driver = place.start();
        written.recv_timeout(Duration::from_secs(60)).unwrap();
        assert!(!staged.is_frozen());
        assert_eq!(std::fs::read_dir(place.path("state_dir/freezes")).unwrap().count(), 0);
        staged.remove();
    }
}

/// An xfs is frozen for less than a millisecond when it grows: too short to be met.
#[test]
fn what_a_dead_container_left_frozen_in_a_growth_thaws_at_the_next_start() {
    let place = Place::new();
    let _pool = Pool::of_size(&place, "800MiB");
    let mut driver = place.start();
    let staged = Staged::of(&place, 1, &["--size", "300MiB", "--fs", "xfs"]);
    let (id, staging) = &staged.volumes[0];
    ok(place.ctl(&["volume", "expand", id, "--size", "320MiB"]));
    let grow = || place.ctl(&["volume", "node-expand", id, "--path", staging.to_str().unwrap()]);
    let notes = place.path("state_dir/freezes");
    let aside = place.path("state_dir/aside");
    std::fs::rename(&notes, &aside).unwrap();
    let refused = grow();
    assert!(!refused.status.success(), "it grows though nobody would know that it is frozen");
    std::fs::rename(&aside, &notes).unwrap();
    ok(grow());
    assert_eq!(std::fs::read_dir(&notes).unwrap().count(), 0);

    driver.signal(Signal::KILL);
    driver.ends();
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    std::fs::write(notes.join(id), format!("{}\n{id}", boot.trim())).unwrap();
    ok(Command::new("fsfreeze").arg("-f").arg(staging).output().unwrap());
    let written = staged.write();
    let _driver = place.start();
    written.recv_timeout(Duration::from_secs(60)).unwrap();
    assert!(!staged.is_frozen());
    assert_eq!(std::fs::read_dir(&notes).unwrap().count(), 0);
    staged.remove();
}

#[test]
fn what_somebody_else_froze_stays_though_the_note_of_a_whole_group_was_left() {
    let place = Place::new();
    let _pool = Pool::init(&place);
    let mut driver = place.start();
    let staged = Staged::new(&place);
    let cut: serde_json::Value =
        serde_json::from_str(&ok(staged.cut("whole").args(["-o", "json"]).output().unwrap())).unwrap();
    let group = text(&cut, "group_snapshot_id");
    driver.signal(Signal::KILL);
    driver.ends();
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let ids: Vec<&str> = staged.volumes.iter().map(|(id, _)| id.as_str()).collect();
    let note = place.path("state_dir/freezes").join(group);
    std::fs::write(&note, format!("{}\n{}", boot.trim(), ids.join("\n"))).unwrap();
    // A backup's hook, say.
    ok(Command::new("fsfreeze").arg("-f").arg(&staged.volumes[0].1).output().unwrap());
    let _driver = place.start();
    assert!(staged.is_frozen() && !note.exists());
}
