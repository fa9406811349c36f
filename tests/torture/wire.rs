//! The calls, each with a patience of its own, and what their answers allow to conclude.
//!
//! Owns: the connection, the counts by method and code, and telling an answer of the driver from the silence of a dead one.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::future::Future;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
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

use crate::meanwhile::Meanwhile;
use crate::{Outcome, requests};

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

/// The way to one driver.
#[derive(Debug, Default)]
pub(crate) struct Wire {
    channel: Mutex<Option<Channel>>,
    /// To what CSI does not have.
    admin: Mutex<Option<Channel>>,
    /// Counts up with every driver that comes or goes.
    driver: AtomicU64,
    counts: Mutex<BTreeMap<String, BTreeMap<String, u64>>>,
    /// The calls that a patient caller gave up.
    hung: Mutex<Vec<String>>,
    pub(crate) meanwhile: Meanwhile,
}

impl Wire {
    /// Connects to a driver that was just started.
    pub(crate) async fn connect(&self, (socket, admin): (&Path, &Path)) -> Outcome<()> {
        let channel = requests::endpoint(socket)?.connect().await?;
        let admin = requests::endpoint(admin)?.connect_lazy();
        self.driver.fetch_add(1, Ordering::Relaxed);
        *self.admin.lock().unwrap_or_else(PoisonError::into_inner) = Some(admin);
        *self.channel.lock().unwrap_or_else(PoisonError::into_inner) = Some(channel);
        Ok(())
    }

    /// Whether it says that it is ready.
    pub(crate) async fn ready(&self) -> bool {
        let Some(channel) = self.channel() else { return false };
        let answer = IdentityClient::new(channel).probe(csi::ProbeRequest {}).await;
        answer.is_ok_and(|answer| answer.into_inner().ready.unwrap_or(true))
    }

    /// Whether it answers a probe, well or not.
    pub(crate) async fn serves(&self) -> bool {
        let Some(channel) = self.channel() else { return false };
        let answer = IdentityClient::new(channel).probe(csi::ProbeRequest {}).await;
        answer.map_or_else(|status| status.code() == Code::FailedPrecondition, |_| true)
    }

