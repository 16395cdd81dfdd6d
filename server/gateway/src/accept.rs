//! From a transport's connection to a served session, and its end.

use std::rc::Rc;
use std::time::Duration;

use tern_core::session::Effect;
use tern_protocol::error::ErrorCode;
use tern_protocol::frame;
use tern_protocol::ids::RequestId;
use tern_protocol::limits::{FRAME_BYTES_MAX, LOGIN_TIMEOUT_MS};
use tokio::io::{AsyncReadExt, AsyncWriteExt, join};
use tokio::net::TcpStream;
use tracing::debug;

use crate::clock::Stamp;
use crate::connection::{Conn, QueryWait};
use crate::limits::Place;
use crate::metrics::shard::Transport;
use crate::shard::Shard;
use crate::transport::quic::{Connection, QuicAcceptor, RecvStream, SendStream};
use crate::transport::tcp::Acceptor;
use crate::transport::tls_stream::TlsStream;

/// While nothing of a connection is read, its streams look this often whether that is over.
const DEAF_GLANCE: Duration = Duration::from_millis(250);
/// After our last byte: how long the client may take to see it and to close its side.
const LINGER: Duration = Duration::from_secs(2);
/// What a client that is being closed may still send until we stop reading.
const LINGER_BYTES_MAX: usize = 4 * FRAME_BYTES_MAX;
/// On a bulk stream, between two signs of life: bytes of the request, room for the answer. A large page on a slow link
/// may take minutes.
const BULK_STALL_TIMEOUT: Duration = Duration::from_secs(30);

/// Accepts and serves TCP connections until the node drains.
pub async fn tcp(shard: Rc<Shard>, mut acceptor: Acceptor) {
    loop {
        let (stream, from, place) = tokio::select! {
            accepted = acceptor.accept() => accepted,
            () = shard.draining() => return,
        };
        let shard = shard.clone();
        tokio::task::spawn_local(async move {
            let _counted = shard.count_connection(Transport::Tcp);
            if let Some(stream) = shard.serve(stream, from, place, |_| std::future::pending()).await {
                // In a box of its own, so that the task of a live connection is small.
                Box::pin(linger(stream)).await;
            }
        });
    }
}

/// Reads on until the client closes as well: a socket closed with unread bytes would take our last frame, which says
/// why, with it.
async fn linger(mut stream: Box<TlsStream<TcpStream>>) {
    let rest = async {
        let mut buffer = [0; 4096];
        let mut left = LINGER_BYTES_MAX;
        while let Ok(n) = stream.read(&mut buffer).await {
            if n == 0 || n > left {
                break;
            }
            left -= n;
        }
    };
    let _ = tokio::time::timeout(LINGER, rest).await;
}

/// Accepts and serves QUIC connections; once the node drains, only those that are there.
pub async fn quic(shard: Rc<Shard>, mut acceptor: QuicAcceptor) {
    let mut draining = false;
    loop {
        let accepted = tokio::select! {
            accepted = acceptor.accept() => accepted,
            () = shard.draining(), if !draining => {
                // Polled on, so that clients who come now are told, and connections that are left are served.
                draining = true;
                acceptor.refuse_new();
                continue;
            }
        };
        let (connection, place) = match accepted {
            Ok(accepted) => accepted,
            // This shard would never hear of a QUIC client again.
            Err(error) => panic!("the QUIC socket of shard {} has failed: {error}", shard.id.get()),
        };
        let shard = shard.clone();
        tokio::task::spawn_local(async move {
            let _counted = shard.count_connection(Transport::Quic);
            serve_quic(&shard, connection, place).await;
        });
    }
}

