//! One client's part in one conversation: what it has, marks, misses, and hears of its own messages. No I/O: it is told
//! what comes and says what to send.

use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::Rc;

use tern_protocol::event::{ConversationState, HistoryPage, ReceiptsMoved, SendOk, UserReceipt};
use tern_protocol::ids::{ClientSeq, ConversationId, RequestId, Seq, UserId};
use tern_protocol::model::{Change, Entry, Kind, Target};
use tern_protocol::request::{History, HistoryFrom, Known, Mark, RequestBody, Send, Sync};
use tokio::sync::Notify;

use crate::clock;
use crate::floor::shape::Transactions;
use crate::meter::Meter;
use crate::random::Random;
use tern_check::stream::Marked;
use tern_check::stream::{Log, Placed, label, message, mixed};

/// Own messages of which it is remembered that not all others are known to have them.
const UNRECEIPTED_MAX: usize = 1_024;

/// What the members of a conversation, all on one thread, know of each other.
#[derive(Debug)]
pub struct Circle {
    /// Which.
    pub conversation: ConversationId,
    /// Direct chat or group.
    pub kind: Kind,
    /// Everybody.
    pub members: Vec<UserId>,
    /// What they have marked.
    pub marked: Marked,
    /// Something has changed that those who wait should look at.
    pub wake: Notify,
    highest_acked: Cell<Seq>,
    unfinished: Cell<usize>,
}

impl Circle {
    /// Of these members, none of whom has finished. A group's id comes from the seed and from them.
    pub fn new(kind: Kind, members: Vec<UserId>, seed: u64) -> Rc<Self> {
        let conversation = match (kind, members.as_slice()) {
            (Kind::Direct, [one, other]) => ConversationId::direct(*one, *other),
            // Users are those of this run only, so the id is not taken either.
            (_, members) => {
                let words = members.iter().flat_map(|user| user.as_bytes().as_chunks::<8>().0);
                let stream = words.map(|word| u64::from_le_bytes(*word)).fold(0, mixed);
                ConversationId::group_from_random(Random::new(seed, stream).bytes())
            }
        };
        let marked = Marked::new(&members);
        let unfinished = Cell::new(members.len());
        let highest_acked = Cell::new(Seq(0));
        Rc::new(Self { conversation, kind, members, marked, wake: Notify::new(), highest_acked, unfinished })
    }

    fn finished(&self) {
        let left = self.unfinished.get().saturating_sub(1);
        self.unfinished.set(left);
        if left == 0 {
            self.wake.notify_waiters();
        }
    }
}

/// Under which names times are measured, too, where there are several kinds of conversations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Labels {
    /// From when a message was due until its acknowledgement.
    pub ack: &'static str,
    /// The same when its sender has been away meanwhile: this is no acknowledgement time of the run as a whole.
    pub ack_after_return: &'static str,
    /// Until a recipient has it who was connected all the time.
    pub deliver: &'static str,
    /// Until one has it who was not: this is no delivery time of the run as a whole.
    pub missed: &'static str,
}

/// One member's part.
#[derive(Debug)]
pub struct Chat {
    /// The conversation and its members.
    pub circle: Rc<Circle>,
    /// What this member sees of it.
    pub log: Log,
    place: usize,
    /// Own messages that not all others are known to have, by seq, and when they were due.
    unreceipted: VecDeque<(Seq, u64)>,
    receipted: Seq,
    /// Of a direct chat: as the peer has said.
    peer_read: Seq,
    /// As this member has said.
    read: Seq,
    /// When "delivered" is to be said.
    mark_at: Option<u64>,
    mark_interval: u64,
    pulling: Option<(RequestId, Seq)>,
    /// Of the first member: how the conversation is committed.
    transactions: Option<Transactions>,
    labels: Option<Labels>,
    connected_since: u64,
    finished: bool,
}

impl Chat {
    /// The part of the member at this place, who has nothing yet and says "delivered" so many nanoseconds after a message.
    pub fn new(circle: Rc<Circle>, place: usize, payload_bytes: usize, mark_interval: u64) -> Self {
        Self {
            log: Log::new(circle.kind, circle.conversation, circle.members[place], Seq(0), payload_bytes),
            circle,
            place,
            unreceipted: VecDeque::new(),
            receipted: Seq(0),
            peer_read: Seq(0),
            read: Seq(0),
            mark_at: None,
            mark_interval,
            pulling: None,
            transactions: (place == 0).then(Transactions::default),
            labels: None,
            connected_since: 0,
            finished: false,
        }
    }

