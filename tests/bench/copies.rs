//! Snapshots and clones of a volume of 10 GiB that holds 1 GiB, written in sequence and at random.
//!
//! A raw volume, published: what is written at random lies at random in its image, where a filesystem would put it in order.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use rockpool::os::file::{Access, Dir, extent_count};

use crate::Outcome;
use crate::client::{Client, Shape};
use crate::options::Options;
use crate::report::{Report, Target, ms};
use crate::scene::{Site, run};

const SIZE: i64 = 10 << 30;
const REPEATS: usize = 7;
/// After this no other repetition begins: copies of what lies in many pieces take their time.
const ENOUGH: Duration = Duration::from_secs(15);

/// How the bytes came there.
#[derive(Clone, Copy)]
struct Writing {
    name: &'static str,
    rw: &'static str,
    block: &'static str,
    snapshot: Target,
}

pub(crate) async fn measure(options: &Options, report: &mut Report, site: &Site) -> Outcome<()> {
    let client = site.client()?;
    let ways = [
        Writing { name: "in sequence", rw: "write", block: "1M", snapshot: Target::AtMost(20.0) },
        Writing { name: "at random", rw: "randwrite", block: "4k", snapshot: Target::None },
    ];
    for way in ways {
        report.begin(&format!("copies: 10 GiB holding 1 GiB, written {}", way.name));
        let spot = site.spots("copies", 1)?.pop().ok_or("no spot")?;
        let id = client.create("copied", Shape::Block, SIZE).await?;
        client.stage(&id, Shape::Block, &spot).await?;
        client.publish(&id, Shape::Block, &spot).await?;
        write(&spot.target, way)?;
        let images = Dir::open(&site.pool(Shape::Block)?.join("volumes"))?;
        let image = images.open_file(&id, Access::ReadOnly)?.ok_or("the image is not there")?;
        let extents = extent_count(&image)?.ok_or("the filesystem counts no extents")?;
        let part = "Copies of a 10 GiB volume holding 1 GiB, milliseconds";
        let name = |what: &str| format!("{what}, written {}", way.name);
        report.value((part, &name("extents")), f64::from(extents), ("", Target::None));
        let repeats = if options.name() == "full" { REPEATS } else { 2 };
        let times = copy(&client, &id, repeats).await?;
        report.median((part, &name("snapshot")), times.snapshot, ("ms", way.snapshot));
        report.median((part, &name("clone of the volume")), times.clone, ("ms", Target::None));
        report.median((part, &name("restore of a snapshot")), times.restore, ("ms", Target::None));
        client.unpublish(&id, &spot).await?;
        client.unstage(&id, &spot).await?;
        client.delete(&id).await?;
    }
    Ok(())
}

#[derive(Default)]
struct Times {
    snapshot: Vec<f64>,
    clone: Vec<f64>,
    restore: Vec<f64>,
}

async fn copy(client: &Client, id: &str, repeats: usize) -> Outcome<Times> {
    let mut times = Times::default();
    let start = Instant::now();
    for _ in 0..repeats {
        if !times.snapshot.is_empty() && start.elapsed() > ENOUGH {
            break;
        }
        let began = Instant::now();
        let snapshot = client.snapshot("cut", id).await?;
        times.snapshot.push(ms(began.elapsed()));
        let began = Instant::now();
        let restored = client.restore("restored", (Shape::Block, SIZE), &snapshot).await?;
        times.restore.push(ms(began.elapsed()));
        let began = Instant::now();
        let cloned = client.clone_of("cloned", (Shape::Block, SIZE), id).await?;
        times.clone.push(ms(began.elapsed()));
        for volume in [restored, cloned] {
            client.delete(&volume).await?;
        }
        client.forget(&snapshot).await?;
    }
    Ok(times)
}

fn write(device: &Path, way: Writing) -> Outcome<()> {
    let mut fio = Command::new("fio");
    fio.args(["--name=fill", "--ioengine=libaio", "--direct=1", "--iodepth=32", "--norandommap"]);
    fio.args(["--size=10G", "--io_size=1G", "--end_fsync=1", "--allow_file_create=0"]);
    fio.arg(format!("--rw={}", way.rw)).arg(format!("--bs={}", way.block));
    fio.arg(format!("--filename={}", device.display()));
    run(&mut fio).map(drop)
}
