//! Unix sockets that nobody else can open, not even for an instant.
//!
//! Owns: binding, the replacement of a stale socket, and the removal of our own. Never: removes anything but a socket at
//! which nobody answers, and leaves no other file beside it.
//!
//! Bind
//!  1. the directory, 0700 where it is missing
//!  2. a lock on the directory itself, so that two processes cannot replace each other's socket, without a lock file
//!  3. what lies at the path: nothing, a stale socket (removed), or a reason to stop
//!  4. a socket with mode 0600 before it has a name: bind takes over the mode, so no other user sees it open
//!  5. listen

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::error::{Error, Result};

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 128;

/// A bound socket. Its file is removed when this is dropped.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    name: Name,
}

/// Recognises the file of a bound socket.
#[derive(Clone, Debug)]
pub struct Witness {
    path: PathBuf,
    identity: (u64, u64),
}

/// The file of a bound socket, which goes when this is dropped.
#[derive(Debug)]
pub(super) struct Name(Witness);

impl Socket {
    /// Binds a socket at `path`, readable and writable by this user alone.
    ///
    /// # Errors
    /// `Precondition` where a process answers there already, or something lies there that is no socket.
    pub fn bind(path: &Path) -> Result<Socket> {
        let directory = path.parent().unwrap_or(Path::new("/"));
        make_directory(directory)?;
        let lock = File::open(directory).map_err(failed("open", directory))?;
        rustix::fs::flock(&lock, FlockOperation::LockExclusive)
            .map_err(|e| failed("lock", directory)(e.into()))?;
        make_way(path)?;
        let listener = listen(path).map_err(failed("bind the socket", path))?;
        let found = std::fs::symlink_metadata(path).map_err(failed("look at the socket", path))?;
        let name = Name(Witness { path: path.to_owned(), identity: (found.dev(), found.ino()) });
        Ok(Socket { listener, name })
    }

    /// What tells whether the socket can still be found.
    pub fn witness(&self) -> Witness {
        self.name.0.clone()
    }

    /// The listener for the runtime, and the name, which must be kept as long as the socket is to be found.
    pub(super) fn into_parts(self) -> (UnixListener, Name) {
        (self.listener, self.name)
    }
}

impl Witness {
    /// Whether the file is still there and still ours.
    pub fn is_there(&self) -> bool {
        std::fs::symlink_metadata(&self.path).is_ok_and(|found| (found.dev(), found.ino()) == self.identity)
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        if self.0.is_there()
            && let Err(error) = std::fs::remove_file(&self.0.path)
        {
            tracing::warn!(path = %self.0.path.display(), %error, "failed to remove our socket");
        }
    }
}

fn failed(what: &str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let what = format!("failed to {what} {}", path.display());
    move |error| Error::host(what, error)
}

fn make_directory(directory: &Path) -> Result<()> {
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
    made.map_err(failed("make the socket's directory", directory))
}

/// Removes a stale socket; refuses everything else.
fn make_way(path: &Path) -> Result<()> {
    let refused = |why: &str| Err(Error::Precondition(format!("endpoint {}: {why}", path.display())));
    let found = match std::fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("look at", path)(error)),
    };
    if !found.file_type().is_socket() {
        return refused(
            "something that is no socket lies there, and is left alone: move it away or choose another path",
        );
    }
    match UnixStream::connect(path) {
        Ok(_) => refused("another process answers there: stop it or choose another path"),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(failed("remove the stale socket", path))
        }
        // A full backlog, for one, is somebody alive.
        Err(error) => refused(&format!("cannot tell whether a process answers there ({error}): left alone")),
    }
}

fn listen(path: &Path) -> io::Result<UnixListener> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(UnixListener::from(socket))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods, reason = "the test makes its own files")]

    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn mode(path: &Path) -> u32 {
        std::fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn nobody_else_can_open_it_and_it_goes_with_its_owner() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("made/x.sock");
        let socket = Socket::bind(&path).unwrap();
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        assert_eq!(
            std::fs::read_dir(path.parent().unwrap()).unwrap().count(),
            1,
            "nothing beside the socket"
        );
        drop(socket);
        assert!(!path.exists());
    }

    #[test]
    fn only_a_stale_socket_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.sock");
        drop(UnixListener::bind(&path).unwrap());
        let socket = Socket::bind(&path).unwrap();
        let refused = Socket::bind(&path).unwrap_err().to_string();
        assert!(refused.contains("another process answers"), "{refused}");
        drop(socket);
        std::fs::write(&path, "keep me").unwrap();
        let refused = Socket::bind(&path).unwrap_err().to_string();
        assert!(refused.contains("no socket"), "{refused}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "keep me");
    }

    #[test]
    fn a_socket_that_replaced_ours_is_not_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.sock");
        let ours = Socket::bind(&path).unwrap();
        std::fs::rename(&path, dir.path().join("elsewhere")).unwrap();
        let theirs = UnixListener::bind(&path).unwrap();
        drop(ours);
        assert!(path.exists());
        drop(theirs);
    }
}
