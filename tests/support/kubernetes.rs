//! As much of a Kubernetes API server as the program asks for: objects under their paths, token reviews, and every way in which a
//! server can fail.
//!
//! Owns: optimistic locking, finalizers, lists of metadata alone, watches with bookmarks and their end, as the real one does them. Never: knows what is asked for why.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use serde_json::{Value, json};

/// A running server; it ends with this.
pub(crate) struct Api {
    world: Arc<Mutex<World>>,
    address: std::net::SocketAddr,
}

/// What it has and how it behaves.
#[derive(Default)]
pub(crate) struct World {
    /// Every object by its path.
    pub(crate) objects: BTreeMap<String, Value>,
    /// What a review answers for a token, as `status`; for others it says that they are not valid.
    pub(crate) tokens: BTreeMap<String, Value>,
    pub(crate) mood: Mood,
    /// So many changes are made and answered yet; of the next nobody hears, whether it is made or not, and of none after it.
    pub(crate) changes: Option<(usize, bool)>,
    /// Method and path of every request.
    pub(crate) asked: Vec<String>,
    /// What time it says it is, as HTTP does; empty where it does not.
    pub(crate) date: &'static str,
    /// What may not be read: paths that end so are answered 403.
    pub(crate) forbidden: Vec<&'static str>,
    /// What changed, for watches: at which version, how, and what.
    changed: Vec<(u64, &'static str, String, Value)>,
    /// Versions up to this one are forgotten: a watch from there is over.
    forgotten: u64,
    /// Whether a watch from there is refused, and not begun and then ended.
    refuses_expired: bool,
    /// So many objects whose path has this in it are not made.
    refused_posts: Option<(String, usize)>,
    /// Watches that were begun before as many ends as this are ended.
    ended: u64,
    version: u64,
    stopped: bool,
}

/// How it answers.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) enum Mood {
    #[default]
    Well,
    /// Connections are closed without an answer.
    Away,
    /// It answers after this.
    Slow(Duration),
    /// It answers 500.
    Ill,
    /// It answers a page of some other server.
    Other,
    /// It stops answering changes: they are made, and nobody hears of it.
    Deaf,
}

/// What a server says of a right token of a node.
pub(crate) fn good(node: &str) -> Value {
    json!({
        "authenticated": true,
        "audiences": ["csi.rockpool.dev"],
        "user": {
            "username": "system:serviceaccount:rockpool:rockpool-node",
            "extra": { "authentication.kubernetes.io/node-name": [node], "other": ["x", "y"] },
        },
    })
}

/// A token that ends in so many seconds, with this word in it.
pub(crate) fn token(word: &str, seconds: i64) -> String {
    use base64::Engine;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let now = i64::try_from(now.as_secs()).unwrap();
    let claims = json!({ "iat": now, "exp": now + seconds, "sub": word }).to_string();
    let part = |text: &str| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(text);
    format!("{}.{}.{}", part("{\"alg\":\"none\"}"), part(&claims), part(word))
}

impl Api {
    pub(crate) fn start() -> Api {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, world) = (listener.local_addr().unwrap(), Arc::new(Mutex::new(World::default())));
        let shared = Arc::clone(&world);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if shared.lock().unwrap().stopped {
                    return;
                }
                let (Ok(stream), world) = (stream, Arc::clone(&shared)) else { continue };
                std::thread::spawn(move || drop(talk(&stream, &world)));
            }
        });
        Api { world, address }
    }

    pub(crate) fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    pub(crate) fn be(&self, mood: Mood) {
        self.world().mood = mood;
    }

    /// A kubeconfig that leads here.
    pub(crate) fn kubeconfig(&self) -> String {
        json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{ "name": "test", "cluster": { "server": format!("http://{}", self.address) } }],
            "contexts": [{ "name": "test", "context": { "cluster": "test", "user": "test" } }],
            "users": [{ "name": "test", "user": { "token": "the-callers-own" } }],
        })
        .to_string()
    }

    /// Puts a node there, with the driver.
    pub(crate) fn add_node(&self, name: &str) {
        let mut world = self.world();
        let labels = json!({ "topology.csi.rockpool.dev/node": name });
        let node =
            json!({ "metadata": { "name": name, "labels": labels }, "spec": { "podCIDR": "10.0.0.0/24" } });
        world.put(&format!("/api/v1/nodes/{name}"), node);
        let drivers =
            json!([{ "name": "other", "nodeID": "x" }, { "name": "csi.rockpool.dev", "nodeID": name }]);
        let csi = json!({ "metadata": { "name": name }, "spec": { "drivers": drivers } });
        world.put(&format!("/apis/storage.k8s.io/v1/csinodes/{name}"), csi);
    }

    /// Takes a node away, for good.
    pub(crate) fn remove_node(&self, name: &str) {
        let mut world = self.world();
        world.remove(&format!("/api/v1/nodes/{name}"));
        world.remove(&format!("/apis/storage.k8s.io/v1/csinodes/{name}"));
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        self.world().stopped = true;
        let _ = TcpStream::connect(self.address);
    }
}

