//! The owner of a conversation: takes appends and watermarks in, batches whatever arrived while the last commit was in
//! flight, numbers it, has it committed, and only then acknowledges and publishes it.
//!
//! ```text
//!            submit / mark
//!   Cold ------------------> Loading --on_loaded--> Ready --submit--> Committing
//!    ^                          ^  ^                  ^                 |  |  |
//!    |   on_loaded(failed)      |  |                  +--on_committed---+  |  |
//!    +--------------------------+  +--------conflict, outcome unknown------+  |
//!    +------------------------------------------------unavailable-------------+
//! ```
//!
//! What is numbered and not yet durable is visible to nobody. When a commit fails the whole picture is thrown away and
//! loaded anew, and its appends are decided again from the start; the send windows make that safe even when the failed
//! commit had landed after all.
//!
//! An owner may be stale: another node appends, and this one has not heard of it. Its next commit finds out; a refusal
//! commits nothing. So a send or a watermark is refused by a picture that the store has confirmed after the request came,
//! and by no other: where there was no such load or commit, the head is read once more.
//!
//! A commit of a dead node may land after that. So what is permitted is decided on what is durable, and not on entries before
//! it in its own batch: of two owners that know the same head, one would permit what the other refuses.

use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;

use bytes::Bytes;
use hashbrown::{HashMap, HashSet};
use tern_protocol::error::ErrorCode;
use tern_protocol::event::SendOk;
use tern_protocol::ids::{ClientSeq, ConversationId, Seq, UserId};
use tern_protocol::limits::ENTRY_BYTES_MAX;
use tern_protocol::model::{
    Change, Conversation, Head, Kind, Membership, SendWindow, Sender, WallMillis, Watermarks,
};

use crate::dedup::{Refusal, Search};
use crate::limits::{
    BATCH_BYTES_MAX, BATCH_ENTRIES_MAX, COMMIT_ATTEMPTS_MAX, CONVERSATION_MARKS_MAX, CONVERSATION_QUEUE_MAX,
    RECEIPT_COUNTS_INTERVAL_MS, WINDOWS_CACHED_MAX,
};
use crate::membership::Members;
use crate::receipts::{Dirty, Notice, Receipts};
use crate::sequencer::Sequencer;
use crate::time::{MonoMillis, Now};

mod decide;

use decide::{Decision, Staged, decide};

/// A commit's version in the store; rises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u64);

/// How long a version may stand for "the head is as I know it" without reading it: below the 5 s after which a
/// FoundationDB transaction is too old.
const VERSION_LIFE_MS: u64 = 3_000;

/// A send on its way into the log. `T` finds the way back to whoever asked.
#[derive(Debug)]
pub struct Append<T> {
    /// Who asked.
    pub ticket: T,
    /// The logged-in user and device.
    pub sender: Sender,
    /// For a send to a user: the other end of the direct chat, which may not exist yet.
    pub peer: Option<UserId>,
    /// The device's number for it.
    pub client_seq: ClientSeq,
    /// What.
    pub change: Change,
}

/// A watermark on its way.
#[derive(Debug)]
pub struct Mark<T> {
    /// Who asked; `None` when no answer is wanted.
    pub ticket: Option<T>,
    /// The logged-in user and device.
    pub sender: Sender,
    /// The device has everything up to here.
    pub delivered: Seq,
    /// The user has seen everything up to here; 0: not said.
    pub read: Seq,
}

/// A conversation as the store has it.
#[derive(Debug, Clone)]
pub struct Stored {
    /// Kind and title.
    pub conversation: Conversation,
    /// Where the log stands.
    pub head: Head,
    /// Past members included.
    pub members: Vec<(UserId, Membership)>,
    /// Of members.
    pub watermarks: Vec<(UserId, Watermarks)>,
}

