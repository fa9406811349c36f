//! Lifecycles a second: create, stage, publish, unpublish, unstage, delete.
//!
//! Whoever is compared takes turns, round by round, so that what else happens on the machine meets both.

use std::time::{Duration, Instant};

use crate::Outcome;
use crate::client::{SHAPES, Shape, Spot};
use crate::floor::Floor;
use crate::options::Options;
use crate::report::{Report, Target};
use crate::scene::Site;

/// Of every volume in a life; sparse, so it costs nothing but a promise.
pub(crate) const SIZE: i64 = 1 << 30;
const CONCURRENCY: [usize; 2] = [1, 8];

/// On an empty pool, against the floor.
pub(crate) async fn against_floor(options: &Options, report: &mut Report, site: &Site) -> Outcome<()> {
    for shape in SHAPES {
        for many in CONCURRENCY {
            report.begin(&format!("lives: {} x{many}, driver and floor in turns", shape.name()));
            let spots = site.spots("lives", many)?;
            let floor = Floor::new(site, shape)?;
            let (mut driver, mut by_hand) = (Vec::new(), Vec::new());
            // The first round of each warms what has to be warm, and is not counted.
            for round in 0..=options.rounds() {
                let ours = driver_round(options.round(), site, shape, &spots).await?;
                let theirs = floor.round(options.round(), &spots)?;
                if round > 0 {
                    driver.push(ours);
                    by_hand.push(theirs);
                }
            }
            let name = |what: &str| format!("{} x{many}: {what}", shape.name());
            let part = "Lifecycles a second, empty pool";
            report.median((part, &name("driver")), driver.clone(), ("lives/s", beyond_hostpath(shape, many)));
            report.median((part, &name("floor")), by_hand.clone(), ("lives/s", Target::None));
            report.ratio((part, &name("driver / floor")), &driver, &by_hand, Target::AtLeast(0.7));
        }
    }
    Ok(())
}

/// With many volumes present, against an empty pool of another driver.
pub(crate) async fn against_empty(
    options: &Options,
    report: &mut Report,
    (empty, full): (&Site, &Site),
    present: usize,
) -> Outcome<()> {
    let part = format!("Lifecycles a second, {present} volumes present");
    for shape in SHAPES {
        for many in CONCURRENCY {
            report.begin(&format!("lives: {} x{many}, {present} present and none in turns", shape.name()));
            let (with, without) =
                in_turns((options.rounds(), options.round()), (full, empty), (shape, many)).await?;
            let name = |what: &str| format!("{} x{many}: {what}", shape.name());
            let hostpath = match shape {
                // 7 times the 29 of the reference driver.
                Shape::Directory | Shape::Block if many == 8 && present == 5000 => Target::AtLeast(203.0),
                Shape::Directory | Shape::Block | Shape::Ext4 | Shape::Xfs => Target::None,
            };
            report.median((&part, &name("driver")), with.clone(), ("lives/s", hostpath));
            let same = if present == 10_000 { Target::AtLeast(0.95) } else { Target::None };
            report.median((&part, &name("empty pool")), without.clone(), ("lives/s", Target::None));
            report.ratio((&part, &name("of the empty pool's rate")), &with, &without, same);
        }
    }
    Ok(())
}

/// On empty pools, against an older build of the driver.
pub(crate) async fn against_older(
    options: &Options,
    report: &mut Report,
    now: &Site,
    older: &Site,
) -> Outcome<()> {
    let part = "Lifecycles a second, against an older build";
    for shape in SHAPES {
        for many in CONCURRENCY {
            report.begin(&format!("lives: {} x{many}, this build and the older one in turns", shape.name()));
            let (ours, theirs) = in_turns(options.turns(), (now, older), (shape, many)).await?;
            let name = |what: &str| format!("{} x{many}: {what}", shape.name());
            report.median((part, &name("this build")), ours.clone(), ("lives/s", Target::None));
            report.median((part, &name("the older one")), theirs.clone(), ("lives/s", Target::None));
            report.ratio((part, &name("this / older")), &ours, &theirs, Target::AtLeast(0.95));
        }
    }
    Ok(())
}

/// The rates of two drivers, round by round; the first round of each warms what has to be warm, and is not counted.
async fn in_turns(
    (turns, lasting): (usize, Duration),
    (one, other): (&Site, &Site),
    (shape, many): (Shape, usize),
) -> Outcome<(Vec<f64>, Vec<f64>)> {
    let (here, there) = (one.spots("lives", many)?, other.spots("lives", many)?);
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for turn in 0..=turns {
        let our_rate = driver_round(lasting, one, shape, &here).await?;
        let their_rate = driver_round(lasting, other, shape, &there).await?;
        if turn > 0 {
            ours.push(our_rate);
            theirs.push(their_rate);
        }
    }
    Ok((ours, theirs))
}

/// Three times the reference driver for directory and block, not behind it with ext4.
fn beyond_hostpath(shape: Shape, many: usize) -> Target {
    match shape {
        Shape::Directory if many == 8 => Target::AtLeast(195.0),
        Shape::Block if many == 8 => Target::AtLeast(159.0),
        Shape::Ext4 if many == 8 => Target::AtLeast(53.0),
        Shape::Directory | Shape::Block | Shape::Ext4 | Shape::Xfs => Target::None,
    }
}

/// Lives a second of one round, a caller for each spot.
async fn driver_round(lasting: Duration, site: &Site, shape: Shape, spots: &[Spot]) -> Outcome<f64> {
    let clients = site.clients(spots.len()).await?;
    let began = Instant::now();
    let ends = began + lasting;
    let mut all = tokio::task::JoinSet::new();
    for (worker, (client, spot)) in clients.into_iter().zip(spots.iter().cloned()).enumerate() {
        all.spawn(async move {
            let mut lives = 0_u32;
            while Instant::now() < ends {
                client.live(&format!("life-{worker}-{lives}"), shape, SIZE, &spot).await?;
                lives += 1;
            }
            Outcome::Ok(lives)
        });
    }
    let mut lives = 0;
    while let Some(ended) = all.join_next().await {
        lives += ended?.map_err(|error| format!("{} x{}: {error}", shape.name(), spots.len()))?;
    }
    Ok(f64::from(lives) / began.elapsed().as_secs_f64())
}
