//! All scenarios, in the order in which they run.

use crate::scenario::Scenario;

#[path = "../scenarios/attach-when-seen/scenario.rs"]
mod attach_when_seen;
#[path = "../scenarios/check-command/scenario.rs"]
mod check_command;
#[path = "../scenarios/control-socket/scenario.rs"]
mod control_socket;
#[path = "../scenarios/data-under-esp/scenario.rs"]
mod data_under_esp;
#[path = "../scenarios/de-register/scenario.rs"]
mod de_register;
#[path = "../scenarios/disturbed-host/scenario.rs"]
mod disturbed_host;
#[path = "../scenarios/esp-missing-no-plaintext/scenario.rs"]
mod esp_missing_no_plaintext;
#[path = "../scenarios/guest-dad-and-reboot/scenario.rs"]
mod guest_dad_and_reboot;
#[path = "../scenarios/guest-migrates-shared-sa/scenario.rs"]
mod guest_migrates_shared_sa;
#[path = "../scenarios/guest-migrates-under-esp/scenario.rs"]
mod guest_migrates_under_esp;
#[path = "../scenarios/guest-without-bridge/scenario.rs"]
mod guest_without_bridge;
#[path = "../scenarios/handover/scenario.rs"]
mod handover;
#[path = "../scenarios/home-agent-restart/scenario.rs"]
mod home_agent_restart;
#[path = "../scenarios/home-neighbour-on-link/scenario.rs"]
mod home_neighbour_on_link;
#[path = "../scenarios/migration-cancelled/scenario.rs"]
mod migration_cancelled;
#[path = "../scenarios/migration-duplicate-mac/scenario.rs"]
mod migration_duplicate_mac;
#[path = "../scenarios/migration-fifty/scenario.rs"]
mod migration_fifty;
#[path = "../scenarios/migration-guest-reboots/scenario.rs"]
mod migration_guest_reboots;
#[path = "../scenarios/migration-home-again/scenario.rs"]
mod migration_home_again;
#[path = "../scenarios/migration-home-again-umip/scenario.rs"]
mod migration_home_again_umip;
#[path = "../scenarios/migration-home-agent-restarts/scenario.rs"]
mod migration_home_agent_restarts;
#[path = "../scenarios/migration-journey/scenario.rs"]
mod migration_journey;
#[path = "../scenarios/migration-link-flaps/scenario.rs"]
mod migration_link_flaps;
#[path = "../scenarios/migration-qemu-postcopy/scenario.rs"]
mod migration_qemu_postcopy;
#[path = "../scenarios/migration-qemu-precopy/scenario.rs"]
mod migration_qemu_precopy;
#[path = "../scenarios/migration-renumbered/scenario.rs"]
mod migration_renumbered;
#[path = "../scenarios/migration-source-partitioned/scenario.rs"]
mod migration_source_partitioned;
#[path = "../scenarios/migration-source-partitioned-umip/scenario.rs"]
mod migration_source_partitioned_umip;
#[path = "../scenarios/migration-target-crashes/scenario.rs"]
mod migration_target_crashes;
#[path = "../scenarios/migration-updates-lost/scenario.rs"]
mod migration_updates_lost;
#[path = "../scenarios/mobile-node-restart/scenario.rs"]
mod mobile_node_restart;
#[path = "../scenarios/off-link-correspondent/scenario.rs"]
mod off_link_correspondent;
#[path = "../scenarios/packet-too-big/scenario.rs"]
mod packet_too_big;
#[path = "../scenarios/policy-class-any/scenario.rs"]
mod policy_class_any;
#[path = "../scenarios/policy-class-home-registration/scenario.rs"]
mod policy_class_home_registration;
#[path = "../scenarios/policy-class-icmpv6/scenario.rs"]
mod policy_class_icmpv6;
#[path = "../scenarios/policy-class-mobile-prefix-discovery/scenario.rs"]
mod policy_class_mobile_prefix_discovery;
#[path = "../scenarios/policy-class-mobility-headers/scenario.rs"]
mod policy_class_mobility_headers;
#[path = "../scenarios/policy-class-return-routability/scenario.rs"]
mod policy_class_return_routability;
#[path = "../scenarios/policy-class-tunnel-mobility-headers/scenario.rs"]
mod policy_class_tunnel_mobility_headers;
#[path = "../scenarios/policy-class-tunnel-payload/scenario.rs"]
mod policy_class_tunnel_payload;
#[path = "../scenarios/policy-esn/scenario.rs"]
mod policy_esn;
#[path = "../scenarios/policy-missing-no-plaintext/scenario.rs"]
mod policy_missing_no_plaintext;
#[path = "../scenarios/policy-shadowed/scenario.rs"]
mod policy_shadowed;
#[path = "../scenarios/policy-sigkill/scenario.rs"]
mod policy_sigkill;
#[path = "../scenarios/policy-tampering/scenario.rs"]
mod policy_tampering;
#[path = "../scenarios/random-packets/scenario.rs"]
mod random_packets;
#[path = "../scenarios/refresh/scenario.rs"]
mod refresh;
#[path = "../scenarios/register-esp/scenario.rs"]
mod register_esp;
#[path = "../scenarios/register-plain/scenario.rs"]
mod register_plain;
#[path = "../scenarios/reload/scenario.rs"]
mod reload;
#[path = "../scenarios/sa-lifetime/scenario.rs"]
mod sa_lifetime;
#[path = "../scenarios/sequence-135/scenario.rs"]
mod sequence_135;
#[path = "../scenarios/spoofed-source-dropped/scenario.rs"]
mod spoofed_source_dropped;
#[path = "../scenarios/the-lab-itself/scenario.rs"]
mod the_lab_itself;
#[path = "../scenarios/two-guests-one-host/scenario.rs"]
mod two_guests_one_host;
#[path = "../scenarios/umip-class-home-registration/scenario.rs"]
mod umip_class_home_registration;
#[path = "../scenarios/umip-class-mobile-prefix-discovery/scenario.rs"]
mod umip_class_mobile_prefix_discovery;
#[path = "../scenarios/umip-class-mobility-headers/scenario.rs"]
mod umip_class_mobility_headers;
#[path = "../scenarios/umip-class-return-routability/scenario.rs"]
mod umip_class_return_routability;
#[path = "../scenarios/umip-class-tunnel-payload/scenario.rs"]
mod umip_class_tunnel_payload;
#[path = "../scenarios/umip-home-agent/scenario.rs"]
mod umip_home_agent;
#[path = "../scenarios/umip-home-agent-134/scenario.rs"]
mod umip_home_agent_134;
#[path = "../scenarios/umip-home-agent-135/scenario.rs"]
mod umip_home_agent_135;
#[path = "../scenarios/umip-mobile-node/scenario.rs"]
mod umip_mobile_node;
#[path = "../scenarios/umip-mobile-node-134/scenario.rs"]
mod umip_mobile_node_134;
#[path = "../scenarios/umip-mobile-node-135/scenario.rs"]
mod umip_mobile_node_135;
#[path = "../scenarios/wrong-key-silent/scenario.rs"]
mod wrong_key_silent;

