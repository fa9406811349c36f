//! A start with many volumes: how long until all is ready and listed, and how much memory stays.

use std::time::{Duration, Instant};

use crate::Outcome;
use crate::options::Options;
use crate::report::{Report, Target, ms};
use crate::scene::Site;

const REPEATS: usize = 5;

pub(crate) async fn measure(
    options: &Options,
    report: &mut Report,
    site: &mut Site,
    present: usize,
) -> Outcome<()> {
    report.begin(&format!("restart: {present} volumes present"));
    let (mut ready, mut listed, mut resident, mut after) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let busy = site.resident()?;
    for _ in 0..if options.name() == "full" { REPEATS } else { 2 } {
        site.stop()?;
        let began = Instant::now();
        ready.push(ms(site.start().await?));
        // Before anything was asked for: what an idle node holds.
        let found = site.client()?.count().await?;
        listed.push(ms(began.elapsed()));
        if found != present {
            return Err(format!("{found} volumes are listed, and {present} are there").into());
        }
        after.push(site.resident()?);
        site.stop()?;
        site.start().await?;
        tokio::time::sleep(Duration::from_millis(700)).await;
        resident.push(site.resident()?);
    }
    let (listing, memory) = match present {
        0 => (Target::None, Target::AtMost(8.0)),
        10_000 => (Target::AtMost(300.0), Target::AtMost(24.0)),
        _ => (Target::None, Target::None),
    };
    let part = "Restart and memory";
    let name = |what: &str| format!("{what}, {present} volumes");
    report.median((part, &name("ready")), ready, ("ms", Target::None));
    report.median((part, &name("ready and all listed")), listed, ("ms", listing));
    report.median((part, &name("resident, idle")), resident, ("MiB", memory));
    report.median((part, &name("resident, after a list of all")), after, ("MiB", memory));
    report.value((part, &name("resident, after all other parts")), busy, ("MiB", Target::None));
    Ok(())
}
