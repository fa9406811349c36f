//! `ctl pool moved`: the PersistentVolumes of a pool that has moved to another node follow it.
//!
//! Owns: the order of the steps, and that none of them can lose a volume. Never: acts with other rights than the operator's own;
//! touches a volume, a claim or the driver: it only makes PersistentVolumes anew, since the node that one names cannot be changed.
//!
//! For each of them:
//! 1. What it is now is written to a file, durably, over what an interrupted run has left there, of which only the reclaim policy
//!    counts: 2 has changed that. From here on every step can be repeated.
//! 2. Its reclaim policy becomes Retain, and that is read back: without it its end would be the end of the data.
//! 3. It is deleted, that very one (its uid), and its finalizers are removed: they wait for the claim's end, which does not come.
//! 4. It is made again: the same name, labels and spec, the same claim by its uid, its old reclaim policy, and the new node.
//! 5. The file goes.
//!
//! Killed between any two, the same command goes on where it was: a PersistentVolume that is missing is made from its file, one
//! that is leaving is let go of only if its file is there. Somebody else's deletion is left alone, and so is what names no node by our
//! topology key.

mod object;
mod target;

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

use self::object::{POLICY, RETAIN, anew, claim_of, name_of, nodes_of, uid_of};
use super::answer::{Answer, Table, say};
use super::failure::{Failure, Outcome};
use crate::cluster::kubernetes::{Fault, Kubernetes};
use crate::config::Endpoint;
use crate::error::{Error, chain, quoted};
use crate::model::{NodeId, PoolId, VolumeId};
use crate::os::file::Dir;

const VOLUMES: &str = "/api/v1/persistentvolumes";
/// So many are read at once.
const PAGE: usize = 500;
/// No file of one is larger.
const LIMIT: usize = 4 << 20;
/// Why one is left alone.
const UNPLACED: &str = "left alone: its nodeAffinity names no node by topology.csi.rockpool.dev/node";
/// How long one may take to go after its finalizers are gone.
const GONE: Duration = Duration::from_secs(30);

/// What has moved where.
#[derive(Args, Debug)]
pub(super) struct Moved {
    /// Its id, as `ctl pool list` shows it.
    #[arg(value_name = "POOL")]
    pool: String,

    /// The node that has it now.
    #[arg(long, value_name = "NODE")]
    node: String,

    /// Do it; without this it is only said what would be done.
    #[arg(long)]
    apply: bool,

    /// Your own credentials; without it the file that KUBECONFIG names, or ~/.kube/config.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,

    /// Where PersistentVolumes are kept while they are made anew. To go on after an interruption, name the same one.
    #[arg(long, value_name = "DIR", default_value = "rockpool-moved")]
    save: PathBuf,

    /// The driver's name.
    #[arg(long, env = "ROCKPOOL_DRIVER_NAME", value_name = "NAME", default_value = "csi.rockpool.dev")]
    driver_name: String,
}

/// Everything that one run works with.
struct Move {
    api: Kubernetes,
    pool: PoolId,
    node: NodeId,
    driver: String,
    /// The place of the files; none where nothing was saved yet and nothing is to be.
    save: Option<Dir>,
}

/// What has to be done with one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing: it names the node.
    Right,
    /// It names another node.
    Wrong,
    /// It names none, or not by our key.
    Unplaced,
    /// It was deleted, by us, and is about to go.
    Leaving,
    /// It is only in its file.
    Missing,
    /// It was deleted, and not by us.
    Foreign,
}

/// Does it, or says what would be done; `controller` is the admin socket of one that can be asked where the pool is.
pub(super) async fn run(wanted: &Moved, controller: Option<&Endpoint>, timeout: Duration) -> Outcome<Answer> {
    let usage = |error: Error| Failure::Usage(error.to_string());
    let pool: PoolId = wanted.pool.parse().map_err(usage)?;
    let node: NodeId = wanted.node.parse().map_err(usage)?;
    let api = Kubernetes::of_operator(wanted.kubeconfig.as_deref()).await.map_err(other)?;
    let mut run = Move { api, pool, node, driver: wanted.driver_name.clone(), save: None };
    let confirmed = target::check(&run, controller, timeout).await?;
    run.save = place(&wanted.save, wanted.apply).map_err(other)?;
    let mut found = run.found().await?;
    found.sort_by(|one, next| one.0.cmp(&next.0));
    let mut table = Table::new(&["VOLUME", "CLAIM", "NODE", "DONE"]);
    let (mut list, mut failures) = (Vec::new(), Vec::new());
    for (name, object, state) in found {
        let from = nodes_of(&object).join(",");
        let done = if wanted.apply { run.follow(&name, state).await } else { run.rehearse(&name, state) };
        let done = done.unwrap_or_else(|failure| {
            let line = format!("failed: {failure}");
            failures.push(Failure::Other(format!("{name}: {failure}")));
            line
        });
        let claim = claim_of(&object);
        list.push(
            json!({ "name": name, "claim": claim, "from": from, "to": run.node.as_str(), "done": done }),
        );
        table.push([name, claim, format!("{from} -> {}", run.node), done]);
    }
    let note = if wanted.apply { vec![] } else { vec!["nothing was done: --apply does it".to_owned()] };
    let json = json!({ "volumes": list, "applied": wanted.apply, "pool_confirmed": confirmed });
    Ok(Answer::of_several(table, json, failures).noting(note))
}

