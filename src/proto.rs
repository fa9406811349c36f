//! The generated wire types.
//!
//! Owns: where generated code is included, and that it is silent about secrets. Never: holds logic. What is generated is
//! said in `build.rs`, what is on the wire in `proto/`.

/// CSI v1.13.0: the messages, servers and clients of `proto/csi.proto`.
///
/// Requests that hold secrets have no `Debug`: what cannot be printed cannot leak into a log.
///
/// ```compile_fail,E0277
/// println!("{:?}", rockpool::proto::csi::NodeStageVolumeRequest::default());
/// ```
#[allow(missing_docs, unreachable_pub, clippy::all, reason = "generated code")]
pub mod csi {
    tonic::include_proto!("csi.v1");
}

/// What CSI cannot say, from `proto/admin.proto`.
#[allow(missing_docs, unreachable_pub, clippy::all, reason = "generated code")]
pub mod admin {
    tonic::include_proto!("rockpool.admin.v1");
}

/// How a node and a controller meet, from `proto/link.proto`.
///
/// The message with the token, and that with a request inside, have no `Debug`.
///
/// ```compile_fail,E0277
/// println!("{:?}", rockpool::proto::link::Hello::default());
/// ```
#[allow(missing_docs, unreachable_pub, clippy::all, reason = "generated code")]
pub mod link {
    tonic::include_proto!("rockpool.link.v1");
}

/// Kubelet's plugin registration, from `proto/pluginregistration.proto`.
#[allow(missing_docs, unreachable_pub, clippy::all, reason = "generated code")]
pub mod registration {
    tonic::include_proto!("pluginregistration");
}

/// The names of all methods in `proto/`: no other word of a caller's is a method.
pub(crate) const METHODS: &[&str] = include!(concat!(env!("OUT_DIR"), "/methods.rs"));

impl std::fmt::Debug for csi::volume_capability::MountVolume {
    /// Everything but the mount flags, which may hold secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MountVolume")
            .field("fs_type", &self.fs_type)
            .field("volume_mount_group", &self.volume_mount_group)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for link::Ticket {
    /// Everything but what proves the sender.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ticket")
            .field("volume_id", &self.volume_id)
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::csi;

    #[test]
    fn mount_flags_are_not_printed() {
        let mount = csi::volume_capability::MountVolume {
            fs_type: "ext4".into(),
            mount_flags: vec!["password=hunter2".into()],
            volume_mount_group: String::new(),
        };
        let access_type = Some(csi::volume_capability::AccessType::Mount(mount));
        let printed = format!("{:?}", csi::VolumeCapability { access_type, access_mode: None });
        assert!(printed.contains("ext4") && !printed.contains("hunter2"), "{printed}");
    }

    #[test]
    fn equal_messages_have_equal_bytes() {
        let keys: Vec<String> = (0..64).map(|n| format!("key-{n}")).collect();
        let topology = |keys: &mut dyn Iterator<Item = &String>| csi::Topology {
            segments: keys.map(|key| (key.clone(), "value".into())).collect(),
        };
        let forwards = topology(&mut keys.iter()).encode_to_vec();
        assert_eq!(forwards, topology(&mut keys.iter().rev()).encode_to_vec());
    }
}
