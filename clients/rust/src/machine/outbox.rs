//! Every send stored once, in order as far as that is possible.
//!
//! A send gets the next `client_seq` of its conversation, is stored on the device, and goes out; until it is decided it
//! goes out again on every new connection under the same number, so the server stores it once. Up to
//! `WINDOW` sends of a conversation are under way at once, in the order of their numbers, which is the order in which
//! one connection's requests are carried out.
//!
//! # When one is refused for now
//! The server may say "later" to one send and have stored the next already. So after a "later" nothing more of that
//! conversation is sent until all that is under way is decided and the wait is over; then the oldest goes alone, and
//! once it is stored the window opens again. If a younger one was stored meanwhile, the older gets
//! `client_seq_stale`: its number is below one that is stored, the server has not stored it and by its own rule never
//! will. That makes a new number safe: the send goes again under it, before all that is not under way. Both numbers change
//! hands in one record, because a crash between two could send it twice.
//!
//! # When the device's memory went back in time
//! A state that was restored from a backup numbers new messages as the device had numbered others. The server compares
//! what it has under a number with what is sent, and answers `client_seq_used` to what is another. That too makes a new
//! number safe. The error names the highest number that the server has, and the device goes on above it. So that the order
//! stays, the first send of a conversation in each run goes alone, and so does each whose number is not above what the
//! server is known to have. A send that has been given `NUMBERS_MAX` numbers is given up: that is a fault of the server.
//!
//! # A send that the server cannot digest
//! `internal` is a fault of the server, and the send may have brought it about. After `INTERNAL_TRIES_MAX` of them the
//! send is given up: its result is that error, whose effect is not known, and what is behind it goes on. Else one
//! message would hold up its conversation for ever. All other "later"s are tried again for as long as it takes.
//!
//! # Own entries
//! The answer to a message tells its seq and time, which with the message itself is the entry, so the sender's log
//! needs no push of it.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use tern_protocol::error::{ErrorCode, Retry};
use tern_protocol::event::{SendOk, WireError};
use tern_protocol::ids::{ClientSeq, ConversationId, UserId};
use tern_protocol::limits::SEND_WINDOW;
use tern_protocol::model::{Change, Entry, Sender, Target};
use tern_protocol::request::{RequestBody, Send};

use super::{Machine, Output, Purpose, Ticket, Wake, conversation};
use crate::event::Event;
use crate::storage::Record;

/// Sends of one conversation under way at once.
const WINDOW: usize = 32;
/// Answers `internal` after which a send is given up. With the usual waits between, half a minute.
const INTERNAL_TRIES_MAX: u32 = 8;
/// No device gets to number so many sends: a server that says so is not believed.
const NUMBER_MAX: u64 = 1 << 48;
/// Numbers for one send. After the second there are waits between them.
const NUMBERS_MAX: u32 = 16;
const _: () = assert!(WINDOW <= SEND_WINDOW, "the server must remember all that may be unanswered");

#[derive(Debug)]
struct Outgoing {
    client_seq: ClientSeq,
    /// `None`: left behind by an earlier run.
    ticket: Option<Ticket>,
    target: Target,
    change: Change,
    under_way: bool,
    /// How often the answer was `internal`.
    internal: u32,
    /// How many numbers it has had that were no good.
    renumbered: u32,
}

#[derive(Debug)]
pub(super) struct Outbox {
    next: ClientSeq,
    /// The highest number that the server is known to have.
    highest: ClientSeq,
    /// In the order in which they are to be stored. Those under way come first, unless `blocked`.
    sends: VecDeque<Outgoing>,
    under_way: usize,
    /// One was told "later": nothing goes out before this time, and before all under way are decided.
    blocked: Option<Duration>,
    wake_set: bool,
    /// One at a time until the next success.
    careful: bool,
    refusals: u32,
    stales: u32,
    in_ready: bool,
}

impl Default for Outbox {
    fn default() -> Self {
        Self {
            next: ClientSeq(0),
            highest: ClientSeq(0),
            sends: VecDeque::new(),
            under_way: 0,
            blocked: None,
            wake_set: false,
            careful: true,
            refusals: 0,
            stales: 0,
            in_ready: false,
        }
    }
}

impl Outbox {
    pub(super) fn restored(next: ClientSeq, unacked: BTreeMap<ClientSeq, (Target, Change)>) -> Self {
        let sends: VecDeque<_> = unacked
            .into_iter()
            .map(|(client_seq, (target, change))| Outgoing {
                client_seq,
                ticket: None,
                target,
                change,
                under_way: false,
                internal: 0,
                renumbered: 0,
            })
            .collect();
        let in_ready = !sends.is_empty();
        Self { next: next.max(ClientSeq(1)), sends, in_ready, ..Self::default() }
    }

    fn position(&self, client_seq: ClientSeq) -> Option<usize> {
        self.sends.iter().position(|send| send.client_seq == client_seq)
    }