    /// Nothing answers any more.
    pub(crate) fn cut(&self) {
        self.driver.fetch_add(1, Ordering::Relaxed);
        *self.channel.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn channel(&self) -> Option<Channel> {
        self.channel.lock().unwrap_or_else(PoisonError::into_inner).clone()
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

    /// Whether the driver that was there at this count lives and answers. One that was just killed does not.
    async fn is_still(&self, driver: u64) -> bool {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let answers = tokio::time::timeout(Duration::from_secs(1), self.serves()).await.unwrap_or(false);
        answers && driver == self.driver.load(Ordering::Relaxed)
    }

    /// Lets the driver hear that a call was given up: the client library tells it from a task of its own, and whatever is asked
    /// before that is asked beside that call, not after it.
    async fn take_leave(&self) {
        for _ in 0..2 {
            tokio::time::sleep(Duration::from_millis(1)).await;
            // A driver that died hears nothing.
            let _ = tokio::time::timeout(Duration::from_millis(100), self.ready()).await;
        }
    }

    async fn ask<T, F: Future<Output = Result<Response<T>, Status>>>(
        &self,
        (method, words): (&str, Vec<u8>),
        patience: Duration,
        call: impl FnOnce(Channel) -> F,
    ) -> Answer<T> {
        let driver = self.driver.load(Ordering::Relaxed);
        let Some(channel) = self.channel() else {
            return Answer::Open(Code::Unavailable, "the driver is down".to_owned());
        };
        let asked = self.meanwhile.asked(&words);
        let Ok(answer) = tokio::time::timeout(patience, call(channel)).await else {
            self.count(method, "gave up");
            self.meanwhile.left(words);
            self.take_leave().await;
            // After its death a driver owes no answer; the client library may sleep through the end of a connection.
            if patience >= PATIENT && driver == self.driver.load(Ordering::Relaxed) {
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
                if status.source().is_none() && self.is_still(driver).await {
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

impl Wire {
    fn admin(&self) -> Channel {
        let admin = self.admin.lock().unwrap_or_else(PoisonError::into_inner).clone();
        admin.unwrap_or_else(|| Endpoint::from_static("http://nobody").connect_lazy())
    }

    /// What the driver says of its pools.
    pub(crate) async fn pools(&self, patience: Duration) -> Answer<admin::ListPoolsResponse> {
        let request = admin::ListPoolsRequest {};
        self.ask(("list_pools", words("list_pools", &request)), patience, |_| async {
            AdminClient::new(self.admin()).list_pools(request).await
        })
        .await
    }

    /// What was deleted and is kept becomes again what it was.
    pub(crate) async fn restore(&self, id: &str, patience: Duration) -> Answer<admin::RestoreResponse> {
        let request = admin::RestoreRequest { id: id.to_owned(), name: String::new() };
        self.ask(("restore", words("restore", &request)), patience, |_| async {
            AdminClient::new(self.admin()).restore(request).await
        })
        .await
    }

    /// What was deleted and is kept goes for good.
    pub(crate) async fn purge(&self, id: &str, patience: Duration) -> Answer<admin::PurgeResponse> {
        let request = admin::PurgeRequest { id: id.to_owned() };
        self.ask(("purge", words("purge", &request)), patience, |_| async {
            AdminClient::new(self.admin()).purge(request).await
        })
        .await
    }
}

/// What tells a call from every other one.
fn words(method: &str, request: &impl Message) -> Vec<u8> {
    [method.as_bytes(), &request.encode_to_vec()].concat()
}

macro_rules! calls {
    ($($name:ident: $client:ident . $method:ident, $request:ident => $answer:ident;)*) => {
        impl Wire {
            $(pub(crate) async fn $name(
                &self,
                request: csi::$request,
                patience: Duration,
            ) -> Answer<csi::$answer> {
                let method = stringify!($method);
                self.ask((method, words(method, &request)), patience, |channel| async move {
                    $client::new(channel).$method(request).await
                })
                .await
            })*
        }
    };
}

calls! {
    create: ControllerClient.create_volume, CreateVolumeRequest => CreateVolumeResponse;
    delete: ControllerClient.delete_volume, DeleteVolumeRequest => DeleteVolumeResponse;
    expand: ControllerClient.controller_expand_volume, ControllerExpandVolumeRequest => ControllerExpandVolumeResponse;
    list: ControllerClient.list_volumes, ListVolumesRequest => ListVolumesResponse;
    capacity: ControllerClient.get_capacity, GetCapacityRequest => GetCapacityResponse;
    snapshot: ControllerClient.create_snapshot, CreateSnapshotRequest => CreateSnapshotResponse;
    forget: ControllerClient.delete_snapshot, DeleteSnapshotRequest => DeleteSnapshotResponse;
    list_snapshots: ControllerClient.list_snapshots, ListSnapshotsRequest => ListSnapshotsResponse;
    group: GroupControllerClient.create_volume_group_snapshot, CreateVolumeGroupSnapshotRequest => CreateVolumeGroupSnapshotResponse;
    disband: GroupControllerClient.delete_volume_group_snapshot, DeleteVolumeGroupSnapshotRequest => DeleteVolumeGroupSnapshotResponse;
    stage: NodeClient.node_stage_volume, NodeStageVolumeRequest => NodeStageVolumeResponse;
    unstage: NodeClient.node_unstage_volume, NodeUnstageVolumeRequest => NodeUnstageVolumeResponse;
    publish: NodeClient.node_publish_volume, NodePublishVolumeRequest => NodePublishVolumeResponse;
    unpublish: NodeClient.node_unpublish_volume, NodeUnpublishVolumeRequest => NodeUnpublishVolumeResponse;
    expand_node: NodeClient.node_expand_volume, NodeExpandVolumeRequest => NodeExpandVolumeResponse;
}
