//! What is wrong with a claim before anybody makes a volume for it: it is not there, it goes, or it asks for what cannot be.
//!
//! Owns: claim, class, access mode, selector and volume name. Never: looks at nodes.

use serde_json::Value;

use super::facts::{Facts, Look, name_of, newest_first, quantity, text, texts};
use super::gather::has_word;
use super::judge::{Cause, State, ago, names, said};
use crate::error::quoted;

/// There is no such claim: what kept it from being made, or what may be meant.
pub(super) fn missing(facts: &Facts) -> Cause {
    let title = facts.title();
    if let Some(cause) = quota(facts) {
        return cause;
    }
    if facts.namespace_object == Look::Missing {
        let what =
            format!("There is no claim {title}: the namespace {} does not exist.", quoted(&facts.namespace));
        return Cause::wrong("namespace-missing", what, "Name the right one with -n.");
    }
    let (here, elsewhere): (Vec<&Value>, Vec<&Value>) =
        facts.namesakes.iter().partition(|claim| text(claim, "/metadata/namespace") == facts.namespace);
    let mut alike: Vec<(usize, &str)> =
        here.iter().map(|claim| (distance(&facts.name, name_of(claim)), name_of(claim))).collect();
    alike
        .retain(|(distance, name)| *distance <= 2 || name.contains(&facts.name) || facts.name.contains(name));
    alike.sort_unstable();
    let alike: Vec<&str> = alike.into_iter().map(|(_, name)| name).collect();
    let elsewhere: Vec<String> = elsewhere
        .iter()
        .map(|claim| format!("{}/{}", text(claim, "/metadata/namespace"), facts.name))
        .collect();
    let what = format!("There is no claim {title}.");
    let fix = match (&alike[..], &elsewhere[..]) {
        ([], []) => format!(
            "The namespace has {}; a claim is made by its manifest, by a StatefulSet's volumeClaimTemplates, or with a pod that has an ephemeral volume.",
            match here.len() {
                0 => "no claims".to_owned(),
                1 => "one claim".to_owned(),
                more => format!("{more} claims"),
            }
        ),
        ([], elsewhere) => format!("There is {}: name its namespace with -n.", names(elsewhere)),
        (alike, []) => format!("Is {} meant?", names(alike)),
        (alike, elsewhere) => format!("Is {} meant, or {}?", names(alike), names(elsewhere)),
    };
    Cause::wrong("claim-missing", what, fix)
}

/// Whether a ResourceQuota kept the claim from being made.
fn quota(facts: &Facts) -> Option<Cause> {
    let mut events: Vec<&Value> = facts.events.iter().flatten().collect();
    newest_first(&mut events);
    let refused = events.into_iter().find(|event| {
        let message = text(event, "/message");
        message.contains("exceeded quota") && has_word(message, &facts.name)
    });
    let fix = "Raise the quota, delete claims that nobody needs, or ask for less; whoever makes the claim tries again.";
    if let Some(event) = refused {
        let (kind, name) = (text(event, "/involvedObject/kind"), text(event, "/involvedObject/name"));
        let what = format!(
            "There is no claim {}: a ResourceQuota of the namespace does not let {kind} {name} make it{}: {}.",
            facts.title(),
            ago(event, facts.now),
            said(text(event, "/message"))
        );
        return Some(Cause::wrong("quota", what, fix));
    }
    let full = facts.quotas.iter().flatten().find_map(|quota| {
        let hard = quota["status"]["hard"].as_object()?;
        let is_full = |key: &str| {
            let amount = |field: &str| quantity(quota["status"][field][key].as_str()?);
            amount("used").zip(amount("hard")).is_some_and(|(used, hard)| used >= hard)
        };
        let storage =
            |key: &&String| key.contains("persistentvolumeclaims") || key.ends_with("requests.storage");
        let key = hard.keys().filter(storage).find(|key| is_full(key))?;
        let of = |field: &str| quota["status"][field][key].as_str().unwrap_or_default().to_owned();
        Some((name_of(quota).to_owned(), key.clone(), of("used"), of("hard")))
    });
    let (name, key, used, hard) =
        full.filter(|_| facts.namesakes.iter().all(|one| name_of(one) != facts.name))?;
    let what = format!(
        "There is no claim {}, and none can be made: the namespace's ResourceQuota {} is used up, {key} {used} of {hard}.",
        facts.title(),
        quoted(&name)
    );
    Some(Cause::wrong("quota", what, fix))
}

