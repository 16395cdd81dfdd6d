//! Sync, history, lists, and who may see what.

use super::*;
use tern_protocol::limits::{PAGE_BYTES_MAX, PAGE_ROWS_MAX};

cases! {
    /// Every case.
    pub(super) const CASES;
    history_goes_both_ways
    pages_are_bounded_by_bytes
    membership_cuts_exactly
    direct_chats_are_nobodys_business
    sync_tells_what_is_missing
    sync_starts_where_it_is_told
    sync_pages_never_leave_a_hole
    sync_pages_have_a_bounded_number_of_lines
    receipts_of_direct_chats_are_synced
    watermarks_are_synced_when_they_moved
    unread_messages_are_counted
    lists_come_in_pages
    a_chat_with_oneself_works
}

fn ask(known: &[(ConversationId, u64)]) -> Sync {
    let mut known: Vec<_> = known.iter().map(|(id, seq)| Known::entries(*id, Seq(*seq))).collect();
    known.sort_by_key(|known| known.conversation);
    Sync { known, after: None, until: None, latest: None }
}

async fn synced(kv: &dyn Kv, name: &str, request: &Sync) -> SyncPage {
    sync::sync(kv, user(name), request).await.unwrap()
}

async fn history_goes_both_ways(kv: &dyn Kv) {
    let owner = direct(kv, "anna", "ben").await;
    owner.messages(device("anna", 1), 2, 9).await;
    trim::raise_floor(kv, owner.id, Seq(3)).await.unwrap();
    use HistoryFrom::{Backward, Forward};
    for (from, limit, expected) in [
        (Forward(Seq(1)), 3, range(3, 5)),
        (Forward(Seq(0)), 100, range(3, 10)),
        (Forward(Seq(9)), 3, range(9, 10)),
        (Forward(Seq(11)), 3, vec![]),
        (Backward(None), 3, range(8, 10)),
        (Backward(Some(Seq(5))), 2, range(4, 5)),
        (Backward(Some(Seq(4))), 100, range(3, 4)),
        (Backward(Some(Seq(99))), 1, range(10, 10)),
        (Backward(Some(Seq(2))), 3, vec![]),
    ] {
        let page = owner.history("ben", from, limit).await.unwrap();
        assert_eq!(seqs(&page.entries), expected, "{from:?} {limit}");
        assert_eq!((page.floor, page.head), (Seq(3), Seq(10)));
    }
}

async fn pages_are_bounded_by_bytes(kv: &dyn Kv) {
    let owner = direct(kv, "anna", "ben").await;
    let large = "x".repeat(60_000);
    for n in 0..20 {
        owner.append(device("anna", 1), 2 + n, vec![message(&large)]).await;
    }
    for from in [HistoryFrom::Forward(Seq(1)), HistoryFrom::Backward(None)] {
        let page = owner.history("ben", from, 1_000).await.unwrap();
        let bytes: usize = page.entries.iter().map(|entry| encode_entry(entry).len()).sum();
        assert!((PAGE_BYTES_MAX..PAGE_BYTES_MAX + 90_000).contains(&bytes), "{bytes}");
    }
    let state = &synced(kv, "ben", &ask(&[])).await.conversations[0];
    assert!(state.complete_to < state.head);
    assert_eq!(seqs(&state.entries), range(1, state.complete_to.get()));
}

