//! All of it: nodes that tell, an API server over real connections, two controllers.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::super::queue::Rate;
use super::super::{Audit, Pace, Terms};
use super::{A, B, DRIVER, claim, persistent};
use crate::cluster::kubernetes::Kubernetes;
use crate::cluster::link::tests::authority::Authority;
use crate::cluster::router::{Ground, Patience, Router};
use crate::cluster::tests::kubernetes::{Api, Mood};
use crate::cluster::tests::{Fake, Rig, soon};
use crate::pool::Kind;
use crate::proto::link as wire;

const EVENTS: &str = "/apis/events.k8s.io/v1/namespaces/";

/// Everything at once, but what is told once is not told again.
const QUICK: Pace = Pace {
    look: Duration::from_millis(50),
    settle: Duration::from_millis(200),
    unwell: Duration::from_millis(100),
    quiet: Duration::from_secs(3),
    rate: Rate {
        again: Duration::from_secs(600),
        burst: 50,
        refill: Duration::from_secs(6),
        retry: Duration::from_millis(50),
    },
};

struct Cluster {
    api: Api,
    rig: Rig,
    kubernetes: Kubernetes,
}

/// A controller's audit; it dies without a word when this is dropped.
struct Running {
    audit: Arc<Audit>,
    task: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Cluster {
    async fn new() -> Cluster {
        let (authority, api) = (Authority::new(), Api::start());
        let config = authority.put("kubeconfig", &api.kubeconfig());
        let kubernetes = Kubernetes::of_operator(Some(&config)).await.unwrap();
        let cluster = Cluster { api, rig: Rig::new(), kubernetes };
        cluster.ready("n1", "True");
        cluster
    }

    /// A node with the driver, whose kubelet says this.
    fn ready(&self, name: &str, status: &str) {
        self.api.add_node(name);
        let path = format!("/api/v1/nodes/{name}");
        let mut world = self.api.world();
        let mut node = world.objects[&path].clone();
        node["metadata"]["uid"] = json!(format!("uid-of-{name}"));
        node["status"]["conditions"] = json!([{ "type": "Ready", "status": status }]);
        world.put(&path, node);
    }

    fn put(&self, name: &str, handle: &str) {
        let mut world = self.api.world();
        world.put(&format!("/api/v1/persistentvolumes/{name}"), persistent(name, handle, "n1"));
        world.put(&format!("/api/v1/namespaces/ns/persistentvolumeclaims/{name}"), claim(name));
    }

    fn start(&self, pod: &str, gone_after: Duration) -> Running {
        self.start_every(Duration::from_millis(100), pod, gone_after)
    }

    /// One that compares so often.
    fn start_every(&self, interval: Duration, pod: &str, gone_after: Duration) -> Running {
        let ground = Ground {
            links: self.rig.links().clone(),
            known: self.rig.known.clone(),
            kubernetes: Some(self.kubernetes.clone()),
            ..Ground::default()
        };
        let router = Router::new(ground, DRIVER.to_owned(), Kind::Sim.features(), Patience::default());
        let terms = Terms { namespace: "rockpool".to_owned(), pod: pod.to_owned(), interval, gone_after };
        let audit = Arc::new(Audit::with(self.kubernetes.clone(), router, DRIVER, terms, QUICK));
        let following = Arc::clone(&audit);
        let task = tokio::spawn(async move { following.follow().await.unwrap() });
        Running { audit, task }
    }

    fn events(&self) -> Vec<(String, String, u64)> {
        let world = self.api.world();
        let events = world.objects.iter().filter(|(path, _)| path.starts_with(EVENTS));
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let mut events: Vec<_> = events
            .map(|(_, event)| {
                let about =
                    format!("{}/{}", text(&event["regarding"]["kind"]), text(&event["regarding"]["name"]));
                (text(&event["reason"]), about, event["series"]["count"].as_u64().unwrap_or(1))
            })
            .collect();
        events.sort();
        events
    }

    /// Waits for an Event.
    async fn told(&self, reason: &str, about: &str) {
        let is_told = || self.events().iter().any(|(of, on, _)| of == reason && on == about).then_some(());
        soon(&format!("{reason} on {about}; there is {:?}", self.events()), is_told).await;
    }
}

const HOUR: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn volumes_and_persistentvolumes_without_each_other_are_told_and_nothing_is_deleted() {
    let cluster = Cluster::new().await;
    let fake = Fake::with_pool("n1", A);
    let _joined = cluster.rig.join(&fake).await;
    let (kept, _lone) = (fake.hold(A, 1), fake.hold(A, 2));
    cluster.put("kept", &kept.to_string());
    cluster.put("empty", &format!("v1.{A}.0000000000000009"));
    cluster.put("elsewhere", &format!("v1.{B}.0000000000000009"));
    let running = cluster.start("pod-0", HOUR);
    cluster.told("VolumeWithoutPersistentVolume", "Node/n1").await;
    cluster.told("PersistentVolumeWithoutVolume", "PersistentVolumeClaim/empty").await;
    cluster.told("PoolMissing", "PersistentVolumeClaim/elsewhere").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let events = cluster.events();
    assert_eq!(events.len(), 3, "each once, and nothing else: {events:?}");
    assert!(events.iter().all(|(_, _, count)| *count == 1), "{events:?}");
    let figures = running.audit.figures();
    assert_eq!((figures.leads, figures.lone, figures.nodes_gone), (true, Some((1, 1)), 0));
    let calls = fake.asked();
    assert!(calls.iter().all(|call| call.starts_with("list")), "{calls:?}");
    let world = cluster.api.world();
    let changed = world.asked.iter().filter(|asked| !asked.starts_with("GET"));
    let own = |asked: &&String| asked.contains("/leases") || asked.contains("/events");
    assert!(changed.clone().all(|asked| own(&asked)), "{:?}", changed.collect::<Vec<_>>());
}

#[tokio::test]
async fn a_node_that_is_gone_is_told_on_it_and_on_the_claims_of_its_volumes() {
    let cluster = Cluster::new().await;
    for name in ["one", "two"] {
        cluster.put(name, &format!("v1.{A}.0000000000000009"));
    }
    let running = cluster.start("pod-0", Duration::from_millis(300));
    soon("it leads", || running.audit.figures().leads.then_some(())).await;
    cluster.ready("n1", "Unknown");
    cluster.told("NodeGone", "Node/n1").await;
    cluster.told("NodeGone", "PersistentVolumeClaim/one").await;
    cluster.told("NodeGone", "PersistentVolumeClaim/two").await;
    assert_eq!(running.audit.figures().nodes_gone, 1);
    cluster.ready("n1", "True");
    soon("it is back", || (running.audit.figures().nodes_gone == 0).then_some(())).await;
    // A node without the driver is there.
    cluster.api.world().put(
        "/apis/storage.k8s.io/v1/csinodes/n1",
        json!({ "metadata": { "name": "n1" }, "spec": { "drivers": [] } }),
    );
    cluster.told("DriverNotRegistered", "Node/n1").await;
    let figures = running.audit.figures();
    assert_eq!((figures.nodes_gone, figures.nodes_without_driver), (0, 1));
}

#[tokio::test]
async fn a_pool_that_is_away_is_told_and_that_it_is_back() {
    let cluster = Cluster::new().await;
    let fake = Fake::with_pool("n1", A);
    let _joined = cluster.rig.join(&fake).await;
    let _running = cluster.start("pod-0", HOUR);
    let away = wire::Pool {
        away: "the disk is asleep".to_owned(),
        ..crate::cluster::tests::fake::pool("main", A, 1)
    };
    fake.tell(away);
    cluster.told("PoolAway", "Node/n1").await;
    fake.tell(crate::cluster::tests::fake::pool("main", A, 1));
    cluster.told("PoolHealthy", "Node/n1").await;
}

#[tokio::test]
async fn an_event_that_cannot_be_written_is_written_later() {
    let cluster = Cluster::new().await;
    let fake = Fake::with_pool("n1", A);
    let _joined = cluster.rig.join(&fake).await;
    let running = cluster.start("pod-0", HOUR);
    soon("it leads", || running.audit.figures().leads.then_some(())).await;
    cluster.api.world().refuse_posts("/events", 4);
    fake.tell(wire::Pool {
        read_only: "an I/O error".to_owned(),
        ..crate::cluster::tests::fake::pool("main", A, 1)
    });
    cluster.told("PoolReadOnly", "Node/n1").await;
    let posts = cluster
        .api
        .world()
        .asked
        .iter()
        .filter(|asked| asked.starts_with("POST") && asked.contains("/events"))
        .count();
    assert_eq!(posts, 5, "each with a pause before the next");
    let count = || running.audit.figures().told.iter().map(|(_, count)| count).sum::<u64>();
    soon("it is counted, once", || (count() == 1).then_some(())).await;
}

#[tokio::test]
async fn of_two_controllers_one_tells_and_the_next_leader_does_not_repeat_it() {
    let cluster = Cluster::new().await;
    let fake = Fake::with_pool("n1", A);
    let _joined = cluster.rig.join(&fake).await;
    fake.hold(A, 2);
    let first = cluster.start("pod-0", HOUR);
    cluster.told("VolumeWithoutPersistentVolume", "Node/n1").await;
    let second = cluster.start("pod-1", HOUR);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!second.audit.figures().leads && second.audit.figures().lone.is_none());
    first.audit.part().await;
    drop(first);
    // A holder that leaves is noticed at the next try, within five seconds; and then it compares by itself.
    tokio::time::sleep(Duration::from_secs(3)).await;
    soon("the second leads and has compared", || second.audit.figures().lone.filter(|lone| lone.0 == 1))
        .await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(cluster.events(), [("VolumeWithoutPersistentVolume".to_owned(), "Node/n1".to_owned(), 1)]);
}

