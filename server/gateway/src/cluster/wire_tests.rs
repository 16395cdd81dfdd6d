//! The messages of nodes: there and back, whatever is in them; what is broken is refused; what was written by the first version
//! is read for ever.

use bytes::{BufMut, Bytes, BytesMut};
use tern_protocol::error::ErrorCode;
use tern_protocol::event::SendOk;
use tern_protocol::frame::Frame;
use tern_protocol::model::{Change, Message as ChatMessage};

use super::*;

const USER: UserId = UserId::from_bytes([3; 16]);
const PEER: UserId = UserId::from_bytes([4; 16]);
const GROUP: ConversationId = ConversationId::from_bytes([9; 16]);
const NODE: NodeId = NodeId(77);

fn session() -> SessionId {
    SessionId { shard: ShardId(3), number: 1 << 40 }
}

fn sender() -> Sender {
    Sender { user: USER, device: DeviceId::new(7).expect("not 0") }
}

/// The message in the only frame of some bytes.
fn unframe(mut bytes: BytesMut) -> Bytes {
    let Ok(Some(Frame::Message(message))) = frame::decode(&mut bytes, FRAME_BYTES_MAX) else {
        panic!("not a frame")
    };
    assert!(bytes.is_empty());
    message
}

fn encoded(message: &Message) -> Bytes {
    let mut out = BytesMut::new();
    message.encode(&mut out);
    unframe(out)
}

fn text(message: &Message) -> String {
    // The moment at which news became durable is each node's own.
    let mut text = format!("{message:?}");
    while let Some(at) = text.find("Stamp(") {
        let end = text[at..].find("})").map_or(text.len(), |end| at + end + 2);
        text.replace_range(at..end, "-");
    }
    text
}

fn samples() -> Vec<Message> {
    let say = Change::Message(ChatMessage {
        content_type: "text/plain".into(),
        payload: Bytes::from_static(b"hello"),
        reply_to: Some(Seq(4)),
    });
    let send =
        |target| AskBody::Send(request::Send { target, client_seq: ClientSeq(5), change: say.clone() });
    let mark = request::Mark { conversation: GROUP, delivered: Seq(8), read: Seq(6) };
    let ok = SendOk { conversation: GROUP, seq: Seq(9), time: WallMillis(10), duplicate: true };
    let refused = Refusal { code: ErrorCode::ClientSeqStale, highest: Some(ClientSeq(12)) };
    let frame = |text: &'static str| Bytes::from_static(text.as_bytes());
    let audience: Arc<[UserId]> = [USER, PEER].into();
    let frames = vec![(Seq(3), frame("three")), (Seq(4), frame("four"))];
    let publication = Publication { conversation: GROUP, frames, audience: audience.clone() };
    let homes = Stage::Homes { tries: 2, origin: NODE };
    let deliver = |number, stage, news| Message::Deliver(number, Delivery { stage, news });
    vec![
        Message::Ask(Ask { number: 1, sender: sender(), body: send(Target::User(PEER)), later: false }),
        Message::Ask(Ask {
            number: u64::MAX,
            sender: sender(),
            body: send(Target::Conversation(GROUP)),
            later: false,
        }),
        Message::Ask(Ask { number: 0, sender: sender(), body: AskBody::Mark(mark), later: false }),
        Message::Answer(1, Answer::Sent(Ok(ok))),
        Message::Answer(2, Answer::Sent(Err(refused))),
        Message::Answer(3, Answer::Marked(Ok(()))),
        deliver(1, homes, News::Publish(Arc::new(publication), Stamp::take())),
        deliver(2, Stage::Connections, News::HeadMoved { conversation: GROUP, head: Seq(4), audience }),
        deliver(
            0,
            homes,
            News::Notify(Arc::new(vec![(PEER, frame("p")), (USER, frame("u")), (PEER, frame("q"))])),
        ),
        Message::Taken(99),
        Message::Register(USER, sender().device, session(), Login { since: WallMillis(5), is_fresh: true }),
        Message::Registered(session()),
        Message::Unregister(USER, session()),
        Message::Displace(session(), true),
        Message::Lost(WallMillis(6)),
    ]
}

/// What version 2 says beside that.
fn samples_of_version_2() -> Vec<Message> {
    let body = AskBody::Mark(request::Mark { conversation: GROUP, delivered: Seq(8), read: Seq(6) });
    vec![
        Message::Ask(Ask { number: 4, sender: sender(), body, later: true }),
        Message::Pulse(Pulse { at: 1_000_000, echo: 999_000, held: 250, beaten: 700 }),
    ]
}

fn all_samples() -> Vec<Message> {
    samples().into_iter().chain(samples_of_version_2()).collect()
}

