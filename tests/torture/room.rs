//! Adversities of room: pools without a byte, and without an inode, left.
//!
//! Owns: the files of a stranger that take it all, and take again what a delete gave back, until they go.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use tonic::Code;

use crate::Outcome;
use crate::adversity::{Adversity, Comes, Goes, Trouble};
use crate::ground::Ground;
use crate::meanwhile::{Allowance, DELETES, GAVE_UP, Io, MAKES, STRICT};
use crate::world::World;

/// An image that finds no block for what its filesystem writes has a filesystem that cannot be mounted or grown now.
const FULL: Allowance = Allowance {
    refused: &[
        (MAKES, &[Code::ResourceExhausted]),
        GAVE_UP,
        (&["node_stage_volume", "node_expand_volume"], &[Code::Internal, Code::ResourceExhausted]),
    ],
    served: DELETES,
    io: Io::MayFail,
    ..STRICT
};
const NO_INODE: Allowance =
    Allowance { refused: &[(MAKES, &[Code::ResourceExhausted])], served: DELETES, ..STRICT };
const PAUSE: Duration = Duration::from_millis(20);
const MIB: u64 = 1 << 20;

pub(crate) fn table() -> Vec<Adversity> {
    let filled = |name, spared, comes, allowance, impose| Adversity {
        name,
        spared,
        comes,
        goes: Goes::Midway,
        lasts: (200, 3000),
        allowance,
        impose,
    };
    vec![
        filled("the pool is full", |_| None, Comes::Synced, FULL, |world, _| Filler::at(world, blocks)),
        filled("no inode is left", without_inodes, Comes::Midway, NO_INODE, |world, _| {
            Filler::at(world, inodes)
        }),
    ]
}

fn without_inodes(world: &World) -> Option<&'static str> {
    (world.node.ground != Ground::ImageOnExt4).then_some("xfs makes inodes as long as it has blocks")
}

/// Takes what there is, below a directory of its own; the number names the next file.
type Fill = fn(&Path, &mut usize);

/// Files of a stranger.
struct Filler {
    at: PathBuf,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Filler {
    fn at<'a>(world: &World, fill: Fill) -> Outcome<Option<Box<dyn Trouble + 'a>>> {
        let at = world.node.pool().join("filler");
        std::fs::create_dir(&at)?;
        let mut number = 0;
        fill(&at, &mut number);
        let over = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let (at, over) = (at.clone(), Arc::clone(&over));
            move || {
                while !over.load(Ordering::Relaxed) {
                    std::thread::sleep(PAUSE);
                    fill(&at, &mut number);
                }
            }
        });
        Ok(Some(Box::new(Filler { at, over, thread: Some(thread) })))
    }

    fn stop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Trouble for Filler {
    fn end(&mut self, _: &World) -> Outcome<()> {
        self.stop();
        Ok(std::fs::remove_dir_all(&self.at)?)
    }
}

impl Drop for Filler {
    fn drop(&mut self) {
        self.stop();
        let _ = std::fs::remove_dir_all(&self.at);
    }
}

/// Takes every block.
fn blocks(at: &Path, number: &mut usize) {
    for step in [256 * MIB, MIB, 64 << 10, 4096] {
        loop {
            *number += 1;
            let path = at.join(number.to_string());
            let Ok(file) = File::create(&path) else { break };
            let flags = rustix::fs::FallocateFlags::empty();
            if rustix::fs::fallocate(&file, flags, 0, step).is_err() {
                let _ = std::fs::remove_file(path);
                break;
            }
        }
    }
}

/// Takes every inode, with nothing in it.
fn inodes(at: &Path, number: &mut usize) {
    while File::create(at.join(number.to_string())).is_ok() {
        *number += 1;
    }
}
