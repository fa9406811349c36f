//! Which nodes ought to be there, whoever is connected.
//!
//! Owns: what Kubernetes, or a file, says of the nodes, and since when one is gone. Never: takes silence for a departure: while
//! nobody can be asked, what was said last holds, and no time passes for who is missing.
//!
//! In Kubernetes a node is *expected* while its Node object has the driver's topology label, which kubelet sets when it registers
//! the driver and leaves there when the driver's pod is replaced, or its CSINode names the driver. It is *gone* when its Node object
//! has been missing from every list for over a minute: a list may be a little old. With a file it is expected while its name stands
//! there, and gone as soon as that does not. Without either nothing is known, and who was never seen is waited for.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Deserialize;
use tokio::time::Instant;

use super::kubernetes::{Kubernetes, or_default};
use super::link::jittered;
use crate::error::{Error, Result, chain, quoted, quoted_path};
use crate::model::{NodeId, TOPOLOGY_KEY};

/// How often Kubernetes is asked.
const LIST: Duration = Duration::from_secs(30);
/// How often the file is read.
const LOOK: Duration = Duration::from_secs(5);
/// How soon after a failure where nothing is known yet.
const FIRST: Duration = Duration::from_secs(1);
/// So long a file has to stay as it is: whoever writes it may not be done.
const STILL: Duration = Duration::from_millis(200);
/// So long a Node object is missing before its node is gone.
const SETTLE: Duration = Duration::from_secs(60);
/// So many missing names are remembered: they come from callers, too.
const MANY: usize = 100_000;

/// Who says which nodes there are.
#[derive(Clone)]
pub enum Source {
    /// Nodes, and CSINodes with the driver of this name.
    Kubernetes(Kubernetes, String),
    /// A file with a node's id on each line; `#` begins a comment.
    File(PathBuf),
}

/// What is known of them.
#[derive(Default)]
pub struct Roster {
    source: Option<Source>,
    /// So long a node is missing before it is gone.
    settle: Duration,
    /// So long before its pools are lost; none: never by itself.
    grace: Option<Duration>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// What the last list said; none before the first.
    last: Option<(Listed, Instant)>,
    /// Why there was none.
    trouble: Option<String>,
    /// Since which list a node is missing.
    missing: BTreeMap<NodeId, Instant>,
}

/// One list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Listed {
    /// Those that exist.
    there: BTreeSet<NodeId>,
    /// Those of them that ought to be connected.
    expected: BTreeSet<NodeId>,
}

#[derive(Deserialize)]
#[serde(bound = "T: Deserialize<'de>")]
struct List<T> {
    #[serde(deserialize_with = "or_default")]
    items: Vec<T>,
}

#[derive(Deserialize)]
struct Metadata {
    name: String,
    #[serde(default, deserialize_with = "or_default")]
    labels: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Node {
    metadata: Metadata,
}

#[derive(Deserialize)]
struct CsiNode {
    metadata: Metadata,
    #[serde(default)]
    spec: Spec,
}

#[derive(Default, Deserialize)]
struct Spec {
    #[serde(default, deserialize_with = "or_default")]
    drivers: Vec<Driver>,
}

#[derive(Deserialize)]
struct Driver {
    name: String,
}

impl Roster {
    /// Nothing is known until [`Roster::follow`] runs. In Kubernetes the pools of a node that is gone for `grace` are lost.
    pub fn new(source: Source, grace: Duration) -> Roster {
        let (settle, grace) = match &source {
            Source::Kubernetes(..) => (SETTLE, Some(grace)),
            Source::File(_) => (Duration::ZERO, None),
        };
        Roster { source: Some(source), settle, grace, state: Mutex::default() }
    }

    /// A roster that a test writes.
    #[cfg(test)]
    pub(super) fn of_test(settle: Duration, grace: Duration) -> Roster {
        Roster { source: None, settle, grace: Some(grace), state: Mutex::default() }
    }

    /// Asks again and again, until the future is dropped.
    pub async fn follow(self: Arc<Self>) {
        let Some(source) = &self.source else { return };
        let pause = if matches!(source, Source::File(_)) { LOOK } else { LIST };
        let mut said = String::new();
        loop {
            match source.list().await {
                Ok(listed) => {
                    self.learn(listed, Instant::now());
                    said.clear();
                }
                Err(error) => {
                    let error = chain(&error);
                    self.state().trouble = Some(error.clone());
                    if error != said {
                        tracing::warn!(error, "failed to learn which nodes there are; what was known holds");
                        said = error;
                    }
                }
            }
            // Until it is known once, little can be answered.
            let pause = if self.unread().is_some() { FIRST } else { pause };
            tokio::time::sleep(jittered(pause)).await;
        }
    }

    /// The nodes that ought to be connected; none where that is not known.
    pub fn expected(&self) -> Option<BTreeSet<NodeId>> {
        self.state().last.as_ref().map(|(listed, _)| listed.expected.clone())
    }

