//! One connection, with any frames at any times.

use bytes::Bytes;
use tern_core::session::{Effect, Identity, Session};
use tern_core::time::{MonoMillis, Now};
use tern_protocol::convert::encode_request;
use tern_protocol::error::ErrorCode;
use tern_protocol::frame::Frame;
use tern_protocol::ids::{ConversationId, DeviceId, RequestId, StoreEpoch, UserId};
use tern_protocol::limits::{
    FRAME_BEFORE_LOGIN_BYTES_MAX, FRAME_BYTES_MAX, IDLE_TIMEOUT_MS, IN_FLIGHT_MAX, LOGIN_TIMEOUT_MS,
};
use tern_protocol::model::WallMillis;
use tern_protocol::request::{ListConversations, Login, Request, RequestBody};

use crate::input::Input;

const USER: UserId = UserId::from_bytes([1; 16]);
const EPOCH: StoreEpoch = StoreEpoch::from_bytes([7; 16]);

/// What the session has been seen to do.
#[derive(Debug, Default)]
struct Seen {
    now: u64,
    heard: u64,
    in_flight: usize,
    verifying: Option<RequestId>,
    /// Until when its token is good.
    logged_in: Option<u64>,
    closed: bool,
}

impl Seen {
    fn now(&self) -> Now {
        Now { mono: MonoMillis(self.now), wall: WallMillis(self.now) }
    }

    fn effect(&mut self, effect: Effect) {
        assert!(!self.closed || effect == Effect::None, "closed, and does {effect:?}");
        match effect {
            Effect::None | Effect::Heartbeat => {}
            Effect::Verify(id, login) => {
                assert!(self.verifying.is_none() && self.logged_in.is_none(), "one login");
                assert!(!login.token.is_empty() && self.now < LOGIN_TIMEOUT_MS);
                self.verifying = Some(id);
            }
            Effect::LoggedIn(id, ok, sender) => {
                assert_eq!((self.verifying, ok.user, sender.user), (Some(id), USER, USER));
                assert!(self.logged_in.is_some());
            }
            Effect::Append { id, sender, conversation, peer, .. } => {
                assert_eq!(sender.user, USER);
                assert!(peer.is_none_or(|peer| conversation == ConversationId::direct(USER, peer)));
                self.take(id);
            }
            Effect::Mark { id, sender, .. } => {
                assert_eq!(sender.user, USER);
                self.take(id);
            }
            Effect::Query(id, user, _) => {
                assert_eq!(user, USER);
                self.take(id);
            }
            Effect::Refuse(_, code, text) => {
                assert!(!code.closes() && !text.is_empty());
                assert!(code != ErrorCode::TooManyInFlight || self.in_flight == IN_FLIGHT_MAX);
            }
            Effect::Close(_, _, text) => {
                assert!(!text.is_empty());
                self.closed = true;
            }
        }
    }

    /// On a stream of its own, whose end is not the session's.
    fn bulk_effect(&mut self, effect: Effect) {
        match effect {
            Effect::Query(id, user, _) => {
                assert_eq!(user, USER);
                self.take(id);
            }
            Effect::Refuse(_, _, text) => assert!(!text.is_empty()),
            effect => panic!("a bulk stream leads to {effect:?}"),
        }
    }

    fn take(&mut self, id: RequestId) {
        assert!(self.logged_in.is_some() && !self.closed, "nothing is done before login, or after the end");
        if id.get() != 0 {
            self.in_flight += 1;
            assert!(self.in_flight <= IN_FLIGHT_MAX);
        }
    }
}

