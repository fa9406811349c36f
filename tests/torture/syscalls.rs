//! SIGKILL and an error at every n-th system call of each kind that matters: needs no step in the code.
//!
//! Owns: which calls and errors, and counting N up until a life is over before the Nth call, or the time is. strace counts for
//! each thread by itself, the programs that the driver runs included. It cannot tell writes to a file from the many to the log
//! and for wakeups; those to files are broken half way by a library, which counts for each process.

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
use crate::straits;

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
    ("open_tree", "signal=SIGKILL"),
    ("fsmount", "signal=SIGKILL"),
    ("mount_setattr", "signal=SIGKILL"),
    ("syncfs", "signal=SIGKILL"),
    ("fsetxattr", "signal=SIGKILL"),
    (WRITE, "signal=SIGKILL"),
    // These two are made by mkfs and its like, which are killed alone.
    ("pwrite64", "signal=SIGKILL"),
    ("fallocate", "signal=SIGKILL"),
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
    ("mount_setattr", "error=ENOMEM"),
    ("fsconfig", "error=EIO"),
    (WRITE, "error=EIO"),
    (WRITE, "error=ENOSPC"),
    ("pwrite64", "error=EIO"),
    ("pwrite64", "error=ENOSPC"),
    ("fallocate", "error=ENOSPC"),
];

/// So often the hunt of mutants tries every call.
const ROUNDS: usize = 3;
/// To a file, by the library.
const WRITE: &str = "write";
const BREAKS_WRITES: &str = include_str!("../support/write_breaks.c");

const NAMES: [&str; 4] = [
    "a volume lives",
    "a volume grows at rest",
    "a snapshot outlives its volume",
    "a raw volume grows in use",
];

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
    let log = stage.world.node.own("injected");
    let lived = match around(stage, kind, when, &log) {
        Ok(words) => stage.live(life, &Break::Wrapper(words)).await.map(drop),
        Err(error) => Err(error),
    };
    if let Err(error) = lived {
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

/// What the driver runs under, and what notes in the log the calls of a kind that it makes.
fn around(stage: &Stage, kind: Kind, when: u32, log: &Path) -> Outcome<Vec<String>> {
    let Kind { call, what, .. } = kind;
    let output = log.display();
    if call != WRITE {
        let words =
            ["strace", "-D", "-f", "-q", "--seccomp-bpf", "-o", &output.to_string()].map(str::to_owned);
        let [trace, inject] = [format!("trace={call}"), format!("inject={call}:{what}:when={when}")];
        return Ok([words.as_slice(), &["-e".to_owned(), trace, "-e".to_owned(), inject]].concat());
    }
    std::fs::write(log, "")?;
    let library = stage.world.node.own("write_breaks.so");
    if !library.exists() && !straits::compiled(BREAKS_WRITES, &library)? {
        return Err("no C compiler is installed to make the library that breaks writes".into());
    }
    let set = [
        format!("LD_PRELOAD={}", library.display()),
        format!("WRITE_LOG={output}"),
        format!("WRITE_WHEN={when}"),
        format!("WRITE_HOW={what}"),
    ];
    Ok([["env".to_owned()].as_slice(), &set].concat())
}

/// Whether an error at an unlink tells a planted bug, for the hunt of mutants.
pub(crate) async fn hunt(
    base: &Path,
    binary: &Path,
    environment: Vec<(String, String)>,
) -> Outcome<Vec<String>> {
    let mut stage = Stage::new(base, (Ground::ImageOnXfs, binary), environment).await?;
    let lives: Vec<&Life> = LIVES.iter().filter(|life| NAMES.contains(&life.name)).collect();
    // Which thread makes the n-th call is chance, so one round may miss it.
    for life in std::iter::repeat_n(lives, ROUNDS).flatten() {
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
