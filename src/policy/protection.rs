//! Resolving what of a guest's traffic is protected: `protect = …`.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;
use std::ops::Range;

use toml::Spanned;

use super::resolve::Resolver;
use super::schema;
use super::value;
use super::{Protection, Reqids, Role};
use crate::ipsec::Class;

/// The classes of a guest; the reqids of one are none after errors.
pub(super) type Classes = BTreeMap<Class, Option<Reqids>>;

impl Resolver<'_> {
    /// What of a guest's traffic is protected, and its SAs.
    pub(super) fn protection(
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
        let named = match protect.get_ref() {
            schema::Protect::Classes(classes) => classes.named(),
            schema::Protect::Word(word) if word == "none" => {
                return self.unprotected(protect, &key, first_association);
            }
            schema::Protect::Word(word) => {
                let message = format!("expected \"none\" or a table of protection classes, got {word:?}");
                let diagnostic = self.at(protect.span(), &key, message);
                self.error(diagnostic.help(help));
                return None;
            }
        };
        if named.is_empty() {
            let diagnostic = self.at(protect.span(), &key, "no class of traffic is named");
            self.error(diagnostic.help(help));
            return None;
        }
        if !named.iter().any(|(class, _)| class.protects_registrations()) {
            let diagnostic = self.at(protect.span(), &key, "no class protects the binding updates of this guest");
            let help = "add [guest.protect.home-registration] with its security associations: without it, others could take the \
                        guest's traffic before the other classes protect any of it";
            self.error(diagnostic.help(help));
            return None;
        }
        let both = [Class::ReturnRoutability, Class::TunnelMobilityHeaders];
        if let [(_, first), (_, second)] =
            named.iter().filter(|(class, _)| both.contains(class)).collect::<Vec<_>>()[..]
        {
            let message = "tunnel-mobility-headers holds what return-routability does, and the kernel cannot tell the types of \
                           mobility headers that come out of a tunnel";
            let diagnostic = self.at(second.span(), &format!("{key}.{}", both[1]), message);
            let help = "leave one of the two, with its security associations, on both sides";
            self.error(diagnostic.related(first.span(), "the other one").help(help));
            return None;
        }
        self.warn_of_what_is_not_carried(&named, &key);
        let classes = self.classes(&named, &key);
        let associations = self.associations(span, fields, path, (home_address, &classes));
        let classes: Option<BTreeMap<_, _>> =
            classes.into_iter().map(|(class, reqids)| Some((class, reqids?))).collect();
        Some(Protection { classes: classes?, associations: associations? })
    }

    fn unprotected(
        &mut self,
        protect: &Spanned<schema::Protect>,
        key: &str,
        first_association: Option<Range<usize>>,
    ) -> Option<Protection> {
        if let Some(first) = first_association {
            let diagnostic = self.at(protect.span(), key, "protection is none, yet there are security associations");
            let help = "take the [[guest.security_association]] out, or protect = \"none\"";
            self.error(diagnostic.related(first, "this one").help(help));
            return None;
        }
        let message = "binding updates of this guest go in the clear: whoever can send packets to the home agent \
                       can take its traffic";
        let diagnostic = self.at(protect.span(), key, message);
        self.warn(diagnostic.help("protect it with [guest.protect.home-registration]; policies/ha.toml shows how"));
        Some(Protection::NONE)
    }

    /// Associations and policies are there for every class. But the host cannot put a guest's packets into ESP in transport mode, for they come
    /// back to a socket of the host and not to the guest, and it is the host that is the mobile node.
    fn warn_of_what_is_not_carried(&mut self, named: &[(Class, &Spanned<schema::Class>)], key: &str) {
        if self.role == Role::HomeAgent {
            return;
        }
        for (class, table) in named.iter().copied() {
            let message = match class {
                Class::Icmpv6 | Class::Any => {
                    "what guest and home agent say to each other under it is dropped on this host, and never sent plain: \
                     not even an echo between them"
                }
                Class::ReturnRoutability | Class::TunnelMobilityHeaders => {
                    "this host does no route optimization: such messages of the guest are dropped, and never sent plain"
                }
                _ => continue,
            };
            let diagnostic = self.at(table.span(), &format!("{key}.{class}"), message);
            self.warn(diagnostic.help("keep it only if the home agent insists on it"));
        }
    }

    /// The reqids of every class. All of a guest differ, since they say which SA serves which class; those of tunnels differ in the
    /// whole file, since the tunnels of all guests on a host end at one address.
    fn classes(&mut self, named: &[(Class, &Spanned<schema::Class>)], key: &str) -> Classes {
        let mut out = Classes::new();
        let mut used: BTreeMap<u32, Range<usize>> = BTreeMap::new();
        for (class, table) in named {
            let key = format!("{key}.{class}.reqid");
            let Some(reqids) = self.reqid(table, &key) else {
                out.insert(*class, None);
                continue;
            };
            let span = table.get_ref().reqid.as_ref().map_or(table.span(), Spanned::span);
            let mut good = true;
            for reqid in [reqids.to_home_agent, reqids.to_guest] {
                let earlier = match used.get(&reqid) {
                    None if class.is_tunnel() => self.seen.tunnel_reqids.get(&reqid),
                    earlier => earlier,
                };
                if let Some(first) = earlier.cloned() {
                    let same_guest = used.contains_key(&reqid);
                    let message = if same_guest {
                        format!("the reqid {reqid} serves another class of this guest already")
                    } else {
                        format!("the reqid {reqid} serves a tunnel of another guest already")
                    };
                    let diagnostic = self.at(span.clone(), &key, message).label("here again");
                    let help = if same_guest {
                        "give each class two reqids of its own: they say which security association serves which class"
                    } else {
                        "give the tunnels of each guest reqids of their own: on one host they all end at one address, and the \
                         reqid alone keeps one guest's packets out of the other's tunnel"
                    };
                    self.error(diagnostic.related(first, "first here").help(help));
                    good = false;
                }
            }
            for reqid in [reqids.to_home_agent, reqids.to_guest] {
                used.entry(reqid).or_insert_with(|| span.clone());
                if class.is_tunnel() {
                    self.seen.tunnel_reqids.entry(reqid).or_insert_with(|| span.clone());
                }
            }
            out.insert(*class, good.then_some(reqids));
        }
        out
    }

    /// The reqids of one class.
    fn reqid(&mut self, class: &Spanned<schema::Class>, key: &str) -> Option<Reqids> {
        let example = "{ to_home_agent = 1, to_guest = 2 }";
        let table = self.required(&class.get_ref().reqid, &class.span(), key, example)?;
        let fields = table.get_ref();
        let to_home_agent = self.required(&fields.to_home_agent, &table.span(), &format!("{key}.to_home_agent"), "1");
        let to_guest = self.required(&fields.to_guest, &table.span(), &format!("{key}.to_guest"), "2");
        let first =
            to_home_agent.and_then(|field| self.judged(field, &format!("{key}.to_home_agent"), |n| value::reqid(*n)));
        let second = to_guest.and_then(|field| self.judged(field, &format!("{key}.to_guest"), |n| value::reqid(*n)));
        let (to_home_agent, to_guest) = (first?, second?);
        if to_home_agent == to_guest {
            let diagnostic = self.at(table.span(), key, format!("both directions have the reqid {to_guest}"));
            let help = format!("give the directions two reqids, such as {example}, the same as on the home agent");
            self.error(diagnostic.help(help));
            return None;
        }
        Some(Reqids { to_home_agent, to_guest })
    }
}
