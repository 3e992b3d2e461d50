//! Security associations as `ip xfrm state` prints them, and as `ip xfrm state add` and `ip -batch` take them.

use std::net::Ipv6Addr;
use std::ops::Range;
use std::sync::Arc;

use super::algorithms;
use super::side::{Found, Mode, Side};
use super::text::{Problems, Token, wrong_length};
use super::{Report, Source};
use crate::ipsec::{
    AssociationKey, AssociationLifetime, Encryption, Esp, EspMode, Integrity, SecretKey, SecurityAssociation, Transform,
};

/// IP protocol number of ESP.
const ESP: u8 = 50;

/// Words that an algorithm and a key follow.
const KEYED: [&str; 5] = ["auth", "auth-trunc", "enc", "aead", "comp"];

/// Words that something else than a key follows.
const KNOWN: [&str; 10] =
    ["proto", "spi", "reqid", "mode", "replay-window", "flag", "seq", "sel", "coa", "anti-replay"];

/// Reads the output of `ip xfrm state` (with keys), or commands that make such states. What is not ESP over IPv6 is passed over.
///
/// # Errors
/// When a line is neither, or a state has what no policy of ours can hold.
pub fn parse(file_name: &str, text: &str) -> Result<Side, Report> {
    let lines: Vec<Line<'_>> = lines(text);
    let secrets: Vec<Range<usize>> = lines.iter().flat_map(|line| secrets(&line.words)).collect();
    let source = Arc::new(Source::without_secrets(file_name, text, &secrets));
    let mut problems = Problems::new(Arc::clone(&source));
    let mut side = Side { files: vec![file_name.to_owned()], sources: vec![source], ..Side::default() };
    let mut state: Option<State> = None;
    for line in &lines {
        let command = match line.words.first().map(|word| word.text) {
            Some("ip") => 1,
            _ => 0,
        };
        let words = &line.words[command..];
        let texts: Vec<&str> = words.iter().take(4).map(|word| word.text).collect();
        match texts[..] {
            _ if line.indented => {
                if let Some(state) = &mut state {
                    state.attributes(&mut problems, words, false);
                }
            }
            ["src", _, "dst", _] => {
                finish(&mut problems, &mut side, state.take());
                state = State::new(words);
            }
            ["xfrm", "state" | "s", "add" | "update", ..] => {
                finish(&mut problems, &mut side, state.take());
                match words.get(3..).filter(|rest| rest.len() >= 4 && rest[0].text == "src" && rest[2].text == "dst") {
                    Some(rest) => {
                        state = State::new(rest);
                        if let Some(state) = &mut state {
                            state.attributes(&mut problems, &rest[4..], true);
                        }
                    }
                    None => {
                        let help = "write: ip xfrm state add src ADDRESS dst ADDRESS proto esp spi SPI …";
                        problems.error(&words[0].span, "xfrm", "expected `src ADDRESS dst ADDRESS` behind `add`", help);
                    }
                }
            }
            ["xfrm", ..] | ["-batch" | "-b", ..] | ["END"] | ["EOF"] => {}
            _ => {
                let word = words.first().unwrap_or(&line.words[0]);
                let message = format!("expected `src ADDRESS dst ADDRESS`, got {:?}", word.shown());
                let help = "give the output of `ip xfrm state`, or the commands `ip xfrm state add …`";
                problems.error(&word.span, "xfrm", message, help);
            }
        }
    }
    finish(&mut problems, &mut side, state.take());
    side.notes = problems.finish()?;
    Ok(side)
}

/// A line with something on it.
struct Line<'a> {
    indented: bool,
    words: Vec<Token<'a>>,
}

fn lines(text: &str) -> Vec<Line<'_>> {
    let mut out = Vec::new();
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        let indented = line.starts_with([' ', '\t']);
        let mut words = Vec::new();
        let mut at = 0;
        for piece in line.split(|c: char| c.is_whitespace()) {
            let offset = start + at;
            at += piece.len() + line[at + piece.len()..].chars().next().map_or(0, char::len_utf8);
            if piece.is_empty() {
                continue;
            }
            // The shell's quotes around names with brackets.
            let quote = |c: char| c == '\'' || c == '"';
            words.push(Token { text: piece.trim_matches(quote), span: offset..offset + piece.len(), quoted: false });
        }
        start += line.len();
        if words.first().is_some_and(|word| !word.text.starts_with('#')) {
            out.push(Line { indented, words });
        }
    }
    out
}

