//! Three nodes and two controllers, which the oracle takes for one node with three pools.
//!
//! Owns: the parts, where each has its files, and which node has which pool. Mounts belong to the namespace of the whole program,
//! not to the drivers, and all nodes share one directory of kubelet's: where a volume is used does not depend on where it lies.
//! Never: breaks anything; that is `faults`.
//!
//! Volumes are named `v0`, `v1`, …: of four that follow each other three must be on the first, second and third node, and the fourth
//! may be on any.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rockpool::os::mount;
use rockpool::proto::csi;
use serde_json::Value;

use crate::Outcome;
use crate::devices::Owner;
pub(crate) use crate::ground::Ground;
use crate::host::{self, run};
use crate::keys::Authority;
use crate::net::Port;
use crate::part::Part;
use crate::requests::Spot;
use crate::wire::Wire;

/// How many nodes there are.
pub(crate) const NODES: usize = 3;
/// How many controllers.
pub(crate) const CONTROLLERS: usize = 2;
/// Where nodes connect.
const LISTEN: u16 = 7430;
/// The key of the nodes.
pub(crate) const TOPOLOGY: &str = "topology.csi.rockpool.dev/node";
const POOL: &str = "3GiB";
/// A process serves within this time.
const PATIENCE: Duration = Duration::from_secs(30);
/// What was healed is whole again within this time: a node that heard nothing gives up after 30 s, and dials again 4 s later.
const WHOLE: Duration = Duration::from_secs(60);

/// The node of this number that a volume of this name must be on; past the last one: any. None if it is no such name.
pub(crate) fn home(name: &str) -> Option<usize> {
    let number: usize = name.strip_prefix('v')?.parse().ok()?;
    Some(number % (NODES + 1))
}

/// A node as a request names it.
pub(crate) fn topology(node: &str) -> csi::Topology {
    csi::Topology { segments: [(TOPOLOGY.to_owned(), node.to_owned())].into() }
}

/// A pool and its node.
struct Pool {
    id: String,
    root: PathBuf,
    disk: PathBuf,
    owner: Owner,
}

/// The cluster.
pub(crate) struct Node {
    pub(crate) ground: Ground,
    pub(crate) wire: Wire,
    /// The nodes, then the controllers.
    pub(crate) parts: Vec<Part>,
    pools: Vec<Pool>,
    authority: Authority,
    dir: PathBuf,
}

impl Node {
    /// All of it below `base`; nothing is started yet.
    pub(crate) fn new(base: &Path, binary: &Path) -> Outcome<Node> {
        let dir = base.to_owned();
        std::fs::create_dir_all(dir.join("kubelet"))?;
        let mut parts = Vec::new();
        for (number, name) in (1..).zip(["n1", "n2", "n3", "c1", "c2"]) {
            parts.push(Part::new(&dir, name, Port::new(name, number)?, binary)?);
        }
        std::fs::write(dir.join("nodes"), "n1\nn2\nn3\n")?;
        let (ground, wire, authority) = (Ground::ImageOnXfs, Wire::default(), Authority::new()?);
        let mut cluster = Node { ground, wire, parts, pools: Vec::new(), authority, dir };
        for node in 0..NODES {
            let pool = cluster.make_pool(node)?;
            cluster.wire.exchange.has(node, &pool.id);
            cluster.pools.push(pool);
        }
        for node in 0..NODES {
            cluster.parts[node].words(cluster.node_words(node)?);
        }
        for controller in NODES..NODES + CONTROLLERS {
            cluster.parts[controller].words(cluster.controller_words(controller)?);
        }
        Ok(cluster)
    }

    fn make_pool(&self, node: usize) -> Outcome<Pool> {
        let (part, disk) = (&self.parts[node], self.parts[node].file("disk"));
        let mut init = Command::new(part.binary());
        init.args(["pool", "init", "images", "--kind", "image", "--size", POOL, "--sparse"]);
        init.arg("--file").arg(&disk).arg("--mount-parent").arg(part.file("pools"));
        run(init.arg("--config").arg(part.file("pools.toml")))?;
        let pools = rockpool::config::read(&part.file("pools.toml"))?;
        let root = pools.first().ok_or("the pool file is empty")?.setup.path.clone();
        let marker: Value = serde_json::from_slice(&std::fs::read(root.join("pool.json"))?)?;
        let id = marker["id"].as_str().ok_or("the pool's marker has no id")?.to_owned();
        // For the script around this program, in case it is killed.
        std::fs::write(part.file("pool-id"), format!("{id}\n"))?;
        Ok(Pool { owner: Owner::of(&id), id, root, disk })
    }

