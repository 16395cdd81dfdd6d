//! When a connection may have missed something, the store is asked which logs have moved.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;

use tern_core::time::MonoMillis;
use tern_protocol::ids::UserId;
use tern_protocol::model::WallMillis;
use tern_store::StoreError;
use tern_store::limits::TRANSACTION_LIFE_MS;
use tern_store::ops::sync;
use tracing::{info, warn};

use crate::fanout::Handle;
use crate::shard::Shard;

/// When a connection may have missed something, the store is asked what has moved since so long before: the time of an
/// entry is that of another node's clock, which may be off, and what was stored last may have waited on its way.
const MISSED_MS: u64 = 60_000;
/// Users about whom a shard asks the store at once.
const RECHECKS_MAX: usize = 8;

/// Users who may not have been told of what has been stored since then, in turns.
#[derive(Debug, Default)]
pub struct Rechecks {
    turns: VecDeque<UserId>,
    since: HashMap<UserId, WallMillis>,
    /// When all are to have another turn, and since when they may have missed something.
    again: Option<(MonoMillis, WallMillis)>,
    /// How often the store could not be asked since that was last told, and why not, the last time.
    failed: Option<(u64, StoreError)>,
}

impl Rechecks {
    /// How many there are.
    pub fn waiting(&self) -> usize {
        self.since.len()
    }

    fn fails(&mut self, error: StoreError) {
        let before = self.failed.take().map_or(0, |(times, _)| times);
        self.failed = Some((before + 1, error));
    }

    fn next(&mut self) -> Option<(UserId, WallMillis)> {
        let user = self.turns.pop_front()?;
        self.since.remove(&user).map(|since| (user, since))
    }
}

impl Shard {
    /// News for a user may have been lost: the store is asked soon.
    pub(super) fn recheck(self: &Rc<Self>, user: UserId, since: WallMillis) {
        let since = WallMillis(since.0.saturating_sub(MISSED_MS));
        self.recheck_later(user, since);
        self.recheck_some();
    }

    fn recheck_later(&self, user: UserId, since: WallMillis) {
        let mut rechecks = self.rechecks.borrow_mut();
        match rechecks.since.entry(user) {
            Entry::Occupied(mut known) => {
                let earlier = (*known.get()).min(since);
                known.insert(earlier);
            }
            Entry::Vacant(entry) => {
                entry.insert(since);
                rechecks.turns.push_back(user);
            }
        }
    }

    /// Asks the store while another node cannot be reached: that may own what somebody here waits for, or be their home, and
    /// nobody else tells this node.
    pub fn recheck_unlinked(self: &Rc<Self>) {
        if self.view.borrow().peers.values().all(|peer| peer.is_up) {
            return self.unlinked.set(None);
        }
        let now = self.now().wall;
        if self.rechecks.borrow().waiting() > 0 {
            // The look before is not done: the next one begins where that did.
            return self.unlinked.set(Some(self.unlinked.get().unwrap_or(now)));
        }
        // All since the last time.
        let since = self.unlinked.replace(Some(now)).unwrap_or(now);
        let users: Vec<_> = self.conns.borrow().values().filter_map(|conn| conn.user.get()).collect();
        users.into_iter().for_each(|user| self.recheck(user, since.min(now)));
    }

    /// A node has gone, and has not told what it had stored; what it had sent may still land, as long as a transaction lives.
    pub(super) fn recheck_departed(self: &Rc<Self>) {
        let now = self.now();
        self.recheck_all(now.wall);
        let again = &mut self.rechecks.borrow_mut().again;
        let since = again.map_or(now.wall, |(_, since)| since.min(now.wall));
        *again = Some((now.mono.plus(TRANSACTION_LIFE_MS), since));
    }

    /// Asks the store once more when nothing can land any more.
    pub fn recheck_again(self: &Rc<Self>) {
        let now = self.now().mono;
        let due = self.rechecks.borrow_mut().again.take_if(|(due, _)| *due <= now);
        if let Some((_, since)) = due {
            self.recheck_all(since);
        }
    }

    /// Tells, for all users together, that the store could not be asked.
    pub fn tell_failed_rechecks(&self) {
        let mut rechecks = self.rechecks.borrow_mut();
        if let Some((times, error)) = rechecks.failed.take() {
            let users = rechecks.waiting();
            warn!(shard = self.id.0, users, times, %error, "could not ask what may have been missed; it is tried again");
        }
    }

