//! What happens to every call: one line in the log, one count, a limit on how many run, a limit on time.
//!
//! Owns: the words of that line: method, id, request, code, duration, and the message of a refusal. Never: sees a request's
//! fields; what the id is, the service says through [`CallId`]. So no secret, context or mount flag can get in here.
//!
//! Too many calls are refused with UNAVAILABLE. The limits of tonic and h2 would answer RESOURCE_EXHAUSTED, which a
//! scheduler reads as "this node has no room".

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http::{HeaderValue, Request, Response};
use tokio::sync::Semaphore;
use tonic::body::Body;
use tonic::{Code, Status};
use tower::{Layer, Service};

use crate::cluster::link::MARK;
use crate::csi::call::{CallId, REQUEST, RequestId, code_name};
use crate::metrics;
use crate::proto::METHODS;

/// So much of a refusal's message enters the log.
const MESSAGE: usize = 512;

/// Puts [`Calls`] around a service; all that are made by one share their limit.
#[derive(Clone, Debug)]
pub(super) struct CallLayer {
    limits: Limits,
    room: Arc<Semaphore>,
    mark: Option<HeaderValue>,
}

/// What calls may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// So many may run at once, over all connections.
    pub(super) at_once: usize,
    /// A call that takes longer is answered; what it began goes on, and a retry joins it.
    pub(super) longest: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { at_once: 256, longest: Duration::from_secs(300) }
    }
}

impl CallLayer {
    pub(super) fn new(limits: Limits) -> Self {
        CallLayer { limits, room: Arc::new(Semaphore::new(limits.at_once)), mark: None }
    }

    /// The same, with a mark beside every answer: through a link only that says that the node has answered.
    pub(super) fn marked(self, mark: HeaderValue) -> Self {
        CallLayer { mark: Some(mark), ..self }
    }

    /// Whether no call runs.
    pub(super) fn is_quiet(&self) -> bool {
        self.room.available_permits() == self.limits.at_once
    }
}

impl<S> Layer<S> for CallLayer {
    type Service = Calls<S>;

    fn layer(&self, inner: S) -> Calls<S> {
        let (room, mark) = (Arc::clone(&self.room), self.mark.clone());
        Calls { inner, longest: self.limits.longest, room, mark }
    }
}

/// A service whose calls are logged and limited.
#[derive(Clone, Debug)]
pub(super) struct Calls<S> {
    inner: S,
    longest: Duration,
    room: Arc<Semaphore>,
    mark: Option<HeaderValue>,
}

impl<S> Service<Request<Body>> for Calls<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let id = CallId::default();
        request.extensions_mut().insert(id.clone());
        // A controller's word, or an operator's: it goes into the log and nowhere else.
        let named = request.headers().get(REQUEST).and_then(|name| RequestId::named(name.to_str().ok()?));
        let belongs = named.unwrap_or_else(RequestId::unnamed);
        let mut line = Line {
            method: request.uri().path().to_owned(),
            id,
            request: belongs.clone(),
            begun: Instant::now(),
            told: false,
            served: true,
        };
        let Ok(room) = Arc::clone(&self.room).try_acquire_owned() else {
            let status =
                Status::unavailable("as many calls as may run at once are running already; ask again");
            return Box::pin(async move { Ok(line.refuse(&status)) });
        };
        let (longest, mark) = (self.longest, self.mark.clone());
        let answer = belongs.during(self.inner.call(request));
        Box::pin(async move {
            let _room = room;
            let mut answered = match tokio::time::timeout(longest, answer).await {
                Ok(answered) => answered.map(|response| line.tell(response)),
                Err(_) => Ok(line.refuse(&Status::deadline_exceeded(format!(
                    "the call took longer than {} seconds; what it began goes on, ask again with the same request",
                    longest.as_secs()
                )))),
            };
            if let (Ok(response), Some(mark)) = (&mut answered, mark) {
                response.headers_mut().insert(MARK, mark);
            }
            answered
        })
    }
}

/// The line of one call, written when it is answered or when its caller has gone.
struct Line {
    method: String,
    id: CallId,
    request: RequestId,
    begun: Instant,
    told: bool,
    served: bool,
}

impl Line {
    fn refuse(&mut self, status: &Status) -> Response<Body> {
        self.write(status.code(), status.message());
        status.clone().into_http()
    }

