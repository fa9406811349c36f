//! The layer test: which part of `src/` may know which.
//!
//! Owns: the table of who may use whom, in `refusal`. It reads every path in the sources (`use` trees, inline paths, `super::`),
//! not what the compiler makes of them, so it needs no build of its own and names the line. Code below `#[cfg(test)]` is
//! exempt. Never: accepts a file that it cannot place in a layer.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The modules that each hold one kind of pool; nothing but `pool` itself may name one.
const KINDS: [&str; 5] = ["directory", "image", "btrfs", "lvm", "sim"];
/// The layers that put the program together and may see everything below them.
const TOP: [&str; 10] =
    ["main", "lib", "cli", "config", "controller", "ctl", "node", "serve", "kubelet", "metrics"];

/// May a file of the module `from` name `to`? Both are module paths without `crate`; `None` is yes, else the reason.
fn refusal(from: &[String], to: &[String]) -> Option<String> {
    let (layer, target) = (from[0].as_str(), to[0].as_str());
    if TOP.contains(&layer) {
        return None;
    }
    let below: &[&str] = match layer {
        "cluster" => &["csi", "proto", "model", "error"],
        // Where a controller reads its requests, which has no engine.
        "csi" if from.get(1).is_some_and(|part| part == "checked") => &["proto", "model", "error"],
        "csi" => &["engine", "proto", "model", "error"],
        "engine" => &["pool", "os", "model", "error"],
        "pool" => &["os", "model", "error"],
        "os" | "model" => &["error"],
        "proto" | "error" | "faults" => &[],
        _ => return Some(format!("`{layer}` is in no layer: add it to tests/layers.rs")),
    };
    if layer != target && !below.contains(&target) {
        return Some(format!("`{layer}` must not see `{target}`; it may use {}", below.join(", ")));
    }
    let part = to.get(1).map_or("", String::as_str);
    if layer == "engine" && target == "os" && !["file", "mount", "fs", "thread"].contains(&part) {
        return Some("`engine` may use only os::file, os::mount, os::fs and os::thread".into());
    }
    if target == "pool" && KINDS.contains(&part) {
        let own = layer == "pool" && (from.len() == 1 || from[1] == part);
        return (!own).then(|| format!("only `pool` itself may name the kind `{part}`"));
    }
    None
}

/// May a file of the module `from` name the path `to` of another crate?
fn foreign_refusal(from: &[String], to: &[String]) -> Option<String> {
    let layer = from[0].as_str();
    let starts = |path: &[&str]| to.len() >= path.len() && path.iter().zip(to).all(|(a, b)| a == b);
    let carries_no_wire = ["engine", "pool", "os", "model", "error"].contains(&layer);
    if carries_no_wire && ["tonic", "prost", "prost_types", "tonic_prost"].iter().any(|name| starts(&[name]))
    {
        return Some(format!("`{layer}` must not see `{}`: gRPC ends in csi", to[0]));
    }
    if layer != "os" && (starts(&["std", "process", "Command"]) || starts(&["tokio", "process"])) {
        return Some("only `os` runs programs".into());
    }
    if layer != "os" && !TOP.contains(&layer) && starts(&["std", "process"]) {
        return Some(format!("`{layer}` must not see `std::process`"));
    }
    if layer != "model" && starts(&["std", "time", "SystemTime"]) {
        return Some("only `model::Time` reads the host's clock, for people: it jumps; use `Instant`".into());
    }
    if layer != "os" && starts(&["rustix", "mount"]) {
        return Some("only `os` mounts".into());
    }
    (["csi", "cluster", "model", "error"].contains(&layer) && starts(&["rustix"]))
        .then(|| format!("`{layer}` must not make system calls"))
}

/// A piece of Rust source: a word, or a sign that matters to paths.
#[derive(Clone, Debug, PartialEq)]
struct Token {
    text: String,
    line: usize,
}

