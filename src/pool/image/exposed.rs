//! The loop devices that show images of a pool, whoever attached them.
//!
//! Owns: telling them by device and inode; of a deleted image, which has no name any more, also by the random id in the
//! name under which it was attached. Never: takes a file beside the pool for one of its images.

use std::collections::HashMap;

use crate::error::{Error, Result};
use crate::model::{PoolId, VolumeId};
use crate::os::file::Dir;
use crate::os::loopdev::{self, Backing, Caching, Lifetime, Loop};
use crate::pool::Exposed;

/// Every device on an image of this pool, deleted ones included.
pub(super) fn all(pool: PoolId, volumes: &Dir) -> Result<Vec<Exposed>> {
    let here = volumes.identity()?.device;
    let attached: Vec<_> =
        loopdev::all()?.into_iter().filter(|(backing, _)| backing.device == here).collect();
    if attached.is_empty() {
        return Ok(Vec::new());
    }
    let images = images(volumes)?;
    let mut exposed = Vec::new();
    for (backing, found) in attached {
        let there = images.get(&backing).copied();
        let named = || found.device.backing_name().and_then(|name| name.parse().ok());
        let Some(volume) = there.or_else(named).filter(|id: &VolumeId| id.pool() == pool) else { continue };
        exposed.push(Exposed {
            volume,
            path: found.device.path(),
            number: found.device.device,
            there: there.is_some(),
            stays: found.lifetime == Lifetime::Held,
            direct: found.device.caching()? == Caching::Direct,
            inode: backing.inode,
            device: backing.device,
        });
    }
    Ok(exposed)
}

/// Detaches a device, if it still shows what was found.
pub(super) fn let_go(shown: &Exposed) -> Result<()> {
    let device = Loop::from_device(shown.number)
        .ok_or_else(|| Error::Corrupt(format!("{} is no loop device", shown.path.display())))?;
    device.detach(shown.device, shown.inode)
}

fn images(volumes: &Dir) -> Result<HashMap<Backing, VolumeId>> {
    let mut images = HashMap::new();
    for name in volumes.names()? {
        let (Ok(id), Some(stat)) = (name.to_string_lossy().parse(), volumes.stat(&name)?) else { continue };
        images.insert(Backing { device: stat.device, inode: stat.inode }, id);
    }
    Ok(images)
}
