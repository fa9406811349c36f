//! Rockpool: a CSI driver for storage that is local to a node.

pub mod config;
pub mod engine;
pub mod error;
pub mod model;
pub mod os;
pub mod pool;
pub mod proto;
