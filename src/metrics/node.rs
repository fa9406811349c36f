//! The metrics of a process that has pools.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::registry::{Registry, Unit};

use super::{Gauges, registry};
use crate::cluster::link::node::Dialer;
use crate::cluster::transfer::{Counts, REASONS, Refusals};
use crate::engine::{Engine, PoolView};
use crate::model::Bytes;
use crate::os::fs::late_thaws;

/// Where the figures come from.
#[derive(Clone)]
pub(crate) struct Sources {
    pub(crate) engine: Weak<Engine>,
    /// Whether kubelet has registered the driver; none: it is not asked to.
    pub(crate) registered: Option<Arc<AtomicBool>>,
    /// What dials the controllers; none: there are none.
    pub(crate) dialer: Option<Arc<Dialer>>,
    /// Who was not let in to send a volume, and what went and came; none: there are no other nodes.
    pub(crate) transfers: Option<(Arc<Refusals>, Arc<Counts>)>,
    /// Whether there is a row for each volume.
    pub(crate) each_volume: bool,
}

impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sources")
    }
}

/// What a node shows.
pub(crate) fn of_node(sources: Sources) -> Registry {
    let mut registry = registry();
    registry.register_collector(Box::new(sources));
    registry
}

impl Collector for Sources {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let Some(engine) = self.engine.upgrade() else { return Ok(()) };
        let mut gauges = Gauges { encoder: &mut encoder };
        let help = "Whether every pool was looked through since the start";
        gauges.one("ready", help, engine.ready().into())?;
        pools(&engine, &mut gauges)?;
        interruptions(&engine, &mut gauges)?;
        if self.each_volume {
            volumes(&engine, &mut gauges)?;
        }
        if let Some(registered) = &self.registered {
            let value = registered.load(Ordering::Relaxed).into();
            gauges.one("kubelet_registered", "Whether kubelet has registered the driver", value)?;
        }
        if let Some(dialer) = &self.dialer {
            let help = "Controllers to which there is a connection";
            gauges.one("link_controllers", help, dialer.connected())?;
        }
        let Some((refusals, counts)) = &self.transfers else { return Ok(()) };
        transfers(refusals, counts, &mut gauges)
    }
}

fn pools(engine: &Engine, gauges: &mut Gauges<'_, '_>) -> fmt::Result {
    let pools = engine.pools();
    let labels: Vec<_> = pools.iter().map(|pool| [("pool", pool.name.as_str())]).collect();
    let mut rows = |name, help, unit: Option<&Unit>, value: fn(&PoolView) -> Option<u64>| {
        let rows = pools.iter().zip(&labels);
        gauges.rows(name, help, unit, rows.filter_map(|(pool, of)| Some((&of[..], value(pool)?))))
    };
    rows("pool_up", "Whether the pool can be used", None, |pool| Some(pool.away.is_none().into()))?;
    let help = "Whether the pool can be read and not be changed";
    rows("pool_read_only", help, None, |pool| Some(pool.read_only.is_some().into()))?;
    let bytes = Some(&Unit::Bytes);
    let help = "What the records of the pool promise";
    rows("pool_promised", help, bytes, |pool| Some(pool.promised.get()))?;
    let help = "What may be promised in the pool in all";
    rows("pool_budget", help, bytes, |pool| Some(pool.budget.get()))?;
    let help = "The part of what is promised that is deleted and still kept";
    rows("pool_retained", help, bytes, |pool| Some(pool.retained.get()))?;
    let help = "How large the place of the pool is";
    rows("pool_size", help, bytes, |pool| pool.usage.map(|usage| usage.total.get()))?;
    let help = "What is taken of the place of the pool, by volumes, snapshots and others";
    rows("pool_used", help, bytes, |pool| pool.usage.map(|usage| usage.total.less(usage.free).get()))?;
    let help =
        "What others than its volumes and snapshots take of the place of the pool, where that can be told";
    rows("pool_foreign", help, bytes, |pool| pool.usage.map(|usage| usage.foreign.get()))?;
    let help = "What can still be written in the place of the pool";
    rows("pool_free", help, bytes, |pool| pool.usage.map(|usage| usage.free.get()))?;
    let tallies = engine.tallies();
    let mut counts = |name, help, value: &dyn Fn(usize) -> Option<usize>| {
        let rows = labels.iter().enumerate();
        let counted = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        gauges.rows(name, help, None, rows.filter_map(|(at, of)| Some((&of[..], counted(value(at)?)))))
    };
    counts("volumes", "Volumes that can be used", &|at| Some(tallies[at].0.volumes))?;
    counts("snapshots", "Snapshots that are cut", &|at| Some(tallies[at].0.snapshots))?;
    let help = "Operations that were begun and are not over, of calls at work and of interrupted ones";
    counts("unfinished", help, &|at| Some(tallies[at].0.unfinished))?;
    let help = "Records that cannot be read, so that what they are about cannot be used";
    counts("records_quarantined", help, &|at| Some(tallies[at].0.unreadable))?;
    let help = "Volumes that cannot be used or have lost data, as the last look found them";
    counts("volumes_unhealthy", help, &|at| tallies[at].1.unhealthy)?;
    let help =
        "Bytes without a record, records without bytes and files of others, as the last look found them";
    counts("orphans", help, &|at| tallies[at].1.orphans)
}

