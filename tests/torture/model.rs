//! The model: what must be there, as far as the answers tell.
//!
//! Owns: what each answer means for a volume, a snapshot, a group and what they hold. An object is there, not there, or in
//! doubt; after OK there is no doubt, after a code that says "unknown" there is, until the same call was answered. A slot
//! holds the last bytes written: the death of the driver loses nothing. A power cut may lose what was not synced.

use std::collections::VecDeque;

use rockpool::proto::csi;
use rockpool::proto::csi::volume_content_source::Type;

use crate::content::Content;
use crate::requests::{Shape, Spot};

/// How many slots a volume has.
pub(crate) const SLOTS: usize = 3;
const REMEMBERED: usize = 40;

/// Whether something is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Is {
    /// Surely not.
    No,
    /// It may be.
    Maybe,
    /// Surely.
    Yes,
}

/// What was asked for when the answer left it open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Intent {
    /// Nothing is open.
    None,
    /// To make it.
    Make,
    /// To remove it.
    Remove,
}

/// What a slot may hold: everything since the last sync, oldest first.
#[derive(Clone, Debug)]
pub(crate) struct Slot {
    allowed: Vec<Content>,
    /// Whether only the last one may be there.
    exact: bool,
    /// A write failed, and nobody has written since: what is seen may be in the kernel's memory alone, marked as if it were on the
    /// disk, and no sync brings it there.
    failed: bool,
}

impl Slot {
    fn blank() -> Slot {
        Slot { allowed: vec![Content::Absent], exact: true, failed: false }
    }

    /// Written, not synced.
    pub(crate) fn written(&mut self, seed: u64) {
        self.allowed.push(Content::Seed(seed));
        (self.exact, self.failed) = (true, false);
    }

    /// What was written last is on the disk.
    pub(crate) fn synced(&mut self) {
        if self.failed {
            return;
        }
        let last = self.allowed.pop().unwrap_or(Content::Any);
        self.allowed = vec![last];
    }

    /// A write may have been done in part.
    pub(crate) fn torn(&mut self) {
        self.allowed.push(Content::Any);
        self.exact = false;
    }

    /// A write was answered with an error.
    pub(crate) fn write_failed(&mut self) {
        self.torn();
        self.failed = true;
    }

    fn power_cut(&mut self) {
        if self.allowed.len() > 1 {
            self.torn();
        }
    }

    /// Whether this may be there, seen where nobody knows whether it is on the disk: nothing follows from it.
    pub(crate) fn may_show(&self, found: Content) -> bool {
        self.clone().accepts(found)
    }

    /// As a copy made now has it.
    fn copied(&self) -> Slot {
        match self.allowed.last() {
            Some(last) if self.exact => Slot { allowed: vec![*last], ..self.clone() },
            Some(_) | None => self.clone(),
        }
    }

    /// Whether this may be there; if so, it is from now on.
    pub(crate) fn accepts(&mut self, found: Content) -> bool {
        if self.exact {
            return self.allowed.last() == Some(&found);
        }
        let fits = self.allowed.iter().any(|allowed| *allowed == found || *allowed == Content::Any);
        if fits && !self.failed {
            // What is seen now may still be in memory alone: a power cut may bring each of the others back.
            self.allowed.push(found);
            self.exact = true;
        }
        fits
    }

    /// Every state in which a copy may show it that was cut at one of several moments.
    fn or(&mut self, other: &Slot) {
        if self.exact && other.exact && self.allowed.last() == other.allowed.last() {
            return;
        }
        self.allowed.extend(other.allowed.iter().copied());
        (self.exact, self.failed) = (false, self.failed || other.failed);
    }
}

/// What a volume or a snapshot holds.
#[derive(Clone, Debug)]
pub(crate) struct Slots(pub(crate) [Slot; SLOTS]);

impl Slots {
    pub(crate) fn blank() -> Slots {
        Slots([Slot::blank(), Slot::blank(), Slot::blank()])
    }

    pub(crate) fn copied(&self) -> Slots {
        Slots([self.0[0].copied(), self.0[1].copied(), self.0[2].copied()])
    }

    pub(crate) fn or(&mut self, other: &Slots) {
        for (mine, other) in self.0.iter_mut().zip(&other.0) {
            mine.or(other);
        }
    }
}

