//! What the node with the source does, told by an end that says what the test likes.

use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::*;

/// Who has the key and the secret of a ticket, and a port.
pub(super) struct Peer {
    listener: TcpListener,
    acceptor: TlsAcceptor,
    pub(super) ticket: wire::Ticket,
}

impl Peer {
    /// One for the volume of this ticket.
    pub(super) async fn new(of: &wire::Ticket) -> Peer {
        let (config, key_sha256) = ticket::server().unwrap();
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let ticket = wire::Ticket { address, key_sha256, ..of.clone() };
        Peer { listener, acceptor: TlsAcceptor::from(config), ticket }
    }

    /// The next one who dials, and has shown the ticket.
    pub(super) async fn meet(&self) -> TlsStream<TcpStream> {
        let accepted = tokio::time::timeout(5 * SECOND, self.listener.accept()).await.expect("nobody dials");
        let mut stream = self.acceptor.accept(accepted.unwrap().0).await.unwrap();
        let Frame::Hello { secret, volume } = hear(&mut stream).await else { panic!("no hello") };
        assert!(secret == self.ticket.token && volume == self.ticket.volume_id);
        stream
    }

    /// Whether somebody dials within a moment.
    async fn is_dialled(&self) -> bool {
        tokio::time::timeout(SECOND / 2, self.listener.accept()).await.is_ok()
    }
}

pub(super) async fn hear(from: &mut TlsStream<TcpStream>) -> Frame {
    read(from, 5 * SECOND).await.unwrap()
}

/// Says where it begins, and hears how much there is to come.
async fn begin(stream: &mut TlsStream<TcpStream>) {
    send(stream, Frame::Start { done: 0, digest: 0 }).await.unwrap();
    assert_eq!(hear(stream).await, Frame::Content { size: 8 << 20 });
}

impl Rig {
    async fn trouble(&self, ticket: &wire::Ticket) -> String {
        self.give(ticket).await.unwrap().trouble
    }

