//! Scenes: what is too rare for chance, each written down from its fault to what must hold.
//!
//! Owns: the scenes. Each begins with a whole and empty cluster and leaves one.

use std::time::{Duration, Instant};

use rockpool::model::{Named, name_hash};
use rockpool::proto::csi::{CreateVolumeRequest, TopologyRequirement};

use crate::Outcome;
use crate::chance::Chance;
use crate::content::Sync;
use crate::direct::{Direct, Made, is_open, on_record, wanted};
use crate::faults::Fault;
use crate::lifecycle::size;
use crate::model::{Is, Slots, Volume};
use crate::net::Loss;
use crate::node::{CONTROLLERS, NODES, topology};
use crate::options::Options;
use crate::requests::{self, Origin};
use crate::wire::PATIENT;
use crate::world::World;

/// The controllers, as faults count them.
const C1: usize = NODES;
const C2: usize = NODES + 1;
/// So long a caller waits who expects nothing.
const SHORT: Duration = Duration::from_secs(3);
/// The stopped controller sleeps so long in the middle of a create: longer than any lease of a sidecar.
const LEASE: Duration = Duration::from_secs(20);
/// A new connection of a node counts at once; an old one that answers nothing is given up after 15 s.
const AT_ONCE: Duration = Duration::from_secs(9);
/// A node looks after its pools every five seconds: one has to let go of a disk, and the other one to find it; three times that, for a busy
/// machine.
const LOOKED: Duration = Duration::from_secs(30);

/// So many names are tried until one is on two nodes.
const TRIES: usize = 20;
/// So often connections are reset.
const BREAKS: usize = 12;

/// All scenes, in the order in which they are played.
pub(crate) const SCENES: [&str; 11] = [
    "volumes live",
    "copies travel",
    "answers are lost",
    "a holder is away",
    "controllers forget",
    "a controller sleeps",
    "a second process of a node",
    "a pool moves",
    "a disk moves while all run",
    "connections break under calls",
    "a name is twice",
];

/// Those whose names hold what was asked for.
pub(crate) async fn part(world: &World, options: &Options) -> Outcome<()> {
    for name in SCENES.iter().filter(|name| name.contains(&options.only)) {
        let began = Instant::now();
        play(world, name).await?;
        println!("cluster scene: {name}: {} ms", began.elapsed().as_millis());
    }
    Ok(())
}

/// One scene, and a look at what it leaves.
pub(crate) async fn play(world: &World, name: &str) -> Outcome<()> {
    match name {
        "volumes live" => volumes_live(world).await,
        "copies travel" => copies_travel(world).await?,
        "answers are lost" => answers_are_lost(world).await?,
        "a holder is away" => a_holder_is_away(world).await?,
        "controllers forget" => controllers_forget(world).await?,
        "a controller sleeps" => a_controller_sleeps(world).await?,
        "a second process of a node" => a_second_process(world).await?,
        "a pool moves" => a_pool_moves(world).await?,
        "a disk moves while all run" => a_disk_moves(world).await?,
        "connections break under calls" => connections_break(world).await?,
        "a name is twice" => a_name_is_twice(world).await?,
        other => return Err(format!("no scene is called {other}").into()),
    }
    world.node.converged().await?;
    world.node.wire.exchange.wrong().into_iter().for_each(|what| world.violation(what));
    world.audit(&mut Chance::new(1, 4)).await?;
    crate::acts::empty(world).await;
    Ok(())
}

/// A volume lives on every node, and one wherever there is room; every call goes through both controllers at once.
async fn volumes_live(world: &World) {
    world.node.wire.exchange.double(100, 1);
    for number in 0..=NODES {
        let mut volume = world.volumes[number].lock().await;
        world.make(&mut volume, None, PATIENT).await;
        world.stage(&mut volume, PATIENT).await;
        world.publish(&mut volume, PATIENT).await;
        world.write(&mut volume, 0, Sync::Yes).await;
        world.grow(&mut volume, PATIENT).await;
        world.verify(&mut volume).await;
        world.unpublish(&mut volume, PATIENT).await;
        world.unstage(&mut volume, PATIENT).await;
        world.remove(&mut volume, PATIENT).await;
        if volume.exists != Is::No {
            world.violation(format!("it did not live to its end: {}", volume.story()));
        }
    }
    world.node.wire.exchange.double(0, 1);
}

