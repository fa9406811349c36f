//! Volumes and snapshots of one node that are wanted on another: what comes there, and what is left when one of them is killed.

use std::process::Command;
use std::time::{Duration, Instant};

use rcgen::SanType;
use rustix::process::Signal;
use serde_json::Value;

#[cfg(feature = "torture")]
use crate::harness::until;
use crate::harness::{Driver, LONG, PROGRAM, Place, eventually, names, skipped};
use crate::host::run;
use crate::life::text;
use crate::linked::{Cluster, UNAVAILABLE, keys};

/// The exit codes of `ctl` for a call that was not answered in time, by whom that is noticed.
#[cfg(feature = "torture")]
const DEADLINE: i32 = 14;
#[cfg(feature = "torture")]
const CANCELLED: i32 = 11;
const MIB: u64 = 1 << 20;
const SIZE: u64 = 320;

/// Two nodes with a pool of images each, and two controllers.
struct Pair {
    cluster: Cluster,
    other: Place,
}

impl Pair {
    /// None, and says so, where images cannot be attached.
    fn new() -> Option<Pair> {
        if !std::path::Path::new("/dev/loop-control").exists() || !rustix::process::geteuid().is_root() {
            skipped("needs root and loop devices");
            return None;
        }
        let pair = Pair { cluster: Cluster::new(), other: Place::new() };
        let second = "rockpool://csi.rockpool.dev/node/node-2";
        pair.cluster.issue(&pair.other, SanType::URI(second.try_into().unwrap()));
        for place in [&pair.cluster.node, &pair.other] {
            std::fs::remove_file(place.path("config.toml")).unwrap();
            let mut init = Command::new(PROGRAM);
            init.args(["pool", "init", "fast", "--kind", "image", "--size", "4GiB", "--sparse"]);
            init.arg("--file").arg(place.path("fast.img")).arg("--mount-parent").arg(place.path("pools"));
            run(init.arg("--config").arg(place.path("config.toml"))).unwrap();
        }
        Some(pair)
    }

    /// The node that has the sources; it sends so many bytes in a second.
    fn start_a(&self, rate: u64) -> Driver {
        let mut flags = keys(&self.cluster.node).to_vec();
        flags.extend(["--transfer-rate".to_owned(), rate.to_string()]);
        flags.extend(["--transfer-address".to_owned(), "127.0.0.1".to_owned()]);
        self.cluster.start_node_with(&self.cluster.node, &flags)
    }

    /// The node that is to have the copies.
    fn start_b(&self) -> Driver {
        self.start_b_with(&["--transfer-address", "127.0.0.2"])
    }

    /// One of them, which stops itself at a step.
    #[cfg(feature = "torture")]
    fn start_to_stop(&self, which: &str, step: &str) -> Driver {
        let stop = [("ROCKPOOL_STEP", format!("{step}#1"))];
        let (place, flags) = match which {
            "a" => (&self.cluster.node, ["--transfer-address", "127.0.0.1"].to_vec()),
            _ => (&self.other, ["--node-id", "node-2", "--transfer-address", "127.0.0.2"].to_vec()),
        };
        let flags = keys(place).into_iter().chain(flags.into_iter().map(str::to_owned));
        self.cluster.start_node_in(place, &flags.collect::<Vec<_>>(), &stop)
    }

    fn start_b_with(&self, more: &[&str]) -> Driver {
        let mut flags = keys(&self.other).to_vec();
        flags.extend(["--node-id", "node-2"].iter().chain(more).map(|word| (*word).to_owned()));
        self.cluster.start_node_with(&self.other, &flags)
    }

    fn controller(&self) -> &Place {
        &self.cluster.controllers[0]
    }

    fn know_both(&self, which: usize) {
        let place = &self.cluster.controllers[which];
        for node in ["node-1", "node-2"] {
            let topology = topology(node);
            eventually("the controller knows both nodes", || {
                let room = place.ctl(&["capacity", "--topology", &topology, "-o", "json"]);
                let room: Value = serde_json::from_slice(&room.stdout).unwrap_or_default();
                room["available_capacity"].as_u64().is_some_and(|room| room > 0)
            });
        }
    }

    /// The whole pool file of a volume or snapshot of a node.
    fn bytes(&self, place: &Place, kind: &str, id: &str) -> Vec<u8> {
        std::fs::read(pool(place).join(kind).join(id)).unwrap()
    }

