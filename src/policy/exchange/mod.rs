//! What other implementations are configured with, from and to our policy files: umip's `mip6d.conf`, security associations in the
//! syntax of `setkey` and of `ip xfrm state`; and where two sides disagree.
//!
//! Every form is read into a [`Side`]. Reading is total: what is wrong comes back as a [`Report`] that points at its place, and
//! never with a key in it.

mod algorithms;
mod diff;
mod export;
mod import;
mod mip6d;
mod setkey;
mod side;
mod text;
mod typeless;
mod xfrm;

pub use diff::{Comparison, Difference, compare, lifetime_words};
pub use export::{ExportError, Format, export};
pub use import::{GuestDetails, Import, Imported, import};
pub use mip6d::parse as parse_mip6d;
pub use setkey::parse as parse_setkey;
pub use side::{Found, Mode, Registration, Side};
pub use xfrm::parse as parse_xfrm;

use super::report::{Diagnostic, Report, Source};
use crate::ipsec::SecretKey;

/// Reads a file of another implementation, whichever of the three forms it has.
///
/// # Errors
/// When its text is not of that form.
pub fn parse(file_name: &str, text: &str) -> Result<Side, Report> {
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let first_word = lines.next().and_then(|line| line.split([' ', '\t', ';']).next()).unwrap_or("");
    match first_word {
        "src" | "ip" | "xfrm" => parse_xfrm(file_name, text),
        "add" | "update" | "delete" | "deleteall" | "flush" | "spdflush" | "spdadd" | "dump" | "spddump" => {
            parse_setkey(file_name, text)
        }
        _ => parse_mip6d(file_name, text),
    }
}

/// Tells keys apart, and whether both sides have the same, without telling the key: eight digits of its SHA-256, and its length.
pub fn fingerprint(secret: &SecretKey) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, secret.expose());
    let digits: String = digest.as_ref().iter().take(4).map(|octet| format!("{octet:02x}")).collect();
    format!("{digits} ({} octets)", secret.length())
}
