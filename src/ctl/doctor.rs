//! `ctl doctor`: what is wrong, and mending it.
//!
//! Owns: the two ways to ask: a running driver by its admin socket, or pools that no driver has, each under its lock by a process
//! of its own (`errand`). Never: opens a pool that a driver holds, mounts one, or mends what was not asked for.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};
use tonic::Status;
use tonic::transport::Channel;

use super::answer::{Answer, Table, Verdict};
use super::driver;
use super::errand::{self, ALL_SILENT, STILL, Subject, Told, still};
use super::failure::{Failure, Outcome};
use crate::config::{self, Endpoint};
use crate::csi::admin::finding;
use crate::engine::{Code, Engine, Finding, Mended};
use crate::error::{chain, quoted};
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

    /// For the doctor alone, which sends itself to each pool.
    #[arg(long, value_name = "POOL", hide = true)]
    errand: Option<String>,
}

fn code(text: &str) -> Result<Code, String> {
    text.parse().map_err(|error: crate::error::Error| error.to_string())
}

/// Whom to ask.
enum Patient {
    /// A running driver, which must give a sign of life within this time.
    Driver(AdminClient<Channel>, Duration),
    /// Pools that no driver has.
    Pools(Pools),
}

/// Pools that no driver has, or should have.
pub(super) struct Pools {
    subjects: Vec<Subject>,
    /// What is said of those that are passed over.
    notes: Vec<String>,
}

pub(super) async fn run(endpoint: &Endpoint, timeout: Duration, asked: &Doctor) -> Outcome<Answer> {
    if let Some(name) = &asked.errand {
        return Ok(Answer::new(Table::new(&[]), asked.alone(name)));
    }
    let mut patient = match (&asked.config, &asked.pool) {
        (Some(file), _) => Patient::Pools(Pools::listed(file)?),
        (None, Some(directory)) => {
            Patient::Pools(Pools::of(vec![Subject::directory(directory, &last(directory))]))
        }
        (None, None) => Patient::Driver(driver::admin(endpoint, timeout).await?, timeout),
    };
    let answer = match asked.repair {
        None => patient.findings().await?.answer(),
        Some(code) => patient.repair(code, asked.object.as_deref()).await?,
    };
    Ok(answer.noting(patient.notes()))
}

/// Findings for the command line, whoever found them, and what nobody could tell.
fn findings(found: &[admin::Finding], failed: Vec<Failure>) -> Answer {
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
    let json = json!({ "findings": list });
    if failed.is_empty() { Answer::new(table, json) } else { Answer::of_several(table, json, failed) }
        .with(verdict)
}

/// What was found, and what nobody could tell.
#[derive(Default)]
pub(super) struct Examined {
    pub(super) found: Vec<admin::Finding>,
    pub(super) failed: Vec<Failure>,
}

impl Examined {
    fn answer(self) -> Answer {
        findings(&self.found, self.failed)
    }
}

/// Everything that is wrong, as a driver tells it: of all pools at once, each for as long as the driver gives a sign of life.
pub(super) async fn ask(driver: &mut AdminClient<Channel>, patience: Duration) -> Outcome<Examined> {
    let pools = driver::list(driver).await?.into_iter().map(|pool| pool.name).chain([String::new()]);
    let asked: Vec<_> = pools.map(|pool| tokio::spawn(ask_about(driver.clone(), pool, patience))).collect();
    let mut all = Examined::default();
    for told in asked {
        let told = told.await.map_err(|error| Failure::Other(format!("a question broke off: {error}")))?;
        match told {
            Ok(found) => all.found.extend(found),
            Err(failure) => all.failed.push(failure),
        }
    }
    all.found = worst_first(all.found);
    Ok(all)
}

async fn ask_about(
    mut driver: AdminClient<Channel>,
    pool: String,
    patience: Duration,
) -> Outcome<Vec<admin::Finding>> {
    let of_whom = if pool.is_empty() { "the host".to_owned() } else { format!("pool {}", quoted(&pool)) };
    let asked = driver.diagnose(admin::DiagnoseRequest { pool }).await;
    let mut said = asked.map_err(Failure::of("Diagnose"))?.into_inner();
    let mut next = STILL;
    loop {
        let Ok(one) = tokio::time::timeout(patience, said.message()).await else {
            let why = format!(
                "the driver has said nothing of {of_whom} for {} s, the time of --timeout; what it looks at is not known",
                patience.as_secs()
            );
            return Err(Failure::of("Diagnose")(Status::deadline_exceeded(why)));
        };
        let one = one.map_err(Failure::of("Diagnose"))?;
        let one = one.ok_or_else(|| Failure::Other(format!("the look at {of_whom} broke off")))?;
        let Some(going) = one.going_seconds else { return Ok(one.findings) };
        let going = Duration::from_secs(going.into());
        if going >= next {
            still(&of_whom, going);
            next = going + STILL;
        }
    }
}