    /// The same, whose times are measured under these names, too.
    pub fn labelled(self, labels: Labels) -> Self {
        Self { labels: Some(labels), ..self }
    }

    /// The request for a send.
    pub fn send(&self, client_seq: ClientSeq, change: Change) -> RequestBody {
        let target = match self.circle.kind {
            Kind::Group => Target::Conversation(self.circle.conversation),
            Kind::Direct => Target::User(self.others().next().unwrap_or(self.own())),
        };
        RequestBody::Send(Send { target, client_seq, change })
    }

    /// The request for a message that was made then.
    pub fn send_message(&self, made: u64, client_seq: ClientSeq, payload_bytes: usize) -> RequestBody {
        let label = label(self.circle.conversation, self.own(), client_seq);
        self.send(client_seq, message(made, label, payload_bytes))
    }

    /// A group's first entry.
    pub fn creation(&self) -> Change {
        Change::Create { title: "load".into(), members: self.others().collect() }
    }

    fn own(&self) -> UserId {
        self.circle.members[self.place]
    }

    fn others(&self) -> impl Iterator<Item = UserId> {
        self.circle.members.iter().copied().filter(|member| *member != self.own())
    }

    /// A send is acknowledged that was due at `made`, and was sent once or `again`.
    pub fn on_ack(&mut self, client_seq: ClientSeq, ok: &SendOk, made: u64, again: bool) {
        self.log.on_ack(client_seq, ok, again);
        self.circle.highest_acked.set(self.circle.highest_acked.get().max(ok.seq));
        let behind = self.unreceipted.iter().rev().take_while(|(seq, _)| *seq > ok.seq).count();
        self.unreceipted.insert(self.unreceipted.len() - behind, (ok.seq, made));
        if self.unreceipted.len() > UNRECEIPTED_MAX {
            self.unreceipted.pop_front();
        }
    }

    /// An entry was pushed. `Some`: what is missing before it has to be asked for.
    pub fn on_push(&mut self, entry: &Entry, meter: &Meter) -> Option<RequestBody> {
        let placed = self.log.on_push(entry);
        self.count(entry, placed, meter);
        if placed == Placed::BehindGap { self.pull(entry.seq, meter) } else { None }
    }

    /// The log has grown to here, and is not pushed. `Some`: it has to be asked for.
    pub fn on_head_moved(&mut self, head: Seq, meter: &Meter) -> Option<RequestBody> {
        meter.count(|interval| interval.heads_moved += 1);
        self.pull(head, meter)
    }

    /// The request that `Self::pull` made went out under this number.
    pub fn pulling(&mut self, id: RequestId) {
        if let Some((pulling, _)) = &mut self.pulling {
            *pulling = id;
        }
    }

    /// Whether this answers a pull.
    pub fn is_pulling(&self, id: RequestId) -> bool {
        self.pulling.is_some_and(|(pulling, _)| pulling == id)
    }

    /// Whether an answer to a pull is waited for.
    pub fn waits(&self) -> bool {
        self.pulling.is_some()
    }

    /// The answer to a pull. `Some`: there is more.
    pub fn on_page(&mut self, page: &HistoryPage, meter: &Meter) -> Option<RequestBody> {
        let (_, target) = self.pulling.take()?;
        for entry in &page.entries {
            let placed = self.log.on_pulled(entry);
            self.count(entry, placed, meter);
        }
        if page.entries.is_empty() && page.head <= self.log.cursor() {
            return None;
        }
        self.pull(target, meter)
    }

    /// A pull was refused; it may be tried again.
    pub fn on_pull_refused(&mut self, meter: &Meter) -> Option<RequestBody> {
        let (_, target) = self.pulling.take()?;
        self.pull(target, meter)
    }

    /// The member is on another connection: what was asked for will not be answered, and what was marked may be lost.
    pub fn resume(&mut self, now: u64) {
        self.pulling = None;
        self.connected_since = now;
        self.log.reconnected();
        if self.log.cursor() > Seq(0) {
            self.mark_at = Some(now);
        }
    }

    /// What it has, to be told what it missed.
    pub fn known(&self) -> Known {
        let peer_delivered = if self.circle.kind == Kind::Direct { self.receipted } else { Seq(0) };
        Known {
            read: self.read,
            peer_delivered,
            peer_read: self.peer_read,
            ..Known::entries(self.circle.conversation, self.log.cursor())
        }
    }

    /// Asks for what was missed.
    pub fn sync(&self) -> Sync {
        Sync { known: vec![self.known()], after: None, until: None, latest: None }
    }

