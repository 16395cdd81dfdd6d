use proptest::prelude::*;
use tern_protocol::model::{Kind, Message, Sender, WallMillis};

use super::*;

fn group(n: u8) -> ConversationId {
    ConversationId::group_from_random([n; 16])
}

fn epoch(n: u8) -> StoreEpoch {
    StoreEpoch::from_bytes([n; 16])
}

fn user(name: &str) -> UserId {
    UserId::from_sub(name)
}

fn text(text: &str) -> Change {
    Change::Message(Message {
        content_type: "text/plain".into(),
        payload: text.to_owned().into(),
        reply_to: None,
    })
}

fn send(n: u8, client_seq: u64) -> Record {
    let (conversation, client_seq) = (group(n), ClientSeq(client_seq));
    let target = Target::Conversation(conversation);
    Record::Send { conversation, client_seq, target, change: text(&format!("{client_seq}")) }
}

fn entry_of(sender: &str, conversation: ConversationId, seq: u64, change: Change) -> Record {
    let sender = Sender { user: user(sender), device: DeviceId::new(9).unwrap() };
    let entry =
        Entry { seq: Seq(seq), time: WallMillis(1000 + seq), sender, client_seq: ClientSeq(seq), change };
    Record::Entry { conversation, entry }
}

fn entry(conversation: ConversationId, seq: u64) -> Record {
    entry_of("bob", conversation, seq, text(&format!("{seq}")))
}

fn line(conversation: ConversationId, title: &str, role: Option<Role>) -> Record {
    Record::Conversation(ConversationState {
        conversation,
        kind: Kind::Group,
        title: title.into(),
        peer: None,
        head: Seq(0),
        floor: Seq(1),
        read: Seq(0),
        peer_delivered: Seq(0),
        peer_read: Seq(0),
        role,
        entries: Vec::new(),
        complete_to: Seq(0),
        unread: 0,
        time: WallMillis(0),
    })
}

fn some_record() -> impl Strategy<Value = Record> {
    let id = || (1..3u8).prop_map(group);
    let seq = || (0..6u64).prop_map(Seq);
    // Few, so that records meet.
    let number = || (1..6u64).prop_map(ClientSeq);
    prop_oneof![
        (1..4u64).prop_map(|n| Record::Device(DeviceId::new(n).unwrap())),
        Just(Record::User(user("alice"))),
        (id(), seq(), seq(), seq(), seq()).prop_map(
            |(conversation, seq, read, peer_delivered, peer_read)| {
                Record::Cursor { conversation, seq, marks: Marks { read, peer_delivered, peer_read } }
            }
        ),
        id().prop_map(|conversation| Record::Reset { conversation }),
        (1..3u8, 1..6u64).prop_map(|(n, client_seq)| send(n, client_seq)),
        (id(), number()).prop_map(|(conversation, client_seq)| Record::Settled { conversation, client_seq }),
        (id(), number(), number()).prop_map(|(conversation, old, new)| Record::Renumbered {
            conversation,
            old,
            new
        }),
        (id(), number()).prop_map(|(conversation, next)| Record::Next { conversation, next }),
        number().prop_map(Record::Base),
        (id(), 1..6u64).prop_map(|(conversation, seq)| entry(conversation, seq)),
        proptest::option::of(id()).prop_map(|conversation| Record::Forgotten { conversation }),
        (1..3u8).prop_map(|n| Record::Epoch(epoch(n))),
        (1..3u8).prop_map(|n| Record::HistoryReset(epoch(n))),
    ]
}

/// Conversations without anything in them are none to the machine.
fn significant(mut state: State) -> State {
    state.conversations.retain(|_, c| *c != StoredConversation::default());
    state
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    /// It is the sum of the records, however they are batched, and after closing and opening as well.
    #[test]
    fn it_keeps_what_the_records_make(
        batches in prop::collection::vec(prop::collection::vec(some_record(), 1..12), 1..6),
    ) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("new/state.db");
        let mut expected = State::default();
        for batch in batches {
            let mut storage = SqliteStorage::open(&path).unwrap();
            prop_assert_eq!(storage.load().unwrap(), significant(expected.clone()));
            storage.append(&batch).unwrap();
            batch.iter().for_each(|record| expected.apply(record));
            prop_assert_eq!(storage.load().unwrap(), significant(expected.clone()));
            let sum: Option<i64> =
                storage.connection.query_row("SELECT sum(bytes) FROM entries", [], |row| row.get(0)).unwrap();
            prop_assert_eq!(storage.history_bytes, sum.unwrap_or_default());
        }
    }
}

