//! The address of a unix socket as the command line and CSI_ENDPOINT give it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::error::{Error, Result};

/// The longest path that fits into the kernel's `sun_path`, with its closing zero.
pub const LONGEST: usize = 107;

/// A unix socket by its absolute path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint(PathBuf);

impl Endpoint {
    /// The socket's path.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl FromStr for Endpoint {
    type Err = Error;

    /// `unix:///run/x.sock`, `unix:/run/x.sock` or `/run/x.sock`.
    fn from_str(text: &str) -> Result<Self> {
        let refused = |want: &str| Err(Error::invalid("endpoint", text, want));
        let path = text.strip_prefix("unix://").or_else(|| text.strip_prefix("unix:")).unwrap_or(text);
        if !path.starts_with('/') {
            return refused("want a unix socket by its absolute path, like unix:///run/rockpool/csi.sock");
        }
        if path.ends_with('/') || path.contains('\0') || Path::new(path).file_name().is_none() {
            return refused("want the path of a socket, not of a directory");
        }
        if path.len() > LONGEST {
            return refused("want at most 107 bytes of path: the kernel's limit for sockets");
        }
        Ok(Endpoint(path.into()))
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unix://{}", self.0.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_spellings_are_one_socket() {
        for text in ["unix:///run/x.sock", "unix:/run/x.sock", "/run/x.sock"] {
            assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), "unix:///run/x.sock");
        }
    }

    #[test]
    fn what_is_no_absolute_socket_path_is_refused_by_name() {
        let long = format!("/{}", "x".repeat(LONGEST));
        for text in [
            "",
            "unix://",
            "x.sock",
            "unix://run/x.sock",
            "tcp://127.0.0.1:1",
            "unix:///",
            "/run/",
            "/a/..",
            &long,
        ] {
            let error = text.parse::<Endpoint>().unwrap_err().to_string();
            assert!(error.starts_with("endpoint `"), "{text}: {error}");
        }
    }
}
