use crate::support::{Server, above_0};

const FIGURES: &[&str] = &[
    "/delivered_per_s",
    "/login_ms/p50",
    "/scenario_figures/all_p50_ms",
    "/scenario_figures/entries",
    "/scenario_figures/list_p50_ms",
    "/scenario_figures/prepared_entries_per_s",
    "/scenario_figures/returns",
];

/// 2 users with 30 conversations each.
fn come_back(server: &Server, options: &[&str]) -> Vec<serde_json::Value> {
    let shape = ["--connections", "2", "--conversations", "30"];
    let time = ["--duration", "1", "--warmup", "0.2"];
    let results = server.bench("sync", &[&shape[..], &time, options].concat());
    above_0(&results, FIGURES);
    for result in &results {
        assert_eq!(result["connections"], 2);
    }
    results
}

#[test]
fn who_comes_back_gets_everything() {
    let server = Server::start();
    for (options, pages) in [
        (&["--missed", "3", "--range", "10"][..], 1),
        (&["--missed", "3", "--range", "0", "--groups", "0", "--at-once"], 1),
        // More than fits into two pages.
        (&["--missed", "150", "--range", "0", "--groups", "30"], 3),
    ] {
        for result in come_back(&server, options) {
            assert_eq!(result["scenario_figures"]["round_trips_list"], f64::from(pages), "{result:#}");
        }
    }
}

#[test]
fn others_send_meanwhile() {
    let server = Server::start();
    let results = come_back(&server, &["--missed", "2", "--rate", "40", "--pairs", "2"]);
    above_0(&results, &["/acked_per_s", "/ack_ms/p50", "/scenario_figures/ack_alone_p50_ms"]);
}
