//! CreateVolume.

use rockpool::proto::csi::volume_capability::AccessMode;
use rockpool::proto::csi::*;
use tonic::Code;

use crate::harness::*;

/// Something wrong with a CreateVolume.
type Spoil = fn(&mut CreateVolumeRequest);

#[tokio::test(flavor = "multi_thread")]
async fn bad_creates_are_refused_by_field_and_value() {
    let driver = Driver::start().await;
    let cases: &[(Spoil, Code, &[&str])] = &[
        (|r| r.name.clear(), Code::InvalidArgument, &["name is missing"]),
        (|r| r.name = "n".repeat(129), Code::InvalidArgument, &["name `nnn", "129 bytes", "128"]),
        (|r| r.name = format!("{}x", "ü".repeat(64)), Code::InvalidArgument, &["name", "129 bytes"]),
        (|r| r.name = "a\0b".into(), Code::InvalidArgument, &["name", "U+0000"]),
        (|r| r.name = "a\u{85}".into(), Code::InvalidArgument, &["name", "U+0085"]),
        (|r| r.volume_capabilities.clear(), Code::InvalidArgument, &["volume_capabilities is missing"]),
        (|r| r.volume_capabilities[0].access_type = None, Code::InvalidArgument, &["[0].access_type"]),
        (|r| r.volume_capabilities[0].access_mode = None, Code::InvalidArgument, &["[0].access_mode.mode"]),
        (
            |r| r.volume_capabilities[0].access_mode = Some(AccessMode { mode: 0 }),
            Code::InvalidArgument,
            &["access_mode.mode"],
        ),
        (
            |r| r.volume_capabilities[0].access_mode = Some(AccessMode { mode: 5 }),
            Code::InvalidArgument,
            &["MULTI_NODE_MULTI_WRITER", "want SINGLE_NODE_WRITER"],
        ),
        (
            |r| r.volume_capabilities[0].access_mode = Some(AccessMode { mode: 99 }),
            Code::InvalidArgument,
            &["access_mode.mode `99`"],
        ),
        (|r| r.volume_capabilities.push(mount("")), Code::InvalidArgument, &["[1] repeats", "[0]"]),
        (|r| r.volume_capabilities.push(block()), Code::InvalidArgument, &["block", "mount"]),
        (
            |r| r.volume_capabilities = vec![mount("ext4"), mount("xfs")],
            Code::InvalidArgument,
            &["ext4", "xfs", "volume_capabilities"],
        ),
        (
            |r| r.volume_capabilities = vec![mount("nosuchfs")],
            Code::InvalidArgument,
            &["fs_type `nosuchfs`", "`ext4`"],
        ),
        (
            |r| r.volume_capabilities = vec![with_flags(&["ro,s3cret"])],
            Code::InvalidArgument,
            &["mount_flags[0]"],
        ),
        (
            |r| r.volume_capabilities = vec![with_flags(&["ro", "s3cret"])],
            Code::InvalidArgument,
            &["volume_capabilities[0].mount.mount_flags[1]", "noatime"],
        ),
        (
            |r| r.volume_capabilities = vec![with_flags(&["suid"])],
            Code::InvalidArgument,
            &["volume_capabilities[0].mount.mount_flags[0] `suid`"],
        ),
        (
            |r| r.volume_capabilities = vec![with_group("1000")],
            Code::InvalidArgument,
            &["volume_capabilities[0].mount.volume_mount_group `1000`", "VOLUME_MOUNT_GROUP is not offered"],
        ),
        (
            |r| {
                r.volume_capabilities = vec![with_flags(&["logbsize=64k"])];
                r.parameters = map(&[("csi.storage.k8s.io/fstype", "ext4")]);
            },
            Code::InvalidArgument,
            &["mount_flags[0] `logbsize`", "xfs"],
        ),
        (
            |r| r.parameters = map(&[("tier", "gold")]),
            Code::InvalidArgument,
            &["parameters", "`tier`", "`pool`"],
        ),
        (
            |r| r.parameters = map(&[("pool", "nowhere")]),
            Code::InvalidArgument,
            &["pool", "`nowhere`", "`fast`"],
        ),
        (
            |r| r.parameters = map(&[("allocation", "thick")]),
            Code::InvalidArgument,
            &["`thick`", "`reserved`"],
        ),
        (
            |r| r.parameters = map(&[("placement", "tight")]),
            Code::InvalidArgument,
            &["parameters[placement] `tight`", "`spread`", "`pack`"],
        ),
        (
            |r| {
                r.volume_capabilities = vec![mount("ext4")];
                r.parameters = map(&[("csi.storage.k8s.io/fstype", "xfs")]);
            },
            Code::InvalidArgument,
            &["fstype", "`xfs`", "`ext4`"],
        ),
        (
            |r| r.parameters = map(&[("pool", &"x".repeat(4096))]),
            Code::InvalidArgument,
            &["parameters", "4100", "4096"],
        ),
        (|r| r.secrets = map(&[("key", &"s3cret".repeat(700))]), Code::InvalidArgument, &["secrets", "4096"]),
        (|r| r.mutable_parameters = map(&[("iops", "7")]), Code::InvalidArgument, &["mutable_parameters"]),
        (
            |r| r.volume_content_source = Some(VolumeContentSource::default()),
            Code::InvalidArgument,
            &["source.type"],
        ),
        (|r| r.volume_content_source = from_volume(""), Code::InvalidArgument, &["volume.volume_id"]),
        (|r| r.volume_content_source = from_snapshot(""), Code::InvalidArgument, &["snapshot.snapshot_id"]),
        (|r| r.volume_content_source = from_volume(&"v".repeat(129)), Code::InvalidArgument, &["129 bytes"]),
        (|r| r.volume_content_source = from_volume("../x"), Code::NotFound, &["volume.volume_id", "`../x`"]),
        (
            |r| r.volume_content_source = from_snapshot("nope"),
            Code::NotFound,
            &["snapshot.snapshot_id", "`nope`"],
        ),
        (|r| r.volume_content_source = from_volume(STRANGER), Code::Unavailable, &["0123456789ab"]),
        (
            |r| r.accessibility_requirements = near(&[], &[]),
            Code::InvalidArgument,
            &["accessibility_requirements"],
        ),
        (
            |r| r.accessibility_requirements = near(&["node-2"], &[]),
            Code::ResourceExhausted,
            &["node-2", NODE],
        ),
        (
            |r| r.accessibility_requirements = near(&[NODE], &["node-2"]),
            Code::InvalidArgument,
            &["preferred[0]"],
        ),
        (
            |r| {
                let requisite = vec![Topology { segments: map(&[("zone", "z")]) }];
                r.accessibility_requirements = Some(TopologyRequirement { requisite, preferred: vec![] });
            },
            Code::InvalidArgument,
            &["requisite[0]", "`zone`"],
        ),
    ];
    for (spoil, code, words) in cases {
        let mut request = create("spoiled");
        spoil(&mut request);
        let message = driver.refused(driver.create(request), *code, words).await;
        assert!(!message.contains("s3cret"), "{message}");
    }
    driver.volume("spoiled").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn impossible_sizes_are_out_of_range() {
    let driver = Driver::start().await;
    for (required_bytes, limit_bytes, code) in [
        (0, 0, Code::InvalidArgument),
        (-1, 0, Code::OutOfRange),
        (0, -1, Code::OutOfRange),
        (i64::MIN, i64::MIN, Code::OutOfRange),
        (2 * GIB, GIB, Code::OutOfRange),
        (0, 1, Code::OutOfRange),
        (GIB + 1, GIB + 1, Code::OutOfRange),
        (POOL + 4096, 0, Code::OutOfRange),
        (i64::MAX, 0, Code::OutOfRange),
        (i64::MAX, i64::MAX, Code::OutOfRange),
    ] {
        let range = CapacityRange { required_bytes, limit_bytes };
        let request = CreateVolumeRequest { capacity_range: Some(range), ..create("huge") };
        driver.refused(driver.create(request), code, &["capacity_range"]).await;
    }
    let exact = CapacityRange { required_bytes: GIB, limit_bytes: GIB };
    let volume =
        driver.create(CreateVolumeRequest { capacity_range: Some(exact), ..create("exact") }).await.unwrap();
    assert_eq!(volume.capacity_bytes, GIB);
    let odd = CapacityRange { required_bytes: GIB + 1, limit_bytes: 2 * GIB };
    let volume =
        driver.create(CreateVolumeRequest { capacity_range: Some(odd), ..create("odd") }).await.unwrap();
    assert!(volume.capacity_bytes > GIB && volume.capacity_bytes <= 2 * GIB);
    let limit = CapacityRange { required_bytes: 0, limit_bytes: 100 * MIB };
    let volume =
        driver.create(CreateVolumeRequest { capacity_range: Some(limit), ..create("limit") }).await.unwrap();
    assert!(volume.capacity_bytes <= 100 * MIB);
    let volume =
        driver.create(CreateVolumeRequest { capacity_range: None, ..create("default") }).await.unwrap();
    assert!(volume.capacity_bytes > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_gets_the_same_volume_and_another_request_a_conflict() {
    let driver = Driver::start().await;
    let mut request = create("one");
    request.parameters = map(&[("pool", "fast"), ("csi.storage.k8s.io/pvc/name", "claim")]);
    request.accessibility_requirements = near(&[NODE, "node-2"], &[NODE]);
    let made = driver.create(request.clone()).await.unwrap();
    assert_eq!(made.volume_context, map(&[("pool", "fast")]));
    assert_eq!(made.accessible_topology, [place(NODE)]);
    assert_eq!(driver.create(request.clone()).await.unwrap(), made);
    let source = driver.volume("source").await;

    let mut larger = request.clone();
    larger.capacity_range = Some(CapacityRange { required_bytes: MIB, limit_bytes: 2 * GIB });
    assert_eq!(driver.create(larger).await.unwrap(), made);
    let mut metadata = request.clone();
    metadata.parameters.insert("csi.storage.k8s.io/pvc/name".into(), "other".into());
    assert_eq!(driver.create(metadata).await.unwrap(), made);

    for placement in ["spread", "pack"] {
        let mut placed = request.clone();
        placed.parameters.insert("placement".into(), placement.into());
        assert_eq!(driver.create(placed).await.unwrap(), made, "{placement}");
    }

    let range = Some(CapacityRange { required_bytes: 2 * GIB, limit_bytes: 0 });
    let cloned = from_volume(&source.volume_id);
    let elsewhere = near(&["node-2"], &[]);
    let mut key = request.parameters.clone();
    key.insert("csi.storage.k8s.io/a\nb".into(), "c".into());
    for (word, other) in [
        ("[csi.storage.k8s.io/a\\nb]", CreateVolumeRequest { parameters: key, ..request.clone() }),
        ("parameters", CreateVolumeRequest { parameters: map(&[("pool", "small")]), ..request.clone() }),
        ("block", CreateVolumeRequest { volume_capabilities: vec![block()], ..request.clone() }),
        ("xfs", CreateVolumeRequest { volume_capabilities: vec![mount("xfs")], ..request.clone() }),
        ("capacity_range", CreateVolumeRequest { capacity_range: range, ..request.clone() }),
        ("source", CreateVolumeRequest { volume_content_source: cloned, ..request.clone() }),
        ("node-2", CreateVolumeRequest { accessibility_requirements: elsewhere, ..request.clone() }),
    ] {
        driver.refused(driver.create(other), Code::AlreadyExists, &["one", word]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clone_echoes_its_source_and_must_fit_it() {
    let driver = Driver::start().await;
    let source = driver.volume("source").await;
    let mut request = create("clone");
    request.volume_content_source = from_volume(&source.volume_id);
    for range in [(MIB, 0), (0, MIB), (MIB, GIB)] {
        let (required_bytes, limit_bytes) = range;
        request.capacity_range = Some(CapacityRange { required_bytes, limit_bytes });
        driver.refused(driver.create(request.clone()), Code::OutOfRange, &["capacity_range"]).await;
    }
    request.capacity_range = None;
    request.volume_capabilities = vec![block()];
    driver.refused(driver.create(request.clone()), Code::InvalidArgument, &["block"]).await;
    request.volume_capabilities = vec![mount("")];
    request.parameters = map(&[("pool", "small")]);
    driver.refused(driver.create(request.clone()), Code::InvalidArgument, &["`small`", "`fast`"]).await;
    request.parameters.clear();
    let clone = driver.create(request.clone()).await.unwrap();
    assert_eq!(clone.content_source, request.volume_content_source);
    assert_eq!(clone.capacity_bytes, source.capacity_bytes);
    driver.delete(&source.volume_id).await.unwrap();
    assert_eq!(driver.create(request).await.unwrap(), clone, "a retry does not need the source any more");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_pool_sends_the_scheduler_elsewhere() {
    let driver = Driver::start().await;
    let sized = |name: &str| CreateVolumeRequest {
        parameters: map(&[("pool", "small")]),
        capacity_range: Some(CapacityRange { required_bytes: POOL / 100, limit_bytes: 0 }),
        ..create(name)
    };
    let first = driver.create(sized("first")).await.unwrap();
    driver.refused(driver.create(sized("second")), Code::ResourceExhausted, &["no room"]).await;
    let grow = ControllerExpandVolumeRequest {
        volume_id: first.volume_id.clone(),
        capacity_range: Some(CapacityRange { required_bytes: POOL / 100 + 4096, limit_bytes: 0 }),
        ..Default::default()
    };
    driver
        .refused(
            driver.controller.clone().controller_expand_volume(grow),
            Code::OutOfRange,
            &["capacity_range"],
        )
        .await;
    driver.delete(&first.volume_id).await.unwrap();
    let second = driver.create(sized("first")).await.unwrap();
    assert_ne!(first.volume_id, second.volume_id);
}

#[tokio::test(flavor = "multi_thread")]
async fn names_may_be_strange_and_lead_nowhere() {
    let driver = Driver::start().await;
    let names = ["../../x", "/", "..", "tab\t", "line\nfeed\r", "🦀", &"ü".repeat(64), "con text"];
    for name in names {
        let volume = driver.volume(name).await;
        assert!(volume.volume_id.starts_with("v1."));
    }
    assert_eq!(driver.volumes().await.len(), names.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn many_identical_creates_make_one_volume() {
    let driver = std::sync::Arc::new(Driver::start().await);
    let calls: Vec<_> = (0..32)
        .map(|n| {
            let driver = std::sync::Arc::clone(&driver);
            let mut request = create("same");
            // Half of them are not byte-identical and meet the claim instead of joining.
            request.parameters =
                if n % 2 == 0 { map(&[]) } else { map(&[("csi.storage.k8s.io/pvc/name", &n.to_string())]) };
            tokio::spawn(async move { driver.create(request).await })
        })
        .collect();
    let mut ids = std::collections::BTreeSet::new();
    for call in calls {
        match call.await.unwrap() {
            Ok(volume) => drop(ids.insert(volume.volume_id)),
            Err(status) => assert_eq!(status.code(), Code::Aborted, "{}", status.message()),
        }
    }
    assert_eq!(ids.len(), 1);
    assert_eq!(driver.volumes().await.len(), 1);
}
