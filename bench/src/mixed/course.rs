//! How the day goes: the server may be killed a few times in the first half of it, and what a message and the server
//! cost is noted in a part before that, one after it, and the last one, so that what grows is seen.

use std::path::Path;
use std::time::Duration;

use crate::Error;
use crate::fleet::{Fleet, Phase};
use crate::meter::Interval;
use crate::process;
use crate::run::Run;

/// Parts of the measured time. One each is noted; the kills are spread over four, and in one all come back.
const PARTS: u32 = 10;
const WITH_KILLS: u32 = 4;
const BETWEEN: u32 = 2;

/// The load, unmeasured, then measured, while the server is killed so many times.
///
/// # Errors
/// When the run cannot go on, or the server does not start again.
pub fn measure<R: Send + 'static>(run: &mut Run<'_>, fleet: &Fleet<R>, kills: u32) -> Result<(), Error> {
    run.enter(fleet, Phase::Warmup);
    run.hold(run.warmup())?;
    // A server that is gone takes all connections with it.
    run.all_may_leave = kills > 0;
    let part = run.duration() / PARTS;
    run.measure_while(fleet, |run| {
        note(run, "start", part)?;
        die(run, part * WITH_KILLS, kills)?;
        run.hold(part)?;
        note(run, "middle", part)?;
        run.hold(part * BETWEEN)?;
        note(run, "end", part)
    })
}

fn die(run: &mut Run<'_>, time: Duration, kills: u32) -> Result<(), Error> {
    if kills == 0 {
        return run.hold(time);
    }
    let mut down_most = Duration::ZERO;
    for _ in 0..kills {
        run.hold(time / kills)?;
        down_most = down_most.max(run.restart_server()?);
    }
    run.figure("server_kills", f64::from(kills));
    run.figure("server_down_most_ms", down_most.as_secs_f64() * 1e3);
    Ok(())
}

/// Latencies of this part, and what the server and the driver take up at its end.
fn note(run: &mut Run<'_>, name: &str, part: Duration) -> Result<(), Error> {
    let Interval { ack, deliver, .. } = run.sampler().measured().clone();
    run.hold(part)?;
    let measured = run.sampler().measured();
    let times = [("ack", measured.ack.since(&ack)), ("deliver", measured.deliver.since(&deliver))];
    for (what, times) in times {
        if times.count() > 0 {
            run.figure(&format!("{what}_{name}_p50_ms"), times.at_ms(0.5));
            run.figure(&format!("{what}_{name}_p99_ms"), times.at_ms(0.99));
        }
    }
    let server = run.server()?;
    let pid = server.pid();
    let processes =
        [("server", pid, server.usage()), ("driver", None, process::usage(std::process::id()).ok())];
    let stored = pid.is_some().then(|| bytes_below(server.data()));
    for (whose, pid, usage) in processes {
        if let Some(usage) = usage {
            run.figure(&format!("{whose}_rss_{name}_bytes"), usage.rss_bytes as f64);
        }
        if let Some(files) = pid.and_then(process::open_files) {
            run.figure(&format!("{whose}_open_files_{name}"), files as f64);
        }
    }
    if let Some(stored) = stored {
        run.figure(&format!("data_{name}_bytes"), stored as f64);
    }
    Ok(())
}

/// Bytes that the files below a directory take up on its disk. Those that go meanwhile count as nothing.
fn bytes_below(directory: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;

    const BLOCK_BYTES: u64 = 512;
    let items = std::fs::read_dir(directory).into_iter().flatten().flatten();
    items
        .map(|item| match item.metadata() {
            Ok(metadata) if metadata.is_dir() => bytes_below(&item.path()),
            Ok(metadata) => metadata.blocks() * BLOCK_BYTES,
            Err(_) => 0,
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_added_up() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        assert_eq!(bytes_below(directory.path()), 0);
        let below = directory.path().join("below");
        std::fs::create_dir(&below).expect("it can be made");
        for file in [directory.path().join("a"), below.join("b")] {
            std::fs::write(&file, [7; 8192]).expect("it can be written");
            // A disk has no room for it before.
            std::fs::File::open(&file).and_then(|file| file.sync_all()).expect("it can be synced");
        }
        assert!(bytes_below(directory.path()) >= 2 * 8192);
        assert_eq!(bytes_below(&directory.path().join("nothing")), 0);
    }
}
