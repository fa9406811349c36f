//! CreateVolume with a source on a node that the topology does not allow: its content is copied to one that is allowed.
//!
//! Owns: which two nodes are asked for what, and what a caller hears meanwhile. Never: keeps anything of it: the record at the
//! node that takes it says how far it is, and whoever asks again, through whichever controller, goes on there.
//!
//! 1. The node with the source says what it is (`Describe`).
//! 2. The nodes that may have the volume are asked in the order of `place` to take it (`Take`), until one does.
//! 3. The node with the source is told to send it there (`Give`), and the other one is asked now and then how far it is.
//! 4. The answer is UNAVAILABLE, and how much has come, until it is whole. Where the source is gone meanwhile, or has become
//!    too large, nothing is left of what was begun on any node that may have the volume, and the code is a final one.

use std::time::Duration;

use prost::Message;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::{Code, Status};

use super::Router;
use super::create::{Made, Refusals};
use super::forward::{Failed, is_final};
use super::place::order;
use crate::cluster::link::Line;
use crate::csi::call::RequestId;
use crate::csi::checked::topology::Reach;
use crate::csi::checked::volumes::Create;
use crate::csi::transfer::origin_of;
use crate::error::{Error, quoted};
use crate::model::{Access, Asked, Bytes, CreateVolume, Named, NodeId, Range, Source, VolumeId, name_hash};
use crate::proto::csi;
use crate::proto::link as wire;
use crate::proto::link::transfers_client::TransfersClient;

/// A call waits so long for a small volume to be whole, and then says how far it is.
const WAIT: Duration = Duration::from_secs(5);
/// So many nodes are asked at once whether they have begun a volume.
const AT_ONCE: usize = 16;
/// How often it is looked.
const LOOK: Duration = Duration::from_millis(200);

/// A node's Transfers service.
fn transfers(line: Line) -> TransfersClient<Line> {
    TransfersClient::with_origin(line, Line::origin())
}

impl Router {
    /// A volume with the content of a source on this node, on another one.
    pub(super) async fn copied(
        &self,
        request: &csi::CreateVolumeRequest,
        wanted: &Create,
        source: NodeId,
        until: Instant,
    ) -> Result<Made, Status> {
        let describe = wire::DescribeRequest { source: source_id(wanted) };
        let call = |line| async move { transfers(line).describe(describe).await };
        let described = match self.forward(&source, until, call).await {
            Ok(described) => described,
            Err(failed) => {
                return self.unless_begun(request, wanted, lacking(failed, &source), until).await;
            }
        };
        let origin = described
            .origin
            .ok_or_else(|| Error::Unavailable(format!("node {source} did not say what the source is")))?;
        let allowed = self.askable(self.allowed(&wanted.requirement.requisite)?, wanted)?;
        let order = order(&like_its_source(wanted, &origin)?, allowed, || self.0.known.nodes())?;
        let mut refusals = Refusals::default();
        for node in order.asked() {
            let taking =
                wire::TakeRequest { create_request: request.encode_to_vec(), origin: Some(origin.clone()) };
            match self.take_at(node, &request.name, taking, until).await {
                Ok(taken) => return self.carried(request, wanted, node, taken, until).await,
                Err(failed) => refusals.note(node, failed, no_room)?,
            }
        }
        let head = format!(
            "volume_content_source lies on node {source}, and no node that accessibility_requirements allow can have a copy of it; \
             nothing was made"
        );
        Err(refusals.all_of(order, &head))
    }

    /// The source cannot be had, which ends the call, unless a node that may have the volume has begun it, or has it already: another
    /// controller may have asked it a moment ago, and the node has not told this one yet.
    pub(super) async fn unless_begun(
        &self,
        request: &csi::CreateVolumeRequest,
        wanted: &Create,
        why: Status,
        until: Instant,
    ) -> Result<Made, Status> {
        if !is_final(why.code()) {
            return Err(why);
        }
        let mut nodes = self.askable(self.allowed(&wanted.requirement.requisite)?, wanted)?.into_iter();
        let (mut asking, mut open) = (JoinSet::new(), None);
        loop {
            while asking.len() < AT_ONCE
                && let Some(seen) = nodes.next()
            {
                let (router, request, wanted) = (self.clone(), request.clone(), wanted.clone());
                let ask = async move { router.if_it_takes(&seen.node, &request, &wanted, until).await };
                asking.spawn(RequestId::carried(ask));
            }
            match asking.join_next().await {
                Some(Ok(Ok(Some(made)))) => return Ok(made),
                // It has nothing of it, or no longer.
                Some(Ok(Ok(None))) => {}
                Some(Ok(Err(refused))) if refused.code() == Code::AlreadyExists => return Err(refused),
                Some(Ok(Err(refused))) if is_final(refused.code()) => {}
                Some(Ok(Err(refused))) => open = Some(refused),
                Some(Err(_)) => open = Some(Status::unavailable("a question to a node broke off; ask again")),
                None => return Err(open.unwrap_or(why)),
            }
        }
    }

