//! The process: its socket, its signals, its log, and what it says when it cannot start. Rules PR1 to PR11 and PR18.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a test makes its own files, runs the program, and fails by panicking"
)]

use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_rockpool");

/// Directories for one driver, and its pool file with a pool in memory.
struct Place {
    dir: TempDir,
}

impl Place {
    fn new() -> Place {
        let dir = tempfile::Builder::new().prefix("rp").tempdir().unwrap();
        std::fs::create_dir(dir.path().join("kubelet")).unwrap();
        let place = Place { dir };
        place.configure("[[pool]]\nname = \"toy\"\nkind = \"sim\"\n");
        place
    }

    fn configure(&self, text: &str) {
        std::fs::write(self.path("config.toml"), text).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn socket(&self) -> PathBuf {
        self.path("run/csi.sock")
    }

    fn command(&self) -> Command {
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

    fn start(&self) -> Driver {
        self.start_with(&mut self.command())
    }

    fn start_with(&self, command: &mut Command) -> Driver {
        let log = std::fs::File::create(self.path("log")).unwrap();
        let child = command.stderr(log).spawn().unwrap();
        let mut driver = Driver { child, log: self.path("log") };
        let socket = self.socket();
        until(&mut driver, "the socket answers", Duration::from_secs(20), || {
            UnixStream::connect(&socket).is_ok()
        });
        driver
    }

    /// Expects that the driver does not start; answers what it said.
    fn refusal(&self, command: &mut Command) -> String {
        let log = self.path("refusal");
        let child = command.stderr(std::fs::File::create(&log).unwrap()).spawn().unwrap();
        let mut driver = Driver { child, log };
        let status = driver.ends_within(Duration::from_secs(30));
        assert!(!status.success(), "{}", driver.log());
        driver.log()
    }

    fn ctl(&self, words: &[&str]) -> Output {
        let socket = self.socket();
        Command::new(PROGRAM).arg("ctl").arg("--endpoint").arg(socket).args(words).output().unwrap()
    }
}

/// A running driver, which is killed with the test.
struct Driver {
    child: Child,
    log: PathBuf,
}

impl Driver {
    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    fn ends_within(&mut self, limit: Duration) -> ExitStatus {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(begun.elapsed() < limit, "the driver still runs after {limit:?}:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn until(driver: &mut Driver, what: &str, limit: Duration, mut look: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !look() {
        if let Some(status) = driver.child.try_wait().unwrap() {
            panic!("{what}: the driver has ended with {status}:\n{}", driver.log());
        }
        assert!(begun.elapsed() < limit, "in vain: {what}:\n{}", driver.log());
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn the_environment_alone_is_enough_and_nothing_lies_beside_the_socket() {
    let place = Place::new();
    let _driver = place.start();
    assert!(place.ctl(&["plugin", "probe"]).status.success());
    let node = place.ctl(&["-o", "json", "node", "info"]);
    assert!(String::from_utf8(node.stdout).unwrap().contains("\"node_id\": \"node-1\""));
    assert_eq!(names(&place.path("run")), ["csi.sock"]);
    let mode = std::fs::metadata(place.path("run")).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o700);
}

#[test]
fn the_socket_is_private_from_its_first_instant() {
    for _ in 0..10 {
        let place = Place::new();
        std::fs::create_dir(place.path("run")).unwrap();
        let socket = place.socket();
        let (seen, watching) = std::sync::mpsc::channel();
        let watcher = std::thread::spawn(move || {
            // Until the test has seen it answer: every look counts.
            while watching.try_recv().is_err() {
                if let Ok(found) = std::fs::symlink_metadata(&socket) {
                    assert!(found.file_type().is_socket());
                    assert_eq!(found.permissions().mode() & 0o7777, 0o600);
                }
            }
        });
        let _driver = place.start();
        seen.send(()).unwrap();
        watcher.join().unwrap();
    }
}

#[test]
fn a_stale_socket_is_replaced_within_two_seconds() {
    let place = Place::new();
    let mut driver = place.start();
    driver.signal(Signal::KILL);
    driver.ends_within(Duration::from_secs(5));
    assert!(std::fs::symlink_metadata(place.socket()).unwrap().file_type().is_socket());
    let begun = Instant::now();
    let _driver = place.start();
    assert!(place.ctl(&["plugin", "probe"]).status.success());
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
}

#[test]
fn a_regular_file_a_symlink_and_a_live_peer_are_left_alone() {
    let place = Place::new();
    std::fs::create_dir(place.path("run")).unwrap();
    std::fs::write(place.socket(), "keep me").unwrap();
    let said = place.refusal(&mut place.command());
    assert!(said.contains("no socket") && said.contains(place.socket().to_str().unwrap()), "{said}");
    assert_eq!(std::fs::read_to_string(place.socket()).unwrap(), "keep me");

    std::fs::remove_file(place.socket()).unwrap();
    std::os::unix::fs::symlink("/nowhere", place.socket()).unwrap();
    assert!(place.refusal(&mut place.command()).contains("no socket"));
    assert_eq!(std::fs::read_link(place.socket()).unwrap(), Path::new("/nowhere"));

    std::fs::remove_file(place.socket()).unwrap();
    let peer = UnixListener::bind(place.socket()).unwrap();
    let said = place.refusal(&mut place.command());
    assert!(said.contains("another process answers"), "{said}");
    peer.set_nonblocking(true).unwrap();
    while peer.accept().is_ok() {}
    assert!(UnixStream::connect(place.socket()).is_ok(), "the peer is cut off");
}

#[test]
fn a_signal_ends_it_though_connections_are_open() {
    for signal in [Signal::TERM, Signal::INT] {
        let place = Place::new();
        let mut driver = place.start();
        // One that says nothing, and one that never answers the server's last question.
        let _silent = UnixStream::connect(place.socket()).unwrap();
        let mut idle = UnixStream::connect(place.socket()).unwrap();
        idle.write_all(PREFACE).unwrap();
        std::thread::sleep(Duration::from_millis(50));
        driver.signal(signal);
        let status = driver.ends_within(Duration::from_secs(3));
        assert!(status.success(), "{status}");
        assert_eq!(names(&place.path("run")), [] as [&str; 0]);
    }
}

#[test]
fn what_is_misconfigured_never_binds() {
    let good = "[[pool]]\nname = \"toy\"\nkind = \"sim\"\n";
    for (config, flags, words) in [
        ("", vec![], vec!["config.toml", "[[pool]]"]),
        ("[[pool]]\nnam = \"a\"\nkind = \"sim\"\n", vec![], vec!["nam", "did you mean `name`"]),
        ("[[pool]]\nname = \"a\"\nkind = \"lvm\"\n", vec![], vec!["kind `lvm`", "\"image\""]),
        ("[[pool]]\nname = \"a\"\nkind = \"image\"\npath = \"x\"\n", vec![], vec!["path `x`", "absolute"]),
        (good, vec!["--endpoint", "tcp://127.0.0.1:1"], vec!["--endpoint", "tcp://127.0.0.1:1", "unix:///"]),
        (good, vec!["--node-id", "a/b"], vec!["node id", "a/b"]),
        (good, vec!["--driver-name", "rock pool"], vec!["driver name", "rock pool"]),
        (good, vec!["--kubelet-root", "relative"], vec!["--kubelet-root", "relative", "absolute"]),
        (good, vec!["--state-dir", "relative"], vec!["--state-dir", "relative", "absolute"]),
        (good, vec!["--max-volumes=-1"], vec!["--max-volumes", "-1"]),
        (good, vec!["--log-format", "xml"], vec!["xml", "text", "json"]),
        (good, vec!["--config", "/there/is/no.toml"], vec!["/there/is/no.toml", "pool init"]),
        (good, vec!["--no-such-flag"], vec!["--no-such-flag"]),
    ] {
        let place = Place::new();
        place.configure(config);
        let said = place.refusal(place.command().args(&flags));
        for word in words {
            assert!(said.contains(word), "`{word}` is missing for {flags:?} {config:?} in: {said}");
        }
        assert!(!place.path("run").exists(), "bound in spite of {flags:?} {config:?}");
    }
}

#[test]
fn config_check_says_the_same_without_a_start() {
    let place = Place::new();
    let check = || {
        Command::new(PROGRAM)
            .args(["config", "check", "--config"])
            .arg(place.path("config.toml"))
            .output()
            .unwrap()
    };
    let good = check();
    assert!(good.status.success() && String::from_utf8(good.stdout).unwrap().contains("good: toy (1)"));
    place.configure("[[pool]]\nname = \"a\"\nkind = \"sim\"\nreserve = 2\ncolor = 1\n");
    let bad = check();
    let said = String::from_utf8(bad.stderr).unwrap();
    assert!(!bad.status.success() && said.contains("reserve `2`") && said.contains("color"), "{said}");
}

#[test]
fn the_version_is_told() {
    let told = Command::new(PROGRAM).arg("--version").output().unwrap();
    assert_eq!(String::from_utf8(told.stdout).unwrap(), format!("rockpool {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn a_call_is_one_line_and_no_line_holds_a_secret() {
    for format in ["text", "json"] {
        let place = Place::new();
        let mut command = place.command();
        let mut driver = place.start_with(command.args(["--log-format", format, "--log-level", "trace"]));
        std::fs::write(place.path("secrets"), "password=canary-secret\n").unwrap();
        let secrets = place.path("secrets");
        let ctl =
            |words: &[&str]| place.ctl(&[&["--secrets-file", secrets.to_str().unwrap()], words].concat());
        let staging = place.path("kubelet/staging");
        let staging = staging.to_str().unwrap();
        let context = ["--volume-context", "csi.storage.k8s.io/serviceAccount.tokens=canary-token"];
        assert!(ctl(&["volume", "create", "one", "--size", "1GiB"]).status.success());
        ctl(&["volume", "delete", "not-an-id\u{1b}[31m\nfake line"]);
        ctl(&[&["volume", "stage", "v1.000000000000.0000000000000000", "--staging", staging], &context[..]]
            .concat());
        let flags = ["--mount-flag", "password=canary-flag"];
        ctl(&[&["volume", "stage", "x", "--staging", staging], &flags[..], &context[..]].concat());
        ctl(&["volume", "create", "two", "--parameter", "x=y"]);
        driver.signal(Signal::TERM);
        driver.ends_within(Duration::from_secs(5));
        let log = driver.log();
        assert!(!log.contains("canary"), "{log}");
        assert!(!log.contains('\u{1b}') && !log.contains("\nfake line"), "{log}");
        let lines: Vec<&str> = log.lines().filter(|line| line.contains("CreateVolume")).collect();
        assert_eq!(lines.len(), 2, "{log}");
        if format == "json" {
            let line: serde_json::Value = serde_json::from_str(lines[0]).unwrap();
            assert_eq!(
                (&line["method"], &line["id"], &line["code"]),
                (&"CreateVolume".into(), &"one".into(), &"OK".into())
            );
            assert!(line["duration_ms"].is_number(), "{line}");
            log.lines().for_each(|line| drop(serde_json::from_str::<serde_json::Value>(line).unwrap()));
        } else {
            assert!(
                lines[0].contains("method=\"CreateVolume\" id=\"one\" code=\"OK\" duration_ms="),
                "{}",
                lines[0]
            );
            assert!(lines[1].contains("INVALID_ARGUMENT"), "{}", lines[1]);
        }
    }
}

/// The first words of an HTTP/2 connection.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00";

/// What became of a call made by hand, with exactly these headers.
#[derive(Debug, PartialEq)]
enum Fate {
    Answered,
    /// RST_STREAM with this error code.
    Reset(u32),
}

/// One Probe on a connection of its own, after `authority` as given. Header fields as literals, without compression.
fn probe(socket: &Path, authority: Option<&str>) -> Fate {
    let mut block = Vec::new();
    let mut field = |name: &str, value: &str| {
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).unwrap());
            block.extend_from_slice(text.as_bytes());
        }
    };
    field(":method", "POST");
    field(":scheme", "http");
    field(":path", "/csi.v1.Identity/Probe");
    if let Some(authority) = authority {
        field(":authority", authority);
    }
    field("content-type", "application/grpc");
    field("te", "trailers");
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    stream.write_all(PREFACE).unwrap();
    let length = u32::try_from(block.len()).unwrap().to_be_bytes();
    stream.write_all(&[&length[1..], &[1, 4, 0, 0, 0, 1], &block].concat()).unwrap();
    // An empty message, and the end of the stream.
    stream.write_all(&[0, 0, 5, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0]).unwrap();
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).unwrap();
        let mut body = vec![0; usize::from(head[2]) | usize::from(head[1]) << 8];
        stream.read_exact(&mut body).unwrap();
        match (head[3], head[8]) {
            (1, 1) => return Fate::Answered,
            (3, 1) => return Fate::Reset(u32::from_be_bytes(body.try_into().unwrap())),
            _ => {}
        }
    }
}

#[test]
fn the_authorities_that_clients_send_work() {
    let place = Place::new();
    let _driver = place.start();
    assert_eq!(probe(&place.socket(), Some("localhost")), Fate::Answered);
    assert_eq!(probe(&place.socket(), None), Fate::Answered);
    // What old clients send, and serve.rs documents: the call is reset, and only the call.
    const PROTOCOL_ERROR: u32 = 1;
    for odd in ["", "/run/csi.sock", "%2Frun%2Fcsi.sock"] {
        let fate = probe(&place.socket(), Some(odd));
        assert_eq!(fate, Fate::Reset(PROTOCOL_ERROR), "{odd:?}: serve.rs says otherwise");
    }
    assert_eq!(probe(&place.socket(), Some("localhost")), Fate::Answered);
}

/// A mounted pool in a file, unmounted with the test.
struct Pool<'a>(&'a Place);

impl<'a> Pool<'a> {
    fn init(place: &'a Place) -> Pool<'a> {
        std::fs::remove_file(place.path("config.toml")).unwrap();
        let pool = Pool(place);
        let made = pool
            .command("init", &["--kind", "image", "--size", "400MiB", "--sparse"])
            .arg("--file")
            .arg(place.path("pool.img"))
            .arg("--mount-parent")
            .arg(place.path("pools"))
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        pool
    }

    fn command(&self, verb: &str, words: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        command.args(["pool", verb, "fast"]).args(words).arg("--config").arg(self.0.path("config.toml"));
        command
    }
}

impl Drop for Pool<'_> {
    fn drop(&mut self) {
        let _ = self.command("unmount", &[]).output();
    }
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
    assert!(third.ends_within(Duration::from_secs(5)).success());
}
