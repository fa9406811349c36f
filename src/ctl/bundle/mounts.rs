//! Which mounts go into a bundle, and what of their paths.
//!
//! Owns: which parts of a path are ours or kubelet's, and so say nothing of a user. Never: keeps a part of a mount point that it
//! does not know.

use std::collections::HashSet;
use std::path::Path;

use serde_json::{Value, json};

use super::checksum;
use crate::engine::Code;
use crate::error::chain;
use crate::model::VolumeId;
use crate::os::mount::{Mount, Of};
use crate::os::{loopdev, mount};
use crate::proto::admin;

/// What kubelet calls the directories in which it wants volumes; all else below them names a pod, a volume or a driver.
const KUBELETS: [&str; 11] = [
    "pods",
    "plugins",
    "volumes",
    "volumeDevices",
    "kubernetes.io",
    "kubernetes.io~csi",
    "csi",
    "mount",
    "globalmount",
    "staging",
    "publish",
];

/// The mounts that show one of these pools, on filesystems of these devices, or a volume of one.
pub(super) fn mounts(grounds: &[u64], pools: &[&Path], with_names: bool) -> Value {
    let volumes: Vec<u64> = loopdev::all()
        .unwrap_or_default()
        .into_iter()
        .filter(|(file, _)| grounds.contains(&file.device))
        .map(|(_, found)| found.device.device)
        .collect();
    let table = match mount::table() {
        Ok(table) => table,
        Err(error) => return json!({ "error": chain(&error) }),
    };
    let shown = volumes.iter().flat_map(|number| mount::seats(Of::Loop(*number)).unwrap_or_default());
    let of_loops: HashSet<u64> = shown.map(|seat| seat.id).collect();
    let shown = table.iter().filter_map(|mount| {
        let on_ground = grounds.contains(&mount.device);
        let of_pool = on_ground && pools.iter().any(|pool| pool.starts_with(&mount.point));
        let of_volume = on_ground && shows_volume(mount) || of_loops.contains(&mount.id);
        let point = match (of_pool, of_volume) {
            (true, _) => mount.point.display().to_string(),
            (false, true) => point(&mount.point, with_names),
            (false, false) => return None,
        };
        let root = |mount: &Mount| root(&mount.root, volumes.contains(&mount.device), with_names);
        Some(json!({
            "id": mount.id, "parent": mount.parent, "device": mount.device, "root": root(mount), "point": point,
            "type": mount.kind, "source": mount.source, "options": mount.options, "super_options": mount.super_options,
        }))
    });
    Value::Array(shown.collect())
}

/// Whether it shows the directory of a volume, which is named by its id.
fn shows_volume(mount: &Mount) -> bool {
    mount.root.iter().any(|part| part.to_str().is_some_and(|part| part.parse::<VolumeId>().is_ok()))
}

/// The root of a mount as it may be told: what lies within a volume, such as kubelet's `subPath`, is its user's.
fn root(path: &Path, of_volume: bool, with_names: bool) -> String {
    if with_names {
        return path.display().to_string();
    }
    let mut within = of_volume;
    let told = path.iter().skip(1).map(|part| {
        let part = part.to_string_lossy();
        let told = if within { checksum(&part) } else { part.to_string() };
        within |= part.parse::<VolumeId>().is_ok();
        format!("/{told}")
    });
    let told: String = told.collect();
    if told.is_empty() { "/".to_owned() } else { told }
}

/// A mount point as it may be told: all above kubelet's own directories and their names, and of the rest a checksum.
fn point(path: &Path, with_names: bool) -> String {
    if with_names {
        return path.display().to_string();
    }
    let parts: Vec<&str> = path.iter().skip(1).map(|part| part.to_str().unwrap_or_default()).collect();
    let begins = |pair: &[&str]| pair[0] == "pods" || (pair[0] == "plugins" && KUBELETS.contains(&pair[1]));
    let kubelet = parts.windows(2).position(begins).unwrap_or(0);
    let (above, below) = parts.split_at(kubelet);
    let above = above.iter().map(|part| format!("/{part}"));
    let below = below.iter().map(|part| {
        if KUBELETS.contains(part) { format!("/{part}") } else { format!("/{}", checksum(part)) }
    });
    above.chain(below).collect()
}

/// A finding as it may be told: some say where a mount is.
pub(super) fn finding(mut one: admin::Finding, with_names: bool) -> admin::Finding {
    let of_mounts = [Code::LeftoverMount, Code::ObjectDeleted].iter().any(|code| one.code == code.name());
    if with_names || !of_mounts {
        return one;
    }
    one.what = quoted_paths(&one.what);
    if one.object.starts_with('/') {
        let told = point(Path::new(&one.object), false);
        one.repair = one.repair.replace(&one.object, &told);
        one.object = told;
    }
    one
}

/// A sentence with each path between backticks as it may be told.
fn quoted_paths(text: &str) -> String {
    let told = text.split('`').enumerate().map(|(at, part)| {
        let is_path = at % 2 == 1 && part.starts_with('/');
        if is_path { point(Path::new(part), false) } else { part.to_owned() }
    });
    told.collect::<Vec<_>>().join("`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_the_root_of_a_mount_nothing_within_a_volume_is_told() {
        let name = checksum;
        let volume = "v1.0a0102030405.0101010101010101";
        let told = |path: &str, of_volume| root(Path::new(path), of_volume, false);
        assert_eq!(told("/", true), "/");
        assert_eq!(told("/wages/2026", true), format!("/{}/{}", name("wages"), name("2026")));
        let of_pool = format!("/pool/volumes/{volume}");
        assert_eq!(told(&of_pool, false), of_pool);
        assert_eq!(told(&format!("{of_pool}/wages"), false), format!("{of_pool}/{}", name("wages")));
        assert_eq!(told("/loop7", false), "/loop7");
        assert_eq!(root(Path::new("/wages"), true, true), "/wages");
    }

    #[test]
    fn of_a_mount_point_only_what_is_kubelets_own_is_told() {
        let told = |path: &str| point(Path::new(path), false);
        let name = checksum;
        for (path, want) in [
            (
                "/data/kubelet/pods/uid-1/volumes/kubernetes.io~csi/pvc-of-the-bank/mount",
                format!(
                    "/data/kubelet/pods/{}/volumes/kubernetes.io~csi/{}/mount",
                    name("uid-1"),
                    name("pvc-of-the-bank")
                ),
            ),
            (
                "/var/lib/kubelet/plugins/kubernetes.io/csi/volumeDevices/staging/pvc-of-the-bank",
                format!(
                    "/var/lib/kubelet/plugins/kubernetes.io/csi/volumeDevices/staging/{}",
                    name("pvc-of-the-bank")
                ),
            ),
            ("/bank/plugins/payroll", format!("/{}/plugins/{}", name("bank"), name("payroll"))),
            ("/bank/pods", format!("/{}/pods", name("bank"))),
        ] {
            assert_eq!(told(path), want);
            assert_eq!(point(Path::new(path), true), path);
        }
    }
}
