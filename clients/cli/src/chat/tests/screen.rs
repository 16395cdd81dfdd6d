//! What is seen.

use tern_client::{Lost, Stop};

use super::*;
use crate::chat::layout;

fn busy() -> Case {
    let mut case = Case::new();
    case.listed(vec![
        row(with("bob"), Some("bob"), "", 0, Some(entry(4, "bob", text("see you there")))),
        row(group(), None, "Lunch", 12, Some(entry(3, "carol", text("pizza?")))),
        row(with("carol"), Some("carol"), "", 0, Some(entry(2, "alice", text("thanks")))),
    ]);
    case.key(KeyCode::Enter);
    case.entry(with("bob"), entry(1, "alice", text("hello bob")));
    case.entry(
        with("bob"),
        entry(2, "alice", text("lunch at the usual place, or shall we try something new?")),
    );
    case.entry(with("bob"), entry(3, "bob", text("the usual")));
    case
}

#[test]
fn a_screen_of_80_by_24() {
    let mut case = busy();
    case.connection(ConnectionState::Offline {
        reason: Lost::Unreachable("127.0.0.1:7443: Connection refused (os error 111)".into()),
        retry_in: Duration::from_millis(2500),
    });
    case.types("on my way");
    case.key(KeyCode::Enter);
    case.types("and hungry");
    let wanted = "
 Tern  alice        ○ offline, retry in 3 s: 127.0.0.1:7443: Connection refused
▌bob              15:00 │ bob
▌◷ on my way            │───────────────────────────────────────────────────────
 Lunch            14:03 │ Not connected: 127.0.0.1:7443: Connection refused (os
 carol: pizza?      12  │ error 111)
 carol            14:02 │ What you write is kept and goes out when the
 ✓ thanks               │ connection is back.
                        │
                        │
                        │
                        │ older messages come with the connection
                        │ ────────────────── Sun 22 Nov 2026 ──────────────────
                        │ you
                        │   hello bob                                  14:01 ✓
                        │   lunch at the usual place, or shall we try
                        │   something new?                             14:02 ✓
                        │ bob
                        │   the usual                                  14:03
                        │   see you there                              14:04
                        │ you
                        │   on my way                                  15:00 ◷
                        │───────────────────────────────────────────────────────
                        │> and hungry
 Enter send  F1 help  Tab list  Ctrl-Q quit  PgUp back  Ctrl-F find  Ctrl-G info";
    assert_eq!(case.screen(), wanted.trim_start_matches('\n'), "\n{}", case.screen());
}

#[test]
fn a_screen_of_200_by_60() {
    let case = busy().sized(200, 60);
    let shown = case.screen();
    let lines: Vec<&str> = shown.lines().collect();
    assert_eq!(lines.len(), 60);
    assert!(lines[0].ends_with("● online"), "{}", lines[0]);
    assert!(lines[1..59].iter().all(|line| line.chars().nth(40) == Some('│')), "{shown}");
    assert!(shown.contains("lunch at the usual place, or shall we try something new?"), "on one line");
    assert_eq!(lines[58].trim_start().trim_start_matches('│'), "> write a message");
}

#[test]
fn states_of_the_connection() {
    let offline = |why: &str, ms| ConnectionState::Offline {
        reason: Lost::Broken(why.into()),
        retry_in: Duration::from_millis(ms),
    };
    for (state, shown) in [
        (ConnectionState::Connecting, "◌ connecting…"),
        (ConnectionState::Online { user: user("alice") }, "● online"),
        (offline("reset\x1b[2J", 900), "○ offline, retry in 1 s: the connection broke: reset\u{fffd}[2J"),
        (
            ConnectionState::Stopped(Stop::TakenOver),
            "✗ stopped: this device has logged in on another connection",
        ),
    ] {
        let mut case = Case::new();
        case.connection(state);
        assert!(case.screen().lines().next().unwrap().ends_with(shown), "{}", case.screen());
    }
    let mut case = Case::new();
    case.connection(offline("x", 9000));
    case.on(Event::Tick(Duration::from_secs(10), NOON_MS));
    assert!(case.screen().contains("retry in 4 s"), "time passes");
}

