//! What the application knows. Plain data, changed by [`super::update`] alone and shown by [`super::view`].

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use jiff::tz::TimeZone;
use tern_client::{
    Change, ClientSeq, ConversationId, ConversationState, DeviceId, Entry, Kind, Role, Seq, UserId,
};
use tern_protocol::limits::{PAYLOAD_BYTES_MAX, TITLE_BYTES_MAX};

use super::input::Input;
use super::lost::Lost;
use super::text;
use crate::book::Book;
use crate::output;

/// Entries kept of the conversation that is open; older ones are on the server.
pub(super) const ENTRIES_MAX: usize = 5_000;
/// Entries kept of every other.
pub(super) const ENTRIES_KEPT: usize = 50;
/// Characters of a message that are shown.
pub(super) const TEXT_CHARS_MAX: usize = 4_000;
/// Own messages that wait for the server, all conversations together.
pub(super) const PENDING_MAX: usize = 200;
/// Conversations in the list.
pub(super) const CONVERSATIONS_MAX: usize = 5_000;

/// Everything.
#[derive(Debug)]
pub(super) struct Model {
    /// Who this is; unknown before the first login.
    pub(super) me: Option<UserId>,
    pub(super) device: DeviceId,
    pub(super) link: Link,
    pub(super) book: Book,
    pub(super) conversations: BTreeMap<ConversationId, Conversation>,
    /// The list: those in which something happened last come first.
    pub(super) order: Vec<ConversationId>,
    /// Chosen in the list.
    pub(super) chosen: Option<ConversationId>,
    /// Shown beside it.
    pub(super) open: Option<ConversationId>,
    pub(super) pane: Pane,
    pub(super) dialog: Option<Dialog>,
    pub(super) search: Option<Search>,
    /// Something that went wrong, or a hint; until the next key.
    pub(super) notice: Option<String>,
    /// The file with the authority, if one was given.
    pub(super) ca: Option<PathBuf>,
    /// Columns and rows.
    pub(super) size: (u16, u16),
    /// Whether the terminal's window has the keyboard. Without it nothing counts as read.
    pub(super) focused: bool,
    /// Since the start.
    pub(super) now: Duration,
    /// Milliseconds since 1970, for messages that have no time from the server yet.
    pub(super) wall_ms: u64,
    pub(super) zone: TimeZone,
    /// With whom direct chats were, before the server was set back.
    pub(super) peers: BTreeMap<ConversationId, UserId>,
    /// The list was asked for.
    pub(super) listed: bool,
    /// Quit was asked for, although messages would be lost.
    pub(super) warned: bool,
    next_local: u64,
}

/// The connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Link {
    Connecting,
    Online,
    Offline { reason: String, retry_at: Duration },
    Stopped(String),
}

/// What the keys go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pane {
    List,
    Chat,
}

/// What lies above the rest and gets all keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Dialog {
    /// So many of its lines are above the edge.
    Help {
        scroll: usize,
    },
    New(NewChat),
    Info(Info),
    /// What the server has lost of this conversation.
    Lost(ConversationId),
}

/// Whom to write to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NewChat {
    pub(super) names: Input,
    pub(super) title: Input,
    pub(super) in_title: bool,
    pub(super) error: Option<String>,
}

/// Who is in a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Info {
    pub(super) conversation: ConversationId,
    /// `None`: on their way.
    pub(super) members: Option<Vec<(UserId, Option<Role>)>>,
    pub(super) chosen: usize,
    pub(super) prompt: Option<(Prompt, Input)>,
    pub(super) error: Option<String>,
}

/// What is asked for in [`Info`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Prompt {
    Name(UserId),
    Add,
    Title,
    Leave,
}

/// Looking for text in what is loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Search {
    pub(super) query: Input,
    /// The one that is shown.
    pub(super) found: Option<Seq>,
}

/// One conversation.
#[derive(Debug)]
pub(super) struct Conversation {
    pub(super) kind: Kind,
    pub(super) title: String,
    pub(super) peer: Option<UserId>,
    /// False: the membership has ended.
    pub(super) is_member: bool,
    /// The newest entry that exists, as far as is known.
    pub(super) head: Seq,
    /// The first entry that can be had.
    pub(super) floor: Seq,
    pub(super) read: Seq,
    /// All others have everything up to here.
    pub(super) delivered_by_all: Seq,
    /// All others have seen everything up to here.
    pub(super) read_by_all: Seq,
    pub(super) unread: u32,
    /// Entries up to here are in `unread`, if they are.
    pub(super) counted: Seq,
    pub(super) time_ms: u64,
    entries: BTreeMap<Seq, Item>,
    pub(super) pending: Vec<Pending>,
    /// Own messages that the server has no more, for which the user has not been asked.
    pub(super) lost: Vec<Lost>,
    /// A page of older entries is on its way.
    pub(super) loading: bool,
    /// The newest page has been asked for.
    pub(super) loaded: bool,
    /// Where what was new began when the conversation was opened.
    pub(super) divider: Option<Seq>,
    /// Lines below the lower edge of the screen.
    pub(super) scroll: usize,
    pub(super) input: Input,
    pub(super) member_count: Option<u32>,
}

