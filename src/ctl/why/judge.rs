//! The verdict: what is wrong with a claim, and what would mend it.
//!
//! Owns: the order in which causes are considered, the most certain first. Never: asks anybody; guesses: where nothing is known it
//! says what was looked at, and repeats what the cluster said.

use serde_json::Value;

use super::facts::{Facts, Look, moment, newest_first, seen_at, text};
use super::{bound, claim, place, provision, source};

/// How things are, the worst last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum State {
    /// Nothing is wrong.
    Well,
    /// It waits for something that comes by itself, or that a user has yet to do.
    Waits,
    /// Nothing wrong was found, and it is not as it should be.
    Unknown,
    /// Somebody has to do something.
    Wrong,
}

impl State {
    /// Its name in `-o json`, which is stable.
    pub(super) fn word(self) -> &'static str {
        match self {
            State::Well => "well",
            State::Waits => "waits",
            State::Unknown => "unknown",
            State::Wrong => "wrong",
        }
    }
}

/// Why the claim is as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cause {
    /// Its name in `-o json`, which is stable.
    pub(super) code: &'static str,
    pub(super) state: State,
    /// What there is, in sentences.
    pub(super) what: String,
    /// What would mend it; empty where nothing has to be mended.
    pub(super) fix: String,
}

impl Cause {
    pub(super) fn wrong(code: &'static str, what: String, fix: impl Into<String>) -> Cause {
        Cause { code, state: State::Wrong, what, fix: fix.into() }
    }

    pub(super) fn waits(code: &'static str, what: String, fix: impl Into<String>) -> Cause {
        Cause { code, state: State::Waits, what, fix: fix.into() }
    }

    pub(super) fn well(code: &'static str, what: String) -> Cause {
        Cause { code, state: State::Well, what, fix: String::new() }
    }
}

/// All that is to be said, the most certain first; never empty.
#[derive(Debug)]
pub(super) struct Verdict(pub(super) Vec<Cause>);

impl Verdict {
    pub(super) fn state(&self) -> State {
        self.0.iter().map(|cause| cause.state).max().unwrap_or(State::Unknown)
    }

    /// One paragraph.
    pub(super) fn text(&self) -> String {
        let one = |cause: &Cause| [&cause.what[..], &cause.fix[..]].join(" ").trim_end().to_owned();
        self.0.iter().map(one).collect::<Vec<_>>().join(" ")
    }
}

/// What is wrong, as far as it can be told from what was found.
pub(super) fn judge(facts: &Facts) -> Verdict {
    if facts.claim == Look::Missing {
        return Verdict(vec![claim::missing(facts)]);
    }
    let first = || claim::leaving(facts).or_else(|| claim::lost(facts)).or_else(|| claim::foreign(facts));
    if let Some(cause) = first() {
        return Verdict(vec![cause]);
    }
    if text(facts.claim(), "/status/phase") == "Bound" {
        return Verdict(bound::causes(facts));
    }
    if let Some(cause) = claim::unserved(facts) {
        return Verdict(vec![cause]);
    }
    // All that is wrong with what it asks for can be mended at once.
    let asks: Vec<Cause> = claim::asks(facts).into_iter().chain(source::wrong(facts)).collect();
    if !asks.is_empty() {
        return Verdict(asks);
    }
    let cause = provision::no_driver(facts)
        .or_else(|| place::no_consumer(facts))
        .or_else(|| provision::away(facts))
        .or_else(|| provision::refused(facts))
        .or_else(|| place::unplaced(facts))
        .or_else(|| place::nowhere(facts))
        .or_else(|| provision::at_work(facts))
        .or_else(|| provision::silent(facts));
    Verdict(vec![cause.unwrap_or_else(|| unknown(facts))])
}

