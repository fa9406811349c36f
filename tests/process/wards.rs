//! The doctor, on: devices, mounts, filesystems that gave up, full and ageing pools, and what a host lacks.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use crate::doctor::{Ward, Way, codes, doctor, findings, sibling};
use crate::harness::{Driver, PROGRAM, Place, eventually};
use crate::host;

fn run(program: &str, words: &[&str]) -> String {
    let said =
        host::run(Command::new(program).args(words)).unwrap_or_else(|error| panic!("{words:?}: {error}"));
    said.trim().to_owned()
}

fn str(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A loop device of somebody else's making, detached with the test.
struct Loop(String, String);

impl Loop {
    fn on(image: &Path) -> Loop {
        let name = image.file_name().unwrap().to_string_lossy().into_owned();
        Loop(run("losetup", &["--find", "--show", str(image)]), name)
    }

    /// Whether it still shows that image: others may have taken the number since.
    fn is_attached(&self) -> bool {
        let shown = Command::new("losetup").arg(&self.0).output().unwrap().stdout;
        String::from_utf8_lossy(&shown).contains(&self.1)
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        if self.is_attached() {
            let _ = Command::new("losetup").arg("-d").arg(&self.0).output();
        }
    }
}

/// A staged volume; its place unmounts it with the test.
struct Staged<'a> {
    place: &'a Place,
    id: String,
    staging: std::path::PathBuf,
}

impl<'a> Staged<'a> {
    fn new(ward: &Ward<'a>, id: &str) -> Staged<'a> {
        let staging = ward.place.path("kubelet/staging");
        let staged = Staged { place: ward.place, id: id.to_owned(), staging };
        staged.stage();
        staged
    }

    fn stage(&self) {
        self.place.ask(&["volume", "stage", &self.id, "--staging", str(&self.staging)]);
    }

    fn unstage(&self) {
        self.place.ask(&["volume", "unstage", &self.id, "--staging", str(&self.staging)]);
    }

    fn device(&self) -> String {
        run("findmnt", &["-n", "-o", "SOURCE", str(&self.staging)])
    }
}

#[test]
fn a_device_that_shows_a_volume_to_nobody_is_detached_and_one_in_use_is_not() {
    let place = Place::new();
    let ward = Ward::new(&place);
    let one = ward.create("one", &["--block", "--size", "8MiB"]);
    let used = ward.create("used", &["--size", "32MiB"]);
    let _staged = Staged::new(&ward, &used);
    assert_eq!(ward.codes().0, Vec::<String>::new());
    let device = Loop::on(&ward.image(&one));
    let found = ward.finding("RP-LEFTOVER-DEVICE");
    assert_eq!((&found["object"], &found["severity"]), (&device.0.as_str().into(), &"warning".into()));
    let output = ward.doctor(&["--repair", "RP-LEFTOVER-DEVICE"]);
    assert!(String::from_utf8(output.stdout).unwrap().contains(&format!("detached {}", device.0)));
    eventually("it is let go", || !device.is_attached());
    assert_eq!(ward.codes().0, Vec::<String>::new());
}

/// A driver in a mount namespace where `/dev` is a tmpfs with nodes of its own, as in a container without the host's.
fn start_with_a_dev_of_its_own(place: &Place) -> Driver {
    fs::create_dir(place.path("dev")).unwrap();
    let plain = place.command();
    let script = "mount -t tmpfs none \"$0\" && cd /dev && cp -a null zero random urandom loop-control \"$0\" && cd / && \
                  mount --move \"$0\" /dev && exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", script]).arg(place.path("dev"));
    command.arg(plain.get_program()).args(plain.get_args()).env_clear();
    command.envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
    place.start_with(&mut command)
}

/// Whatever shows this image, be it deleted, detached with the test.
pub(crate) struct Devices(pub(crate) std::path::PathBuf);

impl Drop for Devices {
    fn drop(&mut self) {
        let shown =
            Command::new("losetup").args(["-n", "-l", "-O", "NAME,BACK-FILE"]).output().unwrap().stdout;
        for line in String::from_utf8_lossy(&shown).lines() {
            let mut words = line.split_whitespace();
            if let (Some(device), Some(file)) = (words.next(), words.next())
                && Path::new(file) == self.0
            {
                let _ = Command::new("losetup").args(["-d", device]).output();
            }
        }
    }
}

