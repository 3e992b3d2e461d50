//! Words of configuration files with their places, and collecting what is wrong.

use std::ops::Range;
use std::sync::Arc;

use super::side::Place;
use super::{Diagnostic, Report, Source};
use crate::ipsec::SecretKey;
use crate::policy::parse_key_text;

/// A word of a file.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Token<'a> {
    /// The word, without its quotes.
    pub(super) text: &'a str,
    /// Where it stands, with its quotes.
    pub(super) span: Range<usize>,
    /// Whether it stood in double quotes.
    pub(super) quoted: bool,
}

impl Token<'_> {
    /// The word as a message may show it: not when it could be a key.
    pub(super) fn shown(&self) -> &str {
        // As in 0x000003e8(1000).
        let first = self.text.split('(').next().unwrap_or(self.text);
        let number = first.starts_with("0x") || first.starts_with("0X");
        if self.quoted || number && first.len() > 10 || self.text.len() > 60 { "…" } else { self.text }
    }

    /// A number in decimal or, after `0x`, hexadecimal digits.
    pub(super) fn number(&self) -> Option<u32> {
        if self.quoted {
            return None;
        }
        match self.text.strip_prefix("0x").or_else(|| self.text.strip_prefix("0X")) {
            Some(digits) if digits.bytes().all(|octet| octet.is_ascii_hexdigit()) => {
                u32::from_str_radix(digits, 16).ok()
            }
            Some(_) => None,
            None if self.text.bytes().all(|octet| octet.is_ascii_digit()) => self.text.parse().ok(),
            None => None,
        }
    }

    /// A key as `0x…` or as text in quotes. The errors name no part of it.
    pub(super) fn key(&self) -> Result<SecretKey, String> {
        if self.quoted {
            return Ok(SecretKey::new(self.text.as_bytes().to_vec()));
        }
        if !self.text.starts_with("0x") && !self.text.starts_with("0X") {
            return Err("expected a key as 0x and hexadecimal digits, or as text in double quotes".to_owned());
        }
        parse_key_text(self.text.as_bytes()).map_err(|error| format!("this is no key: {error}"))
    }
}

/// Cuts a text into words. `#` begins a comment, double quotes hold one word together, each of `special` is a word of its own.
pub(super) fn tokens<'a>(text: &'a str, special: &[char]) -> Vec<Token<'a>> {
    let mut out = Vec::new();
    let mut at = 0;
    while let Some(c) = text[at..].chars().next() {
        let rest = &text[at..];
        let (length, text, quoted) = if c == '#' {
            at += rest.find('\n').unwrap_or(rest.len());
            continue;
        } else if c.is_whitespace() {
            at += c.len_utf8();
            continue;
        } else if c == '"' {
            let inside = &rest[1..];
            let end = inside.find(['"', '\n']).unwrap_or(inside.len());
            let closed = inside[end..].starts_with('"');
            (1 + end + usize::from(closed), &inside[..end], true)
        } else if special.contains(&c) {
            (c.len_utf8(), &rest[..c.len_utf8()], false)
        } else {
            let ends = |c: char| c.is_whitespace() || c == '"' || c == '#' || special.contains(&c);
            let end = rest.find(ends).unwrap_or(rest.len());
            (end, &rest[..end], false)
        };
        out.push(Token { text, span: at..at + length, quoted });
        at += length;
    }
    out
}

/// What is wrong with one file, and what should be known of it.
pub(super) struct Problems {
    pub(super) source: Arc<Source>,
    errors: Vec<Diagnostic>,
    notes: Vec<Diagnostic>,
}

impl Problems {
    pub(super) fn new(source: Arc<Source>) -> Self {
        Self { source, errors: Vec::new(), notes: Vec::new() }
    }

    pub(super) fn error(
        &mut self,
        span: &Range<usize>,
        key: &str,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.errors.push(Diagnostic::new(&self.source, span.clone(), key, message).help(help));
    }

    pub(super) fn note(&mut self, span: &Range<usize>, key: &str, message: impl Into<String>, help: impl Into<String>) {
        self.notes.push(Diagnostic::new(&self.source, span.clone(), key, message).help(help));
    }

    pub(super) fn place(&self, span: &Range<usize>) -> Place {
        Place { source: Arc::clone(&self.source), span: span.clone() }
    }

    /// The notes, or a report when anything is wrong.
    pub(super) fn finish(self) -> Result<Vec<crate::policy::Warning>, Report> {
        if self.errors.is_empty() {
            Ok(self.notes.into_iter().map(Diagnostic::into_warning).collect())
        } else {
            Err(Report::new(self.errors))
        }
    }
}

/// Says which lengths a key of an algorithm may have, when `octets` is none of them.
pub(super) fn wrong_length(name: &str, octets: usize, lengths: &[usize]) -> Option<String> {
    if lengths.contains(&octets) {
        return None;
    }
    let words: Vec<String> = lengths.iter().map(usize::to_string).collect();
    Some(format!("the key has {octets} octets; {name} takes {}", words.join(" or ")))
}
