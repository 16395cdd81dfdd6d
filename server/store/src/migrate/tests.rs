//! On the memory model with its faults, and on real files.

use futures_util::FutureExt;
use tern_protocol::ids::{NodeId, Seq, StoreEpoch};

use super::*;
use crate::backup;
use crate::embedded::tests::Temporary;
use crate::keys::entry::EntryKey;
use crate::keys::head::HeadKey;
use crate::limits::TRANSACTION_LIFE_MS;
use crate::memory::{Fault, FaultPlan, Memory};
use crate::ops::epoch::{EpochError, load_or_begin};
use crate::ops::lease;
use crate::ops::tests::{Owner, block_on, device, group, sample};
use crate::records::NodeLease;

const EPOCH: StoreEpoch = StoreEpoch::from_bytes([1; 16]);
const OTHER: StoreEpoch = StoreEpoch::from_bytes([2; 16]);
const FIRST: MigrationId = MigrationId([3; 16]);
const SECOND: MigrationId = MigrationId([4; 16]);

/// Some records of every kind, and a log of several chunks.
fn fill(kv: &dyn Kv) {
    assert_eq!(block_on(load_or_begin(kv, EPOCH)), Ok(EPOCH));
    block_on(sample(kv));
    let owner = Owner { kv, id: group(2) };
    block_on(owner.create(&["anna", "ben"]));
    for n in 0..25 {
        block_on(owner.messages(device("ben", 1), 1 + n * 100, 100));
    }
}

/// Filled once, since that takes longer than all else.
fn sample_rows() -> &'static [Row] {
    static ROWS: std::sync::OnceLock<Vec<Row>> = std::sync::OnceLock::new();
    ROWS.get_or_init(|| {
        let kv = Memory::new();
        fill(&kv);
        rows(&kv)
    })
}

fn filled() -> Memory {
    let kv = Memory::new();
    let mut tx = kv.begin();
    sample_rows().iter().for_each(|(key, value)| tx.set(key, value.clone()));
    block_on(tx.commit()).expect("committed");
    kv
}

/// All but the record of the migration, and leases.
fn rows(kv: &dyn Kv) -> Vec<Row> {
    what_moves(block_on(kv.begin().range(all(usize::MAX))).expect("readable"))
}

fn epoch(kv: &dyn Kv) -> Result<StoreEpoch, EpochError> {
    block_on(load_or_begin(kv, OTHER))
}

/// What a server says that is started on it.
fn refused(kv: &dyn Kv) -> Migration {
    match epoch(kv) {
        Err(EpochError::Migration(migration)) => migration,
        other => panic!("it is served: {other:?}"),
    }
}

#[derive(Default)]
struct Watch<'a> {
    /// Ends the run when it has been called so often.
    stops: Option<u32>,
    /// Called each time: whether to end the run there.
    at: Option<&'a mut (dyn FnMut(&Progress) -> bool + Send)>,
    calls: u32,
    found: Vec<String>,
    paused: Duration,
    /// Called at each pause.
    meanwhile: Option<&'a mut (dyn FnMut() + Send)>,
}

impl Attendant for Watch<'_> {
    fn at(&mut self, progress: &Progress) -> ControlFlow<()> {
        self.calls += 1;
        let stops = self.at.as_mut().is_some_and(|at| at(progress)) || self.stops == Some(self.calls);
        if stops { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn found(&mut self, corrupt: Corrupt) {
        self.found.push(corrupt.to_string());
    }

    fn pause(&mut self, time: Duration) -> BoxFuture<'static, ()> {
        self.paused += time;
        if let Some(meanwhile) = &mut self.meanwhile {
            meanwhile();
        }
        Box::pin(async {})
    }
}

fn run(
    source: &dyn Kv,
    target: &dyn Kv,
    id: MigrationId,
    watch: &mut Watch<'_>,
) -> Result<Outcome, MigrateError> {
    let (source, target) = (Place { kv: source, name: "here" }, Place { kv: target, name: "there" });
    block_on(migrate(source, target, id, watch))
}

fn moves(source: &dyn Kv, target: &dyn Kv) -> Result<Outcome, MigrateError> {
    run(source, target, FIRST, &mut Watch::default())
}

