//! Volumes whose content comes from another node, and content that goes to one: the engine's side of `proto/transfer.proto`.
//!
//! Owns: the field checks of those calls, and that every step of a transfer runs on the threads of its pool. Never: opens a
//! connection; `cluster::transfer` does, and knows no engine.

use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use tokio::sync::oneshot;
use tonic::Status;

use crate::engine::workers::{Workers, broke_off};
use crate::engine::{Key, Lent, Received, Receiving};
use crate::error::{Error, Result};
use crate::model::{
    Access, Bytes, Elsewhere, Filesystem, ObjectId, Phase, Piece, PoolId, Record, Source, Volume, VolumeId,
};
use crate::proto::csi;
use crate::proto::link as wire;

use super::checked::topology::Reach;
use super::checked::volumes as checked;
use super::parse::{id, present};
use super::{Plugin, Services};

/// How long a delete waits for the piece that is just being written.
const LAST_PIECE: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(10);

/// A volume that was asked for with a source elsewhere.
#[derive(Clone, Debug)]
pub enum Arrival {
    /// It is whole.
    Whole(Box<csi::CreateVolumeResponse>),
    /// Its content is to come.
    Going {
        /// Which volume.
        volume: VolumeId,
        /// How large it is.
        size: Bytes,
        /// How much of it is durable.
        done: Bytes,
    },
}

/// The end of a transfer where the content arrives.
#[derive(Clone)]
pub struct Incoming {
    plugin: Arc<Plugin>,
    volume: VolumeId,
}

/// From where on pieces are to come.
#[derive(Clone, Copy, Debug)]
pub struct Begun {
    /// How large the volume is, in bytes.
    pub size: u64,
    /// How much of it is durable.
    pub done: u64,
    /// The digest of that part.
    pub digest: u32,
    /// Which beginning it is: what comes of an earlier one no longer counts.
    pub session: u64,
}

/// The end of a transfer where the content lies.
pub struct Outgoing {
    plugin: Arc<Plugin>,
    lent: Arc<Lent>,
    pool: PoolId,
}

impl Services {
    /// What a source is.
    ///
    /// # Errors
    /// As `Describe` of `proto/transfer.proto` says.
    pub async fn describe(
        &self,
        request: &wire::DescribeRequest,
    ) -> std::result::Result<wire::Origin, Status> {
        let (source, pool) = source(&request.source)?;
        let plugin = self.plugin();
        let engine = self.engine()?;
        let origin = work(engine.workers(pool), move || plugin.engine.elsewhere(&source)).await?;
        Ok(shown(&origin))
    }

    /// A volume of the name that is asked for; begun, where there is none and its origin is given.
    ///
    /// # Errors
    /// As `Take` of `proto/transfer.proto` says.
    pub async fn receive(&self, request: &wire::TakeRequest) -> std::result::Result<Arrival, Status> {
        let create = csi::CreateVolumeRequest::decode(request.create_request.as_slice())
            .map_err(|_| Error::Invalid("create_request: want a CreateVolumeRequest".to_owned()))?;
        let wanted = checked::create(&create, &self.plugin.features)?;
        let engine = self.engine()?;
        if let Reach::Elsewhere(nodes) = wanted.requirement.reach(&self.plugin.about.node_id) {
            return Err(self.plugin.elsewhere(&wanted.volume.name, &nodes).into());
        }
        let Some(origin) = &request.origin else {
            return Ok(self.plugin.arrival(engine.received(&wanted.volume)?));
        };
        let origin = origin_of(origin)?;
        let plugin = self.plugin();
        let plan = || {
            engine.refuse_taken(&[Key::VolumeName(wanted.volume.name.clone())])?;
            let index = engine.choose_to_receive(&wanted.volume, &origin)?;
            let job = move || {
                let received = plugin.engine.receive_at(index, &wanted.volume, &origin)?;
                Ok(plugin.arrival(received))
            };
            Ok((engine.workers_at(index), job))
        };
        Ok(self.lanes.take.run(request, plan).await?.into_inner())
    }

    /// Gives up a volume that can never be whole. Where it is whole all the same it stays, and is the answer.
    ///
    /// # Errors
    /// As `Abandon` of `proto/transfer.proto` says.
    pub async fn abandon(
        &self,
        request: &wire::AbandonRequest,
    ) -> std::result::Result<wire::AbandonResponse, Status> {
        present("volume_id", &request.volume_id)?;
        let ObjectId::Volume(volume) = id("volume_id", &request.volume_id)? else {
            return Err(Error::invalid("volume_id", &request.volume_id, "want the id of a volume").into());
        };
        self.engine()?;
        self.stop_receiving(&volume).await;
        let whole = self.incoming(volume).give_up().await?;
        let create_response = whole.map(|volume| self.plugin.response(&volume).encode_to_vec());
        Ok(wire::AbandonResponse { create_response: create_response.unwrap_or_default() })
    }

