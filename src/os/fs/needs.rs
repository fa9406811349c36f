//! What this host may lack of what volumes need.
//!
//! Owns: the list of programs, what each is for, and which capability growth takes. Never: runs one of them.

use rustix::thread::CapabilitySet;

use crate::os::process;

/// A program that is not installed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Missing {
    /// Its name.
    pub program: &'static str,
    /// The package that has it, as Debian calls it.
    pub package: &'static str,
    /// What does not work without it.
    pub cost: &'static str,
}

const NEEDED: [(&str, &str); 5] = [
    ("mke2fs", "no ext4 volume can be made"),
    ("e2fsck", "an ext4 volume that needs a check cannot be staged, nor grow while it is unmounted"),
    ("resize2fs", "an ext4 volume cannot grow while it is unmounted"),
    ("mkfs.xfs", "no xfs volume and no pool on a device or file can be made"),
    ("xfs_repair", "a damaged xfs, of a volume or a pool, cannot be repaired here"),
];

/// The programs that are not installed where Rockpool looks for them.
pub fn missing_programs() -> Vec<Missing> {
    let missing = NEEDED.iter().filter(|(program, _)| !process::found(program));
    missing
        .map(|(program, cost)| Missing {
            program,
            package: process::package(program).unwrap_or(program),
            cost,
        })
        .collect()
}

/// Whether this process may grow an ext4 filesystem that is mounted.
pub fn grows_ext4_in_use() -> bool {
    // What cannot be asked is told by the growth itself.
    rustix::thread::capabilities(None).map_or(true, |own| own.effective.contains(CapabilitySet::SYS_RESOURCE))
}
