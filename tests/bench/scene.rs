//! The places of a run, and the drivers in them.
//!
//! Owns: everything that is made on the host, and its removal on every path but a signal; `tests/bench.sh` clears after those.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::Outcome;
use crate::client::{Client, Shape, Spot};
use crate::host::{self, run};

/// The program that is measured.
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_rockpool");
/// Most promises here are never used: the pools need not hold them.
const OVERCOMMIT: &str = "overcommit = 64.0";
const PATIENCE: Duration = Duration::from_secs(30);
const MIB: i64 = 1 << 20;

/// The directories of a run.
pub(crate) struct Scene {
    /// On disk: pools.
    disk: TempDir,
    /// In memory, as /run is: state, sockets, logs.
    memory: TempDir,
}

/// One driver and its pools.
pub(crate) struct Site {
    program: PathBuf,
    disk: PathBuf,
    memory: PathBuf,
    driver: Option<Child>,
    client: Option<Client>,
    present: usize,
}

impl Scene {
    /// Fresh directories below TMPDIR and /dev/shm.
    pub(crate) fn new() -> Outcome<Scene> {
        if !rustix::process::geteuid().is_root() {
            return Err("it mounts filesystems, which only root may: run 'sudo make bench'".into());
        }
        let base = std::env::var_os("TMPDIR").map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from);
        Ok(Scene {
            disk: tempfile::Builder::new().prefix("rp-bench.").tempdir_in(base)?,
            memory: tempfile::Builder::new().prefix("rp-bench.").tempdir_in("/dev/shm")?,
        })
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        clear(self.disk.path());
    }
}

impl Site {
    /// Its pools: of images with so many GiB, and of directories with one.
    pub(crate) fn new(scene: &Scene, (name, program): (&str, &Path), gib: u32) -> Outcome<Site> {
        let (disk, memory) = (scene.disk.path().join(name), scene.memory.path().join(name));
        std::fs::create_dir_all(&memory)?;
        std::fs::create_dir_all(disk.join("kubelet"))?;
        let program = program.to_owned();
        let site = Site { program, disk, memory, driver: None, client: None, present: 0 };
        site.init("images", &["--kind", "image"], gib)?;
        site.init("dirs", &["--kind", "directory", "--quota", "none"], 1)?;
        let written = std::fs::read_to_string(site.config())?;
        let lines = written.lines().filter(|line| !line.starts_with("overcommit"));
        let lines = lines.flat_map(|line| match line {
            "[[pool]]" => vec![line, OVERCOMMIT],
            other => vec![other],
        });
        std::fs::write(site.config(), lines.collect::<Vec<_>>().join("\n") + "\n")?;
        Ok(site)
    }

    fn init(&self, pool: &str, kind: &[&str], gib: u32) -> Outcome<()> {
        let mut command = Command::new(&self.program);
        command.args(["pool", "init", pool]).args(kind).arg("--file");
        command.arg(self.disk.join(format!("{pool}.img"))).args(["--size", &format!("{gib}GiB")]);
        command.arg("--config").arg(self.config()).arg("--mount-parent").arg(self.disk.join("pools"));
        run(&mut command).map(drop)
    }

    fn config(&self) -> PathBuf {
        self.disk.join("pools.toml")
    }

    fn socket(&self) -> PathBuf {
        self.memory.join("run/csi.sock")
    }

    /// Where a pool is mounted, as its entry says.
    pub(crate) fn pool(&self, shape: Shape) -> Outcome<PathBuf> {
        let pools = rockpool::config::read(&self.config())?;
        let pool = pools.into_iter().find(|pool| pool.setup.name == shape.pool());
        Ok(pool.ok_or("the pool is not in the pool file")?.setup.path)
    }

    /// A directory of its own in memory.
    pub(crate) fn state(&self, of: &str) -> PathBuf {
        self.memory.join(of)
    }

    /// The root below which it mounts.
    pub(crate) fn kubelet(&self) -> PathBuf {
        self.disk.join("kubelet")
    }

