//! A store that holds one conversation in memory, and servers whose owners' effects are executed against it, one step at
//! a time. The store checks whatever lands against the log alone, so it shares no rule with the machine.

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::vec::Vec;

use bytes::{Bytes, BytesMut};
use hashbrown::HashMap;
use tern_protocol::convert::{decode_entry, parse_server};
use tern_protocol::error::{self, ErrorCode};
use tern_protocol::event::{SendOk, ServerBody};
use tern_protocol::frame::{self, Frame};
use tern_protocol::ids::{ClientSeq, ConversationId, DeviceId, Seq, UserId};
use tern_protocol::limits::{FRAME_BYTES_MAX, SEND_WINDOW};
use tern_protocol::model::{
    Change, Conversation, Entry, Head, Kind, Membership, Message, SendWindow, Sender, WallMillis, Watermarks,
};

use crate::conversation::{
    Append, Batch, CommitFault, Effect, LoadFault, LoadedWindow, Mark, Owner, Publication, Stored, Version,
};
use crate::dedup::{Refusal, Search};
use crate::limits::{BATCH_BYTES_MAX, BATCH_ENTRIES_MAX};
use crate::receipts::Dirty;
use crate::time::Now;

pub(super) fn user(n: u8) -> UserId {
    UserId::from_bytes([n; 16])
}

pub(super) fn by(n: u8, device: u64) -> Sender {
    Sender { user: user(n), device: DeviceId::new(device).expect("not 0") }
}

pub(super) fn group_id() -> ConversationId {
    ConversationId::group_from_random([7; 16])
}

pub(super) fn direct_id() -> ConversationId {
    ConversationId::direct(user(1), user(2))
}

pub(super) fn message(payload: impl Into<Bytes>) -> Change {
    Change::Message(Message { content_type: "text/plain".into(), payload: payload.into(), reply_to: None })
}

pub(super) fn say() -> Change {
    message("hello")
}

pub(super) fn create(members: &[u8]) -> Change {
    Change::Create { title: "t".into(), members: members.iter().copied().map(user).collect() }
}

/// What becomes of a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Lands,
    Conflict,
    UnknownLanded,
    UnknownLost,
    /// Unknown, and still on its way: [`World::land_late`] lets it arrive.
    UnknownLate,
    Unavailable,
    FailedLanded,
    FailedLost,
}

/// The conversation as it is durable.
pub(super) struct Store {
    version: u64,
    /// The version that last wrote the head: what a commit's read of it conflicts with.
    head_version: u64,
    pub(super) head: Head,
    pub(super) record: Option<Conversation>,
    pub(super) log: Vec<Entry>,
    bytes: Vec<Bytes>,
    /// Who is to get each entry.
    pub(super) audiences: Vec<Vec<UserId>>,
    /// Who is a member after each entry.
    pub(super) active: Vec<BTreeSet<UserId>>,
    pub(super) members: BTreeMap<UserId, Membership>,
    windows: HashMap<Sender, SendWindow>,
    /// Whose window cannot be read.
    pub(super) damaged: Option<Sender>,
    sends: HashMap<Sender, Vec<(ClientSeq, Seq)>>,
    pub(super) watermarks: BTreeMap<UserId, Watermarks>,
}

impl Store {
    fn new() -> Self {
        Self {
            version: 1,
            head_version: 1,
            head: Head::default(),
            record: None,
            log: Vec::new(),
            bytes: Vec::new(),
            audiences: Vec::new(),
            active: Vec::new(),
            members: BTreeMap::new(),
            windows: HashMap::new(),
            damaged: None,
            sends: HashMap::new(),
            watermarks: BTreeMap::new(),
        }
    }

    /// The version at which a commit has read the head, when the head is as the batch says.
    fn begin(&self, batch: &Batch) -> Option<u64> {
        match batch.version {
            Some(Version(version)) => Some(version),
            None => (batch.base == self.head).then_some(self.version),
        }
    }

    fn may_land(&self, read: Option<u64>) -> bool {
        read.is_some_and(|read| self.head_version <= read)
    }

    /// Moves the head without changing it.
    fn fence(&mut self) {
        self.version += 1;
        self.head_version = self.version;
    }

    pub(super) fn trim(&mut self, floor: u64) {
        self.head.floor = Seq(floor);
        self.fence();
    }

