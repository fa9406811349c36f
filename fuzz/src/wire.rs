//! Calls as they come from a socket, without one: bytes in, bytes and a code out, through tonic's own routing and decoding.
//!
//! Owns: the frame around a message, and what every answer must look like. Never: knows what a call means.

use std::task::{Context, Poll, Waker};

use http_body_util::{BodyExt, Full};
use prost::Message;
use prost::bytes::{BufMut, Bytes, BytesMut};
use rockpool::csi::Services;
use tonic::body::Body;
use tonic::service::Routes;
use tonic::{Code, Status};
use tower::Service;

/// The most that a message of ours may hold, in bytes: it travels in a header.
const MESSAGE_MAX: usize = 2048;

/// Every service of a node, those for operators included, and a runtime for their calls.
pub struct Wire {
    routes: Routes,
    runtime: tokio::runtime::Runtime,
}

impl Wire {
    /// Over the services of one node.
    ///
    /// # Panics
    /// Where no runtime can be had.
    pub fn new(services: &Services) -> Wire {
        let routes = Routes::new(services.identity())
            .add_service(services.controller())
            .add_service(services.group_controller())
            .add_service(services.snapshot_metadata())
            .add_service(services.node())
            .add_service(services.admin())
            .prepare();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        Wire { routes, runtime }
    }

    /// Sends the bytes of one request to a method, like `csi.v1.Identity/Probe`, and waits for its answer.
    ///
    /// # Errors
    /// The status that it answers.
    ///
    /// # Panics
    /// Where the answer is malformed, whatever it says.
    pub fn send(&mut self, method: &str, message: &[u8]) -> Result<Bytes, Status> {
        let mut frame = BytesMut::with_capacity(message.len() + 5);
        frame.put_u8(0);
        frame.put_u32(u32::try_from(message.len()).expect("inputs are small"));
        frame.put_slice(message);
        let request = http::Request::post(format!("http://localhost/{method}"))
            .header("content-type", "application/grpc")
            .body(Body::new(Full::new(frame.freeze())))
            .expect("methods are paths");
        let mut context = Context::from_waker(Waker::noop());
        let ready = Service::<http::Request<Body>>::poll_ready(&mut self.routes, &mut context);
        assert!(matches!(ready, Poll::Ready(Ok(()))));
        let calling = self.routes.call(request);
        let (head, body) = self.runtime.block_on(async {
            let (head, body) = calling.await.expect("it cannot fail").into_parts();
            (head, body.collect().await.expect("a body in memory is whole"))
        });
        let told = body.trailers().and_then(Status::from_header_map);
        let status = told.or_else(|| Status::from_header_map(&head.headers)).expect("an answer has a status");
        if status.code() != Code::Ok {
            check_status(method, &status);
            return Err(status);
        }
        let mut bytes = body.to_bytes();
        assert!(bytes.len() >= 5 && bytes[0] == 0, "{method}: OK without a message");
        Ok(bytes.split_off(5))
    }

    /// The same with messages instead of their bytes.
    ///
    /// # Errors
    /// The status that it answers.
    ///
    /// # Panics
    /// As `send`.
    pub fn ask<R: Message + Default>(&mut self, method: &str, request: &impl Message) -> Result<R, Status> {
        let bytes = self.send(method, &request.encode_to_vec())?;
        Ok(R::decode(bytes).unwrap_or_else(|error| panic!("{method}: its answer does not decode: {error}")))
    }
}

/// What holds for every refusal: a canonical code, words in one line that fit a header, no details.
fn check_status(method: &str, status: &Status) {
    let (code, text) = (status.code(), status.message());
    assert!(code != Code::Unknown && code != Code::Ok, "{method}: {code:?} {text}");
    assert!(status.details().is_empty(), "{method}: it has details");
    assert!(!text.is_empty() && text.len() <= MESSAGE_MAX, "{method}: a message of {} bytes", text.len());
    assert!(!text.contains(char::is_control), "{method}: a control character in {text:?}");
}
