//! umip's `mip6d.conf`: who registers, and which policies protect it. Its security associations stand elsewhere.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use super::side::{Registration, Side};
use super::text::{Problems, Token, tokens};
use super::{Report, Source};
use crate::ipsec::{Class, Toward};
use crate::policy::syntax::nearest;
use crate::policy::{Reqids, Role};
use crate::vocabulary::Prefix;

/// Blocks in blocks; umip knows two.
const DEEPEST: usize = 8;

/// `Name word word;` or `Name word { … }`.
struct Statement<'a> {
    words: Vec<Token<'a>>,
    block: Vec<Statement<'a>>,
}

/// Reads an `mip6d.conf` of either role.
///
/// # Errors
/// When it is not of that form, or asks for protection that no policy of ours can hold.
pub fn parse(file_name: &str, text: &str) -> Result<Side, Report> {
    let words = tokens(text, &['{', '}', ';', ',']);
    let source = Arc::new(Source::new(file_name, text));
    let mut problems = Problems::new(Arc::clone(&source));
    let mut side = Side { files: vec![file_name.to_owned()], sources: vec![source], ..Side::default() };
    let mut rest = words.iter();
    let statements = statements(&mut problems, &mut rest, None, 0);
    let mut reader = Reader { problems: &mut problems, side: &mut side, ipsec: true, at_home: Vec::new() };
    for statement in &statements {
        reader.statement(statement);
    }
    reader.unprotected();
    side.notes = problems.finish()?;
    Ok(side)
}

fn statements<'a>(
    problems: &mut Problems,
    words: &mut std::slice::Iter<'_, Token<'a>>,
    opened: Option<&Token<'a>>,
    depth: usize,
) -> Vec<Statement<'a>> {
    let mut out = Vec::new();
    let mut current: Vec<Token<'a>> = Vec::new();
    while let Some(word) = words.next() {
        match word.text {
            _ if word.quoted => current.push(word.clone()),
            ";" if current.is_empty() => {}
            ";" => out.push(Statement { words: std::mem::take(&mut current), block: Vec::new() }),
            "{" if depth >= DEEPEST => {
                problems.error(&word.span, "mip6d.conf", "blocks stand too deep in each other", "close some of them");
                return out;
            }
            "{" => {
                if current.is_empty() {
                    problems.error(&word.span, "mip6d.conf", "a block has no name", "write its name before the brace");
                }
                let block = statements(problems, words, Some(word), depth + 1);
                out.push(Statement { words: std::mem::take(&mut current), block });
            }
            "}" if depth == 0 => {
                problems.error(&word.span, "mip6d.conf", "there is no block to close here", "take the brace out");
            }
            "}" => {
                unfinished(problems, &current);
                return out;
            }
            _ => current.push(word.clone()),
        }
        // The only statement without an end.
        if current.len() == 2 && current[0].text == "include" {
            out.push(Statement { words: std::mem::take(&mut current), block: Vec::new() });
        }
    }
    unfinished(problems, &current);
    if let Some(brace) = opened {
        let help = "write } behind the last statement of the block";
        problems.error(&brace.span, "mip6d.conf", "this block is not closed", help);
    }
    out
}

/// The words behind every statement of that name.
fn values<'a>(block: &[Statement<'a>], wanted: &str) -> Vec<Token<'a>> {
    let of_name = block.iter().filter_map(|one| one.words.split_first());
    of_name.filter(|(name, _)| name.text == wanted).flat_map(|(_, rest)| rest.to_vec()).collect()
}

fn unfinished(problems: &mut Problems, current: &[Token<'_>]) {
    if let Some(first) = current.first() {
        let message = format!("the statement {:?} does not end", first.shown());
        problems.error(&first.span, "mip6d.conf", message, "write a semicolon behind it");
    }
}

struct Reader<'p> {
    problems: &'p mut Problems,
    side: &'p mut Side,
    /// Whether `UseMnHaIPsec` is on, as it is unless said otherwise.
    ipsec: bool,
    /// Home agent, home address, length of the prefix, of `MnHomeLink`.
    at_home: Vec<Registration>,
}

