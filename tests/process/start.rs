//! How long a start takes with very many volumes. The figures are those of the profile that the tests were built with.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::harness::{Place, names};
use crate::pools::Pool;

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

#[test]
#[ignore = "it takes minutes, and its limit is that of a release build: `cargo test --release --test process -- --ignored`"]
fn a_hundred_thousand_volumes_are_ready_within_five_seconds() {
    for (count, limit) in [(10_000, Duration::from_millis(300)), (100_000, Duration::from_secs(5))] {
        let ready = ready_with(count);
        println!("{count} volumes ready after {} ms", ready.as_millis());
        assert!(ready < limit || cfg!(debug_assertions), "{count} volumes: {ready:?}");
    }
}
