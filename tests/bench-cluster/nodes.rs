//! Many nodes in one process: each has an engine over a pool in memory, an identity and a link of its own, as `rockpool node` has.
//!
//! Owns: the process that the bench starts a few times. Never: measures; no node of it serves a socket.

use std::path::Path;
use std::sync::Arc;

use rockpool::cluster::link::node::{Dialer, Pace, Wanted, Welcomed};
use rockpool::cluster::link::{Keys, NodeFiles, Pair, Proof, Timing};
use rockpool::csi::{About, Services};
use rockpool::engine::{Engine, EngineConfig, Files};
use rockpool::proto::csi::controller_server::Controller;
use rockpool::serve::Linked;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tonic::Request;
use tonic::service::Routes;

use crate::Outcome;
use crate::requests::{self, Shape};

/// The first word on the command line of such a process; then: directory, address of the controller, the first node's number, how
/// many nodes, volumes on each.
pub(crate) const MODE: &str = "nodes";
const DRIVER: &str = "csi.rockpool.dev";

/// The id of the node of this number.
pub(crate) fn id(number: usize) -> String {
    format!("node-{number:04}")
}

/// Runs until it is killed.
pub(crate) fn run(words: &[String]) -> Outcome<()> {
    let [dir, controller, first, nodes, volumes] = words else { return Err("five words, please".into()) };
    let (first, nodes, volumes): (usize, usize, usize) = (first.parse()?, nodes.parse()?, volumes.parse()?);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let mut running = JoinSet::new();
        for number in first..first + nodes {
            let (dialer, linked) = node(Path::new(dir), controller, number, volumes).await?;
            running.spawn(keep(dialer, linked));
        }
        // Whoever started this waits for the line.
        println!("ready");
        while running.join_next().await.is_some() {}
        Ok(())
    })
}

async fn keep(dialer: Dialer, linked: Linked) {
    let serve = move |welcomed: Welcomed<TcpStream>| {
        let linked = linked.clone();
        async move { linked.serve(welcomed.stream, welcomed.gone.wait(), std::future::pending()).await }
    };
    Arc::new(dialer).run(serve, std::future::pending()).await;
}

/// A node with its volumes, which has not dialled yet.
async fn node(dir: &Path, controller: &str, number: usize, volumes: usize) -> Outcome<(Dialer, Linked)> {
    let (name, own) = (id(number), dir.join(id(number)));
    std::fs::create_dir_all(own.join("kubelet"))?;
    let engine = Engine::open(EngineConfig {
        pools: rockpool::config::read(&dir.join("pools.toml"))?,
        kubelet_root: own.join("kubelet"),
        state_dir: own.join("state"),
        files: Files::Apart,
    })?;
    let about = About { driver_name: DRIVER.to_owned(), node_id: name.clone(), max_volumes: 0 };
    let services = Services::new(engine, about)?;
    for volume in 0..volumes {
        let mut request = requests::create(&format!("old-{number}-{volume}"), (Shape::Block, 1 << 20), None);
        request.parameters.clear();
        Controller::create_volume(&services, Request::new(request)).await?;
    }
    let node = name.parse()?;
    let routes = Routes::new(services.controller()).add_service(services.link());
    let linked = Linked::new(routes, &node, Timing::default().ping);
    let pair = Pair { certificate: own.join("own.pem"), key: own.join("own.key") };
    let wanted = Wanted {
        node,
        driver: DRIVER.to_owned(),
        controllers: vec![controller.to_owned()],
        controller_name: "rockpool-controller".to_owned(),
        keys: Keys::of_node(NodeFiles { authorities: own.join("ca.pem"), own: Proof::Certificate(pair) })?,
        token: None,
        timing: Timing::default(),
        pace: Pace::default(),
    };
    Ok((Dialer::new(wanted)?, linked))
}
