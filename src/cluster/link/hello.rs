//! The two messages before HTTP/2.
//!
//! Owns: their frame: four bytes of length, the highest first, then the message. Never: reads a byte more than that, since
//! what follows belongs to HTTP/2.

use std::io;

use prost::Message;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// No message is longer; the longest part is a token of a few KiB.
const LONGEST: u32 = 64 << 10;

/// Why no message came.
#[derive(Debug)]
pub(super) enum Fault {
    /// The connection broke, or TLS refused it.
    Broken(io::Error),
    /// What came is no such message.
    Malformed(String),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Fault::Broken(error)
    }
}

/// Sends one message.
pub(super) async fn send(stream: &mut (impl AsyncWrite + Unpin), message: &impl Message) -> io::Result<()> {
    let body = message.encode_to_vec();
    let length = u32::try_from(body.len()).ok().filter(|length| *length <= LONGEST);
    let length = length.ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("a message of {} bytes, at most {LONGEST} fit", body.len()),
        )
    })?;
    let frame = [&length.to_be_bytes()[..], &body].concat();
    stream.write_all(&frame).await?;
    // TLS keeps what is not flushed.
    stream.flush().await
}

/// Receives one message.
pub(super) async fn receive<M: Message + Default>(stream: &mut (impl AsyncRead + Unpin)) -> Result<M, Fault> {
    let length = stream.read_u32().await?;
    if length > LONGEST {
        return Err(Fault::Malformed(format!("a message of {length} bytes: want at most {LONGEST}")));
    }
    // Only what has arrived takes memory: whoever is not proven yet could ask for much.
    let mut body = Vec::new();
    stream.take(u64::from(length)).read_to_end(&mut body).await?;
    if body.len() != length as usize {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    M::decode(body.as_slice()).map_err(|error| Fault::Malformed(format!("no message: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::link::refusal::Reason;
    use crate::proto::link::{Hello, Welcome};

    async fn received(bytes: &[u8]) -> Result<Welcome, Fault> {
        receive(&mut &*bytes).await
    }

    #[tokio::test]
    async fn a_message_comes_back_and_nothing_behind_it_is_read() {
        let mut sent = Vec::new();
        send(&mut sent, &Welcome { protocol: 7, ..Welcome::default() }).await.unwrap();
        sent.extend_from_slice(b"PRI");
        let mut stream = &*sent;
        assert_eq!(receive::<Welcome>(&mut stream).await.unwrap().protocol, 7);
        assert_eq!(stream, b"PRI");
    }

    #[tokio::test]
    async fn what_is_no_message_is_told_from_a_broken_connection() {
        for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0xff; 8], &[0, 0, 0, 2, 0xff, 0xff]] {
            assert!(matches!(received(bytes).await, Err(Fault::Malformed(_))), "{bytes:?}");
        }
        for bytes in [&b""[..], &[0, 0], &[0, 0, 0, 9, 1]] {
            assert!(matches!(received(bytes).await, Err(Fault::Broken(_))), "{bytes:?}");
        }
    }

    #[tokio::test]
    async fn what_cannot_be_received_is_not_sent() {
        let hello = Hello { token: "x".repeat(LONGEST as usize), ..Hello::default() };
        assert!(send(&mut Vec::new(), &hello).await.is_err());
    }

    /// What release 0.1 sends, byte by byte: every later one must understand it.
    #[tokio::test]
    async fn the_first_release_is_understood() {
        let hello = b"\0\0\0\x37\x08\x01\x10\x01\x1a\x050.1.0\x22\x10csi.rockpool.dev\x2a\x06node-1\x32\x10ABCDEFGHIJKLMNOP";
        let hello: Hello = receive(&mut &hello[..]).await.unwrap();
        assert_eq!((hello.oldest, hello.newest, hello.version.as_str()), (1, 1, "0.1.0"));
        assert_eq!((hello.driver.as_str(), hello.node.as_str()), ("csi.rockpool.dev", "node-1"));
        assert_eq!(hello.instance, b"ABCDEFGHIJKLMNOP");
        let welcome = b"\0\0\0\x1b\x08\x01\x12\x050.1.0\x1a\x10ABCDEFGHIJKLMNOP";
        let welcome: Welcome = receive(&mut &welcome[..]).await.unwrap();
        assert_eq!((welcome.protocol, welcome.version.as_str(), welcome.refusal), (1, "0.1.0", None));
        assert_eq!(welcome.instance, b"ABCDEFGHIJKLMNOP");
        let refused: Welcome = receive(&mut &b"\0\0\0\x08\x22\x06\x08\x05\x12\x02no"[..]).await.unwrap();
        let refusal = refused.refusal.unwrap();
        assert_eq!((refusal.reason(), refusal.message.as_str()), (Reason::OtherNode, "no"));
    }
}