fn other(error: Error) -> Failure {
    Failure::Other(chain(&error))
}

fn asked(what: &str) -> impl FnOnce(Fault) -> Failure {
    move |fault| Failure::Other(format!("failed to {what}: {fault}"))
}

/// The directory of the files; made where it is missing and needed.
fn place(path: &Path, make: bool) -> crate::error::Result<Option<Dir>> {
    if make {
        let failed = |error| Error::host(format!("failed to make {}", path.display()), error);
        std::fs::create_dir_all(path).map_err(failed)?;
    }
    if path.is_dir() { Dir::open(path).map(Some) } else { Ok(None) }
}

impl Move {
    /// The PersistentVolumes in the pool, those that are only in files included.
    async fn found(&self) -> Outcome<Vec<(String, Value, State)>> {
        let (mut found, mut next) = (Vec::new(), String::new());
        loop {
            let path = format!("{VOLUMES}?limit={PAGE}&continue={next}");
            let page: Value = self.api.get(&path).await.map_err(asked("list the PersistentVolumes"))?;
            for object in page["items"].as_array().into_iter().flatten() {
                if self.is_ours(object) {
                    let name = name_of(object).to_owned();
                    let state = self.state(Some(object), self.saved(&name)?.as_ref());
                    found.push((name, object.clone(), state));
                }
            }
            next = page["metadata"]["continue"].as_str().unwrap_or_default().to_owned();
            if next.is_empty() {
                break;
            }
        }
        let Some(save) = &self.save else { return Ok(found) };
        for file in save.names().map_err(other)? {
            let Some(name) = file.to_str().and_then(|file| file.strip_suffix(".json")) else { continue };
            if let Some(saved) = self.saved(name)?.filter(|saved| self.is_ours(saved))
                && found.iter().all(|(there, ..)| there != name)
            {
                found.push((name.to_owned(), saved, State::Missing));
            }
        }
        Ok(found)
    }

    fn is_ours(&self, object: &Value) -> bool {
        let csi = &object["spec"]["csi"];
        let id = csi["volumeHandle"].as_str().and_then(|handle| handle.parse::<VolumeId>().ok());
        csi["driver"] == self.driver.as_str() && id.is_some_and(|id| id.pool() == self.pool)
    }

    fn state(&self, live: Option<&Value>, saved: Option<&Value>) -> State {
        let Some(live) = live else { return State::Missing };
        let is_saved = saved.is_some_and(|saved| uid_of(saved) == uid_of(live));
        let nodes = nodes_of(live);
        match (live["metadata"]["deletionTimestamp"].is_null(), is_saved) {
            (true, _) if nodes.is_empty() => State::Unplaced,
            (true, _) if nodes.iter().all(|node| *node == self.node.as_str()) => State::Right,
            (true, _) => State::Wrong,
            (false, true) => State::Leaving,
            (false, false) => State::Foreign,
        }
    }

    /// What would be done.
    fn rehearse(&self, name: &str, state: State) -> Outcome<String> {
        Ok(match state {
            State::Right => "nothing: it names this node",
            State::Wrong => "would be saved, retained, deleted and made again",
            State::Unplaced => return Ok(UNPLACED.to_owned()),
            State::Leaving => "was deleted by this command; would be made again",
            State::Missing => "is missing; would be made again from its file",
            State::Foreign => return Err(foreign(name)),
        }
        .to_owned())
    }

    /// Takes one from where it is to where it should be.
    async fn follow(&self, name: &str, state: State) -> Outcome<String> {
        match state {
            State::Right => {
                // It may be left from a run that was killed right at its end.
                self.forget(name)?;
                return Ok("nothing: it names this node".to_owned());
            }
            State::Wrong => {
                let live = self.save_anew(name).await?;
                self.let_go(name, &live).await?;
                self.release(name).await?;
            }
            State::Unplaced => return Ok(UNPLACED.to_owned()),
            State::Leaving => self.release(name).await?,
            State::Missing => {}
            State::Foreign => return Err(foreign(name)),
        }
        self.make(name).await?;
        self.forget(name)?;
        Ok("follows".to_owned())
    }

