//! The mount table: what the kernel escaped comes out as it went in.
//!
//! Owns: a writer of lines as fs/proc_namespace.c has it. Never: reads the table of this host.

use std::ffi::OsStr;
use std::fmt::Write;
use std::os::unix::ffi::OsStrExt;

use arbitrary::{Arbitrary, Unstructured};
use rockpool::error::Error;
use rockpool::os::mount::{Mount, mounts_in};

/// What the kernel knows of one mount.
#[derive(Arbitrary, Debug)]
struct Line<'a> {
    id: u32,
    parent: u32,
    device: (u16, u8),
    root: &'a [u8],
    point: &'a [u8],
    options: Vec<Word>,
    tags: Vec<Tag>,
    kind: &'a [u8],
    source: &'a [u8],
    super_options: Vec<Word>,
}

#[derive(Arbitrary, Debug)]
enum Word {
    ReadOnly,
    ReadWrite,
    Emergency,
    Shutdown,
    NoAtime,
    Value(u32),
}

#[derive(Arbitrary, Debug, PartialEq)]
enum Tag {
    Shared(u16),
    Master(u16),
    From(u16),
    Unbindable,
}

/// Reads raw text, or lines as the kernel writes them.
///
/// # Panics
/// Where a mount comes out other than it went in.
pub fn check(data: &[u8]) {
    let Some((mode, data)) = data.split_first() else { return };
    if mode % 2 == 0 {
        return raw(data);
    }
    let Ok(lines) = Vec::<Line<'_>>::arbitrary_take_rest(Unstructured::new(data)) else { return };
    let mut text = Vec::new();
    lines.iter().for_each(|line| line.write(&mut text));
    let mounts = mounts_in(&text).expect("the kernel wrote it");
    assert_eq!(mounts.len(), lines.len());
    mounts.iter().zip(&lines).for_each(|(mount, line)| line.check(mount));
}

/// Whatever lies there: what is read is read again when the kernel writes it.
fn raw(text: &[u8]) {
    match mounts_in(text) {
        Ok(mounts) => {
            let lines = text.split(|b| *b == b'\n').filter(|line| !line.is_empty());
            assert_eq!(mounts.len(), lines.count());
            let mut again = Vec::new();
            mounts.iter().for_each(|mount| rewrite(mount, &mut again));
            assert_eq!(mounts_in(&again).expect("it was read before"), mounts);
        }
        Err(error) => {
            let said = error.to_string();
            assert!(matches!(error, Error::Corrupt(_)) && !said.contains(char::is_control), "{said:?}");
        }
    }
}

impl Line<'_> {
    fn write(&self, to: &mut Vec<u8>) {
        let (major, minor) = self.device;
        to.extend(format!("{} {} {major}:{minor} ", self.id, self.parent).as_bytes());
        mangle(to, self.root, b" \t\n\\");
        to.push(b' ');
        mangle(to, self.point, b" \t\n\\");
        to.push(b' ');
        to.extend(words(&self.options).as_bytes());
        for tag in &self.tags {
            to.extend(
                match tag {
                    Tag::Shared(group) => format!(" shared:{group}"),
                    Tag::Master(group) => format!(" master:{group}"),
                    Tag::From(group) => format!(" propagate_from:{group}"),
                    Tag::Unbindable => " unbindable".to_owned(),
                }
                .as_bytes(),
            );
        }
        to.extend(b" - ");
        mangle(to, self.kind, b" \t\n\\#");
        to.push(b' ');
        mangle(to, self.source, b" \t\n\\#");
        to.push(b' ');
        to.extend(words(&self.super_options).as_bytes());
        to.push(b'\n');
    }

    fn check(&self, mount: &Mount) {
        assert_eq!((mount.id, mount.parent), (self.id.into(), self.parent.into()));
        assert_eq!(mount.device, device(self.device));
        assert_eq!(mount.root.as_os_str(), OsStr::from_bytes(kernel(self.root)), "{self:?}");
        assert_eq!(mount.point.as_os_str(), OsStr::from_bytes(kernel(self.point)), "{self:?}");
        assert_eq!(mount.source.as_os_str(), OsStr::from_bytes(kernel(self.source)), "{self:?}");
        assert_eq!(mount.kind, String::from_utf8_lossy(kernel(self.kind)), "{self:?}");
        let has = |of: &[Word], wanted: fn(&Word) -> bool| of.iter().any(wanted);
        let read_only = |word: &Word| matches!(word, Word::ReadOnly);
        assert_eq!(mount.read_only, has(&self.options, read_only), "{self:?}");
        assert_eq!(mount.super_read_only, has(&self.super_options, read_only), "{self:?}");
        let gave_up = |word: &Word| matches!(word, Word::Emergency | Word::Shutdown);
        assert_eq!(mount.emergency, has(&self.super_options, gave_up), "{self:?}");
        assert_eq!(mount.shared, self.tags.iter().any(|tag| matches!(tag, Tag::Shared(_))), "{self:?}");
        assert_eq!(mount.options, words(&self.options));
        assert_eq!(mount.super_options, words(&self.super_options));
    }
}

