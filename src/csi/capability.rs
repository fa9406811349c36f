//! Volume capabilities: how a volume is to be used.
//!
//! Owns: which of them this driver can ever satisfy, and that those of one call agree. Never: prints a mount flag, which
//! may hold a secret; which flags are allowed is the engine's to say.

use crate::engine::{Capability, Mode};
use crate::error::{Error, Result, quoted};
use crate::model::{Asked, Filesystem};
use crate::proto::csi;
use crate::proto::csi::volume_capability::{AccessType, MountVolume, access_mode};

use super::parse::{MAP_MAX, missing, short};

/// The most mount flags of one capability.
const FLAGS_MAX: usize = 64;

/// The most capabilities of one call: there are not as many different ones.
const CAPABILITIES_MAX: usize = 64;

/// A capability that is whole, and whether a volume of ours can have it.
#[derive(Debug)]
pub enum Judged {
    /// It can.
    Usable(Capability),
    /// Never, for this reason.
    Unsupported(Error),
}

impl Judged {
    /// The mount flags of a usable one. Never logged.
    pub(super) fn flags(&self) -> &[String] {
        match self {
            Judged::Usable(capability) => &capability.flags,
            Judged::Unsupported(_) => &[],
        }
    }
}

/// Checks that a capability is whole and says whether it can be satisfied.
///
/// # Errors
/// `Invalid` for a missing or malformed part.
pub(super) fn judge(field: &str, capability: &csi::VolumeCapability) -> Result<Judged> {
    let Some(access) = &capability.access_type else {
        return Err(missing(&format!("{field}.access_type"), "want block or mount"));
    };
    let mode = capability.access_mode.unwrap_or_default().mode;
    if mode == 0 {
        return Err(missing(&format!("{field}.access_mode.mode"), MODES));
    }
    if let AccessType::Mount(mount) = access {
        short(&format!("{field}.mount.fs_type"), &mount.fs_type)?;
        flags(&format!("{field}.mount.mount_flags"), &mount.mount_flags)?;
    }
    let capability = asked(field, access).and_then(|(asked, flags)| {
        let mode = single_node(field, mode)?;
        Ok(Capability { asked, mode, flags })
    });
    Ok(capability.map_or_else(Judged::Unsupported, Judged::Usable))
}

/// A capability that must be there and usable.
///
/// # Errors
/// `Invalid` with the field.
pub(super) fn usable(field: &str, capability: Option<&csi::VolumeCapability>) -> Result<Capability> {
    let Some(capability) = capability else {
        return Err(missing(field, "want how the volume is to be used"));
    };
    match judge(field, capability)? {
        Judged::Usable(capability) => Ok(capability),
        Judged::Unsupported(why) => Err(why),
    }
}

/// Judges each capability of a call.
///
/// # Errors
/// `Invalid` for one that is malformed or repeated.
pub(super) fn judge_all(all: &[csi::VolumeCapability]) -> Result<Vec<Judged>> {
    if all.len() > CAPABILITIES_MAX {
        let len = all.len();
        return Err(Error::Invalid(format!(
            "volume_capabilities: there are {len}, want at most {CAPABILITIES_MAX}"
        )));
    }
    let field = |n: usize| format!("volume_capabilities[{n}]");
    for (n, capability) in all.iter().enumerate() {
        if let Some(first) = all[..n].iter().position(|earlier| earlier == capability) {
            return Err(Error::Invalid(format!("{} repeats {}: want each once", field(n), field(first))));
        }
    }
    all.iter().enumerate().map(|(n, capability)| judge(&field(n), capability)).collect()
}

/// The one access type that satisfies all capabilities of a call.
///
/// # Errors
/// `Invalid` for none at all, for one that can never be satisfied, and for two that exclude each other.
pub(super) fn common(judged: Vec<Judged>) -> Result<Asked> {
    let mut common = None;
    for capability in judged {
        let asked = match capability {
            Judged::Usable(capability) => capability.asked,
            Judged::Unsupported(why) => return Err(why),
        };
        common = Some(common.map_or(Ok(asked), |before| both(before, asked))?);
    }
    common.ok_or_else(|| missing("volume_capabilities", "want at least one"))
}

