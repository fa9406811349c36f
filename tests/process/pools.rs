//! Pools from the command line, and who may have them.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::harness::{PROGRAM, Place, eventually, until};

/// A mounted pool in a file; its place unmounts it with the test.
pub(crate) struct Pool<'a>(&'a Place);

impl<'a> Pool<'a> {
    pub(crate) fn init(place: &'a Place) -> Pool<'a> {
        Pool::of_size(place, "400MiB")
    }

    pub(crate) fn of_size(place: &'a Place, size: &str) -> Pool<'a> {
        std::fs::remove_file(place.path("config.toml")).unwrap();
        let pool = Pool(place);
        let made = pool
            .command("init", &["--kind", "image", "--size", size, "--sparse"])
            .arg("--file")
            .arg(place.path("pool.img"))
            .arg("--mount-parent")
            .arg(place.path("pools"))
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        pool
    }

    /// More keys for its entry.
    pub(crate) fn set(&self, lines: &str) {
        let file = self.0.path("config.toml");
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, format!("{text}{lines}\n")).unwrap();
    }

    /// Its directory.
    pub(crate) fn root(&self) -> PathBuf {
        std::fs::read_dir(self.0.path("pools")).unwrap().next().unwrap().unwrap().path()
    }

    pub(crate) fn command(&self, verb: &str, words: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        command.args(["pool", verb, "fast"]).args(words).arg("--config").arg(self.0.path("config.toml"));
        command
    }
}

#[test]
fn a_pool_that_another_container_holds_is_away_until_it_lets_go() {
    let (first, second) = (Place::new(), Place::new());
    for place in [&first, &second] {
        std::fs::remove_file(place.path("config.toml")).unwrap();
    }
    let init = |place: &Place, name: &str, root: &std::path::Path| {
        let mut command = Command::new(PROGRAM);
        command
            .args(["pool", "init", name, "--kind", "directory", "--quota", "none", "--directory"])
            .arg(root);
        let done = command.arg("--config").arg(place.path("config.toml")).output().unwrap();
        assert!(done.status.success(), "{done:?}");
    };
    let (held, free) = (first.path("held"), second.path("free"));
    for root in [&held, &free] {
        std::fs::create_dir(root).unwrap();
    }
    init(&first, "held", &held);
    init(&second, "free", &free);
    let both = [&first, &second].map(|place| std::fs::read_to_string(place.path("config.toml")).unwrap());
    second.configure(&both.concat());

    let mut contained = Command::new("unshare");
    contained.args(["--pid", "--fork", "--kill-child", "--mount-proc", PROGRAM]);
    let told = first.command();
    contained.args(told.get_args()).env_clear();
    contained.envs(told.get_envs().filter_map(|(key, value)| Some((key, value?))));
    let holder = first.start_with(&mut contained);
    assert!(first.ctl(&["plugin", "probe"]).status.success(), "{}", holder.log());

    let mut driver = second.start();
    second.ask(&["volume", "create", "a", "--size", "16MiB", "--parameter", "pool=free"]);
    let b = ["volume", "create", "b", "--size", "16MiB", "--parameter", "pool=held"];
    let (_, said) = second.refused(&b);
    assert!(said.contains("UNAVAILABLE") && said.contains("another container"), "{said}");
    drop(holder);
    until(&mut driver, "the pool is taken", Duration::from_secs(60), || second.ctl(&b).status.success());
}

#[test]
fn a_second_process_on_a_pool_gives_up_and_names_the_first() {
    let place = Place::new();
    let _pool = Pool::init(&place);
    let first = place.start();
    let begun = Instant::now();
    let said = place.refusal(place.command().env("CSI_ENDPOINT", place.path("other.sock")));
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    assert!(
        said.contains(&first.child.id().to_string()),
        "the holder {} is not named: {said}",
        first.child.id()
    );
    assert!(!place.path("other.sock").exists());
    drop(first);
    // What a dead process held, nobody holds.
    let mut third = place.start();
    third.signal(Signal::TERM);
    assert!(third.ends().success());
}

#[test]
fn a_pool_may_be_left_unmounted_for_a_driver_that_has_another_path_for_it() {
    let place = Place::new();
    std::fs::remove_file(place.path("config.toml")).unwrap();
    let pool = Pool(&place);
    let (file, parent) = (place.path("pool.img"), place.path("pools"));
    let mut init = pool.command("init", &["--kind", "image", "--size", "400MiB", "--sparse", "--unmount"]);
    let made = init.arg("--file").arg(&file).arg("--mount-parent").arg(&parent).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    let said = String::from_utf8(made.stdout).unwrap();
    assert!(said.starts_with("pool fast: ready, not mounted, added to "), "{said}");
    let mounts = || std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts().contains(parent.to_str().unwrap()), "nothing of it stays mounted");
    // Whoever looks at all loop devices of the machine holds each for a moment.
    eventually("it has no loop device any more", || {
        Command::new("losetup").arg("-j").arg(&file).output().unwrap().stdout.is_empty()
    });
    // As the pool file of all nodes says it.
    let path = parent.join("fast");
    place.configure(&format!(
        "[[pool]]\nname = \"fast\"\nkind = \"image\"\npath = \"{}\"\nfile = \"{}\"\n",
        path.display(),
        file.display()
    ));
    let _driver = place.start();
    place.ask(&["volume", "create", "one", "--size", "64MiB"]);
    assert_eq!(mounts().matches(path.to_str().unwrap()).count(), 1);
}