/// Entries to be committed together, fenced by the head.
#[derive(Debug, Clone)]
pub struct Batch {
    /// Whose log.
    pub conversation: ConversationId,
    /// The head before it; of a conversation that does not exist, `last` is 0.
    pub base: Head,
    /// The version at which that was the head, while it is fresh; `None`: read and compare.
    pub version: Option<Version>,
    /// Encoded, dense, from `base.last + 1`.
    pub entries: Vec<(Seq, Bytes)>,
    /// The head after it.
    pub head: Head,
    /// The windows that changed.
    pub windows: Vec<(Sender, SendWindow)>,
    /// The memberships that changed.
    pub members: Vec<(UserId, Membership)>,
    /// The conversation's record, when it is new or changed.
    pub record: Option<Conversation>,
}

/// Why a commit failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommitFault {
    /// The head is not as the batch assumed, or the version was too old; nothing is stored.
    Conflict,
    /// It may be stored, now or later.
    Unknown,
    /// The store takes nothing at present; nothing is stored.
    Unavailable,
    /// The store will never take it, or is broken; nothing more can be said.
    Failed,
}

/// A device's send window, or why it could not be loaded.
pub type LoadedWindow = (Sender, Result<SendWindow, LoadFault>);

/// Why a conversation, or a part of it, could not be loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoadFault {
    /// The store cannot be read at present.
    Unavailable,
    /// A record of it is damaged: it stays so until somebody mends it.
    Damaged,
}

impl LoadFault {
    /// What a send is told that has to be given up, unless it may have been stored.
    pub fn code(self) -> ErrorCode {
        match self {
            Self::Unavailable => ErrorCode::Unavailable,
            Self::Damaged => ErrorCode::Internal,
        }
    }
}

/// Durable entries for everybody in an audience.
#[derive(Debug, Clone)]
pub struct Publication {
    /// Whose log.
    pub conversation: ConversationId,
    /// `Push` frames, ready to be written, in order.
    pub frames: Vec<(Seq, Bytes)>,
    /// Who gets them, sorted.
    pub audience: Arc<[UserId]>,
}

/// What the owner wants done.
#[derive(Debug)]
pub enum Effect<T> {
    /// Load the conversation, after a fence against a commit that may still land if `fence` says so, and call
    /// [`Owner::on_loaded`].
    Load {
        /// First move the head, so that an earlier commit cannot land any more.
        fence: bool,
    },
    /// Load these windows, an empty one for a device that has sent nothing, and call [`Owner::on_windows`].
    LoadWindows(Vec<Sender>),
    /// Commit and call [`Owner::on_committed`].
    Commit(Batch),
    /// Look this send up in the log, and answer with what is found.
    FindSend(T, Search),
    /// Answer a send.
    Reply(T, Result<SendOk, Refusal>),
    /// Push to everybody's connections.
    Publish(Publication),
    /// Tell everybody's connections that the log has grown.
    HeadMoved {
        /// To here.
        head: Seq,
        /// Whom.
        audience: Arc<[UserId]>,
    },
    /// Answer a mark; when it is taken and says `durable`, after the next [`Owner::take_dirty`] is persisted.
    Marked {
        /// Who asked.
        ticket: T,
        /// Taken or refused.
        result: Result<(), ErrorCode>,
        /// Whether the answer waits for the store.
        durable: bool,
    },
}

#[derive(Debug)]
struct Known {
    exists: bool,
    /// The last look at the store that has found it to be so, of those that [`Owner::looks`] counts.
    as_of: u64,
    version: Option<(Version, MonoMillis)>,
    conversation: Conversation,
    members: Members,
    sequencer: Sequencer,
    windows: HashMap<Sender, SendWindow>,
}

impl Known {
    /// Whether this entry is numbered and not known to be durable.
    fn is_in_flight(&self, seq: Seq) -> bool {
        self.sequencer.durable() < seq && seq <= self.sequencer.head().last
    }

    /// The highest number that is stored, or numbered, of a device whose window is here.
    fn highest(&self, sender: &Sender) -> Option<ClientSeq> {
        self.windows.get(sender)?.sends.last().map(|(client_seq, _)| *client_seq)
    }

    /// What is told beside the code when the number is at fault.
    fn refusal(&self, sender: &Sender, code: ErrorCode) -> Refusal {
        let by_number = matches!(code, ErrorCode::ClientSeqStale | ErrorCode::ClientSeqUsed);
        Refusal { code, highest: self.highest(sender).filter(|_| by_number) }
    }
}

