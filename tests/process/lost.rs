//! Records that are gone or cannot be read: nobody who asks is told that what lies there is gone.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use crate::doctor::{Ward, Way, codes, doctor, sibling};
use crate::harness::{Place, eventually, names};
use crate::life::text;
use crate::wards::Devices;

/// What a call that must be put off says.
fn put_off(place: &Place, words: &[&str]) -> String {
    let (code, said) = place.refused(words);
    assert!(code != 0 && said.contains("UNAVAILABLE"), "{words:?}: {code} {said}");
    said
}

fn lost(place: &Place, words: &[&str]) {
    let said = put_off(place, words);
    assert!(said.contains("rockpool ctl doctor") && said.contains("RP-RECORD-LOST"), "{words:?}: {said}");
}

/// The path of a directory below the kubelet root, made.
fn below(place: &Place, name: &str) -> String {
    let path = place.path("kubelet").join(name);
    fs::create_dir_all(&path).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn what_lost_its_record_is_not_deleted_and_lets_go_of_whoever_uses_it() {
    let place = Place::new();
    let mut ward = Ward::new(&place);
    let [raw, other] = ["raw", "other"].map(|name| ward.create(name, &["--block", "--size", "8MiB"]));
    let cut = place.ask(&["snapshot", "create", "cut", "--volume", &raw]);
    let cut = text(&cut, "snapshot_id").to_owned();
    let group = place.ask(&["group", "create", "both", "--volume", &raw, "--volume", &other]);
    let members: Vec<&str> =
        group["snapshots"].as_array().unwrap().iter().map(|one| text(one, "snapshot_id")).collect();
    let group = text(&group, "group_snapshot_id").to_owned();
    let _devices = Devices(ward.image(&raw));
    let (staging, target) = (below(&place, "staging"), format!("{}/target", below(&place, "pod")));
    place.ask(&["volume", "stage", &raw, "--block", "--staging", &staging]);
    place.ask(&["volume", "publish", &raw, "--block", "--staging", &staging, "--target", &target]);
    ward.kill();
    let all = [raw.as_str(), &cut, &group, members[0], members[1]];
    for id in all {
        fs::remove_file(ward.record(id)).unwrap();
    }
    ward.start();

    lost(&place, &["volume", "delete", &raw]);
    lost(&place, &["volume", "get", &raw]);
    lost(&place, &["volume", "expand", &raw, "--size", "16MiB"]);
    lost(&place, &["volume", "stage", &raw, "--block", "--staging", &below(&place, "elsewhere")]);
    lost(&place, &["snapshot", "create", "again", "--volume", &raw]);
    lost(&place, &["snapshot", "delete", &cut]);
    lost(&place, &["retained", "purge", &cut]);
    lost(&place, &["group", "delete", &group, "--snapshot", members[0], "--snapshot", members[1]]);
    place.ask(&["volume", "delete", &sibling(&raw)]);
    place.ask(&["snapshot", "delete", &sibling(&cut)]);

    let staged = PathBuf::from(&staging).join("device");
    assert!(PathBuf::from(&target).exists() && staged.exists(), "a pod uses it");
    place.ask(&["volume", "unpublish", &raw, "--target", &target]);
    place.ask(&["volume", "unstage", &raw, "--staging", &staging]);
    assert!(!PathBuf::from(&target).exists() && !staged.exists());
    assert_eq!(ward.codes().0, ["RP-RECORD-LOST"; 4], "no device is left; a group is known by its members");
    let rebuilt = ward.doctor(&["--repair", "RP-RECORD-LOST"]);
    assert!(rebuilt.status.success(), "{rebuilt:?}");
    ward.repaired("RP-RECORD-LOST", Some(&group), &format!("rebuilt the record of {group}"));
    for id in [&raw, &other] {
        place.ask(&["volume", "delete", id]);
    }
    place.ask(&["snapshot", "delete", &cut]);
    place.ask(&["group", "delete", &group, "--snapshot", members[0], "--snapshot", members[1]]);
    for folder in ["volumes", "snapshots", "records"] {
        assert_eq!(names(&ward.pool.root().join(folder)), Vec::<String>::new());
    }
    place.ask(&["volume", "delete", &raw]);
}

#[test]
fn a_pool_without_its_records_is_away_until_they_are_back() {
    let place = Place::new();
    let mut ward = Ward::new(&place);
    let one = ward.create("one", &["--block", "--size", "8MiB"]);
    let root = ward.pool.root();
    for lacking in ["volumes", "records"] {
        ward.kill();
        let (there, aside) = (root.join(lacking), root.join("aside"));
        fs::rename(&there, &aside).unwrap();
        let before = names(&root);
        let offline = doctor(&place, Way::Offline, &["--json"]);
        assert!(codes(&offline).0.contains(&"RP-POOL-AWAY".to_owned()), "{offline:?}");
        ward.start();
        for words in [["volume", "delete", &one].as_slice(), &["volume", "get", &one], &["volume", "list"]] {
            let said = put_off(&place, words);
            assert!(said.contains(&format!("lacks its directory `{}`", there.display())), "{said}");
        }
        assert!(text(&ward.finding("RP-POOL-AWAY"), "what").contains("bring it back"));
        assert_eq!(names(&root), before, "nothing is made in its place");
        fs::rename(&aside, &there).unwrap();
        eventually("the pool is back", || place.ctl(&["volume", "get", &one]).status.success());
    }
    // They are lost for good: the remedy that is told.
    ward.kill();
    fs::remove_dir_all(root.join("records")).unwrap();
    fs::create_dir(root.join("records")).unwrap();
    ward.start();
    lost(&place, &["volume", "delete", &one]);
    ward.repaired("RP-RECORD-LOST", None, &format!("rebuilt the record of {one}"));
    place.ask(&["volume", "delete", &one]);
    assert_eq!(names(&root.join("volumes")), Vec::<String>::new());
}

#[test]
fn a_snapshot_whose_record_cannot_be_read_is_listed() {
    let place = Place::new();
    let mut ward = Ward::new(&place);
    let [one, two] = ["one", "two"].map(|name| ward.create(name, &["--block", "--size", "8MiB"]));
    let cut = |name: &str, of: &str| {
        text(&place.ask(&["snapshot", "create", name, "--volume", of]), "snapshot_id").to_owned()
    };
    let (torn, whole) = (cut("torn", &one), cut("whole", &two));
    ward.kill();
    fs::write(ward.record(&torn), "torn").unwrap();
    ward.start();
    let list = |words: &[&str]| -> Vec<(String, bool)> {
        let list = place.ask(&[&["snapshot", "list"], words].concat());
        let ready = |one: &Value| one["ready_to_use"].as_bool().unwrap();
        let mut list: Vec<_> = list["snapshots"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| (text(one, "snapshot_id").to_owned(), ready(one)))
            .collect();
        list.sort_by_key(|(id, _)| *id == whole);
        list
    };
    let (unread, read) = ((torn.clone(), false), (whole.clone(), true));
    assert_eq!(list(&[]), [unread.clone(), read.clone()]);
    assert_eq!(list(&["--page-size", "1"]), [unread.clone(), read.clone()]);
    assert_eq!((list(&["--volume", &one]), list(&["--volume", &two])), (vec![unread], vec![read]));
    put_off(&place, &["snapshot", "get", &torn]);
    ward.kill();
    let object = ward.pool.root().join("snapshots").join(&torn);
    rustix::fs::removexattr(&object, "trusted.rockpool.record").unwrap();
    ward.start();
    let said = put_off(&place, &["snapshot", "list"]);
    assert!(said.contains(&torn) && said.contains("rockpool ctl doctor"), "{said}");
    put_off(&place, &["snapshot", "list", "--volume", &two]);
    let removed = ward.doctor(&["--json"]);
    assert!(codes(&removed).0.contains(&"RP-RECORD-QUARANTINED".to_owned()));
}
