//! `rockpool standalone` over a pool of its own, and what a CO, a workload and an operator do with it.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};
use std::time::{Duration, Instant};

use rockpool::proto::csi;
use rockpool::proto::csi::controller_client::ControllerClient;
use rockpool::proto::csi::identity_client::IdentityClient;
use rockpool::proto::csi::node_client::NodeClient;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

pub(crate) const MIB: u64 = 1 << 20;

/// How setpriv takes CAP_SYS_RESOURCE from a program and from all that it starts.
const POWERLESS: [&str; 2] = ["--bounding-set=-sys_resource", "--inh-caps=-sys_resource"];

/// Whether a test runs in the guest; where it does not, it says SKIP. Written past the test harness, which hides what
/// passing tests say.
pub(crate) fn in_the_guest(test: &str) -> bool {
    let inside = std::env::var("GUEST_TEST").is_ok();
    if !inside {
        tell(&format!("SKIP rust::guest::{test}: needs a kernel with project quota: make test-guest"));
    }
    inside
}

/// A scratch disk of the guest.
pub(crate) fn disk(number: usize) -> String {
    let name = format!("VM_DISK{number}");
    std::env::var(&name).unwrap_or_else(|_| panic!("{name} is not set: see tests/guest/test.sh"))
}

/// Prints a line, also when the test passes.
pub(crate) fn tell(line: &str) {
    std::io::stderr().write_all(format!("\n{line}\n").as_bytes()).expect("stderr is open");
}

/// Which power the driver runs with.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Power {
    /// All that root has here.
    Full,
    /// As in a container without CAP_SYS_RESOURCE.
    NoSysResource,
}

/// `rockpool standalone` with one pool.
pub(crate) struct Driver {
    dir: tempfile::TempDir,
    process: Child,
    runtime: tokio::runtime::Runtime,
    channel: Channel,
    /// The pool is one that it mounted itself.
    mounted: bool,
}

impl Driver {
    /// Prepares the pool and starts; `place` is how `pool init` is told where.
    pub(crate) fn start(kind: &str, place: &[&str], power: Power) -> Driver {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let at = |name: &str| dir.path().join(name);
        for made in ["kubelet", "run"] {
            std::fs::create_dir(at(made)).expect("a directory of the test");
        }
        let config = at("rockpool.toml");
        run(rockpool(Power::Full)
            .args(["pool", "init", "guest", "--kind", kind])
            .args(place)
            .arg("--config")
            .arg(&config));
        let endpoint = format!("unix://{}", at("run/csi.sock").display());
        let process = rockpool(power)
            .args(["standalone", "--node-id", "guest", "--endpoint", &endpoint, "--config"])
            .arg(config)
            .arg("--kubelet-root")
            .arg(at("kubelet"))
            .arg("--state-dir")
            .arg(at("state"))
            .stderr(File::create(at("driver.log")).expect("a log"))
            .spawn()
            .expect("rockpool starts");
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let channel = {
            let _inside = runtime.enter();
            Endpoint::from_shared(endpoint).expect("an endpoint").connect_lazy()
        };
        let mounted = !place.contains(&"--directory");
        let mut driver = Driver { dir, process, runtime, channel, mounted };
        driver.wait_until_ready();
        driver
    }

