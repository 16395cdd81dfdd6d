//! Connections: each a pair of sockets and a task.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::schedule::{Blow, Direction, Path};
use super::{FLOWS_MAX, FlowNumbers, Link};

/// What is read at once is one packet: a segment on an Ethernet.
const SEGMENT_BYTES: usize = 1448;
/// What is under way in one direction; above, the sender has to wait.
const LANE_BYTES_MAX: usize = 256 * 1024;
/// A server closes a connection on which it hears nothing after 150 s.
const FORGOTTEN_MAX: Duration = Duration::from_secs(200);
/// After an accept that failed, most likely for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

pub(super) async fn run(listener: std::net::TcpListener, link: Link) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    let free = Rc::new(Semaphore::new(FLOWS_MAX));
    let mut numbers = FlowNumbers::default();
    loop {
        let (client, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(_) => {
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let path = link.path(from.ip(), numbers.next(from.ip()));
        let (link, free) = (link.clone(), free.clone());
        tokio::task::spawn_local(async move {
            match free.try_acquire() {
                Ok(_permit) => connection(client, path, &link).await,
                Err(_) => {
                    link.count(|counters| counters.refused += 1);
                    reset(client);
                }
            }
        });
    }
}

async fn connection(mut client: TcpStream, path: Path, link: &Link) {
    let mut server = None;
    let path = RefCell::new(path);
    let blow = tokio::select! {
        ended = forward(&mut client, &mut server, &path, link) => match ended {
            Ok(()) => return,
            // One of the two ends is gone, and the other has to hear of it.
            Err(_) => Blow::Cut,
        },
        blow = next_blow(&path, link) => {
            path.borrow().count(|counters| match blow {
                Blow::Cut | Blow::Moved => counters.cut += 1,
                Blow::Died => counters.died += 1,
            });
            blow
        }
    };
    match blow {
        Blow::Cut => {
            reset(client);
            server.into_iter().for_each(reset);
        }
        Blow::Moved => {
            reset(client);
            forget(server).await;
        }
        Blow::Died => _ = tokio::join!(forget(Some(client)), forget(server)),
    }
}

/// Waits until something happens to the connection.
async fn next_blow(path: &RefCell<Path>, link: &Link) -> Blow {
    let since = link.now();
    link.shared.events_begin().await;
    let next = path.borrow().next_blow(since);
    let Some((at, blow)) = next else { return std::future::pending().await };
    link.wait_until(Some(at)).await;
    if path.borrow().is_calm(at) {
        return std::future::pending().await;
    }
    blow
}

/// Until both ends have said that nothing more comes.
async fn forward(
    client: &mut TcpStream,
    server: &mut Option<TcpStream>,
    path: &RefCell<Path>,
    link: &Link,
) -> io::Result<()> {
    let arrives = path.borrow_mut().handshake(Direction::ToServer, link.now());
    link.wait_until(Some(arrives)).await;
    let connected = TcpStream::connect(link.server).await.inspect_err(|_| {
        link.count(|counters| counters.refused += 1);
    })?;
    let server = server.insert(connected);
    let opens = path.borrow_mut().handshake(Direction::ToClient, link.now());
    link.wait_until(Some(opens)).await;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (from_client, to_client) = client.split();
    let (from_server, to_server) = server.split();
    tokio::try_join!(
        lane(Direction::ToServer, from_client, to_server, path, link),
        lane(Direction::ToClient, from_server, to_client, path, link),
    )?;
    Ok(())
}

/// One direction, until its end has been passed on.
async fn lane(
    direction: Direction,
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    path: &RefCell<Path>,
    link: &Link,
) -> io::Result<()> {
    let mut read = vec![0; SEGMENT_BYTES];
    let mut under_way: VecDeque<(Duration, Bytes)> = VecDeque::new();
    let mut under_way_bytes = 0;
    let mut out = BytesMut::new();
    // When the end of the stream arrives.
    let mut end = None;
    loop {
        let now = link.now();
        while let Some((_, chunk)) = under_way.pop_front_if(|(due, _)| *due <= now) {
            out.extend_from_slice(&chunk);
        }
        if end.is_some_and(|end| end <= now) && under_way.is_empty() && out.is_empty() {
            return to.shutdown().await;
        }
        let takes_more_at = path.borrow().takes_more_at(direction);
        let room = end.is_none() && under_way_bytes < LANE_BYTES_MAX;
        let arrival = under_way.front().map(|(due, _)| *due).or(end);
        let alarm = arrival.into_iter().chain((room && takes_more_at > now).then_some(takes_more_at)).min();
        tokio::select! {
            bytes = from.read(&mut read), if room && takes_more_at <= now => {
                let bytes = bytes?;
                let due = path.borrow_mut().chunk(direction, link.now(), bytes);
                if bytes == 0 {
                    end = Some(due);
                } else {
                    under_way_bytes += bytes;
                    under_way.push_back((due, Bytes::copy_from_slice(&read[..bytes])));
                }
            }
            bytes = to.write(&out), if !out.is_empty() => {
                let bytes = bytes?;
                out.advance(bytes);
                under_way_bytes -= bytes;
            }
            () = link.wait_until(alarm) => {}
        }
    }
}

/// Ends a connection so that the other end sees it at once.
fn reset(stream: TcpStream) {
    // Without it, the end is an orderly one.
    let _ = stream.set_zero_linger();
}

/// Keeps a connection open until the other end closes it, and says nothing.
async fn forget(stream: Option<TcpStream>) {
    let Some(mut stream) = stream else { return };
    let mut nowhere = tokio::io::sink();
    let ended = tokio::io::copy(&mut stream, &mut nowhere);
    // However it ends.
    let _ = tokio::time::timeout(FORGOTTEN_MAX, ended).await;
}
