//! The name by which kubelet calls a plugin's registration socket, made one that HTTP/2 here takes.
//!
//! kubelet dials that socket by its path, and the gRPC library of Go then says the path, percent-encoded, as `:authority` (Kubernetes 1.36,
//! `pluginmanager/operationexecutor`; for the CSI socket it says `localhost`). No such authority is valid (RFC 3986, 3.2.2), and `h2` resets the
//! stream: without this, no kubelet registers a driver that is written in Rust (hyperium/h2#487).
//!
//! Owns: the header blocks of one connection, on their way in: each is decoded, and written anew with `localhost` in that place. Everything
//! else passes as it is. Never: judges what else is wrong with a request; the server behind it does.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use loona_hpack::Decoder;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::server::Connected;

/// What a client sends first (RFC 9113, 3.4).
const PREFACE: usize = 24;
/// Of every frame: length, type, flags, stream (RFC 9113, 4.1).
const HEADER: usize = 9;
/// The longest frame that is taken without a word about it (RFC 9113, 6.5.2).
const FRAME: usize = 16 << 10;
/// The longest header block, as it comes and as it is passed on.
const BLOCK: usize = 64 << 10;
/// The largest table of fields, which clients may not outgrow unless they were told so (RFC 9113, 6.5.2).
const TABLE: usize = 4096;
const HEADERS: u8 = 0x1;
const CONTINUATION: u8 = 0x9;
const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;

/// A connection whose requests are all for `localhost`.
pub(super) struct Localhost<IO> {
    connection: IO,
    blocks: Blocks,
    /// What is to be read by the server.
    ready: Vec<u8>,
    /// How much of it was.
    at: usize,
}

impl<IO> Localhost<IO> {
    pub(super) fn new(connection: IO) -> Localhost<IO> {
        Localhost { connection, blocks: Blocks::new(), ready: Vec::new(), at: 0 }
    }
}

impl<IO: Connected> Connected for Localhost<IO> {
    type ConnectInfo = IO::ConnectInfo;

    fn connect_info(&self) -> IO::ConnectInfo {
        self.connection.connect_info()
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Localhost<IO> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.at == this.ready.len() {
            let mut bytes = [0; 4096];
            let mut read = ReadBuf::new(&mut bytes);
            ready!(Pin::new(&mut this.connection).poll_read(cx, &mut read))?;
            if read.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            (this.ready, this.at) = (Vec::new(), 0);
            this.blocks.take(read.filled(), &mut this.ready)?;
        }
        let part = &this.ready[this.at..][..buf.remaining().min(this.ready.len() - this.at)];
        buf.put_slice(part);
        this.at += part.len();
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Localhost<IO> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().connection).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().connection).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().connection).poll_shutdown(cx)
    }
}

/// The frames of one connection.
struct Blocks {
    decoder: Decoder<'static>,
    /// What has come of a frame that has to be whole.
    begun: Vec<u8>,
    /// How many bytes still pass as they are.
    passing: usize,
    /// A header block that goes on: its stream, its flags, and what of it has come.
    open: Option<([u8; 4], u8, Vec<u8>)>,
}

impl Blocks {
    fn new() -> Blocks {
        let mut decoder = Decoder::new();
        decoder.set_max_allowed_table_size(TABLE);
        Blocks { decoder, begun: Vec::new(), passing: PREFACE, open: None }
    }

    /// Takes in what has come, and adds what the server is to read.
    fn take(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        while !bytes.is_empty() {
            if self.passing > 0 {
                let (pass, rest) = bytes.split_at(self.passing.min(bytes.len()));
                out.extend_from_slice(pass);
                self.passing -= pass.len();
                bytes = rest;
                continue;
            }
            let wanted = match self.begun.first_chunk::<HEADER>() {
                None => HEADER,
                Some(header) => HEADER + length(header),
            };
            let (part, rest) = bytes.split_at((wanted - self.begun.len()).min(bytes.len()));
            self.begun.extend_from_slice(part);
            bytes = rest;
            let Some(header) = self.begun.first_chunk::<HEADER>().copied() else { continue };
            if self.open.is_some() && header[3] != CONTINUATION {
                return Err(malformed("a header block is interrupted"));
            } else if ![HEADERS, CONTINUATION].contains(&header[3]) {
                self.passing = length(&header);
                out.append(&mut self.begun);
            } else if length(&header) > FRAME {
                return Err(malformed("a frame of headers is too long"));
            } else if self.begun.len() == HEADER + length(&header) {
                let frame = std::mem::take(&mut self.begun);
                self.block(&header, &frame[HEADER..], out)?;
            }
        }
        Ok(())
    }

