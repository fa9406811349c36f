//! What a controller compares and tells in Kubernetes, as a process: its figures, its end, and what it takes of memory.

use std::net::TcpListener;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::{Driver, LONG, eventually, until};
use crate::http::page;
use crate::tokens::Tokened;

const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/rockpool/leases/rockpool-csi-rockpool-dev";
/// So many PersistentVolumes may take so many KiB more.
const MANY: usize = 10_000;
const MOST: u64 = 64 << 10;

/// A controller that serves metrics, and where.
fn start(tokened: &Tokened, more: &[&str]) -> (Driver, String) {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let flags = [&["--http-listen", address.as_str(), "--audit-interval", "1"], more].concat();
    (tokened.start_controller(0, &flags), address)
}

/// A figure of `/metrics`; none where that is not there.
fn figure(address: &str, name: &str) -> Option<u64> {
    let (_, text) = page(address, "/metrics");
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
}

/// In KiB: resident, now and at most.
fn memory(driver: &Driver) -> (u64, u64) {
    let status = std::fs::read_to_string(format!("/proc/{}/status", driver.child.id())).unwrap();
    let of = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    };
    (of("VmRSS:"), of("VmHWM:"))
}

/// What an API server adds to an object for those who apply it in parts, at its usual length.
fn managed(length: usize) -> Value {
    let mut fields = serde_json::Map::new();
    while Value::Object(fields.clone()).to_string().len() < length {
        fields.insert(format!("f:a-field-of-some-length-{}", fields.len()), json!({ ".": {}, "f:sub": {} }));
    }
    json!([{ "manager": "csi-provisioner", "operation": "Update", "apiVersion": "v1", "fieldsType": "FieldsV1", "fieldsV1": fields }])
}

/// A bound volume and its claim, at 3 KiB each.
fn bound(number: usize, managed: &Value) -> [(String, Value); 2] {
    let name = format!("pvc-00000000-1111-2222-3333-{number:012}");
    let (node, claim) = (format!("node-{}", number % 100), format!("data-{number}"));
    let metadata = |name: &str| {
        json!({
            "name": name, "uid": format!("uid-of-{name}"), "resourceVersion": "1", "managedFields": managed,
            "annotations": { "pv.kubernetes.io/provisioned-by": "csi.rockpool.dev" },
            "finalizers": ["kubernetes.io/pv-protection"],
        })
    };
    let volume = json!({
        "metadata": metadata(&name),
        "spec": {
            "accessModes": ["ReadWriteOnce"], "capacity": { "storage": "1Gi" }, "storageClassName": "rockpool",
            "csi": { "driver": "csi.rockpool.dev", "fsType": "ext4", "volumeHandle": format!("v1.aaaaaaaaaaaa.{number:016x}"),
                "volumeAttributes": { "pool": "fast", "storage.kubernetes.io/csiProvisionerIdentity": "1-2-csi.rockpool.dev" } },
            "claimRef": { "kind": "PersistentVolumeClaim", "namespace": "some-namespace", "name": claim, "uid": format!("uid-of-{claim}") },
            "nodeAffinity": { "required": { "nodeSelectorTerms": [{ "matchExpressions": [
                { "key": "topology.csi.rockpool.dev/node", "operator": "In", "values": [node] }] }] } },
        },
        "status": { "phase": "Bound" },
    });
    let mut of_claim = json!({ "metadata": metadata(&claim), "spec": { "volumeName": name }, "status": { "phase": "Bound" } });
    of_claim["metadata"]["namespace"] = json!("some-namespace");
    [
        (format!("/api/v1/persistentvolumes/{name}"), volume),
        (format!("/api/v1/namespaces/some-namespace/persistentvolumeclaims/{claim}"), of_claim),
    ]
}

/// What a controller takes once it has listed and compared everything, twice.
fn settled(tokened: &Tokened) -> (u64, u64) {
    let (mut driver, address) = start(tokened, &[]);
    let is_compared = || figure(&address, "rockpool_persistentvolumes_without_volume").is_some();
    until(&mut driver, "everything is listed and compared", 4 * LONG, is_compared);
    // A second list, as after a watch that has expired.
    tokened.api.world().forget();
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!(figure(&address, "rockpool_leader"), Some(1));
    memory(&driver)
}

#[test]
fn ten_thousand_persistentvolumes_take_at_most_64_mib_more() {
    let tokened = Tokened::new();
    tokened.api.add_node("node-1");
    let (without, _) = settled(&tokened);
    let managed = managed(2048);
    {
        let mut world = tokened.api.world();
        for number in 0..MANY {
            world.objects.extend(bound(number, &managed));
        }
        let sizes: usize = world.objects.values().map(|object| object.to_string().len()).sum();
        assert!(sizes / world.objects.len() > 2500, "as large as real ones");
    }
    let (with, most) = settled(&tokened);
    println!(
        "resident without: {without} KiB, with {MANY} PersistentVolumes and claims: {with} KiB, at most {most} KiB"
    );
    assert!(most < without + MOST, "{without} KiB without, {with} KiB with, {most} KiB at most");
}

#[test]
fn a_controller_that_ends_gives_its_lease_back() {
    let tokened = Tokened::new();
    tokened.api.add_node("node-1");
    let (mut driver, address) = start(&tokened, &["--kubernetes-pod", "pod-0"]);
    eventually("it leads", || figure(&address, "rockpool_leader") == Some(1));
    assert_eq!(tokened.api.world().objects[LEASE]["spec"]["holderIdentity"], "pod-0");
    let (_, text) = page(&address, "/metrics");
    for row in [
        "rockpool_nodes_gone 0\n",
        "rockpool_nodes_without_driver 0\n",
        "rockpool_watch_failures_total{resource=\"persistentvolumes\"} 0\n",
        "rockpool_events_total{reason=\"NodeGone\"} 0\n",
        "rockpool_events_dropped_total 0\n",
    ] {
        assert!(text.contains(row), "{row}{text}");
    }
    // Kubelet says that the driver is there, and nobody has come.
    eventually("it is missed", || figure(&address, "rockpool_nodes{state=\"away\"}") == Some(1));
    driver.signal(Signal::TERM);
    assert!(driver.ends().success());
    assert_eq!(tokened.api.world().objects[LEASE]["spec"]["holderIdentity"], "");
}

#[test]
fn without_kubernetes_nothing_is_compared_and_no_metric_says_so() {
    let cluster = crate::linked::Cluster::new();
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let environment = [("ROCKPOOL_HTTP_LISTEN", address.clone())];
    let _driver =
        cluster.start_controller_with(0, &crate::linked::keys(&cluster.controllers[0]), &environment);
    let (status, text) = page(&address, "/metrics");
    assert!(status == 200 && !text.contains("rockpool_leader") && !text.contains("rockpool_watch"), "{text}");
}
