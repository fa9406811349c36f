//! SIGKILL and an error at every n-th system call of each kind that matters, by strace: needs no step in the code.
//!
//! Owns: which calls and errors, and counting N up until a life is over before the Nth call, or the time is. strace counts for
//! each thread by itself, the programs that the driver runs included.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use serde_json::json;
use tokio::task::JoinSet;

use crate::Outcome;
use crate::breaks::{Break, Stage};
use crate::grounds::on_each;
use crate::lives::{LIVES, Life};
use crate::node::Ground;
use crate::options::Options;
use crate::progress;
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
    ("unlinkat", "error=ENOMEM"),
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
    ("fsetxattr", "error=ENOSPC"),
    ("execve", "error=ENOMEM"),
];

const NAMES: [&str; 4] =
    ["a volume lives", "a volume grows at rest", "a snapshot outlives its volume", "a raw volume lives"];

/// One kind of injection in one life.
#[derive(Clone, Copy)]
struct Kind {
    life: &'static Life,
    call: &'static str,
    what: &'static str,
}

/// What came of it.
#[derive(Clone, Copy, Debug, Default)]
struct Injected {
    any: bool,
    kill: bool,
}

/// What the nodes of one ground share.
#[derive(Default)]
struct Queue {
    /// What comes next: of every kind the first call, then of every kind the second, and so on.
    next: VecDeque<(Kind, u32)>,
    kinds: usize,
    injected: u64,
    kills: u64,
    violations: Vec<String>,
    /// What was injected at least once.
    met: BTreeSet<(&'static str, &'static str)>,
    /// What did not come to an end.
    cut_short: Vec<String>,
}

/// All grounds, side by side.
pub(crate) async fn part(options: &Options, report: &mut Report) -> Outcome<()> {
    let part = |base: PathBuf, ground, options| async move { ground_part(&base, ground, &options).await };
    on_each(options, part, |ground, (mut queue, seconds)| {
        let missing = queue.missing(ground, options);
        missing.iter().for_each(|missing| println!("  not covered: {missing}"));
        queue.violations.extend(missing);
        let (name, over) = (ground.name(), queue.kinds - queue.next.len());
        println!(
            "syscalls {name}: {} calls injected in {seconds:.0} s, {} of them kills; {over} of {} kinds to the end of their life, {} violations",
            queue.injected,
            queue.kills,
            queue.kinds,
            queue.violations.len()
        );
        let left: Vec<String> =
            queue.next.iter().map(|(kind, when)| format!("{kind}: begun up to call {}", when - 1)).collect();
        left.iter().for_each(|left| println!("  for want of time not to its end: {left}"));
        let part = json!({
            "part": "syscalls", "ground": name, "seconds": seconds, "injected": queue.injected, "kills": queue.kills,
            "kinds": queue.kinds, "to_the_end": over, "left": left, "violations": queue.violations.len(),
        });
        report.add(part, queue.violations);
    })
    .await
}

async fn ground_part(base: &Path, ground: Ground, options: &Options) -> Outcome<(Queue, f64)> {
    let began = Instant::now();
    let mut queue = Queue::default();
    for (call, what) in INJECTIONS.iter().filter(|(call, _)| call.contains(&options.only)) {
        let lives = LIVES.iter().filter(|life| NAMES.contains(&life.name) && life.fits(ground));
        queue.next.extend(lives.map(|life| (Kind { life, call, what }, 1)));
    }
    queue.kinds = queue.next.len();
    let queue = Arc::new(Mutex::new(queue));
    let mut all = JoinSet::new();
    for number in 0..options.nodes {
        let (queue, base) = (Arc::clone(&queue), base.join(number.to_string()));
        let (binary, ends) = (options.plain.clone(), began + options.lasts);
        all.spawn(async move { work_off(&queue, &base, (ground, &binary), ends).await });
    }
    while let Some(ended) = all.join_next().await {
        ended??;
    }
    let queue = std::mem::take(&mut *lock(&queue));
    Ok((queue, began.elapsed().as_secs_f64()))
}

fn lock(queue: &Mutex<Queue>) -> MutexGuard<'_, Queue> {
    queue.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes what comes next until there is nothing, or the time is over.
