//! A server whose store was restored.

use tern_protocol::event::{ServerBody, SyncPage};
use tern_protocol::ids::{ClientSeq, RequestId, Seq, StoreEpoch};
use tern_protocol::request::{Mark, RequestBody};

use super::super::{ConversationProgress, Output, Progress, Settings, Ticket};
use super::model::{entry, group, login_ok};
use super::rig::{Rig, line, seconds, with_cursor};
use crate::event::{Event, Lost};
use crate::storage::{Marks, Record, State};

fn epoch(n: u8) -> StoreEpoch {
    StoreEpoch::from_bytes([n; 16])
}

fn at_epoch(cursor: u64, n: u8) -> State {
    let mut state = with_cursor(cursor);
    state.apply(&Record::Epoch(epoch(n)));
    state
}

fn none() -> SyncPage {
    SyncPage { conversations: vec![], covered_until: None }
}

impl Rig {
    /// Logs in at a server whose store says this.
    fn log_in(&mut self, epoch: Option<StoreEpoch>) {
        self.sent.clear();
        self.machine.connected(self.now, "token".into(), false);
        self.drain();
        let ServerBody::LoginOk(mut ok) = login_ok(64) else { unreachable!() };
        ok.epoch = epoch;
        let login = self.sent.iter().position(|r| matches!(r.body, RequestBody::Login(_))).unwrap();
        let login = self.sent.remove(login);
        self.receive(login.id, ServerBody::LoginOk(ok));
    }

    fn log_in_again(&mut self, epoch: Option<StoreEpoch>) {
        self.machine.disconnected(self.now, Lost::Broken("cut".into()));
        self.advance(seconds(1));
        self.log_in(epoch);
    }

    fn syncs(&mut self) -> Vec<RequestId> {
        let is_sync = |body: &RequestBody| matches!(body, RequestBody::Sync(_));
        self.sent.iter().filter(|request| is_sync(&request.body)).map(|request| request.id).collect()
    }

    /// What the app is handed: resets as 0, entries by their seq.
    fn handed(&mut self, disk: Option<&mut State>) -> Vec<u64> {
        let mut handed = Vec::new();
        while let Some(event) = self.machine.poll_event(self.now) {
            if let Some(progress) = self.machine.progress(&event).filter(|_| disk.is_some()) {
                self.machine.taken(self.now, progress);
            }
            match event {
                Event::HistoryReset { .. } => handed.push(0),
                Event::Entry { entry, .. } => handed.push(entry.seq.get()),
                Event::Reset { .. } | Event::Trimmed { .. } => panic!("{event:?}"),
                _ => {}
            }
        }
        self.drain();
        if let Some(disk) = disk {
            for output in &self.other {
                if let Output::Persist(record) = output {
                    disk.apply(record);
                }
            }
        }
        handed
    }
}

/// (the device's epoch and cursor; what the server says and its head; whether everything begins anew)
#[test]
fn another_store_begins_everything_anew_however_long_it_is() {
    #[track_caller]
    fn check(stored: (Option<u8>, u64), told: Option<u8>, head: u64, reset: bool) {
        let (known, cursor) = stored;
        let mut disk = known.map_or_else(|| with_cursor(cursor), |known| at_epoch(cursor, known));
        disk.apply(&Record::Next { conversation: group(1), next: ClientSeq(31) });
        let mut rig = Rig::new(Settings { latest: Some(50), ..Rig::usual() }, disk.clone());
        rig.send(7);
        rig.log_in(told.map(epoch));
        let syncs = rig.syncs();
        let last = *syncs.last().unwrap();
        if reset {
            assert_eq!(syncs.len(), 2, "it is asked anew");
            // The answer to what was asked before the login is one to nobody.
            let mut mixed = line(group(1), head, 0);
            mixed.entries = vec![entry(cursor + 1, "mixed")];
            let page = SyncPage { conversations: vec![mixed], covered_until: None };
            rig.receive(syncs[0], ServerBody::SyncPage(page));
            rig.sent.retain(|request| request.id != syncs[0]);
            assert_eq!(rig.known(), []);
            let mut line = line(group(1), head, 0);
            line.entries = (1..=head).map(|seq| entry(seq, "new")).collect();
            rig.receive(
                last,
                ServerBody::SyncPage(SyncPage { conversations: vec![line], covered_until: None }),
            );
            let expected: Vec<_> = (0..=head).collect();
            assert_eq!(rig.handed(Some(&mut disk)), expected);
        } else {
            assert_eq!(syncs.len(), 1);
            assert_eq!(rig.known()[0].1, cursor);
            rig.receive(last, ServerBody::SyncPage(none()));
            assert_eq!(rig.handed(Some(&mut disk)), []);
        }
        // What waits to be sent goes out, under its number.
        assert_eq!(rig.numbers(), [31]);
        let stored = &disk.conversations[&group(1)];
        let cursor = if reset { head } else { cursor };
        assert_eq!((stored.cursor, stored.next, stored.unacked.len()), (Seq(cursor), ClientSeq(32), 1));
        assert_eq!(disk.epoch, told.or(known).map(epoch));
        // At the next login, in this run and in the next one, it is not told again.
        rig.log_in_again(told.map(epoch));
        assert_eq!((rig.handed(None), rig.syncs().len()), (vec![], 1));
        assert_eq!(rig.known()[0].1, cursor);
        let mut rig = Rig::new(Rig::usual(), disk);
        rig.log_in(told.map(epoch));
        assert_eq!((rig.handed(None), rig.syncs().len()), (vec![], 1));
    }
    for head in [1, 3, 4, 9] {
        check((Some(1), 4), Some(2), head, true);
    }
    check((Some(1), 4), Some(1), 4, false);
    // Not told before, or not told by this server: nothing to compare.
    check((None, 4), Some(1), 4, false);
    check((Some(1), 4), None, 4, false);
}

