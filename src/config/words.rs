//! A suggestion for a misspelt word.

/// ` (did you mean ...?)` where a known word is close, else nothing.
pub(super) fn closest(word: &str, known: &[&str]) -> String {
    let near = known.iter().map(|one| (distance(word, one), one)).min();
    match near {
        Some((steps, one)) if steps <= 2 && steps < one.len() => format!(" (did you mean `{one}`?)"),
        Some(_) | None => String::new(),
    }
}

/// How many letters must be added, dropped or changed to get from one word to the other.
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    // A key is short; what is longer is no misspelling.
    for (i, a) in from.chars().take(64).enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in to.iter().enumerate() {
            let changed = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_recognised_and_another_word_is_not() {
        assert_eq!(closest("reserv", &["name", "reserve"]), " (did you mean `reserve`?)");
        assert_eq!(closest("encryption", &["name", "reserve"]), "");
    }
}
