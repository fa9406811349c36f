//! Real mounts, as root.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::path::Path;

use rustix::fs::{FileType, Mode};

use super::scene::Scene;
use super::*;
use crate::error::Error;
use crate::os::fs as filesystems;

fn mounted(place: &Place) -> Mounted {
    let here = place.look().unwrap();
    let Here::Mounted(mounted) = here else { panic!("{here:?}") };
    mounted
}

fn message(result: Result<impl std::fmt::Debug>) -> String {
    result.unwrap_err().to_string()
}

#[test]
fn a_walk_refuses_every_way_out() {
    let scene = Scene::new();
    let root = scene.root();
    scene.make_dir("a/b");
    symlink("a", root.join("link")).unwrap();
    symlink("/", root.join("out")).unwrap();
    let bad = [
        "relative/path".to_owned(),
        String::new(),
        "/etc/passwd".to_owned(),
        format!("{}", root.display()),
        format!("{}x/a", root.display()),
        format!("{}/a/../a/c", root.display()),
        format!("{}/..", root.display()),
        format!("{}/link/b", root.display()),
        format!("{}/out/etc/x", root.display()),
        format!("{}/a/\0", root.display()),
        format!("{}/a/{}", root.display(), "n".repeat(256)),
        format!("{}/{}", root.display(), "n/".repeat(3000)),
    ];
    for path in bad {
        let error = Place::walk(root, Path::new(&path)).unwrap_err();
        assert!(matches!(error, Error::Invalid(_)), "{path:?}: {error:?}");
        let said = error.to_string();
        assert!(said.contains(&format!("`{}`", root.display())) && !said.contains('\0'), "{said}");
    }
    for missing in ["c/d", "a/c/d"] {
        let error = Place::walk(root, &root.join(missing)).unwrap_err();
        assert!(matches!(error, Error::Precondition(_)), "{missing}: {error:?}");
    }
    Place::walk(root, &root.join("a//./b/")).unwrap();
}

#[test]
fn a_place_shows_what_is_there() {
    let scene = Scene::new();
    scene.make_dir("empty");
    fs::write(scene.make_dir("full").join("x"), "").unwrap();
    fs::write(scene.root().join("file"), "text").unwrap();
    fs::write(scene.root().join("none"), "").unwrap();
    symlink("empty", scene.root().join("link")).unwrap();
    assert!(matches!(scene.place("nothing").look().unwrap(), Here::Nothing));
    assert!(matches!(scene.place("empty").look().unwrap(), Here::Directory { empty: true }));
    assert!(matches!(scene.place("full").look().unwrap(), Here::Directory { empty: false }));
    assert!(matches!(scene.place("file").look().unwrap(), Here::File { empty: false }));
    assert!(matches!(scene.place("none").look().unwrap(), Here::File { empty: true }));
    assert!(matches!(scene.place("link").look().unwrap(), Here::Other));
}

#[test]
fn only_what_is_empty_is_removed() {
    let scene = Scene::new();
    fs::write(scene.make_dir("full").join("x"), "").unwrap();
    fs::write(scene.root().join("file"), "text").unwrap();
    symlink("full", scene.root().join("link")).unwrap();
    for kept in ["full", "file", "link"] {
        assert!(matches!(scene.place(kept).remove(), Err(Error::Precondition(_))), "{kept}");
        assert!(scene.root().join(kept).symlink_metadata().is_ok(), "{kept}");
        scene.place(kept).make_file(0o600).unwrap_err();
    }
    scene.place("full").make_directory(0o750).unwrap();
    scene.place("file").make_directory(0o750).unwrap_err();
    scene.place("link").make_directory(0o750).unwrap_err();
    for (name, make) in
        [("d", Place::make_directory as fn(&Place, u32) -> Result<()>), ("f", Place::make_file)]
    {
        let place = scene.place(name);
        make(&place, 0o750).unwrap();
        make(&place, 0o750).unwrap();
        assert_eq!(fs::metadata(place.path()).unwrap().mode() & 0o7777, 0o750);
        place.remove().unwrap();
        place.remove().unwrap();
        assert!(!place.path().exists());
    }
}

