//! Damaged records: some are changed on the disk, or taken away, while the driver is down, and mended later.
//!
//! Owns: the names that are concerned, which nobody else works on meanwhile, what was there before, and what a driver may
//! answer about them: that it must be asked again, and nothing else. All other names are judged as ever.

use std::fmt::Debug;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use rockpool::proto::csi;
use tokio::sync::MutexGuard;
use tonic::Code;

use crate::Outcome;
use crate::adversity::{Adversity, Comes, Goes, Looking, Trouble};
use crate::chance::Chance;
use crate::facts::Facts;
use crate::host::run;
use crate::meanwhile::STRICT;
use crate::model::{Is, Snapshot, Volume};
use crate::requests;
use crate::wire::{Answer, PATIENT};
use crate::world::World;

const MOST: usize = 3;

pub(crate) fn table() -> Vec<Adversity> {
    let damaged = |name, impose| Adversity {
        name,
        spared: |_| None,
        comes: Comes::Down,
        goes: Goes::Down,
        lasts: (50, 1000),
        allowance: STRICT,
        impose,
    };
    vec![
        damaged("a bit of a record flips", |world, chance| {
            let bit = chance.below(8);
            Damage::at(world, chance, &mut move |mut bytes, at| {
                bytes[at] ^= 1 << bit;
                Some(bytes)
            })
        }),
        damaged("a record is cut", |world, chance| {
            Damage::at(world, chance, &mut |mut bytes, at| {
                bytes.truncate(at);
                Some(bytes)
            })
        }),
        damaged("a record is empty", |world, chance| Damage::at(world, chance, &mut |_, _| Some(Vec::new()))),
        damaged("a record is of a newer release", |world, chance| {
            Damage::at(world, chance, &mut |_, _| Some(newer()))
        }),
        damaged("a record is gone", |world, chance| Damage::at(world, chance, &mut |_, _| None)),
    ]
}

/// What a release that does not exist yet may have written.
fn newer() -> Vec<u8> {
    let body = r#"{"schema":2,"pool":"000000000000","generation":7,"record":{"future":{"id":1}}}"#;
    format!(r#"{{"checksum":"{:08x}","body":{body}}}"#, crc32c::crc32c(body.as_bytes())).into_bytes()
}

/// A place in a record that cannot change without anybody's notice, as the space at its end can.
fn within_body(record: &[u8], chance: &mut Chance) -> usize {
    let begin = record.windows(6).position(|word| word == b"\"body\"").unwrap_or(0);
    let end = record.iter().rposition(|byte| *byte == b'}').unwrap_or(0);
    begin + chance.below(end.saturating_sub(begin))
}

/// Whose record it is.
enum Name<'a> {
    Volume(MutexGuard<'a, Volume>),
    Snapshot(MutexGuard<'a, Snapshot>),
}

/// How a record is mended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mending {
    /// Somebody has a copy of the file, and puts it back while the driver is down.
    Restored,
    /// `ctl doctor` makes it anew from the copy with its object, while the driver runs.
    Rebuilt,
}

struct Victim<'a> {
    name: Name<'a>,
    record: PathBuf,
    good: Vec<u8>,
    /// None: the file is gone.
    bad: Option<Vec<u8>>,
    mending: Mending,
}

/// Records that cannot be read.
struct Damage<'a> {
    world: &'a World,
    victims: Vec<Victim<'a>>,
}

impl<'a> Damage<'a> {
    fn at(
        world: &'a World,
        chance: &mut Chance,
        change: &mut dyn FnMut(Vec<u8>, usize) -> Option<Vec<u8>>,
    ) -> Outcome<Option<Box<dyn Trouble + 'a>>> {
        let facts = Facts::of(&world.node)?;
        let volumes = world.volumes.iter().filter_map(|volume| volume.try_lock().ok());
        let volumes = volumes.filter(|volume| volume.exists == Is::Yes);
        let snapshots = world.snapshots.iter().filter_map(|snapshot| snapshot.try_lock().ok());
        let snapshots = snapshots.filter(|snapshot| snapshot.exists == Is::Yes);
        let mut names: Vec<Name<'a>> =
            volumes.map(Name::Volume).chain(snapshots.map(Name::Snapshot)).collect();
        let mut victims = Vec::new();
        for _ in 0..1 + chance.below(MOST) {
            if names.is_empty() {
                break;
            }
            let name = names.swap_remove(chance.below(names.len()));
            let id = name.id();
            if !facts.records.get(&id).is_some_and(|record| record.ready) {
                continue;
            }
            let record = world.node.pool().join("records").join(&id);
            let good = std::fs::read(&record)?;
            let bad = change(good.clone(), within_body(&good, chance));
            put(&record, bad.as_deref())?;
            let is_newer = bad == Some(newer());
            let mending = if is_newer || chance.percent(50) { Mending::Restored } else { Mending::Rebuilt };
            victims.push(Victim { name, record, good, bad, mending });
        }
        Ok(Some(Box::new(Damage { world, victims })))
    }

    /// The doctor is asked to mend what can be mended; what is to be restored is put back later, or is mended as well.
    fn rebuild(&self) -> Outcome<()> {
        let node = &self.world.node;
        for victim in self.victims.iter().filter(|victim| victim.mending == Mending::Rebuilt) {
            let mut doctor = Command::new(node.program.command()?.get_program());
            doctor.arg("ctl").arg("--admin-endpoint").arg(node.program.admin());
            let code = if victim.bad.is_some() { "RP-RECORD-QUARANTINED" } else { "RP-RECORD-LOST" };
            doctor.args(["doctor", "--repair", code, "--object", &victim.name.id()]);
            run(&mut doctor)?;
        }
        Ok(())
    }
}

