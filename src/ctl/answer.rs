//! What a command prints: a table for people, JSON for scripts.
//!
//! Owns: alignment and how sizes, maps and times read. Never: decides what is shown.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::ExitCode;

use clap::ValueEnum;
use prost_types::Timestamp;
use serde_json::{Value, json};

use super::failure::{Failure, Outcome};
use crate::error::quoted;
use crate::model::Bytes;
use crate::proto::csi;

/// How answers are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Aligned columns for people.
    Table,
    /// JSON with stable field names for scripts.
    Json,
}

/// Rows under a header; cells may be of any width.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty table with these columns.
    pub(crate) fn new(header: &[&str]) -> Self {
        Table { rows: vec![header.iter().map(|cell| (*cell).to_owned()).collect()] }
    }

    /// One thing: a name and a value a line.
    pub(crate) fn of_one<const N: usize>(lines: [(&str, String); N]) -> Self {
        Table { rows: lines.into_iter().map(|(name, value)| vec![name.to_owned(), value]).collect() }
    }

    /// Adds a row.
    pub(crate) fn push<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.into());
    }

    /// Whether there is anything under the header.
    fn has_rows(&self) -> bool {
        self.rows.len() > 1
    }

    /// Aligned text; control characters in a cell are escaped, so that no driver can forge a line.
    pub(crate) fn text(&self) -> String {
        let rows: Vec<Vec<String>> =
            self.rows.iter().map(|row| row.iter().map(|c| printable(c)).collect()).collect();
        let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column| {
            rows.iter()
                .filter_map(|row| row.get(column))
                .map(|c: &String| c.chars().count())
                .max()
                .unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut text = String::new();
        for row in &rows {
            let line: Vec<String> =
                row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
            text.push_str(line.join("  ").trim_end());
            text.push('\n');
        }
        text
    }
}

fn printable(cell: &str) -> String {
    if cell.is_empty() {
        return "-".to_owned();
    }
    cell.chars()
        .flat_map(|c| if c.is_control() { c.escape_debug().collect::<Vec<_>>() } else { vec![c] })
        .collect()
}

/// The answer of a command.
#[derive(Debug)]
pub(super) struct Answer {
    table: Table,
    json: Value,
    verdict: Verdict,
    failures: Vec<Failure>,
    notes: Vec<String>,
}

/// Whether the answer to a yes-or-no question was yes, or how well things are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It was, or none was asked.
    Yes,
    /// It was not: exit code 1.
    No,
    /// The doctor found something to look at: exit code 3.
    Warning,
    /// The doctor found something broken: exit code 4.
    Broken,
}

impl Answer {
    /// Both forms of one answer.
    pub(super) fn new(table: Table, json: Value) -> Self {
        Answer { table, json, verdict: Verdict::Yes, failures: Vec::new(), notes: Vec::new() }
    }

    /// Done, with nothing to tell but what was done.
    pub(super) fn done(what: &str, id: &str) -> Self {
        Answer::new(Table { rows: vec![vec![format!("{what} {id}")]] }, json!({ "done": what, "id": id }))
    }

    /// What was done of several things, and what failed: both are told, and the exit code is that of the first failure.
    pub(super) fn of_several(table: Table, mut json: Value, failures: Vec<Failure>) -> Self {
        json["failed"] = failures.iter().map(|failure| json!(failure.to_string())).collect();
        Answer { failures, ..Answer::new(table, json) }
    }

    /// The same with the answer to a yes-or-no question.
    pub(super) fn with(self, verdict: Verdict) -> Self {
        Answer { verdict, ..self }
    }

    /// The same with something said beside it, on stderr, a line each.
    pub(super) fn noting(self, notes: Vec<String>) -> Self {
        Answer { notes, ..self }
    }

    /// The exit code of a command that got its answer.
    pub(super) fn exit(&self) -> ExitCode {
        if let Some(failure) = self.failures.first() {
            return failure.exit();
        }
        match self.verdict {
            Verdict::Yes => ExitCode::SUCCESS,
            Verdict::No => ExitCode::FAILURE,
            Verdict::Warning => ExitCode::from(3),
            Verdict::Broken => ExitCode::from(4),
        }
    }

