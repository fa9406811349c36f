//! `ctl capacity`: how much can still be made.

use clap::Args;
use serde_json::json;

use super::answer::{Answer, Table, amount};
use super::args::{Pair, Use, map, pair};
use super::driver::Driver;
use super::failure::{Failure, Outcome};
use crate::proto::csi;
use csi::controller_service_capability::rpc::Type as Rpc;

/// Which room is meant.
#[derive(Args, Debug)]
pub(super) struct Capacity {
    /// For volumes made with this StorageClass parameter.
    #[arg(long = "parameter", value_name = "KEY=VALUE", value_parser = pair)]
    parameters: Vec<Pair>,

    /// In the place with these labels.
    #[arg(long = "topology", value_name = "KEY=VALUE", value_parser = pair)]
    topology: Vec<Pair>,

    #[command(flatten)]
    usage: Use,
}

pub(super) async fn run(driver: &Driver, asked: &Capacity) -> Outcome<Answer> {
    driver.need_controller(Rpc::GetCapacity).await?;
    let request = csi::GetCapacityRequest {
        volume_capabilities: vec![asked.usage.capability()],
        parameters: map(&asked.parameters),
        accessible_topology: super::volume::place(&asked.topology),
    };
    let answer = driver.controller().get_capacity(request).await;
    let room = answer.map_err(Failure::of("GetCapacity"))?.into_inner();
    let shown = |bytes: Option<i64>| bytes.map(amount).unwrap_or_default();
    let table = Table::of_one([
        ("AVAILABLE", amount(room.available_capacity)),
        ("LARGEST VOLUME", shown(room.maximum_volume_size)),
        ("SMALLEST VOLUME", shown(room.minimum_volume_size)),
    ]);
    let json = json!({
        "available_capacity": room.available_capacity,
        "maximum_volume_size": room.maximum_volume_size,
        "minimum_volume_size": room.minimum_volume_size,
    });
    Ok(Answer::new(table, json))
}
