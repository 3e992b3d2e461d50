//! Resolving a `[[guest]]`.

use std::net::Ipv6Addr;
use std::ops::Range;
use std::time::Duration;

use toml::Spanned;

use super::resolve::Resolver;
use super::schema;
use super::value;
use super::{Attachment, GuestPolicy, Port, Protection, Role, RouterPolicy};

const DEFAULT_LIFETIME: Duration = Duration::from_secs(600);

impl Resolver<'_> {
    /// One guest; none after errors, some of which may have been left out because they follow from others.
    pub(super) fn guest(&mut self, index: usize, table: &Spanned<schema::Guest>) -> Option<GuestPolicy> {
        let (span, fields) = (table.span(), table.get_ref());
        let name = self.guest_name(index, table);
        let path = name.as_ref().map_or_else(|| format!("guest[{index}]"), |name| format!("guest.{name}"));
        let home_address = self.home_address(table, &path);
        self.only_in(Role::MobileNode, &fields.lifetime, &format!("{path}.lifetime"));
        let lifetime = self.optional(&fields.lifetime, &format!("{path}.lifetime"), |s| value::lifetime(*s));
        let attachment = match self.role {
            Role::MobileNode => self.attachment(table, &path).map(Some),
            Role::HomeAgent => {
                self.only_in(Role::MobileNode, &fields.mac, &format!("{path}.mac"));
                self.only_in(Role::MobileNode, &fields.port, &format!("{path}.port"));
                self.only_in(Role::MobileNode, &fields.router, &format!("{path}.router"));
                self.only_in(Role::MobileNode, &fields.attach, &format!("{path}.attach"));
                Some(None)
            }
        };
        let protection = self.protection(&span, fields, &path, home_address);
        Some(GuestPolicy {
            name: name?,
            home_address: home_address?,
            lifetime: lifetime?.unwrap_or(DEFAULT_LIFETIME),
            protection: protection?,
            attachment: attachment?,
        })
    }

    fn guest_name(&mut self, index: usize, table: &Spanned<schema::Guest>) -> Option<String> {
        let key = format!("guest[{index}].name");
        let field = self.required(&table.get_ref().name, &table.span(), &key, "\"vm1\"")?;
        let name = self.judged(field, &key, |text| value::guest_name(text))?;
        let again = (format!("another guest is called {name:?} too"), "give each guest a name of its own");
        self.once(|seen| &mut seen.names, name.clone(), field.span(), &key, again);
        Some(name)
    }

    fn home_address(&mut self, table: &Spanned<schema::Guest>, path: &str) -> Option<Ipv6Addr> {
        let key = format!("{path}.home_address");
        let field = self.required(&table.get_ref().home_address, &table.span(), &key, "\"2001:db8:2000::10\"")?;
        let address = self.judged(field, &key, |text| value::unicast_address(text))?;
        if self.home_agent_address == Some(address) {
            let diagnostic = self.at(field.span(), &key, format!("{address} is the address of the home agent itself"));
            self.error(diagnostic.help("write the address that the guest has at home"));
        } else if let Some(home_link) = self.home_link {
            self.must_be_on_home_link(field, &key, address, home_link);
        }
        let again = (
            format!("another guest has the home address {address} too"),
            "give each guest a home address of its own; two [[guest]] cannot share one",
        );
        self.once(|seen| &mut seen.home_addresses, address, field.span(), &key, again);
        Some(address)
    }

    fn attachment(&mut self, table: &Spanned<schema::Guest>, path: &str) -> Option<Attachment> {
        let (span, fields) = (table.span(), table.get_ref());
        let key = format!("{path}.mac");
        let mac_field = self.required(&fields.mac, &span, &key, "\"52:54:00:00:00:10\"");
        let mac = mac_field.and_then(|field| self.judged(field, &key, |text| value::mac(text)));
        if let (Some(mac), Some(field)) = (mac, mac_field) {
            let again = (
                format!("another guest has the MAC address {mac} too"),
                "frames are told apart by it: give each guest a MAC address of its own",
            );
            self.once(|seen| &mut seen.macs, mac, field.span(), &key, again);
        }
        let key = format!("{path}.port");
        let port_field = self.required(&fields.port, &span, &key, "{ bridge = \"br-home\" }");
        let port = port_field.and_then(|field| self.port(field, &key));
        let router = match &fields.router {
            None => Some(RouterPolicy::default()),
            Some(field) => self.router(field, &format!("{path}.router")),
        };
        if let (Some(mac), Some(router), Some(field)) = (mac, router, mac_field)
            && mac == router.mac
        {
            let key = format!("{path}.mac");
            let diagnostic = self.at(field.span(), &key, format!("the guest has the MAC address {mac} of its router"));
            self.error(
                diagnostic.help("give the guest another MAC address, or name another one in router = { mac = … }"),
            );
        }
        let attach = self.optional(&table.get_ref().attach, &format!("{path}.attach"), |text| value::attach_mode(text));
        Some(Attachment { mac: mac?, port: port?, router: router?, attach: attach?.unwrap_or_default() })
    }

    fn port(&mut self, table: &Spanned<schema::Port>, key: &str) -> Option<Port> {
        let help = "write { bridge = \"br-home\" } for a bridge that the guest's interface is a port of, or { tap = \"tap0\" } for \
                    the host's end of the guest's own link";
        let (field, kind): (_, fn(String) -> Port) = match (&table.get_ref().bridge, &table.get_ref().tap) {
            (Some(field), None) => (field, Port::Bridge),
            (None, Some(field)) => (field, Port::Tap),
            (None, None) => {
                let diagnostic = self.at(table.span(), key, "expected a bridge or a tap, got neither");
                self.error(diagnostic.help(help));
                return None;
            }
            (Some(_), Some(_)) => {
                let diagnostic = self.at(table.span(), key, "expected a bridge or a tap, got both");
                self.error(diagnostic.help(help));
                return None;
            }
        };
        let port = kind(self.judged(field, key, |text| value::interface(text))?);
        self.port_is_free(&port, field.span(), key);
        Some(port)
    }

    /// Many guests may share a bridge; a tap is one guest's; the uplink is none of both.
    fn port_is_free(&mut self, port: &Port, span: Range<usize>, key: &str) {
        let name = port.interface();
        let taken = match port {
            Port::Tap(_) => self.seen.taps.get(name).or_else(|| self.seen.bridges.get(name)),
            Port::Bridge(_) => self.seen.taps.get(name),
        };
        if let Some(first) = taken.cloned() {
            let diagnostic = self.at(span, key, format!("{name} is the port of another guest already"));
            let help =
                "a tap serves one guest; to serve many, put their interfaces into a bridge and name that for each";
            self.error(diagnostic.label("here again").related(first, "first here").help(help));
            return;
        }
        if let Some(first) = self.seen.uplink.get(name).cloned() {
            let diagnostic = self.at(span, key, format!("{name} is the uplink; no guest can be there"));
            let help = "name the bridge or tap of the guest, or correct uplink.interface";
            self.error(diagnostic.related(first, "the uplink").help(help));
            return;
        }
        let seen = match port {
            Port::Tap(_) => &mut self.seen.taps,
            Port::Bridge(_) => &mut self.seen.bridges,
        };
        seen.insert(name.to_owned(), span);
    }

    fn router(&mut self, table: &Spanned<schema::Router>, key: &str) -> Option<RouterPolicy> {
        let fields = table.get_ref();
        let link_local =
            self.optional(&fields.link_local, &format!("{key}.link_local"), |text| value::link_local(text));
        let mac = self.optional(&fields.mac, &format!("{key}.mac"), |text| value::mac(text));
        let autonomous = fields.autonomous.as_ref().is_some_and(|field| *field.get_ref());
        if let (true, Some(field), Some(link)) = (autonomous, &fields.autonomous, self.home_link)
            && link.length() != 64
        {
            let message =
                format!("guests form addresses of their own from a /64 only (RFC 4862 §5.5.3), and {link} is none");
            let diagnostic = self.at(field.span(), &format!("{key}.autonomous"), message);
            self.error(diagnostic.help("leave autonomous out"));
        }
        Some(RouterPolicy {
            link_local: link_local?.unwrap_or(RouterPolicy::DEFAULT_LINK_LOCAL),
            mac: mac?.unwrap_or(RouterPolicy::DEFAULT_MAC),
            autonomous,
        })
    }

    fn protection(
        &mut self,
        span: &Range<usize>,
        fields: &schema::Guest,
        path: &str,
        home_address: Option<Ipv6Addr>,
    ) -> Option<Protection> {
        let key = format!("{path}.protect");
        let first_association = fields.security_association.first().map(Spanned::span);
        let help = "add [guest.protect.home-registration] and two [[guest.security_association]]; say protect = \"none\" if you \
                    mean that binding updates go in the clear";
        let Some(protect) = &fields.protect else {
            let (span, message) = match first_association {
                None => (span.clone(), "nothing is said about the protection of this guest"),
                Some(span) => (span, "there are security associations, but no class of traffic to protect with them"),
            };
            let diagnostic = self.at(span, &key, message);
            self.error(diagnostic.help(help));
            return None;
        };
        let classes = match protect.get_ref() {
            schema::Protect::Classes(classes) => classes,
            schema::Protect::Word(word) if word == "none" => {
                if let Some(first) = first_association {
                    let diagnostic =
                        self.at(protect.span(), &key, "protection is none, yet there are security associations");
                    let help = "take the [[guest.security_association]] out, or protect = \"none\"";
                    self.error(diagnostic.related(first, "this one").help(help));
                    return None;
                }
                let message = "binding updates of this guest go in the clear: whoever can send packets to the home agent \
                               can take its traffic";
                let diagnostic = self.at(protect.span(), &key, message);
                self.warn(
                    diagnostic.help("protect it with [guest.protect.home-registration]; policies/ha.toml shows how"),
                );
                return Some(Protection::None);
            }
            schema::Protect::Word(word) => {
                let message = format!("expected \"none\" or a table of protection classes, got {word:?}");
                let diagnostic = self.at(protect.span(), &key, message);
                self.error(diagnostic.help(help));
                return None;
            }
        };
        let Some(class) = &classes.home_registration else {
            let diagnostic = self.at(protect.span(), &key, "no class of traffic is named");
            self.error(diagnostic.help(help));
            return None;
        };
        let reqid = self.reqid(class, &format!("{key}.home-registration.reqid"));
        let associations = self.associations(span, fields, path, (home_address, reqid));
        let (reqid_to_home_agent, reqid_to_guest) = reqid?;
        Some(Protection::HomeRegistration { reqid_to_home_agent, reqid_to_guest, associations: associations? })
    }

    /// The reqids, to the home agent and to the guest.
    fn reqid(&mut self, class: &Spanned<schema::HomeRegistration>, key: &str) -> Option<(u32, u32)> {
        let example = "{ to_home_agent = 1, to_guest = 2 }";
        let table = self.required(&class.get_ref().reqid, &class.span(), key, example)?;
        let fields = table.get_ref();
        let to_home_agent = self.required(&fields.to_home_agent, &table.span(), &format!("{key}.to_home_agent"), "1");
        let to_guest = self.required(&fields.to_guest, &table.span(), &format!("{key}.to_guest"), "2");
        let first =
            to_home_agent.and_then(|field| self.judged(field, &format!("{key}.to_home_agent"), |n| value::reqid(*n)));
        let second = to_guest.and_then(|field| self.judged(field, &format!("{key}.to_guest"), |n| value::reqid(*n)));
        let (first, second) = (first?, second?);
        if first == second {
            let diagnostic = self.at(table.span(), key, format!("both directions have the reqid {first}"));
            let help = format!("give the directions two reqids, such as {example}, the same as on the home agent");
            self.error(diagnostic.help(help));
            return None;
        }
        Some((first, second))
    }
}
