//! The policy file: TOML schema, resolution and validation into a [`Policy`].
//!
//! What it can say of IPsec is what RFC 3776 §3 needs with manual keys: classes of traffic in ESP, each with two reqids and an SA for each
//! direction, in transport or tunnel mode as the class says; algorithms of RFC 8221 §5 and §6.
//!
//! A file goes through three steps: [`toml`] and serde read it into the schema (every value with its place), the resolver judges
//! each value and the whole, and reads the keys through a [`KeySource`]. What is wrong comes back as one [`Report`] of many
//! [`Diagnostic`]s with file, line, column and what to do. No key is ever part of a message.

mod association;
pub mod exchange;
mod guest;
mod keying;
mod keys;
mod lifetime;
mod model;
mod protection;
mod redact;
mod report;
mod resolve;
mod schema;
mod syntax;
#[cfg(test)]
pub(crate) mod testing;
mod value;

use std::sync::Arc;

pub use keys::{KeyError, KeyFile, KeyOrigin, KeyPaths, KeySource, KeyTextError, OtherKey, key_text, parse_key_text};
pub use model::{
    AttachMode, Attachment, GuestPolicy, HomeAgentPolicy, Policy, Port, Protection, Reqids, Role, RouterPolicy,
    UplinkPolicy, Warning,
};
pub use report::{Diagnostic, Report};

use report::Source;
use resolve::{Resolved, Resolver};

/// Loads the policy of a host that speaks Mobile IPv6 for its guests.
///
/// `file_name` is the path of the file as the user gave it: messages name it, and relative paths of key files begin at its
/// directory. `text` is the file's content.
///
/// # Errors
/// When the text is no valid policy, or a key cannot be had: all that is wrong, at once.
pub fn load_mobile_node(file_name: &str, text: &str, keys: &dyn KeySource) -> Result<Policy, Report> {
    load(Role::MobileNode, file_name, text, Some(keys)).map(|resolved| resolved.policy)
}

/// Loads the policy of a home agent; otherwise like [`load_mobile_node`].
///
/// # Errors
/// As [`load_mobile_node`].
pub fn load_home_agent(file_name: &str, text: &str, keys: &dyn KeySource) -> Result<Policy, Report> {
    load(Role::HomeAgent, file_name, text, Some(keys)).map(|resolved| resolved.policy)
}

/// The key files that a policy names, each once and in the order of the file, without reading any.
///
/// # Errors
/// When the text is no valid policy, whatever the keys.
pub fn key_files(role: Role, file_name: &str, text: &str) -> Result<Vec<KeyFile>, Report> {
    load(role, file_name, text, None).map(|resolved| resolved.key_files)
}

/// The keys that a policy names and that are in no key file, each once and in the order of the file.
///
/// # Errors
/// As [`key_files`].
pub fn other_keys(role: Role, file_name: &str, text: &str) -> Result<Vec<OtherKey>, Report> {
    load(role, file_name, text, None).map(|resolved| resolved.other_keys)
}

/// Loads a policy like [`load_mobile_node`] and [`load_home_agent`], and tells where the keys of its security associations came
/// from.
///
/// # Errors
/// As [`load_mobile_node`].
pub fn load_with_key_paths(
    role: Role,
    file_name: &str,
    text: &str,
    keys: &dyn KeySource,
) -> Result<(Policy, Vec<KeyPaths>), Report> {
    load(role, file_name, text, Some(keys)).map(|resolved| (resolved.policy, resolved.key_paths))
}

/// The role that a policy file is for: a home agent's names the interface on the home link, or another thing that only home
/// agents have. What is no TOML at all counts as a mobile node's.
pub fn role_of(text: &str) -> Role {
    // Borrowed from the text: a copy of a key in it would stay in memory.
    let Ok(table) = toml::de::DeTable::parse(text) else { return Role::MobileNode };
    let home_agent = table.get_ref().get("home_agent").and_then(|value| value.get_ref().as_table());
    let has = |key| home_agent.is_some_and(|table| table.contains_key(key));
    if ["interface", "maximum_lifetime", "detect_duplicates", "optimistic_detection"].into_iter().any(has) {
        Role::HomeAgent
    } else {
        Role::MobileNode
    }
}

fn load(role: Role, file_name: &str, text: &str, keys: Option<&dyn KeySource>) -> Result<Resolved, Report> {
    let source = Arc::new(Source::new(file_name, text));
    let file: schema::File =
        toml::from_str(text).map_err(|error| Report::new(vec![syntax::diagnose(&source, &error)]))?;
    Resolver::new(role, source, keys).resolve(&file)
}