    fn node_words(&self, node: usize) -> Outcome<Vec<String>> {
        let part = &self.parts[node];
        let file = |name: &str| part.file(name).display().to_string();
        let mut words: Vec<String> =
            ["node", "--node-id", &part.name, "--pool-kinds", "image"].map(str::to_owned).into();
        for controller in &self.parts[NODES..] {
            words.extend(["--controller".to_owned(), format!("{}:{LISTEN}", controller.port.address())]);
        }
        words.extend(["--config".to_owned(), file("pools.toml"), "--state-dir".to_owned(), file("state")]);
        words.extend(["--endpoint".to_owned(), format!("unix://{}", part.socket().display())]);
        words.extend(["--kubelet-root".to_owned(), self.kubelet().display().to_string()]);
        words.extend(["--transfer-address".to_owned(), part.port.address().to_string()]);
        // So slowly that a copy takes a second, in which something can happen.
        words.extend(["--transfer-rate".to_owned(), (256 << 10).to_string()]);
        words.extend(self.authority.node(&part.file("keys"), &part.name)?);
        Ok(words)
    }

    fn controller_words(&self, controller: usize) -> Outcome<Vec<String>> {
        let part = &self.parts[controller];
        let mut words: Vec<String> = ["controller", "--pool-kinds", "image"].map(str::to_owned).into();
        words.extend(["--listen".to_owned(), format!("{}:{LISTEN}", part.port.address())]);
        words.extend(["--nodes".to_owned(), self.own("nodes").display().to_string()]);
        words.extend(["--endpoint".to_owned(), format!("unix://{}", part.socket().display())]);
        words.extend(self.authority.controller(&part.file("keys"))?);
        Ok(words)
    }

    /// Stops two nodes, puts the pool of the first into the second, and starts that; or puts it back, and starts both.
    pub(crate) async fn move_pool(&self, pool: usize, (from, to): (usize, usize)) -> Outcome<()> {
        let config = |node: usize| self.parts[node].file("pools.toml");
        for node in [from, to] {
            self.terminate_one(node)?;
        }
        let back = to == pool;
        let host = config(if back { from } else { to });
        let moved = std::fs::read_to_string(config(pool))?.replace("\"images\"", "\"moved\"");
        let all = std::fs::read_to_string(&host)?;
        let mut unmount = Command::new(self.parts[from].binary());
        unmount.args(["pool", "unmount", if back { "moved" } else { "images" }, "--config"]);
        run(unmount.arg(config(from)))?;
        std::fs::write(&host, if back { all.replace(&moved, "") } else { all + &moved })?;
        self.wire.exchange.has(to, &self.pools[pool].id);
        self.start_one(to).await?;
        if back {
            self.start_one(from).await?;
        }
        self.converged().await
    }

    /// Takes the disk of the first node out of one that runs, and puts it into another. Only one that does not know the pool is started
    /// anew.
    pub(crate) async fn move_disk(&self, (from, to): (usize, usize)) -> Outcome<()> {
        let disk =
            |node: usize| if node == 0 { self.pools[0].disk.clone() } else { self.parts[node].file("moved") };
        let root = |node: usize| {
            if node == 0 { self.pools[0].root.clone() } else { self.parts[node].file("pools/moved") }
        };
        std::fs::rename(disk(from), disk(to))?;
        run(Command::new("umount").arg("-l").arg(root(from)))?;
        self.wire.exchange.has(to, &self.pools[0].id);
        if to == 0 {
            return Ok(());
        }
        let text = |path: PathBuf| path.display().to_string();
        let entry = std::fs::read_to_string(self.parts[0].file("pools.toml"))?
            .replace("\"images\"", "\"moved\"")
            .replace(&text(disk(0)), &text(disk(to)))
            .replace(&text(root(0)), &text(root(to)));
        let own = std::fs::read_to_string(self.parts[to].file("pools.toml"))?;
        self.terminate_one(to)?;
        std::fs::write(self.parts[to].file("pools.toml"), own + &entry)?;
        self.start_one(to).await
    }

