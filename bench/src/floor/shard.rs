//! One thread of the relay: its connections, and what is queued for them.

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tern_core::limits::RECEIPT_COUNTS_INTERVAL_MS;
use tern_protocol::frame::{self, Frame, HEARTBEAT};
use tern_protocol::limits::FRAME_BYTES_MAX;
use tern_server::transport::quic::QuicAcceptor;
use tern_server::transport::tcp::Acceptor;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, join};
use tokio::sync::{Notify, mpsc};
use tokio::task::{spawn_local, unconstrained};
use tokio::time::Instant;

use super::frames::{Frames, Kind};
use super::relay::Introduction;

/// What all connections of a shard read into.
const READ_BYTES: usize = 64 * 1024;
/// Reads of one connection before others get their turn.
const READS_PER_TURN: usize = 8;
/// A receipt that nothing else has taken along leaves after so long, as in the server.
const RECEIPT_WAITS: Duration = Duration::from_millis(RECEIPT_COUNTS_INTERVAL_MS);
/// What may pile up for a client that does not take it.
const QUEUED_BYTES_MAX: usize = 16 << 20;

/// What the shards share.
pub(super) struct Node {
    frames: Frames,
    groups: usize,
    /// Groups of two, whose marks are told one by one.
    direct: bool,
    mailboxes: Vec<mpsc::Sender<Parcel>>,
    /// By shard and group: whether a member of the group is connected there.
    present: Vec<Vec<AtomicBool>>,
}

impl Node {
    pub(super) fn new(
        frames: Frames,
        groups: usize,
        members: usize,
        mailboxes: Vec<mpsc::Sender<Parcel>>,
    ) -> Self {
        let present = || (0..groups).map(|_| AtomicBool::new(false)).collect();
        let present = mailboxes.iter().map(|_| present()).collect();
        Self { frames, groups, direct: members <= 2, mailboxes, present }
    }
}

/// What a turn of one shard's loop has for another shard.
#[derive(Default)]
pub(super) struct Parcel {
    /// Groups that get a push; their payloads one after the other.
    pushes: Vec<u32>,
    payloads: Vec<u8>,
    /// Groups of two whose member with this number has said a mark.
    marks: Vec<(u32, u32)>,
}

impl Parcel {
    fn is_empty(&self) -> bool {
        self.pushes.is_empty() && self.marks.is_empty()
    }
}

/// Bytes both ways: TLS, or the two halves of a QUIC stream.
trait Stream: AsyncRead + AsyncWrite {}
impl<S: AsyncRead + AsyncWrite> Stream for S {}

/// A connection.
struct Conn {
    /// Who it is, and in which group, once it has said so.
    name: Cell<Option<(u32, u32)>>,
    stream: RefCell<Pin<Box<dyn Stream>>>,
    /// Queued, and not written yet.
    out: RefCell<BytesMut>,
    /// In the list of those that are written to at the end of the turn.
    listed: Cell<bool>,
    /// A receipt is owed.
    receipt: Cell<bool>,
    /// In the list of those whose receipts wait for company.
    waits: Cell<bool>,
    /// Has sent since it was last told who has it.
    sent: Cell<bool>,
    /// The last write was not taken whole: the connection's own task goes on with it.
    blocked: Cell<bool>,
    cut_off: Cell<bool>,
    waker: RefCell<Waker>,
}

impl Conn {
    fn new(stream: impl Stream + 'static) -> Rc<Self> {
        Rc::new(Self {
            name: Cell::new(None),
            stream: RefCell::new(Box::pin(stream)),
            out: RefCell::default(),
            listed: Cell::new(false),
            receipt: Cell::new(false),
            waits: Cell::new(false),
            sent: Cell::new(false),
            blocked: Cell::new(false),
            cut_off: Cell::new(false),
            waker: RefCell::new(Waker::noop().clone()),
        })
    }

    /// Writes what is queued as far as it is taken. `Err`: the connection is gone.
    fn write(&self, cx: &mut Context<'_>) -> io::Result<()> {
        let mut stream = self.stream.borrow_mut();
        let mut out = self.out.borrow_mut();
        self.blocked.set(false);
        while !out.is_empty() {
            match stream.as_mut().poll_write(cx, &out)? {
                Poll::Ready(0) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(n) => out.advance(n),
                Poll::Pending => {
                    self.blocked.set(true);
                    return Ok(());
                }
            }
        }
        out.clear();
        let flushed = stream.as_mut().poll_flush(cx)?;
        self.blocked.set(flushed.is_pending());
        Ok(())
    }
}

/// One thread's part.
pub(super) struct Shard {
    id: usize,
    node: Arc<Node>,
    /// The connections of each group that are here.
    groups: RefCell<Vec<Vec<Rc<Conn>>>>,
    /// What all connections read into.
    read_buffer: RefCell<Box<[u8]>>,
    /// What was read, to be cut into frames.
    input: RefCell<BytesMut>,
    /// Connections with something to write.
    listed: RefCell<Vec<Rc<Conn>>>,
    /// Connections whose receipts wait for company.
    waiting: RefCell<Vec<Rc<Conn>>>,
    /// For each other shard.
    parcels: RefCell<Vec<Parcel>>,
    /// The end of the turn has something to do.
    turn_ends: Notify,
    turn_end_due: Cell<bool>,
}

