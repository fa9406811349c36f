//! How much can still be made, and how that of several pools adds up.
//!
//! Owns: the arithmetic of room, the same for the pools of one node and for the nodes of a cluster. Never: asks a pool.

use super::{Allocation, Asked, Bytes, UNIT};

/// A question about room.
#[derive(Clone, Debug, Default)]
pub struct CapacityQuery {
    /// In this pool only.
    pub pool: Option<String>,
    /// For volumes of this access only.
    pub asked: Option<Asked>,
    /// For volumes allocated so.
    pub allocation: Allocation,
}

/// What can still be made, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capacity {
    /// In all.
    pub available: Bytes,
    /// The largest single volume.
    pub maximum: Bytes,
    /// The smallest single volume.
    pub minimum: Bytes,
}

impl Capacity {
    /// Of several pools the sum, and the largest single volume of any.
    pub fn sum(rooms: impl IntoIterator<Item = Capacity>) -> Capacity {
        total(&rooms.into_iter().collect::<Vec<_>>()).unwrap_or_default()
    }

    /// Where so much is left, in volumes of at least `minimum`.
    pub fn within(left: Bytes, minimum: Bytes) -> Capacity {
        let available = left.round_down(UNIT);
        let maximum = if available < minimum { Bytes::ZERO } else { available };
        Capacity { available, maximum, minimum }
    }
}

/// What several pools have together. One in which nothing can be made counts only where that is true of all.
fn total(rooms: &[Capacity]) -> Option<Capacity> {
    let useful = rooms.iter().copied().filter(|room| room.maximum > Bytes::ZERO);
    useful.reduce(together).or(rooms.first().copied())
}

/// What two pools have together, of which each can make something.
fn together(one: Capacity, other: Capacity) -> Capacity {
    let all = one.available.checked_add(other.available);
    Capacity {
        available: all.unwrap_or(one.available.max(other.available)),
        maximum: one.maximum.max(other.maximum),
        minimum: one.minimum.min(other.minimum),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_that_can_make_nothing_changes_no_sum_wherever_it_stands() {
        let room = |available, minimum| {
            let available = Bytes::new(available);
            let maximum = if available < Bytes::new(minimum) { Bytes::ZERO } else { available };
            Capacity { available, maximum, minimum: Bytes::new(minimum) }
        };
        let (lacking, nearly_full) = (Capacity::default(), room(10, 300));
        let (one, other) = (room(1000, 4), room(5000, 300));
        let both =
            Capacity { available: Bytes::new(6000), maximum: Bytes::new(5000), minimum: Bytes::new(4) };
        assert_eq!(total(&[lacking, one, nearly_full, other]), Some(both));
        assert_eq!(total(&[one, other, nearly_full, lacking]), Some(both));
        assert_eq!(total(&[nearly_full, lacking]), Some(nearly_full));
        assert_eq!(total(&[]), None);
    }
}
