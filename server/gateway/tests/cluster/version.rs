//! A node of the release before, which speaks version 1 of links only. What it says is recorded, and not written by this program.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tern_core::routing::SlotMap;
use tern_protocol::convert::parse_server;
use tern_protocol::event::ServerBody;
use tern_protocol::frame::{self, Frame};
use tern_protocol::ids::{ClientSeq, NodeId, RequestId};
use tern_protocol::limits::FRAME_BYTES_MAX;
use tern_protocol::model::Target;
use tern_protocol::request::{RequestBody, Send};
use tern_server::cluster::quic::{LinkEndpoint, LinkStream};
use tern_server::metrics::catalog;
use tern_store::memory::Memory;
use tern_store::ops::lease;
use tern_store::records::NodeLease;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout};

use crate::nodes::{Cluster, groups_of_ids};
use crate::person::{AGAIN, Person};
use crate::support::{PATIENCE, message, user};

/// Lower than any other, so that it is the one that calls.
const OLD: NodeId = NodeId(1);
/// What version 1 says, one message a line; the first is a send of a user whose id is 03… to one whose id is 04….
const RECORDED: &str = include_str!("../../src/cluster/wire_version_1.txt");
/// Tags of the messages of version 1.
const TAGS_1: std::ops::RangeInclusive<u64> = 1..=9;
/// Between two heartbeats.
const PING: Duration = Duration::from_secs(1);
const ASK: u64 = 1;
const ANSWER: u64 = 2;
const DELIVER: u64 = 3;

/// Bytes of a line of the record.
fn recorded(line: usize) -> Vec<u8> {
    let line = RECORDED.lines().nth(line).expect("it is long enough").as_bytes();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).expect("ASCII"), 16).expect("hex");
    line.chunks(2).map(byte).collect()
}

/// The recorded send, which replies to entry 4, as an earlier one that replies to none: without its last field, and so with other
/// lengths around it.
fn earlier(client_seq: u8) -> Vec<u8> {
    let mut bytes = recorded(0);
    bytes.truncate(bytes.len() - 2);
    for tag in [0x0a, 0x1a, 0x1a, 0x22] {
        let length = bytes.iter().enumerate().skip(1).find_map(|(at, length)| {
            (bytes[at - 1] == tag && usize::from(*length) == bytes.len() + 2 - at - 1).then_some(at)
        });
        bytes[length.expect("a field that goes to the end")] -= 2;
    }
    let at = bytes.windows(2).position(|pair| pair == [0x18, 5]).expect("the client's number");
    bytes[at + 1] = client_seq;
    bytes
}

/// The number that begins some bytes, and the rest.
fn varint(bytes: &[u8]) -> (u64, &[u8]) {
    let length = bytes.iter().position(|byte| byte & 0x80 == 0).expect("it ends") + 1;
    let value = bytes[..length].iter().rev().fold(0, |value, byte| value << 7 | u64::from(byte & 0x7f));
    (value, &bytes[length..])
}

/// The fields of a protobuf message: tag, and what it holds if that has a length.
fn fields(mut bytes: &[u8]) -> Vec<(u64, &[u8])> {
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let (key, rest) = varint(bytes);
        let (held, after): (&[u8], &[u8]) = match key & 7 {
            0 => (&[], varint(rest).1),
            1 => rest.split_at(8),
            2 => {
                let (length, rest) = varint(rest);
                rest.split_at(length as usize)
            }
            kind => panic!("no such kind of field: {kind}"),
        };
        fields.push((key >> 3, held));
        bytes = after;
    }
    fields
}

/// The old node, as far as it goes.
struct Old {
    _endpoint: LinkEndpoint,
    stream: LinkStream,
    input: BytesMut,
    said: Instant,
}