    fn land(&mut self, batch: &Batch, read: Option<u64>) -> Result<Version, CommitFault> {
        if !self.may_land(read) {
            return Err(CommitFault::Conflict);
        }
        assert_eq!(batch.base, self.head, "the version vouched for another head");
        assert!(!batch.entries.is_empty() && batch.entries.len() <= BATCH_ENTRIES_MAX);
        assert!(batch.entries.iter().map(|(_, bytes)| bytes.len()).sum::<usize>() <= BATCH_BYTES_MAX);
        let mut senders = Vec::new();
        for (seq, bytes) in &batch.entries {
            let entry = decode_entry(bytes.clone()).expect("what is stored can be read");
            assert_eq!((entry.seq, *seq), (self.head.last.next(), self.head.last.next()), "dense");
            assert!(entry.time >= self.head.time, "time fell");
            self.head.last = entry.seq;
            self.head.time = entry.time;
            self.head.floor = self.head.floor.max(Seq(1));
            self.replay(batch, &entry);
            let sends = self.sends.entry(entry.sender).or_default();
            assert!(
                sends.last().is_none_or(|(last, _)| *last < entry.client_seq),
                "{:?} is doubled or out of order",
                entry.client_seq
            );
            sends.push((entry.client_seq, entry.seq));
            if !senders.contains(&entry.sender) {
                senders.push(entry.sender);
            }
            self.log.push(entry);
            self.bytes.push(bytes.clone());
        }
        assert_eq!(batch.head, self.head, "the head after the batch");
        let sent: Vec<Sender> = batch.windows.iter().map(|(sender, _)| *sender).collect();
        assert_eq!(sent, senders, "the windows of those who sent, once each");
        for (sender, window) in &batch.windows {
            let sends = &self.sends[sender];
            assert_eq!(window.sends, sends[sends.len().saturating_sub(SEND_WINDOW)..], "the last sends");
            self.windows.insert(*sender, window.clone());
        }
        for (user, membership) in &batch.members {
            self.members.insert(*user, *membership);
        }
        let active: BTreeSet<UserId> =
            self.members.iter().filter(|(_, m)| m.is_active()).map(|(user, _)| *user).collect();
        assert_eq!(Some(&active), self.active.last(), "the records say who the log says is a member");
        if let Some(record) = &batch.record {
            self.record = Some(record.clone());
        }
        let title = self.log.iter().rev().find_map(|entry| match &entry.change {
            Change::Create { title, .. } | Change::Title { title } => Some(title.as_str()),
            _ => None,
        });
        let record = self.record.as_ref().expect("a log has a record");
        assert_eq!((record.kind == Kind::Group, &*record.title), (title.is_some(), title.unwrap_or("")));
        self.fence();
        Ok(Version(self.version))
    }

    /// Follows the members by the log alone.
    fn replay(&mut self, batch: &Batch, entry: &Entry) {
        let before = self.active.last().cloned().unwrap_or_default();
        let mut after = before.clone();
        match &entry.change {
            Change::Create { members, .. } => {
                assert_eq!(entry.seq, Seq(1), "a group begins once");
                after.insert(entry.sender.user);
                after.extend(members);
            }
            Change::Add { members } => after.extend(members),
            Change::Remove { member } => assert!(after.remove(member), "removed and was no member"),
            Change::Leave => assert!(after.remove(&entry.sender.user)),
            Change::Message(_) if entry.seq == Seq(1) => after.extend(batch.members.iter().map(|(u, _)| *u)),
            Change::Message(_) | Change::Title { .. } | Change::Role { .. } => {}
            Change::Unknown => panic!("an entry that says nothing"),
        }
        let present = if entry.seq == Seq(1) { &after } else { &before };
        assert!(present.contains(&entry.sender.user), "an entry of somebody who is no member: {entry:?}");
        self.audiences.push(before.union(&after).copied().collect());
        self.active.push(after);
    }

    fn load(&self) -> (Version, Option<Stored>) {
        let stored = self.record.clone().map(|conversation| Stored {
            conversation,
            head: self.head,
            members: self.members.iter().map(|(user, membership)| (*user, *membership)).collect(),
            watermarks: self.watermarks.iter().map(|(user, marks)| (*user, *marks)).collect(),
        });
        (Version(self.version), stored)
    }