    /// Takes the pool of a disk that is back at the first node out of the file of another.
    pub(crate) async fn forget_disk(&self, node: usize) -> Outcome<()> {
        let path = self.parts[node].file("pools.toml");
        let all = std::fs::read_to_string(&path)?;
        let own: Vec<&str> = all.split_inclusive("[[pool]]").collect();
        let kept = own.iter().take(2).copied().collect::<String>();
        std::fs::write(&path, kept.trim_end_matches("[[pool]]"))?;
        self.terminate_one(node)?;
        self.start_one(node).await?;
        self.converged().await
    }

    /// Another process that says it is this node, at the same end of the same cable, with a pool in memory.
    pub(crate) fn second_process(&self, node: usize) -> Outcome<Part> {
        let first = &self.parts[node];
        let part =
            Part::new(&self.dir, &format!("{}-again", first.name), first.port.clone(), first.binary())?;
        part.environment(first.environment_now());
        std::fs::write(part.file("pools.toml"), "[[pool]]\nname = \"images\"\nkind = \"sim\"\n")?;
        // Its own directories, and the certificate of the first.
        let own = first.file("").display().to_string();
        let others = part.file("").display().to_string();
        let keys = first.file("keys").display().to_string();
        let is_own = |word: &String| word.contains(&own) && !word.contains(&keys);
        let words = first.words_now().into_iter();
        part.words(
            words.map(|word| if is_own(&word) { word.replace(&own, &others) } else { word }).collect(),
        );
        Ok(part)
    }

    /// Where a volume of this name is to be.
    pub(crate) fn arrange(&self, request: &mut csi::CreateVolumeRequest) {
        // A copy of what lies on another node is sent there.
        let nodes = match home(&request.name) {
            Some(node) if node < NODES => &self.parts[node..=node],
            Some(_) | None => &self.parts[..NODES],
        };
        let topology =
            |part: &Part| csi::Topology { segments: [(TOPOLOGY.to_owned(), part.name.clone())].into() };
        let requisite = nodes.iter().map(topology).collect();
        request.accessibility_requirements =
            Some(csi::TopologyRequirement { requisite, preferred: Vec::new() });
    }

    /// Whether several nodes may have this name, which nobody prevents but for one that asks them one after the other.
    pub(crate) fn may_be_twice(&self, name: &str) -> bool {
        home(name).is_none_or(|home| home == NODES)
    }

    pub(crate) fn pools(&self) -> Vec<&Path> {
        self.pools.iter().map(|pool| pool.root.as_path()).collect()
    }

    pub(crate) fn pids(&self) -> Vec<u32> {
        self.parts.iter().filter_map(Part::pid).collect()
    }

    pub(crate) fn kubelet(&self) -> PathBuf {
        self.dir.join("kubelet")
    }

