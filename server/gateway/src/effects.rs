//! Executes what a session asks for.

use std::rc::Rc;
use std::sync::atomic::Ordering;

use tern_core::cluster::Reach;
use tern_core::conversation::{Append, Mark};
use tern_core::dedup::Refusal;
use tern_core::home::SessionId;
use tern_core::session::{Effect, Identity, Query, Text};
use tern_core::work;
use tern_protocol::error::ErrorCode;
use tern_protocol::event::ServerBody;
use tern_protocol::frame::Frame;
use tern_protocol::ids::{ConversationId, RequestId, UserId};
use tern_protocol::model::Sender;
use tern_protocol::request::{self, Login};
use tern_store::ops;
use tracing::{debug, error};

use crate::auth::{self, TokenError};
use crate::clock::Stamp;
use crate::connection::{Conn, MarkWait, QueryWait};
use crate::fanout::Handle;
use crate::limits::Exceeded;
use crate::mailbox::{Answer, OwnerRequest, Question, Ticket};
use crate::metrics::shard::{Asked, Login as LoginResult, Sent};
use crate::reply;
use crate::shard::Shard;

impl Shard {
    /// A whole frame has arrived on a connection's ordered stream.
    pub fn on_frame(self: &Rc<Self>, conn: &Rc<Conn>, frame: Frame) {
        let bytes = frame.message_bytes();
        let effect = conn.session.borrow_mut().on_frame(self.now(), frame);
        let taken = self.take_frame(conn, bytes, &effect);
        match (effect, taken) {
            (Effect::Mark { id, .. }, Err(wait_ms)) => {
                let frame = self.rate_limited(conn, id, wait_ms);
                if id.get() == 0 { conn.answer(frame) } else { self.answered(conn, Some(frame)) }
            }
            // The others cost no more than their refusal would.
            (effect, _) => self.execute(conn, effect),
        }
    }

    /// Counts a frame of so many bytes of which the session has made this, unless it is a send.
    ///
    /// # Errors
    /// The milliseconds until there is room for it.
    pub fn take_frame(&self, conn: &Conn, bytes: usize, effect: &Effect) -> Result<(), u64> {
        self.take_work(conn, work::of_frame(bytes, effect), work::of_refusal(bytes))
    }

    fn take_work(&self, conn: &Conn, work: u32, refusal: u32) -> Result<(), u64> {
        match &mut *conn.usage.borrow_mut() {
            Some(usage) if work > 0 => self
                .node
                .limits
                .take_work(usage, work, refusal, self.now().mono)
                .map_err(|exceeded| self.exceeded(conn, exceeded)),
            _ => Ok(()),
        }
    }

    /// There is no room for what a connection wants; returns the milliseconds until there is.
    fn exceeded(&self, conn: &Conn, Exceeded { wait_ms, deaf_until }: Exceeded) -> u64 {
        if deaf_until.is_some_and(|until| conn.turn_deaf(until)) {
            self.metrics().read_pauses.add(1);
            debug!(session = %conn.id, "asks on and on although it was told to wait: not read for a while");
        }
        wait_ms
    }

    /// The frame that refuses what there is no room for.
    fn rate_limited(&self, conn: &Conn, id: RequestId, wait_ms: u64) -> bytes::Bytes {
        self.told(conn.id, id, ErrorCode::RateLimited, "too often");
        reply::rate_limited(id, wait_ms)
    }

    /// Ends a session and tells the client why.
    pub fn close(self: &Rc<Self>, conn: &Rc<Conn>, id: RequestId, code: ErrorCode, text: Text) {
        let effect = conn.session.borrow_mut().close(id, code, text);
        self.execute(conn, effect);
    }

