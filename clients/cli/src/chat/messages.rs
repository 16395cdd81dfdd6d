//! Messages as lines of the screen.
//!
//! ```text
//!  ───────────────── Sun 22 Nov 2026 ─────────────────
//!  bob
//!    hello alice                               14:01
//!  you
//!    hello bob                              14:02 ✓✓
//! ```

use jiff::Timestamp;
use jiff::tz::TimeZone;
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use tern_client::{Change, Role, Seq, UserId};

use super::model::{Body, Conversation, Fate, Item, Link, Model, Pending};
use super::text::{self, fit, width};
use crate::output;

/// Messages of one sender in a row get one heading, unless this much time lies between them.
const HEADING_AGAIN_MS: u64 = 10 * 60 * 1000;
/// Of who speaks: those that can be read on black and on white.
const COLORS: [Color; 5] =
    [Color::Green, Color::Magenta, Color::LightRed, Color::LightBlue, Color::LightMagenta];
/// In front of a message's text.
const INDENT: usize = 3;
/// Behind it: a gap, the time, a gap, the ticks.
const MARGIN: usize = 1 + 5 + 1 + 2 + 1;
/// Names in one line about many members.
const NAMES_MAX: usize = 12;

/// Waits on this device.
pub(super) const CLOCK: &str = "◷";
/// The server has it.
pub(super) const SENT: &str = "✓";
/// Everybody has it.
pub(super) const DELIVERED: &str = "✓✓";
/// The server does not take it.
pub(super) const REFUSED: &str = "✗";

/// Something in the conversation, in its order.
#[derive(Clone, Copy)]
enum Shown<'a> {
    Item(&'a Item),
    Pending(&'a Pending),
}

impl Shown<'_> {
    fn time_ms(self) -> u64 {
        match self {
            Shown::Item(item) => item.time_ms,
            Shown::Pending(pending) => pending.time_ms,
        }
    }

    fn sender(self, model: &Model) -> Option<UserId> {
        match self {
            Shown::Item(item) => Some(item.sender),
            Shown::Pending(_) => model.me,
        }
    }

    fn is_message(self) -> bool {
        match self {
            Shown::Item(item) => matches!(item.body, Body::Text { .. }),
            Shown::Pending(_) => true,
        }
    }
}

fn newest_first(c: &Conversation) -> impl Iterator<Item = Shown<'_>> {
    c.pending.iter().rev().map(Shown::Pending).chain(c.back().map(Shown::Item))
}

/// The lowest lines: `wanted` of them that end `scroll` lines above the end, top to bottom.
pub(super) fn window(
    model: &Model,
    c: &Conversation,
    columns: usize,
    scroll: usize,
    wanted: usize,
) -> Vec<Line<'static>> {
    let mut lines = upwards(model, c, columns, scroll + wanted);
    let end = lines.len().saturating_sub(scroll);
    lines.truncate(end);
    lines.split_off(end.saturating_sub(wanted))
}

/// Lines of all that is loaded.
pub(super) fn height(model: &Model, c: &Conversation, columns: usize) -> usize {
    upwards(model, c, columns, usize::MAX).len()
}

/// Lines below the last one of this entry.
pub(super) fn height_below(model: &Model, c: &Conversation, columns: usize, seq: Seq) -> usize {
    let mut below = 0;
    let mut all = newest_first(c).peekable();
    while let Some(shown) = all.next() {
        if matches!(shown, Shown::Item(item) if item.seq == seq) {
            break;
        }
        below += block(model, c, all.peek().copied(), shown, columns).len();
    }
    below
}

/// At least so many lines from the end up, if there are; top to bottom.
fn upwards(model: &Model, c: &Conversation, columns: usize, wanted: usize) -> Vec<Line<'static>> {
    let mut blocks = Vec::new();
    let mut have = 0;
    let mut all = newest_first(c).peekable();
    while have < wanted {
        let Some(shown) = all.next() else {
            if let Some(line) = beginning(model, c) {
                blocks.push(vec![line]);
            }
            break;
        };
        let block = block(model, c, all.peek().copied(), shown, columns);
        have += block.len();
        blocks.push(block);
    }
    blocks.into_iter().rev().flatten().collect()
}

