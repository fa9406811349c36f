//! Flags and the pool file, as typed and as meant.
//!
//! Owns: what a valid configuration is; every error names the file or flag, the key, the value and what would be right.
//! Never: opens a pool, a socket or a log.

mod endpoint;
mod file;
mod host;
mod overrides;
mod words;

use std::ffi::OsStr;
use std::io::ErrorKind;
use std::path::{Component, Path, PathBuf};

pub use self::endpoint::{Endpoint, LONGEST};
pub use self::host::transfer_address;
pub use self::overrides::Here;
use crate::engine::PoolConfig;
use crate::error::{Error, Result, quoted, quoted_path};
use crate::os::file::Dir;

/// A pool file larger than this is none.
const FILE_LIMIT: usize = 1 << 20;

/// The variable that names the node, as its flag does.
pub const NODE_ID: &str = "ROCKPOOL_NODE_ID";
/// The variable that holds the node's labels, with commas between them.
pub const NODE_LABELS: &str = "ROCKPOOL_NODE_LABELS";

/// What a pool file says to one node.
#[derive(Clone, Debug, PartialEq)]
pub struct Pools {
    /// Its pools, in the order of the file.
    pub all: Vec<PoolConfig>,
    /// The overrides that took others away from it, each in words.
    pub taken: Vec<String>,
}

impl Pools {
    /// Which overrides left no pool at all.
    pub fn why_none(&self) -> Option<String> {
        self.all.is_empty().then(|| self.taken.join(", "))
    }
}

/// Reads a pool file as the node that the environment names, or else the host.
///
/// # Errors
/// As [`read_as`].
pub fn read(file: &Path) -> Result<Vec<PoolConfig>> {
    let node = std::env::var(NODE_ID).unwrap_or_else(|_| host_name());
    let labels = std::env::var(NODE_LABELS).unwrap_or_default();
    let labels: Vec<String> =
        labels.split(',').filter(|label| !label.is_empty()).map(str::to_owned).collect();
    read_as(file, &Here::new(node, &labels)?).map(|pools| pools.all)
}

/// Reads a pool file as one node.
///
/// # Errors
/// `Invalid` with one line for each thing that is wrong; a file without a pool for that node is wrong as well, unless its overrides
/// say so.
pub fn read_as(file: &Path, here: &Here) -> Result<Pools> {
    let text = read_text(file)?.ok_or_else(|| {
        let hint = "`rockpool pool init` makes a pool and writes the file";
        Error::Invalid(format!("{}: there is no such file: {hint}", file.display()))
    })?;
    let pools = file::parse(file, &text, here)?;
    if pools.all.is_empty() && pools.taken.is_empty() {
        let hint = "want at least one, `rockpool pool init` makes it";
        return Err(Error::Invalid(format!("{}: it has no [[pool]] entry: {hint}", file.display())));
    }
    Ok(pools)
}

/// Whether a pool could be added to a file; answers the text with it.
///
/// # Errors
/// `Invalid` where the file is wrong already, or holds the name or place.
pub fn rehearse(file: &Path, pool: &PoolConfig) -> Result<String> {
    let text = read_text(file)?.unwrap_or_default();
    file::parse(file, &text, &Here::default())?;
    file::with_entry(file, &text, pool)
}

/// Adds a pool to a file, durably; the file is made where it is missing, its comments stay.
///
/// # Errors
/// As `rehearse`.
pub fn add(file: &Path, pool: &PoolConfig) -> Result<()> {
    let text = rehearse(file, pool)?;
    let real = real(file)?;
    let (directory, name) = split(real.as_deref().unwrap_or(file))?;
    std::fs::create_dir_all(directory)
        .map_err(|error| Error::host(format!("failed to make {}", directory.display()), error))?;
    Dir::open(directory)?.replace(name, text.as_bytes())
}

/// Whether a pool file could be written where it is to lie; makes nothing that stays.
///
/// # Errors
/// `Precondition`, naming the flag.
pub fn refuse_unwritable(file: &Path) -> Result<()> {
    let real = real(file)?;
    let (directory, _) = split(real.as_deref().unwrap_or(file))?;
    // What is missing will be made.
    let there = directory.ancestors().find(|above| above.is_dir()).unwrap_or(Path::new("."));
    Dir::open(there).and_then(|there| there.refuse_unwritable()).map_err(|error| {
        let why = crate::error::chain(&error);
        Error::Precondition(format!("--config {} cannot be written: {why}", quoted_path(file)))
    })
}

/// The text of a pool file with this one pool.
///
/// # Errors
/// `Invalid` where the pool is none that a file can have.
pub fn entry(file: &Path, pool: &PoolConfig) -> Result<String> {
    file::with_entry(file, "", pool)
}

