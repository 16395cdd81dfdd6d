//! Fields at their limits, and beyond.

use bytes::Bytes;
use tern_protocol::error::ErrorCode;
use tern_protocol::event::ServerBody;
use tern_protocol::frame;
use tern_protocol::ids::Seq;
use tern_protocol::pb::{self, client_frame::Request as R, send};

use crate::is_well;
use crate::support::{Session, group, next, over_each, user};

/// Sends a request in the schema's own words; `Ok` for any answer but an error.
async fn ask(session: &mut Session, id: u64, request: R) -> Result<ServerBody, ErrorCode> {
    let bytes = frame::encode(&pb::ClientFrame { request_id: id, request: Some(request) });
    session.connection().send_bytes(&bytes).await.expect("sent");
    loop {
        let message = next(session.connection()).await.expect("it stays");
        match message.body {
            _ if message.id.get() != id => {}
            ServerBody::Error(error) => return Err(error.code),
            body => return Ok(body),
        }
    }
}

fn bytes(n: usize) -> Bytes {
    vec![0x41; n].into()
}

fn ids(n: u32) -> Vec<Bytes> {
    (0..n).map(|n| [&n.to_be_bytes()[..], &[7; 12]].concat().into()).collect()
}

fn bob() -> Bytes {
    user("bob").as_bytes().to_vec().into()
}

fn walkers() -> Bytes {
    group(1).as_bytes().to_vec().into()
}

/// A send to the group, without number and change.
fn to_group() -> pb::Send {
    pb::Send { target: Some(send::Target::Conversation(walkers())), ..Default::default() }
}

fn text(content_type: usize, payload: usize) -> Option<send::Change> {
    let content_type = "t".repeat(content_type);
    Some(send::Change::Message(pb::Message { content_type, payload: bytes(payload), reply_to: 0 }))
}

fn title(bytes: usize) -> Option<send::Change> {
    Some(send::Change::Title(pb::TitleSet { title: "t".repeat(bytes) }))
}

fn add(members: Vec<Bytes>) -> Option<send::Change> {
    Some(send::Change::Add(pb::MembersAdd { members }))
}

fn role(role: i32) -> Option<send::Change> {
    Some(send::Change::Role(pb::RoleSet { member: bob(), role }))
}

