//! The driver's last log lines, made fit for a bug report.
//!
//! Owns: which words of a line are names of users' things. Never: keeps a word of which that is not certain.

use serde_json::Value;

use super::checksum;
use crate::model::ObjectId;

/// Lines as the driver keeps them, one JSON object each. Whatever a message quotes is somebody's text unless it is one of our
/// ids or the name of a pool, and becomes a checksum; so does the name that a call is about.
pub(super) fn without_names(lines: &[String], pools: &[&str]) -> Vec<String> {
    lines.iter().map(|line| without_name(line, pools)).collect()
}

fn without_name(line: &str, pools: &[&str]) -> String {
    let Ok(Value::Object(mut fields)) = serde_json::from_str(line) else {
        return format!("{{\"message\":\"{} bytes that are no line of the log were left out\"}}", line.len());
    };
    for (key, value) in &mut fields {
        let Value::String(text) = value else { continue };
        *text = match key.as_str() {
            "id" | "name" if !text.is_empty() => shown(text, pools),
            _ => quotes(text, pools),
        };
    }
    Value::Object(fields).to_string()
}

/// A text whose quotations are checksums. One that was cut off in the middle has none left open.
fn quotes(text: &str, pools: &[&str]) -> String {
    let (mut told, mut rest) = (String::with_capacity(text.len()), text);
    while let Some((before, quoted)) = rest.split_once('`') {
        let end = end_of(quoted);
        told.push_str(before);
        told.push('`');
        told.push_str(&shown(&quoted[..end], pools));
        told.push('`');
        rest = quoted.get(end + 1..).unwrap_or_default();
    }
    told.push_str(rest);
    told
}

/// Where a quotation ends: at the first mark that is not escaped.
fn end_of(quoted: &str) -> usize {
    let mut escaped = false;
    let end = quoted.bytes().position(|byte| {
        let ends = byte == b'`' && !escaped;
        escaped = byte == b'\\' && !escaped;
        ends
    });
    end.unwrap_or(quoted.len())
}

fn shown(text: &str, pools: &[&str]) -> String {
    let ours = text.parse::<ObjectId>().is_ok() || pools.contains(&text);
    if ours { text.to_owned() } else { checksum(text) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::quoted;

    #[test]
    fn ids_and_pools_stay_and_every_quotation_goes() {
        let id = "v1.0a0102030405.0101010101010101";
        let hostile = quoted("bank`of`\\`england\\");
        let error = format!(
            "volume {} exists, {id} in pool `fast`, {hostile} of `{id}`, see `cut off",
            quoted("bank")
        );
        let line = serde_json::json!({ "level": "WARN", "method": "CreateVolume", "id": "bank", "error": error, "n": 1 });
        let told = without_names(&[line.to_string()], &["fast"]).remove(0);
        for gone in ["bank", "england", "of`", "cut off"] {
            assert!(!told.contains(gone), "{gone}: {told}");
        }
        let sum = checksum("bank");
        for stays in
            [&format!("volume `{sum}` exists, {id} in pool `fast`"), &format!("of `{id}`"), "CreateVolume"]
        {
            assert!(told.contains(stays), "{stays}: {told}");
        }
        let of_ours = serde_json::json!({ "id": id, "message": "" }).to_string();
        assert_eq!(without_names(&[of_ours.clone(), "no line".to_owned()], &[])[0], of_ours);
        assert!(!without_names(&["no line of bank".to_owned()], &[])[0].contains("bank"));
    }
}
