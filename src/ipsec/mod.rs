//! The vocabulary of RFC 4301: selectors, security associations, security policies, and the protection classes of
//! RFC 3776 and RFC 4877 built from them. Values only; the kernel is programmed elsewhere.

pub mod algorithm;
pub mod class;
pub mod key;
pub mod security_association;
pub mod security_policy;
pub mod selector;
pub mod statistics;

pub use algorithm::{Encryption, Integrity, Standing};
pub use class::{Class, Toward};
pub use key::SecretKey;
pub use security_association::{
    AssociationKey, AssociationLifetime, Esp, Limits, ReplayState, SecurityAssociation, Transform,
};
pub use security_policy::{
    Action, Direction, EspMode, Level, Mode, PolicyKey, SecurityPolicy, Template, TemplateProtocol,
};
pub use selector::{Selector, UpperLayer};
pub use statistics::{Rise, Statistics};
