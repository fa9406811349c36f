//! `ctl doctor`: what is wrong, and mending it.
//!
//! Owns: the two ways to ask: a running driver by its admin socket, or pools that no driver has, under their locks. Never:
//! opens a pool that a driver holds, mounts one, or mends what was not asked for.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};
use tonic::transport::Channel;

use super::answer::{Answer, Table, Verdict};
use super::driver;
use super::failure::{Failure, Outcome};
use crate::config::{self, Endpoint};
use crate::csi::admin::finding;
use crate::engine::{Code, Engine, Mended, PoolConfig};
use crate::error::{chain, quoted};
use crate::model::Retention;
use crate::pool::{self, Setup};
use crate::proto::admin;
use admin::admin_client::AdminClient;
use admin::finding::Severity;

/// Without --config or --pool: the running driver is asked.
#[derive(Args, Debug)]
pub(super) struct Doctor {
    /// Look at the pools of this file, which no driver may have.
    #[arg(long, value_name = "FILE", conflicts_with = "pool")]
    config: Option<PathBuf>,

    /// Look at the pool in this directory, which no driver may have.
    #[arg(long, value_name = "DIR")]
    pool: Option<PathBuf>,

    /// Do what mends the findings of this code, and show what was done.
    #[arg(long, value_name = "CODE", value_parser = code)]
    repair: Option<Code>,

    /// Only about this object; repairs that delete want it.
    #[arg(long, value_name = "OBJECT", requires = "repair")]
    object: Option<String>,

    /// The same as `-o json`.
    #[arg(long)]
    pub(super) json: bool,
}

fn code(text: &str) -> Result<Code, String> {
    text.parse().map_err(|error: crate::error::Error| error.to_string())
}

/// Whom to ask.
enum Patient {
    /// A running driver.
    Driver(AdminClient<Channel>),
    /// Pools that no driver has, and what is said of those that are passed over.
    Pools(Box<Engine>, Vec<String>),
}

pub(super) async fn run(endpoint: &Endpoint, timeout: Duration, asked: &Doctor) -> Outcome<Answer> {
    let mut patient = match (&asked.config, &asked.pool) {
        (Some(file), _) => offline(config::read(file).map_err(|error| failed(&error))?, endpoint)?,
        (None, Some(directory)) => offline(vec![lone(directory)?], endpoint)?,
        (None, None) => Patient::Driver(driver::admin(endpoint, timeout).await?),
    };
    let answer = match asked.repair {
        None => findings(&patient.findings().await?),
        Some(code) => patient.repair(code, asked.object.as_deref()).await?,
    };
    Ok(answer.noting(patient.notes()))
}

/// Findings for the command line, whoever found them.
pub(super) fn findings(found: &[admin::Finding]) -> Answer {
    let mut table = Table::new(&["SEVERITY", "CODE", "POOL", "FINDING"]);
    for one in found {
        table.push([severity(one).to_owned(), one.code.clone(), one.pool.clone(), one.what.clone()]);
        table.push([String::from(" "), String::from(" "), String::from(" "), format!("→ {}", one.repair)]);
    }
    if found.is_empty() {
        table = Table::new(&["nothing is wrong"]);
    }
    let verdict = match found.iter().map(admin::Finding::severity).max() {
        Some(Severity::Error) => Verdict::Broken,
        Some(Severity::Warning) => Verdict::Warning,
        Some(Severity::Notice | Severity::Unknown) | None => Verdict::Yes,
    };
    let list: Vec<Value> = found.iter().map(as_json).collect();
    Answer::new(table, json!({ "findings": list })).with(verdict)
}

/// Everything that is wrong, as a driver tells it.
pub(super) async fn ask(driver: &mut AdminClient<Channel>) -> Outcome<Vec<admin::Finding>> {
    let mut all = Vec::new();
    for pool in driver::list(driver).await?.into_iter().map(|pool| pool.name).chain([String::new()]) {
        let answer = driver.diagnose(admin::DiagnoseRequest { pool }).await;
        all.extend(answer.map_err(Failure::of("Diagnose"))?.into_inner().findings);
    }
    Ok(worst_first(all))
}

impl Patient {
    /// What was not looked at, and why.
    fn notes(self) -> Vec<String> {
        match self {
            Patient::Driver(_) => Vec::new(),
            Patient::Pools(_, notes) => notes,
        }
    }

    async fn findings(&mut self) -> Outcome<Vec<admin::Finding>> {
        match self {
            Patient::Driver(driver) => ask(driver).await,
            Patient::Pools(engine, _) => {
                let mut all = Vec::new();
                for pool in engine.pools() {
                    all.extend(engine.diagnose(&pool.name).map_err(|error| failed(&error))?);
                }
                all.extend(engine.diagnose_host());
                Ok(worst_first(all.into_iter().map(finding).collect()))
            }
        }
    }