    /// Where so many volumes can be used at once.
    pub(crate) fn spots(&self, of: &str, many: usize) -> Outcome<Vec<Spot>> {
        let spot = |number: usize| {
            let base = self.kubelet().join(format!("{of}-{number}"));
            std::fs::create_dir_all(base.join("stage"))?;
            std::fs::create_dir_all(base.join("pod"))?;
            Ok(Spot { staging: base.join("stage"), target: base.join("pod/mount") })
        };
        (0..many).map(spot).collect()
    }

    /// Starts the driver; how long it took until it was ready.
    pub(crate) async fn start(&mut self) -> Outcome<Duration> {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.memory.join("log"))?;
        let mut command = Command::new(&self.program);
        command.arg("standalone").arg("--config").arg(self.config());
        command.arg("--endpoint").arg(format!("unix://{}", self.socket().display()));
        command.args(["--node-id", "bench"]).arg("--kubelet-root").arg(self.kubelet());
        command.arg("--state-dir").arg(self.memory.join("state"));
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let began = Instant::now();
        self.driver = Some(command.spawn()?);
        while began.elapsed() < PATIENCE {
            if let Some(driver) = &mut self.driver
                && let Some(status) = driver.try_wait()?
            {
                return Err(format!("the driver ended with {status}: {}", self.log_end()).into());
            }
            if let Ok(client) = Client::connect(&self.socket()).await
                && client.ready().await
            {
                self.client = Some(client);
                return Ok(began.elapsed());
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Err(format!("the driver is not ready after {PATIENCE:?}: {}", self.log_end()).into())
    }

    fn log_end(&self) -> String {
        let log = std::fs::read_to_string(self.memory.join("log")).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(5)..].join("\n")
    }

    /// A connection that is there already.
    pub(crate) fn client(&self) -> Outcome<Client> {
        Ok(self.client.clone().ok_or("the driver does not run")?)
    }

    /// Connections of their own for so many callers.
    pub(crate) async fn clients(&self, many: usize) -> Outcome<Vec<Client>> {
        let mut clients = Vec::new();
        for _ in 0..many {
            clients.push(Client::connect(&self.socket()).await?);
        }
        Ok(clients)
    }

    /// Ends the driver by SIGTERM.
    pub(crate) fn stop(&mut self) -> Outcome<()> {
        self.client = None;
        let Some(mut driver) = self.driver.take() else { return Ok(()) };
        let pid = i32::try_from(driver.id())?;
        let pid = rustix::process::Pid::from_raw(pid).ok_or("the driver has no pid")?;
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        let status = driver.wait()?;
        if status.success() { Ok(()) } else { Err(format!("the driver ended with {status}").into()) }
    }

    /// The memory that is resident for the driver, in MiB.
    pub(crate) fn resident(&self) -> Outcome<f64> {
        let pid = self.driver.as_ref().ok_or("the driver does not run")?.id();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib: f64 = line.and_then(|l| l.split_whitespace().next()).ok_or("no VmRSS")?.parse()?;
        Ok(kib / 1024.0)
    }

    /// Makes block volumes of 1 MiB until there are so many.
    pub(crate) async fn populate(&mut self, many: usize) -> Outcome<()> {
        let clients = self.clients(8).await?;
        let from = self.present;
        let mut all = tokio::task::JoinSet::new();
        for (worker, client) in clients.into_iter().enumerate() {
            all.spawn(async move {
                for number in (from..many).skip(worker).step_by(8) {
                    client.create(&format!("present-{number}"), Shape::Block, MIB).await?;
                }
                Outcome::Ok(())
            });
        }
        while let Some(ended) = all.join_next().await {
            ended??;
        }
        self.present = many;
        Ok(())
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if let Some(mut driver) = self.driver.take() {
            let _ = driver.kill();
            let _ = driver.wait();
        }
        clear(&self.disk);
    }
}

fn clear(below: &Path) {
    host::clear(below).iter().for_each(|error| eprintln!("bench: {error}"));
}
