//! The flags of the link: what proves who a process is, and whom it believes.
//!
//! Owns: their words, and which of them belong together. Never: opens a file.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::cluster::audit;
use crate::cluster::link::{ControllerFiles, NodeFiles, Pair, Proof};
use crate::controller::{Around, InKubernetes};
use crate::error::{Error, Result};

/// What proves a node to controllers, and whom it trusts.
#[derive(Args, Clone, Debug)]
pub(super) struct NodeKeys {
    /// The authorities that sign the controllers' certificates, as PEM. This and the next three are read again when they change.
    #[arg(long, env = "ROCKPOOL_LINK_CA", value_name = "FILE")]
    link_ca: PathBuf,

    /// A ServiceAccount token of this node's pod, with the driver's name as its audience: in Kubernetes the proof of who it is.
    #[arg(long, env = "ROCKPOOL_LINK_TOKEN", value_name = "FILE")]
    link_token: Option<PathBuf>,

    /// Elsewhere: this node's own certificate and those between it and the authority, as PEM.
    #[arg(long, env = "ROCKPOOL_LINK_CERTIFICATE", value_name = "FILE")]
    link_certificate: Option<PathBuf>,

    /// Its private key, as PEM.
    #[arg(long, env = "ROCKPOOL_LINK_KEY", value_name = "FILE")]
    link_key: Option<PathBuf>,
}

impl NodeKeys {
    pub(super) fn check(&self) -> Result<NodeFiles> {
        let wrong = |what: &str| {
            Error::Invalid(format!(
                "{what}: want either --link-token, in Kubernetes, or --link-certificate and --link-key, elsewhere"
            ))
        };
        let own = match (self.link_token.clone(), self.link_certificate.clone(), self.link_key.clone()) {
            (Some(token), None, None) => Proof::Token(token),
            (None, Some(certificate), Some(key)) => Proof::Certificate(Pair { certificate, key }),
            (None, None, None) => return Err(wrong("nothing proves who this node is")),
            (None, Some(_), None) => return Err(wrong("--link-certificate is given without --link-key")),
            (None, None, Some(_)) => return Err(wrong("--link-key is given without --link-certificate")),
            (Some(_), _, _) => return Err(wrong("--link-token is given beside a certificate or key")),
        };
        Ok(NodeFiles { authorities: self.link_ca.clone(), own })
    }
}

/// What proves a controller to nodes, and whom it trusts.
#[derive(Args, Clone, Debug)]
pub(super) struct ControllerKeys {
    /// The authorities that sign the nodes' certificates, as PEM; with --kubernetes only where nodes may come with certificates,
    /// too. This and the next two are read again when they change.
    #[arg(long, env = "ROCKPOOL_LINK_CA", value_name = "FILE")]
    link_ca: Option<PathBuf>,

    /// This process's own certificate and those between it and the authority, as PEM.
    #[arg(long, env = "ROCKPOOL_LINK_CERTIFICATE", value_name = "FILE")]
    link_certificate: PathBuf,

    /// Its private key, as PEM.
    #[arg(long, env = "ROCKPOOL_LINK_KEY", value_name = "FILE")]
    link_key: PathBuf,
}

impl ControllerKeys {
    /// As meant, where `tokens` are a proof or not.
    pub(super) fn check(&self, tokens: bool) -> Result<ControllerFiles> {
        let authorities = self.link_ca.clone();
        if authorities.is_none() && !tokens {
            return Err(Error::Invalid(
                "--link-ca is missing: want the authorities of the nodes' certificates, or --kubernetes, where tokens prove them"
                    .to_owned(),
            ));
        }
        let own = Pair { certificate: self.link_certificate.clone(), key: self.link_key.clone() };
        Ok(ControllerFiles { authorities, tokens, own })
    }
}

/// What a controller asks its cluster.
#[derive(Args, Clone, Debug)]
pub(super) struct ClusterFlags {
    /// Ask the Kubernetes API who a node is, which nodes there are, and which pools were declared lost.
    #[arg(long, env = "ROCKPOOL_KUBERNETES")]
    kubernetes: bool,

