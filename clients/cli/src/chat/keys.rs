//! Keys, clicks and pasted text.

use std::collections::BTreeSet;

use ratatui::crossterm::event::{
    KeyCode, KeyEvent, KeyEventKind, KeyModifiers, MouseButton, MouseEvent, MouseEventKind,
};
use ratatui::layout::Position;
use tern_client::{Change, ConversationId, Kind};

use super::help;
use super::input::{Input, Step};
use super::layout::{self, LIST_ITEM_ROWS};
use super::lost;
use super::messages;
use super::model::{Body, Dialog, Fate, Info, Model, NewChat, Pane, Prompt, Search};
use super::text;
use super::update::{Effect, open, send};
use crate::args::{self, User};

/// Lines that a turn of the wheel scrolls.
const WHEEL_LINES: isize = 3;
/// Closer than this to the beginning, older entries are asked for.
const LOAD_AHEAD_LINES: usize = 20;

pub(super) fn on_key(model: &mut Model, key: KeyEvent, effects: &mut Vec<Effect>) {
    if key.kind == KeyEventKind::Release {
        return;
    }
    model.notice = None;
    let ctrl = key.modifiers.contains(KeyModifiers::CONTROL);
    match key.code {
        KeyCode::Char('q' | 'c') if ctrl => return quit(model, effects),
        KeyCode::F(1) => return toggle_help(model),
        KeyCode::Char('l') if ctrl => return effects.push(Effect::Repaint),
        KeyCode::Char('n') if ctrl => model.dialog = Some(Dialog::New(NewChat::new())),
        KeyCode::Char('g') if ctrl => open_info(model, effects),
        _ if model.dialog.is_some() => on_dialog_key(model, key, effects),
        KeyCode::Char('f') if ctrl => open_search(model),
        _ if model.search.is_some() => on_search_key(model, key, effects),
        KeyCode::Tab | KeyCode::BackTab => {
            model.pane =
                if model.pane == Pane::List && model.open.is_some() { Pane::Chat } else { Pane::List };
        }
        KeyCode::Up | KeyCode::Down if key.modifiers.contains(KeyModifiers::ALT) => {
            choose(model, if key.code == KeyCode::Up { -1 } else { 1 });
            open_chosen(model, effects);
        }
        _ if model.pane == Pane::List => on_list_key(model, key, effects),
        _ => on_chat_key(model, key, effects),
    }
    model.warned = false;
}

/// Before the first login nothing can be stored, so it would be lost: that is asked for twice.
fn quit(model: &mut Model, effects: &mut Vec<Effect>) {
    let held = model.pending().filter(|p| p.fate == Fate::Held).count();
    if model.me.is_none() && held > 0 && !model.warned {
        model.warned = true;
        let what = if held == 1 { "one message is".into() } else { format!("{held} messages are") };
        model.notice = Some(format!("{what} kept by nobody yet: Ctrl-Q again to quit and lose that"));
        return;
    }
    effects.push(Effect::Quit);
}

fn toggle_help(model: &mut Model) {
    model.dialog = match model.dialog {
        Some(Dialog::Help { .. }) => None,
        _ => Some(Dialog::Help { scroll: 0 }),
    };
}

fn on_list_key(model: &mut Model, key: KeyEvent, effects: &mut Vec<Effect>) {
    let page = layout::list_window(model).1 as isize;
    match key.code {
        KeyCode::Up => choose(model, -1),
        KeyCode::Down => choose(model, 1),
        KeyCode::PageUp => choose(model, -page),
        KeyCode::PageDown => choose(model, page),
        KeyCode::Home => choose(model, isize::MIN),
        KeyCode::End => choose(model, isize::MAX),
        KeyCode::Enter | KeyCode::Right => open_chosen(model, effects),
        KeyCode::Char('?') => toggle_help(model),
        _ => {}
    }
}

