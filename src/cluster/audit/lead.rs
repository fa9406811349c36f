//! Which of several controllers tells: a Lease, as the sidecars have theirs.
//!
//! Owns: when this one leads. Never: believes another's clock, nor its own for more than what has passed since: a lease is free when it
//! has not changed for its whole length *here*. A leader that cannot renew it stops before anybody else may begin.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

use super::events::micro_time;
use crate::cluster::kubernetes::{Answer, Fault, Kubernetes};
use crate::cluster::link::jittered;
use crate::model::Time;

/// For giving the lease back at the end.
const PARTING: Duration = Duration::from_secs(2);

/// How long what takes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    /// How long a lease holds.
    pub(super) lease: Duration,
    /// How long a leader leads without having renewed it; shorter.
    pub(super) deadline: Duration,
    /// How often it is renewed, at least: twice in a deadline. A try may take half of it.
    pub(super) retry: Duration,
}

impl Default for Times {
    /// Those of the sidecars.
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Times { lease: seconds(15), deadline: seconds(10), retry: seconds(5) }
    }
}

/// One contender.
pub(super) struct Lead {
    api: Kubernetes,
    namespace: String,
    name: String,
    identity: String,
    times: Times,
    state: Mutex<State>,
    parting: AtomicBool,
}

#[derive(Default)]
struct State {
    /// Since when it leads, and when it renewed the lease last: before it asked, not when it was answered.
    leads: Option<(Instant, Instant)>,
    /// What was seen of another's lease, and since when it looks like that.
    seen: Option<(String, Instant)>,
    said: String,
}

impl Lead {
    /// For the lease of this name; nobody else may have the same identity.
    pub(super) fn new(api: Kubernetes, namespace: &str, name: &str, identity: &str) -> Lead {
        Lead {
            api,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            identity: identity.to_owned(),
            times: Times::default(),
            state: Mutex::default(),
            parting: AtomicBool::new(false),
        }
    }

    /// The same in another time.
    #[cfg(test)]
    pub(super) fn with(self, times: Times) -> Lead {
        Lead { times, ..self }
    }

    /// For how long it leads without a break; none while it does not.
    pub(super) fn leads(&self) -> Option<Duration> {
        let (since, renewed) = self.state().leads?;
        (renewed.elapsed() < self.times.deadline).then(|| since.elapsed())
    }

    /// Whether it has nothing to go back to: another leads, for all that is known. Who only could not renew in time has.
    pub(super) fn is_lost(&self) -> bool {
        self.state().leads.is_none()
    }

    /// Tries and renews, until the future is dropped.
    pub(super) async fn follow(&self) {
        loop {
            if !self.parting.load(Ordering::Acquire) {
                self.contend().await;
            }
            // Who waits looks twice as often: a change is seen sooner, and with it the end of the lease.
            let pause = if self.leads().is_some() { self.times.retry } else { self.times.retry / 2 };
            tokio::time::sleep(jittered(pause)).await;
        }
    }

    /// Gives the lease back, so that another need not wait for its end.
    pub(super) async fn part(&self) {
        self.parting.store(true, Ordering::Release);
        let led = self.leads().is_some();
        self.state().leads = None;
        if led {
            let _ = timeout(PARTING, self.release()).await;
        }
    }

    async fn contend(&self) {
        let asked = Instant::now();
        let taken = timeout(self.times.retry / 2, self.take()).await;
        let taken = taken.unwrap_or_else(|_| Err(Fault::Away("no answer in time".to_owned())));
        if self.parting.load(Ordering::Acquire) {
            return;
        }
        let mut state = self.state();
        match taken {
            Ok(true) => {
                let before = state.leads.filter(|(_, renewed)| renewed.elapsed() < self.times.deadline);
                if before.is_none() {
                    tracing::info!(
                        lease = self.name,
                        identity = self.identity,
                        "this controller leads: it compares and tells"
                    );
                }
                state.leads = Some((before.map_or(asked, |(since, _)| since), asked));
                state.said.clear();
            }
            Ok(false) => {
                if state.leads.take().is_some() {
                    tracing::info!(lease = self.name, "another controller leads");
                }
                state.said.clear();
            }
            // Whether it holds still, time tells.
            Err(fault) => {
                let error = fault.to_string();
                if error != state.said {
                    tracing::warn!(lease = self.name, error, "failed to take or renew the lease; trying on");
                    state.said = error;
                }
            }
        }
    }

