//! A node and its controllers as processes of their own: what is served where, and what happens when one of them goes.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use rcgen::{CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SanType};
use rustix::process::Signal;
use serde_json::Value;

use crate::harness::{Driver, LONG, PROGRAM, Place, eventually, until};
use crate::life::text;

/// A node and two controllers, all with certificates of one authority.
pub(crate) struct Cluster {
    pub(crate) node: Place,
    pub(crate) controllers: [Place; 2],
    pub(crate) ports: [String; 2],
    pub(crate) issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Cluster {
    pub(crate) fn new() -> Cluster {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "the test's");
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let cluster = Cluster {
            node: Place::new(),
            controllers: [Place::new(), Place::new()],
            ports: [port(), port()],
            issuer,
        };
        cluster.issue(
            &cluster.node,
            SanType::URI("rockpool://csi.rockpool.dev/node/node-1".try_into().unwrap()),
        );
        for place in &cluster.controllers {
            cluster.issue(place, SanType::DnsName("rockpool-controller".try_into().unwrap()));
        }
        cluster
    }

    /// Certificate and key of one end, where its command looks for them.
    pub(crate) fn issue(&self, place: &Place, name: SanType) {
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![name];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        for (file, pem) in
            [("ca.pem", self.issuer.pem()), ("own.pem", certificate.pem()), ("own.key", key.serialize_pem())]
        {
            std::fs::write(place.path(file), pem).unwrap();
        }
    }

    /// The first controller with an admin socket, whose address comes last, and a node that has told it of its pool.
    pub(crate) fn start_with_admin(&self) -> (Driver, Driver, String) {
        keep_pool(&self.node);
        let place = &self.controllers[0];
        let admin = place.admin_socket().display().to_string();
        let flags = [&keys(place)[..], &["--admin-endpoint".to_owned(), admin.clone()]].concat();
        let (controller, node) = (self.start_controller_with(0, &flags, &[]), self.start_node());
        eventually("the pool is there", || self.kept()["state"] == "here");
        (controller, node, admin)
    }

    /// What that controller says of the pool.
    pub(crate) fn kept(&self) -> Value {
        self.controllers[0].ask(&["pool", "list"])["pools"][0].clone()
    }

    pub(crate) fn start_node(&self) -> Driver {
        self.start_node_with(&self.node, &keys(&self.node))
    }

    /// A node of this place, with these flags of the link.
    pub(crate) fn start_node_with(&self, place: &Place, flags: &[String]) -> Driver {
        self.start_node_in(place, flags, &[])
    }

    /// The same in this environment.
    pub(crate) fn start_node_in(&self, place: &Place, flags: &[String], more: &[(&str, String)]) -> Driver {
        let mut command = place.command();
        // The same as standalone, but for the mode, which is the first word.
        let environment: Vec<_> =
            command.get_envs().filter_map(|(key, value)| Some((key.to_owned(), value?.to_owned()))).collect();
        command = Command::new(PROGRAM);
        command.arg("node").env_clear().envs(environment).env("ROCKPOOL_CONTROLLER", self.ports.join(","));
        command.envs(more.iter().map(|(key, value)| (key, value)));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).args(flags);
        place.start_with(&mut command)
    }

    pub(crate) fn start_controller(&self, which: usize) -> Driver {
        self.start_controller_with(which, &keys(&self.controllers[which]), &[])
    }

    /// A controller with these flags of the link and in this environment.
    pub(crate) fn start_controller_with(
        &self,
        which: usize,
        flags: &[String],
        environment: &[(&str, String)],
    ) -> Driver {
        let place = &self.controllers[which];
        let mut command = Command::new(PROGRAM);
        command.arg("controller").env_clear().args(["--listen", &self.ports[which]]).args(flags);
        command.envs(environment.iter().map(|(key, value)| (key, value)));
        command.arg("--endpoint").arg(place.socket()).args(["--pool-kinds", "sim"]);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut driver = place.start_with(&mut command);
        until(&mut driver, "it is ready", LONG, || self.is_ready(which));
        driver
    }

    pub(crate) fn is_ready(&self, which: usize) -> bool {
        self.controllers[which].ctl(&["plugin", "probe"]).status.success()
    }

    pub(crate) fn volumes(&self, which: usize) -> Vec<Value> {
        self.controllers[which].ask(&["volume", "list"])["volumes"].as_array().unwrap().clone()
    }
}

