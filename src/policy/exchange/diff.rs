//! Where two sides disagree: what people lose days on, on one screen.

use std::collections::BTreeSet;
use std::fmt;
use std::net::Ipv6Addr;

use super::fingerprint;
use super::side::{Found, Registration, Side};
use crate::ipsec::{AssociationLifetime, Class, Esp, Limits};
use crate::policy::Role;

/// Lines that are shown; a pair of thousand guests with nothing in common has thousands.
const SHOWN: usize = 40;

/// One thing that is not the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Between which addresses, and in which direction.
    pub subject: String,
    /// What differs: `SPI`, `reqid`, `encryption`, `key`, …
    pub what: &'static str,
    /// What the first side has.
    pub first: String,
    /// What the second side has.
    pub second: String,
}

/// What comparing two sides gave. `Display` shows it without any key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Comparison {
    sides: [String; 2],
    /// What is not the same; empty when the two sides understand each other.
    pub differences: Vec<Difference>,
    /// What could not be compared, or is no disagreement and should be known.
    pub notes: Vec<String>,
    registrations: usize,
    associations: usize,
}

/// Compares two sides of the same registrations, or two files of one side.
pub fn compare(first: &Side, second: &Side) -> Comparison {
    let mut comparer = Comparer { first, second, differences: Vec::new(), notes: Vec::new() };
    let pairs = comparer.pairs();
    for (home_agent, home_address) in &pairs {
        comparer.registration(*home_agent, *home_address);
    }
    if first.key_management_mobility.is_some()
        && second.key_management_mobility.is_some()
        && first.key_management_mobility != second.key_management_mobility
    {
        let word = |side: &Side| if side.key_management_mobility == Some(true) { "set" } else { "clear" };
        comparer.differs("registration", "K bit", word(first), word(second));
    }
    for side in [first, second].into_iter().filter(|side| side.associations.is_empty()) {
        let protected = side.registrations.is_empty() || side.registrations.iter().any(|one| !one.classes.is_empty());
        if protected {
            let note = "holds no security associations: give its sa.conf or `ip xfrm state` as well";
            comparer.notes.push(format!("{} {note}", name(side)));
        }
    }
    let associations = first.associations.len().max(second.associations.len());
    Comparison {
        sides: [first, second].map(|side| match side.role {
            Some(role) => format!("{} ({role})", name(side)),
            None => name(side),
        }),
        differences: comparer.differences,
        notes: comparer.notes,
        registrations: pairs.len(),
        associations,
    }
}

fn name(side: &Side) -> String {
    side.files
        .iter()
        .map(|file| file.chars().filter(|c| !c.is_control()).collect::<String>())
        .collect::<Vec<_>>()
        .join(" + ")
}

struct Comparer<'a> {
    first: &'a Side,
    second: &'a Side,
    differences: Vec<Difference>,
    notes: Vec<String>,
}

impl<'a> Comparer<'a> {
    /// Pairs of home agent and home address, of policies or, where there are none, of security associations.
    fn pairs(&self) -> BTreeSet<(Ipv6Addr, Ipv6Addr)> {
        let sides = [self.first, self.second];
        let registered = sides.into_iter().flat_map(|side| &side.registrations);
        let mut pairs: BTreeSet<_> = registered.map(|one| (one.home_agent, one.home_address)).collect();
        for found in sides.into_iter().flat_map(|side| &side.associations) {
            let (source, destination) = (found.association.key.source, found.association.key.destination);
            let known = [(source, destination), (destination, source)].iter().any(|pair| pairs.contains(pair));
            if known {
                continue;
            }
            let agent = |address| pairs.iter().any(|(agent, _)| *agent == address);
            let pair = if agent(source) { (source, destination) } else { (destination, source) };
            pairs.insert(pair);
        }
        pairs
    }

    fn differs(&mut self, subject: &str, what: &'static str, first: impl Into<String>, second: impl Into<String>) {
        let subject = subject.to_owned();
        self.differences.push(Difference { subject, what, first: first.into(), second: second.into() });
    }

