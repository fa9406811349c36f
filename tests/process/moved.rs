//! A pool that moves to another node: its volumes come along, and `ctl pool moved` takes their PersistentVolumes after them.

use std::process::Command;

use rcgen::SanType;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::{PROGRAM, Place, eventually};
use crate::kubernetes::Api;
use crate::life::text;
use crate::linked::{Cluster, UNAVAILABLE, keep_pool, keys};

const POOL: &str = "aaaaaaaaaaaa";
const POLICY: &str = "persistentVolumeReclaimPolicy";

fn path(name: &str) -> String {
    format!("/api/v1/persistentvolumes/{name}")
}

/// A bound PersistentVolume as the provisioner makes them.
fn persistent(name: &str, handle: &str, node: &str) -> Value {
    let rule = json!({ "key": "topology.csi.rockpool.dev/node", "operator": "In", "values": [node] });
    let other = json!({ "key": "zone", "operator": "In", "values": ["z1"] });
    json!({
        "metadata": {
            "name": name,
            "uid": format!("first-{name}"),
            "labels": { "team": "a" },
            "annotations": { "pv.kubernetes.io/provisioned-by": "csi.rockpool.dev" },
            "finalizers": ["kubernetes.io/pv-protection", "external-provisioner.volume.kubernetes.io/finalizer"],
        },
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "capacity": { "storage": "1Gi" },
            "claimRef": { "namespace": "ns", "name": format!("claim-{name}"), "uid": format!("claim-uid-{name}") },
            "csi": { "driver": "csi.rockpool.dev", "volumeHandle": handle, "volumeAttributes": { "x": "y" } },
            "nodeAffinity": { "required": { "nodeSelectorTerms": [{ "matchExpressions": [other, rule] }] } },
            "persistentVolumeReclaimPolicy": "Delete",
            "storageClassName": "fast",
        },
        "status": { "phase": "Bound" },
    })
}

/// A cluster with volumes in the pool on n1, and some that are not concerned.
struct Cellar {
    place: Place,
    api: Api,
    pool: String,
}

impl Cellar {
    fn new() -> Cellar {
        Cellar::with(POOL)
    }

    fn with(pool: &str) -> Cellar {
        let cellar = Cellar { place: Place::new(), api: Api::start(), pool: pool.to_owned() };
        std::fs::write(cellar.place.path("kubeconfig"), cellar.api.kubeconfig()).unwrap();
        ["n1", "n2"].iter().for_each(|node| cellar.api.add_node(node));
        cellar.put("one", persistent("one", &cellar.handle(1), "n1"));
        cellar.put("two", persistent("two", &cellar.handle(2), "n1"));
        cellar.put("other-pool", persistent("other-pool", "v1.bbbbbbbbbbbb.0000000000000001", "n1"));
        let mut foreign = persistent("other-driver", &cellar.handle(3), "n1");
        foreign["spec"]["csi"]["driver"] = json!("csi.other");
        cellar.put("other-driver", foreign);
        cellar
    }

    fn handle(&self, number: u32) -> String {
        format!("v1.{}.000000000000000{number}", self.pool)
    }

    fn put(&self, name: &str, object: Value) {
        self.api.world().put(&path(name), object);
    }

    fn get(&self, name: &str) -> Value {
        self.api.world().objects.get(&path(name)).cloned().unwrap_or_default()
    }

