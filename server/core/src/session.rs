//! One connection: login first, then requests within the limits; deadlines; how errors answer or close.
//!
//! ```text
//!   Fresh --Login, verified--> Live --token expired, silence, taken over, malformed--> Closed
//!     |                                                                                  ^
//!     +--------------- login timeout, bad token, malformed, 8 refused requests ----------+
//! ```

use alloc::borrow::Cow;
use alloc::vec::Vec;

use tern_protocol::convert::{RequestError, parse_request};
use tern_protocol::error::ErrorCode;
use tern_protocol::event::LoginOk;
use tern_protocol::frame::Frame;
use tern_protocol::handshake::{self, Speaks, agree};
use tern_protocol::ids::{ConversationId, DeviceId, RequestId, StoreEpoch, UserId};
use tern_protocol::limits::{
    FRAME_BEFORE_LOGIN_BYTES_MAX, FRAME_BYTES_MAX, HEARTBEAT_MS, IDLE_TIMEOUT_MS, IN_FLIGHT_MAX,
    LOGIN_TIMEOUT_MS, VERSION_MAX, VERSION_MIN,
};
use tern_protocol::model::{Sender, Target, WallMillis};
use tern_protocol::request::{
    History, ListConversations, ListUsers, Login, Mark, Request, RequestBody, Send, Sync,
};

use crate::limits::REFUSED_BEFORE_LOGIN_MAX;
use crate::time::{MonoMillis, Now};

/// A text for the client: fixed, or made for the occasion.
pub type Text = Cow<'static, str>;

/// A question that is answered from the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Query {
    /// What happened since?
    Sync(Sync),
    /// A page of a log.
    History(History),
    /// The conversation list.
    Conversations(ListConversations),
    /// A group's members.
    Members(ListUsers),
    /// Members' watermarks.
    Receipts(ListUsers),
}

/// What a frame asks the gateway to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    None,
    /// Echo the heartbeat.
    Heartbeat,
    /// Verify the token and call [`Session::on_verified`].
    Verify(RequestId, Login),
    /// Hand it to the conversation's owner and answer with what it says.
    Append {
        /// To be answered.
        id: RequestId,
        /// Who sends.
        sender: Sender,
        /// Where: of a direct chat, computed.
        conversation: ConversationId,
        /// Of a direct chat named by its user: that user.
        peer: Option<UserId>,
        /// What.
        send: Send,
    },
    /// Hand each to its conversation's owner and answer when all have been taken. Id 0: no answer.
    Mark {
        /// To be answered, unless 0.
        id: RequestId,
        /// Who marks.
        sender: Sender,
        /// Which.
        marks: Vec<Mark>,
    },
    /// Answer from the store.
    Query(RequestId, UserId, Query),
    /// Answer that the login is good, then tell the shard who is here.
    LoggedIn(RequestId, LoginOk, Sender),
    /// Answer with an error.
    Refuse(RequestId, ErrorCode, Text),
    /// Answer with an error (of the request, or with number 0) and close.
    Close(RequestId, ErrorCode, Text),
}

/// What a verified token says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// Whose it is.
    pub user: UserId,
    /// Until when it is good.
    pub expires: WallMillis,
}

#[derive(Debug)]
enum State {
    Fresh { refused: u8 },
    Verifying { device: DeviceId, versions: (u32, u32), features: Vec<u32> },
    Live { sender: Sender, expires: WallMillis },
    Closed,
}

/// One connection's state.
#[derive(Debug)]
pub struct Session {
    state: State,
    since: MonoMillis,
    heard: MonoMillis,
    in_flight: usize,
}

impl Session {
    /// A connection whose handshake has just ended.
    pub fn new(now: Now) -> Self {
        Self { state: State::Fresh { refused: 0 }, since: now.mono, heard: now.mono, in_flight: 0 }
    }

    /// How long a frame may be now.
    pub fn frame_bytes_max(&self) -> usize {
        if matches!(self.state, State::Live { .. }) { FRAME_BYTES_MAX } else { FRAME_BEFORE_LOGIN_BYTES_MAX }
    }

