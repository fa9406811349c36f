//! The figures of docs/reliability.md, made of the JSON that runs have written.
//!
//! Owns: the part of the page between the two marks. Never: writes a figure that is in no file, or one of a run that nobody can
//! repeat.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::Path;

use serde_json::Value;

use crate::Outcome;

const BEGIN: &str = "<!-- figures: made by `torture page`, not by hand -->";
const END: &str = "<!-- end of the figures -->";

/// Replaces the figures in the page by those of all runs below `runs`.
pub(crate) fn write(page: &Path, runs: &Path) -> Outcome<()> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(runs)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "json") {
            let run = serde_json::from_slice::<Value>(&std::fs::read(&path)?)?;
            match refusal(&run) {
                Some(why) => println!("{} is left out: {why}", path.display()),
                None => all.push(run),
            }
        }
    }
    if all.is_empty() {
        return Err(format!("no run below {} can be published", runs.display()).into());
    }
    all.sort_by_key(|run| run["began"].as_u64());
    let text = std::fs::read_to_string(page)?;
    let (before, rest) = text.split_once(BEGIN).ok_or("the page has no figures")?;
    let (_, after) = rest.split_once(END).ok_or("the figures have no end")?;
    std::fs::write(page, format!("{before}{BEGIN}\n{}{END}{after}", figures(&all)))?;
    println!("{} runs written into {}", all.len(), page.display());
    Ok(())
}

/// Why nobody could repeat a run, or learn from it, or would be misled by it.
fn refusal(run: &Value) -> Option<&'static str> {
    let commit = run["commit"].as_str().unwrap_or("");
    if commit.is_empty() {
        return Some("it does not say of which commit it is");
    }
    if commit.ends_with("-dirty") {
        return Some("its program was built from changes that are in no commit");
    }
    // Runs from before the options were written down tell nothing of them.
    let narrows = |option: &str| run["options"][option].as_str().is_some_and(|value| !value.is_empty());
    if narrows("only") || narrows("only_faults") {
        return Some(
            "it was narrowed by --only or --only-faults, so its figures are not those of a whole part",
        );
    }
    let hollow = run["proved_nothing"].as_array().is_some_and(|what| !what.is_empty());
    hollow.then_some("a part of it proved nothing")
}

fn figures(runs: &[Value]) -> String {
    let mut text = String::new();
    let texts = |key: &str| {
        let found: BTreeSet<&str> = runs.iter().filter_map(|run| run[key].as_str()).collect();
        found.into_iter().collect::<Vec<_>>().join(", ")
    };
    let parts: Vec<&Value> = runs.iter().flat_map(|run| run["parts"].as_array()).flatten().collect();
    let kills: u64 = parts.iter().map(|part| number(part, "kills")).sum();
    let cuts: u64 = parts.iter().map(|part| number(part, "power_cuts")).sum();
    let lossy: u64 = parts.iter().map(|part| number(part, "lost_writes")).sum();
    let violations: u64 = parts.iter().map(|part| number(part, "violations")).sum();
    let _ = writeln!(
        text,
        "\n{} runs, kernel {}: **{kills} kills, {} power cuts, {lossy} of them with lost writes, {violations} violations**.\n",
        runs.len(),
        texts("kernel"),
        cuts + lossy
    );
    text.push_str(&commits(runs));
    text.push_str("\n| part | pool | runs | seeds | minutes | kills | power cuts | with lost writes | other | violations |\n|---|---|---|---|---|---|---|---|---|---|\n");
    let mut rows: BTreeMap<(String, String), Vec<&Value>> = BTreeMap::new();
    for part in &parts {
        let name = |key: &str| part[key].as_str().unwrap_or("all").to_owned();
        rows.entry((name("part"), name("ground"))).or_default().push(part);
    }
    for ((part, ground), of) in &rows {
        let sum = |key: &str| of.iter().map(|one| number(one, key)).sum::<u64>();
        let seeds: BTreeSet<u64> = of.iter().filter_map(|one| one["seed"].as_u64()).collect();
        let seeds = seeds.iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
        let minutes = of.iter().filter_map(|one| one["seconds"].as_f64()).sum::<f64>() / 60.0 + 0.0;
        let _ = writeln!(
            text,
            "| {part} | {ground} | {} | {seeds} | {minutes:.0} | {} | {} | {} | {} | {} |",
            of.len(),
            sum("kills"),
            sum("power_cuts") + sum("lost_writes"),
            sum("lost_writes"),
            others(of),
            sum("violations")
        );
    }
    text.push_str(&recoveries(&parts));
    text.push_str(&faults(&parts));
    text.push_str(&answers(&parts));
    text.push_str(&mutants(&parts));
    text
}

