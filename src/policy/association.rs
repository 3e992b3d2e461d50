//! Resolving the `[[guest.security_association]]` of a guest.

use std::fmt;
use std::net::Ipv6Addr;
use std::ops::Range;

use toml::Spanned;

use super::Role;
use super::keys::KeyPaths;
use super::resolve::Resolver;
use super::schema;
use super::value::{self, Wrong};
use crate::ipsec::{AssociationKey, Encryption, SecurityAssociation, Transform};

/// IP protocol number of ESP.
const ESP: u8 = 50;

/// Packets in the replay window of an inbound SA unless the file says otherwise.
const DEFAULT_REPLAY_WINDOW: u32 = 32;

/// The two directions of a registration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Toward {
    HomeAgent,
    Guest,
}

impl Toward {
    fn from_name(name: &str) -> Result<Self, Wrong> {
        match name {
            "to-home-agent" => Ok(Self::HomeAgent),
            "to-guest" => Ok(Self::Guest),
            _ => Err(Wrong::new(
                format!("expected \"to-home-agent\" or \"to-guest\", got {name:?}"),
                "the direction is the one of the packets: binding updates go to-home-agent, acknowledgements to-guest; it is \
                 the same in the files of both sides",
            )),
        }
    }

    /// Whether packets of this direction come in on the machine of `role`.
    fn is_inbound(self, role: Role) -> bool {
        matches!((self, role), (Self::HomeAgent, Role::HomeAgent) | (Self::Guest, Role::MobileNode))
    }
}

impl fmt::Display for Toward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::HomeAgent => "to-home-agent",
            Self::Guest => "to-guest",
        })
    }
}

/// A resolved SA and where its direction stood.
struct Resolved {
    toward: Toward,
    span: Range<usize>,
    /// The host that alone encrypts with it.
    host: Option<String>,
    /// None after errors, and when key files are not read.
    association: Option<SecurityAssociation>,
}