#[tokio::test]
async fn while_the_api_server_is_away_nothing_is_told_and_afterwards_it_goes_on() {
    let cluster = Cluster::new().await;
    cluster.put("one", &format!("v1.{A}.0000000000000009"));
    let running = cluster.start("pod-0", Duration::from_millis(300));
    soon("it leads", || running.audit.figures().leads.then_some(())).await;
    cluster.api.be(Mood::Away);
    cluster.api.world().end_watches();
    soon("it is missed", || {
        running.audit.figures().failures.iter().all(|(_, count)| *count > 0).then_some(())
    })
    .await;
    cluster.ready("n1", "False");
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(running.audit.figures().nodes_gone, 0);
    cluster.api.be(Mood::Well);
    tokio::time::sleep(Duration::from_secs(4)).await;
    cluster.told("NodeGone", "Node/n1").await;
}

#[tokio::test]
async fn what_was_found_before_a_lapse_is_found_anew_as_soon_as_it_leads_again() {
    let cluster = Cluster::new().await;
    let fake = Fake::with_pool("n1", A);
    let _joined = cluster.rig.join(&fake).await;
    fake.hold(A, 2);
    let running = cluster.start_every(HOUR, "pod-0", HOUR);
    let found = || running.audit.figures().lone.filter(|lone| lone.0 == 1).map(drop);
    soon("it is found", found).await;
    cluster.api.be(Mood::Away);
    cluster.api.world().end_watches();
    // A leader stops ten seconds after it renewed its lease last.
    tokio::time::sleep(Duration::from_secs(11)).await;
    let figures = running.audit.figures();
    assert!(!figures.leads && figures.lone.is_none(), "nobody knows whether it is still so: {figures:?}");
    cluster.api.be(Mood::Well);
    // Nothing is believed for three seconds, and nothing is tried for as long.
    tokio::time::sleep(Duration::from_secs(4)).await;
    soon("it is found anew, and not in an hour", found).await;
    assert_eq!(cluster.events().len(), 1);
}