#[test]
fn a_filesystem_mounts_with_its_options_and_nothing_else() {
    let mut scene = Scene::new();
    scene.make_dir("at");
    let device = scene.device("image", filesystems::FsKind::Ext4, 64);
    let words = ["noexec", "noatime", "commit=7", "data=ordered", "sync"].map(String::from);
    let options = MountOption::parse_all(&words, "ext4").unwrap();
    let tree = Tree::filesystem("ext4", &device, &options).unwrap();
    let root = tree.root_stat().unwrap();
    assert_eq!((root.device, root.inode), (of_device(root.device).map(|_| root.device).unwrap(), 2));
    assert!(of_device(root.device).unwrap().is_empty(), "a detached tree is in no table");
    tree.attach(&scene.place("at")).unwrap();
    let seen = of_device(root.device).unwrap();
    assert_eq!(seen.len(), 1);
    for word in ["nosuid", "nodev", "noexec", "noatime"] {
        assert!(seen[0].options.split(',').any(|option| option == word), "{word}: {}", seen[0].options);
    }
    assert!(seen[0].super_options.contains("commit=7") && seen[0].super_options.contains("sync"), "{seen:?}");
    let here = mounted(&scene.place("at"));
    assert_eq!((here.device, here.inode, here.read_only), (root.device, root.inode, false));
    assert_eq!(here.mount_id, seen[0].id);
    assert_eq!(scene.place("at").unmount_all().unwrap(), 1);
    assert_eq!(scene.place("at").unmount_all().unwrap(), 0);
    scene.place("at").remove().unwrap();
}

#[test]
fn a_dropped_tree_leaves_the_device_free() {
    let mut scene = Scene::new();
    let device = scene.device("image", filesystems::FsKind::Ext4, 64);
    let tree = Tree::filesystem("ext4", &device, &[]).unwrap();
    let file = fs::File::open(&device).unwrap();
    let used = filesystems::provably_empty(&file, 64 << 20).unwrap();
    assert!(matches!(used, filesystems::Emptiness::InUse(_)), "{used:?}");
    drop(tree);
    let free = filesystems::provably_empty(&file, 64 << 20).unwrap();
    assert!(matches!(free, filesystems::Emptiness::NotEmpty { .. }), "{free:?}");
}

#[test]
fn a_wrong_filesystem_is_an_error_and_mounts_nothing() {
    let mut scene = Scene::new();
    let device = scene.device("image", filesystems::FsKind::Ext4, 64);
    let said = message(Tree::filesystem("xfs", &device, &[MountOption::no_uuid()]));
    assert!(said.contains("xfs") && said.contains("/dev/loop"), "{said}");
    let said = message(Tree::filesystem("ext4", Path::new("/dev/no-such-device"), &[]));
    assert!(said.contains("/dev/no-such-device"), "{said}");
    assert!(message(Tree::filesystem("nofs", &device, &[])).contains("the kernel has no nofs"));
}

#[test]
fn xfs_and_its_clone_mount_together_only_without_uuid() {
    let mut scene = Scene::new();
    let first = scene.device("one", filesystems::FsKind::Xfs, 300);
    let second = scene.device("two", filesystems::FsKind::Xfs, 300);
    let logsize = MountOption::parse_all(&["logbsize=64k".to_owned()], "xfs").unwrap()[0];
    let _tree = Tree::filesystem("xfs", &first, &[logsize]).unwrap();
    Tree::filesystem("xfs", &second, &[]).unwrap_err();
    Tree::filesystem("xfs", &second, &[MountOption::no_uuid()]).unwrap();
}

