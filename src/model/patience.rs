//! How long a node may be gone before that is reported.
//!
//! Owns: the parameter of a StorageClass that says so. Never: looks at a clock.

use std::time::Duration;

use super::{Parameters, Retention};
use crate::error::{Error, Result};

/// The word for it, as a parameter of a class.
pub const REPORT_NODE_GONE_AFTER: &str = "reportNodeGoneAfter";

/// What the parameters of a class say; `None` leaves it to the controller.
///
/// # Errors
/// `Invalid`, naming the key, for a text that is no such time, and for none at all: a node that is replaced is gone for a while.
pub fn report_node_gone_after(parameters: &Parameters) -> Result<Option<Duration>> {
    let Some(text) = parameters.get(REPORT_NODE_GONE_AFTER) else { return Ok(None) };
    let seconds = text.parse::<Retention>().map_or(0, Retention::seconds);
    if seconds == 0 {
        let want = "want a whole number above 0 with s, m, h or d, at most 3650d, like 10m or 1h";
        return Err(Error::invalid(&format!("parameters[{REPORT_NODE_GONE_AFTER}]"), text, want));
    }
    Ok(Some(Duration::from_secs(seconds)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Result<Option<Duration>> {
        report_node_gone_after(&[(REPORT_NODE_GONE_AFTER.to_owned(), text.to_owned())].into())
    }

    #[test]
    fn it_is_a_number_with_a_unit() {
        assert_eq!(of("90s").unwrap(), Some(Duration::from_secs(90)));
        assert_eq!(of("1h").unwrap(), Some(Duration::from_secs(3600)));
        assert_eq!(report_node_gone_after(&Parameters::new()).unwrap(), None);
    }

    #[test]
    fn what_is_none_is_refused_with_what_would_be_right() {
        for text in ["", "0", "0m", "soon", "-1h", "10", "99999d"] {
            let error = of(text).unwrap_err().to_string();
            assert!(
                error.contains("parameters[reportNodeGoneAfter]") && error.contains("10m"),
                "{text}: {error}"
            );
        }
    }
}