fn choose(model: &mut Model, by: isize) {
    let last = model.order.len().saturating_sub(1);
    let row = model.chosen_row().saturating_add_signed(by).min(last);
    model.chosen = model.order.get(row).copied();
}

fn open_chosen(model: &mut Model, effects: &mut Vec<Effect>) {
    if let Some(id) = model.chosen.filter(|id| model.conversations.contains_key(id)) {
        open(model, id, effects);
    }
}

fn on_chat_key(model: &mut Model, key: KeyEvent, effects: &mut Vec<Effect>) {
    let ctrl = key.modifiers.contains(KeyModifiers::CONTROL);
    let page = isize::from(layout::areas(model).messages.height as i16 - 1).max(1);
    match key.code {
        KeyCode::Enter if key.modifiers.contains(KeyModifiers::ALT) => typed(model, "\n"),
        KeyCode::Char('j') if ctrl => typed(model, "\n"),
        KeyCode::Enter => send(model, effects),
        KeyCode::Esc => model.pane = Pane::List,
        KeyCode::Up => scroll(model, 1, effects),
        KeyCode::Down => scroll(model, -1, effects),
        KeyCode::PageUp => scroll(model, page, effects),
        KeyCode::PageDown => scroll(model, -page, effects),
        KeyCode::Home if ctrl => scroll(model, isize::MAX, effects),
        KeyCode::End if ctrl => scroll(model, isize::MIN, effects),
        _ => {
            let fits = model.opened_mut().is_none_or(|(_, c)| edit(&mut c.input, key));
            if !fits {
                too_long(model);
            }
        }
    }
}

/// A key in an edit line. False: there is no room for it.
fn edit(input: &mut Input, key: KeyEvent) -> bool {
    let ctrl = key.modifiers.contains(KeyModifiers::CONTROL);
    let alt = key.modifiers.contains(KeyModifiers::ALT);
    match key.code {
        KeyCode::Left if ctrl || alt => input.go(Step::WordLeft),
        KeyCode::Right if ctrl || alt => input.go(Step::WordRight),
        KeyCode::Char('b') if alt => input.go(Step::WordLeft),
        KeyCode::Char('f') if alt => input.go(Step::WordRight),
        KeyCode::Left => input.go(Step::Left),
        KeyCode::Right => input.go(Step::Right),
        KeyCode::Home => input.go(Step::Home),
        KeyCode::End => input.go(Step::End),
        KeyCode::Char('a') if ctrl => input.go(Step::Home),
        KeyCode::Char('e') if ctrl => input.go(Step::End),
        KeyCode::Backspace if ctrl || alt => input.delete(Step::WordLeft),
        KeyCode::Backspace => input.delete(Step::Left),
        KeyCode::Delete => input.delete(Step::Right),
        KeyCode::Char('d') if ctrl => input.delete(Step::Right),
        KeyCode::Char('w') if ctrl => input.delete(Step::WordLeft),
        KeyCode::Char('u') if ctrl => input.delete(Step::Home),
        KeyCode::Char('k') if ctrl => input.delete(Step::End),
        KeyCode::Char(c) if !ctrl && !alt => return input.insert(c.encode_utf8(&mut [0; 4])),
        _ => {}
    }
    true
}

fn typed(model: &mut Model, text: &str) {
    if model.opened_mut().is_some_and(|(_, c)| !c.input.insert(text)) {
        too_long(model);
    }
}

fn too_long(model: &mut Model) {
    model.notice = Some("that is too long for one message: 65,536 bytes fit".into());
}

pub(super) fn on_paste(model: &mut Model, text: &str) {
    let line = text::clean_line(text);
    let fits = match (&mut model.dialog, &mut model.search) {
        (Some(Dialog::New(new)), _) => {
            if new.in_title {
                new.title.insert(&line)
            } else {
                new.names.insert(&line)
            }
        }
        (Some(Dialog::Info(Info { prompt: Some((_, input)), .. })), _) => input.insert(&line),
        (Some(_), _) => true,
        (None, Some(search)) => search.query.insert(&line),
        (None, None) if model.pane == Pane::Chat => return typed(model, text),
        (None, None) => true,
    };
    if !fits {
        model.notice = Some("that is too long".into());
    }
}

