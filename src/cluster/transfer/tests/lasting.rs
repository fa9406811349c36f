//! How long things last: a ticket, what has come, and the reason for which a volume was given up.

use super::given::{Peer, hear};
use super::*;
use crate::model::{Allocation, Phase, Record, Source, Volume};

const EAGER: Timing = Timing { harden: Duration::ZERO, ..QUICK };
/// A size that is no multiple of a piece's.
const ODD: i64 = SIZE + 4096;

/// Begins with nothing, whatever is there.
async fn begun_anew(ticket: &wire::Ticket) -> TlsStream<TcpStream> {
    let mut stream = dial(ticket).await.unwrap();
    hello(&mut stream, ticket).await.unwrap();
    send(&mut stream, Frame::Anew).await.unwrap();
    read(&mut stream, 5 * SECOND).await.unwrap();
    stream
}

impl Rig {
    /// The pieces of the original.
    fn texts(&self) -> Vec<Vec<u8>> {
        let size = u64::try_from(self.size).unwrap();
        let text = |at: u64| {
            let len = usize::try_from((size - at).min(WINDOW as u64)).unwrap();
            Piece::of(at, &self.a.pool.read(&self.original, at, len).unwrap()).map(|piece| piece.encode())
        };
        (0..size).step_by(WINDOW).filter_map(text).collect()
    }

    /// Takes all of the room that B has, behind its back.
    fn fill_up(&self) -> VolumeId {
        let Some(Record::Volume(coming)) = self.b.engine.on_its_way().pop() else { panic!("nothing comes") };
        let id = VolumeId::new(self.b.pool.id(), [9; 8]);
        let (phase, source, allocation) = (Phase::Creating, Source::Blank, Allocation::Reserved);
        let filler = Volume { id, phase, source, allocation, size: Bytes::GIB, ..(*coming).clone() };
        self.b.pool.create(&filler).unwrap();
        id
    }

