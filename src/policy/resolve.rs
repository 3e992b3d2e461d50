//! From the schema to the policy: values are judged, defaults filled in, and everything wrong is collected.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::Ipv6Addr;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use toml::Spanned;

use super::keying::UsedKeys;
use super::keys::{KeyFile, KeyPaths, KeySource};
use super::report::{Diagnostic, Report, Source};
use super::schema::{self, Field};
use super::value::{self, Wrong};
use super::{HomeAgentPolicy, Policy, Role, UplinkPolicy};
use crate::vocabulary::{MacAddress, Prefix};

const DEFAULT_MAXIMUM_LIFETIME: Duration = Duration::from_secs(3600);

/// What became of a file.
pub(super) struct Resolved {
    pub(super) policy: Policy,
    pub(super) key_files: Vec<KeyFile>,
    pub(super) key_paths: Vec<KeyPaths>,
}

/// The state of resolving one file.
pub(super) struct Resolver<'a> {
    pub(super) role: Role,
    pub(super) source: Arc<Source>,
    /// None: key files are named, not read.
    pub(super) keys: Option<&'a dyn KeySource>,
    pub(super) key_files: Vec<KeyFile>,
    pub(super) key_paths: Vec<KeyPaths>,
    /// The name of this machine, where it matters.
    pub(super) this_host: Option<String>,
    /// Whether the SA at hand has `legacy = true`.
    pub(super) legacy_allowed: bool,
    pub(super) used_keys: UsedKeys,
    pub(super) home_agent_address: Option<Ipv6Addr>,
    pub(super) home_link: Option<Prefix>,
    pub(super) seen: Seen,
    errors: Vec<Diagnostic>,
    warnings: Vec<Diagnostic>,
}

/// What must stand only once in a file, and where it stood.
#[derive(Default)]
pub(super) struct Seen {
    pub(super) names: HashMap<String, Range<usize>>,
    pub(super) home_addresses: HashMap<Ipv6Addr, Range<usize>>,
    pub(super) macs: HashMap<MacAddress, Range<usize>>,
    pub(super) taps: HashMap<String, Range<usize>>,
    pub(super) bridges: HashMap<String, Range<usize>>,
    pub(super) uplink: HashMap<String, Range<usize>>,
    /// By destination and SPI (RFC 4301 §4.1).
    pub(super) spis: HashMap<(Ipv6Addr, u32), Range<usize>>,
    /// Of classes in tunnel mode.
    pub(super) tunnel_reqids: HashMap<u32, Range<usize>>,
}

impl<'a> Resolver<'a> {
    pub(super) fn new(role: Role, source: Arc<Source>, keys: Option<&'a dyn KeySource>) -> Self {
        Self {
            role,
            source,
            keys,
            key_files: Vec::new(),
            key_paths: Vec::new(),
            this_host: keys.and_then(KeySource::host_name),
            legacy_allowed: false,
            used_keys: UsedKeys::default(),
            home_agent_address: None,
            home_link: None,
            seen: Seen::default(),
            errors: Vec::new(),
            warnings: Vec::new(),
        }
    }

    /// The whole file.
    pub(super) fn resolve(mut self, file: &schema::File) -> Result<Resolved, Report> {
        let home_agent = self.home_agent(file.home_agent.as_ref());
        let uplink = self.uplink(file.uplink.as_ref());
        if file.guest.is_empty() {
            let diagnostic = self.at(0..0, "guest", "there is no guest in this file");
            self.error(diagnostic.help("add a [[guest]] with name and home_address; policies/ha.toml shows one"));
        }
        let mut guests = Vec::with_capacity(file.guest.len());
        for (index, guest) in file.guest.iter().enumerate() {
            guests.extend(self.guest(index, guest));
        }
        match home_agent {
            Some(home_agent) if self.errors.is_empty() => {
                self.warnings.sort_by_key(Diagnostic::offset);
                let warnings = self.warnings.into_iter().map(Diagnostic::into_warning).collect();
                let policy = Policy { role: self.role, home_agent, uplink, guests, warnings };
                Ok(Resolved { policy, key_files: self.key_files, key_paths: self.key_paths })
            }
            _ => Err(Report::new(self.errors)),
        }
    }

