//! What the control socket is answered.

use std::collections::BTreeMap;
use std::time::Instant;

use super::Runner;
use crate::daemon::control_socket::protocol::{Guest, Next, Reply, Request, Sequences, Status};
use crate::daemon::handover::Standing;
use crate::daemon::report;
use crate::policy::GuestPolicy;
use crate::signaling::Attachment;
use crate::signaling::attachment::Command;
use crate::vocabulary::GuestId;

impl Runner {
    /// Answers a request.
    pub(super) async fn answer(&mut self, request: Request, now: Instant) -> Reply {
        let done = match request {
            Request::Status => return self.status(now),
            Request::Attach { guest } => self.command(&guest, Command::Attach, now),
            Request::Detach { guest, home: false } => self.command(&guest, Command::Detach, now),
            Request::Detach { guest, home: true } => self.send_home(&guest, now),
            Request::Prepare { guest } => self.command(&guest, Command::Prepare, now),
            Request::Reload => self.reload(now).await,
            Request::SaExport { guests } => return Standing::export_of(&mut self.kernel, &self.roster, &guests),
            Request::SaImport { sequences } => self.import(&sequences),
            // The socket serves it by itself.
            Request::Watch => Ok(String::new()),
        };
        done.map_or_else(Reply::Error, Reply::Done)
    }

    fn status(&mut self, now: Instant) -> Reply {
        let positions = self.kernel.positions().unwrap_or_else(|error| {
            tracing::warn!("{error}");
            BTreeMap::new()
        });
        let policy = self.roster.policy();
        let all = self.roster.guests().map(|(id, guest)| (id, guest.home_address));
        let mut carried = report::guest_counters(&self.path.core, all);
        let mut guests = Vec::new();
        for (id, guest) in self.roster.guests() {
            let associations = report::associations(guest, policy, &positions, self.kernel.ending());
            let counters = carried.remove(&id).unwrap_or_default();
            guests.push(Guest { associations, counters, ..self.guest(id, guest, now) });
        }
        let mut counters = report::tunnel_counters(&self.path.core);
        for frames in &self.path.frames {
            report::add(&mut counters, report::frame_counters(frames));
        }
        let signaling = self.engine.counters();
        let named = [
            ("signaling: binding updates", signaling.binding_updates),
            ("signaling: retransmissions", signaling.retransmissions),
            ("signaling: accepted", signaling.accepted),
            ("signaling: refused", signaling.refused),
        ];
        report::add(&mut counters, named.map(|(name, count)| (name.to_owned(), count)).into());
        let thrown =
            signaling.discarded.into_iter().map(|(reason, count)| (format!("signaling: thrown away: {reason}"), count));
        report::add(&mut counters, thrown.collect());
        Reply::Status(Box::new(Status {
            role: "mobile-node".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            running_for: now.saturating_duration_since(self.started).as_secs(),
            home_agent: Some(policy.home_agent.address),
            interface: self.uplink.as_ref().map(|uplink| uplink.name.clone()),
            care_of: self.care_of_address(),
            without_care_of: self.unfit.as_ref().map(ToString::to_string),
            generation: self.kernel.generation().0,
            repairs: self.kernel.repairs(),
            tier: self.path.core.description.clone(),
            guests,
            counters,
            troubles: self.herald.troubles(),
        }))
    }

    fn guest(&self, id: GuestId, guest: &GuestPolicy, now: Instant) -> Guest {
        let view = self.engine.state(id);
        let view = view.as_ref();
        let seconds = |at: Instant| at.saturating_duration_since(now).as_secs_f64();
        let state = self.attachments.get(&id).map_or("absent", |attachment: &Attachment| attachment.state().name());
        let state = if self.removing.contains(&id) { "removed" } else { state };
        Guest {
            registration: view.map(|view| view.state.to_owned()),
            port: guest.attachment.as_ref().map(|attachment| attachment.port.to_string()),
            care_of: view.and_then(|view| view.care_of),
            expires_in: view.and_then(|view| view.binding).map(|binding| seconds(binding.expires)),
            sequence: view.map(|view| view.sequence.0),
            unanswered: self
                .unanswered
                .hint(id)
                .filter(|_| view.is_some_and(|view| view.attempts > 0))
                .map(str::to_owned),
            refused: view.and_then(|view| view.refused).map(|status| status.to_string()),
            next: view.and_then(|view| view.next).map(|(at, what)| Next { within: seconds(at), what: what.to_owned() }),
            ..Guest::new(&guest.name, guest.home_address, state)
        }
    }

    fn import(&mut self, sequences: &Sequences) -> Result<String, String> {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let guests: Vec<_> = self.roster.policy().guests.iter().map(|guest| guest.home_address).collect();
        let home_agent = self.roster.policy().home_agent.address;
        let standing = Standing::of(&mut self.kernel, home_agent, &guests).map_err(|error| text(&error))?;
        let import = standing.judge(sequences).map_err(|refusal| format!("nothing was imported: {refusal}"))?;
        import.apply(&mut self.kernel).map_err(|error| text(&error))?;
        for (home_address, sequence) in &import.binding_updates {
            let guest = self.roster.guests().find(|(_, guest)| guest.home_address == *home_address);
            if let Some((guest, _)) = guest {
                self.engine.continue_from(guest, *sequence);
            }
        }
        let (guests, associations) = (import.binding_updates.len(), import.associations.len());
        let done = format!("sequence numbers of {guests} guests and {associations} SAs go on from another host's");
        tracing::info!("{done}");
        Ok(done)
    }
}
