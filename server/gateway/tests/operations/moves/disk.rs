//! A disk that fills or hangs.

use std::cell::RefCell;
use std::net::SocketAddr;

use tern_client::Transport;
use tern_client::raw::{Connection, Connector};
use tern_core::routing::{self, ShardId, SlotMap};
use tern_protocol::event::ServerBody;
use tern_protocol::ids::{ConversationId, Seq};
use tern_protocol::model::Target;
use tern_protocol::request::{History, HistoryFrom, RequestBody, Send};
use tern_server::metrics::catalog;
use tokio::net::UdpSocket;

use super::traffic::flood;
use super::{Move, Watch, series};
use crate::faults::Faults;
use crate::support::{PATIENCE, Session, Start, Ternd, group, message, user};

pub(super) async fn the_disk_fills(expected: &[Move]) {
    let data = tempfile::tempdir().expect("a temporary directory");
    let ternd = Ternd::start(data.path(), &Start::default());
    let mut watch = Watch::new(ternd.admin).await;
    std::fs::write(data.path().join("large"), vec![7; 32 << 20]).expect("there is room");
    watch.until(expected).await;
}

/// Asks for a message to be sent, and does not wait for the answer.
async fn begin(session: &mut Session, to: &str) -> tern_protocol::ids::RequestId {
    let target = Target::User(user(to));
    let client_seq = session.next_client_seq(&target);
    session.request(RequestBody::Send(Send { target, client_seq, change: message("now") })).await
}

pub(super) async fn a_sync_hangs(expected: &[Move]) {
    let data = tempfile::tempdir().expect("a temporary directory");
    let mut faults = Faults::new(data.path());
    let ternd = Ternd::start(data.path(), &faults.start());
    let mut alice = ternd.login(Transport::Tcp, "alice", 1).await;
    let mut watch = Watch::new(ternd.admin).await;
    faults.set("hold-sync");
    let mut asked = vec![begin(&mut alice, "bob").await];
    faults.event("held").await;
    for n in 0..8 {
        asked.push(begin(&mut alice, &format!("user {n}")).await);
    }
    watch.until(expected).await;
    faults.clear("hold-sync");
    for request in asked {
        alice.answer(request).await.expect("stored");
    }
}

/// Shards of the server whose one shard hangs.
const WELL: ShardId = ShardId(0);
const HUNG: ShardId = ShardId(1);

/// A connection on this shard.
async fn seat(ternd: &Ternd, connector: &Connector, transport: Transport, shard: ShardId) -> Connection {
    let on_shard = async || {
        let series = series(ternd.admin).await;
        let label = if transport == Transport::Quic { "quic" } else { "tcp" };
        series[&(catalog::CONNECTIONS.name.to_owned(), label.to_owned())][shard.get()]
    };
    let mut others = Vec::new();
    loop {
        let before = on_shard().await;
        let mut connection = connector.connect(transport).await.expect("connected");
        // The shard has it when it answers.
        connection.send_bytes(&[0]).await.expect("sent");
        connection.recv().await.expect("an echo");
        if on_shard().await > before {
            return connection;
        }
        others.push(connection);
    }
}

async fn session(ternd: &Ternd, shard: ShardId, name: &str) -> Session {
    let connection = seat(ternd, &ternd.connector(), Transport::Tcp, shard).await;
    Session::login(connection, &ternd.token(name), 1).await.expect("the token is good")
}

/// Forwards one client's datagrams, and remembers the last one with a short header: it bears the connection's id.
async fn relay(ears: &UdpSocket, server: SocketAddr, last: &RefCell<Vec<u8>>) {
    let mouth = UdpSocket::bind("127.0.0.1:0").await.expect("a free port");
    let (mut there, mut back) = ([0; 2048], [0; 2048]);
    let mut client = None;
    loop {
        tokio::select! {
            received = ears.recv_from(&mut there) => {
                let (n, from) = received.expect("readable");
                client = Some(from);
                if there[0] & 0x80 == 0 {
                    *last.borrow_mut() = there[..n].to_vec();
                }
                mouth.send_to(&there[..n], server).await.expect("sent");
            }
            received = mouth.recv(&mut back) => {
                let n = received.expect("readable");
                ears.send_to(&back[..n], client.expect("it spoke first")).await.expect("sent");
            }
        }
    }
}