#[test]
fn a_raw_volume_in_use_is_no_leftover_where_dev_is_another_than_the_kernels() {
    let place = Place::new();
    let mut ward = Ward::new(&place);
    ward.kill();
    ward.driver = Some(start_with_a_dev_of_its_own(&place));
    let one = ward.create("one", &["--block", "--size", "8MiB"]);
    fs::File::options().write(true).open(ward.image(&one)).unwrap().write_all_at(b"kept", 0).unwrap();
    let _devices = Devices(ward.image(&one));
    let (staging, target) = (place.path("kubelet/staging"), place.path("kubelet/target"));
    fs::create_dir(&staging).unwrap();
    place.ask(&["volume", "stage", &one, "--staging", str(&staging), "--block"]);
    place.ask(&["volume", "publish", &one, "--staging", str(&staging), "--target", str(&target), "--block"]);
    let pid = ward.driver.as_ref().unwrap().child.id();
    let seen = Path::new(&format!("/proc/{pid}/root")).join(target.strip_prefix("/").unwrap());
    let read = || {
        let mut bytes = [0; 4];
        fs::File::open(&seen).and_then(|device| device.read_exact_at(&mut bytes, 0)).map(|()| bytes)
    };
    assert_eq!(read().unwrap(), *b"kept");
    assert_eq!(ward.codes().0, Vec::<String>::new());
    assert!(!ward.doctor(&["--repair", "RP-LEFTOVER-DEVICE"]).status.success());
    assert_eq!(read().unwrap(), *b"kept");
    place.ask(&["volume", "unpublish", &one, "--target", str(&target)]);
    place.ask(&["volume", "unstage", &one, "--staging", str(&staging)]);
    assert_eq!(ward.codes().0, Vec::<String>::new());
}

#[test]
fn a_deleted_image_behind_a_device_is_told_by_its_id_and_let_go() {
    let place = Place::new();
    let ward = Ward::new(&place);
    let one = ward.create("one", &["--block", "--size", "8MiB"]);
    let orphan = sibling(&one);
    fs::write(ward.image(&orphan), vec![7; 1 << 20]).unwrap();
    let device = Loop::on(&ward.image(&orphan));
    let refused = ward.doctor(&["--repair", "RP-ORPHAN-OBJECT", "--object", &orphan]);
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(said.contains(&device.0) && ward.image(&orphan).exists(), "attached, so it stays: {said}");
    fs::remove_file(ward.image(&orphan)).unwrap();
    let what = ward.finding("RP-LEFTOVER-DEVICE")["what"].as_str().unwrap().to_owned();
    assert!(what.contains("whose image is deleted") && what.contains(&orphan), "{what}");
    let unnamed = ward.doctor(&["--repair", "RP-LEFTOVER-DEVICE"]);
    let said = String::from_utf8(unnamed.stderr).unwrap();
    assert!(!unnamed.status.success() && said.contains(&device.0) && device.is_attached(), "{said}");
    ward.repaired("RP-LEFTOVER-DEVICE", Some(&device.0), "detached");
    eventually("it is let go", || !device.is_attached());
}

#[test]
fn the_last_bytes_of_a_volume_whose_image_was_deleted_in_use_are_kept_until_they_are_copied() {
    let place = Place::new();
    let ward = Ward::new(&place);
    let one = ward.create("one", &["--size", "32MiB"]);
    let staged = Staged::new(&ward, &one);
    fs::write(staged.staging.join("file"), "precious").unwrap();
    run("sync", &["-f", str(&staged.staging)]);
    fs::remove_file(ward.image(&one)).unwrap();
    assert_eq!(ward.codes(), (vec!["RP-OBJECT-DELETED".to_owned()], 4), "and nothing says that it is lost");
    let by_hand = ward.finding("RP-OBJECT-DELETED")["repair"].as_str().unwrap().to_owned();
    assert!(by_hand.contains(&format!("dd if={} ", staged.device())), "{by_hand}");
    let at = str(&staged.staging).to_owned();
    for code in ["RP-LEFTOVER-MOUNT", "RP-LEFTOVER-DEVICE", "RP-OBJECT-MISSING", "RP-OBJECT-DELETED"] {
        for object in [None, Some(one.as_str()), Some(at.as_str()), Some(staged.device().as_str())] {
            let mut words = vec!["--repair", code];
            words.extend(object.iter().flat_map(|object| ["--object", object]));
            assert!(!ward.doctor(&words).status.success(), "{words:?}");
        }
    }
    assert_eq!(fs::read_to_string(staged.staging.join("file")).unwrap(), "precious");
    let copy = place.path("copy");
    run(
        "dd",
        &[&format!("if={}", staged.device()), &format!("of={}", str(&copy)), "bs=1M", "conv=sparse,fsync"],
    );
    staged.unstage();
    fs::copy(&copy, ward.image(&one)).unwrap();
    assert_eq!(ward.codes(), (Vec::new(), 0));
    staged.stage();
    assert_eq!(fs::read_to_string(staged.staging.join("file")).unwrap(), "precious");
    staged.unstage();
}

