//! Membership: who gets what from which entry to which, and who may do what.

use tern_protocol::error::ErrorCode;
use tern_protocol::event::ServerBody;
use tern_protocol::ids::{ConversationId, Seq};
use tern_protocol::model::{Change, Kind, Role, Target};
use tern_protocol::request::HistoryFrom;

use crate::support::{Session, group, message, over_each, refused, seqs, sync, texts, user};

/// The next event about the group that is not about receipts, which has to be a push; returns its seq.
async fn next_push(session: &mut Session, group: ConversationId) -> u64 {
    session
        .until(|event| match event {
            ServerBody::Push { conversation, entry } if *conversation == group => Some(entry.seq.get()),
            ServerBody::HeadMoved { conversation, head } if *conversation == group => {
                panic!("a head ({head}) where a push was due")
            }
            _ => None,
        })
        .await
}

fn remove(name: &str) -> Change {
    Change::Remove { member: user(name) }
}

fn add(names: &[&str]) -> Change {
    Change::Add { members: names.iter().map(|name| user(name)).collect() }
}

fn role(name: &str, role: Role) -> Change {
    Change::Role { member: user(name), role }
}

fn title(title: &str) -> Change {
    Change::Title { title: title.into() }
}

#[tokio::test]
async fn who_is_removed_gets_nothing_after_it() {
    over_each(async |ternd, transport| {
        let id = group(1);
        let mut alice = ternd.login(transport, "alice", 1).await;
        let mut bob = ternd.login(transport, "bob", 1).await;
        let mut carol = ternd.login(transport, "carol", 1).await;
        alice.create(id, "walkers", &["bob", "carol"]).await;
        let before = carol.change(id, message("two")).await.expect("a member");
        assert_eq!(alice.change(id, remove("carol")).await.expect("the owner may").seq, Seq(3));
        alice.change(id, message("four")).await.expect("stored");
        bob.change(id, message("five")).await.expect("stored");

        for seq in 1..=3 {
            assert_eq!(next_push(&mut carol, id).await, seq);
        }
        let log = carol.log_from(id, 1).await.expect("former members keep reading");
        assert_eq!(seqs(&log), [1, 2, 3]);
        assert_eq!(log[2].change, remove("carol"));
        let page = carol.history(id, HistoryFrom::Backward(None), 10).await.expect("up to there");
        assert_eq!((page.floor, page.head, seqs(&page.entries)), (Seq(1), Seq(3), vec![1, 2, 3]));
        let page = carol.history(id, HistoryFrom::Forward(Seq(4)), 10).await.expect("nothing");
        assert!(page.entries.is_empty());
        let synced = carol.sync(sync(&[(id, 2)])).await;
        let state = &synced.conversations[0];
        assert_eq!((state.head, state.complete_to, state.role), (Seq(3), Seq(3), None));
        assert_eq!(seqs(&state.entries), [3]);
        assert_eq!(state.time, log[2].time, "nor how lively it is without them");
        assert!(carol.sync(sync(&[(id, 3)])).await.conversations.is_empty());
        let line = carol.line(id).await;
        assert_eq!((line.head, line.role, seqs(&line.entries)), (Seq(3), None, vec![3]));

        let after = carol.change(id, message("let me in")).await;
        assert_eq!(refused(after), ErrorCode::NotMember);
        assert_eq!(refused(carol.change(id, Change::Leave).await), ErrorCode::NotMember);
        assert_eq!(refused(carol.members(id, 0).await), ErrorCode::NotMember);
        assert_eq!(refused(carol.receipts(id, None, 0).await), ErrorCode::NotMember);
        carol.mark(id, 3, 3).await.expect("up to what they can see");
        assert_eq!(refused(carol.mark(id, 4, 0).await), ErrorCode::InvalidArgument);
        let target = Target::Conversation(id);
        let again = carol.send_as(target, tern_protocol::ids::ClientSeq(1), message("two")).await;
        assert_eq!(again.map(|ok| (ok.seq, ok.duplicate)), Ok((before.seq, true)), "stored is stored");

        assert_eq!(alice.change(id, add(&["carol"])).await.expect("the owner may").seq, Seq(6));
        bob.change(id, message("seven")).await.expect("stored");
        // The entry that brings them back comes the same way as all others: had any gone to them meanwhile, it would
        // have come before.
        assert_eq!(next_push(&mut carol, id).await, 6, "entries without them were pushed to them");
        assert_eq!(next_push(&mut carol, id).await, 7);
        let page = carol.history(id, HistoryFrom::Forward(Seq(0)), 0).await.expect("a member again");
        assert_eq!((page.floor, page.head, seqs(&page.entries)), (Seq(6), Seq(7), vec![6, 7]));
        let page = carol.history(id, HistoryFrom::Backward(Some(Seq(5))), 0).await.expect("a member again");
        assert!(page.entries.is_empty(), "{page:?}");
        let state = carol.sync(sync(&[(id, 3)])).await.conversations.remove(0);
        assert_eq!((state.floor, state.head, seqs(&state.entries)), (Seq(6), Seq(7), vec![6, 7]));
        assert_eq!(state.role, Some(Role::Member));
        assert_eq!(carol.change(id, message("back")).await.expect("a member").seq, Seq(8));
    })
    .await;
}