    /// The exit code and all that was said.
    fn moved(&self, words: &[&str]) -> (i32, String) {
        let (config, save) = (self.place.path("kubeconfig"), self.place.path("save"));
        let fixed = [
            "pool",
            "moved",
            &self.pool,
            "--kubeconfig",
            config.to_str().unwrap(),
            "--save",
            save.to_str().unwrap(),
        ];
        let mut command = Command::new(PROGRAM);
        // Only where a test names a controller there is one.
        command.arg("ctl").env_remove("ROCKPOOL_ADMIN_ENDPOINT").args(fixed).args(words);
        let output = command.output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.code().unwrap(), String::from_utf8(said).unwrap())
    }

    /// Whether it is what it was, but on n2 and made anew.
    fn assert_followed(&self, name: &str, handle: &str) {
        let (now, mut want) = (self.get(name), persistent(name, handle, "n2"));
        assert_eq!(now["spec"], want["spec"], "{name}");
        for part in ["uid", "resourceVersion"] {
            assert_ne!(now["metadata"][part], want["metadata"][part]);
            want["metadata"][part] = now["metadata"][part].clone();
        }
        assert_eq!(now["metadata"], want["metadata"], "{name}");
    }

    fn assert_all_followed(&self) {
        for (number, name) in ["one", "two"].iter().enumerate() {
            self.assert_followed(name, &format!("v1.{POOL}.000000000000000{}", number + 1));
        }
        let left = self.place.path("save").read_dir().map_or(0, Iterator::count);
        assert_eq!(left, 0, "files are left");
        for name in ["other-pool", "other-driver"] {
            assert_eq!(self.get(name)["metadata"]["uid"], format!("first-{name}"));
        }
    }
}

#[test]
fn persistent_volumes_follow_their_pool_and_stay_bound() {
    let cellar = Cellar::new();
    let before = cellar.get("one");
    let (code, said) = cellar.moved(&["--node", "n2"]);
    assert!(code == 0 && said.contains("ns/claim-one") && said.contains("n1 -> n2"), "{said}");
    assert!(said.contains("would be saved, retained, deleted and made again"), "{said}");
    assert!(said.contains("nothing was done"), "{said}");
    assert!(said.contains(&format!("whether pool {POOL} is on n2 was not checked")), "{said}");
    assert_eq!(cellar.get("one"), before);
    assert!(!cellar.place.path("save").exists());

    let (code, said) = cellar.moved(&["--node", "n2", "--apply"]);
    assert_eq!(code, 0, "{said}");
    cellar.assert_all_followed();
    let steps = ["is saved", "data is retained", "is deleted", "is gone", "is made again"];
    let at: Vec<usize> = steps
        .iter()
        .map(|step| said.find(&format!("one: it {step}").replace("it data", "its data")).unwrap())
        .collect();
    assert!(at.is_sorted(), "{said}");
    let after = cellar.get("one");
    let (code, said) = cellar.moved(&["--node", "n2", "--apply"]);
    assert!(code == 0 && said.contains("nothing: it names this node"), "{said}");
    assert_eq!(cellar.get("one"), after);
}

#[test]
fn killed_between_any_two_steps_it_goes_on_where_it_was() {
    for unheard in [false, true] {
        for changes in 0..8 {
            let cellar = Cellar::new();
            cellar.api.world().changes = Some((changes, unheard));
            let (code, said) = cellar.moved(&["--node", "n2", "--apply"]);
            assert_eq!(code, 1, "{changes}: {said}");
            for name in ["one", "two"] {
                let live = cellar.get(name);
                let saved = std::fs::read_to_string(cellar.place.path("save").join(format!("{name}.json")));
                let is_somewhere = !live.is_null() || saved.is_ok_and(|saved| saved.contains(name));
                assert!(is_somewhere, "{name} is nowhere after {changes}: {said}");
                let is_safe = live["metadata"]["deletionTimestamp"].is_null()
                    || live["spec"]["persistentVolumeReclaimPolicy"] == "Retain";
                assert!(is_safe, "{name} was deleted with its data: {said}");
            }
            cellar.api.world().changes = None;
            let (code, said) = cellar.moved(&["--node", "n2"]);
            assert!(code == 0 && said.contains("nothing was done"), "{changes}: {said}");
            let (code, said) = cellar.moved(&["--node", "n2", "--apply"]);
            assert_eq!(code, 0, "{changes}: {said}");
            cellar.assert_all_followed();
        }
    }
}

