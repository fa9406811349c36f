//! Real filesystems in image files and on loop devices, as root.

use std::fs::{File, OpenOptions};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::*;
use crate::os::file::program_path;
use crate::os::loopdev::Loop;
use crate::os::mount::scene::{Scene, UUID};
use crate::os::mount::{MountOption, Tree};

const MIB: u64 = 1 << 20;

fn image(scene: &Scene, name: &str, mib: u64) -> (File, PathBuf) {
    let path = scene.root().join(name);
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
    file.set_len(mib * MIB).unwrap();
    (file, path)
}

/// An xfs that is mounted for nobody to see, and its root.
pub(super) fn mounted_xfs(scene: &mut Scene) -> (Tree, std::os::fd::OwnedFd) {
    let (_, path) = image(scene, "image", 300);
    make(FsKind::Xfs, &path, UUID, None).unwrap();
    let device = scene.attach_loop(&path);
    let tree = Tree::filesystem("xfs", &device, &[MountOption::no_uuid()]).unwrap();
    let root = tree.root().unwrap();
    (tree, root)
}

fn foreign(file: &File) -> String {
    let found = probe(file).unwrap();
    let Found::Foreign(what) = found else { panic!("{found:?}") };
    what
}

#[test]
fn what_was_made_is_recognised_with_its_uuid_and_size() {
    let scene = Scene::new();
    for (kind, mib) in [(FsKind::Ext4, 16), (FsKind::Ext4, 5000), (FsKind::Xfs, 300), (FsKind::Xfs, 5000)] {
        let (file, _) = image(&scene, "image", mib);
        assert_eq!(probe(&file).unwrap(), Found::Empty);
        assert_eq!(provably_empty(&file, mib * MIB).unwrap(), Emptiness::Empty);
        make(kind, &program_path(&file), UUID, Some("vol")).unwrap();
        let found = probe(&file).unwrap();
        let size_bytes = mib * MIB;
        let uuid = UUID.to_owned();
        match kind {
            FsKind::Ext4 => assert_eq!(found, Found::Ext4 { uuid, size_bytes, clean: true, errors: false }),
            FsKind::Xfs => assert_eq!(found, Found::Xfs { uuid, size_bytes }),
        }
        assert!(matches!(provably_empty(&file, size_bytes).unwrap(), Emptiness::NotEmpty { .. }));
        assert_eq!(file.metadata().unwrap().len(), size_bytes);
    }
}

#[test]
fn an_empty_filesystem_takes_little_of_a_sparse_image_and_keeps_a_full_one() {
    let scene = Scene::new();
    for (kind, most_mib) in [(FsKind::Ext4, 8), (FsKind::Xfs, 70)] {
        let (file, path) = image(&scene, "sparse", 1 << 20);
        make(kind, &path, UUID, None).unwrap();
        let allocated = file.metadata().unwrap().blocks() * 512;
        assert!(allocated < (most_mib + 16) * MIB, "{kind}: {} KiB", allocated / 1024);
        let (file, path) = image(&scene, "full", 400);
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, 400 * MIB).unwrap();
        make(kind, &path, UUID, None).unwrap();
        let allocated = file.metadata().unwrap().blocks() * 512;
        assert!(allocated >= 400 * MIB, "{kind}: mkfs gave {} KiB back", (400 * MIB - allocated) / 1024);
    }
}

#[test]
fn the_features_are_the_pinned_ones_whatever_the_host_prefers() {
    let scene = Scene::new();
    let (file, path) = image(&scene, "image", 300);
    make(FsKind::Ext4, &path, UUID, None).unwrap();
    let mut words = [[0u8; 4]; 3];
    for (index, word) in words.iter_mut().enumerate() {
        file.read_exact_at(word, 1024 + 0x5C + index as u64 * 4).unwrap();
    }
    let [compatible, incompatible, read_only] = words.map(u32::from_le_bytes);
    // has_journal, ext_attr, resize_inode, dir_index; filetype, extents, 64bit, flex_bg, csum_seed; and six to read only.
    assert_eq!(
        (compatible, incompatible, read_only),
        (0x3c, 0x22c2, 0x46b),
        "{compatible:x} {incompatible:x} {read_only:x}"
    );
    make(FsKind::Xfs, &path, UUID, None).unwrap();
    let mut words = [[0u8; 4]; 3];
    for (word, at) in words.iter_mut().zip([208, 212, 216]) {
        file.read_exact_at(word, at).unwrap();
    }
    let [_, read_only, incompatible] = words.map(u32::from_be_bytes);
    // finobt, reflink, inobtcount; ftype, sparse inodes, bigtime.
    assert_eq!((read_only, incompatible), (0xd, 0xb), "{read_only:x} {incompatible:x}");
}

