//! The process: its socket, its signals, its log, and what it says when it cannot start.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a test makes its own files, runs the program, and fails by panicking"
)]

mod audit;
mod authority;
mod bundle;
mod canaries;
#[allow(dead_code, reason = "each program uses a part of it")]
#[path = "../support/chance.rs"]
mod chance;
mod clock;
mod containers;
mod credentials;
#[allow(dead_code, reason = "each program uses a part of it")]
#[path = "../support/disk.rs"]
mod disk;
mod disks;
mod doctor;
mod fences;
mod freeze;
mod hang;
mod harness;
#[path = "../support/host.rs"]
mod host;
mod http;
#[allow(dead_code, reason = "each program uses a part of it")]
#[path = "../support/kubernetes.rs"]
mod kubernetes;
mod life;
mod linked;
mod lost;
mod moved;
mod pools;
mod rebuild;
mod retained;
mod rights;
mod roster;
mod several;
mod start;
mod tokens;
mod transfer;
mod wards;
mod why;

use std::io::Write;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;

use crate::authority::PREFACE;
use crate::harness::{PROGRAM, Place, in_time, names};

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
fn a_start_does_not_fail_for_an_admin_socket_that_nobody_asked_for() {
    let (one, two) = (Place::new(), Place::new());
    let _first = one.start();
    let mut beside = two.command();
    beside.env("ROCKPOOL_STATE_DIR", one.path("state_dir"));
    let second = two.start_with(&mut beside);
    assert!(second.log().contains("another process answers there"), "{}", second.log());
    drop(second);
    let mut deep = two.command();
    deep.env("ROCKPOOL_STATE_DIR", two.path(&"deep/".repeat(30)));
    let third = two.start_with(&mut deep);
    assert!(third.log().contains("107 bytes"), "{}", third.log());
    drop(third);
    let taken = one.path("state_dir/admin/admin.sock");
    let said = two.refusal(two.command().env("ROCKPOOL_ADMIN_ENDPOINT", &taken));
    assert!(said.contains("another process answers there"), "{said}");
}

#[test]
fn a_stale_socket_is_replaced_within_two_seconds() {
    let place = Place::new();
    let mut driver = place.start();
    in_time(Duration::from_secs(2), || {
        driver.signal(Signal::KILL);
        driver.ends();
        assert!(std::fs::symlink_metadata(place.socket()).unwrap().file_type().is_socket());
        driver = place.start();
        assert!(place.ctl(&["plugin", "probe"]).status.success());
    });
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
        // One that says nothing, and one that never answers the server's last question: none of them is waited for, while calls
        // would be for ten seconds.
        let _silent = UnixStream::connect(place.socket()).unwrap();
        let mut idle = UnixStream::connect(place.socket()).unwrap();
        idle.write_all(PREFACE).unwrap();
        std::thread::sleep(Duration::from_millis(50));
        driver.signal(signal);
        let status = driver.ends_within(Duration::from_secs(8));
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
fn completions_are_printed_for_every_shell() {
    for shell in ["bash", "zsh", "fish"] {
        let printed = Command::new(PROGRAM).args(["completions", shell]).output().unwrap();
        let script = String::from_utf8(printed.stdout).unwrap();
        assert!(
            printed.status.success() && script.contains("standalone") && script.contains("node-expand"),
            "{shell}"
        );
    }
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
        driver.ends();
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
            let keys: Vec<&String> = line.as_object().unwrap().keys().collect();
            let want = ["timestamp", "level", "method", "id", "code", "duration_ms", "request", "target"];
            assert!(
                want.iter().all(|key| keys.iter().any(|have| have == key)) && keys.len() == want.len(),
                "{line}"
            );
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