    /// A status of a unary call that failed stands in the headers; one of a call that went well follows in the trailers.
    fn tell(&mut self, mut response: Response<Body>) -> Response<Body> {
        match Status::from_header_map(response.headers()) {
            Some(status) if status.message().is_empty() && status.code() != Code::Ok => {
                let method = self.method.trim_start_matches('/');
                let status = Status::new(status.code(), format!("{method} is not served on this socket"));
                self.served = false;
                self.write(status.code(), status.message());
                response = status.into_http();
            }
            Some(status) => self.write(status.code(), status.message()),
            None => self.write(Code::Ok, ""),
        }
        response
    }

    /// As metrics call a method. One that nobody serves is a word of the caller's, also where it was refused unread, and makes no label.
    fn label<'a>(&self, method: &'a str) -> &'a str {
        if self.served && METHODS.contains(&method) { method } else { "unserved" }
    }

    fn write(&mut self, code: Code, message: &str) {
        self.told = true;
        let method = self.method.rsplit('/').next().unwrap_or_default();
        let label = self.label(method);
        let took = self.begun.elapsed();
        let (id, code, duration_ms) = (self.id.text(), code_name(code), millis(took));
        let request = self.request.as_str();
        metrics::answered(label, code, took);
        if message.is_empty() {
            tracing::info!(target: "rockpool::call", method, id, code, duration_ms, request);
        } else {
            let error: String = message.chars().take(MESSAGE).collect();
            tracing::warn!(target: "rockpool::call", method, id, code, duration_ms, request, error);
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if !self.told {
            self.write(Code::Cancelled, "the caller did not wait");
        }
    }
}

/// Milliseconds to the hundredth, as people compare them.
fn millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 100_000.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use tower::service_fn;

    use super::*;

    const SMALL: Limits = Limits { at_once: 1, longest: Duration::from_millis(200) };

    fn request() -> Request<Body> {
        let request = Request::post("/csi.v1.Identity/Probe").body(Body::empty());
        request.expect("a request without odd headers")
    }

    fn status(response: Response<Body>) -> (Code, String) {
        let status = Status::from_header_map(response.headers()).expect("a status in the headers");
        (status.code(), status.message().to_owned())
    }

    #[tokio::test]
    async fn what_is_too_much_is_unavailable_and_never_a_full_node() {
        let hung =
            service_fn(|_: Request<Body>| std::future::pending::<Result<Response<Body>, Infallible>>());
        let mut calls = CallLayer::new(Limits { longest: Duration::from_secs(60), ..SMALL }).layer(hung);
        let first = calls.call(request());
        let (code, message) = status(calls.clone().call(request()).await.unwrap());
        assert_eq!(code, Code::Unavailable);
        assert!(message.contains("ask again"), "{message}");
        // The caller hangs up: its place is free again.
        drop(first);
        let third = tokio::time::timeout(Duration::from_millis(20), calls.call(request())).await;
        assert!(third.is_err(), "the third call was not let in");
    }

    #[tokio::test]
    async fn a_call_that_hangs_is_answered_in_the_end() {
        let hung =
            service_fn(|_: Request<Body>| std::future::pending::<Result<Response<Body>, Infallible>>());
        let answer = CallLayer::new(SMALL).layer(hung).call(request()).await.unwrap();
        assert_eq!(status(answer).0, Code::DeadlineExceeded);
    }

    #[test]
    fn what_a_caller_invents_is_no_label_also_where_nobody_has_looked() {
        let mut line = Line {
            method: String::new(),
            id: CallId::default(),
            request: RequestId::unnamed(),
            begun: Instant::now(),
            told: true,
            served: true,
        };
        assert_eq!(line.label("CreateVolume"), "CreateVolume");
        assert_eq!(line.label("NotifyRegistrationStatus"), "NotifyRegistrationStatus");
        assert_eq!(line.label("Invented"), "unserved");
        line.served = false;
        assert_eq!(line.label("CreateVolume"), "unserved");
    }

    #[tokio::test]
    async fn a_refusal_without_words_gets_some() {
        let unserved = service_fn(async |_: Request<Body>| {
            Ok::<_, Infallible>(Status::new(Code::Unimplemented, "").into_http::<Body>())
        });
        let answer = CallLayer::new(SMALL).layer(unserved).call(request()).await.unwrap();
        let (code, message) = status(answer);
        assert_eq!(
            (code, message.as_str()),
            (Code::Unimplemented, "csi.v1.Identity/Probe is not served on this socket")
        );
    }
}
