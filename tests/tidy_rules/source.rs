//! Enough of Rust's grammar to read a source file for its rules: what is code, what is a comment or a literal, which paths are named, and
//! what is compiled for tests only.

/// A source file.
pub(crate) struct Source {
    /// Path from the repository's root, with `/`.
    pub(crate) path: String,
    /// Its text with comments and the contents of literals blanked; lines and columns stay.
    pub(crate) code: String,
    /// `code` with items under `#[cfg(test)]` blanked.
    pub(crate) production: String,
}

impl Source {
    pub(crate) fn new(path: &str, text: &str) -> Self {
        let code = blank_comments_and_literals(text);
        let production = blank_tests(&code);
        Self { path: path.to_owned(), code, production }
    }

    /// The modules that this file declares for tests only, in files of their own (`#[cfg(test)] mod name;`).
    pub(crate) fn test_modules(&self) -> Vec<String> {
        let declared = |code: &str| {
            let words: Vec<&str> = code.split_inclusive(';').collect();
            let names = words.iter().filter_map(|statement| {
                let before = statement.strip_suffix(';')?.trim_end();
                let name = before.rsplit(|c: char| !is_word(c)).next()?;
                let rest = before.strip_suffix(name)?.trim_end();
                (rest.ends_with("mod") && !name.is_empty()).then(|| name.to_owned())
            });
            names.collect::<Vec<_>>()
        };
        let production = declared(&self.production);
        declared(&self.code).into_iter().filter(|name| !production.contains(name)).collect()
    }
}

pub(crate) fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The line of a byte offset, from 1.
pub(crate) fn line_of(text: &str, offset: usize) -> usize {
    text[..offset].matches('\n').count() + 1
}

/// Where `word` stands alone in `code`: not as a part of a longer identifier.
pub(crate) fn find_words<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    code.match_indices(word).map(|(at, _)| at).filter(move |at| {
        let before = code[..*at].chars().next_back();
        let after = code[*at + word.len()..].chars().next();
        !before.is_some_and(is_word) && !after.is_some_and(is_word)
    })
}

fn blank(text: &mut [u8]) {
    for octet in text {
        if *octet != b'\n' {
            *octet = b' ';
        }
    }
}

