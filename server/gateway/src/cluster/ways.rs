//! Sends of one conversation go one way at a time.

use tern_protocol::ids::{ConversationId, NodeId, RequestId};

use super::View;
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

    /// The same for the node that is asked as the cluster looks now. Also while nobody else is there: the leases of all others
    /// may have lapsed for a moment only, and what waits here meanwhile is under way.
    fn take_in(&mut self, view: &View, id: RequestId, conversation: ConversationId) -> bool {
        !view.in_cluster || self.take(id, conversation, view.asked(conversation))
    }

    /// A send is answered.
    pub fn answered(&mut self, id: RequestId) {
        self.0.retain(|(other, ..)| *other != id);
    }
}

impl Shard {
    /// Whether a send may go to the conversation's owner now. The next ones may when those before have been answered.
    pub fn take_way(&self, conn: &Conn, id: RequestId, conversation: ConversationId) -> bool {
        conn.ways.borrow_mut().take_in(&self.view.borrow(), id, conversation)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tern_core::routing::SlotMap;
    use tern_core::time::MonoMillis;
    use tokio::sync::mpsc::channel;

    use super::*;
    use crate::cluster::{Lanes, LinkState, Peer};

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

    #[test]
    fn what_waits_here_is_under_way_when_the_others_come_back() {
        let [here, there] = [1, 2].map(NodeId);
        let lanes = || Lanes { requests: channel(1).0, news: channel(1).0, homes: channel(1).0 };
        let peer = || Peer {
            lanes: lanes(),
            link: Arc::new(LinkState::new(MonoMillis(0), 1)),
            links: 1,
            is_up: true,
            clients: Arc::default(),
        };
        let alone = View::alone(here);
        let view = View {
            map: SlotMap::new([here, there].into_iter()),
            peers: [(there, peer())].into(),
            ..View::alone(here)
        };
        let far = (0..64).map(|n| ConversationId::from_bytes([n; 16])).find(|id| view.asked(*id) == there);
        let far = far.expect("it owns half of them");
        let mut ways = Ways::default();
        assert!(ways.take_in(&alone, RequestId(1), far));
        assert!(!ways.take_in(&view, RequestId(2), far), "the first is still under way here");
        ways.answered(RequestId(1));
        assert!(ways.take_in(&view, RequestId(3), far));
        // A node to which no others can come has nothing to note.
        let mut ways = Ways::default();
        assert!(ways.take_in(&View::single(), RequestId(1), far) && ways.0.is_empty());
    }
}
