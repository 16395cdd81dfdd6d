//! Two owners, many faults: every send is in the log exactly once, and the log is dense.

use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::FutureExt;
use tern_protocol::ids::StoreEpoch;

use super::*;
use crate::{Transaction, Version};

/// A process's way to a store on which others commit, too: what it takes for recent is up to three of their commits old.
#[derive(Default)]
struct Lagging {
    memory: Memory,
    begun: AtomicU64,
}

impl Kv for Lagging {
    fn begin(&self) -> Box<dyn Transaction> {
        self.memory.begin()
    }

    fn begin_recent(&self) -> Box<dyn Transaction> {
        let mut transaction = self.begin();
        let newest = transaction.read_version().now_or_never().expect("at once").expect("there is one");
        let commits = self.begun.fetch_add(1, Ordering::Relaxed) % 4;
        transaction.set_read_version(Version(newest.0.saturating_sub(commits)));
        transaction
    }
}

/// Sends one message as a gateway does: look for it, append it, and after a doubtful outcome fence and look again.
async fn send(kv: &dyn Kv, id: ConversationId, sender: Sender, client_seq: u64) -> Seq {
    let owner = Owner { kv, id };
    for _ in 0..1_000 {
        let Ok((_, head, windows)) = append::load_windows(kv, id, &[sender]).await else { continue };
        let sent = windows[0].as_ref().unwrap().sends.iter().find(|(sent, _)| sent.get() == client_seq);
        if let Some((_, seq)) = sent {
            assert!(*seq <= head.last);
            return *seq;
        }
        let Ok(mut batch) = owner.batch(sender, client_seq, vec![message("chaos")]).await else { continue };
        if client_seq.is_multiple_of(2) {
            batch.base.version = None;
        }
        if batch.base.head.last == Seq(0) {
            let member = Membership { role: Role::Member, joined: Seq(1), left: None };
            batch.members = vec![(sender.user, member)];
            batch.record = Some(Conversation { kind: Kind::Direct, title: String::new() });
        }
        match append::commit(kv, &batch).await {
            Ok(_) => return batch.head.last,
            Err(CommitError::Unknown { may_still_land: true }) => {
                while append::fence(kv, id).await.is_err() {}
            }
            Err(_) => {}
        }
    }
    panic!("no send takes a thousand attempts");
}

async fn run(seed: u64, commits_per_mille: u16) {
    let (kv, id) = (Lagging::default(), ConversationId::direct(user("anna"), user("anna")));
    let store = &kv.memory;
    store.set_faults(FaultPlan::Seeded { seed, commits_per_mille, reads_per_mille: 100 });
    let mut acknowledged = BTreeMap::new();
    for client_seq in 1..=40 {
        for device_number in 1..=2 {
            let seq = send(&kv, id, device("anna", device_number), client_seq).await;
            acknowledged.insert((device_number, client_seq), seq);
        }
        store.clock().advance_ms(seed % 700);
    }
    store.set_faults(FaultPlan::None);
    store.land();
    let page = Owner { kv: store, id }.history("anna", HistoryFrom::Forward(Seq(1)), 1_000).await.unwrap();
    assert_eq!(seqs(&page.entries), range(1, 80), "seed {seed}");
    for entry in &page.entries {
        let key = (entry.sender.device.get(), entry.client_seq.get());
        assert_eq!(acknowledged.remove(&key), Some(entry.seq), "seed {seed}: {key:?}");
    }
}

#[test]
fn every_send_is_stored_once() {
    for seed in 0..60 {
        block_on(run(seed, 400));
    }
}

