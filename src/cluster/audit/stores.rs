//! What Kubernetes says, kept up to date by watches: list once, page by page, and then hear what changes.
//!
//! Owns: which objects are kept, and whether what is kept can be believed now. Never: ends: where the API server is away, restarts or
//! has forgotten how far a watch was, it is tried on, with a growing pause, and meanwhile the objects stay as they were.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Config, Event, watcher};
use kube::{Api, Client};
use tokio::time::Instant;
use tokio_stream::StreamExt;

use super::kinds::{CsiNode, Kind, Node, PersistentVolume, PersistentVolumeClaim, StorageClass, Watched};
use crate::cluster::link::jittered;
use crate::error::chain;

/// The server ends a watch after so many seconds, and it goes on with another: a dead connection is noticed by then.
const WATCH: u32 = 45;
/// So long after an error nothing is believed: a watch that fails again fails again within this time, since the longest pause between
/// two attempts is a minute. One that has begun well and hears nothing says nothing.
pub(super) const QUIET: Duration = Duration::from_secs(75);
/// Before a watch begins anew that the server has forgotten.
const PAUSE: Duration = Duration::from_secs(1);

/// The kinds that are watched, as the metric calls them.
pub(super) const RESOURCES: [&str; 5] =
    ["persistentvolumes", "persistentvolumeclaims", "nodes", "csinodes", "storageclasses"];

/// The objects that matter to a driver.
pub(super) struct Stores {
    pub(super) volumes: Shelf<PersistentVolume>,
    pub(super) claims: Shelf<PersistentVolumeClaim>,
    pub(super) nodes: Shelf<Node>,
    pub(super) csi_nodes: Shelf<CsiNode>,
    pub(super) classes: Shelf<StorageClass>,
}

/// Those of one kind, by their names. Not the library's own store, which keeps the whole metadata of each: several times as much.
pub(super) struct Shelf<K> {
    objects: Mutex<Objects<K>>,
    health: Health,
}

type Objects<K> = BTreeMap<Box<str>, Arc<K>>;

/// How a watch fares.
struct Health {
    /// As `QUIET`.
    quiet: Duration,
    failures: AtomicU64,
    /// Whether there was a whole list once.
    listed: AtomicBool,
    /// The last failure, and what was said of it.
    trouble: Mutex<Option<(Instant, String)>>,
}

impl Stores {
    /// Nothing is known until they follow, nor for so long after a failure.
    pub(super) fn new(quiet: Duration) -> Stores {
        Stores {
            volumes: Shelf::new(quiet),
            claims: Shelf::new(quiet),
            nodes: Shelf::new(quiet),
            csi_nodes: Shelf::new(quiet),
            classes: Shelf::new(quiet),
        }
    }

    /// Watches what concerns a driver, until the future is dropped. Once.
    pub(super) async fn follow(&self, client: &Client, driver: &str) {
        tokio::join!(
            self.volumes.follow(client, driver),
            self.claims.follow(client, driver),
            self.nodes.follow(client, driver),
            self.csi_nodes.follow(client, driver),
            self.classes.follow(client, driver),
        );
    }

    /// How often each watch has failed, in the order of `RESOURCES`.
    pub(super) fn failures(&self) -> [u64; 5] {
        [
            &self.volumes.health,
            &self.claims.health,
            &self.nodes.health,
            &self.csi_nodes.health,
            &self.classes.health,
        ]
        .map(|health| health.failures.load(Ordering::Relaxed))
    }
}

impl<K: Kind> Shelf<K> {
    fn new(quiet: Duration) -> Shelf<K> {
        let (failures, listed) = (AtomicU64::new(0), AtomicBool::new(false));
        let health = Health { quiet, failures, listed, trouble: Mutex::new(None) };
        Shelf { objects: Mutex::default(), health }
    }

    /// What is there; nothing while that is not known for certain.
    pub(super) fn all(&self) -> Option<Vec<Arc<K>>> {
        self.health.is_well(Instant::now()).then(|| lock(&self.objects).values().cloned().collect())
    }

    /// What was known last, whether it can be believed or not.
    #[cfg(test)]
    pub(super) fn kept(&self) -> Vec<Arc<K>> {
        lock(&self.objects).values().cloned().collect()
    }

    /// The one of this name, as it was last heard of.
    pub(super) fn named(&self, name: &str) -> Option<Arc<K>> {
        lock(&self.objects).get(name).cloned()
    }

    async fn follow(&self, client: &Client, driver: &str) {
        let api: Api<Watched<K>> = Api::all(client.clone());
        let mut listed = Objects::new();
        loop {
            let config = Config::default().timeout(WATCH);
            let mut events = pin!(watcher(api.clone(), config).default_backoff());
            while let Some(event) = events.next().await {
                match event {
                    Ok(event) => self.take(event, driver, &mut listed),
                    Err(error) => {
                        self.health.fail(K::PLURAL, &error);
                        // As an answer, not as an event: the library would ask for the same again and again.
                        if is_expired(&error) {
                            break;
                        }
                    }
                }
            }
            tokio::time::sleep(jittered(PAUSE)).await;
        }
    }

    /// Takes in what a watch tells. A list takes the place of what was known once it is whole.
    fn take(&self, event: Event<Watched<K>>, driver: &str, listed: &mut Objects<K>) {
        let is_ours = |it: &Watched<K>| it.whose.as_ref().is_none_or(|whose| whose == driver);
        match event {
            Event::Init => {
                *listed = Objects::new();
                // That a list is asked for says nothing yet.
                return;
            }
            // Until the list is whole, what is known is as old as it was.
            Event::InitApply(it) => {
                if is_ours(&it) {
                    listed.insert(it.key(), Arc::new(it.object));
                }
                return;
            }
            Event::InitDone => {
                *lock(&self.objects) = std::mem::take(listed);
                self.health.listed.store(true, Ordering::Relaxed);
            }
            Event::Apply(it) if is_ours(&it) => _ = lock(&self.objects).insert(it.key(), Arc::new(it.object)),
            Event::Apply(it) | Event::Delete(it) => _ = lock(&self.objects).remove(&it.key()),
        }
        *lock(&self.health.trouble) = None;
    }
}

impl Health {
    /// Counts it, and says it once while it goes on.
    fn fail(&self, plural: &str, error: &watcher::Error) {
        self.failures.fetch_add(1, Ordering::Relaxed);
        let (now, error) = (Instant::now(), chain(error));
        let mut trouble = lock(&self.trouble);
        let is_said = trouble.as_ref().is_some_and(|(at, said)| *said == error && now - *at < self.quiet);
        if !is_said {
            tracing::warn!(
                resource = plural,
                error,
                "a watch failed; what was known holds, and it is tried on"
            );
        }
        *trouble = Some((now, error));
    }

    fn is_well(&self, now: Instant) -> bool {
        let is_quiet = lock(&self.trouble).as_ref().is_none_or(|(at, _)| now - *at >= self.quiet);
        is_quiet && self.listed.load(Ordering::Relaxed)
    }
}

/// Whether the server has forgotten how far the watch was.
fn is_expired(error: &watcher::Error) -> bool {
    matches!(error, watcher::Error::WatchStartFailed(kube::Error::Api(status)) if status.code == 410)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
