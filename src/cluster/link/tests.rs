//! Both ends of the link together: in memory, and over loopback.

pub(in crate::cluster) mod authority;
mod loopback;
mod refusals;
mod tokens;

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{DuplexStream, copy_bidirectional};
use tokio::task::JoinHandle;
use tonic::codegen::{Body, Bytes};
use tonic::service::Routes;
use tonic::{Code, Request, Response, Status};

use self::authority::{Authority, QUICK};
use super::controller::Desk;
use super::node::{Dialer, Unmet, Welcomed};
use super::{Alive, Line, Link, MARK, told};
use crate::model::NodeId;
use crate::proto::csi;
use crate::proto::csi::identity_client::IdentityClient;
use crate::proto::csi::identity_server::{Identity, IdentityServer};
use crate::serve::Linked;

/// What a node of the tests serves. Probe takes half a second.
#[derive(Clone)]
struct Service {
    name: String,
}

const LONG: Duration = Duration::from_millis(500);

#[tonic::async_trait]
impl Identity for Service {
    async fn get_plugin_info(
        &self,
        _: Request<csi::GetPluginInfoRequest>,
    ) -> Result<Response<csi::GetPluginInfoResponse>, Status> {
        Ok(csi::GetPluginInfoResponse { name: self.name.clone(), ..Default::default() }.into())
    }

    async fn get_plugin_capabilities(
        &self,
        _: Request<csi::GetPluginCapabilitiesRequest>,
    ) -> Result<Response<csi::GetPluginCapabilitiesResponse>, Status> {
        Err(Status::resource_exhausted("the pool is full"))
    }

    async fn probe(&self, _: Request<csi::ProbeRequest>) -> Result<Response<csi::ProbeResponse>, Status> {
        tokio::time::sleep(LONG).await;
        Ok(csi::ProbeResponse { ready: Some(true) }.into())
    }
}

fn linked(node: &str) -> Linked {
    let service = Service { name: format!("i am {node}") };
    Linked::new(Routes::new(IdentityServer::new(service)), &node.parse().unwrap(), QUICK.ping)
}

fn client(link: &Link) -> IdentityClient<Line> {
    IdentityClient::with_origin(link.line.clone(), Line::origin())
}

async fn name(link: &Link) -> Result<String, Status> {
    let answer = client(link).get_plugin_info(csi::GetPluginInfoRequest {}).await;
    answer.map(|answer| answer.into_inner().name)
}

pub(in crate::cluster) fn id(node: &str) -> NodeId {
    node.parse().unwrap()
}

