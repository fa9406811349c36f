//! Who a certificate says that its owner is.
//!
//! Owns: the form of a node's name in a certificate. Never: verifies one: rustls has, or it never gets here.
//!
//! A node's certificate carries its name as a URI, `rockpool://<driver>/node/<node id>`, among its alternative names. It is
//! compared as a whole text, so that no rule about wildcards or name constraints can widen it. Other names beside it mean
//! nothing here.

use rustls::pki_types::CertificateDer;

use crate::error::quoted;
use crate::model::NodeId;

/// The name in the certificate of a node.
pub fn uri(driver: &str, node: &NodeId) -> String {
    format!("rockpool://{driver}/node/{node}")
}

/// The node that a certificate names.
///
/// # Errors
/// A sentence for people where it names none of this driver, or more than one.
pub(super) fn node_of(certificate: &CertificateDer<'_>, driver: &str) -> Result<NodeId, String> {
    let parsed = webpki::EndEntityCert::try_from(certificate);
    let certificate = parsed.map_err(|error| format!("its certificate cannot be read: {error}"))?;
    let prefix = format!("rockpool://{driver}/node/");
    let mut names = certificate.valid_uri_names().filter_map(|uri| uri.strip_prefix(prefix.as_str()));
    match (names.next(), names.next()) {
        (Some(name), None) => {
            name.parse().map_err(|error| format!("its certificate names no possible node: {error}"))
        }
        (Some(one), Some(other)) => {
            Err(format!("its certificate names the nodes {} and {}: want one", quoted(one), quoted(other)))
        }
        (None, _) => {
            Err(format!("its certificate names no node of this driver: want the URI {prefix}<node id>"))
        }
    }
}
