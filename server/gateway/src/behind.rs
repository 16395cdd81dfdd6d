//! Heads that could not be told yet: for whom, and how far each log is.

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Unbounded};
use std::sync::Arc;

use tern_core::routing::ShardId;
use tern_protocol::ids::{ConversationId, NodeId, Seq, UserId};
use tern_protocol::model::WallMillis;

use crate::cluster::Stage;

/// Changes of a conversation's members, one after the other, that a full mailbox may delay. Beyond, those who left with
/// the oldest find out when they ask.
const AUDIENCES_MAX: usize = 64;
/// What a head costs beside its audience.
const HEAD_BYTES: usize = 96;

/// For whom news are that could not be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum To {
    /// The connections of a shard.
    Shard(ShardId),
    /// The nodes on which users are connected whose homes are on a shard, but for the one where it came from.
    Guests(ShardId, NodeId),
    /// Another node.
    Node(NodeId, Stage),
}

/// A head, and whom to tell.
pub type Head = (Seq, Arc<[UserId]>);

fn bytes((_, audience): &Head) -> usize {
    HEAD_BYTES + size_of_val(&**audience)
}

/// For one of these.
#[derive(Debug, Default)]
struct Queue {
    /// Whoever left with an entry is in the audience of that entry and in none after it, so audiences are kept apart.
    heads: BTreeMap<ConversationId, Vec<Head>>,
    bytes: usize,
    /// Since when there has been one.
    since: WallMillis,
    /// The conversation that was taken last: the ones behind it have their turn.
    last: Option<ConversationId>,
}

impl Queue {
    fn take(&mut self) -> Option<(ConversationId, Vec<Head>)> {
        let after = self.last.and_then(|last| self.heads.range((Excluded(last), Unbounded)).next());
        let (id, _) = after.or_else(|| self.heads.first_key_value())?;
        let id = *id;
        let heads = self.heads.remove(&id)?;
        self.bytes -= heads.iter().map(bytes).sum::<usize>();
        self.last = Some(id);
        Some((id, heads))
    }
}

/// What a node is not told any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forgotten {
    /// Since when the oldest of it had waited.
    pub since: WallMillis,
    /// Some was for users whose home that node is, wherever they are connected.
    pub is_for_homes: bool,
}

/// All of a shard.
#[derive(Debug, Default)]
pub struct Behind(BTreeMap<To, Queue>);

impl Behind {
    /// One more: at most one for each conversation and each of its audiences.
    pub fn add(
        &mut self,
        to: To,
        conversation: ConversationId,
        head: Seq,
        audience: Arc<[UserId]>,
        now: WallMillis,
    ) {
        let queue = self.0.entry(to).or_default();
        if queue.heads.is_empty() {
            queue.since = now;
        }
        let heads = queue.heads.entry(conversation).or_default();
        match heads.last_mut() {
            Some((last, same)) if *same == audience => *last = (*last).max(head),
            _ => {
                let new = (head, audience);
                queue.bytes += bytes(&new);
                heads.push(new);
            }
        }
        if heads.len() > AUDIENCES_MAX {
            queue.bytes -= bytes(&heads.remove(0));
        }
    }

    /// Who is behind.
    pub fn whom(&self) -> Vec<To> {
        self.0.keys().copied().collect()
    }

    /// Takes the heads of one conversation; they take turns.
    pub fn take(&mut self, to: To) -> Option<(ConversationId, Vec<Head>)> {
        let taken = self.0.get_mut(&to)?.take();
        if taken.is_none() {
            self.0.remove(&to);
        }
        taken
    }

    /// Conversations of which a node is to be told, and the bytes of that.
    pub fn of_node(&self, node: NodeId) -> (usize, usize) {
        self.queues_of(node)
            .fold((0, 0), |(count, bytes), (_, queue)| (count + queue.heads.len(), bytes + queue.bytes))
    }

