//! Page tokens.
//!
//! Owns: their form. A token is the list it belongs to, the id of the last entry it follows, and a checksum. It points
//! between ids rather than at an entry, so it stays good when that entry is deleted and after a restart, and costs no
//! memory. The checksum keeps invented tokens out; it guards against mistakes, since every list is open to its caller anyway.

use std::fmt::Display;
use std::str::FromStr;

use crate::error::{Error, Result, quoted};

/// A list that pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum List {
    /// ListVolumes.
    Volumes,
    /// ListSnapshots.
    Snapshots,
    /// ControllerListVolumeHealth.
    VolumeHealth,
}

impl List {
    fn prefix(self) -> &'static str {
        match self {
            List::Volumes => "volumes",
            List::Snapshots => "snapshots",
            List::VolumeHealth => "health",
        }
    }

    fn token(self, text: &str) -> String {
        let body = format!("{}/{text}", self.prefix());
        let sum = crc32c::crc32c(body.as_bytes());
        format!("{body}/{sum:08x}")
    }

    /// The token that goes on behind `last`.
    pub fn after(self, last: impl Display) -> String {
        self.token(&last.to_string())
    }

    /// The id behind which to go on; an empty token starts at the beginning.
    ///
    /// # Errors
    /// `PageToken` for what this list never issued.
    pub fn cursor<T: FromStr>(self, token: &str) -> Result<Option<T>> {
        if token.is_empty() {
            return Ok(None);
        }
        let id = token.split('/').nth(1).filter(|id| self.token(id) == token || planted!("token-invented"));
        let cursor = id.and_then(|id| id.parse().ok());
        cursor.map(Some).ok_or_else(|| {
            Error::PageToken(format!(
                "starting_token {} was not issued by this list: want the next_token of the page before, or none to start again",
                quoted(token)
            ))
        })
    }
}

/// Cuts what was fetched, one more than a page holds, to the page, and says whether and where it goes on.
pub fn cut<T, I: Display>(list: List, page: &mut Vec<T>, max: usize, id: impl Fn(&T) -> I) -> String {
    if page.len() <= max {
        return String::new();
    }
    page.truncate(max);
    page.last().map_or_else(String::new, |last| list.after(id(last)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{PoolId, VolumeId};

    fn volume(n: u8) -> VolumeId {
        VolumeId::new(PoolId::new([1; 6]), [n; 8])
    }

    #[test]
    fn a_token_leads_back_to_its_id() {
        let token = List::Volumes.after(volume(7));
        assert_eq!(List::Volumes.cursor::<VolumeId>(&token).unwrap(), Some(volume(7)));
        assert!(token.len() <= 128, "{token}");
        assert_eq!(List::Volumes.cursor::<VolumeId>("").unwrap(), None);
    }

    #[test]
    fn tokens_that_were_never_issued_are_refused() {
        let issued = List::Volumes.after(volume(7));
        let changed = issued.replace("0707", "0708");
        assert_ne!(issued, changed);
        let id = volume(7).to_string();
        let foreign = List::Snapshots.after(volume(7));
        let long = format!("{issued}/");
        for token in [
            "-1",
            "0",
            "10",
            "/",
            "//",
            "volumes",
            "\0",
            &changed,
            &id,
            &foreign,
            &long,
            "volumes/x/00000000",
        ] {
            let answer = List::Volumes.cursor::<VolumeId>(token);
            assert!(matches!(answer, Err(Error::PageToken(_))), "{token:?}: {answer:?}");
        }
    }

    #[test]
    fn a_page_says_where_it_goes_on_only_if_it_does() {
        let mut page: Vec<_> = (1..=3).map(volume).collect();
        assert_eq!(cut(List::Volumes, &mut page, 3, |id| *id), "");
        let token = cut(List::Volumes, &mut page, 2, |id| *id);
        assert_eq!(page, [volume(1), volume(2)]);
        assert_eq!(List::Volumes.cursor::<VolumeId>(&token).unwrap(), Some(volume(2)));
    }
}
