//! Project ids: a number and a limit for each volume of a directory pool.
//!
//! Owns: which number comes next, and the file `projects` that says so. Never: gives out a number twice, or one that
//! something else on the filesystem has.
//!
//! A number is new when it is above all that this pool gave out, which the file knows, above all that its volumes have,
//! which covers a lost file, and when nothing is counted or limited under it, which covers whatever else uses project
//! quota there. The file runs ahead of the numbers, so that it is written once for many; what a crash skips is lost.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::super::home::{Home, PROJECTS};
use super::super::{Consumed, Setup};
use crate::error::{Error, Result, quoted};
use crate::model::{Bytes, PoolId};
use crate::os::file::Dir;
use crate::os::quota::{self, Support, Usage};

/// How many numbers one write of the file covers; it holds the first that is not covered.
const STRIDE: u32 = 64;
/// Where the numbers of all pools begin: above what people choose, and kubelet's own, which begin at 1048577.
const FIRST: u32 = 1 << 29;
/// Each pool begins at one of so many places, so that two on one filesystem do not meet.
const PLACES: u32 = 3 << 10;
const PER_PLACE: u32 = 1 << 20;
/// How long the sum of all volumes is good enough.
const FRESH: Duration = Duration::from_secs(10);

/// The numbers of one pool.
pub(super) struct Projects {
    counter: Mutex<Counter>,
    used: Mutex<Option<(Instant, Bytes)>>,
}

struct Counter {
    next: u32,
    /// Numbers below this one are covered by the file.
    covered: u32,
}

/// Whether limits hold here.
///
/// # Errors
/// `Precondition` where they would not.
pub(super) fn supported(home: &Home, setup: &Setup) -> Result<()> {
    if let Support::No(why) = quota::supported(home.root())? {
        return Err(Error::Precondition(format!(
            "pool `{}` at `{}` cannot enforce sizes: {why}; mount it with the option prjquota, or set \
             quota = \"none\" for it in the configuration, and no size is enforced",
            setup.name,
            setup.path.display()
        )));
    }
    Ok(())
}

impl Projects {
    /// Starts where the last process stopped.
    ///
    /// # Errors
    /// `Precondition` where limits would not hold.
    pub(super) fn open(home: &Home, setup: &Setup) -> Result<Self> {
        supported(home, setup)?;
        let mut next = covered(home)?.max(first(home.id()));
        for name in home.volumes().names()? {
            // What is not a directory is not ours, and reported by a scan.
            if let Ok(volume) = home.volumes().sub(&name) {
                next = next.max(of(&volume)?.map_or(0, |project| project.saturating_add(1)));
            }
        }
        Ok(Projects { counter: Mutex::new(Counter { next, covered: next }), used: Mutex::default() })
    }

    /// Gives a new, empty directory a number of its own: the limit first, so that it is never without.
    pub(super) fn limit_new(&self, home: &Home, volume: &Dir, size: Bytes) -> Result<()> {
        let project = self.next(home)?;
        quota::limit(volume, project, size.get())?;
        quota::set_project(volume, project)
    }

    fn next(&self, home: &Home) -> Result<u32> {
        let mut counter = self.counter.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let number = counter.next;
            let after = number.checked_add(STRIDE).ok_or_else(|| {
                Error::Precondition(format!("pool `{}` has given out all project ids", home.name()))
            })?;
            if number >= counter.covered {
                home.root().replace(PROJECTS, after.to_string().as_bytes())?;
                counter.covered = after;
            }
            counter.next = number + 1;
            if quota::usage(home.root(), number)? == Usage::default() {
                return Ok(number);
            }
        }
    }

    /// What all volumes take together, at most ten seconds old: it costs a few system calls a volume.
    pub(super) fn used(&self, home: &Home) -> Result<Bytes> {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((when, bytes)) = *used
            && when.elapsed() < FRESH
        {
            return Ok(bytes);
        }
        let mut bytes = Bytes::ZERO;
        for name in home.volumes().names()? {
            if let Ok(volume) = home.volumes().sub(&name)
                && let Some(consumed) = consumed(&volume)?
            {
                bytes = [bytes, consumed.bytes].into_iter().sum();
            }
        }
        *used = Some((Instant::now(), bytes));
        Ok(bytes)
    }
}

/// The number of a volume; none where it was made without.
pub(super) fn of(volume: &Dir) -> Result<Option<u32>> {
    Ok(Some(quota::project(volume)?).filter(|project| *project != 0))
}

/// Raises a volume's limit. One that was made while sizes were not enforced has none, which its health says.
pub(super) fn raise(volume: &Dir, size: Bytes) -> Result<()> {
    of(volume)?.map_or(Ok(()), |project| quota::limit(volume, project, size.get()))
}

/// Takes the limit away when the last file is gone.
pub(super) fn release(home: &Home, project: u32) -> Result<()> {
    quota::release(home.root(), project)
}

/// What a volume uses; none where it was made without a number.
pub(super) fn consumed(volume: &Dir) -> Result<Option<Consumed>> {
    let Some(project) = of(volume)? else { return Ok(None) };
    let usage = quota::usage(volume, project)?;
    Ok(Some(Consumed { bytes: Bytes::new(usage.bytes), inodes: usage.inodes }))
}

/// Whether a volume's size is enforced.
///
/// # Errors
/// `Precondition` where it is not.
pub(super) fn check(volume: &Dir, size: Bytes) -> Result<()> {
    let limit = match of(volume)? {
        Some(project) => quota::usage(volume, project)?.limit,
        None => None,
    };
    match limit.map(Bytes::new) {
        // A crash in the middle of growing may leave a limit above the size; a retry of the growth ends it.
        Some(limit) if limit >= size => Ok(()),
        Some(limit) => {
            Err(Error::Precondition(format!("its limit is {limit}, less than its size of {size}")))
        }
        None => Err(Error::Precondition(format!(
            "its size of {size} is not enforced: it was made while quota was \"none\""
        ))),
    }
}

fn first(pool: PoolId) -> u32 {
    let digits = pool.to_string();
    let place = u32::from_str_radix(&digits[..6], 16).unwrap_or(0) % PLACES;
    FIRST + place * PER_PLACE
}

fn covered(home: &Home) -> Result<u32> {
    let Some(bytes) = home.root().read(PROJECTS, 64)? else { return Ok(0) };
    let text = String::from_utf8_lossy(&bytes);
    text.trim().parse().map_err(|_| {
        let at = home.root().path().join(PROJECTS);
        Error::Corrupt(format!("`{}` holds {}, not the next project id", at.display(), quoted(&text)))
    })
}
