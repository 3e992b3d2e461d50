//! Whatever stands in a policy file, loading it ends in a policy or in a report that points into the file; never in a panic.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::path::Path;

use kagemusha::ipsec::SecretKey;
use kagemusha::policy::{self, KeyError, KeySource, Role};
use proptest::prelude::*;

/// One key for every path: right for one algorithm, wrong for the others.
struct Keys;

impl KeySource for Keys {
    fn read_key(&self, _path: &Path) -> Result<SecretKey, KeyError> {
        Ok(SecretKey::new(vec![0xa5; 32]))
    }
}

/// Files to make bad ones of.
const ORIGINALS: [&str; 5] = [
    include_str!("../policies/ha.toml"),
    include_str!("../policies/home-agent.toml"),
    include_str!("policies/good/everything.toml"),
    include_str!("policies/good/many-guests.toml"),
    include_str!("policies/good/aes-gcm.toml"),
];

/// What may be put into them.
const PIECES: [&str; 28] = [
    "\"",
    "'",
    "=",
    "[",
    "]",
    "[[",
    "]]",
    "{",
    "}",
    "\n",
    "\r",
    "\t",
    ",",
    ".",
    "#",
    "\\",
    "\"\"\"",
    "\u{0}",
    "\u{1b}",
    "ü",
    "\u{202e}",
    "-1",
    "99999999999999999999",
    "1e400",
    "true",
    "[[guest]]\n",
    "protect = \"none\"\n",
    "[[guest.security_association]]\n",
];

fn judge(text: &str) {
    for role in [Role::MobileNode, Role::HomeAgent] {
        let load = if role == Role::HomeAgent { policy::load_home_agent } else { policy::load_mobile_node };
        let result = load("policies/any.toml", text, &Keys);
        let lines = text.matches('\n').count() + 1;
        match &result {
            Ok(policy) => {
                assert_eq!(policy.role, role);
                assert!(!policy.guests.is_empty());
                for warning in &policy.warnings {
                    assert!((1..=lines).contains(&warning.line), "{warning}");
                }
            }
            Err(report) => {
                assert!(!report.diagnostics().is_empty());
                for one in report.diagnostics() {
                    assert!((1..=lines).contains(&one.line()) && one.column() >= 1, "{one:?}");
                }
                for text in [report.render(false), format!("{report:?}")] {
                    assert!(!text.contains('\u{1b}') && !text.contains('\0'), "terminal controls in {text:?}");
                }
                assert!(!report.render(true).is_empty());
            }
        }
        // Without keys there is nothing more to find wrong.
        let named = policy::key_files(role, "policies/any.toml", text);
        assert!(result.is_err() || named.is_ok());
    }
    let _ = policy::role_of(text);
}

/// One change of a text; the numbers choose among what is possible.
#[derive(Debug, Clone)]
enum Edit {
    Insert { at: prop::sample::Index, piece: &'static str },
    Delete { at: prop::sample::Index, length: usize },
    Repeat { line: prop::sample::Index, after: prop::sample::Index },
    Drop { line: prop::sample::Index },
    Replace { at: prop::sample::Index, with: char },
}

impl Edit {
    fn apply(&self, text: &str) -> String {
        let characters: Vec<char> = text.chars().collect();
        let mut lines: Vec<&str> = text.split_inclusive('\n').collect();
        if characters.is_empty() {
            return text.to_owned();
        }
        match self {
            Self::Insert { at, piece } => {
                let (before, after) = characters.split_at(at.index(characters.len()));
                before.iter().copied().chain(piece.chars()).chain(after.iter().copied()).collect()
            }
            Self::Delete { at, length } => {
                let at = at.index(characters.len());
                characters.iter().take(at).chain(characters.iter().skip(at + length)).collect()
            }
            Self::Repeat { line, after } => {
                let line = lines[line.index(lines.len())];
                lines.insert(after.index(lines.len()), line);
                lines.concat()
            }
            Self::Drop { line } => {
                lines.remove(line.index(lines.len()));
                lines.concat()
            }
            Self::Replace { at, with } => {
                let mut characters = characters;
                let at = at.index(characters.len());
                characters[at] = *with;
                characters.into_iter().collect()
            }
        }
    }
}

fn edit() -> impl Strategy<Value = Edit> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        (index(), prop::sample::select(&PIECES[..])).prop_map(|(at, piece)| Edit::Insert { at, piece }),
        (index(), 1usize..20).prop_map(|(at, length)| Edit::Delete { at, length }),
        (index(), index()).prop_map(|(line, after)| Edit::Repeat { line, after }),
        index().prop_map(|line| Edit::Drop { line }),
        (index(), prop::char::range('\0', '~')).prop_map(|(at, with)| Edit::Replace { at, with }),
    ]
}

proptest! {
    #[test]
    fn any_text(text in any::<String>()) {
        judge(&text);
    }

    #[test]
    fn good_files_gone_bad(original in prop::sample::select(&ORIGINALS[..]), edits in prop::collection::vec(edit(), 1..6)) {
        judge(&edits.iter().fold(original.to_owned(), |text, edit| edit.apply(&text)));
    }

    /// Values of any kind where values stand, so that what is no syntax error is judged too.
    #[test]
    fn any_value(
        original in prop::sample::select(&ORIGINALS[..]),
        line in any::<prop::sample::Index>(),
        value in prop_oneof![any::<i64>().prop_map(|n| n.to_string()), any::<String>().prop_map(|s| format!("{s:?}")), "[a-f0-9:/.]{0,40}".prop_map(|s| format!("{s:?}"))],
    ) {
        let mut lines: Vec<String> = original.lines().map(|line| line.trim_start_matches('#').to_owned()).collect();
        let values: Vec<usize> = (0..lines.len()).filter(|at| lines[*at].contains(" = ")).collect();
        let at = values[line.index(values.len())];
        let (key, _) = lines[at].split_once(" = ").unwrap();
        lines[at] = format!("{key} = {value}");
        let text: Vec<&str> = original.lines().enumerate().map(|(n, line)| if n == at { lines[at].as_str() } else { line }).collect();
        judge(&text.join("\n"));
    }
}
