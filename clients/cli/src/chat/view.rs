//! The screen.

use ratatui::Frame;
use ratatui::buffer::Buffer;
use ratatui::layout::{Margin, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, BorderType, Clear, Widget};
use tern_client::{Kind, Seq};

use super::help;
use super::input::Input;
use super::layout::{self, Areas, LIST_ITEM_ROWS, PROMPT_COLUMNS};
use super::lost;
use super::messages::{self, CLOCK, REFUSED, SENT, clock, date, dim};
use super::model::{Body, Conversation, Dialog, Fate, Info, Link, Model, NewChat, Pane, Prompt};
use super::status;
use super::text::{self, fit, width};
use crate::output;

/// Keeps a run of right-to-left text from taking what is beside it along.
const LEFT_TO_RIGHT: char = '\u{200e}';
/// Of who said the last message in a group.
const NAME_COLUMNS: usize = 9;

/// Draws everything.
pub(super) fn view(model: &Model, frame: &mut Frame<'_>) {
    let areas = layout::areas(model);
    status::bar(model, areas.bar, frame.buffer_mut());
    let is_alone = areas.rule.height == 0;
    list(model, areas.list, is_alone, frame.buffer_mut());
    for y in areas.rule.y..areas.rule.bottom() {
        frame.buffer_mut().set_string(areas.rule.x, y, "│", dim());
    }
    let mut cursor = None;
    if areas.header.height > 0 {
        cursor = chat(model, &areas, frame.buffer_mut());
    }
    status::bottom(model, areas.help, frame.buffer_mut());
    cursor = match &model.dialog {
        None => cursor.filter(|_| model.pane == Pane::Chat),
        Some(Dialog::Help { .. }) => {
            help::view(model, frame);
            None
        }
        Some(Dialog::New(new)) => dialog_new(new, frame),
        Some(Dialog::Info(info)) => dialog_info(model, info, frame),
        Some(Dialog::Lost(id)) => {
            lost::view(model, *id, frame);
            None
        }
    };
    isolate(frame.buffer_mut(), areas.rule);
    if let Some(at) = cursor {
        frame.set_cursor_position(at);
    }
}

/// Terminals that reorder right-to-left text do so by the line: on lines that have any, a mark on both sides of the
/// border keeps the panes apart.
fn isolate(buffer: &mut Buffer, rule: Rect) {
    for y in rule.y..rule.bottom() {
        let row = || buffer.area.left()..buffer.area.right();
        if row().any(|x| text::has_rtl(buffer[(x, y)].symbol()))
            && let Some(cell) = buffer.cell_mut((rule.x, y))
        {
            let symbol = format!("{}{LEFT_TO_RIGHT}", cell.symbol());
            cell.set_symbol(&symbol);
        }
    }
}

pub(super) fn put(buffer: &mut Buffer, area: Rect, row: u16, line: impl Into<Line<'static>>) {
    if row < area.height {
        line.into().render(Rect { y: area.y + row, height: 1, ..area }, buffer);
    }
}

/// Why there is no connection, from this row on, if there is room for all of it.
fn trouble(model: &Model, area: Rect, row: usize, buffer: &mut Buffer) {
    let lines = status::trouble(model, usize::from(area.width));
    if row + lines.len() <= usize::from(area.height) {
        for (at, line) in lines.into_iter().enumerate() {
            put(buffer, area, (row + at) as u16, line);
        }
    }
}

fn list(model: &Model, area: Rect, is_alone: bool, buffer: &mut Buffer) {
    if area.height == 0 {
        return;
    }
    if model.order.is_empty() {
        let (first, second) = match (&model.link, model.listed) {
            (Link::Online, _) => ("No conversations yet.", "Ctrl-N starts one."),
            _ => ("Not connected.", ""),
        };
        put(buffer, area, 1, Line::styled(format!(" {first}"), dim()));
        put(buffer, area, 2, Line::styled(format!(" {second}"), dim()));
        if is_alone {
            trouble(model, area, 3, buffer);
        }
        return;
    }
    let (first, shown) = layout::list_window(model);
    for (row, id) in model.order.iter().skip(first).take(shown).enumerate() {
        let Some(c) = model.conversations.get(id) else { continue };
        let y = row as u16 * LIST_ITEM_ROWS;
        let is_chosen = model.chosen == Some(*id);
        let item = Rect { y: area.y + y, height: LIST_ITEM_ROWS.min(area.height - y), ..area };
        list_item(model, c, &model.title(*id, c), model.open == Some(*id), item, buffer);
        if is_chosen && model.pane == Pane::List {
            buffer.set_style(item, Style::new().add_modifier(Modifier::REVERSED));
        }
    }
    if is_alone {
        let used = (model.order.len() - first).min(shown) * usize::from(LIST_ITEM_ROWS);
        trouble(model, area, used + 1, buffer);
    }
}