#[test]
fn what_others_delete_is_left_alone_and_a_wrong_node_is_refused() {
    let cellar = Cellar::new();
    let mut leaving = cellar.get("one");
    leaving["metadata"]["deletionTimestamp"] = json!("2026-11-22T00:00:00Z");
    cellar.put("one", leaving);
    let before = cellar.get("one");
    let (code, said) = cellar.moved(&["--node", "n2", "--apply"]);
    assert!(code == 1 && said.contains("`one` is being deleted, and not by this command"), "{said}");
    assert_eq!(cellar.get("one"), before);
    cellar.assert_followed("two", &format!("v1.{POOL}.0000000000000002"));
    for node in ["n3", "../n1"] {
        let (code, said) = cellar.moved(&["--node", node, "--apply"]);
        assert!(code == 2, "{said}");
    }
    let (code, said) = cellar.moved(&["--node", "n2", "--apply", "--driver-name", "csi.other.dev"]);
    assert!(code == 2 && said.contains("where the driver `csi.other.dev` is registered"), "{said}");
}

/// A run that ends after so many changes, and what of `one` it leaves behind.
fn interrupted(cellar: &Cellar, changes: usize) -> Value {
    cellar.api.world().changes = Some((changes, false));
    let (code, said) = cellar.moved(&["--node", "n2", "--apply"]);
    assert!(code == 1 && cellar.place.path("save/one.json").exists(), "{said}");
    cellar.api.world().changes = None;
    cellar.get("one")
}

#[test]
fn what_was_changed_since_an_interrupted_run_is_kept() {
    for (changes, policy) in [(0, "Delete"), (1, "Retain")] {
        let cellar = Cellar::new();
        let mut live = interrupted(&cellar, changes);
        assert_eq!(live["spec"][POLICY], policy, "where it was interrupted");
        live["metadata"]["labels"]["team"] = json!("b");
        live["spec"]["capacity"]["storage"] = json!("2Gi");
        cellar.put("one", live);
        let (code, said) = cellar.moved(&["--node", "n2", "--apply"]);
        assert_eq!(code, 0, "{said}");
        let now = cellar.get("one");
        assert_eq!(now["metadata"]["labels"]["team"], "b", "{changes}");
        assert_eq!(now["spec"]["capacity"]["storage"], "2Gi", "{changes}");
        assert_eq!(now["spec"][POLICY], "Delete", "{changes}: the one before all runs");
    }
    // A policy that is not that run's is somebody's wish.
    let cellar = Cellar::new();
    let mut kept = cellar.get("one");
    kept["spec"][POLICY] = json!("Retain");
    cellar.put("one", kept);
    let mut live = interrupted(&cellar, 0);
    live["spec"][POLICY] = json!("Delete");
    cellar.put("one", live);
    assert_eq!(cellar.moved(&["--node", "n2", "--apply"]).0, 0);
    assert_eq!(cellar.get("one")["spec"][POLICY], "Delete");
}

#[test]
fn what_names_no_node_by_our_key_is_left_alone_and_named() {
    let cellar = Cellar::new();
    let rule = |change: fn(&mut Value)| {
        let mut object = cellar.get("one");
        change(
            &mut object["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"][0]["matchExpressions"][1],
        );
        object
    };
    let mut anywhere = cellar.get("one");
    anywhere["spec"].as_object_mut().unwrap().remove("nodeAffinity");
    for object in [
        rule(|rule| rule["key"] = json!("kubernetes.io/hostname")),
        rule(|rule| rule["operator"] = json!("NotIn")),
        anywhere,
    ] {
        cellar.put("one", object);
        let before = cellar.get("one");
        for words in [&["--node", "n2"][..], &["--node", "n2", "--apply"]] {
            let (code, said) = cellar.moved(words);
            let line = said.lines().find(|line| line.starts_with("one ")).unwrap();
            assert!(code == 0 && line.contains("left alone: its nodeAffinity names no node"), "{said}");
            assert_eq!(cellar.get("one"), before);
        }
        assert!(!cellar.place.path("save/one.json").exists());
    }
    cellar.assert_followed("two", &cellar.handle(2));
}

