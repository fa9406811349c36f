//! The end where the content lies: it dials.
//!
//! Owns: one attempt for each copy at a time, how many there are in all, and what the last one has come to. Never: talks to
//! anybody but the holder of the ticket's key, or cuts anything before that one has taken the ticket's secret.

use std::collections::HashMap;
use std::fmt::Display;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::split;
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::Status;

use super::counts::Way;
use super::frames::close;
use super::send::{Sender, greet};
use super::{PLACES, Transfers, lock, ticket};
use crate::error::{Error, Result, chain, quoted};
use crate::model::{Bytes, VolumeId};
use crate::proto::link as wire;

/// A copy that is being sent, or was until a moment ago.
pub(super) struct Given {
    /// To whom.
    ticket: wire::Ticket,
    at: Arc<AtomicU64>,
    task: AbortHandle,
    /// When it ended, and why it is not whole.
    ended: Option<(Instant, Failure)>,
}

/// Why an attempt has failed.
enum Failure {
    /// The source cannot be had: the caller has to hear just that.
    Source(Status),
    /// It broke off, and the next one may do better.
    Broke(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Broke(error)
    }
}

impl Failure {
    fn why(&self) -> String {
        match self {
            Failure::Source(status) => status.message().to_owned(),
            Failure::Broke(error) => chain(error),
        }
    }
}

impl Given {
    pub(super) fn runs(&self) -> bool {
        self.ended.is_none() && !self.task.is_finished()
    }

    /// Whether somebody may still ask what has become of it.
    fn is_wanted(&self, time: Duration) -> bool {
        self.runs() || self.ended.as_ref().is_some_and(|(ended, _)| ended.elapsed() < time)
    }

    /// Makes room for another attempt: why this one has failed, in words.
    ///
    /// # Errors
    /// Where it was the source.
    fn replaced(self) -> std::result::Result<String, Status> {
        // It may run for an older ticket, at whose other end nobody listens any more.
        self.task.abort();
        match self.ended {
            Some((_, Failure::Source(status))) => Err(status),
            Some((_, failure)) => Ok(failure.why()),
            None => Ok(String::new()),
        }
    }
}

impl Transfers {
    /// Begins to send, unless that goes on already.
    pub(super) async fn start_giving(
        &self,
        source: String,
        ticket: wire::Ticket,
    ) -> std::result::Result<wire::GiveResponse, Status> {
        let attempt = Attempt::new(self, source, ticket)?;
        if let Some(answer) = attempt.running(&lock(&self.0.given)) {
            return Ok(answer);
        }
        // What is wrong with the source is said at once, as far as it shows without a cut.
        self.0.services.refuse_gone(&attempt.source, attempt.to).await?;
        self.begin(attempt)
    }

    /// Sends, in the place of any other attempt for the same copy.
    fn begin(&self, attempt: Attempt) -> std::result::Result<wire::GiveResponse, Status> {
        let mut given = lock(&self.0.given);
        // Another call may have been faster.
        if let Some(answer) = attempt.running(&given) {
            return Ok(answer);
        }
        given.retain(|_, one| one.is_wanted(self.0.timing.silence));
        let trouble = given.remove(&attempt.to).map_or(Ok(String::new()), Given::replaced)?;
        let Ok(place) = Arc::clone(&self.0.sending).try_acquire_owned() else {
            let trouble = format!("its node sends {PLACES} volumes already, this one waits for its turn");
            return Ok(wire::GiveResponse { given_bytes: 0, trouble });
        };
        let (to, at, ticket) = (attempt.to, Arc::clone(&attempt.at), attempt.ticket.clone());
        let task = tokio::spawn(attempt.run(place, trouble.clone())).abort_handle();
        given.insert(to, Given { ticket, at, task, ended: None });
        Ok(wire::GiveResponse { given_bytes: 0, trouble })
    }
}

