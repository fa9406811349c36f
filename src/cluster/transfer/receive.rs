//! What comes over a connection from the node that has the source.
//!
//! Owns: what becomes of it: which piece is taken, when it is made durable, and when all is there. Never: takes a piece that does
//! not prove itself whole, or calls a volume whole whose digest is another.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncWrite, split};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::server::TlsStream;

use super::counts::{Counts, Way};
use super::frames::{Frame, close, read, send, unexpected};
use super::{PLACES, Timing};
use crate::csi::transfer::{Begun, Incoming};
use crate::error::{Error, Result, chain};
use crate::model::Piece;

/// What has come is made durable after so many bytes.
const HARDEN: u64 = 64 << 20;
/// So many messages are read ahead of what is written.
const AHEAD: usize = 4;

/// What becomes of what comes over one connection.
#[derive(Clone)]
pub(super) struct Receiver {
    pub(super) timing: Timing,
    pub(super) incoming: Incoming,
    /// How far it is, written or not.
    pub(super) at: Arc<AtomicU64>,
    /// How many messages have come: whoever compares for long what is here sends no content meanwhile.
    pub(super) heard: Arc<AtomicU64>,
    /// For as many volumes as this node receives at once.
    pub(super) places: Arc<Semaphore>,
    pub(super) counts: Arc<Counts>,
}

impl Receiver {
    pub(super) async fn receive(self, stream: TlsStream<TcpStream>) -> Result<()> {
        let (mut from, mut to) = split(stream);
        let outcome = match self.places.try_acquire() {
            Ok(_place) => {
                let running = self.counts.run(Way::Received);
                let taken = self.take_all(&mut from, &mut to).await;
                running.end(taken.is_ok());
                taken
            }
            Err(_) => Err(Error::Busy(format!("its node receives {PLACES} volumes already"))),
        };
        if let Err(error) = &outcome {
            // Who is gone does not hear it.
            let _ = self.say(&mut to, Frame::Refused(chain(error))).await;
        }
        close(&mut to, self.timing.handshake).await;
        outcome
    }

    /// Reads ahead while what came before is written.
    async fn take_all(
        &self,
        from: &mut (impl AsyncRead + Unpin),
        to: &mut (impl AsyncWrite + Unpin),
    ) -> Result<()> {
        let mut state = self.begin(to, false).await?;
        let (ahead, mut frames) = mpsc::channel(AHEAD);
        let reading = async {
            loop {
                let frame = read(from, self.timing.silence).await?;
                self.heard.fetch_add(1, Ordering::Relaxed);
                let is_last = matches!(frame, Frame::End { .. });
                // Who takes them says himself why he does no more.
                if ahead.send(frame).await.is_err() || is_last {
                    return std::future::pending::<Result<()>>().await;
                }
            }
        };
        let taking = async {
            while let Some(frame) = frames.recv().await {
                match frame {
                    Frame::Anew => state = self.begin(to, true).await?,
                    Frame::Content { size } if size > state.size => {
                        return Err(Error::Precondition(format!(
                            "{size} bytes do not fit into {}",
                            state.size
                        )));
                    }
                    Frame::Content { .. } | Frame::Alive => {}
                    Frame::Piece(text) => self.take(&mut state, &text, to).await?,
                    Frame::Hole { end } => self.skip(&mut state, end, to).await?,
                    Frame::End { digest } => return self.end(&state, digest, to).await,
                    Frame::Hello { .. }
                    | Frame::Start { .. }
                    | Frame::Mark { .. }
                    | Frame::Whole
                    | Frame::Refused(_) => return Err(unexpected(&frame)),
                }
            }
            Err(Error::Unavailable("the connection ended".to_owned()))
        };
        tokio::select! {
            taken = taking => taken,
            broken = reading => broken,
        }
    }

    async fn begin(&self, to: &mut (impl AsyncWrite + Unpin), anew: bool) -> Result<State> {
        let Begun { size, done, digest, session } = self.incoming.begin(anew).await?;
        self.at.store(done, Ordering::Relaxed);
        self.say(to, Frame::Start { done, digest }).await?;
        Ok(State { session, size, next: done, digest, loose: 0, hardened: Instant::now() })
    }

    async fn take(&self, state: &mut State, text: &[u8], to: &mut (impl AsyncWrite + Unpin)) -> Result<()> {
        let piece = Piece::decode(text)?;
        if piece.offset() < state.next {
            return Err(Error::Corrupt("a piece came twice".to_owned()));
        }
        // A volume need not end where a piece does.
        let (end, len) = (piece.end().min(state.size), piece.len() as u64);
        self.counts.add(Way::Received, text.len());
        self.incoming.fill(state.session, piece).await?;
        state.digest = Piece::digest(state.digest, text);
        state.loose += len;
        self.reach(state, end, to).await
    }

    /// Zeros need no writing: what was made for a volume is zeros.
    async fn skip(&self, state: &mut State, end: u64, to: &mut (impl AsyncWrite + Unpin)) -> Result<()> {
        if end < state.next || end > state.size {
            let (next, size) = (state.next, state.size);
            return Err(Error::Corrupt(format!("a hole up to {end} does not lie between {next} and {size}")));
        }
        self.reach(state, end, to).await
    }

    /// All up to `end` is here. Now and then it is made durable, and the other end is told.
    async fn reach(&self, state: &mut State, end: u64, to: &mut (impl AsyncWrite + Unpin)) -> Result<()> {
        state.next = end;
        self.at.store(end, Ordering::Relaxed);
        if state.loose >= HARDEN || state.hardened.elapsed() >= self.timing.harden {
            self.incoming.harden(state.session, end, state.digest).await?;
            (state.loose, state.hardened) = (0, Instant::now());
            self.say(to, Frame::Mark { done: end }).await?;
        }
        Ok(())
    }

    async fn end(&self, state: &State, digest: u32, to: &mut (impl AsyncWrite + Unpin)) -> Result<()> {
        if digest != state.digest {
            // What is here is not what was sent, and nobody knows since when.
            self.incoming.begin(true).await?;
            self.at.store(0, Ordering::Relaxed);
            return Err(Error::Corrupt(
                "the digest of all that came is another than that of what was sent".to_owned(),
            ));
        }
        self.incoming.complete(state.session).await?;
        self.say(to, Frame::Whole).await
    }

    /// Says something: it is little, and the other end hears all the time.
    async fn say(&self, to: &mut (impl AsyncWrite + Unpin), frame: Frame) -> Result<()> {
        send(to, frame, self.timing.silence).await
    }
}

/// How far a connection has come.
struct State {
    /// The beginning that it is of.
    session: u64,
    /// How large the volume is.
    size: u64,
    /// Where the next piece may begin.
    next: u64,
    digest: u32,
    /// Bytes that are not durable yet.
    loose: u64,
    hardened: Instant,
}
