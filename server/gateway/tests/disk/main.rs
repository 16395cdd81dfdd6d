//! The real server on a disk that fails: kills, power failures, EIO, ENOSPC, torn writes, at any operation of a start, of a
//! recovery or of a load, and bits that flip. After each it starts again with everything that was acknowledged, or refuses
//! and says why; the latter only for flipped bits.
//!
//! `TERN_DISK_ROUNDS` sets the number of faults under load, `TERN_SEED` which ones come when. What the disk does is
//! described in [`media`].
#![cfg(target_os = "linux")]

#[path = "../support/load.rs"]
mod load;
mod media;
mod mount;
#[path = "../support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::process::{Command, ExitStatus};
use std::time::Instant;

use load::{Device, Phase, Readers, Running, Server, Shared, create_group, lock};
use media::{Aim, Fate, Media};
use mount::{Disk, Fault};
use support::{Start, Ternd, needs};
use tern_check::random::{self, Random};
use tern_check::{Stage, assert_none, same_log};
use tern_protocol::ids::ConversationId;
use tern_server::server::EXIT_STORE_FAILED;

const ROUNDS: u64 = 26;
/// Rounds on one disk; then there is a new one.
const ROUNDS_OF_A_DISK: u64 = 13;
/// What fails during a start, and about how many operations that it concerns a start does; the first one of all does more.
const AT_A_START: [(Fault, u64); 5] =
    [(Fault::Off, 20), (Fault::Writes, 8), (Fault::Syncs, 7), (Fault::OneSync, 2), (Fault::Full, 3)];

/// What happens in a round, while everybody sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Case {
    /// SIGKILL.
    Kill,
    /// The process ends between two operations on the disk.
    Stop,
    /// The power fails.
    Power(Fate),
    /// The disk fails, and the server has to end by itself.
    Fails(Fault),
    /// Bits flip in the store while the server is stopped, one after the other.
    Flip,
}

/// In their order, over and over: what a fault leaves behind meets a power failure soon, and a new store at once.
const CASES: [Case; 13] = [
    Case::Power(Fate::Nothing),
    Case::Fails(Fault::OneSync),
    Case::Power(Fate::Half),
    Case::Flip,
    Case::Stop,
    Case::Power(Fate::Torn),
    Case::Fails(Fault::Writes),
    Case::Power(Fate::Nothing),
    Case::Kill,
    Case::Fails(Fault::Full),
    Case::Power(Fate::Most),
    Case::Fails(Fault::Syncs),
    Case::Flip,
];

/// How often what happened.
#[derive(Debug, Default)]
struct Figures(BTreeMap<String, u64>);

impl Figures {
    fn add(&mut self, what: impl ToString, count: u64) {
        *self.0.entry(what.to_string()).or_default() += count;
    }

    fn has(&self, what: impl ToString) -> bool {
        self.0.get(&what.to_string()).is_some_and(|count| *count > 0)
    }
}

fn at_a_start(fault: Fault) -> String {
    format!("start under {fault:?}")
}

fn refused(status: ExitStatus, errors: &str) {
    assert!(status.code() == Some(1) && !errors.contains("panicked"), "{status}\n{errors}");
    println!("  refused: {}", errors.trim());
}

/// One disk, and everybody who uses the server on it.
struct World {
    // Before the disk, which cannot be unmounted under it.
    ternd: Option<Ternd>,
    disk: Disk,
    history: Shared,
    group: ConversationId,
    readers: Readers,
    devices: Vec<Device>,
    /// What whoever connects trusts, from the first start on.
    ca: Option<Vec<u8>>,
    is_new: bool,
    /// A journal's sync has failed in the last round.
    is_unsynced: bool,
    random: Random,
    figures: Figures,
}

impl World {
    fn new(mut random: Random, figures: Figures) -> Self {
        let group = ConversationId::group_from_random([0x29; 16]);
        Self {
            ternd: None,
            disk: Disk::new(random.split()),
            history: Shared::default(),
            group,
            readers: Readers::new(group),
            devices: load::devices(group, &mut random),
            ca: None,
            is_new: true,
            is_unsynced: false,
            random,
            figures,
        }
    }

