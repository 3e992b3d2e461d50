//! Resolving a `[[guest]]`.

use std::net::Ipv6Addr;
use std::ops::Range;
use std::time::Duration;

use toml::Spanned;

use super::resolve::Resolver;
use super::schema;
use super::value;
use super::{Attachment, GuestPolicy, Port, Role, RouterPolicy};

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
                self.only_in(Role::MobileNode, &fields.qmp, &format!("{path}.qmp"));
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
        let qmp = self.optional(&table.get_ref().qmp, &format!("{path}.qmp"), |text| value::socket_path(text));
        Some(Attachment { mac: mac?, port: port?, router: router?, attach: attach?.unwrap_or_default(), qmp: qmp? })
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
}
