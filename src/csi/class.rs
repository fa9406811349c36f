//! Parameters of classes and contexts of volumes: the free-form maps of the wire.
//!
//! Owns: the keys that mean something to us. A StorageClass may say `pool`, `allocation`, `placement`, `retainDeleted`,
//! `reportNodeGoneAfter` and `csi.storage.k8s.io/fstype`, a snapshot class `retainDeleted`; what the sidecars add under `csi.storage.k8s.io/` is accepted; anything else is refused by name, because a parameter that is
//! silently ignored is a promise silently broken. A volume context carries `pool` and, where a pool cannot limit sizes, `size`.
//! Never: prints a value of a context, which may hold a token.

use crate::error::{Error, Result, quoted};
use crate::model::{
    Allocation, Asked, Claim, Filesystem, Parameters, Placement, REPORT_NODE_GONE_AFTER, RETAIN_DELETED,
    Retention, report_node_gone_after,
};

use super::capability::filesystem;
use super::parse::map;

/// What Kubernetes' sidecars and kubelet add to maps.
const KUBERNETES: &str = "csi.storage.k8s.io/";
/// The filesystem of a StorageClass.
const FSTYPE: &str = "csi.storage.k8s.io/fstype";
/// What external-provisioner says about the claim with `--extra-create-metadata`: it varies where the class does not.
const CLAIM_NAME: &str = "csi.storage.k8s.io/pvc/name";
const CLAIM_NAMESPACE: &str = "csi.storage.k8s.io/pvc/namespace";
const VOLUME_NAME: &str = "csi.storage.k8s.io/pv/name";
/// Kubelet's mark of an inline volume, which lives and dies with its pod.
const EPHEMERAL: &str = "csi.storage.k8s.io/ephemeral";
/// What external-provisioner adds to every volume context.
const PROVISIONER: &str = "storage.kubernetes.io/csiProvisionerIdentity";

/// The key of a class or context that names the pool.
pub(super) const POOL: &str = "pool";
/// The key of a class that says whether space is taken at once.
const ALLOCATION: &str = "allocation";
/// The key of a class that says which of several nodes takes a volume. It is no property of the volume: made, it stays where
/// it is, whatever the class says by then.
const PLACEMENT: &str = "placement";
/// What Kubernetes' storage suite adds to the parameters of a group snapshot class.
const DELETION_POLICY: &str = "deletionPolicy";
/// The key of a context that says what a size is worth.
pub(super) const SIZE: &str = "size";

/// A StorageClass as meant.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Class {
    /// The pool by name.
    pub(super) pool: Option<String>,
    /// Sparse or reserved.
    pub(super) allocation: Allocation,
    /// Which of several nodes takes it; one node alone has no choice.
    pub(super) placement: Placement,
    /// The filesystem for volumes whose capability names none.
    pub(super) fs: Option<Filesystem>,
    /// Who claims the volume.
    pub(super) claim: Option<Claim>,
    /// What a retry is compared with: everything but the claim's metadata, the placement and what is reported.
    pub(super) recorded: Parameters,
}

impl Class {
    /// Reads the parameters of CreateVolume or GetCapacity.
    ///
    /// # Errors
    /// `Invalid` for an unknown key and for an impossible value.
    pub(super) fn parse(parameters: &Parameters) -> Result<Self> {
        map("parameters", parameters)?;
        let mut class = Class::default();
        let mut claim = Claim::default();
        for (key, value) in parameters {
            match key.as_str() {
                POOL if value.is_empty() => {
                    return Err(Error::invalid(
                        "parameters[pool]",
                        value,
                        "want the name of a pool, or no such key",
                    ));
                }
                POOL => class.pool = Some(value.clone()),
                ALLOCATION => class.allocation = value.parse()?,
                PLACEMENT => class.placement = value.parse()?,
                FSTYPE => class.fs = filesystem("parameters[csi.storage.k8s.io/fstype]", value)?,
                CLAIM_NAME => claim.name.clone_from(value),
                CLAIM_NAMESPACE => claim.namespace.clone_from(value),
                // Kept with the parameters; a delete reads it there.
                RETAIN_DELETED => drop(Retention::of_class(parameters)?),
                // For controllers, which read it in the class.
                REPORT_NODE_GONE_AFTER => drop(report_node_gone_after(parameters)?),
                other if other.starts_with(KUBERNETES) || planted!("unknown-parameter") => {}
                other => {
                    return Err(unknown_key(
                        "parameters",
                        other,
                        "`pool`, `allocation`, `placement`, `retainDeleted`, `reportNodeGoneAfter` and `csi.storage.k8s.io/*`",
                    ));
                }
            }
            let is_of_volume = !matches!(
                key.as_str(),
                CLAIM_NAME | CLAIM_NAMESPACE | VOLUME_NAME | PLACEMENT | REPORT_NODE_GONE_AFTER
            );
            if is_of_volume {
                class.recorded.insert(key.clone(), value.clone());
            }
        }
        class.claim = (claim != Claim::default()).then_some(claim);
        Ok(class)
    }