fn beginning(model: &Model, c: &Conversation) -> Option<Line<'static>> {
    let text = if c.loading && model.link != Link::Online {
        "older messages come with the connection"
    } else if c.loading {
        "loading…"
    } else if c.has_older() {
        "older messages: scroll up"
    } else if c.first().is_some_and(|first| first > c.floor) {
        "older messages: tern history"
    } else if c.first().is_some() {
        return None;
    } else if c.loaded {
        "no messages yet: say hello"
    } else {
        return None;
    };
    Some(Line::styled(format!(" {text}"), dim()))
}

/// One message or change with what belongs above it, given what comes before.
fn block(
    model: &Model,
    c: &Conversation,
    before: Option<Shown<'_>>,
    shown: Shown<'_>,
    columns: usize,
) -> Vec<Line<'static>> {
    let mut lines = Vec::new();
    let day = date(&model.zone, shown.time_ms());
    let new_day = before.is_none_or(|b| date(&model.zone, b.time_ms()) != day);
    if new_day {
        lines.push(ruled(&day, columns, dim()));
    }
    let divides = |s: Shown<'_>| matches!((s, c.divider), (Shown::Item(i), Some(seq)) if i.seq >= seq && i.is_for(model.me));
    let divided = divides(shown) && !before.is_some_and(divides);
    if divided {
        lines.push(ruled("new", columns, Style::new().fg(Color::Red)));
    }
    let sender = shown.sender(model);
    if shown.is_message() {
        let goes_on = before.is_some_and(|b| {
            b.is_message()
                && b.sender(model) == sender
                && shown.time_ms().saturating_sub(b.time_ms()) < HEADING_AGAIN_MS
        });
        if !goes_on || new_day || divided {
            let name = sender.map_or_else(|| "you".into(), |user| model.name(user));
            let style = color(model, sender).add_modifier(Modifier::BOLD);
            lines.push(Line::styled(format!(" {}", fit(&name, columns.saturating_sub(2))), style));
        }
    }
    match shown {
        Shown::Item(item) => match &item.body {
            Body::Text { text, reply_to } => {
                if let Some(quoted) = reply_to.and_then(|seq| quote(model, c, seq)) {
                    let quoted = fit(&quoted, columns.saturating_sub(INDENT + MARGIN));
                    lines.push(Line::styled(format!("{:INDENT$}{quoted}", ""), dim()));
                }
                let ticks = (Some(item.sender) == model.me).then(|| ticks(c, item.seq));
                let found = model.search.as_ref().is_some_and(|s| s.found == Some(item.seq));
                lines.extend(message(model, text, item.time_ms, ticks, columns, found));
            }
            Body::Change(change) => {
                let said = changed(model, item.sender, change);
                for line in text::wrap(&said, columns.saturating_sub(INDENT + 1)) {
                    lines.push(Line::styled(
                        format!("{:INDENT$}{line}", ""),
                        dim().add_modifier(Modifier::ITALIC),
                    ));
                }
            }
        },
        Shown::Pending(pending) => {
            let mark = match &pending.fate {
                Fate::Held | Fate::Queued => Span::styled(CLOCK, Style::new().fg(Color::Magenta)),
                Fate::Sent(seq) => ticks(c, *seq),
                Fate::Refused(_) => Span::styled(REFUSED, Style::new().fg(Color::Red)),
            };
            lines.extend(message(model, &pending.text, pending.time_ms, Some(mark), columns, false));
            if let Fate::Refused(why) = &pending.fate {
                for line in text::wrap(&format!("not sent: {why}"), columns.saturating_sub(INDENT + 1)) {
                    lines.push(Line::styled(format!("{:INDENT$}{line}", ""), Style::new().fg(Color::Red)));
                }
            }
        }
    }
    lines
}

