//! `ctl why` against an API server: what it reads, what it says, and with which exit code.

use std::process::Command;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::{PROGRAM, Place, eventually};
use crate::kubernetes::{Api, Mood};
use crate::linked::Cluster;

const STORAGE: &str = "/apis/storage.k8s.io/v1";

/// A cluster with two nodes, a class that waits for pods, and the claim `demo/data` of 100Gi with its pod.
struct Scene {
    place: Place,
    api: Api,
}

impl Scene {
    fn new() -> Scene {
        let scene = Scene { place: Place::new(), api: Api::start() };
        std::fs::write(scene.place.path("kubeconfig"), scene.api.kubeconfig()).unwrap();
        std::fs::create_dir(scene.place.path("home")).unwrap();
        ["n1", "n2"].iter().for_each(|node| scene.api.add_node(node));
        scene.put("/api/v1/namespaces/demo", json!({ "metadata": { "name": "demo" } }));
        let driver =
            json!({ "metadata": { "name": "csi.rockpool.dev" }, "spec": { "storageCapacity": true } });
        scene.put(&format!("{STORAGE}/csidrivers/csi.rockpool.dev"), driver);
        let class = json!({ "metadata": { "name": "rockpool" }, "provisioner": "csi.rockpool.dev", "volumeBindingMode": "WaitForFirstConsumer" });
        scene.put(&format!("{STORAGE}/storageclasses/rockpool"), class);
        for (node, size) in [("n1", "40Gi"), ("n2", "20Gi")] {
            let topology = json!({ "matchLabels": { "topology.csi.rockpool.dev/node": node } });
            let room = json!({ "metadata": { "name": node }, "storageClassName": "rockpool", "nodeTopology": topology, "capacity": size });
            scene.put(&format!("{STORAGE}/namespaces/rockpool-system/csistoragecapacities/{node}"), room);
        }
        scene.put("/api/v1/namespaces/demo/persistentvolumeclaims/data", claim("100Gi"));
        scene
    }

    fn put(&self, path: &str, object: Value) {
        self.api.world().put(path, object);
    }

    fn put_pod(&self) {
        let words = "0/2 nodes are available: 2 node(s) did not have enough free storage.";
        let pod = json!({
            "metadata": { "name": "web-0" },
            "spec": { "volumes": [{ "name": "data", "persistentVolumeClaim": { "claimName": "data" } }] },
            "status": { "phase": "Pending", "conditions": [{ "type": "PodScheduled", "status": "False", "message": words }] },
        });
        self.put("/api/v1/namespaces/demo/pods/web-0", pod);
    }

    fn command(&self) -> Command {
        let mut command = Command::new(PROGRAM);
        command.arg("ctl").env_clear().env("HOME", self.place.path("home"));
        command
    }

    /// The exit code, and what was said on each stream.
    fn why(&self, words: &[&str]) -> (i32, String, String) {
        let mut command = self.command();
        command.args(["why", "--kubeconfig"]).arg(self.place.path("kubeconfig")).args(words);
        said(&mut command)
    }
}

fn said(command: &mut Command) -> (i32, String, String) {
    let output = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

fn claim(size: &str) -> Value {
    json!({
        "metadata": { "namespace": "demo", "name": "data", "uid": "uid-data", "creationTimestamp": "2026-11-22T00:00:00Z" },
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": "rockpool",
            "resources": { "requests": { "storage": size } },
        },
        "status": { "phase": "Pending" },
    })
}

