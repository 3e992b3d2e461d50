//! Rules about the text of files: citations, length, paths of machines, `unsafe`, and panics on purpose.

use super::source::{Source, find_words, is_word, line_of};

/// The longest a file may be, in lines.
const MAXIMUM_LINES: usize = 700;

/// Where `unsafe` may be.
const UNSAFE_FILES: [&str; 2] = ["src/daemon/sys.rs", "integration/src/sys.rs"];

/// `unsafe` outside the two files that have it.
pub(crate) fn unsafe_code(source: &Source) -> Vec<(usize, String)> {
    if UNSAFE_FILES.contains(&source.path.as_str()) {
        return Vec::new();
    }
    let code = &source.code;
    let words = find_words(code, "unsafe");
    words.map(|at| (line_of(code, at), format!("`unsafe` belongs into {}", UNSAFE_FILES.join(" or ")))).collect()
}

/// What panics when something comes that was not expected.
pub(crate) fn panics(source: &Source) -> Vec<(usize, String)> {
    let code = &source.production;
    let calls = ["unwrap", "expect", "unwrap_err", "expect_err"].into_iter().flat_map(|word| {
        find_words(code, word).filter(move |at| {
            let method = code[..*at].trim_end().ends_with('.');
            method && code[*at + word.len()..].trim_start().starts_with('(')
        })
    });
    let macros = ["panic", "todo", "unimplemented"]
        .into_iter()
        .flat_map(|word| find_words(code, word).filter(move |at| code[*at + word.len()..].starts_with('!')));
    let all = calls.chain(macros);
    all.map(|at| (line_of(code, at), "outside tests nothing may panic on purpose: return an error".to_owned()))
        .collect()
}

/// Files too long to be read at once.
pub(crate) fn length(text: &str) -> Vec<(usize, String)> {
    let lines = text.lines().count();
    if lines > MAXIMUM_LINES {
        return vec![(MAXIMUM_LINES, format!("{lines} lines, {MAXIMUM_LINES} are allowed: make two files of it"))];
    }
    Vec::new()
}

/// Paths of the machines where this was written.
pub(crate) fn machine_paths(text: &str) -> Vec<(usize, String)> {
    // In pieces, so that this file does not name them.
    let roots = [["/wo", "rk/"], ["/ro", "ot/"], ["/tmp/", "kage"]].map(|pieces| pieces.concat());
    let mut wrong = Vec::new();
    for root in &roots {
        for (at, _) in text.match_indices(root.as_str()) {
            // A directory of that name below another one is not meant.
            let before = text[..at].chars().next_back();
            if !before.is_some_and(|c| is_word(c) || c == '.' || c == '}' || c == '-') {
                wrong.push((line_of(text, at), format!("{root} is a path of one machine")));
            }
        }
    }
    wrong
}

/// Citations of RFCs that are not written as `RFC 6275 §11.7.1`.
pub(crate) fn citations(text: &str) -> Vec<(usize, String)> {
    let mut wrong = Vec::new();
    let lower = text.to_ascii_lowercase();
    let mut note = |at: usize, what: &str| {
        let line = text[at..].lines().next().unwrap_or_default();
        let shown: String = line.chars().take(24).collect();
        wrong.push((line_of(text, at), format!("{what}: {shown:?}; write it as `RFC 6275 §11.7.1`")));
    };
    for (at, _) in lower.match_indices("rfc") {
        if text[..at].chars().next_back().is_some_and(|c| is_word(c) || c == '/') {
            continue; // an identifier or an address of a document
        }
        check_citation(text, at, &mut note);
    }
    for word in ["section", "sections", "sec.", "clause"] {
        for (at, _) in lower.match_indices(word) {
            let alone = !text[..at].chars().next_back().is_some_and(is_word);
            let number = lower[at + word.len()..].trim_start_matches(' ');
            let spaced = number.len() < lower[at + word.len()..].len() || word == "sec.";
            if alone && spaced && is_section_number(number) {
                note(at, "a section is cited with §");
            }
        }
    }
    for (at, sign) in text.match_indices('§') {
        let next = text[at + sign.len()..].chars().next();
        if !next.is_some_and(|c| c.is_ascii_alphanumeric() || c == '`' || c == '{' || c == '"' || c == '\'') {
            note(at, "no space or other sign follows §");
        }
    }
    wrong
}

fn is_section_number(text: &str) -> bool {
    // "section 3.1" cites; "the section 3 lines above" is not worth telling apart.
    text.starts_with(|c: char| c.is_ascii_digit())
}

