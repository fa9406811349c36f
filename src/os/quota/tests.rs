//! Project quota where the kernel has it, which is in the guest, and what is said where it has not.

use std::os::unix::fs::FileExt;

use super::*;
use crate::os::file::allocate;
use crate::os::mount::scene::clear;
use crate::os::process::run;

const MIB: u64 = 1 << 20;

/// A mounted filesystem in a file, gone with the value.
struct Mounted {
    path: tempfile::TempDir,
    _image: tempfile::NamedTempFile,
}

impl Mounted {
    fn new(format: &[&str], options: &str) -> Result<Mounted> {
        let image = tempfile::NamedTempFile::new().unwrap();
        image.as_file().set_len(512 * MIB).unwrap();
        let file = image.path().to_str().unwrap();
        run(format[0], &[&format[1..], &[file]].concat(), "failed to format the test's image").unwrap();
        let path = tempfile::tempdir().unwrap();
        let at = path.path().to_str().unwrap();
        run("mount", &["-o", options, file, at], "failed to mount the test's image")?;
        Ok(Mounted { path, _image: image })
    }

    fn dir(&self) -> Dir {
        Dir::open(self.path.path()).unwrap()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        clear(self.path.path());
    }
}

const MAKE_XFS: [&str; 2] = ["mkfs.xfs", "-q"];
const MAKE_EXT4: [&str; 6] = ["mkfs.ext4", "-q", "-O", "quota,project", "-E", "quotatype=prjquota"];

fn reason(dir: &Dir) -> String {
    match supported(dir).unwrap() {
        Support::No(reason) => reason,
        Support::Enforced(reach) => panic!("enforced for {reach:?}"),
    }
}

#[test]
fn a_filesystem_without_quota_says_why() {
    let xfs = Mounted::new(&MAKE_XFS, "loop").unwrap();
    assert!(reason(&xfs.dir()).contains("prjquota"));
    let ext4 = Mounted::new(&["mkfs.ext4", "-q"], "loop").unwrap();
    assert!(reason(&ext4.dir()).contains("prjquota"));
    assert!(matches!(limit(&ext4.dir(), 5, MIB), Err(Error::Precondition(_))));
    assert!(matches!(usage(&ext4.dir(), 5), Err(Error::Precondition(_))));
    let proc = Dir::open("/proc".as_ref()).unwrap();
    assert_eq!(reason(&proc), "only xfs and ext4 filesystems have project quota");
}

#[test]
fn counting_alone_is_not_enforcing() {
    let judged = |flags| judge(flags, "xfs", Reach::Everyone);
    assert_eq!(judged(ACCOUNTED | ENFORCED | 3), Support::Enforced(Reach::Everyone));
    assert!(matches!(judged(ACCOUNTED), Support::No(why) if why.contains("does not limit")));
    assert!(matches!(judged(3), Support::No(why) if why.contains("not mounted with prjquota")));
}

#[test]
fn project_0_and_a_limit_of_0_are_refused() {
    let path = tempfile::tempdir().unwrap();
    let dir = Dir::open(path.path()).unwrap();
    assert!(matches!(limit(&dir, 0, MIB), Err(Error::OutOfRange(_))));
    assert!(matches!(limit(&dir, 7, 0), Err(Error::OutOfRange(_))));
    assert!(matches!(set_project(&dir, 0), Err(Error::OutOfRange(_))));
    assert!(matches!(usage(&dir, 0), Err(Error::OutOfRange(_))));
}

#[test]
fn a_limit_is_written_in_sectors_and_read_in_bytes() {
    let mut quota = DiskQuota::hard_limit(9, 4);
    (quota.block_count, quota.inode_count) = (3, 2);
    assert_eq!(Usage::from(&quota), Usage { bytes: 1536, inodes: 2, limit: Some(2048) });
    assert_eq!(Usage::from(&DiskQuota::hard_limit(9, 0)).limit, None);
}

/// The whole life of a limited directory on a kernel that has project quota.
fn a_directory_holds_no_more_than_its_limit(root: &Dir) {
    let volume = root.make_dir("volume", 0o755).unwrap();
    assert_eq!(project(&volume).unwrap(), 0);
    assert_eq!(usage(root, 77).unwrap(), Usage::default());
    limit(root, 77, 10 * MIB).unwrap();
    set_project(&volume, 77).unwrap();
    set_project(&volume, 77).unwrap();
    assert_eq!(project(&volume).unwrap(), 77);
    volume.sync().unwrap();
    let file = volume.create("file").unwrap();
    allocate(&file, 8 * MIB).unwrap();
    let used = usage(root, 77).unwrap();
    assert!(
        (8 * MIB..9 * MIB).contains(&used.bytes) && used.limit == Some(10 * MIB) && used.inodes == 2,
        "{used:?}"
    );
    // Inherited by what is made below.
    assert_eq!(project(&volume.make_dir("below", 0o755).unwrap()).unwrap(), 77);
    file.write_all_at(&[1; 4096], 0).unwrap();
}

/// Whether nothing is charged any more, in a while: xfs frees what was unlinked in the background.
fn is_empty_soon(root: &Dir) -> bool {
    (0..600).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(50));
        let used = usage(root, 77).unwrap();
        (used.bytes, used.limit) == (0, None)
    })
}

#[test]
#[ignore = "needs a kernel with project quota on xfs: the guest tests run it"]
fn xfs_limits_a_directory_for_everyone() {
    let xfs = Mounted::new(&MAKE_XFS, "loop,prjquota").unwrap();
    let root = xfs.dir();
    assert_eq!(supported(&root).unwrap(), Support::Enforced(Reach::Everyone));
    a_directory_holds_no_more_than_its_limit(&root);
    let file = root.sub("volume").unwrap().create("more").unwrap();
    assert!(matches!(allocate(&file, 4 * MIB), Err(Error::Full(_))));
    limit(&root, 77, 20 * MIB).unwrap();
    allocate(&file, 4 * MIB).unwrap();
    drop(file);
    root.remove_tree("volume").unwrap();
    release(&root, 77).unwrap();
    assert!(is_empty_soon(&root));
}

#[test]
#[ignore = "needs a kernel with project quota on ext4: the guest tests run it"]
fn ext4_limits_a_directory_for_all_but_the_privileged() {
    let ext4 = Mounted::new(&MAKE_EXT4, "loop,prjquota").unwrap();
    let root = ext4.dir();
    assert_eq!(supported(&root).unwrap(), Support::Enforced(Reach::AllButPrivileged));
    a_directory_holds_no_more_than_its_limit(&root);
    let at = ext4.path.path().join("volume/more");
    let write = [
        "--bounding-set=-sys_resource",
        "--inh-caps=-sys_resource",
        "dd",
        "if=/dev/zero",
        "bs=1M",
        "count=4",
        &format!("of={}", at.display()),
    ];
    let error = run("setpriv", &write, "failed to write").unwrap_err();
    assert!(error.to_string().contains("quota exceeded"), "{error}");
    limit(&root, 77, 20 * MIB).unwrap();
    run("setpriv", &write, "failed to write").unwrap();
    root.remove_tree("volume").unwrap();
    release(&root, 77).unwrap();
    assert!(is_empty_soon(&root));
}

#[test]
#[ignore = "needs a kernel with project quota: the guest tests run it"]
fn ext4_without_the_mount_option_only_counts() {
    let ext4 = Mounted::new(&MAKE_EXT4, "loop").unwrap();
    assert!(reason(&ext4.dir()).contains("does not limit"), "{}", reason(&ext4.dir()));
}
