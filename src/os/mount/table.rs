//! The kernel's mount table, read as it is.
//!
//! Owns: `/proc/self/mountinfo`, and what listmount(2) and statmount(2) say instead. Never: decides what a mount means.

use std::borrow::Cow;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use rustix::fs::{AtFlags, CWD, StatxFlags};

use super::raw;
use crate::error::{Error, Result};

/// The table of a busy node, in bytes.
const USUAL: usize = 64 * 1024;

/// One line of the mount table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// The mount's id; the kernel uses it again after the unmount.
    pub id: u64,
    /// The id of the mount that this one sits on.
    pub parent: u64,
    /// The filesystem's device number, as in `st_dev` (btrfs shows another one there).
    pub device: u64,
    /// The directory or file within the filesystem that is the root of this mount.
    pub root: PathBuf,
    /// Where it is mounted, as seen from this process.
    pub point: PathBuf,
    /// The filesystem's type.
    pub kind: String,
    /// The device, or what else it was mounted from.
    pub source: PathBuf,
    /// Whether this mount is read-only.
    pub read_only: bool,
    /// Whether the filesystem below is read-only.
    pub super_read_only: bool,
    /// Whether the filesystem gave up after an error: it is read-only until it is mounted anew.
    pub emergency: bool,
    /// Whether mounts below it propagate to other namespaces.
    pub shared: bool,
    /// The options of the mount.
    pub options: String,
    /// The options of the filesystem.
    pub super_options: String,
}

/// The whole table, in the kernel's order: of several mounts on one point the last is on top.
pub fn table() -> Result<Vec<Mount>> {
    let text = read().map_err(|error| Error::host("failed to read the mount table", error))?;
    mounts_in(&text)
}

/// The mounts of a text like `/proc/self/mountinfo`, in its order.
///
/// # Errors
/// `Corrupt` with the first line that cannot be read.
pub fn mounts_in(text: &[u8]) -> Result<Vec<Mount>> {
    text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(parse).collect()
}

/// In as few reads as there can be: the table may change between two.
fn read() -> io::Result<Vec<u8>> {
    let mut text = Vec::with_capacity(USUAL);
    fs::File::open("/proc/self/mountinfo")?.read_to_end(&mut text)?;
    Ok(text)
}

/// Every mount of one filesystem, by its device number.
pub fn of_device(device: u64) -> Result<Vec<Mount>> {
    let mut mounts = table()?;
    mounts.retain(|mount| mount.device == device);
    Ok(mounts)
}

/// Where a part of a filesystem is mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seat {
    /// The mount's id, as in [`Mount`].
    pub id: u64,
    /// The device number of the mounted filesystem.
    pub device: u64,
    /// The directory or file within the filesystem that is the root of the mount.
    pub root: PathBuf,
    /// Where it is mounted, as seen from this process.
    pub point: PathBuf,
    /// Whether the mount or its filesystem is read-only.
    pub read_only: bool,
}

impl From<Mount> for Seat {
    fn from(mount: Mount) -> Seat {
        let read_only = mount.read_only || mount.super_read_only;
        Seat { id: mount.id, device: mount.device, root: mount.root, point: mount.point, read_only }
    }
}

/// What the mounts that are looked for show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of {
    /// A part of the filesystem with this device number.
    Filesystem(u64),
    /// The loop device with this number: the filesystem on it, or its node in whichever `/dev`: that of a container may be
    /// another filesystem. Who is about to free a device has to know of both.
    Loop(u64),
}

/// Where that is mounted. To write the whole table costs the kernel some 2 µs a mount, and a busy node has hundreds; so each
/// is asked for its filesystem alone, and only the right ones for their paths. Before Linux 6.8, or where a filter of system
/// calls forbids it, the table is read.
pub fn seats(of: Of) -> Result<Vec<Seat>> {
    listed(of).or_else(|error| {
        tracing::debug!(%error, "mounts cannot be listed; the whole table is read");
        tabled(of)
    })
}

