//! What can be asked for on the command line.

use std::path::PathBuf;
use std::time::Duration;

use crate::Outcome;

const USAGE: &str = "usage: cluster PART... --plain FILE --armed FILE [--seed N] [--minutes N] [--longest SECONDS] [--workers N] [--only TEXT] [--column KIND] [--logs DIR]
parts: scenes, random, sanity, mutants; see docs/reliability.md";

/// As typed.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) parts: Vec<String>,
    /// The program as users run it.
    pub(crate) plain: PathBuf,
    /// The program with planted bugs.
    pub(crate) armed: PathBuf,
    pub(crate) seed: u64,
    pub(crate) lasts: Duration,
    /// No random fault lasts longer.
    pub(crate) longest: Duration,
    pub(crate) workers: usize,
    /// Only what has this in its name.
    pub(crate) only: String,
    /// The kind of volumes for csi-sanity: `ext4`, `block`, `directory`, or all with nothing.
    pub(crate) column: String,
    /// Where logs are kept when something was violated.
    pub(crate) logs: Option<PathBuf>,
}

impl Options {
    pub(crate) fn read() -> Outcome<Options> {
        let mut options = Options {
            parts: Vec::new(),
            plain: PathBuf::new(),
            armed: PathBuf::new(),
            seed: 1,
            lasts: Duration::from_secs(60),
            longest: Duration::from_secs(20),
            workers: 6,
            only: String::new(),
            column: String::new(),
            logs: None,
        };
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            if !word.starts_with("--") {
                options.parts.push(word);
                continue;
            }
            let value = words.next().ok_or_else(|| format!("{word} needs a value\n{USAGE}"))?;
            match word.as_str() {
                "--plain" => options.plain = PathBuf::from(value).canonicalize()?,
                "--armed" => options.armed = PathBuf::from(value).canonicalize()?,
                "--seed" => options.seed = value.parse()?,
                "--minutes" => options.lasts = Duration::from_secs_f64(value.parse::<f64>()? * 60.0),
                "--longest" => options.longest = Duration::from_secs_f64(value.parse()?),
                "--workers" => options.workers = value.parse()?,
                "--only" => options.only = value,
                "--column" => options.column = value,
                "--logs" => options.logs = Some(PathBuf::from(value)),
                _ => return Err(format!("unknown option {word}\n{USAGE}").into()),
            }
        }
        if options.parts.is_empty() || !options.plain.exists() || !options.armed.exists() {
            return Err(USAGE.into());
        }
        Ok(options)
    }
}
