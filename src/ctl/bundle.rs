//! `ctl support-bundle`: one file with everything that a bug report needs, and nothing secret.
//!
//! Owns: what goes in, and what is left out. Never: needs the driver to run, reads a byte of a volume,
//! or overwrites a file.
//!
//! Left out: comments and unknown keys of the pool file (it is written anew from what was understood), secrets (the driver
//! never keeps one), values of parameters that Rockpool does not know, and the text of records that cannot be read. Names of volumes, snapshots and
//! claims are users' data: each becomes a checksum, the same name always the same one, unless `--with-names` is given. So does
//! each part of a path at which a volume is mounted, but for what is kubelet's own, and what the driver's last log lines quote,
//! of which nobody knows for certain that it is no name.

mod lines;
mod mounts;
mod tar;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

use self::mounts::mounts;
use self::tar::Tar;
use super::answer::{Answer, Table};
use super::errand::{self, ALL_SILENT, Subject, Told};
use super::failure::{Failure, Outcome};
use super::{doctor, driver};
use crate::config::{self, Endpoint};
use crate::engine::PoolConfig;
use crate::error::{Result, chain};
use crate::model::{ObjectId, Time};
use crate::os::file::Dir;
use crate::os::{loopdev, process};
use crate::pool::{self, Visit};
use crate::proto::admin;

/// No record is larger.
const RECORD: usize = 64 * 1024;
/// So much of the end of a log.
const LOG: usize = 4 << 20;
/// Parameters whose values mean something to us; of all others only the key is told.
const KNOWN: [&str; 4] = ["pool", "allocation", "retainDeleted", "csi.storage.k8s.io/fstype"];
/// What else says how things work here.
const PROGRAMS: [&str; 5] = ["mke2fs", "e2fsck", "resize2fs", "mkfs.xfs", "xfs_repair"];

/// Write one file with what a bug report needs: versions, pools, records, mounts, devices, findings.
#[derive(Args, Debug)]
pub(super) struct Bundle {
    /// The pool file.
    #[arg(long, env = "ROCKPOOL_CONFIG", value_name = "FILE", default_value = crate::cli::CONFIG)]
    config: PathBuf,

    /// The file to write, which must not exist; without it rockpool-support-TIME.tar here.
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,

    /// A log of a driver, whose end is put in as it is; may be given several times. What the running driver said last is put in anyway.
    #[arg(long = "log", value_name = "FILE")]
    logs: Vec<PathBuf>,

    /// Keep the names of volumes, snapshots and claims.
    #[arg(long)]
    with_names: bool,

    /// For the program alone, which sends itself to each pool.
    #[arg(long, value_name = "POOL", hide = true)]
    errand: Option<String>,

    /// The directory of a pool of which no pool file speaks, with `--errand`.
    #[arg(long, value_name = "DIR", hide = true, requires = "errand")]
    pool: Option<PathBuf>,

    /// With `--errand`: the loop devices and mounts of the host, of pools on these devices at these directories.
    #[arg(long, hide = true, requires = "errand")]
    host: bool,
    #[arg(long = "ground", value_name = "NUMBER", hide = true, requires = "host")]
    grounds: Vec<u64>,
    #[arg(long = "at", value_name = "DIR", hide = true, requires = "host")]
    paths: Vec<PathBuf>,
}

/// A pool of the bundle.
struct Listed {
    subject: Subject,
    path: PathBuf,
    /// As the pool file has it.
    config: Option<PoolConfig>,
}

/// What the process that was sent to a pool brought back.
#[derive(Default)]
struct Seen {
    pool: Value,
    objects: Option<Value>,
    records: Option<Value>,
    /// The device of the filesystem that it lies on.
    ground: Option<u64>,
}

