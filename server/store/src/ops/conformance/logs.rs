//! Append, load, fence, late duplicates, receipts, trim.

use super::*;
use crate::RangeQuery;
use crate::keys::entry::EntryKey;

cases! {
    /// Every case.
    pub(super) const CASES;
    what_is_appended_is_loaded
    an_append_writes_what_it_must_and_no_more
    a_stale_owner_conflicts
    an_owner_that_reads_the_head_compares_it
    windows_are_kept_per_device
    a_damaged_window_hides_no_other
    late_duplicates_are_found
    watermarks_only_rise
    trimming_keeps_the_newest
    damage_is_found_when_read
}

async fn what_is_appended_is_loaded(kv: &dyn Kv) {
    let owner = Owner { kv, id: group(1) };
    let (version, nothing) = append::load(kv, owner.id).await.unwrap();
    assert_eq!(nothing, None);
    owner.create(&["anna", "ben"]).await;
    owner.messages(device("ben", 2), 1, 2).await;
    let mark = |name, number, delivered, read| receipts::Write {
        conversation: owner.id,
        user: user(name),
        delivered: vec![(DeviceId::new(number).unwrap(), Seq(delivered))],
        read: Seq(read),
    };
    receipts::persist(kv, &[mark("anna", 1, 1, 0), mark("anna", 9, 2, 0), mark("ben", 2, 1, 3)])
        .await
        .unwrap();
    let loaded: Loaded = append::load(kv, owner.id).await.unwrap().1.unwrap();
    assert!(loaded.version > version);
    assert_eq!(loaded.head, Head { last: Seq(3), floor: Seq(1), time: WallMillis(1_003) });
    assert_eq!(loaded.conversation.title, "Tern");
    let members: BTreeMap<_, _> = loaded.members.iter().copied().collect();
    assert_eq!(members[&user("anna")].role, Role::Owner);
    assert_eq!(members[&user("ben")], Membership { role: Role::Member, joined: Seq(1), left: None });
    assert!(loaded.members.is_sorted_by_key(|(user, _)| *user));
    assert!(loaded.watermarks.is_sorted_by_key(|(user, _)| *user));
    let marks: BTreeMap<_, _> = loaded.watermarks.iter().copied().collect();
    assert_eq!(marks[&user("anna")].delivered, Seq(2), "the best of the devices");
    assert_eq!(marks[&user("ben")].delivered, Seq(3), "who has seen an entry has received it");
}

async fn an_append_writes_what_it_must_and_no_more(kv: &dyn Kv) {
    let owner = direct(kv, "anna", "ben").await;
    let rows = async || kv.begin().range(crate::RangeQuery::new([0], [0xFE], 1_000)).await.unwrap();
    let before: BTreeMap<_, _> = rows().await.into_iter().collect();
    owner.messages(device("anna", 1), 2, 1).await;
    let after: BTreeMap<_, _> = rows().await.into_iter().collect();
    let changed = after.iter().filter(|(key, value)| before.get(*key) != Some(*value));
    let kinds: String = changed.map(|(key, _)| key[0] as char).collect();
    assert_eq!(kinds, "ghi", "a message of a direct chat writes entry, head and window");
    assert!(before.keys().all(|key| after.contains_key(key)));
}

async fn a_stale_owner_conflicts(kv: &dyn Kv) {
    let owner = direct(kv, "anna", "ben").await;
    let stale = owner.batch(device("ben", 2), 1, vec![message("stale")]).await.unwrap();
    let mut next = owner.batch(device("anna", 1), 2, vec![message("one")]).await.unwrap();
    let version = append::commit(kv, &next).await.unwrap();
    assert_eq!(append::commit(kv, &stale).await, Err(CommitError::Conflict));
    // An owner that was not disturbed goes on from its own commit, without reading.
    next.base = Base { head: next.head, version: Some(version) };
    let entry = Entry {
        seq: Seq(3),
        time: WallMillis(2_000),
        sender: device("anna", 1),
        client_seq: ClientSeq(3),
        change: message("two"),
    };
    next.entries = vec![(Seq(3), encode_entry(&entry))];
    next.head = Head { last: Seq(3), time: entry.time, ..next.head };
    append::commit(kv, &next).await.unwrap();
    let page = owner.history("ben", HistoryFrom::Forward(Seq(1)), 10).await.unwrap();
    assert_eq!(seqs(&page.entries), range(1, 3));
    assert!(!page.entries.iter().any(|entry| entry.change == message("stale")));
}

