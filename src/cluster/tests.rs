//! A controller with nodes around it, in memory: real links, and nodes that say and do what a test tells them to.

pub(in crate::cluster) mod fake;
#[allow(dead_code, reason = "each program uses a part of it")]
#[path = "../../tests/support/kubernetes.rs"]
pub(in crate::cluster) mod kubernetes;
pub(in crate::cluster) mod store;
mod transfers;

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tonic::service::Routes;

pub(in crate::cluster) use self::fake::Fake;
use super::link::Links;
use super::link::controller::Desk;
use super::link::tests::authority::{self, Authority};
use super::link::tests::join;
pub(in crate::cluster) use super::link::tests::{id, soon};
use super::news::{Known, Pace, Standing};
use crate::serve::Linked;

/// A stream begins anew at once, but not because a test node says nothing for a while.
pub(in crate::cluster) const QUICK: Pace = Pace {
    pause: Duration::from_millis(20),
    silence: Duration::from_secs(60),
    moving: Duration::from_secs(60),
};

/// The controller's side.
pub(in crate::cluster) struct Rig {
    authority: Authority,
    pub(in crate::cluster) desk: Arc<Desk>,
    pub(in crate::cluster) known: Arc<Known>,
    following: JoinHandle<()>,
}

/// A node that is connected until this is dropped. It dies then without a word.
pub(in crate::cluster) struct Joined(pub(in crate::cluster) JoinHandle<()>);

impl Drop for Joined {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.following.abort();
    }
}

impl Rig {
    pub(in crate::cluster) fn new() -> Rig {
        Rig::with(QUICK)
    }

    pub(in crate::cluster) fn with(pace: Pace) -> Rig {
        let authority = Authority::new();
        let (desk, known) = (authority.desk(), Arc::new(Known::new(pace)));
        let following = tokio::spawn(Arc::clone(&known).follow(Arc::clone(desk.links())));
        Rig { authority, desk, known, following }
    }

    pub(in crate::cluster) fn links(&self) -> &Arc<Links> {
        self.desk.links()
    }

    /// Lets a node connect.
    pub(in crate::cluster) async fn connect(&self, node: &str, routes: Routes) -> Joined {
        let linked = Linked::new(routes, &id(node), authority::QUICK.ping);
        Joined(join(&self.desk, &self.authority.node(node), linked).await)
    }

    /// Lets a node connect, and waits until it has told everything.
    pub(in crate::cluster) async fn join(&self, fake: &Fake) -> Joined {
        let joined = self.connect(fake.name(), fake.routes()).await;
        self.told(fake.name()).await;
        joined
    }

    /// From now on nobody notices who comes and who leaves.
    pub(in crate::cluster) fn doze(&self) {
        self.following.abort();
    }

    /// Waits until a node has told everything.
    pub(in crate::cluster) async fn told(&self, node: &str) {
        self.stands(node, Standing::Told).await;
    }

    /// Waits until a node stands so.
    pub(in crate::cluster) async fn stands(&self, node: &str, standing: Standing) {
        let stands = || self.known.node(&id(node)).is_some_and(|seen| seen.standing == standing);
        soon(&format!("{node} is {standing:?}"), || stands().then_some(())).await;
    }
}
