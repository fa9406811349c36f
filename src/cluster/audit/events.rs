//! Findings as Kubernetes Events, where an operator looks: `kubectl describe` of the object, `kubectl get events`.
//!
//! Owns: that the same finding is one Event, whichever controller tells it: its name is made of what it says. Who finds it there adds to
//! its series. Never: deletes or changes anything else.

use std::time::Duration;

use ring::digest::{SHA256, digest};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::finding::{Finding, Reason};
use crate::cluster::kubernetes::{Answer, Fault, Kubernetes};
use crate::model::Time;

/// The longest note that the API server takes.
const NOTE: usize = 1024;
/// So much of an object's name is in that of an Event.
const NAME: usize = 200;
/// For one Event: the others wait.
const PATIENCE: Duration = Duration::from_secs(10);

/// Who tells.
pub(super) struct Reporter {
    pub(super) api: Kubernetes,
    pub(super) driver: String,
    /// The controller's pod.
    pub(super) instance: String,
}

/// What is done with an Event that is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum There {
    /// It has happened again, or goes on.
    Again,
    /// Whoever led before has told it a short while ago.
    Left,
}

/// Of an Event what is read again.
#[derive(Deserialize)]
struct Told {
    series: Option<Series>,
}

#[derive(Deserialize)]
struct Series {
    #[serde(default)]
    count: u64,
}

impl Reporter {
    /// Tells a finding: whether anything had to be written for it.
    pub(super) async fn tell(&self, finding: &Finding, there: There) -> Answer<bool> {
        let told = timeout(PATIENCE, self.write(finding, there)).await;
        told.unwrap_or_else(|_| Err(Fault::Away(format!("no answer within {} s", PATIENCE.as_secs()))))
    }

    async fn write(&self, finding: &Finding, there: There) -> Answer<bool> {
        let namespace = finding.about.namespace.as_deref().unwrap_or("default");
        let all = format!("/apis/events.k8s.io/v1/namespaces/{namespace}/events");
        let event = self.event(finding, namespace);
        match self.api.post::<Value>(&all, &event).await {
            Err(Fault::Refused(409, _)) => {}
            answer => return answer.map(|_| true),
        }
        if there == There::Left {
            return Ok(false);
        }
        let one = format!("{all}/{}", event["metadata"]["name"].as_str().unwrap_or_default());
        let before: Told = self.api.get(&one).await?;
        let count = before.series.map_or(1, |series| series.count.max(1)).saturating_add(1);
        // Nothing else of an Event may change.
        let series = json!({ "series": { "count": count, "lastObservedTime": micro_time(Time::now()) } });
        self.api.patch::<Value>(&one, &series).await.map(|_| true)
    }

    fn event(&self, finding: &Finding, namespace: &str) -> Value {
        let about = &finding.about;
        let mut regarding =
            json!({ "apiVersion": "v1", "kind": about.kind, "name": about.name, "uid": about.uid });
        if let Some(namespace) = &about.namespace {
            regarding["namespace"] = json!(namespace);
        }
        let note = cut(&finding.note, NOTE);
        json!({
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": { "name": self.name(finding, note), "namespace": namespace },
            "eventTime": micro_time(Time::now()),
            "type": if finding.reason == Reason::PoolHealthy { "Normal" } else { "Warning" },
            "reason": finding.reason.name(),
            "action": "Audit",
            "note": note,
            "regarding": regarding,
            "reportingController": self.driver,
            "reportingInstance": cut(&self.instance, 128),
        })
    }

    /// The object's name, and a hash of all that the Event says for good.
    fn name(&self, finding: &Finding, note: &str) -> String {
        let about = &finding.about;
        let says = [
            &self.driver,
            finding.reason.name(),
            about.kind,
            &about.name,
            &about.uid,
            &finding.subject,
            note,
        ];
        let hash = digest(&SHA256, says.join("\n").as_bytes());
        let hash: String = hash.as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        format!("{}.{hash}", cut(&about.name, NAME).trim_end_matches(['.', '-']))
    }
}

/// At most so many bytes of a text.
fn cut(text: &str, most: usize) -> &str {
    let end = (0..=most.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    &text[..end]
}

/// A moment as the API server reads it: six digits behind the second, no more and no less.
pub(super) fn micro_time(time: Time) -> String {
    let (seconds, millis) = (time.millis() / 1000, time.millis() % 1000);
    let whole = prost_types::Timestamp { seconds: i64::try_from(seconds).unwrap_or_default(), nanos: 0 };
    format!("{}.{millis:03}000Z", whole.to_string().trim_end_matches('Z'))
}
