//! The certificates of the cluster: one authority, and what it signs for each part.

use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SanType};

use crate::Outcome;

/// Signs for every part.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub(crate) fn new() -> Outcome<Authority> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "the cluster's");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Ok(Authority(CertifiedIssuer::self_signed(params, KeyPair::generate()?)?))
    }

    /// What a node proves itself with; the flags that name it.
    pub(crate) fn node(&self, dir: &Path, node: &str) -> Outcome<Vec<String>> {
        let uri = format!("rockpool://csi.rockpool.dev/node/{node}");
        self.issue(dir, SanType::URI(uri.as_str().try_into()?))
    }

    /// The same of a controller.
    pub(crate) fn controller(&self, dir: &Path) -> Outcome<Vec<String>> {
        self.issue(dir, SanType::DnsName("rockpool-controller".try_into()?))
    }

    fn issue(&self, dir: &Path, name: SanType) -> Outcome<Vec<String>> {
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![name];
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.0)?;
        let mut flags = Vec::new();
        for (flag, file, pem) in [
            ("--link-ca", "ca.pem", self.0.pem()),
            ("--link-certificate", "own.pem", certificate.pem()),
            ("--link-key", "own.key", key.serialize_pem()),
        ] {
            let path = dir.join(file);
            std::fs::write(&path, pem)?;
            flags.extend([flag.to_owned(), path.display().to_string()]);
        }
        Ok(flags)
    }
}
