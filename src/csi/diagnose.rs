//! The doctor's look at a pool of a running driver: waited for as long as it gets on.
//!
//! Owns: the signs of life meanwhile, and when a look that does not move is given up. Never: judges by how long one takes: a large
//! pool is no sick one. One look at a pool runs at a time, and whoever asks meanwhile joins it: where its disk hangs, that has one
//! thread and no more.

use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::engine::{Finding, SILENT_AFTER};
use crate::error::Error;
use crate::proto::admin::{DiagnoseRequest, DiagnoseResponse};

use super::Services;
use super::admin::finding;

/// What follows one another on the wire: signs of life, then the answer.
pub(super) type Signs = ReceiverStream<Said>;
type Said = std::result::Result<DiagnoseResponse, Status>;

/// How often there is a sign of life.
const BEAT: Duration = Duration::from_secs(1);
/// How often it is seen whether a pool takes a look again.
const PAUSE: Duration = Duration::from_millis(100);

/// Looks at the host or a pool, for as long as somebody listens.
pub(super) fn examine(services: Services, request: DiagnoseRequest) -> Signs {
    let (tell, told) = mpsc::channel(1);
    tokio::spawn(async move {
        let (pool, engine) = (request.pool.clone(), &services.plugin.engine);
        let ran = || engine.ran(&pool);
        let said = match watched(services.findings(&request), ran, SILENT_AFTER, &tell).await {
            Watched::Answer(said) => said,
            Watched::Silent if pool.is_empty() => Err(Error::Unavailable(format!(
                "the look at the host did not move for {} s: does the disk of kubelet's directory hang?",
                SILENT_AFTER.as_secs()
            ))
            .into()),
            Watched::Silent => Ok(answer([Finding::silent(&pool)])),
            Watched::Left => return,
        };
        // Nobody may listen any more.
        let _ = tell.send(said).await;
    });
    ReceiverStream::new(told)
}

/// What became of a look.
#[derive(Debug)]
enum Watched<T> {
    Answer(T),
    /// Nobody on whom it waits ran at all for so long.
    Silent,
    /// Nobody listens.
    Left,
}

/// Waits for a look as long as those get on on whom it waits, and `tell`s of it.
async fn watched<T>(
    look: impl Future<Output = T>,
    ran: impl Fn() -> Option<u64>,
    patience: Duration,
    tell: &mpsc::Sender<Said>,
) -> Watched<T> {
    let begun = Instant::now();
    let mut moved = (begun, ran());
    let mut look = std::pin::pin!(look);
    loop {
        if let Ok(said) = tokio::time::timeout(BEAT.min(patience), &mut look).await {
            return Watched::Answer(said);
        }
        let now = ran();
        // What the kernel does not tell of is no sign that it hangs.
        if now.is_none() || now != moved.1 {
            moved = (Instant::now(), now);
        }
        if moved.0.elapsed() >= patience {
            return Watched::Silent;
        }
        let going_seconds = Some(u32::try_from(begun.elapsed().as_secs()).unwrap_or(u32::MAX));
        if tell.send(Ok(DiagnoseResponse { findings: Vec::new(), going_seconds })).await.is_err() {
            return Watched::Left;
        }
    }
}

impl Services {
    /// What is wrong with the host or one pool, however long it takes to see.
    async fn findings(&self, request: &DiagnoseRequest) -> Said {
        let (engine, plugin) = (&self.plugin.engine, self.plugin());
        let pool = request.pool.clone();
        if pool.is_empty() {
            let job = move || Ok(answer(plugin.engine.diagnose_host()));
            let looked = self.lanes.diagnose.run(request, || Ok((engine.host_workers(), job))).await;
            return looked.map(tonic::Response::into_inner);
        }
        let workers = engine.workers_named(&pool);
        loop {
            if let Some(found) = engine.out_of_reach(&pool) {
                return Ok(answer([found]));
            }
            if workers.refusal().is_none() {
                break;
            }
            tokio::time::sleep(PAUSE).await;
        }
        let name = pool.clone();
        let job = move || plugin.engine.diagnose(&name).map(answer);
        match self.lanes.diagnose.run(request, || Ok((workers, job))).await {
            // Refused, or it broke off: a finding, and the other pools are looked at all the same.
            Err(status) if status.code() == tonic::Code::Unavailable => {
                let why = Error::Unavailable(status.message().to_owned());
                Ok(answer([engine.unanswered(&pool, &why)?]))
            }
            looked => looked.map(tonic::Response::into_inner),
        }
    }
}

fn answer(found: impl IntoIterator<Item = Finding>) -> DiagnoseResponse {
    DiagnoseResponse { findings: found.into_iter().map(finding).collect(), going_seconds: None }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::Barrier;

    use super::*;
    use crate::engine::workers::Workers;

    const SHORT: Duration = Duration::from_millis(400);

    /// Watches a job on threads of its own; answers what became of it, and how many signs of life there were.
    async fn watch(job: impl FnOnce() + Send + 'static, patience: Duration) -> (Watched<()>, usize) {
        let workers = Workers::apart("watched").unwrap();
        let (tell, mut told) = mpsc::channel(100);
        let look = workers.run(job).unwrap();
        let look = async { look.await.unwrap() };
        let watched = watched(look, || workers.ran(), patience, &tell).await;
        told.close();
        let mut signs = 0;
        while let Some(sign) = told.recv().await {
            assert!(sign.unwrap().going_seconds.is_some());
            signs += 1;
        }
        (watched, signs)
    }

    #[tokio::test]
    async fn a_look_that_gets_on_is_waited_for_however_long_it_takes() {
        let begun = Instant::now();
        let slow = move || {
            while begun.elapsed() < SHORT * 5 {
                std::thread::sleep(Duration::from_millis(5));
            }
        };
        let (watched, signs) = watch(slow, SHORT).await;
        assert!(matches!(watched, Watched::Answer(())), "{watched:?}");
        assert!(signs >= 3, "{signs} signs of life");
    }

    #[tokio::test]
    async fn a_look_that_does_not_run_at_all_is_given_up_in_time() {
        let gate = Arc::new(Barrier::new(2));
        let hung = Arc::clone(&gate);
        let job = move || {
            hung.wait();
        };
        let (watched, signs) = watch(job, SHORT).await;
        gate.wait();
        assert!(matches!(watched, Watched::Silent) && signs < 3, "{watched:?} after {signs} signs of life");
    }

    #[tokio::test]
    async fn whoever_does_not_listen_any_more_is_not_waited_for() {
        let (tell, told) = mpsc::channel(1);
        drop(told);
        let watched = watched(std::future::pending::<()>(), || None, SHORT, &tell).await;
        assert!(matches!(watched, Watched::Left), "{watched:?}");
    }
}
