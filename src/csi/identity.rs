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
        let engine = &self.plugin.engine;
        let ready = engine.ready();
        if ready {
            let questions = engine.indexes().map(|index| {
                let plugin = self.plugin();
                (engine.workers_at(index), move || Ok(plugin.engine.ailment(index)))
            });
            let answers = bridge::ask_each(questions, PROBE_PATIENCE).await;
            let ailments =
                answers.into_iter().map(|answer| answer.unwrap_or_else(|error| Some(chain(&error))));
            let ailments: Vec<_> = ailments.flatten().collect();
            if !ailments.is_empty() {
                // Whatever is missing, the standard has one code for it.
                return Err(Error::Precondition(ailments.join("; ")).into());
            }
        }
        Ok(csi::ProbeResponse { ready: Some(ready) }.into())
    }
}
