//! The guests of the policy in force, under names that stay when the policy changes.
//!
//! A [`GuestId`] is given once in the life of a daemon. At the start it is the guest's position in the file; a changed file may name the guests in
//! any order, and those with the same home address keep their ids.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv6Addr;

use crate::policy::{GuestPolicy, Policy};
use crate::vocabulary::GuestId;

/// The policy in force. The guests of [`Self::policy`] stand in the order of their ids.
#[derive(Debug, Clone)]
pub struct Roster {
    policy: Policy,
    ids: Vec<GuestId>,
    next: usize,
}

/// What a changed policy needs a restart for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} cannot change while the daemon runs: restart it, or put back {before}")]
pub struct NeedsRestart {
    what: &'static str,
    before: String,
}

/// How one policy differs from the one in force.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// New home addresses.
    pub added: Vec<GuestPolicy>,
    /// Home addresses that are no more.
    pub removed: Vec<GuestId>,
    /// The same home address with something else about it.
    pub changed: Vec<(GuestId, GuestPolicy)>,
}

impl Changes {
    /// One line for people.
    pub fn describe(&self) -> String {
        let Self { added, removed, changed } = self;
        match (added.len(), removed.len(), changed.len()) {
            (0, 0, 0) => "no guest has changed".to_owned(),
            (added, removed, changed) => format!("guests: {added} added, {removed} removed, {changed} changed"),
        }
    }
}

impl Roster {
    /// The guests of a policy at the start.
    pub fn new(policy: Policy) -> Self {
        let next = policy.guests.len();
        Self { ids: (0..next).map(GuestId).collect(), next, policy }
    }

    /// The policy.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// How many guests there are.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// The ids in the order of [`Self::policy`]'s guests: ascending.
    pub fn ids(&self) -> &[GuestId] {
        &self.ids
    }

    /// The guests.
    pub fn guests(&self) -> impl Iterator<Item = (GuestId, &GuestPolicy)> {
        self.ids.iter().copied().zip(&self.policy.guests)
    }

    /// Where a guest stands in [`Self::policy`].
    pub fn position(&self, id: GuestId) -> Option<usize> {
        self.ids.binary_search(&id).ok()
    }

    /// A guest.
    pub fn get(&self, id: GuestId) -> Option<&GuestPolicy> {
        self.policy.guests.get(self.position(id)?)
    }

    /// The guest of that name.
    pub fn named(&self, name: &str) -> Option<GuestId> {
        self.guests().find(|(_, guest)| guest.name == name).map(|(id, _)| id)
    }

    /// The guest of that home address.
    pub fn at(&self, home_address: Ipv6Addr) -> Option<&GuestPolicy> {
        self.policy.guests.iter().find(|guest| guest.home_address == home_address)
    }

    /// The home addresses of the guests of these names; of all when there are no names.
    ///
    /// # Errors
    /// A name that no guest has.
    pub fn home_addresses(&self, names: &[String]) -> Result<Vec<Ipv6Addr>, String> {
        if names.is_empty() {
            return Ok(self.policy.guests.iter().map(|guest| guest.home_address).collect());
        }
        let address = |name: &String| {
            let guest = self.named(name).and_then(|id| self.get(id));
            guest.map(|guest| guest.home_address).ok_or_else(|| format!("no guest {name:?} in the policy"))
        };
        names.iter().map(address).collect()
    }

    /// The guests of `new`, under the ids of this roster where they are known: the roster to be, without those that are gone where `forget` says
    /// so, how it differs, and the ids that are new.
    ///
    /// # Errors
    /// As [`Self::compare`].
    pub fn renewed(&self, new: &Policy, forget: bool) -> Result<(Self, Changes, Vec<GuestId>), NeedsRestart> {
        let changes = self.compare(new)?;
        let mut roster = self.clone();
        roster.take_settings(new);
        for (id, guest) in &changes.changed {
            roster.replace(*id, guest.clone());
        }
        let added = changes.added.iter().map(|guest| roster.add(guest.clone())).collect();
        for id in changes.removed.iter().filter(|_| forget) {
            roster.remove(*id);
        }
        Ok((roster, changes, added))
    }