/// As makedev(3) has it, for small numbers.
fn device((major, minor): (u16, u8)) -> u64 {
    let (major, minor) = (u64::from(major), u64::from(minor));
    (major & 0xfff) << 8 | (major & !0xfff) << 32 | minor
}

fn words(words: &[Word]) -> String {
    let mut text = String::from("x");
    for word in words {
        let _ = match word {
            Word::ReadOnly => write!(text, ",ro"),
            Word::ReadWrite => write!(text, ",rw"),
            Word::Emergency => write!(text, ",emergency_ro"),
            Word::Shutdown => write!(text, ",shutdown"),
            Word::NoAtime => write!(text, ",noatime"),
            Word::Value(value) => write!(text, ",rock={value}"),
        };
    }
    text
}

/// No name in the kernel has a zero byte.
fn kernel(bytes: &[u8]) -> &[u8] {
    bytes.split(|b| *b == 0).next().unwrap_or_default()
}

/// `seq_escape` and `mangle_path`: each of these bytes as a backslash and three octal digits.
fn mangle(to: &mut Vec<u8>, bytes: &[u8], escaped: &[u8]) {
    for byte in kernel(bytes) {
        if escaped.contains(byte) {
            to.extend(format!("\\{byte:03o}").as_bytes());
        } else {
            to.push(*byte);
        }
    }
}

/// A mount that was read, as the kernel would write it.
fn rewrite(mount: &Mount, to: &mut Vec<u8>) {
    let every = b" \t\n\\#";
    let (major, minor) = numbers(mount.device);
    to.extend(format!("{} {} {major}:{minor} ", mount.id, mount.parent).as_bytes());
    let shared: &[u8] = if mount.shared { b"shared:1" } else { b"" };
    for (field, after) in [
        (mount.root.as_os_str().as_bytes(), &b" "[..]),
        (mount.point.as_os_str().as_bytes(), b" "),
        (mount.options.as_bytes(), b" "),
        (shared, if mount.shared { b" - " } else { b"- " }),
        (mount.kind.as_bytes(), b" "),
        (mount.source.as_os_str().as_bytes(), b" "),
        (mount.super_options.as_bytes(), b"\n"),
    ] {
        for byte in field {
            // Raw text may hold a zero, which the kernel cannot write; as an escape it is the same byte.
            if every.contains(byte) || *byte == 0 {
                to.extend(format!("\\{byte:03o}").as_bytes());
            } else {
                to.push(*byte);
            }
        }
        to.extend(after);
    }
}

/// The inverse of makedev(3).
fn numbers(device: u64) -> (u64, u64) {
    ((device >> 32 & 0xffff_f000) | (device >> 8 & 0xfff), (device >> 12 & 0xffff_ff00) | (device & 0xff))
}