fn list_item(model: &Model, c: &Conversation, title: &str, is_open: bool, area: Rect, buffer: &mut Buffer) {
    let columns = usize::from(area.width);
    let edge = || Span::styled(if is_open { "▌" } else { " " }, Style::new().fg(Color::Cyan));
    let time = match c.last_ms() {
        0 => String::new(),
        ms if date(&model.zone, ms) == date(&model.zone, model.wall_ms) => clock(&model.zone, ms),
        ms => date(&model.zone, ms).split(' ').skip(1).take(2).collect::<Vec<_>>().join(" "),
    };
    let room = columns.saturating_sub(width(&time) + 3);
    let title = fit(title, room);
    let gap = room - width(&title) + 1;
    let is_new = c.unread > 0;
    let bold = if is_new || is_open { Style::new().add_modifier(Modifier::BOLD) } else { Style::new() };
    put(
        buffer,
        area,
        0,
        Line::from(vec![
            edge(),
            Span::styled(title, bold),
            Span::raw(" ".repeat(gap)),
            Span::styled(time, if is_new { Style::new().fg(Color::Green) } else { dim() }),
        ]),
    );
    let badge = match c.unread {
        0 => String::new(),
        1..=99 => format!(" {} ", c.unread),
        _ => " 99+ ".into(),
    };
    // Reversed, it is seen without colours as well.
    let badge_style = Style::new().fg(Color::Green).add_modifier(Modifier::REVERSED | Modifier::BOLD);
    let (mark, preview) = preview(model, c);
    let mark_columns = mark.as_ref().map_or(0, |m| m.width() + 1);
    let room = columns.saturating_sub(badge.len() + mark_columns + 2);
    let preview = fit(&preview, room);
    let gap = room - width(&preview);
    let mut spans = vec![edge()];
    if let Some(mark) = mark {
        spans.extend([mark, Span::raw(" ")]);
    }
    spans.push(Span::styled(preview, dim()));
    spans.push(Span::raw(" ".repeat(gap)));
    spans.push(Span::styled(badge, badge_style));
    put(buffer, area, 1, Line::from(spans));
}

/// What was said last.
fn preview(model: &Model, c: &Conversation) -> (Option<Span<'static>>, String) {
    let one_line = |text: &str| text.replace('\n', " ");
    if !c.lost.is_empty() {
        return (Some(Span::styled(REFUSED, Style::new().fg(Color::Red))), lost::count(c.lost.len()));
    }
    if let Some(pending) = c.pending.last() {
        let mark = match &pending.fate {
            Fate::Held | Fate::Queued => CLOCK,
            Fate::Sent(_) => SENT,
            Fate::Refused(_) => REFUSED,
        };
        return (Some(Span::styled(mark, dim())), one_line(&pending.text));
    }
    let Some(item) = c.newest() else { return (None, String::new()) };
    let is_mine = Some(item.sender) == model.me;
    match &item.body {
        Body::Text { text, .. } if is_mine => (Some(messages::ticks(c, item.seq)), one_line(text)),
        Body::Text { text, .. } if c.kind == Kind::Group => {
            (None, format!("{}: {}", fit(&model.name(item.sender), NAME_COLUMNS), one_line(text)))
        }
        Body::Text { text, .. } => (None, one_line(text)),
        Body::Change(change) => (None, messages::changed(model, item.sender, change)),
    }
}

