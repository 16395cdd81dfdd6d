//! News for connections on other nodes, by way of the homes of their users.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tern_core::cluster::LEASE_MS;
use tern_core::conversation::Publication;
use tern_core::routing::ShardId;
use tern_protocol::ids::{NodeId, UserId};
use tokio::sync::mpsc::error::TrySendError;
use tracing::debug;

use super::{Delivery, HomeMessage, Stage, View};
use crate::behind::{Forgotten, To};
use crate::mailbox::{Event, News};
use crate::shard::Shard;

/// Views differ for a moment: so often somebody looks for the home of a user, before it is taken to be where it was looked
/// for last.
const TRIES_MAX: u8 = 3;
/// For so long after nodes have come or gone, news go to all nodes and not by way of homes.
pub(super) const SETTLING_MS: u64 = LEASE_MS;
/// Logs of which a node that cannot be reached is to be told something; of more, it is told that it has missed something.
const BEHIND_MAX: usize = 64 * 1024;
/// Bytes of that, on each shard: whom to tell takes most of them.
const BEHIND_BYTES_MAX: usize = 16 << 20;

impl News {
    /// For these users only.
    fn only(&self, users: &[UserId]) -> Self {
        match self {
            Self::Publish(publication, stamp) => {
                let Publication { conversation, frames, .. } = &**publication;
                let (conversation, frames, audience) = (*conversation, frames.clone(), users.into());
                Self::Publish(Arc::new(Publication { conversation, frames, audience }), *stamp)
            }
            Self::HeadMoved { conversation, head, .. } => {
                Self::HeadMoved { conversation: *conversation, head: *head, audience: users.into() }
            }
            Self::Notify(frames) => {
                let theirs = frames.iter().filter(|(user, _)| users.binary_search(user).is_ok());
                Self::Notify(Arc::new(theirs.cloned().collect()))
            }
        }
    }

    /// Whom they are for, sorted, each once.
    fn users(&self) -> Vec<UserId> {
        match self {
            Self::Publish(publication, _) => publication.audience.to_vec(),
            Self::HeadMoved { audience, .. } => audience.to_vec(),
            Self::Notify(frames) => {
                let mut users: Vec<_> = frames.iter().map(|(user, _)| *user).collect();
                users.sort_unstable();
                users.dedup();
                users
            }
        }
    }
}

/// Groups users, keeping their order.
fn grouped<K: Ord>(users: Vec<UserId>, by: impl Fn(UserId) -> K) -> BTreeMap<K, Vec<UserId>> {
    let mut groups: BTreeMap<K, Vec<UserId>> = BTreeMap::new();
    users.into_iter().for_each(|user| groups.entry(by(user)).or_default().push(user));
    groups
}

impl Shard {
    /// Tells everybody who is connected to other nodes.
    pub fn tell_elsewhere(self: &Rc<Self>, news: News) {
        if self.view.borrow().peers.is_empty() {
            return;
        }
        let view = self.view.borrow().clone();
        let settled = self.view_changed.get().plus(SETTLING_MS);
        if self.now().mono < settled {
            // Others may not have heard yet which homes have moved, and so have not told those who is connected.
            for node in view.peers.keys() {
                self.tell_node(*node, Stage::Connections, news.clone());
            }
        } else {
            self.tell_homes(&view, &news, 1, view.me);
        }
    }

    fn tell_homes(self: &Rc<Self>, view: &View, news: &News, tries: u8, origin: NodeId) {
        for (home, users) in grouped(news.users(), |user| view.map.home(user)) {
            let news = news.only(&users);
            if home == view.me {
                self.tell_guests(news, origin);
            } else if view.up(home).is_some() {
                self.tell_node(home, Stage::Homes { tries, origin }, news);
            } else {
                // Nobody here knows where they are.
                if view.me != origin {
                    self.tell_here(&news);
                }
                for node in view.peers.keys().filter(|node| **node != origin) {
                    self.tell_node(*node, Stage::Connections, news.clone());
                }
            }
        }
    }

    /// From another node.
    pub fn on_arrived(self: &Rc<Self>, Delivery { stage, news }: Delivery) {
        let Stage::Homes { tries, origin } = stage else { return self.tell_here(&news) };
        self.tell_here(&news);
        self.tell_guests(news.clone(), origin);
        if tries >= TRIES_MAX {
            return;
        }
        // Whoever sent it may not have heard that these have another home now, and those there may have it from nobody else.
        let view = self.view.borrow().clone();
        let mut others = news.users();
        others.retain(|user| view.map.home(*user) != view.me);
        if !others.is_empty() {
            self.tell_homes(&view, &news.only(&others), tries.saturating_add(1), origin);
        }
    }

    /// Tells the nodes on which users are connected whose homes are on this node, but for `origin`.
    pub fn tell_guests(self: &Rc<Self>, news: News, origin: NodeId) {
        let slots = &self.node.slots;
        for (shard, users) in grouped(news.users(), |user| slots.home(user)) {
            if shard == self.id {
                self.tell_guests_here(&news.only(&users), origin);
            } else if self.node.guests(shard).load(Ordering::SeqCst) {
                self.tell_guests_of(shard, news.only(&users), origin);
            }
        }
    }