#[test]
fn a_claim_that_fits_nowhere_is_explained_in_one_paragraph() {
    let scene = Scene::new();
    scene.put_pod();
    let told = "Claim demo/data asks for 100 GiB of class `rockpool`, and the most that any node has is 40 GiB, on node n1 (n2: 20 GiB). \
                Ask for less, delete claims and snapshots that nobody needs, or give a pool or a node more; it is tried again by itself.\n";
    for words in [&["-n", "demo", "data"][..], &["demo/data"], &["-n", "demo", "demo/data"]] {
        let (code, out, err) = scene.why(words);
        assert_eq!((code, &out[..], &err[..]), (1, told, ""), "{words:?}");
    }
    let (code, out, _) = scene.why(&["demo/data", "-o", "json"]);
    let answer: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (code, &answer["state"], &answer["causes"][0]["code"]),
        (1, &json!("wrong"), &json!("no-room"))
    );
    assert_eq!(answer["text"].as_str().unwrap(), told.trim_end());
    assert_eq!((&answer["namespace"], &answer["claim"]), (&json!("demo"), &json!("data")));
    let asked = scene.api.world().asked.clone();
    assert!(asked.iter().all(|asked| asked.starts_with("GET ")), "{asked:?}");
}

#[test]
fn what_is_in_order_or_waits_as_it_must_exits_with_0() {
    let scene = Scene::new();
    let (code, out, _) = scene.why(&["demo/data"]);
    assert!(code == 0 && out.contains("waits for a pod that uses it, as it must"), "{code}: {out}");
    let mut bound = claim("10Gi");
    bound["spec"]["volumeName"] = json!("pvc-1");
    bound["status"] = json!({ "phase": "Bound", "capacity": { "storage": "10Gi" } });
    scene.put("/api/v1/namespaces/demo/persistentvolumeclaims/data", bound);
    let volume =
        json!({ "metadata": { "name": "pvc-1" }, "spec": { "csi": { "driver": "csi.rockpool.dev" } } });
    scene.put("/api/v1/persistentvolumes/pvc-1", volume);
    let (code, out, _) = scene.why(&["demo/data"]);
    assert!(
        code == 0 && out.contains("Bound to volume pvc-1 (10 GiB), and no pod uses it now"),
        "{code}: {out}"
    );
}

#[test]
fn long_lists_are_read_to_their_end() {
    let scene = Scene::new();
    scene.put_pod();
    let event = |name: &str, about: Value, reason: &str, message: &str| {
        let event = json!({ "metadata": { "name": name }, "involvedObject": about, "reason": reason, "message": message });
        scene.put(&format!("/api/v1/namespaces/demo/events/{name}"), event);
    };
    for number in 0..600 {
        event(&format!("a-{number:03}"), json!({ "kind": "Pod", "name": "other" }), "Pulled", "x");
    }
    let about = json!({ "kind": "PersistentVolumeClaim", "name": "data", "uid": "uid-data" });
    let message = "rpc error: code = InvalidArgument desc = parameters has the unknown key `size`";
    event("z", about, "ProvisioningFailed", message);
    let (code, out, _) = scene.why(&["demo/data"]);
    assert!(
        code == 1 && out.contains("with InvalidArgument: “parameters has the unknown key `size`”"),
        "{out}"
    );
}

#[test]
fn what_may_not_be_read_is_left_out_and_said() {
    let scene = Scene::new();
    scene.put_pod();
    let all = ["/pods", "/nodes", "/csinodes", "/csidrivers/csi.rockpool.dev", "/leases", "/resourcequotas"];
    scene.api.world().forbidden = all.to_vec();
    let waits = json!({
        "involvedObject": { "kind": "PersistentVolumeClaim", "name": "data" },
        "reason": "WaitForPodScheduled", "message": "waiting for pod web-0 to be scheduled",
    });
    scene.put("/api/v1/namespaces/demo/events/a", waits);
    let (code, out, err) = scene.why(&["demo/data"]);
    assert!(
        code == 1 && out.contains("the most that any node has is 40 GiB, on node n1 (n2: 20 GiB)"),
        "{out}"
    );
    for what in [
        "the namespace's pods",
        "Nodes",
        "CSINodes",
        "the CSIDriver",
        "the provisioner's Lease",
        "the controllers' pods",
    ] {
        let line = format!("rockpool ctl: not looked at: {what}: the Kubernetes API refuses it with 403");
        assert!(err.contains(&line), "{what}: {err}");
    }
    assert_eq!(err.lines().count(), 6, "{err}");
    // Everything but the claim.
    scene.api.world().forbidden.extend(["/events", "/csistoragecapacities", "/storageclasses"]);
    let (code, out, err) = scene.why(&["demo/data"]);
    assert!(code == 1 && out.contains("Events may not be read.") && err.lines().count() == 9, "{out}{err}");
    // Nor that.
    scene.api.world().forbidden.push("/data");
    let (code, out, err) = scene.why(&["demo/data"]);
    assert!(
        code == 1
            && out.is_empty()
            && err.contains("failed to look at the claim: the Kubernetes API refuses it with 403"),
        "{err}"
    );
}

