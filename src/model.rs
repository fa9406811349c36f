//! The nouns of Rockpool: ids, sizes, volumes, snapshots, groups and their phases.
//!
//! Owns: what a valid value is. Constructors and `FromStr` are the only way in, `Display` and serde the only way out, so
//! that a string from the wire becomes an id once. Never: touches the host, the disk or the wire.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, quoted};

/// The topology key whose value is the node a volume lives on.
pub const TOPOLOGY_KEY: &str = "topology.csi.rockpool.dev/node";

/// Lower-case hexadecimal of exactly `N` digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Hex<const N: usize>([u8; N]);

impl<const N: usize> Hex<N> {
    fn parse(text: &str) -> Option<Self> {
        let digits: [u8; N] = text.as_bytes().try_into().ok()?;
        digits.iter().all(|d| matches!(d, b'0'..=b'9' | b'a'..=b'f')).then_some(Hex(digits))
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

/// A number of bytes. Arithmetic only by the `checked_*` methods.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Bytes(u64);

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

/// A moment, in milliseconds since 1970 UTC. Only for people and for CSI timestamps: no decision depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Time(u64);

impl Time {
    /// Now, by the host's clock.
    pub fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Time(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }

    /// Milliseconds since 1970 UTC.
    pub fn millis(self) -> u64 {
        self.0
    }
}

/// A filesystem as a volume carries it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Filesystem {
    /// ext4 on the volume's own device: the default.
    Ext4,
    /// xfs on the volume's own device; at least 300 MiB.
    Xfs,
    /// A directory of the pool's filesystem, as directory pools make it.
    Shared,
}

impl Filesystem {
    /// The name that the kernel and StorageClasses use; a shared directory has none of its own.
    pub fn name(self) -> &'static str {
        match self {
            Filesystem::Ext4 => "ext4",
            Filesystem::Xfs => "xfs",
            Filesystem::Shared => "directory",
        }
    }
}

impl fmt::Display for Filesystem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How a workload sees a volume; fixed at creation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Access {
    /// A mounted filesystem.
    Mount {
        /// Which one.
        fs: Filesystem,
    },
    /// A raw block device.
    Block,
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Access::Mount { fs } => write!(f, "mount ({fs})"),
            Access::Block => f.write_str("block"),
        }
    }
}

/// Whether a volume's space is taken at creation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Allocation {
    /// Space is taken when it is written: the default.
    #[default]
    Sparse,
    /// All space is taken at creation and stays taken; discard is refused.
    Reserved,
}

impl FromStr for Allocation {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        match text {
            "sparse" => Ok(Allocation::Sparse),
            "reserved" => Ok(Allocation::Reserved),
            _ => Err(Error::invalid("parameters[allocation]", text, "want `sparse` or `reserved`")),
        }
    }
}

/// What a volume's first bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// Nothing: zeros, or a fresh filesystem.
    Blank,
    /// Another volume as it was at the creation.
    Volume(VolumeId),
    /// A snapshot.
    Snapshot(SnapshotId),
}

/// Where an object is in its life. Every phase but `Ready` has one way forward, taken by `engine::recover::settle`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Begun; rolled back when interrupted.
    Creating,
    /// Whole.
    Ready,
    /// Becoming larger; finished when interrupted.
    Growing {
        /// The size asked for.
        to: Bytes,
    },
    /// Acknowledged as deleted, or about to be; finished when interrupted.
    Deleting,
}

/// Key and value text, as a StorageClass carries it.
pub type Parameters = BTreeMap<String, String>;

/// The claim that asked for an object, where the sidecars said so (`--extra-create-metadata`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// A volume, as its record says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Volume {
    /// Its id.
    pub id: VolumeId,
    /// The name that CreateVolume gave: the key of idempotency.
    pub name: String,
    /// Where it is in its life.
    pub phase: Phase,
    /// The exact size of the device, or the limit of the directory.
    pub size: Bytes,
    /// Mount or block.
    pub access: Access,
    /// The UUID of the filesystem inside, of a clone that of its source; none for block and directories.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fs_uuid: Option<FsUuid>,
    /// The logical sector size of the device, in bytes.
    pub sector_size: u32,
    /// Sparse or reserved.
    pub allocation: Allocation,
    /// What it was made from.
    pub source: Source,
    /// The StorageClass parameters at creation, compared with those of a retry.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub parameters: Parameters,
    /// The claim it was made for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim: Option<Claim>,
    /// When it was made.
    pub created: Time,
}

/// A snapshot, as its record says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Its id.
    pub id: SnapshotId,
    /// The name that CreateSnapshot gave.
    pub name: String,
    /// Where it is in its life.
    pub phase: Phase,
    /// The volume it was cut from, which may be gone.
    pub source: VolumeId,
    /// The size of the source at the cut: what a restore needs.
    pub size: Bytes,
    /// The bytes that were allocated at the cut: what it counts against the pool.
    pub held: Bytes,
    /// How its source was accessed.
    pub access: Access,
    /// The UUID of the filesystem inside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fs_uuid: Option<FsUuid>,
    /// The logical sector size of the source's device, in bytes.
    pub sector_size: u32,
    /// The group it was cut with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<GroupId>,
    /// The VolumeSnapshotClass parameters at creation.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub parameters: Parameters,
    /// The claim of the volume it was cut from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim: Option<Claim>,
    /// The time of the cut.
    pub created: Time,
}

/// A group of snapshots cut at one moment, as its record says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Group {
    /// Its id.
    pub id: GroupId,
    /// The name that CreateVolumeGroupSnapshot gave.
    pub name: String,
    /// Where it is in its life.
    pub phase: Phase,
    /// Its members, in the order of `sources`.
    pub members: Vec<SnapshotId>,
    /// The volumes that were cut, in ascending order.
    pub sources: Vec<VolumeId>,
    /// The VolumeGroupSnapshotClass parameters at creation.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub parameters: Parameters,
    /// The time of the cut.
    pub created: Time,
}

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

    #[test]
    fn a_uuid_is_of_version_four_and_survives_its_text() {
        let uuid = FsUuid::new([0xff; 16]);
        assert_eq!(uuid.to_string(), "ffffffff-ffff-4fff-bfff-ffffffffffff");
        assert_eq!(uuid.to_string().parse::<FsUuid>().unwrap(), uuid);
        assert!("ffffffff".parse::<FsUuid>().is_err());
    }
}