/// A datagram that is addressed to a connection on the shard that hangs.
async fn datagram_for_hung(ternd: &Ternd) -> Vec<u8> {
    loop {
        let ears = UdpSocket::bind("127.0.0.1:0").await.expect("a free port");
        let address = ears.local_addr().expect("bound").to_string();
        let connector = Connector::new(&address, None, &ternd.ca()).expect("a good address");
        let last = RefCell::default();
        let before = series(ternd.admin).await;
        let connect = async {
            let mut connection = connector.connect(Transport::Quic).await.expect("connected");
            connection.send_bytes(&[0]).await.expect("sent");
            connection.recv().await.expect("an echo");
            let of = (catalog::CONNECTIONS.name.to_owned(), "quic".to_owned());
            series(ternd.admin).await[&of][HUNG.get()] > before[&of][HUNG.get()]
        };
        let found = tokio::select! {
            found = connect => found,
            () = relay(&ears, ternd.address, &last) => false,
        };
        if found {
            return last.into_inner();
        }
    }
}

/// One read of the disk does not come back, so the shard that asked hangs, and the other one has to live with that.
pub(super) async fn a_read_hangs_a_shard(expected: &[Move]) {
    let data = tempfile::tempdir().expect("a temporary directory");
    let mut faults = Faults::new(data.path());
    faults.set("no-steering");
    let ternd = Ternd::start(data.path(), &Start { shards: 2, ..faults.start() });
    let mut watch = Watch::new(ternd.admin).await;
    let slots = SlotMap::new(routing::shards(2));
    let owned_by = |shard, a: &str, b: &str| slots.owner(ConversationId::direct(user(a), user(b))) == shard;
    let named = |prefix: &str, is_good: &dyn Fn(&str) -> bool| -> String {
        (0..).map(|n| format!("{prefix} {n}")).find(|name| is_good(name)).expect("one of them")
    };

    // Until the first messages are on the disk only.
    let mut bob = session(&ternd, HUNG, "bob").await;
    bob.create(group(0), "old", &[]).await;
    while !faults.happened("synced", "/keyspaces/2/tables/") {
        flood(&mut bob, group(0), 32).await;
    }
    let alice = named("alice", &|name| owned_by(WELL, name, "bob"));
    let carol = named("carol", &|name| owned_by(WELL, name, &alice));
    let dave = named("dave", &|name| slots.home(user(name)) == HUNG);
    let elsewhere = named("erin", &|name| owned_by(HUNG, name, &alice));
    let peers = (0..).map(|n| format!("peer {n}")).filter(|peer| owned_by(WELL, peer, &alice));
    let peers: Vec<_> = peers.take(60).collect();
    let mut from = session(&ternd, WELL, &alice).await;
    let mut receiver = session(&ternd, WELL, &carol).await;
    from.text(user(&carol), "hello").await.expect("stored");
    let datagram = datagram_for_hung(&ternd).await;
    // Soon, as it is to log in.
    let late = seat(&ternd, &ternd.connector(), Transport::Tcp, WELL).await;

    faults.set("hold-read");
    let old = History { conversation: group(0), from: HistoryFrom::Forward(Seq(1)), limit: 1 };
    let old = bob.request(RequestBody::History(old)).await;
    faults.event("read-held").await;
    begin(&mut from, &elsewhere).await;
    let dave = Session::login(late, &ternd.token(&dave), 1).await.expect("the other shard lives");
    let mut heads = [Seq(0); 2];
    let filling = async {
        while !watch.still(expected).is_empty() {
            let mut asked = Vec::new();
            for peer in peers.iter().map(String::as_str).chain([&*carol, "bob"]) {
                asked.push(begin(&mut from, peer).await);
            }
            for request in asked {
                match from.answer(request).await.expect("stored") {
                    ServerBody::SendOk(ok) => heads = [heads[1], ok.seq],
                    other => panic!("not the answer to a send: {other:?}"),
                }
            }
            let id = ConversationId::direct(user(&alice), user(&carol));
            receiver.mark(id, heads[0].get(), 0).await.expect("a member");
            // The kernel gives some of these to the shard that is well.
            let stranger = UdpSocket::bind("127.0.0.1:0").await.expect("a free port");
            for _ in 0..64 {
                stranger.send_to(&datagram, ternd.address).await.expect("sent");
            }
            watch.look().await;
        }
    };
    let filled = tokio::time::timeout(PATIENCE, filling).await;
    assert!(filled.is_ok(), "they do not move: {:?}", watch.still(expected));
    // Of several that the full mailbox does not take, one after the other, the last one counts.
    for n in 0..8 {
        heads[1] = from.text(user("bob"), &n.to_string()).await.expect("stored").seq;
    }

    faults.clear("hold-read");
    bob.answer(old).await.expect("a member");
    let id = ConversationId::direct(user(&alice), user("bob"));
    let head = heads[1];
    let told = |event: &ServerBody| match event {
        ServerBody::Push { conversation, entry } => (*conversation == id && entry.seq == head).then_some(()),
        ServerBody::HeadMoved { conversation, head: to } => {
            (*conversation == id && *to == head).then_some(())
        }
        _ => None,
    };
    bob.until(told).await;
    drop(dave);
}
