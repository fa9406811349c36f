//! Writes the inputs that are made by hand: `cargo run --example seeds DIRECTORY`, one folder for each target.
//!
//! Owns: golden records, real lines of the mount table, ids, pool files, and requests as csi-sanity and the sidecars send them.
//! Never: a part of the kept corpus by itself; `tests/fuzz.sh keep` takes over what reaches something new, and every `kept-*`,
//! which shows a planted bug where coverage does not.

#![allow(clippy::disallowed_methods, reason = "it makes the files that it is asked for")]

mod lives;

use std::error::Error;
use std::path::{Path, PathBuf};

use prost::Message;
use rockpool::model::TOPOLOGY_KEY;
use rockpool::proto::{admin, csi};
use rockpool_fuzz::node::NODE;
use rockpool_fuzz::requests::{METHODS_BY_PATH, ROOT, message};

const VOLUME: &str = "v1.aaaaaaaaaaaa.0000000000000000";
const SNAPSHOT: &str = "s1.aaaaaaaaaaaa.0000000000000000";
const GROUP: &str = "g1.aaaaaaaaaaaa.0000000000000000";

const IDS: [&str; 14] = [
    "v1.0a0102030405.0101010101010101",
    "s1.0a0102030405.0101010101010101",
    "g1.0a0102030405.0101010101010101",
    "0a0102030405",
    "07070707-0707-4707-8707-070707070707",
    "../../etc/passwd",
    "0",
    "7d",
    "3650d",
    "20GiB",
    "1 Ti",
    "fast-1",
    "unix:///run/rockpool/csi.sock",
    "v1.0a0102030405.0101010101010101\0",
];

const MOUNTS: [&str; 5] = [
    "22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda1 rw,errors=remount-ro",
    "36 35 7:3 /a\\040b\\134 /mnt/x\\011y\\012z rw,noatime shared:1 master:2 - ext4 /dev/loop\\0433 ro,emergency_ro",
    "98 22 0:5 /loop7 /var/lib/kubelet/plugins/x/dev rw,nosuid shared:2 - devtmpfs udev rw,size=8k,mode=755",
    "310 98 7:12 / /var/lib/kubelet/pods/1/volumes/kubernetes.io~csi/pvc-1/mount ro,nosuid,nodev,noatime unbindable - xfs /dev/loop12 rw,attr2,inode64,logbufs=8,prjquota",
    "1 0 0:1 / / ro - rootfs  rw",
];

const POOLS: [&str; 3] = [
    "# fast disks\n[[pool]]\nname = \"fast\"\nkind = \"image\"\npath = \"/var/lib/rockpool/fast\"\nfile = \"/var/lib/rockpool/fast.img\"\nretainDeleted = \"7d\"\n",
    "[[pool]]\nname = \"dirs\"\nkind = \"directory\"\npath = \"/srv/dirs\"\nquota = \"none\"\novercommit = 2\nreserve = 0.1\n\n[[pool]]\nname = \"m\"\nkind = \"sim\"\nsize = \"20GiB\"\n",
    "[[pool]]\nname = \"disk\"\nkind = \"image\"\npath = \"/mnt/disk\"\ndevice = \"/dev/disk/by-id/one\"\nretainDeleted = 0\n",
];

/// What a pool cannot lie in at once.
const BOTH: &str =
    "[[pool]]\nname = \"p\"\nkind = \"image\"\npath = \"/p\"\nfile = \"/p.img\"\ndevice = \"/dev/sdz\"\n";

fn main() -> Result<(), Box<dyn Error>> {
    let to: PathBuf = std::env::args_os().nth(1).ok_or("want a directory")?.into();
    for (n, id) in IDS.iter().enumerate() {
        put(&to, "ids", n, id.as_bytes())?;
    }
    for (n, line) in MOUNTS.iter().enumerate() {
        put(&to, "mountinfo", n, format!("\0{line}\n").as_bytes())?;
    }
    put(&to, "mountinfo", MOUNTS.len(), format!("\0{}\n", MOUNTS.join("\n")).as_bytes())?;
    for (n, pools) in POOLS.iter().enumerate() {
        put(&to, "config", n, pools.as_bytes())?;
    }
    for (n, flags) in ["noatime", "commit=5", "logbsize=64k", "data=ordered", "nobarrier"].iter().enumerate()
    {
        put(&to, "mount_flags", n, flags.as_bytes())?;
    }
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/schema-1");
    for (n, entry) in std::fs::read_dir(&golden)?.enumerate() {
        records(&to, n, &std::fs::read(entry?.path())?)?;
    }
    for (n, (path, bytes)) in requests().iter().enumerate() {
        let method = METHODS_BY_PATH.iter().position(|known| known == path).ok_or("no such method")?;
        put(&to, "requests", n, &[&[u8::try_from(method)?], &bytes[..]].concat())?;
    }
    for (name, bytes) in lives::all() {
        keep(&to, "operations", &name, &bytes)?;
    }
    keep(&to, "ids", "upper-case", b"v1.0A0102030405.0101010101010101")?;
    keep(&to, "config", "file-and-device", BOTH.as_bytes())?;
    let volume = std::fs::read_to_string(golden.join("volume.json"))?;
    let changed = volume.replacen("\"generation\":7", "\"generation\":8", 1);
    // Zeros: it is read as it comes. The length of a slice lies behind everything.
    let length = u16::try_from(changed.len())?.to_be_bytes();
    keep(&to, "records", "changed", &[&[0; 8], changed.as_bytes(), &length].concat())?;
    for n in 0..16_u8 {
        // Any bytes are a sequence of calls, and a map.
        let bytes: Vec<u8> =
            (0..400_u16).map(|i| (i.wrapping_mul(u16::from(n) * 2 + 37) >> 3).to_le_bytes()[0]).collect();
        put(&to, "operations", n.into(), &bytes)?;
        put(&to, "parameters", n.into(), &bytes[..120])?;
        put(&to, "mount_flags", usize::from(n) + 10, &bytes[..60])?;
    }
    Ok(())
}

