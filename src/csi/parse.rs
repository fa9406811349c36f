//! The single fields of requests.
//!
//! Owns: what a name, an id, a path, a size range, a page size may look like, and the words for what is wrong with one.
//! Never: looks anything up; an id that cannot be ours is unknown, and nothing from here reaches a disk.

use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

use crate::error::{Error, Result, quoted};
use crate::model::{Bytes, Parameters, Range};
use crate::proto::csi;

/// The longest text, in bytes. The standard's limit for every string field that has no own one.
pub(super) const TEXT_MAX: usize = 128;

/// The most that a map or the mount flags may hold in total, in bytes.
pub(super) const MAP_MAX: usize = 4096;

/// The longest path, in bytes, its closing NUL included.
const PATH_MAX: usize = 4096;

/// A text that may be empty.
pub(super) fn short(field: &str, text: &str) -> Result<()> {
    match text.len() {
        0..=TEXT_MAX => Ok(()),
        len => Err(Error::invalid(field, text, format!("it has {len} bytes, want at most {TEXT_MAX}"))),
    }
}

/// A text that must be there.
pub(super) fn present(field: &str, text: &str) -> Result<()> {
    if text.is_empty() {
        return Err(missing(field, "want a text of 1 to 128 bytes"));
    }
    short(field, text)
}

/// The words for a field that is not there.
pub(super) fn missing(field: &str, want: &str) -> Error {
    Error::Invalid(format!("{field} is missing: {want}"))
}

/// A name that a CO chose. It becomes a key in records, never a path.
pub(super) fn name(field: &str, text: &str) -> Result<()> {
    present(field, text)?;
    let banned = |c: char| c.is_control() && !matches!(c, '\t' | '\n' | '\r');
    match text.chars().find(|c| banned(*c)) {
        Some(c) => Err(Error::invalid(
            field,
            text,
            format!(
                "want no control character but tab, line feed and carriage return, it has U+{:04X}",
                u32::from(c)
            ),
        )),
        None => Ok(()),
    }
}

/// The total size of a map; its keys and values have no limit of their own.
pub(super) fn map(field: &str, map: &Parameters) -> Result<()> {
    let total: usize = map.iter().map(|(key, value)| key.len() + value.len()).sum();
    if total > MAP_MAX {
        return Err(Error::Invalid(format!(
            "{field}: its keys and values have {total} bytes, want at most {MAP_MAX}"
        )));
    }
    Ok(())
}

/// An id in our grammar.
///
/// # Errors
/// `NotFound` for anything else: who deletes takes that for done.
pub(super) fn id<T: FromStr<Err = Error>>(field: &str, text: &str) -> Result<T> {
    text.parse().map_err(|error: Error| Error::NotFound(format!("{field}: {error}")))
}

/// The size of a page. Zero is no limit.
pub(super) fn page_size(max_entries: i32) -> Result<usize> {
    match usize::try_from(max_entries) {
        Ok(0) => Ok(usize::MAX),
        Ok(max) => Ok(max),
        Err(_) => Err(Error::invalid("max_entries", max_entries, "want 0 (no limit) or a positive number")),
    }
}

/// A size range; an absent one leaves both ends open.
///
/// # Errors
/// `Invalid` for an empty one, `OutOfRange` for one that no size can satisfy.
pub(super) fn range(asked: Option<&csi::CapacityRange>) -> Result<Range> {
    let Some(&csi::CapacityRange { required_bytes, limit_bytes }) = asked else {
        return Ok(Range::default());
    };
    if required_bytes == 0 && limit_bytes == 0 {
        return Err(Error::Invalid(
            "capacity_range: required_bytes and limit_bytes are both 0: want at least one above 0, or no range at all".into(),
        ));
    }
    let required = bound("required_bytes", required_bytes)?;
    let limit = bound("limit_bytes", limit_bytes)?;
    if required > limit && limit.is_some() {
        return Err(Error::OutOfRange(format!(
            "capacity_range.limit_bytes {limit_bytes} is below required_bytes {required_bytes}: want a limit of at least \
             what is required, or none"
        )));
    }
    Ok(Range { required, limit })
}

fn bound(field: &str, bytes: i64) -> Result<Option<Bytes>> {
    match u64::try_from(bytes) {
        Ok(0) => Ok(None),
        Ok(bytes) => Ok(Some(Bytes::new(bytes))),
        Err(_) => {
            Err(Error::OutOfRange(format!("capacity_range.{field} {bytes} is negative: want 0 or more")))
        }
    }
}

