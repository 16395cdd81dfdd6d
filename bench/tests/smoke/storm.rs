use crate::support::{Server, above_0};

#[test]
fn everybody_comes_back() {
    let server = Server::start();
    let time = ["--connections", "24", "--duration", "0.5", "--warmup", "0.5", "--spread", "0.2"];
    for (shape, cut) in [
        (&["--members", "6", "--rate", "40"][..], 20.0),
        (&["--members", "2", "--missed", "10", "--handshakes", "full"], 12.0),
    ] {
        let results = server.bench("storm", &[&time[..], shape].concat());
        above_0(
            &results,
            &[
                "/acked_per_s",
                "/login_ms/p50",
                "/scenario_figures/back_p50_ms",
                "/scenario_figures/returns_per_s",
            ],
        );
        for result in &results {
            assert_eq!(result["connections"], 24);
            assert_eq!(result["scenario_figures"]["back"], cut, "{result:#}");
            assert_eq!(result["scenario_figures"]["reconnects"], cut, "{result:#}");
        }
    }
}