#[test]
fn strangers_are_named_and_never_empty() {
    let scene = Scene::new();
    let strangers: [(u64, &[u8], &str); 13] = [
        (0x10040, b"_BHRfS_M", "btrfs"),
        (512, b"LABELONE\x01\0\0\0\0\0\0\0\0\0\0\0\x20\0\0\0LVM2 001", "LVM"),
        (0, b"LUKS\xba\xbe\0\x02", "LUKS"),
        (4086, b"SWAPSPACE2", "swap"),
        (510, b"\x55\xaa", "MBR"),
        (512, b"EFI PART", "GPT"),
        (64 * MIB - 512, b"EFI PART", "GPT"),
        (4096, b"\xfc\x4e\x2b\xa9", "RAID"),
        (64 * MIB - 65536, b"\xfc\x4e\x2b\xa9", "RAID"),
        (64 * MIB - 8192, b"\xfc\x4e\x2b\xa9", "RAID"),
        (128 * 1024 + 4096, b"\x0c\xb1\xba\0\0\0\0\0", "ZFS"),
        (64 * MIB - 1, b"\x01", "unknown data at byte 67108863"),
        (700, b"\x01", "unknown data at byte 700"),
    ];
    for (at, bytes, want) in strangers {
        let (file, _) = image(&scene, "image", 64);
        file.write_all_at(bytes, at).unwrap();
        let what = foreign(&file);
        assert!(what.contains(want), "{want}: {what}");
        let emptiness = provably_empty(&file, 64 * MIB).unwrap();
        assert!(matches!(emptiness, Emptiness::NotEmpty { .. }), "{want}: {emptiness:?}");
    }
}

#[test]
fn a_lost_superblock_is_not_emptiness() {
    let scene = Scene::new();
    for kind in [FsKind::Ext4, FsKind::Xfs] {
        let (file, path) = image(&scene, "image", 400);
        make(kind, &path, UUID, None).unwrap();
        file.write_all_at(&[0; 4096], 0).unwrap();
        assert!(!matches!(probe(&file).unwrap(), Found::Ext4 { .. } | Found::Xfs { .. }));
        let emptiness = provably_empty(&file, 400 * MIB).unwrap();
        assert!(matches!(emptiness, Emptiness::NotEmpty { .. }), "{kind}: {emptiness:?}");
        // Even with both ends wiped, the copies of the superblock betray it.
        file.write_all_at(&vec![0; 5 << 20], 0).unwrap();
        file.write_all_at(&vec![0; 5 << 20], 395 * MIB).unwrap();
        let emptiness = provably_empty(&file, 400 * MIB).unwrap();
        assert!(matches!(emptiness, Emptiness::NotEmpty { .. }), "{kind}: {emptiness:?}");
    }
}

#[test]
fn a_failed_read_is_an_error_and_a_short_file_is_not_a_panic() {
    let scene = Scene::new();
    let (_, path) = image(&scene, "image", 1);
    let write_only = OpenOptions::new().write(true).open(&path).unwrap();
    assert!(matches!(probe(&write_only), Err(Error::Host { .. })));
    assert!(matches!(provably_empty(&write_only, MIB), Err(Error::Host { .. })));
    for length in [0, 1, 511, 1500, 4096, 70_000] {
        write_only.set_len(length).unwrap();
        let file = File::open(&path).unwrap();
        assert_eq!(probe(&file).unwrap(), Found::Empty);
        assert_eq!(provably_empty(&file, length).unwrap(), Emptiness::Empty);
    }
}

#[test]
fn mkfs_that_cannot_work_says_why() {
    let scene = Scene::new();
    let (_, path) = image(&scene, "image", 250);
    let error = make(FsKind::Xfs, &path, UUID, None).unwrap_err();
    assert!(
        matches!(&error, Error::Program { said, .. } if said.contains("300MB") || said.contains("too large")),
        "{error:?}"
    );
    assert!(!error.to_string().contains("-m crc"), "{error}");
    make(FsKind::Ext4, &scene.root().join("gone/image"), UUID, None).unwrap_err();
}