    /// Takes in a part of a header block; with its last one it is passed on.
    fn block(&mut self, header: &[u8; HEADER], payload: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        let [_, _, _, kind, flags, stream @ ..] = *header;
        let (stream, mut flags, block) = match (kind, self.open.take()) {
            (HEADERS, None) => (stream, flags, fragment(flags, payload)?.to_vec()),
            (CONTINUATION, Some((same, first, mut block))) if same == stream => {
                block.extend_from_slice(payload);
                (stream, first | (flags & END_HEADERS), block)
            }
            _ => return Err(malformed("a header block is interrupted")),
        };
        if block.len() > BLOCK {
            return Err(malformed("a header block is too long"));
        }
        if flags & END_HEADERS == 0 {
            self.open = Some((stream, flags, block));
            return Ok(());
        }
        let mut anew = Vec::new();
        let decoded = self.decoder.decode_with_cb(&block, |name, value| {
            let is_authority = *name == b":authority"[..];
            let is_path = value.starts_with(b"%2F") || value.starts_with(b"/");
            // A short block may name a long field many times.
            if anew.len() <= BLOCK {
                field(&name, if is_authority && is_path { b"localhost" } else { &value }, &mut anew);
            }
        });
        decoded.map_err(|_| malformed("a header block cannot be decoded"))?;
        if anew.len() > BLOCK {
            return Err(malformed("a header block is too long"));
        }
        flags &= END_STREAM;
        let parts: Vec<&[u8]> = if anew.is_empty() { vec![&[]] } else { anew.chunks(FRAME).collect() };
        for (number, part) in parts.iter().enumerate() {
            let kind = if number == 0 { HEADERS } else { CONTINUATION };
            let first = if number == 0 { flags } else { 0 };
            let last = if number + 1 == parts.len() { END_HEADERS } else { 0 };
            let size = u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes();
            out.extend_from_slice(&[size[1], size[2], size[3], kind, first | last]);
            out.extend_from_slice(&stream);
            out.extend_from_slice(part);
        }
        Ok(())
    }
}

/// The bytes behind a frame's header.
fn length(header: &[u8; HEADER]) -> usize {
    usize::from(header[0]) << 16 | usize::from(header[1]) << 8 | usize::from(header[2])
}

/// Of a HEADERS frame what is no padding and no priority (RFC 9113, 6.2).
fn fragment(flags: u8, payload: &[u8]) -> io::Result<&[u8]> {
    let wrong = || malformed("a frame of headers is too short");
    let (padding, rest) = match payload {
        [padding, rest @ ..] if flags & PADDED != 0 => (usize::from(*padding), rest),
        _ if flags & PADDED != 0 => return Err(wrong()),
        rest => (0, rest),
    };
    let rest = if flags & PRIORITY != 0 { rest.get(5..).ok_or_else(wrong)? } else { rest };
    rest.get(..rest.len().saturating_sub(padding)).filter(|_| padding <= rest.len()).ok_or_else(wrong)
}

/// A field that is in no table: its name and value, as they are (RFC 7541, 6.2.2).
fn field(name: &[u8], value: &[u8], out: &mut Vec<u8>) {
    out.push(0);
    for text in [name, value] {
        // A prefix of seven bits (RFC 7541, 5.1 and 5.2).
        let mut left = text.len();
        if left < 0x7f {
            out.push(u8::try_from(left).unwrap_or(0x7f));
        } else {
            out.push(0x7f);
            left -= 0x7f;
            while left >= 0x80 {
                out.push(u8::try_from(left & 0x7f).unwrap_or_default() | 0x80);
                left >>= 7;
            }
            out.push(u8::try_from(left).unwrap_or_default());
        }
        out.extend_from_slice(text);
    }
}

