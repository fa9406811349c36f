//! Real loop devices, as root.

use std::os::unix::fs::FileExt;

use super::*;
use crate::os::file::{Dir, set_len, stat};

const AUTO: Attach =
    Attach { access: Access::ReadWrite, lifetime: Lifetime::Autoclear, discard: Discard::Allow };
const HELD: Attach = Attach { lifetime: Lifetime::Held, ..AUTO };

/// A file of 16 MiB whose loop devices go with it, whatever the test did.
struct Image {
    _path: tempfile::TempDir,
    dir: Dir,
    file: File,
    device: u64,
    inode: u64,
}

impl Image {
    fn new() -> Image {
        let path = tempfile::tempdir().unwrap();
        let dir = Dir::open(path.path()).unwrap();
        let file = dir.create("image").unwrap();
        set_len(&file, 16 << 20).unwrap();
        let stat = stat(&file).unwrap();
        Image { _path: path, dir, file, device: stat.device, inode: stat.inode }
    }

    fn find(&self) -> Vec<Found> {
        find(self.device, self.inode).unwrap()
    }

    /// Waits for what the kernel finishes a moment after the last close.
    fn is_gone(&self) -> bool {
        (0..4000).any(|_| {
            std::thread::sleep(Duration::from_millis(5));
            self.find().is_empty()
        })
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        for found in find(self.device, self.inode).unwrap_or_default() {
            let _ = found.device.detach(self.device, self.inode);
        }
    }
}

#[test]
fn an_attached_file_is_found_by_its_inode_and_goes_with_its_last_opener() {
    let image = Image::new();
    assert!(image.find().is_empty());
    let attached = attach(&image.file, AUTO).unwrap();
    let device = attached.device;
    let found = Found { device, access: Access::ReadWrite, lifetime: Lifetime::Autoclear, offset: 0 };
    assert_eq!(image.find(), [found]);
    assert!(device.backs(image.device, image.inode).unwrap());
    assert!(!device.backs(image.device, image.inode + 1).unwrap());
    // Before Linux 6.6 a file on a tmpfs has no direct I/O.
    let on_tmpfs = rustix::fs::fstatfs(&image.file).unwrap().f_type == 0x0102_1994;
    assert!(attached.caching == Caching::Direct || on_tmpfs);
    assert_eq!(device.read_setting("queue/logical_block_size").unwrap(), "4096");
    assert_eq!(device.size().unwrap(), 16 << 20);
    attached.held.write_all_at(&[5; 4096], 8192).unwrap();
    attached.held.sync_all().unwrap();
    let mut bytes = [0; 4096];
    image.file.read_exact_at(&mut bytes, 8192).unwrap();
    assert_eq!(bytes, [5; 4096]);
    drop(attached);
    assert!(image.is_gone());
    assert!(!device.backs(image.device, image.inode).unwrap());
}

#[test]
fn a_renamed_and_an_unlinked_file_are_still_found() {
    let image = Image::new();
    let _attached = attach(&image.file, AUTO).unwrap();
    image.dir.rename_into("image", &image.dir, "other").unwrap();
    assert_eq!(image.find().len(), 1);
    image.dir.remove("other").unwrap();
    assert_eq!(image.find().len(), 1);
}

#[test]
fn a_held_device_stays_until_it_is_detached() {
    let image = Image::new();
    let device = attach(&image.file, HELD).unwrap().device;
    assert_eq!(image.find()[0].lifetime, Lifetime::Held);
    // A device that has gone to another file in the meantime is left alone.
    device.detach(image.device, image.inode + 1).unwrap();
    assert_eq!(image.find().len(), 1);
    device.detach(image.device, image.inode).unwrap();
    assert!(image.is_gone());
    device.detach(image.device, image.inode).unwrap();
}

#[test]
fn a_device_in_use_is_detached_when_its_user_is_done() {
    let image = Image::new();
    let attached = attach(&image.file, HELD).unwrap();
    attached.device.detach(image.device, image.inode).unwrap();
    attached.held.write_all_at(&[1; 4096], 0).unwrap();
    drop(attached);
    assert!(image.is_gone());
}

#[test]
fn a_lifetime_can_change() {
    let image = Image::new();
    let attached = attach(&image.file, AUTO).unwrap();
    let device = attached.device;
    device.set_lifetime(Lifetime::Held).unwrap();
    drop(attached);
    assert_eq!(image.find()[0].lifetime, Lifetime::Held);
    device.set_lifetime(Lifetime::Autoclear).unwrap();
    assert!(image.is_gone());
}

#[test]
fn a_read_only_device_cannot_be_written() {
    let image = Image::new();
    let attached = attach(&image.file, Attach { access: Access::ReadOnly, ..AUTO }).unwrap();
    assert_eq!(image.find()[0].access, Access::ReadOnly);
    assert!(attached.held.write_all_at(&[1; 4096], 0).is_err());
    assert_eq!(attached.device.read_setting("ro").unwrap(), "1");
}

#[test]
fn a_grown_file_shows_after_a_resize() {
    let image = Image::new();
    let attached = attach(&image.file, AUTO).unwrap();
    set_len(&image.file, 32 << 20).unwrap();
    assert_eq!(attached.device.size().unwrap(), 16 << 20);
    attached.device.resize().unwrap();
    attached.device.resize().unwrap();
    assert_eq!(attached.device.size().unwrap(), 32 << 20);
}