    /// Does what the session wants done.
    pub fn execute(self: &Rc<Self>, conn: &Rc<Conn>, effect: Effect) {
        match effect {
            Effect::None => {}
            Effect::Heartbeat => {
                self.metrics().requests.one(Asked::Heartbeat);
                conn.echo();
            }
            Effect::Verify(id, login) => {
                self.metrics().requests.one(Asked::Login);
                self.verify(conn, id, login);
            }
            Effect::LoggedIn(id, ok, sender) => {
                debug!(
                    session = %conn.id, request = id.get(), user = %sender.user, device = %sender.device, "logged in"
                );
                // Before the answer and before any further request: whatever becomes durable from here on is pushed,
                // and what was durable before is found by the sync that follows.
                conn.logged_in(sender.user, self.node.limits.login(sender.user));
                self.node.online(self.id).fetch_add(1, Ordering::SeqCst);
                self.local.borrow_mut().insert(sender.user, Handle(conn.clone()));
                self.register(conn, sender.user, sender.device, None);
                conn.answer(reply::frame(id, ServerBody::LoginOk(ok)));
                self.send_away_if_cut_off(conn);
            }
            Effect::Append { id, sender, conversation, peer, send } => {
                self.append(conn, id, sender, conversation, peer, send);
            }
            Effect::Mark { id, sender, marks } => self.mark(conn, id, sender, &marks),
            Effect::Query(id, user, query) => {
                let since = Stamp::take();
                conn.queries.borrow_mut().push_back(QueryWait { request: id, user, query, since });
                if !conn.querying.replace(true) {
                    tokio::task::spawn_local(self.clone().answer_queries(conn.clone()));
                }
            }
            Effect::Refuse(id, code, text) => conn.answer(self.refuse(conn.id, id, code, &text)),
            Effect::Close(id, code, text) => {
                conn.answer(self.refuse(conn.id, id, code, &text));
                conn.close_after_flush(self.now());
            }
        }
    }

    fn verify(self: &Rc<Self>, conn: &Rc<Conn>, id: RequestId, login: Login) {
        let verified = self.node.verifier.admit(&login.token, login.device, self.now().wall);
        let asked = match verified {
            Err(TokenError::UnknownKey) => self.node.verifier.keys().ask_for_more(),
            _ => None,
        };
        let Some(fetched) = asked else { return self.verified(conn, id, &login, verified) };
        // One for a connection, whose session takes no other login meanwhile.
        let (shard, conn) = (self.clone(), conn.clone());
        tokio::task::spawn_local(async move {
            fetched.await;
            if !conn.is_gone() {
                let verified = shard.node.verifier.admit(&login.token, login.device, shard.now().wall);
                shard.verified(&conn, id, &login, verified);
            }
        });
    }

    fn verified(
        self: &Rc<Self>,
        conn: &Rc<Conn>,
        id: RequestId,
        login: &Login,
        verified: Result<auth::Identity, TokenError>,
    ) {
        let verified = match verified {
            Ok(identity) => {
                conn.issued.set(identity.issued);
                Ok(Identity { user: identity.user, expires: identity.expires })
            }
            Err(error) => {
                debug!(session = %conn.id, request = id.get(), %error, client = login.client, "login refused");
                Err((error.code(), error.to_string().into()))
            }
        };
        let effect = conn.session.borrow_mut().on_verified(self.now(), id, verified, self.node.epoch);
        let ok = matches!(effect, Effect::LoggedIn(..));
        self.metrics().logins.one(if ok { LoginResult::Ok } else { LoginResult::Refused });
        self.execute(conn, effect);
    }

    /// The frame of an error, which is counted and logged. `text` holds nothing of what the client has sent.
    pub fn refuse(&self, session: SessionId, id: RequestId, code: ErrorCode, text: &str) -> bytes::Bytes {
        self.told(session, id, code, text);
        reply::error(id, code, text)
    }

    /// Counts and logs an error that a client is told.
    fn told(&self, session: SessionId, id: RequestId, code: ErrorCode, text: &str) {
        self.metrics().errors.one(code);
        debug!(%session, request = id.get(), code = code.label(), text, "told an error");
    }

    fn take_send(&self, conn: &Conn) -> Result<(), u64> {
        match &mut *conn.usage.borrow_mut() {
            Some(usage) => self
                .node
                .limits
                .take_send(usage, self.now().mono)
                .map_err(|exceeded| self.exceeded(conn, exceeded)),
            None => Ok(()),
        }
    }