    /// The access type that a capability asks for, with the class's filesystem where it leaves that open.
    ///
    /// # Errors
    /// `Invalid` where both name one and they differ.
    pub(super) fn complete(&self, asked: Asked) -> Result<Asked> {
        match (asked, self.fs) {
            (Asked::Mount(None), fs) => Ok(Asked::Mount(fs)),
            (Asked::Mount(Some(capability)), Some(class)) if capability != class => {
                Err(Error::Invalid(format!(
                    "parameters[{FSTYPE}] `{class}` contradicts volume_capabilities' fs_type `{capability}`: want the same, or only one"
                )))
            }
            (asked @ (Asked::Mount(Some(_)) | Asked::Block), _) => Ok(asked),
        }
    }
}

fn unknown_key(field: &str, key: &str, known: &str) -> Error {
    Error::Invalid(format!("{field} has the unknown key {}: the known ones are {known}", quoted(key)))
}

/// The parameters of a snapshot class: how long a deleted one is kept, and what the sidecars add. Names of the Kubernetes objects are left out of what is
/// recorded, since a retry may say them differently.
///
/// # Errors
/// `Invalid` for any other key, and for an impossible value.
pub(super) fn snapshot_class(parameters: &Parameters) -> Result<Parameters> {
    map("parameters", parameters)?;
    Retention::of_class(parameters)?;
    let known = |key: &str| key == RETAIN_DELETED || key.starts_with(KUBERNETES);
    if let Some(key) = parameters.keys().find(|key| !known(key)) {
        return Err(unknown_key("parameters", key, "`retainDeleted` and `csi.storage.k8s.io/*`"));
    }
    let metadata = |key: &str| key.starts_with("csi.storage.k8s.io/volume");
    Ok(parameters.iter().filter(|(key, _)| !metadata(key)).map(|(k, v)| (k.clone(), v.clone())).collect())
}

/// The parameters of a group snapshot class: those of a snapshot class. A `deletionPolicy` among them says nothing and is not recorded:
/// Kubernetes acts by the class's own field of that name, and its storage suite says it here once more.
///
/// # Errors
/// As [`snapshot_class`], and `Invalid` for what is no such policy.
pub(super) fn group_class(parameters: &Parameters) -> Result<Parameters> {
    map("parameters", parameters)?;
    let mut rest = parameters.clone();
    match rest.remove(DELETION_POLICY).as_deref() {
        None | Some("Delete" | "Retain") => snapshot_class(&rest),
        Some(other) => Err(Error::invalid(
            "parameters[deletionPolicy]",
            other,
            "want no such key: the class's own field `deletionPolicy` says it, `Delete` or `Retain`",
        )),
    }
}

/// Refuses what is recognisably no volume of ours before it is looked up.
///
/// # Errors
/// `Invalid` for an inline volume.
pub(super) fn not_inline(context: &Parameters) -> Result<()> {
    match context.get(EPHEMERAL).map(String::as_str) {
        Some("true") => Err(Error::Invalid(format!(
            "volume_context[{EPHEMERAL}] `true`: want a volume that CreateVolume made, inline volumes are not offered"
        ))),
        Some(_) | None => Ok(()),
    }
}