/// Moves the open conversation by so many lines, up when positive, as far as there is something.
pub(super) fn scroll(model: &mut Model, by: isize, effects: &mut Vec<Effect>) {
    let area = layout::areas(model).messages;
    let Some((conversation, c)) = model.opened() else { return };
    let wanted = c.scroll.saturating_add_signed(by);
    let all = if wanted == 0 { 0 } else { messages::height(model, c, usize::from(area.width)) };
    let most = all.saturating_sub(usize::from(area.height));
    let Some((_, c)) = model.opened_mut() else { return };
    c.scroll = wanted.min(most);
    if by > 0 && wanted + LOAD_AHEAD_LINES > most && !c.loading && c.has_older() {
        c.loading = true;
        effects.push(Effect::Page { conversation, before: c.first() });
    }
}

fn open_search(model: &mut Model) {
    if model.open.is_some() {
        model.pane = Pane::Chat;
        model.search = Some(Search { query: Input::new(256), found: None });
    }
}

fn on_search_key(model: &mut Model, key: KeyEvent, effects: &mut Vec<Effect>) {
    match key.code {
        KeyCode::Esc => model.search = None,
        KeyCode::Enter | KeyCode::Up => find(model, true, effects),
        KeyCode::Down => find(model, false, effects),
        _ => {
            let Some(search) = &mut model.search else { return };
            if edit(&mut search.query, key) {
                search.found = None;
                find(model, true, effects);
            }
        }
    }
}

/// Goes to the next older or newer message with the text, and shows it.
fn find(model: &mut Model, older: bool, effects: &mut Vec<Effect>) {
    let (Some(search), Some((_, c))) = (&model.search, model.opened()) else { return };
    let query = text::shown(search.query.text()).to_lowercase();
    if query.is_empty() {
        return;
    }
    let fits = |text: &str| text.to_lowercase().contains(&query);
    let hits = c
        .back()
        .filter(|item| matches!(&item.body, Body::Text { text, .. } if fits(text)))
        .map(|item| item.seq);
    let next = match (search.found, older) {
        (None, _) => hits.take(1).last(),
        (Some(at), true) => hits.skip_while(|seq| *seq >= at).take(1).last(),
        (Some(at), false) => hits.take_while(|seq| *seq > at).last(),
    };
    let Some(found) = next else {
        let what = if search.found.is_some() { "no more of it" } else { "not found" };
        let is_whole = c.first().is_none_or(|first| first <= c.floor);
        model.notice = Some(match (older, is_whole, c.loading || c.has_older()) {
            (false, ..) => format!("{what} below"),
            (true, true, _) => format!("{what} in this conversation"),
            (true, false, true) => format!("{what} so far: scroll up for more"),
            (true, false, false) => format!("{what} in what is loaded; older: tern history"),
        });
        return;
    };
    let area = layout::areas(model).messages;
    let below = messages::height_below(model, c, usize::from(area.width), found);
    if let Some(search) = &mut model.search {
        search.found = Some(found);
    }
    if let Some((_, c)) = model.opened_mut() {
        c.scroll = below.saturating_sub(usize::from(area.height) / 2);
    }
    scroll(model, 0, effects);
}

fn open_info(model: &mut Model, effects: &mut Vec<Effect>) {
    let Some(conversation) = model.open.or(model.chosen) else { return };
    let Some(c) = model.conversations.get(&conversation) else { return };
    let members = match c.kind {
        Kind::Direct => Some(model.me.into_iter().chain(c.peer).map(|user| (user, None)).collect()),
        Kind::Group => {
            effects.push(Effect::Members(conversation));
            None
        }
    };
    let chosen = usize::from(c.kind == Kind::Direct);
    model.dialog = Some(Dialog::Info(Info { conversation, members, chosen, prompt: None, error: None }));
}

