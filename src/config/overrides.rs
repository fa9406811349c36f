//! What the pool file says of some nodes only: `[[override]]`.
//!
//! Owns: which entries concern a node, and what they change before pools are read; every entry is checked on every node, since that
//! which it concerns may not be there yet. Never: judges a whole pool: what comes out is read like a file without overrides.

use std::collections::{BTreeMap, BTreeSet};

use toml_edit::{Array, DocumentMut, Item, Table, TableLike};

use super::file::{self, KEYS};
use super::words::closest;
use crate::error::{Error, Result, quoted};
use crate::model::NodeId;
use crate::pool::check_name;

/// The key of the entries.
pub(super) const OVERRIDE: &str = "override";
/// What an entry may say beside the keys of a pool.
const OWN: [&str; 4] = ["node", "label", "pool", "absent"];

/// Who reads the file.
#[derive(Clone, Debug, Default)]
pub struct Here {
    /// The node's id.
    pub node: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

impl Here {
    /// A node with labels as they are typed, each `KEY=VALUE`.
    ///
    /// # Errors
    /// `Invalid` for a label that is none, or one key with two values.
    pub fn new(node: String, labels: &[String]) -> Result<Here> {
        let mut here = Here { node, labels: BTreeMap::new() };
        for label in labels {
            let wrong = |want: &str| Error::invalid("--node-label", label, want);
            let (key, value) = label.split_once('=').ok_or_else(|| wrong("want KEY=VALUE"))?;
            if key.trim().is_empty() {
                return Err(wrong("want KEY=VALUE with a key"));
            }
            let before = here.labels.insert(key.to_owned(), value.to_owned());
            if before.is_some_and(|before| before != value) {
                return Err(wrong("the key has another value already: want one"));
            }
        }
        Ok(here)
    }
}

/// Changes the pools of a file as its overrides say for this node; answers which of them took a pool away. What is wrong with any of
/// them, whichever node it concerns, is added to `wrong`.
pub(super) fn apply(document: &mut DocumentMut, here: &Here, wrong: &mut Vec<String>) -> Vec<String> {
    let entries = match document.remove(OVERRIDE) {
        Some(Item::ArrayOfTables(entries)) => entries,
        None => return Vec::new(),
        Some(_) => {
            wrong
                .push("key `override`: want [[override]] entries, with two brackets on each side".to_owned());
            return Vec::new();
        }
    };
    let pools = names(document, entries.iter());
    let mut taken = Vec::new();
    for (index, table) in entries.iter().enumerate() {
        let entry = Entry { title: format!("[[override]] {}", index + 1), table };
        if let Some((who, pool)) = entry.read(&pools, wrong)
            && who.is(here)
            && change(document, table, &pool) == Change::Taken
        {
            taken.push(format!("{} makes pool {} absent", entry.title, quoted(&pool)));
        }
    }
    taken
}

/// The pools that any node may have: those of the file, and those that an override adds.
fn names<'a>(document: &DocumentMut, overrides: impl Iterator<Item = &'a Table>) -> BTreeSet<String> {
    let text = |table: &Table, key: &str| table.get(key).and_then(Item::as_str).map(str::to_owned);
    let listed = document.get("pool").and_then(Item::as_array_of_tables);
    let listed = listed.into_iter().flatten().filter_map(|table| text(table, "name"));
    // No pool is without a kind.
    let added = overrides.filter(|table| table.contains_key("kind"));
    listed.chain(added.filter_map(|table| text(table, "pool"))).collect()
}

/// Whom an entry concerns.
enum Who {
    Nodes(Vec<String>),
    Labels(BTreeMap<String, String>),
}

impl Who {
    fn is(&self, here: &Here) -> bool {
        match self {
            Who::Nodes(nodes) => nodes.contains(&here.node),
            Who::Labels(labels) => labels.iter().all(|(key, value)| here.labels.get(key) == Some(value)),
        }
    }
}

/// One `[[override]]` while it is read.
struct Entry<'a> {
    title: String,
    table: &'a Table,
}

