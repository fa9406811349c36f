//! Files and directories on real filesystems, hostile trees included.

use super::*;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::time::Duration;

use crate::os::mount::scene::clear;
use crate::os::process::run;

fn scratch() -> (tempfile::TempDir, Dir) {
    let path = tempfile::tempdir().unwrap();
    let dir = Dir::open(path.path()).unwrap();
    (path, dir)
}

fn names(dir: &Dir) -> Vec<String> {
    let mut names: Vec<_> =
        dir.names().unwrap().into_iter().map(|name| name.into_string().unwrap()).collect();
    names.sort();
    names
}

/// A mounted filesystem in a file, gone with the value.
struct Mounted {
    path: tempfile::TempDir,
    _image: tempfile::NamedTempFile,
}

impl Mounted {
    fn new(program: &str, options: &[&str]) -> Mounted {
        let image = tempfile::NamedTempFile::new().unwrap();
        image.as_file().set_len(512 << 20).unwrap();
        let file = image.path().to_str().unwrap();
        run(program, &[options, &[file]].concat(), "failed to format the test's image").unwrap();
        let path = tempfile::tempdir().unwrap();
        let at = path.path().to_str().unwrap();
        run("mount", &["-o", "loop", file, at], "failed to mount the test's image").unwrap();
        Mounted { path, _image: image }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        clear(self.path.path());
    }
}

#[test]
fn a_name_of_more_than_one_part_never_reaches_the_kernel() {
    let (_path, dir) = scratch();
    let long = "x".repeat(256);
    for name in ["", ".", "..", "../x", "a/b", "/etc", "a\0b", &long] {
        assert!(matches!(dir.sub(name), Err(Error::Invalid(_))), "{name:?}");
        assert!(matches!(dir.read(name, 1), Err(Error::Invalid(_))), "{name:?}");
        assert!(matches!(dir.replace(name, b""), Err(Error::Invalid(_))), "{name:?}");
        assert!(matches!(dir.remove(name), Err(Error::Invalid(_))), "{name:?}");
        assert!(matches!(dir.remove_tree(name), Err(Error::Invalid(_))), "{name:?}");
        assert!(matches!(dir.rename_into("a", &dir, name), Err(Error::Invalid(_))), "{name:?}");
        assert!(matches!(dir.lock(name, Purpose::Look), Err(Error::Invalid(_))), "{name:?}");
    }
}

#[test]
fn a_symlink_is_never_followed() {
    let (path, dir) = scratch();
    symlink("/etc/hostname", path.path().join("file")).unwrap();
    symlink("/etc", path.path().join("dir")).unwrap();
    assert!(matches!(dir.read("file", 4096), Err(Error::Corrupt(_))));
    assert!(dir.sub("dir").is_err());
    assert!(dir.ensure("dir", 0o700).is_err());
    assert!(Dir::open(&path.path().join("dir")).is_err());
    assert!(dir.lock("file", Purpose::Serve).is_err());
    assert_eq!(dir.stat("file").unwrap().unwrap().kind, Kind::Other);
    // A replace puts a file in the link's place and leaves its target alone.
    dir.replace("file", b"mine").unwrap();
    assert_eq!(dir.read("file", 4096).unwrap().unwrap(), b"mine");
    assert_ne!(std::fs::read("/etc/hostname").unwrap_or_default(), b"mine");
}

#[test]
fn a_replaced_file_is_private_and_leaves_no_debris() {
    let (path, dir) = scratch();
    dir.replace("record", b"one").unwrap();
    dir.replace("record", b"two").unwrap();
    assert_eq!(dir.read("record", 3).unwrap().unwrap(), b"two");
    assert_eq!(names(&dir), ["record"]);
    let mode = path.path().join("record").metadata().unwrap().mode();
    assert_eq!(mode & 0o7777, 0o600);
}

#[test]
fn a_failed_replace_keeps_the_old_file_and_leaves_no_debris() {
    let (path, dir) = scratch();
    // The rename over a directory fails after everything before it worked.
    dir.make_dir("record", 0o700).unwrap();
    assert!(dir.replace("record", b"new").is_err());
    assert_eq!(names(&dir), ["record"]);
    assert!(path.path().join("record").is_dir());
}