#[tokio::test]
async fn who_was_removed_while_away_finds_out() {
    over_each(async |ternd, transport| {
        let id = group(1);
        let mut alice = ternd.login(transport, "alice", 1).await;
        alice.create(id, "walkers", &["bob"]).await;
        alice.change(id, message("two")).await.expect("stored");
        alice.change(id, remove("bob")).await.expect("the owner may");
        alice.change(id, message("without bob")).await.expect("stored");
        alice.change(id, title("the others")).await.expect("the owner may");
        let mut bob = ternd.login(transport, "bob", 1).await;
        let state = bob.sync(sync(&[])).await.conversations.remove(0);
        assert_eq!((state.head, state.complete_to, seqs(&state.entries)), (Seq(3), Seq(3), vec![1, 2, 3]));
        let mut stranger = ternd.login(transport, "mallory", 1).await;
        assert!(stranger.sync(sync(&[(id, 0)])).await.conversations.is_empty());
        for answer in [
            stranger.change(id, message("hi")).await.map(drop),
            stranger.history(id, HistoryFrom::Forward(Seq(0)), 0).await.map(drop),
            stranger.mark(id, 1, 0).await,
            stranger.members(id, 0).await.map(drop),
            stranger.receipts(id, None, 0).await.map(drop),
        ] {
            assert_eq!(refused(answer), ErrorCode::NotMember);
        }
    })
    .await;
}

#[tokio::test]
async fn owners_leave_and_have_heirs() {
    over_each(async |ternd, transport| {
        let id = group(1);
        let mut alice = ternd.login(transport, "alice", 1).await;
        let mut bob = ternd.login(transport, "bob", 1).await;
        let mut carol = ternd.login(transport, "carol", 1).await;
        let mut dave = ternd.login(transport, "dave", 1).await;
        alice.create(id, "heirs", &["carol"]).await;
        alice.change(id, add(&["bob"])).await.expect("the owner may");
        alice.change(id, add(&["dave"])).await.expect("the owner may");
        alice.change(id, role("dave", Role::Admin)).await.expect("the owner may");
        assert_eq!(alice.change(id, Change::Leave).await.expect("everybody may").seq, Seq(5));
        let roles = async |session: &mut Session| {
            let mut members: Vec<_> = session.members(id, 2).await.expect("a member");
            members.sort_by_key(|(_, role, joined)| (std::cmp::Reverse(*role), *joined));
            members
        };
        assert_eq!(
            roles(&mut bob).await,
            [
                (user("dave"), Role::Owner, Seq(3)),
                (user("carol"), Role::Member, Seq(1)),
                (user("bob"), Role::Member, Seq(2)),
            ],
            "the admin, who came last, inherits"
        );
        for seq in 1..=5 {
            assert_eq!(next_push(&mut alice, id).await, seq, "who leaves gets that as the last");
        }
        assert_eq!(refused(alice.change(id, message("one more thing")).await), ErrorCode::NotMember);
        dave.change(id, Change::Leave).await.expect("everybody may");
        assert_eq!(
            roles(&mut bob).await,
            [(user("carol"), Role::Owner, Seq(1)), (user("bob"), Role::Member, Seq(2))],
            "the longest-standing member inherits"
        );
        carol.change(id, title("two left")).await.expect("the owner may");
        carol.change(id, Change::Leave).await.expect("everybody may");
        bob.change(id, add(&["erin"])).await.expect("bob owns it now");
        bob.change(id, remove("erin")).await.expect("the owner may");
        assert_eq!(bob.change(id, Change::Leave).await.expect("everybody may").seq, Seq(11));
        assert_eq!(refused(bob.change(id, message("anybody?")).await), ErrorCode::NotMember);
        let create = Change::Create { title: "mine".into(), members: vec![] };
        assert_eq!(
            refused(dave.change(id, create).await),
            ErrorCode::ConversationExists,
            "its id stays taken"
        );
        assert_eq!(bob.log_from(id, 0).await.expect("former members keep reading").len(), 10, "2 to 11");
    })
    .await;
}

/// Who tries what, and whether it is done.
type Cases<'a> = (&'a mut Session, &'a [(Change, Result<(), ErrorCode>)]);

