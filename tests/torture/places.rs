//! Adversities of the place: a reboot, a pool that is read-only, gone, or under another disk.
//!
//! Owns: what is mounted at the pool's path, and what lies there instead. Never: unmounts what others use but lazily, as who
//! pulls a disk does.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rockpool::os::mount;
use tonic::Code;

use crate::Outcome;
use crate::adversity::{Adversity, Comes, Goes, Trouble};
use crate::ground::Ground;
use crate::host::run;
use crate::meanwhile::{Allowance, Io, OF_THE_POOL, STRICT, TEARDOWN, WRITE_TO_THE_POOL};
use crate::world::World;

/// The outcome of everything is open until the pool is back.
const AWAY: Allowance = Allowance { barred: OF_THE_POOL, served: TEARDOWN, ..STRICT };
const READ_ONLY: Allowance = Allowance {
    refused: &[(WRITE_TO_THE_POOL, &[Code::FailedPrecondition])],
    served: TEARDOWN,
    io: Io::MayFail,
    ..STRICT
};
/// How long it is tried to remount a pool read-only, which works at a moment when no file of it is open for writing.
const TRIED: Duration = Duration::from_millis(500);
/// Whoever looks at a disk lets go of it again.
const LOOKS: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(5);

pub(crate) fn table() -> Vec<Adversity> {
    let placed = |name, comes, lasts, allowance, impose| Adversity {
        name,
        spared: |_| None,
        comes,
        goes: Goes::Midway,
        lasts,
        allowance,
        impose,
    };
    vec![
        placed("a reboot", Comes::Reboot, (10, 100), STRICT, |_, _| Ok(Some(Box::new(Nothing)))),
        placed("a reboot before its disk", Comes::Reboot, (50, 7000), AWAY, |world, _| Away::at(world)),
        placed("the pool is unmounted", Comes::Midway, (50, 7000), AWAY, |world, _| Away::at(world)),
        placed("the pool is read-only", Comes::Midway, (50, 7000), READ_ONLY, |world, _| ReadOnly::at(world)),
        placed("another pool at its place", Comes::Midway, (50, 7000), AWAY, |world, _| {
            Wrong::at(world, Other::Pool)
        }),
        placed("another disk at its place", Comes::Midway, (50, 7000), AWAY, |world, _| {
            Wrong::at(world, Other::Disk)
        }),
    ]
}

type Imposed<'a> = Outcome<Option<Box<dyn Trouble + 'a>>>;

/// What was to happen has happened.
struct Nothing;

impl Trouble for Nothing {
    fn end(&mut self, _: &World) -> Outcome<()> {
        Ok(())
    }
}

/// A file that is not where it was.
enum Hidden {
    /// It has another name.
    Renamed(PathBuf, PathBuf),
    /// Something is mounted over its directory, which knows no other name for it.
    Covered(PathBuf),
}

impl Hidden {
    fn take(file: &Path) -> Outcome<Hidden> {
        let other = file.with_extension("hidden");
        if std::fs::rename(file, &other).is_ok() {
            return Ok(Hidden::Renamed(other, file.to_owned()));
        }
        let dir = file.parent().ok_or("a file without a directory")?.to_owned();
        run(Command::new("mount").args(["-t", "tmpfs", "none"]).arg(&dir))?;
        Ok(Hidden::Covered(dir))
    }

    fn show(self) -> Outcome<()> {
        match self {
            Hidden::Renamed(from, to) => Ok(std::fs::rename(from, to)?),
            Hidden::Covered(dir) => run(Command::new("umount").arg(dir)).map(drop),
        }
    }
}

/// A pool that nobody finds: what it lies on is hidden, and it is unmounted.
struct Away {
    pool: PathBuf,
    /// The file that the driver would mount again.
    hidden: Option<Hidden>,
    /// What we mount again, held so that it is the same.
    device: Option<(PathBuf, File)>,
}

impl Away {
    fn at<'a>(world: &World) -> Imposed<'a> {
        Ok(Some(Box::new(Away::take(world)?)))
    }

    fn take(world: &World) -> Outcome<Away> {
        let pool = world.node.pool().to_owned();
        let setups = rockpool::config::read(&world.node.program.config())?;
        let file = setups.first().and_then(|pool| pool.setup.file.clone());
        let table = mount::table()?;
        let mounted = table.iter().rfind(|mount| mount.point == pool);
        let device = match mounted.filter(|_| file.is_none()) {
            Some(mounted) => Some((mounted.source.clone(), File::open(&mounted.source)?)),
            None => None,
        };
        let hidden = file.map(|file| Hidden::take(&file)).transpose()?;
        let away = Away { pool, hidden, device };
        if mounted.is_some() {
            run(Command::new("umount").arg("-l").arg(&away.pool))?;
        }
        Ok(away)
    }

    /// What lies under the mount, where nobody may write.
    fn look_beneath(&self, world: &World) {
        let beneath: Vec<_> = std::fs::read_dir(&self.pool).into_iter().flatten().flatten().collect();
        if !beneath.is_empty() {
            world.violation(format!("written below the bare mount point: {beneath:?}"));
        }
    }

    fn give_back(&mut self) -> Outcome<()> {
        if let Some(hidden) = self.hidden.take() {
            hidden.show()?;
        }
        if let Some((device, _held)) = self.device.take() {
            run(Command::new("mount").arg(device).arg(&self.pool))?;
        }
        Ok(())
    }
}