impl Shard {
    /// Without connections.
    pub(super) fn new(id: usize, node: Arc<Node>) -> Rc<Self> {
        Rc::new(Self {
            id,
            groups: RefCell::new((0..node.groups).map(|_| Vec::new()).collect()),
            read_buffer: RefCell::new(vec![0; READ_BYTES].into()),
            input: RefCell::default(),
            listed: RefCell::default(),
            waiting: RefCell::default(),
            parcels: RefCell::new(node.mailboxes.iter().map(|_| Parcel::default()).collect()),
            turn_ends: Notify::new(),
            turn_end_due: Cell::new(false),
            node,
        })
    }

    /// Never ends.
    pub(super) async fn run(
        self: Rc<Self>,
        tcp: Acceptor,
        quic: QuicAcceptor,
        inbox: mpsc::Receiver<Parcel>,
    ) {
        spawn_local(self.clone().accept_tcp(tcp));
        spawn_local(self.clone().accept_quic(quic));
        // It has as much to do as all connections together.
        spawn_local(unconstrained(self.clone().write_all()));
        spawn_local(self.clone().write_receipts());
        self.take_parcels(inbox).await;
    }

    async fn accept_tcp(self: Rc<Self>, mut acceptor: Acceptor) {
        loop {
            let (stream, ..) = acceptor.accept().await;
            spawn_local(self.clone().serve(Conn::new(stream)));
        }
    }

    async fn accept_quic(self: Rc<Self>, mut acceptor: QuicAcceptor) {
        while let Ok((connection, _)) = acceptor.accept().await {
            let shard = self.clone();
            spawn_local(async move {
                if let Some((send, recv)) = connection.accept_bi().await {
                    shard.serve(Conn::new(join(recv, send))).await;
                }
            });
        }
    }

    async fn serve(self: Rc<Self>, conn: Rc<Conn>) {
        let mut rest = BytesMut::new();
        std::future::poll_fn(|cx| self.turn(&conn, &mut rest, cx)).await;
        conn.cut_off.set(true);
        if let Some((_, group)) = conn.name.get() {
            self.groups.borrow_mut()[group as usize].retain(|other| !Rc::ptr_eq(other, &conn));
        }
    }

