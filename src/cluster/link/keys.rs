//! Certificates and keys, as the files say them now.
//!
//! Owns: what TLS is told: version 1.3 only, no resumed sessions, whom to trust. Never: prints what is in a key's file, or gives
//! up what works for what does not: files are replaced one after the other, and between that a certificate and its key do not
//! belong together.
//!
//! The files are read by their paths, symlinks included: so does Kubernetes replace those of a Secret. They are looked at
//! once a second at most, when a connection is made; no watch can be missed.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use super::{PROTOCOL, provider};
use crate::error::{Error, Result, chain, quoted_path};

/// How often files are looked at, at most.
const LOOK: Duration = Duration::from_secs(1);

/// A certificate, with those between it and an authority behind it, and its key; both PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// The file of the certificates.
    pub certificate: PathBuf,
    /// The file of the key.
    pub key: PathBuf,
}

/// What a node proves itself with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proof {
    /// A certificate that names it.
    Certificate(Pair),
    /// The file of a ServiceAccount token that is bound to it.
    Token(PathBuf),
}

/// The files of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeFiles {
    /// Who may vouch for controllers: certificates of authorities, PEM. While they change, the old and the new.
    pub authorities: PathBuf,
    /// What the node proves itself with.
    pub own: Proof,
}

/// The files of a controller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControllerFiles {
    /// Who may vouch for nodes: certificates of authorities, PEM. While they change, the old and the new. None: nobody, and no
    /// node is asked for a certificate.
    pub authorities: Option<PathBuf>,
    /// Whether a node may come without a certificate, since a token proves it.
    pub tokens: bool,
    /// What the controller proves itself with.
    pub own: Pair,
}

/// TLS as some files say it. `C` is what rustls makes of them.
pub struct Keys<C> {
    files: Files,
    build: fn(&Read<'_>) -> Result<C>,
    last: Mutex<Last<C>>,
}

struct Files {
    authorities: Option<PathBuf>,
    own: Option<Pair>,
    tokens: bool,
}

/// What is in them: of the authorities, the certificate and the key.
type Texts = [Vec<u8>; 3];

struct Last<C> {
    texts: Texts,
    config: Arc<C>,
    looked: Instant,
    /// What was wrong at the last look; said once.
    complaint: Option<String>,
}

/// The files and what is in them.
struct Read<'a> {
    files: &'a Files,
    texts: &'a Texts,
}

impl Keys<ClientConfig> {
    /// Those of a node.
    ///
    /// # Errors
    /// `Precondition` with the file that is wrong, and how.
    pub fn of_node(files: NodeFiles) -> Result<Self> {
        let own = match files.own {
            Proof::Certificate(pair) => Some(pair),
            // It is read where it is sent.
            Proof::Token(_) => None,
        };
        Keys::open(Files { authorities: Some(files.authorities), own, tokens: false }, client)
    }
}

impl Keys<ServerConfig> {
    /// Those of a controller.
    ///
    /// # Errors
    /// `Precondition` with the file that is wrong, and how.
    pub fn of_controller(files: ControllerFiles) -> Result<Self> {
        let ControllerFiles { authorities, tokens, own } = files;
        Keys::open(Files { authorities, own: Some(own), tokens }, server)
    }
}

impl<C> Keys<C> {
    fn open(files: Files, build: fn(&Read<'_>) -> Result<C>) -> Result<Self> {
        let texts = files.read()?;
        let config = Arc::new(build(&Read { files: &files, texts: &texts })?);
        let last = Mutex::new(Last { texts, config, looked: Instant::now(), complaint: None });
        Ok(Keys { files, build, last })
    }

    /// As the files say it now; where they are unusable, as they said it last.
    pub(super) fn now(&self) -> Arc<C> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.looked.elapsed() >= LOOK {
            last.looked = Instant::now();
            self.look(&mut last);
        }
        Arc::clone(&last.config)
    }

    fn look(&self, last: &mut Last<C>) {
        let texts = match self.files.read() {
            Ok(texts) if texts == last.texts => {
                last.complaint = None;
                return;
            }
            Ok(texts) => texts,
            Err(error) => return last.complain(&error),
        };
        match (self.build)(&Read { files: &self.files, texts: &texts }) {
            Ok(config) => {
                let certificate = self.files.own.as_ref().map(|own| own.certificate.display().to_string());
                tracing::info!(certificate, "read the new certificates of the link");
                (last.texts, last.config, last.complaint) = (texts, Arc::new(config), None);
            }
            Err(error) => last.complain(&error),
        }
    }

