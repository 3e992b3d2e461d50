//! A changed policy, and what the control socket is answered.

use std::collections::BTreeMap;
use std::time::Instant;

use super::{Runner, join_groups};
use crate::daemon::control_socket::protocol::{Guest, Next, Reply, Request, Status};
use crate::daemon::handover::Standing;
use crate::daemon::herald::Weight;
use crate::daemon::report;
use crate::policy::Policy;
use crate::signaling::home_agent::{Config, Event};
use crate::vocabulary::{GuestId, MacAddress};

/// What the engine is to be.
pub(super) fn engine_config(policy: &Policy, link_layer_address: MacAddress) -> Config {
    Config {
        address: policy.home_agent.address,
        home_link: policy.home_agent.home_link,
        link_layer_address,
        maximum_lifetime: policy.home_agent.maximum_lifetime,
        detect_duplicates: policy.home_agent.detect_duplicates,
        optimistic_detection: policy.home_agent.optimistic_detection,
        key_management_mobility: policy.home_agent.key_management_mobility,
        maximum_bindings: policy.guests.len(),
    }
}

impl Runner<'_> {
    /// Reads the policy again: all of it is taken, or nothing. Bindings of guests that did not change stay. What has changed, or why nothing has,
    /// as a sentence.
    pub(super) async fn reload(&mut self, now: Instant) -> Result<String, String> {
        let outcome = self.try_reload(now).await;
        self.herald.reloaded(outcome)
    }

    async fn try_reload(&mut self, now: Instant) -> Result<String, String> {
        let policy = self.source.read().map_err(|error| error.to_string())?;
        let (roster, changes, added) = self.roster.renewed(&policy, true).map_err(|error| error.to_string())?;
        let groups = join_groups(&policy, self.home_link.link.index).map_err(|error| error.to_string())?;
        self.kernel.follow(&roster).map_err(|error| error.to_string())?;
        // From here on nothing is refused.
        for warning in &policy.warnings {
            tracing::warn!("{warning}");
        }
        self.roster = roster;
        self.home_link.groups = groups;
        self.engine.configure(engine_config(&policy, self.home_link.link.mac));
        for id in &changes.removed {
            self.engine.remove_guest(*id, now);
        }
        let home_address = |id: GuestId| self.roster.get(id).map(|guest| (id, guest.home_address));
        for (id, home_address) in added.into_iter().filter_map(home_address).collect::<Vec<_>>() {
            let last_sequence = self.kernel.ledger().accepted_sequence(home_address);
            self.engine.add_guest(id, home_address, last_sequence);
        }
        self.reconcile(now).await;
        self.stale = true;
        Ok(changes.describe())
    }

    /// Answers a request.
    pub(super) async fn answer(&mut self, request: Request, now: Instant) -> Reply {
        match request {
            Request::Status => self.status(now),
            Request::Reload => self.reload(now).await.map_or_else(Reply::Error, Reply::Done),
            Request::SaExport { guests } => Standing::export_of(self.kernel, &self.roster, &guests),
            Request::Attach { .. } | Request::Detach { .. } | Request::Prepare { .. } | Request::SaImport { .. } => {
                Reply::Error("this daemon is a home agent: guests are attached to hosts".to_owned())
            }
            // The socket serves it by itself.
            Request::Watch => Reply::Done(String::new()),
        }
    }

    fn status(&mut self, now: Instant) -> Reply {
        let positions = self.kernel.positions().unwrap_or_else(|error| {
            tracing::warn!("{error}");
            BTreeMap::new()
        });
        let policy = self.roster.policy();
        let seconds = |at: Instant| at.saturating_duration_since(now).as_secs_f64();
        let all = self.roster.guests().map(|(id, guest)| (id, guest.home_address));
        let mut carried = report::guest_counters(&self.path.core, all);
        let mut guests = Vec::new();
        for (id, guest) in self.roster.guests() {
            let view = self.engine.state(id);
            let view = view.as_ref();
            guests.push(Guest {
                care_of: view.and_then(|view| view.care_of),
                expires_in: view.and_then(|view| view.expires).map(seconds),
                sequence: view.and_then(|view| view.sequence).map(|sequence| sequence.0),
                next: view
                    .and_then(|view| view.next)
                    .map(|(at, what)| Next { within: seconds(at), what: what.to_owned() }),
                associations: report::associations(guest, policy, &positions, self.kernel.ending()),
                counters: carried.remove(&id).unwrap_or_default(),
                ..Guest::new(&guest.name, guest.home_address, view.map_or("none", |view| view.state))
            });
        }
        Reply::Status(Box::new(Status {
            role: "home-agent".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            running_for: now.saturating_duration_since(self.started).as_secs(),
            home_agent: Some(policy.home_agent.address),
            interface: policy.home_agent.interface.clone(),
            generation: self.kernel.generation().0,
            repairs: self.kernel.repairs(),
            tier: self.path.core.description.clone(),
            guests,
            counters: report::tunnel_counters(&self.path.core),
            troubles: self.herald.troubles(),
            ..Status::default()
        }))
    }

    /// An event in the words of people, with the guest's name and home address.
    pub(super) fn tell(&mut self, guest: GuestId, event: &Event) {
        let Some(policy) = self.roster.get(guest) else { return };
        let weight = match event {
            Event::Discarded(_) => Weight::Detail,
            event => Weight::of(event.is_trouble()),
        };
        self.herald.announce(Some(policy), weight, event.name(), &event.describe(), None);
    }
}
