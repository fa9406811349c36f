//! The link over TCP: dialling again, several addresses, new certificates.

use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

use super::authority::{Authority, CONTROLLER, Leaf};
use super::{Desk, Dialer, LONG, Unmet, Welcomed, client, id, linked, name, soon, within};
use crate::cluster::link::hello::{Fault, receive, send};
use crate::cluster::link::{Keys, Link, NodeFiles, Proof};
use crate::proto::csi;
use crate::proto::link::{Hello, Welcome};

async fn listener(address: &str) -> (TcpListener, String) {
    let listener = TcpListener::bind(address).await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (listener, address)
}

/// A node that dials these addresses until it is told to stop.
struct Node {
    stop: watch::Sender<bool>,
    running: JoinHandle<()>,
}

impl Node {
    fn start(authority: &Authority, name: &str, controllers: &[&str]) -> Node {
        let wanted = authority.wanted(name, authority.issue(name, &Leaf::node(name)));
        let controllers = controllers.iter().map(|&address| address.to_owned()).collect();
        Node::dial(name, Dialer::new(crate::cluster::link::node::Wanted { controllers, ..wanted }).unwrap())
    }

    fn dial(name: &str, dialer: Dialer) -> Node {
        let (stop, stopped) = watch::channel(false);
        let (linked, told) = (linked(name), stopped.clone());
        let serve = move |welcomed: Welcomed<TcpStream>| {
            let (linked, mut told) = (linked.clone(), told.clone());
            async move {
                let stop = async move { drop(told.wait_for(|stop| *stop).await) };
                linked.serve(welcomed.stream, welcomed.gone.wait(), stop).await;
            }
        };
        let mut stopped = stopped;
        let running = tokio::spawn(async move {
            let stop = async move { drop(stopped.wait_for(|stop| *stop).await) };
            Arc::new(dialer).run(serve, stop).await;
        });
        Node { stop, running }
    }

    async fn stop(self) {
        self.stop.send_replace(true);
        within("the node stops", self.running).await.unwrap();
    }
}

/// The link of a node, when it is there and answers.
async fn link(desk: &Desk, node: &str) -> Link {
    let link = soon("the node is connected", || desk.links().of(&id(node))).await;
    assert_eq!(name(&link).await.unwrap(), format!("i am {node}"));
    link
}