    /// Mends in every pool where the doctor finds it; one pool that fails keeps no other from being mended.
    async fn repair(&mut self, code: Code, object: Option<&str>) -> Outcome<Answer> {
        let found = self.findings().await?;
        let about = object.map_or_else(String::new, |object| format!(" about {object}"));
        let host = found.iter().find(|one| one.pool.is_empty() && one.code == code.name());
        if let Some(host) = host {
            return Err(Failure::Other(format!("{code} is mended by hand: {}", host.repair)));
        }
        // One finding may be mended in more ways than by its own code, so the pool has the last word.
        let here = |one: &&admin::Finding| one.code != Code::PoolAway.name() || code == Code::PoolAway;
        let pools: BTreeSet<&str> = found.iter().filter(here).map(|one| one.pool.as_str()).collect();
        let (mut done, mut failures) = (Vec::new(), Vec::new());
        for pool in pools.into_iter().filter(|pool| !pool.is_empty()) {
            match self.mend(pool, code, object).await {
                Ok(mended) => {
                    done.extend(mended.done);
                    let failed = mended.failed.into_iter().map(|why| format!("pool {}: {why}", quoted(pool)));
                    failures.extend(failed.map(Failure::Other));
                }
                Err(failure) => failures.push(failure),
            }
        }
        if done.is_empty() && failures.is_empty() {
            let away = found.iter().filter(|one| one.code == Code::PoolAway.name());
            let unseen: Vec<_> = away.map(|one| format!("; not looked at: {}", one.what)).collect();
            let why = format!("nothing to repair: {code} finds nothing{about}{}", unseen.concat());
            return Err(Failure::Other(why));
        }
        let mut table = Table::new(&["DONE"]);
        done.iter().for_each(|line| table.push([line.clone()]));
        Ok(Answer::of_several(table, json!({ "done": done }), failures))
    }

    async fn mend(&mut self, pool: &str, code: Code, object: Option<&str>) -> Outcome<Mended> {
        match self {
            Patient::Driver(driver) => {
                let (code, object) = (code.to_string(), object.unwrap_or_default().to_owned());
                let request = admin::RepairRequest { pool: pool.to_owned(), code, object };
                let answer = driver.repair(request).await.map_err(Failure::of("Repair"))?.into_inner();
                Ok(Mended { done: answer.done, failed: answer.failed })
            }
            Patient::Pools(engine, _) => engine.mend(pool, code, object).map_err(|error| failed(&error)),
        }
    }
}

fn offline(pools: Vec<PoolConfig>, endpoint: &Endpoint) -> Outcome<Patient> {
    let passed = pools.iter().filter(|pool| !pool.setup.kind.lasts()).map(|pool| {
        let name = quoted(&pool.setup.name);
        format!("pool {name} is not looked at: it lies in the memory of a driver; ask one that runs")
    });
    let notes = passed.collect();
    let engine = Engine::examine(pools).map_err(|error| {
        let hint = format!("if a driver runs there, ask it: rockpool ctl doctor --admin-endpoint {endpoint}");
        Failure::Other(format!("{}; {hint}", chain(&error)))
    })?;
    Ok(Patient::Pools(Box::new(engine), notes))
}

/// A pool by its directory alone: its marker says what it is.
pub(super) fn lone(directory: &Path) -> Outcome<PoolConfig> {
    let path = config::directory("--pool", directory).map_err(|error| failed(&error))?;
    let kind = pool::kind_at(&path).map_err(|error| failed(&error))?;
    let quota = pool::quota_at(&path).map_err(|error| failed(&error))?;
    let setup = Setup {
        name: path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        kind,
        path,
        file: None,
        device: None,
        quota,
        size: None,
    };
    // Nobody says how much may be promised of it, so nothing is too much.
    Ok(PoolConfig { setup, overcommit: f64::INFINITY, reserve: 0.0, retain: Retention::NONE })
}

fn failed(error: &crate::error::Error) -> Failure {
    Failure::Other(chain(error))
}

fn worst_first(mut found: Vec<admin::Finding>) -> Vec<admin::Finding> {
    // Stable: within a severity in the order of the pools.
    found.sort_by_key(|one| std::cmp::Reverse(one.severity));
    found
}

fn severity(one: &admin::Finding) -> &'static str {
    match one.severity() {
        Severity::Error => "error",
        Severity::Warning => "warning",
        Severity::Notice => "notice",
        Severity::Unknown => "unknown",
    }
}

pub(super) fn as_json(one: &admin::Finding) -> Value {
    json!({
        "code": one.code,
        "severity": severity(one),
        "pool": one.pool,
        "object": one.object,
        "what": one.what,
        "repair": one.repair,
    })
}
