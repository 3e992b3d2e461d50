//! Whether this host speaks for a guest.
//!
//! Only one host speaks for a guest at a time, and nobody tells a host that a guest has left it: it hears frames, commands, and what the home
//! agent answers. This machine makes of them when to register and when to be silent; the registration itself is
//! [`mobile_node`](super::mobile_node)'s.
//!
//! ```text
//!            prepare               command, sign of the guest            accepted
//!  Absent ───────────► Prepared ──────────────────────────────► Attached ─────────► Bound ──┐
//!    │                    ▲                                        ▲  ▲  └── expired ─┘     │ announcement:
//!    └── attach ──────────┼────────────────────────────────────────┘  └─────────────────────┘ registered anew
//!                 prepare │                         command, arrival│
//!                      Departed ◄── detach, de-registered ── (any state)
//!                      AtHome ◄──── de-registered on the home link ── Attached
//!                      TakenOver ◄── the home agent: another host has the guest ── Attached, Bound
//! ```
//!
//! **A host never steals a guest back.** After a takeover, or a `detach`, what is heard of the guest may be an echo: the last frames before it
//! left, still in a queue. So it takes a command, or an *arrival* to attach again:
//!
//! * an announcement (the hypervisor's reverse ARP, an unsolicited neighbour advertisement) more than [`ECHO`] after the guest was given up, or
//! * any frame after [`ABSENCE`] without one. This counts once until the next command or announcement: should the guest really run on two
//!   hosts, which only a mistake can bring about, they would otherwise take it from each other for ever.
//!
//! On the home link nobody speaks for a guest: to attach it there is to de-register it.
//!
//! An announcement while this host speaks for the guest registers anew: the guest may have been elsewhere and come back before the home agent
//! had a reason to tell us, and then our sequence numbers are old ones.

use std::time::{Duration, Instant};

pub use crate::policy::AttachMode as Mode;
use crate::vocabulary::SequenceNumber;

/// Announcements this soon after a guest was given up may have been under way before. A hypervisor announces for about a second.
pub const ECHO: Duration = Duration::from_secs(2);
/// A guest that was not heard for this time has been away: longer than a neighbour believes another reachable (RFC 4861 §10).
pub const ABSENCE: Duration = Duration::from_secs(30);

/// The states.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Nothing is known of the guest.
    Absent,
    /// All is in place, and silent.
    Prepared,
    /// This host speaks for the guest; the home agent has not accepted yet.
    Attached,
    /// The home agent has accepted.
    Bound,
    /// Another host speaks for the guest.
    TakenOver {
        /// The sequence number of that host which the home agent has last accepted.
        last_accepted: SequenceNumber,
    },
    /// Given up by this host: detached by command, or de-registered.
    Departed,
    /// It is on its home link, without a binding; so is this host.
    AtHome,
}

impl State {
    /// The name for people, in lower case.
    pub fn name(self) -> &'static str {
        match self {
            Self::Absent => "absent",
            Self::Prepared => "prepared",
            Self::Attached => "attached",
            Self::Bound => "bound",
            Self::TakenOver { .. } => "taken-over",
            Self::Departed => "departed",
            Self::AtHome => "at-home",
        }
    }

    /// Whether this host speaks for the guest.
    pub fn speaks(self) -> bool {
        matches!(self, Self::Attached | Self::Bound)
    }
}

/// What was heard of a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sign {
    /// It was announced: by its hypervisor, or by itself.
    Announcement,
    /// Some frame of it.
    Frame,
}

/// What somebody wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Have everything in place.
    Prepare,
    /// Speak for the guest now, whoever did so before.
    Attach,
    /// Stop, and leave the binding to its next host.
    Detach,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Bring everything into force, silently.
    Prepare,
    /// Register, adopting the home agent's sequence number once.
    Attach,
    /// Stop without a word; `ready`: and have everything in force, silently, for its return.
    Detach {
        /// Whether it may come back by itself.
        ready: bool,
    },
}

/// The attachment of one guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    mode: Mode,
    state: State,
    /// When the guest was given up.
    given_up: Option<Instant>,
    last_sign: Option<Instant>,
    /// Whether a frame after an absence still counts as an arrival.
    chance: bool,
}

impl Attachment {
    /// A guest nothing is known of.
    pub fn new(mode: Mode) -> Self {
        Self { mode, state: State::Absent, given_up: None, last_sign: None, chance: true }
    }

    /// The state.
    pub fn state(&self) -> State {
        self.state
    }

