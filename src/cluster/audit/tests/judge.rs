//! Nodes and pools: each finding, and what is none.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::super::finding::{Finding, Reason};
use super::super::judge::{Judge, Scene, Terms};
use super::super::kinds::{Kind, Watched};
use super::{A, DRIVER, claim, id, persistent, read, seen, volume_id};
use crate::cluster::news::{Pool, Seen, Standing};
use crate::proto::link as wire;

const MINUTE: Duration = Duration::from_secs(60);

fn judge() -> Judge {
    Judge::new(Terms { driver: DRIVER.to_owned(), gone_after: 10 * MINUTE, unwell: MINUTE / 2 })
}

fn node(name: &str, ready: &str) -> Value {
    json!({ "metadata": { "name": name, "uid": format!("uid-of-{name}") },
        "status": { "conditions": [{ "type": "Ready", "status": ready }] } })
}

fn csi(name: &str, drivers: &[&str]) -> Value {
    let drivers: Vec<Value> = drivers.iter().map(|name| json!({ "name": name })).collect();
    json!({ "metadata": { "name": name }, "spec": { "drivers": drivers } })
}

fn all<K: Kind>(values: &[Value]) -> Vec<Arc<K>> {
    values
        .iter()
        .map(|value| Arc::new(serde_json::from_value::<Watched<K>>(value.clone()).unwrap().object))
        .collect()
}

/// `n1` is well, with a volume `one` of a patient class on it, and `two` of the usual one.
struct Stage {
    volumes: Vec<Value>,
    nodes: Vec<Value>,
    csi: Vec<Value>,
    seen: Vec<Seen>,
}

impl Stage {
    fn new() -> Stage {
        let mut patient = persistent("one", &volume_id(A, 1), "n1");
        patient["spec"]["storageClassName"] = json!("patient");
        Stage {
            volumes: vec![patient, persistent("two", &volume_id(A, 2), "n1")],
            nodes: vec![node("n1", "True")],
            csi: vec![csi("n1", &["other", DRIVER])],
            seen: vec![],
        }
    }

    fn scene(&self) -> Scene {
        let class = json!({ "metadata": { "name": "patient" }, "provisioner": DRIVER, "parameters": { "reportNodeGoneAfter": "1h" } });
        Scene {
            volumes: all(&self.volumes),
            claims: all(&[claim("one"), claim("two")]),
            nodes: all(&self.nodes),
            csi_nodes: all(&self.csi),
            classes: all(&[class]),
        }
    }

    /// What is found when it stays like this for so long, looked at every minute.
    fn after(&self, judge: &mut Judge, from: Instant, minutes: u32) -> Vec<String> {
        let mut found = Vec::new();
        for minute in 0..=minutes {
            found = judge.nodes(&self.scene(), &self.seen, from + minute * MINUTE);
        }
        names(&found)
    }
}

fn names(found: &[Finding]) -> Vec<String> {
    found.iter().map(|it| format!("{} {}/{}", it.reason.name(), it.about.kind, it.about.name)).collect()
}

#[test]
fn a_node_that_is_well_is_no_finding() {
    assert!(Stage::new().after(&mut judge(), Instant::now(), 300).is_empty());
}

#[test]
fn a_deleted_node_is_reported_once_it_is_gone_for_longer_than_the_class_says() {
    let (mut stage, mut judge, now) = (Stage::new(), judge(), Instant::now());
    (stage.nodes, stage.csi) = (vec![], vec![]);
    assert!(stage.after(&mut judge, now, 9).is_empty());
    let found = stage.after(&mut judge, now + 9 * MINUTE, 2);
    assert_eq!(found, ["NodeGone Node/n1", "NodeGone PersistentVolumeClaim/two"]);
    let found = stage.after(&mut judge, now + 11 * MINUTE, 50);
    assert_eq!(found.len(), 3, "the patient class is out of patience, too: {found:?}");
}

#[test]
fn a_node_that_is_not_ready_is_gone_also_while_it_is_connected() {
    for status in ["False", "Unknown"] {
        let mut stage = Stage::new();
        stage.nodes = vec![node("n1", status)];
        stage.seen = vec![seen("n1", Standing::Told, &[])];
        let found = judge().nodes(&stage.scene(), &stage.seen, Instant::now());
        assert!(found.is_empty(), "not at once");
        assert_eq!(stage.after(&mut judge(), Instant::now(), 11).len(), 2, "{status}");
    }
}

