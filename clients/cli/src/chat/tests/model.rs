//! What events do.

use ratatui::crossterm::event::MouseButton;
use tern_client::{ErrorCode, ReceiptCount, ReceiptsMoved, SendOk, Target, UserReceipt, WireError};

use super::*;
use crate::chat::drafts;
use crate::chat::lost::{Key, Lost};
use crate::chat::model::{Dialog, ENTRIES_MAX, PENDING_MAX, Pane};

fn sent(local: u64, seq: u64) -> Event {
    let time = WallMillis(NOON_MS + seq * 60_000);
    Event::Sent(local, Ok(SendOk { conversation: with("bob"), seq: Seq(seq), time, duplicate: false }))
}

fn receipt(name: &str, delivered: u64, read: u64) -> UserReceipt {
    UserReceipt { user: user(name), delivered: Seq(delivered), read: Seq(read) }
}

fn moved(id: ConversationId, users: Vec<UserReceipt>, counts: Vec<ReceiptCount>) -> Event {
    Event::Client(ClientEvent::Receipts(ReceiptsMoved { conversation: id, users, counts }))
}

fn unread(case: &Case, id: ConversationId) -> u32 {
    case.model.conversations[&id].unread
}

fn read(id: ConversationId, seq: u64) -> Effect {
    Effect::Read { conversation: id, seq: Seq(seq) }
}

#[test]
fn the_list_is_asked_for_once_and_page_by_page() {
    let mut case = Case::new();
    assert_eq!(case.taken(), [Effect::List { after: None }]);
    let conversations = vec![row(with("bob"), Some("bob"), "", 0, None)];
    case.on(Event::Listed(Ok(ConversationPage { conversations, next: Some(with("bob")) })));
    case.connection(ConnectionState::Connecting);
    case.connection(ConnectionState::Online { user: user("alice") });
    assert_eq!(case.taken(), [Effect::List { after: Some(with("bob")) }]);
}

#[test]
fn what_others_wrote_is_unread_until_it_is_seen() {
    let mut case = Case::new();
    case.listed(vec![row(with("bob"), Some("bob"), "", 3, Some(entry(9, "bob", text("nine"))))]);
    for (seq, sender, counted) in [(9, "bob", 3), (10, "bob", 4), (11, "alice", 4), (12, "bob", 5)] {
        case.entry(with("bob"), entry(seq, sender, text("more")));
        assert_eq!(unread(&case, with("bob")), counted, "{seq}");
    }
    // The list knows of 9 entries, three of them unread; 10 and 12 came meanwhile.
    case.listed(vec![row(with("bob"), Some("bob"), "", 3, Some(entry(9, "bob", text("nine"))))]);
    assert_eq!(unread(&case, with("bob")), 5);
    case.taken();
    case.key(KeyCode::Enter);
    let page = Effect::Page { conversation: with("bob"), before: None };
    assert_eq!(case.taken(), [page, Effect::Repaint, read(with("bob"), 12)]);
    assert_eq!(unread(&case, with("bob")), 0);
    // Nobody sees it behind another window, a dialog, or further down.
    case.on(Event::Focus(false));
    case.entry(with("bob"), entry(13, "bob", text("unseen")));
    assert_eq!((case.taken(), unread(&case, with("bob"))), (vec![], 1));
    case.on(Event::Focus(true));
    assert_eq!(case.taken(), [read(with("bob"), 13)]);
    case.key(KeyCode::F(1));
    case.entry(with("bob"), entry(14, "bob", text("unseen")));
    assert_eq!(case.taken(), []);
    case.key(KeyCode::Esc);
    assert_eq!(case.taken(), [read(with("bob"), 14)]);
    // Read on another device.
    case.on(Event::Focus(false));
    case.entry(with("bob"), entry(15, "bob", text("unseen here")));
    case.on(moved(with("bob"), vec![receipt("alice", 15, 15)], vec![]));
    case.on(Event::Focus(true));
    assert_eq!((case.taken(), unread(&case, with("bob"))), (vec![], 0));
}

