//! Each kind of damage is found, and nothing else is.

use tern_protocol::convert::encode_entry;
use tern_protocol::ids::{DeviceId, StoreEpoch};
use tern_protocol::model::{Conversation as Record, SendWindow};

use super::*;
use crate::Kv;
use crate::memory::Memory;
use crate::ops::receipts;
use crate::ops::tests::{Owner, block_on, device, direct, group, message, user};
use crate::salvage::tests::BadBlocks;

/// A group whose members have come and gone, with twelve entries, and a direct chat.
async fn filled() -> Memory {
    let kv = Memory::new();
    let owner = Owner { kv: &kv, id: group(1) };
    owner.create(&["anna", "ben"]).await;
    owner.messages(device("anna", 1), 2, 3).await;
    owner.messages(device("ben", 2), 1, 3).await;
    let add = Change::Add { members: vec![user("carl")] };
    let member = |joined| Membership { role: Role::Member, joined, left: None };
    owner.change_member(device("anna", 1), 5, "carl", add, member).await;
    let remove = Change::Remove { member: user("ben") };
    let ended = |left| Membership { role: Role::Member, joined: Seq(1), left: Some(left) };
    owner.change_member(device("anna", 1), 6, "ben", remove, ended).await;
    owner.messages(device("carl", 1), 7, 3).await;
    let delivered = vec![(DeviceId::new(2).unwrap(), Seq(7))];
    let marks = receipts::Write { conversation: group(1), user: user("ben"), delivered, read: Seq(3) };
    receipts::persist(&kv, &[marks]).await.unwrap();
    direct(&kv, "anna", "ben").await;
    kv
}

fn verified(kv: &Memory) -> (Totals, Vec<String>) {
    let mut found = Vec::new();
    let totals = block_on(verify(&*kv.begin(), &mut |corrupt| found.push(corrupt.to_string()))).unwrap();
    assert_eq!(totals.wrong, found.len() as u64);
    (totals, found)
}

#[test]
fn a_healthy_store_has_nothing_wrong() {
    let (totals, found) = verified(&block_on(filled()));
    assert_eq!(found, Vec::<String>::new());
    let expected =
        Totals { conversations: 2, entries: 13, members: 5, windows: 4, watermarks: 2, ..Totals::default() };
    assert_eq!(totals, expected);
}

#[test]
fn a_trimmed_log_has_nothing_wrong() {
    let kv = block_on(filled());
    block_on(crate::ops::trim::raise_floor(&kv, group(1), Seq(9))).unwrap();
    assert_eq!(verified(&kv).1, Vec::<String>::new());
}

fn entry(seq: u64) -> EntryKey {
    EntryKey { conversation: group(1), seq: Seq(seq) }
}

fn member(name: &str) -> MemberKey {
    MemberKey { conversation: group(1), user: user(name) }
}

fn window(name: &str, number: u64) -> WindowKey {
    let device = device(name, number);
    WindowKey { conversation: group(1), user: device.user, device: device.device }
}

const HEAD: Head = Head { last: Seq(12), floor: Seq(1), time: WallMillis(1_012) };

/// An entry where the sample has one, with something else in it.
fn other(seq: u64, edit: impl FnOnce(&mut Entry)) -> Bytes {
    let mut entry = Entry {
        seq: Seq(seq),
        time: WallMillis(1_000 + seq),
        sender: device("anna", 1),
        client_seq: ClientSeq(seq),
        change: message("another"),
    };
    edit(&mut entry);
    records::entry::encode(&self::entry(seq), &encode_entry(&entry))
}

/// Damages a store and expects these findings, in any order, each with all of its texts.
#[track_caller]
fn check(damage: impl FnOnce(&mut dyn Transaction), expected: &[&[&str]]) {
    let kv = block_on(filled());
    let mut tx = kv.begin();
    damage(&mut *tx);
    block_on(tx.commit()).unwrap();
    let (_, mut found) = verified(&kv);
    for texts in expected {
        let met = found.iter().position(|finding| texts.iter().all(|text| finding.contains(text)));
        let met = met.unwrap_or_else(|| panic!("{texts:?} is not in {found:#?}"));
        found.remove(met);
    }
    assert_eq!(found, Vec::<String>::new(), "nothing else is wrong");
}

fn flipped(record: &[u8]) -> Bytes {
    let mut record = record.to_vec();
    record[2] ^= 1;
    record.into()
}