    /// A node is not to be told of anything any more. `None`: there was nothing.
    pub fn forget_node(&mut self, node: NodeId) -> Option<Forgotten> {
        let whom: Vec<_> = self.queues_of(node).map(|(to, _)| *to).collect();
        let is_for_homes = whom.iter().any(|to| matches!(to, To::Node(_, Stage::Homes { .. })));
        let forgotten =
            whom.iter().filter_map(|to| self.0.remove(to)).filter(|queue| !queue.heads.is_empty());
        let since = forgotten.map(|queue| queue.since).min()?;
        Some(Forgotten { since, is_for_homes })
    }

    fn queues_of(&self, node: NodeId) -> impl Iterator<Item = (&To, &Queue)> {
        let is_its = move |to: &To| matches!(to, To::Node(other, _) if *other == node);
        self.0.range(To::Node(node, Stage::Connections)..).take_while(move |(to, _)| is_its(to))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: WallMillis = WallMillis(7);

    fn id(n: u8) -> ConversationId {
        ConversationId::from_bytes([n; 16])
    }

    fn users(count: u8) -> Arc<[UserId]> {
        (0..count).map(|n| UserId::from_bytes([n; 16])).collect()
    }

    #[test]
    fn a_conversation_has_one_head_for_each_audience_and_all_have_their_turn() {
        let mut behind = Behind::default();
        let to = To::Shard(ShardId(1));
        for n in 1..=3 {
            behind.add(to, id(n), Seq(4), users(2), AT);
            behind.add(to, id(n), Seq(3), users(2), AT);
            behind.add(to, id(n), Seq(5), users(1), AT);
        }
        let taken = behind.take(to).expect("three");
        assert_eq!(taken, (id(1), vec![(Seq(4), users(2)), (Seq(5), users(1))]));
        behind.add(to, id(1), Seq(9), users(1), AT);
        let order: Vec<_> = std::iter::from_fn(|| behind.take(to)).map(|(id, _)| id).collect();
        assert_eq!(order, [id(2), id(3), id(1)], "what came back waits for the others");
        assert!(behind.whom().is_empty());
        for n in 0..=AUDIENCES_MAX as u8 {
            behind.add(to, id(1), Seq(n.into()), users(n), AT);
        }
        let (_, heads) = behind.take(to).expect("one");
        assert_eq!((heads.len(), heads[0].0), (AUDIENCES_MAX, Seq(1)));
    }

    #[test]
    fn what_a_node_is_to_be_told_is_counted_and_forgotten() {
        let mut behind = Behind::default();
        let homes = |tries| Stage::Homes { tries, origin: NodeId(u64::MAX) };
        let [one, other] = [NodeId(1), NodeId(2)];
        let all = [
            To::Guests(ShardId(0), one),
            To::Node(one, Stage::Connections),
            To::Node(one, homes(1)),
            To::Node(one, homes(3)),
            To::Node(other, Stage::Connections),
        ];
        for to in all {
            for n in 1..=2 {
                behind.add(to, id(n), Seq(1), users(10), AT);
            }
        }
        assert_eq!(behind.of_node(one), (6, 6 * (HEAD_BYTES + 160)));
        let _ = behind.take(all[2]);
        assert_eq!(behind.of_node(one), (5, 5 * (HEAD_BYTES + 160)));
        behind.add(all[1], id(3), Seq(1), users(1), WallMillis(9));
        let forgotten = behind.forget_node(one);
        assert_eq!(forgotten, Some(Forgotten { since: AT, is_for_homes: true }), "since the oldest");
        assert_eq!(behind.forget_node(one), None);
        // When all has been told, what comes then is the oldest.
        let connections = To::Node(one, Stage::Connections);
        behind.add(connections, id(1), Seq(1), users(1), AT);
        let _ = behind.take(connections);
        behind.add(connections, id(1), Seq(1), users(1), WallMillis(9));
        let forgotten = behind.forget_node(one);
        assert_eq!(forgotten, Some(Forgotten { since: WallMillis(9), is_for_homes: false }));
        assert_eq!((behind.of_node(one), behind.of_node(other).0), ((0, 0), 2));
        assert_eq!(behind.whom(), [all[0], all[4]]);
    }
}
