//! A shard's part in the cluster: where its connections are registered, and news for connections on other nodes.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tern_core::cluster::LEASE_MS;
use tern_core::conversation::Publication;
use tern_core::home::{Displaced, Located, Login, SessionId};
use tern_core::routing::ShardId;
use tern_core::time::MonoMillis;
use tern_protocol::error::ErrorCode;
use tern_protocol::ids::{ConversationId, DeviceId, NodeId, RequestId, UserId};
use tern_protocol::model::WallMillis;
use tern_store::ops::sync;
use tokio::sync::Notify;
use tokio::sync::mpsc::error::TrySendError;
use tokio::time::timeout;
use tracing::{debug, info, warn};

use super::{Delivery, HomeAt, HomeMessage, Peer, Stage, View};
use crate::connection::Conn;
use crate::fanout::{Handle, To};
use crate::mailbox::{Event, HomeRequest, News};
use crate::shard::Shard;

/// A first query waits for so long until the user's home knows of the connection; then it is answered, and the store is
/// asked again later.
const REGISTERED_WITHIN: Duration = Duration::from_millis(500);
/// When a connection may have missed something, the store is asked what has moved since so long before: the time of an
/// entry is that of another node's clock, which may be off, and what was stored last may have waited on its way.
const MISSED_MS: u64 = 60_000;
/// Users about whom a shard asks the store at once.
const RECHECKS_MAX: usize = 8;
/// Views differ for a moment: so often somebody looks for the home of a user, before it is taken to be where it was looked
/// for last.
const TRIES_MAX: u8 = 3;
/// For so long after nodes have come or gone, news go to all nodes and not by way of homes.
const SETTLING_MS: u64 = LEASE_MS;
/// A home that has moved goes on with what it knows for so long: others may not have heard that it has.
const FAREWELL_MS: u64 = 2 * LEASE_MS;
/// Logs of which a node that cannot be reached is to be told something; of more, it is told that it has missed something.
const BEHIND_MAX: usize = 64 * 1024;

/// Where a connection's user has their home, and whether it is known there.
#[derive(Debug)]
pub struct Registration {
    device: DeviceId,
    /// When it logged in, by this node's clock.
    since: WallMillis,
    at: HomeAt,
    /// Ready when the home knows; `None`: it does.
    waits: Option<Rc<Notify>>,
    /// Since when it may have missed something: its home was another one, or could not be reached, or queries were answered
    /// while no home knew of it.
    missed_since: Option<WallMillis>,
}

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

/// A connection that its user's former home is to forget.
#[derive(Debug)]
pub struct Farewell {
    due: MonoMillis,
    session: SessionId,
    user: UserId,
    home: NodeId,
}

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

// ---------------------------------------------------------------------------------------------- registrations

impl Shard {
    /// A device has logged in on a connection of this shard, or did so then and its user's home is another one now.
    pub fn register(
        self: &Rc<Self>,
        conn: &Rc<Conn>,
        user: UserId,
        device: DeviceId,
        since: Option<WallMillis>,
    ) {
        let (me, at) = {
            let view = self.view.borrow();
            (view.me, view.home(user))
        };
        let waits = (at.node != me).then(Rc::default);
        let again = since.is_some();
        let since = since.unwrap_or_else(|| self.node.login_time());
        let before = conn.registration.take();
        let now = self.now().wall;
        let missed_since = before.as_ref().map(|before| before.missed_since.unwrap_or(now));
        conn.registration.replace(Some(Registration { device, since, at, waits, missed_since }));
        if let Some(before) = before {
            let due = self.now().mono.plus(FAREWELL_MS);
            self.farewells.borrow_mut().push_back(Farewell {
                due,
                session: conn.id,
                user,
                home: before.at.node,
            });
            before.waits.iter().for_each(|waits| waits.notify_waiters());
        }
        if at.node != me {
            let login = Login { since, is_fresh: !again };
            return self.to_home_elsewhere(at.node, HomeMessage::Register(user, device, conn.id, login));
        }
        let here = Located { node: me, session: conn.id };
        let login = Login { since, is_fresh: !again };
        self.to_home(self.node.slots.home(user), HomeRequest::Register(user, device, here, login));
        if let Some(since) = missed_since {
            self.recheck(user, since);
        }
    }

    /// A connection has ended.
    pub fn unregister(self: &Rc<Self>, conn: &Conn, user: UserId) {
        if let Some(registration) = conn.registration.take() {
            self.leave_home(conn.id, user, registration.at.node);
        }
    }

