//! A connection of a client without an SDK: any number of requests under way, read or not, and what a server may answer.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tern_check::{History, Key, Listener, Promise};
use tern_protocol::convert::{encode_request, parse_server};
use tern_protocol::error::ErrorCode;
use tern_protocol::event::{ConversationState, HistoryPage, ServerBody, ServerMessage};
use tern_protocol::frame::{self, Frame, HEARTBEAT};
use tern_protocol::ids::{ConversationId, RequestId, Seq};
use tern_protocol::limits::{FRAME_BYTES_MAX, IN_FLIGHT_MAX, VERSION_MAX, VERSION_MIN};
use tern_protocol::model::{Change, Entry, Sender};
use tern_protocol::request::{HistoryFrom, Known, Login, Mark, Request, RequestBody};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, sleep_until};

use crate::net::End;
use crate::world::World;

/// What was asked, as far as the answer depends on it.
enum Asked {
    Login,
    Send(Key, Change),
    /// These, and others that are to be refused.
    Mark(Vec<Mark>, bool),
    Sync(Vec<Known>),
    History(tern_protocol::request::History),
    Page,
    /// It is to be refused with this.
    Refused(ErrorCode),
}

/// A connection.
pub struct Line<'a> {
    world: &'a World,
    who: Sender,
    name: String,
    stream: End,
    input: BytesMut,
    out: BytesMut,
    requests: u64,
    waiting: BTreeMap<RequestId, Asked>,
    /// The last request before the heartbeat that is not echoed.
    beat: Option<RequestId>,
    listener: Listener,
    /// How far each log goes, by pushes and heads.
    told: BTreeMap<ConversationId, Seq>,
    /// The last entry of each log that it has seen.
    seen: BTreeMap<ConversationId, Seq>,
    /// The last of its own sends that was stored anew.
    stored: BTreeMap<ConversationId, Seq>,
    logged_in: bool,
    ended: bool,
    /// Whether it takes what the server says.
    pub reads: bool,
}

impl<'a> Line<'a> {
    /// A new one, if a server listens.
    pub fn connect(world: &'a World, who: Sender, name: &str) -> Option<Self> {
        let (stream, _) = world.connect()?;
        Some(Self {
            world,
            who,
            name: name.to_owned(),
            stream,
            input: BytesMut::new(),
            out: BytesMut::new(),
            requests: 0,
            waiting: BTreeMap::new(),
            beat: None,
            listener: Listener::of(who.user),
            told: BTreeMap::new(),
            seen: BTreeMap::new(),
            stored: BTreeMap::new(),
            logged_in: false,
            ended: false,
            reads: true,
        })
    }

    /// Whether it is closed or broken.
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// Whether it was logged in.
    pub fn is_logged_in(&self) -> bool {
        self.logged_in
    }

    /// Requests without an answer.
    pub fn unanswered(&self) -> usize {
        self.waiting.len()
    }

    /// The last entry of each log that it has seen.
    pub fn seen(&self) -> &BTreeMap<ConversationId, Seq> {
        &self.seen
    }

    /// Whether it has heard of all that it has stored itself.
    pub fn is_told(&self) -> bool {
        self.stored.iter().all(|(id, seq)| self.told.get(id).is_some_and(|told| told >= seq))
    }

    /// Logs in, or tries it for the second time.
    pub fn login(&mut self, token: String) {
        let login = Login {
            token,
            device: self.who.device,
            versions: (VERSION_MIN, VERSION_MAX),
            features: Vec::new(),
            client: "rude".into(),
        };
        let asked = if self.logged_in { Asked::Refused(ErrorCode::AlreadyLoggedIn) } else { Asked::Login };
        self.request(RequestBody::Login(login), asked);
    }

    /// Sends, to be stored under this key.
    pub fn send(&mut self, key: Key, send: tern_protocol::request::Send) {
        self.world.history.borrow_mut().issue(key, &send.change);
        let asked = Asked::Send(key, send.change.clone());
        self.request(RequestBody::Send(send), asked);
    }