/// Up to where a part is copied.
fn begun(source: &dyn Kv, target: &dyn Kv, id: MigrationId) {
    let mut at = |progress: &Progress| progress.step == Step::Copy && progress.rows > 0;
    let mut watch = Watch { at: Some(&mut at), ..Watch::default() };
    assert_eq!(run(source, target, id, &mut watch), Err(MigrateError::Stopped));
}

#[track_caller]
fn fails(done: Result<impl std::fmt::Debug, MigrateError>, expected: &str) {
    let said = done.expect_err("refused").to_string();
    assert!(said.contains(expected), "{expected:?} is not in: {said}");
}

#[test]
fn everything_moves_and_one_of_the_two_is_served() {
    let check = |source: &dyn Kv, target: &dyn Kv| {
        fill(source);
        let before = rows(source);
        let Ok(Outcome::Moved(tally, totals)) = moves(source, target) else { panic!("moved") };
        assert_eq!((tally.rows, totals.entries, totals.wrong), (before.len() as u64, 2_505, 0));
        assert_eq!(totals.keys() + 1, tally.rows, "all but the epoch");
        assert!(rows(target) == before && rows(source) == before);
        assert_eq!(epoch(target), Ok(EPOCH), "nothing was lost");
        assert_eq!(refused(source), Migration::Moved { id: FIRST, to: "there".to_owned() });
        assert_eq!(moves(source, target), Ok(Outcome::Already));
        fails(moves(source, &Memory::new()), "has moved to there");
        // And back, to another place.
        let third = Memory::new();
        assert!(matches!(run(target, &third, SECOND, &mut Watch::default()), Ok(Outcome::Moved(..))));
        assert!(rows(&third) == before && epoch(&third) == Ok(EPOCH));
    };
    check(&Memory::new(), &Memory::new());
    check(&Temporary::new(), &Memory::new());
    check(&Temporary::new(), &Temporary::new());
}

/// Stopped at each point, and under every fault: what is there in the end is what was there before.
#[test]
fn it_goes_on_where_it_stopped() {
    let mut points = 0;
    for seed in 1.. {
        let (source, target) = (filled(), Memory::new());
        let faults = |seed| FaultPlan::Seeded { seed, commits_per_mille: 400, reads_per_mille: 100 };
        source.set_faults(faults(seed));
        target.set_faults(faults(seed + 1_000));
        let mut watch = Watch { stops: Some(seed as u32), ..Watch::default() };
        let stopped = run(&source, &target, FIRST, &mut watch);
        let calm = || {
            for kv in [&source, &target] {
                kv.set_faults(FaultPlan::None);
                kv.land();
            }
        };
        if stopped == Err(MigrateError::Stopped) {
            points += 1;
            calm();
            let begun = block_on(migration(&*source.begin())).expect("readable").is_some();
            assert_eq!(epoch(&source).is_err(), begun, "seed {seed}");
            assert!(!begun || rows(&target).is_empty() || epoch(&target).is_err(), "seed {seed}");
            source.set_faults(faults(seed + 2_000));
            target.set_faults(faults(seed + 3_000));
            let done = run(&source, &target, SECOND, &mut Watch::default());
            assert!(matches!(done, Ok(Outcome::Moved(..))), "seed {seed}: {done:?}");
        } else {
            assert!(matches!(stopped, Ok(Outcome::Moved(..))), "seed {seed}: {stopped:?}");
        }
        calm();
        assert!(rows(&target) == sample_rows(), "seed {seed}");
        assert_eq!(epoch(&target), Ok(EPOCH), "seed {seed}");
        assert!(matches!(refused(&source), Migration::Moved { .. }), "seed {seed}");
        if stopped.is_ok() {
            break;
        }
    }
    assert!(points > 20, "{points}");
}

/// Between the last two commits neither is served.
#[test]
fn the_last_step_is_made_up_for() {
    let (source, target) = (filled(), Memory::new());
    let other = target.clone();
    let mut at = |progress: &Progress| {
        if progress.step == Step::VerifyTarget {
            other.set_faults(FaultPlan::script(vec![Some(Fault::Unavailable); ATTEMPTS_MAX as usize]));
        }
        false
    };
    let mut watch = Watch { at: Some(&mut at), ..Watch::default() };
    fails(run(&source, &target, FIRST, &mut watch), "there: the store is unavailable");
    assert!(matches!(refused(&source), Migration::Moved { .. }));
    assert!(matches!(refused(&target), Migration::Arriving(_)));
    assert_eq!(moves(&source, &target), Ok(Outcome::Already));
    assert_eq!(epoch(&target), Ok(EPOCH));
}

