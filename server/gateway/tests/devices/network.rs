//! A network between devices and a server, on one port for TCP and UDP: it swallows UDP or forwards it, cuts and freezes
//! streams, and counts.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{Notify, watch};
use tokio::task::{AbortHandle, JoinSet};

/// More than any datagram.
const DATAGRAM_BYTES: usize = 2048;

#[derive(Debug, Default)]
struct Counts {
    streams: AtomicUsize,
    swallowed: AtomicUsize,
}

/// Towards the server, by the client's address.
type Flows = HashMap<SocketAddr, (Arc<UdpSocket>, AbortHandle)>;

/// Dropping it ends it.
pub(crate) struct Network {
    pub(crate) address: SocketAddr,
    counts: Arc<Counts>,
    /// Which streams are cut: those that were made before.
    cut: Arc<Notify>,
    /// How many streams, counted from the first, go nowhere.
    frozen: watch::Sender<usize>,
    /// From how many addresses datagrams have come.
    sources: watch::Receiver<usize>,
    flows: Arc<Mutex<Flows>>,
    _tasks: JoinSet<()>,
}

impl Network {
    pub(crate) async fn without_udp(server: SocketAddr) -> Self {
        Self::new(server, false).await
    }

    pub(crate) async fn with_udp(server: SocketAddr) -> Self {
        Self::new(server, true).await
    }

    async fn new(server: SocketAddr, udp: bool) -> Self {
        let (listener, datagrams) = ports().await;
        let address = listener.local_addr().expect("bound");
        let (counts, cut) = (Arc::<Counts>::default(), Arc::<Notify>::default());
        let (frozen, is_frozen) = watch::channel(0);
        let (source_count, sources) = watch::channel(0);
        let flows = Arc::<Mutex<Flows>>::default();
        let mut tasks = JoinSet::new();
        tasks.spawn(streams(listener, server, counts.clone(), cut.clone(), is_frozen));
        if udp {
            tasks.spawn(forward(Arc::new(datagrams), server, flows.clone(), source_count));
        } else {
            tasks.spawn(swallow(datagrams, counts.clone()));
        }
        Self { address, counts, cut, frozen, sources, flows, _tasks: tasks }
    }

    /// Streams that were made so far.
    pub(crate) fn streams(&self) -> usize {
        self.counts.streams.load(Ordering::SeqCst)
    }

    /// Datagrams that went nowhere so far.
    pub(crate) fn swallowed(&self) -> usize {
        self.counts.swallowed.load(Ordering::SeqCst)
    }

    /// Ends all streams.
    pub(crate) fn cut(&self) {
        self.cut.notify_waiters();
    }

    /// What is sent on the streams that there are goes nowhere from now on.
    pub(crate) fn freeze(&self) {
        self.frozen.send_replace(self.streams());
    }

    /// Forgets every flow, as a router does after a silence: the next datagram goes to the server from another port.
    pub(crate) fn forget(&self) {
        for (_, (_, back)) in self.flows.lock().expect("not poisoned").drain() {
            back.abort();
        }
    }

    /// Waits until datagrams have come from so many addresses. From here on those to all but the last go nowhere.
    pub(crate) async fn moved(&self, addresses: usize) {
        let mut sources = self.sources.clone();
        let moved = sources.wait_for(|count| *count >= addresses);
        tokio::time::timeout(super::SOON, moved).await.expect("soon").expect("it runs");
    }
}

/// The same port for both.
async fn ports() -> (TcpListener, UdpSocket) {
    loop {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        if let Ok(datagrams) = UdpSocket::bind(listener.local_addr().expect("bound")).await {
            return (listener, datagrams);
        }
    }
}

async fn streams(
    listener: TcpListener,
    server: SocketAddr,
    counts: Arc<Counts>,
    cut: Arc<Notify>,
    frozen: watch::Receiver<usize>,
) {
    let mut tasks = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        let number = counts.streams.fetch_add(1, Ordering::SeqCst) + 1;
        let (cut, mut frozen) = (cut.clone(), frozen.clone());
        tasks.spawn(async move {
            let Ok(mut upstream) = TcpStream::connect(server).await else { return };
            let mut client = client;
            let freeze = async {
                if frozen.wait_for(|count| *count >= number).await.is_err() {
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                () = cut.notified() => return,
                _ = tokio::io::copy_bidirectional(&mut client, &mut upstream) => return,
                () = freeze => {}
            }
            // Both ends stay open, and hear nothing.
            std::future::pending::<()>().await;
        });
    }
}

async fn swallow(datagrams: UdpSocket, counts: Arc<Counts>) {
    let mut buffer = [0; DATAGRAM_BYTES];
    while datagrams.recv_from(&mut buffer).await.is_ok() {
        counts.swallowed.fetch_add(1, Ordering::SeqCst);
    }
}

/// Each address of a client has a socket of its own towards the server, as behind a router; only the newest leads back.
async fn forward(
    datagrams: Arc<UdpSocket>,
    server: SocketAddr,
    flows: Arc<Mutex<Flows>>,
    count: watch::Sender<usize>,
) {
    let newest = Arc::new(Mutex::new(None::<SocketAddr>));
    let mut tasks = JoinSet::new();
    let mut buffer = [0; DATAGRAM_BYTES];
    loop {
        let Ok((length, from)) = datagrams.recv_from(&mut buffer).await else {
            // Of an earlier datagram, which found nobody.
            tokio::task::yield_now().await;
            continue;
        };
        let known = flows.lock().expect("not poisoned").get(&from).map(|(upstream, _)| upstream.clone());
        let upstream = match known {
            Some(upstream) => upstream,
            None => {
                let upstream = Arc::new(UdpSocket::bind("127.0.0.1:0").await.expect("a free port"));
                upstream.connect(server).await.expect("an address");
                *newest.lock().expect("not poisoned") = Some(from);
                let back = tasks.spawn(back(upstream.clone(), datagrams.clone(), from, newest.clone()));
                let mut flows = flows.lock().expect("not poisoned");
                flows.insert(from, (upstream.clone(), back));
                count.send_replace(flows.len());
                upstream
            }
        };
        let _ = upstream.send(&buffer[..length]).await;
    }
}

async fn back(
    upstream: Arc<UdpSocket>,
    datagrams: Arc<UdpSocket>,
    to: SocketAddr,
    newest: Arc<Mutex<Option<SocketAddr>>>,
) {
    let mut buffer = [0; DATAGRAM_BYTES];
    while let Ok(length) = upstream.recv(&mut buffer).await {
        if *newest.lock().expect("not poisoned") == Some(to) {
            let _ = datagrams.send_to(&buffer[..length], to).await;
        }
    }
}