/// Keys, and what could be one: what stands behind an algorithm up to the next word that is known, but for short numbers.
fn secrets(words: &[Token<'_>]) -> Vec<Range<usize>> {
    let mut since_algorithm = None;
    let mut out = Vec::new();
    for word in words {
        let short = word.text.len() <= 3 && word.text.bytes().all(|octet| octet.is_ascii_digit());
        let harmless = short || word.text.starts_with('(') || word.text.ends_with(')') || word.text.starts_with("<<");
        if KNOWN.contains(&word.text) || KEYED.contains(&word.text) {
            since_algorithm = KEYED.contains(&word.text).then_some(0);
            continue;
        }
        let behind = since_algorithm.is_some_and(|words| words > 0);
        if word.shown() != word.text || behind && !harmless {
            out.push(word.span.clone());
        }
        since_algorithm = since_algorithm.map(|words: usize| words + 1);
    }
    out
}

/// A state while its lines are read.
struct State {
    span: Range<usize>,
    source: Ipv6Addr,
    destination: Ipv6Addr,
    protocol: String,
    spi: Option<u32>,
    reqid: u32,
    mode: Option<Mode>,
    window: u32,
    extended: bool,
    lifetime: AssociationLifetime,
    encryption: Option<(Encryption, SecretKey)>,
    integrity: Option<(Integrity, SecretKey)>,
    wrong: bool,
}

impl State {
    /// None for IPv4, and for security policies, whose addresses have prefix lengths.
    fn new(words: &[Token<'_>]) -> Option<Self> {
        Some(Self {
            span: words[0].span.clone(),
            source: words.get(1)?.text.parse().ok()?,
            destination: words.get(3)?.text.parse().ok()?,
            protocol: String::new(),
            spi: None,
            reqid: 0,
            mode: None,
            window: 0,
            extended: false,
            lifetime: AssociationLifetime::default(),
            encryption: None,
            integrity: None,
            wrong: false,
        })
    }

    /// Attributes on one line. In a dump, what is unknown says nothing of algorithms and is passed over.
    fn attributes(&mut self, problems: &mut Problems, words: &[Token<'_>], command: bool) {
        let mut rest = words.iter().peekable();
        while let Some(word) = rest.next() {
            match word.text {
                "proto" => self.protocol = rest.next().map(|word| word.text.to_owned()).unwrap_or_default(),
                "spi" => self.spi = rest.next().and_then(number),
                "reqid" => self.reqid = rest.next().and_then(number).unwrap_or(0),
                "mode" => self.mode = rest.next().map(|word| Mode::from_name(word.text)),
                "replay-window" => self.window = rest.next().and_then(number).unwrap_or(0),
                "replay_window" => self.window = rest.next().map(comma).and_then(|word| number(&word)).unwrap_or(0),
                "seq" | "replay-seq" | "replay-oseq" => drop(rest.next()),
                // As in a dump: `limit: soft (INF)(bytes), hard 1000(bytes)` and `expire add: soft 0(sec), hard 60(sec)`.
                "limit:" | "add:" => {
                    while let (Some(kind), Some(value)) = (rest.next(), rest.next()) {
                        self.limit(kind.text, unit(value), long_number(value));
                    }
                }
                "expire" => {}
                "use:" => return,
                // As in a command: `limit packet-hard 1000`.
                "limit" => {
                    if let (Some(kind), Some(value)) = (rest.next(), rest.next())
                        && let Some((unit, kind)) = kind.text.split_once('-')
                    {
                        self.limit(kind, unit, long_number(value));
                    }
                }
                "flag" => {
                    while let Some(flag) = rest.next_if(|word| !KEYED.contains(&word.text) && word.text != "sel") {
                        self.extended |= flag.text == "esn";
                    }
                }
                keyword if KEYED.contains(&keyword) => self.algorithm(problems, word, &mut rest),
                "anti-replay" if rest.peek().is_some_and(|word| word.text == "esn") => self.extended = true,
                "sel" => return,
                _ if !command && !self.extended => return,
                _ if !command => {}
                _ => {
                    self.wrong = true;
                    let message = "this word is nothing that a policy here can hold";
                    problems.error(&word.span, "xfrm", message, "leave it out, on both sides; keys stand as 0x…");
                    return;
                }
            }
        }
    }

    fn limit(&mut self, kind: &str, unit: &str, limit: Option<u64>) {
        let limits = match kind {
            "soft" => &mut self.lifetime.soft,
            "hard" => &mut self.lifetime.hard,
            _ => return,
        };
        // No seconds are no limit.
        match unit {
            "byte" | "bytes" => limits.bytes = limit,
            "packet" | "packets" => limits.packets = limit,
            "time" | "sec" => limits.seconds = limit.filter(|seconds| *seconds > 0),
            _ => {}
        }
    }

    fn algorithm<'t>(
        &mut self,
        problems: &mut Problems,
        keyword: &Token<'_>,
        rest: &mut std::iter::Peekable<impl Iterator<Item = &'t Token<'t>>>,
    ) {
        let Some(name) = rest.next() else {
            self.wrong = true;
            let message = format!("nothing follows {:?}", keyword.text);
            return problems.error(&keyword.span, keyword.text, message, "an algorithm and its key belong there");
        };
        let key =
            rest.next_if(|word| word.text.starts_with("0x") || word.text.starts_with("<<") || word.text.is_empty());
        let key = key.filter(|word| !word.text.is_empty());
        while rest
            .next_if(|word| word.text.starts_with('(') || word.text.ends_with(')') || word.text == "hidden>>")
            .is_some()
        {}
        let bits = match keyword.text {
            "auth-trunc" | "aead" => rest.next().and_then(number),
            _ => None,
        };
        let done = match keyword.text {
            "enc" | "aead" => {
                let algorithm = algorithms::kernel_encryption(name.text, bits);
                let lengths = algorithm.map_or(&[][..], Encryption::key_octets);
                let pair = self::key(problems, (keyword, name, key), algorithm.map(|one| (one, one.name())), lengths);
                self.encryption = pair;
                self.encryption.is_some()
            }
            "auth" | "auth-trunc" => {
                let algorithm = algorithms::kernel_integrity(name.text, bits);
                let length = algorithm.map_or(0, Integrity::key_octets);
                let pair = self::key(problems, (keyword, name, key), algorithm.map(|one| (one, one.name())), &[length]);
                self.integrity = pair;
                self.integrity.is_some()
            }
            _ => {
                let message = format!("compression ({}) is nothing that a policy here can hold", name.shown());
                problems.error(&keyword.span, keyword.text, message, "leave it out, on both sides");
                false
            }
        };
        self.wrong |= !done;
    }
}

/// A number, as in `0x000003e8(1000)`, `1(0x00000001)` and `32`.
fn number(word: &Token<'_>) -> Option<u32> {
    let text = word.text.split('(').next().unwrap_or(word.text);
    Token { text, ..word.clone() }.number()
}

/// The number of a limit, as in `1000(bytes),` and `1000`; none for `(INF)(bytes)`.
fn long_number(word: &Token<'_>) -> Option<u64> {
    word.text.split('(').next().and_then(|digits| digits.parse().ok())
}

/// The unit of a limit, as in `1000(bytes),` and `(INF)(packets)`.
fn unit<'a>(word: &Token<'a>) -> &'a str {
    let last = word.text.rsplit('(').next().unwrap_or_default();
    last.trim_end_matches([',', ')'])
}

