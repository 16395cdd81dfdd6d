//! Reads a whole store and says what in it is wrong, and where.
//!
//! | what | against what |
//! |---|---|
//! | every key | the kinds that there are |
//! | every record | its checksum, version and form |
//! | the log | dense from the floor to the head; each entry says its own number; times and a device's numbers rise |
//! | conversation, members, windows, watermarks | a head of theirs |
//! | members | the entries that made them so and ended it, and the reverse index |
//! | send windows | the entries that they name, and the device's last one |
//! | watermarks | the head |
//!
//! One conversation is in memory at a time, without its entries.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Display;

use bytes::Bytes;
use tern_protocol::convert::decode_entry;
use tern_protocol::ids::{ClientSeq, ConversationId, Seq, UserId};
use tern_protocol::model::{Change, Entry, Head, Kind, Membership, Role, Sender, WallMillis};

use crate::error::Corrupt;
use crate::keys::conversation::ConversationKey;
use crate::keys::delivered::DeliveredKey;
use crate::keys::entry::EntryKey;
use crate::keys::head::HeadKey;
use crate::keys::member::MemberKey;
use crate::keys::mine::MineKey;
use crate::keys::read::ReadKey;
use crate::keys::window::WindowKey;
use crate::keys::{BadKey, after_key, after_prefix, hex};
use crate::{RangeQuery, StoreError, Transaction, records};

#[cfg(test)]
mod tests;

/// Rows and bytes of one read.
const PAGE_ROWS: usize = 1_000;
const PAGE_BYTES: usize = 4 << 20;
/// The kinds, in the order of their keys.
const PREFIXES: [u8; 8] = [
    ConversationKey::PREFIX,
    EntryKey::PREFIX,
    HeadKey::PREFIX,
    WindowKey::PREFIX,
    MemberKey::PREFIX,
    MineKey::PREFIX,
    ReadKey::PREFIX,
    DeliveredKey::PREFIX,
];
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
}

/// Looks at everything that this transaction sees, and calls `found` with each thing that is wrong.
///
/// # Errors
/// When the store cannot be read at all. A part of it that cannot be read is a finding.
pub async fn verify(tx: &dyn Transaction, found: &mut dyn FnMut(Corrupt)) -> Result<Totals, StoreError> {
    let mut verifier = Verifier { tx, found, totals: Totals::default() };
    verifier.strangers().await?;
    verifier.orphans().await?;
    let heads = rows(tx, [HeadKey::PREFIX], [HeadKey::PREFIX + 1]);
    verifier.each(heads, HeadKey::KIND, async |verifier, key, value| verifier.head(key, value).await).await?;
    let mine = rows(tx, [MineKey::PREFIX], [MineKey::PREFIX + 1]);
    verifier.each(mine, MineKey::KIND, async |verifier, key, _| verifier.mine(key).await).await?;
    Ok(verifier.totals)
}

/// A range, read in pages.
struct Rows<'a> {
    tx: &'a dyn Transaction,
    query: RangeQuery,
    page: std::vec::IntoIter<(Bytes, Bytes)>,
}

fn rows<'a>(tx: &'a dyn Transaction, begin: impl AsRef<[u8]>, end: impl AsRef<[u8]>) -> Rows<'a> {
    let query = RangeQuery::new(begin, end, PAGE_ROWS).bytes_max(PAGE_BYTES).snapshot();
    Rows { tx, query, page: Vec::new().into_iter() }
}

fn all_of<'a>(tx: &'a dyn Transaction, prefix: &[u8]) -> Rows<'a> {
    rows(tx, prefix, after_prefix(prefix))
}

impl Rows<'_> {
    async fn next(&mut self) -> Result<Option<(Bytes, Bytes)>, StoreError> {
        if let Some(row) = self.page.next() {
            return Ok(Some(row));
        }
        let page = self.tx.range(self.query.clone()).await?;
        if let Some((last, _)) = page.last() {
            self.query.begin = after_key(last).into();
        }
        self.page = page.into_iter();
        Ok(self.page.next())
    }
}