fn good_request(input: &mut Input<'_>) -> Frame {
    let id = RequestId(u64::from(input.byte()) + 1);
    let body = match input.byte() % 2 {
        0 => RequestBody::ListConversations(ListConversations { after: None, limit: 1 }),
        _ => RequestBody::Login(Login {
            token: "t".into(),
            device: DeviceId::new(u64::from(input.byte()) + 1).expect("above 0"),
            versions: (u32::from(input.byte() % 4), u32::from(input.byte() % 4)),
            features: vec![u32::from(input.byte())],
            client: String::new(),
        }),
    };
    // A frame this short has a length of one byte.
    Frame::Message(encode_request(&Request { id, body }).slice(1..))
}

/// Whatever comes when: no panic; at most so many requests under way; nothing before login or after the end; one login;
/// one end, and in time.
pub fn session(input: &[u8]) {
    let mut input = Input(input);
    let mut seen = Seen::default();
    let mut session = Session::new(seen.now());
    while !input.is_empty() {
        let open = !seen.closed;
        match input.byte() % 10 {
            0 => {
                let effect = session.on_frame(seen.now(), Frame::Heartbeat);
                assert_eq!(effect == Effect::Heartbeat, open);
                seen.heard = seen.now;
            }
            1 | 2 => {
                let frame = Frame::Message(Bytes::copy_from_slice(input.bytes()));
                let effect = session.on_frame(seen.now(), frame);
                seen.effect(effect);
                seen.heard = seen.now;
            }
            3 | 4 => {
                let effect = session.on_frame(seen.now(), good_request(&mut input));
                seen.effect(effect);
                seen.heard = seen.now;
            }
            5 => {
                let frame = match input.byte() % 3 {
                    0 => Frame::Heartbeat,
                    1 => good_request(&mut input),
                    _ => Frame::Message(Bytes::copy_from_slice(input.bytes())),
                };
                let message = matches!(frame, Frame::Message(_));
                let effect = session.on_bulk_frame(seen.now(), frame);
                seen.bulk_effect(effect);
                seen.heard = if message { seen.now } else { seen.heard };
            }
            6 => {
                let expires = seen.now.saturating_add(input.number() >> (input.byte() % 64));
                let verified = if input.byte() % 4 == 0 {
                    Err((ErrorCode::TokenInvalid, "no".into()))
                } else {
                    Ok(Identity { user: USER, expires: WallMillis(expires) })
                };
                let id = seen.verifying.unwrap_or(RequestId(1));
                let waiting = open && seen.verifying.is_some() && seen.logged_in.is_none();
                let effect = session.on_verified(seen.now(), id, verified, EPOCH);
                assert_eq!(effect == Effect::None, !waiting);
                if matches!(effect, Effect::LoggedIn(..)) {
                    assert!(expires > seen.now);
                    seen.logged_in = Some(expires);
                }
                seen.effect(effect);
            }
            7 if seen.in_flight > 0 => {
                session.on_answered();
                seen.in_flight -= 1;
            }
            7 | 8 => {
                seen.now += input.number() % (2 * IDLE_TIMEOUT_MS);
                let effect = session.on_tick(seen.now());
                let over = match seen.logged_in {
                    None => seen.now >= LOGIN_TIMEOUT_MS,
                    Some(expires) => seen.now >= expires || seen.now - seen.heard >= IDLE_TIMEOUT_MS,
                };
                assert_eq!(matches!(effect, Effect::Close(..)), over && open);
                seen.effect(effect);
            }
            _ => {
                // Rare, or no session would be long.
                if input.byte() == 0 {
                    let effect = session.close(RequestId(0), ErrorCode::GoingAway, "bye".into());
                    seen.effect(effect);
                }
            }
        }
        let live = seen.logged_in.is_some() && !seen.closed;
        let max = if live { FRAME_BYTES_MAX } else { FRAME_BEFORE_LOGIN_BYTES_MAX };
        assert_eq!(session.frame_bytes_max(), max);
        assert_eq!((session.is_closed(), session.sender().is_some()), (seen.closed, live));
        assert_eq!(session.is_idle(), seen.in_flight == 0);
        assert_eq!(session.is_full(), seen.in_flight == IN_FLIGHT_MAX);
    }
}