#[test]
fn the_note_of_a_node_says_how_many_volumes_are_on_it_and_what_can_be_done() {
    let (mut stage, mut judge, now) = (Stage::new(), judge(), Instant::now());
    stage.nodes = vec![];
    stage.after(&mut judge, now, 60);
    let found = judge.nodes(&stage.scene(), &[], now + 61 * MINUTE);
    assert!(
        found[0].note.starts_with("Node n1 is deleted, and 2 volumes of csi.rockpool.dev lie on it alone"),
        "{}",
        found[0].note
    );
    assert_eq!(found[0].about.uid, "n1", "as kubelet does it");
    assert!(found[1].note.contains("node n1 alone, which is deleted"), "{}", found[1].note);
    assert_eq!(found[1].about.namespace.as_deref(), Some("ns"));
}

#[test]
fn who_was_only_away_for_a_while_begins_anew() {
    let (mut stage, mut judge, now) = (Stage::new(), judge(), Instant::now());
    stage.nodes = vec![node("n1", "False")];
    assert!(stage.after(&mut judge, now, 9).is_empty());
    assert!(Stage::new().after(&mut judge, now + 9 * MINUTE, 1).is_empty());
    assert!(stage.after(&mut judge, now + 11 * MINUTE, 9).is_empty());
    assert!(!stage.after(&mut judge, now + 20 * MINUTE, 2).is_empty());
}

#[test]
fn time_in_which_kubernetes_cannot_be_seen_does_not_count() {
    let (mut stage, mut judge, now) = (Stage::new(), judge(), Instant::now());
    stage.nodes = vec![];
    assert!(stage.after(&mut judge, now, 5).is_empty());
    judge.blink();
    assert!(stage.after(&mut judge, now + 600 * MINUTE, 4).is_empty(), "nine minutes in all");
    assert!(!stage.after(&mut judge, now + 605 * MINUTE, 1).is_empty());
}

#[test]
fn a_deleted_node_that_is_connected_is_there() {
    let mut stage = Stage::new();
    (stage.nodes, stage.seen) = (vec![], vec![seen("n1", Standing::Untold, &[])]);
    assert!(stage.after(&mut judge(), Instant::now(), 60).is_empty());
    stage.seen = vec![seen("n1", Standing::Away, &[])];
    assert!(!stage.after(&mut judge(), Instant::now(), 60).is_empty());
}

#[test]
fn a_node_without_our_volumes_is_nobodys_matter() {
    let mut stage = Stage::new();
    stage.nodes.push(node("n2", "False"));
    stage
        .volumes
        .iter_mut()
        .for_each(|volume| volume["metadata"]["deletionTimestamp"] = json!("2026-11-22T00:00:00Z"));
    stage.nodes[0] = node("n1", "False");
    assert!(stage.after(&mut judge(), Instant::now(), 60).is_empty(), "what is being deleted does not count");
}

#[test]
fn a_volume_that_can_be_used_on_several_nodes_is_not_lost_with_one() {
    let mut stage = Stage::new();
    stage.nodes = vec![];
    for volume in &mut stage.volumes {
        volume["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"][0]["matchExpressions"][0]["values"] =
            json!(["n1", "n2"]);
    }
    assert!(stage.after(&mut judge(), Instant::now(), 60).is_empty());
}

#[test]
fn a_node_without_the_driver_is_told_of_under_a_reason_of_its_own() {
    let mut stage = Stage::new();
    stage.csi = vec![csi("n1", &["other"])];
    let found = stage.after(&mut judge(), Instant::now(), 11);
    assert_eq!(found, ["DriverNotRegistered Node/n1", "DriverNotRegistered PersistentVolumeClaim/two"]);
}

#[test]
fn a_claim_that_is_gone_is_not_told() {
    let mut stage = Stage::new();
    stage.nodes = vec![];
    stage.volumes = vec![persistent("three", &volume_id(A, 3), "n1")];
    assert_eq!(stage.after(&mut judge(), Instant::now(), 11), ["NodeGone Node/n1"]);
}

fn pool() -> wire::Pool {
    wire::Pool { id: A.to_owned(), ..wire::Pool::default() }
}

/// What is found of a pool of `n1` that was like this for a minute.
fn of_pool(pool: Pool) -> Vec<Finding> {
    let mut one = seen("n1", Standing::Told, &[]);
    one.pools = Arc::new([("fast".to_owned(), pool)].into());
    let (mut judge, now) = (judge(), Instant::now());
    assert!(judge.pools(&[one.clone()], |_| None, now).is_empty(), "not at once");
    judge.pools(&[one], |_| Some("u".to_owned()), now + MINUTE)
}

