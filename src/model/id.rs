//! Ids: of pools, volumes, snapshots, groups and filesystems.
//!
//! Owns: their grammar. An id holds no user text, so it is safe as a file name. Never: makes up randomness; the caller brings it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, quoted};

/// Lower-case hexadecimal of exactly `N` digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Hex<const N: usize>([u8; N]);

impl<const N: usize> Hex<N> {
    fn parse(text: &str) -> Option<Self> {
        let digits: [u8; N] = text.as_bytes().try_into().ok()?;
        let fits = |d: &u8| {
            matches!(d, b'0'..=b'9' | b'a'..=b'f') || (planted!("upper-case-id") && matches!(d, b'A'..=b'F'))
        };
        digits.iter().all(fits).then_some(Hex(digits))
    }

    /// From random bytes, of which each gives two digits.
    fn from_bytes(bytes: &[u8]) -> Self {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        Hex(std::array::from_fn(|i| {
            let byte = bytes[i / 2];
            DIGITS[usize::from(if i % 2 == 0 { byte >> 4 } else { byte & 15 })]
        }))
    }
}

impl<const N: usize> fmt::Display for Hex<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|d| write!(f, "{}", char::from(*d)))
    }
}

/// Serde through `Display` and `FromStr`, and a `Debug` that reads like the value.
macro_rules! text_value {
    ($type:ty) => {
        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
        impl Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
                to.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
                String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

/// The identity of a pool: 12 hexadecimal digits, made once and stored in the pool itself.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PoolId(Hex<12>);

impl PoolId {
    /// A fresh id from six random bytes.
    pub fn new(random: [u8; 6]) -> Self {
        PoolId(Hex::from_bytes(&random))
    }
}

impl FromStr for PoolId {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        let id = Hex::parse(text).map(PoolId);
        id.ok_or_else(|| Error::Corrupt(format!("pool id {} is not 12 hexadecimal digits", quoted(text))))
    }
}

impl fmt::Display for PoolId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

text_value!(PoolId);

/// An id of the grammar `<prefix>.<pool it was born in>.<16 random digits>`: fixed length, no user text, safe as a file name.
macro_rules! object_id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal, $noun:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name {
            pool: PoolId,
            number: Hex<16>,
        }

        impl $name {
            /// A fresh id in `pool` from eight random bytes.
            pub fn new(pool: PoolId, random: [u8; 8]) -> Self {
                Self { pool, number: Hex::from_bytes(&random) }
            }

            /// The pool in which the object was made.
            pub fn pool(&self) -> PoolId {
                self.pool
            }
        }

        impl FromStr for $name {
            type Err = Error;
            /// # Errors
            /// `NotFound` for whatever is not of the grammar: an id that we never gave out is unknown, not malformed.
            fn from_str(text: &str) -> Result<Self> {
                let mut parts = text.split('.');
                let parsed = match (parts.next(), parts.next(), parts.next(), parts.next()) {
                    (Some($prefix), Some(pool), Some(number), None) => {
                        Hex::parse(pool).map(PoolId).zip(Hex::parse(number))
                    }
                    _ => None,
                };
                parsed.map(|(pool, number)| Self { pool, number }).ok_or_else(|| {
                    Error::NotFound(format!(
                        "{} {} is unknown: ids of this driver look like {}.<12 hex digits>.<16 hex digits>",
                        $noun, quoted(text), $prefix
                    ))
                })
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}.{}.{}", $prefix, self.pool, self.number)
            }
        }

        text_value!($name);
    };
}

object_id!(
    /// The id of a volume, random per creation: a late duplicate delete can never hit a volume made again under the same name.
    VolumeId, "v1", "volume"
);
object_id!(
    /// The id of a snapshot.
    SnapshotId, "s1", "snapshot"
);
object_id!(
    /// The id of a group of snapshots that were cut together.
    GroupId, "g1", "group snapshot"
);

/// The id of anything that has a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectId {
    /// A volume's.
    Volume(VolumeId),
    /// A snapshot's.
    Snapshot(SnapshotId),
    /// A group's.
    Group(GroupId),
}