#[derive(Debug)]
struct Queued<T> {
    append: Append<T>,
    /// The last look at the store that began before it came.
    since: u64,
    attempts: u32,
    maybe_stored: bool,
}

#[derive(Debug)]
struct QueuedMark<T> {
    mark: Mark<T>,
    /// The last look at the store that began before it came.
    since: u64,
}

#[derive(Debug)]
struct InFlight<T> {
    /// What was numbered, with its answer; a duplicate of an entry of the same batch, and what was refused because of
    /// the entries before it, are among them.
    items: Vec<(Queued<T>, Result<SendOk, ErrorCode>)>,
    entries: Vec<Numbered>,
}

/// An entry that has its number and is not durable yet.
#[derive(Debug)]
struct Numbered {
    seq: Seq,
    time: WallMillis,
    sender: UserId,
    is_message: bool,
    /// The `Push` frame.
    frame: Bytes,
    audience: Arc<[UserId]>,
}

#[derive(Debug)]
enum Phase<T> {
    Cold,
    Loading,
    Ready(Known),
    Committing(Known, InFlight<T>),
}

/// The owner of one conversation.
#[derive(Debug)]
pub struct Owner<T> {
    id: ConversationId,
    phase: Phase<T>,
    queue: VecDeque<Queued<T>>,
    marks: VecDeque<QueuedMark<T>>,
    /// Loads, reads of windows and commits so far.
    looks: u64,
    /// The read of windows that is under way.
    windows_asked: Option<u64>,
    /// A commit may still land: the next load has to fence, also after one that failed.
    unsettled: bool,
    /// The last entry that connections here were told of, over reloads.
    published: Option<Seq>,
    receipts: Receipts,
    counts_due: MonoMillis,
    effects: VecDeque<Effect<T>>,
}

impl<T> Owner<T> {
    /// An owner that knows nothing yet.
    pub fn new(id: ConversationId) -> Self {
        Self {
            id,
            phase: Phase::Cold,
            queue: VecDeque::new(),
            marks: VecDeque::new(),
            looks: 0,
            windows_asked: None,
            unsettled: false,
            published: None,
            receipts: Receipts::default(),
            counts_due: MonoMillis::default(),
            effects: VecDeque::new(),
        }
    }

    /// The conversation.
    pub fn id(&self) -> ConversationId {
        self.id
    }

    /// The next thing to do. Call after every other method until it returns `None`.
    pub fn poll_effect(&mut self) -> Option<Effect<T>> {
        self.effects.pop_front()
    }

    /// Whether it may be forgotten: nothing waits, is in flight or is to be persisted. Notices that wait do not count
    /// while nothing is loaded: they may be lost, and nothing would ever load for their sake.
    pub fn is_idle(&self) -> bool {
        matches!(self.phase, Phase::Cold | Phase::Ready(_))
            && self.queue.is_empty()
            && self.marks.is_empty()
            && self.effects.is_empty()
            && self.windows_asked.is_none()
            && !self.unsettled
            && !self.receipts.is_dirty()
            && (matches!(self.phase, Phase::Cold) || !self.receipts.has_moved())
    }

    /// Whether a commit of unknown outcome may have stored, or may still store, what nobody here was told of, and the store
    /// could not be asked since. Whoever sent it may never ask again, and the others do not know of it: call
    /// [`Owner::settle`] from time to time until this is over.
    pub fn is_unsettled(&self) -> bool {
        self.unsettled && matches!(self.phase, Phase::Cold)
    }

    /// Asks the store again what became of a commit of unknown outcome, if nobody else has done so.
    pub fn settle(&mut self) {
        if self.is_unsettled() {
            self.load();
        }
    }

    /// Takes an append.
    pub fn submit(&mut self, now: Now, append: Append<T>) {
        if self.queue.len() >= CONVERSATION_QUEUE_MAX {
            self.effects.push_back(Effect::Reply(append.ticket, Err(ErrorCode::Overloaded.into())));
            return;
        }
        self.queue.push_back(Queued { append, since: self.looks, attempts: 0, maybe_stored: false });
        self.pump(now);
    }