#[tokio::test]
async fn sends_have_limits() {
    use ErrorCode::{InvalidArgument, NoChange, TooManyMembers};
    over_each(async |ternd, transport| {
        let mut alice = ternd.login(transport, "alice", 1).await;
        alice.create(group(1), "walkers", &["bob"]).await;
        let target = |target| pb::Send { target, change: text(1, 1), client_seq: 0 };
        let new_group = |id: Bytes, title: usize, members| pb::Send {
            target: Some(send::Target::Conversation(id)),
            client_seq: 0,
            change: Some(send::Change::Create(pb::GroupCreate { title: "t".repeat(title), members })),
        };
        let group_id = |n| Bytes::from(group(n).as_bytes().to_vec());
        let change = |change| pb::Send { change, ..to_group() };
        let with_number = |client_seq| pb::Send { client_seq, ..change(text(1, 1)) };
        let twice = vec![bob(), bob()];
        // 0 for a number means the next one.
        let cases = [
            ("no target", target(None), Err(InvalidArgument)),
            ("an id of 15 bytes", target(Some(send::Target::User(bytes(15)))), Err(InvalidArgument)),
            ("an id of 17 bytes", target(Some(send::Target::Conversation(bytes(17)))), Err(InvalidArgument)),
            ("no id", target(Some(send::Target::User(bytes(0)))), Err(InvalidArgument)),
            ("no change", change(None), Err(InvalidArgument)),
            ("nothing in the message", change(text(0, 0)), Ok(())),
            ("the longest content type", change(text(128, 1)), Ok(())),
            ("a longer content type", change(text(129, 1)), Err(InvalidArgument)),
            ("the longest payload", change(text(128, 65_536)), Ok(())),
            ("a longer payload", change(text(1, 65_537)), Err(InvalidArgument)),
            ("a payload as long as frames", change(text(1, 1_048_000)), Err(InvalidArgument)),
            ("the longest title", change(title(256)), Ok(())),
            ("a longer title", change(title(257)), Err(InvalidArgument)),
            ("nobody to add", change(add(vec![])), Err(InvalidArgument)),
            ("a member twice", change(add(twice.clone())), Err(InvalidArgument)),
            ("a member of 3 bytes", change(add(vec![bytes(3)])), Err(InvalidArgument)),
            ("more members than fit", change(add(ids(1_024))), Err(TooManyMembers)),
            ("more members than may be named", change(add(ids(1_025))), Err(InvalidArgument)),
            ("no role", change(role(0)), Err(InvalidArgument)),
            ("a role of a later version", change(role(4)), Err(InvalidArgument)),
            ("a negative role", change(role(-1)), Err(InvalidArgument)),
            ("the role as it is", change(role(1)), Err(NoChange)),
            ("a group on a direct chat's id", new_group(bytes(16), 1, vec![]), Err(InvalidArgument)),
            ("a group of 1,025", new_group(group_id(2), 1, ids(1_024)), Err(InvalidArgument)),
            ("a group with a long title", new_group(group_id(2), 257, vec![]), Err(InvalidArgument)),
            ("a group with a member twice", new_group(group_id(2), 1, twice), Err(InvalidArgument)),
            ("a group of 1,024", new_group(group_id(2), 256, ids(1_023)), Ok(())),
            ("the highest number", with_number(u64::MAX), Ok(())),
        ];
        let mut head = 1;
        for ((what, send, expected), next_number) in cases.into_iter().zip(2..) {
            let number = if send.client_seq == 0 { next_number } else { send.client_seq };
            let in_group = send.target == to_group().target;
            let answer = ask(&mut alice, number, R::Send(pb::Send { client_seq: number, ..send })).await;
            assert_eq!(answer.map(drop), expected, "{what}");
            head += u64::from(expected.is_ok() && in_group);
        }
        let number_0 = pb::Send { client_seq: 0, ..change(text(1, 1)) };
        assert_eq!(ask(&mut alice, 9_999, R::Send(number_0)).await, Err(InvalidArgument));
        let user = Some(send::Target::User(bob()));
        for change in [title(1), add(vec![bob()]), role(2), Some(send::Change::Leave(pb::Leave {}))] {
            let send = pb::Send { target: user.clone(), client_seq: 1, change };
            assert_eq!(ask(&mut alice, 9_999, R::Send(send)).await, Err(InvalidArgument), "to a user");
        }
        let Ok(ServerBody::HistoryPage(page)) =
            ask(&mut alice, 9_999, R::History(pb::History { conversation: walkers(), ..Default::default() }))
                .await
        else {
            panic!("no page")
        };
        assert_eq!(page.head, Seq(head), "what was refused left nothing");
        is_well(ternd).await;
    })
    .await;
}

