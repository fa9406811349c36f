//! The bridge from asynchronous handlers to the blocking engine.
//!
//! Owns: that a change, once begun, runs to its end on its pool's own threads, whether or not its caller still waits; and
//! that the same request, sent again meanwhile, waits for the job that runs instead of starting a second one. What has not
//! begun when the last of its callers leaves is not begun, however late this process comes to look at the call.
//! Never: looks into a request; two requests are the same if their bytes are.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prost::Message;
use tokio::sync::{oneshot, watch};
use tonic::{Response, Status};

use crate::engine::workers::{Workers, broke_off};
use crate::error::{Error, Result, quoted};

/// How long a question may take before the caller hears that there is no answer. A question changes nothing, so its worker
/// may be left behind; changes are never given up.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// What a job has answered so far.
type Answer<R> = Option<std::result::Result<R, Status>>;

/// The jobs of one method that run now, by the bytes of their requests. The bytes may hold secrets: nothing prints them.
type Jobs<R> = Arc<Mutex<HashMap<Vec<u8>, watch::Receiver<Answer<R>>>>>;

/// One method that changes something.
pub(super) struct Lane<R> {
    jobs: Jobs<R>,
}

impl<R> Default for Lane<R> {
    fn default() -> Self {
        Lane { jobs: Jobs::default() }
    }
}

impl<R: Clone + Send + Sync + 'static> Lane<R> {
    /// Runs a change as a job that outlives this future, or joins the identical one that runs already. What `plan` says, the
    /// job and the threads to run it on, is asked only where there is none to join.
    ///
    /// # Errors
    /// What the plan or the job answers; UNAVAILABLE when the pool's queue is full or the job panicked.
    pub(super) async fn run<'w, J: FnOnce() -> Result<R> + Send + 'static>(
        &self,
        request: &impl Message,
        plan: impl FnOnce() -> Result<(&'w Workers, J)>,
    ) -> std::result::Result<Response<R>, Status> {
        let key = request.encode_to_vec();
        loop {
            match self.place(&key) {
                Place::Taken(mut answer) => {
                    if let Ok(answered) = answered(&mut answer).await {
                        return answered.map(Response::new);
                    }
                    // Whoever had the place left it before anything was begun.
                }
                Place::Free(entry, mut answer) => {
                    let (workers, job) = plan()?;
                    // The server looks whether a call was given up only after it has polled it. A poll may come late, when
                    // the caller has asked for the opposite since and was answered: it must begin nothing.
                    tokio::task::yield_now().await;
                    start(entry, workers, job)?;
                    return answered(&mut answer)
                        .await
                        .unwrap_or_else(|_| Err(broke_off().into()))
                        .map(Response::new);
                }
            }
        }
    }

    /// The place of a request among the jobs.
    fn place(&self, key: &[u8]) -> Place<R> {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(running) = jobs.get(key) {
            return Place::Taken(running.clone());
        }
        let (sender, receiver) = watch::channel(None);
        jobs.insert(key.to_vec(), receiver.clone());
        Place::Free(Entry { jobs: Arc::clone(&self.jobs), key: key.to_vec(), sender }, receiver)
    }
}

/// Whether a request has a job.
enum Place<R> {
    /// It has: this will be its answer.
    Taken(watch::Receiver<Answer<R>>),
    /// It had none; this is its place now, and where the answer will be.
    Free(Entry<R>, watch::Receiver<Answer<R>>),
}

/// Waits for the answer of a job; an error where it was not begun.
async fn answered<R: Clone>(
    answer: &mut watch::Receiver<Answer<R>>,
) -> std::result::Result<std::result::Result<R, Status>, watch::error::RecvError> {
    let answered = answer.wait_for(Option::is_some).await?;
    Ok(answered.clone().unwrap_or_else(|| Err(broke_off().into())))
}

fn start<R: Clone + Send + Sync + 'static>(
    entry: Entry<R>,
    workers: &Workers,
    job: impl FnOnce() -> Result<R> + Send + 'static,
) -> Result<()> {
    let begin = entry.begin();
    workers.run_then(
        move || begin().then(|| job().map_err(Status::from)),
        move |outcome| match outcome {
            Ok(Some(answer)) => entry.finish(answer),
            Ok(None) => {} // It was not begun.
            Err(error) => entry.finish(Err(error.into())),
        },
    )
}

/// The place of a running job among the jobs; leaves it on every path, a panic included.
struct Entry<R> {
    jobs: Jobs<R>,
    key: Vec<u8>,
    sender: watch::Sender<Answer<R>>,
}

impl<R: Send + Sync + 'static> Entry<R> {
    /// Whether to begin: not where the last caller has left, who may have asked for the opposite since. Nobody can join then.
    fn begin(&self) -> impl FnOnce() -> bool + Send + use<R> {
        let (jobs, key, sender) = (Arc::clone(&self.jobs), self.key.clone(), self.sender.clone());
        move || {
            let mut jobs = jobs.lock().unwrap_or_else(PoisonError::into_inner);
            // The one receiver that is always there is that of the jobs.
            let awaited = sender.receiver_count() > 1;
            if !awaited {
                jobs.remove(&key);
            }
            awaited
        }
    }
}

