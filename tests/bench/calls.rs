//! Single calls, one at a time.

use std::time::Instant;

use crate::Outcome;
use crate::client::{Client, SHAPES, Shape};
use crate::lives::SIZE;
use crate::options::Options;
use crate::report::{Report, Target, median, ms};
use crate::scene::Site;

const MIB: i64 = 1 << 20;

/// Publish and unpublish of a volume that stays staged.
pub(crate) async fn publishing(options: &Options, report: &mut Report, site: &Site) -> Outcome<()> {
    let client = site.client()?;
    let spot = site.spots("calls", 1)?.pop().ok_or("no spot")?;
    for shape in SHAPES {
        report.begin(&format!("calls: publish and unpublish {}", shape.name()));
        let id = client.create("publishing", shape, SIZE).await?;
        client.stage(&id, shape, &spot).await?;
        let (mut there, mut back) = (Vec::new(), Vec::new());
        for _ in 0..options.samples() {
            let began = Instant::now();
            client.publish(&id, shape, &spot).await?;
            there.push(ms(began.elapsed()));
            let began = Instant::now();
            client.unpublish(&id, &spot).await?;
            back.push(ms(began.elapsed()));
        }
        client.unstage(&id, &spot).await?;
        client.delete(&id).await?;
        for (verb, samples) in [("publish", &there), ("unpublish", &back)] {
            let part = "One call at a time, milliseconds";
            let name = |share: &str| format!("{} {verb} {share}", shape.name());
            report.percentile((part, &name("p50")), samples, 0.5, ("ms", Target::AtMost(1.0)));
            report.percentile((part, &name("p99")), samples, 0.99, ("ms", Target::None));
        }
    }
    Ok(())
}

/// Create and delete with many volumes present, in turns with an empty pool.
pub(crate) async fn creating(
    options: &Options,
    report: &mut Report,
    (empty, full): (&Site, &Site),
    present: usize,
) -> Outcome<()> {
    let part = format!("Create and delete, {present} volumes present, milliseconds");
    for (shape, size) in
        [(Shape::Block, MIB), (Shape::Directory, MIB), (Shape::Ext4, SIZE), (Shape::Xfs, SIZE)]
    {
        report.begin(&format!(
            "calls: create and delete {}, {present} present and none in turns",
            shape.name()
        ));
        let mut without = Calls::default();
        let mut with = Calls::default();
        for round in 0..options.samples() {
            without.take(&empty.client()?, round, (shape, size)).await?;
            with.take(&full.client()?, round, (shape, size)).await?;
        }
        for (verb, here, there) in
            [("create", &with.create, &without.create), ("delete", &with.delete, &without.delete)]
        {
            let name = |what: &str| format!("{} {verb} {what}", shape.name());
            report.percentile((&part, &name("p50, empty pool")), there, 0.5, ("ms", Target::None));
            report.percentile((&part, &name("p99, empty pool")), there, 0.99, ("ms", Target::None));
            report.percentile((&part, &name("p50")), here, 0.5, ("ms", Target::None));
            report.percentile((&part, &name("p99")), here, 0.99, ("ms", Target::None));
            let bound =
                if verb == "create" && present == 10_000 { Target::AtMost(1.3) } else { Target::None };
            report.value(
                (&part, &name("p50, of the empty pool's")),
                median(here) / median(there),
                ("", bound),
            );
        }
    }
    Ok(())
}

#[derive(Default)]
struct Calls {
    create: Vec<f64>,
    delete: Vec<f64>,
}

impl Calls {
    async fn take(&mut self, client: &Client, round: usize, (shape, size): (Shape, i64)) -> Outcome<()> {
        let began = Instant::now();
        let id = client.create(&format!("call-{round}"), shape, size).await?;
        self.create.push(ms(began.elapsed()));
        let began = Instant::now();
        client.delete(&id).await?;
        self.delete.push(ms(began.elapsed()));
        Ok(())
    }
}
