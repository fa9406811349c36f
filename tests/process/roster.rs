//! Which nodes ought to be there, and pools that are lost: what operators see and say, and what a controller keeps of it.

use rustix::process::Signal;
use serde_json::Value;

use crate::harness::{Driver, Place, eventually};
use crate::life::text;
use crate::linked::{Cluster, UNAVAILABLE, keep_pool, keys};
use crate::tokens::Tokened;

/// The exit codes of `ctl` for NOT_FOUND and FAILED_PRECONDITION.
const NOT_FOUND: i32 = 15;
const FAILED_PRECONDITION: i32 = 19;

/// The flags of a controller with files, and its socket for operators.
fn start(cluster: &Cluster) -> Driver {
    let place = &cluster.controllers[0];
    let path = |name: &str| place.path(name).display().to_string();
    let admin = place.admin_socket().display().to_string();
    let more = [("--nodes", path("nodes")), ("--lost-pools", path("lost.json")), ("--admin-endpoint", admin)];
    let more = more.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]);
    let flags: Vec<String> = keys(place).into_iter().chain(more).collect();
    cluster.start_controller_with(0, &flags, &[])
}

/// The only pool that the controller knows.
fn pool(place: &Place) -> Value {
    let pools = place.ask(&["pool", "list"])["pools"].as_array().unwrap().clone();
    assert_eq!(pools.len(), 1, "{pools:?}");
    pools[0].clone()
}

#[test]
fn a_pool_that_was_forgotten_stays_so_and_what_was_deleted_is_an_orphan_when_it_is_back() {
    let cluster = Cluster::new();
    keep_pool(&cluster.node);
    let place = &cluster.controllers[0];
    std::fs::write(place.path("nodes"), "node-1\nnode-2\n").unwrap();
    let mut controller = start(&cluster);
    let mut node = cluster.start_node();
    eventually("one node is missed", || {
        let (code, said) = place.refused(&["volume", "list"]);
        code == UNAVAILABLE && said.contains("node-2")
    });
    let nodes = place.ask(&["nodes"]);
    let standings: Vec<(&str, &str)> = nodes["nodes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|node| (text(node, "id"), text(node, "standing")))
        .collect();
    assert_eq!(standings, [("node-1", "connected"), ("node-2", "never")]);
    std::fs::write(place.path("nodes"), "node-1\n").unwrap();
    eventually("it is missed no more", || place.ctl(&["volume", "list"]).status.success());

    let create = |name: &str| {
        let made = place.ask(&["volume", "create", name, "--size", "64MiB"]);
        text(&made, "volume_id").to_owned()
    };
    let (first, second) = (create("first"), create("second"));
    let id = text(&pool(place), "id").to_owned();
    let (code, said) = place.refused(&["pool", "forget", &id]);
    assert!(code == FAILED_PRECONDITION && said.contains("node node-1 has it"), "{code}: {said}");
    assert_eq!(place.refused(&["pool", "forget", "../x"]).0, 13);
    node.signal(Signal::KILL);
    node.ends();
    eventually("its node is away", || text(&pool(place), "state") == "away");
    assert_eq!(place.refused(&["volume", "delete", &first]).0, UNAVAILABLE);

    waited_for_nodes(place);
    let forgot = place.ask(&["pool", "forget", &id]);
    assert_eq!((&forgot["already"], &forgot["nodes"]), (&false.into(), &serde_json::json!(["node-1"])));
    place.ask(&["volume", "delete", &first]);
    assert_eq!(place.refused(&["volume", "get", &second]).0, NOT_FOUND);
    assert_eq!(cluster.volumes(0).len(), 0);
    // A controller that was killed has kept it.
    controller.signal(Signal::KILL);
    controller.ends();
    let _controller = start(&cluster);
    eventually("it is lost still", || text(&pool(place), "state") == "lost");
    assert_eq!(text(&pool(place), "why"), "an operator has forgotten it");
    assert_eq!(pool(place)["deleted"], serde_json::json!([first]));
    place.ask(&["volume", "delete", &first]);

    let _node = cluster.start_node();
    eventually("it is back", || text(&pool(place), "state") == "here");
    assert_eq!(text(&place.ask(&["volume", "get", &first]), "volume_id"), first, "nothing was removed");
    assert_eq!(text(&pool(place), "why"), "", "nothing keeps it from being used");
    eventually("its orphan is reported", || {
        let said = place.ctl(&["pool", "list"]);
        String::from_utf8(said.stderr).unwrap().contains(&format!("orphan: {first}"))
            && _controller.log().contains("orphans")
    });
    place.ask(&["volume", "delete", &first]);
    place.ask(&["volume", "delete", &second]);
    place.ask(&["pool", "recall", &id]);
    assert_eq!(pool(place)["deleted"], serde_json::json!([]));
    assert_eq!(place.refused(&["pool", "recall", &id]).0, NOT_FOUND);
}

/// Waits until a controller no longer takes its nodes for late.
fn waited_for_nodes(place: &Place) {
    eventually("it waits no more", || !place.refused(&["volume", "list"]).1.contains("just started"));
}

#[test]
fn in_kubernetes_operators_see_who_ought_to_be_there_and_who_was_refused() {
    let tokened = Tokened::new();
    let place = &tokened.cluster.controllers[0];
    ["node-1", "node-2"].iter().for_each(|node| tokened.api.add_node(node));
    let admin = place.admin_socket().display().to_string();
    let _controller =
        tokened.start_controller(0, &["--admin-endpoint", &admin, "--state-configmap", "state"]);
    let stolen = tokened.issue("node-2");
    let _node = tokened.start_node(&tokened.cluster.node, &stolen);
    let mut nodes = Value::Null;
    eventually("it is refused", || {
        nodes = place.ask(&["nodes"]);
        nodes["refused"]["other-node"].as_u64() > Some(0)
    });
    let last = &nodes["recently_refused"][0];
    assert_eq!(text(last, "reason"), "other-node");
    assert!(text(last, "message").contains("its token says node-2"), "{last}");
    assert!(text(last, "from").starts_with("127.0.0.1:"), "{last}");
    let (code, said) = place.refused(&["volume", "list"]);
    assert!(code == UNAVAILABLE && said.contains("node node-1"), "{said}");
    for node in nodes["nodes"].as_array().unwrap() {
        assert_eq!(
            (&node["standing"], &node["expected"], &node["gone"]),
            (&"never".into(), &true.into(), &false.into())
        );
    }
    // What an operator says goes into the ConfigMap, once it is clear that no node is on its way.
    waited_for_nodes(place);
    let note = place.ctl(&["pool", "forget", "aaaaaaaaaaaa"]);
    assert!(String::from_utf8(note.stdout).unwrap().contains("is the id right?"));
    assert!(String::from_utf8(note.stderr).unwrap().contains("node node-2 has told this controller nothing"));
    let world = tokened.api.world();
    let book =
        world.objects["/api/v1/namespaces/rockpool/configmaps/state"]["data"]["lost-pools"].as_str().unwrap();
    assert!(book.contains("aaaaaaaaaaaa") && book.contains("an operator"), "{book}");
}