#[test]
fn a_read_only_tree_is_read_only_before_it_is_visible() {
    let scene = Scene::new();
    fs::write(scene.make_dir("source").join("x"), "text").unwrap();
    scene.make_dir("at");
    let tree = Tree::clone_of(scene.place("source").handle().unwrap()).unwrap();
    let options = MountOption::parse_all(&["noexec".to_owned(), "noatime".to_owned()], "ext4").unwrap();
    tree.restrict(&Restrict { read_only: ReadOnly::Yes, devices: Devices::Refused, options }).unwrap();
    let write = |root: &OwnedFd| {
        let flags = rustix::fs::OFlags::CREATE | rustix::fs::OFlags::WRONLY;
        rustix::fs::openat(root, "y", flags, rustix::fs::Mode::from_raw_mode(0o600))
    };
    assert_eq!(write(&tree.root().unwrap()).unwrap_err(), rustix::io::Errno::ROFS);
    tree.attach(&scene.place("at")).unwrap();
    assert_eq!(write(&scene.place("at").open_directory().unwrap()).unwrap_err(), rustix::io::Errno::ROFS);
    write(&scene.place("source").open_directory().unwrap()).unwrap();
    let here = mounted(&scene.place("at"));
    assert!(here.read_only && here.dead.is_none() && here.rdev == 0);
    let line = table().unwrap().into_iter().find(|mount| mount.id == here.mount_id).unwrap();
    assert!(
        line.read_only && line.options.contains("noexec") && line.options.contains("noatime"),
        "{line:?}"
    );
    assert!(matches!(scene.place("at").remove(), Err(Error::Busy(_))));
}

#[test]
fn stacked_mounts_go_all_at_once_and_the_ids_tell_them_apart() {
    let scene = Scene::new();
    scene.make_dir("one");
    scene.make_dir("two");
    scene.make_dir("at");
    for from in ["one", "two", "one"] {
        scene.bind(from, "at");
    }
    let at = scene.place("at");
    assert_eq!(mounted(&at).inode, fs::metadata(scene.root().join("one")).unwrap().ino());
    assert_eq!(at.unmount_all().unwrap(), 3);
    assert!(matches!(at.look().unwrap(), Here::Directory { empty: true }));
    scene.bind("one", "at");
    let before = mounted(&at).unique_id;
    at.unmount_all().unwrap();
    scene.bind("one", "at");
    if let (Some(before), Some(after)) = (before, mounted(&at).unique_id) {
        assert_ne!(before, after, "a unique id is never used again");
    }
}

#[test]
fn a_mount_in_use_stays_and_says_so() {
    let scene = Scene::new();
    scene.make_dir("source/below");
    scene.make_dir("at");
    scene.bind("source", "at");
    let open = scene.place("at").open_directory().unwrap();
    let error = scene.place("at").unmount_all().unwrap_err();
    assert!(matches!(error, Error::Busy(_)) && error.to_string().contains("in use"), "{error:?}");
    assert!(matches!(scene.place("at").look().unwrap(), Here::Mounted(_)));
    drop(open);
    scene.make_dir("other");
    scene.bind("other", "at/below");
    assert!(matches!(scene.place("at").unmount_all(), Err(Error::Busy(_))));
    scene.place("at/below").unmount_all().unwrap();
    assert_eq!(scene.place("at").unmount_all().unwrap(), 1);
}

#[test]
fn a_device_node_can_be_bound_on_a_file() {
    let mut scene = Scene::new();
    let device = scene.device("image", filesystems::FsKind::Ext4, 64);
    let at = scene.place("at");
    at.make_file(0o600).unwrap();
    let tree = Tree::clone_of_path(&device).unwrap();
    tree.restrict(&Restrict { devices: Devices::Allowed, ..Restrict::default() }).unwrap();
    let rdev = fs::metadata(&device).unwrap().rdev();
    assert_eq!(tree.root_stat().unwrap().rdev, rdev);
    tree.attach(&at).unwrap();
    assert_eq!(mounted(&at).rdev, rdev);
    assert!(fs::metadata(at.path()).unwrap().file_type().is_block_device());
    fs::File::open(at.path()).unwrap();
    assert_eq!(at.unmount_all().unwrap(), 1);
    at.remove().unwrap();
    let wrong = Tree::clone_of_path(&device).unwrap();
    scene.make_dir("dir");
    assert!(matches!(wrong.attach(&scene.place("dir")), Err(Error::Precondition(_))));
}