    /// How `new` differs from what is in force.
    ///
    /// # Errors
    /// It differs in what a running daemon cannot change.
    pub fn compare(&self, new: &Policy) -> Result<Changes, NeedsRestart> {
        let (old, new_agent) = (&self.policy.home_agent, &new.home_agent);
        let differ = |what, before: String| Err(NeedsRestart { what, before });
        if old.address != new_agent.address {
            return differ("home_agent.address", old.address.to_string());
        }
        if old.home_link != new_agent.home_link {
            return differ("home_agent.home_link", old.home_link.to_string());
        }
        if old.interface != new_agent.interface {
            return differ("home_agent.interface", old.interface.clone().unwrap_or_default());
        }
        let mut changes = Changes::default();
        let known: BTreeMap<_, _> = self.guests().map(|(id, guest)| (guest.home_address, (id, guest))).collect();
        for guest in &new.guests {
            match known.get(&guest.home_address) {
                None => changes.added.push(guest.clone()),
                Some((id, old)) if *old != guest => changes.changed.push((*id, guest.clone())),
                Some(_) => {}
            }
        }
        let stay: BTreeSet<_> = new.guests.iter().map(|guest| guest.home_address).collect();
        let gone = self.guests().filter(|(_, guest)| !stay.contains(&guest.home_address));
        changes.removed = gone.map(|(id, _)| id).collect();
        Ok(changes)
    }

    /// Takes over what is not about guests.
    pub fn take_settings(&mut self, new: &Policy) {
        self.policy.home_agent = new.home_agent.clone();
        self.policy.uplink = new.uplink.clone();
        self.policy.warnings.clone_from(&new.warnings);
    }

    /// A new guest.
    pub fn add(&mut self, guest: GuestPolicy) -> GuestId {
        let id = GuestId(self.next);
        self.next += 1;
        self.ids.push(id);
        self.policy.guests.push(guest);
        id
    }

    /// A guest with something else about it.
    pub fn replace(&mut self, id: GuestId, guest: GuestPolicy) {
        if let Some(position) = self.position(id)
            && let Some(place) = self.policy.guests.get_mut(position)
        {
            *place = guest;
        }
    }

    /// Forgets a guest.
    pub fn remove(&mut self, id: GuestId) -> Option<GuestPolicy> {
        let position = self.position(id)?;
        self.ids.remove(position);
        Some(self.policy.guests.remove(position))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{KeyError, KeySource, load_mobile_node};

    struct NoKeys;

    impl KeySource for NoKeys {
        fn read_key(&self, path: &std::path::Path) -> Result<crate::ipsec::SecretKey, KeyError> {
            panic!("an unprotected policy names {}", path.display())
        }
    }

    /// A policy with these home addresses (last digits), by the names `vm-<digits>`.
    fn policy(guests: &[&str]) -> Policy {
        let mut text = "[home_agent]\naddress = \"2001:db8::1\"\nhome_link = \"2001:db8::/64\"\n".to_owned();
        for (index, end) in guests.iter().enumerate() {
            text.push_str(&format!(
                "[[guest]]\nname = \"vm-{end}\"\nhome_address = \"2001:db8::{end}\"\nmac = \"52:54:00:00:00:{index:02x}\"\n\
                 port = {{ bridge = \"br0\" }}\nprotect = \"none\"\n"
            ));
        }
        load_mobile_node("test.toml", &text, &NoKeys).unwrap()
    }

    #[test]
    fn ids_stay_whatever_the_order_of_the_file_and_are_never_used_again() {
        let mut roster = Roster::new(policy(&["a", "b", "c"]));
        let new = policy(&["d", "c", "a"]);
        let changes = roster.compare(&new).unwrap();
        assert_eq!(changes.removed, [GuestId(1)]);
        assert_eq!(changes.added.iter().map(|guest| guest.name.as_str()).collect::<Vec<_>>(), ["vm-d"]);
        assert_eq!(changes.changed.iter().map(|(id, _)| id.0).collect::<Vec<_>>(), [2, 0], "their MACs are others");
        assert_eq!(changes.describe(), "guests: 1 added, 1 removed, 2 changed");
        roster.remove(GuestId(1));
        for (id, guest) in changes.changed {
            roster.replace(id, guest);
        }
        assert_eq!(roster.add(changes.added[0].clone()), GuestId(3));
        assert_eq!(roster.compare(&new).unwrap(), Changes::default());
        assert_eq!(roster.named("vm-c"), Some(GuestId(2)));
        assert_eq!(roster.ids(), [GuestId(0), GuestId(2), GuestId(3)]);
        assert_eq!((roster.position(GuestId(3)), roster.get(GuestId(1))), (Some(2), None));
        roster.remove(GuestId(3));
        assert_eq!(roster.add(policy(&["e"]).guests[0].clone()), GuestId(4));
    }

    #[test]
    fn another_home_agent_needs_a_restart() {
        let roster = Roster::new(policy(&["a"]));
        let mut new = policy(&["a"]);
        new.home_agent.address = "2001:db8::2".parse().unwrap();
        let refusal = roster.compare(&new).unwrap_err().to_string();
        assert!(refusal.contains("home_agent.address") && refusal.contains("2001:db8::1"), "{refusal}");
    }
}
