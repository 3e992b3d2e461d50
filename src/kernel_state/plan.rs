//! From what is to what shall be, in an order that never lets a protected message leave in clear.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv6Addr;

use super::object::{Address, Link, Route, RouteKey, RouteKind, Rule};
use super::{FAILSAFE_PRIORITY, HOME_ADDRESS_LINK, KernelState, LOCAL_TABLE};
use crate::ipsec::{
    AssociationKey, EspMode, Mode, PolicyKey, SecurityAssociation, SecurityPolicy, Template, Transform, UpperLayer,
};
use crate::vocabulary::Prefix;

/// One change of the kernel. `Display` is for logs and has no keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// New policy.
    AddPolicy(SecurityPolicy),
    /// Other action or templates under the same name, in one go.
    UpdatePolicy(SecurityPolicy),
    /// Policy no longer wanted.
    RemovePolicy(PolicyKey),
    /// New association.
    AddAssociation(SecurityAssociation),
    /// Route optimization state gets another care-of address, in place.
    UpdateAssociation(SecurityAssociation),
    /// ESP SA under the same SPI with other keys or parameters: removed and made anew. Its sequence number starts again at 0
    /// and its replay window is forgotten (RFC 4303 §3.4.3); the peer has to get the new keys at the same time anyway.
    ReplaceAssociation(SecurityAssociation),
    /// Association no longer wanted.
    RemoveAssociation(AssociationKey),
    /// The ends of a tunnel move, in one go: in the templates of a policy and in the SA that serves it, whose sequence numbers,
    /// replay window and limits go on.
    Migrate(Migration),
    /// An SA of a tunnel gets other ends while no policy uses it: removed and made anew with its sequence numbers.
    MoveAssociation {
        /// Its name until now.
        from: AssociationKey,
        /// What it becomes.
        to: SecurityAssociation,
    },
    /// New link.
    AddLink(Link),
    /// Settings of a link.
    UpdateLink(Link),
    /// Link no longer wanted.
    RemoveLink(String),
    /// New address on [`HOME_ADDRESS_LINK`], or other flags for one that is there.
    SetAddress(Address),
    /// Address no longer wanted.
    RemoveAddress(Ipv6Addr),
    /// New route.
    AddRoute(Route),
    /// Route no longer wanted.
    RemoveRoute(RouteKey),
    /// New rule.
    AddRule(Rule),
    /// Rule no longer wanted.
    RemoveRule(Rule),
}

/// `XFRM_MSG_MIGRATE`: a policy of a tunnel whose ends move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Migration {
    /// The policy.
    pub policy: PolicyKey,
    /// The reqid of its template and its SA.
    pub reqid: u32,
    /// Source and destination until now.
    pub from: (Ipv6Addr, Ipv6Addr),
    /// Source and destination from now on.
    pub to: (Ipv6Addr, Ipv6Addr),
}

impl Step {
    /// Whether it is about an SA or a policy; the others are about links, addresses, routes and rules.
    pub fn is_ipsec(&self) -> bool {
        match self {
            Self::AddPolicy(_)
            | Self::UpdatePolicy(_)
            | Self::RemovePolicy(_)
            | Self::AddAssociation(_)
            | Self::UpdateAssociation(_)
            | Self::ReplaceAssociation(_)
            | Self::RemoveAssociation(_)
            | Self::Migrate(_)
            | Self::MoveAssociation { .. } => true,
            Self::AddLink(_)
            | Self::UpdateLink(_)
            | Self::RemoveLink(_)
            | Self::SetAddress(_)
            | Self::RemoveAddress(_)
            | Self::AddRoute(_)
            | Self::RemoveRoute(_)
            | Self::AddRule(_)
            | Self::RemoveRule(_) => false,
        }
    }

    /// Whether it takes away what the kernel makes by itself some time after an address was added, and nobody has changed.
    pub fn is_late(&self) -> bool {
        matches!(self, Self::RemoveRoute(key) if *key == automatic_route(key.destination.address()))
    }

    /// Whether an ESP SA comes of it that was not there before.
    pub fn makes_association(&self) -> bool {
        match self {
            Self::AddAssociation(sa) | Self::ReplaceAssociation(sa) => sa.transform.esp().is_some(),
            _ => false,
        }
    }
}

/// Steps in the order in which they have to be taken.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// The steps.
    pub steps: Vec<Step>,
}

impl Plan {
    /// Whether nothing is to be done.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }
}

/// The steps from `observed` (only what is ours, see [`super::owned`]) to `desired`.
///
/// 1. Failsafe policies come.
/// 2. Policies that stay get their new contents; tunnels migrate with theirs.
/// 3. What is not wanted goes: policies, states, rules, routes, addresses, links.
/// 4. What is wanted comes, the other way round.
/// 5. Failsafe policies go.
pub fn diff(desired: &KernelState, observed: &KernelState) -> Plan {
    let mut steps = vec![];
    let moves = Moves::between(desired, observed);
    policies_that_stay_or_guard(desired, observed, &moves, &mut steps);
    removals(desired, observed, &moves, &mut steps);
    additions(desired, observed, &moves, &mut steps);
    let gone = |key: &&PolicyKey| is_failsafe(key) && !desired.policies.contains_key(key);
    steps.extend(observed_policies(observed).filter(gone).map(|key| Step::RemovePolicy(*key)));
    Plan { steps }
}

