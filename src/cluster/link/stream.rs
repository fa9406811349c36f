//! A connection as a node holds it: it breaks by itself when nothing is heard, and tells when it is gone.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep};
use tonic::transport::server::Connected;

/// A stream that ends in an error where the other side is silent for too long. HTTP/2 would wait for ever for a peer that
/// vanished before its first byte, and a host that lost its power closes nothing.
pub struct Alive<S> {
    stream: S,
    heard: Instant,
    patience: Duration,
    alarm: Pin<Box<Sleep>>,
    /// Dropped with the stream, which is the message.
    _gone: oneshot::Sender<()>,
}

/// Waits until a stream is dropped.
pub struct Gone(oneshot::Receiver<()>);

impl Gone {
    /// Returns when the stream is dropped.
    pub async fn wait(self) {
        let _ = self.0.await;
    }
}

impl<S> Alive<S> {
    pub(super) fn new(stream: S, patience: Duration) -> (Alive<S>, Gone) {
        let (tell, told) = oneshot::channel();
        let alarm = Box::pin(tokio::time::sleep(patience));
        (Alive { stream, heard: Instant::now(), patience, alarm, _gone: tell }, Gone(told))
    }

    /// What becomes of something that has to wait for the other side: an error where nothing has been heard for too long.
    fn pending<T>(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        loop {
            ready!(self.alarm.as_mut().poll(cx));
            let limit = self.heard + self.patience;
            if limit <= Instant::now() {
                let text = format!("nothing was heard for {} ms", self.patience.as_millis());
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, text)));
            }
            // Moved only when it rings: setting it at every read would cost more than the reads.
            self.alarm.as_mut().reset(limit);
        }
    }

    /// The same of a write. HTTP/2 reads nothing while a frame is half written and another has to follow it.
    fn written<T>(&mut self, done: Poll<io::Result<T>>, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        if done.is_pending() { self.pending(cx) } else { done }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Alive<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Poll::Ready(read) = Pin::new(&mut this.stream).poll_read(cx, to) {
            this.heard = Instant::now();
            return Poll::Ready(read);
        }
        this.pending(cx)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Alive<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let done = Pin::new(&mut this.stream).poll_write(cx, bytes);
        this.written(done, cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let done = Pin::new(&mut this.stream).poll_write_vectored(cx, parts);
        this.written(done, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let done = Pin::new(&mut this.stream).poll_flush(cx);
        this.written(done, cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let done = Pin::new(&mut this.stream).poll_shutdown(cx);
        this.written(done, cx)
    }
}

impl<S> Connected for Alive<S> {
    type ConnectInfo = ();

    /// Nothing: who is at the other end was settled before the first call.
    fn connect_info(&self) -> Self::ConnectInfo {}
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const PATIENCE: Duration = Duration::from_millis(150);

    #[tokio::test]
    async fn silence_is_an_error_and_every_byte_puts_it_off() {
        let (mut far, near) = tokio::io::duplex(64);
        let (mut near, gone) = Alive::new(near, PATIENCE);
        for _ in 0..4 {
            tokio::time::sleep(PATIENCE / 2).await;
            far.write_all(b"x").await.unwrap();
            assert_eq!(near.read_u8().await.unwrap(), b'x');
        }
        assert_eq!(near.read_u8().await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        drop(near);
        gone.wait().await;
    }

    #[tokio::test]
    async fn silence_is_an_error_for_who_writes_as_well() {
        let (_far, near) = tokio::io::duplex(64);
        let (mut near, _gone) = Alive::new(near, PATIENCE);
        let written = tokio::time::timeout(PATIENCE * 20, near.write_all(&[0; 65])).await.unwrap();
        assert_eq!(written.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }
}
