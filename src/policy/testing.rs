//! What tests of other layers need of policies.

use std::path::Path;

use super::{KeyError, KeySource};
use crate::ipsec::SecretKey;

/// A key of 32 octets for every path, another one for each.
pub(crate) struct SomeKeys;

impl KeySource for SomeKeys {
    fn read_key(&self, path: &Path) -> Result<SecretKey, KeyError> {
        let seed = path.to_string_lossy().bytes().fold(0u8, u8::wrapping_add);
        Ok(SecretKey::new((0..32).map(|octet| seed.wrapping_add(octet)).collect()))
    }
}