#[test]
fn a_reset_that_was_not_taken_is_told_again() {
    let mut disk = at_epoch(4, 1);
    for _ in 0..2 {
        let mut rig = Rig::new(Rig::usual(), disk.clone());
        rig.log_in(Some(epoch(2)));
        assert_eq!(rig.handed(None), [0]);
        rig.handed(Some(&mut disk));
        assert_eq!((disk.epoch, disk.conversations[&group(1)].cursor), (Some(epoch(1)), Seq(4)));
    }
    let mut rig = Rig::new(Rig::usual(), disk.clone());
    rig.log_in(Some(epoch(2)));
    assert_eq!(rig.handed(Some(&mut disk)), [0]);
    assert_eq!((disk.epoch, disk.conversations[&group(1)].cursor), (Some(epoch(2)), Seq(0)));
}

/// What the app takes of the old history while the new one is coming says nothing about the new one.
#[test]
fn what_was_taken_of_the_old_history_is_not_said_of_the_new_one() {
    let delivered = |rig: &Rig| -> Vec<u64> {
        let marks = rig.sent.iter().filter_map(|request| match &request.body {
            RequestBody::Mark(marks) => Some(marks.iter().map(|mark| mark.delivered.get())),
            _ => None,
        });
        marks.flatten().collect()
    };
    let mut rig = Rig::new(Rig::usual(), at_epoch(4, 1));
    rig.log_in(Some(epoch(1)));
    rig.answer_sync(none());
    (5..=8).for_each(|seq| rig.push(seq));
    assert_eq!(rig.handed(None), [5, 6, 7, 8]);
    rig.machine.disconnected(rig.now, Lost::Broken("cut".into()));
    // The user has read what is in the old history only: that is answered, and never said.
    rig.mark_read(8);
    rig.advance(seconds(1));
    rig.other.clear();
    rig.log_in(Some(epoch(2)));
    let answered =
        |o: &Output| matches!(o, Output::Answer { ticket: Ticket(1), result: Ok(ServerBody::MarkOk) });
    assert!(rig.other.iter().any(answered));
    let mut new = line(group(1), 9, 0);
    new.entries = (1..=9).map(|seq| entry(seq, "new")).collect();
    let sync = *rig.syncs().last().unwrap();
    rig.receive(sync, ServerBody::SyncPage(SyncPage { conversations: vec![new], covered_until: None }));
    let old =
        ConversationProgress { conversation: group(1), reset: false, seq: Seq(8), marks: Marks::default() };
    rig.machine.taken(rig.now, Progress::Conversation(old));
    rig.advance(seconds(1));
    assert_eq!(delivered(&rig), []);
    let mut disk = State::default();
    assert_eq!(rig.handed(Some(&mut disk)), (0..=9).collect::<Vec<_>>());
    rig.advance(seconds(1));
    assert_eq!(delivered(&rig), [9]);
    assert_eq!(disk.conversations[&group(1)].cursor, Seq(9));
}

/// A device that only sends compares nothing, and leaves the reset to a run that gets entries.
#[test]
fn who_gets_nothing_resets_nothing() {
    let mut disk = at_epoch(4, 1);
    let mut rig = Rig::new(Settings { receive: false, ..Rig::usual() }, disk.clone());
    rig.log_in(Some(epoch(2)));
    assert_eq!((rig.handed(Some(&mut disk)), disk.clone()), (vec![], at_epoch(4, 1)));
    let mut rig = Rig::new(Rig::usual(), disk);
    rig.log_in(Some(epoch(2)));
    assert_eq!(rig.handed(None), [0]);
}

/// For a local history: what was kept goes before the new comes.
#[test]
fn what_was_kept_is_forgotten_first() {
    let mut rig = Rig::new(Settings { history: true, ..Rig::usual() }, at_epoch(4, 1));
    rig.log_in(Some(epoch(2)));
    let sync = *rig.syncs().last().unwrap();
    let mut new = line(group(1), 1, 0);
    new.entries = vec![entry(1, "new")];
    rig.receive(sync, ServerBody::SyncPage(SyncPage { conversations: vec![new], covered_until: None }));
    let kept: Vec<_> = rig
        .other
        .iter()
        .filter_map(|output| match output {
            Output::Persist(record @ (Record::Forgotten { .. } | Record::Entry { .. })) => {
                Some(record.clone())
            }
            _ => None,
        })
        .collect();
    let expected = [
        Record::Forgotten { conversation: None },
        Record::Entry { conversation: group(1), entry: entry(1, "new") },
    ];
    assert_eq!(kept, expected);
}

/// What is on the screen is of the old history until the app has heard of the reset.
#[test]
fn what_the_app_marks_before_it_has_dropped_the_old_history_is_done_with() {
    let mut rig = Rig::new(Rig::usual(), at_epoch(50, 1));
    rig.other.clear();
    rig.log_in(Some(epoch(2)));
    rig.sent.clear();
    let mark = Mark { conversation: group(1), delivered: Seq(50), read: Seq(50) };
    rig.machine.query(rig.now, Ticket(9), RequestBody::Mark(vec![mark]));
    rig.drain();
    assert!(!rig.sent.iter().any(|request| matches!(request.body, RequestBody::Mark(_))), "{:?}", rig.sent);
    let done = Output::Answer { ticket: Ticket(9), result: Ok(ServerBody::MarkOk) };
    assert!(rig.other.contains(&done));
}