/// A pool that outlasts its node; in memory nothing would.
pub(crate) fn keep_pool(place: &Place) {
    let pool = place.path("pool");
    std::fs::create_dir(&pool).unwrap();
    let config = place.path("config.toml");
    std::fs::remove_file(&config).unwrap();
    let init = Command::new(PROGRAM)
        .args(["pool", "init", "kept", "--kind", "directory", "--quota", "none", "--directory"])
        .arg(&pool)
        .arg("--config")
        .arg(&config)
        .output()
        .unwrap();
    assert!(init.status.success(), "{}", String::from_utf8_lossy(&init.stderr));
}

/// An address on which nobody listens.
pub(crate) fn port() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

/// The flags of a certificate.
pub(crate) fn keys(place: &Place) -> [String; 6] {
    let path = |name: &str| place.path(name).display().to_string();
    let flag = |name: &str| format!("--link-{name}");
    [flag("ca"), path("ca.pem"), flag("certificate"), path("own.pem"), flag("key"), path("own.key")]
}

/// The exit codes of `ctl` for RESOURCE_EXHAUSTED, UNAVAILABLE and UNIMPLEMENTED.
const RESOURCE_EXHAUSTED: i32 = 18;
pub(crate) const UNAVAILABLE: i32 = 24;
const UNIMPLEMENTED: i32 = 22;

#[test]
fn a_volume_lives_through_either_controller_and_the_socket_of_the_node_serves_the_node_alone() {
    let cluster = Cluster::new();
    let (_one, _other) = (cluster.start_controller(0), cluster.start_controller(1));
    let _node = cluster.start_node();
    let (one, other) = (&cluster.controllers[0], &cluster.controllers[1]);
    for which in [0, 1] {
        eventually("both controllers know the node", || {
            cluster.controllers[which].ctl(&["volume", "list"]).status.success()
        });
    }
    let made = one.ask(&["volume", "create", "first", "--size", "64MiB"]);
    let id = text(&made, "volume_id");
    // The same request through the other is the same volume, however soon it comes.
    assert_eq!(text(&other.ask(&["volume", "create", "first", "--size", "64MiB"]), "volume_id"), id);
    assert_eq!(cluster.volumes(1).len(), 1);
    let refused = other.refused(&["volume", "create", "first", "--size", "128MiB"]);
    assert_eq!(refused.0, 16, "another size under a taken name: {}", refused.1);

    let cut = other.ask(&["snapshot", "create", "cut", "--volume", id]);
    let cut = text(&cut, "snapshot_id");
    let copy = one.ask(&["volume", "create", "copy", "--size", "64MiB", "--from-snapshot", cut]);
    other.ask(&["volume", "expand", id, "--size", "96MiB"]);
    assert_eq!(one.ask(&["volume", "get", id])["capacity_bytes"], 96 << 20);

    // Kubelet's socket: this node's own calls, and nothing of the controllers'.
    assert!(cluster.node.ctl(&["node", "info"]).status.success());
    for words in [&["volume", "list"][..], &["volume", "delete", id]] {
        let (code, said) = cluster.node.refused(words);
        assert_eq!(code, UNIMPLEMENTED, "{words:?}: {said}");
    }
    assert_eq!(cluster.controllers[0].refused(&["node", "info"]).0, UNIMPLEMENTED);

    one.ask(&["snapshot", "delete", cut]);
    for id in [id, text(&copy, "volume_id")] {
        other.ask(&["volume", "delete", id]);
    }
    assert_eq!(cluster.volumes(0).len(), 0);
}

