//! The rights of this process: which of root's it keeps.
//!
//! Owns: what mounts, filesystems and pools need, and that nothing is left of the rest. Never: gains a right. What it keeps is still
//! much: whoever may mount can do nearly everything on the host.

use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, setrlimit};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
};

/// What is kept, each for a reason: see capabilities(7).
const KEPT: CapabilitySet = CapabilitySet::SYS_ADMIN // mounts, loop devices, freezes, quotas, growing an xfs
    .union(CapabilitySet::SYS_RESOURCE) // growing an ext4 in use
    .union(CapabilitySet::CHOWN) // sockets, the roots of volumes
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::DAC_OVERRIDE) // removing what pods have written
    .union(CapabilitySet::DAC_READ_SEARCH)
    .union(CapabilitySet::LINUX_IMMUTABLE) // the same, where it was made immutable
    .union(CapabilitySet::MKNOD) // loop devices that udev has not made yet
    .union(CapabilitySet::NET_BIND_SERVICE); // metrics at whatever port was asked for

/// Gives up all other rights, for this thread and what it starts from now on, programs included. No core is ever dumped: it would hold
/// secrets. To be called before there is a second thread.
///
/// # Errors
/// The first thing that the kernel, or the container's seccomp filter, refused; everything else is done.
pub fn give_up() -> rustix::io::Result<()> {
    let own = capabilities(None)?;
    // The bounding set last but one: it takes a right that goes with the own set.
    let steps = [
        set_no_new_privs(true),
        dump_nothing(),
        clear_ambient_capability_set(),
        if own.effective.contains(CapabilitySet::SETPCAP) { bound() } else { Ok(()) },
        keep(own),
    ];
    steps.into_iter().collect()
}

/// One byte, not none: with none the whole core still goes to a handler that `core_pattern` names, with this it goes nowhere
/// (kernel, `fs/coredump.c`).
fn dump_nothing() -> rustix::io::Result<()> {
    let limit = |bytes| setrlimit(Resource::Core, Rlimit { current: Some(bytes), maximum: Some(bytes) });
    // Where it is none already, not everybody may raise it.
    limit(1).or_else(|_| limit(0))
}

fn bound() -> rustix::io::Result<()> {
    for number in 0..u64::BITS {
        let one = CapabilitySet::from_bits_retain(1 << number);
        if KEPT.contains(one) {
            continue;
        }
        match remove_capability_from_bounding_set(one) {
            // The kernel knows no more of them.
            Err(Errno::INVAL) => break,
            removed => removed?,
        }
    }
    Ok(())
}

fn keep(own: CapabilitySets) -> rustix::io::Result<()> {
    let kept = |set: CapabilitySet| set.intersection(KEPT);
    let sets = CapabilitySets {
        effective: kept(own.effective),
        permitted: kept(own.permitted),
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, sets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_gives_up_keeps_what_mounts_need_and_its_children_gain_nothing() {
        let status = std::thread::spawn(|| {
            give_up().unwrap();
            give_up().unwrap();
            let own = std::fs::read_to_string("/proc/thread-self/status").unwrap();
            let child = std::process::Command::new("cat").arg("/proc/self/status").output().unwrap();
            [own, String::from_utf8(child.stdout).unwrap()]
        });
        for status in status.join().unwrap() {
            let field = |name: &str| {
                let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
                line.trim_start_matches(':').trim().to_owned()
            };
            let set =
                |name: &str| CapabilitySet::from_bits_retain(u64::from_str_radix(&field(name), 16).unwrap());
            assert_eq!(field("NoNewPrivs"), "1");
            for name in ["CapEff", "CapPrm", "CapAmb", "CapInh"] {
                assert!(KEPT.contains(set(name)), "{name}: {:?}", set(name));
            }
            if rustix::process::geteuid().is_root() {
                assert!(KEPT.contains(set("CapBnd")) && set("CapEff").contains(CapabilitySet::SYS_ADMIN));
            }
        }
        let most = rustix::process::getrlimit(Resource::Core).maximum;
        assert!(most.is_some_and(|most| most <= 1));
    }
}
