//! A shard's connections are registered with the homes of their users, on whatever node these are; and what a shard does when the
//! cluster has changed.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tern_core::cluster::LEASE_MS;
use tern_core::home::{Displaced, Located, Login, SessionId};
use tern_core::time::MonoMillis;
use tern_protocol::ids::{DeviceId, NodeId, UserId};
use tern_protocol::model::WallMillis;
use tokio::sync::Notify;
use tokio::sync::mpsc::error::TrySendError;
use tokio::time::timeout;

use super::wire::FIRST_LOSSES;
use super::{HomeAt, HomeMessage, Peer, View};
use crate::connection::Conn;
use crate::mailbox::HomeRequest;
use crate::shard::Shard;

/// A first query waits for so long until the user's home knows of the connection; then it is answered, and the store is
/// asked again later.
const REGISTERED_WITHIN: Duration = Duration::from_millis(500);
/// A home that has moved goes on with what it knows for so long: others may not have heard that it has.
const FAREWELL_MS: u64 = 2 * LEASE_MS;

/// Where a connection's user has their home, and whether it is known there.
#[derive(Debug)]
pub struct Registration {
    device: DeviceId,
    /// When it logged in, by this node's clock.
    since: WallMillis,
    pub(super) at: HomeAt,
    /// Ready when the home knows; `None`: it does.
    waits: Option<Rc<Notify>>,
    /// Since when it may have missed something: its home was another one, or could not be reached, or queries were answered
    /// while no home knew of it.
    pub(super) missed_since: Option<WallMillis>,
}

/// A connection that its user's former home is to forget.
#[derive(Debug)]
pub struct Farewell {
    due: MonoMillis,
    session: SessionId,
    user: UserId,
    home: NodeId,
}

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
        let next = || self.farewells.borrow_mut().pop_front_if(|first| first.due <= now);
        while let Some(Farewell { session, user, home, .. }) = next() {
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
    pub(super) fn to_home_elsewhere(&self, node: NodeId, message: HomeMessage) {
        let view = self.view.borrow();
        let mut pending = self.homes_elsewhere.borrow_mut();
        let unsent = match (view.up(node), message) {
            // In order, as between shards.
            (Some(_), _) if pending.contains_key(&node) => true,
            (Some(peer), _) => matches!(peer.lanes.homes.try_send(message), Err(TrySendError::Full(_))),
            (None, HomeMessage::Register(..) | HomeMessage::Unregister(..)) => false,
            // What it answers came over a link of which this shard has not heard yet.
            (None, _) => view.peers.contains_key(&node),
        };
        if unsent {
            pending.entry(node).or_default().push_back(message);
        }
    }

    /// Hands over what did not fit before.
    pub fn tell_homes_again(&self) {
        for (node, messages) in self.homes_elsewhere.take() {
            messages.into_iter().for_each(|message| self.to_home_elsewhere(node, message));
        }
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
        self.homes_elsewhere.borrow_mut().retain(|node, _| view.peers.contains_key(node));
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
        // Before there was a link, the other node may not have known that there is somebody here to be told. From version 2 on it
        // says so itself: what it knew of it has kept, and those whose homes it has are registered again above.
        let links = |node| before.peers.get(node).map_or(0, |peer| peer.links);
        let is_silent = |peer: &Peer| peer.link.version().is_some_and(|version| version < FIRST_LOSSES);
        let is_linked = view.peers.iter().any(|(node, peer)| peer.links > links(node) && is_silent(peer));
        if view.departures > before.departures {
            self.recheck_departed();
        } else if is_linked {
            self.recheck_all(self.now().wall);
        }
    }
}
