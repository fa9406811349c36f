//! Adversities of the process: what the host refuses it, and what it does to the process itself.
//!
//! Owns: a driver that stands still, has no descriptor or loop device left, whose clock jumps, beside which another one starts,
//! and whose mounts somebody holds. Each ends with this program, whatever happens.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rockpool::os::mount;
use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};
use tonic::Code;

use crate::Outcome;
use crate::adversity::{Adversity, Comes, Goes, Trouble};
use crate::chance::Chance;
use crate::meanwhile::{ALL_CALLS, Allowance, STRICT};
use crate::model::Is;
use crate::program::Around;
use crate::requests::Shape;
use crate::world::World;

/// Whatever opens a file may fail, and is over then: nothing was done.
const ALMOST_NO_DESCRIPTORS: Allowance = Allowance { refused: &[(ALL_CALLS, &[Code::Internal])], ..STRICT };
/// Lack of a device is no lack of room: no other node is better for a volume that lies here.
const NO_DEVICE: Allowance = Allowance { refused: &[(&["node_stage_volume"], &[Code::Internal])], ..STRICT };
const HELD: Allowance = Allowance { refused: &[(&["delete_volume"], &[Code::FailedPrecondition])], ..STRICT };
/// A second driver waits ten seconds before it gives up.
const GIVES_UP: Duration = Duration::from_secs(15);
const PATIENCE: Duration = Duration::from_secs(10);
const LONG: Duration = Duration::from_secs(20 * 60);

/// A driver that stands still for a minute is met in long runs only.
pub(crate) fn table(run: Duration) -> Vec<Adversity> {
    let still = if run < LONG { 4000 } else { 60_000 };
    let anybody = |_: &World| None;
    let midway = |name, lasts, spared, allowance, impose| Adversity {
        name,
        spared,
        comes: Comes::Midway,
        goes: Goes::Midway,
        lasts,
        allowance,
        impose,
    };
    vec![
        midway("the driver is stopped", (50, still), anybody, STRICT, |world, _| Stopped::at(world)),
        midway("no descriptor is left", (50, 2000), anybody, ALMOST_NO_DESCRIPTORS, NoDescriptors::at),
        midway("no loop device is left", (200, 2000), without_loops, NO_DEVICE, |world, _| no_loops(world)),
        midway("the clock jumps", (50, 1000), without_a_clock, STRICT, jump),
        midway("a second driver", (100, 12_000), anybody, STRICT, |world, _| Second::at(world)),
        midway("a mount is held", (50, 1000), anybody, HELD, |world, _| Held::at(world)),
    ]
}

type Imposed<'a> = Outcome<Option<Box<dyn Trouble + 'a>>>;

fn pid(world: &World) -> Outcome<Pid> {
    let pid = world.node.program.pid().ok_or("no driver runs")?;
    Pid::from_raw(i32::try_from(pid)?).ok_or_else(|| "a driver without a pid".into())
}

/// A driver as it was when it was troubled; another one is not concerned.
struct Driver(Pid);

impl Driver {
    fn of(world: &World) -> Outcome<Driver> {
        pid(world).map(Driver)
    }

    fn is_still(&self, world: &World) -> bool {
        pid(world).is_ok_and(|now| now == self.0)
    }
}

/// SIGSTOP.
struct Stopped(Driver);

impl Stopped {
    fn at<'a>(world: &World) -> Imposed<'a> {
        let driver = Driver::of(world)?;
        kill_process(driver.0, Signal::STOP)?;
        Ok(Some(Box::new(Stopped(driver))))
    }
}

impl Trouble for Stopped {
    fn silences(&self) -> bool {
        true
    }

    fn end(&mut self, world: &World) -> Outcome<()> {
        if self.0.is_still(world) {
            kill_process(self.0.0, Signal::CONT)?;
        }
        Ok(())
    }
}

/// A limit on open files below what the driver needs. It counts for each of its tables.
struct NoDescriptors(Driver, Rlimit);

