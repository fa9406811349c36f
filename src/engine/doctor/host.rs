//! The doctor's look at the host.
//!
//! Owns: what a host must have for all pools: programs, rights, kubelet's directory. Never: looks at a pool.

use std::path::Path;

use super::{Code, Finding};
use crate::engine::Engine;
use crate::error::{chain, quoted};
use crate::os::{fs, mount};

/// Where kubelet's paths for CSI lie below its directory. In a container these are mounts of their own, and what is above them is none.
const KUBELET_PLACES: [&str; 2] = ["pods", "plugins/kubernetes.io/csi"];

impl Engine {
    /// What the host lacks.
    pub fn diagnose_host(&self) -> Vec<Finding> {
        let mut found: Vec<Finding> = fs::missing_programs().iter().map(missing_program).collect();
        found.extend(self.kubelet_trouble());
        if !fs::grows_ext4_in_use() {
            let what = "this process lacks CAP_SYS_RESOURCE: an ext4 volume in use does not grow before its next stage";
            let repair = "run the driver with CAP_SYS_RESOURCE; xfs volumes grow in use without it";
            found.push(of_host(Code::NoSysResource, None, what.to_owned(), repair));
        }
        found
    }

    /// What keeps workloads from seeing what is mounted below kubelet's directory. One who only looks into pools has none.
    pub(crate) fn kubelet_trouble(&self) -> Option<Finding> {
        if self.kubelet_root.as_os_str().is_empty() {
            return None;
        }
        let root = &self.kubelet_root;
        if !root.is_dir() {
            let path = root.display().to_string();
            let what =
                format!("{} does not exist: staging and target paths must lie below it", quoted(&path));
            let repair = "make it, or name another one with --kubelet-root";
            return Some(of_host(Code::KubeletRoot, Some(path), what, repair));
        }
        let places = KUBELET_PLACES.map(|place| root.join(place)).into_iter().filter(|place| place.is_dir());
        let mut places = places.collect::<Vec<_>>();
        if places.is_empty() {
            places.push(root.clone());
        }
        places.iter().find_map(|place| unshared(place))
    }
}

/// What keeps mounts below a directory from workloads.
fn unshared(place: &Path) -> Option<Finding> {
    let path = place.display().to_string();
    let name = quoted(&path);
    let what = match mount::is_shared(place) {
        Ok(true) => return None,
        Ok(false) => format!(
            "what is mounted below {name} reaches no other mount namespace: if kubelet or workloads have one of their \
             own, a pod finds an empty directory and writes to the host's disk"
        ),
        Err(error) => format!("whether mounts below {name} reach others is not known: {}", chain(&error)),
    };
    let repair = "make the mount that holds it shared (mount --make-rshared), or, in a container, mount it with \
                  mountPropagation: Bidirectional";
    Some(of_host(Code::KubeletRoot, Some(path), what, repair))
}

fn missing_program(missing: &fs::Missing) -> Finding {
    let what = format!("the program {} is not installed: {}", missing.program, missing.cost);
    let repair = format!("install the package {}", missing.package);
    of_host(Code::ProgramMissing, Some(missing.program.to_owned()), what, &repair)
}

fn of_host(code: Code, object: Option<String>, what: String, repair: &str) -> Finding {
    Finding { code, pool: None, object, what, repair: repair.to_owned() }
}
