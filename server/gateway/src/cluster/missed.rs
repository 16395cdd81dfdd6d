//! When a connection may have missed something, the store is asked which logs have moved.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;

use tern_protocol::ids::UserId;
use tern_protocol::model::WallMillis;
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
}

impl Rechecks {
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
        // All since the last time.
        let since = self.unlinked.replace(Some(now)).unwrap_or(now);
        let users: Vec<_> = self.conns.borrow().values().filter_map(|conn| conn.user.get()).collect();
        users.into_iter().for_each(|user| self.recheck(user, since.min(now)));
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
                        warn!(%user, %error, "could not ask what may have been missed; it is tried again");
                        // At the next tick, behind the others.
                        shard.recheck_later(user, since);
                    }
                }
            });
        }
    }
}
