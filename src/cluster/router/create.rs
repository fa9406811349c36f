//! CreateVolume: which node makes a volume, so that a retry, through this controller or another, finds the one that was made.
//!
//! 1. The request is checked (`csi::checked`).
//! 2. Whoever holds the name is asked: told by hashes, and by what this controller remembers of the last minutes. Where such
//!    a node cannot be asked, or has lost the pool, nothing is done.
//! 3. The candidates are the nodes that the topology allows; with a source, the one where it lies. Where that one is not allowed the
//!    source is copied to another (`transfer`).
//! 4. A candidate that cannot be asked may hold the name: alone, it ends the call; among several it does so for five minutes,
//!    and then a second volume is risked, which is reported when the node is back.
//! 5. The candidates are asked in the order of `place`, until one has made the volume, or says something other than "no
//!    room here".
//!
//! Never: makes a volume anywhere while it is not known what became of the attempt before.

use std::collections::BTreeSet;

use tokio::time::Instant;
use tonic::{Code, Status};

use super::Router;
use super::forward::{Failed, controller, is_final};
use super::place::{Order, order};
use crate::cluster::news::{Seen, Standing};
use crate::csi::Reply;
use crate::csi::checked::topology::Reach;
use crate::csi::checked::volumes::{self as checked, Create};
use crate::error::{Error, Result, quoted};
use crate::model::{Named, NodeId, PoolId, Source, TOPOLOGY_KEY, VolumeId, name_hash};
use crate::proto::csi;

/// So many of them are named where none has any.
pub(super) const REASONS: usize = 8;

pub(super) type Made = csi::CreateVolumeResponse;

impl Router {
    pub(super) async fn make_volume(&self, request: csi::CreateVolumeRequest, until: Instant) -> Reply<Made> {
        let wanted = checked::create(&request, &self.0.features)?;
        if let Some(made) = self.at_its_name(&request, &wanted, until).await? {
            return Ok(made.into());
        }
        match self.source_elsewhere(&wanted) {
            Ok(None) => {}
            Ok(Some(source)) => return Ok(self.copied(&request, &wanted, source, until).await?.into()),
            Err(why) => return Ok(self.unless_begun(&request, &wanted, why.into(), until).await?.into()),
        }
        let candidates = self.candidates(&wanted)?;
        let order = order(&wanted, candidates, || self.0.known.nodes())?;
        Ok(self.at_the_first_with_room(&request, order, until).await?.into())
    }

    /// The volume of this name, where there is one.
    async fn at_its_name(
        &self,
        request: &csi::CreateVolumeRequest,
        wanted: &Create,
        until: Instant,
    ) -> std::result::Result<Option<Made>, Status> {
        let hash = name_hash(Named::Volume, &request.name);
        let known = &self.0.known;
        let may_hold = |seen: &Seen| {
            unaskable(seen).is_some() || !known.is_former(&seen.node, hash) || self.is_doubtful(seen, hash)
        };
        let holding = self.holding(hash).into_iter().filter_map(|node| known.node(&node)).filter(may_hold);
        let (asked, doubtful): (Vec<Seen>, Vec<Seen>) =
            holding.partition(|seen| unaskable(seen).is_none() && !self.is_doubtful(seen, hash));
        for seen in &asked {
            if let Some(made) = self.if_it_has(seen, request, wanted, until).await? {
                if asked.len() > 1 {
                    let nodes: Vec<&NodeId> = asked.iter().map(|seen| &seen.node).collect();
                    tracing::error!(
                        name = quoted(&request.name),
                        ?nodes,
                        "name-twice: a volume of one name is on several nodes; one of them is an orphan"
                    );
                }
                return Ok(Some(made));
            }
        }
        if let Some(seen) = doubtful.first() {
            let why = unaskable(seen).unwrap_or_else(|| {
                format!(
                    "node {} has lost a pool, or has not read its records since it told of them",
                    seen.node
                )
            });
            return Err(Error::Unavailable(format!(
                "{why}; a volume of this name was there; nothing was done, ask again when it is back"
            ))
            .into());
        }
        let has_answered = |node: &NodeId| asked.iter().any(|seen| seen.node == *node);
        let remembered = self.0.tried.of(hash).into_iter();
        let remembered = remembered.filter(|node| !has_answered(node) && !self.is_written_off(node));
        let (doubtful, asked): (Vec<Seen>, Vec<Seen>) =
            remembered.filter_map(|node| known.node(&node)).partition(|seen| unaskable(seen).is_some());
        let is_recent = |seen: &&Seen| seen.blind.is_none_or(|blind| blind < self.0.patience.away);
        if let Some(why) = doubtful.iter().find(is_recent).and_then(unaskable) {
            return Err(Error::Unavailable(format!(
                "{why}; a volume of this name may have been made there; nothing was done, ask again when it is back"
            ))
            .into());
        }
        for seen in &asked {
            if let Some(made) = self.if_it_has(seen, request, wanted, until).await? {
                return Ok(Some(made));
            }
        }
        Ok(None)
    }

