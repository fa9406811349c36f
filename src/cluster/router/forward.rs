//! One call to one node.
//!
//! Owns: how long it may take, and what its failure means. Never: changes a request: two controllers that pass on the same
//! one must pass on the same bytes, since a node joins what is equal.

use std::future::Future;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};
use tonic::{Code, Request, Response, Status};

use super::Router;
use crate::cluster::link::{Line, is_told, told};
use crate::csi::Reply;
use crate::error::Error;
use crate::model::{NodeId, ObjectId, PoolId};
use crate::proto::csi::controller_client::ControllerClient;
use crate::proto::csi::group_controller_client::GroupControllerClient;

/// The longest answer of a node: a list.
const LONGEST: usize = 64 << 20;

/// Why a node's answer is none.
#[derive(Clone, Debug)]
pub(super) enum Failed {
    /// It said so.
    Told(Status),
    /// Nobody knows what it did.
    Open(Status),
}

impl Failed {
    /// Whether the node surely did nothing and is done with it, and for which reason.
    pub(super) fn code(&self) -> Option<Code> {
        match self {
            Failed::Told(status) => Some(status.code()),
            Failed::Open(_) => None,
        }
    }
}

impl From<Failed> for Status {
    fn from(failed: Failed) -> Status {
        match failed {
            Failed::Told(status) | Failed::Open(status) => status,
        }
    }
}

/// Whether a call with this answer is over: nothing of it goes on, and nothing of it is left.
pub(super) fn is_final(code: Code) -> bool {
    !matches!(code, Code::Unavailable | Code::Aborted | Code::Cancelled | Code::DeadlineExceeded)
}

/// A node's Controller service.
pub(super) fn controller(line: Line) -> ControllerClient<Line> {
    ControllerClient::with_origin(line, Line::origin()).max_decoding_message_size(LONGEST)
}

/// A node's GroupController service.
pub(super) fn groups(line: Line) -> GroupControllerClient<Line> {
    GroupControllerClient::with_origin(line, Line::origin()).max_decoding_message_size(LONGEST)
}

impl Router {
    /// Until when a call must have an answer.
    pub(super) fn until<T>(&self, request: &Request<T>) -> Instant {
        let patience = &self.0.patience;
        let asked = request.metadata().get("grpc-timeout").and_then(|text| timeout(text.to_str().ok()?));
        let left = asked.map_or(patience.answer, |asked| {
            // Where there is hardly any time, half of it.
            asked.saturating_sub(patience.margin).max(asked / 2).min(patience.answer)
        });
        Instant::now() + left
    }

    /// Asks the node that has a pool; what it says is the answer.
    pub(super) async fn at<R, F>(
        &self,
        pool: PoolId,
        until: Instant,
        call: impl FnOnce(Line) -> F,
    ) -> Reply<R>
    where
        F: Future<Output = Result<Response<R>, Status>>,
    {
        let node = self.holder(pool)?;
        Ok(self.forward(&node, until, call).await?.into())
    }

    /// Has something deleted by the node that has its pool. In a lost pool it is deleted as soon as that is written down.
    pub(super) async fn delete_at<R: Default, F>(
        &self,
        id: ObjectId,
        until: Instant,
        call: impl FnOnce(Line) -> F,
    ) -> Reply<R>
    where
        F: Future<Output = Result<Response<R>, Status>>,
    {
        if self.is_lost(id.pool()) {
            self.0.lost.deleted(id).await?;
            tracing::warn!(%id, "deleted in a lost pool: should that come back, this is an orphan");
            return Ok(R::default().into());
        }
        self.wonder(id.pool());
        self.at(id.pool(), until, call).await
    }

    /// Asks a node.
    pub(super) async fn forward<R, F>(
        &self,
        node: &NodeId,
        until: Instant,
        call: impl FnOnce(Line) -> F,
    ) -> Result<R, Failed>
    where
        F: Future<Output = Result<Response<R>, Status>>,
    {
        self.through(self.line(node)?, node, until, call).await
    }

    /// What a node can be asked through.
    ///
    /// # Errors
    /// Where there is nothing, and so nothing was done.
    pub(super) fn line(&self, node: &NodeId) -> Result<Line, Failed> {
        let gone = || {
            Error::Unavailable(format!(
                "node {node} has just lost its connection; nothing was done, ask again when it is back"
            ))
        };
        let line = self.0.links.of(node).ok_or_else(|| Failed::Open(gone().into()))?.line;
        if line.is_crowded() {
            let why = format!(
                "node {node} has more calls to answer than it takes at once, and many wait; nothing was done, ask again"
            );
            return Err(Failed::Open(Error::Unavailable(why).into()));
        }
        Ok(line)
    }

    /// Asks a node through this.
    pub(super) async fn through<R, F>(
        &self,
        line: Line,
        node: &NodeId,
        until: Instant,
        call: impl FnOnce(Line) -> F,
    ) -> Result<R, Failed>
    where
        F: Future<Output = Result<Response<R>, Status>>,
    {
        let open = |why: String| Failed::Open(Error::Unavailable(why).into());
        let begun = Instant::now();
        match timeout_at(until, call(line)).await {
            // What else is in the envelope is between the node and this controller.
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) if is_told(&status, node) => Err(Failed::Told(told(&status, node))),
            Ok(Err(status)) => Err(Failed::Open(told(&status, node))),
            Err(_) => Err(open(format!(
                "node {node} has not answered within {} ms; what it began goes on, ask again with the same request",
                begun.elapsed().as_millis()
            ))),
        }
    }
}

/// A deadline as gRPC writes it: at most eight digits and a unit.
fn timeout(text: &str) -> Option<Duration> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if number.len() > 8 || !number.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let number: u64 = number.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_read_as_grpc_writes_it() {
        for (text, want) in [
            ("10S", Some(Duration::from_secs(10))),
            ("2M", Some(Duration::from_secs(120))),
            ("1H", Some(Duration::from_secs(3600))),
            ("99999999m", Some(Duration::from_millis(99_999_999))),
            ("5u", Some(Duration::from_micros(5))),
            ("7n", Some(Duration::from_nanos(7))),
            ("", None),
            ("S", None),
            ("1", None),
            ("-1S", None),
            ("999999999S", None),
            ("1ü", None),
        ] {
            assert_eq!(timeout(text), want, "{text:?}");
        }
    }
}
