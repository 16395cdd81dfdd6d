//! The dashboard, the table in `spec/operations.md` and a running server speak of the same metrics.

use std::collections::BTreeSet;

use tern_client::Transport;
use tern_server::metrics::catalog::{self, Kind};

use crate::support::{Start, TRANSPORTS, Ternd};
use crate::{file, page, samples};

/// The metric that a sample belongs to.
pub(crate) fn family(sample: &str) -> &str {
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
async fn the_dashboard_shows_what_is_there() {
    let shown = shown();
    let families: BTreeSet<_> = shown.iter().map(|name| family(name)).collect();
    let all: BTreeSet<_> = catalog::ALL.iter().map(|family| family.name).collect();
    assert_eq!(families, all, "the dashboard shows every metric, and no other");
    let data = tempfile::tempdir().expect("a temporary directory");
    let ternd = Ternd::start(data.path(), &Start::default());
    let there: BTreeSet<_> = samples(&ternd).await.into_iter().map(|sample| sample.name).collect();
    // This one is in no cluster.
    let has_nobody = |name: &str| {
        let labels = catalog::ALL.iter().find(|of| of.name == family(name)).map(|of| of.labels);
        labels.is_some_and(|labels| labels.contains(&"node") || labels.contains(&"peer"))
    };
    let missing: Vec<_> = shown.difference(&there).filter(|name| !has_nobody(name)).collect();
    assert!(missing.is_empty(), "on the dashboard, and the server has no such metric: {missing:?}");
}