#[tokio::test]
async fn queries_and_marks_have_limits() {
    over_each(async |ternd, transport| {
        let mut alice = ternd.login(transport, "alice", 1).await;
        alice.create(group(1), "walkers", &["bob"]).await;
        let known = |n: u32| {
            ids(n)
                .into_iter()
                .map(|conversation| pb::Known { conversation, seq: 1, ..Default::default() })
                .collect()
        };
        let sync = |known| R::Sync(pb::Sync { known, ..Default::default() });
        let mark = |conversation, delivered, read| pb::Watermark { conversation, delivered, read };
        let marks = |n| R::Mark(pb::Mark { marks: vec![mark(walkers(), 1, 1); n] });
        let history = |conversation| R::History(pb::History { conversation, ..Default::default() });
        let members =
            |conversation, after, limit| R::ListMembers(pb::ListMembers { conversation, after, limit });
        let receipts =
            |conversation, after, limit| R::ListReceipts(pb::ListReceipts { conversation, after, limit });
        let list = |after| R::ListConversations(pb::ListConversations { after, limit: u32::MAX });
        let mut unsorted: Vec<pb::Known> = known(3);
        unsorted.swap(1, 2);
        let twice: Vec<pb::Known> = [known(1), known(1)].concat();
        let cases = [
            ("known, at the limit", sync(known(16_000)), true),
            ("known, above it", sync(known(16_001)), false),
            ("known, not sorted", sync(unsorted), false),
            ("known, one twice", sync(twice), false),
            ("known, no id", sync(vec![pb::Known { seq: 1, ..Default::default() }]), false),
            ("sync after half an id", R::Sync(pb::Sync { after: bytes(8), ..Default::default() }), false),
            ("sync until too much", R::Sync(pb::Sync { until: bytes(32), ..Default::default() }), false),
            ("sync, the highest latest", R::Sync(pb::Sync { latest: u32::MAX, ..Default::default() }), true),
            ("marks, at the limit", marks(1_024), true),
            ("marks, above it", marks(1_025), false),
            ("a mark of nothing", R::Mark(pb::Mark { marks: vec![mark(walkers(), 0, 0)] }), false),
            ("a mark above the head", R::Mark(pb::Mark { marks: vec![mark(walkers(), 2, 1)] }), false),
            ("a mark without an id", R::Mark(pb::Mark { marks: vec![mark(bytes(0), 1, 1)] }), false),
            ("history of no id", history(bytes(0)), false),
            ("history of a long id", history(bytes(17)), false),
            ("members of no id", members(bytes(0), bytes(0), 0), false),
            ("members after half an id", members(walkers(), bytes(8), 0), false),
            ("members, the highest limit", members(walkers(), bytes(16), u32::MAX), true),
            ("receipts of no id", receipts(bytes(0), bytes(0), 0), false),
            ("receipts after half an id", receipts(walkers(), bytes(8), 0), false),
            ("receipts, the highest limit", receipts(walkers(), bytes(16), u32::MAX), true),
            ("list after half an id", list(bytes(8)), false),
            ("list after the last id", list(vec![0xff; 16].into()), true),
        ];
        for ((what, request, good), id) in cases.into_iter().zip(100..) {
            let expected = if good { Ok(()) } else { Err(ErrorCode::InvalidArgument) };
            assert_eq!(ask(&mut alice, id, request).await.map(drop), expected, "{what}");
        }
        is_well(ternd).await;
    })
    .await;
}

#[tokio::test]
async fn logins_have_limits() {
    over_each(async |ternd, transport| {
        let good = pb::Login {
            token: ternd.token("alice"),
            device: 1,
            version_min: 1,
            version_max: 1,
            features: vec![],
            client: String::new(),
        };
        let cases = [
            ("device 0", pb::Login { device: 0, ..good.clone() }, false),
            ("no token", pb::Login { token: String::new(), ..good.clone() }, false),
            ("a token above the limit", pb::Login { token: "x".repeat(3_073), ..good.clone() }, false),
            ("too long a name", pb::Login { client: "x".repeat(65), ..good.clone() }, false),
            ("too many features", pb::Login { features: vec![7; 65], ..good.clone() }, false),
            ("features as many as may be", pb::Login { features: (0..64).collect(), ..good.clone() }, true),
            ("the longest name", pb::Login { client: "x".repeat(64), ..good.clone() }, true),
            ("the highest device", pb::Login { device: u64::MAX, ..good }, true),
        ];
        for (what, login, good) in cases {
            let mut connection = crate::connect(ternd, transport).await;
            let request = pb::ClientFrame { request_id: 5, request: Some(R::Login(login)) };
            connection.send_bytes(&frame::encode(&request)).await.expect("sent");
            let answer = next(&mut connection).await.expect("it stays");
            match answer.body {
                ServerBody::LoginOk(ok) => assert!(good && ok.features.is_empty(), "{what}"),
                ServerBody::Error(error) => {
                    assert_eq!((good, error.code), (false, ErrorCode::InvalidArgument), "{what}");
                    // Only that: the next try may be better.
                    let session = Session::login(connection, &ternd.token("alice"), 1).await;
                    assert!(session.is_ok());
                }
                other => panic!("{what}: {other:?}"),
            }
        }
    })
    .await;
}