/// A copy is made on another node than its source, of every sort; while it travels its source's node dies, then its own, then the way
/// between the two is cut. It holds what the source held, also when that is gone.
async fn copies_travel(world: &World) -> Outcome<()> {
    let both_ways = Fault::BothWays(0, 1, Loss::Silent);
    // Of volumes by their numbers: two of ext4, of raw blocks, of xfs.
    for (source, copy, fault) in
        [(0, 4, Fault::Kill(vec![0])), (2, 10, Fault::Kill(vec![1])), (7, 15, both_ways)]
    {
        let (mut source, mut copy) = (world.volumes[source].lock().await, world.volumes[copy].lock().await);
        place(&mut source, "n1", None);
        world.make(&mut source, None, PATIENT).await;
        use_it(world, &mut source, Some(0)).await;
        let origin = Origin::Volume(source.id());
        place(&mut copy, "n2", Some((origin, source.size.1)));
        copy.slots = source.slots.copied();
        world.make(&mut copy, None, Duration::from_millis(100)).await;
        fault.begin(&world.node)?;
        tokio::time::sleep(SHORT / 3).await;
        fault.end(&world.node).await?;
        world.node.converged().await?;
        let began = Instant::now();
        while copy.exists != Is::Yes && began.elapsed() < PATIENT {
            world.make(&mut copy, None, PATIENT).await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        use_it(world, &mut copy, None).await;
        world.remove(&mut source, PATIENT).await;
        use_it(world, &mut copy, None).await;
        let nodes = Direct::to(world, 0).nodes_of(&copy.id()).await;
        if !nodes.as_ref().is_ok_and(|nodes| nodes == &["n2"]) {
            world.violation(format!("a copy for n2 is on {nodes:?}: {}", copy.story()));
        }
        world.remove(&mut copy, PATIENT).await;
    }
    Ok(())
}

/// What is asked for under a volume's name from now on: on this node, a copy of this where one is meant.
fn place(volume: &mut Volume, node: &str, from: Option<(Origin, i64)>) {
    let (origin, least) = from.map_or((None, 0), |(origin, size)| (Some(origin), size));
    let mut request = requests::create(&volume.name, (volume.shape, size(volume.shape).max(least)), origin);
    let requisite = vec![topology(node)];
    request.accessibility_requirements = Some(TopologyRequirement { requisite, preferred: Vec::new() });
    (volume.request, volume.slots) = (Some(request), Slots::blank());
}

/// The way between a node and a controller is cut in one direction: whoever asks through that controller hears that the outcome is
/// open, and through the other finds the one volume, made or not.
async fn answers_are_lost(world: &World) -> Outcome<()> {
    for (number, loss) in (0..).zip([Loss::Silent, Loss::Loud]) {
        for (from, to) in [(0, C1), (C1, 0)] {
            let name = format!("scene-lost-{number}-{from}");
            let request = wanted(&name, &["n1"]);
            let fault = Fault::OneWay(from, to, loss);
            fault.begin(&world.node)?;
            let cut_off = Direct::to(world, 0).create(&request, SHORT).await;
            must_be_open(world, &fault, "CreateVolume", cut_off.map(drop));
            let made = Direct::to(world, 1).create(&request, SHORT).await;
            fault.end(&world.node).await?;
            world.node.converged().await?;
            let Ok(made) = made else {
                world.violation(format!("{fault:?}: the other controller cannot make it: {made:?}"));
                continue;
            };
            let again = Direct::to(world, 0).create(&request, PATIENT).await;
            same(world, &format!("{fault:?}: asked again"), &made, again);
            gone(world, &name, &made).await?;
        }
    }
    Ok(())
}

/// The node that has a volume is killed: nobody says that it is not there, and nobody makes another.
async fn a_holder_is_away(world: &World) -> Outcome<()> {
    let (name, request) = ("scene-away", wanted("scene-away", &["n1", "n2", "n3"]));
    let Some(made) = made(world, 0, &request).await else { return Ok(()) };
    let fault = Fault::Kill(vec![number(world, &made)]);
    fault.begin(&world.node)?;
    nobody_knows(world, &fault, (&request, &made)).await?;
    is_back(world, (&fault, name), (&request, &made)).await
}

/// No controller says anything final of a volume whose node is away.
async fn nobody_knows(
    world: &World,
    fault: &Fault,
    (request, made): (&CreateVolumeRequest, &Made),
) -> Outcome<()> {
    for controller in 0..CONTROLLERS {
        let direct = Direct::to(world, controller);
        must_be_open(world, fault, "CreateVolume", direct.create(request, SHORT).await.map(drop));
        for (call, answer) in direct.everything_about(&made.id, SHORT).await? {
            must_be_open(world, fault, call, answer);
        }
    }
    Ok(())
}

/// The fault is over: every controller finds the volume, which is then removed.
async fn is_back(
    world: &World,
    (fault, name): (&Fault, &str),
    (request, made): (&CreateVolumeRequest, &Made),
) -> Outcome<()> {
    fault.end(&world.node).await?;
    world.node.converged().await?;
    for controller in 0..CONTROLLERS {
        let again = Direct::to(world, controller).create(request, PATIENT).await;
        same(world, "the node is back", made, again);
    }
    gone(world, name, made).await
}

/// Both controllers are started anew while the node is away that has a volume: they know nothing of it, and make no other.
async fn controllers_forget(world: &World) -> Outcome<()> {
    // Not on the node that is looked at first.
    let mut names = (0..).map(|number| format!("scene-forgotten-{number}"));
    let (name, request, made) = loop {
        let name = names.next().unwrap_or_default();
        let request = wanted(&name, &["n1", "n2", "n3"]);
        let Some(made) = made(world, 1, &request).await else { return Ok(()) };
        if made.node != "n1" {
            break (name, request, made);
        }
        gone(world, &name, &made).await?;
    };
    let fault = Fault::Kill(vec![number(world, &made)]);
    fault.begin(&world.node)?;
    let controllers = Fault::Kill(vec![C1, C2]);
    controllers.begin(&world.node)?;
    controllers.end(&world.node).await?;
    // At once, and when they take themselves for informed.
    for wait in [Duration::ZERO, Duration::from_secs(11)] {
        tokio::time::sleep(wait).await;
        nobody_knows(world, &fault, (&request, &made)).await?;
    }
    is_back(world, (&fault, &name), (&request, &made)).await
}

/// A controller is stopped in the middle of a create, past any lease; the other one serves meanwhile, and what the first sends when it
/// goes on comes late. Nothing newer is destroyed, and there is one volume of the name at most.
async fn a_controller_sleeps(world: &World) -> Outcome<()> {
    let (name, request) = ("scene-sleep", wanted("scene-sleep", &["n2"]));
    let (awake, asleep) = (Direct::to(world, 1), Direct::to(world, 0));
    let fault = Fault::Stop(C1);
    fault.begin(&world.node)?;
    let (late, old) = tokio::join!(asleep.create(&request, PATIENT), async {
        let old = awake.create(&request, PATIENT).await?;
        awake.delete(&old.id, PATIENT).await?;
        let new = awake.create(&request, PATIENT).await?;
        tokio::time::sleep(LEASE).await;
        fault.end(&world.node).await.map_err(|error| tonic::Status::internal(error.to_string()))?;
        Ok::<_, tonic::Status>((old, new))
    });
    let (old, new) = old?;
    match late {
        Err(status) if is_open(&status) => {}
        sure => same(world, "what a controller asked that slept", &new, sure),
    }
    world.node.converged().await?;
    for direct in [&asleep, &awake] {
        if let Err(status) = direct.delete(&old.id, PATIENT).await {
            world.violation(format!("a late delete of an earlier volume says {status:?}"));
        }
    }
    if old.id == new.id || on_record(world, name)? != [new.id.clone()] {
        world.violation(format!("{old:?} and then {new:?}, on record are {:?}", on_record(world, name)?));
    }
    gone(world, name, &new).await
}

/// A node's process stops answering, and another one of the same node, with a pool of its own, is connected: the later one counts at
/// once, and the controller says that there are two.
async fn a_second_process(world: &World) -> Outcome<()> {
    let fault = Fault::Stop(0);
    fault.begin(&world.node)?;
    let second = world.node.second_process(0)?;
    second.spawn()?;
    let began = Instant::now();
    let request = wanted("scene-second", &["n1"]);
    let mut made = Direct::to(world, 0).create(&request, SHORT).await;
    while made.is_err() && began.elapsed() < PATIENT {
        tokio::time::sleep(Duration::from_millis(50)).await;
        made = Direct::to(world, 0).create(&request, SHORT).await;
    }
    let took = began.elapsed();
    match &made {
        Ok(made) => {
            if took > AT_ONCE {
                world.violation(format!("the later process of a node counts only after {took:?}"));
            }
            if let Err(status) = Direct::to(world, 0).delete(&made.id, PATIENT).await {
                world.violation(format!("what it made cannot be removed: {status:?}"));
            }
        }
        Err(status) => world.violation(format!("the later process of a node never counts: {status:?}")),
    }
    if !world.node.is_reported(&["another process of this node is still connected", "n1"]) {
        world.violation("nobody said that two processes are one node");
    }
    second.terminate()?;
    fault.end(&world.node).await?;
    // The controllers know of a pool that is gone with its process.
    let controllers = Fault::Kill(vec![C1, C2]);
    controllers.begin(&world.node)?;
    controllers.end(&world.node).await
}

/// The disk of one node is put into another one: its volumes are there, with what they hold and the ids that they had; then it is put
/// back.
async fn a_pool_moves(world: &World) -> Outcome<()> {
    let mut volume = world.volumes[0].lock().await;
    world.make(&mut volume, None, PATIENT).await;
    use_it(world, &mut volume, Some(0)).await;
    for (from, to) in [(0, 1), (1, 0)] {
        world.node.move_pool(0, (from, to)).await?;
        for controller in 0..CONTROLLERS {
            let there = Direct::to(world, controller).nodes_of(&volume.id()).await;
            let want = &world.node.parts[to].name;
            if !there.as_ref().is_ok_and(|nodes| nodes == std::slice::from_ref(want)) {
                world.violation(format!("moved to {want}, listed on {there:?}: {}", volume.story()));
            }
        }
        use_it(world, &mut volume, None).await;
    }
    world.grow(&mut volume, PATIENT).await;
    world.remove(&mut volume, PATIENT).await;
    Ok(())
}

/// The disk of a node that goes on running comes to another one, which writes to it, and back: nothing is in doubt for longer than it
/// takes both to look, and nothing of what the old node remembers counts.
async fn a_disk_moves(world: &World) -> Outcome<()> {
    let mut volume = world.volumes[0].lock().await;
    world.make(&mut volume, None, PATIENT).await;
    use_it(world, &mut volume, Some(0)).await;
    let (old, new) = (wanted("scene-disk-old", &["n1"]), wanted("scene-disk-new", &["n1", "n2"]));
    let Some(stale) = made(world, 0, &old).await else { return Ok(()) };
    world.node.move_disk((0, 1)).await?;
    is_listed_on(world, &volume, "n2").await;
    use_it(world, &mut volume, Some(1)).await;
    // The name is known wherever it is asked for, and what is deleted is free.
    for controller in 0..CONTROLLERS {
        let again = wanted("scene-disk-old", &["n1", "n2"]);
        match Direct::to(world, controller).create(&again, PATIENT).await {
            Ok(made) if made.id == stale.id && made.node == "n2" => {}
            other => world.violation(format!("a name that moved with its disk: {other:?}")),
        }
    }
    for controller in 0..CONTROLLERS {
        if let Err(status) = Direct::to(world, controller).delete(&stale.id, PATIENT).await {
            world.violation(format!("DeleteVolume of {stale:?} says {status:?}"));
        }
    }
    let fresh = made(world, 1, &new).await;
    world.node.move_disk((1, 0)).await?;
    is_listed_on(world, &volume, "n1").await;
    use_it(world, &mut volume, None).await;
    if let Some(made) = fresh {
        gone(world, "scene-disk-new", &made).await?;
    }
    let left = on_record(world, "scene-disk-old")?;
    if !left.is_empty() {
        world.violation(format!("what was deleted elsewhere is on record: {left:?}"));
    }
    world.remove(&mut volume, PATIENT).await;
    world.node.forget_disk(1).await
}

/// Both controllers say that a volume is on this node, as soon as nodes and controllers have looked.
async fn is_listed_on(world: &World, volume: &Volume, want: &str) {
    for controller in 0..CONTROLLERS {
        let (began, direct) = (Instant::now(), Direct::to(world, controller));
        loop {
            let there = direct.nodes_of(&volume.id()).await;
            if there.as_ref().is_ok_and(|nodes| nodes == &[want]) {
                break;
            }
            if began.elapsed() > LOOKED {
                world.violation(format!("moved to {want}, listed on {there:?}: {}", volume.story()));
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// The connections of a controller are reset while volumes are made through it: every answer is OK or open, and asked again there is
/// one volume of each name.
async fn connections_break(world: &World) -> Outcome<()> {
    let (mut chance, direct, mut broken) = (Chance::new(1, 5), Direct::to(world, 0), 0);
    for round in 0..BREAKS {
        let names = ["n1", "n2", "n3", "n1"].into_iter().zip(0..);
        let requests: Vec<_> =
            names.map(|(node, number)| wanted(&format!("scene-break-{round}-{number}"), &[node])).collect();
        let reset = async {
            tokio::time::sleep(chance.time(Duration::from_millis(1), Duration::from_millis(60))).await;
            Fault::Reset(C1).begin(&world.node)
        };
        let create = |number: usize| direct.create(&requests[number], PATIENT);
        let (one, two, three, four, was_reset) =
            tokio::join!(create(0), create(1), create(2), create(3), reset);
        was_reset?;
        world.node.converged().await?;
        for (request, answer) in requests.iter().zip([one, two, three, four]) {
            broken += usize::from(answer.is_err());
            let made = until_made(world, (&direct, request), answer).await?;
            if let Some(made) = made {
                gone(world, &request.name, &made).await?;
            }
        }
    }
    if broken == 0 {
        world.violation("no connection broke under a call: the scene proved nothing");
    }
    Ok(())
}

/// Asks again as long as the outcome is open.
async fn until_made(
    world: &World,
    (direct, request): (&Direct<'_>, &CreateVolumeRequest),
    mut answer: Result<Made, tonic::Status>,
) -> Outcome<Option<Made>> {
    let began = Instant::now();
    loop {
        match answer {
            Ok(made) => return Ok(Some(made)),
            Err(status) if is_open(&status) && began.elapsed() < PATIENT => {
                tokio::time::sleep(Duration::from_millis(20)).await;
                answer = direct.create(request, PATIENT).await;
            }
            Err(status) => {
                world.violation(format!("a connection broke, and CreateVolume says {status:?}"));
                for id in on_record(world, &request.name)? {
                    direct.delete(&id, PATIENT).await?;
                }
                return Ok(None);
            }
        }
    }
}

/// Two callers make one name at once, each where it allows one other node: nobody can prevent it, so it is reported. Where the second
/// controller has heard of the first volume already, it is refused, and another name is tried.
async fn a_name_is_twice(world: &World) -> Outcome<()> {
    for number in 0..TRIES {
        let name = format!("scene-twice-{number}");
        let (here, there) = (wanted(&name, &["n1"]), wanted(&name, &["n2"]));
        let (first, second) = (Direct::to(world, 0), Direct::to(world, 1));
        let (one, other) = tokio::join!(first.create(&here, PATIENT), second.create(&there, PATIENT));
        match (one, other) {
            (Ok(one), Ok(other)) => return reported_and_gone(world, &name, (one, other)).await,
            (Ok(only), Err(_)) | (Err(_), Ok(only)) => gone(world, &name, &only).await?,
            (one, other) => world.violation(format!("of {name} there is none: {one:?}, {other:?}")),
        }
    }
    world.violation("no name was ever given twice: the scene proved nothing");
    Ok(())
}

async fn reported_and_gone(world: &World, name: &str, (one, other): (Made, Made)) -> Outcome<()> {
    let hash = format!("{:016x}", name_hash(Named::Volume, name));
    if one.id == other.id || on_record(world, name)?.len() != 2 {
        world.violation(format!("{one:?} and {other:?} are not two"));
    }
    if !crate::random::reported(world, &hash).await {
        world.violation(format!("{one:?} and {other:?} have one name, and nobody says so"));
    }
    Direct::to(world, 1).delete(&one.id, PATIENT).await?;
    gone(world, name, &other).await
}

/// Mounts it, writes a slot or none, reads all, and unmounts it.
async fn use_it(world: &World, volume: &mut Volume, slot: Option<usize>) {
    world.stage(volume, PATIENT).await;
    world.publish(volume, PATIENT).await;
    if let Some(slot) = slot {
        world.write(volume, slot, Sync::Yes).await;
    }
    if volume.published != Is::Yes {
        world.violation(format!("it cannot be used: {}", volume.story()));
    }
    world.verify(volume).await;
    world.unpublish(volume, PATIENT).await;
    world.unstage(volume, PATIENT).await;
}

/// A volume that was just made.
async fn made(world: &World, controller: usize, request: &CreateVolumeRequest) -> Option<Made> {
    match Direct::to(world, controller).create(request, PATIENT).await {
        Ok(made) => Some(made),
        Err(status) => {
            world.violation(format!("CreateVolume in a whole cluster says {status:?}"));
            None
        }
    }
}

/// The number of the node where a volume is.
fn number(world: &World, made: &Made) -> usize {
    world.node.parts.iter().position(|part| part.name == made.node).unwrap_or(0)
}

fn must_be_open(world: &World, fault: &Fault, call: &str, answer: Result<(), tonic::Status>) {
    match answer {
        Err(status) if is_open(&status) => {}
        other => world.violation(format!("{fault:?}: {call} says {other:?}")),
    }
}

fn same(world: &World, when: &str, want: &Made, answer: Result<Made, tonic::Status>) {
    if !answer.as_ref().is_ok_and(|made| made == want) {
        world.violation(format!("{when}: {answer:?}, not {want:?}"));
    }
}

/// Removes a volume through both controllers, which may be done twice, and looks whether anything of the name is left.
async fn gone(world: &World, name: &str, made: &Made) -> Outcome<()> {
    let left = on_record(world, name)?;
    if left != [made.id.clone()] {
        world.violation(format!("of {name} there are {left:?}, not {made:?}"));
    }
    for controller in 0..CONTROLLERS {
        if let Err(status) = Direct::to(world, controller).delete(&made.id, PATIENT).await {
            world.violation(format!("DeleteVolume of {made:?} says {status:?}"));
        }
    }
    let left = on_record(world, name)?;
    if !left.is_empty() {
        world.violation(format!("of {name} there are {left:?} in the end"));
    }
    Ok(())
}
