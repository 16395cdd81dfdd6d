//! Each metric is provoked in a running server, and seen to move.

mod clients;
mod disk;
mod system;
mod traffic;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use hyper::StatusCode;
use tern_server::admin::get;
use tern_server::metrics::catalog::{self, Family};
use tern_server::metrics::text;

use crate::dashboard::family;
use crate::served::Served;
use crate::support::{PATIENCE, Start, Ternd};

/// A metric and the values of its labels, the shard's and a bucket's left out, as words: of each of these a series has to
/// move. [`EACH`]: each series that there is. None: any.
type Move = (&'static Family, &'static [&'static str]);

const EACH: &str = "each";

/// Constants, of the program and of a run.
const CONSTANT: [&Family; 4] =
    [&catalog::BUILD_INFO, &catalog::START_TIME, &catalog::WAITING_BYTES_MAX, &catalog::MAILBOX_CAPACITY];

/// What only a cluster moves: `tests/cluster.rs` waits for each of these numbers, and says so there.
const OF_CLUSTERS: &str = "tern_cluster_";

/// Of these, what one node with one owner for each conversation does not meet has a label, too: conflicts of two owners,
/// for example. The codes of errors are walked through by the tests of bad input.
const PARTLY: [&Family; 4] = [&catalog::ERRORS, &catalog::LOADS, &catalog::COMMITS, &catalog::STORE_COMMITS];

macro_rules! provoked {
    ($($module:ident::$scenario:ident: $($family:ident $([$($values:literal),*])?),*;)*) => {
        /// What each scenario moves.
        const PROVOKED: &[&[Move]] = &[$(&[$((&catalog::$family, &[$($($values),*)?])),*]),*];

        $(
            #[tokio::test]
            async fn $scenario() {
                $module::$scenario(&[$((&catalog::$family, &[$($($values),*)?])),*]).await;
            }
        )*
    };
}

provoked! {
    traffic::everybody_talks:
        RESIDENT_MEMORY, CPU_SECONDS, OPEN_FILES, CONNECTIONS ["each"], SESSIONS,
        HANDSHAKES ["tcp accepted", "quic accepted"], LOGINS ["each"], READ_BYTES, WRITTEN_BYTES,
        REQUESTS ["each"], REQUEST_SECONDS ["each"], SENDS ["each"], ERRORS, PUSHES, PUSH_SECONDS, RECEIPTS,
        DROPS ["slow_reader"], CONVERSATIONS, LOADS, COMMITS, COMMIT_ENTRIES, COMMIT_SECONDS, SHARD_BUSY, STORE_COMMITS,
        STORE_GROUP_COMMITS, STORE_WRITE_SECONDS, STORE_WRITTEN_BYTES;
    traffic::a_server_stops: DRAINING;
    clients::handshakes_do_not_end:
        HANDSHAKES ["tcp failed", "tcp timed_out", "quic failed", "quic timed_out"], HANDSHAKES_PENDING ["each"];
    clients::nobody_takes_what_is_sent: CUTS ["stalled", "lost_track"];
    clients::limits_are_reached:
        HANDSHAKES ["tcp refused", "quic refused", "quic retried"], CUTS ["shard_full"], READ_PAUSES;
    system::files_are_used_up: ACCEPT_PAUSES, MAX_FILES, OPEN_FILES;
    system::the_kernel_does_not_steer: QUIC_FORWARDED ["handed_over"];
    system::files_are_replaced: RELOADS ["each"];
    disk::the_disk_fills: STORE_FREE_BYTES;
    disk::a_sync_hangs:
        STORE_STALL, STORE_QUEUED, STORE_QUEUED_BYTES, WAITING_SENDS, WAITING_BYTES;
    disk::a_read_hangs_a_shard:
        SHARD_TICK_AGE, MAILBOX_MESSAGES ["each"], DROPS ["mailbox_full", "receipts_mailbox_full"],
        QUIC_FORWARDED ["dropped"], STORE_DISK_BYTES;
}

/// The series of a page: the metric, and its labels as words. Numbers of all shards and buckets.
type Series = BTreeMap<(String, String), Vec<f64>>;

/// What a server's metrics do.
struct Watch {
    admin: SocketAddr,
    before: Series,
    moved: BTreeSet<(String, String)>,
}

impl Watch {
    async fn new(admin: SocketAddr) -> Self {
        Self { admin, before: series(admin).await, moved: BTreeSet::new() }
    }

    /// Remembers what is not as it was at first.
    async fn look(&mut self) {
        let now = series(self.admin).await;
        let moved = now.into_iter().filter(|(of, values)| self.before.get(of) != Some(values));
        self.moved.extend(moved.map(|(of, _)| of));
    }

    /// What of these has not been seen to move.
    fn still(&self, expected: &[Move]) -> Vec<(&'static str, &'static str)> {
        let has = |name: &str, wanted: &str| {
            self.moved
                .iter()
                .any(|(family, labels)| family == name && (wanted.is_empty() || wanted == labels))
        };
        let each = |name: &str| {
            self.before.keys().filter(|(family, _)| family == name).all(|series| self.moved.contains(series))
        };
        let mut still = Vec::new();
        for (family, values) in expected {
            let values = if values.is_empty() { &[""] } else { *values };
            let moves =
                |value: &&str| if *value == EACH { each(family.name) } else { has(family.name, value) };
            still.extend(values.iter().filter(|value| !moves(value)).map(|value| (family.name, *value)));
        }
        still
    }

    /// Waits until these have moved.
    async fn until(&mut self, expected: &[Move]) {
        let waiting = async {
            self.look().await;
            while !self.still(expected).is_empty() {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
                self.look().await;
            }
        };
        let moved = tokio::time::timeout(PATIENCE, waiting).await;
        assert!(moved.is_ok(), "they do not move: {:?}", self.still(expected));
    }
}

/// Where a `ternd serve` answers for its metrics.
fn admin(served: &Served) -> SocketAddr {
    let line = served.logged("serving tcp=");
    let address = line.split_once("admin=").and_then(|(_, rest)| rest.split_whitespace().next());
    address.and_then(|address| address.parse().ok()).expect("an address")
}

async fn series(admin: SocketAddr) -> Series {
    let (status, page) = get(admin, "/metrics").await.expect("the admin listener is there");
    assert_eq!(status, StatusCode::OK);
    let mut series = Series::new();
    for sample in text::parse(&page).expect("the text format") {
        let labels = sample.labels.iter().filter(|(label, _)| !matches!(label.as_str(), "shard" | "le"));
        let labels: Vec<_> = labels.map(|(_, value)| value.as_str()).collect();
        series.entry((family(&sample.name).to_owned(), labels.join(" "))).or_default().push(sample.value);
    }
    series
}

/// As tests name it.
fn catalog_name(metric: &str) -> String {
    let source = crate::file("server/gateway/src/metrics/catalog.rs");
    let line = source.lines().find(|line| line.contains(&format!("\"{metric}\"")));
    let name = line.and_then(|line| line.trim().split(' ').next()).expect("it is in the catalog");
    format!("catalog::{name}")
}

#[tokio::test]
async fn each_metric_is_provoked() {
    let data = tempfile::tempdir().expect("a temporary directory");
    let ternd = Ternd::start(data.path(), &Start::default());
    let series = series(ternd.admin).await;
    let of_clusters = ["cut", "leave", "marks", "status", "store", "version"]
        .map(|name| crate::file(&format!("server/gateway/tests/cluster/{name}.rs")))
        .concat();
    for family in catalog::ALL {
        let rows = PROVOKED.iter().flat_map(|moves| moves.iter()).filter(|(of, _)| of.name == family.name);
        let rows: Vec<&[&str]> = rows.map(|(_, values)| *values).collect();
        if CONSTANT.iter().any(|constant| constant.name == family.name) {
            assert!(rows.is_empty(), "{} is a constant", family.name);
            continue;
        }
        if family.name.starts_with(OF_CLUSTERS) {
            let name = catalog_name(family.name);
            assert!(of_clusters.contains(&name), "no test of a cluster looks at {name}");
            continue;
        }
        assert!(!rows.is_empty(), "nothing moves {}", family.name);
        let labels: Vec<_> =
            series.keys().filter(|(of, _)| of == family.name).map(|(_, labels)| labels).collect();
        let values = rows.concat();
        let is_partly = PARTLY.iter().any(|partly| partly.name == family.name);
        if labels.len() > 1 && !is_partly && !values.contains(&EACH) {
            let still: Vec<_> = labels.iter().filter(|labels| !values.contains(&labels.as_str())).collect();
            assert!(still.is_empty(), "nothing moves {} of {still:?}", family.name);
        }
    }
}
