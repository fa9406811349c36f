//! The streams on which nodes tell what they have: one for each link.
//!
//! Owns: when a stream begins and that it begins anew. Never: keeps a connection open: a link that the table of links has let
//! go is let go here.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::task::AbortHandle;
use tokio::time::timeout;

use super::{Connection, Known, NAMES, POOLS};
use crate::cluster::link::{Line, Link, Links, jittered};
use crate::csi::call::code_name;
use crate::model::NodeId;
use crate::proto::link::WatchRequest;
use crate::proto::link::link_client::LinkClient;

/// The longest message: the hashes of two million names.
const LONGEST: usize = 16 << 20;

/// The stream of one connection; it ends when this is dropped.
struct Watched {
    connection: Connection,
    task: AbortHandle,
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Known {
    /// Listens to every node that is connected, until the future is dropped.
    pub async fn follow(self: Arc<Self>, links: Arc<Links>) {
        let mut changes = links.changes();
        let mut watched: HashMap<NodeId, Watched> = HashMap::new();
        loop {
            changes.borrow_and_update();
            let linked: HashMap<NodeId, Connection> =
                links.all().into_iter().map(|link| (link.node.clone(), connection(&link))).collect();
            watched.retain(|node, watched| {
                if !linked.contains_key(node) {
                    self.parted(node);
                }
                linked.get(node) == Some(&watched.connection)
            });
            for (node, connection) in linked {
                watched.entry(node).or_insert_with_key(|node| {
                    self.met(node, connection);
                    let watch = watch(Arc::clone(&self), Arc::clone(&links), node.clone(), connection);
                    Watched { connection, task: tokio::spawn(watch).abort_handle() }
                });
            }
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    /// Listens to one stream until it ends; why it did.
    async fn listen(&self, link: Link) -> String {
        let (node, connection, silence) = (link.node.clone(), connection(&link), self.pace.silence);
        let silent = || format!("nothing came for {} ms", silence.as_millis());
        let mut stream = {
            // Only the stream keeps the connection from here on.
            let mut client =
                LinkClient::with_origin(link.line, Line::origin()).max_decoding_message_size(LONGEST);
            match timeout(silence, client.watch(WatchRequest {})).await {
                Ok(Ok(answer)) => answer.into_inner(),
                Ok(Err(status)) => return format!("{}: {}", code_name(status.code()), status.message()),
                Err(_) => return silent(),
            }
        };
        for expected in 1.. {
            match timeout(silence, stream.message()).await {
                Ok(Ok(Some(news))) if news.sequence == expected => {
                    if !self.hear(&node, connection, news) {
                        return format!("it tells of more than {POOLS} pools or {NAMES} names");
                    }
                }
                Ok(Ok(Some(news))) => {
                    return format!("message {} came where {expected} was to come", news.sequence);
                }
                Ok(Ok(None)) => return "the node ended it".to_owned(),
                Ok(Err(status)) => return format!("{}: {}", code_name(status.code()), status.message()),
                Err(_) => return silent(),
            }
        }
        "it is at its end".to_owned()
    }
}

fn connection(link: &Link) -> Connection {
    (link.instance, link.attempt)
}

/// Listens to one connection for as long as it is the node's.
async fn watch(known: Arc<Known>, links: Arc<Links>, node: NodeId, of: Connection) {
    let mut said = String::new();
    while let Some(link) = links.of(&node).filter(|link| connection(link) == of) {
        let error = known.listen(link).await;
        known.broke_off(&node, of);
        // The end of the connection is logged where it is noticed.
        let goes_on = links.of(&node).is_some_and(|link| connection(&link) == of && !link.line.is_closed());
        if goes_on && error != said {
            tracing::warn!(%node, error, "a node stopped telling what it has; asking again");
            said = error;
        }
        tokio::time::sleep(jittered(known.pace.pause)).await;
    }
}