/// Splits a source into words and signs; comments, strings and character literals are dropped.
fn tokens(source: &str) -> Vec<Token> {
    let chars: Vec<char> = source.chars().collect();
    let (mut found, mut at, mut line) = (Vec::new(), 0, 1);
    while at < chars.len() {
        let literal = skip_literal(&chars, at);
        let end = literal.unwrap_or_else(|| word_end(&chars, at));
        let text: String = chars[at..end].iter().collect();
        if literal.is_none() && !text.trim().is_empty() {
            found.push(Token { text: text.clone(), line });
        }
        line += text.matches('\n').count();
        at = end;
    }
    found
}

/// The end of the word, of `::`, or of the single sign at `at`.
fn word_end(chars: &[char], at: usize) -> usize {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    if chars[at..].starts_with(&[':', ':']) {
        return at + 2;
    }
    let length = chars[at..].iter().take_while(|c| is_word(**c)).count();
    at + length.max(1)
}

/// The end of the comment, string or character literal at `at`, if there is one.
fn skip_literal(chars: &[char], at: usize) -> Option<usize> {
    let rest = &chars[at..];
    let until = |from: usize, end: &str| {
        let end: Vec<char> = end.chars().collect();
        (from..chars.len()).find(|i| chars[*i..].starts_with(&end)).map_or(chars.len(), |i| i + end.len())
    };
    match rest {
        ['/', '/', ..] => Some(until(at, "\n")),
        ['/', '*', ..] => Some(until(at + 2, "*/")),
        ['r', '#', '"', ..] => Some(until(at + 3, "\"#")),
        ['r', '"', ..] if at == 0 || !chars[at - 1].is_alphanumeric() => Some(until(at + 2, "\"")),
        ['"', ..] => {
            let mut end = at + 1;
            while end < chars.len() && chars[end] != '"' {
                end += if chars[end] == '\\' { 2 } else { 1 };
            }
            Some((end + 1).min(chars.len()))
        }
        ['\'', '\\', ..] => Some(until(at + 3, "'")),
        ['\'', _, '\'', ..] => Some(at + 3),
        _ => None,
    }
}

/// The tokens without the items that stand below `#[cfg(test)]`.
fn without_tests(tokens: &[Token]) -> Vec<Token> {
    let mark = ["#", "[", "cfg", "(", "test", ")", "]"];
    let (mut kept, mut at) = (Vec::new(), 0);
    while at < tokens.len() {
        let marked = tokens[at..].len() >= mark.len()
            && mark.iter().zip(&tokens[at..]).all(|(sign, token)| *sign == token.text);
        if !marked {
            kept.push(tokens[at].clone());
            at += 1;
            continue;
        }
        let mut depth = 0;
        for token in &tokens[at..] {
            at += 1;
            depth += i32::from(token.text == "{") - i32::from(token.text == "}");
            if depth == 0 && (token.text == "}" || token.text == ";") {
                break;
            }
        }
    }
    kept
}

/// Every path of at least two parts and every `use` of one, use trees expanded, with its line.
fn paths(tokens: &[Token]) -> Vec<(usize, Vec<String>)> {
    let (mut found, mut at) = (Vec::new(), 0);
    let text = |at: usize| tokens.get(at).map_or("", |token| token.text.as_str());
    while at < tokens.len() {
        let is_path = is_name(text(at)) && text(at + 1) == "::";
        // `use tonic;` has no second part, but means as much as one that has.
        let is_whole_crate = text(at) == "use" && is_name(text(at + 1)) && text(at + 2) != "::";
        if is_path {
            at = tree(tokens, at, &[], &mut found);
        } else if is_whole_crate {
            found.push((tokens[at].line, vec![text(at + 1).to_owned()]));
            at += 2;
        } else {
            at += 1;
        }
    }
    found
}

fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// Reads the path or use tree at `at`, adds what it names below `prefix`, and says where it ends.
fn tree(tokens: &[Token], mut at: usize, prefix: &[String], found: &mut Vec<(usize, Vec<String>)>) -> usize {
    let text = |at: usize| tokens.get(at).map_or("", |token| token.text.as_str());
    let mut path = prefix.to_vec();
    let line = tokens[at].line;
    while is_name(text(at)) {
        path.push(text(at).to_owned());
        at += 1;
        if text(at) != "::" {
            found.push((line, path));
            return at;
        }
        at += 1;
    }
    if text(at) != "{" {
        found.push((line, path));
        return at;
    }
    at += 1;
    while !["}", ""].contains(&text(at)) {
        at = if is_name(text(at)) { tree(tokens, at, &path, found) } else { at + 1 };
        // What follows a name here is `as` with the new name.
        while !["}", ",", ""].contains(&text(at)) {
            at += 1;
        }
        at += usize::from(text(at) == ",");
    }
    at + 1
}

