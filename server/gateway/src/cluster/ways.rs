//! Sends of one conversation go one way at a time.

use tern_protocol::ids::{ConversationId, NodeId, RequestId};

use crate::connection::Conn;
use crate::shard::Shard;

/// Sends of a connection that are under way, and to which nodes. The owner of a conversation may change meanwhile: what is
/// sent to the new one before the old one has answered could be stored first, and the earlier send would come too late.
#[derive(Debug, Default)]
pub struct Ways(Vec<(RequestId, ConversationId, NodeId)>);

impl Ways {
    /// Whether a send may go to this node now: no earlier one of its conversation is under way to another.
    fn take(&mut self, id: RequestId, conversation: ConversationId, node: NodeId) -> bool {
        let is_free = !self.0.iter().any(|(_, other, to)| *other == conversation && *to != node);
        if is_free {
            self.0.push((id, conversation, node));
        }
        is_free
    }

    /// A send is answered.
    pub fn answered(&mut self, id: RequestId) {
        self.0.retain(|(other, ..)| *other != id);
    }
}

impl Shard {
    /// Whether a send may go to the conversation's owner now. The next ones may when those before have been answered.
    pub fn take_way(&self, conn: &Conn, id: RequestId, conversation: ConversationId) -> bool {
        let view = self.view.borrow();
        view.peers.is_empty() || conn.ways.borrow_mut().take(id, conversation, view.asked(conversation))
    }
}
