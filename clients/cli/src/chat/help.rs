//! The keys, for who presses F1.

use ratatui::Frame;
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};

use super::messages::{CLOCK, DELIVERED, SENT, dim};
use super::model::{Dialog, Link, Model};
use super::status;
use super::text;
use super::view::{popup, put};

const KEYS: &[(&str, &str)] = &[
    ("Ctrl-N", "write to somebody, or make a group"),
    ("Enter", "open a conversation; send"),
    ("Tab, Esc", "between the list and the conversation"),
    ("Alt-Up, Alt-Down", "the conversation above, below"),
    ("Up, Down, PgUp, PgDn, wheel", "scroll"),
    ("Ctrl-Home, Ctrl-End", "to the oldest loaded, to the newest"),
    ("Alt-Enter, Ctrl-J", "a new line in a message"),
    ("Ctrl-F", "find text in what is loaded"),
    ("Ctrl-G", "who is in it; names, members, title"),
    ("Ctrl-A E W U K, Ctrl-Left, Right", "edit, as in a shell"),
    ("Ctrl-L", "draw the screen anew"),
    ("Shift with the mouse", "select text, in most terminals"),
    ("Ctrl-Q, Ctrl-C", "quit; what waits (◷) is kept"),
];
/// Of the keys, where their meaning stands beside them.
const KEYS_COLUMNS: usize = 33;
/// Of what they mean.
const MEANING_COLUMNS: usize = 37;
/// Of the box, if there is room: both, a border and a gap on each side.
const BOX_COLUMNS: u16 = (KEYS_COLUMNS + MEANING_COLUMNS) as u16 + 4;

/// The text, how much of it is shown at once, and where that begins.
struct Window {
    lines: Vec<Line<'static>>,
    rows: usize,
    scroll: usize,
}

impl Window {
    fn of(model: &Model) -> Self {
        let (columns, rows) = model.size;
        let lines = lines(model, usize::from(columns.min(BOX_COLUMNS).saturating_sub(4)));
        // The bar and the last line stay, and the box has a border.
        let rows = usize::from(rows.saturating_sub(4)).min(lines.len());
        let wanted = if let Some(Dialog::Help { scroll }) = model.dialog { scroll } else { 0 };
        Self { scroll: wanted.min(lines.len() - rows), lines, rows }
    }

    fn below(&self) -> usize {
        self.lines.len() - self.rows - self.scroll
    }
}

fn lines(model: &Model, columns: usize) -> Vec<Line<'static>> {
    let bold = |keys: String| Span::styled(keys, Style::new().add_modifier(Modifier::BOLD));
    let mut lines = Vec::new();
    for (keys, what) in KEYS {
        if columns >= KEYS_COLUMNS + MEANING_COLUMNS {
            lines.push(Line::from(vec![bold(format!("{keys:KEYS_COLUMNS$}")), Span::raw(*what)]));
            continue;
        }
        lines.push(Line::from(bold((*keys).to_owned())));
        let wrapped = text::wrap(what, columns.saturating_sub(2));
        lines.extend(wrapped.into_iter().map(|line| Line::from(format!("  {line}"))));
    }
    lines.push(Line::default());
    let marks = [
        (CLOCK, Style::new().fg(Color::Magenta), "waits for the server"),
        (SENT, dim(), "sent"),
        (DELIVERED, dim(), "delivered; in groups, to everybody"),
        (
            DELIVERED,
            Style::new().fg(Color::Cyan).add_modifier(Modifier::BOLD),
            "read; in groups, by everybody",
        ),
    ];
    for (mark, style, what) in marks {
        lines.push(Line::from(vec![Span::styled(format!("{mark:3}"), style), Span::raw(what)]));
    }
    if matches!(model.link, Link::Offline { .. } | Link::Stopped(_)) {
        lines.push(Line::default());
        lines.extend(status::trouble(model, columns));
    }
    lines
}

/// Moves by so many lines, down when positive.
pub(super) fn scroll(model: &mut Model, by: isize) {
    let window = Window::of(model);
    let most = window.lines.len() - window.rows;
    let scroll = window.scroll.saturating_add_signed(by).min(most);
    model.dialog = Some(Dialog::Help { scroll });
}

/// Lines that a page has.
pub(super) fn page(model: &Model) -> isize {
    Window::of(model).rows.saturating_sub(1).max(1) as isize
}

/// Whether there is more than fits.
pub(super) fn scrolls(model: &Model) -> bool {
    let window = Window::of(model);
    window.lines.len() > window.rows
}

pub(super) fn view(model: &Model, frame: &mut Frame<'_>) {
    let window = Window::of(model);
    let inside = popup(frame, "Keys", BOX_COLUMNS, window.rows as u16 + 2);
    let below = window.below();
    let shown = window.lines.into_iter().skip(window.scroll).take(window.rows);
    for (row, line) in shown.enumerate() {
        put(frame.buffer_mut(), inside, row as u16, line);
    }
    if below > 0 && inside.height > 0 {
        let border = ratatui::layout::Rect { y: inside.bottom(), height: 1, ..inside };
        put(frame.buffer_mut(), border, 0, Line::from(format!(" {below} more below ↓ ")));
    }
}
