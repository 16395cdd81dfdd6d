use crate::support::{Server, above_0};

/// Far more than a server needs that bounds what it keeps for each client, test process included; far less than what the
/// attackers send, announce or ask for.
const RSS_MAX_MB: f64 = 1_000.0;

#[test]
fn ordinary_users_get_their_messages_while_others_mean_harm() {
    let server = Server::start_with(true);
    let arguments = [
        ["--connections", "10"],
        ["--rate", "50"],
        ["--duration", "0.2"],
        ["--warmup", "0.1"],
        ["--held", "1500"],
        ["--attempts", "200"],
    ];
    // That every message arrived, once and in order, is looked at for every scenario.
    let results = server.bench_overloaded("hostile", &arguments.concat());
    above_0(&results, &["/ack_ms/p50", "/deliver_ms/p50", "/scenario_figures/quiet_ack_p50_ms"]);
    let attacks = [
        "silent",
        "slow_handshakes",
        "half_open_quic",
        "bad_logins",
        "before_login",
        "length_bombs",
        "tiny_fields",
        "deep_pipelining",
        "false_marks",
        "queries",
        "giant_groups",
    ];
    for attack in attacks {
        above_0(&results, &[&format!("/scenario_figures/{attack}_attacks")]);
        for result in &results {
            let rss = result["scenario_figures"][format!("{attack}_rss_mb")].as_f64();
            assert!(rss.is_some_and(|rss| rss < RSS_MAX_MB), "{attack}: {rss:?} MB");
        }
    }
}
