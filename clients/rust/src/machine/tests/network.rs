//! Heartbeats, changed networks, and what is kept for a local history.

use std::time::Duration;

use tern_protocol::event::{ServerBody, SyncPage};
use tern_protocol::ids::Seq;
use tern_protocol::model::Entry;

use super::super::{Output, Settings};
use super::model::{entry, group, login_ok};
use super::rig::{Rig, seconds, with_cursor};
use crate::event::{ConnectionState, Event, Lost};
use crate::storage::{Record, State};

impl Rig {
    /// Logs in over QUIC, with nothing to sync.
    fn online_over_quic(settings: Settings) -> Self {
        let mut rig = Self::new(settings, State::default());
        rig.log_in_over_quic();
        rig
    }

    fn log_in_over_quic(&mut self) {
        self.sent.clear();
        self.machine.connected(self.now, "token".into(), true);
        self.drain();
        let login = self.sent.remove(0);
        self.receive(login.id, login_ok(64));
        let sync = self.sent.remove(0);
        self.receive(
            sync.id,
            ServerBody::SyncPage(SyncPage { conversations: Vec::new(), covered_until: None }),
        );
        self.other.clear();
    }

    /// Lets the time pass as a driver does; how long each silence was before its heartbeat, in seconds. The path
    /// forgets after `limit`. Nothing else may wake the driver.
    fn silences(&mut self, count: usize, limit: Duration) -> Vec<u64> {
        let mut silences = Vec::new();
        while silences.len() < count {
            let from = self.now;
            let due = self.machine.next_timeout().unwrap();
            self.advance(due - from);
            assert_eq!(std::mem::take(&mut self.other), [Output::Heartbeat], "woken for nothing");
            silences.push((due - from).as_secs());
            if due - from >= limit {
                self.machine.address_changed();
            }
            self.machine.received_heartbeat(self.now);
            self.drain();
        }
        silences
    }
}

#[test]
fn who_waits_for_nothing_is_woken_for_heartbeats_alone() {
    let mut rig = Rig::online(Rig::usual(), State::default());
    rig.other.clear();
    assert_eq!(rig.silences(70, Duration::MAX), [54; 70], "an hour");
    // After a busy time as well.
    rig.push(1);
    rig.seqs();
    rig.other.clear();
    assert_eq!(rig.silences(3, Duration::MAX), [54; 3]);
}

#[test]
fn heartbeats_are_as_rare_as_the_path_allows() {
    let mut rig = Rig::online_over_quic(Rig::usual());
    assert_eq!(rig.silences(8, Duration::MAX), [25, 25, 25, 37, 37, 37, 54, 54]);
    let mut rig = Rig::online_over_quic(Rig::usual());
    assert_eq!(rig.silences(6, seconds(30)), [25, 25, 25, 37, 25, 25], "the path forgets after 30 s");
    // What the app wants is the most.
    let mut rig = Rig::online_over_quic(Settings { heartbeat_max: seconds(20), ..Rig::usual() });
    assert_eq!(rig.silences(9, Duration::MAX), [20; 9]);
    // Another network, another path; that the server sees the device move is no sign of a forgetful one.
    let mut rig = Rig::online_over_quic(Rig::usual());
    rig.silences(8, Duration::MAX);
    rig.machine.network_changed(rig.now);
    rig.machine.address_changed();
    rig.machine.received_heartbeat(rig.now);
    rig.drain();
    rig.other.clear();
    assert_eq!(rig.silences(3, Duration::MAX), [25; 3]);
}

#[test]
fn a_link_that_died_of_silence_makes_the_next_talk_more_often() {
    // What ends the link after a heartbeat, how long the network is gone, the next interval.
    fn check(reason: Option<Lost>, gone: u64, over_quic: bool, expected: u64) {
        let mut rig = if over_quic {
            Rig::online_over_quic(Rig::usual())
        } else {
            Rig::online(Rig::usual(), State::default())
        };
        rig.advance(seconds(if over_quic { 25 } else { 54 }));
        match reason.clone() {
            Some(reason) => {
                rig.machine.disconnected(rig.now, reason);
                rig.drain();
            }
            None => rig.advance(seconds(10)),
        }
        assert!(matches!(rig.states().last(), Some(ConnectionState::Offline { .. })));
        rig.advance(seconds(gone));
        if over_quic {
            rig.log_in_over_quic();
        } else {
            rig.connect();
            let sync = rig.sent.remove(0);
            let page = SyncPage { conversations: Vec::new(), covered_until: None };
            rig.receive(sync.id, ServerBody::SyncPage(page));
        }
        rig.other.clear();
        assert_eq!(rig.silences(1, Duration::MAX), [expected], "{reason:?}, gone for {gone} s");
    }
    let broken = || Some(Lost::Broken("reset".into()));
    check(None, 1, false, 36);
    check(broken(), 1, false, 36);
    check(None, 1, true, 16);
    check(broken(), 1, true, 25);
    // A network that was gone says nothing about the path.
    check(None, 60, false, 54);

    // Nor does a link that does not outlive a move.
    let mut rig = Rig::online(Rig::usual(), State::default());
    rig.advance(seconds(50));
    rig.machine.network_changed(rig.now);
    rig.advance(seconds(3));
    assert!(matches!(rig.states().last(), Some(ConnectionState::Offline { .. })));
    rig.advance(seconds(1));
    rig.connect();
    let sync = rig.sent.remove(0);
    rig.receive(sync.id, ServerBody::SyncPage(SyncPage { conversations: Vec::new(), covered_until: None }));
    rig.other.clear();
    assert_eq!(rig.silences(1, Duration::MAX), [54]);
}

