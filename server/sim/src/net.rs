//! A connection between two ends of the simulation: bytes that take their time, and the ways in which it can fail.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{Error, ErrorKind, Result};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use tern_check::random::Random;

/// Bytes on their way in one direction, as in the buffers of two sockets.
const PIPE_BYTES_MAX: usize = 128 * 1024;

#[derive(Default)]
struct Pipe {
    chunks: VecDeque<(Instant, Bytes)>,
    bytes: usize,
    /// Its writer is gone.
    ended: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Pipe {
    fn wake(&mut self) {
        self.reader.take().into_iter().chain(self.writer.take()).for_each(Waker::wake);
    }
}

struct State {
    /// By the side that reads.
    pipes: [Pipe; 2],
    latency_ms: (u64, u64),
    random: Random,
    /// Nothing arrives before.
    stalled_until: Instant,
    /// Nothing arrives any more, and nobody is told.
    dead: bool,
    /// Both sides are told.
    reset: bool,
}

/// One end.
pub struct End {
    state: Rc<RefCell<State>>,
    side: usize,
    sleep: Option<Pin<Box<Sleep>>>,
}

/// What may happen to a connection.
#[derive(Clone)]
pub struct Trouble(Rc<RefCell<State>>);

/// A new connection whose bytes take between `latency_ms.0` and `latency_ms.1` each way.
pub fn connection(latency_ms: (u64, u64), random: Random) -> (End, End, Trouble) {
    let state = Rc::new(RefCell::new(State {
        pipes: Default::default(),
        latency_ms,
        random,
        stalled_until: Instant::now(),
        dead: false,
        reset: false,
    }));
    let end = |side| End { state: state.clone(), side, sleep: None };
    (end(0), end(1), Trouble(state.clone()))
}

impl Trouble {
    /// Nothing arrives for a while; afterwards everything does.
    pub fn stall(&self, time: Duration) {
        let mut state = self.0.borrow_mut();
        state.stalled_until = state.stalled_until.max(Instant::now() + time);
    }

    /// Whether what is sent arrives.
    pub fn is_well(&self) -> bool {
        let state = self.0.borrow();
        !state.dead && !state.reset && state.stalled_until <= Instant::now()
    }

    /// Nothing arrives any more, and nobody is told.
    pub fn die(&self) {
        self.0.borrow_mut().dead = true;
    }

    /// Both ends fail at once; what was on its way is lost.
    pub fn reset(&self) {
        let mut state = self.0.borrow_mut();
        state.reset = true;
        state.pipes.iter_mut().for_each(Pipe::wake);
    }
}

impl Drop for End {
    fn drop(&mut self) {
        let mut state = self.state.borrow_mut();
        let there = &mut state.pipes[1 - self.side];
        there.ended = true;
        there.wake();
        // Whoever writes to it hears of that.
        state.pipes[self.side].wake();
        state.pipes[self.side].bytes = 0;
    }
}

impl AsyncRead for End {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        let this = self.get_mut();
        let mut state = this.state.borrow_mut();
        if state.reset {
            return Poll::Ready(Err(ErrorKind::ConnectionReset.into()));
        }
        let (stalled_until, dead) = (state.stalled_until, state.dead);
        let pipe = &mut state.pipes[this.side];
        pipe.reader = Some(cx.waker().clone());
        if dead {
            return Poll::Pending;
        }
        let now = Instant::now();
        let Some((at, chunk)) = pipe.chunks.front_mut() else {
            return if pipe.ended && stalled_until <= now { Poll::Ready(Ok(())) } else { Poll::Pending };
        };
        let at = (*at).max(stalled_until);
        if at > now {
            let sleep = this.sleep.insert(Box::pin(sleep_until(at)));
            let _ = sleep.as_mut().poll(cx);
            return Poll::Pending;
        }
        let n = chunk.len().min(buf.remaining());
        buf.put_slice(&chunk[..n]);
        chunk.advance(n);
        if chunk.is_empty() {
            pipe.chunks.pop_front();
        }
        pipe.bytes -= n;
        if let Some(writer) = pipe.writer.take() {
            writer.wake();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for End {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
        let mut guard = self.state.borrow_mut();
        let state = &mut *guard;
        if state.reset {
            return Poll::Ready(Err(ErrorKind::ConnectionReset.into()));
        }
        // The other end is gone, and its network would say so.
        if state.pipes[self.side].ended && !state.dead {
            return Poll::Ready(Err(Error::from(ErrorKind::BrokenPipe)));
        }
        let (min, max) = state.latency_ms;
        let pipe = &mut state.pipes[1 - self.side];
        let n = bytes.len().min(PIPE_BYTES_MAX - pipe.bytes);
        if n == 0 {
            pipe.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let arrives = Instant::now() + Duration::from_millis(state.random.within(min..max + 1));
        let last = pipe.chunks.back().map_or(arrives, |(at, _)| *at);
        pipe.chunks.push_back((arrives.max(last), Bytes::copy_from_slice(&bytes[..n])));
        pipe.bytes += n;
        if let Some(reader) = pipe.reader.take() {
            reader.wake();
        }
        Poll::Ready(Ok(n))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<()>> {
        let mut state = self.state.borrow_mut();
        let there = &mut state.pipes[1 - self.side];
        there.ended = true;
        there.wake();
        Poll::Ready(Ok(()))
    }
}