fn read_text(file: &Path) -> Result<Option<String>> {
    let Some(real) = real(file)? else { return Ok(None) };
    let (directory, name) = split(&real)?;
    let read = Dir::open(directory).and_then(|directory| directory.read(name, FILE_LIMIT));
    let read = read.map_err(|error| {
        Error::Precondition(format!("--config {}: {}", quoted_path(file), crate::error::chain(&error)))
    })?;
    let Some(bytes) = read else { return Ok(None) };
    let text = String::from_utf8(bytes);
    text.map(Some).map_err(|_| Error::Invalid(format!("{}: not UTF-8, and so not TOML", file.display())))
}

/// The file that a path names, where there is one. In a pod it is a link: that is how kubelet shows a ConfigMap.
fn real(file: &Path) -> Result<Option<PathBuf>> {
    split(file)?;
    match file.canonicalize() {
        Ok(real) => Ok(Some(real)),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(Error::Precondition(format!("--config {}: {error}", quoted_path(file)))),
    }
}

fn split(file: &Path) -> Result<(&Path, &OsStr)> {
    let name = file.file_name().ok_or_else(|| {
        Error::invalid("--config", file.display(), "want the path of a file, like /etc/rockpool/config.toml")
    })?;
    let directory = file.parent().filter(|parent| !parent.as_os_str().is_empty());
    Ok((directory.unwrap_or(Path::new(".")), name))
}

/// An absolute path without `.` and `..`.
pub(crate) fn absolute(text: &str) -> std::result::Result<PathBuf, &'static str> {
    let path = Path::new(text);
    let plain = path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    if !path.is_absolute() || !plain || text.contains("/./") || text.ends_with("/.") {
        return Err("want an absolute path without `.` and `..`");
    }
    if path.parent().is_none() {
        return Err("want a directory or file of its own, not `/`");
    }
    // Rebuilt, so that `/a//b/` and `/a/b` are one place.
    Ok(path.components().collect())
}

/// An absolute directory given by a flag.
///
/// # Errors
/// `Invalid`, naming the flag.
pub fn directory(flag: &str, path: &Path) -> Result<PathBuf> {
    let text = path.to_str().ok_or_else(|| Error::invalid(flag, path.display(), "want UTF-8"))?;
    absolute(text).map_err(|want| Error::invalid(flag, text, want))
}

/// Kubelet's directory. One that is missing may come with kubelet.
///
/// # Errors
/// `Invalid`, naming the flag, for what is there and is no directory.
pub fn kubelet_root(path: &Path) -> Result<PathBuf> {
    const FLAG: &str = "--kubelet-root";
    let path = directory(FLAG, path)?;
    match std::fs::metadata(&path) {
        Ok(found) if found.is_dir() => Ok(path),
        Ok(_) => Err(Error::invalid(FLAG, path.display(), "want a directory, that is none")),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(path),
        Err(error) => Err(Error::invalid(FLAG, path.display(), format!("want a directory: {error}"))),
    }
}

/// The host's name, which is the node's id unless a flag says another.
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Where an admin socket lies that nobody chose, below the state directory.
pub const ADMIN_SOCKET: &str = "admin/admin.sock";

/// The socket for operators.
#[derive(Clone, Debug)]
pub enum Admin {
    /// None.
    Off,
    /// Where it was asked for.
    Asked(Endpoint),
    /// Where nobody asked for it: not worth a start that fails, since another driver may use the same state directory.
    Usual(PathBuf),
}

/// The socket for operators: as typed, none for `off`, else below the state directory.
///
/// # Errors
/// `Invalid`, naming the flag.
pub fn admin_endpoint(text: Option<&str>, state_dir: &Path) -> Result<Admin> {
    match text {
        Some("off") => Ok(Admin::Off),
        Some(text) => text
            .parse()
            .map(Admin::Asked)
            .map_err(|error: Error| Error::Invalid(format!("--admin-endpoint: {error}; `off` goes without"))),
        None => Ok(Admin::Usual(state_dir.join(ADMIN_SOCKET))),
    }
}

/// The path of the registration socket below kubelet's directory.
///
/// # Errors
/// `Invalid` where it is too long for a socket.
pub fn registration_socket(directory: &Path, driver: &str) -> Result<PathBuf> {
    let path = directory.join(format!("{driver}-reg.sock"));
    if path.as_os_str().len() > LONGEST {
        let want = format!(
            "its socket {} is too long: want at most {LONGEST} bytes",
            quoted(&path.display().to_string())
        );
        return Err(Error::invalid("--kubelet-registration-dir", directory.display(), want));
    }
    Ok(path)
}
