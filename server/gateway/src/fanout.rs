//! Delivers events to the connections of this shard, and hands them to the other shards.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tern_core::conversation::Publication;
use tern_core::routing::ShardId;
use tern_protocol::ids::{ConversationId, Seq, UserId};
use tokio::sync::mpsc::error::TrySendError;

use crate::behind::To;
use crate::clock::Stamp;
use crate::cluster::Stage;
use crate::connection::Conn;
use crate::mailbox::{Event, News};
use crate::metrics::shard::Dropped;
use crate::shard::Shard;

/// Conversations whose heads each of those who are behind is told at one tick.
const CATCH_UP_MAX: usize = 1_024;

/// A connection in the shard's index of who is here.
pub struct Handle(pub Rc<Conn>);

impl PartialEq for Handle {
    fn eq(&self, other: &Self) -> bool {
        Rc::ptr_eq(&self.0, &other.0)
    }
}

impl Shard {
    /// Tells everybody, after what they are told has become durable.
    pub fn tell_all(self: &Rc<Self>, news: News) {
        self.tell_here(&news);
        self.tell_elsewhere(news);
    }

    /// Tells everybody who is connected to this node.
    ///
    /// Shards on which nobody is logged in are left out. That is safe: a connection is counted before its first
    /// request is taken up, so a sync that follows finds what was durable by now.
    pub fn tell_here(self: &Rc<Self>, news: &News) {
        for shard in self.node.shards() {
            if shard == self.id {
                self.on_news(news.clone());
            } else if self.node.online(shard).load(Ordering::SeqCst) > 0 {
                self.tell(shard, news.clone());
            }
        }
    }

    fn tell(&self, shard: ShardId, news: News) {
        if let Err(TrySendError::Full(Event::News(news))) =
            self.node.mailbox(shard).events.try_send(Event::News(news))
        {
            self.fall_behind(To::Shard(shard), news);
        }
    }

    /// A mailbox is full, or a node cannot be reached: entries become the head, to be told again at a later tick.
    pub fn fall_behind(&self, to: To, news: News) {
        let (conversation, head, audience) = match news {
            News::Publish(publication, _) => {
                let has_link = match to {
                    To::Shard(_) | To::Guests(..) => true,
                    To::Node(node, _) => self.view.borrow().up(node).is_some(),
                };
                let metrics = self.metrics();
                let count =
                    if has_link { metrics.drops.of(Dropped::MailboxFull) } else { &metrics.news_unsent };
                count.add(publication.frames.len() as u64);
                let Some((seq, _)) = publication.frames.last() else { return };
                (publication.conversation, *seq, publication.audience.clone())
            }
            News::HeadMoved { conversation, head, audience } => (conversation, head, audience),
            // Receipts may be lost: the next ones say more, and a sync says all.
            News::Notify(frames) => {
                self.metrics().drops.of(Dropped::ReceiptsMailboxFull).add(frames.len() as u64);
                return;
            }
        };
        let now = self.now().wall;
        self.behind.borrow_mut().add(to, conversation, head, audience, now);
    }

    /// Tells again what did not fit before, as far as there is room now.
    pub fn catch_up(self: &Rc<Self>) {
        let whom = self.behind.borrow().whom();
        for to in whom {
            for _ in 0..CATCH_UP_MAX {
                if !self.has_room(to) {
                    break;
                }
                let Some((conversation, heads)) = self.behind.borrow_mut().take(to) else { break };
                for (head, audience) in heads {
                    let news = News::HeadMoved { conversation, head, audience };
                    match to {
                        To::Shard(shard) => self.tell(shard, news),
                        To::Guests(shard, origin) => self.tell_guests_of(shard, news, origin),
                        To::Node(node, stage) => self.tell_again(node, stage, news),
                    }
                }
            }
        }
    }

    fn has_room(&self, to: To) -> bool {
        match to {
            To::Shard(shard) | To::Guests(shard, _) => self.node.mailbox(shard).events.capacity() > 0,
            To::Node(node, stage) => match self.view.borrow().peers.get(&node) {
                Some(peer) if peer.is_up => peer.lanes.news.capacity() > 0,
                // Others are told instead when it is a home.
                Some(_) => stage != Stage::Connections,
                None => true,
            },
        }
    }

    /// Something for the connections of this shard, or to be passed on.
    pub fn on_event(self: &Rc<Self>, event: Event) {
        match event {
            Event::News(news) => self.on_news(news),
            Event::Arrived(delivery) => self.on_arrived(delivery),
            Event::Forward(news, origin) => self.tell_guests(news, origin),
            Event::Undelivered(node, delivery) => {
                self.fall_behind(To::Node(node, delivery.stage), delivery.news)
            }
        }
    }

    fn on_news(&self, news: News) {
        match news {
            News::Publish(publication, durable) => self.deliver(&publication, durable),
            News::HeadMoved { conversation, head, audience } => {
                self.deliver_head(conversation, head, &audience)
            }
            News::Notify(frames) => {
                let local = self.local.borrow();
                let mut waiting = self.receipts_wait.borrow_mut();
                for (user, frame) in frames.iter() {
                    for Handle(conn) in local.of(*user) {
                        if conn.receipt(frame, self.metrics()) {
                            waiting.push(conn.clone());
                        }
                    }
                }
            }
        }
    }

    /// Writes the receipts that nothing else has taken along.
    pub fn write_receipts(&self) {
        self.receipts_wait.take().into_iter().for_each(|conn| conn.write_soon());
    }

    fn deliver(&self, publication: &Arc<Publication>, durable: Stamp) {
        self.local.borrow().each(&publication.audience, |conn| {
            for (seq, frame) in &publication.frames {
                conn.0.push(publication.conversation, *seq, frame, durable, self.metrics());
            }
        });
    }

    fn deliver_head(&self, conversation: ConversationId, head: Seq, audience: &[UserId]) {
        self.local.borrow().each(audience, |conn| conn.0.head_moved(conversation, head, self.metrics()));
    }
}
