//! Proof of the proof: bugs planted in the driver, each of which must be caught.
//!
//! Owns: the list of bugs, and which hunt goes after which. A bug is caught when the torture finds a violation that it does not
//! find without it.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::json;

use crate::Outcome;
use crate::breaks::{Break, Stage};
use crate::lives::{LIVES, Life, TRICKS};
use crate::node::{Fault, Ground};
use crate::options::Options;
use crate::progress;
use crate::report::Report;
use crate::syscalls;

/// How a bug is hunted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Hunt {
    /// By this life, with nothing else broken.
    Life(&'static str),
    /// By killing this life at this step.
    Kill(&'static str, &'static str),
    /// By an error at every unlink.
    Errors,
}

use Hunt::{Errors, Kill, Life as Lived};

/// The bugs, what each does, and its hunt.
const BUGS: &[(&str, &str, Hunt)] = &[
    ("drop-file-fsync", "a record is renamed into place unsynced", Lived("answered, and then dark")),
    (
        "drop-directory-fsync",
        "the directory is not synced after the rename",
        Lived("answered, and then dark"),
    ),
    (
        "reply-before-record",
        "the answer goes out, the record stays in memory",
        Lived("a driver restarts midway"),
    ),
    (
        "cut-without-flush",
        "a snapshot without what the filesystem holds back",
        Lived("a cut of unsynced bytes"),
    ),
    ("id-from-name", "the id follows from the name", Lived("a name is used again")),
    ("format-unreadable", "stage formats what it cannot read", Lived("a superblock is overwritten")),
    ("recursive-delete", "unpublish deletes all at a target", Lived("a squatter in a target")),
    ("target-kept", "unpublish leaves the target", Lived("a volume lives")),
    ("no-autoclear", "a device outlives its user", Kill("a volume lives", "stage: attached#1")),
    ("device-kept", "unstage leaves the device", Lived("a raw volume lives")),
    ("ignore-unmount-error", "a busy mount counts as unmounted", Lived("a busy target")),
    ("lazy-unmount", "a busy mount is detached lazily", Lived("a busy target")),
    ("delete-in-use", "delete does not look for users", Lived("a busy target")),
    ("thaw-forgotten", "a group stays frozen", Lived("a group is cut and removed")),
    ("ledger-not-charged", "a promise is not counted", Lived("two volumes side by side")),
    ("sweep-before-lock", "a second driver sweeps what the first writes", Lived("a second driver")),
    ("final-code", "unfinished work is answered as finished", Errors),
    ("claims-not-held", "two calls work on one name", Lived("storms")),
    ("erase-first", "the record goes before the bytes", Kill("a volume lives", "unlink: durable#1")),
    ("no-recovery", "the start finishes nothing", Lived("after a kill in delete")),
    ("debris-kept", "what was half made stays", Lived("after a kill before the object is placed")),
    ("names-forgotten", "the start forgets names", Lived("a name is asked for again")),
    ("promise-kept", "a promise outlives its record", Lived("a name is used again")),
    ("descriptors-kept", "a descriptor a sync is never closed", Lived("a name is used again")),
    ("unknown-code", "a conflict is told as UNKNOWN", Lived("a name is asked for again")),
    ("ignore-fsync-error", "an error of fsync counts as success", Lived("a disk that fails, and then dark")),
    ("loop-by-path", "a loop device is told by its path", Lived("a pool is mounted anew below its volumes")),
    ("conflict-unseen", "a taken name with another size is fine", Lived("a name is asked for again")),
];

/// Every bug by its hunt, and every hunt without a bug.
pub(crate) async fn part(options: &Options, report: &mut Report) -> Outcome<()> {
    let dir = tempfile::Builder::new().prefix("rp-torture.").tempdir()?;
    let mut violations = clean(dir.path(), options).await?;
    let (mut caught, mut rows) = (0, Vec::new());
    let bugs: Vec<_> = BUGS.iter().filter(|(name, ..)| name.contains(&options.only)).collect();
    progress::expect("planted bugs", bugs.len());
    for (name, what, hunt) in &bugs {
        let environment = vec![("ROCKPOOL_PLANTED".to_owned(), (*name).to_owned())];
        let found = run(&dir.path().join(name), &options.armed, environment, *hunt).await?;
        println!(
            "mutant {name}: {}: {}",
            if found.is_empty() { "NOT CAUGHT" } else { "caught" },
            found.first().map_or("", |f| f)
        );
        caught += usize::from(!found.is_empty());
        progress::one("planted bugs");
        if found.is_empty() {
            violations.push(format!("the planted bug {name} ({what}) was not caught by {hunt:?}"));
        }
        rows.push(
            json!({ "bug": name, "what": what, "hunt": format!("{hunt:?}"), "caught": !found.is_empty() }),
        );
    }
    println!("mutants: {caught} of {} planted bugs caught", bugs.len());
    let part = json!({
        "part": "mutants", "planted": bugs.len(), "caught": caught, "bugs": rows, "violations": violations.len(),
    });
    report.add(part, violations);
    Ok(())
}

/// All hunts without a bug, and all tricks on every pool: none may cry wolf.
async fn clean(base: &Path, options: &Options) -> Outcome<Vec<String>> {
    let mut violations = Vec::new();
    for ground in &options.grounds {
        let base = base.join(format!("clean-{}", ground.name()));
        let mut stage = Stage::new(&base, (*ground, &options.armed), Vec::new()).await?;
        for life in TRICKS.iter().filter(|life| life.fits(*ground)) {
            stage.live(life, &Break::Nothing).await?;
            violations.extend(stage.world.pardon().into_iter().map(|said| format!("{}: {said}", life.name)));
        }
    }
    let hunts: BTreeSet<Hunt> = BUGS.iter().map(|(_, _, hunt)| *hunt).collect();
    progress::expect("hunts without a bug", hunts.len());
    for (number, hunt) in hunts.iter().enumerate() {
        let found = run(&base.join(format!("clean-{number}")), &options.armed, Vec::new(), *hunt).await?;
        violations.extend(found.into_iter().map(|said| format!("{hunt:?} without a bug: {said}")));
        progress::one("hunts without a bug");
    }
    println!("{} hunts and all tricks without a bug: {} violations", hunts.len(), violations.len());
    Ok(violations)
}

async fn run(
    base: &Path,
    binary: &Path,
    environment: Vec<(String, String)>,
    hunt: Hunt,
) -> Outcome<Vec<String>> {
    let (name, broken) = match hunt {
        Lived(name) => (name, Break::Wrapper(Vec::new())),
        Kill(name, step) => (name, Break::Step(step.to_owned(), Fault::Kill)),
        Errors => return syscalls::hunt(base, binary, environment).await,
    };
    let all: Vec<&Life> = LIVES.iter().chain(TRICKS).collect();
    let life =
        all.iter().find(|life| life.name == name).ok_or_else(|| format!("no life is called {name}"))?;
    let mut stage = Stage::new(base, (Ground::ImageOnXfs, binary), environment).await?;
    // A driver that cannot go on has been caught, too.
    if let Err(error) = stage.live(life, &broken).await {
        stage.world.violation(format!("the life could not go on: {error}"));
    }
    Ok(stage.world.pardon())
}
