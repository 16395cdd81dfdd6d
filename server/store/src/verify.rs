//! Reads a whole store and says what in it is wrong, and where.
//!
//! | what | against what |
//! |---|---|
//! | every key | the kinds that there are |
//! | every record | its checksum, version and form |
//! | the log | dense from the floor to the head; each entry says its own number and is of a member; times and a device's numbers rise |
//! | conversation, members, windows, watermarks | a head of theirs |
//! | members | the entries that made them so and ended it, the id of a direct chat, and the reverse index |
//! | send windows | each device's last sends in the log |
//! | watermarks | the head |
//!
//! What a log with a hole cannot prove is not held against anything else: one damaged record is one finding. One
//! conversation is in memory at a time, without its entries.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt::Display;

use bytes::Bytes;
use tern_protocol::convert::decode_entry;
use tern_protocol::ids::{ClientSeq, ConversationId, Seq, UserId};
use tern_protocol::limits::SEND_WINDOW;
use tern_protocol::model::{Change, Entry, Head, Kind, Membership, Role, Sender, WallMillis};

use crate::error::Corrupt;
use crate::keys::conversation::ConversationKey;
use crate::keys::delivered::DeliveredKey;
use crate::keys::entry::EntryKey;
use crate::keys::epoch::EpochKey;
use crate::keys::head::HeadKey;
use crate::keys::member::MemberKey;
use crate::keys::migration::MigrationKey;
use crate::keys::mine::MineKey;
use crate::keys::node::NodeKey;
use crate::keys::read::ReadKey;
use crate::keys::window::WindowKey;
use crate::keys::{BadKey, KINDS, after_key, after_prefix, hex};
use crate::salvage::place;
use crate::writes::Row;
use crate::{BoxFuture, RangeQuery, StoreError, Transaction, records};

#[cfg(test)]
mod tests;

/// Rows and bytes of one read.
const PAGE_ROWS: usize = 1_000;
const PAGE_BYTES: usize = 4 << 20;
/// Those whose keys go on with the conversation, besides the head.
const OF_A_CONVERSATION: [(u8, &str); 6] = [
    (ConversationKey::PREFIX, ConversationKey::KIND),
    (EntryKey::PREFIX, EntryKey::KIND),
    (WindowKey::PREFIX, WindowKey::KIND),
    (MemberKey::PREFIX, MemberKey::KIND),
    (ReadKey::PREFIX, ReadKey::KIND),
    (DeliveredKey::PREFIX, DeliveredKey::KIND),
];

/// What was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// Conversations that have a head.
    pub conversations: u64,
    /// Entries of their logs.
    pub entries: u64,
    /// Memberships, past ones included.
    pub members: u64,
    /// Send windows: devices that have sent something, in each conversation.
    pub windows: u64,
    /// Delivered and read watermarks.
    pub watermarks: u64,
    /// What was found wrong.
    pub wrong: u64,
    /// Of these, parts that could not be read: what is in them was not looked at.
    pub unreadable: u64,
}

impl Totals {
    /// The keys of a store in which nothing is wrong, but for those of which there is one.
    pub fn keys(&self) -> u64 {
        2 * (self.conversations + self.members) + self.entries + self.windows + self.watermarks
    }
}

/// Looks at everything that this transaction sees, and calls `found` with each thing that is wrong.
///
/// # Errors
/// When the store cannot be read at all. A part of it that cannot be read is a finding.
pub async fn verify(tx: &dyn Transaction, found: &mut dyn FnMut(Corrupt)) -> Result<Totals, StoreError> {
    verify_still(&Snapshot(tx), found).await
}

/// What is verified: reads of one state of a store.
pub(crate) trait Still: Sync {
    fn get<'a>(&'a self, key: &'a [u8]) -> BoxFuture<'a, Result<Option<Bytes>, StoreError>>;
    fn range(&self, query: RangeQuery) -> BoxFuture<'_, Result<Vec<Row>, StoreError>>;
}

/// What one transaction sees.
struct Snapshot<'a>(&'a dyn Transaction);

