//! Logs: everything that is logged is looked through for what must not be there, and has what is needed to find a
//! request.

use tern_client::Transport;
use tern_protocol::error::ErrorCode;
use tern_protocol::ids::RequestId;
use tern_protocol::request::HistoryFrom;

use crate::support::{Session, Start, TRANSPORTS, Ternd, group, refused, user};

const PAYLOAD: &str = "a payload that nobody may read in a log";
const TITLE: &str = "a title that nobody may read in a log";

/// Ways in which bytes might be printed.
fn forms(secret: &str) -> [String; 3] {
    let bytes = secret.as_bytes();
    let list: Vec<_> = bytes.iter().map(u8::to_string).collect();
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    [secret.to_owned(), list.join(", "), hex]
}

#[tokio::test]
async fn at_trace_level_there_is_no_token_and_no_payload() {
    let data = tempfile::tempdir().expect("a temporary directory");
    let env = [("TERN_LOG", "trace".to_owned())];
    let ternd = Ternd::start(data.path(), &Start { env: &env, ..Start::default() });
    let mut tokens = Vec::new();
    for (n, transport) in TRANSPORTS.into_iter().enumerate() {
        let token = ternd.token("alice");
        let connection = ternd.connector().connect(transport).await.expect("connected");
        let mut alice = Session::login(connection, &token, 1 + n as u64).await.expect("the token is good");
        let mut bob = ternd.login(transport, "bob", 1 + n as u64).await;
        let id = group(n as u64);
        alice.create(id, TITLE, &["bob"]).await;
        alice.change(id, crate::support::message(PAYLOAD)).await.expect("stored");
        alice.text(user("bob"), PAYLOAD).await.expect("stored");
        bob.log_from(id, 1).await.expect("a member");
        refused(bob.change(group(99), crate::support::message(PAYLOAD)).await);
        // One that is refused is a secret as well: it may be good elsewhere.
        let foreign = format!("{}A.{}", &token[..token.len() / 2], &token[token.len() / 2..]);
        let connection = ternd.connector().connect(transport).await.expect("connected");
        assert_eq!(
            Session::login(connection, &foreign, 9).await.err().expect("refused").code,
            ErrorCode::TokenInvalid
        );
        tokens.extend([token, foreign]);
        alice.close().await;
    }
    let mut ternd = ternd;
    ternd.signal(libc::SIGTERM);
    let (status, log) = ternd.ends().await;
    assert!(status.success(), "{status}");
    assert!(log.contains("TRACE") && log.contains("logged in"), "it was logged at that level");
    for secret in [PAYLOAD, TITLE].into_iter().map(str::to_owned).chain(tokens.iter().flat_map(|token| {
        // The header says nothing; claims and signature are looked for one by one.
        token.split('.').skip(1).filter(|part| part.len() > 16).map(str::to_owned)
    })) {
        for form in forms(&secret) {
            assert!(!log.contains(&form), "{secret:?} is in the log, as {form:?}");
        }
    }
}

#[tokio::test]
async fn what_is_refused_can_be_found_in_the_log() {
    let data = tempfile::tempdir().expect("a temporary directory");
    let env = [("TERN_LOG", "tern_server=debug,warn".to_owned())];
    let mut ternd = Ternd::start(data.path(), &Start { env: &env, ..Start::default() });
    let mut alice = ternd.login(Transport::Tcp, "alice", 1).await;
    let page = tern_protocol::request::History {
        conversation: group(1),
        from: HistoryFrom::Backward(None),
        limit: 1,
    };
    let id = alice.request(tern_protocol::request::RequestBody::History(page)).await;
    assert_eq!(refused(alice.answer(id).await), ErrorCode::UnknownConversation);
    assert_eq!(id, RequestId(2));
    ternd.signal(libc::SIGTERM);
    drop(alice);
    let log = ternd.ends().await.1;
    let line = |what: &str| {
        log.lines().find(|line| line.contains(what)).unwrap_or_else(|| panic!("no {what}: {log}"))
    };
    let session = |line: &str| {
        let (_, rest) = line.split_once("session=").expect("a session");
        rest.split_whitespace().next().expect("its number").to_owned()
    };
    let (login, refusal) = (line("logged in"), line("unknown_conversation"));
    assert_eq!(session(login), session(refusal));
    assert!(login.contains("request=1 ") && login.contains(&user("alice").to_string()), "{login}");
    assert!(refusal.contains("request=2 ") && refusal.contains("told an error"), "{refusal}");
}
