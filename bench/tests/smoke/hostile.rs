use crate::support::{Server, above_0};

/// More than a server grows by that bounds what it keeps for each client; less than half of what those take who never read
/// their pages of history, if nothing bounds that.
const GROWTH_MAX_MB: f64 = 200.0;

#[test]
fn ordinary_users_get_their_messages_while_others_mean_harm() {
    let server = Server::start_with(true);
    let arguments = [
        ["--connections", "10"],
        ["--rate", "50"],
        ["--duration", "0.5"],
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
            let figure = |name: String| result["scenario_figures"][name].as_f64().expect("a number");
            let (quiet, rss) = (figure("quiet_rss_mb".into()), figure(format!("{attack}_rss_mb")));
            assert!(rss < quiet + GROWTH_MAX_MB, "{attack}: {rss} MB, before it {quiet} MB");
        }
    }
    for result in &results {
        let admitted = attacks.map(|attack| &result["scenario_figures"][format!("{attack}_newcomers")]);
        let count = admitted.iter().filter(|count| count.as_f64().is_some_and(|count| count > 0.0)).count();
        assert!(count > attacks.len() / 2, "newcomers got in beside {count} attacks only: {result:#}");
    }
}
