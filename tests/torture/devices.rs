//! The loop devices of one node, among those of the whole host.
//!
//! Owns: telling which show an image of the node's pool, wherever that is mounted or whether at all, and their end. Never: touches
//! a stranger's.

use std::collections::{HashMap, HashSet};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rockpool::os::loopdev::{self, Backing, Loop};

use crate::Outcome;

/// Whose devices are meant.
#[derive(Clone, Debug)]
pub(crate) struct Owner {
    /// What the names of the pool's images hold: its id, which is random.
    mark: String,
}

/// A device that shows an image of the pool.
#[derive(Clone, Copy, Debug)]
struct Ours {
    device: Loop,
    /// None where the filesystem of the image gave up, and tells nothing.
    backing: Option<Backing>,
}

impl Owner {
    /// Of the pool with this id.
    pub(crate) fn of(pool: &str) -> Owner {
        Owner { mark: format!(".{pool}.") }
    }

    /// Detaches all devices on images of the pool whose filesystem lies in `disk`; says which there were.
    pub(crate) fn detach_all(&self, disk: &Path) -> Vec<String> {
        let ours = match self.find(disk) {
            Ok(ours) => ours,
            Err(error) => return vec![format!("the loop devices cannot be listed: {error}")],
        };
        let detach = |one: Ours| {
            let Backing { device, inode } = one.backing.unwrap_or(NOWHERE);
            let said = one.device.detach(device, inode).err();
            let said = said.map_or_else(String::new, |error| rockpool::error::chain(&error));
            format!("{} {said}", one.device.path().display())
        };
        ours.into_iter().map(detach).collect()
    }

    /// A file is told by its filesystem, and that by the device on the disk: both hold after any rename and any unmount, and no
    /// path does. Of a filesystem that gave up nothing is told but the last name of the file.
    fn find(&self, disk: &Path) -> Outcome<Vec<Ours>> {
        let all = loopdev::all()?;
        let disk = std::fs::metadata(disk).map(|stat| Backing { device: stat.dev(), inode: stat.ino() });
        let below = |backing: &Backing| disk.as_ref().is_ok_and(|disk| disk == backing);
        let pools: HashSet<u64> =
            all.iter().filter(|(backing, _)| below(backing)).map(|(_, found)| found.device.device).collect();
        let told: HashMap<u32, Backing> =
            all.into_iter().map(|(backing, found)| (found.device.number, backing)).collect();
        let mut ours = Vec::new();
        for entry in std::fs::read_dir("/sys/block")? {
            let name = entry?.file_name();
            let number = name.to_str().and_then(|name| name.strip_prefix("loop")?.parse().ok());
            let Some(device) = number.map(Loop::new) else { continue };
            let backing = told.get(&device.number).copied();
            let is_ours = match backing {
                Some(backing) => pools.contains(&backing.device),
                None => device.backing_name().is_some_and(|name| name.contains(&self.mark)),
            };
            if is_ours {
                ours.push(Ours { device, backing });
            }
        }
        Ok(ours)
    }
}

/// What no device shows that tells what it shows: one that came to show a stranger's file meanwhile is left alone.
const NOWHERE: Backing = Backing { device: 0, inode: 0 };