fn listed(of: Of) -> io::Result<Vec<Seat>> {
    let mut seats = Vec::new();
    for id in raw::listmount()? {
        let seat = raw::statmount(id).and_then(|facts| {
            let near = of.is_near(facts.device, facts.magic == raw::TMPFS_MAGIC);
            let paths = near.then(|| raw::paths_of(id)).transpose()?;
            let (device, read_only) = (facts.device, facts.read_only);
            Ok(paths.map(|(root, point)| Seat { id: facts.id, device, root, point, read_only }))
        });
        match seat {
            Ok(seat) => seats.extend(seat.filter(|seat| of.is_at(seat))),
            // Unmounted since it was listed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(seats)
}

pub(super) fn tabled(of: Of) -> Result<Vec<Seat>> {
    let near = |mount: &Mount| of.is_near(mount.device, matches!(mount.kind.as_str(), "devtmpfs" | "tmpfs"));
    let seats = table()?.into_iter().filter(near).map(Seat::from);
    Ok(seats.filter(|seat| of.is_at(seat)).collect())
}

/// The node of the loop device with this number, as the root of a bind of it.
fn loop_node(number: u64) -> PathBuf {
    PathBuf::from(format!("/loop{}", rustix::fs::minor(number)))
}

impl Of {
    /// Whether a mount of a filesystem may show it: `nodes` says that there may be device nodes of the kernel's in it.
    fn is_near(self, device: u64, nodes: bool) -> bool {
        match self {
            Of::Filesystem(of) => device == of,
            Of::Loop(number) => device == number || nodes,
        }
    }

    /// Whether a mount that is near does show it.
    fn is_at(self, seat: &Seat) -> bool {
        match self {
            Of::Filesystem(_) => true,
            Of::Loop(number) => {
                seat.device == number || (seat.root == loop_node(number) && seat.may_be_node(number))
            }
        }
    }
}

impl Seat {
    /// A tenant's directory may have the name of a node, so that is looked at. What cannot be looked at, since something covers
    /// it, counts: a device that somebody may use must not be taken for one that nobody does.
    fn may_be_node(&self, number: u64) -> bool {
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT | AtFlags::STATX_DONT_SYNC;
        let wanted = StatxFlags::BASIC_STATS | StatxFlags::MNT_ID;
        match rustix::fs::statx(CWD, &self.point, flags, wanted) {
            Ok(stat) if stat.stx_mnt_id == self.id => {
                rustix::fs::makedev(stat.stx_rdev_major, stat.stx_rdev_minor) == number
            }
            Ok(_) | Err(_) => true,
        }
    }
}

/// The id of this boot: what was noted under another one is void.
pub fn boot_id() -> Result<String> {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map_err(|error| Error::host("failed to read the boot id", error))?;
    Ok(text.trim().to_owned())
}

fn parse(line: &[u8]) -> Result<Mount> {
    fields(line).ok_or_else(|| {
        let line = crate::error::quoted(&String::from_utf8_lossy(line));
        Error::Corrupt(format!("the mount table has a line that cannot be read: {line}"))
    })
}

fn fields(line: &[u8]) -> Option<Mount> {
    let mut words = line.split(|byte| *byte == b' ');
    let mut word = || words.next();
    let id = number(word()?)?;
    let parent = number(word()?)?;
    let device = device(word()?)?;
    let root = PathBuf::from(unescaped(word()?).into_owned());
    let point = PathBuf::from(unescaped(word()?).into_owned());
    let options = plain(word()?);
    let mut shared = false;
    // Any number of optional fields, ended by a single dash.
    loop {
        let optional = word()?;
        if optional == b"-" {
            break;
        }
        shared |= optional.starts_with(b"shared:");
    }
    let kind = plain(word()?);
    let source = PathBuf::from(unescaped(word()?).into_owned());
    let super_options = plain(word().unwrap_or_default());
    Some(Mount {
        read_only: has(&options, "ro"),
        super_read_only: has(&super_options, "ro"),
        emergency: has(&super_options, "emergency_ro") || has(&super_options, "shutdown"),
        id,
        parent,
        device,
        root,
        point,
        kind,
        source,
        shared,
        options,
        super_options,
    })
}

fn has(options: &str, word: &str) -> bool {
    options.split(',').any(|option| option == word)
}

fn number(word: &[u8]) -> Option<u64> {
    std::str::from_utf8(word).ok()?.parse().ok()
}

fn device(word: &[u8]) -> Option<u64> {
    let (major, minor) = std::str::from_utf8(word).ok()?.split_once(':')?;
    Some(rustix::fs::makedev(major.parse().ok()?, minor.parse().ok()?))
}

fn plain(word: &[u8]) -> String {
    unescaped(word).to_string_lossy().into_owned()
}

/// The kernel writes blank, tab, newline, backslash (and in sources `#`) as a backslash and three octal digits.
fn unescaped(word: &[u8]) -> Cow<'_, OsStr> {
    if !word.contains(&b'\\') || planted!("escapes-kept") {
        return Cow::Borrowed(OsStr::from_bytes(word));
    }
    let mut bytes = Vec::with_capacity(word.len());
    let mut rest = word;
    while let Some((first, after)) = rest.split_first() {
        let octal = after.get(..3).filter(|_| *first == b'\\').and_then(octal);
        match octal {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[3..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    Cow::Owned(OsString::from_vec(bytes))
}

fn octal(digits: &[u8]) -> Option<u8> {
    u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_with_every_oddity_is_understood() {
        let line =
            br"36 35 7:3 /a\040b\134 /mnt/x\011y\012z rw,noatime shared:1 master:2 - ext4 /dev/loop\0433 ro,emergency_ro";
        let mount = parse(line).unwrap();
        assert_eq!(mount.root, PathBuf::from("/a b\\"));
        assert_eq!(mount.point, PathBuf::from("/mnt/x\ty\nz"));
        assert_eq!(mount.source, PathBuf::from("/dev/loop#3"));
        assert_eq!((mount.id, mount.parent, mount.device), (36, 35, rustix::fs::makedev(7, 3)));
        assert!(mount.shared && !mount.read_only && mount.super_read_only && mount.emergency);
        let bare = parse(b"1 0 0:1 / / ro - rootfs  rw").unwrap();
        assert!(!bare.shared && bare.read_only && bare.source.as_os_str().is_empty());
    }

    #[test]
    fn a_line_that_is_cut_off_is_an_error() {
        for line in [&b""[..], b"1 2", b"x 0 0:1 / / ro - rootfs none rw", b"1 0 0:1 / / ro shared:1"] {
            assert!(matches!(parse(line), Err(Error::Corrupt(_))), "{line:?}");
        }
    }

    #[test]
    fn mounts_that_are_listed_are_those_of_the_table() {
        if let Err(error) = raw::listmount() {
            println!("SKIP: this kernel or its filter lists no mounts: {error}");
            return;
        }
        let sorted = |mut seats: Vec<Seat>| {
            seats.sort_by_key(|seat| (seat.point.clone(), seat.root.clone()));
            seats
        };
        let differs = || {
            let mut devices = table().unwrap().into_iter().map(|mount| mount.device);
            devices.find_map(|device| {
                let of = Of::Filesystem(device);
                let (listed, tabled) = (sorted(listed(of).unwrap()), sorted(tabled(of).unwrap()));
                (listed != tabled).then_some((listed, tabled))
            })
        };
        // Tests beside this one mount and unmount: one look without a difference is enough.
        assert!((0..100).any(|_| differs().is_none()), "{:#?}", differs());
    }

    #[test]
    fn the_real_table_holds_a_root_and_the_boot_has_an_id() {
        assert!(table().unwrap().iter().any(|mount| mount.point.as_os_str() == "/"));
        assert_eq!(boot_id().unwrap().len(), 36);
    }
}
