//! The real server over both transports, as clients see it.

mod support;

use support::{Start, TRANSPORTS, Ternd, message, text, user};
use tern_protocol::ids::Seq;
use tern_protocol::model::Target;

#[tokio::test]
async fn two_people_talk() {
    let data = tempfile::tempdir().expect("a temporary directory");
    let ternd = Ternd::start(data.path(), &Start::default());
    for (i, transport) in TRANSPORTS.into_iter().enumerate() {
        let (alice_name, bob_name) = (format!("alice{i}"), format!("bob{i}"));
        let mut alice = ternd.login(transport, &alice_name, 1).await;
        let mut bob = ternd.login(transport, &bob_name, 1).await;
        let sent = alice.send(Target::User(user(&bob_name)), message("hello")).await.expect("stored");
        assert_eq!((sent.seq, sent.duplicate), (Seq(1), false));
        let (conversation, entry) = bob.pushed().await;
        assert_eq!((conversation, entry.seq, text(&entry)), (sent.conversation, Seq(1), "hello"));
        assert_eq!(entry.sender.user, alice.user());
    }
    assert!(ternd.terminate().success());
}