#[test]
fn a_node_that_is_gone_is_unavailable_and_its_volumes_are_there_when_it_is_back() {
    let cluster = Cluster::new();
    keep_pool(&cluster.node);
    let mut controller = cluster.start_controller(0);
    let place = &cluster.controllers[0];
    let mut node = cluster.start_node();
    eventually("the controller knows the node", || place.ctl(&["volume", "list"]).status.success());
    let made = place.ask(&["volume", "create", "first", "--size", "64MiB"]);
    let id = text(&made, "volume_id").to_owned();

    node.signal(Signal::KILL);
    node.ends();
    eventually("the controller misses the node", || place.refused(&["volume", "get", &id]).0 == UNAVAILABLE);
    for words in [
        &["volume", "get", &id][..],
        &["volume", "list"],
        &["volume", "delete", &id],
        &["volume", "create", "first", "--size", "64MiB"],
        &["volume", "create", "another", "--size", "64MiB"],
    ] {
        let (code, said) = place.refused(&[words, &["--timeout", "5"]].concat());
        assert_eq!(code, UNAVAILABLE, "{words:?}: {said}");
        assert!(said.contains("node-1"), "who is away? {said}");
    }
    let _node = cluster.start_node();
    eventually("the node is back", || place.ctl(&["volume", "list"]).status.success());
    assert_eq!(text(&place.ask(&["volume", "create", "first", "--size", "64MiB"]), "volume_id"), id);

    // A controller that was started again knows nothing, and hears it all.
    controller.signal(Signal::TERM);
    assert!(controller.ends().success());
    let _controller = cluster.start_controller(0);
    eventually("the node has told it", || place.ctl(&["volume", "list"]).status.success());
    assert_eq!(cluster.volumes(0).len(), 1);
    place.ask(&["volume", "delete", &id]);
}

#[test]
fn a_node_whose_only_pool_is_absent_serves_without_one_and_says_why() {
    let cluster = Cluster::new();
    let file = std::fs::read_to_string(cluster.node.path("config.toml")).unwrap();
    let absent = "[[override]]\nnode = \"node-1\"\npool = \"toy\"\nabsent = true\n";
    cluster.node.configure(&format!("{file}{absent}"));
    let _controller = cluster.start_controller(0);
    let node = cluster.start_node();
    let said = node.log();
    let line = said.lines().find(|line| line.contains("this node has no pool")).unwrap();
    assert!(line.contains("node-1") && line.contains("[[override]] 1 makes pool `toy` absent"), "{line}");
    let place = &cluster.controllers[0];
    eventually("the node has told that it has none", || place.ctl(&["volume", "list"]).status.success());
    assert_eq!(cluster.volumes(0).len(), 0);
    let (code, said) = place.refused(&["volume", "create", "first", "--size", "64MiB"]);
    assert_eq!(code, RESOURCE_EXHAUSTED, "{said}");
    // What kubelet asks is answered as anywhere.
    assert_eq!(cluster.node.ask(&["node", "info"])["node_id"], "node-1");
    assert!(cluster.node.ctl(&["plugin", "probe"]).status.success());
}

#[test]
fn a_node_with_anothers_certificate_is_refused_and_both_logs_say_why() {
    let cluster = Cluster::new();
    let foreign = SanType::URI("rockpool://csi.rockpool.dev/node/node-2".try_into().unwrap());
    cluster.issue(&cluster.node, foreign);
    let controller = cluster.start_controller(0);
    let node = cluster.start_node();
    eventually("the controller says why", || {
        controller.log().contains("other-node") && controller.log().contains("its certificate says node-2")
    });
    eventually("so does the node", || node.log().contains("its certificate says node-2"));
    assert_eq!(cluster.controllers[0].refused(&["volume", "create", "x", "--size", "1MiB"]).0, UNAVAILABLE);
    // A right one is taken up without a restart.
    cluster.issue(&cluster.node, SanType::URI("rockpool://csi.rockpool.dev/node/node-1".try_into().unwrap()));
    let place = &cluster.controllers[0];
    eventually("it is let in", || place.ctl(&["volume", "list"]).status.success());
}