    fn gives(&self) -> usize {
        self.a.transfers.0.given.lock().unwrap().len()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_cut_before_the_other_end_has_taken_the_secret() {
    let rig = Rig::new().await;
    let peer = Peer::new(&rig.ticket().await).await;
    rig.give(&peer.ticket).await.unwrap();
    let mut stream = peer.meet().await;
    tokio::time::sleep(SECOND / 5).await;
    assert_eq!(rig.a.on_its_way(), 0);
    send(&mut stream, Frame::Refused("it is another ticket\u{2019}s".to_owned())).await.unwrap();
    eventually("it hears why", async || rig.trouble(&peer.ticket).await.contains("another ticket")).await;
    assert_eq!(rig.a.on_its_way(), 0);
    begin(&mut peer.meet().await).await;
    assert_eq!(rig.a.on_its_way(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_ticket_replaces_the_attempt_for_the_old_one() {
    let rig = Rig::new().await;
    let ticket = rig.ticket().await;
    let (old, new) = (Peer::new(&ticket).await, Peer::new(&ticket).await);
    rig.give(&old.ticket).await.unwrap();
    let mut stalled = old.meet().await;
    begin(&mut stalled).await;
    // It is still there, and says no more.
    rig.give(&old.ticket).await.unwrap();
    assert!(!old.is_dialled().await, "the same ticket is no reason to begin again");
    rig.give(&new.ticket).await.unwrap();
    begin(&mut new.meet().await).await;
    // What it has sent already comes first.
    let let_go = async { while read(&mut stalled, 60 * SECOND).await.is_ok() {} };
    tokio::time::timeout(5 * SECOND, let_go).await.expect("the old one is still there");
    assert_eq!((rig.a.on_its_way(), rig.gives()), (1, 1), "one cut and one attempt for both");
    let copy = rig.finish().await;
    assert!(rig.is_copied(copy));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_has_gone_is_the_answer_and_what_was_cut_of_it_is_still_sent() {
    let rig = Rig::new().await;
    let ticket = rig.ticket().await;
    let content = rig.a.pool.read(&rig.original, 0, 8 << 20).unwrap();
    let delete = || csi::DeleteVolumeRequest { volume_id: rig.original.to_string(), ..Default::default() };
    let peer = Peer::new(&ticket).await;
    rig.give(&peer.ticket).await.unwrap();
    begin(&mut peer.meet().await).await;
    rig.a.services.delete_volume(Request::new(delete())).await.unwrap();
    let other = VolumeId::new(rig.original.pool(), [8; 8]).to_string();
    let give = wire::GiveRequest { source: other, ticket: Some(ticket.clone()) };
    let refused = Service::give(&rig.a.transfers, Request::new(give)).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound, "it was not cut of that one");
    let copy = rig.finish().await;
    assert!(rig.b.pool.read(&copy, 0, 8 << 20).unwrap() == content);
    eventually("the cut is gone", async || rig.a.on_its_way() == 0).await;
    assert_eq!(rig.give(&ticket).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_has_grown_is_the_answer_as_soon_as_it_shows() {
    let rig = Rig::new().await;
    let ticket = rig.ticket().await;
    let grow = csi::ControllerExpandVolumeRequest {
        volume_id: rig.original.to_string(),
        capacity_range: range(2 * SIZE),
        ..Default::default()
    };
    rig.a.services.controller_expand_volume(Request::new(grow)).await.unwrap();
    let mut refused = None;
    eventually("it is said", async || {
        refused = rig.give(&ticket).await.err();
        refused.is_some()
    })
    .await;
    assert_eq!(refused.unwrap().code(), Code::OutOfRange);
    assert_eq!((rig.a.on_its_way(), rig.gives()), (1, 0), "who asks again is told anew");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_failed_is_forgotten_soon() {
    let rig = Rig::with(Timing { silence: SECOND / 2, ..QUICK }, 0).await;
    let ticket = rig.ticket().await;
    let nobody = |volume_id: &str| wire::Ticket {
        volume_id: volume_id.to_owned(),
        address: "127.0.0.1:1".to_owned(),
        ..ticket.clone()
    };
    for number in 0..8 {
        rig.give(&nobody(&format!("v1.abababababab.000000000000000{number}"))).await.unwrap();
        eventually("it fails", async || {
            let given = rig.a.transfers.0.given.lock().unwrap();
            !given.values().any(|one| one.runs())
        })
        .await;
    }
    assert_eq!(rig.gives(), 8, "whoever asks again is told why");
    tokio::time::sleep(SECOND / 2).await;
    rig.give(&nobody("v1.abababababab.00000000000000ff")).await.unwrap();
    assert_eq!(rig.gives(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn zeros_are_told_and_a_resume_among_them_goes_on_there() {
    let rig = Rig::new().await;
    rig.a.pool.write(&rig.original, 5 << 20, &[0; 4096]).unwrap();
    let peer = Peer::new(&rig.ticket().await).await;
    let text =
        |at: u64| Piece::of(at, &rig.a.pool.read(&rig.original, at, WINDOW).unwrap()).unwrap().encode();
    let texts = [0, 3 << 20, 7 << 20].map(text);
    let digest = |texts: &[Vec<u8>]| texts.iter().fold(0, |digest, text| Piece::digest(digest, text));
    rig.give(&peer.ticket).await.unwrap();
    let mut stream = peer.meet().await;
    begin(&mut stream).await;
    for text in &texts[..2] {
        assert!(hear(&mut stream).await == Frame::Piece(text.clone()));
    }
    assert_eq!(hear(&mut stream).await, Frame::Hole { end: 6 << 20 });
    drop(stream);
    eventually("it breaks off", async || !rig.trouble(&peer.ticket).await.is_empty()).await;
    let mut stream = peer.meet().await;
    send(&mut stream, Frame::Start { done: 6 << 20, digest: digest(&texts[..2]) }).await.unwrap();
    assert_eq!(hear(&mut stream).await, Frame::Content { size: 8 << 20 }, "it does not begin anew");
    assert!(hear(&mut stream).await == Frame::Piece(texts[2].clone()), "it goes on behind the zeros");
    assert_eq!(hear(&mut stream).await, Frame::End { digest: digest(&texts) });
}