#[test]
fn a_message_is_queued_then_sent_then_delivered_then_read() {
    let mut case = Case::opened(1);
    case.connection(ConnectionState::Connecting);
    case.types("hello");
    case.key(KeyCode::Enter);
    let local = case.model.pending().next().unwrap().local;
    let target = Target::User(user("bob"));
    assert_eq!(case.taken(), [Effect::Send { local, target, text: "hello".into() }]);
    assert_eq!((case.pending(), case.mark("hello").0.as_str()), (vec![("hello", &Fate::Held)], "◷"));
    case.on(Event::Stored(local));
    assert_eq!((case.pending(), case.mark("hello").0.as_str()), (vec![("hello", &Fate::Queued)], "◷"));
    case.on(sent(local, 2));
    assert_eq!(case.mark("hello"), ("✓".into(), false));
    case.entry(with("bob"), entry(2, "alice", text("hello")));
    assert_eq!((case.pending(), case.mark("hello")), (vec![], ("✓".into(), false)));
    case.on(moved(with("bob"), vec![receipt("bob", 2, 1)], vec![]));
    assert_eq!(case.mark("hello"), ("✓✓".into(), false));
    case.on(moved(with("bob"), vec![receipt("bob", 2, 2)], vec![]));
    assert_eq!(case.mark("hello"), ("✓✓".into(), true));
}

#[test]
fn an_entry_may_come_before_the_answer_and_answers_for_its_own_message_only() {
    let mut case = Case::opened(1);
    for said in ["same", "same", "other"] {
        case.types(said);
        case.key(KeyCode::Enter);
    }
    case.entry(with("bob"), entry(2, "alice", text("same")));
    assert_eq!(case.pending(), [("same", &Fate::Held), ("other", &Fate::Held)]);
    case.on(sent(1, 2));
    case.entry(with("bob"), entry(3, "alice", text("same")));
    case.on(sent(2, 3));
    case.on(Event::Sent(3, Err("forbidden".into())));
    assert_eq!(case.pending(), [("other", &Fate::Refused("forbidden".into()))]);
    assert_eq!(case.mark("other").0, "✗");
    assert!(case.screen().contains("not sent: forbidden"));
}

#[test]
fn an_own_entry_may_come_with_a_page() {
    for answered_first in [true, false] {
        let mut case = Case::opened(1);
        case.types("hello");
        case.key(KeyCode::Enter);
        let local = case.model.pending().next().unwrap().local;
        if answered_first {
            case.on(sent(local, 2));
        }
        case.page(with("bob"), 2, 2, |_| text("hello"));
        if !answered_first {
            case.on(sent(local, 2));
        }
        assert_eq!(case.pending(), [], "it is there once");
        case.entry(with("bob"), entry(2, "alice", text("hello")));
        assert_eq!(case.pending(), []);
    }
}

#[test]
fn what_an_earlier_run_left_behind_is_decided_too() {
    let mut case = Case::opened(1);
    case.types("left");
    case.key(KeyCode::Enter);
    case.types("refused");
    case.key(KeyCode::Enter);
    for (seq, pending) in (5..).zip(&mut case.model.conversations.get_mut(&with("bob")).unwrap().pending) {
        (pending.client_seq, pending.fate) = (Some(ClientSeq(seq)), Fate::Queued);
    }
    let error = WireError {
        code: ErrorCode::Forbidden,
        text: "no".into(),
        retry_after_ms: 0,
        client_seq: ClientSeq(0),
    };
    let ok = SendOk { conversation: with("bob"), seq: Seq(2), time: WallMillis(NOON_MS), duplicate: false };
    for (client_seq, result) in [(6, Err(error)), (9, Ok(ok))] {
        let client_seq = ClientSeq(client_seq);
        case.on(Event::Client(ClientEvent::Recovered { conversation: with("bob"), client_seq, result }));
    }
    let fates = [("left", &Fate::Sent(Seq(2))), ("refused", &Fate::Refused("forbidden (no)".into()))];
    assert_eq!(case.pending(), fates);
}

#[test]
fn so_many_messages_may_wait() {
    let mut case = Case::opened(1);
    for _ in 0..PENDING_MAX + 2 {
        case.types("x");
        case.key(KeyCode::Enter);
    }
    assert_eq!(case.model.pending().count(), PENDING_MAX);
    assert_eq!(case.model.conversations[&with("bob")].input.text(), "xx", "kept, not lost");
    assert!(case.screen().contains("200 messages wait for the server"));
}

