//! Transfers to and from a node that a test moves by hand: what is asked of it is noted, and nothing ever comes.

use prost::Message;
use tonic::{Request, Response, Status, async_trait};

use super::fake::Fake;
use crate::model::VolumeId;
use crate::proto::csi::CreateVolumeRequest;
use crate::proto::link as wire;
use crate::proto::link::transfers_server::Transfers;

type Reply<T> = Result<Response<T>, Status>;

impl Fake {
    /// Is of a release that knows transfers from now on.
    pub(in crate::cluster) fn travel(&self) {
        *self.store.travels.lock().unwrap() = true;
    }

    /// Has nothing that could be copied from now on.
    pub(in crate::cluster) fn lose_sources(&self) {
        *self.store.has_no_source.lock().unwrap() = true;
    }

    fn knows_transfers(&self) -> Result<(), Status> {
        if *self.store.travels.lock().unwrap() { Ok(()) } else { Err(Status::unimplemented("")) }
    }

    fn has_source(&self) -> Result<(), Status> {
        let gone = *self.store.has_no_source.lock().unwrap();
        if gone { Err(Status::not_found("the source is gone")) } else { Ok(()) }
    }

    /// Whether it has begun to take a volume of this name.
    pub(in crate::cluster) fn takes(&self, name: &str) -> bool {
        self.store.taking.lock().unwrap().contains(name)
    }
}

#[async_trait]
impl Transfers for Fake {
    async fn describe(&self, _: Request<wire::DescribeRequest>) -> Reply<wire::DescribeResponse> {
        self.knows_transfers()?;
        self.has_source()?;
        let (size_bytes, access) = (1 << 30, "ext4".to_owned());
        let origin = Some(wire::Origin { size_bytes, access, fs_uuid: String::new() });
        Ok(wire::DescribeResponse { origin }.into())
    }

    async fn take(&self, request: Request<wire::TakeRequest>) -> Reply<wire::TakeResponse> {
        self.knows_transfers()?;
        let request = request.into_inner();
        let name = CreateVolumeRequest::decode(request.create_request.as_slice()).unwrap().name;
        if request.origin.is_none() && !self.takes(&name) {
            return Err(Status::not_found("there is none"));
        }
        self.store.taking.lock().unwrap().insert(name);
        let volume_id = VolumeId::new(self.own_pool(), [9; 8]).to_string();
        let ticket = Some(wire::Ticket { volume_id, size_bytes: 1 << 30, ..Default::default() });
        Ok(wire::TakeResponse { ticket, ..Default::default() }.into())
    }

    async fn give(&self, _: Request<wire::GiveRequest>) -> Reply<wire::GiveResponse> {
        self.has_source()?;
        *self.store.given.lock().unwrap() += 1;
        Ok(wire::GiveResponse::default().into())
    }

    async fn abandon(&self, _: Request<wire::AbandonRequest>) -> Reply<wire::AbandonResponse> {
        self.store.taking.lock().unwrap().clear();
        Ok(wire::AbandonResponse::default().into())
    }
}