    /// Says these watermarks, which are true, and those, which nobody may take. Without an answer, if `silent`.
    pub fn mark(&mut self, good: Vec<Mark>, bad: &[Mark], silent: bool) {
        for mark in &good {
            let (delivered, read) = (mark.delivered, mark.read);
            self.world.history.borrow_mut().marked(mark.conversation, self.who.user, delivered, read);
        }
        let all = RequestBody::Mark([&good[..], bad].concat());
        if silent {
            self.out.extend_from_slice(&encode_request(&Request { id: RequestId(0), body: all }));
        } else {
            self.request(all, Asked::Mark(good, !bad.is_empty()));
        }
    }

    /// Asks something else.
    pub fn ask(&mut self, body: RequestBody) {
        let asked = match &body {
            _ if !self.logged_in => Asked::Refused(ErrorCode::NotLoggedIn),
            RequestBody::Sync(sync) => Asked::Sync(sync.known.clone()),
            RequestBody::History(history) => Asked::History(*history),
            _ => Asked::Page,
        };
        self.request(body, asked);
    }

    fn request(&mut self, body: RequestBody, asked: Asked) {
        self.requests += 1;
        let id = RequestId(self.requests);
        self.waiting.insert(id, asked);
        self.out.extend_from_slice(&encode_request(&Request { id, body }));
    }

    /// Sends a heartbeat, unless one is under way. When it is echoed, everything before it has been taken up.
    pub fn beat(&mut self) {
        if self.beat.is_none() {
            self.beat = Some(RequestId(self.requests));
            self.out.extend_from_slice(HEARTBEAT);
        }
    }

    /// Writes and reads until this is so, so much time has passed, or the connection has ended.
    pub async fn until(&mut self, time: Duration, done: impl Fn(&Self) -> bool) {
        let end = Instant::now() + time;
        while !self.ended && !done(self) {
            let (mut read, mut write) = tokio::io::split(&mut self.stream);
            let ended = tokio::select! {
                biased;
                written = write.write(&self.out), if !self.out.is_empty() => match written {
                    Ok(n) => { self.out.advance(n); false }
                    Err(_) => true,
                },
                got = read.read_buf(&mut self.input), if self.reads => !matches!(got, Ok(1..)),
                () = sleep_until(end) => return,
            };
            self.ended |= ended;
            self.take_frames();
        }
    }

    fn take_frames(&mut self) {
        while let Some(frame) =
            frame::decode(&mut self.input, FRAME_BYTES_MAX).expect("the server sends frames")
        {
            match frame {
                Frame::Heartbeat => self.on_echo(),
                Frame::Message(bytes) => {
                    let message = parse_server(bytes).expect("the server's frames are well-formed");
                    self.on_message(message.expect("the server is not newer than the client"));
                }
            }
        }
    }

    fn on_echo(&mut self) {
        let before = self.beat.take();
        let under_way = self.waiting.range(..=before.unwrap_or(RequestId(0))).count();
        let mut history = self.world.history.borrow_mut();
        history.measured("requests of one client under way", under_way as u64, IN_FLIGHT_MAX as u64);
    }

    fn on_message(&mut self, mut message: ServerMessage) {
        let mangled = self.world.mangle(&mut message);
        for message in mangled.before.into_iter().chain((!mangled.hidden).then_some(message)) {
            let world = self.world;
            let mut history = world.history.borrow_mut();
            if message.id == RequestId(0) {
                self.on_event(&mut history, message.body);
            } else {
                self.on_answer(&mut history, message.id, &message.body);
            }
        }
    }

    fn on_event(&mut self, history: &mut History, body: ServerBody) {
        match body {
            ServerBody::Push { conversation, entry } => {
                self.is_told_of(conversation, entry.seq);
                self.has_seen(conversation, std::slice::from_ref(&entry));
                self.listener.push(history, conversation, entry);
            }
            ServerBody::HeadMoved { conversation, head } => self.is_told_of(conversation, head),
            ServerBody::ReceiptsMoved(moved) => self.listener.receipts(history, &moved),
            ServerBody::Error(error) => self.world.note(&self.name, &format!("is told {}", error.code)),
            _ => {}
        }
    }

