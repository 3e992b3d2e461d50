//! Security associations in the syntax of `setkey` (`sa.conf`).

use std::net::Ipv6Addr;
use std::ops::Range;
use std::sync::Arc;

use super::algorithms;
use super::side::{Found, Mode, Side};
use super::text::{Problems, Token, tokens, wrong_length};
use super::{Report, Source};
use crate::ipsec::{
    AssociationKey, AssociationLifetime, Encryption, Esp, EspMode, Integrity, SecretKey, SecurityAssociation, Transform,
};

/// IP protocol number of ESP.
const ESP: u8 = 50;

/// Widest window that a Linux kernel takes over PF_KEY, in packets.
const WIDEST_WINDOW: u32 = 32;

/// Commands that add nothing.
const WITHOUT_EFFECT: [&str; 8] = ["flush", "spdflush", "dump", "spddump", "get", "delete", "deleteall", "spddelete"];

/// Reads a file of `setkey` commands.
///
/// # Errors
/// When a command is not one of `setkey`, or adds what no policy of ours can hold.
pub fn parse(file_name: &str, text: &str) -> Result<Side, Report> {
    let words = tokens(text, &[';']);
    let source = Arc::new(Source::without_secrets(file_name, text, &secrets(&words)));
    let mut problems = Problems::new(Arc::clone(&source));
    let mut side = Side { files: vec![file_name.to_owned()], sources: vec![source], ..Side::default() };
    for statement in words.split(|word| !word.quoted && word.text == ";") {
        let Some((command, rest)) = statement.split_first() else { continue };
        match command.text {
            "add" | "update" => side.associations.extend(add(&mut problems, command, rest)),
            "spdadd" | "spdupdate" => {
                let message = "security policies are not taken from here: mip6d makes them itself, and so do we";
                problems.note(&command.span, command.text, message, "its IPsecPolicy lines in mip6d.conf say which");
            }
            known if WITHOUT_EFFECT.contains(&known) && !command.quoted => {}
            _ => {
                let message = format!("expected a command of setkey such as `add`, got {:?}", command.shown());
                problems.error(&command.span, "setkey", message, "commands end with a semicolon; see setkey(8)");
            }
        }
    }
    side.notes = problems.finish()?;
    Ok(side)
}

/// Keys, and what could be one: every text, and behind the first algorithm of a command all but options and what follows one.
fn secrets(words: &[Token<'_>]) -> Vec<Range<usize>> {
    let mut behind_algorithm = false;
    let mut behind_option = false;
    let mut out = Vec::new();
    for word in words {
        let option = !word.quoted && word.text.starts_with('-');
        let end = !word.quoted && word.text == ";";
        if word.shown() != word.text || behind_algorithm && !behind_option && !option && !end {
            out.push(word.span.clone());
        }
        behind_algorithm = !end && (behind_algorithm || option && matches!(word.text, "-E" | "-A" | "-C"));
        behind_option = option;
    }
    out
}

/// What the options of an `add` said.
#[derive(Default)]
struct Options {
    reqid: u32,
    mode: Option<Mode>,
    window: u32,
    lifetime: AssociationLifetime,
    encryption: Option<(Encryption, SecretKey)>,
    integrity: Option<(Integrity, SecretKey)>,
    wrong: bool,
}

fn add(problems: &mut Problems, command: &Token<'_>, rest: &[Token<'_>]) -> Option<Found> {
    let family =
        rest.iter().take_while(|word| matches!(word.text, "-4" | "-6" | "-n" | "-46n" | "-4n" | "-6n")).count();
    let [source, destination, protocol, spi, options @ ..] = &rest[family..] else {
        let message = "this `add` is not whole";
        let help = "write: add SOURCE DESTINATION esp SPI -u REQID -m transport -E aes-cbc KEY -A hmac-sha1 KEY ;";
        problems.error(&command.span, "add", message, help);
        return None;
    };
    if source.text.parse::<std::net::Ipv4Addr>().is_ok() && destination.text.parse::<std::net::Ipv4Addr>().is_ok() {
        problems.note(&command.span, "add", "a security association of IPv4 is not taken", "registrations are IPv6");
        return None;
    }
    let key = {
        let source = address(problems, source);
        let destination = address(problems, destination);
        let spi = self::spi(problems, spi);
        (source, destination, spi)
    };
    if protocol.text != "esp" || protocol.quoted {
        let message = format!("expected esp, got {:?}: registrations go in ESP here", protocol.shown());
        problems.error(&protocol.span, "add", message, "replace it on both sides by a security association of ESP");
        return None;
    }
    let options = self::options(problems, options);
    let (source, destination, spi) = (key.0?, key.1?, key.2?);
    let Some(encryption) = options.encryption else {
        if !options.wrong {
            let help = "add -E and an encryption algorithm with its key";
            problems.error(&command.span, "add", "there is no encryption algorithm", help);
        }
        return None;
    };
    // setkey's own default, `any`, serves transport mode as well.
    let mode = options.mode.unwrap_or(Mode::Transport);
    let transform = Transform::Esp(Esp {
        mode: mode.known().unwrap_or(EspMode::Transport),
        reqid: options.reqid,
        encryption,
        integrity: options.integrity,
        replay_window: options.window,
        extended_sequence_numbers: false,
        lifetime: options.lifetime,
    });
    Some(Found {
        association: SecurityAssociation { key: AssociationKey { source, destination, protocol: ESP, spi }, transform },
        mode,
        host: None,
        place: Some(problems.place(&command.span)),
    })
}