/// See the module.
pub(crate) const ALL: &[&Scenario] = &[
    &the_lab_itself::SCENARIO,
    &check_command::SCENARIO,
    &register_plain::SCENARIO,
    &register_esp::SCENARIO,
    &refresh::SCENARIO,
    &data_under_esp::SCENARIO,
    &de_register::SCENARIO,
    &handover::SCENARIO,
    &sequence_135::SCENARIO,
    &guest_migrates_under_esp::SCENARIO,
    &guest_migrates_shared_sa::SCENARIO,
    &attach_when_seen::SCENARIO,
    &control_socket::SCENARIO,
    &reload::SCENARIO,
    &sa_lifetime::SCENARIO,
    &two_guests_one_host::SCENARIO,
    &guest_without_bridge::SCENARIO,
    &home_neighbour_on_link::SCENARIO,
    &off_link_correspondent::SCENARIO,
    &guest_dad_and_reboot::SCENARIO,
    &spoofed_source_dropped::SCENARIO,
    &disturbed_host::SCENARIO,
    &packet_too_big::SCENARIO,
    &esp_missing_no_plaintext::SCENARIO,
    &policy_missing_no_plaintext::SCENARIO,
    &policy_shadowed::SCENARIO,
    &policy_sigkill::SCENARIO,
    &policy_tampering::SCENARIO,
    &policy_class_home_registration::SCENARIO,
    &policy_class_mobile_prefix_discovery::SCENARIO,
    &policy_class_mobility_headers::SCENARIO,
    &policy_class_icmpv6::SCENARIO,
    &policy_class_any::SCENARIO,
    &policy_class_return_routability::SCENARIO,
    &policy_class_tunnel_mobility_headers::SCENARIO,
    &policy_class_tunnel_payload::SCENARIO,
    &policy_esn::SCENARIO,
    &wrong_key_silent::SCENARIO,
    &home_agent_restart::SCENARIO,
    &mobile_node_restart::SCENARIO,
    &random_packets::SCENARIO,
    &migration_journey::SCENARIO,
    &migration_home_again::SCENARIO,
    &migration_home_again_umip::SCENARIO,
    &migration_cancelled::SCENARIO,
    &migration_target_crashes::SCENARIO,
    &migration_source_partitioned::SCENARIO,
    &migration_source_partitioned_umip::SCENARIO,
    &migration_updates_lost::SCENARIO,
    &migration_link_flaps::SCENARIO,
    &migration_renumbered::SCENARIO,
    &migration_guest_reboots::SCENARIO,
    &migration_duplicate_mac::SCENARIO,
    &migration_home_agent_restarts::SCENARIO,
    &migration_fifty::SCENARIO,
    &migration_qemu_precopy::SCENARIO,
    &migration_qemu_postcopy::SCENARIO,
    &umip_home_agent::SCENARIO,
    &umip_home_agent_135::SCENARIO,
    &umip_home_agent_134::SCENARIO,
    &umip_class_home_registration::SCENARIO,
    &umip_class_mobility_headers::SCENARIO,
    &umip_class_mobile_prefix_discovery::SCENARIO,
    &umip_class_return_routability::SCENARIO,
    &umip_class_tunnel_payload::SCENARIO,
    &umip_mobile_node::SCENARIO,
    &umip_mobile_node_135::SCENARIO,
    &umip_mobile_node_134::SCENARIO,
];

