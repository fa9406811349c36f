//! `rockpool ctl` against our own driver: what only a real driver answers.

use serde_json::Value;

use crate::harness::Place;

pub(crate) fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_else(|| panic!("no {field} in {value}"))
}

#[test]
fn a_group_is_made_shown_and_removed_by_its_id_alone() {
    let place = Place::new();
    let _driver = place.start();
    let ask = |words: &[&str]| place.ask(words);
    let one = ask(&["volume", "create", "one", "--size", "20MiB"]);
    let two = ask(&["volume", "create", "two", "--block"]);
    let (one, two) = (text(&one, "volume_id"), text(&two, "volume_id"));
    let group = ask(&["group", "create", "both", "--volume", one, "--volume", two]);
    let id = text(&group, "group_snapshot_id");
    assert_eq!(ask(&["group", "get", id]), group);
    let member = text(&group["snapshots"][0], "snapshot_id");
    assert_eq!(text(&ask(&["snapshot", "get", member]), "group_snapshot_id"), id);
    ask(&["group", "delete", id]);
    assert_eq!(place.ctl(&["group", "get", id]).status.code(), Some(15));
    assert_eq!(ask(&["snapshot", "list"])["snapshots"], Value::Array(Vec::new()));
    ask(&["group", "delete", id]);
}

#[test]
fn a_refused_call_leaves_no_directory_behind() {
    let place = Place::new();
    let _driver = place.start();
    let made = place.ask(&["volume", "create", "one", "--size", "20MiB"]);
    let id = text(&made, "volume_id");
    let outside = place.path("outside/pod/mount");
    let outside = outside.to_str().unwrap();
    let staging = place.path("kubelet/staging");
    std::fs::create_dir(place.path("kubelet/pods")).unwrap();
    let inside = place.path("kubelet/pods/uid/mount");
    for (words, code) in [
        (["publish", id, "--target", outside, "--staging", staging.to_str().unwrap()].as_slice(), 19),
        (
            ["publish", id, "--target", inside.to_str().unwrap(), "--staging", staging.to_str().unwrap()]
                .as_slice(),
            19,
        ),
        (["stage", id, "--staging", outside].as_slice(), 13),
    ] {
        let (found, said) = place.refused(&[&["volume"], words].concat());
        assert_eq!(found, code, "{said}");
    }
    assert!(!place.path("outside").exists(), "what was made for the call goes with it");
    assert_eq!(crate::harness::names(&place.path("kubelet")), ["pods"], "what was there stays");
    assert!(crate::harness::names(&place.path("kubelet/pods")).is_empty());
}

#[test]
fn a_volume_grows_is_cloned_and_goes() {
    let place = Place::new();
    let _driver = place.start();
    let ask = |words: &[&str]| place.ask(words);
    let made = ask(&["volume", "create", "one", "--block", "--size", "8MiB"]);
    let id = text(&made, "volume_id");
    assert_eq!(
        ask(&["volume", "create", "one", "--block", "--size", "8MiB"]),
        made,
        "the same name is the same volume"
    );
    let grown = ask(&["volume", "expand", id, "--size", "16MiB"]);
    assert_eq!(
        (&grown["capacity_bytes"], &grown["node_expansion_required"]),
        (&(16 << 20).into(), &false.into())
    );
    let copy = ask(&["volume", "create", "two", "--block", "--size", "16MiB", "--from-volume", id]);
    assert_eq!(text(&copy["content_source"], "volume_id"), id);
    assert_eq!(ask(&["volume", "list", "--page-size", "1"])["volumes"].as_array().unwrap().len(), 2);
    assert_eq!(ask(&["volume", "validate", id, "--block"])["confirmed"], true);
    assert_eq!(place.ctl(&["volume", "validate", id]).status.code(), Some(1), "it is no filesystem");
    ask(&["volume", "delete", id]);
    assert_eq!(place.ctl(&["volume", "get", id]).status.code(), Some(15));
    let elsewhere = ["volume", "create", "three", "--topology", "topology.csi.rockpool.dev/node=other"];
    assert_eq!(place.ctl(&elsewhere).status.code(), Some(18), "no room here, try another node");
}

#[test]
fn a_stage_that_is_refused_leaves_no_directory() {
    let place = Place::new();
    let _driver = place.start();
    let staging = place.path("kubelet/staging");
    let refused = place.ctl(&["volume", "stage", "no-such", "--staging", staging.to_str().unwrap()]);
    assert_eq!(refused.status.code(), Some(15), "{refused:?}");
    assert!(!staging.exists());
}