/// An entry as it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Item {
    pub(super) seq: Seq,
    pub(super) time_ms: u64,
    pub(super) sender: UserId,
    pub(super) body: Body,
}

/// What an entry says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Body {
    Text { text: String, reply_to: Option<Seq> },
    Change(Change),
}

/// A message of this device that the server has not confirmed, or whose entry has not come yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pending {
    /// The application's own number for it.
    pub(super) local: u64,
    /// Of one that an earlier run left behind.
    pub(super) client_seq: Option<ClientSeq>,
    pub(super) text: String,
    pub(super) time_ms: u64,
    pub(super) fate: Fate,
}

/// How far a [`Pending`] has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fate {
    /// In memory: lost when the application ends.
    Held,
    /// Stored on this device.
    Queued,
    Sent(Seq),
    Refused(String),
}

impl Model {
    pub(super) fn new(device: DeviceId, book: Book, zone: TimeZone) -> Self {
        Self {
            me: None,
            device,
            link: Link::Connecting,
            book,
            conversations: BTreeMap::new(),
            order: Vec::new(),
            chosen: None,
            open: None,
            pane: Pane::List,
            dialog: None,
            search: None,
            notice: None,
            ca: None,
            size: (80, 24),
            focused: true,
            now: Duration::ZERO,
            wall_ms: 0,
            zone,
            peers: BTreeMap::new(),
            listed: false,
            warned: false,
            next_local: 0,
        }
    }

    pub(super) fn next_local(&mut self) -> u64 {
        self.next_local += 1;
        self.next_local
    }

    pub(super) fn opened(&self) -> Option<(ConversationId, &Conversation)> {
        let id = self.open?;
        self.conversations.get(&id).map(|c| (id, c))
    }

    pub(super) fn opened_mut(&mut self) -> Option<(ConversationId, &mut Conversation)> {
        let id = self.open?;
        self.conversations.get_mut(&id).map(|c| (id, c))
    }

    /// The conversation, made if it is not known and there is room for it.
    pub(super) fn conversation(&mut self, id: ConversationId) -> Option<&mut Conversation> {
        let full = self.conversations.len() >= CONVERSATIONS_MAX;
        match self.conversations.entry(id) {
            std::collections::btree_map::Entry::Occupied(known) => Some(known.into_mut()),
            std::collections::btree_map::Entry::Vacant(_) if full => None,
            std::collections::btree_map::Entry::Vacant(new) => Some(new.insert(Conversation::new(id))),
        }
    }

    /// Who somebody is, for the reader.
    pub(super) fn name(&self, user: UserId) -> String {
        if self.me == Some(user) { "you".into() } else { self.book.name(user) }
    }

    /// With whom a direct chat is, as far as this device can tell without the server.
    pub(super) fn peer(&self, id: ConversationId) -> Option<UserId> {
        let me = self.me?;
        let named = || self.book.users().find(|user| ConversationId::direct(me, *user) == id);
        self.peers.get(&id).copied().or_else(named)
    }

    /// What a conversation is called.
    pub(super) fn title(&self, id: ConversationId, c: &Conversation) -> String {
        match (c.kind, c.peer) {
            (Kind::Direct, Some(peer)) if self.me == Some(peer) => "notes to myself".into(),
            (Kind::Direct, Some(peer)) => self.book.name(peer),
            (Kind::Group, _) if !c.title.is_empty() => c.title.clone(),
            (Kind::Group, _) => format!("group {:.8}", id.to_string()),
            (Kind::Direct, None) => format!("chat {:.8}", id.to_string()),
        }
    }

    /// Where in the list.
    pub(super) fn chosen_row(&self) -> usize {
        self.order.iter().position(|id| Some(*id) == self.chosen).unwrap_or(0)
    }

    pub(super) fn sort(&mut self) {
        self.order = self.conversations.keys().copied().collect();
        let last = |id: &ConversationId| self.conversations.get(id).map_or(0, Conversation::last_ms);
        self.order.sort_by_cached_key(|id| std::cmp::Reverse(last(id)));
        if self.chosen.is_none() {
            self.chosen = self.order.first().copied();
        }
    }

    pub(super) fn pending(&self) -> impl Iterator<Item = &Pending> {
        self.conversations.values().flat_map(|c| &c.pending)
    }

    /// The pending message with this number.
    pub(super) fn pending_mut(&mut self, local: u64) -> Option<&mut Pending> {
        self.conversations.values_mut().flat_map(|c| &mut c.pending).find(|p| p.local == local)
    }
}

impl Conversation {
    fn new(id: ConversationId) -> Self {
        Self {
            kind: if id.is_group() { Kind::Group } else { Kind::Direct },
            title: String::new(),
            peer: None,
            is_member: true,
            head: Seq(0),
            floor: Seq(1),
            read: Seq(0),
            delivered_by_all: Seq(0),
            read_by_all: Seq(0),
            unread: 0,
            counted: Seq(0),
            time_ms: 0,
            entries: BTreeMap::new(),
            pending: Vec::new(),
            lost: Vec::new(),
            loading: false,
            loaded: false,
            divider: None,
            scroll: 0,
            input: Input::new(PAYLOAD_BYTES_MAX),
            member_count: None,
        }
    }