#[test]
fn in_a_group_everybody_counts() {
    let mut case = Case::new();
    case.listed(vec![row(group(), None, "Lunch", 0, Some(entry(2, "alice", text("hello"))))]);
    case.key(KeyCode::Enter);
    let count = |seq, delivered, read| ReceiptCount { seq: Seq(seq), delivered, read, members: 2 };
    for (users, counts, mark) in [
        (vec![receipt("alice", 2, 2)], vec![], ("✓", false)),
        (vec![], vec![count(2, 1, 1)], ("✓", false)),
        (vec![], vec![count(2, 2, 1)], ("✓✓", false)),
        (vec![], vec![count(3, 2, 2)], ("✓✓", true)),
    ] {
        case.on(moved(group(), users, counts));
        assert_eq!(case.mark("hello"), (mark.0.into(), mark.1));
    }
    // Asked for when it was opened.
    let mut case = Case::new();
    case.listed(vec![row(group(), None, "Lunch", 0, Some(entry(2, "alice", text("hello"))))]);
    case.key(KeyCode::Enter);
    assert!(case.taken().contains(&Effect::Receipts(group())));
    case.on(Event::Receipts(
        group(),
        Ok(vec![receipt("alice", 2, 2), receipt("bob", 2, 0), receipt("carol", 2, 2)]),
    ));
    assert_eq!(case.mark("hello"), ("✓✓".into(), false));
}

#[test]
fn scrolling_goes_to_the_beginning_and_asks_for_more() {
    let mut case = Case::opened(100);
    assert!(case.screen().contains("  message 100  "));
    for _ in 0..10 {
        case.key(KeyCode::PageUp);
    }
    let top = case.screen();
    assert!(top.contains("message 1 ") && !top.contains("message 99"), "{top}");
    case.on(Event::Key(KeyEvent::new(KeyCode::End, KeyModifiers::CONTROL)));
    for _ in 0..40 {
        case.mouse(MouseEventKind::ScrollUp, 49, 9);
    }
    assert_eq!(case.screen(), top);
    assert_eq!(case.taken(), [], "there is nothing before the beginning");

    let mut case = Case::new();
    case.listed(vec![row(with("bob"), Some("bob"), "", 0, Some(entry(300, "bob", text("message 300"))))]);
    case.key(KeyCode::Enter);
    case.page(with("bob"), 201, 300, |n| text(&format!("message {n}")));
    case.taken();
    case.on(Event::Key(KeyEvent::new(KeyCode::Home, KeyModifiers::CONTROL)));
    case.key(KeyCode::PageUp);
    assert_eq!(case.taken(), [Effect::Page { conversation: with("bob"), before: Some(Seq(201)) }], "once");
    let before = case.screen();
    case.page(with("bob"), 101, 200, |n| text(&format!("message {n}")));
    assert!(before.contains("loading…") && case.screen().contains("message 201 "));
    case.key(KeyCode::PageUp);
    assert!(case.screen().contains("message 190 "));
}

#[test]
fn what_is_being_read_stays_where_it_is() {
    let mut case = Case::opened(50);
    case.key(KeyCode::PageUp);
    let lines = |case: &Case| case.screen().lines().skip(3).take(17).map(str::to_owned).collect::<Vec<_>>();
    let before = lines(&case);
    case.entry(with("bob"), entry(51, "bob", text(&"long ".repeat(30))));
    let behind =
        |lines: Vec<String>| lines.iter().map(|l| l.chars().skip(24).collect()).collect::<Vec<String>>();
    assert_eq!(behind(lines(&case)), behind(before));
    assert!(case.screen().contains("1 new, "));
    assert_eq!(case.taken(), [], "not read");
    case.on(Event::Key(KeyEvent::new(KeyCode::End, KeyModifiers::CONTROL)));
    assert_eq!(case.taken(), [read(with("bob"), 51)]);
}

