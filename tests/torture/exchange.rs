//! Whom a call goes to: here the one driver of the node. The test of a cluster has an exchange of its own in this place.
//!
//! Owns: the connections. Never: judges an answer.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tonic::Request;
use tonic::transport::Channel;

use crate::wire::{Answer, Of};
use crate::{Outcome, requests};

/// One driver, until it ends.
#[derive(Clone, Debug)]
pub(crate) struct Way {
    pub(crate) channel: Channel,
    driver: u64,
}

impl Way {
    /// A request as a caller with so much patience sends it: here it does not tell.
    pub(crate) fn request<T>(request: T, _patience: Duration) -> Request<T> {
        Request::new(request)
    }
}

/// The way to one driver.
#[derive(Debug, Default)]
pub(crate) struct Exchange {
    channel: Mutex<Option<Channel>>,
    /// To what CSI does not have.
    admin: Mutex<Option<Channel>>,
    /// Counts up with every driver that comes or goes.
    driver: AtomicU64,
}

impl Exchange {
    /// Connects to a driver that was just started.
    pub(crate) async fn connect(&self, (socket, admin): (&Path, &Path)) -> Outcome<()> {
        let channel = requests::endpoint(socket)?.connect().await?;
        let admin = requests::endpoint(admin)?.connect_lazy();
        self.driver.fetch_add(1, Ordering::Relaxed);
        *self.admin.lock().unwrap_or_else(PoisonError::into_inner) = Some(admin);
        *self.channel.lock().unwrap_or_else(PoisonError::into_inner) = Some(channel);
        Ok(())
    }

    /// Nothing answers any more.
    pub(crate) fn cut(&self) {
        self.driver.fetch_add(1, Ordering::Relaxed);
        *self.channel.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// The driver, if one is there.
    pub(crate) fn way(&self) -> Option<Way> {
        let channel = self.channel.lock().unwrap_or_else(PoisonError::into_inner).clone()?;
        Some(Way { channel, driver: self.driver.load(Ordering::Relaxed) })
    }

    /// Whether it is still that driver.
    pub(crate) fn lasts(&self, way: &Way) -> bool {
        way.driver == self.driver.load(Ordering::Relaxed)
    }

    /// Asks it; none where nobody is there.
    pub(crate) async fn ask<T, F: Future<Output = Answer<T>>>(
        &self,
        _of: Of<'_>,
        through: impl Fn(Way) -> F,
    ) -> Option<Answer<T>> {
        Some(through(self.way()?).await)
    }

    /// Where operators are served.
    pub(crate) fn admins(&self) -> Vec<Channel> {
        self.admin.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}