/// The module path of a file of `src/`: `pool/mod.rs` is `pool`, `pool/image.rs` is `pool`, `image`.
fn module(file: &Path) -> Vec<String> {
    let mut parts: Vec<String> =
        file.with_extension("").iter().map(|part| part.to_string_lossy().into_owned()).collect();
    if parts.len() > 1 && parts.last().is_some_and(|last| last == "mod") {
        parts.pop();
    }
    parts
}

/// What is wrong in the file `file` of `src/` with the text `source`, a line each.
fn violations(file: &Path, source: &str) -> Vec<String> {
    let from = module(file);
    let paths = paths(&without_tests(&tokens(source)));
    // `use crate::pool;` makes `pool::image::X` a path of this crate.
    let imported: BTreeSet<String> = paths
        .iter()
        .filter(|(_, path)| path[0] == "crate" && (path.len() == 2 || path.len() == 3 && path[2] == "self"))
        .map(|(_, path)| path[1].clone())
        .collect();
    let mut wrong = BTreeSet::new();
    for (line, path) in &paths {
        let reason = match within_crate(&from, path, &imported) {
            Some(to) if to.is_empty() => None,
            Some(to) => refusal(&from, &to),
            None => foreign_refusal(&from, path),
        };
        if let Some(reason) = reason {
            wrong.insert((*line, format!("src/{}:{line}: {}: {reason}", file.display(), path.join("::"))));
        }
    }
    wrong.into_iter().map(|(_, text)| text).collect()
}

/// The module path within this crate that `path` means in the module `from`; `None` for another crate's.
fn within_crate(from: &[String], path: &[String], imported: &BTreeSet<String>) -> Option<Vec<String>> {
    let supers = path.iter().take_while(|part| *part == "super").count();
    match path[0].as_str() {
        "crate" | "rockpool" => Some(path[1..].to_vec()),
        "super" => Some([&from[..from.len().saturating_sub(supers)], &path[supers..]].concat()),
        "self" => Some([from, &path[1..]].concat()),
        first if imported.contains(first) => Some(path.to_vec()),
        _ => None,
    }
}