    /// When the guest is attached, from a changed policy: what is attached stays so.
    pub fn set_mode(&mut self, mode: Mode) -> Option<Action> {
        self.mode = mode;
        if self.state == State::Absent { self.start() } else { None }
    }

    /// The daemon runs.
    pub fn start(&mut self) -> Option<Action> {
        match self.mode {
            Mode::Always => self.attach(),
            Mode::WhenSeen => self.prepare(),
            Mode::OnCommand => None,
        }
    }

    /// Somebody wants something. Nothing is done where it is so already.
    pub fn command(&mut self, command: Command, now: Instant) -> Option<Action> {
        self.chance = true;
        match (command, self.state) {
            (Command::Prepare, State::Prepared) => None,
            // A guest that this host speaks for is not silenced by getting ready for it.
            (Command::Prepare, state) if state.speaks() => None,
            (Command::Prepare, _) => self.prepare(),
            (Command::Attach, _) => self.attach(),
            (Command::Detach, State::Departed) => None,
            (Command::Detach, _) => {
                self.give_up(State::Departed, now);
                Some(Action::Detach { ready: self.stays_ready() })
            }
        }
    }

    /// Something was heard of the guest.
    pub fn seen(&mut self, sign: Sign, now: Instant) -> Option<Action> {
        let before = self.last_sign.replace(now);
        match self.state {
            State::Absent => None,
            State::Prepared => self.attach(),
            State::Attached | State::Bound if sign == Sign::Announcement => self.attach(),
            State::Attached | State::Bound => None,
            State::TakenOver { .. } | State::Departed | State::AtHome if self.mode == Mode::OnCommand => None,
            State::TakenOver { .. } | State::Departed | State::AtHome => {
                let quiet_since = before.max(self.given_up);
                let quiet = |time| quiet_since.is_none_or(|since| now.saturating_duration_since(since) >= time);
                let given_up = self.given_up.map(|at| now.saturating_duration_since(at));
                match sign {
                    Sign::Announcement if given_up.is_none_or(|passed| passed >= ECHO) => {
                        self.chance = true;
                        self.attach()
                    }
                    Sign::Frame if self.chance && quiet(ABSENCE) => {
                        self.chance = false;
                        self.attach()
                    }
                    _ => None,
                }
            }
        }
    }

    /// The home agent has accepted.
    pub fn registered(&mut self) {
        if self.state == State::Attached {
            self.state = State::Bound;
        }
    }

    /// The binding has ended; registration goes on.
    pub fn expired(&mut self) {
        if self.state == State::Bound {
            self.state = State::Attached;
        }
    }

    /// The home agent has accepted newer numbers than ours: another host has the guest. Whether it is to be made ready again.
    pub fn taken_over(&mut self, last_accepted: SequenceNumber, now: Instant) -> Option<Action> {
        if !self.state.speaks() {
            return None;
        }
        self.give_up(State::TakenOver { last_accepted }, now);
        self.stays_ready().then_some(Action::Prepare)
    }

    /// De-registration has ended, however. Whether the guest is to be made ready again.
    pub fn deregistered(&mut self, now: Instant) -> Option<Action> {
        if matches!(self.state, State::TakenOver { .. }) {
            return None;
        }
        self.give_up(State::Departed, now);
        self.stays_ready().then_some(Action::Prepare)
    }

    /// Whether a guest that was given up is made ready again: when it may come back by itself.
    fn stays_ready(&self) -> bool {
        self.mode == Mode::WhenSeen
    }

    /// De-registration on the home link has ended well.
    pub fn came_home(&mut self, now: Instant) {
        if self.state.speaks() {
            self.give_up(State::AtHome, now);
        }
    }

    /// This host has left the home link: what it knew there of the guest tells nothing any more.
    pub fn left_home_link(&mut self) -> Option<Action> {
        if self.state != State::AtHome {
            return None;
        }
        self.state = State::Absent;
        self.start()
    }

    fn give_up(&mut self, state: State, now: Instant) {
        self.state = state;
        self.given_up = Some(now);
    }

    fn prepare(&mut self) -> Option<Action> {
        self.state = State::Prepared;
        Some(Action::Prepare)
    }

    fn attach(&mut self) -> Option<Action> {
        self.state = State::Attached;
        Some(Action::Attach)
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "an Instant to count from")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const OTHER: SequenceNumber = SequenceNumber(700);

    fn bound(mode: Mode, now: Instant) -> Attachment {
        let mut guest = Attachment::new(mode);
        guest.start();
        guest.command(Command::Attach, now);
        guest.registered();
        assert_eq!(guest.state(), State::Bound);
        guest
    }