    /// Asks until it is made, as a provisioner does; through the controllers in turn. Where it is lies is node-2.
    fn make(&self, words: &[&str], which: &[usize]) -> Value {
        let begun = Instant::now();
        loop {
            for which in which {
                let made = self.cluster.controllers[*which].ctl(&[words, &["-o", "json"]].concat());
                if made.status.success() {
                    let made: Value = serde_json::from_slice(&made.stdout).unwrap();
                    assert!(made.to_string().contains("node-2"), "{made}");
                    return made;
                }
                let said = String::from_utf8_lossy(&made.stderr).into_owned();
                assert_eq!(made.status.code(), Some(UNAVAILABLE), "{words:?}: {said}");
                assert!(begun.elapsed() < LONG * 3, "{words:?}: {said}");
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Nothing but whole volumes and snapshots is anywhere, and so many of them.
    fn leaves(&self, place: &Place, volumes: usize, snapshots: usize) {
        let pool = pool(place);
        let count = |name: &str| names(&pool.join(name)).len();
        let wanted = (volumes, snapshots, 0, volumes + snapshots);
        let begun = Instant::now();
        loop {
            let found = (count("volumes"), count("snapshots"), count("tmp"), count("records"));
            if found == wanted {
                return;
            }
            let left = || ["volumes", "snapshots", "tmp", "records"].map(|name| names(&pool.join(name)));
            assert!(begun.elapsed() < LONG, "{found:?} is left, not {wanted:?}: {:?}", left());
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// What was durable of a copy is gone when its node is there again, and stops at the step where it begins anew.
    #[cfg(feature = "torture")]
    fn lose_what_was_durable(&self, mut b: Driver, words: &[&str]) -> Driver {
        let (code, said) = self.controller().refused(&[words, &["--timeout", "9"]].concat());
        assert_eq!(code, UNAVAILABLE, "{said}");
        self.waits_until_durable();
        b.signal(Signal::KILL);
        b.ends();
        for name in names(&pool(&self.other).join("tmp")) {
            std::fs::remove_file(pool(&self.other).join("tmp").join(name)).unwrap();
        }
        let b = self.start_to_stop("b", "receive: reset");
        self.know_both(0);
        b
    }

    fn waits_until_durable(&self) {
        eventually("a part of it is durable", || {
            let list = self.other.ask(&["transfer", "list"]);
            list["transfers"][0]["received_bytes"].as_u64().is_some_and(|bytes| bytes > 0)
        });
    }

    /// How much of a copy has come, of what is asked for.
    fn partial(&self) -> bool {
        !names(&pool(&self.other).join("tmp")).is_empty()
    }
}

/// Where the one pool of a node is mounted.
fn pool(place: &Place) -> std::path::PathBuf {
    let pools = place.path("pools");
    pools.join(&names(&pools)[0])
}

fn topology(node: &str) -> String {
    format!("topology.csi.rockpool.dev/node={node}")
}

/// A source on node-1 with something in it: its volume and its snapshot.
fn source(pair: &Pair, name: &str, how: &[&str]) -> (String, String) {
    let place = pair.controller();
    let (here, size) = (topology("node-1"), format!("{SIZE}MiB"));
    let made = place.ask(&[&["volume", "create", name, "--size", &size, "--topology", &here], how].concat());
    let volume = text(&made, "volume_id").to_owned();
    if how == ["--block"] {
        write(&pair.cluster.node, &volume);
    } else {
        staged(&pair.cluster.node, &volume, |at| std::fs::write(at.join("file"), noise(20 * MIB)).unwrap());
    }
    let cut = place.ask(&["snapshot", "create", &format!("{name}-cut"), "--volume", &volume]);
    (volume, text(&cut, "snapshot_id").to_owned())
}

/// Does something in a mounted volume.
fn staged<T>(node: &Place, volume: &str, work: impl FnOnce(&std::path::Path) -> T) -> T {
    let staging = node.path("kubelet/staging");
    std::fs::create_dir(&staging).unwrap();
    let at = staging.to_str().unwrap();
    node.ask(&["volume", "stage", volume, "--staging", at]);
    let done = work(&staging);
    node.ask(&["volume", "unstage", volume, "--staging", at]);
    // `ctl` has removed it, as it was empty.
    assert!(!staging.exists());
    done
}

/// Something in places far from each other, through the pool's own file: nobody has it attached.
fn write(node: &Place, volume: &str) {
    use std::os::unix::fs::FileExt;
    let file = pool(node).join("volumes").join(volume);
    let file = std::fs::File::options().read(true).write(true).open(file).unwrap();
    for (block, mib) in noise(20 * MIB).chunks(512 << 10).zip((160..SIZE).step_by(4)) {
        file.write_all_at(block, mib * MIB + 12288).unwrap();
    }
    file.sync_all().unwrap();
}

/// What no block of is zeros.
fn noise(bytes: u64) -> Vec<u8> {
    let mut noise = 0x2545_f491_4f6c_dd1d_u64;
    let words = (0..bytes / 8).flat_map(|_| {
        noise ^= noise << 13;
        noise ^= noise >> 7;
        noise ^= noise << 17;
        noise.to_le_bytes()
    });
    words.collect()
}

/// The flag for each sort of volume.
const SORTS: [(&str, &[&str]); 3] =
    [("ext4", &["--fs", "ext4"]), ("xfs", &["--fs", "xfs"]), ("block", &["--block"])];

#[test]
fn what_is_on_one_node_is_restored_and_cloned_on_another_byte_for_byte() {
    let Some(pair) = Pair::new() else { return };
    let _controller = pair.cluster.start_controller(0);
    let (_a, b) = (pair.start_a(0), pair.start_b());
    pair.know_both(0);
    let place = pair.controller();
    let there = topology("node-2");
    let mut raw = Vec::new();
    for (sort, how) in SORTS {
        let (volume, cut) = source(&pair, sort, how);
        let before = pair.bytes(&pair.cluster.node, "volumes", &volume);
        for (from, id) in [("--from-snapshot", &cut), ("--from-volume", &volume)] {
            let name = format!("{sort}{from}");
            let words = [&["volume", "create", &name, from, id, "--topology", &there][..], how].concat();
            let made = pair.make(&words, &[0]);
            let copy = text(&made, "volume_id");
            assert_ne!(copy, volume);
            raw.extend((sort == "block").then(|| copy.to_owned()));
            assert_eq!(made["capacity_bytes"], SIZE * MIB);
            assert!(pair.bytes(&pair.other, "volumes", copy) == before, "{sort} {from}");
            assert_eq!(pair.make(&words, &[0]), made, "a retry answers the same");
            let other = [&words[..], &["--size", "640MiB"]].concat();
            assert_eq!(place.refused(&other).0, 16, "another size under the name");
        }
        place.ask(&["snapshot", "delete", &cut]);
        place.ask(&["volume", "delete", &volume]);
    }
    // The copies are whole volumes of their own: they outlive their sources, and can be mounted.
    pair.leaves(&pair.cluster.node, 0, 0);
    pair.leaves(&pair.other, 6, 0);
    let all = place.ask(&["volume", "list"]);
    for volume in all["volumes"].as_array().unwrap() {
        let id = text(volume, "volume_id");
        if !raw.contains(&id.to_owned()) {
            let found = staged(&pair.other, id, |at| std::fs::read(at.join("file")).unwrap());
            assert!(found == noise(20 * MIB), "{volume}");
        }
        place.ask(&["volume", "delete", id]);
    }
    pair.leaves(&pair.other, 0, 0);
    drop(b);
}

#[test]
fn what_lies_on_an_allowed_node_is_cloned_there_and_what_cannot_be_had_is_no_room() {
    let Some(pair) = Pair::new() else { return };
    let _controller = pair.cluster.start_controller(0);
    let (a, b) = (pair.start_a(0), pair.start_b_with(&[]));
    pair.know_both(0);
    let (volume, cut) = source(&pair, "block", &["--block"]);
    let place = pair.controller();
    let there = topology("node-2");
    let restore = |name: &'static str, more: &[&'static str]| {
        let words = ["volume", "create", name, "--block", "--from-snapshot", &cut];
        words
            .into_iter()
            .map(str::to_owned)
            .chain(more.iter().map(|word| (*word).to_owned()))
            .collect::<Vec<_>>()
    };
    let words = |all: &[String]| all.iter().map(String::as_str).collect::<Vec<_>>().join("\u{1f}");
    let ask = |all: Vec<String>| {
        let joined = words(&all);
        place.refused(&joined.split('\u{1f}').collect::<Vec<_>>())
    };
    let both = restore(
        "here",
        &[
            "--topology",
            "topology.csi.rockpool.dev/node=node-2",
            "--topology",
            "topology.csi.rockpool.dev/node=node-1",
        ],
    );
    assert_eq!(ask(both).0, 0, "it may stay where it is");
    let only = || restore("there", &["--topology", "topology.csi.rockpool.dev/node=node-2"]);
    let (code, said) = ask(only());
    assert_eq!(code, 18, "the node takes nothing: {said}");
    assert!(said.contains("--transfer-address"), "{said}");
    drop(b);
    let b = pair.start_b();
    pair.know_both(0);
    let (code, said) = ask([only(), vec!["--size".into(), "64GiB".into()]].concat());
    assert!([18, 21].contains(&code), "{code} {said}");
    let (code, said) = ask(vec![
        "volume".into(),
        "create".into(),
        "nowhere".into(),
        "--block".into(),
        "--from-volume".into(),
        format!("{}0000000000000000", &volume[..volume.len() - 16]),
        "--topology".into(),
        there.clone(),
    ]);
    assert_eq!(code, 15, "there is no such source: {said}");
    // Its node is away: nobody says that it does not exist.
    drop(a);
    eventually("the controller misses the node", || ask(only()).0 == UNAVAILABLE);
    assert_eq!(names(&pool(&pair.other).join("records")).len(), 0);
    drop(b);
}

#[test]
fn a_copy_goes_on_after_kills_of_both_nodes_and_of_the_controller() {
    let Some(pair) = Pair::new() else { return };
    let mut controllers = [pair.cluster.start_controller(0), pair.cluster.start_controller(1)];
    let (mut a, mut b) = (pair.start_a(1 << 20), pair.start_b());
    pair.know_both(0);
    pair.know_both(1);
    let (volume, cut) = source(&pair, "block", &["--block"]);
    let before = pair.bytes(&pair.cluster.node, "volumes", &volume);
    let there = topology("node-2");
    for (round, (from, id)) in [("--from-snapshot", &cut), ("--from-volume", &volume)].into_iter().enumerate()
    {
        let name = format!("copy{from}");
        let words = ["volume", "create", &name, "--block", from, id, "--topology", &there];
        let ask = |which: usize| {
            pair.cluster.controllers[which].refused(&[&words[..], &["--timeout", "9"]].concat())
        };
        let (code, said) = ask(0);
        assert!(code == UNAVAILABLE && said.contains("of 320 MiB"), "{code} {said}");
        assert!(pair.partial());
        assert!(pair.controller().ask(&["volume", "list"])["volumes"].as_array().unwrap().len() == 1 + round);
        pair.waits_until_durable();
        // What a copy is of does not change, and its source does not go away under it.
        if from == "--from-volume" {
            write_anew(&pair, &volume);
        }
        a.signal(Signal::KILL);
        a.ends();
        let (code, said) = ask(1);
        assert_eq!(code, UNAVAILABLE, "{said}");
        a = pair.start_a(1 << 20);
        pair.know_both(1);
        let (code, said) = ask(1);
        assert_eq!(code, UNAVAILABLE, "{said}");
        b.signal(Signal::KILL);
        b.ends();
        b = pair.start_b();
        pair.know_both(1);
        assert!(pair.partial(), "what has come is still there");
        controllers[1].signal(Signal::KILL);
        controllers[1].ends();
        let made = pair.make(&words, &[0]);
        controllers[1] = pair.cluster.start_controller(1);
        pair.know_both(1);
        let copy = text(&made, "volume_id");
        assert_eq!(text(&pair.make(&words, &[1]), "volume_id"), copy, "any controller finds it");
        assert!(pair.bytes(&pair.other, "volumes", copy) == before, "{from}");
        pair.leaves(&pair.cluster.node, 1, 1);
        pair.leaves(&pair.other, round + 1, 0);
    }
    assert_eq!(pair.other.ask(&["transfer", "list"])["transfers"], Value::Array(Vec::new()));
    drop((a, b));
}

/// A write to the source after the cut.
fn write_anew(pair: &Pair, volume: &str) {
    use std::os::unix::fs::FileExt;
    let file = pool(&pair.cluster.node).join("volumes").join(volume);
    std::fs::File::options().write(true).open(file).unwrap().write_all_at(&[7; 4096], 200 * MIB).unwrap();
}

#[cfg(feature = "torture")]
#[test]
fn a_kill_at_any_step_of_a_transfer_leaves_nothing_and_the_retry_finishes_it() {
    an_end_at_any_step(End::Kill);
}

#[cfg(feature = "torture")]
#[test]
fn a_power_cut_at_any_step_of_a_transfer_leaves_nothing_and_the_retry_finishes_it() {
    an_end_at_any_step(End::PowerCut);
}

/// How a node ends.
#[cfg(feature = "torture")]
#[derive(Clone, Copy, PartialEq)]
enum End {
    /// SIGKILL.
    Kill,
    /// The pool's disk takes nothing more, and what it has not is gone.
    PowerCut,
}

/// Every durable step of a transfer, at which a node ends; it goes on and leaves nothing.
#[cfg(feature = "torture")]
fn an_end_at_any_step(end: End) {
    let Some(pair) = Pair::new() else { return };
    let _controller = pair.cluster.start_controller(0);
    let (mut a, mut b) = (pair.start_a(0), pair.start_b());
    pair.know_both(0);
    let (volume, _) = source(&pair, "block", &["--block"]);
    let before = pair.bytes(&pair.cluster.node, "volumes", &volume);
    let there = topology("node-2");
    let mut cuts = 1;
    for (number, (which, step)) in [
        ("b", "receive: recorded"),
        ("b", "receive: begun"),
        ("b", "receive: filled"),
        ("b", "receive: hardened"),
        ("b", "receive: noted"),
        ("b", "receive: reset"),
        ("b", "receive: object synced"),
        ("b", "receive: placed"),
        ("b", "receive: ready"),
        ("a", "lend: recorded"),
        ("a", "lend: cut"),
        ("a", "lend: ready"),
        ("a", "give: sent a piece"),
    ]
    .into_iter()
    .enumerate()
    {
        match which {
            "a" => {
                a.signal(Signal::TERM);
                a.ends();
                a = pair.start_to_stop(which, step);
            }
            _ => {
                b.signal(Signal::TERM);
                b.ends();
                // What comes is made durable every ten seconds: these steps need a transfer that takes longer.
                if ["receive: hardened", "receive: noted", "receive: reset"].contains(&step) {
                    a.signal(Signal::TERM);
                    a.ends();
                    a = pair.start_a(1 << 20);
                }
                b = if step == "receive: reset" { pair.start_b() } else { pair.start_to_stop(which, step) };
            }
        }
        pair.know_both(0);
        let name = format!("copy-{number}");
        let words = ["volume", "create", &name, "--block", "--from-volume", &volume, "--topology", &there];
        if step == "receive: reset" {
            b = pair.lose_what_was_durable(b, &words);
        }
        let (code, said) = pair.controller().refused(&[&words[..], &["--timeout", "9"]].concat());
        assert!([0, UNAVAILABLE, DEADLINE, CANCELLED].contains(&code), "{step}: {code} {said}");
        let stopped = if which == "a" { &mut a } else { &mut b };
        let pid = stopped.child.id();
        until(stopped, &format!("it stops at `{step}`"), LONG, || {
            std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") T "))
        });
        let ends = if which == "a" { &pair.cluster.node } else { &pair.other };
        if end == End::PowerCut {
            rockpool::os::fs::cut_power(std::fs::File::open(pool(ends)).unwrap()).unwrap();
        }
        stopped.signal(Signal::KILL);
        stopped.ends();
        if end == End::PowerCut {
            run(Command::new("umount").arg(pool(ends))).unwrap();
        }
        if which == "b" {
            b = pair.start_b();
            a.signal(Signal::TERM);
            a.ends();
        }
        a = pair.start_a(0);
        pair.know_both(0);
        let made = pair.make(&words, &[0]);
        let copy = text(&made, "volume_id");
        assert!(pair.bytes(&pair.other, "volumes", copy) == before, "{step}");
        pair.leaves(&pair.other, 1, 0);
        // Who does not hear that the copy is whole keeps the cut for ten minutes.
        cuts += usize::from(["receive: placed", "receive: ready"].contains(&step));
        pair.leaves(&pair.cluster.node, 1, cuts);
        pair.controller().ask(&["volume", "delete", copy]);
        pair.leaves(&pair.other, 0, 0);
    }
}
