use std::sync::Arc;
use std::time::Duration;

use bytes::BufMut;
use tern_core::routing::ShardId;
use tern_protocol::convert::{encode_request, parse_server};
use tern_protocol::event::{ServerBody, ServerMessage};
use tern_protocol::ids::{DeviceId, StoreEpoch};
use tern_protocol::limits::{FRAME_BYTES_MAX, MARKS_MAX, VERSION_MAX, VERSION_MIN};
use tern_protocol::request::{ListConversations, Login, Mark, Request, RequestBody};
use tern_store::memory::Memory;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::watch;
use tokio::task::LocalSet;

use super::*;
use crate::auth::{Minter, Verifier};
use crate::clock::{self, Clock};
use crate::limits::{AddressLimit, Limits};
use crate::mailbox::mailbox;
use crate::metrics::shard::Asked;
use crate::shard::Node;
use crate::shutdown::Phase;

/// What a client may have sent before anybody reads it.
const PIPE_BYTES: usize = 8 << 20;
/// Turns of a connection that go by until another one has logged in and is answered: each of that one's steps is one.
const TURNS_MAX: u64 = 8;

/// A shard on this thread alone, without limits.
pub(crate) struct Alone {
    /// The shard.
    pub(crate) shard: Rc<Shard>,
    minter: Minter,
    _phase: watch::Sender<Phase>,
    _dir: tempfile::TempDir,
}

impl Alone {
    pub(crate) fn new() -> Self {
        Self::on(Memory::new())
    }

    /// On a store that others may have as well.
    pub(crate) fn on(store: Memory) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let minter = Minter::load_or_create(dir.path()).expect("a key");
        let verifier = Verifier::new(vec![minter.token_key().expect("a key")], Duration::ZERO);
        let (mailbox, inbox) = mailbox();
        let epoch = StoreEpoch::from_bytes([7; 16]);
        let node = Node::new(Arc::new(store), epoch, verifier, &Limits::OFF, Clock::new(), vec![mailbox]);
        let (phase, phases) = watch::channel(Phase::Running);
        let shard = Shard::new(ShardId(0), Arc::new(node), phases);
        tokio::task::spawn_local(shard.clone().run(inbox));
        Self { shard, minter, _phase: phase, _dir: dir }
    }

    /// A client that has sent its login and these requests, all of them before it is heard.
    pub(crate) async fn client(
        &self,
        name: &str,
        requests: impl IntoIterator<Item = RequestBody>,
    ) -> DuplexStream {
        let token = self.minter.mint(name, Duration::from_secs(3600), clock::wall()).expect("a good name");
        let login = RequestBody::Login(Login {
            token,
            device: DeviceId::new(1).expect("not 0"),
            versions: (VERSION_MIN, VERSION_MAX),
            features: vec![],
            client: String::new(),
        });
        let mut bytes = Vec::new();
        for (id, body) in (1..).zip(std::iter::once(login).chain(requests)) {
            bytes.put(encode_request(&Request { id: RequestId(id), body }));
        }
        assert!(bytes.len() < PIPE_BYTES);
        let (mut client, server) = duplex(PIPE_BYTES);
        client.write_all(&bytes).await.expect("there is room");
        let (shard, from) = (self.shard.clone(), ([127, 0, 0, 1], 1).into());
        let place = AddressLimit::new(&Limits::OFF).enter([127, 0, 0, 1].into()).expect("there is no limit");
        tokio::task::spawn_local(async move {
            shard.serve(server, from, place, |_| std::future::pending()).await;
        });
        client
    }

    fn taken_up(&self, asked: Asked) -> u64 {
        self.shard.metrics().requests.of(asked).get()
    }
}

/// Reads until this request is answered.
pub(crate) async fn answered(client: &mut DuplexStream, id: u64) {
    told(client, |message| message.id == RequestId(id)).await;
}

/// Reads until the client is told something.
pub(crate) async fn told(client: &mut DuplexStream, is_it: impl Fn(&ServerMessage) -> bool) {
    let mut buffer = BytesMut::new();
    loop {
        while let Some(frame) = frame::decode(&mut buffer, FRAME_BYTES_MAX).expect("frames") {
            if let frame::Frame::Message(bytes) = frame {
                let message = parse_server(bytes).expect("a frame").expect("of a known kind");
                assert!(!matches!(message.body, ServerBody::Error(_)), "{message:?}");
                if is_it(&message) {
                    return;
                }
            }
        }
        assert!(client.read_buf(&mut buffer).await.expect("readable") > 0, "it has been closed");
    }
}

fn marks(n: usize) -> RequestBody {
    let mark = |n: usize| Mark {
        conversation: ConversationId::group_from_random((n as u128).to_be_bytes()),
        delivered: Seq(1),
        read: Seq(0),
    };
    RequestBody::Mark((0..n).map(mark).collect())
}

/// A client has sent so many of the same request at once; how many are taken up before another one, who came after it,
/// has logged in and is answered.
async fn taken_up_before_others(count: usize, request: RequestBody, asked: Asked) -> u64 {
    LocalSet::new()
        .run_until(async {
            let alone = Alone::new();
            let _pouring = alone.client("mallory", std::iter::repeat_n(request, count)).await;
            let list = RequestBody::ListConversations(ListConversations { after: None, limit: 1 });
            let mut other = alone.client("bob", [list]).await;
            // A task as the others are: what is awaited here has its turn after dozens of theirs.
            let look = tokio::task::spawn_local(async move {
                answered(&mut other, 2).await;
                alone.taken_up(asked)
            });
            look.await.expect("it does not panic")
        })
        .await
}

#[tokio::test]
async fn who_has_sent_much_takes_turns_with_others() {
    let turn = REQUESTS_PER_TURN as u64;
    let short = taken_up_before_others(20_000, marks(1), Asked::Mark).await;
    assert!(short <= TURNS_MAX * turn, "{short} short requests, at {turn} in a turn");
    let parts =
        encode_request(&Request { id: RequestId(1), body: marks(MARKS_MAX) }).len() / REQUEST_PART_BYTES;
    let long = taken_up_before_others(200, marks(MARKS_MAX), Asked::Mark).await;
    let in_turn = turn / parts as u64 + 1;
    assert!(long <= TURNS_MAX * in_turn, "{long} long requests, at {in_turn} in a turn");
    // The end of a turn is not the end: all of it is taken up in time.
    assert!(short > 0 && long > 0, "both have had their turns");
}