#[test]
fn a_mount_of_what_is_gone_is_unmounted() {
    let place = Place::new();
    let mut ward = Ward::new(&place);
    let one = ward.create("one", &["--size", "32MiB"]);
    let staged = Staged::new(&ward, &one);
    ward.kill();
    fs::remove_file(ward.record(&one)).unwrap();
    fs::remove_file(ward.image(&one)).unwrap();
    for live in [false, true] {
        if live {
            ward.start();
        }
        assert_eq!(ward.codes(), (vec!["RP-LEFTOVER-MOUNT".to_owned()], 3));
        assert!(
            !ward.doctor(&["--repair", "RP-LEFTOVER-MOUNT"]).status.success(),
            "the last bytes go with it"
        );
    }
    ward.repaired("RP-LEFTOVER-MOUNT", Some(str(&staged.staging)), "unmounted");
    assert!(!Command::new("findmnt").arg(&staged.staging).output().unwrap().status.success());
}

#[test]
fn a_device_in_the_page_cache_is_told() {
    let place = Place::new();
    let ward = Ward::new(&place);
    let one = ward.create("one", &["--size", "32MiB"]);
    let staged = Staged::new(&ward, &one);
    assert_eq!(ward.codes().0, Vec::<String>::new());
    run("losetup", &["--direct-io=off", &staged.device()]);
    assert_eq!(ward.codes().0, ["RP-NO-DIRECT-IO"]);
    staged.unstage();
    staged.stage();
    assert_eq!(ward.codes().0, Vec::<String>::new());
    staged.unstage();
}

#[test]
fn a_filesystem_that_gave_up_is_told_until_it_is_staged_again() {
    let place = Place::new();
    let ward = Ward::of_size(&place, "600MiB");
    let one = ward.create("one", &["--size", "320MiB", "--fs", "xfs"]);
    let staged = Staged::new(&ward, &one);
    run("xfs_io", &["-x", "-c", "shutdown", str(&staged.staging)]);
    assert_eq!(ward.codes(), (vec!["RP-FILESYSTEM-FAILED".to_owned()], 4));
    staged.unstage();
    staged.stage();
    assert_eq!(ward.codes().0, Vec::<String>::new());
    staged.unstage();
}

#[test]
fn an_ext4_in_which_errors_were_met_is_checked_when_it_is_staged_again() {
    let place = Place::new();
    let ward = Ward::new(&place);
    let one = ward.create("one", &["--size", "32MiB"]);
    let staged = Staged::new(&ward, &one);
    fs::write(staged.staging.join("file"), "kept").unwrap();
    let device = staged.device();
    let trigger = format!("/sys/fs/ext4/{}/trigger_fs_error", device.strip_prefix("/dev/").unwrap());
    fs::write(trigger, "a test").unwrap();
    assert_eq!(ward.codes(), (vec!["RP-FILESYSTEM-FAILED".to_owned()], 4));
    staged.unstage();
    staged.stage();
    assert_eq!(ward.codes(), (Vec::new(), 0));
    assert_eq!(fs::read_to_string(staged.staging.join("file")).unwrap(), "kept");
    staged.unstage();
}

#[test]
fn a_pool_that_gave_up_or_is_not_there_is_told() {
    let place = Place::new();
    let mut ward = Ward::new(&place);
    let root = ward.pool.root();
    run("xfs_io", &["-x", "-c", "shutdown", str(&root)]);
    let (codes, exit) = ward.codes();
    assert!(
        exit == 4 && codes.iter().any(|code| code == "RP-POOL-FAILED" || code == "RP-POOL-AWAY"),
        "{codes:?}"
    );
    ward.kill();
    assert!(ward.pool.command("unmount", &[]).output().unwrap().status.success());
    assert_eq!(ward.codes(), (vec!["RP-POOL-AWAY".to_owned()], 4));
    let left = root.read_dir().map_or(0, Iterator::count);
    assert_eq!(left, 0, "nothing was written below the bare mount point");
    ward.start();
    assert_eq!(ward.codes(), (Vec::new(), 0));
}

