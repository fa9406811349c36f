//! One part on every pool that was asked for, side by side.
//!
//! Owns: a directory of its own for each, which goes at the end. Never: lets one pool wait for another.

use std::path::PathBuf;

use tokio::task::JoinSet;

use crate::Outcome;
use crate::node::Ground;
use crate::options::Options;

/// Runs `part` on each ground, and hands what came of it to `ended` as soon as it is known.
pub(crate) async fn on_each<T, P>(
    options: &Options,
    part: impl Fn(PathBuf, Ground, Options) -> P,
    mut ended: impl FnMut(Ground, T),
) -> Outcome<()>
where
    T: Send + 'static,
    P: Future<Output = Outcome<T>> + Send + 'static,
{
    let dir = tempfile::Builder::new().prefix("rp-torture.").tempdir()?;
    let mut all = JoinSet::new();
    for ground in options.grounds.clone() {
        let running = part(dir.path().join(ground.name()), ground, options.clone());
        all.spawn(async move { (ground, running.await) });
    }
    while let Some(joined) = all.join_next().await {
        let (ground, outcome) = joined?;
        ended(ground, outcome?);
    }
    Ok(())
}