    #[test]
    fn each_mode_starts_in_its_own_way() {
        let now = Instant::now();
        for (mode, action, state) in [
            (Mode::Always, Some(Action::Attach), State::Attached),
            (Mode::WhenSeen, Some(Action::Prepare), State::Prepared),
            (Mode::OnCommand, None, State::Absent),
        ] {
            let mut guest = Attachment::new(mode);
            assert_eq!((guest.start(), guest.state()), (action, state));
            guest.registered();
            let attached = guest.seen(Sign::Frame, now);
            assert_eq!(attached, (mode == Mode::WhenSeen).then_some(Action::Attach), "{mode:?}");
        }
    }

    #[test]
    fn what_a_guest_leaves_behind_does_not_bring_it_back() {
        let start = Instant::now();
        let mut guest = bound(Mode::WhenSeen, start);
        assert_eq!(guest.taken_over(OTHER, start), Some(Action::Prepare));
        assert_eq!(guest.seen(Sign::Announcement, start + ECHO / 2), None, "it was under way");
        for seconds in 0..100 {
            assert_eq!(guest.seen(Sign::Frame, start + Duration::from_secs(seconds)), None, "it goes on");
        }
        assert_eq!(guest.seen(Sign::Announcement, start + ECHO * 60), Some(Action::Attach));
    }

    #[test]
    fn a_frame_after_an_absence_brings_it_back_once() {
        let start = Instant::now();
        let mut guest = bound(Mode::Always, start);
        assert_eq!(guest.taken_over(OTHER, start), None);
        assert_eq!(guest.seen(Sign::Frame, start + ABSENCE), Some(Action::Attach));
        guest.registered();
        guest.taken_over(OTHER, start + ABSENCE);
        assert_eq!(guest.seen(Sign::Frame, start + ABSENCE * 3), None);
        assert_eq!(guest.command(Command::Attach, start + ABSENCE * 4), Some(Action::Attach));
    }

    #[test]
    fn an_announcement_while_bound_registers_anew_and_a_frame_does_not() {
        let now = Instant::now();
        let mut guest = bound(Mode::Always, now);
        assert_eq!(guest.seen(Sign::Frame, now), None);
        assert_eq!(guest.seen(Sign::Announcement, now), Some(Action::Attach));
        assert_eq!(guest.state(), State::Attached);
    }

    #[test]
    fn commands_are_done_once() {
        let now = Instant::now();
        let mut guest = bound(Mode::OnCommand, now);
        assert_eq!(guest.command(Command::Prepare, now), None, "a guest that is here is not silenced");
        assert_eq!(guest.command(Command::Detach, now), Some(Action::Detach { ready: false }));
        assert_eq!(guest.command(Command::Detach, now), None);
        assert_eq!(guest.seen(Sign::Announcement, now + ABSENCE * 2), None, "on command only");
        assert_eq!(guest.command(Command::Prepare, now), Some(Action::Prepare));
        assert_eq!(guest.seen(Sign::Frame, now), Some(Action::Attach), "it was expected");
        assert_eq!(guest.deregistered(now), None);
        assert_eq!(guest.state(), State::Departed);
    }

    #[test]
    fn a_guest_that_may_come_back_by_itself_is_made_ready_when_it_has_left() {
        let start = Instant::now();
        let mut guest = bound(Mode::WhenSeen, start);
        assert_eq!(guest.deregistered(start), Some(Action::Prepare));
        assert_eq!(guest.state(), State::Departed, "ready is not expected: an echo does not bring it back");
        assert_eq!(guest.seen(Sign::Announcement, start + ECHO / 2), None);
        assert_eq!(guest.seen(Sign::Announcement, start + ECHO), Some(Action::Attach));
        guest.taken_over(OTHER, start + ECHO);
        assert_eq!(guest.deregistered(start + ECHO), None, "it is ready already");
        for mode in [Mode::Always, Mode::OnCommand] {
            assert_eq!(bound(mode, start).deregistered(start), None, "{mode:?}");
        }
    }