#[test]
fn a_symlink_at_the_end_redirects_neither_mount_nor_unmount() {
    let scene = Scene::new();
    scene.make_dir("source");
    scene.make_dir("victim");
    symlink("victim", scene.root().join("link")).unwrap();
    let tree = Tree::clone_of(scene.place("source").handle().unwrap()).unwrap();
    tree.attach(&scene.place("link")).unwrap_err();
    scene.place("link").handle().unwrap_err();
    scene.place("link").open_directory().unwrap_err();
    assert!(matches!(scene.place("victim").look().unwrap(), Here::Directory { empty: true }));
    scene.bind("source", "victim");
    assert_eq!(scene.place("link").unmount_all().unwrap(), 0);
    assert!(matches!(scene.place("victim").look().unwrap(), Here::Mounted(_)));
}

#[test]
fn a_shut_down_filesystem_still_unmounts() {
    let mut scene = Scene::new();
    for (name, kind) in [("a", filesystems::FsKind::Ext4), ("b", filesystems::FsKind::Xfs)] {
        let device = scene.device(&format!("{name}.img"), kind, 300);
        scene.make_dir(name);
        let tree = Tree::filesystem(kind.name(), &device, &[]).unwrap();
        shut_down(&tree.root().unwrap());
        tree.attach(&scene.place(name)).unwrap();
        assert!(matches!(scene.place(name).look().unwrap(), Here::Mounted(_)));
        assert_eq!(scene.place(name).unmount_all().unwrap(), 1);
        scene.place(name).remove().unwrap();
    }
}

/// FS_IOC_SHUTDOWN without a log flush: what a dying disk looks like.
#[expect(unsafe_code, reason = "rustix has no FS_IOC_SHUTDOWN")]
fn shut_down(root: &OwnedFd) {
    let mut how = 2u32;
    // SAFETY: the ioctl reads one u32 that lives across the call.
    unsafe {
        use rustix::ioctl::{Updater, ioctl, opcode};
        ioctl(root, Updater::<{ opcode::read::<u32>(b'X', 125) }, u32>::new(&mut how)).unwrap();
    }
}

#[test]
fn a_dead_mount_is_seen_and_unmounted() {
    let scene = Scene::new();
    scene.make_dir("at");
    // A FUSE connection that nobody answers, and that is then closed: ENOTCONN.
    let Ok(fuse) = fs::OpenOptions::new().read(true).write(true).open("/dev/fuse") else {
        panic!("this test needs /dev/fuse");
    };
    let data = format!("fd={},rootmode=40000,user_id=0,group_id=0", std::os::fd::AsRawFd::as_raw_fd(&fuse));
    let at = scene.root().join("at");
    let data = std::ffi::CString::new(data).unwrap();
    let flags = rustix::mount::MountFlags::NOSUID | rustix::mount::MountFlags::NODEV;
    rustix::mount::mount("none", &at, "fuse", flags, data.as_c_str()).unwrap();
    drop(fuse);
    assert_eq!(fs::metadata(&at).unwrap_err().raw_os_error(), Some(107));
    let here = mounted(&scene.place("at"));
    assert!(here.mount_id > 0, "{here:?}");
    assert_eq!(scene.place("at").unmount_all().unwrap(), 1);
    scene.place("at").remove().unwrap();
}

