//! What CSI cannot say: the Admin service of `proto/admin.proto`, for `rockpool ctl`.
//!
//! Owns: its field checks, and how the engine's answers look. It lives with the CSI services because it is built as they
//! are: the same parsing, the same codes, the same bridge to the pools' threads. Never: served where CSI is; its socket is
//! another one, which only root opens.

use tonic::{Request, async_trait};

use crate::engine::{Code, Finding, PoolView, Purged, Retained, Weight};
use crate::error::Result;
use crate::model::{ObjectId, Phase, Record, Source};
use crate::proto::admin;
use crate::proto::admin::admin_server::Admin;

use super::bridge::{PATIENCE, ask};
use super::describe::timestamp;
use super::diagnose::{Signs, examine};
use super::parse::{id, name, present, short};
use super::recent::RECENT;
use super::{Plugin, Reply, Services, noted};

#[async_trait]
impl Admin for Services {
    async fn list_pools(&self, _: Request<admin::ListPoolsRequest>) -> Reply<admin::ListPoolsResponse> {
        let plugin = self.plugin();
        let job = move || Ok(plugin.engine.pools().into_iter().map(shown_pool).collect());
        let pools = ask(self.plugin.engine.host_workers(), PATIENCE, job).await?;
        Ok(admin::ListPoolsResponse { pools }.into())
    }

    async fn list_retained(
        &self,
        _: Request<admin::ListRetainedRequest>,
    ) -> Reply<admin::ListRetainedResponse> {
        let kept = self.engine()?.retained();
        let retained = kept.iter().map(|one| self.plugin.shown_retained(one)).collect();
        let unread = self.plugin.engine.unread().map(|(pool, why)| admin::Unread { pool, why }).collect();
        Ok(admin::ListRetainedResponse { retained, unread }.into())
    }

    async fn restore(&self, request: Request<admin::RestoreRequest>) -> Reply<admin::RestoreResponse> {
        let request = noted(request, |r| &r.id);
        let id = object(&request.id)?;
        if !request.name.is_empty() {
            name("name", &request.name)?;
        }
        let wanted = request.name.clone();
        let plugin = self.plugin();
        let job = move || {
            let name = plugin.engine.restore(id, Some(wanted.as_str()).filter(|name| !name.is_empty()))?;
            Ok(admin::RestoreResponse { name })
        };
        self.lanes.restore.run(&request, self.changing(id, job)).await
    }

    async fn purge(&self, request: Request<admin::PurgeRequest>) -> Reply<admin::PurgeResponse> {
        let request = noted(request, |r| &r.id);
        let id = object(&request.id)?;
        let plugin = self.plugin();
        let job = move || {
            let absent = plugin.engine.purge(id)? == Purged::Absent;
            Ok(admin::PurgeResponse { absent })
        };
        self.lanes.purge.run(&request, self.changing(id, job)).await
    }

    async fn list_transfers(
        &self,
        _: Request<admin::ListTransfersRequest>,
    ) -> Reply<admin::ListTransfersResponse> {
        let transfers = self.engine()?.on_its_way().iter().filter_map(shown_transfer).collect();
        Ok(admin::ListTransfersResponse { transfers }.into())
    }

    type DiagnoseStream = Signs;

    async fn diagnose(&self, request: Request<admin::DiagnoseRequest>) -> Reply<Signs> {
        let request = noted(request, |r| &r.pool);
        short("pool", &request.pool)?;
        self.engine()?;
        Ok(examine(self.clone(), request).into())
    }

    async fn repair(&self, request: Request<admin::RepairRequest>) -> Reply<admin::RepairResponse> {
        let request = noted(request, |r| &r.object);
        present("pool", &request.pool)?;
        let code: Code = request.code.parse()?;
        let (pool, object) = (request.pool.clone(), request.object.clone());
        let plugin = self.plugin();
        let job = move || {
            let object = Some(object.as_str()).filter(|object| !object.is_empty());
            let mended = plugin.engine.mend(&pool, code, object)?;
            Ok(admin::RepairResponse { done: mended.done, failed: mended.failed })
        };
        let workers = self.engine()?.workers_named(&request.pool);
        self.lanes.repair.run(&request, || Ok((workers, job))).await
    }

    async fn recent_log(&self, _: Request<admin::RecentLogRequest>) -> Reply<admin::RecentLogResponse> {
        Ok(admin::RecentLogResponse { lines: RECENT.lines() }.into())
    }
}

fn object(text: &str) -> Result<ObjectId> {
    present("id", text)?;
    id("id", text)
}

/// A finding as the wire, and so the command line, shows it.
pub(crate) fn finding(found: Finding) -> admin::Finding {
    let severity = match found.code.weight() {
        Weight::Notice => admin::finding::Severity::Notice,
        Weight::Warning => admin::finding::Severity::Warning,
        Weight::Error => admin::finding::Severity::Error,
    };
    admin::Finding {
        code: found.code.to_string(),
        severity: severity.into(),
        pool: found.pool.unwrap_or_default(),
        object: found.object.unwrap_or_default(),
        what: found.what,
        repair: found.repair,
    }
}

fn shown_pool(pool: PoolView) -> admin::Pool {
    let setup = &pool.config.setup;
    admin::Pool {
        name: pool.name,
        kind: setup.kind.name().to_owned(),
        id: pool.id.map_or_else(String::new, |id| id.to_string()),
        path: setup.path.display().to_string(),
        away: pool.away.unwrap_or_default(),
        promised_bytes: pool.promised.as_i64(),
        budget_bytes: pool.budget.as_i64(),
        retained_bytes: pool.retained.as_i64(),
    }
}

fn shown_transfer(record: &Record) -> Option<admin::Transfer> {
    match record {
        Record::Volume(volume) => {
            let Phase::Receiving { done, .. } = volume.phase else { return None };
            let source = match volume.source {
                Source::Volume(id) => id.to_string(),
                Source::Snapshot(id) => id.to_string(),
                Source::Blank => String::new(),
            };
            Some(admin::Transfer {
                id: volume.id.to_string(),
                name: volume.name.clone(),
                incoming: true,
                source,
                copy: volume.id.to_string(),
                size_bytes: volume.size.as_i64(),
                received_bytes: done.as_i64(),
            })
        }
        Record::Snapshot(cut) => {
            let Phase::Lent { to } = cut.phase else { return None };
            Some(admin::Transfer {
                id: cut.id.to_string(),
                source: cut.source.to_string(),
                copy: to.to_string(),
                size_bytes: cut.size.as_i64(),
                ..Default::default()
            })
        }
        Record::Group(_) => None,
    }
}

impl Plugin {
    fn shown_retained(&self, one: &Retained) -> admin::Retained {
        let claim = one.claim.clone().unwrap_or_default();
        admin::Retained {
            id: one.id.to_string(),
            name: one.name.clone(),
            pool: self.engine.pool_name(one.id.pool()).unwrap_or_default().to_owned(),
            size_bytes: one.size.as_i64(),
            promised_bytes: one.promised.as_i64(),
            deleted: Some(timestamp(one.deleted)),
            seconds_left: i64::try_from(one.left.seconds()).unwrap_or(i64::MAX),
            claim_namespace: claim.namespace,
            claim_name: claim.name,
        }
    }
}
