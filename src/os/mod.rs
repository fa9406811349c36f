//! What only Linux knows.
//!
//! Owns: every program that is run, every mount, every durable change of a file, and all `unsafe`. Never: knows what a volume is.

#![allow(clippy::disallowed_methods, reason = "clippy.toml keeps these calls out of every other layer")]

mod descriptors;
pub mod errand;
pub mod file;
pub mod fs;
mod fsxattr;
pub mod label;
pub mod loopdev;
pub mod mount;
pub mod process;
pub mod quota;
pub mod rights;
pub mod thread;