/// A conversation while it is looked at.
struct Conversation {
    id: ConversationId,
    head: Head,
    members: BTreeMap<UserId, Membership>,
    /// What the log says about who was a member from when to when.
    spans: HashMap<UserId, Span>,
    /// What the windows say that has not been met in the log: who sent the entry, under which number.
    claims: HashMap<Seq, (Sender, ClientSeq)>,
    /// The last pair of each window.
    newest: HashMap<Sender, (ClientSeq, Seq)>,
    /// The last entry of each device that was met in the log.
    sent: HashMap<Sender, (ClientSeq, Seq)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Span {
    joined: Option<Seq>,
    left: Option<Seq>,
}

struct Verifier<'a> {
    tx: &'a dyn Transaction,
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
        decoded.map_err(|bad| self.report(bad.corrupt(key))).ok()
    }

    /// Calls `row` with each row, up to a part that cannot be read.
    async fn each(
        &mut self,
        mut rows: Rows<'a>,
        kind: &'static str,
        mut row: impl AsyncFnMut(&mut Self, &Bytes, &Bytes) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        loop {
            match rows.next().await {
                Ok(Some((key, value))) => row(self, &key, &value).await?,
                Ok(None) => return Ok(()),
                Err(StoreError::Corrupt(corrupt)) => {
                    self.report(corrupt);
                    self.wrong(kind, hex(&rows.query.begin), "what comes after this key cannot be read");
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Keys of no kind.
    async fn strangers(&mut self) -> Result<(), StoreError> {
        let mut begin = vec![0];
        for prefix in PREFIXES.iter().copied().chain([0xFF]) {
            let rows = rows(self.tx, &begin, [prefix]);
            let stranger = async |verifier: &mut Self, key: &Bytes, _: &Bytes| {
                verifier.wrong("unknown", hex(key), "no kind of key begins like this");
                Ok(())
            };
            self.each(rows, "unknown", stranger).await?;
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
                let page = match self.tx.range(query).await {
                    Ok(page) => page,
                    // The reader of that kind meets it again.
                    Err(StoreError::Corrupt(_)) => break,
                    Err(error) => return Err(error),
                };
                let Some((key, _)) = page.into_iter().next() else { break };
                let Some(id) = key.get(1..17).and_then(|id| id.try_into().ok()) else {
                    self.wrong(kind, hex(&key), "the key makes no sense");
                    begin = after_key(&key);
                    continue;
                };
                let conversation = ConversationId::from_bytes(id);
                if self.tx.get_snapshot(&HeadKey { conversation }.encode()).await?.is_none() {
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
            spans: HashMap::new(),
            claims: HashMap::new(),
            newest: HashMap::new(),
            sent: HashMap::new(),
        };
        self.record(&conversation).await?;
        self.members(&mut conversation).await?;
        self.windows(&mut conversation).await?;
        self.log(&mut conversation).await?;
        self.memberships(&conversation);
        self.claims(&conversation);
        self.watermarks(&conversation).await
    }

    async fn record(&mut self, conversation: &Conversation) -> Result<(), StoreError> {
        let key = ConversationKey { conversation: conversation.id };
        let Some(record) = self.tx.get_snapshot(&key.encode()).await? else {
            self.wrong(ConversationKey::KIND, key, "missing, though there is a head");
            return Ok(());
        };
        if let Some(record) = self.good(records::conversation::decode(&key, &record))
            && (record.kind == Kind::Group) != key.conversation.is_group()
        {
            self.wrong(ConversationKey::KIND, key, "is of another kind than its id");
        }
        Ok(())
    }

    async fn members(&mut self, conversation: &mut Conversation) -> Result<(), StoreError> {
        let rows = all_of(self.tx, &MemberKey::of_conversation(conversation.id));
        let last = conversation.head.last;
        let members = &mut conversation.members;
        self.each(rows, MemberKey::KIND, async |verifier, key, value| {
            verifier.totals.members += 1;
            let Some(key) = verifier.key(key, MemberKey::decode(key)) else { return Ok(()) };
            let mine = MineKey { user: key.user, conversation: key.conversation };
            if verifier.tx.get_snapshot(&mine.encode()).await?.is_none() {
                verifier.wrong(MineKey::KIND, mine, "missing, though the user is or was a member");
            }
            let Some(member) = verifier.good(records::member::decode(&key, value)) else { return Ok(()) };
            let ends = member.left.unwrap_or(last);
            if member.joined == Seq(0) || member.joined > ends || ends > last {
                let what = format!("from {} to {ends}, in a log that ends at {last}", member.joined);
                verifier.wrong(MemberKey::KIND, key, what);
            }
            members.insert(key.user, member);
            Ok(())
        })
        .await
    }

    async fn windows(&mut self, conversation: &mut Conversation) -> Result<(), StoreError> {
        let rows = all_of(self.tx, &WindowKey::of_conversation(conversation.id));
        let head = conversation.head;
        let Conversation { claims, newest, .. } = conversation;
        self.each(rows, WindowKey::KIND, async |verifier, key, value| {
            verifier.totals.windows += 1;
            let Some(key) = verifier.key(key, WindowKey::decode(key)) else { return Ok(()) };
            let Some(window) = verifier.good(records::window::decode(&key, value)) else { return Ok(()) };
            let sender = Sender { user: key.user, device: key.device };
            for (client_seq, seq) in window.sends {
                newest.insert(sender, (client_seq, seq));
                if seq > head.last {
                    let what = format!("names entry {seq} of a log that ends at {}", head.last);
                    verifier.wrong(WindowKey::KIND, key, what);
                } else if seq >= head.floor
                    && let Some((other, _)) = claims.insert(seq, (sender, client_seq))
                {
                    let what =
                        format!("names entry {seq}, and so does that of {} {}", other.user, other.device);
                    verifier.wrong(WindowKey::KIND, key, what);
                }
            }
            Ok(())
        })
        .await
    }

    async fn log(&mut self, conversation: &mut Conversation) -> Result<(), StoreError> {
        let rows = all_of(self.tx, &EntryKey::of_conversation(conversation.id));
        let (id, head) = (conversation.id, conversation.head);
        let mut expected = head.floor;
        let mut time = WallMillis(0);
        self.each(rows, EntryKey::KIND, async |verifier, key, value| {
            verifier.totals.entries += 1;
            let Some(key) = verifier.key(key, EntryKey::decode(key)) else { return Ok(()) };
            if key.seq < head.floor || key.seq > head.last {
                let what = format!("outside of its log, which goes from {} to {}", head.floor, head.last);
                verifier.wrong(EntryKey::KIND, key, what);
                return Ok(());
            }
            verifier.gap(id, expected, key.seq);
            expected = key.seq.next();
            let Some(bytes) = verifier.good(records::entry::decode(&key, value)) else { return Ok(()) };
            let Ok(entry) = decode_entry(bytes) else {
                verifier.wrong(EntryKey::KIND, key, "is no entry");
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
            verifier.entry(conversation, key, &entry);
            Ok(())
        })
        .await?;
        self.gap(id, expected, head.last.next());
        Ok(())
    }

    /// One finding for all that is missing in between.
    fn gap(&mut self, conversation: ConversationId, expected: Seq, met: Seq) {
        if expected < met {
            let last = met.prev();
            let what = if expected == last { "missing".to_owned() } else { format!("missing, up to {last}") };
            self.wrong(EntryKey::KIND, EntryKey { conversation, seq: expected }, what);
        }
    }

    fn entry(&mut self, conversation: &mut Conversation, key: EntryKey, entry: &Entry) {
        let Conversation { spans, claims, sent, .. } = conversation;
        let now = (entry.client_seq, entry.seq);
        if let Some((before, at)) = sent.insert(entry.sender, now)
            && before >= entry.client_seq
        {
            let what = format!("its client_seq {} is not above that of entry {at}", entry.client_seq);
            self.wrong(EntryKey::KIND, key, what);
        }
        if let Some((sender, client_seq)) = claims.get(&key.seq).copied() {
            if (sender, client_seq) == (entry.sender, entry.client_seq) {
                claims.remove(&key.seq);
            } else {
                let window =
                    WindowKey { conversation: key.conversation, user: sender.user, device: sender.device };
                let what = format!("says that entry {} is its send {client_seq}, and it is not", key.seq);
                self.wrong(WindowKey::KIND, window, what);
                claims.remove(&key.seq);
            }
        }
        let joins = |spans: &mut HashMap<UserId, Span>, user: &UserId| {
            spans.insert(*user, Span { joined: Some(key.seq), left: None });
        };
        let mut leaves = |user: UserId| spans.entry(user).or_default().left = Some(key.seq);
        match &entry.change {
            Change::Create { members, .. } => {
                members.iter().chain([&entry.sender.user]).for_each(|user| joins(spans, user));
            }
            Change::Add { members } => members.iter().for_each(|user| joins(spans, user)),
            Change::Remove { member } => leaves(*member),
            Change::Leave => leaves(entry.sender.user),
            Change::Message(_) | Change::Title { .. } | Change::Role { .. } | Change::Unknown => {}
        }
    }

    /// Groups: members are those that the log says. Direct chats: both, from the beginning, for ever.
    fn memberships(&mut self, conversation: &Conversation) {
        let Conversation { id, head, members, spans, .. } = conversation;
        let key = |user: &UserId| MemberKey { conversation: *id, user: *user };
        if !id.is_group() {
            let fixed = Membership { role: Role::Member, joined: Seq(1), left: None };
            for (user, _) in members.iter().filter(|(_, member)| **member != fixed) {
                self.wrong(MemberKey::KIND, key(user), "a member of a direct chat who was not always one");
            }
            if members.is_empty() || members.len() > 2 {
                let what = format!("a direct chat with {} members", members.len());
                self.wrong(MemberKey::KIND, id, what);
            }
            return;
        }
        let whole = head.floor == Seq(1);
        for (user, span) in spans {
            match members.get(user) {
                None => self.wrong(MemberKey::KIND, key(user), "missing, though the log made them a member"),
                Some(member) => {
                    let joined = span.joined.is_none_or(|joined| joined == member.joined);
                    if !joined || span.left != member.left {
                        let what = "does not begin or end with the entry that the log says";
                        self.wrong(MemberKey::KIND, key(user), what);
                    }
                }
            }
        }
        for (user, _) in members.iter().filter(|(user, _)| whole && !spans.contains_key(user)) {
            self.wrong(MemberKey::KIND, key(user), "the log never made them a member");
        }
        let active = || members.values().filter(|member| member.is_active());
        let owners = active().filter(|member| member.role == Role::Owner).count();
        if active().next().is_some() && owners != 1 {
            self.wrong(MemberKey::KIND, id, format!("a group with {owners} owners"));
        }
    }

    /// A send that the window forgets would be stored twice if it came again.
    fn claims(&mut self, conversation: &Conversation) {
        let Conversation { id, claims, newest, sent, .. } = conversation;
        let key = |sender: &Sender| WindowKey { conversation: *id, user: sender.user, device: sender.device };
        for (seq, (sender, client_seq)) in claims {
            let what = format!("names entry {seq} for its send {client_seq}, which cannot be read");
            self.wrong(WindowKey::KIND, key(sender), what);
        }
        for (sender, (client_seq, seq)) in sent {
            if newest.get(sender) != Some(&(*client_seq, *seq)) {
                let what = format!("its last send is not the log's: {client_seq} in entry {seq}");
                self.wrong(WindowKey::KIND, key(sender), what);
            }
        }
    }

    async fn watermarks(&mut self, conversation: &Conversation) -> Result<(), StoreError> {
        let Conversation { id, head, members, .. } = conversation;
        let rows = all_of(self.tx, &DeliveredKey::of_conversation(*id));
        self.each(rows, DeliveredKey::KIND, async |verifier, key, value| {
            if let Some(key) = verifier.key(key, DeliveredKey::decode(key)) {
                verifier.watermark(DeliveredKey::KIND, key, value, head, members.contains_key(&key.user));
            }
            Ok(())
        })
        .await?;
        let rows = all_of(self.tx, &ReadKey::of_conversation(*id));
        self.each(rows, ReadKey::KIND, async |verifier, key, value| {
            if let Some(key) = verifier.key(key, ReadKey::decode(key)) {
                verifier.watermark(ReadKey::KIND, key, value, head, members.contains_key(&key.user));
            }
            Ok(())
        })
        .await
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
        if self.tx.get_snapshot(&member.encode()).await?.is_none() {
            self.wrong(MineKey::KIND, key, "lists a conversation that the user was never a member of");
        }
        Ok(())
    }
}
