//! Which node a ServiceAccount token belongs to: asked of the Kubernetes API, and remembered.
//!
//! Owns: what a token must say to prove a node, for how long an answer counts, and what happens while the API is away. Never:
//! keeps or prints a token: what is remembered is its SHA-256. Whatever is not surely right is refused.
//!
//! A token proves a node if the API server says all of this: it is valid, and for *our* audience (one that does not say for
//! which knows no audiences, and would let every token in); its account is the nodes'; it is bound to a pod on one node. That
//! this is the node which dials, the desk compares.
//!
//! A good answer is fresh for a minute; after that the API is asked again, and the old answer holds, until the token's end, only
//! where the API is away. A bad one counts for a minute at most.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, timeout};

use super::kubernetes::{Fault, Kubernetes, or_default};
use crate::error::quoted;
use crate::model::{NodeId, Time};

/// Where the API server says to which node a token is bound.
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";
/// How long a dialling node waits for a review; it goes on without it, and the next attempt finds its answer.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long a good answer counts without being asked for again.
const FRESH: Duration = Duration::from_secs(60);
/// How long a bad answer counts.
const BAD: Duration = Duration::from_secs(60);
/// So many answers are remembered.
const MANY: usize = 10_000;
/// So many reviews are asked for at once.
const AT_ONCE: usize = 16;
/// The longest life of a token that does not say when it ends.
const LIFE: Duration = Duration::from_secs(600);

/// A node that a token proves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proof {
    /// Which.
    pub node: NodeId,
    /// When the token ends.
    pub until: Instant,
}

/// Why a token proves nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denied {
    /// For the log and the metric.
    pub reason: &'static str,
    /// A sentence for people.
    pub message: String,
}

/// Every reason for which a token is refused.
pub const REASONS: [&str; 5] = ["token", "token-audience", "token-account", "token-unbound", "review"];
/// The one of them that says nothing of the token: the API server could not be asked.
pub const UNASKED: &str = REASONS[4];

/// Who reviews tokens, and what is remembered of that.
pub struct Tokens {
    api: Kubernetes,
    audience: String,
    account: String,
    room: Semaphore,
    known: Mutex<HashMap<Digest, Entry>>,
    patience: Duration,
    fresh: Duration,
}

type Digest = [u8; 32];
type Verdict = Result<Proof, Denied>;

#[derive(Default)]
struct Entry {
    last: Option<(Verdict, Instant)>,
    /// A review that is on its way; its end is the end of the channel.
    asked: Option<watch::Receiver<()>>,
}

