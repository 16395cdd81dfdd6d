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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conversation_has_one_way_until_all_is_answered() {
        let [one, other] = [1, 2].map(|n| ConversationId::from_bytes([n; 16]));
        let [near, far] = [1, 2].map(NodeId);
        let mut ways = Ways::default();
        let mut take = |id, conversation, node| ways.take(RequestId(id), conversation, node);
        assert!(take(1, one, far) && take(2, one, far), "any number to the same node");
        assert!(!take(3, one, near), "the owner is another one now");
        assert!(take(4, other, near), "another conversation");
        ways.answered(RequestId(1));
        assert!(!ways.take(RequestId(5), one, near), "one is still under way");
        ways.answered(RequestId(2));
        // What was refused is not under way.
        assert!(ways.take(RequestId(6), one, near) && !ways.take(RequestId(7), one, far));
    }
}
