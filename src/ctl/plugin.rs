//! `ctl plugin`: who the driver is, what it can do, whether it is well.

use clap::Subcommand;
use serde_json::json;

use super::answer::{Answer, Table, Verdict, pairs, word};
use super::driver::Driver;
use super::failure::{Failure, Outcome};
use crate::proto::csi;
use csi::plugin_capability::{Type, service, volume_expansion};

/// What to ask.
#[derive(Subcommand, Debug)]
pub(super) enum Verb {
    /// Its name and version.
    Info,
    /// What it advertises: plugin, controller, group and node.
    Capabilities,
    /// Whether it is ready; exit code 1 where it says that it is not yet.
    Probe,
}

pub(super) async fn run(driver: &Driver, verb: &Verb) -> Outcome<Answer> {
    match verb {
        Verb::Info => info(driver).await,
        Verb::Capabilities => capabilities(driver).await,
        Verb::Probe => probe(driver).await,
    }
}

async fn info(driver: &Driver) -> Outcome<Answer> {
    let answer = driver.identity().get_plugin_info(csi::GetPluginInfoRequest {}).await;
    let info = answer.map_err(Failure::of("GetPluginInfo"))?.into_inner();
    let table = Table::of_one([
        ("NAME", info.name.clone()),
        ("VERSION", info.vendor_version.clone()),
        ("MANIFEST", pairs(&info.manifest)),
    ]);
    let json = json!({ "name": info.name, "vendor_version": info.vendor_version, "manifest": info.manifest });
    Ok(Answer::new(table, json))
}

async fn probe(driver: &Driver) -> Outcome<Answer> {
    let answer = driver.identity().probe(csi::ProbeRequest {}).await;
    // An absent value reads as ready, says the standard.
    let ready = answer.map_err(Failure::of("Probe"))?.into_inner().ready.unwrap_or(true);
    let text = if ready { "yes" } else { "not yet" };
    let answer = Answer::new(Table::of_one([("READY", text.to_owned())]), json!({ "ready": ready }));
    Ok(answer.with(if ready { Verdict::Yes } else { Verdict::No }))
}

async fn capabilities(driver: &Driver) -> Outcome<Answer> {
    let plugin: Vec<String> = driver
        .plugin_capabilities()
        .await?
        .iter()
        .filter_map(|one| one.r#type.as_ref())
        .map(plugin_word)
        .collect();
    let controller: Vec<String> = words::<csi::controller_service_capability::rpc::Type>(
        &driver.controller_capabilities().await?,
        |rpc| rpc.as_str_name(),
    );
    let group: Vec<String> = words::<csi::group_controller_service_capability::rpc::Type>(
        &driver.group_capabilities().await?,
        |rpc| rpc.as_str_name(),
    );
    let node: Vec<String> = words::<csi::node_service_capability::rpc::Type>(
        &driver.node_capabilities().await?, //
        |rpc| rpc.as_str_name(),
    );
    let mut table = Table::new(&["SERVICE", "CAPABILITY"]);
    for (service, list) in
        [("plugin", &plugin), ("controller", &controller), ("group", &group), ("node", &node)]
    {
        list.iter().for_each(|one| table.push([service.to_owned(), one.clone()]));
    }
    let json = json!({ "plugin": plugin, "controller": controller, "group_controller": group, "node": node });
    Ok(Answer::new(table, json))
}

fn plugin_word(capability: &Type) -> String {
    match capability {
        Type::Service(one) => word(one.r#type, |known: service::Type| known.as_str_name()),
        Type::VolumeExpansion(one) => {
            format!(
                "VOLUME_EXPANSION_{}",
                word(one.r#type, |known: volume_expansion::Type| known.as_str_name())
            )
        }
    }
}

/// Capabilities by name.
pub(super) fn words<E: TryFrom<i32>>(numbers: &[i32], name: impl Fn(E) -> &'static str) -> Vec<String> {
    numbers.iter().map(|number| word(*number, &name)).collect()
}
