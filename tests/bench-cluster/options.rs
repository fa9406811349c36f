//! What can be asked of a run: `--only PART` (repeatable), `--quick`.

use std::time::Duration;

use crate::Outcome;

const HELP: &str = "\
usage: make bench-cluster ARGS='[--quick] [--only PART]...'
  --quick      a tenth of everything: for a look, not for figures
  --only PART  routed, many or stream; may be repeated";

/// A part of the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// A call through a controller, beside the same call without one.
    Routed,
    /// Many nodes behind one controller.
    Many,
    /// A volume that travels from node to node, beside `dd`.
    Stream,
}

/// A run as asked for.
pub(crate) struct Options {
    quick: bool,
    only: Vec<Part>,
}

impl Options {
    /// From the command line.
    pub(crate) fn read() -> Outcome<Options> {
        let mut options = Options { quick: false, only: Vec::new() };
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            match word.as_str() {
                // What cargo adds.
                "--bench" => {}
                "--quick" => options.quick = true,
                "--only" => options.only.push(match words.next().unwrap_or_default().as_str() {
                    "routed" => Part::Routed,
                    "many" => Part::Many,
                    "stream" => Part::Stream,
                    other => return Err(format!("{other} is no part\n{HELP}").into()),
                }),
                other => return Err(format!("{other} is no option\n{HELP}").into()),
            }
        }
        Ok(options)
    }

    /// What a report calls such a run.
    pub(crate) fn name(&self) -> &'static str {
        if self.quick { "cluster, quick" } else { "cluster" }
    }

    /// Whether a part is to run.
    pub(crate) fn wants(&self, part: Part) -> bool {
        self.only.is_empty() || self.only.contains(&part)
    }

    /// Nodes, and volumes on each.
    pub(crate) fn many(&self) -> (usize, usize) {
        if self.quick { (100, 100) } else { (1000, 100) }
    }

    /// How many bytes travel.
    pub(crate) fn stream(&self) -> usize {
        if self.quick { 128 << 20 } else { 1 << 30 }
    }

    /// How long volumes are made at a rate.
    pub(crate) fn load(&self) -> Duration {
        Duration::from_secs(if self.quick { 5 } else { 30 })
    }

    /// How often what alternates is repeated.
    pub(crate) fn rounds(&self) -> usize {
        if self.quick { 2 } else { 10 }
    }

    /// How often the controller is started anew.
    pub(crate) fn restarts(&self) -> usize {
        if self.quick { 1 } else { 3 }
    }
}
