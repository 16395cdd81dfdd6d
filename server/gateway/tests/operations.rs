//! What an operator sees: metrics, the dashboard, health and readiness, `ternd top`, logs.

#[path = "operations/admin.rs"]
mod admin;
#[path = "operations/dashboard.rs"]
mod dashboard;
#[path = "support/faults.rs"]
mod faults;
#[path = "operations/logs.rs"]
mod logs;
#[path = "operations/moves/mod.rs"]
mod moves;
#[path = "serve/served.rs"]
mod served;
mod support;
#[path = "operations/top.rs"]
mod top;

use std::path::Path;

use hyper::StatusCode;
use support::Ternd;
use tern_server::metrics::text::{self, Sample};

/// A server's metrics.
async fn page(ternd: &Ternd) -> String {
    ternd.answers("/metrics", StatusCode::OK).await
}

async fn samples(ternd: &Ternd) -> Vec<Sample> {
    text::parse(&page(ternd).await).expect("the text format")
}

/// A file of the repository.
fn file(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
