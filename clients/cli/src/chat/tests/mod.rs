//! The application without a terminal: events in, effects and screens out.

mod model;
mod screen;

use std::time::Duration;

use jiff::tz::TimeZone;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers, MouseEvent, MouseEventKind};
use ratatui::style::Color;
use tern_client::{
    Change, ClientSeq, ConnectionState, ConversationId, ConversationPage, ConversationState, DeviceId, Entry,
    Event as ClientEvent, HistoryPage, Kind, Message, Role, Seq, UserId,
};
use tern_protocol::model::{Sender, WallMillis};

use super::model::{Fate, Model};
use super::update::{Effect, Event, update};
use super::view::view;
use crate::book::Book;

/// Sun 22 Nov 2026, 14:00 UTC.
const NOON_MS: u64 = 1_795_356_000_000;

fn user(name: &str) -> UserId {
    UserId::from_sub(name)
}

fn with(name: &str) -> ConversationId {
    ConversationId::direct(user("alice"), user(name))
}

fn group() -> ConversationId {
    ConversationId::group_from_random([7; 16])
}

/// An entry, a minute after the one before it.
fn entry(seq: u64, sender: &str, change: Change) -> Entry {
    let device = DeviceId::new(if sender == "alice" { 1 } else { 2 }).unwrap();
    Entry {
        seq: Seq(seq),
        time: WallMillis(NOON_MS + seq * 60_000),
        sender: Sender { user: user(sender), device },
        client_seq: ClientSeq(seq),
        change,
    }
}

fn text(text: &str) -> Change {
    let payload = text.to_owned().into();
    Change::Message(Message { content_type: "text/plain".into(), payload, reply_to: None })
}

fn row(
    id: ConversationId,
    peer: Option<&str>,
    title: &str,
    unread: u32,
    last: Option<Entry>,
) -> ConversationState {
    let head = last.as_ref().map_or(Seq(0), |e| e.seq);
    ConversationState {
        conversation: id,
        kind: if peer.is_some() { Kind::Direct } else { Kind::Group },
        title: title.into(),
        peer: peer.map(user),
        head,
        floor: Seq(1),
        read: Seq(head.get().saturating_sub(unread.into())),
        peer_delivered: Seq(0),
        peer_read: Seq(0),
        role: Some(Role::Member),
        time: last.as_ref().map_or(WallMillis(0), |e| e.time),
        entries: last.into_iter().collect(),
        complete_to: head,
        unread,
    }
}

/// An application that is online as alice and knows some names.
struct Case {
    model: Model,
    effects: Vec<Effect>,
}

impl Case {
    fn new() -> Self {
        let mut book = Book::default();
        for name in ["alice", "bob", "carol"] {
            book.set(user(name), name);
        }
        let model = Model::new(DeviceId::new(1).unwrap(), book, TimeZone::UTC);
        let mut case = Self { model, effects: vec![] };
        case.on(Event::Tick(Duration::from_secs(5), NOON_MS + 3_600_000));
        case.connection(ConnectionState::Online { user: user("alice") });
        case
    }

    /// With a direct chat of so many messages of bob's, opened.
    fn opened(messages: u64) -> Self {
        let mut case = Self::new();
        let last = entry(messages, "bob", text(&format!("message {messages}")));
        case.listed(vec![row(with("bob"), Some("bob"), "", 0, Some(last))]);
        case.key(KeyCode::Enter);
        case.page(with("bob"), 1, messages, |n| text(&format!("message {n}")));
        case.effects.clear();
        case
    }

    fn on(&mut self, event: Event) {
        let effects = update(&mut self.model, event);
        self.effects.extend(effects);
    }

    fn connection(&mut self, state: ConnectionState) {
        self.on(Event::Client(ClientEvent::Connection(state)));
    }

    fn listed(&mut self, conversations: Vec<ConversationState>) {
        self.on(Event::Listed(Ok(ConversationPage { conversations, next: None })));
    }

    fn page(&mut self, id: ConversationId, from: u64, to: u64, say: impl Fn(u64) -> Change) {
        let entries = (from..=to).map(|n| entry(n, "bob", say(n))).collect();
        let page = HistoryPage { conversation: id, head: Seq(to), floor: Seq(1), entries };
        self.on(Event::Paged(id, Ok(page)));
    }

    fn entry(&mut self, id: ConversationId, entry: Entry) {
        self.on(Event::Client(ClientEvent::Entry { conversation: id, entry }));
    }

    fn key(&mut self, code: KeyCode) {
        self.on(Event::Key(KeyEvent::new(code, KeyModifiers::NONE)));
    }

    fn ctrl(&mut self, c: char) {
        self.on(Event::Key(KeyEvent::new(KeyCode::Char(c), KeyModifiers::CONTROL)));
    }

    fn types(&mut self, text: &str) {
        text.chars().for_each(|c| self.key(KeyCode::Char(c)));
    }

    fn mouse(&mut self, kind: MouseEventKind, column: u16, row: u16) {
        self.on(Event::Mouse(MouseEvent { kind, column, row, modifiers: KeyModifiers::NONE }));
    }

    fn taken(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    fn sized(mut self, columns: u16, rows: u16) -> Self {
        self.on(Event::Resize(columns, rows));
        self
    }

    fn draw(&self) -> ratatui::buffer::Buffer {
        let (columns, rows) = self.model.size;
        let mut terminal = Terminal::new(TestBackend::new(columns, rows)).unwrap();
        terminal.draw(|frame| view(&self.model, frame)).unwrap();
        terminal.backend().buffer().clone()
    }

    /// The screen's lines, without what is behind their ends.
    fn screen(&self) -> String {
        let buffer = self.draw();
        let line = |y| {
            let mut line = String::new();
            let mut x = 0;
            while x < buffer.area.width {
                let symbol = buffer[(x, y)].symbol();
                line.push_str(symbol);
                x += super::text::width(symbol).max(1) as u16;
            }
            line.trim_end().to_owned()
        };
        (0..buffer.area.height).map(line).collect::<Vec<_>>().join("\n")
    }

    fn pending(&self) -> Vec<(&str, &Fate)> {
        self.model.pending().map(|p| (p.text.as_str(), &p.fate)).collect()
    }

    /// What the mark behind a message looks like: its text, and whether it is in the colour of what was read.
    fn mark(&self, text: &str) -> (String, bool) {
        let buffer = self.draw();
        let list = super::layout::areas(&self.model).list.width;
        for y in 3..buffer.area.height {
            let cells: Vec<_> = (list..buffer.area.width).map(|x| &buffer[(x, y)]).collect();
            let line: String = cells.iter().map(|c| c.symbol()).collect();
            if line.contains(text) {
                let mark = line.trim_end().rsplit(' ').next().unwrap_or_default().to_owned();
                let last = cells.iter().rev().find(|c| !c.symbol().trim().is_empty());
                return (mark, last.is_some_and(|c| c.fg == Color::Cyan));
            }
        }
        panic!("{text} is not shown:\n{}", self.screen());
    }
}
