//! The metrics of a controller.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::registry::Registry;

use super::{Gauges, registry};
use crate::cluster::audit::{Audit, Figures};
use crate::cluster::link::controller::{Desk, REASONS};
use crate::cluster::news::Standing;
use crate::cluster::router::Router;

/// Where the figures come from.
struct Sources {
    desk: Arc<Desk>,
    router: Router,
    /// What compares and tells in Kubernetes; none: there is none.
    audit: Option<Arc<Audit>>,
}

impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sources")
    }
}

/// What a controller shows.
pub(crate) fn of_controller(desk: Arc<Desk>, router: Router, audit: Option<Arc<Audit>>) -> Registry {
    let mut registry = registry();
    registry.register_collector(Box::new(Sources { desk, router, audit }));
    registry
}

/// What the audit found. Where another controller leads, that one shows it.
fn audited(figures: &Figures, gauges: &mut Gauges<'_, '_>) -> fmt::Result {
    let help = "Whether this controller leads: one of all compares volumes with Kubernetes and writes Events";
    gauges.one("leader", help, figures.leads.into())?;
    if figures.leads {
        gauges.one("nodes_gone", "Nodes with volumes that are gone for too long", figures.nodes_gone)?;
        let help =
            "Nodes with volumes that are there, and whose kubelet does not know the driver for too long";
        gauges.one("nodes_without_driver", help, figures.nodes_without_driver)?;
    }
    if let Some((volumes, persistent)) = figures.lone.filter(|_| figures.leads) {
        let help = "Volumes to which no PersistentVolume leads";
        gauges.one("volumes_without_persistentvolume", help, volumes)?;
        let help = "PersistentVolumes that lead to a volume which its pool does not have";
        gauges.one("persistentvolumes_without_volume", help, persistent)?;
    }
    if let Some(count) = figures.without_pool.filter(|_| figures.leads) {
        gauges.one("persistentvolumes_without_pool", "PersistentVolumes whose pool no node has", count)?;
    }
    let help = "Failures of watches of the Kubernetes API";
    let failures = figures.failures.map(|(resource, count)| ([("resource", resource)], count));
    gauges.counts("watch_failures", help, None, failures)?;
    let help = "Kubernetes Events that were written";
    let told = figures.told.iter().map(|(reason, count)| ([("reason", *reason)], *count));
    gauges.counts("events", help, None, told)?;
    let help =
        "Kubernetes Events of claims and PersistentVolumes that were left out, since there were too many";
    gauges.count("events_dropped", help, figures.dropped)
}

impl Collector for Sources {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let mut gauges = Gauges { encoder: &mut encoder };
        let refused = REASONS.iter().map(|reason| ([("reason", *reason)], self.desk.refused(reason)));
        let help = "Connections that were refused, by what was wrong with them";
        gauges.counts("link_refused", help, None, refused)?;
        let known = self.router.known();
        let nodes = known.nodes();
        let standing = [("away", Standing::Away), ("untold", Standing::Untold), ("told", Standing::Told)];
        let labels = standing.map(|(name, _)| [("state", name)]);
        let rows = standing.iter().zip(&labels).map(|((_, standing), labels)| {
            let never = if *standing == Standing::Away { self.router.never_seen() } else { 0 };
            let count = nodes.iter().filter(|seen| seen.standing == *standing).count();
            (&labels[..], u64::try_from(count + never).unwrap_or(u64::MAX))
        });
        let help = "Nodes by state: away, connected and yet to tell what they have, or connected and told";
        gauges.rows("nodes", help, None, rows)?;
        let help = "Pools that several nodes announce: a disk was copied";
        gauges.one("pools_twice", help, known.pools_twice())?;
        let help = "Names that are taken on several nodes: one of the volumes of each is an orphan";
        gauges.one("names_twice", help, known.names_twice())?;
        self.audit.as_ref().map_or(Ok(()), |audit| audited(&audit.figures(), &mut gauges))
    }
}
