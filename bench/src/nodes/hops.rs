//! How often messages go from node to node, by who is where and who owns what.

use std::collections::BTreeSet;

use tern_core::routing::SlotMap;
use tern_protocol::ids::{ConversationId, NodeId, UserId};

/// A member of a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Who.
    pub user: UserId,
    /// Where they are connected.
    pub node: NodeId,
}

/// What goes over links, when all who send do so equally often. Watermarks and receipts are not counted.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Hops {
    /// Of the sends: those that come in on another node than the owner's.
    pub sends_forwarded: f64,
    /// Of the deliveries: those to clients on another node than the owner's.
    pub deliveries_crossed: f64,
    /// Links that a message crosses on its way to the owner, as an answer, and as news by way of homes.
    pub links_per_message: f64,
}

impl Hops {
    /// In these conversations, of each of whose members the first so many send.
    pub fn of<'a>(
        conversations: impl IntoIterator<Item = (ConversationId, &'a [Place])>,
        senders: usize,
        map: &SlotMap<NodeId>,
    ) -> Self {
        let (mut sends, mut forwarded, mut deliveries, mut crossed, mut links) = (0, 0, 0, 0, 0);
        for (conversation, members) in conversations {
            let owner = map.owner(conversation);
            let is_away = |place: &&Place| place.node != owner;
            let away = members.iter().filter(is_away).count();
            let news = news(members, owner, map);
            for sender in &members[..senders.min(members.len())] {
                let comes_from_away = usize::from(is_away(&sender));
                sends += 1;
                forwarded += comes_from_away;
                deliveries += members.len() - 1;
                crossed += away - comes_from_away;
                links += 2 * comes_from_away + news;
            }
        }
        let share = |part: usize, whole: usize| part as f64 / whole.max(1) as f64;
        Self {
            sends_forwarded: share(forwarded, sends),
            deliveries_crossed: share(crossed, deliveries),
            links_per_message: share(links, sends),
        }
    }
}

/// Links that one piece of news crosses: from the owner to the homes of all members, and from each to where these are
/// connected. Homes leave the owner's own connections to the owner.
fn news(members: &[Place], owner: NodeId, map: &SlotMap<NodeId>) -> usize {
    let homes = members.iter().map(|member| map.home(member.user)).filter(|home| *home != owner);
    let told = members.iter().map(|member| (map.home(member.user), member.node));
    let told = told.filter(|(home, node)| node != home && *node != owner);
    homes.collect::<BTreeSet<_>>().len() + told.collect::<BTreeSet<_>>().len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids() -> impl Iterator<Item = UserId> {
        (0..10_000).map(|number| UserId::from_sub(&format!("user {number}")))
    }

    /// The links that a direct chat crosses between somebody at home on one of these nodes and somebody at home on the other,
    /// who are connected to the next two.
    fn check([owner, one_home, other_home, one, other]: [u64; 5], expected: Hops) {
        let map = SlotMap::new([1, 2, 3].map(NodeId).into_iter());
        let at_home = |home: u64| {
            let map = &map;
            ids().filter(move |user| map.home(*user) == NodeId(home))
        };
        let first = at_home(one_home).next().expect("one of them");
        let owned = |user: &UserId| map.owner(ConversationId::direct(first, *user)) == NodeId(owner);
        let second = at_home(other_home).find(|user| *user != first && owned(user)).expect("one of them");
        let members = [Place { user: first, node: NodeId(one) }, Place { user: second, node: NodeId(other) }];
        let hops = Hops::of([(ConversationId::direct(first, second), &members[..])], 2, &map);
        assert_eq!(
            hops, expected,
            "owner {owner}, homes {one_home}, {other_home}, connected to {one}, {other}"
        );
    }

    #[test]
    fn links_are_counted_by_who_is_where() {
        let hops = |sends_forwarded, deliveries_crossed, links_per_message| Hops {
            sends_forwarded,
            deliveries_crossed,
            links_per_message,
        };
        check([1, 1, 1, 1, 1], hops(0.0, 0.0, 0.0));
        // One of two sends is forwarded and answered; the other one's home tells that node.
        check([1, 1, 1, 1, 2], hops(0.5, 0.5, 2.0));
        // Homes are told whoever is connected, and leave the owner's connections alone.
        check([1, 2, 3, 1, 1], hops(0.0, 0.0, 2.0));
        // The home is where the connection is.
        check([1, 2, 3, 2, 3], hops(1.0, 1.0, 4.0));
        check([1, 2, 3, 3, 2], hops(1.0, 1.0, 6.0));
        check([1, 2, 2, 3, 3], hops(1.0, 1.0, 4.0));
    }
}
