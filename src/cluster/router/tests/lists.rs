//! Lists over several nodes: every survivor once, and never a shorter list than there is.

use std::collections::BTreeSet;

use super::*;
use crate::cluster::tests::fake::pool;

const D: &str = "dddddddddddd";

/// A page behind a token: the ids, and the next token.
async fn volumes(router: &Router, token: &str, max_entries: i32) -> Result<(Vec<String>, String), Status> {
    let request = ListVolumesRequest { max_entries, starting_token: token.to_owned() };
    let page = router.list_volumes(Request::new(request)).await?.into_inner();
    Ok((page.entries.into_iter().map(|entry| entry.volume.unwrap().volume_id).collect(), page.next_token))
}

async fn unhealthy(router: &Router, token: &str, max_entries: i32) -> Result<(Vec<String>, String), Status> {
    let request = ControllerListVolumeHealthRequest {
        max_entries,
        starting_token: token.to_owned(),
        ..Default::default()
    };
    let page = router.controller_list_volume_health(Request::new(request)).await?.into_inner();
    Ok((page.entries.into_iter().map(|entry| entry.volume_id).collect(), page.next_token))
}

async fn snapshots(router: &Router, token: &str, max_entries: i32) -> Result<(Vec<String>, String), Status> {
    let request =
        ListSnapshotsRequest { max_entries, starting_token: token.to_owned(), ..Default::default() };
    let page = router.list_snapshots(Request::new(request)).await?.into_inner();
    Ok((page.entries.into_iter().map(|entry| entry.snapshot.unwrap().snapshot_id).collect(), page.next_token))
}

/// Nodes whose pools lie between each other's, with so many volumes in each, and a snapshot of each volume.
async fn filled(counts: [u8; 4]) -> (Rig, Router, Vec<Fake>, Vec<Joined>, Vec<String>) {
    let (rig, router, fakes, joined) = cluster(&[("n1", C), ("n2", B), ("n3", D)]).await;
    fakes[0].tell(pool("second", A, 1));
    soon("the second pool", || rig.known.holder(A.parse().unwrap()).ok()).await;
    let mut ids = Vec::new();
    for ((fake, id), count) in
        [(&fakes[0], A), (&fakes[1], B), (&fakes[0], C), (&fakes[2], D)].iter().zip(counts)
    {
        for number in 1..=count {
            let volume = fake.hold(id, number);
            fake.hold_cut(volume, number);
            ids.push(volume.to_string());
        }
    }
    (rig, router, fakes, joined, ids)
}

#[tokio::test]
async fn all_pages_together_are_the_whole_list() {
    for counts in [[3, 4, 2, 5], [0, 1, 0, 0], [0, 0, 0, 0], [1, 0, 6, 0]] {
        let (_rig, router, _fakes, _joined, ids) = filled(counts).await;
        let cuts: Vec<String> = ids.iter().map(|id| id.replace("v1", "s1")).collect();
        for max in 0..=i32::try_from(ids.len()).unwrap() + 1 {
            let (mut all, mut ill, mut cut, mut pages) = (vec![], vec![], vec![], 0);
            let (mut token, mut ill_token, mut cut_token) = (String::new(), String::new(), String::new());
            loop {
                let (page, next) = volumes(&router, &token, max).await.unwrap();
                assert!(max == 0 || page.len() <= max as usize);
                all.extend(page);
                let (page, ill_next) = unhealthy(&router, &ill_token, max).await.unwrap();
                ill.extend(page);
                let (page, cut_next) = snapshots(&router, &cut_token, max).await.unwrap();
                cut.extend(page);
                pages += 1;
                assert_eq!(
                    (next.is_empty(), cut_next.is_empty()),
                    (ill_next.is_empty(), ill_next.is_empty())
                );
                if next.is_empty() {
                    break;
                }
                (token, ill_token, cut_token) = (next, ill_next, cut_next);
            }
            assert_eq!((&all, &ill, &cut), (&ids, &ids, &cuts), "pages of {max}");
            let whole = if max == 0 { 1 } else { ids.len().div_ceil(max as usize).max(1) };
            assert_eq!(pages, whole, "pages of {max} of {}", ids.len());
        }
    }
}

