//! `ctl retained`: what was deleted and is still kept.

use clap::Subcommand;
use serde_json::{Value, json};
use tonic::transport::Channel;

use super::answer::{Answer, Table, moment, size};
use super::failure::{Failure, Outcome};
use crate::error::quoted;
use crate::model::{Age, ObjectId};
use crate::proto::admin;
use admin::admin_client::AdminClient;

/// What to do.
#[derive(Subcommand, Debug)]
pub(super) enum Verb {
    /// List what was deleted and is still kept, the next to go first.
    List,
    /// Make a deleted volume, snapshot or group snapshot again what it was.
    Restore {
        /// Its id.
        id: String,
        /// Under this name; without it the one that it had.
        #[arg(long)]
        name: Option<String>,
    },
    /// Remove deleted volumes, snapshots or group snapshots for good, now.
    Purge {
        /// Their ids; nothing goes that is not named.
        #[arg(required = true, value_name = "ID")]
        ids: Vec<String>,
    },
}

pub(super) async fn run(mut driver: AdminClient<Channel>, verb: &Verb) -> Outcome<Answer> {
    match verb {
        Verb::List => {
            let answer = driver.list_retained(admin::ListRetainedRequest {}).await;
            Ok(list(answer.map_err(Failure::of("ListRetained"))?.into_inner()))
        }
        Verb::Restore { id, name } => {
            let request = admin::RestoreRequest { id: id.clone(), name: name.clone().unwrap_or_default() };
            let answer = driver.restore(request).await.map_err(Failure::of("Restore"))?.into_inner();
            let table = Table::of_one([("RESTORED", id.clone()), ("NAME", answer.name.clone())]);
            Ok(Answer::new(table, json!({ "done": "restored", "id": id, "name": answer.name })))
        }
        Verb::Purge { ids } => purge(&mut driver, ids).await,
    }
}

/// One after the other; one that fails keeps no other, but a word that is no id all of them: what is purged stays purged.
async fn purge(driver: &mut AdminClient<Channel>, ids: &[String]) -> Outcome<Answer> {
    if let Some(bad) = ids.iter().find(|id| id.parse::<ObjectId>().is_err()) {
        let want = "want ids as `retained list` shows them; nothing was purged";
        return Err(Failure::Usage(format!("ID {}: {want}", quoted(bad))));
    }
    let mut table = Table::new(&["ID", "DONE"]);
    let (mut purged, mut absent, mut failures) = (Vec::new(), Vec::new(), Vec::new());
    for id in ids {
        let (list, done) = match driver.purge(admin::PurgeRequest { id: id.clone() }).await {
            Ok(answer) if answer.get_ref().absent => (&mut absent, "nothing is there under this id"),
            Ok(_) => (&mut purged, "purged"),
            Err(status) => {
                failures.push(Failure::of("Purge")(status));
                continue;
            }
        };
        list.push(id);
        table.push([id.clone(), done.to_owned()]);
    }
    Ok(Answer::of_several(table, json!({ "done": "purged", "ids": purged, "absent": absent }), failures))
}

fn list(answer: admin::ListRetainedResponse) -> Answer {
    let retained = &answer.retained;
    let mut table =
        Table::new(&["ID", "KIND", "NAME", "POOL", "SIZE", "COUNTS", "DELETED", "KEPT FOR", "CLAIM"]);
    for one in retained {
        let claim = [one.claim_namespace.as_str(), one.claim_name.as_str()];
        let claim: Vec<&str> = claim.into_iter().filter(|part| !part.is_empty()).collect();
        table.push([
            one.id.clone(),
            kind(&one.id).to_owned(),
            one.name.clone(),
            one.pool.clone(),
            size(one.size_bytes),
            size(one.promised_bytes),
            moment(one.deleted.as_ref()),
            Age::new(one.seconds_left.unsigned_abs()).left(Age::default()).to_string(),
            claim.join("/"),
        ]);
    }
    let list: Vec<Value> = retained.iter().map(as_json).collect();
    let incomplete: Vec<&str> = answer.unread.iter().map(|unread| unread.pool.as_str()).collect();
    let json = json!({ "retained": list, "incomplete": incomplete });
    let missing =
        answer.unread.iter().map(|unread| format!("what is kept there is not known: {}", unread.why));
    Answer::of_several(table, json, missing.map(Failure::Unreachable).collect())
}

fn kind(id: &str) -> &'static str {
    match id.parse() {
        Ok(ObjectId::Volume(_)) => "volume",
        Ok(ObjectId::Snapshot(_)) => "snapshot",
        Ok(ObjectId::Group(_)) => "group",
        Err(_) => "unknown",
    }
}

fn as_json(one: &admin::Retained) -> Value {
    json!({
        "id": one.id,
        "kind": kind(&one.id),
        "name": one.name,
        "pool": one.pool,
        "size_bytes": one.size_bytes,
        "promised_bytes": one.promised_bytes,
        "deleted": moment(one.deleted.as_ref()),
        "seconds_left": one.seconds_left,
        "claim_namespace": one.claim_namespace,
        "claim_name": one.claim_name,
    })
}
