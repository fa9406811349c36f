//! Stores under an API server that restarts, forgets and refuses. Over real connections.

use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use serde_json::json;

use super::super::stores::Stores;
use super::{A, DRIVER, claim, persistent, volume_id};
use crate::cluster::kubernetes::Kubernetes;
use crate::cluster::link::tests::authority::Authority;
use crate::cluster::tests::kubernetes::{Api, Mood};
use crate::cluster::tests::soon;

const VOLUMES: &str = "/api/v1/persistentvolumes";

struct Watched {
    api: Api,
    stores: Arc<Stores>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Watched {
    /// Stores over a server that has this already.
    async fn over(api: Api, quiet: Duration) -> Watched {
        let authority = Authority::new();
        let config = authority.put("kubeconfig", &api.kubeconfig());
        let client: Client = Kubernetes::of_operator(Some(&config)).await.unwrap().watching().unwrap();
        let stores = Arc::new(Stores::new(quiet));
        let following = Arc::clone(&stores);
        let task = tokio::spawn(async move { following.follow(&client, DRIVER).await });
        Watched { api, stores, task }
    }

    async fn new() -> Watched {
        Watched::over(Api::start(), Duration::from_secs(3)).await
    }

    fn put(&self, number: u64) {
        let name = format!("pv-{number}");
        self.api.world().put(&format!("{VOLUMES}/{name}"), persistent(&name, &volume_id(A, number), "n1"));
    }

    /// Waits until these are known, and no others.
    async fn knows(&self, numbers: &[u64]) {
        let wanted: Vec<String> = numbers.iter().map(|number| format!("pv-{number}")).collect();
        let known = || {
            let mut known: Vec<String> =
                self.stores.volumes.kept().iter().map(|it| it.name.to_string()).collect();
            known.sort();
            (known == wanted).then_some(())
        };
        soon(&format!("{wanted:?} are known"), known).await;
    }

    fn asked(&self, words: &str) -> usize {
        self.api.world().asked.iter().filter(|asked| asked.contains(VOLUMES) && asked.contains(words)).count()
    }
}

#[tokio::test]
async fn what_is_there_is_listed_and_what_changes_is_heard() {
    let watched = Watched::new().await;
    soon("nothing is known to be there", || watched.stores.volumes.all().filter(Vec::is_empty)).await;
    watched.put(1);
    watched.put(2);
    watched.knows(&[1, 2]).await;
    watched.api.world().remove(&format!("{VOLUMES}/pv-1"));
    watched.knows(&[2]).await;
    let mut leaving = persistent("pv-2", &volume_id(A, 2), "n1");
    leaving["metadata"]["deletionTimestamp"] = json!("2026-11-22T00:00:00Z");
    leaving["metadata"]["finalizers"] = json!(["x"]);
    watched.api.world().put(&format!("{VOLUMES}/pv-2"), leaving);
    let leaves = || watched.stores.volumes.kept().iter().any(|volume| volume.is_leaving).then_some(());
    soon("it is being deleted", leaves).await;
}

#[tokio::test]
async fn a_long_list_is_read_page_by_page_and_only_what_is_ours_is_kept() {
    let api = Api::start();
    for number in 0..1200 {
        let mut volume = persistent(&format!("pv-{number}"), &volume_id(A, number), "n1");
        if number % 2 == 0 {
            volume["spec"]["csi"]["driver"] = json!("other.driver");
        }
        api.world().put(&format!("{VOLUMES}/pv-{number}"), volume);
    }
    let mut foreign = claim("foreign");
    foreign["metadata"]["annotations"] =
        json!({ "volume.kubernetes.io/storage-provisioner": "other.driver" });
    api.world().put("/api/v1/namespaces/ns/persistentvolumeclaims/foreign", foreign);
    api.world().put("/api/v1/namespaces/ns/persistentvolumeclaims/own", claim("own"));
    let class =
        |provisioner: &str| json!({ "metadata": { "name": provisioner }, "provisioner": provisioner });
    api.world().put("/apis/storage.k8s.io/v1/storageclasses/other", class("other"));
    api.world().put("/apis/storage.k8s.io/v1/storageclasses/ours", class(DRIVER));
    let watched = Watched::over(api, Duration::from_secs(3)).await;
    let volumes = soon("they are listed", || watched.stores.volumes.all()).await;
    assert_eq!(volumes.len(), 600);
    assert_eq!(watched.asked("limit=500"), 3);
    let claims = soon("claims are listed", || watched.stores.claims.all()).await;
    assert_eq!(claims.iter().map(|claim| &*claim.uid).collect::<Vec<_>>(), ["claim-of-own"]);
    assert_eq!(soon("classes are listed", || watched.stores.classes.all()).await.len(), 1);
    // A claim that somebody else turns out to provision is dropped.
    let mut taken = claim("own");
    taken["metadata"]["annotations"] = json!({ "volume.kubernetes.io/storage-provisioner": "other.driver" });
    watched.api.world().put("/api/v1/namespaces/ns/persistentvolumeclaims/own", taken);
    soon("it is dropped", || watched.stores.claims.kept().is_empty().then_some(())).await;
}

#[tokio::test]
async fn a_server_that_restarts_is_missed_and_found_again() {
    let watched = Watched::new().await;
    watched.put(1);
    watched.knows(&[1]).await;
    watched.api.be(Mood::Away);
    soon("it is missed", || (watched.stores.failures()[0] > 0).then_some(())).await;
    assert!(watched.stores.volumes.all().is_none(), "what is known may be out of date");
    watched.knows(&[1]).await;
    watched.api.be(Mood::Well);
    watched.put(2);
    watched.api.world().remove(&format!("{VOLUMES}/pv-1"));
    watched.knows(&[2]).await;
    soon("it is believed again", || watched.stores.volumes.all()).await;
    assert_eq!(watched.asked("limit=500"), 1, "it went on where it was");
}

#[tokio::test]
async fn while_a_list_is_asked_for_anew_and_not_answered_nothing_is_believed() {
    let watched = Watched::over(Api::start(), Duration::from_secs(60)).await;
    watched.put(1);
    watched.knows(&[1]).await;
    watched.api.world().forget();
    soon("its watch has expired", || (watched.stores.failures()[0] > 0).then_some(())).await;
    watched.api.be(Mood::Slow(Duration::from_secs(5)));
    soon("it is asked for", || (watched.asked("limit=500") > 1).then_some(())).await;
    assert!(watched.stores.volumes.all().is_none(), "and not answered");
}

#[tokio::test]
async fn a_watch_that_ends_goes_on_where_it_was() {
    let watched = Watched::new().await;
    watched.put(1);
    watched.knows(&[1]).await;
    watched.api.world().end_watches();
    watched.put(2);
    watched.knows(&[1, 2]).await;
    assert_eq!((watched.asked("limit=500"), watched.stores.failures()[0]), (1, 0));
    assert!(watched.stores.volumes.all().is_some(), "that is no failure");
}

#[tokio::test]
async fn a_bookmark_says_how_far_a_watch_is_that_hears_nothing() {
    let watched = Watched::new().await;
    watched.put(1);
    watched.knows(&[1]).await;
    // Changes of another kind: the watch hears of them by bookmarks alone.
    (0..5).for_each(|number| watched.api.add_node(&format!("n{number}")));
    let version = watched.api.world().objects["/api/v1/nodes/n4"]["metadata"]["resourceVersion"].clone();
    tokio::time::sleep(Duration::from_millis(500)).await;
    watched.api.world().end_watches();
    let from: u64 = version.as_str().unwrap().parse().unwrap();
    let goes_on = || {
        (from..from + 3).any(|version| watched.asked(&format!("resourceVersion={version}")) > 0).then_some(())
    };
    soon("it goes on from the bookmark", goes_on).await;
}

#[tokio::test]
async fn what_the_server_has_forgotten_is_listed_anew() {
    let watched = Watched::new().await;
    watched.put(1);
    watched.knows(&[1]).await;
    {
        let mut world = watched.api.world();
        world.objects.remove(&format!("{VOLUMES}/pv-1"));
        world.put(&format!("{VOLUMES}/pv-2"), persistent("pv-2", &volume_id(A, 2), "n1"));
        world.forget();
    }
    watched.knows(&[2]).await;
    assert!(watched.asked("limit=500") > 1, "by a list");
    watched.put(3);
    watched.knows(&[2, 3]).await;
}

#[tokio::test]
async fn a_watch_that_is_refused_as_expired_is_begun_anew() {
    let watched = Watched::new().await;
    watched.put(1);
    watched.knows(&[1]).await;
    {
        let mut world = watched.api.world();
        world.objects.remove(&format!("{VOLUMES}/pv-1"));
        world.refuse_expired();
        world.forget();
    }
    watched.knows(&[]).await;
    watched.put(2);
    watched.knows(&[2]).await;
}

#[tokio::test]
async fn a_server_that_answers_nonsense_or_failures_is_asked_again_and_changes_nothing() {
    let watched = Watched::new().await;
    watched.put(1);
    watched.knows(&[1]).await;
    watched.api.be(Mood::Ill);
    watched.api.world().end_watches();
    soon("it fails", || (watched.stores.failures()[0] > 0).then_some(())).await;
    watched.knows(&[1]).await;
    watched.api.be(Mood::Well);
    watched.put(2);
    watched.knows(&[1, 2]).await;
}
