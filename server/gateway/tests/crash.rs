//! `kill -9` while everybody sends: what was answered is there, once, where the answer said; nothing else is.
//!
//! `TERN_CRASH_ROUNDS` sets the number of kills, `TERN_SEED` when they come and who sends what.

#[path = "support/load.rs"]
mod load;
mod support;

use std::time::{Duration, Instant};

use load::{Phase, Readers, Running, Server, Shared, create_group, lock};
use support::{Start, Ternd};
use tempfile::TempDir;
use tern_check::Stage;
use tern_check::random::{self, Random};
use tern_protocol::ids::ConversationId;

const ROUNDS: u64 = 20;
/// When the kill comes, in milliseconds after everybody sends.
const KILL_AFTER: std::ops::Range<u64> = 50..600;

async fn restart(data: &TempDir, start: Start<'static>) -> Ternd {
    let data = data.path().to_owned();
    // Meanwhile the devices go on to take what the old process had written.
    let started = tokio::task::spawn_blocking(move || Ternd::start(&data, &start)).await;
    started.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
}

#[tokio::test]
async fn nothing_answered_is_lost_and_nothing_is_doubled_over_kills() {
    let rounds = std::env::var("TERN_CRASH_ROUNDS").ok();
    let rounds: u64 = rounds.map_or(ROUNDS, |text| text.parse().expect("TERN_CRASH_ROUNDS is a number"));
    let mut random = Random::new(random::seed());
    let begin = Instant::now();

    let data = tempfile::tempdir().expect("a temporary directory");
    let mut ternd = Ternd::start(data.path(), &Start::default());
    let start = Start { listen: ternd.address, ..Start::default() };
    let history = Shared::default();
    let group = ConversationId::group_from_random([0x42; 16]);
    create_group(&Server::new(&ternd), group, &history).await;
    let mut readers = Readers::new(group);
    let mut devices = load::devices(group, &mut random);

    let mut start_time = Duration::from_millis(200);
    let mut early_kills = 0;
    for round in 1..=rounds {
        let running = Running::start(round, devices, &Server::new(&ternd), &history).await;
        tokio::time::sleep(Duration::from_millis(random.within(KILL_AFTER))).await;
        tokio::task::spawn_blocking(|| ternd.kill()).await.expect("it is killed");
        if random.one_in(3) {
            for _ in 0..random.within(1..4) {
                let after = start_time.mul_f64(random.within(0..100) as f64 / 100.0);
                Ternd::start_and_kill(data.path(), &start, after);
                early_kills += 1;
            }
        }
        let started = Instant::now();
        ternd = restart(&data, start.clone()).await;
        start_time = started.elapsed();
        devices = running.end(Phase::Gone).await;
        readers.read(&Server::new(&ternd), false).await;
        readers.check(&history, Stage::Open, &format!("after kill {round}"));
    }
    let running = Running::start(0, devices, &Server::new(&ternd), &history).await;
    let devices = running.end(Phase::Drain).await;
    assert!(devices.iter().all(|device| device.open.is_empty()), "everything is answered");
    readers.read(&Server::new(&ternd), false).await;
    readers.check(&history, Stage::Settled, "at the end");
    ternd.kill();
    let ternd = restart(&data, start).await;
    readers.read(&Server::new(&ternd), true).await;
    readers.check(&history, Stage::Settled, "after a last kill");

    let totals = lock(&history).totals();
    assert_eq!(totals.sends, totals.acked);
    assert!(totals.marks > 0, "nobody has read anything");
    assert!(ternd.terminate().success());
    println!(
        "crash: {rounds} rounds, {early_kills} kills while starting, {} sends, {} acked, {} sent again, \
         {} duplicates answered, {} pushes, {} marks, {} entries, {:.1} s",
        totals.sends,
        totals.acked,
        totals.resent,
        totals.duplicates,
        totals.pushes,
        totals.marks,
        readers.logs.values().map(Vec::len).sum::<usize>(),
        begin.elapsed().as_secs_f64(),
    );
}
