//! Nodes that prove themselves by a token: right ones, wrong ones, and what happens while nobody can say which.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};

use super::authority::{Authority, CONTROLLER, DRIVER, Leaf, QUICK};
use super::refusals::refused;
use super::{Desk, Dialer, LONG, Unmet, Welcomed, client, id, linked, meet, name, serve, soon, within};
use crate::cluster::auth::Tokens;
use crate::cluster::kubernetes::Kubernetes;
use crate::cluster::link::node::Wanted;
use crate::cluster::link::{ControllerFiles, Keys, NodeFiles, Proof};
use crate::cluster::tests::kubernetes::{Api, Mood, good, token};
use crate::proto::csi;

/// A cluster of one controller, with an API server.
struct Rig {
    authority: Authority,
    api: Api,
    tokens: Arc<Tokens>,
}

impl Rig {
    async fn new() -> Rig {
        // Two reviews within this are one.
        Rig::fresh_for(Duration::from_secs(60)).await
    }

    async fn fresh_for(fresh: Duration) -> Rig {
        let (authority, api) = (Authority::new(), Api::start());
        let config = authority.put("kubeconfig", &api.kubeconfig());
        let client = Kubernetes::of_operator(Some(&config)).await.unwrap();
        let tokens = Tokens::new(client, DRIVER.to_owned(), "rockpool", "rockpool-node");
        Rig { authority, api, tokens: Arc::new(tokens.hasty(Duration::from_millis(1200), fresh)) }
    }

    /// A controller; one that asks for certificates too, or not.
    fn desk_with(&self, authorities: Option<PathBuf>) -> Desk {
        let own = self.authority.issue("controller", &Leaf::controller(CONTROLLER));
        let keys = Keys::of_controller(ControllerFiles { authorities, tokens: true, own }).unwrap();
        Desk::new(DRIVER.to_owned(), keys, QUICK).with_tokens(Arc::clone(&self.tokens))
    }

    fn desk(&self) -> Arc<Desk> {
        Arc::new(self.desk_with(None))
    }

    /// What a node with this token needs to dial.
    fn wanted(&self, node: &str, token: &str) -> Wanted {
        let path = self.authority.put("token", token);
        let files = NodeFiles { authorities: self.authority.roots(), own: Proof::Token(path.clone()) };
        let pair = self.authority.issue("unused", &Leaf::node(node));
        Wanted { keys: Keys::of_node(files).unwrap(), token: Some(path), ..self.authority.wanted(node, pair) }
    }

    fn node(&self, node: &str, token: &str) -> Dialer {
        Dialer::new(self.wanted(node, token)).unwrap()
    }

    /// What the API server says of a token.
    fn say(&self, token: &str, status: Value) {
        self.api.world().tokens.insert(token.to_owned(), status);
    }

    fn reviews(&self) -> usize {
        self.api.world().asked.iter().filter(|asked| asked.contains("tokenreviews")).count()
    }
}

/// A good review with something else in one place.
fn with(place: &str, value: Value) -> Value {
    let mut status = good("n1");
    *status.pointer_mut(place).unwrap() = value;
    status
}

#[tokio::test]
async fn a_token_of_the_node_lets_it_in() {
    let rig = Rig::new().await;
    let good_one = token("n1", 600);
    rig.say(&good_one, good("n1"));
    for authorities in [None, Some(rig.authority.roots())] {
        let desk = rig.desk_with(authorities);
        let welcomed = meet(&desk, &rig.node("n1", &good_one)).await.unwrap();
        let _stop = serve("n1", welcomed);
        assert_eq!(name(&desk.links().of(&id("n1")).unwrap()).await.unwrap(), "i am n1");
        assert_eq!(refused(&desk), []);
    }
    // The file may end in a line break, as files do.
    assert!(meet(&rig.desk(), &rig.node("n1", &format!("{good_one}\n"))).await.is_ok());
    assert_eq!(rig.reviews(), 1, "it was known");
}

