//! A QUIC connection of the shard: quinn-proto's state machine, and who waits for it.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Instant;

use bytes::Bytes;
use quinn_proto::{ConnectionHandle, Dir, StreamEvent, StreamId, VarInt};

use super::stream::{RecvStream, SendStream};
use crate::limits::Place;

/// What the driver and all connections of a shard share.
#[derive(Default)]
pub(super) struct Shared {
    /// Connections that may have something to send.
    touched: RefCell<VecDeque<Rc<Link>>>,
    driver: RefCell<Option<Waker>>,
}

impl Shared {
    /// The driver is woken when a connection has something to send.
    pub(super) fn drive_with(&self, waker: &Waker) {
        let mut driver = self.driver.borrow_mut();
        match &mut *driver {
            Some(driver) => driver.clone_from(waker),
            None => *driver = Some(waker.clone()),
        }
    }

    /// The next connection that may have something to send.
    pub(super) fn next_touched(&self) -> Option<Rc<Link>> {
        let link = self.touched.borrow_mut().pop_front()?;
        link.touched.set(false);
        Some(link)
    }

    /// How many there are.
    pub(super) fn touched(&self) -> usize {
        self.touched.borrow().len()
    }
}

/// A connection, shared by the driver and its streams.
pub(super) struct Link {
    /// Its name in the endpoint.
    pub(super) handle: ConnectionHandle,
    pub(super) state: RefCell<State>,
    shared: Rc<Shared>,
    /// Whether it is among the touched ones.
    touched: Cell<bool>,
}

/// The part that changes.
pub(super) struct State {
    pub(super) proto: quinn_proto::Connection,
    /// While it is not done.
    pub(super) handshake: Option<Handshake>,
    /// Its entry among the timers.
    pub(super) armed: Option<Instant>,
    lost: bool,
    accepting: Option<Waker>,
    waiting: Vec<Waiting>,
}

/// A handshake under way.
pub(super) struct Handshake {
    /// When to give up.
    pub(super) until: Instant,
    /// The client's place among those that have not logged in.
    pub(super) place: Place,
}

/// What a task waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Interest {
    /// There is something to read.
    Read,
    /// There is room.
    Write,
    /// The client has everything, or wants no more.
    Done,
}

struct Waiting {
    stream: StreamId,
    interest: Interest,
    waker: Waker,
}

/// What the driver has to know of a connection's news.
pub(super) enum News {
    Connected,
    Lost(quinn_proto::ConnectionError),
}

impl Link {
    pub(super) fn new(
        handle: ConnectionHandle,
        proto: quinn_proto::Connection,
        handshake: Handshake,
        shared: Rc<Shared>,
    ) -> Rc<Self> {
        let state = State {
            proto,
            handshake: Some(handshake),
            armed: None,
            lost: false,
            accepting: None,
            waiting: Vec::new(),
        };
        Rc::new(Self { handle, state: RefCell::new(state), shared, touched: Cell::new(false) })
    }

    /// The driver sends what it has to send.
    pub(super) fn touch(self: &Rc<Self>) {
        if self.touched.replace(true) {
            return;
        }
        self.shared.touched.borrow_mut().push_back(self.clone());
        if let Some(driver) = &*self.shared.driver.borrow() {
            driver.wake_by_ref();
        }
    }

    /// Ends it without a reason, at once: what the client has not acknowledged is lost.
    pub(super) fn close(self: &Rc<Self>) {
        let mut state = self.state.borrow_mut();
        state.lose();
        if !state.proto.is_closed() {
            state.proto.close(Instant::now(), VarInt::from_u32(0), Bytes::new());
            self.touch();
        }
    }
}

impl State {
    /// Wakes those who wait for what has happened, and says what the driver has to know.
    pub(super) fn news(&mut self) -> Option<News> {
        use quinn_proto::Event;
        while let Some(event) = self.proto.poll() {
            match event {
                Event::Connected => return Some(News::Connected),
                Event::ConnectionLost { reason } => {
                    self.lose();
                    return Some(News::Lost(reason));
                }
                Event::Stream(StreamEvent::Opened { dir: Dir::Bi }) => {
                    if let Some(waker) = self.accepting.take() {
                        waker.wake();
                    }
                }
                Event::Stream(StreamEvent::Readable { id }) => self.wake(id, Interest::Read),
                Event::Stream(StreamEvent::Writable { id }) => self.wake(id, Interest::Write),
                Event::Stream(StreamEvent::Finished { id }) => self.wake(id, Interest::Done),
                Event::Stream(StreamEvent::Stopped { id, .. }) => {
                    self.wake(id, Interest::Write);
                    self.wake(id, Interest::Done);
                }
                // Clients may open no other streams and send no datagrams, and the server opens nothing.
                Event::HandshakeDataReady
                | Event::DatagramReceived
                | Event::DatagramsUnblocked
                | Event::Stream(StreamEvent::Opened { dir: Dir::Uni } | StreamEvent::Available { .. }) => {}
            }
        }
        None
    }

    /// Whether it has ended: nothing comes any more, except what has been received and not been read.
    pub(super) fn is_lost(&self) -> bool {
        self.lost
    }

    /// When to look at it again.
    pub(super) fn deadline(&mut self) -> Option<Instant> {
        let deadline = self.proto.poll_timeout();
        [deadline, self.handshake.as_ref().map(|handshake| handshake.until)].into_iter().flatten().min()
    }

    /// Registers a task, which is woken once.
    pub(super) fn wait(&mut self, stream: StreamId, interest: Interest, waker: &Waker) {
        let mut waiting = self.waiting.iter_mut();
        match waiting.find(|waiting| (waiting.stream, waiting.interest) == (stream, interest)) {
            Some(waiting) => waiting.waker.clone_from(waker),
            None => self.waiting.push(Waiting { stream, interest, waker: waker.clone() }),
        }
    }

    /// Nobody waits for this stream any more.
    pub(super) fn forget(&mut self, stream: StreamId, interest: Interest) {
        self.waiting.retain(|waiting| (waiting.stream, waiting.interest) != (stream, interest));
    }

    fn wake(&mut self, stream: StreamId, interest: Interest) {
        let mut waiting = self.waiting.iter();
        if let Some(at) = waiting.position(|waiting| (waiting.stream, waiting.interest) == (stream, interest))
        {
            self.waiting.swap_remove(at).waker.wake();
        }
    }

    fn lose(&mut self) {
        self.lost = true;
        self.waiting.drain(..).for_each(|waiting| waiting.waker.wake());
        if let Some(waker) = self.accepting.take() {
            waker.wake();
        }
    }
}

/// A client's connection whose handshake is done. Dropped, it is closed.
pub struct Connection(Rc<Link>);

impl Connection {
    pub(super) fn new(link: Rc<Link>) -> Self {
        Self(link)
    }

    /// The next stream that the client opens; `None` when the connection has ended.
    pub async fn accept_bi(&self) -> Option<(SendStream, RecvStream)> {
        poll_fn(|cx| {
            let mut state = self.0.state.borrow_mut();
            if let Some(id) = state.proto.streams().accept(Dir::Bi) {
                // The client may open another one in its place.
                self.0.touch();
                return Poll::Ready(Some((
                    SendStream::new(self.0.clone(), id),
                    RecvStream::new(self.0.clone(), id),
                )));
            }
            if state.is_lost() {
                return Poll::Ready(None);
            }
            state.accepting = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// Where the client is now.
    pub fn remote_address(&self) -> SocketAddr {
        self.0.state.borrow().proto.remote_address()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Connection({})", self.remote_address())
    }
}
