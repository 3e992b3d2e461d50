//! Whether the running kernel has all the lab needs: by trying it in a namespace of its own.

use crate::failure::Outcome;
use crate::node::Node;

/// One `ip` command per feature; the objects go with the namespace.
const TRIALS: [(&str, &str); 8] = [
    ("dummy", "link add dev probe0 type dummy"),
    ("bridge", "link add dev probe1 type bridge"),
    ("veth", "link add dev probe2 type veth peer name probe3"),
    ("TUN", "tuntap add dev probe4 mode tap"),
    (
        "ESP for IPv6",
        "xfrm state add src 2001:db8::1 dst 2001:db8::2 proto esp spi 1000 mode transport \
         enc cbc(aes) 0x00000000000000000000000000000000 \
         auth-trunc hmac(sha256) 0x0000000000000000000000000000000000000000000000000000000000000000 128",
    ),
    (
        "Mobile IPv6 (Home Address option)",
        "xfrm state add src 2001:db8::1 dst 2001:db8::2 proto hao mode ro coa 2001:db8::3",
    ),
    (
        "Mobile IPv6 (type 2 routing header)",
        "xfrm state add src 2001:db8::1 dst 2001:db8::2 proto route2 mode ro coa 2001:db8::3",
    ),
    ("XFRM policies", "xfrm policy add src 2001:db8::1/128 dst 2001:db8::2/128 proto 135 dir out action block"),
];

/// What the running kernel lacks. Namespaces themselves missing is an error.
pub(crate) fn missing() -> Outcome<Vec<&'static str>> {
    let node = Node::new("probe")?;
    Ok(TRIALS.iter().filter(|(_, trial)| node.ip(trial).is_err()).map(|(feature, _)| *feature).collect())
}