impl NoDescriptors {
    fn at<'a>(world: &World, chance: &mut Chance) -> Imposed<'a> {
        let driver = Driver::of(world)?;
        let few = u64::try_from(4 + chance.below(30))?;
        let old = rustix::process::getrlimit(Resource::Nofile);
        let new = Rlimit { current: Some(few), maximum: old.maximum };
        let old = prlimit(Some(driver.0), Resource::Nofile, new)?;
        Ok(Some(Box::new(NoDescriptors(driver, old))))
    }
}

impl Trouble for NoDescriptors {
    fn end(&mut self, world: &World) -> Outcome<()> {
        if self.0.is_still(world) {
            prlimit(Some(self.0.0), Resource::Nofile, self.1)?;
        }
        Ok(())
    }
}

/// A tracer of the driver that answers some of its calls itself, until it is dropped.
pub(crate) struct Tracer(Child);

impl Tracer {
    /// Answers as these options of strace say.
    pub(crate) fn at(world: &World, options: &[&str]) -> Outcome<Tracer> {
        let pid = pid(world)?.as_raw_nonzero().to_string();
        let mut strace = Command::new("strace");
        strace.args(["-f", "-q", "-o", "/dev/null"]).args(options).args(["-p", &pid]);
        let mut tracer = Tracer(strace.stdin(Stdio::null()).stderr(Stdio::null()).spawn()?);
        let began = Instant::now();
        while !is_traced(&pid) {
            if began.elapsed() > PATIENCE || tracer.0.try_wait()?.is_some() {
                return Err("strace does not attach".into());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(tracer)
    }
}

fn without_loops(world: &World) -> Option<&'static str> {
    let traced = Command::new("strace").args(["-q", "-o", "/dev/null", "true"]).status();
    if world.node.ground.copies() || world.node.ground.name().starts_with("image") {
        (!traced.is_ok_and(|status| status.success())).then_some("strace cannot trace here")
    } else {
        Some("a directory needs no device")
    }
}

/// Every question for a free device is answered as the kernel does when there is none.
fn no_loops<'a>(world: &World) -> Imposed<'a> {
    let trace = ["-e", "trace=ioctl", "-e", "inject=ioctl:error=ENOSPC", "-P", "/dev/loop-control"];
    Ok(Some(Box::new(Tracer::at(world, &trace)?)))
}

/// Whether all threads of a process are traced.
fn is_traced(pid: &str) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let mut statuses =
        threads.map(|thread| std::fs::read_to_string(thread.path().join("status")).unwrap_or_default());
    statuses.all(|status| !status.contains("TracerPid:\t0"))
}

