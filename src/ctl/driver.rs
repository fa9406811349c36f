//! The driver at the other end: one connection and what it says it can do.
//!
//! Owns: the connections, the clients and the capability questions. Never: knows a command.

use std::collections::BTreeMap;
use std::time::Duration;

use tonic::Code;
use tonic::transport::{Channel, Uri};

use super::failure::{Failure, Outcome};
use crate::config::Endpoint;
use crate::error::chain;
use crate::proto::admin::admin_client::AdminClient;
use crate::proto::admin::cluster_client::ClusterClient;
use crate::proto::admin::{ListPoolsRequest, Pool};
use crate::proto::csi;
use csi::controller_client::ControllerClient;
use csi::controller_service_capability::rpc::Type as ControllerRpc;
use csi::group_controller_client::GroupControllerClient;
use csi::identity_client::IdentityClient;
use csi::node_client::NodeClient;
use csi::node_service_capability::rpc::Type as NodeRpc;
use csi::plugin_capability::service::Type as Service;

/// An answer may list many thousand volumes in one message where a driver ignores the page size.
const ANSWER_LIMIT: usize = 64 << 20;

/// Lists are asked for in pages of this many entries.
pub(super) const PAGE: i32 = 500;

/// A connection to a driver.
pub(super) struct Driver {
    channel: Channel,
    secrets: BTreeMap<String, String>,
}

impl Driver {
    /// Connects; `timeout` then limits each call.
    pub(super) async fn connect(
        endpoint: &Endpoint,
        timeout: Duration,
        secrets: BTreeMap<String, String>,
    ) -> Outcome<Driver> {
        Ok(Driver { channel: channel(endpoint, timeout).await?, secrets })
    }

    /// The secrets for a call that takes them.
    pub(super) fn secrets(&self) -> BTreeMap<String, String> {
        self.secrets.clone()
    }