/// How many letters have to be changed, added or taken away.
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (done, letter) in one.chars().enumerate() {
        let mut corner = row[0];
        row[0] = done + 1;
        for (at, next) in other.iter().enumerate() {
            let swapped = corner + usize::from(letter != *next);
            corner = row[at + 1];
            row[at + 1] = swapped.min(row[at] + 1).min(corner + 1);
        }
    }
    row.last().copied().unwrap_or_default()
}

/// It is being deleted, and something holds it.
pub(super) fn leaving(facts: &Facts) -> Option<Cause> {
    let claim = facts.claim();
    let since = text(claim, "/metadata/deletionTimestamp");
    if since.is_empty() {
        return None;
    }
    let title = facts.title();
    let users: Vec<&str> = facts.users().iter().map(|pod| name_of(pod)).collect();
    let (who, uses) = if users.len() == 1 { ("pod", "uses") } else { ("pods", "use") };
    let held = texts(claim, "/metadata/finalizers");
    let what = format!("Claim {title} has been on its way out since {since}");
    let is_source =
        held.iter().any(|held| held.contains("as-source-protection") || held.contains("cloning-protection"));
    let fix = "No new pod can use it: make it anew under another name if the data is not needed, or wait until it is gone.";
    Some(if !users.is_empty() {
        let what = format!("{what}, and {who} {} still {uses} it.", names(&users));
        Cause::wrong("deleting", what, format!("Delete the {who}, and the claim goes, too. {fix}"))
    } else if is_source {
        let what = format!("{what}: a snapshot or clone of it is being made, and it goes when that is done.");
        Cause::waits("deleting", what, fix)
    } else {
        let held = if held.is_empty() { "nothing".to_owned() } else { names(&held) };
        let pods = if facts.pods.is_some() { "no pod uses it" } else { "its pods may not be read" };
        let what = format!("{what}; {pods}, and what holds it are its finalizers: {held}.");
        Cause::wrong(
            "deleting",
            what,
            "Whoever has set a finalizer takes it away when his work is done: see why he does not.",
        )
    })
}

/// Its volume is gone.
pub(super) fn lost(facts: &Facts) -> Option<Cause> {
    let claim = facts.claim();
    let (phase, volume) = (text(claim, "/status/phase"), text(claim, "/spec/volumeName"));
    let is_gone = phase == "Bound" && !volume.is_empty() && facts.volume == Look::Missing;
    if phase != "Lost" && !is_gone {
        return None;
    }
    let whose = facts.volume.there().map(|volume| text(volume, "/spec/claimRef/uid"));
    if whose.is_some_and(|uid| !uid.is_empty() && uid != text(claim, "/metadata/uid")) {
        let what = format!(
            "Claim {} is {phase}: its PersistentVolume {volume} is bound to another claim.",
            facts.title()
        );
        return Some(Cause::wrong(
            "lost",
            what,
            "Delete this claim and make it anew: it gets a volume of its own.",
        ));
    }
    let what = format!(
        "Claim {} is {phase}: its PersistentVolume {} is gone, which somebody has deleted by hand.",
        facts.title(),
        if volume.is_empty() { "-" } else { volume }
    );
    let fix = "If its reclaim policy was Retain, the data is still in its pool (`rockpool ctl volume list`): write a PersistentVolume for that id, and make the claim anew with its volumeName. \
               If it was Delete, `rockpool ctl retained list` on its node shows whether the pool still keeps it; otherwise restore from a snapshot.";
    Some(Cause::wrong("lost", what, fix))
}

