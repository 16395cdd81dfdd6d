//! TLS on an accepted connection, over rustls' unbuffered interface.
//!
//! A connection at rest holds no buffer: what comes is decrypted, and what goes is encrypted, in two buffers that all
//! connections of a thread share. A connection keeps only what is left over: a record that has not come whole,
//! plaintext that the reader had no room for, records that the socket has not taken.
//!
//! rustls does the handshake, the records and the alerts; this file moves bytes.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use rustls::ServerConfig;
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, EncodeTlsData, UnbufferedStatus, WriteTraffic};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Read from the socket at once.
const READ_BYTES: usize = 32 * 1024;
/// The largest record that may come: its header, 2^14 bytes, and what TLS 1.2 allowed it to grow by.
const RECORD_BYTES_MAX: usize = 5 + (1 << 14) + 2048;
/// Taken from the writer at once: two records. A client that takes nothing costs us no more.
const WRITE_BYTES: usize = 2 << 14;
/// Records that wait for company, so that they share a write: a session ticket goes out with the answer to the login.
const WAITING_BYTES_MAX: usize = 1024;
/// What waited, [`WRITE_BYTES`], and headers, tags and a key update around them.
const WRITE_BUFFER_BYTES: usize = WAITING_BYTES_MAX + WRITE_BYTES + 1024;
/// More than an encrypted alert has.
const ALERT_BYTES_MAX: usize = 64;

const _: () = assert!(READ_BYTES > RECORD_BYTES_MAX, "behind the largest part of a record is room to read");

thread_local! {
    /// Borrowed only while one connection is polled; nothing is left in them.
    static BUFFERS: RefCell<Buffers> = RefCell::new(Buffers {
        read: vec![0; READ_BYTES].into(),
        write: vec![0; WRITE_BUFFER_BYTES].into(),
    });
}

struct Buffers {
    read: Box<[u8]>,
    write: Box<[u8]>,
}

/// The server's end of a TLS connection.
///
/// What is written may wait until it is flushed. The end of what can be read is told apart as usual: nothing read after
/// the client has closed it properly, an error when the connection broke or was cut.
pub struct TlsStream<S> {
    socket: S,
    tls: UnbufferedServerConnection,
    reading: Reading,
    /// The beginning of a record, or of a handshake message in several records.
    incoming: Vec<u8>,
    /// Decrypted, and not yet read.
    plain: BytesMut,
    /// Encrypted, and not yet taken by the socket.
    outgoing: Vec<u8>,
    /// Whether we have said that nothing more comes.
    closed: bool,
}

enum Reading {
    Open,
    /// The client has said that nothing more comes.
    Closed,
    /// The client has broken the protocol; rustls must not be asked again.
    Failed(rustls::Error),
}

impl<S: AsyncRead + AsyncWrite + Unpin> TlsStream<S> {
    /// Ready when the client has proved that it has the session's keys.
    ///
    /// # Errors
    /// When the handshake fails, after the client has been sent the alert, or when the connection ends before.
    pub async fn accept(socket: S, config: Arc<ServerConfig>) -> io::Result<Box<Self>> {
        // In a box from the start: futures that it passes through would be as large.
        let mut stream = Box::new(Self {
            socket,
            tls: UnbufferedServerConnection::new(config).map_err(invalid_data)?,
            reading: Reading::Open,
            incoming: Vec::new(),
            plain: BytesMut::new(),
            outgoing: Vec::new(),
            closed: false,
        });
        poll_fn(|cx| stream.poll_handshake(cx)).await?;
        Ok(stream)
    }

    /// The protocol that the client has agreed to.
    pub fn alpn_protocol(&self) -> Option<&[u8]> {
        self.tls.alpn_protocol()
    }

    fn poll_handshake(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.tls.is_handshaking() {
            // A client that is out of room itself reads on only when it has been read.
            let _: Poll<()> = self.poll_send(cx)?;
            ready!(self.poll_receive(cx, &mut ReadBuf::new(&mut [])))?;
            self.check_open(cx)?;
        }
        Poll::Ready(Ok(()))
    }