    /// Whether a node had the name and cannot say now whether that is still taken. In a lost pool it is not.
    pub(super) fn is_doubtful(&self, seen: &Seen, hash: u64) -> bool {
        let known = &self.0.known;
        known.is_former(&seen.node, hash)
            && (seen.pools.values().any(|pool| pool.unread)
                || known.missing(&seen.node).into_iter().any(|pool| !self.is_lost(pool)))
    }

    /// The volume of a node that may hold its name.
    async fn if_it_has(
        &self,
        seen: &Seen,
        request: &csi::CreateVolumeRequest,
        wanted: &Create,
        until: Instant,
    ) -> std::result::Result<Option<Made>, Status> {
        let is_beside = |pool: PoolId| seen.pools.values().any(|here| here.id == Some(pool));
        if source_pool(&wanted.volume.source).is_some_and(|pool| !is_beside(pool)) {
            return self.if_it_takes(&seen.node, request, wanted, until).await;
        }
        match self.create_at(&seen.node, request, until).await {
            Ok(made) => Ok(Some(made)),
            // It is there no longer, or only its hash is the same.
            Err(failed) if failed.code() == Some(Code::ResourceExhausted) => Ok(None),
            Err(failed) => Err(failed.into()),
        }
    }

    /// The nodes that may have the volume, all of which can be asked now.
    fn candidates(&self, wanted: &Create) -> Result<Vec<Seen>> {
        let allowed = match source_pool(&wanted.volume.source) {
            Some(pool) => vec![self.beside_the_source(pool)?],
            None => self.allowed(&wanted.requirement.requisite)?,
        };
        let askable = self.askable(allowed, wanted)?;
        let hash = name_hash(Named::Volume, &wanted.volume.name);
        let (fit, out_of_date): (Vec<Seen>, Vec<Seen>) =
            askable.into_iter().partition(|seen| !self.0.known.is_out_of_date(&seen.node, hash));
        Ok(if fit.is_empty() { out_of_date } else { fit })
    }

    /// Those of some nodes that can be asked now, if none of the others may hold the name.
    pub(super) fn askable(&self, mut allowed: Vec<Seen>, wanted: &Create) -> Result<Vec<Seen>> {
        if let [only] = &allowed[..] {
            // Where its pools are not read it says so itself.
            if only.standing != Standing::Told {
                return Err(Error::Unavailable(format!(
                    "{only}; nothing was done, ask again when it is back"
                )));
            }
            return Ok(allowed);
        }
        let blind = |seen: &&Seen| seen.blind.is_some_and(|blind| blind < self.0.patience.away);
        let looked_at = if planted!("first-candidate-asked") { 1 } else { allowed.len() };
        if let Some(seen) = allowed.iter().take(looked_at).find(blind) {
            return Err(Error::Unavailable(format!(
                "{seen}; a volume of this name may be there; nothing was done, ask again when it is back, or in {} s",
                self.0.patience.away.as_secs()
            )));
        }
        let is_here = |seen: &Seen| seen.blind.is_none();
        if !allowed.iter().any(is_here) {
            let why: Vec<String> = allowed.iter().take(REASONS).map(Seen::to_string).collect();
            return Err(Error::Unavailable(format!("{}; nothing was done, ask again", why.join("; "))));
        }
        let nodes: Vec<&NodeId> =
            allowed.iter().filter(|seen| !is_here(seen)).map(|seen| &seen.node).collect();
        if !nodes.is_empty() {
            tracing::warn!(
                name = quoted(&wanted.volume.name),
                ?nodes,
                "passed over nodes that have been away for long, for a volume that several may have"
            );
        }
        allowed.retain(is_here);
        Ok(allowed)
    }

