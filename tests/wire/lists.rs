//! ListVolumes and ControllerListVolumeHealth: pages and their tokens.

use std::collections::BTreeSet;

use rockpool::proto::csi::*;
use tonic::{Code, Status};

use crate::harness::*;

async fn page(driver: &Driver, max_entries: i32, token: &str) -> Result<(Vec<String>, String), Status> {
    let request = ListVolumesRequest { max_entries, starting_token: token.to_owned() };
    let answer = driver.controller.clone().list_volumes(request).await?.into_inner();
    let ids = answer.entries.into_iter().map(|entry| entry.volume.unwrap().volume_id).collect();
    Ok((ids, answer.next_token))
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_every_size_add_up_to_the_list() {
    let driver = Driver::start().await;
    for n in 0..7 {
        driver.volume(&n.to_string()).await;
    }
    let (all, token) = page(&driver, 0, "").await.unwrap();
    assert_eq!((all.len(), token.as_str()), (7, ""));
    for size in 1..=8 {
        let (mut seen, mut token) = (Vec::new(), String::new());
        loop {
            let (ids, next) = page(&driver, size, &token).await.unwrap();
            assert!(ids.len() <= usize::try_from(size).unwrap());
            seen.extend(ids);
            assert_eq!(
                next.is_empty(),
                seen.len() == all.len(),
                "a token is there if and only if more remains"
            );
            token = next;
            if token.is_empty() {
                break;
            }
        }
        assert_eq!(seen, all, "pages of {size}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_survives_the_entry_it_points_at() {
    let driver = Driver::start().await;
    for n in 0..6 {
        driver.volume(&n.to_string()).await;
    }
    let (all, _) = page(&driver, 0, "").await.unwrap();
    let (first, token) = page(&driver, 3, "").await.unwrap();
    driver.delete(&first[2]).await.unwrap();
    driver.delete(&all[3]).await.unwrap();
    let (rest, end) = page(&driver, 3, &token).await.unwrap();
    assert_eq!((rest.as_slice(), end.as_str()), (&all[4..], ""));
    let seen: BTreeSet<_> = first.iter().chain(&rest).collect();
    assert_eq!(seen.len(), 5, "none twice, none skipped");
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_that_were_never_issued_abort() {
    let driver = Driver::start().await;
    for n in 0..3 {
        driver.volume(&n.to_string()).await;
    }
    let (ids, issued) = page(&driver, 1, "").await.unwrap();
    for token in ["-1", "0", "1", "99999999999", "invalid-token", "\0", "../..", &ids[0], &issued[1..]] {
        driver.refused(page(&driver, 1, token), Code::Aborted, &["starting_token"]).await;
        let request = ListSnapshotsRequest { starting_token: token.to_owned(), ..Default::default() };
        driver
            .refused(driver.controller.clone().list_snapshots(request), Code::Aborted, &["starting_token"])
            .await;
        let request =
            ControllerListVolumeHealthRequest { starting_token: token.to_owned(), ..Default::default() };
        let call = driver.controller.clone();
        let mut call = call;
        driver.refused(call.controller_list_volume_health(request), Code::Aborted, &["starting_token"]).await;
    }
    let request = ListSnapshotsRequest { starting_token: issued.clone(), ..Default::default() };
    driver
        .refused(driver.controller.clone().list_snapshots(request), Code::Aborted, &["starting_token"])
        .await;
    driver
        .refused(page(&driver, 1, &"x".repeat(129)), Code::InvalidArgument, &["starting_token", "129"])
        .await;
    for max in [-1, i32::MIN] {
        driver
            .refused(page(&driver, max, ""), Code::InvalidArgument, &["max_entries", &max.to_string()])
            .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_survives_a_restart() {
    // The token holds no memory of the process that issued it: another driver reads it as well.
    let driver = Driver::start().await;
    driver.volume("a").await;
    driver.volume("b").await;
    let (_, token) = page(&driver, 1, "").await.unwrap();
    let other = Driver::start().await;
    assert_eq!(page(&other, 1, &token).await.unwrap(), (vec![], String::new()));
}

#[tokio::test(flavor = "multi_thread")]
async fn healthy_volumes_are_healthy_and_not_listed() {
    let driver = Driver::start().await;
    let volume = driver.volume("v").await;
    let mut client = driver.controller.clone();
    let health = |volume_id: &str| ControllerGetVolumeHealthRequest {
        volume_id: volume_id.into(),
        ..Default::default()
    };
    let answer = client.controller_get_volume_health(health(&volume.volume_id)).await.unwrap().into_inner();
    let want = VolumeHealth { volume_id: volume.volume_id.clone(), health_statuses: vec![] };
    assert_eq!(answer.volume_health, Some(want.clone()));
    let list =
        client.controller_list_volume_health(ControllerListVolumeHealthRequest::default()).await.unwrap();
    assert!(list.into_inner().entries.is_empty());
    let request = NodeGetVolumeHealthRequest { volume_id: volume.volume_id, ..Default::default() };
    let answer = driver.node.clone().node_get_volume_health(request).await.unwrap().into_inner();
    assert_eq!(answer.volume_health, Some(want));
    let storage =
        driver.node.clone().node_get_storage_health(NodeGetStorageHealthRequest::default()).await.unwrap();
    assert!(storage.into_inner().backend_health.is_empty());

    driver
        .refused(client.controller_get_volume_health(health("")), Code::InvalidArgument, &["volume_id"])
        .await;
    driver
        .refused(client.controller_get_volume_health(health("x")), Code::NotFound, &["volume_id", "`x`"])
        .await;
    let request = NodeGetVolumeHealthRequest { volume_id: "x".into(), ..Default::default() };
    driver.refused(driver.node.clone().node_get_volume_health(request), Code::NotFound, &["volume_id"]).await;
}
