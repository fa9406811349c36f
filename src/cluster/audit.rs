//! What a controller compares and tells in Kubernetes: the loop over PersistentVolumes, claims, Nodes, CSINodes and what nodes tell.
//!
//! Owns: when is looked, that one controller of all tells, and what of it metrics show. Never: deletes or changes anything but its own
//! Events and its Lease: it reports, always, and there is no switch for more. An operator deletes, with `rockpool ctl`.
//!
//! ```text
//!   watches ── stores ──┐
//!   nodes ──── news ────┼── judge ───── findings ── queue ── Events    (the leader alone)
//!   lists of volumes ───┴── compare ───────┘
//! ```
//!
//! Every controller keeps its stores and its judge's memory warm, so that the next leader goes on where the last one stopped.

mod compare;
mod events;
mod finding;
mod judge;
mod kinds;
mod lead;
mod queue;
mod stores;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use self::compare::{Compared, Comparison, Listed, Places, Sides};
use self::events::{Reporter, There};
use self::finding::{Finding, REASONS, Reason};
use self::judge::{Judge, Scene};
use self::lead::Lead;
use self::queue::{Queue, Rate};
use self::stores::{QUIET, RESOURCES, Stores};
use super::kubernetes::{Fault, Kubernetes};
use super::link::{jittered, random};
use super::news::{Seen, Standing};
use super::router::Router;
use crate::model::{NodeId, PoolId};

/// So many nodes are asked for their volumes at once.
const AT_ONCE: usize = 16;

/// What an audit is told.
#[derive(Clone, Debug)]
pub struct Terms {
    /// The namespace of the Lease.
    pub namespace: String,
    /// The name of this controller's pod: no other's.
    pub pod: String,
    /// Between two comparisons of volumes with PersistentVolumes.
    pub interval: Duration,
    /// How long a node is gone before that is reported, where a StorageClass does not say.
    pub gone_after: Duration,
}

/// How patient it is.
#[derive(Clone, Copy, Debug)]
struct Pace {
    /// Between two looks at what is known already.
    look: Duration,
    /// For so long a difference must be there, and a pool be unwell.
    settle: Duration,
    unwell: Duration,
    /// For so long after a failure nothing is believed that Kubernetes said.
    quiet: Duration,
    rate: Rate,
}

impl Default for Pace {
    fn default() -> Self {
        Pace {
            look: Duration::from_secs(5),
            settle: Duration::from_secs(120),
            unwell: Duration::from_secs(30),
            quiet: QUIET,
            rate: Rate::default(),
        }
    }
}

/// The audit of one controller.
pub struct Audit {
    api: Kubernetes,
    router: Router,
    driver: String,
    interval: Duration,
    pace: Pace,
    stores: Stores,
    lead: Lead,
    reporter: Reporter,
    state: Mutex<State>,
}

struct State {
    judge: Judge,
    comparison: Comparison,
    /// What the last comparison came to; none before the first.
    compared: Option<Compared>,
    /// What was found of nodes when Kubernetes was seen last: while it cannot be seen, that holds.
    of_nodes: Vec<Finding>,
    queue: Queue,
    told: BTreeMap<Reason, u64>,
    /// What was said of Events that cannot be written.
    said: String,
}