fn on_dialog_key(model: &mut Model, key: KeyEvent, effects: &mut Vec<Effect>) {
    match &mut model.dialog {
        Some(Dialog::Help { .. }) => on_help_key(model, key),
        Some(Dialog::New(new)) => match key.code {
            KeyCode::Esc => model.dialog = None,
            KeyCode::Tab | KeyCode::BackTab | KeyCode::Up | KeyCode::Down => new.in_title = !new.in_title,
            KeyCode::Enter => create(model, effects),
            _ => {
                new.error = None;
                let fits = edit(if new.in_title { &mut new.title } else { &mut new.names }, key);
                if !fits {
                    new.error = Some("that is too long".into());
                }
            }
        },
        Some(Dialog::Info(_)) => on_info_key(model, key, effects),
        Some(Dialog::Lost(id)) => {
            let id = *id;
            match key.code {
                KeyCode::Enter => lost::send_again(model, id, effects),
                KeyCode::Esc => lost::dismiss(model, id, effects),
                _ => {}
            }
        }
        None => {}
    }
}

fn on_help_key(model: &mut Model, key: KeyEvent) {
    let page = help::page(model);
    match key.code {
        KeyCode::Up => help::scroll(model, -1),
        KeyCode::Down => help::scroll(model, 1),
        KeyCode::PageUp => help::scroll(model, -page),
        KeyCode::PageDown | KeyCode::Char(' ') => help::scroll(model, page),
        KeyCode::Home => help::scroll(model, isize::MIN),
        KeyCode::End => help::scroll(model, isize::MAX),
        _ => model.dialog = None,
    }
}

/// Names that were typed, and whom they name.
fn users(names: &str) -> Result<Vec<User>, String> {
    let names = names.split([',', ' ', '\n']).filter(|name| !name.is_empty());
    names.map(args::user).collect()
}

/// Remembers whom the user named. A UUID is no name.
fn remember(model: &mut Model, users: &[User], effects: &mut Vec<Effect>) {
    let mut changed = false;
    for User { id, sub } in users {
        changed |= sub.as_ref().is_some_and(|sub| model.book.set(*id, sub));
    }
    if changed {
        effects.push(Effect::SaveBook);
    }
}

fn create(model: &mut Model, effects: &mut Vec<Effect>) {
    let me = model.me;
    let Some(Dialog::New(new)) = &mut model.dialog else { return };
    let title = new.title.text().trim().to_owned();
    let mut named = match users(new.names.text()) {
        Ok(named) if named.is_empty() && title.is_empty() => Err("name somebody first".into()),
        Ok(named) if named.len() > 1 && title.is_empty() => {
            new.in_title = true;
            Err("a group needs a title".into())
        }
        Ok(_) if me.is_none() => Err("not before the first login: there is no connection yet".into()),
        other => other,
    };
    let (Ok(named), Some(me)) = (&mut named, me) else {
        new.error = named.err();
        return;
    };
    let mut seen = BTreeSet::new();
    named.retain(|user| seen.insert(user.id));
    model.dialog = None;
    remember(model, named, effects);
    if title.is_empty() {
        let [User { id: peer, .. }] = named[..] else { return };
        let id = ConversationId::direct(me, peer);
        if let Some(c) = model.conversation(id) {
            c.peer = Some(peer);
            open(model, id, effects);
        }
    } else {
        let members = named.iter().map(|user| user.id).filter(|user| *user != me).collect();
        model.notice = Some(format!("making the group {title}…"));
        effects.push(Effect::Create { title, members });
    }
}

