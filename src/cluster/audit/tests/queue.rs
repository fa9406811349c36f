//! What is told when.

use std::time::Duration;

use tokio::time::Instant;

use super::super::finding::{Finding, Reason};
use super::super::queue::{Queue, Rate};
use super::{of_claim, of_node};

const MINUTE: Duration = Duration::from_secs(60);

fn queue() -> (Queue, Instant) {
    let now = Instant::now();
    (Queue::new(Rate::default(), now), now)
}

/// Tells all that can be told now.
fn tell(queue: &mut Queue, now: Instant) -> Vec<String> {
    let mut told = Vec::new();
    while let Some(finding) = queue.next(now) {
        queue.told(&finding.key(), now);
        told.push(finding.subject);
    }
    told
}

#[test]
fn a_finding_is_told_once_and_again_after_ten_minutes() {
    let (mut queue, now) = queue();
    let mut told = 0;
    for second in 0..=1300 {
        let now = now + Duration::from_secs(second);
        queue.keep(vec![of_node("a")], now);
        told += tell(&mut queue, now).len();
    }
    assert_eq!(told, 3);
}

#[test]
fn what_comes_and_goes_is_told_once_in_ten_minutes() {
    let (mut queue, now) = queue();
    let mut told = 0;
    for minute in 0..=25 {
        let now = now + minute * MINUTE;
        queue.keep(if minute % 2 == 0 { vec![of_node("a")] } else { vec![] }, now);
        told += tell(&mut queue, now).len();
    }
    assert_eq!(told, 3);
}

#[test]
fn what_is_over_for_long_or_was_never_told_is_forgotten() {
    let (mut queue, now) = queue();
    queue.keep(vec![of_node("a")], now);
    queue.keep(vec![], now);
    assert!(tell(&mut queue, now).is_empty(), "it is over before anybody told it");
    queue.keep(vec![of_node("a")], now);
    assert_eq!(tell(&mut queue, now), ["a"]);
    queue.keep(vec![], now + 30 * MINUTE);
    queue.keep(vec![of_node("a")], now + 31 * MINUTE);
    assert_eq!(tell(&mut queue, now + 31 * MINUTE), ["a"]);
}

#[test]
fn what_is_back_after_it_was_told_to_be_over_is_told_at_once() {
    let (mut queue, now) = queue();
    queue.keep(vec![of_node("a")], now);
    assert_eq!(tell(&mut queue, now), ["a"]);
    queue.keep(vec![Finding { reason: Reason::PoolHealthy, ..of_node("a") }], now + MINUTE);
    assert_eq!(tell(&mut queue, now + MINUTE), ["a"], "that it is over");
    queue.keep(vec![of_node("a")], now + 2 * MINUTE);
    assert_eq!(tell(&mut queue, now + 2 * MINUTE), ["a"]);
}

#[test]
fn news_is_told_though_it_is_found_only_once() {
    let (mut queue, now) = queue();
    let news = Finding { reason: Reason::PoolHealthy, ..of_node("a") };
    queue.keep(vec![news.clone()], now);
    queue.failed(&news.key(), now);
    queue.keep(vec![], now + MINUTE);
    assert_eq!(tell(&mut queue, now + MINUTE), ["a"]);
    assert!(tell(&mut queue, now + 60 * MINUTE).is_empty(), "and only once");
}

#[test]
fn a_failure_is_followed_by_a_growing_pause() {
    let (mut queue, now) = queue();
    let (mut at, mut pauses) = (now, Vec::new());
    queue.keep(vec![of_node("a")], now);
    for _ in 0..9 {
        let finding = queue.next(at).unwrap();
        queue.failed(&finding.key(), at);
        assert!(queue.next(at).is_none(), "no tight loop");
        let before = at;
        while queue.next(at).is_none() {
            at += Duration::from_secs(1);
        }
        pauses.push((at - before).as_secs());
    }
    assert_eq!(pauses, [5, 10, 20, 40, 80, 160, 300, 300, 300]);
}

#[test]
fn no_more_than_fifty_at_once_and_ten_a_minute_and_nodes_come_first() {
    let (mut queue, now) = queue();
    let mut all: Vec<Finding> = (0..1000).map(|number| of_claim(&format!("claim-{number:04}"))).collect();
    all.push(of_node("the node"));
    queue.keep(all.clone(), now);
    let first = tell(&mut queue, now);
    assert_eq!((first.len(), first[0].as_str()), (50, "the node"));
    assert_eq!(queue.dropped(), 951);
    let mut told = 0;
    for second in 0..600 {
        told += tell(&mut queue, now + Duration::from_secs(second)).len();
    }
    assert_eq!(told, 0, "what was left out has its turn in ten minutes");
    // Then those come first that were never told, and the node is not left out.
    let second = tell(&mut queue, now + 10 * MINUTE);
    assert_eq!(second.len(), 50);
    assert!(second.iter().all(|subject| !first.contains(subject)), "{second:?}");
    assert_eq!(tell(&mut queue, now + 10 * MINUTE + Duration::from_secs(6)), ["the node"]);
}

#[test]
fn what_is_about_a_node_waits_for_room_and_is_not_left_out() {
    let (mut queue, now) = queue();
    queue.keep((0..60).map(|number| of_node(&format!("{number:02}"))).collect(), now);
    assert_eq!(tell(&mut queue, now).len(), 50);
    assert_eq!(tell(&mut queue, now + MINUTE).len(), 10);
    assert_eq!(queue.dropped(), 0);
}

#[test]
fn who_leads_no_more_tells_nothing() {
    let (mut queue, now) = queue();
    queue.keep(vec![of_node("a")], now);
    queue.clear();
    assert!(queue.next(now).is_none());
}
