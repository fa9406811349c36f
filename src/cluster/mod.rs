//! Many nodes as one.
//!
//! Owns: the connections between nodes and controllers (`link`), who a node is in Kubernetes (`auth`, `kubernetes`), what a
//! controller knows of its nodes (`news`), which of them ought to be there (`roster`), which pools are lost (`lost`), its CSI
//! services (`router`), the way of a volume's content from one node to another (`transfer`), what it compares and
//! tells in Kubernetes (`audit`), and what it tells operators (`operators`). Never: sees an engine, a pool or the host: a node's services come in as routes, and a controller only speaks CSI
//! to them.

pub mod audit;
pub mod auth;
pub mod kubernetes;
pub mod link;
pub mod lost;
pub mod news;
pub mod operators;
pub mod roster;
pub mod router;
#[cfg(test)]
mod tests;
pub mod transfer;
