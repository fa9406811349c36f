//! Records that the fuzzer fills in, and what can happen to their text.

use std::sync::Arc;

use arbitrary::Arbitrary;
use rockpool::model::{
    Access, Age, Allocation, Bytes, Claim, Filesystem, FsUuid, Group, GroupId, Parameters, Phase, PoolId,
    Record, Snapshot, SnapshotId, Source, Time, Volume, VolumeId,
};

use super::POOL;

/// The parts of a record.
#[derive(Arbitrary, Debug)]
pub(super) struct Built {
    kind: u8,
    number: [u8; 8],
    other: [u8; 8],
    name: String,
    phase: u8,
    size: u64,
    to: u64,
    moment: u32,
    access: u8,
    source: u8,
    is_reserved: bool,
    uuid: Option<[u8; 16]>,
    parameters: Vec<(String, String)>,
    claim: Option<(String, String)>,
    members: Vec<[u8; 8]>,
    has_group: bool,
}

/// What a disk or a hand does to a file.
#[derive(Arbitrary, Debug)]
pub(super) enum Damage {
    Flip(u32),
    Cut(u16),
    Twice,
    Zeros(u16),
    Insert(u16, u8),
    Swap(u16, u16),
}

impl Damage {
    pub(super) fn done_to(&self, mut text: Vec<u8>) -> Vec<u8> {
        let length = text.len();
        match *self {
            Damage::Flip(bit) => text[bit as usize / 8 % length] ^= 1 << (bit % 8),
            Damage::Cut(at) => text.truncate(usize::from(at) % length),
            Damage::Twice => text.extend_from_within(..),
            Damage::Zeros(from) => text[usize::from(from) % length..].fill(0),
            Damage::Insert(at, byte) => text.insert(usize::from(at) % length, byte),
            Damage::Swap(one, other) => text.swap(usize::from(one) % length, usize::from(other) % length),
        }
        text
    }
}

impl Built {
    pub(super) fn record(&self) -> Record {
        match self.kind % 3 {
            0 => Record::Volume(Arc::new(self.volume())),
            1 => Record::Snapshot(Arc::new(self.snapshot())),
            _ => Record::Group(Arc::new(self.group())),
        }
    }

    fn phase(&self) -> Phase {
        match self.phase % 7 {
            0 => Phase::Ready,
            1 => Phase::Creating,
            2 => Phase::Deleting,
            3 => Phase::Growing {
                to: Bytes::new(self.to),
                asked: self.is_reserved.then(|| Bytes::new(self.size)),
            },
            5 => Phase::Receiving { done: Bytes::new(self.to), digest: 1 },
            6 => Phase::Lent { to: VolumeId::new(PoolId::new([7; 6]), self.to.to_be_bytes()) },
            _ => Phase::Retained {
                until: Age::new(self.to),
                kept: format!("{}s", self.moment % 300_000_000).parse().expect("a time"),
                deleted: self.time(),
            },
        }
    }

    fn time(&self) -> Time {
        serde_json::from_value(self.moment.into()).expect("a time")
    }

    fn access(&self) -> Access {
        match self.access % 4 {
            0 => Access::Block,
            1 => Access::Mount { fs: Filesystem::Ext4 },
            2 => Access::Mount { fs: Filesystem::Xfs },
            _ => Access::Mount { fs: Filesystem::Shared },
        }
    }

    fn parameters(&self) -> Parameters {
        self.parameters.iter().cloned().collect()
    }

    fn claim(&self) -> Option<Claim> {
        self.claim.clone().map(|(namespace, name)| Claim { namespace, name })
    }

    fn volume(&self) -> Volume {
        let pool = PoolId::new(POOL);
        Volume {
            id: VolumeId::new(pool, self.number),
            name: self.name.clone(),
            phase: self.phase(),
            size: Bytes::new(self.size),
            asked: self.is_reserved.then(|| Bytes::new(self.to)),
            access: self.access(),
            fs_uuid: self.uuid.map(FsUuid::new),
            sector_size: self.moment,
            allocation: if self.is_reserved { Allocation::Reserved } else { Allocation::Sparse },
            source: match self.source % 3 {
                0 => Source::Blank,
                1 => Source::Volume(VolumeId::new(pool, self.other)),
                _ => Source::Snapshot(SnapshotId::new(pool, self.other)),
            },
            parameters: self.parameters(),
            claim: self.claim(),
            created: self.time(),
        }
    }

    fn snapshot(&self) -> Snapshot {
        let pool = PoolId::new(POOL);
        Snapshot {
            id: SnapshotId::new(pool, self.number),
            name: self.name.clone(),
            phase: self.phase(),
            source: VolumeId::new(pool, self.other),
            size: Bytes::new(self.size),
            asked: self.is_reserved.then(|| Bytes::new(self.to)),
            held: Bytes::new(self.to),
            access: self.access(),
            fs_uuid: self.uuid.map(FsUuid::new),
            sector_size: self.moment,
            group: self.has_group.then(|| GroupId::new(pool, self.other)),
            parameters: self.parameters(),
            claim: self.claim(),
            created: self.time(),
        }
    }

    fn group(&self) -> Group {
        let pool = PoolId::new(POOL);
        Group {
            id: GroupId::new(pool, self.number),
            name: self.name.clone(),
            phase: self.phase(),
            members: self.members.iter().map(|number| SnapshotId::new(pool, *number)).collect(),
            sources: self.members.iter().map(|number| VolumeId::new(pool, *number)).collect(),
            parameters: self.parameters(),
            created: self.time(),
        }
    }
}

/// A volume without anything of note, for its bytes.
pub(super) fn plain(id: VolumeId) -> Volume {
    Volume {
        id,
        name: String::new(),
        phase: Phase::Ready,
        size: Bytes::MIB,
        asked: None,
        access: Access::Block,
        fs_uuid: None,
        sector_size: 4096,
        allocation: Allocation::Sparse,
        source: Source::Blank,
        parameters: Parameters::new(),
        claim: None,
        created: Time::now(),
    }
}
