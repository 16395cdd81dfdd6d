//! `ternd cluster status`: the nodes of a cluster and the links between them, as one node sees them, or as their leases in the
//! store have it; and what is wrong.

use std::error::Error;
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use hyper::StatusCode;
use tern_core::cluster::{BEAT_MS, LEASE_MS};
use tern_core::routing::SlotMap;
use tern_protocol::ids::NodeId;
use tern_protocol::model::WallMillis;
use tern_store::ops::lease::{self, Leases};

use crate::admin;
use crate::cli::Status;
use crate::clock;
use crate::config::{Loaded, Overrides};
use crate::metrics::catalog::{self as c, Family};
use crate::metrics::human::{age, bytes, duration, number};
use crate::metrics::text::{self, Sample};
use crate::store::{self, Place};

/// A beat that is older is told: some have been missed.
const BEAT_AGE_MAX: f64 = 3.0;
/// News that wait for longer are told: the other node does not keep up.
const NEWS_AGE_MAX: f64 = 5.0;
/// Between two looks at the leases.
const LOOKS: Duration = Duration::from_millis(LEASE_MS / 2);
const _: () = assert!(LEASE_MS / 2 > 2 * BEAT_MS, "whoever lives beats meanwhile");

/// What there is to say.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Nodes that are there.
    pub nodes: usize,
    /// Tables.
    pub text: String,
    /// A line for each thing that is wrong.
    pub wrong: Vec<String>,
}

/// Asks, and prints the answer; whether all is well.
///
/// # Errors
/// When nobody answers, or there is no cluster.
pub async fn run(args: &Status) -> Result<bool, Box<dyn Error>> {
    let mut report = match &args.config {
        Some(config) => of_store(config).await?,
        None => of_node(args.admin).await?,
    };
    if let Some(expected) = args.expect.filter(|expected| *expected != report.nodes) {
        report.wrong.push(format!("there are {} nodes: expected {expected}", report.nodes));
    }
    let mut out = report.text;
    match &report.wrong[..] {
        [] => out += "\nAll is well.\n",
        wrong => {
            out += "\nWrong:\n";
            wrong.iter().for_each(|line| out += &format!("- {line}\n"));
        }
    }
    // That nobody reads it is no reason to fail.
    let _ = std::io::stdout().lock().write_all(out.as_bytes());
    Ok(report.wrong.is_empty())
}

async fn of_node(admin: SocketAddr) -> Result<Report, Box<dyn Error>> {
    let (status, page) = admin::get(admin, "/metrics").await?;
    let samples = (status == StatusCode::OK).then(|| text::parse(&page)).flatten();
    let samples =
        samples.ok_or_else(|| format!("{admin} answers, but not with a ternd's metrics ({status})"))?;
    Ok(report(&format!("{admin}"), &samples)?)
}

async fn of_store(config: &Path) -> Result<Report, Box<dyn Error>> {
    let loaded = Loaded::read(config, &Overrides::default())?;
    let Place::Fdb { cluster_file, prefix } = loaded.config.store.place() else {
        return Err("its store is the embedded one, which is for one node: there is no cluster".into());
    };
    let kv = store::open_cluster(&cluster_file, &prefix)?;
    let before = lease::read(&*kv).await?;
    tokio::time::sleep(LOOKS).await;
    let now = lease::read(&*kv).await?;
    Ok(report_of_leases(&before, &now, clock::wall()))
}

/// Rows of words, in columns: the first so many begin below each other, the others end there.
fn table(text: &mut String, left: usize, rows: &[Vec<String>]) {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|word| word.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<_> = (0..columns).map(width).collect();
    for row in rows {
        let words = row.iter().zip(&widths).enumerate().map(|(column, (word, width))| {
            if column < left { format!("{word:<width$}") } else { format!("{word:>width$}") }
        });
        let _ = writeln!(text, "{}", words.collect::<Vec<_>>().join("  ").trim_end());
    }
}

fn words<const N: usize>(words: [&str; N]) -> Vec<String> {
    words.map(str::to_owned).into()
}

/// What a node says, without what would move a terminal's cursor.
fn plain(text: &str) -> String {
    text.chars().map(|char| if char.is_control() { '?' } else { char }).collect()
}

/// A page of metrics.
struct Page<'a>(&'a [Sample]);