    /// News for everybody may have been lost since then.
    pub fn recheck_all(self: &Rc<Self>, since: WallMillis) {
        let conns: Vec<_> = self.conns.borrow().values().cloned().collect();
        let users: Vec<_> = conns.iter().filter_map(|conn| conn.user.get()).collect();
        if !users.is_empty() {
            info!(
                shard = self.id.0,
                connections = users.len(),
                "the store is asked what may have been missed"
            );
        }
        users.into_iter().for_each(|user| self.recheck(user, since));
    }

    /// Asks the store about a few users at a time.
    pub fn recheck_some(self: &Rc<Self>) {
        while self.rechecking.get() < RECHECKS_MAX {
            let Some((user, since)) = self.rechecks.borrow_mut().next() else { return };
            if self.local.borrow().of(user).is_empty() {
                continue;
            }
            self.rechecking.set(self.rechecking.get() + 1);
            let shard = self.clone();
            self.spawn(async move {
                let moved = sync::moved_since(&*shard.node.kv, user, since).await;
                shard.rechecking.set(shard.rechecking.get() - 1);
                match moved {
                    Ok(moved) => {
                        for (conversation, head) in moved {
                            for Handle(conn) in shard.local.borrow().of(user) {
                                conn.head_moved(conversation, head, shard.metrics());
                            }
                        }
                        shard.recheck_some();
                    }
                    Err(error) => {
                        shard.rechecks.borrow_mut().fails(error);
                        // At the next tick, behind the others.
                        shard.recheck_later(user, since);
                    }
                }
            });
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use tern_protocol::event::{ServerBody, ServerMessage};
    use tern_protocol::ids::{ClientSeq, ConversationId, NodeId, Seq};
    use tern_protocol::model::{Change, Message, Target};
    use tern_protocol::request::{ListConversations, RequestBody, Send};
    use tern_store::memory::Memory;
    use tokio::task::LocalSet;
    use tokio::time::{Duration, timeout};

    use super::*;
    use crate::cluster::View;
    use crate::connection::tests::{Alone, answered, told};

    /// Bob sends to alice by a server of which hers does not know.
    pub(in crate::cluster) async fn sends_unheard(store: &Memory) -> impl Fn(&ServerMessage) -> bool + use<> {
        let [alice, bob] = ["alice", "bob"].map(UserId::from_sub);
        let elsewhere = Alone::on(store.clone());
        let payload = Bytes::from_static(b"are you there?");
        let change = Change::Message(Message { content_type: String::new(), payload, reply_to: None });
        let send = Send { target: Target::User(alice), client_seq: ClientSeq(1), change };
        let mut sender = elsewhere.client("bob", [RequestBody::Send(send)]).await;
        answered(&mut sender, 2).await;
        let chat = ConversationId::direct(alice, bob);
        move |message: &ServerMessage| {
            matches!(message.body, ServerBody::HeadMoved { conversation, head }
                if conversation == chat && head == Seq(1))
        }
    }

    #[tokio::test]
    async fn what_a_dead_node_has_sent_is_found_although_it_lands_late() {
        let turn = async {
            let store = Memory::new();
            let here = Alone::on(store.clone());
            let list = RequestBody::ListConversations(ListConversations { after: None, limit: 1 });
            let mut client = here.client("alice", [list]).await;
            answered(&mut client, 2).await;
            let gone = here.shard.now().mono;
            here.shard.on_view(Arc::new(View { departures: 1, ..View::alone(NodeId(0)) }));
            // The store is asked, and has nothing.
            while here.shard.rechecking.get() > 0 {
                tokio::task::yield_now().await;
            }
            let is_told = sends_unheard(&store).await;
            {
                let mut rechecks = here.shard.rechecks.borrow_mut();
                let (due, _) = rechecks.again.as_mut().expect("it is asked again");
                assert!(*due >= gone.plus(TRANSACTION_LIFE_MS));
                *due = here.shard.now().mono;
            }
            told(&mut client, is_told).await;
        };
        let waited = LocalSet::new().run_until(timeout(Duration::from_secs(60), turn)).await;
        waited.expect("alice is told of what is in the store");
    }
}