#[test]
fn a_pool_that_gave_up_with_a_device_on_it_keeps_no_other_from_opening() {
    let (dead, place) = (Place::new(), Place::new());
    let ward = Ward::new(&dead);
    let one = ward.create("one", &["--block", "--size", "8MiB"]);
    let _device = Loop::on(&ward.image(&one));
    run("xfs_io", &["-x", "-c", "shutdown", str(&ward.pool.root())]);
    let well = Ward::new(&place);
    assert_eq!(well.codes(), (Vec::new(), 0));
}

#[test]
fn a_pool_that_takes_no_changes_is_told_until_it_does() {
    let place = Place::new();
    let mut ward = Ward::new(&place);
    ward.create("one", &["--block", "--size", "8MiB"]);
    let root = ward.pool.root();
    for live in [true, false] {
        if !live {
            ward.kill();
        }
        run("mount", &["-o", "remount,ro", str(&root)]);
        assert_eq!(ward.codes(), (vec!["RP-POOL-READ-ONLY".to_owned()], 4));
        run("mount", &["-o", "remount,rw", str(&root)]);
        assert_eq!(ward.codes(), (Vec::new(), 0));
    }
}

#[test]
fn a_nearly_full_pool_is_told_until_something_goes() {
    let place = Place::new();
    let ward = Ward::new(&place);
    let root = ward.pool.root();
    let filler = root.join("filler");
    let file = fs::File::create(&filler).unwrap();
    let free = rustix::fs::statvfs(&root).unwrap();
    let bytes = (free.f_bavail * free.f_frsize).saturating_sub(4 << 20);
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, bytes).unwrap();
    let (codes, exit) = ward.codes();
    assert!(exit == 3 && codes.contains(&"RP-POOL-NEARLY-FULL".to_owned()), "{codes:?}");
    drop(file);
    fs::remove_file(filler).unwrap();
    // xfs gives the blocks of a removed file back a little later.
    eventually("there is room again", || ward.codes() == (Vec::new(), 0));
}

#[test]
fn an_image_in_a_hundred_thousand_pieces_is_told() {
    let place = Place::new();
    let ward = Ward::of_size(&place, "1GiB");
    let one = ward.create("one", &["--block", "--size", "500MiB"]);
    let image = fs::File::options().write(true).open(ward.image(&one)).unwrap();
    rustix::fs::fallocate(&image, rustix::fs::FallocateFlags::empty(), 0, 440 << 20).unwrap();
    // A written block between unwritten ones is an extent of its own, and so are those.
    let write = |blocks: std::ops::Range<u64>| {
        for block in blocks.step_by(2) {
            image.write_all_at(&[7; 4096], block * 4096).unwrap();
        }
        image.sync_all().unwrap();
    };
    write(0..90_000);
    assert_eq!(ward.codes().0, Vec::<String>::new(), "not yet");
    write(90_000..110_000);
    let found = ward.finding("RP-IMAGE-FRAGMENTED");
    assert_eq!((&found["object"], &found["severity"]), (&one.as_str().into(), &"warning".into()));
    image.set_len(0).unwrap();
    image.set_len(500 << 20).unwrap();
    assert_eq!(ward.codes(), (Vec::new(), 0));
}

/// A place with a directory pool that limits nothing, and where that lies.
fn plain() -> (Place, std::path::PathBuf) {
    let place = Place::new();
    let root = place.path("plain");
    fs::create_dir(&root).unwrap();
    fs::remove_file(place.path("config.toml")).unwrap();
    let config = place.path("config.toml");
    let words =
        ["pool", "init", "plain", "--kind", "directory", "--quota", "none", "--directory", str(&root)];
    run(PROGRAM, &[&words[..], &["--config", str(&config)]].concat());
    (place, root)
}

#[test]
fn sizes_that_nobody_enforces_and_notes_that_are_wrong_are_told() {
    let (place, root) = plain();
    let _driver = place.start();
    let made = place.ask(&["volume", "create", "one", "--size", "8MiB"]);
    let live = || codes(&doctor(&place, Way::Live, &["--json"]));
    assert_eq!(live().0, ["RP-NO-QUOTA"]);
    let volume = root.join("volumes").join(made["volume_id"].as_str().unwrap());
    let size = "trusted.rockpool.size";
    rustix::fs::setxattr(&volume, size, b"much", rustix::fs::XattrFlags::empty()).unwrap();
    let (found, exit) = live();
    assert!(exit == 4 && found.contains(&"RP-UNHEALTHY".to_owned()), "{found:?}");
    rustix::fs::setxattr(&volume, size, b"8388608", rustix::fs::XattrFlags::empty()).unwrap();
    assert_eq!(live().0, ["RP-NO-QUOTA"]);
}