impl Page<'_> {
    fn of<'a>(&'a self, family: &Family, labels: &[(&str, &str)]) -> impl Iterator<Item = &'a Sample> {
        self.0.iter().filter(move |sample| {
            sample.name == family.name
                && labels.iter().all(|(label, value)| sample.label(label) == Some(value))
        })
    }

    fn sum(&self, family: &Family, labels: &[(&str, &str)]) -> f64 {
        self.of(family, labels).map(|sample| sample.value).sum()
    }

    /// A node's name.
    fn name(&self, node: &str) -> String {
        let name = self.of(&c::CLUSTER_NODE_INFO, &[("node", node)]).find_map(|sample| sample.label("name"));
        name.map_or_else(|| "?".to_owned(), plain)
    }
}

/// What the page of a node's metrics says of its cluster.
///
/// # Errors
/// When the node is in none.
fn report(admin: &str, samples: &[Sample]) -> Result<Report, String> {
    let page = Page(samples);
    let infos: Vec<_> = page.of(&c::CLUSTER_NODE_INFO, &[]).collect();
    let me = infos.iter().find(|info| info.label("this") == Some("true"));
    let Some(me) = me.and_then(|info| info.label("node")) else {
        return Err(format!("the ternd at {admin} is in no cluster: its configuration has no [cluster]"));
    };
    let mut report = Report { nodes: infos.len(), ..Report::default() };
    page.state(&mut report, admin, me);
    page.nodes(&mut report, &infos, me);
    page.links(&mut report);
    Ok(report)
}

impl Page<'_> {
    fn state(&self, Report { text, wrong, .. }: &mut Report, admin: &str, me: &str) {
        let beaten = self.sum(&c::CLUSTER_BEAT_AGE, &[]);
        let commits = |result| number(self.sum(&c::COMMITS, &[("result", result)]));
        let name = self.name(me);
        let _ = writeln!(text, "as the node {name} sees it, at {admin}");
        let _ = writeln!(
            text,
            "store: its lease was written {} ago; {} batches stored since its start, {} conflicts, {} times unavailable",
            age(beaten),
            commits("ok"),
            commits("conflict"),
            commits("unavailable")
        );
        let (kept, rechecks) = (self.sum(&c::CLUSTER_MARKS_KEPT, &[]), self.sum(&c::CLUSTER_RECHECKS, &[]));
        let (kept, rechecks) = (number(kept), number(rechecks));
        let _ = writeln!(
            text,
            "lag: {kept} watermarks that others have not persisted yet, {rechecks} users to be looked up\n"
        );
        if self.sum(&c::CLUSTER_CUT_OFF, &[]) > 0.0 {
            wrong.push(format!(
                "{name} is cut off from the store and serves nobody; others reach it, or cannot be asked"
            ));
        } else if self.sum(&c::CLUSTER_STORE_SILENT, &[]) > 0.0 {
            wrong.push("the store answers neither this node nor any other of which it hears".to_owned());
        } else if beaten > BEAT_AGE_MAX {
            wrong.push(format!("{name} has not written its lease for {}", age(beaten)));
        }
    }

    fn nodes(&self, Report { text, wrong, .. }: &mut Report, infos: &[&Sample], me: &str) {
        let mut rows =
            vec![words(["node", "name", "address", "state", "versions", "running", "last beat", "slots"])];
        for info in infos {
            let label = |name| info.label(name).map(plain).unwrap_or_default();
            let (node, name) = (label("node"), label("name"));
            let of = |family| self.sum(family, &[("node", &node)]);
            let beaten = of(&c::CLUSTER_NODE_BEAT_AGE);
            let running = clock::wall().0 as f64 / 1e3 - of(&c::CLUSTER_NODE_STARTED);
            let state = if of(&c::CLUSTER_NODE_DRAINING) > 0.0 { "leaves" } else { "serves" };
            rows.push(vec![
                node.clone(),
                name.clone(),
                label("address"),
                state.to_owned(),
                label("versions"),
                age(running.max(0.0)),
                age(beaten),
                number(of(&c::CLUSTER_NODE_SLOTS)),
            ]);
            if node != me && beaten > BEAT_AGE_MAX && self.sum(&c::CLUSTER_BEAT_AGE, &[]) <= BEAT_AGE_MAX {
                wrong.push(format!("{name} ({node}) has last been seen to beat {} ago", age(beaten)));
            }
        }
        table(text, 5, &rows);
    }

    fn links(&self, Report { text, wrong, .. }: &mut Report) {
        let peers: Vec<_> =
            self.of(&c::CLUSTER_LINK_VERSION, &[]).filter_map(|sample| sample.label("peer")).collect();
        text.push('\n');
        if peers.is_empty() {
            text.push_str("no other node, so no links\n");
            return;
        }
        let head = ["link to", "name", "state", "version", "round trip", "requests", "news", "bytes"];
        let mut rows = vec![[words(head), words(["oldest", "heads", "failed calls"])].concat()];
        for peer in peers {
            let of = |family| self.sum(family, &[("peer", peer)]);
            let (version, since) = (of(&c::CLUSTER_LINK_VERSION), of(&c::CLUSTER_LINK_AGE));
            let (oldest, failed) = (of(&c::CLUSTER_NEWS_AGE), of(&c::CLUSTER_CALLS_FAILED));
            let is_up = version > 0.0;
            let unless_down = |text: String| if is_up { text } else { "-".to_owned() };
            let round_trip = of(&c::CLUSTER_LINK_ROUND_TRIP);
            let name = self.name(peer);
            rows.push(vec![
                peer.to_owned(),
                name.clone(),
                format!("{} for {}", if is_up { "up" } else { "DOWN" }, age(since)),
                unless_down(number(version)),
                if round_trip.is_nan() { "-".to_owned() } else { duration(round_trip) },
                number(of(&c::CLUSTER_REQUESTS)),
                number(of(&c::CLUSTER_NEWS)),
                bytes(of(&c::CLUSTER_NEWS_BYTES)),
                age(oldest),
                number(of(&c::CLUSTER_HEADS_BEHIND)),
                number(failed),
            ]);
            if !is_up {
                wrong.push(format!(
                    "there has been no link to {name} ({peer}) for {}; the node of the two with the lower id calls the other \
                     one, and its log says why that fails",
                    age(since)
                ));
            }
            if oldest > NEWS_AGE_MAX {
                let (oldest, limit) = (age(oldest), age(NEWS_AGE_MAX));
                wrong
                    .push(format!("{name} ({peer}) takes over news late: after {oldest}, more than {limit}"));
            }
        }
        table(text, 3, &rows);
    }
}