#[test]
fn a_pool_filesystem_is_not_made_over_something() {
    let mut scene = Scene::new();
    let (_, path) = image(&scene, "image", 512);
    let device = scene.attach_loop(&path);
    make_pool_filesystem(&device, UUID, Some("pool")).unwrap();
    let found = probe(&File::open(&device).unwrap()).unwrap();
    assert_eq!(found, Found::Xfs { uuid: UUID.to_owned(), size_bytes: 512 * MIB });
    assert!(matches!(make_pool_filesystem(&device, UUID, None), Err(Error::Program { .. })));
    drop(Tree::filesystem("xfs", &device, &[]).unwrap());
}

fn device_of(path: &Path) -> Loop {
    Loop::from_device(path.metadata().unwrap().rdev()).unwrap()
}

/// Grows the image and its loop device.
fn enlarge(path: &Path, device: &Path, mib: u64) {
    OpenOptions::new().write(true).open(path).unwrap().set_len(mib * MIB).unwrap();
    device_of(device).resize().unwrap();
}

#[test]
fn xfs_grows_while_it_is_mounted() {
    let mut scene = Scene::new();
    let (_, path) = image(&scene, "image", 300);
    make(FsKind::Xfs, &path, UUID, None).unwrap();
    let device = scene.attach_loop(&path);
    let tree = Tree::filesystem("xfs", &device, &[]).unwrap();
    let root = tree.root().unwrap();
    assert_eq!(grow::size_mounted(&root, FsKind::Xfs).unwrap(), 300 * MIB);
    assert_eq!(grow_mounted(&root, FsKind::Xfs, 300 * MIB).unwrap(), Growth::Already);
    let before = space(&root).unwrap();
    enlarge(&path, &device, 700);
    assert_eq!(grow_mounted(&root, FsKind::Xfs, 700 * MIB).unwrap(), Growth::Now);
    assert_eq!(grow_mounted(&root, FsKind::Xfs, 700 * MIB).unwrap(), Growth::Already);
    assert_eq!(grow::size_mounted(&root, FsKind::Xfs).unwrap(), 700 * MIB);
    let after = space(&root).unwrap();
    assert!(after.total > before.total + 390 * MIB, "{before:?} {after:?}");
    // Beyond the device nothing grows, and it says so.
    grow_mounted(&root, FsKind::Xfs, 9000 * MIB).unwrap_err();
}

/// The kernel (6.18) reads nothing beyond the size that the superblock on the disk says, also while it replays a log in which the last
/// group comes before the new size; and xfs writes that back when it likes.
#[test]
fn what_has_grown_twice_can_be_mounted_after_its_power_was_cut() {
    let mut scene = Scene::new();
    let (_, path) = image(&scene, "image", 300);
    make(FsKind::Xfs, &path, UUID, None).unwrap();
    let device = scene.attach_loop(&path);
    let tree = Tree::filesystem("xfs", &device, &[MountOption::no_uuid()]).unwrap();
    let root = tree.root().unwrap();
    for mib in [316, 331] {
        enlarge(&path, &device, mib);
        assert_eq!(grow_mounted(&root, FsKind::Xfs, mib * MIB).unwrap(), Growth::Now);
    }
    assert!(grow::is_behind(root.as_fd(), 331 * 256).unwrap(), "xfs has written its new size back at once");
    for number in 0..4 {
        rustix::fs::mkdirat(&root, format!("{number}"), rustix::fs::Mode::RWXU).unwrap();
        sync(&root).unwrap();
    }
    let cut = scene.root().join("cut");
    std::fs::copy(&path, &cut).unwrap();
    drop((root, tree));
    let device = scene.attach_loop(&cut);
    let tree = Tree::filesystem("xfs", &device, &[MountOption::no_uuid()]).unwrap();
    let root = tree.root().unwrap();
    assert_eq!(grow::size_mounted(&root, FsKind::Xfs).unwrap(), 331 * MIB);
    enlarge(&cut, &device, 340);
    assert_eq!(grow_mounted(&root, FsKind::Xfs, 340 * MIB).unwrap(), Growth::Now);
    grow::write_back_xfs(root.as_fd()).unwrap();
    assert!(!grow::is_behind(root.as_fd(), 340 * 256).unwrap());
}