#[test]
fn no_chunk_is_copied_twice() {
    let (source, target) = (filled(), Memory::new());
    begun(&source, &target, FIRST);
    assert!(matches!(moves(&source, &target), Ok(Outcome::Moved(..))));
    // Each with the record: its beginning, chunks, its end.
    let counts = target.counts();
    assert_eq!(counts.writes, sample_rows().len() as u64 + counts.commits);
    assert!(counts.commits > 4 && counts.writes / counts.commits <= CHUNK_ROWS as u64);
}

/// FoundationDB answers no transaction that is older than five seconds.
#[test]
fn no_transaction_lives_long() {
    let (source, target) = (filled(), Memory::new());
    let clocks = [source.clock().clone(), target.clock().clone()];
    let mut at = |_: &Progress| {
        clocks.iter().for_each(|clock| clock.advance_ms(TRANSACTION_LIFE_MS));
        false
    };
    let mut watch = Watch { at: Some(&mut at), ..Watch::default() };
    assert!(matches!(run(&source, &target, FIRST, &mut watch), Ok(Outcome::Moved(..))));
    assert_eq!(watch.paused, Duration::ZERO, "nothing had to be tried again");
}

#[test]
fn an_outage_is_waited_for_and_then_told() {
    let (source, target) = (filled(), Memory::new());
    begun(&source, &target, FIRST);
    let written = target.counts().writes;
    target.set_faults(FaultPlan::script(vec![Some(Fault::Unavailable); 500]));
    let mut watch = Watch::default();
    fails(
        run(&source, &target, FIRST, &mut watch),
        "there: the store is unavailable. What was moved stays so",
    );
    assert!((20..40).contains(&watch.paused.as_secs()), "{:?}", watch.paused);
    assert_eq!(target.counts().writes, written);
    target.set_faults(FaultPlan::None);
    let moved = moves(&source, &target);
    assert!(matches!(moved, Ok(Outcome::Moved(..))), "{moved:?}");
}

/// Who comes too late does no harm to what is served by then.
#[test]
fn two_at_once() {
    let (source, target) = (filled(), Memory::new());
    let mut at = |progress: &Progress| {
        if progress.step == Step::Copy && progress.rows > 0 {
            // On another thread: a runtime is waiting on this one.
            let other = std::thread::scope(|scope| scope.spawn(|| moves(&source, &target)).join());
            assert!(matches!(other.expect("no panic"), Ok(Outcome::Moved(..) | Outcome::Already)));
        }
        false
    };
    let mut watch = Watch { at: Some(&mut at), ..Watch::default() };
    fails(run(&source, &target, FIRST, &mut watch), "the record of the migration in there is another one");
    assert!(epoch(&target) == Ok(EPOCH) && rows(&target) == sample_rows());
}

#[test]
fn nodes_that_live_are_noticed_and_leases_stay() {
    let (source, target) = (filled(), Memory::new());
    let beat = |beat| {
        let lease = NodeLease { beat, ..NodeLease::default() };
        lease::beat(&source, NodeId(7), &lease).now_or_never().expect("at once").expect("committed");
    };
    beat(1);
    let mut meanwhile = || beat(2);
    let mut watch = Watch { meanwhile: Some(&mut meanwhile), ..Watch::default() };
    fails(run(&source, &target, FIRST, &mut watch), "here is being served");
    assert!(epoch(&source) == Ok(EPOCH) && target.counts().commits == 0);
    // One that is dead does not hinder, and is not taken along.
    assert!(matches!(moves(&source, &target), Ok(Outcome::Moved(..))));
    let leases = |kv: &Memory| {
        let query = RangeQuery::new([NodeKey::PREFIX], [NodeKey::PREFIX + 1], 9);
        block_on(kv.begin().range(query)).expect("readable").len()
    };
    assert_eq!((leases(&source), leases(&target)), (1, 0));
}