    /// Prints it, and what failed to stderr, a line each.
    pub(super) fn print(&self, format: Format) -> Outcome<()> {
        // Where nothing was done, a table has nothing to show.
        if format == Format::Json || self.failures.is_empty() || self.table.has_rows() {
            print(&self.table, &self.json, format)
                .map_err(|error| Failure::Other(crate::error::chain(&error)))?;
        }
        self.notes.iter().for_each(|note| say(note));
        self.failures.iter().for_each(|failure| say(failure));
        Ok(())
    }
}

/// Prints one line on stderr.
pub(super) fn say(line: &dyn std::fmt::Display) {
    eprintln!("rockpool ctl: {line}");
}

/// Prints one of both.
pub(crate) fn print(table: &Table, json: &Value, format: Format) -> crate::error::Result<()> {
    let text = match format {
        Format::Table => table.text(),
        Format::Json => format!("{json:#}\n"),
    };
    print_text(text.as_bytes())
}

/// Prints what is ready to be printed. A reader that has gone away (`| head`) is no failure.
pub(crate) fn print_text(text: &[u8]) -> crate::error::Result<()> {
    match std::io::stdout().lock().write_all(text) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(crate::error::Error::host("failed to print the answer", error))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// A size for people, where CSI's 0 says that it is not known.
pub(super) fn size(bytes: i64) -> String {
    if bytes == 0 { "-".to_owned() } else { amount(bytes) }
}

/// Bytes for people, where 0 is none; a driver may send anything, so also what cannot be.
pub(super) fn amount(bytes: i64) -> String {
    match u64::try_from(bytes) {
        Ok(bytes) => Bytes::new(bytes).to_string(),
        Err(_) => format!("{bytes} B"),
    }
}

/// A map in one cell: `a=b,c=d`.
pub(super) fn pairs(map: &BTreeMap<String, String>) -> String {
    map.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}

/// Places in one cell.
pub(super) fn places(topologies: &[csi::Topology]) -> String {
    topologies.iter().map(|place| pairs(&place.segments)).collect::<Vec<_>>().join(" or ")
}

/// Places for scripts: a list of maps.
pub(super) fn places_json(topologies: &[csi::Topology]) -> Value {
    topologies.iter().map(|place| json!(place.segments)).collect()
}

/// A timestamp as RFC 3339 in UTC, empty where there is none.
pub(super) fn moment(time: Option<&Timestamp>) -> String {
    time.map_or_else(String::new, ToString::to_string)
}

/// The name of an enum's value, or its number where we do not know it.
pub(super) fn word<E: TryFrom<i32>>(value: i32, name: impl Fn(E) -> &'static str) -> String {
    E::try_from(value).map_or_else(|_| value.to_string(), |known| name(known).to_owned())
}

/// Health for people and scripts.
pub(super) fn health<'a>(volumes: impl Iterator<Item = &'a csi::VolumeHealth>) -> Answer {
    let mut table = Table::new(&["VOLUME", "STATUS", "REASON", "MESSAGE"]);
    let mut list = Vec::new();
    for volume in volumes {
        let mut entries = Vec::new();
        for entry in &volume.health_statuses {
            let status = word(entry.status, |e: csi::VolumeHealthErrorType| e.as_str_name());
            entries.push(json!({ "status": status, "reason": entry.reason, "message": entry.message }));
            table.push([volume.volume_id.clone(), status, entry.reason.clone(), entry.message.clone()]);
        }
        if entries.is_empty() {
            table.push([volume.volume_id.clone(), "healthy".into(), String::new(), String::new()]);
        }
        list.push(json!({ "volume_id": volume.volume_id, "health_statuses": entries }));
    }
    Answer::new(table, json!({ "entries": list }))
}

/// What an answer must hold and does not: a driver's mistake, said by name.
pub(super) fn present<T>(value: Option<T>, field: &str) -> Outcome<T> {
    value.ok_or_else(|| Failure::Other(format!("the driver's answer has no {}", quoted(field))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_align_and_a_cell_cannot_forge_a_line() {
        let mut table = Table::new(&["ID", "SIZE"]);
        table.push(["long-id".into(), "1 GiB".into()]);
        table.push(["x\nfake".into(), String::new()]);
        assert_eq!(table.text(), "ID       SIZE\nlong-id  1 GiB\nx\\nfake  -\n");
    }

    #[test]
    fn a_driver_may_send_any_size() {
        assert_eq!(size(-5), "-5 B");
        assert_eq!(size(1 << 30), "1 GiB");
        assert_eq!((size(0), amount(0)), ("-".to_owned(), "0 B".to_owned()));
    }
}
