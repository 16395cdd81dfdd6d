//! What requests that are no sends count as, against the limits of their device and their user.
//!
//! A unit is about 10 µs of a core. A request counts as one, and so does each row that has to be looked up for it, of the
//! request or of its answer (a watermark, a conversation, a member), and each KiB of either. Entries count by their bytes
//! alone: they lie side by side in the store.

use tern_protocol::event::ServerBody;
use tern_protocol::limits::SYNC_CONVERSATIONS_MAX;

use crate::session::{Effect, Query};

const PART_BYTES: usize = 1024;

/// A frame of so many bytes that a session has made this of. Sends have limits of their own; queries count when it is
/// their turn, except for their bytes.
pub fn of_frame(bytes: usize, effect: &Effect) -> u32 {
    let parts = bytes / PART_BYTES;
    let work = match effect {
        Effect::None | Effect::Verify(..) | Effect::LoggedIn(..) | Effect::Append { .. } => 0,
        Effect::Query(..) => parts,
        Effect::Mark { marks, .. } => 1 + parts + marks.len(),
        Effect::Heartbeat | Effect::Refuse(..) | Effect::Close(..) => 1 + parts,
    };
    counted(work)
}

/// A query that is about to be answered, without its answer.
pub fn of_query(query: &Query) -> u32 {
    let rows = match query {
        Query::Sync(sync) => sync.known.len().min(SYNC_CONVERSATIONS_MAX),
        Query::History(_) | Query::Conversations(_) | Query::Members(_) | Query::Receipts(_) => 0,
    };
    counted(1 + rows)
}

/// Rows of a query's answer.
pub fn rows_of_answer(body: &ServerBody) -> usize {
    match body {
        ServerBody::SyncPage(page) => page.conversations.len(),
        ServerBody::ConversationPage(page) => page.conversations.len(),
        ServerBody::MemberPage(page) => page.members.len(),
        ServerBody::ReceiptPage(page) => page.receipts.len(),
        ServerBody::HistoryPage(_)
        | ServerBody::Error(_)
        | ServerBody::LoginOk(_)
        | ServerBody::SendOk(_)
        | ServerBody::MarkOk
        | ServerBody::Push { .. }
        | ServerBody::HeadMoved { .. }
        | ServerBody::ReceiptsMoved(_)
        | ServerBody::GoingAway { .. }
        | ServerBody::Unknown => 0,
    }
}

/// An answer with so many rows, of so many bytes.
pub fn of_answer(rows: usize, bytes: usize) -> u32 {
    counted(rows + bytes / PART_BYTES)
}

/// What it costs to read a frame of so many bytes and to refuse it.
pub fn of_refusal(bytes: usize) -> u32 {
    counted(1 + bytes / PART_BYTES)
}

fn counted(work: usize) -> u32 {
    u32::try_from(work).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use tern_protocol::error::ErrorCode;
    use tern_protocol::ids::{ConversationId, DeviceId, RequestId, Seq, UserId};
    use tern_protocol::model::Sender;
    use tern_protocol::request::{History, HistoryFrom, Known, Mark, Sync};

    use super::*;

    fn sender() -> Sender {
        Sender { user: UserId::from_bytes([1; 16]), device: DeviceId::new(1).expect("not 0") }
    }

    fn conversation() -> ConversationId {
        ConversationId::group_from_random([1; 16])
    }

    #[test]
    fn frames() {
        let mark = Mark { conversation: conversation(), delivered: Seq(1), read: Seq(0) };
        let marks = |n| Effect::Mark { id: RequestId(1), sender: sender(), marks: vec![mark; n] };
        let refused = || Effect::Refuse(RequestId(1), ErrorCode::UnknownRequest, "no".into());
        let history =
            History { conversation: conversation(), from: HistoryFrom::Backward(None), limit: 1_000 };
        let query = Effect::Query(RequestId(1), sender().user, Query::History(history));
        for (effect, bytes, expected) in [
            (Effect::None, 1 << 20, 0),
            (Effect::Heartbeat, 0, 1),
            (marks(1), 30, 2),
            (marks(1_024), 25 * 1024, 1 + 25 + 1_024),
            (refused(), 10, 1),
            (refused(), 1 << 20, 1 + 1_024),
            (query, 40, 0),
        ] {
            assert_eq!(of_frame(bytes, &effect), expected, "{effect:?} of {bytes} bytes");
        }
    }

    #[test]
    fn queries_and_answers() {
        let known = Known {
            conversation: conversation(),
            seq: Seq(1),
            read: Seq(0),
            peer_delivered: Seq(0),
            peer_read: Seq(0),
        };
        let sync = |n| Query::Sync(Sync { known: vec![known; n], after: None, until: None, latest: None });
        assert_eq!([0, 63, 16_000].map(|n| of_query(&sync(n))), [1, 64, 4_097], "as many as are looked at");
        assert_eq!(of_answer(500, 512 * 1024), 1_012);
        assert_eq!(of_answer(usize::MAX / 2, 0), u32::MAX);
        assert_eq!([0, 1_023, 1 << 20].map(of_refusal), [1, 1, 1_025]);
        assert_eq!(rows_of_answer(&ServerBody::MarkOk), 0);
    }
}
