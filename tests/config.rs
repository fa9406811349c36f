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

/// kubelet shows a file of a ConfigMap as a link to a link, which changes as a whole.
#[test]
fn a_file_is_read_and_written_where_its_links_lead() {
    use std::os::unix::fs::symlink;
    let dir = tempfile::tempdir().unwrap();
    let real = dir.path().join("..2026_11_22");
    std::fs::create_dir(&real).unwrap();
    std::fs::write(real.join("config.toml"), "[[pool]]\nname = \"a\"\nkind = \"sim\"\n").unwrap();
    symlink("..2026_11_22", dir.path().join("..data")).unwrap();
    let shown = dir.path().join("config.toml");
    symlink("..data/config.toml", &shown).unwrap();
    assert_eq!(config::read(&shown).unwrap().len(), 1);
    let pool = PoolConfig { setup: setup("b", "/x"), overcommit: 1.0, reserve: 0.0, retain: Retention::NONE };
    config::add(&shown, &pool).unwrap();
    assert!(std::fs::symlink_metadata(&shown).unwrap().is_symlink());
    assert_eq!(config::read(&real.join("config.toml")).unwrap().len(), 2);
    symlink("nowhere", dir.path().join("dangling.toml")).unwrap();
    let said = config::read(&dir.path().join("dangling.toml")).unwrap_err().to_string();
    assert!(said.contains("there is no such file"), "{said}");
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

/// The pools of a node, each with its place.
fn pools_of(text: &str, node: &str, labels: &[&str]) -> Vec<(String, PathBuf)> {
    let dir = tempfile::tempdir().unwrap();
    let labels: Vec<String> = labels.iter().map(|label| (*label).to_owned()).collect();
    let here = config::Here::new(node.to_owned(), &labels).unwrap();
    let pools = config::read_as(&file(&dir, text), &here).unwrap().all;
    pools.into_iter().map(|pool| (pool.setup.name, pool.setup.device.unwrap_or(pool.setup.path))).collect()
}

const EVERYWHERE: &str =
    "[[pool]]\nname = \"fast\"\nkind = \"image\"\npath = \"/fast\"\nfile = \"/fast.img\"\n";

#[test]
fn an_override_changes_the_pool_of_the_nodes_that_it_names_and_of_no_other() {
    let text =
        format!("{EVERYWHERE}[[override]]\nnode = [\"a\", \"b\"]\npool = \"fast\"\ndevice = \"/dev/x\"\n");
    for node in ["a", "b"] {
        // A device takes the place of the file.
        assert_eq!(pools_of(&text, node, &[]), [("fast".to_owned(), PathBuf::from("/dev/x"))]);
    }
    assert_eq!(pools_of(&text, "c", &[]), [("fast".to_owned(), PathBuf::from("/fast"))]);
}

#[test]
fn an_override_by_label_wants_all_its_labels_and_the_last_one_counts() {
    let text = format!(
        "{EVERYWHERE}[[override]]\nlabel = {{ disk = \"nvme\", zone = \"a\" }}\npool = \"fast\"\ndevice = \"/dev/x\"\n\
         [[override]]\nnode = \"special\"\npool = \"fast\"\ndevice = \"/dev/y\"\n"
    );
    let device = |node, labels: &[&str]| pools_of(&text, node, labels)[0].1.clone();
    assert_eq!(device("n", &["disk=nvme", "zone=a", "more=x"]), PathBuf::from("/dev/x"));
    assert_eq!(device("n", &["disk=nvme"]), PathBuf::from("/fast"));
    assert_eq!(device("n", &["disk=nvme", "zone=b"]), PathBuf::from("/fast"));
    assert_eq!(device("special", &["disk=nvme", "zone=a"]), PathBuf::from("/dev/y"));
}

#[test]
fn an_override_takes_a_pool_away_or_adds_one() {
    let text = format!(
        "{EVERYWHERE}[[override]]\nnode = \"a\"\npool = \"fast\"\nabsent = true\n\
         [[override]]\nnode = \"a\"\npool = \"big\"\nkind = \"directory\"\npath = \"/big\"\n"
    );
    assert_eq!(pools_of(&text, "a", &[]), [("big".to_owned(), PathBuf::from("/big"))]);
    assert_eq!(pools_of(&text, "b", &[]).len(), 1);
}

#[test]
fn overrides_may_leave_a_node_without_a_pool_and_are_named_and_nothing_else_may() {
    let absent = format!(
        "{EVERYWHERE}[[override]]\nnode = \"b\"\npool = \"fast\"\nreserve = 0\n\
         [[override]]\nnode = \"a\"\npool = \"fast\"\nabsent = true\n"
    );
    let foreign = "[[override]]\nnode = \"b\"\npool = \"toy\"\nkind = \"sim\"\n";
    let dir = tempfile::tempdir().unwrap();
    let read = |text: &str, node: &str| {
        let here = config::Here::new(node.to_owned(), &[]).unwrap();
        config::read_as(&file(&dir, text), &here)
    };
    let none = read(&absent, "a").unwrap();
    assert_eq!(none.why_none().unwrap(), "[[override]] 2 makes pool `fast` absent");
    for pools in [read(&absent, "b"), read(foreign, "b")] {
        let pools = pools.unwrap();
        assert_eq!((pools.all.len(), pools.why_none()), (1, None));
    }
    let taken_elsewhere = format!("{foreign}[[override]]\nnode = \"a\"\npool = \"toy\"\nabsent = true\n");
    for text in [foreign, &taken_elsewhere] {
        let said = read(text, "a").unwrap_err().to_string();
        assert!(said.contains("it has no [[pool]] entry"), "{said}");
    }
}

#[test]
fn a_pool_of_some_nodes_may_be_made_of_several_overrides() {
    let text = format!(
        "{EVERYWHERE}[[override]]\nnode = \"a\"\npool = \"big\"\nquota = \"none\"\n\
         [[override]]\nlabel = {{ size = \"big\" }}\npool = \"big\"\nkind = \"directory\"\npath = \"/big\"\n"
    );
    assert_eq!(pools_of(&text, "a", &["size=big"])[1], ("big".to_owned(), PathBuf::from("/big")));
    assert_eq!(pools_of(&text, "b", &[]).len(), 1);
}

#[test]
fn what_is_wrong_with_an_override_is_said_on_every_node() {
    let both = "both absent and file, reserve: want either no such pool";
    for (entry, want) in [
        ("pool = \"fast\"", "[[override]] 1: it concerns no node"),
        ("node = \"a\"\nlabel = { a = \"b\" }\npool = \"fast\"", "[[override]] 1: both node and label"),
        ("node = 3\npool = \"fast\"", "[[override]] 1: node: want either node"),
        ("node = []\npool = \"fast\"", "[[override]] 1: node: want either node"),
        ("label = {}\npool = \"fast\"", "[[override]] 1: label: want either node"),
        ("label = { a = 1 }\npool = \"fast\"", "[[override]] 1: label: want either node"),
        ("node = \"a\"", "[[override]] 1: pool: want the name"),
        ("node = \"a\"\npool = \"fast\"\ndevic = \"/x\"", "devic: unknown key (did you mean `device`?)"),
        ("node = \"a\"\npool = \"fast\"\nname = \"slow\"", "name: unknown key"),
        ("node = \"a\"\npool = \"fast\"\nabsent = false", "absent: want true"),
        ("node = \"a\"\npool = \"fast\"\nabsent = true\nreserve = 0\nfile = \"/x\"", both),
        (
            "node = [\"a\", \"b c\"]\npool = \"fast\"",
            "[[override]] 1: node id `b c`: want at most 63 letters",
        ),
        ("node = \"a\"\npool = \"fsat\"", "pool `fsat`: the file has no such pool (did you mean `fast`?)"),
        ("node = \"a\"\npool = \"fsat\"\nabsent = true", "pool `fsat`: the file has no such pool"),
        (
            "node = \"a\"\npool = \"Big\"\nkind = \"sim\"",
            "[[override]] 1: pool `Big`: want at most 63 of a-z",
        ),
        ("node = \"a\"\npool = \"fast\"\novercommit = 0.5", "overcommit `0.5`: want a number from 1.0"),
        ("node = \"a\"\npool = \"fast\"\nreserve = \"x\"", "[[override]] 1: reserve `x`: want a number"),
        ("node = \"a\"\npool = \"fast\"\ndevice = 7", "[[override]] 1: device `7`: want a text in quotes"),
        ("node = \"a\"\npool = \"fast\"\npath = \"x\"", "[[override]] 1: path `x`: want an absolute path"),
        ("node = \"a\"\npool = \"fast\"\nkind = \"imagee\"", "kind `imagee`: want \"image\""),
        ("node = \"a\"\npool = \"fast\"\nquota = \"projct\"", "quota `projct`: want \"project\""),
        ("node = \"a\"\npool = \"fast\"\nsize = -1", "size `-1`: want a number of bytes"),
        ("node = \"a\"\npool = \"fast\"\nretainDeleted = \"soon\"", "retainDeleted `soon`: want a text"),
        (
            "label = { a = \"b\" }\npool = \"fast\"\nfile = \"/x\"\ndevice = \"/y\"",
            "remove this key or `file`",
        ),
    ] {
        let said = refusal(&format!("{EVERYWHERE}[[override]]\n{entry}\n"));
        assert!(said.contains(want) && said.lines().count() == 1, "{entry}: {said}");
    }
    assert!(refusal(&format!("override = 3\n{EVERYWHERE}")).contains("want [[override]] entries"));
    for (labels, want) in [("x", "want KEY=VALUE"), ("=x", "with a key")] {
        let said = config::Here::new("a".into(), &[labels.to_owned()]).unwrap_err().to_string();
        assert!(said.contains("--node-label") && said.contains(want), "{said}");
    }
    assert!(config::Here::new("a".into(), &["a=b".into(), "a=c".into()]).is_err());
}
