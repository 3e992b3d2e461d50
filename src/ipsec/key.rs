//! Secret keys: wiped when dropped, never shown.

use std::fmt;
use std::sync::Arc;
use zeroize::{ZeroizeOnDrop, Zeroizing};

/// Key octets of a security association: in memory once, however often it is cloned, wiped when the last clone is dropped, and
/// `Debug` shows its length only.
#[derive(Clone)]
pub struct SecretKey(Arc<Zeroizing<Vec<u8>>>);

impl ZeroizeOnDrop for SecretKey {}

impl SecretKey {
    /// Takes ownership of key octets. The caller's own copies are the caller's to wipe.
    pub fn new(octets: Vec<u8>) -> Self {
        Self(Arc::new(Zeroizing::new(octets)))
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
