//! CreateSnapshot, DeleteSnapshot, ListSnapshots, GetSnapshot.

use rockpool::proto::csi::*;
use tonic::{Code, Status};

use crate::harness::*;

fn cut(name: &str, source: &str) -> CreateSnapshotRequest {
    CreateSnapshotRequest { name: name.into(), source_volume_id: source.into(), ..Default::default() }
}

async fn list(driver: &Driver, snapshot: &str, source: &str) -> Result<Vec<String>, Status> {
    let request = ListSnapshotsRequest {
        snapshot_id: snapshot.into(),
        source_volume_id: source.into(),
        ..Default::default()
    };
    let answer = driver.controller.clone().list_snapshots(request).await?.into_inner();
    Ok(answer.entries.into_iter().map(|entry| entry.snapshot.unwrap().snapshot_id).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_snapshots_are_refused_by_field_and_value() {
    let driver = Driver::start().await;
    let volume = driver.volume("v").await.volume_id;
    let good = cut("s", &volume);
    for (bad, code, words) in [
        (CreateSnapshotRequest { name: String::new(), ..good.clone() }, Code::InvalidArgument, &["name"][..]),
        (
            CreateSnapshotRequest { name: "s\u{1}".into(), ..good.clone() },
            Code::InvalidArgument,
            &["name", "U+0001"],
        ),
        (
            CreateSnapshotRequest { name: "s".repeat(129), ..good.clone() },
            Code::InvalidArgument,
            &["name", "129"],
        ),
        (cut("s", ""), Code::InvalidArgument, &["source_volume_id"]),
        (cut("s", &"v".repeat(129)), Code::InvalidArgument, &["source_volume_id", "129"]),
        (cut("s", "../../x"), Code::NotFound, &["source_volume_id", "`../../x`"]),
        (cut("s", STRANGER), Code::Unavailable, &["0123456789ab"]),
        (
            CreateSnapshotRequest { parameters: map(&[("pool", "x")]), ..good.clone() },
            Code::InvalidArgument,
            &["parameters", "`pool`"],
        ),
        (
            CreateSnapshotRequest { secrets: map(&[("k", &"s".repeat(4096))]), ..good.clone() },
            Code::InvalidArgument,
            &["secrets"],
        ),
        (
            CreateSnapshotRequest { accessibility_requirements: near(&[], &[]), ..good.clone() },
            Code::InvalidArgument,
            &["accessibility_requirements"],
        ),
        (
            CreateSnapshotRequest { accessibility_requirements: near(&["node-2"], &[]), ..good.clone() },
            Code::ResourceExhausted,
            &["node-2"],
        ),
    ] {
        driver.refused(driver.controller.clone().create_snapshot(bad), code, words).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_stays_the_same_and_outlives_its_volume() {
    let driver = Driver::start().await;
    let volume = driver.volume("v").await;
    let other = driver.volume("w").await;
    let made = driver.snapshot("cut-one", &volume.volume_id).await.unwrap();
    assert!(made.ready_to_use && made.creation_time.is_some());
    assert_eq!((made.size_bytes, &made.source_volume_id), (GIB, &volume.volume_id));
    assert_eq!(made.accessible_topology, [place(NODE)]);
    let again = driver.snapshot("cut-one", &other.volume_id);
    driver.refused(again, Code::AlreadyExists, &["cut-one", &volume.volume_id]).await;
    driver.delete(&volume.volume_id).await.unwrap();
    assert_eq!(driver.snapshot("cut-one", &volume.volume_id).await.unwrap(), made);
    let restore =
        CreateVolumeRequest { volume_content_source: from_snapshot(&made.snapshot_id), ..create("restored") };
    let restored = driver.create(restore.clone()).await.unwrap();
    assert_eq!(restored.content_source, restore.volume_content_source);
    assert_eq!(driver.snapshots().await, [made]);
}

/// Sizes are rounded up: whoever asks with the same words twice must not be told that the second time it is too little.
#[tokio::test(flavor = "multi_thread")]
async fn a_restore_and_a_clone_with_the_size_that_the_source_was_asked_for_are_as_large_as_it() {
    let driver = Driver::start().await;
    let required = |required_bytes| Some(CapacityRange { required_bytes, limit_bytes: 0 });
    // 1G, which is no multiple of 4096; less than an ext4 needs; and a volume that has grown to what is no multiple either.
    for (name, asked, grown) in
        [("odd", 1_000_000_000, None), ("small", 1, None), ("grown", MIB, Some(GIB + 1))]
    {
        let make = |name: &str, asked, from| {
            driver.create(CreateVolumeRequest {
                capacity_range: required(asked),
                volume_content_source: from,
                ..create(name)
            })
        };
        let mut source = make(name, asked, None).await.unwrap();
        if let Some(grown) = grown {
            let request = ControllerExpandVolumeRequest {
                volume_id: source.volume_id.clone(),
                capacity_range: required(grown),
                ..Default::default()
            };
            source.capacity_bytes = driver
                .controller
                .clone()
                .controller_expand_volume(request)
                .await
                .unwrap()
                .into_inner()
                .capacity_bytes;
        }
        let asked = grown.unwrap_or(asked);
        assert!(source.capacity_bytes > asked, "{name}: it was rounded up");
        let cut = driver.snapshot(&format!("{name}-cut"), &source.volume_id).await.unwrap();
        assert_eq!(cut.size_bytes, asked, "{name}");
        for (kind, from) in
            [("restore", from_snapshot(&cut.snapshot_id)), ("clone", from_volume(&source.volume_id))]
        {
            let copy = make(&format!("{name}-{kind}"), asked, from).await.unwrap();
            assert_eq!(copy.capacity_bytes, source.capacity_bytes, "{name} {kind}");
        }
        if name != "small" {
            let less = make("less", asked - 4096, from_snapshot(&cut.snapshot_id));
            driver.refused(less, Code::OutOfRange, &["required_bytes", "of the source"]).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn snapshots_are_deleted_twice_and_never_by_a_foreign_id() {
    let driver = Driver::start().await;
    let volume = driver.volume("v").await;
    let made = driver.snapshot("s", &volume.volume_id).await.unwrap();
    let delete = |id: &str| {
        let request = DeleteSnapshotRequest { snapshot_id: id.to_owned(), ..Default::default() };
        let mut client = driver.controller.clone();
        async move { client.delete_snapshot(request).await }
    };
    driver.refused(delete(""), Code::InvalidArgument, &["snapshot_id"]).await;
    driver.refused(delete(&"s".repeat(129)), Code::InvalidArgument, &["snapshot_id", "129"]).await;
    driver.refused(delete(&STRANGER.replace("v1", "s1")), Code::Unavailable, &["0123456789ab"]).await;
    for id in HOSTILE_IDS.into_iter().chain([volume.volume_id.as_str()]) {
        delete(id).await.unwrap();
    }
    assert_eq!(driver.snapshots().await.len(), 1);
    delete(&made.snapshot_id).await.unwrap();
    delete(&made.snapshot_id).await.unwrap();
    assert!(driver.snapshots().await.is_empty());
    assert_eq!(driver.volumes().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn snapshot_filters_combine_and_what_is_unknown_is_empty() {
    let driver = Driver::start().await;
    let (v, w) = (driver.volume("v").await.volume_id, driver.volume("w").await.volume_id);
    let a = driver.snapshot("a", &v).await.unwrap().snapshot_id;
    let b = driver.snapshot("b", &v).await.unwrap().snapshot_id;
    let c = driver.snapshot("c", &w).await.unwrap().snapshot_id;
    let mut of_v = vec![a.clone(), b];
    of_v.sort();
    assert_eq!(list(&driver, "", &v).await.unwrap(), of_v);
    assert_eq!(list(&driver, &a, "").await.unwrap(), std::slice::from_ref(&a));
    assert_eq!(list(&driver, &a, &v).await.unwrap(), std::slice::from_ref(&a));
    assert!(list(&driver, &a, &w).await.unwrap().is_empty());
    assert_eq!(list(&driver, &c, &w).await.unwrap(), [c]);
    assert_eq!(list(&driver, "", "").await.unwrap().len(), 3);
    for id in HOSTILE_IDS {
        assert!(list(&driver, id, "").await.unwrap().is_empty());
        assert!(list(&driver, "", id).await.unwrap().is_empty());
        assert!(list(&driver, &a, id).await.unwrap().is_empty());
    }
    let request = ListSnapshotsRequest { max_entries: -1, ..Default::default() };
    driver
        .refused(
            driver.controller.clone().list_snapshots(request),
            Code::InvalidArgument,
            &["max_entries", "-1"],
        )
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_snapshots_add_up() {
    let driver = Driver::start().await;
    let v = driver.volume("v").await.volume_id;
    for n in 0..5 {
        driver.snapshot(&n.to_string(), &v).await.unwrap();
    }
    let all = driver.snapshots().await;
    for max_entries in 1..=6 {
        let (mut seen, mut starting_token) = (Vec::new(), String::new());
        loop {
            let request = ListSnapshotsRequest {
                max_entries,
                starting_token,
                source_volume_id: v.clone(),
                ..Default::default()
            };
            let answer = driver.controller.clone().list_snapshots(request).await.unwrap().into_inner();
            seen.extend(answer.entries.into_iter().map(|entry| entry.snapshot.unwrap()));
            starting_token = answer.next_token;
            if starting_token.is_empty() {
                break;
            }
        }
        assert_eq!(seen, all);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_can_be_looked_up() {
    let driver = Driver::start().await;
    let volume = driver.volume("v").await;
    let made = driver.snapshot("s", &volume.volume_id).await.unwrap();
    let look_up = |id: &str| {
        let request = GetSnapshotRequest { snapshot_id: id.to_owned(), ..Default::default() };
        let mut client = driver.controller.clone();
        async move { client.get_snapshot(request).await.map(|answer| answer.into_inner().snapshot.unwrap()) }
    };
    assert_eq!(look_up(&made.snapshot_id).await.unwrap(), made);
    driver.refused(look_up(""), Code::InvalidArgument, &["snapshot_id"]).await;
    for id in HOSTILE_IDS.into_iter().chain([volume.volume_id.as_str()]) {
        driver.refused(look_up(id), Code::NotFound, &["snapshot_id"]).await;
    }
}