fn blank_comments_and_literals(text: &str) -> String {
    let mut out = text.as_bytes().to_vec();
    let mut at = 0;
    while at < text.len() {
        let rest = &text[at..];
        let length = match skipped(rest, text[..at].chars().next_back()) {
            Some(length) => {
                blank(&mut out[at..at + length]);
                length
            }
            None => rest.chars().next().map_or(1, char::len_utf8),
        };
        at += length;
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// The length of the comment or literal that `rest` begins with.
fn skipped(rest: &str, before: Option<char>) -> Option<usize> {
    if rest.starts_with("//") {
        return Some(rest.find('\n').unwrap_or(rest.len()));
    }
    if rest.starts_with("/*") {
        return Some(block_comment(rest));
    }
    if rest.starts_with('"') {
        return Some(quoted(rest, '"'));
    }
    if !before.is_some_and(is_word) {
        let raw = ["br", "cr", "r"].iter().find_map(|prefix| raw_string(rest, prefix));
        if raw.is_some() {
            return raw;
        }
    }
    if rest.starts_with('\'') {
        let mut characters = rest.chars().skip(1);
        let (first, second) = (characters.next(), characters.next());
        // 'a' and '\n' are literals, 'a alone is a lifetime.
        return (first == Some('\\') || second == Some('\'')).then(|| quoted(rest, '\''));
    }
    None
}

fn block_comment(rest: &str) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < rest.len() {
        if rest.as_bytes()[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest.as_bytes()[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    rest.len()
}

fn quoted(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return at + c.len_utf8(),
            _ => {}
        }
    }
    rest.len()
}

fn raw_string(rest: &str, prefix: &str) -> Option<usize> {
    let after = rest.strip_prefix(prefix)?;
    let hashes = after.len() - after.trim_start_matches('#').len();
    let body = after[hashes..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    let opening = prefix.len() + hashes + 1;
    Some(body.find(&end).map_or(rest.len(), |at| opening + at + end.len()))
}

fn blank_tests(code: &str) -> String {
    const ATTRIBUTE: &str = "#[cfg(test)]";
    let mut out = code.as_bytes().to_vec();
    let mut from = 0;
    while let Some(at) = code[from..].find(ATTRIBUTE).map(|at| from + at) {
        let end = item_end(code, at + ATTRIBUTE.len());
        blank(&mut out[at..end]);
        from = end;
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Where the item that begins at `from` ends: at a `;` outside brackets, or behind its closing brace.
fn item_end(code: &str, from: usize) -> usize {
    let mut depth = 0;
    for (at, c) in code[from..].char_indices() {
        match c {
            '{' | '(' | '[' => depth += 1,
            ')' | ']' => depth -= 1,
            '}' => {
                depth -= 1;
                if depth == 0 {
                    return from + at + 1;
                }
            }
            ';' if depth == 0 => return from + at + 1,
            _ => {}
        }
    }
    code.len()
}

/// A path named in code, with the line where it begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NamedPath {
    pub(crate) line: usize,
    pub(crate) segments: Vec<String>,
}

/// Every path in `code` (comments and literals blanked): those of `use` declarations with their braces spread out, and those written in place.
/// Single identifiers in place are left out.
pub(crate) fn paths(code: &str) -> Vec<NamedPath> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < code.len() {
        let rest = &code[at..];
        let Some(first) = rest.chars().next() else { break };
        let before = code[..at].chars().next_back();
        if !is_word(first) || before.is_some_and(is_word) {
            at += first.len_utf8();
            continue;
        }
        let line = line_of(code, at);
        if word_at(rest) == "use" {
            let end = rest.find(';').unwrap_or(rest.len());
            spread(&rest["use".len()..end], &[], &mut |segments| found.push(NamedPath { line, segments }));
            at += end;
            continue;
        }
        let (segments, length) = path_at(rest);
        if segments.len() > 1 {
            found.push(NamedPath { line, segments });
        }
        at += length;
    }
    found
}

fn word_at(text: &str) -> &str {
    let end = text.find(|c| !is_word(c)).unwrap_or(text.len());
    &text[..end]
}

fn path_at(text: &str) -> (Vec<String>, usize) {
    let mut segments = Vec::new();
    let mut at = 0;
    loop {
        let word = word_at(&text[at..]);
        segments.push(word.to_owned());
        at += word.len();
        let rest = &text[at..];
        let spaces = rest.len() - rest.trim_start().len();
        let Some(after) = rest.trim_start().strip_prefix("::") else { return (segments, at) };
        let more = after.len() - after.trim_start().len();
        if !after.trim_start().starts_with(is_word) {
            return (segments, at);
        }
        at += spaces + 2 + more;
    }
}

/// Spreads a use tree out into its paths.
fn spread(tree: &str, prefix: &[String], found: &mut dyn FnMut(Vec<String>)) {
    let tree = tree.trim().trim_start_matches("::");
    if tree.is_empty() {
        return;
    }
    if let Some(inner) = tree.strip_prefix('{') {
        let inner = inner.strip_suffix('}').unwrap_or(inner);
        for part in split_at_commas(inner) {
            spread(part, prefix, found);
        }
        return;
    }
    match tree.split_once("::") {
        Some((segment, rest)) if !segment.contains('{') => {
            let prefix = [prefix, &[segment.trim().to_owned()]].concat();
            spread(rest, &prefix, found);
        }
        _ => {
            let name = tree.split_whitespace().next().unwrap_or_default();
            found([prefix, &[name.to_owned()]].concat());
        }
    }
}

fn split_at_commas(tree: &str) -> Vec<&str> {
    let mut depth = 0;
    tree.split(move |c| {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        c == ',' && depth == 0
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_no_code() {
        let text = "let a = \"tokio \\\" nix\"; // libc\n/* a /* b */ c */ let b = 'x'; let c = r#\"q\" unsafe\"#; fn f<'a>(x: &'a str) {} '\\''";
        let source = Source::new("x.rs", text);
        for word in ["tokio", "nix", "libc", "unsafe", "x'"] {
            assert_eq!(source.code.find(word), None, "{word} in {}", source.code);
        }
        assert_eq!(source.code.len(), text.len());
        assert!(source.code.contains("fn f<'a>(x: &'a str) {}") && source.code.contains("let b ="));
    }

    #[test]
    fn test_items_are_not_production() {
        let text = "fn a() { b() }\n#[cfg(test)]\nmod tests { fn t() { x[0].unwrap(); { } } }\nfn c() {}\n#[cfg(test)]\nuse z::y;\nfn d() {}";
        let source = Source::new("x.rs", text);
        assert!(!source.production.contains("unwrap") && !source.production.contains("z::y"));
        assert!(["fn a", "fn c", "fn d"].iter().all(|f| source.production.contains(f)), "{}", source.production);
        let source = Source::new("x.rs", "mod a;\n#[cfg(test)]\nmod support;\npub mod b;");
        assert_eq!(source.test_modules(), ["support"]);
    }

    #[test]
    fn use_trees_are_spread_out() {
        let code = "pub use crate::{a::{self, B as C}, d::*};\nfn f() { std::fs ::read(x); y.z(); Vec::<u8>::new() }";
        let found: Vec<String> = paths(code).iter().map(|path| path.segments.join("::")).collect();
        assert_eq!(found, ["crate::a::self", "crate::a::B", "crate::d::*", "std::fs::read"]);
        assert_eq!(paths(code)[3].line, 2);
    }
}
