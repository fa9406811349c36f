//! How a command fails, and with which exit code.
//!
//! Owns: the exit codes. Never: prints.

use std::fmt;
use std::process::ExitCode;

use tonic::{Code, Status};

use crate::csi::call::code_name;
use crate::error::chain;

/// The result of a command.
pub(super) type Outcome<T> = Result<T, Failure>;

/// Why a command failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// The command line is wrong in a way that only the driver's answer could tell.
    Usage(String),
    /// The driver refused a call.
    Refused {
        /// The call, like `CreateVolume`.
        call: &'static str,
        /// What it said.
        status: Box<Status>,
    },
    /// The driver does not advertise what the command needs.
    Unsupported(String),
    /// Nobody answers at the socket.
    Unreachable(String),
    /// Anything else.
    Other(String),
}

impl Failure {
    /// For `map_err` behind a call.
    pub(super) fn of(call: &'static str) -> impl FnOnce(Status) -> Failure {
        move |status| Failure::Refused { call, status: Box::new(status) }
    }

    /// The code that the driver gave, if it gave one.
    pub(super) fn code(&self) -> Option<Code> {
        match self {
            Failure::Refused { status, .. } => Some(status.code()),
            Failure::Unsupported(_) => Some(Code::Unimplemented),
            Failure::Unreachable(_) => Some(Code::Unavailable),
            Failure::Usage(_) | Failure::Other(_) => None,
        }
    }

    /// 1 or 2, or 10 + the gRPC code.
    pub(super) fn exit(&self) -> ExitCode {
        let code = match self {
            Failure::Usage(_) => 2,
            Failure::Other(_) => 1,
            Failure::Refused { .. } | Failure::Unsupported(_) | Failure::Unreachable(_) => {
                let number = self.code().map_or(0, i32::from);
                u8::try_from(number).map_or(1, |number| number.saturating_add(10))
            }
        };
        ExitCode::from(code)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Usage(text) | Failure::Other(text) => f.write_str(text),
            Failure::Unsupported(text) => write!(f, "UNIMPLEMENTED: {text}"),
            Failure::Unreachable(text) => write!(f, "UNAVAILABLE: {text}"),
            Failure::Refused { call, status } => {
                write!(f, "{call}: {}: {}", code_name(status.code()), status.message())?;
                match std::error::Error::source(status.as_ref()) {
                    Some(cause) => write!(f, " ({})", chain(cause)),
                    None => Ok(()),
                }
            }
        }
    }
}
