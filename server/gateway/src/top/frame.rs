//! What `ternd top` shows, as text of 80 columns, or more where there are.

use std::fmt::Write;

use super::reading::{Reading, Where};
use crate::metrics::catalog as c;
use crate::metrics::human::{bytes, duration, number};

/// Shards shown one by one where nobody says how many lines there are; of more, the busiest.
const SHARDS_SHOWN: usize = 16;
/// An empty one, or how many there are; and the table's head.
const SHARDS_HEAD_LINES: usize = 2;

/// Draws one frame from two readings, under a title, with so many shards that it fits in `rows` lines, if that can be. What `columns`
/// have no room for goes on in the next line where that is possible.
pub(super) fn draw(
    title: &str,
    before: &Reading,
    now: &Reading,
    columns: usize,
    rows: Option<usize>,
) -> String {
    let mut out = Frame { text: format!("{title}\n"), before, now };
    out.head();
    out.traffic();
    out.store();
    let above = std::mem::take(&mut out.text);
    out.trouble(columns);
    let below = std::mem::take(&mut out.text);
    let others = above.lines().count() + SHARDS_HEAD_LINES + below.lines().count();
    out.shards(rows.map_or(SHARDS_SHOWN, |rows| rows.saturating_sub(others).max(1)));
    above + &out.text + &below
}

struct Frame<'a> {
    text: String,
    before: &'a Reading,
    now: &'a Reading,
}