fn both(before: Asked, next: Asked) -> Result<Asked> {
    match (before, next) {
        (Asked::Mount(None), Asked::Mount(fs)) | (Asked::Mount(fs), Asked::Mount(None)) => {
            Ok(Asked::Mount(fs))
        }
        (before, next) if before == next => Ok(next),
        (before, next) => Err(Error::Invalid(format!(
            "volume_capabilities ask for {} and for {}: want one access type and one filesystem, a volume has only one",
            named(before),
            named(next)
        ))),
    }
}

fn named(asked: Asked) -> String {
    match asked {
        Asked::Block => "block".to_owned(),
        Asked::Mount(None) => "mount".to_owned(),
        Asked::Mount(Some(fs)) => format!("mount with fs_type {fs}"),
    }
}

/// A filesystem by its name; empty leaves the choice to the pool.
pub(super) fn filesystem(field: &str, name: &str) -> Result<Option<Filesystem>> {
    match name {
        "" => Ok(None),
        "ext4" => Ok(Some(Filesystem::Ext4)),
        "xfs" => Ok(Some(Filesystem::Xfs)),
        _ => Err(Error::invalid(field, name, "want `ext4`, `xfs`, or none for the pool's default")),
    }
}

fn asked(field: &str, access: &AccessType) -> Result<(Asked, Vec<String>)> {
    let MountVolume { fs_type, mount_flags, volume_mount_group } = match access {
        AccessType::Block(_) => return Ok((Asked::Block, Vec::new())),
        AccessType::Mount(mount) => mount,
    };
    if !volume_mount_group.is_empty() {
        // The capability VOLUME_MOUNT_GROUP is not advertised: a CO that sends a group did not look.
        return Err(Error::invalid(
            &format!("{field}.mount.volume_mount_group"),
            volume_mount_group,
            "want none: VOLUME_MOUNT_GROUP is not offered",
        ));
    }
    let fs = filesystem(&format!("{field}.mount.fs_type"), fs_type)?;
    let asked = Asked::Mount(fs);
    match asked.allows(mount_flags) {
        Ok(()) => Ok((asked, mount_flags.clone())),
        Err(why) => Err(Error::Invalid(format!("{field}.mount.{why}"))),
    }
}

const MODES: &str = "want SINGLE_NODE_WRITER, SINGLE_NODE_READER_ONLY, SINGLE_NODE_SINGLE_WRITER or \
                     SINGLE_NODE_MULTI_WRITER, since a volume lives on one node";

fn single_node(field: &str, mode: i32) -> Result<Mode> {
    use access_mode::Mode as Wire;
    match Wire::try_from(mode) {
        Ok(Wire::SingleNodeWriter) => Ok(Mode::Writer),
        Ok(Wire::SingleNodeReaderOnly) => Ok(Mode::Reader),
        Ok(Wire::SingleNodeSingleWriter) => Ok(Mode::SingleWriter),
        Ok(Wire::SingleNodeMultiWriter) => Ok(Mode::MultiWriter),
        Ok(
            many @ (Wire::Unknown
            | Wire::MultiNodeReaderOnly
            | Wire::MultiNodeSingleWriter
            | Wire::MultiNodeMultiWriter),
        ) => Err(Error::invalid(&format!("{field}.access_mode.mode"), many.as_str_name(), MODES)),
        Err(_) => Err(Error::invalid(&format!("{field}.access_mode.mode"), mode, MODES)),
    }
}

/// The shape of mount flags: each one flag, not too many, not too long.
fn flags(field: &str, flags: &[String]) -> Result<()> {
    if flags.len() > FLAGS_MAX {
        return Err(Error::Invalid(format!("{field}: there are {}, want at most {FLAGS_MAX}", flags.len())));
    }
    let total: usize = flags.iter().map(String::len).sum();
    if total > MAP_MAX {
        return Err(Error::Invalid(format!(
            "{field}: they have {total} bytes, want at most {MAP_MAX} in total"
        )));
    }
    let shaped = |flag: &String| !flag.is_empty() && !flag.contains(',') && !flag.contains(char::is_control);
    match flags.iter().position(|flag| !shaped(flag)) {
        Some(n) => Err(Error::Invalid(format!(
            "{field}[{n}] (not shown, it may be secret): want one flag, not empty, without commas and control characters"
        ))),
        None => Ok(()),
    }
}