    fn append(
        self: &Rc<Self>,
        conn: &Rc<Conn>,
        id: RequestId,
        sender: Sender,
        conversation: ConversationId,
        peer: Option<UserId>,
        send: request::Send,
    ) {
        self.metrics().requests.one(Asked::Send);
        if let Err(wait_ms) = self.take_send(conn) {
            self.metrics().sends.one(Sent::Refused);
            let frame = self.rate_limited(conn, id, wait_ms);
            return self.answered(conn, Some(frame));
        }
        let question = Question::Send(id, Stamp::take());
        if self.view.borrow().reach == Reach::Silent {
            let unavailable = Answer::Sent(Err(ErrorCode::Unavailable.into()));
            return self.on_answer(conn, question, unavailable);
        }
        let overloaded = Answer::Sent(Err(ErrorCode::Overloaded.into()));
        let Some(ticket) = self.ticket(conn.id, question, conversation, send.change.size()) else {
            return self.on_answer(conn, question, overloaded);
        };
        if !self.take_way(conn, id, conversation) || !self.admission.borrow_mut().take() {
            return self.on_answer(conn, question, overloaded);
        }
        let append = Append { ticket, sender, peer, client_seq: send.client_seq, change: send.change };
        if self.to_owner(OwnerRequest::Append(conversation, append)).is_err() {
            self.admission.borrow_mut().on_answered();
            self.on_answer(conn, question, overloaded);
        }
    }

    fn mark(self: &Rc<Self>, conn: &Rc<Conn>, id: RequestId, sender: Sender, marks: &[request::Mark]) {
        let request = |mark: &request::Mark, ticket| {
            let request::Mark { conversation, delivered, read } = *mark;
            OwnerRequest::Mark(conversation, Mark { ticket: Some(ticket), sender, delivered, read })
        };
        self.metrics().requests.one(Asked::Mark);
        if id.get() == 0 {
            return marks.iter().for_each(|mark| self.tell_mark(sender, mark));
        }
        let number = self.next_number();
        let remaining = marks.len();
        conn.marks.borrow_mut().push(MarkWait {
            number,
            request: id,
            remaining: remaining + 1,
            refused: None,
            since: Stamp::take(),
        });
        let question = Question::Mark(number);
        for mark in marks {
            let ticket = self.ticket(conn.id, question, mark.conversation, 0);
            if ticket.is_none_or(|ticket| self.to_owner(request(mark, ticket)).is_err()) {
                self.on_answer(conn, question, Answer::Marked(Err(ErrorCode::Overloaded)));
            }
        }
        // The one counted beyond the marks: an empty request is answered too.
        self.on_answer(conn, question, Answer::Marked(Ok(())));
    }

    /// The way back to a connection, or to this shard; `None` when there is no place left for the answer of another shard, or when the
    /// requests that wait hold too many bytes.
    pub fn ticket(
        &self,
        session: SessionId,
        question: Question,
        conversation: ConversationId,
        bytes: usize,
    ) -> Option<Ticket> {
        let charge = self.node.charge(bytes)?;
        let is_here = self.node.slots.owner(conversation) == self.id
            && self.view.borrow().owner(conversation).is_none();
        let place =
            if is_here { None } else { Some(self.mailbox().replies.clone().try_reserve_owned().ok()?) };
        Some(Ticket { session, question, place, _charge: charge })
    }