fn is_failsafe(key: &PolicyKey) -> bool {
    key.priority == FAILSAFE_PRIORITY
}

fn observed_policies(observed: &KernelState) -> impl Iterator<Item = &PolicyKey> {
    observed.policies.keys().chain(&observed.foreign_policies)
}

/// What moves from one pair of addresses to another.
#[derive(Default)]
struct Moves {
    /// Policies whose templates migrate.
    migrations: BTreeMap<PolicyKey, Migration>,
    /// SAs by their new name: their old one, and whether a policy takes them along.
    associations: BTreeMap<AssociationKey, (AssociationKey, bool)>,
    /// The old names.
    left: BTreeSet<AssociationKey>,
}

impl Moves {
    fn between(desired: &KernelState, observed: &KernelState) -> Self {
        let mut moves = Self::default();
        for (key, wanted) in &desired.policies {
            moves
                .migrations
                .extend(observed.policies.get(key).and_then(|there| migration(there, wanted)).map(|m| (*key, m)));
        }
        // The kernel takes one SA along with each; there may be several of a reqid, of the hosts of a guest or of two of its classes.
        let mut taken: BTreeMap<_, usize> = BTreeMap::new();
        let unwanted = observed.associations.values().filter(|there| !desired.associations.contains_key(&there.key));
        let tunnel = |sa: &&SecurityAssociation| sa.transform.esp().is_some_and(|esp| esp.mode == EspMode::Tunnel);
        let unwanted: Vec<_> = unwanted.filter(tunnel).collect();
        if unwanted.is_empty() {
            return moves;
        }
        let missing = desired.associations.values().filter(|wanted| {
            tunnel(wanted)
                && !observed.associations.contains_key(&wanted.key)
                && !observed.foreign_associations.contains(&wanted.key)
        });
        let mut by_spi: BTreeMap<u32, Vec<&SecurityAssociation>> = BTreeMap::new();
        unwanted.into_iter().for_each(|there| by_spi.entry(there.key.spi).or_default().push(there));
        for wanted in missing {
            let same = |there: &&&SecurityAssociation| {
                // One end is the home agent's and stays.
                let one_end = there.key.source == wanted.key.source || there.key.destination == wanted.key.destination;
                one_end && there.transform == wanted.transform && !moves.left.contains(&there.key)
            };
            let Some(there) = by_spi.get(&wanted.key.spi).and_then(|all| all.iter().find(same)) else { continue };
            let ends = |key: &AssociationKey| (key.source, key.destination);
            let takes_along =
                |m: &Migration| (Some(m.reqid), m.from, m.to) == (wanted.reqid(), ends(&there.key), ends(&wanted.key));
            let taken = taken.entry((wanted.reqid(), ends(&there.key))).or_default();
            let migrates = moves.migrations.values().filter(|migration| takes_along(migration)).count() > *taken;
            *taken += usize::from(migrates);
            moves.left.insert(there.key);
            moves.associations.insert(wanted.key, (there.key, migrates));
        }
        moves
    }
}

/// How one policy becomes the other when only the ends of its tunnel differ.
///
/// Not one of a type: since 6.12 the kernel does not look for a policy of this name, but for the one that decides on a packet from and to the
/// addresses of the selector, and the packet has no type (`xfrm_migrate_policy_find` of `net/xfrm/xfrm_policy.c`). Such a policy would not be found
/// (`ENODATA`); it gets its new ends by an update, and its SA moves after it, when no policy uses it.
fn migration(there: &SecurityPolicy, wanted: &SecurityPolicy) -> Option<Migration> {
    if matches!(wanted.key.selector.upper_layer, UpperLayer::MobilityHeader(_) | UpperLayer::Icmpv6(_)) {
        return None;
    }
    let ([old], [new]) = (&there.templates[..], &wanted.templates[..]) else { return None };
    let (from, to) = ((old.source, old.destination), (new.source, new.destination));
    let moved = Template { source: new.source, destination: new.destination, ..*old };
    (there.action == wanted.action && new.mode == Mode::Tunnel && moved == *new && from != to).then_some(Migration {
        policy: wanted.key,
        reqid: new.reqid,
        from,
        to,
    })
}