    fn windows(&self, senders: &[Sender]) -> (Head, Vec<LoadedWindow>) {
        let window = |sender: &Sender| match self.damaged == Some(*sender) {
            true => (*sender, Err(LoadFault::Damaged)),
            false => (*sender, Ok(self.windows.get(sender).cloned().unwrap_or_default())),
        };
        (self.head, senders.iter().map(window).collect())
    }

    pub(super) fn find(&self, sender: Sender, client_seq: ClientSeq) -> Option<&Entry> {
        self.log.iter().find(|entry| entry.sender == sender && entry.client_seq == client_seq)
    }

    pub(super) fn persist(&mut self, dirty: &[(UserId, Dirty)]) {
        for (user, dirty) in dirty {
            let marks = self.watermarks.entry(*user).or_default();
            let delivered = dirty.delivered.iter().map(|(_, seq)| *seq).max().unwrap_or_default();
            marks.delivered = marks.delivered.max(delivered);
            marks.read = marks.read.max(dirty.read);
            assert!(marks.read <= marks.delivered && marks.delivered <= self.head.last, "{marks:?}");
        }
    }
}

/// A send that a client has asked for.
pub(super) struct Ask {
    pub(super) sender: Sender,
    pub(super) peer: Option<UserId>,
    pub(super) client_seq: ClientSeq,
    pub(super) change: Change,
    /// When, in the order of everything that happened.
    pub(super) asked: u64,
    /// Whether it was in the log by then.
    stored: bool,
    pub(super) answer: Option<(u64, Result<SendOk, ErrorCode>)>,
}

/// An effect that is under way: first it is executed, then its result is on the way back.
pub(super) enum Pending {
    Load { fence: bool },
    Loaded(Result<(Version, Option<Stored>), LoadFault>),
    Windows(Vec<Sender>),
    GotWindows(Result<(Head, Vec<LoadedWindow>), LoadFault>),
    Commit { batch: Batch, read: Option<u64> },
    Committed(Result<Version, CommitFault>),
    Find { ticket: usize, search: Search },
}

/// A server with an owner of the conversation, and what it has said.
pub(super) struct Node {
    pub(super) owner: Owner<usize>,
    pub(super) pending: Vec<Pending>,
    /// How far connections here have been told, from the first load on.
    told: Option<Seq>,
    pub(super) published: Vec<Seq>,
    pub(super) publications: usize,
    pub(super) heads_moved: Vec<u64>,
    pub(super) leavers_told: Vec<(UserId, Seq)>,
    pub(super) marked: Vec<(usize, Result<(), ErrorCode>, bool)>,
    /// Each load, and whether it came with a fence.
    pub(super) loads: Vec<bool>,
    /// How many entries each commit had, and whether a version vouched for its head.
    pub(super) commits: Vec<(usize, bool)>,
    pub(super) finds: usize,
    pub(super) windows_asked: Vec<usize>,
}

impl Node {
    fn new(id: ConversationId) -> Self {
        Self {
            owner: Owner::new(id),
            pending: Vec::new(),
            told: None,
            published: Vec::new(),
            publications: 0,
            heads_moved: Vec::new(),
            leavers_told: Vec::new(),
            marked: Vec::new(),
            loads: Vec::new(),
            commits: Vec::new(),
            finds: 0,
            windows_asked: Vec::new(),
        }
    }
}

/// Commits that may still arrive.
pub(super) struct Late {
    /// Whose owner knows of it, and has to fence.
    node: Option<usize>,
    batch: Batch,
    read: Option<u64>,
}

/// A store, servers, and clients' sends.
pub(super) struct World {
    pub(super) id: ConversationId,
    pub(super) store: Store,
    pub(super) nodes: Vec<Node>,
    pub(super) now: Now,
    pub(super) asks: Vec<Ask>,
    pub(super) late: Vec<Late>,
    /// What the next commits come to; after these, `Ok`.
    pub(super) outcomes: VecDeque<Outcome>,
    /// Whether the next loads, of whatever kind, fail; after these, none.
    pub(super) loads_fail: VecDeque<bool>,
    pub(super) marks: usize,
    order: u64,
}

impl World {
    pub(super) fn new(id: ConversationId) -> Self {
        Self {
            id,
            store: Store::new(),
            nodes: [Node::new(id), Node::new(id)].into(),
            now: Now { mono: Default::default(), wall: WallMillis(1_000) },
            asks: Vec::new(),
            late: Vec::new(),
            outcomes: VecDeque::new(),
            loads_fail: VecDeque::new(),
            marks: 0,
            order: 0,
        }
    }

