//! What the log says of a call: its id, which the handler knows, the request that it belongs to, and the name of its code.

use std::collections::hash_map::RandomState;
use std::future::Future;
use std::hash::{BuildHasher, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, OnceLock};

use tonic::{Code, Request};

use crate::error::quoted;

/// The id or name that a call is about. The log's layer puts it into the request; the handler fills it in.
#[derive(Clone, Debug, Default)]
pub struct CallId(Arc<OnceLock<String>>);

impl CallId {
    /// Notes what `request` is about: an id or a name, as sent. The first note counts.
    pub fn note<T>(request: &Request<T>, id: &str) {
        if let Some(call) = request.extensions().get::<CallId>() {
            // What is no plain id comes quoted and cut, so that it cannot break a line or fill the log.
            let plain = id.len() <= 128 && id.bytes().all(|b| b.is_ascii_graphic());
            let _ = call.0.set(if plain { id.to_owned() } else { quoted(id) });
        }
    }

    /// What was noted, or nothing.
    pub fn text(&self) -> &str {
        self.0.get().map_or("", String::as_str)
    }
}

/// The header in which a controller tells a node to which request a call belongs.
pub const REQUEST: &str = "rockpool-request";
/// No name of a request is longer.
const LONGEST: usize = 64;

tokio::task_local! {
    /// The request that is being answered.
    static CURRENT: RequestId;
}

/// The name of one request of a sidecar, kubelet or operator: the same in the log of the controller and of every node that it asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestId(Arc<str>);

impl RequestId {
    /// A new one that nobody has named: that of the process, which is random, and a number.
    pub fn unnamed() -> RequestId {
        // Random as the keys of a HashMap are: enough to tell processes apart.
        static PROCESS: LazyLock<u64> = LazyLock::new(|| RandomState::new().build_hasher().finish() >> 32);
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        RequestId(format!("{:08x}-{number:x}", *PROCESS).into())
    }

    /// The one that a caller names, if it is one that fits into a log.
    pub fn named(text: &str) -> Option<RequestId> {
        let is_fit = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        let fits = (1..=LONGEST).contains(&text.len()) && text.bytes().all(is_fit);
        fits.then(|| RequestId(text.into()))
    }

    /// That of the call that this task answers.
    pub fn current() -> Option<RequestId> {
        CURRENT.try_with(RequestId::clone).ok()
    }

    /// What is done for this request.
    pub async fn during<F: Future>(self, work: F) -> F::Output {
        CURRENT.scope(self, work).await
    }

    /// For a task of its own: what is done there for the request of this one.
    pub fn carried<F: Future>(work: F) -> impl Future<Output = F::Output> {
        let current = RequestId::current();
        async move {
            match current {
                Some(id) => id.during(work).await,
                None => work.await,
            }
        }
    }

    /// As it stands in the log.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A code as the gRPC and CSI documents spell it.
pub fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_does_not_fit_into_a_log_is_none() {
        for bad in ["", "a b", "a\nb", "\u{7f}", "ü", "a\"", &"x".repeat(LONGEST + 1)] {
            assert_eq!(RequestId::named(bad), None, "{bad:?}");
        }
        let own = RequestId::unnamed();
        assert_ne!(own, RequestId::unnamed());
        assert_eq!(RequestId::named(own.as_str()), Some(own));
    }

    #[tokio::test]
    async fn a_task_of_its_own_belongs_to_the_same_request() {
        assert_eq!(RequestId::current(), None);
        let id = RequestId::unnamed();
        let seen = id
            .clone()
            .during(async { tokio::spawn(RequestId::carried(async { RequestId::current() })).await });
        assert_eq!(seen.await.unwrap(), Some(id));
    }
}