/// Answers the requests of one connection.
fn talk(stream: &TcpStream, world: &Mutex<World>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let mut first = String::new();
        if reader.read_line(&mut first)? == 0 {
            return Ok(());
        }
        let (mut length, mut accept) = (0, String::new());
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            let Some((name, value)) = line.trim().split_once(':') else { break };
            match name.to_ascii_lowercase().as_str() {
                "content-length" => length = value.trim().parse().unwrap(),
                "accept" => accept = value.trim().to_owned(),
                _ => {}
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        let mut words = first.split(' ');
        let (method, path) = (words.next().unwrap(), words.next().unwrap());
        let mood = {
            let mut world = world.lock().unwrap();
            world.asked.push(format!("{method} {path}"));
            world.mood
        };
        let is_change = ["POST", "PUT", "PATCH", "DELETE"].contains(&method);
        match mood {
            Mood::Away => return Ok(()),
            Mood::Slow(time) => std::thread::sleep(time),
            Mood::Well | Mood::Ill | Mood::Other | Mood::Deaf => {}
        }
        let mut last = false;
        if is_change {
            let changes = &mut world.lock().unwrap().changes;
            match changes {
                None => {}
                Some((0, true)) => {
                    *changes = Some((0, false));
                    last = true;
                }
                Some((0, false)) => return Ok(()),
                Some((left, _)) => *left -= 1,
            }
        }
        let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
        let is_watch = method == "GET" && asked(path, "watch").is_some();
        let is_refused = is_watch && world.lock().unwrap().is_expired(path);
        if is_watch && !is_refused && mood != Mood::Ill {
            return watch(stream, world, path);
        }
        let (code, answer) = match mood {
            Mood::Ill => (500, failure(500, "the storage is not there").to_string()),
            Mood::Other => (200, "<html>please log in</html>".to_owned()),
            Mood::Well | Mood::Slow(_) if is_refused => {
                (410, failure(410, "too old resource version").to_string())
            }
            Mood::Well | Mood::Away | Mood::Slow(_) | Mood::Deaf => {
                let (code, answer) = world.lock().unwrap().answer(method, path, &accept, body);
                (code, answer.to_string())
            }
        };
        if last || mood == Mood::Deaf && is_change {
            return Ok(());
        }
        let date = world.lock().unwrap().date;
        let date = if date.is_empty() { String::new() } else { format!("date: {date}\r\n") };
        let mut stream = stream;
        write!(
            stream,
            "HTTP/1.1 {code} X\r\n{date}content-type: application/json\r\ncontent-length: {}\r\n\r\n{answer}",
            answer.len()
        )?;
    }
}

/// What a request asks for under a name.
fn asked<'a>(path: &'a str, name: &str) -> Option<&'a str> {
    let pairs = path.split_once('?').map_or("", |(_, query)| query).split('&');
    pairs.filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == name).map(|(_, value)| value)
}