pub(super) async fn run(endpoint: &Endpoint, timeout: Duration, asked: &Bundle) -> Outcome<Answer> {
    if let Some(name) = &asked.errand {
        return Ok(Answer::new(Table::new(&[]), asked.alone(name)));
    }
    let path = asked
        .to
        .clone()
        .unwrap_or_else(|| PathBuf::from(format!("rockpool-support-{}.tar", Time::now().millis() / 1000)));
    let mut tar = Tar::default();
    tar.add("README", README.as_bytes());
    tar.add_json("host.json", &host());
    let mut notes = Vec::new();
    let pools: Vec<Listed> = match config::read(&asked.config) {
        Ok(pools) => pools.into_iter().map(|pool| Listed::of(&asked.config, pool)).collect(),
        Err(error) => {
            notes.push(format!("the pool file cannot be read, --config names another: {}", chain(&error)));
            let known = driver::pools(endpoint, timeout).await;
            if known.is_err() {
                notes.push("no driver tells of its pools either: none is in the bundle".to_owned());
            }
            let known = known.unwrap_or_default();
            tar.add_json("pools.json", &unread(&asked.config, &known));
            known.iter().map(told).collect()
        }
    };
    let listed = notes.is_empty();
    let seen = look(&pools, asked.with_names);
    if listed {
        tar.add_json("pools.json", &seen.iter().map(|seen| seen.pool.clone()).collect());
    }
    for (pool, seen) in pools.iter().zip(&seen) {
        let folder = format!("pools/{}", pool.subject.name);
        for (name, told) in [("objects", &seen.objects), ("records", &seen.records)] {
            if let Some(told) = told {
                tar.add_json(&format!("{folder}/{name}.json"), told);
            }
        }
    }
    let grounds: Vec<u64> = seen.iter().filter_map(|seen| seen.ground).collect();
    let of_host = host_parts(&grounds, &pools, asked.with_names);
    tar.add_json("loops.json", &of_host["loops"]);
    tar.add_json("mounts.json", &of_host["mounts"]);
    let (who, found) = findings(endpoint, timeout, &pools).await;
    let told = |found: Vec<admin::Finding>| -> Vec<Value> {
        let told = found.into_iter().map(|one| mounts::finding(one, asked.with_names));
        told.map(|one| doctor::as_json(&one)).collect()
    };
    let (found, failed) = match found {
        Ok(all) => (Value::Array(told(all.found)), all.failed.iter().map(ToString::to_string).collect()),
        Err(why) => (json!(why), Vec::new()),
    };
    tar.add_json("findings.json", &json!({ "asked": who, "findings": found, "failed": failed }));
    if let Some(said) = recent(endpoint, timeout).await {
        let names: Vec<&str> = pools.iter().map(|pool| pool.subject.name.as_str()).collect();
        let said = if asked.with_names { said } else { lines::without_names(&said, &names) };
        tar.add("logs/driver.jsonl", (said.join("\n") + "\n").as_bytes());
    }
    for (number, log) in asked.logs.iter().enumerate() {
        tar.add(&format!("logs/{number}.log"), &tail(log)?);
    }
    let bytes = tar.finish();
    write(&path, &bytes)?;
    let shown = path.display().to_string();
    let table = Table::of_one([("WRITTEN", shown.clone()), ("BYTES", bytes.len().to_string())]);
    Ok(Answer::new(table, json!({ "path": shown, "bytes": bytes.len() })).noting(notes))
}

const README: &str = "\
A support bundle of Rockpool.
  host.json      versions of program and kernel, programs that are installed
  pools.json     the pools of the pool file as understood (no comments, no unknown keys), and how full they are;
                 without a pool file those of the driver that runs
  pools/NAME/    objects.json: files by id, with sizes; records.json: records
  loops.json     loop devices on those pools
  mounts.json    mounts of those pools and of their volumes; of the paths only what is kubelet's own
  findings.json  what `rockpool ctl doctor` says
  logs/          driver.jsonl: the last lines of the driver that runs, whatever they quote as checksums;
                 the ends of the logs that were given by --log, as they are: calls name what they are about
Not in it: secrets (the driver keeps none), contents of volumes, values of parameters that Rockpool does not know.
Names of volumes, snapshots, claims and pods are checksums (name:xxxxxxxx) unless --with-names was given.
";

