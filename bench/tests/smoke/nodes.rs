//! What a hop costs: real nodes, of which each conversation's messages cross links or do not, as is said of them.

use serde_json::Value;

use crate::support::{FAULTS, above_0, bench};

/// The results of one node and of two, each with a rate and at most.
#[track_caller]
fn check(arguments: &[&str]) {
    let time = ["--rounds", "2", "--duration", "1", "--warmup", "0.1", "--rate", "200", "--window", "2"];
    let (output, results) = bench(
        "nodes",
        &[&["--quiet", "--nodes", "1,2", "--connections", "40"], &time[..], arguments].concat(),
    );
    assert!(output.status.success(), "{output:?}");
    let results = results.as_array().expect("four results");
    let nodes: Vec<_> = results.iter().map(|result| result["scenario_figures"]["nodes"].clone()).collect();
    assert_eq!(nodes, [1.0, 1.0, 2.0, 2.0].map(Value::from), "{output:?}");
    above_0(results, &["/acked_per_s", "/delivered_per_s", "/ack_ms/p99", "/deliver_ms/p99"]);
    for result in results {
        assert_eq!(result["complete"], true, "{result:#}");
        assert_eq!(result["connections"], 40, "{result:#}");
        // A fast machine may take less than the kernel counts.
        assert!(result["server"]["cpu_us_per_message"].is_number(), "{result:#}");
        for name in FAULTS {
            assert_eq!(result[name], 0, "{name}: {result:#}");
        }
    }
    let (one, two) = results.split_at(2);
    for figure in ["sends_forwarded", "deliveries_crossed", "links_per_message"] {
        for result in one {
            assert_eq!(result["scenario_figures"][figure], 0.0, "{figure}: {result:#}");
        }
        above_0(two, &[&format!("/scenario_figures/{figure}")]);
    }
    for result in two {
        assert!(result["scenario_figures"]["more_us_per_link_crossed"].is_number(), "{result:#}");
    }
}

#[test]
fn direct_chats_on_one_node_and_on_two() {
    check(&[]);
}

#[test]
fn groups_on_one_node_and_on_two() {
    check(&["--members", "5", "--transport", "quic"]);
}
