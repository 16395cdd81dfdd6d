//! What an event does to the model, and what is to be done about it.

use std::time::Duration;

use ratatui::crossterm::event::{KeyEvent, MouseEvent};
use tern_client::{
    Change, ConnectionState, ConversationId, ConversationPage, ConversationState, Entry,
    Event as ClientEvent, HistoryPage, Kind, Lost, ReceiptsMoved, Role, SendOk, Seq, Target, UserId,
    UserReceipt,
};

use super::keys;
use super::layout;
use super::lost::{self, Key, Lost as LostMessage};
use super::messages;
use super::model::{Conversation, Dialog, Fate, Link, Model, PENDING_MAX, Pending};
use super::text;

/// After a reset.
const SET_BACK: &str = "the server was set back to an older state: what it lost is gone here too";

/// Something that happened.
#[derive(Debug)]
pub(super) enum Event {
    Key(KeyEvent),
    Mouse(MouseEvent),
    Paste(String),
    Resize(u16, u16),
    Focus(bool),
    /// Time passes: since the start, and the wall clock.
    Tick(Duration, u64),
    Client(ClientEvent),
    /// A page of the conversation list.
    Listed(Result<ConversationPage, String>),
    /// One conversation, as the list has it.
    Looked(Result<Option<ConversationState>, String>),
    /// A page of older entries.
    Paged(ConversationId, Result<HistoryPage, String>),
    Members(ConversationId, Result<Vec<(UserId, Role)>, String>),
    Receipts(ConversationId, Result<Vec<UserReceipt>, String>),
    /// A message is stored on this device.
    Stored(u64),
    /// A message is decided.
    Sent(u64, Result<SendOk, String>),
    Created(Result<ConversationId, String>),
    Changed(Result<(), String>),
    /// Own messages that the server has lost, and for which the user has not been asked.
    Lost(Vec<LostMessage>),
    /// Something on this device went wrong.
    Failed(String),
}

/// Something to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Effect {
    Quit,
    /// All of the screen, whatever the terminal has made of it.
    Repaint,
    /// A page of the conversation list.
    List {
        after: Option<ConversationId>,
    },
    /// One row of it.
    Look(ConversationId),
    /// Entries before this one; `None`: the newest.
    Page {
        conversation: ConversationId,
        before: Option<Seq>,
    },
    Receipts(ConversationId),
    Members(ConversationId),
    Send {
        local: u64,
        target: Target,
        text: String,
    },
    Read {
        conversation: ConversationId,
        seq: Seq,
    },
    Create {
        title: String,
        members: Vec<UserId>,
    },
    Change {
        conversation: ConversationId,
        change: Change,
    },
    SaveBook,
    /// Which own messages has the server lost?
    FindLost,
    /// The user was asked for these: never again.
    Asked(Vec<Key>),
}

/// Takes an event into account.
pub(super) fn update(model: &mut Model, event: Event) -> Vec<Effect> {
    let mut effects = Vec::new();
    match event {
        Event::Key(key) => keys::on_key(model, key, &mut effects),
        Event::Mouse(mouse) => keys::on_mouse(model, mouse, &mut effects),
        Event::Paste(text) => keys::on_paste(model, &text),
        Event::Resize(columns, rows) => {
            model.size = (columns, rows);
            keys::scroll(model, 0, &mut effects);
        }
        Event::Focus(focused) => model.focused = focused,
        Event::Tick(now, wall_ms) => (model.now, model.wall_ms) = (now, wall_ms),
        Event::Client(event) => on_client(model, event, &mut effects),
        Event::Listed(Ok(page)) => {
            for state in &page.conversations {
                on_row(model, state);
            }
            if page.next.is_some() {
                effects.push(Effect::List { after: page.next });
            }
        }
        Event::Looked(Ok(Some(state))) => on_row(model, &state),
        Event::Looked(Ok(None)) => {}
        Event::Paged(id, Ok(page)) => on_page(model, id, &page),
        Event::Paged(id, Err(why)) => {
            if let Some(c) = model.conversations.get_mut(&id) {
                // Of a direct chat without a message the server knows nothing.
                let is_empty = c.newest().is_none() && c.kind == Kind::Direct;
                c.loading = false;
                if !is_empty {
                    model.notice = Some(why);
                }
            }
        }
        Event::Members(id, result) => on_members(model, id, result),
        Event::Receipts(id, Ok(receipts)) => on_receipts(model, id, &receipts),
        // Ticks that stay single for a moment are no news.
        Event::Receipts(_, Err(_)) => {}
        Event::Stored(local) => {
            if let Some(pending) = model.pending_mut(local)
                && pending.fate == Fate::Held
            {
                pending.fate = Fate::Queued;
            }
        }
        Event::Lost(found) => lost::on_found(model, found),
        Event::Sent(local, result) => on_sent(model, local, result),
        Event::Created(Ok(id)) => {
            model.notice = None;
            if model.conversation(id).is_some() {
                open(model, id, &mut effects);
            }
        }
        Event::Changed(Ok(())) => {
            if let Some(Dialog::Info(info)) = &model.dialog {
                effects.push(Effect::Members(info.conversation));
            }
        }
        Event::Changed(Err(why)) => match &mut model.dialog {
            Some(Dialog::Info(info)) => info.error = Some(why),
            _ => model.notice = Some(why),
        },
        Event::Listed(Err(why)) | Event::Looked(Err(why)) | Event::Created(Err(why)) | Event::Failed(why) => {
            model.notice = Some(why);
        }
    }
    model.sort();
    mark_read(model, &mut effects);
    effects
}