fn interruptions(engine: &Engine, gauges: &mut Gauges<'_, '_>) -> fmt::Result {
    let recoveries = engine.recoveries();
    let rows = [("settled", &recoveries.settled), ("failed", &recoveries.failed)];
    let help = "Interrupted operations that were taken up when their pool was opened";
    let rows = rows.map(|(result, count)| ([("result", result)], count.load(Ordering::Relaxed)));
    gauges.counts("recoveries", help, None, rows)?;
    let help = "Freezes of filesystems that took too long and were ended, so that what was cut did not count";
    gauges.count("thaw_timeouts", help, late_thaws())
}

/// The labels are what a Kubernetes operator knows a volume by.
fn volumes(engine: &Engine, gauges: &mut Gauges<'_, '_>) -> fmt::Result {
    let volumes = engine.volumes(None, usize::MAX);
    let described: Vec<_> = volumes
        .iter()
        .map(|volume| {
            let claim = volume.claim.as_ref();
            let namespace = claim.map_or("", |claim| claim.namespace.as_str());
            let name = claim.map_or("", |claim| claim.name.as_str());
            let pool = engine.pool_name(volume.id.pool()).unwrap_or_default();
            (volume.id.to_string(), pool, namespace, name, volume.size)
        })
        .collect();
    let rows: Vec<_> = described
        .iter()
        .map(|(id, pool, namespace, claim, size): &(String, &str, &str, &str, Bytes)| {
            let labels = [
                ("volume_id", id.as_str()),
                ("pool", *pool),
                ("namespace", *namespace),
                ("persistentvolumeclaim", *claim),
            ];
            (labels, size.get())
        })
        .collect();
    let help = "How large the volume is";
    gauges.rows(
        "volume_size",
        help,
        Some(&Unit::Bytes),
        rows.iter().map(|(labels, size)| (&labels[..], *size)),
    )
}

fn transfers(refusals: &Refusals, counts: &Counts, gauges: &mut Gauges<'_, '_>) -> fmt::Result {
    let help = "Connections that were to send a volume and were refused, by what was wrong with them";
    let refused = REASONS.iter().map(|reason| ([("reason", *reason)], refusals.of(reason)));
    gauges.counts("transfer_refused", help, None, refused)?;
    let help = "Attempts to bring a volume from node to node: it is whole, or the connection broke and another attempt goes on";
    let ended = counts.ended().map(|(way, end, count)| ([("direction", way), ("result", end)], count));
    gauges.counts("transfers", help, None, ended)?;
    let help = "Content of volumes that went from node to node";
    let bytes = counts.bytes().map(|(way, bytes)| ([("direction", way)], bytes));
    gauges.counts("transfer", help, Some(&Unit::Bytes), bytes)?;
    let running: Vec<_> = counts.running().map(|(way, count)| ([("direction", way)], count)).collect();
    let help = "Volumes that go from node to node now";
    gauges.rows("transfers_running", help, None, running.iter().map(|(labels, count)| (&labels[..], *count)))
}
