//! What is wrong with a policy file: one report of many diagnostics, each pointing at its place.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use miette::{GraphicalReportHandler, GraphicalTheme, LabeledSpan, NamedSource, SourceCode};
use zeroize::Zeroize;

use super::Warning;
use super::redact::redact;

/// The text of a policy file, for pointing into it.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Source {
    /// The name as given to the loader.
    pub(super) name: String,
    /// The text without anything that could be a key or could disturb a terminal; the same length in octets as the file.
    shown: String,
    /// Where each line begins.
    lines: Vec<usize>,
}

/// How many diagnostics of a report are drawn; a file of a thousand guests without keys has thousands.
const DRAWN: usize = 20;

impl Source {
    pub(super) fn new(name: &str, text: &str) -> Self {
        Self::without_secrets(name, text, &[])
    }

    /// A text of which `secrets` must not be shown either: keys that look like words.
    pub(super) fn without_secrets(name: &str, text: &str, secrets: &[Range<usize>]) -> Self {
        let mut octets = text.as_bytes().to_vec();
        for secret in secrets {
            if let Some(octets) = octets.get_mut(secret.clone()) {
                octets.iter_mut().filter(|octet| **octet != b'\n').for_each(|octet| *octet = b'*');
            }
        }
        // Secrets are whole words, so what is left is UTF-8.
        let shown = redact(&String::from_utf8_lossy(&octets));
        octets.zeroize();
        let lines = std::iter::once(0).chain(shown.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Self { name: name.to_owned(), shown, lines }
    }

    /// Line and column, both from 1, of an octet; the column counts characters.
    fn position(&self, offset: usize) -> (usize, usize) {
        let offset = self.boundary(offset);
        let line = self.lines.partition_point(|start| *start <= offset);
        let start = line.checked_sub(1).and_then(|index| self.lines.get(index)).copied().unwrap_or(0);
        (line, self.shown[start..offset].chars().count() + 1)
    }

    /// The last character boundary not behind `offset`.
    fn boundary(&self, offset: usize) -> usize {
        (0..=offset.min(self.shown.len())).rev().find(|offset| self.shown.is_char_boundary(*offset)).unwrap_or(0)
    }

    /// What stands at a span, up to the end of its first line.
    pub(super) fn excerpt(&self, span: &Range<usize>) -> &str {
        &self.shown[self.span(span)]
    }

    /// A span cut to the text and to its own first line: a label on a whole table would draw a bar beside the whole screen.
    fn span(&self, span: &Range<usize>) -> Range<usize> {
        let start = self.boundary(span.start);
        let end = self.boundary(span.end).max(start);
        let line_end = self.shown[start..end].find('\n').map_or(end, |newline| start + newline);
        start..line_end
    }
}

/// One thing that is wrong with a policy file.
#[derive(Clone, PartialEq, Eq)]
pub struct Diagnostic {
    source: Arc<Source>,
    span: Range<usize>,
    label: String,
    related: Option<(Range<usize>, String)>,
    /// Key path, such as `guest.vm1.home_address`; empty where the file is not even TOML.
    pub key: String,
    /// What was expected and what came.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
}

impl Diagnostic {
    pub(super) fn new(source: &Arc<Source>, span: Range<usize>, key: &str, message: impl Into<String>) -> Self {
        Self {
            span: source.span(&span),
            source: Arc::clone(source),
            label: "here".to_owned(),
            related: None,
            key: redact(key),
            message: redact(&message.into()),
            help: None,
        }
    }

    pub(super) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(redact(&help.into()));
        self
    }

    /// The words at the place itself.
    pub(super) fn label(mut self, label: impl Into<String>) -> Self {
        self.label = label.into();
        self
    }

    /// Another place of the file that has to do with it.
    pub(super) fn related(mut self, span: Range<usize>, label: impl Into<String>) -> Self {
        self.related = Some((self.source.span(&span), label.into()));
        self
    }

    /// Name of the policy file.
    pub fn file(&self) -> &str {
        &self.source.name
    }

    /// Line, from 1.
    pub fn line(&self) -> usize {
        self.source.position(self.span.start).0
    }

    /// Column in characters, from 1.
    pub fn column(&self) -> usize {
        self.source.position(self.span.start).1
    }

    /// Where it is in the file, in octets from 0.
    pub(super) fn offset(&self) -> usize {
        self.span.start
    }

    pub(super) fn into_warning(self) -> Warning {
        Warning {
            file: self.file().to_owned(),
            line: self.line(),
            column: self.column(),
            help: self.help.unwrap_or_default(),
            key: self.key,
            message: self.message,
        }
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.key.is_empty() { f.write_str(&self.message) } else { write!(f, "{}: {}", self.key, self.message) }
    }
}

impl fmt::Debug for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: {self}", self.file(), self.line(), self.column())
    }
}

impl std::error::Error for Diagnostic {}

/// A diagnostic with the source in the form that miette draws.
struct Drawn<'a> {
    diagnostic: &'a Diagnostic,
    source: NamedSource<String>,
}

impl fmt::Display for Drawn<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.diagnostic.fmt(f)
    }
}

impl fmt::Debug for Drawn<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.diagnostic, f)
    }
}

impl std::error::Error for Drawn<'_> {}

impl miette::Diagnostic for Drawn<'_> {
    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.diagnostic.help.as_ref().map(|help| Box::new(help) as Box<dyn fmt::Display>)
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        Some(&self.source)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let Diagnostic { span, label, related, .. } = self.diagnostic;
        let primary = LabeledSpan::new_primary_with_span(Some(label.clone()), span.clone());
        let related = related.iter().map(|(span, label)| LabeledSpan::new_with_span(Some(label.clone()), span.clone()));
        Some(Box::new(std::iter::once(primary).chain(related)))
    }
}

/// Everything that is wrong with a policy file, in the order of the file. `Display` draws each diagnostic with file, line,
/// column and the lines of the file in question, without colours.
#[derive(Clone, PartialEq, Eq)]
pub struct Report {
    diagnostics: Vec<Diagnostic>,
}

impl Report {
    pub(super) fn new(mut diagnostics: Vec<Diagnostic>) -> Self {
        diagnostics.sort_by_key(Diagnostic::offset);
        Self { diagnostics }
    }

    /// The diagnostics; at least one.
    pub fn diagnostics(&self) -> &[Diagnostic] {
        &self.diagnostics
    }

    /// Draws the report, for a terminal when `colours`; of very many diagnostics, the first.
    pub fn render(&self, colours: bool) -> String {
        let theme = if colours { GraphicalTheme::unicode() } else { GraphicalTheme::unicode_nocolor() };
        let handler = GraphicalReportHandler::new_themed(theme).with_links(false).with_wrap_lines(false);
        let mut text = String::new();
        for diagnostic in self.diagnostics.iter().take(DRAWN) {
            let source = NamedSource::new(&diagnostic.source.name, diagnostic.source.shown.clone());
            let drawn = Drawn { diagnostic, source };
            let mut one = String::new();
            if handler.render_report(&mut one, &drawn).is_err() {
                one = format!("{diagnostic:?}\n");
            }
            text.push_str(&one);
        }
        if let Some(more) = self.diagnostics.len().checked_sub(DRAWN).filter(|more| *more > 0) {
            text.push_str(&format!("  … and {more} more\n"));
        }
        text
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl fmt::Debug for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.diagnostics).finish()
    }
}

impl std::error::Error for Report {}