async fn an_owner_that_reads_the_head_compares_it(kv: &dyn Kv) {
    let owner = Owner { kv, id: ConversationId::direct(user("anna"), user("ben")) };
    let blind = async |client_seq, text: &str| {
        let mut batch = owner.batch(device("anna", 1), client_seq, vec![message(text)]).await.unwrap();
        batch.base.version = None;
        batch.record = Some(Conversation { kind: Kind::Direct, title: String::new() });
        batch
    };
    let (first, second) = (blind(1, "first").await, blind(1, "second").await);
    append::commit(kv, &first).await.unwrap();
    assert_eq!(append::commit(kv, &second).await, Err(CommitError::Conflict), "it exists by now");
    append::commit(kv, &blind(2, "third").await).await.unwrap();
    assert_eq!(owner.head().await.last, Seq(2));
}

async fn windows_are_kept_per_device(kv: &dyn Kv) {
    let owner = direct(kv, "anna", "ben").await;
    for first in (2..=200).step_by(33) {
        owner.messages(device("anna", 1), first, 33).await;
    }
    owner.messages(device("anna", 7), 5, 1).await;
    let senders = [device("anna", 7), device("ben", 1), device("anna", 1)];
    let (_, head, windows) = append::load_windows(kv, owner.id, &senders).await.unwrap();
    let windows: Vec<_> = windows.into_iter().map(Result::unwrap).collect();
    assert_eq!(windows[0].sends, [(ClientSeq(5), head.last)]);
    assert!(windows[1].sends.is_empty());
    assert_eq!(windows[2].sends.len(), SEND_WINDOW);
    assert_eq!(windows[2].sends.last(), Some(&(ClientSeq(232), Seq(232))));
    let nobody = append::load_windows(kv, group(9), &senders[..1]).await.unwrap();
    assert_eq!((nobody.1, nobody.2[0].as_ref().unwrap().sends.len()), (Head::default(), 0));
}

async fn a_damaged_window_hides_no_other(kv: &dyn Kv) {
    use crate::keys::window::WindowKey;
    let owner = direct(kv, "anna", "ben").await;
    owner.messages(device("anna", 1), 2, 3).await;
    owner.messages(device("ben", 2), 1, 1).await;
    let senders = [device("anna", 1), device("ben", 2)];
    let damaged = WindowKey { conversation: owner.id, user: senders[0].user, device: senders[0].device };
    let mut tx = kv.begin();
    tx.set(&damaged.encode(), Bytes::from_static(b"nonsense"));
    tx.commit().await.unwrap();
    let (_, head, windows) = append::load_windows(kv, owner.id, &senders).await.unwrap();
    assert_eq!(windows[0].as_ref().unwrap_err().kind, WindowKey::KIND);
    assert_eq!(windows[1].as_ref().unwrap().sends, [(ClientSeq(1), head.last)]);
}

async fn late_duplicates_are_found(kv: &dyn Kv) {
    let owner = direct(kv, "anna", "ben").await;
    owner.messages(device("anna", 1), 10, 1).await;
    owner.messages(device("ben", 2), 1, 600).await;
    owner.messages(device("anna", 1), 20, 1).await;
    let find = async |client_seq, before| {
        let sender = device("anna", 1);
        let found =
            append::find_send(kv, owner.id, sender, ClientSeq(client_seq), Seq(before)).await.unwrap();
        if let Found::Entry(entry) = &found {
            assert_eq!((entry.sender, entry.client_seq), (sender, ClientSeq(client_seq)));
        }
        found
    };
    let last = owner.head().await.last.get();
    let entry = async |seq| {
        let page = owner.history("ben", HistoryFrom::Forward(Seq(seq)), 1).await.unwrap();
        Found::Entry(page.entries[0].clone())
    };
    for (client_seq, before, expected) in [
        (10, last + 1, entry(2).await),
        (1, last + 1, entry(1).await),
        (20, last + 1, entry(603).await),
        (20, last, Found::Absent),
        (15, last + 1, Found::Absent),
        (9, last + 1, Found::Absent),
    ] {
        assert_eq!(find(client_seq, before).await, expected, "client_seq {client_seq} before {before}");
    }
    trim::raise_floor(kv, owner.id, Seq(300)).await.unwrap();
    assert_eq!(find(10, last + 1).await, Found::Trimmed);
    assert_eq!(find(20, last + 1).await, entry(603).await);
    let nowhere = append::find_send(kv, group(9), device("anna", 1), ClientSeq(1), Seq(9)).await;
    assert_eq!(nowhere, Ok(Found::Absent));
}

