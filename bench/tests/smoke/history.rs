use crate::support::{Server, above_0};

const FIGURES: &[&str] = &[
    "/delivered_per_s",
    "/login_ms/p50",
    "/scenario_figures/conversations_read",
    "/scenario_figures/entries_per_s",
    "/scenario_figures/page_p50_ms",
    "/scenario_figures/pages_per_s",
    "/scenario_figures/prepared_entries_per_s",
];

/// 3 conversations of 100 messages each, read by 7.
fn read(server: &Server, options: &[&str]) -> Vec<serde_json::Value> {
    let shape = ["--connections", "7", "--conversations", "3", "--messages", "100", "--page", "30"];
    let time = ["--duration", "1", "--warmup", "0.2"];
    let results = server.bench("history", &[&shape[..], &time, options].concat());
    above_0(&results, FIGURES);
    for result in &results {
        // The group begins with the entry that creates it.
        assert_eq!(result["scenario_figures"]["prepared_entries"], 303.0, "{result:#}");
    }
    results
}

#[test]
fn conversations_are_read_from_either_end() {
    let server = Server::start();
    for options in [&[][..], &["--forward"], &["--own-stream"]] {
        read(&server, options);
    }
}

#[test]
fn others_send_meanwhile() {
    let server = Server::start();
    let results = read(&server, &["--rate", "40", "--pairs", "2"]);
    above_0(&results, &["/acked_per_s", "/ack_ms/p50", "/scenario_figures/ack_alone_p50_ms"]);
    for result in &results {
        assert_eq!(result["connections"], 11);
        assert_eq!(result["offered_per_s"], 40.0);
    }
}