async fn membership_cuts_exactly(kv: &dyn Kv) {
    let owner = Owner { kv, id: group(1) };
    let anna = device("anna", 1);
    owner.create(&["anna", "ben"]).await;
    owner.messages(anna, 2, 3).await;
    let left = Membership { role: Role::Member, joined: Seq(1), left: None };
    let removed = owner
        .change_member(anna, 5, "ben", Change::Remove { member: user("ben") }, |seq| Membership {
            left: Some(seq),
            ..left
        })
        .await;
    assert_eq!(removed, Seq(5));
    let joined = owner
        .change_member(anna, 6, "carl", Change::Add { members: vec![user("carl")] }, |seq| Membership {
            joined: seq,
            ..left
        })
        .await;
    owner.messages(anna, 7, 4).await;
    let visible = async |name: &str| {
        let page = owner.history(name, HistoryFrom::Forward(Seq(0)), 100).await.unwrap();
        let back = owner.history(name, HistoryFrom::Backward(None), 100).await.unwrap();
        assert_eq!(page, back);
        let state = synced(kv, name, &ask(&[])).await.conversations.remove(0);
        assert_eq!(state.entries, page.entries);
        assert_eq!((state.head, state.floor, state.complete_to), (page.head, page.floor, page.head));
        let listed = list::conversations(kv, user(name), &ListConversations { after: None, limit: 9 }).await;
        let listed = listed.unwrap().conversations.remove(0);
        assert_eq!(listed.entries.last(), page.entries.last());
        assert_eq!(listed.time, page.entries.last().unwrap().time, "no later time is given away");
        assert_eq!((listed.role, &listed.title), (state.role, &state.title));
        let title = if state.role.is_some() { "Tern" } else { "" };
        assert_eq!(state.title, title, "the title may be from after the end");
        (seqs(&page.entries), state.role)
    };
    assert_eq!(visible("anna").await, (range(1, 10), Some(Role::Owner)));
    assert_eq!(visible("ben").await, (range(1, 5), None));
    assert_eq!(visible("carl").await, (range(joined.get(), 10), Some(Role::Member)));
    assert_eq!(owner.history("dora", HistoryFrom::Backward(None), 9).await, Err(QueryError::NotMember));
    let request = ListUsers { conversation: owner.id, after: None, limit: 9 };
    assert_eq!(list::members(kv, user("ben"), &request).await, Err(QueryError::NotMember));
    assert_eq!(receipts::page(kv, user("ben"), &request).await, Err(QueryError::NotMember));
    assert_eq!(list::members(kv, user("anna"), &request).await.unwrap().count, 2);
    let up_to_date = synced(kv, "ben", &ask(&[(owner.id, 5)])).await;
    assert!(up_to_date.conversations.is_empty(), "nothing after the end");
    // What retention does to the log that went on without him is not for him to see.
    for (floor, first) in [(4, 4), (7, 6), (9, 6)] {
        trim::raise_floor(kv, owner.id, Seq(floor)).await.unwrap();
        let page = owner.history("ben", HistoryFrom::Forward(Seq(1)), 9).await.unwrap();
        assert_eq!((page.floor, page.head), (Seq(first), Seq(5)));
        let state = synced(kv, "ben", &ask(&[])).await.conversations.remove(0);
        assert_eq!((state.floor, state.head, state.complete_to), (Seq(first), Seq(5), Seq(5)));
    }
    // Added again, ben sees from there on; what was before is gone for him.
    let again = owner
        .change_member(anna, 11, "ben", Change::Add { members: vec![user("ben")] }, |seq| Membership {
            joined: seq,
            left: None,
            ..left
        })
        .await;
    assert_eq!(visible("ben").await, (vec![again.get()], Some(Role::Member)));
    let resumed = synced(kv, "ben", &ask(&[(owner.id, 5)])).await;
    assert_eq!(seqs(&resumed.conversations[0].entries), [again.get()]);
    assert_eq!(
        resumed.conversations[0].floor, again,
        "so the device knows that it cannot get what is between"
    );
}

async fn direct_chats_are_nobodys_business(kv: &dyn Kv) {
    let owner = direct(kv, "anna", "ben").await;
    let nothing = ConversationId::direct(user("anna"), user("carl"));
    for id in [owner.id, nothing, group(7)] {
        let other = Owner { kv, id };
        assert_eq!(other.history("carl", HistoryFrom::Backward(None), 9).await, Err(QueryError::Unknown));
        let request = ListUsers { conversation: id, after: None, limit: 9 };
        assert_eq!(list::members(kv, user("carl"), &request).await, Err(QueryError::Unknown));
        assert_eq!(receipts::page(kv, user("carl"), &request).await, Err(QueryError::Unknown));
    }
    assert!(synced(kv, "carl", &ask(&[(owner.id, 0)])).await.conversations.is_empty());
}