impl ObjectId {
    /// The pool in which the object was made.
    pub fn pool(&self) -> PoolId {
        match self {
            ObjectId::Volume(id) => id.pool(),
            ObjectId::Snapshot(id) => id.pool(),
            ObjectId::Group(id) => id.pool(),
        }
    }
}

impl From<VolumeId> for ObjectId {
    fn from(id: VolumeId) -> Self {
        ObjectId::Volume(id)
    }
}

impl From<SnapshotId> for ObjectId {
    fn from(id: SnapshotId) -> Self {
        ObjectId::Snapshot(id)
    }
}

impl From<GroupId> for ObjectId {
    fn from(id: GroupId) -> Self {
        ObjectId::Group(id)
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ObjectId::Volume(id) => id.fmt(f),
            ObjectId::Snapshot(id) => id.fmt(f),
            ObjectId::Group(id) => id.fmt(f),
        }
    }
}

impl FromStr for ObjectId {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        match text.as_bytes().first() {
            Some(b's') => text.parse().map(ObjectId::Snapshot),
            Some(b'g') => text.parse().map(ObjectId::Group),
            Some(_) | None => text.parse().map(ObjectId::Volume),
        }
    }
}

/// The UUID of a filesystem, in the usual 8-4-4-4-12 form.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct FsUuid([u8; 16]);

impl FsUuid {
    /// A random (version 4) UUID from sixteen random bytes.
    pub fn new(mut random: [u8; 16]) -> Self {
        random[6] = random[6] & 0x0f | 0x40;
        random[8] = random[8] & 0x3f | 0x80;
        FsUuid(random)
    }

    /// The bytes as they lie in a superblock.
    pub fn bytes(&self) -> [u8; 16] {
        self.0
    }
}

impl fmt::Display for FsUuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hex = Hex::<32>::from_bytes(&self.0).to_string();
        write!(f, "{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
    }
}

impl FromStr for FsUuid {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        let bad = || Error::Corrupt(format!("filesystem UUID {} is malformed", quoted(text)));
        let hex: String = text.chars().filter(|c| *c != '-').collect();
        let number = u128::from_str_radix(&hex, 16).map_err(|_| bad())?;
        let uuid = FsUuid(number.to_be_bytes());
        if uuid.to_string() == text { Ok(uuid) } else { Err(bad()) }
    }
}

text_value!(FsUuid);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_survives_its_text() {
        let id = VolumeId::new(PoolId::new([0xab; 6]), [0x01; 8]);
        assert_eq!(id.to_string(), "v1.abababababab.0101010101010101");
        assert_eq!(id.to_string().parse::<VolumeId>().unwrap(), id);
        assert_eq!(serde_json::to_string(&id).unwrap(), "\"v1.abababababab.0101010101010101\"");
    }

    #[test]
    fn hostile_ids_are_unknown_ids() {
        for text in [
            "",
            ".",
            "..",
            "../../etc/passwd",
            "/etc",
            "v1.abababababab.010101010101010",
            "v1.abababababab.01010101010101011",
            "v1.ABABABABABAB.0101010101010101",
            "v1.abababababab.0101010101010101.",
            "v1.abababababab/0101010101010101",
            "s1.abababababab.0101010101010101",
            "v1.abababababab.01010101\u{0}1010101",
            "v1.аbabababababa.0101010101010101",
            "pvc-0b3c9f3e-9d5a-4c53-8a3f-0d8f0c8f1f10",
        ] {
            assert!(matches!(text.parse::<VolumeId>(), Err(Error::NotFound(_))), "{text:?}");
        }
    }

    #[test]
    fn a_uuid_is_of_version_four_and_survives_its_text() {
        let uuid = FsUuid::new([0xff; 16]);
        assert_eq!(uuid.to_string(), "ffffffff-ffff-4fff-bfff-ffffffffffff");
        assert_eq!(uuid.to_string().parse::<FsUuid>().unwrap(), uuid);
        assert!("ffffffff".parse::<FsUuid>().is_err());
    }
}
