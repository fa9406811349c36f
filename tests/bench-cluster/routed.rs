//! One call at a time: straight to the process that has the pool, and through a controller in front of it.

use std::time::Instant;

use rockpool::proto::csi;
use tonic::transport::Channel;

use crate::Outcome;
use crate::options::Options;
use crate::process::{Authority, Process, controller, free_address, ready};
use crate::report::{Report, Target, median, ms};
use crate::requests::{self, Shape};

/// Calls of each kind a round.
const CALLS: usize = 200;
const NAMES: [&str; 3] = ["get a volume", "create", "delete"];
const LIMIT: f64 = 1.0;

pub(crate) async fn measure(options: &Options, report: &mut Report) -> Outcome<()> {
    report.begin("calls through a controller, and without one");
    let dir = tempfile::Builder::new().prefix("rp-bench.").tempdir_in("/dev/shm")?;
    let (authority, listen) = (Authority::new()?, free_address()?);
    let mut alone =
        Process::new(&dir.path().join("alone"), &["standalone", "--node-id", "alone"])?.with_pool();
    let words = ["controller", "--pool-kinds", "sim", "--listen", &listen];
    let mut front = Process::new(&dir.path().join("front"), &words)?.with_keys();
    authority.controller(&dir.path().join("front/keys"))?;
    let words = ["node", "--node-id", "behind", "--pool-kinds", "sim", "--controller", &listen];
    let mut behind = Process::new(&dir.path().join("behind"), &words)?.with_pool().with_keys();
    authority.node(&dir.path().join("behind/keys"), "behind")?;
    let (alone_at, front_at) = (alone.start().await?, front.start().await?);
    behind.start().await?;
    ready(&front_at).await?;
    let (mut direct, mut routed): ([Vec<f64>; 3], [Vec<f64>; 3]) = Default::default();
    // The first round warms up.
    for round in 0..=options.rounds() {
        let turns = if round % 2 == 0 { [true, false] } else { [false, true] };
        for is_direct in turns {
            let (channel, into) = if is_direct { (&alone_at, &mut direct) } else { (&front_at, &mut routed) };
            let times = calls(channel, round).await?;
            if round > 0 {
                into.iter_mut().zip(times).for_each(|(all, times)| all.extend(times));
            }
        }
    }
    for (name, (direct, routed)) in NAMES.iter().zip(direct.iter().zip(&routed)) {
        let head = format!("{name}, p50");
        report.median(("routed", &format!("{head}, straight")), direct.clone(), ("ms", Target::None));
        report.median(
            ("routed", &format!("{head}, through a controller")),
            routed.clone(),
            ("ms", Target::None),
        );
        let more = median(routed) - median(direct);
        report.value(
            ("routed", &format!("{head}, more through a controller")),
            more,
            ("ms", Target::AtMost(LIMIT)),
        );
    }
    Ok(())
}

/// The times of each kind of call, one call after the other.
async fn calls(channel: &Channel, round: usize) -> Outcome<[Vec<f64>; 3]> {
    let mut client = controller(channel);
    let mut times: [Vec<f64>; 3] = Default::default();
    for number in 0..CALLS {
        let mut request =
            requests::create(&format!("routed-{round}-{number}"), (Shape::Block, 1 << 20), None);
        request.parameters.clear();
        let began = Instant::now();
        let made = client.create_volume(request).await?.into_inner().volume.unwrap_or_default();
        times[1].push(ms(began.elapsed()));
        let volume_id = made.volume_id.clone();
        let began = Instant::now();
        client.controller_get_volume(csi::ControllerGetVolumeRequest { volume_id }).await?;
        times[0].push(ms(began.elapsed()));
        let began = Instant::now();
        client.delete_volume(requests::delete(&made.volume_id)).await?;
        times[2].push(ms(began.elapsed()));
    }
    Ok(times)
}