/// Where nothing is known to be wrong: what was looked at, and what the cluster said last.
fn unknown(facts: &Facts) -> Cause {
    let phase = text(facts.claim(), "/status/phase");
    let mut events: Vec<&Value> = facts.events.iter().flatten().collect();
    newest_first(&mut events);
    let lines: Vec<String> = events.iter().take(3).map(|event| line(event, facts.now)).collect();
    let events = match (&facts.events, &lines[..]) {
        (None, _) => "Events may not be read.".to_owned(),
        (Some(_), []) => "There are no Events.".to_owned(),
        (Some(_), lines) => format!("The newest Events: {}.", lines.join("; ")),
    };
    let phase = if phase.is_empty() { "without a phase" } else { phase };
    let what = format!(
        "Claim {} is {phase}, and nothing wrong was found in the claim, its class, the driver's nodes and capacity, its pods and its source. {events}",
        facts.title()
    );
    let fix = "If that does not change within a minute, look at the log of the container `provisioner` in the controller's pods.";
    Cause { code: "unknown", state: State::Unknown, what, fix: fix.to_owned() }
}

/// An Event as it is, and how old it is.
pub(super) fn line(event: &Value, now: i64) -> String {
    let (kind, name) = (text(event, "/involvedObject/kind"), text(event, "/involvedObject/name"));
    let (reason, message) = (text(event, "/reason"), said(text(event, "/message")));
    format!("{reason} of {kind} {name}{}: {message}", ago(event, now))
}

/// How old an Event is, as a phrase.
pub(super) fn ago(event: &Value, now: i64) -> String {
    let seen = moment(&format!("{}Z", seen_at(event)));
    seen.map_or_else(String::new, |seen| format!(", {} ago", duration(now - seen)))
}

/// A time for people.
pub(super) fn duration(seconds: i64) -> String {
    match seconds.max(0) {
        seconds @ ..120 => format!("{seconds} s"),
        seconds @ ..7200 => format!("{} minutes", seconds / 60),
        seconds @ ..172_800 => format!("{} hours", seconds / 3600),
        seconds => format!("{} days", seconds / 86_400),
    }
}

/// The words of somebody else, as they are: in quotes, on one line, and not without end.
pub(super) fn said(words: &str) -> String {
    const MOST: usize = 1500;
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    let shown = |c: char| match c {
        '"' | '\'' | '\\' => c.to_string(),
        '“' | '”' => "\"".to_owned(),
        c => c.escape_debug().to_string(),
    };
    let line: Vec<&str> = words.split_whitespace().collect();
    let mut text: String = line.join(" ").chars().take(MOST).map(plain).map(shown).collect();
    if words.chars().count() > MOST {
        text.push('…');
    }
    format!("“{text}”")
}

/// Names in a sentence: `a, b and 3 more`.
pub(super) fn names<T: AsRef<str>>(all: &[T]) -> String {
    const MOST: usize = 5;
    let shown = all.iter().take(MOST).map(AsRef::as_ref).collect::<Vec<_>>();
    match all.len().saturating_sub(MOST) {
        0 => match &shown[..] {
            [] => String::new(),
            [one] => (*one).to_owned(),
            [first @ .., last] => format!("{} and {last}", first.join(", ")),
        },
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_others_stay_on_one_line_and_end() {
        assert_eq!(said("a\n  \"b\" `c`"), "“a \"b\" `c`”");
        assert_eq!(said("x” \u{202e}\u{7}y"), "“x\" \\u{202e} y”");
        assert!(said(&"x".repeat(5000)).chars().count() < 1510);
    }

    #[test]
    fn names_read_as_a_sentence() {
        assert_eq!(names(&["a"]), "a");
        assert_eq!(names(&["a", "b", "c"]), "a, b and c");
        assert_eq!(names(&["a", "b", "c", "d", "e", "f", "g"]), "a, b, c, d, e and 2 more");
    }

    #[test]
    fn times_are_told_in_the_unit_that_fits() {
        let told = [5, 119, 120, 7200, 172_800].map(duration);
        assert_eq!(told, ["5 s", "119 s", "2 minutes", "2 hours", "2 days"]);
    }
}
