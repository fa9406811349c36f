//! The doctor: each finding made for real, found, mended, and gone. What lies in a pool; devices and hosts are in `wards`.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Output;

use serde_json::Value;

use crate::harness::{Driver, Place, eventually, names};
use crate::life::text;
use crate::pools::Pool;

/// How the doctor is asked.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Way {
    /// A running driver.
    Live,
    /// Pools that no driver has.
    Offline,
}

/// A pool and perhaps a driver on it.
pub(crate) struct Ward<'a> {
    pub(crate) place: &'a Place,
    pub(crate) driver: Option<Driver>,
    pub(crate) pool: Pool<'a>,
}

impl<'a> Ward<'a> {
    pub(crate) fn new(place: &'a Place) -> Ward<'a> {
        Ward::of_size(place, "400MiB")
    }

    pub(crate) fn of_size(place: &'a Place, size: &str) -> Ward<'a> {
        let pool = Pool::of_size(place, size);
        Ward { place, driver: Some(place.start()), pool }
    }

    pub(crate) fn way(&self) -> Way {
        if self.driver.is_some() { Way::Live } else { Way::Offline }
    }

    /// Kills the driver.
    pub(crate) fn kill(&mut self) {
        self.driver = None;
    }

    pub(crate) fn start(&mut self) {
        self.driver = Some(self.place.start());
    }

    pub(crate) fn doctor(&self, words: &[&str]) -> Output {
        doctor(self.place, self.way(), words)
    }

    /// The codes of what the doctor finds in pools, and its exit code.
    pub(crate) fn codes(&self) -> (Vec<String>, i32) {
        codes(&self.doctor(&["--json"]))
    }

    /// The one finding of this code.
    pub(crate) fn finding(&self, code: &str) -> Value {
        let output = self.doctor(&["--json"]);
        let all = findings(&output);
        let mut found: Vec<_> = all.into_iter().filter(|one| one["code"] == code).collect();
        assert_eq!(found.len(), 1, "{code}: {}", String::from_utf8_lossy(&output.stdout));
        found.remove(0)
    }

    /// Repairs, and expects that nothing is wrong then.
    pub(crate) fn repaired(&self, code: &str, object: Option<&str>, done: &str) {
        let mut words = vec!["--repair", code];
        words.extend(object.iter().flat_map(|object| ["--object", object]));
        let output = self.doctor(&words);
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert!(output.status.success() && said.contains(done), "{code}: {said}");
        assert_eq!(self.codes(), (Vec::new(), 0), "after {code}");
    }

    pub(crate) fn create(&self, name: &str, words: &[&str]) -> String {
        let made = self.place.ask(&[&["volume", "create", name], words].concat());
        text(&made, "volume_id").to_owned()
    }

    pub(crate) fn image(&self, id: &str) -> PathBuf {
        self.pool.root().join("volumes").join(id)
    }

    pub(crate) fn record(&self, id: &str) -> PathBuf {
        self.pool.root().join("records").join(id)
    }
}

pub(crate) fn doctor(place: &Place, way: Way, words: &[&str]) -> Output {
    let config = place.path("config.toml");
    let offline = ["--config", config.to_str().unwrap()];
    let way: &[&str] = match way {
        Way::Live => &[],
        Way::Offline => &offline,
    };
    place.ctl(&[&["doctor"], way, words].concat())
}

pub(crate) fn findings(output: &Output) -> Vec<Value> {
    let said = String::from_utf8_lossy(&output.stderr);
    let value: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("no JSON: {said}"));
    value["findings"].as_array().unwrap().clone()
}

/// Of pools only: what the host of the tests lacks is none of their business.
pub(crate) fn codes(output: &Output) -> (Vec<String>, i32) {
    let all = findings(output);
    let of_pools = all.iter().filter(|one| one["pool"] != "");
    let codes: Vec<String> = of_pools.map(|one| text(one, "code").to_owned()).collect();
    // The exit code counts the host as well; without findings about pools it is not asked.
    let exit = if codes.is_empty() { 0 } else { output.status.code().unwrap() };
    (codes, exit)
}

/// An id that nobody has, in the pool of another.
pub(crate) fn sibling(id: &str) -> String {
    let (pool, _) = id.rsplit_once('.').unwrap();
    format!("{pool}.00000000000000ff")
}

/// A record with another body text, and the right checksum.
fn rewrite(record: &std::path::Path, change: impl Fn(&str) -> String) {
    let whole: Value = serde_json::from_slice(&fs::read(record).unwrap()).unwrap();
    let body = change(&whole["body"].to_string());
    let sum = crc32c::crc32c(body.as_bytes());
    fs::write(record, format!("{{\"checksum\":\"{sum:08x}\",\"body\":{body}}}\n")).unwrap();
}

#[test]
fn a_healthy_pool_has_no_findings_while_a_driver_works_and_while_none_runs() {
    let place = Place::new();
    let mut ward = Ward::new(&place);
    let one = ward.create("one", &["--size", "32MiB"]);
    let cut = ward.place.ask(&["snapshot", "create", "cut", "--volume", &one]);
    assert_eq!(ward.codes(), (Vec::new(), 0));
    let refused = doctor(&place, Way::Offline, &[]);
    let said = String::from_utf8(refused.stderr).unwrap();
    let pid = ward.driver.as_ref().unwrap().child.id().to_string();
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains(&pid) && said.contains("ask it: rockpool ctl doctor"), "{said}");
    assert_eq!(said.matches("pool `fast`").count(), 1, "{said}");
    ward.kill();
    let lying = || {
        let dirs = ["", "volumes", "snapshots", "tmp", "records"].map(|dir| ward.pool.root().join(dir));
        dirs.map(|dir| (fs::metadata(&dir).unwrap().modified().unwrap(), names(&dir)))
    };
    let before = lying();
    assert_eq!(ward.codes(), (Vec::new(), 0));
    let after = lying();
    assert_eq!([0, 1, 2, 4].map(|n| &before[n]), [0, 1, 2, 4].map(|n| &after[n]), "a look changes nothing");
    assert_eq!(before[3].1, after[3].1, "and what it tried among the temporaries is gone");
    ward.start();
    assert_eq!(text(&place.ask(&["snapshot", "get", text(&cut, "snapshot_id")]), "source_volume_id"), one);
}

