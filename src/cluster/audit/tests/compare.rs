//! Volumes and PersistentVolumes: each difference that is a finding, and those that are none.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::super::compare::{Compared, Comparison, Listed, Places, Sides};
use super::super::kinds::Watched;
use super::{A, B, claim, id, persistent, read, seen, volume_id};
use crate::cluster::news::{Seen, Standing};
use crate::cluster::tests::fake;

const SETTLE: Duration = Duration::from_secs(120);

/// What pool A has, and what Kubernetes has before and after it was listed.
fn sides(has: &[u64], before: &[Value], after: &[Value]) -> Sides {
    let volumes = has.iter().map(|number| volume_id(A, *number).parse().unwrap()).collect();
    let listed = Listed { node: id("n1"), uid: None, name: "fast".to_owned(), volumes };
    let all = |values: &[Value]| values.iter().map(|value| read(value.clone())).collect();
    let claims = vec![Arc::new(serde_json::from_value::<Watched<_>>(claim("one")).unwrap().object)];
    Sides {
        before: all(before),
        after: all(after),
        claims,
        pools: BTreeMap::from([(A.parse().unwrap(), listed)]),
        places: Places::default(),
    }
}

/// What is found when it is like this at two looks.
fn twice(sides: &Sides) -> Compared {
    let (mut comparison, now) = (Comparison::new(SETTLE), Instant::now());
    assert!(comparison.look(sides, now).findings.is_empty(), "not at the first look");
    comparison.look(sides, now + SETTLE)
}

fn notes(compared: &Compared) -> Vec<String> {
    let show = |finding: &super::Finding| {
        format!("{} {}/{}: {}", finding.reason.name(), finding.about.kind, finding.about.name, finding.note)
    };
    compared.findings.iter().map(show).collect()
}

fn one() -> Value {
    persistent("one", &volume_id(A, 1), "n1")
}

#[test]
fn what_matches_is_no_finding() {
    let compared = twice(&sides(&[1], &[one()], &[one()]));
    assert!(compared.findings.is_empty() && !compared.is_open, "{:?}", notes(&compared));
}

#[test]
fn volumes_without_a_persistentvolume_are_one_finding_on_their_node() {
    let compared = twice(&sides(&[1, 2, 3, 4, 5], &[one()], &[one()]));
    let notes = notes(&compared);
    assert_eq!((compared.volumes, compared.persistent, notes.len()), (4, 0, 1));
    assert!(notes[0].starts_with("VolumeWithoutPersistentVolume Node/n1: No PersistentVolume leads to 4 volumes in pool `fast` of node n1"), "{notes:?}");
    assert!(
        notes[0].contains(&volume_id(A, 2))
            && notes[0].contains("and 1 more")
            && notes[0].contains("Nothing deletes them"),
        "{notes:?}"
    );
}

#[test]
fn a_volume_that_was_only_just_made_is_none() {
    let (mut comparison, now) = (Comparison::new(SETTLE), Instant::now());
    let made = sides(&[2], &[], &[]);
    let first = comparison.look(&made, now);
    assert!(first.is_open, "another look is worth it");
    assert!(comparison.look(&made, now + SETTLE / 2).findings.is_empty());
    // Its PersistentVolume was written while the pool was listed.
    let written = sides(&[2], &[], &[persistent("two", &volume_id(A, 2), "n1")]);
    assert!(comparison.look(&written, now + SETTLE * 2).findings.is_empty());
    // Without it from here on, the time begins anew.
    assert!(comparison.look(&made, now + SETTLE * 3).findings.is_empty());
    assert_eq!(comparison.look(&made, now + SETTLE * 4).volumes, 1);
}

#[test]
fn a_volume_that_is_being_deleted_and_one_that_is_retained_are_no_longer_listed_and_no_finding() {
    let (mut comparison, now) = (Comparison::new(SETTLE), Instant::now());
    comparison.look(&sides(&[2], &[], &[]), now);
    let compared = comparison.look(&sides(&[], &[], &[]), now + SETTLE);
    assert!(compared.findings.is_empty() && !compared.is_open);
}

#[test]
fn a_persistentvolume_without_a_volume_is_told_on_its_claim() {
    let compared = twice(&sides(&[], &[one()], &[one()]));
    let notes = notes(&compared);
    assert_eq!((compared.volumes, compared.persistent), (0, 1));
    assert!(notes[0].starts_with("PersistentVolumeWithoutVolume PersistentVolumeClaim/one"), "{notes:?}");
    assert!(notes[0].contains(&volume_id(A, 1)) && notes[0].contains("no pod can use it"), "{notes:?}");
}

