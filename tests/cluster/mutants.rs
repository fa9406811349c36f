//! Proof of the proof: bugs planted in the program, each of which its scene must find.
//!
//! Owns: the list. Without a bug every scene finds nothing: the part `scenes` shows that.

use crate::node::Node;
use crate::options::Options;
use crate::{Outcome, build, progress, scenes};

/// The bugs, what each does, and the scene that finds it.
const BUGS: [(&str, &str, &str); 7] = [
    (
        "mark-unchecked",
        "whatever became of a connection is taken for the node's word",
        "connections break under calls",
    ),
    ("unknown-passed-on", "a connection that broke is told as UNKNOWN", "connections break under calls"),
    ("first-candidate-asked", "one of the nodes that may have a name is looked at", "controllers forget"),
    (
        "stale-link-kept",
        "a later connection of a node does not replace the one before",
        "a second process of a node",
    ),
    ("absence-not-found", "what is on a node that is away is said to be nowhere", "a holder is away"),
    (
        "names-of-moved-kept",
        "a node is asked for what lay on a disk that has moved",
        "a disk moves while all run",
    ),
    ("twice-unreported", "nobody says that a name is on two nodes", "a name is twice"),
];

/// Every bug in a cluster of its own.
pub(crate) async fn part(options: &Options) -> Outcome<Vec<String>> {
    let (mut missed, mut caught) = (Vec::new(), 0);
    let bugs: Vec<_> = BUGS.iter().filter(|(name, ..)| name.contains(&options.only)).collect();
    progress::expect("planted bugs", bugs.len());
    for (name, what, scene) in &bugs {
        let found = hunt(options, name, scene).await?;
        progress::one("planted bugs");
        match found.first() {
            Some(found) => println!("cluster mutant {name}: caught: {found}"),
            None => {
                missed.push(format!("the planted bug {name} ({what}) was not caught by the scene: {scene}"))
            }
        }
        caught += usize::from(!found.is_empty());
    }
    println!("cluster mutants: {caught} of {} planted bugs caught", bugs.len());
    Ok(missed)
}

async fn hunt(options: &Options, bug: &str, scene: &str) -> Outcome<Vec<String>> {
    let dir = tempfile::Builder::new().prefix("rp-cluster.").tempdir()?;
    let world = build(dir.path(), &options.armed, options)?;
    plant(&world.node, bug);
    world.node.start().await?;
    crate::acts::open_budget(&world).await;
    // A cluster that cannot go on has been caught, too.
    if let Err(error) = scenes::play(&world, scene).await {
        world.violation(format!("the scene could not go on: {error}"));
    }
    Ok(world.pardon())
}

fn plant(cluster: &Node, bug: &str) {
    for part in &cluster.parts {
        part.environment(vec![("ROCKPOOL_PLANTED".to_owned(), bug.to_owned())]);
    }
}
