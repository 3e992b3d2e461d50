//! A changed policy takes effect without a restart: all of it or nothing, and guests that did not change notice nothing.
//!
//! Everything that can fail comes first: reading the files, ports, the store. Then guests that are no more are de-registered, and forgotten when
//! that has ended; changed keys are in the kernel before the refresh that tries them; new guests begin as at the start.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::attachment::mode;
use super::publish::guest_config;
use super::{Runner, network};
use crate::daemon::ports::{self, OpenPort};
use crate::daemon::roster::{Changes, Roster};
use crate::daemon::tap::Device;
use crate::daemon::{Error, esp_tunnel};
use crate::policy::{GuestPolicy, Port};
use crate::vocabulary::{GuestId, Lifetime};

impl Runner {
    /// Reads the policy again. What has changed, or why nothing has, as a sentence.
    pub(super) async fn reload(&mut self, now: Instant) -> Result<String, String> {
        let outcome = self.try_reload(now).await;
        self.herald.reloaded(outcome)
    }

    async fn try_reload(&mut self, now: Instant) -> Result<String, String> {
        if self.leaving.is_some() {
            return Err("the daemon is ending".to_owned());
        }
        let policy = self.source.read().map_err(|error| error.to_string())?;
        // Those that are gone stay until they are de-registered.
        let (roster, changes, added) = self.roster.renewed(&policy, false).map_err(|error| error.to_string())?;
        let first = self.esp_tunnels.is_none() && esp_tunnel::is_wanted(roster.policy());
        let esp_tunnels = first.then(esp_tunnel::open).transpose().map_err(|error| error.to_string())?;
        let opened = self.open_new_ports(&roster).await?;
        if let Err(error) = self.kernel.follow(&roster) {
            ports::close(&self.kernel.route().handle().clone(), opened).await;
            return Err(error.to_string());
        }
        // From here on nothing is refused.
        for warning in &policy.warnings {
            tracing::warn!("{warning}");
        }
        let before = std::mem::replace(&mut self.roster, roster);
        self.use_ports(opened);
        if let Some(Err(error)) = esp_tunnels.map(|device| self.use_esp_tunnels(device)) {
            tracing::error!("guests with data in ESP tunnels are cut off: {error}");
        }
        let stays = |id: &GuestId| !changes.removed.contains(id);
        let revived: BTreeSet<_> = self.removing.iter().copied().filter(stays).collect();
        self.removing.retain(|id| !revived.contains(id));
        self.change_guests(&before, &changes, now);
        for id in added.into_iter().chain(revived) {
            self.departed.remove(&id);
            self.know(id);
            self.place(id);
            self.begin_guest(id, now);
        }
        self.tell_ports();
        self.follow_hypervisors();
        self.look_at_uplink(now).await;
        self.stale = true;
        self.reconcile(now).await;
        // Keys that the home agent does not have yet show now, and not when the binding ends.
        for (id, guest) in &changes.changed {
            if before.get(*id).is_some_and(|old| old.protection != guest.protection) {
                self.engine.refresh(*id, now);
            }
        }
        Ok(changes.describe())
    }

    async fn open_new_ports(&self, roster: &Roster) -> Result<Vec<OpenPort>, String> {
        let handle = self.kernel.route().handle().clone();
        let mut wanted: Vec<&Port> = Vec::new();
        for port in roster.guests().filter_map(|(_, guest)| Some(&guest.attachment.as_ref()?.port)) {
            if !wanted.contains(&port) && self.ports.iter().all(|open| open.port != *port) {
                wanted.push(port);
            }
        }
        let mut opened = Vec::new();
        for port in wanted {
            match ports::open_one(&handle, port, self.ports.len() + opened.len()).await {
                Ok(port) => opened.push(port),
                Err(error) => {
                    ports::close(&handle, opened).await;
                    return Err(error.to_string());
                }
            }
        }
        Ok(opened)
    }

    fn use_ports(&mut self, opened: Vec<OpenPort>) {
        for port in opened {
            let (number, device) = (self.ports.len(), Arc::clone(&port.device));
            let network = network(&self.roster, &port);
            self.path.frames.push(network.counters());
            self.networks.push(network);
            self.ports.push(port);
            if let Err(error) = self.path.start_port(number, device) {
                tracing::error!("guests on port {number} are cut off: {error}");
            }
        }
    }

    /// Has packets go through a new TUN of ESP tunnels.
    pub(super) fn use_esp_tunnels(&mut self, device: Arc<Device>) -> Result<(), Error> {
        let started = self.path.start_esp_tunnels(Arc::clone(&device));
        started.map_err(|source| Error::socket("a thread", source))?;
        self.esp_tunnels = Some(device);
        self.stale = true;
        Ok(())
    }

    fn change_guests(&mut self, before: &Roster, changes: &Changes, now: Instant) {
        for id in changes.removed.iter().filter(|id| self.removing.insert(**id)) {
            // Its end is the event that it is de-registered.
            self.engine.deregister(*id, now);
        }
        let key_management_mobility = self.roster.policy().home_agent.key_management_mobility;
        for (id, guest) in self.roster.guests() {
            self.engine.configure_guest(id, Lifetime::from_duration(guest.lifetime), key_management_mobility);
        }
        for (id, guest) in &changes.changed {
            if before.get(*id).is_some_and(|old| elsewhere(old, guest)) {
                self.displace(*id);
                self.place(*id);
                if self.attachments.get(id).is_some_and(|one| one.state().speaks()) && !self.is_at_home(*id) {
                    self.networks.iter_mut().for_each(|network| network.attached(*id, now));
                }
            }
            let action = self.attachments.get_mut(id).and_then(|attachment| attachment.set_mode(mode(guest)));
            self.act(*id, action, now);
        }
    }

    /// Puts a guest on the port of its policy.
    fn place(&mut self, id: GuestId) {
        let Some(guest) = self.roster.get(id) else { return };
        let Some(attachment) = &guest.attachment else { return };
        for (port, network) in self.ports.iter_mut().zip(&mut self.networks) {
            if port.port == attachment.port && !port.guests.contains(&id) {
                port.guests.push(id);
                network.add_guest(guest_config(id, guest, attachment));
            }
        }
    }

    fn displace(&mut self, id: GuestId) {
        self.ports.iter_mut().for_each(|port| port.guests.retain(|guest| *guest != id));
        self.networks.iter_mut().for_each(|network| network.remove_guest(id));
    }

    /// A guest that the policy does not have any more has been de-registered.
    pub(super) fn forget(&mut self, id: GuestId, now: Instant) {
        if !self.removing.remove(&id) {
            return;
        }
        tracing::info!(guest = self.name(id), "removed");
        self.engine.remove_guest(id, now);
        self.displace(id);
        self.attachments.remove(&id);
        self.carriers.remove(&id);
        self.arriving.remove(&id);
        self.path_mtus.remove(&id);
        self.arrivals.remove(&id);
        self.unreserved.remove(&id);
        self.departed.remove(&id);
        self.home_link.hush(id);
        self.bindings.0.remove(&id);
        self.roster.remove(id);
        if let Err(error) = self.kernel.follow(&self.roster) {
            tracing::error!("{error}");
        }
        self.stale = true;
        self.attention.scan_within(Duration::ZERO, now);
    }
}

/// Whether a guest is to be found elsewhere, or shown something else.
fn elsewhere(old: &GuestPolicy, new: &GuestPolicy) -> bool {
    let of = |guest: &GuestPolicy| {
        let attachment = guest.attachment.as_ref();
        attachment.map(|attachment| (attachment.mac, attachment.port.clone(), attachment.router))
    };
    of(old) != of(new)
}