/// A golden file alone, as a marker, and as what a start finds; an enum's number is the high part of its first four bytes.
fn records(to: &Path, n: usize, text: &[u8]) -> Result<(), Box<dyn Error>> {
    let body = text.splitn(2, |b| *b == b',').nth(1).unwrap_or(text);
    let body = body.strip_prefix(b"\"body\":").unwrap_or(body).strip_suffix(b"}\n").unwrap_or(body);
    for (m, (kind, form, text)) in
        [(0_u8, 0_u8, text), (0, 0x60, body), (0x60, 0, text), (0xc0, 0, text), (0xc0, 0x60, body)]
            .iter()
            .enumerate()
    {
        let bytes = [&[0, 0, 0, *kind, 0, 0, 0, *form], *text].concat();
        put(to, "records", n * 5 + m, &bytes)?;
    }
    Ok(())
}

/// What the sidecars, kubelet and csi-sanity send.
fn requests() -> Vec<(&'static str, Vec<u8>)> {
    let mut all: Vec<(&'static str, Vec<u8>)> =
        METHODS_BY_PATH.iter().map(|path| (*path, Vec::new())).collect();
    let mut add = |path: &'static str, request: &dyn Encoded| all.push((path, request.bytes()));
    let here = || csi::Topology { segments: [(TOPOLOGY_KEY.to_owned(), NODE.to_owned())].into() };
    let text = str::to_owned;
    let path = |rest: &str| format!("{ROOT}{rest}");
    for fs in ["", "ext4", "xfs", "block"] {
        add("csi.v1.Controller/CreateVolume", &message::create("pvc-0b3c9f3e-9d5a", 1 << 30, fs));
    }
    let mut class = message::create("a", 320 << 20, "ext4");
    class.parameters = [(text("pool"), text("fast")), (text("retainDeleted"), text("1d"))].into();
    class.accessibility_requirements =
        Some(csi::TopologyRequirement { requisite: vec![here()], preferred: vec![here()] });
    class.secrets = [(text("password"), text("secret"))].into();
    add("csi.v1.Controller/CreateVolume", &class);
    use csi::volume_content_source::{SnapshotSource, Type, VolumeSource};
    for source in [
        Type::Snapshot(SnapshotSource { snapshot_id: text(SNAPSHOT) }),
        Type::Volume(VolumeSource { volume_id: text(VOLUME) }),
    ] {
        let mut clone = message::create("clone", 1 << 30, "ext4");
        clone.volume_content_source = Some(csi::VolumeContentSource { r#type: Some(source) });
        add("csi.v1.Controller/CreateVolume", &clone);
    }
    add(
        "csi.v1.Controller/DeleteVolume",
        &csi::DeleteVolumeRequest { volume_id: text(VOLUME), ..Default::default() },
    );
    add(
        "csi.v1.Controller/ValidateVolumeCapabilities",
        &csi::ValidateVolumeCapabilitiesRequest {
            volume_id: text(VOLUME),
            volume_context: [(text("pool"), text("fast"))].into(),
            volume_capabilities: vec![message::capability("ext4")],
            ..Default::default()
        },
    );
    for list in ["volumes", "snapshots", "health"] {
        let id = if list == "snapshots" { SNAPSHOT } else { VOLUME };
        let starting_token = format!("{list}/{id}/00000000");
        let request = csi::ListVolumesRequest { max_entries: 2, starting_token };
        add("csi.v1.Controller/ListVolumes", &request);
    }
    add("csi.v1.Controller/ListVolumes", &csi::ListVolumesRequest { max_entries: 1, ..Default::default() });
    add(
        "csi.v1.Controller/ListSnapshots",
        &csi::ListSnapshotsRequest {
            source_volume_id: text(VOLUME),
            snapshot_id: text(SNAPSHOT),
            ..Default::default()
        },
    );
    add(
        "csi.v1.Controller/GetCapacity",
        &csi::GetCapacityRequest {
            volume_capabilities: vec![message::capability("xfs")],
            parameters: [(text("pool"), text("small"))].into(),
            accessible_topology: Some(here()),
        },
    );
    add(
        "csi.v1.Controller/CreateSnapshot",
        &csi::CreateSnapshotRequest {
            source_volume_id: text(VOLUME),
            name: text("snapshot-1"),
            ..Default::default()
        },
    );
    for (path, id) in [
        ("csi.v1.Controller/DeleteSnapshot", SNAPSHOT),
        ("csi.v1.Controller/GetSnapshot", SNAPSHOT),
        ("csi.v1.Controller/ControllerGetVolume", VOLUME),
        ("csi.v1.Controller/ControllerGetVolumeHealth", VOLUME),
        ("csi.v1.Node/NodeGetVolumeHealth", VOLUME),
        ("rockpool.admin.v1.Admin/Purge", "v1.aaaaaaaaaaaa.0000000000000003"),
        ("rockpool.admin.v1.Admin/Restore", "v1.aaaaaaaaaaaa.0000000000000003"),
    ] {
        // Each of them has its id as the first field.
        add(path, &csi::GetSnapshotRequest { snapshot_id: text(id), ..Default::default() });
    }
    add(
        "csi.v1.Controller/ControllerExpandVolume",
        &csi::ControllerExpandVolumeRequest {
            volume_id: text(VOLUME),
            capacity_range: Some(csi::CapacityRange { required_bytes: 2 << 30, limit_bytes: 0 }),
            volume_capability: Some(message::capability("ext4")),
            ..Default::default()
        },
    );
    add(
        "csi.v1.GroupController/CreateVolumeGroupSnapshot",
        &csi::CreateVolumeGroupSnapshotRequest {
            name: text("group-2"),
            source_volume_ids: vec![text(VOLUME), text("v1.aaaaaaaaaaaa.0000000000000001")],
            ..Default::default()
        },
    );
    add(
        "csi.v1.GroupController/GetVolumeGroupSnapshot",
        &csi::GetVolumeGroupSnapshotRequest {
            group_snapshot_id: text(GROUP),
            snapshot_ids: vec![
                text("s1.aaaaaaaaaaaa.0000000000000002"),
                text("s1.aaaaaaaaaaaa.0000000000000003"),
            ],
            ..Default::default()
        },
    );
    let capability = Some(message::capability("ext4"));
    add(
        "csi.v1.Node/NodeStageVolume",
        &csi::NodeStageVolumeRequest {
            volume_id: text(VOLUME),
            staging_target_path: path("staging"),
            volume_capability: capability.clone(),
            ..Default::default()
        },
    );
    add(
        "csi.v1.Node/NodePublishVolume",
        &csi::NodePublishVolumeRequest {
            volume_id: text(VOLUME),
            staging_target_path: path("staging"),
            target_path: path("target"),
            volume_capability: capability,
            ..Default::default()
        },
    );
    for target in ["empty", "full", "blank", "written", "link/empty", "../outside/empty"] {
        let request = csi::NodeUnpublishVolumeRequest { volume_id: text(VOLUME), target_path: path(target) };
        add("csi.v1.Node/NodeUnpublishVolume", &request);
        add("csi.v1.Node/NodeUnstageVolume", &request);
        add("csi.v1.Node/NodeGetVolumeStats", &request);
        add("csi.v1.Node/NodeExpandVolume", &request);
    }
    add("rockpool.admin.v1.Admin/Diagnose", &admin::DiagnoseRequest { pool: text("fast") });
    for code in ["RP-ORPHAN-OBJECT", "RP-WRONG-SIZE"] {
        let (pool, code) = (text("fast"), text(code));
        add("rockpool.admin.v1.Admin/Repair", &admin::RepairRequest { pool, code, object: text(VOLUME) });
    }
    all
}

/// Any message as bytes.
trait Encoded {
    fn bytes(&self) -> Vec<u8>;
}

impl<M: Message> Encoded for M {
    fn bytes(&self) -> Vec<u8> {
        self.encode_to_vec()
    }
}

fn put(to: &Path, target: &str, number: usize, bytes: &[u8]) -> std::io::Result<()> {
    write(&to.join(target), &format!("seed-{number:03}"), bytes)
}

/// A seed that is kept whatever it reaches.
fn keep(to: &Path, target: &str, name: &str, bytes: &[u8]) -> std::io::Result<()> {
    write(&to.join(target), &format!("kept-{name}"), bytes)
}

fn write(folder: &Path, name: &str, bytes: &[u8]) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    std::fs::write(folder.join(name), bytes)
}
