//! csi-sanity through controllers at other ends of the network than the node.
//!
//! Owns: the ports for its processes. Never: judges; csi-sanity/ does, and says which specs may skip.

use std::process::Command;

use crate::Outcome;
use crate::net::Port;
use crate::options::Options;

/// The processes as csi-sanity/ names them, and the numbers of their ports.
const PROCESSES: [(&str, &str, u8); 3] =
    [("csi", "s1", 11), ("controller-1", "s2", 12), ("controller-2", "s3", 13)];

/// Runs the columns that go through controllers, or those of them that were asked for; what failed.
pub(crate) fn part(options: &Options) -> Outcome<Vec<String>> {
    let (mut ports, mut words) = (Vec::new(), Vec::new());
    for (process, name, number) in PROCESSES {
        let port = Port::new(name, number)?;
        words.push(format!("{process}={}@{}", port.namespace().display(), port.address()));
        ports.push(port);
    }
    let column = format!("TestSanity/linked-{}", options.column);
    let ended = Command::new("go")
        .args(["test", "-count=1", "-timeout", "40m", "-v", "-run", &column, "./..."])
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/csi-sanity"))
        .env("ROCKPOOL_BIN", &options.plain)
        .env("SANITY_PORTS", words.join(" "))
        .status()?;
    ports.iter().for_each(Port::remove);
    Ok(if ended.success() { Vec::new() } else { vec![format!("csi-sanity through controllers: {ended}")] })
}