#[test]
fn each_way_in_which_a_pool_can_be_unwell_is_told_by_its_name() {
    let away = wire::Pool { away: "the disk is not there".to_owned(), ..pool() };
    let read_only = wire::Pool { read_only: "an I/O error".to_owned(), ..pool() };
    let gone = wire::Pool { gone: true, ..away.clone() };
    let bad = wire::Pool { quarantined_records: 2, ..pool() };
    let mut copied = Pool::from(away.clone());
    copied.twice = true;
    let cases = [
        (Pool::from(away), Reason::PoolAway, "the disk is not there"),
        (Pool::from(read_only), Reason::PoolReadOnly, "an I/O error"),
        (Pool::from(gone), Reason::PoolGone, "not at this node any more"),
        (Pool::from(bad), Reason::RecordQuarantined, "2 records in it cannot be read"),
        (copied, Reason::PoolCopied, "is its disk a copy?"),
    ];
    for (pool, reason, words) in cases {
        let found = of_pool(pool);
        assert_eq!(names(&found), [format!("{} Node/n1", reason.name())]);
        assert!(
            found[0].note.contains("Pool `fast` of node n1") && found[0].note.contains(words),
            "{}",
            found[0].note
        );
        assert_eq!(found[0].about.uid, "u");
    }
    assert!(of_pool(Pool::from(pool())).is_empty());
}

#[test]
fn a_pool_that_is_well_again_is_told_once_and_only_if_it_was_reported() {
    let away = wire::Pool { away: "x".to_owned(), ..pool() };
    let (ill, well) =
        (seen("n1", Standing::Told, &[("fast", away)]), seen("n1", Standing::Told, &[("fast", pool())]));
    let (mut judge, now) = (judge(), Instant::now());
    let mut look = |seen: &Seen, minute: u32| {
        names(&judge.pools(std::slice::from_ref(seen), |_| None, now + minute * MINUTE))
    };
    assert!(look(&ill, 0).is_empty());
    assert!(look(&well, 0).is_empty(), "nobody heard of it");
    assert!(look(&ill, 1).is_empty());
    assert_eq!(look(&ill, 2), ["PoolAway Node/n1"]);
    // Who leaves says nothing of its pools.
    assert!(look(&seen("n1", Standing::Away, &[]), 3).is_empty());
    assert_eq!(look(&ill, 4), ["PoolAway Node/n1"]);
    assert_eq!(look(&well, 5), ["PoolHealthy Node/n1"]);
    assert!(look(&well, 6).is_empty());
}

#[test]
fn a_pool_that_is_unwell_in_another_way_or_taken_out_of_the_file_is_not_well_again() {
    let away = wire::Pool { away: "x".to_owned(), ..pool() };
    let ill = seen("n1", Standing::Told, &[("fast", away.clone())]);
    let gone = seen("n1", Standing::Told, &[("fast", wire::Pool { gone: true, ..away })]);
    let (mut judge, now) = (judge(), Instant::now());
    let mut look = |seen: &Seen, minute: u32| {
        names(&judge.pools(std::slice::from_ref(seen), |_| None, now + minute * MINUTE))
    };
    look(&ill, 0);
    assert_eq!(look(&ill, 1), ["PoolAway Node/n1"]);
    assert!(look(&gone, 2).is_empty());
    assert_eq!(look(&gone, 3), ["PoolGone Node/n1"]);
    assert!(look(&seen("n1", Standing::Told, &[]), 4).is_empty());
}

#[test]
fn a_pool_whose_disk_has_moved_to_another_node_is_no_finding_on_the_old_one() {
    let gone = wire::Pool { gone: true, away: "x".to_owned(), ..pool() };
    let old = seen("n1", Standing::Told, &[("fast", gone)]);
    let new = seen("n2", Standing::Told, &[("fast", pool())]);
    let (mut judge, now) = (judge(), Instant::now());
    let mut look = |seen: &[Seen], minute: u32| names(&judge.pools(seen, |_| None, now + minute * MINUTE));
    look(std::slice::from_ref(&old), 0);
    assert_eq!(look(std::slice::from_ref(&old), 1), ["PoolGone Node/n1"]);
    assert!(look(&[old.clone(), new], 2).is_empty(), "and nobody says that it is well there");
    assert!(look(&[old], 3).is_empty(), "from here on it counts anew");
}

#[test]
fn the_volumes_of_the_scene_are_read_as_they_are_sent() {
    assert_eq!(read(persistent("one", &volume_id(A, 1), "n1")).nodes[..], [id("n1")]);
}