impl Still for Snapshot<'_> {
    fn get<'a>(&'a self, key: &'a [u8]) -> BoxFuture<'a, Result<Option<Bytes>, StoreError>> {
        self.0.get_snapshot(key)
    }

    fn range(&self, query: RangeQuery) -> BoxFuture<'_, Result<Vec<Row>, StoreError>> {
        self.0.range(query)
    }
}

/// Looks at everything in a store that stands still.
pub(crate) async fn verify_still(
    still: &dyn Still,
    found: &mut dyn FnMut(Corrupt),
) -> Result<Totals, StoreError> {
    let mut verifier = Verifier { still, found, totals: Totals::default() };
    verifier.strangers().await?;
    verifier.orphans().await?;
    let epoch = rows(still, [EpochKey::PREFIX], [EpochKey::PREFIX + 1]);
    let alone = async |verifier: &mut Verifier<'_>, key: &Bytes, value: &Bytes| {
        verifier.good(record(key, value));
        Ok(())
    };
    verifier.each(epoch, EpochKey::KIND, alone).await?;
    let leases = rows(still, [NodeKey::PREFIX], [NodeKey::PREFIX + 1]);
    verifier.each(leases, NodeKey::KIND, alone).await?;
    let migration = rows(still, [MigrationKey::PREFIX], [MigrationKey::PREFIX + 1]);
    verifier.each(migration, MigrationKey::KIND, alone).await?;
    let heads = rows(still, [HeadKey::PREFIX], [HeadKey::PREFIX + 1]);
    verifier.each(heads, HeadKey::KIND, async |verifier, key, value| verifier.head(key, value).await).await?;
    let mine = rows(still, [MineKey::PREFIX], [MineKey::PREFIX + 1]);
    verifier.each(mine, MineKey::KIND, async |verifier, key, _| verifier.mine(key).await).await?;
    Ok(verifier.totals)
}

/// Looks at one record by itself.
///
/// # Errors
/// What is wrong with it.
pub fn record(key: &[u8], value: &Bytes) -> Result<(), Corrupt> {
    let bad_key = |bad: BadKey| bad.corrupt(key);
    let watermark = |kind, key: &dyn Display| match records::watermark::decode(value) {
        Some(_) => Ok(()),
        None => Err(Corrupt::new(kind, key, "not 8 bytes long")),
    };
    match key.first().copied().unwrap_or_default() {
        ConversationKey::PREFIX => {
            let key = ConversationKey::decode(key).map_err(bad_key)?;
            records::conversation::decode(&key, value).map(drop)
        }
        EntryKey::PREFIX => {
            let key = EntryKey::decode(key).map_err(bad_key)?;
            records::entry::decode(&key, value).map(drop)
        }
        EpochKey::PREFIX => {
            let key = EpochKey::decode(key).map_err(bad_key)?;
            records::epoch::decode(&key, value).map(drop)
        }
        HeadKey::PREFIX => {
            let key = HeadKey::decode(key).map_err(bad_key)?;
            records::head::decode(&key, value).map(drop)
        }
        WindowKey::PREFIX => {
            let key = WindowKey::decode(key).map_err(bad_key)?;
            records::window::decode(&key, value).map(drop)
        }
        MemberKey::PREFIX => {
            let key = MemberKey::decode(key).map_err(bad_key)?;
            records::member::decode(&key, value).map(drop)
        }
        MigrationKey::PREFIX => {
            let key = MigrationKey::decode(key).map_err(bad_key)?;
            records::migration::decode(&key, value).map(drop)
        }
        MineKey::PREFIX => MineKey::decode(key).map(drop).map_err(bad_key),
        NodeKey::PREFIX => {
            let key = NodeKey::decode(key).map_err(bad_key)?;
            records::node::decode(&key, value).map(drop)
        }
        ReadKey::PREFIX => watermark(ReadKey::KIND, &ReadKey::decode(key).map_err(bad_key)?),
        DeliveredKey::PREFIX => watermark(DeliveredKey::KIND, &DeliveredKey::decode(key).map_err(bad_key)?),
        _ => Err(stranger(key)),
    }
}

