//! The services on a real socket, mostly over pools in memory: each answer of the contract that needs no device.
//!
//! Every refusal is checked for three things: its code, that its message names the field and the value, and that lists and
//! free space are what they were.

#![allow(clippy::disallowed_methods, reason = "the test makes its own files")]
#![allow(clippy::unwrap_used, reason = "helpers of tests, too, fail by panic")]

mod harness;

mod away;
mod capacity;
mod controller;
mod create;
mod directories;
mod groups;
mod lists;
mod news;
mod node;
mod snapshots;
mod surface;
