//! The sequential model of one volume and its snapshot: what each call does when it has them for itself, and whether some
//! order of two calls explains their answers and what is there in the end.
//!
//! Owns: the states and the orders. Never: makes a call. A call that was over before the other began comes first, also one that its
//! caller gave up: what takes effect after the opposite was answered has no order.

use std::time::Instant;

use rockpool::os::fs;
use tonic::Code;

use crate::lifecycle::size;
use crate::node::Ground;
use crate::requests::Shape;
use crate::wire::Answer;

pub(crate) const MIB: i64 = 1 << 20;

/// A volume, as far as races matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) exists: bool,
    /// Whether it has the id that the callers know; a volume that was made during the race has another.
    pub(crate) known: bool,
    pub(crate) staged: bool,
    pub(crate) published: bool,
    pub(crate) size: i64,
    /// How many bytes of it can be used where it is staged: those of its device, or of the filesystem in it.
    pub(crate) shown: i64,
    pub(crate) cut: bool,
    pub(crate) known_cut: bool,
    /// What its copy was made from, where there is one.
    pub(crate) copy: Option<From>,
    /// Whether a delete keeps it for a while.
    pub(crate) keeps: bool,
    /// The size of the one that the callers know, where it was deleted and is kept.
    pub(crate) kept: Option<i64>,
}

/// What a copy was made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum From {
    Volume,
    Snapshot,
}

/// A mutating call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Create,
    CreateOther,
    Delete,
    Stage,
    Unstage,
    Publish,
    Unpublish,
    Expand,
    /// Of what is published.
    NodeExpand,
    Snapshot,
    Forget,
    /// A copy of the volume, or of its snapshot, under one name.
    Copy(From),
    /// What was deleted and is kept becomes again what it was.
    Restore,
    /// It goes for good.
    Purge,
}

pub(crate) const CALLS: [Call; 15] = [
    Call::Create,
    Call::CreateOther,
    Call::Delete,
    Call::Stage,
    Call::Unstage,
    Call::Publish,
    Call::Unpublish,
    Call::Expand,
    Call::NodeExpand,
    Call::Snapshot,
    Call::Forget,
    Call::Copy(From::Volume),
    Call::Copy(From::Snapshot),
    Call::Restore,
    Call::Purge,
];

impl Call {
    /// Whether only pools that copy have it.
    pub(crate) fn copies(self) -> bool {
        matches!(self, Call::Snapshot | Call::Forget | Call::Copy(_))
    }

    /// Whether it is about what was deleted and is kept.
    pub(crate) fn undoes(self) -> bool {
        matches!(self, Call::Restore | Call::Purge)
    }
}

/// The states in which a race begins.
pub(crate) fn starts(shape: Shape, ground: Ground) -> Vec<State> {
    let absent = State {
        exists: false,
        known: false,
        staged: false,
        published: false,
        size: 0,
        shown: 0,
        cut: false,
        known_cut: false,
        copy: None,
        keeps: false,
        kept: None,
    };
    let there = State { exists: true, known: true, size: size(shape), ..absent };
    let staged = State { staged: true, ..there }.all_shown(shape);
    let published = State { published: true, ..staged };
    let grown = alone(published, Call::Expand, shape).1;
    let keeps = State { keeps: true, ..there };
    let kept = State { keeps: true, kept: Some(there.size), ..absent };
    let mut all = vec![absent, there, staged, published, grown, keeps, kept];
    if ground.copies() {
        all.push(State { copy: Some(From::Volume), ..there });
        all.push(State { cut: true, known_cut: true, ..there });
    }
    all
}

impl State {
    /// With a device or a filesystem that is as large as the volume. A directory has neither.
    fn all_shown(self, shape: Shape) -> State {
        let shown = if self.staged && shape != Shape::Directory { self.size } else { 0 };
        State { shown, ..self }
    }
}