impl Trouble for Tracer {
    fn end(&mut self, _: &World) -> Outcome<()> {
        if self.0.try_wait()?.is_none() {
            kill_process(Pid::from_child(&self.0), Signal::TERM)?;
        }
        // Where the driver is just starting a program, strace waits for ever for the thread that waits for that program, which strace
        // keeps stopped. When it is killed, the kernel lets go of both.
        let began = Instant::now();
        while self.0.try_wait()?.is_none() {
            if began.elapsed() > PATIENCE {
                self.0.kill()?;
                self.0.wait()?;
                break;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Moves the time of day by what a file says, and no other clock.
const SHIM: &str = include_str!("../support/clock_jump.c");
const SHIM_FILE: &str = "shim.so";
const JUMP_FILE: &str = "jump";
const DAY: i64 = 24 * 3600;

/// Gives a node a clock that can be moved, where a C compiler is at hand.
pub(crate) fn give_a_clock(world: &World) -> Outcome<()> {
    let shim = world.node.own(SHIM_FILE);
    if !compiled(SHIM, &shim)? {
        return Ok(());
    }
    let text = |path: PathBuf| path.display().to_string();
    let environment = vec![
        ("LD_PRELOAD".to_owned(), text(shim)),
        ("CLOCK_JUMP".to_owned(), text(world.node.own(JUMP_FILE))),
    ];
    world.node.program.around(Around { environment, ..Around::default() });
    Ok(())
}

/// Makes a library to be preloaded; whether there is a compiler that can.
pub(crate) fn compiled(source: &str, library: &Path) -> Outcome<bool> {
    let text = library.with_extension("c");
    std::fs::write(&text, source)?;
    let built = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(library).arg(&text).status();
    Ok(built.is_ok_and(|status| status.success()))
}

fn without_a_clock(world: &World) -> Option<&'static str> {
    (!world.node.own(SHIM_FILE).exists()).then_some("no C compiler is installed to make the clock")
}

/// A clock that was set, and stays so.
struct Jumped;

fn jump<'a>(world: &World, chance: &mut Chance) -> Imposed<'a> {
    let far = [10 * 365 * DAY, 20 * 365 * DAY, 365 * DAY, DAY, 3600][chance.below(5)];
    let by = [far, -far, 0][chance.below(3)];
    let (new, file) = (world.node.own("jump.new"), world.node.own(JUMP_FILE));
    std::fs::write(&new, by.to_string())?;
    std::fs::rename(new, file)?;
    Ok(Some(Box::new(Jumped)))
}

impl Trouble for Jumped {
    fn end(&mut self, _: &World) -> Outcome<()> {
        Ok(())
    }
}

/// Another driver on the same pool, which must give up and say who has it, and touch nothing until then.
struct Second {
    child: Option<Child>,
    began: Instant,
}

impl Second {
    fn at<'a>(world: &World) -> Imposed<'a> {
        let child = world.node.program.command()?.stderr(Stdio::piped()).spawn()?;
        Ok(Some(Box::new(Second { child: Some(child), began: Instant::now() })))
    }

    fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Trouble for Second {
    /// The second one waits for just that. It dies as well, at its work or before.
    fn killed(&mut self) -> Outcome<()> {
        std::thread::sleep(Duration::from_millis(u64::from(self.began.elapsed().subsec_micros() % 120)));
        self.stop();
        Ok(())
    }

    fn end(&mut self, world: &World) -> Outcome<()> {
        let Some(child) = &mut self.child else { return Ok(()) };
        let Some(status) = child.try_wait()? else {
            if self.began.elapsed() > GIVES_UP {
                world.violation("a second driver on the pool neither gives up nor is told to");
            }
            self.stop();
            return Ok(());
        };
        let mut said = String::new();
        if let Some(stderr) = &mut child.stderr {
            stderr.read_to_string(&mut said)?;
        }
        if status.success() || !said.contains("in use by") {
            world.violation(format!("a second driver on the pool ended with {status}: {said}"));
        }
        self.child = None;
        Ok(())
    }
}

impl Drop for Second {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Somebody has files of volumes open: what shows them must stay.
struct Held(Vec<(File, u64, PathBuf)>);

impl Held {
    fn at<'a>(world: &World) -> Imposed<'a> {
        let mounts = mount::table()?;
        let mut held = Vec::new();
        for volume in &world.volumes {
            let Ok(volume) = volume.try_lock() else { continue };
            if volume.published != Is::Yes {
                continue;
            }
            let target: &Path = &volume.spot.target;
            let Ok(file) = File::open(target) else { continue };
            let shown = mounts.iter().rfind(|mount| mount.point == target);
            // Who has a device open keeps the device, not the node that was bound.
            if let Some(shown) = shown.filter(|_| volume.shape != Shape::Block) {
                held.push((file, shown.id, target.to_owned()));
            } else {
                held.push((file, 0, PathBuf::new()));
            }
        }
        Ok(Some(Box::new(Held(held))))
    }
}

impl Trouble for Held {
    fn is_nothing(&self) -> bool {
        self.0.is_empty()
    }

    fn end(&mut self, world: &World) -> Outcome<()> {
        let mounts = mount::table()?;
        for (_, id, target) in self.0.drain(..).filter(|(_, id, _)| *id != 0) {
            if !mounts.iter().any(|mount| mount.id == id && mount.point == target) {
                world.violation(format!("{} was unmounted while a file was open there", target.display()));
            }
        }
        Ok(())
    }
}
