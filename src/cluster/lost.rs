//! The pools that were declared lost, and what was deleted in them since.
//!
//! Owns: the book of them, where it is kept, and that nothing is answered before it is written there. Never: deletes anything: a
//! pool that returns is the node's again, and what was deleted meanwhile is reported as orphans until somebody removes it.
//!
//! All controllers of a cluster share one book (a ConfigMap), or each has its own (a file). A change reads it first, and begins
//! anew where somebody else has changed it meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tonic::async_trait;

use super::kubernetes::{Answer, Fault, Kubernetes};
use crate::error::{Error, Result};
use crate::model::{ObjectId, PoolId, Time};

/// So many deleted ids are remembered in all: what holds them takes a MiB.
const MANY: usize = 20_000;
/// So often a change is begun anew.
const TRIES: usize = 5;

/// What was declared, by pool.
pub type Book = BTreeMap<PoolId, Declared>;

/// A pool that was declared lost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Declared {
    /// When, in milliseconds since 1970, for people.
    pub at: u64,
    /// By whom or why, for people.
    pub why: String,
    /// It was announced again since; it is lost no more.
    #[serde(default)]
    pub returned: bool,
    /// What was deleted while it was lost.
    #[serde(default)]
    pub deleted: BTreeSet<String>,
}

/// Where a book is kept.
#[async_trait]
pub trait Keeper: Send + Sync {
    /// What it says now, and as which version.
    async fn load(&self) -> Result<(Book, Option<String>)>;
    /// Writes it durably in the place of a version; whether that was still the one there.
    async fn store(&self, book: &Book, version: Option<&str>) -> Result<bool>;
}

/// The lost pools.
#[derive(Default)]
pub struct Lost {
    keeper: Option<Box<dyn Keeper>>,
    book: Mutex<Arc<Book>>,
    /// One change at a time.
    turn: tokio::sync::Mutex<()>,
    /// Ids that wait to be written: who has its turn writes them all.
    waiting: Mutex<BTreeSet<ObjectId>>,
}

impl Lost {
    /// Kept there.
    pub fn new(keeper: Box<dyn Keeper>) -> Lost {
        Lost { keeper: Some(keeper), ..Lost::default() }
    }

    /// Whether a pool was declared lost, and has not come back since.
    pub fn is_declared(&self, pool: PoolId) -> bool {
        self.book().get(&pool).is_some_and(|declared| !declared.returned)
    }

    /// What it says, as this controller read it last.
    pub fn book(&self) -> Arc<Book> {
        Arc::clone(&lock(&self.book))
    }

