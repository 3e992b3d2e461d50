//! The policy file as it is written: every value with its place, nothing judged yet.
//!
//! All fields are optional here, and values are texts and integers: so serde refuses only what it alone can see (unknown keys, a
//! number where a text belongs), and all other mistakes are found together by the resolver.

use std::fmt;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use toml::Spanned;

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
    Classes(Classes),
}

/// The protection classes of a guest.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Classes {
    #[serde(rename = "home-registration")]
    pub(super) home_registration: Field<HomeRegistration>,
}

/// `[guest.protect.home-registration]`.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HomeRegistration {
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
    pub(super) spi: Field<i64>,
    pub(super) encryption: Field<Algorithm>,
    pub(super) integrity: Field<Algorithm>,
    pub(super) replay_window: Field<i64>,
    pub(super) host: Field<String>,
    pub(super) legacy: Field<bool>,
}

/// `encryption = { … }` and `integrity = { … }`.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Algorithm {
    pub(super) algorithm: Field<String>,
    pub(super) key_file: Field<String>,
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
                Classes::deserialize(MapAccessDeserializer::new(map)).map(Protect::Classes)
            }
        }

        deserializer.deserialize_any(ProtectVisitor)
    }
}