    /// Takes a watermark.
    pub fn mark(&mut self, now: Now, mark: Mark<T>) {
        // A reader of the store sees a commit before its owner hears of it, and may mark what it has read: that waits too.
        let taken = match &self.phase {
            Phase::Ready(known) | Phase::Committing(known, _) => {
                take_mark(known, &mut self.receipts, &mark).is_ok()
            }
            Phase::Cold | Phase::Loading => false,
        };
        if taken {
            self.answer_mark(mark, Ok(()));
        } else if self.marks.len() >= CONVERSATION_MARKS_MAX {
            self.answer_mark(mark, Err(ErrorCode::Overloaded));
        } else {
            self.marks.push_back(QueuedMark { mark, since: self.looks });
            self.pump(now);
        }
    }

    /// The answer to [`Effect::Load`]: `Ok(None)` when there is no such conversation, `Err` when it could not be loaded.
    pub fn on_loaded(&mut self, now: Now, loaded: Result<(Version, Option<Stored>), LoadFault>) {
        assert!(matches!(self.phase, Phase::Loading), "loaded without having asked");
        let (version, stored) = match loaded {
            Ok(loaded) => loaded,
            Err(fault) => {
                self.phase = Phase::Cold;
                while let Some(queued) = self.queue.pop_front() {
                    self.give_up(queued, fault.code());
                }
                self.give_up_marks(fault.code());
                return;
            }
        };
        self.unsettled = false;
        let exists = stored.is_some();
        let stored = stored.unwrap_or_else(|| Stored {
            conversation: Conversation { kind: Kind::Group, title: Default::default() },
            head: Head::default(),
            members: Vec::new(),
            watermarks: Vec::new(),
        });
        let mut known = Known {
            exists,
            // Nothing else looks while it loads.
            as_of: self.looks,
            version: Some((version, now.mono)),
            conversation: stored.conversation,
            members: Members::new(stored.members),
            sequencer: Sequencer::new(stored.head),
            windows: HashMap::new(),
        };
        self.receipts.absorb(stored.watermarks);
        let last = stored.head.last;
        if let Some(published) = self.published.filter(|published| *published < last) {
            // A commit whose outcome was unknown has landed, or somebody else has appended: nobody here was told.
            for (user, head) in known.members.left_after(published) {
                self.effects.push_back(Effect::HeadMoved { head, audience: [user].into() });
            }
            let audience = known.members.audience();
            self.effects.push_back(Effect::HeadMoved { head: last, audience });
        }
        self.published = self.published.max(Some(last));
        self.phase = Phase::Ready(known);
        self.take_waiting_marks();
        self.pump(now);
    }

    /// The answer to [`Effect::LoadWindows`], with the head that was read together with them; `Err` when they, or one of
    /// them, could not be loaded.
    pub fn on_windows(&mut self, now: Now, loaded: Result<(Head, Vec<LoadedWindow>), LoadFault>) {
        let look = self.windows_asked.take().unwrap_or_default();
        // While a commit is in flight, the windows in memory know more than the store.
        let may_forget = matches!(self.phase, Phase::Ready(_));
        let mut faults = Vec::new();
        match (&mut self.phase, loaded) {
            (_, Err(fault)) => {
                while let Some(queued) = self.queue.pop_front() {
                    self.give_up(queued, fault.code());
                }
                self.give_up_marks(fault.code());
            }
            (Phase::Ready(known) | Phase::Committing(known, _), Ok((head, windows)))
                if head.last == known.sequencer.durable() || head.last == known.sequencer.head().last =>
            {
                known.as_of = known.as_of.max(look);
                if may_forget && known.windows.len() + windows.len() > WINDOWS_CACHED_MAX {
                    known.windows.clear();
                }
                for (sender, window) in windows {
                    match window {
                        // One that is cached is newer: it has what was numbered since.
                        Ok(window) => _ = known.windows.entry(sender).or_insert(window),
                        Err(fault) => faults.push((sender, fault)),
                    }
                }
            }
            // Somebody else has appended since, so the windows and the rest of the picture do not belong together.
            (Phase::Ready(_), Ok(_)) => {
                self.load();
            }
            (Phase::Cold | Phase::Loading | Phase::Committing(..), Ok(_)) => {}
        }
        for (sender, fault) in faults {
            self.give_up_sends_of(sender, fault.code());
        }
        self.take_waiting_marks();
        self.pump(now);
    }