/// A path at which something will be mounted or unmounted.
pub(super) fn path(field: &str, text: &str) -> Result<PathBuf> {
    let path = any_path(field, text)?;
    if !path.is_absolute() || path.components().any(|part| part == Component::ParentDir) {
        return Err(Error::invalid(field, text, "want an absolute path without `..`"));
    }
    Ok(path)
}

/// A path to look at; what does not lead to the volume is not found rather than wrong.
pub(super) fn any_path(field: &str, text: &str) -> Result<PathBuf> {
    if text.is_empty() {
        return Err(missing(field, "want a path"));
    }
    if text.len() >= PATH_MAX {
        return Err(Error::invalid(
            field,
            text,
            format!("it has {} bytes, want less than {PATH_MAX}", text.len()),
        ));
    }
    if text.contains('\0') {
        return Err(Error::Invalid(format!("{field} {}: want a path without NUL", quoted(text))));
    }
    Ok(Path::new(text).to_owned())
}

/// A path that may be absent.
pub(super) fn maybe_path(field: &str, text: &str) -> Result<Option<PathBuf>> {
    if text.is_empty() { Ok(None) } else { any_path(field, text).map(Some) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::VolumeId;

    fn ranged(required_bytes: i64, limit_bytes: i64) -> Result<Range> {
        range(Some(&csi::CapacityRange { required_bytes, limit_bytes }))
    }

    #[test]
    fn limits_count_bytes_not_characters() {
        assert!(present("name", &"ü".repeat(64)).is_ok());
        let error = present("name", &"ü".repeat(65)).unwrap_err();
        assert!(matches!(&error, Error::Invalid(text) if text.contains("130 bytes")), "{error}");
        assert!(matches!(present("name", ""), Err(Error::Invalid(_))));
    }

    #[test]
    fn names_may_look_like_paths_but_hold_no_control_characters() {
        for good in ["a/../b", "..", "tab\there", "line\nfeed\r", "🦀", "ends with space "] {
            name("name", good).unwrap();
        }
        for bad in ["\0", "a\u{8}", "\u{b}", "\u{c}", "\u{e}", "\u{1f}", "\u{7f}", "\u{9f}"] {
            let error = name("name", bad).unwrap_err();
            assert!(error.to_string().starts_with("name `"), "{error}");
        }
    }

    #[test]
    fn maps_are_limited_in_total() {
        let whole = Parameters::from([("k".to_owned(), "v".repeat(MAP_MAX - 1))]);
        map("parameters", &whole).unwrap();
        let over = Parameters::from([("k".to_owned(), "v".repeat(MAP_MAX))]);
        let error = map("secrets", &over).unwrap_err().to_string();
        assert!(error.starts_with("secrets:") && !error.contains("vvv"), "{error}");
    }

    #[test]
    fn ranges_that_no_size_satisfies_are_out_of_range() {
        assert!(matches!(ranged(0, 0), Err(Error::Invalid(_))));
        for (required, limit) in [(2, 1), (-1, 0), (0, -1), (i64::MIN, 0), (i64::MAX, 1)] {
            assert!(matches!(ranged(required, limit), Err(Error::OutOfRange(_))), "{required} {limit}");
        }
        assert_eq!(range(None).unwrap(), Range::default());
        assert_eq!(ranged(5, 0).unwrap(), Range { required: Some(Bytes::new(5)), limit: None });
        assert_eq!(ranged(0, 5).unwrap(), Range { required: None, limit: Some(Bytes::new(5)) });
        assert_eq!(ranged(5, 5).unwrap().required, Some(Bytes::new(5)));
    }

    #[test]
    fn a_page_holds_no_negative_number_of_entries() {
        assert_eq!(page_size(0).unwrap(), usize::MAX);
        assert_eq!(page_size(3).unwrap(), 3);
        assert!(matches!(page_size(-1), Err(Error::Invalid(_))));
        assert!(matches!(page_size(i32::MIN), Err(Error::Invalid(_))));
    }

    #[test]
    fn mount_paths_are_absolute_and_long_ones_are_fine() {
        path("target_path", &format!("/{}", "d/".repeat(1000))).unwrap();
        for bad in ["", "relative", "./x", "/a/../b", "/a\0b", &"/".repeat(4096)] {
            assert!(matches!(path("target_path", bad), Err(Error::Invalid(_))), "{bad:?}");
        }
        any_path("volume_path", "some/path").unwrap();
    }

    #[test]
    fn a_foreign_id_is_unknown_and_names_its_field() {
        let error = id::<VolumeId>("volume_id", "../../etc").unwrap_err();
        assert!(matches!(&error, Error::NotFound(text) if text.starts_with("volume_id: ")), "{error}");
    }
}
