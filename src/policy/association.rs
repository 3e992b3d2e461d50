//! Resolving the `[[guest.security_association]]` of a guest.

use std::net::Ipv6Addr;
use std::ops::Range;

use toml::Spanned;

use super::Role;
use super::keys::KeyPaths;
use super::protection::Classes;
use super::resolve::Resolver;
use super::schema;
use super::syntax::nearest;
use super::value::{self, Wrong};
use crate::ipsec::{AssociationKey, Class, Encryption, Esp, EspMode, SecurityAssociation, Toward, Transform};

/// IP protocol number of ESP.
const ESP: u8 = 50;

/// Packets in the replay window of an inbound SA unless the file says otherwise.
const DEFAULT_REPLAY_WINDOW: u32 = 32;

fn toward(name: &str) -> Result<Toward, Wrong> {
    Toward::BOTH.into_iter().find(|toward| toward.name() == name).ok_or_else(|| {
        Wrong::new(
            format!("expected \"to-home-agent\" or \"to-guest\", got {name:?}"),
            "the direction is the one of the packets: binding updates go to-home-agent, acknowledgements to-guest; it is \
             the same in the files of both sides",
        )
    })
}

/// Whether packets of this direction come in on the machine of `role`.
fn is_inbound(toward: Toward, role: Role) -> bool {
    matches!((toward, role), (Toward::HomeAgent, Role::HomeAgent) | (Toward::Guest, Role::MobileNode))
}

/// A resolved SA and where its direction stood.
struct Resolved {
    class: Class,
    toward: Toward,
    span: Range<usize>,
    /// The host that alone encrypts with it.
    host: Option<String>,
    /// None after errors, and when key files are not read.
    association: Option<SecurityAssociation>,
}

/// What stands around an SA in its file.
#[derive(Clone, Copy)]
struct Context<'a> {
    home_address: Option<Ipv6Addr>,
    classes: &'a Classes,
}

