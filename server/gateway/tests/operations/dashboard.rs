//! The dashboard, the table in `spec/operations.md` and a running server speak of the same metrics.

use std::collections::{BTreeMap, BTreeSet};

use tern_client::Transport;
use tern_protocol::ids::ConversationId;
use tern_protocol::limits::PAYLOAD_BYTES_MAX;
use tern_protocol::model::{Change, Message, Target};
use tern_protocol::request::{HistoryFrom, RequestBody, Send};
use tern_server::metrics::catalog::{self, Kind};
use tern_server::metrics::text::Sample;

use crate::support::{PATIENCE, Session, Start, TRANSPORTS, Ternd, group, message, refused, sync, user};
use crate::{file, page, samples};

/// They do not move while all is well: constants, and what only trouble moves.
const STILL: [&catalog::Family; 15] = [
    &catalog::BUILD_INFO,
    &catalog::MAX_FILES,
    &catalog::START_TIME,
    &catalog::WAITING_BYTES_MAX,
    &catalog::MAILBOX_CAPACITY,
    &catalog::DRAINING,
    &catalog::ACCEPT_PAUSES,
    &catalog::CUTS,
    &catalog::QUIC_FORWARDED,
    &catalog::STORE_UP,
    // In steps of a journal's size; and its own file system may be anything.
    &catalog::STORE_DISK_BYTES,
    &catalog::STORE_FREE_BYTES,
    // Of the moment; empty most of the time.
    &catalog::MAILBOX_MESSAGES,
    &catalog::STORE_QUEUED,
    &catalog::STORE_QUEUED_BYTES,
];

/// The metric that a sample belongs to.
fn family(sample: &str) -> &str {
    let is = |name: &str, kind: Option<Kind>| {
        catalog::ALL.iter().any(|family| family.name == name && kind.is_none_or(|kind| family.kind == kind))
    };
    let of_histogram = ["_bucket", "_sum", "_count"].iter().filter_map(|suffix| sample.strip_suffix(suffix));
    of_histogram.into_iter().find(|name| is(name, Some(Kind::Histogram))).unwrap_or(sample)
}

#[tokio::test]
async fn the_specification_has_the_metrics_that_are_exported() {
    let data = tempfile::tempdir().expect("a temporary directory");
    let ternd = Ternd::start(data.path(), &Start { shards: 3, ..Start::default() });
    let page = page(&ternd).await;
    let exported: Vec<_> = page.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
    let ours: Vec<_> = catalog::ALL.iter().map(|f| format!("{} {}", f.name, f.kind.name())).collect();
    assert_eq!(exported, ours, "the page has everything in the catalog, in its order");

    let spec = file("spec/operations.md");
    let (_, table) = spec.split_once("\n## Metrics\n").expect("a chapter");
    let rows = table.lines().filter(|line| line.starts_with("| `"));
    let documented: Vec<_> = rows.collect();
    let row = |family: &catalog::Family| {
        let labels: Vec<_> = family.labels.iter().map(|label| format!("`{label}`")).collect();
        format!("| `{}` | {} | {} | {} |", family.name, family.kind.name(), labels.join(", "), family.help)
    };
    let rows: Vec<_> = catalog::ALL.iter().map(|family| row(family)).collect();
    for (documented, ours) in documented.iter().zip(&rows) {
        assert_eq!(documented, ours, "a row of spec/operations.md");
    }
    assert_eq!(documented.len(), rows.len(), "rows in spec/operations.md, metrics in the catalog");

    // Every shard, and for each transport.
    let samples = tern_server::metrics::text::parse(&page).expect("the text format");
    let connections = samples.iter().filter(|sample| sample.name == catalog::CONNECTIONS.name);
    let labels: BTreeSet<_> = connections.map(|s| (s.label("shard"), s.label("transport"))).collect();
    let expected = ["0", "1", "2"].map(|shard| TRANSPORTS.map(|t| (Some(shard), Some(name(t)))));
    assert_eq!(labels, expected.into_iter().flatten().collect());
}

fn name(transport: Transport) -> &'static str {
    if transport == Transport::Quic { "quic" } else { "tcp" }
}