impl Old {
    /// Beats for as long as the test runs.
    fn beats(store: Memory, link: String) {
        tokio::spawn(async move {
            let mut lease = NodeLease { versions: (1, 1), name: "old".into(), link, ..NodeLease::default() };
            loop {
                lease.beat += 1;
                lease::beat(&store, OLD, &lease).await.expect("the store is well");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        });
    }

    /// Calls a node and greets it, with these versions.
    async fn calls(cluster: &Cluster, to: std::net::SocketAddr, versions: [u8; 2]) -> (Self, Vec<u8>) {
        let any_port = ([127, 0, 0, 1], 0).into();
        let endpoint = LinkEndpoint::bind(any_port, &cluster.identity()).expect("a free port");
        let stream = endpoint.connect(to).await.expect("it answers");
        let mut old = Self { _endpoint: endpoint, stream, input: BytesMut::new(), said: Instant::now() };
        let hello = old.next().await.expect("a Hello").to_vec();
        let epoch = fields(&hello).iter().find(|(tag, _)| *tag == 2).expect("an epoch").1.to_vec();
        let node = OLD.0.to_le_bytes();
        let mine = [&[9][..], &node, &[0x12, 16], &epoch, &[0x18, versions[0], 0x20, versions[1]]].concat();
        old.says(&mine).await;
        (old, hello)
    }

    async fn says(&mut self, message: &[u8]) {
        let length = u8::try_from(message.len()).expect("short");
        assert!(length < 0x80, "one byte says how long it is");
        let _ = self.stream.write_all(&[&[length], message].concat()).await;
        let _ = self.stream.flush().await;
    }

    /// Says that it has taken over all news up to this one.
    async fn takes(&mut self, number: u64) {
        let mut message = vec![0x20];
        let mut rest = number;
        while rest >= 0x80 {
            message.push(rest as u8 | 0x80);
            rest >>= 7;
        }
        message.push(rest as u8);
        self.says(&message).await;
    }

    /// The next message; `None`: the other node has ended the link.
    async fn next(&mut self) -> Option<Bytes> {
        let reading = async {
            loop {
                // Who says nothing is dead.
                if self.said.elapsed() >= PING {
                    let _ = self.stream.write_all(frame::HEARTBEAT).await;
                    let _ = self.stream.flush().await;
                    self.said = Instant::now();
                }
                match frame::decode(&mut self.input, FRAME_BYTES_MAX).expect("a frame") {
                    Some(Frame::Message(message)) => return Some(message),
                    Some(Frame::Heartbeat) => {}
                    None => {
                        if let Ok(Ok(0) | Err(_)) = timeout(PING, self.stream.read_buf(&mut self.input)).await
                        {
                            return None;
                        }
                    }
                }
            }
        };
        timeout(PATIENCE, reading).await.expect("something is said")
    }

    /// The next message with this tag; all until then are of version 1.
    async fn next_of(&mut self, wanted: u64) -> Vec<u8> {
        loop {
            let message = self.next().await.expect("the link lives");
            let (tag, held) = fields(&message)[0];
            assert!(TAGS_1.contains(&tag), "no message of version 1: {message:?}");
            if tag == wanted {
                return held.to_vec();
            }
        }
    }
}

#[tokio::test]
async fn a_node_of_the_release_before_is_spoken_to_in_its_own_words() {
    let (cluster, nodes) = Cluster::of(1).await;
    let node = &nodes[0];
    // Nobody is there who could be called: it is this one that calls.
    Old::beats(cluster.store.clone(), "127.0.0.1:9".to_owned());
    node.tells(&catalog::CLUSTER_NODES, 2).await;

    let (mut newer, hello) = Old::calls(&cluster, node.link(), [3, 9]).await;
    assert!(hello.ends_with(&[0x18, 1, 0x20, 2]), "this one speaks 1 to 2: {hello:?}");
    assert_eq!(newer.next().await, None, "nothing in common");
    assert_eq!(node.number(&catalog::CLUSTER_LINKS_UP).await, 0);

    let (mut old, _) = Old::calls(&cluster, node.link(), [1, 1]).await;
    node.tells(&catalog::CLUSTER_LINK_VERSION, 1).await;
    // A send for an owner there. As nodes have just come, everybody is told.
    let sends = (1..=4).map(earlier).chain([recorded(0), recorded(0)]);
    for (send, expected) in sends.zip([(1, false), (2, false), (3, false), (4, false), (5, false), (5, true)])
    {
        old.says(&send).await;
        let answer = old.next_of(ANSWER).await;
        let answer = parse_server(answer.into()).expect("a server's").expect("of this version");
        assert_eq!(answer.id, RequestId(1));
        let ServerBody::SendOk(stored) = answer.body else { panic!("stored: {answer:?}") };
        assert_eq!((stored.seq.get(), stored.duplicate), expected, "the same send is stored once");
    }

    // An owner over there: a send with a number, a watermark for which nobody waits without one, as ever.
    let mut alice = Person::on(&cluster, node, "alice", 1).await;
    let group = groups_of_ids(OLD, &[OLD, node.id]).next().expect("it owns some");
    alice.session.mark_without_answer(group, 1, 1).await;
    let ask = old.next_of(ASK).await;
    let ask = fields(&ask);
    assert_eq!(ask.iter().map(|(tag, _)| *tag).collect::<Vec<_>>(), [1, 2, 3], "user, device, request");
    assert!(fields(ask[2].1).iter().all(|(tag, _)| *tag != 1), "no answer is wanted");
    node.tells(&catalog::CLUSTER_MARKS_KEPT, 0).await;
    let send =
        Send { target: Target::Conversation(group), client_seq: ClientSeq(1), change: message("there?") };
    alice.session.request(RequestBody::Send(send)).await;
    node.tells(&catalog::CLUSTER_REQUESTS, 1).await;

    // It says that it has lost news: the store is asked, when it answers.
    node.reaches_store(false);
    old.says(&recorded(14)).await;
    node.tells(&catalog::CLUSTER_RECHECKS, 1).await;
    node.reaches_store(true);
    node.tells(&catalog::CLUSTER_RECHECKS, 0).await;
}

#[tokio::test]
async fn a_node_of_the_release_before_takes_news_over() {
    let (cluster, nodes) = Cluster::of(1).await;
    let node = &nodes[0];
    Old::beats(cluster.store.clone(), "127.0.0.1:9".to_owned());
    node.tells(&catalog::CLUSTER_NODES, 2).await;
    let (mut old, _) = Old::calls(&cluster, node.link(), [1, 1]).await;
    node.tells(&catalog::CLUSTER_LINK_VERSION, 1).await;
    let mut alice = Person::on(&cluster, node, "alice", 1).await;
    let group = groups_of_ids(node.id, &[OLD, node.id]).next().expect("it owns some");
    alice.makes(group, &["bob"]).await;
    let deliver = old.next_of(DELIVER).await;
    let entry = fields(&deliver).into_iter().find(|(tag, _)| *tag == 6).expect("the entry itself").1;
    assert!(!entry.is_empty());
    assert!(node.number(&catalog::CLUSTER_NEWS).await >= 1, "it has not said that it has them");
    let taking = async {
        let mut taken = 0;
        while node.number(&catalog::CLUSTER_NEWS).await > 0 {
            taken += 1;
            old.takes(taken).await;
            tokio::time::sleep(AGAIN).await;
        }
    };
    tokio::time::timeout(PATIENCE, taking).await.expect("what it has taken does not wait");
}

#[tokio::test]
async fn news_for_a_node_that_takes_nothing_over_are_bounded_in_bytes() {
    const BYTES_MAX: u64 = 16 << 20;
    let (cluster, nodes) = Cluster::of(1).await;
    let node = &nodes[0];
    Old::beats(cluster.store.clone(), "127.0.0.1:9".to_owned());
    node.tells(&catalog::CLUSTER_NODES, 2).await;
    let (mut old, _) = Old::calls(&cluster, node.link(), [1, 1]).await;
    node.tells(&catalog::CLUSTER_LINK_VERSION, 1).await;
    let mut alice = Person::on(&cluster, node, "alice", 1).await;
    let group = groups_of_ids(node.id, &[OLD, node.id]).next().expect("it owns some");
    // Somebody whose home is over there, so that it is told everything.
    let map = SlotMap::new([OLD, node.id].into_iter());
    let mut names = (1..).map(|n| format!("member {n}"));
    let member = names.find(|name| map.home(user(name)) == OLD).expect("endless");
    alice.makes(group, &[&member]).await;
    let words = "w".repeat(60_000);
    let sends = BYTES_MAX / 60_000 + 5;
    let talking = async {
        for _ in 0..sends {
            alice.says(group, &words).await;
        }
    };
    let mut heard = Heard::default();
    tokio::select! {
        () = talking => {}
        () = async { loop { heard.one(&old.next_of(DELIVER).await) } } => {}
    }
    assert!(node.number(&catalog::CLUSTER_NEWS_BYTES).await <= BYTES_MAX);
    // It takes over what it has, and is told how far the log is.
    old.takes(heard.count).await;
    while heard.head <= sends {
        heard.one(&old.next_of(DELIVER).await);
        old.takes(heard.count).await;
    }
    assert!(heard.heads > 0, "not all of it was kept");
}

/// News that have come.
#[derive(Default)]
struct Heard {
    count: u64,
    /// Those that were heads alone.
    heads: u64,
    /// The highest number of an entry.
    head: u64,
}

impl Heard {
    fn one(&mut self, deliver: &[u8]) {
        let fields = fields(deliver);
        self.count += 1;
        self.heads += u64::from(fields.iter().all(|(tag, _)| *tag != 6));
        self.head = self.head.max(varint(fields.iter().find(|(tag, _)| *tag == 5).expect("a number").1).0);
    }
}
