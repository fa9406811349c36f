//! A driver in directories of its own, ended and removed with its test.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::host;

pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_rockpool");
/// What has to happen has so long, on a busy machine as well.
pub(crate) const LONG: Duration = Duration::from_secs(30);

/// Directories for one driver, and its pool file with a pool in memory.
pub(crate) struct Place {
    pub(crate) dir: TempDir,
}

impl Place {
    pub(crate) fn new() -> Place {
        let dir = tempfile::Builder::new().prefix("rp").tempdir().unwrap();
        std::fs::create_dir(dir.path().join("kubelet")).unwrap();
        let place = Place { dir };
        place.configure("[[pool]]\nname = \"toy\"\nkind = \"sim\"\n");
        place
    }

    pub(crate) fn configure(&self, text: &str) {
        std::fs::write(self.path("config.toml"), text).unwrap();
    }

    /// One pool more, the first of the file, that is not there.
    pub(crate) fn miss_a_pool(&self) {
        let text = std::fs::read_to_string(self.path("config.toml")).unwrap();
        let nowhere = self.path("nowhere").display().to_string();
        self.configure(&format!(
            "[[pool]]\nname = \"away\"\nkind = \"image\"\npath = \"{nowhere}\"\n\n{text}"
        ));
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.path("run/csi.sock")
    }

    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(PROGRAM);
        command
            .arg("standalone")
            .env_clear()
            .env("CSI_ENDPOINT", format!("unix://{}", self.socket().display()));
        let set = |name: &str| (format!("ROCKPOOL_{name}"), self.path(&name.to_lowercase()));
        command.envs([set("STATE_DIR"), ("ROCKPOOL_KUBELET_ROOT".into(), self.path("kubelet"))]);
        command.env("ROCKPOOL_CONFIG", self.path("config.toml")).env("ROCKPOOL_NODE_ID", "node-1");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    pub(crate) fn start(&self) -> Driver {
        self.start_with(&mut self.command())
    }

    pub(crate) fn start_with(&self, command: &mut Command) -> Driver {
        let log = std::fs::File::create(self.path("log")).unwrap();
        // As text it is on stderr, as JSON on stdout.
        let child = command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        let mut driver = Driver { child, log: self.path("log") };
        let socket = self.socket();
        until(&mut driver, "the socket answers", LONG, || UnixStream::connect(&socket).is_ok());
        driver
    }

    /// Expects that the driver does not start; answers what it said.
    pub(crate) fn refusal(&self, command: &mut Command) -> String {
        let log = self.path("refusal");
        let child = command.stderr(std::fs::File::create(&log).unwrap()).spawn().unwrap();
        let mut driver = Driver { child, log };
        let status = driver.ends();
        assert!(!status.success(), "{}", driver.log());
        driver.log()
    }

    /// What `ctl` answers for scripts.
    pub(crate) fn ask(&self, words: &[&str]) -> serde_json::Value {
        let output = self.ctl(&[words, &["-o", "json"]].concat());
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// The exit code with which `ctl` fails, and what it says.
    pub(crate) fn refused(&self, words: &[&str]) -> (i32, String) {
        let output = self.ctl(words);
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    }

    pub(crate) fn admin_socket(&self) -> PathBuf {
        self.path("state_dir/admin/admin.sock")
    }

    pub(crate) fn ctl(&self, words: &[&str]) -> Output {
        self.ctl_at(&self.socket(), &self.admin_socket(), words)
    }

    /// `ctl` with other sockets for CSI and for operators.
    pub(crate) fn ctl_at(&self, csi: &Path, admin: &Path, words: &[&str]) -> Output {
        let mut command = Command::new(PROGRAM);
        command.arg("ctl").arg("--endpoint").arg(csi).arg("--admin-endpoint").arg(admin);
        command.args(words).output().unwrap()
    }
}

impl Drop for Place {
    /// By now every driver was killed. One that was a process of a process may still be about to end, and keeps its pools busy.
    fn drop(&mut self) {
        let begun = Instant::now();
        loop {
            let left = host::clear(self.dir.path());
            if left.is_empty() {
                return;
            }
            if begun.elapsed() > LONG {
                return complain(&format!("what the test mounted stays: {left:?}"));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// A running driver, which is killed with the test.
pub(crate) struct Driver {
    pub(crate) child: Child,
    pub(crate) log: PathBuf,
}

impl Driver {
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    pub(crate) fn ends(&mut self) -> ExitStatus {
        self.ends_within(LONG)
    }

    pub(crate) fn ends_within(&mut self, limit: Duration) -> ExitStatus {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(begun.elapsed() < limit, "the driver still runs after {limit:?}:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }
}

impl Drop for Driver {
    /// Does not wait for ever: one whose disk hangs ends when that answers, and the test that failed meanwhile must be heard.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let killed = Instant::now();
        while self.child.try_wait().is_ok_and(|ended| ended.is_none()) {
            if killed.elapsed() > LONG {
                return complain(&format!("driver {} has not ended since it was killed", self.child.id()));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// Fails the test, unless it has failed already.
fn complain(what: &str) {
    if std::thread::panicking() {
        eprintln!("{what}");
    } else {
        panic!("{what}");
    }
}

pub(crate) fn until(driver: &mut Driver, what: &str, limit: Duration, mut look: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !look() {
        if let Some(status) = driver.child.try_wait().unwrap() {
            panic!("{what}: the driver has ended with {status}:\n{}", driver.log());
        }
        assert!(begun.elapsed() < limit, "in vain: {what}:\n{}", driver.log());
        std::thread::sleep(Duration::from_millis(2));
    }
}

pub(crate) fn eventually(what: &str, mut look: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !look() {
        assert!(begun.elapsed() < LONG, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Does what must be done within a time. A slow machine has three tries: what waits for the wrong thing is no faster at the third.
pub(crate) fn in_time<T>(limit: Duration, mut attempt: impl FnMut() -> T) -> T {
    let mut took = Vec::new();
    for _ in 0..3 {
        let begun = Instant::now();
        let done = attempt();
        if begun.elapsed() < limit {
            return done;
        }
        took.push(begun.elapsed());
    }
    panic!("it took {took:?}, not {limit:?}");
}

/// Says that the running test is skipped. Past the test harness, which hides what a passing test says.
pub(crate) fn skipped(why: &str) {
    let thread = std::thread::current();
    let line = format!("\nSKIP rust::{}: {why}\n", thread.name().unwrap_or_default());
    std::io::stderr().write_all(line.as_bytes()).unwrap();
}

pub(crate) fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}
