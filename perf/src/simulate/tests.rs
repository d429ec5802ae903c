//! That the simulation finds what is wrong: worlds that are sabotaged, and devices that do what no driver can make up for. And that it is the same each time.

use super::live;
use super::plan::Plan;
use super::setup::Setup;
use super::world::{Ending, Sabotage};
use slipring::emulated::Faults;

const SEEDS: std::ops::Range<u64> = 0..40;

/// How many of some worlds fail, and what the first of them says.
fn failing(prepare: impl Fn(&mut Setup), sabotage: Option<Sabotage>) -> (usize, String) {
    let mut failures = SEEDS.filter_map(|seed| {
        let plan = Plan::new(seed, 300);
        let mut setup = Setup::draw(&plan);
        prepare(&mut setup);
        live(&plan, setup, sabotage, false).failure.map(|(_, what)| what)
    });
    let first = failures.next();
    (usize::from(first.is_some()) + failures.count(), first.unwrap_or_default())
}

#[test]
fn worlds_as_they_are_do_not_fail() {
    assert_eq!(failing(|_| {}, None), (0, String::new()));
}

#[test]
fn sabotage_is_found() {
    let found = [
        (Sabotage::TellTwice, "not its first"),
        (Sabotage::Swallow, ""),
        (Sabotage::Scribble, "given back was written to"),
        (Sabotage::RunTwice, "ran twice"),
        (Sabotage::PullOut, "for no reason"),
    ];
    for (sabotage, words) in found {
        let (count, what) = failing(|_| {}, Some(sabotage));
        assert!(count >= 10, "{sabotage:?} was found in {count} worlds of {SEEDS:?} only");
        assert!(what.contains(words), "{sabotage:?}: {what}");
    }
}

#[test]
fn what_a_device_must_not_do_is_found() {
    let found = [
        ("corrupt=5 opcode=read nth=3..", "torn"),
        ("corrupt=5 opcode=write nth=3..", "torn"),
        // Answered with success and never written.
        ("status=0x7ff opcode=write", "for no reason"),
    ];
    for (faults, words) in found {
        let faults: Faults = faults.parse().expect("faults");
        let untold = |setup: &mut Setup| {
            setup.config.faults = faults.clone();
            setup.told = Faults::default();
        };
        let (count, what) = failing(untold, None);
        assert!(count >= 10, "{faults} was found in {count} worlds of {SEEDS:?} only");
        assert!(what.contains(words), "{faults}: {what}");
    }
}

#[test]
fn a_world_is_the_same_each_time() {
    for seed in SEEDS {
        let plan = Plan::new(seed, 300);
        let [one, other] = [(), ()].map(|()| live(&plan, Setup::draw(&plan), None, false));
        let Ending { counts, failure } = one;
        assert_eq!((counts, failure), (other.counts, other.failure), "seed {seed}");
    }
}