    /// Why it is not known which nodes there are, where that ought to be known. What was known once holds.
    pub fn unread(&self) -> Option<String> {
        let state = self.state();
        let is_unread = self.source.is_some() && state.last.is_none();
        is_unread.then(|| state.trouble.clone().unwrap_or_else(|| "nobody has said so yet".to_owned()))
    }

    /// Whether a node is surely no longer there. That it is connected all the same is for others to see.
    pub fn is_gone(&self, node: &NodeId) -> bool {
        self.missing(node).is_some_and(|time| time >= self.settle)
    }

    /// Whether it is gone for so long that what it had is lost.
    pub fn is_lost(&self, node: &NodeId) -> bool {
        let missing = self.missing(node);
        self.grace.is_some_and(|grace| missing.is_some_and(|time| time >= self.settle.max(grace)))
    }

    /// For how long a node is missing: from the first list without it that mattered to somebody, to the last.
    fn missing(&self, node: &NodeId) -> Option<Duration> {
        let mut state = self.state();
        let (listed, at) = state.last.as_ref()?;
        if listed.there.contains(node) {
            return None;
        }
        let at = *at;
        if state.missing.len() >= MANY {
            state.missing.clear();
        }
        let since = *state.missing.entry(node.clone()).or_insert(at);
        Some(at.duration_since(since))
    }

    fn learn(&self, listed: Listed, at: Instant) {
        let mut state = self.state();
        let mut left = BTreeSet::new();
        if let Some((before, _)) = &state.last {
            left.extend(before.there.difference(&listed.there).cloned());
        }
        state.missing.retain(|node, _| !listed.there.contains(node));
        for node in left {
            tracing::info!(%node, "a node is no longer on the roster");
            state.missing.entry(node).or_insert(at);
        }
        state.last = Some((listed, at));
    }

    /// What a list would say.
    #[cfg(test)]
    pub(super) fn say(&self, there: &[&str], expected: &[&str]) {
        self.say_at(there, expected, Duration::ZERO);
    }

