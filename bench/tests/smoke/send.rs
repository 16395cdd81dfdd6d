use crate::support::{Server, above_0};

const FIGURES: &[&str] = &[
    "/offered_per_s",
    "/acked_per_s",
    "/delivered_per_s",
    "/ack_ms/p50",
    "/deliver_ms/p99",
    "/receipt_ms/max",
    "/login_ms/count",
    "/server/rss_bytes",
    "/scenario_figures/marks",
];

#[test]
fn a_window_keeps_senders_busy() {
    let server = Server::start();
    let results =
        server.bench("send", &["--connections", "20", "--duration", "2", "--warmup", "0.2", "--window", "4"]);
    above_0(&results, FIGURES);
    for result in &results {
        assert!(result["series"].as_array().is_some_and(|series| !series.is_empty()), "{result:#}");
        assert_eq!(result["floor"], serde_json::Value::Null);
        assert_eq!(result["connections"], 20);
        assert_eq!(result["scenario_figures"]["acked_without_receipt"], 0.0, "{result:#}");
    }
}

#[test]
fn a_rate_is_kept() {
    let server = Server::start();
    let arguments =
        ["--connections", "20", "--duration", "2", "--warmup", "0.2", "--rate", "100", "--payload", "16"];
    let results = server.bench("send", &arguments);
    above_0(&results, FIGURES);
    for result in &results {
        assert_eq!(result["offered_per_s"], 100.0);
        assert!(result["acked_per_s"].as_f64().is_some_and(|rate| rate < 120.0), "{result:#}");
        assert!(result["scenario_figures"]["sent_late_p99_ms"].is_number(), "{result:#}");
    }
}