#[test]
fn where_there_is_no_claim_it_is_told_on_the_persistentvolume() {
    let mut unbound = persistent("two", &volume_id(A, 2), "n1");
    unbound["spec"]["claimRef"] = Value::Null;
    let released = persistent("three", &volume_id(A, 3), "n1");
    let compared = twice(&sides(&[], &[unbound.clone(), released.clone()], &[unbound, released]));
    let notes = notes(&compared);
    assert!(
        notes[0].contains("PersistentVolume/two") && notes[1].contains("PersistentVolume/three"),
        "{notes:?}"
    );
}

#[test]
fn one_that_is_new_or_is_being_deleted_is_none() {
    assert!(twice(&sides(&[], &[], &[one()])).findings.is_empty(), "it was not there before the list");
    assert!(twice(&sides(&[], &[one()], &[])).findings.is_empty(), "it went");
    let mut leaving = one();
    leaving["metadata"]["deletionTimestamp"] = json!("2026-11-22T00:00:00Z");
    assert!(twice(&sides(&[], &[one()], &[leaving])).findings.is_empty());
}

#[test]
fn a_pool_that_was_not_listed_says_nothing_either_way() {
    let elsewhere = persistent("one", &volume_id(B, 1), "n2");
    assert!(
        twice(&sides(&[], std::slice::from_ref(&elsewhere), std::slice::from_ref(&elsewhere)))
            .findings
            .is_empty()
    );
    // What was under suspicion stays so, and is not told while the pool is away.
    let (mut comparison, now) = (Comparison::new(SETTLE), Instant::now());
    let there = sides(&[2], &[one()], &[one()]);
    comparison.look(&there, now);
    let away = Sides { pools: BTreeMap::new(), ..sides(&[], &[one()], &[one()]) };
    assert!(comparison.look(&away, now + SETTLE).findings.is_empty());
    let back = comparison.look(&there, now + SETTLE * 2);
    assert_eq!((back.volumes, back.persistent), (1, 1));
}

#[test]
fn a_handle_that_is_no_id_leads_nowhere() {
    let wrong = persistent("one", "vol-0123", "n1");
    let compared = twice(&sides(&[], std::slice::from_ref(&wrong), std::slice::from_ref(&wrong)));
    let notes = notes(&compared);
    assert!(notes[0].contains("`vol-0123`, which is no id of a volume of this driver"), "{notes:?}");
}

#[test]
fn a_pool_that_no_node_has_is_missed_once_everybody_who_is_connected_has_told() {
    let lost = [persistent("one", &volume_id(B, 1), "n2")];
    let with = |nodes: &[Seen]| {
        let sides = Sides { places: Places::of(nodes), ..sides(&[], &lost, &lost) };
        let compared = twice(&sides);
        assert_eq!(compared.persistent, 0, "the volume may be whole");
        assert_eq!(usize::try_from(compared.without_pool).unwrap(), compared.findings.len());
        notes(&compared)
    };
    let main = |id: &str| [("main", fake::pool("main", id, 1))];
    let other = seen("n1", Standing::Told, &main(A));
    let found = with(&[other.clone(), seen("n2", Standing::Told, &main("cccccccccccc"))]);
    assert!(found[0].starts_with("PoolMissing PersistentVolumeClaim/one"), "{found:?}");
    assert!(found[0].contains(&format!("in pool {B}, which no node has that is connected")), "{found:?}");
    let silent: [(&str, &[Seen]); 7] = [
        ("its node was never there", std::slice::from_ref(&other)),
        ("its node is away, and had it", &[other.clone(), seen("n2", Standing::Away, &main(B))]),
        ("its node has not told yet", &[other.clone(), seen("n2", Standing::Untold, &[])]),
        (
            "a pool of its node is away, and may be it",
            &[other.clone(), seen("n2", Standing::Told, &main(""))],
        ),
        (
            "a pool of another node is away, and may be it",
            &[seen("n1", Standing::Told, &main("")), seen("n2", Standing::Told, &main("cccccccccccc"))],
        ),
        (
            "another node has not told yet",
            &[seen("n1", Standing::Untold, &[]), seen("n2", Standing::Told, &main("cccccccccccc"))],
        ),
        ("another node has it", &[seen("n1", Standing::Away, &main(B)), seen("n2", Standing::Told, &[])]),
    ];
    for (case, nodes) in silent {
        assert!(with(nodes).is_empty(), "{case}");
    }
    let mut unpinned = lost[0].clone();
    unpinned["spec"]["nodeAffinity"] = Value::Null;
    let unpinned = [unpinned];
    let mut places = Places::of(&[other.clone(), seen("n2", Standing::Told, &[])]);
    assert!(!with(&[other.clone(), seen("n2", Standing::Told, &[])]).is_empty());
    places.know([B.parse().unwrap()]);
    assert!(twice(&Sides { places, ..sides(&[], &lost, &lost) }).findings.is_empty(), "it is declared lost");
    let places = Places::of(&[other]);
    assert!(twice(&Sides { places, ..sides(&[], &unpinned, &unpinned) }).findings.is_empty());
}