    /// Takes connections out of homes that have not been those of their users for a while.
    pub fn say_farewells(self: &Rc<Self>) {
        let now = self.now().mono;
        while let Some(farewell) = self.farewells.borrow_mut().pop_front_if(|first| first.due <= now) {
            let Farewell { session, user, home, .. } = farewell;
            let conn = self.conns.borrow().get(&session.number).cloned();
            let is_home_again = conn
                .is_some_and(|conn| conn.registration.borrow().as_ref().is_some_and(|r| r.at.node == home));
            if !is_home_again {
                self.leave_home(session, user, home);
            }
        }
    }

    fn leave_home(self: &Rc<Self>, session: SessionId, user: UserId, home: NodeId) {
        let me = self.view.borrow().me;
        if home == me {
            let here = Located { node: me, session };
            self.to_home(self.node.slots.home(user), HomeRequest::Unregister(user, here));
        } else {
            self.to_home_elsewhere(home, HomeMessage::Unregister(user, session));
        }
    }

    /// Hands something to a home on another node, or from a home to another node. Without a link who is connected is not
    /// told: the next link begins with all of it.
    fn to_home_elsewhere(&self, node: NodeId, message: HomeMessage) {
        let view = self.view.borrow();
        let mut pending = self.homes_elsewhere.borrow_mut();
        let unsent = match (view.up(node), message) {
            // In order, as between shards.
            (Some(_), _) if pending.iter().any(|(other, _)| *other == node) => true,
            (Some(peer), _) => matches!(peer.lanes.homes.try_send(message), Err(TrySendError::Full(_))),
            (None, HomeMessage::Register(..) | HomeMessage::Unregister(..)) => false,
            // What it answers came over a link of which this shard has not heard yet.
            (None, _) => view.peers.contains_key(&node),
        };
        if unsent {
            pending.push_back((node, message));
        }
    }

    /// Hands over what did not fit before.
    pub fn tell_homes_again(&self) {
        let pending = self.homes_elsewhere.take();
        pending.into_iter().for_each(|(node, message)| self.to_home_elsewhere(node, message));
    }

    /// This shard is the home of a user: a device is connected there.
    pub fn on_register(self: &Rc<Self>, user: UserId, device: DeviceId, at: Located, login: Login) {
        let me = self.view.borrow().me;
        let goes = self.home.borrow_mut().register(user, device, at, login);
        if at.node != me {
            self.node.guests(self.id).store(true, Ordering::SeqCst);
            self.to_home_elsewhere(at.node, HomeMessage::Registered(at.session));
        }
        let Some(Displaced { at: Located { node, session }, is_certain }) = goes else { return };
        if node == me {
            self.to_home(session.shard, HomeRequest::Displace(session, is_certain));
        } else {
            self.to_home_elsewhere(node, HomeMessage::Displace(session, is_certain));
        }
    }

    /// The home of a connection's user knows of it.
    pub fn on_registered(self: &Rc<Self>, session: SessionId) {
        let Some(conn) = self.conns.borrow().get(&session.number).cloned() else { return };
        let mut registration = conn.registration.borrow_mut();
        let Some(registration) = &mut *registration else { return };
        if let Some(waits) = registration.waits.take() {
            waits.notify_waiters();
        }
        if let (Some(since), Some(user)) = (registration.missed_since.take(), conn.user.get()) {
            self.recheck(user, since);
        }
    }

    /// Ready when the home of a connection's user knows of it, so that all that is stored from now on is told to it, or
    /// when that takes too long.
    pub async fn registered(&self, conn: &Conn) {
        let waits = match &*conn.registration.borrow() {
            Some(Registration { waits: Some(waits), at, .. }) => {
                self.view.borrow().up(at.node).map(|_| Rc::clone(waits))
            }
            Some(Registration { waits: None, .. }) | None => return,
        };
        if let Some(waits) = waits {
            let _ = timeout(REGISTERED_WITHIN, waits.notified()).await;
        }
        if let Some(registration) = &mut *conn.registration.borrow_mut()
            && registration.waits.is_some()
        {
            registration.missed_since.get_or_insert(registration.since);
        }
    }