#[test]
fn a_forbidden_discard_stays_with_the_volume_and_not_with_the_number() {
    let discard = |image: &Image, want: Attach| {
        let attached = attach(&image.file, want).unwrap();
        let worked =
            crate::os::process::run("blkdiscard", &[attached.device.path()], "failed to discard").is_ok();
        (attached.device, worked, stat(&image.file).unwrap().allocated)
    };
    let image = Image::new();
    crate::os::file::allocate(&image.file, 16 << 20).unwrap();
    for _ in 0..3 {
        let (_, worked, allocated) = discard(&image, Attach { discard: Discard::Forbid, ..AUTO });
        assert_eq!((worked, allocated), (false, 16 << 20));
        assert!(image.is_gone());
    }
    let (_, worked, allocated) = discard(&image, AUTO);
    assert_eq!((worked, allocated), (true, 0));
}

#[test]
fn many_threads_get_a_device_each() {
    const EACH: usize = 12;
    let images: Vec<Image> = (0..2 * EACH).map(|_| Image::new()).collect();
    let attached: Vec<Attached> = std::thread::scope(|scope| {
        let workers: Vec<_> = images
            .chunks(EACH)
            .map(|mine| {
                scope
                    .spawn(|| mine.iter().map(|image| attach(&image.file, AUTO).unwrap()).collect::<Vec<_>>())
            })
            .collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    });
    for (image, attached) in images.iter().zip(&attached) {
        assert_eq!(image.find().iter().map(|found| found.device).collect::<Vec<_>>(), [attached.device]);
    }
    drop(attached);
    assert!(images.iter().all(Image::is_gone));
}

#[test]
fn a_device_number_is_a_loops_only_with_its_major() {
    assert_eq!(Loop::from_device(makedev(7, 300)), Some(Loop::new(300)));
    assert_eq!(Loop::from_device(makedev(8, 0)), None);
    assert!(!Loop::new(1_000_000).backs(1, 2).unwrap());
    assert!(Loop::new(1_000_000).open(Access::ReadOnly).is_err());
}

#[test]
fn a_device_on_a_filesystem_that_gave_up_hides_no_other_and_is_let_go() {
    let disk = tempfile::NamedTempFile::new().unwrap();
    disk.as_file().set_len(320 << 20).unwrap();
    let point = tempfile::tempdir().unwrap();
    let (disk, at) = (disk.path().to_str().unwrap(), point.path().to_str().unwrap());
    let run =
        |program: &str, words: &[&str]| crate::os::process::run(program, words, "failed to prepare the test");
    run("mkfs.xfs", &["-q", disk]).unwrap();
    run("mount", &["-o", "loop", disk, at]).unwrap();
    let file = Dir::open(point.path()).unwrap().create("image").unwrap();
    set_len(&file, 16 << 20).unwrap();
    let there = stat(&file).unwrap();
    let Attached { device, held, .. } = attach(&file, HELD).unwrap();
    drop((file, held));
    run("xfs_io", &["-x", "-c", "shutdown", at]).unwrap();

    let other = Image::new();
    let attached = attach(&other.file, AUTO);
    let found = other.find();
    let backs = device.backs(there.device, there.inode);
    let detached = device.detach(there.device, there.inode);
    // All is taken down before anything can fail.
    let gone = (0..4000).any(|_| {
        std::thread::sleep(Duration::from_millis(5));
        run("umount", &[at]).is_ok()
    });
    assert_eq!(found.iter().map(|found| found.device).collect::<Vec<_>>(), [attached.unwrap().device]);
    assert!(!backs.unwrap(), "it shows nothing of use");
    detached.unwrap();
    assert!(gone, "the device was not let go");
}

/// Many devices on one file, which are taken down, and made no more, whatever the test did.
struct Crowd {
    image: Image,
    attached: Vec<Loop>,
    before: u32,
}

impl Drop for Crowd {
    fn drop(&mut self) {
        for device in &self.attached {
            let _ = device.detach(self.image.device, self.image.inode);
        }
        assert!(self.image.is_gone());
        let Ok(control) = open_node("/dev/loop-control", OFlags::RDWR) else { return };
        // Of those that were there before, or that somebody has taken meanwhile, none is touched.
        for device in self.attached.iter().filter(|device| device.number > self.before) {
            let _ = wire::remove(&control, device.number);
        }
    }
}

/// Each device is opened and asked: no path tells what it shows. This says what that costs.
#[test]
#[ignore = "it fills the host with a thousand loop devices for some seconds"]
fn a_thousand_devices_are_looked_at_in_milliseconds() {
    let numbers = std::fs::read_dir("/sys/block").unwrap().flatten();
    let numbers = numbers.filter_map(|entry| entry.file_name().to_str()?.strip_prefix("loop")?.parse().ok());
    let before = numbers.max().unwrap_or(0);
    let mut crowd = Crowd { image: Image::new(), attached: Vec::new(), before };
    let one = Image::new();
    let _attached = attach(&one.file, AUTO).unwrap();
    let looks = || {
        let mut took: Vec<Duration> = (0..9)
            .map(|_| {
                let begun = std::time::Instant::now();
                assert_eq!(one.find().len(), 1);
                begun.elapsed()
            })
            .collect();
        took.sort();
        took[4]
    };
    let alone = looks();
    for _ in 0..1000 {
        let attached = attach(&crowd.image.file, HELD).unwrap();
        crowd.attached.push(attached.device);
    }
    let crowded = looks();
    println!("a look at all loop devices took {alone:?}, and {crowded:?} with 1000 more attached");
    assert!(crowded < Duration::from_secs(1), "{crowded:?}");
}

#[test]
fn a_device_that_another_process_makes_anew_is_no_obstacle() {
    let control = open_node("/dev/loop-control", OFlags::RDWR).unwrap();
    let gone = Loop::new(1_000_000);
    assert_ne!(made_anew(&control, gone).unwrap(), gone, "another one is free");
}
