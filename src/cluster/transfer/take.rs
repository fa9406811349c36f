//! The end where content arrives: a port that is there as long as its ticket lives.
//!
//! Owns: who is let in, one at a time, and how long the port is there. Never: hears more than a few words of who has not proven
//! himself.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream, lookup_host};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Duration, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::frames::{Frame, read_short, send};
use super::receive::Receiver;
use super::refused::{Refusals, Refused};
use super::ticket::{self, Secret};
use super::{Transfers, lock};
use crate::csi::transfer::Incoming;
use crate::error::{Error, Result, chain, quoted};
use crate::model::{Bytes, VolumeId};
use crate::proto::link as wire;

/// So many connections may be on their way to a proof.
const HALFWAY: usize = 64;
/// How often it is looked whether anything is still to come.
const LOOK: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(50);

/// A ticket that lives.
pub(super) struct Taken {
    ticket: wire::Ticket,
    at: Arc<AtomicU64>,
}

/// A port that nobody serves yet.
pub(super) struct Listening {
    listener: TcpListener,
    config: Arc<ServerConfig>,
    secret: Secret,
    ticket: wire::Ticket,
}

impl Taken {
    /// The ticket, and how far its volume has come.
    pub(super) fn shown(&self) -> (wire::Ticket, Arc<AtomicU64>) {
        (self.ticket.clone(), Arc::clone(&self.at))
    }
}

/// A port at this host for one volume.
pub(super) async fn listen(host: &str, volume: VolumeId, size: Bytes) -> Result<Listening> {
    let failed = |error: std::io::Error| {
        let host = quoted(host);
        Error::Unavailable(format!("failed to listen for another node at --transfer-address {host}: {error}"))
    };
    let own = lookup_host((host, 0)).await.map_err(failed)?;
    // Where none of its addresses is this host's, somebody passes on what comes there. A host without IPv6 has no `::`.
    let any = [IpAddr::from(Ipv6Addr::UNSPECIFIED), IpAddr::from(Ipv4Addr::UNSPECIFIED)];
    let places: Vec<SocketAddr> = own.chain(any.map(|any| SocketAddr::new(any, 0))).collect();
    let listener = TcpListener::bind(&places[..]).await.map_err(failed)?;
    let port = listener.local_addr().map_err(failed)?.port();
    let (config, key) = ticket::server()?;
    let secret = Secret::new()?;
    let address = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    let ticket = wire::Ticket {
        volume_id: volume.to_string(),
        address,
        key_sha256: key,
        token: secret.bytes(),
        size_bytes: size.as_i64(),
    };
    Ok(Listening { listener, config, secret, ticket })
}

impl Listening {
    #[cfg(test)]
    pub(super) fn ticket(&self) -> &wire::Ticket {
        &self.ticket
    }

    /// Serves it until its volume is whole or gone, or its ticket has died.
    pub(super) fn serve(self, transfers: Transfers, incoming: Incoming, name: String) -> Taken {
        let at = Arc::new(AtomicU64::new(0));
        let taken = Taken { ticket: self.ticket.clone(), at: Arc::clone(&at) };
        let places = Arc::clone(&transfers.0.receiving);
        let (timing, heard, counts) = (transfers.0.timing, Arc::default(), transfers.counts());
        let end = Receiver { timing, incoming, at, heard, places, counts };
        tokio::spawn(async move {
            let volume = end.incoming.volume();
            let why = self.accept(&end, &transfers.refusals()).await;
            // The port is closed by now; whoever asks gets another ticket.
            lock(&transfers.0.taken).remove(&volume);
            match why {
                Ok(why) => tracing::info!(%volume, why, "no longer listening for a volume"),
                Err(error) => {
                    let why = chain(&error);
                    tracing::error!(%volume, error = why, "gave up a volume that was to be received");
                    match end.incoming.give_up().await {
                        Ok(_) => drop(lock(&transfers.0.refused).insert(name, (Instant::now(), why))),
                        Err(error) => {
                            tracing::warn!(%volume, error = chain(&error), "what was received stays for now")
                        }
                    }
                }
            }
        });
        taken
    }