    fn number(&mut self) -> ClientSeq {
        let number = self.next;
        self.next = ClientSeq(number.get() + 1);
        number
    }
}

impl Machine {
    /// Sends a change. It is numbered at once, or at the first login of a new device: before that the direct chat
    /// with a user has no name.
    pub fn send(&mut self, now: Duration, ticket: Ticket, target: Target, change: Change) {
        match self.user {
            Some(user) => self.number(user, ticket, target, change),
            None => self.unnumbered.push_back((ticket, target, change)),
        }
        self.pump(now);
    }

    pub(super) fn number(&mut self, user: UserId, ticket: Ticket, target: Target, change: Change) {
        let id = match target {
            Target::Conversation(id) => id,
            Target::User(peer) => ConversationId::direct(user, peer),
        };
        let o = &mut conversation(&mut self.conversations, self.base, id).outbox;
        let client_seq = o.number();
        self.outputs.push_back(Output::Persist(Record::Send {
            conversation: id,
            client_seq,
            target,
            change: change.clone(),
        }));
        self.outputs.push_back(Output::Queued { ticket });
        let ticket = Some(ticket);
        let (under_way, internal, renumbered) = (false, 0, 0);
        o.sends.push_back(Outgoing { client_seq, ticket, target, change, under_way, internal, renumbered });
        self.unsettled += 1;
        self.make_ready(id);
    }

    fn make_ready(&mut self, id: ConversationId) {
        let o = &mut conversation(&mut self.conversations, self.base, id).outbox;
        if o.in_ready || o.blocked.is_some() || o.under_way == o.sends.len() {
            return;
        }
        o.in_ready = true;
        self.ready.push_back(id);
    }

    /// Conversations take turns, one send each.
    pub(super) fn pump_sends(&mut self, now: Duration) {
        while self.sends_in_flight < self.sends_max() && self.in_flight.len() < self.link.in_flight_max {
            let Some(id) = self.ready.pop_front() else { return };
            let o = &mut conversation(&mut self.conversations, self.base, id).outbox;
            o.in_ready = false;
            let first_is_alone = o.under_way > 0 && o.sends[0].client_seq <= o.highest;
            let last =
                o.under_way.checked_sub(1).map_or(o.highest, |at| o.sends[at].client_seq.max(o.highest));
            let Some(send) = o.sends.get_mut(o.under_way) else { continue };
            let alone = o.careful || first_is_alone || send.client_seq <= last;
            let window = if alone { 1 } else { WINDOW };
            if o.blocked.is_some() || o.under_way >= window {
                continue;
            }
            assert!(!send.under_way, "sends under way come first");
            send.under_way = true;
            o.under_way += 1;
            let body = RequestBody::Send(Send {
                target: send.target,
                client_seq: send.client_seq,
                change: send.change.clone(),
            });
            let purpose = Purpose::Send(id, send.client_seq);
            self.sends_in_flight += 1;
            self.ask(now, body, purpose, false);
            self.make_ready(id);
        }
    }

    pub(super) fn on_sent(&mut self, now: Duration, id: ConversationId, client_seq: ClientSeq, ok: SendOk) {
        self.sends_in_flight -= 1;
        let o = &mut conversation(&mut self.conversations, self.base, id).outbox;
        o.careful = false;
        o.highest = o.highest.max(client_seq);
        o.refusals = 0;
        o.stales = 0;
        if let Some(change) = self.settle(id, client_seq, Ok(ok))
            && let Some(user) = self.user
            && matches!(change, Change::Message(_))
            && ok.conversation == id
        {
            let sender = Sender { user, device: self.settings.device };
            self.on_own(id, Entry { seq: ok.seq, time: ok.time, sender, client_seq, change });
        }
        self.after_answer(now, id);
    }

    pub(super) fn on_send_error(
        &mut self,
        now: Duration,
        id: ConversationId,
        client_seq: ClientSeq,
        error: WireError,
    ) {
        self.sends_in_flight -= 1;
        let o = &mut conversation(&mut self.conversations, self.base, id).outbox;
        let send = o.position(client_seq).and_then(|at| o.sends.get_mut(at));
        let hopeless = send.is_some_and(|send| {
            send.internal += u32::from(error.code == ErrorCode::Internal);
            error.code == ErrorCode::Internal && send.internal >= INTERNAL_TRIES_MAX
        });
        match error.code.retry() {
            _ if hopeless => drop(self.settle(id, client_seq, Err(error))),
            Retry::Never if matches!(error.code, ErrorCode::ClientSeqStale | ErrorCode::ClientSeqUsed) => {
                self.renumber(now, id, client_seq, error);
            }
            Retry::Never => drop(self.settle(id, client_seq, Err(error))),
            Retry::Later => self.hold_back(now, id, client_seq, error.retry_after_ms),
            // The connection is about to be closed; the next one sends it again.
            Retry::Reconnect => self.hold_back(now, id, client_seq, error.retry_after_ms),
        }
        self.after_answer(now, id);
    }

