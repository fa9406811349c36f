//! The pool file: TOML with one `[[pool]]` entry for each pool, and `[[override]]` entries for some nodes.
//!
//! Owns: its keys, their defaults and what is wrong with a file, all of it at once and by name. Never: opens a pool.

use std::path::{Path, PathBuf};

use toml_edit::{DocumentMut, Item, Table};

use super::Pools;
use super::overrides::{self, Here, OVERRIDE};
use super::words::closest;
use crate::engine::PoolConfig;
use crate::error::{Error, Result, quoted};
use crate::model::{Bytes, RETAIN_DELETED, Retention};
use crate::pool::{Kind, Quota, Setup, check_name};

/// The keys of an entry, in the order in which they are written.
pub(super) const KEYS: [&str; 10] =
    ["name", "kind", "path", "file", "device", "overcommit", "reserve", RETAIN_DELETED, "quota", "size"];
const KINDS: &str = "want \"image\", \"directory\" or \"sim\"";
/// Pools may be promised this many times over at most.
const OVERCOMMIT: std::ops::RangeInclusive<f64> = 1.0..=100.0;
/// At most this share of a pool may be held back.
const RESERVE: std::ops::RangeInclusive<f64> = 0.0..=0.9;

/// The text of a pool file as the pools of one node.
///
/// # Errors
/// `Invalid` with one line for each thing that is wrong, in the order of the file.
pub(super) fn parse(file: &Path, text: &str, here: &Here) -> Result<Pools> {
    let mut document: DocumentMut = text.parse().map_err(|error: toml_edit::TomlError| {
        Error::Invalid(format!("{}: not TOML: {}", file.display(), error.to_string().trim_end()))
    })?;
    let mut wrong = Vec::new();
    let taken = overrides::apply(&mut document, here, &mut wrong);
    for (key, _) in document.iter().filter(|(key, _)| *key != "pool") {
        wrong.push(format!(
            "key {}: unknown: want only [[pool]] and [[override]] entries{}",
            quoted(key),
            closest(key, &["pool", OVERRIDE])
        ));
    }
    let entries: Vec<&Table> = match document.get("pool") {
        Some(Item::ArrayOfTables(entries)) => entries.iter().collect(),
        None => Vec::new(),
        Some(_) => {
            wrong.push("key `pool`: want [[pool]] entries, with two brackets on each side".to_owned());
            Vec::new()
        }
    };
    let mut pools = Vec::new();
    for (index, table) in entries.into_iter().enumerate() {
        let mut entry = Entry { title: title(index, table), table, wrong: &mut wrong };
        pools.extend(entry.pool());
    }
    repeated(&pools, &mut wrong);
    if wrong.is_empty() {
        return Ok(Pools { all: pools, taken });
    }
    let lines: Vec<String> = wrong.into_iter().map(|line| format!("{}: {line}", file.display())).collect();
    Err(Error::Invalid(lines.join("\n")))
}

/// What a `[[pool]]` is called in messages.
fn title(index: usize, table: &Table) -> String {
    let name = table.get("name").and_then(Item::as_str);
    let name = name.map_or_else(String::new, |name| format!(" {}", quoted(name)));
    format!("[[pool]] {}{name}", index + 1)
}

/// One entry while it is read.
pub(super) struct Entry<'a> {
    /// What it is called in messages.
    pub(super) title: String,
    pub(super) table: &'a Table,
    pub(super) wrong: &'a mut Vec<String>,
}

