//! A sequence of calls as the fuzzer's bytes say it.
//!
//! Owns: its form. Never: knows what is there: a call names an object by its place among all that ever were.

use arbitrary::Arbitrary;

use crate::faulty::Fault;

/// The most calls of one input.
pub(super) const MOST: usize = 40;

/// One call and what befalls the pool meanwhile.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub(super) struct Step {
    pub(super) call: Call,
    /// Which pool's verbs fail, how, and what follows.
    pub(super) mishap: Option<(Which, Fault, Then)>,
}

/// What is done after a call whose outcome is open.
#[derive(Arbitrary, Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    /// The same call again.
    Retry,
    /// The driver starts anew, and the same call again.
    Restart,
}

/// One of the two pools.
#[derive(Arbitrary, Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Which {
    Fast,
    Small,
}

impl Which {
    pub(super) fn name(self) -> &'static str {
        ["fast", "small"][self.index()]
    }

    pub(super) fn index(self) -> usize {
        match self {
            Which::Fast => 0,
            Which::Small => 1,
        }
    }
}

/// A call by numbers.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub(super) enum Call {
    Create(Create),
    Delete(u8),
    Expand { volume: u8, mib: u8, limit: Option<u8> },
    Cut { name: u8, of: u8, is_kept: bool },
    DeleteCut(u8),
    Group { name: u8, of: [u8; 2], is_kept: bool },
    DeleteGroup { group: u8, with_others: bool },
    Restore { object: u8, other_name: bool },
    Purge(u8),
    Write { volume: u8, block: u8, byte: u8 },
    List(u8),
    Capacity,
    Restart,
    Pull(Which),
    Plug(Which),
}

/// CreateVolume.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub(super) struct Create {
    pub(super) name: u8,
    pub(super) mib: u8,
    pub(super) limit: Option<u8>,
    pub(super) is_block: bool,
    pub(super) pool: Option<Which>,
    pub(super) is_reserved: bool,
    pub(super) is_kept: bool,
    pub(super) from: Option<From>,
}

/// What a volume is made from.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub(super) enum From {
    Volume(u8),
    Snapshot(u8),
}