#[test]
fn what_moved_last_is_known() {
    let directory = tempfile::tempdir().unwrap();
    let mut storage = SqliteStorage::open(directory.path().join("state")).unwrap();
    let id = |n: usize| {
        ConversationId::group_from_random([(n % 251) as u8, (n / 251) as u8].repeat(8).try_into().unwrap())
    };
    let records: Vec<_> = (0..RECENT_MAX + 9)
        .map(|n| Record::Cursor { conversation: id(n), seq: Seq(1), marks: Marks::default() })
        .collect();
    storage.append(&records).unwrap();
    let state = storage.load().unwrap();
    assert_eq!(state.recent, (9..RECENT_MAX + 9).map(id).collect::<Vec<_>>());
}

#[test]
fn others_are_kept_out_and_foreign_files_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state");
    let storage = SqliteStorage::open(&path).unwrap();
    assert!(matches!(SqliteStorage::open(&path), Err(StorageError::InUse(_))));
    #[cfg(unix)]
    for suffix in ["", "-wal", ".lock"] {
        let file = format!("{}{suffix}", path.display());
        let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&file).unwrap().permissions());
        assert_eq!(mode & 0o077, 0, "{file} is for its user alone");
    }
    drop(storage);
    drop(SqliteStorage::open(&path).unwrap());

    // A newer version's, another program's, and what is no database at all.
    let meddle = |sql: &str| Connection::open(&path).unwrap().execute_batch(sql).unwrap();
    for (pragma, known) in [("user_version", SCHEMA_VERSION), ("application_id", APPLICATION_ID)] {
        meddle(&format!("PRAGMA {pragma} = {}", known + 1));
        assert!(matches!(SqliteStorage::open(&path), Err(StorageError::Foreign(_))), "{pragma}");
        meddle(&format!("PRAGMA {pragma} = {known}"));
        drop(SqliteStorage::open(&path).unwrap());
    }
    fs::write(&path, "a letter to the editor, longer than a header").unwrap();
    assert!(matches!(SqliteStorage::open(&path), Err(StorageError::Foreign(_))));
    assert_eq!(fs::read(&path).unwrap()[..8], *b"a letter");
}

#[test]
fn damage_is_told_and_nothing_is_left_out() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state");
    let mut storage = SqliteStorage::open(&path).unwrap();
    storage.append(&[send(1, 1)]).unwrap();
    storage.connection.execute("UPDATE outbox SET send = x'0102'", []).unwrap();
    assert!(matches!(storage.load(), Err(StorageError::Damaged(_))));
    assert!(matches!(storage.history().unwrap().unsent(group(1)), Err(StorageError::Damaged(_))));

    // After a write that failed, nothing more is written.
    storage.connection.execute("DROP TABLE outbox", []).unwrap();
    assert!(matches!(storage.append(&[send(1, 2)]), Err(StorageError::Other(_))));
    assert!(matches!(storage.append(&[Record::Base(ClientSeq(1))]), Err(StorageError::Poisoned)));
}

/// Another program knows nothing of the lock beside the database: it is waited for, and then named as the cause.
#[test]
fn a_database_that_another_program_writes_to_is_in_use() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state");
    let mut storage = SqliteStorage::open(&path).unwrap();
    let patience: i64 =
        storage.connection.pragma_query_value(None, "busy_timeout", |row| row.get(0)).unwrap();
    assert_eq!(u128::try_from(patience), Ok(BUSY_TIMEOUT.as_millis()));
    storage.connection.busy_timeout(Duration::ZERO).unwrap();
    storage.append(&[send(1, 1)]).unwrap();
    let other = Connection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let error = storage.append(&[send(1, 2)]).unwrap_err();
    assert!(matches!(error, StorageError::InUse(_)), "{error}");
    assert!(error.to_string().contains("another process"), "{error}");
    // It can be read meanwhile, and written to again after, without what was refused.
    assert_eq!(storage.load().unwrap().conversations[&group(1)].unacked.len(), 1);
    other.execute_batch("ROLLBACK").unwrap();
    storage.append(&[send(1, 3)]).unwrap();
    let numbers =
        storage.load().unwrap().conversations[&group(1)].unacked.keys().copied().collect::<Vec<_>>();
    assert_eq!(numbers, [ClientSeq(1), ClientSeq(3)]);
}