    fn registration(&mut self, home_agent: Ipv6Addr, home_address: Ipv6Addr) {
        let of = |side: &'a Side| {
            side.registrations.iter().find(|one| (one.home_agent, one.home_address) == (home_agent, home_address))
        };
        let (first, second) = (of(self.first), of(self.second));
        let subject = format!("{home_address} at {home_agent}");
        match (first, second) {
            (Some(first), Some(second)) => {
                self.classes(&subject, first, second);
            }
            (Some(_), None) if !self.second.registrations.is_empty() => {
                self.differs(&subject, "registration", "yes", "no")
            }
            (None, Some(_)) if !self.first.registrations.is_empty() => {
                self.differs(&subject, "registration", "no", "yes")
            }
            _ => {}
        }
        if self.first.associations.is_empty() || self.second.associations.is_empty() {
            return;
        }
        self.direction(home_address, home_agent, true);
        self.direction(home_agent, home_address, false);
    }

    /// The protected classes and their reqids.
    fn classes(&mut self, subject: &str, first: &Registration, second: &Registration) {
        if first.classes.is_empty() != second.classes.is_empty() {
            let words = |one: &Registration| {
                let names: Vec<&str> = one.classes.keys().map(|class| class.name()).collect();
                if names.is_empty() { "in the clear".to_owned() } else { names.join(", ") }
            };
            self.differs(subject, "protection", words(first), words(second));
            return;
        }
        for class in Class::ALL {
            let words = |one: &Registration| {
                let reqids = one.classes.get(&class)?;
                Some(format!("{} to it, {} back", reqids.to_home_agent, reqids.to_guest))
            };
            let (first, second) = (words(first), words(second));
            if first != second {
                let subject = format!("{subject}, {class}");
                let words = |words: Option<String>| words.unwrap_or_else(|| "not protected".to_owned());
                self.differs(&subject, "policy reqids", words(first), words(second));
            }
        }
    }

    fn between(side: &'a Side, source: Ipv6Addr, destination: Ipv6Addr) -> Vec<&'a Found> {
        let key =
            |found: &&Found| found.association.key.source == source && found.association.key.destination == destination;
        side.associations.iter().filter(key).collect()
    }

    fn direction(&mut self, source: Ipv6Addr, destination: Ipv6Addr, to_home_agent: bool) {
        let word = if to_home_agent { "to home agent" } else { "to guest" };
        let guest = if to_home_agent { source } else { destination };
        let subject = format!("{guest} {word}");
        let mut first = Self::between(self.first, source, destination);
        let mut second = Self::between(self.second, source, destination);
        let spi = |found: &Found| found.association.key.spi;
        let mut both = Vec::new();
        first.retain(|one| match second.iter().position(|other| spi(other) == spi(one)) {
            Some(at) => {
                both.push((*one, second.remove(at)));
                false
            }
            None => true,
        });
        for (one, other) in both {
            self.association(&format!("{subject}, SPI {:#x}", spi(one)), one, other, to_home_agent);
        }
        // The same SPI the other way round on the other side.
        let back =
            |side, one: &Found| Self::between(side, destination, source).iter().any(|other| spi(other) == spi(one));
        let turned = first.iter().any(|one| back(self.second, one)) || second.iter().any(|one| back(self.first, one));
        if turned {
            let list = |all: &[&Found]| match all {
                [] => "none this way".to_owned(),
                all => all.iter().map(|one| format!("{:#x}", spi(one))).collect::<Vec<_>>().join(", "),
            };
            self.differs(&subject, "direction of SPI", list(&first), list(&second));
            return;
        }
        if let ([one], [other]) = (&first[..], &second[..]) {
            self.differs(&subject, "SPI", format!("{:#x}", spi(one)), format!("{:#x}", spi(other)));
            self.association(&subject, one, other, to_home_agent);
            return;
        }
        // A home agent has one for each host of the guest, a host only its own.
        let spare = |this: Option<Role>, other: Option<Role>, matched: bool| {
            to_home_agent && this == Some(Role::HomeAgent) && other != this && matched
        };
        let matched = |side| Self::between(side, source, destination).len();
        if !spare(self.first.role, self.second.role, matched(self.second) > second.len()) {
            first.iter().for_each(|one| self.differs(&subject, "SPI", format!("{:#x}", spi(one)), "missing"));
        }
        if !spare(self.second.role, self.first.role, matched(self.first) > first.len()) {
            second.iter().for_each(|one| self.differs(&subject, "SPI", "missing", format!("{:#x}", spi(one))));
        }
        if first.is_empty() && second.is_empty() && matched(self.first) + matched(self.second) == 0 {
            self.notes.push(format!("{subject}: no security association on either side"));
        }
    }

    fn association(&mut self, subject: &str, one: &Found, other: &Found, to_home_agent: bool) {
        let (Some(first), Some(second)) = (one.esp(), other.esp()) else { return };
        if first.reqid != second.reqid {
            self.differs(subject, "reqid", first.reqid.to_string(), second.reqid.to_string());
        }
        if one.mode != other.mode {
            self.differs(subject, "mode", one.mode.name(), other.mode.name());
        }
        if first.encryption.0 != second.encryption.0 {
            self.differs(subject, "encryption", first.encryption.0.name(), second.encryption.0.name());
        }
        if first.encryption.1 != second.encryption.1 {
            self.differs(
                subject,
                "encryption key",
                fingerprint(&first.encryption.1),
                fingerprint(&second.encryption.1),
            );
        }
        let integrity = |esp: &Esp| esp.integrity.as_ref().map_or("none", |one| one.0.name());
        if integrity(first) != integrity(second) {
            self.differs(subject, "integrity", integrity(first), integrity(second));
        }
        if let (Some((_, first)), Some((_, second))) = (&first.integrity, &second.integrity)
            && first != second
        {
            self.differs(subject, "integrity key", fingerprint(first), fingerprint(second));
        }
        if first.extended_sequence_numbers != second.extended_sequence_numbers {
            let word = |esp: &Esp| if esp.extended_sequence_numbers { "64 bits" } else { "32 bits" };
            self.differs(subject, "sequence numbers", word(first), word(second));
        }
        if first.lifetime != second.lifetime {
            self.differs(subject, "lifetime", lifetime_words(&first.lifetime), lifetime_words(&second.lifetime));
        }
        self.replay(subject, (first.replay_window, second.replay_window), to_home_agent);
    }

    /// A window counts where packets come in: two files of one role must agree on it, two sides need not.
    fn replay(&mut self, subject: &str, windows: (u32, u32), to_home_agent: bool) {
        let receiver = if to_home_agent { Role::HomeAgent } else { Role::MobileNode };
        let words = |window: u32| format!("{window} packets");
        match (self.first.role, self.second.role) {
            (Some(first), Some(second)) if first == second => {
                if windows.0 != windows.1 && first == receiver {
                    self.differs(subject, "replay window", words(windows.0), words(windows.1));
                }
            }
            (first, second) => {
                let open = |side: &Side, role: Option<Role>, window: u32| {
                    (role == Some(receiver) && window == 0 && !side.associations.is_empty()).then(|| name(side))
                };
                let open = open(self.first, first, windows.0).or(open(self.second, second, windows.1));
                if let Some(side) = open {
                    self.notes.push(format!("{subject}: {side} lets replayed packets in (replay window 0)"));
                }
            }
        }
    }
}