fn host() -> Value {
    let kernel = rustix::system::uname();
    let text = |value: &std::ffi::CStr| value.to_string_lossy().into_owned();
    let installed: serde_json::Map<String, Value> =
        PROGRAMS.iter().map(|name| ((*name).to_owned(), process::found(name).into())).collect();
    json!({
        "rockpool": env!("CARGO_PKG_VERSION"),
        "kernel": text(kernel.release()),
        "kernel_version": text(kernel.version()),
        "machine": text(kernel.machine()),
        "os": os_release(),
        "time": Time::now().millis(),
        "programs": installed,
    })
}

fn os_release() -> Option<String> {
    let text = std::fs::read_to_string("/etc/os-release").ok()?;
    let name = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="))?;
    Some(name.trim_matches('"').to_owned())
}

/// In place of the pools of the pool file those that the driver has. What is wrong with the file stays out, it quotes it.
fn unread(file: &Path, known: &[admin::Pool]) -> Value {
    let why = if file.exists() {
        "it cannot be read, `rockpool config check` says why"
    } else {
        "there is no such file"
    };
    let pool = |pool: &admin::Pool| {
        json!({
            "name": pool.name, "kind": pool.kind, "path": pool.path, "id": pool.id, "away": pool.away,
            "promised_bytes": pool.promised_bytes, "budget_bytes": pool.budget_bytes, "retained_bytes": pool.retained_bytes,
        })
    };
    let known: Vec<Value> = known.iter().map(pool).collect();
    json!({ "config": why, "driver": known })
}

/// A pool as the driver tells of it.
fn told(pool: &admin::Pool) -> Listed {
    let path = PathBuf::from(&pool.path);
    Listed { subject: Subject::directory(&path, &pool.name), path, config: None }
}

impl Listed {
    /// An entry of the pool file.
    fn of(file: &Path, pool: PoolConfig) -> Listed {
        let subject = Subject::listed(file, &pool.setup.name);
        Listed { subject, path: pool.setup.path.clone(), config: Some(pool) }
    }
}

impl Bundle {
    /// What the one pool comes to that this process was sent to.
    fn alone(&self, name: &str) -> Value {
        if self.host {
            let paths: Vec<&Path> = self.paths.iter().map(PathBuf::as_path).collect();
            let mounts = mounts(&self.grounds, &paths, self.with_names);
            return json!({ "loops": loops(&self.grounds), "mounts": mounts });
        }
        let subject = match &self.pool {
            Some(directory) => Subject::directory(directory, name),
            None => Subject::listed(&self.config, name),
        };
        let config = match subject.config() {
            Ok(config) => config,
            Err(error) => return json!({ "pool": { "name": name, "away": chain(&error) } }),
        };
        let visit = pool::visit(&config.setup);
        let away = visit.as_ref().err().map(|error| chain(error));
        let visit = visit.as_ref().ok();
        json!({
            "pool": shown(&config, visit, away.as_deref()),
            "objects": visit.map(objects),
            "records": visit.map(|visit| records(visit, self.with_names)),
            "ground": visit.and_then(|visit| visit.root.identity().ok()).map(|identity| identity.device),
        })
    }
}

/// What is in each pool, in their order.
fn look(pools: &[Listed], with_names: bool) -> Vec<Seen> {
    let subjects: Vec<Subject> = pools.iter().map(|pool| pool.subject.clone()).collect();
    let told = errand::send(&subjects, verb(with_names));
    let all_silent = told.iter().all(|(_, told)| matches!(told, Told::Silent));
    let away = |pool: &Listed, why: &str| {
        let pool = pool.config.as_ref().map(|config| shown(config, None, Some(why)));
        Seen { pool: pool.unwrap_or_default(), ..Seen::default() }
    };
    let seen = pools.iter().zip(told).map(|(pool, (_, told))| match told {
        Told::Said(mut said) => {
            let mut part = |key: &str| Some(said[key].take()).filter(|part| !part.is_null());
            let ground = part("ground").and_then(|ground| ground.as_u64());
            let (objects, records) = (part("objects"), part("records"));
            Seen { pool: part("pool").unwrap_or_default(), objects, records, ground }
        }
        Told::Silent if all_silent => away(pool, &format!("it does not answer; {ALL_SILENT}")),
        Told::Silent => away(pool, "it does not answer: its disk hangs"),
        Told::Died(why) => away(pool, &format!("the look at it broke off: {why}")),
    });
    seen.collect()
}

