use crate::support::{Server, above_0};

#[test]
fn everybody_gets_everything() {
    let server = Server::start();
    let shape = ["--groups", "3", "--members", "9", "--senders", "2", "--mark-interval", "0.1"];
    let time = ["--duration", "1.5", "--warmup", "0.2"];
    for load in [["--window", "2"], ["--rate", "60"]] {
        let results = server.bench("group", &[&shape[..], &time, &load].concat());
        above_0(
            &results,
            &["/acked_per_s", "/delivered_per_s", "/deliver_ms/p50", "/scenario_figures/marks"],
        );
        for result in &results {
            assert_eq!(result["connections"], 27);
            assert_eq!(result["scenario_figures"]["acked_without_receipt"], 0.0, "{result:#}");
            let rate = |name: &str| result[name].as_f64().unwrap_or_default();
            // 8 of 9 members are not the sender; at both ends some are under way.
            let each = rate("delivered_per_s") / rate("acked_per_s");
            assert!((6.0..10.0).contains(&each), "{result:#}");
        }
    }
}