/// Waits for what will be true soon.
pub(in crate::cluster) async fn soon<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    for _ in 0..500 {
        if let Some(found) = look() {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("not within 5 s: {what}");
}

/// The two meet in memory; what the node came to.
async fn meet(desk: &Desk, dialer: &Dialer) -> Result<Welcomed<DuplexStream>, Unmet> {
    let (near, far) = tokio::io::duplex(64 << 10);
    let (welcomed, ()) = tokio::join!(dialer.greet(near, None), desk.meet(far, "memory"));
    welcomed
}

/// Serves a connection in the background; ends it when what is returned is dropped.
fn serve(node: &str, welcomed: Welcomed<DuplexStream>) -> tokio::sync::watch::Sender<bool> {
    let (stop, mut stopped) = tokio::sync::watch::channel(false);
    let linked = linked(node);
    tokio::spawn(async move {
        let Welcomed { stream, gone, .. } = welcomed;
        let stop = async move { drop(stopped.wait_for(|stop| *stop).await) };
        linked.serve(stream, gone.wait(), stop).await;
    });
    stop
}

/// Lets a node connect that serves this; what is returned is the cable between the two, which whoever aborts it cuts.
pub(in crate::cluster) async fn join(desk: &Desk, dialer: &Dialer, linked: Linked) -> JoinHandle<()> {
    let (near, mut end) = tokio::io::duplex(64 << 10);
    let (mut start, far) = tokio::io::duplex(64 << 10);
    let cable = tokio::spawn(async move { drop(copy_bidirectional(&mut end, &mut start).await) });
    let (welcomed, ()) = tokio::join!(dialer.greet(near, None), desk.meet(far, "memory"));
    let Welcomed { stream, gone, .. } = welcomed.unwrap();
    tokio::spawn(linked.serve(stream, gone.wait(), std::future::pending()));
    cable
}

/// Both ends, connected.
async fn connected(desk: &Desk, dialer: &Dialer, node: &str) -> (Link, tokio::sync::watch::Sender<bool>) {
    let welcomed = meet(desk, dialer).await.unwrap();
    let stop = serve(node, welcomed);
    (desk.links().of(&id(node)).unwrap(), stop)
}

#[tokio::test]
async fn a_node_serves_on_the_connection_that_it_dialled() {
    let authority = Authority::new();
    let desk = authority.desk();
    let (link, _stop) = connected(&desk, &authority.node("n1"), "n1").await;
    assert_eq!(name(&link).await.unwrap(), "i am n1");
    assert_eq!((link.protocol, link.version.as_str()), (1, env!("CARGO_PKG_VERSION")));
    assert_eq!(desk.links().all().len(), 1);
    // Idle for longer than both sides would wait for a sign of life.
    tokio::time::sleep(QUICK.silence + QUICK.ping).await;
    assert_eq!(name(&link).await.unwrap(), "i am n1");
}

#[tokio::test]
async fn only_what_the_node_itself_said_is_passed_on() {
    let authority = Authority::new();
    let desk = authority.desk();
    let (link, stop) = connected(&desk, &authority.node("n1"), "n1").await;
    let request = csi::GetPluginCapabilitiesRequest {};
    let full = client(&link).get_plugin_capabilities(request).await.unwrap_err();
    assert!(full.metadata().get(MARK).is_some());
    let passed = told(&full, &link.node);
    assert_eq!((passed.code(), passed.message()), (Code::ResourceExhausted, "the pool is full"));
    assert!(passed.metadata().is_empty());
    assert_eq!(told(&full, &id("n2")).code(), Code::Unavailable, "another node's mark is none");
    drop(stop);
    soon("the node is gone", || desk.links().of(&id("n1")).is_none().then_some(())).await;
    let broken = name(&link).await.unwrap_err();
    let unknown = told(&broken, &link.node);
    assert_eq!(unknown.code(), Code::Unavailable);
    assert!(unknown.message().contains("node n1") && unknown.message().contains("ask again"), "{unknown}");
    for code in [Code::Unknown, Code::Internal, Code::ResourceExhausted, Code::Cancelled] {
        assert_eq!(told(&Status::new(code, "the wire"), &link.node).code(), Code::Unavailable, "{code:?}");
    }
}

/// Begins to answer, and no more, or goes on with these bytes after each such time.
#[derive(Clone)]
struct HalfAnAnswer(Option<(Duration, &'static [u8])>);

impl tonic::server::NamedService for HalfAnAnswer {
    const NAME: &'static str = "csi.v1.Identity";
}

impl tower::Service<http::Request<tonic::body::Body>> for HalfAnAnswer {
    type Response = http::Response<Unfinished>;
    type Error = std::convert::Infallible;
    type Future = std::future::Ready<Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: http::Request<tonic::body::Body>) -> Self::Future {
        let answer = http::Response::builder().header("content-type", "application/grpc");
        let more =
            self.0.map(|(pause, bytes)| More { pause: tokio::time::interval(pause), next: START, bytes });
        std::future::ready(Ok(answer.body(Unfinished(more)).unwrap()))
    }
}

/// The beginning of a message of nearly 4 MiB, of which clients take no more.
const START: &[u8] = b"\0\0\x3f\xff\xff";

struct More {
    pause: tokio::time::Interval,
    next: &'static [u8],
    bytes: &'static [u8],
}

/// A body of which nothing ever comes, or more time after time.
struct Unfinished(Option<More>);

impl Body for Unfinished {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<hyper::body::Frame<Self::Data>, Self::Error>>> {
        let Some(More { pause, next, bytes }) = &mut self.0 else { return Poll::Pending };
        ready!(pause.poll_tick(cx));
        let data = std::mem::replace(next, bytes);
        Poll::Ready(Some(Ok(hyper::body::Frame::data(Bytes::from_static(data)))))
    }
}

/// The client library asks for a sign of life only where none comes by itself, and the controller has nothing to say for hours.
#[tokio::test]
async fn a_node_that_speaks_and_hears_nothing_stays_connected() {
    let authority = Authority::new();
    let desk = authority.desk();
    let linked = Linked::new(Routes::new(HalfAnAnswer(Some((QUICK.ping / 4, b"\0")))), &id("n1"), QUICK.ping);
    let _cable = join(&desk, &authority.node("n1"), linked).await;
    let link = desk.links().of(&id("n1")).unwrap();
    let mut caller = client(&link);
    let listening = tokio::spawn(async move { caller.probe(csi::ProbeRequest {}).await });
    tokio::time::sleep(QUICK.silence * 3 / 2).await;
    assert!(!link.line.is_closed() && !listening.is_finished());
    listening.abort();
}

/// While an answer is on its way that nobody takes.
#[tokio::test]
async fn a_controller_that_vanishes_under_an_answer_is_missed() {
    let authority = Authority::new();
    let (desk, dialer) = (authority.desk(), authority.node("n1"));
    let (near, mut end) = tokio::io::duplex(4 << 10);
    let (mut start, far) = tokio::io::duplex(4 << 10);
    let (freeze, frozen) = tokio::sync::oneshot::channel::<()>();
    // Once frozen it keeps both ends and moves nothing.
    let cable = tokio::spawn(async move {
        tokio::select! {
            _ = copy_bidirectional(&mut end, &mut start) => {}
            _ = frozen => {}
        }
        std::future::pending::<()>().await;
    });
    let (welcomed, ()) = tokio::join!(dialer.greet(near, None), desk.meet(far, "memory"));
    let Welcomed { stream, gone, .. } = welcomed.unwrap();
    let answers = Routes::new(HalfAnAnswer(Some((Duration::from_millis(1), &[0; 8 << 10]))));
    let linked = Linked::new(answers, &id("n1"), QUICK.ping);
    let serving = tokio::spawn(linked.serve(stream, gone.wait(), std::future::pending()));
    let mut caller = client(&desk.links().of(&id("n1")).unwrap());
    let calling = tokio::spawn(async move { caller.probe(csi::ProbeRequest {}).await });
    tokio::time::sleep(LONG / 5).await;
    freeze.send(()).unwrap();
    within("the node gives the connection up", serving).await.unwrap();
    calling.abort();
    cable.abort();
}

#[tokio::test]
async fn a_node_that_dies_while_it_answers_has_said_nothing() {
    let authority = Authority::new();
    let desk = authority.desk();
    let linked = Linked::new(Routes::new(HalfAnAnswer(None)), &id("n1"), QUICK.ping);
    let cable = join(&desk, &authority.node("n1"), linked).await;
    let link = desk.links().of(&id("n1")).unwrap();
    let mut caller = client(&link);
    let calling = tokio::spawn(async move { caller.probe(csi::ProbeRequest {}).await });
    // Its headers have come by then, with the mark; nobody can be asked about that.
    tokio::time::sleep(LONG / 5).await;
    cable.abort();
    let broken = within("the call ends", calling).await.unwrap().unwrap_err();
    assert_eq!(told(&broken, &link.node).code(), Code::Unavailable, "{broken:?}");
}

#[tokio::test]
async fn a_node_that_stops_lets_running_calls_finish() {
    let authority = Authority::new();
    let desk = authority.desk();
    let (link, stop) = connected(&desk, &authority.node("n1"), "n1").await;
    let mut running = client(&link);
    let running = tokio::spawn(async move { running.probe(csi::ProbeRequest {}).await });
    tokio::time::sleep(LONG / 5).await;
    drop(stop);
    assert_eq!(running.await.unwrap().unwrap().into_inner().ready, Some(true));
    soon("the link is gone", || desk.links().all().is_empty().then_some(())).await;
}

#[tokio::test]
async fn a_controller_that_stops_lets_running_calls_finish() {
    let authority = Authority::new();
    let (desk, dialer) = (authority.desk(), authority.node("n1"));
    let Welcomed { stream, gone, .. } = meet(&desk, &dialer).await.unwrap();
    let serving = tokio::spawn(linked("n1").serve(stream, gone.wait(), std::future::pending()));
    let mut running = client(&desk.links().of(&id("n1")).unwrap());
    let running = tokio::spawn(async move { running.probe(csi::ProbeRequest {}).await });
    tokio::time::sleep(LONG / 5).await;
    desk.part();
    assert_eq!(running.await.unwrap().unwrap().into_inner().ready, Some(true));
    within("the node hears of it", serving).await.unwrap();
}

#[tokio::test]
async fn of_two_connections_of_a_node_the_later_one_counts() {
    let authority = Authority::new();
    let (desk, node) = (authority.desk(), authority.node("n1"));
    let (first, _stop) = connected(&desk, &node, "n1").await;
    let mut running = client(&first);
    let running = tokio::spawn(async move { running.probe(csi::ProbeRequest {}).await });
    tokio::time::sleep(LONG / 5).await;
    let (second, _stop) = connected(&desk, &node, "n1").await;
    assert!(second.attempt > first.attempt && second.instance == first.instance);
    running.await.unwrap().unwrap();
    // A process that was started again begins to count anew.
    let (third, _stop) = connected(&desk, &authority.node("n1"), "n1").await;
    assert_ne!(third.instance, second.instance);
    assert_eq!(name(&desk.links().of(&id("n1")).unwrap()).await.unwrap(), "i am n1");
    assert_eq!(desk.links().all().len(), 1);
}

#[tokio::test]
async fn a_node_that_vanishes_is_missed() {
    let authority = Authority::new();
    let desk = authority.desk();
    // It keeps the connection open and does nothing any more, like a host that was stopped.
    let frozen = meet(&desk, &authority.node("n1")).await.unwrap();
    let link = desk.links().of(&id("n1")).unwrap();
    let call = tokio::time::timeout(Duration::from_secs(5), name(&link)).await;
    assert_eq!(told(&call.unwrap().unwrap_err(), &link.node).code(), Code::Unavailable);
    soon("the link is gone", || desk.links().all().is_empty().then_some(())).await;
    drop(frozen);
}

#[tokio::test]
async fn a_controller_that_vanishes_is_missed() {
    let (near, _far) = tokio::io::duplex(1024);
    let (stream, gone) = Alive::new(near, Duration::from_millis(200));
    let ended = linked("n1").serve(stream, gone.wait(), std::future::pending());
    tokio::time::timeout(Duration::from_secs(5), ended).await.expect("it waits for ever for the first byte");
}

/// Every part of `wanted` at once, or a panic that names what took too long.
async fn within<T>(what: &str, wanted: impl Future<Output = T>) -> T {
    let answer = tokio::time::timeout(Duration::from_secs(5), wanted).await;
    answer.unwrap_or_else(|_| panic!("not within 5 s: {what}"))
}
