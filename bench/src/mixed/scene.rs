//! What the clients of a thread share, and how they are told what to do.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::Notify;

use super::plan::{Act, Plan, Step};
use super::service::Service;
use crate::clock;
use crate::stage::Stage;

/// Orders of one client that wait until it is back or less is unanswered; more are given up.
const ORDERS_MAX: usize = 1_024;
/// Orders that are given out before the clients get their turn.
const BATCH: usize = 64;

/// What the clients of a thread share.
#[derive(Debug)]
pub struct Scene {
    /// Phase and counters.
    pub stage: Rc<Stage>,
    /// The phase has changed, or everybody has finished.
    pub wake: Notify,
    /// Entries of a page of history.
    pub page: u32,
    /// This share of "delivered" says "read" as well.
    pub reads: f64,
    /// Who waits for the server, if that is of interest.
    pub service: Option<Arc<Service>>,
    unfinished: Cell<usize>,
}

impl Scene {
    /// With so many clients, none of whom has finished.
    pub fn new(
        stage: Rc<Stage>,
        page: u32,
        reads: f64,
        clients: usize,
        service: Option<Arc<Service>>,
    ) -> Rc<Self> {
        Rc::new(Self { stage, wake: Notify::new(), page, reads, service, unfinished: Cell::new(clients) })
    }

    /// One has: all its sends are answered, or will never be.
    pub fn finished(&self) {
        self.unfinished.set(self.unfinished.get().saturating_sub(1));
        if self.have_all_finished() {
            self.wake.notify_waiters();
        }
    }

    /// Whether nothing more is going to be stored.
    pub fn have_all_finished(&self) -> bool {
        self.unfinished.get() == 0
    }

    /// Waits until the run comes to its end.
    pub async fn end(&self) {
        while !self.stage.phase().is_end() {
            self.wake.notified().await;
        }
    }
}

/// Something that was to be done at this time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Order {
    /// When.
    pub due: u64,
    /// What.
    pub act: Act,
}

/// What one client is to do.
#[derive(Debug, Default)]
pub struct Orders {
    queue: RefCell<VecDeque<Order>>,
    /// There is something.
    pub wake: Notify,
}

impl Orders {
    /// One more. False: there are too many already.
    fn give(&self, order: Order) -> bool {
        let mut queue = self.queue.borrow_mut();
        let takes = queue.len() < ORDERS_MAX;
        if takes {
            queue.push_back(order);
            self.wake.notify_one();
        }
        takes
    }

    /// The next one.
    pub fn take(&self) -> Option<Order> {
        self.queue.borrow_mut().pop_front()
    }

    /// Forgets all, and says how many messages were among them.
    pub fn give_up(&self) -> u64 {
        let orders = std::mem::take(&mut *self.queue.borrow_mut());
        orders.iter().filter(|order| matches!(order.act, Act::Send(_))).count() as u64
    }
}

/// Gives out what is planned, each when it is due, from when there is to be load until the run comes to its end.
pub async fn direct(scene: &Scene, plan: Plan, clients: &[Rc<Orders>]) {
    let follow = async {
        while !scene.stage.phase().has_load() {
            scene.wake.notified().await;
        }
        let start = clock::nanos();
        for (given, Step { at, client, act }) in plan.enumerate() {
            let due = start + at;
            if due > clock::nanos() {
                tokio::time::sleep_until(clock::instant(due)).await;
            } else if given % BATCH == 0 {
                tokio::task::yield_now().await;
            }
            if !clients[client].give(Order { due, act }) {
                let unsent = u64::from(matches!(act, Act::Send(_)));
                scene.stage.meter.count(|interval| interval.unsent += unsent);
            }
        }
    };
    tokio::select! {
        () = follow => {}
        () = scene.end() => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_bounded() {
        let orders = Orders::default();
        let order = |room| Order { due: 7, act: Act::Send(room) };
        assert!((0..ORDERS_MAX).all(|room| orders.give(order(room))));
        assert!(!orders.give(order(0)));
        assert_eq!(orders.take(), Some(order(0)));
        assert!(orders.give(Order { due: 8, act: Act::LookBack(1, 1) }));
        assert_eq!(orders.give_up(), ORDERS_MAX as u64 - 1);
        assert_eq!(orders.take(), None);
    }
}