#[test]
fn a_changed_network_is_found_out_about_at_once() {
    // A link that does not answer is given up after 2 s, one that does stays.
    let mut rig = Rig::online(Rig::usual(), State::default());
    rig.states();
    rig.machine.network_changed(rig.now);
    rig.drain();
    assert_eq!(rig.other, [Output::Heartbeat]);
    rig.machine.received_heartbeat(rig.now + seconds(1));
    rig.advance(seconds(50));
    assert_eq!(rig.states(), []);
    // Also when a heartbeat was under way.
    rig.advance(seconds(6));
    rig.machine.network_changed(rig.now);
    rig.advance(Duration::from_millis(1900));
    assert_eq!(rig.states(), []);
    rig.advance(Duration::from_millis(100));
    assert!(matches!(rig.states()[..], [ConnectionState::Offline { reason: Lost::Silent, .. }]));

    // What had come before the change and is read after it says nothing: neither a message nor an older echo.
    let mut rig = Rig::online(Rig::usual(), State::default());
    rig.advance(seconds(54));
    rig.states();
    rig.machine.network_changed(rig.now);
    rig.machine.received_heartbeat(rig.now);
    rig.push(1);
    rig.advance(seconds(2));
    assert!(matches!(rig.states()[..], [ConnectionState::Offline { reason: Lost::Silent, .. }]));
    // A push that was made since says that the server reaches this device, and not that this device reaches it.
    let mut rig = Rig::online(Rig::usual(), State::default());
    rig.machine.network_changed(rig.now);
    rig.advance(seconds(1));
    rig.push(1);
    rig.states();
    rig.advance(seconds(1));
    assert!(matches!(rig.states()[..], [ConnectionState::Offline { reason: Lost::Silent, .. }]));
    // The echo of the one that was sent after the change does, and so does a page that keeps coming.
    for page in [false, true] {
        let mut rig = Rig::online(Rig::usual(), State::default());
        rig.advance(seconds(54));
        rig.states();
        rig.machine.network_changed(rig.now);
        rig.machine.received_heartbeat(rig.now);
        rig.advance(seconds(1));
        if page {
            rig.machine.heard(rig.now)
        } else {
            rig.machine.received_heartbeat(rig.now)
        }
        rig.advance(seconds(9));
        assert_eq!(rig.states(), []);
    }

    // A try that is under way begins again, with the same need of a token.
    rig.advance(seconds(1));
    rig.other.clear();
    rig.machine.network_changed(rig.now);
    rig.drain();
    assert_eq!(rig.other, [Output::Connect { fresh_token: false, hints: Vec::new() }]);
    rig.other.clear();

    // A login that does not come through.
    rig.machine.connected(rig.now, "token".into(), false);
    rig.machine.network_changed(rig.now);
    rig.advance(seconds(2));
    assert!(matches!(rig.states()[..], [ConnectionState::Offline { reason: Lost::Silent, .. }]));

    // A wait for another try ends.
    rig.machine.network_changed(rig.now);
    rig.advance(Duration::ZERO);
    assert_eq!(rig.states(), [ConnectionState::Connecting]);
}

#[test]
fn what_is_handed_over_is_kept_before() {
    fn kept(rig: &mut Rig) -> Vec<Record> {
        let outputs = std::mem::take(&mut rig.other);
        outputs
            .into_iter()
            .filter_map(|o| if let Output::Persist(record) = o { Some(record) } else { None })
            .collect()
    }
    let record = |entry: Entry| Record::Entry { conversation: group(1), entry };
    for history in [true, false] {
        let settings = Settings { history, ..Rig::usual() };
        let mut rig = Rig::online(settings, with_cursor(4));
        rig.other.clear();
        rig.push(5);
        rig.push(7);
        let expected: &[_] = if history { &[record(entry(5, "theirs"))] } else { &[] };
        assert_eq!(kept(&mut rig), expected, "six is missing");
        let (pull, _) = rig.pulls()[0];
        rig.page(pull, 1, 7, [6, 7]);
        let expected: Vec<_> = [6, 7].map(|seq| record(entry(seq, "theirs"))).into();
        assert_eq!(kept(&mut rig), if history { expected } else { vec![] });
        assert_eq!(rig.seqs(), [5, 6, 7]);

        // The log is replaced: what was kept of the old one goes before the new one comes.
        rig.reconnect();
        rig.other.clear();
        let mut line = super::rig::line(group(1), 1, 0);
        line.entries = vec![entry(1, "new")];
        rig.answer_sync(SyncPage { conversations: vec![line.clone()], covered_until: None });
        line.entries.clear();
        let expected = vec![
            Record::Forgotten { conversation: Some(group(1)) },
            Record::Conversation(line),
            record(entry(1, "new")),
        ];
        assert_eq!(kept(&mut rig), if history { expected } else { vec![] });
        let reset = |e: &Event| matches!(e, Event::Reset { cursor: Seq(7), .. });
        assert!(std::iter::from_fn(|| rig.machine.poll_event(rig.now)).any(|event| reset(&event)));
    }
}