fn address(problems: &mut Problems, word: &Token<'_>) -> Option<Ipv6Addr> {
    let address = word.text.parse().ok().filter(|_| !word.quoted);
    if address.is_none() {
        let message = format!("expected an IPv6 address, got {:?}", word.shown());
        problems.error(&word.span, "add", message, "write home address and home agent, without port or prefix length");
    }
    address
}

fn spi(problems: &mut Problems, word: &Token<'_>) -> Option<u32> {
    let spi = word.number().filter(|spi| *spi > 255);
    if spi.is_none() {
        let message = format!("expected an SPI from 256 to 4294967295, got {:?}", word.shown());
        problems.error(&word.span, "add", message, "write it in decimal digits, or in hexadecimal ones after 0x");
    }
    spi
}

fn options(problems: &mut Problems, words: &[Token<'_>]) -> Options {
    let mut out = Options::default();
    let mut rest = words.iter().peekable();
    while let Some(option) = rest.next() {
        if option.quoted || !option.text.starts_with('-') {
            out.wrong = true;
            let help = "a key is one word, 0x… or \"…\", and follows its algorithm";
            problems.error(&option.span, "add", "a word stands where an option belongs", help);
            continue;
        }
        let name = option.text;
        let Some(value) = rest.next_if(|word| word.quoted || !word.text.starts_with('-')) else {
            out.wrong = true;
            let message = format!("nothing follows {:?}", option.shown());
            problems.error(&option.span, "add", message, "see setkey(8)");
            continue;
        };
        match name {
            "-u" => match value.number() {
                Some(reqid) => out.reqid = reqid,
                None => problems.error(&value.span, "-u", "expected a reqid, a number", "see setkey(8)"),
            },
            "-r" => match value.number() {
                Some(window) => out.window = window.min(WIDEST_WINDOW),
                None => problems.error(&value.span, "-r", "expected a window, a number", "see setkey(8)"),
            },
            "-m" if value.text == "any" => out.mode = None,
            "-m" => out.mode = Some(Mode::from_name(value.text)),
            "-f" => {}
            "-lh" | "-ls" | "-bh" | "-bs" => match value.number().map(u64::from) {
                // 0 is no limit, as in setkey(8).
                Some(number) => {
                    let number = Some(number).filter(|number| *number > 0);
                    match name {
                        "-lh" => out.lifetime.hard.seconds = number,
                        "-ls" => out.lifetime.soft.seconds = number,
                        "-bh" => out.lifetime.hard.bytes = number,
                        _ => out.lifetime.soft.bytes = number,
                    }
                }
                None => problems.error(&value.span, name, "expected a limit, a number", "see setkey(8)"),
            },
            "-E" => {
                let key = if value.text == "null" || value.text == "simple" {
                    rest.next_if(|word| word.quoted || word.text.starts_with("0x"));
                    None
                } else {
                    rest.next_if(|word| word.quoted || !word.text.starts_with('-'))
                };
                out.encryption = encryption(problems, value, key);
                out.wrong |= out.encryption.is_none();
            }
            "-A" => {
                let key = rest.next_if(|word| word.quoted || !word.text.starts_with('-'));
                out.integrity = integrity(problems, value, key);
                out.wrong |= out.integrity.is_none();
            }
            _ => {
                out.wrong = true;
                let message = format!("{:?} is no option that a policy here can hold", option.shown());
                problems.error(&option.span, "add", message, "known here: -m, -u, -r, -E, -A, -f, and -lh -ls -bh -bs");
            }
        }
    }
    out
}

fn encryption(problems: &mut Problems, name: &Token<'_>, key: Option<&Token<'_>>) -> Option<(Encryption, SecretKey)> {
    let algorithm = algorithms::setkey_encryption(name.text).filter(|_| !name.quoted);
    let Some(algorithm) = algorithm else {
        let message = format!("expected an encryption algorithm, got {:?}", name.shown());
        let help = format!("known here: {}", algorithms::setkey_encryption_names().join(", "));
        problems.error(&name.span, "-E", message, help);
        return None;
    };
    if algorithm == Encryption::Null {
        return Some((algorithm, SecretKey::new(Vec::new())));
    }
    Some((algorithm, self::key(problems, "-E", name, key, algorithm.key_octets())?))
}

fn integrity(problems: &mut Problems, name: &Token<'_>, key: Option<&Token<'_>>) -> Option<(Integrity, SecretKey)> {
    let algorithm = algorithms::setkey_integrity(name.text).filter(|_| !name.quoted);
    let Some(algorithm) = algorithm else {
        let message = format!("expected an integrity algorithm, got {:?}", name.shown());
        let help = format!("known here: {}", algorithms::setkey_integrity_names().join(", "));
        problems.error(&name.span, "-A", message, help);
        return None;
    };
    if algorithm == Integrity::HmacSha256Short {
        let message = format!("a Linux kernel gives {} of setkey an ICV of 96 bits, which no RFC knows", name.text);
        let help = "it is taken as hmac-sha256-96; better load the security associations by `ip xfrm state add` with \
                    auth-trunc and 128 bits, as `kagemusha policy export --to ip-xfrm` writes them";
        problems.note(&name.span, "-A", message, help);
    }
    Some((algorithm, self::key(problems, "-A", name, key, &[algorithm.key_octets()])?))
}

fn key(
    problems: &mut Problems,
    option: &str,
    name: &Token<'_>,
    key: Option<&Token<'_>>,
    lengths: &[usize],
) -> Option<SecretKey> {
    let Some(word) = key else {
        let message = format!("there is no key behind {}", name.shown());
        problems.error(
            &name.span,
            option,
            message,
            "write it as 0x and hexadecimal digits, or as text in double quotes",
        );
        return None;
    };
    let key = match word.key() {
        Ok(key) => key,
        Err(message) => {
            let help = "write it as 0x and an even number of hexadecimal digits, or as text in double quotes";
            problems.error(&word.span, option, message, help);
            return None;
        }
    };
    if let Some(message) = wrong_length(name.text, key.length(), lengths) {
        problems.error(&word.span, option, message, "setkey refuses it as well: correct the key");
        return None;
    }
    Some(key)
}
