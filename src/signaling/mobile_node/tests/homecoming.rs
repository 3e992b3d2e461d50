//! De-registration on the home link (RFC 6275 §11.5.5).

use super::*;

impl Bench {
    fn return_home(&mut self) {
        self.node.return_home(GUEST, self.now);
        self.drain();
    }
}

#[test]
fn a_guest_at_home_is_deregistered_with_its_home_address_for_a_care_of_address() {
    let mut bench = Bench::new(150);
    bench.secures = false;
    bench.return_home();
    assert_eq!((bench.secured.last().unwrap().1, bench.updates.len()), (Some(home()), 0), "first the kernel state");
    let generation = bench.secured.last().unwrap().0;
    bench.node.applied(generation, bench.now);
    bench.secures = true;
    bench.drain();
    let [update] = &bench.updates[..] else { panic!("{:?}", bench.updates) };
    assert_eq!((update.lifetime, bench.state()), (Lifetime::ZERO, "deregistering"));
    assert!(update.flags.acknowledge && update.flags.home_registration);
    assert_eq!(update.alternate_care_of_address(), Some(home()));
    bench.answer(Status::ACCEPTED, 0);
    assert_eq!(bench.events, [Event::Deregistered(Outcome::Acknowledged)]);
    assert_eq!((bench.state(), bench.secured.last().unwrap().1), ("detached", None), "nothing stays in force");
}

#[test]
fn another_host_s_number_is_gone_beyond_once() {
    let mut bench = Bench::new(150);
    bench.return_home();
    bench.acknowledge(Status::SEQUENCE_NUMBER_OUT_OF_WINDOW, 700, 0);
    assert_eq!(bench.events[0], Event::SequenceAdopted { last_accepted: SequenceNumber(700) });
    let update = bench.updates.last().unwrap();
    assert_eq!((bench.updates.len(), update.sequence.0, update.lifetime), (2, 700 + TAKEOVER_DISTANCE, Lifetime::ZERO));
    bench.answer(Status::ACCEPTED, 0);
    assert_eq!(bench.events.last(), Some(&Event::Deregistered(Outcome::Acknowledged)));
}

#[test]
fn it_is_sent_until_it_is_answered_and_no_binding_is_an_answer() {
    let mut bench = Bench::new(150);
    bench.return_home();
    for (seconds, transmissions) in [(0.9, 1), (1.0, 2), (3.0, 3), (7.0, 4), (15.0, 5), (31.0, 6), (63.0, 7), (95.0, 8)]
    {
        bench.at(seconds);
        assert_eq!((bench.updates.len(), bench.state()), (transmissions, "deregistering"), "at {seconds} s");
    }
    bench.answer(Status::NOT_HOME_AGENT_FOR_THIS_MOBILE_NODE, 0);
    assert_eq!(bench.events.last(), Some(&Event::Deregistered(Outcome::NoBinding)));
}

#[test]
fn a_host_that_comes_home_with_its_guest_carries_it_no_more() {
    let mut bench = Bench::bound(150);
    bench.return_home();
    assert_eq!((bench.binding, bench.state()), (None, "deregistering"));
    // And away again before there was an answer: it is registered there.
    bench.attach(there());
    bench.answer(Status::ACCEPTED, 150);
    assert_eq!((bench.state(), bench.binding.map(|binding| binding.care_of)), ("bound", Some(there())));
}
