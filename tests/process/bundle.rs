//! `rockpool ctl support-bundle`: what is in it, and what is not.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use serde_json::Value;

use crate::doctor::Ward;
use crate::harness::Place;

#[test]
fn a_bundle_tells_what_a_bug_report_needs_without_names() {
    let place = Place::new();
    let mut ward = Ward::new(&place);
    let metadata = [
        "--parameter",
        "csi.storage.k8s.io/pvc/name=payroll",
        "--parameter",
        "csi.storage.k8s.io/pvc/namespace=bank",
    ];
    let one = ward.create("pvc-of-the-bank", &[&["--block", "--size", "8MiB"][..], &metadata].concat());
    let bad = ward.create("pvc-of-the-bank-too", &["--block", "--size", "8MiB"]);
    ward.kill();
    std::fs::write(ward.record(&bad), "torn").unwrap();
    ward.start();
    let again = ["volume", "create", "pvc-of-the-bank", "--block", "--size", "9MiB"];
    let (code, said) = place.refused(&again);
    assert!(code == 16 && said.contains("`pvc-of-the-bank`"), "{code}: {said}");
    std::fs::write(ward.pool.root().join("volumes/letter-to-my-bank.txt"), "dear").unwrap();
    let (to, config) = (place.path("bundle.tar"), place.path("config.toml"));
    let words = ["support-bundle", "--config", config.to_str().unwrap(), "--to", to.to_str().unwrap()];
    for live in [true, false] {
        if !live {
            ward.kill();
        }
        let written = place.ask(&words);
        assert_eq!(written["bytes"], std::fs::metadata(&to).unwrap().len());
        assert_eq!(std::fs::metadata(&to).unwrap().permissions().mode() & 0o777, 0o600);
        let (code, said) = place.refused(&words);
        assert!(code == 2 && said.contains("it exists"), "{said}");
        let out = place.path(if live { "live" } else { "offline" });
        std::fs::create_dir(&out).unwrap();
        let unpacked = Command::new("tar").arg("-xf").arg(&to).arg("-C").arg(&out).output().unwrap();
        assert!(unpacked.status.success(), "{unpacked:?}");
        let read = |name: &str| -> Value {
            serde_json::from_slice(&std::fs::read(out.join(name)).unwrap()).unwrap()
        };
        assert_eq!(read("host.json")["rockpool"], env!("CARGO_PKG_VERSION"));
        assert_eq!(read("pools.json")[0]["name"], "fast");
        let records = read("pools/fast/records.json");
        let of = |id: &str| records.as_array().unwrap().iter().find(|one| one["id"] == id).unwrap().clone();
        assert_eq!(of(&bad)["record"]["unreadable"], 4);
        let record = &of(&one)["record"]["body"]["record"]["volume"];
        let name = record["name"].as_str().unwrap();
        assert!(name.starts_with("name:") && name.len() == 13, "{name}");
        assert_eq!(read("pools/fast/objects.json")["volumes"]["objects"][0]["size"], 8 << 20);
        assert_eq!(read("pools/fast/objects.json")["volumes"]["others"], 1);
        let found = read("findings.json");
        assert_eq!(found["asked"], if live { "the driver" } else { "the pools" });
        assert!(
            found["findings"].as_array().unwrap().iter().any(|one| one["code"] == "RP-FOREIGN-FILE"),
            "{found}"
        );
        assert!(read("mounts.json").as_array().unwrap().iter().any(|mount| mount["type"] == "xfs"));
        assert!(!read("loops.json").as_array().unwrap().is_empty(), "the pool's own");
        let log = std::fs::read_to_string(out.join("logs/driver.jsonl")).unwrap_or_default();
        let refused = log.lines().find(|line| line.contains("ALREADY_EXISTS"));
        assert_eq!(refused.is_some(), live, "{log}");
        if let Some(refused) = refused {
            let line: Value = serde_json::from_str(refused).unwrap();
            assert_eq!((&line["id"], &line["method"]), (&record["name"], &"CreateVolume".into()));
            assert!(line["error"].as_str().unwrap().contains(&format!("`{name}` exists")), "{line}");
        }
        let whole = std::fs::read(&to).unwrap();
        let names = ["bank", "payroll"]
            .map(|name| whole.windows(name.len()).filter(|at| *at == name.as_bytes()).count());
        assert_eq!(names, [2, 0], "only in what is said of the file that is not ours");
        std::fs::remove_file(&to).unwrap();
    }
    place.ask(&[&words[..], &["--with-names"]].concat());
    let named = std::fs::read(&to).unwrap();
    let plain = |name: &str| named.windows(name.len()).any(|window| window == name.as_bytes());
    assert!(plain("payroll") && plain("pvc-of-the-bank"));
}
