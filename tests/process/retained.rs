//! Undelete: what is deleted and kept, by the program and its command line.

use std::os::unix::fs::{FileExt, PermissionsExt};
use std::process::Command;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::harness::{PROGRAM, Place, skipped};
use crate::life::text;
use crate::pools::Pool;

const DAY: i64 = 24 * 3600;

fn keeping(place: &Place, lines: &str) {
    place.configure(&format!("[[pool]]\nname = \"toy\"\nkind = \"sim\"\nreserve = 0.0\n{lines}\n"));
}

fn kept(place: &Place) -> Vec<Value> {
    place.ask(&["retained", "list"])["retained"].as_array().unwrap().clone()
}

#[test]
fn the_admin_socket_is_private_and_can_be_left_out() {
    let place = Place::new();
    let mut driver = place.start();
    let mode = |path| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(place.admin_socket()), 0o600);
    assert_eq!(mode(place.path("state_dir/admin")), 0o700);
    let (csi, admin) = (place.socket(), place.admin_socket());
    let volumes = place.ctl_at(&admin, &admin, &["volume", "list"]);
    assert_eq!(volumes.status.code(), Some(22), "CSI is not served where operators are: {volumes:?}");
    let retained = place.ctl_at(&csi, &csi, &["retained", "list"]);
    assert_eq!(retained.status.code(), Some(22), "operators are not served where CSI is: {retained:?}");
    driver.signal(Signal::TERM);
    assert!(driver.ends().success());
    assert!(!place.admin_socket().exists());
    let _driver = place.start_with(place.command().env("ROCKPOOL_ADMIN_ENDPOINT", "off"));
    assert_eq!(place.refused(&["retained", "list"]).0, 24);
}

#[test]
fn what_is_deleted_is_gone_for_csi_survives_a_restart_and_comes_back_whole() {
    let place = Place::new();
    let pool = Pool::init(&place);
    pool.set("retainDeleted = \"7d\"");
    let driver = place.start();
    let old = place.ask(&["volume", "create", "one", "--block", "--size", "64MiB"]);
    let old = text(&old, "volume_id");
    let image = pool.root().join("volumes").join(old);
    std::fs::File::options().write(true).open(&image).unwrap().write_all_at(b"precious", 4096).unwrap();
    let cut = place.ask(&["snapshot", "create", "cut", "--volume", old]);
    let cut = text(&cut, "snapshot_id");

    place.ask(&["volume", "delete", old]);
    place.ask(&["volume", "delete", old]);
    assert_eq!(place.refused(&["volume", "get", old]).0, 15);
    assert_eq!(place.ask(&["volume", "list"])["volumes"], Value::Array(Vec::new()));
    let staging = place.path("kubelet/staging");
    assert_eq!(
        place.refused(&["volume", "stage", old, "--block", "--staging", staging.to_str().unwrap()]).0,
        15
    );
    let from_old = ["volume", "create", "copy", "--block", "--size", "64MiB", "--from-volume", old];
    assert_eq!(place.refused(&from_old).0, 15);
    assert_eq!(text(&place.ask(&["snapshot", "get", cut]), "source_volume_id"), old, "its snapshot stays");
    let new = place.ask(&["volume", "create", "one", "--block", "--size", "32MiB"]);
    assert_ne!(text(&new, "volume_id"), old, "the name is free, and makes another volume");

    drop(driver);
    let _driver = place.start();
    let list = kept(&place);
    assert_eq!((list.len(), text(&list[0], "id"), text(&list[0], "name")), (1, old, "one"));
    let left = list[0]["seconds_left"].as_i64().unwrap();
    assert!((7 * DAY - 600..=7 * DAY).contains(&left), "{left}");
    assert_eq!(place.refused(&["volume", "get", old]).0, 15);
    let (code, said) = place.refused(&["retained", "restore", old]);
    assert!(code == 16 && said.contains("name `one` is taken") && said.contains("--name"), "{code}: {said}");
    place.ask(&["retained", "restore", old, "--name", "rescued"]);
    assert_eq!(place.ask(&["volume", "get", old])["capacity_bytes"], 64 << 20);
    let mut bytes = [0; 8];
    std::fs::File::open(&image).unwrap().read_exact_at(&mut bytes, 4096).unwrap();
    assert_eq!(&bytes, b"precious");
    assert_eq!(place.refused(&["retained", "restore", old]).0, 15, "it is not deleted any more");
    assert_eq!(place.refused(&["retained", "purge", old]).0, 19, "what is in use is not purged");

    place.ask(&["snapshot", "delete", cut]);
    assert_eq!(place.refused(&["snapshot", "get", cut]).0, 15);
    assert!(pool.root().join("snapshots").join(cut).exists());
    place.ask(&["retained", "purge", cut]);
    place.ask(&["retained", "purge", cut]);
    assert!(!pool.root().join("snapshots").join(cut).exists());
    assert!(kept(&place).is_empty());
}