#[test]
fn damage_of_the_log_is_found() {
    // Those with which members come and go, and the last ones of devices, among them.
    for seq in [1, 3, 7, 8, 9, 12] {
        let seq_text = format!(" {seq}: checksum mismatch");
        check(|tx| tx.set(&entry(seq).encode(), flipped(&other(seq, |_| ()))), &[&["entry", &seq_text]]);
        let seq_text = format!(" {seq}: missing");
        check(|tx| tx.clear(&entry(seq).encode()), &[&["entry", &seq_text]]);
    }
    check(
        |tx| tx.clear_range(&entry(10).encode(), &entry(13).encode()),
        &[&["entry", " 10: missing, up to 12"]],
    );
    check(
        |tx| tx.set(&entry(13).encode(), records::entry::encode(&entry(13), b"x")),
        &[&["entry", " 13: outside of its log, which goes from 1 to 12"]],
    );
    check(
        |tx| tx.set(&entry(3).encode(), records::entry::encode(&entry(3), b"\xFF")),
        &[&["entry", " 3: is no entry"]],
    );
    check(
        |tx| tx.set(&entry(3).encode(), other(3, |entry| entry.seq = Seq(4))),
        &[&["entry", " 3: says that it is 4"]],
    );
    check(
        |tx| tx.set(&entry(3).encode(), other(3, |entry| entry.time = WallMillis(5))),
        &[&["entry", " 3: its time is before"]],
    );
    check(
        |tx| tx.set(&entry(3).encode(), other(3, |entry| entry.sender = device("eve", 1))),
        &[
            &["entry", " 3: its sender was no member then"],
            &["window", "lacks send 3, which is entry 3"],
            &["window", "says that send 3 is entry 3, and it is not"],
        ],
    );
}

#[test]
fn damage_of_the_epoch_is_found() {
    let record = records::epoch::encode(&EpochKey, &StoreEpoch::from_bytes([7; 16]));
    check(|tx| tx.set(&EpochKey.encode(), record.clone()), &[]);
    check(|tx| tx.set(&EpochKey.encode(), flipped(&record)), &[&["epoch", "checksum mismatch"]]);
    check(|tx| tx.set(b"e0", record.clone()), &[&["epoch", "the key makes no sense"]]);
}

#[test]
fn damage_of_what_makes_sends_unique_is_found() {
    check(
        |tx| tx.set(&entry(3).encode(), other(3, |entry| entry.client_seq = ClientSeq(9))),
        &[
            &["entry", " 4: its client_seq 4 is not above that of entry 3"],
            &["window", "says that send 3 is entry 3, and it is not"],
            &["window", "lacks send 9, which is entry 3"],
        ],
    );
    check(|tx| tx.clear(&window("ben", 2).encode()), &[&["window", "lacks send 1, which is entry 5"]]);
    let key = window("ben", 2);
    let set = |sends: &[(u64, u64)]| {
        let sends = sends.iter().map(|(client_seq, seq)| (ClientSeq(*client_seq), Seq(*seq))).collect();
        records::window::encode(&key, &SendWindow { sends })
    };
    check(
        |tx| tx.set(&key.encode(), set(&[(1, 5), (2, 6), (3, 7), (4, 13)])),
        &[&["window", "names entry 13 of a log that ends at 12"]],
    );
    check(
        |tx| tx.set(&key.encode(), set(&[(1, 4), (2, 6), (3, 7)])),
        &[
            &["window", "lacks send 1, which is entry 5"],
            &["window", "says that send 1 is entry 4, and it is not"],
        ],
    );
    check(
        |tx| tx.set(&key.encode(), set(&[(1, 5), (3, 7)])),
        &[&["window", "lacks send 2, which is entry 6"]],
    );
    check(|tx| tx.set(&key.encode(), flipped(&set(&[(1, 5)]))), &[&["window", "checksum mismatch"]]);
}

#[test]
fn damage_of_members_is_found() {
    let record = |name, joined, left: Option<u64>, role| {
        let membership = Membership { role, joined: Seq(joined), left: left.map(Seq) };
        records::member::encode(&member(name), &membership)
    };
    check(
        |tx| tx.clear(&member("carl").encode()),
        &[
            &["member", "missing, though the log made them a member"],
            &["mine", "lists a conversation that the user was never a member of"],
        ],
    );
    let damaged = |name| flipped(&record(name, 1, None, Role::Member));
    check(|tx| tx.set(&member("ben").encode(), damaged("ben")), &[&["member", "checksum mismatch"]]);
    check(|tx| tx.set(&member("anna").encode(), damaged("anna")), &[&["member", "checksum mismatch"]]);
    check(
        |tx| tx.set(&member("carl").encode(), record("carl", 2, None, Role::Member)),
        &[&["member", "does not begin or end with the entry that the log says"]],
    );
    check(
        |tx| tx.set(&member("ben").encode(), record("ben", 1, None, Role::Member)),
        &[&["member", "does not begin or end with the entry that the log says"]],
    );
    check(
        |tx| tx.set(&member("carl").encode(), record("carl", 8, None, Role::Owner)),
        &[&["a group with 2 owners"]],
    );
    check(
        |tx| tx.set(&member("dora").encode(), record("dora", 9, Some(99), Role::Member)),
        &[
            &["member", "from 9 to 99, in a log that ends at 12"],
            &["member", "the log never made them a member"],
            &["mine", "missing, though the user is or was a member"],
        ],
    );
    let mine = MineKey { user: user("carl"), conversation: group(1) };
    check(|tx| tx.clear(&mine.encode()), &[&["mine", "missing, though the user is or was a member"]]);
}

