//! Two contenders for one lease, ten times as fast as in a cluster.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::super::lead::{Lead, Times};
use super::Memory;
use crate::cluster::tests::kubernetes::Mood;

const PATH: &str = "/apis/coordination.k8s.io/v1/namespaces/rockpool/leases/rockpool-test";

/// A tenth of what it is in a cluster.
const TIMES: Times = Times {
    lease: Duration::from_millis(1500),
    deadline: Duration::from_secs(1),
    retry: Duration::from_millis(500),
};
/// A second of a cluster.
const SECOND: Duration = Duration::from_millis(100);

/// A contender; it dies without a word when this is dropped.
struct Contender {
    lead: Arc<Lead>,
    task: JoinHandle<()>,
}

impl Drop for Contender {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Contender {
    fn start(memory: &Memory, name: &str) -> Contender {
        let lead = Arc::new(Lead::new(memory.api(), "rockpool", "rockpool-test", name).with(TIMES));
        let following = Arc::clone(&lead);
        let task = tokio::spawn(async move { following.follow().await });
        Contender { lead, task }
    }

    fn leads(&self) -> bool {
        self.lead.leads().is_some()
    }
}

/// After how many seconds something is so.
async fn after(most: u64, is_so: impl Fn() -> bool) -> Option<u64> {
    for second in 0..=most {
        if is_so() {
            return Some(second);
        }
        sleep(SECOND).await;
    }
    None
}

fn lease(memory: &Memory) -> Value {
    memory.world().objects[PATH].clone()
}

#[tokio::test]
async fn one_of_two_leads_and_goes_on_leading() {
    let memory = Memory::default();
    let contenders = [Contender::start(&memory, "a"), Contender::start(&memory, "b")];
    sleep(SECOND).await;
    let first = contenders.iter().position(Contender::leads).expect("one leads at once");
    for _ in 0..60 {
        sleep(SECOND).await;
        assert!(contenders[first].leads() && !contenders[1 - first].leads());
    }
    let spec = &lease(&memory)["spec"];
    assert_eq!(spec["holderIdentity"], ["a", "b"][first]);
    assert_eq!((&spec["leaseTransitions"], &spec["leaseDurationSeconds"]), (&json!(0), &json!(1)));
    assert!(contenders[first].lead.leads().unwrap() > 55 * SECOND, "without a break");
}

#[tokio::test]
async fn when_the_holder_dies_the_other_leads_within_twenty_seconds_and_not_before_its_time() {
    let memory = Memory::default();
    let first = Contender::start(&memory, "a");
    sleep(SECOND).await;
    let second = Contender::start(&memory, "b");
    sleep(30 * SECOND).await;
    assert!(first.leads() && !second.leads());
    drop(first);
    let died = Instant::now();
    after(30, || second.leads()).await.unwrap();
    // Some room for a machine that is busy: a second here is ten in a cluster.
    let taken = died.elapsed();
    assert!((10 * SECOND..=22 * SECOND).contains(&taken), "after {taken:?}, a tenth of the time");
    assert_eq!(lease(&memory)["spec"]["leaseTransitions"], 1);
}

#[tokio::test]
async fn who_parts_lets_the_other_lead_at_once() {
    let memory = Memory::default();
    let first = Contender::start(&memory, "a");
    sleep(SECOND).await;
    let second = Contender::start(&memory, "b");
    sleep(10 * SECOND).await;
    first.lead.part().await;
    assert!(!first.leads());
    assert_eq!(lease(&memory)["spec"]["holderIdentity"], "");
    let taken = after(30, || second.leads()).await.unwrap();
    assert!(taken <= 6, "after {taken} s");
    sleep(30 * SECOND).await;
    assert!(!first.leads(), "it does not come back");
}

#[tokio::test]
async fn a_leader_that_cannot_renew_stops_before_another_may_begin() {
    let memory = Memory::default();
    let (first, begun) = (Contender::start(&memory, "a"), Instant::now());
    sleep(7 * SECOND).await;
    assert!(first.leads());
    memory.world().mood = Mood::Ill;
    let stopped = after(30, || !first.leads()).await.unwrap();
    assert!(stopped <= 10, "after {stopped} s, {:?} in all", begun.elapsed());
    assert!(!first.lead.is_lost(), "nobody else leads");
    memory.world().mood = Mood::Well;
    assert!(after(6, || first.leads()).await.is_some(), "and leads again when it can");
    assert!(first.lead.leads().unwrap() < 10 * SECOND, "anew");
}

#[tokio::test]
async fn what_the_holders_clock_says_does_not_matter() {
    let memory = Memory::default();
    for at in ["1970-01-01T00:00:00.000000Z", "2999-01-01T00:00:00.000000Z", "nonsense"] {
        let other = Contender::start(&memory, "b");
        // It lives, and says so in its own words.
        for turn in 0..3 {
            let spec = json!({ "holderIdentity": "a", "leaseDurationSeconds": 1, "renewTime": at, "leaseTransitions": turn });
            memory.world().put(PATH, json!({ "metadata": { "name": "rockpool-test" }, "spec": spec }));
            sleep(10 * SECOND).await;
            assert!(!other.leads(), "{at}: it is renewed");
        }
        assert!(after(25, || other.leads()).await.is_some(), "{at}: it is not renewed any more");
    }
}

#[tokio::test]
async fn who_comes_second_at_a_write_does_not_lead() {
    let memory = Memory::default();
    // Both find nothing, and both write: the second is refused.
    let (a, b) = (Contender::start(&memory, "a"), Contender::start(&memory, "b"));
    sleep(Duration::from_millis(100)).await;
    assert!(a.leads() != b.leads());
    let posts = memory.world().asked.iter().filter(|asked| asked.starts_with("POST")).count();
    assert!(posts >= 1);
    // Somebody writes between another's read and its write.
    let (holder, _other) = if a.leads() { (a, b) } else { (b, a) };
    let mut stolen = lease(&memory);
    stolen["spec"]["holderIdentity"] = json!("c");
    memory.world().put(PATH, stolen);
    assert!(after(6, || !holder.leads()).await.is_some(), "it sees that it lost the lease");
    assert!(holder.lead.is_lost());
}