    /// The answer to [`Effect::Commit`].
    pub fn on_committed(&mut self, now: Now, result: Result<Version, CommitFault>) {
        let Phase::Committing(mut known, in_flight) = core::mem::replace(&mut self.phase, Phase::Cold) else {
            panic!("committed without having asked");
        };
        match result {
            Ok(version) => {
                known.exists = true;
                // Windows that were asked for before it, and loads, are none of its time.
                known.as_of = self.looks;
                known.version = Some((version, now.mono));
                self.on_durable(&mut known, in_flight);
                self.phase = Phase::Ready(known);
                self.take_waiting_marks();
            }
            Err(fault) => {
                self.unsettled |= fault == CommitFault::Unknown;
                for (mut queued, result) in in_flight.items.into_iter().rev() {
                    queued.attempts += 1;
                    queued.maybe_stored |=
                        result.is_ok() && matches!(fault, CommitFault::Unknown | CommitFault::Failed);
                    let code = match fault {
                        CommitFault::Failed => Some(ErrorCode::Internal),
                        CommitFault::Unavailable => Some(ErrorCode::Unavailable),
                        CommitFault::Conflict | CommitFault::Unknown => {
                            (queued.attempts >= COMMIT_ATTEMPTS_MAX).then_some(ErrorCode::Overloaded)
                        }
                    };
                    match code {
                        Some(code) => self.give_up(queued, code),
                        None => self.queue.push_front(queued),
                    }
                }
                if self.unsettled || !self.queue.is_empty() {
                    self.load();
                }
            }
        }
        self.pump(now);
    }

    /// The only place where a send is acknowledged and an entry is shown.
    fn on_durable(&mut self, known: &mut Known, in_flight: InFlight<T>) {
        let mut publications: Vec<Publication> = Vec::new();
        for Numbered { seq, sender, is_message, frame, audience, .. } in in_flight.entries {
            known.sequencer.on_durable(seq);
            if is_message && known.conversation.kind == Kind::Group {
                self.receipts.on_message(sender, seq);
            }
            match publications.last_mut() {
                Some(last) if Arc::ptr_eq(&last.audience, &audience) => last.frames.push((seq, frame)),
                _ => publications.push(Publication {
                    conversation: self.id,
                    frames: alloc::vec![(seq, frame)],
                    audience,
                }),
            }
        }
        self.published = Some(known.sequencer.durable());
        self.effects.extend(in_flight.items.into_iter().map(|(queued, result)| {
            let Append { ticket, sender, .. } = queued.append;
            Effect::Reply(ticket, result.map_err(|code| known.refusal(&sender, code)))
        }));
        self.effects.extend(publications.into_iter().map(Effect::Publish));
    }

    fn give_up(&mut self, queued: Queued<T>, code: ErrorCode) {
        let code = if queued.maybe_stored { ErrorCode::OutcomeUnknown } else { code };
        self.effects.push_back(Effect::Reply(queued.append.ticket, Err(code.into())));
    }

    fn give_up_sends_of(&mut self, sender: Sender, code: ErrorCode) {
        for queued in core::mem::take(&mut self.queue) {
            if queued.append.sender == sender {
                self.give_up(queued, code);
            } else {
                self.queue.push_back(queued);
            }
        }
    }

    /// Of the marks that wait, answers those that can be taken, and those that came before the last look at the store.
    fn take_waiting_marks(&mut self) {
        for queued in core::mem::take(&mut self.marks) {
            let Phase::Ready(known) = &self.phase else {
                self.marks.push_back(queued);
                continue;
            };
            let result = take_mark(known, &mut self.receipts, &queued.mark);
            if result.is_ok() || queued.since < known.as_of {
                self.answer_mark(queued.mark, result);
            } else {
                self.marks.push_back(queued);
            }
        }
    }