/// A filesystem that shuts down, as it does when its disk fails, answers every change with EIO.
fn a_disk_that_fails(program: &str, options: &[&str]) {
    let mounted = Mounted::new(program, options);
    let root = Dir::open(mounted.path.path()).unwrap();
    let dir = root.ensure("records", 0o700).unwrap();
    dir.replace("record", b"old").unwrap();
    dir.prove().unwrap();
    assert_eq!((dir.fenced(), names(&dir)), (None, vec!["record".to_owned()]), "the proof leaves nothing");
    for left in [".new.proof", ".new.proven"] {
        std::fs::write(mounted.path.path().join("records").join(left), "of one that was cut off").unwrap();
    }
    dir.prove().unwrap();
    assert_eq!(names(&dir), ["record"], "nor what one left that was cut off");
    let at = mounted.path.path().to_str().unwrap();
    run("xfs_io", &["-x", "-c", "shutdown", at], "failed to shut down a filesystem").unwrap();
    let first = dir.replace("record", b"new").unwrap_err();
    assert!(matches!(&first, Error::Unavailable(why) if why.contains("Input/output error")), "{first:?}");
    assert!(
        root.fenced().is_some_and(|why| why.contains("record")),
        "it holds for all that belongs together"
    );
    let refused = |outcome: Result<()>| {
        let again = outcome.unwrap_err().to_string();
        assert!(again.contains("no more changes") && again.contains(dir.fenced().unwrap()), "{again}");
    };
    refused(dir.replace("record", b"new"));
    refused(dir.remove("record").map(drop));
    refused(dir.remove_tree("record").map(drop));
    refused(dir.create("other").map(drop));
    refused(dir.make_dir("other", 0o700).map(drop));
    refused(dir.rename_into("record", &root, "record"));
    refused(dir.sync());
    dir.prove().unwrap_err();
    assert!(
        Dir::open(mounted.path.path()).is_err() || Dir::open(mounted.path.path()).unwrap().fenced().is_none()
    );
}

#[test]
fn a_disk_that_fails_closes_the_fence_of_all_that_was_opened_on_it() {
    a_disk_that_fails("mkfs.ext4", &["-q"]);
    a_disk_that_fails("mkfs.xfs", &["-q"]);
}

#[test]
fn a_filesystem_that_gave_up_is_no_filesystem_that_somebody_mounted_read_only() {
    let mounted = Mounted::new("mkfs.ext4", &["-q"]);
    let dir = Dir::open(mounted.path.path()).unwrap();
    dir.replace("image", b"bytes").unwrap();
    let at = mounted.path.path().to_str().unwrap();
    run("mount", &["-o", "remount,abort", at], "failed to make a filesystem give up").unwrap();
    let refused = dir.open_file("image", Access::ReadWrite).unwrap_err();
    assert!(matches!(&refused, Error::Unavailable(why) if why.contains("Read-only")), "{refused:?}");
    assert!(dir.fenced().is_some_and(|why| why.contains("image")));
}

#[test]
fn a_full_disk_keeps_the_old_file_and_says_full() {
    let path = tempfile::tempdir().unwrap();
    let at = path.path().to_str().unwrap();
    run("mount", &["-t", "tmpfs", "-o", "size=64k", "tmpfs", at], "failed to mount a tmpfs").unwrap();
    struct Unmount<'a>(&'a Path);
    impl Drop for Unmount<'_> {
        fn drop(&mut self) {
            clear(self.0);
        }
    }
    let _unmount = Unmount(path.path());
    let dir = Dir::open(path.path()).unwrap();
    dir.replace("record", b"old").unwrap();
    let error = dir.replace("record", &[0; 128 << 10]).unwrap_err();
    assert!(matches!(error, Error::Full(_)), "{error:?}");
    assert_eq!(dir.read("record", 16).unwrap().unwrap(), b"old");
    assert_eq!(names(&dir), ["record"]);
    drop(dir);
}