    fn home_agent(&mut self, table: Option<&Spanned<schema::HomeAgent>>) -> Option<HomeAgentPolicy> {
        let Some(table) = table else {
            let diagnostic = self.at(0..0, "home_agent", "there is no [home_agent] in this file");
            let help =
                "add: [home_agent], and under it address = \"2001:db8:2000::1\" and home_link = \"2001:db8:2000::/64\"";
            self.error(diagnostic.help(help));
            return None;
        };
        let (span, fields) = (table.span(), table.get_ref());
        let address_field = self.required(&fields.address, &span, "home_agent.address", "\"2001:db8:2000::1\"");
        let address = address_field
            .and_then(|field| self.judged(field, "home_agent.address", |text| value::unicast_address(text)));
        let link_field = self.required(&fields.home_link, &span, "home_agent.home_link", "\"2001:db8:2000::/64\"");
        let home_link =
            link_field.and_then(|field| self.judged(field, "home_agent.home_link", |text| value::home_link(text)));
        (self.home_agent_address, self.home_link) = (address, home_link);
        if let (Some(address), Some(home_link), Some(field)) = (address, home_link, address_field) {
            self.must_be_on_home_link(field, "home_agent.address", address, home_link);
        }
        let interface = self.home_link_interface(table);
        self.only_in(Role::HomeAgent, &fields.maximum_lifetime, "home_agent.maximum_lifetime");
        self.only_in(Role::HomeAgent, &fields.detect_duplicates, "home_agent.detect_duplicates");
        let maximum_lifetime =
            self.optional(&fields.maximum_lifetime, "home_agent.maximum_lifetime", |s| value::lifetime(*s))?;
        if let Some(field) = fields.key_management_mobility.as_ref().filter(|field| *field.get_ref()) {
            let message = "the K bit is set, though with manual keys it must be clear (RFC 6275 §6.1.7)";
            let diagnostic = self.at(field.span(), "home_agent.key_management_mobility", message);
            self.warn(diagnostic.help("leave it out, unless the home agent insists on it (umip: KeyMngMobCapability)"));
        }
        Some(HomeAgentPolicy {
            address: address?,
            home_link: home_link?,
            interface: interface?,
            maximum_lifetime: maximum_lifetime.unwrap_or(DEFAULT_MAXIMUM_LIFETIME),
            detect_duplicates: fields.detect_duplicates.as_ref().is_none_or(|field| *field.get_ref()),
            key_management_mobility: fields.key_management_mobility.as_ref().is_some_and(|field| *field.get_ref()),
        })
    }

    /// The interface on the home link; the inner none in the mobile-node role.
    fn home_link_interface(&mut self, table: &Spanned<schema::HomeAgent>) -> Option<Option<String>> {
        let (field, key) = (&table.get_ref().interface, "home_agent.interface");
        if self.role == Role::MobileNode {
            self.only_in(Role::HomeAgent, field, key);
            return Some(None);
        }
        let field = self.required(field, &table.span(), key, "\"eth0\"")?;
        self.judged(field, key, |text| value::interface(text)).map(Some)
    }

    fn uplink(&mut self, table: Option<&Spanned<schema::Uplink>>) -> UplinkPolicy {
        let Some(table) = table else { return UplinkPolicy::default() };
        if self.role == Role::HomeAgent {
            self.belongs_elsewhere(Role::MobileNode, table.span(), "uplink");
            return UplinkPolicy::default();
        }
        let fields = table.get_ref();
        let interface = self.optional(&fields.interface, "uplink.interface", |text| value::interface(text));
        if let (Some(Some(name)), Some(field)) = (&interface, &fields.interface) {
            self.seen.uplink.insert(name.clone(), field.span());
        }
        let key = "uplink.care_of_address";
        let care_of_address = self.optional(&fields.care_of_address, key, |text| value::unicast_address(text));
        if let (Some(Some(address)), Some(field), Some(home_link)) =
            (care_of_address, &fields.care_of_address, self.home_link)
            && home_link.contains(address)
        {
            let diagnostic = self.at(field.span(), key, format!("{address} is on the home link {home_link}"));
            self.error(
                diagnostic.help(
                    "a care-of address is one of the foreign link this host is on; leave it out to have it found",
                ),
            );
        }
        UplinkPolicy { interface: interface.flatten(), care_of_address: care_of_address.flatten() }
    }