fn stranger(key: &[u8]) -> Corrupt {
    Corrupt::new("unknown", hex(key), "no kind of key begins like this")
}

/// What follows cannot be read.
fn cannot_be_read(kind: &'static str, begin: &[u8], corrupt: &Corrupt) -> Corrupt {
    let place = place(begin).unwrap_or_else(|| hex(begin));
    Corrupt::new(kind, place, format!("cannot be read from here on: {}", corrupt.what))
}

/// A range, read in pages.
struct Rows<'a> {
    still: &'a dyn Still,
    query: RangeQuery,
    page: std::vec::IntoIter<(Bytes, Bytes)>,
}

fn rows<'a>(still: &'a dyn Still, begin: impl AsRef<[u8]>, end: impl AsRef<[u8]>) -> Rows<'a> {
    let query = RangeQuery::new(begin, end, PAGE_ROWS).bytes_max(PAGE_BYTES).snapshot();
    Rows { still, query, page: Vec::new().into_iter() }
}

fn all_of<'a>(still: &'a dyn Still, prefix: &[u8]) -> Rows<'a> {
    rows(still, prefix, after_prefix(prefix))
}

impl Rows<'_> {
    async fn next(&mut self) -> Result<Option<(Bytes, Bytes)>, StoreError> {
        if let Some(row) = self.page.next() {
            return Ok(Some(row));
        }
        let page = loop {
            match self.still.range(self.query.clone()).await {
                // Up to the row before it.
                Err(StoreError::Corrupt(_)) if self.query.rows_max > 1 => {
                    self.query.rows_max = (self.query.rows_max / 8).max(1);
                }
                page => break page?,
            }
        };
        if let Some((last, _)) = page.last() {
            self.query.begin = after_key(last).into();
        }
        self.page = page.into_iter();
        Ok(self.page.next())
    }
}

/// Sends of a device: its numbers, and the entries that they became.
type Sends = VecDeque<(ClientSeq, Seq)>;

/// A conversation while it is looked at.
struct Conversation {
    id: ConversationId,
    head: Head,
    /// `None`: there is a record, which is damaged.
    members: BTreeMap<UserId, Option<Membership>>,
    /// `None`: there is a record, which is damaged.
    windows: HashMap<Sender, Option<Sends>>,
    /// What the log says about who was a member from when to when.
    spans: HashMap<UserId, Span>,
    /// The last sends of each device in the log, as many as a window holds.
    sent: HashMap<Sender, Sends>,
    /// All from the floor to the head was there and could be read.
    is_whole: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Span {
    joined: Option<Seq>,
    left: Option<Seq>,
}

struct Verifier<'a> {
    still: &'a dyn Still,
    found: &'a mut dyn FnMut(Corrupt),
    totals: Totals,
}

impl<'a> Verifier<'a> {
    fn wrong(&mut self, kind: &'static str, id: impl Display, what: impl Display) {
        self.report(Corrupt::new(kind, id, what));
    }

    fn report(&mut self, corrupt: Corrupt) {
        self.totals.wrong += 1;
        (self.found)(corrupt);
    }

    /// What decoding gave, or `None` and a finding.
    fn good<T>(&mut self, decoded: Result<T, Corrupt>) -> Option<T> {
        decoded.map_err(|corrupt| self.report(corrupt)).ok()
    }

    fn key<T>(&mut self, key: &[u8], decoded: Result<T, BadKey>) -> Option<T> {
        self.good(decoded.map_err(|bad| bad.corrupt(key)))
    }

    fn unreadable(&mut self, corrupt: Corrupt) {
        self.totals.unreadable += 1;
        self.report(corrupt);
    }

