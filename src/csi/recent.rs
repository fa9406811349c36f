//! The last lines of the log, kept in memory for a support bundle.
//!
//! Owns: how many there are. Never: gets anything but the lines that go into the log anyway, which hold no secret, or grows
//! beyond its bounds. It belongs to the process, as the log does.

use std::collections::VecDeque;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// No more lines are kept.
const LINES: usize = 1000;
/// Nor more bytes of them.
const BYTES: usize = 256 << 10;
/// Of a longer line only its length is kept.
const LONGEST: usize = 4 << 10;

/// What this process has logged last.
pub static RECENT: Recent = Recent::new();

/// A bounded number of lines.
#[derive(Debug)]
pub struct Recent {
    kept: Mutex<Kept>,
}

#[derive(Debug)]
struct Kept {
    lines: VecDeque<Box<str>>,
    bytes: usize,
}

impl Recent {
    const fn new() -> Recent {
        Recent { kept: Mutex::new(Kept { lines: VecDeque::new(), bytes: 0 }) }
    }

    /// The lines, the oldest first.
    pub(super) fn lines(&self) -> Vec<String> {
        self.lock().lines.iter().map(|line| line.to_string()).collect()
    }

    fn push(&self, line: &str) {
        let line: Box<str> = if line.len() <= LONGEST {
            line.into()
        } else {
            format!("{{\"message\":\"a line of {} bytes was left out\"}}", line.len()).into()
        };
        let mut kept = self.lock();
        while kept.lines.len() >= LINES || kept.bytes + line.len() > BYTES {
            let Some(oldest) = kept.lines.pop_front() else { break };
            kept.bytes -= oldest.len();
        }
        kept.bytes += line.len();
        kept.lines.push_back(line);
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The log writes a line at a time.
impl io::Write for &Recent {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        String::from_utf8_lossy(bytes).lines().for_each(|line| self.push(line));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn the_last_lines_are_kept_within_bounds() {
        let recent = Recent::new();
        for number in 0..LINES + 5 {
            (&recent).write_all(format!("{number}\n").as_bytes()).unwrap();
        }
        let lines = recent.lines();
        assert_eq!((lines.len(), lines[0].as_str(), lines[LINES - 1].as_str()), (LINES, "5", "1004"));
        (&recent).write_all(format!("{}\n", "x".repeat(LONGEST + 1)).as_bytes()).unwrap();
        assert!(recent.lines().pop().unwrap().contains("4097 bytes was left out"));
        for _ in 0..LINES {
            (&recent).write_all(&[b'x'; LONGEST]).unwrap();
        }
        let bytes: usize = recent.lines().iter().map(String::len).sum();
        assert_eq!((bytes, recent.lock().bytes), (BYTES, BYTES));
    }
}
