//! Secret keys: wiped when dropped, never shown.

use std::fmt;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// Key octets of a security association. Not `Clone` into other types, wiped on drop, and `Debug` shows its length only.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct SecretKey(Vec<u8>);

impl SecretKey {
    /// Takes ownership of key octets. The caller's own copies are the caller's to wipe.
    pub fn new(octets: Vec<u8>) -> Self {
        Self(octets)
    }

    /// The octets, for the kernel alone.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// Length in octets.
    pub fn length(&self) -> usize {
        self.0.len()
    }
}

impl PartialEq for SecretKey {
    fn eq(&self, other: &Self) -> bool {
        // Keys are compared to decide whether the kernel holds the one we want; no peer can time it.
        self.0 == other.0
    }
}

impl Eq for SecretKey {}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey({} octets)", self.0.len())
    }
}