#[tokio::test]
async fn a_wrong_token_is_refused_by_its_reason() {
    let rig = Rig::new().await;
    let elsewhere = json!(["https://kubernetes.default.svc"]);
    let node = "/user/extra/authentication.kubernetes.io~1node-name";
    for (what, status, reason) in [
        ("unknown", Value::Null, "token"),
        ("expired", json!({ "authenticated": false, "error": "token has expired" }), "token"),
        ("nothing said", json!({}), "token"),
        ("of another audience", with("/audiences", elsewhere), "token-audience"),
        ("of any audience", with("/audiences", json!([])), "token-audience"),
        ("of a longer audience", with("/audiences", json!(["csi.rockpool.dev.evil"])), "token-audience"),
        (
            "of another account",
            with("/user/username", json!("system:serviceaccount:rockpool:default")),
            "token-account",
        ),
        (
            "of another namespace",
            with("/user/username", json!("system:serviceaccount:evil:rockpool-node")),
            "token-account",
        ),
        ("of a user", with("/user/username", json!("rockpool-node")), "token-account"),
        ("of an anonymous", with("/user/username", json!("")), "token-account"),
        ("bound to no node", with("/user/extra", json!({})), "token-unbound"),
        ("bound to an empty node", with(node, json!([])), "token-unbound"),
        ("bound to two nodes", with(node, json!(["n1", "n2"])), "token-unbound"),
        ("bound to a path", with(node, json!(["../n1"])), "token-unbound"),
        ("another node's", with(node, json!(["n2"])), "other-node"),
        ("a longer node's", with(node, json!(["n11"])), "other-node"),
    ] {
        let desk = rig.desk();
        let sent = token(what, 600);
        if !status.is_null() {
            rig.say(&sent, status);
        }
        let unmet = within(what, meet(&desk, &rig.node("n1", &sent))).await.err();
        assert_eq!(refused(&desk), [(reason, 1)], "{what}: {unmet:?}");
        let Some(Unmet::Refused(said)) = unmet else { panic!("{what}: {unmet:?}") };
        assert!(!said.contains(&sent), "{said}");
        assert!(desk.links().all().is_empty(), "{what}");
    }
}

#[tokio::test]
async fn who_brings_no_proof_or_two_that_differ_is_refused() {
    let rig = Rig::new().await;
    let good_one = token("n1", 600);
    rig.say(&good_one, good("n1"));
    let pair = rig.authority.issue("n1", &Leaf::node("n1"));
    let other = rig.authority.issue("n2", &Leaf::node("n2"));
    // With neither: the certificate is asked for, and not sent.
    let bare = Dialer::new(Wanted { token: None, ..rig.wanted("n1", &good_one) }).unwrap();
    for authorities in [None, Some(rig.authority.roots())] {
        let desk = rig.desk_with(authorities);
        assert!(meet(&desk, &bare).await.is_err());
        assert_eq!(refused(&desk), [("unproven", 1)]);
    }
    let path = rig.authority.path("token");
    for (pair, want) in [(pair.clone(), vec![]), (other, vec![("other-node", 1)])] {
        let desk = rig.desk_with(Some(rig.authority.roots()));
        let both = Wanted { token: Some(path.clone()), ..rig.authority.wanted("n1", pair) };
        let _welcomed = meet(&desk, &Dialer::new(both).unwrap()).await;
        assert_eq!(refused(&desk), want);
    }
    // A certificate alone, where they are taken; and a token where none is.
    let desk = rig.desk_with(Some(rig.authority.roots()));
    assert!(meet(&desk, &Dialer::new(rig.authority.wanted("n1", pair.clone())).unwrap()).await.is_ok());
    let desk = rig.authority.desk();
    let both = Wanted { token: Some(path), ..rig.authority.wanted("n1", pair) };
    assert!(meet(&desk, &Dialer::new(both).unwrap()).await.is_err());
    assert_eq!(refused(&desk), [("unproven", 1)]);
}

#[tokio::test]
async fn while_the_api_is_away_only_known_tokens_count() {
    let rig = Rig::fresh_for(Duration::ZERO).await;
    let (known, short, bad) = (token("known", 600), token("short", 3), token("bad", 600));
    rig.say(&known, good("n1"));
    rig.say(&short, good("n1"));
    for sent in [&known, &short] {
        assert!(meet(&rig.desk(), &rig.node("n1", sent)).await.is_ok());
    }
    assert!(meet(&rig.desk(), &rig.node("n1", &bad)).await.is_err());
    let new = token("new", 600);
    rig.say(&new, good("n1"));
    soon("the short one has ended", || (!rig.tokens.is_known(&short)).then_some(())).await;
    for mood in [Mood::Away, Mood::Ill, Mood::Other, Mood::Slow(Duration::from_secs(4))] {
        rig.api.be(mood);
        assert!(meet(&rig.desk(), &rig.node("n1", &known)).await.is_ok(), "{mood:?}");
        let mut said = Vec::new();
        for sent in [&short, &new] {
            let desk = rig.desk();
            let unmet = within("an answer", meet(&desk, &rig.node("n1", sent))).await.err();
            assert_eq!(refused(&desk), [("review", 1)], "{mood:?}: {unmet:?}");
            said.push(format!("{unmet:?}"));
        }
        assert!(said.iter().all(|said| said.contains("busy")), "{mood:?}: {said:?}");
    }
    rig.api.be(Mood::Well);
    soon("the new one is reviewed", || rig.tokens.is_known(&new).then_some(())).await;
    assert!(meet(&rig.desk(), &rig.node("n1", &new)).await.is_ok());
    // What the API server takes back is believed at once.
    rig.api.world().tokens.clear();
    let desk = rig.desk();
    assert!(meet(&desk, &rig.node("n1", &known)).await.is_err());
    assert_eq!(refused(&desk), [("token", 1)]);
}

