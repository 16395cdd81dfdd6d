//! Runs the conversations that this shard owns: hands requests in, executes effects, persists watermarks.

use std::collections::hash_map::Entry;
use std::rc::Rc;
use std::sync::Arc;

use tern_core::conversation::{Batch, CommitFault, Effect, LoadFault, Owner, Stored, Version};
use tern_core::dedup::{Refusal, Search};
use tern_core::limits::SENDS_WAITING_MIN;
use tern_core::receipts::Dirty;
use tern_protocol::error::ErrorCode;
use tern_protocol::event::SendOk;
use tern_protocol::ids::{ConversationId, UserId};
use tern_protocol::model::{SendWindow, Sender, Watermarks};
use tern_store::ops::{append, receipts};
use tern_store::{CommitError, Corrupt, StoreError};
use tracing::{error, warn};

use crate::clock::Stamp;
use crate::mailbox::{Answer, News, OwnerRequest, Question, Reply, Ticket};
use crate::metrics::shard::{Committed, Loaded};
use crate::reply;
use crate::shard::Shard;

/// Conversations that a shard keeps in memory, some kB each for direct chats; idle ones beyond are forgotten.
pub const OWNERS_MAX: usize = 64 * 1024;
/// Searches of logs for old sends that wait or are under way; more are refused as overloaded. Whoever waits takes a place
/// among the sends that a shard takes up, and after a crash everybody sends again what may be stored: so half of the
/// places that there always are.
const SEARCHES_MAX: usize = SENDS_WAITING_MIN as usize / 2;
/// Conversations that ask the store at each sweep what became of a commit, after it could not be asked: a store that comes
/// back is not met by all of them at once.
const SETTLES_PER_SWEEP: usize = 64;
/// Watermarks in one transaction.
const RECEIPT_WRITES_MAX: usize = 1_024;

/// A mailbox is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

impl Shard {
    /// Hands a request to the conversation's owner, here, on another shard or on another node.
    ///
    /// # Errors
    /// When that shard's mailbox is full, or the node's; the request is dropped.
    pub fn to_owner(self: &Rc<Self>, request: OwnerRequest) -> Result<(), Full> {
        let (OwnerRequest::Append(id, _) | OwnerRequest::Mark(id, _)) = &request;
        if let Some(peer) = self.view.borrow().owner(*id) {
            return peer.lanes.requests.try_send(request).map_err(|_| Full);
        }
        let shard = self.node.slots.owner(*id);
        if shard == self.id {
            self.on_owner_request(request);
            return Ok(());
        }
        self.node.mailbox(shard).requests.try_send(request).map_err(|_| Full)
    }

    /// A request for a conversation that is owned here.
    pub fn on_owner_request(self: &Rc<Self>, request: OwnerRequest) {
        let now = self.now();
        match request {
            OwnerRequest::Append(id, append) => self.with_owner(id, |owner| owner.submit(now, append)),
            OwnerRequest::Mark(id, mark) => self.with_owner(id, |owner| owner.mark(now, mark)),
        }
    }

    /// Calls a method of an owner and executes what it wants done.
    fn with_owner(self: &Rc<Self>, id: ConversationId, call: impl FnOnce(&mut Owner<Ticket>)) {
        let effects: Vec<_> = {
            let mut owners = self.owners.borrow_mut();
            let owner = match owners.entry(id) {
                Entry::Occupied(entry) => entry.into_mut(),
                Entry::Vacant(entry) => entry.insert(Owner::new(id)),
            };
            call(owner);
            if owner.is_dirty() {
                self.dirty.borrow_mut().insert(id);
            }
            if owner.is_unsettled() {
                self.unsettled.borrow_mut().insert(id);
            }
            if owner.has_notices()
                && !self.moved_later.borrow().contains(&id)
                && self.moved.borrow_mut().insert(id)
            {
                self.settle_soon();
            }
            std::iter::from_fn(|| owner.poll_effect()).collect()
        };
        for effect in effects {
            self.execute_owner(id, effect);
        }
    }