/// It is somebody else's business.
pub(super) fn foreign(facts: &Facts) -> Option<Cause> {
    let title = facts.title();
    if let Some(volume) = facts.volume.there() {
        return foreign_volume(facts, volume);
    }
    let class = facts.class()?;
    let provisioner = text(class, "/provisioner");
    if provisioner == facts.driver {
        return None;
    }
    let by = if facts.class_name().is_none() {
        "names no StorageClass, and the default one"
    } else {
        "is of the StorageClass"
    };
    let what = format!(
        "Claim {title} {by} {}, whose provisioner is {}, not {}.",
        quoted(name_of(class)),
        quoted(provisioner),
        quoted(&facts.driver)
    );
    let fix = format!(
        "Ask that provisioner why; or make the claim anew with a class of ours, as the class of a claim cannot be changed. {}",
        ours(facts)
    );
    Some(Cause::wrong("other-driver", what, fix))
}

fn foreign_volume(facts: &Facts, volume: &Value) -> Option<Cause> {
    let driver = text(volume, "/spec/csi/driver");
    if driver == facts.driver {
        return None;
    }
    let driver =
        if driver.is_empty() { "no CSI driver".to_owned() } else { format!("the driver {}", quoted(driver)) };
    let what = format!(
        "Claim {} has the volume {}, which is of {driver}, not of {}.",
        facts.title(),
        name_of(volume),
        quoted(&facts.driver)
    );
    let fix = "Ask that one why; --driver-name says which is ours.".to_owned();
    Some(Cause { code: "other-driver", state: State::Unknown, what, fix })
}

/// The classes of the driver, in a sentence.
fn ours(facts: &Facts) -> String {
    let classes = facts.classes.iter().flatten();
    let ours: Vec<&str> =
        classes.filter(|class| text(class, "/provisioner") == facts.driver).map(name_of).collect();
    if ours.is_empty() {
        return format!(
            "There is no class of {} yet: the chart's storageClasses makes one.",
            quoted(&facts.driver)
        );
    }
    format!("Classes of ours: {}.", names(&ours))
}

/// No class serves it, or it wants a volume that is there already.
pub(super) fn unserved(facts: &Facts) -> Option<Cause> {
    let volume = text(facts.claim(), "/spec/volumeName");
    if !volume.is_empty() {
        return Some(bespoken(facts, volume));
    }
    facts.classes.as_ref().filter(|_| facts.class().is_none())?;
    let (title, ours) = (facts.title(), ours(facts));
    Some(match facts.class_name() {
        Some("") => {
            let what = format!(
                "Claim {title} has an empty storageClassName, which says that nothing is to be made for it: it waits for a PersistentVolume that somebody writes."
            );
            let fix = format!("Write one, or make the claim anew with a class. {ours}");
            Cause::wrong("no-class", what, fix)
        }
        Some(name) => {
            let what =
                format!("Claim {title} is of the StorageClass {}, which does not exist.", quoted(name));
            let fix = format!(
                "Make a class of that name, and it goes on by itself; or make the claim anew with another. {ours}"
            );
            Cause::wrong("class-missing", what, fix)
        }
        None => {
            let what =
                format!("Claim {title} names no StorageClass, and no class is marked as the default one.");
            let fix = format!(
                "Mark one with the annotation storageclass.kubernetes.io/is-default-class=true, and the claim takes it by itself; or make the claim anew with a class. {ours}"
            );
            Cause::wrong("no-class", what, fix)
        }
    })
}