    fn wait_until_ready(&mut self) {
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            let mut probe = IdentityClient::new(self.channel.clone());
            let answer = self.runtime.block_on(async { probe.probe(csi::ProbeRequest {}).await });
            if answer.as_ref().is_ok_and(|answer| answer.get_ref().ready == Some(true)) {
                return;
            }
            let ended = self.process.try_wait().expect("its status");
            assert!(ended.is_none(), "the driver ended before it was ready: {ended:?}");
            assert!(Instant::now() < end, "the driver does not become ready: {answer:?}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn controller(&self) -> ControllerClient<Channel> {
        ControllerClient::new(self.channel.clone())
    }

    fn node(&self) -> NodeClient<Channel> {
        NodeClient::new(self.channel.clone())
    }

    /// Creates, stages and publishes a volume.
    pub(crate) fn volume(&self, name: &str, size: u64, fs: &'static str) -> Published<'_> {
        let staging = self.dir.path().join("kubelet").join(format!("{name}-staging"));
        let target = self.dir.path().join("kubelet").join(format!("{name}-target"));
        std::fs::create_dir(&staging).expect("a staging directory");
        let request = csi::CreateVolumeRequest {
            name: name.into(),
            capacity_range: Some(range(size)),
            volume_capabilities: vec![capability(fs)],
            ..Default::default()
        };
        let id = self.runtime.block_on(async {
            let made = self.controller().create_volume(request).await.expect("create");
            made.into_inner().volume.expect("a volume").volume_id
        });
        let volume = Published { driver: self, id, fs, staging, target };
        volume.put_on();
        volume
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // Killed, not asked: how it ends by itself is tested elsewhere.
        let _ = self.process.kill();
        let _ = self.process.wait();
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.dir.path().join("driver.log")).unwrap_or_default();
            tell(&format!("the driver's log:\n{log}"));
            return; // What is mounted goes with the guest.
        }
        if self.mounted {
            let config = self.dir.path().join("rockpool.toml");
            run(rockpool(Power::Full).args(["pool", "unmount", "guest", "--config"]).arg(config));
        }
    }
}

/// A volume at its target.
pub(crate) struct Published<'a> {
    driver: &'a Driver,
    id: String,
    fs: &'static str,
    staging: PathBuf,
    pub(crate) target: PathBuf,
}

impl Published<'_> {
    /// Stages and publishes it.
    pub(crate) fn put_on(&self) {
        let stage = csi::NodeStageVolumeRequest {
            volume_id: self.id.clone(),
            staging_target_path: text(&self.staging),
            volume_capability: Some(capability(self.fs)),
            ..Default::default()
        };
        let publish = csi::NodePublishVolumeRequest {
            volume_id: self.id.clone(),
            staging_target_path: text(&self.staging),
            target_path: text(&self.target),
            volume_capability: Some(capability(self.fs)),
            ..Default::default()
        };
        self.driver.runtime.block_on(async {
            self.driver.node().node_stage_volume(stage).await.expect("stage");
            self.driver.node().node_publish_volume(publish).await.expect("publish");
        });
    }

    /// Unpublishes and unstages it.
    pub(crate) fn take_off(&self) {
        let unpublish =
            csi::NodeUnpublishVolumeRequest { volume_id: self.id.clone(), target_path: text(&self.target) };
        let unstage = csi::NodeUnstageVolumeRequest {
            volume_id: self.id.clone(),
            staging_target_path: text(&self.staging),
        };
        self.driver.runtime.block_on(async {
            self.driver.node().node_unpublish_volume(unpublish).await.expect("unpublish");
            self.driver.node().node_unstage_volume(unstage).await.expect("unstage");
        });
        assert!(!self.target.exists(), "the target is still there");
    }

    /// Deletes it, after it was taken off.
    pub(crate) fn delete(self) {
        let delete = csi::DeleteVolumeRequest { volume_id: self.id.clone(), ..Default::default() };
        self.driver
            .runtime
            .block_on(async { self.driver.controller().delete_volume(delete).await.expect("delete") });
    }

    /// Grows it the way a CO does: first the controller, then the node. Answers what the node said.
    pub(crate) fn try_grow(&self, size: u64) -> Result<u64, Status> {
        let bigger = csi::ControllerExpandVolumeRequest {
            volume_id: self.id.clone(),
            capacity_range: Some(range(size)),
            ..Default::default()
        };
        self.driver.runtime.block_on(async {
            self.driver.controller().controller_expand_volume(bigger).await.expect("controller expand")
        });
        self.expand_on_node(size)
    }

    /// NodeExpandVolume; answers the size that the node says.
    pub(crate) fn expand_on_node(&self, size: u64) -> Result<u64, Status> {
        let bigger = csi::NodeExpandVolumeRequest {
            volume_id: self.id.clone(),
            volume_path: text(&self.target),
            staging_target_path: text(&self.staging),
            capacity_range: Some(range(size)),
            ..Default::default()
        };
        let answer =
            self.driver.runtime.block_on(async { self.driver.node().node_expand_volume(bigger).await });
        Ok(u64::try_from(answer?.into_inner().capacity_bytes).expect("a size"))
    }

    /// As [`Published::try_grow`], which has to succeed.
    pub(crate) fn grow(&self, size: u64) {
        assert_eq!(self.try_grow(size).expect("node expand"), size);
    }

    /// What the driver tells a CO about the bytes: total and used.
    pub(crate) fn stats(&self) -> (u64, u64) {
        let request = csi::NodeGetVolumeStatsRequest {
            volume_id: self.id.clone(),
            volume_path: text(&self.target),
            ..Default::default()
        };
        let answer =
            self.driver.runtime.block_on(async { self.driver.node().node_get_volume_stats(request).await });
        let usage = answer.expect("stats").into_inner().usage;
        let bytes = usage.iter().find(|usage| usage.unit == 1).expect("a usage in bytes");
        (u64::try_from(bytes.total).expect("a total"), u64::try_from(bytes.used).expect("a use"))
    }

    /// The project of its root directory, as the filesystem's own tool says it.
    pub(crate) fn project(&self) -> u32 {
        let said = run(Command::new("lsattr").arg("-pd").arg(&self.target));
        let number = said.split_whitespace().next().expect("a project");
        number.parse().expect("a number")
    }

    /// Its image file, in a pool that the driver mounted.
    pub(crate) fn image(&self) -> PathBuf {
        let pool = self.id.split('.').nth(1).expect("a pool in the id");
        PathBuf::from(format!("/var/lib/rockpool/pools/guest-{pool}/volumes/{}", self.id))
    }
}

