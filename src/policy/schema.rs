//! The policy file as it is written: every value with its place, nothing judged yet.
//!
//! All fields are optional here, and values are texts and integers: so serde refuses only what it alone can see (unknown keys, a
//! number where a text belongs), and all other mistakes are found together by the resolver.

use std::fmt;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use toml::Spanned;
use zeroize::Zeroizing;

use super::keys::{KeyTextError, parse_key_text};
use crate::ipsec::SecretKey;

use crate::ipsec;

/// A field that may be missing, and its place.
pub(super) type Field<T> = Option<Spanned<T>>;

/// The whole file.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    pub(super) home_agent: Field<HomeAgent>,
    pub(super) uplink: Field<Uplink>,
    #[serde(default)]
    pub(super) guest: Vec<Spanned<Guest>>,
}

/// `[home_agent]`.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HomeAgent {
    pub(super) address: Field<String>,
    pub(super) home_link: Field<String>,
    pub(super) interface: Field<String>,
    pub(super) maximum_lifetime: Field<i64>,
    pub(super) detect_duplicates: Field<bool>,
    pub(super) optimistic_detection: Field<bool>,
    pub(super) key_management_mobility: Field<bool>,
}

/// `[uplink]`.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Uplink {
    pub(super) interface: Field<String>,
    pub(super) care_of_address: Field<String>,
}

/// `[[guest]]`.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Guest {
    pub(super) name: Field<String>,
    pub(super) home_address: Field<String>,
    pub(super) mac: Field<String>,
    pub(super) port: Field<Port>,
    pub(super) attach: Field<String>,
    pub(super) qmp: Field<String>,
    pub(super) lifetime: Field<i64>,
    pub(super) router: Field<Router>,
    pub(super) protect: Field<Protect>,
    #[serde(default)]
    pub(super) security_association: Vec<Spanned<Association>>,
}

/// `port = { … }`.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Port {
    pub(super) bridge: Field<String>,
    pub(super) tap: Field<String>,
}

/// `router = { … }`.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Router {
    pub(super) link_local: Field<String>,
    pub(super) mac: Field<String>,
    pub(super) autonomous: Field<bool>,
}

/// `protect = "none"` or a table of protection classes.
#[derive(Debug)]
pub(super) enum Protect {
    /// A word; only `none` means something.
    Word(String),
    /// `[guest.protect.CLASS]`.
    Classes(Box<Classes>),
}

/// The protection classes of a guest.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Classes {
    pub(super) home_registration: Field<Class>,
    pub(super) mobile_prefix_discovery: Field<Class>,
    pub(super) mobility_headers: Field<Class>,
    pub(super) icmpv6: Field<Class>,
    pub(super) any: Field<Class>,
    pub(super) return_routability: Field<Class>,
    pub(super) tunnel_mobility_headers: Field<Class>,
    pub(super) tunnel_payload: Field<Class>,
}

impl Classes {
    /// Those that the file names, in the order of precedence.
    pub(super) fn named(&self) -> Vec<(ipsec::Class, &Spanned<Class>)> {
        let field = |class| match class {
            ipsec::Class::HomeRegistration => &self.home_registration,
            ipsec::Class::MobilePrefixDiscovery => &self.mobile_prefix_discovery,
            ipsec::Class::MobilityHeaders => &self.mobility_headers,
            ipsec::Class::Icmpv6 => &self.icmpv6,
            ipsec::Class::Any => &self.any,
            ipsec::Class::ReturnRoutability => &self.return_routability,
            ipsec::Class::TunnelMobilityHeaders => &self.tunnel_mobility_headers,
            ipsec::Class::TunnelPayload => &self.tunnel_payload,
        };
        ipsec::Class::ALL.into_iter().filter_map(|class| Some((class, field(class).as_ref()?))).collect()
    }
}

/// `[guest.protect.CLASS]`.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Class {
    pub(super) reqid: Field<Reqid>,
}