    /// Looks again at the next connection, however soon that is.
    #[cfg(test)]
    pub(super) fn forget_look(&self) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(before) = Instant::now().checked_sub(LOOK) {
            last.looked = before;
        }
    }
}

impl<C> Last<C> {
    fn complain(&mut self, error: &Error) {
        let complaint = chain(error);
        if self.complaint.as_ref() != Some(&complaint) {
            tracing::warn!(
                error = complaint,
                "the new certificates of the link are unusable; the old ones stay"
            );
            self.complaint = Some(complaint);
        }
    }
}

impl Files {
    fn read(&self) -> Result<Texts> {
        let read = |path: Option<&PathBuf>| {
            let Some(path) = path else { return Ok(Vec::new()) };
            std::fs::read(path).map_err(|error| unusable(path, &error.to_string()))
        };
        let own = self.own.as_ref();
        Ok([
            read(self.authorities.as_ref())?,
            read(own.map(|own| &own.certificate))?,
            read(own.map(|own| &own.key))?,
        ])
    }
}

impl Read<'_> {
    /// The authorities to trust; none where nobody is.
    fn roots(&self) -> Result<Option<RootCertStore>> {
        let Some(path) = &self.files.authorities else { return Ok(None) };
        let mut roots = RootCertStore::empty();
        for certificate in certificates(path, &self.texts[0])? {
            roots.add(certificate).map_err(|error| unusable(path, &error.to_string()))?;
        }
        Ok(Some(roots))
    }

    /// The own certificates and their key; none for who has a token instead.
    fn pair(&self) -> Result<Option<OwnPair<'_>>> {
        let Some(own) = &self.files.own else { return Ok(None) };
        let chain = certificates(&own.certificate, &self.texts[1])?;
        // Its words could quote the file.
        let key = PrivateKeyDer::from_pem_slice(&self.texts[2]);
        let key = key.map_err(|_| unusable(&own.key, "want one private key as PEM"))?;
        Ok(Some((own, chain, key)))
    }
}

type OwnPair<'a> = (&'a Pair, Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

impl Pair {
    fn unfit(&self, error: &rustls::Error) -> Error {
        let with = format!("with the key {}: {error}", quoted_path(&self.key));
        unusable(&self.certificate, &with)
    }
}

fn certificates(path: &Path, text: &[u8]) -> Result<Vec<CertificateDer<'static>>> {
    let parsed: std::result::Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).collect();
    let certificates = parsed.map_err(|error| unusable(path, &error.to_string()))?;
    if certificates.is_empty() {
        return Err(unusable(path, "want at least one certificate as PEM"));
    }
    Ok(certificates)
}

fn unusable(path: &Path, why: &str) -> Error {
    Error::Precondition(format!("{}: {why}", quoted_path(path)))
}

/// Without that version nothing works, whatever the files say.
fn outdated(error: rustls::Error) -> Error {
    Error::Precondition(format!("TLS 1.3 cannot be spoken: {error}"))
}

fn client(files: &Read<'_>) -> Result<ClientConfig> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(outdated)?
        .with_root_certificates(files.roots()?.unwrap_or_else(RootCertStore::empty));
    let mut config = match files.pair()? {
        Some((own, chain, key)) => {
            builder.with_client_auth_cert(chain, key).map_err(|error| own.unfit(&error))?
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    config.resumption = Resumption::disabled();
    Ok(config)
}

fn server(files: &Read<'_>) -> Result<ServerConfig> {
    let builder = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(outdated)?;
    let builder = match (files.roots()?, &files.files.authorities) {
        (Some(roots), Some(path)) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider());
            // Who has no certificate needs a token; that is for the desk to see.
            let verifier = if files.files.tokens { verifier.allow_unauthenticated() } else { verifier };
            let verifier = verifier.build().map_err(|error| unusable(path, &error.to_string()))?;
            builder.with_client_cert_verifier(verifier)
        }
        _ => builder.with_no_client_auth(),
    };
    let no_pair = || Error::Precondition("a controller needs a certificate".to_owned());
    let (own, chain, key) = files.pair()?.ok_or_else(no_pair)?;
    let mut config = builder.with_single_cert(chain, key).map_err(|error| own.unfit(&error))?;
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    // A resumed session would stand on a certificate of yesterday.
    config.send_tls13_tickets = 0;
    Ok(config)
}
