//! SIGKILL and an error at every n-th system call of each kind that matters, by strace: needs no step in the code.
//!
//! Owns: which calls and errors, and counting N up until a life is over before the Nth call. strace counts for each thread by
//! itself, the programs that the driver runs included.

use std::path::{Path, PathBuf};

use serde_json::json;

use crate::Outcome;
use crate::breaks::{Break, Stage};
use crate::grounds::on_each;
use crate::lives::{LIVES, Life};
use crate::node::Ground;
use crate::options::Options;
use crate::report::Report;

/// A life that makes more calls of one kind than this is not a small one.
const MOST: u32 = 120;

/// Calls, and what is injected: a signal or an error.
const INJECTIONS: &[(&str, &str)] = &[
    ("fsync", "signal=SIGKILL"),
    ("renameat", "signal=SIGKILL"),
    ("renameat2", "signal=SIGKILL"),
    ("unlinkat", "signal=SIGKILL"),
    ("mkdirat", "signal=SIGKILL"),
    ("ftruncate", "signal=SIGKILL"),
    ("ioctl", "signal=SIGKILL"),
    ("move_mount", "signal=SIGKILL"),
    ("umount2", "signal=SIGKILL"),
    ("openat2", "signal=SIGKILL"),
    ("execve", "signal=SIGKILL"),
    ("fsync", "error=EIO"),
    ("renameat", "error=EIO"),
    ("renameat2", "error=ENOSPC"),
    ("unlinkat", "error=EIO"),
    ("mkdirat", "error=ENOSPC"),
    ("ftruncate", "error=ENOSPC"),
    ("ioctl", "error=EBUSY"),
    ("ioctl", "error=EIO"),
    ("move_mount", "error=ENOMEM"),
    ("fsmount", "error=ENOMEM"),
    ("open_tree", "error=EMFILE"),
    ("umount2", "error=EBUSY"),
    ("openat2", "error=EMFILE"),
    ("openat", "error=EMFILE"),
    ("syncfs", "error=EIO"),
    ("setxattr", "error=ENOSPC"),
    ("fsetxattr", "error=ENOSPC"),
    ("execve", "error=ENOMEM"),
];

const NAMES: [&str; 4] =
    ["a volume lives", "a volume grows at rest", "a snapshot outlives its volume", "a raw volume lives"];

/// What came of one kind of injection in one life.
#[derive(Clone, Debug, Default)]
struct Sum {
    injected: u64,
    kills: u64,
    violations: Vec<String>,
}

/// All grounds, side by side.
pub(crate) async fn part(options: &Options, report: &mut Report) -> Outcome<()> {
    let part = |base: PathBuf, ground, options| async move { ground_part(&base, ground, &options).await };
    on_each(options, part, |ground, sum| {
        println!(
            "syscalls {}: {} calls injected, {} of them kills, {} violations",
            ground.name(),
            sum.injected,
            sum.kills,
            sum.violations.len()
        );
        let part = json!({
            "part": "syscalls", "ground": ground.name(), "injected": sum.injected, "kills": sum.kills,
            "kinds": INJECTIONS.len(), "violations": sum.violations.len(),
        });
        report.add(part, sum.violations);
    })
    .await
}

async fn ground_part(base: &Path, ground: Ground, options: &Options) -> Outcome<Sum> {
    let mut sum = Sum::default();
    let mut fresh = 0;
    let lives = LIVES.iter().filter(|life| NAMES.contains(&life.name) && life.fits(ground));
    for life in lives {
        for (call, what) in INJECTIONS.iter().filter(|(call, _)| call.contains(&options.only)) {
            fresh += 1;
            let base = base.join(fresh.to_string());
            let one = one_kind(&base, (ground, &options.plain), life, (call, what), Vec::new()).await?;
            sum.injected += one.injected;
            sum.kills += one.kills;
            sum.violations.extend(one.violations);
        }
    }
    Ok(sum)
}

/// N = 1, 2, … until the life is over before the Nth call, or something was violated.
async fn one_kind(
    base: &Path,
    (ground, binary): (Ground, &Path),
    life: &Life,
    (call, what): (&str, &str),
    environment: Vec<(String, String)>,
) -> Outcome<Sum> {
    let mut sum = Sum::default();
    let mut stage = Stage::new(base, (ground, binary), environment).await?;
    stage.world.set_lenient(true);
    for when in 1..=MOST {
        let log = stage.world.node.own("strace");
        let inject = format!("inject={call}:{what}:when={when}");
        let output = log.display().to_string();
        let words = ["strace", "-D", "-f", "-q", "--seccomp-bpf", "-o", &output];
        let mut words: Vec<String> = words.iter().map(ToString::to_string).collect();
        words.extend(["-e".to_owned(), format!("trace={call}"), "-e".to_owned(), inject]);
        if let Err(error) = stage.live(life, &Break::Wrapper(words)).await {
            stage.world.violation(format!("the life could not go on: {error}"));
        }
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        let killed = text.contains("+++ killed by SIGKILL");
        let injected = killed || text.contains("(INJECTED)");
        sum.injected += u64::from(injected);
        sum.kills += u64::from(killed);
        let said = stage.world.pardon();
        if !said.is_empty() {
            let at = format!("{} / {call} {what} when={when}", life.name);
            sum.violations.extend(said.into_iter().map(|said| format!("{at}: {said}")));
            return Ok(sum);
        }
        if !injected {
            break;
        }
    }
    Ok(sum)
}

/// Whether an error at an unlink tells a planted bug, for the hunt of mutants.
pub(crate) async fn hunt(
    base: &Path,
    binary: &Path,
    environment: Vec<(String, String)>,
) -> Outcome<Vec<String>> {
    let Some(life) = LIVES.first() else { return Ok(Vec::new()) };
    let injection = ("unlinkat", "error=EIO");
    Ok(one_kind(base, (Ground::ImageOnXfs, binary), life, injection, environment).await?.violations)
}