#[test]
fn entries_behind_a_gap_are_not_shown_as_if_there_were_none() {
    let mut case = Case::new();
    case.listed(vec![row(with("bob"), Some("bob"), "", 0, Some(entry(20, "bob", text("twenty"))))]);
    case.key(KeyCode::Enter);
    for seq in 5..10 {
        case.entry(with("bob"), entry(seq, "bob", text("early")));
    }
    assert!(!case.screen().contains("early"));
    case.page(with("bob"), 10, 20, |_| text("late"));
    assert!(case.screen().contains("early"));
}

#[test]
fn what_is_kept_is_bounded() {
    let mut case = Case::opened(1);
    let id = with("carol");
    for seq in 1..=ENTRIES_MAX as u64 + 10 {
        // Not through `update`, which sorts and lays out each time.
        case.model.conversation(id).unwrap().add(&entry(seq, "carol", text("x")), true);
    }
    assert_eq!(case.model.conversations[&id].back().count(), ENTRIES_MAX);
    assert!(!case.model.conversations[&id].has_older(), "no more is asked for");
}

#[test]
fn a_server_that_was_set_back_and_one_that_forgets() {
    let mut case = Case::opened(10);
    case.on(Event::Client(ClientEvent::Trimmed { conversation: with("bob"), from: Seq(1), to: Seq(4) }));
    let shown = case.screen();
    assert!(!shown.contains("message 4 ") && shown.contains("message 5 "), "{shown}");
    case.on(Event::Client(ClientEvent::Reset { conversation: with("bob"), cursor: Seq(10), head: Seq(3) }));
    assert_eq!(case.taken(), [Effect::Page { conversation: with("bob"), before: None }]);
    assert!(!case.screen().contains("message 10"));
    assert_eq!(case.model.conversations[&with("bob")].last_ms(), 0, "of what is gone");
    case.page(with("bob"), 1, 3, |n| text(&format!("message {n}")));
    assert_eq!(case.model.conversations[&with("bob")].last_ms(), NOON_MS + 3 * 60_000);
}

#[test]
fn a_server_that_was_restored() {
    let mut case = Case::opened(10);
    case.listed(vec![row(group(), None, "Lunch", 0, Some(entry(1, "dave", text("hello"))))]);
    assert!(case.screen().contains("Lunch"));
    case.taken();
    let epoch = tern_client::StoreEpoch::from_bytes([7; 16]);
    case.on(Event::Client(ClientEvent::HistoryReset { epoch }));
    case.on(Event::Client(ClientEvent::Connection(ConnectionState::Online { user: user("alice") })));
    let page = Effect::Page { conversation: with("bob"), before: None };
    assert_eq!(case.taken(), [page, Effect::List { after: None }]);
    let shown = case.screen();
    assert!(!shown.contains("message 10") && !shown.contains("Lunch"), "{shown}");
}

#[test]
fn a_new_conversation_with_one_or_with_several() {
    let new = |names: &str, title: &str| {
        let mut case = Case::new();
        case.taken();
        case.ctrl('n');
        case.types(names);
        case.key(KeyCode::Tab);
        case.types(title);
        case.key(KeyCode::Enter);
        case
    };
    let mut case = new("dave", "");
    let page = Effect::Page { conversation: with("dave"), before: None };
    assert_eq!(case.taken(), [Effect::SaveBook, page, Effect::Repaint]);
    assert_eq!((case.model.open, case.model.pane), (Some(with("dave")), Pane::Chat));
    assert_eq!(case.model.book.get(user("dave")), Some("dave"));
    case.types("hi");
    case.key(KeyCode::Enter);
    let target = Target::User(user("dave"));
    assert_eq!(case.taken(), [Effect::Send { local: 1, target, text: "hi".into() }]);

    let mut case = new("bob, carol bob alice", "Lunch");
    let create = Effect::Create { title: "Lunch".into(), members: vec![user("bob"), user("carol")] };
    assert_eq!(case.taken(), [create]);
    case.on(Event::Created(Ok(group())));
    assert_eq!(case.model.open, Some(group()));

    for (names, title, why) in [
        ("", "", "name somebody first"),
        ("bob carol", "", "a group needs a title"),
        ("bob ca\x1brol", "Lunch", "has a control character"),
    ] {
        let mut case = new(names, title);
        assert_eq!(case.taken(), []);
        assert!(case.screen().contains(why), "{}", case.screen());
    }
}

