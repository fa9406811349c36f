//! The calls, each with a patience of its own, and what their answers allow to conclude.
//!
//! Owns: the counts by method and code, and telling an answer of the driver from the silence of a dead one.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::fmt::Debug;
use std::future::Future;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use prost::Message;
use rockpool::proto::{admin, csi};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Response, Status};

use admin::admin_client::AdminClient;
use csi::controller_client::ControllerClient;
use csi::group_controller_client::GroupControllerClient;
use csi::identity_client::IdentityClient;
use csi::node_client::NodeClient;

use crate::exchange::{Exchange, Way};
use crate::meanwhile::Meanwhile;

/// Nothing takes longer in a driver that lives.
pub(crate) const PATIENT: Duration = Duration::from_secs(30);

/// What a caller may conclude.
#[derive(Debug)]
pub(crate) enum Answer<T> {
    /// It holds.
    Done(T),
    /// It is over, nothing was done, says the driver.
    Refused(Code, String),
    /// Still running, or unknown.
    Open(Code, String),
}

impl<T> Answer<T> {
    /// The same with something else in it.
    pub(crate) fn map<U>(self, f: impl FnOnce(T) -> U) -> Answer<U> {
        match self {
            Answer::Done(done) => Answer::Done(f(done)),
            Answer::Refused(code, message) => Answer::Refused(code, message),
            Answer::Open(code, message) => Answer::Open(code, message),
        }
    }
}