fn rust_files(below: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(below).expect("the sources are readable") {
        let path = entry.expect("the sources are readable").path();
        if path.is_dir() {
            found.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

fn is_of_tests(file: &Path) -> bool {
    file.with_extension("").iter().any(|part| part == "tests")
}

#[test]
fn every_layer_sees_only_those_below_it() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let files = rust_files(&root);
    assert!(files.len() >= 5, "found only {} files below {}", files.len(), root.display());
    let wrong: Vec<String> = files
        .iter()
        // A file of tests alone is exempt like the block `mod tests`, and so is what lies below it.
        .filter(|file| !is_of_tests(file.strip_prefix(&root).unwrap()))
        .flat_map(|file| {
            violations(file.strip_prefix(&root).unwrap(), &std::fs::read_to_string(file).unwrap())
        })
        .collect();
    assert!(wrong.is_empty(), "paths across layers:\n{}", wrong.join("\n"));
}

/// The checker itself: what it must catch, and what it must let pass.
mod the_checker {
    use super::*;

    fn check(file: &str, source: &str) -> Vec<String> {
        violations(Path::new(file), source)
    }

    #[test]
    fn catches_a_wrong_line_in_every_layer() {
        let wrong = [
            ("engine/mod.rs", "use tonic::Status;"),
            ("engine/mod.rs", "use crate::csi::parse;"),
            ("engine/store.rs", "use crate::pool::image::Image;"),
            ("engine/store.rs", "use crate::{error::Error, pool::{Pool, sim::Sim}};"),
            ("engine/store.rs", "use crate::pool; fn f() { pool::sim::Sim::new() }"),
            ("engine/mounts.rs", "use crate::os::loopdev;"),
            ("engine/mounts.rs", "use crate::os::{file, run};"),
            ("engine/mounts.rs", "use crate::os;"),
            ("engine/mounts.rs", "fn f() { std::process::exit(1) }"),
            ("serve.rs", "use std::time::{Instant, SystemTime};"),
            ("engine/mounts.rs", "fn f() { super::super::csi::f() }"),
            ("pool/image.rs", "use crate::engine::Store;"),
            ("pool/image.rs", "use super::directory::Directory;"),
            ("pool/image.rs", "use prost::Message;"),
            ("pool/image/grow.rs", "use crate::pool::sim::Sim;"),
            ("pool/mod.rs", "use std::process::Command;"),
            ("os/file.rs", "use crate::model::Bytes;"),
            ("model.rs", "use crate::os::file::Dir;"),
            ("model.rs", "use tonic::Code;"),
            ("error.rs", "use crate::model::Bytes;"),
            ("csi/node.rs", "use crate::os::mount;"),
            ("csi/node.rs", "use crate::pool::Pool;"),
            ("csi/node.rs", "use rustix::fs::open;"),
            ("csi/checked.rs", "use crate::engine::Engine;"),
            ("csi/checked/volumes.rs", "fn f(engine: &crate::engine::Engine) {}"),
            ("cluster/router.rs", "use crate::engine::Engine;"),
            ("cluster/router.rs", "fn f() -> crate::pool::Usage { f() }"),
            ("ctl.rs", "use std::process::{Command, ExitCode};"),
            ("serve.rs", "use rustix::mount::unmount;"),
            ("newlayer.rs", "use crate::error::Error;"),
            ("engine/a.rs", "let a = '\"'; use tonic::Status; let b = '\"';"),
            ("engine/a.rs", "#[cfg(test)] mod tests { fn f() {} } use tonic::Status;"),
            ("engine/a.rs", "use tonic;"),
        ];
        for (file, source) in wrong {
            assert_eq!(check(file, source).len(), 1, "{file}: {source}: {:?}", check(file, source));
        }
    }

    #[test]
    fn lets_right_lines_pass() {
        let right = [
            ("main.rs", "use rockpool::pool::image::Image; use std::process::ExitCode;"),
            ("ctl.rs", "use crate::os::run; use tonic::Status;"),
            ("cluster/router.rs", "use crate::csi::parse; use tonic::Status;"),
            ("csi/node.rs", "use crate::engine::Engine; use super::parse; use crate::proto::csi::v1;"),
            (
                "csi/checked/volumes.rs",
                "use crate::csi::parse::id; use crate::model::Range; use crate::proto::csi;",
            ),
            (
                "engine/mod.rs",
                "use crate::os::{file::{self, Dir}, mount}; use crate::pool::{Pool as Disk, Usage};",
            ),
            ("engine/mod.rs", "// use tonic::Status;\n/* use tonic::Code; */ let a = \"tonic::Status\";"),
            ("engine/mod.rs", "#[cfg(test)] mod tests { use crate::pool::sim::Sim; }"),
            ("pool/mod.rs", "mod image; fn f() { image::Image::open(); crate::pool::sim::Sim::new() }"),
            ("pool/image.rs", "use super::{Attach, Pool}; use crate::os::loopdev; use self::grow::f;"),
            ("pool/image/grow.rs", "use super::Image; use super::super::Pool;"),
            ("os/mod.rs", "use std::process::Command; use rustix::mount::unmount; use crate::error::Result;"),
        ];
        for (file, source) in right {
            assert!(check(file, source).is_empty(), "{file}: {source}: {:?}", check(file, source));
        }
    }

    #[test]
    fn names_the_line_and_the_reason() {
        let said = check("engine/a.rs", "//! Doc.\n\nuse crate::{\n    error::Error,\n    csi::parse,\n};");
        let want = "src/engine/a.rs:5: crate::csi::parse: `engine` must not see `csi`; it may use pool, os, model, error";
        assert_eq!(said, [want]);
    }
}