    /// Takes the lease, or renews it; whether it is this one's now.
    async fn take(&self) -> Answer<bool> {
        let there = self.read().await?;
        let Some(mut lease) = there else {
            let lease = json!({
                "apiVersion": "coordination.k8s.io/v1",
                "kind": "Lease",
                "metadata": { "name": self.name, "namespace": self.namespace },
                "spec": self.spec(0, None),
            });
            return held(self.api.post::<Value>(&self.all(), &lease).await);
        };
        let spec = &lease["spec"];
        let (holder, moves) =
            (spec["holderIdentity"].as_str().unwrap_or_default(), spec["leaseTransitions"].as_u64());
        let is_own = holder == self.identity;
        if !is_own && !holder.is_empty() && !self.is_over(spec) {
            return Ok(false);
        }
        let moves = moves.unwrap_or_default() + u64::from(!is_own);
        let acquired = is_own.then(|| spec["acquireTime"].as_str().map(str::to_owned)).flatten();
        lease["spec"] = self.spec(moves, acquired);
        held(self.api.put::<Value>(&self.one(), &lease).await)
    }

    /// Whether another's lease has looked the same for its whole length.
    fn is_over(&self, spec: &Value) -> bool {
        let (looks, now) = (spec.to_string(), Instant::now());
        let mut state = self.state();
        let since = state.seen.as_ref().filter(|(before, _)| *before == looks).map(|(_, since)| *since);
        state.seen = Some((looks, since.unwrap_or(now)));
        // Another release may hold it for longer.
        let length = spec["leaseDurationSeconds"]
            .as_u64()
            .map_or(self.times.lease, Duration::from_secs)
            .max(self.times.lease);
        since.is_some_and(|since| now - since > length.min(4 * self.times.lease))
    }

    async fn release(&self) -> Answer<()> {
        let Some(mut lease) = self.read().await? else { return Ok(()) };
        if lease["spec"]["holderIdentity"] == self.identity.as_str() {
            lease["spec"]["holderIdentity"] = json!("");
            lease["spec"]["leaseDurationSeconds"] = json!(1);
            self.api.put::<Value>(&self.one(), &lease).await?;
        }
        Ok(())
    }

    async fn read(&self) -> Answer<Option<Value>> {
        match self.api.get::<Value>(&self.one()).await {
            Err(Fault::Refused(404, _)) => Ok(None),
            answer => answer.map(Some),
        }
    }

    fn spec(&self, moves: u64, acquired: Option<String>) -> Value {
        // For people; nobody decides by it.
        let now = micro_time(Time::now());
        json!({
            "holderIdentity": self.identity,
            "leaseDurationSeconds": self.times.lease.as_secs(),
            "acquireTime": acquired.unwrap_or_else(|| now.clone()),
            "renewTime": now,
            "leaseTransitions": moves,
        })
    }

    fn all(&self) -> String {
        format!("/apis/coordination.k8s.io/v1/namespaces/{}/leases", self.namespace)
    }

    fn one(&self) -> String {
        format!("{}/{}", self.all(), self.name)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Somebody else was there first, or it has been taken away.
fn held(written: Answer<Value>) -> Answer<bool> {
    match written {
        Ok(_) => Ok(true),
        Err(Fault::Refused(404 | 409, _)) => Ok(false),
        Err(fault) => Err(fault),
    }
}