#[test]
fn a_file_has_its_name_only_once_it_is_a_pool() {
    let place = Place::new();
    let config = place.path("config.toml");
    std::fs::remove_file(&config).unwrap();
    let pool = Pool(&place);
    let (file, parent) = (place.path("pool.img"), place.path("pools"));
    let attempt = || {
        let mut init = pool.command("init", &["--kind", "image", "--size", "400MiB", "--sparse"]);
        init.arg("--file").arg(&file).arg("--mount-parent").arg(&parent).env("RUST_BACKTRACE", "0");
        init
    };
    // What another one makes, or an interrupted one has left, is nobody else's.
    let unready = place.path(".pool.img.new");
    std::fs::write(&unready, "unready").unwrap();
    let refused = attempt().output().unwrap();
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(!refused.status.success() && said.contains(unready.to_str().unwrap()), "{said}");
    assert_eq!(std::fs::read(&unready).unwrap(), b"unready");
    std::fs::remove_file(&unready).unwrap();
    // A driver that looks for it the whole time.
    let mut making = attempt().spawn().unwrap();
    while !file.exists() {
        assert!(making.try_wait().unwrap().is_none_or(|status| status.success()), "it failed");
    }
    let roots = || std::fs::read_dir(&parent).into_iter().flatten().flatten();
    let is_pool = roots().any(|root| root.path().join("pool.json").exists());
    // Nothing may go on making what the test takes away.
    let made = making.wait().unwrap();
    assert!(is_pool, "it has its name before it is a pool");
    assert!(made.success() && !unready.exists());
    // It goes by its own name from then on.
    let _driver = place.start();
    place.ask(&["volume", "create", "one", "--size", "64MiB"]);
}

#[test]
fn a_directory_is_not_ours_to_unmount() {
    let place = Place::new();
    let directory = place.path("plain");
    std::fs::create_dir(&directory).unwrap();
    let made = Pool(&place)
        .command("init", &["--kind", "directory", "--quota", "none", "--unmount"])
        .arg("--directory")
        .arg(&directory)
        .output()
        .unwrap();
    let said = String::from_utf8(made.stderr).unwrap();
    assert!(!made.status.success() && said.contains("--unmount"), "{said}");
    assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 0, "nothing was made of it");
}

#[test]
fn a_pool_is_shown_while_a_driver_runs_on_it() {
    let place = Place::new();
    let pool = Pool::init(&place);
    let _driver = place.start();
    let made = place.ctl(&["volume", "create", "one", "--size", "64MiB"]);
    assert!(made.status.success(), "{made:?}");
    let shown = pool.command("show", &["-o", "json"]).output().unwrap();
    let shown: serde_json::Value = serde_json::from_slice(&shown.stdout).unwrap();
    assert_eq!((&shown["state"], &shown["promised_bytes"]), (&"here".into(), &(64 << 20).into()), "{shown}");
    assert_eq!(
        (&shown["objects"], &shown["features"]["snapshots"]["offered"]),
        (&1.into(), &true.into()),
        "{shown}"
    );
    assert!(place.ctl(&["plugin", "probe"]).status.success(), "the look disturbed the driver");
}