#[test]
fn damage_of_members_of_a_direct_chat_is_found() {
    let chat = ConversationId::direct(user("anna"), user("ben"));
    let key = MemberKey { conversation: chat, user: user("ben") };
    let left = Membership { role: Role::Member, joined: Seq(1), left: Some(Seq(1)) };
    check(
        |tx| tx.set(&key.encode(), records::member::encode(&key, &left)),
        &[&["direct chat", "not always one"]],
    );
    let gone = |tx: &mut dyn Transaction| {
        tx.clear(&key.encode());
        tx.clear(&MineKey { user: user("ben"), conversation: chat }.encode());
    };
    check(gone, &[&["member", "not those whose direct chat this is"]]);
}

#[test]
fn damage_of_heads_records_and_watermarks_is_found() {
    let key = HeadKey { conversation: group(1) };
    let head = |head: Head| records::head::encode(&key, &head);
    check(|tx| tx.set(&key.encode(), flipped(&head(HEAD))), &[&["head", "checksum mismatch"]]);
    check(
        |tx| tx.clear(&key.encode()),
        &[
            &["conversation", "no head"],
            &["entry", "no head"],
            &["window", "no head"],
            &["member", "no head"],
            &["read", "no head"],
            &["delivered", "no head"],
        ],
    );
    let ahead = Head { last: Seq(14), ..HEAD };
    check(|tx| tx.set(&key.encode(), head(ahead)), &[&["entry", " 13: missing, up to 14"]]);
    let behind = Head { last: Seq(11), time: WallMillis(1_011), ..HEAD };
    check(
        |tx| tx.set(&key.encode(), head(behind)),
        &[&["entry", " 12: outside of its log"], &["window", "names entry 12 of a log that ends at 11"]],
    );
    let record = ConversationKey { conversation: group(1) };
    check(|tx| tx.clear(&record.encode()), &[&["conversation", "missing, though there is a head"]]);
    let direct = Record { kind: Kind::Direct, title: String::new() };
    check(
        |tx| tx.set(&record.encode(), records::conversation::encode(&record, &direct)),
        &[&["conversation", "of another kind than its id"]],
    );
    let read = ReadKey { conversation: group(1), user: user("ben") };
    check(|tx| tx.atomic_max(&read.encode(), 13), &[&["read", "is at 13, in a log that ends at 12"]]);
    check(|tx| tx.set(&read.encode(), Bytes::from_static(b"123")), &[&["read", "not 8 bytes long"]]);
    let stranger = ReadKey { conversation: group(1), user: user("eve") };
    check(|tx| tx.atomic_max(&stranger.encode(), 1), &[&["read", "of a user who was never a member"]]);
    check(|tx| tx.set(b"z1", Bytes::new()), &[&["unknown", "7a31", "no kind of key"]]);
    check(|tx| tx.set(b"hx", Bytes::new()), &[&["head", "6878", "makes no sense"]]);
    let longer = [&record.encode()[..], b"x"].concat();
    check(|tx| tx.set(&longer, Bytes::new()), &[&["conversation", "makes no sense"]]);
}

#[test]
fn each_record_can_be_looked_at_alone() {
    let kv = block_on(filled());
    let rows = block_on(kv.begin().range(RangeQuery::new([0], [0xFF], usize::MAX))).unwrap();
    let mut damaged = 0;
    for (key, value) in &rows {
        assert_eq!(record(key, value), Ok(()));
        if !value.is_empty() {
            damaged += u64::from(record(key, &value.slice(1..)).is_err());
        }
    }
    let without_value = rows.iter().filter(|(_, value)| value.is_empty()).count();
    assert_eq!(damaged as usize, rows.len() - without_value);
    assert!(record(b"z", &Bytes::new()).is_err());
}

#[test]
fn what_cannot_be_read_is_found_and_does_not_hide_the_rest() {
    let chat = ConversationId::direct(user("anna"), user("ben"));
    let read = ReadKey { conversation: chat, user: user("ben") };
    let keys: [(&[u8], u64); 5] = [
        (&entry(3).encode(), 2),
        (&window("ben", 2).encode(), 2),
        (&member("ben").encode(), 2),
        (&MineKey { user: user("ben"), conversation: group(1) }.encode(), 2),
        (&ConversationKey { conversation: group(1) }.encode(), 2),
    ];
    for (key, conversations) in keys {
        let kv = block_on(filled());
        let mut tx = kv.begin();
        tx.atomic_max(&read.encode(), 9);
        block_on(tx.commit()).unwrap();
        let mut found = Vec::new();
        let tx = BadBlocks { tx: kv.begin(), is_bad: |other: &[u8]| other == key };
        let totals = block_on(verify(&tx, &mut |corrupt| found.push(corrupt.to_string()))).unwrap();
        assert_eq!(totals.conversations, conversations, "{found:#?}");
        assert!(totals.unreadable > 0, "{found:#?}");
        let bad = found.iter().filter(|finding| finding.contains("a bad block")).count();
        assert_eq!(bad as u64, totals.unreadable, "{found:#?}");
        // What is wrong elsewhere, and nothing that follows from the bad block alone.
        let others: Vec<_> = found.iter().filter(|finding| !finding.contains("a bad block")).collect();
        assert!(
            matches!(&others[..], [one] if one.contains("is at 9, in a log that ends at 1")),
            "{others:#?}"
        );
    }
}