const REFUSED: &str = "127.0.0.1:7443: connection and login: TLS: invalid peer certificate: UnknownIssuer";

/// Without a connection, and without ever having had one.
fn stranded(columns: u16, rows: u16) -> Case {
    let mut case = Case::new().sized(columns, rows);
    (case.model.me, case.model.listed) = (None, false);
    let retry_in = Duration::from_millis(2500);
    let reason = Lost::Unreachable(REFUSED.into());
    case.connection(ConnectionState::Offline { reason, retry_in });
    case
}

#[test]
fn why_there_is_no_connection_is_told_in_full() {
    for (columns, rows, first) in [
        (200, 60, format!("offline, retry in 3 s: {REFUSED}")),
        (80, 24, "offline, retry in 3 s: TLS: invalid peer certificate: UnknownIssuer".into()),
        (60, 24, "offline, retry in 3 s: UnknownIssuer".into()),
        (40, 12, "offline, retry in 3 s".into()),
    ] {
        let shown = stranded(columns, rows).screen();
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let lines: Vec<&str> = shown.lines().collect();
        assert!(lines[0].ends_with(&first), "{shown}");
        let pane = lines.iter().map(|line| line.rsplit('│').next().unwrap_or(line));
        let told = words(&pane.collect::<Vec<_>>().join(" ")).join(" ");
        let hint = "none of this system's CAs vouches for it: name the server's with --ca";
        assert!(told.contains(&format!("Not connected: {REFUSED}: {hint} It goes on trying.")), "{shown}");
    }
    let mut case = stranded(200, 60);
    case.model.ca = Some("my/ca.pem".into());
    assert!(case.screen().contains("is the CA in my/ca.pem that"), "{}", case.screen());
    let mut case = stranded(40, 12);
    case.on(Event::Tick(Duration::from_secs(60), NOON_MS));
    assert!(case.screen().lines().next().unwrap().ends_with("○ offline, trying again"), "{}", case.screen());
    // With a conversation, the list, the chat and the help have it.
    let mut case = Case::opened(1).sized(40, 24);
    case.model.link = stranded(40, 24).model.link;
    for key in [KeyCode::Char(' '), KeyCode::Esc] {
        case.key(key);
        assert!(case.screen().contains("Not connected: 127.0.0.1:7443:"), "{}", case.screen());
    }
    let mut case = Case::opened(100).sized(40, 12);
    case.model.link = stranded(40, 12).model.link;
    assert!(!case.screen().contains("Not connected"), "no room:\n{}", case.screen());
    case.key(KeyCode::F(1));
    case.key(KeyCode::End);
    assert!(case.screen().contains("Not connected: "), "{}", case.screen());
}

#[test]
fn the_help_can_be_read_on_a_small_screen() {
    let mut case = Case::opened(3).sized(40, 12);
    case.key(KeyCode::F(1));
    let mut all = String::new();
    for _ in 0..60 {
        let shown = case.screen();
        assert!(shown.contains("Esc close  ↑↓ scroll"), "{shown}");
        all += &shown;
        let before = case.screen();
        case.key(KeyCode::Down);
        if before == case.screen() {
            break;
        }
    }
    for wanted in
        ["Ctrl-N", "Ctrl-Q, Ctrl-C", "what waits (◷) is kept", "select text, in most", "by everybody"]
    {
        assert!(all.contains(wanted), "{wanted}:\n{}", case.screen());
    }
    assert!(!case.screen().contains("more below"));
    case.mouse(MouseEventKind::ScrollUp, 10, 5);
    assert!(case.screen().contains("3 more below"), "{}", case.screen());
    case.on(Event::Resize(100, 40));
    assert!(case.screen().contains("Ctrl-Q, Ctrl-C                   quit"), "{}", case.screen());
    assert!(case.screen().ends_with("\n Esc close"), "all of it is there: {}", case.screen());
    case.key(KeyCode::Esc);
    assert!(case.model.dialog.is_none());
}

