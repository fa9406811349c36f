//! Certificates for tests, wrong ones above all, and both ends made of them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    SanType, date_time_ymd,
};
use tempfile::TempDir;

use crate::cluster::link::controller::Desk;
use crate::cluster::link::node::{Dialer, Pace, Wanted};
use crate::cluster::link::{ControllerFiles, Keys, NodeFiles, Pair, Proof, Timing, uri};

pub(in crate::cluster) const DRIVER: &str = "csi.rockpool.dev";
pub(in crate::cluster) const CONTROLLER: &str = "controller.test";

/// Everything in a test takes less.
pub(in crate::cluster) const QUICK: Timing = Timing {
    handshake: Duration::from_secs(2),
    ping: Duration::from_millis(200),
    pong: Duration::from_millis(400),
    silence: Duration::from_secs(2),
};

/// A certificate authority with the files that it has made.
pub(in crate::cluster) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    directory: TempDir,
}

/// What is in a certificate.
pub(in crate::cluster) struct Leaf {
    pub(in crate::cluster) names: Vec<SanType>,
    pub(in crate::cluster) purpose: ExtendedKeyUsagePurpose,
    /// From and until which year.
    pub(in crate::cluster) years: (i32, i32),
}

impl Leaf {
    /// A right one of a node.
    pub(in crate::cluster) fn node(name: &str) -> Leaf {
        Leaf::with_uri(&uri(DRIVER, &name.parse().unwrap()))
    }

    /// One with some URI.
    pub(in crate::cluster) fn with_uri(uri: &str) -> Leaf {
        let names = vec![SanType::URI(uri.try_into().unwrap())];
        Leaf { names, purpose: ExtendedKeyUsagePurpose::ClientAuth, years: (2020, 2999) }
    }

    /// One of a controller.
    pub(in crate::cluster) fn controller(name: &str) -> Leaf {
        let names = vec![SanType::DnsName(name.try_into().unwrap())];
        Leaf { names, purpose: ExtendedKeyUsagePurpose::ServerAuth, years: (2020, 2999) }
    }

    pub(in crate::cluster) fn valid(self, from: i32, until: i32) -> Leaf {
        Leaf { years: (from, until), ..self }
    }
}

impl Authority {
    pub(in crate::cluster) fn new() -> Authority {
        Authority::named("the test's")
    }

    pub(in crate::cluster) fn named(name: &str) -> Authority {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let authority = Authority { issuer, directory };
        authority.put("ca.pem", &authority.issuer.pem());
        authority
    }

    /// Writes a file, as an operator's tool would.
    #[allow(clippy::disallowed_methods, reason = "the test makes its own files")]
    pub(in crate::cluster) fn put(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    pub(in crate::cluster) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The file that says whom to trust.
    pub(in crate::cluster) fn roots(&self) -> PathBuf {
        self.path("ca.pem")
    }

    /// A certificate and key in the files of this name.
    pub(in crate::cluster) fn issue(&self, file: &str, leaf: &Leaf) -> Pair {
        let mut params = CertificateParams::default();
        params.subject_alt_names = leaf.names.clone();
        params.extended_key_usages = vec![leaf.purpose.clone()];
        params.not_before = date_time_ymd(leaf.years.0, 1, 1);
        params.not_after = date_time_ymd(leaf.years.1, 1, 1);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Pair {
            certificate: self.put(&format!("{file}.pem"), &certificate.pem()),
            key: self.put(&format!("{file}.key"), &key.serialize_pem()),
        }
    }

    /// A controller whose certificate has this name, or is this one.
    pub(in crate::cluster) fn desk(&self) -> Arc<Desk> {
        self.desk_with(self.issue("controller", &Leaf::controller(CONTROLLER)), &self.roots())
    }

    pub(in crate::cluster) fn desk_with(&self, own: Pair, authorities: &Path) -> Arc<Desk> {
        let files = ControllerFiles { authorities: Some(authorities.to_owned()), tokens: false, own };
        Arc::new(Desk::new(DRIVER.to_owned(), Keys::of_controller(files).unwrap(), QUICK))
    }

    /// What a node with this certificate needs to dial.
    pub(in crate::cluster) fn wanted(&self, node: &str, own: Pair) -> Wanted {
        let files = NodeFiles { authorities: self.roots(), own: Proof::Certificate(own) };
        Wanted {
            node: node.parse().unwrap(),
            driver: DRIVER.to_owned(),
            controllers: vec!["127.0.0.1:1".to_owned()],
            controller_name: CONTROLLER.to_owned(),
            keys: Keys::of_node(files).unwrap(),
            token: None,
            timing: QUICK,
            pace: Pace {
                pause: Duration::from_millis(20),
                longest: Duration::from_millis(100),
                refused: Duration::from_millis(200),
                look: Duration::from_millis(100),
            },
        }
    }

    /// A node with a right certificate.
    pub(in crate::cluster) fn node(&self, name: &str) -> Dialer {
        Dialer::new(self.wanted(name, self.issue(name, &Leaf::node(name)))).unwrap()
    }
}