    /// An owner has answered.
    pub fn on_answer(self: &Rc<Self>, conn: &Rc<Conn>, question: Question, answer: Answer) {
        let metrics = self.metrics();
        let (id, since, asked, result) = match (question, answer) {
            (Question::Send(id, since), Answer::Sent(result)) => {
                conn.ways.borrow_mut().answered(id);
                metrics.sends.one(match &result {
                    Ok(ok) if ok.duplicate => Sent::Duplicate,
                    Ok(_) => Sent::Stored,
                    Err(_) => Sent::Refused,
                });
                (id, since, Asked::Send, result.map(ServerBody::SendOk))
            }
            (Question::Mark(number), Answer::Marked(result)) => {
                let mut marks = conn.marks.borrow_mut();
                let Some(i) = marks.iter().position(|wait| wait.number == number) else { return };
                marks[i].refused = marks[i].refused.or(result.err());
                marks[i].remaining -= 1;
                if marks[i].remaining > 0 {
                    return;
                }
                let wait = marks.swap_remove(i);
                let result = wait.refused.map_or(Ok(ServerBody::MarkOk), |code| Err(code.into()));
                (wait.request, wait.since, Asked::Mark, result)
            }
            (Question::Send(..), Answer::Marked(_))
            | (Question::Mark(_), Answer::Sent(_))
            | (Question::Link(_) | Question::LinkLater(_) | Question::Kept(_), _) => {
                unreachable!("an owner answers what it was asked")
            }
        };
        let frame = match result {
            Ok(body) => {
                metrics.request_micros.of(asked).record(since.micros());
                reply::frame(id, body)
            }
            Err(Refusal { code, highest }) => {
                let text = reply::refusal(code);
                self.told(conn.id, id, code, text);
                reply::refused(id, code, text, highest)
            }
        };
        self.answered(conn, Some(frame));
    }

    /// A request that the session counted is answered: on the ordered stream, or elsewhere.
    pub fn answered(self: &Rc<Self>, conn: &Rc<Conn>, frame: Option<bytes::Bytes>) {
        conn.session.borrow_mut().on_answered();
        if let Some(frame) = frame {
            conn.answer(frame);
        }
        if conn.has_finished() {
            self.close(conn, RequestId(0), ErrorCode::GoingAway, "the server is stopping".into());
        }
    }

    async fn answer_queries(self: Rc<Self>, conn: Rc<Conn>) {
        while !conn.is_gone() {
            let next = conn.queries.borrow_mut().pop_front();
            let Some(query) = next else { break };
            self.registered(&conn).await;
            let frame = self.answer_query(&conn, query).await;
            self.answered(&conn, Some(frame));
            conn.room().await;
            // The embedded store answers at once: others get their turn here.
            tokio::task::yield_now().await;
        }
        conn.querying.set(false);
    }

    /// The frame that answers a query.
    pub async fn answer_query(&self, conn: &Conn, query: QueryWait) -> bytes::Bytes {
        let QueryWait { request: id, user, query, since } = query;
        if let Err(wait_ms) = self.take_work(conn, work::of_query(&query), work::of_refusal(0)) {
            return self.rate_limited(conn, id, wait_ms);
        }
        let (kv, metrics) = (&*self.node.kv, self.metrics());
        let asked = match query {
            Query::Sync(_) => Asked::Sync,
            Query::History(_) => Asked::History,
            Query::Conversations(_) => Asked::Conversations,
            Query::Members(_) => Asked::Members,
            Query::Receipts(_) => Asked::Receipts,
        };
        metrics.requests.one(asked);
        let body = match query {
            Query::Sync(sync) => ops::sync::sync(kv, user, &sync).await.map(ServerBody::SyncPage),
            Query::History(history) => {
                ops::history::page(kv, user, &history).await.map(ServerBody::HistoryPage)
            }
            Query::Conversations(list) => {
                ops::list::conversations(kv, user, &list).await.map(ServerBody::ConversationPage)
            }
            Query::Members(list) => ops::list::members(kv, user, &list).await.map(ServerBody::MemberPage),
            Query::Receipts(list) => ops::receipts::page(kv, user, &list).await.map(ServerBody::ReceiptPage),
        };
        match body {
            Ok(body) => {
                metrics.request_micros.of(asked).record(since.micros());
                let rows = work::rows_of_answer(&body);
                let frame = reply::frame(id, body);
                if let Some(usage) = &mut *conn.usage.borrow_mut() {
                    let work = work::of_answer(rows, frame.len());
                    self.node.limits.spend_work(usage, work, self.now().mono);
                }
                frame
            }
            Err(error) => {
                let code = reply::query_error(&error);
                if code == ErrorCode::Internal {
                    error!(session = %conn.id, request = id.get(), %user, %error, "a query failed");
                }
                self.refuse(conn.id, id, code, reply::refusal(code))
            }
        }
    }
}