#[test]
fn the_last_line_has_whole_keys_the_most_important_first() {
    let bottom = |case: &Case| case.screen().lines().last().unwrap_or_default().to_owned();
    for (columns, shown) in [
        (12, " Enter send"),
        (40, " Enter send  F1 help  Tab list"),
        (50, " Enter send  F1 help  Tab list  Ctrl-Q quit"),
        (80, " Enter send  F1 help  Tab list  Ctrl-Q quit  PgUp back  Ctrl-F find  Ctrl-G info"),
    ] {
        assert_eq!(bottom(&Case::opened(1).sized(columns, 12)), shown);
    }
    let mut case = Case::opened(1).sized(40, 12);
    case.key(KeyCode::Tab);
    assert_eq!(bottom(&case), " Enter open  Ctrl-N new  F1 help");
}

#[test]
fn a_title_is_not_given_up_for_what_is_said_about_it() {
    let mut case = Case::new().sized(40, 12);
    case.listed(vec![row(with("dave"), Some("dave"), "", 0, Some(entry(1, "dave", text("hi"))))]);
    case.key(KeyCode::Enter);
    let name = case.model.book.name(user("dave"));
    let header = |case: &Case| case.screen().lines().nth(1).unwrap().to_owned();
    assert_eq!(header(&case), format!(" {name}"));
    case.on(Event::Resize(80, 24));
    assert!(header(&case).ends_with("who is this? Ctrl-G gives a name"), "{}", header(&case));
    assert!(header(&case).contains(&name));
}

/// What strangers may send.
const STRANGE: &[&str] = &[
    "\x1b[2J\x1b]0;title\x07\u{9b}31m",
    "👩\u{200d}👩\u{200d}👧\u{200d}👦👍🏽❤\u{fe0f}🇩🇪 emoji 🏴\u{e0067}\u{e0062}\u{e007f}",
    "שלום עולם, מה שלומך היום? שלום עולם, מה שלומך היום? שלום עולם",
    "\u{202e}reversed\u{202c} مرحبا \u{2067}x",
    "日本語のとても長い文章はここで折り返されるべきです。日本語のとても長い文章はここで折り返されるべきです。",
    "Z\u{300}\u{301}\u{302}\u{303}\u{304}\u{305}\u{306}\u{307}\u{308}\u{309}\u{30a}\u{30b}\u{30c}\u{30d}\u{30e}\u{30f}\u{310}algo",
    "https://example.com/a/very/long/address/without/any/place/to/break/it/at/all?really=true&very=long",
    "\n\n\n",
    "\t\ttabs\0nul\r\nlines",
    "",
];

#[test]
fn strange_text_stays_in_its_place() {
    for columns in [80, 81, 61, 200] {
        let mut case = Case::new().sized(columns, 24);
        case.model.book.set(user("bob"), "بوب \u{202e}👍");
        let id = with("bob");
        case.listed(vec![
            row(id, Some("bob"), "", 0, Some(entry(1, "bob", text(STRANGE[0])))),
            row(group(), None, "日本\x1b[31m\u{202e}שלום", 1, Some(entry(1, "bob", text(STRANGE[2])))),
        ]);
        case.mouse(MouseEventKind::Down(ratatui::crossterm::event::MouseButton::Left), 1, 1);
        assert!(case.model.open.is_some());
        let open = case.model.open.unwrap();
        for (seq, strange) in (2..).zip(STRANGE) {
            case.entry(open, entry(seq, "bob", text(strange)));
            case.on(Event::Paste((*strange).into()));
            let rule = layout::areas(&case.model).rule;
            let buffer = case.draw();
            for y in rule.y..rule.bottom() {
                assert!(buffer[(rule.x, y)].symbol().starts_with('│'), "{strange:?}:\n{}", case.screen());
            }
            for cell in buffer.content() {
                let symbol = cell.symbol();
                assert!(symbol.chars().count() <= 13, "{symbol:?}");
                assert!(!symbol.chars().any(crate::output::commands_terminal), "{symbol:?}");
                assert_eq!(crate::chat::text::simple(symbol), symbol);
            }
            case.ctrl('u');
        }
    }
}