    /// Hands news to the shard that is the home of these users.
    pub fn tell_guests_of(self: &Rc<Self>, shard: ShardId, news: News, origin: NodeId) {
        if shard == self.id {
            return self.tell_guests_here(&news, origin);
        }
        let forward = Event::Forward(news, origin);
        if let Err(TrySendError::Full(Event::Forward(news, origin))) =
            self.node.mailbox(shard).events.try_send(forward)
        {
            self.fall_behind(To::Guests(shard, origin), news);
        }
    }

    fn tell_guests_here(self: &Rc<Self>, news: &News, origin: NodeId) {
        let me = self.view.borrow().me;
        let mut told: BTreeMap<NodeId, Vec<UserId>> = BTreeMap::new();
        {
            let home = self.home.borrow();
            for user in news.users() {
                let nodes = home.sessions(user).map(|at| at.node);
                for node in nodes.filter(|node| *node != me && *node != origin) {
                    let users = told.entry(node).or_default();
                    if users.last() != Some(&user) {
                        users.push(user);
                    }
                }
            }
        }
        for (node, users) in told {
            self.tell_node(node, Stage::Connections, news.only(&users));
        }
    }

    fn tell_node(self: &Rc<Self>, node: NodeId, stage: Stage, news: News) {
        let delivery = Delivery { stage, news };
        let now = self.now().mono;
        let unsent = match self.view.borrow().peers.get(&node) {
            Some(peer) if peer.is_up => match peer.link.waiting(now, delivery) {
                Ok(waiting) => match peer.lanes.news.try_send(waiting) {
                    Ok(()) => return,
                    Err(TrySendError::Full(unsent) | TrySendError::Closed(unsent)) => unsent.delivery,
                },
                Err(unsent) => unsent,
            },
            Some(_) => delivery,
            None => return,
        };
        self.fall_behind(To::Node(node, stage), unsent.news);
        let mut behind = self.behind.borrow_mut();
        let (heads, bytes) = behind.of_node(node);
        if heads > BEHIND_MAX || bytes > BEHIND_BYTES_MAX {
            let forgotten = behind.forget_node(node);
            drop(behind);
            forgotten.into_iter().for_each(|forgotten| self.lose(node, forgotten));
        }
    }

    /// Whoever was to hear of what a node is not told any more asks the store.
    fn lose(self: &Rc<Self>, node: NodeId, Forgotten { since, is_for_homes }: Forgotten) {
        let mut lost = self.lost.borrow_mut();
        let mut note = |node| {
            let before = lost.entry(node).or_insert(since);
            *before = since.min(*before);
        };
        note(node);
        if is_for_homes {
            // Only that node knew where they are connected.
            self.view.borrow().peers.keys().for_each(|node| note(*node));
            drop(lost);
            self.recheck_all(since);
        }
    }

    /// Tells nodes that too much was to be told to them: they ask the store.
    pub fn tell_lost(&self) {
        let lost = self.lost.take();
        for (node, since) in lost {
            if self.view.borrow().up(node).is_some() {
                self.to_home_elsewhere(node, HomeMessage::Lost(since));
            } else {
                self.lost.borrow_mut().insert(node, since);
            }
        }
    }