#[test]
fn the_drivers_own_objects_are_looked_for_where_they_may_be_read() {
    let scene = Scene::new();
    scene.put_pod();
    scene.api.world().forbidden = vec!["/apis/storage.k8s.io/v1/csistoragecapacities"];
    let told = "the most that any node has is 40 GiB, on node n1";
    let (_, out, err) = scene.why(&["demo/data"]);
    assert!(!out.contains(told) && err.contains("not looked at: CSIStorageCapacities"), "{out}{err}");
    let (_, out, err) = scene.why(&["demo/data", "--driver-namespace", "rockpool-system"]);
    assert!(out.contains(told) && err.is_empty(), "{out}{err}");
    // As in a controller's pod, which may read those of its own namespace alone.
    let why = |command: &mut Command, own: &str| {
        let config = scene.place.path("kubeconfig");
        said(command.env("POD_NAMESPACE", own).args(["why", "demo/data", "--kubeconfig"]).arg(config))
    };
    let (_, out, err) = why(&mut scene.command(), "rockpool-system");
    assert!(out.contains(told) && err.is_empty(), "{out}{err}");
    // Any other pod has such a variable, too: what it names comes last.
    scene.api.world().forbidden.clear();
    let (_, out, err) = why(&mut scene.command(), "tools");
    assert!(out.contains(told) && err.is_empty(), "{out}{err}");
}

#[test]
fn what_is_not_there_is_told_with_what_may_be_meant() {
    let scene = Scene::new();
    let (code, out, _) = scene.why(&["demo/dat"]);
    assert!(code == 1 && out.contains("There is no claim demo/dat. Is data meant?"), "{out}");
    let (code, out, _) = scene.why(&["-n", "nowhere", "data"]);
    assert!(
        code == 1 && out.contains("There is no claim nowhere/data: the namespace `nowhere` does not exist."),
        "{out}"
    );
    // Without -n it is the context's namespace, and that is `default`.
    scene.put("/api/v1/namespaces/default", json!({ "metadata": { "name": "default" } }));
    let (code, out, _) = scene.why(&["data"]);
    assert!(
        code == 1
            && out
                .contains("There is no claim default/data. There is demo/data: name its namespace with -n."),
        "{out}"
    );
}

#[test]
fn wrong_words_and_a_server_that_does_not_answer_are_failures() {
    let scene = Scene::new();
    for (words, why) in [
        (&["demo/data/x"][..], "PVC `demo/data/x`: want the name of a claim, or NAMESPACE/CLAIM"),
        (&["-n", "other", "demo/data"], "PVC `demo/data` names another namespace than -n `other`"),
        (&["-n", "demo", ".."], "PVC `..`: want a name of a Kubernetes object"),
        (&["-n", "demo?x", "data"], "the namespace `demo?x`: want a name of a Kubernetes object"),
        (&["/data"], "the namespace ``: want a name"),
        (&["demo/"], "PVC ``: want a name"),
        (&["demo/data", "--driver-name", "a/b"], "--driver-name `a/b`: want a name"),
        (&["demo/data", "--driver-namespace", "a/b"], "--driver-namespace `a/b`: want a name"),
        (&[], "PVC"),
    ] {
        let (code, out, err) = scene.why(words);
        assert!(code == 2 && out.is_empty() && err.contains(why), "{words:?}: {code}: {err}");
    }
    assert!(scene.api.world().asked.is_empty(), "nothing was asked");
    for (mood, why) in
        [(Mood::Away, "cannot be asked"), (Mood::Ill, "500"), (Mood::Other, "none that was asked for")]
    {
        scene.api.be(mood);
        let (code, out, err) = scene.why(&["demo/data"]);
        let is_told = err.contains("failed to look at the claim: the Kubernetes API cannot be asked")
            && err.contains(why);
        assert!(code == 1 && out.is_empty() && is_told, "{mood:?}: {err}");
    }
}