/// Shows a conversation and gives it the keys.
pub(super) fn open(model: &mut Model, id: ConversationId, effects: &mut Vec<Effect>) {
    if model.open != Some(id) {
        if let Some((_, before)) = model.opened_mut() {
            before.trim(super::model::ENTRIES_KEPT);
            (before.scroll, before.divider) = (0, None);
        }
        model.search = None;
        let me = model.me;
        let Some(c) = model.conversations.get_mut(&id) else { return };
        c.divider = (c.unread > 0 || c.unread_above(c.read, me) > 0).then(|| c.read.next());
        if !c.loaded && !c.loading {
            (c.loaded, c.loading) = (true, true);
            effects.push(Effect::Page { conversation: id, before: None });
        }
        if c.kind == Kind::Group {
            effects.push(Effect::Receipts(id));
            effects.push(Effect::Members(id));
        }
        model.open = Some(id);
        effects.push(Effect::Repaint);
    }
    model.chosen = Some(id);
    model.pane = super::model::Pane::Chat;
    lost::offer(model);
}

/// Queues what is in the edit line.
pub(super) fn send(model: &mut Model, effects: &mut Vec<Effect>) {
    let Some((id, c)) = model.opened() else { return };
    if c.input.text().trim().is_empty() {
        return;
    }
    model.notice = refusal(model, id);
    if model.notice.is_none()
        && let Some((_, c)) = model.opened_mut()
    {
        let text = c.input.take();
        queue(model, id, text, effects);
    }
}

/// Why no further message can wait for the server.
pub(super) fn refusal(model: &Model, id: ConversationId) -> Option<String> {
    let waiting = model.pending().filter(|p| !matches!(p.fate, Fate::Refused(_))).count();
    if model.conversations.get(&id).is_none_or(|c| !c.is_member) {
        Some("you are no longer a member of this group".into())
    } else if waiting >= PENDING_MAX {
        Some(format!("{PENDING_MAX} messages wait for the server: wait for them to be sent"))
    } else {
        None
    }
}

/// Lets a message wait for the server.
pub(super) fn queue(model: &mut Model, id: ConversationId, text: String, effects: &mut Vec<Effect>) {
    let (local, wall_ms) = (model.next_local(), model.wall_ms);
    let Some(c) = model.conversations.get_mut(&id) else { return };
    let target = match (c.kind, c.peer) {
        (Kind::Direct, Some(peer)) => Target::User(peer),
        _ => Target::Conversation(id),
    };
    let time_ms = wall_ms.max(c.time_ms);
    let shown = super::model::shortened(&text);
    c.pending.push(Pending { local, client_seq: None, text: shown, time_ms, fate: Fate::Held });
    (c.scroll, c.divider) = (0, None);
    effects.push(Effect::Send { local, target, text });
}

/// What is seen counts as read: the end of the open conversation, in a window that has the keyboard.
fn mark_read(model: &mut Model, effects: &mut Vec<Effect>) {
    if !model.focused || model.dialog.is_some() || model.link != Link::Online {
        return;
    }
    if layout::areas(model).messages.height == 0 {
        return;
    }
    let Some((conversation, c)) = model.opened_mut() else { return };
    let Some(newest) = c.newest().map(|item| item.seq) else { return };
    if c.scroll == 0 && newest > c.read && newest >= c.head {
        (c.read, c.unread) = (newest, 0);
        effects.push(Effect::Read { conversation, seq: newest });
    }
}