/// A lifetime in a few words: `soft 1000 packets, hard 2000 packets 3600 s`.
pub fn lifetime_words(lifetime: &AssociationLifetime) -> String {
    let words = |name: &str, limits: &Limits| {
        let all = [("octets", limits.bytes), ("packets", limits.packets), ("s", limits.seconds)];
        let said: Vec<String> =
            all.into_iter().filter_map(|(unit, limit)| limit.map(|limit| format!("{limit} {unit}"))).collect();
        (!said.is_empty()).then(|| format!("{name} {}", said.join(" ")))
    };
    let both = [words("soft", &lifetime.soft), words("hard", &lifetime.hard)];
    let said: Vec<String> = both.into_iter().flatten().collect();
    if said.is_empty() { "no limit".to_owned() } else { said.join(", ") }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "A  {}\nB  {}\n", self.sides[0], self.sides[1])?;
        if !self.differences.is_empty() {
            let width = |text: fn(&Difference) -> &str, least: usize| {
                self.differences.iter().take(SHOWN).map(|one| text(one).chars().count()).max().unwrap_or(0).max(least)
            };
            let (subject, what) = (width(|one| &one.subject, 0), width(|one| one.what, 0));
            let first = width(|one| &one.first, 1);
            writeln!(f, "{:subject$}  {:what$}  {:first$}  B", "", "", "A")?;
            let mut last = "";
            for one in self.differences.iter().take(SHOWN) {
                let shown = if one.subject == last { "" } else { &one.subject };
                last = &one.subject;
                writeln!(f, "{shown:subject$}  {:what$}  {:first$}  {}", one.what, one.first, one.second)?;
            }
            if let Some(more) = self.differences.len().checked_sub(SHOWN).filter(|more| *more > 0) {
                writeln!(f, "… and {more} more")?;
            }
            writeln!(f)?;
        }
        for note in self.notes.iter().take(SHOWN) {
            writeln!(f, "note: {note}")?;
        }
        let plural = |count: usize, noun: &str| format!("{count} {noun}{}", if count == 1 { "" } else { "s" });
        let compared = format!(
            "{} and {} compared",
            plural(self.registrations, "registration"),
            plural(self.associations, "security association")
        );
        match self.differences.len() {
            0 => writeln!(f, "The two sides agree ({compared})."),
            count => writeln!(f, "{} ({compared}).", plural(count, "difference")),
        }
    }
}
