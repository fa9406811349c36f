//! Several pools of which one is away, several findings of which one cannot be mended: the others do not wait for it.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::doctor::{Ward, sibling};
use crate::harness::{Driver, Place};
use crate::life::text;

#[test]
fn a_pool_in_memory_keeps_nobody_from_looking_at_the_others() {
    let place = Place::new();
    let mut ward = Ward::new(&place);
    let one = ward.create("one", &["--block", "--size", "8MiB"]);
    ward.kill();
    ward.pool.set("\n[[pool]]\nname = \"toy\"\nkind = \"sim\"");
    fs::write(ward.pool.root().join("tmp").join(&one), "half").unwrap();
    let output = ward.doctor(&["--json"]);
    assert_eq!(crate::doctor::codes(&output), (vec!["RP-STRAY-TEMPORARY".to_owned()], 3));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.lines().count() == 1 && said.contains("pool `toy` is not looked at"), "{said}");
    ward.repaired("RP-STRAY-TEMPORARY", None, "removed");
}

/// A file that nobody can remove until the test ends.
struct Immutable(PathBuf);

impl Immutable {
    fn new(path: PathBuf) -> Immutable {
        fs::write(&path, "half").unwrap();
        assert!(Command::new("chattr").arg("+i").arg(&path).status().unwrap().success());
        Immutable(path)
    }
}

impl Drop for Immutable {
    fn drop(&mut self) {
        let _ = Command::new("chattr").arg("-i").arg(&self.0).status();
    }
}

#[test]
fn one_pool_is_mended_while_another_is_away() {
    let place = Place::new();
    let mut ward = Ward::new(&place);
    let one = ward.create("one", &["--block", "--size", "8MiB"]);
    ward.kill();
    place.miss_a_pool();
    let stray = ward.pool.root().join("tmp").join(&one);
    for live in [true, false] {
        if live {
            ward.start();
        } else {
            ward.kill();
        }
        fs::write(&stray, "half").unwrap();
        let found = ward.finding("RP-STRAY-TEMPORARY");
        let repair = found["repair"].as_str().unwrap();
        assert_eq!(repair, "rockpool ctl doctor --repair RP-STRAY-TEMPORARY");
        let output = ward.doctor(&["--repair", "RP-STRAY-TEMPORARY"]);
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert!(
            said.contains(&format!("removed tmp/{one}")) && said.contains("pool `away` was not looked at"),
            "{said}"
        );
        assert_eq!(output.status.code(), Some(1), "not all of it is mended");
        assert!(!stray.exists());
        assert_eq!(ward.codes(), (vec!["RP-POOL-AWAY".to_owned()], 4));
        let nothing = ward.doctor(&["--repair", "RP-STRAY-TEMPORARY"]);
        let said = String::from_utf8(nothing.stderr).unwrap();
        assert_eq!(nothing.status.code(), Some(1));
        assert!(said.contains("finds nothing; not looked at: pool `away`"), "{said}");
        let by_hand = ward.doctor(&["--repair", "RP-POOL-AWAY"]);
        let said = String::from_utf8(by_hand.stderr).unwrap();
        assert!(!by_hand.status.success() && said.contains("RP-POOL-AWAY is mended by hand"), "{said}");
    }
}

#[test]
fn what_was_mended_is_told_though_another_could_not_be() {
    let place = Place::new();
    let mut ward = Ward::new(&place);
    ward.kill();
    let records = ward.pool.root().join("records");
    let stray = |digit: &str| records.join(format!(".new.000000000000000{digit}"));
    let fixed = Immutable::new(stray("2"));
    for at in ["1", "3"] {
        fs::write(stray(at), "half").unwrap();
    }
    let output = ward.doctor(&["--repair", "RP-STRAY-TEMPORARY"]);
    assert_eq!(output.status.code(), Some(1));
    let (done, failed) =
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    for at in ["1", "3"] {
        assert!(
            !stray(at).exists() && done.contains(&format!("removed records/.new.000000000000000{at}")),
            "{done}"
        );
    }
    assert!(fixed.0.exists() && !done.contains("0002"), "{done}");
    assert_eq!(failed.lines().count(), 1, "{failed}");
    assert!(failed.contains("records/.new.0000000000000002") && failed.contains("not permitted"), "{failed}");
    let output = ward.doctor(&["--repair", "RP-STRAY-TEMPORARY", "--json"]);
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(!output.status.success() && answer["done"] == serde_json::json!([]), "{answer}");
    assert_eq!(answer["failed"].as_array().unwrap().len(), 1, "{answer}");
    drop(fixed);
    ward.repaired("RP-STRAY-TEMPORARY", None, "removed");
}

#[test]
fn a_repair_is_not_done_while_a_pool_could_not_be_looked_at() {
    let place = Place::new();
    let mut ward = Ward::new(&place);
    let one = ward.create("one", &["--block", "--size", "8MiB"]);
    ward.kill();
    let nowhere = place.path("nowhere");
    ward.pool.set(&format!("\n[[pool]]\nname = \"gone\"\nkind = \"directory\"\npath = {nowhere:?}"));
    let stray = ward.pool.root().join("tmp").join(&one);
    fs::write(&stray, "half").unwrap();
    for live in [false, true] {
        if live {
            ward.start();
            fs::write(&stray, "half").unwrap();
        }
        let done = ward.doctor(&["--repair", "RP-STRAY-TEMPORARY", "--json"]);
        let (told, said) = (String::from_utf8(done.stdout).unwrap(), String::from_utf8(done.stderr).unwrap());
        assert!(!stray.exists() && told.contains("removed tmp/"), "live {live}: {told}{said}");
        assert_eq!(said.matches("pool `gone` was not looked at").count(), 1, "live {live}: {said}");
        assert_eq!(done.status.code(), Some(1), "live {live}");
    }
}