    /// During the handshake, its end by the client is an error too.
    fn check_open(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match &self.reading {
            Reading::Open => Ok(()),
            Reading::Closed => Err(io::ErrorKind::UnexpectedEof.into()),
            Reading::Failed(error) => {
                let error = invalid_data(error.clone());
                // The alert that says why. If there is no room for it at once, nobody reads.
                let _ = self.poll_send(cx);
                Err(error)
            }
        }
    }

    /// Reads the socket once. The plaintext goes to `out`, and what it has no room for to `self.plain`.
    fn poll_receive(&mut self, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        BUFFERS.with_borrow_mut(|Buffers { read: buffer, .. }| {
            let kept = self.incoming.len();
            let mut read = ReadBuf::new(&mut buffer[kept..]);
            ready!(Pin::new(&mut self.socket).poll_read(cx, &mut read))?;
            let end = kept + read.filled().len();
            if end == kept {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            buffer[..kept].copy_from_slice(&self.incoming);
            let done = self.process(&mut buffer[..end], out);
            // Nothing is allocated for nothing.
            self.incoming = buffer[done..end].to_vec();
            if self.incoming.len() > RECORD_BYTES_MAX {
                // No record, and no message of a client without a certificate, is as long.
                self.reading = Reading::Failed(rustls::Error::PeerSentOversizedRecord);
            }
            Poll::Ready(Ok(()))
        })
    }

    /// Has rustls take what `input` holds, and returns how much of it is done with.
    fn process(&mut self, input: &mut [u8], out: &mut ReadBuf<'_>) -> usize {
        let mut done = 0;
        while matches!(self.reading, Reading::Open) {
            let UnbufferedStatus { mut discard, state } = self.tls.process_tls_records(&mut input[done..]);
            let mut rests = false;
            match state {
                Ok(ConnectionState::ReadTraffic(mut records)) => {
                    while let Some(record) = records.next_record() {
                        match record {
                            Ok(record) => {
                                discard += record.discard;
                                let (fits, rest) =
                                    record.payload.split_at(record.payload.len().min(out.remaining()));
                                out.put_slice(fits);
                                self.plain.extend_from_slice(rest);
                            }
                            Err(error) => self.reading = Reading::Failed(error),
                        }
                    }
                }
                Ok(ConnectionState::EncodeTlsData(data)) => encode(data, &mut self.outgoing),
                // Done as far as rustls is concerned: it is in `outgoing`.
                Ok(ConnectionState::TransmitTlsData(sent)) => sent.done(),
                Ok(ConnectionState::BlockedHandshake | ConnectionState::WriteTraffic(_)) => rests = true,
                Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => self.reading = Reading::Closed,
                Ok(_) => self.reading = Reading::Failed(early_data()),
                Err(error) => self.fail(error),
            }
            done += discard;
            if rests {
                break;
            }
        }
        // What comes behind the end is nobody's.
        if matches!(self.reading, Reading::Open) { done } else { input.len() }
    }

    /// Takes the alert that rustls has for the client.
    fn fail(&mut self, error: rustls::Error) {
        self.reading = Reading::Failed(error);
        while self.tls.wants_write() {
            // What it has to say comes before it looks at any input.
            match self.tls.process_tls_records(&mut []).state {
                Ok(ConnectionState::EncodeTlsData(data)) => encode(data, &mut self.outgoing),
                _ => break,
            }
        }
    }

    /// Calls `work` when rustls is ready to encrypt, with the records that go before.
    fn with_traffic<T>(
        &mut self,
        work: impl FnOnce(WriteTraffic<'_, ServerConnectionData>, &mut Vec<u8>) -> T,
    ) -> io::Result<T> {
        loop {
            if let Reading::Failed(error) = &self.reading {
                return Err(invalid_data(error.clone()));
            }
            let UnbufferedStatus { discard, state } = self.tls.process_tls_records(&mut self.incoming);
            match state {
                Ok(ConnectionState::EncodeTlsData(data)) => encode(data, &mut self.outgoing),
                Ok(ConnectionState::TransmitTlsData(sent)) => sent.done(),
                Ok(ConnectionState::WriteTraffic(traffic)) if discard == 0 => {
                    return Ok(work(traffic, &mut self.outgoing));
                }
                // What comes is processed when it comes, so there is nothing else to do.
                Ok(_) => return Err(io::ErrorKind::BrokenPipe.into()),
                Err(error) => self.fail(error),
            }
        }
    }

    /// Writes what is encrypted.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut sent = 0;
        let result = loop {
            let rest = &self.outgoing[sent..];
            if rest.is_empty() {
                break Poll::Ready(Ok(()));
            }
            match Pin::new(&mut self.socket).poll_write(cx, rest) {
                Poll::Ready(Ok(0)) => break Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(n)) => sent += n,
                Poll::Ready(Err(error)) => break Poll::Ready(Err(error)),
                Poll::Pending => break Poll::Pending,
            }
        };
        self.outgoing.drain(..sent);
        if self.outgoing.is_empty() {
            self.outgoing = Vec::new();
        }
        result
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for TlsStream<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = out.filled().len();
        loop {
            if !this.plain.is_empty() {
                out.put_slice(&this.plain.split_to(this.plain.len().min(out.remaining())));
                if this.plain.is_empty() {
                    this.plain = BytesMut::new();
                }
                return Poll::Ready(Ok(()));
            }
            if out.filled().len() > before || matches!(this.reading, Reading::Closed) {
                return Poll::Ready(Ok(()));
            }
            this.check_open(cx)?;
            ready!(this.poll_receive(cx, out))?;
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for TlsStream<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.closed {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if this.outgoing.len() > WAITING_BYTES_MAX {
            ready!(this.poll_send(cx))?;
        }
        let data = &data[..data.len().min(WRITE_BYTES)];
        BUFFERS.with_borrow_mut(|Buffers { write: buffer, .. }| {
            let end = this.with_traffic(|mut traffic, waiting| {
                let (before, room) = buffer.split_at_mut_checked(waiting.len())?;
                before.copy_from_slice(waiting);
                traffic.encrypt(data, room).ok().map(|n| before.len() + n)
            })?;
            let Some(end) = end else {
                return Poll::Ready(Err(io::Error::other("TLS cannot encrypt any more")));
            };
            let sent = match Pin::new(&mut this.socket).poll_write(cx, &buffer[..end]) {
                Poll::Ready(Ok(0)) if end > 0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(n)) => n,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => 0,
            };
            this.outgoing = buffer[sent..end].to_vec();
            Poll::Ready(Ok(data.len()))
        })
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_send(cx))?;
        Pin::new(&mut this.socket).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !std::mem::replace(&mut this.closed, true) && !matches!(this.reading, Reading::Failed(_)) {
            this.with_traffic(|mut traffic, outgoing| {
                let mut alert = [0; ALERT_BYTES_MAX];
                if let Ok(n) = traffic.queue_close_notify(&mut alert) {
                    outgoing.extend_from_slice(&alert[..n]);
                }
            })?;
        }
        ready!(this.poll_send(cx))?;
        match ready!(Pin::new(&mut this.socket).poll_shutdown(cx)) {
            // The client was faster.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Poll::Ready(Ok(())),
            result => Poll::Ready(result),
        }
    }
}

/// Appends a record.
fn encode(mut data: EncodeTlsData<'_, ServerConnectionData>, out: &mut Vec<u8>) {
    let start = out.len();
    let mut written = data.encode(&mut []);
    if let Err(EncodeError::InsufficientSize(needed)) = written {
        out.resize(start + needed.required_size, 0);
        written = data.encode(&mut out[start..]);
    }
    assert_eq!(written.ok(), Some(out.len() - start), "rustls has said how long it is");
}

fn invalid_data(error: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

fn early_data() -> rustls::Error {
    rustls::Error::General("early data, which the configuration does not allow".into())
}

#[cfg(test)]
#[path = "tls_stream_tests.rs"]
mod tests;