    #[test]
    fn a_guest_at_home_is_attached_again_when_it_may_have_been_away() {
        let start = Instant::now();
        let at_home = |mode| {
            let mut guest = Attachment::new(mode);
            guest.start();
            guest.command(Command::Attach, start);
            guest.came_home(start);
            assert_eq!(guest.state(), State::AtHome);
            guest
        };
        let mut guest = at_home(Mode::WhenSeen);
        assert!(!guest.state().speaks());
        assert_eq!(guest.seen(Sign::Announcement, start + ECHO / 2), None);
        assert_eq!(guest.seen(Sign::Frame, start + ECHO), None, "it lives here");
        assert_eq!(guest.seen(Sign::Announcement, start + ECHO), Some(Action::Attach), "it comes from somewhere");
        guest.came_home(start + ECHO);
        assert_eq!(guest.command(Command::Detach, start + ECHO), Some(Action::Detach { ready: true }));
        assert_eq!(guest.state(), State::Departed);
        guest.came_home(start + ECHO);
        assert_eq!(guest.state(), State::Departed, "given up meanwhile");
        for (mode, action, state) in [
            (Mode::Always, Some(Action::Attach), State::Attached),
            (Mode::WhenSeen, Some(Action::Prepare), State::Prepared),
            (Mode::OnCommand, None, State::Absent),
        ] {
            let mut guest = at_home(mode);
            assert_eq!((guest.left_home_link(), guest.state()), (action, state));
            assert_eq!(guest.left_home_link(), None);
        }
    }

    #[derive(Debug, Clone, Copy)]
    enum Input {
        Command(Command),
        Seen(Sign),
        Registered,
        Expired,
        TakenOver,
        Deregistered,
        CameHome,
    }

    fn inputs() -> impl Strategy<Value = Vec<(u64, Input)>> {
        let input = prop_oneof![
            prop_oneof![Just(Command::Prepare), Just(Command::Attach), Just(Command::Detach)].prop_map(Input::Command),
            Just(Input::Seen(Sign::Announcement)),
            Just(Input::Seen(Sign::Frame)),
            Just(Input::Registered),
            Just(Input::Expired),
            Just(Input::TakenOver),
            Just(Input::Deregistered),
            Just(Input::CameHome),
        ];
        // Mostly short pauses, some around the limits.
        let pause = prop_oneof![0u64..500, 1_900u64..2_100, 29_900u64..30_100];
        proptest::collection::vec((pause, input), 1..60)
    }

    fn mode() -> impl Strategy<Value = Mode> {
        prop_oneof![Just(Mode::Always), Just(Mode::WhenSeen), Just(Mode::OnCommand)]
    }

    proptest! {
        /// Whatever happens: a guest that was given up is spoken for again only by command or arrival, and at most once by a mere frame.
        #[test]
        fn a_guest_is_never_stolen_back(mode in mode(), inputs in inputs()) {
            let mut now = Instant::now();
            let mut guest = Attachment::new(mode);
            guest.start();
            let (mut given_up, mut last_sign, mut by_frame): (Option<Instant>, Option<Instant>, u32) = (None, None, 0);
            for (pause, input) in inputs {
                now += Duration::from_millis(pause);
                let before = guest.state();
                let action = match input {
                    Input::Command(command) => guest.command(command, now),
                    Input::Seen(sign) => guest.seen(sign, now),
                    Input::Registered => { guest.registered(); None }
                    Input::Expired => { guest.expired(); None }
                    Input::TakenOver => guest.taken_over(OTHER, now),
                    Input::Deregistered => guest.deregistered(now),
                    Input::CameHome => { guest.came_home(now); None }
                };
                let begins = !before.speaks() && guest.state().speaks();
                prop_assert!(!begins || action == Some(Action::Attach));
                prop_assert!(action != Some(Action::Attach) || guest.state() == State::Attached);
                let is_lost = |state| matches!(state, State::TakenOver { .. } | State::Departed | State::AtHome);
                let lost = is_lost(before);
                let announced = matches!(input, Input::Seen(Sign::Announcement)) && action == Some(Action::Attach);
                if announced || matches!(input, Input::Command(_)) {
                    by_frame = 0;
                }
                if lost && guest.state().speaks() {
                    match input {
                        Input::Command(Command::Attach) => {}
                        Input::Seen(Sign::Announcement) => {
                            prop_assert!(now - given_up.unwrap() >= ECHO && mode != Mode::OnCommand);
                        }
                        Input::Seen(Sign::Frame) => {
                            by_frame += 1;
                            prop_assert!(by_frame <= 1 && mode != Mode::OnCommand);
                            prop_assert!(now - given_up.max(last_sign).unwrap() >= ABSENCE);
                        }
                        other => prop_assert!(false, "{:?} brought it back", other),
                    }
                }
                let again = matches!(input, Input::Deregistered) && before == State::Departed;
                if is_lost(guest.state()) && (before != guest.state() || again) {
                    given_up = Some(now);
                }
                if matches!(input, Input::Seen(_)) {
                    last_sign = Some(now);
                }
            }
        }
    }
}
