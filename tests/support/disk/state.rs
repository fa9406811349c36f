//! How a disk takes what is asked of it: it serves, fails, or puts aside.
//!
//! Owns: the moods, what is put aside, and which handles are of a disk that lost its power. Never: waits.

use std::io;

use fuser::{Errno, ReplyData, ReplyEmpty, ReplyWrite};

use super::medium::{Loss, Medium, Toll};
use crate::chance::Chance;

/// With so many writes that are not flushed a disk stalls that is to stall, by weight.
const STALLS: [(usize, usize); 5] = [(3, 1), (3, 2), (2, 3), (1, 5), (1, 8)];

/// What is asked of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Read,
    /// Writes, zeros and discards.
    Write,
    /// What makes it durable.
    Flush,
}

impl Call {
    pub(crate) const ALL: [Call; 3] = [Call::Read, Call::Write, Call::Flush];
}

/// How a disk takes the calls of a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mood {
    /// As a disk should.
    Serves,
    /// So many of a hundred get EIO.
    Fails(usize),
    /// None is answered until the mood changes.
    Hangs,
}

/// A call with its way back.
pub(super) enum Asked {
    Read { at: u64, length: usize, reply: ReplyData },
    Write { at: u64, bytes: Vec<u8>, reply: ReplyWrite },
    Zero { at: u64, length: u64, reply: ReplyEmpty },
    Flush { reply: ReplyEmpty },
}

impl Asked {
    fn call(&self) -> Call {
        match self {
            Asked::Read { .. } => Call::Read,
            Asked::Write { .. } | Asked::Zero { .. } => Call::Write,
            Asked::Flush { .. } => Call::Flush,
        }
    }

    fn fail(self, error: Errno) {
        match self {
            Asked::Read { reply, .. } => reply.error(error),
            Asked::Write { reply, .. } => reply.error(error),
            Asked::Zero { reply, .. } | Asked::Flush { reply } => reply.error(error),
        }
    }
}

/// The disk itself.
pub(super) struct State {
    pub(super) medium: Medium,
    chance: Chance,
    /// What its file is called, once somebody made it.
    pub(super) name: Option<&'static str>,
    /// Counts the power cuts: who opened the file before the last one has a dead disk.
    pub(super) generation: u64,
    moods: [Mood; 3],
    /// With so many writes that are not flushed, everything hangs.
    stall: Option<usize>,
    aside: Vec<(u64, Asked)>,
    toll: Toll,
}

impl State {
    pub(super) fn new(medium: Medium, seed: u64) -> State {
        State {
            medium,
            chance: Chance::new(seed, 99),
            name: None,
            generation: 0,
            moods: [Mood::Serves; 3],
            stall: None,
            aside: Vec::new(),
            toll: Toll::default(),
        }
    }

    pub(super) fn set(&mut self, call: Call, mood: Mood) {
        self.stall = None;
        self.moods[call as usize] = mood;
        for (generation, asked) in std::mem::take(&mut self.aside) {
            self.take(generation, asked);
        }
    }

    pub(super) fn hanging(&self, call: Call) -> usize {
        self.aside.iter().filter(|(_, asked)| asked.call() == call).count()
    }

    pub(super) fn stall(&mut self) {
        self.stall = Some(self.chance.pick(&STALLS));
        self.stalls();
    }

    pub(super) fn is_stalled(&self) -> bool {
        self.moods == [Mood::Hangs; 3]
    }

    fn stalls(&mut self) {
        if self.stall.is_some_and(|most| self.medium.at_risk() >= most) {
            self.moods = [Mood::Hangs; 3];
        }
    }

    pub(super) fn cut(&mut self, loss: Loss) -> io::Result<Toll> {
        self.generation += 1;
        (self.moods, self.stall) = ([Mood::Serves; 3], None);
        for (generation, asked) in std::mem::take(&mut self.aside) {
            self.take(generation, asked);
        }
        let toll = self.medium.lose(loss, &mut self.chance)?;
        self.toll.cuts += toll.cuts;
        self.toll.lost += toll.lost;
        self.toll.kept += toll.kept;
        self.toll.torn += toll.torn;
        Ok(toll)
    }

    pub(super) fn toll(&self) -> Toll {
        self.toll
    }

    pub(super) fn take(&mut self, generation: u64, asked: Asked) {
        if generation != self.generation {
            return asked.fail(Errno::EIO);
        }
        match self.moods[asked.call() as usize] {
            Mood::Serves => self.serve(asked),
            Mood::Fails(share) if self.chance.percent(share) => asked.fail(Errno::EIO),
            Mood::Fails(_) => self.serve(asked),
            Mood::Hangs => self.aside.push((generation, asked)),
        }
    }

    fn serve(&mut self, asked: Asked) {
        let changes = asked.call() == Call::Write;
        match asked {
            Asked::Read { at, length, reply } => match self.medium.read(at, length) {
                Ok(bytes) => reply.data(&bytes),
                Err(error) => reply.error(error.into()),
            },
            Asked::Write { at, bytes, reply } => match self.medium.write(at, &bytes) {
                Ok(()) => reply.written(u32::try_from(bytes.len()).unwrap_or(0)),
                Err(error) => reply.error(error.into()),
            },
            Asked::Zero { at, length, reply } => done(self.medium.zero(at, length), reply),
            Asked::Flush { reply } => {
                self.medium.flush();
                reply.ok();
            }
        }
        if changes {
            self.stalls();
        }
    }
}

pub(super) fn done(outcome: io::Result<()>, reply: ReplyEmpty) {
    match outcome {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(error.into()),
    }
}