    /// Saves what it is now, and answers that: what an interrupted run has saved may be out of date, but for the reclaim policy.
    async fn save_anew(&self, name: &str) -> Outcome<Value> {
        let live = self.live(name).await?.ok_or_else(|| vanished(name))?;
        if self.state(Some(&live), None) != State::Wrong {
            return Err(Failure::Other("it has changed meanwhile; run this again".to_owned()));
        }
        let mut kept = live.clone();
        let earlier = self.saved(name)?.filter(|saved| uid_of(saved) == uid_of(&live));
        if let Some(earlier) = earlier.filter(|_| live["spec"][POLICY] == RETAIN) {
            kept["spec"][POLICY] = earlier["spec"][POLICY].clone();
        }
        self.keep(name, &kept)?;
        Ok(live)
    }

    /// Sees to it that the data stays, and deletes that very object.
    async fn let_go(&self, name: &str, live: &Value) -> Outcome<()> {
        let path = format!("{VOLUMES}/{name}");
        let change = json!({
            "metadata": { "uid": uid_of(live), "resourceVersion": live["metadata"]["resourceVersion"] },
            "spec": { POLICY: RETAIN },
        });
        let retained: Value = self.api.patch(&path, &change).await.map_err(asked("retain its data"))?;
        if retained["spec"][POLICY] != RETAIN {
            return Err(Failure::Other("its data could not be retained; nothing was deleted".to_owned()));
        }
        step(name, "its data is retained");
        let options = json!({
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "preconditions": { "uid": uid_of(live), "resourceVersion": retained["metadata"]["resourceVersion"] },
        });
        self.api.delete(&path, &options).await.map_err(asked("delete it"))?;
        step(name, "it is deleted");
        Ok(())
    }

    /// Removes what keeps a deleted one, and waits until it is gone.
    async fn release(&self, name: &str) -> Outcome<()> {
        let path = format!("{VOLUMES}/{name}");
        let begun = tokio::time::Instant::now();
        while let Some(live) = self.live(name).await? {
            if self.state(Some(&live), self.saved(name)?.as_ref()) != State::Leaving {
                return Err(foreign(name));
            }
            if live["spec"][POLICY] != RETAIN {
                return Err(Failure::Other(
                    "its data is not retained any more: somebody has changed it".to_owned(),
                ));
            }
            if begun.elapsed() > GONE {
                return Err(Failure::Other(format!(
                    "it is still there {} s after it was deleted",
                    GONE.as_secs()
                )));
            }
            let change = json!({ "metadata": { "uid": uid_of(&live), "finalizers": null } });
            match self.api.patch::<Value>(&path, &change).await {
                // It went by itself, or is another one by now, which the next look shows.
                Ok(_) | Err(Fault::Refused(404 | 409, _)) => {}
                Err(fault) => return Err(asked("let it go")(fault)),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        step(name, "it is gone");
        Ok(())
    }

    /// Makes it from its file.
    async fn make(&self, name: &str) -> Outcome<()> {
        let saved = self.saved(name)?.ok_or_else(|| vanished(name))?;
        match self.api.post::<Value>(VOLUMES, &anew(saved, &self.node)).await {
            Ok(_) => {}
            // Another run was quicker, or this one was not answered.
            Err(Fault::Refused(409, _)) => {
                let live = self.live(name).await?;
                if self.state(live.as_ref(), None) != State::Right {
                    return Err(foreign(name));
                }
            }
            Err(fault) => return Err(asked("make it again; its file has it")(fault)),
        }
        step(name, "it is made again");
        Ok(())
    }

    async fn live(&self, name: &str) -> Outcome<Option<Value>> {
        match self.api.get::<Value>(&format!("{VOLUMES}/{name}")).await {
            Ok(live) => Ok(Some(live)),
            Err(Fault::Refused(404, _)) => Ok(None),
            Err(fault) => Err(asked("look at it")(fault)),
        }
    }

    fn saved(&self, name: &str) -> Outcome<Option<Value>> {
        let Some(save) = &self.save else { return Ok(None) };
        let Some(bytes) = save.read(format!("{name}.json"), LIMIT).map_err(other)? else { return Ok(None) };
        let read = serde_json::from_slice(&bytes);
        read.map(Some).map_err(|error| Failure::Other(format!("{name}.json cannot be read: {error}")))
    }

    fn keep(&self, name: &str, object: &Value) -> Outcome<()> {
        let save = self.save.as_ref().ok_or_else(|| vanished(name))?;
        save.replace(format!("{name}.json"), format!("{object:#}\n").as_bytes()).map_err(other)?;
        step(name, "it is saved");
        Ok(())
    }

    fn forget(&self, name: &str) -> Outcome<()> {
        let Some(save) = &self.save else { return Ok(()) };
        save.remove(format!("{name}.json")).map(drop).map_err(other)
    }
}

fn step(name: &str, done: &str) {
    say(&format!("{name}: {done}"));
}

fn foreign(name: &str) -> Failure {
    Failure::Other(format!("{} is being deleted, and not by this command: it is left alone", quoted(name)))
}

fn vanished(name: &str) -> Failure {
    Failure::Other(format!("{} is gone, and there is no file of it: it was deleted meanwhile", quoted(name)))
}