    fn is_told_of(&mut self, conversation: ConversationId, head: Seq) {
        let told = self.told.entry(conversation).or_default();
        *told = (*told).max(head);
    }

    fn has_seen(&mut self, conversation: ConversationId, entries: &[Entry]) {
        if let Some(last) = entries.last() {
            let seen = self.seen.entry(conversation).or_default();
            *seen = (*seen).max(last.seq);
        }
    }

    fn on_answer(&mut self, history: &mut History, id: RequestId, body: &ServerBody) {
        let waiting = self.waiting.len();
        let Some(asked) = self.waiting.remove(&id) else {
            let what = format!(
                "{}: request {} was answered, and has been before or was never made",
                self.name,
                id.get()
            );
            return history.violate(Promise::ExactlyOnce, "answer", what);
        };
        if let ServerBody::Error(error) = body
            && error.code == ErrorCode::TooManyInFlight
            && waiting <= IN_FLIGHT_MAX
        {
            let what = format!(
                "{}: {} requests were unanswered, and one is refused: too many",
                self.name,
                waiting - 1
            );
            history.violate(Promise::BoundedCost, "refused below the bound", what);
        }
        let told = match body {
            ServerBody::Error(error) => Err(error.code),
            _ => Ok(()),
        };
        let promise = match asked {
            Asked::Send(..) => Promise::ExactlyOnce,
            Asked::Mark(..) => Promise::ReceiptsOnlyRise,
            Asked::Sync(_) | Asked::History(_) | Asked::Page => Promise::GapFreeSync,
            Asked::Login | Asked::Refused(_) => Promise::BoundedCost,
        };
        let wrong = match (asked, body) {
            (Asked::Send(key, change), ServerBody::SendOk(ok)) => {
                self.world.note(&self.name, &format!("number {}: stored at {}", key.client_seq, ok.seq));
                history.answered(key, &change, Ok(ok));
                if !ok.duplicate {
                    let stored = self.stored.entry(key.conversation).or_default();
                    *stored = (*stored).max(ok.seq);
                }
                None
            }
            (Asked::Send(key, change), ServerBody::Error(error)) => {
                self.world.note(&self.name, &format!("number {}: refused, {}", key.client_seq, error.code));
                history.answered(key, &change, Err(error.code));
                (!may_refuse_a_send(error.code)).then(|| format!("a send is refused with {}", error.code))
            }
            (Asked::Mark(_, true), ServerBody::MarkOk) => {
                Some("a mark was taken that is above the head, or of a conversation of others".to_owned())
            }
            (Asked::Mark(good, false), ServerBody::MarkOk) => {
                for mark in good {
                    history.mark_acked(mark.conversation, self.who.user, mark.read);
                }
                None
            }
            (Asked::Mark(..), ServerBody::Error(error)) => {
                (!may_refuse_a_mark(error.code)).then(|| format!("a mark is refused with {}", error.code))
            }
            (Asked::Sync(known), ServerBody::SyncPage(page)) => {
                for state in &page.conversations {
                    self.has_seen(state.conversation, &state.entries);
                    history.pulled(self.who.user, state.conversation, &state.entries);
                }
                page.conversations.iter().find_map(|state| wrong_state(&known, state))
            }
            (Asked::History(asked), ServerBody::HistoryPage(page)) => {
                self.has_seen(page.conversation, &page.entries);
                history.pulled(self.who.user, page.conversation, &page.entries);
                wrong_page(&asked, page)
            }
            (Asked::Sync(_) | Asked::History(_) | Asked::Page, ServerBody::Error(error)) => {
                (!may_refuse_a_query(error.code)).then(|| format!("a query is refused with {}", error.code))
            }
            (
                Asked::Page,
                ServerBody::ConversationPage(_) | ServerBody::MemberPage(_) | ServerBody::ReceiptPage(_),
            ) => None,
            (Asked::Login, ServerBody::LoginOk(_)) => {
                self.logged_in = true;
                None
            }
            (Asked::Refused(code), _) if told == Err(code) => None,
            (Asked::Refused(code), _) => Some(format!("{code} was to be answered, and not {told:?}")),
            (_, _) => Some(format!("the answer is of another kind, {told:?}")),
        };
        if let Some(what) = wrong {
            let what = format!("{}: request {}: {what}", self.name, id.get());
            history.violate(promise, "not permitted", what);
        }
    }
}