#[test]
fn a_controller_that_is_named_is_asked_where_the_pool_is() {
    let cluster = Cluster::new();
    let (_controller, mut node, admin) = cluster.start_with_admin();
    let cellar = Cellar::with(text(&cluster.kept(), "id"));
    cellar.api.add_node("node-1");
    let before = cellar.get("one");
    let moved =
        |cellar: &Cellar, node: &str| cellar.moved(&["--node", node, "--admin-endpoint", &admin, "--apply"]);
    let refused = |cellar: &Cellar, node: &str, why: &str| {
        let (code, said) = moved(cellar, node);
        assert!(code == 2 && said.contains(why) && said.contains("nothing was done"), "{code}: {said}");
    };
    refused(&cellar, "n2", &format!("the controller says that pool {} is on node-1", cellar.pool));
    refused(&Cellar::new(), "n2", &format!("pool {POOL} is not known"));
    assert!(cellar.get("one") == before && !cellar.place.path("save").exists());

    let (code, said) = moved(&cellar, "node-1");
    assert!(code == 0 && !said.contains("not checked"), "{said}");
    assert_eq!(cellar.get("one")["spec"], persistent("one", &cellar.handle(1), "node-1")["spec"]);
    node.signal(Signal::TERM);
    node.ends();
    eventually("it is away", || cluster.kept()["state"] == "away");
    refused(&cellar, "node-1", "is away, and was on node-1");
    // Its word was asked for.
    let (code, said) = cellar.moved(&["--node", "n2", "--admin-endpoint", "/nowhere/admin.sock", "--apply"]);
    assert!(code == UNAVAILABLE && said.contains("/nowhere/admin.sock"), "{code}: {said}");
}

#[test]
fn a_pool_on_a_disk_that_moves_is_served_by_its_new_node() {
    let cluster = Cluster::new();
    keep_pool(&cluster.node);
    let second = Place::new();
    let name = "rockpool://csi.rockpool.dev/node/node-2".try_into().unwrap();
    cluster.issue(&second, SanType::URI(name));
    // The new node knows the place, where there is nothing yet.
    let config = std::fs::read_to_string(cluster.node.path("config.toml")).unwrap();
    let (from, to) = (cluster.node.path("pool"), second.path("pool"));
    second.configure(&config.replace(from.to_str().unwrap(), to.to_str().unwrap()));
    let _controller = cluster.start_controller(0);
    let place = &cluster.controllers[0];
    let mut first = cluster.start_node();
    let flags = [&keys(&second)[..], &["--node-id".to_owned(), "node-2".to_owned()]].concat();
    eventually("the first node is there", || place.ctl(&["volume", "list"]).status.success());
    let made = place.ask(&["volume", "create", "first", "--size", "64MiB"]);
    let id = text(&made, "volume_id").to_owned();
    let node_of = |volume: &Value| volume["accessible_topology"][0]["topology.csi.rockpool.dev/node"].clone();
    assert_eq!(node_of(&made), "node-1");
    let _second = cluster.start_node_with(&second, &flags);
    first.signal(Signal::TERM);
    first.ends();
    eventually("it is away", || place.refused(&["volume", "get", &id]).0 == UNAVAILABLE);
    // While both nodes run: the new one sees what has come without being started again.
    std::fs::rename(&from, &to).unwrap();
    let mut got = Value::Null;
    eventually("it is served by its new node", || {
        let output = place.ctl(&["-o", "json", "volume", "get", &id]);
        got = serde_json::from_slice(&output.stdout).unwrap_or_default();
        output.status.success()
    });
    assert_eq!((text(&got, "volume_id"), node_of(&got)), (id.as_str(), json!("node-2")));
    // The same name is the same volume still, and the old node comes back with another pool.
    cluster.node.configure("[[pool]]\nname = \"toy\"\nkind = \"sim\"\n");
    let _first = cluster.start_node();
    eventually("all nodes have told", || place.ctl(&["volume", "list"]).status.success());
    let again = place.ask(&["volume", "create", "first", "--size", "64MiB"]);
    assert_eq!(text(&again, "volume_id"), id);
    place.ask(&["volume", "delete", &id]);
}