    fn execute_owner(self: &Rc<Self>, id: ConversationId, effect: Effect<Ticket>) {
        match effect {
            Effect::Load { fence } => self.spawn(self.clone().load(id, fence)),
            Effect::LoadWindows(senders) => self.spawn(self.clone().load_windows(id, senders)),
            Effect::Commit(batch) => self.spawn(self.clone().commit(batch)),
            Effect::FindSend(ticket, search) if self.searches.get() >= SEARCHES_MAX => {
                let code =
                    if search.maybe_stored { ErrorCode::OutcomeUnknown } else { ErrorCode::Overloaded };
                self.reply(ticket, Answer::Sent(Err(code.into())));
            }
            Effect::FindSend(ticket, search) => {
                let shard = self.clone();
                self.searches.set(self.searches.get() + 1);
                self.spawn(async move {
                    // Reads much, for a retry that hardly ever comes: one at a time.
                    let _turn = shard.searching.acquire().await;
                    let Search { sender, client_seq, before, .. } = search;
                    let found = append::find_send(&*shard.node.kv, id, sender, client_seq, before).await;
                    shard.searches.set(shard.searches.get() - 1);
                    shard.reply(ticket, Answer::Sent(found_answer(id, &search, found)));
                });
            }
            Effect::Reply(ticket, result) => self.reply(ticket, Answer::Sent(result)),
            Effect::Publish(publication) => {
                self.tell_all(News::Publish(Arc::new(publication), Stamp::take()));
            }
            Effect::HeadMoved { head, audience } => {
                self.tell_all(News::HeadMoved { conversation: id, head, audience });
            }
            Effect::Marked { ticket, result, durable } => {
                let is_patient = matches!(ticket.question, Question::Kept(_) | Question::LinkLater(_));
                if durable || is_patient && result.is_ok() {
                    self.unpersisted.borrow_mut().push(ticket);
                    if !is_patient {
                        self.persist_soon.notify_one();
                    }
                } else {
                    self.reply(ticket, Answer::Marked(result));
                }
            }
        }
    }

    /// Sends an answer to the connection that asked.
    fn reply(self: &Rc<Self>, ticket: Ticket, answer: Answer) {
        let Ticket { session, question, place, .. } = ticket;
        match place {
            Some(place) => {
                place.send(Reply { session, question, answer });
            }
            None => self.on_reply(Reply { session, question, answer }),
        }
    }

    /// An answer for a connection of this shard, which may have ended since.
    pub fn on_reply(self: &Rc<Self>, reply: Reply) {
        if matches!(reply.question, Question::Send(..)) {
            self.admission.borrow_mut().on_answered();
        }
        if let (Question::Kept(number), Answer::Marked(result)) = (reply.question, reply.answer) {
            return self.on_kept(number, result);
        }
        let conn = self.conns.borrow().get(&reply.session.number).cloned();
        if let Some(conn) = conn {
            self.on_answer(&conn, reply.question, reply.answer);
        }
    }

    async fn load(self: Rc<Self>, id: ConversationId, fence: bool) {
        let kv = &*self.node.kv;
        let fenced = if fence { append::fence(kv, id).await } else { Ok(()) };
        let loaded = match fenced {
            // A conversation without a head has nothing to fence, and a lost race has fenced as well.
            Ok(()) | Err(CommitError::Conflict) => append::load(kv, id).await.map_err(|e| load_fault(id, &e)),
            Err(error) => {
                warn!(conversation = %id, %error, "could not fence");
                Err(match error {
                    CommitError::Corrupt(_) => LoadFault::Damaged,
                    CommitError::Conflict
                    | CommitError::TooOld
                    | CommitError::Unknown { .. }
                    | CommitError::TooLarge
                    | CommitError::Overloaded
                    | CommitError::Unavailable
                    | CommitError::Failed(_) => LoadFault::Unavailable,
                })
            }
        };
        let loaded = loaded.map(|(version, loaded)| {
            let stored = loaded.map(|l| Stored {
                conversation: l.conversation,
                head: l.head,
                members: l.members,
                watermarks: l.watermarks,
            });
            (Version(version.0), stored)
        });
        self.metrics().loads.one(if loaded.is_ok() { Loaded::Ok } else { Loaded::Failed });
        if loaded.is_ok() {
            self.on_fresh_owner(id);
        }
        let now = self.now();
        self.with_owner(id, |owner| owner.on_loaded(now, loaded));
    }