#[derive(Deserialize)]
struct Review {
    #[serde(default)]
    status: Reviewed,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Reviewed {
    authenticated: bool,
    #[serde(deserialize_with = "or_default")]
    audiences: Vec<String>,
    user: User,
    error: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct User {
    username: String,
    #[serde(deserialize_with = "or_default")]
    extra: HashMap<String, Vec<String>>,
}

impl Tokens {
    /// Tokens of this audience and of the ServiceAccount of this name.
    pub fn new(api: Kubernetes, audience: String, namespace: &str, account: &str) -> Tokens {
        let account = format!("system:serviceaccount:{namespace}:{account}");
        let (room, known) = (Semaphore::new(AT_ONCE), Mutex::default());
        Tokens { api, audience, account, room, known, patience: PATIENCE, fresh: FRESH }
    }

    /// The same in a hurry.
    #[cfg(test)]
    pub(super) fn hasty(self, patience: Duration, fresh: Duration) -> Tokens {
        Tokens { patience, fresh, ..self }
    }

    /// Whether there is a good answer about a token.
    #[cfg(test)]
    pub(super) fn is_known(&self, token: &str) -> bool {
        self.last(&digest(token)).is_ok()
    }

    /// The node that a token proves.
    ///
    /// # Errors
    /// Why it proves none.
    pub async fn node_of(self: &Arc<Self>, token: &str) -> Result<Proof, Denied> {
        let digest = digest(token);
        let Some(mut asked) = self.asked(digest, token) else { return self.last(&digest) };
        // What is on its way goes on without us.
        let answered = timeout(self.patience, asked.changed()).await.is_ok();
        match self.last(&digest) {
            Err(denied) if denied.reason == UNASKED && !answered => {
                let message = format!("no review of its token within {} ms", self.patience.as_millis());
                Err(Denied { message, ..denied })
            }
            verdict => verdict,
        }
    }

    /// A review that is on its way; none where what is known is fresh.
    fn asked(self: &Arc<Self>, digest: Digest, token: &str) -> Option<watch::Receiver<()>> {
        let mut known = self.known();
        let entry = known.entry(digest).or_default();
        let is_fresh = |(verdict, at): &(Verdict, Instant)| match verdict {
            Ok(proof) => at.elapsed() < self.fresh && proof.until > Instant::now(),
            Err(_) => at.elapsed() < BAD.min(self.fresh),
        };
        if entry.last.as_ref().is_some_and(is_fresh) {
            return None;
        }
        // A review that panicked has told nobody.
        if entry.asked.as_ref().is_none_or(|asked| asked.has_changed().is_err()) {
            let (done, asked) = watch::channel(());
            entry.asked = Some(asked);
            let (tokens, token) = (Arc::clone(self), token.to_owned());
            tokio::spawn(async move {
                let verdict = tokens.review(&token).await;
                tokens.learn(digest, verdict);
                drop(done);
            });
        }
        entry.asked.clone()
    }

    /// What is known of a token; only where the API is away may that be old.
    fn last(&self, digest: &Digest) -> Verdict {
        let known = self.known();
        match known.get(digest).and_then(|entry| entry.last.as_ref()) {
            Some((Ok(proof), _)) if proof.until > Instant::now() => Ok(proof.clone()),
            Some((Err(denied), _)) => Err(denied.clone()),
            Some((Ok(_), _)) | None => {
                Err(Denied { reason: UNASKED, message: "its token was not reviewed".to_owned() })
            }
        }
    }

    fn learn(&self, digest: Digest, verdict: Verdict) {
        let now = Instant::now();
        let mut known = self.known();
        if known.len() > MANY {
            known.retain(|_, entry| match &entry.last {
                Some((Ok(proof), _)) => proof.until > now,
                Some((Err(_), at)) => at.elapsed() < BAD,
                None => entry.asked.is_some(),
            });
            if known.len() > MANY {
                known.retain(|_, entry| entry.asked.is_some() || matches!(entry.last, Some((Ok(_), _))));
            }
        }
        let is_unasked = matches!(&verdict, Err(denied) if denied.reason == UNASKED);
        let entry = known.entry(digest).or_default();
        entry.asked = None;
        let stands = matches!(&entry.last, Some((Ok(proof), _)) if proof.until > now);
        if is_unasked && stands {
            return;
        }
        // Silence is no verdict: the next one who comes asks again.
        let at = if is_unasked { now.checked_sub(BAD).unwrap_or(now) } else { now };
        entry.last = Some((verdict, at));
    }

    async fn review(&self, token: &str) -> Verdict {
        // It is never closed.
        let _room = self.room.acquire().await;
        let request = json!({
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": { "token": token, "audiences": [self.audience] },
        });
        let review: Result<Review, Fault> =
            self.api.post("/apis/authentication.k8s.io/v1/tokenreviews", &request).await;
        match review {
            Ok(review) => self.judge(review.status, token),
            Err(fault) => Err(Denied { reason: UNASKED, message: fault.to_string() }),
        }
    }

    /// What the API server says of a token, against what it must say.
    fn judge(&self, said: Reviewed, token: &str) -> Verdict {
        let denied = |reason, message| Err(Denied { reason, message });
        if !said.authenticated {
            let why = if said.error.is_empty() { "it is not valid".to_owned() } else { quoted(&said.error) };
            return denied("token", format!("the Kubernetes API does not accept its token: {why}"));
        }
        if !said.audiences.contains(&self.audience) {
            let of = said.audiences.first().map_or("no audience".to_owned(), |first| quoted(first));
            return denied(
                "token-audience",
                format!("its token is for {of}: want {}", quoted(&self.audience)),
            );
        }
        if said.user.username != self.account {
            let message = format!(
                "its token is that of {}: want {}, see --node-service-account",
                quoted(&said.user.username),
                quoted(&self.account)
            );
            return denied("token-account", message);
        }
        let bound = said.user.extra.get(NODE_NAME).map_or(&[][..], Vec::as_slice);
        match bound {
            [node] => match node.parse() {
                // A clock that is wrong refuses nobody whom the API server has just accepted.
                Ok(node) => Ok(Proof { node, until: Instant::now() + life(token).max(self.fresh) }),
                Err(error) => denied("token-unbound", format!("its token names no possible node: {error}")),
            },
            _ => denied(
                "token-unbound",
                "its token is bound to no node: want a projected token of the node's pod, and Kubernetes 1.32 or later".to_owned(),
            ),
        }
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Digest, Entry>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn digest(token: &str) -> Digest {
    let digest = ring::digest::digest(&ring::digest::SHA256, token.as_bytes());
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest.as_ref());
    bytes
}

/// How long a token that was just accepted is good for: as long as the shorter of what it says for itself and of what is left by
/// this host's clock. A clock that is wrong makes it shorter, never longer.
fn life(token: &str) -> Duration {
    let claims = token.split('.').nth(1).and_then(|part| URL_SAFE_NO_PAD.decode(part).ok());
    let claims: Option<Value> = claims.and_then(|claims| serde_json::from_slice(&claims).ok());
    let seconds = |name: &str| claims.as_ref().and_then(|claims| claims[name].as_u64());
    let (Some(end), Some(begin)) = (seconds("exp"), seconds("iat")) else { return LIFE };
    let left = end.saturating_sub(Time::now().millis() / 1000);
    Duration::from_secs(left.min(end.saturating_sub(begin)))
}
