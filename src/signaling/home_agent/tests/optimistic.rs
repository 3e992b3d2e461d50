//! Duplicate address detection beside a binding.

use super::*;

fn optimistic() -> Bench {
    Bench::with(|config| {
        config.detect_duplicates = true;
        config.optimistic_detection = true;
    })
}

#[test]
fn a_binding_is_accepted_at_once_and_for_a_short_time() {
    let mut bench = optimistic();
    bench.update(10, here(), 100);
    assert_eq!(
        (bench.state(), bench.answers.as_slice()),
        ("bound", [Answer { status: 0, sequence: 10, lifetime: 2, via: Some(here()) }].as_slice())
    );
    let (_, header, message) = read(&bench.frames[0]);
    assert_eq!(header.source, Ipv6Addr::UNSPECIFIED, "the probe goes before the announcement");
    assert!(matches!(message, ndisc::Message::NeighborSolicitation(_)));
    assert_eq!(bench.frames.len(), 2);
    bench.update(11, there(), 100);
    assert_eq!(bench.answers.last().unwrap().lifetime, 2, "still on probation");
    bench.at(4.0);
    bench.update(12, there(), 100);
    assert_eq!((bench.last(), bench.answers.last().unwrap().lifetime), ((0, 12), 100));
}

#[test]
fn an_answer_during_probation_ends_the_binding_and_the_next_update_gets_134() {
    for frame in [advertisement(home()), solicitation(home(), Ipv6Addr::UNSPECIFIED)] {
        let mut bench = optimistic();
        bench.update(10, here(), 100);
        bench.at(0.5);
        bench.hear(&frame);
        assert_eq!((bench.state(), bench.binding, bench.agent.counters().conflicts), ("none", None, 1));
        let announced = bench.frames.len();
        bench.at(4.0);
        assert_eq!(bench.frames.len(), announced, "the address is not announced any more");
        bench.update(11, here(), 100);
        assert_eq!(bench.state(), "detecting", "no second try by trust");
        bench.hear(&advertisement(home()));
        assert_eq!(bench.last(), (134, 11));
        bench.update(12, here(), 100);
        bench.at(6.0);
        assert_eq!((bench.state(), bench.answers.last().unwrap().lifetime), ("bound", 100), "the other one has gone");
        bench.update(13, here(), 0);
        bench.update(14, here(), 100);
        assert_eq!((bench.state(), bench.answers.last().unwrap().lifetime), ("bound", 2), "trusted again");
    }
}

#[test]
fn after_probation_the_binding_is_defended() {
    let mut bench = optimistic();
    bench.update(10, here(), 100);
    bench.at(1.0);
    bench.hear(&solicitation(home(), Ipv6Addr::UNSPECIFIED));
    assert_eq!(bench.state(), "bound");
    bench.at(8.0);
    assert_eq!(bench.state(), "none", "nobody has asked for more");
}