fn on_info_key(model: &mut Model, key: KeyEvent, effects: &mut Vec<Effect>) {
    let Some(Dialog::Info(info)) = &mut model.dialog else { return };
    if let Some((_, input)) = &mut info.prompt {
        match key.code {
            KeyCode::Esc => info.prompt = None,
            KeyCode::Enter => on_prompt(model, effects),
            _ => {
                if !edit(input, key) {
                    info.error = Some("that is too long".into());
                }
            }
        }
        return;
    }
    info.error = None;
    let is_group = model.conversations.get(&info.conversation).is_some_and(|c| c.kind == Kind::Group);
    let members = info.members.as_deref().unwrap_or_default();
    let prompt = match key.code {
        KeyCode::Esc | KeyCode::Enter => {
            model.dialog = None;
            return;
        }
        KeyCode::Up => {
            info.chosen = info.chosen.saturating_sub(1);
            None
        }
        KeyCode::Down => {
            info.chosen = (info.chosen + 1).min(members.len().saturating_sub(1));
            None
        }
        KeyCode::Char('n') => members
            .get(info.chosen)
            .filter(|(user, _)| Some(*user) != model.me)
            .map(|(user, _)| Prompt::Name(*user)),
        KeyCode::Char('a') if is_group => Some(Prompt::Add),
        KeyCode::Char('t') if is_group => Some(Prompt::Title),
        KeyCode::Char('l') if is_group => Some(Prompt::Leave),
        _ => None,
    };
    info.prompt = prompt.map(|prompt| (prompt, Input::new(crate::book::NAME_BYTES_MAX)));
}

fn on_prompt(model: &mut Model, effects: &mut Vec<Effect>) {
    let Some(Dialog::Info(info)) = &mut model.dialog else { return };
    let Some((prompt, mut input)) = info.prompt.take() else { return };
    let conversation = info.conversation;
    let text = input.take();
    let text = text.trim();
    let change = match prompt {
        Prompt::Name(user) => {
            if model.book.set(user, text) {
                effects.push(Effect::SaveBook);
            }
            return;
        }
        Prompt::Add => match users(text) {
            Ok(named) if named.is_empty() => return,
            Ok(named) => {
                remember(model, &named, effects);
                Change::Add { members: named.into_iter().map(|user| user.id).collect() }
            }
            Err(why) => {
                info.error = Some(why);
                return;
            }
        },
        Prompt::Title if text.is_empty() => return,
        Prompt::Title => Change::Title { title: text.to_owned() },
        Prompt::Leave if text.eq_ignore_ascii_case("yes") => Change::Leave,
        Prompt::Leave => return,
    };
    effects.push(Effect::Change { conversation, change });
}

pub(super) fn on_mouse(model: &mut Model, mouse: MouseEvent, effects: &mut Vec<Effect>) {
    match (&model.dialog, mouse.kind) {
        (None, _) => {}
        (Some(Dialog::Help { .. }), MouseEventKind::Down(_)) => return model.dialog = None,
        (Some(Dialog::Help { .. }), MouseEventKind::ScrollUp) => return help::scroll(model, -WHEEL_LINES),
        (Some(Dialog::Help { .. }), MouseEventKind::ScrollDown) => return help::scroll(model, WHEEL_LINES),
        (Some(_), _) => return,
    }
    let areas = layout::areas(model);
    let at = Position::new(mouse.column, mouse.row);
    let in_list = areas.list.contains(at);
    match mouse.kind {
        MouseEventKind::Down(MouseButton::Left) if in_list => {
            let row = layout::list_window(model).0 + usize::from((at.y - areas.list.y) / LIST_ITEM_ROWS);
            if let Some(id) = model.order.get(row).copied() {
                open(model, id, effects);
            }
        }
        MouseEventKind::Down(MouseButton::Left) if model.open.is_some() && at.x >= areas.header.x => {
            model.pane = Pane::Chat;
        }
        MouseEventKind::ScrollUp if in_list => choose(model, -1),
        MouseEventKind::ScrollDown if in_list => choose(model, 1),
        MouseEventKind::ScrollUp => scroll(model, WHEEL_LINES, effects),
        MouseEventKind::ScrollDown => scroll(model, -WHEEL_LINES, effects),
        _ => {}
    }
}
