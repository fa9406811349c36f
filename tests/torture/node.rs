//! A node: a pool, a kubelet root and a driver that dies and comes back.
//!
//! Owns: everything that is made on the host, and its removal. Mounts belong to the namespace of the whole program, not to
//! the driver: they survive its death as on a node, and go with the program whatever happens to it. Never: looks inside the pool.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rockpool::os::{fs, mount};
use rockpool::proto::csi;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::Outcome;
use crate::devices::Owner;
use crate::disk::{Disk, Loss, Toll};
pub(crate) use crate::ground::Ground;
use crate::host::{self, run};
use crate::program::{Program, Start};
use crate::requests::Spot;
use crate::wire::Wire;

const PATIENCE: Duration = Duration::from_secs(30);
/// A power cut waits so long for writes that it can take.
const STALL: Duration = Duration::from_millis(60);

/// How the driver ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// SIGKILL.
    Kill,
    /// The pool's filesystem stops, then the driver, then everything is unmounted.
    PowerCut,
    /// The same, and the disk below loses what was not flushed to it.
    LostWrites(Loss),
}

impl Fault {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Fault::Kill => "kill",
            Fault::PowerCut => "power cut",
            Fault::LostWrites(_) => "power cut with lost writes",
        }
    }
}

/// One node.
pub(crate) struct Node {
    pub(crate) ground: Ground,
    pub(crate) wire: Wire,
    pub(crate) program: Program,
    dir: PathBuf,
    pool: PathBuf,
    /// Whose loop devices are the pool's, once there is a pool.
    owner: Option<Owner>,
    /// What the pool lies on where its writes can get lost.
    disk: Option<Disk>,
    /// Whether that disk has no power.
    dark: AtomicBool,
}

impl Node {
    /// A fresh pool below `base`, in a plain file. The driver is not started yet.
    pub(crate) fn new(base: &Path, ground: Ground, binary: &Path) -> Outcome<Node> {
        Node::with(base, (ground, binary), None)
    }

    /// The same on a disk whose writes can get lost.
    pub(crate) fn on_disk(base: &Path, ground: Ground, binary: &Path, seed: u64) -> Outcome<Node> {
        let disk = Disk::new(&base.join(ground.name()).join("below"), seed)?;
        Node::with(base, (ground, binary), Some(disk))
    }

    fn with(base: &Path, (ground, binary): (Ground, &Path), disk: Option<Disk>) -> Outcome<Node> {
        let dir = base.join(ground.name());
        std::fs::create_dir_all(dir.join("kubelet"))?;
        let mut node = Node {
            ground,
            wire: Wire::default(),
            program: Program::new(binary, &dir),
            dir,
            pool: PathBuf::new(),
            owner: None,
            disk,
            dark: AtomicBool::new(false),
        };
        node.make_pool()?;
        let pools = rockpool::config::read(&node.program.config())?;
        node.pool = pools.first().ok_or("the pool file is empty")?.setup.path.clone();
        let marker: Value = serde_json::from_slice(&std::fs::read(node.pool.join("pool.json"))?)?;
        let id = marker["id"].as_str().ok_or("the pool's marker has no id")?;
        node.owner = Some(Owner::of(id));
        // For the script around this program, in case it is killed.
        std::fs::write(node.dir.join("pool-id"), format!("{id}\n"))?;
        Ok(node)
    }

    fn make_pool(&self) -> Outcome<()> {
        let mut init = Command::new(self.program.binary());
        init.args(["pool", "init", self.ground.pool(), "--config"]).arg(self.program.config());
        match self.ground {
            Ground::ImageOnXfs | Ground::ImageOnExt4 => init.args(["--kind", "image"]),
            Ground::Directory => init.args(["--kind", "directory", "--quota", "none"]),
        };
        if self.ground == Ground::ImageOnExt4 {
            let disk = std::fs::OpenOptions::new().create(true).append(true).open(self.disk())?;
            disk.set_len(3 << 30)?;
            // Few inodes, so that they can run out.
            run(Command::new("mkfs.ext4").args(["-q", "-F", "-b", "4096", "-N", "4096"]).arg(self.disk()))?;
            std::fs::create_dir_all(self.dir.join("pool"))?;
            self.mount_ext4()?;
            init.arg("--directory").arg(self.dir.join("pool"));
        } else {
            init.arg("--file").arg(self.disk()).args(["--size", "3GiB", "--sparse"]);
            init.arg("--mount-parent").arg(self.dir.join("pools"));
        }
        run(&mut init).map(drop)
    }

