//! Tickets: who may send the content of one volume, and to whom.
//!
//! Owns: the key and the secret of a ticket, and TLS by a key without a certificate. Never: prints a secret, or compares one in
//! a time that tells how much of it was right.

use std::sync::Arc;

use ring::digest::{SHA256, digest};
use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::Ed25519KeyPair;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{
    CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime,
};
use rustls::server::AlwaysResolvesServerRawPublicKeys;
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, ServerConfig, SignatureScheme, version::TLS13,
};
use subtle::ConstantTimeEq;

use crate::cluster::link::provider;
use crate::error::{Error, Result};

/// What TLS calls this protocol: nothing else that listens or dials is taken for a transfer.
const PROTOCOL: &[u8] = b"rockpool-transfer";
/// How long a secret is.
pub(super) const SECRET: usize = 32;
/// There is one name for every end: what counts is its key.
const NAME: &str = "transfer.rockpool.invalid";

/// What a ticket's holder has to know, and nobody else.
pub(super) struct Secret([u8; SECRET]);

impl Secret {
    /// A new one.
    ///
    /// # Errors
    /// Where the host has no random bytes: what could be guessed is no secret.
    pub(super) fn new() -> Result<Secret> {
        let mut bytes = [0; SECRET];
        let filled = SystemRandom::new().fill(&mut bytes);
        filled.map_err(|_| Error::Unavailable("the host has no random bytes for a ticket".to_owned()))?;
        Ok(Secret(bytes))
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        self.0.to_vec()
    }

    /// Whether this is it. Takes as long for a wrong one as for the right one.
    pub(super) fn is(&self, said: &[u8]) -> bool {
        bool::from(self.0.ct_eq(said))
    }
}

/// The TLS of the end that listens, with a key of its own, and that key's hash.
pub(super) fn server() -> Result<(Arc<ServerConfig>, Vec<u8>)> {
    let unfit = |error: &dyn std::fmt::Display| {
        Error::Unavailable(format!("failed to make the key of a transfer: {error}"))
    };
    let pair = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(|error| unfit(&error))?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pair.as_ref().to_vec()));
    let key = provider().key_provider.load_private_key(key).map_err(|error| unfit(&error))?;
    let spki = key.public_key().ok_or_else(|| unfit(&"it has no public half"))?.to_vec();
    let hash = digest(&SHA256, &spki).as_ref().to_vec();
    let own = Arc::new(CertifiedKey::new(vec![CertificateDer::from(spki)], key));
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(|error| unfit(&error))?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(own)));
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    config.send_tls13_tickets = 0;
    Ok((Arc::new(config), hash))
}

/// The TLS of the end that dials, which talks to the holder of one key alone.
pub(super) fn client(hash: &[u8]) -> Result<(Arc<ClientConfig>, ServerName<'static>)> {
    let unfit = |error: &dyn std::fmt::Display| Error::Invalid(format!("ticket.key_sha256: {error}"));
    if hash.len() != ring::digest::SHA256_OUTPUT_LEN {
        return Err(unfit(&"want 32 bytes"));
    }
    let pin = Pin { hash: hash.to_vec(), algorithms: provider().signature_verification_algorithms };
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(|error| unfit(&error))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(pin))
        .with_no_client_auth();
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    config.resumption = Resumption::disabled();
    let name = ServerName::try_from(NAME).map_err(|error| unfit(&error))?;
    Ok((Arc::new(config), name))
}

/// Trusts one key, and nothing that anybody says of it.
#[derive(Debug)]
struct Pin {
    hash: Vec<u8>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Pin {
    fn verify_server_cert(
        &self,
        key: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        if digest(&SHA256, key).as_ref() == self.hash {
            return Ok(ServerCertVerified::assertion());
        }
        Err(rustls::Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure))
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::PeerIncompatible(rustls::PeerIncompatible::Tls12NotOffered))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        key: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        let key = SubjectPublicKeyInfoDer::from(key.as_ref());
        verify_tls13_signature_with_raw_key(message, &key, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}
