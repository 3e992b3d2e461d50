//! Mobility headers (RFC 6275 §6.1): messages, their options, and the status codes.

pub mod message;
pub mod option;
pub mod status;

pub use message::{BindingAcknowledgement, BindingError, BindingUpdate, BindingUpdateFlags, Message};
pub use option::MobilityOption;
pub use status::Status;
