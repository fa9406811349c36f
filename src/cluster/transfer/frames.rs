//! What goes over the connection of a transfer.
//!
//! Owns: the form of a message: one byte that says what it is, four bytes of length, the highest first, then the content. Never:
//! reads more than a message may be long.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use super::ticket::SECRET;
use crate::error::{Error, Result};
use crate::model::LONGEST_PIECE;

/// The version of what is said here.
pub(super) const VERSION: u8 = 1;
/// The longest message but a piece.
const SHORT: usize = 4096;

/// A message of either end.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Frame {
    /// The sender's first: the ticket's secret, and the volume.
    Hello { secret: Vec<u8>, volume: String },
    /// So much is here, and its digest.
    Start { done: u64, digest: u32 },
    /// What is here is of something else: begin anew.
    Anew,
    /// How long the content is.
    Content { size: u64 },
    /// A piece, as text.
    Piece(Vec<u8>),
    /// Nothing, so that silence means that nobody is there.
    Alive,
    /// There is nothing but zeros from what was sent last up to here.
    Hole { end: u64 },
    /// There is no more, and the digest of all of it.
    End { digest: u32 },
    /// What was sent up to here is durable.
    Mark { done: u64 },
    /// It is a volume.
    Whole,
    /// Why nothing more is taken.
    Refused(String),
}

impl Frame {
    fn kind(&self) -> u8 {
        match self {
            Frame::Hello { .. } => 1,
            Frame::Start { .. } => 2,
            Frame::Anew => 3,
            Frame::Content { .. } => 4,
            Frame::Piece(_) => 5,
            Frame::Alive => 6,
            Frame::End { .. } => 7,
            Frame::Mark { .. } => 8,
            Frame::Whole => 9,
            Frame::Refused(_) => 10,
            Frame::Hole { .. } => 11,
        }
    }

    fn content(self) -> Vec<u8> {
        match self {
            Frame::Hello { secret, volume } => [&[VERSION], &secret[..], volume.as_bytes()].concat(),
            Frame::Start { done, digest } => [&done.to_be_bytes()[..], &digest.to_be_bytes()].concat(),
            Frame::Content { size: number } | Frame::Mark { done: number } | Frame::Hole { end: number } => {
                number.to_be_bytes().to_vec()
            }
            Frame::End { digest } => digest.to_be_bytes().to_vec(),
            Frame::Piece(text) => text,
            Frame::Refused(why) => why.into_bytes(),
            Frame::Anew | Frame::Alive | Frame::Whole => Vec::new(),
        }
    }

    fn parse(kind: u8, content: Vec<u8>) -> Option<Frame> {
        let number = |bytes: &[u8]| bytes.try_into().ok().map(u64::from_be_bytes);
        let short = |bytes: &[u8]| bytes.try_into().ok().map(u32::from_be_bytes);
        Some(match kind {
            1 => {
                let (version, rest) = content.split_first()?;
                let (secret, volume) = rest.split_at_checked(SECRET).filter(|_| *version == VERSION)?;
                Frame::Hello { secret: secret.to_vec(), volume: String::from_utf8(volume.to_vec()).ok()? }
            }
            2 => {
                let (done, digest) = content.split_at_checked(8)?;
                Frame::Start { done: number(done)?, digest: short(digest)? }
            }
            3 => Frame::Anew,
            4 => Frame::Content { size: number(&content)? },
            5 => Frame::Piece(content),
            6 => Frame::Alive,
            7 => Frame::End { digest: short(&content)? },
            8 => Frame::Mark { done: number(&content)? },
            9 => Frame::Whole,
            10 => Frame::Refused(String::from_utf8_lossy(&content).into_owned()),
            11 => Frame::Hole { end: number(&content)? },
            _ => return None,
        })
    }
}

/// Says what it is, and nothing of what is in it.
impl std::fmt::Debug for Frame {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Frame({})", self.kind())
    }
}