async fn sync_tells_what_is_missing(kv: &dyn Kv) {
    for n in 1..=3 {
        let owner = Owner { kv, id: group(n) };
        owner.create(&["anna", "ben"]).await;
        owner.messages(device("anna", 1), 2, 99).await;
    }
    let page = synced(kv, "ben", &ask(&[(group(1), 100), (group(2), 40), (group(3), 250)])).await;
    assert_eq!(page.covered_until, None);
    let [behind, ahead] = &page.conversations[..] else { panic!("{page:?}") };
    assert_eq!((behind.conversation, behind.kind, behind.peer), (group(2), Kind::Group, None));
    assert_eq!((behind.title.as_str(), behind.head, behind.complete_to), ("Tern", Seq(100), Seq(100)));
    assert_eq!((behind.time, behind.role), (WallMillis(1_100), Some(Role::Member)));
    assert_eq!(seqs(&behind.entries), range(41, 100));
    assert_eq!(
        (ahead.conversation, ahead.head),
        (group(3), Seq(100)),
        "a device that knows more is told, too"
    );
    assert!(ahead.entries.is_empty());
    let ranged = Sync { after: Some(group(1)), until: Some(group(2)), ..ask(&[]) };
    let ids: Vec<_> = synced(kv, "ben", &ranged).await.conversations.iter().map(|c| c.conversation).collect();
    assert_eq!(ids, [group(2)]);
}

async fn sync_starts_where_it_is_told(kv: &dyn Kv) {
    let owner = Owner { kv, id: group(1) };
    owner.create(&["anna", "ben"]).await;
    owner.messages(device("anna", 1), 2, 99).await;
    trim::raise_floor(kv, owner.id, Seq(50)).await.unwrap();
    for (known, latest, expected) in [
        (None, None, range(50, 100)),
        (None, Some(3), range(98, 100)),
        (None, Some(500), range(50, 100)),
        (Some(10), None, range(50, 100)),
        (Some(10), Some(3), range(50, 100)),
        (Some(97), None, range(98, 100)),
        (Some(99), None, range(100, 100)),
    ] {
        let known: Vec<_> = known.map(|seq| (owner.id, seq)).into_iter().collect();
        let page = synced(kv, "ben", &Sync { latest, ..ask(&known) }).await;
        let [state] = &page.conversations[..] else { panic!("{known:?} {latest:?}: {page:?}") };
        assert_eq!(seqs(&state.entries), expected, "{known:?} {latest:?}");
        assert_eq!((state.floor, state.complete_to), (Seq(50), Seq(100)));
    }
}

async fn sync_pages_never_leave_a_hole(kv: &dyn Kv) {
    let lengths = [3_000u64, 1, 3_000, 40, 2];
    for (n, length) in (1..).zip(lengths) {
        let owner = Owner { kv, id: group(n) };
        owner.create(&["anna", "ben"]).await;
        owner.messages(device("anna", 1), 2, length).await;
    }
    let mut request = ask(&[]);
    let mut have: BTreeMap<ConversationId, u64> = BTreeMap::new();
    for round in 0.. {
        assert!(round < 10, "it ends");
        let page = synced(kv, "ben", &request).await;
        for state in &page.conversations {
            assert_eq!(seqs(&state.entries), range(1, state.complete_to.get()));
            let mut complete_to = state.complete_to;
            while complete_to < state.head {
                let owner = Owner { kv, id: state.conversation };
                let more =
                    owner.history("ben", HistoryFrom::Forward(complete_to.next()), 1_000).await.unwrap();
                assert_eq!(more.entries[0].seq, complete_to.next());
                complete_to = more.entries.last().unwrap().seq;
            }
            assert!(have.insert(state.conversation, complete_to.get()).is_none(), "told once");
        }
        match page.covered_until {
            Some(id) => request.after = Some(id),
            None => break,
        }
    }
    let expected: BTreeMap<_, _> = (1..).map(group).zip(lengths.map(|length| length + 1)).collect();
    assert_eq!(have, expected);
}