    fn start(&mut self) -> Server {
        let ternd = self.ternd.insert(Ternd::start(&self.disk.data(), &Start::default()));
        let ca = ternd.ca();
        assert!(
            *self.ca.get_or_insert_with(|| ca.clone()) == ca,
            "whoever has connected before trusts another"
        );
        Server::new(ternd)
    }

    /// SIGKILL; a server whose store has failed may have ended before.
    async fn kill(&mut self) {
        let Some(mut ternd) = self.ternd.take() else { return };
        ternd.signal(libc::SIGKILL);
        // Meanwhile the devices go on to take what it had written.
        let (status, errors) = ternd.ends().await;
        let is_expected = status.code().is_none_or(|code| code == EXIT_STORE_FAILED);
        assert!(is_expected && !errors.contains("panicked"), "{status}\n{errors}");
    }

    fn lose_power(&mut self, fate: Fate) {
        let random = &mut self.random;
        let loss = self.disk.with(|media| media.lose_power(fate, random));
        self.figures.add("sectors lost", loss.sectors);
        self.figures.add("names lost", loss.names);
        self.figures.add("writes torn", loss.torn);
    }

    fn any_fate(&mut self) -> Fate {
        [Fate::Nothing, Fate::Most, Fate::Half, Fate::Torn][self.random.within(0..4) as usize]
    }

    /// `ternd verify`, while no server runs: whether it finds nothing wrong.
    fn is_verified(&mut self) -> (bool, String) {
        let output = Command::new(env!("CARGO_BIN_EXE_ternd")).arg("verify").arg(self.disk.data()).output();
        let output = output.expect("ternd can be started");
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(matches!(output.status.code(), Some(0 | 1)) && !said.contains("panicked"), "{said}");
        self.figures.add("verified", 1);
        (output.status.success(), said)
    }

    fn verify(&mut self) {
        let (is_right, said) = self.is_verified();
        assert!(is_right, "{said}");
    }

    /// Starts while the disk fails at some operation.
    async fn start_under_a_fault(&mut self) {
        // Where nothing reaches the disk any more there is most to recover from.
        let i = self.random.within(0..AT_A_START.len() as u64 + 1) as usize;
        let (fault, operations) = AT_A_START[i.saturating_sub(1)];
        let after = self.random.within(0..operations);
        self.start_under(fault, after).await;
    }

    /// Starts while the disk fails, after so many operations that the fault concerns. It may end by itself, if it says why.
    async fn start_under(&mut self, fault: Fault, after: u64) {
        println!("  start, {fault:?} after {after}");
        self.disk.arm(fault, after);
        let came = match Ternd::try_start(&self.disk.data(), &Start::default()) {
            Ok(ternd) => {
                self.ternd = Some(ternd);
                self.kill().await;
                self.disk.clear().await
            }
            Err((status, errors)) => {
                let came = self.disk.clear().await;
                assert!(came, "it does not start, and the disk is well: {errors}");
                let says_why = ["Input/output error", "No space left"].iter().any(|why| errors.contains(why));
                let is_clear = says_why && !errors.contains("panicked");
                assert!(
                    is_clear && matches!(status.code(), Some(1 | EXIT_STORE_FAILED)),
                    "{status}\n{errors}"
                );
                self.figures.add("starts ended by a fault", 1);
                came
            }
        };
        self.figures.add(at_a_start(fault), u64::from(came));
        if fault == Fault::Off && self.random.one_in(4) {
            // A kill, as far as the disk is concerned.
        } else if fault == Fault::Off || self.random.one_in(3) {
            let fate = self.any_fate();
            println!("  power {fate:?}");
            self.lose_power(fate);
        }
    }

    /// Each fault has come at a start, if it had not by chance.
    async fn start_under_each(&mut self) {
        for (fault, _) in AT_A_START {
            if !self.figures.has(at_a_start(fault)) {
                self.start_under(fault, 0).await;
            }
        }
    }

    /// Reads everything back. What somebody has read before is there.
    async fn read(&mut self, server: &Server, stage: Stage, when: &str) {
        let before = std::mem::take(&mut self.readers.logs);
        self.readers.read(server, false).await;
        for (conversation, before) in before {
            let now = self.readers.logs.get(&conversation).map_or(&[][..], Vec::as_slice);
            let now = &now[..now.len().min(before.len())];
            assert_none(same_log(conversation, &before, now).as_slice(), when);
        }
        self.readers.check(&self.history, stage, when);
    }