/// With `full`, SQLite syncs the log before a commit returns; with `normal`, before it copies it into the database.
#[test]
fn what_is_vital_is_synced() {
    let directory = tempfile::tempdir().unwrap();
    let mut storage = SqliteStorage::open(directory.path().join("state")).unwrap();
    let (full, normal) = (2, 1);
    for (records, expected) in [
        (vec![entry(group(1), 1)], normal),
        (vec![entry(group(1), 2), send(1, 1)], full),
        (vec![Record::Settled { conversation: group(1), client_seq: ClientSeq(1) }], normal),
        (vec![Record::User(user("alice"))], full),
    ] {
        storage.append(&records).unwrap();
        let pragma =
            |name| storage.connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0)).unwrap();
        assert_eq!((pragma("synchronous"), pragma("fullfsync")), (expected, 1), "{records:?}");
    }
    let mode: String = storage.connection.pragma_query_value(None, "journal_mode", |row| row.get(0)).unwrap();
    assert_eq!(mode, "wal");
}

#[test]
fn a_batch_is_whole_or_absent() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state");
    let mut storage = SqliteStorage::open(&path).unwrap();
    storage.append(&[send(1, 1)]).unwrap();
    storage.connection.execute("ALTER TABLE entries RENAME TO away", []).unwrap();
    assert!(storage.append(&[send(1, 2), entry(group(1), 1)]).is_err());
    storage.connection.execute("ALTER TABLE away RENAME TO entries", []).unwrap();
    drop(storage);
    let state = SqliteStorage::open(&path).unwrap().load().unwrap();
    assert_eq!(state.conversations[&group(1)].unacked.keys().copied().collect::<Vec<_>>(), [ClientSeq(1)]);
}

fn seqs(entries: &[Entry]) -> Vec<u64> {
    entries.iter().map(|entry| entry.seq.get()).collect()
}

#[test]
fn history_is_read_page_by_page() {
    let directory = tempfile::tempdir().unwrap();
    let mut storage = SqliteStorage::open(directory.path().join("state")).unwrap();
    assert!(storage.keeps_history());
    let history = storage.history().unwrap();
    assert_eq!(history.latest(group(1), 5).unwrap(), []);
    storage.append(&(1..=7).map(|seq| entry(group(1), seq)).collect::<Vec<_>>()).unwrap();
    // Once more, as after a crash.
    storage.append(&[entry(group(1), 7), entry(group(2), 1), send(1, 3), send(1, 4)]).unwrap();
    assert_eq!(seqs(&history.latest(group(1), 3).unwrap()), [5, 6, 7]);
    assert_eq!(seqs(&history.before(group(1), Seq(5), 3).unwrap()), [2, 3, 4]);
    assert_eq!(seqs(&history.before(group(1), Seq(2), 3).unwrap()), [1]);
    assert_eq!(history.before(group(1), Seq(1), 3).unwrap(), []);
    let Record::Entry { entry: third, .. } = entry(group(1), 3) else { unreachable!() };
    assert_eq!(history.before(group(1), Seq(4), 1).unwrap(), [third]);
    let unsent = history.unsent(group(1)).unwrap();
    assert_eq!(unsent.iter().map(|unsent| unsent.client_seq.get()).collect::<Vec<_>>(), [3, 4]);
    assert_eq!(unsent[0].change, text("3"));
    // One of a newer kind counts.
    storage.append(&[entry_of("bob", group(1), 8, Change::Unknown)]).unwrap();
    assert_eq!(history.latest(group(1), 1).unwrap()[0].change, Change::Unknown);
    // The log was replaced.
    storage.append(&[Record::Forgotten { conversation: Some(group(1)) }, entry(group(1), 1)]).unwrap();
    assert_eq!(seqs(&history.latest(group(1), 9).unwrap()), [1]);
    assert_eq!(seqs(&history.latest(group(2), 9).unwrap()), [1]);
}