#[test]
fn a_pool_that_cannot_be_opened_hides_no_other() {
    let place = Place::new();
    let mut ward = Ward::new(&place);
    let orphan = sibling(&ward.create("one", &["--block", "--size", "8MiB"]));
    ward.kill();
    fs::write(ward.image(&orphan), "bytes").unwrap();
    let (config, root) = (place.path("config.toml"), place.path("plain"));
    fs::create_dir(&root).unwrap();
    let words = ["pool", "init", "plain", "--kind", "directory", "--quota", "none", "--directory"];
    let mut init = std::process::Command::new(crate::harness::PROGRAM);
    assert!(init.args(words).arg(&root).arg("--config").arg(&config).output().unwrap().status.success());
    // It is not what the file says now.
    let text_of_both = fs::read_to_string(&config).unwrap();
    place.configure(&text_of_both.replace("\"directory\"", "\"image\"").replace("quota = \"none\"", ""));
    let (codes, exit) = ward.codes();
    assert_eq!((codes, exit), (vec!["RP-POOL-AWAY".to_owned(), "RP-ORPHAN-OBJECT".to_owned()], 4));
    assert!(text(&ward.finding("RP-POOL-AWAY"), "what").contains("is of kind `directory`"));
}

#[test]
fn a_pool_is_looked_at_by_its_directory_alone() {
    let place = Place::new();
    std::fs::remove_file(place.path("config.toml")).unwrap();
    let root = place.path("alone");
    fs::create_dir(&root).unwrap();
    let words = [
        "pool",
        "init",
        "alone",
        "--kind",
        "directory",
        "--quota",
        "none",
        "--directory",
        root.to_str().unwrap(),
    ];
    let made = std::process::Command::new(crate::harness::PROGRAM)
        .args(words)
        .arg("--config")
        .arg(place.path("config.toml"))
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    fs::write(root.join("volumes/note.txt"), "hello").unwrap();
    let output = place.ctl(&["doctor", "--json", "--pool", root.to_str().unwrap()]);
    let (codes, exit) = codes(&output);
    assert!(
        codes.contains(&"RP-FOREIGN-FILE".to_owned()) && codes.contains(&"RP-NO-QUOTA".to_owned()),
        "{codes:?}"
    );
    assert!(exit == 0 || exit == 3, "{exit}: notices of a pool alone are no reason to look");
    let elsewhere = place.ctl(&["doctor", "--pool", place.path("kubelet").to_str().unwrap()]);
    assert!(String::from_utf8(elsewhere.stderr).unwrap().contains("no pool lies at"));
}