#[test]
fn what_must_not_be_done_is_refused() {
    let (empty, used) = (Memory::new(), Memory::new());
    block_on(sample(&used));
    let before = rows(&used);
    fails(moves(&empty, &Memory::new()), "nothing in here");
    fails(moves(&filled(), &used), "there holds something already");
    let (source, target) = (filled(), Memory::new());
    begun(&source, &target, FIRST);
    fails(moves(&source, &used), "here is being moved to there, and there has nothing of it");
    fails(moves(&filled(), &target), "there holds a part of here from a move that is another one");
    fails(moves(&target, &Memory::new()), "here cannot be moved: what is stored here is a part of here");
    assert_eq!(rows(&used), before);
    assert!(matches!(refused(&source), Migration::Leaving { .. }));
    assert!(matches!(refused(&target), Migration::Arriving(_)));
    fails(
        block_on(abandon(Place { kv: &used, name: "here" }, None, &mut Watch::default())),
        "not being moved",
    );
}

#[test]
fn a_damaged_source_is_left_as_it_is() {
    let (source, target) = (filled(), Memory::new());
    let mut tx = source.begin();
    tx.clear(&EntryKey { conversation: group(2), seq: Seq(7) }.encode());
    block_on(tx.commit()).expect("committed");
    let mut watch = Watch::default();
    let done = run(&source, &target, FIRST, &mut watch);
    assert!(done.as_ref().is_err_and(MigrateError::is_refusal), "{done:?}");
    assert_eq!(watch.found, [format!("corrupt entry record {} 7: missing", group(2))]);
    assert_eq!((epoch(&source), rows(&target)), (Ok(EPOCH), vec![]));
}

/// Each is found, told with its place, and the move can be given up.
#[test]
fn what_is_written_meanwhile_is_found() {
    let (entry, head) =
        (EntryKey { conversation: group(2), seq: Seq(2) }, HeadKey { conversation: group(2) });
    let change = |kv: &dyn Kv, key: &[u8], value: Option<&'static [u8]>| {
        let mut tx = kv.begin();
        match value {
            Some(value) => tx.set(key, Bytes::from_static(value)),
            None => tx.clear(key),
        }
        // Within a migration, which a runtime is waiting for.
        tx.commit().now_or_never().expect("at once").expect("committed");
    };
    let entry_2 = format!("conversation {}, entry 2", group(2));
    let of_head = format!("conversation {}", group(2));
    for (in_target, key, value, expected) in [
        (false, &entry.encode()[..], None, &entry_2),
        (false, &entry.encode(), Some(&b"another"[..]), &entry_2),
        (true, &entry.encode(), None, &entry_2),
        (true, &head.encode(), Some(b"another"), &of_head),
        (true, b"zzz", Some(b"more"), &"key 7a7a7a".to_owned()),
    ] {
        let (source, target) = (filled(), Memory::new());
        let changed = if in_target { &target } else { &source };
        let mut at = |progress: &Progress| {
            if progress.step == Step::Compare && progress.rows == 0 {
                change(changed, key, value);
            }
            false
        };
        let mut watch = Watch { at: Some(&mut at), ..Watch::default() };
        fails(run(&source, &target, FIRST, &mut watch), expected);
        assert!(matches!(refused(&target), Migration::Arriving(_)));
        let [source, target] = [(&source, "here"), (&target, "there")].map(|(kv, name)| Place { kv, name });
        block_on(abandon(source, Some(target), &mut Watch::default())).expect("given up");
        assert_eq!(epoch(source.kv), Ok(EPOCH));
        assert!(rows(target.kv).is_empty() && block_on(migration(&*target.kv.begin())) == Ok(None));
    }
    // Given up by somebody else, in the middle.
    let (source, target) = (filled(), Memory::new());
    let mut at = |progress: &Progress| {
        if progress.step == Step::VerifyTarget {
            change(&source, &MigrationKey.encode(), None);
        }
        false
    };
    let mut watch = Watch { at: Some(&mut at), ..Watch::default() };
    fails(run(&source, &target, FIRST, &mut watch), "the record of the migration in here is another one");
    assert!(matches!(refused(&target), Migration::Arriving(_)));
    assert_eq!(epoch(&source), Ok(EPOCH));
    // Of what was copied before, and has changed in both by now, the sum is left.
    let (source, target) = (filled(), Memory::new());
    begun(&source, &target, FIRST);
    [&source, &target].into_iter().for_each(|kv| change(kv, b"a", Some(b"new")));
    fails(moves(&source, &target), "keys were copied, and");
}