/// The open conversation; returns where the cursor belongs.
fn chat(model: &Model, areas: &Areas, buffer: &mut Buffer) -> Option<(u16, u16)> {
    let columns = usize::from(areas.header.width);
    let Some((id, c)) = model.opened() else {
        trouble(model, areas.messages, 0, buffer);
        if model.order.is_empty() && model.link != Link::Online {
            return None;
        }
        let hints = ["Choose a conversation and press Enter,", "or press Ctrl-N to write to somebody."];
        for (row, hint) in hints.iter().enumerate() {
            let left = columns.saturating_sub(hint.len()) / 2;
            let y = areas.messages.height / 2 + row as u16;
            put(buffer, areas.messages, y, Line::styled(format!("{:left$}{hint}", ""), dim()));
        }
        return None;
    };
    let about = match (c.kind, c.member_count) {
        (Kind::Group, _) if !c.is_member => "you are no longer a member".into(),
        (Kind::Group, Some(1)) => "1 member".into(),
        (Kind::Group, Some(count)) => format!("{count} members"),
        (Kind::Group, None) => "group".into(),
        (Kind::Direct, _)
            if c.peer.is_some_and(|peer| Some(peer) != model.me && model.book.get(peer).is_none()) =>
        {
            "who is this? Ctrl-G gives a name".into()
        }
        (Kind::Direct, _) => String::new(),
    };
    let title = model.title(id, c);
    // Half of the line is the title's, if it needs it.
    let cuts = width(&title) + width(&about) + 3 > columns;
    let about = if cuts && width(&about) > columns / 2 { String::new() } else { about };
    let room = columns.saturating_sub(width(&about) + 3);
    let title = fit(&title, room);
    let gap = room - width(&title);
    put(
        buffer,
        areas.header,
        0,
        Line::from(vec![
            Span::styled(format!(" {title}"), Style::new().add_modifier(Modifier::BOLD)),
            Span::raw(" ".repeat(gap + 1)),
            Span::styled(about, dim()),
        ]),
    );
    put(buffer, areas.header, 1, Line::styled("─".repeat(columns), dim()));

    let height = usize::from(areas.messages.height);
    let lines = messages::window(model, c, columns, c.scroll, height);
    // What there is stands at the bottom, beside the edit line.
    let above = (height - lines.len()) as u16;
    if !status::is_all_said(model) {
        trouble(model, Rect { height: above.saturating_sub(1), ..areas.messages }, 0, buffer);
    }
    for (row, line) in lines.into_iter().enumerate() {
        put(buffer, areas.messages, above + row as u16, line);
    }
    if areas.edit.height == 0 {
        return None;
    }
    let rule = Rect { y: areas.edit.y - 1, height: 1, ..areas.edit };
    let mut ruled = "─".repeat(columns);
    if c.scroll > 0 {
        let new = if c.unread > 0 { format!("{} new, ", c.unread) } else { String::new() };
        let hint = format!(" {new}{} lines below, Ctrl-End ", c.scroll);
        if hint.len() + 2 < columns {
            ruled = format!("{}{hint}──", "─".repeat(columns - hint.len() - 2));
        }
    }
    put(buffer, rule, 0, Line::styled(ruled, dim()));
    match &model.search {
        Some(search) => {
            let label = "Find: ";
            let label_columns = 1 + label.len() as u16;
            let (query, at) = search.query.row(usize::from(areas.edit.width.saturating_sub(label_columns)));
            put(
                buffer,
                areas.edit,
                0,
                Line::from(vec![
                    Span::styled(format!(" {label}"), Style::new().add_modifier(Modifier::BOLD)),
                    Span::raw(query),
                ]),
            );
            let at = areas.edit.x + label_columns + at;
            Some((at.min(areas.edit.right().saturating_sub(1)), areas.edit.y))
        }
        None => edit_line(&c.input, c.is_member, areas.edit, buffer),
    }
}

fn edit_line(input: &Input, is_member: bool, area: Rect, buffer: &mut Buffer) -> Option<(u16, u16)> {
    if !is_member {
        put(buffer, area, 0, Line::styled(" You can read here what was written until you left.", dim()));
        return None;
    }
    let (rows, (row, column)) = input.rows(usize::from(area.width.saturating_sub(PROMPT_COLUMNS)));
    let first = (row + 1).saturating_sub(usize::from(area.height));
    if input.text().is_empty() {
        put(buffer, area, 0, Line::styled("> write a message", dim()));
    }
    for (at, text) in rows.iter().enumerate().skip(first).take(usize::from(area.height)) {
        let prompt = if at == 0 { "> " } else { "  " };
        if !input.text().is_empty() {
            put(buffer, area, (at - first) as u16, Line::from(format!("{prompt}{text}")));
        }
    }
    Some((area.x + PROMPT_COLUMNS + column as u16, area.y + (row - first) as u16))
}

/// A box in the middle; returns what is inside.
pub(super) fn popup(frame: &mut Frame<'_>, title: &str, columns: u16, rows: u16) -> Rect {
    let screen = frame.area();
    let (columns, rows) = (columns.min(screen.width), rows.min(screen.height.saturating_sub(2)));
    let area = Rect::new(
        (screen.width - columns) / 2,
        1 + (screen.height.saturating_sub(rows + 2)) / 2,
        columns,
        rows,
    )
    .intersection(screen);
    // Half of a wide character would stick out from under the box.
    let around = Rect { x: area.x.saturating_sub(1), width: area.width + 2, ..area }.intersection(screen);
    for y in around.y..around.bottom() {
        for x in [around.x, around.right().saturating_sub(1)] {
            if let Some(cell) = frame.buffer_mut().cell_mut((x, y))
                && width(cell.symbol()) > 1
            {
                cell.set_symbol(" ");
            }
        }
    }
    frame.render_widget(Clear, area);
    let block = Block::bordered()
        .border_type(BorderType::Rounded)
        .border_style(Style::new().fg(Color::Cyan))
        .title(Span::styled(format!(" {title} "), Style::new().add_modifier(Modifier::BOLD)));
    frame.render_widget(block, area);
    area.inner(Margin::new(2, 1))
}

