//! The name of a node.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::error::{Error, Result};

/// A node's id: at most 63 letters, digits, `-`, `.` and `_`, with a letter or digit at both ends, since it becomes the value
/// of a label. Safe in a URI and in a header. Clones share their text.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(Arc<str>);

impl NodeId {
    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for NodeId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
        let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
        let (first, last) = (text.chars().next(), text.chars().last());
        if text.len() > 63 || !edge(first) || !edge(last) || !text.chars().all(inner) {
            let want = "want at most 63 letters, digits, `-`, `.` and `_`, with a letter or digit at both ends, since it \
                        becomes the value of a label";
            return Err(Error::invalid("node id", text, want));
        }
        Ok(NodeId(text.into()))
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
