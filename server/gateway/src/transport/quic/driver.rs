//! Drives a shard's QUIC connections: datagrams in, datagrams out, deadlines, on the shard's own thread.
//!
//! ```text
//! poll:  1 expire    find the connections whose deadlines have come
//!        2 send      what they and the others have had to say since the last time
//!        3 receive   datagrams to their connections; tasks that wait for them are woken
//!        4 yield     these tasks run, and what they write goes out in 2, together with what acknowledges the
//!                    datagrams of 3
//! ```

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::BytesMut;
use quinn_proto::{DatagramEvent, Incoming, Transmit};
use quinn_udp::RecvMeta;
use tokio::time::Sleep;
use tracing::debug;

use super::link::{Connection, Handshake, Link, News, Shared};
use super::timers::Timers;
use super::udp::{self, Udp};
use super::{QuicListener, QuicOptions, QuicStats};
use crate::limits::{AddressLimit, Place};
use crate::transport::forward::Doors;
use crate::transport::steering::CidScheme;

/// Calls to the socket before what was received is answered; each brings up to 32 buffers.
const RECEIVES_PER_TURN: usize = 4;
/// Datagrams of other shards before our own socket has its turn.
const FORWARDED_PER_TURN: usize = 64;
/// Connections that send before the socket is read again, so that it does not overflow meanwhile.
const SENDERS_PER_TURN: usize = 256;
/// Datagrams of one connection before others get their turn.
const DATAGRAMS_PER_TURN: usize = 20;

/// Accepts and drives a shard's QUIC connections. Everything rests while [`QuicAcceptor::accept`] is not polled.
pub struct QuicAcceptor {
    udp: Udp,
    router: Router,
    timers: Timers,
    sleep: Pin<Box<Sleep>>,
    /// Sent when there is room in the socket again; its bytes are in `buffer`.
    unsent: Option<Transmit>,
    buffer: Vec<u8>,
}

/// Datagrams to connections.
struct Router {
    endpoint: quinn_proto::Endpoint,
    scheme: CidScheme,
    doors: Doors,
    /// By their number in the endpoint, which uses numbers again.
    links: Vec<Option<Rc<Link>>>,
    shared: Rc<Shared>,
    options: QuicOptions,
    addresses: AddressLimit,
    stats: Arc<QuicStats>,
    /// Handshakes under way.
    handshakes: usize,
    /// Connections whose handshake is done and that nobody has taken yet.
    accepted: VecDeque<(Connection, Place)>,
    /// Answers of the endpoint itself.
    response: Vec<u8>,
}