impl Resolver<'_> {
    /// The SAs of a guest, those to the home agent first.
    pub(super) fn associations(
        &mut self,
        guest: &Range<usize>,
        fields: &schema::Guest,
        path: &str,
        (home_address, reqid): (Option<Ipv6Addr>, Option<(u32, u32)>),
    ) -> Option<Vec<SecurityAssociation>> {
        let mut found: Vec<Resolved> = Vec::new();
        let mut directions_known = true;
        for (index, table) in fields.security_association.iter().enumerate() {
            let key = format!("{path}.security_association[{index}]");
            match self.association(table, &key, home_address, reqid) {
                None => directions_known = false,
                Some(one) => {
                    self.one_for_each_sender(&found, &one, &key);
                    found.push(one);
                }
            }
        }
        for toward in [Toward::HomeAgent, Toward::Guest] {
            if directions_known && !found.iter().any(|one| one.toward == toward) {
                let key = format!("{path}.security_association");
                let diagnostic = self.at(guest.clone(), &key, format!("there is no security association {toward}"));
                let help = format!(
                    "add a [[guest.security_association]] with direction = \"{toward}\"; each direction needs one"
                );
                self.error(diagnostic.help(help));
            }
        }
        found.sort_by_key(|one| one.toward == Toward::Guest);
        Some(found.into_iter().filter_map(|one| one.association).collect())
    }

    /// Each sender has one SA: the home agent one to the guest, a host one to the home agent. So only a home agent holds many
    /// in one direction: one for each host that the guest may be on, all with one reqid.
    fn one_for_each_sender(&mut self, found: &[Resolved], one: &Resolved, key: &str) {
        let mut earlier = found.iter().filter(|earlier| earlier.toward == one.toward);
        if self.role == Role::HomeAgent && one.toward == Toward::HomeAgent {
            let Some(first) =
                earlier.find(|earlier| [&earlier.host, &one.host].contains(&&None) || earlier.host == one.host)
            else {
                return;
            };
            let message = match &one.host {
                Some(host) if first.host.is_some() => {
                    format!("host {host:?} has a security association to-home-agent already")
                }
                _ => "there are several security associations to-home-agent, and not each names its host".to_owned(),
            };
            let diagnostic = self.at(one.span.clone(), &format!("{key}.host"), message).label("here again");
            let help =
                "a guest may have one for each host that it can be on: give each its own host = \"NAME\", SPI and keys";
            self.error(diagnostic.related(first.span.clone(), "first here").help(help));
        } else if let Some(first) = earlier.next() {
            let message = format!("there is another security association {} for this guest", one.toward);
            let diagnostic = self.at(one.span.clone(), &format!("{key}.direction"), message);
            let help = match one.toward {
                Toward::HomeAgent => {
                    "a host has one, and the home agent one for each host: with two here, the kernel would be free to send \
                     with either"
                }
                Toward::Guest => "each direction has one: with two, the kernel would be free to send with either",
            };
            let diagnostic = diagnostic.label("here again").related(first.span.clone(), "first here");
            self.error(diagnostic.help(help));
        }
    }

    /// The host of an SA: the one machine that encrypts with it. A key of a counter mode has one such machine, and must say
    /// which: two that start from the same counter give both their plaintexts away (RFC 4106 §2).
    fn host(&mut self, table: &Spanned<schema::Association>, key: &str, toward: Option<Toward>) -> Option<String> {
        let (fields, key) = (table.get_ref(), format!("{key}.host"));
        let Some(field) = &fields.host else {
            let algorithm = fields.encryption.as_ref().and_then(|table| table.get_ref().algorithm.as_ref());
            let counter_mode =
                algorithm.filter(|name| Encryption::from_name(name.get_ref()).is_some_and(Encryption::is_counter_mode));
            if let (Some(name), Some(Toward::HomeAgent)) = (counter_mode, toward) {
                let message = format!(
                    "`host` is missing: with {} a key may encrypt on one host only, or two hosts give both away (RFC 4106 §2)",
                    name.get_ref()
                );
                let diagnostic = self.at(table.span(), &key, message).label("`host` is missing here");
                let example = self.this_host.clone().unwrap_or_else(|| "host-a".to_owned());
                let help = format!(
                    "add host = {example:?}, the name of the one host that has this SPI and key; other hosts get others, and the \
                     home agent one security association for each, all with one reqid"
                );
                self.error(diagnostic.help(help));
            }
            return None;
        };
        let host = self.judged(field, &key, |text| value::host_name(text))?;
        if toward == Some(Toward::Guest) {
            let diagnostic =
                self.at(field.span(), &key, "every host of the guest decrypts with this security association");
            self.error(diagnostic.help("take host out here; it belongs to those that are to-home-agent"));
        } else if let (Role::MobileNode, Some(this)) = (self.role, self.this_host.clone())
            && this != host
        {
            let message = format!("this security association is host {host:?}'s, and this is {this:?}");
            let diagnostic = self.at(field.span(), &key, message);
            let help = "one host alone may encrypt with it: give this host an SPI and keys of its own, and the home agent the same";
            self.error(diagnostic.help(help));
        }
        Some(host)
    }

    /// One SA; none when not even its direction is known.
    fn association(
        &mut self,
        table: &Spanned<schema::Association>,
        key: &str,
        home_address: Option<Ipv6Addr>,
        reqid: Option<(u32, u32)>,
    ) -> Option<Resolved> {
        let (span, fields) = (table.span(), table.get_ref());
        let direction_key = format!("{key}.direction");
        let direction = self.required(&fields.direction, &span, &direction_key, "\"to-home-agent\"");
        let toward = direction.and_then(|field| self.judged(field, &direction_key, |name| Toward::from_name(name)));
        let ends =
            self.home_agent_address.zip(home_address).zip(toward).map(|((home_agent, guest), toward)| match toward {
                Toward::HomeAgent => (guest, home_agent),
                Toward::Guest => (home_agent, guest),
            });
        let spi = self.spi(table, &format!("{key}.spi"), ends.map(|(_, destination)| destination));
        let owner = key.rsplit_once('.').map_or(key, |(guest, _)| guest).replacen('.', " ", 1);
        let words = toward.map_or_else(|| owner.clone(), |toward| format!("{owner} {toward}"));
        let host = self.host(table, key, toward);
        let (keying, paths) = self.keying(table, key, &words);
        let window_key = format!("{key}.replay_window");
        let window = self.optional(&fields.replay_window, &window_key, |packets| value::replay_window(*packets));
        let (toward, direction) = (toward?, direction?);
        let inbound = toward.is_inbound(self.role);
        if let (Some(Some(0)), Some(field), true) = (window, &fields.replay_window, inbound) {
            let diagnostic = self.at(field.span(), &window_key, "replayed packets are let in");
            self.warn(diagnostic.help("leave replay_window out for a window of 32 packets"));
        }
        let association = (|| -> Option<SecurityAssociation> {
            let (source, destination) = ends?;
            let (to_home_agent, to_guest) = reqid?;
            let (encryption, integrity) = keying?;
            Some(SecurityAssociation {
                key: AssociationKey { source, destination, protocol: ESP, spi: spi? },
                transform: Transform::EspTransport {
                    reqid: if toward == Toward::HomeAgent { to_home_agent } else { to_guest },
                    encryption,
                    integrity,
                    replay_window: window?.unwrap_or(if inbound { DEFAULT_REPLAY_WINDOW } else { 0 }),
                },
            })
        })();
        if let Some(association) = &association {
            self.key_paths.push(KeyPaths { association: association.key, host: host.clone(), ..paths });
        }
        Some(Resolved { toward, span: direction.span(), host, association })
    }

    fn spi(&mut self, table: &Spanned<schema::Association>, key: &str, destination: Option<Ipv6Addr>) -> Option<u32> {
        let field = self.required(&table.get_ref().spi, &table.span(), key, "0x3e8")?;
        let spi = self.judged(field, key, |number| value::spi(*number))?;
        if let Some(destination) = destination {
            let message = format!("SPI {spi:#x} is used for another security association to {destination} too");
            let help = "the receiver finds the security association by its SPI: give each one to the same address an SPI of its own";
            self.once(|seen| &mut seen.spis, (destination, spi), field.span(), key, (message, help));
        }
        Some(spi)
    }
}