    /// Whether an address is one that a node of the home link can have; otherwise it is an error.
    pub(super) fn must_be_on_home_link(&mut self, field: &Spanned<String>, key: &str, address: Ipv6Addr, link: Prefix) {
        if !link.contains(address) {
            let diagnostic = self.at(field.span(), key, format!("{address} is not on the home link {link}"));
            self.error(diagnostic.help("write an address of the home link, or correct home_agent.home_link"));
        } else if link.address() == address {
            let message =
                format!("{address} is the subnet-router anycast address of {link} (RFC 4291 §2.6.1), no node's own");
            let diagnostic = self.at(field.span(), key, message);
            self.error(diagnostic.help("write an address whose bits behind the prefix are not all zero"));
        }
    }
}

/// The tools of all resolving.
impl Resolver<'_> {
    pub(super) fn at(&self, span: Range<usize>, key: &str, message: impl Into<String>) -> Diagnostic {
        Diagnostic::new(&self.source, span, key, message)
    }

    pub(super) fn error(&mut self, diagnostic: Diagnostic) {
        self.errors.push(diagnostic);
    }

    pub(super) fn warn(&mut self, diagnostic: Diagnostic) {
        self.warnings.push(diagnostic);
    }

    /// A field that must be there; `example` is a value as one would write it.
    pub(super) fn required<'f, T>(
        &mut self,
        field: &'f Field<T>,
        table: &Range<usize>,
        key: &str,
        example: &str,
    ) -> Option<&'f Spanned<T>> {
        if field.is_none() {
            let name = key.rsplit('.').next().unwrap_or(key);
            let diagnostic =
                self.at(table.clone(), key, format!("`{name}` is missing")).label(format!("`{name}` is missing here"));
            self.error(diagnostic.help(format!("add, for example: {name} = {example}")));
        }
        field.as_ref()
    }

    /// The value of a field, or an error and none.
    pub(super) fn judged<T, V>(
        &mut self,
        field: &Spanned<T>,
        key: &str,
        judge: impl FnOnce(&T) -> Result<V, Wrong>,
    ) -> Option<V> {
        match judge(field.get_ref()) {
            Ok(value) => Some(value),
            Err(Wrong { message, help }) => {
                let diagnostic = self.at(field.span(), key, message);
                self.error(diagnostic.help(help));
                None
            }
        }
    }

    /// The value of a field that may be missing; none after an error.
    pub(super) fn optional<T, V>(
        &mut self,
        field: &Field<T>,
        key: &str,
        judge: impl FnOnce(&T) -> Result<V, Wrong>,
    ) -> Option<Option<V>> {
        match field {
            None => Some(None),
            Some(field) => self.judged(field, key, judge).map(Some),
        }
    }

    /// An error when a field of the other role's file is there.
    pub(super) fn only_in<T>(&mut self, role: Role, field: &Field<T>, key: &str) {
        if let Some(field) = field.as_ref().filter(|_| self.role != role) {
            self.belongs_elsewhere(role, field.span(), key);
        }
    }

    fn belongs_elsewhere(&mut self, role: Role, span: Range<usize>, key: &str) {
        let name = key.rsplit('.').next().unwrap_or(key);
        let message =
            format!("`{name}` belongs in the policy of the {role}; this is read as the policy of the {}", self.role);
        let diagnostic = self.at(span, key, message);
        let help = match role {
            Role::MobileNode => "take it out here; policies/home-agent.toml shows the fields of a home agent",
            Role::HomeAgent => "take it out here, or start the home agent: `kagemusha home-agent --ipsec FILE`",
        };
        self.error(diagnostic.help(help));
    }

    /// An error when a value stood elsewhere already.
    pub(super) fn once<K: Eq + Hash>(
        &mut self,
        seen: fn(&mut Seen) -> &mut HashMap<K, Range<usize>>,
        value: K,
        span: Range<usize>,
        key: &str,
        (message, help): (String, &str),
    ) {
        let seen = seen(&mut self.seen);
        let Some(first) = seen.get(&value).cloned() else {
            seen.insert(value, span);
            return;
        };
        let diagnostic = self.at(span, key, message).label("here again").related(first, "first here");
        self.error(diagnostic.help(help));
    }
}
