use crate::support::{Server, above_0};

#[test]
fn silent_clients_stay() {
    let server = Server::start();
    for handshakes in ["full", "resumed"] {
        let arguments = [
            "--connections",
            "20",
            "--duration",
            "1",
            "--heartbeat",
            "0.2",
            "--warmup",
            "0",
            "--handshakes",
            handshakes,
        ];
        let results = server.bench("idle", &arguments);
        above_0(&results, &["/login_ms/p50", "/server/rss_bytes", "/scenario_figures/logins_per_s"]);
        for result in &results {
            assert_eq!(result["login_ms"]["count"], 20);
            assert_eq!(result["connections"], 20);
        }
    }
}