    /// The volume of a node that may hold its name, and does not have its source.
    pub(super) async fn if_it_takes(
        &self,
        node: &NodeId,
        request: &csi::CreateVolumeRequest,
        wanted: &Create,
        until: Instant,
    ) -> Result<Option<Made>, Status> {
        let taking = wire::TakeRequest { create_request: request.encode_to_vec(), origin: None };
        match self.take_at(node, &request.name, taking, until).await {
            Ok(taken) => self.carried(request, wanted, node, taken, until).await.map(Some),
            // It is there no longer, or only its hash is the same.
            Err(failed) if matches!(failed.code(), Some(Code::NotFound)) => Ok(None),
            Err(Failed::Told(status)) if no_room(status.code()) => Ok(None),
            Err(failed) => Err(failed.into()),
        }
    }

    /// Sees to it that a volume which a node has begun to take goes on, and waits for it a little.
    async fn carried(
        &self,
        request: &csi::CreateVolumeRequest,
        wanted: &Create,
        node: &NodeId,
        mut taken: wire::TakeResponse,
        until: Instant,
    ) -> Result<Made, Status> {
        let patience = until.min(Instant::now() + WAIT);
        loop {
            let Some(ticket) = taken.ticket else {
                let made = Made::decode(taken.create_response.as_slice());
                let unread = |_| Error::Unavailable(format!("node {node} did not say what it has made"));
                return Ok(self.believed(node, request, made.map_err(unread)?)?);
            };
            self.refuse_foreign(node, wanted, &ticket)?;
            let trouble = match self.give(wanted, &ticket, until).await {
                Ok(given) => given.trouble,
                Err(Failed::Told(status)) if can_never_be_had(&status) => {
                    return self.abandoned(request, node, (&ticket, status), until).await;
                }
                Err(failed) => Status::from(failed).message().to_owned(),
            };
            if Instant::now() + LOOK >= patience {
                let progress = progress(taken.received_bytes, ticket.size_bytes);
                let why = if trouble.is_empty() { String::new() } else { format!(" ({trouble})") };
                return Err(Error::Unavailable(format!(
                    "volume name {}: node {node} has received {progress}{why}; it goes on, ask again",
                    quoted(&request.name)
                ))
                .into());
            }
            tokio::time::sleep(LOOK).await;
            let taking = wire::TakeRequest { create_request: request.encode_to_vec(), origin: None };
            taken = match self.take_at(node, &request.name, taking, until).await {
                // It was given up, or deleted.
                Err(failed) if matches!(failed.code(), Some(Code::NotFound)) => {
                    let why = format!("node {node} no longer has what was begun: {trouble}; ask again");
                    return Err(Error::Unavailable(why).into());
                }
                taken => taken?,
            };
        }
    }

    async fn give(
        &self,
        wanted: &Create,
        ticket: &wire::Ticket,
        until: Instant,
    ) -> Result<wire::GiveResponse, Failed> {
        let giving = wire::GiveRequest { source: source_id(wanted), ticket: Some(ticket.clone()) };
        let pool = match wanted.volume.source {
            Source::Volume(id) => id.pool(),
            Source::Snapshot(id) => id.pool(),
            Source::Blank => return Err(Failed::Open(Error::Unavailable("no source".to_owned()).into())),
        };
        let node = self.holder(pool).map_err(|why| {
            // In a pool that was declared lost it is surely gone.
            let is_gone = matches!(why, Error::NotFound(_));
            if is_gone { Failed::Told(why.into()) } else { Failed::Open(why.into()) }
        })?;
        let call = |line| async move { transfers(line).give(giving).await };
        self.forward(&node, until, call).await
    }