/// Whether a volume's access differs from what is asked for, in words.
pub(super) fn mismatch(asked: Asked, access: crate::model::Access) -> Option<String> {
    (!asked.fits(access)).then(|| {
        format!("the volume's access is {}, not {}", quoted(&access.to_string()), quoted(&named(asked)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::csi::volume_capability::{AccessMode, BlockVolume};

    fn mount(fs_type: &str, flags: &[&str]) -> Option<AccessType> {
        Some(AccessType::Mount(MountVolume {
            fs_type: fs_type.to_owned(),
            mount_flags: flags.iter().map(|&flag| flag.to_owned()).collect(),
            volume_mount_group: String::new(),
        }))
    }

    fn wire(access_type: Option<AccessType>, mode: i32) -> csi::VolumeCapability {
        csi::VolumeCapability { access_type, access_mode: Some(AccessMode { mode }) }
    }

    fn refused(capability: &csi::VolumeCapability) -> String {
        match usable("volume_capability", Some(capability)) {
            Err(Error::Invalid(text)) => text,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_capability_without_its_parts_is_malformed() {
        let block = Some(AccessType::Block(BlockVolume {}));
        for part in [
            wire(None, 1),
            wire(block, 0),
            csi::VolumeCapability { access_type: block_only(), access_mode: None },
        ] {
            assert!(matches!(judge("c", &part), Err(Error::Invalid(_))));
        }
        assert!(matches!(usable("c", None), Err(Error::Invalid(_))));
    }

    fn block_only() -> Option<AccessType> {
        Some(AccessType::Block(BlockVolume {}))
    }

    #[test]
    fn only_single_node_modes_exist() {
        for mode in [1, 2, 6, 7] {
            usable("c", Some(&wire(block_only(), mode))).unwrap();
        }
        for (mode, shown) in
            [(3, "MULTI_NODE_READER_ONLY"), (4, "MULTI_NODE"), (5, "MULTI_NODE"), (8, "8"), (-1, "-1")]
        {
            let text = refused(&wire(block_only(), mode));
            assert!(text.contains(shown) && text.contains("SINGLE_NODE_WRITER"), "{text}");
            assert!(matches!(judge("c", &wire(block_only(), mode)), Ok(Judged::Unsupported(_))));
        }
    }

    #[test]
    fn unknown_filesystems_are_refused_by_name() {
        let text = refused(&wire(mount("nosuchfs", &[]), 1));
        assert!(text.contains("volume_capability.mount.fs_type `nosuchfs`"), "{text}");
        assert_eq!(
            usable("c", Some(&wire(mount("xfs", &[]), 1))).unwrap().asked,
            Asked::Mount(Some(Filesystem::Xfs))
        );
    }

    #[test]
    fn bad_mount_flags_are_refused_unseen() {
        let long = "f".repeat(MAP_MAX + 1);
        for flags in [&["noatime", "hunter2,ro"][..], &[""], &["hunter2\n"], &[&long], &["x"; FLAGS_MAX + 1]]
        {
            let text = refused(&wire(mount("", flags), 1));
            assert!(
                text.contains("mount_flags") && !text.contains("hunter2") && !text.contains("fff"),
                "{text}"
            );
        }
        let good = usable("c", Some(&wire(mount("", &["noatime", "commit=5"]), 1))).unwrap();
        assert_eq!(good.flags, ["noatime", "commit=5"]);
    }

    #[test]
    fn capabilities_of_one_call_agree_or_are_refused() {
        let all = |list: &[csi::VolumeCapability]| judge_all(list).and_then(common);
        assert_eq!(
            all(&[wire(mount("", &[]), 1), wire(mount("xfs", &[]), 2)]).unwrap(),
            Asked::Mount(Some(Filesystem::Xfs))
        );
        for bad in [
            &[][..],
            &[wire(block_only(), 1), wire(mount("", &[]), 1)],
            &[wire(mount("ext4", &[]), 1), wire(mount("xfs", &[]), 1)],
            &[wire(block_only(), 1), wire(block_only(), 1)],
            &[wire(block_only(), 1), wire(block_only(), 5)],
        ] {
            let error = all(bad).unwrap_err();
            assert!(
                matches!(&error, Error::Invalid(text) if text.contains("volume_capabilities")),
                "{error}"
            );
        }
    }
}