#[test]
fn who_is_in_a_group_and_what_they_are_called() {
    let mut case = Case::new();
    case.listed(vec![row(group(), None, "Lunch", 0, Some(entry(1, "dave", text("hello"))))]);
    case.key(KeyCode::Enter);
    case.taken();
    case.ctrl('g');
    assert_eq!(case.taken(), [Effect::Members(group())]);
    case.on(Event::Members(group(), Ok(vec![(user("alice"), Role::Member), (user("dave"), Role::Owner)])));
    let unnamed = case.model.book.name(user("dave"));
    assert!(case.screen().contains(&unnamed));
    case.key(KeyCode::Down);
    case.types("n");
    case.types("Dave");
    case.key(KeyCode::Enter);
    assert_eq!(case.taken(), [Effect::SaveBook]);
    assert!(!case.screen().contains(&unnamed), "{}", case.screen());
    for (key, typed, change) in [
        ("a", "bob", Some(Change::Add { members: vec![user("bob")] })),
        ("t", "Supper", Some(Change::Title { title: "Supper".into() })),
        ("l", "no", None),
        ("l", "yes", Some(Change::Leave)),
    ] {
        case.types(key);
        case.types(typed);
        case.key(KeyCode::Enter);
        let effects = change.map(|change| Effect::Change { conversation: group(), change });
        assert_eq!(case.taken(), effects.into_iter().collect::<Vec<_>>());
    }
    for typed in ["a", "bo\x1bb"] {
        case.types(typed);
    }
    case.key(KeyCode::Enter);
    assert_eq!(case.taken(), []);
    assert!(case.screen().contains("has a control character"), "{}", case.screen());
    case.on(Event::Changed(Err("forbidden: ask its owner".into())));
    assert!(case.screen().contains("forbidden: ask its owner"));
    case.key(KeyCode::Esc);
    case.entry(group(), entry(2, "alice", Change::Leave));
    assert!(case.screen().contains("you are no longer a member"));
}

#[test]
fn a_conversation_that_somebody_else_begins() {
    let mut case = Case::new();
    case.taken();
    case.entry(with("bob"), entry(1, "bob", text("knock knock")));
    assert_eq!(case.taken(), [], "the sender is the peer");
    let create = Change::Create { title: "Lunch".into(), members: vec![user("alice")] };
    case.entry(group(), entry(1, "bob", create));
    assert_eq!(case.taken(), []);
    let other = ConversationId::group_from_random([8; 16]);
    case.entry(other, entry(5, "bob", Change::Add { members: vec![user("alice")] }));
    assert_eq!(case.taken(), [Effect::Look(other)], "its title came before");
    case.on(Event::Looked(Ok(Some(row(other, None, "Supper", 0, None)))));
    let shown = case.screen();
    assert!(["bob  ", "Lunch", "Supper", "knock knock"].iter().all(|s| shown.contains(s)), "{shown}");
}

#[test]
fn a_click_opens_and_keys_choose() {
    let mut case = Case::new();
    let rows =
        ["bob", "carol"].map(|name| row(with(name), Some(name), "", 0, Some(entry(1, name, text("hi")))));
    case.listed(rows.into());
    case.mouse(MouseEventKind::Down(MouseButton::Left), 3, 4);
    let second = case.model.order[1];
    assert_eq!((case.model.open, case.model.pane), (Some(second), Pane::Chat));
    case.on(Event::Key(KeyEvent::new(KeyCode::Up, KeyModifiers::ALT)));
    assert_eq!(case.model.open, Some(case.model.order[0]));
    case.key(KeyCode::Tab);
    case.mouse(MouseEventKind::ScrollDown, 3, 4);
    assert_eq!((case.model.chosen, case.model.pane), (Some(second), Pane::List));
    case.mouse(MouseEventKind::Down(MouseButton::Left), 3, 20);
    assert_eq!(case.model.pane, Pane::List, "there is nothing");
}

