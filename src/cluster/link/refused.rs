//! Why somebody was not let in: to the peer, to the log, and to the count.
//!
//! Owns: the reasons and their words. Never: decides; prints what a peer must keep to itself.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustls::CertificateError;

use super::reason_name;
use crate::cluster::auth::{Denied, UNASKED};
use crate::proto::link::Refusal;
use crate::proto::link::refusal::Reason;

/// Every reason for which somebody is not let in, in the order in which they are counted.
pub const REASONS: [&str; 17] = [
    "tls",
    "certificate-missing",
    "certificate-expired",
    "certificate-unknown-issuer",
    "certificate",
    "slow",
    "broken",
    "malformed",
    "version",
    "driver",
    "unproven",
    "other-node",
    "token",
    "token-audience",
    "token-account",
    "token-unbound",
    "review",
];

/// So many are remembered with their words.
const RECENT: usize = 32;

/// How often nodes were refused, by reason, and the last of them.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    counts: [AtomicU64; REASONS.len()],
    recent: Mutex<VecDeque<(Instant, String, Refused)>>,
}

impl Refusals {
    /// Counts one, if it is somebody's fault.
    pub(super) fn count(&self, from: &str, refused: &Refused) -> bool {
        let Some(place) = REASONS.iter().position(|known| *known == refused.reason) else { return false };
        self.counts[place].fetch_add(1, Ordering::Relaxed);
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.truncate(RECENT - 1);
        recent.push_front((Instant::now(), from.to_owned(), refused.clone()));
        true
    }

    /// The last ones, the newest first: how long ago, from where, why, and in words.
    pub(super) fn recent(&self) -> Vec<(Duration, String, &'static str, String)> {
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let shown = recent
            .iter()
            .map(|(at, from, refused)| (at.elapsed(), from.clone(), refused.reason, refused.message.clone()));
        shown.collect()
    }

    pub(super) fn of(&self, reason: &str) -> u64 {
        let place = REASONS.iter().position(|known| *known == reason);
        place.map_or(0, |place| self.counts[place].load(Ordering::Relaxed))
    }
}

/// Why somebody was not let in.
#[derive(Clone, Debug)]
pub(super) struct Refused {
    /// One of `REASONS`, or `stale` or `already`, which are nobody's fault.
    pub(super) reason: &'static str,
    /// What the peer hears, if it can hear anything.
    pub(super) told: Option<Reason>,
    pub(super) message: String,
}

impl Refused {
    /// One that the peer hears.
    pub(super) fn new(reason: Reason, message: String) -> Refused {
        Refused { reason: reason_name(reason), told: Some(reason), message }
    }

    /// One that it does not hear.
    pub(super) fn silent(reason: &'static str, message: String) -> Refused {
        Refused { reason, told: None, message }
    }

    pub(super) fn broken(error: &io::Error) -> Refused {
        Refused::silent("broken", format!("the connection broke before its hello: {error}"))
    }

    /// What went wrong in the handshake, by what an operator does about it.
    pub(super) fn tls(error: &io::Error) -> Refused {
        let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
        let reason = match cause {
            None => "broken",
            Some(rustls::Error::NoCertificatesPresented) => "certificate-missing",
            Some(rustls::Error::InvalidCertificate(why)) if is_expired(why) => "certificate-expired",
            Some(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {
                "certificate-unknown-issuer"
            }
            Some(rustls::Error::InvalidCertificate(_)) => "certificate",
            Some(_) => "tls",
        };
        Refused::silent(reason, error.to_string())
    }

    /// As the peer hears it.
    pub(super) fn refusal(&self) -> Option<Refusal> {
        let reason = self.told?;
        Some(Refusal { reason: reason.into(), message: self.message.clone() })
    }
}

impl From<Denied> for Refused {
    /// A node whose token could not be reviewed comes again soon, whoever else has to mend that.
    fn from(Denied { reason, message }: Denied) -> Self {
        let told = if reason == UNASKED { Reason::Busy } else { Reason::Unproven };
        Refused { reason, told: Some(told), message }
    }
}

fn is_expired(why: &CertificateError) -> bool {
    matches!(why, CertificateError::Expired | CertificateError::ExpiredContext { .. })
}