impl QuicAcceptor {
    /// Drives what the listener receives, in the runtime and on the thread where this is called.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn new(listener: QuicListener) -> Self {
        let QuicListener { udp, doors, scheme, endpoint, options, addresses, stats } = listener;
        let router = Router {
            endpoint,
            scheme,
            doors,
            links: Vec::new(),
            shared: Rc::default(),
            options,
            addresses,
            stats,
            handshakes: 0,
            accepted: VecDeque::new(),
            response: Vec::new(),
        };
        Self {
            udp,
            router,
            timers: Timers::default(),
            sleep: Box::pin(tokio::time::sleep_until(Instant::now().into())),
            unsent: None,
            buffer: Vec::new(),
        }
    }

    /// The next connection whose handshake is done, and its place until it has logged in. It may be dropped and called
    /// again.
    ///
    /// # Errors
    /// The socket has failed for good.
    pub async fn accept(&mut self) -> io::Result<(Connection, Place)> {
        poll_fn(|cx| self.poll_accept(cx)).await
    }

    /// For a drain: from now on new clients are refused, so that they try elsewhere at once. Handshakes under way may
    /// end well. [`Self::accept`] has to be polled on.
    pub fn refuse_new(&mut self) {
        self.router.options.handshakes_max = 0;
    }

    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<(Connection, Place)>> {
        if self.router.accepted.is_empty() {
            self.router.shared.drive_with(cx.waker());
            if let Err(error) = self.turn(cx) {
                return Poll::Ready(Err(error));
            }
        }
        match self.router.accepted.pop_front() {
            Some(accepted) => Poll::Ready(Ok(accepted)),
            None => Poll::Pending,
        }
    }

    fn turn(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let now = Instant::now();
        self.expire(now);
        self.send(cx, now);
        let more = self.receive(cx, now)?;
        self.wake_in_time(cx);
        if more || (self.unsent.is_none() && self.router.shared.touched() > 0) {
            cx.waker().wake_by_ref();
        }
        Ok(())
    }

    /// Finds the connections whose deadlines have come: they have something to do.
    fn expire(&mut self, now: Instant) {
        while let Some(key) = self.timers.expired(now) {
            let Some(link) = self.router.links.get(key).cloned().flatten() else { continue };
            let mut state = link.state.borrow_mut();
            state.armed = None;
            let too_slow = state.handshake.as_ref().is_some_and(|handshake| handshake.until <= now);
            drop(state);
            if too_slow {
                self.router.give_up(&link);
            }
            link.touch();
        }
    }

    /// Sends what the touched connections have to send.
    fn send(&mut self, cx: &mut Context<'_>, now: Instant) {
        for _ in 0..self.router.shared.touched().min(SENDERS_PER_TURN) {
            if !self.send_unsent(cx) {
                return;
            }
            let Some(link) = self.router.shared.next_touched() else { return };
            self.send_from(&link, now);
            self.router.tell(&link);
            let state = &mut *link.state.borrow_mut();
            if state.proto.is_drained() {
                self.timers.disarm(link.handle.0, &mut state.armed);
            } else {
                let deadline = state.deadline();
                self.timers.arm(link.handle.0, &mut state.armed, deadline);
            }
        }
        self.send_unsent(cx);
    }

    fn send_from(&mut self, link: &Rc<Link>, now: Instant) {
        let state = &mut *link.state.borrow_mut();
        let mut datagrams = 0;
        while self.unsent.is_none() && datagrams < DATAGRAMS_PER_TURN {
            self.buffer.clear();
            let segments = self.udp.segments_max();
            if let Some(transmit) = state.proto.poll_transmit(now, segments, &mut self.buffer) {
                datagrams += transmit.segment_size.map_or(1, |size| transmit.size.div_ceil(size));
                if !self.udp.send(&transmit, &self.buffer) {
                    self.unsent = Some(transmit);
                }
            } else if state.proto.poll_timeout().is_some_and(|deadline| deadline <= now) {
                // Not before there is nothing left to send: a deadline may be that of a path that the client has left,
                // and the first datagram on the new one moves it.
                state.proto.handle_timeout(now);
            } else {
                return;
            }
        }
        link.touch();
    }

    /// False when the socket still has no room.
    fn send_unsent(&mut self, cx: &mut Context<'_>) -> bool {
        while let Some(transmit) = &self.unsent {
            if self.udp.send(transmit, &self.buffer) {
                self.unsent = None;
            } else if self.udp.poll_room(cx).is_pending() {
                return false;
            }
        }
        true
    }

    /// Gives what has arrived to its connections; true when there may be more.
    fn receive(&mut self, cx: &mut Context<'_>, now: Instant) -> io::Result<bool> {
        let Self { udp, router, .. } = self;
        let mut responses = Vec::new();
        for taken in 0.. {
            if taken == FORWARDED_PER_TURN {
                cx.waker().wake_by_ref();
                break;
            }
            let Poll::Ready(datagram) = router.doors.poll_take_in(cx) else { break };
            router.take(now, &datagram.meta, datagram.bytes, &mut responses);
        }
        let mut more = true;
        for _ in 0..RECEIVES_PER_TURN {
            let received = udp.poll_recv(cx, |meta, bytes| {
                let mut rest = BytesMut::from(bytes);
                while !rest.is_empty() {
                    let datagram = match rest.len() > meta.stride {
                        true => rest.split_to(meta.stride),
                        false => std::mem::take(&mut rest),
                    };
                    if let Some(datagram) = router.doors.hand_over(&router.scheme, datagram, meta) {
                        router.take(now, meta, datagram, &mut responses);
                    }
                }
            });
            match received {
                Poll::Ready(Ok(_)) => {}
                // An ICMP message about something that was sent.
                Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::ConnectionReset => {}
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Pending => {
                    more = false;
                    break;
                }
            }
        }
        for (transmit, bytes) in responses {
            // If there is no room it is lost; the client asks again.
            let _ = self.udp.send(&transmit, &bytes);
        }
        Ok(more)
    }

    /// Is polled again when the next deadline comes.
    fn wake_in_time(&mut self, cx: &mut Context<'_>) {
        let Some(next) = self.timers.next() else { return };
        let next = tokio::time::Instant::from_std(next);
        // A timer that fires too early does no harm, and setting it costs more than that.
        if next < self.sleep.deadline() || self.sleep.is_elapsed() {
            self.sleep.as_mut().reset(next);
        }
        if self.sleep.as_mut().poll(cx).is_ready() {
            cx.waker().wake_by_ref();
        }
    }
}

