//! What the system says of this process. Where it does not say it (not Linux), the numbers are missing from the page.

use std::fs;

/// The process now.
pub(super) struct Usage {
    /// In RAM.
    pub(super) resident_bytes: u64,
    /// User and system.
    pub(super) cpu_seconds: f64,
    /// Since 1970.
    pub(super) started: f64,
    /// Files and sockets.
    pub(super) open_files: u64,
    /// As many may be open; `None`: any number.
    pub(super) max_files: Option<u64>,
}

/// Reads it; `None` when the system has no such files.
pub(super) fn usage() -> Option<Usage> {
    // The fields behind the program's name, which may contain anything; the first is the third of proc_pid_stat(5).
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    let ticks_per_second = rustix::param::clock_ticks_per_second() as f64;
    let system = fs::read_to_string("/proc/stat").ok()?;
    let booted: f64 = system.lines().find_map(|line| line.strip_prefix("btime "))?.parse().ok()?;
    Some(Usage {
        resident_bytes: field(24)? * rustix::param::page_size() as u64,
        cpu_seconds: (field(14)? + field(15)?) as f64 / ticks_per_second,
        started: booted + field(22)? as f64 / ticks_per_second,
        // One of them is this directory.
        open_files: (fs::read_dir("/proc/self/fd").ok()?.count() as u64).saturating_sub(1),
        max_files: rustix::process::getrlimit(rustix::process::Resource::Nofile).current,
    })
}

#[cfg(test)]
mod tests {
    use std::time::{SystemTime, UNIX_EPOCH};

    use super::*;

    #[test]
    fn this_process_is_as_it_is() {
        let usage = usage().expect("the tests run on Linux");
        assert!((1 << 20..1 << 40).contains(&usage.resident_bytes), "{}", usage.resident_bytes);
        assert!(usage.open_files >= 3 && usage.max_files.is_none_or(|max| usage.open_files <= max));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs_f64();
        assert!(usage.started <= now + 1.0 && usage.started > now - 86_400.0, "{} at {now}", usage.started);
        assert!(usage.cpu_seconds >= 0.0);
    }
}