#[test]
fn what_was_given_up_is_not_gone_on_with() {
    let faults = |seed| FaultPlan::Seeded { seed, commits_per_mille: 400, reads_per_mille: 100 };
    for seed in 0..10 {
        let (source, target) = (filled(), Memory::new());
        begun(&source, &target, FIRST);
        source.set_faults(faults(seed));
        target.set_faults(faults(seed + 1_000));
        let [here, there] = [(&source, "here"), (&target, "there")].map(|(kv, name)| Place { kv, name });
        block_on(abandon(here, None, &mut Watch::default())).expect("given up");
        source.set_faults(FaultPlan::None);
        source.land();
        assert_eq!(epoch(&source), Ok(EPOCH), "seed {seed}");
        target.set_faults(FaultPlan::None);
        assert!(matches!(refused(&target), Migration::Arriving(_)), "seed {seed}");
        fails(run(&source, &target, SECOND, &mut Watch::default()), "was given up");
        // A target that is named is emptied, and can be used anew.
        let third = Memory::new();
        begun(&source, &third, SECOND);
        fails(moves(&source, &target), "has nothing of it");
        third.set_faults(faults(seed));
        let given_up = block_on(abandon(here, Some(Place { kv: &third, ..there }), &mut Watch::default()));
        given_up.expect("given up");
        third.set_faults(FaultPlan::None);
        assert!(matches!(moves(&source, &third), Ok(Outcome::Moved(..))), "seed {seed}");
        third.land();
        assert!(rows(&third) == sample_rows(), "seed {seed}: what lands late conflicts");
    }
}

/// (the target; how many steps it takes): by ranges, each as large as the store can clear in one transaction.
#[test]
fn what_had_arrived_is_removed_in_large_steps() {
    let check = |target: &dyn Kv, is_at_once: bool| {
        let source = filled();
        let mut at = |progress: &Progress| progress.step == Step::Compare;
        let mut watch = Watch { at: Some(&mut at), ..Watch::default() };
        assert_eq!(run(&source, target, FIRST, &mut watch), Err(MigrateError::Stopped));
        assert!(rows(target) == sample_rows());
        block_on(lease::beat(target, NodeId(7), &NodeLease::default())).expect("committed");
        let mut steps = Vec::new();
        let mut at = |progress: &Progress| {
            assert_eq!(progress.step, Step::Clear);
            steps.push(progress.rows);
            false
        };
        let mut watch = Watch { at: Some(&mut at), ..Watch::default() };
        let [here, there] = [(&source as &dyn Kv, "here"), (target, "there")];
        let [here, there] = [here, there].map(|(kv, name)| Place { kv, name });
        block_on(abandon(here, Some(there), &mut watch)).expect("given up");
        let left = block_on(target.begin().range(all(usize::MAX))).expect("readable");
        assert!(matches!(&left[..], [(key, _)] if key[0] == NodeKey::PREFIX), "{left:?}");
        assert!(steps.windows(2).all(|pair| pair[1] - pair[0] <= target.cleared_keys_max()), "{steps:?}");
        assert_eq!(steps.len() == 1, is_at_once, "{steps:?}");
    };
    check(&Memory::new(), true);
    check(&Temporary::new(), false);
}

/// What a server could go on from is restored as one; a part of it never is.
#[test]
fn a_backup_of_either_side() {
    let restored = |kv: &dyn Kv| {
        let mut bytes = Vec::new();
        block_on(backup::write(&*kv.begin(), &mut bytes)).expect("a backup");
        let restored = Memory::new();
        block_on(backup::restore(&bytes[..], &restored, OTHER)).expect("restored");
        epoch(&restored)
    };
    let (source, target) = (filled(), Memory::new());
    begun(&source, &target, FIRST);
    assert_eq!(restored(&source), Ok(OTHER));
    assert!(matches!(restored(&target), Err(EpochError::Migration(Migration::Arriving(_)))));
    assert!(moves(&source, &target).is_ok());
    assert_eq!((restored(&source), restored(&target)), (Ok(OTHER), Ok(OTHER)));
}
