//! A simulated pool whose verbs fail when they are told to, and which outlives the driver.
//!
//! Owns: the fault that waits for a verb, and the directory in which the driver keeps its records. Never: breaks the contract
//! of `pool` by itself: an error leaves nothing visible behind; only a crash may come after a verb has done its work.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arbitrary::Arbitrary;
use rockpool::error::{Error, Result};
use rockpool::model::{Bytes, Features, ObjectId, PoolId, Snapshot, SnapshotId, Volume, VolumeId};
use rockpool::os::file::Dir;
use rockpool::pool::sim::SimPool;
use rockpool::pool::{Attach, Attached, Found, Kind, Label, Pool, Problem, Thaw, Usage};

/// No call asks for more verbs of a pool that may fail.
const VERBS: u8 = 8;

/// What becomes of one verb.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub struct Fault {
    /// So many verbs pass before it, counted up to the most that a call asks for.
    pub after: u8,
    /// What it is.
    pub how: How,
}

/// A way to fail.
#[derive(Arbitrary, Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// The verb does nothing: the host refused a system call.
    Host,
    /// The verb does nothing: there is no room. What makes nothing is refused by the host instead.
    Full,
    /// The driver dies before the verb has done anything.
    CrashBefore,
    /// The driver dies when the verb has done its work.
    CrashAfter,
}

/// What lives as long as the disk would.
#[derive(Default)]
struct Fate {
    armed: Mutex<Option<Fault>>,
    fired: AtomicBool,
    dead: AtomicBool,
    away: AtomicBool,
}

/// The disk: a pool in memory with a directory for records.
#[derive(Clone)]
pub struct Disk {
    id: PoolId,
    /// Its bytes.
    pub sim: Arc<SimPool>,
    home: PathBuf,
    fate: Arc<Fate>,
    label: Option<Arc<Label>>,
}

/// The disk, opened by a driver.
struct Faulty {
    disk: Disk,
    home: Dir,
}

impl Disk {
    /// An empty one, its records below `home`.
    ///
    /// # Panics
    /// Where the directories cannot be made.
    pub fn new(id: PoolId, size: Bytes, home: &Path) -> Disk {
        std::fs::create_dir_all(home.join("records")).expect("a directory");
        // The spare of a full disk; one that is there already costs no time.
        std::fs::write(home.join("spare"), b"").expect("a file");
        let sim = Arc::new(SimPool::new(size).expect("a pool in memory"));
        Disk { id, sim, home: home.to_owned(), fate: Arc::default(), label: None }
    }

    /// The same where every object carries this copy of a record.
    #[must_use]
    pub fn labelled(self, text: Option<Vec<u8>>) -> Disk {
        let label = Label { text, group: None, size: Bytes::MIB, held: Bytes::ZERO };
        Disk { label: Some(Arc::new(label)), ..self }
    }

    /// Its identity.
    pub fn id(&self) -> PoolId {
        self.id
    }

    /// Where its records lie.
    pub fn records(&self) -> PathBuf {
        self.home.join("records")
    }

    /// Opens it, as a driver does.
    ///
    /// # Errors
    /// While it is away.
    pub fn open(&self) -> Result<Arc<dyn Pool>> {
        self.present()?;
        Ok(Arc::new(Faulty { disk: self.clone(), home: Dir::open(&self.home)? }))
    }

    /// A fault for the next verbs; none: they work.
    pub fn arm(&self, fault: Option<Fault>) {
        *self.armed() = fault.map(|fault| Fault { after: fault.after % VERBS, ..fault });
        self.fate.fired.store(false, Ordering::SeqCst);
    }

    /// Whether the fault has struck.
    pub fn fired(&self) -> bool {
        self.fate.fired.load(Ordering::SeqCst)
    }

    /// Whether the driver has died at it.
    pub fn died(&self) -> bool {
        self.fate.dead.load(Ordering::SeqCst)
    }

    /// A new driver is about to start.
    pub fn revive(&self) {
        self.fate.dead.store(false, Ordering::SeqCst);
    }

    /// Pulls the disk, or puts it back.
    pub fn set_away(&self, away: bool) {
        self.fate.away.store(away, Ordering::SeqCst);
    }

    /// Whether it is pulled.
    pub fn is_away(&self) -> bool {
        self.fate.away.load(Ordering::SeqCst)
    }