async fn serve_quic(shard: &Rc<Shard>, connection: Connection, place: Place) {
    let opened = tokio::time::timeout(Duration::from_millis(LOGIN_TIMEOUT_MS), connection.accept_bi()).await;
    let Ok(Some((send, recv))) = opened else { return };
    let from = connection.remote_address();
    let bulk = |conn| serve_bulk_streams(shard, &connection, conn);
    if let Some(stream) = shard.serve(join(recv, send), from, place, bulk).await {
        let mut send = stream.into_inner().1;
        send.finish();
        // Closing the connection at once would drop what the client has not acknowledged.
        let _ = tokio::time::timeout(LINGER, send.done()).await;
    }
}

async fn serve_bulk_streams(shard: &Rc<Shard>, connection: &Connection, conn: Rc<Conn>) {
    // The transport allows a few streams at once, so this spawns no more than that.
    while let Some((send, recv)) = connection.accept_bi().await {
        while conn.is_deaf() && !conn.is_gone() {
            tokio::time::sleep(DEAF_GLANCE).await;
        }
        let (shard, conn) = (shard.clone(), conn.clone());
        tokio::task::spawn_local(async move { serve_bulk(&shard, &conn, send, recv).await });
    }
}

/// One request, one answer.
async fn serve_bulk(shard: &Rc<Shard>, conn: &Rc<Conn>, mut send: SendStream, mut recv: RecvStream) {
    let mut input = bytes::BytesMut::new();
    let frame = loop {
        let max = conn.session.borrow().frame_bytes_max();
        match frame::decode(&mut input, max) {
            Ok(Some(frame)) => break frame,
            Err(error) => {
                let answer = shard.refuse(conn.id, RequestId(0), error.code(), &error.to_string());
                write_bulk(shard, &mut send, &answer).await;
                recv.stop();
                return;
            }
            Ok(None) => match tokio::time::timeout(BULK_STALL_TIMEOUT, recv.read_buf(&mut input)).await {
                Ok(Ok(n)) if n > 0 => shard.metrics().read_bytes.add(n as u64),
                Ok(Ok(_) | Err(_)) => return,
                Err(_) => {
                    debug!(session = %conn.id, "a bulk request took too long");
                    return;
                }
            },
        }
    };
    if !conn.is_open() {
        return;
    }
    let bytes = frame.message_bytes();
    let effect = conn.session.borrow_mut().on_bulk_frame(shard.now(), frame);
    // A query is refused when it is its turn; the others cost no more than their refusal would.
    let _ = shard.take_frame(conn, bytes, &effect);
    let answer = match effect {
        Effect::Query(id, user, query) => {
            // Counted as in flight until the client has taken it, so that the pages in memory are bounded. The guard
            // counts it as answered also when this future is dropped half-way.
            let _taken = Taken { shard, conn };
            let query = QueryWait { request: id, user, query, since: Stamp::take() };
            let answer = shard.answer_query(conn, query).await;
            write_bulk(shard, &mut send, &answer).await;
            None
        }
        Effect::Refuse(id, code, text) | Effect::Close(id, code, text) => {
            Some(shard.refuse(conn.id, id, code, &text))
        }
        _ => Some(shard.refuse(
            conn.id,
            RequestId(0),
            ErrorCode::InvalidArgument,
            "a bulk stream takes one query",
        )),
    };
    if let Some(answer) = answer {
        write_bulk(shard, &mut send, &answer).await;
    }
    let _ = send.shutdown().await;
}

/// Writes an answer as long as the client goes on taking it.
async fn write_bulk(shard: &Shard, send: &mut SendStream, mut answer: &[u8]) {
    while !answer.is_empty() {
        match tokio::time::timeout(BULK_STALL_TIMEOUT, send.write(answer)).await {
            Ok(Ok(n)) => {
                shard.metrics().written_bytes.add(n as u64);
                answer = &answer[n..];
            }
            Ok(Err(_)) | Err(_) => return,
        }
    }
}

struct Taken<'a> {
    shard: &'a Rc<Shard>,
    conn: &'a Rc<Conn>,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.shard.answered(self.conn, None);
    }
}
