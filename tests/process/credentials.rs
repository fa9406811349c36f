//! Wrong credentials against the real processes: each is refused, and the log names the reason.

use std::io::Write;
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{
    CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose as Purpose, IsCa, Issuer, KeyPair,
    SanType, date_time_ymd,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use crate::harness::{Driver, Place, eventually};
use crate::http::page;
use crate::linked::{Cluster, keys, port};

const DRIVER: &str = "csi.rockpool.dev";

/// An authority that nobody trusts.
fn stranger() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "a stranger");
    params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// What a certificate says; a good one of the node unless it is changed.
fn params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![uri(DRIVER, "node-1")];
    params.extended_key_usages = vec![Purpose::ClientAuth];
    params
}

fn uri(driver: &str, node: &str) -> SanType {
    SanType::URI(format!("rockpool://{driver}/node/{node}").as_str().try_into().unwrap())
}

/// Certificate and key where the flags of a place name them.
fn put(place: &Place, params: CertificateParams, issuer: &Issuer<'_, KeyPair>) {
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, issuer).unwrap();
    std::fs::write(place.path("own.pem"), certificate.pem()).unwrap();
    std::fs::write(place.path("own.key"), key.serialize_pem()).unwrap();
}

/// A way to be wrong: what the certificate says, the driver that the node says it is of, the reason in the controller's log, and a
/// word of the node's.
type Wrong = (&'static str, fn(&mut CertificateParams), &'static str, &'static str, &'static str);

const WRONG: [Wrong; 8] = [
    (
        "expired",
        |it| it.not_after = date_time_ymd(2020, 1, 1),
        DRIVER,
        "certificate-expired",
        "CertificateExpired",
    ),
    (
        "not yet valid",
        |it| it.not_before = date_time_ymd(2090, 1, 1),
        DRIVER,
        "certificate",
        "does not accept our certificate",
    ),
    (
        "for servers only",
        |it| it.extended_key_usages = vec![Purpose::ServerAuth],
        DRIVER,
        "certificate",
        "does not accept our certificate",
    ),
    (
        "of another driver",
        |it| it.subject_alt_names = vec![uri("other.example", "node-1")],
        DRIVER,
        "unproven",
        "names no node of this driver",
    ),
    ("of nobody", |it| it.subject_alt_names.clear(), DRIVER, "unproven", "names no node of this driver"),
    (
        "of two nodes",
        |it| it.subject_alt_names.push(uri(DRIVER, "node-2")),
        DRIVER,
        "unproven",
        "names the nodes",
    ),
    (
        "another node's",
        |it| it.subject_alt_names = vec![uri(DRIVER, "node-2")],
        DRIVER,
        "other-node",
        "its certificate says node-2",
    ),
    ("said to be of another driver", |_| {}, "other.example", "driver", "it is a node of the driver"),
];

/// A controller whose metrics can be read, and where.
fn counted(cluster: &Cluster) -> (Driver, String) {
    let http = port();
    let environment = [("ROCKPOOL_HTTP_LISTEN", http.clone())];
    (cluster.start_controller_with(0, &keys(&cluster.controllers[0]), &environment), http)
}

/// How often a controller says that it refused somebody for this reason.
fn count(http: &str, reason: &str) -> u64 {
    let (_, text) = page(http, "/metrics");
    let name = format!("rockpool_link_refused_total{{reason=\"{reason}\"}} ");
    let row = text.lines().find_map(|line| line.strip_prefix(&name));
    row.unwrap_or_else(|| panic!("no {name}in {text}")).parse().unwrap()
}

/// Waits until a controller has refused somebody for this reason, and says so in one line.
fn refused(controller: &Driver, what: &str, reason: &str, from: usize) {
    eventually(&format!("{what}: the controller says why"), || {
        let log = controller.log();
        let (first, second) = (format!("reason=\"{reason}\""), format!("reason={reason} "));
        log[from..]
            .lines()
            .any(|line| line.contains("refused a node") && (line.contains(&first) || line.contains(&second)))
    });
}

#[test]
fn each_wrong_credential_of_a_node_is_refused_and_both_logs_say_why() {
    let cluster = Cluster::new();
    let (controller, http) = counted(&cluster);
    let start = |driver: &str| {
        let flags = [&keys(&cluster.node)[..], &["--driver-name".to_owned(), driver.to_owned()]].concat();
        cluster.start_node_with(&cluster.node, &flags)
    };
    for (what, change, driver, reason, heard) in WRONG {
        let mut params = params();
        change(&mut params);
        put(&cluster.node, params, &cluster.issuer);
        let (from, before) = (controller.log().len(), count(&http, reason));
        let node = start(driver);
        refused(&controller, what, reason, from);
        assert!(count(&http, reason) > before, "{what} is not counted");
        eventually(&format!("{what}: the node says it too"), || node.log().contains(heard));
    }
    put(&cluster.node, params(), &stranger());
    let from = controller.log().len();
    let node = start(DRIVER);
    refused(&controller, "of a stranger", "certificate-unknown-issuer", from);
    // A right one in the same place is taken up, and is the only one that ever was.
    put(&cluster.node, params(), &cluster.issuer);
    eventually("the right one is let in", || controller.log().contains("a node is connected"));
    assert_eq!(controller.log().matches("a node is connected").count(), 1, "{}", controller.log());
    drop(node);
}

