//! Real freezes of a real filesystem, and deaths in the middle of them.

use rustix::process::{Signal, kill_process};

use super::*;
use crate::os::fs::tests::mounted_xfs;
use crate::os::fs::thaw;
use crate::os::mount::scene::Scene;

fn begin(root: &OwnedFd, limit: Duration) -> Result<Frozen> {
    Frozen::begin_for(vec![("volume x".to_owned(), root.try_clone().unwrap())], limit)
}

fn child(frozen: &Frozen) -> Pid {
    frozen.freezer.as_ref().unwrap().pid
}

/// Waits until it has ended, though nobody has asked for its exit code yet.
fn await_end(pid: Pid) {
    let begun = Instant::now();
    let stat = || std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_pid())).unwrap();
    while !stat().contains(") Z ") {
        assert!(begun.elapsed() < LIMIT * 6, "the child is still there: {}", stat());
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn is_gone(pid: Pid) -> bool {
    !std::path::Path::new(&format!("/proc/{}", pid.as_raw_pid())).exists()
}

#[test]
fn a_frozen_filesystem_thaws_once() {
    let mut scene = Scene::new();
    let (_tree, root) = mounted_xfs(&mut scene);
    let mut frozen = begin(&root, LIMIT).unwrap();
    let again = begin(&root, LIMIT);
    assert!(matches!(&again, Err(Error::Busy(why)) if why.contains("volume x")), "{again:?}");
    let pid = child(&frozen);
    assert_eq!(frozen.thaw().unwrap(), Thawed::Now);
    assert_eq!(thaw(&root).unwrap(), Thawed::WasNot);
    assert!(is_gone(pid));
    let mut frozen = begin(&root, LIMIT).unwrap();
    assert_eq!(thaw(&root).unwrap(), Thawed::Now);
    assert_eq!(frozen.thaw().unwrap(), Thawed::WasNot, "somebody else had thawed it");
    drop(begin(&root, LIMIT).unwrap());
    assert_eq!(thaw(&root).unwrap(), Thawed::WasNot);
}

#[test]
fn one_that_cannot_be_frozen_leaves_none_frozen() {
    let mut scene = Scene::new();
    let (_tree, root) = mounted_xfs(&mut scene);
    let proc = OwnedFd::from(std::fs::File::open("/proc").unwrap());
    let members = vec![("one".to_owned(), root.try_clone().unwrap()), ("two".to_owned(), proc)];
    let refused = Frozen::begin(members);
    assert!(matches!(&refused, Err(Error::Unsupported(why)) if why.contains("two")), "{refused:?}");
    assert_eq!(thaw(&root).unwrap(), Thawed::WasNot);
}

#[test]
fn the_limit_thaws_and_spoils_the_cut() {
    let mut scene = Scene::new();
    let (_tree, root) = mounted_xfs(&mut scene);
    let mut frozen = begin(&root, Duration::from_secs(2)).unwrap();
    await_end(child(&frozen));
    assert_eq!(thaw(&root).unwrap(), Thawed::WasNot);
    let late = frozen.thaw();
    assert!(matches!(late, Err(Error::Unavailable(_))), "{late:?}");
}

#[test]
fn the_driver_thaws_where_the_child_died() {
    let mut scene = Scene::new();
    let (_tree, root) = mounted_xfs(&mut scene);
    let mut frozen = begin(&root, LIMIT).unwrap();
    let pid = child(&frozen);
    kill_process(pid, Signal::KILL).unwrap();
    assert_eq!(frozen.thaw().unwrap(), Thawed::Now, "it was frozen all the time");
    assert_eq!(thaw(&root).unwrap(), Thawed::WasNot);
    assert!(is_gone(pid));
}

#[test]
fn the_child_holds_nothing_but_what_it_froze() {
    let mut scene = Scene::new();
    let (_tree, root) = mounted_xfs(&mut scene);
    let frozen = begin(&root, LIMIT).unwrap();
    let open = std::fs::read_dir(format!("/proc/{}/fd", child(&frozen).as_raw_pid())).unwrap();
    assert_eq!(open.count(), 2, "its socket and the root");
    for signal in [Signal::TERM, Signal::INT, Signal::HUP, Signal::PIPE] {
        kill_process(child(&frozen), signal).unwrap();
    }
    assert!(begin(&root, LIMIT).is_err(), "a signal ended the freeze");
    drop(frozen);
}