#[test]
fn wrong_flags_are_named_with_what_would_be_right() {
    let cluster = Cluster::new();
    let place = &cluster.controllers[0];
    let controller = |words: &[&str]| {
        let mut command = Command::new(PROGRAM);
        command
            .arg("controller")
            .env_clear()
            .args(keys(place))
            .arg("--endpoint")
            .arg(place.socket())
            .args(words);
        place.refusal(&mut command)
    };
    for (words, want) in [
        (&["--listen", "nowhere"][..], "--listen"),
        (&["--listen", "127.0.0.1:99999"], "ADDRESS:PORT"),
        (&["--driver-name", "a b"], "driver name"),
        (&["--pool-kinds", "tape"], "want `image`, `directory` or `sim`"),
    ] {
        let said = controller(words);
        assert!(said.contains(want), "{words:?}: {said}");
    }
    let node = |words: &[&str]| {
        let mut command = Command::new(PROGRAM);
        let ca = cluster.node.path("ca.pem");
        command
            .arg("node")
            .env_clear()
            .args(["--controller", "127.0.0.1:1", "--link-ca"])
            .arg(ca)
            .args(words);
        cluster.node.refusal(&mut command)
    };
    for (words, want) in [
        (&[][..], "nothing proves who this node is"),
        (&["--link-certificate", "x"], "without --link-key"),
        (&["--link-key", "x"], "without --link-certificate"),
        (&["--link-token", "x", "--link-key", "x"], "--link-token is given beside a certificate or key"),
    ] {
        let said = node(words);
        let both = "want either --link-token, in Kubernetes, or --link-certificate and --link-key";
        assert!(said.contains(want) && said.contains(both), "{words:?}: {said}");
    }
    for (words, want) in [
        (&["--kubernetes"][..], "--node-service-account is missing"),
        (&["--kubernetes", "--node-service-account", "rockpool-node"], "--kubernetes-namespace is missing"),
        (
            &["--node-service-account", "rockpool-node"],
            "--node-service-account means nothing without --kubernetes",
        ),
        (&["--state-configmap", "x"], "--state-configmap means nothing without --kubernetes"),
        (&["--kubernetes", "--nodes", "x"], "--nodes means nothing beside --kubernetes"),
        (&["--kubernetes", "--lost-pools", "x"], "--lost-pools means nothing beside --kubernetes"),
        (&["--nodes", "/there/is/none"], "--nodes `/there/is/none`"),
        (&["--lost-pools", "/there/is/none"], "--lost-pools `/there/is/none`"),
    ] {
        let said = controller(words);
        assert!(said.contains(want), "{words:?}: {said}");
    }
    let missing: PathBuf = place.path("own.key");
    std::fs::remove_file(&missing).unwrap();
    let said = controller(&["--listen", "127.0.0.1:0"]);
    assert!(said.contains("own.key"), "{said}");
    assert!(cluster.node.path("run").read_dir().is_err(), "nothing was bound");
}

#[test]
fn a_request_has_one_name_in_the_logs_of_all_who_worked_on_it() {
    let cluster = Cluster::new();
    let (node, controller) = (cluster.start_node(), cluster.start_controller(0));
    let place = &cluster.controllers[0];
    eventually("the controller knows the node", || place.ctl(&["volume", "list"]).status.success());
    place.ask(&["volume", "create", "traced", "--size", "64MiB"]);
    let requests = |log: &str, method: &str| -> Vec<String> {
        let of = log.lines().filter(|line| line.contains(&format!("method=\"{method}\"")));
        of.filter_map(|line| Some(line.split_once("request=\"")?.1.split_once('"')?.0.to_owned())).collect()
    };
    let created = requests(&controller.log(), "CreateVolume");
    assert_eq!(created.len(), 1, "{}", controller.log());
    assert_eq!(requests(&node.log(), "CreateVolume"), created, "{}", node.log());
    // A list is asked of each pool by a task of its own.
    let (listed, answered) =
        (requests(&controller.log(), "ListVolumes"), requests(&node.log(), "ListVolumes"));
    assert!(listed.contains(answered.last().expect("the node was asked")), "{listed:?} {answered:?}");
    assert!(!listed.contains(&created[0]), "they are two requests");
}
