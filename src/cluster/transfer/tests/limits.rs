//! How many are let in, who is not, and where it is listened.

use tokio::io::AsyncWriteExt;

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_one_too_many_waits_for_his_turn() {
    let rig = Rig::new().await;
    let ticket = rig.ticket().await;
    let all = u32::try_from(PLACES).unwrap();
    let hold = |places: &Arc<Semaphore>| Arc::clone(places).try_acquire_many_owned(all).unwrap();
    let (sending, receiving) = (&rig.a.transfers.0.sending, &rig.b.transfers.0.receiving);
    let held = hold(sending);
    let trouble = rig.give(&ticket).await.unwrap().trouble;
    assert!(trouble.contains("sends 4 volumes already"), "{trouble}");
    tokio::time::sleep(SECOND / 5).await;
    assert_eq!(rig.a.on_its_way(), 0, "nothing is begun");
    drop(held);
    let held = hold(receiving);
    eventually("the other end is full", async || {
        rig.give(&ticket).await.unwrap().trouble.contains("receives 4 volumes already")
    })
    .await;
    assert_eq!(rig.a.on_its_way(), 0, "nothing is cut for who has to wait");
    drop(held);
    let copy = rig.finish().await;
    assert!(rig.is_copied(copy));
    eventually("all places are free", async || {
        sending.available_permits() == PLACES && receiving.available_permits() == PLACES
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transfer_takes_a_place_at_both_ends_as_long_as_it_lasts() {
    let rig = Rig::with(QUICK, 5000).await;
    let ticket = rig.ticket().await;
    rig.give(&ticket).await.unwrap();
    let free = || {
        let of = |node: &Node| {
            (node.transfers.0.sending.available_permits(), node.transfers.0.receiving.available_permits())
        };
        (of(&rig.a), of(&rig.b))
    };
    eventually("it runs", async || free() == ((PLACES - 1, PLACES), (PLACES, PLACES - 1))).await;
    rig.finish().await;
    eventually("it is over", async || free() == ((PLACES, PLACES), (PLACES, PLACES))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_refused_is_counted_by_reason() {
    let rig = Rig::new().await;
    let ticket = rig.ticket().await;
    let (zeros, other) = (vec![0; 32], "v1.abababababab.0101010101010101".to_owned());
    for wrong in
        [wire::Ticket { token: zeros, ..ticket.clone() }, wire::Ticket { volume_id: other, ..ticket.clone() }]
    {
        let mut stream = dial(&wrong).await.unwrap();
        assert!(matches!(hello(&mut stream, &wrong).await.unwrap(), Frame::Refused(_)));
    }
    // As long as a piece may be, from somebody who has shown nothing.
    let mut stream = dial(&ticket).await.unwrap();
    stream.write_all(&[5, 0, 0x10, 0, 0]).await.unwrap();
    stream.flush().await.unwrap();
    let said = read(&mut stream, 5 * SECOND).await.unwrap();
    assert!(matches!(&said, Frame::Refused(why) if why.contains("longer than any")), "{said:?}");
    let mut plain = TcpStream::connect(&ticket.address).await.unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    drop(TcpStream::connect(&ticket.address).await.unwrap());
    let _silent = TcpStream::connect(&ticket.address).await.unwrap();
    let refusals = rig.b.transfers.refusals();
    eventually("all are counted", async || REASONS.iter().all(|reason| refusals.of(reason) == 1)).await;
    rig.is_unharmed().await;
}

#[tokio::test]
async fn behind_an_address_of_somebody_else_it_is_listened_on_all() {
    let volume: VolumeId = "v1.abababababab.0101010101010101".parse().unwrap();
    for (host, shown) in
        [("192.0.2.1", "192.0.2.1:"), ("2001:db8::1", "[2001:db8::1]:"), ("127.0.0.3", "127.0.0.3:")]
    {
        let listening = take::listen(host, volume, Bytes::GIB).await.unwrap();
        let address = listening.ticket().address.clone();
        assert!(address.starts_with(shown), "{address}");
        let port = address.rsplit(':').next().unwrap();
        let there = TcpStream::connect(format!("127.0.0.1:{port}")).await.is_ok();
        assert_eq!(there, host != "127.0.0.3", "{host}: its own address, or all");
    }
    let failed = take::listen("no-such-host.invalid", volume, Bytes::GIB).await.err().unwrap().to_string();
    assert!(failed.contains("--transfer-address `no-such-host.invalid`"), "{failed}");
}
