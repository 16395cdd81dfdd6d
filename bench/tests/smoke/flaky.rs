use crate::support::{Server, above_0};

#[test]
fn clients_come_back_through_a_bad_network() {
    let server = Server::start();
    let arguments = [
        ["--connections", "10"],
        ["--rate", "100"],
        ["--duration", "4"],
        ["--warmup", "0.2"],
        ["--loss", "0.02"],
        ["--delay-ms", "2"],
        ["--jitter-ms", "3"],
        ["--reorder", "0.02"],
        ["--address-change", "1500"],
        ["--blackout", "1500:200"],
    ];
    let results = server.bench("flaky", &arguments.concat());
    above_0(&results, &["/ack_ms/p50", "/deliver_ms/p50", "/receipt_ms/p50", "/login_ms/p50"]);
    let figures = ["recovery_p50_ms", "proxy_lost", "proxy_blackouts", "proxy_delayed"];
    above_0(
        &results,
        &figures.map(|name| format!("/scenario_figures/{name}")).each_ref().map(String::as_str),
    );
    above_0(&results[..1], &["/scenario_figures/reconnects", "/scenario_figures/proxy_cut"]);
    above_0(&results[1..], &["/scenario_figures/proxy_moved", "/scenario_figures/proxy_reordered"]);
}
