//! The content of a volume from node to node, beside `dd` through TLS from the same disk to the same disk.
//!
//! Owns: both ways, in turns. Never: counts a copy that is not the source, byte for byte.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rockpool::proto::csi;
use tonic::Code;
use tonic::transport::Channel;

use crate::Outcome;
use crate::options::Options;
use crate::process::{Authority, BINARY, Process, controller, free_address, ready};
use crate::report::{Report, Target};
use crate::requests::{self, Origin, Shape};

const PART: &str = "stream";
const MIB: usize = 1 << 20;
const TOPOLOGY: &str = "topology.csi.rockpool.dev/node";
const LIMIT: f64 = 0.7;
const PATIENCE: Duration = Duration::from_secs(300);
/// How often it is asked whether a copy is whole.
const PAUSE: Duration = Duration::from_millis(10);
/// Until `openssl` listens.
const SETTLE: Duration = Duration::from_millis(500);

/// A pool of images in a file, mounted as long as this is there.
struct Pool(PathBuf);

impl Pool {
    fn new(dir: &Path) -> Outcome<Pool> {
        std::fs::remove_file(dir.join("pools.toml"))?;
        let mut init = Command::new(BINARY);
        init.args(["pool", "init", "images", "--kind", "image", "--size", "6GiB", "--sparse", "--file"]);
        init.arg(dir.join("disk")).arg("--mount-parent").arg(dir.join("pools"));
        done(init.arg("--config").arg(dir.join("pools.toml")))?;
        Ok(Pool(dir.to_owned()))
    }

    /// Where it is mounted.
    fn root(&self) -> Outcome<PathBuf> {
        let first = std::fs::read_dir(self.0.join("pools"))?.next().ok_or("no pool is mounted")?;
        Ok(first?.path())
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let mut unmount = Command::new(BINARY);
        unmount.args(["pool", "unmount", "images", "--config"]).arg(self.0.join("pools.toml"));
        if let Err(error) = done(&mut unmount) {
            eprintln!("bench: {error}");
        }
    }
}

pub(crate) async fn measure(options: &Options, report: &mut Report) -> Outcome<()> {
    if !rustix::process::geteuid().is_root() {
        report.begin("from node to node: left out, it mounts filesystems, which only root may");
        return Ok(());
    }
    report.begin("from node to node, and dd through TLS");
    let dir = tempfile::Builder::new().prefix("rp-bench.").tempdir()?;
    let (authority, listen) = (Authority::new()?, free_address()?);
    let words = ["controller", "--pool-kinds", "image", "--listen", &listen];
    let mut front = Process::new(&dir.path().join("front"), &words)?.with_keys();
    authority.controller(&dir.path().join("front/keys"))?;
    let node = |name: &'static str| {
        let words = ["node", "--node-id", name, "--pool-kinds", "image", "--controller", &listen];
        let words = [&words[..], &["--transfer-address", "127.0.0.1"]].concat();
        let at = dir.path().join(name);
        let process = Process::new(&at, &words)?.with_pool().with_keys();
        authority.node(&at.join("keys"), name)?;
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>((Pool::new(&at)?, process))
    };
    // The processes end before their pools are unmounted.
    let ((from, mut a), (to, mut b)) = (node("a")?, node("b")?);
    let at = front.start().await?;
    a.start().await?;
    b.start().await?;
    ready(&at).await?;
    let source = make(&at, "source", options.stream(), ("a", None)).await?;
    let file = from.root()?.join("volumes").join(&source);
    fill(&file, options.stream())?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    // The first round warms up.
    for round in 0..=options.rounds() {
        let began = Instant::now();
        let origin = Origin::Volume(source.clone());
        let copy = make(&at, &format!("copy-{round}"), options.stream(), ("b", Some(origin))).await?;
        let took = began.elapsed().as_secs_f64();
        same(&file, &to.root()?.join("volumes").join(&copy))?;
        controller(&at).delete_volume(requests::delete(&copy)).await?;
        let other = through_dd(&dir.path().join("a/keys"), &file, &to.root()?.join("by-dd"))?;
        if round > 0 {
            ours.push(took);
            theirs.push(other);
        }
    }
    let mib = options.stream() / MIB;
    #[expect(clippy::cast_precision_loss, reason = "a few thousand")]
    let pace = |times: &[f64]| times.iter().map(|time| mib as f64 / time).collect::<Vec<f64>>();
    report.median(
        (PART, &format!("a volume of {mib} MiB from node to node")),
        pace(&ours),
        ("MiB/s", Target::None),
    );
    report.median((PART, "dd through TLS 1.3, the same way"), pace(&theirs), ("MiB/s", Target::None));
    report.ratio((PART, "the one by the other"), &theirs, &ours, Target::AtLeast(LIMIT));
    drop((a, b));
    Ok(())
}

