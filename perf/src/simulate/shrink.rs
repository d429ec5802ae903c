//! From a failure to a smaller one: fewer steps at the end, fewer faults, fewer steps in between.
#![forbid(unsafe_code)]

use super::plan::Plan;
use std::time::{Duration, Instant};

/// How long the search may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// The smallest plan found for which `fails` still says at which step (`None`: at the end).
pub(super) fn shrink(plan: &Plan, faults: usize, fails: impl Fn(&Plan) -> Option<Option<u64>>) -> Plan {
    let started = Instant::now();
    let is_late = || started.elapsed() > PATIENCE;
    let mut smallest = plan.clone();
    cut(&mut smallest, &fails);
    for fault in 0..faults {
        let mut without = smallest.without.clone();
        without.push(fault);
        let candidate = Plan { without, ..smallest.clone() };
        if !is_late() && !smallest.without.contains(&fault) && fails(&candidate).is_some() {
            smallest = candidate;
        }
    }
    // Whole halves first, then ever smaller pieces.
    let mut size = smallest.steps.div_ceil(2);
    while size > 0 && !is_late() {
        let mut first = 0;
        while first < smallest.steps && !is_late() {
            let candidate = Plan {
                skips: smallest.skips.with(first..smallest.steps.min(first + size)),
                ..smallest.clone()
            };
            if candidate.skips != smallest.skips && fails(&candidate).is_some() {
                smallest = candidate;
            }
            first += size;
        }
        size /= 2;
    }
    cut(&mut smallest, &fails);
    smallest
}

/// Leaves out what comes after the failure; where that is the end, what is not needed for it, by bisection.
fn cut(plan: &mut Plan, fails: &impl Fn(&Plan) -> Option<Option<u64>>) {
    match fails(plan) {
        Some(Some(step)) => *plan = plan.shortened(step + 1),
        Some(None) => {
            let (mut passes, mut is_enough) = (0, plan.steps);
            while passes + 1 < is_enough {
                let middle = passes.midpoint(is_enough);
                if fails(&plan.shortened(middle)).is_some() { is_enough = middle } else { passes = middle }
            }
            *plan = plan.shortened(is_enough);
        }
        None => {}
    }
}

#[cfg(test)]
mod tests {
    use super::{Plan, shrink};

    #[test]
    fn what_does_not_matter_is_left_out() {
        // Fails at step 70 when steps 13 and 55 are taken and the second of three faults is there.
        let fails = |plan: &Plan| {
            let takes = |step| step < plan.steps && !plan.skips.contains(step);
            (takes(13) && takes(55) && takes(70) && !plan.without.contains(&1)).then_some(Some(70))
        };
        let smallest = shrink(&Plan::new(1, 1000), 3, fails);
        assert_eq!(
            smallest.to_string(),
            "slipring simulate --seed 1 --steps 71 --skip 0-12,14-54,56-69 --without 0,2"
        );
        assert!(fails(&smallest).is_some());
    }

    #[test]
    fn a_failure_at_the_end_is_bisected() {
        let fails = |plan: &Plan| (plan.steps > 300).then_some(None);
        let smallest = shrink(&Plan::new(1, 1000), 0, fails);
        assert_eq!(smallest.steps, 301);
    }
}
