//! The way of a volume between two nodes with pools in memory, and whoever should not be on it.

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::Code;

use super::frames::{Frame, read};
use super::*;

mod given;
mod lasting;
mod limits;

use crate::csi::About;
use crate::engine::{Engine, EngineConfig, Files, PoolConfig};
use crate::model::{Piece, Retention, TOPOLOGY_KEY, WINDOW};
use crate::pool::sim::SimPool;
use crate::pool::{Kind, Pool, Quota, Setup};
use crate::proto::csi;
use crate::proto::csi::controller_server::Controller;
use crate::proto::csi::volume_capability::{AccessMode, AccessType, BlockVolume, access_mode};
use crate::proto::csi::volume_content_source::{Type, VolumeSource};

const SIZE: i64 = 8 << 20;
const SECOND: Duration = Duration::from_secs(1);

/// A node with a pool in memory.
struct Node {
    pool: Arc<SimPool>,
    engine: Arc<Engine>,
    services: Services,
    transfers: Transfers,
    _directory: tempfile::TempDir,
}

impl Node {
    fn new(name: &str, terms: Terms, timing: Timing) -> Node {
        let directory = tempfile::tempdir().unwrap();
        let (kubelet_root, state_dir) = (directory.path().to_owned(), directory.path().join("state"));
        let setup = Setup {
            name: "main".into(),
            kind: Kind::Sim,
            path: directory.path().into(),
            file: None,
            device: None,
            quota: Quota::None,
            size: None,
        };
        let pools = vec![PoolConfig { setup, overcommit: 1.0, reserve: 0.05, retain: Retention::NONE }];
        let config = EngineConfig { pools, kubelet_root, state_dir, files: Files::Apart };
        let pool = Arc::new(SimPool::new(Bytes::GIB).unwrap());
        let there: Arc<dyn Pool> = Arc::clone(&pool) as _;
        let engine = Engine::open_with(config, Box::new(move |_| Ok(Arc::clone(&there)))).unwrap();
        let about = About { driver_name: "csi.rockpool.dev".into(), node_id: name.into(), max_volumes: 0 };
        let services = Services::new(Arc::clone(&engine), about).unwrap();
        let transfers = Transfers::over(services.clone(), terms, timing);
        Node { pool, engine, services, transfers, _directory: directory }
    }

    fn on_its_way(&self) -> usize {
        self.engine.on_its_way().len()
    }
}

/// A node with a volume that holds something, one that is to have a copy, and the request for that.
struct Rig {
    a: Node,
    b: Node,
    original: VolumeId,
    size: i64,
    request: wire::TakeRequest,
}

const QUICK: Timing = Timing {
    handshake: Duration::from_millis(500),
    silence: Duration::from_secs(5),
    ticket: Duration::from_secs(60),
    harden: Duration::from_secs(10),
    refusal: Duration::from_secs(60),
};

fn range(size: i64) -> Option<csi::CapacityRange> {
    Some(csi::CapacityRange { required_bytes: size, limit_bytes: 0 })
}