#[test]
fn quitting_asks_only_when_something_would_be_lost() {
    let mut case = Case::opened(1);
    case.types("x");
    case.key(KeyCode::Enter);
    case.taken();
    case.ctrl('q');
    assert_eq!(case.taken(), [Effect::Quit], "it is stored before the client closes");
    case.model.me = None;
    case.ctrl('q');
    assert_eq!(case.taken(), []);
    assert!(case.screen().contains("Ctrl-Q again"));
    case.ctrl('q');
    assert_eq!(case.taken(), [Effect::Quit]);
}

#[test]
fn text_is_found_in_what_is_loaded() {
    let mut case = Case::opened(60);
    case.ctrl('f');
    case.types("MESSAGE 2");
    let found = |case: &Case| case.model.search.as_ref().unwrap().found.unwrap().get();
    assert_eq!(found(&case), 29);
    assert!(case.screen().contains("message 29 "));
    case.key(KeyCode::Enter);
    assert_eq!(found(&case), 28);
    case.key(KeyCode::Down);
    assert_eq!(found(&case), 29);
    for _ in 0..20 {
        case.key(KeyCode::Enter);
    }
    assert_eq!(found(&case), 2);
    assert!(case.screen().contains("no more of it in this conversation"), "{}", case.screen());
    case.key(KeyCode::Esc);
    assert_eq!(case.model.search, None);

    let mut case = Case::new();
    case.listed(vec![row(with("bob"), Some("bob"), "", 0, Some(entry(300, "bob", text("message 300"))))]);
    case.key(KeyCode::Enter);
    case.page(with("bob"), 201, 300, |n| text(&format!("message {n}")));
    case.ctrl('f');
    case.types("message 7");
    assert!(case.screen().contains("not found so far: scroll up for more"), "{}", case.screen());
    case.page(with("bob"), 1, 200, |n| text(&format!("message {n}")));
    case.key(KeyCode::Enter);
    assert_eq!(found(&case), 179 - 100);
}

#[test]
fn another_conversation_and_ctrl_l_draw_all_of_the_screen() {
    let mut case = Case::opened(1);
    case.listed(vec![row(with("carol"), Some("carol"), "", 0, Some(entry(2, "carol", text("hi"))))]);
    case.taken();
    let repaints = |case: &mut Case| case.taken().iter().filter(|e| **e == Effect::Repaint).count();
    case.key(KeyCode::Tab);
    case.key(KeyCode::Enter);
    assert_eq!(repaints(&mut case), 0, "it was open");
    case.on(Event::Key(KeyEvent::new(KeyCode::Up, KeyModifiers::ALT)));
    assert_eq!((case.model.open, repaints(&mut case)), (Some(with("carol")), 1));
    for dialog in [None, Some(KeyCode::F(1))] {
        dialog.into_iter().for_each(|key| case.key(key));
        case.ctrl('l');
        assert_eq!(repaints(&mut case), 1);
    }
    assert!(matches!(case.model.dialog, Some(Dialog::Help { .. })), "it stays");
}

#[test]
fn pasted_text_is_harmless() {
    let mut case = Case::opened(1);
    case.on(Event::Paste("two\nlines\x1b[31m".into()));
    assert_eq!(case.model.conversations[&with("bob")].input.text(), "two\nlines\u{fffd}[31m");
    case.ctrl('n');
    case.on(Event::Paste("dave\neve".into()));
    assert!(matches!(&case.model.dialog, Some(Dialog::New(new)) if new.names.text() == "dave eve"));
}