    fn give_up_marks(&mut self, code: ErrorCode) {
        for queued in core::mem::take(&mut self.marks) {
            self.answer_mark(queued.mark, Err(code));
        }
    }

    fn answer_mark(&mut self, mark: Mark<T>, result: Result<(), ErrorCode>) {
        if let Some(ticket) = mark.ticket {
            let durable = result.is_ok() && mark.read > Seq(0);
            self.effects.push_back(Effect::Marked { ticket, result, durable });
        }
    }

    fn load(&mut self) {
        self.phase = Phase::Loading;
        self.looks += 1;
        self.effects.push_back(Effect::Load { fence: self.unsettled });
    }

    /// Does what can be done now: loads, forms the next batch, or looks at what a refusal would be based on.
    fn pump(&mut self, now: Now) {
        match core::mem::replace(&mut self.phase, Phase::Cold) {
            Phase::Cold if !self.queue.is_empty() || !self.marks.is_empty() => self.load(),
            Phase::Ready(known) if !self.queue.is_empty() => self.phase = self.form_batch(now, known),
            phase => self.phase = phase,
        }
        if let (Phase::Ready(_), Some(first)) = (&self.phase, self.marks.front()) {
            let sender = first.mark.sender;
            self.look(alloc::vec![sender]);
        }
    }

    fn form_batch(&mut self, now: Now, mut known: Known) -> Phase<T> {
        let base = if known.exists { known.sequencer.head() } else { Head::default() };
        let mut staged = Staged::default();
        let mut in_flight = InFlight { items: Vec::new(), entries: Vec::new() };
        while let Some(queued) = self.queue.front() {
            if known.exists && !known.windows.contains_key(&queued.append.sender) {
                if in_flight.entries.is_empty() && self.windows_asked.is_none() {
                    self.look(self.windows_missing(&known));
                }
                break;
            }
            let Some(mut queued) = self.queue.pop_front() else { break };
            match decide(self.id, now, &mut known, &mut staged, &in_flight.entries, &mut queued.append) {
                Decision::Refuse(_) if in_flight.entries.is_empty() && known.as_of <= queued.since => {
                    let sender = queued.append.sender;
                    self.queue.push_front(queued);
                    self.look(alloc::vec![sender]);
                    break;
                }
                // What is refused now would also have been found now, had an earlier try stored it.
                Decision::Refuse(code) if in_flight.entries.is_empty() => {
                    let refusal = known.refusal(&queued.append.sender, code);
                    self.effects.push_back(Effect::Reply(queued.append.ticket, Err(refusal)));
                }
                // Perhaps because of an entry that is not durable yet, and may never be.
                Decision::Refuse(code) => in_flight.items.push((queued, Err(code))),
                Decision::Wait => {
                    self.queue.push_front(queued);
                    break;
                }
                Decision::Find(before) => {
                    let maybe_stored = queued.maybe_stored;
                    let Append { ticket, sender, client_seq, change, .. } = queued.append;
                    let highest = known.highest(&sender).unwrap_or(client_seq);
                    let search = Search { sender, client_seq, change, before, highest, maybe_stored };
                    self.effects.push_back(Effect::FindSend(ticket, search));
                }
                Decision::Numbered { ok, entry } => {
                    if let Some(entry) = entry {
                        in_flight.entries.push(entry);
                    }
                    in_flight.items.push((queued, Ok(ok)));
                }
            }
            if staged.entries.len() >= BATCH_ENTRIES_MAX
                || staged.bytes + ENTRY_BYTES_MAX > BATCH_BYTES_MAX
                || staged.changes_what_is_permitted()
            {
                break;
            }
        }
        if staged.entries.is_empty() {
            assert!(in_flight.items.is_empty(), "an answer that waits for nothing");
            return Phase::Ready(known);
        }
        self.looks += 1;
        let version =
            known.version.filter(|(_, at)| now.mono.since(*at) < VERSION_LIFE_MS).map(|(version, _)| version);
        let window = |sender: &Sender| (*sender, known.windows.get(sender).cloned().unwrap_or_default());
        self.effects.push_back(Effect::Commit(Batch {
            conversation: self.id,
            base,
            version,
            head: known.sequencer.head(),
            windows: staged.senders.iter().map(window).collect(),
            members: staged.members.iter().filter_map(|u| Some((*u, *known.members.get(*u)?))).collect(),
            record: staged.record.then(|| known.conversation.clone()),
            entries: staged.entries,
        }));
        Phase::Committing(known, in_flight)
    }

