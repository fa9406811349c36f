//! A link as the router uses it: the transport under the generated clients.
//!
//! Owns: how many calls run on one connection. Never: dials, retries or reorders: when the connection has ended every call
//! fails, and the next link of the node is another `Line`. tonic's own `Channel` would do all of that, behind a queue and a
//! task of its own for each of thousands of nodes.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{HeaderValue, Request, Response, Uri};
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use tokio::sync::Semaphore;
use tonic::Status;
use tonic::body::Body;
use tower::Service;

use super::MARK;
use crate::csi::call::{REQUEST, RequestId};

/// So many calls run on one connection; more wait for their turn, first come first served. Below what the node takes at
/// once, so that HTTP/2 holds none of them back behind a long one.
const AT_ONCE: usize = 48;

/// So many may wait. A node that hangs would else take every call of the controller, and the other nodes could not be asked.
const WAITING: usize = 32;

/// One connection to a node; clones share it.
#[derive(Clone, Debug)]
pub struct Line {
    sender: SendRequest<Body>,
    room: Arc<Semaphore>,
    /// Those who have a place to wait in, or run.
    queue: Arc<Semaphore>,
}

impl Line {
    pub(super) fn new(sender: SendRequest<Body>) -> Line {
        let (room, queue) = (Semaphore::new(AT_ONCE), Semaphore::new(AT_ONCE + WAITING));
        Line { sender, room: Arc::new(room), queue: Arc::new(queue) }
    }

    /// Whether so many calls wait for their turn that another is better refused.
    pub fn is_crowded(&self) -> bool {
        self.queue.available_permits() == 0
    }

    /// What the generated clients want to know of the address: `IdentityClient::with_origin(line, Line::origin())`.
    pub fn origin() -> Uri {
        Uri::from_static("http://node")
    }

    /// Whether the connection has ended. It may end right after this was asked.
    pub fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }
}

/// An answer whose status is still to come says nothing yet: tonic would put the mark beside whatever becomes of the
/// connection after it. A call that failed has its status in the headers, beside the mark, and so is told whole or not at all.
fn unmarked_if_open(mut response: Response<Incoming>) -> Response<Incoming> {
    if Status::from_header_map(response.headers()).is_none() {
        response.headers_mut().remove(MARK);
    }
    response
}

impl Service<Request<Body>> for Line {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = hyper::Result<Response<Incoming>>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<hyper::Result<()>> {
        self.sender.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let belongs = RequestId::current();
        if let Some(Ok(belongs)) = belongs.map(|id| HeaderValue::from_str(id.as_str())) {
            request.headers_mut().insert(REQUEST, belongs);
        }
        let (mut sender, room, queue) =
            (self.sender.clone(), Arc::clone(&self.room), Arc::clone(&self.queue));
        Box::pin(async move {
            // Who came although it is crowded waits for a place in the queue.
            let _place = queue.acquire().await;
            // It is never closed. A call has its turn until its answer begins; a stream that goes on then takes none.
            let _turn = room.acquire().await;
            sender.send_request(request).await.map(unmarked_if_open)
        })
    }
}