    /// The source can never be had: what was begun goes before the caller hears that. Where another controller has seen it become
    /// whole meanwhile, it is the answer here as well.
    async fn abandoned(
        &self,
        request: &csi::CreateVolumeRequest,
        node: &NodeId,
        (ticket, why): (&wire::Ticket, Status),
        until: Instant,
    ) -> Result<Made, Status> {
        let abandon = wire::AbandonRequest { volume_id: ticket.volume_id.clone() };
        let call = |line| async move { transfers(line).abandon(abandon).await };
        match self.forward(node, until, call).await {
            Ok(answer) if answer.create_response.is_empty() => Err(why),
            Ok(answer) => {
                let made = Made::decode(answer.create_response.as_slice());
                let unread = |_| Error::Unavailable(format!("node {node} did not say what it has made"));
                Ok(self.believed(node, request, made.map_err(unread)?)?)
            }
            Err(failed) => Err(Error::Unavailable(format!(
                "{}; and what was begun on node {node} could not be removed: {}; ask again",
                why.message(),
                Status::from(failed).message()
            ))
            .into()),
        }
    }

    /// Refuses a ticket of a node that may not have the volume, or for one that is not in a pool of its alone: what is cut for a copy
    /// goes to that copy.
    fn refuse_foreign(&self, node: &NodeId, wanted: &Create, ticket: &wire::Ticket) -> Result<(), Error> {
        let is_allowed = matches!(wanted.requirement.reach(node.as_str()), Reach::Here);
        let volume = ticket.volume_id.parse::<VolumeId>();
        if is_allowed && volume.is_ok_and(|volume| self.is_its_own(node, volume.pool())) {
            return Ok(());
        }
        Err(Error::Unavailable(format!(
            "node {node} wants to receive volume {}, which may not be there, or is in no pool that it alone has told of; ask again",
            quoted(&ticket.volume_id)
        )))
    }

    async fn take_at(
        &self,
        node: &NodeId,
        name: &str,
        request: wire::TakeRequest,
        until: Instant,
    ) -> Result<wire::TakeResponse, Failed> {
        let hash = name_hash(Named::Volume, name);
        // What is not sent is not remembered, and without an origin nothing is begun.
        let line = self.line(node)?;
        if request.origin.is_some() {
            self.0.tried.begin(hash, node);
        }
        let call = |line| async move { transfers(line).take(request).await };
        let taken = self.through(line, node, until, call).await;
        match &taken {
            Ok(taken) if taken.ticket.is_none() => self.0.tried.made(hash, node),
            Ok(_) => self.0.tried.begin(hash, node),
            Err(failed) if failed.code().is_some_and(is_final) => self.0.tried.forget(hash, node),
            Err(_) => {}
        }
        taken
    }
}

/// Whether what is said of a source holds for ever. A disk that fails once, or a node of an earlier release, is mended one day.
fn can_never_be_had(status: &Status) -> bool {
    use Code::{FailedPrecondition, InvalidArgument, NotFound, OutOfRange, ResourceExhausted};
    [FailedPrecondition, InvalidArgument, NotFound, OutOfRange, ResourceExhausted].contains(&status.code())
}

/// Whether a node cannot have a copy, and another may: it has no room, or knows no transfers.
fn no_room(code: Code) -> bool {
    matches!(code, Code::ResourceExhausted | Code::Unimplemented)
}

/// A node of an earlier release cannot send anything: then nothing can reach the source.
fn lacking(failed: Failed, source: &NodeId) -> Status {
    match failed {
        Failed::Told(status) if status.code() == Code::Unimplemented => Error::Full(format!(
            "volume_content_source lies on node {source}, which cannot copy it to another: its release knows no transfers"
        ))
        .into(),
        failed @ (Failed::Told(_) | Failed::Open(_)) => failed.into(),
    }
}

fn source_id(wanted: &Create) -> String {
    match wanted.volume.source {
        Source::Blank => String::new(),
        Source::Volume(id) => id.to_string(),
        Source::Snapshot(id) => id.to_string(),
    }
}

/// The request as the choice of a node has to see it: a volume of its own, as large as its source and accessed alike.
fn like_its_source(wanted: &Create, origin: &wire::Origin) -> Result<Create, Error> {
    let origin = origin_of(origin)?;
    let volume = &wanted.volume;
    let required = volume.range.required.unwrap_or(Bytes::ZERO).max(origin.size);
    let asked = match origin.access {
        Access::Block => Asked::Block,
        Access::Mount { fs } => Asked::Mount(Some(fs)),
    };
    let range = Range { required: Some(required), ..volume.range };
    let volume = CreateVolume { range, asked, source: Source::Blank, ..volume.clone() };
    Ok(Create { volume, ..wanted.clone() })
}

fn progress(done: i64, size: i64) -> String {
    let bytes = |number: i64| Bytes::new(u64::try_from(number).unwrap_or(0));
    format!("{} of {}", bytes(done.min(size)), bytes(size))
}
