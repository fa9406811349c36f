//! The pool file: every mistake is named by file, entry, key and value, with what would be right.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a test makes its own files, and fails by panicking"
)]

use std::path::PathBuf;

use rockpool::config;
use rockpool::engine::PoolConfig;
use rockpool::model::{Bytes, Retention};
use rockpool::pool::{Kind, Quota, Setup};
use tempfile::TempDir;

fn file(dir: &TempDir, text: &str) -> PathBuf {
    let path = dir.path().join("config.toml");
    std::fs::write(&path, text).unwrap();
    path
}

fn refusal(text: &str) -> String {
    let dir = tempfile::tempdir().unwrap();
    let path = file(&dir, text);
    let error = config::read(&path).expect_err(text).to_string();
    let start = format!("{}: ", path.display());
    assert!(error.lines().next().unwrap().starts_with(&start), "the file is not named: {error}");
    error.replace(&start, "")
}

fn setup(name: &str, path: &str) -> Setup {
    Setup {
        name: name.into(),
        kind: Kind::Directory,
        path: path.into(),
        file: None,
        device: None,
        quota: Quota::None,
        size: None,
    }
}

#[test]
fn a_pool_cannot_lie_in_another() {
    let pool = |name: &str, path: &str| {
        format!("[[pool]]\nname = \"{name}\"\nkind = \"directory\"\npath = \"{path}\"\n")
    };
    for (one, other) in [("/x", "/x/y"), ("/x/y/z", "/x")] {
        let said = refusal(&(pool("a", one) + &pool("b", other)));
        assert!(
            said.contains(&format!("path `{other}`: pool `a` is at `{one}`, and one lies in the other")),
            "{said}"
        );
    }
    let dir = tempfile::tempdir().unwrap();
    let beside = file(&dir, &(pool("a", "/x/y") + &pool("b", "/x/y2")));
    assert_eq!(config::read(&beside).unwrap().len(), 2);
    let said = config::read(dir.path()).unwrap_err().to_string();
    assert!(said.contains("--config") && said.contains("is not a regular file"), "{said}");
}

#[test]
fn a_file_says_what_it_means() {
    let dir = tempfile::tempdir().unwrap();
    let text = r#"
        [[pool]]
        name = "fast"
        kind = "image"
        path = "/var/lib/rockpool/pools//0123456789ab/"
        file = "/srv/pool.img"
        overcommit = 2
        reserve = 0.1

        [[pool]]
        name = "plain"
        kind = "directory"
        path = "/srv/plain"
        quota = "none"

        [[pool]]
        name = "toy"
        kind = "sim"
        size = "20GiB"
    "#;
    let pools = config::read(&file(&dir, text)).unwrap();
    assert_eq!(pools[0].setup.path, PathBuf::from("/var/lib/rockpool/pools/0123456789ab"));
    assert_eq!((pools[0].overcommit, pools[0].reserve), (2.0, 0.1));
    assert_eq!(
        pools[1],
        PoolConfig {
            setup: setup("plain", "/srv/plain"),
            overcommit: 1.0,
            reserve: 0.05,
            retain: Retention::NONE
        }
    );
    assert_eq!((pools[2].setup.kind, pools[2].setup.size), (Kind::Sim, Some(Bytes::GIB.times(20))));
}

