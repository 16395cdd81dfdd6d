//! The first line and the last: how the connection is, and which keys there are.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};

use super::help;
use super::messages::dim;
use super::model::{Dialog, Info, Link, Model, Pane};
use super::text::{self, fit, width};
use super::view::put;
use crate::fail::hint;

/// Who this is, and how the connection is: as much of it as fits.
pub(super) fn bar(model: &Model, area: Rect, buffer: &mut Buffer) {
    let (mark, color) = match &model.link {
        Link::Online => ("●", Color::Green),
        Link::Connecting => ("◌", Color::Yellow),
        Link::Offline { .. } => ("○", Color::Red),
        Link::Stopped(_) => ("✗", Color::Red),
    };
    let (name, room) = name(model, usize::from(area.width));
    let state = fit(&state(model, room), room);
    let gap = room - width(&state);
    let style = Style::new().add_modifier(Modifier::REVERSED);
    buffer.set_style(area, style);
    put(
        buffer,
        area,
        0,
        Line::from(vec![
            Span::styled(name, style.add_modifier(Modifier::BOLD)),
            Span::styled(" ".repeat(gap), style),
            Span::styled(format!(" {mark} "), style.fg(color).add_modifier(Modifier::BOLD)),
            Span::styled(state, style),
        ]),
    );
}

/// Who this is, and the columns that are left beside it.
fn name(model: &Model, columns: usize) -> (String, usize) {
    let me = model.me.map_or_else(|| "…".into(), |me| model.book.name(me));
    let name = format!(" Tern  {} ", fit(&me, columns / 3));
    let room = columns.saturating_sub(width(&name) + 4);
    (name, room)
}

fn state(model: &Model, room: usize) -> String {
    match &model.link {
        Link::Online => "online".into(),
        Link::Connecting => "connecting…".into(),
        Link::Offline { reason, .. } => brief(&format!("offline, {}", next_try(model)), reason, room),
        Link::Stopped(why) => brief("stopped", why, room),
    }
}

/// Whether the first line has all that there is to say.
pub(super) fn is_all_said(model: &Model) -> bool {
    let room = name(model, usize::from(model.size.0)).1;
    let known = match &model.link {
        Link::Offline { reason, .. } => hint(reason, model.ca.as_deref()),
        _ => String::new(),
    };
    known.is_empty() && state(model, room) == state(model, usize::MAX)
}

fn next_try(model: &Model) -> String {
    let Link::Offline { retry_at, .. } = &model.link else { return String::new() };
    match retry_at.saturating_sub(model.now).as_secs_f64().ceil() {
        0.0 => "trying again".into(),
        left => format!("retry in {left} s"),
    }
}

/// A state with as much of its reason as fits. The end of a reason is the most telling: what it says first goes first.
fn brief(state: &str, reason: &str, room: usize) -> String {
    let reason = text::shown_line(reason);
    let mut rest = reason.as_str();
    loop {
        let whole = format!("{state}: {rest}");
        if width(&whole) <= room {
            return whole;
        }
        if let Some((without, _)) = rest.split_once(" (os error ") {
            rest = without;
        } else if let Some((_, end)) = rest.split_once(": ") {
            rest = end;
        } else {
            return state.to_owned();
        }
    }
}

/// All of why there is no connection, and what that means; empty while there is one.
pub(super) fn trouble(model: &Model, columns: usize) -> Vec<Line<'static>> {
    let (what, then) = match &model.link {
        Link::Online | Link::Connecting => return Vec::new(),
        Link::Offline { reason, .. } => (
            format!(
                "Not connected: {}",
                text::shown_line(&(reason.clone() + &hint(reason, model.ca.as_deref())))
            ),
            match model.me {
                Some(_) => "What you write is kept and goes out when the connection is back.",
                None => "It goes on trying.",
            },
        ),
        Link::Stopped(why) => (
            format!("Stopped: {}", text::shown_line(why)),
            "It does not try again: quit, put that right, and start it again.",
        ),
    };
    let red = Style::new().fg(Color::Red);
    let wrap = |text: &str, style: Style| {
        let lines = text::wrap(text, columns.saturating_sub(2));
        lines.into_iter().map(move |line| Line::styled(format!(" {line}"), style))
    };
    wrap(&what, red).chain(wrap(then, dim())).collect()
}

/// The most important keys of what is shown, the first ones first, as many as fit; or what there is to say.
pub(super) fn bottom(model: &Model, area: Rect, buffer: &mut Buffer) {
    if area.height == 0 {
        return;
    }
    if let Some(notice) = &model.notice {
        let notice = fit(&text::shown_line(notice), usize::from(area.width).saturating_sub(2));
        put(buffer, area, 0, Line::styled(format!(" {notice}"), Style::new().add_modifier(Modifier::BOLD)));
        return;
    }
    let mut spans = Vec::new();
    let mut used = 0;
    for (key, what) in keys(model) {
        let gap = if used == 0 { 1 } else { 2 };
        let wide = gap + width(key) + 1 + width(what);
        if used + wide > usize::from(area.width) {
            continue;
        }
        used += wide;
        spans.push(Span::raw(" ".repeat(gap)));
        spans.push(Span::styled(*key, Style::new().add_modifier(Modifier::BOLD)));
        spans.push(Span::styled(format!(" {what}"), dim()));
    }
    put(buffer, area, 0, Line::from(spans));
}

fn keys(model: &Model) -> &'static [(&'static str, &'static str)] {
    match (&model.dialog, &model.search, model.pane) {
        (Some(Dialog::Help { .. }), ..) if help::scrolls(model) => &[("Esc", "close"), ("↑↓", "scroll")],
        (Some(Dialog::Help { .. }), ..) => &[("Esc", "close")],
        (Some(Dialog::New(_)), ..) => &[("Enter", "start"), ("Esc", "cancel"), ("Tab", "next field")],
        (Some(Dialog::Info(Info { prompt: Some(_), .. })), ..) => &[("Enter", "done"), ("Esc", "cancel")],
        (Some(Dialog::Info(_)), ..) => &[("Esc", "close"), ("↑↓", "choose")],
        (Some(Dialog::Lost(_)), ..) => &[("Enter", "send again"), ("Esc", "leave it")],
        (None, Some(_), _) => &[("Enter", "older"), ("↓", "newer"), ("Esc", "close")],
        (None, None, Pane::List) => {
            &[("Enter", "open"), ("Ctrl-N", "new"), ("F1", "help"), ("Ctrl-Q", "quit"), ("↑↓", "choose")]
        }
        (None, None, Pane::Chat) => &[
            ("Enter", "send"),
            ("F1", "help"),
            ("Tab", "list"),
            ("Ctrl-Q", "quit"),
            ("PgUp", "back"),
            ("Ctrl-F", "find"),
            ("Ctrl-G", "info"),
        ],
    }
}
