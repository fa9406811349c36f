//! The processes of a run: the release binary in its modes, each with a directory, a socket and certificates.
//!
//! Owns: their command lines and their end. Never: measures.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SanType};
use rockpool::proto::csi;
use tonic::transport::Channel;

use csi::controller_client::ControllerClient;
use csi::identity_client::IdentityClient;

use crate::{Outcome, requests};

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_rockpool");
const PATIENCE: Duration = Duration::from_secs(60);
/// One pool in memory.
pub(crate) const POOLS: &str = "[[pool]]\nname = \"toy\"\nkind = \"sim\"\n";

/// Signs for every part; all certificates have one key, which nobody measures.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    key: KeyPair,
}

impl Authority {
    pub(crate) fn new() -> Outcome<Authority> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "the bench's");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        Ok(Authority { issuer, key: KeyPair::generate()? })
    }

    /// A node's files in a directory.
    pub(crate) fn node(&self, dir: &Path, node: &str) -> Outcome<()> {
        let uri = format!("rockpool://csi.rockpool.dev/node/{node}");
        self.issue(dir, SanType::URI(uri.as_str().try_into()?))
    }

    /// A controller's.
    pub(crate) fn controller(&self, dir: &Path) -> Outcome<()> {
        self.issue(dir, SanType::DnsName("rockpool-controller".try_into()?))
    }

    fn issue(&self, dir: &Path, name: SanType) -> Outcome<()> {
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![name];
        let certificate = params.signed_by(&self.key, &self.issuer)?;
        std::fs::create_dir_all(dir)?;
        std::fs::write(dir.join("ca.pem"), self.issuer.pem())?;
        std::fs::write(dir.join("own.pem"), certificate.pem())?;
        Ok(std::fs::write(dir.join("own.key"), self.key.serialize_pem())?)
    }
}

/// A running process that serves CSI.
pub(crate) struct Process {
    dir: PathBuf,
    words: Vec<String>,
    child: Option<Child>,
}

impl Process {
    /// What runs in `dir` with these words; not yet.
    pub(crate) fn new(dir: &Path, words: &[&str]) -> Outcome<Process> {
        std::fs::create_dir_all(dir.join("kubelet"))?;
        std::fs::write(dir.join("pools.toml"), POOLS)?;
        let mut words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        words.extend(["--endpoint".to_owned(), format!("unix://{}", dir.join("run/csi.sock").display())]);
        Ok(Process { dir: dir.to_owned(), words, child: None })
    }

    /// The flags of what has a pool.
    pub(crate) fn with_pool(mut self) -> Process {
        for (flag, file) in
            [("--config", "pools.toml"), ("--state-dir", "state"), ("--kubelet-root", "kubelet")]
        {
            self.words.extend([flag.to_owned(), self.dir.join(file).display().to_string()]);
        }
        self
    }

    /// The flags of an end of a link.
    pub(crate) fn with_keys(mut self) -> Process {
        for (flag, file) in
            [("--link-ca", "ca.pem"), ("--link-certificate", "own.pem"), ("--link-key", "own.key")]
        {
            self.words.extend([flag.to_owned(), self.dir.join("keys").join(file).display().to_string()]);
        }
        self
    }

    /// Starts it, and waits until it answers.
    pub(crate) async fn start(&mut self) -> Outcome<Channel> {
        let log = std::fs::File::create(self.dir.join("log"))?;
        let mut command = Command::new(BINARY);
        command.args(&self.words).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.child = Some(command.spawn()?);
        let (began, socket) = (Instant::now(), self.dir.join("run/csi.sock"));
        loop {
            if let Ok(channel) = requests::endpoint(&socket)?.connect().await {
                return Ok(channel);
            }
            if began.elapsed() > PATIENCE {
                return Err(
                    format!("it does not serve: {}", std::fs::read_to_string(self.dir.join("log"))?).into()
                );
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Ends it by SIGKILL.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// A figure of its memory, in MiB: `VmRSS` or `VmHWM`.
    pub(crate) fn memory(&self, what: &str) -> Outcome<f64> {
        let pid = self.child.as_ref().map(Child::id).ok_or("it does not run")?;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix(what)).ok_or("no such figure")?;
        let kib: f64 = line.trim_matches([':', ' ', '\t', 'k', 'B']).parse()?;
        Ok(kib / 1024.0)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// An address on which nobody listens.
pub(crate) fn free_address() -> Outcome<String> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string())
}

/// Waits until something says that it is ready.
pub(crate) async fn ready(channel: &Channel) -> Outcome<()> {
    let began = Instant::now();
    let mut client = IdentityClient::new(channel.clone());
    while began.elapsed() < PATIENCE {
        let answer = client.probe(csi::ProbeRequest {}).await;
        if answer.is_ok_and(|answer| answer.into_inner().ready == Some(true)) {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Err("it is not ready".into())
}

/// The Controller service; a page of a list may be long.
pub(crate) fn controller(channel: &Channel) -> ControllerClient<Channel> {
    ControllerClient::new(channel.clone()).max_decoding_message_size(64 << 20)
}