#[test]
fn every_update_is_whole_while_others_read_it() {
    let (_path, dir) = scratch();
    dir.replace("record", &[0; 3000]).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| (1..=50).for_each(|n| dir.replace("record", &[n; 3000]).unwrap()));
        for _ in 0..500 {
            let bytes = dir.read("record", 3000).unwrap().unwrap();
            assert!(bytes.len() == 3000 && bytes.iter().all(|b| *b == bytes[0]));
        }
    });
}

#[test]
fn a_file_beyond_the_limit_is_refused_not_cut() {
    let (_path, dir) = scratch();
    dir.replace("record", b"12345").unwrap();
    assert!(matches!(dir.read("record", 4), Err(Error::Corrupt(_))));
    assert_eq!(dir.read("record", 5).unwrap().unwrap(), b"12345");
    assert_eq!(dir.read("other", 5).unwrap(), None);
}

#[test]
fn a_planted_fifo_cannot_hold_the_reader() {
    let (_path, dir) = scratch();
    rustix::fs::mknodat(&dir, "record", FileType::Fifo, Mode::RUSR, 0).unwrap();
    assert!(matches!(dir.read("record", 5), Err(Error::Corrupt(_))));
    assert!(matches!(dir.open_file("record", Access::ReadWrite), Err(Error::Corrupt(_))));
}

#[test]
fn a_held_directory_is_the_same_after_its_path_was_taken_away() {
    let (path, dir) = scratch();
    let sub = dir.make_dir("sub", 0o750).unwrap();
    assert_eq!(path.path().join("sub").metadata().unwrap().permissions().mode() & 0o7777, 0o750);
    let before = sub.identity().unwrap();
    dir.rename_into("sub", &dir, "moved").unwrap();
    let other = dir.ensure("sub", 0o700).unwrap();
    sub.replace("file", b"x").unwrap();
    assert_eq!(sub.identity().unwrap(), before);
    assert_ne!(other.identity().unwrap(), before);
    assert!(names(&other).is_empty());
    assert_eq!(names(&dir.sub("moved").unwrap()), ["file"]);
}

#[test]
fn a_move_never_replaces() {
    let (_path, dir) = scratch();
    let to = dir.ensure("to", 0o700).unwrap();
    dir.replace("a", b"a").unwrap();
    to.replace("a", b"b").unwrap();
    assert!(dir.rename_into("a", &to, "a").is_err());
    assert_eq!(to.read("a", 1).unwrap().unwrap(), b"b");
    dir.rename_into("a", &to, "c").unwrap();
    assert_eq!((names(&dir), names(&to)), (vec!["to".into()], vec!["a".into(), "c".into()]));
}

#[test]
fn removals_say_which_success_they_were() {
    let (_path, dir) = scratch();
    dir.replace("a", b"").unwrap();
    dir.ensure("d", 0o700).unwrap();
    assert_eq!((dir.remove("a").unwrap(), dir.remove("a").unwrap()), (Removal::Now, Removal::Already));
    assert_eq!(
        (dir.remove_dir("d").unwrap(), dir.remove_dir("d").unwrap()),
        (Removal::Now, Removal::Already)
    );
    assert_eq!(dir.remove_tree("a").unwrap(), Removal::Already);
}

#[test]
fn listings_in_parallel_see_every_name() {
    let (path, dir) = scratch();
    for n in 0..3000 {
        std::fs::File::create(path.path().join(format!("{n}"))).unwrap();
    }
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| assert_eq!(dir.names().unwrap().len(), 3000));
        }
    });
}

#[test]
fn the_second_to_lock_is_told_who_was_first() {
    let (_path, dir) = scratch();
    let first = dir.lock("lock", Purpose::Serve).unwrap();
    let started = std::time::Instant::now();
    let error = dir.lock_within("lock", Duration::from_millis(120), Purpose::Serve).unwrap_err();
    assert!(started.elapsed() >= Duration::from_millis(120));
    let comm = std::fs::read_to_string("/proc/self/comm").unwrap();
    let holder = format!("in use by process {} ({})", std::process::id(), comm.trim());
    assert!(matches!(&error, Error::Busy(text) if text.ends_with(&holder)), "{error}");
    drop(first);
    dir.lock("lock", Purpose::Serve).unwrap();
}