    pub(super) fn identity(&self) -> IdentityClient<Channel> {
        IdentityClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_LIMIT)
    }

    pub(super) fn controller(&self) -> ControllerClient<Channel> {
        ControllerClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_LIMIT)
    }

    pub(super) fn group(&self) -> GroupControllerClient<Channel> {
        GroupControllerClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_LIMIT)
    }

    pub(super) fn node(&self) -> NodeClient<Channel> {
        NodeClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_LIMIT)
    }

    /// What the plugin as a whole offers.
    pub(super) async fn plugin_capabilities(&self) -> Outcome<Vec<csi::PluginCapability>> {
        let answer = self.identity().get_plugin_capabilities(csi::GetPluginCapabilitiesRequest {}).await;
        Ok(answer.map_err(Failure::of("GetPluginCapabilities"))?.into_inner().capabilities)
    }

    /// What its controller offers; nothing where this socket has none.
    pub(super) async fn controller_capabilities(&self) -> Outcome<Vec<i32>> {
        let answer =
            self.controller().controller_get_capabilities(csi::ControllerGetCapabilitiesRequest {}).await;
        let answer = absent_is_empty(answer).map_err(Failure::of("ControllerGetCapabilities"))?;
        let list = answer.into_iter().flat_map(|answer| answer.capabilities);
        Ok(list
            .filter_map(|one| one.r#type)
            .map(|csi::controller_service_capability::Type::Rpc(rpc)| rpc.r#type)
            .collect())
    }

    /// What its node service offers; nothing where this socket has none.
    pub(super) async fn node_capabilities(&self) -> Outcome<Vec<i32>> {
        let answer = self.node().node_get_capabilities(csi::NodeGetCapabilitiesRequest {}).await;
        let answer = absent_is_empty(answer).map_err(Failure::of("NodeGetCapabilities"))?;
        let list = answer.into_iter().flat_map(|answer| answer.capabilities);
        Ok(list
            .filter_map(|one| one.r#type)
            .map(|csi::node_service_capability::Type::Rpc(rpc)| rpc.r#type)
            .collect())
    }

    /// What its group controller offers; nothing where this socket has none.
    pub(super) async fn group_capabilities(&self) -> Outcome<Vec<i32>> {
        let request = csi::GroupControllerGetCapabilitiesRequest {};
        let answer = self.group().group_controller_get_capabilities(request).await;
        let answer = absent_is_empty(answer).map_err(Failure::of("GroupControllerGetCapabilities"))?;
        let list = answer.into_iter().flat_map(|answer| answer.capabilities);
        Ok(list
            .filter_map(|one| one.r#type)
            .map(|csi::group_controller_service_capability::Type::Rpc(rpc)| rpc.r#type)
            .collect())
    }

    /// Whether the controller advertises it.
    pub(super) async fn controller_can(&self, rpc: ControllerRpc) -> Outcome<bool> {
        Ok(self.controller_capabilities().await?.contains(&i32::from(rpc)))
    }

    /// Whether the node advertises it.
    pub(super) async fn node_can(&self, rpc: NodeRpc) -> Outcome<bool> {
        Ok(self.node_capabilities().await?.contains(&i32::from(rpc)))
    }

    /// Refuses a command for which the controller lacks `rpc`.
    pub(super) async fn need_controller(&self, rpc: ControllerRpc) -> Outcome<()> {
        if self.controller_can(rpc).await? {
            return Ok(());
        }
        Err(Failure::Unsupported(format!("this socket does not advertise controller {}", rpc.as_str_name())))
    }

    /// Refuses a command for which the node lacks `rpc`.
    pub(super) async fn need_node(&self, rpc: NodeRpc) -> Outcome<()> {
        if self.node_can(rpc).await? {
            return Ok(());
        }
        Err(Failure::Unsupported(format!("this socket does not advertise node {}", rpc.as_str_name())))
    }

    /// Refuses a command for which the plugin lacks `service`.
    pub(super) async fn need_service(&self, service: Service) -> Outcome<()> {
        let offered = self.plugin_capabilities().await?.into_iter().any(|one| {
            matches!(one.r#type, Some(csi::plugin_capability::Type::Service(s)) if s.r#type == i32::from(service))
        });
        if offered {
            return Ok(());
        }
        Err(Failure::Unsupported(format!("this driver does not advertise plugin {}", service.as_str_name())))
    }
}

/// Our own driver's admin service.
pub(super) async fn admin(endpoint: &Endpoint, timeout: Duration) -> Outcome<AdminClient<Channel>> {
    Ok(AdminClient::new(channel(endpoint, timeout).await?).max_decoding_message_size(ANSWER_LIMIT))
}

/// What our own controller tells operators.
pub(super) async fn cluster(endpoint: &Endpoint, timeout: Duration) -> Outcome<ClusterClient<Channel>> {
    Ok(ClusterClient::new(channel(endpoint, timeout).await?).max_decoding_message_size(ANSWER_LIMIT))
}

/// The pools of our own driver.
pub(super) async fn pools(endpoint: &Endpoint, timeout: Duration) -> Outcome<Vec<Pool>> {
    list(&mut admin(endpoint, timeout).await?).await
}

/// The same, where there is a connection.
pub(super) async fn list(driver: &mut AdminClient<Channel>) -> Outcome<Vec<Pool>> {
    let answer = driver.list_pools(ListPoolsRequest {}).await;
    Ok(answer.map_err(Failure::of("ListPools"))?.into_inner().pools)
}

async fn channel(endpoint: &Endpoint, timeout: Duration) -> Outcome<Channel> {
    let refused = |cause: &tonic::transport::Error| {
        Failure::Unreachable(format!("failed to connect to {endpoint}: {}", chain(cause)))
    };
    // Drivers in Go and Rust know `localhost` as the authority of a unix socket; a path there is refused by many.
    tonic::transport::Endpoint::from_shared(endpoint.to_string())
        .map_err(|error| refused(&error))?
        .origin(Uri::from_static("http://localhost"))
        .connect_timeout(Duration::from_secs(10))
        .timeout(timeout)
        .connect()
        .await
        .map_err(|error| refused(&error))
}

/// A service that is not served here answers UNIMPLEMENTED.
fn absent_is_empty<T>(answer: Result<tonic::Response<T>, tonic::Status>) -> Result<Option<T>, tonic::Status> {
    match answer {
        Ok(answer) => Ok(Some(answer.into_inner())),
        Err(status) if status.code() == Code::Unimplemented => Ok(None),
        Err(status) => Err(status),
    }
}
