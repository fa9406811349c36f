//! `ctl transfer`: volumes on their way from one node to another.

use clap::Subcommand;
use serde_json::{Value, json};
use tonic::transport::Channel;

use super::answer::{Answer, Table, size};
use super::failure::{Failure, Outcome};
use crate::proto::admin;
use admin::admin_client::AdminClient;

/// What to do.
#[derive(Subcommand, Debug)]
pub(super) enum Verb {
    /// List the volumes that this node receives, and what it has cut so that another node can copy it.
    List,
}

pub(super) async fn run(mut driver: AdminClient<Channel>, verb: &Verb) -> Outcome<Answer> {
    match verb {
        Verb::List => {
            let answer = driver.list_transfers(admin::ListTransfersRequest {}).await;
            Ok(list(&answer.map_err(Failure::of("ListTransfers"))?.into_inner().transfers))
        }
    }
}

fn list(transfers: &[admin::Transfer]) -> Answer {
    let mut table = Table::new(&["ID", "WAY", "NAME", "SOURCE", "COPY", "RECEIVED", "SIZE"]);
    for one in transfers {
        let received = if one.incoming { size(one.received_bytes) } else { String::new() };
        table.push([
            one.id.clone(),
            way(one).to_owned(),
            one.name.clone(),
            one.source.clone(),
            one.copy.clone(),
            received,
            size(one.size_bytes),
        ]);
    }
    let list: Vec<Value> = transfers.iter().map(as_json).collect();
    Answer::new(table, json!({ "transfers": list }))
}

fn way(one: &admin::Transfer) -> &'static str {
    if one.incoming { "in" } else { "out" }
}

fn as_json(one: &admin::Transfer) -> Value {
    json!({
        "id": one.id,
        "way": way(one),
        "name": one.name,
        "source": one.source,
        "copy": one.copy,
        "received_bytes": one.received_bytes,
        "size_bytes": one.size_bytes,
    })
}