    /// These watermarks are in the store.
    pub fn on_watermarks(self: &Rc<Self>, id: ConversationId, stored: &[(UserId, Watermarks)]) {
        if self.owners.borrow().contains_key(&id) {
            self.with_owner(id, |owner| owner.on_watermarks(stored));
        }
    }

    async fn load_windows(self: Rc<Self>, id: ConversationId, senders: Vec<Sender>) {
        let loaded = append::load_windows(&*self.node.kv, id, &senders).await;
        let window =
            |window: Result<SendWindow, Corrupt>| window.map_err(|error| load_fault(id, &error.into()));
        let loaded = loaded
            .map(|(_, head, windows)| {
                (head, senders.into_iter().zip(windows.into_iter().map(window)).collect())
            })
            .map_err(|error| load_fault(id, &error));
        let now = self.now();
        self.with_owner(id, |owner| owner.on_windows(now, loaded));
    }

    async fn commit(self: Rc<Self>, batch: Batch) {
        let id = batch.conversation;
        let batch = append::Batch {
            conversation: id,
            base: append::Base {
                head: batch.base,
                version: batch.version.map(|version| tern_store::Version(version.0)),
            },
            entries: batch.entries,
            head: batch.head,
            windows: batch.windows,
            members: batch.members,
            record: batch.record,
        };
        let (metrics, begin) = (self.metrics(), Stamp::take());
        let result = append::commit(&*self.node.kv, &batch).await;
        let result = result.map(|version| Version(version.0)).map_err(|error| commit_fault(id, &error));
        metrics.commits.one(match result {
            Ok(_) => Committed::Ok,
            Err(CommitFault::Conflict) => Committed::Conflict,
            Err(CommitFault::Unknown) => Committed::Unknown,
            Err(CommitFault::Unavailable) => Committed::Unavailable,
            Err(CommitFault::Failed) => Committed::Failed,
        });
        if result.is_ok() {
            metrics.commit_entries.record(batch.entries.len() as u64);
            metrics.commit_micros.record(begin.micros());
        }
        let now = self.now();
        self.with_owner(id, |owner| owner.on_committed(now, result));
    }

    /// Tells the watermarks that have moved since the last call.
    pub fn tell_receipts(self: &Rc<Self>) {
        let moved = std::mem::take(&mut *self.moved.borrow_mut());
        let now = self.now();
        for id in moved {
            let (notices, again) = match self.owners.borrow_mut().get_mut(&id) {
                Some(owner) => owner.take_notices(now),
                None => continue,
            };
            if again.is_some() {
                self.moved_later.borrow_mut().insert(id);
            }
            if !notices.is_empty() {
                self.tell_all(News::Notify(Arc::new(reply::notices(id, notices))));
            }
        }
    }

