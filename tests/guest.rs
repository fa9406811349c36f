//! What many kernels lack, over CSI with the real program: project quota, and online growth of ext4.
//!
//! `make test-guest` runs these under a stock Debian kernel with a scratch disk for each test. Elsewhere they say SKIP.

#![allow(clippy::disallowed_methods, reason = "the test makes its own files and runs programs")]

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use rockpool::proto::csi;
use rockpool::proto::csi::controller_client::ControllerClient;
use rockpool::proto::csi::identity_client::IdentityClient;
use rockpool::proto::csi::node_client::NodeClient;
use tonic::transport::{Channel, Endpoint};

const MIB: u64 = 1 << 20;

/// The scratch disk of one test, or a SKIP with its reason. Written past the test harness, which hides what passing tests say.
fn disk(test: &str, number: usize) -> Option<PathBuf> {
    if std::env::var("GUEST_TEST").is_ok() {
        let name = format!("VM_DISK{number}");
        return Some(
            std::env::var(&name)
                .unwrap_or_else(|_| panic!("{name} is not set: see tests/guest/test.sh"))
                .into(),
        );
    }
    let skip = format!(
        "\nSKIP rust::guest::{test}: needs a kernel with project quota and a scratch disk: make test-guest\n"
    );
    std::io::stderr().write_all(skip.as_bytes()).expect("stderr is open");
    None
}

/// `rockpool standalone` with one pool on a disk of its own.
struct Driver {
    dir: tempfile::TempDir,
    process: Child,
    runtime: tokio::runtime::Runtime,
    channel: Channel,
}

impl Driver {
    fn start(kind: &str, disk: &Path) -> Driver {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let at = |name: &str| dir.path().join(name);
        for made in ["kubelet", "run"] {
            std::fs::create_dir(at(made)).expect("a directory of the test");
        }
        run(rockpool()
            .args(["pool", "init", "guest", "--kind", kind, "--device"])
            .arg(disk)
            .arg("--config")
            .arg(at("rockpool.toml")));
        let endpoint = format!("unix://{}", at("run/csi.sock").display());
        let process = rockpool()
            .args(["standalone", "--node-id", "guest", "--endpoint", &endpoint, "--config"])
            .arg(at("rockpool.toml"))
            .arg("--kubelet-root")
            .arg(at("kubelet"))
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
        let mut driver = Driver { dir, process, runtime, channel };
        driver.wait_until_ready();
        driver
    }

    fn wait_until_ready(&mut self) {
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            let probe = IdentityClient::new(self.channel.clone());
            let answer = self.runtime.block_on(async { { probe }.probe(csi::ProbeRequest {}).await });
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
    fn volume(&self, name: &str, size: u64, fs: &str) -> Published<'_> {
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
        let volume = Published { driver: self, id, staging, target };
        self.runtime.block_on(volume.stage_and_publish(fs));
        volume
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // Killed, not asked: how it ends by itself is tested elsewhere, and the guest goes away with its mounts.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A volume at its target.
struct Published<'a> {
    driver: &'a Driver,
    id: String,
    staging: PathBuf,
    target: PathBuf,
}

impl Published<'_> {
    async fn stage_and_publish(&self, fs: &str) {
        let stage = csi::NodeStageVolumeRequest {
            volume_id: self.id.clone(),
            staging_target_path: text(&self.staging),
            volume_capability: Some(capability(fs)),
            ..Default::default()
        };
        self.driver.node().node_stage_volume(stage).await.expect("stage");
        let publish = csi::NodePublishVolumeRequest {
            volume_id: self.id.clone(),
            staging_target_path: text(&self.staging),
            target_path: text(&self.target),
            volume_capability: Some(capability(fs)),
            ..Default::default()
        };
        self.driver.node().node_publish_volume(publish).await.expect("publish");
    }

    /// Grows it the way a CO does: first the controller, then the node.
    fn grow(&self, size: u64) {
        self.driver.runtime.block_on(async {
            let bigger = csi::ControllerExpandVolumeRequest {
                volume_id: self.id.clone(),
                capacity_range: Some(range(size)),
                ..Default::default()
            };
            self.driver.controller().controller_expand_volume(bigger).await.expect("controller expand");
            let bigger = csi::NodeExpandVolumeRequest {
                volume_id: self.id.clone(),
                volume_path: text(&self.target),
                staging_target_path: text(&self.staging),
                capacity_range: Some(range(size)),
                ..Default::default()
            };
            self.driver.node().node_expand_volume(bigger).await.expect("node expand");
        });
    }

