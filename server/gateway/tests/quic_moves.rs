//! Phones change networks: QUIC clients whose address changes while they talk, against the real binary.
//!
//! Every client has a relay of its own in front of the server, a network address translator that reads along: the
//! connection id of each datagram names the shard that it goes to.

mod support;

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::stream::{self, StreamExt};
use support::{PATIENCE, Session, Start, Ternd, message, next, text, user};
use tern_client::Transport;
use tern_client::raw::Connector;
use tern_protocol::event::ServerBody;
use tern_protocol::ids::{ClientSeq, ConversationId, RequestId, Seq, UserId};
use tern_protocol::model::{Entry, Target};
use tern_protocol::request::{Mark, Request, RequestBody, Send};
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};

const SHARDS: usize = 2;
const PAIRS: usize = 100;
/// At once: all of them would not be in time on a busy machine.
const HANDSHAKES: usize = 16;
/// Of each side of a pair.
const SENDS: u64 = 32;
/// Entries of a pair's log.
const ENTRIES: u64 = 2 * SENDS;
/// Sends of one side that are unanswered at once.
const WINDOW: usize = 4;
/// The address changes when this many sends more are out: more than a window, so that answers pass in between.
const SENDS_PER_MOVE: u64 = 8;
const MOVES: usize = (SENDS / SENDS_PER_MOVE) as usize - 1;
const _: () = assert!(SENDS_PER_MOVE > 2 * WINDOW as u64 - 1);
/// What a phone does every minute or when its network changes; a client that moved without knowing it and says nothing
/// is not found again.
const HEARTBEAT: Duration = Duration::from_millis(100);

/// Who changes the address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mover {
    /// The client leaves a network, and knows it.
    Client,
    /// A translator on the way forgets which port it had given, and the client does not know.
    Translator,
}

/// A translator for one client that reads the connection ids of what passes.
struct Relay {
    address: SocketAddr,
    forget: mpsc::Sender<()>,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Debug, Default)]
struct Seen {
    /// Ids that the server has chosen and the client used.
    ids: HashSet<[u8; 8]>,
    /// Ports towards the server.
    ports: usize,
    /// Those at which the server has answered.
    answered: HashSet<u16>,
}

impl Relay {
    async fn start(server: SocketAddr) -> Self {
        let inside = UdpSocket::bind("127.0.0.1:0").await.expect("a free port");
        let address = inside.local_addr().expect("bound");
        let (forget, forgotten) = mpsc::channel(1);
        let seen = Arc::new(Mutex::new(Seen::default()));
        tokio::spawn(Self::run(inside, server, forgotten, seen.clone()));
        Self { address, forget, seen }
    }

    async fn run(
        inside: UdpSocket,
        server: SocketAddr,
        mut forgotten: mpsc::Receiver<()>,
        seen: Arc<Mutex<Seen>>,
    ) {
        let outside = async || {
            let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a free port");
            socket.connect(server).await.expect("an address");
            seen.lock().expect("nobody panics").ports += 1;
            socket
        };
        let mut up = outside().await;
        let mut client = None;
        let (mut there, mut here) = ([0; 2048], [0; 2048]);
        loop {
            tokio::select! {
                biased;
                word = forgotten.recv() => match word {
                    Some(()) => up = outside().await,
                    None => return,
                },
                Ok((len, from)) = inside.recv_from(&mut there) => {
                    if client.is_some_and(|client| client != from) {
                        // Another address inside is another port outside; what comes to the old one is lost.
                        up = outside().await;
                    }
                    client = Some(from);
                    if let [0..0x80, id @ ..] = &there[..len] {
                        let id = *id.first_chunk().expect("a short header has an id");
                        seen.lock().expect("nobody panics").ids.insert(id);
                    }
                    let _ = up.send(&there[..len]).await;
                }
                Ok(len) = up.recv(&mut here) => {
                    let port = up.local_addr().expect("bound").port();
                    seen.lock().expect("nobody panics").answered.insert(port);
                    if let Some(client) = client {
                        let _ = inside.send_to(&here[..len], client).await;
                    }
                }
            }
        }
    }

    /// What comes from the client from now on leaves from another port, and what comes to the old one is lost.
    async fn forget(&self) {
        self.forget.send(()).await.expect("it runs as long as this lives");
    }

    /// The shards that the client's datagrams went to.
    fn shards(&self) -> HashSet<usize> {
        let seen = self.seen.lock().expect("nobody panics");
        let word = |id: &[u8; 8]| u32::from_be_bytes([id[0], id[1], id[2], id[3]]);
        seen.ids.iter().map(|id| word(id) as usize % SHARDS).collect()
    }
}

