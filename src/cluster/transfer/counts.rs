//! How many volumes went to other nodes and came from them, for monitoring.
//!
//! Owns: those counts. Never: decides anything by them.

use std::sync::atomic::{AtomicU64, Ordering};

/// The two ways.
const WAYS: [&str; 2] = ["sent", "received"];
/// What an attempt comes to: the volume is whole at its new node, or the attempt broke off and another one goes on.
const ENDS: [&str; 2] = ["whole", "broken"];

/// Since the start of the process.
#[derive(Debug, Default)]
pub struct Counts {
    ended: [[AtomicU64; ENDS.len()]; WAYS.len()],
    running: [AtomicU64; WAYS.len()],
    bytes: [AtomicU64; WAYS.len()],
}

/// Which way the content goes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Way {
    Sent,
    Received,
}

/// One attempt while it lasts. Dropped before it is `whole` it broke off.
pub(super) struct Running<'a> {
    counts: &'a Counts,
    way: Way,
    whole: bool,
}

impl Counts {
    /// Counts an attempt as running until what this answers is dropped.
    pub(super) fn run(&self, way: Way) -> Running<'_> {
        self.running[way as usize].fetch_add(1, Ordering::Relaxed);
        Running { counts: self, way, whole: false }
    }

    /// Counts content that went over a connection.
    pub(super) fn add(&self, way: Way, bytes: usize) {
        self.bytes[way as usize].fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Attempts that have ended, as `(way, end, count)`.
    pub fn ended(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
        let ways = WAYS.iter().zip(&self.ended);
        ways.flat_map(|(way, ends)| {
            ENDS.iter().zip(ends).map(|(end, count)| (*way, *end, count.load(Ordering::Relaxed)))
        })
    }

    /// Attempts that run now, by way.
    pub fn running(&self) -> impl Iterator<Item = (&'static str, u64)> {
        WAYS.iter().zip(&self.running).map(|(way, count)| (*way, count.load(Ordering::Relaxed)))
    }

    /// Content that went over connections, by way, in bytes.
    pub fn bytes(&self) -> impl Iterator<Item = (&'static str, u64)> {
        WAYS.iter().zip(&self.bytes).map(|(way, count)| (*way, count.load(Ordering::Relaxed)))
    }
}

impl Running<'_> {
    /// It is over, and the volume is whole at its new node, or not.
    pub(super) fn end(mut self, is_whole: bool) {
        self.whole = is_whole;
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let way = self.way as usize;
        self.counts.running[way].fetch_sub(1, Ordering::Relaxed);
        self.counts.ended[way][usize::from(!self.whole)].fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attempt_runs_until_it_is_dropped_and_then_it_has_ended_one_way_or_the_other() {
        let counts = Counts::default();
        let (sent, received) = (counts.run(Way::Sent), counts.run(Way::Received));
        counts.add(Way::Received, 7);
        assert_eq!(counts.running().collect::<Vec<_>>(), [("sent", 1), ("received", 1)]);
        assert!(counts.ended().all(|(_, _, count)| count == 0));
        drop(received);
        sent.end(true);
        assert_eq!(counts.running().collect::<Vec<_>>(), [("sent", 0), ("received", 0)]);
        assert_eq!(counts.bytes().collect::<Vec<_>>(), [("sent", 0), ("received", 7)]);
        let ended: Vec<_> = counts.ended().filter(|(_, _, count)| *count > 0).collect();
        assert_eq!(ended, [("sent", "whole", 1), ("received", "broken", 1)]);
    }
}
