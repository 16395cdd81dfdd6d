//! The closed table of error codes. One row says everything about a code; `spec/errors.md` is the same table with
//! the reasons, and a test compares the two.

use core::fmt;

/// May the same request be sent again?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// No: the answer will be the same.
    Never,
    /// Yes, unchanged (sends with the same `client_seq`), after the advised delay.
    Later,
    /// Yes, on a new connection with a fresh login.
    Reconnect,
}

/// Did the request have an effect?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// None.
    None,
    /// It happened, then or at an earlier try.
    Done,
    /// Not known: zero times or once, never twice.
    Unknown,
}

macro_rules! error_codes {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $label:literal, $retry:ident, $effect:ident, $closes:literal;)*) => {
        /// What went wrong, as a client is told. Codes are never reused.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u32)]
        pub enum ErrorCode {
            $($(#[$doc])* $name = $code,)*
        }

        impl ErrorCode {
            /// Every code, rising.
            pub const ALL: &'static [ErrorCode] = &[$(ErrorCode::$name,)*];

            /// The name in specifications and logs.
            pub const fn label(self) -> &'static str {
                match self { $(ErrorCode::$name => $label,)* }
            }

            /// May the same request be sent again?
            pub const fn retry(self) -> Retry {
                match self { $(ErrorCode::$name => Retry::$retry,)* }
            }

            /// Did the request have an effect?
            pub const fn effect(self) -> Effect {
                match self { $(ErrorCode::$name => Effect::$effect,)* }
            }

            /// Whether the server closes the connection after it.
            pub const fn closes(self) -> bool {
                match self { $(ErrorCode::$name => $closes,)* }
            }

            /// The code with this number; a newer server may have codes that this table lacks.
            pub const fn from_code(code: u32) -> Option<Self> {
                match code { $($code => Some(ErrorCode::$name),)* _ => None }
            }

            /// The number on the wire.
            pub const fn code(self) -> u32 {
                self as u32
            }
        }
    };
}

error_codes! {
    /// The bytes are not a frame of this protocol.
    Malformed = 1, "malformed", Never, None, true;
    /// The frame is longer than is allowed at this point.
    FrameTooLarge = 2, "frame_too_large", Never, None, true;
    /// No protocol version is common to client and server.
    UnsupportedVersion = 3, "unsupported_version", Never, None, true;
    /// The first request of a connection has to be `Login`.
    NotLoggedIn = 4, "not_logged_in", Never, None, false;
    /// The connection is logged in already.
    AlreadyLoggedIn = 5, "already_logged_in", Never, None, false;
    /// The token is not valid here: signature, algorithm, audience, issuer, not yet valid, no `sub`, or
    /// revoked.
    TokenInvalid = 6, "token_invalid", Never, None, true;
    /// The token has expired, at login or during the connection.
    TokenExpired = 7, "token_expired", Reconnect, None, true;
    /// No complete login in time.
    LoginTimeout = 8, "login_timeout", Reconnect, None, true;
    /// Nothing was heard from the client for too long.
    IdleTimeout = 9, "idle_timeout", Reconnect, None, true;
    /// The same device has logged in on another connection.
    TakenOver = 10, "taken_over", Never, None, true;
    /// The server is going away or handing its clients on.
    GoingAway = 11, "going_away", Reconnect, None, true;
    /// A request that this server does not know.
    UnknownRequest = 12, "unknown_request", Never, None, false;
    /// A field is missing, out of range or contradicts another; the text says which.
    InvalidArgument = 13, "invalid_argument", Never, None, false;
    /// There is no such conversation, or it is a direct chat of other people.
    UnknownConversation = 14, "unknown_conversation", Never, None, false;
    /// The user is not, or is no longer, a member of this group.
    NotMember = 15, "not_member", Never, None, false;
    /// The user's role does not allow it.
    Forbidden = 16, "forbidden", Never, None, false;
    /// A conversation with this id exists already.
    ConversationExists = 17, "conversation_exists", Never, None, false;
    /// The group would have more members than are allowed.
    TooManyMembers = 18, "too_many_members", Never, None, false;
    /// The group is already as the request wants it.
    NoChange = 19, "no_change", Never, None, false;
    /// The entry is larger than is stored.
    TooLarge = 20, "too_large", Never, None, false;
    /// A lower `client_seq` than one already stored, and itself never stored: take a new number.
    ClientSeqStale = 21, "client_seq_stale", Never, None, false;
    /// An earlier try may have stored it: the part of the log where it would be has been trimmed away.
    DuplicateTrimmed = 22, "duplicate_trimmed", Never, Unknown, false;
    /// More requests unanswered than are allowed.
    TooManyInFlight = 23, "too_many_in_flight", Later, None, false;
    /// The server has more work than it can take on.
    Overloaded = 24, "overloaded", Later, None, false;
    /// The store cannot be reached at present; nothing was stored.
    Unavailable = 25, "unavailable", Later, None, false;
    /// The store did not say whether it has it. Send it again with the same `client_seq`.
    OutcomeUnknown = 26, "outcome_unknown", Later, Unknown, false;
    /// A fault of the server; its log has the details.
    Internal = 27, "internal", Later, Unknown, false;
    /// This user or device sends or asks more than the server lets anybody.
    RateLimited = 28, "rate_limited", Later, None, false;
    /// The `client_seq` was used before, for something else: take a new number.
    ClientSeqUsed = 29, "client_seq_used", Never, None, false;
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

impl core::error::Error for ErrorCode {}