/// Sends one message; it may still wait for those after it.
///
/// # Errors
/// `Unavailable` where the connection breaks, or the other end takes nothing for so long.
pub(super) async fn write(
    to: &mut (impl AsyncWrite + Unpin),
    frame: Frame,
    patience: Duration,
) -> Result<()> {
    let kind = frame.kind();
    let content = frame.content();
    let length =
        u32::try_from(content.len()).map_err(|_| Error::Corrupt("a message is too long".to_owned()))?;
    let mut head = [kind; 5];
    head[1..].copy_from_slice(&length.to_be_bytes());
    within(patience, async {
        to.write_all(&head).await?;
        to.write_all(&content).await
    })
    .await
}

/// Sends one message now.
///
/// # Errors
/// As `write`.
pub(super) async fn send(to: &mut (impl AsyncWrite + Unpin), frame: Frame, patience: Duration) -> Result<()> {
    write(to, frame, patience).await?;
    within(patience, to.flush()).await
}

/// Says that nothing more comes, if anybody still hears it.
pub(super) async fn close(to: &mut (impl AsyncWrite + Unpin), patience: Duration) {
    let _ = timeout(patience, to.shutdown()).await;
}

async fn within(patience: Duration, writing: impl Future<Output = io::Result<()>>) -> Result<()> {
    let stuck = || Error::Unavailable(format!("the other end took nothing for {} s", patience.as_secs_f32()));
    timeout(patience, writing).await.map_err(|_| stuck())?.map_err(|error| broke(&error))
}

/// Reads one message.
///
/// # Errors
/// `Unavailable` where the connection breaks or nothing comes for so long; `Corrupt` for what is none.
pub(super) async fn read(from: &mut (impl AsyncRead + Unpin), silence: Duration) -> Result<Frame> {
    read_within(from, silence, LONGEST_PIECE).await
}

/// The same, from somebody who has not proven himself yet: he may say little.
pub(super) async fn read_short(from: &mut (impl AsyncRead + Unpin), silence: Duration) -> Result<Frame> {
    read_within(from, silence, SHORT).await
}

async fn read_within(
    from: &mut (impl AsyncRead + Unpin),
    silence: Duration,
    longest: usize,
) -> Result<Frame> {
    let quiet = || Error::Unavailable(format!("the other end said nothing for {} s", silence.as_secs_f32()));
    timeout(silence, read_one(from, longest)).await.map_err(|_| quiet())?
}

async fn read_one(from: &mut (impl AsyncRead + Unpin), longest: usize) -> Result<Frame> {
    let mut head = [0; 5];
    from.read_exact(&mut head).await.map_err(|error| broke(&error))?;
    let [kind, length @ ..] = head;
    let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
    let most = if kind == 5 { longest } else { SHORT };
    if length > most {
        return Err(Error::Corrupt(format!("a message of {length} bytes is longer than any")));
    }
    let mut content = vec![0; length];
    from.read_exact(&mut content).await.map_err(|error| broke(&error))?;
    Frame::parse(kind, content).ok_or_else(|| Error::Corrupt("a message is none that is known".to_owned()))
}

fn broke(error: &io::Error) -> Error {
    Error::Unavailable(format!("the connection broke: {error}"))
}