/// Names of metrics in the dashboard's queries.
fn shown() -> BTreeSet<String> {
    let dashboard: serde_json::Value =
        serde_json::from_str(&file("server/gateway/ops/grafana.json")).expect("the dashboard is JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let targets = panels.iter().filter_map(|panel| panel["targets"].as_array()).flatten();
    let queries = targets.map(|target| target["expr"].as_str().expect("a query").to_owned());
    let words = |query: String| -> Vec<String> {
        let words = query.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
        words
            .filter(|word| word.starts_with("tern_") || word.starts_with("process_"))
            .map(String::from)
            .collect()
    };
    queries.flat_map(words).collect()
}

#[tokio::test]
async fn the_dashboard_shows_what_is_there_and_what_moves() {
    let shown = shown();
    let families: BTreeSet<_> = shown.iter().map(|name| family(name)).collect();
    let all: BTreeSet<_> = catalog::ALL.iter().map(|family| family.name).collect();
    assert_eq!(families, all, "the dashboard shows every metric, and no other");

    let data = tempfile::tempdir().expect("a temporary directory");
    let ternd = Ternd::start(data.path(), &Start::default());
    let before = by_name(samples(&ternd).await);
    for name in &shown {
        assert!(
            before.contains_key(name.as_str()),
            "{name} is on the dashboard, and the server has no such metric"
        );
    }
    let mut still: BTreeSet<_> = shown.iter().cloned().collect();
    still.retain(|name| !STILL.iter().any(|family| family.name == crate::dashboard::family(name)));

    // Bob does not read, so that something is dropped.
    let mut senders = Vec::new();
    let mut bobs = Vec::new();
    for (n, transport) in TRANSPORTS.into_iter().enumerate() {
        let mut alice = ternd.login(transport, "alice", 1 + n as u64).await;
        bobs.push(ternd.login(transport, "bob", 1 + n as u64).await);
        alice.create(group(n as u64), "both", &["bob"]).await;
        one_of_each(&mut alice, group(n as u64)).await;
        senders.push((alice, group(n as u64)));
    }
    let moves = async {
        while !still.is_empty() {
            let flood = async {
                for (alice, group) in &mut senders {
                    flood(alice, *group).await;
                }
            };
            // Meanwhile, for what is there only then.
            let ((), now) = tokio::join!(flood, samples(&ternd));
            let now = by_name(now);
            still.retain(|name| now[name.as_str()] == before[name.as_str()]);
        }
    };
    let moved = tokio::time::timeout(PATIENCE, moves).await;
    assert!(moved.is_ok(), "on the dashboard, and they do not move: {still:?}");
    for transport in TRANSPORTS {
        let sum = |name: &str, label: (&str, &str), samples: &[Sample]| -> f64 {
            let of = samples.iter().filter(|s| s.name == name && s.label("transport") == Some(label.1));
            of.filter(|s| label.0.is_empty() || s.label("result") == Some(label.0)).map(|s| s.value).sum()
        };
        let samples = samples(&ternd).await;
        let transport = name(transport);
        assert_eq!(sum("tern_connections", ("", transport), &samples), 2.0, "{transport}");
        assert_eq!(sum("tern_handshakes_total", ("accepted", transport), &samples), 2.0, "{transport}");
    }
}

/// Requests of every kind, and one that is refused.
async fn one_of_each(alice: &mut Session, group: ConversationId) {
    alice.text(user("bob"), "hello").await.expect("stored");
    alice.sync(sync(&[])).await;
    alice.history(group, HistoryFrom::Backward(None), 1).await.expect("a member");
    alice.conversations(0).await;
    alice.members(group, 0).await.expect("a member");
    alice.receipts(group, None, 0).await.expect("a member");
    alice.mark(group, 1, 1).await.expect("a member");
    refused(alice.change(crate::support::group(99), message("nobody's")).await);
}

/// Some large messages at once, each received by Alice's other device and marked.
async fn flood(alice: &mut Session, group: ConversationId) {
    let target = Target::Conversation(group);
    let mut asked = Vec::new();
    for _ in 0..16 {
        let payload = vec![7; PAYLOAD_BYTES_MAX].into();
        let change = Change::Message(Message { content_type: String::new(), payload, reply_to: None });
        let client_seq = alice.next_client_seq(&target);
        asked.push(alice.request(RequestBody::Send(Send { target, client_seq, change })).await);
    }
    let mut head = 0;
    for request in asked {
        match alice.answer(request).await.expect("stored") {
            tern_protocol::event::ServerBody::SendOk(ok) => head = ok.seq.get(),
            other => panic!("not the answer to a send: {other:?}"),
        }
        alice.events.clear();
    }
    alice.mark(group, head, head).await.expect("a member");
}

fn by_name(samples: Vec<Sample>) -> BTreeMap<String, Vec<Sample>> {
    let mut all: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for sample in samples {
        all.entry(sample.name.clone()).or_default().push(sample);
    }
    all
}