    /// Persists the watermarks that have risen since the last call, and answers those who wait for it. Returns whether
    /// everything is persisted.
    pub async fn persist_receipts(self: &Rc<Self>) -> bool {
        let waiting = std::mem::take(&mut *self.unpersisted.borrow_mut());
        let dirty = std::mem::take(&mut *self.dirty.borrow_mut());
        let mut all: Vec<(ConversationId, Vec<(UserId, Dirty)>)> = Vec::with_capacity(dirty.len());
        {
            let mut owners = self.owners.borrow_mut();
            all.extend(dirty.into_iter().filter_map(|id| Some((id, owners.get_mut(&id)?.take_dirty()))));
        }
        let writes: Vec<receipts::Write> = all
            .iter()
            .flat_map(|(id, users)| {
                users.iter().map(|(user, dirty)| receipts::Write {
                    conversation: *id,
                    user: *user,
                    delivered: dirty.delivered.clone(),
                    read: dirty.read,
                })
            })
            .collect();
        self.persisting.set(true);
        let mut result = Ok(());
        for chunk in writes.chunks(RECEIPT_WRITES_MAX) {
            if let Err(error) = receipts::persist(&*self.node.kv, chunk).await {
                warn!(%error, "could not persist watermarks; they will be tried again");
                result = Err(ErrorCode::Unavailable);
                break;
            }
        }
        self.persisting.set(false);
        if result.is_err() {
            // Raising a watermark twice does no harm, so all of them are put back.
            let mut owners = self.owners.borrow_mut();
            for (id, users) in &all {
                owners.entry(*id).or_insert_with(|| Owner::new(*id)).put_back_dirty(users);
                self.dirty.borrow_mut().insert(*id);
            }
        }
        for ticket in waiting {
            self.reply(ticket, Answer::Marked(result));
        }
        result.is_ok()
    }

    /// Asks the store what became of commits of unknown outcome, where it could not be asked at once.
    pub fn settle_owners(self: &Rc<Self>) {
        let ids: Vec<_> = self.unsettled.borrow().iter().take(SETTLES_PER_SWEEP).copied().collect();
        for id in ids {
            self.unsettled.borrow_mut().remove(&id);
            self.with_owner(id, Owner::settle);
        }
    }

    /// Forgets idle conversations when there are too many.
    pub fn forget_idle_owners(&self) {
        if self.persisting.get() {
            // What they are rid of is not in the store yet, and one that is loaded now would know less.
            return;
        }
        let mut owners = self.owners.borrow_mut();
        if owners.len() > OWNERS_MAX {
            let mut surplus = owners.len() - OWNERS_MAX * 7 / 8;
            owners.retain(|_, owner| {
                let keep = surplus == 0 || !owner.is_idle();
                surplus -= usize::from(!keep);
                keep
            });
            owners.shrink_to(OWNERS_MAX);
        }
    }
}

fn found_answer(
    id: ConversationId,
    search: &Search,
    found: Result<append::Found, StoreError>,
) -> Result<SendOk, Refusal> {
    match found {
        Ok(append::Found::Entry(entry)) => search.found(id, &entry),
        Ok(append::Found::Absent) => Err(search.absent()),
        Ok(append::Found::Trimmed) => Err(ErrorCode::DuplicateTrimmed.into()),
        // It may be there: this is asked because a window says so, or does not go back far enough.
        Err(error) => Err(match load_fault(id, &error) {
            LoadFault::Unavailable => ErrorCode::OutcomeUnknown.into(),
            LoadFault::Damaged => LoadFault::Damaged.code().into(),
        }),
    }
}

fn load_fault(id: ConversationId, error: &StoreError) -> LoadFault {
    match error {
        StoreError::Corrupt(_) => {
            error!(conversation = %id, %error, "a conversation cannot be used");
            LoadFault::Damaged
        }
        StoreError::TooOld | StoreError::Unavailable | StoreError::Failed(_) => {
            warn!(conversation = %id, %error, "could not load a conversation");
            LoadFault::Unavailable
        }
    }
}

fn commit_fault(id: ConversationId, error: &CommitError) -> CommitFault {
    match error {
        CommitError::Conflict | CommitError::TooOld => CommitFault::Conflict,
        CommitError::Unknown { .. } => CommitFault::Unknown,
        CommitError::Overloaded | CommitError::Unavailable => CommitFault::Unavailable,
        CommitError::TooLarge | CommitError::Failed(_) | CommitError::Corrupt(_) => {
            error!(conversation = %id, %error, "a commit failed");
            CommitFault::Failed
        }
    }
}
