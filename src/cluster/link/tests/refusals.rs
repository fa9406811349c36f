//! Who is not let in, and what is said about it.

use std::sync::Arc;

use rcgen::ExtendedKeyUsagePurpose;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::AsyncWriteExt;
use tokio_rustls::TlsConnector;

use super::authority::{Authority, CONTROLLER, DRIVER, Leaf, QUICK};
use super::{Desk, Dialer, Unmet, connected, id, meet, within};
use crate::cluster::link::controller::REASONS;
use crate::cluster::link::hello::{receive, send};
use crate::cluster::link::{PROTOCOL, provider};
use crate::proto::link::refusal::Reason;
use crate::proto::link::{Hello, Welcome};

/// How often anybody was refused, by reason.
pub(super) fn refused(desk: &Desk) -> Vec<(&'static str, u64)> {
    let counts = REASONS.iter().map(|reason| (*reason, desk.refused(reason)));
    counts.filter(|(_, count)| *count > 0).collect()
}

#[tokio::test]
async fn a_wrong_certificate_of_a_node_is_refused_by_its_reason() {
    let (authority, foreign, like_ours) = (Authority::new(), Authority::named("another"), Authority::new());
    let two = Leaf { names: [Leaf::node("n1").names, Leaf::node("n2").names].concat(), ..Leaf::node("n1") };
    let server = Leaf { purpose: ExtendedKeyUsagePurpose::ServerAuth, ..Leaf::node("n1") };
    let wildcard = Leaf::with_uri(&format!("rockpool://{DRIVER}/node/*"));
    for (what, issuer, leaf, reason) in [
        ("expired", &authority, Leaf::node("n1").valid(2020, 2021), "certificate-expired"),
        ("not valid yet", &authority, Leaf::node("n1").valid(2998, 2999), "certificate"),
        ("another authority's", &foreign, Leaf::node("n1"), "certificate-unknown-issuer"),
        ("another authority's of our name", &like_ours, Leaf::node("n1"), "certificate"),
        ("for servers only", &authority, server, "certificate"),
        ("another node's", &authority, Leaf::node("n2"), "other-node"),
        ("another node's, longer", &authority, Leaf::node("n11"), "other-node"),
        ("two nodes'", &authority, two, "unproven"),
        ("of another driver", &authority, Leaf::with_uri("rockpool://csi.other/node/n1"), "unproven"),
        ("of another scheme", &authority, Leaf::with_uri(&format!("https://{DRIVER}/node/n1")), "unproven"),
        ("of every node", &authority, wildcard, "unproven"),
        ("without a URI", &authority, Leaf { names: vec![], ..Leaf::node("n1") }, "unproven"),
    ] {
        let desk = authority.desk();
        let dialer = Dialer::new(authority.wanted("n1", issuer.issue("wrong", &leaf))).unwrap();
        let unmet = within(what, meet(&desk, &dialer)).await.err();
        assert_eq!(refused(&desk), [(reason, 1)], "{what}: {unmet:?}");
        assert!(matches!(unmet, Some(Unmet::Refused(_))), "{what}: {unmet:?}");
        assert!(desk.links().all().is_empty(), "{what}");
    }
}

#[tokio::test]
async fn a_wrong_controller_learns_nothing_of_the_node() {
    let (authority, foreign) = (Authority::new(), Authority::named("another"));
    for (what, issuer, leaf) in [
        ("another authority's", &foreign, Leaf::controller(CONTROLLER)),
        ("another name", &authority, Leaf::controller("other.test")),
        ("expired", &authority, Leaf::controller(CONTROLLER).valid(2020, 2021)),
        ("a node's", &authority, Leaf::node("n2")),
    ] {
        let desk = authority.desk_with(issuer.issue("wrong", &leaf), &authority.roots());
        let unmet = within(what, meet(&desk, &authority.node("n1"))).await.err();
        assert!(matches!(unmet, Some(Unmet::Failed(_))), "{what}: {unmet:?}");
        assert!(desk.links().all().is_empty(), "{what}");
    }
}

/// Says `hello` by hand with the certificate of n1, or with none, and hears the answer.
async fn say(authority: &Authority, desk: &Desk, proof: bool, hello: &Hello) -> Option<Welcome> {
    say_in(PROTOCOL, authority, desk, proof, hello).await
}

/// The same, in a connection that TLS calls so.
async fn say_in(
    protocol: &[u8],
    authority: &Authority,
    desk: &Desk,
    proof: bool,
    hello: &Hello,
) -> Option<Welcome> {
    let pair = authority.issue("n1", &Leaf::node("n1"));
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(authority.roots()).unwrap()).unwrap();
    let builder = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots);
    let mut config = if proof {
        let certificate = CertificateDer::from_pem_file(pair.certificate).unwrap();
        let key = rustls::pki_types::PrivateKeyDer::from_pem_file(pair.key).unwrap();
        builder.with_client_auth_cert(vec![certificate], key).unwrap()
    } else {
        builder.with_no_client_auth()
    };
    config.alpn_protocols = vec![protocol.to_vec()];
    let (near, far) = tokio::io::duplex(64 << 10);
    let talk = async {
        let connector = TlsConnector::from(Arc::new(config));
        let name = ServerName::try_from(CONTROLLER).unwrap();
        let mut stream = connector.connect(name, near).await.ok()?;
        send(&mut stream, hello).await.ok()?;
        receive(&mut stream).await.ok()
    };
    let (answer, ()) = tokio::join!(talk, desk.meet(far, "memory"));
    answer
}