/// One attempt to send a copy.
struct Attempt {
    transfers: Transfers,
    source: String,
    ticket: wire::Ticket,
    to: VolumeId,
    size: Bytes,
    client: (Arc<ClientConfig>, ServerName<'static>),
    /// How far the other end is, as it has said.
    at: Arc<AtomicU64>,
}

impl Attempt {
    fn new(transfers: &Transfers, source: String, ticket: wire::Ticket) -> Result<Attempt> {
        let to = ticket
            .volume_id
            .parse()
            .map_err(|_| Error::invalid("ticket.volume_id", &ticket.volume_id, "want the id of a volume"))?;
        let size = u64::try_from(ticket.size_bytes)
            .map_err(|_| Error::invalid("ticket.size_bytes", ticket.size_bytes, "want 0 or more"))?;
        let client = ticket::client(&ticket.key_sha256)?;
        let (transfers, size) = (transfers.clone(), Bytes::new(size));
        Ok(Attempt { transfers, source, ticket, to, size, client, at: Arc::default() })
    }

    /// What to answer where the same is running already.
    fn running(&self, given: &HashMap<VolumeId, Given>) -> Option<wire::GiveResponse> {
        let there = given.get(&self.to).filter(|there| there.runs() && there.ticket == self.ticket)?;
        let given_bytes = i64::try_from(there.at.load(Ordering::Relaxed)).unwrap_or(i64::MAX);
        Some(wire::GiveResponse { given_bytes, trouble: String::new() })
    }

    /// Sends, and leaves word of what has become of it.
    async fn run(self, place: OwnedSemaphorePermit, before: String) {
        let counts = self.transfers.counts();
        let running = counts.run(Way::Sent);
        let ended = self.send().await;
        running.end(ended.is_ok());
        drop(place);
        let (volume, address) = (self.to, quoted(&self.ticket.address));
        match ended.as_ref().map_err(Failure::why) {
            Ok(()) => tracing::info!(%volume, "sent a volume to another node"),
            // Whoever waits for it tries again several times a second.
            Err(error) if error == before => {
                tracing::debug!(%volume, address, error, "a transfer broke off again")
            }
            Err(error) => tracing::warn!(%volume, address, error, "a transfer broke off"),
        }
        let mut given = lock(&self.transfers.0.given);
        // It may have been replaced meanwhile.
        if let Some(there) = given.get_mut(&self.to).filter(|there| Arc::ptr_eq(&there.at, &self.at)) {
            match ended {
                Ok(()) => drop(given.remove(&self.to)),
                Err(failure) => there.ended = Some((Instant::now(), failure)),
            }
        }
    }

    async fn send(&self) -> std::result::Result<(), Failure> {
        let (timing, rate) = (self.transfers.0.timing, &self.transfers.0.rate);
        let (mut from, mut to) = split(self.dial().await?);
        let start = greet(&self.ticket, timing, &mut from, &mut to).await?;
        let services = &self.transfers.0.services;
        // A cut is made for nobody but who has taken the secret: a ticket that has died costs nothing.
        let outgoing = services.outgoing(&self.source, self.to, self.size).await.map_err(Failure::Source)?;
        let counts = &self.transfers.0.counts;
        let sender = Sender { timing, outgoing: &outgoing, rate, at: &self.at, counts };
        let sent = sender.send(start, &mut from, &mut to).await;
        close(&mut to, timing.handshake).await;
        sent?;
        if let Err(error) = outgoing.take_back().await {
            tracing::warn!(volume = %self.to, error = chain(&error), "what was lent stays for now");
        }
        Ok(())
    }

    /// A connection to whoever holds the ticket's key.
    async fn dial(&self) -> Result<TlsStream<TcpStream>> {
        let address = &self.ticket.address;
        let failed = |why: &dyn Display| Error::Unavailable(format!("failed to connect to {address}: {why}"));
        let (client, name) = self.client.clone();
        let connecting = async {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            TlsConnector::from(client).connect(name, stream).await
        };
        match timeout(self.transfers.0.timing.handshake, connecting).await {
            Ok(connected) => connected.map_err(|error| failed(&error)),
            Err(_) => Err(failed(&"nobody answers")),
        }
    }
}
