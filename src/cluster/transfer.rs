//! The way of a volume's content from one node to another.
//!
//! Owns: who may send it, what goes over the connection, and how a transfer that broke off goes on. Never: knows where bytes
//! lie (`csi::transfer` does), or listens any longer than something is to come.
//!
//! ```text
//!   controller                       node A, which has it            node B, which is to have it
//!    1. Describe ──────────────────▶ size, access, filesystem
//!    2. Take ──────────────────────────────────────────────────────▶ a record, a key and a secret, a port
//!    3. Give, with the ticket ─────▶ is the source there?
//!                                    4. dials B, TLS 1.3: is it the ticket's key?
//!                                       Hello: the secret ──────────▶ 5. is it the ticket's secret?
//!                                    6. a cut, where it is a volume ◀─ Start: so much is here, with this digest
//!                                       goes on, or begins anew
//!                                       Content, Piece, Hole… ──────▶ 7. each is checked, written, and now and then made
//!                                                        ◀─────────── Mark: durable up to here
//!                                       End: the digest ────────────▶ 8. compared, then it is a volume
//!                                    9. the cut goes ◀─────────────── Whole
//! ```
//!
//! Nothing but the record and the bytes outlasts a process. After a kill of A or B, or of the controller, whoever asks again with
//! the same CreateVolume finds the record at B, gets a ticket (a new one, where B was started again), and A goes on where B is.
//!
//! # Who is who
//! B makes a key for each ticket (a raw public key, RFC 7250: there is no certificate), and A talks to nobody but the holder of
//! that key. A proves itself by the ticket's secret, which came from the controller over the link, as the key did. The port is
//! there as long as the ticket lives: until the volume is whole or gone, or nobody has sent anything for ten minutes.

mod counts;
mod frames;
mod give;
mod receive;
mod refused;
mod send;
mod take;
#[cfg(test)]
mod tests;
mod ticket;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use prost::Message;
use tokio::sync::Semaphore;
use tonic::{Request, async_trait};

pub use self::counts::Counts;
use self::give::Given;
pub use self::refused::{REASONS, Refusals};
use self::send::Rate;
use self::take::Taken;
use crate::csi::transfer::Arrival;
use crate::csi::{Reply, Services, noted};
use crate::error::{Error, Result};
use crate::model::{Bytes, VolumeId};
use crate::proto::link as wire;
use crate::proto::link::transfers_server::{Transfers as Service, TransfersServer};

/// So many volumes are sent at once, and so many are received: more would only make each of them slower.
const PLACES: usize = 4;

/// What a node is told about transfers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// Where other nodes reach this one; none: it takes nothing.
    pub address: Option<String>,
    /// How many bytes it gives in a second, to all nodes together; 0: as many as there are.
    pub rate: u64,
}

/// How long what may take.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// To a connection, and from there to its proof.
    pub handshake: Duration,
    /// How long the other end may say nothing.
    pub silence: Duration,
    /// How long a ticket lives while nobody sends anything.
    pub ticket: Duration,
    /// What has come is made durable at least so often.
    pub harden: Duration,
    /// How long a volume that was given up is not begun again: whoever wants it goes to another node meanwhile.
    pub refusal: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Timing {
            handshake: Duration::from_secs(5),
            silence: Duration::from_secs(30),
            ticket: Duration::from_secs(600),
            harden: Duration::from_secs(10),
            refusal: Duration::from_secs(600),
        }
    }
}

/// The transfers of a node; clones are the same ones.
#[derive(Clone)]
pub struct Transfers(Arc<Inner>);

struct Inner {
    services: Services,
    terms: Terms,
    timing: Timing,
    rate: Rate,
    taken: Mutex<HashMap<VolumeId, Taken>>,
    given: Mutex<HashMap<VolumeId, Given>>,
    /// The places for what is sent, and for what is received.
    sending: Arc<Semaphore>,
    receiving: Arc<Semaphore>,
    /// Who was not let in.
    turned_away: Arc<Refusals>,
    counts: Arc<Counts>,
    /// The names of the volumes that were given up, when, and why.
    refused: Mutex<HashMap<String, (Instant, String)>>,
}

impl Transfers {
    /// Those of the node that has these services.
    pub fn new(services: Services, terms: Terms) -> Transfers {
        Transfers::over(services, terms, Timing::default())
    }

    fn over(services: Services, terms: Terms, timing: Timing) -> Transfers {
        Transfers(Arc::new(Inner {
            services,
            timing,
            rate: Rate::new(terms.rate),
            terms,
            taken: Mutex::default(),
            given: Mutex::default(),
            sending: Arc::new(Semaphore::new(PLACES)),
            receiving: Arc::new(Semaphore::new(PLACES)),
            turned_away: Arc::default(),
            counts: Arc::default(),
            refused: Mutex::default(),
        }))
    }

