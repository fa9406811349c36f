//! The Identity service: who we are and whether we can work. Never waits for a disk.

use std::time::Duration;

use tonic::{Request, async_trait};

use crate::error::{Error, chain};
use crate::proto::csi;
use crate::proto::csi::identity_server::Identity;

use super::{Reply, Services, bridge, offers};

/// A CO expects an answer within a second even while the disks are busy.
const PROBE_PATIENCE: Duration = Duration::from_millis(800);

#[async_trait]
impl Identity for Services {
    async fn get_plugin_info(
        &self,
        _: Request<csi::GetPluginInfoRequest>,
    ) -> Reply<csi::GetPluginInfoResponse> {
        Ok(csi::GetPluginInfoResponse {
            name: self.plugin.about.driver_name.clone(),
            vendor_version: env!("CARGO_PKG_VERSION").to_owned(),
            manifest: Default::default(),
        }
        .into())
    }

    async fn get_plugin_capabilities(
        &self,
        _: Request<csi::GetPluginCapabilitiesRequest>,
    ) -> Reply<csi::GetPluginCapabilitiesResponse> {
        let capabilities = offers::plugin(&self.plugin.features);
        Ok(csi::GetPluginCapabilitiesResponse { capabilities }.into())
    }

    async fn probe(&self, _: Request<csi::ProbeRequest>) -> Reply<csi::ProbeResponse> {
        let ready = self.plugin.engine.ready();
        if ready {
            let plugin = self.plugin();
            let workers = self.plugin.engine.host_workers();
            let probed = bridge::ask(workers, PROBE_PATIENCE, move || plugin.engine.probe()).await;
            // Whatever is missing, the standard has one code for it.
            probed.map_err(|error| Error::Precondition(chain(&error)))?;
        }
        Ok(csi::ProbeResponse { ready: Some(ready) }.into())
    }
}
