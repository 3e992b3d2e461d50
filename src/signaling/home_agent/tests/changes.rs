//! What a changed policy, a restart, and the K bit do.

use super::*;

/// K of the acknowledgement of an update that has K as asked.
fn answered_k(bench: &mut Bench, sequence: u16, lifetime: u16, asked: bool) -> bool {
    let mut update = home_registration(sequence, here(), lifetime);
    update.flags.key_management_mobility = asked;
    let message = Message::BindingUpdate(update).emit();
    bench.agent.handle_binding_update(from(home(), here()), &message, bench.now);
    while let Some(output) = bench.agent.poll_output() {
        match output {
            Output::Secure { generation, .. } => bench.agent.applied(generation, bench.now),
            Output::Transmit { message, .. } => {
                let Message::BindingAcknowledgement(acknowledgement) = Message::parse(&message).unwrap() else {
                    panic!()
                };
                return acknowledgement.key_management_mobility;
            }
            _ => {}
        }
    }
    panic!("no answer")
}

#[test]
fn k_is_set_when_asked_for_and_configured_and_accepted() {
    for (configured, asked) in [(false, false), (false, true), (true, false), (true, true)] {
        let mut bench = Bench::with(|config| config.key_management_mobility = configured);
        assert_eq!(answered_k(&mut bench, 10, 50, asked), configured && asked, "{configured} {asked}");
        assert!(!answered_k(&mut bench, 10, 50, asked), "a refusal (status 135) says nothing of the kind");
        assert_eq!(answered_k(&mut bench, 11, 0, asked), configured && asked, "a de-registration is an acceptance");
    }
}

#[test]
fn a_home_address_that_is_served_no_more_loses_its_binding_and_gets_133() {
    let mut bench = Bench::bound();
    bench.agent.remove_guest(GUEST, bench.now);
    bench.drain();
    assert_eq!((bench.binding, bench.secured.last().unwrap().1), (None, None));
    assert!(bench.agent.state(GUEST).is_none() && bench.agent.poll_timeout().is_none());
    bench.update(11, here(), 50);
    assert_eq!(bench.last(), (133, 11));
    bench.agent.add_guest(GUEST, home(), None);
    bench.update(12, here(), 50);
    assert_eq!((bench.last(), bench.state()), ((0, 12), "bound"));
}

#[test]
fn other_settings_leave_bindings_alone() {
    let mut bench = Bench::bound();
    let config = Config { maximum_lifetime: Duration::from_secs(40), ..bench.agent.config.clone() };
    bench.agent.configure(config);
    assert_eq!((bench.state(), bench.binding.is_some()), ("bound", true));
    bench.update(11, here(), 100);
    assert_eq!(bench.answers.last().unwrap().lifetime, 10);
}

#[test]
fn a_recorded_update_makes_no_binding_after_a_restart() {
    let mut bench = Bench::new();
    bench.agent.remove_guest(GUEST, bench.now);
    bench.agent.add_guest(GUEST, home(), Some(SequenceNumber(10)));
    bench.update(10, here(), 50);
    assert_eq!((bench.last(), bench.state()), ((135, 10), "none"));
    bench.update(11, here(), 50);
    assert_eq!((bench.last(), bench.state()), ((0, 11), "bound"));
}

#[test]
fn what_is_accepted_is_told_to_be_stored() {
    let mut bench = Bench::new();
    let mut stored = Vec::new();
    for (sequence, lifetime) in [(10, 50), (10, 50), (11, 50), (12, 0), (13, 0)] {
        let message = Message::BindingUpdate(home_registration(sequence, here(), lifetime)).emit();
        bench.agent.handle_binding_update(from(home(), here()), &message, bench.now);
        while let Some(output) = bench.agent.poll_output() {
            match output {
                Output::Secure { generation, .. } => bench.agent.applied(generation, bench.now),
                Output::Transmit { accepted, .. } => stored.push(accepted.map(|sequence| sequence.0)),
                _ => {}
            }
        }
    }
    assert_eq!(stored, [Some(10), None, Some(11), Some(12), None], "neither 135 nor 133 is an acceptance");
}