/// A volume's name, and what has become of it.
pub(crate) struct Volume {
    pub(crate) name: String,
    pub(crate) shape: Shape,
    pub(crate) spot: Spot,
    pub(crate) exists: Is,
    pub(crate) intent: Intent,
    pub(crate) id: Option<String>,
    /// The ids it had in earlier lives.
    pub(crate) past: Vec<String>,
    /// The request that made it, for an identical retry.
    pub(crate) request: Option<csi::CreateVolumeRequest>,
    /// At least and at most so large, in bytes.
    pub(crate) size: (i64, i64),
    pub(crate) staged: Is,
    pub(crate) published: Is,
    pub(crate) slots: Slots,
    history: VecDeque<String>,
}

impl Volume {
    pub(crate) fn new(name: String, shape: Shape, spot: Spot) -> Volume {
        Volume {
            name,
            shape,
            spot,
            exists: Is::No,
            intent: Intent::None,
            id: None,
            past: Vec::new(),
            request: None,
            size: (0, 0),
            staged: Is::No,
            published: Is::No,
            slots: Slots::blank(),
            history: VecDeque::new(),
        }
    }

    /// For the story that a violation tells.
    pub(crate) fn note(&mut self, what: String) {
        if self.history.len() == REMEMBERED {
            self.history.pop_front();
        }
        self.history.push_back(what);
    }

    /// Its story.
    pub(crate) fn story(&self) -> String {
        let events: Vec<&str> = self.history.iter().map(String::as_str).collect();
        let now = format!("{:?} {:?}/{:?}/{:?}", self.id, self.exists, self.staged, self.published);
        format!("{} ({}) {now} [{}]", self.name, self.shape.name(), events.join("; "))
    }

    /// It is not there.
    pub(crate) fn gone(&mut self) {
        self.past.extend(self.id.take());
        let excess = self.past.len().saturating_sub(16);
        self.past.drain(..excess);
        (self.exists, self.intent, self.request) = (Is::No, Intent::None, None);
        self.slots = Slots::blank();
    }

    /// It is there, with this id.
    pub(crate) fn present(&mut self, id: String, size: i64) {
        (self.exists, self.intent) = (Is::Yes, Intent::None);
        self.id = Some(id);
        self.size = (size, size);
    }

    /// Whether it is made from another volume.
    pub(crate) fn is_twin(&self) -> bool {
        let source = self.request.as_ref().and_then(|request| request.volume_content_source.as_ref());
        matches!(source.and_then(|source| source.r#type.as_ref()), Some(Type::Volume(_)))
    }

    /// Whether an answer is still open.
    pub(crate) fn in_doubt(&self) -> bool {
        [self.exists, self.staged, self.published].contains(&Is::Maybe)
    }

    /// Its id where it has one.
    pub(crate) fn id(&self) -> String {
        self.id.clone().unwrap_or_default()
    }

    /// The power was cut and is back: nothing is mounted.
    pub(crate) fn power_cut(&mut self) {
        self.note("power cut".to_owned());
        self.rebooted();
        self.unsynced_lost();
    }

    /// Of what was not synced anything may be there.
    pub(crate) fn unsynced_lost(&mut self) {
        for slot in &mut self.slots.0 {
            slot.power_cut();
        }
    }

    /// The node came up again.
    pub(crate) fn rebooted(&mut self) {
        (self.staged, self.published) = (Is::No, Is::No);
        // What is seen from now on is on the disk.
        self.slots.0.iter_mut().for_each(|slot| slot.failed = false);
    }
}

/// A snapshot's name, and what has become of it.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(crate) name: String,
    pub(crate) exists: Is,
    pub(crate) intent: Intent,
    pub(crate) id: Option<String>,
    /// Which volume it was cut from: its number, its id, its shape and size.
    pub(crate) of: Option<Cut>,
    pub(crate) slots: Slots,
}

/// What was cut.
#[derive(Clone, Debug)]
pub(crate) struct Cut {
    pub(crate) number: usize,
    pub(crate) id: String,
    pub(crate) shape: Shape,
    pub(crate) size: i64,
}

impl Snapshot {
    pub(crate) fn new(name: String) -> Snapshot {
        Snapshot { name, exists: Is::No, intent: Intent::None, id: None, of: None, slots: Slots::blank() }
    }

    pub(crate) fn gone(&mut self) {
        (self.exists, self.intent, self.id, self.of) = (Is::No, Intent::None, None, None);
    }
}

/// A group's name, its members by id, and what has become of it.
#[derive(Debug, Default)]
pub(crate) struct Group {
    pub(crate) name: String,
    pub(crate) exists: Option<Is>,
    pub(crate) id: Option<String>,
    pub(crate) members: Vec<String>,
}