    /// Who is logged in.
    pub fn sender(&self) -> Option<Sender> {
        if let State::Live { sender, .. } = self.state { Some(sender) } else { None }
    }

    /// Whether every request is answered.
    pub fn is_idle(&self) -> bool {
        self.in_flight == 0
    }

    /// Whether as many requests are unanswered as may be.
    pub fn is_full(&self) -> bool {
        self.in_flight >= IN_FLIGHT_MAX
    }

    /// A whole frame was read from the client. Only whole frames count as being heard.
    pub fn on_frame(&mut self, now: Now, frame: Frame) -> Effect {
        if self.is_closed() {
            return Effect::None;
        }
        self.heard = now.mono;
        let bytes = match frame {
            Frame::Heartbeat => return Effect::Heartbeat,
            Frame::Message(bytes) => bytes,
        };
        match parse_request(bytes) {
            Ok(request) => self.on_request(now, request),
            Err(error) => self.refuse(error.id, error.code, error.text.into()),
        }
    }

    /// A whole frame on a QUIC stream for bulk requests: a query, or refused.
    pub fn on_bulk_frame(&mut self, now: Now, frame: Frame) -> Effect {
        let Frame::Message(bytes) = frame else {
            return Effect::Refuse(
                RequestId(0),
                ErrorCode::InvalidArgument,
                "a bulk stream takes one request".into(),
            );
        };
        self.heard = now.mono;
        let request = match parse_request(bytes) {
            Ok(request) => request,
            Err(RequestError { id, code, text }) => return Effect::Refuse(id, code, text.into()),
        };
        let Some(sender) = self.sender() else {
            return Effect::Refuse(
                request.id,
                ErrorCode::NotLoggedIn,
                "log in on the connection's first stream".into(),
            );
        };
        match query(request.body) {
            Ok(query) => self.take(request.id, Effect::Query(request.id, sender.user, query)),
            Err(_) => Effect::Refuse(
                request.id,
                ErrorCode::InvalidArgument,
                "a bulk stream takes Sync, History and List requests only".into(),
            ),
        }
    }

    fn on_request(&mut self, now: Now, Request { id, body }: Request) -> Effect {
        let sender = match (&self.state, body) {
            (State::Closed, _) => return Effect::None,
            // A shard that was held up must not take a login whose client has long gone elsewhere: it would displace it.
            (State::Fresh { .. }, RequestBody::Login(_))
                if now.mono.since(self.since) >= LOGIN_TIMEOUT_MS =>
            {
                return self.close(
                    RequestId(0),
                    ErrorCode::LoginTimeout,
                    "no login within 10 seconds".into(),
                );
            }
            (State::Fresh { .. }, RequestBody::Login(login)) => {
                self.state = State::Verifying {
                    device: login.device,
                    versions: login.versions,
                    features: login.features.clone(),
                };
                return Effect::Verify(id, login);
            }
            (State::Fresh { .. } | State::Verifying { .. }, _) => {
                return self.refuse(id, ErrorCode::NotLoggedIn, "the first request has to be Login".into());
            }
            (State::Live { .. }, RequestBody::Login(_)) => {
                return self.refuse(id, ErrorCode::AlreadyLoggedIn, "one login per connection".into());
            }
            (State::Live { sender, .. }, body) => (*sender, body),
        };
        let (sender, body) = sender;
        match body {
            RequestBody::Send(send) => {
                let (conversation, peer) = match send.target {
                    Target::Conversation(id) => (id, None),
                    Target::User(peer) => (ConversationId::direct(sender.user, peer), Some(peer)),
                };
                self.take(id, Effect::Append { id, sender, conversation, peer, send })
            }
            RequestBody::Mark(marks) => self.take(id, Effect::Mark { id, sender, marks }),
            body => match query(body) {
                Ok(query) => self.take(id, Effect::Query(id, sender.user, query)),
                Err(_) => self.refuse(
                    id,
                    ErrorCode::UnknownRequest,
                    "this server does not know that request".into(),
                ),
            },
        }
    }

    /// Counts a request that will be answered.
    fn take(&mut self, id: RequestId, effect: Effect) -> Effect {
        if id.get() == 0 {
            return effect;
        }
        if self.is_full() {
            return self.refuse(
                id,
                ErrorCode::TooManyInFlight,
                "64 requests are unanswered: wait for answers".into(),
            );
        }
        self.in_flight += 1;
        effect
    }

