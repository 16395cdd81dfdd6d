//! Makes a failing plan small: leaves steps out as long as the same rule is broken.

use crate::plan::Plan;
use crate::trace::Keep;
use crate::world;
use crate::wrong::Wrong;

/// A smaller plan that breaks this rule too, after at most `runs_max` runs.
pub fn shrink(plan: &Plan, wrong: Option<Wrong>, rule: &str, runs_max: usize) -> Plan {
    let mut best = plan.clone();
    let mut runs = 0;
    let mut size = best.steps.len().div_ceil(2);
    while size > 0 {
        let mut at = 0;
        while at < best.steps.len() {
            if runs == runs_max {
                return best;
            }
            runs += 1;
            let mut fewer = best.clone();
            fewer.steps.drain(at..(at + size).min(fewer.steps.len()));
            if breaks(&fewer, wrong, rule) {
                best = fewer;
            } else {
                at += size;
            }
        }
        size /= 2;
    }
    best
}

/// Whether a run of it breaks this rule.
pub fn breaks(plan: &Plan, wrong: Option<Wrong>, rule: &str) -> bool {
    world::run(plan, wrong, Keep::Digest).breaks(rule)
}