impl Frame<'_> {
    fn line(&mut self, text: std::fmt::Arguments<'_>) {
        self.text.write_fmt(text).expect("a string takes everything");
        self.text.push('\n');
    }

    fn sum(&self, family: &c::Family, labels: &[Where<'_>]) -> f64 {
        self.now.sum(family.name, labels)
    }

    fn rate(&self, family: &c::Family, labels: &[Where<'_>]) -> f64 {
        self.now.rate(self.before, family.name, labels)
    }

    /// A latency's middle and its worst in a hundred.
    fn latency(&self, family: &c::Family, labels: &[Where<'_>]) -> String {
        let of = |share| match self.now.quantile(self.before, family.name, labels, share) {
            Some(seconds) => format!("<{}", duration(seconds)),
            None => "-".to_owned(),
        };
        format!("p50 {:>8}  p99 {:>8}", of(0.5), of(0.99))
    }

    fn head(&mut self) {
        let cpu = 100.0 * self.rate(&c::CPU_SECONDS, &[]);
        let (files, files_max) = (self.sum(&c::OPEN_FILES, &[]), self.sum(&c::MAX_FILES, &[]));
        let memory = bytes(self.sum(&c::RESIDENT_MEMORY, &[]));
        self.line(format_args!("cpu {cpu:.0} %   memory {memory}   files {files} of {files_max}"));
        let of = |transport| number(self.sum(&c::CONNECTIONS, &[("transport", transport)]));
        let (tcp, quic) = (of("tcp"), of("quic"));
        let sessions = number(self.sum(&c::SESSIONS, &[]));
        let handshakes = number(self.rate(&c::HANDSHAKES, &[("result", "accepted")]));
        self.line(format_args!(
            "connections tcp {tcp}  quic {quic}   logged in {sessions}   handshakes/s {handshakes}"
        ));
    }

    fn traffic(&mut self) {
        self.line(format_args!("\n{:<14}{:>10}{:>14}   latency", "", "per s", "total"));
        let rows: [(&str, &c::Family, Where<'_>, &c::Family, &[Where<'_>]); 3] = [
            ("sends stored", &c::SENDS, ("result", "stored"), &c::REQUEST_SECONDS, &[("kind", "send")]),
            ("syncs", &c::REQUESTS, ("kind", "sync"), &c::REQUEST_SECONDS, &[("kind", "sync")]),
            ("history pages", &c::REQUESTS, ("kind", "history"), &c::REQUEST_SECONDS, &[("kind", "history")]),
        ];
        for (title, counter, label, histogram, labels) in rows {
            self.row(title, counter, &[label], &self.latency(histogram, labels));
        }
        self.row("pushes", &c::PUSHES, &[], &self.latency(&c::PUSH_SECONDS, &[]));
        self.row("receipts", &c::RECEIPTS, &[], "");
    }

    fn row(&mut self, title: &str, counter: &c::Family, labels: &[Where<'_>], latency: &str) {
        let (rate, total) = (number(self.rate(counter, labels)), number(self.sum(counter, labels)));
        let row = format!("{title:<14}{rate:>10}{total:>14}   {latency}");
        self.line(format_args!("{}", row.trim_end()));
    }

    fn store(&mut self) {
        if self.now.values(c::STORE_COMMITS.name, "result").is_empty() {
            // It is not on that server's machine, so this is how it looks from there.
            let commits = number(self.rate(&c::COMMITS, &[("result", "ok")]));
            let conflicts = number(self.rate(&c::COMMITS, &[("result", "conflict")]));
            let latency = self.latency(&c::COMMIT_SECONDS, &[]);
            self.line(format_args!(
                "\nstore   commits/s {commits}   conflicts/s {conflicts}   commit {latency}"
            ));
            return;
        }
        let groups = format!("{}_count", c::STORE_WRITE_SECONDS.name);
        let groups = self.now.rate(self.before, &groups, &[]);
        let commits = self.rate(&c::STORE_COMMITS, &[("result", "committed")]);
        let latency = self.latency(&c::STORE_WRITE_SECONDS, &[]);
        let (commits, groups) = (number(commits), number(groups));
        self.line(format_args!("\nstore   commits/s {commits}   syncs/s {groups}   sync {latency}"));
        let queued = number(self.sum(&c::STORE_QUEUED, &[]));
        let stall = duration(self.sum(&c::STORE_STALL, &[]));
        let written = bytes(self.rate(&c::STORE_WRITTEN_BYTES, &[]));
        let (disk, free) = (self.sum(&c::STORE_DISK_BYTES, &[]), self.sum(&c::STORE_FREE_BYTES, &[]));
        let (disk, free) = (bytes(disk), bytes(free));
        self.line(format_args!("        queued {queued}   writing for {stall}   written/s {written}"));
        self.line(format_args!("        files {disk}   free {free}"));
    }

    /// A shard's load in percent.
    fn busy(&self, shard: &str) -> f64 {
        100.0 * self.rate(&c::SHARD_BUSY, &[("shard", shard)])
    }

    fn shards(&mut self, most: usize) {
        let mut shards: Vec<_> = self.now.values(c::SHARD_BUSY.name, "shard");
        let all = shards.len();
        if all > most {
            shards.sort_by(|a, b| self.busy(b).total_cmp(&self.busy(a)));
            shards.truncate(most);
        }
        let title = if all > most { format!("the busiest of {all} shards") } else { String::new() };
        self.line(format_args!("{title}"));
        self.line(format_args!(
            "{:<8}{:>6}{:>8}{:>8}{:>9}{:>9}{:>10}{:>9}{:>9}",
            "shard", "busy %", "tcp", "quic", "sends/s", "pushes/s", "in memory", "waiting", "mailbox"
        ));
        for shard in shards {
            let here = [("shard", shard.as_str())];
            let on = |transport| number(self.sum(&c::CONNECTIONS, &[here[0], ("transport", transport)]));
            self.line(format_args!(
                "{shard:<8}{:>6.0}{:>8}{:>8}{:>9}{:>9}{:>10}{:>9}{:>9}",
                self.busy(&shard),
                on("tcp"),
                on("quic"),
                number(self.rate(&c::SENDS, &here)),
                number(self.rate(&c::PUSHES, &here)),
                number(self.sum(&c::CONVERSATIONS, &here)),
                number(self.sum(&c::WAITING_SENDS, &here)),
                number(self.sum(&c::MAILBOX_MESSAGES, &here)),
            ));
        }
    }

    /// What should not happen and has: since the start, and in a second now.
    fn trouble(&mut self, columns: usize) {
        let kinds: [(&str, &c::Family, &str); 3] =
            [("errors", &c::ERRORS, "code"), ("drops", &c::DROPS, "reason"), ("cuts", &c::CUTS, "reason")];
        self.text.push('\n');
        for (title, family, label) in kinds {
            let mut line = format!("{title:<8}");
            let mut has_some = false;
            for value in self.now.values(family.name, label) {
                let labels = [(label, value.as_str())];
                let total = self.sum(family, &labels);
                if total > 0.0 {
                    let rate = number(self.rate(family, &labels));
                    let part = format!("{value} {} ({rate}/s)", number(total));
                    if has_some && line.len() + part.len() > columns {
                        self.line(format_args!("{}", line.trim_end()));
                        line = format!("{:<8}", "");
                    }
                    line += &part;
                    line += "   ";
                    has_some = true;
                }
            }
            let none = if has_some { "" } else { "none" };
            self.line(format_args!("{}", (line + none).trim_end()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Stamp;
    use crate::metrics::text;

    #[test]
    fn a_frame_fits_its_screen_whatever_has_happened() {
        let local = "tern_store_commits_total{result=\"committed\"} 7\n";
        let elsewhere = "tern_commits_total{result=\"ok\"} 7\n";
        for (page, lines, of_store) in [(local, 21, "syncs/s"), (elsewhere, 19, "conflicts/s")] {
            check_frames(page.to_owned(), lines, of_store);
        }
    }

    fn check_frames(mut page: String, lines: usize, of_store: &str) {
        for shard in 0..64 {
            page += &format!("tern_shard_busy_seconds_total{{shard=\"{shard}\"}} {shard}\n");
        }
        for code in ["overloaded", "rate_limited", "token_invalid", "unknown_conversation"] {
            page += &format!("tern_errors_total{{code=\"{code}\"}} 123456\n");
        }
        let samples = text::parse(&page).expect("good");
        let now = Reading { at: Stamp::take(), samples, state: String::new() };
        for (columns, rows) in [(80, 23), (120, 39), (80, 39)] {
            let frame = draw("title", &now, &now, columns, Some(rows));
            assert_eq!(frame.lines().count(), rows, "{frame}");
            assert!(frame.lines().all(|line| line.len() <= columns), "{frame}");
            assert!(frame.contains("busiest of 64 shards") && frame.contains("cuts    none"), "{frame}");
            assert!(frame.contains("unknown_conversation 123,456 (0/s)"), "{frame}");
            assert!(frame.contains(of_store), "{frame}");
        }
        assert_eq!(draw("title", &now, &now, 80, None).lines().count(), lines + SHARDS_SHOWN);
    }

    #[test]
    fn a_quantile_is_that_of_the_time_between() {
        let reading = |counts: [u64; 3]| {
            let line = |le: &str, n: u64| format!("tern_push_seconds_bucket{{le=\"{le}\"}} {n}\n");
            let text = line("0.001", counts[0]) + &line("0.01", counts[1]) + &line("+Inf", counts[2]);
            Reading { at: Stamp::take(), samples: text::parse(&text).expect("good"), state: String::new() }
        };
        let (before, now) = (reading([100, 100, 100]), reading([101, 199, 200]));
        let of = |share| now.quantile(&before, "tern_push_seconds", &[], share);
        assert_eq!(
            (of(0.01), of(0.5), of(0.99), of(1.0)),
            (Some(0.001), Some(0.01), Some(0.01), Some(f64::INFINITY))
        );
        assert_eq!(now.quantile(&now, "tern_push_seconds", &[], 0.5), None);
    }
}
