//! Guests that are expected: everything in force, and silence.

use super::*;

impl Bench {
    fn prepare(&mut self, care_of: Option<Ipv6Addr>) {
        self.node.prepare(GUEST, care_of, self.now);
        self.drain();
    }
}

#[test]
fn a_prepared_guest_has_everything_in_force_and_says_nothing() {
    let mut bench = Bench::new(150);
    bench.prepare(Some(here()));
    assert_eq!((bench.state(), bench.secured.len(), bench.secured[0].1), ("prepared", 1, Some(here())));
    bench.at(10_000.0);
    assert_eq!((bench.updates.len(), bench.binding), (0, None));
    bench.secures = false;
    bench.attach(here());
    assert_eq!((bench.updates.len(), bench.secured.len()), (1, 1), "nothing is left to be secured");
    bench.answer(Status::ACCEPTED, 150);
    assert_eq!(bench.state(), "bound");
}

#[test]
fn what_is_prepared_follows_the_host() {
    let mut bench = Bench::new(150);
    bench.prepare(None);
    assert_eq!((bench.state(), bench.secured.len()), ("prepared", 0));
    bench.care_of(Some(here()));
    bench.care_of(Some(there()));
    assert_eq!(bench.secured.last().unwrap().1, Some(there()));
    bench.care_of(None);
    assert_eq!((bench.state(), bench.secured.last().unwrap().1), ("prepared", None));
    bench.care_of(Some(there()));
    assert_eq!((bench.state(), bench.updates.len()), ("prepared", 0));
    assert_eq!(bench.node.state(GUEST).unwrap().care_of, Some(there()));
}

#[test]
fn preparation_that_fails_is_tried_again_and_an_attach_meanwhile_registers() {
    let mut bench = Bench::new(150);
    bench.secures = false;
    bench.prepare(Some(here()));
    bench.node.securing_failed(GUEST, bench.secured[0].0, bench.now);
    bench.drain();
    assert_eq!(bench.state(), "securing-failed");
    bench.secures = true;
    bench.at(1.0);
    assert_eq!((bench.state(), bench.updates.len()), ("prepared", 0));

    let mut bench = Bench::new(150);
    bench.secures = false;
    bench.prepare(Some(here()));
    bench.attach(here());
    assert_eq!((bench.state(), bench.updates.len()), ("securing", 0));
    bench.node.applied(bench.secured.last().unwrap().0, bench.now);
    bench.drain();
    assert_eq!((bench.state(), bench.updates.len()), ("registering", 1));
}

#[test]
fn preparing_a_bound_guest_gives_its_binding_up_without_a_word() {
    let mut bench = Bench::bound(150);
    bench.prepare(Some(here()));
    assert_eq!((bench.state(), bench.binding, bench.updates.len()), ("prepared", None, 0));
    bench.deregister();
    assert_eq!(bench.events, [Event::Deregistered(Outcome::NothingSent)]);
}

#[test]
fn a_refresh_on_demand_is_for_bindings_only() {
    let mut bench = Bench::bound(150);
    bench.node.refresh(GUEST, bench.now);
    bench.drain();
    assert_eq!((bench.state(), bench.updates.len()), ("refreshing", 1));
    let mut bench = Bench::new(150);
    bench.prepare(Some(here()));
    bench.node.refresh(GUEST, bench.now);
    bench.drain();
    assert_eq!((bench.state(), bench.updates.len()), ("prepared", 0));
}

#[test]
fn other_settings_count_from_the_next_update_and_a_removed_guest_is_let_go() {
    let mut bench = Bench::bound(150);
    bench.node.configure_guest(GUEST, Lifetime(20), true);
    bench.node.refresh(GUEST, bench.now);
    bench.drain();
    let update = bench.updates.last().unwrap();
    assert_eq!((update.lifetime, update.flags.key_management_mobility), (Lifetime(20), true));
    bench.node.remove_guest(GUEST, bench.now);
    bench.drain();
    assert_eq!((bench.binding, bench.secured.last().unwrap().1), (None, None));
    assert!(bench.node.state(GUEST).is_none() && bench.node.poll_timeout().is_none());
    bench.answer(Status::ACCEPTED, 150);
    assert_eq!(bench.node.counters().discarded[&DiscardReason::UnknownHomeAddress], 1);
}

#[test]
fn the_clock_is_where_numbers_begin_unless_ours_are_a_little_ahead() {
    for (last, clock, first) in [
        (0, 50_000, 50_001),
        (0, 65_000, 65_001),
        (50_600, 50_000, 50_601),
        (65_530, 3, 4),
        (2, 65_530, 3),
        (40_000, 30_000, 30_001),
    ] {
        let mut bench = Bench::new(150);
        bench.node.start_from(GUEST, SequenceNumber(last));
        bench.node.start_from(GUEST, SequenceNumber(clock));
        bench.attach(here());
        assert_eq!(bench.updates[0].sequence, SequenceNumber(first), "last {last}, clock {clock}");
    }
}

#[test]
fn a_guest_that_was_left_to_its_next_host_can_be_deregistered_after_all() {
    let mut bench = Bench::new(150);
    bench.attach(here());
    bench.answer(Status::ACCEPTED, 150);
    bench.node.detach(GUEST, bench.now);
    bench.drain();
    assert_eq!((bench.state(), bench.binding), ("detached", None));
    let before = bench.updates.len();
    bench.node.release(GUEST, here(), bench.now);
    bench.drain();
    let update = bench.updates.last().unwrap();
    assert_eq!((bench.state(), bench.updates.len(), update.lifetime), ("deregistering", before + 1, Lifetime::ZERO));
    assert!(update.sequence.is_newer_than(bench.updates[before - 1].sequence));
    assert_eq!(bench.binding, None, "nothing is carried meanwhile");
    bench.answer(Status::ACCEPTED, 0);
    assert_eq!(bench.state(), "detached");

    let mut bench = Bench::new(150);
    bench.node.release(GUEST, None, bench.now);
    bench.drain();
    assert_eq!((bench.state(), bench.updates.len()), ("detached", 0));
}
