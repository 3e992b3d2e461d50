//! Turns the errors of the TOML reader into diagnostics.

use std::sync::Arc;

use super::report::{Diagnostic, Source};

/// The diagnostic for an error of the TOML reader.
pub(super) fn diagnose(source: &Arc<Source>, error: &toml::de::Error) -> Diagnostic {
    let span = error.span().unwrap_or(0..0);
    let message = error.message();
    let key = key_path(error);
    if let Some((unknown, known)) = unknown_key(message) {
        let path = if key.is_empty() || key.ends_with(unknown) { key } else { format!("{key}.{unknown}") };
        let diagnostic = Diagnostic::new(source, span, &path, format!("unknown key `{unknown}`"));
        let known_here = format!("known here: {}", known.join(", "));
        return match nearest(unknown, &known, 2) {
            Some(nearest) => diagnostic.help(format!("did you mean `{nearest}`? {known_here}")),
            None => diagnostic.help(known_here),
        };
    }
    if let Some((found, expected)) =
        message.strip_prefix("invalid type: ").and_then(|rest| rest.split_once(", expected "))
    {
        let help = match expected {
            "a sequence" => "write the name in double brackets, as in [[guest]]: there can be many",
            _ => {
                "texts are written in quotes (\"…\"), numbers and true/false without, tables in braces ({ … }) or under a [heading]"
            }
        };
        // Not the value where a key may stand.
        let secret = ["key", "key_file", "credential"].iter().any(|name| key.rsplit('.').next() == Some(name));
        let found = if secret { found.split('`').next().unwrap_or_default().trim_end() } else { found };
        let message = format!("expected {}, got {}", plain(expected), plain(found));
        return Diagnostic::new(source, span, &key, message).help(help);
    }
    if message == "duplicate key" {
        let help = "a key or [table] stands once; further guests each begin with their own [[guest]]";
        let message = format!("`{}` stands here a second time", source.excerpt(&span));
        return Diagnostic::new(source, span, &key, message).help(help);
    }
    let help = "the form of the file is TOML, https://toml.io; policies/ha.toml shows every field";
    Diagnostic::new(source, span, &key, format!("not TOML: {message}")).help(help)
}

/// The words of policy files for those of serde.
fn plain(words: &str) -> String {
    match words {
        "a string" => "a text".to_owned(),
        "a boolean" => "true or false".to_owned(),
        "i64" | "integer" | "floating point" => "a number".to_owned(),
        "map" | "a map" => "a table".to_owned(),
        "sequence" => "a list".to_owned(),
        "a sequence" => "a list of tables".to_owned(),
        _ if words.starts_with("struct ") => "a table".to_owned(),
        _ => words.replacen("string ", "the text ", 1).replacen("integer ", "the number ", 1),
    }
}

/// The path of keys down to the error. The reader gives it only in the `Display` of an error without input, as a last line
/// ``in `a.b` ``.
fn key_path(error: &toml::de::Error) -> String {
    let mut error = error.clone();
    error.set_input(None);
    let text = error.to_string();
    let path = text.lines().rev().find_map(|line| line.strip_prefix("in `")?.strip_suffix('`').map(str::to_owned));
    path.unwrap_or_default()
}

/// Takes serde's ``unknown field `x`, expected one of `a`, `b` `` apart.
fn unknown_key(message: &str) -> Option<(&str, Vec<&str>)> {
    let (unknown, rest) = message.strip_prefix("unknown field `")?.split_once("`, expected ")?;
    Some((unknown, rest.split('`').skip(1).step_by(2).collect()))
}

/// The known word that is at most `slips` away: letters left out, put in or taken for others.
pub(super) fn nearest<'a>(word: &str, known: &[&'a str], slips: usize) -> Option<&'a str> {
    if word.len() > 64 {
        return None;
    }
    let word = word.to_lowercase().replace('-', "_");
    let distances = known.iter().map(|known| (distance(&word, &known.replace('-', "_")), *known));
    distances.filter(|(distance, known)| *distance <= slips.min(known.len() / 2)).min().map(|(_, known)| known)
}

/// Levenshtein distance: insertions, deletions and substitutions.
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, l) in left.chars().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, r) in right.iter().enumerate() {
            let substituted = diagonal + usize::from(l != *r);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word() {
        let known = ["address", "home_link", "interface"];
        assert_eq!(nearest("adress", &known, 2), Some("address"));
        assert_eq!(nearest("home-link", &known, 2), Some("home_link"));
        assert_eq!(nearest("port", &known, 2), None);
        assert_eq!(distance("kitten", "sitting"), 3);
    }
}