/// Those that run on every kernel, and not only on the one with all: what the product promises, once, and what depends on the kernel.
const CORE: &[&str] = &[
    "the-lab-itself",
    "check-command",
    "register-plain",
    "register-esp",
    "refresh",
    "data-under-esp",
    "de-register",
    "handover",
    "guest-migrates-under-esp",
    "off-link-correspondent",
    "spoofed-source-dropped",
    "packet-too-big",
    "esp-missing-no-plaintext",
    "policy-missing-no-plaintext",
    "policy-class-home-registration",
    "policy-class-mobile-prefix-discovery",
    "policy-class-mobility-headers",
    "policy-class-icmpv6",
    "policy-class-any",
    "policy-class-return-routability",
    "policy-class-tunnel-mobility-headers",
    "policy-class-tunnel-payload",
    "home-agent-restart",
    "mobile-node-restart",
    "migration-journey",
    "migration-home-again",
];

/// Whether it is for every kernel.
pub(crate) fn is_core(name: &str) -> bool {
    CORE.contains(&name)
}

/// Those whose name contains `filter`, or one of several with commas between them.
pub(crate) fn matching(filter: Option<&str>) -> Vec<&'static Scenario> {
    let parts = |filter: &'_ str| -> Vec<String> {
        filter.split(',').map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect()
    };
    let parts = filter.map(parts);
    let wanted = |name: &str| parts.as_ref().is_none_or(|parts| parts.iter().any(|part| name.contains(part)));
    ALL.iter().copied().filter(|scenario| wanted(scenario.name)).collect()
}

/// The one of that name.
pub(crate) fn named(name: &str) -> Option<&'static Scenario> {
    ALL.iter().copied().find(|scenario| scenario.name == name)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_filter_is_parts_of_names() {
        assert_eq!(matching(Some("register-esp, reload")).len(), 2);
        assert!(matching(Some(",, ")).is_empty() && matching(Some("")).is_empty());
        assert_eq!(matching(None).len(), ALL.len());
    }

    #[test]
    fn every_directory_is_a_scenario_and_every_scenario_has_a_directory() {
        let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/scenarios");
        let directories: BTreeSet<String> = std::fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap())
            .filter(|entry| entry.path().join("scenario.rs").exists())
            .map(|entry| entry.file_name().into_string().unwrap())
            .collect();
        let names: BTreeSet<String> = ALL.iter().map(|scenario| scenario.name.to_owned()).collect();
        assert_eq!(directories, names);
    }

    #[test]
    fn what_is_for_every_kernel_is_there() {
        for name in CORE {
            assert!(named(name).is_some(), "{name}");
        }
    }

    #[test]
    fn every_readme_begins_with_name_and_title() {
        for scenario in ALL {
            let wanted = format!("# {}: ", scenario.name);
            assert!(scenario.readme.starts_with(&wanted), "{}: README.md must start with {wanted:?}", scenario.name);
        }
    }
}