#[test]
fn right_to_left_text_is_kept_apart_from_the_other_pane() {
    let mut case = busy();
    case.entry(with("bob"), entry(5, "bob", text("שלום")));
    let rule = layout::areas(&case.model).rule.x;
    let buffer = case.draw();
    let marked = |y| buffer[(rule, y)].symbol() == "│\u{200e}";
    let (in_list, in_chat) = (2, 20);
    assert!(marked(in_list) && marked(in_chat) && !marked(5), "{}", case.screen());
}

#[test]
fn every_size_can_be_drawn() {
    let mut case = busy();
    for (key, dialog) in [(None, ""), (Some(KeyCode::F(1)), "help"), (None, "n"), (None, "g"), (None, "f")] {
        if let Some(key) = key {
            case.key(key);
        } else if let Some(c) = dialog.chars().next() {
            case.key(KeyCode::Esc);
            case.model.search = None;
            case.ctrl(c);
            case.types("some text that is longer than the narrowest of screens, by far");
        }
        for columns in [1, 2, 3, 10, 23, 30, 59, 60, 61, 80, 300] {
            for rows in [1, 2, 3, 4, 5, 6, 10, 24, 100] {
                case.on(Event::Resize(columns, rows));
                for pane in [KeyCode::Tab, KeyCode::PageUp] {
                    case.key(pane);
                    assert_eq!(case.screen().split('\n').count(), usize::from(rows), "{columns} x {rows}");
                }
            }
        }
    }
}

#[test]
fn a_long_message_grows_the_edit_line_and_no_further() {
    let mut case = Case::opened(30);
    case.on(Event::Paste("line\n".repeat(20) + "end"));
    let shown = case.screen();
    let lines: Vec<&str> = shown.lines().collect();
    assert!(lines[22].ends_with("│  end") && lines[17].ends_with("│  line"), "{shown}");
    assert!(lines[16].ends_with('─'), "{shown}");
}

#[test]
fn days_headings_and_what_is_new() {
    let mut case = Case::new();
    let id = with("bob");
    case.listed(vec![row(id, Some("bob"), "", 2, Some(entry(3, "bob", text("third"))))]);
    let mut early = entry(1, "bob", text("first"));
    early.time = WallMillis(NOON_MS - 86_400_000);
    case.entry(id, early);
    case.entry(id, entry(2, "bob", text("second")));
    case.key(KeyCode::Enter);
    let shown = case.screen();
    let order = ["Sat 21 Nov 2026", "first", "Sun 22 Nov 2026", " new ", "second", "third"];
    let places: Vec<_> =
        order.iter().map(|what| shown.rfind(what).unwrap_or_else(|| panic!("{what}:\n{shown}"))).collect();
    assert!(places.is_sorted(), "{shown}");
}

#[test]
fn what_is_typed_is_seen_where_the_cursor_is() {
    for (columns, shown) in [(80, "bob, carol, dave, erin, frank"), (40, "carol, dave, erin, frank")] {
        let mut case = Case::new().sized(columns, 12);
        case.ctrl('n');
        case.types("alice, bob, carol, dave, erin, frank");
        assert!(case.screen().contains(shown), "{}", case.screen());
        (0..36).for_each(|_| case.key(KeyCode::Left));
        assert!(case.screen().contains("With    alice, bob, carol"), "{}", case.screen());
        let words = case.screen().replace('│', " ").split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(words.contains("Several, or a title: a group."), "{}", case.screen());
        assert!(words.contains("its users, such as bob, carol"), "{}", case.screen());
    }
}