impl<R> Entry<R> {
    /// Leaves first and answers then: who has the answer and asks again must start a new job, not meet this one.
    fn finish(self, answer: std::result::Result<R, Status>) {
        let sender = self.sender.clone();
        drop(self);
        sender.send_replace(Some(answer));
    }
}

impl<R> Drop for Entry<R> {
    fn drop(&mut self) {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        // A job that was not begun has left already, and the same request may be there again.
        if jobs.get(&self.key).is_some_and(|there| there.same_channel(&self.sender.subscribe())) {
            jobs.remove(&self.key);
        }
    }
}

/// Asks the engine something that changes nothing.
///
/// # Errors
/// What the job answers; `Unavailable` when there is no answer in time.
pub(super) async fn ask<R: Send + 'static>(
    workers: &Workers,
    patience: Duration,
    job: impl FnOnce() -> Result<R> + Send + 'static,
) -> Result<R> {
    let mut answers = ask_each([(workers, job)], patience).await;
    answers.pop().unwrap_or_else(|| Err(broke_off()))
}

/// Asks several pools at once, each on its own threads; the answers come in the same order. One that is silent is an error
/// in its place, and keeps no other waiting.
pub(super) async fn ask_each<'w, R: Send + 'static, J: FnOnce() -> Result<R> + Send + 'static>(
    questions: impl IntoIterator<Item = (&'w Workers, J)>,
    patience: Duration,
) -> Vec<Result<R>> {
    let until = tokio::time::Instant::now() + patience;
    let asked: Vec<_> = questions
        .into_iter()
        .map(|(workers, job)| {
            let (tell, told) = oneshot::channel();
            // Nobody may wait any more.
            let deliver = move |outcome: Result<Result<R>>| drop(tell.send(outcome.flatten()));
            (workers, workers.run_then(job, deliver).map(|()| told))
        })
        .collect();
    let mut answers = Vec::with_capacity(asked.len());
    for (workers, waiting) in asked {
        answers.push(match waiting {
            Ok(waiting) => match tokio::time::timeout_at(until, waiting).await {
                Ok(answer) => answer.unwrap_or_else(|_| Err(broke_off())),
                Err(_) => Err(Error::Unavailable(format!(
                    "pool {} did not answer within {} ms; its disk may hang",
                    quoted(workers.name()),
                    patience.as_millis()
                ))),
            },
            Err(refused) => Err(refused),
        });
    }
    answers
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Poll;

    use tonic::Code;

    use super::*;
    use crate::proto::csi::DeleteVolumeRequest as Request;

    fn request(volume_id: &str) -> Request {
        Request { volume_id: volume_id.to_owned(), ..Request::default() }
    }

    /// A job that counts itself and waits at the gate.
    fn gated(count: &Arc<AtomicUsize>, gate: &Arc<Barrier>) -> impl FnOnce() -> Result<usize> + Send + use<> {
        let (count, gate) = (Arc::clone(count), Arc::clone(gate));
        move || {
            let n = count.fetch_add(1, Ordering::SeqCst) + 1;
            gate.wait();
            Ok(n)
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn an_identical_retry_joins_and_another_request_does_not() {
        let (lane, workers) = (Lane::default(), Workers::new("test"));
        let (count, gate) = (Arc::default(), Arc::new(Barrier::new(2)));
        let open = Arc::clone(&gate);
        let (same, different) = (request("same"), request("different"));
        // The gate opens when all three have been accepted.
        let (first, second, third, _) = tokio::join!(
            lane.run(&same, || Ok((&workers, gated(&count, &gate)))),
            lane.run(&same, || Ok((&workers, gated(&count, &gate)))),
            lane.run(&different, || Ok((&workers, gated(&count, &Arc::new(Barrier::new(1)))))),
            async { tokio::task::spawn_blocking(move || open.wait()).await },
        );
        let answers = [first, second, third].map(|answer| answer.unwrap().into_inner());
        assert_eq!(answers[0], answers[1]);
        assert_ne!(answers[0], answers[2]);
        assert_eq!(count.load(Ordering::SeqCst), 2);
        assert!(lane.jobs.lock().unwrap().is_empty());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_caller_who_leaves_abandons_nothing() {
        let (lane, workers) = (Lane::default(), Workers::new("test"));
        let (count, gate) = (Arc::<AtomicUsize>::default(), Arc::new(Barrier::new(2)));
        let asked = request("x");
        let begun = async {
            while count.load(Ordering::SeqCst) == 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::select! {
            _ = lane.run(&asked, || Ok((&workers, gated(&count, &gate)))) => panic!("the gate is shut"),
            () = begun => {} // Here the caller leaves.
        }
        let mut retry = std::pin::pin!(lane.run(&asked, || Ok((&workers, || Ok(99)))));
        // It joins before the gate opens: a job that is over is begun anew.
        tokio::time::timeout(Duration::from_millis(50), retry.as_mut()).await.unwrap_err();
        let (answer, _) = tokio::join!(retry, tokio::task::spawn_blocking(move || gate.wait()));
        assert_eq!(answer.unwrap().into_inner(), 1, "the retry has the answer of the job that was left");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_has_not_begun_when_its_caller_leaves_is_not_begun() {
        let (lane, workers) = (Lane::default(), Workers::new("test"));
        let gate = Arc::new(Barrier::new(9));
        for _ in 0..8 {
            let gate = Arc::clone(&gate);
            drop(workers.run(move || gate.wait()).unwrap());
        }
        let count = Arc::new(AtomicUsize::default());
        let counted = || {
            let count = Arc::clone(&count);
            Ok((&workers, move || Ok(count.fetch_add(1, Ordering::SeqCst))))
        };
        let left = request("left");
        tokio::time::timeout(Duration::from_millis(20), lane.run(&left, counted)).await.unwrap_err();
        let waits = request("waits");
        let (answer, _) =
            tokio::join!(lane.run(&waits, counted), tokio::task::spawn_blocking(move || gate.wait()));
        assert_eq!(answer.unwrap().into_inner(), 0, "the job that was left has run");
        let again = lane.run(&left, counted).await.unwrap();
        assert_eq!(again.into_inner(), 1, "the job that was left keeps its place");
    }

    #[tokio::test]
    async fn a_call_that_is_first_looked_at_after_it_was_given_up_begins_nothing() {
        let (lane, workers) = (Lane::default(), Workers::new("test"));
        let count = Arc::new(AtomicUsize::default());
        let counted = || {
            let count = Arc::clone(&count);
            Ok((&workers, move || Ok(count.fetch_add(1, Ordering::SeqCst))))
        };
        let late = request("late");
        {
            // The server polls a call once, and then sees that it was reset.
            let mut given_up = std::pin::pin!(lane.run(&late, counted));
            let polled = std::future::poll_fn(|context| Poll::Ready(given_up.as_mut().poll(context))).await;
            assert!(polled.is_pending());
            std::thread::sleep(Duration::from_millis(50));
        }
        assert_eq!(lane.run(&request("other"), counted).await.unwrap().into_inner(), 0, "it has begun");
        assert_eq!(lane.run(&late, counted).await.unwrap().into_inner(), 1, "it keeps its place");
    }

    #[tokio::test]
    async fn whoever_waits_for_a_call_that_was_given_up_before_its_beginning_begins_it() {
        let (lane, workers) = (Lane::default(), Workers::new("test"));
        let asked = request("x");
        let mut first = Box::pin(lane.run(&asked, || Ok((&workers, || Ok(1)))));
        let polled = std::future::poll_fn(|context| Poll::Ready(first.as_mut().poll(context))).await;
        assert!(polled.is_pending());
        let leave = async move { drop(first) };
        let (second, ()) = tokio::join!(lane.run(&asked, || Ok((&workers, || Ok(2)))), leave);
        assert_eq!(second.unwrap().into_inner(), 2);
    }

    #[tokio::test]
    async fn a_panic_is_an_open_outcome_and_clears() {
        let (lane, workers) = (Lane::<usize>::default(), Workers::new("test"));
        let broken = lane.run(&request("x"), || Ok((&workers, || panic!("on purpose")))).await.unwrap_err();
        assert_eq!(broken.code(), Code::Unavailable);
        let again = lane.run(&request("x"), || Ok((&workers, || Ok(2)))).await.unwrap();
        assert_eq!(again.into_inner(), 2);
        let silent = ask(&workers, PATIENCE, || -> Result<()> { panic!("on purpose") }).await;
        assert!(matches!(silent, Err(Error::Unavailable(_))));
    }

    #[tokio::test]
    async fn a_finished_job_is_not_joined() {
        let (lane, workers) = (Lane::default(), Workers::new("test"));
        for n in 0..100 {
            let answer = lane.run(&request("x"), || Ok((&workers, move || Ok(n)))).await.unwrap();
            assert_eq!(answer.into_inner(), n, "an answer of an earlier call came back");
        }
    }

    #[tokio::test]
    async fn a_question_does_not_wait_for_ever() {
        let workers = Workers::new("test");
        let gate = Arc::new(Barrier::new(2));
        let hung = Arc::clone(&gate);
        let job = move || {
            hung.wait();
            Ok(())
        };
        let answer = ask(&workers, Duration::from_millis(20), job).await;
        assert!(matches!(&answer, Err(Error::Unavailable(text)) if text.contains("20 ms")), "{answer:?}");
        gate.wait();
    }
}
