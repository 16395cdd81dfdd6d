use crate::support::{Server, above_0};

#[test]
fn a_day_goes_by() {
    let server = Server::start();
    let arguments = [
        ["--connections", "40"],
        ["--members", "3,8"],
        ["--rate", "200"],
        ["--share-direct", "0.4"],
        ["--share-group", "0.3"],
        ["--share-history", "0.2"],
        ["--share-vanish", "0.1"],
        ["--away", "0.3"],
        ["--page", "5"],
        ["--mark-interval", "0.05"],
        ["--duration", "5"],
        ["--warmup", "0.2"],
    ];
    let results = server.bench("mixed", &arguments.concat());
    above_0(
        &results,
        &["/acked_per_s", "/delivered_per_s", "/ack_ms/p50", "/deliver_ms/p50", "/receipt_ms/p50"],
    );
    let figures = [
        "direct_messages_per_s",
        "group_messages_per_s",
        "pages_per_s",
        "returns_per_s",
        "direct_ack_p50_ms",
        "group_ack_p50_ms",
        "direct_deliver_p50_ms",
        "group_deliver_p50_ms",
        "page_p50_ms",
        "return_p50_ms",
        "read_mark_p50_ms",
        "paged_entries",
        "departures",
        "returns",
        "sent_again",
    ];
    above_0(
        &results,
        &figures.map(|name| format!("/scenario_figures/{name}")).each_ref().map(String::as_str),
    );
    for part in ["start", "middle", "end"] {
        let figures = ["ack_{}_p50_ms", "deliver_{}_p99_ms", "server_rss_{}_bytes", "data_{}_bytes"];
        let figures = figures.map(|name| format!("/scenario_figures/{}", name.replace("{}", part)));
        above_0(&results, &figures.each_ref().map(String::as_str));
    }
    for result in &results {
        assert_eq!(result["connections"], 40);
        assert_eq!(result["scenario_figures"]["connections_lost"], 0.0, "{result:#}");
    }
}