    pub(crate) fn own(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// No disk is cut from its power here.
    pub(crate) fn is_dark(&self) -> bool {
        false
    }

    pub(crate) fn is_cut(&self) -> bool {
        false
    }

    pub(crate) fn spot(&self, name: &str) -> Outcome<Spot> {
        let base = self.kubelet().join(name);
        std::fs::create_dir_all(base.join("stage"))?;
        std::fs::create_dir_all(base.join("pod"))?;
        Ok(Spot { staging: base.join("stage"), target: base.join("pod/mount") })
    }

    /// Starts what does not run, and waits until every part knows every other; how long that took.
    pub(crate) async fn start(&self) -> Outcome<Duration> {
        let began = Instant::now();
        self.parts.iter().try_for_each(Part::spawn)?;
        for part in 0..self.parts.len() {
            self.connected(part).await?;
        }
        self.converged().await?;
        Ok(began.elapsed())
    }

    /// Starts a part, if it does not run.
    pub(crate) async fn start_one(&self, part: usize) -> Outcome<()> {
        self.parts[part].spawn()?;
        self.connected(part).await
    }

    /// Connects to the socket of a part that was started.
    async fn connected(&self, number: usize) -> Outcome<()> {
        let (part, exchange) = (&self.parts[number], &self.wire.exchange);
        if exchange.to(number).is_some() {
            return Ok(());
        }
        let (began, admin) = (Instant::now(), (number < NODES).then(|| part.admin()));
        while exchange.connect(number, &part.socket(), admin.as_deref()).await.is_err() {
            if let Some(end) = part.ended()? {
                return Err(format!("{} ended with {end}: {}", part.name, part.said_last()).into());
            }
            if began.elapsed() > PATIENCE {
                return Err(format!("{} does not serve: {}", part.name, part.said_last()).into());
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Ok(())
    }

    /// Waits until each controller knows each node that runs; nothing else may be needed for that.
    pub(crate) async fn converged(&self) -> Outcome<()> {
        let began = Instant::now();
        for controller in NODES..NODES + CONTROLLERS {
            loop {
                let missing = self.unknown_to(controller).await;
                let Some(missing) = missing else { break };
                if began.elapsed() > WHOLE {
                    let said = self.parts[controller].said_last();
                    let name = &self.parts[controller].name;
                    return Err(
                        format!("{name} does not know all nodes after {WHOLE:?}: {missing}: {said}").into()
                    );
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        Ok(())
    }

    /// Why a controller cannot do all that it could.
    async fn unknown_to(&self, controller: usize) -> Option<String> {
        use csi::controller_client::ControllerClient;
        let Some(way) = self.wire.exchange.to(controller) else { return Some("it does not run".to_owned()) };
        let mut client = ControllerClient::new(way.channel);
        let second = Duration::from_secs(1);
        for node in self.parts[..NODES].iter().filter(|node| node.pid().is_some()) {
            let accessible_topology = Some(topology(&node.name));
            let request = csi::GetCapacityRequest { accessible_topology, ..Default::default() };
            match tokio::time::timeout(second, client.get_capacity(request)).await {
                Ok(Ok(answer)) if answer.get_ref().available_capacity > 0 => {}
                other => return Some(format!("{}: {other:?}", node.name)),
            }
        }
        let request = csi::ListVolumesRequest { max_entries: 1, ..Default::default() };
        match tokio::time::timeout(second, client.list_volumes(request)).await {
            Ok(Ok(_)) => None,
            other => Some(format!("no list: {other:?}")),
        }
    }

    /// Ends a part by SIGKILL, at once.
    pub(crate) fn kill(&self, part: usize) {
        self.parts[part].kill();
        self.wire.exchange.cut(part);
    }

    /// Ends every part by SIGTERM, the controllers first.
    pub(crate) fn terminate(&self) -> Outcome<()> {
        for part in (0..self.parts.len()).rev() {
            self.terminate_one(part)?;
        }
        Ok(())
    }

    pub(crate) fn terminate_one(&self, part: usize) -> Outcome<()> {
        let ended = self.parts[part].terminate();
        self.wire.exchange.cut(part);
        ended
    }

    /// Whether a part has ended that nobody has ended.
    pub(crate) fn ended(&self) -> Outcome<Option<String>> {
        for part in &self.parts {
            if let Some(end) = part.ended()? {
                return Ok(Some(format!("{} ended by itself with {end}: {}", part.name, part.said_last())));
            }
        }
        Ok(None)
    }

    /// Whether any controller has ever logged this.
    pub(crate) fn is_reported(&self, words: &[&str]) -> bool {
        let has = |line: &str| words.iter().all(|word| line.contains(word));
        self.parts[NODES..].iter().any(|part| part.said().lines().any(has))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        for part in 0..self.parts.len() {
            self.kill(part);
            self.parts[part].port.remove();
        }
        for _ in 0..100 {
            host::clear(&self.kubelet());
            for pool in &self.pools {
                pool.owner.detach_all(&pool.disk);
            }
            if host::clear(&self.dir).is_empty() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let left: Vec<_> = mount::table()
            .unwrap_or_default()
            .into_iter()
            .filter(|it| it.point.starts_with(&self.dir))
            .collect();
        eprintln!("cluster: left mounted: {left:?}");
    }
}