    /// A group that user 1 has created with these.
    pub(super) fn group(members: &[u8]) -> Self {
        let mut world = Self::new(group_id());
        assert!(world.send(0, by(1, 1), 1, create(members)).is_ok());
        world
    }

    fn tick(&mut self) -> u64 {
        self.order += 1;
        self.order
    }

    /// Submits and leaves everything that follows to the caller.
    pub(super) fn submit(&mut self, node: usize, sender: Sender, client_seq: u64, change: Change) -> usize {
        let other = if sender.user == user(1) { user(2) } else { user(1) };
        let peer = (self.id == direct_id()).then_some(other);
        self.submit_to(node, sender, peer, client_seq, change)
    }

    pub(super) fn submit_to(
        &mut self,
        node: usize,
        sender: Sender,
        peer: Option<UserId>,
        client_seq: u64,
        change: Change,
    ) -> usize {
        let ticket = self.asks.len();
        let (asked, client_seq) = (self.tick(), ClientSeq(client_seq));
        let stored = self.store.find(sender, client_seq).is_some();
        self.asks.push(Ask { sender, peer, client_seq, change: change.clone(), asked, stored, answer: None });
        self.nodes[node].owner.submit(self.now, Append { ticket, sender, peer, client_seq, change });
        self.drain(node);
        ticket
    }

    /// Submits and runs to the end.
    pub(super) fn send(
        &mut self,
        node: usize,
        sender: Sender,
        client_seq: u64,
        change: Change,
    ) -> Result<SendOk, ErrorCode> {
        let ticket = self.submit(node, sender, client_seq, change);
        self.run(node);
        self.answer(ticket).expect("answered")
    }

    pub(super) fn answer(&self, ticket: usize) -> Option<Result<SendOk, ErrorCode>> {
        self.asks[ticket].answer.map(|(_, result)| result)
    }

    /// The seq that a ticket was told, or the code; for tables.
    pub(super) fn seq(&self, ticket: usize) -> Option<Result<u64, ErrorCode>> {
        self.answer(ticket).map(|result| result.map(|ok| ok.seq.get()))
    }

    pub(super) fn mark(&mut self, node: usize, sender: Sender, delivered: u64, read: u64) -> usize {
        self.marks += 1;
        let mark = Mark { ticket: Some(self.marks), sender, delivered: Seq(delivered), read: Seq(read) };
        self.nodes[node].owner.mark(self.now, mark);
        self.drain(node);
        self.marks
    }

    pub(super) fn marked(&self, node: usize, ticket: usize) -> Option<(Result<(), ErrorCode>, bool)> {
        self.nodes[node]
            .marked
            .iter()
            .find(|(t, ..)| *t == ticket)
            .map(|(_, result, durable)| (*result, *durable))
    }

    pub(super) fn pass(&mut self, ms: u64) {
        self.now.mono = self.now.mono.plus(ms);
        self.now.wall.0 += ms;
    }

    /// The server stops and another takes its place; what it had under way may still land.
    pub(super) fn restart(&mut self, node: usize) {
        self.late.iter_mut().filter(|late| late.node == Some(node)).for_each(|late| late.node = None);
        for pending in core::mem::replace(&mut self.nodes[node], Node::new(self.id)).pending {
            if let Pending::Commit { batch, read } = pending {
                self.late.push(Late { node: None, batch, read });
            }
        }
    }

    /// Executes everything until nothing is under way.
    pub(super) fn run(&mut self, node: usize) {
        while !self.nodes[node].pending.is_empty() {
            self.step(node, 0);
        }
    }

    /// Executes the effect, or hands its result back.
    pub(super) fn step(&mut self, node: usize, index: usize) {
        let outcome = match &self.nodes[node].pending[index] {
            Pending::Commit { .. } => self.outcomes.pop_front(),
            Pending::Load { .. } | Pending::Windows(_) => {
                self.loads_fail.pop_front().filter(|fails| *fails).map(|_| Outcome::Unavailable)
            }
            _ => None,
        };
        self.step_as(node, index, outcome.unwrap_or(Outcome::Lands));
    }