impl Router {
    fn take(
        &mut self,
        now: Instant,
        meta: &RecvMeta,
        datagram: BytesMut,
        responses: &mut Vec<(Transmit, Vec<u8>)>,
    ) {
        let ecn = udp::ecn(meta);
        self.response.clear();
        let event = self.endpoint.handle(now, meta.addr, meta.dst_ip, ecn, datagram, &mut self.response);
        let response = match event {
            Some(DatagramEvent::ConnectionEvent(handle, event)) => {
                if let Some(link) = self.links.get(handle.0).cloned().flatten() {
                    link.state.borrow_mut().proto.handle_event(event);
                    self.tell(&link);
                    link.touch();
                }
                None
            }
            Some(DatagramEvent::NewConnection(incoming)) => self.admit(incoming, now),
            Some(DatagramEvent::Response(transmit)) => Some(transmit),
            None => None,
        };
        responses.extend(response.map(|transmit| (transmit, std::mem::take(&mut self.response))));
    }

    fn admit(&mut self, incoming: Incoming, now: Instant) -> Option<Transmit> {
        if self.handshakes >= self.options.handshakes_max {
            self.stats.refused.fetch_add(1, Ordering::Relaxed);
            return Some(self.endpoint.refuse(incoming, &mut self.response));
        }
        let from = incoming.remote_address().ip();
        let crowded =
            self.handshakes >= self.options.handshakes_unproven_max || self.addresses.is_half_full(from);
        if crowded && !incoming.remote_address_validated() {
            self.stats.retried.fetch_add(1, Ordering::Relaxed);
            // quinn lets every client without a proven address be asked for it.
            return self.endpoint.retry(incoming, &mut self.response).ok();
        }
        let Some(place) = self.addresses.enter(from) else {
            self.stats.refused.fetch_add(1, Ordering::Relaxed);
            return Some(self.endpoint.refuse(incoming, &mut self.response));
        };
        self.stats.begun.fetch_add(1, Ordering::Relaxed);
        match self.endpoint.accept(incoming, now, &mut self.response, None) {
            Ok((handle, proto)) => {
                let until = now + self.options.handshake_timeout;
                let link = Link::new(handle, proto, Handshake { until, place }, self.shared.clone());
                if self.links.len() <= handle.0 {
                    self.links.resize(handle.0 + 1, None);
                }
                self.links[handle.0] = Some(link.clone());
                self.handshakes += 1;
                self.tell(&link);
                link.touch();
                None
            }
            Err(error) => {
                self.stats.failed.fetch_add(1, Ordering::Relaxed);
                debug!(error = %error.cause, "QUIC handshake failed");
                error.response
            }
        }
    }

    /// Passes on a connection's news: to the endpoint, to the tasks that wait for it, to whoever accepts.
    fn tell(&mut self, link: &Rc<Link>) {
        let mut state = link.state.borrow_mut();
        while let Some(event) = state.proto.poll_endpoint_events() {
            let drained = event.is_drained();
            if let Some(event) = self.endpoint.handle_event(link.handle, event) {
                state.proto.handle_event(event);
            }
            if drained {
                self.links[link.handle.0] = None;
            }
        }
        while let Some(news) = state.news() {
            let Some(Handshake { place, .. }) = state.handshake.take() else { continue };
            self.handshakes -= 1;
            match news {
                News::Connected => {
                    self.stats.accepted.fetch_add(1, Ordering::Relaxed);
                    self.accepted.push_back((Connection::new(link.clone()), place));
                }
                News::Lost(reason) => {
                    self.stats.failed.fetch_add(1, Ordering::Relaxed);
                    let from = state.proto.remote_address();
                    debug!(%from, %reason, "QUIC handshake failed");
                }
            }
        }
    }

    /// Ends a handshake that takes too long.
    fn give_up(&mut self, link: &Rc<Link>) {
        link.state.borrow_mut().handshake = None;
        self.handshakes -= 1;
        self.stats.timed_out.fetch_add(1, Ordering::Relaxed);
        debug!(from = %link.state.borrow().proto.remote_address(), "QUIC handshake took too long");
        link.close();
    }
}
