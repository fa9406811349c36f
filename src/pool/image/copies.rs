//! Content that goes to another node, or comes from one.
//!
//! Owns: the file below `tmp` that a volume is received into, open from its beginning to its end, and how a snapshot is read.
//! Never: calls durable what was not made so through the same open file, or takes back what failed to become so.

use std::collections::HashMap;
use std::fs::File;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::super::home::partial;
use super::super::{Part, kept};
use super::{Images, RESERVED};
use crate::error::{Error, Result, chain};
use crate::model::record::FIRST;
use crate::model::{Allocation, Bytes, Phase, Piece, Record, Volume, VolumeId, WINDOW};
use crate::os::file::{self, Access};
use crate::os::label;

/// So many windows are looked at in one go: a long hole that is allocated must not keep a thread for long.
const AT_ONCE: u64 = 64;

/// What a file holds from an offset on.
pub(super) fn read(file: &File, from: u64) -> Result<Part> {
    let (size, window) = (file::stat(file)?.size, WINDOW as u64);
    let mut at = from;
    let mut bytes = Vec::new();
    for _ in 0..AT_ONCE {
        let Some(data) = file::next_data(file, at)?.filter(|data| *data < size) else {
            return Ok(Part { piece: None, next: size });
        };
        let begin = data / window * window;
        let len = window.min(size - begin);
        bytes.resize(usize::try_from(len).unwrap_or(WINDOW), 0);
        file::read_at(file, begin, &mut bytes)?;
        at = (begin + window).min(size);
        if let Some(piece) = Piece::of(begin, &bytes) {
            return Ok(Part { piece: Some(piece), next: at });
        }
        if at == size {
            break;
        }
    }
    Ok(Part { piece: None, next: at })
}

/// The files that are being received, open: an error of the disk is told to whoever had the file open when it happened, and
/// is forgotten with a file that nobody has open.
#[derive(Debug, Default)]
pub(super) struct Partials(Mutex<HashMap<VolumeId, Arc<File>>>);

impl Partials {
    fn open(&self, id: VolumeId, file: File) {
        self.lock().insert(id, Arc::new(file));
    }

    fn get(&self, id: &VolumeId) -> Result<Arc<File>> {
        self.lock().get(id).cloned().ok_or_else(|| {
            Error::Unavailable(format!("volume {id} is not being received; begin again where it was"))
        })
    }

    pub(super) fn close(&self, id: &VolumeId) {
        self.lock().remove(id);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<VolumeId, Arc<File>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Images {
    /// Makes the file that a volume is received into, or finds it. Of what was found only that counts which the record says: behind
    /// it may be pieces that never became durable, or of a source that has changed since.
    pub(super) fn begin(&self, want: &Volume) -> Result<()> {
        let (tmp, name) = (self.home.tmp(), partial(&want.id.to_string()));
        let done = if let Phase::Receiving { done, .. } = want.phase { done } else { Bytes::ZERO };
        self.partials.close(&want.id);
        let found = tmp.stat(&name)?;
        let file = match found {
            Some(found) if done > Bytes::ZERO && found.size == want.size.get() => {
                let file = tmp.open_file(&name, Access::ReadWrite)?.ok_or_else(|| lost(&want.id))?;
                file::clear_from(&file, done.get(), want.allocation == Allocation::Reserved)?;
                file
            }
            _ if done > Bytes::ZERO => return Err(lost(&want.id)),
            Some(_) => {
                tmp.remove(&name)?;
                self.room(want, &name)?
            }
            None => self.room(want, &name)?,
        };
        self.partials.open(want.id, file);
        Ok(())
    }

    /// A file as long as the volume, with nothing in it.
    fn room(&self, want: &Volume, name: &str) -> Result<File> {
        let tmp = self.home.tmp();
        let file = tmp.create(name)?;
        let made = match want.allocation {
            Allocation::Sparse => file::set_len(&file, want.size.get()),
            Allocation::Reserved => {
                file::allocate(&file, want.size.get()).and_then(|()| label::set(&file, RESERVED, b"1"))
            }
        };
        made.and_then(|()| file::sync(&file)).and_then(|()| tmp.sync()).inspect_err(|_| {
            // The record says that nothing of it counts, so whoever begins anew removes it as well.
            let _ = tmp.remove(name);
        })?;
        Ok(file)
    }

    /// The file that a volume is received into, since it was begun.
    pub(super) fn begun(&self, id: &VolumeId) -> Result<Arc<File>> {
        self.partials.get(id)
    }

    /// Makes durable what was filled. What failed once is never tried again on the same file: it goes, and is received anew.
    pub(super) fn harden(&self, id: &VolumeId) -> Result<()> {
        let file = self.begun(id)?;
        file::sync(&file).inspect_err(|_| {
            if let Err(error) = self.discard(id) {
                tracing::warn!(volume = %id, error = chain(&error), "what failed to become durable stays for now");
            }
        })
    }

    /// Removes what was received.
    pub(super) fn discard(&self, id: &VolumeId) -> Result<()> {
        self.partials.close(id);
        let (tmp, name) = (self.home.tmp(), partial(&id.to_string()));
        if tmp.stat(&name)?.is_some() { tmp.remove(&name).map(drop) } else { Ok(()) }
    }

    /// Gives it its place.
    pub(super) fn complete(&self, want: &Volume) -> Result<()> {
        let (name, volumes) = (want.id.to_string(), self.home.volumes());
        if volumes.stat(&name)?.is_some() {
            volumes.sync()?;
            return self.discard(&want.id);
        }
        // What it carries of itself is true once it has its place.
        let whole = Volume { phase: Phase::Ready, ..want.clone() };
        kept::keep(&*self.begun(&want.id)?, &Record::Volume(Arc::new(whole)), FIRST)?;
        self.harden(&want.id)?;
        step!("receive: object synced");
        self.home.tmp().rename_into(partial(&name), volumes, &name)?;
        self.partials.close(&want.id);
        Ok(())
    }
}

fn lost(id: &VolumeId) -> Error {
    Error::Corrupt(format!("what was received of {id} is gone"))
}