    /// Whether there is such a key. One that cannot be read is a finding, and is taken to be there.
    async fn has(&mut self, key: &[u8]) -> Result<bool, StoreError> {
        match self.still.get(key).await {
            Ok(value) => Ok(value.is_some()),
            Err(StoreError::Corrupt(corrupt)) => {
                self.unreadable(corrupt);
                Ok(true)
            }
            Err(error) => Err(error),
        }
    }

    /// Calls `row` with each row, up to a part that cannot be read; whether there was none.
    async fn each(
        &mut self,
        mut rows: Rows<'a>,
        kind: &'static str,
        mut row: impl AsyncFnMut(&mut Self, &Bytes, &Bytes) -> Result<(), StoreError>,
    ) -> Result<bool, StoreError> {
        loop {
            match rows.next().await {
                Ok(Some((key, value))) => row(self, &key, &value).await?,
                Ok(None) => return Ok(true),
                Err(StoreError::Corrupt(corrupt)) => {
                    self.unreadable(cannot_be_read(kind, &rows.query.begin, &corrupt));
                    return Ok(false);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Keys of no kind.
    async fn strangers(&mut self) -> Result<(), StoreError> {
        let mut begin = vec![0];
        for prefix in KINDS.map(|(prefix, _)| prefix).into_iter().chain([0xFF]) {
            let rows = rows(self.still, &begin, [prefix]);
            let each = async |verifier: &mut Self, key: &Bytes, _: &Bytes| {
                verifier.report(stranger(key));
                Ok(())
            };
            self.each(rows, "unknown", each).await?;
            begin = vec![prefix.wrapping_add(1)];
        }
        Ok(())
    }

    /// Conversations of which there is something, but no head.
    async fn orphans(&mut self) -> Result<(), StoreError> {
        for (prefix, kind) in OF_A_CONVERSATION {
            let mut begin = vec![prefix];
            loop {
                let query = RangeQuery::new(&begin, [prefix + 1], 1).snapshot();
                let page = match self.still.range(query).await {
                    Ok(page) => page,
                    Err(StoreError::Corrupt(corrupt)) => {
                        self.unreadable(cannot_be_read(kind, &begin, &corrupt));
                        break;
                    }
                    Err(error) => return Err(error),
                };
                let Some((key, _)) = page.into_iter().next() else { break };
                let Some(id) = key.get(1..17).and_then(|id| id.try_into().ok()) else {
                    self.wrong(kind, hex(&key), "the key makes no sense");
                    begin = after_key(&key);
                    continue;
                };
                let conversation = ConversationId::from_bytes(id);
                if !self.has(&HeadKey { conversation }.encode()).await? {
                    self.wrong(kind, conversation, "belongs to a conversation that has no head");
                }
                begin = after_prefix(&key[..17]);
            }
        }
        Ok(())
    }

    async fn head(&mut self, key: &Bytes, value: &Bytes) -> Result<(), StoreError> {
        let Some(key) = self.key(key, HeadKey::decode(key)) else { return Ok(()) };
        self.totals.conversations += 1;
        let Some(head) = self.good(records::head::decode(&key, value)) else { return Ok(()) };
        let mut conversation = Conversation {
            id: key.conversation,
            head,
            members: BTreeMap::new(),
            windows: HashMap::new(),
            spans: HashMap::new(),
            sent: HashMap::new(),
            is_whole: true,
        };
        self.record(key.conversation).await?;
        let members_known = self.members(&mut conversation).await?;
        let windows_known = self.windows(&mut conversation).await?;
        self.log(&mut conversation).await?;
        if members_known {
            self.memberships(&conversation);
        }
        if windows_known && conversation.is_whole {
            self.last_sends(&conversation);
        }
        self.watermarks(&conversation, members_known).await
    }

    async fn record(&mut self, conversation: ConversationId) -> Result<(), StoreError> {
        let expected = ConversationKey { conversation };
        let mut found = false;
        let rows = all_of(self.still, &expected.encode());
        let read = self.each(rows, ConversationKey::KIND, async |verifier, key, value| {
            let Some(key) = verifier.key(key, ConversationKey::decode(key)) else { return Ok(()) };
            found = true;
            if let Some(record) = verifier.good(records::conversation::decode(&key, value))
                && (record.kind == Kind::Group) != conversation.is_group()
            {
                verifier.wrong(ConversationKey::KIND, key, "is of another kind than its id");
            }
            Ok(())
        });
        if read.await? && !found {
            self.wrong(ConversationKey::KIND, expected, "missing, though there is a head");
        }
        Ok(())
    }

    async fn members(&mut self, conversation: &mut Conversation) -> Result<bool, StoreError> {
        let rows = all_of(self.still, &MemberKey::of_conversation(conversation.id));
        let last = conversation.head.last;
        let members = &mut conversation.members;
        self.each(rows, MemberKey::KIND, async |verifier, key, value| {
            verifier.totals.members += 1;
            let Some(key) = verifier.key(key, MemberKey::decode(key)) else { return Ok(()) };
            let mine = MineKey { user: key.user, conversation: key.conversation };
            if !verifier.has(&mine.encode()).await? {
                verifier.wrong(MineKey::KIND, mine, "missing, though the user is or was a member");
            }
            let member = verifier.good(records::member::decode(&key, value));
            members.insert(key.user, member);
            let Some(member) = member else { return Ok(()) };
            let ends = member.left.unwrap_or(last);
            if member.joined == Seq(0) || member.joined > ends || ends > last {
                let what = format!("from {} to {ends}, in a log that ends at {last}", member.joined);
                verifier.wrong(MemberKey::KIND, key, what);
            }
            Ok(())
        })
        .await
    }

    async fn windows(&mut self, conversation: &mut Conversation) -> Result<bool, StoreError> {
        let rows = all_of(self.still, &WindowKey::of_conversation(conversation.id));
        let head = conversation.head;
        let windows = &mut conversation.windows;
        self.each(rows, WindowKey::KIND, async |verifier, key, value| {
            verifier.totals.windows += 1;
            let Some(key) = verifier.key(key, WindowKey::decode(key)) else { return Ok(()) };
            let window = verifier.good(records::window::decode(&key, value));
            if let Some((_, seq)) =
                window.iter().flat_map(|window| &window.sends).find(|(_, seq)| *seq > head.last)
            {
                let what = format!("names entry {seq} of a log that ends at {}", head.last);
                verifier.wrong(WindowKey::KIND, key, what);
            }
            // What was trimmed cannot be compared.
            let kept = |window: tern_protocol::model::SendWindow| {
                window.sends.into_iter().filter(|(_, seq)| (head.floor..=head.last).contains(seq)).collect()
            };
            windows.insert(Sender { user: key.user, device: key.device }, window.map(kept));
            Ok(())
        })
        .await
    }

    async fn log(&mut self, conversation: &mut Conversation) -> Result<(), StoreError> {
        let rows = all_of(self.still, &EntryKey::of_conversation(conversation.id));
        let (id, head) = (conversation.id, conversation.head);
        let (mut expected, mut time, mut understood) = (head.floor, WallMillis(0), true);
        let mut dense = true;
        let readable = self.each(rows, EntryKey::KIND, async |verifier, key, value| {
            verifier.totals.entries += 1;
            let Some(key) = verifier.key(key, EntryKey::decode(key)) else { return Ok(()) };
            if key.seq < head.floor || key.seq > head.last {
                let what = format!("outside of its log, which goes from {} to {}", head.floor, head.last);
                verifier.wrong(EntryKey::KIND, key, what);
                return Ok(());
            }
            dense &= verifier.gap(id, expected, key.seq);
            expected = key.seq.next();
            let Some(bytes) = verifier.good(records::entry::decode(&key, value)) else {
                understood = false;
                return Ok(());
            };
            let Ok(entry) = decode_entry(bytes) else {
                verifier.wrong(EntryKey::KIND, key, "is no entry");
                understood = false;
                return Ok(());
            };
            if entry.seq != key.seq {
                verifier.wrong(EntryKey::KIND, key, format!("says that it is {}", entry.seq));
            }
            if entry.time < time || entry.time > head.time {
                verifier.wrong(
                    EntryKey::KIND,
                    key,
                    "its time is before an earlier entry's, or after the head's",
                );
            }
            time = time.max(entry.time);
            verifier.entry(conversation, key, &entry, dense && understood);
            Ok(())
        });
        let readable = readable.await?;
        if readable {
            dense &= self.gap(id, expected, head.last.next());
        }
        conversation.is_whole = readable && dense && understood;
        Ok(())
    }

    /// One finding for all that is missing in between; whether nothing is.
    fn gap(&mut self, conversation: ConversationId, expected: Seq, met: Seq) -> bool {
        if expected >= met {
            return true;
        }
        let last = met.prev();
        let what = if expected == last { "missing".to_owned() } else { format!("missing, up to {last}") };
        self.wrong(EntryKey::KIND, EntryKey { conversation, seq: expected }, what);
        false
    }

    /// `whole_so_far`: all entries before it could be read.
    fn entry(&mut self, conversation: &mut Conversation, key: EntryKey, entry: &Entry, whole_so_far: bool) {
        let Conversation { id, head, members, spans, sent, .. } = conversation;
        let sends = sent.entry(entry.sender).or_default();
        if let Some((before, at)) = sends.back()
            && *before >= entry.client_seq
        {
            let what = format!("its client_seq {} is not above that of entry {at}", entry.client_seq);
            self.wrong(EntryKey::KIND, key, what);
        }
        if sends.len() == SEND_WINDOW {
            sends.pop_front();
        }
        sends.push_back((entry.client_seq, key.seq));
        let sender = entry.sender.user;
        let joins = |spans: &mut HashMap<UserId, Span>, user: &UserId| {
            spans.insert(*user, Span { joined: Some(key.seq), left: None });
        };
        if let Change::Create { members, .. } = &entry.change {
            members.iter().chain([&sender]).for_each(|user| joins(spans, user));
        }
        let is_member = if id.is_group() {
            spans.get(&sender).is_some_and(|span| span.joined.is_some() && span.left.is_none())
        } else {
            members.contains_key(&sender)
        };
        if !is_member && whole_so_far && (head.floor == Seq(1) || !id.is_group()) {
            self.wrong(EntryKey::KIND, key, "its sender was no member then");
        }
        let mut leaves = |user: UserId| spans.entry(user).or_default().left = Some(key.seq);
        match &entry.change {
            Change::Add { members } => members.iter().for_each(|user| joins(spans, user)),
            Change::Remove { member } => leaves(*member),
            Change::Leave => leaves(sender),
            Change::Create { .. }
            | Change::Message(_)
            | Change::Title { .. }
            | Change::Role { .. }
            | Change::Unknown => {}
        }
    }

    /// Groups: members are those that the log says. Direct chats: those of the id, from the beginning, for ever.
    fn memberships(&mut self, conversation: &Conversation) {
        let Conversation { id, head, members, spans, is_whole, .. } = conversation;
        let key = |user: &UserId| MemberKey { conversation: *id, user: *user };
        let known = || members.iter().filter_map(|(user, member)| Some((user, (*member)?)));
        if !id.is_group() {
            let fixed = Membership { role: Role::Member, joined: Seq(1), left: None };
            for (user, _) in known().filter(|(_, member)| *member != fixed) {
                self.wrong(MemberKey::KIND, key(user), "a member of a direct chat who was not always one");
            }
            let mut users = members.keys();
            let (first, last) = (users.next(), members.keys().next_back());
            let is_theirs =
                first.zip(last).is_some_and(|(first, last)| ConversationId::direct(*first, *last) == *id);
            if !is_theirs || members.len() > 2 {
                self.wrong(MemberKey::KIND, id, "the members are not those whose direct chat this is");
            }
            return;
        }
        if *is_whole {
            for (user, span) in spans {
                match members.get(user) {
                    None => {
                        self.wrong(MemberKey::KIND, key(user), "missing, though the log made them a member")
                    }
                    Some(Some(member)) => {
                        let joined = span.joined.is_none_or(|joined| joined == member.joined);
                        if !joined || span.left != member.left {
                            let what = "does not begin or end with the entry that the log says";
                            self.wrong(MemberKey::KIND, key(user), what);
                        }
                    }
                    Some(None) => {}
                }
            }
            let from_the_beginning = head.floor == Seq(1);
            for user in members.keys().filter(|user| from_the_beginning && !spans.contains_key(user)) {
                self.wrong(MemberKey::KIND, key(user), "the log never made them a member");
            }
        }
        let active = || known().filter(|(_, member)| member.is_active());
        let owners = active().filter(|(_, member)| member.role == Role::Owner).count();
        if active().next().is_some() && owners != 1 && members.values().all(Option::is_some) {
            self.wrong(MemberKey::KIND, id, format!("a group with {owners} owners"));
        }
    }

    /// A send that a window has forgotten would be stored twice if it came again.
    fn last_sends(&mut self, conversation: &Conversation) {
        let Conversation { id, windows, sent, .. } = conversation;
        let nothing = Sends::new();
        let senders = windows.keys().chain(sent.keys().filter(|sender| !windows.contains_key(sender)));
        for sender in senders {
            let key = WindowKey { conversation: *id, user: sender.user, device: sender.device };
            let window = match windows.get(sender) {
                Some(Some(window)) => window,
                Some(None) => continue,
                None => &nothing,
            };
            let log = sent.get(sender).unwrap_or(&nothing);
            if let Some((client_seq, seq)) = log.iter().find(|send| !window.contains(send)) {
                self.wrong(WindowKey::KIND, key, format!("lacks send {client_seq}, which is entry {seq}"));
            }
            if let Some((client_seq, seq)) = window.iter().find(|send| !log.contains(send)) {
                let what = format!("says that send {client_seq} is entry {seq}, and it is not");
                self.wrong(WindowKey::KIND, key, what);
            }
        }
    }

    async fn watermarks(
        &mut self,
        conversation: &Conversation,
        members_known: bool,
    ) -> Result<(), StoreError> {
        let Conversation { id, head, members, .. } = conversation;
        let is_member = |user| !members_known || members.contains_key(&user);
        let rows = all_of(self.still, &DeliveredKey::of_conversation(*id));
        self.each(rows, DeliveredKey::KIND, async |verifier, key, value| {
            if let Some(key) = verifier.key(key, DeliveredKey::decode(key)) {
                verifier.watermark(DeliveredKey::KIND, key, value, head, is_member(key.user));
            }
            Ok(())
        })
        .await?;
        let rows = all_of(self.still, &ReadKey::of_conversation(*id));
        self.each(rows, ReadKey::KIND, async |verifier, key, value| {
            if let Some(key) = verifier.key(key, ReadKey::decode(key)) {
                verifier.watermark(ReadKey::KIND, key, value, head, is_member(key.user));
            }
            Ok(())
        })
        .await?;
        Ok(())
    }

    fn watermark(
        &mut self,
        kind: &'static str,
        key: impl Display,
        value: &[u8],
        head: &Head,
        is_member: bool,
    ) {
        self.totals.watermarks += 1;
        match records::watermark::decode(value) {
            None => self.wrong(kind, key, "not 8 bytes long"),
            Some(seq) if seq > head.last => {
                self.wrong(kind, key, format!("is at {seq}, in a log that ends at {}", head.last));
            }
            Some(_) if !is_member => self.wrong(kind, key, "is of a user who was never a member"),
            Some(_) => {}
        }
    }

    async fn mine(&mut self, key: &Bytes) -> Result<(), StoreError> {
        let Some(key) = self.key(key, MineKey::decode(key)) else { return Ok(()) };
        let member = MemberKey { conversation: key.conversation, user: key.user };
        if !self.has(&member.encode()).await? {
            self.wrong(MineKey::KIND, key, "lists a conversation that the user was never a member of");
        }
        Ok(())
    }
}