    async fn round(&mut self, round: u64, case: Case) {
        println!("round {round}: {case:?}");
        // What the first answers of a new store lean on, and what is shown after a failed sync, is not synced by the way:
        // no other start comes first.
        let is_unsynced = std::mem::take(&mut self.is_unsynced);
        while round > 1 && !is_unsynced && self.random.one_in(2) {
            self.start_under_a_fault().await;
        }
        if !self.is_new && self.random.one_in(2) {
            // Which recovers it.
            self.verify();
        }
        let mut server = self.start();
        let when = format!("before round {round}");
        if std::mem::take(&mut self.is_new) {
            create_group(&server, self.group, &self.history).await;
        } else {
            self.read(&server, Stage::Open, &when).await;
            if is_unsynced || self.random.one_in(3) {
                // What was found after a kill, and shown to somebody, is not lost any more.
                self.kill().await;
                self.lose_power(Fate::Nothing);
                self.verify();
                server = self.start();
                self.read(&server, Stage::Open, &format!("{when}, and a power failure")).await;
            }
        }
        let journal_pages = self.disk.journal_pages();
        let running = Running::start(round, std::mem::take(&mut self.devices), &server, &self.history).await;
        let fault = match case {
            Case::Kill | Case::Flip => Fault::None,
            Case::Stop | Case::Power(_) => Fault::Off,
            Case::Fails(fault) => fault,
        };
        // Some batches follow the one in which a bit flips.
        let least = if case == Case::Flip { 100 } else { 0 };
        self.disk.arm(fault, least + self.random.within(0..200));
        self.disk.came().await;
        self.figures.add(format!("{case:?}"), 1);
        if let Case::Fails(_) = case {
            let (status, errors) = self.ternd.take().expect("it was started").ends().await;
            let says = errors.contains("the store has failed and the server stops");
            let is_clear = says && !errors.contains("panicked");
            assert!(status.code() == Some(EXIT_STORE_FAILED) && is_clear, "{status}\n{errors}");
        } else {
            self.kill().await;
        }
        self.devices = running.end(Phase::Gone).await;
        self.disk.clear().await;
        match case {
            Case::Power(fate) => self.lose_power(fate),
            Case::Flip => {
                self.flip_unseen(journal_pages).await;
                for aim in [Aim::Anywhere, Aim::LastBatch] {
                    self.flip(aim).await;
                }
            }
            Case::Fails(fault) => self.is_unsynced = fault == Fault::OneSync,
            Case::Kill | Case::Stop => {}
        }
    }

    /// Turns a bit, and gives the disk as it was before.
    fn turn_a_bit(&mut self, aim: Aim) -> Media {
        let random = &mut self.random;
        let (before, place) = self.disk.with(|media| (media.clone(), media.flip(aim, random)));
        println!("  {aim:?}: {}", place.expect("there is a store"));
        before
    }

    /// Turns a bit of what was acknowledged since the journal had so many pages, after a power failure and before anybody
    /// has looked: the store does not know any more how far it had come. Turns it back.
    async fn flip_unseen(&mut self, journal_pages: u64) {
        self.lose_power(Fate::Nothing);
        let before = self.turn_a_bit(Aim::Since(journal_pages));
        let outcome = match Ternd::try_start(&self.disk.data(), &Start::default()) {
            Err((status, errors)) => {
                refused(status, &errors);
                "refused"
            }
            Ok(ternd) => {
                let server = Server::new(self.ternd.insert(ternd));
                self.read(&server, Stage::Open, "after a bit has flipped").await;
                self.kill().await;
                "without effect"
            }
        };
        self.figures.add(format!("flip {outcome}"), 1);
        self.disk.with(|media| *media = before);
    }