#[test]
fn credentials_are_those_of_a_file_or_of_the_pod() {
    let scene = Scene::new();
    let why = |command: &mut Command| said(command.args(["why", "demo/data"]));
    let (code, _, err) = why(&mut scene.command());
    assert!(
        code == 1 && err.contains("the Kubernetes credentials of the kubeconfig cannot be used"),
        "{err}"
    );
    let (code, _, err) = why(scene.command().env("KUBECONFIG", scene.place.path("nowhere")));
    assert!(
        code == 1 && err.contains("the Kubernetes credentials of the kubeconfig cannot be used"),
        "{err}"
    );
    let (code, out, err) = why(scene.command().env("KUBECONFIG", scene.place.path("kubeconfig")));
    assert!(code == 0 && out.contains("demo/data"), "{out}{err}");
    // In a pod, which has none that could be read here.
    let pod = [("KUBERNETES_SERVICE_HOST", "127.0.0.1"), ("KUBERNETES_SERVICE_PORT", "1")];
    let (code, _, err) = why(scene.command().envs(pod));
    assert!(code == 1 && err.contains("the Kubernetes credentials of this pod cannot be used"), "{err}");
}

#[test]
fn ages_are_told_by_the_servers_clock_and_not_by_ones_own() {
    let scene = Scene::new();
    let mut waiting = claim("10Gi");
    waiting["metadata"]["annotations"] = json!({ "volume.kubernetes.io/selected-node": "n1" });
    scene.put("/api/v1/namespaces/demo/persistentvolumeclaims/data", waiting);
    let lease = json!({
        "metadata": { "name": "csi-rockpool-dev" },
        "spec": { "holderIdentity": "rockpool-controller-0", "renewTime": "2001-01-01T00:00:00.000000Z" },
    });
    scene.put("/apis/coordination.k8s.io/v1/namespaces/rockpool-system/leases/csi-rockpool-dev", lease);
    scene.api.world().date = "Mon, 01 Jan 2001 00:30:00 GMT";
    let (code, out, _) = scene.why(&["demo/data"]);
    assert!(code == 1 && out.contains("has not renewed its Lease for 30 minutes"), "{out}");
    scene.api.world().date = "Mon, 01 Jan 2001 00:00:05 GMT";
    let (_, out, _) = scene.why(&["demo/data"]);
    assert!(!out.contains("Lease"), "{out}");
}

#[test]
fn a_controller_says_which_pool_is_away() {
    let cluster = Cluster::new();
    let (_controller, mut node, admin) = cluster.start_with_admin();
    let scene = Scene::new();
    scene.put_pod();
    let (code, out, err) = scene.why(&["demo/data", "--admin-endpoint", &admin]);
    assert!(
        code == 1 && out.contains("40 GiB, on node n1 (n2: 20 GiB). Ask for less") && err.is_empty(),
        "{out}{err}"
    );
    node.signal(Signal::TERM);
    node.ends();
    eventually("it is away", || cluster.kept()["state"] == "away");
    let (code, out, _) = scene.why(&["demo/data", "--admin-endpoint", &admin]);
    let told = "Pool `kept` of node node-1 is away. Node node-1 has not been connected to the controller";
    assert!(code == 1 && out.contains(told), "{out}");
    // One that does not answer is only left out.
    let (code, out, err) = scene.why(&["demo/data", "--admin-endpoint", "/nowhere/admin.sock"]);
    assert!(code == 1 && out.contains("40 GiB, on node n1"), "{out}");
    assert!(err.contains("not looked at: what a controller knows of nodes and pools: UNAVAILABLE"), "{err}");
}