fn message(
    model: &Model,
    text: &str,
    time_ms: u64,
    mark: Option<Span<'static>>,
    columns: usize,
    found: bool,
) -> Vec<Line<'static>> {
    let room = columns.saturating_sub(INDENT + MARGIN).max(2);
    let wrapped = text::wrap(text, room);
    let last = wrapped.len() - 1;
    let style = if found { Style::new().add_modifier(Modifier::REVERSED) } else { Style::new() };
    let mut mark = mark;
    let line = |(at, line): (usize, String)| {
        let gap = room.saturating_sub(width(&line));
        let mut spans = vec![Span::raw(" ".repeat(INDENT)), Span::styled(line, style)];
        if at == last {
            spans.push(Span::styled(format!("{:gap$} {} ", "", clock(&model.zone, time_ms)), dim()));
            spans.extend(mark.take());
        }
        Line::from(spans)
    };
    wrapped.into_iter().enumerate().map(line).collect()
}

/// One tick: sent. Two: everybody has it. Two in colour: everybody has read it.
pub(super) fn ticks(c: &Conversation, seq: Seq) -> Span<'static> {
    if c.read_by_all >= seq {
        Span::styled(DELIVERED, Style::new().fg(Color::Cyan).add_modifier(Modifier::BOLD))
    } else if c.delivered_by_all >= seq {
        Span::styled(DELIVERED, dim())
    } else {
        Span::styled(SENT, dim())
    }
}

fn quote(model: &Model, c: &Conversation, seq: Seq) -> Option<String> {
    let item = c.item(seq)?;
    let Body::Text { text, .. } = &item.body else { return None };
    Some(format!("↪ {}: {}", model.name(item.sender), text.replace('\n', " ")))
}

/// What happened to the group, for people.
pub(super) fn changed(model: &Model, sender: UserId, change: &Change) -> String {
    let who = model.name(sender);
    match change {
        Change::Message(_) | Change::Unknown => {
            format!("{who} did something that this tern is too old for")
        }
        Change::Create { title, members } => {
            let with =
                if members.is_empty() { String::new() } else { format!(" with {}", names(model, members)) };
            format!("{who} made the group \"{}\"{with}", super::model::title(title))
        }
        Change::Add { members } => format!("{who} added {}", names(model, members)),
        Change::Remove { member } => format!("{who} removed {}", model.name(*member)),
        Change::Leave => format!("{who} left"),
        Change::Title { title } => format!("{who} named the group \"{}\"", super::model::title(title)),
        Change::Role { member, role: Role::Owner } => format!("{who} made {} the owner", model.name(*member)),
        Change::Role { member, role } => {
            let article = if *role == Role::Admin { "an" } else { "a" };
            format!("{who} made {} {article} {}", model.name(*member), output::role(*role))
        }
    }
}

fn names(model: &Model, users: &[UserId]) -> String {
    let mut names: Vec<_> = users.iter().take(NAMES_MAX).map(|user| model.name(*user)).collect();
    if users.len() > NAMES_MAX {
        names.push(format!("{} others", users.len() - NAMES_MAX));
    }
    names.join(", ")
}

/// A user's colour, always the same.
fn color(model: &Model, user: Option<UserId>) -> Style {
    match user {
        Some(user) if Some(user) != model.me => {
            let sum: usize = user.as_bytes().iter().map(|b| usize::from(*b)).sum();
            Style::new().fg(COLORS[sum % COLORS.len()])
        }
        _ => Style::new().fg(Color::Cyan),
    }
}

fn ruled(text: &str, columns: usize, style: Style) -> Line<'static> {
    let rest = columns.saturating_sub(width(text) + 4);
    let (left, right) = (rest / 2, rest - rest / 2);
    Line::styled(format!(" {} {text} {} ", "─".repeat(left), "─".repeat(right)), style)
}

/// Less important. No grey: some themes have their background there.
pub(super) fn dim() -> Style {
    Style::new().add_modifier(Modifier::DIM)
}

/// `14:02`
pub(super) fn clock(zone: &TimeZone, ms: u64) -> String {
    formatted(zone, ms, "%H:%M")
}

/// `Sun 22 Nov 2026`
pub(super) fn date(zone: &TimeZone, ms: u64) -> String {
    formatted(zone, ms, "%a %-d %b %Y")
}

fn formatted(zone: &TimeZone, ms: u64, format: &str) -> String {
    let timestamp = i64::try_from(ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
    timestamp.unwrap_or(Timestamp::UNIX_EPOCH).to_zoned(zone.clone()).strftime(format).to_string()
}