#[tokio::test]
async fn roles_allow_and_forbid() {
    use ErrorCode::{Forbidden, InvalidArgument, NoChange};
    over_each(async |ternd, transport| {
        let id = group(1);
        let mut alice = ternd.login(transport, "alice", 1).await;
        let mut admin = ternd.login(transport, "admin", 1).await;
        let mut carol = ternd.login(transport, "carol", 1).await;
        alice.create(id, "rules", &["admin", "second", "carol", "dave"]).await;
        alice.change(id, role("admin", Role::Admin)).await.expect("the owner may");
        alice.change(id, role("second", Role::Admin)).await.expect("the owner may");
        let mut head = 3;
        let cases: [Cases<'_>; 3] = [
            (
                &mut carol,
                &[
                    (title("mine"), Err(Forbidden)),
                    (add(&["erin"]), Err(Forbidden)),
                    (remove("dave"), Err(Forbidden)),
                    (remove("carol"), Err(Forbidden)),
                    (role("carol", Role::Owner), Err(Forbidden)),
                    (message("members may"), Ok(())),
                ],
            ),
            (
                &mut admin,
                &[
                    (title("rules"), Err(NoChange)),
                    (title("new rules"), Ok(())),
                    (title(""), Ok(())),
                    (add(&["carol", "dave"]), Err(NoChange)),
                    (add(&["erin", "dave"]), Ok(())),
                    (remove("erin"), Ok(())),
                    (remove("erin"), Err(NoChange)),
                    (remove("alice"), Err(Forbidden)),
                    (remove("second"), Err(Forbidden)),
                    (remove("admin"), Err(InvalidArgument)),
                    (role("carol", Role::Admin), Err(Forbidden)),
                    (role("second", Role::Member), Err(Forbidden)),
                ],
            ),
            (
                &mut alice,
                &[
                    (role("carol", Role::Member), Err(NoChange)),
                    (role("alice", Role::Member), Err(InvalidArgument)),
                    (role("erin", Role::Admin), Err(InvalidArgument)),
                    (role("nobody", Role::Admin), Err(InvalidArgument)),
                    (remove("second"), Ok(())),
                    (role("carol", Role::Admin), Ok(())),
                    (role("carol", Role::Member), Ok(())),
                    (role("admin", Role::Owner), Ok(())),
                    (role("carol", Role::Admin), Err(Forbidden)),
                    (remove("admin"), Err(Forbidden)),
                    (title("as an admin now"), Ok(())),
                ],
            ),
        ];
        for (session, changes) in cases {
            for (change, expected) in changes {
                let result = session.change(id, change.clone()).await;
                head += u64::from(expected.is_ok());
                let seq = result.map(|ok| ok.seq.get()).map_err(|error| error.code);
                assert_eq!(seq, expected.map(|()| head), "{change:?}");
            }
        }
        let mut members = admin.members(id, 0).await.expect("a member");
        members.sort_by_key(|(_, role, _)| std::cmp::Reverse(*role));
        let roles: Vec<_> = members.iter().map(|(member, role, _)| (*member, *role)).collect();
        assert_eq!(roles[..2], [(user("admin"), Role::Owner), (user("alice"), Role::Admin)]);
        assert_eq!(roles.len(), 4);
        let log = admin.log_from(id, 1).await.expect("a member");
        assert_eq!(log.len() as u64, head, "what was refused left nothing");
        assert!(log.iter().any(|entry| entry.change == add(&["erin"])), "an entry shows what really changed");
        let line = carol.line(id).await;
        assert_eq!((line.kind, line.title.as_str(), line.peer), (Kind::Group, "as an admin now", None));
    })
    .await;
}

#[tokio::test]
async fn creating_is_for_new_ids_and_shows_who_is_in() {
    over_each(async |ternd, transport| {
        let id = group(1);
        let mut alice = ternd.login(transport, "alice", 1).await;
        let mut bob = ternd.login(transport, "bob", 1).await;
        // The creator may be named; it changes nothing.
        alice.create(id, "first", &["bob", "alice"]).await;
        let (_, entry) = bob.pushed().await;
        assert_eq!(entry.change, Change::Create { title: "first".into(), members: vec![user("bob")] });
        assert_eq!(entry.sender.user, user("alice"));
        let create = |title: &str| Change::Create { title: title.into(), members: vec![] };
        assert_eq!(refused(alice.change(id, create("second")).await), ErrorCode::ConversationExists);
        assert_eq!(refused(bob.change(id, create("mine")).await), ErrorCode::ConversationExists);
        let direct = ConversationId::direct(user("bob"), user("carol"));
        assert_eq!(refused(alice.change(direct, create("squatter")).await), ErrorCode::InvalidArgument);
        assert_eq!(refused(alice.change(group(2), message("x")).await), ErrorCode::UnknownConversation);

        let crowd: Vec<String> = (0..1_023).map(|n| format!("member{n}")).collect();
        let crowd: Vec<&str> = crowd.iter().map(String::as_str).collect();
        alice.create(group(2), "full", &crowd).await;
        let one_more = alice.change(group(2), add(&["late"])).await;
        assert_eq!(refused(one_more), ErrorCode::TooManyMembers);
        let members = alice.members(group(2), 500).await.expect("a member");
        assert_eq!(members.len(), 1_024);
        assert!(members.is_sorted_by_key(|(member, ..)| *member));
        alice.change(group(2), remove("member7")).await.expect("the owner may");
        alice.change(group(2), add(&["late"])).await.expect("there is a place");
        assert_eq!(texts(&alice.log_from(group(2), 4).await.expect("a member")), Vec::<&str>::new());
    })
    .await;
}