    /// What a sync has found. `Some`: there is more.
    pub fn on_state(&mut self, state: &ConversationState, meter: &Meter) -> Option<RequestBody> {
        for entry in &state.entries {
            let placed = self.log.on_pulled(entry);
            self.count(entry, placed, meter);
        }
        if let Some(peer) = state.peer {
            let receipt = UserReceipt { user: peer, delivered: state.peer_delivered, read: state.peer_read };
            let moved = ReceiptsMoved {
                conversation: self.circle.conversation,
                users: vec![receipt],
                counts: Vec::new(),
            };
            self.on_receipts(&moved, meter);
        }
        self.pull(state.head, meter)
    }

    fn pull(&mut self, target: Seq, meter: &Meter) -> Option<RequestBody> {
        if target <= self.log.cursor() {
            return None;
        }
        if let Some((_, highest)) = &mut self.pulling {
            *highest = target.max(*highest);
            return None;
        }
        meter.count(|interval| interval.pulls += 1);
        self.pulling = Some((RequestId(0), target));
        let from = HistoryFrom::Forward(self.log.cursor().next());
        Some(RequestBody::History(History { conversation: self.circle.conversation, from, limit: 0 }))
    }

    fn count(&mut self, entry: &Entry, placed: Placed, meter: &Meter) {
        if let Some(transactions) = &mut self.transactions
            && matches!(placed, Placed::Received(_) | Placed::Other)
        {
            let first = transactions.next(entry);
            meter.count(|interval| {
                interval.entries += 1;
                interval.transactions += u64::from(first.of_transaction);
                interval.transaction_senders += u64::from(first.of_sender);
            });
        }
        if let Placed::Received(made) = placed {
            let now = clock::nanos();
            self.mark_at.get_or_insert(now + self.mark_interval);
            let took = now.saturating_sub(made);
            meter.count(|interval| {
                interval.delivered += 1;
                match self.labels {
                    Some(labels) if made < self.connected_since => interval.time(labels.missed, took),
                    Some(labels) => {
                        interval.deliver.record(took);
                        interval.time(labels.deliver, took);
                    }
                    None => interval.deliver.record(took),
                }
            });
        }
    }

    /// Others' watermarks rose.
    pub fn on_receipts(&mut self, moved: &ReceiptsMoved, meter: &Meter) {
        self.log.faults().falsely_receipted += self.circle.marked.count_false(self.place, moved);
        let own = self.own();
        let peers = || moved.users.iter().filter(|receipt| receipt.user != own);
        self.peer_read = peers().map(|receipt| receipt.read).fold(self.peer_read, Seq::max);
        let peers = peers().map(|receipt| receipt.delivered);
        let all = moved.counts.iter().filter(|count| count.delivered == count.members).map(|count| count.seq);
        self.receipted = peers.chain(all).fold(self.receipted, Seq::max);
        let now = clock::nanos();
        meter.count(|interval| {
            interval.receipts += 1;
            while let Some((_, made)) = self.unreceipted.pop_front_if(|(seq, _)| *seq <= self.receipted) {
                interval.receipt.record(now.saturating_sub(made));
            }
        });
    }

    /// When "delivered" is to be said.
    pub fn mark_at(&self) -> Option<u64> {
        self.mark_at
    }

    /// "Delivered", if it is time to say so. To be sent: it counts as marked from here on.
    pub fn mark(&mut self, now: u64, meter: &Meter) -> Option<Mark> {
        self.mark_at.take_if(|due| *due <= now)?;
        let delivered = self.log.cursor();
        self.circle.marked.note(self.place, delivered, Seq(0));
        meter.count(|interval| interval.marks += 1);
        Some(Mark { conversation: self.circle.conversation, delivered, read: Seq(0) })
    }

    /// The same, and "read" with it.
    pub fn read(&mut self, mark: Mark) -> Mark {
        self.read = mark.delivered;
        self.circle.marked.note(self.place, mark.delivered, mark.delivered);
        Mark { read: mark.delivered, ..mark }
    }

    /// All own sends are answered, or will never be: the others need not wait for this member.
    pub fn finish(&mut self) {
        if !std::mem::replace(&mut self.finished, true) {
            self.circle.finished();
        }
    }

    /// All have finished, and this member has everything that was acknowledged to any of them.
    pub fn is_complete(&self) -> bool {
        self.circle.unfinished.get() == 0 && self.is_abreast()
    }

    /// This member has everything that was acknowledged to any of them so far.
    pub fn is_abreast(&self) -> bool {
        self.log.cursor() >= self.circle.highest_acked.get()
    }

    /// Own messages of which not all others are known to have them.
    pub fn unreceipted(&self) -> usize {
        self.unreceipted.len()
    }
}
