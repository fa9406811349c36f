//! A node's token: read when it is sent, and sent again when its file has another one.
//!
//! Owns: when a connection is made anew for the sake of its proof. Kubelet replaces a token well before its end, so its file says
//! when; no clock is asked. Never: keeps a token longer than the connection that it proved; ends a connection that works: the
//! controller lets the older of two go, and its calls finish.

use std::future::Future;
use std::net::SocketAddr;

use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::node::{Dialer, Unmet, Welcomed, closed};
use super::{jittered, shown};
use crate::error::quoted_path;

impl Dialer {
    /// Serves a connection, and those that take its place when there is a new token, until the last of them has ended.
    pub(super) async fn attend<F>(
        &self,
        address: SocketAddr,
        mut welcomed: Welcomed<TcpStream>,
        serve: &impl Fn(Welcomed<TcpStream>) -> F,
        closing: &mut watch::Receiver<bool>,
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        let (mut served, mut said) = (JoinSet::new(), String::new());
        loop {
            let (controller, version) = (welcomed.controller, shown(&welcomed.version));
            let mut token = std::mem::take(&mut welcomed.token);
            tracing::info!(%address, ?controller, version, "connected to a controller");
            let serving = self.serving(controller, address);
            let current = served.spawn(serve(welcomed)).id();
            let renewed = 'wait: loop {
                let is_last = tokio::select! {
                    ended = served.join_next_with_id() => {
                        let id = ended.map(|ended| ended.map_or_else(|error| error.id(), |(id, ())| id));
                        id.is_none_or(|id| id == current)
                    }
                    () = closed(closing) => true,
                    new = self.newer_than(&token) => {
                        match self.dial(address, Some(controller)).await {
                            Ok(renewed) => break 'wait Some(renewed),
                            // The controller may be there at the next look; a token that it refuses is not tried again.
                            Err(unmet) => {
                                if matches!(unmet, Unmet::Refused(_)) {
                                    token = new;
                                }
                                unmet.tell(address, &mut said);
                                false
                            }
                        }
                    }
                };
                if is_last {
                    break None;
                }
            };
            drop(serving);
            match renewed {
                Some(renewed) => welcomed = renewed,
                None => {
                    while served.join_next().await.is_some() {}
                    tracing::info!(%address, ?controller, "the connection to a controller has ended");
                    return;
                }
            }
        }
    }

    /// Waits until there is another token than this one, and returns it; for ever where there are no tokens.
    async fn newer_than(&self, token: &str) -> String {
        loop {
            tokio::time::sleep(jittered(self.wanted.pace.look)).await;
            match self.token() {
                Ok(new) if new != token => return new,
                Ok(_) | Err(_) => {}
            }
        }
    }

    /// The token as its file has it now; nothing where there are none.
    pub(super) fn token(&self) -> std::result::Result<String, Unmet> {
        let Some(path) = &self.wanted.token else { return Ok(String::new()) };
        let why = |why: String| Unmet::Failed(format!("--link-token {}: {why}", quoted_path(path)));
        let text = std::fs::read_to_string(path).map_err(|error| why(error.to_string()))?;
        let token = text.trim();
        if token.is_empty() { Err(why("it is empty".to_owned())) } else { Ok(token.to_owned()) }
    }
}
