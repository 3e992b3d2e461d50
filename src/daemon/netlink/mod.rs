//! Netlink: XFRM over a small blocking client of our own, routes over rtnetlink.

pub mod bridge;
pub mod monitor;
pub mod query;
pub mod route;
mod route_codec;
pub mod xfrm;
mod xfrm_codec;
mod xfrm_holder;
pub mod xfrm_monitor;
mod xfrm_names;
mod xfrm_replay;
mod xfrm_socket;

pub use xfrm_codec::{Expiry, parse_expiry};

use std::io;

/// What the kernel says to a refused request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{}", io::Error::from_raw_os_error(*errno), explanation(text))]
pub struct Refusal {
    /// Error number, positive.
    pub errno: i32,
    /// The text of the extended acknowledgement (`NLMSGERR_ATTR_MSG`), when the kernel gave one.
    pub text: Option<String>,
}

fn explanation(text: &Option<String>) -> String {
    text.as_ref().map_or_else(String::new, |text| format!(" (the kernel says: {text})"))
}

/// The text in the attributes of an extended acknowledgement (`linux/netlink.h`: `NLMSGERR_ATTR_MSG`).
fn extended_text(attributes: &[u8]) -> Option<String> {
    const NLMSGERR_ATTR_MSG: u16 = 1;
    netlink_packet_core::NlasIterator::new(attributes)
        .map_while(Result::ok)
        .find(|attribute| attribute.kind() == NLMSGERR_ATTR_MSG)
        .map(|attribute| String::from_utf8_lossy(attribute.value()).trim_end_matches('\0').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_reads_well() {
        let attributes = [&[12, 0, 1, 0][..], b"No way\0\0"].concat();
        let refusal = Refusal { errno: libc::EEXIST, text: extended_text(&attributes) };
        assert_eq!(refusal.to_string(), "File exists (os error 17) (the kernel says: No way)");
        for cut in 0..attributes.len() {
            assert_eq!(extended_text(&attributes[..cut]), None, "{cut}");
        }
    }
}