    /// Takes a decided send off the list and tells who waits.
    fn settle(
        &mut self,
        id: ConversationId,
        client_seq: ClientSeq,
        result: Result<SendOk, WireError>,
    ) -> Option<Change> {
        let o = &mut conversation(&mut self.conversations, self.base, id).outbox;
        let send = o.sends.remove(o.position(client_seq)?)?;
        o.under_way -= usize::from(send.under_way);
        self.unsettled -= 1;
        let next = o.next;
        self.outputs.push_back(Output::Persist(Record::Settled { conversation: id, client_seq }));
        if result.is_err() {
            // What was stored and goes again is found to be there; what was refused might be stored, though the app was
            // told that it has failed. A record that is vital takes the one before along.
            self.outputs.push_back(Output::Persist(Record::Next { conversation: id, next }));
        }
        match send.ticket {
            Some(ticket) => self.outputs.push_back(Output::Sent { ticket, result }),
            None => self.events.push_back(Event::Recovered { conversation: id, client_seq, result }),
        }
        Some(send.change)
    }

    /// The number is no good: the send goes again under another, in its place.
    fn renumber(&mut self, now: Duration, id: ConversationId, old: ClientSeq, error: WireError) {
        let o = &mut conversation(&mut self.conversations, self.base, id).outbox;
        let Some(at) = o.position(old) else { return };
        let Some(send) = o.sends.get_mut(at) else { return };
        send.renumbered += 1;
        let renumbered = send.renumbered;
        if renumbered > NUMBERS_MAX {
            drop(self.settle(id, old, Err(error)));
            return;
        }
        let Some(mut send) = o.sends.remove(at) else { return };
        o.under_way -= usize::from(send.under_way);
        send.under_way = false;
        // 0: not said.
        if (1..NUMBER_MAX).contains(&error.client_seq.get()) {
            o.highest = o.highest.max(error.client_seq);
            o.next = o.next.max(ClientSeq(o.highest.get() + 1));
        } else {
            // Again and again: the server knows numbers that this device has forgotten. Leap.
            o.next = ClientSeq(o.next.get() + (1 << o.stales.min(32)) - 1);
            o.stales += 1;
        }
        let new = o.number();
        send.client_seq = new;
        o.sends.insert(o.under_way, send);
        self.outputs.push_back(Output::Persist(Record::Renumbered { conversation: id, old, new }));
        if renumbered > 1 {
            self.hold_back(now, id, new, error.retry_after_ms);
        }
    }

    fn hold_back(&mut self, now: Duration, id: ConversationId, client_seq: ClientSeq, retry_after_ms: u32) {
        let o = &mut conversation(&mut self.conversations, self.base, id).outbox;
        // Sends that were under way together are refused together: that is one refusal.
        o.refusals += u32::from(o.blocked.is_none());
        let tries = o.refusals;
        if let Some(send) = o.position(client_seq).and_then(|at| o.sends.get_mut(at)) {
            o.under_way -= usize::from(send.under_way);
            send.under_way = false;
        }
        let at = now + self.delay(tries, retry_after_ms);
        let o = &mut conversation(&mut self.conversations, self.base, id).outbox;
        o.blocked = Some(o.blocked.map_or(at, |b| b.max(at)));
    }

    /// When nothing of a blocked conversation is under way any more, its wait can begin to end.
    fn after_answer(&mut self, now: Duration, id: ConversationId) {
        let o = &mut conversation(&mut self.conversations, self.base, id).outbox;
        match o.blocked {
            Some(at) if o.under_way == 0 && !o.wake_set => {
                o.wake_set = true;
                self.wake_at(at.max(now), Wake::Send(id));
            }
            Some(_) => {}
            None => self.make_ready(id),
        }
    }

    pub(super) fn wake_send(&mut self, id: ConversationId) {
        let o = &mut conversation(&mut self.conversations, self.base, id).outbox;
        o.wake_set = false;
        o.blocked = None;
        o.careful = true;
        self.make_ready(id);
    }

    /// The connection has ended: all that is not decided goes again, in order.
    pub(super) fn forget_sends(&mut self) {
        self.sends_in_flight = 0;
        let mut wakes = Vec::new();
        self.ready.clear();
        for (id, c) in &mut self.conversations {
            let o = &mut c.outbox;
            o.sends.iter_mut().for_each(|s| s.under_way = false);
            o.under_way = 0;
            o.in_ready = false;
            match o.blocked {
                Some(at) if !o.wake_set => {
                    o.wake_set = true;
                    wakes.push((at, *id));
                }
                Some(_) => {}
                None if o.sends.is_empty() => {}
                None => {
                    o.in_ready = true;
                    self.ready.push_back(*id);
                }
            }
        }
        wakes.into_iter().for_each(|(at, id)| self.wake_at(at, Wake::Send(id)));
    }
}
