//! Snapshots and clones of a volume of 10 GiB that holds 1 GiB, written in sequence and at random.
//!
//! A raw volume, published: what is written at random lies at random in its image, where a filesystem would put it in order.

use std::fs::File;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use rockpool::os::file::{self, Access, Dir, extent_count};
use rockpool::os::fs;

use crate::Outcome;
use crate::client::{Client, Shape};
use crate::host::run;
use crate::options::Options;
use crate::report::{Report, Target, ms};
use crate::scene::Site;

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
        let times = copy(&client, &id, (site, &image), repeats).await?;
        report.median((part, &name("snapshot")), times.snapshot, ("ms", way.snapshot));
        report.median((part, &name("floor: reflink and fsync by hand")), times.floor, ("ms", Target::None));
        report.median((part, &name("clone of the volume")), times.clone, ("ms", Target::None));
        report.median((part, &name("restore of a snapshot")), times.restore, ("ms", Target::None));
        client.unpublish(&id, &spot).await?;
        client.unstage(&id, &spot).await?;
        client.delete(&id).await?;
        // The extents go later than the call, and what is measured next would wait for them.
        settle(&Dir::open(&site.pool(Shape::Block)?)?).await?;
    }
    Ok(())
}

#[derive(Default)]
struct Times {
    snapshot: Vec<f64>,
    clone: Vec<f64>,
    restore: Vec<f64>,
    floor: Vec<f64>,
}

async fn copy(client: &Client, id: &str, (site, image): (&Site, &File), repeats: usize) -> Outcome<Times> {
    let pool = Dir::open(&site.pool(Shape::Block)?)?;
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
        settle(&pool).await?;
        let began = Instant::now();
        let by_hand = pool.create("by-hand")?;
        file::reflink(image, &by_hand)?;
        file::sync(&by_hand)?;
        pool.sync()?;
        times.floor.push(ms(began.elapsed()));
        drop(by_hand);
        pool.remove("by-hand")?;
        settle(&pool).await?;
    }
    Ok(times)
}

/// Waits until the filesystem has given back what was removed: that goes on long after the call, and slows the next clone.
async fn settle(pool: &Dir) -> Outcome<()> {
    let mut free = fs::space(pool)?.free;
    let mut unchanged = 0;
    while unchanged < 5 {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let now = fs::space(pool)?.free;
        unchanged = if now == free { unchanged + 1 } else { 0 };
        free = now;
    }
    Ok(())
}

fn write(device: &Path, way: Writing) -> Outcome<()> {
    let mut fio = Command::new("fio");
    fio.args(["--name=fill", "--ioengine=libaio", "--direct=1", "--iodepth=32", "--norandommap"]);
    fio.args(["--size=10G", "--io_size=1G", "--end_fsync=1", "--allow_file_create=0"]);
    fio.arg(format!("--rw={}", way.rw)).arg(format!("--bs={}", way.block));
    fio.arg(format!("--filename={}", device.display()));
    run(&mut fio).map(drop)
}