fn verb(with_names: bool) -> &'static [&'static str] {
    if with_names { &["support-bundle", "--with-names"] } else { &["support-bundle"] }
}

/// Loop devices and mounts. By a process of its own as well: to open a device whose file hangs may take for ever.
fn host_parts(grounds: &[u64], pools: &[Listed], with_names: bool) -> Value {
    let numbers = grounds.iter().flat_map(|ground| ["--ground".into(), ground.to_string().into()]);
    let paths = pools.iter().flat_map(|pool| [OsString::from("--at"), pool.path.clone().into()]);
    let words = ["--host".into()].into_iter().chain(numbers).chain(paths).collect();
    let told = errand::send(&[Subject::host(words)], verb(with_names)).pop();
    let why = match told {
        Some((_, Told::Said(said))) => return said,
        Some((_, Told::Silent)) | None => {
            "who looks does not answer: a loop device of this host hangs with its file, its name is in /sys/block".to_owned()
        }
        Some((_, Told::Died(why))) => format!("the look broke off: {why}"),
    };
    json!({ "loops": { "error": why }, "mounts": { "error": why } })
}

fn shown(config: &PoolConfig, seen: Option<&Visit>, away: Option<&str>) -> Value {
    let setup = &config.setup;
    json!({
        "name": setup.name,
        "kind": setup.kind.name(),
        "path": setup.path,
        "file": setup.file,
        "device": setup.device,
        "overcommit": config.overcommit,
        "reserve": config.reserve,
        "retainDeleted": config.retain.to_string(),
        "id": seen.map(|visit| visit.id.to_string()),
        "size_bytes": seen.map(|visit| visit.total.get()),
        "used_bytes": seen.map(|visit| visit.used.get()),
        "features": seen.map(|visit| format!("{:?}", visit.features)),
        "away": away,
    })
}

/// Every file that is named by an id, with its sizes; of all others only how many there are.
fn objects(visit: &Visit) -> Value {
    let folder = |name: &str| -> Result<Value> {
        let dir = visit.root.sub(name)?;
        let mut list = Vec::new();
        let mut others = 0;
        for entry in dir.names()? {
            let Some(stat) = dir.stat(&entry)? else { continue };
            match entry.to_str().and_then(|text| text.parse::<ObjectId>().ok()) {
                Some(id) => list.push(json!({
                    "id": id.to_string(), "size": stat.size, "allocated": stat.allocated, "inode": stat.inode,
                })),
                None => others += 1,
            }
        }
        Ok(json!({ "objects": list, "others": others }))
    };
    let all = ["volumes", "snapshots", "tmp"].map(|name| {
        let seen = folder(name).unwrap_or_else(|error| json!({ "error": chain(&error) }));
        (name.to_owned(), seen)
    });
    Value::Object(all.into_iter().collect())
}

fn records(visit: &Visit, with_names: bool) -> Value {
    let read = || -> Result<Vec<Value>> {
        let dir = visit.root.sub("records")?;
        let mut list = Vec::new();
        for entry in dir.names()? {
            let Some(id) = entry.to_str().and_then(|text| text.parse::<ObjectId>().ok()) else { continue };
            let bytes = dir.read(&entry, RECORD)?.unwrap_or_default();
            let record = match serde_json::from_slice::<Value>(&bytes) {
                Ok(mut record) => {
                    redact(&mut record, with_names);
                    record
                }
                Err(_) => json!({ "unreadable": bytes.len() }),
            };
            list.push(json!({ "id": id.to_string(), "record": record }));
        }
        Ok(list)
    };
    read().map_or_else(|error| json!({ "error": chain(&error) }), Value::Array)
}