    fn mount_ext4(&self) -> Outcome<()> {
        if let Some(disk) = &self.disk {
            return disk.mount("ext4", &self.dir.join("pool"));
        }
        run(Command::new("mount").args(["-o", "loop"]).arg(self.disk()).arg(self.dir.join("pool"))).map(drop)
    }

    fn disk(&self) -> PathBuf {
        self.disk.as_ref().map_or_else(|| self.dir.join("disk"), Disk::file)
    }

    /// The disk below the pool, where it can be told to misbehave.
    pub(crate) fn below(&self) -> Option<&Disk> {
        self.disk.as_ref()
    }

    /// The worst that a loss of power can do here.
    pub(crate) fn darkness(&self, loss: Loss) -> Fault {
        if self.disk.is_some() { Fault::LostWrites(loss) } else { Fault::PowerCut }
    }

    /// Whether the power is cut: nobody is there any more to see what is read. A raw device shows zeros then where what was
    /// written had not got to the disk.
    pub(crate) fn is_cut(&self) -> bool {
        self.dark.load(Ordering::Relaxed)
    }

    /// Whether every error is due to a cut of power.
    pub(crate) fn is_dark(&self) -> bool {
        self.is_cut() || std::fs::File::open(self.pool.join("pool.json")).is_err()
    }

    /// What the power cuts took from the disk below.
    pub(crate) fn toll(&self) -> Toll {
        self.disk.as_ref().map(Disk::toll).unwrap_or_default()
    }

    /// The root of the pool.
    pub(crate) fn pool(&self) -> &Path {
        &self.pool
    }

    /// The roots of all pools.
    pub(crate) fn pools(&self) -> Vec<&Path> {
        vec![&self.pool]
    }

    /// The drivers that run.
    pub(crate) fn pids(&self) -> Vec<u32> {
        self.program.pid().into_iter().collect()
    }

    /// Says where a volume is to be, which matters where there are several nodes.
    pub(crate) fn arrange(&self, _request: &mut csi::CreateVolumeRequest) {}

    /// Whether there may be two volumes of a name, which one node knows how to prevent.
    pub(crate) fn may_be_twice(&self, _name: &str) -> bool {
        false
    }

    /// Below which everything is mounted for workloads.
    pub(crate) fn kubelet(&self) -> PathBuf {
        self.dir.join("kubelet")
    }