fn rockpool(power: Power) -> Command {
    let program = env!("CARGO_BIN_EXE_rockpool");
    if power == Power::Full {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(POWERLESS).arg(program);
    command
}

/// Runs a command that has to succeed, and returns what it said.
pub(crate) fn run(command: &mut Command) -> String {
    let ended = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(ended.status.success(), "{command:?}: {}", String::from_utf8_lossy(&ended.stderr));
    String::from_utf8_lossy(&ended.stdout).into_owned()
}

/// Runs a script in a directory as a user without any power.
pub(crate) fn as_workload(at: &Path, script: &str) -> Output {
    let mut shell = Command::new("setpriv");
    shell.args(["--reuid", "1000", "--clear-groups", "sh", "-c", script]).current_dir(at);
    shell.output().expect("setpriv runs")
}

fn text(path: &Path) -> String {
    path.to_str().expect("a path in UTF-8").to_owned()
}

fn range(size: u64) -> csi::CapacityRange {
    csi::CapacityRange { required_bytes: i64::try_from(size).expect("a size"), limit_bytes: 0 }
}

fn capability(fs: &str) -> csi::VolumeCapability {
    use csi::volume_capability::access_mode::Mode;
    use csi::volume_capability::{AccessMode, AccessType, MountVolume};
    let mount = MountVolume { fs_type: fs.into(), ..Default::default() };
    csi::VolumeCapability {
        access_type: Some(AccessType::Mount(mount)),
        access_mode: Some(AccessMode { mode: Mode::SingleNodeWriter.into() }),
    }
}

/// Writes until `limit` bytes are there or there is no room; returns how many were written and synced, and what stopped it.
pub(crate) fn fill(path: &Path, limit: u64) -> (u64, Option<ErrorKind>) {
    let mut file = File::create(path).expect("a file in the volume");
    let block = vec![7_u8; 1 << 20];
    let (mut written, mut stopped) = (0, None);
    while written < limit && stopped.is_none() {
        match file.write(&block) {
            Ok(count) => written += count as u64,
            Err(error) if [ErrorKind::StorageFull, ErrorKind::QuotaExceeded].contains(&error.kind()) => {
                stopped = Some(error.kind());
            }
            Err(error) => panic!("{}: {error}", path.display()),
        }
    }
    file.sync_all().expect("what was written is kept");
    (written, stopped)
}

/// The size in MiB that `df` shows at a path.
pub(crate) fn df(path: &Path) -> u64 {
    let said = run(Command::new("df").args(["-BM", "--output=size"]).arg(path));
    let size = said.lines().nth(1).expect("a line of df").trim().trim_end_matches('M');
    size.parse().expect("a size")
}