fn hello() -> Hello {
    Hello {
        oldest: 1,
        newest: 1,
        version: "0.0.0".to_owned(),
        driver: DRIVER.to_owned(),
        node: "n1".to_owned(),
        instance: vec![7; 16],
        attempt: 1,
        ..Hello::default()
    }
}

#[tokio::test]
async fn a_wrong_hello_is_refused_by_its_reason() {
    let authority = Authority::new();
    for (what, hello, reason, shown) in [
        ("too new", Hello { oldest: 2, newest: 3, ..hello() }, Reason::Version, "speaks versions 2 to 3"),
        ("too old", Hello { oldest: 0, newest: 0, ..hello() }, Reason::Version, "0 to 0"),
        ("another driver", Hello { driver: "csi.other".into(), ..hello() }, Reason::Driver, "`csi.other`"),
        ("no driver", Hello { driver: String::new(), ..hello() }, Reason::Driver, "nothing"),
        ("another node", Hello { node: "n2".into(), ..hello() }, Reason::OtherNode, "n1"),
        ("no node", Hello { node: "../n1".into(), ..hello() }, Reason::Malformed, "node id"),
        ("half an instance", Hello { instance: vec![7; 8], ..hello() }, Reason::Malformed, "8 bytes"),
    ] {
        let desk = authority.desk();
        let refusal = say(&authority, &desk, true, &hello).await.and_then(|welcome| welcome.refusal);
        let refusal = refusal.unwrap_or_else(|| panic!("{what}: no refusal was heard"));
        assert_eq!(refusal.reason(), reason, "{what}: {}", refusal.message);
        assert!(refusal.message.contains(shown), "{what}: {}", refusal.message);
        assert!(desk.links().all().is_empty(), "{what}");
    }
    let newer = Hello { oldest: 1, newest: 9, ..hello() };
    let welcome = say(&authority, &authority.desk(), true, &newer).await.unwrap();
    assert_eq!((welcome.protocol, welcome.refusal), (1, None), "one that speaks more is let in");
}

#[tokio::test]
async fn who_has_no_certificate_or_means_another_protocol_hears_nothing() {
    let authority = Authority::new();
    let desk = authority.desk();
    assert_eq!(say(&authority, &desk, false, &hello()).await, None);
    assert_eq!(refused(&desk), [("certificate-missing", 1)]);
    let desk = authority.desk();
    assert_eq!(say_in(b"h2", &authority, &desk, true, &hello()).await, None, "another protocol");
    assert_eq!(refused(&desk), [("tls", 1)]);
}

#[tokio::test]
async fn what_speaks_another_protocol_or_nothing_is_let_go() {
    let authority = Authority::new();
    let desk = authority.desk();
    let (mut near, far) = tokio::io::duplex(1024);
    near.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    within("no TLS", desk.meet(far, "memory")).await;
    assert_eq!(refused(&desk), [("tls", 1)]);
    let (_silent, far) = tokio::io::duplex(1024);
    let begun = tokio::time::Instant::now();
    within("silence", desk.meet(far, "memory")).await;
    assert!(begun.elapsed() >= QUICK.handshake);
    assert_eq!(refused(&desk), [("tls", 1), ("slow", 1)]);
    let (gone, far) = tokio::io::duplex(1024);
    drop(gone);
    within("gone", desk.meet(far, "memory")).await;
    assert_eq!(refused(&desk), [("tls", 1), ("slow", 1), ("broken", 1)]);
}

#[tokio::test]
async fn an_older_or_a_second_connection_does_not_push_out_the_one_that_is_there() {
    let authority = Authority::new();
    let desk = authority.desk();
    let (link, _stop) = connected(&desk, &authority.node("n1"), "n1").await;
    let late = Hello { attempt: 1, instance: link.instance.0.to_vec(), ..hello() };
    let refusal = say(&authority, &desk, true, &late).await.unwrap().refusal.unwrap();
    assert_eq!(refusal.reason(), Reason::Stale);
    let controller = say(&authority, &authority.desk(), true, &hello()).await.unwrap().instance;
    let elsewhere = Hello { attempt: 2, connected: vec![controller], ..late.clone() };
    assert!(say(&authority, &authority.desk(), true, &elsewhere).await.unwrap().refusal.is_none());
    let own = say(&authority, &desk, true, &late).await.unwrap().instance;
    let second = Hello { attempt: 2, connected: vec![own], ..late };
    let refusal = say(&authority, &desk, true, &second).await.unwrap().refusal.unwrap();
    assert_eq!(refusal.reason(), Reason::Already);
    assert_eq!(refused(&desk), [], "neither is anybody's fault");
    let there = desk.links().of(&id("n1")).map(|there| (there.instance, there.attempt));
    assert_eq!(there, Some((link.instance, link.attempt)));
    // That connection has ended, and the node has not noticed.
    desk.part();
    assert!(say(&authority, &desk, true, &second).await.unwrap().refusal.is_none());
}
