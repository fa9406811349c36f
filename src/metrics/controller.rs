//! The metrics of a controller.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::registry::Registry;

use super::{Gauges, registry};
use crate::cluster::link::controller::{Desk, REASONS};
use crate::cluster::news::{Known, Standing};

/// Where the figures come from.
struct Sources {
    desk: Arc<Desk>,
    known: Arc<Known>,
}

impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sources")
    }
}

/// What a controller shows.
pub(crate) fn of_controller(desk: Arc<Desk>, known: Arc<Known>) -> Registry {
    let mut registry = registry();
    registry.register_collector(Box::new(Sources { desk, known }));
    registry
}

impl Collector for Sources {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let mut gauges = Gauges { encoder: &mut encoder };
        let refused = REASONS.iter().map(|reason| ([("reason", *reason)], self.desk.refused(reason)));
        let help = "Connections that were refused, by what was wrong with them";
        gauges.counts("link_refused", help, None, refused)?;
        let nodes = self.known.nodes();
        let standing = [("away", Standing::Away), ("untold", Standing::Untold), ("told", Standing::Told)];
        let labels = standing.map(|(name, _)| [("state", name)]);
        let rows = standing.iter().zip(&labels).map(|((_, standing), labels)| {
            let count = nodes.iter().filter(|seen| seen.standing == *standing).count();
            (&labels[..], u64::try_from(count).unwrap_or(u64::MAX))
        });
        let help = "Nodes by state: away, connected and yet to tell what they have, or connected and told";
        gauges.rows("nodes", help, None, rows)?;
        let twice = nodes.iter().flat_map(|seen| seen.pools.values()).filter(|pool| pool.twice).count();
        let help = "Pools that another node announces too, counted at each: a disk was copied";
        gauges.one("pools_twice", help, u64::try_from(twice).unwrap_or(u64::MAX))?;
        let help = "Names that are taken on several nodes: one of the volumes of each is an orphan";
        gauges.one("names_twice", help, self.known.names_twice())
    }
}
