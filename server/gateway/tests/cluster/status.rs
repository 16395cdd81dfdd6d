//! `ternd cluster status`.

use std::net::SocketAddr;
use std::process::{Command, Output};

use tern_core::limits::SLOTS;
use tern_server::metrics::catalog;

use crate::nodes::{Cluster, Node};

fn status(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ternd"));
    command.args(["cluster", "status"]).args(arguments).output().expect("ternd can be started")
}

/// What it says of a cluster, and its exit status.
async fn told(admin: SocketAddr) -> (String, Option<i32>) {
    let asked = tokio::task::spawn_blocking(move || status(&["--admin", &admin.to_string()]));
    let output = asked.await.expect("it ends");
    (String::from_utf8(output.stdout).expect("text"), output.status.code())
}

#[tokio::test]
async fn an_operator_is_told_who_is_there_and_what_is_wrong() {
    let (_cluster, nodes) = Cluster::of(2).await;
    let [one, other]: &[Node; 2] = nodes[..].try_into().expect("two");
    // What the tables are made of.
    assert_eq!(one.number(&catalog::CLUSTER_NODE_INFO).await, 2);
    assert_eq!(one.number(&catalog::CLUSTER_NODE_SLOTS).await, u64::from(SLOTS));
    assert!(one.value(&catalog::CLUSTER_NODE_STARTED).await > 2.0 * 1.7e9, "both have begun in this century");
    for age in [&catalog::CLUSTER_LINK_AGE, &catalog::CLUSTER_BEAT_AGE, &catalog::CLUSTER_NODE_BEAT_AGE] {
        one.tells_above(age, 0.0).await;
    }
    one.tells_above(&catalog::CLUSTER_LINK_ROUND_TRIP, 0.0).await;
    let (text, code) = told(one.admin).await;
    assert!(code == Some(0) && text.ends_with("\nAll is well.\n"), "{code:?}: {text}");
    let admin = one.admin.to_string();
    for (expected, exits) in [("2", 0), ("3", 3)] {
        let arguments = [String::from("--admin"), admin.clone(), "--expect".into(), expected.into()];
        let asked = tokio::task::spawn_blocking(move || status(&arguments.each_ref().map(String::as_str)));
        assert_eq!(asked.await.expect("it ends").status.code(), Some(exits), "{expected} are expected");
    }
    for id in [one.id, other.id] {
        let row = text.lines().find(|line| line.starts_with(&id.to_string())).expect("each node has a row");
        assert!(row.contains(" node ") && row.contains("serves") && row.contains("1-2"), "{row}");
    }
    let link = text.lines().rfind(|line| line.starts_with(&other.id.to_string())).expect("a link");
    assert!(link.contains("up for"), "{text}");
    assert!(!link.contains("DOWN") && link.contains(" 2 "), "the version: {link}");

    other.cut_links();
    one.tells(&catalog::CLUSTER_LINKS_UP, 0).await;
    one.tells_above(&catalog::CLUSTER_CALLS_FAILED, 0.0).await;
    let (text, code) = told(one.admin).await;
    assert_eq!(code, Some(3), "{text}");
    assert!(
        text.contains("DOWN for") && text.contains("\nWrong:\n- there has been no link to node"),
        "{text}"
    );
}

#[test]
fn without_an_answer_nothing_is_said_to_be_well() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr();
    let nobody = nobody.expect("bound").to_string();
    let embedded = tempfile::NamedTempFile::new().expect("a temporary file");
    let path = embedded.path().to_str().expect("a plain path");
    for (arguments, expected) in [
        (&["--admin", &nobody][..], "no answer from the admin address"),
        (&["--config", path], "missing"),
        (&["--config", "/nowhere/tern.toml"], "/nowhere/tern.toml"),
    ] {
        let output = status(arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(expected), "{arguments:?}: {said}");
    }
    assert_eq!(status(&["--admin", &nobody, "--config", path]).status.code(), Some(2));
}