#[test]
fn a_directory_pool_is_freed_of_strays_and_of_mounts_of_what_is_gone() {
    let (place, root) = plain();
    let driver = place.start();
    let made = place.ask(&["volume", "create", "one", "--size", "8MiB"]);
    let id = made["volume_id"].as_str().unwrap();
    let (volume, stray) = (root.join("volumes").join(id), root.join("tmp").join(id));
    fs::create_dir(&stray).unwrap();
    fs::write(stray.join("half"), "half").unwrap();
    fs::write(volume.join("whole"), "whole").unwrap();
    let live = |words: &[&str]| doctor(&place, Way::Live, words);
    assert_eq!(
        codes(&live(&["--json"])),
        (vec!["RP-STRAY-TEMPORARY".to_owned(), "RP-NO-QUOTA".to_owned()], 3)
    );
    assert!(live(&["--repair", "RP-STRAY-TEMPORARY"]).status.success());
    assert!(!stray.exists() && fs::read_to_string(volume.join("whole")).unwrap() == "whole");

    let staging = place.path("kubelet/staging");
    place.ask(&["volume", "stage", id, "--staging", str(&staging)]);
    assert_eq!(codes(&live(&["--json"])).0, ["RP-NO-QUOTA"]);
    drop(driver);
    fs::remove_file(root.join("records").join(id)).unwrap();
    fs::remove_dir_all(&volume).unwrap();
    let offline = |words: &[&str]| doctor(&place, Way::Offline, words);
    assert_eq!(
        codes(&offline(&["--json"])),
        (vec!["RP-LEFTOVER-MOUNT".to_owned(), "RP-NO-QUOTA".to_owned()], 3)
    );
    let done = offline(&["--repair", "RP-LEFTOVER-MOUNT"]);
    assert!(done.status.success(), "{done:?}");
    assert_eq!(codes(&offline(&["--json"])).0, ["RP-NO-QUOTA"]);
    assert!(!Command::new("findmnt").arg(&staging).output().unwrap().status.success());
}

#[test]
fn a_pool_without_reflink_is_told_what_that_costs() {
    let place = Place::new();
    let (image, root) = (place.path("ext4.img"), place.path("ext4"));
    fs::File::create(&image).unwrap().set_len(256 << 20).unwrap();
    run("mkfs.ext4", &["-q", "-E", "root_owner=0:0", str(&image)]);
    fs::create_dir(&root).unwrap();
    run("mount", &["-o", "loop", str(&image), str(&root)]);
    fs::create_dir(root.join("pool")).unwrap();
    fs::remove_file(place.path("config.toml")).unwrap();
    let config = place.path("config.toml");
    let words = ["pool", "init", "plain", "--kind", "image", "--directory", str(&root.join("pool"))]
        .map(str::to_owned);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    run(PROGRAM, &[&words[..], &["--config", str(&config)]].concat());
    let output = doctor(&place, Way::Offline, &["--json"]);
    assert_eq!(codes(&output).0, ["RP-NO-REFLINK"]);
    assert!(
        findings(&output).iter().any(|one| one["what"].as_str().unwrap().contains("ext4 without reflink"))
    );
}

#[test]
fn a_missing_program_and_a_missing_capability_are_told_with_what_they_cost() {
    let place = Place::new();
    let mut ward = Ward::new(&place);
    ward.kill();
    let config = place.path("config.toml");
    let host = |before: &[&str]| {
        let output = Command::new(before[0])
            .args(&before[1..])
            .args([PROGRAM, "ctl", "doctor", "--json", "--config", str(&config)])
            .output()
            .unwrap();
        let found = findings(&output).into_iter().filter(|one| one["pool"] == "");
        found.map(|one| format!("{} {} {}", one["code"], one["object"], one["what"])).collect::<Vec<_>>()
    };
    let plain = host(&["env"]);
    let hidden = "mount --bind /dev/null \"$(command -v mkfs.xfs)\" && exec \"$@\"";
    let found = host(&["unshare", "--mount", "sh", "-c", hidden, "sh"]);
    assert!(
        found
            .iter()
            .any(|one| one.contains("RP-PROGRAM-MISSING\" \"mkfs.xfs") && one.contains("no xfs volume")),
        "{found:?}"
    );
    assert!(!plain.iter().any(|one| one.contains("mkfs.xfs")), "{plain:?}");
    let found = host(&["setpriv", "--inh-caps=-sys_resource", "--bounding-set=-sys_resource"]);
    assert!(found.iter().any(|one| one.contains("RP-NO-SYS-RESOURCE")), "{found:?}");
}