impl Reader<'_> {
    fn statement(&mut self, statement: &Statement<'_>) {
        let Some((name, values)) = statement.words.split_first() else { return };
        match name.text {
            "NodeConfig" => {
                self.side.role = match values.first().map(|word| word.text) {
                    Some("HA") => Some(Role::HomeAgent),
                    Some("MN") => Some(Role::MobileNode),
                    _ => None,
                };
            }
            "Interface" => {
                let name = values.first().map(|word| word.text.to_owned());
                self.side.interface = self.side.interface.take().or(name);
            }
            "UseMnHaIPsec" => self.ipsec = self.enabled(name, values),
            "KeyMngMobCapability" => self.side.key_management_mobility = Some(self.enabled(name, values)),
            "HaMaxBindingLife" => self.side.maximum_lifetime = self.lifetime(name, values),
            "MnMaxHaBindingLife" => self.side.lifetime = self.lifetime(name, values),
            "HaAcceptMobRtr" if self.enabled(name, values) => {
                let help = "it has no effect on guests that are hosts";
                self.problems.note(&name.span, name.text, "mobile routers (NEMO) are not supported here", help);
            }
            "include" => {
                let help = "put what they say about IPsecPolicySet into this file";
                self.problems.note(&name.span, name.text, "included files are not read", help);
            }
            "MnHomeLink" => {
                let registrations = self.registrations(name, &statement.block);
                self.at_home.extend(registrations);
            }
            "IPsecPolicySet" => self.policy_set(name, &statement.block),
            _ => {}
        }
    }

    fn enabled(&mut self, name: &Token<'_>, values: &[Token<'_>]) -> bool {
        match values.first().map(|word| word.text) {
            Some("enabled") => true,
            Some("disabled") => false,
            _ => {
                self.problems.error(&name.span, name.text, "expected enabled or disabled", "write one of the two");
                false
            }
        }
    }

    /// Cut to what a policy can say: a multiple of 4 s, 4 to 262140.
    fn lifetime(&mut self, name: &Token<'_>, values: &[Token<'_>]) -> Option<Duration> {
        let seconds = values.first().and_then(Token::number);
        if seconds.is_none() {
            self.problems.error(&name.span, name.text, "expected a number of seconds", "write a multiple of 4");
        }
        seconds.map(|seconds| Duration::from_secs(u64::from(seconds.clamp(4, 262_140) / 4 * 4)))
    }

    fn registrations(&mut self, name: &Token<'_>, block: &[Statement<'_>]) -> Vec<Registration> {
        let Some(agent) = values(block, "HomeAgentAddress").into_iter().next() else {
            let help = "add: HomeAgentAddress ADDRESS;";
            self.problems.error(&name.span, name.text, "there is no HomeAgentAddress", help);
            return Vec::new();
        };
        let Some(home_agent) = agent.text.parse::<Ipv6Addr>().ok().filter(|address| !address.is_unspecified()) else {
            let message = format!("expected the IPv6 address of the home agent, got {:?}", agent.shown());
            self.problems.error(
                &agent.span,
                "HomeAgentAddress",
                message,
                "discovery of home agents is not supported here",
            );
            return Vec::new();
        };
        let mut out = Vec::new();
        let named: Vec<Token<'_>> =
            values(block, "HomeAddress").into_iter().filter(|word| word.text.contains(':')).collect();
        if named.is_empty() {
            let help = "add: HomeAddress ADDRESS/64;";
            self.problems.error(&name.span, name.text, "there is no HomeAddress", help);
        }
        for word in &named {
            let parts = word.text.split_once('/').unwrap_or((word.text, "64"));
            let address = parts.0.parse::<Ipv6Addr>().ok();
            let length = parts.1.parse::<u8>().ok().filter(|length| *length <= 128);
            let (Some(home_address), Some(length)) = (address, length) else {
                let message = format!("expected an IPv6 address with its prefix length, got {:?}", word.shown());
                self.problems.error(&word.span, "HomeAddress", message, "write, for example: 2001:db8:2000::10/64");
                continue;
            };
            let place = Some(self.problems.place(&word.span));
            let home_link = Prefix::of(home_address, length);
            out.push(Registration { home_agent, home_address, home_link, name: None, classes: BTreeMap::new(), place });
        }
        out
    }

    fn policy_set(&mut self, name: &Token<'_>, block: &[Statement<'_>]) {
        let registrations = self.registrations(name, block);
        let mut classes: BTreeMap<Class, (Reqids, Range<usize>)> = BTreeMap::new();
        let mut policies = 0;
        for policy in block.iter().filter(|one| one.words.first().is_some_and(|word| word.text == "IPsecPolicy")) {
            policies += 1;
            let Some((class, reqids, span)) = self.policy(&policy.words) else { continue };
            let shared = classes.iter().find(|(_, (other, _))| {
                Toward::BOTH
                    .iter()
                    .any(|toward| Toward::BOTH.iter().any(|t| other.toward(*t) == reqids.toward(*toward)))
            });
            let twice = classes.contains_key(&class);
            if twice {
                let message = format!("the class {} stands here a second time", class.umip_name());
                self.problems.error(&span, "IPsecPolicy", message, "leave one of the lines");
                continue;
            }
            if let Some((other, _)) = shared {
                let message = format!("{} shares a reqid with {}", class.umip_name(), other.umip_name());
                let help = "give each class two reqids of its own, in these lines and in the security associations, on both sides: \
                            they say which security association serves which class";
                self.problems.error(&span, "IPsecPolicy", message, help);
                continue;
            }
            classes.insert(class, (reqids, span));
        }
        if policies == 0 {
            let help = "add: IPsecPolicy HomeRegBinding UseESP 1 2;";
            self.problems.error(&name.span, name.text, "there is no IPsecPolicy", help);
        }
        let classes: BTreeMap<Class, Reqids> =
            classes.into_iter().map(|(class, (reqids, _))| (class, reqids)).collect();
        if !classes.is_empty() {
            let protected = registrations.into_iter().map(|one| Registration { classes: classes.clone(), ..one });
            self.side.registrations.extend(protected);
        }
    }

    /// One `IPsecPolicy CLASS UseESP 1 2`: the class, the reqids to the home agent and to the guest, and where they stand.
    fn policy(&mut self, words: &[Token<'_>]) -> Option<(Class, Reqids, Range<usize>)> {
        const KEY: &str = "IPsecPolicy";
        let Some(word) = words.get(1) else {
            let help = "write: IPsecPolicy HomeRegBinding UseESP 1 2;";
            self.problems.error(&words[0].span, KEY, "no class of traffic is named", help);
            return None;
        };
        let Some(class) = Class::from_umip_name(word.text) else {
            let message = format!("expected a class of traffic, got {:?}", word.shown());
            let known = Class::ALL.map(Class::umip_name);
            let help = match nearest(word.text, &known, 4) {
                Some(near) => format!("did you mean {near}?"),
                None => format!("known to umip: {}", known.join(", ")),
            };
            self.problems.error(&word.span, KEY, message, help);
            return None;
        };
        let name = class.umip_name();
        let protocol = words.get(2).unwrap_or(word);
        if protocol.text != "UseESP" {
            let message = format!("expected UseESP, got {:?}: {name} goes in ESP here", protocol.shown());
            self.problems.error(&protocol.span, KEY, message, format!("write: IPsecPolicy {name} UseESP 1 2;"));
            return None;
        }
        let mut numbers = words[3..].iter().map(|word| (word.number().filter(|reqid| *reqid > 0), word));
        match (numbers.next(), numbers.next()) {
            (Some((Some(to_home_agent), _)), Some((Some(to_guest), second))) => {
                if to_home_agent == to_guest {
                    let message = format!("both directions have the reqid {to_guest}");
                    let help =
                        "give the directions two reqids in this line and in the security associations, on both sides";
                    self.problems.error(&second.span, KEY, message, help);
                    return None;
                }
                Some((class, Reqids { to_home_agent, to_guest }, second.span.clone()))
            }
            (first, second) => {
                let span = second.or(first).map_or(&protocol.span, |(_, word)| &word.span);
                let help =
                    format!("write two reqids, first the one towards the home agent: IPsecPolicy {name} UseESP 1 2;");
                let message = "expected two reqids from 1 on: others would serve any security association";
                self.problems.error(span, KEY, message, help);
                None
            }
        }
    }

    /// Those at home on a link, whose signaling no policy protects.
    fn unprotected(&mut self) {
        let known: Vec<Ipv6Addr> = self.side.registrations.iter().map(|one| one.home_address).collect();
        if !self.ipsec {
            self.side.registrations.iter_mut().for_each(|one| one.classes.clear());
        }
        let more = std::mem::take(&mut self.at_home).into_iter().filter(|one| !known.contains(&one.home_address));
        self.side.registrations.extend(more);
    }
}
