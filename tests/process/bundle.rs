//! `rockpool ctl support-bundle`: what is in it, and what is not.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::doctor::Ward;
use crate::harness::{PROGRAM, Place};

/// A volume published as kubelet does, taken away with the test.
struct Published {
    staging: PathBuf,
    target: PathBuf,
}

impl Published {
    fn new(place: &Place, id: &str) -> Published {
        let staging = place.path("kubelet/plugins/kubernetes.io/csi/driver/0123/globalmount");
        let target = place.path("kubelet/pods/uid-1/volumes/kubernetes.io~csi/pvc-of-the-bank/mount");
        let published = Published { staging, target };
        let [staging, target] = [&published.staging, &published.target].map(|path| path.to_str().unwrap());
        place.ask(&["volume", "stage", id, "--staging", staging]);
        place.ask(&["volume", "publish", id, "--staging", staging, "--target", target]);
        // As kubelet does for a `subPath`, below the pod's directory.
        let (within, sub) = (published.target.join("wages-of-alice"), published.sub());
        [&within, &sub].into_iter().for_each(|path| std::fs::create_dir_all(path).unwrap());
        let bound = Command::new("mount").arg("--bind").args([&within, &sub]).output().unwrap();
        assert!(bound.status.success(), "{bound:?}");
        published
    }

    fn sub(&self) -> PathBuf {
        self.target.ancestors().nth(4).unwrap().join("volume-subpaths/pvc-of-the-bank/app/0")
    }
}

impl Drop for Published {
    fn drop(&mut self) {
        for path in [&self.sub(), &self.target, &self.staging] {
            let _ = Command::new("umount").arg(path).output();
        }
    }
}

fn unpacked(tar: &Path, into: PathBuf) -> impl Fn(&str) -> Value {
    std::fs::create_dir(&into).unwrap();
    let unpacked = Command::new("tar").arg("-xf").arg(tar).arg("-C").arg(&into).output().unwrap();
    assert!(unpacked.status.success(), "{unpacked:?}");
    move |name| serde_json::from_slice(&std::fs::read(into.join(name)).unwrap()).unwrap()
}

fn points(mounts: &Value) -> Vec<String> {
    let points = mounts.as_array().unwrap().iter().map(|mount| mount["point"].as_str().unwrap().to_owned());
    points.collect()
}

#[test]
fn a_bundle_names_no_volume_by_where_it_is_mounted() {
    let place = Place::new();
    let mut ward = Ward::new(&place);
    let one = ward.create("one", &["--size", "32MiB"]);
    let published = Published::new(&place, &one);
    let (to, config) = (place.path("bundle.tar"), place.path("config.toml"));
    let words = ["support-bundle", "--config", config.to_str().unwrap(), "--to", to.to_str().unwrap()];
    let told = |path: &str| path.contains("/volumes/kubernetes.io~csi/name:") && path.ends_with("/mount");
    place.ask(&words);
    let read = unpacked(&to, place.path("live"));
    let points = points(&read("mounts.json"));
    assert!(points.iter().any(|point| told(point)), "{points:?}");
    let roots = read("mounts.json");
    let roots: Vec<_> =
        roots.as_array().unwrap().iter().map(|mount| mount["root"].as_str().unwrap()).collect();
    assert!(roots.iter().any(|root| root.starts_with("/name:")), "the subPath: {roots:?}");
    assert!(points.contains(&ward.pool.root().display().to_string()), "{points:?}");
    assert!(!points.contains(&"/".to_owned()), "the pool is not on it: {points:?}");
    // The same where a finding says where it is mounted.
    ward.kill();
    std::fs::remove_file(ward.image(&one)).unwrap();
    let nameless = |tar: &Path| {
        let whole = std::fs::read(tar).unwrap();
        for name in ["bank", "uid-1", "alice"] {
            assert!(!whole.windows(name.len()).any(|at| at == name.as_bytes()), "{name}");
        }
        std::fs::remove_file(tar).unwrap();
    };
    nameless(&to);
    place.ask(&words);
    let found = unpacked(&to, place.path("deleted"))("findings.json").to_string();
    assert!(found.contains("RP-OBJECT-DELETED") && found.contains("mounted at `/"), "{found}");
    nameless(&to);
    std::fs::remove_file(ward.record(&one)).unwrap();
    place.ask(&words);
    let read = unpacked(&to, place.path("offline"));
    let found = read("findings.json");
    let found = found["findings"].as_array().unwrap();
    let found = found.iter().filter(|one| one["code"] == "RP-LEFTOVER-MOUNT");
    let found: Vec<_> = found.filter(|one| told(one["object"].as_str().unwrap())).collect();
    assert!(found.len() == 1 && found[0]["what"].as_str().unwrap().contains("name:"), "{found:?}");
    nameless(&to);
    place.ask(&[&words[..], &["--with-names"]].concat());
    let read = unpacked(&to, place.path("named"));
    assert!(self::points(&read("mounts.json")).contains(&published.target.display().to_string()));
}

