//! Each kind of damage is found, and nothing else is.

use tern_protocol::convert::encode_entry;
use tern_protocol::ids::DeviceId;
use tern_protocol::model::{Conversation as Record, SendWindow};

use super::*;
use crate::Kv;
use crate::memory::Memory;
use crate::ops::receipts;
use crate::ops::tests::{Owner, block_on, device, direct, group, message, user};

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
    let expected = Totals { conversations: 2, entries: 13, members: 5, windows: 4, watermarks: 2, wrong: 0 };
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

#[test]
fn damage_of_the_log_is_found() {
    let flipped = |seq| {
        let mut record = other(seq, |_| ()).to_vec();
        record[9] ^= 1;
        Bytes::from(record)
    };
    check(
        |tx| tx.set(&entry(3).encode(), flipped(3)),
        &[
            &["entry", " 3", "checksum mismatch"],
            &["window", "names entry 3 for its send 3, which cannot be read"],
        ],
    );
    check(
        |tx| tx.clear(&entry(3).encode()),
        &[&["entry", " 3: missing"], &["window", "names entry 3 for its send 3, which cannot be read"]],
    );
    check(
        |tx| tx.clear_range(&entry(10).encode(), &entry(13).encode()),
        &[
            &["entry", " 10: missing, up to 12"],
            &["names entry 10"],
            &["names entry 11"],
            &["names entry 12"],
        ],
    );
    check(
        |tx| tx.set(&entry(13).encode(), records::entry::encode(&entry(13), b"x")),
        &[&["entry", " 13: outside of its log, which goes from 1 to 12"]],
    );
    check(
        |tx| tx.set(&entry(3).encode(), records::entry::encode(&entry(3), b"\xFF")),
        &[&["entry", " 3: is no entry"], &["names entry 3 for its send 3, which cannot be read"]],
    );
    check(
        |tx| tx.set(&entry(3).encode(), other(3, |entry| entry.seq = Seq(4))),
        &[&["entry", " 3: says that it is 4"]],
    );
    check(
        |tx| tx.set(&entry(3).encode(), other(3, |entry| entry.time = WallMillis(5))),
        &[&["entry", " 3: its time is before"]],
    );
}

#[test]
fn damage_of_what_makes_sends_unique_is_found() {
    check(
        |tx| tx.set(&entry(3).encode(), other(3, |entry| entry.client_seq = ClientSeq(9))),
        &[
            &["window", "says that entry 3 is its send 3, and it is not"],
            &["entry", " 4: its client_seq 4 is not above that of entry 3"],
        ],
    );
    check(
        |tx| tx.clear(&window("ben", 2).encode()),
        &[&["window", "its last send is not the log's: 3 in entry 7"]],
    );
    let set = |sends: &[(u64, u64)]| {
        let sends = sends.iter().map(|(client_seq, seq)| (ClientSeq(*client_seq), Seq(*seq))).collect();
        records::window::encode(&window("ben", 2), &SendWindow { sends })
    };
    check(
        |tx| tx.set(&window("ben", 2).encode(), set(&[(1, 5), (2, 6), (3, 7), (4, 13)])),
        &[
            &["window", "names entry 13 of a log that ends at 12"],
            &["window", "its last send is not the log's"],
        ],
    );
    check(
        |tx| tx.set(&window("ben", 2).encode(), set(&[(1, 4), (2, 6), (3, 7)])),
        &[&["window", "names entry 4, and so does that of"]],
    );
    check(
        |tx| tx.set(&window("ben", 2).encode(), Bytes::from_static(b"nonsense")),
        &[&["window", "checksum mismatch"], &["window", "its last send is not the log's"]],
    );
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
    let chat = ConversationId::direct(user("anna"), user("ben"));
    let key = MemberKey { conversation: chat, user: user("ben") };
    let left = Membership { role: Role::Member, joined: Seq(1), left: Some(Seq(1)) };
    check(
        |tx| tx.set(&key.encode(), records::member::encode(&key, &left)),
        &[&["direct chat", "not always one"]],
    );
}

#[test]
fn damage_of_heads_records_and_watermarks_is_found() {
    let key = HeadKey { conversation: group(1) };
    check(|tx| tx.set(&key.encode(), Bytes::from_static(b"nonsense")), &[&["head", "checksum mismatch"]]);
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
    check(
        |tx| tx.set(&key.encode(), records::head::encode(&key, &ahead)),
        &[&["entry", " 13: missing, up to 14"]],
    );
    let behind = Head { last: Seq(11), time: WallMillis(1_011), ..HEAD };
    check(
        |tx| tx.set(&key.encode(), records::head::encode(&key, &behind)),
        &[
            &["entry", " 12: outside of its log"],
            &["window", "names entry 12 of a log that ends at 11"],
            &["window", "its last send is not the log's: 8 in entry 11"],
        ],
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
}
