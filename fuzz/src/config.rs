//! The pool file: what is taken obeys every limit that docs name.
//!
//! Owns: those limits, written a second time. Never: opens a pool.

use std::cell::RefCell;
use std::collections::HashSet;
use std::path::{Component, Path, PathBuf};

use rockpool::config;
use rockpool::engine::PoolConfig;
use rockpool::error::Error;
use rockpool::model::Bytes;
use rockpool::pool::{Kind, check_name};
use tempfile::TempDir;

use crate::node::sim;

/// Ten years, the longest that something deleted is kept.
const LONGEST: u64 = 3650 * 86_400;

thread_local! {
    static DIRECTORY: RefCell<Option<TempDir>> = const { RefCell::new(None) };
}

/// Reads the bytes as a pool file, and adds a pool.
///
/// # Panics
/// Where a file is taken that breaks a limit, or cannot be read again.
pub fn check(data: &[u8]) {
    let file = DIRECTORY.with_borrow_mut(|directory| {
        let new = || tempfile::Builder::new().prefix("config-").tempdir().expect("a directory");
        directory.get_or_insert_with(new).path().join("config.toml")
    });
    std::fs::write(&file, data).expect("room for a file");
    let pools = match config::read(&file) {
        Ok(pools) => pools,
        Err(error) => return check_refusal(&file, &error),
    };
    // Only an override takes the last one away.
    assert!(!pools.is_empty() || String::from_utf8_lossy(data).contains("absent"));
    check_pools(&pools);
    let mut new = sim("added-by-the-test", Bytes::GIB);
    // What an entry that says no more gets.
    new.reserve = 0.05;
    if pools.iter().any(|pool| pool.setup.name == new.setup.name) {
        return;
    }
    let text = config::rehearse(&file, &new).expect("a pool of its own name, in memory, fits everywhere");
    std::fs::write(&file, text).expect("room for a file");
    let again = config::read(&file).expect("what was written is read");
    assert_eq!(again.split_last(), Some((&new, &pools[..])));
}

fn check_refusal(file: &Path, error: &Error) {
    let said = error.to_string();
    assert!(matches!(error, Error::Invalid(_)), "{error:?}");
    assert!(said.starts_with(&file.display().to_string()), "it does not name the file: {said:?}");
}

fn check_pools(pools: &[PoolConfig]) {
    let mut taken = HashSet::new();
    for pool in pools {
        let setup = &pool.setup;
        assert!(check_name(&setup.name).is_ok() && taken.insert(PathBuf::from(&setup.name)), "{setup:?}");
        assert!((1.0..=100.0).contains(&pool.overcommit) && (0.0..=0.9).contains(&pool.reserve), "{pool:?}");
        assert!(pool.retain.seconds() <= LONGEST);
        let sim = setup.kind == Kind::Sim;
        assert_eq!(setup.path.as_os_str().is_empty(), sim, "{setup:?}");
        assert!(sim || setup.size.is_none());
        assert!(!sim || (setup.file.is_none() && setup.device.is_none()));
        assert!(setup.file.is_none() || setup.device.is_none());
        assert!(setup.size.is_none_or(|size| size > Bytes::ZERO));
        let places = [Some(&setup.path).filter(|_| !sim), setup.file.as_ref(), setup.device.as_ref()];
        for (kind, place) in ["path", "file", "device"].iter().zip(places) {
            let Some(place) = place else { continue };
            let plain = |part| matches!(part, Component::RootDir | Component::Normal(_));
            assert!(place.is_absolute() && place.components().all(plain), "{place:?}");
            assert!(
                taken.insert(Path::new(kind).join(place.strip_prefix("/").expect("absolute"))),
                "{place:?} twice"
            );
        }
    }
}
