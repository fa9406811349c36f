//! Ids, sizes and times as texts: what is taken is exactly of the grammar.
//!
//! Owns: a second reading of each grammar, written from the documentation. Never: asks the parser what it should have done.

use std::fmt::{Debug, Display};
use std::str::FromStr;

use rockpool::config::Endpoint;
use rockpool::error::Error;
use rockpool::model::{Bytes, FsUuid, GroupId, ObjectId, PoolId, Retention, SnapshotId, VolumeId};
use rockpool::pool::check_name;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// The most that a text of ours may have on the wire, in bytes.
const TEXT_MAX: usize = 128;
/// The longest path of a unix socket.
const SOCKET_MAX: usize = 107;

/// Takes a text for each thing that it may be.
///
/// # Panics
/// Where something is taken that should not be, or the other way round.
pub fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let has = |prefix: &str| object_id(prefix, text);
    value::<VolumeId>(text, has("v1"));
    value::<SnapshotId>(text, has("s1"));
    value::<GroupId>(text, has("g1"));
    value::<PoolId>(text, hex(text, 12));
    value::<FsUuid>(text, uuid(text));
    let any = read::<ObjectId>(text);
    assert_eq!(any.is_some(), has("v1") || has("s1") || has("g1"), "{text:?}");
    any.into_iter().for_each(|id| assert_eq!(id.to_string(), text));
    let time = read::<Retention>(text);
    assert_eq!(time.map(Retention::seconds), seconds(text), "{text:?}");
    assert_eq!(read::<Bytes>(text).map(Bytes::get), bytes(text), "{text:?}");
    assert_eq!(check_name(text).is_ok(), pool_name(text), "{text:?}");
    if let Some(endpoint) = read::<Endpoint>(text) {
        let path = endpoint.path().to_str().expect("it was a text");
        assert!(path.starts_with('/') && path.len() <= SOCKET_MAX && !path.contains('\0'), "{text:?}");
        assert_eq!(read::<Endpoint>(&endpoint.to_string()), Some(endpoint));
    }
}

/// A value that is its text, also in JSON.
fn value<T>(text: &str, expected: bool)
where
    T: FromStr<Err = Error> + Display + Debug + PartialEq + Serialize + DeserializeOwned,
{
    let taken = read::<T>(text);
    assert_eq!(taken.is_some(), expected, "{text:?}");
    let json = Value::String(text.to_owned());
    let from_json: Option<T> = serde_json::from_value(json.clone()).ok();
    assert_eq!(from_json, taken, "{text:?}");
    let Some(taken) = taken else { return };
    assert_eq!(taken.to_string(), text);
    assert_eq!(serde_json::to_value(&taken).expect("a text is JSON"), json);
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-');
    assert!(text.len() <= TEXT_MAX && text.bytes().all(plain) && !text.starts_with('.'), "{text:?}");
}

/// A refusal is one line that cannot fill a log.
fn read<T: FromStr<Err = Error>>(text: &str) -> Option<T> {
    text.parse()
        .inspect_err(|error: &Error| {
            let said = error.to_string();
            assert!(!said.contains(char::is_control) && said.chars().count() < 2000, "{said:?}");
        })
        .ok()
}

fn hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

fn object_id(prefix: &str, text: &str) -> bool {
    let parts: Vec<&str> = text.split('.').collect();
    matches!(parts[..], [first, pool, number] if first == prefix && hex(pool, 12) && hex(number, 16))
}

fn uuid(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    parts.len() == 5 && parts.iter().zip([8, 4, 4, 4, 12]).all(|(part, digits)| hex(part, digits))
}

/// `0`, or a whole number with s, m, h or d, at most ten years.
fn seconds(text: &str) -> Option<u64> {
    if text == "0" {
        return Some(0);
    }
    let unit = match text.as_bytes().last()? {
        b's' => 1,
        b'm' => 60,
        b'h' => 3600,
        b'd' => 86_400,
        _ => return None,
    };
    let seconds = number(&text[..text.len() - 1])?.checked_mul(unit)?;
    u64::try_from(seconds).ok().filter(|seconds| *seconds <= 3650 * 86_400)
}

/// A whole number with an optional unit of 1024.
fn bytes(text: &str) -> Option<u64> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let power = match text[end..].trim_start().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "ki" | "kib" => 1,
        "m" | "mi" | "mib" => 2,
        "g" | "gi" | "gib" => 3,
        "t" | "ti" | "tib" => 4,
        _ => return None,
    };
    u64::try_from(number(&text[..end])?.checked_mul(1024_u128.pow(power))?).ok()
}

/// Digits alone; what does not fit is far beyond every limit.
fn number(digits: &str) -> Option<u128> {
    let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    plain.then(|| digits.parse().ok()).flatten()
}

fn pool_name(text: &str) -> bool {
    let edge = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let bytes = text.as_bytes();
    edge(bytes.first()) && edge(bytes.last()) && bytes.len() <= 63 && text.bytes().all(inner)
}