    /// What the server says about it. Nothing falls.
    pub(super) fn learn(&mut self, state: &ConversationState) {
        self.kind = state.kind;
        self.peer = state.peer.or(self.peer);
        self.is_member = state.role.is_some();
        if !state.title.is_empty() {
            self.title = title(&state.title);
        }
        self.head = self.head.max(state.head);
        self.floor = self.floor.max(state.floor);
        self.read = self.read.max(state.read);
        self.delivered_by_all = self.delivered_by_all.max(state.peer_delivered);
        self.read_by_all = self.read_by_all.max(state.peer_read);
        self.time_ms = self.time_ms.max(state.time.0);
    }

    /// When something happened last, or was typed.
    pub(super) fn last_ms(&self) -> u64 {
        self.pending.iter().map(|p| p.time_ms).fold(self.time_ms, u64::max)
    }

    /// Takes an entry in. False: it was there.
    pub(super) fn add(&mut self, entry: &Entry, is_open: bool) -> bool {
        let item = Item::new(entry);
        self.head = self.head.max(entry.seq);
        self.time_ms = self.time_ms.max(entry.time.0);
        let new = self.entries.insert(entry.seq, item).is_none();
        self.trim(if is_open { ENTRIES_MAX } else { ENTRIES_KEPT });
        new
    }

    pub(super) fn trim(&mut self, most: usize) {
        while self.entries.len() > most {
            self.entries.pop_first();
        }
    }

    /// Forgets the entries.
    pub(super) fn clear(&mut self) {
        self.entries.clear();
        (self.head, self.read, self.unread, self.counted) = (Seq(0), Seq(0), 0, Seq(0));
        (self.delivered_by_all, self.read_by_all, self.floor) = (Seq(0), Seq(0), Seq(1));
        (self.scroll, self.divider, self.loaded, self.time_ms) = (0, None, false, 0);
    }

    /// Forgets what is below the floor.
    pub(super) fn raise_floor(&mut self, floor: Seq) {
        self.floor = self.floor.max(floor);
        self.entries = self.entries.split_off(&self.floor);
    }

    pub(super) fn has(&self, seq: Seq) -> bool {
        self.entries.contains_key(&seq)
    }

    pub(super) fn item(&self, seq: Seq) -> Option<&Item> {
        self.entries.get(&seq)
    }

    pub(super) fn newest(&self) -> Option<&Item> {
        self.entries.values().next_back()
    }

    /// From the newest entry back, as far as there is no gap.
    pub(super) fn back(&self) -> impl Iterator<Item = &Item> {
        let mut expected = None;
        self.entries.values().rev().take_while(move |item| {
            let follows = expected.is_none_or(|seq| seq == item.seq);
            expected = Some(item.seq.prev());
            follows
        })
    }

    /// The first entry of those.
    pub(super) fn first(&self) -> Option<Seq> {
        self.back().last().map(|item| item.seq)
    }

    /// Whether there is more to load before what is loaded.
    pub(super) fn has_older(&self) -> bool {
        self.entries.len() < ENTRIES_MAX && self.first().is_some_and(|first| first > self.floor)
    }

    /// Messages of others above this entry, as far as they are loaded.
    pub(super) fn unread_above(&self, seq: Seq, me: Option<UserId>) -> u32 {
        let unread = self.entries.range(seq.next()..).filter(|(_, item)| item.is_for(me));
        unread.count().try_into().unwrap_or(u32::MAX)
    }
}

impl Item {
    pub(super) fn new(entry: &Entry) -> Self {
        let body = match &entry.change {
            Change::Message(message) => {
                let text = match output::text(&message.content_type, &message.payload) {
                    Some(text) => shortened(text),
                    None => format!(
                        "[{}, {} bytes]",
                        text::clean_line(&message.content_type),
                        message.payload.len()
                    ),
                };
                Body::Text { text, reply_to: message.reply_to }
            }
            other => Body::Change(other.clone()),
        };
        Self { seq: entry.seq, time_ms: entry.time.0, sender: entry.sender.user, body }
    }

    /// Whether it is a message from somebody else.
    pub(super) fn is_for(&self, me: Option<UserId>) -> bool {
        matches!(self.body, Body::Text { .. }) && Some(self.sender) != me
    }
}

/// A message's text, safe to show and not too long.
pub(super) fn shortened(given: &str) -> String {
    match given.char_indices().nth(TEXT_CHARS_MAX) {
        None => text::shown(given),
        Some((at, _)) => {
            let rest = given.len() - at;
            format!("{}… [{rest} bytes more]", text::shown(&given[..at]))
        }
    }
}

/// A group's title, safe to show.
pub(super) fn title(given: &str) -> String {
    text::shown_line(given)
}

impl NewChat {
    pub(super) fn new() -> Self {
        Self { names: Input::new(8 * 1024), title: Input::new(TITLE_BYTES_MAX), in_title: false, error: None }
    }
}
