//! `XFRM_MSG_MIGRATE`: the ends of a tunnel move.

use netlink_packet_xfrm as nl;
use netlink_packet_xfrm::{XfrmAttrs, XfrmMessage};

use super::policy::direction;
use super::{address, policy_selector};
use crate::kernel_state::Migration;

/// The message, with the new ends for key management daemons too (`XFRMA_KMADDRESS`).
///
/// `XFRMA_MIGRATE` is an array of 1 to 6 in the kernel, and of one here: our policies have one tunnel each.
pub(in super::super) fn migrate(migration: &Migration) -> XfrmMessage {
    let mut message = nl::monitor::MigrateMessage::default();
    message.user_policy_id.selector = policy_selector(&migration.policy);
    message.user_policy_id.direction = direction(migration.policy.direction);
    let ends = nl::UserMigrate {
        old_saddr: address(migration.from.0),
        old_daddr: address(migration.from.1),
        new_saddr: address(migration.to.0),
        new_daddr: address(migration.to.1),
        proto: nl::IPPROTO_ESP,
        mode: nl::XFRM_MODE_TUNNEL,
        reserved: 0,
        reqid: migration.reqid,
        old_family: nl::AF_INET6,
        new_family: nl::AF_INET6,
    };
    let (local, remote) = match migration.policy.direction {
        crate::ipsec::Direction::Out => migration.to,
        crate::ipsec::Direction::In | crate::ipsec::Direction::Forward => (migration.to.1, migration.to.0),
    };
    let key_management =
        nl::UserKmAddress { local: address(local), remote: address(remote), reserved: 0, family: nl::AF_INET6 };
    message.nlas = vec![XfrmAttrs::Migrate(ends), XfrmAttrs::KmAddress(key_management)];
    XfrmMessage::Migrate(message)
}
