//! Every way in which Rockpool says no.
//!
//! Owns: the one error type, its words, and the chain of causes. Never: knows gRPC; `csi` gives each variant its code
//! in one exhaustive match. A variant is chosen by what the caller may conclude, not by where it happened.

use std::fmt;
use std::io;

/// The result of everything below the wire.
pub type Result<T> = std::result::Result<T, Error>;

/// What went wrong, grouped by what the caller may conclude from it.
#[derive(Debug)]
pub enum Error {
    /// A field of the request is wrong; nothing was done. The text names field, value and what would be right.
    Invalid(String),
    /// A number, above all a size, lies outside what is possible. The text names field, value and the limits.
    OutOfRange(String),
    /// The thing that the request names exists nowhere on this node.
    NotFound(String),
    /// The name is taken by something that differs from the request; the text says in what.
    Conflict(String),
    /// The state of the volume, pool or host forbids it; the same call may succeed once that changed.
    Precondition(String),
    /// There is no room here. Only ever real lack of space: a scheduler tries another node on it.
    Full(String),
    /// Somebody works on the same thing right now; nothing was done, and it will pass.
    Busy(String),
    /// A page token that was never issued, or one that belongs to another list.
    PageToken(String),
    /// The outcome is unknown, or the pool is away: ask again with the same request.
    Unavailable(String),
    /// As `Unavailable`, and what was frozen may be frozen still: nobody said that it thawed.
    StillFrozen(String),
    /// This driver never offers it, or the pool's kind cannot do it.
    Unsupported(String),
    /// The host refused a system call.
    Host {
        /// The operation, in lower case: "failed to open `volumes`".
        what: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// A program that Rockpool runs failed.
    Program {
        /// The operation, in lower case: "failed to make an ext4 filesystem".
        what: String,
        /// The end of what it printed, without its arguments.
        said: String,
    },
    /// What lies on the disk is not what was written there.
    Corrupt(String),
}

impl Error {
    /// A failed system call; a full disk, quota or read-only filesystem becomes the variant that says so.
    pub fn host(what: impl Into<String>, source: io::Error) -> Self {
        let what = what.into();
        let kind = source.kind();
        if matches!(kind, io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
            Error::Full(format!("{what}: {source}"))
        } else if kind == io::ErrorKind::ReadOnlyFilesystem {
            Error::Precondition(format!("{what}: the filesystem is read-only ({source})"))
        } else {
            Error::Host { what, source }
        }
    }

    /// What undoing a failure left behind is not known, since that failed as well: the caller must ask again.
    pub fn undone_in_part(cause: &Error, undoing: &Error) -> Self {
        Error::Unavailable(format!(
            "{}; and undoing it failed as well, so something may be left until a retry or restart: {}",
            chain(cause),
            chain(undoing)
        ))
    }

    /// As the failure of something that is recorded and will be finished: no code may say that it is over, whatever the
    /// cause (contract: only UNAVAILABLE and ABORTED leave the outcome open).
    pub fn unfinished(self) -> Self {
        if planted!("final-code") {
            return self;
        }
        match self {
            Error::Busy(_) | Error::Unavailable(_) | Error::StillFrozen(_) => self,
            Error::Invalid(_)
            | Error::OutOfRange(_)
            | Error::NotFound(_)
            | Error::Conflict(_)
            | Error::Precondition(_)
            | Error::Full(_)
            | Error::PageToken(_)
            | Error::Unsupported(_)
            | Error::Host { .. }
            | Error::Program { .. }
            | Error::Corrupt(_) => Error::Unavailable(format!(
                "{}; it is recorded and will be finished, ask again",
                chain(&self)
            )),
        }
    }

    /// A wrong field: its name as in the CSI message, the value as sent, and what would be right.
    pub fn invalid(field: &str, value: impl fmt::Display, want: impl fmt::Display) -> Self {
        Error::Invalid(format!("{field} {}: {want}", quoted(&value.to_string())))
    }
}

/// A user's text made fit for a message or a log: quoted, escaped, and cut to 128 characters. Where it ends can be told.
pub fn quoted(text: &str) -> String {
    format!("`{}`", escaped(text))
}

/// The same without quotes, for a key that names a field.
pub fn escaped(text: &str) -> String {
    let mut cut: String = text.chars().take(128).flat_map(char::escape_debug).collect();
    if cut.contains('`') {
        cut = cut.replace('`', "\\`");
    }
    if text.chars().nth(128).is_some() {
        cut.push('…');
    }
    cut
}

/// A path made fit for a message: quoted and escaped, but whole.
pub fn quoted_path(path: &std::path::Path) -> String {
    format!("`{}`", path.to_string_lossy().escape_debug())
}

/// A sentence about a pool that names it, once: most say it themselves.
pub fn of_pool(name: &str, why: &str) -> String {
    let pool = format!("pool {}", quoted(name));
    if why.starts_with(&pool) { why.to_owned() } else { format!("{pool}: {why}") }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Invalid(text)
            | Error::OutOfRange(text)
            | Error::NotFound(text)
            | Error::Conflict(text)
            | Error::Precondition(text)
            | Error::Full(text)
            | Error::Busy(text)
            | Error::PageToken(text)
            | Error::Unavailable(text)
            | Error::StillFrozen(text)
            | Error::Unsupported(text)
            | Error::Corrupt(text) => f.write_str(text),
            Error::Host { what, .. } => f.write_str(what),
            Error::Program { what, said } => write!(f, "{what}: {said}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Host { source, .. } => Some(source),
            Error::Invalid(_)
            | Error::OutOfRange(_)
            | Error::NotFound(_)
            | Error::Conflict(_)
            | Error::Precondition(_)
            | Error::Full(_)
            | Error::Busy(_)
            | Error::PageToken(_)
            | Error::Unavailable(_)
            | Error::StillFrozen(_)
            | Error::Unsupported(_)
            | Error::Program { .. }
            | Error::Corrupt(_) => None,
        }
    }
}

/// The whole chain of causes in one line, each said once: the only place that prints it.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let said = cause.to_string();
        // Many a library says its cause itself.
        if !line.contains(&said) {
            line.push_str(": ");
            line.push_str(&said);
        }
        next = cause.source();
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_told_from_a_broken_one() {
        let full = Error::host("failed to write", io::Error::from_raw_os_error(28));
        assert!(matches!(full, Error::Full(_)), "{full:?}");
        let broken = Error::host("failed to write", io::Error::from_raw_os_error(5));
        assert_eq!(chain(&broken), "failed to write: Input/output error (os error 5)");
    }

    #[test]
    fn a_cause_and_a_pool_are_named_once() {
        let cause = io::Error::from_raw_os_error(2);
        let twice =
            io::Error::other(Error::Host { what: format!("failed to connect: {cause}"), source: cause });
        assert_eq!(chain(&twice), "failed to connect: No such file or directory (os error 2)");
        assert_eq!(of_pool("a", "its disk is gone"), "pool `a`: its disk is gone");
        assert_eq!(of_pool("a", "pool `a` is away"), "pool `a` is away");
    }

    #[test]
    fn user_text_cannot_break_a_line_or_fill_a_log() {
        assert_eq!(quoted("a\nb"), "`a\\nb`");
        assert!(quoted(&"x".repeat(5000)).chars().count() < 140);
    }
}