async fn sync_pages_have_a_bounded_number_of_lines(kv: &dyn Kv) {
    let count = PAGE_ROWS_MAX + 20;
    let mut expected = Vec::new();
    for n in 0..count {
        let mut id = [n as u8; 16];
        id[0] = (n >> 8) as u8;
        let owner = Owner { kv, id: ConversationId::group_from_random(id) };
        owner.create(&["anna"]).await;
        expected.push(owner.id);
    }
    expected.sort();
    let first = synced(kv, "anna", &ask(&[])).await;
    assert_eq!(first.conversations.len(), PAGE_ROWS_MAX);
    assert_eq!(first.covered_until, Some(expected[PAGE_ROWS_MAX - 1]));
    let second = synced(kv, "anna", &Sync { after: first.covered_until, ..ask(&[]) }).await;
    assert_eq!((second.conversations.len(), second.covered_until), (20, None));
    let ids: Vec<_> =
        first.conversations.iter().chain(&second.conversations).map(|c| c.conversation).collect();
    assert_eq!(ids, expected);
}

async fn receipts_of_direct_chats_are_synced(kv: &dyn Kv) {
    let owner = direct(kv, "anna", "ben").await;
    let known = ask(&[(owner.id, 1)]);
    assert!(synced(kv, "anna", &known).await.conversations.is_empty(), "nothing to tell");
    let delivered = vec![(DeviceId::new(5).unwrap(), Seq(1))];
    let write = receipts::Write { conversation: owner.id, user: user("ben"), delivered, read: Seq(0) };
    receipts::persist(kv, &[write]).await.unwrap();
    let state = synced(kv, "anna", &known).await.conversations.remove(0);
    assert_eq!((state.kind, state.peer), (Kind::Direct, Some(user("ben"))));
    assert_eq!((state.peer_delivered, state.peer_read, state.read), (Seq(1), Seq(0), Seq(0)));
    assert_eq!((state.entries.len(), state.complete_to), (0, Seq(1)));
}

async fn watermarks_are_synced_when_they_moved(kv: &dyn Kv) {
    let chat = direct(kv, "anna", "ben").await;
    chat.messages(device("anna", 1), 2, 4).await;
    let crowd = Owner { kv, id: ConversationId::group_from_random([200; 16]) };
    crowd.create(&["anna", "ben"]).await;
    crowd.messages(device("ben", 2), 1, 4).await;
    let write = |conversation, name, delivered: u64, read| receipts::Write {
        conversation,
        user: user(name),
        delivered: vec![(DeviceId::new(5).unwrap(), Seq(delivered))],
        read: Seq(read),
    };
    // Whether a device that has all entries and knows (read, peer_delivered, peer_read) is told about it.
    let told = async |id, marks: (u64, u64, u64)| {
        let known = Known {
            read: Seq(marks.0),
            peer_delivered: Seq(marks.1),
            peer_read: Seq(marks.2),
            ..Known::entries(id, Seq(5))
        };
        let page = synced(kv, "anna", &Sync { known: vec![known], ..ask(&[]) }).await;
        let line = page.conversations.into_iter().find(|state| state.conversation == id);
        if let Some(state) = &line {
            assert_eq!((state.entries.len(), state.complete_to), (0, Seq(5)), "watermarks cost no entries");
        }
        line.is_some()
    };
    for id in [chat.id, crowd.id] {
        assert!(!told(id, (0, 0, 0)).await, "nobody has read anything");
    }
    receipts::persist(kv, &[write(chat.id, "ben", 4, 2), write(chat.id, "anna", 5, 3)]).await.unwrap();
    receipts::persist(kv, &[write(crowd.id, "ben", 5, 5), write(crowd.id, "anna", 5, 4)]).await.unwrap();
    for (marks, expected) in [
        ((0, 0, 0), true),
        ((3, 4, 2), false),
        ((2, 4, 2), true),
        ((3, 3, 2), true),
        ((3, 4, 1), true),
        ((5, 5, 5), false),
    ] {
        assert_eq!(told(chat.id, marks).await, expected, "{marks:?}");
    }
    for (marks, expected) in [((0, 0, 0), true), ((3, 9, 9), true), ((4, 0, 0), false), ((5, 0, 0), false)] {
        assert_eq!(told(crowd.id, marks).await, expected, "{marks:?}");
    }
}