#[test]
fn who_is_to_serve_is_told_of_one_who_only_looks() {
    let (_path, dir) = scratch();
    let look = dir.lock("lock", Purpose::Look).unwrap();
    let error = dir.lock("lock", Purpose::Serve).unwrap_err();
    assert!(
        matches!(&error, Error::Unavailable(text) if text.contains("is looked at by process")),
        "{error}"
    );
    assert!(matches!(dir.lock("lock", Purpose::Look), Err(Error::Busy(_))));
    drop(look);
    let _serving = dir.lock("lock", Purpose::Serve).unwrap();
    assert!(matches!(dir.lock("lock", Purpose::Serve), Err(Error::Busy(_))));
}

#[test]
fn a_lock_is_taken_when_its_holder_goes_in_time() {
    let (_path, dir) = scratch();
    let first = dir.lock("lock", Purpose::Serve).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(100));
            drop(first);
        });
        dir.lock_within("lock", Duration::from_secs(20), Purpose::Serve).unwrap();
    });
}

#[test]
fn a_hostile_tree_goes_and_nothing_else_does() {
    let (path, dir) = scratch();
    let outside = path.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("keep"), b"keep").unwrap();
    let tree = dir.make_dir("tree", 0o700).unwrap();
    let at = path.path().join("tree");
    symlink(&outside, at.join("link")).unwrap();
    symlink("..", at.join("up")).unwrap();
    symlink("loop", at.join("loop")).unwrap();
    std::fs::hard_link(outside.join("keep"), at.join("hard")).unwrap();
    rustix::fs::mknodat(&tree, "fifo", FileType::Fifo, Mode::RUSR, 0).unwrap();
    rustix::fs::mknodat(&tree, "device", FileType::CharacterDevice, Mode::RUSR, rustix::fs::makedev(1, 3))
        .unwrap();
    let odd = <OsString as std::os::unix::ffi::OsStringExt>::from_vec(vec![b'\n', 0xff, b'*']);
    std::fs::write(at.join(odd), b"").unwrap();
    // Many directories that are not empty, so that reading goes on after each; and one without any rights.
    for n in 0..300 {
        std::fs::create_dir_all(at.join(format!("d{n}/e/f"))).unwrap();
        std::fs::write(at.join(format!("d{n}/e/f/{}", "x".repeat(200))), b"x").unwrap();
    }
    std::fs::set_permissions(at.join("d7"), std::fs::Permissions::from_mode(0o000)).unwrap();
    assert_eq!(dir.remove_tree("tree").unwrap(), Removal::Now);
    assert_eq!(names(&dir), ["outside"]);
    assert_eq!(std::fs::read(outside.join("keep")).unwrap(), b"keep");
    assert_eq!(dir.remove_tree("tree").unwrap(), Removal::Already);
}

#[test]
fn ten_thousand_levels_go_with_few_files_open() {
    let (_path, dir) = scratch();
    let mut down = dir.make_dir("tree", 0o700).unwrap();
    for _ in 0..10_000 {
        rustix::fs::mkdirat(&down, "d", Mode::RWXU).unwrap();
        down = Dir {
            fd: down.open_beneath(OsStr::new("d"), OFlags::DIRECTORY, Mode::empty()).unwrap(),
            path: "d".into(),
            commit: Commit::default(),
            fence: Arc::default(),
        };
    }
    drop(down);
    assert_eq!(dir.remove_tree("tree").unwrap(), Removal::Now);
    assert!(names(&dir).is_empty());
}

#[test]
fn a_tree_with_a_mount_in_it_is_refused() {
    let (path, dir) = scratch();
    let at = path.path().join("tree/sub");
    let source = path.path().join("source");
    std::fs::create_dir_all(&at).unwrap();
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("keep"), b"").unwrap();
    // Of the same filesystem, so that st_dev does not tell.
    run("mount", &[OsStr::new("--bind"), source.as_os_str(), at.as_os_str()], "failed to bind").unwrap();
    let refused = dir.remove_tree("tree");
    clear(&at);
    assert!(matches!(refused, Err(Error::Precondition(_))), "{refused:?}");
    assert!(source.join("keep").exists());
    assert_eq!(dir.remove_tree("tree").unwrap(), Removal::Now);
}