    /// Who was not let in to send a volume.
    pub fn refusals(&self) -> Arc<Refusals> {
        Arc::clone(&self.0.turned_away)
    }

    /// How many went and came.
    pub fn counts(&self) -> Arc<Counts> {
        Arc::clone(&self.0.counts)
    }

    /// The service for controllers.
    pub fn service(&self) -> TransfersServer<Transfers> {
        TransfersServer::new(self.clone())
    }
}

#[async_trait]
impl Service for Transfers {
    async fn describe(&self, request: Request<wire::DescribeRequest>) -> Reply<wire::DescribeResponse> {
        let request = noted(request, |r| &r.source);
        let origin = self.0.services.describe(&request).await?;
        Ok(wire::DescribeResponse { origin: Some(origin) }.into())
    }

    async fn take(&self, request: Request<wire::TakeRequest>) -> Reply<wire::TakeResponse> {
        let request = request.into_inner();
        let name = name_of(&request)?;
        let arrival = self.arrival(&request, &name).await?;
        Ok(self.answer(arrival, name).await?.into())
    }

    async fn give(&self, request: Request<wire::GiveRequest>) -> Reply<wire::GiveResponse> {
        let request = noted(request, |r| &r.source);
        let Some(ticket) = request.ticket else {
            return Err(Error::Invalid("ticket is missing".to_owned()).into());
        };
        self.start_giving(request.source, ticket).await.map(Into::into)
    }

    async fn abandon(&self, request: Request<wire::AbandonRequest>) -> Reply<wire::AbandonResponse> {
        let request = noted(request, |r| &r.volume_id);
        self.0.services.abandon(&request).await.map(Into::into)
    }
}

impl Transfers {
    /// What is there under a name; where that is nothing, it is begun, unless this node has reasons not to.
    async fn arrival(
        &self,
        request: &wire::TakeRequest,
        name: &str,
    ) -> std::result::Result<Arrival, tonic::Status> {
        let begun = wire::TakeRequest { origin: None, ..request.clone() };
        match self.0.services.receive(&begun).await {
            Err(status) if status.code() == tonic::Code::NotFound && request.origin.is_some() => {
                self.refuse_anew(name)?;
                self.0.services.receive(request).await
            }
            found => found,
        }
    }

    /// Refuses to begin a volume.
    ///
    /// # Errors
    /// `Full`: another node may take it.
    fn refuse_anew(&self, name: &str) -> Result<()> {
        if self.0.terms.address.is_none() {
            let why = "this node takes no volumes from others: it was started without --transfer-address";
            return Err(Error::Full(why.to_owned()));
        }
        let mut refused = lock(&self.0.refused);
        refused.retain(|_, (since, _)| since.elapsed() < self.0.timing.refusal);
        refused.get(name).map_or(Ok(()), |(_, why)| Err(Error::Full(why.clone())))
    }

    async fn answer(&self, arrival: Arrival, name: String) -> Result<wire::TakeResponse> {
        match arrival {
            Arrival::Whole(made) => {
                Ok(wire::TakeResponse { create_response: made.encode_to_vec(), ..Default::default() })
            }
            Arrival::Going { volume, size, done } => {
                let (ticket, at) = self.ticket(volume, size, name).await?;
                let received = Bytes::new(at.load(Ordering::Relaxed).max(done.get())).as_i64();
                Ok(wire::TakeResponse {
                    ticket: Some(ticket),
                    received_bytes: received,
                    ..Default::default()
                })
            }
        }
    }

    /// The ticket of a volume that is to come: the one that lives, or a new one.
    async fn ticket(
        &self,
        volume: VolumeId,
        size: Bytes,
        name: String,
    ) -> Result<(wire::Ticket, Arc<AtomicU64>)> {
        let Some(address) = &self.0.terms.address else {
            return Err(Error::Unavailable(format!(
                "volume {volume} was begun while this node took volumes from others: start it with --transfer-address"
            )));
        };
        if let Some(taken) = lock(&self.0.taken).get(&volume) {
            return Ok(taken.shown());
        }
        let listening = take::listen(address, volume, size).await?;
        // Another call may have been faster.
        let mut taken = lock(&self.0.taken);
        let there = taken
            .entry(volume)
            .or_insert_with(|| listening.serve(self.clone(), self.0.services.incoming(volume), name));
        Ok(there.shown())
    }
}

fn name_of(request: &wire::TakeRequest) -> Result<String> {
    crate::proto::csi::CreateVolumeRequest::decode(request.create_request.as_slice())
        .map(|create| create.name)
        .map_err(|_| Error::Invalid("create_request: want a CreateVolumeRequest".to_owned()))
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}