#[test]
fn the_list_tells_how_conversations_stand() {
    let directory = tempfile::tempdir().unwrap();
    let mut storage = SqliteStorage::open(directory.path().join("state")).unwrap();
    let history = storage.history().unwrap();
    storage.append(&[Record::User(user("alice"))]).unwrap();
    let chat = ConversationId::direct(user("alice"), user("bob"));
    let create = Change::Create { title: "walkers".into(), members: vec![user("alice")] };
    storage.append(&[entry_of("carol", group(1), 1, create), entry(chat, 2), entry(group(2), 3)]).unwrap();
    let marks = Marks { read: Seq(1), peer_delivered: Seq(2), peer_read: Seq(1) };
    storage.append(&[Record::Cursor { conversation: chat, seq: Seq(2), marks }]).unwrap();
    let list = history.conversations(None, 9).unwrap();
    assert_eq!(list.iter().map(|line| line.conversation).collect::<Vec<_>>(), [group(2), chat, group(1)]);
    assert_eq!((list[1].peer, list[1].marks), (Some(user("bob")), marks));
    assert_eq!(list[1].last.as_ref().map(|entry| entry.seq), Some(Seq(2)));
    assert_eq!((list[2].title.as_str(), list[2].role), ("walkers", Some(Role::Member)));
    // Page by page it is the same.
    let first = history.conversations(None, 2).unwrap();
    let rest = history.conversations(first.last(), 2).unwrap();
    assert_eq!([first, rest].concat(), list);

    // What is told of the group later.
    fn check(storage: &mut SqliteStorage, record: Record, title: &str, role: Option<Role>) {
        storage.append(std::slice::from_ref(&record)).unwrap();
        let list = storage.history().unwrap().conversations(None, 9).unwrap();
        let line = list.iter().find(|line| line.conversation == group(1)).unwrap();
        assert_eq!((line.title.as_str(), line.role), (title, role), "after {record:?}");
    }
    let by = |who, seq, change| entry_of(who, group(1), seq, change);
    let (member, admin, owner) = (Some(Role::Member), Some(Role::Admin), Some(Role::Owner));
    let alice = user("alice");
    let role = |role| Change::Role { member: alice, role };
    let s = &mut storage;
    check(s, by("carol", 2, Change::Title { title: "hikers".into() }), "hikers", member);
    check(s, by("carol", 3, role(Role::Admin)), "hikers", admin);
    check(s, by("carol", 4, role(Role::Owner)), "hikers", owner);
    let handed_on = Change::Role { member: user("bob"), role: Role::Owner };
    check(s, by("alice", 5, handed_on), "hikers", admin);
    check(s, by("bob", 6, Change::Remove { member: alice }), "hikers", None);
    check(s, by("bob", 7, Change::Add { members: vec![alice] }), "hikers", member);
    check(s, line(group(1), "strollers", admin), "strollers", admin);
    check(s, by("alice", 8, Change::Leave), "strollers", None);
    check(s, line(group(1), "", None), "strollers", None);
}

#[test]
fn history_is_bounded() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state");
    let bytes = blob::of_entry(
        group(1),
        Entry {
            seq: Seq(1),
            time: WallMillis(1),
            sender: Sender { user: user("bob"), device: DeviceId::new(9).unwrap() },
            client_seq: ClientSeq(1),
            change: text("1"),
        },
    )
    .len() as u64;
    let most = 2000 * (bytes + 10);
    let mut storage = SqliteStorage::open(&path).unwrap().history_bytes_max(most);
    for chunk in (1..=6000u64).collect::<Vec<_>>().chunks(100) {
        storage
            .append(&chunk.iter().map(|seq| entry(group((seq % 2) as u8), *seq)).collect::<Vec<_>>())
            .unwrap();
        assert!(storage.history_bytes as u64 <= most);
    }
    let count: i64 =
        storage.connection.query_row("SELECT count(*) FROM entries", [], |row| row.get(0)).unwrap();
    assert!((1700..=2400).contains(&count), "{count}");
    let kept = storage.history().unwrap().latest(group(0), 1000).unwrap();
    assert_eq!(seqs(&kept)[kept.len() - 3..], [5996, 5998, 6000]);
    drop(storage);
    // However few entries fill it, those that came last are there.
    let mut storage = SqliteStorage::open(&path).unwrap().history_bytes_max(20 * (bytes + 10));
    storage.append(&[entry(group(0), 6002)]).unwrap();
    let kept = storage.history().unwrap().latest(group(0), 1000).unwrap();
    assert_eq!(seqs(&kept).last(), Some(&6002));
    assert!(storage.history_bytes as u64 > 15 * bytes, "{}", storage.history_bytes);
    drop(storage);
    // Another bound holds at the next write; with 0 nothing is asked for.
    let mut storage = SqliteStorage::open(&path).unwrap().history_bytes_max(0);
    assert!(!storage.keeps_history());
    storage.append(&[Record::Base(ClientSeq(1))]).unwrap();
    assert_eq!(storage.history_bytes, 0);
    assert_eq!(storage.history().unwrap().latest(group(0), 5).unwrap(), []);
    let list = storage.history().unwrap().conversations(None, 5).unwrap();
    assert!(list.len() == 2 && list[0].last.is_none());
}

