//! What goes over a connection to the node that is to have a copy.
//!
//! Owns: the comparison of what the other end has with what is here, the order in which content goes out, and how fast. Never:
//! begins a connection, or ends the loan.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Mutex, mpsc};
use tokio::time::{Instant, sleep_until, timeout};

use super::Timing;
use super::counts::{Counts, Way};
use super::frames::{Frame, read, send, unexpected, write};
use crate::csi::transfer::Outgoing;
use crate::error::Result;
use crate::model::Piece;
use crate::proto::link as wire;

/// So many parts are read ahead of what is sent.
const AHEAD: usize = 4;
/// Who waits says so that often.
const ALIVE: Duration = Duration::from_secs(5);
/// How long it is waited for a reason when nothing more can be sent.
const LAST_WORD: Duration = Duration::from_secs(1);

/// How much may go out in a second, in all.
pub(super) struct Rate {
    bytes: u64,
    /// When the next byte may go.
    next: Mutex<Instant>,
}

impl Rate {
    pub(super) fn new(bytes: u64) -> Rate {
        Rate { bytes, next: Mutex::new(Instant::now()) }
    }

    /// When so many bytes may go.
    pub(super) async fn when(&self, bytes: u64) -> Option<Instant> {
        if self.bytes == 0 {
            return None;
        }
        let mut next = self.next.lock().await;
        let now = Instant::now();
        let turn = (*next).max(now);
        #[expect(clippy::cast_precision_loss, reason = "a rate of more than 2^52 bytes is none")]
        let takes = Duration::from_secs_f64(bytes as f64 / self.bytes as f64);
        *next = turn + takes;
        Some(turn)
    }
}

/// How far the other end is, and the digest of what it has.
pub(super) type Start = (u64, u32);

/// Shows the ticket. Where the other end begins; it has taken the secret then.
pub(super) async fn greet(
    ticket: &wire::Ticket,
    timing: Timing,
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
) -> Result<Start> {
    let hello = Frame::Hello { secret: ticket.token.clone(), volume: ticket.volume_id.clone() };
    send(to, hello, timing.handshake).await?;
    start(timing, from).await
}

async fn start(timing: Timing, from: &mut (impl AsyncRead + Unpin)) -> Result<Start> {
    let frame = read(from, timing.silence).await?;
    if let Frame::Start { done, digest } = frame { Ok((done, digest)) } else { Err(unexpected(&frame)) }
}

/// One attempt, from the greeting on.
pub(super) struct Sender<'a> {
    pub(super) timing: Timing,
    pub(super) outgoing: &'a Outgoing,
    pub(super) rate: &'a Rate,
    pub(super) at: &'a AtomicU64,
    pub(super) counts: &'a Counts,
}

impl Sender<'_> {
    pub(super) async fn send(
        &self,
        mut begin: Start,
        from: &mut (impl AsyncRead + Unpin),
        to: &mut (impl AsyncWrite + Unpin),
    ) -> Result<()> {
        if self.digest_of(begin.0, to).await? != Some(begin.1) {
            self.say(to, Frame::Anew).await?;
            begin = start(self.timing, from).await?;
        }
        let mut sending = std::pin::pin!(self.send_all(begin, to));
        let mut hearing = std::pin::pin!(self.hear(from));
        tokio::select! {
            heard = &mut hearing => heard,
            sent = &mut sending => match sent {
                Ok(()) => hearing.await,
                // The other end may have said why.
                Err(error) => match timeout(LAST_WORD, hearing).await {
                    Ok(Err(why)) => Err(why),
                    Ok(Ok(())) | Err(_) => Err(error),
                },
            },
        }
    }

    /// Sends one message now. Who writes what has come to a slow disk takes none meanwhile, however long that is.
    async fn say(&self, to: &mut (impl AsyncWrite + Unpin), frame: Frame) -> Result<()> {
        send(to, frame, self.timing.ticket).await
    }

    /// The digest of what is here up to an offset; `None` where no piece ends there.
    async fn digest_of(&self, done: u64, to: &mut (impl AsyncWrite + Unpin)) -> Result<Option<u32>> {
        let (mut next, mut digest, mut said) = (0, 0, Instant::now());
        while next < done.min(self.outgoing.size()) {
            let (piece, after) = self.outgoing.part(next).await?;
            if let Some(piece) = piece.filter(|piece| piece.offset() < done) {
                // The last piece may be cut short by the end of the content.
                if piece.end().min(self.outgoing.size()) > done {
                    return Ok(None);
                }
                digest = Piece::digest(digest, &piece.encode());
            }
            next = after;
            if said.elapsed() > ALIVE {
                said = Instant::now();
                self.say(to, Frame::Alive).await?;
            }
        }
        Ok(Some(digest))
    }

    /// Reads ahead while what came before is sent.
    async fn send_all(&self, begin: Start, to: &mut (impl AsyncWrite + Unpin)) -> Result<()> {
        self.say(to, Frame::Content { size: self.outgoing.size() }).await?;
        let (ahead, mut parts) = mpsc::channel(AHEAD);
        let reading = async {
            let mut next = begin.0;
            while next < self.outgoing.size() {
                let (piece, after) = self.outgoing.part(next).await?;
                next = after;
                if ahead.send((piece, after)).await.is_err() {
                    break;
                }
            }
            drop(ahead);
            Ok(())
        };
        let sending = async {
            let mut digest = begin.1;
            while let Some((piece, end)) = parts.recv().await {
                let Some(piece) = piece else {
                    // So that it counts at the other end: what was written as zeros can take longer to read than a ticket lives.
                    self.say(to, Frame::Hole { end }).await?;
                    continue;
                };
                let text = piece.encode();
                self.wait_for_turn(text.len() as u64, to).await?;
                digest = Piece::digest(digest, &text);
                self.counts.add(Way::Sent, text.len());
                write(to, Frame::Piece(text), self.timing.ticket).await?;
                step!("give: sent a piece");
            }
            Ok(digest)
        };
        let (_, digest) = tokio::try_join!(reading, sending)?;
        self.say(to, Frame::End { digest }).await
    }

    async fn wait_for_turn(&self, bytes: u64, to: &mut (impl AsyncWrite + Unpin)) -> Result<()> {
        let Some(turn) = self.rate.when(bytes).await else { return Ok(()) };
        loop {
            let alive = Instant::now() + ALIVE;
            sleep_until(turn.min(alive)).await;
            if turn <= alive {
                return Ok(());
            }
            self.say(to, Frame::Alive).await?;
        }
    }

    /// What the other end says, until it has all.
    async fn hear(&self, from: &mut (impl AsyncRead + Unpin)) -> Result<()> {
        loop {
            // While it says nothing it may be writing; who is gone is noticed by sending.
            let frame = read(from, self.timing.ticket).await?;
            if let Frame::Mark { done } = frame {
                self.at.store(done, Ordering::Relaxed);
            } else {
                return if frame == Frame::Whole { Ok(()) } else { Err(unexpected(&frame)) };
            }
        }
    }
}