async fn unread_messages_are_counted(kv: &dyn Kv) {
    let owner = Owner { kv, id: group(1) };
    owner.create(&["anna", "ben"]).await;
    let listed = async |name: &str| {
        let page =
            list::conversations(kv, user(name), &ListConversations { after: None, limit: 9 }).await.unwrap();
        let state = &page.conversations[0];
        assert_eq!(seqs(&state.entries), [state.head.get()]);
        (state.unread, state.read.get())
    };
    assert_eq!(listed("ben").await, (0, 0), "being added is no message");
    owner.messages(device("anna", 1), 2, 5).await;
    owner.messages(device("ben", 2), 1, 5).await;
    assert_eq!(listed("ben").await, (5, 0), "one's own do not count");
    let write =
        receipts::Write { conversation: owner.id, user: user("ben"), delivered: vec![], read: Seq(3) };
    receipts::persist(kv, &[write]).await.unwrap();
    assert_eq!(listed("ben").await, (3, 3));
    trim::raise_floor(kv, owner.id, Seq(6)).await.unwrap();
    assert_eq!(listed("ben").await, (1, 3), "what is gone does not count");
    owner.messages(device("anna", 1), 7, 300).await;
    assert_eq!(listed("ben").await, (100, 3), "up to 100");
}

async fn lists_come_in_pages(kv: &dyn Kv) {
    let names = ["anna", "ben", "carl", "dora", "emil"];
    for n in 1..=5 {
        Owner { kv, id: group(n) }.create(&names).await;
    }
    let mut ids = Vec::new();
    let mut request = ListConversations { after: None, limit: 2 };
    loop {
        let page = list::conversations(kv, user("ben"), &request).await.unwrap();
        ids.extend(page.conversations.iter().map(|state| state.conversation));
        match page.next {
            Some(next) => request.after = Some(next),
            None => break,
        }
    }
    assert_eq!(ids, (1..=5).map(group).collect::<Vec<_>>());
    let mut users = Vec::new();
    let mut receipt_users = Vec::new();
    let mut request = ListUsers { conversation: group(1), after: None, limit: 2 };
    loop {
        let page = list::members(kv, user("ben"), &request).await.unwrap();
        let receipts = receipts::page(kv, user("ben"), &request).await.unwrap();
        assert_eq!((page.count, page.next), (5, receipts.next));
        users.extend(page.members.iter().map(|(user, ..)| *user));
        receipt_users.extend(receipts.receipts.iter().map(|receipt| receipt.user));
        match page.next {
            Some(next) => request.after = Some(next),
            None => break,
        }
    }
    let mut expected: Vec<_> = names.iter().map(|name| user(name)).collect();
    expected.sort();
    assert_eq!(users, expected);
    assert_eq!(receipt_users, expected);
}

async fn a_chat_with_oneself_works(kv: &dyn Kv) {
    let owner = direct(kv, "anna", "anna").await;
    let state = synced(kv, "anna", &ask(&[])).await.conversations.remove(0);
    assert_eq!(
        (state.conversation, state.peer, seqs(&state.entries)),
        (owner.id, Some(user("anna")), vec![1])
    );
    assert_eq!(append::load(kv, owner.id).await.unwrap().1.unwrap().members.len(), 1);
}