/// What a call answers and does when it has the volume for itself. `None`: OK, else the code of the refusal.
fn alone(state: State, call: Call, shape: Shape) -> (Option<Code>, State) {
    let base = size(shape);
    let other = base + 64 * MIB;
    match call {
        Call::Create if !state.exists => (None, State { exists: true, known: false, size: base, ..state }),
        Call::Create => (None, state),
        Call::CreateOther if !state.exists => {
            (None, State { exists: true, known: false, size: other, ..state })
        }
        Call::CreateOther if state.size >= other => (None, state),
        Call::CreateOther => (Some(Code::AlreadyExists), state),
        Call::Delete if !state.known => (None, state),
        Call::Delete if state.staged || state.published => (Some(Code::FailedPrecondition), state),
        Call::Delete => {
            let kept = state.keeps.then_some(state.size);
            (None, State { exists: false, known: false, size: 0, kept, ..state })
        }
        Call::Stage | Call::Publish | Call::Expand | Call::NodeExpand if !state.known => {
            (Some(Code::NotFound), state)
        }
        Call::Stage if state.staged => (None, state),
        // A filesystem at rest grows to its device first.
        Call::Stage => (None, State { staged: true, ..state }.all_shown(shape)),
        Call::Publish if !state.staged => (Some(Code::FailedPrecondition), state),
        Call::Publish => (None, State { published: true, ..state }),
        Call::Unpublish => (None, State { published: false, ..state }),
        Call::Unstage if state.published => (Some(Code::FailedPrecondition), state),
        Call::Unstage => (None, State { staged: false, shown: 0, ..state }),
        Call::Expand => {
            let grown = State { size: state.size.max(base + 4 * MIB), ..state };
            // A device grows at once, a filesystem in use when the node is asked.
            (None, if shape == Shape::Block { grown.all_shown(shape) } else { grown })
        }
        Call::NodeExpand if !state.published => (Some(Code::NotFound), state),
        // It grows when it is staged next.
        Call::NodeExpand if shape == Shape::Ext4 && state.shown < state.size && !fs::grows_ext4_in_use() => {
            (Some(Code::FailedPrecondition), state)
        }
        Call::NodeExpand => (None, state.all_shown(shape)),
        Call::Snapshot if state.cut => (None, state),
        Call::Snapshot if !state.known => (Some(Code::NotFound), state),
        Call::Snapshot => (None, State { cut: true, known_cut: false, ..state }),
        Call::Forget if !state.known_cut => (None, state),
        Call::Forget => (None, State { cut: false, known_cut: false, ..state }),
        Call::Copy(from) if state.copy.is_some() => {
            ((state.copy != Some(from)).then_some(Code::AlreadyExists), state)
        }
        Call::Copy(From::Volume) if !state.known => (Some(Code::NotFound), state),
        Call::Copy(From::Snapshot) if !state.known_cut => (Some(Code::NotFound), state),
        // A copy is as large as what it is made from, or larger.
        Call::Copy(From::Volume) if state.size > base => (Some(Code::OutOfRange), state),
        Call::Copy(from) => (None, State { copy: Some(from), ..state }),
        Call::Restore => match state.kept {
            None => (Some(Code::NotFound), state),
            Some(_) if state.exists => (Some(Code::AlreadyExists), state),
            Some(size) => (None, State { exists: true, known: true, size, kept: None, ..state }),
        },
        Call::Purge if state.known => (Some(Code::FailedPrecondition), state),
        Call::Purge => (None, State { kept: None, ..state }),
    }
}

/// What one answer allows: that the call did its work with this answer, that it did nothing, or either.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    Done,
    Refused(Code),
    Nothing,
    Unknown,
}

impl Said {
    pub(crate) fn of<T>(answer: &Answer<T>) -> Said {
        match answer {
            Answer::Done(_) => Said::Done,
            Answer::Refused(code, _) => Said::Refused(*code),
            Answer::Open(Code::Aborted, _) => Said::Nothing,
            Answer::Open(..) => Said::Unknown,
        }
    }
}

/// A call, what it said, and when its caller began and ended to wait for that.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    pub(crate) call: Call,
    pub(crate) said: Said,
    pub(crate) began: Instant,
    pub(crate) ended: Instant,
}

/// Whether some order explains both answers and what is there in the end.
pub(crate) fn explained(begin: State, calls: &[Told; 2], end: State, shape: Shape) -> bool {
    let [one, two] = calls;
    // Two who ask for the same at the same time may be one call to the driver, with one answer.
    let joined = one.call == two.call && one.said == two.said && began_before_the_end_of_each_other(one, two);
    if joined && steps(begin, one.call, &one.said, shape).contains(&end) {
        return true;
    }
    [[one, two], [two, one]].iter().filter(|[first, second]| first.began < second.ended).any(|order| {
        let mut states = vec![begin];
        for told in order {
            states = states.iter().flat_map(|state| steps(*state, told.call, &told.said, shape)).collect();
        }
        states.contains(&end)
    })
}

fn began_before_the_end_of_each_other(one: &Told, two: &Told) -> bool {
    one.began < two.ended && two.began < one.ended
}

fn steps(state: State, call: Call, said: &Said, shape: Shape) -> Vec<State> {
    let (refused, next) = alone(state, call, shape);
    match (said, refused) {
        (Said::Done, None) => vec![next],
        (Said::Refused(code), Some(want)) if *code == want => vec![state],
        (Said::Done | Said::Refused(_), _) => Vec::new(),
        (Said::Nothing, _) => vec![state],
        (Said::Unknown, _) => vec![state, next],
    }
}