#[test]
fn messages_come_back() {
    for message in all_samples() {
        let back = Message::decode(encoded(&message)).expect("is good").expect("is known");
        assert_eq!(text(&back), text(&message));
    }
}

#[test]
fn an_ask_leads_to_the_log_that_it_is_about() {
    let [direct, group, mark] = &samples()[..3] else { panic!("three") };
    let about = |message: &Message| match message {
        Message::Ask(ask) => ask.conversation(),
        other => panic!("{other:?}"),
    };
    assert_eq!(about(direct), ConversationId::direct(USER, PEER));
    assert_eq!([about(group), about(mark)], [GROUP, GROUP]);
}

#[test]
fn what_is_cut_or_damaged_never_panics_and_what_is_no_message_is_refused() {
    for message in all_samples() {
        let bytes = encoded(&message);
        for end in 0..bytes.len() {
            let _ = Message::decode(bytes.slice(..end));
        }
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.to_vec();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let _ = Message::decode(damaged.into());
        }
    }
    let link = |body| prost::Message::encode_to_vec(&pb::Link { body: Some(body) }).into();
    let user = Bytes::copy_from_slice(USER.as_bytes());
    let deliver = pb::Deliver { users: user.clone(), ..pb::Deliver::default() };
    let in_group = pb::Deliver { conversation: bytes_of(GROUP.as_bytes()), ..deliver.clone() };
    let unsorted = [*PEER.as_bytes(), *USER.as_bytes()].concat().into();
    let refused: [Bytes; 12] = [
        Bytes::from_static(b"\xff\xff"),
        link(pb::Body::Ask(pb::Ask {
            user: Bytes::from_static(b"short"),
            device: 1,
            request: Bytes::new(),
            later: false,
        })),
        link(pb::Body::Ask(pb::Ask { user: user.clone(), device: 0, request: Bytes::new(), later: false })),
        link(pb::Body::Ask(pb::Ask {
            user: user.clone(),
            device: 1,
            request: Bytes::from_static(b"\xff"),
            later: false,
        })),
        link(pb::Body::Answer(Bytes::from_static(b"\xff"))),
        link(pb::Body::Deliver(pb::Deliver { homes: 256, ..deliver.clone() })),
        link(pb::Body::Deliver(pb::Deliver { users: Bytes::from_static(b"short"), ..deliver.clone() })),
        link(pb::Body::Deliver(deliver)),
        link(pb::Body::Deliver(in_group.clone())),
        link(pb::Body::Deliver(pb::Deliver { seqs: vec![1], users: unsorted, ..in_group })),
        link(pb::Body::Register(pb::Register { user, device: 1, session: None, since: 0, is_fresh: false })),
        link(pb::Body::Registered(pb::Session { shard: 1 << 16, number: 1 })),
    ];
    for (n, bytes) in refused.into_iter().enumerate() {
        assert!(Message::decode(bytes).is_err(), "{n}");
    }
}

#[test]
fn what_a_newer_version_says_is_skipped() {
    let mut unknown = BytesMut::new();
    // Field 1000, a varint.
    unknown.put_slice(&[0xc0, 0x3e, 0x01]);
    assert!(matches!(Message::decode(unknown.freeze()), Ok(None)));
}

#[test]
fn nodes_agree_on_the_highest_version_that_both_speak() {
    let hello = |min, max| Hello { node: NODE, epoch: StoreEpoch::from_bytes([1; 16]), versions: (min, max) };
    for (mine, theirs, agreed) in [
        ((1, 1), (1, 1), Some(1)),
        ((1, 2), (2, 3), Some(2)),
        ((2, 3), (1, 2), Some(2)),
        ((2, 3), (1, 1), None),
        ((1, 1), (2, 3), None),
        // Not a range.
        ((1, 9), (5, 4), None),
    ] {
        assert_eq!(hello(mine.0, mine.1).agree(&hello(theirs.0, theirs.1)), agreed, "{mine:?} {theirs:?}");
    }
    let mut out = BytesMut::new();
    hello(1, 2).encode(&mut out);
    assert_eq!(Hello::decode(unframe(out)), Ok(hello(1, 2)));
    assert!(Hello::decode(Bytes::from_static(b"\xff")).is_err() && Hello::decode(Bytes::new()).is_err());
}

/// Nodes of one release and of the next are in one cluster while it is upgraded: these are the bytes of each version.
#[test]
fn what_a_version_says_is_spoken_for_ever() {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let versions = [
        (samples(), include_str!("wire_version_1.txt")),
        (samples_of_version_2(), include_str!("wire_version_2.txt")),
    ];
    for (samples, written) in versions {
        let lines: Vec<_> = samples.iter().map(|message| hex(&encoded(message))).collect();
        assert_eq!(lines, written.lines().collect::<Vec<_>>());
    }
}