#[test]
fn bytes_without_a_record_are_reported_kept_and_removed_by_name_only() {
    let place = Place::new();
    let mut ward = Ward::new(&place);
    let one = ward.create("one", &["--block", "--size", "8MiB"]);
    let orphan = sibling(&one);
    for live in [true, false] {
        if !live {
            ward.kill();
        }
        fs::write(ward.image(&orphan), vec![7; 8192]).unwrap();
        assert_eq!(ward.codes(), (vec!["RP-ORPHAN-OBJECT".to_owned()], 3));
        assert_eq!(text(&ward.finding("RP-ORPHAN-OBJECT"), "object"), orphan);
        let unnamed = ward.doctor(&["--repair", "RP-ORPHAN-OBJECT"]);
        let said = String::from_utf8(unnamed.stderr).unwrap();
        assert!(!unnamed.status.success() && said.contains(&orphan), "{said}");
        let wrong = ward.doctor(&["--repair", "RP-ORPHAN-OBJECT", "--object", &one]);
        assert!(!wrong.status.success() && ward.image(&orphan).exists() && ward.image(&one).exists());
        ward.repaired("RP-ORPHAN-OBJECT", Some(&orphan), &format!("removed {orphan}"));
        assert!(!ward.image(&orphan).exists() && ward.image(&one).exists());
    }
    let snapshot = sibling(&one).replacen('v', "s", 1);
    fs::write(ward.pool.root().join("snapshots").join(&snapshot), "cut").unwrap();
    ward.repaired("RP-ORPHAN-OBJECT", Some(&snapshot), "removed");
}

#[test]
fn what_lost_its_record_and_carries_a_copy_is_rebuilt_or_removed_by_name() {
    let place = Place::new();
    let mut ward = Ward::new(&place);
    let [one, two] = ["one", "two"].map(|name| ward.create(name, &["--block", "--size", "8MiB"]));
    let group = place.ask(&["group", "create", "both", "--volume", &one, "--volume", &two]);
    let group = text(&group, "group_snapshot_id").to_owned();
    for live in [true, false] {
        for lost in [&one, &group] {
            ward.kill();
            fs::remove_file(ward.record(lost)).unwrap();
            if live {
                ward.start();
            }
            assert_eq!(ward.codes(), (vec!["RP-RECORD-LOST".to_owned()], 4));
            let finding = ward.finding("RP-RECORD-LOST");
            assert_eq!(text(&finding, "object"), *lost);
            for way in ["--repair RP-RECORD-LOST", "--repair RP-ORPHAN-OBJECT"] {
                assert!(text(&finding, "repair").contains(&format!("{way} --object {lost}")), "{finding}");
            }
            let unnamed = ward.doctor(&["--repair", "RP-ORPHAN-OBJECT"]);
            let said = String::from_utf8(unnamed.stderr).unwrap();
            assert!(!unnamed.status.success() && said.contains(lost.as_str()), "{said}");
            let object = live.then_some(lost.as_str());
            ward.repaired("RP-RECORD-LOST", object, &format!("rebuilt the record of {lost}"));
        }
    }
    ward.start();
    assert_eq!(place.ask(&["volume", "get", &one])["capacity_bytes"], 8 << 20);
    assert_eq!(place.ask(&["group", "get", &group])["snapshots"].as_array().unwrap().len(), 2);
    ward.kill();
    for lost in [&one, &group] {
        fs::remove_file(ward.record(lost)).unwrap();
    }
    let removed = ward.doctor(&["--repair", "RP-ORPHAN-OBJECT", "--object", &one]);
    assert!(removed.status.success(), "{removed:?}");
    assert!(!ward.image(&one).exists() && ward.image(&two).exists());
    ward.repaired("RP-ORPHAN-OBJECT", Some(&group), &format!("removed {group}"));
    assert_eq!(fs::read_dir(ward.pool.root().join("snapshots")).unwrap().count(), 0);
}