impl Entry<'_> {
    /// The pool, unless something is wrong with it, which is then in `wrong`.
    fn pool(&mut self) -> Option<PoolConfig> {
        let before = self.wrong.len();
        self.refuse_unknown(&KEYS);
        self.require("name", "want a name for people, like \"fast\"");
        self.require("kind", KINDS);
        let (config, kind) = self.values();
        if kind.is_some() {
            self.fits(&config.setup);
        }
        (self.wrong.len() == before).then_some(config)
    }

    pub(super) fn refuse_unknown(&mut self, known: &[&str]) {
        for (key, _) in self.table.iter().filter(|(key, _)| !known.contains(key)) {
            let want = format!("unknown key{}: want one of {}", closest(key, known), known.join(", "));
            self.complain(key, None, &want);
        }
    }

    fn require(&mut self, key: &str, want: &str) {
        if !self.table.contains_key(key) {
            self.complain(key, None, &format!("missing: {want}"));
        }
    }

    /// What its keys say, each by itself, and the default of those that are missing or wrong; with the kind, where it says one.
    pub(super) fn values(&mut self) -> (PoolConfig, Option<Kind>) {
        let name = self.name();
        let kind = self.kind();
        let setup = Setup {
            name: name.unwrap_or_default(),
            kind: kind.unwrap_or(Kind::Image),
            path: self.path("path").unwrap_or_default(),
            file: self.path("file"),
            device: self.path("device"),
            quota: self.quota(),
            size: self.size(),
        };
        let config = PoolConfig {
            overcommit: self.number("overcommit", 1.0, OVERCOMMIT),
            reserve: self.number("reserve", 0.05, RESERVE),
            retain: self.retention(),
            setup,
        };
        if config.setup.file.is_some() && config.setup.device.is_some() && !planted!("file-and-device") {
            self.complain("device", None, "a pool lies in a file or on a device: remove this key or `file`");
        }
        (config, kind)
    }

    /// What one kind needs and another cannot have.
    fn fits(&mut self, setup: &Setup) {
        let kind = quoted(setup.kind.name());
        let sim = setup.kind == Kind::Sim;
        if !sim && !self.table.contains_key("path") {
            self.complain("path", None, "missing: want the absolute path of the pool's directory");
        }
        for key in ["path", "file", "device"] {
            if sim && self.table.contains_key(key) {
                self.complain(key, None, "a pool of kind `sim` lies in memory: remove the key");
            }
        }
        if setup.kind != Kind::Directory && self.table.contains_key("quota") {
            self.complain(
                "quota",
                None,
                &format!("only pools of kind `directory` have it, this one is {kind}"),
            );
        }
        if !sim && self.table.contains_key("size") {
            self.complain("size", None, &format!("only pools of kind `sim` have it, this one is {kind}"));
        }
    }

    fn name(&mut self) -> Option<String> {
        let name = self.text("name")?;
        match check_name(&name) {
            Ok(()) => Some(name),
            Err(want) => self.refuse("name", Some(&name), want),
        }
    }

    fn kind(&mut self) -> Option<Kind> {
        let kind = self.text("kind")?;
        match kind.parse() {
            Ok(kind) => Some(kind),
            Err(_) => {
                let hint = closest(&kind, &["image", "directory", "sim"]);
                self.refuse("kind", Some(&kind), &format!("{KINDS}{hint}"))
            }
        }
    }

    fn path(&mut self, key: &'static str) -> Option<PathBuf> {
        let text = self.text(key)?;
        match super::absolute(&text) {
            Ok(path) => Some(path),
            Err(want) => self.refuse(key, Some(&text), want),
        }
    }

    fn quota(&mut self) -> Quota {
        match self.text("quota").as_deref() {
            None | Some("project") => Quota::Project,
            Some("none") => Quota::None,
            Some(other) => {
                let hint = closest(other, &["project", "none"]);
                let want = format!("want \"project\" (enforced) or \"none\" (sizes are not enforced){hint}");
                self.complain("quota", Some(other), &want);
                Quota::Project
            }
        }
    }

    fn retention(&mut self) -> Retention {
        const WANT: &str = "want a text like \"30m\", \"12h\" or \"7d\": a whole number with s, m, h or d, at most \"3650d\"; \
                            0 keeps nothing";
        let Some(item) = self.table.get(RETAIN_DELETED) else { return Retention::NONE };
        let shown = as_typed(item);
        let meant = match item.as_integer() {
            Some(0) => Some(Retention::NONE),
            Some(_) | None => item.as_str().and_then(|text| text.parse().ok()),
        };
        meant.or_else(|| self.refuse(RETAIN_DELETED, Some(&shown), WANT)).unwrap_or_default()
    }

    fn size(&mut self) -> Option<Bytes> {
        const WANT: &str = "want a number of bytes or a text like \"20GiB\"";
        let item = self.table.get("size")?;
        let shown = as_typed(item);
        let size = match (item.as_integer(), item.as_str()) {
            (Some(number), _) => u64::try_from(number).ok().map(Bytes::new),
            (None, Some(text)) => text.parse().ok(),
            (None, None) => None,
        };
        size.filter(|size| *size > Bytes::ZERO).or_else(|| self.refuse("size", Some(&shown), WANT))
    }

    fn number(&mut self, key: &'static str, default: f64, range: std::ops::RangeInclusive<f64>) -> f64 {
        let Some(item) = self.table.get(key) else { return default };
        // TOML tells `1` from `1.0`; people do not.
        let whole = item.as_integer().and_then(|n| i32::try_from(n).ok()).map(f64::from);
        if let Some(value) = item.as_float().or(whole).filter(|value| range.contains(value)) {
            return value;
        }
        let shown = as_typed(item);
        let want = format!("want a number from {:.1} to {:.1}", range.start(), range.end());
        self.complain(key, Some(&shown), &want);
        default
    }

    fn text(&mut self, key: &'static str) -> Option<String> {
        let item = self.table.get(key)?;
        let shown = as_typed(item);
        let text = item.as_str().map(str::to_owned);
        text.or_else(|| self.refuse(key, Some(&shown), "want a text in quotes"))
    }

    fn refuse<T>(&mut self, key: &str, value: Option<&str>, want: &str) -> Option<T> {
        self.complain(key, value, want);
        None
    }

    fn complain(&mut self, key: &str, value: Option<&str>, want: &str) {
        let value = value.map_or_else(String::new, |value| format!(" {}", quoted(value)));
        self.wrong.push(format!("{}: {key}{value}: {want}", self.title));
    }
}

