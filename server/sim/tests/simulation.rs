//! Seeds that run every day, that one seed is one run, and that a server which is wrong on purpose is found.
//!
//! `TERN_SIM_SEEDS` sets how many fresh seeds are run.

use tern_sim::plan::{Action, Plan};
use tern_sim::shrink::{breaks, shrink};
use tern_sim::trace::Keep;
use tern_sim::world::{self, Outcome, PANIC};
use tern_sim::wrong::Wrong;

/// Run each time, so that what breaks shows at once and stays: the first few, which are as good as any others. What such a
/// seed does changes with all that draws a number or takes a time, in server, client and simulation.
const SEEDS: std::ops::Range<u64> = 1..16;
/// Seeds that still find what they have found, when it is put back. 137: what a commit of unknown outcome had stored was told
/// to nobody (`Shard::settle_owners`). 5016: a message was stored after its app had been told that it had failed (the client's
/// `Machine::settle`).
const FOUND: [u64; 2] = [137, 5016];
/// Of clusters, with what some of them have found at their time. 42: a node that has just begun took itself for the home of users whom nobody had told it of. 98: two
/// nodes that began at once did not know of each other. 263: sends of one device went to two owners and overtook each other.
/// 307: a device's older connection displaced the newer one when their home was a new one.
const CLUSTERS: [u64; 8] = [1, 2, 3, 8, 42, 98, 263, 307];
/// Of short plans in which something breaks in the midst of sends. What some of them find when it is put back: that nobody is told
/// what was stored on the other side of a link while that is cut. 15: that news were lost was said on a link that the other node closed
/// unread.
const STORMS: std::ops::Range<u64> = 1..16;
/// Fresh ones.
const FRESH: u64 = 5;
/// A wrong server is found within so many seeds.
const SEEDS_PER_WRONG: u64 = 60;

fn run(seed: u64) -> Outcome {
    run_plan(&Plan::new(seed), "")
}

fn run_plan(plan: &Plan, flag: &str) -> Outcome {
    let (seed, outcome) = (plan.seed, world::run(plan, None, Keep::Lines));
    let replay = format!("cargo run --release -p tern-sim -- --seed {seed} --trace{flag}");
    assert_eq!(outcome.panics, [""; 0], "seed {seed}, again with {replay}");
    tern_check::assert_none(&outcome.violations, &format!("seed {seed}, again with {replay}"));
    outcome
}

#[test]
fn seeds_keep_every_promise() {
    let (mut acked, mut resent, mut pushes) = (0, 0, 0);
    for seed in SEEDS.chain(FOUND) {
        let totals = run(seed).totals;
        (acked, resent, pushes) = (acked + totals.acked, resent + totals.resent, pushes + totals.pushes);
    }
    assert!(
        acked > 1_000 && resent > 100 && pushes > 1_000,
        "{acked} acked, {resent} sent again, {pushes} pushes"
    );
}

#[test]
fn clusters_keep_every_promise() {
    let (mut acked, mut pushes) = (0, 0);
    for seed in CLUSTERS {
        let totals = run_plan(&Plan::cluster(seed), " --cluster").totals;
        (acked, pushes) = (acked + totals.acked, pushes + totals.pushes);
    }
    assert!(acked > 1_000 && pushes > 1_000, "{acked} acked, {pushes} pushes");
}

#[test]
fn storms_keep_every_promise() {
    let (mut acked, mut resent) = (0, 0);
    for seed in STORMS {
        let totals = run_plan(&Plan::storm(seed), " --storm").totals;
        (acked, resent) = (acked + totals.acked, resent + totals.resent);
    }
    assert!(acked > 400 && resent > 20, "{acked} acked, {resent} sent again");
}

#[test]
fn fresh_seeds_keep_every_promise() {
    let seeds = std::env::var("TERN_SIM_SEEDS").ok();
    let seeds: u64 = seeds.map_or(FRESH, |text| text.parse().expect("TERN_SIM_SEEDS is a number"));
    let from = tern_server::clock::wall().0;
    for seed in from..from + seeds {
        assert!(run(seed).totals.sends > 0, "seed {seed} sends something");
        let plan = Plan::cluster(seed);
        assert!(run_plan(&plan, " --cluster").totals.sends > 0, "seed {seed} sends something on a cluster");
    }
}

// Of one node. On a cluster two shards that wait for the same watched view are woken in no order.
#[test]
fn one_seed_is_one_run() {
    for seed in [2, 7] {
        let (first, second) = (run(seed), run(seed));
        assert!(!first.trace.is_empty());
        if first.trace != second.trace {
            let differs = first.trace.lines().zip(second.trace.lines()).find(|(a, b)| a != b);
            panic!("seed {seed}: two runs differ: {differs:?}");
        }
        assert_eq!(first.digest, second.digest);
    }
    assert_ne!(run(2).digest, run(7).digest);
}

/// Whether it is found in this run. A client that panics has noticed as well, and says nothing about the checker.
fn is_found(plan: &Plan, wrong: Wrong) -> bool {
    let outcome = world::run(plan, Some(wrong), Keep::Digest);
    match wrong.breaks() {
        Some(promise) => outcome.violations.iter().any(|found| found.promise == promise),
        None => outcome.failure().is_some_and(|(rule, text)| rule == PANIC && text.contains("on purpose")),
    }
}

#[test]
fn each_wrong_server_is_found() {
    for wrong in Wrong::ALONE {
        let found = (1..SEEDS_PER_WRONG).any(|seed| is_found(&Plan::new(seed), wrong));
        assert!(found, "{wrong:?} was not found to break {:?}", wrong.breaks());
    }
}

#[test]
fn each_wrong_node_is_found() {
    for wrong in Wrong::CLUSTER {
        let found = (1..SEEDS_PER_WRONG).find(|seed| is_found(&Plan::storm(*seed), wrong));
        assert!(found.is_some(), "{wrong:?} was not found to break {:?}", wrong.breaks());
    }
}

#[test]
fn outsiders_are_found_in_direct_chats_alone() {
    let found = (1..SEEDS_PER_WRONG).map(Plan::new).any(|mut plan| {
        plan.steps.retain(|step| !matches!(step.action, Action::Create { .. }));
        is_found(&plan, Wrong::TellsOutsiders)
    });
    assert!(found);
}

#[test]
fn a_panic_of_a_task_is_a_failure_and_shrinks() {
    let wrong = Some(Wrong::Panics);
    let plan = (1..SEEDS_PER_WRONG).map(Plan::new).find(|plan| breaks(plan, wrong, PANIC));
    let plan = plan.expect("some seed shows it");
    let small = shrink(&plan, wrong, PANIC, 20);
    assert!(small.steps.len() < plan.steps.len(), "{} steps", small.steps.len());
    let outcome = world::run(&small, wrong, Keep::Digest);
    assert!(outcome.panics[0].starts_with("on purpose (") && outcome.panics[0].contains("node.rs:"));
    // The run itself went on to its end.
    assert!(outcome.time > std::time::Duration::ZERO);
    assert_eq!(world::run(&small, None, Keep::Digest).panics, [""; 0]);
}

#[test]
fn a_failing_plan_shrinks() {
    let (wrong, rule) = (Some(Wrong::AltersPushes), "entries differ");
    let plan = (1..SEEDS_PER_WRONG).map(Plan::new).find(|plan| breaks(plan, wrong, rule));
    let plan = plan.expect("some seed shows it");
    let small = shrink(&plan, wrong, rule, 40);
    assert!(small.steps.len() < plan.steps.len(), "{} steps", small.steps.len());
    assert!(breaks(&small, wrong, rule));
}