async fn watermarks_only_rise(kv: &dyn Kv) {
    let owner = direct(kv, "anna", "ben").await;
    owner.messages(device("anna", 1), 2, 9).await;
    let marks = async |delivered: u64, read: u64| {
        let delivered = vec![(DeviceId::new(2).unwrap(), Seq(delivered))];
        let write = receipts::Write { conversation: owner.id, user: user("ben"), delivered, read: Seq(read) };
        receipts::persist(kv, &[write]).await.unwrap();
        let request = ListUsers { conversation: owner.id, after: None, limit: 10 };
        let page = receipts::page(kv, user("anna"), &request).await.unwrap();
        let ben = page.receipts.iter().find(|receipt| receipt.user == user("ben")).unwrap();
        (ben.delivered.get(), ben.read.get())
    };
    assert_eq!(marks(5, 0).await, (5, 0));
    assert_eq!(marks(3, 2).await, (5, 2));
    assert_eq!(marks(0, 7).await, (7, 7));
    assert_eq!(marks(8, 1).await, (8, 7));
    assert!(receipts::persist(kv, &[]).await.is_ok());
}

async fn trimming_keeps_the_newest(kv: &dyn Kv) {
    let owner = direct(kv, "anna", "ben").await;
    owner.messages(device("anna", 1), 2, 49).await;
    assert_eq!(trim::raise_floor(kv, group(9), Seq(3)).await, Ok(None));
    let stale = owner.batch(device("ben", 2), 1, vec![message("stale")]).await.unwrap();
    for (floor, expected) in [(0, 1), (20, 20), (10, 20), (500, 50)] {
        let head = trim::raise_floor(kv, owner.id, Seq(floor)).await.unwrap().unwrap();
        assert_eq!((head.floor, head.last), (Seq(expected), Seq(50)), "floor {floor}");
        let page = owner.history("ben", HistoryFrom::Forward(Seq(1)), 1_000).await.unwrap();
        assert_eq!(seqs(&page.entries), range(expected, 50));
        assert_eq!(page.floor, Seq(expected));
    }
    assert_eq!(
        append::commit(kv, &stale).await,
        Err(CommitError::Conflict),
        "the owner has to learn of the floor"
    );
    owner.messages(device("anna", 1), 51, 2_200).await;
    let entry = |seq| EntryKey { conversation: owner.id, seq: Seq(seq) }.encode();
    let mut floor: u64 = 50;
    while floor < 2_250 {
        floor = floor.saturating_add(kv.cleared_keys_max()).min(2_250);
        let head = trim::raise_floor(kv, owner.id, Seq(9_999)).await.unwrap().unwrap();
        assert_eq!(head.floor, Seq(floor), "in the largest steps that the store takes");
        let below = RangeQuery::new(entry(0), entry(floor), 1);
        assert_eq!(kv.begin().range(below).await, Ok(Vec::new()), "nothing is left below {floor}");
    }
}

async fn damage_is_found_when_read(kv: &dyn Kv) {
    let owner = direct(kv, "anna", "ben").await;
    owner.messages(device("anna", 1), 2, 9).await;
    let key = EntryKey { conversation: owner.id, seq: Seq(5) }.encode();
    let other = EntryKey { conversation: owner.id, seq: Seq(6) }.encode();
    let healthy = kv.begin().get(&key).await.unwrap().unwrap();
    let elsewhere = kv.begin().get(&other).await.unwrap().unwrap();
    let mut flipped = healthy.to_vec();
    flipped[9] ^= 4;
    for damaged in [None, Some(Bytes::from(flipped)), Some(elsewhere), Some(Bytes::new())] {
        let mut tx = kv.begin();
        match &damaged {
            Some(record) => tx.set(&key, record.clone()),
            None => tx.clear(&key),
        }
        tx.commit().await.unwrap();
        for from in [HistoryFrom::Forward(Seq(2)), HistoryFrom::Backward(None), HistoryFrom::Forward(Seq(5))]
        {
            let error = owner.history("ben", from, 100).await.unwrap_err();
            let QueryError::Store(StoreError::Corrupt(corrupt)) = error else { panic!("{error}") };
            assert_eq!((corrupt.kind, corrupt.id), ("entry", format!("{} 5", owner.id)));
        }
        let before = owner.history("ben", HistoryFrom::Backward(Some(Seq(4))), 100).await.unwrap();
        assert_eq!(seqs(&before.entries), range(1, 4), "the rest can be read");
    }
}