async fn work_off(queue: &Mutex<Queue>, base: &Path, node: (Ground, &Path), ends: Instant) -> Outcome<()> {
    let mut stage: Option<Stage> = None;
    for fresh in 0.. {
        if Instant::now() > ends {
            break;
        }
        let Some((kind, when)) = lock(queue).next.pop_front() else { break };
        let mut here = match stage.take() {
            Some(stage) => stage,
            None => Stage::new(&base.join(fresh.to_string()), node, Vec::new()).await?,
        };
        let injected = inject(&mut here, kind, when).await;
        let said = here.world.pardon();
        let mut queue = lock(queue);
        queue.injected += u64::from(injected.any);
        progress::one("calls injected");
        queue.kills += u64::from(injected.kill);
        if !said.is_empty() {
            queue.violations.extend(said.into_iter().map(|said| format!("{kind} when={when}: {said}")));
            queue.met.insert((kind.call, kind.what));
            continue;
        }
        if injected.any {
            queue.met.insert((kind.call, kind.what));
            if when < MOST {
                queue.next.push_back((kind, when + 1));
            } else {
                queue.cut_short.push(format!("{kind}: its life makes more than {MOST} such calls"));
            }
        }
        stage = Some(here);
    }
    Ok(())
}

/// Lives a life whose Nth call of a kind is killed or fails.
async fn inject(stage: &mut Stage, kind: Kind, when: u32) -> Injected {
    let Kind { life, call, what } = kind;
    stage.world.set_lenient(true);
    let log = stage.world.node.own("strace");
    let inject = format!("inject={call}:{what}:when={when}");
    let output = log.display().to_string();
    let words = ["strace", "-D", "-f", "-q", "--seccomp-bpf", "-o", &output];
    let mut words: Vec<String> = words.iter().map(ToString::to_string).collect();
    words.extend(["-e".to_owned(), format!("trace={call}"), "-e".to_owned(), inject]);
    if let Err(error) = stage.live(life, &Break::Wrapper(words)).await {
        stage.world.violation(format!("the life could not go on: {error}"));
    }
    // The driver is killed in the end, too: what tells is whether a thread came so far.
    let mut calls: HashMap<&str, u32> = HashMap::new();
    let text = std::fs::read_to_string(&log).unwrap_or_default();
    for (thread, rest) in text.lines().filter_map(|line| line.split_once(' ')) {
        *calls.entry(thread).or_default() += u32::from(rest.trim_start().starts_with(&format!("{call}(")));
    }
    let any = calls.values().any(|count| *count >= when);
    Injected { any, kill: any && what.ends_with("SIGKILL") }
}

/// Whether an error at an unlink tells a planted bug, for the hunt of mutants.
pub(crate) async fn hunt(
    base: &Path,
    binary: &Path,
    environment: Vec<(String, String)>,
) -> Outcome<Vec<String>> {
    let mut stage = Stage::new(base, (Ground::ImageOnXfs, binary), environment).await?;
    for life in LIVES.iter().filter(|life| NAMES.contains(&life.name)) {
        let kind = Kind { life, call: "unlinkat", what: "error=ENOMEM" };
        for when in 1..=MOST {
            let injected = inject(&mut stage, kind, when).await;
            if !stage.world.violations().is_empty() {
                return Ok(stage.world.pardon());
            }
            if !injected.any {
                break;
            }
        }
    }
    Ok(Vec::new())
}

impl Queue {
    /// What was asked for and not tried, for another reason than the time, or for whatever reason in a run that has to be whole.
    fn missing(&self, ground: Ground, options: &Options) -> Vec<String> {
        let mut missing = self.cut_short.clone();
        if options.whole {
            let left =
                self.next.iter().map(|(kind, when)| format!("{kind}: begun up to call {} only", when - 1));
            missing.extend(left);
        }
        // Where every life can be lived, somebody makes every call.
        let not_begun = |call: &str, what: &str| {
            self.next.iter().any(|(kind, when)| (kind.call, kind.what, *when) == (call, what, 1))
        };
        let asked = INJECTIONS.iter().filter(|(call, _)| call.contains(&options.only));
        let unmet =
            asked.filter(|(call, what)| !self.met.contains(&(*call, *what)) && !not_begun(call, what));
        if ground == Ground::ImageOnXfs {
            missing.extend(unmet.map(|(call, what)| format!("{call} {what}: no life makes this call")));
        }
        missing
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} / {} {}", self.life.name, self.call, self.what)
    }
}
