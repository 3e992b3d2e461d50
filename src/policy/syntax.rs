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
        return match nearest(unknown, &known) {
            Some(nearest) => diagnostic.help(format!("did you mean `{nearest}`? {known_here}")),
            None => diagnostic.help(known_here),
        };
    }
    if message.starts_with("invalid type") {
        let help = "texts are written in quotes (\"…\"), numbers and true/false without, tables in braces ({ … }) or under a \
                    [heading]";
        return Diagnostic::new(source, span, &key, message).help(help);
    }
    Diagnostic::new(source, span, &key, format!("not TOML: {message}")).help(syntax_help(message))
}

fn syntax_help(message: &str) -> &'static str {
    if message.contains("duplicate key") {
        "a key or [table] stands once; further guests each begin with their own [[guest]]"
    } else {
        "the form of the file is TOML, https://toml.io; policies/ha.toml shows every field"
    }
}

/// The path of keys down to the error; the reader gives it in its `Display` only, as a last line ``in `a.b` ``.
fn key_path(error: &toml::de::Error) -> String {
    let text = error.to_string();
    let path = text.lines().rev().find_map(|line| line.strip_prefix("in `")?.strip_suffix('`').map(str::to_owned));
    path.unwrap_or_default()
}

/// Takes serde's ``unknown field `x`, expected one of `a`, `b` `` apart.
fn unknown_key(message: &str) -> Option<(&str, Vec<&str>)> {
    let (unknown, rest) = message.strip_prefix("unknown field `")?.split_once("`, expected ")?;
    Some((unknown, rest.split('`').skip(1).step_by(2).collect()))
}

/// The known word that is at most two slips away.
pub(super) fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    if word.len() > 64 {
        return None;
    }
    let word = word.to_lowercase().replace('-', "_");
    let distances = known.iter().map(|known| (distance(&word, &known.replace('-', "_")), *known));
    distances.filter(|(distance, known)| *distance <= 2.min(known.len() / 2)).min().map(|(_, known)| known)
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
        assert_eq!(nearest("adress", &known), Some("address"));
        assert_eq!(nearest("home-link", &known), Some("home_link"));
        assert_eq!(nearest("port", &known), None);
        assert_eq!(distance("kitten", "sitting"), 3);
    }
}