impl Trouble for Damage<'_> {
    fn is_nothing(&self) -> bool {
        self.victims.is_empty()
    }

    fn look(&mut self) -> Looking<'_> {
        Box::pin(async {
            for victim in &self.victims {
                victim.look(self.world).await;
            }
            if let Err(error) = self.rebuild() {
                self.world.violation(format!("the doctor does not mend a record: {error}"));
            }
        })
    }

    fn end(&mut self, world: &World) -> Outcome<()> {
        for victim in self.victims.drain(..) {
            let found = if victim.record.exists() { Some(std::fs::read(&victim.record)?) } else { None };
            if victim.mending == Mending::Restored {
                if found != victim.bad {
                    let id = victim.name.id();
                    world.violation(format!("the damaged record {id} was not left as it is"));
                }
                put(&victim.record, Some(&victim.good))?;
            }
        }
        Ok(())
    }
}

impl Name<'_> {
    fn id(&self) -> String {
        let id = match self {
            Name::Volume(volume) => &volume.id,
            Name::Snapshot(snapshot) => &snapshot.id,
        };
        id.clone().unwrap_or_default()
    }
}

impl Victim<'_> {
    /// Whatever is asked about it is put off: neither done nor over. Of one that is gone nobody knows the name.
    async fn look(&self, world: &World) {
        let (wire, id) = (&world.node.wire, self.name.id());
        let open = |call: &str, said: Result<(), String>| {
            if let Err(said) = said {
                world.violation(format!("{call} of {id}, whose record is damaged: {said}"));
            }
        };
        let named = self.bad.is_some();
        match &self.name {
            Name::Volume(volume) => {
                if let Some(request) = volume.request.clone().filter(|_| named) {
                    open("CreateVolume by the name", put_off(wire.create(request, PATIENT).await));
                }
                open("DeleteVolume", put_off(wire.delete(requests::delete(&id), PATIENT).await));
                let request = requests::stage(&id, volume.shape, &volume.spot);
                open("NodeStageVolume", put_off(wire.stage(request, PATIENT).await));
                let request = csi::ControllerExpandVolumeRequest {
                    volume_id: id.clone(),
                    capacity_range: Some(csi::CapacityRange {
                        required_bytes: volume.size.1 + (4 << 20),
                        limit_bytes: 0,
                    }),
                    volume_capability: Some(volume.shape.capability()),
                    ..Default::default()
                };
                open("ControllerExpandVolume", put_off(wire.expand(request, PATIENT).await));
                let request = requests::snapshot("back", &id);
                if world.node.ground.copies() {
                    open("CreateSnapshot", put_off(wire.snapshot(request, PATIENT).await));
                }
            }
            Name::Snapshot(snapshot) => {
                let source = snapshot.of.as_ref().map(|of| of.id.clone()).unwrap_or_default();
                let request = requests::snapshot(&snapshot.name, &source);
                if named {
                    open("CreateSnapshot by the name", put_off(wire.snapshot(request, PATIENT).await));
                }
                open("DeleteSnapshot", put_off(wire.forget(requests::forget(&id), PATIENT).await));
            }
        }
    }
}

/// Writes a record in place, or removes it, so that no power cut takes it back: what the test does is not what is tested.
fn put(record: &Path, bytes: Option<&[u8]>) -> Outcome<()> {
    match bytes {
        Some(bytes) => {
            let mut file = File::create(record)?;
            file.write_all(bytes)?;
            file.sync_all()?;
        }
        None => std::fs::remove_file(record)?,
    }
    let folder = record.parent().ok_or("a record lies in a directory")?;
    Ok(File::open(folder)?.sync_all()?)
}

/// What was said instead of UNAVAILABLE.
fn put_off<T: Debug>(answer: Answer<T>) -> Result<(), String> {
    match answer {
        Answer::Open(Code::Unavailable, _) => Ok(()),
        Answer::Open(..) | Answer::Done(_) | Answer::Refused(..) => Err(format!("{answer:?}")),
    }
}
