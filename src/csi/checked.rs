//! The calls of the Controller and GroupController services, read whole.
//!
//! Owns: every check of such a call that needs nothing but the request and what is offered, in the order of the contract, and
//! so every INVALID_ARGUMENT and OUT_OF_RANGE that it alone deserves. A node and a controller both read a request here: it is
//! refused in the same words wherever it arrives. Never: knows an engine, a pool or which node it runs on; where something is
//! to be reachable from comes out as data (`topology`).
//!
//! One function a call. The single fields are read by the modules beside this one (`parse`, `capability`, `class`, `tokens`).
//! A call that is not always offered is refused for that before its fields are looked at, and so answers with a `Status`.

pub mod groups;
pub mod health;
pub mod snapshots;
pub mod topology;
pub mod volumes;

use tonic::Status;

/// What a call asks for, or the status that answers it.
pub type Checked<T> = Result<T, Status>;

/// The part of a list that is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page<T> {
    /// The id behind which it begins; none: at the beginning.
    pub after: Option<T>,
    /// How many entries it has at most.
    pub max: usize,
}