    fn armed(&self) -> MutexGuard<'_, Option<Fault>> {
        self.fate.armed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn present(&self) -> Result<()> {
        if self.died() || self.is_away() {
            return Err(Error::Unavailable(format!("the simulated pool {} is unplugged", self.id)));
        }
        Ok(())
    }

    /// The fault that is due at this verb.
    fn due(&self) -> Option<How> {
        let mut armed = self.armed();
        let fault = armed.as_mut()?;
        if fault.after > 0 {
            fault.after -= 1;
            return None;
        }
        let how = fault.how;
        *armed = None;
        self.fate.fired.store(true, Ordering::SeqCst);
        Some(how)
    }

    /// Ends the thread as a kill would: nothing that it was about to do is done. No panic, so no hook hears of it.
    fn die(&self) -> ! {
        self.fate.dead.store(true, Ordering::SeqCst);
        std::panic::resume_unwind(Box::new("the driver was killed"))
    }

    /// One verb, with whatever is to happen to it.
    fn verb<T>(&self, may_fill: Fills, work: impl FnOnce() -> Result<T>) -> Result<T> {
        self.present()?;
        let broken =
            || Error::host("failed to reach the simulated disk", std::io::Error::from_raw_os_error(5));
        match self.due() {
            None => work(),
            Some(How::Full) if may_fill == Fills::Yes => {
                Err(Error::Full("the simulated disk is full".to_owned()))
            }
            Some(How::Host | How::Full) => Err(broken()),
            Some(How::CrashBefore) => self.die(),
            Some(How::CrashAfter) => {
                drop(work());
                self.die()
            }
        }
    }
}

/// Whether a verb needs room.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fills {
    Yes,
    No,
}

impl Pool for Faulty {
    fn id(&self) -> PoolId {
        self.disk.id
    }

    fn kind(&self) -> Kind {
        Kind::Sim
    }

    fn features(&self) -> Features {
        Kind::Sim.features()
    }

    fn home(&self) -> Option<&Dir> {
        Some(&self.home)
    }

    fn present(&self) -> Result<()> {
        self.disk.present()
    }

    fn writable(&self) -> Result<()> {
        self.disk.present()
    }

    fn usage(&self) -> Result<Usage> {
        self.disk.verb(Fills::No, || self.disk.sim.usage())
    }

    fn scan(&self) -> Result<Vec<Found>> {
        self.disk.present()?;
        self.disk.sim.scan()
    }

    fn create(&self, want: &Volume) -> Result<()> {
        self.disk.verb(Fills::Yes, || self.disk.sim.create(want))
    }

    fn grow(&self, id: &VolumeId, size: Bytes) -> Result<Bytes> {
        self.disk.verb(Fills::Yes, || self.disk.sim.grow(id, size))
    }

    fn destroy(&self, id: &VolumeId) -> Result<()> {
        self.disk.verb(Fills::No, || self.disk.sim.destroy(id))
    }

    fn snapshot(&self, want: &Snapshot) -> Result<Bytes> {
        self.disk.verb(Fills::Yes, || self.disk.sim.snapshot(want))
    }

    fn forget(&self, id: &SnapshotId) -> Result<()> {
        self.disk.verb(Fills::No, || self.disk.sim.forget(id))
    }

    fn attach(&self, id: &VolumeId, how: Attach) -> Result<Attached> {
        self.disk.present()?;
        self.disk.sim.attach(id, how)
    }

    fn attached(&self, id: &VolumeId, how: Attach) -> Result<Option<Attached>> {
        self.disk.verb(Fills::No, || self.disk.sim.attached(id, how))
    }

    fn detach(&self, id: &VolumeId) -> Result<()> {
        self.disk.verb(Fills::No, || self.disk.sim.detach(id))
    }

    fn label(&self, id: ObjectId) -> Result<Option<Label>> {
        let there = self.scan()?.into_iter().any(|found| match found {
            Found::Volume(volume, _) => id == volume.into(),
            Found::Snapshot(snapshot, _) => id == snapshot.into(),
            Found::Debris(_) | Found::Foreign(_) => false,
        });
        Ok(self.disk.label.as_ref().filter(|_| there).map(|label| Label::clone(label)))
    }

    fn freeze(&self, ids: &[VolumeId]) -> Result<Thaw> {
        self.disk.verb(Fills::No, || self.disk.sim.freeze(ids))
    }

    fn health(&self, of: Option<&VolumeId>) -> Vec<Problem> {
        self.disk.sim.health(of)
    }
}
