//! The host's clock jumps by ten years, forth and back, while the driver works and while it does not.

use std::process::Command;

use rustix::process::Signal;

use crate::harness::Place;
use crate::life::text;
use crate::pools::Pool;

/// Moves the time of day by what a file says, and no other clock.
const SHIM: &str = include_str!("../support/clock_jump.c");
const YEAR: i64 = 365 * 24 * 3600;

/// A driver whose clock can be moved.
fn command(place: &Place) -> Command {
    let mut command = place.command();
    command.env("LD_PRELOAD", place.path("shim.so")).env("CLOCK_JUMP", place.path("jump"));
    command
}

fn jump(place: &Place, years: i64) {
    std::fs::write(place.path("jump"), (years * YEAR).to_string()).unwrap();
}

/// When a snapshot says that it was cut.
fn year_of_cut(place: &Place, name: &str, volume: &str) -> i64 {
    let cut = place.ask(&["snapshot", "create", name, "--volume", volume]);
    text(&cut, "creation_time")[..4].parse().unwrap()
}

#[test]
fn a_time_of_day_that_jumps_ten_years_changes_dates_and_nothing_else() {
    let place = Place::new();
    std::fs::write(place.path("shim.c"), SHIM).unwrap();
    let built = Command::new("cc")
        .args(["-shared", "-fPIC", "-o"])
        .args([place.path("shim.so"), place.path("shim.c")])
        .status()
        .unwrap();
    assert!(built.success());
    let pool = Pool::init(&place);
    pool.set("retainDeleted = \"1h\"");
    jump(&place, 0);
    let mut driver = place.start_with(&mut command(&place));
    let one = place.ask(&["volume", "create", "one", "--block", "--size", "16MiB"]);
    let one = text(&one, "volume_id");
    let gone = place.ask(&["volume", "create", "gone", "--block", "--size", "16MiB"]);
    let gone = text(&gone, "volume_id");
    let now = year_of_cut(&place, "now", one);
    place.ask(&["volume", "delete", gone]);
    let kept = || {
        let list = place.ask(&["retained", "list"])["retained"].as_array().unwrap().clone();
        assert_eq!(list.iter().map(|one| text(one, "id")).collect::<Vec<_>>(), [gone]);
        list[0]["seconds_left"].as_i64().unwrap()
    };

    for (round, years) in [10, -10, 20, 0].into_iter().enumerate() {
        jump(&place, years);
        let there = year_of_cut(&place, &format!("at work {round}"), one);
        assert!((there - now - years).abs() <= 1, "the clock did not jump: {there}");
        assert_eq!(
            text(&place.ask(&["snapshot", "create", "now", "--volume", one]), "creation_time")[..4],
            now.to_string()
        );
        assert!((3000..=3600).contains(&kept()), "{years}: {}", kept());
        assert!(place.ctl(&["plugin", "probe"]).status.success());
        driver.signal(if round % 2 == 0 { Signal::KILL } else { Signal::TERM });
        driver.ends();
        jump(&place, -years);
        driver = place.start_with(&mut command(&place));
        assert!((3000..=3600).contains(&kept()), "{years}: {}", kept());
    }
    place.ask(&["retained", "restore", gone]);
    assert_eq!(text(&place.ask(&["volume", "get", gone]), "volume_id"), gone);
}
