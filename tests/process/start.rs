//! The start: what it refuses, what it warns of, and how long it takes with very many volumes (the figures are those of the profile
//! that the tests were built with).

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::harness::{Place, names};
use crate::pools::{Over, Pool};

/// Makes `count` block volumes out of one, as a driver would have left them: a record and a sparse image each.
fn generate(pool: &Path, count: usize) {
    let records = pool.join("records");
    // Beside it lies the clock of the pool.
    let id = names(&records).into_iter().find(|name| name.starts_with("v1.")).unwrap();
    let text = std::fs::read_to_string(records.join(&id)).unwrap();
    let (_, body) = text.split_once("\"body\":").unwrap();
    let body = body.trim_end().strip_suffix('}').unwrap();
    let (pool_id, _) = id.rsplit_once('.').unwrap();
    for number in 1..count {
        let other = format!("{pool_id}.{number:016x}");
        let body = body.replace(&id, &other).replace("\"first\"", &format!("\"volume-{number}\""));
        let sum = crc32c::crc32c(body.as_bytes());
        std::fs::write(records.join(&other), format!("{{\"checksum\":\"{sum:08x}\",\"body\":{body}}}\n"))
            .unwrap();
        std::fs::File::create(pool.join("volumes").join(&other)).unwrap().set_len(1 << 20).unwrap();
    }
}

/// From the start of the process until all volumes are listed, in the best of three: caches are warm then.
fn ready_with(count: usize) -> Duration {
    let place = Place::new();
    let _pool = Pool::of_size(&place, "4GiB");
    let mut driver = place.start();
    assert!(place.ctl(&["volume", "create", "first", "--size", "1MiB", "--block"]).status.success());
    driver.signal(rustix::process::Signal::TERM);
    driver.ends();
    let pools = place.path("pools");
    generate(&pools.join(&names(&pools)[0]), count);
    let starts = (0..3).map(|_| {
        let begun = Instant::now();
        let mut driver = place.start();
        // One page: it is refused until every record is read.
        while !place.ctl(&["plugin", "probe"]).status.success() || !place.ctl(&["capacity"]).status.success()
        {
        }
        let ready = begun.elapsed();
        let listed = place.ctl(&["-o", "json", "volume", "list"]);
        let listed = String::from_utf8(listed.stdout).unwrap();
        assert_eq!(listed.matches("\"volume_id\"").count(), count, "{}", driver.log());
        driver.signal(rustix::process::Signal::TERM);
        driver.ends();
        ready
    });
    starts.min().unwrap()
}

/// Whether the doctor complains of kubelet's directory, and how.
fn of_kubelet(place: &Place) -> Option<String> {
    let output = place.ctl(&["doctor", "--json"]);
    let found = crate::doctor::findings(&output).into_iter().find(|one| one["code"] == "RP-KUBELET-ROOT");
    found.map(|one| {
        assert_eq!((&one["severity"], &one["pool"]), (&"warning".into(), &"".into()));
        one["what"].as_str().unwrap().to_owned()
    })
}

#[test]
fn a_kubelet_root_that_is_no_directory_is_refused_before_the_socket() {
    let place = Place::new();
    let file = place.path("config.toml");
    for root in [file.clone(), file.join("below")] {
        let said = place.refusal(place.command().env("ROCKPOOL_KUBELET_ROOT", &root));
        let named = format!("--kubelet-root `{}`: want a directory", root.display());
        assert!(said.contains(&named), "{said}");
        assert!(!place.path("run").exists(), "nothing was bound");
    }
}

#[test]
fn a_kubelet_root_that_workloads_cannot_see_into_is_told_at_start_and_by_the_doctor() {
    let place = Place::new();
    let root = place.path("kubelet");
    std::fs::remove_dir(&root).unwrap();
    let driver = place.start();
    let log = driver.log();
    assert!(
        log.contains("WARN") && log.contains("RP-KUBELET-ROOT") && log.contains("does not exist"),
        "{log}"
    );
    assert!(of_kubelet(&place).unwrap().contains("does not exist"));
    std::fs::create_dir(&root).unwrap();
    let _over = Over::new(&["--bind", root.to_str().unwrap()], root.clone());
    let made = |how| assert!(Command::new("mount").arg(how).arg(&root).status().unwrap().success());
    made("--make-shared");
    assert_eq!(of_kubelet(&place), None);
    made("--make-private");
    let what = of_kubelet(&place).unwrap();
    assert!(
        what.contains("reaches no other mount namespace") && what.contains(root.to_str().unwrap()),
        "{what}"
    );
    // As in a pod: what lies below kubelet's directory is mounted, the directory itself is not.
    let pods = root.join("pods");
    std::fs::create_dir(&pods).unwrap();
    let _pods = Over::new(&["--bind", pods.to_str().unwrap()], pods.clone());
    assert!(Command::new("mount").arg("--make-shared").arg(&pods).status().unwrap().success());
    assert_eq!(of_kubelet(&place), None);
    let staging = root.join("plugins/kubernetes.io/csi");
    std::fs::create_dir_all(&staging).unwrap();
    assert!(of_kubelet(&place).unwrap().contains(staging.to_str().unwrap()), "its mounts would stay here");
}

#[test]
#[ignore = "it takes minutes, and its limit is that of a release build: `cargo test --release --test process -- --ignored`"]
fn a_hundred_thousand_volumes_are_ready_within_five_seconds() {
    for (count, limit) in [(10_000, Duration::from_millis(300)), (100_000, Duration::from_secs(5))] {
        let ready = ready_with(count);
        println!("{count} volumes ready after {} ms", ready.as_millis());
        assert!(ready < limit || cfg!(debug_assertions), "{count} volumes: {ready:?}");
    }
}