#[tokio::test]
async fn many_nodes_with_one_token_cost_one_review() {
    let rig = Rig::new().await;
    let sent = token("n1", 600);
    rig.say(&sent, good("n1"));
    rig.api.be(Mood::Slow(Duration::from_millis(200)));
    let ask = || rig.tokens.node_of(&sent);
    let (a, b, c) = tokio::join!(ask(), ask(), ask());
    assert!([a, b, c].iter().all(Result::is_ok));
    assert_eq!(rig.reviews(), 1);
}

/// A node that dials over TCP until it is dropped.
async fn dialing(rig: &Rig, desk: &Arc<Desk>, sent: &str) -> tokio::task::JoinHandle<()> {
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let controllers = vec![tcp.local_addr().unwrap().to_string()];
    tokio::spawn(Arc::clone(desk).listen(tcp));
    let dialer = Dialer::new(Wanted { controllers, ..rig.wanted("n1", sent) }).unwrap();
    let linked = linked("n1");
    let serve = move |welcomed: Welcomed<TcpStream>| {
        linked.clone().serve(welcomed.stream, welcomed.gone.wait(), std::future::pending())
    };
    tokio::spawn(Arc::new(dialer).run(serve, std::future::pending()))
}

#[tokio::test]
async fn a_new_token_makes_a_new_connection_and_calls_of_the_old_one_finish() {
    let rig = Rig::new().await;
    let (first, second) = (token("first", 600), token("second", 600));
    rig.say(&first, good("n1"));
    rig.say(&second, good("n1"));
    let desk = rig.desk();
    let node = dialing(&rig, &desk, &first).await;
    let link = soon("it is connected", || desk.links().of(&id("n1"))).await;
    let mut running = client(&link);
    let running = tokio::spawn(async move { running.probe(csi::ProbeRequest {}).await });
    let (attempt, instance) = (link.attempt, link.instance);
    drop(link);
    // The same text again is no new token.
    rig.authority.put("token", &first);
    tokio::time::sleep(LONG / 2).await;
    assert_eq!(desk.links().of(&id("n1")).unwrap().attempt, attempt);
    rig.authority.put("token", &second);
    let later = || desk.links().of(&id("n1")).filter(|link| link.attempt > attempt);
    let link = soon("it is connected anew", later).await;
    assert_eq!(link.instance, instance);
    assert_eq!(running.await.unwrap().unwrap().into_inner().ready, Some(true));
    assert_eq!(name(&link).await.unwrap(), "i am n1");
    // One that the controller refuses takes nothing away.
    rig.authority.put("token", "no token");
    soon("it is refused", || (desk.refused("token") > 0).then_some(())).await;
    assert_eq!(name(&desk.links().of(&id("n1")).unwrap()).await.unwrap(), "i am n1");
    node.abort();
}

#[tokio::test]
async fn a_link_ends_after_its_token() {
    let rig = Rig::fresh_for(Duration::ZERO).await;
    let short = token("short", 3);
    rig.say(&short, good("n1"));
    let desk = Arc::new(rig.desk_with(None).strict());
    let node = dialing(&rig, &desk, &short).await;
    soon("it is connected", || desk.links().of(&id("n1"))).await;
    rig.api.world().tokens.clear();
    soon("it is let go", || desk.links().all().is_empty().then_some(())).await;
    // It comes again, and the API server says what is the matter.
    soon("it is refused", || (desk.refused("token") > 0).then_some(())).await;
    assert!(desk.links().all().is_empty());
    node.abort();
}
