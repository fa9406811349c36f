//! What a repair makes anew is there to stay, and many are made anew at once.

use std::collections::BTreeSet;
use std::fs;

use crate::doctor::Ward;
use crate::harness::Place;
use crate::life::text;

#[test]
fn what_is_kept_and_lost_its_record_is_kept_for_its_whole_time_again() {
    for torn in [false, true] {
        let place = Place::new();
        let mut ward = Ward::new(&place);
        ward.kill();
        ward.pool.set("retainDeleted = \"1h\"");
        ward.start();
        let id = ward.create("one", &["--block", "--size", "16MiB"]);
        place.ask(&["volume", "delete", &id]);
        ward.kill();
        // While its record is not there nobody can restore it, and by the pool's own clock it is over by far.
        if torn {
            fs::write(ward.record(&id), "{").unwrap();
        } else {
            fs::remove_file(ward.record(&id)).unwrap();
        }
        fs::write(ward.record("clock"), "{\"seconds\":1000000}").unwrap();
        let code = if torn { "RP-RECORD-QUARANTINED" } else { "RP-RECORD-LOST" };
        let finding = ward.finding(code);
        assert!(text(&finding, "what").contains("deleted and kept"), "{finding}");
        ward.repaired(code, None, &format!("rebuilt the record of {id}"));
        // It begins with what is over.
        ward.start();
        let kept = place.ask(&["retained", "list"])["retained"].as_array().unwrap().clone();
        let [kept] = &kept[..] else { panic!("{kept:?}") };
        let left = kept["seconds_left"].as_i64().unwrap();
        assert!(text(kept, "id") == id && (3500..=3600).contains(&left), "{kept}");
        place.ask(&["retained", "restore", &id]);
        assert_eq!(place.ask(&["volume", "get", &id])["capacity_bytes"], 16 << 20);
    }
}

#[test]
fn one_repair_makes_all_records_anew_and_tells_of_each() {
    let place = Place::new();
    let mut ward = Ward::new(&place);
    let ids: BTreeSet<String> =
        (0..40).map(|n| ward.create(&format!("v{n}"), &["--block", "--size", "4MiB"])).collect();
    ward.kill();
    for id in &ids {
        fs::remove_file(ward.record(id)).unwrap();
    }
    ward.start();
    let repaired = ward.doctor(&["--json", "--repair", "RP-RECORD-LOST"]);
    let said: serde_json::Value = serde_json::from_slice(&repaired.stdout).unwrap();
    let done = said["done"].as_array().unwrap_or_else(|| panic!("{said}"));
    assert!(repaired.status.success() && done.len() == ids.len(), "{said}");
    let all: BTreeSet<_> = done
        .iter()
        .filter_map(|line| line.as_str()?.split(' ').find(|word| word.starts_with("v1.")))
        .collect();
    assert_eq!(all.len(), ids.len(), "{said}");
    assert_eq!(ward.codes(), (Vec::new(), 0));
    assert_eq!(place.ask(&["volume", "list"])["volumes"].as_array().unwrap().len(), ids.len());
}