/// The words "RFC" at `at`, whatever their case.
fn check_citation(text: &str, at: usize, note: &mut dyn FnMut(usize, &str)) {
    let after = &text[at + 3..];
    let number = after.trim_start_matches([' ', '-', '_', '\u{a0}']);
    let digits = number.len() - number.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    if digits == 0 {
        return; // "the RFC's own words", "rfc-editor"
    }
    let behind = &number[digits..];
    let name_goes_on = behind.starts_with(['(', '-', '_']) || behind.starts_with("esp(");
    if text[at..].starts_with("rfc") && number.len() == after.len() && name_goes_on {
        return; // rfc4106(gcm(aes)) is a name of the kernel, rfc6275-11.7.1-name and rfc6275_name those of tests
    }
    if text[..at].ends_with('[') && behind.starts_with(']') {
        return; // "AES-CBC [RFC3602]" is tshark's name of an algorithm
    }
    let separator = &after[..after.len() - number.len()];
    if !text[at..].starts_with("RFC") || separator != " " {
        return note(at, "an RFC is cited as \"RFC\", one space and its number");
    }
    let rest = behind.trim_start_matches([' ', ',', ';']);
    let lower = rest.to_ascii_lowercase();
    let worded = ["section", "sec.", "sect", "chapter", "clause", "s."].iter().any(|word| {
        lower
            .strip_prefix(word)
            .is_some_and(|number| number.trim_start_matches(['s', ' ']).starts_with(|c: char| c.is_ascii_digit()))
    });
    let spaces = behind.len() - behind.trim_start_matches(' ').len();
    let bare = behind.starts_with([' ', ',']) && dotted_number(rest);
    let joined = rest.starts_with('§') && (spaces != 1 || !behind.trim_start_matches(' ').starts_with('§'));
    if worded || bare || joined {
        note(at, "a section follows the number of its RFC as \" §\" and its number");
    }
}

/// Whether `text` begins with something like 11.7.1.
fn dotted_number(text: &str) -> bool {
    let number: String = text.chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect();
    number.trim_end_matches('.').contains('.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unsafe_outside_its_files_is_found() {
        let count = |path: &str, text: &str| unsafe_code(&Source::new(path, text)).len();
        assert_eq!(count("src/daemon/tap.rs", "fn f() { unsafe { g() } }"), 1);
        assert_eq!(count("integration/src/main.rs", "unsafe extern \"C\" {}\nunsafe impl Send for X {}"), 2);
        assert_eq!(count("src/daemon/sys.rs", "fn f() { unsafe { g() } }"), 0);
        assert_eq!(count("src/daemon/tap.rs", "fn unsafely() {} // unsafe"), 0);
    }

    #[test]
    fn panics_outside_tests_are_found() {
        let count = |text: &str| panics(&Source::new("src/x.rs", text)).len();
        for text in ["fn f() { x.unwrap() }", "x\n    .expect( \"y\")", "panic!(\"no\")", "todo!()", "x.unwrap_err ()"]
        {
            assert_eq!(count(text), 1, "{text}");
        }
        for text in [
            "x.unwrap_or(1); x.unwrap_or_default(); expect(1)",
            "#[cfg(test)]\nmod tests { fn f() { x.unwrap() } }",
            "/// x.unwrap()\nfn f() { \".expect(\"; }",
        ] {
            assert_eq!(count(text), 0, "{text}");
        }
    }

    #[test]
    fn long_files_are_found() {
        assert_eq!(length(&"\n".repeat(700)).len(), 0);
        assert_eq!(length(&"\n".repeat(701)).len(), 1);
    }

    #[test]
    fn machine_paths_are_found() {
        for text in [["\"/wo", "rk/x\""], ["cd /ro", "ot/"], ["(/tmp/", "kage)"]].map(|pieces| pieces.concat()) {
            assert_eq!(machine_paths(&text).len(), 1, "{text}");
        }
        let below = ["{directory}/wo", "rk/ target/wo", "rk/ /tmp/other"].concat();
        assert_eq!(machine_paths(&below).len(), 0);
    }

    #[test]
    fn citations_of_another_form_are_found() {
        for text in [
            "RFC6275",
            "RFC-6275 §6.1",
            "rfc 6275",
            "rfc6275 says",
            "Rfc 6275",
            "RFC  6275",
            "RFC 6275 11.7.1",
            "RFC 6275, 11.7.1",
            "RFC 6275§11.7",
            "RFC 6275, §11.7",
            "RFC 6275 § 11.7",
            "as section 11.7 has it",
            "Section 6.1.7",
        ] {
            assert_eq!(citations(text).len(), 1, "{text}");
        }
        // Wrong twice.
        assert_eq!(citations("RFC 6275, Section 11.7").len(), 2);
        for text in [
            "RFC 6275 §11.7.1",
            "RFC 6275 §11.7.1, §11.7.2; RFC 4861 §7.1.1.",
            "(RFC 4291, appendix A)",
            "RFC 3776 and RFC 4877",
            "RFC 6275. 3 of them",
            "the RFC's own terms; the RFCs",
            "rfc4106(gcm(aes))",
            "rfc7539esp(chacha20,poly1305)",
            "fn rfc6275_example() {}",
            "https://www.rfc-editor.org/rfc/rfc6275",
            "AES-CBC [RFC3602]",
            "this section describes 3 things",
        ] {
            assert_eq!(citations(text), [], "{text}");
        }
    }
}