    /// The cluster has changed.
    pub fn on_view(self: &Rc<Self>, view: Arc<View>) {
        let before = self.view.replace(view.clone());
        let me = view.me;
        if before.map != view.map {
            self.view_changed.set(self.now().mono);
        }
        // What is to be told to nodes that are gone.
        self.homes_elsewhere.borrow_mut().retain(|(node, _)| view.peers.contains_key(node));
        self.lost.borrow_mut().retain(|node, _| view.peers.contains_key(node));
        let mut home = self.home.borrow_mut();
        // Who registers here may have heard before this shard that this is the home, and says so when it is no more.
        home.retain(|_, node| node == me || view.peers.contains_key(&node));
        self.node.guests(self.id).store(home.any(|node| node != me), Ordering::SeqCst);
        drop(home);
        // What others own now is loaded there, and the marks that are known here only are to be there by then.
        self.persist_soon.notify_one();
        if !self.persisting.get() {
            self.owners.borrow_mut().retain(|id, owner| view.map.owner(*id) == me || !owner.is_idle());
        }
        let conns: Vec<_> = self.conns.borrow().values().cloned().collect();
        for conn in conns.into_iter().filter(|conn| conn.is_open()) {
            let Some(user) = conn.user.get() else { continue };
            if let Some(registration) = &mut *conn.registration.borrow_mut()
                && registration.at.node != me
                && view.up(registration.at.node).is_none()
            {
                registration.missed_since.get_or_insert(self.now().wall);
            }
            let moved = match &*conn.registration.borrow() {
                Some(Registration { device, since, at, .. }) if *at != view.home(user) => {
                    Some((*device, *since))
                }
                _ => None,
            };
            if let Some((device, since)) = moved {
                self.register(&conn, user, device, Some(since));
            }
            self.send_away_if_cut_off(&conn);
        }
        // Before there was a link, the other node may not have known that there is somebody here to be told.
        let links = |view: &View, node| view.peers.get(node).map_or(0, |peer: &Peer| peer.links);
        let is_linked = view.peers.keys().any(|node| links(&view, node) > links(&before, node));
        if is_linked || view.departures > before.departures {
            self.recheck_all(self.now().wall);
        }
    }

    /// Closes a connection when this node serves nobody any more.
    pub fn send_away_if_cut_off(self: &Rc<Self>, conn: &Rc<Conn>) {
        if self.view.borrow().is_cut_off {
            let text = "this node cannot reach its store: connect to another one";
            self.close(conn, RequestId(0), ErrorCode::GoingAway, text.into());
        }
    }
}

// ---------------------------------------------------------------------------------------------- what was missed

impl Shard {
    /// News for a user may have been lost: the store is asked soon.
    fn recheck(self: &Rc<Self>, user: UserId, since: WallMillis) {
        let since = WallMillis(since.0.saturating_sub(MISSED_MS));
        self.recheck_later(user, since);
        self.recheck_some();
    }

    fn recheck_later(&self, user: UserId, since: WallMillis) {
        let mut rechecks = self.rechecks.borrow_mut();
        if let Some((_, known)) = rechecks.iter_mut().find(|(other, _)| *other == user) {
            *known = (*known).min(since);
        } else {
            rechecks.push_back((user, since));
        }
    }

    /// Asks the store for those whose homes cannot be reached: nobody tells this node of what is new for them.
    pub fn recheck_homeless(self: &Rc<Self>) {
        let view = self.view.borrow().clone();
        let conns: Vec<_> = self.conns.borrow().values().cloned().collect();
        for conn in conns.iter().filter(|conn| conn.is_open()) {
            let homeless = match &*conn.registration.borrow() {
                Some(Registration { at, missed_since: Some(since), .. }) if at.node != view.me => {
                    Some(*since).filter(|_| view.up(at.node).is_none())
                }
                _ => None,
            };
            if let (Some(since), Some(user)) = (homeless, conn.user.get()) {
                self.recheck(user, since);
            }
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
            let Some((user, since)) = self.rechecks.borrow_mut().pop_front() else { return };
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

// ---------------------------------------------------------------------------------------------- news

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

    fn tell_node(&self, node: NodeId, stage: Stage, news: News) {
        let delivery = Delivery { stage, news };
        let unsent = match self.view.borrow().peers.get(&node) {
            Some(peer) if peer.is_up => match peer.lanes.news.try_send(delivery) {
                Ok(()) => return,
                Err(TrySendError::Full(delivery) | TrySendError::Closed(delivery)) => delivery,
            },
            Some(_) => delivery,
            None => return,
        };
        self.fall_behind(To::Node(node, stage), unsent.news);
        let is_it = |to: &To| matches!(to, To::Node(other, _) if *other == node);
        let mut behind = self.behind.borrow_mut();
        if behind.len() > BEHIND_MAX && behind.keys().filter(|(to, _)| is_it(to)).count() > BEHIND_MAX {
            behind.retain(|(to, _), _| !is_it(to));
            let now = self.now().wall;
            self.lost.borrow_mut().entry(node).or_insert(now);
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
