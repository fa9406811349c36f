//! What the node's process may do: no more than mounts need, in none of its threads.

use crate::harness::Place;

/// The kernel's bits of what `os::rights` keeps.
const KEPT: u64 = 0x0920_061f;

#[test]
fn no_thread_of_a_driver_keeps_rights_that_mounts_do_not_need() {
    let place = Place::new();
    let driver = place.start();
    assert!(place.ctl(&["plugin", "probe"]).status.success(), "{}", driver.log());
    let process = format!("/proc/{}", driver.child.id());
    let mut threads = 0;
    for task in std::fs::read_dir(format!("{process}/task")).unwrap().flatten() {
        let status = std::fs::read_to_string(task.path().join("status")).unwrap();
        let field =
            |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
        for name in ["CapEff:", "CapPrm:", "CapBnd:", "CapInh:", "CapAmb:"] {
            // Who is not root has none, and may not take them from a bounding set.
            if name != "CapBnd:" || rustix::process::geteuid().is_root() {
                let set = u64::from_str_radix(&field(name), 16).unwrap();
                assert_eq!(set & !KEPT, 0, "{name} {set:x} of {}", field("Name:"));
            }
        }
        assert_eq!(field("NoNewPrivs:"), "1");
        threads += 1;
    }
    assert!(threads > 1);
    let limits = std::fs::read_to_string(format!("{process}/limits")).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    // Not a byte to a file, and with one instead of none nothing to a handler, either.
    assert!(core.contains(" 1 ") && !core.contains("unlimited"), "{core}");
}