/// A logged-in client behind its relay.
struct Client {
    name: String,
    mover: Mover,
    relay: Relay,
    connector: Connector,
    session: Session,
}

impl Client {
    async fn connect(server: &Ternd, name: String, mover: Mover) -> Self {
        let relay = Relay::start(server.address).await;
        let connector = Connector::new(&relay.address.to_string(), None, &server.ca()).expect("good");
        let connection = connector.connect(Transport::Quic).await.expect("the server accepts connections");
        let session = Session::login(connection, &server.token(&name), 1).await.expect("a good token");
        Self { name, mover, relay, connector, session }
    }

    async fn change_address(&mut self) {
        match self.mover {
            Mover::Client => {
                self.connector.rebind().expect("a free port");
                self.heartbeat().await;
            }
            Mover::Translator => self.relay.forget().await,
        }
    }

    async fn heartbeat(&mut self) {
        self.session.connection().sender.send_heartbeat().await.expect("still connected");
    }

    /// Sends to the peer and hears it, changing its address between; returns the log as it was pushed.
    async fn talk(&mut self, peer: UserId) -> Vec<Entry> {
        let conversation = ConversationId::direct(self.session.user(), peer);
        let mut log: Vec<Entry> = Vec::new();
        let mut sent = 0;
        let mut unanswered: HashMap<RequestId, ClientSeq> = HashMap::new();
        let mut stored: HashMap<ClientSeq, Seq> = HashMap::new();
        let mut marked = 0;
        let mut peer_delivered = Seq(0);
        let mut heartbeats = interval(HEARTBEAT);
        heartbeats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while (stored.len() as u64) < SENDS || (log.len() as u64) < ENTRIES || peer_delivered < Seq(ENTRIES) {
            while sent < SENDS && unanswered.len() < WINDOW {
                sent += 1;
                let send = Send {
                    target: Target::User(peer),
                    client_seq: ClientSeq(sent),
                    change: message(&format!("{} {sent}", self.name)),
                };
                let id = self.session.request(RequestBody::Send(send)).await;
                unanswered.insert(id, ClientSeq(sent));
                if sent.is_multiple_of(SENDS_PER_MOVE) && sent < SENDS {
                    self.change_address().await;
                }
            }
            if log.len() as u64 >= marked + SENDS_PER_MOVE {
                marked = log.len() as u64;
                let mark = Mark { conversation, delivered: Seq(marked), read: Seq(0) };
                let mark = Request { id: RequestId(0), body: RequestBody::Mark(vec![mark]) };
                self.session.connection().send_request(&mark).await.expect("still connected");
            }
            let received = tokio::select! {
                received = next(self.session.connection()) => received,
                _ = heartbeats.tick() => {
                    self.heartbeat().await;
                    continue;
                }
            };
            let received = received.unwrap_or_else(|| panic!("{}: disconnected", self.name));
            match received.body {
                ServerBody::SendOk(ok) => {
                    let client_seq = unanswered.remove(&received.id).expect("the answer to an open request");
                    assert!(!ok.duplicate, "nothing was sent twice");
                    assert_eq!(stored.insert(client_seq, ok.seq), None);
                }
                ServerBody::Push { conversation: of, entry } => {
                    assert_eq!(of, conversation);
                    assert_eq!(entry.seq, Seq(log.len() as u64 + 1), "{}: dense and in order", self.name);
                    log.push(entry);
                }
                ServerBody::ReceiptsMoved(moved) => {
                    for receipt in moved.users.iter().filter(|receipt| receipt.user == peer) {
                        assert!(receipt.delivered >= peer_delivered, "receipts only rise");
                        peer_delivered = receipt.delivered;
                    }
                }
                other => panic!("{}: {other:?}", self.name),
            }
        }
        let me = self.session.user();
        let mine = log.iter().filter(|entry| entry.sender.user == me);
        for (i, entry) in mine.enumerate() {
            let client_seq = ClientSeq(i as u64 + 1);
            assert_eq!(entry.client_seq, client_seq, "{}: in the order of sending", self.name);
            assert_eq!(text(entry), format!("{} {client_seq}", self.name));
            assert_eq!(entry.seq, stored[&client_seq], "what was acknowledged is what was pushed");
        }
        log
    }