#[test]
fn what_is_no_node_at_all_is_refused_and_the_log_says_why() {
    let cluster = Cluster::new();
    let (controller, http) = counted(&cluster);
    let address = &cluster.ports[0];
    let mut from = controller.log().len();
    let mut expect = |what: &str, reason: &str| {
        refused(&controller, what, reason, from);
        assert!(count(&http, reason) > 0, "{what} is not counted");
        from = controller.log().len();
    };
    let mut plain = TcpStream::connect(address).unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\nHost: controller\r\n\r\n").unwrap();
    expect("no TLS", "tls");
    let silent = TcpStream::connect(address).unwrap();
    expect("not a word", "slow");
    drop((plain, silent));

    let ca = cluster.node.path("ca.pem");
    hello(address, tls(&ca, None, b"rockpool-link"), b"");
    expect("no certificate", "certificate-missing");
    hello(address, tls(&ca, Some(&cluster.node), b"h2"), b"");
    expect("another protocol", "tls");
    hello(address, tls(&ca, Some(&cluster.node), b"rockpool-link"), &[0, 0, 0, 3, 0xff, 0xff, 0xff]);
    expect("a right certificate, and nonsense", "malformed");
    assert!(!controller.log().contains("a node is connected"), "{}", controller.log());
}

/// TLS as a client by hand has it.
fn tls(ca: &Path, own: Option<&Place>, protocol: &[u8]) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ca).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match own {
        None => builder.with_no_client_auth(),
        Some(place) => {
            let certificate = CertificateDer::from_pem_file(place.path("own.pem")).unwrap();
            let key = PrivateKeyDer::from_pem_file(place.path("own.key")).unwrap();
            builder.with_client_auth_cert(vec![certificate], key).unwrap()
        }
    };
    config.alpn_protocols = vec![protocol.to_vec()];
    config
}

/// Connects and says something; what becomes of it is the controller's to tell.
fn hello(address: &str, config: ClientConfig, words: &[u8]) {
    let name = ServerName::try_from("rockpool-controller").unwrap();
    let mut session = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut tls = rustls::Stream::new(&mut session, &mut stream);
    // Whoever is refused may find the connection closed before all is said.
    let _ = tls.write_all(words).and_then(|()| tls.flush());
    let _ = std::io::Read::read(&mut tls, &mut [0; 64]);
}

#[test]
fn each_wrong_credential_of_a_controller_is_refused_and_the_nodes_log_says_why() {
    let cluster = Cluster::new();
    let place = &cluster.controllers[0];
    let name = |name: &str| SanType::DnsName(name.try_into().unwrap());
    let mut right = CertificateParams::default();
    right.subject_alt_names = vec![name("rockpool-controller")];
    let with = |change: fn(&mut CertificateParams)| {
        let mut params = right.clone();
        change(&mut params);
        params
    };
    put(place, right.clone(), &cluster.issuer);
    let controller = cluster.start_controller(0);
    let stranger = stranger();
    let mut other_name = right.clone();
    other_name.subject_alt_names = vec![name("other")];
    let wrong: [(&str, CertificateParams, &Issuer<'_, KeyPair>, &str); 4] = [
        ("another name", other_name, &cluster.issuer, "not valid for name"),
        ("expired", with(|it| it.not_after = date_time_ymd(2020, 1, 1)), &cluster.issuer, "xpired"),
        (
            "for clients only",
            with(|it| it.extended_key_usages = vec![Purpose::ClientAuth]),
            &cluster.issuer,
            "extended key usage",
        ),
        ("of a stranger", right.clone(), &stranger, "UnknownIssuer"),
    ];
    for (what, params, issuer, heard) in wrong {
        put(place, params, issuer);
        // The controller looks at its files once a second at most.
        let node = cluster.start_node();
        eventually(&format!("{what}: the node says why"), || {
            let log = node.log();
            let told = log
                .lines()
                .any(|line| line.contains("failed to connect to the controller") && line.contains(heard));
            told || {
                std::thread::sleep(Duration::from_millis(200));
                false
            }
        });
    }
    assert!(!controller.log().contains("reason=\"unproven\""));
}