/// (what was lost; the key that answers; what is sent again)
#[test]
fn what_the_server_lost_is_asked_about() {
    let lost = |name: &str, n: u64, text: &str| {
        let key = Key { conversation: with(name), client_seq: ClientSeq(n), time_ms: NOON_MS + n };
        Lost { key, text: text.into() }
    };
    let keys = |found: &[Lost]| found.iter().map(|lost| lost.key).collect::<Vec<_>>();
    let to_bob = [lost("bob", 7, "one\x1b"), lost("bob", 8, "two")];
    let to_carol = [lost("carol", 9, "three")];
    for (answer, sent) in [(KeyCode::Enter, vec!["one\x1b", "two"]), (KeyCode::Esc, vec![])] {
        let mut case = Case::opened(1);
        case.taken();
        case.on(Event::Client(ClientEvent::CaughtUp));
        assert_eq!(case.taken(), [Effect::FindLost]);
        case.on(Event::Lost([&to_bob[..], &to_carol].concat()));
        let shown = case.screen();
        for expected in ["bob: 2 messages lost", "14:00  one\u{fffd}", "14:00  two", "✗ 1 message lost"] {
            assert!(shown.contains(expected), "{expected} is missing:\n{shown}");
        }
        case.types("x");
        assert_eq!(case.taken(), [], "other keys do nothing");
        case.key(answer);
        let effects = case.taken();
        let texts = effects.iter().filter_map(|effect| match effect {
            Effect::Send { target, text, .. } => {
                assert_eq!(*target, Target::User(user("bob")));
                Some(text.as_str())
            }
            _ => None,
        });
        assert_eq!(texts.collect::<Vec<_>>(), sent);
        assert!(effects.contains(&Effect::Asked(keys(&to_bob))), "{effects:?}");
        assert_eq!(case.model.dialog, None);
        // The others when their conversation is opened.
        case.taken();
        case.on(Event::Key(KeyEvent::new(KeyCode::Down, KeyModifiers::ALT)));
        assert_eq!(case.model.dialog, Some(Dialog::Lost(with("carol"))));
        case.key(KeyCode::Esc);
        assert!(case.taken().contains(&Effect::Asked(keys(&to_carol))));
    }
    // Nobody who is typing is interrupted, and no more are sent than may wait.
    let mut case = Case::opened(1);
    case.types("x");
    case.on(Event::Lost((0..PENDING_MAX as u64 + 1).map(|n| lost("bob", n, "again")).collect()));
    assert_eq!(case.model.dialog, None);
    case.key(KeyCode::Tab);
    case.key(KeyCode::Enter);
    assert_eq!(case.model.dialog, Some(Dialog::Lost(with("bob"))));
    assert!(case.screen().contains("and 184 more"), "{}", case.screen());
    case.key(KeyCode::Enter);
    assert_eq!((case.model.pending().count(), case.model.conversations[&with("bob")].lost.len()), (200, 1));
    assert!(case.screen().contains("200 messages wait for the server"));
}

#[test]
fn what_was_being_written_is_kept() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("drafts");
    let mut case = Case::opened(1);
    drafts::save(&path, &case.model).unwrap();
    assert!(!path.exists(), "there is nothing");
    case.types("half a ");
    case.on(Event::Paste("\"line\"\nand more 👍".into()));
    drafts::save(&path, &case.model).unwrap();

    // In another run the conversation may not be known; whom it is with, the names tell.
    for mut next in [Case::opened(1), Case::new()] {
        drafts::load(&path, &mut next.model);
        assert_eq!(next.model.conversations[&with("bob")].input.text(), "half a \"line\"\nand more 👍");
        next.model.conversations.get_mut(&with("bob")).unwrap().input.take();
        drafts::save(&path, &next.model).unwrap();
        let mut last = Case::new();
        drafts::load(&path, &mut last.model);
        assert!(last.model.conversations.is_empty(), "sent or thrown away");
        drafts::save(&path, &case.model).unwrap();
    }
    // Bounded, and what somebody else has put there does no harm.
    for n in 0..30 {
        let c = case.model.conversation(with(&n.to_string())).unwrap();
        assert!(c.input.insert(&"x".repeat(60_000)));
    }
    case.model.sort();
    drafts::save(&path, &case.model).unwrap();
    assert!(path.metadata().unwrap().len() < 1 << 20);
    let mut case = Case::new();
    for n in 0..150 {
        let c = case.model.conversation(with(&n.to_string())).unwrap();
        assert!(c.input.insert("x"));
    }
    case.model.sort();
    drafts::save(&path, &case.model).unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap().matches("\"x\"").count(), 100);
    std::fs::write(&path, "nonsense").unwrap();
    let mut next = Case::new();
    drafts::load(&path, &mut next.model);
    assert!(next.model.conversations.is_empty());
}
