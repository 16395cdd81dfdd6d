//! Results into frames.

use bytes::Bytes;
use tern_core::receipts::Notice;
use tern_protocol::convert::encode_server;
use tern_protocol::error::ErrorCode;
use tern_protocol::event::{ReceiptsMoved, ServerBody, ServerMessage, WireError};
use tern_protocol::ids::{ClientSeq, ConversationId, RequestId, Seq, UserId};
use tern_store::{QueryError, StoreError};

/// After which a client may come back when the server could not serve it now.
const RETRY_AFTER_MS: u32 = 1_000;

/// The frame of an answer; number 0 makes an event.
pub fn frame(id: RequestId, body: ServerBody) -> Bytes {
    encode_server(&ServerMessage { id, body })
}

/// The frame of an error.
pub fn error(id: RequestId, code: ErrorCode, text: &str) -> Bytes {
    let retry_after_ms = match code.retry() {
        tern_protocol::error::Retry::Later => RETRY_AFTER_MS,
        tern_protocol::error::Retry::Never | tern_protocol::error::Retry::Reconnect => 0,
    };
    error_after(id, code, text, retry_after_ms)
}

/// The frame that refuses a send or a mark; `highest`: of the device's numbers, when that of the send is at fault.
pub fn refused(id: RequestId, code: ErrorCode, text: &str, highest: Option<ClientSeq>) -> Bytes {
    match highest {
        Some(client_seq) => frame(
            id,
            ServerBody::Error(WireError { code, text: text.to_owned(), retry_after_ms: 0, client_seq }),
        ),
        None => error(id, code, text),
    }
}

/// The frame that refuses somebody who sends, or asks, too often.
pub fn rate_limited(id: RequestId, wait_ms: u64) -> Bytes {
    let retry_after_ms = u32::try_from(wait_ms).unwrap_or(u32::MAX);
    let text = "this device, or this user, sends or asks more than is allowed here: slow down";
    error_after(id, ErrorCode::RateLimited, text, retry_after_ms)
}

fn error_after(id: RequestId, code: ErrorCode, text: &str, retry_after_ms: u32) -> Bytes {
    frame(
        id,
        ServerBody::Error(WireError {
            code,
            text: text.to_owned(),
            retry_after_ms,
            client_seq: ClientSeq(0),
        }),
    )
}

/// What a client reads beside the code when an owner refuses a request.
pub fn refusal(code: ErrorCode) -> &'static str {
    match code {
        ErrorCode::UnknownConversation => "there is no such conversation",
        ErrorCode::NotMember => "you are not a member of this group",
        ErrorCode::Forbidden => "your role in this group does not allow that",
        ErrorCode::ConversationExists => "a conversation with this id exists already: choose a random id",
        ErrorCode::TooManyMembers => "a group has at most 1024 members",
        ErrorCode::NoChange => "the group is already like that",
        ErrorCode::ClientSeqStale => {
            "client_seq is below one already stored for this device and conversation: take the next number"
        }
        ErrorCode::ClientSeqUsed => {
            "this device has sent something else under this client_seq: take a number above the highest"
        }
        ErrorCode::DuplicateTrimmed => {
            "an earlier try may have stored it, and that part of the log has been trimmed away"
        }
        ErrorCode::InvalidArgument => {
            "reply_to or a watermark is above the last entry, or member is yourself or nobody of this group (to go, leave), or \
             this is a direct chat, which takes messages only"
        }
        ErrorCode::Overloaded => "too much is waiting: try again later",
        ErrorCode::Unavailable => "the store takes nothing at present: try again later",
        ErrorCode::OutcomeUnknown => {
            "whether it was stored is not known: send it again with the same client_seq"
        }
        ErrorCode::Internal => "a fault of the server; its log says more",
        other => other.label(),
    }
}

/// The error that a failed query is told as. What the store says stays in the log.
pub fn query_error(error: &QueryError) -> ErrorCode {
    match error {
        QueryError::Unknown => ErrorCode::UnknownConversation,
        QueryError::NotMember => ErrorCode::NotMember,
        QueryError::Store(StoreError::TooOld | StoreError::Unavailable) => ErrorCode::Unavailable,
        QueryError::Store(StoreError::Failed(_) | StoreError::Corrupt(_)) => ErrorCode::Internal,
    }
}

/// The frame that tells a head.
pub fn head_moved(conversation: ConversationId, head: Seq) -> Bytes {
    frame(RequestId(0), ServerBody::HeadMoved { conversation, head })
}

/// The frames that tell watermarks.
pub fn notices(conversation: ConversationId, notices: Vec<Notice>) -> Vec<(UserId, Bytes)> {
    notices
        .into_iter()
        .map(|Notice { to, users, counts }| {
            let moved = ReceiptsMoved { conversation, users, counts };
            (to, frame(RequestId(0), ServerBody::ReceiptsMoved(moved)))
        })
        .collect()
}
