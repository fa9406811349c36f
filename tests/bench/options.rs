//! What can be asked of a run: `--only PART` (repeatable), `--quick`, `--against PROGRAM`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::Outcome;

const HELP: &str = "\
usage: make bench ARGS='[--quick] [--only PART]... [--against PROGRAM]'
  --quick      one round of everything, with at most 1,000 volumes present: for a look, not for figures
  --only PART  lives, calls, copies, fio or restart; may be repeated
  --against PROGRAM
               nothing but lifecycles a second, beside those of this older build of rockpool in turns";

/// A part of the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// Lifecycles a second.
    Lives,
    /// Single calls.
    Calls,
    /// Snapshots and clones.
    Copies,
    /// fio.
    Disk,
    /// Start, list, memory.
    Restart,
}

/// How much is to be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Depth {
    Full,
    Quick,
}

/// A run as asked for.
pub(crate) struct Options {
    depth: Depth,
    only: Vec<Part>,
    against: Option<PathBuf>,
}

impl Options {
    /// From the command line.
    pub(crate) fn read() -> Outcome<Options> {
        let mut options = Options { depth: Depth::Full, only: Vec::new(), against: None };
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            match word.as_str() {
                // What cargo adds.
                "--bench" => {}
                "--quick" => options.depth = Depth::Quick,
                "--only" => options.only.push(part(&words.next().unwrap_or_default())?),
                "--against" => options.against = Some(program(&words.next().unwrap_or_default())?),
                "--help" | "-h" => {
                    println!("{HELP}");
                    std::process::exit(0);
                }
                other => return Err(format!("{other} is no option\n{HELP}").into()),
            }
        }
        Ok(options)
    }

    /// The older build to compare with, and with nothing else.
    pub(crate) fn against(&self) -> Option<&Path> {
        self.against.as_deref()
    }

    /// Whether a part is to run.
    pub(crate) fn wants(&self, part: Part) -> bool {
        self.only.is_empty() || self.only.contains(&part)
    }

    /// Whether a part is to run that needs many volumes.
    pub(crate) fn wants_volumes(&self) -> bool {
        [Part::Lives, Part::Calls, Part::Restart].into_iter().any(|part| self.wants(part))
    }

    /// How many volumes are present, one after the other.
    pub(crate) fn populations(&self) -> Vec<usize> {
        match self.depth {
            Depth::Full => vec![1000, 5000, 10_000],
            Depth::Quick => vec![1000],
        }
    }

    /// How often what alternates is repeated.
    pub(crate) fn rounds(&self) -> usize {
        match self.depth {
            Depth::Full => 5,
            Depth::Quick => 1,
        }
    }

    /// How often two builds take turns: often and shortly, since this kind of machine changes its pace within seconds.
    pub(crate) fn turns(&self) -> (usize, Duration) {
        match self.depth {
            Depth::Full => (31, Duration::from_millis(500)),
            Depth::Quick => (1, Duration::from_millis(500)),
        }
    }

    /// How long one round of lifecycles takes.
    pub(crate) fn round(&self) -> Duration {
        Duration::from_millis(match self.depth {
            Depth::Full => 1000,
            Depth::Quick => 700,
        })
    }

    /// How often a single call is made.
    pub(crate) fn samples(&self) -> usize {
        match self.depth {
            Depth::Full => 300,
            Depth::Quick => 60,
        }
    }

    /// How often fio looks at each target, and for how many seconds.
    pub(crate) fn fio(&self) -> (usize, u32) {
        match self.depth {
            Depth::Full => (5, 2),
            Depth::Quick => (1, 1),
        }
    }

    /// As the report names it.
    pub(crate) fn name(&self) -> &'static str {
        match self.depth {
            Depth::Full => "full",
            Depth::Quick => "quick",
        }
    }
}

fn program(word: &str) -> Outcome<PathBuf> {
    let path = std::path::absolute(word).map_err(|error| format!("--against {word:?}: {error}"))?;
    if path.is_file() {
        return Ok(path);
    }
    Err(format!("--against {word:?}: there is no such program; give the path of an older rockpool").into())
}

fn part(word: &str) -> Outcome<Part> {
    Ok(match word {
        "lives" | "lifecycles" => Part::Lives,
        "calls" => Part::Calls,
        "copies" => Part::Copies,
        "fio" => Part::Disk,
        "restart" => Part::Restart,
        other => return Err(format!("--only {other}: there is no such part\n{HELP}").into()),
    })
}
