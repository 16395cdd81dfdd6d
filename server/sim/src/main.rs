//! `tern-sim`: runs seeds, and says how to run a failing one again.
#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use tern_sim::plan::Plan;
use tern_sim::trace::Keep;
use tern_sim::world::{self, Outcome};
use tern_sim::{shrink, wrong};

/// How often a long run says how far it is.
const PROGRESS_EVERY: Duration = Duration::from_secs(5);

/// Simulates Tern: real clients and servers over a simulated network, clock and store. One seed, one run.
///
/// Without options it runs 100 seeds that nobody has run before. The last line is `COUNT seeds, F failed`; the exit status is
/// 1 when one failed.
#[derive(Debug, Parser)]
#[command(version, about, long_about)]
struct Args {
    /// Run this seed alone, and say what happened
    #[arg(long, conflicts_with_all = ["from", "seeds"])]
    seed: Option<u64>,
    /// Run the seeds from this one on [default: the time, in milliseconds since 1970]
    #[arg(long)]
    from: Option<u64>,
    /// Run this many seeds
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// Print everything that happens in the run of --seed, and what the servers log
    #[arg(long, requires = "seed")]
    trace: bool,
    /// Run a cluster of two or three nodes with links between them
    #[arg(long)]
    cluster: bool,
    /// Run short plans on a cluster of three nodes: everybody writes, and something breaks
    #[arg(long, conflicts_with = "cluster")]
    storm: bool,
    /// Make the server wrong on purpose, to see that it is found
    #[arg(long)]
    wrong: Option<wrong::Wrong>,
    /// Runs to spend on leaving steps out of a failing one
    #[arg(long, default_value_t = 200)]
    shrink: usize,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let (from, count) = match args.seed {
        Some(seed) => (seed, 1),
        None => (args.from.unwrap_or_else(|| tern_server::clock::wall().0), args.seeds),
    };
    let keep = if args.trace { Keep::Print } else { Keep::Digest };
    if args.trace {
        let filter = tracing_subscriber::EnvFilter::new("tern_server=debug");
        tracing_subscriber::fmt().without_time().with_env_filter(filter).with_ansi(false).init();
    }
    let begin = Instant::now();
    let mut progress = Progress { begin, told: begin };
    let mut time = Duration::ZERO;
    let (mut failed, mut sends, mut entries) = (0u64, 0, 0);
    for seed in (0..count).map(|n| from.wrapping_add(n)) {
        let plan = match (args.cluster, args.storm) {
            (_, true) => Plan::storm(seed),
            (true, false) => Plan::cluster(seed),
            (false, false) => Plan::new(seed),
        };
        let outcome = world::run(&plan, args.wrong, keep);
        time += outcome.time;
        sends += outcome.totals.sends;
        entries += outcome.entries;
        if args.seed.is_some() {
            print_outcome(&plan, &outcome);
        }
        if let Some((rule, text)) = outcome.failure() {
            failed += 1;
            println!("seed {seed}: {text}");
            report(&plan, &args, rule);
        }
        progress.tell(seed.wrapping_sub(from) + 1, count, failed);
    }
    let took = begin.elapsed().as_secs_f64();
    let hours = time.as_secs_f64() / 3_600.0;
    println!(
        "{hours:.1} simulated hours, {sends} sends, {entries} entries; {:.1} seeds and {:.1} hours a second",
        count as f64 / took,
        hours / took
    );
    println!("{count} seeds, {failed} failed");
    ExitCode::from(u8::from(failed > 0))
}

/// Says on stderr how far a long run is.
struct Progress {
    begin: Instant,
    told: Instant,
}

impl Progress {
    fn tell(&mut self, done: u64, count: u64, failed: u64) {
        if self.told.elapsed() >= PROGRESS_EVERY && done < count {
            self.told = Instant::now();
            let rate = done as f64 / self.begin.elapsed().as_secs_f64();
            eprintln!("{done} of {count} seeds, {failed} failed, {rate:.1} a second");
        }
    }
}

fn print_outcome(plan: &Plan, outcome: &Outcome) {
    println!(
        "seed {}: {} users, {} devices, {} shards, {} steps, {:.1} s, {} sends, {} acknowledged, {} refused, {} sent again, {} \
         duplicates answered, {} pushes, {} entries, digest {:016x}",
        plan.seed,
        plan.users,
        plan.devices,
        plan.shards,
        plan.steps.len(),
        outcome.time.as_secs_f64(),
        outcome.totals.sends,
        outcome.totals.acked,
        outcome.totals.refused,
        outcome.totals.resent,
        outcome.totals.duplicates,
        outcome.totals.pushes,
        outcome.entries,
        outcome.digest
    );
}

fn report(plan: &Plan, args: &Args, rule: &str) {
    let wrong = args.wrong.map(|wrong| {
        format!(
            " --wrong {}",
            clap::ValueEnum::to_possible_value(&wrong).map(|v| v.get_name().to_owned()).unwrap_or_default()
        )
    });
    println!(
        "again: cargo run --release -p tern-sim -- --seed {} --trace{}{}{}",
        plan.seed,
        if args.cluster { " --cluster" } else { "" },
        if args.storm { " --storm" } else { "" },
        wrong.unwrap_or_default()
    );
    let small = shrink::shrink(plan, args.wrong, rule, args.shrink);
    println!("{} of {} steps are enough:", small.steps.len(), plan.steps.len());
    for step in &small.steps {
        println!("  after {} ms: {:?}", step.after_ms, step.action);
    }
}