/// What a call is about.
#[derive(Clone, Copy, Debug)]
#[allow(dead_code, reason = "one driver answers everything; the exchange of a cluster reads it")]
pub(crate) enum Of<'a> {
    /// Something with this name or id, whichever node has it.
    Any(&'a str),
    /// The node that has this volume.
    Node(&'a str),
    /// Everything there is, from this place on.
    All(&'a str),
}

/// The calls to what is tested, and their answers.
#[derive(Debug, Default)]
pub(crate) struct Wire {
    pub(crate) exchange: Exchange,
    counts: Mutex<BTreeMap<String, BTreeMap<String, u64>>>,
    /// The calls that a patient caller gave up.
    hung: Mutex<Vec<String>>,
    pub(crate) meanwhile: Meanwhile,
}

impl Wire {
    /// Whether the driver says that it is ready.
    pub(crate) async fn ready(&self) -> bool {
        let Some(way) = self.exchange.way() else { return false };
        is_ready(way.channel).await
    }

    /// Whether it answers a probe, well or not.
    pub(crate) async fn serves(&self) -> bool {
        let Some(way) = self.exchange.way() else { return false };
        serves(way.channel).await
    }

    /// How many answers there were, by method and code.
    pub(crate) fn counts(&self) -> BTreeMap<String, BTreeMap<String, u64>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The calls that nobody answered since the last question.
    pub(crate) fn hung(&self) -> Vec<String> {
        std::mem::take(&mut self.hung.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn count(&self, method: &str, code: &str) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry(method.to_owned()).or_default().entry(code.to_owned()).or_default() += 1;
    }

    /// Whether the driver that was asked lives and answers. One that was just killed does not.
    async fn is_still(&self, way: &Way) -> bool {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let serves = serves(way.channel.clone());
        let answers = tokio::time::timeout(Duration::from_secs(1), serves).await.unwrap_or(false);
        answers && self.exchange.lasts(way)
    }

    async fn ask<T: PartialEq + Debug, F: Future<Output = Result<Response<T>, Status>>>(
        &self,
        (method, words): (&str, Vec<u8>),
        of: Of<'_>,
        patience: Duration,
        call: impl Fn(Channel) -> F,
    ) -> Answer<T> {
        let through = |way| self.through((method, &words), way, patience, &call);
        let answer = self.exchange.ask(of, through).await;
        answer.unwrap_or_else(|| Answer::Open(Code::Unavailable, "the driver is down".to_owned()))
    }

    async fn through<T, F: Future<Output = Result<Response<T>, Status>>>(
        &self,
        (method, words): (&str, &[u8]),
        way: Way,
        patience: Duration,
        call: impl Fn(Channel) -> F,
    ) -> Answer<T> {
        let asked = self.meanwhile.asked(words);
        let Ok(answer) = tokio::time::timeout(patience, call(way.channel.clone())).await else {
            self.count(method, "gave up");
            self.meanwhile.left(words.to_vec());
            take_leave(&way).await;
            // After its death a driver owes no answer; the client library may sleep through the end of a connection.
            if patience >= PATIENT && self.exchange.lasts(&way) {
                self.hung.lock().unwrap_or_else(PoisonError::into_inner).push(method.to_owned());
            }
            return Answer::Open(Code::DeadlineExceeded, format!("no answer within {patience:?}"));
        };
        match answer {
            Ok(response) => {
                self.count(method, "OK");
                self.meanwhile.done(asked, method);
                Answer::Done(response.into_inner())
            }
            // Whatever code the client library gives to a connection that broke, it is nobody's answer.
            Err(status) if status.source().is_some() || status.code() == Code::Unknown => {
                if status.source().is_none() && self.is_still(&way).await {
                    let said = format!("{method} says UNKNOWN, and the driver lives: {}", status.message());
                    self.meanwhile.say(said);
                }
                self.count(method, "connection lost");
                Answer::Open(Code::Unavailable, status.message().to_owned())
            }
            Err(status) => {
                self.count(method, &format!("{:?}", status.code()));
                let message = status.message().to_owned();
                let code = status.code();
                if code == Code::Unavailable {
                    self.meanwhile.put_off(asked, method, &message);
                }
                let open = [Code::Cancelled, Code::DeadlineExceeded, Code::Unavailable, Code::Aborted]
                    .contains(&code);
                if open { Answer::Open(code, message) } else { Answer::Refused(code, message) }
            }
        }
    }
}

async fn is_ready(channel: Channel) -> bool {
    let answer = IdentityClient::new(channel).probe(csi::ProbeRequest {}).await;
    answer.is_ok_and(|answer| answer.into_inner().ready.unwrap_or(true))
}

async fn serves(channel: Channel) -> bool {
    let answer = IdentityClient::new(channel).probe(csi::ProbeRequest {}).await;
    answer.map_or_else(|status| status.code() == Code::FailedPrecondition, |_| true)
}

/// Lets the driver hear that a call was given up: the client library tells it from a task of its own, and whatever is asked
/// before that is asked beside that call, not after it.
async fn take_leave(way: &Way) {
    for _ in 0..2 {
        tokio::time::sleep(Duration::from_millis(1)).await;
        // A driver that died hears nothing.
        let _ = tokio::time::timeout(Duration::from_millis(100), is_ready(way.channel.clone())).await;
    }
}

impl Wire {
    /// How much each pool has promised, as the drivers count it.
    pub(crate) async fn promised(&self, patience: Duration) -> Answer<i64> {
        let mut sum = 0;
        for admin in self.exchange.admins() {
            match self.pools(admin, patience).await {
                Answer::Done(answer) => {
                    sum += answer.pools.iter().map(|pool| pool.promised_bytes).sum::<i64>()
                }
                Answer::Refused(code, message) => return Answer::Refused(code, message),
                Answer::Open(code, message) => return Answer::Open(code, message),
            }
        }
        Answer::Done(sum)
    }

    /// What one driver says of its pools.
    async fn pools(&self, admin: Channel, patience: Duration) -> Answer<admin::ListPoolsResponse> {
        let request = admin::ListPoolsRequest {};
        let words = words("list_pools", &request);
        self.ask(("list_pools", words), Of::All(""), patience, |_| {
            let mut client = AdminClient::new(admin.clone());
            async move { client.list_pools(request).await }
        })
        .await
    }

    fn admin(&self) -> AdminClient<Channel> {
        let admin = self.exchange.admins().into_iter().next();
        AdminClient::new(admin.unwrap_or_else(|| Endpoint::from_static("http://nobody").connect_lazy()))
    }

    /// What was deleted and is kept becomes again what it was.
    pub(crate) async fn restore(&self, id: &str, patience: Duration) -> Answer<admin::RestoreResponse> {
        let request = admin::RestoreRequest { id: id.to_owned(), name: String::new() };
        self.ask(("restore", words("restore", &request)), Of::Any(id), patience, |_| {
            let (mut client, request) = (self.admin(), request.clone());
            async move { client.restore(request).await }
        })
        .await
    }

    /// What was deleted and is kept goes for good.
    pub(crate) async fn purge(&self, id: &str, patience: Duration) -> Answer<admin::PurgeResponse> {
        let request = admin::PurgeRequest { id: id.to_owned() };
        self.ask(("purge", words("purge", &request)), Of::Any(id), patience, |_| {
            let (mut client, request) = (self.admin(), request.clone());
            async move { client.purge(request).await }
        })
        .await
    }
}

/// What tells a call from every other one.
fn words(method: &str, request: &impl Message) -> Vec<u8> {
    [method.as_bytes(), &request.encode_to_vec()].concat()
}

macro_rules! calls {
    ($($name:ident: $client:ident . $method:ident, $request:ident => $answer:ident, $of:ident of $about:ident;)*) => {
        impl Wire {
            $(pub(crate) async fn $name(
                &self,
                request: csi::$request,
                patience: Duration,
            ) -> Answer<csi::$answer> {
                let method = stringify!($method);
                self.ask((method, words(method, &request)), Of::$of(&request.$about), patience, |channel| {
                    let request = Way::request(request.clone(), patience);
                    async move { $client::new(channel).$method(request).await }
                })
                .await
            })*
        }
    };
}

calls! {
    create: ControllerClient.create_volume, CreateVolumeRequest => CreateVolumeResponse, Any of name;
    delete: ControllerClient.delete_volume, DeleteVolumeRequest => DeleteVolumeResponse, Any of volume_id;
    expand: ControllerClient.controller_expand_volume, ControllerExpandVolumeRequest => ControllerExpandVolumeResponse, Any of volume_id;
    list: ControllerClient.list_volumes, ListVolumesRequest => ListVolumesResponse, All of starting_token;
    snapshot: ControllerClient.create_snapshot, CreateSnapshotRequest => CreateSnapshotResponse, Any of name;
    forget: ControllerClient.delete_snapshot, DeleteSnapshotRequest => DeleteSnapshotResponse, Any of snapshot_id;
    list_snapshots: ControllerClient.list_snapshots, ListSnapshotsRequest => ListSnapshotsResponse, All of starting_token;
    group: GroupControllerClient.create_volume_group_snapshot, CreateVolumeGroupSnapshotRequest => CreateVolumeGroupSnapshotResponse, Any of name;
    disband: GroupControllerClient.delete_volume_group_snapshot, DeleteVolumeGroupSnapshotRequest => DeleteVolumeGroupSnapshotResponse, Any of group_snapshot_id;
    stage: NodeClient.node_stage_volume, NodeStageVolumeRequest => NodeStageVolumeResponse, Node of volume_id;
    unstage: NodeClient.node_unstage_volume, NodeUnstageVolumeRequest => NodeUnstageVolumeResponse, Node of volume_id;
    publish: NodeClient.node_publish_volume, NodePublishVolumeRequest => NodePublishVolumeResponse, Node of volume_id;
    unpublish: NodeClient.node_unpublish_volume, NodeUnpublishVolumeRequest => NodeUnpublishVolumeResponse, Node of volume_id;
    expand_node: NodeClient.node_expand_volume, NodeExpandVolumeRequest => NodeExpandVolumeResponse, Node of volume_id;
}

impl Wire {
    /// GetCapacity, which is about nothing that has a name.
    pub(crate) async fn capacity(&self, patience: Duration) -> Answer<csi::GetCapacityResponse> {
        let request = csi::GetCapacityRequest::default();
        self.ask(("get_capacity", words("get_capacity", &request)), Of::All(""), patience, |channel| {
            let request = Way::request(request.clone(), patience);
            async move { ControllerClient::new(channel).get_capacity(request).await }
        })
        .await
    }
}