/// As a first version left it, with a message that waits.
#[test]
fn an_older_file_is_brought_up() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state");
    let mut storage = SqliteStorage::open(&path).unwrap();
    storage.append(&[send(1, 1), entry(group(1), 1)]).unwrap();
    let expected = storage.load().unwrap();
    let back = "DROP TABLE lost; ALTER TABLE device DROP COLUMN epoch; PRAGMA user_version = 1";
    storage.connection.execute_batch(back).unwrap();
    drop(storage);
    let mut storage = SqliteStorage::open(&path).unwrap();
    assert_eq!(storage.load().unwrap(), expected);
    storage.append(&[Record::Epoch(epoch(1))]).unwrap();
    assert_eq!(storage.load().unwrap().epoch, Some(epoch(1)));
    assert_eq!(seqs(&storage.history().unwrap().latest(group(1), 9).unwrap()), [1]);
    assert_eq!(storage.history().unwrap().lost().unwrap(), []);
    drop(storage);
    drop(SqliteStorage::open(&path).unwrap());
}

/// (seqs of this device's and of others' messages in one log; where the new log begins for this device and its seqs of
/// these; what is lost)
#[test]
fn own_messages_that_the_new_history_lacks_are_lost() {
    let by = |device, conversation, seq| {
        let Record::Entry { mut entry, .. } = entry_of("alice", conversation, seq, text(&format!("{seq}")))
        else {
            unreachable!()
        };
        entry.sender.device = DeviceId::new(device).unwrap();
        Record::Entry { conversation, entry }
    };
    let lost = |storage: &SqliteStorage| -> Vec<(ConversationId, u64)> {
        let lost = storage.history().unwrap().lost().unwrap();
        lost.into_iter().map(|lost| (lost.conversation, lost.entry.seq.get())).collect()
    };
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state");
    let mut storage = SqliteStorage::open(&path).unwrap();
    let device = DeviceId::new(5).unwrap();
    storage.append(&[Record::Device(device), Record::User(user("alice")), send(1, 20)]).unwrap();
    let (one, two, three) = (group(1), group(2), group(3));
    let mut old: Vec<_> = [1, 3, 4, 6].map(|seq| by(5, one, seq)).into();
    old.extend([entry(one, 2), by(6, one, 5), by(5, two, 1), by(5, three, 7), line(two, "walkers", None)]);
    storage.append(&old).unwrap();
    assert_eq!(lost(&storage), []);
    storage.append(&[Record::Forgotten { conversation: None }]).unwrap();
    assert_eq!(lost(&storage), [(one, 1), (one, 3), (one, 4), (one, 6), (two, 1), (three, 7)]);
    let history = storage.history().unwrap();
    assert_eq!((history.latest(one, 9).unwrap(), history.conversations(None, 9).unwrap()), (vec![], vec![]));
    assert_eq!(history.unsent(one).unwrap().len(), 1, "what waits is no part of it");

    // The new log of the first is got from 3 on and ends there; of the second, all is back; the third is gone. And once
    // more, as after a crash before the app knew of it.
    let new = [by(5, one, 3), entry(one, 4), by(5, two, 1)];
    for _ in 0..2 {
        storage.append(&new).unwrap();
        assert_eq!(lost(&storage), [(one, 4), (one, 6), (three, 7)]);
        storage.append(&[Record::Forgotten { conversation: None }]).unwrap();
    }
    // They are bounded, and those that came last stay.
    storage.append(&(1..=400).map(|seq| by(5, three, seq)).collect::<Vec<_>>()).unwrap();
    storage.append(&[Record::Forgotten { conversation: Some(three) }]).unwrap();
    assert_eq!(lost(&storage), (145..=400).map(|seq| (three, seq)).collect::<Vec<_>>());
}