    /// The end of a transfer that this node takes.
    pub fn incoming(&self, volume: VolumeId) -> Incoming {
        Incoming { plugin: self.plugin(), volume }
    }

    /// Refuses a source that cannot be sent, as far as it shows before anything is cut.
    ///
    /// # Errors
    /// As `Give` of `proto/transfer.proto` says.
    pub async fn refuse_gone(&self, from: &str, to: VolumeId) -> std::result::Result<(), Status> {
        let (source, pool) = source(from)?;
        let plugin = self.plugin();
        let engine = self.engine()?;
        let job = move || match plugin.engine.elsewhere(&source) {
            // What was cut for a copy outlives its volume.
            Err(Error::NotFound(_)) if plugin.has_cut(&source, to) => Ok(()),
            found => found.map(drop),
        };
        Ok(work(engine.workers(pool), job).await?)
    }

    /// The end of a transfer that this node gives, for a volume of this size.
    ///
    /// # Errors
    /// As `Give` of `proto/transfer.proto` says.
    pub async fn outgoing(
        &self,
        from: &str,
        to: VolumeId,
        size: Bytes,
    ) -> std::result::Result<Outgoing, Status> {
        let (source, pool) = source(from)?;
        let plugin = self.plugin();
        let engine = self.engine()?;
        let lent = work(engine.workers(pool), move || plugin.engine.lend(&source, to, size)).await?;
        Ok(Outgoing { plugin: self.plugin(), lent: Arc::new(lent), pool })
    }

    /// Lets go of a volume that is being received, so that it can be deleted: the piece that is just being written is waited for.
    pub(super) async fn stop_receiving(&self, volume: &VolumeId) {
        let engine = &self.plugin.engine;
        if !engine.stop_receiving(volume) {
            return;
        }
        let until = tokio::time::Instant::now() + LAST_PIECE;
        let key = [Key::Object(ObjectId::Volume(*volume))];
        while engine.refuse_taken(&key).is_err() && tokio::time::Instant::now() < until {
            tokio::time::sleep(PAUSE).await;
        }
    }
}

impl Incoming {
    /// The volume.
    pub fn volume(&self) -> VolumeId {
        self.volume
    }

    /// Whether there is still something to be received.
    pub fn goes_on(&self) -> bool {
        self.plugin.engine.is_receiving(&self.volume)
    }

    /// Makes ready: how far it is. What came of an earlier beginning no longer counts.
    ///
    /// # Errors
    /// Those of the pool.
    pub async fn begin(&self, anew: bool) -> Result<Begun> {
        let volume = self.volume;
        let Receiving { volume, done, digest, session } =
            self.work(move |plugin| plugin.engine.begin_receiving(&volume, anew)).await?;
        Ok(Begun { size: volume.size.get(), done: done.get(), digest, session })
    }

    /// Puts a piece where it belongs.
    ///
    /// # Errors
    /// Those of the pool.
    pub async fn fill(&self, session: u64, piece: Piece) -> Result<()> {
        let volume = self.volume;
        self.work(move |plugin| plugin.engine.fill(&volume, session, &piece)).await
    }

    /// All up to `done` is durable from here on.
    ///
    /// # Errors
    /// Those of the pool.
    pub async fn harden(&self, session: u64, done: u64, digest: u32) -> Result<()> {
        let volume = self.volume;
        self.work(move |plugin| plugin.engine.harden(&volume, session, Bytes::new(done), digest)).await
    }

    /// All has come.
    ///
    /// # Errors
    /// Those of the pool.
    pub async fn complete(&self, session: u64) -> Result<()> {
        let volume = self.volume;
        self.work(move |plugin| plugin.engine.complete_received(&volume, session)).await
    }

    /// It will not come: nothing of it is left. Where it is whole all the same it stays, and is the answer.
    ///
    /// # Errors
    /// Those of the pool; then it goes later.
    pub async fn give_up(&self) -> Result<Option<Arc<Volume>>> {
        let volume = self.volume;
        self.plugin.engine.stop_receiving(&volume);
        self.work(move |plugin| plugin.engine.abandon(&volume)).await
    }