fn malformed(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let size = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&size[1..], &[kind, flags], &1_u32.to_be_bytes(), payload].concat()
    }

    fn through(bytes: &[u8], at_once: usize) -> io::Result<Vec<u8>> {
        let (mut blocks, mut out) = (Blocks::new(), Vec::new());
        bytes.chunks(at_once).try_for_each(|part| blocks.take(part, &mut out))?;
        Ok(out)
    }

    fn fields(frame: &[u8]) -> Vec<(String, String)> {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        let decoded = Decoder::new().decode(&frame[HEADER..]).unwrap();
        decoded.into_iter().map(|(name, value)| (text(name), text(value))).collect()
    }

    #[test]
    fn a_path_becomes_localhost_however_it_comes() {
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        let settings = frame(0x4, 0, &[0; 6]);
        let mut block = Vec::new();
        field(b":path", b"/pluginregistration.Registration/GetInfo", &mut block);
        field(b":authority", b"%2Fvar%2Flib%2Fkubelet%2Fplugins_registry%2Fx-reg.sock", &mut block);
        field(b"long", &[b'x'; 20_000], &mut block);
        let padded = [&[3, 0, 0, 0, 0, 16][..], &block[..100], &[0; 3]].concat();
        let parts = [&block[100..10_000], &block[10_000..]];
        let data = frame(0x0, END_STREAM, b"body");
        let sent = [
            &preface[..],
            &settings,
            &frame(HEADERS, PADDED | PRIORITY, &padded),
            &frame(CONTINUATION, 0, parts[0]),
            &frame(CONTINUATION, END_HEADERS, parts[1]),
            &data,
        ]
        .concat();
        for at_once in [1, 7, 4096, sent.len()] {
            let got = through(&sent, at_once).unwrap();
            let rest = got.strip_prefix(&[&preface[..], &settings].concat()[..]).unwrap();
            let rest = rest.strip_suffix(&data[..]).unwrap();
            let (first, second) = rest.split_at(HEADER + FRAME);
            assert_eq!((first[3], first[4], second[3], second[4]), (HEADERS, 0, CONTINUATION, END_HEADERS));
            let whole = [first, &second[HEADER..]].concat();
            let fields = fields(&whole);
            assert_eq!(fields[0].1, "/pluginregistration.Registration/GetInfo", "only the authority");
            assert_eq!(fields[1], (":authority".to_owned(), "localhost".to_owned()));
            assert_eq!(fields[2].1.len(), 20_000);
        }
    }

    #[test]
    fn a_path_that_is_only_pointed_to_becomes_localhost_as_well() {
        // Kept in the table by the first block (RFC 7541, 6.2.1), named by its index in the second (6.1), and trailers without a field.
        let path = b"%2Frun%2Fx.sock";
        let kept = [&[0x41, u8::try_from(path.len()).unwrap()][..], path].concat();
        let sent = [
            &[b'p'; PREFACE][..],
            &frame(HEADERS, END_HEADERS, &kept),
            &frame(HEADERS, END_HEADERS, &[0xbe]),
            &frame(HEADERS, END_HEADERS | END_STREAM, &[]),
        ];
        let got = through(&sent.concat(), 5).unwrap();
        let mut localhost = Vec::new();
        field(b":authority", b"localhost", &mut localhost);
        let block = frame(HEADERS, END_HEADERS, &localhost);
        let want = [&[b'p'; PREFACE][..], &block, &block, &frame(HEADERS, END_HEADERS | END_STREAM, &[])];
        assert_eq!(got, want.concat());
    }

    #[test]
    fn what_is_no_path_stays_as_it_is() {
        for name in ["localhost", "", "node-1:80"] {
            let mut block = Vec::new();
            field(b":authority", name.as_bytes(), &mut block);
            let sent = [&[b'p'; PREFACE][..], &frame(HEADERS, END_HEADERS | END_STREAM, &block)].concat();
            let got = through(&sent, sent.len()).unwrap();
            assert_eq!(got, sent, "{name}");
        }
    }

    #[test]
    fn what_is_malformed_ends_the_connection_and_nothing_else() {
        let preface = [b'p'; PREFACE];
        let headers = |flags, payload: &[u8]| [&preface[..], &frame(HEADERS, flags, payload)].concat();
        let long = [&preface[..], &[0xff, 0xff, 0xff, HEADERS, 0, 0, 0, 0, 1]].concat();
        let other = [&preface[..], &frame(CONTINUATION, END_HEADERS, &[])].concat();
        let twice = [headers(0, &[]), frame(HEADERS, END_HEADERS, &[])].concat();
        let endless = [headers(0, &[]), frame(CONTINUATION, 0, &[0; FRAME]).repeat(5)].concat();
        let interrupted = [headers(0, &[]), frame(0x6, 0, &[0; 8])].concat();
        let many = [&[0x41, 100][..], &[b'x'; 100], &[0xbe; 1000]].concat();
        for wrong in [
            interrupted,
            headers(END_HEADERS, &many),
            headers(END_HEADERS, &[0x3f, 0xff, 0xff, 0x7f, 0x82]),
            headers(PADDED, &[]),
            headers(PADDED | END_HEADERS, &[9, 0]),
            headers(PRIORITY, &[0; 4]),
            headers(END_HEADERS, &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
            headers(END_HEADERS, &[0x80]),
            long,
            other,
            twice,
            endless,
        ] {
            assert!(through(&wrong, wrong.len()).is_err(), "{wrong:?}");
        }
    }
}
