//! How long what is deleted stays, and the clock that tells.
//!
//! Owns: the text of such a time, and moments of a pool's own clock. Never: looks at a clock.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::model::Parameters;

/// The word for it, in the pool file and as a parameter of a class.
pub const RETAIN_DELETED: &str = "retainDeleted";

/// How long a deleted volume or snapshot is kept, in whole seconds; zero: not at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Retention(u64);

/// A moment of a pool's own clock, in seconds: how long drivers have had that pool open. It never jumps and never goes
/// back, and it stands still while no driver runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Age(u64);

impl Retention {
    /// What is deleted goes at once.
    pub const NONE: Retention = Retention(0);
    /// What a text should look like.
    pub const WANT: &str =
        "want a whole number with s, m, h or d, at most 3650d, like 30m, 12h or 7d; 0 keeps nothing";
    /// Nothing is kept for longer: ten years.
    const MOST: u64 = 3650 * 24 * 3600;

    /// In seconds.
    pub fn seconds(self) -> u64 {
        self.0
    }

    /// What the parameters of an object's class say; `None` leaves it to the pool.
    ///
    /// # Errors
    /// `Invalid`, naming the key, for a text that is no such time.
    pub fn of_class(parameters: &Parameters) -> Result<Option<Retention>> {
        let Some(text) = parameters.get(RETAIN_DELETED) else { return Ok(None) };
        let bad = |_| Error::invalid(&format!("parameters[{RETAIN_DELETED}]"), text, Retention::WANT);
        text.parse().map(Some).map_err(bad)
    }
}

impl Age {
    /// So many seconds after the pool was made, as long as it is open.
    pub fn new(seconds: u64) -> Age {
        Age(seconds)
    }

    /// The number of seconds.
    pub fn seconds(self) -> u64 {
        self.0
    }

    /// The moment so much later.
    pub fn after(self, time: Retention) -> Age {
        Age(self.0.saturating_add(time.0))
    }

    /// The moment so much earlier, but not before the beginning.
    pub fn before(self, time: Retention) -> Age {
        Age(self.0.saturating_sub(time.0))
    }

    /// How long it is from `now` to this moment; nothing where it is over.
    pub fn left(self, now: Age) -> Retention {
        Retention(self.0.saturating_sub(now.0))
    }
}

impl FromStr for Retention {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        let bad = || Error::invalid(RETAIN_DELETED, text, Retention::WANT);
        if text == "0" {
            return Ok(Retention::NONE);
        }
        let mut digits = text.chars();
        let unit = match digits.next_back() {
            Some('s') => 1,
            Some('m') => 60,
            Some('h') => 3600,
            Some('d') => 24 * 3600,
            Some(_) | None => return Err(bad()),
        };
        // `u64::from_str` would take a leading plus as well.
        let number: Option<u64> = digits
            .as_str()
            .bytes()
            .all(|b| b.is_ascii_digit())
            .then(|| digits.as_str().parse().ok())
            .flatten();
        let seconds = number.and_then(|number| number.checked_mul(unit));
        seconds.filter(|seconds| *seconds <= Retention::MOST).map(Retention).ok_or_else(bad)
    }
}

impl fmt::Display for Retention {
    /// The two largest units that are not zero: `6d 23h`, `45s`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts =
            [(self.0 / 86_400, 'd'), (self.0 / 3600 % 24, 'h'), (self.0 / 60 % 60, 'm'), (self.0 % 60, 's')];
        let first = parts.iter().position(|(number, _)| *number > 0).unwrap_or(parts.len() - 1);
        let shown =
            parts.iter().skip(first).take(2).enumerate().filter(|(at, (number, _))| *at == 0 || *number > 0);
        let words: Vec<String> = shown.map(|(_, (number, unit))| format!("{number}{unit}")).collect();
        f.write_str(&words.join(" "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_reads_as_people_write_it() {
        for (text, seconds) in
            [("0", 0), ("0d", 0), ("45s", 45), ("30m", 1800), ("12h", 43_200), ("3650d", 315_360_000)]
        {
            assert_eq!(text.parse::<Retention>().unwrap().seconds(), seconds, "{text}");
        }
        for text in
            ["", "7", "d", "-1d", "+1d", "1.5h", "7 d", "7D", "7w", "3651d", "99999999999999999999d", "１d"]
        {
            let said = text.parse::<Retention>().unwrap_err().to_string();
            assert!(said.contains("retainDeleted") && said.contains("like 30m"), "{text}: {said}");
        }
    }

    #[test]
    fn a_time_is_shown_in_two_units_at_most() {
        for (seconds, text) in
            [(0, "0s"), (59, "59s"), (3600, "1h"), (3661, "1h 1m"), (604_799, "6d 23h"), (86_405, "1d")]
        {
            assert_eq!(Retention(seconds).to_string(), text);
        }
    }
}
