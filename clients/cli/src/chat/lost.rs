//! Own messages that the server had confirmed and, restored from a backup, has no more: the user is asked once for each
//! whether it is to be sent again.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;

use ratatui::Frame;
use ratatui::style::{Color, Style};
use ratatui::text::Line;
use tern_client::{Change, ClientSeq, ConversationId, LocalHistory, StorageError};

use super::messages::{clock, date, dim};
use super::model::{Dialog, Model, Pane};
use super::text::{self, fit};
use super::update::{Effect, queue, refusal};
use super::view::{popup, put};
use crate::{file, output};

/// The history has 256 of them at most; a line has fewer than 100 bytes.
const FILE_BYTES_MAX: u64 = 256 * 100;
/// Of the box.
const COLUMNS: u16 = 64;
const ROWS_MAX: usize = 20;

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Lost {
    pub(super) key: Key,
    pub(super) text: String,
}

/// Which message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) conversation: ConversationId,
    pub(super) client_seq: ClientSeq,
    /// When it was stored, in milliseconds since 1970.
    pub(super) time_ms: u64,
}

/// For which the user has been asked, kept in a file of its own.
pub(super) struct Asked {
    path: PathBuf,
    history: LocalHistory,
    keys: BTreeSet<Key>,
}

impl Asked {
    /// Reads the file. One that cannot be read means that the user is asked again.
    pub(super) fn load(path: PathBuf, history: LocalHistory) -> Self {
        let lines = file::read(&path, FILE_BYTES_MAX).ok().flatten().unwrap_or_default();
        Self { path, history, keys: lines.lines().filter_map(key).collect() }
    }

    /// The lost messages for which the user has not been asked.
    ///
    /// # Errors
    /// When the history cannot be read.
    pub(super) fn open_ones(&self) -> Result<Vec<Lost>, StorageError> {
        let mut all = self.lost()?;
        all.retain(|lost| !self.keys.contains(&lost.key));
        Ok(all)
    }

    /// Never asks for these again.
    ///
    /// # Errors
    /// When that cannot be kept.
    pub(super) fn add(&mut self, keys: Vec<Key>) -> io::Result<()> {
        self.keys.extend(keys);
        // What the history has forgotten, nobody needs to remember.
        if let Ok(lost) = self.lost() {
            let known: BTreeSet<_> = lost.into_iter().map(|lost| lost.key).collect();
            self.keys.retain(|key| known.contains(key));
        }
        let line = |k: &Key| format!("{} {} {}\n", k.conversation, k.client_seq.get(), k.time_ms);
        file::replace(&self.path, &self.keys.iter().map(line).collect::<String>())
    }

    fn lost(&self) -> Result<Vec<Lost>, StorageError> {
        let lost = self.history.lost()?.into_iter().filter_map(|lost| {
            let Change::Message(message) = &lost.entry.change else { return None };
            let text = output::text(&message.content_type, &message.payload)?.to_owned();
            let (conversation, client_seq) = (lost.conversation, lost.entry.client_seq);
            Some(Lost { key: Key { conversation, client_seq, time_ms: lost.entry.time.0 }, text })
        });
        Ok(lost.collect())
    }
}

fn key(line: &str) -> Option<Key> {
    let mut words = line.split(' ');
    let conversation = words.next()?.parse().ok()?;
    let client_seq = ClientSeq(words.next()?.parse().ok()?);
    Some(Key { conversation, client_seq, time_ms: words.next()?.parse().ok()? })
}

/// `2 messages lost`
pub(super) fn count(lost: usize) -> String {
    if lost == 1 { "1 message lost".into() } else { format!("{lost} messages lost") }
}

/// Takes up what the history says.
pub(super) fn on_found(model: &mut Model, found: Vec<Lost>) {
    for c in model.conversations.values_mut() {
        c.lost.clear();
    }
    if matches!(model.dialog, Some(Dialog::Lost(_))) {
        model.dialog = None;
    }
    let all = found.len();
    for lost in found {
        let peer = model.peer(lost.key.conversation);
        if let Some(c) = model.conversation(lost.key.conversation) {
            c.peer = c.peer.or(peer);
            c.lost.push(lost);
        }
    }
    if all > 0 {
        model.notice = Some(format!("the server was set back: {} with it, marked ✗ in the list", count(all)));
    }
    // Nobody who is typing is interrupted.
    if model.pane == Pane::List || model.opened().is_some_and(|(_, c)| c.input.text().is_empty()) {
        offer(model);
    }
}

/// Asks for those of the open conversation.
pub(super) fn offer(model: &mut Model) {
    if let Some((id, c)) = model.opened()
        && !c.lost.is_empty()
        && model.dialog.is_none()
        && model.search.is_none()
    {
        model.dialog = Some(Dialog::Lost(id));
    }
}

/// Sends those of a conversation once more, as new messages, as many as there is room for.
pub(super) fn send_again(model: &mut Model, id: ConversationId, effects: &mut Vec<Effect>) {
    model.dialog = None;
    let mut asked = Vec::new();
    while model.conversations.get(&id).is_some_and(|c| !c.lost.is_empty()) {
        model.notice = refusal(model, id);
        let Some(c) = model.conversations.get_mut(&id).filter(|_| model.notice.is_none()) else { break };
        let lost = c.lost.remove(0);
        asked.push(lost.key);
        queue(model, id, lost.text, effects);
    }
    effects.push(Effect::Asked(asked));
}

/// Lets those of a conversation go.
pub(super) fn dismiss(model: &mut Model, id: ConversationId, effects: &mut Vec<Effect>) {
    model.dialog = None;
    if let Some(c) = model.conversations.get_mut(&id) {
        effects.push(Effect::Asked(c.lost.drain(..).map(|lost| lost.key).collect()));
    }
}

/// The messages, and what can be done.
pub(super) fn view(model: &Model, id: ConversationId, frame: &mut Frame<'_>) {
    let Some(c) = model.conversations.get(&id) else { return };
    let (screen_columns, screen_rows) = model.size;
    let columns = usize::from(COLUMNS.min(screen_columns).saturating_sub(4));
    let wrapped = |text: &str, style: Style| {
        let lines = text::wrap(text, columns);
        lines.into_iter().map(move |line| Line::styled(line, style)).collect::<Vec<_>>()
    };
    let mut lines =
        wrapped("The server was set back and lacks what you wrote here:", Style::new().fg(Color::Red));
    let end = wrapped("Enter sends it again, Esc leaves it at that.", dim());
    // The bar and the last line stay, and the box has a border.
    let most = usize::from(screen_rows.saturating_sub(4)).min(ROWS_MAX);
    let room = most.saturating_sub(lines.len() + end.len()).max(1);
    let shown = if c.lost.len() <= room { c.lost.len() } else { room - 1 };
    for lost in c.lost.iter().take(shown) {
        let day = date(&model.zone, lost.key.time_ms);
        let time = format!("{day} {}  ", clock(&model.zone, lost.key.time_ms));
        lines.push(Line::from(fit(&format!("{time}{}", text::shown_line(&lost.text)), columns)));
    }
    if shown < c.lost.len() {
        lines.push(Line::styled(format!("and {} more", c.lost.len() - shown), dim()));
    }
    lines.extend(end);
    let title = fit(&format!("{}: {}", model.title(id, c), count(c.lost.len())), columns.saturating_sub(2));
    let inside = popup(frame, &title, COLUMNS, lines.len() as u16 + 2);
    for (row, line) in lines.into_iter().enumerate() {
        put(frame.buffer_mut(), inside, row as u16, line);
    }
}