impl Patient {
    /// What was not looked at, and why.
    fn notes(self) -> Vec<String> {
        match self {
            Patient::Driver(..) => Vec::new(),
            Patient::Pools(pools) => pools.notes,
        }
    }

    async fn findings(&mut self) -> Outcome<Examined> {
        match self {
            Patient::Driver(driver, patience) => ask(driver, *patience).await,
            Patient::Pools(pools) => pools.findings(),
        }
    }

    /// Mends in every pool where the doctor finds it; one pool that fails keeps no other from being mended.
    async fn repair(&mut self, code: Code, object: Option<&str>) -> Outcome<Answer> {
        let Examined { found, failed } = self.findings().await?;
        let about = object.map_or_else(String::new, |object| format!(" about {object}"));
        let host = found.iter().find(|one| one.pool.is_empty() && one.code == code.name());
        if let Some(host) = host {
            return Err(Failure::Other(format!("{code} is mended by hand: {}", host.repair)));
        }
        // One finding may be mended in more ways than by its own code, so the pool has the last word.
        let unseen = |one: &&admin::Finding| {
            [Code::PoolAway, Code::PoolSilent].iter().any(|code| one.code == code.name())
        };
        let here = |one: &&admin::Finding| !unseen(one) || one.code == code.name();
        let pools: BTreeSet<&str> = found.iter().filter(here).map(|one| one.pool.as_str()).collect();
        let (mut done, mut failures) = (Vec::new(), failed);
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
            let unseen: Vec<_> =
                found.iter().filter(unseen).map(|one| format!("; not looked at: {}", one.what)).collect();
            let why = format!("nothing to repair: {code} finds nothing{about}{}", unseen.concat());
            return Err(Failure::Other(why));
        }
        let unseen = found.iter().filter(unseen).filter(|one| one.code != code.name());
        failures.extend(unseen.map(|one| {
            Failure::Other(format!("pool {} was not looked at: {}", quoted(&one.pool), one.what))
        }));
        let mut table = Table::new(&["DONE"]);
        done.iter().for_each(|line| table.push([line.clone()]));
        Ok(Answer::of_several(table, json!({ "done": done }), failures))
    }

    async fn mend(&mut self, pool: &str, code: Code, object: Option<&str>) -> Outcome<Mended> {
        match self {
            Patient::Driver(driver, _) => {
                let (code, object) = (code.to_string(), object.unwrap_or_default().to_owned());
                let request = admin::RepairRequest { pool: pool.to_owned(), code, object };
                let answer = driver.repair(request).await.map_err(Failure::of("Repair"))?.into_inner();
                Ok(Mended { done: answer.done, failed: answer.failed })
            }
            Patient::Pools(pools) => pools.mend(pool, code, object),
        }
    }
}

impl Doctor {
    /// What the one pool comes to that this process was sent to.
    fn alone(&self, name: &str) -> Value {
        let subject = match (&self.config, &self.pool) {
            (Some(file), _) => Subject::listed(file, name),
            (None, directory) => Subject::directory(directory.as_deref().unwrap_or(Path::new("")), name),
        };
        let engine = match subject.config().map(|config| Engine::examine(vec![config])) {
            Ok(Ok(engine)) => engine,
            Ok(Err(held)) => return json!({ "held": chain(&held) }),
            Err(error) => return json!({ "failed": chain(&error) }),
        };
        let told = match self.repair {
            None => engine.diagnose(name).map(|found| {
                let found: Vec<Value> = found.into_iter().map(|one| as_json(&finding(one))).collect();
                json!({ "findings": found })
            }),
            Some(code) => {
                let mended = engine.mend(name, code, self.object.as_deref());
                mended.map(|mended| json!({ "done": mended.done, "not_done": mended.failed }))
            }
        };
        told.unwrap_or_else(|error| json!({ "failed": chain(&error) }))
    }
}

