//! The audit, with an API server that a test breaks and a clock that it moves.

mod compare;
mod events;
mod judge;
mod kinds;
mod lead;
mod queue;
mod watch;
mod whole;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use http::{Request, Response};
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};

use super::finding::{Finding, Object, Reason};
use super::kinds::{PersistentVolume, Watched};
use crate::cluster::kubernetes::Kubernetes;
use crate::cluster::news::{Pool, Seen, Standing};
use crate::cluster::tests::kubernetes::{Mood, World};
use crate::model::NodeId;
use crate::proto::link as wire;

const DRIVER: &str = "csi.rockpool.dev";
const A: &str = "aaaaaaaaaaaa";
const B: &str = "bbbbbbbbbbbb";

/// An API server in memory: its answers take no time, so that a test can move the clock.
#[derive(Clone, Default)]
struct Memory(Arc<Mutex<World>>);

impl Memory {
    fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap()
    }

    fn api(&self) -> Kubernetes {
        let memory = self.clone();
        let service = tower::service_fn(move |request| memory.clone().answer(request));
        Kubernetes::of_test(Client::new(service, "default"))
    }

    async fn answer(self, request: Request<Body>) -> Result<Response<Body>, Infallible> {
        let (method, path) = (request.method().to_string(), request.uri().to_string());
        let body = request.into_body().collect_bytes().await.unwrap();
        let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
        let mut world = self.world();
        world.asked.push(format!("{method} {path}"));
        let (code, answer) = match world.mood {
            Mood::Well => world.answer(&method, &path, "", body),
            Mood::Away | Mood::Slow(_) | Mood::Ill | Mood::Other | Mood::Deaf => {
                let failure = json!({ "kind": "Status", "status": "Failure", "message": "it is ill", "reason": "X", "code": 500 });
                (500, failure)
            }
        };
        let answer = Body::from(answer.to_string().into_bytes());
        Ok(Response::builder().status(code).body(answer).unwrap())
    }

    /// Every Event that is there: reason, count, and what it is about.
    fn events(&self) -> Vec<(String, u64, String)> {
        let world = self.world();
        let events = world.objects.iter().filter(|(path, _)| path.starts_with("/apis/events.k8s.io/v1/"));
        events
            .map(|(_, event)| {
                let text = |value: &Value| value.as_str().unwrap().to_owned();
                let about =
                    format!("{}/{}", text(&event["regarding"]["kind"]), text(&event["regarding"]["name"]));
                (text(&event["reason"]), event["series"]["count"].as_u64().unwrap_or(1), about)
            })
            .collect()
    }
}

fn id(name: &str) -> NodeId {
    name.parse().unwrap()
}

fn volume_id(pool: &str, number: u64) -> String {
    format!("v1.{pool}.{number:016x}")
}

/// A PersistentVolume as the API server has it, bound to a claim of the same name in `ns`.
fn persistent(name: &str, handle: &str, node: &str) -> Value {
    json!({
        "metadata": { "name": name, "uid": format!("uid-of-{name}"), "resourceVersion": "1" },
        "spec": {
            "csi": { "driver": DRIVER, "volumeHandle": handle },
            "storageClassName": "rockpool",
            "claimRef": { "namespace": "ns", "name": name, "uid": format!("claim-of-{name}") },
            "nodeAffinity": { "required": { "nodeSelectorTerms": [{ "matchExpressions": [
                { "key": "topology.csi.rockpool.dev/node", "operator": "In", "values": [node] }] }] } },
        },
    })
}

fn read(value: Value) -> Arc<PersistentVolume> {
    Arc::new(serde_json::from_value::<Watched<_>>(value).unwrap().object)
}

fn claim(name: &str) -> Value {
    json!({ "metadata": { "name": name, "namespace": "ns", "uid": format!("claim-of-{name}"), "resourceVersion": "1" } })
}

fn finding(reason: Reason, about: Object, subject: &str) -> Finding {
    Finding { reason, subject: subject.to_owned(), about, note: format!("Something about {subject}") }
}

fn of_node(subject: &str) -> Finding {
    finding(Reason::PoolAway, Object::node(&id("n1"), Some("uid-1")), subject)
}

fn of_claim(subject: &str) -> Finding {
    let (namespace, uid) = (Some("ns".to_owned()), format!("uid-of-{subject}"));
    let about = Object { kind: "PersistentVolumeClaim", namespace, name: subject.to_owned(), uid };
    finding(Reason::NodeGone, about, subject)
}

/// What is known of a node.
fn seen(node: &str, standing: Standing, pools: &[(&str, wire::Pool)]) -> Seen {
    let pools = pools.iter().map(|(name, pool)| ((*name).to_owned(), Pool::from(pool.clone())));
    let pools = Arc::new(pools.collect::<BTreeMap<_, _>>());
    Seen { node: id(node), standing, blind: None, heard: Some(Duration::ZERO), pools }
}
