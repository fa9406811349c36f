//! A driver that is started anew among other mounts, as every container of Kubernetes is: what it must know again.

use std::path::Path;
use std::process::Command;

use rustix::process::Signal;

use crate::harness::{Driver, Place};
use crate::life::text;
use crate::linked::keep_pool;

/// The exit code of `ctl` for ALREADY_EXISTS.
const ALREADY_EXISTS: i32 = 16;

/// A directory whose mounts show among the mounts of others, too, as kubelet's do. Gone with this, and what is mounted below it.
struct Shared<'a>(&'a Place);

impl Shared<'_> {
    fn of(place: &Place) -> Shared<'_> {
        let kubelet = place.path("kubelet");
        mount(&["--bind"], &[&kubelet, &kubelet]);
        let shared = Shared(place);
        mount(&["--make-shared"], &[&kubelet]);
        shared
    }
}

impl Drop for Shared<'_> {
    fn drop(&mut self) {
        let kubelet = self.0.path("kubelet");
        let done = Command::new("umount").arg("--recursive").arg(&kubelet).status().unwrap();
        assert!(done.success() || std::thread::panicking(), "{} stays mounted", kubelet.display());
    }
}

fn mount(flags: &[&str], paths: &[&Path]) {
    let done = Command::new("mount").args(flags).args(paths).status().unwrap();
    assert!(done.success(), "mount {flags:?} {paths:?}");
}

/// A driver in a mount namespace of its own.
fn start(place: &Place) -> Driver {
    let told = place.command();
    let mut contained = Command::new("unshare");
    contained.args(["--mount", "--propagation", "unchanged", crate::harness::PROGRAM]).args(told.get_args());
    contained.env_clear().envs(told.get_envs().filter_map(|(key, value)| Some((key, value?))));
    place.start_with(&mut contained)
}

#[test]
fn a_container_that_is_started_anew_knows_what_was_asked_for() {
    let place = Place::new();
    keep_pool(&place);
    let _shared = Shared::of(&place);
    let mut driver = start(&place);
    let made = place.ask(&["volume", "create", "one", "--size", "16MiB"]);
    let id = text(&made, "volume_id");
    let staging = place.path("kubelet/staging");
    let (staging, target) = (staging.to_str().unwrap(), place.path("kubelet/target"));
    let target = target.to_str().unwrap();
    std::fs::create_dir(staging).unwrap();
    let stage = ["volume", "stage", id, "--staging", staging];
    let publish = ["volume", "publish", id, "--staging", staging, "--target", target];
    assert!(place.ctl(&stage).status.success());
    assert!(place.ctl(&publish).status.success());
    for signal in [Signal::KILL, Signal::TERM] {
        driver.signal(signal);
        driver.ends();
        driver = start(&place);
        // Before the same is asked for: that notes it anew.
        for words in [&stage[..], &publish[..]] {
            let (code, said) = place.refused(&[words, &["--mount-flag", "noatime"]].concat());
            assert_eq!(code, ALREADY_EXISTS, "{words:?}: {said}");
        }
        assert!(
            place.ctl(&stage).status.success() && place.ctl(&publish).status.success(),
            "{}",
            driver.log()
        );
    }
    for words in [
        &["volume", "unpublish", id, "--target", target][..],
        &["volume", "unstage", id, "--staging", staging],
    ] {
        assert!(place.ctl(words).status.success(), "{words:?}: {}", driver.log());
    }
    assert_eq!(std::fs::read_dir(place.path("state_dir/mounts")).unwrap().count(), 0);
}