#[test]
fn a_start_tells_what_nobody_accounts_for_and_removes_nothing() {
    let place = Place::new();
    let mut ward = Ward::new(&place);
    let [whole, orphan, empty, one] =
        ["whole", "orphan", "empty", "one"].map(|name| ward.create(name, &["--block", "--size", "8MiB"]));
    let group = place.ask(&["group", "create", "group", "--volume", &one]);
    let group = text(&group, "group_snapshot_id").to_owned();
    ward.kill();
    fs::remove_file(ward.record(&orphan)).unwrap();
    fs::remove_file(ward.record(&group)).unwrap();
    fs::remove_file(ward.image(&empty)).unwrap();
    fs::write(ward.pool.root().join("volumes/letter"), "dear").unwrap();
    ward.start();
    let told = |ward: &Ward| {
        let log = ward.driver.as_ref().unwrap().log();
        log.lines().filter(|line| line.contains("nobody accounts for")).map(str::to_owned).collect::<Vec<_>>()
    };
    let begun = std::time::Instant::now();
    while told(&ward).len() < 4 && begun.elapsed() < std::time::Duration::from_secs(20) {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let told = told(&ward);
    assert_eq!(told.len(), 4, "{told:#?}");
    for said in [
        format!("{orphan} has 8 MiB in the pool and no record"),
        format!("members of {group} are there, and no record of it"),
        format!("{empty} has a record, but no bytes"),
        "volumes/letter".to_owned(),
    ] {
        assert_eq!(told.iter().filter(|line| line.contains(&said)).count(), 1, "{said}: {told:#?}");
    }
    assert!(ward.image(&orphan).exists() && ward.record(&empty).exists() && ward.image(&whole).exists());
    assert!(ward.pool.root().join("volumes/letter").exists());
}

#[test]
fn a_record_without_bytes_is_forgotten_by_name_only() {
    let place = Place::new();
    let ward = Ward::new(&place);
    let one = ward.create("one", &["--block", "--size", "8MiB"]);
    fs::remove_file(ward.image(&one)).unwrap();
    assert_eq!(ward.codes(), (vec!["RP-OBJECT-MISSING".to_owned()], 4));
    assert!(!ward.doctor(&["--repair", "RP-OBJECT-MISSING"]).status.success());
    assert_eq!(text(&place.ask(&["volume", "get", &one]), "volume_id"), one);
    ward.repaired("RP-OBJECT-MISSING", Some(&one), &format!("forgot {one}"));
    assert_eq!(place.refused(&["volume", "get", &one]).0, 15);
    assert!(!ward.record(&one).exists());
}

#[test]
fn an_unreadable_record_is_no_orphan_and_keeps_its_bytes() {
    let place = Place::new();
    let mut ward = Ward::new(&place);
    let one = ward.create("one", &["--block", "--size", "8MiB"]);
    ward.kill();
    let mut torn = fs::read(ward.record(&one)).unwrap();
    torn.truncate(torn.len() / 2);
    fs::write(ward.record(&one), torn).unwrap();
    for live in [false, true] {
        if live {
            ward.start();
        }
        assert_eq!(ward.codes(), (vec!["RP-RECORD-QUARANTINED".to_owned()], 4));
        let refused = ward.doctor(&["--repair", "RP-ORPHAN-OBJECT", "--object", &one]);
        assert!(!refused.status.success() && ward.image(&one).exists());
    }
    // Who is not told of it takes it for gone: with its copy, and without.
    let two = ward.create("two", &["--block", "--size", "8MiB"]);
    let listed = |size: i64| {
        let list = place.ask(&["volume", "list"]);
        let entries = list["volumes"].as_array().unwrap();
        let of = |id: &str| {
            entries.iter().find(|entry| entry["volume_id"] == id).map(|entry| entry["capacity_bytes"].clone())
        };
        assert_eq!(
            (entries.len(), of(&one), of(&two)),
            (2, Some(size.into()), Some((8 << 20).into())),
            "{list}"
        );
        let ill = String::from_utf8(place.ctl(&["-o", "json", "volume", "health"]).stdout).unwrap();
        assert!(ill.contains(&one) && ill.contains("RecordUnreadable") && !ill.contains(&two), "{ill}");
    };
    listed(8 << 20);
    ward.kill();
    let mut bytes = vec![0; 4096];
    let length = rustix::fs::getxattr(ward.image(&one), "trusted.rockpool.record", &mut bytes[..]).unwrap();
    bytes.truncate(length);
    rustix::fs::removexattr(ward.image(&one), "trusted.rockpool.record").unwrap();
    ward.start();
    listed(0);
    ward.kill();
    rustix::fs::setxattr(
        ward.image(&one),
        "trusted.rockpool.record",
        &bytes,
        rustix::fs::XattrFlags::empty(),
    )
    .unwrap();
    ward.start();
    place.ask(&["volume", "delete", &two]);
    ward.repaired("RP-RECORD-QUARANTINED", None, &format!("rebuilt the record of {one}"));
    assert_eq!(ward.codes(), (Vec::new(), 0));
    assert_eq!(place.ask(&["volume", "get", &one])["capacity_bytes"], 8 << 20);
    ward.kill();
    rewrite(&ward.record(&one), |body| body.replace("\"schema\":1", "\"schema\":2"));
    let output = ward.doctor(&["--repair", "RP-RECORD-QUARANTINED"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && said.contains("newer"), "{said}");
    assert!(fs::read_to_string(ward.record(&one)).unwrap().contains("\"schema\":2"), "it is left alone");
}

#[test]
fn an_object_of_the_wrong_size_and_its_record_agree_again() {
    let place = Place::new();
    let ward = Ward::new(&place);
    let one = ward.create("one", &["--block", "--size", "8MiB"]);
    let image = fs::File::options().write(true).open(ward.image(&one)).unwrap();
    image.write_all_at(b"kept", 4096).unwrap();
    image.set_len(1 << 20).unwrap();
    assert_eq!(ward.codes(), (vec!["RP-SIZE-WRONG".to_owned()], 4));
    ward.repaired("RP-SIZE-WRONG", None, "8388608 bytes again");
    assert_eq!(image.metadata().unwrap().len(), 8 << 20);
    assert_eq!(&fs::read(ward.image(&one)).unwrap()[4096..4100], b"kept");
    image.set_len(16 << 20).unwrap();
    ward.repaired("RP-SIZE-WRONG", Some(&one), "noted 16777216 bytes");
    assert_eq!(place.ask(&["volume", "get", &one])["capacity_bytes"], 16 << 20);
}

#[test]
fn a_snapshot_that_was_cut_off_is_told() {
    let place = Place::new();
    let ward = Ward::new(&place);
    let one = ward.create("one", &["--block", "--size", "8MiB"]);
    let cut = place.ask(&["snapshot", "create", "cut", "--volume", &one]);
    let id = text(&cut, "snapshot_id");
    let file = ward.pool.root().join("snapshots").join(id);
    fs::File::options().write(true).open(&file).unwrap().set_len(1 << 20).unwrap();
    assert_eq!(ward.codes(), (vec!["RP-SIZE-WRONG".to_owned()], 4));
    assert_eq!(text(&ward.finding("RP-SIZE-WRONG"), "object"), id);
    assert!(
        !ward.doctor(&["--repair", "RP-SIZE-WRONG"]).status.success(),
        "zeros in place of its end are no repair"
    );
    assert_eq!(file.metadata().unwrap().len(), 1 << 20);
}

#[test]
fn what_was_interrupted_is_told_and_finished() {
    let place = Place::new();
    let mut ward = Ward::new(&place);
    let made = ward.create("made", &["--block", "--size", "8MiB"]);
    let grown = ward.create("grown", &["--block", "--size", "8MiB"]);
    ward.kill();
    rewrite(&ward.record(&made), |body| body.replace("\"phase\":\"ready\"", "\"phase\":\"creating\""));
    rewrite(&ward.record(&grown), |body| {
        body.replace("\"phase\":\"ready\"", "\"phase\":{\"growing\":{\"to\":16777216}}")
    });
    assert_eq!(ward.codes(), (vec!["RP-INTERRUPTED".to_owned(); 2], 3));
    let one = ward.doctor(&["--repair", "RP-INTERRUPTED", "--object", &grown]);
    assert!(String::from_utf8(one.stdout).unwrap().contains("finished"));
    assert_eq!(ward.codes(), (vec!["RP-INTERRUPTED".to_owned()], 3));
    ward.repaired("RP-INTERRUPTED", None, &format!("removed {made}"));
    ward.start();
    assert_eq!(place.ask(&["volume", "get", &grown])["capacity_bytes"], 16 << 20);
    assert!(!ward.image(&made).exists() && !ward.record(&made).exists());
}

#[test]
fn stray_temporaries_go_and_nothing_beside_them() {
    let place = Place::new();
    let mut ward = Ward::new(&place);
    let one = ward.create("one", &["--block", "--size", "8MiB"]);
    let root = ward.pool.root();
    // Debris that bears the name of a volume that is whole: removing the volume instead would be the classic mistake.
    fs::write(root.join("tmp").join(&one), "half").unwrap();
    assert_eq!(ward.codes(), (vec!["RP-STRAY-TEMPORARY".to_owned()], 3));
    ward.repaired("RP-STRAY-TEMPORARY", None, &format!("removed tmp/{one}"));
    assert!(ward.image(&one).exists() && ward.record(&one).exists());
    ward.kill();
    for at in ["records", "tmp", ""] {
        let stray = root.join(at).join(".new.0123456789abcdef");
        fs::write(&stray, "half").unwrap();
        assert_eq!(ward.codes(), (vec!["RP-STRAY-TEMPORARY".to_owned()], 3), "{at}");
        ward.repaired("RP-STRAY-TEMPORARY", None, "removed");
        assert!(!stray.exists());
    }
}

#[test]
fn what_is_not_ours_is_told_and_left_alone() {
    let place = Place::new();
    let ward = Ward::new(&place);
    let note = ward.pool.root().join("volumes/notes.txt");
    fs::write(&note, "shopping").unwrap();
    let (codes, _) = ward.codes();
    assert_eq!(codes, ["RP-FOREIGN-FILE"]);
    assert!(!ward.doctor(&["--repair", "RP-FOREIGN-FILE", "--object", "volumes/notes.txt"]).status.success());
    assert_eq!(fs::read_to_string(&note).unwrap(), "shopping");
    fs::remove_file(note).unwrap();
    assert_eq!(ward.codes(), (Vec::new(), 0));
}

#[test]
fn what_somebody_put_among_the_temporaries_is_not_ours() {
    let place = Place::new();
    let mut ward = Ward::new(&place);
    let kept = ward.pool.root().join("tmp/backup-of-mine/deep/file");
    fs::create_dir_all(kept.parent().unwrap()).unwrap();
    fs::write(&kept, "precious").unwrap();
    for live in [true, false] {
        if !live {
            ward.kill();
        }
        assert_eq!(ward.codes().0, ["RP-FOREIGN-FILE"]);
        let repair = ["--repair", "RP-STRAY-TEMPORARY", "--object", "tmp/backup-of-mine"];
        for words in [&repair[..2], &repair] {
            assert!(!ward.doctor(words).status.success(), "{words:?}");
        }
        assert_eq!(fs::read_to_string(&kept).unwrap(), "precious");
    }
    ward.start();
    assert_eq!(fs::read_to_string(&kept).unwrap(), "precious", "a start sweeps what is ours alone");
}

#[test]
fn promises_that_cannot_be_kept_are_told_until_there_is_room() {
    let place = Place::new();
    let mut ward = Ward::new(&place);
    ward.create("one", &["--block", "--size", "200MiB"]);
    ward.kill();
    let intruder = ward.pool.root().join("intruder");
    let file = fs::File::create(&intruder).unwrap();
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, 200 << 20).unwrap();
    drop(file);
    let (found, exit) = ward.codes();
    assert_eq!((found, exit), (vec!["RP-CAPACITY-SHORT".to_owned(), "RP-FOREIGN-FILE".to_owned()], 3));
    // By its directory alone nobody knows how much may be promised of it.
    let alone = place.ctl(&["doctor", "--json", "--pool", ward.pool.root().to_str().unwrap()]);
    assert_eq!(codes(&alone).0, ["RP-FOREIGN-FILE"]);
    fs::remove_file(intruder).unwrap();
    // xfs gives the blocks of a removed file back a little later.
    eventually("there is room again", || ward.codes() == (Vec::new(), 0));
}

#[test]
fn a_record_that_is_put_in_place_of_a_newer_one_is_told_of_by_both_generations() {
    let place = Place::new();
    let mut ward = Ward::new(&place);
    let id = ward.create("one", &["--block", "--size", "16MiB"]);
    let file = ward.record(&id);
    let old = fs::read(&file).unwrap();
    place.ask(&["volume", "expand", &id, "--size", "32MiB"]);
    assert_eq!(ward.codes(), (Vec::new(), 0));

    // While a driver runs: what it wrote against what is there.
    fs::write(&file, &old).unwrap();
    let found = ward.finding("RP-RECORD-OUTDATED");
    let what = text(&found, "what");
    assert!(what.contains("driver wrote, generation 4: it is of generation 2"), "{what}");
    ward.repaired("RP-RECORD-OUTDATED", None, "as the driver has it");
    fs::remove_file(&file).unwrap();
    assert!(text(&ward.finding("RP-RECORD-OUTDATED"), "what").contains("it is gone"));
    ward.repaired("RP-RECORD-OUTDATED", None, "as the driver has it");
    drop(ward.driver.take());
    ward.start();
    let size = place.ask(&["volume", "get", &id])["capacity_bytes"].as_i64();
    assert_eq!(size, Some(32 << 20), "the last that was written");

    // A record that was made anew, and then the one that it replaced.
    ward.kill();
    fs::write(&file, "torn").unwrap();
    let output = ward.doctor(&["--repair", "RP-RECORD-QUARANTINED"]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(ward.codes(), (Vec::new(), 0));
    fs::write(&file, &old).unwrap();
    let found = ward.doctor(&["--json"]);
    let found = findings(&found).into_iter().find(|one| one["code"] == "RP-RECORD-OUTDATED").unwrap();
    let what = text(&found, "what");
    assert!(what.contains("is of generation 2,") && what.contains("of generation 1099511627776,"), "{what}");
}

#[test]
fn a_volume_whose_record_of_its_deletion_comes_back_is_not_purged_and_comes_back() {
    let place = Place::new();
    let mut ward = Ward::new(&place);
    ward.kill();
    ward.pool.set("retainDeleted = \"1s\"");
    ward.start();
    let id = ward.create("one", &["--block", "--size", "16MiB"]);
    let (file, image) = (ward.record(&id), ward.image(&id));
    fs::File::options().write(true).open(&image).unwrap().write_all_at(b"precious", 4096).unwrap();
    place.ask(&["volume", "delete", &id]);
    let deleted = fs::read(&file).unwrap();
    place.ask(&["retained", "restore", &id]);
    ward.kill();
    fs::write(&file, &deleted).unwrap();
    // By the pool's own clock it is over by far.
    fs::write(ward.record("clock"), "{\"seconds\":1000000}").unwrap();

    let told = |found: Value| {
        let what = text(&found, "what").to_owned();
        assert!(what.contains("of generation 3, deleted and kept") && what.contains("4, in use"), "{what}");
        assert!(text(&found, "repair").contains(&format!("--object {id}")), "{found}");
    };
    told(ward.finding("RP-RECORD-OUTDATED"));
    // It begins with what is over.
    ward.start();
    eventually("it has looked at what is kept", || {
        ward.driver.as_ref().unwrap().log().contains("it is not purged")
    });
    std::thread::sleep(std::time::Duration::from_secs(2));
    told(ward.finding("RP-RECORD-OUTDATED"));
    let unnamed = ward.doctor(&["--repair", "RP-RECORD-OUTDATED"]);
    assert!(!unnamed.status.success() && fs::read(&file).unwrap() == deleted, "{unnamed:?}");
    ward.repaired("RP-RECORD-OUTDATED", Some(&id), "anew from its copy");
    assert_eq!(text(&place.ask(&["volume", "get", &id]), "volume_id"), id);
    let mut there = [0; 8];
    fs::File::open(&image).unwrap().read_exact_at(&mut there, 4096).unwrap();
    assert_eq!(&there, b"precious");
}