/// What two looks at the leases say, with time for a beat between them.
fn report_of_leases(before: &Leases, now: &Leases, wall: WallMillis) -> Report {
    let beats =
        |node: NodeId, beat: u64| !before.iter().any(|(other, lease)| *other == node && lease.beat == beat);
    let nodes = now.iter().filter(|(node, lease)| beats(*node, lease.beat)).count();
    let mut report = Report { nodes, ..Report::default() };
    let owners: Vec<_> = now
        .iter()
        .filter(|(node, lease)| beats(*node, lease.beat) && !lease.draining)
        .map(|(node, _)| *node)
        .collect();
    let map = (!owners.is_empty()).then(|| SlotMap::new(owners.iter().copied()));
    let mut rows =
        vec![words(["node", "name", "address", "state", "versions", "clients", "running", "slots"])];
    for (node, lease) in now {
        let lives = beats(*node, lease.beat);
        let slots = map.as_ref().map_or(0, |map| map.count(|owner| owner == node));
        let name = plain(&lease.name);
        let state = match (lives, lease.draining) {
            (false, _) => "SILENT",
            (true, true) => "leaves",
            (true, false) => "serves",
        };
        let running = wall.0.saturating_sub(lease.started.0) as f64 / 1e3;
        rows.push(vec![
            node.to_string(),
            name.clone(),
            plain(&lease.link),
            state.to_owned(),
            format!("{}-{}", lease.versions.0, lease.versions.1),
            plain(&lease.clients.join(",")),
            age(running),
            number(slots as f64),
        ]);
        if !lives {
            let looks = duration(LOOKS.as_secs_f64());
            report.wrong.push(format!(
                "{name} ({node}) has not beaten for {looks}: it is dead, or cut off from the store. A dead node's lease is \
                 taken out after a minute, if another one lives"
            ));
        }
    }
    report.text = "as the leases in the store have it\n\n".to_owned();
    table(&mut report.text, 6, &rows);
    if now.is_empty() {
        report.wrong.push("there is no node: none has a lease in this store".to_owned());
    }
    report
}

#[cfg(test)]
mod tests {
    use tern_store::records::NodeLease;

    use super::*;

    fn lease(beat: u64, name: &str, draining: bool) -> NodeLease {
        let (link, clients) = ("127.0.0.1:7444".to_owned(), vec!["127.0.0.1:7443".to_owned()]);
        let started = WallMillis(1_000);
        NodeLease { beat, started, versions: (1, 2), draining, name: name.into(), link, clients }
    }

