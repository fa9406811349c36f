//! What only Linux knows.
#![allow(clippy::disallowed_methods, reason = "clippy.toml keeps these calls out of every other layer")]

pub mod file;
pub mod fs;
mod fsxattr;
pub mod label;
pub mod loopdev;
pub mod mount;
pub mod process;
pub mod quota;