#[tokio::test]
async fn between_pages_nodes_restart_volumes_go_and_controllers_change() {
    let (rig, router, fakes, mut joined, ids) = filled([3, 4, 2, 5]).await;
    let other = self::router(&rig, SETTLED);
    let (first, token) = volumes(&router, "", 4).await.unwrap();
    assert_eq!(first, ids[..4]);
    // The entry that the token names, one behind it, and one before it.
    for (fake, number) in [(1, 3), (1, 4), (0, 0)] {
        fakes[fake].store.volumes.lock().unwrap().remove(&ids[number].parse().unwrap());
    }
    joined.remove(1);
    rig.stands("n2", Standing::Away).await;
    let _joined = rig.join(&fakes[1]).await;
    let (rest, token) = volumes(&other, &token, 0).await.unwrap();
    assert_eq!((&rest[..], token.as_str()), (&ids[5..], ""));
    assert_eq!(code(volumes(&other, "invented", 1).await).0, Code::Aborted);
    assert_eq!(code(volumes(&other, "", -1).await).0, Code::InvalidArgument);
}

#[tokio::test]
async fn a_list_that_could_be_too_short_is_none() {
    let (rig, router, fakes, mut joined, ids) = filled([2, 2, 2, 2]).await;
    let last = joined.remove(2);
    drop(last);
    rig.stands("n3", Standing::Away).await;
    for answer in
        [volumes(&router, "", 0).await, snapshots(&router, "", 0).await, unhealthy(&router, "", 7).await]
    {
        let (code, message) = code(answer);
        assert_eq!((code, message.contains("node n3")), (Code::Unavailable, true), "{message}");
    }
    // What comes before it can be told.
    let (page, token) = volumes(&router, "", 5).await.unwrap();
    assert_eq!((&page[..], token.is_empty()), (&ids[..5], false));
    assert_eq!(code(volumes(&router, &token, 5).await).0, Code::Unavailable);
    // Its pool has moved.
    fakes[1].tell(pool("moved", D, 1));
    for number in 1..=2 {
        fakes[1].hold(D, number);
    }
    soon("the pool is there", || rig.known.holder(D.parse().unwrap()).ok()).await;
    assert_eq!(volumes(&router, "", 0).await.unwrap().0, ids);
    // A pool of which not even the id is known.
    let unread =
        crate::proto::link::Pool { unread: true, away: "its disk hangs".into(), ..pool("new", "", 0) };
    fakes[0].tell(unread);
    soon("it is known", || rig.known.node(&"n1".parse().unwrap()).unwrap().blind).await;
    let (unknown, message) = code(volumes(&router, "", 0).await);
    assert_eq!((unknown, message.contains("its disk hangs")), (Code::Unavailable, true), "{message}");
}

#[tokio::test]
async fn a_list_needs_every_node_to_have_told_and_answered() {
    let (rig, router, fakes, _joined, ids) = filled([1, 1, 1, 1]).await;
    let starting = self::router(&rig, Patience { start: Duration::from_secs(600), ..SETTLED });
    assert_eq!(code(volumes(&starting, "", 0).await).0, Code::Unavailable);
    let late = Fake::new("n4");
    late.news().mute = true;
    let late = rig.connect("n4", late.routes()).await;
    rig.stands("n4", Standing::Untold).await;
    assert_eq!(code(volumes(&router, "", 0).await).0, Code::Unavailable);
    drop(late);
    rig.stands("n4", Standing::Away).await;
    let (code_of_it, message) = code(volumes(&router, "", 0).await);
    assert_eq!(
        (code_of_it, message.contains("node n4")),
        (Code::Unavailable, true),
        "it has never told: {message}"
    );
    let _late = rig.join(&Fake::new("n4")).await;
    assert_eq!(volumes(&router, "", 0).await.unwrap().0, ids, "it has no pool");
    fakes[1].refuse(Some(Status::unavailable("its records are being read")));
    assert_eq!(code(volumes(&router, "", 0).await), (Code::Unavailable, "its records are being read".into()));
    fakes[1].refuse(None);
    fakes[1].hang();
    let hasty = self::router(&rig, Patience { answer: Duration::from_millis(200), ..SETTLED });
    let (silent, message) = code(volumes(&hasty, "", 0).await);
    assert_eq!((silent, message.contains("node n2")), (Code::Unavailable, true), "{message}");
}