/// The head of then is the one that the owner knows, and is no longer the head.
#[test]
fn an_append_that_reads_the_past_conflicts_with_the_present() {
    let kv = Lagging { begun: AtomicU64::new(1), ..Lagging::default() };
    let owner = block_on(direct(&kv.memory, "anna", "ben"));
    let mut stale = block_on(owner.batch(device("ben", 1), 1, vec![message("stale")])).unwrap();
    stale.base.version = None;
    block_on(owner.messages(device("anna", 1), 2, 1));
    let before = block_on(owner.head());
    let gets = kv.memory.counts().gets;
    assert_eq!(block_on(append::commit(&kv, &stale)), Err(CommitError::Conflict));
    assert_eq!((kv.memory.counts().gets, block_on(owner.head())), (gets + 1, before));
    // A head that has not moved since is as good then as now.
    let mut next = block_on(owner.batch(device("ben", 1), 1, vec![message("next")])).unwrap();
    next.base.version = None;
    kv.begun.store(0, Ordering::Relaxed);
    block_on(append::commit(&kv, &next)).expect("nobody else has it");
}

/// (faults of the commits to come; whether the append that was in doubt exists in the end)
#[test]
fn a_fence_decides() {
    let late = Some(Fault::UnknownLandsLater);
    for (fences, exists_before) in [
        (vec![], false),
        (vec![Some(Fault::Conflict)], false),
        (vec![Some(Fault::UnknownLanded)], false),
        (vec![Some(Fault::UnknownLost), Some(Fault::TooOld)], false),
        (vec![], true),
    ] {
        let store = Memory::new();
        let id = ConversationId::direct(user("anna"), user("ben"));
        if exists_before {
            block_on(direct(&store, "anna", "ben"));
        }
        let owner = Owner { kv: &store, id };
        let batch = block_on(owner.batch(device("anna", 1), 2, vec![message("late")])).unwrap();
        store.set_faults(FaultPlan::script([late].into_iter().chain(fences.clone())));
        let unknown = Err(CommitError::Unknown { may_still_land: true });
        assert_eq!(block_on(append::commit(&store, &batch)), unknown);
        block_on(append::fence(&store, id)).unwrap();
        assert_eq!(store.land(), 0, "{fences:?}: what was before the fence cannot land any more");
        assert_eq!(block_on(owner.head()), batch.base.head);
    }
}

#[test]
fn reads_try_again_but_not_forever() {
    let store: Arc<dyn Kv> = {
        let memory = Memory::new();
        block_on(direct(&memory, "anna", "ben"));
        memory.set_faults(FaultPlan::Seeded { seed: 3, commits_per_mille: 0, reads_per_mille: 1_000 });
        Arc::new(memory)
    };
    let id = ConversationId::direct(user("anna"), user("ben"));
    assert!(block_on(append::load(&*store, id)).unwrap_err().is_transient());
    let error =
        block_on(Owner { kv: &*store, id }.history("ben", HistoryFrom::Backward(None), 9)).unwrap_err();
    assert!(error.is_transient());
}

/// (faults of the commits to come): servers that begin an epoch at the same time get the same one, for good.
#[test]
fn a_store_has_one_epoch() {
    let epoch = |n| StoreEpoch::from_bytes([n; 16]);
    for faults in [
        vec![],
        vec![Some(Fault::Conflict)],
        vec![Some(Fault::UnknownLanded)],
        vec![Some(Fault::UnknownLost), Some(Fault::TooOld)],
        vec![Some(Fault::UnknownLandsLater)],
    ] {
        let store = Memory::new();
        store.set_faults(FaultPlan::script(faults.clone()));
        let first = block_on(crate::ops::epoch::load_or_begin(&store, epoch(1)));
        assert_eq!(first, Ok(epoch(1)), "{faults:?}");
        store.land();
        assert_eq!(block_on(crate::ops::epoch::load_or_begin(&store, epoch(2))), first, "{faults:?}");
    }
    let store = Memory::new();
    store.set_faults(FaultPlan::script(vec![Some(Fault::Conflict); 99]));
    let begun = block_on(crate::ops::epoch::load_or_begin(&store, epoch(1)));
    assert_eq!(begun, Err(CommitError::Conflict.into()), "not for ever");
}