    pub(super) fn step_as(&mut self, node: usize, index: usize, outcome: Outcome) {
        let fails = outcome != Outcome::Lands;
        let next = match self.nodes[node].pending.remove(index) {
            Pending::Load { fence } => {
                if fence && !fails {
                    self.store.fence();
                }
                Pending::Loaded(if fails { Err(LoadFault::Unavailable) } else { Ok(self.store.load()) })
            }
            Pending::Windows(senders) => Pending::GotWindows(if fails {
                Err(LoadFault::Unavailable)
            } else {
                Ok(self.store.windows(&senders))
            }),
            Pending::Commit { batch, read } => Pending::Committed(self.commit(node, batch, read, outcome)),
            Pending::Loaded(loaded) => {
                if let Ok((_, stored)) = &loaded {
                    let late = self.late.iter().find(|l| l.node == Some(node) && self.store.may_land(l.read));
                    assert!(
                        late.is_none(),
                        "a commit of unknown outcome can land although all was loaded anew"
                    );
                    let last = stored.as_ref().map_or(Seq(0), |stored| stored.head.last);
                    self.nodes[node].told.get_or_insert(last);
                }
                self.nodes[node].owner.on_loaded(self.now, loaded);
                return self.drain(node);
            }
            Pending::GotWindows(windows) => {
                self.nodes[node].owner.on_windows(self.now, windows);
                return self.drain(node);
            }
            Pending::Committed(result) => {
                self.nodes[node].owner.on_committed(self.now, result);
                return self.drain(node);
            }
            Pending::Find { ticket, search } => {
                self.nodes[node].finds += 1;
                let (id, floor) = (self.id, self.store.head.floor);
                let found = self.store.find(search.sender, search.client_seq);
                let result = match found.filter(|entry| entry.seq < search.before) {
                    Some(entry) if entry.seq < floor => Err(ErrorCode::DuplicateTrimmed.into()),
                    Some(entry) => search.found(id, entry),
                    None => Err(search.absent()),
                };
                return self.on_reply(ticket, result);
            }
        };
        self.nodes[node].pending.insert(index, next);
    }

    fn commit(
        &mut self,
        node: usize,
        batch: Batch,
        read: Option<u64>,
        outcome: Outcome,
    ) -> Result<Version, CommitFault> {
        match outcome {
            Outcome::Lands => self.store.land(&batch, read),
            Outcome::Conflict => Err(CommitFault::Conflict),
            Outcome::UnknownLanded => self.store.land(&batch, read).and(Err(CommitFault::Unknown)),
            Outcome::UnknownLost => Err(CommitFault::Unknown),
            Outcome::UnknownLate => {
                self.late.push(Late { node: Some(node), batch, read });
                Err(CommitFault::Unknown)
            }
            Outcome::Unavailable => Err(CommitFault::Unavailable),
            Outcome::FailedLanded => self.store.land(&batch, read).and(Err(CommitFault::Failed)),
            Outcome::FailedLost => Err(CommitFault::Failed),
        }
    }

    /// Commits of unknown outcome arrive; how many of them land.
    /// Time has passed.
    pub(super) fn settle(&mut self, node: usize) {
        self.nodes[node].owner.settle();
        self.drain(node);
        self.run(node);
    }

    pub(super) fn land_late(&mut self) -> usize {
        let late = core::mem::take(&mut self.late);
        late.into_iter().filter(|late| self.store.land(&late.batch, late.read).is_ok()).count()
    }

