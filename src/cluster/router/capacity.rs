//! GetCapacity, from what nodes have told: nobody is asked.
//!
//! A node that was here and is away has no room: nothing can be made there. One that has only just connected has not told yet,
//! one that ought to be there has not found this controller yet, and a controller that has only just started has not heard
//! everybody: then there is no answer rather than a wrong one, which a scheduler would believe for a minute.

use super::Router;
use crate::cluster::news::{Pool, Room, Seen, Standing};
use crate::csi::Reply;
use crate::csi::checked::volumes::{self as checked, GetCapacity};
use crate::error::{Error, Result};
use crate::model::{Asked, Capacity, CapacityQuery};
use crate::proto::csi;

impl Router {
    pub(super) fn room(&self, request: &csi::GetCapacityRequest) -> Reply<csi::GetCapacityResponse> {
        let GetCapacity { query, node } = checked::capacity(request)?;
        let capacity = match query {
            Some(query) => self.capacity(&query, node.as_deref())?,
            None => Capacity::default(),
        };
        Ok(csi::GetCapacityResponse {
            available_capacity: capacity.available.as_i64(),
            maximum_volume_size: Some(capacity.maximum.as_i64()),
            minimum_volume_size: Some(capacity.minimum.as_i64()),
        }
        .into())
    }

    fn capacity(&self, query: &CapacityQuery, node: Option<&str>) -> Result<Capacity> {
        let all = self.0.known.nodes();
        let meant: Vec<&Seen> =
            all.iter().filter(|seen| node.is_none_or(|node| node == seen.node.as_str())).collect();
        if let Some(why) = self.starting().filter(|_| node.is_none() || meant.is_empty()) {
            return Err(Error::Unavailable(format!("{why}; ask again")));
        }
        if let Some(unheard) = self.unheard().find(|seen| node.is_none_or(|node| node == seen.node.as_str()))
        {
            return Err(Error::Unavailable(format!("{unheard}; ask again")));
        }
        if let Some(untold) = meant.iter().find(|seen| seen.standing == Standing::Untold) {
            return Err(Error::Unavailable(format!("{untold}; ask again")));
        }
        if let Some(pool) = &query.pool
            && !all.is_empty()
            // One that is away may come back with it.
            && all.iter().all(|seen| seen.standing == Standing::Told)
            && !all.iter().any(|seen| seen.pools.contains_key(pool))
        {
            return Err(Error::invalid("parameters[pool]", pool, "no node has a pool of this name"));
        }
        let here = meant.into_iter().filter(|seen| seen.standing == Standing::Told);
        Ok(Capacity::sum(here.flat_map(|seen| rooms(seen, query))))
    }
}

/// What the pools of a node have.
fn rooms(seen: &Seen, query: &CapacityQuery) -> Vec<Capacity> {
    let meant = |name: &String| query.pool.as_ref().is_none_or(|pool| pool == name);
    let pools = seen.pools.iter().filter(|(name, pool)| meant(name) && pool.away.is_none());
    pools
        .filter_map(|(_, pool)| room(pool, query))
        .map(|room| Capacity::within(room.available, room.minimum))
        .collect()
}

fn room<'a>(pool: &'a Pool, query: &CapacityQuery) -> Option<&'a Room> {
    let asked = query.asked.unwrap_or(Asked::Mount(None));
    pool.rooms.iter().find(|room| asked.fits(room.access) && room.allocation == query.allocation)
}