/// A value for a message: of a text what is between its quotes.
fn as_typed(item: &Item) -> String {
    item.as_str().map_or_else(|| item.to_string().trim().to_owned(), str::to_owned)
}

/// Two pools with one name, in one place, or one in the other.
fn repeated(pools: &[PoolConfig], wrong: &mut Vec<String>) {
    for (at, later) in pools.iter().map(|pool| &pool.setup).enumerate() {
        for earlier in pools.iter().take(at).map(|pool| &pool.setup) {
            let (mine, other) = (quoted(&later.name), quoted(&earlier.name));
            if later.name == earlier.name {
                wrong.push(format!(
                    "[[pool]] {mine}: name {mine}: another pool has it: want a name of its own"
                ));
            }
            if let (Some(here), Some(there)) = (some(&later.path), some(&earlier.path))
                && here != there
                && (here.starts_with(there) || there.starts_with(here))
            {
                let (here, there) =
                    (quoted(&here.display().to_string()), quoted(&there.display().to_string()));
                wrong.push(format!(
                    "[[pool]] {mine}: path {here}: pool {other} is at {there}, and one lies in the other: want a place of its own"
                ));
            }
            let places = [
                ("path", some(&later.path), some(&earlier.path)),
                ("file", later.file.as_ref(), earlier.file.as_ref()),
                ("device", later.device.as_ref(), earlier.device.as_ref()),
            ];
            for (key, here, there) in places {
                if let (Some(here), true) = (here, here == there) {
                    let place = quoted(&here.display().to_string());
                    wrong.push(format!(
                        "[[pool]] {mine}: {key} {place}: pool {other} has it: want a place of its own"
                    ));
                }
            }
        }
    }
}

fn some(path: &PathBuf) -> Option<&PathBuf> {
    (!path.as_os_str().is_empty()).then_some(path)
}

/// The text of a pool file with one entry more; what was there stays as it was, comments included.
///
/// # Errors
/// `Invalid` where the file is not well formed, or the pool does not fit into it.
pub(super) fn with_entry(file: &Path, text: &str, pool: &PoolConfig) -> Result<String> {
    let mut document: DocumentMut = text.parse().map_err(|error: toml_edit::TomlError| {
        Error::Invalid(format!("{}: not TOML: {}", file.display(), error.to_string().trim_end()))
    })?;
    let item = document.entry("pool").or_insert_with(|| Item::ArrayOfTables(Default::default()));
    let entries = item.as_array_of_tables_mut().ok_or_else(|| {
        Error::Invalid(format!(
            "{}: key `pool`: want [[pool]] entries, with two brackets on each side",
            file.display()
        ))
    })?;
    let mut table = table_of(&pool.setup);
    if !text.trim().is_empty() {
        table.decor_mut().set_prefix("\n");
    }
    entries.push(table);
    let text = document.to_string();
    parse(file, &text, &Here::default())?;
    Ok(text)
}

/// An entry with what differs from the defaults.
fn table_of(setup: &Setup) -> Table {
    let mut table = Table::new();
    let text = |path: &PathBuf| toml_edit::value(path.display().to_string());
    table["name"] = toml_edit::value(&setup.name);
    table["kind"] = toml_edit::value(setup.kind.name());
    if setup.kind != Kind::Sim {
        table["path"] = text(&setup.path);
    }
    if let Some(file) = &setup.file {
        table["file"] = text(file);
    }
    if let Some(device) = &setup.device {
        table["device"] = text(device);
    }
    if setup.quota == Quota::None {
        table["quota"] = toml_edit::value("none");
    }
    if let Some(size) = setup.size {
        table["size"] = toml_edit::value(size.as_i64());
    }
    table
}