    /// The same, so long from now.
    #[cfg(test)]
    pub(super) fn say_at(&self, there: &[&str], expected: &[&str], later: Duration) {
        let nodes = |names: &[&str]| names.iter().map(|name| name.parse().unwrap()).collect();
        self.learn(Listed { there: nodes(there), expected: nodes(expected) }, Instant::now() + later);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Source {
    /// Checks what can be checked before anything is served.
    ///
    /// # Errors
    /// `Invalid`, naming the flag.
    pub fn check(&self) -> Result<()> {
        match self {
            Source::Kubernetes(..) => Ok(()),
            Source::File(path) => read(path).map(drop),
        }
    }

    async fn list(&self) -> Result<Listed> {
        match self {
            Source::Kubernetes(api, driver) => list(api, driver).await,
            Source::File(path) => {
                let before = read(path)?;
                tokio::time::sleep(STILL).await;
                let after = read(path)?;
                if before != after {
                    return Err(Error::Unavailable(format!(
                        "--nodes {} is being written",
                        quoted_path(path)
                    )));
                }
                Ok(after)
            }
        }
    }
}

/// Nodes whose names are no ids of ours cannot be dialled from, and are left out.
async fn list(api: &Kubernetes, driver: &str) -> Result<Listed> {
    // From the server's memory: how old it may be is what `SETTLE` is for.
    let csi = api.get::<List<CsiNode>>("/apis/storage.k8s.io/v1/csinodes?resourceVersion=0").await;
    let csi = csi.map_err(|fault| fault.open())?;
    // The nodes last: one that came meanwhile is there at least.
    let nodes = api.metadata::<List<Node>>("/api/v1/nodes?resourceVersion=0").await;
    let nodes = nodes.map_err(|fault| fault.open())?;
    let id = |metadata: &Metadata| metadata.name.parse::<NodeId>().ok();
    let there: BTreeSet<NodeId> = nodes.items.iter().filter_map(|node| id(&node.metadata)).collect();
    let labelled = nodes.items.iter().filter(|node| node.metadata.labels.contains_key(TOPOLOGY_KEY));
    let registered = csi.items.iter().filter(|node| node.spec.drivers.iter().any(|one| one.name == driver));
    let ours = labelled.map(|node| &node.metadata).chain(registered.map(|node| &node.metadata));
    let expected = ours.filter_map(id).filter(|node| there.contains(node)).collect();
    Ok(Listed { there, expected })
}

fn read(path: &Path) -> Result<Listed> {
    let wrong = |why: String| Error::Invalid(format!("--nodes {}: {why}", quoted_path(path)));
    let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim()).enumerate();
    let lines = lines.filter(|(_, line)| !line.is_empty());
    let nodes: Result<BTreeSet<NodeId>> = lines
        .map(|(number, line)| {
            line.parse().map_err(|_| wrong(format!("line {}: {} is no node id", number + 1, quoted(line))))
        })
        .collect();
    let there = nodes?;
    if there.is_empty() {
        // As it is while somebody writes it anew: nobody's node is gone by that.
        return Err(wrong("it names no node".to_owned()));
    }
    Ok(Listed { expected: there.clone(), there })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::link::tests::authority::Authority;
    use crate::cluster::tests::kubernetes::{Api, Mood};

    fn id(name: &str) -> NodeId {
        name.parse().unwrap()
    }

    #[tokio::test]
    async fn kubernetes_says_which_nodes_have_the_driver() {
        let (authority, api) = (Authority::new(), Api::start());
        let config = authority.put("kubeconfig", &api.kubeconfig());
        let client = Kubernetes::of_operator(Some(&config)).await.unwrap();
        api.add_node("n1");
        api.add_node("n2");
        api.add_node("other");
        api.add_node("replaced");
        api.add_node("unlabelled");
        // A node without the driver, one whose driver is just being replaced, a CSINode that its node has left behind.
        let nothing = |name: &str| serde_json::json!({ "metadata": { "name": name } });
        let put = |path: &str, name: &str| api.world().put(&format!("{path}/{name}"), nothing(name));
        put("/api/v1/nodes", "other");
        put("/api/v1/nodes", "unlabelled");
        // As the API server says it where there are no drivers, and no labels.
        let bare = serde_json::json!({ "metadata": { "name": "other", "labels": null }, "spec": { "drivers": null } });
        api.world().put("/apis/storage.k8s.io/v1/csinodes/other", bare);
        put("/apis/storage.k8s.io/v1/csinodes", "replaced");
        api.world().objects.remove("/api/v1/nodes/n2");
        let source = Source::Kubernetes(client, "csi.rockpool.dev".to_owned());
        let listed = source.list().await.unwrap();
        assert_eq!(listed.there, ["n1", "other", "replaced", "unlabelled"].map(id).into());
        assert_eq!(listed.expected, ["n1", "replaced", "unlabelled"].map(id).into());
        for mood in [Mood::Away, Mood::Ill, Mood::Other] {
            api.be(mood);
            assert!(source.list().await.is_err(), "{mood:?}");
        }
    }

    #[test]
    fn a_node_is_gone_only_after_lists_have_said_so_for_long_enough() {
        let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
        let roster = Roster::of_test(minutes(1), minutes(10));
        assert!(!roster.is_gone(&id("n1")) && roster.expected().is_none(), "nothing is known");
        roster.say_at(&["n1", "n2"], &["n1"], minutes(0));
        assert!(!roster.is_gone(&id("n1")) && !roster.is_gone(&id("n3")), "asked for once");
        roster.say_at(&["n2"], &[], minutes(2));
        assert!(roster.is_gone(&id("n3")) && !roster.is_gone(&id("n1")));
        roster.say_at(&["n2"], &[], minutes(4));
        assert!(roster.is_gone(&id("n1")) && !roster.is_lost(&id("n1")));
        assert!(!roster.is_lost(&id("n3")), "however long the API server says nothing");
        roster.say_at(&["n2"], &[], minutes(13));
        assert!(roster.is_lost(&id("n1")) && !roster.is_gone(&id("n2")));
        roster.say_at(&["n1"], &["n1"], minutes(14));
        assert!(!roster.is_gone(&id("n1")), "it is back");
        roster.say_at(&[], &[], minutes(15));
        assert!(!roster.is_gone(&id("n1")), "and its time begins anew");
    }

    #[test]
    fn a_file_names_a_node_a_line() {
        let authority = Authority::new();
        let path = authority.put("nodes", "# ours\nn1\n\n  n2 # the old one\n");
        assert_eq!(read(&path).unwrap().expected, [id("n1"), id("n2")].into());
        let path = authority.put("nodes", "n1\nn 2\n");
        let said = read(&path).unwrap_err().to_string();
        assert!(said.contains("--nodes") && said.contains("line 2: `n 2`"), "{said}");
        let empty = authority.put("empty", "# all of them have left\n\n");
        assert!(read(&empty).unwrap_err().to_string().contains("no node"), "or it is being written");
        assert!(read(&authority.path("missing")).unwrap_err().to_string().contains("missing"));
        let roster = Roster::new(Source::File(path), Duration::ZERO);
        assert!(roster.unread().is_some() && Roster::default().unread().is_none());
        roster.say(&["n1"], &["n1"]);
        assert!(roster.unread().is_none());
        assert!(roster.is_gone(&id("n2")) && !roster.is_lost(&id("n2")), "what it had is lost only by word");
    }

    #[tokio::test]
    async fn a_file_that_is_being_written_is_not_believed() {
        let authority = Authority::new();
        let source = Source::File(authority.put("nodes", "n1\nn2\n"));
        let (listed, ()) = tokio::join!(source.list(), async {
            tokio::time::sleep(STILL / 4).await;
            authority.put("nodes", "n1\n");
        });
        assert!(listed.unwrap_err().to_string().contains("being written"));
        assert_eq!(source.list().await.unwrap().there, [id("n1")].into());
    }
}