/// What a caller's context says differently from ours, by key; values of a context are not printed.
pub(super) fn contradiction(sent: &Parameters, ours: &Parameters) -> Option<String> {
    let differs = |key: &&str| sent.get(*key).is_some_and(|value| ours.get(*key) != Some(value));
    let key = [POOL, SIZE].into_iter().find(|key| differs(key))?;
    let want = ours.get(key).map_or("no such key".to_owned(), |value| quoted(value));
    Some(format!("volume_context[{key}] contradicts the volume: want {want}"))
}

/// The first key of a context that neither we nor Kubernetes put there.
pub(super) fn foreign_key(context: &Parameters) -> Option<&str> {
    let known = |key: &str| [POOL, SIZE, PROVISIONER].contains(&key) || key.starts_with(KUBERNETES);
    context.keys().map(String::as_str).find(|key| !known(key))
}

/// What parameters say differently from those a volume was made with. The sidecars' own keys come and go.
pub(super) fn other_parameters(sent: &Class, recorded: &Parameters) -> Option<String> {
    let own = |map: &Parameters| -> Parameters {
        map.iter()
            .filter(|(key, _)| !key.starts_with(KUBERNETES))
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect()
    };
    let (sent, made) = (own(&sent.recorded), own(recorded));
    let key = sent.keys().chain(made.keys()).find(|key| sent.get(*key) != made.get(*key))?;
    let want = made.get(key).map_or("no such key".to_owned(), |value| quoted(value));
    Some(format!("parameters[{key}] differs from the volume's creation: want {want}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameters(pairs: &[(&str, &str)]) -> Parameters {
        pairs.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect()
    }

    #[test]
    fn a_class_is_read_and_its_metadata_set_apart() {
        let class = Class::parse(&parameters(&[
            ("pool", "fast"),
            ("allocation", "reserved"),
            ("placement", "pack"),
            (FSTYPE, "xfs"),
            (CLAIM_NAME, "data"),
            (CLAIM_NAMESPACE, "db"),
            (VOLUME_NAME, "pvc-1"),
            ("csi.storage.k8s.io/anything", "goes"),
        ]))
        .unwrap();
        assert_eq!(class.pool.as_deref(), Some("fast"));
        assert_eq!(class.allocation, Allocation::Reserved);
        assert_eq!(class.placement, Placement::Pack);
        assert_eq!(class.fs, Some(Filesystem::Xfs));
        assert_eq!(class.claim, Some(Claim { namespace: "db".into(), name: "data".into() }));
        assert_eq!(
            class.recorded.keys().collect::<Vec<_>>(),
            ["allocation", "csi.storage.k8s.io/anything", FSTYPE, "pool"]
        );
    }

    #[test]
    fn how_long_a_node_may_be_gone_is_checked_and_is_no_property_of_a_volume() {
        let class = Class::parse(&parameters(&[("pool", "fast"), (REPORT_NODE_GONE_AFTER, "1h")])).unwrap();
        assert_eq!(class.recorded, parameters(&[("pool", "fast")]));
        let error = Class::parse(&parameters(&[(REPORT_NODE_GONE_AFTER, "0")])).unwrap_err().to_string();
        assert!(error.contains("parameters[reportNodeGoneAfter] `0`") && error.contains("10m"), "{error}");
    }

    #[test]
    fn unknown_parameters_are_refused_by_name() {
        for (key, value) in [("tier", "gold"), ("fstype", "ext4"), ("Pool", "x"), ("", "")] {
            let error = Class::parse(&parameters(&[(key, value)])).unwrap_err().to_string();
            assert!(error.contains(&quoted(key)) && error.contains("parameters"), "{error}");
        }
        for (key, value) in [("allocation", "thick"), ("placement", "tight"), (FSTYPE, "btrfs"), ("pool", "")]
        {
            let error = Class::parse(&parameters(&[(key, value)])).unwrap_err().to_string();
            assert!(error.contains(key) && error.contains(&quoted(value)), "{error}");
        }
        let error = snapshot_class(&parameters(&[("pool", "x")])).unwrap_err().to_string();
        assert!(error.contains("`pool`"), "{error}");
    }

    #[test]
    fn a_class_fills_in_a_filesystem_and_never_overrules_one() {
        let class = Class { fs: Some(Filesystem::Xfs), ..Class::default() };
        assert_eq!(class.complete(Asked::Mount(None)).unwrap(), Asked::Mount(Some(Filesystem::Xfs)));
        assert_eq!(class.complete(Asked::Block).unwrap(), Asked::Block);
        assert!(matches!(class.complete(Asked::Mount(Some(Filesystem::Ext4))), Err(Error::Invalid(_))));
        assert_eq!(Class::default().complete(Asked::Mount(None)).unwrap(), Asked::Mount(None));
    }

    #[test]
    fn only_a_group_class_may_repeat_its_deletion_policy_and_it_says_nothing() {
        let repeated = parameters(&[("deletionPolicy", "Retain"), ("retainDeleted", "1h")]);
        assert_eq!(group_class(&repeated).unwrap(), parameters(&[("retainDeleted", "1h")]));
        assert!(snapshot_class(&repeated).unwrap_err().to_string().contains("deletionPolicy"));
        let error = group_class(&parameters(&[("deletionPolicy", "keep")])).unwrap_err().to_string();
        assert!(error.contains("`keep`") && error.contains("`Delete` or `Retain`"), "{error}");
        let error = group_class(&parameters(&[("tier", "gold")])).unwrap_err().to_string();
        assert!(error.contains("`tier`"), "{error}");
    }

    #[test]
    fn a_snapshot_class_records_no_object_names() {
        let recorded = snapshot_class(&parameters(&[
            ("csi.storage.k8s.io/volumesnapshot/name", "a"),
            ("csi.storage.k8s.io/volumegroupsnapshot/name", "b"),
            ("csi.storage.k8s.io/kept", "c"),
        ]));
        assert_eq!(recorded.unwrap(), parameters(&[("csi.storage.k8s.io/kept", "c")]));
    }

    #[test]
    fn a_context_contradicts_only_in_our_keys() {
        let ours = parameters(&[("pool", "fast")]);
        assert_eq!(contradiction(&parameters(&[(PROVISIONER, "x"), ("other", "y")]), &ours), None);
        assert_eq!(contradiction(&parameters(&[("pool", "fast")]), &ours), None);
        let text = contradiction(&parameters(&[("pool", "s3cret")]), &ours).unwrap();
        assert!(
            text.contains("volume_context[pool]") && text.contains("`fast`") && !text.contains("s3cret"),
            "{text}"
        );
        assert!(
            contradiction(&parameters(&[("size", "not enforced")]), &ours).unwrap().contains("no such key")
        );
        assert_eq!(foreign_key(&parameters(&[("pool", "x"), (PROVISIONER, "y"), (FSTYPE, "z")])), None);
        assert_eq!(foreign_key(&parameters(&[("other", "y")])), Some("other"));
    }

    #[test]
    fn inline_volumes_are_not_ours() {
        assert!(matches!(not_inline(&parameters(&[(EPHEMERAL, "true")])), Err(Error::Invalid(_))));
        not_inline(&parameters(&[(EPHEMERAL, "false")])).unwrap();
    }

    #[test]
    fn parameters_are_compared_without_what_the_sidecars_add() {
        let made = parameters(&[("pool", "fast"), (FSTYPE, "xfs")]);
        let sent = |pairs| Class::parse(&parameters(pairs)).unwrap();
        assert_eq!(other_parameters(&sent(&[("pool", "fast")]), &made), None);
        assert_eq!(other_parameters(&sent(&[("pool", "fast"), ("placement", "pack")]), &made), None);
        assert!(other_parameters(&sent(&[("pool", "slow")]), &made).unwrap().contains("parameters[pool]"));
        assert!(other_parameters(&sent(&[("allocation", "sparse"), ("pool", "fast")]), &made).is_some());
        assert!(other_parameters(&sent(&[(FSTYPE, "xfs")]), &made).is_some());
    }
}