    /// Lets in whoever proves himself, the last one before the others. Why it is over.
    ///
    /// # Errors
    /// `Full`: the volume cannot be had here.
    async fn accept(self, end: &Receiver, refusals: &Refusals) -> Result<&'static str> {
        let Listening { listener, config, secret, ticket } = self;
        let (acceptor, volume) = (TlsAcceptor::from(config), ticket.volume_id);
        let door = Arc::new(Door { acceptor, secret, volume, time: end.timing.handshake });
        let (mut halfway, mut current) = (Halfway::default(), JoinSet::new());
        let (mut heard, mut progress) = (0, Instant::now());
        let mut look = tokio::time::interval(LOOK);
        loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, from)) => {
                        if let Some(oldest) = halfway.admit(Arc::clone(&door), stream, from) {
                            let refused = Refused::new("slow", "no secret, and many others came since");
                            refusals.note(&door.volume, oldest, &refused);
                        }
                    }
                    Err(error) => {
                        tracing::warn!(%error, "failed to accept a connection of a transfer");
                        tokio::time::sleep(PAUSE).await;
                    }
                },
                Some(ended) = halfway.meetings.join_next() => match ended {
                    Ok((_, Ok(stream))) => {
                        // Whoever is proven later is the one that is there: the one before has lost its connection.
                        current.shutdown().await;
                        current.spawn(end.clone().receive(stream));
                    }
                    Ok((from, Err(refused))) => refusals.note(&door.volume, from, &refused),
                    // It had to go for others.
                    Err(_) => {}
                },
                Some(Ok(ended)) = current.join_next() => match ended {
                    Ok(()) => return Ok("it is whole"),
                    Err(Error::Full(why)) => return Err(Error::Full(why)),
                    Err(error) => broke_off(&door.volume, &error),
                },
                _ = look.tick() => {
                    if !end.incoming.goes_on() {
                        return Ok("it is gone");
                    }
                    let now = end.heard.load(Ordering::Relaxed);
                    if now != heard {
                        (heard, progress) = (now, Instant::now());
                    }
                    if progress.elapsed() >= end.timing.ticket {
                        return Ok("nobody has sent anything of it for too long");
                    }
                }
            }
        }
    }
}

/// Those who are on their way to a proof.
#[derive(Default)]
struct Halfway {
    meetings: JoinSet<(SocketAddr, std::result::Result<TlsStream<TcpStream>, Refused>)>,
    oldest: VecDeque<(SocketAddr, AbortHandle)>,
}

impl Halfway {
    /// Where there are many the oldest goes, and is the answer: who only keeps connections open must not keep out whoever has the
    /// ticket.
    fn admit(&mut self, door: Arc<Door>, stream: TcpStream, from: SocketAddr) -> Option<SocketAddr> {
        self.oldest.retain(|(_, meeting)| !meeting.is_finished());
        let gone = if self.oldest.len() >= HALFWAY { self.oldest.pop_front() } else { None };
        let meeting = self.meetings.spawn(async move { (from, door.meet(stream).await) });
        self.oldest.push_back((from, meeting));
        let (from, meeting) = gone?;
        meeting.abort();
        Some(from)
    }
}

fn broke_off(volume: &str, error: &Error) {
    let error = chain(error);
    tracing::warn!(volume, error, "a transfer broke off; it goes on when it is asked for again");
}

/// Where somebody has to prove himself.
struct Door {
    acceptor: TlsAcceptor,
    secret: Secret,
    volume: String,
    time: Duration,
}

impl Door {
    /// Lets in who has the ticket's secret.
    async fn meet(&self, stream: TcpStream) -> std::result::Result<TlsStream<TcpStream>, Refused> {
        let silent = || Refused::new("slow", format!("no secret within {} ms", self.time.as_millis()));
        timeout(self.time, self.prove(stream)).await.map_err(|_| silent())?
    }

    async fn prove(&self, stream: TcpStream) -> std::result::Result<TlsStream<TcpStream>, Refused> {
        let _ = stream.set_nodelay(true);
        let mut stream = self.acceptor.accept(stream).await.map_err(|error| Refused::tls(&error))?;
        let refused = match read_short(&mut stream, self.time).await {
            Ok(Frame::Hello { secret, volume }) => match (self.secret.is(&secret), volume == self.volume) {
                (true, true) => return Ok(stream),
                (true, false) => Refused::new("other-volume", "it is another volume's ticket"),
                (false, _) => Refused::new("secret", "the secret is not that of the ticket"),
            },
            Ok(_) => Refused::new("malformed", "it did not begin as it should"),
            Err(Error::Corrupt(why)) => Refused::new("malformed", why),
            Err(error) => return Err(Refused::new("broken", chain(&error))),
        };
        let _ = send(&mut stream, Frame::Refused(refused.why.clone()), self.time).await;
        Err(refused)
    }
}