/// Keeps what is ours: ids, numbers, phases. Names become checksums, and unknown parameters lose their values.
fn redact(value: &mut Value, with_names: bool) {
    match value {
        Value::Object(map) => {
            for (key, value) in map.iter_mut() {
                match (key.as_str(), value) {
                    ("parameters", Value::Object(parameters)) => {
                        for (_, value) in
                            parameters.iter_mut().filter(|(key, _)| !KNOWN.contains(&key.as_str()))
                        {
                            *value = json!("left out");
                        }
                    }
                    ("name" | "namespace", Value::String(name)) if !with_names => *name = checksum(name),
                    (_, value) => redact(value, with_names),
                }
            }
        }
        Value::Array(list) => list.iter_mut().for_each(|value| redact(value, with_names)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn checksum(name: &str) -> String {
    format!("name:{:08x}", crc32c::crc32c(name.as_bytes()))
}

/// The loop devices on our pools, which lie on these devices, and those that our pools lie on.
fn loops(grounds: &[u64]) -> Value {
    let all = match loopdev::all() {
        Ok(all) => all,
        Err(error) => return json!({ "error": chain(&error) }),
    };
    let ours = all
        .iter()
        .filter(|(file, found)| grounds.contains(&file.device) || grounds.contains(&found.device.device));
    let shown = ours.map(|(file, found)| {
        let name = found.device.backing_name().filter(|name| name.parse::<ObjectId>().is_ok());
        json!({
            "device": found.device.path(),
            "size": found.device.size().ok(),
            "file": { "device": file.device, "inode": file.inode, "id": name },
            "access": format!("{:?}", found.access),
            "lifetime": format!("{:?}", found.lifetime),
            "caching": found.device.caching().ok().map(|caching| format!("{caching:?}")),
            "offset": found.offset,
        })
    });
    Value::Array(shown.collect())
}

/// What the doctor says: of the running driver, else of pools that no driver has.
async fn findings(
    endpoint: &Endpoint,
    timeout: Duration,
    pools: &[Listed],
) -> (&'static str, std::result::Result<doctor::Examined, String>) {
    if let Ok(mut driver) = driver::admin(endpoint, timeout).await
        && let Ok(examined) = doctor::ask(&mut driver, timeout).await
    {
        return ("the driver", Ok(examined));
    }
    let lasting = |pool: &&Listed| pool.config.as_ref().is_none_or(|config| config.setup.kind.lasts());
    let subjects = pools.iter().filter(lasting).map(|pool| pool.subject.clone()).collect();
    match doctor::Pools::of(subjects).findings() {
        Ok(examined) => ("the pools", Ok(examined)),
        Err(failure) => ("nobody", Err(failure.to_string())),
    }
}

/// What the running driver has logged last, where one runs that keeps it.
async fn recent(endpoint: &Endpoint, timeout: Duration) -> Option<Vec<String>> {
    let mut driver = driver::admin(endpoint, timeout).await.ok()?;
    let answer = driver.recent_log(admin::RecentLogRequest {}).await.ok()?;
    Some(answer.into_inner().lines)
}

fn tail(log: &Path) -> Outcome<Vec<u8>> {
    let text = std::fs::read(log);
    let text = text.map_err(|error| Failure::Usage(format!("--log {}: {error}", log.display())))?;
    Ok(text[text.len().saturating_sub(LOG)..].to_vec())
}

/// Into a new file that only its owner reads.
fn write(path: &Path, bytes: &[u8]) -> Outcome<()> {
    let failed = |error: crate::error::Error| {
        Failure::Other(format!(
            "--to {}: {}; want a new file in a directory that is there",
            path.display(),
            chain(&error)
        ))
    };
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let dir = Dir::open(parent.unwrap_or(Path::new("."))).map_err(failed)?;
    let name =
        path.file_name().ok_or_else(|| Failure::Usage(format!("--to {}: want a file", path.display())))?;
    if dir.stat(name).map_err(failed)?.is_some() {
        return Err(Failure::Usage(format!("--to {}: it exists; want a new file", path.display())));
    }
    dir.replace(name, bytes).map_err(failed)
}