fn policies_that_stay_or_guard(desired: &KernelState, observed: &KernelState, moves: &Moves, steps: &mut Vec<Step>) {
    let exists = |key: &PolicyKey| observed.policies.contains_key(key) || observed.foreign_policies.contains(key);
    let (failsafe, protecting): (Vec<_>, Vec<_>) = desired.policies.values().partition(|p| is_failsafe(&p.key));
    for policy in failsafe.iter().filter(|p| !exists(&p.key)) {
        steps.push(Step::AddPolicy((*policy).clone()));
    }
    // Before their SAs: one that is made anew with its sequence numbers must not send meanwhile.
    for policy in failsafe.into_iter().chain(protecting) {
        let stays = exists(&policy.key) && !moves.migrations.contains_key(&policy.key);
        if stays && observed.policies.get(&policy.key) != Some(policy) {
            steps.push(Step::UpdatePolicy(policy.clone()));
        }
    }
    // Those that no policy takes along go first: the kernel takes the one that is left.
    for (wanted, (from, migrates)) in &moves.associations {
        if let (false, Some(to)) = (migrates, desired.associations.get(wanted)) {
            steps.push(Step::MoveAssociation { from: *from, to: to.clone() });
        }
    }
    steps.extend(moves.migrations.values().copied().map(Step::Migrate));
}

fn removals(desired: &KernelState, observed: &KernelState, moves: &Moves, steps: &mut Vec<Step>) {
    let unwanted = |key: &&PolicyKey| !is_failsafe(key) && !desired.policies.contains_key(key);
    steps.extend(observed_policies(observed).filter(unwanted).map(|key| Step::RemovePolicy(*key)));
    let associations = observed.associations.keys().chain(&observed.foreign_associations);
    let unwanted = associations.filter(|key| !desired.associations.contains_key(key) && !moves.left.contains(key));
    steps.extend(unwanted.map(|key| Step::RemoveAssociation(*key)));
    steps.extend(observed.rules.difference(&desired.rules).cloned().map(Step::RemoveRule));
    for (key, route) in &observed.routes {
        if desired.routes.get(key) != Some(route) {
            steps.push(Step::RemoveRoute(key.clone()));
        }
    }
    let unwanted = observed.addresses.keys().filter(|address| !desired.addresses.contains_key(address));
    steps.extend(unwanted.copied().map(Step::RemoveAddress));
    for (name, link) in &observed.links {
        if desired.links.get(name).is_none_or(|wanted| wanted.kind != link.kind) {
            steps.push(Step::RemoveLink(name.clone()));
        }
    }
}

fn additions(desired: &KernelState, observed: &KernelState, moves: &Moves, steps: &mut Vec<Step>) {
    for (name, link) in &desired.links {
        match observed.links.get(name) {
            Some(there) if there == link => {}
            Some(there) if there.kind == link.kind => steps.push(Step::UpdateLink(link.clone())),
            _ => steps.push(Step::AddLink(link.clone())),
        }
    }
    for (key, address) in &desired.addresses {
        match observed.addresses.get(key) {
            Some(there) if there == address => {}
            Some(_) => steps.push(Step::SetAddress(*address)),
            None => {
                // The kernel makes a local route with it; the guest owns the address, not this host.
                steps.push(Step::SetAddress(*address));
                let automatic = automatic_route(*key);
                if !observed.routes.contains_key(&automatic) {
                    steps.push(Step::RemoveRoute(automatic));
                }
            }
        }
    }
    for (key, route) in &desired.routes {
        if observed.routes.get(key) != Some(route) {
            steps.push(Step::AddRoute(route.clone()));
        }
    }
    steps.extend(desired.rules.difference(&observed.rules).cloned().map(Step::AddRule));
    // ESP first: route optimization states let packets out.
    let (esp, route_optimization): (Vec<_>, Vec<_>) =
        desired.associations.values().partition(|a| matches!(a.transform, Transform::Esp(_)));
    let stays = |wanted: &&SecurityAssociation| !moves.associations.contains_key(&wanted.key);
    for wanted in esp.into_iter().chain(route_optimization).filter(stays) {
        association(wanted, observed, steps);
    }
    for policy in desired.policies.values().filter(|p| !is_failsafe(&p.key)) {
        if !observed.policies.contains_key(&policy.key) && !observed.foreign_policies.contains(&policy.key) {
            steps.push(Step::AddPolicy(policy.clone()));
        }
    }
}

fn association(wanted: &SecurityAssociation, observed: &KernelState, steps: &mut Vec<Step>) {
    let foreign = observed.foreign_associations.contains(&wanted.key);
    match observed.associations.get(&wanted.key) {
        Some(there) if there == wanted => {}
        None if !foreign => steps.push(Step::AddAssociation(wanted.clone())),
        Some(there) if same_kind(&there.transform, &wanted.transform) => {
            steps.push(Step::UpdateAssociation(wanted.clone()));
        }
        _ => steps.push(Step::ReplaceAssociation(wanted.clone())),
    }
}

/// Whether one may become the other in place: two route optimization states that differ in the care-of address only.
fn same_kind(there: &Transform, wanted: &Transform) -> bool {
    match (there, wanted) {
        (Transform::RouteOptimization { wildcard: a, .. }, Transform::RouteOptimization { wildcard: b, .. }) => a == b,
        _ => false,
    }
}

/// The route that the kernel makes by itself for an address on our dummy link.
fn automatic_route(address: Ipv6Addr) -> RouteKey {
    RouteKey {
        table: LOCAL_TABLE,
        destination: Prefix::host(address),
        kind: RouteKind::Local,
        device: HOME_ADDRESS_LINK.to_owned(),
        metric: 0,
    }
}