#[test]
fn what_is_kept_counts_against_its_pool_and_a_refusal_says_so() {
    let place = Place::new();
    keeping(&place, "size = \"100MiB\"\nretainDeleted = \"1h\"");
    let _driver = place.start();
    let create = |name, size| ["volume", "create", name, "--block", "--size", size];
    let one = place.ask(&create("one", "60MiB"));
    let one = text(&one, "volume_id");
    place.ask(&["volume", "delete", one]);
    let (code, said) = place.refused(&create("two", "60MiB"));
    assert_eq!(code, 18, "{said}");
    for word in ["pool `toy`", "60 MiB of its promises are deleted and still kept", "retained purge"] {
        assert!(said.contains(word), "{word}: {said}");
    }
    let room = place.ask(&["capacity", "--block"]);
    assert_eq!(room["available_capacity"], 40 << 20);
    place.ask(&["retained", "purge", one]);
    place.ask(&create("two", "60MiB"));
}

#[test]
fn a_class_has_the_last_word_and_bad_values_are_named() {
    let place = Place::new();
    keeping(&place, "retainDeleted = \"7d\"");
    let _driver = place.start();
    let create = |name, keep| ["volume", "create", name, "--block", "--size", "8MiB", "--parameter", keep];
    let never = place.ask(&create("never", "retainDeleted=0"));
    place.ask(&["volume", "delete", text(&never, "volume_id")]);
    assert!(kept(&place).is_empty(), "the class says 0, whatever the pool says");
    let hour = place.ask(&create("hour", "retainDeleted=1h"));
    let hour = text(&hour, "volume_id");
    let cut = place.ask(&["snapshot", "create", "cut", "--volume", hour, "--parameter", "retainDeleted=30m"]);
    place.ask(&["volume", "delete", hour]);
    place.ask(&["snapshot", "delete", text(&cut, "snapshot_id")]);
    let list = kept(&place);
    let left: Vec<_> =
        list.iter().map(|one| (one["kind"].clone(), one["seconds_left"].as_i64().unwrap())).collect();
    assert!(left[0].0 == "snapshot" && (1500..=1800).contains(&left[0].1), "{left:?}");
    assert!(left[1].0 == "volume" && (3000..=3600).contains(&left[1].1), "{left:?}");
    let (code, said) = place.refused(&create("bad", "retainDeleted=soon"));
    assert!(
        code == 13 && said.contains("parameters[retainDeleted] `soon`: want") && said.contains("7d"),
        "{said}"
    );
    let bad = ["snapshot", "create", "bad", "--volume", hour, "--parameter", "retainDeleted=-1d"];
    let (code, said) = place.refused(&bad);
    assert!(code == 13 && said.contains("parameters[retainDeleted] `-1d`: want"), "{said}");
}

#[test]
fn a_group_is_kept_and_restored_with_all_its_members() {
    let place = Place::new();
    keeping(&place, "retainDeleted = \"1d\"");
    let _driver = place.start();
    let volumes =
        ["one", "two"].map(|name| place.ask(&["volume", "create", name, "--block", "--size", "8MiB"]));
    let [one, two] = volumes.each_ref().map(|volume| text(volume, "volume_id"));
    let group = place.ask(&["group", "create", "both", "--volume", one, "--volume", two]);
    let id = text(&group, "group_snapshot_id");
    let member = text(&group["snapshots"][0], "snapshot_id");
    place.ask(&["group", "delete", id]);
    assert_eq!(
        (place.refused(&["group", "get", id]).0, place.refused(&["snapshot", "get", member]).0),
        (15, 15)
    );
    assert_eq!(place.ask(&["snapshot", "list"])["snapshots"], Value::Array(Vec::new()));
    place.ask(&["snapshot", "delete", member]);
    place.ask(&["retained", "restore", id]);
    assert_eq!(place.ask(&["group", "get", id]), group);
    place.ask(&["group", "delete", id]);
    place.ask(&["retained", "purge", id]);
    assert!(kept(&place).is_empty());
}

#[test]
fn a_clock_that_jumps_by_ten_years_purges_nothing() {
    if !Command::new("unshare").args(["--time", "--fork", "true"]).status().is_ok_and(|done| done.success()) {
        return skipped("needs a kernel with time namespaces, and unshare of util-linux 2.36");
    }
    let place = Place::new();
    let pool = Pool::init(&place);
    pool.set("retainDeleted = \"7d\"");
    let driver = place.start();
    let one = place.ask(&["volume", "create", "one", "--block", "--size", "8MiB"]);
    place.ask(&["volume", "delete", text(&one, "volume_id")]);
    drop(driver);
    // The clocks since boot are ten years on; nobody may have read the time of day, which no namespace can move.
    let mut later = Command::new("unshare");
    later.args([
        "--time",
        "--fork",
        "--kill-child",
        "--boottime",
        "315360000",
        "--monotonic",
        "315360000",
        PROGRAM,
    ]);
    let told = place.command();
    later.args(told.get_args()).env_clear();
    later.envs(told.get_envs().filter_map(|(key, value)| Some((key, value?))));
    later.env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin");
    let mut unshare = place.start_with(&mut later);
    // It looks for what to purge when it starts. On a machine that is slow enough this shows less, but nothing wrong.
    std::thread::sleep(Duration::from_secs(2));
    let list = kept(&place);
    let left = list.first().unwrap()["seconds_left"].as_i64().unwrap();
    assert!((7 * DAY - 600..=7 * DAY).contains(&left), "{left}");
    // The driver is a child of the program that made its namespace, and not to be left behind.
    let pid = unshare.child.id();
    let child = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    let child = Pid::from_raw(child.trim().parse().unwrap()).unwrap();
    kill_process(child, Signal::TERM).unwrap();
    assert!(unshare.ends().success());
}