/// It names the volume that it wants.
fn bespoken(facts: &Facts, volume: &str) -> Cause {
    let title = facts.title();
    let start = format!(
        "Claim {title} wants the PersistentVolume {} by its name, so nothing is made for it",
        quoted(volume)
    );
    let Some(object) = facts.volume.there() else {
        let there = if facts.volume == Look::Missing {
            "there is none of that name"
        } else {
            "that may not be read here"
        };
        let fix = "Write that PersistentVolume, or make the claim anew without volumeName.";
        return Cause::wrong("volume-name", format!("{start}, and {there}."), fix);
    };
    if let Some(whose) = taken(facts, object) {
        let what = format!(
            "{start}; but that volume is bound to {whose}, and is {}.",
            text(object, "/status/phase")
        );
        let fix = format!(
            "Make the claim anew without volumeName; or, if the data is to be this claim's, see that the other is gone and take the uid out of the volume's claimRef (kubectl edit pv {volume})."
        );
        return Cause::wrong("volume-name", what, fix);
    }
    let Some(event) = facts.newest(&["VolumeMismatch", "FailedBinding"]) else {
        return Cause::waits(
            "volume-name",
            format!("{start}; the volume is there and about to be bound."),
            "",
        );
    };
    let heard = format!("{}: {}", ago(event, facts.now), said(text(event, "/message")));
    let what = format!("{start}; Kubernetes does not bind them{heard}.");
    Cause::wrong("volume-name", what, "Class, size, access modes and volumeMode of both have to fit.")
}

/// The other claim that a volume is bound to.
fn taken(facts: &Facts, volume: &Value) -> Option<String> {
    let of = |field: &str| text(volume, &format!("/spec/claimRef/{field}"));
    let ours = (facts.namespace.as_str(), facts.name.as_str());
    if !of("name").is_empty() && (of("namespace"), of("name")) != ours {
        return Some(format!("claim {}/{}", of("namespace"), of("name")));
    }
    let is_earlier = !of("uid").is_empty() && of("uid") != text(facts.claim(), "/metadata/uid");
    is_earlier.then(|| "an earlier claim of this name".to_owned())
}

/// What it asks for and can never get here.
pub(super) fn asks(facts: &Facts) -> Vec<Cause> {
    let (title, claim) = (facts.title(), facts.claim());
    let mut causes = Vec::new();
    let modes = texts(claim, "/spec/accessModes");
    let shared: Vec<&str> =
        modes.into_iter().filter(|mode| ["ReadWriteMany", "ReadOnlyMany"].contains(mode)).collect();
    if !shared.is_empty() {
        let what = format!(
            "Claim {title} asks for the access mode {}: a volume of {} is on one node, and cannot be used on several.",
            names(&shared),
            quoted(&facts.driver)
        );
        let fix = "Make it anew with ReadWriteOnce, which several pods of one node may share, or ReadWriteOncePod; for files that many nodes share take a network filesystem's class.";
        causes.push(Cause::wrong("access-mode", what, fix));
    }
    if claim["spec"]["selector"].is_object() {
        let what = format!(
            "Claim {title} has a selector, which chooses among PersistentVolumes that are there: nothing is made for such a claim."
        );
        causes.push(Cause::wrong("selector", what, "Make it anew without selector; where a volume is to be placed says the pod's node selector, or allowedTopologies of the class."));
    }
    let attributes = text(claim, "/spec/volumeAttributesClassName");
    if !attributes.is_empty() {
        let what = format!(
            "Claim {title} names the VolumeAttributesClass {}, and volumes of {} have no attributes that can be changed.",
            quoted(attributes),
            quoted(&facts.driver)
        );
        causes.push(Cause::wrong(
            "attributes-class",
            what,
            "Make it anew without volumeAttributesClassName.",
        ));
    }
    causes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_distance_counts_what_has_to_be_typed() {
        for (one, other, far) in
            [("data", "data", 0), ("data", "date", 1), ("data", "dta", 1), ("data", "", 4), ("ab", "ba", 2)]
        {
            assert_eq!((distance(one, other), distance(other, one)), (far, far), "{one} {other}");
        }
    }
}