const KEEPING: &str = "[[pool]]\nname = \"toy\"\nkind = \"sim\"\nretainDeleted = \"7d\"\n";

/// A driver that keeps what is deleted, and one deleted volume.
fn keeping(place: &Place) -> (Driver, String) {
    place.configure(KEEPING);
    let driver = place.start();
    let id = deleted(place, "one");
    (driver, id)
}

fn deleted(place: &Place, name: &str) -> String {
    let words = ["volume", "create", name, "--block", "--size", "8MiB", "--parameter", "pool=toy"];
    let id = text(&place.ask(&words), "volume_id").to_owned();
    place.ask(&["volume", "delete", &id]);
    id
}

fn kept(place: &Place) -> usize {
    place.ask(&["retained", "list"])["retained"].as_array().unwrap().len()
}

#[test]
fn what_was_purged_is_told_though_another_could_not_be() {
    let place = Place::new();
    let (_driver, one) = keeping(&place);
    let two = deleted(&place, "two");
    let (code, said) = place.refused(&["retained", "purge", &one, "nonsense", &two]);
    assert!(code == 2 && said.contains("`nonsense`") && said.contains("nothing was purged"), "{said}");
    assert_eq!(kept(&place), 2);
    let live = text(&place.ask(&["volume", "create", "live", "--size", "20MiB"]), "volume_id").to_owned();
    let output = place.ctl(&["retained", "purge", &one, &live, &two, "-o", "json"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(19) && said.lines().count() == 1, "{said}");
    assert!(said.contains(&live) && said.contains("is not deleted"), "{said}");
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["ids"], serde_json::json!([one, two]));
    assert!(answer["failed"][0].as_str().unwrap().contains(&live));
    assert_eq!(kept(&place), 0);
}

#[test]
fn an_id_that_never_was_is_not_called_purged() {
    let place = Place::new();
    let (_driver, one) = keeping(&place);
    let never = sibling(&one);
    let answer = place.ask(&["retained", "purge", &never]);
    assert_eq!((&answer["ids"], &answer["absent"]), (&serde_json::json!([]), &serde_json::json!([never])));
    let said = String::from_utf8(place.ctl(&["retained", "purge", &never]).stdout).unwrap();
    assert!(said.contains("nothing is there under this id") && !said.contains("purged"), "{said}");
    assert_eq!(kept(&place), 1);
}

#[test]
fn a_member_of_a_kept_group_is_told_by_its_group() {
    let place = Place::new();
    let (_driver, _) = keeping(&place);
    let made = place.ask(&["volume", "create", "live", "--block", "--size", "8MiB"]);
    let group = place.ask(&["group", "create", "both", "--volume", text(&made, "volume_id")]);
    let (id, member) = (text(&group, "group_snapshot_id"), text(&group["snapshots"][0], "snapshot_id"));
    place.ask(&["group", "delete", id]);
    for verb in ["purge", "restore"] {
        let (code, said) = place.refused(&["retained", verb, member]);
        assert!(code == 19 && said.contains(&format!("{verb} the whole group, `{id}`")), "{said}");
    }
}

#[test]
fn a_list_of_what_is_kept_tells_of_the_pool_that_it_lacks() {
    let place = Place::new();
    place.configure(KEEPING);
    place.miss_a_pool();
    let _driver = place.start();
    let one = deleted(&place, "one");
    let output = place.ctl(&["retained", "list", "-o", "json"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(24), "a script must not take it for all there is: {said}");
    assert!(said.contains("what is kept there is not known") && said.contains("pool `away`"), "{said}");
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&answer["retained"][0]["id"], &answer["incomplete"]),
        (&one.into(), &serde_json::json!(["away"]))
    );
    let table = place.ctl(&["retained", "list"]);
    assert!(String::from_utf8(table.stdout).unwrap().contains("toy"), "what is known is told");
}

#[test]
fn a_refusal_names_the_pool_that_comes_nearest() {
    let place = Place::new();
    let pool = |name, size| {
        format!(
            "[[pool]]\nname = \"{name}\"\nkind = \"sim\"\nsize = \"{size}\"\nreserve = 0.0\nretainDeleted = \"7d\"\n"
        )
    };
    place.configure(&(pool("small", "100MiB") + &pool("large", "300MiB")));
    let _driver = place.start();
    let create = |name: &'static str, size: &'static str| {
        ["volume", "create", name, "--block", "--size", size, "--parameter"]
    };
    let kept = place.ask(&[&create("kept", "20MiB")[..], &["pool=small"]].concat());
    place.ask(&["volume", "delete", text(&kept, "volume_id")]);
    place.ask(&[&create("there", "250MiB")[..], &["pool=large"]].concat());
    place.ask(&[&create("also", "30MiB")[..], &["pool=small"]].concat());
    let refused = |size| place.refused(&["volume", "create", "more", "--block", "--size", size]);
    for size in ["1TiB", "9223372036854775807"] {
        let (code, said) = refused(size);
        assert_eq!(code, 21, "{said}");
        assert!(said.contains("pool `large` can ever give: 314572800 bytes"), "{size}: {said}");
    }
    assert!(refused("9223372036854775807").1.contains("required_bytes 9223372036854775807 is more"));
    let (code, said) = refused("90MiB");
    assert!(code == 18 && said.contains("pool `small`: no room") && !said.contains("purge"), "{said}");
    let (code, said) = refused("60MiB");
    assert!(code == 18 && said.contains("pool `small`: no room") && said.contains("purge"), "{said}");
    let (code, said) = refused("9223372036854775808");
    assert!(code == 2 && said.contains("want at most 9223372036854775807 bytes"), "{said}");
}