impl Pools {
    /// Those of a pool file.
    pub(super) fn listed(file: &Path) -> Outcome<Pools> {
        let pools = config::read(file).map_err(|error| failed(&error))?;
        let (lasting, passed): (Vec<_>, Vec<_>) = pools.into_iter().partition(|pool| pool.setup.kind.lasts());
        let note = |pool: crate::engine::PoolConfig| {
            let name = quoted(&pool.setup.name);
            format!("pool {name} is not looked at: it lies in the memory of a driver; ask one that runs")
        };
        let subjects = lasting.iter().map(|pool| Subject::listed(file, &pool.setup.name)).collect();
        Ok(Pools { subjects, notes: passed.into_iter().map(note).collect() })
    }

    pub(super) fn of(subjects: Vec<Subject>) -> Pools {
        Pools { subjects, notes: Vec::new() }
    }

    /// What is wrong with them and the host. One pool of which nobody could tell keeps no other from being told.
    pub(super) fn findings(&self) -> Outcome<Examined> {
        let mut all = Examined::default();
        let told = errand::send(&self.subjects, &["doctor"]);
        let all_silent = told.iter().all(|(_, told)| matches!(told, Told::Silent));
        for (subject, told) in told {
            match said(&subject, told) {
                Ok(Some(said)) => {
                    let said = said["findings"].as_array().into_iter().flatten().filter_map(from_json);
                    all.found.extend(said);
                }
                Ok(None) => {
                    let mut silent = Finding::silent(&subject.name);
                    if all_silent {
                        silent.repair = format!("{}; {ALL_SILENT}", silent.repair);
                    }
                    all.found.push(finding(silent));
                }
                Err(failure) => all.failed.push(failure),
            }
        }
        let host = Engine::examine(Vec::new()).map_err(|error| failed(&error))?;
        all.found.extend(host.diagnose_host().into_iter().map(finding));
        all.found = worst_first(all.found);
        Ok(all)
    }

    fn mend(&self, pool: &str, code: Code, object: Option<&str>) -> Outcome<Mended> {
        let subject =
            self.subjects.iter().filter(|subject| subject.name == pool).cloned().collect::<Vec<_>>();
        let code = code.to_string();
        let named = object.map(|object| ["--object", object]);
        let words =
            [&["doctor", "--repair", &code][..], named.as_ref().map_or(&[], |named| &named[..])].concat();
        let lines = |value: &Value| -> Vec<String> {
            let lines = value.as_array().into_iter().flatten().filter_map(Value::as_str);
            lines.map(str::to_owned).collect()
        };
        let mut mended = Mended::default();
        for (subject, told) in errand::send(&subject, &words) {
            let unknown = |why: &str| {
                Failure::Other(format!("{} {why}; what was done is not known, look again", subject.whom()))
            };
            if let Told::Died(why) = &told {
                return Err(unknown(&format!("was not mended to the end: {why}")));
            }
            let said = said(&subject, told)?.ok_or_else(|| unknown("does not answer"))?;
            mended.done.extend(lines(&said["done"]));
            mended.failed.extend(lines(&said["not_done"]));
        }
        Ok(mended)
    }
}

/// What a process said of its pool; none where that does not answer.
fn said(subject: &Subject, told: Told) -> Outcome<Option<Value>> {
    let said = match told {
        Told::Said(said) => said,
        Told::Silent => return Ok(None),
        Told::Died(why) => {
            return Err(Failure::Other(format!("{}: the look at it broke off: {why}", subject.whom())));
        }
    };
    if let Some(held) = said["held"].as_str() {
        let hint = "if a driver runs there, ask it: rockpool ctl doctor, with its --admin-endpoint";
        return Err(Failure::Other(format!("{held}; {hint}")));
    }
    match said["failed"].as_str() {
        Some(why) => Err(Failure::Other(why.to_owned())),
        None => Ok(Some(said)),
    }
}

/// The last part of a path, which names a pool that nobody named.
fn last(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
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

/// The same back.
fn from_json(one: &Value) -> Option<admin::Finding> {
    let text = |key: &str| one[key].as_str().unwrap_or_default().to_owned();
    let code: Code = text("code").parse().ok()?;
    let pool = Some(text("pool")).filter(|pool| !pool.is_empty());
    let object = Some(text("object")).filter(|object| !object.is_empty());
    Some(finding(Finding { code, pool, object, what: text("what"), repair: text("repair") }))
}
