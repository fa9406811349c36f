//! What the log says of a call: its id, which the handler knows, and the name of its code.

use std::sync::{Arc, OnceLock};

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