fn dialog_new(new: &NewChat, frame: &mut Frame<'_>) -> Option<(u16, u16)> {
    let inside = popup(frame, "New conversation", 64, 10);
    let label_columns = 8;
    let columns = usize::from(inside.width.saturating_sub(label_columns));
    let buffer = frame.buffer_mut();
    let mut say = |row, text: &str, style| {
        let lines = text::wrap(text, usize::from(inside.width));
        for (row, line) in (row..row + 2).zip(lines) {
            put(buffer, inside, row, Line::styled(line, style));
        }
    };
    say(0, "One name: a direct chat. Several, or a title: a group.", dim());
    match &new.error {
        Some(error) => say(6, error, Style::new().fg(Color::Red)),
        None => say(6, "Names as your app calls its users, such as bob, carol", dim()),
    }
    let mut cursor = None;
    for (row, label, input, is_active) in
        [(2, "With", &new.names, !new.in_title), (4, "Title", &new.title, new.in_title)]
    {
        let (shown, at) = input.row(columns);
        let style = if is_active { Style::new().fg(Color::Cyan).add_modifier(Modifier::BOLD) } else { dim() };
        let spans = vec![
            Span::styled(format!("{label:label_columns$}", label_columns = label_columns as usize), style),
            Span::raw(shown),
        ];
        put(buffer, inside, row, Line::from(spans));
        if is_active && row < inside.height {
            cursor = Some((inside.x + label_columns + at, inside.y + row));
        }
    }
    cursor
}

fn dialog_info(model: &Model, info: &Info, frame: &mut Frame<'_>) -> Option<(u16, u16)> {
    let c = model.conversations.get(&info.conversation)?;
    let members = info.members.as_deref().unwrap_or_default();
    let title = fit(&model.title(info.conversation, c), 50);
    let inside = popup(frame, &title, 64, (members.len() as u16).saturating_add(6).clamp(10, 30));
    let is_group = c.kind == Kind::Group;
    let columns = usize::from(inside.width);
    let buffer = frame.buffer_mut();
    let rows = inside.height.saturating_sub(3);
    let first = (info.chosen + 1).saturating_sub(usize::from(rows));
    if info.members.is_none() && info.error.is_none() {
        put(buffer, inside, 0, Line::styled("asking the server…", dim()));
    }
    for (row, (at, (user, role))) in
        members.iter().enumerate().skip(first).take(usize::from(rows)).enumerate()
    {
        let role = role.map_or("", output::role);
        let id = format!("{user:.8}", user = user.to_string());
        let name = fit(&model.name(*user), columns.saturating_sub(26));
        let gap = columns.saturating_sub(26) - width(&name);
        let style =
            if at == info.chosen { Style::new().add_modifier(Modifier::REVERSED) } else { Style::new() };
        let line = format!(" {name}{:gap$}  {role:8}  {id:>8} ", "");
        put(buffer, inside, row as u16, Line::styled(line, style));
    }
    let last = inside.height.saturating_sub(1);
    if let Some((prompt, input)) = &info.prompt {
        let label = match prompt {
            Prompt::Name(_) => "Name: ",
            Prompt::Add => "Add: ",
            Prompt::Title => "Title: ",
            Prompt::Leave => "Leave this group? Type yes: ",
        };
        let (shown, at) = input.row(usize::from(inside.width.saturating_sub(label.len() as u16)));
        put(
            buffer,
            inside,
            last,
            Line::from(vec![Span::styled(label, Style::new().fg(Color::Cyan)), Span::raw(shown)]),
        );
        return Some((inside.x + label.len() as u16 + at, inside.y + last));
    }
    let text = match &info.error {
        Some(error) => Line::styled(fit(&text::shown_line(error), columns), Style::new().fg(Color::Red)),
        None if is_group => Line::styled("n name   a add   t title   l leave", dim()),
        None if c.read_by_all > Seq(0) || c.delivered_by_all > Seq(0) => {
            let all = |seq: Seq| {
                if seq >= c.head { "everything".into() } else { format!("up to {seq} of {}", c.head) }
            };
            Line::styled(
                format!("n name     received {}, read {}", all(c.delivered_by_all), all(c.read_by_all)),
                dim(),
            )
        }
        None => Line::styled("n name", dim()),
    };
    put(buffer, inside, last, text);
    None
}