fn on_client(model: &mut Model, event: ClientEvent, effects: &mut Vec<Effect>) {
    match event {
        ClientEvent::Connection(state) => on_connection(model, state, effects),
        ClientEvent::Entry { conversation, entry } => on_entry(model, conversation, &entry, effects),
        ClientEvent::Conversation(state) => {
            if let Some(c) = model.conversation(state.conversation) {
                c.learn(&state);
                if state.read >= state.head {
                    c.unread = 0;
                }
            }
        }
        ClientEvent::Receipts(moved) => on_moved(model, &moved),
        ClientEvent::Trimmed { conversation, to, .. } => {
            if let Some(c) = model.conversation(conversation) {
                c.raise_floor(to.next());
            }
        }
        ClientEvent::HistoryReset { .. } => {
            let shown = [model.open, model.chosen];
            let peers = model.conversations.iter().filter_map(|(id, c)| Some((*id, c.peer?)));
            model.peers = peers.collect();
            model.conversations.retain(|id, c| {
                shown.contains(&Some(*id)) || !c.pending.is_empty() || !c.input.text().is_empty()
            });
            // The list is asked for when the connection stands.
            model.listed = false;
            for id in model.conversations.keys().copied().collect::<Vec<_>>() {
                on_reset(model, id, effects);
            }
            model.notice = Some(SET_BACK.into());
        }
        ClientEvent::Reset { conversation, .. } => {
            on_reset(model, conversation, effects);
            model.notice = Some(SET_BACK.into());
        }
        ClientEvent::Recovered { conversation, client_seq, result } => {
            let Some(c) = model.conversations.get_mut(&conversation) else { return };
            // One that got another number went behind the others.
            let left = |p: &&mut Pending| {
                p.client_seq.is_some() && !matches!(p.fate, Fate::Sent(_) | Fate::Refused(_))
            };
            let exact = c.pending.iter().any(|p| p.client_seq == Some(client_seq));
            let found =
                c.pending.iter_mut().filter(left).find(|p| !exact || p.client_seq == Some(client_seq));
            if let Some(local) = found.map(|p| p.local) {
                on_sent(model, local, result.map_err(|e| format!("{} ({})", e.code, e.text)));
            }
        }
        ClientEvent::CaughtUp => effects.push(Effect::FindLost),
    }
}

fn on_reset(model: &mut Model, conversation: ConversationId, effects: &mut Vec<Effect>) {
    let is_open = model.open == Some(conversation);
    if let Some(c) = model.conversation(conversation) {
        c.clear();
        if is_open {
            (c.loaded, c.loading) = (true, true);
            effects.push(Effect::Page { conversation, before: None });
        }
    }
}

fn on_connection(model: &mut Model, state: ConnectionState, effects: &mut Vec<Effect>) {
    model.link = match state {
        ConnectionState::Connecting => Link::Connecting,
        ConnectionState::Online { user } => {
            model.me = Some(user);
            if !model.listed {
                model.listed = true;
                effects.push(Effect::List { after: None });
            }
            Link::Online
        }
        ConnectionState::Offline { reason, retry_in } => {
            let reason = match reason {
                Lost::Unreachable(why) => why,
                other => other.to_string(),
            };
            Link::Offline { reason, retry_at: model.now + retry_in }
        }
        ConnectionState::Stopped(stop) => Link::Stopped(stop.to_string()),
    };
}

fn on_entry(model: &mut Model, id: ConversationId, entry: &Entry, effects: &mut Vec<Effect>) {
    let (me, device, is_open) = (model.me, model.device, model.open == Some(id));
    let known = model.conversations.contains_key(&id);
    let columns = usize::from(layout::areas(model).messages.width);
    let scrolled = model.conversations.get(&id).filter(|c| is_open && c.scroll > 0);
    let before = scrolled.map(|c| messages::height(model, c, columns));
    let Some(c) = model.conversation(id) else { return };
    if !c.add(entry, is_open) {
        return;
    }
    if c.kind == Kind::Direct && c.peer.is_none() && Some(entry.sender.user) != me {
        c.peer = Some(entry.sender.user);
    }
    let is_mine = Some(entry.sender.user) == me;
    if is_mine && entry.sender.device == device {
        settle(c, entry);
    }
    if entry.seq > c.counted && entry.seq > c.read {
        c.counted = entry.seq;
        if matches!(entry.change, Change::Message(_)) && !is_mine {
            c.unread += 1;
        }
    }
    let mut members_changed = false;
    match &entry.change {
        Change::Create { title, .. } | Change::Title { title } => c.title = super::model::title(title),
        Change::Remove { member } if Some(*member) == me => c.is_member = false,
        Change::Leave if is_mine => c.is_member = false,
        Change::Add { members } => {
            members_changed = true;
            if me.is_some_and(|me| members.contains(&me)) {
                c.is_member = true;
            }
        }
        Change::Remove { .. } | Change::Leave | Change::Role { .. } => members_changed = true,
        Change::Message(_) | Change::Unknown => {}
    }
    let nameless = match c.kind {
        Kind::Direct => c.peer.is_none(),
        Kind::Group => c.title.is_empty(),
    };
    if !known && nameless {
        effects.push(Effect::Look(id));
    }
    if members_changed && is_open && c.is_member {
        effects.push(Effect::Members(id));
    }
    // What is being read stays where it is.
    if let Some(before) = before
        && let Some(c) = model.conversations.get(&id)
    {
        let grown = messages::height(model, c, columns).saturating_sub(before);
        if let Some(c) = model.conversations.get_mut(&id) {
            c.scroll += grown;
        }
    }
}