    /// Turns a bit, looks what the server makes of it, and turns it back.
    async fn flip(&mut self, aim: Aim) {
        // The log as it is.
        let server = self.start();
        self.read(&server, Stage::Open, "before a bit flips").await;
        self.kill().await;
        // What is left of the number that says how far the store has come is what the start has made durable.
        self.lose_power(Fate::Nothing);
        let before = self.turn_a_bit(aim);
        let outcome = match Ternd::try_start(&self.disk.data(), &Start::default()) {
            Err((status, errors)) => {
                refused(status, &errors);
                "refused"
            }
            Ok(ternd) => {
                let server = Server::new(self.ternd.insert(ternd));
                let unreadable = self.readers.read_damaged(&server).await;
                self.kill().await;
                let (is_right, said) = self.is_verified();
                match (unreadable, is_right) {
                    (0, true) => "without effect",
                    (_, false) => "found by verify or a reader",
                    (_, true) => panic!("{unreadable} logs cannot be read, and verify says: {said}"),
                }
            }
        };
        self.figures.add(format!("flip {outcome}"), 1);
        self.disk.with(|media| *media = before);
    }

    /// A backup, and a store that was restored from it, are there after the power has failed.
    async fn restore(&mut self) {
        let data = self.disk.data();
        let (file, copy) = (data.with_file_name("backup"), data.with_file_name("restored"));
        for (command, [data, file]) in [("backup", [&data, &file]), ("restore", [&copy, &file])] {
            let mut run = Command::new(env!("CARGO_BIN_EXE_ternd"));
            let output = run.args([command, "--data"]).args([data, file]).output();
            let output = output.expect("ternd can be started");
            assert!(output.status.success(), "{command}: {output:?}");
            self.lose_power(Fate::Nothing);
        }
        let ternd = Ternd::start(&copy, &Start::default());
        self.readers.read(&Server::new(&ternd), true).await;
        self.readers.check(&self.history, Stage::Settled, "restored");
        ternd.kill();
    }

    /// Everything is answered in the end, and survives a last power failure.
    async fn settle(mut self) -> Figures {
        let server = self.start();
        let running = Running::start(0, std::mem::take(&mut self.devices), &server, &self.history).await;
        let devices = running.end(Phase::Drain).await;
        assert!(devices.iter().all(|device| device.open.is_empty()), "everything is answered");
        self.kill().await;
        self.lose_power(Fate::Nothing);
        let server = self.start();
        self.read(&server, Stage::Settled, "at the end").await;
        self.kill().await;
        self.verify();
        self.restore().await;
        let totals = lock(&self.history).totals();
        assert_eq!(totals.sends, totals.acked);
        for (what, count) in [("sends", totals.sends), ("acked", totals.acked), ("sent again", totals.resent)]
        {
            self.figures.add(what, count);
        }
        self.figures.add("duplicates answered", totals.duplicates);
        self.figures.add("read marks answered", totals.marks);
        self.figures.add("entries", self.readers.logs.values().map(|log| log.len() as u64).sum());
        self.figures
    }
}

#[tokio::test]
async fn nothing_answered_is_lost_on_a_disk_that_fails() {
    if let Some(why) = Disk::why_none() {
        return needs::cannot_run("disk", &why);
    }
    let rounds = std::env::var("TERN_DISK_ROUNDS").ok();
    let rounds: u64 = rounds.map_or(ROUNDS, |text| text.parse().expect("TERN_DISK_ROUNDS is a number"));
    let mut random = Random::new(random::seed());
    let begin = Instant::now();
    let mut figures = Figures::default();
    let mut round = 0;
    while round < rounds {
        let mut world = World::new(random.split(), figures);
        let end = rounds.min(round + ROUNDS_OF_A_DISK);
        while round < end {
            world.round(round + 1, CASES[round as usize % CASES.len()]).await;
            round += 1;
        }
        if round == rounds {
            world.start_under_each().await;
        }
        figures = world.settle().await;
        figures.add("disks", 1);
    }
    for (what, count) in &figures.0 {
        println!("disk: {count:8} {what}");
    }
    println!("disk: {rounds} rounds, {:.1} s", begin.elapsed().as_secs_f64());
    if rounds >= ROUNDS {
        let cases = CASES.map(|case| format!("{case:?}"));
        let costs = ["sectors lost", "names lost", "writes torn", "starts ended by a fault", "flip refused"];
        let expected = cases
            .into_iter()
            .chain(AT_A_START.map(|(fault, _)| at_a_start(fault)))
            .chain(costs.map(str::to_owned));
        let missing: Vec<_> = expected.filter(|what| !figures.has(what)).collect();
        assert!(missing.is_empty(), "the test shows less than it says: there was no {missing:?}");
    }
}