    /// The node where a source lies, where the volume is to be on another.
    fn source_elsewhere(&self, wanted: &Create) -> Result<Option<NodeId>> {
        let Some(pool) = source_pool(&wanted.volume.source) else { return Ok(None) };
        let node = self.holder(pool)?;
        let is_allowed = matches!(wanted.requirement.reach(node.as_str()), Reach::Here);
        Ok(Some(node).filter(|_| !is_allowed))
    }

    /// The node where a source lies.
    fn beside_the_source(&self, pool: PoolId) -> Result<Seen> {
        let node = self.holder(pool)?;
        let seen = self.0.known.node(&node);
        seen.ok_or_else(|| Error::Unavailable(format!("node {node} is not connected; ask again")))
    }

    /// The nodes that a requirement allows; where nothing is required, all that are known or ought to be there. Those that no
    /// longer exist are not among them.
    pub(super) fn allowed(&self, requisite: &[String]) -> Result<Vec<Seen>> {
        if requisite.is_empty() {
            // In this order: who connects meanwhile is not taken for one who never did.
            let expected = self.0.roster.expected().unwrap_or_default();
            let mut all = self.0.known.nodes();
            let unknown =
                expected.into_iter().filter(|node| all.binary_search_by(|seen| seen.node.cmp(node)).is_err());
            let never: Vec<Seen> = unknown.map(|node| Seen::never(node, self.0.began)).collect();
            all.extend(never);
            all.retain(|seen| !self.is_over(seen));
            if let Some(why) = self.starting() {
                return Err(Error::Unavailable(format!("{why}; nothing was done, ask again")));
            }
            if all.is_empty() {
                return Err(Error::Unavailable(
                    "no node has been connected yet; nothing was done, ask again".to_owned(),
                ));
            }
            return Ok(all);
        }
        let nodes: BTreeSet<NodeId> = requisite.iter().filter_map(|name| name.parse().ok()).collect();
        if nodes.is_empty() {
            let names: Vec<String> = requisite.iter().take(REASONS).map(|name| quoted(name)).collect();
            return Err(Error::Full(format!(
                "accessibility_requirements ask for {}: no node can have such an id, nothing was made",
                names.join(", ")
            )));
        }
        let (gone, nodes): (Vec<NodeId>, Vec<NodeId>) =
            nodes.into_iter().partition(|node| self.is_gone(node));
        if nodes.is_empty() {
            let names: Vec<&str> = gone.iter().take(REASONS).map(NodeId::as_str).collect();
            return Err(Error::Full(format!(
                "accessibility_requirements ask for {}, which no longer exists: nothing was made",
                names.join(", ")
            )));
        }
        Ok(nodes.into_iter().map(|node| self.seen(node)).collect())
    }

    async fn at_the_first_with_room(
        &self,
        request: &csi::CreateVolumeRequest,
        order: Order,
        until: Instant,
    ) -> std::result::Result<Made, Status> {
        let mut refusals = Refusals::default();
        for node in order.asked() {
            match self.create_at(node, request, until).await {
                Ok(made) => return Ok(made),
                Err(failed) => refusals.note(node, failed, |code| code == Code::ResourceExhausted)?,
            }
        }
        Err(refusals.all_of(order, "no node has room, nothing was made"))
    }