#[test]
fn a_directory_is_made_shared_once_and_what_is_below_propagates() {
    let scene = Scene::new();
    // Under systemd everything is shared: a private mount below makes both kinds of machine alike.
    let base = scene.make_dir("base");
    scene.bind("base", "base");
    rustix::mount::mount_change(&base, rustix::mount::MountPropagationFlags::PRIVATE).unwrap();
    let dir = scene.make_dir("base/shared");
    assert!(!is_shared(&dir).unwrap());
    assert!(ensure_shared(&dir).unwrap());
    assert!(!ensure_shared(&dir).unwrap());
    assert!(is_shared(&dir).unwrap());
    scene.make_dir("source");
    scene.make_dir("base/shared/at");
    scene.bind("source", "base/shared/at");
    let line = table().unwrap().into_iter().find(|mount| mount.point == dir.join("at")).unwrap();
    assert!(line.shared, "{line:?}");
    assert_eq!(unmount_path(&dir.join("at")).unwrap(), 1);
    assert_eq!(unmount_path(&dir).unwrap(), 1);
    assert_eq!(unmount_path(&dir).unwrap(), 0);
    scene.make_dir("base/holder/at");
    scene.bind("source", "base/holder/at");
    assert!(matches!(ensure_shared(&base.join("holder")), Err(Error::Precondition(_))));
}

#[test]
fn the_binds_of_a_loop_node_are_found_whichever_dev_it_lies_in() {
    let scene = Scene::new();
    scene.make_dir("dev");
    // As in a container: a tmpfs with nodes of its own.
    Tree::filesystem("tmpfs", Path::new("tmpfs"), &[]).unwrap().attach(&scene.place("dev")).unwrap();
    let number = rustix::fs::makedev(7, 4242);
    let node = scene.root().join("dev/loop4242");
    rustix::fs::mknodat(rustix::fs::CWD, &node, FileType::BlockDevice, Mode::RUSR, number).unwrap();
    fs::write(scene.root().join("target"), b"").unwrap();
    scene.bind("dev/loop4242", "target");
    // A tenant's directory of that name, in a tmpfs of its own.
    scene.make_dir("tenant");
    Tree::filesystem("tmpfs", Path::new("tmpfs"), &[]).unwrap().attach(&scene.place("tenant")).unwrap();
    scene.make_dir("tenant/loop4242");
    scene.make_dir("fooled");
    scene.bind("tenant/loop4242", "fooled");
    let shown = |number| {
        [seats(Of::Loop(number)), table::tabled(Of::Loop(number))]
            .map(|found| found.unwrap().into_iter().map(|seat| seat.point).collect::<Vec<_>>())
    };
    assert_eq!(shown(number), [[scene.root().join("target")], [scene.root().join("target")]]);
    // Whoever sees only what covers it must not believe that the device is free.
    scene.make_dir("cover");
    fs::write(scene.root().join("cover/file"), b"").unwrap();
    scene.bind("cover/file", "target");
    assert_eq!(shown(number), [[scene.root().join("target")], [scene.root().join("target")]]);
}

#[test]
fn a_loop_device_is_shown_by_its_filesystem_and_by_its_node() {
    let mut scene = Scene::new();
    let device = scene.device("image", crate::os::fs::FsKind::Ext4, 16);
    let number = rustix::fs::stat(&device).unwrap().st_rdev;
    assert_eq!(seats(Of::Loop(number)).unwrap(), []);
    scene.make_dir("at");
    Tree::filesystem("ext4", &device, &[]).unwrap().attach(&scene.place("at")).unwrap();
    fs::write(scene.root().join("node"), b"").unwrap();
    Tree::clone_of_path(&device).unwrap().attach(&scene.place("node")).unwrap();
    for found in [seats(Of::Loop(number)), table::tabled(Of::Loop(number))] {
        let mut points: Vec<_> = found.unwrap().into_iter().map(|seat| seat.point).collect();
        points.sort();
        assert_eq!(points, ["at", "node"].map(|name| scene.root().join(name)));
    }
}