/// Tells what changes in a collection, until it is ended, the server is away, or what is asked for is forgotten.
fn watch(mut stream: &TcpStream, world: &Mutex<World>, path: &str) -> std::io::Result<()> {
    let mut from: u64 = asked(path, "resourceVersion").and_then(|text| text.parse().ok()).unwrap_or_default();
    let all = path.split('?').next().unwrap();
    let begun = world.lock().unwrap().ended;
    write!(stream, "HTTP/1.1 200 X\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n")?;
    for turn in 1.. {
        let mut told = String::new();
        {
            let world = world.lock().unwrap();
            if world.stopped || world.mood == Mood::Away {
                return Ok(());
            }
            if world.ended > begun {
                return stream.write_all(b"0\r\n\r\n");
            }
            let mut tell = |kind: &str, object: &Value| {
                told += &format!("{}\n", json!({ "type": kind, "object": object }))
            };
            if from < world.forgotten {
                tell("ERROR", &failure(410, "too old resource version"));
            }
            for (version, kind, at, object) in &world.changed {
                if *version > from && is_below(all, at) {
                    tell(kind, object);
                }
            }
            from = from.max(world.version);
            // As often as the real one in a minute.
            if turn % 20 == 0 {
                tell(
                    "BOOKMARK",
                    &json!({ "kind": "X", "apiVersion": "v1", "metadata": { "resourceVersion": from.to_string() } }),
                );
            }
        }
        if !told.is_empty() {
            write!(stream, "{:x}\r\n{told}\r\n", told.len())?;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// Whether an object's path is one of a collection, or of that in any namespace.
fn is_below(all: &str, at: &str) -> bool {
    let is_right_below = |rest: &str| rest.rfind('/') == Some(0);
    if at.strip_prefix(all).is_some_and(is_right_below) {
        return true;
    }
    let Some((group, kind)) = all.rsplit_once('/') else { return false };
    let rest = at.strip_prefix(group).and_then(|rest| rest.strip_prefix("/namespaces/"));
    rest.and_then(|rest| rest.split_once('/'))
        .is_some_and(|(_, rest)| rest.strip_prefix(kind).is_some_and(is_right_below))
}

fn failure(code: u16, why: &str) -> Value {
    json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "message": why, "reason": "X", "code": code })
}

impl World {
    /// Puts an object at a path, as a new version; what the server itself sets is set.
    pub(crate) fn put(&mut self, path: &str, mut object: Value) {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        if object["metadata"]["uid"].is_null() {
            object["metadata"]["uid"] = json!(format!("uid-{}", self.version));
        }
        let is_leaving = !object["metadata"]["deletionTimestamp"].is_null();
        let is_held = object["metadata"]["finalizers"].as_array().is_some_and(|held| !held.is_empty());
        if is_leaving && !is_held {
            self.remove(path);
        } else {
            let kind = if self.objects.contains_key(path) { "MODIFIED" } else { "ADDED" };
            self.changed.push((self.version, kind, path.to_owned(), object.clone()));
            self.objects.insert(path.to_owned(), object);
        }
    }

    /// Takes an object away, for good.
    pub(crate) fn remove(&mut self, path: &str) {
        if let Some(mut object) = self.objects.remove(path) {
            self.version += 1;
            object["metadata"]["resourceVersion"] = json!(self.version.to_string());
            self.changed.push((self.version, "DELETED", path.to_owned(), object));
        }
    }

    /// Ends all watches, which may go on where they were.
    pub(crate) fn end_watches(&mut self) {
        self.ended += 1;
    }

    /// From now on a watch of what is forgotten is refused as such.
    pub(crate) fn refuse_expired(&mut self) {
        self.refuses_expired = true;
    }

    /// The next so many objects whose path has this in it are not made: it may not be done.
    pub(crate) fn refuse_posts(&mut self, part: &str, times: usize) {
        self.refused_posts = Some((part.to_owned(), times));
    }

    /// Ends all watches, and forgets what they would go on from.
    pub(crate) fn forget(&mut self) {
        self.changed.clear();
        self.version += 1;
        self.forgotten = self.version;
        self.ended += 1;
    }

    fn is_expired(&self, path: &str) -> bool {
        let from = asked(path, "resourceVersion").and_then(|text| text.parse().ok()).unwrap_or(0_u64);
        self.refuses_expired && from < self.forgotten
    }

    /// The answer to a request.
    pub(crate) fn answer(&mut self, method: &str, path: &str, accept: &str, body: Value) -> (u16, Value) {
        let whole = path;
        let path = path.split('?').next().unwrap();
        if self.forbidden.iter().any(|end| path.ends_with(end)) {
            return (403, failure(403, "it is forbidden: the caller cannot read it"));
        }
        if path.ends_with("/tokenreviews") {
            return (201, self.review(&body));
        }
        let there = self.objects.get(path).cloned();
        if let Some((part, times)) = &mut self.refused_posts
            && (method, path.contains(part.as_str()), *times > 0) == ("POST", true, true)
        {
            *times -= 1;
            return (403, failure(403, "it may not be made"));
        }
        match (method, there) {
            ("POST", _) => {
                let name = body["metadata"]["name"].as_str().unwrap_or_default();
                let at = format!("{path}/{name}");
                if self.objects.contains_key(&at) {
                    return (409, failure(409, "already exists"));
                }
                self.put(&at, body.clone());
                (201, self.objects.get(&at).cloned().unwrap_or(body))
            }
            ("GET", Some(object)) => (200, object),
            ("GET", None) if path.rsplit('/').next().is_some_and(|last| last.ends_with('s')) => {
                (200, self.list(whole, accept.contains("PartialObjectMetadataList")))
            }
            ("PUT", Some(before)) => {
                let expected = &body["metadata"]["resourceVersion"];
                if !expected.is_null() && *expected != before["metadata"]["resourceVersion"] {
                    return (409, failure(409, "the object has been modified"));
                }
                self.put(path, body.clone());
                (200, self.objects.get(path).cloned().unwrap_or(body))
            }
            ("PATCH", Some(mut object)) => {
                merge(&mut object, &body);
                self.put(path, object.clone());
                (200, self.objects.get(path).cloned().unwrap_or(object))
            }
            ("DELETE", Some(mut object)) => {
                let wanted = &body["preconditions"]["uid"];
                if !wanted.is_null() && *wanted != object["metadata"]["uid"] {
                    return (409, failure(409, "the uid is another"));
                }
                object["metadata"]["deletionTimestamp"] = json!("2026-11-22T00:00:00Z");
                self.put(path, object.clone());
                (200, object)
            }
            _ => (404, failure(404, "not found")),
        }
    }

    /// What lies right below a path, from `continue` on, `limit` at most.
    fn list(&self, path: &str, only_metadata: bool) -> Value {
        let from = asked(path, "continue").and_then(|text| text.parse().ok()).unwrap_or(0_usize);
        let limit = asked(path, "limit").and_then(|text| text.parse().ok()).unwrap_or(usize::MAX);
        let collection = path.split('?').next().unwrap();
        let all: Vec<&String> = self.objects.keys().filter(|at| is_below(collection, at)).collect();
        let shown = |at: &&String| {
            let object = &self.objects[*at];
            if only_metadata { json!({ "metadata": object["metadata"] }) } else { object.clone() }
        };
        let items: Vec<Value> = all.iter().skip(from).take(limit).map(shown).collect();
        let next = from.saturating_add(limit);
        let next = if next < all.len() { next.to_string() } else { String::new() };
        json!({ "items": items, "metadata": { "continue": next, "resourceVersion": self.version.to_string() } })
    }

    fn review(&self, review: &Value) -> Value {
        let token = review["spec"]["token"].as_str().unwrap_or_default();
        let invalid = || json!({ "authenticated": false, "error": "[invalid bearer token]" });
        let mut answer = review.clone();
        answer["status"] = self.tokens.get(token).cloned().unwrap_or_else(invalid);
        answer
    }
}

/// A JSON merge patch.
fn merge(object: &mut Value, change: &Value) {
    let Some(change) = change.as_object() else { return *object = change.clone() };
    if !object.is_object() {
        *object = json!({});
    }
    for (key, value) in change {
        if value.is_null() {
            object.as_object_mut().unwrap().remove(key);
        } else {
            merge(&mut object[key.as_str()], value);
        }
    }
}
