//! Figures: the table for people, the JSON for comparisons.

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::Outcome;
use crate::options::Options;

/// What was asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Target {
    /// This or more.
    AtLeast(f64),
    /// This or less.
    AtMost(f64),
    /// Nothing: the figure is for comparison.
    None,
}

impl Target {
    fn text(self) -> String {
        match self {
            Target::AtLeast(bound) => format!(">= {bound}"),
            Target::AtMost(bound) => format!("<= {bound}"),
            Target::None => String::new(),
        }
    }

    fn verdict(self, value: f64) -> &'static str {
        match self {
            Target::AtLeast(bound) if value >= bound => "met",
            Target::AtMost(bound) if value <= bound => "met",
            Target::AtLeast(_) | Target::AtMost(_) => "MISSED",
            Target::None => "",
        }
    }
}

struct Figure {
    part: String,
    name: String,
    value: f64,
    unit: &'static str,
    target: Target,
    samples: Vec<f64>,
}

impl Figure {
    /// From the least sample to the largest.
    fn spread(&self) -> String {
        match sorted(&self.samples).as_slice() {
            [least, .., most] => format!("{}..{}", shown(*least), shown(*most)),
            [] | [_] => String::new(),
        }
    }
}

/// All figures of a run.
pub(crate) struct Report {
    depth: &'static str,
    began: SystemTime,
    figures: Vec<Figure>,
}

impl Report {
    /// No figure yet.
    pub(crate) fn new(options: &Options) -> Report {
        Report { depth: options.name(), began: SystemTime::now(), figures: Vec::new() }
    }

    /// Says what is measured now.
    pub(crate) fn begin(&self, what: &str) {
        let seconds = self.began.elapsed().unwrap_or_default().as_secs();
        eprintln!("bench: {seconds:>4} s  {what}");
    }

    /// The median of samples.
    pub(crate) fn median(&mut self, head: (&str, &str), samples: Vec<f64>, as_what: (&'static str, Target)) {
        let value = median(&samples);
        self.push(head, value, as_what, samples);
    }

    /// The median of the ratios of two who took turns, round by round.
    pub(crate) fn ratio(&mut self, head: (&str, &str), ours: &[f64], theirs: &[f64], target: Target) {
        let ratios: Vec<f64> = ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs).collect();
        self.median(head, ratios, ("", target));
    }

    /// One figure that was computed.
    pub(crate) fn value(&mut self, head: (&str, &str), value: f64, as_what: (&'static str, Target)) {
        self.push(head, value, as_what, Vec::new());
    }

    /// A percentile of samples.
    pub(crate) fn percentile(
        &mut self,
        head: (&str, &str),
        samples: &[f64],
        share: f64,
        as_what: (&'static str, Target),
    ) {
        self.push(head, percentile(samples, share), as_what, samples.to_vec());
    }

    fn push(
        &mut self,
        (part, name): (&str, &str),
        value: f64,
        (unit, target): (&'static str, Target),
        samples: Vec<f64>,
    ) {
        self.figures.push(Figure {
            part: part.to_owned(),
            name: name.to_owned(),
            value,
            unit,
            target,
            samples,
        });
    }

    /// The table.
    pub(crate) fn print(&self) {
        let width = self.figures.iter().map(|figure| figure.name.chars().count()).max().unwrap_or(0);
        let mut part = "";
        for figure in &self.figures {
            if figure.part != part {
                part = &figure.part;
                println!("\n{part}");
            }
            let line = format!(
                "  {:<width$}  {:>10} {:<8} {:>16} {:>9}  {}",
                figure.name,
                shown(figure.value),
                figure.unit,
                figure.spread(),
                figure.target.text(),
                figure.target.verdict(figure.value)
            );
            println!("{}", line.trim_end());
        }
        let verdicts: Vec<_> = self.figures.iter().map(|f| f.target.verdict(f.value)).collect();
        let count = |word| verdicts.iter().filter(|verdict| **verdict == word).count();
        println!(
            "\n{} of {} targets met, {} missed",
            count("met"),
            count("met") + count("MISSED"),
            count("MISSED")
        );
    }

    /// `bench-results/<seconds since 1970>.json`.
    pub(crate) fn save(&self) -> Outcome<()> {
        let figures: Vec<Value> = self
            .figures
            .iter()
            .map(|figure| {
                json!({
                    "part": figure.part, "name": figure.name, "value": figure.value, "unit": figure.unit,
                    "target": figure.target.text(), "verdict": figure.target.verdict(figure.value),
                    "samples": figure.samples,
                })
            })
            .collect();
        let began = self.began.duration_since(UNIX_EPOCH)?.as_secs();
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
        let whole = json!({
            "began": began, "seconds": self.began.elapsed()?.as_secs(), "depth": self.depth,
            "version": env!("CARGO_PKG_VERSION"), "kernel": kernel.trim(),
            "cpus": std::thread::available_parallelism()?.get(), "figures": figures,
        });
        let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("bench-results");
        std::fs::create_dir_all(&directory)?;
        let file = directory.join(format!("{began}.json"));
        std::fs::write(&file, format!("{whole:#}\n"))?;
        println!("written to bench-results/{began}.json");
        Ok(())
    }
}

fn shown(value: f64) -> String {
    let digits = match value.abs() {
        v if v >= 100.0 => 0,
        v if v >= 10.0 => 1,
        _ => 2,
    };
    format!("{value:.digits$}")
}

/// Milliseconds.
pub(crate) fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// The middle one, or the mean of the two in the middle.
pub(crate) fn median(samples: &[f64]) -> f64 {
    let sorted = sorted(samples);
    match sorted.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => sorted[odd / 2],
        even => (sorted[even / 2 - 1] + sorted[even / 2]) / 2.0,
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a share of a small number of samples"
)]
fn percentile(samples: &[f64], share: f64) -> f64 {
    let sorted = sorted(samples);
    let rank = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

fn sorted(samples: &[f64]) -> Vec<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}
