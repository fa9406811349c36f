//! fio on a volume, on the same filesystem made by hand over the same pool, and on the pool itself.
//!
//! By hand means by the programs that an administrator has: truncate, mkfs.ext4, losetup, mount.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::Outcome;
use crate::client::Shape;
use crate::host::run;
use crate::options::Options;
use crate::report::{Report, Target, median};
use crate::scene::Site;

const GIB: i64 = 1 << 30;
const FILE: &str = "fio.data";

/// One way of reading or writing.
struct Job {
    name: &'static str,
    /// The side of fio's answer, and the figure of it.
    side: &'static str,
    figure: &'static str,
    unit: &'static str,
    arguments: &'static [&'static str],
}

const JOBS: [Job; 5] = [
    Job {
        name: "random read 4 KiB, depth 32",
        side: "read",
        figure: "iops",
        unit: "IOPS",
        arguments: &["--rw=randread", "--bs=4k", "--iodepth=32", "--ioengine=libaio", "--direct=1"],
    },
    Job {
        name: "random write 4 KiB, depth 32",
        side: "write",
        figure: "iops",
        unit: "IOPS",
        arguments: &["--rw=randwrite", "--bs=4k", "--iodepth=32", "--ioengine=libaio", "--direct=1"],
    },
    Job {
        name: "sequential read 1 MiB, depth 8",
        side: "read",
        figure: "bw",
        unit: "KiB/s",
        arguments: &["--rw=read", "--bs=1M", "--iodepth=8", "--ioengine=libaio", "--direct=1"],
    },
    Job {
        name: "sequential write 1 MiB, depth 8",
        side: "write",
        figure: "bw",
        unit: "KiB/s",
        arguments: &["--rw=write", "--bs=1M", "--iodepth=8", "--ioengine=libaio", "--direct=1"],
    },
    Job {
        name: "write 4 KiB and fsync",
        side: "write",
        figure: "iops",
        unit: "IOPS",
        arguments: &["--rw=randwrite", "--bs=4k", "--ioengine=psync", "--fsync=1"],
    },
];

pub(crate) async fn measure(options: &Options, report: &mut Report, site: &Site) -> Outcome<()> {
    let client = site.client()?;
    let spot = site.spots("fio", 1)?.pop().ok_or("no spot")?;
    let id = client.create("fio", Shape::Ext4, 2 * GIB).await?;
    client.stage(&id, Shape::Ext4, &spot).await?;
    client.publish(&id, Shape::Ext4, &spot).await?;
    let by_hand = ByHand::new(site)?;
    let plain = site.pool(Shape::Ext4)?.join("fio");
    std::fs::create_dir_all(&plain)?;
    let targets: [&Path; 3] = [&spot.target, &by_hand.mount, &plain];
    for target in targets {
        report.begin(&format!("fio: 1 GiB into {}", target.display()));
        fio(target, &["--rw=write", "--bs=1M", "--direct=1", "--end_fsync=1"])?;
    }
    for job in &JOBS {
        report.begin(&format!("fio: {}", job.name));
        compare(options, report, job, targets)?;
    }
    drop(by_hand);
    std::fs::remove_dir_all(&plain)?;
    // The driver has given up the first connection: nobody here answered its pings while fio ran.
    let client = site.clients(1).await?.pop().ok_or("no connection")?;
    client.unpublish(&id, &spot).await?;
    client.unstage(&id, &spot).await?;
    client.delete(&id).await
}

fn compare(options: &Options, report: &mut Report, job: &Job, targets: [&Path; 3]) -> Outcome<()> {
    let (rounds, seconds) = options.fio();
    let mut rates = [Vec::new(), Vec::new(), Vec::new()];
    for round in 0..rounds {
        // Another one is first each time: what a target leaves behind in queues meets all of them.
        for turn in 0..targets.len() {
            let which = (round + turn) % targets.len();
            let time = format!("--runtime={seconds}");
            let mut arguments = vec!["--time_based", &time];
            arguments.extend(job.arguments);
            let answer: Value = serde_json::from_str(&fio(targets[which], &arguments)?)?;
            let rate = answer["jobs"][0][job.side][job.figure].as_f64();
            rates[which].push(rate.ok_or("fio's answer has no such figure")?);
        }
    }
    let [volume, by_hand, plain] = rates;
    let part = "fio on an image/ext4 volume";
    let name = |what: &str| format!("{}: {what}", job.name);
    let (of_hand, of_pool) = (median(&volume) / median(&by_hand), median(&volume) / median(&plain));
    report.median((part, &name("volume")), volume, (job.unit, Target::None));
    report.median((part, &name("by hand")), by_hand, (job.unit, Target::None));
    report.median((part, &name("pool directory")), plain, (job.unit, Target::None));
    report.value((part, &name("volume / by hand")), of_hand, ("", Target::AtLeast(0.95)));
    report.value((part, &name("volume / pool directory")), of_pool, ("", Target::None));
    Ok(())
}

fn fio(target: &Path, arguments: &[&str]) -> Outcome<String> {
    let mut fio = Command::new("fio");
    fio.args(["--name=bench", "--size=1G", "--output-format=json", "--randrepeat=0", "--norandommap"]);
    fio.arg(format!("--filename={}", target.join(FILE).display())).args(arguments);
    run(&mut fio)
}

/// An ext4 over the pool that no driver knows.
struct ByHand {
    image: PathBuf,
    device: String,
    mount: PathBuf,
}

impl ByHand {
    fn new(site: &Site) -> Outcome<ByHand> {
        let image = site.pool(Shape::Ext4)?.join("by-hand.img");
        let mount = site.kubelet().join("by-hand");
        std::fs::create_dir_all(&mount)?;
        std::fs::File::create(&image)?.set_len(2 * GIB.unsigned_abs())?;
        run(Command::new("mkfs.ext4").args(["-q", "-F", "-b", "4096", "-E", "nodiscard"]).arg(&image))?;
        let mut losetup = Command::new("losetup");
        losetup.args(["--find", "--show", "--direct-io=on", "--sector-size", "4096"]).arg(&image);
        let device = run(&mut losetup)?.trim().to_owned();
        let by_hand = ByHand { image, device, mount };
        run(Command::new("mount")
            .args(["-t", "ext4", "-o", "nosuid,nodev"])
            .arg(&by_hand.device)
            .arg(&by_hand.mount))?;
        Ok(by_hand)
    }
}

impl Drop for ByHand {
    fn drop(&mut self) {
        let done = run(Command::new("umount").arg(&self.mount));
        let done = done.and_then(|_| run(Command::new("losetup").arg("--detach").arg(&self.device)));
        let done = done.and_then(|_| Ok(std::fs::remove_file(&self.image)?));
        if let Err(error) = done {
            eprintln!("bench: {error}");
        }
    }
}
