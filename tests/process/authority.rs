//! Which `:authority` a call may carry.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use crate::harness::{LONG, Place};

/// The first words of an HTTP/2 connection.
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00";

/// What became of a call made by hand, with exactly these headers.
#[derive(Debug, PartialEq)]
enum Fate {
    Answered,
    /// RST_STREAM with this error code.
    Reset(u32),
}

/// One Probe on a connection of its own, after `authority` as given. Header fields as literals, without compression.
fn probe(socket: &Path, authority: Option<&str>) -> Fate {
    let mut block = Vec::new();
    let mut field = |name: &str, value: &str| {
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).unwrap());
            block.extend_from_slice(text.as_bytes());
        }
    };
    field(":method", "POST");
    field(":scheme", "http");
    field(":path", "/csi.v1.Identity/Probe");
    if let Some(authority) = authority {
        field(":authority", authority);
    }
    field("content-type", "application/grpc");
    field("te", "trailers");
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(LONG)).unwrap();
    stream.write_all(PREFACE).unwrap();
    let length = u32::try_from(block.len()).unwrap().to_be_bytes();
    stream.write_all(&[&length[1..], &[1, 4, 0, 0, 0, 1], &block].concat()).unwrap();
    // An empty message, and the end of the stream.
    stream.write_all(&[0, 0, 5, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0]).unwrap();
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).unwrap();
        let mut body = vec![0; usize::from(head[2]) | usize::from(head[1]) << 8];
        stream.read_exact(&mut body).unwrap();
        match (head[3], head[8]) {
            (1, 1) => return Fate::Answered,
            (3, 1) => return Fate::Reset(u32::from_be_bytes(body.try_into().unwrap())),
            _ => {}
        }
    }
}

#[test]
fn the_authorities_that_clients_send_work() {
    let place = Place::new();
    let _driver = place.start();
    assert_eq!(probe(&place.socket(), Some("localhost")), Fate::Answered);
    assert_eq!(probe(&place.socket(), None), Fate::Answered);
    // What old clients send, and serve.rs documents: the call is reset, and only the call.
    const PROTOCOL_ERROR: u32 = 1;
    for odd in ["", "/run/csi.sock", "%2Frun%2Fcsi.sock"] {
        let fate = probe(&place.socket(), Some(odd));
        assert_eq!(fate, Fate::Reset(PROTOCOL_ERROR), "{odd:?}: serve.rs says otherwise");
    }
    assert_eq!(probe(&place.socket(), Some("localhost")), Fate::Answered);
}
