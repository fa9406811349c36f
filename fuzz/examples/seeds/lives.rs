//! Small lives for the target `operations`, each broken at every verb of the pool that its calls ask for.
//!
//! Owns: how a step is written in the fuzzer's bytes, the inverse of what `arbitrary` derives for `operations::plan`. These are kept
//! whatever they reach: coverage does not tell a crash before a verb's work from one after it.

/// A fault after fewer verbs than this may strike.
const VERBS: u8 = 8;
/// As `Call` and `How` have them.
const CALLS: u32 = 15;
const HOWS: [&str; 4] = ["host", "full", "crash-before", "crash-after"];

/// One step's call, without its mishap.
type Call = Vec<u8>;

/// The inputs, by name.
pub(crate) fn all() -> Vec<(String, Vec<u8>)> {
    let mut lives = Vec::new();
    for (name, life) in [
        ("create", create as fn(u8) -> [Vec<Call>; 3]),
        ("delete", delete),
        ("expand", expand),
        ("cut", cut),
        ("delete-cut", delete_cut),
        ("group", group),
        ("delete-group", delete_group),
        ("restore", restore),
        ("restore-group", restore_group),
        ("purge", purge),
    ] {
        for (how, told) in (0_u8..).zip(HOWS) {
            let bytes = (0..VERBS).flat_map(|after| {
                let [before, broken, behind] = life(after);
                let quiet = |calls: Vec<Call>| calls.into_iter().flat_map(|call| [call, vec![0]].concat());
                let broken = broken.into_iter().flat_map(move |call| [call, mishap(after, how)].concat());
                quiet(before).chain(broken).chain(quiet(behind)).collect::<Vec<u8>>()
            });
            lives.push((format!("{name}-{told}"), bytes.collect()));
        }
    }
    lives
}

/// A fault in the pool `fast`, after so many verbs; the driver starts anew.
fn mishap(after: u8, how: u8) -> Vec<u8> {
    [&[1][..], &variant(0, 2), &[after], &variant(how.into(), 4), &variant(1, 2)].concat()
}

/// The number of a variant is the high part of four bytes.
fn variant(number: u32, of: u32) -> [u8; 4] {
    let least = (u64::from(number) << 32).div_ceil(u64::from(of));
    u32::try_from(least).expect("a fraction of it").to_le_bytes()
}

fn call(number: u32, fields: &[u8]) -> Call {
    [&variant(number, CALLS)[..], fields].concat()
}

/// A raw volume of one MiB in the pool `fast`.
fn make(name: u8, is_kept: bool) -> Call {
    let pool = [&[1][..], &variant(0, 2)].concat();
    call(0, &[&[name, 1, 0, 1][..], &pool, &[0, is_kept.into(), 0]].concat())
}

/// Objects have a number by their place among all of their sort that ever were; every round of a life makes as many.
fn create(round: u8) -> [Vec<Call>; 3] {
    [vec![], vec![make(round, false)], vec![call(1, &[round])]]
}

fn delete(round: u8) -> [Vec<Call>; 3] {
    [vec![make(0, false)], vec![call(1, &[round])], vec![]]
}

fn expand(round: u8) -> [Vec<Call>; 3] {
    let before = if round == 0 { vec![make(0, false)] } else { vec![] };
    [before, vec![call(2, &[0, round + 2, 0])], vec![]]
}

fn cut(round: u8) -> [Vec<Call>; 3] {
    let before = if round == 0 { vec![make(0, false), call(9, &[0, 7, 7])] } else { vec![] };
    [before, vec![call(3, &[round, 0, 0])], vec![call(4, &[round])]]
}

fn delete_cut(round: u8) -> [Vec<Call>; 3] {
    let mut before = if round == 0 { vec![make(0, false), call(9, &[0, 7, 7])] } else { vec![] };
    before.push(call(3, &[0, 0, 0]));
    [before, vec![call(4, &[round])], vec![]]
}

fn group(round: u8) -> [Vec<Call>; 3] {
    let before = if round == 0 { vec![make(0, false), make(1, false), call(9, &[0, 7, 7])] } else { vec![] };
    [before, vec![call(5, &[round, 0, 1, 0])], vec![call(6, &[round, 0])]]
}

fn delete_group(round: u8) -> [Vec<Call>; 3] {
    let mut before =
        if round == 0 { vec![make(0, false), make(1, false), call(9, &[0, 7, 7])] } else { vec![] };
    before.push(call(5, &[0, 0, 1, 0]));
    [before, vec![call(6, &[round, 0])], vec![]]
}

/// One volume that is deleted, kept and restored again and again.
fn restore(round: u8) -> [Vec<Call>; 3] {
    let before = if round == 0 { vec![make(0, true)] } else { vec![] };
    [[before, vec![call(1, &[0])]].concat(), vec![call(7, &[0, 0])], vec![]]
}

/// The same with a group of one; its member does not come back alone.
fn restore_group(round: u8) -> [Vec<Call>; 3] {
    let mut before = if round == 0 { vec![make(0, false), call(5, &[0, 0, u8::MAX, 1])] } else { vec![] };
    before.extend([call(6, &[0, 0]), call(7, &[1, 0])]);
    [before, vec![call(7, &[2, 0])], vec![]]
}

fn purge(round: u8) -> [Vec<Call>; 3] {
    [vec![make(0, true), call(1, &[round])], vec![call(8, &[round])], vec![]]
}
