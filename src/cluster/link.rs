//! The link: one connection between a node and a controller, dialled by the node, on which the controller is the client.
//!
//! Owns: who may connect, how the two meet, what keeps a connection alive and what ends it. Never: knows what is said over it
//! afterwards, and never opens a port on a node.
//!
//! ```text
//!   node (`node`)                                   controller (`controller`)
//!    1. connects, TLS 1.3: is it the controller? ──▶ 2. is it a node's certificate, if it has one?
//!    3. Hello: driver, node, versions, token     ──▶ 4. is it the node that certificate or token name? (`auth`)
//!    6. serves gRPC                              ◀── 5. Welcome, or why not; then calls
//! ```
//!
//! What ends it: the node stops (it says so, and running calls finish), the controller stops, a newer connection of the same
//! node, or silence. Who has heard nothing for ten seconds (`Timing::ping`) asks whether the other is there; a controller gives up
//! when no answer comes, and a node that heard nothing for three times that long (`Timing::silence`) does as well, since then
//! nobody can reach it. Both ask: a node tells what it has every second or two, so its controller need not, and says nothing.
//! A node that lost a connection dials again, for ever.
//!
//! Certificates are read again when their files change, for every connection made afterwards. No TLS session is resumed: each
//! connection proves who it is with what is valid now. A token is read at every dial; when its file changes the node dials once
//! more, and the later connection takes the place of the one before, whose calls finish. A link without a newer one ends soon
//! after its token.
//!
//! # What a failure means
//! A status says what a node did only if the node said it. HTTP/2 turns a connection that breaks into all kinds of codes, some
//! of which are final to a caller (UNKNOWN, INTERNAL, RESOURCE_EXHAUSTED). So a node puts its name beside every answer
//! ([`MARK`]), and what comes without it is UNAVAILABLE (`told`).

pub mod controller;
mod hello;
mod identity;
mod keys;
mod line;
mod links;
pub mod node;
mod refused;
mod renewal;
mod stream;
#[cfg(test)]
pub(in crate::cluster) mod tests;

use std::fmt;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use rustls::crypto::CryptoProvider;
use tonic::Status;

pub use self::identity::uri;
pub use self::keys::{ControllerFiles, Keys, NodeFiles, Pair, Proof};
pub use self::line::Line;
pub use self::links::{Link, Links};
pub use self::stream::{Alive, Gone};
use crate::error::{Error, quoted};
use crate::model::NodeId;
use crate::proto::link::refusal::Reason;

/// What TLS calls this protocol: nothing else that listens or dials is taken for a link.
const PROTOCOL: &[u8] = b"rockpool-link";
/// The versions of the link that this release speaks.
const OLDEST: u32 = 1;
const NEWEST: u32 = 1;
/// The header that a node puts beside every answer, with its id.
pub const MARK: &str = "rockpool-node";

/// How long what may take.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// From the connection to the welcome.
    pub handshake: Duration,
    /// How long either side hears nothing before it asks whether the other is there.
    pub ping: Duration,
    /// How long the controller waits for an answer to that.
    pub pong: Duration,
    /// How long a node hears nothing before it gives the connection up.
    pub silence: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Timing {
            handshake: Duration::from_secs(5),
            ping: Duration::from_secs(10),
            pong: Duration::from_secs(5),
            silence: Duration::from_secs(30),
        }
    }
}

/// A process, told from the one before and after it by random bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Instance([u8; 16]);

impl Instance {
    /// This process's. Made once for each that takes part.
    pub fn random() -> Instance {
        Instance(random())
    }

    fn read(bytes: &[u8]) -> Option<Instance> {
        bytes.try_into().ok().map(Instance)
    }
}

impl fmt::Debug for Instance {
    /// The first eight digits: enough to tell two in a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..4].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// What a failed call through a link means: what the node itself said is passed on, without its mark; of everything else the
/// outcome is unknown.
pub fn told(status: &Status, node: &NodeId) -> Status {
    let passed_on = planted!("unknown-passed-on") && status.code() == tonic::Code::Unknown;
    if is_told(status, node) || passed_on {
        return Status::new(status.code(), status.message());
    }
    Error::Unavailable(format!(
        "the connection to node {node} broke, and with it what is known of this call ({}); ask again",
        crate::csi::call::code_name(status.code())
    ))
    .into()
}

/// Whether a node itself said this.
pub(super) fn is_told(status: &Status, node: &NodeId) -> bool {
    planted!("mark-unchecked")
        || status.metadata().get(MARK).and_then(|mark| mark.to_str().ok()) == Some(node.as_str())
}

/// A reason as the log and the metric spell it.
fn reason_name(reason: Reason) -> &'static str {
    match reason {
        Reason::Unknown => "unknown",
        Reason::Malformed => "malformed",
        Reason::Version => "version",
        Reason::Driver => "driver",
        Reason::Unproven => "unproven",
        Reason::OtherNode => "other-node",
        Reason::Stale => "stale",
        Reason::Busy => "busy",
        Reason::Already => "already",
    }
}

/// The one library of cryptography, named: a process-wide default could be somebody else's choice.
pub(super) fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> =
        LazyLock::new(|| Arc::new(rustls::crypto::ring::default_provider()));
    Arc::clone(&PROVIDER)
}

/// Random bytes; zeros where the host has none, in which case TLS fails before they matter.
pub(super) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    let _ = provider().secure_random.fill(&mut bytes);
    bytes
}

/// Half of a pause up to all of it, so that the nodes of a cluster do not all come back at once.
pub(super) fn jittered(pause: Duration) -> Duration {
    let [byte] = random();
    pause.mul_f64(0.5 + f64::from(byte) / 512.0)
}

/// A text of the other side, fit for a log.
fn shown(text: &str) -> String {
    if text.is_empty() { "nothing".to_owned() } else { quoted(text) }
}