    async fn refusal(&self, request: &wire::TakeRequest) -> tonic::Status {
        Service::take(&self.b.transfers, Request::new(request.clone())).await.unwrap_err()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_compares_for_long_keeps_his_ticket() {
    let rig = Rig::with(Timing { ticket: SECOND, ..QUICK }, 0).await;
    let ticket = rig.ticket().await;
    let mut stream = dial(&ticket).await.unwrap();
    hello(&mut stream, &ticket).await.unwrap();
    let begun = Instant::now();
    while begun.elapsed() < 4 * SECOND {
        send(&mut stream, Frame::Alive).await.unwrap();
        tokio::time::sleep(SECOND / 10).await;
    }
    assert!(rig.ticket().await == ticket, "it has lived four times as long as one that nobody uses");
    eventually("it dies of silence", async || TcpStream::connect(&ticket.address).await.is_err()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn zeros_count_as_what_has_come() {
    let rig = Rig::with(EAGER, 0).await;
    let ticket = rig.ticket().await;
    let text = rig.texts().remove(0);
    let mut stream = begun_anew(&ticket).await;
    for (frame, done) in [(Frame::Piece(text.clone()), 1 << 20), (Frame::Hole { end: 3 << 20 }, 3 << 20)] {
        send(&mut stream, frame).await.unwrap();
        assert_eq!(read(&mut stream, 5 * SECOND).await.unwrap(), Frame::Mark { done });
    }
    assert_eq!(rig.take().await.received_bytes, 3 << 20);
    drop(stream);
    let mut stream = dial(&ticket).await.unwrap();
    let start = hello(&mut stream, &ticket).await.unwrap();
    assert_eq!(start, Frame::Start { done: 3 << 20, digest: Piece::digest(0, &text) });
    drop(stream);
    let copy = rig.finish().await;
    assert!(rig.is_copied(copy));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hole_that_goes_back_or_beyond_the_end_is_refused() {
    let rig = Rig::new().await;
    let ticket = rig.ticket().await;
    for end in [(2 << 20) - 4096, SIZE.cast_unsigned() + 4096, u64::MAX] {
        let mut stream = begun_anew(&ticket).await;
        send(&mut stream, Frame::Hole { end: 2 << 20 }).await.unwrap();
        send(&mut stream, Frame::Hole { end }).await.unwrap();
        let said = read(&mut stream, 5 * SECOND).await.unwrap();
        assert!(matches!(&said, Frame::Refused(why) if why.contains("does not lie between")), "{said:?}");
    }
    let copy = rig.finish().await;
    assert!(rig.is_copied(copy));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_has_come_than_there_is_where_the_size_is_odd() {
    let rig = Rig::sized(EAGER, 0, ODD).await;
    let (ticket, texts, size) = (rig.ticket().await, rig.texts(), ODD.cast_unsigned());
    assert_eq!(texts.len(), 3, "the last piece is one block long");
    let mut stream = begun_anew(&ticket).await;
    let (mut digest, mut done) = (0, 0);
    for text in &texts {
        digest = Piece::digest(digest, text);
        done = Piece::decode(text).unwrap().end().min(size);
        send(&mut stream, Frame::Piece(text.clone())).await.unwrap();
        assert_eq!(read(&mut stream, 5 * SECOND).await.unwrap(), Frame::Mark { done });
    }
    assert_eq!((done, rig.take().await.received_bytes), (size, ODD));
    drop(stream);
    let mut stream = dial(&ticket).await.unwrap();
    assert_eq!(hello(&mut stream, &ticket).await.unwrap(), Frame::Start { done, digest });
    drop(stream);
    // The sender knows it again: it has nothing more to send.
    let peer = Peer::new(&ticket).await;
    rig.give(&peer.ticket).await.unwrap();
    let mut stream = peer.meet().await;
    send(&mut stream, Frame::Start { done, digest }).await.unwrap();
    assert_eq!(hear(&mut stream).await, Frame::Content { size });
    assert_eq!(hear(&mut stream).await, Frame::End { digest });
    drop(stream);
    let copy = rig.finish().await;
    assert!(rig.is_copied(copy));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_is_larger_than_its_source_holds_zeros_behind_it() {
    let mut rig = Rig::sized(EAGER, 0, ODD).await;
    let wanted = create("copy", Some(rig.original.to_string()), "b");
    let wanted = csi::CreateVolumeRequest { capacity_range: range(2 * SIZE), ..wanted };
    rig.request.create_request = wanted.encode_to_vec();
    let copy = rig.finish().await;
    assert!(rig.is_copied(copy));
    let size = usize::try_from(2 * SIZE - ODD).unwrap();
    let behind = rig.b.pool.read(&copy, ODD.cast_unsigned(), size).unwrap();
    assert!(behind.iter().all(|byte| *byte == 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_would_begin_again_what_was_given_up_hears_why_for_a_while() {
    let rig = Rig::with(Timing { refusal: 2 * SECOND, ..QUICK }, 0).await;
    let ticket = rig.ticket().await;
    let filler = rig.fill_up();
    rig.give(&ticket).await.unwrap();
    eventually("it is given up", async || rig.b.on_its_way() == 0).await;
    let waiting = wire::TakeRequest { origin: None, ..rig.request.clone() };
    assert_eq!(rig.refusal(&waiting).await.code(), Code::NotFound, "who waits for it finds it gone");
    for _ in 0..2 {
        let refused = rig.refusal(&rig.request).await;
        assert!(
            refused.code() == Code::ResourceExhausted && refused.message().contains("free"),
            "{refused:?}"
        );
    }
    assert_eq!(rig.b.on_its_way(), 0, "it is not begun again");
    rig.b.pool.destroy(&filler).unwrap();
    assert_eq!(rig.refusal(&rig.request).await.code(), Code::ResourceExhausted);
    tokio::time::sleep(2 * SECOND).await;
    let copy = rig.finish().await;
    assert!(rig.is_copied(copy));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_begun_is_no_reason_for_a_second_one_elsewhere_when_nothing_is_taken_any_more() {
    let rig = Rig::new().await;
    rig.ticket().await;
    let started_again = Transfers::over(rig.b.services.clone(), Terms::default(), QUICK);
    let take = async || Service::take(&started_again, Request::new(rig.request.clone())).await;
    let refused = take().await.unwrap_err();
    assert!(
        refused.code() == Code::Unavailable && refused.message().contains("--transfer-address"),
        "{refused:?}"
    );
    assert_eq!(rig.b.on_its_way(), 1);
    rig.finish().await;
    assert!(!take().await.unwrap().into_inner().create_response.is_empty(), "what is whole is said");
}
