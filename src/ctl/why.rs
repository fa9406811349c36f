//! `ctl why`: what keeps a PersistentVolumeClaim from being bound or used, and what would mend it.
//!
//! Owns: the words of the command line, and the one paragraph. Never: changes anything: it reads, with the operator's own rights or
//! the pod's.
//!
//! `gather` looks, `judge` says what that means and asks nobody. Where to add a cause: the file of what it is about (`claim`,
//! `source`, `provision`, `place`, `bound`), and its place in the order, which is `judge`.

mod bound;
mod claim;
mod facts;
mod fit;
mod gather;
mod home;
mod judge;
mod place;
mod provision;
mod room;
mod source;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

use self::facts::Facts;
use self::gather::{Asked, Release, is_name};
use self::judge::{State, Verdict};
use super::answer::{self, Answer, Table};
use super::failure::{Failure, Outcome};
use crate::cluster::kubernetes::Kubernetes;
use crate::config::Endpoint;
use crate::error::{chain, quoted};

/// Which claim.
#[derive(Args, Debug)]
pub(super) struct Why {
    /// The claim, or NAMESPACE/CLAIM.
    #[arg(value_name = "PVC")]
    claim: String,

    /// Its namespace; without it that of your kubeconfig's context, or of the pod.
    #[arg(short, long, value_name = "NAMESPACE")]
    namespace: Option<String>,

    /// Your own credentials; without it the file that KUBECONFIG names, or ~/.kube/config, or in a pod the pod's own.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,

    /// The driver's name.
    #[arg(long, env = "ROCKPOOL_DRIVER_NAME", value_name = "NAME", default_value = "csi.rockpool.dev")]
    driver_name: String,

    /// The namespace that the driver is installed in; without it all are looked at, or that of the pod.
    #[arg(long, value_name = "NAMESPACE")]
    driver_namespace: Option<String>,
}

/// Looks and says; `controller` is the admin socket of one that can be asked about nodes and pools.
pub(super) async fn run(wanted: &Why, controller: Option<&Endpoint>, timeout: Duration) -> Outcome<Answer> {
    let (namespace, name) = wanted.title()?;
    let api = wanted.api().await?;
    let namespace = namespace.unwrap_or_else(|| api.namespace().to_owned());
    let checked = [("the namespace", &namespace), ("PVC", &name), ("--driver-name", &wanted.driver_name)];
    let release = wanted.driver_namespace.iter().map(|namespace| ("--driver-namespace", namespace));
    for (field, value) in checked.into_iter().chain(release) {
        if !is_name(value) {
            let want = "want a name of a Kubernetes object: lower case letters, digits, `-` and `.`";
            return Err(Failure::Usage(format!("{field} {}: {want}", quoted(value))));
        }
    }
    let own = || std::env::var("POD_NAMESPACE").ok().filter(|namespace| is_name(namespace));
    let release = wanted.driver_namespace.clone().map_or_else(|| Release::Anywhere(own()), Release::In);
    let asked = Asked { namespace, name, driver: wanted.driver_name.clone(), release };
    let facts = gather::look(&api, asked, controller.map(|endpoint| (endpoint, timeout))).await?;
    Ok(said(&facts, &judge::judge(&facts)))
}

impl Why {
    /// The namespace, where one was named, and the claim.
    fn title(&self) -> Outcome<(Option<String>, String)> {
        let Some((namespace, name)) = self.claim.split_once('/') else {
            return Ok((self.namespace.clone(), self.claim.clone()));
        };
        if name.contains('/') {
            let want = "want the name of a claim, or NAMESPACE/CLAIM";
            return Err(Failure::Usage(format!("PVC {}: {want}", quoted(&self.claim))));
        }
        if let Some(other) = self.namespace.as_ref().filter(|other| *other != namespace) {
            let why = format!(
                "PVC {} names another namespace than -n {}: want one of them",
                quoted(&self.claim),
                quoted(other)
            );
            return Err(Failure::Usage(why));
        }
        Ok((Some(namespace.to_owned()), name.to_owned()))
    }

    /// A person's credentials; in a pod without any those of the pod.
    async fn api(&self) -> Outcome<Kubernetes> {
        let is_in_pod = self.kubeconfig.is_none() && std::env::var_os("KUBERNETES_SERVICE_HOST").is_some();
        let api = if is_in_pod {
            Kubernetes::of_environment().await
        } else {
            Kubernetes::of_operator(self.kubeconfig.as_deref()).await
        };
        api.map_err(|error| Failure::Other(chain(&error)))
    }
}

/// The verdict for people and scripts.
fn said(facts: &Facts, verdict: &Verdict) -> Answer {
    let causes: Vec<Value> = verdict.0.iter().map(|cause| {
        json!({ "code": cause.code, "state": cause.state.word(), "what": cause.what, "fix": cause.fix })
    }).collect();
    let (state, text) = (verdict.state(), verdict.text());
    let json = json!({
        "namespace": facts.namespace,
        "claim": facts.name,
        "state": state.word(),
        "text": text,
        "causes": causes,
        "left_out": facts.left_out,
    });
    let notes = facts.left_out.iter().map(|what| format!("not looked at: {what}")).collect();
    let exit = match state {
        State::Well | State::Waits => answer::Verdict::Yes,
        State::Unknown | State::Wrong => answer::Verdict::No,
    };
    Answer::new(Table::new(&[&text]), json).with(exit).noting(notes)
}