#[tokio::test]
async fn snapshots_of_one_volume_are_asked_of_its_node() {
    let (rig, router, fakes, mut joined, ids) = filled([2, 2, 2, 2]).await;
    let asked = async |snapshot_id: &str, source_volume_id: &str| {
        let (snapshot_id, source_volume_id) = (snapshot_id.to_owned(), source_volume_id.to_owned());
        let request = ListSnapshotsRequest { snapshot_id, source_volume_id, ..Default::default() };
        let page = router.list_snapshots(Request::new(request)).await;
        page.map(|page| {
            page.into_inner().entries.into_iter().map(|entry| entry.snapshot.unwrap().snapshot_id).collect()
        })
    };
    let cut = ids[2].replace("v1", "s1");
    let found: [Result<Vec<String>, Status>; 4] = [
        asked(&cut, "").await,
        asked("", &ids[2]).await,
        asked(&cut, &ids[2]).await,
        asked(&cut, &ids[3]).await,
    ];
    let found = found.map(Result::unwrap);
    assert_eq!(found, [vec![cut.clone()], vec![cut.clone()], vec![cut.clone()], vec![]]);
    assert_eq!(asked("not an id", "").await.unwrap(), Vec::<String>::new());
    assert!(fakes[0].asked().is_empty() && fakes[2].asked().is_empty());
    joined.remove(1);
    rig.stands("n2", Standing::Away).await;
    assert_eq!(code(asked(&cut, "").await).0, Code::Unavailable, "it is away, not gone");
}

#[tokio::test]
async fn a_page_fits_into_what_a_client_takes() {
    let (_rig, router, fakes, _joined) = cluster(&[("n1", A), ("n2", B)]).await;
    for (fake, id, words) in [(&fakes[0], A, 1), (&fakes[1], B, 500)] {
        for number in 1..=12_000_u64 {
            let id = crate::model::VolumeId::new(id.parse().unwrap(), number.to_be_bytes());
            fake.store.volumes.lock().unwrap().insert(id, "x".repeat(words));
        }
    }
    let (mut all, mut token) = (BTreeSet::new(), String::new());
    loop {
        let request = ListVolumesRequest { max_entries: 0, starting_token: token };
        let page = router.list_volumes(Request::new(request)).await.unwrap().into_inner();
        let (size, entries) = (prost::Message::encoded_len(&page), page.entries.len());
        assert!(entries <= 10_000 && size < 4 << 20, "{entries} in {size}");
        // The first ones are small, the others large.
        assert!(entries == 10_000 || size > 3 << 20 || page.next_token.is_empty(), "{entries} in {size}");
        all.extend(page.entries.into_iter().map(|entry| entry.volume.unwrap().volume_id));
        token = page.next_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(all.len(), 24_000);
}

#[tokio::test]
async fn what_has_moved_is_listed_from_where_it_is() {
    let (rig, router, fakes, mut joined) = cluster(&[("n1", A), ("n2", B)]).await;
    let kept = fakes[0].hold(A, 1);
    fakes[0].hold(A, 2);
    let gone =
        crate::proto::link::Pool { gone: true, away: "its disk is gone".into(), ..pool("main", A, 50) };
    fakes[0].tell(gone);
    soon("the disk is gone", || rig.known.here(A.parse().unwrap()).is_empty().then_some(())).await;
    let all = async || volumes(&router, "", 0).await.map(|(ids, _)| ids);
    let why = all().await.unwrap_err();
    assert!(why.code() == Code::Unavailable && why.message().contains("gone from node n1"), "{why}");
    let of_one = ListSnapshotsRequest { source_volume_id: kept.to_string(), ..Default::default() };
    let cuts = router.list_snapshots(Request::new(of_one)).await;
    assert_eq!(cuts.unwrap_err().code(), Code::Unavailable, "others may have cut some since");
    // How it is, its node can say.
    assert!(unhealthy(&router, "", 0).await.unwrap().0.contains(&kept.to_string()));
    let request = ControllerGetVolumeHealthRequest { volume_id: kept.to_string(), ..Default::default() };
    router.controller_get_volume_health(Request::new(request)).await.unwrap();
    // Meanwhile one volume was deleted, and one was made.
    let made = [fakes[1].hold(A, 1), fakes[1].hold(A, 3)].map(|id| id.to_string());
    fakes[1].tell(pool("moved", A, 50));
    soon("the disk is there", || {
        rig.known.holder(A.parse().unwrap()).ok().filter(|node| node.as_str() == "n2")
    })
    .await;
    assert_eq!(all().await.unwrap(), made);
    joined.remove(1);
    rig.stands("n2", Standing::Away).await;
    assert_eq!(all().await.unwrap_err().code(), Code::Unavailable);
}