impl Entry<'_> {
    /// Whom it concerns and of which pool it speaks, unless something is wrong with it.
    fn read(&self, pools: &BTreeSet<String>, wrong: &mut Vec<String>) -> Option<(Who, String)> {
        let before = wrong.len();
        let known: Vec<&str> = OWN.into_iter().chain(changeable()).collect();
        let mut values = file::Entry { title: self.title.clone(), table: self.table, wrong };
        values.refuse_unknown(&known);
        values.values();
        let mut complain = |why: String| wrong.push(format!("{}: {why}", self.title));
        let who = self.who().map_err(&mut complain).ok();
        let pool = self.pool(pools).map_err(&mut complain).ok();
        self.absence().map_err(&mut complain).ok();
        (wrong.len() == before).then_some(())?;
        who.zip(pool)
    }

    fn who(&self) -> std::result::Result<Who, String> {
        const WANT: &str = "want either node = \"NAME\", or a list of names, or label = { KEY = \"VALUE\" }";
        match (self.table.get("node"), self.table.get("label")) {
            (Some(node), None) => nodes(node)?.map(Who::Nodes).ok_or_else(|| format!("node: {WANT}")),
            (None, Some(label)) => labels(label).map(Who::Labels).ok_or_else(|| format!("label: {WANT}")),
            (Some(_), Some(_)) => Err(format!("both node and label: {WANT}")),
            (None, None) => Err(format!("it concerns no node: {WANT}")),
        }
    }

    fn pool(&self, pools: &BTreeSet<String>) -> std::result::Result<String, String> {
        let pool = self.table.get("pool").and_then(Item::as_str);
        let pool = pool.ok_or("pool: want the name of the pool that it changes, in quotes")?;
        if pools.contains(pool) {
            return match check_name(pool) {
                Ok(()) => Ok(pool.to_owned()),
                Err(want) => Err(format!("pool {}: {want}", quoted(pool))),
            };
        }
        let known: Vec<&str> = pools.iter().map(String::as_str).collect();
        let (hint, known) = (closest(pool, &known), known.join(", "));
        let want = format!("want one of {known}, or `kind` and the other keys of a new one");
        Err(format!("pool {}: the file has no such pool{hint}: {want}", quoted(pool)))
    }

    /// A pool that is taken away cannot be changed as well.
    fn absence(&self) -> std::result::Result<(), String> {
        let Some(absent) = self.table.get("absent") else { return Ok(()) };
        if absent.as_bool() != Some(true) {
            return Err("absent: want true, or leave it out".to_owned());
        }
        let beside: Vec<&str> = changeable().filter(|key| self.table.contains_key(key)).collect();
        if beside.is_empty() {
            return Ok(());
        }
        Err(format!("both absent and {}: want either no such pool, or another one", beside.join(", ")))
    }
}

/// The keys of a pool that an entry may change.
fn changeable() -> impl Iterator<Item = &'static str> {
    KEYS.into_iter().filter(|key| *key != "name")
}

/// The names, each one that a node can have; none where there are none.
fn nodes(item: &Item) -> std::result::Result<Option<Vec<String>>, String> {
    let one = item.as_str().map(|name| vec![name.to_owned()]);
    let list = |array: &Array| array.iter().map(|name| name.as_str().map(str::to_owned)).collect();
    let all: Option<Vec<String>> = one.or_else(|| list(item.as_array()?));
    let wrong = all.iter().flatten().find_map(|name| name.parse::<NodeId>().err());
    wrong.map_or_else(|| Ok(all.filter(|all| !all.is_empty())), |error| Err(error.to_string()))
}

fn labels(item: &Item) -> Option<BTreeMap<String, String>> {
    let labels = item.as_table_like()?;
    let all: Option<BTreeMap<_, _>> =
        labels.iter().map(|(key, value)| Some((key.to_owned(), value.as_str()?.to_owned()))).collect();
    // No label at all would be every node.
    all.filter(|all| !all.is_empty())
}

/// What became of a pool.
#[derive(PartialEq)]
enum Change {
    /// It was there, and is no more.
    Taken,
    Other,
}

/// Does to the pool of this name what an entry says; one that the file does not have is added.
fn change(document: &mut DocumentMut, by: &Table, pool: &str) -> Change {
    let item = document.entry("pool").or_insert_with(|| Item::ArrayOfTables(Default::default()));
    // Anything else is complained of where pools are read.
    let Some(pools) = item.as_array_of_tables_mut() else { return Change::Other };
    let is_it = |table: &Table| table.get("name").and_then(Item::as_str) == Some(pool);
    if by.contains_key("absent") {
        let before = pools.len();
        pools.retain(|table| !is_it(table));
        return if pools.len() < before { Change::Taken } else { Change::Other };
    }
    if !pools.iter().any(is_it) {
        let mut table = Table::new();
        table["name"] = toml_edit::value(pool);
        pools.push(table);
    }
    for table in pools.iter_mut().filter(|table| is_it(table)) {
        for (key, value) in by.iter().filter(|(key, _)| KEYS.contains(key)) {
            table.insert(key, value.clone());
        }
        one_place(table, by);
    }
    Change::Other
}

/// A device takes the place of a file, and a file that of a device.
fn one_place(table: &mut Table, by: &dyn TableLike) {
    for (key, other) in [("device", "file"), ("file", "device")] {
        if by.contains_key(key) && !by.contains_key(other) {
            table.remove(other);
        }
    }
}