/// What was run of each commit, in the order of the first run.
fn commits(runs: &[Value]) -> String {
    let mut text =
        "| commit | runs | kills | power cuts | with lost writes | violations |\n|---|---|---|---|---|---|\n"
            .to_owned();
    let mut order: Vec<&str> = Vec::new();
    for commit in runs.iter().filter_map(|run| run["commit"].as_str()) {
        if !order.contains(&commit) {
            order.push(commit);
        }
    }
    for commit in order {
        let of: Vec<&Value> = runs.iter().filter(|run| run["commit"] == commit).collect();
        let parts: Vec<&Value> = of.iter().filter_map(|run| run["parts"].as_array()).flatten().collect();
        let sum = |key: &str| parts.iter().map(|part| number(part, key)).sum::<u64>();
        let lossy = sum("lost_writes");
        let _ = writeln!(
            text,
            "| {commit} | {} | {} | {} | {lossy} | {} |",
            of.len(),
            sum("kills"),
            sum("power_cuts") + lossy,
            sum("violations")
        );
    }
    text
}

fn number(of: &Value, key: &str) -> u64 {
    of[key].as_u64().unwrap_or(0)
}

/// What a part counts besides.
fn others(of: &[&Value]) -> String {
    let keys = [
        "covered",
        "cells",
        "reached",
        "named",
        "injected",
        "kinds",
        "to_the_end",
        "races",
        "pairs",
        "caught",
        "planted",
        "audits",
        "slots_verified",
    ];
    let told = keys.iter().filter(|key| of.iter().any(|one| one.get(**key).is_some()));
    let told = told.map(|key| format!("{key} {}", of.iter().map(|one| number(one, key)).sum::<u64>()));
    told.collect::<Vec<_>>().join(", ")
}

fn recoveries(parts: &[&Value]) -> String {
    let mut text =
        "\n| pool | restarts | ready again after, ms: p50, p99, max (of the worst run) |\n|---|---|---|\n"
            .to_owned();
    let mut by_ground: BTreeMap<&str, Vec<&Value>> = BTreeMap::new();
    for part in parts.iter().filter(|part| part.get("recovery_ms").is_some()) {
        by_ground.entry(part["ground"].as_str().unwrap_or("")).or_default().push(&part["recovery_ms"]);
    }
    for (ground, times) in by_ground {
        let worst = |key: &str| times.iter().filter_map(|time| time[key].as_f64()).fold(0.0, f64::max);
        let count: u64 = times.iter().map(|time| number(time, "count")).sum();
        let (p50, p99, max) = (worst("p50"), worst("p99"), worst("max"));
        let _ = writeln!(text, "| {ground} | {count} | {p50:.0}, {p99:.0}, {max:.0} |");
    }
    text
}

/// What else was done to the nodes, and how long the pool took to be usable again once it was over: by itself, or by a reboot.
fn faults(parts: &[&Value]) -> String {
    let mut met: BTreeMap<&str, Vec<&Value>> = BTreeMap::new();
    for faults in parts.iter().filter_map(|part| part["faults"].as_object()) {
        for (name, times) in faults {
            met.entry(name).or_default().push(times);
        }
    }
    if met.is_empty() {
        return String::new();
    }
    let mut text = "\n| fault | times | with a kill in the middle | usable again only by a reboot | usable again after, ms: p50, max (of the worst run) |\n|---|---|---|---|---|\n"
        .to_owned();
    for (name, of) in met {
        let sum = |key: &str| of.iter().map(|one| number(one, key)).sum::<u64>();
        let worst = |key: &str| of.iter().filter_map(|one| one["back_ms"][key].as_f64()).fold(0.0, f64::max);
        let (times, kills, reboots) = (sum("times"), sum("kills"), sum("reboots"));
        let _ = writeln!(
            text,
            "| {name} | {times} | {kills} | {reboots} | {:.0}, {:.0} |",
            worst("p50"),
            worst("max")
        );
    }
    text
}

fn answers(parts: &[&Value]) -> String {
    let mut sums: BTreeMap<&str, BTreeMap<&str, u64>> = BTreeMap::new();
    for answers in parts.iter().filter_map(|part| part["answers"].as_object()) {
        for (method, codes) in answers {
            for (code, count) in codes.as_object().into_iter().flatten() {
                *sums.entry(method).or_default().entry(code).or_default() += count.as_u64().unwrap_or(0);
            }
        }
    }
    let mut text = "\n| call | answers of the random runs |\n|---|---|\n".to_owned();
    for (method, codes) in sums {
        let codes: Vec<String> = codes.iter().map(|(code, count)| format!("{code} {count}")).collect();
        let _ = writeln!(text, "| {method} | {} |", codes.join(", "));
    }
    text
}

fn mutants(parts: &[&Value]) -> String {
    let Some(last) = parts.iter().rfind(|part| part["part"] == "mutants") else { return String::new() };
    let mut text = format!(
        "\nPlanted bugs caught: **{} of {}**.\n\n| planted bug | caught by |\n|---|---|\n",
        number(last, "caught"),
        number(last, "planted")
    );
    for bug in last["bugs"].as_array().into_iter().flatten() {
        let caught =
            if bug["caught"] == true { bug["hunt"].as_str().unwrap_or("") } else { "**not caught**" };
        let _ = writeln!(text, "| {} | {} |", bug["what"].as_str().unwrap_or(""), caught.replace('|', " "));
    }
    text
}