fn comma<'a>(word: &Token<'a>) -> Token<'a> {
    Token { text: word.text.trim_end_matches(','), ..word.clone() }
}

fn key<A>(
    problems: &mut Problems,
    (keyword, name, key): (&Token<'_>, &Token<'_>, Option<&Token<'_>>),
    algorithm: Option<(A, &'static str)>,
    lengths: &[usize],
) -> Option<(A, SecretKey)> {
    let Some((algorithm, known)) = algorithm else {
        let message = format!("{:?} with this ICV is no algorithm of a policy here", name.shown());
        let all: Vec<String> = Encryption::ALL.iter().map(|one| one.kernel_name().to_owned()).collect();
        let auth = Integrity::ALL.iter().map(|one| format!("{} {}", one.kernel_name(), one.icv_bits()));
        let help = format!("known here: {}", all.into_iter().chain(auth).collect::<Vec<_>>().join(", "));
        problems.error(&name.span, keyword.text, message, help);
        return None;
    };
    if lengths == [0] {
        return Some((algorithm, SecretKey::new(Vec::new())));
    }
    let Some(word) = key else {
        let help = "keys stand as 0x and hexadecimal digits";
        problems.error(&name.span, keyword.text, format!("there is no key behind {}", name.shown()), help);
        return None;
    };
    if word.text.starts_with("<<") {
        let help = "run `ip xfrm state` as root and without `nokeys`";
        problems.error(&word.span, keyword.text, "the key was hidden", help);
        return None;
    }
    let secret = match word.key() {
        Ok(secret) => secret,
        Err(message) => {
            problems.error(&word.span, keyword.text, message, "keys stand as 0x and hexadecimal digits");
            return None;
        }
    };
    if let Some(message) = wrong_length(known, secret.length(), lengths) {
        problems.error(
            &word.span,
            keyword.text,
            message,
            "no policy here can hold such a key: make new ones on both sides",
        );
        return None;
    }
    Some((algorithm, secret))
}

fn finish(problems: &mut Problems, side: &mut Side, state: Option<State>) {
    let Some(state) = state else { return };
    if state.protocol == "hao" && !state.source.is_unspecified() {
        side.hints.push((state.source, state.destination));
    }
    if state.protocol != "esp" || state.wrong {
        return;
    }
    let spi = state.spi.filter(|spi| *spi > 255);
    let (Some(spi), Some(encryption)) = (spi, state.encryption) else {
        let help = "give the whole output of `ip xfrm state`, as root";
        return problems.error(&state.span, "xfrm", "this state of ESP has no SPI from 256 on, or no encryption", help);
    };
    let key = AssociationKey { source: state.source, destination: state.destination, protocol: ESP, spi };
    let (reqid, integrity, replay_window) = (state.reqid, state.integrity, state.window);
    let mode = state.mode.unwrap_or(Mode::Transport);
    let transform = Transform::Esp(Esp {
        mode: mode.known().unwrap_or(EspMode::Transport),
        reqid,
        encryption,
        integrity,
        replay_window,
        extended_sequence_numbers: state.extended,
        lifetime: state.lifetime,
    });
    side.associations.push(Found {
        association: SecurityAssociation { key, transform },
        mode,
        host: None,
        place: Some(problems.place(&state.span)),
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipsec::Limits;

    #[test]
    fn lifetimes_of_dumps_and_commands() {
        let keys = "enc cbc(aes) 0x000102030405060708090a0b0c0d0e0f auth-trunc hmac(sha1) \
                    0x000102030405060708090a0b0c0d0e0f10111213 96";
        let dump = format!(
            "src 2001:db8::10 dst 2001:db8::1\n\tproto esp spi 0x3e8 reqid 1 mode transport\n\t{}\n\t{}\n\
             \tlifetime config:\n\t  limit: soft 1000(bytes), hard (INF)(bytes)\n\t  limit: soft (INF)(packets), hard 7(packets)\n\
             \t  expire add: soft 0(sec), hard 60(sec)\n\t  expire use: soft 0(sec), hard 0(sec)\n\
             \tlifetime current:\n\t  5(bytes), 6(packets)\n",
            keys.split(" auth").next().unwrap(),
            keys.split("0f ").nth(1).unwrap(),
        );
        let command = format!(
            "xfrm state add src 2001:db8::10 dst 2001:db8::1 proto esp spi 0x3e8 reqid 1 mode transport \
             limit byte-soft 1000 limit packet-hard 7 limit time-hard 60 {keys}\n"
        );
        for text in [dump, command] {
            let side = parse("states", &text).unwrap_or_else(|report| panic!("{report}"));
            let esp = side.associations[0].esp().unwrap();
            let soft = Limits { bytes: Some(1000), packets: None, seconds: None };
            let hard = Limits { bytes: None, packets: Some(7), seconds: Some(60) };
            assert_eq!(esp.lifetime, AssociationLifetime { soft, hard }, "{text}");
        }
    }
}