/// Nobody waits any more for what is not answered.
impl Drop for Line<'_> {
    fn drop(&mut self) {
        for asked in self.waiting.values() {
            if let Asked::Send(key, _) = asked {
                self.world.history.borrow_mut().abandon(*key);
            }
        }
    }
}

/// What a send may be told that is well-formed.
fn may_refuse_a_send(code: ErrorCode) -> bool {
    use ErrorCode::*;
    matches!(
        code,
        UnknownConversation
            | NotMember
            | ClientSeqStale
            | ClientSeqUsed
            | TooManyInFlight
            | Overloaded
            | Unavailable
            | OutcomeUnknown
    )
}

fn may_refuse_a_mark(code: ErrorCode) -> bool {
    use ErrorCode::*;
    matches!(
        code,
        InvalidArgument | UnknownConversation | NotMember | TooManyInFlight | Overloaded | Unavailable
    )
}

fn may_refuse_a_query(code: ErrorCode) -> bool {
    use ErrorCode::*;
    matches!(code, UnknownConversation | NotMember | TooManyInFlight | Overloaded | Unavailable)
}

/// Whether entries have no hole.
fn is_dense(entries: &[Entry]) -> bool {
    entries.windows(2).all(|pair| pair[1].seq == pair[0].seq.next())
}

/// What is wrong with a line of a sync.
fn wrong_state(known: &[Known], state: &ConversationState) -> Option<String> {
    let named = known.iter().find(|known| known.conversation == state.conversation);
    let start = named.map(|known| known.seq.next().max(state.floor));
    let (first, last) =
        (state.entries.first().map(|entry| entry.seq), state.entries.last().map(|entry| entry.seq));
    let is_right = is_dense(&state.entries)
        && state.complete_to <= state.head
        && last.is_none_or(|last| last == state.complete_to)
        // At least one entry when the device misses any.
        && match (start, first) {
            (Some(start), Some(first)) => first == start,
            (Some(start), None) => start > state.head,
            (None, first) => first.is_none_or(|first| first >= state.floor),
        };
    (!is_right).then(|| {
        format!(
            "{}: known {named:?}, floor {}, head {}, {} entries from {first:?} to {last:?}, and it is said to be complete up to {}",
            state.conversation, state.floor, state.head, state.entries.len(), state.complete_to
        )
    })
}

/// What is wrong with a page of a log.
fn wrong_page(asked: &tern_protocol::request::History, page: &HistoryPage) -> Option<String> {
    let (first, last) =
        (page.entries.first().map(|entry| entry.seq), page.entries.last().map(|entry| entry.seq));
    let begins = match asked.from {
        HistoryFrom::Forward(from) => {
            let from = from.max(page.floor);
            first.map_or(from > page.head, |first| first == from)
        }
        HistoryFrom::Backward(to) => {
            let to = to.unwrap_or(page.head).min(page.head);
            last.map_or(to < page.floor, |last| last == to)
        }
    };
    let is_right = begins
        && is_dense(&page.entries)
        && page.entries.len() <= asked.limit as usize
        && first.is_none_or(|first| first >= page.floor)
        && last.is_none_or(|last| last <= page.head);
    (!is_right).then(|| {
        format!(
            "asked for {asked:?}: floor {}, head {}, {} entries from {first:?} to {last:?}",
            page.floor,
            page.head,
            page.entries.len()
        )
    })
}