    fn windows_missing(&self, known: &Known) -> Vec<Sender> {
        let mut seen = HashSet::new();
        self.queue
            .iter()
            .take(BATCH_ENTRIES_MAX)
            .map(|queued| queued.append.sender)
            .filter(|sender| !known.windows.contains_key(sender) && seen.insert(*sender))
            .collect()
    }

    /// Asks the store for windows, and with them for the head, unless that is under way.
    fn look(&mut self, windows: Vec<Sender>) {
        if self.windows_asked.is_none() {
            self.looks += 1;
            self.windows_asked = Some(self.looks);
            self.effects.push_back(Effect::LoadWindows(windows));
        }
    }

    /// The watermarks to persist now.
    pub fn take_dirty(&mut self) -> Vec<(UserId, Dirty)> {
        self.receipts.take_dirty().into_iter().collect()
    }

    /// Whether [`Owner::take_dirty`] has something.
    pub fn is_dirty(&self) -> bool {
        self.receipts.is_dirty()
    }

    /// Whether [`Owner::take_notices`] might have something.
    pub fn has_notices(&self) -> bool {
        self.receipts.has_moved()
    }

    /// These watermarks are in the store, where another owner may have put them: whoever is concerned is told.
    pub fn on_watermarks(&mut self, stored: &[(UserId, Watermarks)]) {
        if let Phase::Ready(known) | Phase::Committing(known, _) = &self.phase {
            self.receipts.on_stored(known.sequencer.durable(), stored);
        }
    }

    /// Watermarks that could not be persisted; they will be taken again.
    pub fn put_back_dirty(&mut self, dirty: &[(UserId, Dirty)]) {
        dirty.iter().for_each(|(user, dirty)| self.receipts.put_back(*user, dirty));
    }

    /// Whom to tell which watermarks now, and when to ask again if something is held back: groups are told at most every
    /// `RECEIPT_COUNTS_INTERVAL_MS`.
    pub fn take_notices(&mut self, now: Now) -> (Vec<Notice>, Option<MonoMillis>) {
        let (Phase::Ready(known) | Phase::Committing(known, _)) = &mut self.phase else {
            return (Vec::new(), None);
        };
        if !self.receipts.has_moved() {
            return (Vec::new(), None);
        }
        let kind = known.conversation.kind;
        if kind == Kind::Group {
            if now.mono < self.counts_due {
                return (Vec::new(), Some(self.counts_due));
            }
            self.counts_due = now.mono.plus(RECEIPT_COUNTS_INTERVAL_MS);
        }
        (self.receipts.take_notices(kind, &mut known.members), None)
    }
}

fn take_mark<T>(known: &Known, receipts: &mut Receipts, mark: &Mark<T>) -> Result<(), ErrorCode> {
    if !known.exists {
        return Err(ErrorCode::UnknownConversation);
    }
    let membership = known.members.get(mark.sender.user).ok_or(match known.conversation.kind {
        Kind::Direct => ErrorCode::UnknownConversation,
        Kind::Group => ErrorCode::NotMember,
    })?;
    let durable = known.sequencer.durable();
    let head = membership.left.map_or(durable, |left| left.min(durable));
    if mark.delivered.max(mark.read) > head {
        return Err(ErrorCode::InvalidArgument);
    }
    receipts.mark(mark.sender, mark.delivered, mark.read);
    Ok(())
}

#[cfg(test)]
#[path = "conversation_tests.rs"]
mod tests;