    #[test]
    fn leases_that_stand_still_are_told() {
        let node = NodeId;
        let before = vec![(node(1), lease(5, "one", false)), (node(2), lease(7, "two", false))];
        let all_beat = vec![
            (node(1), lease(8, "one", false)),
            (node(2), lease(9, "two", true)),
            (node(3), lease(1, "new\n", false)),
        ];
        let report = report_of_leases(&before, &all_beat, WallMillis(91_000));
        assert_eq!((report.nodes, &report.wrong[..]), (3, &[][..]));
        let lines: Vec<_> = report.text.lines().collect();
        assert_eq!(
            lines[2..4],
            [
                "node              name  address         state   versions  clients         running  slots",
                "0000000000000001  one   127.0.0.1:7444  serves  1-2       127.0.0.1:7443   1m 30s  2,035",
            ]
        );
        assert!(lines[4].contains("leaves") && lines[4].ends_with("  0"), "{}", lines[4]);
        assert!(lines[5].contains("new?"), "{}", lines[5]);
        let one_dead = vec![(node(1), lease(5, "one", false)), (node(2), lease(9, "two", false))];
        let report = report_of_leases(&before, &one_dead, WallMillis(91_000));
        assert_eq!(report.nodes, 1);
        assert!(report.wrong.len() == 1 && report.wrong[0].starts_with("one (0000000000000001) has not"));
        assert!(report.text.contains("SILENT") && report.text.contains("4,096"), "{}", report.text);
        assert_eq!(report_of_leases(&before, &Vec::new(), WallMillis(0)).wrong.len(), 1);
    }

    fn page(change: (&str, &str)) -> String {
        let page = "\
tern_cluster_cut_off 0
tern_cluster_store_silent 0
tern_cluster_beat_age_seconds 0.4
tern_commits_total{result=\"ok\"} 1234
tern_commits_total{result=\"conflict\"} 12
tern_cluster_node_info{node=\"01\",name=\"one\",address=\"a:1\",versions=\"1-2\",this=\"true\"} 1
tern_cluster_node_info{node=\"02\",name=\"two\",address=\"b:2\",versions=\"1-2\",this=\"false\"} 1
tern_cluster_node_beat_age_seconds{node=\"02\"} 0.9
tern_cluster_node_draining{node=\"02\"} 1
tern_cluster_node_slots{node=\"01\"} 4096
tern_cluster_link_version{peer=\"02\"} 2
tern_cluster_link_age_seconds{peer=\"02\"} 4000
tern_cluster_link_round_trip_seconds{peer=\"02\"} 0.00025
tern_cluster_news_age_seconds{peer=\"02\"} 0
";
        assert!(page.contains(change.0), "{change:?}");
        page.replace(change.0, change.1)
    }

    #[test]
    fn a_page_becomes_tables_and_what_is_wrong_is_told() {
        let of = |change| {
            let samples = text::parse(&page(change)).expect("the text format");
            report("here:1", &samples)
        };
        let well = of(("", "")).expect("a cluster");
        assert_eq!(well.wrong, [""; 0]);
        for part in ["1,234 batches", "12 conflicts", "up for 1h 6m", "250 us", "4,096", "leaves"] {
            assert!(well.text.contains(part), "{part}: {}", well.text);
        }
        let cases = [
            (("cut_off 0", "cut_off 1"), "one is cut off"),
            (("store_silent 0", "store_silent 1"), "the store answers neither"),
            (("beat_age_seconds 0.4", "beat_age_seconds 3.5"), "one has not written its lease for 3.5 s"),
            (("{node=\"02\"} 0.9", "{node=\"02\"} 4.2"), "two (02) has last been seen to beat 4.2 s ago"),
            (("version{peer=\"02\"} 2", "version{peer=\"02\"} 0"), "no link to two (02) for 1h 6m"),
            (("news_age_seconds{peer=\"02\"} 0", "news_age_seconds{peer=\"02\"} 6"), "two (02) takes over"),
        ];
        for (change, expected) in cases {
            let wrong = of(change).expect("a cluster").wrong;
            assert!(wrong.len() == 1 && wrong[0].contains(expected), "{change:?}: {wrong:?}");
        }
        let alone = of(("this=\"true\"", "this=\"false\"")).expect_err("no cluster");
        assert!(alone.contains("no [cluster]"), "{alone}");
    }
}
