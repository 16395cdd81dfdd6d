//! Logs have what is needed to find a request; what must not be in them, `serve/secrets.rs` looks for.

use tern_client::Transport;
use tern_protocol::error::ErrorCode;
use tern_protocol::ids::RequestId;
use tern_protocol::request::HistoryFrom;

use crate::support::{Start, Ternd, group, refused, user};

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
