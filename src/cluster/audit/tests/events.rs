//! Events, as an API server that knows them takes them.

use serde_json::Value;

use super::super::events::{Reporter, There, micro_time};
use super::super::finding::{Finding, Reason};
use super::{DRIVER, Memory, of_claim, of_node};
use crate::cluster::kubernetes::Fault;
use crate::cluster::tests::kubernetes::Mood;
use crate::model::Time;

fn reporter(memory: &Memory, pod: &str) -> Reporter {
    Reporter { api: memory.api(), driver: DRIVER.to_owned(), instance: pod.to_owned() }
}

fn only(memory: &Memory) -> Value {
    let world = memory.world();
    let events: Vec<&Value> = world.objects.values().collect();
    assert_eq!(events.len(), 1);
    events[0].clone()
}

#[tokio::test]
async fn an_event_says_all_that_the_api_server_asks_for() {
    let memory = Memory::default();
    reporter(&memory, "pod-0").tell(&of_claim("data"), There::Again).await.unwrap();
    let event = only(&memory);
    assert_eq!(event["metadata"]["namespace"], "ns");
    assert_eq!(event["regarding"]["kind"], "PersistentVolumeClaim");
    assert_eq!(event["regarding"]["namespace"], "ns");
    assert_eq!(event["regarding"]["uid"], "uid-of-data");
    let fields = ["type", "reason", "action", "note", "reportingController", "reportingInstance"];
    let said = fields.map(|field| event[field].as_str().unwrap());
    assert_eq!(said, ["Warning", "NodeGone", "Audit", "Something about data", DRIVER, "pod-0"]);
    // Go reads exactly six digits.
    let at = event["eventTime"].as_str().unwrap();
    assert!(
        at.len() == "2026-11-22T00:00:00.000000Z".len() && at.ends_with("000Z") && at.as_bytes()[19] == b'.',
        "{at}"
    );
    let name = event["metadata"]["name"].as_str().unwrap();
    assert!(name.starts_with("data.") && name.len() == "data.".len() + 16, "{name}");
}

#[tokio::test]
async fn what_is_about_a_node_lies_in_the_default_namespace() {
    let memory = Memory::default();
    let news = Finding { reason: Reason::PoolHealthy, ..of_node("n1/fast") };
    reporter(&memory, "pod-0").tell(&news, There::Again).await.unwrap();
    let event = only(&memory);
    assert_eq!((&event["metadata"]["namespace"], &event["type"]), (&"default".into(), &"Normal".into()));
    assert!(event["regarding"]["namespace"].is_null());
}

#[tokio::test]
async fn the_same_again_adds_to_the_series_whichever_controller_tells_it() {
    let memory = Memory::default();
    let finding = of_node("n1/fast");
    let first = only_after(&memory, "pod-0", &finding).await;
    assert!(first["series"].is_null());
    for (pod, count) in [("pod-0", 2), ("pod-1", 3), ("pod-0", 4)] {
        let event = only_after(&memory, pod, &finding).await;
        assert_eq!(event["series"]["count"], count);
        assert!(event["series"]["lastObservedTime"].as_str().unwrap().ends_with('Z'));
        assert_eq!(event["eventTime"], first["eventTime"], "nothing else may change");
        assert_eq!(event["reportingInstance"], "pod-0");
    }
}

async fn only_after(memory: &Memory, pod: &str, finding: &Finding) -> Value {
    reporter(memory, pod).tell(finding, There::Again).await.unwrap();
    only(memory)
}

#[tokio::test]
async fn what_the_leader_before_has_told_is_left_alone_and_what_it_has_not_is_told() {
    let memory = Memory::default();
    reporter(&memory, "pod-0").tell(&of_node("n1/fast"), There::Again).await.unwrap();
    let is_written = reporter(&memory, "pod-1").tell(&of_node("n1/fast"), There::Left).await.unwrap();
    assert!(!is_written);
    assert!(only(&memory)["series"].is_null());
    let is_written = reporter(&memory, "pod-1").tell(&of_node("n1/slow"), There::Left).await.unwrap();
    assert!(is_written);
    assert_eq!(memory.events().len(), 2);
}

#[tokio::test]
async fn another_note_or_another_object_is_another_event() {
    let memory = Memory::default();
    let tell =
        async |finding: &Finding| reporter(&memory, "pod-0").tell(finding, There::Again).await.unwrap();
    tell(&of_node("n1/fast")).await;
    tell(&Finding { note: "something else".to_owned(), ..of_node("n1/fast") }).await;
    tell(&of_claim("a")).await;
    tell(&of_claim("b")).await;
    assert_eq!(memory.events().len(), 4);
}

#[tokio::test]
async fn a_long_name_and_a_long_note_are_cut() {
    let memory = Memory::default();
    let mut finding = of_claim(&format!("{}.{}", "a".repeat(199), "b".repeat(50)));
    finding.note = "ü".repeat(2000);
    reporter(&memory, "pod-0").tell(&finding, There::Again).await.unwrap();
    let event = only(&memory);
    assert_eq!(event["note"].as_str().unwrap().len(), 1024);
    let name = event["metadata"]["name"].as_str().unwrap();
    assert!(
        name.len() <= 253 && name.starts_with(&format!("{}.", "a".repeat(199))) && !name.contains(".."),
        "{name}"
    );
}

#[tokio::test]
async fn an_api_server_that_is_ill_is_not_taken_for_one_that_has_heard() {
    let memory = Memory::default();
    memory.world().mood = Mood::Ill;
    let told = reporter(&memory, "pod-0").tell(&of_node("n1/fast"), There::Again).await;
    assert!(matches!(told, Err(Fault::Away(_))), "{told:?}");
}

#[test]
fn a_moment_has_six_digits_behind_the_second() {
    let at = |millis: u64| micro_time(serde_json::from_value(millis.into()).unwrap());
    assert_eq!(at(0), "1970-01-01T00:00:00.000000Z");
    assert_eq!(at(1_795_392_000_042), "2026-11-23T00:00:00.042000Z");
    assert!(micro_time(Time::now()).ends_with("000Z"));
}
