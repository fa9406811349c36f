//! The metrics of a process that has pools.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::registry::{Registry, Unit};

use super::{Gauges, registry};
use crate::cluster::link::node::Dialer;
use crate::cluster::transfer::{REASONS, Refusals};
use crate::engine::{Engine, PoolView};

/// Where the figures come from.
#[derive(Clone)]
pub(crate) struct Sources {
    pub(crate) engine: Weak<Engine>,
    /// Whether kubelet has registered the driver; none: it is not asked to.
    pub(crate) registered: Option<Arc<AtomicBool>>,
    /// What dials the controllers; none: there are none.
    pub(crate) dialer: Option<Arc<Dialer>>,
    /// Who was not let in to send a volume; none: there are no other nodes.
    pub(crate) refusals: Option<Arc<Refusals>>,
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
        pools(&engine.pools(), &mut gauges)?;
        gauges.one(
            "ready",
            "Whether every pool was looked through since the start",
            engine.ready().into(),
        )?;
        if let Some(registered) = &self.registered {
            let value = registered.load(Ordering::Relaxed).into();
            gauges.one("kubelet_registered", "Whether kubelet has registered the driver", value)?;
        }
        if let Some(dialer) = &self.dialer {
            gauges.one(
                "link_controllers",
                "Controllers to which there is a connection",
                dialer.connected(),
            )?;
        }
        if let Some(refusals) = &self.refusals {
            let refused = REASONS.iter().map(|reason| (*reason, refusals.of(reason)));
            let help = "Connections that were to send a volume and were refused, by what was wrong with them";
            gauges.counted("transfer_refused", help, "reason", refused)?;
        }
        Ok(())
    }
}

fn pools(pools: &[PoolView], gauges: &mut Gauges<'_, '_>) -> fmt::Result {
    let labels: Vec<_> = pools.iter().map(|pool| [("pool", pool.name.as_str())]).collect();
    let mut rows = |name, help, unit: Option<&Unit>, value: fn(&PoolView) -> u64| {
        let rows = pools.iter().zip(&labels).map(|(pool, labels)| (&labels[..], value(pool)));
        gauges.rows(name, help, unit, rows)
    };
    rows("pool_up", "Whether the pool can be used", None, |pool| pool.away.is_none().into())?;
    let help = "Whether the pool can be read and not be changed";
    rows("pool_read_only", help, None, |pool| pool.read_only.is_some().into())?;
    let bytes = Some(&Unit::Bytes);
    rows("pool_promised", "What the records of the pool promise", bytes, |pool| pool.promised.get())?;
    rows("pool_budget", "What may be promised in the pool in all", bytes, |pool| pool.budget.get())?;
    let help = "The part of what is promised that is deleted and still kept";
    rows("pool_retained", help, bytes, |pool| pool.retained.get())
}