impl Resolver<'_> {
    /// The SAs of a guest: by class, and of each those to the home agent first.
    pub(super) fn associations(
        &mut self,
        guest: &Range<usize>,
        fields: &schema::Guest,
        path: &str,
        (home_address, classes): (Option<Ipv6Addr>, &Classes),
    ) -> Option<Vec<SecurityAssociation>> {
        let mut found: Vec<Resolved> = Vec::new();
        let mut all_known = true;
        for (index, table) in fields.security_association.iter().enumerate() {
            let key = format!("{path}.security_association[{index}]");
            match self.association(table, &key, Context { home_address, classes }) {
                None => all_known = false,
                Some(one) => {
                    self.one_for_each_sender(&found, &one, &key);
                    found.push(one);
                }
            }
        }
        let several = classes.len() > 1;
        for (class, toward) in classes.keys().flat_map(|class| Toward::BOTH.map(|toward| (*class, toward))) {
            if all_known && !found.iter().any(|one| (one.class, one.toward) == (class, toward)) {
                let key = format!("{path}.security_association");
                let (of, with) = match several {
                    true => (format!(" of class {class}"), format!("class = \"{class}\" and ")),
                    false => (String::new(), String::new()),
                };
                let message = format!("there is no security association {toward}{of}");
                let diagnostic = self.at(guest.clone(), &key, message);
                let help = format!(
                    "add a [[guest.security_association]] with {with}direction = \"{toward}\"; each direction{} needs one",
                    if several { " of each class" } else { "" }
                );
                self.error(diagnostic.help(help));
            }
        }
        found.sort_by_key(|one| (one.class, one.toward));
        Some(found.into_iter().filter_map(|one| one.association).collect())
    }

    /// Each sender has one SA of a class: the home agent one to the guest, a host one to the home agent. So only a home agent holds
    /// many in one direction: one for each host that the guest may be on, all with one reqid.
    fn one_for_each_sender(&mut self, found: &[Resolved], one: &Resolved, key: &str) {
        let mut earlier = found.iter().filter(|earlier| (earlier.class, earlier.toward) == (one.class, one.toward));
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

    /// The class that an SA serves; it need not be said when the guest has one only.
    fn class(&mut self, table: &Spanned<schema::Association>, key: &str, classes: &Classes) -> Option<Class> {
        let key = format!("{key}.class");
        let names: Vec<&str> = classes.keys().map(|class| class.name()).collect();
        let Some(field) = &table.get_ref().class else {
            if let [class] = classes.keys().copied().collect::<Vec<_>>()[..] {
                return Some(class);
            }
            let message = "`class` is missing, and this guest has several classes of protection";
            let diagnostic = self.at(table.span(), &key, message).label("`class` is missing here");
            self.error(diagnostic.help(format!("say which it serves, class = …: {}", names.join(", "))));
            return None;
        };
        self.judged(field, &key, |name| {
            let class = Class::from_name(name);
            match class {
                Some(class) if classes.contains_key(&class) => Ok(class),
                Some(class) => Err(Wrong::new(
                    format!("this guest has no protection of the class {class}"),
                    format!("add [guest.protect.{class}] with its reqids, or name one of: {}", names.join(", ")),
                )),
                None => {
                    let near = nearest(name, &Class::ALL.map(Class::name), 3);
                    let hint = near.map_or_else(String::new, |near| format!("did you mean {near:?}? "));
                    Err(Wrong::new(
                        format!("expected a class of protection, got {name:?}"),
                        format!("{hint}this guest has: {}", names.join(", ")),
                    ))
                }
            }
        })
    }

    /// The mode follows from the class; a file that says another one means something else.
    fn mode(&mut self, fields: &schema::Association, key: &str, class: Option<Class>) {
        let (Some(field), Some(class)) = (&fields.mode, class) else { return };
        let (found, right) = (field.get_ref(), class.mode().name());
        if found != right {
            let message = if [EspMode::Transport.name(), EspMode::Tunnel.name()].contains(&found.as_str()) {
                format!("the class {class} is protected in {right} mode, not in {found} mode")
            } else {
                format!("expected \"{right}\", the mode of the class {class}, got {found:?}")
            };
            let diagnostic = self.at(field.span(), &format!("{key}.mode"), message);
            self.error(diagnostic.help("take mode out: it follows from the class; or name another class"));
        }
    }

    /// One SA; none when not even its class and direction are known.
    fn association(
        &mut self,
        table: &Spanned<schema::Association>,
        key: &str,
        Context { home_address, classes }: Context<'_>,
    ) -> Option<Resolved> {
        let (span, fields) = (table.span(), table.get_ref());
        let direction_key = format!("{key}.direction");
        let class = self.class(table, key, classes);
        let direction = self.required(&fields.direction, &span, &direction_key, "\"to-home-agent\"");
        let toward = direction.and_then(|field| self.judged(field, &direction_key, |name| toward(name)));
        self.mode(fields, key, class);
        let ends =
            self.home_agent_address.zip(home_address).zip(toward).map(|((home_agent, guest), toward)| match toward {
                Toward::HomeAgent => (guest, home_agent),
                Toward::Guest => (home_agent, guest),
            });
        let shared_end = class.is_some_and(Class::is_tunnel) && toward == Some(Toward::Guest);
        let spi = self.spi(table, &format!("{key}.spi"), ends.map(|(_, destination)| destination), shared_end);
        let owner = key.rsplit_once('.').map_or(key, |(guest, _)| guest).replacen('.', " ", 1);
        let several = if classes.len() > 1 { class.map(|class| format!(" {class}")) } else { None }.unwrap_or_default();
        let words = toward.map_or_else(|| owner.clone(), |toward| format!("{owner}{several} {toward}"));
        let host = self.host(table, key, toward);
        let (keying, paths) = self.keying(table, key, &words);
        let extended = fields.esn.as_ref().is_some_and(|field| *field.get_ref());
        let window = self.window(fields, key, toward.map(|toward| is_inbound(toward, self.role)), extended);
        let lifetime = self.association_lifetime(fields.lifetime.as_ref(), &format!("{key}.lifetime"));
        let (class, toward, direction) = (class?, toward?, direction?);
        let reqid = classes.get(&class).copied().flatten().map(|reqids| reqids.toward(toward));
        let association = (|| -> Option<SecurityAssociation> {
            let (source, destination) = ends?;
            let (encryption, integrity) = keying?;
            Some(SecurityAssociation {
                key: AssociationKey { source, destination, protocol: ESP, spi: spi? },
                transform: Transform::Esp(Esp {
                    mode: class.mode(),
                    reqid: reqid?,
                    encryption,
                    integrity,
                    replay_window: window?,
                    extended_sequence_numbers: extended,
                    lifetime: lifetime?,
                }),
            })
        })();
        if let Some(association) = &association {
            self.key_paths.push(KeyPaths { association: association.key, host: host.clone(), ..paths });
        }
        Some(Resolved { class, toward, span: direction.span(), host, association })
    }

    /// The replay window. It counts where packets come in; one that goes out has none, but for extended sequence numbers, which the
    /// kernel does not make without.
    fn window(
        &mut self,
        fields: &schema::Association,
        key: &str,
        inbound: Option<bool>,
        extended: bool,
    ) -> Option<u32> {
        let key = format!("{key}.replay_window");
        let window = self.optional(&fields.replay_window, &key, |packets| value::replay_window(*packets))?;
        if let (Some(0), Some(field)) = (window, &fields.replay_window) {
            if extended {
                let diagnostic = self.at(field.span(), &key, "extended sequence numbers need a replay window");
                let help = "leave replay_window out for 32 packets: the receiver finds the high half of a number by it";
                self.error(diagnostic.help(help));
                return None;
            }
            if inbound == Some(true) {
                let diagnostic = self.at(field.span(), &key, "replayed packets are let in");
                self.warn(diagnostic.help("leave replay_window out for a window of 32 packets"));
            }
        }
        let default = if inbound == Some(true) || extended { DEFAULT_REPLAY_WINDOW } else { 0 };
        Some(window.unwrap_or(default))
    }

    /// `shared_end`: the destination becomes a care-of address that it has in common with other guests.
    fn spi(
        &mut self,
        table: &Spanned<schema::Association>,
        key: &str,
        destination: Option<Ipv6Addr>,
        shared_end: bool,
    ) -> Option<u32> {
        let field = self.required(&table.get_ref().spi, &table.span(), key, "0x3e8")?;
        let spi = self.judged(field, key, |number| value::spi(*number))?;
        if let Some(destination) = destination {
            let message = format!("SPI {spi:#x} is used for another security association to {destination} too");
            let help = "the receiver finds the security association by its SPI: give each one to the same address an SPI of its own";
            self.once(|seen| &mut seen.spis, (destination, spi), field.span(), key, (message, help));
        }
        if shared_end {
            let message = format!("SPI {spi:#x} is used for another tunnel to a guest too");
            let help = "on one host the tunnels of all guests end at one address: give each an SPI of its own";
            self.once(|seen| &mut seen.spis, (Ipv6Addr::UNSPECIFIED, spi), field.span(), key, (message, help));
        }
        Some(spi)
    }
}
