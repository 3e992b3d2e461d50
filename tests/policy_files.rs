//! The reference policies of `policies/` and the good files of `tests/policies/good/`.

use std::path::Path;

use kagemusha::ipsec::SecretKey;
use kagemusha::policy::{self, KeyError, KeySource, Policy, Protection, Role};

/// Keys of the right length, another one for each path.
struct Keys;

impl KeySource for Keys {
    fn read_key(&self, path: &Path) -> Result<SecretKey, KeyError> {
        let length = if path.extension().is_some_and(|e| e == "gcm") { 36 } else { 32 };
        let mut key: Vec<u8> = path.to_string_lossy().bytes().cycle().take(length).collect();
        key[0] = u8::try_from(path.to_string_lossy().len()).unwrap();
        Ok(SecretKey::new(key))
    }
}

fn load(role: Role, file: &str) -> Policy {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    let text = std::fs::read_to_string(path).unwrap();
    let load = if role == Role::HomeAgent { policy::load_home_agent } else { policy::load_mobile_node };
    assert_eq!(policy::role_of(&text), role);
    load(file, &text, &Keys).unwrap_or_else(|report| panic!("{report}"))
}

#[test]
fn both_sides_have_the_same_security_associations() {
    let host = load(Role::MobileNode, "policies/ha.toml");
    let home_agent = load(Role::HomeAgent, "policies/home-agent.toml");
    assert_eq!((&host.warnings[..], &home_agent.warnings[..]), (&[][..], &[][..]));
    let keys = |policy: &Policy| {
        let associations = policy.guests[0].protection.associations().to_vec();
        associations.into_iter().map(|association| association.key).collect::<Vec<_>>()
    };
    assert_eq!(keys(&host), keys(&home_agent));
    assert_eq!(keys(&host).iter().map(|key| key.spi).collect::<Vec<_>>(), [0x3e8, 0x3e9]);
    assert!(matches!(
        host.guests[0].protection,
        Protection::HomeRegistration { reqid_to_home_agent: 1, reqid_to_guest: 2, .. }
    ));
}
