//! The two directions of a stream.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use quinn_proto::{FinishError, ReadError, StreamId, VarInt, WriteError};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::link::{Interest, Link};

/// To the client. Dropped, it ends after what has been written.
pub struct SendStream {
    link: Rc<Link>,
    id: StreamId,
}

/// From the client. Dropped before its end, the client is told to send no more.
pub struct RecvStream {
    link: Rc<Link>,
    id: StreamId,
    /// The end, or a reset, has been read.
    ended: bool,
}

fn gone() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "the QUIC connection has ended")
}

impl SendStream {
    pub(super) fn new(link: Rc<Link>, id: StreamId) -> Self {
        Self { link, id }
    }

    /// Nothing more comes.
    pub fn finish(&mut self) {
        let mut state = self.link.state.borrow_mut();
        let mut stream = state.proto.send_stream(self.id);
        let changed = match stream.finish() {
            Ok(()) => true,
            // The client wants no more: what it has not got is given up.
            Err(FinishError::Stopped(reason)) => stream.reset(reason).is_ok(),
            Err(FinishError::ClosedStream) => false,
        };
        if changed {
            self.link.touch();
        }
    }

    /// Ready when the client has everything up to the end, wants no more, or is gone.
    pub async fn done(&mut self) {
        poll_fn(|cx| {
            let mut state = self.link.state.borrow_mut();
            let under_way = matches!(state.proto.send_stream(self.id).stopped(), Ok(None));
            if !under_way || state.is_lost() {
                return Poll::Ready(());
            }
            state.wait(self.id, Interest::Done, cx.waker());
            Poll::Pending
        })
        .await;
    }
}

impl AsyncWrite for SendStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut state = self.link.state.borrow_mut();
        if state.is_lost() {
            return Poll::Ready(Err(gone()));
        }
        match state.proto.send_stream(self.id).write(bytes) {
            Ok(written) => {
                self.link.touch();
                Poll::Ready(Ok(written))
            }
            Err(WriteError::Blocked) => {
                state.wait(self.id, Interest::Write, cx.waker());
                // The client is told that its window is too small.
                self.link.touch();
                Poll::Pending
            }
            Err(WriteError::Stopped(_) | WriteError::ClosedStream) => {
                Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.finish();
        Poll::Ready(Ok(()))
    }
}

impl Drop for SendStream {
    fn drop(&mut self) {
        self.finish();
        let mut state = self.link.state.borrow_mut();
        state.forget(self.id, Interest::Write);
        state.forget(self.id, Interest::Done);
    }
}

impl RecvStream {
    pub(super) fn new(link: Rc<Link>, id: StreamId) -> Self {
        Self { link, id, ended: false }
    }

    /// The client is told to send no more; what is there is dropped.
    pub fn stop(&mut self) {
        self.ended = true;
        if self.link.state.borrow_mut().proto.recv_stream(self.id).stop(VarInt::from_u32(0)).is_ok() {
            self.link.touch();
        }
    }
}

impl AsyncRead for RecvStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.ended || into.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let this = &mut *self;
        let mut state = this.link.state.borrow_mut();
        let before = into.remaining();
        let mut stopped = None;
        {
            let mut stream = state.proto.recv_stream(this.id);
            let Ok(mut chunks) = stream.read(true) else { return Poll::Ready(Err(gone())) };
            while into.remaining() > 0 && stopped.is_none() {
                match chunks.next(into.remaining()) {
                    Ok(Some(chunk)) => into.put_slice(&chunk.bytes),
                    Ok(None) => {
                        this.ended = true;
                        break;
                    }
                    Err(error) => stopped = Some(error),
                }
            }
            if chunks.finalize().should_transmit() {
                this.link.touch();
            }
        }
        match stopped {
            Some(ReadError::Reset(_)) => {
                this.ended = true;
                Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()))
            }
            Some(ReadError::Blocked) if into.remaining() == before => {
                if state.is_lost() {
                    return Poll::Ready(Err(gone()));
                }
                state.wait(this.id, Interest::Read, cx.waker());
                Poll::Pending
            }
            _ => Poll::Ready(Ok(())),
        }
    }
}

impl Drop for RecvStream {
    fn drop(&mut self) {
        if !self.ended {
            self.stop();
        }
        self.link.state.borrow_mut().forget(self.id, Interest::Read);
    }
}
