//! Several pools of which one is away, several findings of which one cannot be mended: the others do not wait for it.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::doctor::Ward;
use crate::harness::Place;

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
        assert!(output.status.success() && said.contains(&format!("removed tmp/{one}")), "{said}");
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
    assert!(!output.status.success() && output.stdout.is_empty(), "the only one: its failure is the answer");
    drop(fixed);
    ward.repaired("RP-STRAY-TEMPORARY", None, "removed");
}
