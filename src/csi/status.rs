//! What a failure is called on the wire.
//!
//! Owns: the one match from `Error` to a gRPC code, and the shape of every error status: a canonical code, a message that
//! says everything in one line, no details. Never: decides what failed; that is the variant's business.
//!
//! A code is a promise. ABORTED and UNAVAILABLE say "still running or unknown, ask again"; every other code says "surely
//! finished, nothing was left behind", and RESOURCE_EXHAUSTED also "try another node".

use tonic::{Code, Status};

use crate::error::{Error, chain};
use crate::model::Offer;

/// What is kept of a message, in bytes: it travels in a header, percent-encoded, and peers limit their headers to 8 KiB.
const MESSAGE_MAX: usize = 2048;

/// The code of an error, and with it what the caller may conclude.
fn code(error: &Error) -> Code {
    match error {
        Error::Invalid(_) => Code::InvalidArgument,
        Error::OutOfRange(_) => Code::OutOfRange,
        Error::NotFound(_) => Code::NotFound,
        Error::Conflict(_) if planted!("unknown-code") => Code::Unknown,
        Error::Conflict(_) => Code::AlreadyExists,
        // `Unsupported` arrives here only for calls that the driver advertises and this one pool cannot do. The call is
        // implemented, so not UNIMPLEMENTED; its fields are right, so not INVALID_ARGUMENT; another node is no likelier to
        // help, so not RESOURCE_EXHAUSTED. What is not advertised never gets past `unadvertised`.
        Error::Precondition(_) | Error::Unsupported(_) => Code::FailedPrecondition,
        // Lets a scheduler choose another node.
        Error::Full(_) => Code::ResourceExhausted,
        // Somebody works on it right now; for a page token the standard asks for this code.
        Error::Busy(_) | Error::PageToken(_) => Code::Aborted,
        Error::Unavailable(_) | Error::StillFrozen(_) => Code::Unavailable,
        Error::Host { .. } | Error::Program { .. } | Error::Corrupt(_) => Code::Internal,
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let mut message = chain(&error);
        if message.len() > MESSAGE_MAX {
            let end = (0..=MESSAGE_MAX).rev().find(|end| message.is_char_boundary(*end)).unwrap_or(0);
            message.truncate(end);
        }
        Status::new(code(&error), message)
    }
}

/// The answer of a call that is not advertised, whatever its fields say.
pub fn unadvertised(call: &str, why: &str) -> Status {
    Status::new(Code::Unimplemented, format!("{call} is not offered: {why}"))
}

/// Lets a call pass if its capability is advertised.
///
/// # Errors
/// UNIMPLEMENTED with the reason otherwise.
pub fn advertised(call: &str, offer: &Offer) -> Result<(), Status> {
    match offer {
        Offer::Yes => Ok(()),
        Offer::No(why) => Err(unadvertised(call, why)),
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn every_failure_has_its_code() {
        let text = String::new;
        let host = Error::Host { what: text(), source: io::Error::from_raw_os_error(5) };
        for (error, want) in [
            (Error::Invalid(text()), Code::InvalidArgument),
            (Error::OutOfRange(text()), Code::OutOfRange),
            (Error::NotFound(text()), Code::NotFound),
            (Error::Conflict(text()), Code::AlreadyExists),
            (Error::Precondition(text()), Code::FailedPrecondition),
            (Error::Unsupported(text()), Code::FailedPrecondition),
            (Error::Full(text()), Code::ResourceExhausted),
            (Error::Busy(text()), Code::Aborted),
            (Error::PageToken(text()), Code::Aborted),
            (Error::Unavailable(text()), Code::Unavailable),
            (Error::StillFrozen(text()), Code::Unavailable),
            (host, Code::Internal),
            (Error::Program { what: text(), said: text() }, Code::Internal),
            (Error::Corrupt(text()), Code::Internal),
        ] {
            assert_eq!(code(&error), want, "{error:?}");
        }
    }

    #[test]
    fn a_status_names_each_cause_once_and_carries_no_details() {
        let error = Error::host("failed to write `x`", io::Error::from_raw_os_error(5));
        let status = Status::from(error);
        assert_eq!(status.message(), "failed to write `x`: Input/output error (os error 5)");
        assert!(status.details().is_empty());
    }

    #[test]
    fn a_long_message_fits_a_header_and_stays_text() {
        let status = Status::from(Error::Corrupt("ü".repeat(5000)));
        assert!(status.message().len() <= MESSAGE_MAX);
        assert!(status.message().chars().all(|c| c == 'ü'));
    }
}