    /// What has to hold when it has moved this many times; returns its shard.
    fn check(&mut self, moves: usize) -> usize {
        let who = format!("{} ({:?})", self.name, self.mover);
        let quic = self.session.connection().quic().expect("a QUIC connection");
        assert!(quic.close_reason().is_none(), "{who}: {:?}", quic.close_reason());
        let shards = self.relay.shards();
        assert_eq!(shards.len(), 1, "{who} changed its shard: {:?}", self.relay.seen);
        let seen = self.relay.seen.lock().expect("nobody panics");
        assert_eq!(seen.ports, 1 + moves, "{who}");
        assert_eq!(seen.answered.len(), 1 + moves, "{who}: the server has followed everywhere");
        if self.mover == Mover::Client {
            // A client that knows that it moves takes a new id, so that nobody can tell that it is the same.
            assert!(seen.ids.len() > moves, "{who} used {} ids", seen.ids.len());
        }
        shards.into_iter().next().expect("one")
    }
}

/// 100 pairs, all with a window of sends under way in both directions while both ends change their addresses three
/// times; in half of the pairs they do it themselves, in the others a translator does it to them.
#[tokio::test]
async fn conversations_go_on_when_clients_change_their_address() {
    let data = tempfile::tempdir().expect("a temporary directory");
    let server = Arc::new(Ternd::start(data.path(), &Start { shards: SHARDS, ..Start::default() }));
    let mut connecting = Vec::new();
    for pair in 0..PAIRS {
        let mover = if pair % 2 == 0 { Mover::Client } else { Mover::Translator };
        for side in ["a", "b"] {
            let server = server.clone();
            let name = format!("{side}{pair}");
            connecting.push(async move { (pair, Client::connect(&server, name, mover).await) });
        }
    }
    let mut pairs: Vec<Vec<Client>> = (0..PAIRS).map(|_| Vec::new()).collect();
    let mut connecting = stream::iter(connecting).buffer_unordered(HANDSHAKES);
    while let Some((pair, client)) = connecting.next().await {
        pairs[pair].push(client);
    }

    let mut talking = JoinSet::new();
    for mut pair in pairs {
        talking.spawn(async move {
            let [one, other] = &mut pair[..] else { panic!("not a pair") };
            let (to_other, to_one) = (user(&other.name), user(&one.name));
            let (log, same) = tokio::join!(one.talk(to_other), other.talk(to_one));
            assert_eq!(log, same, "both see the same log");
            let conversation = ConversationId::direct(to_one, to_other);
            let stored = one.session.log_from(conversation, 1).await.expect("its own conversation");
            assert_eq!(stored, log, "what was pushed is what is stored");
            pair.iter_mut().map(|client| client.check(MOVES)).collect::<Vec<_>>()
        });
    }
    let mut per_shard = [0; SHARDS];
    let talked = timeout(2 * PATIENCE, async {
        while let Some(shards) = talking.join_next().await {
            shards.expect("a conversation ends well").into_iter().for_each(|shard| per_shard[shard] += 1);
        }
    });
    talked.await.expect("the conversations end in time");
    assert!(per_shard.iter().all(|&count| count > 2 * PAIRS / SHARDS / 4), "one-sided: {per_shard:?}");
}

/// Somebody who only listens moves; what was sent to the old address comes when they say anything from the new one.
#[tokio::test]
async fn a_listener_that_moves_hears_what_was_sent_meanwhile() {
    const ROUNDS: u64 = 5;

    let data = tempfile::tempdir().expect("a temporary directory");
    let server = Ternd::start(data.path(), &Start { shards: SHARDS, ..Start::default() });
    let mut speaker = server.login(Transport::Tcp, "speaker", 1).await;
    for mover in [Mover::Client, Mover::Translator] {
        let mut listener = Client::connect(&server, format!("listener {mover:?}"), mover).await;
        for round in 1..=ROUNDS {
            if mover == Mover::Translator {
                listener.change_address().await;
            }
            let sent = speaker.text(listener.session.user(), &round.to_string()).await.expect("stored");
            assert_eq!(sent.seq, Seq(round));
            match mover {
                Mover::Client => listener.change_address().await,
                Mover::Translator => listener.heartbeat().await,
            }
            let (conversation, entry) = listener.session.pushed().await;
            assert_eq!((entry.seq, text(&entry)), (Seq(round), round.to_string().as_str()));
            // The push may have passed before the move; the answer to this does not.
            listener.session.mark(conversation, round, 0).await.expect("a member");
        }
        listener.check(ROUNDS as usize);
    }
}
