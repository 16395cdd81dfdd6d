//! One connection: bytes to frames to the session, and the outbound queue to bytes. One future, no timer of its own:
//! the shard's tick watches deadlines.
//!
//! Everything that is queued when the future runs goes out in one write, so it shares a TLS record or a QUIC packet
//! train. Connections read into and write from buffers of their shard, so an idle one holds none.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::{Buf, Bytes, BytesMut};
use tern_core::home::SessionId;
use tern_core::outbound::{Outbound, Pushed};
use tern_core::session::{Query, Session};
use tern_core::time::{MonoMillis, Now};
use tern_protocol::error::ErrorCode;
use tern_protocol::frame;
use tern_protocol::ids::{ConversationId, RequestId, Seq, UserId};
use tern_protocol::limits::{IN_FLIGHT_MAX, WRITE_STALL_TIMEOUT_MS};
use tern_protocol::model::WallMillis;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::clock::Stamp;
use crate::cluster::{Registration, Ways};
use crate::limits::{Place, Usage};
use crate::metrics::ShardMetrics;
use crate::metrics::shard::Cut;
use crate::reply;
use crate::shard::Shard;

/// Bytes gathered for one write: two TLS records.
pub const WRITE_BYTES: usize = 32 * 1024;
/// A frame above it is written from where it is.
const GATHERED_FRAME_BYTES_MAX: usize = 8 * 1024;
/// The buffer that all connections of a shard read into.
pub const READ_BYTES: usize = 64 * 1024;
/// Reads of one connection before others get their turn.
const READS_PER_TURN: usize = 8;
/// What is taken up of one connection before others get their turn: as many requests as a client that keeps to its limit
/// has under way, fewer of long ones.
const REQUESTS_PER_TURN: usize = IN_FLIGHT_MAX;
/// A request counts once for each such part of it: what it costs grows with its length.
const REQUEST_PART_BYTES: usize = 1024;
/// A connection that is to be closed gets this long to take the reason.
const CLOSE_TIMEOUT_MS: u64 = 5_000;

/// A connection as the rest of the shard sees it.
pub struct Conn {
    /// Its name on this node.
    pub id: SessionId,
    /// The state machine.
    pub session: RefCell<Session>,
    /// Queries that wait for the one before them: one at a time, so that one page at a time is in memory.
    pub queries: RefCell<VecDeque<QueryWait>>,
    /// Whether one is being answered.
    pub querying: Cell<bool>,
    /// Who has logged in on it, also when the session has ended since.
    pub user: Cell<Option<UserId>>,
    /// When its token was made, if the token says so.
    pub issued: Cell<Option<WallMillis>>,
    /// `Mark` requests that wait for their conversations.
    pub marks: RefCell<Vec<MarkWait>>,
    /// What it has done, when there are limits.
    pub usage: RefCell<Option<Usage>>,
    /// Sends under way to owners, when there are other nodes.
    pub ways: RefCell<Ways>,
    /// Where its user's home is, once it has logged in.
    pub registration: RefCell<Option<Registration>>,
    /// Until when nothing of it is read, because it goes on asking after it was told to wait.
    deaf_until: Cell<Option<MonoMillis>>,
    /// Its place among the connections of its address, until it has logged in.
    place: Cell<Option<Place>>,
    outbound: RefCell<Outbound>,
    receipts_wait: Cell<bool>,
    /// When the oldest entry became durable that is queued and not written.
    push_since: Cell<Option<Stamp>>,
    waker: RefCell<Option<Waker>>,
    drained: RefCell<Option<Waker>>,
    closing_since: Cell<Option<MonoMillis>>,
    blocked_since: Cell<Option<MonoMillis>>,
    aborted: Cell<bool>,
    finishing: Cell<bool>,
}

/// A query that waits or is being answered.
#[derive(Debug)]
pub struct QueryWait {
    /// To be answered.
    pub request: RequestId,
    /// Who asks.
    pub user: UserId,
    /// What.
    pub query: Query,
    /// When it came.
    pub since: Stamp,
}

/// A `Mark` request under way.
#[derive(Debug)]
pub struct MarkWait {
    /// The connection's own number for it.
    pub number: u64,
    /// To be answered.
    pub request: RequestId,
    /// Watermarks that no owner has answered yet.
    pub remaining: usize,
    /// The first refusal.
    pub refused: Option<ErrorCode>,
    /// When it came.
    pub since: Stamp,
}

