//! Rockpool: a CSI driver for storage that is local to a node.

#[path = "csi/call.rs"]
pub mod call;
pub mod cli;
pub mod config;
pub mod ctl;
pub mod engine;
pub mod error;
pub mod kubelet;
pub mod model;
pub mod os;
pub mod pool;
pub mod proto;
pub mod serve;
