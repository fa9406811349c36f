//! A cluster in which tokens prove the nodes, with an API server beside it that says whose they are.

use std::fs::write;

use crate::harness::{Driver, Place, eventually};
use crate::kubernetes::{Api, Mood, good, token};
use crate::life::text;
use crate::linked::{Cluster, UNAVAILABLE, keys};

/// A cluster whose controllers ask an API server.
pub(crate) struct Tokened {
    pub(crate) cluster: Cluster,
    pub(crate) api: Api,
}

impl Tokened {
    pub(crate) fn new() -> Tokened {
        let tokened = Tokened { cluster: Cluster::new(), api: Api::start() };
        for place in &tokened.cluster.controllers {
            write(place.path("kubeconfig"), tokened.api.kubeconfig()).unwrap();
        }
        tokened
    }

    /// A controller without a word about certificates of nodes.
    pub(crate) fn start_controller(&self, which: usize, more: &[&str]) -> Driver {
        let place = &self.cluster.controllers[which];
        let [_, _, own @ ..] = keys(place);
        let words = ["--kubernetes", "--node-service-account", "rockpool-node", "--log-level", "trace"];
        let flags: Vec<String> =
            own.into_iter().chain(words.iter().chain(more).map(|word| (*word).to_owned())).collect();
        let config = place.path("kubeconfig").display().to_string();
        let environment = [("KUBECONFIG", config), ("POD_NAMESPACE", "rockpool".to_owned())];
        self.cluster.start_controller_with(which, &flags, &environment)
    }

    /// The node of this place, with this token.
    pub(crate) fn start_node(&self, place: &Place, token: &str) -> Driver {
        write(place.path("token"), token).unwrap();
        let path = |name: &str| place.path(name).display().to_string();
        let words = ["--link-ca".to_owned(), path("ca.pem"), "--link-token".to_owned(), path("token")];
        let level = ["--log-level".to_owned(), "trace".to_owned()];
        self.cluster.start_node_with(place, &[&words[..], &level].concat())
    }

    /// A token of a node that the API server knows.
    pub(crate) fn issue(&self, node: &str) -> String {
        let token = token(node, 3600);
        self.api.world().tokens.insert(token.clone(), good(node));
        token
    }
}

#[test]
fn a_token_proves_a_node_and_no_log_holds_it() {
    let tokened = Tokened::new();
    let sent = tokened.issue("node-1");
    let controllers = [tokened.start_controller(0, &[]), tokened.start_controller(1, &[])];
    let node = tokened.start_node(&tokened.cluster.node, &sent);
    for place in &tokened.cluster.controllers {
        eventually("both controllers know the node", || place.ctl(&["volume", "list"]).status.success());
    }
    let [one, other] = &tokened.cluster.controllers;
    let made = one.ask(&["volume", "create", "first", "--size", "64MiB"]);
    // A new token is sent without a restart, and while the API server is away the node stays.
    let renewed = token("node-1, renewed", 3600);
    tokened.api.world().tokens.insert(renewed.clone(), good("node-1"));
    write(tokened.cluster.node.path("token"), &renewed).unwrap();
    eventually("the new one is sent", || controllers[0].log().matches("a node is connected").count() == 2);
    tokened.api.be(Mood::Away);
    other.ask(&["volume", "delete", text(&made, "volume_id")]);
    for log in [controllers[0].log(), controllers[1].log(), node.log()] {
        for sent in [&sent, &renewed] {
            let (head, tail) = sent.rsplit_once('.').unwrap();
            assert!(
                !log.contains(head) && !log.contains(sent),
                "a token of {} bytes is in: {log}",
                tail.len()
            );
        }
        assert!(!log.contains("the-callers-own"), "the controller's own: {log}");
    }
}

#[test]
fn a_token_of_another_node_is_refused_and_both_logs_say_why() {
    let tokened = Tokened::new();
    let stolen = tokened.issue("node-2");
    let controller = tokened.start_controller(0, &[]);
    let node = tokened.start_node(&tokened.cluster.node, &stolen);
    let place = &tokened.cluster.controllers[0];
    eventually("the controller says why", || {
        let log = controller.log();
        log.contains("reason=\"other-node\"") && log.contains("its token says node-2")
    });
    eventually("so does the node", || node.log().contains("its token says node-2"));
    assert_eq!(place.refused(&["volume", "create", "x", "--size", "1MiB"]).0, UNAVAILABLE);
    // Its own is taken up without a restart.
    write(tokened.cluster.node.path("token"), tokened.issue("node-1")).unwrap();
    eventually("it is let in", || place.ctl(&["volume", "list"]).status.success());
}