    /// Reads it again.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub async fn refresh(&self) -> Result<()> {
        if let Some(keeper) = &self.keeper {
            let _turn = self.turn.lock().await;
            let (book, _) = keeper.load().await?;
            *lock(&self.book) = Arc::new(book);
        }
        Ok(())
    }

    /// Declares a pool lost; whether it was not before.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub async fn declare(&self, pool: PoolId, why: &str) -> Result<bool> {
        self.change(|book| {
            let is_known = book.get(&pool).is_some_and(|declared| !declared.returned);
            if !is_known {
                // What was deleted before it came back is an orphan still.
                let deleted = book.remove(&pool).map(|before| before.deleted).unwrap_or_default();
                let at = Time::now().millis();
                book.insert(pool, Declared { at, why: why.to_owned(), returned: false, deleted });
            }
            Ok(!is_known)
        })
        .await
    }

    /// Forgets that a pool was declared lost, and what was deleted in it; whether it was.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub async fn withdraw(&self, pool: PoolId) -> Result<bool> {
        self.change(|book| Ok(book.remove(&pool).is_some())).await
    }

    /// Notes that pools have come back.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub async fn returned(&self, pools: &[PoolId]) -> Result<()> {
        let note = |book: &mut Book| {
            for pool in pools {
                book.get_mut(pool).into_iter().for_each(|declared| declared.returned = true);
            }
            // Where nothing was deleted there is nothing to tell.
            book.retain(|_, declared| !declared.returned || !declared.deleted.is_empty());
            Ok(())
        };
        self.change(note).await
    }

    /// Notes that something in a lost pool was deleted. Only then may the answer say so.
    ///
    /// # Errors
    /// Where it cannot be written, or the pool is not lost any more; `Precondition` where too much was deleted.
    pub async fn deleted(&self, id: ObjectId) -> Result<()> {
        lock(&self.waiting).insert(id);
        self.change(|book| {
            let is_written =
                |book: &Book| book.get(&id.pool()).is_some_and(|declared| declared.deleted.contains(&id.to_string()));
            if is_written(book) {
                return Ok(());
            }
            let waiting = std::mem::take(&mut *lock(&self.waiting));
            let mut count: usize = book.values().map(|declared| declared.deleted.len()).sum();
            for one in waiting.into_iter().chain([id]) {
                let Some(declared) = book.get_mut(&one.pool()).filter(|declared| !declared.returned) else { continue };
                if count < MANY {
                    count += usize::from(declared.deleted.insert(one.to_string()));
                }
            }
            if is_written(book) {
                return Ok(());
            }
            Err(if book.get(&id.pool()).is_some_and(|declared| !declared.returned) {
                Error::Precondition(format!(
                    "{MANY} volumes and snapshots of lost pools were deleted, and no more can be remembered; where a pool will \
                     never come back: rockpool ctl pool recall POOL, then forget it again"
                ))
            } else {
                Error::Unavailable(format!("pool {} is not lost any more; nothing was done, ask again", id.pool()))
            })
        })
        .await
    }

    /// Changes the book as it is now, and writes it where that changed anything.
    async fn change<T>(&self, mut change: impl FnMut(&mut Book) -> Result<T>) -> Result<T> {
        let Some(keeper) = &self.keeper else {
            return Err(Error::Precondition(
                "this controller has nowhere to keep which pools are lost: want --state-configmap in Kubernetes, --lost-pools \
                 elsewhere"
                    .to_owned(),
            ));
        };
        let _turn = self.turn.lock().await;
        for _ in 0..TRIES {
            let (before, version) = keeper.load().await?;
            let mut book = before.clone();
            let done = change(&mut book)?;
            if book == before || keeper.store(&book, version.as_deref()).await? {
                *lock(&self.book) = Arc::new(book);
                return Ok(done);
            }
        }
        Err(Error::Unavailable(
            "others change which pools are lost all the time; nothing was done, ask again".to_owned(),
        ))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A book as text; a pool that a later release writes in another way makes it unreadable, since a part of it would be forgotten.
///
/// # Errors
/// `Corrupt` where it is none.
pub fn read(text: &[u8]) -> Result<Book> {
    let pools: BTreeMap<String, Declared> = serde_json::from_slice(text)
        .map_err(|error| Error::Corrupt(format!("what is said of lost pools cannot be read: {error}")))?;
    pools.into_iter().map(|(pool, declared)| Ok((pool.parse()?, declared))).collect()
}

/// The text of a book.
pub fn write(book: &Book) -> String {
    let pools: BTreeMap<String, &Declared> = book.iter().map(|(pool, it)| (pool.to_string(), it)).collect();
    // Strings and numbers always become text.
    serde_json::to_string_pretty(&pools).unwrap_or_default()
}

/// The key of the ConfigMap under which the book stands.
const KEY: &str = "lost-pools";

/// A book in a ConfigMap.
pub struct ConfigMap {
    api: Kubernetes,
    namespace: String,
    name: String,
}

impl ConfigMap {
    /// The one of this name.
    pub fn new(api: Kubernetes, namespace: &str, name: &str) -> ConfigMap {
        ConfigMap { api, namespace: namespace.to_owned(), name: name.to_owned() }
    }

    fn all(&self) -> String {
        format!("/api/v1/namespaces/{}/configmaps", self.namespace)
    }
}

#[async_trait]
impl Keeper for ConfigMap {
    async fn load(&self) -> Result<(Book, Option<String>)> {
        let path = format!("{}/{}", self.all(), self.name);
        let there: Value = match self.api.get(&path).await {
            Err(Fault::Refused(404, _)) => return Ok((Book::new(), None)),
            answer => answer.map_err(|fault| fault.open())?,
        };
        let book =
            there["data"][KEY].as_str().map_or_else(|| Ok(Book::new()), |text| read(text.as_bytes()))?;
        // The whole object: what else is in it stays, and its resourceVersion says whether it is still that one.
        Ok((book, Some(there.to_string())))
    }

    async fn store(&self, book: &Book, version: Option<&str>) -> Result<bool> {
        let stored: Answer<Value> = match version {
            None => {
                let object = json!({
                    "apiVersion": "v1",
                    "kind": "ConfigMap",
                    "metadata": { "name": self.name, "namespace": self.namespace },
                    "data": { KEY: write(book) },
                });
                self.api.post(&self.all(), &object).await
            }
            Some(before) => {
                let mut object: Value = serde_json::from_str(before).unwrap_or_default();
                object["data"][KEY] = json!(write(book));
                self.api.put(&format!("{}/{}", self.all(), self.name), &object).await
            }
        };
        match stored {
            Ok(_) => Ok(true),
            // Somebody else was there first, or has taken it away.
            Err(Fault::Refused(404 | 409, _)) => Ok(false),
            Err(fault) => Err(fault.open()),
        }
    }
}