#[test]
fn immutable_files_do_not_stop_a_removal() {
    let (path, dir) = scratch();
    let tree = dir.make_dir("tree", 0o700).unwrap();
    let file = tree.create("file").unwrap();
    let set = |fd: BorrowedFd<'_>| {
        let flags = rustix::fs::ioctl_getflags(fd).unwrap();
        rustix::fs::ioctl_setflags(fd, flags | rustix::fs::IFlags::IMMUTABLE).unwrap();
    };
    set(file.as_fd());
    set(tree.as_fd());
    assert!(std::fs::remove_file(path.path().join("tree/file")).is_err());
    assert_eq!(dir.remove_tree("tree").unwrap(), Removal::Now);
    set(dir.create("alone").unwrap().as_fd());
    assert_eq!(dir.remove_tree("alone").unwrap(), Removal::Now, "a file that is the whole tree");
}

#[test]
fn reflink_is_found_out_and_a_clone_is_a_file_of_its_own() {
    let xfs = Mounted::new("mkfs.xfs", &["-q", "-m", "reflink=1"]);
    let dir = Dir::open(xfs.path.path()).unwrap();
    assert!(reflink_works(&dir).unwrap());
    assert!(names(&dir).is_empty());
    let from = dir.create("from").unwrap();
    (&from).write_all(&[7; 8192]).unwrap();
    let to = dir.create("to").unwrap();
    reflink(&from, &to).unwrap();
    sync(&to).unwrap();
    (&to).write_all(b"changed").unwrap();
    assert_eq!(dir.read("from", 8192).unwrap().unwrap(), [7; 8192]);
    assert_eq!(extent_count(&from).unwrap(), Some(1));
    let (path, other) = scratch();
    let elsewhere = other.create("to").unwrap();
    assert!(matches!(reflink(&from, &elsewhere), Err(Error::Unsupported(_))));
    drop((path, from, to, dir));
}

#[test]
fn a_filesystem_without_reflink_says_so() {
    let ext4 = Mounted::new("mkfs.ext4", &["-q"]);
    let dir = Dir::open(ext4.path.path()).unwrap();
    assert!(!reflink_works(&dir).unwrap());
    assert_eq!(names(&dir), ["lost+found"]);
    drop(dir);
}

#[test]
fn allocated_and_sparse_are_told_apart() {
    let (_path, dir) = scratch();
    let sparse = dir.create("sparse").unwrap();
    set_len(&sparse, 1 << 20).unwrap();
    allocate(&dir.create("full").unwrap(), 1 << 20).unwrap();
    let (sparse, full) = (stat(&sparse).unwrap(), dir.stat("full").unwrap().unwrap());
    assert_eq!((sparse.size, sparse.allocated), (1 << 20, 0));
    assert_eq!((full.size, full.allocated), (1 << 20, 1 << 20));
    assert_eq!(full.device, std::fs::metadata(_path.path()).unwrap().dev());
}

#[test]
fn a_program_reaches_an_open_file_by_its_path() {
    let (_path, dir) = scratch();
    let file = dir.create("image").unwrap();
    set_len(&file, 16 << 20).unwrap();
    dir.remove("image").unwrap();
    run("mkfs.ext4", &[OsStr::new("-q"), program_path(&file).as_os_str()], "failed to format").unwrap();
    let mut magic = [0; 2];
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut magic, 1080).unwrap();
    assert_eq!(magic, [0x53, 0xef]);
}

#[test]
fn random_digits_are_of_the_asked_length_and_differ() {
    let (a, b) = (random_hex::<16>().unwrap(), random_hex::<16>().unwrap());
    assert!(a.len() == 16 && a != b && a.bytes().all(|c| c.is_ascii_hexdigit()));
}
