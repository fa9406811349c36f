//! What fuzzing checks: one module for each target in `fuzz_targets/`, and the node over simulated pools that some stand on.
//!
//! Owns: the properties. A target fails by a panic, its own or one of the program's, on whatever thread. Never: reaches into
//! the program: all goes through what `rockpool` makes public, above all through its services as tonic serves them.
//!
//! | target | input | what must hold besides that nothing panics |
//! |---|---|---|
//! | [`ids`] | a text | what is taken for an id is exactly of the grammar, fit as a file name, and survives its text |
//! | [`parameters`] | maps and topologies of one call | refused if and only if a second reading of the documentation says so; no secret in a message |
//! | [`mount_flags`] | flags and a filesystem | only what is on the list, each once; no flag is repeated in a message |
//! | [`records`] | texts of records, their copies, and the files beside them | what is taken has the right checksum and survives being written; else it is quarantined and left as it is |
//! | [`mountinfo`] | lines of the mount table | what the kernel escaped comes out as it went in |
//! | [`config`] | a pool file | what is taken obeys every documented limit; a pool can be added, and all are read again |
//! | [`requests`] | the bytes of one request to any method | the code is one that the contract allows; a refusal changes nothing; what was made can be listed and removed without a trace |
//! | [`operations`] | a sequence of calls, with faults in the pools' verbs, crashes and restarts | every answer and all that is listed is what a small model says |

#![allow(clippy::disallowed_methods, reason = "the targets make their own files")]

pub mod config;
pub mod faulty;
pub mod ids;
pub mod mount_flags;
pub mod mountinfo;
pub mod node;
pub mod operations;
pub mod parameters;
pub mod records;
pub mod requests;
pub mod wire;