/// What comes where something else was to come.
pub(super) fn unexpected(frame: &Frame) -> Error {
    if let Frame::Refused(why) = frame {
        return Error::Unavailable(format!("the other end takes no more: {why}"));
    }
    Error::Corrupt(format!("message {} came where another was to come", frame.kind()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_sent_is_what_comes() {
        let volume = "v1.abababababab.0101010101010101".to_owned();
        for frame in [
            Frame::Hello { secret: vec![7; SECRET], volume },
            Frame::Start { done: 1 << 40, digest: 5 },
            Frame::Anew,
            Frame::Content { size: 3 },
            Frame::Piece(vec![1; LONGEST_PIECE]),
            Frame::Alive,
            Frame::End { digest: 9 },
            Frame::Mark { done: 8 },
            Frame::Whole,
            Frame::Refused("no".to_owned()),
            Frame::Hole { end: 1 << 40 },
        ] {
            let mut bytes = Vec::new();
            send(&mut bytes, frame.clone(), Duration::from_secs(9)).await.unwrap();
            let mut all = bytes.as_slice();
            assert_eq!(read(&mut all, Duration::from_secs(9)).await.unwrap(), frame);
            for cut in [0, 3, bytes.len() - 1].into_iter().filter(|cut| *cut < bytes.len()) {
                assert!(read(&mut &bytes[..cut], Duration::from_secs(9)).await.is_err());
            }
        }
    }

    /// What release 0.1 sends, byte by byte: every later one must understand it, and say it so to that one.
    #[tokio::test]
    async fn the_first_release_is_understood() {
        let secret = vec![b'S'; SECRET];
        let hello = [&b"\x01\0\0\0\x2a\x01"[..], &secret, b"v1.volume"].concat();
        for (bytes, frame) in [
            (&hello[..], Frame::Hello { secret, volume: "v1.volume".to_owned() }),
            (
                b"\x02\0\0\0\x0c\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c",
                Frame::Start { done: 0x0102_0304_0506_0708, digest: 0x090a_0b0c },
            ),
            (b"\x03\0\0\0\0", Frame::Anew),
            (b"\x04\0\0\0\x08\0\0\0\0\x40\0\0\0", Frame::Content { size: 1 << 30 }),
            (b"\x05\0\0\0\x05piece", Frame::Piece(b"piece".to_vec())),
            (b"\x06\0\0\0\0", Frame::Alive),
            (b"\x07\0\0\0\x04\0\0\0\x09", Frame::End { digest: 9 }),
            (b"\x08\0\0\0\x08\0\0\0\0\0\0\0\x08", Frame::Mark { done: 8 }),
            (b"\x09\0\0\0\0", Frame::Whole),
            (b"\x0a\0\0\0\x02no", Frame::Refused("no".to_owned())),
            (b"\x0b\0\0\0\x08\0\0\0\0\0\0\x10\0", Frame::Hole { end: 4096 }),
        ] {
            assert_eq!(read(&mut &bytes[..], Duration::from_secs(9)).await.unwrap(), frame);
            let mut sent = Vec::new();
            send(&mut sent, frame, Duration::from_secs(9)).await.unwrap();
            assert_eq!(sent, bytes);
        }
    }

    #[tokio::test]
    async fn who_takes_nothing_is_not_waited_for() {
        let (mut to, _held) = tokio::io::duplex(64);
        let patience = Duration::from_millis(50);
        send(&mut to, Frame::Alive, patience).await.unwrap();
        let long = Duration::from_secs(9);
        let sending = send(&mut to, Frame::Piece(vec![1; LONGEST_PIECE]), patience);
        let stuck = timeout(long, sending).await.unwrap().unwrap_err();
        assert!(matches!(&stuck, Error::Unavailable(why) if why.contains("took nothing")), "{stuck}");
        let mut buffered = tokio::io::BufWriter::new(&mut to);
        let flushed = timeout(long, send(&mut buffered, Frame::Alive, patience)).await.unwrap();
        assert!(matches!(&flushed, Err(Error::Unavailable(_))), "a flush is not waited for either");
        timeout(long, close(&mut buffered, patience)).await.unwrap();
    }

    #[tokio::test]
    async fn what_is_no_message_is_refused_before_it_is_read() {
        for bad in [&[12, 0, 0, 0, 0][..], &[8, 0xff, 0, 0, 0], &[5, 0, 0xff, 0, 0], &[1, 0, 0, 0, 1, 9]] {
            assert!(matches!(read(&mut &bad[..], Duration::from_secs(9)).await, Err(Error::Corrupt(_))));
        }
        let mut long = [[5, 0, 0, 0x10, 1].to_vec(), vec![7; SHORT + 1]].concat();
        assert!(read(&mut long.as_slice(), Duration::from_secs(9)).await.is_ok());
        long.truncate(5);
        let refused = read_short(&mut long.as_slice(), Duration::from_secs(9)).await;
        assert!(matches!(refused, Err(Error::Corrupt(_))), "before it is read");
        let (_held, mut silent) = tokio::io::duplex(8);
        assert!(matches!(read(&mut silent, Duration::from_millis(20)).await, Err(Error::Unavailable(_))));
    }
}
