//! The book of lost pools in a file, for a controller that has no Kubernetes.
//!
//! Owns: that it is written durably. Never: shared: each controller has its own file.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use tonic::async_trait;

use crate::cluster::lost::{Book, Keeper, read, write};
use crate::error::{Error, Result, chain, quoted_path};
use crate::os::file::Dir;

/// No book is larger.
const LIMIT: usize = 4 << 20;

/// A book in a file.
pub(super) struct File {
    directory: PathBuf,
    name: OsString,
}

impl File {
    /// The one at this path; its directory is there.
    ///
    /// # Errors
    /// `Invalid`, naming the flag.
    pub(super) fn new(path: &Path) -> Result<File> {
        let wrong = |want: &str| Error::invalid("--lost-pools", path.display(), want);
        let name = path.file_name().ok_or_else(|| wrong("want the path of a file"))?.to_owned();
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let directory = directory.unwrap_or(Path::new(".")).to_owned();
        let file = File { directory, name };
        let checked =
            file.text().and_then(|text| text.map_or_else(|| Ok(Book::new()), |text| read(text.as_bytes())));
        checked.map_err(|error| wrong(&chain(&error)))?;
        Ok(file)
    }

    fn text(&self) -> Result<Option<String>> {
        let bytes = Dir::open(&self.directory)?.read(&self.name, LIMIT)?;
        let text = bytes.map(String::from_utf8).transpose();
        let path = self.directory.join(&self.name);
        text.map_err(|_| Error::Corrupt(format!("{}: not UTF-8", quoted_path(&path))))
    }
}

#[async_trait]
impl Keeper for File {
    async fn load(&self) -> Result<(Book, Option<String>)> {
        let text = self.text()?;
        let book = text.as_ref().map_or_else(|| Ok(Book::new()), |text| read(text.as_bytes()))?;
        Ok((book, text))
    }

    async fn store(&self, book: &Book, version: Option<&str>) -> Result<bool> {
        if self.text()?.as_deref() != version {
            return Ok(false);
        }
        Dir::open(&self.directory)?.replace(&self.name, write(book).as_bytes())?;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods, reason = "the test makes its own files")]

    use std::sync::Arc;

    use super::*;
    use crate::cluster::lost::Lost;

    #[tokio::test]
    async fn what_was_declared_outlives_the_controller() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lost.json");
        let open = || Lost::new(Box::new(File::new(&path).unwrap()));
        let (lost, pool) = (open(), "aaaaaaaaaaaa".parse().unwrap());
        assert!(lost.declare(pool, "a test").await.unwrap());
        let id = "s1.aaaaaaaaaaaa.0101010101010101";
        lost.deleted(id.parse().unwrap()).await.unwrap();
        let again = Arc::new(open());
        assert!(!again.is_declared(pool), "it was not read yet");
        again.refresh().await.unwrap();
        assert!(again.is_declared(pool) && again.book()[&pool].deleted.contains(id));
        std::fs::write(&path, "torn").unwrap();
        let said = File::new(&path).err().unwrap().to_string();
        assert!(said.contains("--lost-pools") && said.contains("lost.json"), "{said}");
        assert!(again.deleted(id.parse().unwrap()).await.is_err());
        assert!(File::new(Path::new("/there/is/no/such")).is_err());
    }
}
