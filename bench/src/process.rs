//! What a process and the machine use, from /proc.

use std::time::Duration;

use crate::Error;

/// /proc counts CPU time in these, on every architecture that matters.
const TICKS_PER_SECOND: u64 = 100;
/// /proc/net counts memory in these, on the architectures that servers run on.
const PAGE_BYTES: u64 = 4096;

/// A process at one moment.
#[derive(Debug, Clone, Copy, Default)]
pub struct Usage {
    /// User and system time of all its threads, in steps of 10 ms.
    pub cpu: Duration,
    /// The system's part of it.
    pub system: Duration,
    /// Resident memory.
    pub rss_bytes: u64,
    /// The most that it ever was.
    pub rss_peak_bytes: u64,
}

/// What a process has used so far.
///
/// # Errors
/// When there is no such process.
pub fn usage(pid: u32) -> Result<Usage, Error> {
    let read = |file: &str| {
        let path = format!("/proc/{pid}/{file}");
        std::fs::read_to_string(&path).map_err(Error::io(format!("cannot read {path}")))
    };
    let (user, system) = cpu_ticks(&read("stat")?).ok_or(Error::Server("an odd /proc/PID/stat".into()))?;
    let status = read("status")?;
    let memory =
        |name| kilobytes(&status, name).ok_or_else(|| Error::Server(format!("process {pid} has ended")));
    let (now, peak) = (memory("VmRSS:")?, memory("VmHWM:")?);
    let time = |ticks| Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND);
    Ok(Usage {
        cpu: time(user + system),
        system: time(system),
        rss_bytes: now * 1024,
        rss_peak_bytes: peak * 1024,
    })
}

/// Files and sockets that a process has open; `None` when there is no such process, or it is somebody else's.
pub fn open_files(pid: u32) -> Option<u64> {
    std::fs::read_dir(format!("/proc/{pid}/fd")).ok().map(|files| files.count() as u64)
}

/// Memory that the kernel of this machine uses for sockets, as far as it says: TCP's buffers, and all of its small
/// objects (slab), of which sockets are those that a load generator makes more of. `None` where it does not say.
pub fn kernel_memory_bytes() -> Option<u64> {
    let sockets = std::fs::read_to_string("/proc/net/sockstat").ok()?;
    let memory = std::fs::read_to_string("/proc/meminfo").ok()?;
    Some(tcp_pages(&sockets)? * PAGE_BYTES + kilobytes(&memory, "Slab:")? * 1024)
}

/// Datagrams that arrived on this machine and were dropped because a socket's buffer was full, so far. `None` where the
/// kernel does not say.
pub fn datagrams_dropped() -> Option<u64> {
    udp_drops(&std::fs::read_to_string("/proc/net/snmp").ok()?)
}

fn udp_drops(snmp: &str) -> Option<u64> {
    let mut lines = snmp.lines().filter_map(|line| line.strip_prefix("Udp:"));
    let place = lines.next()?.split_whitespace().position(|name| name == "RcvbufErrors")?;
    lines.next()?.split_whitespace().nth(place)?.parse().ok()
}

fn tcp_pages(sockstat: &str) -> Option<u64> {
    let mut words = sockstat.lines().find_map(|line| line.strip_prefix("TCP:"))?.split_whitespace();
    words.find(|word| *word == "mem")?;
    words.next()?.parse().ok()
}

/// CPU time that all cores of this machine together have been busy.
///
/// # Errors
/// When /proc is not there.
pub fn machine_busy() -> Result<Duration, Error> {
    let stat = std::fs::read_to_string("/proc/stat").map_err(Error::io("cannot read /proc/stat"))?;
    let ticks = busy_ticks(&stat).ok_or(Error::Server("an odd /proc/stat".into()))?;
    Ok(Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND))
}

/// All of the first line but idle, waiting for a disk, and what guests use, which is in user time already.
fn busy_ticks(stat: &str) -> Option<u64> {
    let cpu = stat.lines().next()?.strip_prefix("cpu ")?;
    let ticks = cpu.split_whitespace().map(|field| field.parse().ok()).collect::<Option<Vec<u64>>>()?;
    let (idle, waiting, guests) = (3, 4, 8);
    let busy = ticks.iter().enumerate().filter(|(i, _)| *i != idle && *i != waiting && *i < guests);
    Some(busy.map(|(_, ticks)| ticks).sum())
}

fn cpu_ticks(stat: &str) -> Option<(u64, u64)> {
    // The name may hold anything, blanks and brackets included.
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split(' ').skip(11);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

fn kilobytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_is_understood() {
        let stat = "42 (a) b) S 1 42 42 0 -1 4194560 1 0 0 0 17 4 0 0 20 0 3 0 99 1 1 1";
        assert_eq!(cpu_ticks(stat), Some((17, 4)));
        assert_eq!(busy_ticks("cpu  1 2 4 100 200 8 16 32 400 800\ncpu0 1\n"), Some(63));
        assert_eq!(kilobytes("Name:\tx\nVmRSS:\t    5132 kB\nThreads:\t1\n", "VmRSS:"), Some(5132));
        let sockets = "sockets: used 9\nTCP: inuse 3 orphan 0 tw 1 alloc 4 mem 17\nUDP: inuse 0 mem 2\n";
        assert_eq!(tcp_pages(sockets), Some(17));
        let snmp = "Tcp: x\nTcp: 1\nUdp: InErrors RcvbufErrors\nUdp: 7 5\nUdpLite: InErrors\nUdpLite: 0\n";
        assert_eq!(udp_drops(snmp), Some(5));
    }

    #[test]
    fn this_process_uses_something() {
        assert!(usage(std::process::id()).expect("it exists").rss_bytes > 0);
        assert!(open_files(std::process::id()).expect("it exists") > 0);
        assert_eq!(open_files(u32::MAX), None);
    }
}