#[tokio::test]
async fn a_node_comes_back_to_a_controller_that_was_started_again() {
    let authority = Authority::new();
    let (desk, (tcp, address)) = (authority.desk(), listener("127.0.0.1:0").await);
    let listening = tokio::spawn(Arc::clone(&desk).listen(tcp));
    let node = Node::start(&authority, "n1", &[&address]);
    link(&desk, "n1").await;
    // It dies: nobody listens, and its connections break.
    listening.abort();
    drop(listening.await);
    drop(desk);
    let desk = authority.desk();
    let (tcp, _) = within("the port is free again", async {
        loop {
            if let Ok(tcp) = TcpListener::bind(&address).await {
                return (tcp, ());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let _listening = tokio::spawn(Arc::clone(&desk).listen(tcp));
    link(&desk, "n1").await;
    node.stop().await;
    soon("the node is gone", || desk.links().all().is_empty().then_some(())).await;
}

#[tokio::test]
async fn a_node_comes_back_to_the_same_controller() {
    let authority = Authority::new();
    let (desk, (tcp, address)) = (authority.desk(), listener("127.0.0.1:0").await);
    tokio::spawn(Arc::clone(&desk).listen(tcp));
    let node = Node::start(&authority, "n1", &[&address]);
    let first = link(&desk, "n1").await;
    let (before, instance) = (first.attempt, first.instance);
    drop(first);
    desk.part();
    let again = link(&desk, "n1").await;
    assert!(again.attempt > before && again.instance == instance);
    drop(again);
    node.stop().await;
}

#[tokio::test]
async fn a_refused_node_hears_why_and_not_just_a_reset() {
    let authority = Authority::new();
    let (desk, (tcp, address)) = (authority.desk(), listener("127.0.0.1:0").await);
    tokio::spawn(Arc::clone(&desk).listen(tcp));
    for (leaf, shown) in [
        (Leaf::node("n1").valid(2020, 2021), "CertificateExpired"),
        (Leaf::node("n2"), "other-node: `it says that it is node n1, its certificate says n2`"),
    ] {
        let dialer = Dialer::new(authority.wanted("n1", authority.issue("n1", &leaf))).unwrap();
        for _ in 0..20 {
            let stream = TcpStream::connect(&address).await.unwrap();
            match within("an answer", dialer.greet(stream, None)).await {
                Err(Unmet::Refused(why)) => assert!(why.contains(shown), "{why}"),
                Err(unmet) => panic!("{unmet:?}"),
                Ok(_) => panic!("it was let in"),
            }
        }
    }
}

#[tokio::test]
async fn what_a_refused_node_still_sends_does_not_destroy_the_refusal() {
    let authority = Authority::new();
    let (desk, (tcp, address)) = (authority.desk(), listener("127.0.0.1:0").await);
    tokio::spawn(Arc::clone(&desk).listen(tcp));
    let own = authority.issue("n1", &Leaf::node("n1").valid(2020, 2021));
    let keys =
        Keys::of_node(NodeFiles { authorities: authority.roots(), own: Proof::Certificate(own) }).unwrap();
    let hello = Hello { token: "x".repeat(60_000), ..Hello::default() };
    for _ in 0..20 {
        let stream = TcpStream::connect(&address).await.unwrap();
        let name = ServerName::try_from(CONTROLLER).unwrap();
        let mut stream = TlsConnector::from(keys.now()).connect(name, stream).await.unwrap();
        // The controller may have ended it already.
        let _ = send(&mut stream, &hello).await;
        let Err(Fault::Broken(error)) = receive::<Welcome>(&mut stream).await else { panic!("a welcome") };
        assert!(error.to_string().contains("CertificateExpired"), "{error}");
    }
}

#[tokio::test]
async fn every_controller_gets_a_link_and_one_with_two_addresses_only_one() {
    let authority = Authority::new();
    let (both, other) = (authority.desk(), authority.desk());
    let mut addresses = Vec::new();
    for (desk, place) in [(&both, "127.0.0.1:0"), (&both, "127.0.0.2:0"), (&other, "127.0.0.1:0")] {
        let (tcp, address) = listener(place).await;
        tokio::spawn(Arc::clone(desk).listen(tcp));
        addresses.push(address);
    }
    let addresses: Vec<_> = addresses.iter().map(String::as_str).collect();
    let node = Node::start(&authority, "n1", &addresses);
    link(&other, "n1").await;
    link(&both, "n1").await;
    // Two that met at the same time have sorted themselves out by now.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let before = link(&both, "n1").await.attempt;
    tokio::time::sleep(Duration::from_millis(1000)).await;
    assert_eq!(link(&both, "n1").await.attempt, before, "the two addresses push each other out");
    node.stop().await;
}

#[tokio::test]
async fn a_node_that_stops_waits_for_its_calls_and_dials_no_more() {
    let authority = Authority::new();
    let (desk, (tcp, address)) = (authority.desk(), listener("127.0.0.1:0").await);
    tokio::spawn(Arc::clone(&desk).listen(tcp));
    let node = Node::start(&authority, "n1", &[&address]);
    let mut running = client(&link(&desk, "n1").await);
    let running = tokio::spawn(async move { running.probe(csi::ProbeRequest {}).await });
    tokio::time::sleep(LONG / 5).await;
    node.stop().await;
    assert_eq!(running.await.unwrap().unwrap().into_inner().ready, Some(true));
    soon("the node is gone", || desk.links().all().is_empty().then_some(())).await;
}

#[tokio::test]
async fn new_certificates_are_taken_up_and_half_written_ones_are_not() {
    let (old, new) = (Authority::new(), Authority::new());
    let controller = old.issue("controller", &Leaf::controller(CONTROLLER));
    let desk =
        old.desk_with(controller, &old.put("nodes.pem", &std::fs::read_to_string(old.roots()).unwrap()));
    let pair = old.issue("n1", &Leaf::node("n1"));
    let met = async |dialer: &Dialer| within("they meet", super::meet(&desk, dialer)).await.is_ok();
    let dialer = Dialer::new(old.wanted("n1", pair.clone())).unwrap();
    assert!(met(&dialer).await);
    // A certificate without its key: what worked goes on working.
    let whole = std::fs::read_to_string(&pair.key).unwrap();
    old.put("n1.key", &rcgen::KeyPair::generate().unwrap().serialize_pem());
    dialer.forget_look();
    assert!(met(&dialer).await);
    old.put("n1.key", &whole);
    // A new authority: first both are trusted, then the node changes, then the old one goes.
    let both = [old.roots(), new.roots()].map(|roots| std::fs::read_to_string(roots).unwrap());
    let issued = new.issue("n1", &Leaf::node("n1"));
    for (from, to) in [(&issued.certificate, "n1.pem"), (&issued.key, "n1.key")] {
        old.put(to, &std::fs::read_to_string(from).unwrap());
    }
    dialer.forget_look();
    assert!(!met(&dialer).await, "the controller does not trust the new authority yet");
    old.put("nodes.pem", &both.concat());
    desk.forget_look();
    assert!(met(&dialer).await);
    old.put("nodes.pem", &both[1]);
    desk.forget_look();
    assert!(met(&dialer).await, "the new authority alone will do for nodes");
    old.put("ca.pem", &both[1]);
    dialer.forget_look();
    assert!(!met(&dialer).await, "the controller's own certificate is the old authority's");
}