    /// Ready when the connection has ended.
    fn turn(&self, conn: &Rc<Conn>, rest: &mut BytesMut, cx: &mut Context<'_>) -> Poll<()> {
        if !conn.waker.borrow().will_wake(cx.waker()) {
            conn.waker.replace(cx.waker().clone());
        }
        for _ in 0..READS_PER_TURN {
            if conn.cut_off.get() || (conn.blocked.get() && conn.write(cx).is_err()) {
                return Poll::Ready(());
            }
            if conn.blocked.get() {
                return Poll::Pending;
            }
            let mut buffer = self.read_buffer.borrow_mut();
            let mut read = ReadBuf::new(&mut buffer);
            match conn.stream.borrow_mut().as_mut().poll_read(cx, &mut read) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(())) if !read.filled().is_empty() => {}
                Poll::Ready(_) => return Poll::Ready(()),
            }
            if self.take(conn, rest, read.filled()).is_none() {
                return Poll::Ready(());
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Takes what was read; what is no whole frame yet becomes the rest. `None`: it is not what clients of a relay send.
    fn take(&self, conn: &Rc<Conn>, rest: &mut BytesMut, read: &[u8]) -> Option<()> {
        let mut input = self.input.borrow_mut();
        input.clear();
        // The same memory again and again, since no frame outlives this call.
        input.reserve(rest.len() + READ_BYTES);
        input.extend_from_slice(rest);
        input.extend_from_slice(read);
        while let Some(frame) = frame::decode(&mut input, FRAME_BYTES_MAX).ok()? {
            let Frame::Message(message) = frame else { continue };
            let Some((number, group)) = conn.name.get() else {
                self.introduce(conn, &message)?;
                continue;
            };
            match self.node.frames.kind(&message)? {
                Kind::Send(payload) => self.on_send(conn, group, payload),
                Kind::Mark => self.on_mark(number, group),
                Kind::Push(_) | Kind::Ack | Kind::Receipt => return None,
            }
        }
        rest.clear();
        rest.extend_from_slice(&input);
        Some(())
    }

    fn introduce(&self, conn: &Rc<Conn>, message: &[u8]) -> Option<()> {
        let Introduction { number, group } = Introduction::decode(message)?;
        self.groups.borrow_mut().get_mut(group as usize)?.push(conn.clone());
        self.node.present[self.id][group as usize].store(true, Ordering::Release);
        conn.name.set(Some((number, group)));
        conn.out.borrow_mut().extend_from_slice(HEARTBEAT);
        self.list(conn);
        Some(())
    }

    fn on_send(&self, conn: &Rc<Conn>, group: u32, payload: &[u8]) {
        conn.out.borrow_mut().extend_from_slice(&self.node.frames.ack);
        conn.sent.set(true);
        self.list(conn);
        self.push(group, payload);
        self.elsewhere(group, |parcel| {
            parcel.pushes.push(group);
            parcel.payloads.extend_from_slice(payload);
        });
    }

    fn on_mark(&self, number: u32, group: u32) {
        if self.node.direct {
            self.mark(number, group);
            self.elsewhere(group, |parcel| parcel.marks.push((number, group)));
        }
    }

    /// To the members who are here.
    fn push(&self, group: u32, payload: &[u8]) {
        for conn in &self.groups.borrow()[group as usize] {
            let mut out = conn.out.borrow_mut();
            if out.len() > QUEUED_BYTES_MAX {
                conn.cut_off.set(true);
                conn.waker.borrow().wake_by_ref();
                continue;
            }
            self.node.frames.put_push(payload, &mut out);
            self.list(conn);
        }
    }

    /// The other end, if it is here, is owed a receipt.
    fn mark(&self, number: u32, group: u32) {
        for conn in &self.groups.borrow()[group as usize] {
            if conn.name.get().is_some_and(|(other, _)| other != number) {
                self.owe_receipt(conn);
            }
        }
    }

    /// It leaves with whatever is written next, and not much later in any case.
    fn owe_receipt(&self, conn: &Rc<Conn>) {
        conn.receipt.set(true);
        if !conn.waits.replace(true) {
            self.waiting.borrow_mut().push(conn.clone());
        }
    }

    /// For the other shards with a member of this group.
    fn elsewhere(&self, group: u32, put: impl Fn(&mut Parcel)) {
        for (shard, parcel) in self.parcels.borrow_mut().iter_mut().enumerate() {
            if shard != self.id && self.node.present[shard][group as usize].load(Ordering::Acquire) {
                put(parcel);
                self.end_turn_soon();
            }
        }
    }

    fn list(&self, conn: &Rc<Conn>) {
        if !conn.listed.replace(true) {
            self.listed.borrow_mut().push(conn.clone());
            self.end_turn_soon();
        }
    }

    /// Behind everything that is ready to run now.
    fn end_turn_soon(&self) {
        if !self.turn_end_due.replace(true) {
            self.turn_ends.notify_one();
        }
    }

    /// The end of each turn: parcels, then one write for each connection.
    async fn write_all(self: Rc<Self>) {
        // A write that has to wait is waited for by the connection's own task.
        let mut cx = Context::from_waker(Waker::noop());
        let mut listed = Vec::new();
        loop {
            self.turn_ends.notified().await;
            self.turn_end_due.set(false);
            for (shard, mailbox) in self.node.mailboxes.iter().enumerate() {
                let parcel = std::mem::take(&mut self.parcels.borrow_mut()[shard]);
                if !parcel.is_empty() && mailbox.send(parcel).await.is_err() {
                    return;
                }
            }
            std::mem::swap(&mut listed, &mut self.listed.borrow_mut());
            for conn in listed.drain(..) {
                conn.listed.set(false);
                if conn.receipt.take() {
                    conn.out.borrow_mut().extend_from_slice(&self.node.frames.receipt);
                }
                if conn.blocked.get() || conn.cut_off.get() {
                    continue;
                }
                conn.cut_off.set(conn.write(&mut cx).is_err());
                if conn.blocked.get() || conn.cut_off.get() {
                    conn.waker.borrow().wake_by_ref();
                }
            }
        }
    }

    async fn take_parcels(self: Rc<Self>, mut inbox: mpsc::Receiver<Parcel>) {
        while let Some(parcel) = inbox.recv().await {
            let payloads = parcel.payloads.chunks_exact(self.node.frames.payload_bytes);
            parcel.pushes.iter().zip(payloads).for_each(|(group, payload)| self.push(*group, payload));
            parcel.marks.iter().for_each(|(number, group)| self.mark(*number, *group));
        }
    }

    async fn write_receipts(self: Rc<Self>) {
        let mut ticks = tokio::time::interval(RECEIPT_WAITS);
        let mut told = Instant::now();
        loop {
            ticks.tick().await;
            if !self.node.direct && told.elapsed() >= Duration::from_millis(RECEIPT_COUNTS_INTERVAL_MS) {
                told = Instant::now();
                let groups = self.groups.borrow();
                groups
                    .iter()
                    .flatten()
                    .filter(|conn| conn.sent.take())
                    .for_each(|conn| self.owe_receipt(conn));
            }
            for conn in self.waiting.take() {
                conn.waits.set(false);
                if conn.receipt.get() {
                    self.list(&conn);
                }
            }
        }
    }
}
