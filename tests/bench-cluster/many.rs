//! One controller and a thousand nodes: memory, creates at a rate, pages of the list, and how soon all are back after its restart.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rockpool::proto::csi;
use tokio::task::JoinSet;
use tonic::Code;
use tonic::transport::Channel;

use crate::Outcome;
use crate::nodes;
use crate::options::Options;
use crate::process::{Authority, POOLS, Process, controller, free_address, ready};
use crate::report::{Report, Target, ms};
use crate::requests::{self, Shape};

const PART: &str = "many";
/// Processes that the nodes are spread over.
const PROCESSES: usize = 4;
/// Creates a second.
const RATE: u32 = 200;
/// The entries of a page.
const PAGE: i32 = 500;
const TOPOLOGY: &str = "topology.csi.rockpool.dev/node";
const PATIENCE: Duration = Duration::from_secs(300);
/// How soon a create is asked for again.
const AGAIN: Duration = Duration::from_millis(20);

/// Processes of nodes, which end with it.
struct Nodes(Vec<Child>);

impl Drop for Nodes {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

pub(crate) async fn measure(options: &Options, report: &mut Report) -> Outcome<()> {
    let (nodes, volumes) = options.many();
    let dir = tempfile::Builder::new().prefix("rp-bench.").tempdir_in("/dev/shm")?;
    let (authority, listen) = (Authority::new()?, free_address()?);
    authority.controller(&dir.path().join("front/keys"))?;
    let words = ["controller", "--pool-kinds", "sim", "--listen", &listen];
    let mut front = Process::new(&dir.path().join("front"), &words)?.with_keys();
    report.begin(&format!("{nodes} nodes with {volumes} volumes each are made"));
    let _nodes = start_nodes(dir.path(), (&authority, &listen), (nodes, volumes))?;
    let mut at = front.start().await?;
    all_known(&at, nodes).await?;
    ready(&at).await?;
    report.begin("memory");
    tokio::time::sleep(Duration::from_secs(5)).await;
    let many = format!("{nodes} nodes, {} volumes", nodes * volumes);
    report.value((PART, &format!("resident, {many}")), front.memory("VmRSS")?, ("MiB", Target::AtMost(96.0)));
    report.begin("creates at a rate");
    let times = creates(&at, options.load()).await?;
    let head = format!("create, {RATE} calls a second");
    report.percentile((PART, &format!("{head}, p50")), &times, 0.5, ("ms", Target::None));
    report.percentile((PART, &format!("{head}, p99")), &times, 0.99, ("ms", Target::AtMost(50.0)));
    report.begin("pages of the list");
    let times = pages(&at, nodes * volumes).await?;
    report.percentile((PART, &format!("a page of {PAGE} volumes, p50")), &times, 0.5, ("ms", Target::None));
    report.percentile(
        (PART, &format!("a page of {PAGE} volumes, p99")),
        &times,
        0.99,
        ("ms", Target::AtMost(100.0)),
    );
    report.value((PART, "resident after that"), front.memory("VmRSS")?, ("MiB", Target::AtMost(96.0)));
    report.value((PART, "resident at most"), front.memory("VmHWM")?, ("MiB", Target::AtMost(96.0)));
    report.begin("restarts");
    let mut back = Vec::new();
    for _ in 0..options.restarts() {
        front.kill();
        let began = Instant::now();
        at = front.start().await?;
        all_known(&at, nodes).await?;
        back.push(began.elapsed().as_secs_f64());
    }
    report.median((PART, "all nodes back after a restart"), back, ("s", Target::AtMost(10.0)));
    Ok(())
}

/// Starts the processes, and waits until all their volumes are made.
fn start_nodes(
    dir: &Path,
    (authority, listen): (&Authority, &str),
    (nodes, volumes): (usize, usize),
) -> Outcome<Nodes> {
    std::fs::write(dir.join("pools.toml"), POOLS)?;
    for number in 0..nodes {
        authority.node(&dir.join(nodes::id(number)), &nodes::id(number))?;
    }
    let (mut started, share) = (Nodes(Vec::new()), nodes / PROCESSES);
    for process in 0..PROCESSES {
        let first = process * share;
        let words = [listen.to_owned(), first.to_string(), share.to_string(), volumes.to_string()];
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(nodes::MODE).arg(dir).args(words).stdin(Stdio::null()).stdout(Stdio::piped());
        started.0.push(command.spawn()?);
    }
    for child in &mut started.0 {
        let said = child.stdout.take().ok_or("no output")?;
        let mut line = String::new();
        BufReader::new(said).read_line(&mut line)?;
        if line.trim() != "ready" {
            return Err("a process of nodes has ended".into());
        }
    }
    Ok(started)
}

/// Waits until each node has told the controller what it has.
async fn all_known(at: &Channel, nodes: usize) -> Outcome<()> {
    let (mut client, began) = (controller(at), Instant::now());
    let mut missing: VecDeque<usize> = (0..nodes).collect();
    while let Some(number) = missing.pop_front() {
        let segments = [(TOPOLOGY.to_owned(), nodes::id(number))].into();
        let accessible_topology = Some(csi::Topology { segments });
        let request = csi::GetCapacityRequest { accessible_topology, ..Default::default() };
        let answer = client.get_capacity(request).await;
        if answer.is_ok_and(|answer| answer.into_inner().available_capacity > 0) {
            continue;
        }
        if began.elapsed() > PATIENCE {
            return Err(format!("{} nodes are not there", missing.len() + 1).into());
        }
        // It is looked at again when all others were; what waits meanwhile is no load of the controller's.
        missing.push_back(number);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    Ok(())
}

/// Makes volumes at a rate, whatever becomes of those before; how long each took from the moment when it was due.
async fn creates(at: &Channel, lasts: Duration) -> Outcome<Vec<f64>> {
    let (began, pause) = (Instant::now(), Duration::from_secs(1) / RATE);
    let mut running = JoinSet::new();
    for number in 0.. {
        let due = began + pause * number;
        if due > began + lasts {
            break;
        }
        tokio::time::sleep_until(due.into()).await;
        let mut client = controller(at);
        running.spawn(async move {
            let mut request = requests::create(&format!("new-{number}"), (Shape::Block, 1 << 20), None);
            request.parameters.clear();
            loop {
                match client.create_volume(request.clone()).await {
                    Ok(_) => return Ok(ms(due.elapsed())),
                    // As a provisioner does; the time goes on.
                    Err(status) if status.code() == Code::Unavailable && due.elapsed() < PATIENCE => {
                        tokio::time::sleep(AGAIN).await;
                    }
                    Err(status) => return Err(status),
                }
            }
        });
    }
    let mut times = Vec::new();
    while let Some(ended) = running.join_next().await {
        times.push(ended??);
    }
    Ok(times)
}

/// Reads the whole list; how long each page took.
async fn pages(at: &Channel, at_least: usize) -> Outcome<Vec<f64>> {
    let (mut client, mut times, mut starting_token, mut seen) =
        (controller(at), Vec::new(), String::new(), 0);
    loop {
        let request = csi::ListVolumesRequest { max_entries: PAGE, starting_token };
        let began = Instant::now();
        let page = client.list_volumes(request).await?.into_inner();
        times.push(ms(began.elapsed()));
        seen += page.entries.len();
        starting_token = page.next_token;
        if starting_token.is_empty() {
            break;
        }
    }
    if seen < at_least {
        Err(format!("{seen} volumes are listed, {at_least} were made").into())
    } else {
        Ok(times)
    }
}
