//! The acts of a volume that is deleted and kept: kept, restored, purged. Each call is judged by what must be there.

use std::sync::PoisonError;

use crate::lifecycle::size;
use crate::model::{Is, Slots, Volume};
use crate::requests;
use crate::wire::{Answer, PATIENT};
use crate::world::{World, outcome};

const KEPT: (&str, &str) = ("retainDeleted", "1h");

impl World {
    /// A volume that is kept for a while when it is deleted.
    pub(crate) async fn attempt_make_kept(&self, volume: &mut Volume) {
        if volume.request.is_none() {
            let mut request = requests::create(&volume.name, (volume.shape, size(volume.shape)), None);
            request.parameters.insert(KEPT.0.to_owned(), KEPT.1.to_owned());
            (volume.request, volume.slots) = (Some(request), Slots::blank());
        }
        self.make(volume, None, PATIENT).await;
    }

    /// A delete that keeps: the volume is gone, and what it held is not.
    pub(crate) async fn attempt_keep(&self, volume: &mut Volume) {
        let Some(id) = volume.id.clone() else { return };
        let (request, slots, size) = (volume.request.clone(), volume.slots.clone(), volume.size);
        self.keep(&id, Some(Is::Maybe));
        self.remove(volume, PATIENT).await;
        if volume.exists == Is::No {
            self.keep(&id, Some(Is::Yes));
            // For who restores it.
            (volume.request, volume.slots, volume.size) = (request, slots, size);
        }
    }

    /// What is kept becomes again what it was.
    pub(crate) async fn attempt_undelete(&self, volume: &mut Volume) {
        let Some(id) = volume.past.last().cloned() else { return };
        let answer = self.node.wire.restore(&id, PATIENT).await;
        volume.note(format!("restore {}", outcome(&answer)));
        let before = self.kept.lock().unwrap_or_else(PoisonError::into_inner).get(&id).copied();
        match answer {
            Answer::Done(_) => self.undeleted(volume, id),
            Answer::Open(..) => {
                self.keep(&id, Some(Is::Maybe));
                volume.exists = Is::Maybe;
            }
            // It was restored by a call whose answer was lost: the same create tells.
            Answer::Refused(..) if before == Some(Is::Maybe) => {
                let Some(request) = volume.request.clone() else { return };
                let again = self.node.wire.create(request, PATIENT).await;
                volume.note(format!("create again {}", outcome(&again)));
                match again {
                    Answer::Done(made) if made.volume.as_ref().is_some_and(|made| made.volume_id == id) => {
                        self.undeleted(volume, id);
                    }
                    Answer::Open(..) => {}
                    other @ (Answer::Done(_) | Answer::Refused(..)) => {
                        self.violation(format!("neither kept nor restored: {other:?}: {}", volume.story()));
                    }
                }
            }
            Answer::Refused(code, message) => self.unjustified("Restore", volume, code, &message),
        }
    }

    fn undeleted(&self, volume: &mut Volume, id: String) {
        self.keep(&id, None);
        volume.past.retain(|past| *past != id);
        let (_, size) = volume.size;
        volume.present(id, size);
    }

    /// What is kept goes for good.
    pub(crate) async fn attempt_purge(&self, volume: &mut Volume) {
        let all: Vec<String> =
            self.kept.lock().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect();
        for id in all {
            match self.node.wire.purge(&id, PATIENT).await {
                Answer::Done(_) => {
                    self.keep(&id, None);
                    (volume.request, volume.slots) = (None, Slots::blank());
                }
                Answer::Open(..) => self.keep(&id, Some(Is::Maybe)),
                Answer::Refused(code, message) => self.refused("Purge", code, &message),
            }
        }
    }

    fn keep(&self, id: &str, is: Option<Is>) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        match is {
            Some(is) => drop(kept.insert(id.to_owned(), is)),
            None => drop(kept.remove(id)),
        }
    }
}
