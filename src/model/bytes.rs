//! Sizes in bytes, as people and machines write them.
//!
//! Owns: their arithmetic, which never wraps, and their text. Never: decides what size is right.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// A number of bytes. What could overflow is `checked_*`, or says that it stops at an end.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Bytes(u64);

/// Sizes are multiples of this many bytes, in every kind of pool: the sector size of the devices.
pub const UNIT: Bytes = Bytes::new(4096);

impl Bytes {
    /// Nothing.
    pub const ZERO: Bytes = Bytes(0);
    /// One kibibyte, 1024 bytes.
    pub const KIB: Bytes = Bytes(1 << 10);
    /// One mebibyte.
    pub const MIB: Bytes = Bytes(1 << 20);
    /// One gibibyte.
    pub const GIB: Bytes = Bytes(1 << 30);

    /// This many bytes.
    pub const fn new(bytes: u64) -> Self {
        Bytes(bytes)
    }

    /// The plain number.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// This many times as much; saturates, for constants and display.
    pub const fn times(self, n: u64) -> Self {
        Bytes(self.0.saturating_mul(n))
    }

    /// The sum, unless it overflows.
    pub fn checked_add(self, other: Bytes) -> Option<Bytes> {
        self.0.checked_add(other.0).map(Bytes)
    }

    /// The difference, or zero where it would be negative.
    pub fn less(self, other: Bytes) -> Bytes {
        Bytes(self.0.saturating_sub(other.0))
    }

    /// The next multiple of `unit`, unless it overflows.
    pub fn checked_round_up(self, unit: Bytes) -> Option<Bytes> {
        self.0.checked_next_multiple_of(unit.0).map(Bytes)
    }

    /// The last multiple of `unit` that is not larger.
    pub fn round_down(self, unit: Bytes) -> Bytes {
        Bytes(self.0 - self.0 % unit.0)
    }

    /// This share of it, from 0.0 up; exact to the byte only below 2^53.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a share of a disk is a rough number, and float casts saturate"
    )]
    pub fn scaled(self, share: f64) -> Bytes {
        Bytes((self.0 as f64 * share) as u64)
    }

    /// As CSI carries it: sizes beyond `i64::MAX` cannot exist on a disk.
    pub fn as_i64(self) -> i64 {
        i64::try_from(self.0).unwrap_or(i64::MAX)
    }
}

impl std::iter::Sum for Bytes {
    fn sum<I: Iterator<Item = Bytes>>(all: I) -> Bytes {
        Bytes(all.fold(0, |sum, next| sum.saturating_add(next.0)))
    }
}

impl fmt::Display for Bytes {
    /// Exact below one KiB or where a unit divides evenly, else two decimals: `512 MiB`, `1.50 GiB`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(&str, u32); 5] = [("PiB", 50), ("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
        let Some((unit, shift)) = UNITS.iter().find(|(_, shift)| self.0 >> shift > 0) else {
            return write!(f, "{} B", self.0);
        };
        let (whole, rest) = (self.0 >> shift, self.0 & ((1 << shift) - 1));
        match (u128::from(rest) * 100) >> shift {
            0 => write!(f, "{whole} {unit}"),
            hundredths => write!(f, "{whole}.{hundredths:02} {unit}"),
        }
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} B", self.0)
    }
}

impl FromStr for Bytes {
    type Err = Error;
    /// A number with an optional unit: `4096`, `20G`, `512MiB`, `1Ti`. Units are powers of 1024, as with `truncate -s`.
    fn from_str(text: &str) -> Result<Self> {
        let bad =
            || Error::invalid("size", text, "want a number of bytes, or one with K, M, G, T, like 20GiB");
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let number: u64 = text[..digits].parse().map_err(|_| bad())?;
        let shift = match text[digits..].trim_start().to_ascii_lowercase().as_str() {
            "" | "b" => 0,
            "k" | "ki" | "kib" => 10,
            "m" | "mi" | "mib" => 20,
            "g" | "gi" | "gib" => 30,
            "t" | "ti" | "tib" => 40,
            _ => return Err(bad()),
        };
        number.checked_mul(1 << shift).map(Bytes).ok_or_else(bad)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_as_people_write_them() {
        for (text, bytes) in
            [("0", 0), ("4096", 4096), ("20G", 20 << 30), ("512MiB", 512 << 20), ("1 Ti", 1 << 40)]
        {
            assert_eq!(text.parse::<Bytes>().unwrap().get(), bytes, "{text}");
        }
        for text in ["", "G", "-1", "1.5G", "99999999999T", "10X"] {
            assert!(text.parse::<Bytes>().is_err(), "{text}");
        }
        assert_eq!(Bytes::new(1536 << 20).to_string(), "1.50 GiB");
        assert_eq!(Bytes::new(512 << 20).to_string(), "512 MiB");
        assert_eq!(Bytes::new(1023).to_string(), "1023 B");
    }
}