#[test]
fn a_bundle_is_written_though_a_loop_device_cannot_be_opened() {
    let place = Place::new();
    let ward = Ward::new(&place);
    let (to, config, pipe) = (place.path("bundle.tar"), place.path("config.toml"), place.path("pipe"));
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let root = format!(" {} ", ward.pool.root().display());
    let device = table.lines().find(|line| line.contains(&root)).unwrap();
    let device = device.split_whitespace().find(|word| word.starts_with("/dev/loop")).unwrap();
    // To open a pipe to which nobody writes takes for ever; only where the program is told to look.
    let script = "mkfifo \"$1\" && mount --bind \"$1\" \"$2\" && shift 2 && exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", script, "sh"]).arg(&pipe).arg(device).arg(PROGRAM);
    command.args(["ctl", "--admin-endpoint"]).arg(place.admin_socket()).arg("support-bundle");
    let done = command.arg("--config").arg(&config).arg("--to").arg(&to).output().unwrap();
    assert!(done.status.success(), "{done:?}");
    let read = unpacked(&to, place.path("told"));
    for part in ["loops.json", "mounts.json"] {
        let why = read(part)["error"].as_str().unwrap_or_default().to_owned();
        assert!(why.contains("a loop device of this host hangs"), "{part}: {why}");
    }
    assert_eq!(read("pools.json")[0]["name"], "fast");
    assert_eq!(read("findings.json")["asked"], "the driver");
}

#[test]
fn a_bundle_without_a_pool_file_says_so_and_takes_the_pools_of_the_driver() {
    let place = Place::new();
    let mut ward = Ward::new(&place);
    let one = ward.create("one", &["--block", "--size", "8MiB"]);
    let to = place.path("bundle.tar");
    let nowhere = place.path("nowhere.toml");
    let words = ["support-bundle", "--config", nowhere.to_str().unwrap(), "--to", to.to_str().unwrap()];
    for live in [true, false] {
        if !live {
            ward.kill();
        }
        let output = place.ctl(&words);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success() && said.contains("nowhere.toml: there is no such file"), "{said}");
        assert_eq!(said.contains("none is in the bundle"), !live, "{said}");
        let read = unpacked(&to, place.path(if live { "live" } else { "offline" }));
        let pools = read("pools.json");
        assert_eq!(pools["config"], "there is no such file");
        if live {
            assert_eq!(pools["driver"][0]["name"], "fast");
            assert_eq!(read("pools/fast/records.json")[0]["id"], one.as_str());
        }
        std::fs::remove_file(&to).unwrap();
    }
}

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
        let nowhere = place.path("nowhere/bundle.tar");
        let (code, said) = place.refused(&[&words[..3], &["--to", nowhere.to_str().unwrap()]].concat());
        assert!(code == 1 && said.contains("--to") && said.contains("want a new file"), "{code}: {said}");
        let out = place.path(if live { "live" } else { "offline" });
        let read = unpacked(&to, out.clone());
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
