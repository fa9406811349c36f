//! Rockpool: a CSI driver for storage that is local to a node.
//!
//! This page is the map. Read it, then go to the file that it names.
//!
//! # The bird's eye
//!
//! ```text
//!   kubelet, sidecars, Nomad, `rockpool ctl`          an operator
//!              │ gRPC on a unix socket                     │ flags, one TOML file
//!              ▼                                           ▼
//!   serve  ── csi ─────────── engine ──────────── pool ── os ── Linux
//!   limits,   fields in,      records, claims,    image    durable files,
//!   one log   Error → Status  stage, publish,     directory loop devices,
//!   line      out             recovery            sim      mounts, mkfs, quota
//! ```
//!
//! A call comes in through `serve`, is checked field by field in `csi`, becomes a verb of `engine` on the threads of the
//! pool it concerns, and ends as a few system calls in `os`. Whatever must outlive a power cut is on disk before the answer
//! goes out.
//!
//! # The layers
//!
//! | layer | owns | must never see |
//! |---|---|---|
//! | `main` [`cli`] [`config`] [`node`] [`controller`] [`ctl`] [`serve`] [`kubelet`] [`metrics`] | processes, sockets, flags, the command line | – |
//! | [`cluster`] | many nodes as one: the connections between nodes and controllers, what a controller knows of its nodes, which of them answers a call, and what is compared and told in Kubernetes ([`cluster::audit`]) | engine, pool, os |
//! | [`csi`] | the wire: field checks, page tokens, which gRPC code an error gets; [`csi::checked`] reads a request in the same words on a node and on a controller, so it sees no engine; `csi::admin` is what CSI cannot say, on a socket of its own | pool kinds, programs, mounts |
//! | [`engine`] | the life of a volume: records, claims, verbs, stage and publish, recovery | tonic, prost, programs |
//! | [`pool`] | where bytes live; one module a kind, one contract for all | tonic, prost, the engine, other kinds |
//! | [`os`] | what only Linux knows; the only home of `unsafe`, programs, mounts and file replacement | all above |
//! | [`model`] [`error`] | valid values, and every way to say no | everything else |
//! | [`proto`] | what `build.rs` makes of `proto/*.proto` | everything; below `csi` nobody sees it |
//! | `faults` | `step!` and `planted!`: where tests/torture breaks things; nothing in a build without that feature | everything |
//!
//! `tests/layers.rs` reads every path in the sources and fails on a wrong one; `clippy.toml` keeps programs, mounts and file
//! replacement in `os`.
//!
//! # Architecture invariants
//!
//! - A string from the wire becomes an id once, in [`model`]; ids hold no user text and are safe as file names.
//! - Bytes exist only while a record exists: a change opens with a durable record and ends with one.
//! - A record is written only by the holder of its [`Claim`](engine::store::Store::claim).
//! - Nothing decides to format by looking: mkfs runs once, on a temporary object, before that gets its name.
//! - The mount table is the truth about mounts; a note about one is void when boot or mount id differ.
//! - A pool's files are open in its own threads' table of descriptors and in no other; `os::file::Kept` keeps it so. A thread
//!   that hangs with its disk cannot be killed, and holds what its table holds: nothing but its own pool.
//! - No decision depends on the host's clock, which jumps.
//! - A filesystem is frozen by a process of its own, which thaws it whatever becomes of the driver.
//! - gRPC codes are chosen in one match, in `csi::status`; nothing below knows them.
//! - There is no mock of a system call. The seams for tests are the [`Pool`](pool::Pool) trait and the process.
//!
//! # To add …
//!
//! - a pool kind: implement [`Pool`](pool::Pool), add it to [`pool::open`] and [`Kind`](pool::Kind), name its module in
//!   `tests/layers.rs`, give it a ground in `tests/contract.rs`.
//! - a CSI call: its messages in `proto/csi.proto`, a checked request in [`model`], read in [`csi::checked`], a verb of [`engine`], a
//!   handler in [`csi`], and the capability that advertises it in `csi::offers`.
//! - a call that CSI does not have: `proto/admin.proto`, a handler in `csi::admin`, a noun of [`ctl`]. What nodes tell controllers: `proto/news.proto`, `csi::news`; how a volume gets from one to another: `cluster::transfer`.
//! - a StorageClass parameter: `csi::class`, then [`CreateVolume`](model::CreateVolume).
//! - an Event in Kubernetes: a `Reason` in `cluster::audit::finding`; `judge` or `compare` says when it is one.
//! - an error: a variant of [`Error`](error::Error); the compiler names the match in `csi::status` that must place it.
//! - a phase: [`Phase`](model::Phase); the compiler leads to `engine::recover::settle`.
//! - a system call: `os`, with a `SAFETY` line if it needs `unsafe`.
//! - a metric: [`metrics`].
//! - a flag: [`cli`], checked in [`config`]; one of `rockpool ctl`: `ctl::args`. A cause that `ctl why` tells: `ctl::why`. A key of the pool file: `config::file`.
//! - a test: `tests/README.md` says which suite.
//!
//! # Words
//!
//! *Volume, snapshot, stage, publish* as in the CSI specification. *Pool*: a directory tree or device that one driver owns.
//! *Object*: the file or directory that holds a volume's or snapshot's bytes. *Record*: the JSON file that says it exists.
//! *Claim*: the right to change records now. *Settle*: to finish or undo what was interrupted. *Promise*: bytes that
//! a record counts against its pool, written or not. *Retained*: deleted for everybody but an operator, who may restore it. *Face*: what a mount of a volume must show.
//! *Link*: the connection that a node dials and a controller calls over. *Mark*: the node's name beside its answer.
//! *News*: what a node tells controllers that it has. *Holder*: the node that has a pool now.

#[macro_use]
mod faults;

pub mod cli;
pub mod cluster;
pub mod config;
pub mod controller;
pub mod csi;
pub mod ctl;
pub mod engine;
pub mod error;
pub mod kubelet;
pub mod metrics;
pub mod model;
pub mod node;
pub mod os;
pub mod pool;
pub mod proto;
pub mod serve;
