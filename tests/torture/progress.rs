//! What a long run is doing, for who waits: a line every ten seconds on stderr, whatever parts and grounds are at work.
//!
//! Owns: the counters of the whole program. No verdict depends on them; each part keeps its own for the report.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

const EACH: Duration = Duration::from_secs(10);

/// By what is counted: how many are done, and how many there are to do where that is known.
static COUNTS: Mutex<BTreeMap<&'static str, (u64, u64)>> = Mutex::new(BTreeMap::new());

fn change(what: &'static str, change: impl FnOnce(&mut (u64, u64))) {
    change(COUNTS.lock().unwrap_or_else(PoisonError::into_inner).entry(what).or_default());
}

/// One more.
pub(crate) fn one(what: &'static str) {
    change(what, |(done, _)| *done += 1);
}

/// So many more are to be done.
pub(crate) fn expect(what: &'static str, many: usize) {
    change(what, |(_, of)| *of += u64::try_from(many).unwrap_or(0));
}

/// Tells for as long as the runtime lives.
pub(crate) async fn tell(who: &str) {
    let began = Instant::now();
    loop {
        tokio::time::sleep(EACH).await;
        let counts = COUNTS.lock().unwrap_or_else(PoisonError::into_inner).clone();
        eprintln!("{who}: {}", line(began.elapsed(), &counts));
    }
}

fn line(since: Duration, counts: &BTreeMap<&'static str, (u64, u64)>) -> String {
    let count = |(what, (done, of)): (&&str, &(u64, u64))| match of {
        0 => format!("{what} {done}"),
        of => format!("{what} {done} of {of}"),
    };
    let counts: Vec<String> = counts.iter().map(count).collect();
    format!("{} min {:02} s: {}", since.as_secs() / 60, since.as_secs() % 60, counts.join(", "))
}