    /// A file of the tester's own.
    pub(crate) fn own(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Where the volume of this name is used.
    pub(crate) fn spot(&self, name: &str) -> Outcome<Spot> {
        let base = self.kubelet().join(name);
        std::fs::create_dir_all(base.join("stage"))?;
        std::fs::create_dir_all(base.join("pod"))?;
        Ok(Spot { staging: base.join("stage"), target: base.join("pod/mount") })
    }

    /// Starts the driver and waits; how long it took until it was ready.
    pub(crate) async fn start(&self) -> Outcome<Duration> {
        let began = Instant::now();
        self.program.spawn()?;
        match self.until_ready().await? {
            Start::Ready => Ok(began.elapsed()),
            Start::Stopped => Err("the driver stopped itself at its start".into()),
            Start::Died(how) => {
                Err(format!("the driver ended with {how}: {}", self.program.log_end()).into())
            }
        }
    }

    /// Connects to the driver, if it serves already.
    pub(crate) async fn connect(&self) -> bool {
        self.wire.exchange.connect((&self.program.socket(), &self.program.admin())).await.is_ok()
    }

    /// Waits for a driver that was spawned.
    pub(crate) async fn until_ready(&self) -> Outcome<Start> {
        let began = Instant::now();
        while began.elapsed() < PATIENCE {
            if let Some(end) = self.program.ended()? {
                return Ok(end);
            }
            if self.connect().await && self.wire.ready().await {
                return Ok(Start::Ready);
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Err(format!("the driver is not ready after {PATIENCE:?}: {}", self.program.log_end()).into())
    }

    /// Ends the driver by SIGKILL, at once.
    pub(crate) fn kill(&self) {
        self.program.kill();
        self.wire.exchange.cut();
    }

    /// Ends it by SIGTERM.
    pub(crate) fn terminate(&self) -> Outcome<()> {
        let ended = self.program.terminate();
        self.wire.exchange.cut();
        ended
    }

    /// Detaches every loop device on an image of the pool; says which there were.
    fn detach_all(&self) -> Vec<String> {
        self.owner.as_ref().map(|owner| owner.detach_all(&self.disk())).unwrap_or_default()
    }

    /// Does what a fault does to the driver and its disk. After a power cut call [`Node::reboot`] when all is quiet.
    pub(crate) fn strike(&self, fault: Fault) -> Outcome<()> {
        if let (Fault::LostWrites(_), Some(disk), None) = (fault, &self.disk, self.program.ended()?) {
            tokio::task::block_in_place(|| disk.stall(STALL));
        }
        if fault != Fault::Kill {
            // Stopped first: no answer may go out that a dead machine would not have given.
            if let Some(pid) =
                self.program.pid().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw)
            {
                kill_process(pid, Signal::STOP)?;
                while self.program.ended()?.is_none() {
                    std::thread::sleep(Duration::from_micros(100));
                }
            }
        }
        self.dark.store(fault != Fault::Kill, Ordering::Relaxed);
        match (fault, &self.disk) {
            (Fault::Kill, _) => {}
            (Fault::LostWrites(loss), Some(disk)) => drop(disk.cut(loss)?),
            (Fault::PowerCut | Fault::LostWrites(_), _) => {
                fs::cut_power(std::fs::File::open(&self.pool)?)?;
            }
        }
        self.kill();
        Ok(())
    }

    /// What a reboot does: mounts, devices and notes are gone; directories and files stay.
    pub(crate) async fn reboot(&self) -> Outcome<()> {
        let began = Instant::now();
        loop {
            let mut left = host::clear(&self.kubelet());
            left.extend(self.detach_all());
            let below = if self.ground == Ground::ImageOnExt4 {
                self.dir.join("pool")
            } else {
                self.dir.join("pools")
            };
            if left.is_empty() {
                left = host::clear(&below);
                // A device that shows the disk as it was must not be found by the next driver.
                if left.is_empty() && self.disk.as_ref().is_none_or(|disk| disk.is_free().unwrap_or(false)) {
                    break;
                }
                left.push("its disk is held by a loop device".to_owned());
            }
            if began.elapsed() > PATIENCE {
                return Err(format!("not unmounted after {PATIENCE:?}: {}", left.join("; ")).into());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let _ = std::fs::remove_dir_all(self.dir.join("state"));
        self.dark.store(false, Ordering::Relaxed);
        if self.ground == Ground::ImageOnExt4 { self.mount_ext4() } else { Ok(()) }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // A thread that hangs on the disk would keep its driver from ending.
        self.disk.iter().for_each(Disk::heal);
        self.kill();
        // A frozen filesystem would hang whoever unmounts it.
        for mounted in mount::table().unwrap_or_default() {
            if mounted.point.starts_with(self.kubelet())
                && let Ok(root) = std::fs::File::open(&mounted.point)
            {
                let _ = fs::thaw(&root);
            }
        }
        for _ in 0..100 {
            host::clear(&self.kubelet());
            self.detach_all();
            if host::clear(&self.dir).is_empty() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        eprintln!("torture: left mounted below {}: {:?}", self.dir.display(), host::clear(&self.dir));
    }
}
