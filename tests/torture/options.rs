//! What can be asked for on the command line.

use std::path::PathBuf;
use std::time::Duration;

use crate::Outcome;
use crate::node::Ground;

const USAGE: &str = "usage: torture PART... --plain FILE --armed FILE [--seed N] [--minutes N] [--grounds NAME,...] [--workers N] [--only TEXT] [--rounds N] [--nodes N] [--power-cuts PERCENT] [--lost-writes PERCENT] [--adversities PERCENT] [--only-faults NAME,...] [--whole] [--pools DIR,...] [--kubelet DIR] [--report FILE]
parts: random, exhaustive, syscalls, races, mutants, clean, page, pools (which needs no programs); see docs/reliability.md";

/// As typed.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) parts: Vec<String>,
    /// The program as users run it.
    pub(crate) plain: PathBuf,
    /// The program with named steps and planted bugs.
    pub(crate) armed: PathBuf,
    pub(crate) seed: u64,
    pub(crate) lasts: Duration,
    /// How often each pair of calls is raced.
    pub(crate) rounds: usize,
    pub(crate) grounds: Vec<Ground>,
    pub(crate) workers: usize,
    /// Nodes side by side on each ground, where lives are broken one by one.
    pub(crate) nodes: usize,
    /// So many faults of a hundred are power cuts.
    pub(crate) power_cuts: usize,
    /// In so many of a hundred power cuts the disk loses what was not flushed; with 0 it is a plain file.
    pub(crate) lost_writes: usize,
    /// So many of what is left are adversities, see `adversity.rs`.
    pub(crate) adversities: usize,
    /// Only the adversities of these names, and no other fault.
    pub(crate) only_faults: String,
    /// Only what has this in its name.
    pub(crate) only: String,
    /// Whether it is a failure that the time was over before all was tried.
    pub(crate) whole: bool,
    pub(crate) report: Option<PathBuf>,
    /// The page that `page` writes into.
    pub(crate) page: PathBuf,
    /// Where it finds the reports.
    pub(crate) runs: PathBuf,
    /// The pools that `pools` looks at, and the kubelet directory of their node.
    pub(crate) pools: Vec<PathBuf>,
    pub(crate) kubelet: PathBuf,
}

impl Options {
    pub(crate) fn read() -> Outcome<Options> {
        let mut options = Options {
            parts: Vec::new(),
            plain: PathBuf::new(),
            armed: PathBuf::new(),
            seed: 1,
            lasts: Duration::from_secs(60 * 60),
            rounds: 20,
            grounds: Ground::ALL.to_vec(),
            workers: 8,
            nodes: 4,
            power_cuts: 10,
            lost_writes: 50,
            adversities: 10,
            only_faults: String::new(),
            only: String::new(),
            whole: false,
            report: None,
            page: PathBuf::from("docs/reliability.md"),
            runs: PathBuf::from("torture-results"),
            pools: Vec::new(),
            kubelet: PathBuf::from("/var/lib/kubelet"),
        };
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            if !word.starts_with("--") {
                options.parts.push(word);
                continue;
            }
            if word == "--whole" {
                options.whole = true;
                continue;
            }
            let value = words.next().ok_or_else(|| format!("{word} needs a value\n{USAGE}"))?;
            match word.as_str() {
                "--plain" => options.plain = PathBuf::from(value).canonicalize()?,
                "--armed" => options.armed = PathBuf::from(value).canonicalize()?,
                "--seed" => options.seed = value.parse()?,
                "--minutes" => options.lasts = Duration::from_secs_f64(value.parse::<f64>()? * 60.0),
                "--nodes" => options.nodes = value.parse()?,
                "--rounds" => options.rounds = value.parse()?,
                "--grounds" => options.grounds = grounds(&value)?,
                "--workers" => options.workers = value.parse()?,
                "--power-cuts" => options.power_cuts = value.parse()?,
                "--lost-writes" => options.lost_writes = value.parse()?,
                "--adversities" => options.adversities = value.parse()?,
                "--only-faults" => options.only_faults = value,
                "--only" => options.only = value,
                "--page" => options.page = PathBuf::from(value),
                "--runs" => options.runs = PathBuf::from(value),
                "--pools" => options.pools = value.split(',').map(PathBuf::from).collect(),
                "--kubelet" => options.kubelet = PathBuf::from(value),
                "--report" => options.report = Some(PathBuf::from(value)),
                _ => return Err(format!("unknown option {word}\n{USAGE}").into()),
            }
        }
        let programs = options.parts.iter().any(|part| part != "pools");
        let lacks = match programs {
            true => !options.plain.exists() || !options.armed.exists(),
            false => options.pools.is_empty(),
        };
        if options.parts.is_empty() || lacks {
            return Err(USAGE.into());
        }
        Ok(options)
    }
}

fn grounds(text: &str) -> Outcome<Vec<Ground>> {
    let find = |name: &str| Ground::ALL.into_iter().find(|ground| ground.name() == name);
    let names = Ground::ALL.map(Ground::name).join(", ");
    text.split(',')
        .map(|name| find(name).ok_or(format!("ground {name}: want one of {names}").into()))
        .collect()
}