    fn drain(&mut self, node: usize) {
        while let Some(effect) = self.nodes[node].owner.poll_effect() {
            match effect {
                Effect::Load { fence } => {
                    self.nodes[node].loads.push(fence);
                    self.nodes[node].pending.push(Pending::Load { fence });
                }
                Effect::LoadWindows(senders) => {
                    assert!((1..=BATCH_ENTRIES_MAX).contains(&senders.len()));
                    self.nodes[node].windows_asked.push(senders.len());
                    self.nodes[node].pending.push(Pending::Windows(senders));
                }
                Effect::Commit(batch) => {
                    assert_eq!(batch.conversation, self.id);
                    self.nodes[node].commits.push((batch.entries.len(), batch.version.is_some()));
                    let read = self.store.begin(&batch);
                    self.nodes[node].pending.push(Pending::Commit { batch, read });
                }
                Effect::FindSend(ticket, search) => {
                    assert!(search.before <= self.store.head.last.next(), "looks where nothing is durable");
                    self.nodes[node].pending.push(Pending::Find { ticket, search });
                }
                Effect::Reply(ticket, result) => self.on_reply(ticket, result),
                Effect::Publish(publication) => self.on_publish(node, &publication),
                Effect::HeadMoved { head, audience } => {
                    let node = &mut self.nodes[node];
                    if let [leaver] = *audience
                        && !self.store.active[head.get() as usize - 1].iter().any(|user| *user == leaver)
                        && self.store.active[head.get() as usize - 2].iter().any(|user| *user == leaver)
                    {
                        assert!(
                            node.told.is_some_and(|told| told < head),
                            "knows already that they are gone"
                        );
                        node.leavers_told.push((leaver, head));
                        continue;
                    }
                    assert!(node.told.is_some_and(|told| told < head), "told twice: {head}");
                    let active = &self.store.active[head.get() as usize - 1];
                    assert!(active.iter().eq(audience.iter()), "{head} is told to its members");
                    node.told = Some(head);
                    node.heads_moved.push(head.get());
                }
                Effect::Marked { ticket, result, durable } => {
                    self.nodes[node].marked.push((ticket, result, durable));
                }
            }
        }
        let under_way = self.nodes[node].pending.iter().any(|p| !matches!(p, Pending::Find { .. }));
        assert!(!(under_way && self.nodes[node].owner.is_idle()), "idle while something is under way");
    }

    /// An answer has to be the truth at the moment when it goes out.
    fn on_reply(&mut self, ticket: usize, result: Result<SendOk, Refusal>) {
        let asked = &self.asks[ticket];
        if let Err(Refusal { code, highest }) = result {
            let by_number = matches!(code, ErrorCode::ClientSeqStale | ErrorCode::ClientSeqUsed);
            assert_eq!(highest.is_some(), by_number, "{code}");
            assert!(highest.is_none_or(|highest| highest >= asked.client_seq), "{code}: above it is free");
        }
        let result = result.map_err(|refusal| refusal.code);
        if let Err(code) = result {
            // Under its number there may be something else.
            let denies = code.effect() == error::Effect::None
                && code.retry() == error::Retry::Never
                && code != ErrorCode::ClientSeqUsed;
            assert!(!(denies && asked.stored), "{code} of what was stored before");
        }
        let order = self.tick();
        let ask = &mut self.asks[ticket];
        assert!(ask.answer.is_none(), "answered twice");
        ask.answer = Some((order, result));
        if let Ok(ok) = result {
            let entry =
                self.store.log.get(ok.seq.get() as usize - 1).expect("acknowledged before it was durable");
            assert_eq!((entry.sender, entry.client_seq), (ask.sender, ask.client_seq), "another's seq");
            assert_eq!((ok.conversation, ok.time), (self.id, entry.time));
        }
    }

    fn on_publish(&mut self, node: usize, publication: &Publication) {
        let node = &mut self.nodes[node];
        node.publications += 1;
        assert_eq!(publication.conversation, self.id);
        for (seq, bytes) in &publication.frames {
            assert_eq!(node.told.map(Seq::next), Some(*seq), "published twice, or something was left out");
            node.told = Some(*seq);
            node.published.push(*seq);
            let i = seq.get() as usize - 1;
            let stored = self.store.bytes.get(i).expect("published before it was durable");
            let mut buf = BytesMut::from(&bytes[..]);
            let Ok(Some(Frame::Message(body))) = frame::decode(&mut buf, FRAME_BYTES_MAX) else {
                panic!("not a frame")
            };
            assert!(buf.is_empty());
            assert!(body.ends_with(stored), "the bytes that are stored are those that are pushed");
            let message = parse_server(body).expect("parses").expect("is known");
            let expected = ServerBody::Push { conversation: self.id, entry: self.store.log[i].clone() };
            assert_eq!((message.id.get(), message.body), (0, expected));
            assert_eq!(self.store.audiences[i], *publication.audience, "who gets {seq}");
        }
    }

    /// Persists what is dirty.
    pub(super) fn persist(&mut self, node: usize) -> Vec<(UserId, Dirty)> {
        let dirty = self.nodes[node].owner.take_dirty();
        self.store.persist(&dirty);
        dirty
    }
}