impl Conn {
    /// A connection whose handshake is done.
    pub fn new(id: SessionId, now: Now, place: Place) -> Rc<Self> {
        Rc::new(Self {
            id,
            session: RefCell::new(Session::new(now)),
            queries: RefCell::default(),
            querying: Cell::new(false),
            user: Cell::new(None),
            issued: Cell::new(None),
            marks: RefCell::default(),
            usage: RefCell::default(),
            ways: RefCell::default(),
            registration: RefCell::default(),
            deaf_until: Cell::new(None),
            place: Cell::new(Some(place)),
            outbound: RefCell::default(),
            receipts_wait: Cell::new(false),
            push_since: Cell::new(None),
            waker: RefCell::default(),
            drained: RefCell::default(),
            closing_since: Cell::new(None),
            blocked_since: Cell::new(None),
            aborted: Cell::new(false),
            finishing: Cell::new(false),
        })
    }

    /// It has logged in: what it does counts from here on, and its place is free for the next one.
    pub fn logged_in(&self, user: UserId, usage: Option<Usage>) {
        self.user.set(Some(user));
        *self.usage.borrow_mut() = usage;
        self.place.take();
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    /// Queues an answer.
    pub fn answer(&self, frame: Bytes) {
        self.outbound.borrow_mut().answer(frame);
        self.wake();
    }

    /// Queues the push of an entry that has become durable at that time.
    pub fn push(
        &self,
        conversation: ConversationId,
        seq: Seq,
        frame: &Bytes,
        durable: Stamp,
        metrics: &ShardMetrics,
    ) {
        let pushed = self.outbound.borrow_mut().push(conversation, seq, frame.clone());
        self.push_since.set(match pushed {
            Pushed::Queued => self.push_since.get().or(Some(durable)),
            Pushed::Dropped(_) | Pushed::LostTrack(_) => None,
        });
        metrics.on_pushed(pushed, &metrics.pushes);
        self.pushed(pushed, metrics);
    }

    /// Queues receipts. They leave with whatever is written next, or when [`Self::write_soon`] is called, which has to
    /// be when this returns true: nobody waits for them, and a write of their own would cost as much as an ack's.
    #[must_use]
    pub fn receipt(&self, frame: &Bytes, metrics: &ShardMetrics) -> bool {
        let (pushed, crowded) = {
            let mut outbound = self.outbound.borrow_mut();
            (outbound.receipt(frame.clone()), outbound.is_crowded())
        };
        if pushed != Pushed::Queued {
            self.push_since.set(None);
        }
        metrics.on_pushed(pushed, &metrics.receipts);
        if crowded {
            self.wake();
        }
        pushed == Pushed::Queued && !self.receipts_wait.replace(true)
    }

    /// Writes what is queued.
    pub fn write_soon(&self) {
        self.receipts_wait.set(false);
        if !self.outbound.borrow().is_empty() {
            self.wake();
        }
    }

    /// Queues a head.
    pub fn head_moved(&self, conversation: ConversationId, head: Seq, metrics: &ShardMetrics) {
        let pushed = self.outbound.borrow_mut().head_moved(conversation, head);
        self.pushed(pushed, metrics);
    }

    fn pushed(&self, pushed: Pushed, metrics: &ShardMetrics) {
        if matches!(pushed, Pushed::LostTrack(_)) && !self.is_gone() {
            metrics.cuts.one(Cut::LostTrack);
            // It will connect again and sync: what is queued is of no use to it.
            self.abort();
        }
        self.wake();
    }

    /// Writes what is queued, then closes.
    pub fn close_after_flush(&self, now: Now) {
        if self.closing_since.get().is_none() {
            self.closing_since.set(Some(now.mono));
        }
        self.wake();
    }

    /// Closes at once.
    pub fn abort(&self) {
        self.aborted.set(true);
        self.wake();
    }

    /// The stream is gone: whoever waits for room waits in vain.
    pub fn ended(&self) {
        self.aborted.set(true);
        self.wake_drained();
    }

    /// Whether the stream is gone, or is to be given up.
    pub fn is_gone(&self) -> bool {
        self.aborted.get()
    }

    fn wake_drained(&self) {
        if let Some(waker) = self.drained.borrow_mut().take() {
            waker.wake();
        }
    }

    /// The bytes that wait for the client.
    pub fn outbound_bytes(&self) -> usize {
        self.outbound.borrow().bytes()
    }

    /// Echoes a heartbeat; several that have not been written yet are echoed once.
    pub fn echo(&self) {
        self.outbound.borrow_mut().echo(Bytes::from_static(frame::HEARTBEAT));
        self.wake();
    }

    /// Takes no further request; whoever answers the last one closes it.
    pub fn finish(&self) {
        self.finishing.set(true);
    }

    /// Whether it was asked to finish and every request is answered.
    pub fn has_finished(&self) -> bool {
        self.finishing.get() && self.session.borrow().is_idle()
    }

    /// Nothing more of it is read until then; returns whether it was read so far.
    pub fn turn_deaf(&self, until: MonoMillis) -> bool {
        self.deaf_until.replace(Some(until)).is_none()
    }

    /// Whether nothing of it is read at present.
    pub fn is_deaf(&self) -> bool {
        self.deaf_until.get().is_some()
    }

    /// Reads on when it is time to. To be called about every second.
    pub fn check_deaf(&self, now: Now) {
        if self.deaf_until.get().is_some_and(|until| until <= now.mono) {
            self.deaf_until.set(None);
            self.wake();
        }
    }

    /// Whether it takes requests.
    pub fn is_open(&self) -> bool {
        self.closing_since.get().is_none() && !self.aborted.get() && !self.finishing.get()
    }

    /// Ends it when the client has not taken anything for too long. To be called about every second.
    pub fn check_stall(&self, now: Now, metrics: &ShardMetrics) {
        let over = |since: Option<MonoMillis>, ms| since.is_some_and(|since| now.mono.since(since) > ms);
        if !self.is_gone()
            && (over(self.blocked_since.get(), WRITE_STALL_TIMEOUT_MS)
                || over(self.closing_since.get(), CLOSE_TIMEOUT_MS))
        {
            metrics.cuts.one(Cut::Stalled);
            self.abort();
        }
    }

    /// Ready when there is room for another page.
    pub async fn room(&self) {
        poll_fn(|cx| {
            if !self.outbound.borrow().is_above_high_water() || self.aborted.get() {
                return Poll::Ready(());
            }
            *self.drained.borrow_mut() = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

/// Serves a connection until either side ends it, and returns the stream. The caller registers and unregisters it.
pub async fn serve<S: AsyncRead + AsyncWrite + Unpin>(shard: &Rc<Shard>, conn: &Rc<Conn>, stream: S) -> S {
    let mut io = Io {
        stream,
        conn,
        shard,
        input: BytesMut::new(),
        output: Bytes::new(),
        unflushed: false,
        write_blocked: false,
        held_back: false,
        requests_left: 0,
    };
    poll_fn(|cx| io.poll(cx)).await;
    conn.ended();
    io.stream
}

struct Io<'a, S> {
    stream: S,
    conn: &'a Rc<Conn>,
    shard: &'a Rc<Shard>,
    /// Read and not a whole frame yet, or not taken up because of too much outbound.
    input: BytesMut,
    /// Taken from the queue and not written yet: what the stream had no room for, or a large frame.
    output: Bytes,
    unflushed: bool,
    /// The last write found no room at all.
    write_blocked: bool,
    /// Frames were left in `input` because too much was outbound, it was the turn of others, or the client has to wait.
    held_back: bool,
    /// Of this turn.
    requests_left: usize,
}

/// The stream has ended or broken.
struct Ended;

impl<S: AsyncRead + AsyncWrite + Unpin> Io<'_, S> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // Until the end of the turn nobody need wake us: what is queued meanwhile is written before it.
        let waker = self.conn.waker.take();
        match self.turn(cx) {
            Ok(Poll::Pending) => {
                let waker = waker.filter(|waker| waker.will_wake(cx.waker()));
                self.conn.waker.replace(Some(waker.unwrap_or_else(|| cx.waker().clone())));
                Poll::Pending
            }
            Ok(Poll::Ready(())) | Err(Ended) => Poll::Ready(()),
        }
    }

    fn turn(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, Ended> {
        self.requests_left = REQUESTS_PER_TURN;
        for _ in 0..READS_PER_TURN {
            if self.conn.aborted.get() {
                return Err(Ended);
            }
            self.write(cx)?;
            if self.conn.closing_since.get().is_some() {
                let written =
                    self.output.is_empty() && self.conn.outbound.borrow().is_empty() && !self.unflushed;
                if !written {
                    return Ok(Poll::Pending);
                }
                return Ok(Pin::new(&mut self.stream).poll_shutdown(cx).map(|_| ()));
            }
            if self.conn.finishing.get() || self.conn.outbound.borrow().is_above_high_water() {
                // Nothing more is read until the client has taken the answers: a write wakes us.
                return Ok(Poll::Pending);
            }
            self.conn.wake_drained();
            if self.conn.is_deaf() {
                // The shard's sweep wakes us.
                return Ok(Poll::Pending);
            }
            if self.requests_left == 0 {
                break;
            }
            if self.held_back {
                self.take_frames();
            } else if self.read(cx)?.is_pending() {
                return Ok(Poll::Pending);
            }
        }
        cx.waker().wake_by_ref();
        Ok(Poll::Pending)
    }

    fn write(&mut self, cx: &mut Context<'_>) -> Result<(), Ended> {
        let shard = self.shard;
        let mut gathered = shard.write_buffer.borrow_mut();
        loop {
            gathered.clear();
            if self.output.is_empty() {
                self.gather(&mut gathered);
            }
            let bytes = if gathered.is_empty() { &self.output[..] } else { &gathered[..] };
            if bytes.is_empty() {
                break;
            }
            let written = match Pin::new(&mut self.stream).poll_write(cx, bytes) {
                Poll::Ready(Ok(0) | Err(_)) => return Err(Ended),
                Poll::Ready(Ok(n)) => {
                    self.unflushed = true;
                    shard.metrics().written_bytes.add(n as u64);
                    if std::mem::take(&mut self.write_blocked) {
                        // There is room again, so the client has taken something.
                        self.conn.blocked_since.set(None);
                    }
                    n
                }
                Poll::Pending => {
                    self.write_blocked = true;
                    0
                }
            };
            if gathered.is_empty() {
                self.output.advance(written);
            } else if written < gathered.len() {
                self.output = [&gathered[written..], &self.output].concat().into();
            }
            if self.output.is_empty() {
                // Gives the frame back.
                self.output = Bytes::new();
            }
            if self.write_blocked {
                break;
            }
        }
        drop(gathered);
        if self.unflushed {
            match Pin::new(&mut self.stream).poll_flush(cx) {
                Poll::Ready(Ok(())) => self.unflushed = false,
                Poll::Ready(Err(_)) => return Err(Ended),
                Poll::Pending => {}
            }
        }
        if !self.write_blocked && !self.unflushed {
            self.conn.blocked_since.set(None);
            if let Some(durable) = self.conn.push_since.take() {
                shard.metrics().push_micros.record(durable.micros());
            }
        } else if self.conn.blocked_since.get().is_none() {
            self.conn.blocked_since.set(Some(self.shard.now().mono));
        }
        Ok(())
    }

    /// Gathers queued frames for one write; behind the last one, the heads that a slow reader has to be told. A large
    /// frame is not copied: it is `output`, to be written next.
    fn gather(&mut self, out: &mut Vec<u8>) {
        let mut outbound = self.conn.outbound.borrow_mut();
        while self.output.is_empty() && out.len() + GATHERED_FRAME_BYTES_MAX <= WRITE_BYTES {
            match outbound.pop() {
                Some(frame) if frame.len() > GATHERED_FRAME_BYTES_MAX => self.output = frame,
                Some(frame) => out.extend_from_slice(&frame),
                None => break,
            }
        }
        if self.output.is_empty() && out.is_empty() {
            for (conversation, head) in outbound.take_lagging() {
                out.extend_from_slice(&reply::head_moved(conversation, head));
            }
        }
    }

    fn read(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, Ended> {
        {
            let mut buffer = self.shard.read_buffer.borrow_mut();
            let mut read = ReadBuf::new(&mut buffer);
            match Pin::new(&mut self.stream).poll_read(cx, &mut read) {
                Poll::Pending => return Ok(Poll::Pending),
                Poll::Ready(Err(_)) => return Err(Ended),
                Poll::Ready(Ok(())) if read.filled().is_empty() => return Err(Ended),
                Poll::Ready(Ok(())) => {
                    self.shard.metrics().read_bytes.add(read.filled().len() as u64);
                    self.input.extend_from_slice(read.filled());
                }
            }
        }
        self.take_frames();
        Ok(Poll::Ready(()))
    }

    fn take_frames(&mut self) {
        self.held_back = false;
        while self.conn.is_open() {
            if self.requests_left == 0
                || self.conn.is_deaf()
                || self.conn.outbound.borrow().is_above_high_water()
            {
                self.held_back = true;
                break;
            }
            let max = self.conn.session.borrow().frame_bytes_max();
            match frame::decode(&mut self.input, max) {
                Ok(Some(frame)) => {
                    let parts = frame.message_bytes().div_ceil(REQUEST_PART_BYTES).max(1);
                    self.requests_left = self.requests_left.saturating_sub(parts);
                    self.shard.on_frame(self.conn, frame);
                }
                Ok(None) => break,
                Err(error) => {
                    self.shard.close(self.conn, RequestId(0), error.code(), error.to_string().into());
                }
            }
        }
        if self.input.is_empty() {
            // Gives the memory back: an idle connection holds none.
            self.input = BytesMut::new();
        }
    }
}

#[cfg(test)]
#[path = "connection_tests.rs"]
pub(crate) mod tests;