fn create(name: &str, source: Option<String>, node: &str) -> csi::CreateVolumeRequest {
    let block = AccessType::Block(BlockVolume {});
    let access_mode = Some(AccessMode { mode: access_mode::Mode::SingleNodeWriter.into() });
    let here = csi::Topology { segments: [(TOPOLOGY_KEY.to_owned(), node.to_owned())].into() };
    let source = source
        .map(|volume_id| csi::VolumeContentSource { r#type: Some(Type::Volume(VolumeSource { volume_id })) });
    csi::CreateVolumeRequest {
        name: name.into(),
        capacity_range: range(SIZE),
        volume_capabilities: vec![csi::VolumeCapability { access_type: Some(block), access_mode }],
        accessibility_requirements: Some(csi::TopologyRequirement {
            requisite: vec![here],
            preferred: vec![],
        }),
        volume_content_source: source,
        ..Default::default()
    }
}

impl Rig {
    async fn new() -> Rig {
        Rig::with(QUICK, 0).await
    }

    async fn with(timing: Timing, rate: u64) -> Rig {
        Rig::sized(timing, rate, SIZE).await
    }

    /// One whose volume is so large.
    async fn sized(timing: Timing, rate: u64, size: i64) -> Rig {
        let a = Node::new("a", Terms { address: None, rate }, timing);
        let b = Node::new("b", Terms { address: Some("127.0.0.1".into()), rate: 0 }, timing);
        let wanted =
            csi::CreateVolumeRequest { capacity_range: range(size), ..create("original", None, "a") };
        let made = a.services.create_volume(Request::new(wanted)).await.unwrap();
        let original: VolumeId = made.into_inner().volume.unwrap().volume_id.parse().unwrap();
        for (at, text) in [(0, "one"), ((3 << 20) + 5000, "two"), (size - 4, "end.")] {
            a.pool.write(&original, at.cast_unsigned(), text.as_bytes()).unwrap();
        }
        let describe = wire::DescribeRequest { source: original.to_string() };
        let described = Service::describe(&a.transfers, Request::new(describe)).await.unwrap();
        let wanted = create("copy", Some(original.to_string()), "b");
        let wanted = csi::CreateVolumeRequest { capacity_range: range(size), ..wanted };
        let create_request = wanted.encode_to_vec();
        let request = wire::TakeRequest { create_request, origin: described.into_inner().origin };
        Rig { a, b, original, size, request }
    }

    async fn take(&self) -> wire::TakeResponse {
        Service::take(&self.b.transfers, Request::new(self.request.clone())).await.unwrap().into_inner()
    }

    async fn ticket(&self) -> wire::Ticket {
        self.take().await.ticket.unwrap()
    }

    async fn give(&self, ticket: &wire::Ticket) -> std::result::Result<wire::GiveResponse, tonic::Status> {
        let give = wire::GiveRequest { source: self.original.to_string(), ticket: Some(ticket.clone()) };
        Service::give(&self.a.transfers, Request::new(give)).await.map(tonic::Response::into_inner)
    }

    /// Asks both ends until the copy is whole, as a controller does.
    async fn finish(&self) -> VolumeId {
        let begun = Instant::now();
        loop {
            let taken = self.take().await;
            let Some(ticket) = taken.ticket else {
                let made = csi::CreateVolumeResponse::decode(taken.create_response.as_slice()).unwrap();
                return made.volume.unwrap().volume_id.parse().unwrap();
            };
            let given = self.give(&ticket).await.unwrap();
            assert!(begun.elapsed() < 30 * SECOND, "in vain: {given:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn is_copied(&self, copy: VolumeId) -> bool {
        let size = usize::try_from(self.size).unwrap();
        self.a.pool.read(&self.original, 0, size).unwrap() == self.b.pool.read(&copy, 0, size).unwrap()
    }

    /// Nothing has come through, and the right one still does.
    async fn is_unharmed(&self) {
        assert_eq!(self.take().await.received_bytes, 0);
        let copy = self.finish().await;
        assert!(self.is_copied(copy));
    }
}

/// Somebody with a ticket who does as he likes.
async fn dial(ticket: &wire::Ticket) -> Result<TlsStream<TcpStream>> {
    let failed = |error: std::io::Error| Error::Unavailable(error.to_string());
    let (config, name) = ticket::client(&ticket.key_sha256)?;
    let stream = TcpStream::connect(&ticket.address).await.map_err(failed)?;
    TlsConnector::from(config).connect(name, stream).await.map_err(failed)
}

async fn send(to: &mut (impl AsyncWrite + Unpin), frame: Frame) -> Result<()> {
    super::frames::send(to, frame, 5 * SECOND).await
}

async fn hello(to: &mut (impl AsyncWrite + AsyncRead + Unpin), ticket: &wire::Ticket) -> Result<Frame> {
    let hello = Frame::Hello { secret: ticket.token.clone(), volume: ticket.volume_id.clone() };
    send(to, hello).await?;
    read(to, 5 * SECOND).await
}

async fn eventually(what: &str, mut look: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !look().await {
        assert!(begun.elapsed() < 30 * SECOND, "in vain: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_volume_comes_whole_and_its_port_is_closed_and_what_was_lent_is_back() {
    let rig = Rig::new().await;
    assert!(rig.b.transfers.0.taken.lock().unwrap().is_empty(), "nobody listens before a ticket");
    let ticket = rig.ticket().await;
    assert!(rig.take().await.ticket == Some(ticket.clone()), "one ticket at a time");
    let copy = rig.finish().await;
    assert!(rig.is_copied(copy) && copy.to_string() == ticket.volume_id);
    eventually("the port is closed", async || TcpStream::connect(&ticket.address).await.is_err()).await;
    eventually("the cut is gone", async || rig.a.on_its_way() == 0).await;
    assert_eq!(rig.b.on_its_way(), 0);
    // The ticket is of no use any more.
    rig.give(&ticket).await.unwrap();
    eventually("a replay fails", async || {
        rig.give(&ticket).await.unwrap().trouble.contains("failed to connect")
    })
    .await;
    assert_eq!(rig.a.on_its_way(), 0, "nothing is cut for it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_changed_on_its_way_is_noticed() {
    let rig = Rig::new().await;
    let ticket = rig.ticket().await;
    let window = rig.a.pool.read(&rig.original, 0, WINDOW).unwrap();
    let mut text = Piece::of(0, &window).unwrap().encode();
    // A bit of the content.
    let last = text.len() - 9;
    text[last] ^= 1;
    let mut stream = dial(&ticket).await.unwrap();
    assert_eq!(hello(&mut stream, &ticket).await.unwrap(), Frame::Start { done: 0, digest: 0 });
    send(&mut stream, Frame::Piece(text)).await.unwrap();
    let said = read(&mut stream, 5 * SECOND).await.unwrap();
    assert!(matches!(&said, Frame::Refused(why) if why.contains("checksum")), "{said:?}");
    rig.is_unharmed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_missing_is_noticed_at_the_end() {
    let rig = Rig::new().await;
    let ticket = rig.ticket().await;
    let window = rig.a.pool.read(&rig.original, 0, WINDOW).unwrap();
    let text = Piece::of(0, &window).unwrap().encode();
    let mut stream = dial(&ticket).await.unwrap();
    hello(&mut stream, &ticket).await.unwrap();
    send(&mut stream, Frame::Piece(text.clone())).await.unwrap();
    send(&mut stream, Frame::End { digest: Piece::digest(0, &text) ^ 1 }).await.unwrap();
    let said = read(&mut stream, 5 * SECOND).await.unwrap();
    assert!(matches!(&said, Frame::Refused(why) if why.contains("digest")), "{said:?}");
    rig.is_unharmed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_lies_outside_of_the_volume_or_comes_twice_is_refused() {
    let rig = Rig::new().await;
    let ticket = rig.ticket().await;
    let piece = |at| Piece::of(at, &[1; WINDOW]).unwrap().encode();
    for (frames, why) in [
        (vec![Frame::Piece(piece(8 << 20))], "beyond the end"),
        (vec![Frame::Piece(piece(0)), Frame::Piece(piece(0))], "twice"),
        (vec![Frame::Content { size: 9 << 20 }], "do not fit"),
        (vec![Frame::Whole], "where another was to come"),
    ] {
        let mut stream = dial(&ticket).await.unwrap();
        hello(&mut stream, &ticket).await.unwrap();
        send(&mut stream, Frame::Anew).await.unwrap();
        read(&mut stream, 5 * SECOND).await.unwrap();
        for frame in frames {
            send(&mut stream, frame).await.unwrap();
        }
        let said = read(&mut stream, 5 * SECOND).await.unwrap();
        assert!(matches!(&said, Frame::Refused(said) if said.contains(why)), "{said:?}");
    }
    let copy = rig.finish().await;
    assert!(rig.is_copied(copy));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_no_ticket_is_not_let_in() {
    let rig = Rig::new().await;
    let ticket = rig.ticket().await;
    let mut other = ticket.token.clone();
    other[31] ^= 1;
    let volume_id = "v1.abababababab.0101010101010101".to_owned();
    for wrong in [
        wire::Ticket { token: other, ..ticket.clone() },
        wire::Ticket { token: vec![0; 32], ..ticket.clone() },
        wire::Ticket { volume_id, ..ticket.clone() },
    ] {
        let mut stream = dial(&wrong).await.unwrap();
        let said = hello(&mut stream, &wrong).await.unwrap();
        assert!(matches!(said, Frame::Refused(_)), "{said:?}");
    }
    let mut short = dial(&ticket).await.unwrap();
    let cut_off = wire::Ticket { token: ticket.token[..31].to_vec(), ..ticket.clone() };
    assert!(!matches!(hello(&mut short, &cut_off).await, Ok(Frame::Start { .. })));
    // Who says nothing is gone soon, and keeps nobody out.
    let mut silent: Vec<TcpStream> = Vec::new();
    for _ in 0..80 {
        silent.push(TcpStream::connect(&ticket.address).await.unwrap());
    }
    rig.is_unharmed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_only_keeps_connections_open_keeps_nobody_out() {
    let rig = Rig::with(Timing { handshake: 60 * SECOND, ..QUICK }, 0).await;
    let ticket = rig.ticket().await;
    let mut silent: Vec<TcpStream> = Vec::new();
    for _ in 0..80 {
        silent.push(TcpStream::connect(&ticket.address).await.unwrap());
    }
    let copy = rig.finish().await;
    assert!(rig.is_copied(copy));
    let heard = tokio::time::timeout(5 * SECOND, silent[0].read(&mut [0])).await;
    assert!(!matches!(heard.unwrap(), Ok(1..)), "the oldest have gone");
}

/// What release 0.1 says of transfers, byte by byte: every later one must understand it, and say it so to that one.
#[test]
fn the_first_release_is_understood() {
    fn same<M: Message + Default + PartialEq>(bytes: &[u8], message: M) {
        assert!(M::decode(bytes).unwrap() == message, "{bytes:?}");
        assert_eq!(message.encode_to_vec(), bytes);
    }
    let origin = wire::Origin { size_bytes: 1 << 20, access: "xfs".into(), fs_uuid: "uuid".into() };
    let ticket = wire::Ticket {
        volume_id: "v1".into(),
        address: "a:1".into(),
        key_sha256: b"key".to_vec(),
        token: b"secret".to_vec(),
        size_bytes: 1 << 20,
    };
    same(b"\x0a\x02s1", wire::DescribeRequest { source: "s1".into() });
    same(
        b"\x0a\x0f\x08\x80\x80\x40\x12\x03xfs\x1a\x04uuid",
        wire::DescribeResponse { origin: Some(origin.clone()) },
    );
    same(
        b"\x0a\x03csi\x12\x0f\x08\x80\x80\x40\x12\x03xfs\x1a\x04uuid",
        wire::TakeRequest { create_request: b"csi".to_vec(), origin: Some(origin) },
    );
    same(
        b"\x12\x1a\x0a\x02v1\x12\x03a:1\x1a\x03key\x22\x06secret(\x80\x80\x40\x18\x05",
        wire::TakeResponse { ticket: Some(ticket.clone()), received_bytes: 5, ..Default::default() },
    );
    same(b"\x0a\x03csi", wire::TakeResponse { create_response: b"csi".to_vec(), ..Default::default() });
    same(
        b"\x0a\x02s1\x12\x1a\x0a\x02v1\x12\x03a:1\x1a\x03key\x22\x06secret(\x80\x80\x40",
        wire::GiveRequest { source: "s1".into(), ticket: Some(ticket) },
    );
    same(b"\x08\x05\x12\x02no", wire::GiveResponse { given_bytes: 5, trouble: "no".into() });
    same(b"\x0a\x02v1", wire::AbandonRequest { volume_id: "v1".into() });
    same(b"\x0a\x03csi", wire::AbandonResponse { create_response: b"csi".to_vec() });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_sent_to_whoever_has_another_key() {
    let (rig, stranger) = (Rig::new().await, Rig::new().await);
    let (ticket, strange) = (rig.ticket().await, stranger.ticket().await);
    // Somebody else listens where the ticket says.
    let misled = wire::Ticket { address: strange.address, ..ticket.clone() };
    assert!(dial(&misled).await.is_err());
    rig.give(&misled).await.unwrap();
    eventually("it is noticed", async || {
        rig.give(&misled).await.unwrap().trouble.contains("failed to connect")
    })
    .await;
    let none = wire::Ticket { key_sha256: Vec::new(), ..ticket };
    assert_eq!(rig.give(&none).await.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(stranger.take().await.received_bytes, 0);
    eventually("it ends", async || !rig.a.transfers.0.given.lock().unwrap().values().any(|one| one.runs()))
        .await;
    rig.is_unharmed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ticket_dies_and_another_one_goes_on() {
    let rig = Rig::with(Timing { ticket: SECOND / 5, ..QUICK }, 0).await;
    let old = rig.ticket().await;
    eventually("the port is closed", async || TcpStream::connect(&old.address).await.is_err()).await;
    let new = rig.ticket().await;
    assert!(new.token != old.token && new.key_sha256 != old.key_sha256 && new.volume_id == old.volume_id);
    let replayed = wire::Ticket { address: new.address.clone(), ..old };
    assert!(dial(&replayed).await.is_err(), "it names another key");
    let replayed = wire::Ticket { key_sha256: new.key_sha256.clone(), ..replayed };
    let mut stream = dial(&replayed).await.unwrap();
    assert!(!matches!(hello(&mut stream, &replayed).await, Ok(Frame::Start { .. })), "its secret is dead");
    let copy = rig.finish().await;
    assert!(rig.is_copied(copy));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_goes_on_where_it_was_and_begins_anew_where_that_was_something_else() {
    let rig = Rig::with(Timing { harden: Duration::ZERO, ..QUICK }, 0).await;
    let ticket = rig.ticket().await;
    let first = Piece::of(0, &rig.a.pool.read(&rig.original, 0, WINDOW).unwrap()).unwrap().encode();
    for (text, is_right) in [(first.clone(), true), (Piece::of(0, &[9; WINDOW]).unwrap().encode(), false)] {
        let mut stream = dial(&ticket).await.unwrap();
        hello(&mut stream, &ticket).await.unwrap();
        send(&mut stream, Frame::Anew).await.unwrap();
        read(&mut stream, 5 * SECOND).await.unwrap();
        send(&mut stream, Frame::Piece(text.clone())).await.unwrap();
        assert_eq!(read(&mut stream, 5 * SECOND).await.unwrap(), Frame::Mark { done: 1 << 20 });
        drop(stream);
        let mut stream = dial(&ticket).await.unwrap();
        let start = hello(&mut stream, &ticket).await.unwrap();
        assert_eq!(start, Frame::Start { done: 1 << 20, digest: Piece::digest(0, &text) }, "{is_right}");
    }
    let copy = rig.finish().await;
    assert!(rig.is_copied(copy), "what was wrong has gone");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_volume_that_is_coming_can_be_deleted() {
    let rig = Rig::with(QUICK, 2000).await;
    let ticket = rig.ticket().await;
    rig.give(&ticket).await.unwrap();
    eventually("something has come", async || rig.take().await.received_bytes > 0).await;
    let delete = csi::DeleteVolumeRequest { volume_id: ticket.volume_id.clone(), ..Default::default() };
    rig.b.services.delete_volume(Request::new(delete)).await.unwrap();
    assert_eq!(rig.b.on_its_way(), 0);
    eventually("the port is closed", async || TcpStream::connect(&ticket.address).await.is_err()).await;
    let again = wire::TakeRequest { origin: None, ..rig.request.clone() };
    let gone = Service::take(&rig.b.transfers, Request::new(again)).await.unwrap_err();
    assert_eq!(gone.code(), Code::NotFound);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_without_an_address_takes_nothing() {
    let rig = Rig::new().await;
    let refused = Service::take(&rig.a.transfers, Request::new(rig.request.clone())).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    let here = create("copy", Some(rig.original.to_string()), "a").encode_to_vec();
    let here = wire::TakeRequest { create_request: here, ..rig.request.clone() };
    let refused = Service::take(&rig.a.transfers, Request::new(here)).await.unwrap_err();
    assert!(refused.message().contains("--transfer-address"), "{refused:?}");
    assert_eq!(rig.a.on_its_way(), 0);
}

#[tokio::test]
async fn a_rate_is_kept_by_all_that_send_together() {
    let rate = Rate::new(1000);
    let first = rate.when(500).await.unwrap();
    let second = rate.when(2000).await.unwrap();
    let third = rate.when(1).await.unwrap();
    assert_eq!(second - first, SECOND / 2);
    assert_eq!(third - second, 2 * SECOND);
    assert!(Rate::new(0).when(u64::MAX).await.is_none());
}
