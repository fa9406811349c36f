//! Rockpool: a CSI driver for storage that is local to a node.

pub mod cli;
pub mod config;
pub mod csi;
pub mod ctl;
pub mod engine;
pub mod error;
pub mod kubelet;
pub mod model;
pub mod os;
pub mod pool;
pub mod proto;
pub mod serve;
pub mod standalone;