/// `reqid = { … }`.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Reqid {
    pub(super) to_home_agent: Field<i64>,
    pub(super) to_guest: Field<i64>,
}

/// `[[guest.security_association]]`.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Association {
    pub(super) direction: Field<String>,
    pub(super) class: Field<String>,
    pub(super) mode: Field<String>,
    pub(super) spi: Field<i64>,
    pub(super) encryption: Field<Algorithm>,
    pub(super) integrity: Field<Algorithm>,
    pub(super) replay_window: Field<i64>,
    pub(super) esn: Field<bool>,
    pub(super) lifetime: Field<AssociationLifetime>,
    pub(super) host: Field<String>,
    pub(super) legacy: Field<bool>,
}

/// `lifetime = { … }` of a security association.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AssociationLifetime {
    pub(super) soft: Field<Limits>,
    pub(super) hard: Field<Limits>,
}

/// `soft = { … }` and `hard = { … }`.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Limits {
    pub(super) bytes: Field<i64>,
    pub(super) packets: Field<i64>,
    pub(super) seconds: Field<i64>,
}

/// `encryption = { … }` and `integrity = { … }`.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Algorithm {
    pub(super) algorithm: Field<String>,
    pub(super) key_file: Field<String>,
    pub(super) key: Field<Key>,
}

/// `key = { credential = "…" }`, or the key itself.
#[derive(Debug)]
pub(super) enum Key {
    /// `{ credential = "…" }`.
    Credential(Credential),
    /// The key itself, read at once so that no copy of its text is made.
    Inline(Result<SecretKey, KeyTextError>),
}

/// `key = { credential = "…" }`.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Credential {
    pub(super) credential: Field<String>,
}

impl<'de> Deserialize<'de> for Protect {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ProtectVisitor;

        impl<'de> Visitor<'de> for ProtectVisitor {
            type Value = Protect;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"none\" or a table of protection classes")
            }

            fn visit_str<E>(self, word: &str) -> Result<Protect, E> {
                Ok(Protect::Word(word.to_owned()))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Protect, A::Error> {
                Classes::deserialize(MapAccessDeserializer::new(map)).map(|classes| Protect::Classes(Box::new(classes)))
            }
        }

        deserializer.deserialize_any(ProtectVisitor)
    }
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeyVisitor;

        impl<'de> Visitor<'de> for KeyVisitor {
            type Value = Key;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("{ credential = \"NAME\" } or the key in hexadecimal digits")
            }

            fn visit_str<E>(self, text: &str) -> Result<Key, E> {
                Ok(Key::Inline(parse_key_text(text.as_bytes())))
            }

            fn visit_string<E>(self, text: String) -> Result<Key, E> {
                // A text with escapes is a copy.
                Ok(Key::Inline(parse_key_text(Zeroizing::new(text).as_bytes())))
            }

            // A key that was written as a number: serde's own message would show it.
            fn visit_i64<E>(self, _: i64) -> Result<Key, E> {
                Ok(Key::Inline(Err(KeyTextError::Number)))
            }

            fn visit_i128<E>(self, _: i128) -> Result<Key, E> {
                Ok(Key::Inline(Err(KeyTextError::Number)))
            }

            fn visit_u64<E>(self, _: u64) -> Result<Key, E> {
                Ok(Key::Inline(Err(KeyTextError::Number)))
            }

            fn visit_u128<E>(self, _: u128) -> Result<Key, E> {
                Ok(Key::Inline(Err(KeyTextError::Number)))
            }

            fn visit_f64<E>(self, _: f64) -> Result<Key, E> {
                Ok(Key::Inline(Err(KeyTextError::Number)))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Key, A::Error> {
                Credential::deserialize(MapAccessDeserializer::new(map)).map(Key::Credential)
            }
        }

        deserializer.deserialize_any(KeyVisitor)
    }
}