/// What metrics show of it.
#[derive(Clone, Debug)]
pub struct Figures {
    /// Whether this controller leads. The others know of nodes, and count nothing.
    pub leads: bool,
    /// Volumes to which no PersistentVolume leads, PersistentVolumes without a volume; none before they were compared.
    pub lone: Option<(u64, u64)>,
    /// PersistentVolumes whose pool no node has; none before.
    pub without_pool: Option<u64>,
    /// Nodes with volumes that are gone for too long.
    pub nodes_gone: u64,
    /// Nodes with volumes that are there, and whose kubelet does not know the driver for too long.
    pub nodes_without_driver: u64,
    /// How often each watch failed.
    pub failures: [(&'static str, u64); 5],
    /// Events that were written, by reason.
    pub told: Vec<(&'static str, u64)>,
    /// Events that were left out, since there were too many.
    pub dropped: u64,
}

/// A name for a controller that was not given one.
pub fn nameless() -> String {
    let name: String = random::<8>().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("rockpool-{name}")
}

impl Audit {
    /// Of the driver of this name. Nothing happens until [`Audit::follow`] runs.
    pub fn new(api: Kubernetes, router: Router, driver: &str, terms: Terms) -> Audit {
        Audit::with(api, router, driver, terms, Pace::default())
    }

    fn with(api: Kubernetes, router: Router, driver: &str, terms: Terms, pace: Pace) -> Audit {
        let Terms { namespace, pod, interval, gone_after } = terms;
        let lease = format!("rockpool-{}", driver.replace('.', "-"));
        let of_judge = judge::Terms { driver: driver.to_owned(), gone_after, unwell: pace.unwell };
        let state = State {
            judge: Judge::new(of_judge),
            comparison: Comparison::new(pace.settle),
            compared: None,
            of_nodes: Vec::new(),
            queue: Queue::new(pace.rate, Instant::now()),
            told: BTreeMap::new(),
            said: String::new(),
        };
        Audit {
            lead: Lead::new(api.clone(), &namespace, &lease, &pod),
            reporter: Reporter { api: api.clone(), driver: driver.to_owned(), instance: pod },
            api,
            router,
            driver: driver.to_owned(),
            interval,
            pace,
            stores: Stores::new(pace.quiet),
            state: Mutex::new(state),
        }
    }

    /// Watches, compares and tells, until the future is dropped.
    ///
    /// # Errors
    /// `Precondition` where the credentials cannot be used.
    pub async fn follow(self: Arc<Self>) -> crate::error::Result<()> {
        let client = self.api.watching()?;
        tokio::join!(
            self.stores.follow(&client, &self.driver),
            self.lead.follow(),
            self.tell_on(),
            self.compare_on()
        );
        Ok(())
    }

    /// Lets another lead at once.
    pub async fn part(&self) {
        self.lead.part().await;
    }

    /// What metrics show.
    pub fn figures(&self) -> Figures {
        let (failures, leads) = (self.stores.failures(), self.lead.leads().is_some());
        let state = self.state();
        let nodes = |reason: Reason| {
            let is_meant = |it: &&Finding| it.reason == reason && !it.is_one_of_many();
            u64::try_from(state.of_nodes.iter().filter(is_meant).count()).unwrap_or(u64::MAX)
        };
        let told = |reason: Reason| (reason.name(), state.told.get(&reason).copied().unwrap_or_default());
        Figures {
            leads,
            lone: state.compared.as_ref().map(|compared| (compared.volumes, compared.persistent)),
            without_pool: state.compared.as_ref().map(|compared| compared.without_pool),
            nodes_gone: nodes(Reason::NodeGone),
            nodes_without_driver: nodes(Reason::DriverNotRegistered),
            failures: std::array::from_fn(|at| (RESOURCES[at], failures[at])),
            told: REASONS.into_iter().map(told).collect(),
            dropped: state.queue.dropped(),
        }
    }

    /// Looks at what is known, and tells what is due.
    async fn tell_on(&self) {
        loop {
            let findings = self.look();
            if let Some(leading) = self.lead.leads() {
                self.state().queue.keep(findings, Instant::now());
                // What is there already in the first while, the leader before has told.
                self.tell(if leading < self.pace.rate.again { There::Left } else { There::Again }).await;
            } else {
                let mut state = self.state();
                // Nobody knows how long this lasts, and whether it is still so then.
                state.compared = None;
                if self.lead.is_lost() {
                    state.queue.clear();
                    state.comparison = Comparison::new(self.pace.settle);
                }
            }
            tokio::time::sleep(self.pace.look).await;
        }
    }

    fn look(&self) -> Vec<Finding> {
        let (now, seen) = (Instant::now(), self.router.known().nodes());
        let scene = Scene::of(&self.stores);
        let mut state = self.state();
        let mut findings = state.judge.pools(&seen, |node| self.uid(node), now);
        match &scene {
            Some(scene) => state.of_nodes = state.judge.nodes(scene, &seen, now),
            None => state.judge.blink(),
        }
        findings.extend_from_slice(&state.of_nodes);
        findings.extend(state.compared.iter().flat_map(|compared| compared.findings.clone()));
        findings
    }

    async fn tell(&self, there: There) {
        loop {
            let Some(finding) = self.state().queue.next(Instant::now()) else { return };
            // While it was written, another may have begun to lead.
            if self.lead.leads().is_none() {
                return;
            }
            let there = if finding.is_news() { There::Again } else { there };
            let told = self.reporter.tell(&finding, there).await;
            let mut state = self.state();
            match told {
                Ok(is_written) => {
                    state.queue.told(&finding.key(), Instant::now());
                    *state.told.entry(finding.reason).or_default() += u64::from(is_written);
                    state.said.clear();
                }
                Err(fault) => {
                    state.queue.failed(&finding.key(), Instant::now());
                    let error = fault.to_string();
                    if error != state.said {
                        let (reason, about) = (finding.reason.name(), &finding.about.name);
                        tracing::warn!(reason, about, error, "failed to write an event; trying on");
                        state.said = error;
                    }
                    // Nobody listens: the others need not be tried now.
                    if matches!(fault, Fault::Away(_)) {
                        return;
                    }
                }
            }
        }
    }

    /// Compares volumes with PersistentVolumes while it leads.
    async fn compare_on(&self) {
        loop {
            let is_open = if self.lead.leads().is_some() { self.compare().await } else { None };
            let pause = match is_open {
                // It does not lead, or what it needs is not there yet.
                None => self.pace.look,
                Some(true) => self.interval.min(self.pace.settle),
                Some(false) => self.interval,
            };
            let next = Instant::now() + jittered(pause);
            // What was known before a lapse is forgotten: then it is compared as soon as it can be.
            while Instant::now() < next && !(is_open.is_some() && self.state().compared.is_none()) {
                tokio::time::sleep(self.pace.look.min(pause)).await;
            }
        }
    }

    /// Compares once; whether another look will tell more soon. None where it cannot be done.
    async fn compare(&self) -> Option<bool> {
        let (before, seen) = (self.stores.volumes.all()?, self.router.known().nodes());
        let mut places = Places::of(&seen);
        // What is declared lost nobody waits for.
        let used = before.iter().filter_map(|volume| Some(volume.volume.as_ref().ok()?.pool()));
        places.know(used.filter(|pool| self.router.is_lost(*pool)));
        let pools = self.pools(&seen).await;
        let (after, claims) = (self.stores.volumes.all()?, self.stores.claims.all()?);
        // A pool that hangs is waited for; meanwhile another may lead.
        self.lead.leads()?;
        let sides = Sides { before, after, claims, pools, places };
        let mut state = self.state();
        let compared = state.comparison.look(&sides, Instant::now());
        let is_open = compared.is_open;
        tracing::debug!(
            pools = sides.pools.len(),
            volumes = compared.volumes,
            persistentvolumes = compared.persistent,
            "volumes and PersistentVolumes are compared"
        );
        state.compared = Some(compared);
        Some(is_open)
    }

    /// Lists every pool that is where it should be, the nodes side by side: one that hangs keeps no other waiting.
    async fn pools(&self, seen: &[Seen]) -> BTreeMap<PoolId, Listed> {
        let (mut listing, mut listed) = (JoinSet::new(), BTreeMap::new());
        for seen in seen {
            if listing.len() >= AT_ONCE {
                listed.extend(listing.join_next().await.and_then(Result::ok).into_iter().flatten());
            }
            let (router, uid) = (self.router.clone(), self.uid(&seen.node));
            listing.spawn(pools_of(router, seen.node.clone(), uid, listable(seen)));
        }
        while let Some(one) = listing.join_next().await {
            listed.extend(one.into_iter().flatten());
        }
        listed
    }

    fn uid(&self, node: &NodeId) -> Option<String> {
        self.stores.nodes.named(node.as_str()).map(|node| node.uid.to_string())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Those pools of a node that it lists.
async fn pools_of(
    router: Router,
    node: NodeId,
    uid: Option<String>,
    pools: Vec<(String, PoolId)>,
) -> Vec<(PoolId, Listed)> {
    let mut listed = Vec::new();
    for (name, id) in pools {
        match router.volumes_in(id).await {
            Ok(volumes) => listed.push((id, Listed { node: node.clone(), uid: uid.clone(), name, volumes })),
            Err(status) => {
                tracing::debug!(pool = %id, error = status.message(), "a pool is left out of the comparison");
            }
        }
    }
    listed
}

/// The pools of a node that can be listed whole.
fn listable(seen: &Seen) -> Vec<(String, PoolId)> {
    if seen.standing != Standing::Told {
        return Vec::new();
    }
    let fit = seen
        .pools
        .iter()
        .filter(|(_, pool)| pool.away.is_none() && !pool.unread && pool.gone.is_none() && !pool.twice);
    fit.filter_map(|(name, pool)| Some((name.clone(), pool.id?))).collect()
}