    /// A request that was taken has been answered.
    ///
    /// # Panics
    /// When none was: every request is answered once.
    pub fn on_answered(&mut self) {
        assert!(self.in_flight > 0, "a request was answered twice");
        self.in_flight -= 1;
    }

    fn refuse(&mut self, id: RequestId, code: ErrorCode, text: Text) -> Effect {
        if let State::Fresh { refused } = &mut self.state {
            *refused += 1;
            if *refused >= REFUSED_BEFORE_LOGIN_MAX {
                return self.close(id, code, text);
            }
        }
        if code.closes() { self.close(id, code, text) } else { Effect::Refuse(id, code, text) }
    }

    /// Ends the session.
    pub fn close(&mut self, id: RequestId, code: ErrorCode, text: Text) -> Effect {
        if matches!(self.state, State::Closed) {
            return Effect::None;
        }
        self.state = State::Closed;
        Effect::Close(id, code, text)
    }

    /// Whether it has ended.
    pub fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed)
    }

    /// The answer to [`Effect::Verify`]; `epoch` is that of the server's store.
    pub fn on_verified(
        &mut self,
        now: Now,
        id: RequestId,
        verified: Result<Identity, (ErrorCode, Text)>,
        epoch: StoreEpoch,
    ) -> Effect {
        let State::Verifying { device, versions, features } = &self.state else { return Effect::None };
        let identity = match verified {
            Ok(identity) => identity,
            Err((code, text)) => return self.close(id, code, text),
        };
        let Some(agreed) = agree(handshake::OURS, Speaks { versions: *versions, features }) else {
            let text = alloc::format!(
                "this server speaks versions {VERSION_MIN} to {VERSION_MAX}, the client {} to {}",
                versions.0,
                versions.1
            );
            return self.close(id, ErrorCode::UnsupportedVersion, text.into());
        };
        if identity.expires <= now.wall {
            return self.close(id, ErrorCode::TokenExpired, "the token has expired".into());
        }
        let sender = Sender { user: identity.user, device: *device };
        self.state = State::Live { sender, expires: identity.expires };
        let ok = LoginOk {
            user: identity.user,
            version: agreed.version,
            features: agreed.features,
            time: now.wall,
            heartbeat_ms: HEARTBEAT_MS as u32,
            in_flight_max: IN_FLIGHT_MAX as u32,
            epoch: Some(epoch),
        };
        Effect::LoggedIn(id, ok, sender)
    }

    /// Time has passed: closes what has outlived its deadline. To be called about every second.
    pub fn on_tick(&mut self, now: Now) -> Effect {
        let none = RequestId(0);
        match self.state {
            State::Closed => Effect::None,
            State::Fresh { .. } | State::Verifying { .. } => {
                if now.mono.since(self.since) < LOGIN_TIMEOUT_MS {
                    return Effect::None;
                }
                self.close(none, ErrorCode::LoginTimeout, "no login within 10 seconds".into())
            }
            State::Live { expires, .. } => {
                if expires <= now.wall {
                    return self.close(none, ErrorCode::TokenExpired, "the token has expired".into());
                }
                if now.mono.since(self.heard) < IDLE_TIMEOUT_MS {
                    return Effect::None;
                }
                self.close(none, ErrorCode::IdleTimeout, "nothing was heard for 150 seconds".into())
            }
        }
    }
}

/// The query in a request, or the request back.
fn query(body: RequestBody) -> Result<Query, RequestBody> {
    match body {
        RequestBody::Sync(sync) => Ok(Query::Sync(sync)),
        RequestBody::History(history) => Ok(Query::History(history)),
        RequestBody::ListConversations(list) => Ok(Query::Conversations(list)),
        RequestBody::ListMembers(list) => Ok(Query::Members(list)),
        RequestBody::ListReceipts(list) => Ok(Query::Receipts(list)),
        other @ (RequestBody::Login(_) | RequestBody::Send(_) | RequestBody::Mark(_)) => Err(other),
    }
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