    /// Asks one node, and remembers that until it is known what came of it.
    async fn create_at(
        &self,
        node: &NodeId,
        request: &csi::CreateVolumeRequest,
        until: Instant,
    ) -> std::result::Result<Made, Failed> {
        let hash = name_hash(Named::Volume, &request.name);
        // What is not sent is not remembered.
        let line = self.line(node)?;
        self.0.tried.begin(hash, node);
        let (asked, request) = (request, request.clone());
        let call = |line| async move { controller(line).create_volume(request).await };
        let made = self.through(line, node, until, call).await;
        let made = made.and_then(|made| self.believed(node, asked, made));
        match made.as_ref().map_err(Failed::code) {
            Ok(_) => self.0.tried.made(hash, node),
            Err(Some(code)) if is_final(code) => self.0.tried.forget(hash, node),
            // Its outcome is open, or it goes on.
            Err(_) => {}
        }
        made
    }

    /// What a node says it has made, where that is in a pool of its own, to be used there, and was allowed there. A node speaks for
    /// itself alone.
    pub(super) fn believed(
        &self,
        node: &NodeId,
        asked: &csi::CreateVolumeRequest,
        made: Made,
    ) -> std::result::Result<Made, Failed> {
        let volume = made.volume.as_ref();
        let id = volume.and_then(|volume| volume.volume_id.parse::<VolumeId>().ok());
        let is_its_own = id.is_some_and(|id| self.is_its_own(node, id.pool()));
        let is_there = |at: &csi::Topology| {
            at.segments.len() == 1 && at.segments.get(TOPOLOGY_KEY).is_some_and(|at| at == node.as_str())
        };
        let requisite = asked.accessibility_requirements.iter().flat_map(|asked| &asked.requisite);
        let is_allowed = requisite.clone().next().is_none() || requisite.clone().any(is_there);
        let at = volume.map(|volume| &volume.accessible_topology[..]).unwrap_or_default();
        if is_its_own && is_allowed && matches!(at, [at] if is_there(at)) {
            return Ok(made);
        }
        let id = volume.map_or("", |volume| volume.volume_id.as_str());
        tracing::warn!(%node, id, "a node answers with a volume that is not in a pool of its own alone, or not to be used there");
        Err(Failed::Open(
            Error::Unavailable(format!(
                "node {node} answered with volume {}, which is in no pool that it alone has told of, or not to be used there; ask again",
                quoted(id)
            ))
            .into(),
        ))
    }
}

/// What nodes have said that cannot make a volume, while another may.
#[derive(Default)]
pub(super) struct Refusals {
    reasons: Vec<String>,
    /// The first that is too small for it.
    beyond: Option<Status>,
}

impl Refusals {
    /// Takes in what a node says that has no room, as its code tells, or is too small.
    ///
    /// # Errors
    /// Whatever else it says: that is the answer.
    pub(super) fn note(
        &mut self,
        node: &NodeId,
        failed: Failed,
        no_room: impl Fn(Code) -> bool,
    ) -> std::result::Result<(), Status> {
        match failed {
            Failed::Told(status) if no_room(status.code()) => {
                self.reasons.push(format!("node {node}: {}", status.message()));
            }
            // Another node may be larger.
            Failed::Told(status) if status.code() == Code::OutOfRange => {
                self.beyond.get_or_insert(status);
            }
            failed @ (Failed::Told(_) | Failed::Open(_)) => return Err(failed.into()),
        }
        Ok(())
    }

    /// What a caller hears of all of them, and of those that were not asked.
    pub(super) fn all_of(self, order: Order, head: &str) -> Status {
        let Refusals { mut reasons, beyond } = self;
        if let (Some(beyond), true) = (beyond, reasons.is_empty()) {
            return beyond;
        }
        let unasked = order.asked.len() - order.asked().len();
        reasons.extend(order.unfit);
        let more = (reasons.len() + unasked).saturating_sub(REASONS);
        reasons.truncate(REASONS);
        let more = if more > 0 { format!("; and {more} more nodes") } else { String::new() };
        Error::Full(format!("{head}: {}{more}", reasons.join("; "))).into()
    }
}

/// Why a node that may hold a name cannot be asked about it now.
fn unaskable(seen: &Seen) -> Option<String> {
    if seen.standing != Standing::Told { Some(seen.to_string()) } else { seen.twice(None) }
}

fn source_pool(source: &Source) -> Option<PoolId> {
    match source {
        Source::Blank => None,
        Source::Volume(id) => Some(id.pool()),
        Source::Snapshot(id) => Some(id.pool()),
    }
}
