//! Names as a node tells a controller of them: short, and the same in every release.

/// Of what a name is. A volume and a snapshot may bear the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Named {
    /// A volume's.
    Volume,
    /// A snapshot's.
    Snapshot,
    /// A group snapshot's.
    Group,
}

/// The hash of a name: FNV-1a of 64 bits over the kind, a NUL and the name. It says where a name may be; where it is, only the
/// node that holds it can say, since two names may have one hash. It is spoken between releases and so never changes.
pub fn name_hash(kind: Named, name: &str) -> u64 {
    let kind: &[u8] = match kind {
        Named::Volume => b"volume\0",
        Named::Snapshot => b"snapshot\0",
        Named::Group => b"group\0",
    };
    fnv(kind.iter().chain(name.as_bytes()))
}

/// FNV-1a, from the draft draft-eastlake-fnv: not for secrets, but short and fixed for ever, which the standard library's
/// hashers are not.
fn fnv<'a>(bytes: impl Iterator<Item = &'a u8>) -> u64 {
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_published_function() {
        for (text, hash) in
            [("", 0xcbf2_9ce4_8422_2325), ("a", 0xaf63_dc4c_8601_ec8c), ("foobar", 0x8594_4171_f739_67e8)]
        {
            assert_eq!(fnv(text.as_bytes().iter()), hash, "{text}");
        }
        assert_eq!(name_hash(Named::Volume, "pvc-1"), fnv(b"volume\0pvc-1".iter()));
        assert_ne!(name_hash(Named::Volume, "x"), name_hash(Named::Snapshot, "x"));
    }
}