/// A raw volume on a node; its id. Asked for until it is whole.
async fn make(
    at: &Channel,
    name: &str,
    size: usize,
    (node, from): (&str, Option<Origin>),
) -> Outcome<String> {
    let (mut client, began) = (controller(at), Instant::now());
    let mut request = requests::create(name, (Shape::Block, i64::try_from(size)?), from);
    request.parameters.clear();
    let requisite = vec![csi::Topology { segments: [(TOPOLOGY.to_owned(), node.to_owned())].into() }];
    request.accessibility_requirements = Some(csi::TopologyRequirement { requisite, preferred: Vec::new() });
    loop {
        match client.create_volume(request.clone()).await {
            Ok(made) => return Ok(made.into_inner().volume.unwrap_or_default().volume_id),
            Err(status) if status.code() == Code::Unavailable && began.elapsed() < PATIENCE => {
                tokio::time::sleep(PAUSE).await;
            }
            Err(status) => return Err(status.into()),
        }
    }
}

/// What no block of is zeros, and nothing can compress.
fn fill(file: &Path, size: usize) -> Outcome<()> {
    let mut file = std::fs::File::options().write(true).open(file)?;
    let mut word = 0x2545_f491_4f6c_dd1d_u64;
    for _ in 0..size / MIB {
        let words = (0..MIB / 8).flat_map(|_| {
            word ^= word << 13;
            word ^= word >> 7;
            word ^= word << 17;
            word.to_le_bytes()
        });
        file.write_all(&words.collect::<Vec<u8>>())?;
    }
    Ok(file.sync_all()?)
}

/// `dd` into `openssl`, out of `openssl` into `dd`, until it is durable; how long that took, in seconds.
fn through_dd(keys: &Path, from: &Path, to: &Path) -> Outcome<f64> {
    let address = free_address()?;
    let key = |name: &str| keys.join(name).display().to_string();
    let server = format!(
        "openssl s_server -accept {address} -cert {} -key {} -quiet -naccept 1 -num_tickets 0 -tls1_3 | dd of={} bs=1M iflag=fullblock conv=fsync",
        key("own.pem"),
        key("own.key"),
        to.display()
    );
    let client = format!(
        "dd if={} bs=1M | openssl s_client -connect {address} -quiet -no_ign_eof -nocommands -tls1_3",
        from.display()
    );
    let mut server = shell(&server)?;
    // It ends the connection when it has nothing more to say.
    let says_nothing = server.stdin.take();
    std::thread::sleep(SETTLE);
    let began = Instant::now();
    let (sent, taken) = (shell(&client)?.wait()?, server.wait()?);
    let took = began.elapsed().as_secs_f64();
    drop(says_nothing);
    if !sent.success() || !taken.success() {
        return Err(format!("dd through TLS has failed: {sent}, {taken}").into());
    }
    same(from, to)?;
    std::fs::remove_file(to)?;
    Ok(took)
}

fn shell(line: &str) -> Outcome<Child> {
    let mut bash = Command::new("bash");
    bash.args(["-o", "pipefail", "-c", line])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    Ok(bash.spawn()?)
}

fn same(one: &Path, other: &Path) -> Outcome<()> {
    done(Command::new("cmp").arg(one).arg(other))
}

/// Runs a program, which must succeed.
fn done(command: &mut Command) -> Outcome<()> {
    let output = command.stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr)).into())
}