    /// A node has not been told of this.
    pub fn tell_again(self: &Rc<Self>, node: NodeId, stage: Stage, news: News) {
        match stage {
            // When it is gone, its connections are.
            Stage::Connections => self.tell_node(node, stage, news),
            Stage::Homes { .. } if self.view.borrow().up(node).is_some() => self.tell_node(node, stage, news),
            Stage::Homes { tries, origin } => {
                debug!(%node, "homes cannot be reached: others are told");
                let view = self.view.borrow().clone();
                self.tell_homes(&view, &news, tries, origin);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tern_core::routing::SlotMap;
    use tern_protocol::ids::{ConversationId, Seq};
    use tokio::sync::mpsc;
    use tokio::task::LocalSet;

    use super::*;
    use crate::clock::Stamp;
    use crate::cluster::link::LinkState;
    use crate::cluster::{Lanes, Peer};
    use crate::connection::tests::Alone;

    const OTHER: NodeId = NodeId(9);

    fn group(n: u32) -> ConversationId {
        ConversationId::group_from_random(u128::from(n).to_be_bytes())
    }

    fn head(conversation: ConversationId, head: u64, audience: &Arc<[UserId]>) -> News {
        News::HeadMoved { conversation, head: Seq(head), audience: audience.clone() }
    }

    #[tokio::test]
    async fn a_lower_head_that_is_given_back_does_not_replace_a_higher_one() {
        let turn = async {
            let shard = Alone::new().shard;
            let (one, two): (Arc<[UserId]>, Arc<[UserId]>) =
                (Arc::new([UserId::from_sub("alice")]), Arc::new([UserId::from_sub("bob")]));
            let to = To::Node(OTHER, Stage::Connections);
            let give_back = |news| {
                let delivery = Delivery { stage: Stage::Connections, news };
                shard.on_event(Event::Undelivered(OTHER, delivery));
            };
            let frames = |last: u64| (1..=last).map(|n| (Seq(n), bytes::Bytes::new())).collect();
            let entries = |last, audience: &Arc<[UserId]>| {
                let (frames, audience) = (frames(last), audience.clone());
                let publication = Publication { conversation: group(1), frames, audience };
                News::Publish(Arc::new(publication), Stamp::take())
            };
            let cases = [
                (head(group(1), 9, &one), vec![(9, &one)]),
                // What was on its way when the link broke is older than what could not be sent since.
                (head(group(1), 5, &one), vec![(9, &one)]),
                (entries(7, &one), vec![(9, &one)]),
                (entries(12, &one), vec![(12, &one)]),
                // Whoever has left with 13 is to hear of 13 and of nothing after it.
                (head(group(1), 13, &two), vec![(12, &one), (13, &two)]),
                (head(group(1), 11, &two), vec![(12, &one), (13, &two)]),
            ];
            for (news, expected) in cases {
                give_back(news);
                let mut behind = shard.behind.borrow_mut();
                let (_, heads) = behind.take(to).expect("a head");
                let told: Vec<_> = heads.iter().map(|(head, audience)| (head.get(), audience)).collect();
                assert_eq!(told, expected);
                let now = shard.now().wall;
                heads.into_iter().for_each(|(head, users)| behind.add(to, group(1), head, users, now));
            }
        };
        LocalSet::new().run_until(turn).await;
    }

    #[tokio::test]
    async fn a_node_for_which_too_much_waits_is_told_that_it_has_missed_something() {
        let turn = async {
            let shard = Alone::new().shard;
            let (requests, _requests) = mpsc::channel(1);
            let (news, _news) = mpsc::channel(1);
            let (homes, mut told) = mpsc::channel(8);
            let lanes = Lanes { requests, news, homes };
            let link = Arc::new(LinkState::new(shard.now().mono, 1));
            let view = |is_up| {
                let peer = Peer {
                    lanes: lanes.clone(),
                    link: link.clone(),
                    links: 1,
                    is_up,
                    clients: Arc::default(),
                };
                let map = SlotMap::new([NodeId(0), OTHER].into_iter());
                Arc::new(View { map, peers: [(OTHER, peer)].into(), ..View::alone(NodeId(0)) })
            };
            shard.on_view(view(false));
            let audience: Arc<[UserId]> = Arc::new([UserId::from_sub("alice")]);
            let begun = shard.now().wall;
            for n in 0..BEHIND_MAX as u32 {
                shard.tell_elsewhere(head(group(n), 1, &audience));
            }
            let behind = || shard.behind.borrow().of_node(OTHER).0;
            assert_eq!((behind(), shard.lost.borrow().len()), (BEHIND_MAX, 0));
            shard.tell_elsewhere(head(group(BEHIND_MAX as u32), 1, &audience));
            assert_eq!(behind(), 0, "no more is remembered than that");
            // It is told when there is a link, and once.
            shard.tell_lost();
            assert!(told.try_recv().is_err());
            shard.on_view(view(true));
            shard.tell_lost();
            shard.tell_lost();
            let Ok(HomeMessage::Lost(since)) = told.try_recv() else { panic!("it is not told") };
            assert!(since >= begun && told.try_recv().is_err());
        };
        LocalSet::new().run_until(turn).await;
    }

    #[tokio::test]
    async fn who_is_connected_elsewhere_is_looked_after_when_a_home_is_told_no_more() {
        const THIRD: NodeId = NodeId(10);
        let turn = async {
            let shard = Alone::new().shard;
            let peer = || Peer {
                lanes: Lanes {
                    requests: mpsc::channel(1).0,
                    news: mpsc::channel(1).0,
                    homes: mpsc::channel(1).0,
                },
                link: Arc::new(LinkState::new(shard.now().mono, 1)),
                links: 1,
                is_up: true,
                clients: Arc::default(),
            };
            let map = SlotMap::new([NodeId(0), OTHER, THIRD].into_iter());
            let peers = [(OTHER, peer()), (THIRD, peer())].into();
            shard.on_view(Arc::new(View { map, peers, ..View::alone(NodeId(0)) }));
            let audience: Arc<[UserId]> = Arc::new([UserId::from_sub("alice")]);
            let overflow = |stage, more: u32| {
                for n in 0..=BEHIND_MAX as u32 {
                    shard.tell_node(OTHER, stage, head(group(n + more), 1, &audience));
                }
                shard.lost.take().into_keys().collect::<Vec<_>>()
            };
            assert_eq!(overflow(Stage::Connections, 0), [OTHER]);
            let homes = Stage::Homes { tries: 1, origin: NodeId(0) };
            assert_eq!(overflow(homes, 0), [OTHER, THIRD], "alice may be connected there");
        };
        LocalSet::new().run_until(turn).await;
    }
}