impl Trouble for Away {
    fn end(&mut self, world: &World) -> Outcome<()> {
        self.look_beneath(world);
        self.give_back()
    }
}

impl Drop for Away {
    fn drop(&mut self) {
        let _ = self.give_back();
    }
}

/// A pool whose filesystem was remounted.
struct ReadOnly(PathBuf);

impl ReadOnly {
    fn at<'a>(world: &World) -> Imposed<'a> {
        let pool = world.node.pool();
        let began = Instant::now();
        while began.elapsed() < TRIED {
            // Refused as long as a file is open for writing, that of an attached image among them.
            if run(Command::new("mount").args(["-o", "remount,ro"]).arg(pool)).is_ok() {
                return Ok(Some(Box::new(ReadOnly(pool.to_owned()))));
            }
        }
        Ok(None)
    }

    fn take_back(&mut self) -> Outcome<()> {
        run(Command::new("mount").args(["-o", "remount,rw"]).arg(&self.0)).map(drop)
    }
}

impl Trouble for ReadOnly {
    fn end(&mut self, _: &World) -> Outcome<()> {
        self.take_back()
    }
}

impl Drop for ReadOnly {
    fn drop(&mut self) {
        let _ = self.take_back();
    }
}

/// What lies where the pool belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Other {
    /// Another pool.
    Pool,
    /// Somebody's disk that is no pool.
    Disk,
}

impl Other {
    fn name(self) -> &'static str {
        match self {
            Other::Pool => "other-pool",
            Other::Disk => "other-disk",
        }
    }

    /// Its image, made when it is first asked for.
    fn image(self, world: &World) -> Outcome<PathBuf> {
        let node = &world.node;
        let image = node.own(&format!("{}.img", self.name()));
        if image.exists() {
            return Ok(image);
        }
        let (new, point) = (node.own("other.new"), node.own("other"));
        File::create(&new)?.set_len(256 << 20)?;
        run(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&new))?;
        std::fs::create_dir_all(&point)?;
        run(Command::new("mount").args(["-o", "loop"]).arg(&new).arg(&point))?;
        let made = match self {
            Other::Pool => {
                let program = node.program.command()?.get_program().to_owned();
                let kind = if node.ground == Ground::Directory { "directory" } else { "image" };
                let mut init = Command::new(program);
                init.args(["pool", "init", "other", "--kind", kind, "--config"]).arg(node.own("other.toml"));
                if node.ground == Ground::Directory {
                    init.args(["--quota", "none"]);
                }
                run(init.arg("--directory").arg(&point)).map(drop)
            }
            Other::Disk => std::fs::create_dir(point.join("records"))
                .and_then(|()| std::fs::write(point.join("records/thesis"), "somebody's"))
                .map_err(Into::into),
        };
        run(Command::new("umount").arg(&point))?;
        made?;
        std::fs::rename(new, &image)?;
        Ok(image)
    }
}

/// Another disk at the pool's place.
struct Wrong {
    away: Away,
    other: Other,
    before: Vec<Entry>,
    kill: bool,
}

impl Wrong {
    fn at<'a>(world: &World, other: Other) -> Imposed<'a> {
        let image = other.image(world)?;
        let away = Away::take(world)?;
        run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&away.pool))?;
        let before = tree(&away.pool)?;
        // A pool that is a directory of a disk that others mount is whatever pool lies there when the driver starts.
        let kill = other == Other::Disk || world.node.ground != Ground::ImageOnExt4;
        Ok(Some(Box::new(Wrong { away, other, before, kill })))
    }
}

impl Trouble for Wrong {
    fn may_kill(&self) -> bool {
        self.kill
    }

    fn end(&mut self, world: &World) -> Outcome<()> {
        let after = tree(&self.away.pool)?;
        if after != self.before {
            let name = self.other.name();
            let odd: Vec<_> = after.iter().filter(|entry| !self.before.contains(entry)).collect();
            world.violation(format!("{name} at the pool's place was changed: {odd:?} of {}", after.len()));
        }
        let began = Instant::now();
        while let Err(error) = run(Command::new("umount").arg(&self.away.pool)) {
            if began.elapsed() > LOOKS {
                world.violation(format!("{} is held, though it is not the pool: {error}", self.other.name()));
                run(Command::new("umount").arg("-l").arg(&self.away.pool))?;
                break;
            }
            std::thread::sleep(PAUSE);
        }
        self.away.end(world)
    }
}

impl Drop for Wrong {
    fn drop(&mut self) {
        if self.away.hidden.is_some() || self.away.device.is_some() {
            let _ = run(Command::new("umount").arg("-l").arg(&self.away.pool));
        }
    }
}

/// A file or directory: its path, its last changes, and what it holds.
#[derive(Debug, PartialEq)]
struct Entry {
    path: PathBuf,
    changed: (i64, i64),
    modified: (i64, i64),
    bytes: Vec<u8>,
}

/// All below a directory, to the byte.
fn tree(dir: &Path) -> Outcome<Vec<Entry>> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let stat = std::fs::symlink_metadata(&path)?;
        let bytes = if stat.is_file() { std::fs::read(&path)? } else { Vec::new() };
        if stat.is_dir() {
            all.extend(tree(&path)?);
        }
        all.push(Entry {
            path,
            changed: (stat.ctime(), stat.ctime_nsec()),
            modified: (stat.mtime(), stat.mtime_nsec()),
            bytes,
        });
    }
    all.sort_by(|one, other| one.path.cmp(&other.path));
    Ok(all)
}