#[test]
fn ext4_grows_offline_and_online_only_with_the_capability() {
    let mut scene = Scene::new();
    let (_, path) = image(&scene, "image", 300);
    make(FsKind::Ext4, &path, UUID, None).unwrap();
    let device = scene.attach_loop(&path);
    let tree = Tree::filesystem("ext4", &device, &[]).unwrap();
    let root = tree.root().unwrap();
    assert_eq!(grow::size_mounted(&root, FsKind::Ext4).unwrap(), 300 * MIB);
    assert_eq!(grow_mounted(&root, FsKind::Ext4, 300 * MIB).unwrap(), Growth::Already);
    enlarge(&path, &device, 700);
    let capable = rustix::thread::capabilities(None).unwrap().effective;
    if capable.contains(rustix::thread::CapabilitySet::SYS_RESOURCE) {
        assert_eq!(grow_mounted(&root, FsKind::Ext4, 700 * MIB).unwrap(), Growth::Now);
    } else {
        let error = grow_mounted(&root, FsKind::Ext4, 700 * MIB).unwrap_err();
        assert!(
            matches!(&error, Error::Precondition(text) if text.contains("CAP_SYS_RESOURCE")),
            "{error:?}"
        );
        assert_eq!(grow::size_mounted(&root, FsKind::Ext4).unwrap(), 300 * MIB);
    }
    drop((root, tree));
    grow_unmounted_ext4(&device).unwrap();
    grow_unmounted_ext4(&device).unwrap();
    let found = probe(&File::open(&device).unwrap()).unwrap();
    assert_eq!(
        found,
        Found::Ext4 { uuid: UUID.to_owned(), size_bytes: 700 * MIB, clean: true, errors: false }
    );
    let tree = Tree::filesystem("ext4", &device, &[]).unwrap();
    assert_eq!(grow_mounted(tree.root().unwrap(), FsKind::Ext4, 700 * MIB).unwrap(), Growth::Already);
}

#[test]
fn every_odd_size_counts_as_full_after_it_grew() {
    let scene = Scene::new();
    // 128 MiB is one ext4 group: around it a last group is too small to be used.
    for kib in [300 * 1024 + 4, 384 * 1024 + 8, 384 * 1024 + 6000, 384 * 1024 + 20_000] {
        let (file, path) = image(&scene, "image", 300);
        make(FsKind::Ext4, &path, UUID, None).unwrap();
        file.set_len(kib * 1024).unwrap();
        grow_unmounted_ext4(&path).unwrap();
        let Found::Ext4 { size_bytes, .. } = probe(&file).unwrap() else { panic!() };
        assert!(grow::ext4_fills(size_bytes, kib * 1024), "{kib} KiB: {size_bytes}");
    }
}

#[test]
fn a_dirty_ext4_is_repaired_and_a_broken_one_is_left_alone() {
    let mut scene = Scene::new();
    let (file, path) = image(&scene, "image", 64);
    make(FsKind::Ext4, &path, UUID, None).unwrap();
    grow_unmounted_ext4(&path).unwrap();
    let device = scene.attach_loop(&path);
    let tree = Tree::filesystem("ext4", &device, &[]).unwrap();
    let root = tree.root().unwrap();
    sync(&root).unwrap();
    // A copy taken while it is mounted is what a power cut leaves.
    let (copy, copy_path) = image(&scene, "copy", 64);
    std::io::copy(&mut File::open(&path).unwrap(), &mut &copy).unwrap();
    assert!(matches!(probe(&copy).unwrap(), Found::Ext4 { clean: false, .. }));
    grow_unmounted_ext4(&copy_path).unwrap();
    assert!(matches!(probe(&copy).unwrap(), Found::Ext4 { clean: true, .. }));
    drop((root, tree));
    // The inode table's root directory is gone: more than `-p` may repair.
    for group in 0..64 * 256 {
        if group > 1 {
            file.write_all_at(&[0xA5; 512], group * 4096).unwrap();
        }
    }
    let broken = grow_unmounted_ext4(&path).unwrap_err();
    assert!(matches!(broken, Error::Corrupt(_) | Error::Program { .. }), "{broken:?}");
}

#[test]
fn a_mounted_filesystem_is_synced_trimmed_and_measured() {
    let mut scene = Scene::new();
    let (_tree, root) = mounted_xfs(&mut scene);
    sync(&root).unwrap();
    assert!(trim(&root).unwrap() > 0);
    let space = space(&root).unwrap();
    assert!(
        space.available <= space.free && space.free < space.total && space.total < 300 * MIB,
        "{space:?}"
    );
    assert!(space.inodes_free < space.inodes, "{space:?}");
}