/// An own message came back from the server as an entry.
fn settle(c: &mut Conversation, entry: &Entry) {
    let Change::Message(message) = &entry.change else { return };
    let text = super::model::shortened(&String::from_utf8_lossy(&message.payload));
    let by_seq = c.pending.iter().position(|p| p.fate == Fate::Sent(entry.seq));
    // The sends of a device keep their order.
    let by_text =
        || c.pending.iter().position(|p| matches!(p.fate, Fate::Held | Fate::Queued) && p.text == text);
    if let Some(at) = by_seq.or_else(by_text) {
        c.pending.remove(at);
    }
}

fn on_sent(model: &mut Model, local: u64, result: Result<SendOk, String>) {
    match result {
        Ok(ok) => {
            let Some(c) = model.conversations.get_mut(&ok.conversation) else { return };
            if c.has(ok.seq) {
                c.pending.retain(|p| p.local != local);
            } else if let Some(pending) = model.pending_mut(local) {
                pending.fate = Fate::Sent(ok.seq);
                pending.time_ms = ok.time.0;
            }
        }
        Err(why) => {
            if let Some(pending) = model.pending_mut(local) {
                pending.fate = Fate::Refused(text::clean_line(&why));
            }
        }
    }
}

/// A row of the conversation list.
fn on_row(model: &mut Model, state: &ConversationState) {
    let (me, is_open) = (model.me, model.open == Some(state.conversation));
    let Some(c) = model.conversation(state.conversation) else { return };
    c.learn(state);
    take_up(c, &state.entries, is_open);
    if state.read >= c.read {
        // Besides those that came meanwhile.
        c.unread = state.unread + c.unread_above(state.head, me);
        c.counted = c.counted.max(state.head);
    }
}

fn on_page(model: &mut Model, id: ConversationId, page: &HistoryPage) {
    let is_open = model.open == Some(id);
    let Some(c) = model.conversations.get_mut(&id) else { return };
    c.loading = false;
    c.floor = c.floor.max(page.floor);
    take_up(c, &page.entries, is_open);
}

/// Entries that were asked for. Own ones may be among them whose sends were answered before.
fn take_up(c: &mut Conversation, entries: &[Entry], is_open: bool) {
    for entry in entries {
        c.add(entry, is_open);
        c.pending.retain(|pending| pending.fate != Fate::Sent(entry.seq));
    }
}

fn on_members(model: &mut Model, id: ConversationId, result: Result<Vec<(UserId, Role)>, String>) {
    if let (Ok(members), Some(c)) = (&result, model.conversations.get_mut(&id)) {
        c.member_count = Some(members.len() as u32);
    }
    if let Some(Dialog::Info(info)) = &mut model.dialog
        && info.conversation == id
    {
        match result {
            Ok(members) => {
                info.chosen = info.chosen.min(members.len().saturating_sub(1));
                info.members = Some(members.into_iter().map(|(user, role)| (user, Some(role))).collect());
            }
            Err(why) => info.error = Some(why),
        }
    }
}

fn on_receipts(model: &mut Model, id: ConversationId, receipts: &[UserReceipt]) {
    let me = model.me;
    let Some(c) = model.conversations.get_mut(&id) else { return };
    let others = || receipts.iter().filter(|r| Some(r.user) != me);
    c.delivered_by_all = c.delivered_by_all.max(others().map(|r| r.delivered).min().unwrap_or_default());
    c.read_by_all = c.read_by_all.max(others().map(|r| r.read).min().unwrap_or_default());
}

fn on_moved(model: &mut Model, moved: &ReceiptsMoved) {
    let me = model.me;
    let Some(c) = model.conversations.get_mut(&moved.conversation) else { return };
    for receipt in &moved.users {
        if Some(receipt.user) == me {
            if receipt.read > c.read {
                c.read = receipt.read;
                c.unread = if c.read >= c.head { 0 } else { c.unread.min(c.unread_above(c.read, me)) };
            }
        } else if c.kind == Kind::Direct {
            c.delivered_by_all = c.delivered_by_all.max(receipt.delivered);
            c.read_by_all = c.read_by_all.max(receipt.read);
        }
    }
    for count in &moved.counts {
        if count.delivered >= count.members {
            c.delivered_by_all = c.delivered_by_all.max(count.seq);
        }
        if count.read >= count.members {
            c.read_by_all = c.read_by_all.max(count.seq);
        }
    }
}