    /// The ServiceAccount of the nodes' pods: no other's tokens are believed.
    #[arg(long, env = "ROCKPOOL_NODE_SERVICE_ACCOUNT", value_name = "NAME")]
    node_service_account: Option<String>,

    /// The namespace of the driver.
    #[arg(long, env = "POD_NAMESPACE", value_name = "NAMESPACE")]
    kubernetes_namespace: Option<String>,

    /// The ConfigMap, in the driver's namespace, that says which pools were declared lost; it is made when the first one is.
    #[arg(long, env = "ROCKPOOL_STATE_CONFIGMAP", value_name = "NAME")]
    state_configmap: Option<String>,

    /// After this many seconds the pools of a node whose Node object was deleted are lost.
    #[arg(long, env = "ROCKPOOL_DELETED_NODE_GRACE", value_name = "SECONDS", default_value_t = 600)]
    deleted_node_grace: u64,

    /// The name of this controller's pod, which its Lease and its Events bear; without it a name that nobody else has.
    #[arg(long, env = "POD_NAME", value_name = "NAME")]
    kubernetes_pod: Option<String>,

    /// Every so many seconds one controller of all compares the volumes with the PersistentVolumes, and reports what differs.
    #[arg(
        long,
        env = "ROCKPOOL_AUDIT_INTERVAL",
        value_name = "SECONDS",
        default_value_t = 600,
        value_parser = clap::value_parser!(u64).range(1..=86_400)
    )]
    audit_interval: u64,

    /// After this many seconds a node that is deleted or not ready is reported on the claims whose volumes lie on it; the parameter
    /// reportNodeGoneAfter of a StorageClass goes before.
    #[arg(
        long,
        env = "ROCKPOOL_NODE_GONE_AFTER",
        value_name = "SECONDS",
        default_value_t = 600,
        value_parser = clap::value_parser!(u64).range(1..)
    )]
    node_gone_after: u64,

    /// Outside of Kubernetes: a file that says which nodes there are, an id a line; read again when it changes.
    #[arg(long, env = "ROCKPOOL_NODES", value_name = "FILE")]
    nodes: Option<PathBuf>,

    /// Outside of Kubernetes: a file of this controller's own that says which pools were declared lost.
    #[arg(long, env = "ROCKPOOL_LOST_POOLS", value_name = "FILE")]
    lost_pools: Option<PathBuf>,
}

impl ClusterFlags {
    pub(super) fn check(&self) -> Result<Around> {
        let given = |flag: &'static str, is_given: bool| is_given.then_some(flag);
        let here = [
            given("--node-service-account", self.node_service_account.is_some()),
            given("--state-configmap", self.state_configmap.is_some()),
        ];
        let elsewhere =
            [given("--nodes", self.nodes.is_some()), given("--lost-pools", self.lost_pools.is_some())];
        let (wrong, word) = if self.kubernetes { (elsewhere, "beside") } else { (here, "without") };
        if let Some(flag) = wrong.into_iter().flatten().next() {
            return Err(Error::Invalid(format!("{flag} means nothing {word} --kubernetes")));
        }
        if !self.kubernetes {
            return Ok(Around::Files { nodes: self.nodes.clone(), lost: self.lost_pools.clone() });
        }
        let wanted = |value: &Option<String>, flag: &str| {
            let value = value.clone().filter(|value| !value.is_empty());
            value.ok_or_else(|| Error::Invalid(format!("{flag} is missing: --kubernetes needs it")))
        };
        let account = wanted(&self.node_service_account, "--node-service-account")?;
        let namespace = wanted(&self.kubernetes_namespace, "--kubernetes-namespace")?;
        let pod = self.kubernetes_pod.clone().filter(|name| !name.is_empty());
        Ok(Around::Kubernetes(InKubernetes {
            account,
            audit: audit::Terms {
                namespace: namespace.clone(),
                pod: pod.unwrap_or_else(audit::nameless),
                interval: Duration::from_secs(self.audit_interval),
                gone_after: Duration::from_secs(self.node_gone_after),
            },
            namespace,
            configmap: self.state_configmap.clone(),
            grace: Duration::from_secs(self.deleted_node_grace),
        }))
    }
}