    async fn work<R: Send + 'static>(
        &self,
        job: impl FnOnce(&Plugin) -> Result<R> + Send + 'static,
    ) -> Result<R> {
        let plugin = Arc::clone(&self.plugin);
        work(self.plugin.engine.workers(self.volume.pool()), move || job(&plugin)).await
    }
}

impl Outgoing {
    /// How long it is.
    pub fn size(&self) -> u64 {
        self.lent.size().get()
    }

    /// What there is from an offset on, and where to go on.
    ///
    /// # Errors
    /// Those of the pool.
    pub async fn part(&self, from: u64) -> Result<(Option<Piece>, u64)> {
        let (plugin, lent) = (Arc::clone(&self.plugin), Arc::clone(&self.lent));
        let job = move || plugin.engine.part(&lent, from);
        work(self.plugin.engine.workers(self.pool), job).await.map(|part| (part.piece, part.next))
    }

    /// The copy is whole.
    ///
    /// # Errors
    /// Where something stays for now; it goes later.
    pub async fn take_back(self) -> Result<()> {
        let Outgoing { plugin, lent, pool } = self;
        // Another job may still hold it for a moment, where a transfer was broken off; then it goes later.
        let Some(lent) = Arc::into_inner(lent) else { return Ok(()) };
        let there = Arc::clone(&plugin);
        work(plugin.engine.workers(pool), move || there.engine.take_back(lent)).await
    }
}

impl Plugin {
    /// Whether a volume was cut for a copy.
    fn has_cut(&self, source: &Source, to: VolumeId) -> bool {
        let lent = Phase::Lent { to };
        let mut cuts = self.engine.on_its_way().into_iter().filter_map(Record::into_snapshot);
        cuts.any(|cut| cut.phase == lent && *source == Source::Volume(cut.source))
    }

    fn response(&self, volume: &Volume) -> csi::CreateVolumeResponse {
        csi::CreateVolumeResponse { volume: Some(self.volume(volume)) }
    }

    fn arrival(&self, received: Received) -> Arrival {
        match received {
            Received::Whole(volume) => Arrival::Whole(Box::new(self.response(&volume))),
            Received::Going(Receiving { volume, done, .. }) => {
                Arrival::Going { volume: volume.id, size: volume.size, done }
            }
        }
    }
}

/// Runs a step on a pool's threads, and waits for it however long that takes.
async fn work<R: Send + 'static>(
    workers: &Workers,
    job: impl FnOnce() -> Result<R> + Send + 'static,
) -> Result<R> {
    let (tell, told) = oneshot::channel();
    // Nobody may wait any more.
    workers.run_then(job, move |outcome: Result<Result<R>>| drop(tell.send(outcome.flatten())))?;
    told.await.unwrap_or_else(|_| Err(broke_off()))
}

fn source(text: &str) -> Result<(Source, PoolId)> {
    present("source", text)?;
    match id("source", text)? {
        ObjectId::Volume(id) => Ok((Source::Volume(id), id.pool())),
        ObjectId::Snapshot(id) => Ok((Source::Snapshot(id), id.pool())),
        ObjectId::Group(_) => Err(Error::invalid("source", text, "want the id of a volume or snapshot")),
    }
}

fn shown(origin: &Elsewhere) -> wire::Origin {
    wire::Origin {
        size_bytes: origin.size.as_i64(),
        access: match origin.access {
            Access::Mount { fs } => fs.name().to_owned(),
            Access::Block => "block".to_owned(),
        },
        fs_uuid: origin.fs_uuid.map_or_else(String::new, |uuid| uuid.to_string()),
    }
}

/// An origin as a node has told it.
///
/// # Errors
/// `Full` for what only a later release knows: another node may be of that release.
pub fn origin_of(origin: &wire::Origin) -> Result<Elsewhere> {
    let unknown = |what: &str| {
        Error::Full(format!("this node does not know what the source is: its {what} is unknown"))
    };
    let known = [Filesystem::Ext4, Filesystem::Xfs, Filesystem::Shared];
    let access = match origin.access.as_str() {
        "block" => Access::Block,
        name => Access::Mount {
            fs: known.into_iter().find(|fs| fs.name() == name).ok_or_else(|| unknown("access"))?,
        },
    };
    let size = u64::try_from(origin.size_bytes).map_err(|_| unknown("size"))?;
    let fs_uuid = match origin.fs_uuid.as_str() {
        "" => None,
        text => Some(text.parse().map_err(|_| unknown("UUID"))?),
    };
    Ok(Elsewhere { size: Bytes::new(size), access, fs_uuid })
}
