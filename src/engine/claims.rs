//! Claims: who works on what right now.
//!
//! Owns: the exclusion of calls that concern the same name or object. Never: waits. What is taken answers `Busy`
//! at once, so that a stuck call never holds another one up, and a caller never wonders whether work still runs.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::engine::Key;
use crate::error::{Error, Result, quoted};
use crate::model::ObjectId;

/// How a key is taken.
enum Taken {
    /// By one, who may write.
    Owned,
    /// By this many, who rely on it: many clones may share a source.
    Shared(usize),
}

/// What is taken on this node.
#[derive(Clone, Default)]
pub(crate) struct Claims {
    taken: Arc<Mutex<HashMap<Key, Taken>>>,
}

/// The right to write the records of the keys it owns, and the certainty that those it shares stay as they are.
/// It is held by the job that does the work, not by the call that waits for it.
pub struct Claim {
    claims: Claims,
    own: Vec<Key>,
    share: Vec<Key>,
}

impl Claims {
    /// All of `own` and `share`, or nothing.
    ///
    /// # Errors
    /// `Busy` where one is taken.
    pub(crate) fn claim(&self, own: &[Key], share: &[Key]) -> Result<Claim> {
        let mut claim = Claim { claims: self.clone(), own: Vec::new(), share: Vec::new() };
        claim.take(own, share)?;
        Ok(claim)
    }

    /// Refuses keys that somebody owns at this moment; takes none.
    ///
    /// # Errors
    /// `Busy`.
    pub(crate) fn refuse_taken(&self, keys: &[Key]) -> Result<()> {
        let taken = self.lock();
        let owned = keys.iter().find(|key| matches!(taken.get(key), Some(Taken::Owned)));
        owned.map_or(Ok(()), |key| Err(busy(key)))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Taken>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Claim {
    /// More keys to own, on top of what is held already.
    ///
    /// # Errors
    /// `Busy` where one is taken; what was held stays held.
    pub(crate) fn extend(&mut self, own: &[Key]) -> Result<()> {
        self.take(own, &[])
    }

    /// Whether this claim may write the record of `key`.
    pub(crate) fn owns(&self, key: &Key) -> bool {
        self.own.contains(key)
    }

    fn take(&mut self, own: &[Key], share: &[Key]) -> Result<()> {
        if planted!("claims-not-held") {
            self.own.extend(own.iter().cloned());
            return Ok(());
        }
        let claims = self.claims.clone();
        let mut taken = claims.lock();
        if let Some(key) = own.iter().find(|key| taken.contains_key(key)) {
            return Err(busy(key));
        }
        if let Some(key) = share.iter().find(|key| matches!(taken.get(key), Some(Taken::Owned))) {
            return Err(busy(key));
        }
        for key in own {
            taken.insert(key.clone(), Taken::Owned);
            self.own.push(key.clone());
        }
        for key in share {
            match taken.entry(key.clone()).or_insert(Taken::Shared(0)) {
                Taken::Shared(holders) => *holders += 1,
                // A key that this very call owns as well: owning it is more.
                Taken::Owned => continue,
            }
            self.share.push(key.clone());
        }
        Ok(())
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut taken = self.claims.lock();
        for key in &self.own {
            taken.remove(key);
        }
        for key in &self.share {
            let last = match taken.get_mut(key) {
                Some(Taken::Shared(holders)) => {
                    *holders -= 1;
                    *holders == 0
                }
                Some(Taken::Owned) | None => false,
            };
            if last {
                taken.remove(key);
            }
        }
    }
}

fn busy(key: &Key) -> Error {
    Error::Busy(format!("{key}: another call is working on it; nothing was done, ask again"))
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Key::VolumeName(name) => write!(f, "volume name {}", quoted(name)),
            Key::SnapshotName(name) => write!(f, "snapshot name {}", quoted(name)),
            Key::GroupName(name) => write!(f, "group snapshot name {}", quoted(name)),
            Key::Object(ObjectId::Volume(id)) | Key::Turn(ObjectId::Volume(id)) => write!(f, "volume {id}"),
            Key::Object(ObjectId::Snapshot(id)) | Key::Turn(ObjectId::Snapshot(id)) => {
                write!(f, "snapshot {id}")
            }
            Key::Object(ObjectId::Group(id)) | Key::Turn(ObjectId::Group(id)) => {
                write!(f, "group snapshot {id}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Key {
        Key::VolumeName(text.to_owned())
    }

    #[test]
    fn a_claim_is_all_or_nothing_and_ends_with_its_holder() {
        let claims = Claims::default();
        let first = claims.claim(&[name("a")], &[]).unwrap();
        assert!(matches!(claims.claim(&[name("b"), name("a")], &[]), Err(Error::Busy(_))));
        let second = claims.claim(&[name("b")], &[]).expect("a refused claim takes nothing");
        drop(first);
        assert!(claims.claim(&[name("a")], &[]).is_ok());
        drop(second);
        assert!(claims.lock().is_empty());
    }

    #[test]
    fn many_may_share_what_nobody_then_owns() {
        let claims = Claims::default();
        let one = claims.claim(&[name("x")], &[name("source")]).unwrap();
        let two = claims.claim(&[name("y")], &[name("source")]).unwrap();
        assert!(claims.claim(&[name("source")], &[]).is_err());
        drop(one);
        assert!(claims.claim(&[name("source")], &[]).is_err());
        drop(two);
        let owner = claims.claim(&[name("source")], &[]).unwrap();
        assert!(claims.claim(&[], &[name("source")]).is_err());
        assert!(matches!(claims.refuse_taken(&[name("x"), name("source")]), Err(Error::Busy(_))));
        drop(owner);
        claims.refuse_taken(&[name("source")]).unwrap();
        assert!(claims.lock().is_empty());
    }
}