#[test]
fn each_mistake_is_named_with_what_would_be_right() {
    let image = "[[pool]]\nname = \"a\"\nkind = \"image\"\npath = \"/p\"\n";
    let with = |line: &str| format!("{image}{line}\n");
    for (text, words) in [
        ("[[pool]\n".to_owned(), vec!["not TOML"]),
        (String::new(), vec!["no [[pool]] entry", "rockpool pool init"]),
        ("[[pools]]\n".to_owned(), vec!["key `pools`", "did you mean `pool`?"]),
        ("pool = 3\n".to_owned(), vec!["key `pool`", "two brackets"]),
        (with("overcomit = 2.0"), vec!["[[pool]] 1 `a`", "overcomit", "did you mean `overcommit`?"]),
        (with("colour = \"red\""), vec!["[[pool]] 1 `a`", "colour: unknown key: want one of name, kind"]),
        (with("overcommit = 0.5"), vec!["overcommit `0.5`", "from 1.0 to 100.0"]),
        (with("overcommit = \"much\""), vec!["overcommit", "much", "want a number"]),
        (with("reserve = 0.95"), vec!["reserve `0.95`", "from 0.0 to 0.9"]),
        (with("reserve = nan"), vec!["reserve `nan`", "from 0.0 to 0.9"]),
        (
            with("retainDeleted = \"soon\""),
            vec!["[[pool]] 1 `a`: retainDeleted `soon`: want a text like \"30m\", \"12h\" or \"7d\""],
        ),
        (with("retainDeleted = 7"), vec!["retainDeleted `7`", "s, m, h or d"]),
        (with("retain_deleted = \"7d\""), vec!["retain_deleted", "did you mean `retainDeleted`?"]),
        (with("quota = \"none\""), vec!["quota", "kind `directory`", "`image`"]),
        (with("size = \"1GiB\""), vec!["size", "kind `sim`"]),
        (with("file = \"pool.img\""), vec!["file `pool.img`", "absolute path"]),
        (with("file = \"/a/../b\""), vec!["file `/a/../b`", "without `.` and `..`"]),
        (with("file = \"/f\"\ndevice = \"/dev/x\""), vec!["device", "remove this key or `file`"]),
        (with("device = 7"), vec!["device `7`", "in quotes"]),
        ("[[pool]]\nkind = \"image\"\npath = \"/p\"\n".to_owned(), vec!["[[pool]] 1: name: missing"]),
        ("[[pool]]\nname = \"A b\"\nkind = \"sim\"\n".to_owned(), vec!["name `A b`", "a-z"]),
        ("[[pool]]\nname = \"a\"\npath = \"/p\"\n".to_owned(), vec!["`a`: kind: missing", "\"image\""]),
        (
            "[[pool]]\nname = \"a\"\nkind = \"imagee\"\npath = \"/p\"\n".to_owned(),
            vec!["kind `imagee`", "did you mean `image`?"],
        ),
        ("[[pool]]\nname = \"a\"\nkind = \"image\"\n".to_owned(), vec!["path: missing"]),
        ("[[pool]]\nname = \"a\"\nkind = \"image\"\npath = \"/\"\n".to_owned(), vec!["path `/`", "not `/`"]),
        ("[[pool]]\nname = \"a\"\nkind = \"sim\"\npath = \"/p\"\n".to_owned(), vec!["path", "in memory"]),
        ("[[pool]]\nname = \"a\"\nkind = \"sim\"\nsize = -1\n".to_owned(), vec!["size `-1`", "20GiB"]),
        (
            "[[pool]]\nname = \"a\"\nkind = \"directory\"\npath = \"/p\"\nquota = \"projct\"\n".to_owned(),
            vec!["quota `projct`", "did you mean `project`?"],
        ),
        (format!("{image}{}", image.replace("/p", "/q")), vec!["name `a`", "another pool has it"]),
        (format!("{image}{}", image.replace("\"a\"", "\"b\"")), vec!["path `/p`", "pool `a` has it"]),
    ] {
        let said = refusal(&text);
        for word in words {
            assert!(said.contains(word), "`{word}` is missing for\n{text}\nin: {said}");
        }
    }
}

#[test]
fn all_mistakes_are_said_at_once() {
    let said = refusal("x = 1\n[[pool]]\nname = \"a\"\n[[pool]]\nkind = \"sim\"\n");
    assert_eq!(said.lines().count(), 3, "{said}");
}

#[test]
fn a_missing_file_is_named() {
    let error = config::read(&PathBuf::from("/there/is/no.toml")).unwrap_err().to_string();
    assert!(error.contains("/there/is/no.toml") && error.contains("pool init"), "{error}");
}

#[test]
fn an_added_pool_leaves_the_rest_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let before = "# Ours.\n[[pool]] # the first\nname = \"one\"   # odd   spacing\nkind = \"sim\"\n";
    let path = file(&dir, before);
    let two = PoolConfig {
        setup: setup("two", "/srv/two"),
        overcommit: 1.0,
        reserve: 0.05,
        retain: Retention::NONE,
    };
    config::add(&path, &two).unwrap();
    let after = std::fs::read_to_string(&path).unwrap();
    let entry = "\n[[pool]]\nname = \"two\"\nkind = \"directory\"\npath = \"/srv/two\"\nquota = \"none\"\n";
    assert_eq!(after, format!("{before}{entry}"));
    assert_eq!(config::read(&path).unwrap()[1], two);
    let again = config::add(&path, &two).unwrap_err().to_string();
    assert!(again.contains("name `two`"), "{again}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), after);
}

#[test]
fn the_first_pool_makes_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("etc/rockpool/config.toml");
    let one = PoolConfig {
        setup: setup("one", "/srv/one"),
        overcommit: 1.0,
        reserve: 0.05,
        retain: Retention::NONE,
    };
    config::add(&path, &one).unwrap();
    assert_eq!(config::read(&path).unwrap(), [one]);
    assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "a temporary file was left");
}