    /// What the driver tells a CO about the bytes: total and used.
    fn stats(&self) -> (u64, u64) {
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

    /// Unpublishes, unstages and deletes it.
    fn remove(self) {
        self.driver.runtime.block_on(async {
            let unpublish = csi::NodeUnpublishVolumeRequest {
                volume_id: self.id.clone(),
                target_path: text(&self.target),
            };
            self.driver.node().node_unpublish_volume(unpublish).await.expect("unpublish");
            let unstage = csi::NodeUnstageVolumeRequest {
                volume_id: self.id.clone(),
                staging_target_path: text(&self.staging),
            };
            self.driver.node().node_unstage_volume(unstage).await.expect("unstage");
            let delete = csi::DeleteVolumeRequest { volume_id: self.id.clone(), ..Default::default() };
            self.driver.controller().delete_volume(delete).await.expect("delete");
        });
        assert!(!self.target.exists(), "the target is still there");
    }
}

fn rockpool() -> Command {
    Command::new(env!("CARGO_BIN_EXE_rockpool"))
}

/// Runs a command that has to succeed, and returns what it said.
fn run(command: &mut Command) -> String {
    let ended = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(ended.status.success(), "{command:?}: {}", String::from_utf8_lossy(&ended.stderr));
    String::from_utf8_lossy(&ended.stdout).into_owned()
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

/// Writes until `limit` bytes are there or there is no room; returns how many were written and synced.
fn fill(path: &Path, limit: u64) -> u64 {
    let mut file = File::create(path).expect("a file in the volume");
    let block = vec![7_u8; 1 << 20];
    let mut written = 0;
    while written < limit {
        match file.write(&block) {
            Ok(count) => written += count as u64,
            Err(error) if [ErrorKind::StorageFull, ErrorKind::QuotaExceeded].contains(&error.kind()) => break,
            Err(error) => panic!("{}: {error}", path.display()),
        }
    }
    file.sync_all().expect("what was written is kept");
    written
}

/// The size in MiB that `df` shows at a path.
fn df(path: &Path) -> u64 {
    let said = run(Command::new("df").args(["-BM", "--output=size"]).arg(path));
    let size = said.lines().nth(1).expect("a line of df").trim().trim_end_matches('M');
    size.parse().expect("a size")
}

#[test]
fn a_directory_volume_cannot_grow_beyond_its_size() {
    let Some(disk) = disk("a_directory_volume_cannot_grow_beyond_its_size", 0) else { return };
    let driver = Driver::start("directory", &disk);
    let small = driver.volume("small", 32 * MIB, "");
    let other = driver.volume("other", 32 * MIB, "");

    assert_eq!(df(&small.target), 32);
    let written = fill(&small.target.join("data"), 100 * MIB);
    assert!((31 * MIB..=32 * MIB).contains(&written), "{written} bytes fit into 32 MiB");
    let (total, used) = small.stats();
    assert_eq!(total, 32 * MIB);
    assert!(used >= 31 * MIB, "{used} bytes are used");

    // The neighbour has its own limit, untouched.
    let (total, used) = other.stats();
    assert_eq!(total, 32 * MIB);
    assert!(used < MIB, "{used} bytes are used in an empty volume");

    small.grow(64 * MIB);
    assert_eq!(df(&small.target), 64);
    let written = fill(&small.target.join("more"), 100 * MIB);
    assert!((31 * MIB..=32 * MIB).contains(&written), "{written} more bytes fit after growing by 32 MiB");

    small.remove();
    other.remove();
}

#[test]
fn whoever_owns_a_file_can_take_it_out_of_the_quota() {
    let Some(disk) = disk("whoever_owns_a_file_can_take_it_out_of_the_quota", 1) else { return };
    let driver = Driver::start("directory", &disk);
    let volume = driver.volume("escape", 16 * MIB, "");
    run(Command::new("chown").arg("1000").arg(&volume.target));
    // Documented, since the kernel allows it: the owner moves a directory to project 0, which has no limit.
    let as_owner = |script: &str| {
        let mut shell = Command::new("setpriv");
        shell.args(["--reuid", "1000", "--clear-groups", "sh", "-c", script]).current_dir(&volume.target);
        shell.output().expect("setpriv runs")
    };
    let bound = as_owner("mkdir in && dd if=/dev/zero of=in/data bs=1M count=40");
    assert!(!bound.status.success(), "40 MiB went into a volume of 16 MiB");
    let escaped = as_owner("rm in/data && chattr -p 0 in && dd if=/dev/zero of=in/data bs=1M count=40");
    let said = String::from_utf8_lossy(&escaped.stderr);
    assert!(escaped.status.success(), "the escape that the documentation describes is gone: {said}");
    volume.remove();
}

#[test]
fn an_ext4_volume_grows_while_it_is_mounted_and_in_use() {
    let Some(disk) = disk("an_ext4_volume_grows_while_it_is_mounted_and_in_use", 2) else { return };
    let driver = Driver::start("image", &disk);
    let volume = driver.volume("online", 64 * MIB, "ext4");
    let before = volume.stats().0;
    assert!(before <= 64 * MIB, "{before} bytes in a volume of 64 MiB");
    let open = File::create(volume.target.join("open")).expect("a file in the volume");

    volume.grow(256 * MIB);
    let after = volume.stats().0;
    assert!(after > 200 * MIB && after <= 256 * MIB, "{after} bytes after growing to 256 MiB");
    let written = fill(&volume.target.join("data"), 150 * MIB);
    assert_eq!(written, 150 * MIB);
    open.sync_all().expect("a file that was open all the time");
    drop(open);
    volume.remove();
}