#[test]
fn a_pool_whose_sizes_are_not_enforced_says_so() {
    let place = Place::new();
    std::fs::remove_file(place.path("config.toml")).unwrap();
    std::fs::create_dir(place.path("plain")).unwrap();
    let run = |words: &[&str]| {
        let done = Command::new(PROGRAM)
            .args(words)
            .arg("--config")
            .arg(place.path("config.toml"))
            .output()
            .unwrap();
        (done.status.success(), String::from_utf8([done.stdout, done.stderr].concat()).unwrap())
    };
    let plain = place.path("plain");
    let init = [
        "pool",
        "init",
        "plain",
        "--kind",
        "directory",
        "--quota",
        "none",
        "--directory",
        plain.to_str().unwrap(),
    ];
    let (made, said) = run(&init);
    assert!(made, "{said}");
    let (_, shown) = run(&["pool", "show", "plain"]);
    assert!(shown.contains("VOLUME SIZES     not enforced"), "{shown}");
    assert!(shown.contains("no: a directory pool cannot cut a directory"), "{shown}");
    let (_, listed) = run(&["pool", "list"]);
    assert!(listed.contains("not enforced"), "{listed}");
    let (again, said) = run(&init);
    assert!(!again && said.contains("name `plain`"), "{said}");
    let (known, said) = run(&["pool", "show", "plane"]);
    assert!(!known && said.contains("plane") && said.contains("has plain"), "{said}");
    std::fs::remove_file(plain.join("pool.json")).unwrap();
    let (_, shown) = run(&["pool", "show", "plain"]);
    assert!(shown.contains("away: ") && shown.contains("pool.json"), "{shown}");
}

/// Something mounted there for a moment, unmounted with the test.
pub(crate) struct Over(PathBuf);

impl Over {
    pub(crate) fn new(words: &[&str], at: PathBuf) -> Over {
        let done = Command::new("mount").args(words).arg(&at).output().unwrap();
        assert!(done.status.success(), "{done:?}");
        Over(at)
    }
}

impl Drop for Over {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).output();
    }
}

fn init(place: &Place, config: &std::path::Path) -> (Option<i32>, String) {
    let (file, parent) = (place.path("pool.img"), place.path("pools"));
    let done = Command::new(PROGRAM)
        .args(["pool", "init", "fast", "--kind", "image", "--size", "400MiB", "--sparse", "--file"])
        .arg(file)
        .arg("--mount-parent")
        .arg(parent)
        .arg("--config")
        .arg(config)
        .output()
        .unwrap();
    (done.status.code(), String::from_utf8([done.stdout, done.stderr].concat()).unwrap())
}

#[test]
fn no_pool_is_made_that_cannot_be_written_down() {
    let place = Place::new();
    std::fs::create_dir(place.path("etc")).unwrap();
    let _etc = Over::new(&["-t", "tmpfs", "-o", "ro", "none"], place.path("etc"));
    for config in ["etc/config.toml", "etc/rockpool/config.toml"] {
        let config = place.path(config);
        let (code, said) = init(&place, &config);
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains(&format!("--config `{}` cannot be written", config.display())), "{said}");
        assert!(said.contains("read-only"), "{said}");
        assert!(!place.path("pool.img").exists() && !place.path("pools").exists(), "nothing was made");
    }
}

#[test]
fn a_place_that_is_not_there_is_named_by_its_flag() {
    let place = Place::new();
    let file = place.path("none/pool.img");
    let done = Command::new(PROGRAM)
        .args(["pool", "init", "fast", "--kind", "image", "--size", "400MiB", "--file"])
        .arg(&file)
        .arg("--config")
        .arg(place.path("config.toml"))
        .output()
        .unwrap();
    let said = String::from_utf8(done.stderr).unwrap();
    assert!(said.contains(&format!("--file `{}`: ", file.display())), "{said}");
}

#[test]
fn a_pool_that_could_not_be_written_down_after_all_says_what_to_write() {
    let place = Place::new();
    let config = place.path("config.toml");
    std::fs::write(&config, "").unwrap();
    // What is mounted on a file keeps it from being replaced.
    let over = Over::new(&["--bind", config.to_str().unwrap()], config.clone());
    let (code, said) = init(&place, &config);
    drop(over);
    let entry = said.find("[[pool]]").map(|at| said[at..].to_owned());
    std::fs::write(&config, entry.as_deref().unwrap_or_default()).unwrap();
    let unmounted =
        Command::new(PROGRAM).args(["pool", "unmount", "fast", "--config"]).arg(&config).output().unwrap();
    assert!(code == Some(1) && said.contains("add it yourself"), "{said}");
    assert!(unmounted.status.success(), "{said}: {unmounted:?}");
    assert_eq!(place.path("pools").read_dir().map_or(0, Iterator::count), 0);
}
